"""What the kit says of a greeting, for people: which peer, which step, which reason."""

from __future__ import annotations

from trishake_protocol import Role

from .._errors import DialError
from .._timeline import Timeline


def step_of(timeline: Timeline) -> str:
    """The step in which it ended: `step 7, verdict`, or `the step 'connected'`, which has no number."""
    last = timeline.entries[-1].step
    number = last.number(timeline.role)
    return f"the step {last.label!r}" if number is None else f"step {number}, {last.label}"


def account_of_failure(error: DialError, own: str, other: str) -> str:
    """A line: what has come of a greeting of `own` with `other`, at which step."""
    timeline = error.timeline
    what = f"{error.outcome}, {error.counted_as}, at {step_of(timeline)}"
    if timeline.role is Role.INITIATOR:
        return f"{own} dialed {other}: {what}"
    told = "" if timeline.told is None else f"; it was told {timeline.told}"
    return f"{own} was dialed by {other}: {what}{told}"
