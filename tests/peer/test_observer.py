"""_observer.py: whoever watches sees each step once, and each failure once, as the other side does."""

from __future__ import annotations

import pytest
import trio

from trishake import (
    AlertCode,
    Cause,
    DialError,
    Limits,
    NoResponse,
    Observer,
    Peer,
    Phase,
    Refused,
    Rejected,
    Role,
    SecureStream,
    Step,
    Untrusted,
    VerdictCode,
    only,
)

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    MEMORY_AND_TCP,
    QUICK,
    StreamPairMaker,
    Watch,
    arrival,
    closed_port,
    outcomes,
    side,
    tcp_pair,
)


def test_the_steps_are_numbered_as_in_the_specification() -> None:
    initiator, responder = (
        {step.number(role): step for step in Step if step.number(role)}
        for role in (Role.INITIATOR, Role.RESPONDER)
    )
    assert initiator == {1: Step.SYN_SENT, 4: Step.IDENTITY_VERIFIED, 5: Step.ACK_SENT, 7: Step.VERDICT}
    assert responder == {2: Step.SYN_RECEIVED, 3: Step.SYN_ACK_SENT, 6: Step.IDENTITY_VERIFIED, 7: Step.VERDICT}


@MEMORY_AND_TCP
async def test_the_two_sides_see_the_seven_steps_and_the_last_one_both(transport: StreamPairMaker) -> None:
    at_ada, at_bob = Watch(), Watch()
    ada, bob = await outcomes(await transport(), side(ADA, observers=[at_ada]), side(BOB, observers=[at_bob]))
    assert isinstance(ada, SecureStream)
    assert isinstance(bob, SecureStream)
    known = ada.session_id
    assert [(seen.step, seen.peer, seen.session_id) for seen in at_ada.steps] == [
        (Step.SYN_SENT, None, None),
        (Step.SYN_ACK_RECEIVED, BOB.id, None),
        (Step.IDENTITY_VERIFIED, BOB.id, None),
        (Step.POLICY, BOB.id, None),
        (Step.ACK_SENT, BOB.id, known),
        (Step.VERDICT, BOB.id, known),
    ]
    assert [(seen.step, seen.peer, seen.session_id) for seen in at_bob.steps] == [
        (Step.ADMITTED, None, None),
        (Step.SYN_RECEIVED, None, None),
        (Step.SYN_ACK_SENT, None, None),
        (Step.ACK_RECEIVED, ADA.id, known),
        (Step.IDENTITY_VERIFIED, ADA.id, known),
        (Step.POLICY, ADA.id, known),
        (Step.VERDICT, ADA.id, known),
    ]
    assert {(seen.role, seen.address) for seen in at_ada.steps} == {(Role.INITIATOR, ada.address)}
    assert {(seen.role, seen.address) for seen in at_bob.steps} == {(Role.RESPONDER, bob.address)}
    assert at_ada.failures == at_bob.failures == []


@MEMORY_AND_TCP
async def test_the_two_sides_of_a_rejection_see_one_reason_under_one_session_id(
    transport: StreamPairMaker,
) -> None:
    at_ada, at_bob = Watch(), Watch()
    ada, bob = await outcomes(
        await transport(), side(ADA, observers=[at_ada]), side(BOB, observers=[at_bob], trust=only())
    )
    assert at_ada.failures == [(Role.INITIATOR, ada)]
    assert at_bob.failures == [(Role.RESPONDER, bob)]
    assert isinstance(ada, Rejected)
    assert isinstance(bob, Untrusted)
    assert ada.reason == bob.reason == VerdictCode.IDENTITY_UNKNOWN
    assert ada.session_id == bob.session_id
    assert ada.session_id is not None
    assert Step.VERDICT not in {seen.step for seen in at_ada.steps + at_bob.steps}


async def test_an_unauthenticated_refusal_has_no_session_id() -> None:
    at_ada, at_bob = Watch(), Watch()
    ada, bob = await outcomes(
        await tcp_pair(),
        side(ADA, observers=[at_ada], trust=only(), suites=(0x0001,)),
        side(BOB, observers=[at_bob]),
    )
    assert isinstance(ada, DialError)
    assert isinstance(bob, DialError)
    assert ada.session_id is bob.session_id is None
    assert at_ada.failures == [(Role.INITIATOR, ada)]
    assert at_bob.failures == [(Role.RESPONDER, bob)]


async def test_a_dial_that_never_connected_is_seen_too() -> None:
    watch = Watch()
    port = await closed_port()
    async with Peer(ADA, observers=[watch]) as ada:
        with pytest.raises(NoResponse) as caught:
            await ada.dial(f"tcp://{BOB.id}@127.0.0.1:{port}")
    assert watch.failures == [(Role.INITIATOR, caught.value)]
    assert (caught.value.phase, caught.value.cause) == (Phase.CONNECT, Cause.REFUSED)
    assert (caught.value.address, caught.value.peer) == (f"127.0.0.1:{port}", BOB.id)
    assert [seen.step for seen in watch.steps] == [Step.RESOLVED]


async def test_each_greeting_of_a_listener_is_seen_with_where_it_came_from() -> None:
    watch = Watch()
    async with (
        Peer(BOB, trust=only(ADA.id), observers=[watch], limits=QUICK) as bob,
        Peer(ADA, limits=QUICK) as ada,
        Peer(EVE, limits=QUICK) as eve,
    ):
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected) as caught:
            await eve.dial(listener.invite)
        connection = await ada.dial(listener.invite)
        at_bob = await arrival(bob)
        assert watch.steps[-1].address == at_bob.address == connection.seen
    ((role, error),) = watch.failures
    assert role is Role.RESPONDER
    assert (error.peer, error.session_id) == (EVE.id, caught.value.session_id)
    assert [seen.number for seen in watch.steps if seen.number] == [2, 3, 6, 2, 3, 6, 7]


async def test_a_dial_to_oneself_is_seen_as_one_failure_of_the_dial_and_one_of_the_listener() -> None:
    watch = Watch()
    async with Peer(ADA, observers=[watch], limits=QUICK) as ada:
        listener = await ada.listen(ANYWHERE)
        with pytest.raises(Refused):
            await ada.dial(listener.invite)
    failures = dict(watch.failures)
    assert len(watch.failures) == len(failures) == 2
    for error in failures.values():
        assert isinstance(error, Refused)
        assert error.reason is VerdictCode.SELF


async def test_who_is_turned_away_is_seen() -> None:
    watch = Watch()
    full = Limits(handshakes_per_address=0)
    async with Peer(BOB, observers=[watch], limits=full) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected):
            await ada.dial(listener.invite)
    ((role, error),) = watch.failures
    assert role is Role.RESPONDER
    assert isinstance(error, Refused)
    assert error.reason is AlertCode.BUSY
    assert error.address is not None
    assert watch.steps == []  # not admitted


async def test_an_observer_that_watches_nothing_is_the_default_one() -> None:
    ada, bob = await outcomes(await tcp_pair(), side(ADA, observers=[Observer()]), side(BOB))
    assert isinstance(ada, SecureStream)
    assert isinstance(bob, SecureStream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.aclose)
        nursery.start_soon(bob.aclose)
