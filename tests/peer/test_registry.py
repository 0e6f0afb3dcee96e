"""_registry.py: which connections a peer has, and what becomes of a second one with the same identity.

Dials that cross are in test_crossing.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    CloseCode,
    Connection,
    Identity,
    Limits,
    Listener,
    Peer,
    PeerId,
    Rejected,
    Role,
    VerdictCode,
)
from trishake._registry import Registry
from trishake_protocol.messages import Ping, RecordType
from trishake_protocol.patterns import CLASSICAL

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    QUICK,
    SETTLED,
    ByHand,
    arrival,
    connect,
    reset,
)

SOON = replace(QUICK, duplicate_ping=0.2)


def peer(identity: Identity, **options: Any) -> Peer:
    return Peer(identity, **{"limits": SOON, "suites": (CLASSICAL.id,), **options})


@asynccontextmanager
async def called_by_hand(listener: Listener, identity: Identity = EVE) -> AsyncIterator[ByHand]:
    """A dialer in our hands, to whom READY was said."""
    async with await connect(listener) as stream:
        hand = ByHand(stream, identity)
        await hand.call(BOB.id)
        assert (await hand.hear_verdict()).code is VerdictCode.READY
        yield hand


async def answer_pings(hand: ByHand) -> None:
    while True:
        type_, content = await hand.hear_record()
        if type_ is not RecordType.PING:
            return
        await hand.say(hand.record(RecordType.PING, Ping(Ping.decode(content).payload, answer=True).encode()))


def ids(connections: tuple[Connection, ...]) -> set[bytes]:
    return {connection.session_id for connection in connections}


# --- what there is --------------------------------------------------------------------------------------


async def test_a_peer_knows_its_connections_whoever_dialed() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada, peer(EVE) as eve:
        assert bob.connections == ()
        assert bob.connection(ADA.id) is None
        listener = await bob.listen(ANYWHERE)
        arrivals = bob.arrivals()
        at_ada = await ada.dial(listener.invite)
        from_ada = await anext(arrivals)
        to_eve = await bob.dial((await eve.listen(ANYWHERE)).invite)
        assert await anext(arrivals) is to_eve
        assert bob.connections == (from_ada, to_eve)
        assert (bob.connection(ADA.id), bob.connection(EVE.id)) == (from_ada, to_eve)
        assert (from_ada.role, to_eve.role) == (Role.RESPONDER, Role.INITIATOR)
        assert ada.connections == (at_ada,)
        assert bob.connection(PeerId(ADA.id.key)) is from_ada  # an id is its key

        await at_ada.aclose()
        await from_ada.closed()
        assert bob.connections == (to_eve,)
        assert bob.connection(ADA.id) is None


async def test_where_there_are_several_with_one_peer_the_newest_is_given() -> None:
    limits = replace(SOON, connections_per_identity=3)
    async with peer(BOB, limits=limits) as bob, peer(ADA, limits=limits) as ada:
        listener = await bob.listen(ANYWHERE)
        dialed = [await ada.dial(listener.invite) for _ in range(3)]
        assert ada.connections == tuple(dialed)
        assert ada.connection(BOB.id) is dialed[2]
        await dialed[2].aclose()
        assert ada.connection(BOB.id) is dialed[1]


async def test_arrivals_are_those_that_are_open_and_then_each_as_it_opens() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada, peer(EVE) as eve:
        listener = await bob.listen(ANYWHERE)
        await ada.dial(listener.invite)
        await arrival(bob)
        arrivals, others = bob.arrivals(), bob.arrivals()
        assert (await anext(arrivals)).peer == ADA.id
        await eve.dial(listener.invite)
        assert (await anext(arrivals)).peer == EVE.id
        assert [(await anext(others)).peer for _ in range(2)] == [ADA.id, EVE.id]  # who looks later misses none


async def test_arrivals_that_have_ended_before_anyone_looked_are_left_out() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada, peer(EVE) as eve:
        listener = await bob.listen(ANYWHERE)
        arrivals = bob.arrivals()
        gone = await ada.dial(listener.invite)
        at_bob = await arrival(bob)
        await gone.aclose()
        await at_bob.closed()
        await eve.dial(listener.invite)
        assert (await anext(arrivals)).peer == EVE.id


async def test_whoever_waits_for_arrivals_wakes_when_the_peer_leaves() -> None:
    async def wait(bob: Peer) -> None:
        assert [connection async for connection in bob.arrivals()] == []
        woken.set()

    woken = trio.Event()
    async with trio.open_nursery() as nursery:
        async with peer(BOB) as bob:
            nursery.start_soon(wait, bob)
            await wait_all_tasks_blocked()
        await woken.wait()


# --- duplicates -----------------------------------------------------------------------------------------


async def test_a_second_connection_is_a_duplicate_while_the_first_one_lives() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen(ANYWHERE)
        first = await ada.dial(listener.invite)
        with pytest.raises(Rejected) as caught:
            await ada.dial(listener.invite)
        assert caught.value.reason is VerdictCode.DUPLICATE
        assert caught.value.authenticated
        assert not caught.value.retryable
        assert "Use that one (`Peer.connection`)" in str(caught.value)
        assert ada.connections == (first,)
        assert await first.ping() < 5
        await first.aclose()
        assert (await ada.dial(listener.invite)).peer == BOB.id


async def test_whoever_answers_the_ping_by_hand_is_not_replaced_either() -> None:
    async with peer(BOB) as bob, trio.open_nursery() as nursery:
        listener = await bob.listen(ANYWHERE)
        async with called_by_hand(listener) as hand, peer(EVE) as eve:
            nursery.start_soon(answer_pings, hand)
            with pytest.raises(Rejected, match="DUPLICATE"):
                await eve.dial(listener.invite)
            nursery.cancel_scope.cancel()


async def test_a_dead_connection_is_replaced_and_told_so(socket_clock: MockClock) -> None:
    async with peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        async with called_by_hand(listener) as dead, peer(EVE) as eve:
            old = await arrival(bob)
            started = trio.current_time()
            new = await eve.dial(listener.invite)
            assert trio.current_time() - started >= SOON.duplicate_ping
            end = await old.closed()
            assert (end.code, end.by_peer) == (CloseCode.REPLACED, False)
            assert (await dead.hear_record())[0] is RecordType.PING
            assert (await dead.hear_close()).code is CloseCode.REPLACED
            await wait_all_tasks_blocked(SETTLED)
            assert ids(bob.connections) == {new.session_id}
            assert await new.ping() < 5


async def test_a_dead_connection_is_told_so_though_the_peer_leaves_at_once(socket_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        heard: list[CloseCode | int] = []

        async def hear(hand: ByHand) -> None:
            assert (await hand.hear_record())[0] is RecordType.PING
            heard.append((await hand.hear_close()).code)
            await hand.stream.aclose()

        async with peer(BOB, limits=replace(SOON, close=5)) as bob:
            listener = await bob.listen(ANYWHERE)
            dead = ByHand(await connect(listener), EVE)
            await dead.call(BOB.id)
            await dead.hear_verdict()
            nursery.start_soon(hear, dead)
            async with called_by_hand(listener) as second:
                await second.stream.aclose()
    assert heard == [CloseCode.REPLACED]


async def test_one_that_is_cut_already_stands_in_nobodys_way() -> None:
    async with peer(BOB, limits=replace(SOON, duplicate_ping=30)) as bob, peer(EVE) as eve:
        listener = await bob.listen(ANYWHERE)
        async with called_by_hand(listener):
            await arrival(bob)
        with trio.fail_after(5):
            assert (await eve.dial(listener.invite)).peer == BOB.id


async def test_where_several_are_allowed_the_oldest_is_asked(socket_clock: MockClock) -> None:
    limits = replace(SOON, connections_per_identity=2)
    async with peer(BOB, limits=limits) as bob:
        listener = await bob.listen(ANYWHERE)
        async with called_by_hand(listener) as oldest, called_by_hand(listener) as second:
            old, newer = bob.connections
            async with called_by_hand(listener):
                assert (await old.closed()).code is CloseCode.REPLACED
                assert newer in bob.connections
                assert (await oldest.hear_record())[0] is RecordType.PING
                await oldest.stream.aclose()
                with trio.move_on_after(SETTLED) as scope:
                    await second.hear(1)
                assert scope.cancelled_caught  # nobody has asked it anything


async def test_of_many_who_come_at_once_one_is_taken() -> None:
    """Each is decided in its turn."""
    ends: list[VerdictCode | int] = []

    async def dial(listener: Listener) -> None:
        async with await connect(listener) as stream:
            hand = ByHand(stream, EVE)
            await hand.call(BOB.id)
            verdict = await hand.hear_verdict()
            ends.append(verdict.code)
            if verdict.code is VerdictCode.READY:
                await answer_pings(hand)

    async with peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(dial, listener)
            while len(ends) < 5:
                await trio.sleep(0.001)
            assert len(bob.connections) == 1
            nursery.cancel_scope.cancel()
    assert Counter(ends) == {VerdictCode.READY: 1, VerdictCode.DUPLICATE: 4}


async def test_a_connection_that_ends_while_it_is_asked_makes_room() -> None:
    async with peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        async with called_by_hand(listener) as first, await connect(listener) as stream:
            again = ByHand(stream, EVE)
            await again.call(BOB.id)
            assert (await first.hear_record())[0] is RecordType.PING
            assert isinstance(first.stream, trio.SocketStream)
            await reset(first.stream)
            assert (await again.hear_verdict()).code is VerdictCode.READY
            assert len(bob.connections) == 1
        await bob.aclose(finish=0)


async def test_an_identity_that_waits_for_its_turn_holds_up_no_other() -> None:
    async with peer(BOB, limits=Limits(duplicate_ping=5, close=0.1, drain_after_verdict=0.1)) as bob:
        listener = await bob.listen(ANYWHERE)
        async with (
            called_by_hand(listener),
            await connect(listener) as stream,
            peer(ADA) as ada,
        ):
            again = ByHand(stream, EVE)
            await again.call(BOB.id)  # and Bob asks the first one
            with trio.fail_after(3):
                assert (await ada.dial(listener.invite)).peer == BOB.id
        await bob.aclose(finish=0)


# --- turns ------------------------------------------------------------------------------------------------


async def test_turns_come_in_order_one_at_a_time_and_leave_nothing_behind() -> None:
    registry = Registry(ADA.id, Limits(), lambda *_: None)
    order: list[str] = []
    inside = 0

    async def come(name: str, scope: trio.CancelScope, fails: bool = False) -> None:
        nonlocal inside
        with scope, suppress(ZeroDivisionError):
            async with registry.turn(BOB.id):
                inside += 1
                try:
                    assert inside == 1
                    order.append(name)
                    for _ in range(3):
                        await trio.lowlevel.checkpoint()
                    if fails:
                        raise ZeroDivisionError
                finally:
                    inside -= 1

    scopes = {name: trio.CancelScope() for name in ("first", "fails", "gives up", "third", "cut", "last")}
    async with trio.open_nursery() as nursery:
        async with registry.turn(BOB.id):
            for name, scope in scopes.items():
                nursery.start_soon(come, name, scope, name == "fails")
                await wait_all_tasks_blocked()
            scopes["gives up"].cancel()  # while it waits
        while order[-1:] != ["cut"]:
            await trio.lowlevel.checkpoint()
        scopes["cut"].cancel()  # in its turn
    assert order == ["first", "fails", "third", "cut", "last"]
    assert not registry._turns
    async with registry.turn(BOB.id):  # and it is free again
        assert list(registry._turns) == [BOB.id]


async def test_whoever_comes_between_the_end_of_a_turn_and_the_next_waits_behind() -> None:
    registry = Registry(ADA.id, Limits(), lambda *_: None)
    order: list[str] = []

    async def come(name: str) -> None:
        async with registry.turn(BOB.id):
            order.append(name)
            await trio.lowlevel.checkpoint()
            order.append(name)

    async with trio.open_nursery() as nursery:
        async with registry.turn(BOB.id):
            nursery.start_soon(come, "who waits")
            await wait_all_tasks_blocked()
        await come("who comes now")
    assert order == ["who waits"] * 2 + ["who comes now"] * 2


@dataclass
class Opened:
    """What `objection` asks of a connection."""

    role: Role
    opened_at: float
    is_open: bool = True


@pytest.mark.parametrize(
    ("kept", "objects"),
    [
        ([Opened(Role.INITIATOR, 1), Opened(Role.INITIATOR, 7)], True),
        ([Opened(Role.INITIATOR, 7), Opened(Role.RESPONDER, 8)], True),
        ([Opened(Role.INITIATOR, 7), Opened(Role.INITIATOR, 8, is_open=False)], True),
        ([Opened(Role.INITIATOR, 1), Opened(Role.INITIATOR, 5)], False),  # before it began, or as it did
        ([Opened(Role.INITIATOR, 1), Opened(Role.RESPONDER, 7)], False),
    ],
)
async def test_a_dial_of_ours_that_has_crossed_theirs_is_found_among_older_and_newer_ones(
    kept: list[Any], objects: bool
) -> None:
    ours, theirs = sorted((ADA.id, BOB.id), key=lambda id_: id_.key, reverse=True)
    registry = Registry(ours, Limits(connections_per_identity=9), lambda *_: None)
    registry._connections[theirs] = kept
    objection = await registry.objection(theirs, since=5)
    assert (objection is not None) == objects
    if objection is not None:
        assert objection.reason is VerdictCode.CROSSING
