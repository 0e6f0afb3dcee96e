"""_signer.py: peers whose key is held elsewhere; a signer that is slow, wrong, or fails ends one greeting only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    AlertCode,
    Connection,
    DialError,
    Identity,
    Peer,
    Refused,
    Rejected,
    Role,
    SecureStream,
    Stream,
    only,
)
from trishake._errors import SigningFailed
from trishake._signer import Signer
from trishake_protocol import GreetingToSign
from trishake_protocol.patterns import CLASSICAL

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    MEMORY_AND_TCP,
    QUICK,
    StreamPairMaker,
    Watch,
    cancelled_at,
    memory_pair,
    open_sockets,
    outcomes,
    side,
)

Sign = Callable[[GreetingToSign], Awaitable[Any]]

BOTH_ROLES = pytest.mark.parametrize("role", Role, ids=lambda role: role.value)


class Elsewhere(Signer):
    """Has the key of an identity after all, and signs as a test wants. Counts who waits for it."""

    def __init__(self, identity: Identity, sign: Sign | None = None) -> None:
        super().__init__(identity.id)
        self._identity = identity
        self.behave = sign
        self.asked = 0
        self.under_way = 0

    def right(self, greeting: GreetingToSign) -> bytes:
        return self._identity.sign_greeting(*GreetingToSign.parse(greeting.text, self.id))

    async def sign(self, greeting: GreetingToSign) -> bytes:
        self.asked += 1
        self.under_way += 1
        try:
            await trio.lowlevel.checkpoint()
            return self.right(greeting) if self.behave is None else await self.behave(greeting)
        finally:
            self.under_way -= 1


def peer(identity: Identity | Signer, **options: Any) -> Peer:
    return Peer(identity, **{"limits": QUICK, "suites": (CLASSICAL.id,), **options})


async def never(_: GreetingToSign) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


async def fail_to_dial(dialer: Peer, invite: str) -> DialError:
    with pytest.raises(DialError) as caught:
        await dialer.dial(invite)
    return caught.value


# --- it works -------------------------------------------------------------------------------------------


@MEMORY_AND_TCP
async def test_two_meet_whose_keys_are_both_elsewhere(transport: StreamPairMaker) -> None:
    ada, bob = Elsewhere(ADA), Elsewhere(BOB)
    at_ada, at_bob = await outcomes(
        await transport(),
        side(ada, expect=BOB.id),
        side(bob, trust=only(ADA.id)),
    )
    assert isinstance(at_ada, SecureStream)
    assert isinstance(at_bob, SecureStream)
    assert (at_ada.peer, at_bob.peer) == (BOB.id, ADA.id)
    assert (ada.asked, bob.asked) == (1, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_ada.send_all, b"hello")
        assert await at_bob.receive_some() == b"hello"
        nursery.start_soon(at_ada.aclose)
        nursery.start_soon(at_bob.aclose)


@BOTH_ROLES
async def test_optimistic_data_goes_along_with_an_ack_that_was_signed_elsewhere(role: Role) -> None:
    ada, bob = (Elsewhere(ADA), BOB) if role is Role.INITIATOR else (ADA, Elsewhere(BOB))
    at_ada, at_bob = await outcomes(
        await memory_pair(),
        side(ada, optimistic=b"early"),
        side(bob),
    )
    assert isinstance(at_ada, SecureStream)
    assert isinstance(at_bob, SecureStream)
    assert await at_bob.receive_some() == b"early"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_ada.aclose)
        nursery.start_soon(at_bob.aclose)


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def test_peers_open_a_stream_with_the_dial() -> None:
    ada, bob = Elsewhere(ADA), Elsewhere(BOB)
    async with peer(ada) as guest, peer(bob, trust=only(ADA.id)) as host:
        assert (guest.id, host.id) == (ADA.id, BOB.id)
        host.handle("echo/1", echo)
        stream = await guest.open_stream((await host.listen(ANYWHERE)).invite, "echo/1", b"early")
        assert await stream.receive_some() == b"early"
        assert guest.statistics().dialed == host.statistics().accepted == 1
    assert (ada.asked, bob.asked) == (1, 1)


async def test_many_greetings_sign_at_once_and_each_gets_its_own(autojump_clock: MockClock) -> None:
    """Nobody waits for another's signature; they are given in the reverse order."""
    waiting: list[trio.Event] = []
    everybody = trio.Event()

    async def last_first(greeting: GreetingToSign) -> bytes:
        mine = trio.Event()
        waiting.append(mine)
        if len(waiting) == 6:
            everybody.set()
        await mine.wait()
        return bob.right(greeting)

    bob = Elsewhere(BOB, last_first)
    guests = [Identity.from_seed(bytes([i]) * 32) for i in range(6)]
    async with peer(bob) as host:
        listener = await host.listen("mem://bob")

        async def call(identity: Identity) -> None:
            async with peer(identity) as guest:
                connection = await guest.dial(listener.invite)
                assert connection.peer == BOB.id
                await connection.aclose()

        async with trio.open_nursery() as nursery:
            for identity in guests:
                nursery.start_soon(call, identity)
            await everybody.wait()
            assert bob.under_way == 6
            for event in reversed(waiting):
                event.set()
                await wait_all_tasks_blocked()
        assert host.statistics().accepted == 6


# --- a signer that fails --------------------------------------------------------------------------------


def raising(error: BaseException) -> Sign:
    async def fail(_: GreetingToSign) -> bytes:
        raise error

    return fail


def giving(value: object) -> Sign:
    async def give(_: GreetingToSign) -> object:
        return value

    return give


async def of_another_greeting(greeting: GreetingToSign) -> bytes:
    return BOB.sign_greeting(greeting.context._replace(handshake_hash=bytes(32)), greeting.record)


async def two_tasks_that_fail(_: GreetingToSign) -> bytes:
    async def fail() -> None:
        raise OSError("one of two")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(fail)
    raise AssertionError


FAILING = pytest.mark.parametrize(
    ("sign", "says"),
    [
        pytest.param(raising(OSError("no device")), "OSError: no device", id="OSError"),
        pytest.param(raising(SigningFailed("it is locked")), ": it is locked", id="SigningFailed"),
        pytest.param(raising(KeyError("x")), "KeyError", id="KeyError"),
        pytest.param(raising(trio.TooSlowError()), "TooSlowError", id="TooSlowError"),
        pytest.param(raising(trio.BrokenResourceError("cut")), "BrokenResourceError: cut", id="Broken"),
        pytest.param(raising(Refused(AlertCode.BUSY, "no time", "")), "signer failed (Refused", id="a DialError"),
        pytest.param(raising(ExceptionGroup("g", [OSError(), KeyError()])), "ExceptionGroup", id="a group"),
        pytest.param(two_tasks_that_fail, "ExceptionGroup", id="a nursery"),
        pytest.param(giving(None), ": a signature is 64 bytes, got NoneType", id="None"),
        pytest.param(giving("x" * 64), ": a signature is 64 bytes, got str", id="str"),
        pytest.param(giving(7), ": a signature is 64 bytes, got int", id="int"),
        pytest.param(giving(b""), ": this is no signature of", id="empty"),
        pytest.param(giving(bytes(64)), ": this is no signature of", id="zeros"),
        pytest.param(giving(bytes(10**6)), ": this is no signature of", id="huge"),
        pytest.param(of_another_greeting, ": this is no signature of", id="another greeting's"),
    ],
)


@FAILING
async def test_a_listener_goes_on_after_a_signer_that_fails(sign: Sign, says: str) -> None:
    bob, watch = Elsewhere(BOB, sign), Watch()
    async with peer(bob, observers=[watch]) as host, peer(ADA) as guest:
        listener = await host.listen("mem://bob")
        error = await fail_to_dial(guest, listener.invite)
        assert isinstance(error, Rejected)
        assert error.reason is AlertCode.BUSY
        ((role, failure),) = watch.failures
        assert role is Role.RESPONDER
        assert isinstance(failure, SigningFailed)
        assert says in str(failure)
        assert host.statistics().refused == {"INTERNAL": 1}
        assert not host.connections
        bob.behave = None
        assert (await guest.dial(listener.invite)).peer == BOB.id


@FAILING
async def test_a_dial_says_that_its_signer_failed_and_the_next_one_succeeds(sign: Sign, says: str) -> None:
    ada, at_ada, at_bob = Elsewhere(ADA, sign), Watch(), Watch()
    async with peer(BOB, observers=[at_bob]) as host, peer(ada, observers=[at_ada]) as guest:
        invite = (await host.listen("mem://bob")).invite
        error = await fail_to_dial(guest, invite)
        assert isinstance(error, SigningFailed)
        assert says in str(error)
        assert error.peer == BOB.id
        assert at_ada.failures == [(Role.INITIATOR, error)]
        assert guest.statistics().failed == {"INTERNAL": 1}
        told = await at_bob.wait_failed()
        assert isinstance(told, Rejected)
        assert told.reason is AlertCode.ABORTED
        assert not host.connections
        ada.behave = None
        assert (await guest.dial(invite)).peer == BOB.id


async def test_a_failure_that_is_none_of_the_signers_goes_on_as_it_is() -> None:
    """Who presses Ctrl-C while a greeting is signed wants to leave, and not a failed greeting."""
    at_ada, at_bob = await memory_pair()
    ada = Elsewhere(ADA, raising(KeyboardInterrupt()))
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await outcomes((at_ada, at_bob), side(ada))


@BOTH_ROLES
async def test_a_signer_never_makes_a_greeting_of_somebody_else(role: Role) -> None:
    """Its id is one, its signatures are another's."""

    class Impostor(Elsewhere):
        async def sign(self, greeting: GreetingToSign) -> bytes:
            return EVE.sign_greeting(*greeting)

    ada, bob = (Impostor(ADA), BOB) if role is Role.INITIATOR else (ADA, Impostor(BOB))
    at_ada, at_bob = await outcomes(await memory_pair(), side(ada), side(bob))
    assert isinstance(at_ada if role is Role.INITIATOR else at_bob, SigningFailed)
    other = at_bob if role is Role.INITIATOR else at_ada
    assert isinstance(other, Rejected)
    assert other.reason is (AlertCode.ABORTED if role is Role.INITIATOR else AlertCode.BUSY)


# --- a signer that is slow ------------------------------------------------------------------------------


async def test_a_slow_signer_is_given_up_and_the_dialer_told_to_come_again(autojump_clock: MockClock) -> None:
    bob, watch = Elsewhere(BOB, never), Watch()
    async with peer(bob, observers=[watch]) as host, peer(ADA, limits=QUICK) as guest:
        listener = await host.listen("mem://bob")
        started = trio.current_time()
        with pytest.raises(DialError):  # both have the same time, and either may be the first to know
            await guest.dial(listener.invite)
        failure = await watch.wait_failed()
        assert isinstance(failure, SigningFailed)
        assert "the time was up" in str(failure)
        assert trio.current_time() - started <= QUICK.greeting + 1
        assert bob.under_way == 0


async def test_a_dialer_with_more_time_hears_busy(autojump_clock: MockClock) -> None:
    bob = Elsewhere(BOB, never)
    async with peer(bob) as host, peer(ADA, limits=replace(QUICK, greeting=60)) as guest:
        started = trio.current_time()
        error = await fail_to_dial(guest, (await host.listen("mem://bob")).invite)
        assert isinstance(error, Rejected)
        assert error.reason is AlertCode.BUSY
        assert trio.current_time() - started == pytest.approx(QUICK.greeting)
        assert bob.under_way == 0


async def test_a_dial_whose_signer_is_slow_ends_in_time(autojump_clock: MockClock) -> None:
    ada = Elsewhere(ADA, never)
    async with peer(BOB) as host, peer(ada) as guest:
        invite = (await host.listen("mem://bob")).invite
        started = trio.current_time()
        error = await fail_to_dial(guest, invite)
        assert isinstance(error, SigningFailed)
        assert "the time was up" in str(error)
        assert trio.current_time() - started == pytest.approx(QUICK.greeting)
        assert ada.under_way == 0


@BOTH_ROLES
async def test_a_signer_whose_nursery_fails_as_it_is_cancelled_harms_nobody(
    role: Role, autojump_clock: MockClock
) -> None:
    """A group of a cancellation and an error: without the former it would go through the greeting's scope."""

    async def clean_up_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("while it was cancelled")

    async def fail_late(_: GreetingToSign) -> bytes:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up_badly)
            nursery.start_soon(trio.sleep_forever)
        raise AssertionError

    signer = Elsewhere(ADA if role is Role.INITIATOR else BOB, fail_late)
    watch = Watch()
    ours = peer(signer, observers=[watch])
    ada, bob = (ours, peer(BOB)) if role is Role.INITIATOR else (peer(ADA), ours)
    async with ada as guest, bob as host:
        invite = (await host.listen("mem://bob")).invite
        await fail_to_dial(guest, invite)
        assert isinstance(await watch.wait_failed(), SigningFailed)
        signer.behave = None
        assert (await guest.dial(invite)).peer == BOB.id


async def test_the_slot_is_given_back(autojump_clock: MockClock) -> None:
    """More dials than there may be greetings at once, all of which fail, and then one that does not."""
    bob = Elsewhere(BOB, raising(OSError()))
    few = replace(QUICK, handshakes=2, handshakes_per_address=2, handshake_burst=10**6)
    async with peer(bob, limits=few) as host, peer(ADA) as guest:
        invite = (await host.listen("mem://bob")).invite
        for _ in range(6):
            await fail_to_dial(guest, invite)
        assert bob.asked == 6
        bob.behave = None
        await guest.dial(invite)


# --- leaving --------------------------------------------------------------------------------------------


@MEMORY_AND_TCP
async def test_a_dial_that_is_cancelled_while_it_is_signed_leaves_nothing_open(transport: StreamPairMaker) -> None:
    ada = Elsewhere(ADA, never)
    async with peer(BOB) as host:
        invite = (await host.listen(ANYWHERE if transport is not memory_pair else "mem://bob")).invite
        async with peer(ada) as guest:
            before = open_sockets()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(guest.dial, invite)
                while not ada.under_way:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            assert ada.under_way == 0
            while open_sockets() - before:  # the listener's end is closed once it has seen ours
                await trio.sleep(0.001)
            assert not guest.connections
            assert not host.connections
            ada.behave = None
            assert (await guest.dial(invite)).peer == BOB.id


async def test_a_dial_that_is_cancelled_at_any_step_leaves_nothing_open() -> None:
    ada = Elsewhere(ADA)
    async with peer(Elsewhere(BOB), limits=replace(QUICK, handshake_burst=10**6)) as host, peer(ada) as guest:
        invite = (await host.listen("mem://bob")).invite

        async def dial() -> None:
            await (await guest.dial(invite)).aclose()

        for step in range(1, 500):
            reached = await cancelled_at(step, dial)
            assert ada.under_way == 0
            if not reached:
                break
            await dial()
        assert not reached
        assert step > 10


@pytest.mark.parametrize("what", ["peer", "listener"])
async def test_who_leaves_while_a_greeting_is_signed_says_so(what: str) -> None:
    bob, watch = Elsewhere(BOB, never), Watch()
    async with peer(bob, observers=[watch]) as host, peer(ADA) as guest:
        listener = await host.listen("mem://bob")
        errors: list[DialError] = []

        async def dial() -> None:
            errors.append(await fail_to_dial(guest, listener.invite))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            while not bob.under_way:
                await trio.sleep(0.001)
            await (host if what == "peer" else listener).aclose()
        (error,) = errors
        assert isinstance(error, Rejected)
        assert error.reason is AlertCode.GOING_AWAY
        failure = await watch.wait_failed()
        assert isinstance(failure, Refused)
        assert failure.reason is AlertCode.GOING_AWAY
        assert bob.under_way == 0


async def test_a_peer_that_leaves_while_its_dial_is_signed_ends_the_dial() -> None:
    ada = Elsewhere(ADA, never)
    async with peer(BOB) as host, peer(ada) as guest:
        invite = (await host.listen("mem://bob")).invite
        errors: list[DialError] = []

        async def dial() -> None:
            errors.append(await fail_to_dial(guest, invite))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            while not ada.under_way:
                await trio.sleep(0.001)
            await guest.aclose()
        (error,) = errors
        assert isinstance(error, Refused)
        assert error.reason is AlertCode.GOING_AWAY


# --- several addresses, and each other ------------------------------------------------------------------


async def test_of_several_addresses_one_opens_and_each_is_signed_for_itself() -> None:
    ada = Elsewhere(ADA)
    async with peer(BOB) as host, peer(ada) as guest:
        invites = [(await host.listen(f"mem://{name}")).invite for name in ("b1", "b2", "b3")]
        connection = await guest.dial(*invites)
        assert connection.peer == BOB.id
        assert len(guest.connections) == 1
        assert ada.asked >= 1


async def test_of_several_addresses_all_fail_where_the_signer_does() -> None:
    ada = Elsewhere(ADA, raising(OSError("unplugged")))
    async with peer(BOB) as host, peer(ada) as guest:
        invites = [(await host.listen(f"mem://{name}")).invite for name in ("b1", "b2")]
        with pytest.raises(SigningFailed, match="unplugged"):
            await guest.dial(*invites)
        assert ada.asked == 2
        assert not guest.connections


async def test_dials_that_cross_become_one_connection() -> None:
    ada, bob = Elsewhere(ADA), Elsewhere(BOB)
    async with peer(ada) as first, peer(bob) as second:
        to_bob = (await second.listen(ANYWHERE)).invite
        to_ada = (await first.listen(ANYWHERE)).invite
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.dial, to_bob)
            nursery.start_soon(second.dial, to_ada)
        assert len(first.connections) == len(second.connections) == 1


async def test_a_dial_that_is_being_signed_gives_way_to_the_one_that_is_kept() -> None:
    """The other side has dialed us meanwhile, and the larger id's dial is the one that stays."""
    smaller, larger = sorted((ADA, BOB), key=lambda identity: identity.id)

    async def answers_only(greeting: GreetingToSign) -> bytes:
        return ours.right(greeting) if greeting.context.role is Role.RESPONDER else await never(greeting)

    ours = Elsewhere(smaller, answers_only)
    async with peer(ours) as first, peer(larger) as second:
        to_us, to_them = [(await one.listen(ANYWHERE)).invite for one in (first, second)]
        dialed: list[Connection] = []

        async def dial() -> None:
            dialed.append(await first.dial(to_them))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            while not ours.under_way:
                await trio.sleep(0.001)
            await second.dial(to_us)
        assert dialed == list(first.connections)
        assert dialed[0].role is Role.RESPONDER
        assert ours.under_way == 0


async def test_a_peer_that_is_kept_is_dialed_again_when_the_key_is_back(autojump_clock: MockClock) -> None:
    ada, watch = Elsewhere(ADA, raising(OSError("unplugged"))), Watch()
    async with peer(BOB) as host, peer(ada, observers=[watch]) as guest:
        keeper = guest.keep((await host.listen("mem://bob")).invite)
        failure = await watch.wait_failed()
        assert isinstance(failure, SigningFailed)
        assert failure.retryable
        await trio.sleep(5)
        assert ada.asked > 1
        ada.behave = None
        assert (await keeper.connected()).peer == BOB.id
