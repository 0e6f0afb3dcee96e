"""_key_log.py: keys go to a file that nobody else may read, if somebody asked for it, and he is warned."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from trishake import Peer, SecureStream, initiate, respond
from trishake._errors import BadFile
from trishake._key_log import ENVIRONMENT, KeyLog

from .conftest import ADA, BOB, everything_of, memory_pair, met, written

LABELS = {
    "TRISHAKE_SYN_ACK_STATIC",
    "TRISHAKE_SYN_ACK_GREETING",
    "TRISHAKE_ACK_GREETING",
    "TRISHAKE_INITIATOR_TRAFFIC",
    "TRISHAKE_RESPONDER_TRAFFIC",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.txt"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def lines_of(path: Path) -> Counter[str]:
    text = path.read_text()
    assert text.endswith("\n")
    return Counter(text.splitlines())


def labels_of(lines: Counter[str]) -> set[str]:
    return {line.split(" ")[0] for line in lines}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.name for record in caplog.records} <= {"trishake"}
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return caplog.messages


async def greet(**options: Any) -> None:
    """Ada and Bob, who closes at once, over streams in memory. options: of both."""
    at_ada, at_bob = await memory_pair()
    streams: list[SecureStream] = []

    async def answer() -> None:
        streams.append(await respond(at_bob, BOB, **options))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        streams.append(await initiate(at_ada, ADA, **options))
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.aclose)


# --- the file -------------------------------------------------------------------------------------------


def test_a_key_log_is_made_for_us_alone(path: Path) -> None:
    umask = os.umask(0)
    try:
        KeyLog(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b""


def test_what_a_key_log_holds_already_stays(path: Path) -> None:
    written(path, "# of yesterday\n")
    log = KeyLog(path)
    log.write("one")
    log.write("two")
    assert path.read_text() == "# of yesterday\none\ntwo\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_may_use_is_refused_and_stays_as_it_is(path: Path, mode: int) -> None:
    written(path, "old\n").chmod(mode)
    with pytest.raises(BadFile) as caught:
        KeyLog(path)
    assert caught.value.path == path
    assert f"its mode is {mode:04o}" in str(caught.value)
    assert f"chmod 600 {path}" in str(caught.value)
    assert path.read_text() == "old\n"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Path.mkdir, "it cannot be written: Is a directory"),
        (lambda path: os.mkfifo(path, 0o600), "it cannot be written: No such device"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/null"), "it is no regular file"),
    ],
    ids=["directory", "pipe", "loop", "device"],
)
def test_what_is_no_file_is_refused(path: Path, make: Callable[[Path], object], what: str) -> None:
    make(path)
    with pytest.raises(BadFile, match=what):
        KeyLog(path)


def test_a_directory_that_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="No such file or directory"):
        KeyLog(tmp_path / "missing" / "keys.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    KeyLog("~/keys.txt").write("line")
    assert (tmp_path / "keys.txt").read_text() == "line\n"


def test_what_two_processes_append_stands_there_line_by_line(path: Path) -> None:
    script = (
        "import sys; from trishake._key_log import KeyLog; log = KeyLog(sys.argv[1]); print(flush=True); input()\n"
        "for n in range(500): log.write(f'{n} ' + sys.argv[2] * 150)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, path, letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for letter in "ab"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
    for process in processes:
        process.communicate(b"\n", timeout=30)
        assert process.returncode == 0
    assert lines_of(path) == Counter(f"{n} {letter * 150}" for n in range(500) for letter in "ab")


# --- who asks for it ------------------------------------------------------------------------------------


async def test_two_peers_log_the_keys_of_their_connection(path: Path) -> None:
    log = KeyLog(path)
    async with met(ada={"key_log": log}, bob={"key_log": log}):
        lines = lines_of(path)
    assert labels_of(lines) == LABELS
    assert len(lines) == len(LABELS)
    assert set(lines.values()) == {2}  # the same of both


@pytest.mark.parametrize("role", ["ada", "bob"])
@pytest.mark.parametrize("kind", [str, Path])
async def test_one_side_that_logs_is_enough(path: Path, role: str, kind: type) -> None:
    async with met(**{role: {"key_log": kind(path)}}):
        lines = lines_of(path)
    assert labels_of(lines) == LABELS
    assert set(lines.values()) == {1}


async def test_so_do_streams_that_are_greeted_without_a_peer(path: Path) -> None:
    await greet(key_log=path)
    lines = lines_of(path)
    assert labels_of(lines) == LABELS
    assert set(lines.values()) == {2}


@pytest.mark.parametrize("through", ["peer", "streams"])
async def test_the_environment_turns_it_on(path: Path, through: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(path))
    if through == "streams":
        await greet()
    else:
        async with met():
            pass
    assert set(lines_of(path).values()) == {2}
    assert labels_of(lines_of(path)) == LABELS


async def test_what_the_program_says_goes_before_the_environment(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "environment"))
    await greet(key_log=path)
    assert labels_of(lines_of(path)) == LABELS
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("value", [None, ""])
async def test_nothing_is_written_or_said_unless_somebody_asks(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    if value is not None:
        monkeypatch.setenv(ENVIRONMENT, value)
    await greet()
    async with met():
        pass
    assert list(tmp_path.iterdir()) == []
    assert warnings_of(caplog) == []


async def test_a_file_that_will_not_do_is_told_where_it_is_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, "").chmod(0o644)
    at_ada, at_bob = await memory_pair()
    for options in ({"key_log": path}, {}):
        with pytest.raises(BadFile):
            Peer(ADA, **options)
        with pytest.raises(BadFile):
            await initiate(at_ada, ADA, **options)
        with pytest.raises(BadFile):
            await respond(at_bob, BOB, **options)
        monkeypatch.setenv(ENVIRONMENT, str(path))
    assert path.read_bytes() == b""


# --- what is said of it ---------------------------------------------------------------------------------


async def test_the_first_key_is_told_in_a_warning_and_no_other(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = KeyLog(path)
    assert warnings_of(caplog) == []
    for _ in range(2):
        await greet(key_log=log)
    assert len(warnings_of(caplog)) == 1
    assert f"the keys of every connection are written to {path}" in caplog.text


async def test_a_process_is_warned_once_of_its_environment(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(path))
    await greet()
    async with met():
        pass
    assert len(warnings_of(caplog)) == 1


async def test_a_file_that_others_may_read_meanwhile_gets_no_more_keys_and_ends_no_connection(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = KeyLog(path)
    path.chmod(0o644)
    for _ in range(2):
        await greet(key_log=log)
    assert path.read_bytes() == b""
    _, told = warnings_of(caplog)
    assert "no more keys are written" in told
    assert f"chmod 600 {path}" in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to be a full disk")
async def test_a_full_disk_ends_no_connection_and_shows_no_key(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = KeyLog(path)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        write = os.write

        def on_a_full_disk(descriptor: int, data: bytes) -> int:
            return write(full if os.path.samestat(os.fstat(descriptor), path.stat()) else descriptor, data)

        monkeypatch.setattr(os, "write", on_a_full_disk)
        await greet(key_log=log)
    finally:
        os.close(full)
    _, told = warnings_of(caplog)
    assert "it cannot be written: No space left on device" in told
    assert path.read_bytes() == b""


def test_neither_the_log_nor_its_errors_show_a_line(path: Path) -> None:
    log = KeyLog(path)
    log.write("a secret")
    path.chmod(0o644)
    with pytest.raises(BadFile) as caught:
        KeyLog(path)
    assert "a secret" not in everything_of(caught.value)
    assert repr(log) == f"<KeyLog {path}>"
    assert "a secret" not in repr(vars(log))
