"""The command line as its users have it: real processes, with files of their own, at a terminal or with pipes.

User        somebody with a home of his own, who runs `trishake`
Running     a command of his that goes on, over pipes
Terminal    a command of his at a pseudo-terminal of 80 columns and 24 lines
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

import trishake
import trishake_protocol
from trishake import Identity

PATIENCE: Final = 20
"""Seconds for a process to start and to do what is waited for; usually it takes half of one."""

COLUMNS: Final = 80
_PACKAGES: Final = os.pathsep.join(
    str(Path(module.__file__ or "").parents[1]) for module in (trishake, trishake_protocol)
)
_TO_BE_COPIED: Final = re.compile(
    r"\S*|(Passphrase of|ssh-ed25519|trishake|chmod|peer id|did|libp2p) .*|\S+ [a-z2-7]{56}"
)


def too_wide(shown: str) -> list[str]:
    """The lines that do not fit into 80 columns, but for what is one word, a key or a command, to be copied."""
    lines = (re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines())
    return [line for line in lines if len(line) > COLUMNS and not _TO_BE_COPIED.fullmatch(line.strip())]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def facts(self) -> list[dict[str, Any]]:
        """What it said with --json: each line of stdout is one object."""
        lines = [json.loads(line) for line in self.out.splitlines()]
        assert all(isinstance(line, dict) for line in lines)
        return lines


def in_words(text: str) -> str:
    """Without the breaks of its lines."""
    return " ".join(text.split())


class User:
    """Somebody who runs `trishake`, with an identity made before."""

    def __init__(self, home: Path, *, identity: Identity | None = None, **environment: str) -> None:
        self.home = home
        self.directory = home.parent
        self.identity = identity or Identity.generate()
        self.environment = {
            "HOME": str(home / "nobody"),
            "LANG": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": _PACKAGES,
            "TERM": "xterm",
            "TRISHAKE_HOME": str(home),
            **environment,
        }
        home.mkdir(mode=0o700, exist_ok=True)
        self.key = home / "identity"
        if not self.key.exists():
            self.identity.save(self.key)

    def without(self, *names: str) -> User:
        """The same without some variables of the environment."""
        other = User(self.home, identity=self.identity)
        other.environment = {name: value for name, value in self.environment.items() if name not in names}
        return other

    async def run(self, *arguments: object, given: bytes = b"", **options: Any) -> Done:
        """A command to its end, over pipes. given: on stdin."""
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                _command(*arguments),
                stdin=given,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self.environment,
                cwd=self.directory,
                **options,
            )
        return _checked(done.returncode, done.stdout, done.stderr)

    @asynccontextmanager
    async def running(self, *arguments: object) -> AsyncIterator[Running]:
        """A command that goes on, in a process group of its own; it is killed at the end."""
        process = await trio.lowlevel.open_process(
            _command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.directory,
            start_new_session=True,
        )
        async with trio.open_nursery() as nursery:
            command = Running(process)
            nursery.start_soon(command.read_errors)
            try:
                yield command
            finally:
                _kill_group(process)
                with trio.CancelScope(shield=True):
                    await process.wait()
                nursery.cancel_scope.cancel()
                assert process.stdout is not None
                assert process.stderr is not None
                with trio.CancelScope(shield=True):
                    await process.stdout.aclose()
                    await process.stderr.aclose()

    @asynccontextmanager
    async def at_terminal(self, *arguments: object) -> AsyncIterator[Terminal]:
        """A command at a terminal, which is killed at the end."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        try:
            process = await trio.lowlevel.open_process(
                _command(*arguments),
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=self.environment,
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=_control_terminal,
            )
        finally:
            os.close(theirs)
        async with trio.lowlevel.FdStream(ours) as stream:
            try:
                yield Terminal(process, stream)
            finally:
                _kill_group(process)
                with trio.CancelScope(shield=True):
                    await process.wait()


def _control_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "trishake", *map(str, arguments)]


def _kill_group(process: trio.Process) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _checked(code: int, out: bytes, err: bytes) -> Done:
    done = Done(code, out.decode(), err.decode())
    assert "Traceback" not in done.err, done.err
    assert "\x1b" not in done.err
    return done


class Running:
    """A command that goes on, and what it says on stdout, line by line."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.err = ""
        self._unread = b""

    async def read_errors(self) -> None:
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            self.err += chunk.decode()

    async def line(self) -> str:
        """The next one."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._unread:
                chunk = await self.process.stdout.receive_some()
                assert chunk, f"it has ended: {self.err}"
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    async def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(await self.line())
        return facts

    async def line_with(self, text: str) -> str:
        """The next one that has this in it."""
        while text not in (line := await self.line()):
            pass
        return line

    async def ended(self) -> int:
        with trio.fail_after(PATIENCE):
            code = await self.process.wait()
        assert "Traceback" not in self.err, self.err
        return code


class Terminal:
    """A command at a terminal. shown: all that was to be seen so far, and was not waited for yet."""

    def __init__(self, process: trio.Process, stream: trio.lowlevel.FdStream) -> None:
        self.process = process
        self.shown = ""
        self._unread = ""
        self._stream = stream

    async def waits_with(self, text: str) -> str:
        """Read until this is to be seen; what was to be seen up to it."""
        with trio.fail_after(PATIENCE):
            while text not in self._unread:
                assert await self._read(), f"it ended with {self.shown!r}"
        before, _, self._unread = self._unread.partition(text)
        return before

    async def type(self, text: str) -> None:
        await self._stream.send_all(text.encode())

    async def ended(self) -> int:
        with trio.fail_after(PATIENCE):
            while await self._read():
                pass
            code = await self.process.wait()
        assert "Traceback" not in self.shown, self.shown
        assert not too_wide(self.shown)
        return code

    async def _read(self) -> bool:
        try:
            chunk = (await self._stream.receive_some()).decode()
        except trio.BrokenResourceError:  # the terminal's other end is closed
            return False
        self.shown += chunk
        self._unread += chunk
        return bool(chunk)
