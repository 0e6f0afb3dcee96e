"""Diagram: a greeting as a sequence diagram, for a terminal and as SVG. Loaded when somebody asks.

A timeline knows the times of one side. Of the other side it is drawn what must have happened, without times; with
that side's own timeline too, both have theirs, on one scale. Every row is one thing that happened on one side; an
arrow leaves in the row of what sent it. Beside it stand the seven steps of TCP's own handshake.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trishake_protocol import AlertCode, Role, escape

from ._steps import Ending, Step

if TYPE_CHECKING:
    from ._timeline import Timeline, TimelineEntry

MIN_WIDTH: Final = 64
"""Columns, below which a diagram in text cannot be read."""

_LABEL: Final = 22
"""Columns for what happened on one side."""
_FIXED: Final = 9 + 1 + 2 * (_LABEL + 2)
"""Columns beside the arrows: a time, and two sides with their lines."""
_ARROWS: Final = 42
"""Columns that arrows take at most."""
_BESIDE: Final = 22
"""Columns for TCP's steps, where they stand beside ours."""

CLASSIC: Final = {
    1: "SYN sent",
    2: "SYN received",
    3: "SYN-ACK sent",
    4: "SYN-ACK received",
    5: "ACK sent",
    6: "ACK received",
    7: "established",
}
"""The steps of TCP's handshake, in the numbers of section 1 of the specification."""

_PROVED: Final = {4: "who answers", 6: "who dials", 7: "both hold the keys"}
"""What our step proves; TCP's prove nothing of it."""

_ORDER: Final = (
    (Role.INITIATOR, Step.RESOLVED),
    (Role.INITIATOR, Step.CONNECTED),
    (Role.RESPONDER, Step.ADMITTED),
    (Role.INITIATOR, Step.SYN_SENT),
    (Role.RESPONDER, Step.SYN_RECEIVED),
    (Role.RESPONDER, Step.SYN_ACK_SENT),
    (Role.INITIATOR, Step.SYN_ACK_RECEIVED),
    (Role.INITIATOR, Step.IDENTITY_VERIFIED),
    (Role.INITIATOR, Step.POLICY),
    (Role.INITIATOR, Step.ACK_SENT),
    (Role.RESPONDER, Step.ACK_RECEIVED),
    (Role.RESPONDER, Step.IDENTITY_VERIFIED),
    (Role.RESPONDER, Step.POLICY),
    (Role.RESPONDER, Step.VERDICT),
    (Role.INITIATOR, Step.VERDICT),
)
"""Both sides' steps, as they follow from one another."""

_SENDS: Final = {
    (Role.INITIATOR, Step.SYN_SENT): "SYN",
    (Role.RESPONDER, Step.SYN_ACK_SENT): "SYN-ACK",
    (Role.INITIATOR, Step.ACK_SENT): "ACK",
    (Role.RESPONDER, Step.VERDICT): "VERDICT",
}
_RECEIVES: Final = {
    (Role.RESPONDER, Step.SYN_RECEIVED): "SYN",
    (Role.INITIATOR, Step.SYN_ACK_RECEIVED): "SYN-ACK",
    (Role.RESPONDER, Step.ACK_RECEIVED): "ACK",
    (Role.INITIATOR, Step.VERDICT): "VERDICT",
}
_IMPLIED: Final = {
    (Role.INITIATOR, Step.SYN_ACK_RECEIVED): (Step.ADMITTED, Step.SYN_RECEIVED, Step.SYN_ACK_SENT),
    (Role.INITIATOR, Step.VERDICT): (Step.ACK_RECEIVED, Step.IDENTITY_VERIFIED, Step.POLICY, Step.VERDICT),
    (Role.RESPONDER, Step.SYN_RECEIVED): (Step.SYN_SENT,),
    (Role.RESPONDER, Step.ACK_RECEIVED): (
        Step.SYN_ACK_RECEIVED,
        Step.IDENTITY_VERIFIED,
        Step.POLICY,
        Step.ACK_SENT,
    ),
    (Role.RESPONDER, Step.VERDICT): (Step.VERDICT,),
}
"""What the other side must have done, where ours has taken this step."""


# --- what happened --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Event:
    """One row. at: seconds, None where that side's clock is not known. rank: its place where there is none.

    sends, receives: a message's name. reason: what an ALERT or a VERDICT says. size: its bytes, or 0.
    partial: what came is less than that message, or something else.
    """

    role: Role
    label: str
    at: float | None
    rank: float
    number: int | None = None
    failed: bool = False
    sends: str | None = None
    receives: str | None = None
    reason: str | None = None
    size: int = 0
    partial: bool = False

    @property
    def text(self) -> str:
        mark = "✗ " if self.failed else ""
        number = "" if self.number is None else f"{self.number} "
        return number + mark + self.label


@dataclass(frozen=True, slots=True)
class _Arrow:
    """A message. row, end: in which rows it leaves and comes, None where nothing says so."""

    sender: Role
    name: str
    reason: str | None
    size: int
    row: int | None
    end: int | None
    failed: bool

    @property
    def certain(self) -> bool:
        return self.row is not None and self.end is not None

    def label(self, room: int) -> str:
        """As much of its name, what it says and its size as there is room for."""
        size = f"{self.size} B" if self.size else ""
        said = f"{self.name} {self.reason}" if self.reason else self.name
        for parts in ((said, size), (said,), (self.name, size), (self.name,)):
            label = ", ".join(filter(None, parts))
            if len(label) <= room:
                return label
        return ""


@dataclass(frozen=True, slots=True)
class _Diagram:
    rows: Sequence[_Event]
    arrows: Sequence[_Arrow]
    heads: dict[Role, tuple[str, str]]
    notes: Sequence[str]
    failed: bool
    title: str


def _plain(text: str) -> str:
    """What may come from elsewhere, as visible ASCII: how wide a terminal shows anything else is not known."""
    return escape(text).encode("ascii", "backslashreplace").decode()


def clipped(text: str, width: int) -> str:
    """The text in so many columns, with `…` at the end where there was more."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _is_verdict(reason: str) -> bool:
    """An ALERT has one byte for its code, the codes of a VERDICT that no ALERT has begin above."""
    if reason.startswith("0x"):
        return len(reason) > 4 and not reason.startswith("0x00")
    return reason not in AlertCode.__members__


def _kind(reason: str) -> str:
    return "VERDICT" if _is_verdict(reason) else "ALERT"


def _rank(role: Role, step: Step) -> float:
    return float(_ORDER.index((role, step)))


def _seen(timeline: Timeline) -> list[_Event]:
    """What its own side did."""
    role, events = timeline.role, list[_Event]()
    for entry in timeline.entries:
        key = (role, entry.step)
        event = _Event(role, entry.step.label, entry.at, _rank(*key), entry.step.number(role))
        if entry.failed:
            _fails(event, entry, timeline)
        else:
            event.sends, event.receives = _SENDS.get(key), _RECEIVES.get(key)
            event.size = entry.sent if event.sends else entry.received
            event.reason = "READY" if event.sends == "VERDICT" else None
        events.append(event)
    if timeline.outcome != Ending.ACCEPTED:
        last = events[-1].rank if events else 0.0
        if not any(event.failed for event in events):
            events.append(_Event(role, _plain(timeline.outcome), timeline.seconds, last, failed=True))
        if timeline.told is not None:
            told, kind = _plain(timeline.told), _kind(timeline.told)
            events.append(_Event(role, f"{kind} sent", timeline.seconds, last, sends=kind, reason=told))
    return events


def _fails(event: _Event, entry: TimelineEntry, timeline: Timeline) -> None:
    """The step in which it ended: a rejection came instead, or part of something, or nothing."""
    event.failed = True
    event.size = entry.received
    if timeline.outcome == Ending.REJECTED and timeline.reason is not None:
        event.receives = _kind(timeline.reason)
        event.reason = event.label = _plain(timeline.reason)
        event.number = None
    elif timeline.outcome == Ending.NO_RESPONSE:
        awaited = _RECEIVES.get((timeline.role, entry.step))
        if awaited is None:
            event.label = f"not {entry.step.label}"
        elif entry.received:
            event.receives, event.partial, event.label = awaited, True, f"no whole {awaited}"
        else:
            event.label = f"no {awaited}"
        event.number = None


def _implied(timeline: Timeline) -> list[_Event]:
    """What the other side must have done, for its own to have come so far."""
    role, events = timeline.role.other, list[_Event]()
    for entry in timeline.entries:
        if not entry.failed:
            for step in _IMPLIED.get((timeline.role, entry.step), ()):
                key = (role, step)
                event = _Event(role, step.label, None, _rank(*key), step.number(role))
                event.sends, event.receives = _SENDS.get(key), _RECEIVES.get(key)
                event.reason = "READY" if event.sends == "VERDICT" else None
                events.append(event)
    for event in _seen(timeline):
        if not event.failed or event.receives is None:
            continue
        if (role, event.receives, event.partial) == (Role.RESPONDER, "VERDICT", False):
            events.append(_Event(role, Step.ACK_RECEIVED.label, None, event.rank, receives="ACK"))
        label = "bytes sent" if event.partial else f"{event.receives} sent"
        sent = _Event(role, label, None, event.rank)
        sent.sends, sent.reason, sent.partial = event.receives, event.reason, event.partial
        events.append(sent)
    return events


def _meets(sent: _Event, received: _Event) -> bool:
    return sent.sends is not None and sent.sends == received.receives


def _in_order(lanes: tuple[list[_Event], list[_Event]]) -> list[_Event]:
    """Both sides' events in one order: of their times, or of their ranks, and none received before it is sent."""
    rows, left = list[_Event](), (list(lanes[0]), list(lanes[1]))
    while left[0] or left[1]:
        free = [
            index
            for index in (0, 1)
            if left[index] and not any(_meets(sent, left[index][0]) for sent in left[1 - index])
        ] or [0 if left[0] else 1]
        heads = [left[index][0] for index in free]
        timed = all(head.at is not None for head in heads)
        first = min(free, key=lambda index: _when(left[index][0], timed=timed))
        rows.append(left[first].pop(0))
    return rows


def _when(event: _Event, *, timed: bool) -> float:
    return event.at if timed and event.at is not None else event.rank


def _shift(ours: Iterable[_Event], theirs: Sequence[_Event]) -> float:
    """Seconds to add to their times, so that nothing comes before it was sent: 0 where the clocks agree."""
    least, most = float("-inf"), float("inf")
    for our in ours:
        for their in theirs:
            if our.at is None or their.at is None:
                continue
            if _meets(our, their):
                least = max(least, our.at - their.at)
            elif _meets(their, our):
                most = min(most, our.at - their.at)
    if least <= 0 <= most:
        return 0.0
    if least == float("-inf") or most == float("inf"):
        return least if most == float("inf") else most
    return (least + most) / 2


def _diagram(timeline: Timeline, other: Timeline | None) -> _Diagram:
    ours = _seen(timeline)
    notes = list[str]()
    if other is None:
        theirs = _implied(timeline)
    else:
        _check(timeline, other)
        theirs = _seen(other)
        for event in theirs:
            assert event.at is not None
            event.at += other.began - timeline.began
        shift = _shift(ours, theirs)
        if abs(shift) >= 0.001:
            notes.append(
                f"The two clocks differ: the {other.role.value}'s times are moved by {shift * 1000:+.1f} ms, "
                "so that nothing comes before it was sent."
            )
        start = min(0.0, other.began - timeline.began + shift)
        for event, by in [*((event, shift - start) for event in theirs), *((event, -start) for event in ours)]:
            assert event.at is not None
            event.at += by
    rows = _in_order((ours, theirs))
    arrows = _arrows(rows)
    if other is None and theirs:
        notes.append(f"Without a time: what the {timeline.role.other.value} did, as it follows from what came.")
    if any(not arrow.certain for arrow in arrows):
        notes.append("A broken arrow: nothing here says whether it came, or whence.")
    return _Diagram(
        rows,
        arrows,
        _heads(timeline, other),
        [*_ended(timeline), *(() if other is None else _ended(other)), *_not_seen(rows), *notes],
        timeline.outcome != Ending.ACCEPTED or (other is not None and other.outcome != Ending.ACCEPTED),
        _title(timeline),
    )


def _check(timeline: Timeline, other: Timeline) -> None:
    if timeline.greeting_id is None or other.greeting_id != timeline.greeting_id:
        ids = [id_.hex() if (id_ := each.greeting_id) is not None else "none" for each in (timeline, other)]
        raise ValueError(f"two timelines of one greeting are needed, and these are of {ids[0]} and {ids[1]}")
    if timeline.role is other.role:
        raise ValueError(f"one timeline of each side is needed, and both are of the {timeline.role.value}")


def _arrows(rows: Sequence[_Event]) -> list[_Arrow]:
    arrows, met = list[_Arrow](), set[int]()
    for row, event in enumerate(rows):
        if event.sends is None:
            continue
        end = next(
            (at for at, each in enumerate(rows) if each.role is not event.role and _meets(event, each)), None
        )
        size, reason = event.size, event.reason
        failed = event.failed or reason not in (None, "READY")
        if end is not None:
            met.add(end)
            size, failed = size or rows[end].size, failed or rows[end].failed
        name = "" if event.partial else event.sends
        arrows.append(_Arrow(event.role, name, reason, size, row, end, failed))
    for row, event in enumerate(rows):
        if event.receives is not None and row not in met:
            name = "" if event.partial else event.receives
            arrows.append(_Arrow(event.role.other, name, event.reason, event.size, None, row, event.failed))
    return arrows


def _heads(timeline: Timeline, other: Timeline | None) -> dict[Role, tuple[str, str]]:
    mine = timeline.role.value if other is not None else f"{timeline.role.value}, we"
    peer = "" if timeline.peer is None else timeline.peer.short
    return {
        timeline.role: (mine, timeline.own.short),
        timeline.role.other: (timeline.role.other.value, peer if other is None else other.own.short),
    }


def _title(timeline: Timeline) -> str:
    return f"{_plain(timeline.outcome)}, after {_milliseconds(timeline.seconds)} ms"


def _ended(timeline: Timeline) -> list[str]:
    """How it came out on this side: who decided, why, at which step."""
    role, after = timeline.role, f"after {_milliseconds(timeline.seconds)} ms"
    if timeline.outcome == Ending.ACCEPTED:
        return [f"The {role.value}: accepted, {after}."]
    match timeline.outcome:
        case Ending.NO_RESPONSE:
            who = "nobody decided so"
        case Ending.REJECTED if timeline.reason is not None and _is_verdict(timeline.reason):
            who = f"the {role.other.value} decided so"
        case Ending.REJECTED:
            who = f"the {role.other.value} decided so, if the ALERT is its own"
        case _:
            who = f"the {role.value} decided so"
    reason = "" if timeline.reason is None else f": {_plain(timeline.reason)}"
    failing = [entry.step.label for entry in timeline.entries if entry.failed]
    where = f', at "{failing[0]}",' if failing else ","
    return [f"✗ The {role.value}: {_plain(timeline.outcome)}{reason}{where} {after}; {who}."]


def _not_seen(rows: Sequence[_Event]) -> list[str]:
    last = max((event.number for event in rows if event.number and not event.failed), default=0)
    if last >= 6:
        return [] if last == 7 else ["Not seen: step 7."]
    return [f"Not seen: steps {last + 1} to 7."]


def _milliseconds(seconds: float) -> str:
    """In at most nine characters."""
    exact = f"{seconds * 1000:.1f}"
    return exact if len(exact) <= 9 else f"{seconds * 1000:.2e}"


# --- in text --------------------------------------------------------------------------------------------

Paint = Callable[[str, str], str]
"""What a text is shown as. Its first argument says what the text is: strong, weak or bad."""


def _unpainted(_: str, text: str) -> str:
    return text


def picture(timeline: Timeline, width: int, other: Timeline | None = None, paint: Paint = _unpainted) -> str:
    """What `Timeline.picture` gives. paint: told of each piece that is more, or less, than plain text."""
    if width < MIN_WIDTH:
        raise ValueError(f"a width of {width} columns, a picture needs {MIN_WIDTH} or more")
    diagram = _diagram(timeline, other)
    beside = width >= _FIXED + 26 + _BESIDE
    room = min(_ARROWS, width - _FIXED - (_BESIDE if beside else 0))
    lines = _head_lines(diagram, room, paint, beside=beside)
    leaving = {arrow.end if arrow.row is None else arrow.row: arrow for arrow in diagram.arrows}
    classic = dict(CLASSIC)
    for index, event in enumerate(diagram.rows):
        time = "" if event.at is None else _milliseconds(event.at)
        arrow = leaving.get(index)
        between = " " * room if arrow is None else _drawn(arrow, room)
        if arrow is not None and arrow.failed:
            between = paint("bad", between)
        sides = dict.fromkeys(Role, " " * _LABEL)
        text = clipped(event.text, _LABEL)
        padded = f"{text:>{_LABEL}}" if event.role is Role.INITIATOR else f"{text:<{_LABEL}}"
        sides[event.role] = paint(_weight(event), padded)
        line = f"{time:>9} {sides[Role.INITIATOR]} │{between}│ {sides[Role.RESPONDER]}"
        if beside and event.number in classic and not event.failed:
            line += "  " + paint("weak", f"{event.number} {classic.pop(event.number)}")
        lines.append(line.rstrip())
    lines.append("")
    for note in diagram.notes:
        wrapped = textwrap.wrap(note, width, subsequent_indent="  ")
        lines += [paint("bad", line) for line in wrapped] if note.startswith("✗") else wrapped
    if not beside and any(event.number for event in diagram.rows):
        lines += ["", *_classic_table(diagram, width, paint)]
    return "\n".join(lines)


def _weight(event: _Event) -> str:
    if event.failed:
        return "bad"
    if event.at is None:
        return "weak"
    return "plain" if event.number is None else "strong"


def _head_lines(diagram: _Diagram, room: int, paint: Paint, *, beside: bool) -> list[str]:
    (first, first_id), (second, second_id) = diagram.heads[Role.INITIATOR], diagram.heads[Role.RESPONDER]
    above = (
        f"{'ms':>9} {paint('strong', f'{first:>{_LABEL}}')}  {'':{room}}  {paint('strong', f'{second:<{_LABEL}}')}"
    )
    if beside:
        above += "  " + paint("weak", "TCP, for comparison")
    below = f"{'':9} {first_id:>{_LABEL}} ╷{'':{room}}╷ {second_id}"
    return [above.rstrip(), below.rstrip()]


def _drawn(arrow: _Arrow, room: int) -> str:
    dash = "─" if arrow.certain else "╌"
    label = arrow.label(room - 5)
    body = (f" {label} " if label else "").center(room - 1, dash)
    return f"{body}▶" if arrow.sender is Role.INITIATOR else f"◀{body}"


def _classic_table(diagram: _Diagram, width: int, paint: Paint) -> list[str]:
    """Step by step, TCP's handshake and ours: below, where there is no room beside."""
    head = f"   {'TCP, for comparison':<20}{'here':<{_LABEL + 1}}{'ms':>9}  what it proves"
    beside = len(head) - len("what it proves")
    proving = width >= beside + max(map(len, _PROVED.values()))
    lines = [paint("weak", head if proving else head[:beside].rstrip())]
    for number, classic in CLASSIC.items():
        ours = [event for event in diagram.rows if event.number == number]
        happened = next((event for event in reversed(ours) if event.at is not None), ours[-1] if ours else None)
        if happened is None:
            lines.append(paint("weak", f" {number} {classic:<20}–"))
            continue
        time = "" if happened.at is None else _milliseconds(happened.at)
        mark = "✗ " if happened.failed else ""
        proved = _PROVED.get(number, "") if proving and not happened.failed else ""
        here = paint(_weight(happened), f"{mark + happened.label:<{_LABEL + 1}}")
        lines.append(f" {number} {classic:<20}{here}{time:>9}  {proved}".rstrip())
    return lines


# --- as SVG ---------------------------------------------------------------------------------------------

_EM: Final = 13
"""Size of the letters, in units of the drawing."""
_ADVANCE: Final = 8
"""Units that one letter takes at most, in any of the fonts named below."""
_PITCH: Final = 30
"""Units from a row to the next: two texts of one column never touch."""
_TOP: Final = 128
_WIDTH: Final = 1104

_TIME_X: Final = {Role.INITIATOR: 98, Role.RESPONDER: 892}
"""Where times end."""
_LINE_X: Final = {Role.INITIATOR: 310, Role.RESPONDER: 622}
_TEXT_GAP: Final = 20
_CLASSIC_X: Final = 930
_LETTERS_A_LINE: Final = (_WIDTH - 64) // _ADVANCE

_STYLE: Final = """
    .paper { fill: #ffffff; stroke: #d1d9e0 }
    text { font: 13px ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328 }
    .title { font-size: 17px; font-weight: 600 }
    .strong { font-weight: 600 }
    .weak { fill: #59636e }
    .bad { fill: #c21f28; font-weight: 600 }
    .end { text-anchor: end }
    .middle { text-anchor: middle }
    .over { text-anchor: middle; stroke: #ffffff; stroke-width: 4px; paint-order: stroke; stroke-linejoin: round }
    .digit { text-anchor: middle; fill: #ffffff; font-size: 11px; font-weight: 600 }
    .lifeline { stroke: #b5bec8; stroke-width: 2 }
    .dot { fill: #8c959f }
    .step { fill: #0757ba }
    .dot.failed, .step.failed { fill: #c21f28 }
    .ring { fill: none; stroke: #b5bec8 }
    .ruler { stroke: #d1d9e0 }
    .arrow { stroke: #0757ba; stroke-width: 1.6; fill: none }
    .arrow.failed { stroke: #c21f28 }
    .arrow.broken { stroke-dasharray: 5 4 }
    .head { fill: #0757ba }
    .head.failed { fill: #c21f28 }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0d1117; stroke: #3d444d }
      text { fill: #e6edf3 }
      .weak { fill: #9198a1 }
      .bad { fill: #ff7b72 }
      .over { stroke: #0d1117 }
      .digit { fill: #0d1117 }
      .lifeline { stroke: #59636e }
      .dot { fill: #768390 }
      .step, .head { fill: #6cb2ff }
      .dot.failed, .step.failed, .head.failed { fill: #ff7b72 }
      .ring { stroke: #59636e }
      .ruler { stroke: #3d444d }
      .arrow { stroke: #6cb2ff }
      .arrow.failed { stroke: #ff7b72 }
    }
  """


def svg(timeline: Timeline, other: Timeline | None = None) -> str:
    """What `Timeline.svg` gives."""
    diagram = _diagram(timeline, other)
    last = _TOP + _PITCH * len(diagram.rows)
    below = last + 38
    notes = [
        (line, note.startswith("✗")) for note in diagram.notes for line in textwrap.wrap(note, _LETTERS_A_LINE)
    ]
    height = below + 22 * len(notes) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{_xml("A Trishake greeting: " + diagram.title)}</title>',
        f'<desc id="desc">{_xml(_in_words(diagram))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="8"/>',
        _text(32, 40, clipped(f"A greeting: {diagram.title}", 90), "title bad" if diagram.failed else "title"),
        *_svg_heads(diagram, last),
    ]
    for arrow in diagram.arrows:
        parts += _svg_arrow(arrow)
    classic = dict(CLASSIC)
    for index, event in enumerate(diagram.rows):
        parts += _svg_row(event, _y(index), None if event.failed else classic.pop(event.number or 0, None))
    parts += [
        _text(32, below + 22 * index, line, "bad" if bad else "weak") for index, (line, bad) in enumerate(notes)
    ]
    return "\n".join([*parts, "</svg>", ""])


def _y(row: float) -> float:
    return _TOP + _PITCH * (row + 0.5)


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{_xml(text)}</text>'


def _in_words(diagram: _Diagram) -> str:
    """The drawing for whoever does not see it."""
    rows = list[str]()
    for event in diagram.rows:
        time = "" if event.at is None else f" at {_milliseconds(event.at)} ms"
        rows.append(f"{event.role.value}: {event.text}{time}")
    return ". ".join(rows) + ". " + " ".join(diagram.notes)


def _svg_heads(diagram: _Diagram, last: float) -> list[str]:
    parts = list[str]()
    for role, (name, short) in diagram.heads.items():
        x = _LINE_X[role]
        parts += [
            _text(x, 82, name, "strong middle"),
            _text(x, 102, short, "weak middle"),
            _text(_TIME_X[role], 102, "ms", "weak end"),
            f'<line class="lifeline" x1="{x}" y1="114" x2="{x}" y2="{last + 6:g}"/>',
        ]
    between = _CLASSIC_X - 20
    parts += [
        _text(_CLASSIC_X, 82, "TCP's handshake,", "weak"),
        _text(_CLASSIC_X, 102, "for comparison", "weak"),
        f'<line class="ruler" x1="{between}" y1="70" x2="{between}" y2="{last + 6:g}"/>',
    ]
    return parts


def _svg_row(event: _Event, y: float, classic: str | None) -> list[str]:
    x, failed = _LINE_X[event.role], " failed" if event.failed else ""
    mark = "✗ " if event.failed else ""
    if event.number is None:
        parts = [f'<circle class="dot{failed}" cx="{x}" cy="{y:g}" r="4"/>']
    else:
        parts = [
            f'<circle class="step{failed}" cx="{x}" cy="{y:g}" r="10"/>',
            _text(x, y + 4, str(event.number), "digit"),
        ]
    left = event.role is Role.INITIATOR
    style, weight = " end" if left else "", _weight(event)
    parts.append(
        _text(
            x - _TEXT_GAP if left else x + _TEXT_GAP,
            y + 4,
            clipped(mark + event.label, _LABEL),
            f"{weight}{style}",
        )
    )
    if event.at is not None:
        parts.append(_text(_TIME_X[event.role], y + 4, _milliseconds(event.at), "plain end"))
    if classic is not None:
        parts += [
            f'<circle class="ring" cx="{_CLASSIC_X + 8}" cy="{y:g}" r="9"/>',
            _text(_CLASSIC_X + 8, y + 4, str(event.number), "weak middle"),
            _text(_CLASSIC_X + 24, y + 4, classic, "weak"),
        ]
    return parts


def _svg_arrow(arrow: _Arrow) -> list[str]:
    """From where it was sent to where it came; where one of the two is not known, it does not touch that side."""
    start = arrow.row if arrow.row is not None else (arrow.end or 0) - 0.6
    end = arrow.end if arrow.end is not None else start + 0.6
    to_right = 1 if arrow.sender is Role.INITIATOR else -1
    from_x = _LINE_X[arrow.sender] + (13 if arrow.row is not None else 40) * to_right
    to_x = _LINE_X[arrow.sender.other] - (13 if arrow.end is not None else 40) * to_right
    from_y, to_y = _y(start), _y(end)
    length = ((to_x - from_x) ** 2 + (to_y - from_y) ** 2) ** 0.5
    along_x, along_y = (to_x - from_x) / length, (to_y - from_y) / length
    back_x, back_y = to_x - 9 * along_x, to_y - 9 * along_y
    tip = [
        (to_x, to_y),
        (back_x - 4 * along_y, back_y + 4 * along_x),
        (back_x + 4 * along_y, back_y - 4 * along_x),
    ]
    style = " failed" if arrow.failed else ""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in tip)
    label = arrow.label(30)
    text_y = from_y + 2 if arrow.row is not None else to_y + 8
    return [
        f'<line class="arrow{style}{"" if arrow.certain else " broken"}" x1="{from_x}" y1="{from_y:g}" '
        f'x2="{back_x:.1f}" y2="{back_y:.1f}"/>',
        f'<polygon class="head{style}" points="{points}"/>',
        *([_text(sum(_LINE_X.values()) / 2, text_y, label, "over middle")] if label else []),
    ]
