"""Run a room of three, as three people would, and check what each of them sees.

python examples/smoke.py          exits with 0 if all of them saw what they should
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

CHAT = [sys.executable, str(Path(__file__).with_name("chat.py"))]
TIME_LIMIT = 10
"""Seconds for what is waited for to be seen."""
FILE_SIZE = 3 * 1024 * 1024 + 1


class Missing(Exception):
    """Somebody did not see what it should."""


class Member:
    """A chat in a process of its own, with an open keyboard. seen: what it has shown, line by line."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.process = process
        self.seen: list[str] = []
        self.id = self.short = self.invite = ""
        self._saw = trio.lowlevel.ParkingLot()

    @classmethod
    async def start(cls, nursery: trio.Nursery, name: str, *arguments: str) -> Member:
        """Start it, and wait until it is in its room. It is killed with the nursery."""
        pipe = subprocess.PIPE
        run = partial(trio.run_process, [*CHAT, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, check=False)
        process: trio.Process = await nursery.start(run)
        member = cls(name, process)
        assert process.stdout is not None
        assert process.stderr is not None
        nursery.start_soon(member._read, process.stdout)
        nursery.start_soon(member._read, process.stderr)
        member.invite = (await member.sees("* invite: ")).removeprefix("* invite: ")
        member.id = member.invite.removeprefix("tcp://").partition("@")[0]
        member.short = f"{member.id[:10]}…"
        return member

    async def _read(self, output: trio.abc.ReceiveStream) -> None:
        rest = b""
        async for chunk in output:
            *whole, rest = (rest + chunk).split(b"\n")
            self.seen += [line.decode().rstrip("\r") for line in whole]
            self._saw.unpark_all()

    async def types(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode())

    async def sees(self, text: str) -> str:
        """Wait for a line with this in it, and return the line."""
        with trio.move_on_after(TIME_LIMIT):
            while True:
                for line in self.seen:
                    if text in line:
                        return line
                await self._saw.park()
        raise Missing(f"{self.name} did not see {text!r}, but:\n" + "\n".join(self.seen))

    async def leaves(self) -> int:
        """Close its keyboard, as Ctrl-D does; the exit code."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.fail_after(TIME_LIMIT):
            return await self.process.wait()


async def visit(directory: Path) -> None:
    """The whole visit. Raises Missing."""
    picture, downloads = directory / "picture.jpg", directory / "downloads"
    picture.write_bytes(os.urandom(FILE_SIZE))
    async with trio.open_nursery() as nursery:
        ada = await Member.start(nursery, "ada", "listen")
        bob = await Member.start(nursery, "bob", "dial", ada.invite, "--downloads", str(downloads))
        eve = await Member.start(nursery, "eve", "dial", bob.invite)  # bob names ada to her
        room = [ada, bob, eve]
        await bob.sees(f"{eve.id} is here")
        await ada.sees(f"{eve.id} is here")
        await ada.types(f"/send {bob.short} {picture}\n")
        for member in room:
            await member.types(f"hello from {member.name}\n")
        for member in room:
            for other in room:
                if other is not member:
                    await member.sees(f"{other.short} hello from {other.name}")
        await ada.sees("was sent to")
        await bob.sees("came from")
        if (downloads / picture.name).read_bytes() != picture.read_bytes():
            raise Missing("the file that arrived is not the file that was sent")
        for member in room:
            if code := await member.leaves():
                raise Missing(f"{member.name} left with exit code {code}:\n" + "\n".join(member.seen))
    for member in room:
        print(f"--- {member.name} saw", *member.seen, sep="\n")


def main() -> int:
    code = 0
    with tempfile.TemporaryDirectory() as directory:
        try:
            trio.run(visit, Path(directory))
        except* Missing as missing:
            print(*missing.exceptions, sep="\n", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
