"""The table of explained failures: explanations.md holds what each side is told of each, word for word.

Every failure is made for real (failures.py). Run with WRITE_EXPLANATIONS=1 to write the table anew, and read what
has changed.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest
import trio
import trio.testing

from trishake import (
    AlertCode,
    BadHandshake,
    Cause,
    Decision,
    DialError,
    Introduction,
    Limits,
    LocalProtocolError,
    NoResponse,
    Peer,
    Phase,
    Rejected,
    Role,
    Step,
    VerdictCode,
    accept,
    initiate,
    respond,
)
from trishake._errors import ChangedIdentity
from trishake._observers import Observers
from trishake._timeline import Trace
from trishake_protocol import code_name
from trishake_protocol.limits import EXPIRY_ALLOWANCE
from trishake_protocol.patterns import SUITES

from .conftest import ADA, BOB, EVE, ByHand, side
from .failures import CARL, ELSEWHERE, FAILURES, PATIENT, Ends, elsewhere

TABLE: Final = Path(__file__).with_name("explanations.md")
WRITING: Final = "WRITE_EXPLANATIONS" in os.environ

SIDES: Final = ("dialer", "listener")


def table() -> dict[str, dict[str, str]]:
    """name → side → text."""
    found: dict[str, dict[str, str]] = {}
    for section in TABLE.read_text().split("\n## ")[1:]:
        name, _, rest = section.partition("\n")
        found[name] = dict(re.findall(r"^\*\*(\w+)\*\*: (.+)$", rest, re.MULTILINE))
    return found


HEAD: Final = """# What failures say

Each failure is made for real, and stands here with what `DialError.explain()` says of it to the side that dials
and to the side that listens, as far as they are ours. Ids, ports, times and paths are replaced by what is in angle
brackets; Ada dials, Bob listens.
"""


def write(name: str, texts: dict[str, str]) -> None:
    everything = (table() if TABLE.exists() else {}) | {name: texts}
    names = [*FAILURES, *ELSEWHERE]
    parts = [HEAD]
    for each in sorted(everything.keys() & set(names), key=names.index):
        lines = (f"**{side}**: {text}\n" for side, text in everything[each].items())
        parts.append(f"\n## {each}\n\n" + "\n".join(lines))
    TABLE.write_text("".join(parts))


def normal(text: str, path: Path) -> str:
    """Without what is another at each run."""
    text = text.replace(str(path), "<path>")
    text = re.sub(r"/tmp/\w+/", "<path>/", text)
    for name, identity in (("Ada", ADA), ("Bob", BOB), ("Eve", EVE), ("Carl", CARL)):
        text = text.replace(str(identity.id), f"<{name}>").replace(identity.id.short, f"<{name}>")
    text = re.sub(r"\b(session|greeting) [0-9a-f]{16}\b", r"\1 <id>", text)
    text = re.sub(r"(127\.0\.0\.\d|bob\.test):\d+", r"\1:<port>", text)
    text = re.sub(r"\bport \d+", "port <port>", text)
    text = re.sub(r"after [0-9.]+ m?s\b", "after <time>", text)
    text = re.sub(r"\b[01] s (ahead of|behind)", "0 s ahead of", text)  # a second may end between the two sides
    return re.sub(r"\b\d{4} s\b", "<clock> s", text)


def made(name: str, path: Path) -> Ends:
    async def make() -> Ends:
        with trio.fail_after(20):
            return await FAILURES[name](path)

    # It jumps when nothing has happened for a moment: on loopback everything is there by then.
    clock = trio.testing.MockClock(autojump_threshold=0.05) if name in PATIENT else None
    return trio.run(make, clock=clock)


def compare(name: str, texts: dict[str, str]) -> None:
    if WRITING:
        write(name, texts)
    assert table()[name] == texts


@pytest.mark.parametrize("name", FAILURES)
def test_each_side_is_told_what_the_table_says(name: str, tmp_path: Path) -> None:
    ends = made(name, tmp_path)
    errors = {"dialer": ends.dialer, "listener": ends.listener}
    compare(name, {side: normal(error.explain(), tmp_path) for side, error in errors.items() if error is not None})
    for error in errors.values():
        if error is not None:
            check(error)
    check_agreement(ends)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_dial_in_a_network_of_its_own_is_told_what_the_table_says(name: str, tmp_path: Path) -> None:
    told = elsewhere()
    if told is None:
        pytest.skip("no namespace can be made here")
    compare(name, {"dialer": normal(told[name][0], tmp_path)})


def check(error: DialError) -> None:
    """One line and a paragraph, made of the same."""
    line, paragraph = str(error), error.explain()
    assert "\n" not in line
    what, advice = error._account()
    assert what in line
    assert advice in line
    assert what in paragraph
    assert advice in paragraph
    assert len(paragraph) <= LONGEST or isinstance(error, ChangedIdentity)


NOTHING_READ: Final = {"BUSY"}
"""Said before SYN is read: the listener has no name for the greeting."""


def check_agreement(ends: Ends) -> None:
    """What the one was told is what the other says that it told, and both know the greeting by one name."""
    if ends.listener is None:
        return
    told = ends.listener.timeline.told
    if ends.statistics is not None:
        assert dict(ends.statistics.told) == ({} if told is None else {told: 1})
    if ends.dialer is None:
        return
    if isinstance(ends.dialer, Rejected):
        assert code_name(ends.dialer.reason) == told
    ours, theirs = ends.dialer.timeline, ends.listener.timeline
    if isinstance(ends.dialer, Rejected) and ends.dialer.authenticated:
        assert ours.session_id == theirs.session_id is not None
    if theirs.greeting_id is not None:
        assert ours.greeting_id == theirs.greeting_id
    else:
        assert told in NOTHING_READ | {None}


@pytest.mark.parametrize("name", ["wrong public network", "suite refused", "unknown", "policy says no", "full"])
def test_both_logs_have_one_reason_and_one_name_for_it(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "trishake"):
        made(name, tmp_path)
    events = [vars(record)["fields"] for record in caplog.records if vars(record)["event"] == "greeting.failed"]
    logs = {fields["role"]: fields for fields in events}
    assert len(events) == len(logs) == 2
    dialer, listener = logs["initiator"], logs["responder"]
    assert dialer["reason"] == listener["reason"] == listener["told"]
    assert dialer["greeting"] == listener["greeting"] is not None
    assert dialer["session"] == listener["session"]


@pytest.mark.parametrize("code", [AlertCode.MALFORMED, VerdictCode.UNSUPPORTED_CRITICAL])
def test_what_quotes_the_other_side_is_cut(code: AlertCode | VerdictCode) -> None:
    assert len(str(BadHandshake(code, f"{code.name}: {'x' * 10_000}"))) < 500


async def test_a_link_local_address_wants_an_interface() -> None:
    async with Peer(ADA) as ada:
        with pytest.raises(NoResponse) as caught:
            await ada.dial(f"tcp://{BOB.id}@[fe80::1]:1")
    assert "it names none" in str(caught.value)
    assert "[fe80::1%eth0]" in caught.value.explain()


def test_an_error_of_no_greeting_has_its_line_and_no_explanation() -> None:
    error = NoResponse(Phase.CONNECT, Cause.REFUSED)
    assert "the port is closed" in str(error)
    with pytest.raises(LocalProtocolError, match="no timeline"):
        error.explain()


UNREACHABLE: Final = os.strerror(errno.ENETUNREACH)


@pytest.mark.parametrize(
    ("error", "known", "words"),
    [
        pytest.param(
            NoResponse(Phase.CONNECT, Cause.UNREACHABLE),
            {"places": {"[2001:db8::1]:1": UNREACHABLE, "[2001:db8::2]:1": UNREACHABLE}},
            "it has an IPv6 address only",
            id="IPv6 only",
        ),
        pytest.param(
            NoResponse(Phase.CONNECT, Cause.UNREACHABLE),
            {"places": {"[2001:db8::1]:1": UNREACHABLE, "192.0.2.1:1": UNREACHABLE}},
            "the address cannot be reached ([2001:db8::1]:1: ",
            id="both families",
        ),
        pytest.param(
            NoResponse(Phase.CONNECT, Cause.UNREACHABLE, detail="no road"),
            {"places": {}},
            "the address cannot be reached (no road)",
            id="places unknown",
        ),
        *(
            pytest.param(
                NoResponse(Phase.CONNECT, Cause.UNREACHABLE, detail=os.strerror(code)),
                {"address": "/run/bob"},
                f"may not be used by this program's user ({os.strerror(code)})",
                id=errno.errorcode[code],
            )
            for code in (errno.EACCES, errno.EPERM)
        ),
        pytest.param(
            Rejected(AlertCode.UNSUPPORTED_SUITE, authenticated=False, suites=()),
            {"suite": SUITES[1]},
            "it has none of our suites enabled, only none",
            id="no suite at all",
        ),
        *(
            pytest.param(
                Rejected(VerdictCode.EXPIRED, authenticated=True),
                {"clock_difference": seconds},
                f"our greeting has expired by its clock, which {agrees}",
                id=f"clock {seconds:+}",
            )
            for seconds, agrees in [
                (EXPIRY_ALLOWANCE, "agrees with ours"),
                (-EXPIRY_ALLOWANCE, "agrees with ours"),
                (EXPIRY_ALLOWANCE + 1, f"is {EXPIRY_ALLOWANCE + 1} s ahead of ours"),
                (-EXPIRY_ALLOWANCE - 1, f"is {EXPIRY_ALLOWANCE + 1} s behind ours"),
            ]
        ),
    ],
)
async def test_what_is_known_of_the_greeting_decides_what_is_said(
    error: DialError, known: dict[str, object], words: str
) -> None:
    trace = Trace(Role.INITIATOR, ADA.id, "trishake", "bob.test:1", Observers())
    for name, value in known.items():
        setattr(trace, name, value)
    trace.fail(error)
    assert words in error.explain()
    assert words in str(error)


@pytest.mark.parametrize(("seconds", "words"), [(0.25, "after 250.0 ms."), (2, "after 2.00 s.")])
async def test_from_a_second_on_it_is_told_in_seconds(
    autojump_clock: trio.testing.MockClock, seconds: float, words: str
) -> None:
    here, _ = trio.testing.memory_stream_pair()
    with pytest.raises(NoResponse) as caught:
        await initiate(here, ADA, limits=Limits(greeting=seconds))
    assert words in caught.value.explain()


# --- the table as a whole -------------------------------------------------------------------------------

NOT_TO_BE_TOLD_APART: Final[dict[str, list[set[str]]]] = {
    "dialer": [
        # A quiet network is there to look like this.
        {"quiet private network, no key", "it closes before SYN-ACK"},
        # BUSY says when to come again, and not which limit it was.
        {"busy: this address", "busy: every slot"},
    ],
    "listener": [
        # The name goes into what the key opens: SYN opens, or does not.
        {"wrong network key", "right key, another name"},
        # ABORTED has no reason: who has seen that he meets the wrong one tells him nothing more.
        {
            "wrong key in the invite",
            "our own policy says no",
            "our own policy does not know it",
            "our own policy has blocked it",
            "our own policy fails",
            "our own policy is slow",
            "known peer changed",
            "two peers of one identity",
            "our key does not sign",
        },
        # Who gives up says nothing.
        {"our key does not sign in time", "a dialer closes after SYN-ACK"},
        {"the dialer too slow", "a dialer stands still after SYN-ACK"},
        # These are the same.
        {"HTTP calls", "ws:// to a plain port of Trishake's"},
        {"TLS calls", "tls:// to a plain port of Trishake's"},
    ],
}
"""Causes that give this side the same bytes, or the same silence: what it is told must name them all."""


def entries() -> list[tuple[str, str, str]]:
    """name, side, text."""
    return [(name, side, text) for name, texts in table().items() for side, text in texts.items()]


def test_the_table_has_every_failure_and_no_other() -> None:
    assert set(table()) == {*FAILURES, *ELSEWHERE}
    assert all(table().values())
    assert len(table()) >= 35


@pytest.mark.parametrize("side", SIDES)
def test_no_two_causes_give_the_same_text_but_where_nobody_could_tell(side: str) -> None:
    names = defaultdict(set)
    for name, whose, text in entries():
        if whose == side:
            names[text].add(name)
    alike = [each for each in names.values() if len(each) > 1]
    assert sorted(map(sorted, alike)) == sorted(map(sorted, NOT_TO_BE_TOLD_APART[side]))


def test_what_cannot_be_told_apart_is_named_in_full() -> None:
    said = table()
    assert "quiet" in said["it closes before SYN-ACK"]["dialer"]
    assert "another network key, or another name" in said["wrong network key"]["listener"]
    aborted = said["our own policy says no"]["listener"]
    assert all(word in aborted for word in ("somebody else", "policy", "sign"))
    assert "time is up" in said["a dialer closes after SYN-ACK"]["listener"]


LONGEST: Final = 640
"""Characters, ids and all; one that names two peers and a command to copy may be longer."""


@pytest.mark.parametrize(
    ("name", "side", "text"), [pytest.param(*entry, id=" / ".join(entry[:2])) for entry in entries()]
)
def test_an_explanation_is_short_and_says_all_that_it_must(name: str, side: str, text: str) -> None:
    subjects = {
        "dialer": ("Dialing ", "Greeting over a stream"),
        "listener": ("A dial from ", "A dial over a stream"),
    }
    assert text.startswith(subjects[side])
    assert re.search(r"It ended while [a-zA-Z -]+, after <time>\.", text)
    sentences = re.findall(r"[^.]+(?:\.(?! |$)[^.]*)*\.(?: |$)", re.sub(r'"[^"]*"', "", text))
    assert len(sentences) <= 6 or "HAS CHANGED" in text, sentences
    assert any(word in text for word in CERTAIN) is not any(word in text for word in UNCERTAIN)
    if side == "dialer":
        assert re.search(r"(Try again|Trying again)", text)


CERTAIN: Final = ("it is certain", "This is certain", "who answered is proved")
UNCERTAIN: Final = ("nothing is proved", "no proof", "not proved", "Nobody there was asked")


@pytest.mark.parametrize("cause", [Cause.RESET, Cause.TIMEOUT])
async def test_who_is_lost_while_he_is_told_that_he_is_accepted_had_sent_his_ack(
    cause: Cause, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()  # nothing is written that is not read
    hand = ByHand(theirs)

    async def policy(_: Introduction) -> Decision:
        if cause is Cause.RESET:
            await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(theirs)
        return accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hand.call, BOB.id)
        with pytest.raises(NoResponse) as caught:
            await respond(ours, BOB, **side(BOB, trust=policy).options)
    error = caught.value
    assert (error.counted_as, error.timeline.entries[-1].step) == (f"ack/{cause}", Step.VERDICT)
    said = error.explain()
    how = "the connection was reset" if cause is Cause.RESET else "the time was up"
    assert f": {how} while the dialer was told that it is accepted" in str(error)
    assert f": {how} while the dialer was told that it is accepted. " in said
    assert "told nothing" not in said  # READY may have come
    assert f"That it was {hand.identity.id} who dialed is proved; why it ended is not." in said
