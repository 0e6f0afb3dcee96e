"""`trishake dial --explain` and `--svg`, `trishake demo --svg`: in real processes, however the dial ends."""

from __future__ import annotations

import os
import re
import stat
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from trishake import Step, Timeline, only
from trishake._steps import STEPS
from trishake.cli._outcomes import ExitCode

from .command_line import User, in_words, too_wide
from .conftest import ADA, EVE, serving
from .test_cli_dialing import closed_port, listening, saying


@pytest.fixture
def ada(tmp_path: Path) -> User:
    return User(tmp_path / "ada", identity=ADA)


@asynccontextmanager
async def nobody_there() -> AsyncIterator[str]:
    with closed_port() as address:
        yield address


ENDS: dict[str, tuple[Callable[[], AbstractAsyncContextManager[str]], ExitCode, str, str]] = {
    "accepted": (listening, ExitCode.OK, "accepted, after", ""),
    "rejected": (
        lambda: listening(trust=only(str(EVE.id))),
        ExitCode.REJECTED,
        "✗ IDENTITY_UNKNOWN",
        f"Ask who runs it to add our peer id, {ADA.id}",
    ),
    "refused": (nobody_there, ExitCode.NO_RESPONSE, "✗ not connected", "the port is closed"),
    "closed": (lambda: saying(b""), ExitCode.NO_RESPONSE, "✗ no SYN-ACK", "before the first byte of its SYN-ACK"),
}
"""How a dial may end: who is there, the exit code, what the picture shows, and what the explanation says."""


@pytest.mark.parametrize("end", ENDS)
async def test_explain_shows_the_steps_a_picture_and_what_went_wrong(ada: User, end: str) -> None:
    there, code, drawn, explained = ENDS[end]
    async with there() as invite:
        done = await ada.run("dial", "--explain", invite)
    assert done.code == code
    assert "\x1b" not in done.out
    assert not too_wide(done.out)
    assert re.search(r"^step +ms +sent +received$", done.out, re.MULTILINE)
    assert drawn in done.out
    assert "│" in done.out
    assert in_words(explained) in in_words(done.out)
    assert not done.err


@pytest.mark.parametrize("end", ENDS)
async def test_for_machines_there_is_one_object_with_the_timeline(ada: User, end: str) -> None:
    there, code, _, explained = ENDS[end]
    async with there() as invite:
        done = await ada.run("dial", "--explain", "--json", invite)
    (facts,) = done.facts()
    assert done.code == code
    assert not done.err
    assert facts.get("exit_code", 0) == code
    assert in_words(explained) in facts.get("explanation", "")
    timeline = Timeline.from_dict(facts["timeline"])
    assert timeline.outcome == facts["outcome"]
    assert timeline.entries[0].step is Step.RESOLVED
    assert timeline.picture()


@pytest.mark.parametrize("end", ENDS)
async def test_the_picture_is_written_however_the_dial_ends(ada: User, end: str) -> None:
    there, code, drawn, _ = ENDS[end]
    path = ada.directory / "greeting.svg"
    async with there() as invite:
        done = await ada.run("dial", "--svg", path, invite)
    assert done.code == code
    assert drawn.removeprefix("✗ ") in "".join(ET.parse(path).getroot().itertext())
    assert bool(done.err) == (code is not ExitCode.OK)
    assert [each.name for each in path.parent.iterdir() if "svg" in each.name] == [path.name]


@pytest.mark.parametrize(("columns", "beside"), [(50, False), (64, False), (80, False), (120, True)])
async def test_the_picture_is_as_wide_as_the_terminal_and_left_out_of_a_narrow_one(
    ada: User, columns: int, beside: bool
) -> None:
    ada.environment["COLUMNS"] = str(columns)
    with closed_port() as address:
        done = await ada.run("dial", "--explain", address)
    assert max(map(len, done.out.splitlines())) <= columns
    assert ("│" in done.out) == (columns >= 64)
    assert ("TCP, for comparison" in done.out) == beside


async def test_a_stranger_whom_nobody_vouches_for_is_explained_too(ada: User) -> None:
    async with listening() as invite:
        done = await ada.run("dial", "--explain", f"tcp://{invite.partition('@')[2]}")
    assert done.code == ExitCode.UNTRUSTED
    assert "✗ policy" in done.out
    assert "Nobody can be asked here" in in_words(done.out)


@pytest.mark.parametrize("path", ["nowhere/greeting.svg", "ada", "greeting.svg/deeper"])
async def test_a_path_that_cannot_be_written_is_told_before_anybody_is_dialed(ada: User, path: str) -> None:
    (ada.directory / "greeting.svg").write_text("there already")
    dialed = False

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal dialed
        dialed = True

    async with serving(serve) as port:
        done = await ada.run("dial", "--svg", path, "--trust", "anyone", f"tcp://127.0.0.1:{port}")
    assert done.code == ExitCode.FAILED
    assert "it cannot be written" in in_words(done.err)
    assert not dialed
    assert (ada.directory / "greeting.svg").read_text() == "there already"


async def test_a_picture_that_is_there_is_replaced_with_its_rights(ada: User) -> None:
    path, link = ada.directory / "real.svg", ada.directory / "link.svg"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    with closed_port() as address:
        await ada.run("dial", "--svg", link, address)
    assert link.is_symlink()
    assert ET.parse(path).getroot().get("role") == "img"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_what_is_no_file_is_written_to_and_stays(ada: User) -> None:
    """A pipe of our own, and no device: as root, a fault that replaces it would cost the whole system one."""
    pipe = ada.directory / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with closed_port() as address:
            done = await ada.run("dial", "--svg", pipe, address)
        written = os.read(reader, 2**16)
    finally:
        os.close(reader)
    assert done.code == ExitCode.NO_RESPONSE
    assert ET.fromstring(written).get("role") == "img"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


async def test_who_waits_at_a_pipe_for_the_picture_gets_it_whole(ada: User) -> None:
    """As `cat` does: it opens the pipe once, and is gone at the first end."""
    pipe = ada.directory / "pipe"
    os.mkfifo(pipe)
    with closed_port() as address:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.run, "dial", "--svg", pipe, address)
            read = await trio.run_process(["cat", pipe], capture_stdout=True)
    assert ET.fromstring(read.stdout).get("role") == "img"


async def test_a_pipe_that_nobody_reads_holds_nobody_up(ada: User) -> None:
    pipe = ada.directory / "pipe"
    os.mkfifo(pipe)
    with closed_port() as address:
        done = await ada.run("dial", "--svg", pipe, address)
    assert done.code == ExitCode.NO_RESPONSE
    assert "it cannot be written" in in_words(done.err)


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
async def test_only_a_terminal_gets_colours_and_only_if_it_wants_them(
    ada: User, environment: dict[str, str], coloured: bool
) -> None:
    ada.environment |= environment
    async with (
        listening(trust=only(str(EVE.id))) as invite,
        ada.at_terminal("dial", "--explain", invite) as terminal,
    ):
        assert await terminal.ended() == ExitCode.REJECTED
    used = set(re.findall(r"\x1b\[([0-9;]*)m", terminal.shown))
    assert used == ({"0", "1", "2", "1;31"} if coloured else set())


async def test_the_demo_draws_both_sides_with_their_times(ada: User) -> None:
    path = ada.directory / "demo.svg"
    done = await ada.run("demo", "--json", "--svg", path)
    assert done.code == ExitCode.OK
    assert all(fact.get("what") != "timeline" for fact in done.facts())
    texts = [
        text for element in ET.parse(path).getroot() if element.tag.endswith("text") for text in element.itertext()
    ]
    for role, steps in STEPS.items():
        assert all(step.label in texts for step in steps), role
    times = [text for text in texts if re.fullmatch(r"\d+\.\d", text)]
    assert len(times) == sum(map(len, STEPS.values()))


async def test_a_terminal_that_knows_only_ascii_gets_the_same_picture_in_it(ada: User) -> None:
    shown: list[list[str]] = []
    async with listening(trust=only(str(EVE.id))) as invite:
        stranger = invite.replace(invite.partition("@")[0], f"tcp://{EVE.id}")
        for encoding in ("utf-8", "ascii"):
            ada.environment["PYTHONIOENCODING"] = encoding
            done = await ada.run("dial", "--explain", stranger)
            assert done.code == ExitCode.WRONG_IDENTITY
            shown.append([line for line in done.out.splitlines() if len(re.findall(r"[│╷|]", line)) == 2])
    drawn, in_ascii = shown
    assert len(drawn) == len(in_ascii) > 5
    assert [len(line) for line in drawn] == [len(line) for line in in_ascii]
    assert "|---- SYN, " in "".join(in_ascii)
    assert "|... ALERT ABORTED ...>|" in "".join(in_ascii)
    assert not [line for line in in_ascii if "\\" in line or not line.isascii()]


async def test_what_does_not_fit_into_the_table_ends_with_an_ellipsis(ada: User) -> None:
    ada.environment["COLUMNS"] = "60"
    with closed_port() as address:
        done = await ada.run("dial", "--explain", address)
    (failed,) = [line for line in done.out.splitlines() if "✗" in line]
    assert len(failed) == 60
    assert failed.endswith("…")
