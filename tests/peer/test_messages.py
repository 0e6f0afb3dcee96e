"""_messages.py: values whole, in order, bounded; what is no message is refused; a request ends with its stream."""

from __future__ import annotations

import datetime
import enum
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgpack
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from trishake import BadMessage, MessageChannel, MessageTooLarge, RequestFailed
from trishake._messages import MAX_DEPTH, MAX_SIZE, answer, request
from trishake.testing._by_hand import read_to_end

from .conftest import (
    ADA,
    EVERY_TRANSPORT,
    MEMORY_AND_TCP,
    StreamPair,
    StreamPairMaker,
    cancelled_at,
    lockstep_pair,
    memory_pair,
    reset,
    tcp_pair,
)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def packed(value: object) -> bytes:
    return framed(msgpack.packb(value))


def nested(depth: int) -> object:
    value: object = None
    for level in range(depth):
        value = {"k": value} if level % 2 else [value]
    return value


async def channels(transport: StreamPairMaker = memory_pair) -> tuple[MessageChannel, MessageChannel]:
    here, there = await transport()
    return MessageChannel(here), MessageChannel(there)


async def receiving(data: bytes, *, end: bool = True, max_size: int = MAX_SIZE) -> MessageChannel:
    """A channel to which these bytes came."""
    here, there = memory_stream_pair()
    await there.send_all(data)
    if end:
        await there.send_eof()
    return MessageChannel(here, max_size=max_size)


async def everything(channel: MessageChannel) -> list[Any]:
    return [value async for value in channel]


# --- values ---------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
KEYS = st.text() | st.integers(-(2**63), 2**64 - 1) | st.binary()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=10)


@settings(max_examples=40)
@given(values=st.lists(VALUES, max_size=4), data=st.data())
def test_every_value_arrives_in_any_segmentation(values: list[object], data: st.DataObject) -> None:
    async def run() -> None:
        here, there = memory_stream_pair()
        sent = MessageChannel(there)
        for value in values:
            await sent.send(value)
        await sent.send_eof()
        wire = await read_to_end(here)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
        here, there = memory_stream_pair()
        async with trio.open_nursery() as nursery:

            async def feed() -> None:
                for start, stop in zip([0, *cuts], [*cuts, len(wire)], strict=True):
                    await there.send_all(wire[start:stop])
                    await wait_all_tasks_blocked()
                await there.send_eof()

            nursery.start_soon(feed)
            assert await everything(MessageChannel(here)) == values

    trio.run(run)


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ((1, (2,)), [1, [2]]),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (Colour.RED, 1),
        ({1: "int", "1": "str", b"1": "bytes"}, {1: "int", "1": "str", b"1": "bytes"}),
        (nested(MAX_DEPTH), nested(MAX_DEPTH)),
        ("\x00\U0001f600", "\x00\U0001f600"),
    ],
    ids=[
        "tuples",
        "bytearray",
        "memoryview",
        "IntEnum",
        "keys of each type",
        "as deep as may be",
        "any character",
    ],
)
async def test_what_arrives_is_of_the_plain_type(sent: object, arrives: object) -> None:
    ada, bob = await channels()
    await ada.send(sent)
    received = await bob.receive()
    assert received == arrives
    assert type(received) is type(arrives)


async def test_a_nan_arrives_as_one() -> None:
    ada, bob = await channels()
    await ada.send(math.nan)
    assert math.isnan(await bob.receive())


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({1, 2}, TypeError, "a set is in it"),
        (object(), TypeError, "a object is in it"),
        ([{"when": datetime.datetime.now(datetime.UTC)}], TypeError, "a datetime is in it"),
        (2**64, ValueError, "an int below"),
        ([-(2**63) - 1], ValueError, "an int below"),
        ("\ud800", ValueError, "surrogates"),
        (msgpack.ExtType(1, b"x"), ValueError, "ext"),
        (msgpack.ExtType(1, b""), ValueError, "ext of type 1"),
        (msgpack.Timestamp(1), ValueError, "ext"),
        ({None: 1}, ValueError, "a key that is a NoneType"),
        ({True: 1}, ValueError, "a key that is a bool"),
        ({1.0: 1}, ValueError, "a key that is a float"),
        ({(1, 2): 1}, ValueError, "a key that is a list"),
        (nested(MAX_DEPTH + 1), ValueError, "nested deeper than 64"),
        (nested(3000), ValueError, "cannot be sent"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_cannot_be_sent_is_refused_and_nothing_is_sent(
    value: object, error: type[Exception], words: str
) -> None:
    ada, bob = await channels()
    with pytest.raises(error, match=words) as caught:
        await ada.send(value)
    assert str(caught.value).startswith("this value cannot be sent: ")
    await ada.send("the next")
    assert await bob.receive() == "the next"


async def test_a_list_that_holds_itself_is_refused() -> None:
    ada, _ = await channels()
    ring: list[object] = []
    ring += [ring, ring]
    with pytest.raises(ValueError, match="cannot be sent"):
        await ada.send(ring)


# --- bounds ---------------------------------------------------------------------------------------------


async def test_a_message_of_the_largest_size_passes_and_one_byte_more_is_not_sent() -> None:
    here, there = memory_stream_pair()
    ada, bob = MessageChannel(here, max_size=100), MessageChannel(there, max_size=100)
    await ada.send(b"x" * 98)
    with pytest.raises(MessageTooLarge, match="a message of 101 bytes was not sent, the limit is 100") as caught:
        await ada.send(b"x" * 99)
    assert (caught.value.size, caught.value.limit, caught.value.by_peer) == (101, 100, False)
    assert isinstance(caught.value, ValueError)
    await ada.send(1)
    assert await bob.receive() == b"x" * 98
    assert await bob.receive() == 1


@pytest.mark.parametrize("size", [101, 2**32 - 1])
async def test_a_length_above_the_limit_is_refused_before_anything_of_it_has_come(size: int) -> None:
    channel = await receiving(packed("first") + size.to_bytes(4, "big"), end=False, max_size=100)
    assert await channel.receive() == "first"
    for _ in range(2):
        with pytest.raises(MessageTooLarge, match=f"{size} bytes, the limit here is 100") as caught:
            await channel.receive()
        assert (caught.value.size, caught.value.limit, caught.value.by_peer) == (size, 100, True)


@pytest.mark.parametrize("max_size", [0, -1, 2**32])
async def test_a_limit_that_no_length_can_have_is_refused(max_size: int) -> None:
    with pytest.raises(ValueError, match="max_size"):
        MessageChannel(memory_stream_pair()[0], max_size=max_size)


async def test_no_more_is_buffered_than_a_message_and_a_chunk() -> None:
    class Greedy(Chunks):
        most = 0

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            assert max_bytes is not None
            self.most = max(self.most, max_bytes)
            return await super().receive_some(max_bytes)

    stream = Greedy([framed(b"\xc4\x10" + b"x" * 16)])
    assert await MessageChannel(stream).receive() == b"x" * 16
    assert stream.most <= 2**16


class Chunks(trio.abc.Stream):
    """Gives these chunks, then the end; remembers what is sent."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.sent = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.chunks.pop(0) if self.chunks else b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_many_small_messages_in_one_chunk_cost_no_copy_of_the_rest_each() -> None:
    """Of 64 MiB, copied for each of 20,000 messages, nobody would live to see the end."""
    count, filler = 20_000, framed(b"\xc6" + (2**26).to_bytes(4, "big") + bytes(2**26))
    channel = MessageChannel(Chunks([packed(7) * count + filler]), max_size=2**27)
    started = trio.current_time()
    for _ in range(count):
        assert await channel.receive() == 7
    assert trio.current_time() - started < 10


# --- what is no message ---------------------------------------------------------------------------------

ONE_MILLION_LISTS = b"\xdd\x00\x01\x00\x00" * 1000
NO_MESSAGE: Final[list[tuple[str, bytes, str]]] = [
    ("nothing", b"", "ends inside"),
    ("a byte that msgpack never uses", b"\xc1", "never uses"),
    ("the same, deep inside", b"\x92\x01\x81\xa1k\xc1", "never uses"),
    ("a str cut off", b"\xa5abc", "ends inside"),
    ("a huge str", b"\xdb\xff\xff\xff\xffabc", "ends inside"),
    ("a huge bin", b"\xc6\xff\xff\xff\xffabc", "ends inside"),
    ("a huge array", b"\xdd\xff\xff\xff\xff", "ends inside"),
    ("a huge map", b"\xdf\xff\xff\xff\xff", "ends inside"),
    ("huge arrays in one another", ONE_MILLION_LISTS, "ends inside"),
    ("an int cut off", b"\xcf\x00", "ends inside"),
    ("one value more", b"\x01\x02", "1 bytes follow"),
    ("65 deep", b"\x91" * 65 + b"\xc0", "nested deeper than 64"),
    ("65 deep, and empty", b"\x91" * 64 + b"\x90", "nested deeper than 64"),
    ("65 maps deep", b"\x81\x01" * 65 + b"\xc0", "nested deeper than 64"),
    ("1000 deep", b"\x91" * 1000 + b"\xc0", "nested deeper than 64"),
    ("a million deep", b"\x91" * 1_000_000 + b"\xc0", "nested deeper than 64"),
    ("a million maps deep as keys", b"\x81" * 1_000_000 + b"\xc0", "nested deeper than 64"),
    ("an ext", b"\xd4\x05a", "ext"),
    ("an empty ext", b"\xc7\x00\x05", "ext of type 5"),
    ("a timestamp", b"\xd6\xff\x00\x00\x00\x01", "ext"),
    ("an empty timestamp", b"\xc7\x00\xff", "timestamp"),
    ("invalid UTF-8", b"\xa2\xff\xfe", "utf-8"),
    ("a surrogate", b"\xa3\xed\xa0\x80", "utf-8"),
    ("a key that is a list", b"\x81\x90\x01", "a key that is a list"),
    ("a key that is a map", b"\x81\x80\x01", "a key that is a dict"),
    ("a key that is nil", b"\x81\xc0\x01", "a key that is a NoneType"),
    ("a key that is a bool", b"\x81\xc3\x01", "a key that is a bool"),
    ("a key that is a float", b"\x81\xca\x00\x00\x00\x00\x01", "a key that is a float"),
    ("a key twice", b"\x82\x01\x02\x01\x03", "a key that is there twice"),
    ("a key twice, in two encodings", b"\x82\x01\x02\xcc\x01\x03", "a key that is there twice"),
]


@pytest.mark.parametrize(("data", "words"), [row[1:] for row in NO_MESSAGE], ids=[row[0] for row in NO_MESSAGE])
async def test_what_is_no_value_is_refused_and_nothing_comes_after_it(data: bytes, words: str) -> None:
    channel = await receiving(packed("before") + framed(data) + packed("after"))
    assert await channel.receive() == "before"
    for _ in range(2):
        with pytest.raises(BadMessage, match=words) as caught:
            await channel.receive()
        assert str(caught.value).startswith("the other side sent what is no message: ")
    await channel.send("the other direction goes on")


async def test_what_arrays_announce_is_allocated_only_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand arrays in one another, each of 65536: half a gigabyte of room, for five thousand bytes."""
    monkeypatch.setattr("trishake._messages._unpackb", None)  # which would allocate
    channel = await receiving(framed(ONE_MILLION_LISTS))
    with pytest.raises(BadMessage):
        await channel.receive()


@given(data=st.binary(max_size=40))
def test_whatever_comes_is_a_value_or_a_bad_message(data: bytes) -> None:
    async def run() -> None:
        channel = await receiving(framed(data))
        try:
            value = await channel.receive()
        except BadMessage:
            return
        await channel.send(value)

    trio.run(run)


# --- the end --------------------------------------------------------------------------------------------


@EVERY_TRANSPORT
async def test_the_end_between_two_messages_is_the_end_of_the_channel(transport: StreamPairMaker) -> None:
    ada, bob = await channels(transport)
    async with trio.open_nursery() as nursery:

        async def talk() -> None:
            await ada.send(1)
            await ada.send(None)
            await ada.aclose()

        nursery.start_soon(talk)
        assert await everything(bob) == [1, None]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await bob.receive()


@EVERY_TRANSPORT
async def test_one_way_can_end_while_the_other_goes_on(transport: StreamPairMaker) -> None:
    ada, bob = await channels(transport)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            await ada.send("ask")
            await ada.send_eof()
            assert await everything(ada) == ["answer"]

        nursery.start_soon(ask)
        assert await everything(bob) == ["ask"]
        await bob.send("answer")
        await bob.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ada.send("after the end")


async def test_a_stream_that_cannot_half_close_says_so() -> None:
    with pytest.raises(TypeError, match="Chunks cannot half-close"):
        await MessageChannel(Chunks([])).send_eof()


@pytest.mark.parametrize("kept", [1, 3, 4, 5, 8])
async def test_the_end_inside_a_message_is_a_broken_stream(kept: int) -> None:
    channel = await receiving(packed(1) + packed("hello")[:kept])
    assert await channel.receive() == 1
    what = f"{kept} of the 4 of its length" if kept < 4 else f"{kept} of its 10 bytes"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match=f"in the middle of a message, after {what}"):
            await channel.receive()


async def test_a_reset_comes_through_as_it_is() -> None:
    here, there = await tcp_pair()
    channel = MessageChannel(here)
    await reset(there)
    with pytest.raises(trio.BrokenResourceError):
        await channel.receive()


async def test_after_closing_every_call_says_that_it_was_closed_here() -> None:
    ada, bob = await channels()
    await bob.send("unread")
    await bob.send("unread too")
    await ada.receive()
    await ada.aclose()
    await ada.aclose()
    for call in (ada.receive, lambda: ada.send(1), ada.send_eof):
        with pytest.raises(trio.ClosedResourceError, match="closed here"):
            await call()


@EVERY_TRANSPORT
async def test_closing_wakes_all_who_receive(transport: StreamPairMaker) -> None:
    ada, _bob = await channels(transport)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ada.receive()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await ada.aclose()


# --- many at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", [lockstep_pair, lambda: tcp_pair(4096)], ids=["lockstep", "tcp"])
async def test_many_senders_never_mix_their_messages(transport: StreamPairMaker) -> None:
    ada, bob = await channels(transport)
    received: list[tuple[int, int]] = []

    async def send(who: int) -> None:
        for number in range(10):
            await ada.send([who, number, bytes([who]) * 3000])

    async with trio.open_nursery() as nursery:
        for who in range(10):
            nursery.start_soon(send, who)
        for _ in range(100):
            who, number, filler = await bob.receive()
            assert filler == bytes([who]) * 3000
            received.append((who, number))
    for who in range(10):
        assert [number for sender, number in received if sender == who] == list(range(10))


async def test_senders_are_served_in_turn() -> None:
    ada, bob = await channels(lockstep_pair)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ada.send, number)
            await wait_all_tasks_blocked()
        assert [await bob.receive() for _ in range(5)] == list(range(5))


async def test_each_message_goes_to_one_of_many_receivers() -> None:
    ada, bob = await channels()
    received: list[int] = []

    async def collect() -> None:
        async for value in bob:
            received.append(value)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(collect)
        for number in range(100):
            await ada.send(number)
        await ada.aclose()
    assert sorted(received) == list(range(100))


# --- cancellation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 30))
async def test_a_cancelled_receive_loses_nothing(step: int) -> None:
    wire = b"".join(packed(number) for number in range(300, 303))
    here, there = memory_stream_pair()
    channel = MessageChannel(here)
    received: list[int] = []

    async def collect() -> None:
        async for value in channel:
            received.append(value)

    async with trio.open_nursery() as nursery:

        async def feed() -> None:
            for byte in wire:
                await there.send_all(bytes([byte]))
                await wait_all_tasks_blocked()
            await there.send_eof()

        nursery.start_soon(feed)
        assert await cancelled_at(step, collect)
        await collect()
    assert received == [300, 301, 302]


@pytest.mark.parametrize("transport", [lockstep_pair, memory_pair], ids=["lockstep", "memory"])
@pytest.mark.parametrize("step", range(1, 12))
async def test_a_cancelled_send_leaves_whole_messages_or_a_torn_channel(
    transport: StreamPairMaker, step: int
) -> None:
    ada, bob = await channels(transport)
    received: list[Any] = []

    async def collect() -> None:
        with suppress(trio.BrokenResourceError):  # the end inside a message
            async for value in bob:
                received.append(value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect)
        await wait_all_tasks_blocked()
        await cancelled_at(step, lambda: ada.send("first"))
        try:
            await ada.send("second")
        except trio.BrokenResourceError as error:
            ends = ([], ["first"])
            refusal = str(error)
        else:
            ends = (["second"], ["first", "second"])
            refusal = ""
        await ada.aclose()
    assert received in ends
    assert refusal.startswith("an earlier send was cancelled" if refusal else "")


async def test_a_send_cancelled_in_the_middle_tears_the_channel() -> None:
    ada, bob = await channels(lockstep_pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.send, "cut off")
        await wait_all_tasks_blocked()
        assert await bob.stream.receive_some(3) == b"\x00\x00\x00"
        nursery.cancel_scope.cancel()
    for call in (lambda: ada.send("next"), ada.send_eof):
        with pytest.raises(trio.BrokenResourceError, match="cancelled in the middle of its message"):
            await call()


async def test_a_send_cancelled_while_it_waits_for_its_turn_has_sent_nothing() -> None:
    ada, bob = await channels(lockstep_pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.send, "first")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(ada.send, "never")
            await wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        nursery.start_soon(ada.send, "second")
        assert await bob.receive() == "first"
        assert await bob.receive() == "second"


async def test_a_send_cancelled_before_the_stream_is_asked_tears_nothing() -> None:
    ada, bob = await channels()
    assert await cancelled_at(1, lambda: ada.send("first"))
    await ada.send("second")
    assert await bob.receive() == "second"


async def test_a_stream_that_breaks_under_a_send_says_so_itself() -> None:
    ada, bob = await channels()
    await bob.aclose()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ada.send(1)
        assert "cancelled" not in str(caught.value)


async def test_every_call_is_a_checkpoint() -> None:
    ada, bob = await channels()
    await ada.send(1)
    await ada.send(2)
    for call in (lambda: ada.send(3), bob.receive, bob.receive, ada.send_eof, ada.aclose):
        with trio.testing.assert_checkpoints():
            await call()


# --- requests -------------------------------------------------------------------------------------------


async def double(value: Any, peer: object) -> Any:
    return value * 2


async def never(value: object, peer: object) -> None:
    await trio.sleep_forever()


def fails(error: BaseException) -> Callable[[Any, Any], Awaitable[object]]:
    async def function(value: object, peer: object) -> object:
        raise error

    return function


async def ask(streams: StreamPair, function: Callable[[Any, Any], Awaitable[object]], value: object = 21) -> Any:
    """What the requester gets, or the RequestFailed that he sees."""
    failed: RequestFailed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, streams[1], function)
        try:
            return await request(streams[0], value)
        except RequestFailed as error:
            failed = error
    raise failed


async def failure(error: BaseException) -> RequestFailed:
    """What the requester sees of it."""
    with pytest.raises(RequestFailed) as caught:
        await ask(await memory_pair(), fails(error))
    return caught.value


@EVERY_TRANSPORT
async def test_a_request_returns_what_the_function_returns_and_both_ends_close(
    transport: StreamPairMaker,
) -> None:
    here, there = await transport()
    assert await ask((here, there), double) == 42
    for stream in (here, there):
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")


async def test_a_request_and_its_reply_are_one_message_each() -> None:
    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, double)
        await here.send_all(packed(4))
        assert await read_to_end(here) == packed([0, 8])
    assert packed([0, 8]).hex() == "00000003920008"


async def test_a_reply_may_be_none() -> None:
    async def nothing(value: object, peer: object) -> None:
        return None

    assert await ask(await memory_pair(), nothing) is None


async def test_a_function_knows_who_asks_and_a_requester_who_failed() -> None:
    here, there = await memory_pair()
    here.peer = there.peer = ADA.id  # type: ignore[attr-defined]

    async def refuse(value: object, peer: object) -> None:
        raise RequestFailed("no", f"not for {peer}")

    with pytest.raises(RequestFailed) as caught:
        await ask((here, there), refuse)
    failed = caught.value
    assert failed.text == f"not for {ADA.id}"
    assert failed.peer == ADA.id
    assert str(ADA.id) in str(failed)


# --- the function fails


async def test_a_refusal_on_purpose_arrives_with_kind_and_text() -> None:
    failed = await failure(RequestFailed("not-found", "no file\n\x1b[31m"))
    assert (failed.kind, failed.text, failed.by_peer) == ("not-found", "no file\n\x1b[31m", True)
    assert str(failed) == (
        "request failed: at the other side, the function that answers refused it "
        '(not-found: "no file\\n\\x1b[31m"). Change the request as the kind says.'
    )


async def test_an_error_in_the_function_is_logged_here_and_not_told_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = await failure(KeyError("the password is 1234"))
    assert (failed.kind, failed.text) == ("failed", "")
    assert str(failed).endswith("(failed). The log over there has it.")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("trishake", logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ExceptionGroup("", [RequestFailed("first"), RequestFailed("second")]), "first"),
        (ExceptionGroup("", [ExceptionGroup("", [RequestFailed("inner")]), RequestFailed("b")]), "inner"),
        (ExceptionGroup("", [RequestFailed("first"), ValueError()]), "failed"),
        (ExceptionGroup("", [RequestFailed("first"), RequestFailed("theirs", by_peer=True)]), "failed"),
        (RequestFailed("theirs", "of a third peer", by_peer=True), "failed"),
        (trio.BrokenResourceError("some other stream"), "failed"),
        (trio.EndOfChannel(), "failed"),
        (trio.TooSlowError(), "failed"),
    ],
    ids=repr,
)
async def test_only_what_the_function_says_itself_is_passed_on(error: Exception, kind: str) -> None:
    failed = await failure(error)
    assert (failed.kind, failed.text) == (kind, "")


async def test_the_text_of_a_refusal_is_cut_at_its_bound() -> None:
    failed = await failure(RequestFailed("k" * 64, "x" + "ä" * 1000 + "\ud800"))
    assert failed.text == "x" + "ä" * 511


@pytest.mark.parametrize("kind", ["", "two words", "k" * 65, "ä", "line\n", "\x7f"])
def test_a_kind_is_a_short_word(kind: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        RequestFailed(kind)


@pytest.mark.parametrize("result", [{1, 2}, 2**64, {None: 1}, "\ud800", b"x" * MAX_SIZE])
async def test_a_result_that_cannot_be_sent_is_logged_and_the_requester_told_that(
    result: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def function(value: object, peer: object) -> object:
        return result

    with pytest.raises(RequestFailed, match="bad-result"):
        await ask(await memory_pair(), function)
    assert len(caplog.records) == 1


# --- one of them breaks the rules


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (packed(1)[:3] + b"\x05" + b"\xc1" * 5, "never uses"),
        ((MAX_SIZE + 1).to_bytes(4, "big"), f"{MAX_SIZE + 1} bytes"),
    ],
)
async def test_a_request_that_is_none_is_told_so(said: bytes, words: str) -> None:
    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, never)
        await here.send_all(said)
        status, kind, text = await MessageChannel(here).receive()
    assert (status, kind) == (1, "bad-request")
    assert words in text


@MEMORY_AND_TCP
async def test_a_request_above_the_other_sides_limit_fails_with_the_reason(transport: StreamPairMaker) -> None:
    """Over TCP, and with a request that fills the buffers, the reset may win: that is a broken stream."""
    here, there = await transport()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: answer(there, never, max_size=2048))
        with pytest.raises((RequestFailed, trio.BrokenResourceError)) as caught:
            await request(here, b"x" * 2048)
    if transport is memory_pair:
        assert "bad-request" in str(caught.value)


async def test_a_reply_that_came_before_the_stream_broke_under_the_request_is_read() -> None:
    here, there = memory_stream_pair()
    await there.send_all(packed([1, "bad-request", "too large"]))
    await there.aclose()
    with pytest.raises(RequestFailed, match="too large"):
        await request(here, 1)


async def test_without_such_a_reply_a_request_says_what_broke() -> None:
    here, there = memory_stream_pair()
    await there.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await request(here, 1)
    assert "without a reply" not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        packed(7),
        packed([]),
        packed([0]),
        packed([0, 1, 2]),
        packed([2, 1]),
        packed([False, 1]),
        packed([0.0, 1]),
        packed([True, "k", "t"]),
        packed([1, "kind"]),
        packed([1, "", "text"]),
        packed([1, "two words", "text"]),
        packed([1, b"kind", "text"]),
        packed([1, "kind", None]),
        packed([1, "kind", "ä" * 513]),
        packed({0: 1}),
        framed(b"\xc1"),
    ],
    ids=lambda reply: reply[4:24].hex(),
)
async def test_a_reply_that_is_none_is_a_bad_message(reply: bytes) -> None:
    here, there = memory_stream_pair()
    await there.send_all(reply)
    with pytest.raises(BadMessage):
        await request(here, 1)


@pytest.mark.parametrize(
    ("reply", "words"), [(b"", "without a reply"), (packed([0, 1])[:5], "in the middle of a message")]
)
async def test_a_stream_that_ends_without_a_reply_is_broken(reply: bytes, words: str) -> None:
    here, there = memory_stream_pair()
    await there.send_all(reply)
    await there.send_eof()
    with pytest.raises(trio.BrokenResourceError, match=words):
        await request(here, 1)


async def test_a_request_that_cannot_be_sent_closes_its_stream() -> None:
    here, there = memory_stream_pair()
    with pytest.raises(TypeError, match="a set is in it"):
        await request(here, {1})
    assert await there.receive_some() == b""


@pytest.mark.parametrize("max_size", [0, 2047])
async def test_a_limit_into_which_no_failure_fits_is_refused(max_size: int) -> None:
    here, there = memory_stream_pair()
    for call in (lambda: request(here, 1, max_size=max_size), lambda: answer(there, never, max_size=max_size)):
        with pytest.raises(ValueError, match="at least 2048"):
            await call()


# --- the requester leaves


class Function:
    """Runs until it is cancelled; remembers that it was."""

    def __init__(self, then: BaseException | None = None) -> None:
        self.running = trio.Event()
        self.cancelled = False
        self._then = then

    async def __call__(self, value: object, peer: object) -> object:
        self.running.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled = True
            if self._then is not None:
                raise self._then from None
            raise


@EVERY_TRANSPORT
async def test_a_cancelled_request_cancels_the_function(transport: StreamPairMaker) -> None:
    here, there = await transport()
    function = Function()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, function)
        async with trio.open_nursery() as requester:
            requester.start_soon(request, here, 1)
            await function.running.wait()
            requester.cancel_scope.cancel()
    assert function.cancelled


async def half_close(stream: Any) -> None:
    await stream.send_eof()


async def talk_on(stream: Any) -> None:
    await stream.send_all(packed("more"))


async def talk_nonsense(stream: Any) -> None:
    await stream.send_all(framed(b"\xc1"))


async def talk_at_length(stream: Any) -> None:
    await stream.send_all(b"\xff" * 4)


async def leave_in_the_middle(stream: Any) -> None:
    await stream.send_all(packed("more")[:5])
    await stream.send_eof()


@pytest.mark.parametrize(
    "leave", [half_close, trio.aclose_forcefully, talk_on, talk_nonsense, talk_at_length, leave_in_the_middle]
)
@MEMORY_AND_TCP
async def test_a_requester_who_leaves_or_talks_on_cancels_the_function_and_gets_nothing(
    transport: StreamPairMaker, leave: Callable[[Any], Awaitable[None]]
) -> None:
    here, there = await transport()
    function = Function()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, function)
        await here.send_all(packed(1))
        await function.running.wait()
        await leave(here)
    assert function.cancelled
    if leave is not trio.aclose_forcefully:
        assert await read_to_end(here) == b""


async def test_a_reset_by_the_requester_cancels_the_function() -> None:
    here, there = await tcp_pair()
    function = Function()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, function)
        await here.send_all(packed(1))
        await function.running.wait()
        await reset(here)
    assert function.cancelled


async def test_what_was_said_together_with_the_request_counts_too() -> None:
    here, there = memory_stream_pair()
    function = Function()
    await here.send_all(packed(1) + packed(2))
    await answer(there, function)
    assert await read_to_end(here) == b""


async def test_a_function_that_fails_when_its_requester_leaves_brings_nobody_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def clean_up_badly(value: object, peer: object) -> None:
        async with trio.open_nursery() as nursery:  # its group holds Cancelled and the error
            nursery.start_soon(trio.sleep_forever)
            await Function(then=ValueError("while cleaning up"))(value, peer)

    here, there = memory_stream_pair()
    await here.send_all(packed(1))
    await here.send_eof()
    await answer(there, clean_up_badly)
    assert await read_to_end(here) == b""
    assert len(caplog.records) == 1


async def test_a_function_that_will_not_be_cancelled_has_its_result_thrown_away() -> None:
    async def stubborn(value: object, peer: object) -> object:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()
        return value

    here, there = memory_stream_pair()
    await here.send_all(packed(1))
    await here.send_eof()
    await answer(there, stubborn)
    assert await read_to_end(here) == b""


@pytest.mark.parametrize("said", [b"", packed("request")[:2], packed("request")[:7]])
async def test_a_requester_who_leaves_before_he_has_asked_is_no_error(said: bytes) -> None:
    here, there = memory_stream_pair()
    await here.send_all(said)
    await here.send_eof()
    await answer(there, never)
    assert await read_to_end(here) == b""


async def test_a_requester_who_leaves_while_the_reply_is_written_is_no_error() -> None:
    here, there = await lockstep_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, double)
        await here.send_all(packed(1))
        await here.receive_some(1)
        await here.aclose()


async def test_closing_the_stream_on_our_side_ends_the_function_too() -> None:
    here, there = memory_stream_pair()
    function = Function()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, function)
        await here.send_all(packed(1))
        await function.running.wait()
        await there.aclose()
    assert function.cancelled


# --- how the stream is closed


class Closing(Chunks):
    """Has no end of its own; remembers how it was closed first."""

    how = ""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self.chunks:
            await trio.sleep_forever()
        return await super().receive_some(max_bytes)

    async def aclose(self) -> None:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self.how = self.how or "at once"
            raise
        self.how = self.how or "gracefully"


async def test_a_stream_whose_request_was_answered_is_closed_gracefully_on_both_sides() -> None:
    asking, answering = Closing([packed([0, 2])]), Closing([packed(1)])
    assert await request(asking, 1) == 2
    await answer(answering, double)
    assert (asking.sent, answering.sent) == (packed(1), packed([0, 2]))
    assert (asking.how, answering.how) == ("gracefully", "gracefully")


@pytest.mark.parametrize("call", [lambda stream: request(stream, 1), lambda stream: answer(stream, never)])
async def test_a_stream_whose_request_was_cancelled_is_closed_at_once(
    call: Callable[[trio.abc.Stream], Awaitable[Any]],
) -> None:
    stream = Closing([])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, stream)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert stream.how == "at once"


# --- cancelled at every step


@pytest.mark.parametrize("transport", [memory_pair, lockstep_pair], ids=["memory", "lockstep"])
@pytest.mark.parametrize("step", range(1, 40))
async def test_a_request_cancelled_at_any_step_ends_both_sides(transport: StreamPairMaker, step: int) -> None:
    here, there = await transport()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, there, double)
        await cancelled_at(step, lambda: request(here, 1))
    for stream in (here, there):
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


@pytest.mark.parametrize("transport", [memory_pair, lockstep_pair], ids=["memory", "lockstep"])
@pytest.mark.parametrize("step", range(1, 40))
async def test_an_answer_cancelled_at_any_step_leaves_a_reply_or_a_broken_stream(
    transport: StreamPairMaker, step: int
) -> None:
    here, there = await transport()
    async with trio.open_nursery() as nursery:

        async def requester() -> None:
            try:
                assert await request(here, 1) == 2
            except trio.BrokenResourceError:
                assert cancelled

        nursery.start_soon(requester)
        cancelled = True
        cancelled = await cancelled_at(step, lambda: answer(there, double))
    for stream in (here, there):
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
