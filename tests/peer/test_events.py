"""_events.py and _observers.py: what is said, under which name, to whom; and that nobody falls over who listens.

That every event of every other test is as EVENTS has it is looked at while they run (tests/leaks.py).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import multiprocessing
import os
import re
import stat
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from trishake import (
    CloseCode,
    Connection,
    ConnectionClosed,
    Decision,
    DialError,
    Introduction,
    Observer,
    Peer,
    PeerId,
    Progress,
    Rejected,
    Role,
    SecureStream,
    Step,
    Stream,
    StreamReset,
    Timeline,
    UnknownProtocol,
    only,
    reject,
    respond,
)
from trishake._authorized_keys import AuthorizedKeys
from trishake._errors import BadFile, ChangedIdentity, RequestFailed, StreamRefused
from trishake._events import EVENTS, as_json, follow_environment, is_wanted, log_event, log_failure
from trishake._known_peers import KnownPeers
from trishake._timeline import Trace
from trishake._unix import Unix

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    ByHand,
    Ends,
    Watch,
    arrival,
    closed_port,
    connect,
    memory_pair,
    met,
    outcomes,
    side,
    written,
)
from .test_unix import at
from .world import CARL, HASTY, MEM, peer

ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
OBSERVING: Final = Path(__file__).parents[2] / "docs" / "observing.md"
HOSTILE: Final = "\x1b[2J\n2026-01-01 all is well\u202e"
ESCAPED: Final = r"\x1b[2J\n2026-01-01 all is well\u202e"


class Log(logging.Handler):
    """Keeps what the logger of the library is told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, event: str) -> list[Any]:
        return [record for record in self.records if record.event == event]


@pytest.fixture
def log() -> Iterator[Log]:
    keeping = Log()
    logger = logging.getLogger("trishake")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(keeping)
    yield keeping
    logger.removeHandler(keeping)
    logger.setLevel(before)


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[object], None]]:
    """Sets TRISHAKE_LOG, or unsets it by None."""

    def set_to(path: object) -> None:
        if path is None:
            monkeypatch.delenv("TRISHAKE_LOG", raising=False)
        else:
            monkeypatch.setenv("TRISHAKE_LOG", str(path))

    yield set_to
    set_to(None)
    follow_environment()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events"


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


async def greet(**options: Any) -> tuple[SecureStream | DialError, SecureStream | DialError]:
    return await outcomes(await memory_pair(), side(ADA, **options), side(BOB))


# --- every event ----------------------------------------------------------------------------------------


async def fail(*_: object) -> Any:
    raise RuntimeError("a black cat")


async def use_streams_and_requests() -> None:
    async def hang_up(stream: Stream) -> None:
        await stream.receive_some()

    async with met() as two:
        two.bob.handle("fail/1", fail)
        two.bob.handle("hang-up/1", hang_up)
        two.bob.handle_request("ask/1", fail)
        with pytest.raises(UnknownProtocol):
            await two.at_ada.open_stream("nobody/1")
        with pytest.raises(StreamReset):
            await (await two.at_ada.open_stream("fail/1")).receive_some()
        with pytest.raises(RequestFailed):
            await two.at_ada.request("ask/1", None)
        await trio.aclose_forcefully(await two.at_ada.open_stream("hang-up/1"))
        while two.at_bob.streams:
            await trio.lowlevel.checkpoint()


async def fail_to_decide_and_to_watch() -> None:
    class Falls(Observer):
        def progress(self, progress: Progress) -> None:
            raise RuntimeError("a black cat")

    async with peer(BOB, trust=fail, observers=[Falls()]) as bob, peer(ADA) as ada:
        with pytest.raises(Rejected):
            await ada.dial((await bob.listen(MEM)).invite)


async def fail_to_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    accept, failures = trio.SocketListener.accept, iter(range(1))

    async def fail_first(listener: trio.SocketListener) -> trio.SocketStream:
        stream = await accept(listener)
        if next(failures, None) is None:
            return stream
        await stream.aclose()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as changed:
        changed.setattr(trio.SocketListener, "accept", fail_first)
        async with peer(BOB) as bob, await connect(await bob.listen(ANYWHERE)) as stream:
            assert await stream.receive_some() == b""


async def keep_and_lose() -> None:
    async with peer(ADA, limits=replace(HASTY, redial_first=0.01)) as ada:
        keeper = ada.keep(f"mem://{BOB.id}@bob")
        while keeper.failure is None:
            await trio.lowlevel.checkpoint()
        async with peer(BOB) as bob:
            await bob.listen(MEM)
            connection = await keeper.connected()
            await connection.aclose()
            while keeper.connection is connection:
                await trio.lowlevel.checkpoint()


async def know_and_authorize(tmp_path: Path) -> None:
    known = KnownPeers(tmp_path / "known")
    async with peer(BOB) as bob, peer(CARL) as carl, peer(ADA, trust=known) as ada:
        for host, address in ((bob, "mem://one"), (carl, "mem://other")):
            await host.listen(address)
        await known.remember("mem://other", BOB.id)
        with pytest.raises(ChangedIdentity):
            await ada.dial("mem://other")
    (tmp_path / "known").write_text("no line\n")
    assert known.problems
    keys = written(tmp_path / "authorized", "ssh-ed25519 nonsense\n")
    policy = AuthorizedKeys(keys)
    keys.unlink()
    assert policy.problems


async def leave_a_socket_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    async with trio.open_nursery() as nursery:
        (bound,) = await Unix().listen(at(tmp_path / "socket"), nursery)
        with monkeypatch.context() as changed:
            changed.setattr(os, "unlink", forbid)
            await bound.listener.aclose()


async def log_keys(tmp_path: Path) -> None:
    """And take the right to do so away in the middle."""
    path = tmp_path / "keys"
    async with peer(BOB) as bob, peer(ADA, key_log=path) as ada:
        invite = (await bob.listen(MEM)).invite
        await (await ada.dial(invite)).aclose()
        path.chmod(0o644)
        await (await ada.dial(invite)).aclose()


async def give_up_a_dial() -> None:
    async with peer(BOB, trust=never) as bob, peer(ADA) as ada:
        listener = await bob.listen(MEM)
        with trio.move_on_after(0.01):
            await ada.dial(listener.invite)


async def never(_: Introduction) -> Decision:
    await trio.sleep_forever()
    raise AssertionError


async def test_each_event_there_is_comes_at_the_levels_that_the_documentation_says(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: Callable[[object], None]
) -> None:
    variable("/dev/full")
    await use_streams_and_requests()
    await fail_to_decide_and_to_watch()
    await fail_to_accept(monkeypatch)
    await keep_and_lose()
    await know_and_authorize(tmp_path)
    await leave_a_socket_behind(tmp_path, monkeypatch)
    await log_keys(tmp_path)
    await give_up_a_dial()
    levels: defaultdict[str, set[str]] = defaultdict(set)
    for record in log.records:
        levels[record.event].add(record.levelname)
    assert levels.keys() == EVENTS.keys()
    assert dict(levels) == {name: levels_ for name, (levels_, _) in documented().items()}


def documented() -> dict[str, tuple[set[str], tuple[str, ...]]]:
    """The table in docs/observing.md: of each event its levels and its fields."""
    text = OBSERVING.read_text(encoding="utf-8")
    groups = {
        name: re.findall(r"`(\w+)`", rest) for name, rest in re.findall(r"^- \*\*(\w+)\*\*: (.*)$", text, re.M)
    }
    table = {}
    for names, levels, fields in re.findall(r"^\| (`[a-z_.`, ]+`) \| ([A-Z, ]+) \| ([^|]*) \|", text, re.M):
        each = [
            field
            for group, name in re.findall(r"\*\*(\w+)\*\*|`(\w+)`", fields)
            for field in (groups[group] if group else [name])
        ]
        for event in re.findall(r"`([a-z_.]+)`", names):
            assert event not in table
            table[event] = (set(levels.split(", ")), tuple(each))
    return table


def test_the_documentation_lists_each_event_with_its_fields() -> None:
    assert {name: fields for name, (_, fields) in documented().items()} == EVENTS


def test_the_events_of_a_greeting_are_its_steps() -> None:
    assert {f"greeting.{step}" for step in Step} < EVENTS.keys()


# --- what a record is -----------------------------------------------------------------------------------


async def test_an_accepted_greeting_is_one_line_of_info_on_each_side(log: Log) -> None:
    ada, bob = await greet()
    assert isinstance(ada, SecureStream)
    assert isinstance(bob, SecureStream)
    told = [record for record in log.records if record.levelno > logging.DEBUG]
    assert [record.event for record in told] == ["greeting.verdict"] * 2
    by_role = {record.fields["role"]: record.fields for record in told}
    assert {role: (fields["peer"], fields["session"]) for role, fields in by_role.items()} == {
        "initiator": (str(BOB.id), ada.session_id.hex()),
        "responder": (str(ADA.id), ada.session_id.hex()),
    }
    assert by_role["initiator"]["greeting"] == by_role["responder"]["greeting"]
    assert by_role["initiator"]["number"] == ada.timeline.number
    assert all(": accepted, after " in record.getMessage() for record in told)


async def test_a_connection_is_logged_with_the_other_end_and_not_with_the_name_that_was_dialed(log: Log) -> None:
    async with Peer(BOB) as bob, Peer(ADA) as ada:
        port = (await bob.listen(ANYWHERE)).addresses[0].port
        await (await ada.dial(f"tcp://{BOB.id}@localhost:{port}")).aclose()
    for event in ("connection.opened", "connection.closed"):
        (told,) = [record.fields for record in log.of(event) if record.fields["role"] == "initiator"]
        assert told["endpoint"] == f"127.0.0.1:{port}"
    closed = {record.fields["role"]: record.fields["by_peer"] for record in log.of("connection.closed")}
    assert closed == {"initiator": False, "responder": True}


async def test_the_steps_in_the_log_add_up_to_the_timeline(log: Log) -> None:
    ada, _ = await greet()
    assert isinstance(ada, SecureStream)
    timeline = ada.timeline
    told = [record.fields for record in log.records if record.fields.get("number") == timeline.number]
    assert [fields["step"] for fields in told] == [entry.step.value for entry in timeline.entries]
    assert [(fields["sent"], fields["received"]) for fields in told] == [
        (entry.sent, entry.received) for entry in timeline.entries
    ]
    assert timeline.greeting_id is not None
    assert {fields["greeting"] for fields in told} == {timeline.greeting_id.hex()}
    assert [fields["at"] for fields in told] == [step["at"] for step in timeline.as_dict()["steps"]]  # type: ignore[attr-defined]


async def test_a_failure_says_what_statistics_count_and_what_the_other_side_was_told(log: Log) -> None:
    async with peer(BOB, trust=only()) as bob, peer(EVE) as eve:
        with pytest.raises(Rejected) as caught:
            await eve.dial((await bob.listen(MEM)).invite)
        at_eve, at_bob = (
            next(record.fields for record in log.of("greeting.failed") if record.fields["role"] == role)
            for role in ("initiator", "responder")
        )
        assert bob.statistics().told == {at_bob["told"]: 1}
        assert eve.statistics().failed == {at_eve["reason"]: 1}
    assert (at_eve["outcome"], at_eve["reason"], at_eve["told"]) == ("rejected", "IDENTITY_UNKNOWN", None)
    assert (at_bob["outcome"], at_bob["reason"]) == ("refused by policy", "IDENTITY_UNKNOWN")
    assert all(f" (session {at_eve['session']})" in record.getMessage() for record in log.of("greeting.failed"))
    assert at_eve["session"] == at_bob["session"] == caught.value.timeline.session_id.hex()  # type: ignore[union-attr]


async def say_it_on_closing() -> None:
    async with met() as two:
        await two.at_ada.aclose(CloseCode.NORMAL, HOSTILE)
        await two.at_bob.closed()


async def say_it_as_a_verdict() -> None:
    async def policy(_: Introduction) -> Decision:
        return reject(0x8001, HOSTILE)

    at_ada, _ = await outcomes(await memory_pair(), side(ADA), side(BOB, trust=policy))
    assert isinstance(at_ada, Rejected)
    assert at_ada.text == HOSTILE


async def have_it_as_ones_agent() -> None:
    async def policy(introduction: Introduction) -> Decision:
        return introduction.greeting.agent  # type: ignore[return-value]

    at_bob, at_hand = await memory_pair()
    hand = ByHand(at_hand)

    async def call() -> None:
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack(hand.honest(agent=HOSTILE)))
        await hand.hear_to_end()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        with pytest.raises(DialError):
            await respond(at_bob, BOB, **side(BOB, trust=policy).options)


async def name_a_protocol_so() -> None:
    async with met() as two:
        with pytest.raises(UnknownProtocol):
            await two.at_ada.open_stream(HOSTILE)


async def refuse_a_stream_with_it() -> None:
    async def policy(_: Introduction) -> Decision:
        return reject(text=HOSTILE, why=HOSTILE)

    async with met() as two:
        two.bob.handle("guarded/1", fail, trust=policy)
        with pytest.raises(StreamRefused):
            await two.at_ada.open_stream("guarded/1")


@pytest.mark.parametrize(
    ("say", "event"),
    [
        (say_it_on_closing, "connection.closed"),
        (say_it_as_a_verdict, "greeting.failed"),
        (have_it_as_ones_agent, "policy.failed"),
        (name_a_protocol_so, "stream.refused"),
        (refuse_a_stream_with_it, "stream.refused"),
    ],
)
async def test_what_the_other_side_says_is_escaped_and_begins_no_line(
    say: Callable[[], Any], event: str, log: Log
) -> None:
    await say()
    said = [record.getMessage() for record in log.of(event)]
    assert any(ESCAPED in text for text in said), said
    assert all(text.isprintable() for text in said)
    assert HOSTILE not in repr([record.fields for record in log.records])


def test_what_is_handed_in_unescaped_is_escaped_in_text_and_fields(log: Log) -> None:
    log_event(logging.INFO, "unix.left_behind", f"left: {HOSTILE}", path=f"/run/{HOSTILE}\udcff")
    (record,) = log.records
    assert (record.getMessage(), record.fields) == (f"left: {ESCAPED}", {"path": f"/run/{ESCAPED}\\udcff"})


@pytest.mark.parametrize(
    ("value", "plain"),
    [(None, None), (True, True), (3, 3), (0.5, 0.5), ("ä", "ä"), (b"\x01\xff", "01ff"), (Path("/a"), "/a"),
     (ADA.id, str(ADA.id)), (Step.ACK_SENT, "ack_sent"), (HOSTILE, ESCAPED)],
)  # fmt: skip
def test_a_field_is_what_json_has(value: object, plain: object) -> None:
    assert as_json(value) == plain
    assert json.loads(json.dumps(as_json(value))) == plain


def test_what_nobody_reads_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unread:
        def __str__(self) -> str:
            raise AssertionError("it was made")

    monkeypatch.setattr(logging.getLogger("trishake"), "level", logging.CRITICAL)
    logging.getLogger("trishake").manager._clear_cache()  # type: ignore[attr-defined]
    try:
        assert not is_wanted(logging.ERROR)
        log_event(logging.ERROR, "unix.left_behind", "left", path=Unread())
    finally:
        monkeypatch.undo()
        logging.getLogger("trishake").manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture
def quiet() -> Iterator[None]:
    """The log as it is where nobody has asked for more: warnings only."""
    logger = logging.getLogger("trishake")
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)


async def dial_and_leave(**options: Any) -> None:
    """One greeting that is accepted, one that is refused, and one that is cut off."""
    async with (
        peer(BOB, trust=only(ADA.id), **options) as bob,
        peer(ADA, **options) as ada,
        peer(EVE, **options) as eve,
    ):
        invite = (await bob.listen(MEM)).invite
        await (await ada.dial(invite)).aclose()
        with pytest.raises(Rejected):
            await eve.dial(invite)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ada.dial(invite)


@pytest.mark.usefixtures("quiet")
async def test_observers_are_told_whatever_the_log_shows() -> None:
    ends = Ends()
    await dial_and_leave(observers=[ends])
    assert {Step.SYN_SENT, Step.SYN_RECEIVED, Step.VERDICT} <= set(ends.steps)
    assert [timeline.outcome for timeline in ends.cut_off] == ["cancelled"]
    assert not ends.under_way


@pytest.mark.usefixtures("quiet")
async def test_for_a_log_that_shows_nothing_neither_text_nor_timeline_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []
    make = Trace.timeline

    def seen(self: Trace, *arguments: Any, **options: Any) -> Timeline:
        made.append(self)
        return make(self, *arguments, **options)

    monkeypatch.setattr(Trace, "timeline", seen)
    monkeypatch.setattr("trishake._observers.log_event", lambda *said, **_: made.append(said))
    with monkeypatch.context() as without_observers:
        without_observers.setattr("trishake._observers.Progress", lambda *said: made.append(said))
        await dial_and_leave()
    assert made == []
    await dial_and_leave(observers=[Observer()])
    assert all(isinstance(each, Trace) for each in made)  # of the one that was cut off, for the observer alone
    assert len(made) == 1


async def test_the_log_names_the_place_in_the_library_that_speaks(log: Log) -> None:
    await greet()
    assert {Path(record.pathname).name for record in log.records} == {"_observers.py"}


# --- TRISHAKE_LOG ---------------------------------------------------------------------------------------


async def test_each_step_is_a_line_of_json(variable: Callable[[object], None], file: Path, log: Log) -> None:
    variable(file)
    ada, bob = await greet()
    lines = lines_of(file)
    for line, record in zip(lines, log.records, strict=True):
        head = {key: line.pop(key) for key in ("time", "pid", "level", "event", "text")}
        assert head["time"] == pytest.approx(record.created, abs=5)
        assert (head["pid"], head["level"]) == (os.getpid(), record.levelname.lower())
        assert (head["event"], head["text"], line) == (record.event, record.getMessage(), record.fields)
    assert len(lines) == len(ada.timeline.entries) + len(bob.timeline.entries)


async def test_the_file_has_everything_though_the_log_shows_nothing(
    variable: Callable[[object], None], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="trishake")
    variable(file)
    await greet()
    assert {line["level"] for line in lines_of(file)} == {"debug", "info"}
    assert caplog.records == []


def test_a_failure_has_its_traceback_in_the_file(variable: Callable[[object], None], file: Path) -> None:
    variable(file)
    follow_environment()
    try:
        raise RuntimeError("a black cat\nof two lines")
    except RuntimeError:
        log_failure("request.failed", "it failed", peer=None)
    (line,) = lines_of(file)
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("RuntimeError: a black cat\nof two lines\n")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_the_file_is_its_owners_alone(variable: Callable[[object], None], file: Path, umask: int) -> None:
    variable(file)
    before = os.umask(umask)
    try:
        await greet()
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_file_that_is_there_is_appended_to(variable: Callable[[object], None], file: Path) -> None:
    file.write_text('{"event": "before"}\n')
    variable(file)
    await greet()
    events = [line["event"] for line in lines_of(file)]
    assert (events[0], events[-1]) == ("before", "greeting.verdict")


async def test_the_variable_may_be_set_changed_and_unset_while_the_program_runs(
    variable: Callable[[object], None], tmp_path: Path
) -> None:
    sizes = []
    for name in ("one", "two", None, "one"):
        variable(None if name is None else tmp_path / name)
        await greet()
        sizes.append({path.name: len(lines_of(path)) for path in sorted(tmp_path.iterdir())})
    each = sizes[0]["one"]
    assert sizes == [{"one": each}, *[{"one": each, "two": each}] * 2, {"one": 2 * each, "two": each}]


async def test_a_file_that_is_not_followed_any_more_is_closed(
    variable: Callable[[object], None], file: Path
) -> None:
    variable(file)
    await greet()
    assert is_open(file)
    variable(None)
    await greet()
    assert not is_open(file)


def is_open(path: Path) -> bool:
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return str(path) in held


def make_no_directory(path: Path) -> Path:
    return path / "deeper"


def make_a_directory(path: Path) -> Path:
    path.mkdir()
    return path


def make_a_loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


def make_a_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


UNUSABLE: Final = pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_no_directory, errno.ENOENT),
        (make_a_directory, errno.EISDIR),
        (make_a_loop, errno.ELOOP),
        (make_a_pipe, errno.ENXIO),
    ],
)


@UNUSABLE
def test_a_file_that_cannot_be_opened_is_named_where_the_peer_is_made(
    variable: Callable[[object], None], file: Path, make: Callable[[Path], Path], why: int
) -> None:
    path = make(file)
    variable(path)
    for _ in range(2):
        with pytest.raises(BadFile) as caught:
            Peer(ADA)
        assert str(caught.value) == (
            f"{path}: the environment names this file in TRISHAKE_LOG, and it cannot be opened "
            f"({os.strerror(why)}). Name a file that this process may write to, or unset TRISHAKE_LOG."
        )
        assert caught.value.path == path
    variable(None)
    assert repr(Peer(ADA)) == f"<Peer {ADA.id.short}>"


def test_who_changes_to_a_file_that_cannot_be_opened_keeps_the_one_before(
    variable: Callable[[object], None], file: Path
) -> None:
    variable(file)
    Peer(ADA)
    variable(file / "deeper")
    with pytest.raises(BadFile):
        Peer(ADA)
    log_event(logging.INFO, "unix.left_behind", "left", path="/run/socket")
    assert [line["path"] for line in lines_of(file)] == ["/run/socket"]


async def test_a_full_disk_brings_no_greeting_down_and_is_said_once(
    variable: Callable[[object], None], log: Log, file: Path
) -> None:
    variable("/dev/full")
    for _ in range(3):
        ada, bob = await greet()
        assert isinstance(ada, SecureStream)
        assert isinstance(bob, SecureStream)
    (lost,) = log.of("events.lost")
    assert (lost.levelname, lost.fields) == ("ERROR", {"path": "/dev/full"})
    assert lost.getMessage() == f"events are not written to /dev/full any more: {os.strerror(errno.ENOSPC)}"
    assert not is_open(Path("/dev/full"))
    variable(file)
    await greet()
    assert lines_of(file)


async def test_a_pipe_that_nobody_empties_holds_up_no_greeting(
    variable: Callable[[object], None], log: Log, file: Path
) -> None:
    os.mkfifo(file)
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        variable(file)
        while not log.of("events.lost"):
            ada, _ = await greet()
            assert isinstance(ada, SecureStream)
    finally:
        os.close(reader)


TOGETHER: Final = """
import sys, trio
from trishake import Identity, Peer

async def main():
    async with Peer(Identity.generate()) as bob, Peer(Identity.generate()) as ada:
        listener = await bob.listen("mem://bob")
        for _ in range(10):
            await (await ada.dial(listener.invite)).aclose()

print("ready", flush=True)
sys.stdin.readline()
trio.run(main)
"""


@pytest.mark.usefixtures("quiet")
def test_a_variable_that_is_empty_names_no_file(variable: Callable[[object], None]) -> None:
    variable("")
    follow_environment()
    assert not is_wanted(logging.DEBUG)


def test_what_is_said_while_the_process_ends_is_in_the_file_too(file: Path) -> None:
    program = """
import atexit, logging
atexit.register(lambda: log_event(logging.INFO, "unix.left_behind", "the last word", path="x"))
from trishake._events import follow_environment, log_event
follow_environment()
"""
    subprocess.run([sys.executable, "-c", program], env={**ENVIRONMENT, "TRISHAKE_LOG": str(file)}, check=True)
    assert [line["text"] for line in lines_of(file)] == ["the last word"]


def test_two_processes_write_to_one_file_without_mixing_lines(file: Path) -> None:
    command = [sys.executable, "-c", TOGETHER]
    env = {**ENVIRONMENT, "TRISHAKE_LOG": str(file)}
    both = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.communicate("go\n", timeout=30)
        assert process.returncode == 0
    lines = lines_of(file)
    for process in both:
        verdicts = [line for line in lines if line["pid"] == process.pid and line["event"] == "greeting.verdict"]
        assert len(verdicts) == 20


def test_a_line_that_is_written_in_part_is_the_last_one(file: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    program = TOGETHER.replace("sys.stdin.readline()", limited)
    env = {**ENVIRONMENT, "TRISHAKE_LOG": str(file)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert re.fullmatch(
        rf"events are not written to {re.escape(str(file))} any more: \d+ of \d+ bytes were written\n", done.stderr
    )
    assert file.stat().st_size == 1000


def test_nothing_else_in_the_process_changes(file: Path) -> None:
    """No handler is added, no level set: who shows WARNING shows no more than that."""
    program = TOGETHER.replace("sys.stdin.readline()", "import logging; logging.basicConfig(level='WARNING')")
    program += (
        "assert logging.getLogger('trishake').handlers == []\n"
        "assert logging.getLogger('trishake').level == logging.NOTSET\n"
    )
    env = {**ENVIRONMENT, "TRISHAKE_LOG": str(file)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    assert lines_of(file)


def test_the_file_is_not_handed_to_another_program(variable: Callable[[object], None], file: Path) -> None:
    variable(file)
    follow_environment()
    assert is_open(file)
    look = (
        "import os\n"
        "for fd in os.listdir('/proc/self/fd'):\n"
        "    try: print(os.readlink('/proc/self/fd/' + fd))\n"
        "    except OSError: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, close_fds=False
    )
    assert done.stdout
    assert str(file) not in done.stdout.splitlines()


def speak(number: int) -> None:
    log_event(logging.INFO, "unix.left_behind", "left", path=f"/run/{number}")


def test_a_worker_that_is_forked_writes_under_its_own_pid(variable: Callable[[object], None], file: Path) -> None:
    variable(file)
    follow_environment()
    worker = multiprocessing.get_context("fork").Process(target=speak, args=(1,))
    worker.start()
    worker.join()
    speak(2)
    assert [(line["pid"], line["path"]) for line in lines_of(file)] == [
        (worker.pid, "/run/1"),
        (os.getpid(), "/run/2"),
    ]


def test_a_thread_that_turns_to_another_file_takes_none_from_under_one_that_writes(
    variable: Callable[[object], None], tmp_path: Path, log: Log
) -> None:
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            speak(1)

    variable(tmp_path / "first")
    follow_environment()
    writing = threading.Thread(target=write)
    writing.start()
    for number in range(200):
        variable(tmp_path / str(number % 5))
        follow_environment()
    done.set()
    writing.join()
    assert not log.of("events.lost")
    written_ = [line for path in tmp_path.iterdir() if path.stat().st_size for line in lines_of(path)]
    assert {line["event"] for line in written_} == {"unix.left_behind"}


# --- observers ------------------------------------------------------------------------------------------


class Falls(Watch):
    """Raises where it is told to, and counts how often it was called there."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        self.calls = 0

    def _called(self, method: str) -> None:
        if method == self.at:
            self.calls += 1
            raise ExceptionGroup("two", [RuntimeError("a black cat"), ValueError()])

    def progress(self, progress: Progress) -> None:
        self._called("progress")

    def failed(self, role: Role, error: DialError) -> None:
        self._called("failed")

    def connected(self, connection: Connection) -> None:
        self._called("connected")

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        self._called("disconnected")

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        self._called("stream_refused")


class Counts(Falls):
    """Counts, and goes on."""

    def _called(self, method: str) -> None:
        self.calls += method == self.at


@pytest.mark.parametrize("method", ["progress", "failed", "connected", "disconnected", "stream_refused"])
async def test_an_observer_that_raises_is_taken_off_and_nobody_falls_with_it(method: str, log: Log) -> None:
    before, falls, after = Counts(method), Falls(method), Counts(method)

    async def policy(introduction: Introduction) -> Decision:
        return await only(ADA.id)(introduction)

    observers = [before, falls, after]
    async with peer(BOB, trust=policy, observers=observers) as bob, peer(ADA) as ada, peer(EVE) as eve:
        listener = await bob.listen(MEM)
        for _ in range(2):
            with pytest.raises(Rejected):
                await eve.dial(listener.invite)
            connection = await ada.dial(listener.invite)
            there = await arrival(bob)
            with pytest.raises(UnknownProtocol):
                await connection.open_stream("nobody/1")
            await connection.aclose()
            await there.closed()
    assert falls.calls == 1
    assert before.calls == after.calls > 1
    (failed,) = log.of("observer.failed")
    assert (failed.levelname, failed.fields) == ("ERROR", {"observer": "Falls"})
    assert "a black cat" in str(failed.exc_info[1].exceptions[0])


@pytest.mark.parametrize("method", ["progress", "failed"])
async def test_an_observer_of_a_dial_that_raises_leaves_the_dial_as_it_is(method: str, log: Log) -> None:
    async with peer(ADA, observers=[Falls(method)]) as ada, peer(BOB) as bob:
        listener = await bob.listen(MEM)
        assert (await ada.dial(listener.invite)).peer == BOB.id
        with pytest.raises(DialError):
            await ada.dial(f"tcp://{BOB.id}@127.0.0.1:{await closed_port()}")
    assert len(log.of("observer.failed")) == 1


class RaisingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("a black cat")


class RaisingFilter(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(self._fall)

    def _fall(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("a black cat")


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", [RaisingHandler, RaisingFilter])
async def test_no_peer_falls_with_a_log_that_raises(
    kind: type[logging.Handler],
    told: bool,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", told)
    logger, falls = logging.getLogger("trishake"), kind()
    logger.addHandler(falls)
    try:
        watch = Watch()
        async with peer(BOB, observers=[watch]) as bob, peer(ADA, observers=[Falls("progress")]) as ada:
            listener = await bob.listen("tcp://127.0.0.1:0")
            async with await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port) as stranger:
                await stranger.send_all(b"GET / HTTP/1.0\r\n\r\n")
                assert (await watch.wait_failed()).counted_as == "syn/foreign"
            connection = await ada.dial(listener.invite)
            with pytest.raises(UnknownProtocol):
                await connection.open_stream("nobody/1")
    finally:
        logger.removeHandler(falls)
    assert len(log.of("greeting.verdict")) == 2
    assert ("a black cat" in capsys.readouterr().err) is told


def test_a_log_that_raises_is_left_alone_where_there_is_no_stderr_to_tell_of_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    logger, falls = logging.getLogger("trishake"), RaisingHandler()
    logger.addHandler(falls)
    try:
        log_event(logging.INFO, "stream.hung_up", "a black cat")
    finally:
        logger.removeHandler(falls)
    assert len(log.of("stream.hung_up")) == 1


async def test_what_is_not_an_exception_of_an_observer_goes_on() -> None:
    class Interrupts(Observer):
        def progress(self, progress: Progress) -> None:
            raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await greet(observers=[Interrupts()])


async def test_observers_are_told_in_the_order_in_which_they_were_given() -> None:
    told: list[tuple[int, Step]] = []

    class Writes(Observer):
        def __init__(self, number: int) -> None:
            self.number = number

        def progress(self, progress: Progress) -> None:
            told.append((self.number, progress.step))

    await greet(observers=[Writes(1), Writes(2), Writes(3)])
    assert told == [(number, step) for step in dict.fromkeys(step for _, step in told) for number in (1, 2, 3)]
    assert len(told) > 3


async def test_the_log_has_a_step_before_an_observer_is_told_of_it(log: Log) -> None:
    class Looks(Observer):
        def progress(self, progress: Progress) -> None:
            assert log.of(f"greeting.{progress.step}")[-1].fields["number"] == progress.greeting

    await greet(observers=[Looks()])
    assert not log.of("observer.failed")


async def test_an_observer_that_is_given_twice_is_told_once() -> None:
    watch = Watch()
    ada, _ = await greet(observers=[watch, watch])
    assert [seen.step for seen in watch.steps] == [entry.step for entry in ada.timeline.entries]


async def test_observers_that_are_equal_to_each_other_are_two() -> None:
    class Alike(Counts):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("observers are not compared")

        __hash__ = None  # type: ignore[assignment]

    first, second = Alike("progress"), Alike("progress")
    await greet(observers=[first, second])
    assert first.calls == second.calls > 0


async def test_of_observers_that_are_equal_only_the_one_that_fails_is_taken_off(log: Log) -> None:
    class AlikeFalls(Falls):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, AlikeFalls)

        __hash__ = None  # type: ignore[assignment]

    class AlikeCounts(AlikeFalls):
        def _called(self, method: str) -> None:
            self.calls += method == self.at

    first, second = AlikeFalls("progress"), AlikeCounts("progress")
    await greet(observers=[first, second])
    assert first.calls == 1 < second.calls


async def test_an_observer_may_dial_from_within() -> None:
    """It must not wait, so it has a task do it; and it sees that dial too."""
    async with peer(BOB) as bob, peer(CARL) as carl:
        invites = [(await bob.listen("mem://b")).invite, (await carl.listen("mem://c")).invite]

        class Dials(Watch):
            def connected(self, connection: Connection) -> None:
                if connection.peer == BOB.id:
                    nursery.start_soon(ada.dial, invites[1])

        watch = Dials()
        async with peer(ADA, observers=[watch]) as ada, trio.open_nursery() as nursery:
            await ada.dial(invites[0])
            assert (await arrival(carl)).peer == ADA.id
    assert [seen.peer for seen in watch.steps if seen.step is Step.IDENTITY_VERIFIED] == [BOB.id, CARL.id]


async def test_an_observer_that_is_told_of_a_failure_reads_how_it_came(log: Log) -> None:
    explained = []

    class Explains(Observer):
        def failed(self, role: Role, error: DialError) -> None:
            explained.append((role, error.timeline.entries[-1].failed, error.explain()))

    async with peer(BOB, trust=only(), observers=[Explains()]) as bob, peer(ADA) as ada:
        with pytest.raises(Rejected):
            await ada.dial((await bob.listen(MEM)).invite)
    ((role, failed, text),) = explained
    assert (role, failed) == (Role.RESPONDER, True)
    assert text.startswith(f"A dial over a stream ({ADA.id.short}): ")
