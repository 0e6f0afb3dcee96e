"""Optimistic data: what goes right behind the ACK, before the verdict is known (section 9)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from trishake import (
    Decision,
    Introduction,
    InvalidAddress,
    Peer,
    Rejected,
    Stream,
    StreamTimeout,
    UnknownProtocol,
    WrongIdentity,
    accept,
    initiate,
    only,
    respond,
)
from trishake_protocol.messages import RecordType

from .conftest import ADA, ANYWHERE, BOB, CLASSICAL, QUICK, ByHand, alert, linked_by_hand, memory_pair, met


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


class Line:
    """Counts how often what travels on a stream in memory turns round: half a round trip each."""

    def __init__(self, stream: trio.testing.MemorySendStream, other: trio.testing.MemorySendStream) -> None:
        self.turns = 0
        self._last: object = None
        for end in (stream, other):
            send = end.send_all

            async def count(data: bytes, end: object = end, send: Callable[..., object] = send) -> None:
                self.turns += self._last is not end
                self._last = end
                await send(data)  # type: ignore[misc]

            end.send_all = count  # type: ignore[method-assign]


@pytest.mark.parametrize("optimistic", [False, True])
async def test_the_first_answer_is_there_a_round_trip_earlier(optimistic: bool) -> None:
    at_ada, at_bob = memory_stream_pair()
    line = Line(at_ada.send_stream, at_bob.send_stream)

    async def answer() -> None:
        async with await respond(at_bob, BOB, suites=(CLASSICAL.id,)) as secure:
            await secure.send_all(b"to " + await secure.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with await initiate(
            at_ada, ADA, suites=(CLASSICAL.id,), optimistic=b"hello" if optimistic else b""
        ) as secure:
            if not optimistic:
                await secure.send_all(b"hello")
            assert await secure.receive_some() == b"to hello"
            turns = line.turns
    assert turns == (4 if optimistic else 6)


async def test_who_rejects_a_dialer_never_sees_what_came_with_the_ack() -> None:
    at_ada, at_bob = memory_stream_pair()
    asked: list[Introduction] = []

    async def policy(introduction: Introduction) -> Decision:
        asked.append(introduction)
        return await only()(introduction)

    async def answer() -> None:
        with pytest.raises(Exception, match="IDENTITY_UNKNOWN"):
            await respond(at_bob, BOB, trust=policy, suites=(CLASSICAL.id,), limits=QUICK)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(Rejected):
            await initiate(at_ada, ADA, suites=(CLASSICAL.id,), optimistic=b"secret", limits=QUICK)
    assert len(asked) == 1


async def test_who_answers_in_the_place_of_whom_we_dialed_never_sees_it() -> None:
    at_ada, at_eve = memory_stream_pair()
    hand = ByHand(at_eve)

    async def answer() -> None:
        await hand.hear_flight()
        await hand.say(hand.syn_ack())
        assert await hand.hear_to_end() == alert(0x0A)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(WrongIdentity):
            await initiate(at_ada, ADA, expect=BOB.id, suites=(CLASSICAL.id,), optimistic=b"secret", limits=QUICK)


async def test_too_much_of_it_is_refused_before_anything_is_sent() -> None:
    at_ada, at_bob = memory_stream_pair()
    with pytest.raises(ValueError, match="16001 bytes of optimistic data, the limit is 16000"):
        await initiate(at_ada, ADA, optimistic=bytes(16_001))
    async with met() as two:
        with pytest.raises(ValueError, match="the limit is 16000"):
            await two.at_ada.open_stream("echo/1", bytes(16_001))
        with pytest.raises(ValueError, match="the limit is 16000"):
            await two.ada.open_stream(two.bob.id, "echo/1", bytes(16_001))
    await at_bob.aclose()


async def echoing(peer: Peer) -> str:
    """The invite of a peer that echoes."""
    peer.handle("echo/1", echo)
    return (await peer.listen(ANYWHERE)).invite


def two_peers() -> tuple[Peer, Peer]:
    return (
        Peer(ADA, limits=QUICK, suites=(CLASSICAL.id,)),
        Peer(BOB, limits=QUICK, suites=(CLASSICAL.id,)),
    )


@pytest.mark.parametrize("size", [0, 5, 16_000])
async def test_a_peer_opens_a_stream_with_its_dial(size: int) -> None:
    ada, bob = two_peers()
    async with ada, bob:
        stream = await ada.open_stream(await echoing(bob), "echo/1", bytes(size))
        if not size:
            await stream.send_all(b"later")
        received = b""
        while len(received) < (size or 5):
            received += await stream.receive_some()
        assert received == (bytes(size) or b"later")
        assert stream.is_ours
        assert stream.connection is ada.connection(bob.id)
        await stream.aclose()
        assert stream.connection.is_open
        await ada.aclose(finish=0)


async def test_with_a_peer_that_is_connected_no_second_dial_is_made() -> None:
    async with met() as two:
        two.bob.handle("echo/1", echo)
        stream = await two.ada.open_stream(two.bob.id, "echo/1", b"hello")
        assert await stream.receive_some() == b"hello"
        assert stream.connection is two.at_ada
        assert two.ada.statistics().dialed == 1


async def test_of_several_addresses_that_are_known_the_first_to_accept_is_asked() -> None:
    ada, bob = two_peers()
    async with ada, bob:
        invite = await echoing(bob)
        ada.learn(invite)
        ada.learn((await bob.listen(ANYWHERE)).invite)
        stream = await ada.open_stream(bob.id, "echo/1", b"hello")
        assert await stream.receive_some() == b"hello"
        await ada.aclose(finish=0)


async def test_a_stream_that_is_refused_leaves_the_connection_open() -> None:
    ada, bob = two_peers()
    async with ada, bob:
        with pytest.raises(UnknownProtocol):
            await ada.open_stream(await echoing(bob), "other/1", b"hello")
        (connection,) = ada.connections
        assert connection.streams == ()
        async with await connection.open_stream("echo/1") as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        await ada.aclose(finish=0)


async def test_a_handler_sees_nothing_of_a_dialer_whom_the_policy_rejects() -> None:
    seen: list[Stream] = []

    async def remember(stream: Stream) -> None:
        seen.append(stream)

    bob = Peer(BOB, trust=only(), limits=QUICK, suites=(CLASSICAL.id,))
    async with bob, two_peers()[0] as ada:
        bob.handle("echo/1", remember)
        with pytest.raises(Rejected, match="IDENTITY_UNKNOWN"):
            await ada.open_stream((await bob.listen(ANYWHERE)).invite, "echo/1", b"hello")
        assert ada.connections == ()
    assert seen == []


async def test_who_answers_no_stream_is_given_up_and_the_stream_reset(socket_clock: MockClock) -> None:
    async def never(introduction: Introduction) -> Decision:
        await trio.sleep_forever()
        return accept()

    async def handler(stream: Stream) -> None:
        raise AssertionError("it was never accepted")

    ada = Peer(ADA, limits=replace(QUICK, open_stream=0.05), suites=(CLASSICAL.id,))
    async with ada, two_peers()[1] as bob:
        bob.handle("slow/1", handler, trust=never)
        with pytest.raises(StreamTimeout):
            await ada.open_stream((await bob.listen(ANYWHERE)).invite, "slow/1", b"hello")
        (connection,) = ada.connections
        assert connection.streams == ()


async def test_a_target_or_a_protocol_that_is_none_is_refused_before_anything_is_dialed() -> None:
    ada, _ = two_peers()
    async with ada:
        with pytest.raises(InvalidAddress):
            await ada.open_stream("nowhere", "echo/1")
        with pytest.raises(ValueError, match="1 to 128 bytes"):
            await ada.open_stream("tcp://127.0.0.1:1", "")
    assert ada.statistics().failed == {}


async def test_a_request_goes_along_with_the_opening_of_its_stream() -> None:
    async with linked_by_hand(memory_pair) as (connection, hand), trio.open_nursery() as nursery:
        nursery.start_soon(connection.request, "double/1", 21)
        type_, content = await hand.hear_record()
        assert type_ is RecordType.DATA
        assert b"double/1" in content
        assert content.endswith(b"\x00\x00\x00\x01\x15")  # a message of one byte: 21
        nursery.cancel_scope.cancel()


async def test_a_large_request_waits_until_it_is_welcome() -> None:
    async with linked_by_hand(memory_pair) as (connection, hand), trio.open_nursery() as nursery:
        nursery.start_soon(connection.request, "double/1", bytes(16_000))
        assert len((await hand.hear_record())[1]) < 100
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("round_", range(5))
async def test_two_who_ask_each_other_at_once_are_both_answered_over_one_connection(round_: int) -> None:
    ada, bob = two_peers()
    answers: dict[str, bytes] = {}
    async with ada, bob:
        at_ada, at_bob = await echoing(ada), await echoing(bob)

        async def ask(peer: Peer, invite: str, question: bytes) -> None:
            stream = await peer.open_stream(invite, "echo/1", question)
            answers[invite] = await stream.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, ada, at_bob, b"bob?")
            nursery.start_soon(ask, bob, at_ada, b"ada?")
        assert answers == {at_bob: b"bob?", at_ada: b"ada?"}
        assert len(ada.connections) == len(bob.connections) == 1
        await ada.aclose(finish=0)
