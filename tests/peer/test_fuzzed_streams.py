"""Frames of every kind, flag and order: whatever comes ends its connection at most, and nothing else."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from trishake import CloseCode, ConnectionClosed, Role, Stream, StreamError
from trishake_protocol.messages import RecordType

from .. import yamux
from .conftest import BOB, ByHand, memory_pair, open_over

BODIES = [
    b"",
    b"\x06echo/1",
    b"\x06none/1",
    b"\x06fail/1",
    b"\x06quit/1",
    b"\x00",
    b"\x01",
    b"\x02\x02no",
    b"\x06ec",
]


class Chatter:
    """Frames at random, most of them such that the session goes on a while."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._next = 1

    def frame(self) -> bytes:
        chance = self.random
        flags = chance.choice([0] * 12 + [2, 4, 8, 12, chance.randrange(16)])
        body = chance.choice(BODIES)
        if self._next == 1 or chance.random() < 0.5:
            id_, self._next = self._next, self._next + 2
            flags |= yamux.SYN
        elif chance.random() < 0.95:
            id_ = chance.randrange(1, self._next, 2)
        else:
            id_ = chance.choice([2, 4, self._next])
        match chance.randrange(12):
            case 0:
                return yamux.ping(chance.randrange(9), chance.choice([1, 2]))
            case 1:
                return yamux.go_away(chance.randrange(3))
            case 2 | 3 | 4:
                return yamux.window_update(id_, chance.choice([0, 1, 2**18]), flags)
            case _:
                return yamux.data(id_, body, flags)

    def record(self) -> bytes:
        return b"".join(self.frame() for _ in range(self.random.randint(1, 6)))


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def leave(stream: Stream) -> None:
    await stream.receive_some(1)


async def fail(stream: Stream) -> None:
    raise ValueError("the application's own failure")


HANDLERS = {"echo/1": echo, "quit/1": leave, "fail/1": fail}


async def meet_chatter(seed: int) -> ConnectionClosed:
    """How Bob's connection ends that Eve, who says anything, has dialed."""
    chatter = Chatter(seed)
    at_bob, at_eve = await memory_pair()
    eve = ByHand(at_eve)

    async def open_some() -> None:
        """Bob's application asks for streams meanwhile, and gets what it gets."""
        for protocol in ("any/1", "other/1", "third/1"):
            try:
                async with await connection.open_stream(protocol) as stream:
                    await stream.send_all(b"x" * 1000)
                    await stream.receive_some()
            except (StreamError, trio.BrokenResourceError):
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ByHand.call, eve, BOB.id)
        connection = await open_over(at_bob, Role.RESPONDER, nursery, handlers=HANDLERS)
        nursery.start_soon(open_some)
        try:
            for _ in range(chatter.random.randint(1, 12)):
                await eve.say(*(eve.record(RecordType.DATA, chatter.record()) for _ in range(2)))
                for _ in range(chatter.random.randrange(8)):
                    await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError:
            pass  # Bob has had enough of it
        await trio.aclose_forcefully(at_eve)
        with trio.fail_after(30):
            closed = await connection.closed()
            while nursery.child_tasks:
                await trio.sleep(0.001)
    assert not connection.streams
    return closed


async def meet_many(seeds: range) -> Counter[object]:
    ends: Counter[object] = Counter()
    for seed in seeds:
        try:
            ends[(await meet_chatter(seed)).code] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    return ends


def some_of_each(ends: Counter[object]) -> None:
    """The chatter is worth something only if some of it breaks rules and some does not."""
    assert ends[CloseCode.PROTOCOL] > 10
    assert ends[None] > 10  # cut, by Eve, in the end


async def test_whatever_frames_come_nothing_ends_but_their_connection(autojump_clock: MockClock) -> None:
    some_of_each(await meet_many(range(250)))


@pytest.mark.slow
async def test_whatever_frames_come_for_long_nothing_ends_but_their_connection(autojump_clock: MockClock) -> None:
    some_of_each(await meet_many(range(1000, 6000)))
