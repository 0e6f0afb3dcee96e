"""Observers: all who watch one peer or one greeting: the log (_events.py), and the application's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from trishake_protocol import PeerId, Role, code_name

from ._errors import ConnectionClosed, DialError
from ._events import follow_environment, is_wanted, log_event, log_failure
from ._observer import Observer, Progress
from ._steps import Step
from ._timeline import Timeline, Trace

if TYPE_CHECKING:
    from ._connection import Connection


class Observers:
    """Who watches: the log first, then each of the others in turn; nothing is made for them if nobody looks.

    One that is given twice is told once.
    """

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._others = tuple({id(observer): observer for observer in observers}.values())
        follow_environment()

    @property
    def follow_steps(self) -> bool:
        """Whether anybody wants to know of each step; if not, of the last one alone."""
        return bool(self._others) or is_wanted(logging.DEBUG)

    def progress(self, trace: Trace, step: Step) -> None:
        """A greeting took this step, which its trace has already."""
        if not self._others and not is_wanted(_level_of(step)):
            return
        latest = trace.latest
        progress = Progress(
            trace.number,
            step,
            trace.role,
            latest.at,
            latest.seconds,
            latest.sent,
            latest.received,
            trace.address,
            trace.endpoint,
            trace.peer,
            trace.suite,
            trace.greeting_id,
            trace.session_id,
        )
        self._tell(lambda observer: observer.progress(progress))

    def failed(self, trace: Trace, error: DialError) -> None:
        """The greeting of this trace ended with this error."""
        self._tell(lambda observer: observer.failed(trace.role, error))

    def cancelled(self, trace: Trace) -> None:
        """The greeting of this trace was cut off."""
        if not self._others and not is_wanted(logging.INFO):
            return
        timeline = trace.timeline(cancelled=True)
        self._tell(lambda observer: observer.cancelled(trace.role, timeline))

    def connected(self, connection: Connection) -> None:
        self._tell(lambda observer: observer.connected(connection))

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        self._tell(lambda observer: observer.disconnected(connection, closed))

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        self._tell(lambda observer: observer.stream_refused(peer, protocol, why))

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in (_EVENT_LOG, *self._others):
            # An observer is the application's: what it raises is its failure, and nobody else falls with it.
            try:
                what(observer)
            except Exception:  # noqa: BLE001
                self._others = tuple(other for other in self._others if other is not observer)
                name = type(observer).__qualname__
                text = f"the observer {name} failed, and is told no more"
                log_failure("observer.failed", text, observer=name)


class EventLog(Observer):
    """Makes an event of each thing that an observer is told."""

    def progress(self, progress: Progress) -> None:
        level = _level_of(progress.step)
        if not is_wanted(level):
            return
        peer = None if progress.peer is None else str(progress.peer)  # once: its check characters take time
        who = f"with {peer or 'somebody'}"
        where = f" [{progress.address}]" if progress.address else ""
        what = "accepted" if progress.step is Step.VERDICT else progress.step.label
        log_event(
            level,
            f"greeting.{progress.step}",
            f"greeting {progress.greeting} {who}{where}: {what}, after {progress.at * 1000:.1f} ms",
            number=progress.greeting,
            role=progress.role.value,
            address=progress.address,
            endpoint=progress.endpoint,
            peer=peer,
            greeting=progress.greeting_id,
            session=progress.session_id,
            step=progress.step.value,
            suite=progress.suite,
            at=round(progress.at * 1000, 3),
            milliseconds=round(progress.seconds * 1000, 3),
            sent=progress.sent,
            received=progress.received,
        )

    def failed(self, role: Role, error: DialError) -> None:
        if not is_wanted(logging.INFO):
            return
        timeline = error.timeline
        session = "" if error.session_id is None else f" (session {error.session_id.hex()})"
        log_event(
            logging.INFO,
            "greeting.failed",
            f"greeting {timeline.number}: {error}{session}",
            **_of_greeting(timeline),
            outcome=error.outcome,
            reason=error.counted_as,
            told=timeline.told,
            retryable=error.retryable,
        )

    def cancelled(self, role: Role, timeline: Timeline) -> None:
        if not is_wanted(logging.INFO):
            return
        who = "" if timeline.peer is None else f" with {timeline.peer}"
        where = f" [{timeline.address}]" if timeline.address else ""
        text = f"greeting {timeline.number}{who}{where}: cancelled, after {timeline.seconds * 1000:.1f} ms"
        log_event(logging.INFO, "greeting.cancelled", text, **_of_greeting(timeline))

    def connected(self, connection: Connection) -> None:
        if not is_wanted(logging.DEBUG):
            return
        text = f"a connection with {connection.peer} is open (session {connection.session_id.hex()})"
        log_event(logging.DEBUG, "connection.opened", text, **_of_connection(connection))

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        if not is_wanted(logging.INFO):
            return
        log_event(
            logging.INFO,
            "connection.closed",
            f"{closed} (session {connection.session_id.hex()})",
            **_of_connection(connection),
            code=None if closed.code is None else code_name(closed.code),
            text=closed.text,
            by_peer=closed.by_peer,
        )

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        text = f"a stream for {protocol!r} that {peer} opened was refused: {why}"
        log_event(logging.INFO, "stream.refused", text, peer=peer, protocol=protocol, reason=why)


_EVENT_LOG: Final = EventLog()


def _level_of(step: Step) -> int:
    return logging.INFO if step is Step.VERDICT else logging.DEBUG


def _of_greeting(timeline: Timeline) -> dict[str, object]:
    """Of one that has ended, and not well."""
    return {
        "number": timeline.number,
        "role": timeline.role.value,
        "address": timeline.address,
        "endpoint": timeline.endpoint,
        "peer": timeline.peer,
        "greeting": timeline.greeting_id,
        "session": timeline.session_id,
        "step": timeline.entries[-1].step.value if timeline.entries else None,
        "milliseconds": round(timeline.seconds * 1000, 3),
    }


def _of_connection(connection: Connection) -> dict[str, object]:
    return {
        "number": connection.timeline.number,
        "role": connection.role.value,
        "endpoint": connection.address,
        "peer": connection.peer,
        "session": connection.session_id,
    }
