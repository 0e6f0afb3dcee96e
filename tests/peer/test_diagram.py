"""_diagram.py and _recorded.py: whatever a timeline holds, its picture is in order, and within its bounds."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import memory_stream_pair

from trishake import (
    AlertCode,
    DialError,
    Observer,
    Peer,
    Role,
    Step,
    Timeline,
    TimelineEntry,
    VerdictCode,
    anyone,
    initiate,
    only,
    respond,
)
from trishake._diagram import CLASSIC, MIN_WIDTH
from trishake._steps import STEPS
from trishake_protocol.patterns import HYBRID, SUITES

from .conftest import ADA, ANYWHERE, BOB, EVE, QUICK, arrival

HOSTILE: Final = (
    "</text><script>alert(1)</script>",
    "\x1b]0;title\x07\x1b[31m",
    "a\nb\r\nc",
    "\"'&<>]]>",
    "‮gpj.exe",
    "字" * 60,
    "\ud800\x00￾",
    "x" * 500,
)
OF_ADA: Final = (0.001, 0.001, 0.001, 0.006, 0.001, 0.001, 0.001, 0.006)
OF_BOB: Final = (0.001, 0.001, 0.001, 0.007, 0.001, 0.001, 0.001)
"""What one greeting takes on both sides, where Bob's begins 3 ms after Ada's."""
KINDS: Final = ("accepted", "no response", "rejected", "refused by policy", "not greeted")


# --- timelines ------------------------------------------------------------------------------------------


def timeline(
    role: Role,
    taken: int,
    outcome: str = "accepted",
    reason: str | None = None,
    *,
    times: Sequence[float] = (),
    told: str | None = None,
    received: int = 0,
    began: float = 1e9,
    **more: Any,
) -> Timeline:
    """One that has taken so many steps, a millisecond each if nothing else is said, and then ended."""
    at, entries = 0.0, []
    for index, step in enumerate(STEPS[role][: taken + (outcome != "accepted")]):
        seconds = times[index] if index < len(times) else 0.001
        at += seconds
        failed = index == taken
        sent = 100 + index if step.value.endswith("sent") else 0
        entries.append(TimelineEntry(step, at, seconds, sent, received if failed else 0, failed))
    facts: dict[str, Any] = {
        "number": 1,
        "role": role,
        "began": began,
        "seconds": at,
        "entries": tuple(entries),
        "outcome": outcome,
        "reason": reason,
        "told": told,
        "own": ADA.id if role is Role.INITIATOR else BOB.id,
        "network": "trishake",
        "peer": BOB.id if role is Role.INITIATOR else ADA.id,
        "address": "127.0.0.1:7000",
        "endpoint": "127.0.0.1:7000",
        "places": (("127.0.0.1:7000", None),),
        "suite": HYBRID,
        "greeting_id": b"\x01" * 8,
        "session_id": None,
        "clock_difference": None,
        **more,
    }
    return Timeline(**facts)


def whole(role: Role, **options: Any) -> Timeline:
    return timeline(role, len(STEPS[role]), **options)


REASONS: Final = st.sampled_from(
    [*AlertCode.__members__, *VerdictCode.__members__, "0x0033", "0x8001", "syn-ack/timeout", *HOSTILE]
)
TIMES: Final = st.lists(st.floats(0, 1e6) | st.sampled_from([0.0, 0.0001, 12.5]), max_size=8)


@st.composite
def timelines(draw: st.DrawFn, role: Role | None = None) -> Timeline:
    """Any; also such as no greeting has."""
    role = role or draw(st.sampled_from(list(Role)))
    outcome = draw(st.sampled_from([*KINDS, *HOSTILE]))
    steps = len(STEPS[role])
    taken = steps if outcome == "accepted" else draw(st.integers(0, steps))
    text = st.none() | st.sampled_from(HOSTILE)
    return timeline(
        role,
        taken,
        outcome,
        None if outcome == "accepted" else draw(REASONS),
        times=draw(TIMES),
        told=None if outcome == "accepted" else draw(st.none() | REASONS),
        received=draw(st.sampled_from([0, 0, 7, 10**9])),
        began=1e9 + draw(st.floats(-1e5, 1e5) | st.just(0.0)),
        address=draw(text),
        endpoint=draw(text),
        suite=draw(st.sampled_from([None, *SUITES.values()])),
        places=tuple((place, draw(text)) for place in draw(st.lists(st.sampled_from(HOSTILE), max_size=2))),
        peer=draw(st.sampled_from([None, EVE.id])),
        clock_difference=draw(st.none() | st.integers(-9, 9)),
    )


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Timeline, Timeline | None]:
    ours = draw(timelines())
    return ours, draw(st.none() | timelines(ours.role.other))


def milliseconds(entry: TimelineEntry) -> str:
    return f"{entry.at * 1000:.1f}"


def rows_of(picture: str) -> list[str]:
    """The lines between the two sides' lines."""
    return [line for line in picture.splitlines() if line.count("│") == 2]


def row_with(rows: Sequence[str], text: str) -> int:
    (found,) = (index for index, row in enumerate(rows) if text in row)
    return found


# --- in text --------------------------------------------------------------------------------------------


@given(pairs(), st.integers(MIN_WIDTH, 160))
def test_no_line_is_wider_than_asked_for_and_none_holds_what_moves_a_cursor(
    pair: tuple[Timeline, Timeline | None], width: int
) -> None:
    picture = pair[0].picture(width, other=pair[1])
    for line in picture.split("\n"):
        assert len(line) <= width
        assert set(re.sub("[ -~]", "", line)) <= set("│╷─╌▶◀✗…–")


@pytest.mark.parametrize("role", Role)
def test_a_whole_greeting_fits_into_every_width(role: Role) -> None:
    for width in range(MIN_WIDTH, 140):
        assert max(map(len, whole(role).picture(width).splitlines())) <= width


@given(pairs())
def test_no_message_comes_before_it_is_sent(pair: tuple[Timeline, Timeline | None]) -> None:
    rows = [
        "".join(cell for cell in re.split("│[^│]*│", row[10:]) if cell.strip())
        for row in rows_of(pair[0].picture(80, other=pair[1]))
    ]
    done = [re.sub("^[1-7] ", "", row.strip()) for row in rows]
    for message in ("SYN", "SYN-ACK", "ACK"):
        sent, came = f"{message} sent", f"{message} received"
        assert max(done.count(sent), done.count(came)) <= 1
        if sent in done and came in done:
            assert done.index(sent) < done.index(came)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("width", [64, 80, 120])
def test_every_step_has_its_row_with_its_time(role: Role, width: int) -> None:
    ours = whole(role, times=[0.0013 * 2**index for index in range(8)])
    rows = rows_of(ours.picture(width))
    for entry in ours.entries:
        number = entry.step.number(role)
        text = entry.step.label if number is None else f"{number} {entry.step.label}"
        assert any(row.split("│")[0].split()[:1] == [milliseconds(entry)] and text in row for row in rows)
    assert len([row for row in rows if re.match(r" *\d+\.\d ", row)]) == len(ours.entries)


@pytest.mark.parametrize(("role", "column"), [(Role.INITIATOR, 0), (Role.RESPONDER, 2)])
def test_the_other_side_is_drawn_without_times(role: Role, column: int) -> None:
    rows = rows_of(whole(role).picture(80))
    for row in rows:
        sides = row.split("│")
        time, own = sides[0][:9].strip(), sides[column][10 if column == 0 else 0 :].strip()
        assert bool(time) == bool(own)
    assert len(rows) > len(STEPS[role])


def test_what_the_other_side_did_stands_where_it_must_have_happened() -> None:
    at_ada = [
        re.sub(r"^[\d.]* *|│[^│]*│", "", row.strip()).strip() for row in rows_of(whole(Role.INITIATOR).picture(80))
    ]
    assert at_ada == [
        "resolved", "connected", "admitted", "1 SYN sent", "2 SYN received", "3 SYN-ACK sent", "SYN-ACK received",
        "4 identity verified", "policy", "5 ACK sent", "ACK received", "6 identity verified", "policy",
        "7 verdict", "7 verdict",
    ]  # fmt: skip


def test_with_the_other_timeline_both_sides_have_times_on_one_scale() -> None:
    ada = whole(Role.INITIATOR, times=OF_ADA)
    bob = whole(Role.RESPONDER, began=1e9 + 0.003, times=OF_BOB)
    rows = rows_of(ada.picture(80, other=bob))
    times = [float(row[:9]) for row in rows]
    assert times == sorted(times)
    assert len(rows) == len(ada.entries) + len(bob.entries)
    assert rows[row_with(rows, "2 SYN received")].split()[0] == "5.0"
    assert rows_of(bob.picture(80, other=ada)) == rows
    assert re.search("7 established +verdict +18.0  both hold the keys", ada.picture(80, other=bob))


def test_clocks_that_differ_are_seen_and_set_right() -> None:
    ada = whole(Role.INITIATOR, times=OF_ADA)
    bob = whole(Role.RESPONDER, began=1e9 + 3600, times=OF_BOB)
    picture = ada.picture(80, other=bob)
    rows = rows_of(picture)
    assert "The two clocks differ" in picture
    assert row_with(rows, "1 SYN sent") < row_with(rows, "2 SYN received") < row_with(rows, "4 identity verified")
    received = float(rows[row_with(rows, "2 SYN received")].split()[0])
    assert received == 5.5  # it may be 2 to 5 ms behind what its clock says, less the 3600 s
    assert "moved by -3599996.5 ms" in " ".join(picture.split())
    assert "clocks" not in ada.picture(80, other=replace(bob, began=1e9 + 0.003))
    assert "The two clocks differ" in ada.picture(80, other=replace(bob, began=1e9 - 0.005))


def test_times_begin_with_whoever_began_first() -> None:
    bob = whole(Role.RESPONDER, times=OF_BOB)
    ada = whole(Role.INITIATOR, began=1e9 - 0.003, times=OF_ADA)
    assert rows_of(bob.picture(80, other=ada))[0].split()[0] == "1.0"


def test_sizes_stand_on_the_arrows() -> None:
    rows = rows_of(whole(Role.INITIATOR).picture(80))
    assert re.search(r"│─+ SYN, 102 B ─+▶│", rows[row_with(rows, "1 SYN sent")])
    assert re.search(r"│◀─+ SYN-ACK ─+│", rows[row_with(rows, "3 SYN-ACK sent")])
    assert re.search(r"│─+ ACK, 106 B ─+▶│", rows[row_with(rows, "5 ACK sent")])
    assert re.search(r"│◀─+ VERDICT READY ─+│ 7 verdict", "\n".join(rows))


@pytest.mark.parametrize("width", [80, 120])
def test_tcps_seven_steps_stand_beside_ours(width: int) -> None:
    lines = whole(Role.INITIATOR).picture(width).splitlines()
    for number, classic in CLASSIC.items():
        beside = [line for line in lines if f"{number} {classic}" in re.sub(" +$", "", line)]
        assert beside
        own = [step for role in Role for step in Step if step.number(role) == number]
        assert any(step.label in line for line in beside for step in own)


@pytest.mark.parametrize(("role", "taken"), [(role, index) for role in Role for index in range(len(STEPS[role]))])
@pytest.mark.parametrize("outcome", KINDS[1:])
def test_a_failure_says_where_by_whom_and_why(role: Role, taken: int, outcome: str) -> None:
    reason = {"no response": "verdict/timeout", "rejected": "IDENTITY_UNKNOWN"}.get(outcome, "BAD_SIGNATURE")
    ours = timeline(role, taken, outcome, reason)
    picture = ours.picture(120)
    failing = [row for row in rows_of(picture) if "✗" in row]
    assert len(failing) == 1
    assert failing[0].split()[0] == milliseconds(ours.entries[-1])
    said = " ".join(picture.split())
    who = {"no response": "nobody", "rejected": f"the {role.other.value}"}.get(outcome, f"the {role.value}")
    assert f'✗ The {role.value}: {outcome}: {reason}, at "{STEPS[role][taken].label}"' in said
    assert f'"{ours.entries[-1].step.label}", after' in said
    assert f"{who} decided so." in said
    number = ours.entries[-1].step.number(role)
    assert not re.search(rf" {number} {CLASSIC.get(number or 0)}$", failing[0])


def test_steps_that_never_came_are_not_drawn() -> None:
    picture = timeline(Role.INITIATOR, 3, "no response", "syn-ack/timeout").picture(120)
    assert "✗ no SYN-ACK" in picture
    assert "Not seen: steps 2 to 7." in picture
    assert "A broken arrow: nothing here says whether it came" in picture
    assert "Not seen: step 7." in timeline(Role.RESPONDER, 5, "refused by policy", "POLICY").picture()
    assert "Not seen: steps 6 to 7." in timeline(Role.INITIATOR, 7, "no response", "verdict/closed").picture()
    rows = "\n".join(rows_of(picture))
    assert "ACK sent" not in rows
    assert "SYN received" not in rows
    assert re.search(r"│╌+ SYN, 102 B ╌+▶│", rows)


@pytest.mark.parametrize(
    ("ours", "arrow"),
    [
        (timeline(Role.INITIATOR, 3, "rejected", "BUSY", received=6), "◀─+ ALERT BUSY, 6 B ─+│ ALERT sent"),
        (
            timeline(Role.INITIATOR, 7, "rejected", "POLICY", received=9),
            "◀─+ VERDICT POLICY, 9 B ─+│ VERDICT sent",
        ),
        (timeline(Role.INITIATOR, 7, "rejected", "0x8001"), "◀─+ VERDICT 0x8001 ─+│ VERDICT sent"),
        (timeline(Role.INITIATOR, 7, "rejected", "0x0033"), "◀─+ ALERT 0x0033 ─+│ ALERT sent"),
        (timeline(Role.INITIATOR, 3, "no response", "syn-ack/foreign", received=28), "◀─+ 28 B ─+│ bytes sent"),
        (timeline(Role.INITIATOR, 5, "refused by policy", "POLICY", told="ABORTED"), "╌+ ALERT ABORTED ╌+▶│"),
        (timeline(Role.RESPONDER, 5, "refused by policy", "POLICY", told="POLICY"), "◀╌+ VERDICT POLICY ╌+│ VERD"),
        (timeline(Role.RESPONDER, 3, "rejected", "ABORTED"), "ALERT sent │─+ ALERT ABORTED ─+▶│"),
    ],
)
def test_what_ends_a_greeting_is_an_arrow_of_its_own_name(ours: Timeline, arrow: str) -> None:
    assert re.search(arrow, ours.picture(100))


def test_who_rejects_by_a_verdict_has_had_the_ack() -> None:
    rows = rows_of(timeline(Role.INITIATOR, 7, "rejected", "POLICY").picture(100))
    assert row_with(rows, "5 ACK sent") < row_with(rows, "│ ACK received") < row_with(rows, "│ VERDICT sent")
    by_alert = rows_of(timeline(Role.INITIATOR, 7, "rejected", "BUSY").picture(100))
    assert not any("│ ACK received" in row for row in by_alert)


@pytest.mark.parametrize("role", list(Role))
def test_what_failed_behind_the_last_step_has_a_row_of_its_own(role: Role) -> None:
    rows = rows_of(timeline(role, len(STEPS[role]), "refused by policy", "GOING_AWAY").picture(100))
    assert len([row for row in rows if "✗" in row]) == 1
    assert row_with(rows, "✗ refused by policy") > 0


@pytest.mark.parametrize(
    "ours",
    [
        timeline(Role.RESPONDER, 5, "refused by policy", "POLICY", told="POLICY"),
        timeline(Role.INITIATOR, 5, "refused by policy", "POLICY", told="ABORTED"),
        timeline(Role.INITIATOR, 7, "rejected", "POLICY"),
    ],
)
def test_the_arrow_that_ends_a_greeting_stands_out_from_the_others(ours: Timeline) -> None:
    arrows = [
        style
        for line in ET.fromstring(ours.svg()).iter(f"{SVG}line")
        if "arrow" in (style := line.get("class", ""))
    ]
    assert [("failed" in style) for style in arrows] == [False] * (len(arrows) - 1) + [True]


def test_an_alert_that_both_sides_know_of_is_one_arrow() -> None:
    ada = timeline(Role.INITIATOR, 5, "refused by policy", "IDENTITY_UNKNOWN", told="ABORTED")
    bob = timeline(Role.RESPONDER, 3, "rejected", "ABORTED", times=[0.002, 0.0015, 0.0001, 0.01], received=4)
    rows = rows_of(ada.picture(100, other=bob))
    assert sum("ABORTED" in row and "▶" in row for row in rows) == 1
    assert "─ ALERT ABORTED, 4 B ─" in rows[row_with(rows, "ALERT sent")]
    assert not any("╌" in row for row in rows)
    assert row_with(rows, "✗ policy") < row_with(rows, "ALERT sent") < row_with(rows, "✗ ABORTED")


@pytest.mark.parametrize("width", [-1, 0, 63])
def test_a_width_that_is_too_narrow_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"^a width of {width} columns, a picture needs 64 or more$"):
        whole(Role.INITIATOR).picture(width)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (whole(Role.RESPONDER, greeting_id=b"\x02" * 8), "of 0101010101010101 and 0202020202020202"),
        (whole(Role.RESPONDER, greeting_id=None), "of 0101010101010101 and none"),
        (whole(Role.INITIATOR), "both are of the initiator"),
    ],
)
def test_a_timeline_of_another_greeting_or_of_the_same_side_is_refused(other: Timeline, why: str) -> None:
    for draw in (
        lambda: whole(Role.INITIATOR).picture(other=other),
        lambda: whole(Role.INITIATOR).svg(other=other),
    ):
        with pytest.raises(ValueError, match=why):
            draw()


def test_two_timelines_of_greetings_without_an_id_are_refused() -> None:
    ours, other = (whole(role, greeting_id=None) for role in Role)
    with pytest.raises(ValueError, match="of none and none"):
        ours.picture(other=other)


# --- as SVG ---------------------------------------------------------------------------------------------

SVG: Final = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Box:
    text: str
    left: float
    right: float
    top: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def boxes(drawing: ET.Element) -> Iterator[Box]:
    """Each text's, roughly: a letter of these fonts is about 0.6 of its size wide."""
    for element in drawing.iter(f"{SVG}text"):
        classes = (element.get("class") or "").split()
        size = 17 if "title" in classes else 11 if "digit" in classes else 13
        text, x, y = element.text or "", float(element.get("x", "nan")), float(element.get("y", "nan"))
        width = len(text) * size * 0.61
        left = x - width if "end" in classes else x
        if {"middle", "digit", "over"} & set(classes):
            left = x - width / 2
        yield Box(text, left, left + width, y - 0.75 * size, y + 0.22 * size)


@settings(max_examples=150)
@given(pairs())
def test_a_drawing_is_xml_in_which_no_text_lies_over_another(pair: tuple[Timeline, Timeline | None]) -> None:
    source = pair[0].svg(other=pair[1])
    drawing = ET.fromstring(source)
    assert {element.tag.removeprefix(SVG) for element in drawing.iter()} <= {
        "svg", "title", "desc", "style", "rect", "text", "line", "circle", "polygon"
    }  # fmt: skip
    assert "\x1b" not in source
    assert "http" not in source.replace("http://www.w3.org/2000/svg", "")
    found = list(boxes(drawing))
    for index, box in enumerate(found):
        assert 0 <= box.left <= box.right <= float(drawing.get("width", "nan"))
        assert 0 <= box.top <= box.bottom <= float(drawing.get("height", "nan"))
        for other in found[index + 1 :]:
            assert not box.overlaps(other), (box, other)


@pytest.mark.parametrize("role", Role)
def test_a_drawing_holds_every_step_with_its_time_and_tcps(role: Role) -> None:
    ours = whole(role, times=[0.0013 * 2**index for index in range(8)])
    found = list(boxes(ET.fromstring(ours.svg())))
    for entry in ours.entries:
        (time,) = (box for box in found if box.text == milliseconds(entry))
        assert any(box.text == entry.step.label and box.top == time.top for box in found)
    assert {*CLASSIC.values()} <= {box.text for box in found}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_are_escaped(hostile: str) -> None:
    ours = timeline(Role.INITIATOR, 3, "rejected", hostile, told=hostile)
    drawing = ET.fromstring(ours.svg())
    assert all(element.tag != f"{SVG}script" for element in drawing.iter())
    assert all(set(re.sub("[ -~]", "", text)) <= set("✗…\n") for text in drawing.itertext())
    assert hostile not in ours.svg() or hostile.isalpha()


def test_a_drawing_can_be_read_aloud_and_in_the_dark() -> None:
    source = timeline(Role.INITIATOR, 7, "rejected", "POLICY").svg()
    drawing = ET.fromstring(source)
    title, desc = drawing.find(f"{SVG}title"), drawing.find(f"{SVG}desc")
    assert title is not None
    assert desc is not None
    assert drawing.get("role") == "img"
    assert drawing.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert title.text == "A Trishake greeting: rejected, after 8.0 ms"
    assert "initiator: 1 SYN sent at 3.0 ms. " in (desc.text or "")
    assert "✗ The initiator: rejected: POLICY" in (desc.text or "")
    assert "@media (prefers-color-scheme: dark)" in source


def test_an_arrow_leads_from_where_it_was_sent_to_where_it_came() -> None:
    drawing = ET.fromstring(whole(Role.INITIATOR).svg())
    tops = {box.text: (box.top + box.bottom) / 2 for box in boxes(drawing) if box.left < 900}
    lines = [line for line in drawing.iter(f"{SVG}line") if "arrow" in (line.get("class") or "")]
    assert len(lines) == 4
    for line, (sent, came) in zip(
        lines,
        [("SYN sent", "SYN received"), ("SYN-ACK sent", "SYN-ACK received"), ("ACK sent", "ACK received")],
        strict=False,
    ):
        assert float(line.get("y1", "nan")) == pytest.approx(tops[sent], abs=4)
        assert float(line.get("y2", "nan")) == pytest.approx(tops[came], abs=5)


# --- of real greetings ----------------------------------------------------------------------------------


class Failures(Observer):
    def __init__(self) -> None:
        self.timelines: list[Timeline] = []

    def failed(self, role: Role, error: DialError) -> None:
        self.timelines.append(error.timeline)


async def test_both_sides_of_a_real_greeting_are_one_picture() -> None:
    async with Peer(ADA, limits=QUICK) as ada, Peer(BOB, trust=anyone, limits=QUICK) as bob:
        connection = await ada.dial((await bob.listen(ANYWHERE)).invite)
        there = await arrival(bob)
        picture = connection.timeline.picture(80, other=there.timeline)
    rows = rows_of(picture)
    times = [float(row[:9]) for row in rows]
    assert len(rows) == len(STEPS[Role.INITIATOR]) + len(STEPS[Role.RESPONDER])
    assert all(later >= earlier - 0.3 for earlier, later in pairwise(times))
    assert [int(found[1]) for row in rows if (found := re.search(r"(?:^|[ │])([1-7]) \w", row))] == [
        1, 2, 3, 4, 5, 6, 7, 7
    ]  # fmt: skip
    assert "╌" not in picture


async def test_both_sides_of_a_real_rejection_are_one_picture() -> None:
    seen = Failures()
    async with (
        Peer(ADA, limits=QUICK) as ada,
        Peer(BOB, trust=only(str(EVE.id)), limits=QUICK, observers=[seen]) as bob,
    ):
        with pytest.raises(DialError) as raised:
            await ada.dial((await bob.listen(ANYWHERE)).invite)
        with trio.fail_after(5):
            while not seen.timelines:
                await trio.sleep(0.005)
    picture = raised.value.timeline.picture(100, other=seen.timelines[0])
    assert re.search(r"✗ policy\n.*◀─+ VERDICT IDENTITY_UNKNOWN.*│ VERDICT sent\n.*✗ IDENTITY_UNKNOWN", picture)
    assert "the responder decided so" in picture
    ET.fromstring(seen.timelines[0].svg(other=raised.value.timeline))


class SlowToSend(trio.abc.HalfCloseableStream):
    """What is sent arrives at once, and its sender waits for a second."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        await trio.sleep(1)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        received: bytes = await self._stream.receive_some(max_bytes)
        return received

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_verdict_was_sent_when_it_began_to_be_written(autojump_clock: trio.testing.MockClock) -> None:
    here, there = memory_stream_pair()
    timelines: list[Timeline] = []

    async def answer() -> None:
        timelines.append((await respond(SlowToSend(there), BOB, trust=anyone)).timeline)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await initiate(here, ADA, expect=BOB.id)
    assert timelines[0][Step.ACK_RECEIVED].seconds == pytest.approx(1)
    assert timelines[0][Step.VERDICT].seconds == 0


# --- read back ------------------------------------------------------------------------------------------


@given(timelines())
def test_a_timeline_is_read_back_from_what_it_gave(ours: Timeline) -> None:
    facts = ours.as_dict()
    again = Timeline.from_dict(json.loads(json.dumps(facts)))
    assert again.as_dict() == facts
    assert (again.own, again.peer, again.suite, again.role) == (ours.own, ours.peer, ours.suite, ours.role)


FACTS: Final = json.loads(json.dumps(whole(Role.INITIATOR).as_dict()))


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (None, "NoneType instead of a dict"),
        ([], "list instead of a dict"),
        ({}, "'number' is missing"),
        (FACTS | {"role": "bystander"}, "'bystander' is not a valid Role"),
        (FACTS | {"reason": 3}, "'reason' is int, expected str or NoneType"),
        (FACTS | {"number": True}, "'number' is bool, expected int"),
        (FACTS | {"began": float("nan")}, "'began' is out of bounds"),
        (FACTS | {"milliseconds": float("inf")}, "'milliseconds' is out of bounds"),
        (FACTS | {"own": "nobody"}, "nobody|characters|56"),
        (FACTS | {"suite": "0x9999 Noise_none"}, "there is no suite '0x9999 Noise_none'"),
        (FACTS | {"greeting": "xyz"}, "hex"),
        (FACTS | {"steps": [None]}, "NoneType instead of a dict"),
        (FACTS | {"steps": FACTS["steps"][::-1]}, "the step .* of the initiator is out of place"),
        (FACTS | {"steps": FACTS["steps"][:1] * 2}, "the step 'resolved' of the initiator is out of place"),
        (FACTS | {"steps": [FACTS["steps"][0] | {"step": "admitted"}]}, "out of place"),
        (FACTS | {"steps": [FACTS["steps"][0] | {"failed": 0}]}, "'failed' is int, expected bool"),
        (FACTS | {"places": [{"endpoint": "here"}]}, "'failure' is missing"),
    ],
)
def test_what_is_no_timeline_is_refused(facts: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Timeline.from_dict(facts)
