"""check_handler, check_request: right ones keep every promise, and one that breaks a promise is told which."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    BadMessage,
    ConnectionClosed,
    Limits,
    MessageChannel,
    MessageTooLarge,
    RequestFailed,
    Stream,
    StreamHandler,
)
from trishake.testing._handler import check_handler, check_request

WORDS: Final = (b"hello", b"x" * 40, b"bye")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Handlers that fail at garbage are logged, as they should be."""
    caplog.set_level(logging.CRITICAL, logger="trishake")


async def expect(stream: Stream, expected: bytes) -> None:
    received = b""
    while len(received) < len(expected):
        data = await stream.receive_some(len(expected) - len(received))
        assert data, f"the stream ended after {received!r}"
        received += data
    assert received == expected


async def receive_exactly(stream: Stream, length: int) -> bytes:
    """Fewer at the end of the stream."""
    received = b""
    while len(received) < length and (data := await stream.receive_some(length - len(received))):
        received += data
    return received


# --- handlers that are right ----------------------------------------------------------------------------


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def say_words(stream: Stream) -> None:
    for word in WORDS:
        await stream.send_all(word)
        await expect(stream, word)


async def say_words_and_end(stream: Stream) -> None:
    await stream.send_all(b"".join(WORDS))
    await stream.send_eof()
    await expect(stream, b"".join(WORDS))
    assert await stream.receive_some() == b""


async def say_much_at_the_same_time(stream: Stream) -> None:
    much = bytes(range(256)) * 1200
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, much)
        await expect(stream, much)


async def say_and_hear_at_the_same_time(stream: Stream) -> None:
    async def say() -> None:
        for _ in range(40):
            await stream.send_all(bytes(50))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(say)
        await expect(stream, bytes(2000))


async def say_nothing(stream: Stream) -> None:
    assert await stream.receive_some() == b""


async def doubles(stream: Stream) -> None:
    channel = MessageChannel(stream)
    try:
        async for number in channel:
            await channel.send(2 * number)
    except (BadMessage, MessageTooLarge):
        await trio.aclose_forcefully(stream)


async def have_numbers_doubled(stream: Stream) -> None:
    channel = MessageChannel(stream)
    for number in range(5):
        await channel.send(number)
        assert await channel.receive() == 2 * number


async def speaks_first(stream: Stream) -> None:
    await stream.send_all(b"who is there?")
    if name := await stream.receive_some():
        await stream.send_all(b"!" + name[:1])


async def introduce_oneself(stream: Stream) -> None:
    await expect(stream, b"who is there?")
    await stream.send_all(b"a")
    await expect(stream, b"!a")


async def gives_a_file(stream: Stream) -> None:
    if await receive_exactly(stream, 4) == b"file":
        await stream.send_all(bytes(300_000))


async def fetch_the_file(stream: Stream) -> None:
    await stream.send_all(b"file")
    await expect(stream, bytes(300_000))
    assert await stream.receive_some() == b""


async def takes_a_file(stream: Stream) -> None:
    while await stream.receive_some():
        pass
    await stream.send_all(b"thanks")


async def give_a_file(stream: Stream) -> None:
    await stream.send_all(bytes(300_000))
    await stream.send_eof()
    await expect(stream, b"thanks")


async def ends_at_once(stream: Stream) -> None:
    pass


@pytest.mark.parametrize(
    ("handler", "conversation"),
    [
        (echo, say_words),
        pytest.param(echo, say_and_hear_at_the_same_time, marks=pytest.mark.slow),
        pytest.param(echo, say_words_and_end, marks=pytest.mark.slow),
        (doubles, have_numbers_doubled),
        pytest.param(speaks_first, introduce_oneself, marks=pytest.mark.slow),
        (ends_at_once, say_nothing),
        pytest.param(gives_a_file, fetch_the_file, marks=pytest.mark.slow),
        pytest.param(takes_a_file, give_a_file, marks=pytest.mark.slow),
        pytest.param(echo, say_much_at_the_same_time, marks=pytest.mark.slow),
    ],
)
async def test_a_right_handler_keeps_every_promise(
    handler: StreamHandler, conversation: StreamHandler, autojump_clock: MockClock
) -> None:
    await check_handler(handler, conversation)


async def test_a_handler_is_checked_on_a_real_clock_too() -> None:
    began = trio.current_time()
    await check_handler(echo, say_words)
    assert trio.current_time() - began < 30


async def test_a_handler_sees_its_protocol_and_who_calls(autojump_clock: MockClock) -> None:
    protocols = set[str]()
    peers = set[object]()

    async def handler(stream: Stream) -> None:
        assert isinstance(stream, Stream)
        assert not stream.is_ours
        protocols.add(stream.protocol)
        peers.add(stream.peer)
        await echo(stream)

    await check_handler(handler, say_words, protocol="echo/7")
    assert protocols == {"echo/7"}
    assert len(peers) == 2


async def test_a_task_that_ends_soon_is_not_left_behind(autojump_clock: MockClock) -> None:
    async def handler(stream: Stream) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep, 1)
        await echo(stream)

    await check_handler(handler, say_words)


async def test_on_the_slow_line_each_answer_takes_its_time(autojump_clock: MockClock) -> None:
    waits: list[float] = []

    async def converse(stream: Stream) -> None:
        for word in (b"a", b"b", b"c"):
            began = trio.current_time()
            await stream.send_all(word)
            await expect(stream, word)
            waits.append(trio.current_time() - began)

    await check_handler(echo, converse)
    assert sum(wait >= 0.01 for wait in waits) == 3  # the way there and back
    assert max(waits) < 0.1


# --- handlers that are wrong ----------------------------------------------------------------------------


async def shouts(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data.upper())


async def ends_before(stream: Stream) -> None:
    await stream.send_all(await stream.receive_some())


async def fails_afterwards(stream: Stream) -> None:
    await echo(stream)
    raise ValueError("what now?")


async def fails_before(stream: Stream) -> None:
    raise ValueError("I do not know you")


async def hears_no_end(stream: Stream) -> None:
    while True:
        await stream.send_all(await stream.receive_some())


async def hears_no_errors(stream: Stream) -> None:
    while True:
        try:
            if not (data := await stream.receive_some()):
                return
            await stream.send_all(data)
        except trio.BrokenResourceError:
            pass


async def goes_on_for_a_minute(stream: Stream) -> None:
    await echo(stream)
    await trio.sleep(60)


async def takes_a_read_for_a_word(stream: Stream) -> None:
    while word := await stream.receive_some():
        await stream.send_all(word if word in WORDS else b"?")


async def is_impatient(stream: Stream) -> None:
    with trio.move_on_after(0.005):
        await echo(stream)


class OneAtATime:
    def __init__(self) -> None:
        self.busy = False

    async def __call__(self, stream: Stream) -> None:
        if self.busy:
            return
        self.busy = True
        try:
            await echo(stream)
        finally:
            self.busy = False


class OneBuffer:
    """For all its streams."""

    def __init__(self) -> None:
        self.buffer = b""

    async def __call__(self, stream: Stream) -> None:
        while data := await stream.receive_some():
            self.buffer += data
            await trio.lowlevel.checkpoint()
            data, self.buffer = self.buffer, b""
            await stream.send_all(data)


class RunsOut:
    """Of what it has taken for each stream; the first promises need no more."""

    def __init__(self) -> None:
        self.left = 12

    async def __call__(self, stream: Stream) -> None:
        self.left -= 1
        if self.left >= 0:
            await echo(stream)


async def works_with_its_back_to_the_stream(stream: Stream) -> None:
    """Before it answers it works for eight seconds, and the client may well be gone."""
    word = await receive_exactly(stream, 5)
    if len(word) == 5:
        await trio.sleep(0.001 if stream.protocol != "test/1" else 8)
        await stream.send_all(word)


async def say_a_word(stream: Stream) -> None:
    await stream.send_all(WORDS[0])
    await expect(stream, WORDS[0])


def stays_after(error: type[Exception], *others: type[Exception]) -> StreamHandler:
    async def handler(stream: Stream) -> None:
        try:
            await echo(stream)
        except others:
            raise
        except error:
            await trio.sleep(60)

    return handler


async def will_not_be_cancelled(stream: Stream) -> None:
    try:
        await echo(stream)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(7)
        raise


async def leaves_tasks(stream: Stream) -> None:
    trio.lowlevel.spawn_system_task(trio.sleep, 60)
    await echo(stream)


class WaitsForTheFirstWord:
    """With what all its streams share in its hands."""

    def __init__(self) -> None:
        self.turn = trio.Lock()

    async def __call__(self, stream: Stream) -> None:
        async with self.turn:
            data = await stream.receive_some()
        if data:
            await stream.send_all(data)
            await echo(stream)


async def closes_the_connection(stream: Stream) -> None:
    while data := await stream.receive_some():
        if not all(data.count(byte) or byte for byte in data) or b"\xff" in data:
            await stream.connection.aclose(finish=0)
        await stream.send_all(data)


async def ends_the_program(stream: Stream) -> None:
    while data := await stream.receive_some():
        if b"\xff" in data:
            raise SystemExit(2)
        await stream.send_all(data)


async def freezes(stream: Stream) -> None:
    while data := await stream.receive_some():
        if b"\xff" in data:
            await trio.sleep_forever()
        await stream.send_all(data)


async def freezes_at_zeros(stream: Stream) -> None:
    while data := await stream.receive_some():
        if b"\0" * 50 in data:
            await trio.sleep_forever()
        await stream.send_all(data)


async def freezes_in_the_middle(stream: Stream) -> None:
    """Where it begins well."""
    for word in WORDS:
        found = await receive_exactly(stream, len(word))
        if found != word:
            if word != WORDS[0] and len(found) == len(word):
                await trio.sleep_forever()
            return
        await stream.send_all(word)


async def buffers_without_bound(stream: Stream) -> None:
    give, take = trio.open_memory_channel[bytes](float("inf"))

    async def send() -> None:
        async for data in take:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery, give:
        nursery.start_soon(send)
        while data := await stream.receive_some():
            await give.send(data)


class AnswersInLine:
    """All its streams wait while one cannot send."""

    def __init__(self) -> None:
        self.turn = trio.Lock()

    async def __call__(self, stream: Stream) -> None:
        while data := await stream.receive_some():
            async with self.turn:
                await stream.send_all(data)


def always(handler: StreamHandler) -> Callable[[], StreamHandler]:
    """For those that remember nothing."""
    return lambda: handler


SOON: Final = "The handler ends soon when the"


@pytest.mark.parametrize(
    ("make", "promise", "found"),
    [
        (always(shouts), "The conversation goes well", "HELLO"),
        (always(ends_before), "The conversation goes well", "(the stream ended after b''|StreamReset)"),
        (always(fails_before), "The conversation goes well", "the handler had raised ValueError.*not know you"),
        (always(fails_afterwards), "The conversation goes well", "what it wanted.*ValueError.*what now"),
        (always(hears_no_end), "The conversation goes well", "5 s after the client had closed.*again and again"),
        (always(goes_on_for_a_minute), "The conversation goes well", "at work 5 s after the client had closed"),
        (always(takes_a_read_for_a_word), "It goes well where each byte comes alone", r"\?"),
        (always(is_impatient), "It goes well on a slow line", "ended|Reset"),
        (OneAtATime, "It goes well ten times at once", "ended|Reset"),
        (OneBuffer, "It goes well ten times at once", "assert|in vain"),
        (RunsOut, "It goes well ten times at once", "ended|Reset"),
        (always(stays_after(ConnectionClosed)), f"{SOON} connection ends", "5 s after the connection was gone"),
        (
            always(stays_after(trio.BrokenResourceError, ConnectionClosed)),
            f"{SOON} client (closes|resets)",
            "client had (closed|reset) the stream",
        ),
        (always(hears_no_errors), f"{SOON} client (closes|resets)", "again and again, 100 times"),
        (
            always(will_not_be_cancelled),
            "The handler ends soon when its peer leaves",
            "0 of 96 bytes into .* took 7 s more; 5 are allowed",
        ),
        (always(leaves_tasks), "The handler leaves no task behind", "more tasks are there, after 6 streams"),
        (WaitsForTheFirstWord, "A client who says nothing", "10 s in vain .* beside a silent one"),
        (always(closes_the_connection), "A client who says garbage", "ConnectionClosed"),
        pytest.param(
            always(ends_the_program),
            "A client who says garbage",
            r"SystemExit\(2\), which ends the whole program",
            marks=pytest.mark.slow,
        ),
        (always(freezes), "A client who says garbage", "5 s after a client had said .* bytes of garbage"),
        pytest.param(
            always(freezes_at_zeros),
            "A client who says garbage",
            "said 5000 bytes of garbage and closed",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            always(freezes_in_the_middle),
            "A client who says garbage",
            "of garbage and closed the stream",
            marks=pytest.mark.slow,
        ),
        (always(buffers_without_bound), "A client who never reads", "it read .* bytes more while its answer"),
        (AnswersInLine, "A client who never reads", "10 s in vain .* beside a client who never reads"),
    ],
)
async def test_a_handler_that_breaks_a_promise_is_told_which(
    make: Callable[[], StreamHandler], promise: str, found: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(AssertionError, match=f"(?s)^{promise}.*{found}"):
        await check_handler(make(), say_words)


async def test_a_handler_that_looks_away_is_found_at_the_byte_where_it_does(autojump_clock: MockClock) -> None:
    with pytest.raises(AssertionError, match=r"when the client closes.* the stream, 5 of 10 bytes into"):
        await check_handler(works_with_its_back_to_the_stream, say_a_word)
    await check_handler(works_with_its_back_to_the_stream, say_a_word, protocol="quick/1")


async def test_a_handler_has_the_time_that_its_limits_give_it(autojump_clock: MockClock) -> None:
    limits = Limits(finish=9)
    await check_handler(works_with_its_back_to_the_stream, say_a_word, limits=limits, seconds=100)


async def test_a_conversation_that_never_ends_is_none(autojump_clock: MockClock) -> None:
    async def converse(stream: Stream) -> None:
        await trio.sleep_forever()

    with pytest.raises(AssertionError, match=r"^The conversation goes well: waited 3 s in vain"):
        await check_handler(echo, converse, seconds=3)


async def test_what_the_client_raises_is_told(autojump_clock: MockClock) -> None:
    async def converse(stream: Stream) -> None:
        raise ValueError("this client is wrong")

    with pytest.raises(AssertionError, match=r"^The conversation goes well: the client got ValueError.*is wrong"):
        await check_handler(echo, converse)


async def test_what_is_no_handler_is_not_checked() -> None:
    with pytest.raises(TypeError, match="async functions of a stream"):
        await check_handler(b"echo", say_words)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="async functions of a stream"):
        await check_handler(echo, None)  # type: ignore[arg-type]


async def test_nothing_of_the_check_is_left(autojump_clock: MockClock) -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    await check_handler(echo, say_words)
    with pytest.raises(AssertionError):
        await check_handler(shouts, say_words)
    assert trio.lowlevel.current_statistics().tasks_living == before


# --- requests -------------------------------------------------------------------------------------------


async def double(value: Any, peer: object) -> object:
    if not isinstance(value, int):
        raise RequestFailed("no-number", f"{value!r} is none")
    return 2 * value


@pytest.mark.parametrize(
    ("value", "reply"), [(21, 42), (-1, -2), ("x", RequestFailed("no-number", "'x' is none"))], ids=repr
)
async def test_a_function_that_answers_requests_keeps_every_promise(
    value: object, reply: object, autojump_clock: MockClock
) -> None:
    await check_request(double, value, reply)


async def fails(value: Any, peer: object) -> object:
    raise ZeroDivisionError


async def cleans_up_for_long(value: Any, peer: object) -> object:
    try:
        await trio.sleep(1)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(6)
    return 42


@pytest.mark.parametrize(
    ("function", "reply", "sentence"),
    [
        (double, 43, "^The conversation goes well: 21 was answered 42, not 43"),
        (double, RequestFailed("no-number", ""), "^The conversation goes well: 21 was answered 42, not RequestF"),
        (fails, 42, "^The conversation goes well: 21 was answered RequestFailed.*, not 42"),
        (fails, RequestFailed("full", ""), "^The conversation goes well: 21 was answered .*failed.*, not .*full"),
        (cleans_up_for_long, 42, "^The handler ends soon when the client .*still at work 5 s after"),
    ],
)
async def test_a_function_that_breaks_a_promise_is_told_which(
    function: Callable[[Any, Any], Awaitable[object]], reply: object, sentence: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(AssertionError, match=sentence):
        await check_request(function, 21, reply)
