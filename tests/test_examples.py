"""The examples and the demo, run as a user runs them: in real processes."""

import hashlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from filetransfer import TransferError, receive_line
from smoke import CHAT, Member
from terminal import Progress, Terminal
from trishake import CloseCode, Identity, Peer, Stream, StreamReset

ROOT = Path(__file__).parents[1]
TIME_LIMIT = 30


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=TIME_LIMIT, check=False
    )


@pytest.fixture
async def ada(nursery: trio.Nursery, tmp_path: Path) -> Member:
    """A member who waits for the first to come, and stores files under `tmp_path / "ada"`."""
    return await Member.start(nursery, "ada", "listen", "--downloads", str(tmp_path / "ada"))


@asynccontextmanager
async def in_the_room(member: Member) -> AsyncGenerator[tuple[Peer, Stream]]:
    """A peer that is no chat program, but has introduced itself to this member as one."""
    async with (
        Peer(Identity.generate()) as peer,
        await (await peer.dial(member.invite)).open_stream("room/1") as stream,
    ):
        await stream.send_all(b"\n")
        assert member.id.encode() in await stream.receive_some()
        yield peer, stream


async def run_chat(*arguments: str) -> tuple[int | None, str]:
    """Run it with nothing typed; the exit code, and what it said on stderr."""
    with trio.fail_after(TIME_LIMIT):
        ended = await trio.run_process([*CHAT, *arguments], capture_stdout=True, capture_stderr=True, check=False)
    return ended.returncode, ended.stderr.decode()


# --- the room -----------------------------------------------------------------------------------------------


async def test_who_joins_meets_everybody_even_if_two_join_at_once(nursery: trio.Nursery, ada: Member) -> None:
    others: list[Member] = []

    async def join(name: str, *arguments: str) -> None:
        others.append(await Member.start(nursery, name, "dial", ada.invite, *arguments))

    async with trio.open_nursery() as joining:
        joining.start_soon(join, "bob")
        joining.start_soon(join, "eve")
    room = [ada, *others]
    for member, other in itertools.permutations(room, 2):
        await member.sees(f"{other.id} is here")
    await ada.types("hello\n/who\n/nonsense\n")
    for member in others:
        await member.sees(f"{ada.short} hello")
        await ada.sees(f"* {member.id} 127.0.0.1:")
    await ada.sees("/send PEER PATH")
    bob, eve = others
    bob.process.kill()
    for member in (ada, eve):
        await member.sees(f"{bob.short} has left: ")
    await eve.types("we go on\n/quit\n")
    await ada.sees(f"{eve.short} we go on")
    await ada.sees(f"{eve.short} has left")
    assert await eve.process.wait() == 0
    assert await ada.leaves() == 0
    assert not any("Traceback" in line for member in room for line in member.seen)


async def test_a_line_names_its_verified_sender_whatever_it_says(ada: Member) -> None:
    async with in_the_room(ada) as (peer, stream):
        await stream.send_all(f"{ada.short} it was me\n* \x1b[31mred\n".encode())
        await ada.sees("red")
    assert f"{peer.id.short} {ada.short} it was me" in ada.seen
    assert f"{peer.id.short} * \\x1b[31mred" in ada.seen


async def test_who_keeps_its_identity_in_a_file_is_the_same_next_time(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    path = tmp_path / "mine" / "identity"
    ids: list[str] = []
    for _ in range(2):
        member = await Member.start(nursery, "ada", "listen", "--identity", str(path))
        ids.append(member.id)
        member.process.kill()
    assert ids == [str(Identity.load(path).id)] * 2
    path.chmod(0o644)
    refused = run(sys.executable, str(ROOT / "examples" / "chat.py"), "listen", "--identity", str(path))
    assert refused.returncode == 2
    assert refused.stderr == f"* {path}: others may use it: its mode is 0644. Run: chmod 600 {path}\n"


async def test_invites_that_lead_nowhere_do_not_keep_us_from_the_room(nursery: trio.Nursery) -> None:
    nowhere = f"tcp://{Identity.generate().id}@127.0.0.1:1"

    async def introduce(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(f"\x00 tcp:// tcp://127.0.0.1:1 {nowhere}\nwelcome\n".encode())

    async with Peer(Identity.generate()) as host:
        host.handle("room/1", introduce)
        member = await Member.start(nursery, "bob", "dial", (await host.listen("tcp://127.0.0.1:0")).invite)
        await member.sees(f"{host.id.short} welcome")
        await member.sees(f"{host.id.short} has left")
    assert sum("is not met" in line for line in member.seen) == 1


# --- files --------------------------------------------------------------------------------------------------


async def offer(peer: Peer, first_line: str, content: bytes = b"", digest: str | None = None) -> list[str]:
    """Send a file by hand over `file/1`; what the receiver answers."""
    (connection,) = peer.connections
    with trio.fail_after(5):
        async with await connection.open_stream("file/1") as stream:
            await stream.send_all(f"{first_line}\n".encode())
            answers = [await receive_line(stream)]
            if answers == ["go"]:
                digest = digest or hashlib.sha256(content).hexdigest()
                await stream.send_all(content + digest.encode() + b"\n")
                with suppress(TransferError):
                    answers.append(await receive_line(stream))
    return answers


async def test_a_hostile_offer_touches_nothing_but_new_files_among_the_downloads(
    ada: Member, tmp_path: Path
) -> None:
    async with in_the_room(ada) as (peer, _):
        for name in ("../../etc/x", "..\\x", "/x", ".x", "\x1b[31mx", "..", "x.tar"):
            assert await offer(peer, f"5 {name}", b"hello") == ["go", "kept"]
        assert await offer(peer, "0 empty") == ["go", "kept"]
        assert await offer(peer, "5 wrong", b"hello", "0" * 64) == ["go"]
        (answer,) = await offer(peer, f"{2**30 + 1} big")
        assert "too large, the limit is 1073741824" in answer
        for no_offer in ("-1 x", "1e3 x", "x", "", "9" * 500 + " x"):
            with pytest.raises(TransferError):
                await offer(peer, no_offer)
        with pytest.raises((TransferError, StreamReset)):
            await offer(peer, "5 " + "x" * 2000)
        await ada.sees("digests differ")
    stored = {path.name for path in (tmp_path / "ada").iterdir()}
    assert stored == {"x", "x (2)", "x (3)", "x (4)", "_[31mx", "file", "x.tar", "empty"}
    assert [path.name for path in tmp_path.iterdir()] == ["ada"]


async def test_half_a_file_leaves_nothing_behind(ada: Member, tmp_path: Path) -> None:
    async with in_the_room(ada) as (peer, _):
        (connection,) = peer.connections
        stream = await connection.open_stream("file/1")
        await stream.send_all(b"1000 half\n")
        assert await receive_line(stream) == "go"
        await stream.send_all(bytes(500))
        await ada.sees(f"from {peer.id.short}: half")
        await stream.aclose()
        await ada.sees("it ended after 500 of 1000 bytes")
    assert list((tmp_path / "ada").iterdir()) == []


async def test_a_stranger_to_the_room_sends_no_file(ada: Member, tmp_path: Path) -> None:
    async with Peer(Identity.generate()) as stranger:
        await stranger.dial(ada.invite)
        # The room closes the stream without a word: what still comes on it is thrown away, and so told.
        with pytest.raises((TransferError, StreamReset)):
            await offer(stranger, "5 x", b"hello")
    assert not (tmp_path / "ada").exists()


async def test_who_takes_no_files_says_so_and_the_chat_goes_on(
    nursery: trio.Nursery, ada: Member, tmp_path: Path
) -> None:
    bob = await Member.start(nursery, "bob", "dial", ada.invite, "--no-files")
    await ada.sees("is here")
    (tmp_path / "file").write_bytes(b"hello")
    for command, answer in {
        f"/send {bob.short} {tmp_path / 'file'}": "no files are taken here",
        f"/send {bob.id} {tmp_path / 'missing'}": "No such file",
        f"/send nobody {tmp_path / 'file'}": "no peer ids begin with 'nobody'",
        "are you there?": "",
    }.items():
        await ada.types(command + "\n")
        await ada.sees(answer)
    await bob.sees(f"{ada.short} are you there?")


def test_a_bar_is_redrawn_on_its_line_and_what_is_said_goes_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.live = True
    with Progress(terminal, "to somebody: file", 2 * 1024**2) as progress:
        progress(0)
        terminal.line("hello")
        progress(2 * 1024**2)
    out, err = capsys.readouterr()
    assert out == "hello\n"
    drawn = [line.rstrip() for line in err.split("\r")]
    assert drawn[1] == "to somebody: file [............] 0% 0 B, 0 B/s"
    assert "to somebody: file [############] 100% 2 MiB, " in err
    assert "\n" not in err
    assert drawn[-1] == ""  # it is wiped out at the end


# --- how it ends ------------------------------------------------------------------------------------------


async def test_a_wrong_identity_is_one_line_and_an_exit_code_of_its_own(ada: Member) -> None:
    somebody_else = str(Identity.generate().id)
    code, errors = await run_chat("dial", ada.invite.replace(ada.id, somebody_else))
    assert code == 5
    assert errors.count("\n") == 1
    assert f"expected {somebody_else}, and {ada.id} answered" in errors


async def test_a_rejection_is_one_line_and_an_exit_code_of_its_own(nursery: trio.Nursery) -> None:
    choosy = await Member.start(nursery, "choosy", "listen", "--only", str(Identity.generate().id))
    code, errors = await run_chat("dial", choosy.invite)
    assert code == 4
    assert errors.count("\n") == 1
    assert "IDENTITY_UNKNOWN" in errors


async def test_no_response_is_one_line_and_an_exit_code_of_its_own() -> None:
    code, errors = await run_chat("dial", "tcp://127.0.0.1:1", "tcp://127.0.0.1:1")
    assert code == 3
    assert errors.count("\n") == 1
    assert errors.startswith("* no response [127.0.0.1:1]: the port is closed")


async def test_to_be_cut_off_before_we_are_in_the_room_is_one_line_and_an_exit_code_of_its_own() -> None:
    async def cut(stream: Stream) -> None:
        await stream.connection.aclose(CloseCode.GOING_AWAY, finish=0)

    async with Peer(Identity.generate()) as host:
        host.handle("room/1", cut)
        code, errors = await run_chat("dial", (await host.listen("tcp://127.0.0.1:0")).invite)
    assert code == 7
    assert errors.count("\n") == 1
    assert "closed the connection with GOING_AWAY" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process")
async def test_an_interrupt_ends_it_without_a_traceback(ada: Member) -> None:
    async with in_the_room(ada):
        ada.process.send_signal(signal.SIGINT)
        with trio.fail_after(TIME_LIMIT):
            assert await ada.process.wait() == 130
    assert not any("Traceback" in line for line in ada.seen)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("dial", "tcp://127.0.0.1"), marks=pytest.mark.slow),
        pytest.param(("dial", "http://127.0.0.1:80"), marks=pytest.mark.slow),
        ("dial", "tcp://abc@127.0.0.1:80"),
        pytest.param(("listen", "--only", "nobody"), marks=pytest.mark.slow),
        ("listen", "tcp://127.0.0.1:99999"),
    ],
)
async def test_what_is_no_address_or_id_is_one_line_and_bad_usage(arguments: tuple[str, ...]) -> None:
    code, errors = await run_chat(*arguments)
    assert code == 2
    assert errors.count("\n") == 1
    assert "Traceback" not in errors


# --- the workers --------------------------------------------------------------------------------------------


class Workers:
    """The example in a process of its own. pids: its workers'."""

    def __init__(self, process: trio.Process, pids: set[int], invite: str) -> None:
        self.process = process
        self.pids = pids
        self.invite = invite

    @classmethod
    async def start(cls, nursery: trio.Nursery, count: int) -> "Workers":
        command = [sys.executable, str(ROOT / "examples" / "workers.py"), "--workers", str(count)]
        pipe = subprocess.PIPE
        run = partial(trio.run_process, command, stdout=pipe, stderr=pipe, check=False)
        process: trio.Process = await nursery.start(run)
        assert process.stdout is not None
        seen = b""
        with trio.fail_after(TIME_LIMIT):
            while not (invite := re.search(rb"^\* invite: (.+)\n", seen, re.MULTILINE)):
                seen += await process.stdout.receive_some() or pytest.fail(seen.decode())
        pids = {int(pid) for pid in re.findall(rb"worker (\d+) listens", seen)}
        assert len(pids) == count
        return cls(process, pids, invite[1].decode())

    async def end(self) -> tuple[int, str]:
        """Wait for it; its exit code, and what it said on stderr."""
        assert self.process.stderr is not None
        said = b""
        with trio.fail_after(TIME_LIMIT):
            async for chunk in self.process.stderr:
                said += chunk
            return await self.process.wait(), said.decode()

    def all_gone(self) -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in self.pids)


async def test_each_of_two_workers_answers_at_the_one_invite_until_both_are_told_to_leave(
    nursery: trio.Nursery,
) -> None:
    workers = await Workers.start(nursery, 2)
    answered: set[int] = set()
    async with Peer(Identity.generate()) as peer:
        dials = 0
        while answered != workers.pids:
            assert dials < 30  # each has a chance of one in two, each time
            dials += 1
            async with await peer.dial(workers.invite) as connection:
                pid, echo = await connection.request("echo/1", "hello")
            assert pid in workers.pids
            assert echo == "hello"
            answered.add(pid)
    workers.process.send_signal(signal.SIGTERM)
    assert await workers.end() == (0, "")
    assert workers.all_gone()


async def test_when_a_worker_dies_the_others_are_ended_and_it_is_said(nursery: trio.Nursery) -> None:
    workers = await Workers.start(nursery, 2)
    dead = min(workers.pids)
    os.kill(dead, signal.SIGKILL)
    code, said = await workers.end()
    assert code == 1
    assert said.startswith(f"* worker {dead} has died, with exit code -9")
    assert "Traceback" not in said
    assert workers.all_gone()


async def test_ctrl_c_ends_the_workers_without_a_traceback_and_the_seed_is_on_no_command_line(
    nursery: trio.Nursery,
) -> None:
    workers = await Workers.start(nursery, 1)
    (pid,) = workers.pids
    command, environment = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    assert not re.search(rb"[0-9a-f]{64}", command)
    assert command.endswith(b"workers.py\0--work\0")
    assert environment == Path(f"/proc/{workers.process.pid}/environ").read_bytes()
    workers.process.send_signal(signal.SIGINT)
    assert await workers.end() == (0, "")
    assert workers.all_gone()


# --- the scripts -----------------------------------------------------------------------------------------------


def test_the_smoke_run_of_the_chat_passes() -> None:
    smoke = run(sys.executable, str(ROOT / "examples" / "smoke.py"))
    assert smoke.returncode == 0, smoke.stdout + smoke.stderr


def test_the_demo_shows_seven_steps_between_two_processes() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    demo = subprocess.run(
        [sys.executable, "-m", "trishake", "demo"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIME_LIMIT,
        env=environment,
        check=False,
    )
    assert demo.returncode == 0, demo.stderr
    assert all(len(line) <= 80 for line in demo.stdout.splitlines())
    pids = re.findall(r"pid (\d+) +(\w{56})", demo.stdout)
    assert len({pid for pid, _ in pids}) == len({peer for _, peer in pids}) == 2
    body = demo.stdout.partition("bob, responder\n")[2]
    times = [float(line.split()[0]) for line in body.splitlines() if re.match(r" +\d+\.\d ", line)]
    assert times == sorted(times)
    untimed = re.sub(r"(?m)^ *\d+\.\d", "", body)
    steps = [int(number) for number in re.findall(r"(?m)(?<!\d)([1-7])(?= |$)", untimed)]
    assert [step for step in steps if step != 7] == [1, 2, 3, 4, 5, 6]
    assert steps.count(7) == 2
    assert "he reads: hello bob" in body
    assert "she reads: hello ada" in body
    assert body.count("closed, by both sides") == 2


def test_the_command_line_explains_itself() -> None:
    trishake = [sys.executable, "-m", "trishake"]
    assert "demo" in run(*trishake, "--help").stdout
    assert run(*trishake).returncode == 2


def test_the_example_in_the_readme_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    result = run(sys.executable, "-c", example[1])
    assert result.returncode == 0, result.stderr
    assert "True b'hello'" in result.stdout
    assert "IDENTITY_UNKNOWN" in result.stdout
