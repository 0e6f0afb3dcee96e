"""_known_peers.py: who answered where, and that nothing but a person makes it somebody else."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    Address,
    AlertCode,
    Decision,
    Greeting,
    Identity,
    Introduction,
    InvalidAddress,
    InvalidPeerId,
    Listener,
    PeerId,
    Rejected,
    Rejection,
    Role,
    VerdictCode,
    accept,
    reject,
)
from trishake._errors import BadFile, ChangedIdentity, Untrusted
from trishake._files import locked
from trishake._known_peers import KnownPeers
from trishake._trust import all_of, any_of, only

from .conftest import ADA, BOB, EVE, Watch, cancelled_at
from .world import CARL, peer

ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
GOOD: Final = (
    f"# ours\n\nhost:1 {ADA.id}\n  [2001:db8::1]:2\t{BOB.id}   a comment, über alles # und mehr\n"
    f"/run/so%20cket {CARL.id}\n"
).encode()
NAMES: Final = {"host:1": ADA.id, "[2001:db8::1]:2": BOB.id, "/run/so cket": CARL.id}
"""What stands in it, as it is dialed."""


def dialed(peer: PeerId, address: str | None = "host:1") -> Introduction:
    greeting = Greeting(Role.RESPONDER.value, peer.key, (1,), 0)
    return Introduction(peer, Role.RESPONDER, address, greeting, bytes(8))


def dialer(peer: PeerId, address: str | None = "192.0.2.7:54321") -> Introduction:
    greeting = Greeting(Role.INITIATOR.value, peer.key, (1,), 0)
    return Introduction(peer, Role.INITIATOR, address, greeting, bytes(8))


def number(index: int) -> PeerId:
    return Identity.from_seed(index.to_bytes(32, "big")).id


def why(decision: Decision) -> str:
    """Of a rejection for which our own file is to blame."""
    assert isinstance(decision, Rejection)
    assert decision.reason is VerdictCode.INTERNAL
    assert decision.text is None  # the other side is told nothing of our files
    assert decision.why is not None
    return decision.why


def change(decision: Decision, actual: PeerId) -> ChangedIdentity:
    assert isinstance(decision, Rejection)
    assert decision.reason is VerdictCode.IDENTITY_UNKNOWN
    error = decision.refusal(actual)
    assert isinstance(error, ChangedIdentity)
    return error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "known_peers"


@pytest.fixture
def good(path: Path) -> Path:
    path.write_bytes(GOOD)
    return path


async def yes(_: Introduction) -> bool:
    return True


NO = "Whoever was asked about it said no."


async def no(_: Introduction) -> bool:
    return False


async def never_asked(_: Introduction) -> bool:
    raise AssertionError


EVERY_KIND: Final[list[dict[str, Any]]] = [{}, {"strict": True}, {"ask": never_asked}]


# --- whom we dial ---------------------------------------------------------------------------------------


async def test_who_answers_first_is_recorded_and_somebody_else_is_refused(path: Path) -> None:
    policy = KnownPeers(path)
    assert await policy(dialed(ADA.id)) == accept()
    assert await policy(dialed(ADA.id)) == accept()
    error = change(await policy(dialed(EVE.id)), EVE.id)
    assert (error.name, error.expected, error.actual, error.path) == ("host:1", ADA.id, EVE.id, path)
    assert path.read_text().splitlines()[error.line - 1].startswith(f"host:1 {ADA.id} since 20")
    assert [(entry.name, entry.peer) for entry in policy.entries()] == [("host:1", ADA.id)]
    assert await KnownPeers(path)(dialed(ADA.id)) == accept()


async def test_the_file_says_what_it_is_and_is_for_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "config" / "app" / "known_peers"
    assert await KnownPeers(path)(dialed(ADA.id)) == accept()
    assert path.read_text().startswith("# Known peers: ")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]


def test_looking_makes_no_file(path: Path) -> None:
    policy = KnownPeers(path)
    assert (policy.entries(), policy.problems, policy.path) == ((), (), path)
    assert [*path.parent.iterdir()] == []


def test_a_path_may_begin_at_home_and_survives_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    at_home, relative = KnownPeers("~/known"), KnownPeers("known")
    monkeypatch.chdir("/")
    assert at_home.path == relative.path == tmp_path / "known"


@pytest.mark.parametrize(
    ("path", "options", "what"),
    [("x", {"strict": True, "ask": yes}, "one of them"), ("a\0b", {}, "NUL")],
)
def test_what_makes_no_sense_is_refused_at_once(path: str, options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        KnownPeers(path, **options)


@pytest.mark.parametrize("options", EVERY_KIND, ids=["default", "strict", "ask"])
async def test_a_change_is_refused_whoever_decides_and_never_asked_about(
    good: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    policy = KnownPeers(good, **options)
    for address, known in NAMES.items():
        assert await policy(dialed(known, address)) == accept()
        caplog.clear()
        decision = await policy(dialed(EVE.id, address))
        error = change(decision, EVE.id)
        assert error.expected == known
        assert caplog.record_tuples == [("trishake", logging.WARNING, str(error))]
        assert isinstance(decision, Rejection)
        assert decision.why == str(error)
    assert good.read_bytes() == GOOD


async def test_strict_takes_only_who_is_recorded_and_says_which_line_is_missing(good: Path) -> None:
    policy = KnownPeers(good, strict=True)
    for introduction in (dialed(EVE.id, "Other: 9"), dialer(EVE.id), dialed(EVE.id, None)):
        decision = await policy(introduction)
        assert isinstance(decision, Rejection)
        assert (decision.reason, decision.text) == (VerdictCode.IDENTITY_UNKNOWN, None)
        assert isinstance(decision.refusal(EVE.id), Untrusted)
        assert decision.why is not None
        line = decision.why.partition("add this line to")[2] or decision.why.partition("add this line: ")[2]
        assert good.read_bytes() == GOOD
        good.write_bytes(GOOD + line.encode() + b"\n")
        assert await policy(introduction) == accept()
        good.write_bytes(GOOD)


async def test_a_yes_is_recorded_and_a_no_is_not(path: Path) -> None:
    assert await KnownPeers(path, ask=no)(dialed(ADA.id)) == reject(why=NO)
    assert not path.exists()
    assert await KnownPeers(path, ask=yes)(dialed(ADA.id)) == accept()
    assert await KnownPeers(path, ask=never_asked)(dialed(ADA.id)) == accept()
    assert await KnownPeers(path, strict=True)(dialed(ADA.id)) == accept()


async def test_who_was_recorded_while_a_person_thought_stays(path: Path) -> None:
    async def slowly(_: Introduction) -> bool:
        await KnownPeers(path).remember("host:1", BOB.id)
        return True

    error = change(await KnownPeers(path, ask=slowly)(dialed(EVE.id)), EVE.id)
    assert error.expected == BOB.id
    assert [entry.peer for entry in KnownPeers(path).entries()] == [BOB.id]


async def test_a_failing_callback_records_nothing(path: Path) -> None:
    async def failing(_: Introduction) -> bool:
        raise KeyError

    with pytest.raises(KeyError):
        await KnownPeers(path, ask=failing)(dialed(ADA.id))
    assert not path.exists()


@pytest.mark.parametrize("answer", ["no", 1, None, accept(), reject(), object()])
async def test_what_is_neither_yes_nor_no_admits_nobody(path: Path, answer: Any) -> None:
    async def odd(_: Introduction) -> bool:
        return answer  # type: ignore[no-any-return]

    for introduce in (dialed, dialer):
        with pytest.raises(TypeError, match=r"returned .*, not True or False"):
            await KnownPeers(path, ask=odd)(introduce(ADA.id))
    assert not path.exists()


async def test_a_policy_in_the_place_of_the_callback_admits_nobody(path: Path) -> None:
    policy: Any = only(BOB.id)
    with pytest.raises(TypeError, match="returned Rejection, not True or False"):
        await KnownPeers(path, ask=policy)(dialed(EVE.id))
    assert not path.exists()


async def test_with_other_policies_a_change_is_the_reason_that_is_told(good: Path) -> None:
    decision = await any_of(only(BOB.id), KnownPeers(good))(dialed(EVE.id))
    assert change(decision, EVE.id).expected == ADA.id
    assert await all_of(only(ADA.id), KnownPeers(good))(dialed(ADA.id)) == accept()


# --- who dials us ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("introduce", [dialer, lambda peer: dialed(peer, None), lambda peer: dialed(peer, "")])
async def test_without_a_name_strangers_are_welcome_and_do_not_fill_the_file(path: Path, introduce: Any) -> None:
    policy = KnownPeers(path)
    for index in range(3):
        assert await policy(introduce(number(index))) == accept()
    assert not path.exists()


@pytest.mark.parametrize("introduce", [dialer, lambda peer: dialed(peer, None)])
async def test_without_a_name_who_is_known_under_any_is_welcome(good: Path, introduce: Any) -> None:
    for options in EVERY_KIND[1:]:
        for known in NAMES.values():
            assert await KnownPeers(good, **options)(introduce(known)) == accept()


async def test_a_dialer_that_was_said_yes_to_is_known_and_vouches_for_no_name(path: Path) -> None:
    assert await KnownPeers(path, ask=no)(dialer(EVE.id)) == reject(why=NO)
    assert await KnownPeers(path, ask=yes)(dialer(EVE.id)) == accept()
    assert [(entry.name, entry.peer) for entry in KnownPeers(path).entries()] == [("*", EVE.id)]
    assert await KnownPeers(path, strict=True)(dialer(EVE.id)) == accept()
    for name in ("host:1", "*", "%2a", "%2A"):
        decision = await KnownPeers(path, strict=True)(dialed(EVE.id, name))
        assert isinstance(decision, Rejection), name
        assert await KnownPeers(path, ask=no)(dialed(EVE.id, name)) == reject(why=NO)
    assert await KnownPeers(path)(dialed(BOB.id, "*")) == accept()
    assert [entry.name for entry in KnownPeers(path).entries()] == ["*", "%2A"]


async def test_any_number_of_peers_is_known_anywhere(path: Path) -> None:
    policy = KnownPeers(path)
    for identity in (ADA, BOB, ADA):
        await policy.remember("*", identity.id)
    assert [entry.peer for entry in policy.entries()] == [ADA.id, BOB.id]
    assert policy.problems == ()


# --- names ----------------------------------------------------------------------------------------------

STRANGE: Final = [
    "/run/a b",
    "/run/tab\there",
    "/run/new\nline",
    "/run/#hash",
    "/run/100%",
    "/run/%41",
    "/run/ünï",
    "/run/\ud8ff",
    "/run/back\rslash\\",
    "/run/*",
    "#mem",
    "[fe80::1%eth0]:7",
    "bücher.example:7",
    " ",
    "\u2028:1",
]


async def test_any_name_has_a_line_of_its_own(path: Path) -> None:
    policy = KnownPeers(path)
    for index, name in enumerate(STRANGE):
        assert await policy(dialed(number(index), name)) == accept()
    assert policy.problems == ()
    assert len(policy.entries()) == len(STRANGE)
    again = KnownPeers(path, strict=True)
    for index, name in enumerate(STRANGE):
        assert await again(dialed(number(index), name)) == accept()
        assert change(await again(dialed(EVE.id, name)), EVE.id).expected == number(index)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=30).map(lambda text: f"/{text}"), st.just(0), max_size=8))
def test_names_that_differ_are_told_apart(names: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        policy = KnownPeers(Path(directory) / "known")
        for index, name in enumerate(names):
            assert trio.run(policy, dialed(number(index), name)) == accept()
        assert [entry.peer for entry in policy.entries()] == [number(index) for index in range(len(names))]
        assert policy.problems == ()


@pytest.mark.parametrize("line", ["HOST.example:1 {}", "host.EXAMPLE:1 {}", "%48ost.example:1 {}"])
@pytest.mark.parametrize("name", ["host.example:1", "Host.Example:1"])
async def test_a_host_is_the_same_in_capitals_however_it_was_written(path: Path, line: str, name: str) -> None:
    path.write_text(line.format(str(ADA.id).upper()) + "\n")
    assert await KnownPeers(path)(dialed(ADA.id, name)) == accept()
    assert change(await KnownPeers(path)(dialed(EVE.id, name)), EVE.id).expected == ADA.id


IPV6: Final = ["[::1]:1", "[0:0:0:0:0:0:0:1]:1", "[0::0001]:1", "[::0.0.0.1]:1"]


@pytest.mark.parametrize("line", IPV6)
@pytest.mark.parametrize("name", IPV6)
async def test_an_ipv6_address_is_the_same_however_it_is_spelled(path: Path, line: str, name: str) -> None:
    path.write_text(f"{line} {ADA.id}\n")
    assert change(await KnownPeers(path)(dialed(EVE.id, name)), EVE.id).expected == ADA.id
    assert await KnownPeers(path, strict=True)(dialed(ADA.id, name)) == accept()
    assert [entry.peer for entry in await KnownPeers(path).forget(name)] == [ADA.id]


async def test_two_spellings_of_an_ipv6_address_with_two_peers_contradict_each_other(path: Path) -> None:
    path.write_text(f"[::1]:1 {ADA.id}\n[0::1]:1 {EVE.id}\n")
    for who in (ADA, EVE):
        assert "Remove the wrong line" in why(await KnownPeers(path)(dialed(who.id, "[::1]:1")))


async def test_ipv6_addresses_are_told_apart_by_port_and_zone(path: Path) -> None:
    policy = KnownPeers(path)
    for index, name in enumerate(["[fe80::1]:1", "[fe80::1]:2", "[fe80::1%1]:1", "[fe80::1%2]:1", "[fe80::2]:1"]):
        assert await policy(dialed(number(index), name)) == accept()
    assert len(policy.entries()) == 5


async def test_a_path_is_another_one_in_capitals(path: Path) -> None:
    policy = KnownPeers(path)
    assert await policy(dialed(ADA.id, "/run/x")) == accept()
    assert await policy(dialed(EVE.id, "/run/X")) == accept()


async def test_a_name_that_is_too_long_for_the_file_is_refused_and_the_file_stays_good(good: Path) -> None:
    policy = KnownPeers(good)
    for length in range(3900, 4200, 20):
        decision = await policy(dialed(EVE.id, "h" * length))
        assert policy.problems == ()
        if decision != accept():
            assert "too long" in why(decision)
    assert decision != accept()


# --- the file -------------------------------------------------------------------------------------------

BAD_LINES: Final = {
    "only a name": b"other:1",
    "truncated id": f"other:1 {EVE.id}"[:-1].encode(),
    "a letter more": f"other:1 {EVE.id}a".encode(),
    "wrong check": f"other:1 {str(EVE.id)[:-1]}{'a' if str(EVE.id)[-1] != 'a' else 'b'}".encode(),
    "no base32": f"other:1 {str(EVE.id)[:-1]}1".encode(),
    "padding": b"other:1 " + b"=" * 56,
    "id first": f"{EVE.id} other:1".encode(),
    "id alone": str(EVE.id).encode(),
    "binary": bytes(range(128, 256)),
    "NUL": f"other:1 {EVE.id} \0".encode(),
    "NUL in a comment line": b"# \0",
    "not UTF-8": f"other:1 {EVE.id} ".encode() + b"\xff",
    "not UTF-8 in a comment line": b"# caf\xe9",
    "CR inside": f"other:1 {EVE.id}\rhost:1 {EVE.id}".encode(),
    "CR in a comment": f"other:1 {EVE.id} met\rhost:1 {EVE.id}".encode(),
    "CR in a comment line": f"# met\rhost:1 {EVE.id}".encode(),
    "two CRs": f"other:1 {EVE.id}\r\r".encode(),
    "too long": f"other:1 {EVE.id} ".encode() + b"x" * 4096,
    "too long a comment line": b"#" * 4097,
    "huge": b"x" * 1_000_000,
    "name not encoded": f"öther:1 {EVE.id}".encode(),
    "control character in a name": f"other\x1b:1 {EVE.id}".encode(),
    "hash in a name": f"ot#her:1 {EVE.id}".encode(),
    "pattern": f"*.example:1 {EVE.id}".encode(),
    "percent": f"other%:1 {EVE.id}".encode(),
    "percent and no number": f"other%zz:1 {EVE.id}".encode(),
    "percent and no UTF-8": f"other%ff:1 {EVE.id}".encode(),
    "BOM": f"\ufeffother:1 {EVE.id}".encode(),
    "vertical tab": f"other:1\v{EVE.id}".encode(),
    "no-break space": f"other:1\xa0{EVE.id}".encode(),
}


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
async def test_beside_a_bad_line_the_known_are_known_and_nobody_else_is_taken(
    path: Path, bad: bytes, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = bad + b"\n" + GOOD if where == "first" else GOOD + bad + b"\n"
    line = 1 if where == "first" else GOOD.count(b"\n") + 1
    path.write_bytes(content)
    for options in EVERY_KIND:
        policy = KnownPeers(path, **options)
        for name, known in NAMES.items():
            assert await policy(dialed(known, name)) == accept()
            assert await policy(dialer(known)) == accept()
            assert change(await policy(dialed(EVE.id, name)), EVE.id).expected == known
        for name in ("other:1", "öther:1", "ot#her:1", "x.example:1", "unheard-of:1"):
            text = why(await policy(dialed(EVE.id, name)))
            assert text.startswith(f"{path}, line {line}: ")
            assert "Mend the line or remove it" in text
        if options:
            assert f"{path}, line {line}" in why(await policy(dialer(EVE.id)))
        (problem,) = policy.problems
        assert (problem.path, problem.line) == (path, line)
        with pytest.raises(BadFile, match=f"line {line}"):
            await policy.remember("other:1", EVE.id)
        await policy.remember("host:1", ADA.id)
        with pytest.raises(ChangedIdentity):
            await policy.remember("host:1", EVE.id)
    assert len([record for record in caplog.records if record.message.startswith("known peers: ")]) == 3
    assert path.read_bytes() == content
    (removed,) = await policy.forget("host:1")
    assert removed.peer == ADA.id
    assert path.read_bytes() == content.replace(f"host:1 {ADA.id}\n".encode(), b"")


async def test_a_mended_file_is_used_at_once(good: Path) -> None:
    policy = KnownPeers(good)
    good.write_bytes(GOOD + b"x\n")
    assert "line 6" in why(await policy(dialed(EVE.id, "other:1")))
    good.write_bytes(GOOD)
    assert await policy(dialed(EVE.id, "other:1")) == accept()
    assert policy.problems == ()


@pytest.mark.parametrize(
    "line",
    [
        "{name} {id}\r",
        "  {name}\t \t{id}  ",
        "{name} {id} comment {id}",
        "{name} {id} # \x1b[31m ü \u2028 \v",
        "{name} {id} " + "x" * 3980,
        "{name} {id}\n{name} {id} again",
        "#\n# comment\r\n   # and\n\t\r\n\n{name} {id}",
    ],
)
async def test_what_people_write_is_read_and_stays_as_it_is(path: Path, line: str) -> None:
    content = line.format(name="host:1", id=ADA.id).encode() + b"\n"
    path.write_bytes(content)
    policy = KnownPeers(path)
    assert await policy(dialed(ADA.id)) == accept()
    assert change(await policy(dialed(EVE.id)), EVE.id).expected == ADA.id
    assert await policy(dialed(EVE.id, "other:1")) == accept()
    assert policy.problems == ()
    assert path.read_bytes().startswith(content + f"other:1 {EVE.id} ".encode())
    await policy.forget("other:1")
    assert path.read_bytes() == content


def test_the_comment_is_what_stands_behind(good: Path) -> None:
    assert [tuple(entry) for entry in KnownPeers(good).entries()] == [
        ("host:1", ADA.id, 3, ""),
        ("[2001:db8::1]:2", BOB.id, 4, "a comment, über alles # und mehr"),
        ("/run/so%20cket", CARL.id, 5, ""),
    ]


async def test_of_two_answers_to_one_name_none_is_taken_and_others_are_not_concerned(good: Path) -> None:
    content = GOOD + f"HOST:1 {BOB.id}\nhost:1 {ADA.id}\n".encode()
    good.write_bytes(content)
    for options in EVERY_KIND:
        policy = KnownPeers(good, **options)
        for who in (ADA, BOB, EVE):
            text = why(await policy(dialed(who.id)))
            assert f"{good}, line 6" in text
            assert "line 3" in text
        assert len(policy.problems) == 1
    with pytest.raises(BadFile, match="line 6"):
        await KnownPeers(good).remember("host:1", ADA.id)
    assert good.read_bytes() == content
    assert await KnownPeers(good)(dialed(EVE.id, "other:1")) == accept()
    assert [entry.line for entry in await KnownPeers(good).forget("host:1")] == [3, 6, 7]
    assert await KnownPeers(good)(dialed(BOB.id)) == accept()


@pytest.mark.parametrize("content", [b"", b"\n", b"# nothing\n"])
async def test_an_empty_file_knows_nobody(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    policy = KnownPeers(path)
    assert (policy.entries(), policy.problems) == ((), ())
    assert await policy(dialed(ADA.id)) == accept()
    assert [entry.peer for entry in policy.entries()] == [ADA.id]


def make_unusable(path: Path, how: str) -> None:
    match how:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "too large":
            path.write_bytes(GOOD + b"\n" * (1024 * 1024))
        case "group-writable" | "world-writable":
            path.write_bytes(GOOD)
            path.chmod(0o620 if how == "group-writable" else 0o602)
        case "a link to what others write":
            path.with_name("target").write_bytes(GOOD)
            path.with_name("target").chmod(0o666)
            path.symlink_to("target")
        case _:
            path.symlink_to("/dev/null/x")


@pytest.mark.parametrize(
    "how",
    [
        "directory",
        "pipe",
        "loop",
        "too large",
        "group-writable",
        "world-writable",
        "a link to what others write",
        "below a device",
    ],
)
async def test_while_the_file_is_of_no_use_nobody_is_welcome(
    path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_unusable(path, how)
    for options in EVERY_KIND:
        caplog.clear()
        policy = KnownPeers(path, **options)
        for introduction in (dialed(ADA.id), dialed(EVE.id, "other:1"), dialer(ADA.id), dialed(ADA.id, None)):
            assert why(await policy(introduction)).startswith(f"{path}: ")
        assert [problem.path for problem in policy.problems] == [path]
        assert len(caplog.records) == 1
        with pytest.raises(BadFile):
            policy.entries()
        with pytest.raises(BadFile):
            await policy.remember("other:1", EVE.id)
        with pytest.raises(BadFile):
            await policy.forget("host:1")


def _coarse(status: os.stat_result) -> tuple[int, ...]:
    """The version of a file where the clock of the file system ticks every two seconds, as FAT's does."""
    step = 2 * 10**9
    times = (status.st_mtime_ns // step * step, status.st_ctime_ns // step * step)
    return status.st_dev, status.st_ino, status.st_size, *times


async def test_changes_within_one_tick_of_the_clock_are_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place and of one size, they leave no other mark; so a young file is read each time."""
    monkeypatch.setattr("trishake._files._version", _coarse)
    path.write_text(f"host:1 {ADA.id}\n")
    path.chmod(0o600)
    policy = KnownPeers(path)
    assert await policy(dialed(ADA.id)) == accept()
    for _ in range(10):
        for here, gone in ((BOB, ADA), (ADA, BOB)):
            with path.open("r+") as file:
                file.write(f"host:1 {here.id}\n")
            assert await policy(dialed(here.id)) == accept()
            assert change(await policy(dialed(gone.id)), gone.id).expected == here.id


async def test_a_settled_file_is_read_once(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trishake._files._COARSEST_TICK", 0)
    await trio.sleep(0.02)
    policy = KnownPeers(good)
    assert await policy(dialed(ADA.id)) == accept()

    def not_again(*_: object) -> int:
        raise AssertionError

    monkeypatch.setattr(os, "open", not_again)
    assert await policy(dialed(ADA.id)) == accept()
    assert len(policy.entries()) == len(NAMES)


async def test_a_file_that_was_removed_knows_nobody(good: Path) -> None:
    policy = KnownPeers(good)
    assert len(policy.entries()) == 3
    good.unlink()
    assert policy.entries() == ()
    assert await policy(dialed(EVE.id)) == accept()


async def test_a_file_that_has_become_of_no_use_forgets_what_it_was(good: Path) -> None:
    policy = KnownPeers(good)
    assert await policy(dialed(ADA.id)) == accept()
    good.chmod(0o666)
    assert "chmod go-w" in why(await policy(dialed(ADA.id)))
    good.unlink()
    assert policy.entries() == ()
    good.write_bytes(GOOD)
    assert len(policy.entries()) == 3


async def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to("there/known")
    policy = KnownPeers(tmp_path / "here")
    assert await policy(dialed(ADA.id)) == accept()  # dangling at first
    assert await policy(dialed(BOB.id, "host:2")) == accept()
    assert os.readlink(tmp_path / "here") == "there/known"
    assert [entry.peer for entry in KnownPeers(tmp_path / "there" / "known").entries()] == [ADA.id, BOB.id]
    assert {each.name for each in tmp_path.iterdir()} == {"here", "there"}
    assert len(await policy.forget("host:1")) == 1
    assert (tmp_path / "here").is_symlink()


async def test_a_file_full_of_faults_names_the_first_hundred(path: Path) -> None:
    path.write_bytes(b"x\n" * 5000)
    problems = KnownPeers(path).problems
    assert [problem.line for problem in problems] == list(range(1, 101))


def test_of_a_megabyte_of_faults_only_those_that_are_kept_are_put_in_words(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message for each would hold everybody up for seconds."""
    made: list[BadFile] = []

    class Counted(BadFile):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr("trishake._known_peers.BadFile", Counted)
    path.write_bytes(b"x\n" * 2**19)
    assert KnownPeers(path).problems == tuple(made)
    assert len(made) == 100


async def test_a_fault_behind_a_hundred_contradictions_counts(path: Path) -> None:
    lines = [f"h{index}:1 {who.id}" for index in range(101) for who in (ADA, BOB)]
    path.write_text("\n".join([*lines, "x", ""]))
    assert "line 203" in why(await KnownPeers(path)(dialed(EVE.id, "other:1")))


async def test_a_full_file_takes_nobody_more_and_stays_readable(path: Path) -> None:
    path.write_bytes(GOOD + b"#" * 1023 + b"\n")
    path.write_bytes(path.read_bytes() + (b"#" * 1023 + b"\n") * ((1024 * 1024 - path.stat().st_size) // 1024))
    policy = KnownPeers(path)
    decision = accept()
    for index in range(20):
        if (decision := await policy(dialed(number(index), f"new:{index}"))) != accept():
            break
    assert "full" in why(decision)
    assert policy.problems == ()
    assert await policy(dialed(ADA.id)) == accept()


@pytest.mark.parametrize("call", ["policy", "remember", "forget"])
async def test_what_cannot_be_written_is_not_trusted(good: Path, call: str) -> None:
    """The lock cannot be had; for root, no directory is read-only."""
    good.with_name("known_peers.lock").mkdir()
    policy = KnownPeers(good)
    if call == "policy":
        text = why(await policy(dialed(EVE.id, "other:1")))
        assert await policy(dialed(ADA.id)) == accept()
    else:
        with pytest.raises(BadFile) as caught:
            await (policy.remember("other:1", EVE.id) if call == "remember" else policy.forget("host:1"))
        text = str(caught.value)
    assert text.startswith(f"{good}: it cannot be written: ")
    assert good.read_bytes() == GOOD


# --- remembering and forgetting -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Host:1", "host:1"),
        ("tcp://Host:1", "host:1"),
        (f"tls://{ADA.id}@host:1", "host:1"),
        ("unix:///run/a b", "/run/a%20b"),
        ("/run/a%20b", "/run/a%20b"),
        ("/run/a b", "/run/a%20b"),
        ("/run/a://b", "/run/a://b"),
        ("mem://ada", "ada"),
        ("ws://[::1]:80/chat", "[::1]:80"),
        ("tcp://[2001:DB8::0]:1", "[2001:db8::]:1"),
    ],
)
async def test_names_may_be_given_as_addresses_or_as_in_the_file(path: Path, text: str, name: str) -> None:
    policy = KnownPeers(path)
    await policy.remember(text, str(ADA.id))
    await policy.remember(text, ADA.id)
    assert [(entry.name, entry.peer) for entry in policy.entries()] == [(name, ADA.id)]
    with pytest.raises(ChangedIdentity) as caught:
        await policy.remember(text, EVE.id)
    assert f"known forget {shlex.quote(name)}" in str(caught.value)
    assert [entry.name for entry in await policy.forget(text)] == [name]
    assert policy.entries() == ()


async def test_a_name_that_reads_as_an_id_is_forgotten_as_the_advice_says(path: Path) -> None:
    policy = KnownPeers(path)
    name = str(BOB.id)
    assert await policy(dialed(EVE.id, name)) == accept()
    error = change(await policy(dialed(BOB.id, name)), BOB.id)
    assert [entry.peer for entry in await policy.forget(error.name)] == [EVE.id]
    assert await policy(dialed(BOB.id, name)) == accept()


async def test_a_public_key_line_with_any_comment_names_whom_to_forget(good: Path) -> None:
    assert await KnownPeers(good).forget(ADA.id.ssh("100% of https://example"))


async def test_all_of_a_peers_lines_are_forgotten_at_once(path: Path) -> None:
    for who in (ADA.id, str(ADA.id)):
        path.write_bytes(GOOD + f"* {ADA.id}\nother:1 {ADA.id}".encode())
        removed = await KnownPeers(path).forget(who)
        assert [entry.name for entry in removed] == ["host:1", "*", "other:1"]
        assert path.read_bytes() == GOOD.replace(f"host:1 {ADA.id}\n".encode(), b"")


async def test_a_last_line_without_an_end_stays_when_another_is_forgotten(good: Path) -> None:
    cut = GOOD[:-10]
    good.write_bytes(cut)
    assert len(await KnownPeers(good).forget("host:1")) == 1
    assert good.read_bytes() == cut.replace(f"host:1 {ADA.id}\n".encode(), b"")


async def test_who_is_not_there_is_not_forgotten_and_nothing_is_written(good: Path) -> None:
    before = good.stat()
    assert await KnownPeers(good).forget("other:1") == ()
    assert await KnownPeers(good).forget(EVE.id) == ()
    assert (good.stat().st_ino, good.read_bytes()) == (before.st_ino, GOOD)
    assert await KnownPeers(good.with_name("none")).forget("host:1") == ()
    assert not good.with_name("none").exists()


@pytest.mark.parametrize(
    ("name", "peer", "error"),
    [
        ("", ADA.id, ValueError),
        ("a%zz", ADA.id, ValueError),
        ("tcp://host", ADA.id, InvalidAddress),
        ("host:1", "ada", InvalidPeerId),
        ("host:1", ADA, TypeError),
    ],
)
async def test_what_is_no_name_or_peer_is_refused(
    path: Path, name: str, peer: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await KnownPeers(path).remember(name, peer)
    assert not path.exists()


# --- what a crash leaves, and what an enemy cannot do --------------------------------------------------


async def test_no_cut_lets_another_identity_answer_to_a_name_that_it_has_left(path: Path) -> None:
    """Between two lines, a cut is as if a person had removed what follows; else, nobody new is taken."""
    ends = [0, *(match.end() for match in re.finditer(rb"\n", GOOD))]

    async def is_taken(who: PeerId, name: str) -> bool:
        path.write_bytes(left)
        return await KnownPeers(path)(dialed(who, name)) == accept()

    for cut in range(len(GOOD)):
        left = GOOD[:cut]
        for name, known in NAMES.items():
            start = GOOD.index(str(known).encode())
            is_new = cut in ends and cut < start
            in_a_letter = left.decode(errors="ignore").encode() != left
            assert await is_taken(EVE.id, name) == is_new, (cut, name)
            is_left = cut >= start + 56 and not (in_a_letter and known == BOB.id)
            assert await is_taken(known, name) == (is_new or is_left), (cut, name)


LINE: Final = re.compile(rb"[ \t]*(?:#.*|([!-~]+)[ \t]+([A-Za-z2-7]{56})(?:[ \t].*)?|)\r?", re.DOTALL)


def says(data: bytes) -> tuple[dict[str, set[str]], bool]:
    """By another reading: which ids the well-formed lines name, and whether there is nothing but such lines."""
    found: dict[str, set[str]] = {}
    whole = data.endswith(b"\n") or not data
    for line in data.split(b"\n"):
        match = LINE.fullmatch(line)
        if match is None:
            whole = False
        elif match[1] is not None:
            found.setdefault(match[1].decode().lower(), set()).add(match[2].decode().lower())
    return found, whole


MUTATION: Final = st.tuples(
    st.integers(0, len(GOOD)),
    st.integers(0, 3),
    st.binary(max_size=3)
    | st.sampled_from(
        [b"\n", b"\r", b"#", b" ", b"\0", b"*", b"%31", f" {EVE.id}".encode(), f"{EVE.id}\n".encode()]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MUTATION, min_size=1, max_size=4))
def test_no_damage_makes_somebody_else_known(mutations: list[tuple[int, int, bytes]]) -> None:
    """Only what is well-formed all over can say something else than it did; that is how people edit it."""
    data = GOOD
    for at, length, new in mutations:
        data = data[:at] + new + data[at + length :]
    found, whole = says(data)

    async def meet_everybody(path: Path) -> None:
        for name, known in NAMES.items():
            stated = found.get(name.replace(" ", "%20"), set())
            for who in {ADA.id, BOB.id, CARL.id, EVE.id} - {known}:
                path.write_bytes(data)
                if await KnownPeers(path, strict=True)(dialed(who, name)) == accept():
                    assert stated == {str(who)}
                if await KnownPeers(path)(dialed(who, name)) == accept():
                    assert stated == {str(who)} or (whole and not stated)

    with tempfile.TemporaryDirectory() as directory:
        trio.run(meet_everybody, Path(directory) / "known")


# --- many at once ---------------------------------------------------------------------------------------

CHILD: Final = """
import os, signal, shutil, sys
import trio
from trishake._known_peers import KnownPeers
from trishake._trust import Acceptance, Introduction
from trishake_protocol import Greeting, Identity, Role

def introduction(index, name):
    peer = Identity.from_seed(index.to_bytes(32, "big")).id
    return Introduction(peer, Role.RESPONDER, name, Greeting("responder", peer.key, (1,), 0), bytes(8))

def forked(work):
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return child

def many(path, count):
    # All begin at once: when the pipe's other end is closed.
    begin, hold = os.pipe()
    def record(index):
        os.close(hold)
        os.read(begin, 1)
        decision = trio.run(KnownPeers(path), introduction(index, f"host:{index}"))
        return 0 if isinstance(decision, Acceptance) else 1
    children = [forked(lambda index=index: record(index)) for index in range(int(count))]
    os.close(hold)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))

def race(path, rounds):
    for number in range(int(rounds)):
        ready, is_ready = os.pipe()
        begin, hold = os.pipe()
        def record(index):
            async def both_are_here(_):
                os.close(hold)
                os.write(is_ready, b".")
                os.read(begin, 1)
                return True
            decision = trio.run(KnownPeers(path, ask=both_are_here), introduction(index, f"host:{number}"))
            if isinstance(decision, Acceptance):
                return 0
            return 1 if "HAS CHANGED" in decision.why else 2
        children = [forked(lambda index=index: record(index)) for index in (1, 2)]
        while len(os.read(ready, 1)) and not os.read(ready, 1):
            pass
        os.close(hold)
        print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), end=" ")
        for descriptor in (ready, is_ready, begin):
            os.close(descriptor)

def killed(seed, places):
    # In each place, a process dies a step later than in the one before; until one does not die.
    import fcntl
    steps = {os: ("open", "close", "fstat", "stat", "fdopen", "fchown", "fchmod", "fsync", "replace", "unlink"),
             fcntl: ("flock",)}
    for torn in (False, True):
        step = alive = 0
        while not alive:
            step += 1
            place = os.path.join(places, f"{torn:d}-{step:03}")
            os.mkdir(place)
            path = os.path.join(place, "known")
            shutil.copy(seed, path)
            def record():
                left = step
                def hook(module, name):
                    real = getattr(module, name)
                    def call(*args, **options):
                        nonlocal left
                        left -= not torn or name == "fsync"
                        if left == 0:
                            left = -1
                            if torn and os.path.exists(path + ".new"):  # what a disk has written so far
                                os.truncate(path + ".new", os.path.getsize(path + ".new") // 2)
                            os.kill(os.getpid(), signal.SIGKILL)
                        return real(*args, **options)
                    setattr(module, name, call)
                async def work():
                    for module, names in steps.items():
                        for name in names:
                            hook(module, name)
                    decision = await KnownPeers(path)(introduction(7, "host:7"))
                    os._exit(0 if isinstance(decision, Acceptance) else 1)
                trio.run(work)
            end = os.waitstatus_to_exitcode(os.waitpid(forked(record), 0)[1])
            assert end in (0, -signal.SIGKILL), end
            alive = end == 0
        print(step, end=" ")

{"many": many, "race": race, "killed": killed}[sys.argv[1]](*sys.argv[2:])
"""


@asynccontextmanager
async def child(*arguments: object) -> AsyncIterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def output_of(process: subprocess.Popen[str]) -> list[int]:
    while process.poll() is None:
        await trio.sleep(0.005)
    assert process.returncode == 0
    assert process.stdout is not None
    return [int(word) for word in process.stdout.read().split()]


async def test_fifty_processes_record_at_once_and_who_reads_sees_a_whole_file(path: Path) -> None:
    reader = KnownPeers(path)
    seen: list[int] = [0]
    async with child("many", path, 50) as process:
        while process.poll() is None:
            count = len(reader.entries())
            assert reader.problems == ()
            assert count >= seen[-1]
            assert not path.exists() or path.read_bytes().endswith(b"\n")
            if count > seen[-1]:
                seen.append(count)
            await trio.sleep(0.0005)
        assert await output_of(process) == [0] * 50
    assert {(entry.name, entry.peer) for entry in reader.entries()} == {
        (f"host:{index}", number(index)) for index in range(50)
    }
    assert len(seen) > 2  # it was there while they wrote
    assert {each.name for each in path.parent.iterdir()} == {"known_peers", "known_peers.lock"}


async def test_of_two_processes_that_record_one_name_one_wins_and_the_other_is_told(path: Path) -> None:
    async with child("race", path, 10) as process:
        ends = await output_of(process)
    winners = {entry.name: entry.peer for entry in KnownPeers(path).entries()}
    assert len(winners) == 10
    assert KnownPeers(path).problems == ()
    for index in range(10):
        first, second = ends[2 * index : 2 * index + 2]
        assert {first, second} == {0, 1}
        assert winners[f"host:{index}"] == number(1 if first == 0 else 2)


async def test_of_two_tasks_that_record_one_name_one_wins_and_the_other_is_told(good: Path) -> None:
    policies = {ADA.id: KnownPeers(good), BOB.id: KnownPeers(good)}
    decisions: dict[PeerId, Decision] = {}

    async def meet(who: PeerId) -> None:
        decisions[who] = await policies[who](dialed(who, "new:1"))

    with holding_lock(good):
        async with trio.open_nursery() as nursery:
            for who in policies:
                nursery.start_soon(meet, who)
            await wait_all_tasks_blocked()
            assert decisions == {}
            release(good)
    (winner,) = (who for who, decision in decisions.items() if decision == accept())
    (loser,) = policies.keys() - {winner}
    assert change(decisions[loser], loser).expected == winner
    assert [entry.peer for entry in KnownPeers(good).entries() if entry.name == "new:1"] == [winner]


_held: dict[Path, int] = {}


@contextmanager
def holding_lock(path: Path) -> Iterator[None]:
    """As another process would."""
    descriptor = _held[path] = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(_held.pop(path))


def release(path: Path) -> None:
    fcntl.flock(_held[path], fcntl.LOCK_UN)


async def test_a_process_killed_at_any_step_loses_nothing_and_bars_nobody(tmp_path: Path) -> None:
    seed, places = tmp_path / "seed", tmp_path / "places"
    seed.write_bytes(GOOD)
    seed.chmod(0o600)
    places.mkdir()
    async with child("killed", seed, places) as process:
        steps, fsyncs = await output_of(process)
    assert steps > 15
    assert fsyncs == 3  # the file's, the directory's, and the one that there was not
    after: set[tuple[int, bool]] = set()
    for place in sorted(places.iterdir()):
        policy = KnownPeers(place / "known")
        assert policy.problems == ()
        entries = policy.entries()
        assert [entry.peer for entry in entries[:3]] == [ADA.id, BOB.id, CARL.id], place
        assert (place / "known").read_bytes().startswith(GOOD)
        assert [entry.peer for entry in entries[3:]] in ([], [number(7)])
        after.add((len(entries), (place / "known.new").exists()))
        with trio.fail_after(1):
            assert await policy(dialed(EVE.id, "next:1")) == accept()
        assert [entry.peer for entry in policy.entries()] == [*(entry.peer for entry in entries), EVE.id]
        assert {each.name for each in place.iterdir()} == {"known", "known.lock"}
    assert after == {(3, False), (3, True), (4, False)}  # they died before, amid and after


# --- cancellation, and time ----------------------------------------------------------------------------


async def test_who_is_cancelled_while_waiting_for_the_lock_leaves_nothing_behind(
    good: Path, autojump_clock: MockClock
) -> None:
    policy = KnownPeers(good)
    with holding_lock(good), trio.move_on_after(30) as scope:
        await policy(dialed(EVE.id, "other:1"))
    assert scope.cancelled_caught
    assert good.read_bytes() == GOOD
    assert {each.name for each in good.parent.iterdir()} == {"known_peers", "known_peers.lock"}
    with trio.fail_after(1):
        assert await policy(dialed(BOB.id, "other:1")) == accept()


async def test_wherever_it_is_cancelled_the_file_is_the_old_one_or_the_new_one(good: Path) -> None:
    for step in range(1, 50):
        good.write_bytes(GOOD)
        policy = KnownPeers(good, ask=thoughtful)

        async def meet(policy: KnownPeers = policy) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(policy, dialed(EVE.id, "other:1"))
                async with locked(good):
                    await trio.sleep(0.002)

        was_cancelled = await cancelled_at(step, meet)
        assert policy.problems == ()
        assert len(policy.entries()) in (3, 4)
        assert not good.with_name("known_peers.new").exists()
        with trio.fail_after(1):
            async with locked(good):
                pass
        if not was_cancelled:
            assert len(policy.entries()) == 4
            break
    assert not was_cancelled
    assert step > 3


async def thoughtful(_: Introduction) -> bool:
    await trio.lowlevel.checkpoint()
    return True


async def test_recording_takes_no_time_of_a_virtual_clock(path: Path, autojump_clock: MockClock) -> None:
    before = trio.current_time()
    for index in range(20):
        assert await KnownPeers(path)(dialed(number(index), f"host:{index}")) == accept()
    assert trio.current_time() == before


# --- between peers --------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(identity: Identity, where: str, **options: Any) -> AsyncIterator[Listener]:
    async with peer(identity, **options) as there:
        yield await there.listen(where)


def without_id(listener: Listener) -> str:
    return str(replace(Address.parse(listener.invite), peer=None))


@pytest.mark.parametrize("where", ["mem://bob", "tcp://127.0.0.1:0"])
@pytest.mark.parametrize("invited", [True, False], ids=["invite", "address"])
async def test_who_answers_at_a_known_address_with_another_key_learns_nothing_of_the_dialer(
    path: Path, where: str, invited: bool
) -> None:
    async with peer(ADA, trust=KnownPeers(path)) as ada:
        async with listening(BOB, where) as bob:
            address = without_id(bob)
            for _ in range(2):
                connection = await ada.dial(bob.invite if invited else address)
                assert connection.peer == BOB.id
                await connection.aclose()
        name = Address.parse(address).endpoint
        assert [(entry.name, entry.peer) for entry in KnownPeers(path).entries()] == [(name, BOB.id)]

        watch = Watch()
        async with listening(EVE, address, observers=[watch]) as eve:
            with pytest.raises(ChangedIdentity) as caught:
                await ada.dial(eve.invite if invited else address)
            error = caught.value
            assert (error.expected, error.actual, error.name, error.path) == (BOB.id, EVE.id, name, path)
            assert str(BOB.id) in str(error)
            assert str(EVE.id) in str(error)
            with trio.fail_after(5):
                at_eve = await watch.wait_failed()
            assert isinstance(at_eve, Rejected)
            assert (at_eve.reason, at_eve.peer) == (AlertCode.ABORTED, None)
            assert str(ADA.id) not in str(at_eve)

            await KnownPeers(path).forget(address)
            connection = await ada.dial(eve.invite)
            assert connection.peer == EVE.id
            await connection.aclose()


async def test_ask_and_strict_between_peers(path: Path) -> None:
    asked: list[tuple[str | None, PeerId]] = []

    def answering(answer: bool) -> KnownPeers:
        async def ask(introduction: Introduction) -> bool:
            asked.append((introduction.address, introduction.peer))
            return answer

        return KnownPeers(path, ask=ask)

    async with peer(ADA) as ada, listening(BOB, "mem://bob") as bob:
        with pytest.raises(Untrusted):
            await ada.dial(bob.invite, trust=answering(False))
        with pytest.raises(Untrusted, match=f"add this line: bob {BOB.id}"):
            await ada.dial(bob.invite, trust=KnownPeers(path, strict=True))
        assert not path.exists()
        for _ in range(2):
            await (await ada.dial(bob.invite, trust=answering(True))).aclose()
        await (await ada.dial(bob.invite, trust=KnownPeers(path, strict=True))).aclose()
    assert asked == [("bob", BOB.id)] * 2


async def test_whom_we_dialed_may_dial_us_and_strangers_may_not(path: Path) -> None:
    policy = KnownPeers(path, strict=True)
    await policy.remember("wherever:1", ADA.id)
    async with listening(BOB, "mem://bob", trust=policy) as bob, peer(ADA) as ada, peer(EVE) as eve:
        await (await ada.dial(bob.invite)).aclose()
        with pytest.raises(Rejected) as caught:
            await eve.dial(bob.invite)
        assert (caught.value.reason, caught.value.text) == (VerdictCode.IDENTITY_UNKNOWN, None)


async def test_a_faulty_file_is_named_to_us_and_not_to_the_other_side(path: Path) -> None:
    path.write_bytes(b"x\n")
    async with peer(ADA) as ada, listening(BOB, "mem://bob", trust=KnownPeers(path, strict=True)) as bob:
        with pytest.raises(Untrusted, match=r"known_peers, line 1: a line must be"):
            await ada.dial(bob.invite, trust=KnownPeers(path))
        with pytest.raises(Rejected) as caught:
            await ada.dial(bob.invite)
        assert (caught.value.reason, caught.value.text) == (VerdictCode.INTERNAL, None)


async def test_peers_meet_under_a_virtual_clock(path: Path, autojump_clock: MockClock) -> None:
    async with peer(ADA, trust=KnownPeers(path)) as ada, listening(BOB, "mem://bob") as bob:
        for _ in range(2):
            connection = await ada.dial(without_id(bob))
            assert connection.peer == BOB.id
            await connection.aclose()
    assert trio.current_time() < 60


async def test_a_change_is_not_drowned_by_what_another_policy_says(good: Path) -> None:
    name, known = next(iter(NAMES.items()))
    decision = await any_of(only(), KnownPeers(good))(dialed(EVE.id, name))
    assert isinstance(decision, Rejection)
    error = decision.refusal(EVE.id)
    assert isinstance(error, ChangedIdentity)
    assert (error.expected, error.actual) == (known, EVE.id)
