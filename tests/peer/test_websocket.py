"""_websocket.py, _websocket_stream.py: a stream of bytes in the messages of a WebSocket."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio_websocket
from trio.testing import MockClock, check_two_way_stream, memory_stream_pair, wait_all_tasks_blocked

from trishake import Address, Cause, NoResponse, Peer, Phase, WebSocket
from trishake._transport import open_stream
from trishake._websocket_stream import WebSocketStream
from trishake.testing._by_hand import read_to_end

from .conftest import ADA, BOB, QUICK, Watch, open_sockets, receive_exactly, reset, serving

HERE = Address("peer.test", 80, scheme="ws", path="/here")
Pair = tuple[WebSocketStream, WebSocketStream]


async def pair_in(nursery: trio.Nursery) -> Pair:
    """Two ends over memory, after the upgrade."""
    here, there = memory_stream_pair()
    accepted = WebSocketStream.accepted(there, "/here", nursery)
    async with trio.open_nursery() as opening:
        opening.start_soon(accepted.wait_send_all_might_not_block)
        return await WebSocketStream.open(here, HERE, nursery), accepted


@asynccontextmanager
async def by_hand() -> AsyncIterator[tuple[trio_websocket.WebSocketConnection, WebSocketStream]]:
    """A WebSocket in our hands, and the listener's end of it."""
    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        stream = WebSocketStream.accepted(there, "/here", nursery)
        async with trio.open_nursery() as opening:
            opening.start_soon(stream.wait_send_all_might_not_block)
            hand = await trio_websocket.wrap_client_stream(nursery, here, "peer.test", "/here")  # type: ignore[arg-type]
        yield hand, stream
        await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def test_it_is_what_trio_calls_a_two_way_stream(nursery: trio.Nursery) -> None:
    async def pair() -> Pair:
        return await pair_in(nursery)

    await check_two_way_stream(pair, None)


# --- who answers the dialer -----------------------------------------------------------------------------


def saying(*parts: bytes, then: Callable[[trio.SocketStream], Awaitable[object]] = read_to_end):  # type: ignore[no-untyped-def]
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        for part in parts:
            await stream.send_all(part)
        await then(stream)
        await stream.aclose()

    return script


async def endless_page(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            await stream.send_all(bytes(4096))
    except trio.BrokenResourceError:
        await stream.aclose()


async def nothing(stream: trio.SocketStream) -> None:
    await trio.lowlevel.checkpoint()


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: peer.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
PAGE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("script", "cause", "protocol", "words"),
    [
        (saying(PAGE), Cause.FOREIGN, "HTTP", 'no WebSocket: "HTTP/1.1 404 Not Found"'),
        (saying(b"HTTP/1.1 200 OK\r\n\r\n"), Cause.FOREIGN, "HTTP", "200 OK"),
        (endless_page, Cause.FOREIGN, "HTTP", "200 OK"),
        (saying(b"SSH-2.0-OpenSSH_9.2\r\n"), Cause.FOREIGN, "SSH", "SSH-2.0-OpenSSH_9.2"),
        (saying(b"\0\1\2\3" * 10), Cause.FOREIGN, None, "no WebSocket"),
        (saying(b"HTTP/1.1 101 OK\r\n\0\xff\r\n\r\n"), Cause.FOREIGN, "HTTP", "no WebSocket"),
        (saying(b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 20_000), Cause.FOREIGN, "HTTP", "no WebSocket"),
        (saying(then=nothing), Cause.CLOSED, None, "in the WebSocket handshake"),
        (saying(then=reset), Cause.RESET, None, "in the WebSocket handshake"),
        (saying(), Cause.TIMEOUT, None, "the time was up"),
    ],
    ids=[
        "HTTP 404",
        "HTTP 200",
        "endless HTTP",
        "SSH",
        "noise",
        "bad headers",
        "endless headers",
        "closes",
        "crashes",
        "is silent",
    ],
)
async def test_a_port_that_speaks_no_websocket_says_so_at_connect(
    script: Callable[[trio.SocketStream], Awaitable[None]],
    cause: Cause,
    protocol: str | None,
    words: str,
    socket_clock: MockClock,
) -> None:
    before = open_sockets()
    limits = replace(QUICK, connect=0.5)
    async with serving(script) as port, trio.open_nursery() as nursery:
        with pytest.raises(NoResponse) as caught:
            await open_stream(Address("127.0.0.1", port, scheme="ws"), WebSocket(), limits, nursery)
    error = caught.value
    assert (error.phase, error.cause, error.protocol) == (Phase.CONNECT, cause, protocol)
    assert words in str(error)
    assert open_sockets() == before


async def test_a_listener_takes_dialers_at_its_own_path_alone() -> None:
    async with Peer(BOB, limits=QUICK) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen("ws://127.0.0.1:0/chat")
        assert listener.invite.endswith("/chat")
        with pytest.raises(NoResponse, match="404") as caught:
            await ada.dial(listener.invite.removesuffix("chat") + "elsewhere")
        assert (caught.value.cause, caught.value.protocol) == (Cause.FOREIGN, "HTTP")
        assert (await ada.dial(listener.invite)).peer == BOB.id


async def test_a_peer_that_is_dialed_without_websocket_says_that_it_speaks_http() -> None:
    async with Peer(BOB, limits=QUICK) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen("ws://127.0.0.1:0")
        with pytest.raises(NoResponse) as caught:
            await ada.dial(f"tcp://127.0.0.1:{listener.addresses[0].port}")
        assert (caught.value.cause, caught.value.protocol) == (Cause.FOREIGN, "HTTP")
        assert (await ada.dial(listener.invite)).peer == BOB.id  # and it listens on


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\1\2\3" * 10,
        b"POST / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\n\0\r\n\r\n",
        UPGRADE + b"Sec-WebSocket-Protocol: \xff\r\n\r\n",
        UPGRADE + b"Sec-WebSocket-Extensions: \xff; \xfe=\xfd\r\n\r\n",
        UPGRADE.replace(b"13", b"\xff") + b"\r\n",
        UPGRADE.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff") + b"\r\n",
        UPGRADE.replace(b"GET /", b"GET /\xff") + b"\r\n",
        UPGRADE.replace(b"websocket", b"\xff") + b"\r\n",
        UPGRADE + b"X: y\r\n" * 20_000,
    ],
    ids=lambda request_: request_[-60:].decode("ascii", "backslashreplace").replace("\r\n", " "),
)
@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
async def test_whatever_a_stranger_asks_for_it_ends_that_greeting_alone(request_: bytes, leaves: bool) -> None:
    watch = Watch()
    async with Peer(BOB, limits=replace(QUICK, syn=0.2), observers=[watch]) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen("ws://127.0.0.1:0")
        async with await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port) as stranger:
            await stranger.send_all(request_)
            if leaves:
                await stranger.send_eof()
            await watch.wait_failed()
        assert (await ada.dial(listener.invite)).peer == BOB.id


async def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trishake._websocket_stream", None)
    async with Peer(ADA) as ada:
        for call in (ada.dial, ada.listen):
            with pytest.raises(ImportError, match=r"pip install 'trishake\[websocket\]'"):
                await call("ws://127.0.0.1:1")


async def test_a_dial_that_outlives_its_peer_is_broken_off_and_no_error_of_trios(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as ended:
        pass
    with pytest.raises(NoResponse):
        await WebSocketStream.open(memory_stream_pair()[0], HERE, ended)


# --- messages -------------------------------------------------------------------------------------------


async def test_an_empty_message_is_no_end() -> None:
    async with by_hand() as (hand, stream):
        for message in (b"", b"one", b"", b"two"):
            async with trio.open_nursery() as sending:
                sending.start_soon(hand.send_message, message)
                if message:
                    assert await stream.receive_some() == message


async def test_a_message_is_read_in_any_pieces() -> None:
    async with by_hand() as (hand, stream):
        message = bytes(range(256)) * 4096  # 1 MiB
        async with trio.open_nursery() as sending:
            sending.start_soon(hand.send_message, message)
            assert await stream.receive_some(3) == message[:3]
            assert await receive_exactly(stream, len(message) - 3) == message[3:]


async def test_a_message_of_more_than_a_mebibyte_is_refused() -> None:
    async with by_hand() as (hand, stream), trio.open_nursery() as sending:
        sending.start_soon(hand.send_message, bytes(1024 * 1024 + 1))
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match=r"1009.*1048576 bytes"):
                await stream.receive_some()


@pytest.mark.parametrize(
    ("first", "cause"), [(b"\xc2", Cause.RESET), (b"\x82", Cause.FOREIGN)], ids=["compressed", "plain"]
)
async def test_no_compression_is_agreed_to_and_a_compressed_message_is_refused(first: bytes, cause: Cause) -> None:
    """A few of its bytes could stand for gigabytes."""
    watch = Watch()
    async with Peer(BOB, limits=QUICK, observers=[watch]) as bob:
        listener = await bob.listen("ws://127.0.0.1:0")
        async with await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port) as hand:
            await hand.send_all(UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await hand.receive_some()
            assert answer.startswith(b"HTTP/1.1 101")
            assert b"extensions" not in answer.lower()
            await hand.send_all(first + b"\x84" + bytes(4) + b"EHLO")
            error = await watch.wait_failed()
            assert isinstance(error, NoResponse)
            assert (error.phase, error.cause) == (Phase.SYN, cause)


async def test_a_text_message_is_refused() -> None:
    async with by_hand() as (hand, stream):
        async with trio.open_nursery() as sending:
            sending.start_soon(hand.send_message, "hello")
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError, match="text message"):
                    await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="text message"):
            await stream.send_all(b"x")
        assert hand.closed is not None
        assert hand.closed.code == 1003


async def test_what_we_send_goes_in_messages_of_64_kib() -> None:
    async with by_hand() as (hand, stream):
        async with trio.open_nursery() as sending:
            sending.start_soon(stream.send_all, bytes(64 * 1024 + 1))
            assert [len(await hand.get_message()) for _ in range(2)] == [64 * 1024, 1]
        await stream.send_all(b"")
        await stream.send_all(b"next")
        assert await hand.get_message() == b"next"


@pytest.mark.parametrize(("code", "clean"), [(1000, True), (1001, True), (1011, False), (4000, False)])
async def test_a_close_code_tells_a_clean_end_from_another(code: int, clean: bool) -> None:
    async with by_hand() as (hand, stream):
        async with trio.open_nursery() as closing:
            closing.start_soon(hand.aclose, code, "because")
            if clean:
                assert await stream.receive_some() == b""
                assert await stream.receive_some() == b""
            else:
                with pytest.raises(trio.BrokenResourceError, match=f"{code}: because"):
                    await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_an_end_without_a_close_frame_is_no_clean_end() -> None:
    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        stream = WebSocketStream.accepted(there, "/here", nursery)
        async with trio.open_nursery() as opening:
            opening.start_soon(stream.wait_send_all_might_not_block)
            await WebSocketStream.open(here, HERE, nursery)
        await here.aclose()
        with pytest.raises(trio.BrokenResourceError, match="1006"):
            await stream.receive_some()
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_ping_is_answered_while_nobody_reads() -> None:
    async with by_hand() as (hand, _):
        with trio.fail_after(5):
            await hand.ping()


@pytest.mark.parametrize(
    "frame", [b"\xff\xff\xff\xff", b"\x83\x00", b"\x82\x01x"], ids=["noise", "opcode", "no mask"]
)
async def test_what_breaks_the_websocket_protocol_ends_that_stream_alone(frame: bytes) -> None:
    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        stream = WebSocketStream.accepted(there, "/here", nursery)
        async with trio.open_nursery() as opening:
            opening.start_soon(stream.wait_send_all_might_not_block)
            await WebSocketStream.open(here, HERE, nursery)
        await here.send_all(frame)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await stream.aclose()
        nursery.cancel_scope.cancel()


# --- ending ---------------------------------------------------------------------------------------------


async def test_a_close_waits_a_second_for_one_who_does_not_answer(autojump_clock: MockClock) -> None:
    here, there = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        stream = WebSocketStream.accepted(there, "/here", nursery)
        async with trio.open_nursery() as opening:
            opening.start_soon(stream.wait_send_all_might_not_block)
            other = await WebSocketStream.open(here, HERE, nursery)
        other._scope.cancel()  # it stops to read
        await wait_all_tasks_blocked()
        started = trio.current_time()
        await stream.aclose()
        assert trio.current_time() - started == pytest.approx(1)
        await trio.aclose_forcefully(other)
        assert not [task for task in nursery.child_tasks if "_run" in task.name]


async def test_a_forceful_close_waits_for_nothing(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    here, there = await pair_in(nursery)
    started = trio.current_time()
    for stream in (here, there):
        await trio.aclose_forcefully(stream)
    assert trio.current_time() == started
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_a_send_that_was_cancelled_in_a_message_is_the_last_one(nursery: trio.Nursery) -> None:
    transport = WebSocket()
    (bound,) = await transport.listen(Address("127.0.0.1", 0, scheme="ws"), nursery)
    async with trio.open_nursery() as accepting:
        accepted: list[trio.abc.Stream] = []

        async def accept() -> None:
            accepted.append(await bound.listener.accept())
            await accepted[0].wait_send_all_might_not_block()

        accepting.start_soon(accept)
        stream = await open_stream(bound.address, transport, QUICK, nursery)
    with trio.move_on_after(0.2) as scope:
        await stream.send_all(bytes(2**26))
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError, match="cancelled within a message"):
        await stream.send_all(b"x")
    started = trio.current_time()
    await stream.aclose()  # without a close frame, which would be taken for the message's content
    assert trio.current_time() - started < 0.5
    await trio.aclose_forcefully(accepted[0])
    await bound.listener.aclose()
