"""_dialing.py: several addresses at once, and the addresses that are known of a peer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    Address,
    AlertCode,
    Cause,
    Connection,
    DialError,
    InvalidAddress,
    InvalidPeerId,
    LocalProtocolError,
    Memory,
    NoResponse,
    Phase,
    Place,
    Refused,
    Rejected,
    Untrusted,
    VerdictCode,
    WrongIdentity,
    only,
)
from trishake._dialing import AddressBook
from trishake_protocol.messages import Verdict

from .conftest import ADA, BOB, EVE, ByHand, alert, outcome
from .world import CARL, by_hand, peer


class Places(Memory):
    """Names in memory of which some take their time, or never answer; remembers when which was asked for."""

    def __init__(self, **delays: float) -> None:
        super().__init__()
        self.delays = delays
        self.asked: list[tuple[str, float]] = []
        self._started: float | None = None

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> Any:
        now = trio.current_time()
        self._started = now if self._started is None else self._started
        self.asked.append((address.host, now - self._started))
        await trio.sleep(self.delays.get(address.host, 0))
        return await super().connect(address, place, nursery)


NEVER: Final = 10**6


def asked(places: Places) -> list[tuple[str, float]]:
    return [(name, round(when, 6)) for name, when in places.asked]


async def test_the_second_address_is_dialed_at_once_when_the_first_is_dead(autojump_clock: MockClock) -> None:
    places = Places()
    async with peer(BOB) as bob, peer(ADA, transports=[places]) as ada:
        listener = await bob.listen("mem://bob")
        connection = await ada.dial("mem://nobody", listener.invite)
        assert connection.peer == bob.id
        assert asked(places) == [("nobody", 0), ("bob", 0)]


async def test_the_second_address_is_dialed_beside_a_silent_first_after_a_quarter_of_a_second(
    autojump_clock: MockClock,
) -> None:
    places = Places(silent=NEVER)
    async with peer(BOB) as bob, peer(ADA, transports=[places]) as ada:
        listener = await bob.listen("mem://bob")
        connection = await ada.dial("mem://silent", "mem://silent", listener.invite)
        assert connection.peer == bob.id
        assert asked(places) == [("silent", 0), ("silent", 0.25), ("bob", 0.5)]


async def test_the_first_to_accept_is_taken_and_the_others_end(autojump_clock: MockClock) -> None:
    """Bob takes half a second, Carl a tenth; Carl was dialed a quarter later, and is there first."""
    places = Places(bob=0.5, carl=0.1)
    async with peer(BOB) as bob, peer(CARL) as carl, peer(ADA, transports=[places]) as ada:
        await bob.listen("mem://bob")
        await carl.listen("mem://carl")
        connection = await ada.dial("mem://bob", "mem://carl")
        assert connection.peer == carl.id
        assert trio.current_time() == pytest.approx(places._started + 0.35)
        await trio.sleep(1)
        assert ada.connections == (connection,)
        assert bob.connections == ()


async def test_of_two_that_accept_in_one_moment_one_is_taken_and_the_other_closed(
    autojump_clock: MockClock,
) -> None:
    """Both were dialed in the same tick, behind one that was dead; neither invite says who is there."""
    for _ in range(10):
        async with peer(BOB) as bob, peer(CARL) as carl, peer(ADA) as ada:
            await bob.listen("mem://bob")
            await carl.listen("mem://carl")
            connection = await ada.dial("mem://nobody", "mem://nobody", "mem://bob", "mem://carl")
            await trio.sleep(1)
            assert ada.connections == (connection,)
            assert len(bob.connections) + len(carl.connections) == 1
            assert {*bob.statistics().ended, *carl.statistics().ended} <= {"NORMAL", "cut"}


# --- when all of them fail ------------------------------------------------------------------------------


async def hang_up(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.stream.aclose()


async def be_busy(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.say(alert(AlertCode.BUSY.value, b"\x00\x07"))
    await hand.hear_to_end()


async def say_no(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.say(hand.syn_ack(hand.honest(caps=("mux/1",))))
    await hand.hear_ack()
    await hand.say(hand.verdict(Verdict(VerdictCode.POLICY, text="not today")))
    await hand.hear_to_end()


def anonymous(invite: str) -> str:
    return f"mem://{Address.parse(invite).host}"


@asynccontextmanager
async def failing_ways() -> AsyncIterator[dict[str, str]]:
    """Addresses by how a dial of them fails, of the least telling first."""
    async with (
        by_hand(hang_up, "hang-up") as cut,
        by_hand(be_busy, "busy") as busy,
        by_hand(say_no, "no") as no,
        peer(CARL) as carl,
    ):
        listener = await carl.listen("mem://carl")
        wrong = str(Address.parse(listener.invite).with_peer(BOB.id))
        yield {"refused": "mem://nobody", "closed": cut, "wrong": wrong, "busy": busy, "no": anonymous(no)}


@pytest.mark.parametrize("order", [1, -1], ids=["least telling first", "most telling first"])
async def test_when_all_fail_the_error_that_says_most_is_raised_with_the_others(
    autojump_clock: MockClock, order: int
) -> None:
    kinds = [NoResponse, NoResponse, WrongIdentity, Rejected, Rejected]
    async with failing_ways() as ways, peer(ADA) as ada:
        for most in range(1, len(kinds) + 1):
            end = await outcome(ada.dial, *[*ways.values()][:most][::order])
            assert isinstance(end, DialError)
            assert type(end) is kinds[most - 1]
            assert [type(error) for error in end.attempts] == kinds[: most - 1][::order]
            assert all(error.attempts == () for error in end.attempts)
        assert isinstance(end, Rejected)
        assert end.reason is VerdictCode.POLICY
        assert end.authenticated


async def test_several_that_say_the_same_give_the_first(autojump_clock: MockClock) -> None:
    async with peer(ADA) as ada:
        with pytest.raises(NoResponse) as caught:
            await ada.dial("mem://one", "mem://two", "mem://three")
        assert caught.value.cause is Cause.REFUSED
        assert caught.value.phase is Phase.CONNECT
        assert len(caught.value.attempts) == 2


async def test_a_rejection_under_the_key_of_who_was_dialed_is_final(autojump_clock: MockClock) -> None:
    """Bob says no at one address; his other one, a quarter of a second later, is not even asked."""
    places = Places(bob2=0.0)
    async with peer(BOB, trust=only(EVE.id)) as bob, peer(ADA, transports=[places]) as ada:
        one, other = await bob.listen("mem://bob1"), await bob.listen("mem://bob2")
        with pytest.raises(Rejected, match="IDENTITY_UNKNOWN"):
            await ada.dial(one.invite, other.invite)
        assert asked(places) == [("bob1", 0)]


async def test_a_rejection_by_whoever_stands_there_is_not_final(autojump_clock: MockClock) -> None:
    """The address named nobody: another one may lead to somebody else."""
    async with peer(BOB, trust=only(EVE.id)) as bob, peer(CARL) as carl, peer(ADA) as ada:
        await bob.listen("mem://bob")
        listener = await carl.listen("mem://carl")
        connection = await ada.dial("mem://bob", listener.invite)
        assert connection.peer == carl.id


async def test_an_alert_which_anyone_can_write_is_not_final(autojump_clock: MockClock) -> None:
    async with by_hand(be_busy) as busy, peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen("mem://bob")
        connection = await ada.dial(str(Address.parse(busy).with_peer(bob.id)), listener.invite)
        assert connection.peer == bob.id


async def test_our_own_refusal_of_one_leaves_the_others(autojump_clock: MockClock) -> None:
    async with peer(EVE) as eve, peer(BOB) as bob, peer(ADA, trust=only(BOB.id)) as ada:
        await eve.listen("mem://eve")
        await bob.listen("mem://bob")
        assert (await ada.dial("mem://eve", "mem://bob")).peer == bob.id
        with pytest.raises(Untrusted):
            await ada.dial("mem://eve", "mem://nobody")


async def test_the_policy_of_a_dial_of_several_is_asked_at_each(autojump_clock: MockClock) -> None:
    async with peer(EVE) as eve, peer(BOB) as bob, peer(ADA) as ada:
        await eve.listen("mem://eve")
        await bob.listen("mem://bob")
        assert (await ada.dial("mem://eve", "mem://bob", trust=only(BOB.id))).peer == bob.id


# --- outside the block, and leaving it ------------------------------------------------------------------


@pytest.mark.parametrize("addresses", [["mem://bob"], ["mem://bob", "mem://carl"]], ids=["one", "several"])
async def test_outside_its_block_a_dial_says_so_and_is_no_group(addresses: list[str]) -> None:
    ada = peer(ADA)
    with pytest.raises(LocalProtocolError, match="async with"):
        await ada.dial(*addresses)
    async with ada:
        pass
    with pytest.raises(LocalProtocolError, match="async with"):
        await ada.dial(*addresses)


async def test_leaving_before_the_turn_of_an_address_ends_its_dial(autojump_clock: MockClock) -> None:
    """Ada leaves while the first address is silent; the second one was to be dialed a quarter later."""
    places = Places(silent=0.5)
    ends: list[Connection | DialError] = []

    async def dial(*addresses: str) -> None:
        ends.append(await outcome(ada.dial, *addresses))

    async with trio.open_nursery() as nursery, peer(ADA, transports=[places]) as ada:
        nursery.start_soon(dial, "mem://silent", "mem://bob", "mem://carl")
        await trio.sleep(0.1)
    (end,) = ends
    assert isinstance(end, Refused)
    assert end.reason is AlertCode.GOING_AWAY
    assert end.address == "bob"
    assert [name for name, _ in places.asked] == ["silent"]
    assert ada.statistics().failed["GOING_AWAY"] == 2


# --- by identity ----------------------------------------------------------------------------------------


async def test_who_was_learned_of_is_dialed_by_id_or_by_its_text(autojump_clock: MockClock) -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen("mem://bob")
        ada.learn(listener.invite)
        assert (await ada.dial(bob.id)).peer == bob.id
        assert (await ada.dial(str(bob.id))).peer == bob.id


async def test_who_has_accepted_is_known_from_then_on(autojump_clock: MockClock) -> None:
    """The address named nobody; the connection did."""
    async with peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen("mem://bob")
        await (await ada.dial("mem://bob")).aclose()
        assert (await ada.dial(bob.id)).peer == bob.id
        assert listener.addresses


async def test_the_address_learned_last_is_dialed_first_and_all_of_them_are(autojump_clock: MockClock) -> None:
    places = Places()
    async with peer(BOB) as bob, peer(ADA, transports=[places]) as ada:
        await bob.listen("mem://one")
        for name in ("one", "two", "three"):
            ada.learn(f"mem://{bob.id}@{name}")
        assert (await ada.dial(bob.id)).peer == bob.id
        assert [name for name, _ in places.asked] == ["three", "two", "one"]
        await ada.connections[0].aclose()
        places.asked.clear()
        await ada.dial(bob.id)
        assert [name for name, _ in places.asked] == ["one"]  # where it went well comes first


async def test_known_addresses_come_before_those_that_are_given_too(autojump_clock: MockClock) -> None:
    places = Places()
    async with peer(BOB) as bob, peer(ADA, transports=[places]) as ada:
        listener = await bob.listen("mem://here")
        ada.learn(f"mem://{bob.id}@gone")
        assert (await ada.dial(bob.id, listener.invite)).peer == bob.id
        assert [name for name, _ in places.asked] == ["gone", "here"]


async def test_a_peer_of_whom_nothing_is_known_cannot_be_dialed() -> None:
    async with peer(ADA) as ada:
        for target in (BOB.id, str(BOB.id)):
            with pytest.raises(InvalidAddress, match=str(BOB.id)):
                await ada.dial(target)
            with pytest.raises(InvalidAddress):
                ada.keep(target)
        with pytest.raises((InvalidPeerId, InvalidAddress)):
            await ada.dial("bob")
        with pytest.raises(InvalidAddress):
            await ada.dial("mem://bob", "gopher://bob")
        with pytest.raises(InvalidAddress, match="names no peer"):
            ada.learn("mem://bob")
        assert ada._keepers == set()


async def test_who_is_dialed_by_id_is_nobody_else(autojump_clock: MockClock) -> None:
    async with peer(EVE) as eve, peer(ADA) as ada:
        await eve.listen("mem://bob")
        ada.learn(f"mem://{BOB.id}@bob")
        with pytest.raises(WrongIdentity):
            await ada.dial(BOB.id)
        await ada.dial("mem://bob")
        with pytest.raises(WrongIdentity):
            await ada.dial(BOB.id)


# --- the address book -----------------------------------------------------------------------------------


def test_an_address_book_holds_the_eight_latest_addresses_of_a_peer() -> None:
    book = AddressBook()
    addresses = [Address.parse(f"mem://{BOB.id}@place-{number}") for number in range(10)]
    for address in addresses:
        book.learn(address)
    assert book.of(BOB.id) == addresses[:1:-1]
    book.learn(addresses[2])  # seen again: the latest now, and no other has to go
    assert book.of(BOB.id) == [addresses[2], *addresses[:2:-1]]


def test_an_address_book_holds_the_latest_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trishake._dialing._KNOWN_PEERS", 3)
    book = AddressBook()
    peers = [ADA, BOB, CARL, EVE]
    for identity in peers[:3]:
        book.learn(Address.parse(f"mem://{identity.id}@place"))
    book.learn(Address.parse(f"mem://{ADA.id}@place"))  # seen again: Bob is the oldest now
    book.learn(Address.parse(f"mem://{EVE.id}@place"))
    with pytest.raises(InvalidAddress):
        book.of(BOB.id)
    assert all(book.of(identity.id) for identity in (ADA, CARL, EVE))


def test_what_an_address_book_gives_is_not_the_book() -> None:
    book = AddressBook()
    book.learn(Address.parse(f"mem://{BOB.id}@place"))
    book.of(BOB.id).clear()
    assert book.of(BOB.id)
