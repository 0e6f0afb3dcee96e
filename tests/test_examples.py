"""The examples and the demo, run as a user runs them: in real processes."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trishake import Identity

ROOT = Path(__file__).parents[1]
CHAT = [sys.executable, str(ROOT / "examples" / "chat.py")]
TIME_LIMIT = 30


def run(*command: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, encoding="utf-8", timeout=TIME_LIMIT, check=False
    )


@contextmanager
def listening(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A chat listener with an open keyboard, and its invite."""
    command = [*CHAT, "listen", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8") as listener:
        try:
            assert listener.stdout is not None
            line = listener.stdout.readline()
            assert line.startswith("* invite: tcp://")
            yield listener, line.removeprefix("* invite: ").strip()
        finally:
            listener.kill()


def peer_id_in(invite: str) -> str:
    return invite.removeprefix("tcp://").partition("@")[0]


def test_two_people_chat_and_leave_cleanly() -> None:
    with listening() as (listener, invite):
        assert listener.stdin is not None
        assert listener.stdout is not None
        listener.stdin.write("hello from the listener\n")
        listener.stdin.close()
        dialer = run(*CHAT, "dial", invite, typed="hello\nwith \x1b[31mcolour\n")
        seen = listener.stdout.read()
        assert listener.wait(TIME_LIMIT) == 0
    you = re.search(r"\* you are (\w{56})", dialer.stdout)
    assert you is not None
    short = you[1][:10] + "…"
    assert dialer.returncode == 0, dialer.stderr
    assert f"{peer_id_in(invite)[:10]}… hello from the listener\n" in dialer.stdout
    assert f"{short} hello\n{short} with \\x1b[31mcolour\n* {short} has left\n" in seen
    assert "\x1b" not in seen


def test_a_wrong_identity_is_one_line_and_an_exit_code_of_its_own() -> None:
    with listening() as (_, invite):
        somebody_else = str(Identity.generate().id)
        dialer = run(*CHAT, "dial", invite.replace(peer_id_in(invite), somebody_else))
    assert dialer.returncode == 5
    assert dialer.stderr.count("\n") == 1
    assert f"expected {somebody_else}, and {peer_id_in(invite)} answered" in dialer.stderr


def test_a_rejection_is_one_line_and_an_exit_code_of_its_own() -> None:
    with listening("--only", str(Identity.generate().id)) as (_, invite):
        dialer = run(*CHAT, "dial", invite)
    assert dialer.returncode == 4
    assert dialer.stderr.count("\n") == 1
    assert "IDENTITY_UNKNOWN" in dialer.stderr


def test_no_response_is_one_line_and_an_exit_code_of_its_own() -> None:
    dialer = run(*CHAT, "dial", "tcp://127.0.0.1:1")
    assert dialer.returncode == 3
    assert dialer.stderr.count("\n") == 1
    assert dialer.stderr.startswith("* no response [127.0.0.1:1]: the port is closed")


@pytest.mark.parametrize(
    "arguments",
    [
        ("dial", "tcp://127.0.0.1"),
        ("dial", "http://127.0.0.1:80"),
        ("dial", "tcp://abc@127.0.0.1:80"),
        ("listen", "--only", "nobody"),
        ("listen", "tcp://127.0.0.1:99999"),
    ],
)
def test_what_is_no_address_or_id_is_one_line_and_bad_usage(arguments: tuple[str, ...]) -> None:
    chat = run(*CHAT, *arguments)
    assert chat.returncode == 2
    assert chat.stderr.count("\n") == 1
    assert "Traceback" not in chat.stderr


def test_the_listener_tells_when_it_was_cut_off() -> None:
    with listening() as (listener, invite):
        with subprocess.Popen([*CHAT, "dial", invite], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as dialer:
            assert dialer.stdout is not None
            while b"is here" not in dialer.stdout.readline():
                pass
            dialer.kill()
        _, errors = listener.communicate(timeout=TIME_LIMIT)
    assert listener.returncode == 7
    assert errors.count("\n") == 1
    assert "was cut" in errors or "broke" in errors


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
