"""_observer.py: whoever watches sees each step once, and each failure once, as the other side does."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    Address,
    AlertCode,
    Bound,
    Cause,
    DialError,
    Limits,
    Memory,
    NoResponse,
    Observer,
    Peer,
    Phase,
    Place,
    Progress,
    Refused,
    Rejected,
    Role,
    SecureStream,
    Step,
    Transport,
    Untrusted,
    VerdictCode,
    initiate,
    only,
    respond,
)
from trishake._events import EVENTS
from trishake._steps import STEPS
from trishake_protocol import GreetingToSign

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    MEMORY_AND_TCP,
    QUICK,
    ByHand,
    Ends,
    StreamPairMaker,
    Watch,
    arrival,
    cancelled_at,
    closed_port,
    memory_pair,
    outcomes,
    side,
    tcp_pair,
)
from .test_signer import Elsewhere
from .world import MEM, by_hand, peer, undecided


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


# --- every greeting has an end ----------------------------------------------------------------------------


class Stuck(Transport):
    """A way that is not found, or leads nowhere, or fails of what is nobody's but its author's."""

    schemes = ("stuck",)

    async def resolve(self, address: Address) -> Sequence[Place]:
        if address.host == "resolve":
            await trio.sleep_forever()
        return (address,)

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> trio.abc.Stream:
        if address.host == "connect":
            await trio.sleep_forever()
        raise RuntimeError("an error of the transport's own")

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        raise NotImplementedError


async def say_nothing(_: object) -> None:
    await trio.sleep_forever()


async def never(_: GreetingToSign) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


async def cut_off_when_stuck(call: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


def assert_cut_off(ends: Ends, role: Role, step: Step) -> None:
    """It was the only greeting, and it has ended once: cancelled, in this step, and not told as failed."""
    assert (ends.under_way, ends.again) == (set(), [])
    (timeline,) = ends.cut_off
    done = STEPS[role][: STEPS[role].index(step)]
    assert ends.steps == [*done][-len(ends.steps) :]
    assert [entry.step for entry in timeline.entries] == [*ends.steps, step]
    assert [entry.failed for entry in timeline.entries] == [False] * len(ends.steps) + [True]
    assert (timeline.role, timeline.outcome, timeline.reason, timeline.told) == (role, "cancelled", None, None)
    assert timeline.entries[-1].detail == "cancelled"


DIALED: Final[dict[Step, tuple[str, dict[str, Any]]]] = {
    Step.RESOLVED: ("stuck://resolve:1", {}),
    Step.CONNECTED: ("stuck://connect:1", {}),
    Step.SYN_ACK_RECEIVED: ("mem://hand", {}),
    Step.POLICY: (MEM, {"trust": undecided}),
    Step.ACK_SENT: (MEM, {"identity": Elsewhere(ADA, never)}),
    Step.VERDICT: ("mem://undecided", {}),
}
"""Where a dial waits in this step for good, and with which options."""


@pytest.mark.parametrize("step", DIALED)
async def test_a_dial_that_is_cancelled_has_an_end_in_whichever_step_it_waits(
    autojump_clock: MockClock, step: Step
) -> None:
    ends = Ends()
    where, options = DIALED[step]
    async with (
        peer(BOB) as bob,
        peer(EVE, trust=undecided) as eve,
        peer(**{"identity": ADA, "observers": [ends], "transports": [Stuck()], **options}) as ada,
        by_hand(say_nothing),
    ):
        await bob.listen(MEM)
        await eve.listen("mem://undecided")
        await cut_off_when_stuck(partial(ada.dial, where))
        assert_cut_off(ends, Role.INITIATOR, step)
        assert ends.cut_off[0].address == Address.parse(where).endpoint
        assert ada.statistics().failed == {}


async def connect_and_say_nothing() -> None:
    async with trio.open_nursery() as nursery:
        address = Address.parse(MEM)
        stream = await Memory().connect(address, address, nursery)
        async with stream:
            await trio.sleep_forever()


async def dial_bob(**options: Any) -> None:
    async with peer(**{"identity": ADA, **options}) as ada:
        await ada.dial(MEM)


ACCEPTED: Final[dict[Step, tuple[Callable[[], Awaitable[None]], dict[str, Any]]]] = {
    Step.SYN_RECEIVED: (connect_and_say_nothing, {}),
    Step.SYN_ACK_SENT: (dial_bob, {"identity": Elsewhere(BOB, never)}),
    Step.ACK_RECEIVED: (partial(dial_bob, trust=undecided), {}),
    Step.POLICY: (dial_bob, {"trust": undecided}),
}
"""Who dials Bob, so that his side waits in this step for good, and with which options of his."""


@pytest.mark.parametrize("step", ACCEPTED)
async def test_an_accept_that_is_cancelled_has_an_end_in_whichever_step_it_waits(
    autojump_clock: MockClock, step: Step
) -> None:
    ends = Ends()
    dialer, options = ACCEPTED[step]

    async def serve() -> None:
        async with peer(**{"identity": BOB, "observers": [ends], **options}) as bob:
            await bob.listen(MEM)
            await dialer()

    await cut_off_when_stuck(serve)
    assert_cut_off(ends, Role.RESPONDER, step)


@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
async def test_a_greeting_over_a_stream_has_one_end_wherever_it_is_cancelled(role: Role) -> None:
    cancelled_in: set[Step] = set()
    for step in range(1, 1000):
        at_ada, at_bob, ends = *(await memory_pair()), Ends()
        ours, theirs = (at_ada, at_bob) if role is Role.INITIATOR else (at_bob, at_ada)
        greet, answer = (initiate, respond) if role is Role.INITIATOR else (respond, initiate)

        async def call(ours: trio.abc.Stream = ours, ends: Ends = ends, greet: Callable[..., Any] = greet) -> None:
            await greet(ours, ADA, observers=[ends], **side(ADA).options)

        async def other(theirs: trio.abc.Stream = theirs, answer: Callable[..., Any] = answer) -> None:
            try:
                await answer(theirs, BOB, **side(BOB).options)
            except DialError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            reached = await cancelled_at(step, call)
            nursery.cancel_scope.cancel()
        assert (ends.under_way, ends.again) == (set(), [])
        assert len(ends.cut_off) == (Step.VERDICT not in ends.steps and bool(ends.steps))
        cancelled_in |= {timeline.entries[-1].step for timeline in ends.cut_off}
        if not reached:
            break
    assert ends.steps[-1] is Step.VERDICT
    waits = (
        {Step.SYN_ACK_RECEIVED, Step.VERDICT} if role is Role.INITIATOR else {Step.SYN_RECEIVED, Step.ACK_RECEIVED}
    )
    assert cancelled_in >= waits


async def test_a_dial_that_another_address_has_won_is_cancelled(autojump_clock: MockClock) -> None:
    ends = Ends()
    async with peer(BOB) as bob, peer(ADA, observers=[ends]) as ada, by_hand(say_nothing) as silent:
        listener = await bob.listen(MEM)
        connection = await ada.dial(silent, "mem://nobody", listener.invite)
        assert connection.peer == BOB.id
    assert (ends.under_way, ends.again) == (set(), [])
    (lost,) = ends.cut_off
    assert (lost.address, lost.peer, lost.entries[-1].step) == ("hand", EVE.id, Step.SYN_ACK_RECEIVED)


@pytest.mark.parametrize("step", DIALED)
async def test_a_dial_of_a_peer_that_leaves_its_block_has_one_end(autojump_clock: MockClock, step: Step) -> None:
    ends, watch = Ends(), Watch()
    where, options = DIALED[step]
    async with peer(BOB) as bob, peer(EVE, trust=undecided) as eve, by_hand(say_nothing):
        await bob.listen(MEM)
        await eve.listen("mem://undecided")
        async with trio.open_nursery() as nursery:

            async def dial(ada: Peer) -> None:
                with pytest.raises(DialError):
                    await ada.dial(where)

            async with peer(
                **{"identity": ADA, "observers": [ends, watch], "transports": [Stuck()], **options}
            ) as ada:
                nursery.start_soon(dial, ada)
                await wait_all_tasks_blocked(0.01)
    assert (ends.under_way, ends.again, ends.cut_off) == (set(), [], [])
    assert len(watch.failures) == 1


@pytest.mark.parametrize("step", ACCEPTED)
async def test_a_greeting_that_others_began_has_one_end_when_the_peer_leaves_its_block(
    autojump_clock: MockClock, step: Step
) -> None:
    ends, watch = Ends(), Watch()
    dialer, options = ACCEPTED[step]
    async with trio.open_nursery() as nursery:
        async with peer(**{"identity": BOB, "observers": [ends, watch], **options}) as bob:
            await bob.listen(MEM)
            nursery.start_soon(dial_until_told, dialer)
            await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert (ends.under_way, ends.again, ends.cut_off) == (set(), [], [])
    ((_, error),) = watch.failures
    assert isinstance(error, Refused)
    assert error.reason in (AlertCode.GOING_AWAY, VerdictCode.SHUTTING_DOWN)


async def dial_until_told(dialer: Callable[[], Awaitable[None]]) -> None:
    try:
        await dialer()
    except DialError:
        pass


class Leaving(Observer):
    """Has the peer leave in the moment in which its dial is READY."""

    peer: Peer

    def progress(self, progress: Progress) -> None:
        if progress.step is Step.VERDICT:
            self.peer._leave()


async def test_a_dial_left_in_the_moment_of_ready_has_ended_ready_and_not_failed_besides() -> None:
    ends, leaving = Ends(), Leaving()
    async with peer(BOB) as bob, peer(ADA, observers=[ends, leaving]) as ada:
        listener = await bob.listen(MEM)
        leaving.peer = ada
        with pytest.raises(Refused) as caught:
            await ada.dial(listener.invite)
        assert (ada.statistics().dialed, ada.statistics().failed) == (1, {})
    assert caught.value.reason is AlertCode.GOING_AWAY
    assert caught.value.timeline[Step.VERDICT].failed is False
    assert (ends.under_way, ends.again, ends.cut_off) == (set(), [], [])


async def test_what_is_no_dial_error_ends_a_greeting_too() -> None:
    ends = Ends()
    async with peer(ADA, observers=[ends], transports=[Stuck()]) as ada:
        with pytest.raises(RuntimeError, match="of the transport's own"):
            await ada.dial("stuck://fails:1")
    assert_cut_off(ends, Role.INITIATOR, Step.CONNECTED)


async def test_a_cancelled_greeting_is_an_event_with_its_fields(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trishake")
    async with peer(ADA) as ada, by_hand(say_nothing) as silent:
        with trio.move_on_after(0.5):
            await ada.dial(silent)
    (record,) = [record for record in caplog.records if vars(record)["event"] == "greeting.cancelled"]
    fields = vars(record)["fields"]
    assert record.levelno == logging.INFO
    assert tuple(fields) == EVENTS["greeting.cancelled"]
    assert (fields["role"], fields["address"], fields["peer"]) == ("initiator", "hand", str(EVE.id))
    assert (fields["step"], fields["session"]) == ("syn_ack_received", None)
    assert fields["milliseconds"] == pytest.approx(500, abs=1)
    assert f"greeting {fields['number']} with {EVE.id} [hand]: cancelled, after" in record.getMessage()


async def test_a_dial_that_is_cancelled_tells_the_other_side_nothing(autojump_clock: MockClock) -> None:
    heard: list[bytes] = []

    async def listen(hand: ByHand) -> None:
        await hand.hear_flight()
        heard.append(await hand.stream.receive_some())

    async with peer(ADA) as ada, by_hand(listen) as silent:
        await cut_off_when_stuck(partial(ada.dial, silent))
        await wait_all_tasks_blocked()
    assert heard == [b""]
