"""Telemetry: greetings as OpenTelemetry has them, spans and metrics (`pip install 'trishake[telemetry]'`).

    trishake.dial, trishake.accept    a span a greeting
    └── trishake.resolve, …           a span each time that somebody else is waited for: where the time goes
    trishake.syn_sent, …              an event for each of the other steps, which take next to none

A connection may be open for days, and a span is seen when it has ended: so connections are metrics only.
"""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING, Final

import trio

from trishake_protocol import PeerId, Role, VerdictCode, code_name, escape

from ._errors import ConnectionClosed, DialError, Refused, Rejected
from ._observer import Observer, Progress
from ._steps import Ending, Step
from ._timeline import Timeline, TimelineEntry
from ._version import VERSION

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from ._connection import Connection

_Attributes = dict[str, str | int | float | bool]

_WAITS: Final = {
    (Role.INITIATOR, Step.RESOLVED): "trishake.resolve",
    (Role.INITIATOR, Step.CONNECTED): "trishake.connect",
    (Role.INITIATOR, Step.SYN_ACK_RECEIVED): "trishake.await_syn_ack",
    (Role.INITIATOR, Step.POLICY): "trishake.policy",
    (Role.INITIATOR, Step.VERDICT): "trishake.await_verdict",
    (Role.RESPONDER, Step.SYN_RECEIVED): "trishake.await_syn",
    (Role.RESPONDER, Step.ACK_RECEIVED): "trishake.await_ack",
    (Role.RESPONDER, Step.POLICY): "trishake.policy",
}
"""The steps in which somebody else is waited for: a name server, the network, the other side, the application."""

_OTHER: Final = "_OTHER"
"""What OpenTelemetry calls a value that is none of those known beforehand."""

_LONGEST_TEXT: Final = 1024
"""Characters of an attribute."""

_GREETING_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
"""From a greeting on one machine to `Limits.connect` and `Limits.greeting` together."""
_CONNECTION_SECONDS: Final = (0.1, 1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400)


class _Greeting:
    """One that is under way. began: nanoseconds since 1970. context: that of the spans within its own."""

    __slots__ = ("began", "context", "role", "span")

    def __init__(self, role: Role, began: int, span: Span, context: Context) -> None:
        self.role = role
        self.began = began
        self.span = span
        self.context = context

    def at(self, seconds: float) -> int:
        """The time so many seconds after it began."""
        return self.began + round(seconds * 1e9)


class Telemetry(Observer):
    """Gives OpenTelemetry what it observes: `Peer(identity, observers=[Telemetry()])`.

    tracer_provider, meter_provider: where spans and metrics go; OpenTelemetry's global ones, if None. One may
    observe many peers. A dial's span is a child of the span that is current where it was dialed; that of a
    greeting which others began is a root. Metrics have no peer ids, addresses or protocols in their attributes:
    strangers could make any number of them. Raises ImportError, which says what to install.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        try:  # here, not above: the name is there for all who say `from trishake import *`
            from opentelemetry import context, metrics, trace
        except ImportError as error:
            raise ImportError(
                "for telemetry, OpenTelemetry is needed: pip install 'trishake[telemetry]'"
            ) from error
        self._trace = trace
        self._no_context: Final = context.Context()
        self._tracer = trace.get_tracer("trishake", VERSION, tracer_provider)
        self._under_way: dict[int, _Greeting] = {}
        """By its number. Each is taken out with its end, which an observer always sees."""
        meter = metrics.get_meter("trishake", VERSION, meter_provider)
        self._greetings = meter.create_counter(
            "trishake.greetings", "{greeting}", "Greetings that have ended, by how they did."
        )
        self._greeting_duration = meter.create_histogram(
            "trishake.greeting.duration",
            "s",
            "How long greetings took, connecting included.",
            explicit_bucket_boundaries_advisory=_GREETING_SECONDS,
        )
        self._connections = meter.create_up_down_counter(
            "trishake.connections", "{connection}", "Connections that are open."
        )
        self._connection_duration = meter.create_histogram(
            "trishake.connection.duration",
            "s",
            "How long connections were open.",
            explicit_bucket_boundaries_advisory=_CONNECTION_SECONDS,
        )
        self._streams_refused = meter.create_counter(
            "trishake.streams.refused", "{stream}", "Streams of others that we refused."
        )

    # --- greetings --------------------------------------------------------------------------------------

    def progress(self, progress: Progress) -> None:
        greeting = self._greeting(progress.greeting, progress.role, progress.address, progress.at)
        self._take_step(greeting, progress)
        if progress.step is Step.VERDICT:
            self._end(progress.greeting, progress, progress.at, Ending.ACCEPTED.value)

    def failed(self, role: Role, error: DialError) -> None:
        timeline = error.timeline
        kind, text = _kind_of(error), _shown(str(error))
        greeting = self._ended_by(timeline)
        span = greeting.span
        last = timeline.entries[-1] if timeline.entries else None
        if last is not None and last.failed:
            self._take_step(greeting, last, kind)
        attributes: _Attributes = {
            "error.type": kind,
            "trishake.reason": error.counted_as,
            "trishake.retryable": error.retryable,
        }
        if last is not None:
            attributes["trishake.ended_in"] = last.step.value
        if timeline.told is not None:
            attributes["trishake.told"] = timeline.told
        span.set_attributes(attributes)
        # As `record_exception` has it, without the stack: where in here it was raised is of no use to anybody.
        said = {"exception.type": f"trishake.{type(error).__qualname__}", "exception.message": text}
        span.add_event("exception", said, greeting.at(timeline.seconds))
        span.set_status(self._trace.StatusCode.ERROR, text)
        self._end(timeline.number, timeline, timeline.seconds, timeline.outcome, kind)

    def cancelled(self, role: Role, timeline: Timeline) -> None:
        greeting = self._ended_by(timeline)
        last = timeline.entries[-1]
        if last.failed:
            self._take_step(greeting, last)
        greeting.span.set_attribute("trishake.ended_in", last.step.value)
        # Not an error: it is how a dial ends that another address has won.
        self._end(timeline.number, timeline, timeline.seconds, timeline.outcome)

    def _greeting(self, number: int, role: Role, address: str | None, seconds: float) -> _Greeting:
        """The one of this number; a new one where nothing has been seen of it yet.

        seconds: how long it has been under way.
        """
        if number in self._under_way:
            return self._under_way[number]
        began = time.time_ns() - round(seconds * 1e9)
        if role is Role.INITIATOR:
            name, kind, parent = "trishake.dial", self._trace.SpanKind.CLIENT, None
        else:
            # A listener's tasks have the context of whoever called `listen`, to whose span no greeting belongs.
            name, kind, parent = "trishake.accept", self._trace.SpanKind.SERVER, self._no_context
        attributes: _Attributes = {"trishake.role": role.value, "trishake.number": number}
        if address is not None:
            _add_endpoint(attributes, "server" if role is Role.INITIATOR else "client", address)
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=began)
        self._under_way[number] = _Greeting(role, began, span, self._trace.set_span_in_context(span, parent))
        return self._under_way[number]

    def _ended_by(self, timeline: Timeline) -> _Greeting:
        return self._greeting(timeline.number, timeline.role, timeline.address, timeline.seconds)

    def _take_step(self, greeting: _Greeting, taken: Progress | TimelineEntry, kind: str | None = None) -> None:
        """kind: what the greeting failed of in this step."""
        if not greeting.span.is_recording():
            return
        number = taken.step.number(greeting.role)
        sizes = {"trishake.sent": taken.sent, "trishake.received": taken.received}
        attributes: _Attributes = {name: size for name, size in sizes.items() if size}
        if number is not None:
            attributes["trishake.step.number"] = number
        name = _WAITS.get((greeting.role, taken.step))
        if name is not None:
            began = greeting.at(taken.at - taken.seconds)
            span = self._tracer.start_span(name, greeting.context, attributes=attributes, start_time=began)
            if kind is not None:
                span.set_attribute("error.type", kind)
                span.set_status(self._trace.StatusCode.ERROR, kind)
            span.end(greeting.at(taken.at))
        elif not (isinstance(taken, TimelineEntry) and taken.failed):  # it was not done: there is no such event
            attributes["trishake.step.seconds"] = taken.seconds
            greeting.span.add_event(f"trishake.{taken.step}", attributes, greeting.at(taken.at))

    def _end(
        self, number: int, known: Progress | Timeline, seconds: float, outcome: str, kind: str | None = None
    ) -> None:
        greeting = self._under_way.pop(number)
        greeting.span.set_attributes(_facts(known) | {"trishake.outcome": outcome})
        greeting.span.end(greeting.at(seconds))
        attributes: _Attributes = {"trishake.role": known.role.value, "trishake.outcome": outcome}
        self._greeting_duration.record(seconds, attributes, greeting.context)
        if kind is not None:
            attributes["error.type"] = kind
        self._greetings.add(1, attributes, greeting.context)

    # --- connections ------------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        self._connections.add(1, {"trishake.role": connection.role.value})

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        role = connection.role.value
        code = "cut" if closed.code is None else _name_of(closed.code)
        self._connections.add(-1, {"trishake.role": role})
        seconds = trio.current_time() - connection.opened_at
        self._connection_duration.record(seconds, {"trishake.role": role, "trishake.code": code})

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        reason = why.partition(":")[0]  # the words behind it are the policy's, and may name anybody
        self._streams_refused.add(1, {"trishake.reason": reason if reason in _REFUSALS else _OTHER})


_REFUSALS: Final = {"UNKNOWN_PROTOCOL", *VerdictCode.__members__}


def _kind_of(error: DialError) -> str:
    """`error.type`: one of a few; no number that the other side has chosen."""
    if isinstance(error, Rejected | Refused):
        return _name_of(error.reason)
    return error.counted_as


def _name_of(code: enum.Enum | int) -> str:
    return code_name(code) if isinstance(code, enum.Enum) else _OTHER


def _facts(known: Progress | Timeline) -> _Attributes:
    """What is known of a greeting when it has ended."""
    facts: _Attributes = {}
    if known.endpoint is not None:  # only a TCP socket has one, whatever goes over it
        facts["network.transport"] = "tcp"
        _add_endpoint(facts, "network.peer", known.endpoint)
    elif known.address is not None and known.address.startswith("/"):
        facts["network.transport"] = "unix"
    if known.peer is not None:
        facts["trishake.peer"] = str(known.peer)
    if known.suite is not None:
        facts["trishake.suite"] = str(known.suite)
    if known.greeting_id is not None:
        facts["trishake.greeting_id"] = known.greeting_id.hex()
    if known.session_id is not None:
        facts["trishake.session_id"] = known.session_id.hex()
    return facts


def _add_endpoint(attributes: _Attributes, prefix: str, endpoint: str) -> None:
    """`host:port` as two attributes; a path, or a name in memory, as one."""
    host, _, port = endpoint.rpartition(":")
    if endpoint.startswith("/") or not (port.isascii() and port.isdecimal()):
        attributes[f"{prefix}.address"] = _shown(endpoint)
    else:
        attributes[f"{prefix}.address"] = _shown(host.strip("[]"))
        attributes[f"{prefix}.port"] = int(port)


def _shown(text: str) -> str:
    """Text as it may be shown anywhere, and not too much of it."""
    return escape(text)[:_LONGEST_TEXT]
