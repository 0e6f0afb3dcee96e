"""What every command has in common: its help, its width, its two outputs, and whatever its surroundings are."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from trishake import Identity
from trishake.cli import _demo
from trishake.cli._outcomes import ExitCode
from trishake.cli._output import Output, wrapped

from .command_line import COLUMNS, User, in_words

COMMANDS = [
    (),
    ("keygen",),
    ("id",),
    ("verify",),
    ("network",),
    ("network", "new"),
    ("network", "show"),
    ("network", "rotate"),
    ("listen",),
    ("dial",),
    ("ping",),
    ("doctor",),
    ("known",),
    ("known", "list"),
    ("known", "forget"),
    ("demo",),
]


@pytest.fixture
def ada(tmp_path: Path) -> User:
    return User(tmp_path / "ada")


async def _helped(ada: User, *command: str) -> str:
    async with ada.at_terminal(*command, "--help") as terminal:
        assert await terminal.ended() == 0
        wide = [line for line in terminal.shown.splitlines() if len(line) > COLUMNS]
        assert not wide
        return terminal.shown


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=() if each in ((), ("listen",)) else pytest.mark.slow) for each in COMMANDS],
    ids=" ".join,
)
async def test_the_help_fits_into_80_columns_and_names_what_there_is(ada: User, command: tuple[str, ...]) -> None:
    shown = await _helped(ada, *command)
    for other in COMMANDS:
        if other[:-1] == command and other:
            assert other[-1] in shown
    if command in ((), ("dial",)):
        codes = {int(line.split()[0]) for line in shown.splitlines() if line.split() and line.split()[0].isdigit()}
        assert codes == set(ExitCode)


@pytest.mark.parametrize("columns", [30, 60, 80])
def test_an_id_stays_whole_and_where_it_stood_however_narrow_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    id_ = str(Identity.generate().id)
    assert wrapped(" " * 24 + id_) == " " * 24 + id_
    assert wrapped(f"{' ' * 4}known as {id_}", indent=" " * 8).splitlines()[-1].endswith(id_)


async def test_without_a_command_the_usage_is_shown(ada: User) -> None:
    done = await ada.run()
    assert done.code == ExitCode.USAGE
    assert done.err.startswith("usage: trishake")
    assert not done.out


async def test_the_demo_draws_every_step_within_80_columns(ada: User) -> None:
    async with ada.at_terminal("demo") as terminal:
        assert await terminal.ended() == 0
        assert not [line for line in terminal.shown.splitlines() if len(line) > COLUMNS]
        for step in range(1, 8):
            assert f" {step} " in terminal.shown or f" {step}\r" in terminal.shown


async def test_the_demo_draws_no_message_after_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever sends notes it when the system has taken it, and the other side may have read it by then."""
    noted = [("ada", 4, 1), ("bob", 3, 2), ("ada", 5, 3), ("bob", 6, 4), ("ada", 7, 5), ("bob", 7, 6)]
    drawing = _demo._Drawing(Output(as_json=True))  # pyright: ignore[reportPrivateUsage]
    sender, receiver = trio.open_memory_channel[tuple[float, str, dict[str, Any]]](len(noted))
    began = time.monotonic()
    for name, step, milliseconds in noted:
        at = began + milliseconds / 1000
        sender.send_nowait((at, name, {"at": at, "what": "", "step": step}))
    sender.close()
    await _demo._draw_in_order(receiver, drawing)  # pyright: ignore[reportPrivateUsage]
    drawn = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["peer"], each["step"], round(each["milliseconds"])) for each in drawn] == [
        ("bob", 3, 0),
        ("ada", 4, 0),
        ("ada", 5, 2),
        ("bob", 6, 3),
        ("bob", 7, 4),
        ("ada", 7, 4),
    ]


async def test_what_the_environment_says_amiss_is_told_before_the_demo_begins(ada: User) -> None:
    ada.environment["TRISHAKE_LOG"] = str(ada.directory / "missing" / "log")
    done = await ada.run("demo")
    assert done.code == ExitCode.FAILED
    assert in_words(done.err).startswith(f"trishake: {ada.directory}/missing/log: the environment names this file")
    assert "Traceback" not in done.err
    assert not done.out


@pytest.mark.slow
async def test_the_demo_tells_machines_the_same(ada: User) -> None:
    done = await ada.run("demo", "--json")
    assert done.code == 0
    facts = done.facts()
    assert {each["peer"] for each in facts} == {"ada", "bob"}
    assert {each["step"] for each in facts if "step" in each} == set(range(1, 8))
    assert len({each["session"] for each in facts if each.get("session")}) == 1


@pytest.mark.slow
async def test_ctrl_c_ends_the_demo_and_both_of_its_processes(ada: User) -> None:
    async with ada.at_terminal("demo") as terminal:
        await terminal.waits_with("ada, pid ")
        await terminal.type("\x03")
        assert await terminal.ended() == ExitCode.INTERRUPTED


@pytest.mark.slow
async def test_nothing_secret_is_told_to_machines(ada: User) -> None:
    key = ada.directory / "new"
    told = [
        await ada.run("keygen", key, "--json"),
        await ada.run("id", "--json"),
        await ada.run("network", "new", "home", "--json"),
        await ada.run("network", "rotate", "add", "home.network", "--json"),
        await ada.run("network", "show", "home.network", "--json"),
    ]
    files = [key, ada.key, ada.directory / "home.network"]
    secrets = [line for file in files for line in file.read_text().splitlines() if line[0] not in "-#n"]
    assert len(secrets) > 5
    for done in told:
        assert done.code == 0
        assert not done.err
        assert not [secret for secret in secrets if secret.removeprefix("key ") in json.dumps(done.facts())]


async def test_who_reads_only_the_first_line_sees_no_error(ada: User) -> None:
    """`trishake id --qr | head -1`, in a terminal that knows no such characters besides."""
    reading = f'"{sys.executable}" -m trishake id --qr | head -n 1'
    done = await trio.run_process(
        ["/bin/sh", "-c", reading],
        env={**ada.environment, "PYTHONIOENCODING": "ascii"},
        capture_stdout=True,
        capture_stderr=True,
    )
    assert done.stdout.decode().split()[-1] == str(ada.identity.id)
    assert done.stderr == b""


@pytest.mark.slow
async def test_stdout_that_is_closed_from_the_start_is_no_traceback(ada: User) -> None:
    reading = f'"{sys.executable}" -m trishake id >&-'
    done = await trio.run_process(
        ["/bin/sh", "-c", reading], env=ada.environment, capture_stderr=True, check=False
    )
    assert done.stderr == b""


@pytest.mark.slow
async def test_what_cannot_be_drawn_in_a_terminal_without_unicode_is_escaped(ada: User) -> None:
    ada.environment["PYTHONIOENCODING"] = "ascii"
    done = await ada.run("id", "--qr")
    assert done.code == 0
    assert "\\u2588" in done.out
    assert (await ada.run("listen", "--help")).code == 0
