"""_telemetry.py: what OpenTelemetry is told of real greetings, as its own SDK has it."""

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    Address,
    BadHandshake,
    Connection,
    DialError,
    Limits,
    NoResponse,
    Peer,
    Refused,
    Rejected,
    Role,
    SigningFailed,
    Step,
    Stream,
    StreamRefused,
    Tcp,
    UnknownProtocol,
    Untrusted,
    VerdictCode,
    WrongIdentity,
    only,
    reject,
)
from trishake._steps import STEPS
from trishake._timeline import Timeline
from trishake_protocol.messages import Close, RecordType

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    ByHand,
    Resolver,
    closed_port,
    outcomes,
    side,
    tcp_pair,
)
from .test_signer import Elsewhere
from .world import MEM, by_hand, nobody, peer, thoughtful, undecided

pytest.importorskip("opentelemetry.sdk", reason="the extra `telemetry` and OpenTelemetry's SDK are not installed")

from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from trishake._telemetry import Telemetry, _facts

DIAL: Final = "trishake.dial"
ACCEPT: Final = "trishake.accept"

WAITS: Final = {
    DIAL: {
        "trishake.resolve": Step.RESOLVED,
        "trishake.connect": Step.CONNECTED,
        "trishake.await_syn_ack": Step.SYN_ACK_RECEIVED,
        "trishake.policy": Step.POLICY,
        "trishake.await_verdict": Step.VERDICT,
    },
    ACCEPT: {
        "trishake.await_syn": Step.SYN_RECEIVED,
        "trishake.await_ack": Step.ACK_RECEIVED,
        "trishake.policy": Step.POLICY,
    },
}
"""The spans within a greeting's, and the step in which each waits for somebody."""


class Recorded:
    """An SDK that keeps everything in memory, and a Telemetry that writes to it."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler=sampler)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.telemetry = Telemetry(self.tracers, MeterProvider([self._reader]))
        self.tracer = self.tracers.get_tracer("a test")

    @property
    def watched(self) -> dict[str, Any]:
        """What a Peer takes to be watched."""
        return {"observers": [self.telemetry]}

    def spans(self, *names: str) -> list[ReadableSpan]:
        """Those that have ended, in the order in which they began."""
        found = [span for span in self._exporter.get_finished_spans() if not names or span.name in names]
        return sorted(found, key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def within(self, span: ReadableSpan) -> list[ReadableSpan]:
        return [child for child in self.spans() if child.parent == span.context]

    def points(self, *names: str) -> list[Any]:
        """Of these metrics, as they are now; exemplars are there once."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name in names
            for point in metric.data.data_points
        ]

    def values(self, name: str) -> dict[frozenset[tuple[str, Any]], float]:
        """Of a counter: each value by its attributes, those that are 0 left out."""
        found = {frozenset(point.attributes.items()): point.value for point in self.points(name)}
        return {attributes: value for attributes, value in found.items() if value}


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def keyed(**attributes: Any) -> frozenset[tuple[str, Any]]:
    """Attributes as `Recorded.values` has them: trishake's own, and `error_type`."""
    names = {name: f"trishake.{name}" for name in attributes} | {"error_type": "error.type"}
    return frozenset((names[name], value) for name, value in attributes.items())


def nanoseconds(seconds: float) -> Any:
    return pytest.approx(seconds * 1e9, abs=1000)


def assert_ended(recorded: Recorded) -> None:
    """Nothing is kept of any greeting."""
    assert recorded.telemetry._under_way == {}


@asynccontextmanager
async def two(
    recorded: Recorded,
    where: str = MEM,
    *,
    ada: Mapping[str, Any] | None = None,
    bob: Mapping[str, Any] | None = None,
) -> AsyncIterator[tuple[Peer, str]]:
    """Ada, who may dial Bob, and his invite; both are watched."""
    async with (
        peer(**{"identity": BOB, **recorded.watched, **(bob or {})}) as host,
        peer(**{"identity": ADA, **recorded.watched, **(ada or {})}) as guest,
    ):
        yield guest, (await host.listen(where)).invite


# --- a greeting is a span ---------------------------------------------------------------------------------


async def test_a_greeting_is_a_span_on_each_side_and_the_session_id_joins_them(recorded: Recorded) -> None:
    before = time.time_ns()
    async with two(recorded, ANYWHERE) as (ada, invite):
        connection = await ada.dial(invite)
        address = Address.parse(invite)
    dial, accept = recorded.span(DIAL), recorded.span(ACCEPT)
    assert (dial.kind, accept.kind) == (SpanKind.CLIENT, SpanKind.SERVER)
    assert dial.attributes is not None
    assert accept.attributes is not None
    seen = connection.seen
    assert seen is not None
    both = {
        "trishake.outcome": "accepted",
        "trishake.suite": str(connection.suite),
        "trishake.session_id": connection.session_id.hex(),
        "trishake.greeting_id": (connection.timeline.greeting_id or b"").hex(),
        "network.transport": "tcp",
        "network.peer.address": "127.0.0.1",
    }
    assert dict(dial.attributes) == {
        **both,
        "trishake.role": "initiator",
        "trishake.number": connection.timeline.number,
        "trishake.peer": str(BOB.id),
        "server.address": "127.0.0.1",
        "server.port": address.port,
        "network.peer.port": address.port,
    }
    assert dict(accept.attributes) == {
        **both,
        "trishake.role": "responder",
        "trishake.number": accept.attributes["trishake.number"],
        "trishake.peer": str(ADA.id),
        "client.address": "127.0.0.1",
        "client.port": int(seen.rpartition(":")[2]),
        "network.peer.port": int(seen.rpartition(":")[2]),
    }
    for span in (dial, accept):
        assert span.parent is None
        assert span.status.status_code is StatusCode.UNSET
        assert not span.links  # nothing of one side's trace came to the other
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "trishake"
        assert span.start_time is not None
        assert before - 1_000_000 < span.start_time < time.time_ns()
    assert_ended(recorded)


def steps_of(recorded: Recorded, span: ReadableSpan) -> list[tuple[Step, int, int, Mapping[str, Any]]]:
    """What a greeting's span says of its steps: when each began and was done, as far as it says so; attributes."""
    steps = [
        (WAITS[span.name][child.name], child.start_time or 0, child.end_time or 0, child.attributes or {})
        for child in recorded.within(span)
    ]
    for event in span.events:
        attributes = dict(event.attributes or {})
        if event.name != "exception":
            began = event.timestamp - round(attributes.pop("trishake.step.seconds") * 1e9)
            steps.append((Step(event.name.removeprefix("trishake.")), began, event.timestamp, attributes))
    return sorted(steps, key=lambda step: STEPS[Role(span.attributes["trishake.role"])].index(step[0]))  # type: ignore[index]


async def test_each_step_is_seen_once_with_its_time_and_sizes_and_waits_are_spans(recorded: Recorded) -> None:
    async with two(recorded, ANYWHERE, ada={"trust": thoughtful}, bob={"trust": thoughtful}) as (ada, invite):
        connection = await ada.dial(invite)
    dial, accept = recorded.span(DIAL), recorded.span(ACCEPT)
    for span in (dial, accept):
        assert {child.name for child in recorded.within(span)} == set(WAITS[span.name])
        assert all(child.kind is SpanKind.INTERNAL for child in recorded.within(span))
    timeline = connection.timeline
    assert dial.start_time is not None
    assert dial.end_time is not None
    assert dial.start_time == pytest.approx(timeline.began * 1e9, abs=5e8)
    assert dial.end_time - dial.start_time == nanoseconds(timeline.seconds)
    told = steps_of(recorded, dial)
    assert [step for step, *_ in told] == list(STEPS[Role.INITIATOR])
    for (step, began, done, attributes), entry in zip(told, timeline.entries, strict=True):
        assert done - dial.start_time == nanoseconds(entry.at)
        assert done - began == nanoseconds(entry.seconds)
        assert attributes.get("trishake.sent") == (entry.sent or None)  # most are 0, and left out
        assert attributes.get("trishake.received") == (entry.received or None)
        assert attributes.get("trishake.step.number") == step.number(Role.INITIATOR)
    assert [step for step, *_ in steps_of(recorded, accept)] == list(STEPS[Role.RESPONDER])


async def test_a_greeting_over_a_stream_is_one_too(recorded: Recorded) -> None:
    ada, bob = await outcomes(
        await tcp_pair(), side(ADA, **recorded.watched), side(BOB, **recorded.watched, trust=only(EVE.id))
    )
    assert isinstance(ada, Rejected)
    assert isinstance(bob, Untrusted)
    dial, accept = recorded.span(DIAL), recorded.span(ACCEPT)
    assert dial.attributes is not None
    assert accept.attributes is not None
    assert dial.attributes["trishake.session_id"] == accept.attributes["trishake.session_id"]
    assert dial.attributes["server.address"] == accept.attributes["client.address"] == "127.0.0.1"
    assert [step for step, *_ in steps_of(recorded, dial)][:2] == [Step.SYN_SENT, Step.SYN_ACK_RECEIVED]
    assert_ended(recorded)


async def test_a_greeting_over_a_unix_socket_says_so(recorded: Recorded, tmp_path: Path) -> None:
    where = tmp_path / "bob:1"
    async with two(recorded, f"unix://{where}") as (ada, invite):
        await ada.dial(invite)
    attributes = recorded.span(DIAL).attributes
    assert attributes is not None
    assert (attributes["network.transport"], attributes["server.address"]) == ("unix", str(where))
    assert {"server.port", "network.peer.address"} & attributes.keys() == set()


@pytest.mark.parametrize(
    ("endpoint", "address", "port"),
    [
        ("192.0.2.7:4711", "192.0.2.7", 4711),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
        ("example.org:1", "example.org", 1),
        ("[2001:db8::1]", "[2001:db8::1]", None),
        ("a name", "a name", None),
        ("a:b", "a:b", None),
        ("a:٣", "a:٣", None),
    ],
)
def test_the_other_end_is_an_address_and_a_port(endpoint: str, address: str, port: int | None) -> None:
    timeline = Timeline(
        *(
            0,
            Role.INITIATOR,
            0.0,
            0.0,
            (),
            "",
            None,
            None,
            ADA.id,
            "",
            None,
            None,
            endpoint,
            (),
            None,
            None,
            None,
            None,
        )
    )
    facts = _facts(timeline)
    assert facts["network.peer.address"] == address
    assert facts.get("network.peer.port") == port


class Never(Sampler):
    """Takes no span, and remembers which it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(name)
        return ALWAYS_OFF.should_sample(parent_context, trace_id, name)

    def get_description(self) -> str:
        return "never"


async def test_what_is_not_sampled_is_not_recorded_and_counted_all_the_same() -> None:
    never = Never()
    recorded = Recorded(never)
    async with two(recorded) as (ada, invite):
        await ada.dial(invite)
        with pytest.raises(NoResponse):
            await ada.dial("mem://nobody")
    assert recorded.spans() == []
    assert sorted(never.asked) == [ACCEPT, DIAL, DIAL]  # not for each wait besides
    assert sum(recorded.values("trishake.greetings").values()) == 3
    assert_ended(recorded)


# --- where it belongs -------------------------------------------------------------------------------------


async def test_a_dial_is_a_child_of_the_span_that_is_current_where_it_is_called(recorded: Recorded) -> None:
    async with two(recorded) as (ada, invite):
        with recorded.tracer.start_as_current_span("job") as job:
            await ada.dial(invite)
    assert recorded.span(DIAL).parent == job.get_span_context()
    for child in recorded.within(recorded.span(DIAL)):
        assert child.context is not None
        assert child.context.trace_id == job.get_span_context().trace_id


async def test_each_attempt_at_several_addresses_is_a_child_of_that_span(
    recorded: Recorded, autojump_clock: MockClock
) -> None:
    """One fails at once, one hangs and loses, one is begun a while later and wins."""

    async def say_nothing(_: ByHand) -> None:
        await trio.sleep_forever()

    async with two(recorded) as (ada, invite), by_hand(say_nothing) as silent:
        with recorded.tracer.start_as_current_span("job") as job:
            await ada.dial("mem://nobody", silent, invite)
    dials = recorded.spans(DIAL)
    assert [span.parent for span in dials] == [job.get_span_context()] * 3
    told = [
        ((span.attributes or {})["server.address"], (span.attributes or {})["trishake.outcome"]) for span in dials
    ]
    assert told == [("nobody", "no response"), ("hand", "cancelled"), ("bob", "accepted")]
    assert_ended(recorded)


async def test_a_greeting_that_others_begin_belongs_to_no_span_of_whoever_listens(recorded: Recorded) -> None:
    with recorded.tracer.start_as_current_span("start") as start:
        async with two(recorded) as (ada, invite):
            await ada.dial(invite)
    accept = recorded.span(ACCEPT)
    assert accept.parent is None
    assert accept.context is not None
    assert accept.context.trace_id != start.get_span_context().trace_id
    for child in recorded.within(accept):
        assert child.context is not None
        assert child.context.trace_id == accept.context.trace_id
    assert len(recorded.within(accept)) == len(WAITS[ACCEPT])


class Baggage(SpanProcessor):
    """Remembers whose baggage each span was begun with."""

    def __init__(self) -> None:
        self.of: dict[str, set[object]] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.of.setdefault(span.name, set()).add(baggage.get_baggage("whose", parent_context))


async def test_what_a_dial_carries_is_that_of_its_caller_and_others_carry_nothing(recorded: Recorded) -> None:
    seen = Baggage()
    recorded.tracers.add_span_processor(seen)
    token = attach(baggage.set_baggage("whose", "the listener's"))
    try:
        async with two(recorded) as (ada, invite):
            attach(baggage.set_baggage("whose", "the dialer's"))
            await ada.dial(invite)
    finally:
        detach(token)
    assert seen.of.pop("trishake.policy") == {"the dialer's", None}
    for name in (DIAL, *WAITS[DIAL]):
        assert seen.of.pop(name, {"the dialer's"}) == {"the dialer's"}
    assert seen.of == {ACCEPT: {None}, "trishake.await_syn": {None}, "trishake.await_ack": {None}}


async def test_fifty_dials_at_once_are_not_mixed_up(recorded: Recorded) -> None:
    jobs: dict[int, Connection] = {}

    async def job(ada: Peer, invite: str) -> None:
        with recorded.tracer.start_as_current_span("job") as span:
            jobs[span.get_span_context().span_id] = await ada.dial(invite)

    thinking = {"trust": thoughtful}
    async with two(recorded, ada=thinking, bob=thinking) as (ada, invite), trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(job, ada, invite)
    dials, accepts = recorded.spans(DIAL), recorded.spans(ACCEPT)
    assert len(jobs) == len(dials) == len(accepts) == 50
    told = {span.parent.span_id: (span.attributes or {})["trishake.session_id"] for span in dials if span.parent}
    assert told == {job: connection.session_id.hex() for job, connection in jobs.items()}
    assert {(span.attributes or {})["trishake.session_id"] for span in accepts} == set(told.values())
    for span in dials:
        assert [step for step, *_ in steps_of(recorded, span)] == list(STEPS[Role.INITIATOR])
    assert_ended(recorded)


# --- failures ---------------------------------------------------------------------------------------------

Failing = Callable[[Recorded, Resolver], Awaitable[DialError]]


async def failing(
    recorded: Recorded, resolver: Resolver, where: str | None = None, listening: str = MEM, **options: Any
) -> DialError:
    """The error of a dial to Bob, or to another address. listening: where Bob is. options: ada, bob."""
    async with two(recorded, listening, **options) as (ada, invite):
        with pytest.raises(DialError) as caught:
            await ada.dial(where or invite)
        return caught.value


async def dial_a_name_that_is_not_there(recorded: Recorded, resolver: Resolver) -> DialError:
    resolver.names["nowhere.example"] = []
    return await failing(recorded, resolver, "tcp://nowhere.example:1")


async def dial_a_closed_port(recorded: Recorded, resolver: Resolver) -> DialError:
    return await failing(recorded, resolver, f"tcp://127.0.0.1:{await closed_port()}")


async def dial_one_who_closes(recorded: Recorded, resolver: Resolver) -> DialError:
    async def script(hand: ByHand) -> None:
        await hand.hear_flight()
        await hand.stream.aclose()

    async with by_hand(script) as invite:
        return await failing(recorded, resolver, invite)


async def dial_one_who_closes_before_the_verdict(recorded: Recorded, resolver: Resolver) -> DialError:
    async def script(hand: ByHand) -> None:
        await hand.answer()
        await hand.stream.aclose()

    async with by_hand(script) as invite:
        return await failing(recorded, resolver, invite)


async def dial_one_who_signs_wrong(recorded: Recorded, resolver: Resolver) -> DialError:
    async def script(hand: ByHand) -> None:
        await hand.hear_flight()
        await hand.say(hand.syn_ack(signature=bytes(64)))
        await trio.sleep_forever()

    async with by_hand(script) as invite:
        return await failing(recorded, resolver, invite)


async def never_signs(_: object) -> bytes:
    raise OSError("the agent is gone")


async def out_of_order(_: object) -> Any:
    return reject(0x8001, text="out of order")


def refusing(policy: Any) -> dict[str, Any]:
    return {"trust": policy}


FULL: Final = Limits(handshakes_per_address=0)

FAILURES: Final[dict[str, tuple[Failing, type[DialError], Step, str]]] = {
    "no such name": (dial_a_name_that_is_not_there, NoResponse, Step.RESOLVED, "resolve/unreachable"),
    "closed port": (dial_a_closed_port, NoResponse, Step.CONNECTED, "connect/refused"),
    "closes": (dial_one_who_closes, NoResponse, Step.SYN_ACK_RECEIVED, "syn-ack/closed"),
    "no verdict": (dial_one_who_closes_before_the_verdict, NoResponse, Step.VERDICT, "verdict/closed"),
    "not its id": (
        partial(failing, where=f"mem://{EVE.id}@bob"),
        WrongIdentity,
        Step.IDENTITY_VERIFIED,
        "IDENTITY_UNKNOWN",
    ),
    "signs wrong": (dial_one_who_signs_wrong, BadHandshake, Step.IDENTITY_VERIFIED, "BAD_SIGNATURE"),
    "refused here": (partial(failing, ada=refusing(nobody)), Untrusted, Step.POLICY, "POLICY"),
    "not signed": (
        partial(failing, ada={"identity": Elsewhere(ADA, never_signs)}),
        SigningFailed,
        Step.ACK_SENT,
        "INTERNAL",
    ),
    "refused there": (partial(failing, bob=refusing(nobody)), Rejected, Step.VERDICT, "POLICY"),
    "full": (
        partial(failing, listening=ANYWHERE, bob={"limits": FULL}),
        Rejected,
        Step.SYN_ACK_RECEIVED,
        "BUSY",
    ),
    "oneself": (partial(failing, bob={"identity": ADA}), Refused, Step.IDENTITY_VERIFIED, "SELF"),
    "a reason of its own": (partial(failing, bob=refusing(out_of_order)), Rejected, Step.VERDICT, "_OTHER"),
}
"""How a dial fails, with which error, in which step, and as what kind of error."""


@pytest.mark.parametrize("what", FAILURES)
async def test_a_dial_that_fails_says_why_and_in_which_step(
    recorded: Recorded, resolver: Resolver, what: str
) -> None:
    fail, type_, step, kind = FAILURES[what]
    error = await fail(recorded, resolver)
    assert type(error) is type_
    dial = recorded.span(DIAL)
    assert (dial.status.status_code, dial.status.description) == (StatusCode.ERROR, str(error))
    attributes = dial.attributes or {}
    timeline = error.timeline
    assert attributes["error.type"] == kind
    assert attributes["trishake.reason"] == error.counted_as
    assert attributes["trishake.outcome"] == error.outcome
    assert attributes["trishake.retryable"] is error.retryable
    assert attributes["trishake.ended_in"] == step.value == timeline.entries[-1].step.value
    assert attributes.get("trishake.peer") == (None if error.peer is None else str(error.peer))
    assert attributes.get("trishake.told") == timeline.told
    (exception,) = [event for event in dial.events if event.name == "exception"]
    assert exception.attributes == {
        "exception.type": f"trishake.{type_.__name__}",
        "exception.message": str(error),
    }
    assert dial.start_time is not None
    assert dial.end_time is not None
    assert exception.timestamp == dial.end_time
    assert dial.end_time - dial.start_time == nanoseconds(timeline.seconds)
    done = [entry.step for entry in timeline.entries if not entry.failed]
    in_it = step in WAITS[DIAL].values()
    assert [told for told, *_ in steps_of(recorded, dial)] == done + [step] * in_it
    for child in recorded.within(dial):
        failed = WAITS[DIAL][child.name] is step
        assert child.status.status_code is (StatusCode.ERROR if failed else StatusCode.UNSET)
        assert (child.attributes or {}).get("error.type") == (kind if failed else None)
    assert (
        recorded.values("trishake.greetings").get(keyed(role="initiator", outcome=error.outcome, error_type=kind))
        == 1
    )
    assert_ended(recorded)


@pytest.mark.parametrize(
    ("options", "kind", "told", "step"),
    [
        ({"bob": {"trust": only()}}, "IDENTITY_UNKNOWN", "IDENTITY_UNKNOWN", Step.POLICY),
        ({"bob": {"limits": FULL}}, "BUSY", "BUSY", Step.ADMITTED),
        ({"bob": {"identity": Elsewhere(BOB, never_signs)}}, "INTERNAL", "BUSY", Step.SYN_ACK_SENT),
        ({"bob": {"trust": out_of_order}}, "_OTHER", "0x8001", Step.POLICY),
        ({"ada": {"trust": nobody}}, "ABORTED", None, Step.ACK_RECEIVED),
    ],
    ids=["unknown", "full", "not signed", "a reason of its own", "refused there"],
)
async def test_a_greeting_that_we_refuse_says_what_the_other_side_was_told(
    recorded: Recorded, options: dict[str, Any], kind: str, told: str | None, step: Step
) -> None:
    async with two(recorded, ANYWHERE, **options) as (ada, invite):
        with pytest.raises(DialError):
            await ada.dial(invite)
    accept = recorded.span(ACCEPT)
    attributes = accept.attributes or {}
    assert accept.status.status_code is StatusCode.ERROR
    assert (attributes["error.type"], attributes.get("trishake.told")) == (kind, told)
    assert attributes["trishake.ended_in"] == step.value
    assert attributes["client.address"] == "127.0.0.1"
    counted = recorded.values("trishake.greetings")
    assert counted[keyed(role="responder", outcome=attributes["trishake.outcome"], error_type=kind)] == 1
    assert_ended(recorded)


async def test_a_dial_that_is_cancelled_is_no_error_and_says_in_which_step_it_was(
    recorded: Recorded, autojump_clock: MockClock
) -> None:
    async with two(recorded, bob={"trust": undecided}) as (ada, invite):
        with trio.move_on_after(0.5):
            await ada.dial(invite)
    dial = recorded.span(DIAL)
    assert dial.attributes is not None
    assert dial.start_time is not None
    assert dial.end_time is not None
    assert dial.status.status_code is StatusCode.UNSET
    assert dial.attributes["trishake.outcome"] == "cancelled"
    assert dial.attributes["trishake.ended_in"] == "verdict"
    assert "error.type" not in dial.attributes
    assert dial.end_time - dial.start_time == nanoseconds(0.5)
    last = recorded.within(dial)[-1]
    assert (last.name, last.status.status_code) == ("trishake.await_verdict", StatusCode.UNSET)
    assert recorded.values("trishake.greetings")[keyed(role="initiator", outcome="cancelled")] == 1
    assert_ended(recorded)


async def test_a_dial_that_is_cancelled_before_its_first_step_is_seen_too(
    recorded: Recorded, resolver: Resolver, autojump_clock: MockClock
) -> None:
    before = time.time_ns()
    async with peer(ADA, **recorded.watched) as ada:
        with trio.move_on_after(0.5):
            await ada.dial("tcp://slow.example:1")
    dial = recorded.span(DIAL)
    assert (dial.attributes or {})["trishake.ended_in"] == "resolved"
    assert dial.start_time is not None
    assert dial.end_time is not None
    assert dial.end_time - dial.start_time == nanoseconds(0.5)
    assert before <= dial.end_time <= time.time_ns()  # Trio's clock has jumped; it ends when it has ended
    assert [span.name for span in recorded.within(dial)] == ["trishake.resolve"]
    assert_ended(recorded)


# --- what others say --------------------------------------------------------------------------------------


class Babbling(Tcp):
    """A transport whose errors have more to say than anybody wants to read."""

    async def resolve(self, address: Address) -> Any:
        raise OSError("\x1b[2J\u202e" + 100_000 * "x")


def texts_of(recorded: Recorded) -> list[str]:
    """Every text in every span."""
    said: list[Any] = []
    for span in recorded.spans():
        said += [span.name, span.status.description, *(span.attributes or {}).values()]
        for event in span.events:
            said += [event.name, *(event.attributes or {}).values()]
    return [text for text in said if isinstance(text, str)]


async def test_texts_are_escaped_and_cut(recorded: Recorded) -> None:
    async def rude(_: object) -> Any:
        return reject(text="\x1b[31mgo away\n\u202e", why="so " * 1000)

    async with two(recorded, bob={"trust": rude}, ada={"transports": [Babbling()]}) as (ada, invite):
        with pytest.raises(Rejected):
            await ada.dial(invite)
        with pytest.raises(NoResponse):
            await ada.dial("tcp://127.0.0.1:1")
    texts = texts_of(recorded)
    assert any("go away" in text for text in texts)
    assert max(map(len, texts)) == 1024
    assert [text for text in texts if any(unicodedata.category(char) in ("Cc", "Cf") for char in text)] == []


# --- metrics ----------------------------------------------------------------------------------------------


async def test_open_connections_are_counted_up_and_down_by_role(recorded: Recorded) -> None:
    async with two(recorded) as (ada, invite):
        first, _ = await ada.dial(invite), await ada.dial(invite)
        await wait_all_tasks_blocked()
        open_ = recorded.values("trishake.connections")
        assert open_ == {keyed(role="initiator"): 2, keyed(role="responder"): 2}
        await first.aclose()
        await wait_all_tasks_blocked()
        open_ = recorded.values("trishake.connections")
        assert open_ == {keyed(role="initiator"): 1, keyed(role="responder"): 1}
    assert recorded.values("trishake.connections") == {}


async def test_how_long_connections_were_open_is_known_by_role_and_by_how_they_ended(
    recorded: Recorded, autojump_clock: MockClock
) -> None:
    async def script(hand: ByHand) -> None:
        await hand.answer()
        await hand.say(hand.ready())
        await trio.sleep(5)
        await hand.say(hand.record(RecordType.CLOSE, Close(0x77, "a code of its own").encode()))

    async def cut(hand: ByHand) -> None:
        await hand.answer()
        await hand.say(hand.ready())
        await hand.stream.aclose()

    async with two(recorded) as (ada, invite), by_hand(script) as odd, by_hand(cut, "cut") as cut_off:
        connection = await ada.dial(invite)
        await trio.sleep(3)
        await connection.aclose()
        assert (await (await ada.dial(odd)).closed()).code == 0x77
        assert (await (await ada.dial(cut_off)).closed()).code is None
    points = recorded.points("trishake.connection.duration")
    ended = {
        point.attributes["trishake.code"]: (point.count, point.sum)
        for point in points
        if point.attributes["trishake.role"] == "initiator"
    }
    assert all(point.explicit_bounds[-1] >= 24 * 60 * 60 for point in points)
    assert ended.keys() == {"NORMAL", "_OTHER", "cut"}
    assert ended["NORMAL"] == (1, pytest.approx(3, abs=0.1))
    assert ended["_OTHER"] == (1, pytest.approx(5, abs=0.1))


async def test_streams_that_we_refuse_are_counted_by_reason_without_what_a_policy_says_of_it(
    recorded: Recorded,
) -> None:
    async def handler(stream: Stream) -> None:
        raise AssertionError

    async def secretive(introduction: Any) -> Any:
        return reject(VerdictCode.POLICY, why=f"not {introduction.peer}")

    async with two(recorded) as (ada, _), peer(EVE, **recorded.watched) as eve:
        eve.handle("secret/1", handler, trust=secretive)
        eve.handle("odd/1", handler, trust=out_of_order)
        connection = await ada.dial((await eve.listen("mem://eve")).invite)
        for protocol, error in (
            ("a name that anybody may choose", UnknownProtocol),
            ("secret/1", StreamRefused),
            ("odd/1", StreamRefused),
        ):
            with pytest.raises(error):
                await connection.open_stream(protocol)
    assert recorded.values("trishake.streams.refused") == {
        keyed(reason="UNKNOWN_PROTOCOL"): 1,
        keyed(reason="POLICY"): 1,
        keyed(reason="_OTHER"): 1,
    }


async def test_the_duration_of_greetings_is_known_by_role_and_outcome_and_leads_to_its_trace(
    recorded: Recorded, autojump_clock: MockClock
) -> None:
    async def slow(introduction: Any) -> Any:
        await trio.sleep(0.7)
        return await thoughtful(introduction)

    async with two(recorded, bob={"trust": slow}) as (ada, invite):
        await ada.dial(invite)
    points = recorded.points("trishake.greeting.duration", "trishake.greetings")
    for role, name in (("initiator", DIAL), ("responder", ACCEPT)):
        greetings, durations = sorted(
            (point for point in points if point.attributes["trishake.role"] == role),
            key=lambda point: hasattr(point, "sum"),
        )
        context = recorded.span(name).context
        assert context is not None
        assert durations.attributes == {"trishake.role": role, "trishake.outcome": "accepted"}
        assert (durations.count, durations.sum) == (1, pytest.approx(0.7))
        bounds = durations.explicit_bounds
        assert bounds[0] <= 0.001
        assert bounds[-1] >= Limits().connect + Limits().greeting
        assert durations.bucket_counts[bounds.index(1)] == 1  # seconds, not milliseconds
        for point in (greetings, durations):
            assert [exemplar.trace_id for exemplar in point.exemplars] == [context.trace_id]


async def test_attributes_of_metrics_are_of_few_values_whoever_comes_from_wherever(recorded: Recorded) -> None:
    async def odd(introduction: Any) -> Any:
        return reject(0x8000 + introduction.peer.key[0], why=str(introduction.peer))

    people = [ADA, EVE, *(type(ADA).from_seed(bytes([number]) * 32) for number in range(5))]
    async with (
        peer(BOB, **recorded.watched) as bob,
        peer(EVE, **recorded.watched, trust=odd) as eve,
    ):
        open_, strict = await bob.listen(ANYWHERE), await eve.listen(ANYWHERE)
        for identity in people:
            async with peer(identity, **recorded.watched) as dialer:
                with pytest.raises(UnknownProtocol):
                    await (await dialer.dial(open_.invite)).open_stream(f"protocol of {identity.id.short}")
                with pytest.raises(DialError):
                    await dialer.dial(strict.invite)
    allowed = {
        "trishake.role": {"initiator", "responder"},
        "trishake.outcome": {"accepted", "rejected", "refused by policy", "not greeted"},
        "error.type": {"_OTHER", "SELF", "ABORTED"},
        "trishake.code": {"GOING_AWAY", "NORMAL"},
        "trishake.reason": {"UNKNOWN_PROTOCOL"},
    }
    seen: dict[str, set[Any]] = {name: set() for name in allowed}
    for name in (
        "trishake.greetings",
        "trishake.greeting.duration",
        "trishake.connections",
        "trishake.connection.duration",
        "trishake.streams.refused",
    ):
        points = recorded.points(name)
        assert points
        for point in points:
            for attribute, value in point.attributes.items():
                seen[attribute].add(value)
    for name, values in seen.items():
        assert values <= allowed[name], name
    assert "_OTHER" in seen["error.type"]


# --- without the SDK --------------------------------------------------------------------------------------

_GREET: Final = """
import trio
from trishake import Identity, Peer
from trishake._telemetry import Telemetry

telemetry = Telemetry()
# here

async def main():
    watched = {"observers": [telemetry]}
    async with Peer(Identity.generate(), **watched) as bob, Peer(Identity.generate(), **watched) as ada:
        await ada.dial((await bob.listen("mem://bob")).invite)
        print(len(ada._tally._others), len(bob._tally._others))

trio.run(main)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_without_a_provider_it_does_nothing_and_harms_nobody() -> None:
    assert run(_GREET) == "1 1\n"


def test_the_global_providers_are_the_default_and_may_come_later_than_it() -> None:
    setting = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider([reader]))
"""
    showing = """
names = [span.name for span in exporter.get_finished_spans()]
print(sorted(name for name in names if name in ("trishake.accept", "trishake.dial")))
print("trishake.connections" in reader.get_metrics_data().to_json())
"""
    shown = "1 1\n['trishake.accept', 'trishake.dial']\nTrue\n"
    assert run(setting + _GREET + showing) == shown
    assert run(_GREET.replace("# here", setting) + showing) == shown


def test_who_has_not_installed_it_is_told_what_to_install() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from trishake import *
try:
    Telemetry()
except ImportError as error:
    print(error)
"""
    assert run(code) == "for telemetry, OpenTelemetry is needed: pip install 'trishake[telemetry]'\n"
