"""Timeline: the steps that one greeting took on our side, each with its duration and sizes.

Trace       written while the greeting goes on: three numbers a step
Timeline    what is read of it once somebody looks; every connection and every DialError has one
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from trishake_protocol import PeerId, Role, Suite, VerdictCode, code_name, escape
from trishake_protocol.errors import Reason

from ._steps import STEPS, Ending, Step

if TYPE_CHECKING:
    from ._errors import DialError
    from ._observers import Observers


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One step. at: seconds since the greeting began, when it was done; seconds: since the step before.

    sent, received: bytes since the step before, the transport's own left out. failed: it is the one in which the
    greeting ended; it was not done. detail: for people: which addresses, who, what was decided.
    """

    step: Step
    at: float
    seconds: float
    sent: int
    received: int
    failed: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """What one greeting went through on our side, and how it ended.

    number: tells it from the others of this process. began: Unix seconds. seconds: how long it took.
    outcome: `accepted`, `cancelled`, or else the error's `outcome`; reason: its `counted_as`, None without one.
    told: what the other side was told by us of a refusal, by its name; None where nothing was said.
    own: who we are. peer: who the other side is, proved; or else who was dialed. network: the one we greeted in.
    address: what was dialed, or where the dial came from; endpoint: the other end, as `host:port`.
    places: what the name stood for, each with what it said, if it was tried and nothing came of it.
    greeting_id: 8 bytes, known to both sides from SYN on, and to be seen on the wire. session_id: 8 bytes, known
        to both sides from ACK on, and to nobody else.
    clock_difference: whole seconds that the other side's clock is ahead of ours, as its greeting says.
    """

    number: int
    role: Role
    began: float
    seconds: float
    entries: tuple[TimelineEntry, ...]
    outcome: str
    reason: str | None
    told: str | None
    own: PeerId
    network: str
    peer: PeerId | None
    address: str | None
    endpoint: str | None
    places: tuple[tuple[str, str | None], ...]
    suite: Suite | None
    greeting_id: bytes | None
    session_id: bytes | None
    clock_difference: int | None

    def __getitem__(self, step: Step) -> TimelineEntry:
        """Raises KeyError for a step that the greeting did not come to."""
        for entry in self.entries:
            if entry.step is step:
                return entry
        raise KeyError(step)

    def as_dict(self) -> dict[str, object]:
        """For machines: numbers, texts, lists and None, as JSON has them; times in milliseconds."""
        return {
            "number": self.number,
            "role": self.role.value,
            "outcome": self.outcome,
            "reason": self.reason,
            "told": self.told,
            "own": str(self.own),
            "peer": None if self.peer is None else str(self.peer),
            "network": self.network,
            "address": self.address,
            "endpoint": self.endpoint,
            "places": [{"endpoint": endpoint, "failure": failure} for endpoint, failure in self.places],
            "suite": None if self.suite is None else str(self.suite),
            "greeting": None if self.greeting_id is None else self.greeting_id.hex(),
            "session": None if self.session_id is None else self.session_id.hex(),
            "clock_difference": self.clock_difference,
            "began": self.began,
            "milliseconds": round(self.seconds * 1000, 3),
            "steps": [
                {
                    "step": entry.step.value,
                    "number": entry.step.number(self.role),
                    "at": round(entry.at * 1000, 3),
                    "milliseconds": round(entry.seconds * 1000, 3),
                    "sent": entry.sent,
                    "received": entry.received,
                    "failed": entry.failed,
                    "detail": entry.detail,
                }
                for entry in self.entries
            ],
        }

    @classmethod
    def from_dict(cls, facts: object) -> Timeline:
        """What `as_dict` gave, here or in another process; times to the microsecond.

        Raises ValueError for anything else; what is said in it is not checked any further.
        """
        from ._recorded import recorded_timeline  # here, not above: most programs never come to that

        return recorded_timeline(facts, cls, TimelineEntry)

    def picture(self, width: int = 80, *, other: Timeline | None = None) -> str:
        """A sequence diagram in text, without colours, no line of it longer than width columns.

        other: the other side's timeline of the same greeting, for its times too; clocks that differ are seen.
        Raises ValueError for a width below 64, or an `other` of another greeting or of the same side.
        """
        from ._diagram import picture  # here, not above: most programs never come to that

        return picture(self, width, other)

    def svg(self, *, other: Timeline | None = None) -> str:
        """The same as an SVG document. Raises ValueError as `picture`."""
        from ._diagram import svg

        return svg(self, other)

    def __str__(self) -> str:
        """A table of the steps, a line each, and one that says how it ended."""
        lines = [f"{'step':<19}{'ms':>10}{'sent':>8}{'received':>10}"]
        for entry in self.entries:
            sizes = f"{entry.sent or '':>8}{entry.received or '':>10}"
            mark = "✗" if entry.failed else " "
            # An address may be anybody's: of an invite, say.
            line = f"{entry.step.label:<19}{entry.seconds * 1000:>10.1f}{sizes} {mark} {escape(entry.detail)}"
            lines.append(line.rstrip())
        ended = self.outcome if self.reason is None else f"{self.outcome}: {self.reason}"
        lines.append(f"{escape(ended)}, after {self.seconds * 1000:.1f} ms")
        return "\n".join(lines)


_numbers: Final = itertools.count(1)


class Trace:
    """What one greeting has gone through so far.

    role: ours. own: who we are. address: what was dialed, or where the dial came from. network: its name.
    observers: told of each step, and of how it ended.
    """

    __slots__ = (
        "_followed",
        "_marks",
        "_observers",
        "address",
        "began",
        "clock_difference",
        "ended",
        "endpoint",
        "greeting_id",
        "network",
        "number",
        "own",
        "peer",
        "places",
        "received",
        "role",
        "sent",
        "session_id",
        "started",
        "suite",
        "told",
    )

    def __init__(self, role: Role, own: PeerId, network: str, address: str | None, observers: Observers) -> None:
        self._observers = observers
        self._followed = observers.follow_steps  # asked once: most greetings have nobody who follows them
        self.number = next(_numbers)
        self.role = role
        self.own = own
        self.network = network
        self.address = address
        self.began = time.time()
        self.started = self.ended = trio.current_time()
        self.sent = 0
        self.received = 0
        self.places: dict[str, str | None] = {}
        """What the address stood for, each with what it said if nothing came of it, in the order of preference."""
        self.endpoint: str | None = None
        self.peer: PeerId | None = None
        self.suite: Suite | None = None
        self.greeting_id: bytes | None = None
        self.session_id: bytes | None = None
        self.clock_difference: int | None = None
        self.told: Reason | None = None
        self._marks: list[tuple[Step, float, int, int]] = []
        """Each step with its time on Trio's clock, and what was sent and received by then."""

    def mark(self, step: Step, at: float | None = None) -> None:
        """The step was taken: now, or at that time of Trio's clock; never before the step that precedes it."""
        # What answers a step may have come before it was done: along with the message that was heard before it.
        before = self._marks[-1][1] if self._marks else self.started
        self.ended = trio.current_time() if at is None else max(at, before)
        self._marks.append((step, self.ended, self.sent, self.received))
        if self._followed or step is Step.ADMITTED or step is Step.VERDICT:  # these two are counted
            self._observers.progress(self, step)

    def fail(self, error: DialError) -> None:
        """The greeting has ended with this error."""
        self.ended = trio.current_time()
        error.ends(self)
        self._observers.failed(self, error)

    def cancel(self) -> None:
        """The greeting was cut off on our side, with no error of its own."""
        self.ended = trio.current_time()
        self._observers.cancelled(self)

    @property
    def latest(self) -> TimelineEntry:
        """The step that was taken last."""
        return self._entry(len(self._marks) - 1)

    def _entry(self, index: int) -> TimelineEntry:
        step, at, sent, received = self._marks[index]
        _, before, sent_before, received_before = self._marks[index - 1] if index else (step, self.started, 0, 0)
        return TimelineEntry(step, at - self.started, at - before, sent - sent_before, received - received_before)

    def timeline(self, error: DialError | None = None, *, cancelled: bool = False) -> Timeline:
        """What is known by now. error: how it ended, if not well; cancelled: it was cut off instead."""
        outcome, reason = (Ending.CANCELLED if cancelled else Ending.ACCEPTED).value, None
        if error is not None:
            outcome, reason = error.outcome, error.counted_as
        taken = [self._entry(index) for index in range(len(self._marks))]
        entries = [replace(entry, detail=self._detail(entry.step)) for entry in taken]
        if outcome != Ending.ACCEPTED and (failing := _after(self.role, entries)) is not None:
            at = self.ended - self.started
            entries.append(
                TimelineEntry(
                    failing,
                    at,
                    at - entries[-1].at if entries else at,
                    self.sent - sum(entry.sent for entry in entries),
                    self.received - sum(entry.received for entry in entries),
                    failed=True,
                    detail=outcome if reason is None else f"{outcome}: {reason}",
                )
            )
        return Timeline(
            number=self.number,
            role=self.role,
            began=self.began,
            seconds=self.ended - self.started,
            entries=tuple(entries),
            outcome=outcome,
            reason=reason,
            told=None if self.told is None else code_name(self.told),
            own=self.own,
            network=self.network,
            peer=self.peer,
            address=self.address,
            endpoint=self.endpoint,
            places=tuple(self.places.items()),
            suite=self.suite,
            greeting_id=self.greeting_id,
            session_id=self.session_id,
            clock_difference=self.clock_difference,
        )

    def _detail(self, step: Step) -> str:
        match step:
            case Step.RESOLVED:
                return ", ".join(self.places)
            case Step.CONNECTED | Step.ADMITTED:
                return self.endpoint or ""
            case Step.SYN_SENT | Step.SYN_RECEIVED:
                return "" if self.suite is None else "_".join(self.suite.noise_name.split("_")[1:3])
            case Step.IDENTITY_VERIFIED:
                return "" if self.peer is None else self.peer.short
            case Step.VERDICT:
                return VerdictCode.READY.name
            case _:
                return ""


def _after(role: Role, entries: Sequence[TimelineEntry]) -> Step | None:
    """The step in which a greeting ended that had taken these."""
    steps = STEPS[role]
    index = steps.index(entries[-1].step) + 1 if entries else 0
    return steps[index] if index < len(steps) else None
