"""_listener.py: nothing that a stranger sends, and nothing that the system lacks, brings it down."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from trishake import CloseCode, Connection, Limits, Listener, Peer, VerdictCode
from trishake.testing._by_hand import read_to_end
from trishake_protocol.messages import FrameType, encode_frame
from trishake_protocol.patterns import CLASSICAL

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    QUICK,
    ByHand,
    Watch,
    arrival,
    connect,
    outcome,
    reset,
)

OPEN_TO_ALL = Limits(syn=2, drain_after_alert=0.1, drain_after_verdict=0.1, close=0.1, handshake_burst=10**6)


async def still_greets(listener: Listener) -> bool:
    async with Peer(ADA, limits=QUICK, suites=(CLASSICAL.id,)) as ada:
        end = await outcome(ada.dial, listener.invite)
        if isinstance(end, Connection):
            await trio.aclose_forcefully(end)
        return isinstance(end, Connection)


# --- garbage --------------------------------------------------------------------------------------------

_dice = random.Random(20)
MAGIC_AND_VERSION = b"\xf0\x9f\xa4\x9d\x01\x01"


def behind_the_flight(garbage: bytes) -> Callable[[ByHand], bytes]:
    return lambda hand: hand.flight() + garbage


GARBAGE: dict[str, Callable[[ByHand], bytes]] = {
    "nothing": lambda hand: b"",
    "zeros": lambda hand: bytes(100_000),
    "ones": lambda hand: b"\xff" * 100_000,
    "noise": lambda hand: _dice.randbytes(100_000),
    "the magic and noise": lambda hand: MAGIC_AND_VERSION + _dice.randbytes(100_000),
    "the magic and zeros": lambda hand: MAGIC_AND_VERSION + bytes(100_000),
    "a preface and noise": lambda hand: hand.flight()[:21] + _dice.randbytes(100_000),
    "a SYN with noise in it": lambda hand: hand.flight()[:24] + _dice.randbytes(32),
    "a flight and noise": behind_the_flight(_dice.randbytes(100_000)),
    "a flight and an ACK of noise": behind_the_flight(encode_frame(FrameType.ACK, _dice.randbytes(320))),
    "a flight and the longest ACK": behind_the_flight(encode_frame(FrameType.ACK, bytes(64 + 16384))),
    "a flight and too long an ACK": behind_the_flight(encode_frame(FrameType.ACK, bytes(64 + 16385))),
    "a flight and a record": behind_the_flight(encode_frame(FrameType.RECORD, bytes(65535))),
    "two flights": lambda hand: hand.flight() + hand.flight(),
    "an ALERT at once": lambda hand: encode_frame(FrameType.ALERT, b"\x0a"),
    "an empty ALERT": behind_the_flight(encode_frame(FrameType.ALERT, b"")),
    "a long ALERT": behind_the_flight(encode_frame(FrameType.ALERT, bytes(65535))),
    "a SYN-ACK": behind_the_flight(encode_frame(FrameType.SYN_ACK, bytes(352))),
    "HTTP": lambda hand: b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
    "half a magic": lambda hand: b"\xf0\x9f",
}


@pytest.mark.parametrize("leave", [trio.SocketStream.aclose, trio.SocketStream.send_eof, reset])
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_no_garbage_brings_the_listener_down(
    garbage: Callable[[ByHand], bytes], leave: Callable[[trio.SocketStream], object]
) -> None:
    async with Peer(BOB, limits=OPEN_TO_ALL, suites=(CLASSICAL.id,)) as bob:
        listener = await bob.listen(ANYWHERE)
        async with await connect(listener) as stream:
            try:
                await stream.send_all(garbage(ByHand(stream)))
                await leave(stream)  # type: ignore[misc]
                if leave is trio.SocketStream.send_eof:
                    await read_to_end(stream, most=10_000)
            except trio.BrokenResourceError:
                pass  # it has had enough of us
        assert await still_greets(listener)


async def test_a_crowd_of_garbage_at_once_does_not_either() -> None:
    watch = Watch()
    async with Peer(BOB, limits=OPEN_TO_ALL, suites=(CLASSICAL.id,), observers=[watch]) as bob:
        listener = await bob.listen(ANYWHERE)

        async def talk(number: int) -> None:
            dice = random.Random(number)
            async with await connect(listener) as stream:
                flight = bytearray(ByHand(stream).flight())
                for _ in range(dice.randrange(4)):
                    flight[dice.randrange(len(flight))] ^= 1 << dice.randrange(8)
                try:
                    await stream.send_all(bytes(flight[: dice.randrange(len(flight) + 1)]))
                    await stream.send_all(dice.randbytes(dice.randrange(2000)))
                    await (reset(stream) if dice.random() < 0.3 else stream.send_eof())
                except trio.BrokenResourceError:
                    pass

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(talk, number)
        assert await still_greets(listener)
    assert len(watch.failures) == 200


async def test_one_who_breaks_the_protocol_behind_ready_ends_his_own_connection_alone() -> None:
    async with Peer(BOB, limits=OPEN_TO_ALL, suites=(CLASSICAL.id,)) as bob:
        listener = await bob.listen(ANYWHERE)
        async with await connect(listener) as stream:
            hand = ByHand(stream)
            await hand.call(BOB.id)
            assert (await hand.hear_verdict()).code is VerdictCode.READY
            at_bob = await arrival(bob)
            await hand.say(encode_frame(FrameType.RECORD, bytes(100)))
            end = await at_bob.closed()
            assert (end.code, end.by_peer) == (CloseCode.PROTOCOL, False)
            assert (await hand.hear_close()).code is CloseCode.PROTOCOL
        assert await still_greets(listener)


# --- out of resources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EHOSTUNREACH,
    ],
)
async def test_an_accept_that_fails_is_logged_and_tried_again(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, socket_clock: MockClock
) -> None:
    """The socket listener fails twice, as the kernel would have it, and then is itself again."""
    accept, failures = trio.SocketListener.accept, iter(range(2))

    async def fail_first(listener: trio.SocketListener) -> trio.SocketStream:
        stream = await accept(listener)
        if next(failures, None) is None:
            return stream
        await stream.aclose()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(trio.SocketListener, "accept", fail_first)
    async with Peer(BOB, limits=OPEN_TO_ALL, suites=(CLASSICAL.id,)) as bob:
        listener = await bob.listen(ANYWHERE)
        for _ in range(2):
            async with await connect(listener) as stream:
                assert await read_to_end(stream) == b""
        assert await still_greets(listener)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert os.strerror(number) in caplog.records[0].getMessage()


WITHOUT_DESCRIPTORS = """
import logging, os, resource, socket
import trio
from trishake import Identity, Limits, Peer

class Keep(logging.Handler):
    text = ""
    def emit(self, record):
        self.text = record.getMessage()
        self.emitted.set()

def allow_descriptors(number):
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

async def main():
    log = Keep()
    log.emitted = trio.Event()
    logging.getLogger("trishake").addHandler(log)
    bob = Peer(Identity.generate(), limits=Limits(syn=30, close=0.2))
    with trio.fail_after(30):
        async with bob, Peer(Identity.generate(), limits=Limits(close=0.2)) as ada:
            listener = await bob.listen("tcp://127.0.0.1:0")
            await (await ada.dial(listener.invite)).aclose()  # what is loaded late is loaded now
            clients = [socket.socket() for _ in range(4)]
            allow_descriptors(1 + max(int(fd) for fd in os.listdir("/proc/self/fd")))
            for client in clients:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", listener.addresses[0].port))
            await log.emitted.wait()
            allow_descriptors(256)
            for client in clients:
                client.close()
            connection = await ada.dial(listener.invite)
            print(connection.peer == bob.id, "Too many open files" in log.text)

trio.run(main)
"""


def test_a_process_without_a_descriptor_left_goes_on_when_there_is_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout == "True True\n"


# --- closing --------------------------------------------------------------------------------------------


async def test_a_dialer_who_comes_as_the_listener_closes_is_not_left_to_wait() -> None:
    """He is closed, or told GOING_AWAY: whichever step the listener was in."""
    for moment in range(250):
        async with Peer(BOB, limits=Limits(syn=30, handshake_burst=10**6, close=0.1)) as bob:
            listener = await bob.listen(ANYWHERE)
            with trio.socket.socket() as socket:
                await socket.connect(("127.0.0.1", listener.addresses[0].port))
                for _ in range(moment % 8):
                    await trio.lowlevel.checkpoint()
                await listener.aclose()
                with trio.fail_after(1):
                    assert await read_to_end(trio.SocketStream(socket)) == b""


async def test_closing_a_listener_twice_is_fine() -> None:
    async with Peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        await listener.aclose()
        await listener.aclose()
        with pytest.raises(OSError, match="all attempts"):
            await connect(listener)


async def test_one_that_is_closed_is_no_longer_among_those_of_its_peer() -> None:
    """From the moment on: its last greetings may take longer, and its task has to run first."""
    async with Peer(BOB, limits=QUICK) as bob:
        assert bob.listeners == ()
        first, second = await bob.listen(ANYWHERE), await bob.listen(ANYWHERE)
        assert bob.listeners == (first, second)
        assert first.is_open
        stream = await connect(first)
        while not first.greetings:
            await trio.sleep(0.001)
        await first.aclose()
        assert not first.is_open
        assert first.greetings
        assert bob.listeners == (second,)
        await stream.aclose()


async def test_its_repr_says_where_it_listens() -> None:
    async with Peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        assert repr(listener) == f"<Listener tcp://127.0.0.1:{listener.addresses[0].port}>"
