"""_keep.py: a connection that is held, and dialed again; on the virtual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    AlertCode,
    BadHandshake,
    CloseCode,
    Connection,
    ConnectionClosed,
    Decision,
    DialError,
    Introduction,
    Keeper,
    LocalProtocolError,
    NoResponse,
    Peer,
    Refused,
    Rejected,
    Role,
    VerdictCode,
    WrongIdentity,
    accept,
    anyone,
    only,
    reject,
)
from trishake._errors import ChangedIdentity, Untrusted
from trishake._known_peers import KnownPeers

from .conftest import ADA, BOB, EVE, ByHand, alert
from .test_dialing import Places, asked
from .world import CARL, HASTY, by_hand, peer

KEEPING: Final = replace(HASTY, connections_per_identity=1, redial_first=1, redial_longest=16)
"""Pauses between 0.5 and 16 seconds."""

Script = Callable[[ByHand], Awaitable[None]]


def kept_peer(identity: Any = ADA, **options: Any) -> Peer:
    return peer(identity, **{"limits": KEEPING, **options})


def bob_of(**options: Any) -> Peer:
    return kept_peer(BOB, **options)


async def failure_of(keeper: Keeper) -> DialError | ConnectionClosed:
    """Why it has given up."""
    with pytest.raises((DialError, ConnectionClosed)) as caught, trio.fail_after(30):
        await keeper.connected()
    assert caught.value is keeper.failure
    return caught.value


# --- dialing again --------------------------------------------------------------------------------------


async def test_a_peer_that_comes_later_is_connected_when_it_is_there(autojump_clock: MockClock) -> None:
    async with kept_peer() as ada:
        keeper = ada.keep(f"mem://{BOB.id}@bob")
        await trio.sleep(3)
        assert keeper.connection is None
        assert isinstance(keeper.failure, NoResponse)
        async with bob_of() as bob:
            await bob.listen("mem://bob")
            with trio.fail_after(KEEPING.redial_longest):
                connection = await keeper.connected()
            assert connection.peer == bob.id
            assert keeper.connection is connection
            assert keeper.failure is None
            assert ada.connections == (connection,)


@pytest.mark.parametrize("how", [CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.IDLE, CloseCode.INTERNAL])
async def test_when_the_other_side_leaves_it_is_dialed_again(autojump_clock: MockClock, how: CloseCode) -> None:
    async with kept_peer() as ada, bob_of() as bob:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite)
        first = await keeper.connected()
        await bob.connections[0].aclose(how)
        closed = await first.closed()
        started = trio.current_time()
        await wait_all_tasks_blocked()
        assert isinstance(keeper.failure, ConnectionClosed)
        assert keeper.failure.code is closed.code is how
        second = await keeper.connected()
        assert second is not first
        assert 0.5 <= trio.current_time() - started <= 1.1
        assert keeper.failure is None


async def test_when_the_connection_is_cut_or_closed_here_it_is_dialed_again(autojump_clock: MockClock) -> None:
    async with kept_peer() as ada, bob_of() as bob:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite)
        first = await keeper.connected()
        await trio.aclose_forcefully(bob.connections[0])
        await first.closed()
        second = await keeper.connected()
        await second.aclose()
        third = await keeper.connected()
        assert len({first, second, third}) == 3
        assert ada.connections == (third,)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
async def test_pauses_double_and_vary_by_half_up_to_the_longest(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, jitter: float
) -> None:
    monkeypatch.setattr("trishake._keep.random.uniform", lambda low, high: low + (high - low) * jitter)
    places = Places()
    async with kept_peer(transports=[places]) as ada:
        ada.keep("mem://nobody")
        await trio.sleep(55)
    times = [when for _, when in places.asked]
    pauses = [later - sooner for sooner, later in pairwise(times)]
    longest = [min(16, 2**number) for number in range(len(pauses))]
    assert pauses == pytest.approx([(0.5 + jitter / 2) * seconds for seconds in longest])
    assert len(pauses) >= 5


async def test_the_pauses_of_two_peers_differ(autojump_clock: MockClock) -> None:
    places = Places()
    async with kept_peer(transports=[places]) as ada:
        for name in ("one", "two", "three"):
            ada.keep(f"mem://{name}")
        await trio.sleep(40)
    assert {name for name, _ in places.asked} == {"one", "two", "three"}
    times = [when for _, when in places.asked if when]
    assert len({*times}) == len(times)
    for name in ("one", "two", "three"):
        pauses = [b - a for a, b in pairwise(when for which, when in places.asked if which == name)]
        for number, pause in enumerate(pauses):
            assert min(16, 2**number) / 2 <= pause <= min(16, 2**number) + 1e-6


async def test_each_address_has_pauses_of_its_own(autojump_clock: MockClock) -> None:
    """A silent address costs its own time, and the other one is dialed as often as alone."""
    places = Places()
    async with kept_peer(transports=[places]) as ada:
        ada.keep(f"mem://{BOB.id}@one", f"mem://{BOB.id}@two")
        await trio.sleep(50)
    for name in ("one", "two"):
        pauses = [b - a for a, b in pairwise(when for which, when in places.asked if which == name)]
        assert len(pauses) >= 4
        for number, pause in enumerate(pauses):
            assert min(16, 2**number) / 2 <= pause <= min(16, 2**number) + 1e-6


async def test_a_connection_that_has_lasted_is_dialed_again_at_once(autojump_clock: MockClock) -> None:
    async with kept_peer() as ada, bob_of() as bob:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite)
        connection = await keeper.connected()
        await trio.sleep(KEEPING.redial_longest)
        await bob.connections[0].aclose()
        await connection.closed()
        started = trio.current_time()
        await keeper.connected()
        assert trio.current_time() - started < 0.3


async def test_who_accepts_and_closes_at_once_is_not_dialed_in_a_circle(autojump_clock: MockClock) -> None:
    places = Places()
    async with kept_peer(transports=[places]) as ada, bob_of() as bob, trio.open_nursery() as nursery:
        listener = await bob.listen("mem://bob")

        async def close_each() -> None:
            async for connection in bob.arrivals():
                await connection.aclose()

        nursery.start_soon(close_each)
        keeper = ada.keep(listener.invite)
        await trio.sleep(40)
        pauses = [b - a for (_, a), (_, b) in pairwise(places.asked)]
        assert 3 <= len(pauses) <= 9
        assert pauses[-1] >= 8
        keeper.stop()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [3, 30])
async def test_who_says_when_to_come_back_is_not_dialed_before(autojump_clock: MockClock, seconds: int) -> None:
    """In the verdict, as a policy says it; longer than any pause of ours too."""
    places = Places()

    async def later(_: Introduction) -> Decision:
        return reject(VerdictCode.CAPACITY, retry_after=seconds) if len(places.asked) == 1 else accept()

    async with kept_peer(transports=[places]) as ada, bob_of(trust=later) as bob:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite)
        with trio.fail_after(50):
            await keeper.connected()
        (_, first), (_, second) = places.asked
        assert seconds <= second - first <= seconds + 0.5


DAY: Final = 24 * 60 * 60


async def times_asked(seconds: int, named: bool) -> list[float]:
    """When it is dialed who says once to come back in so many seconds, under its key."""
    places = Places()

    async def later(_: Introduction) -> Decision:
        return reject(VerdictCode.CAPACITY, retry_after=seconds) if len(places.asked) == 1 else accept()

    async with kept_peer(transports=[places]) as ada, bob_of(trust=later) as bob:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite if named else "mem://bob")
        with trio.fail_after(2 * DAY):
            await keeper.connected()
    return [when for _, when in places.asked]


@pytest.mark.parametrize(
    ("seconds", "named", "pause"),
    [
        (DAY - 1, True, DAY - 1),
        (DAY + 60, True, DAY),
        (2**63, True, DAY),
        (2**64 - 1, True, DAY),
        (2**64 - 1, False, KEEPING.redial_longest),
    ],
)
def test_who_says_to_come_back_much_later_is_dialed_again_all_the_same(
    seconds: int, named: bool, pause: float
) -> None:
    """In a day by the word of whom the address names, and in the longest pause by that of whoever stands there."""
    first, second = trio.run(times_asked, seconds, named, clock=MockClock(autojump_threshold=0))
    assert pause <= second - first <= pause + 1


async def test_who_says_in_clear_when_to_come_back_is_not_dialed_before_either(autojump_clock: MockClock) -> None:
    places = Places()

    async def be_busy(hand: ByHand) -> None:
        await hand.hear_flight()
        await hand.say(alert(AlertCode.BUSY.value, b"\x00\x07"))
        await hand.hear_to_end()

    async with by_hand(be_busy, "busy") as invite, kept_peer(transports=[places]) as ada:
        ada.keep(invite)
        await trio.sleep(20)
    pauses = [b - a for (_, a), (_, b) in pairwise(places.asked)]
    assert all(7 <= pause <= 16.5 for pause in pauses)
    assert 1 <= len(pauses) <= 2


# --- what anyone on the path can bring about ------------------------------------------------------------


async def speak_http(hand: ByHand) -> None:
    await hand.say(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await hand.hear_to_end()
    await hand.stream.aclose()


async def echo_bytes(hand: ByHand) -> None:
    with suppress(trio.BrokenResourceError):
        while data := await hand.stream.receive_some():
            await hand.stream.send_all(data)
    await hand.stream.aclose()


def saying(said: bytes) -> Script:
    async def say(hand: ByHand) -> None:
        await hand.hear_flight()
        await hand.say(said)
        await hand.hear_to_end()

    return say


async def damage_the_signature(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.say(hand.syn_ack(signature=bytes(64)))
    await hand.hear_to_end()


FORGED: Final = {
    **{code.name: (saying(alert(code.value)), Rejected) for code in AlertCode if code is not AlertCode.ABORTED},
    "an unknown code": (saying(alert(0x7F)), Rejected),
    "HTTP": (speak_http, NoResponse),
    "an echo": (echo_bytes, NoResponse),
    "a bad signature": (damage_the_signature, BadHandshake),
}


@pytest.mark.parametrize(("script", "kind"), FORGED.values(), ids=FORGED)
async def test_what_nobody_has_proved_ends_no_address(
    autojump_clock: MockClock, script: Script, kind: type[DialError]
) -> None:
    """The pause grows as it does for silence, and the first cause is remembered."""
    places = Places()
    async with kept_peer(transports=[places]) as ada:
        async with by_hand(script, "bob") as invite:
            keeper = ada.keep(invite)
            await trio.sleep(32)
            assert isinstance(keeper.failure, kind)
            first = keeper.failure
        times = [when for _, when in places.asked]
        pauses = [later - sooner for sooner, later in pairwise(times)]
        assert len(pauses) >= 4
        for number, pause in enumerate(pauses):
            assert min(16, 2**number) / 2 <= pause <= min(16, 2**number) + 1
        await trio.sleep(5)
        assert keeper.failure is first
        async with peer(EVE) as eve:
            await eve.listen("mem://bob")
            with trio.fail_after(KEEPING.redial_longest + 1):
                assert (await keeper.connected()).peer == eve.id


async def test_a_forged_time_to_come_back_is_no_longer_than_the_longest_pause(autojump_clock: MockClock) -> None:
    places = Places()
    forged = saying(alert(AlertCode.BUSY.value, b"\xff\xff"))
    async with by_hand(forged, "bob") as invite, kept_peer(transports=[places]) as ada:
        ada.keep(invite)
        await trio.sleep(40)
    pauses = [b - a for (_, a), (_, b) in pairwise(places.asked)]
    assert len(pauses) == 2
    assert all(KEEPING.redial_longest <= pause <= KEEPING.redial_longest + 1 for pause in pauses)


async def test_a_stranger_in_the_place_of_a_peer_does_not_end_its_address(autojump_clock: MockClock) -> None:
    """Whoever is on the path can answer under a key of his own; when he has gone, the peer is there."""
    places = Places()
    async with kept_peer(transports=[places]) as ada:
        async with peer(EVE) as eve:
            await eve.listen("mem://bob")
            keeper = ada.keep(f"mem://{BOB.id}@bob")
            await trio.sleep(20)
            assert isinstance(keeper.failure, WrongIdentity)
            assert keeper.connection is None
            assert 4 <= len(places.asked) <= 7
        async with bob_of() as bob:
            await bob.listen("mem://bob")
            with trio.fail_after(KEEPING.redial_longest + 1):
                assert (await keeper.connected()).peer == bob.id


async def test_a_stranger_at_one_address_does_not_keep_the_other_from_being_dialed(
    autojump_clock: MockClock,
) -> None:
    places = Places()
    async with peer(EVE) as eve, kept_peer(transports=[places]) as ada:
        await eve.listen("mem://one")
        keeper = ada.keep(f"mem://{BOB.id}@one", f"mem://{BOB.id}@two")
        await trio.sleep(10)
        assert [name for name, _ in places.asked].count("two") >= 3
        assert isinstance(keeper.failure, WrongIdentity)
        async with bob_of() as bob:
            await bob.listen("mem://two")
            assert (await keeper.connected()).peer == bob.id


@pytest.mark.parametrize("who", ["we", "they"])
async def test_a_stranger_where_nobody_was_named_does_not_end_its_address(
    autojump_clock: MockClock, who: str
) -> None:
    """Neither if our policy refuses him, nor if he proves his identity to say no."""
    async with kept_peer(trust=only(BOB.id) if who == "we" else anyone) as ada:
        async with peer(EVE, trust=only(CARL.id)) as eve:
            await eve.listen("mem://bob")
            keeper = ada.keep("mem://bob")
            await trio.sleep(10)
            assert isinstance(keeper.failure, Untrusted if who == "we" else Rejected)
        async with bob_of() as bob:
            await bob.listen("mem://bob")
            with trio.fail_after(KEEPING.redial_longest + 1):
                assert (await keeper.connected()).peer == bob.id


async def test_a_changed_identity_does_not_end_its_address(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The one who was known may be back, and the other somebody on the path."""
    policy = KnownPeers(tmp_path / "known")
    await policy.remember("mem://bob", BOB.id)
    async with kept_peer(trust=policy) as ada:
        async with peer(EVE) as eve:
            await eve.listen("mem://bob")
            keeper = ada.keep("mem://bob")
            await trio.sleep(10)
            assert isinstance(keeper.failure, ChangedIdentity)
        async with bob_of() as bob:
            await bob.listen("mem://bob")
            with trio.fail_after(KEEPING.redial_longest + 1):
                assert (await keeper.connected()).peer == bob.id


async def test_our_own_greeting_that_is_sent_back_to_us_does_not_end_its_address(
    autojump_clock: MockClock,
) -> None:
    """Whoever is on the path can lead our dial to our own listener."""
    async with kept_peer() as ada:
        listener = await ada.listen("mem://bob")
        keeper = ada.keep(f"mem://{BOB.id}@bob")
        await trio.sleep(10)
        assert isinstance(keeper.failure, Refused)
        assert keeper.failure.reason is VerdictCode.SELF
        await listener.aclose()
        async with bob_of() as bob:
            await bob.listen("mem://bob")
            with trio.fail_after(KEEPING.redial_longest + 1):
                assert (await keeper.connected()).peer == bob.id


# --- giving up ------------------------------------------------------------------------------------------


async def test_our_own_policys_no_to_whom_the_addresses_name_ends_it(autojump_clock: MockClock) -> None:
    places = Places()
    async with bob_of() as bob, kept_peer(trust=only(EVE.id), transports=[places]) as ada:
        one, other = await bob.listen("mem://one"), await bob.listen("mem://two")
        keeper = ada.keep(one.invite, other.invite)
        assert isinstance(await failure_of(keeper), Untrusted)
        assert "given up" in repr(keeper)
        assert ada._keepers == set()
        await trio.sleep(20)
        assert asked(places) == [("one", 0), ("two", 0)]


async def test_who_blocks_us_is_not_dialed_again_at_any_address(autojump_clock: MockClock) -> None:
    places = Places()

    async def block(_: Introduction) -> Decision:
        return reject(VerdictCode.IDENTITY_BLOCKED)

    async with bob_of(trust=block) as bob, kept_peer(transports=[places]) as ada:
        one, other = await bob.listen("mem://one"), await bob.listen("mem://two")
        keeper = ada.keep(one.invite, other.invite)
        failure = await failure_of(keeper)
        assert isinstance(failure, Rejected)
        assert failure.reason is VerdictCode.IDENTITY_BLOCKED
        assert failure.authenticated
        await trio.sleep(20)
        assert asked(places) == [("one", 0)]


@pytest.mark.parametrize(
    "code", [CloseCode.POLICY, CloseCode.REPLACED, CloseCode.PROTOCOL, CloseCode.FLOW_CONTROL]
)
async def test_a_close_that_says_not_again_ends_it(autojump_clock: MockClock, code: CloseCode) -> None:
    places = Places()
    async with bob_of() as bob, kept_peer(transports=[places]) as ada:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite, f"mem://{BOB.id}@elsewhere")
        await keeper.connected()
        await bob.connections[0].aclose(code, "not again")
        failure = await failure_of(keeper)
        assert isinstance(failure, ConnectionClosed)
        assert (failure.code, failure.text, failure.by_peer) == (code, "not again", True)
        await trio.sleep(20)
        assert asked(places) == [("bob", 0)]


async def test_a_connection_that_we_close_as_policy_ourselves_is_dialed_again(autojump_clock: MockClock) -> None:
    """The code is for the other side; who wants no other connection stops the keeper."""
    async with bob_of() as bob, kept_peer() as ada:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite)
        await (await keeper.connected()).aclose(CloseCode.POLICY)
        assert (await keeper.connected()).is_open


async def test_the_first_cause_is_not_hidden_by_later_ones(autojump_clock: MockClock) -> None:
    async with kept_peer() as ada:
        async with bob_of() as bob:
            listener = await bob.listen("mem://bob")
            keeper = ada.keep(listener.invite)
            await keeper.connected()
        await trio.sleep(10)  # dials that find nobody
        assert isinstance(keeper.failure, ConnectionClosed)
        assert keeper.failure.code is CloseCode.GOING_AWAY
        assert ada.statistics().failed["connect/refused"] >= 2


# --- taking what is there -------------------------------------------------------------------------------


async def test_a_connection_that_the_other_side_has_dialed_is_taken_at_once(autojump_clock: MockClock) -> None:
    """Bob listens nowhere that Ada knows of; he dials her in the middle of a pause, and that is as good."""
    async with kept_peer() as ada, bob_of() as bob:
        listener = await ada.listen("mem://ada")
        keeper = ada.keep(f"mem://{BOB.id}@bob")
        await trio.sleep(2)
        await bob.dial(listener.invite)
        before = trio.current_time()
        connection = await keeper.connected()
        assert trio.current_time() == before
        assert connection.role is Role.RESPONDER
        assert connection.peer == bob.id
        assert keeper.failure is None


async def test_a_connection_that_is_there_already_is_taken_and_nobody_is_dialed(autojump_clock: MockClock) -> None:
    places = Places()
    async with kept_peer(transports=[places]) as ada, bob_of() as bob:
        listener = await bob.listen("mem://bob")
        connection = await ada.dial(listener.invite)
        keeper = ada.keep(listener.invite)
        assert await keeper.connected() is connection
        assert len(places.asked) == 1


async def test_a_duplicate_is_what_is_there_already(autojump_clock: MockClock) -> None:
    """The address names nobody, so that it is only known from the answer."""
    async with kept_peer() as ada, bob_of() as bob:
        await bob.listen("mem://bob")
        connection = await ada.dial("mem://bob")
        keeper = ada.keep("mem://bob")
        assert await keeper.connected() is connection
        await trio.sleep(1)
        assert keeper.failure is None
        assert ada.connections == (connection,)


async def test_two_who_keep_each_other_hold_one_connection(autojump_clock: MockClock) -> None:
    async with kept_peer() as ada, bob_of() as bob:
        at_ada, at_bob = await ada.listen("mem://ada"), await bob.listen("mem://bob")
        keepers = ada.keep(at_bob.invite), bob.keep(at_ada.invite)
        for _ in range(5):
            ends = [await keeper.connected() for keeper in keepers]
            await trio.sleep(2)
            assert [len(one.connections) for one in (ada, bob)] == [1, 1]
            assert [keeper.connection for keeper in keepers] == [ada.connections[0], bob.connections[0]]
            assert ada.connections[0].session_id == bob.connections[0].session_id
            await ada.connections[0].aclose()
            await trio.sleep(3)
        assert ends


# --- stopping -------------------------------------------------------------------------------------------


async def test_stopped_it_leaves_the_connection_and_dials_no_more(autojump_clock: MockClock) -> None:
    places = Places()
    async with kept_peer(transports=[places]) as ada, bob_of() as bob:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite)
        connection = await keeper.connected()
        keeper.stop()
        await trio.sleep(1)
        assert connection.is_open
        assert ada._keepers == set()
        await connection.aclose()
        await trio.sleep(20)
        assert len(places.asked) == 1
        with pytest.raises(ConnectionClosed, match="stopped"):
            await keeper.connected()
        keeper.stop()  # again, it does nothing


@pytest.mark.parametrize("when", ["at once", "connecting", "pausing"])
async def test_stopped_before_there_is_a_connection_it_ends_for_everybody_who_waits(
    autojump_clock: MockClock, when: str
) -> None:
    places = Places(slow=1.5)
    async with kept_peer(transports=[places]) as ada, trio.open_nursery() as nursery:
        keeper = ada.keep("mem://nobody" if when == "pausing" else "mem://slow")
        ends: list[Exception] = []

        async def wait() -> None:
            with pytest.raises((ConnectionClosed, DialError)) as caught:
                await keeper.connected()
            ends.append(caught.value)

        for _ in range(3):
            nursery.start_soon(wait)
        if when != "at once":
            await trio.sleep(1)
        keeper.stop()
        await trio.sleep(0.01)
        assert len(ends) == 3
        kind = NoResponse if when == "pausing" else ConnectionClosed
        assert all(isinstance(end, kind) for end in ends)


async def test_several_wait_for_one_connection(autojump_clock: MockClock) -> None:
    async with kept_peer() as ada, trio.open_nursery() as nursery:
        keeper = ada.keep(f"mem://{BOB.id}@bob")
        ends: list[Connection] = []

        async def wait() -> None:
            ends.append(await keeper.connected())

        for _ in range(5):
            nursery.start_soon(wait)
        await trio.sleep(2)
        async with bob_of() as bob:
            await bob.listen("mem://bob")
            await trio.sleep(5)
            assert len(ends) == 5
            assert len({*ends}) == 1


async def test_the_failure_gathers_no_traces_of_those_who_ask(autojump_clock: MockClock) -> None:
    async with bob_of(trust=only(EVE.id)) as bob, kept_peer() as ada:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite)
        depths: list[int] = []

        async def wait() -> None:
            with pytest.raises(Rejected) as caught:
                await keeper.connected()
            depths.append(len(caught.traceback))

        for _ in range(4):
            await wait()
        assert depths == [depths[0]] * 4


@pytest.mark.parametrize("after", [None, 0, 0.1, 0.7, 2.2])
async def test_leaving_the_block_ends_it_whatever_it_is_doing(
    autojump_clock: MockClock, after: float | None
) -> None:
    """Before its first step, connecting, pausing, and with a connection."""
    places = Places(bob=0.5)
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with kept_peer(BOB) as bob:
        listener = await bob.listen("mem://bob")
        async with kept_peer(transports=[places]) as ada:
            keeper = ada.keep("mem://nobody", listener.invite)
            if after is not None:
                await trio.sleep(after)
            started = trio.current_time()
        assert trio.current_time() - started <= 1
        with pytest.raises((DialError, ConnectionClosed)):
            await keeper.connected()
        await trio.sleep(1)
        assert bob.connections == ()
    assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_keeping_needs_the_block_and_an_address_that_can_be_dialed() -> None:
    ada = peer(ADA)
    with pytest.raises(LocalProtocolError, match="async with"):
        ada.keep("mem://bob")
    async with ada:
        with pytest.raises(ValueError, match="no transport"):
            ada.keep("gopher://bob")
    assert ada._keepers == set()


async def test_the_policy_of_a_keeper_is_asked_at_each_dial(autojump_clock: MockClock) -> None:
    seen: list[Introduction] = []

    async def look(introduction: Introduction) -> Decision:
        seen.append(introduction)
        return accept()

    async with kept_peer(trust=only(EVE.id)) as ada, bob_of() as bob:
        listener = await bob.listen("mem://bob")
        keeper = ada.keep(listener.invite, trust=look)
        for _ in range(2):
            await (await keeper.connected()).aclose()
        await keeper.connected()
    assert [introduction.peer for introduction in seen] == [BOB.id] * 3


@pytest.mark.parametrize("fault", ["raises", "is late"])
async def test_a_policy_that_fails_for_a_while_is_no_reason_to_give_up(
    fault: str, autojump_clock: MockClock
) -> None:
    asked = 0

    async def recovering(_: Introduction) -> Decision:
        nonlocal asked
        asked += 1
        if asked <= 2:
            if fault == "is late":
                await trio.sleep_forever()
            raise OSError
        return accept()

    async with kept_peer(trust=recovering) as ada, bob_of() as bob:
        await bob.listen("mem://bob")
        keeper = ada.keep(f"mem://{BOB.id}@bob")
        with trio.fail_after(60):
            assert (await keeper.connected()).peer == BOB.id
        assert asked == 3


async def test_known_peers_that_are_mended_are_kept_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    known = tmp_path / "known"
    known.write_text("damaged\n")
    known.chmod(0o600)
    async with kept_peer(trust=KnownPeers(known)) as ada, bob_of() as bob:
        await bob.listen("mem://bob")
        keeper = ada.keep("mem://bob")
        await trio.sleep(10)
        assert isinstance(keeper.failure, Untrusted)
        assert "line 1" in str(keeper.failure)
        known.write_text("")
        with trio.fail_after(60):
            assert (await keeper.connected()).peer == BOB.id


async def test_a_changed_identity_of_whom_the_address_names_is_a_reason_to_give_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    policy = KnownPeers(tmp_path / "known")
    await policy.remember("mem://bob", CARL.id)
    async with kept_peer(trust=policy) as ada, bob_of() as bob:
        listener = await bob.listen("mem://bob")
        assert isinstance(await failure_of(ada.keep(listener.invite)), ChangedIdentity)
