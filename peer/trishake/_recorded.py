"""Recorded: a timeline as it is read back from what `Timeline.as_dict` gave. Loaded when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, cast

from trishake_protocol import PeerId, Role
from trishake_protocol.patterns import SUITES

from ._steps import STEPS

if TYPE_CHECKING:
    from ._timeline import Timeline, TimelineEntry

_TEXT_OR_NONE: Final = (str, NoneType)
_NUMBER: Final = (int, float)
_TIMELINE: Final[Mapping[str, tuple[type, ...]]] = {
    "number": (int,),
    "role": (str,),
    "outcome": (str,),
    "reason": _TEXT_OR_NONE,
    "told": _TEXT_OR_NONE,
    "own": (str,),
    "peer": _TEXT_OR_NONE,
    "network": (str,),
    "address": _TEXT_OR_NONE,
    "endpoint": _TEXT_OR_NONE,
    "places": (list,),
    "suite": _TEXT_OR_NONE,
    "greeting": _TEXT_OR_NONE,
    "session": _TEXT_OR_NONE,
    "clock_difference": (int, NoneType),
    "began": _NUMBER,
    "milliseconds": _NUMBER,
    "steps": (list,),
}
_PLACE: Final[Mapping[str, tuple[type, ...]]] = {"endpoint": (str,), "failure": _TEXT_OR_NONE}
_STEP: Final[Mapping[str, tuple[type, ...]]] = {
    "step": (str,),
    "at": _NUMBER,
    "milliseconds": _NUMBER,
    "sent": (int,),
    "received": (int,),
    "failed": (bool,),
    "detail": (str,),
}
_MOST: Final = 1e15
"""Above any number that stands in a timeline, but one; NaN is not below it."""
_MOST_APART: Final = 2**64
"""Of clocks: the other side may say any time that 64 bits hold."""

_SUITES: Final = {str(suite): suite for suite in SUITES.values()}


def recorded_timeline(facts: object, kind: type[Timeline], kind_of_entry: type[TimelineEntry]) -> Timeline:
    """What `Timeline.from_dict` gives. The two classes are handed in, as their module is above this one."""
    said = _checked(facts, _TIMELINE)
    try:
        role = Role(said["role"])
        return kind(
            number=said["number"],
            role=role,
            began=said["began"],
            seconds=said["milliseconds"] / 1000,
            entries=_entries(said["steps"], role, kind_of_entry),
            outcome=said["outcome"],
            reason=said["reason"],
            told=said["told"],
            own=PeerId.parse(said["own"]),
            network=said["network"],
            peer=None if said["peer"] is None else PeerId.parse(said["peer"]),
            address=said["address"],
            endpoint=said["endpoint"],
            places=tuple((place["endpoint"], place["failure"]) for place in _each(said["places"], _PLACE)),
            suite=None if said["suite"] is None else _SUITES[said["suite"]],
            greeting_id=None if said["greeting"] is None else bytes.fromhex(said["greeting"]),
            session_id=None if said["session"] is None else bytes.fromhex(said["session"]),
            clock_difference=said["clock_difference"],
        )
    except KeyError as error:
        raise ValueError(f"this is no timeline: there is no suite {error}") from None


def _entries(steps: list[object], role: Role, kind: type[TimelineEntry]) -> tuple[TimelineEntry, ...]:
    """Each step at most once, and in the order of the role."""
    entries: list[TimelineEntry] = []
    left = iter(STEPS[role])
    for said in _each(steps, _STEP):
        step = next((step for step in left if step == said["step"]), None)
        if step is None:
            raise ValueError(f"this is no timeline: the step {said['step']!r} of the {role.value} is out of place")
        at, seconds = said["at"] / 1000, said["milliseconds"] / 1000
        entries.append(kind(step, at, seconds, said["sent"], said["received"], said["failed"], said["detail"]))
    return tuple(entries)


def _each(values: list[object], shape: Mapping[str, tuple[type, ...]]) -> list[dict[str, Any]]:
    return [_checked(value, shape) for value in values]


def _checked(value: object, shape: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """A dict that has these keys, each with a value of one of these types; whatever else is in it."""
    if not isinstance(value, dict):
        raise ValueError(f"this is no timeline: {type(value).__name__} instead of a dict")
    said = cast("dict[str, Any]", value)
    for name, kinds in shape.items():
        if name not in said:
            raise ValueError(f"this is no timeline: {name!r} is missing")
        if type(said[name]) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"this is no timeline: {name!r} is {type(said[name]).__name__}, expected {expected}")
        most = _MOST_APART if name == "clock_difference" else _MOST
        if type(said[name]) in _NUMBER and not abs(said[name]) < most:
            raise ValueError(f"this is no timeline: {name!r} is out of bounds")
    return said
