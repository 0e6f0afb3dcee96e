"""Somebody between the two changes one byte, or cuts the stream: both runtimes, every place, every suite.

The core's own tests do the same to recorded messages; here two live peers and their deadlines answer for it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from trishake import DialError, Identity, Network, SecureStream, initiate, respond

ADA, BOB = Identity.generate(), Identity.generate()
HOME = Network("home", psk=bytes(range(32)))
SUITES = {0x0001: Network(), 0x0002: Network(), 0x0101: HOME, 0x0102: HOME}

Tamper = Callable[[int, bytes], bytes | None]
"""(offset, chunk) to the chunk that is passed on; None cuts the stream there."""


def unchanged(offset: int, chunk: bytes) -> bytes | None:
    return chunk


def flipping(place: int) -> Tamper:
    def flip(offset: int, chunk: bytes) -> bytes | None:
        if offset <= place < offset + len(chunk):
            changed = bytearray(chunk)
            changed[place - offset] ^= 0x01 if place % 2 else 0x80
            return bytes(changed)
        return chunk

    return flip


def cutting(place: int) -> Tamper:
    def cut(offset: int, chunk: bytes) -> bytes | None:
        return chunk[: max(0, place - offset)] or None

    return cut


class Between:
    """Two wires and whoever sits between them; counts what passed each way."""

    def __init__(self, to_bob: Tamper, to_ada: Tamper) -> None:
        self.adas_end, self._ada = memory_stream_pair()
        self._bob, self.bobs_end = memory_stream_pair()
        self._to_bob, self._to_ada = to_bob, to_ada
        self.passed = {"to bob": 0, "to ada": 0}

    async def relay(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, "to bob", self._ada, self._bob, self._to_bob)
            nursery.start_soon(self._pass_on, "to ada", self._bob, self._ada, self._to_ada)

    async def _pass_on(self, way: str, source: trio.abc.Stream, sink: trio.StapledStream, tamper: Tamper) -> None:
        try:
            async for chunk in source:
                passed_on = tamper(self.passed[way], bytes(chunk))
                self.passed[way] += len(chunk)
                if passed_on is None:
                    break
                await sink.send_all(passed_on)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def greet_through(
    between: Between, suite: int
) -> tuple[SecureStream | DialError | None, SecureStream | DialError | None]:
    """What (ada, the initiator) and (bob, the responder) make of it."""
    outcomes: list[SecureStream | DialError | None] = [None, None]
    network = SUITES[suite]

    async def dial() -> None:
        try:
            outcomes[0] = await initiate(between.adas_end, ADA, expect=BOB.id, network=network, suites=[suite])
        except DialError as error:
            outcomes[0] = error

    async def answer() -> None:
        try:
            outcomes[1] = await respond(between.bobs_end, BOB, network=network, suites=[suite])
        except DialError as error:
            outcomes[1] = error

    with trio.fail_after(30):
        async with trio.open_nursery() as relaying:
            relaying.start_soon(between.relay)
            async with trio.open_nursery() as greeting:
                greeting.start_soon(dial)
                greeting.start_soon(answer)
            relaying.cancel_scope.cancel()
    return outcomes[0], outcomes[1]


async def lengths(suite: int) -> tuple[int, int]:
    """Bytes to bob (preface, SYN, ACK) and to ada (SYN-ACK, VERDICT) in an untouched greeting."""
    between = Between(unchanged, unchanged)
    ada, bob = await greet_through(between, suite)
    assert isinstance(ada, SecureStream)
    assert isinstance(bob, SecureStream)
    return between.passed["to bob"], between.passed["to ada"]


async def check_tampering(suite: int, tamper: Callable[[int], Tamper], step: int) -> None:
    to_bob, to_ada = await lengths(suite)
    for place in range(0, to_bob, step):
        ada, bob = await greet_through(Between(tamper(place), unchanged), suite)
        assert isinstance(ada, DialError), f"byte {place} to bob: {ada}"
        assert isinstance(bob, DialError), f"byte {place} to bob: {bob}"
    for place in range(0, to_ada, step):
        ada, _ = await greet_through(Between(unchanged, tamper(place)), suite)
        assert isinstance(ada, DialError), f"byte {place} to ada: {ada}"


@pytest.mark.parametrize("suite", SUITES, ids=hex)
@pytest.mark.parametrize("tamper", [flipping, cutting], ids=["flip", "cut"])
async def test_a_greeting_that_is_tampered_with_here_and_there_is_never_accepted(
    suite: int, tamper: Callable[[int], Tamper], autojump_clock: MockClock
) -> None:
    await check_tampering(suite, tamper, step=97)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=hex)
@pytest.mark.parametrize("tamper", [flipping, cutting], ids=["flip", "cut"])
async def test_a_greeting_that_is_tampered_with_anywhere_is_never_accepted(
    suite: int, tamper: Callable[[int], Tamper], autojump_clock: MockClock
) -> None:
    await check_tampering(suite, tamper, step=1)
