"""_timeline.py: the steps of one greeting on each side, with durations and sizes, however it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    Acceptance,
    Address,
    AlertCode,
    BadHandshake,
    DialError,
    Introduction,
    Limits,
    LocalProtocolError,
    Memory,
    Network,
    NoResponse,
    Peer,
    Phase,
    Place,
    Policy,
    Rejected,
    Rejection,
    Role,
    SecureStream,
    Step,
    Timeline,
    VerdictCode,
    accept,
    anyone,
    initiate,
    only,
    reject,
    respond,
)
from trishake._steps import STEPS, Cause
from trishake_protocol.greeting import Handshake
from trishake_protocol.messages import FrameType, encode_frame
from trishake_protocol.patterns import CLASSICAL, SUITES

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    MEMORY_AND_TCP,
    PSK,
    QUICK,
    ByHand,
    StreamPairMaker,
    arrival,
    closed_port,
    memory_pair,
    network_of,
    outcomes,
    side,
    tcp_pair,
)


def timelines(ada: SecureStream | DialError, bob: SecureStream | DialError) -> tuple[Timeline, Timeline]:
    return ada.timeline, bob.timeline


def steps_of(timeline: Timeline) -> list[Step]:
    return [entry.step for entry in timeline.entries]


@MEMORY_AND_TCP
async def test_both_sides_go_through_all_steps_that_there_are_in_order(transport: StreamPairMaker) -> None:
    ada, bob = timelines(*await outcomes(await transport(), side(ADA), side(BOB)))
    assert steps_of(ada) == list(STEPS[Role.INITIATOR][2:])  # the stream was there already
    assert steps_of(bob) == list(STEPS[Role.RESPONDER])
    for timeline in (ada, bob):
        assert not any(entry.failed for entry in timeline.entries)
        assert (timeline.outcome, timeline.reason, timeline.told) == ("accepted", None, None)
        times = [entry.at for entry in timeline.entries]
        assert times == sorted(times)
        assert timeline.seconds == times[-1] == pytest.approx(sum(entry.seconds for entry in timeline.entries))


async def test_a_dial_by_name_begins_with_the_name_and_tells_what_it_stands_for() -> None:
    async with Peer(BOB) as bob, Peer(ADA) as ada:
        listener = await bob.listen(ANYWHERE)
        timeline = (await ada.dial(listener.invite)).timeline
        at_bob = (await arrival(bob)).timeline
    endpoint = listener.addresses[0].endpoint
    assert steps_of(timeline) == list(STEPS[Role.INITIATOR])
    assert timeline.address == timeline.endpoint == endpoint
    assert timeline.places == ((endpoint, None),)
    assert [timeline[step].detail for step in (Step.RESOLVED, Step.CONNECTED)] == [endpoint, endpoint]
    assert timeline[Step.IDENTITY_VERIFIED].detail == BOB.id.short
    assert at_bob.address == at_bob.endpoint == at_bob[Step.ADMITTED].detail


@pytest.mark.parametrize("suite", [pytest.param(suite, id=f"{id_:04x}") for id_, suite in SUITES.items()])
async def test_each_side_counts_the_bytes_of_each_message_as_the_other_does(suite: Any) -> None:
    options = {"suites": (suite.id,), "network": network_of(suite)}
    ada, bob = timelines(*await outcomes(await memory_pair(), side(ADA, **options), side(BOB, **options)))
    preface_and_header = 19 + 2 + 3
    assert ada[Step.SYN_SENT].sent == preface_and_header + suite.syn == bob[Step.SYN_RECEIVED].received
    assert bob[Step.SYN_ACK_SENT].sent == ada[Step.SYN_ACK_RECEIVED].received > suite.syn_ack
    assert ada[Step.ACK_SENT].sent == bob[Step.ACK_RECEIVED].received > suite.ack
    assert bob[Step.VERDICT].sent == ada[Step.VERDICT].received > 0
    assert sum(entry.sent for entry in ada.entries) == sum(entry.received for entry in bob.entries)
    assert sum(entry.sent for entry in bob.entries) == sum(entry.received for entry in ada.entries)


@pytest.mark.parametrize("suite", [pytest.param(suite, id=f"{id_:04x}") for id_, suite in SUITES.items()])
async def test_each_step_says_what_people_ask_of_it(suite: Any) -> None:
    options = {"suites": (suite.id,), "network": network_of(suite)}
    ada, bob = timelines(*await outcomes(await memory_pair(), side(ADA, **options), side(BOB, **options)))
    how = ada[Step.SYN_SENT].detail
    assert suite.noise_name.startswith(f"Noise_{how}_ChaChaPoly_")
    assert {entry.step: entry.detail for entry in ada.entries if entry.detail} == {
        Step.SYN_SENT: how,
        Step.IDENTITY_VERIFIED: BOB.id.short,
        Step.VERDICT: "READY",
    }
    assert {entry.step: entry.detail for entry in bob.entries if entry.detail} == {
        Step.SYN_RECEIVED: how,
        Step.IDENTITY_VERIFIED: ADA.id.short,
        Step.VERDICT: "READY",
    }


async def test_both_sides_know_the_greeting_by_the_same_ids() -> None:
    ada, bob = timelines(*await outcomes(await tcp_pair(), side(ADA), side(BOB)))
    assert ada.greeting_id == bob.greeting_id
    assert ada.session_id == bob.session_id
    assert ada.greeting_id is not None
    assert ada.session_id is not None
    assert ada.greeting_id != ada.session_id
    assert ada.number != bob.number
    assert (ada.own, ada.peer) == (bob.peer, bob.own) == (ADA.id, BOB.id)
    assert ada.suite == bob.suite
    assert ada.network == bob.network == "trishake"


async def test_who_was_expected_is_known_before_anybody_has_proved_anything() -> None:
    ours, theirs = await memory_pair()
    await theirs.aclose()
    with pytest.raises(NoResponse) as caught:
        await initiate(ours, ADA, expect=BOB.id)
    assert caught.value.peer == caught.value.timeline.peer == BOB.id


async def test_the_greeting_id_is_what_the_syn_begins_with() -> None:
    ours, theirs = await memory_pair()
    hand = ByHand(theirs, suite=CLASSICAL)
    flight = hand.flight()
    await hand.say(flight)
    await theirs.send_eof()
    with pytest.raises(NoResponse) as caught:
        await respond(ours, BOB)
    assert caught.value.timeline.greeting_id == flight[-CLASSICAL.syn :][:8]


@pytest.mark.parametrize("size", [1, 8, 11, 40])
async def test_a_syn_that_comes_in_pieces_and_does_not_open_has_its_greeting_id(
    size: int, autojump_clock: MockClock
) -> None:
    ours, theirs = await memory_pair()
    flight = ByHand(theirs, suite=SUITES[0x0101], network=Network("home", b"z" * 32)).flight()

    async def dial() -> None:
        for start in range(0, len(flight), size):
            await theirs.send_all(flight[start : start + size])
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        with pytest.raises(BadHandshake) as caught:
            await respond(ours, BOB, network=Network("home", PSK), suites=(0x0101,))
    assert caught.value.reason is AlertCode.HANDSHAKE_FAILED
    assert caught.value.timeline.greeting_id == flight[-SUITES[0x0101].syn :][:8]


async def test_an_ack_that_came_along_with_the_syn_was_not_received_before_the_answer_to_it() -> None:
    ours, theirs = await memory_pair()
    hand = ByHand(theirs)
    await hand.say(hand.flight() + encode_frame(FrameType.ACK, bytes(600)))
    await theirs.send_eof()
    with pytest.raises(BadHandshake) as caught:
        await respond(ours, BOB, **side(BOB).options)
    timeline = caught.value.timeline
    assert steps_of(timeline)[-2:] == [Step.ACK_RECEIVED, Step.IDENTITY_VERIFIED]
    assert [entry.step for entry in timeline.entries if entry.seconds < 0] == []
    assert [entry.at for entry in timeline.entries] == sorted(entry.at for entry in timeline.entries)


@pytest.mark.parametrize("time", [0, 2**63, 2**64 - 1])
async def test_a_clock_of_any_time_is_in_a_timeline_that_is_read_back(time: int) -> None:
    ours, theirs = await memory_pair()
    hand = ByHand(theirs)

    async def dial() -> None:
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack(hand.honest(time=time)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        stream = await respond(ours, BOB, **side(BOB).options)
    facts = json.loads(json.dumps(stream.timeline.as_dict()))
    assert Timeline.from_dict(facts).as_dict() == facts


async def test_what_takes_long_is_seen_at_its_step(autojump_clock: MockClock) -> None:
    async def slow_at_ada(_: Introduction) -> Acceptance:
        await trio.sleep(0.5)
        return accept()

    async def slow_at_bob(_: Introduction) -> Acceptance:
        await trio.sleep(0.75)
        return accept()

    ada, bob = timelines(
        *await outcomes(await memory_pair(), side(ADA, trust=slow_at_ada), side(BOB, trust=slow_at_bob))
    )
    assert ada[Step.POLICY].seconds == pytest.approx(0.5)
    assert bob[Step.POLICY].seconds == pytest.approx(0.75)
    assert bob[Step.ACK_RECEIVED].seconds == pytest.approx(0.5)
    assert ada[Step.VERDICT].seconds == pytest.approx(0.75)
    assert ada.seconds == bob.seconds == pytest.approx(1.25)


async def test_bytes_have_come_before_they_are_understood(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of cryptography that takes a second, none is spent in waiting for the other side."""
    for method in ("read_syn", "verify"):
        quick = getattr(Handshake, method)

        def slow(self: Handshake, data: bytes, quick: Callable[[Handshake, bytes], object] = quick) -> object:
            autojump_clock.jump(1)
            return quick(self, data)

        monkeypatch.setattr(Handshake, method, slow)
    ada, bob = timelines(*await outcomes(await memory_pair(), side(ADA), side(BOB)))
    assert {entry.step: round(entry.seconds) for entry in bob.entries if round(entry.seconds)} == {
        Step.SYN_ACK_SENT: 1,  # SYN is opened before
        Step.ACK_RECEIVED: 1,  # Ada's own verifying
        Step.IDENTITY_VERIFIED: 1,
    }
    assert {entry.step: round(entry.seconds) for entry in ada.entries if round(entry.seconds)} == {
        Step.SYN_ACK_RECEIVED: 1,
        Step.IDENTITY_VERIFIED: 1,
        Step.VERDICT: 1,
    }
    ada, _ = timelines(*await outcomes(await memory_pair(), side(ADA, expect=EVE.id), side(BOB)))
    assert ada[Step.SYN_ACK_RECEIVED].seconds == pytest.approx(1)
    assert ada[Step.IDENTITY_VERIFIED].failed
    assert ada[Step.IDENTITY_VERIFIED].seconds == pytest.approx(1)


async def test_the_step_that_failed_has_the_time_that_it_took(autojump_clock: MockClock) -> None:
    async def slowly_says_no(_: Introduction) -> Rejection:
        await trio.sleep(0.5)
        return reject()

    ada, bob = timelines(*await outcomes(await memory_pair(), side(ADA), side(BOB, trust=slowly_says_no)))
    for timeline, step in ((ada, Step.VERDICT), (bob, Step.POLICY)):
        assert timeline[step].failed
        assert timeline[step].seconds == timeline.seconds == pytest.approx(0.5)


async def test_so_has_the_first_step(autojump_clock: MockClock) -> None:
    class Unknown(Memory):
        async def resolve(self, address: Address) -> Sequence[Place]:
            await trio.sleep(0.5)
            raise OSError("nobody knows")

    async with Peer(ADA, transports=[Unknown()]) as ada:
        with pytest.raises(NoResponse) as caught:
            await ada.dial("mem://somewhere")
    (entry,) = caught.value.timeline.entries
    assert (entry.step, entry.failed) == (Step.RESOLVED, True)
    assert entry.at == entry.seconds == pytest.approx(0.5)


async def says_no(_: Introduction) -> Rejection:
    return reject(VerdictCode.POLICY, "not today")


@pytest.mark.parametrize(
    ("ada", "bob", "ends_at"),
    [
        pytest.param({}, {"trust": says_no}, (Step.VERDICT, Step.POLICY), id="the listener's policy"),
        pytest.param({"trust": says_no}, {}, (Step.POLICY, Step.ACK_RECEIVED), id="the dialer's policy"),
        pytest.param({"expect": EVE.id}, {}, (Step.IDENTITY_VERIFIED, Step.ACK_RECEIVED), id="somebody else"),
        pytest.param(
            {"suites": (1,)}, {"suites": (2,)}, (Step.SYN_ACK_RECEIVED, Step.SYN_RECEIVED), id="no suite in common"
        ),
    ],
)
async def test_a_greeting_ends_at_the_step_in_which_it_failed(
    ada: dict[str, Any], bob: dict[str, Any], ends_at: tuple[Step, Step]
) -> None:
    ada_error, bob_error = await outcomes(await tcp_pair(), side(ADA, **ada), side(BOB, **bob))
    assert isinstance(ada_error, DialError)
    assert isinstance(bob_error, DialError)
    at_ada, at_bob = timelines(ada_error, bob_error)
    assert (steps_of(at_ada)[-1], steps_of(at_bob)[-1]) == ends_at
    for timeline, error in ((at_ada, ada_error), (at_bob, bob_error)):
        assert [entry.failed for entry in timeline.entries] == [False] * (len(timeline.entries) - 1) + [True]
        assert (timeline.outcome, timeline.reason) == (error.outcome, error.counted_as)
        assert timeline.entries[-1].at == timeline.seconds
        assert timeline.entries[-1].detail == f"{error.outcome}: {error.counted_as}"
    assert at_ada.greeting_id == at_bob.greeting_id


@pytest.mark.parametrize(
    ("ada", "bob", "told"),
    [
        pytest.param({}, {"trust": says_no}, (None, "POLICY"), id="verdict"),
        pytest.param({"trust": says_no}, {}, ("ABORTED", None), id="the dialer leaves"),
        pytest.param({"suites": (1,)}, {"suites": (2,)}, (None, "UNSUPPORTED_SUITE"), id="alert"),
    ],
)
async def test_whoever_refuses_knows_what_the_other_side_was_told(
    ada: dict[str, Any], bob: dict[str, Any], told: tuple[str | None, str | None]
) -> None:
    errors = await outcomes(await tcp_pair(), side(ADA, **ada), side(BOB, **bob))
    at_ada, at_bob = timelines(*errors)
    assert (at_ada.told, at_bob.told) == told
    refusing, refused_ = (at_ada, at_bob) if at_ada.told else (at_bob, at_ada)
    assert refusing.entries[-1].sent >= refused_.entries[-1].received > 0  # behind a VERDICT comes CLOSE
    refused = next(error for error in errors if isinstance(error, Rejected))
    assert refused.counted_as in told


async def test_nothing_is_counted_twice_where_a_dialer_leaves() -> None:
    ada, bob = timelines(*await outcomes(await tcp_pair(), side(ADA, trust=says_no), side(BOB)))
    assert ada.entries[-1].sent == bob.entries[-1].received > 0  # its ALERT
    assert sum(entry.sent for entry in ada.entries) == sum(entry.received for entry in bob.entries)
    assert sum(entry.sent for entry in bob.entries) == sum(entry.received for entry in ada.entries)


async def test_a_dial_that_finds_nobody_has_the_steps_that_it_came_to() -> None:
    port = await closed_port()
    async with Peer(ADA) as ada:
        with pytest.raises(NoResponse) as caught:
            await ada.dial(f"tcp://{BOB.id}@127.0.0.1:{port}")
    timeline = caught.value.timeline
    assert [(entry.step, entry.failed) for entry in timeline.entries] == [
        (Step.RESOLVED, False),
        (Step.CONNECTED, True),
    ]
    assert (timeline.outcome, timeline.reason) == ("no response", "connect/refused")
    assert timeline.peer == BOB.id  # who was dialed
    assert timeline.greeting_id is timeline.session_id is timeline.endpoint is None


async def test_who_is_turned_away_before_a_byte_is_read_has_no_step_but_the_first() -> None:
    async with Peer(BOB, limits=Limits(handshakes_per_address=0)) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected) as caught:
            await ada.dial(listener.invite)
        assert caught.value.reason is AlertCode.BUSY
        counts = bob.statistics()
    assert counts.told == counts.refused == {"BUSY": 1}


def test_an_error_of_no_greeting_has_no_timeline() -> None:
    error = NoResponse(Phase.CONNECT, Cause.REFUSED)
    for look in (lambda: error.timeline, error.explain):
        with pytest.raises(LocalProtocolError, match="of no greeting"):
            look()
    assert "timeline" not in error.as_dict()


async def test_a_step_that_it_did_not_come_to_is_a_key_error() -> None:
    _, bob = timelines(*await outcomes(await memory_pair(), side(ADA, trust=only()), side(BOB)))
    with pytest.raises(KeyError):
        bob[Step.VERDICT]


@pytest.mark.parametrize("look", [lambda it: it.timeline.as_dict(), lambda it: it.as_dict()])
async def test_machines_read_it_as_json(look: Callable[[Any], dict[str, Any]]) -> None:
    ada, bob = await outcomes(await tcp_pair(), side(ADA), side(BOB, trust=says_no))
    for error in (ada, bob):
        facts = look(error)
        assert json.loads(json.dumps(facts)) == facts
        timeline = facts.get("timeline", facts)
        assert timeline["steps"][-1]["failed"]
        assert facts.get("explanation", error.explain()) == error.explain()  # type: ignore[union-attr]
        assert ("explanation" in facts) is ("timeline" in facts)
        assert timeline["session"] == error.timeline.session_id.hex()  # type: ignore[union-attr]


@pytest.mark.parametrize("trust", [anyone, says_no])
async def test_they_are_told_all_that_it_knows_with_times_in_milliseconds(trust: Policy) -> None:
    for error in await outcomes(await tcp_pair(), side(ADA), side(BOB, trust=trust)):
        timeline = error.timeline
        facts = timeline.as_dict()
        assert timeline.suite is not None
        assert timeline.greeting_id is not None
        assert timeline.session_id is not None
        assert {name: facts[name] for name in facts.keys() - {"steps", "milliseconds"}} == {
            "number": timeline.number,
            "role": timeline.role.value,
            "outcome": timeline.outcome,
            "reason": timeline.reason,
            "told": timeline.told,
            "own": str(timeline.own),
            "peer": str(timeline.peer),
            "network": "trishake",
            "address": timeline.address,
            "endpoint": timeline.endpoint,
            "places": [],
            "suite": str(timeline.suite),
            "greeting": timeline.greeting_id.hex(),
            "session": timeline.session_id.hex(),
            "clock_difference": timeline.clock_difference,
            "began": timeline.began,
        }
        assert facts["milliseconds"] == pytest.approx(timeline.seconds * 1000, abs=0.000501)
        for step, entry in zip(cast("list[dict[str, Any]]", facts["steps"]), timeline.entries, strict=True):
            assert (step["step"], step["number"]) == (entry.step.value, entry.step.number(timeline.role))
            assert step["at"] == pytest.approx(entry.at * 1000, abs=0.000501)
            assert step["milliseconds"] == pytest.approx(entry.seconds * 1000, abs=0.000501)
            sizes = (entry.sent, entry.received, entry.failed, entry.detail)
            assert (step["sent"], step["received"], step["failed"], step["detail"]) == sizes


async def test_the_table_has_a_line_a_step_within_80_columns_and_says_how_it_ended() -> None:
    ada, bob = timelines(*await outcomes(await tcp_pair(), side(ADA), side(BOB, trust=says_no)))
    for timeline in (ada, bob):
        head, *lines, last = str(timeline).splitlines()
        assert head.split() == ["step", "ms", "sent", "received"]
        assert all(line.startswith(entry.step.label) for line, entry in zip(lines, timeline.entries, strict=True))
        for line, entry in zip(lines, timeline.entries, strict=True):
            assert line[29:47].split() == [str(size) for size in (entry.sent, entry.received) if size]
        assert max(map(len, str(timeline).splitlines())) <= 80
        assert last.startswith(f"{timeline.outcome}: POLICY, after ")


@pytest.mark.parametrize("what", ["\x1b[2J\x07", "two\nlines", "\u202e"])
async def test_an_address_of_anybodys_is_escaped_in_the_table(what: str) -> None:
    async with Peer(ADA) as ada:
        with pytest.raises(NoResponse) as caught:
            await ada.dial(f"unix:///nowhere/{what}")
    timeline = caught.value.timeline
    facts = timeline.as_dict() | {"outcome": what}  # a table of what somebody else has recorded, too
    for shown in (str(timeline), str(Timeline.from_dict(facts))):
        assert all(line.isprintable() for line in shown.splitlines())
        assert len(shown.splitlines()) == 1 + len(timeline.entries) + 1
