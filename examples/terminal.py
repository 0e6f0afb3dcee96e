"""What is typed, and what is shown: lines on stdout and, below them on stderr, how far each file is."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Self

import trio

WIDTH = 12
"""Characters of a bar."""
REDRAW = 0.1
"""Seconds between two looks at a bar: nobody reads faster."""
LONGEST_LABEL = 34
LONGEST_LINE = 64 * 1024
"""Bytes; a longer line comes in parts, so that nobody can fill our memory with one."""


async def lines(read: AsyncIterable[bytes | bytearray]) -> AsyncIterator[str]:
    """The lines of a byte stream, as text."""
    rest = b""
    async for chunk in read:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


async def keyboard() -> AsyncIterator[bytes]:
    """What is typed, as it comes. The thread that reads may be left behind at the end."""
    while chunk := await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 4096, abandon_on_cancel=True):
        yield chunk


class Terminal:
    """Lines that stay, and one below them that changes; off a terminal, each quarter of a file is a line."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.bars: dict[Progress, str] = {}

    def line(self, text: str) -> None:
        """Show a line. Text of others is to be escaped before."""
        self._clear()
        print(text, flush=True)
        self.draw()

    def draw(self) -> None:
        if self.live and self.bars:
            room = shutil.get_terminal_size().columns - 1
            text = " | ".join(self.bars.values())[:room]
            sys.stderr.write(f"\r{text.ljust(room)}\r{text}")
            sys.stderr.flush()

    def _clear(self) -> None:
        if self.live and self.bars:
            sys.stderr.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            sys.stderr.flush()

    def remove(self, progress: Progress) -> None:
        self._clear()
        self.bars.pop(progress, None)
        self.draw()


class Progress:
    """How far one file is: a bar, percent, bytes and rate. Call it with the bytes done, within its block."""

    def __init__(self, terminal: Terminal, label: str, size: int) -> None:
        self._terminal = terminal
        self._label = label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
        self._size = size
        self._started = time.monotonic()
        self._drawn = -REDRAW
        self._quarter = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._terminal.remove(self)

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        share = done / self._size if self._size else 1.0
        quarter = int(4 * share)
        if self._terminal.live and (now - self._drawn >= REDRAW or share == 1):
            self._drawn = now
            self._terminal.bars[self] = self._text(done, share, now)
            self._terminal.draw()
        elif not self._terminal.live and quarter > self._quarter:
            print(self._text(done, share, now), file=sys.stderr, flush=True)
        self._quarter = quarter

    def _text(self, done: int, share: float, now: float) -> str:
        rate = done / max(now - self._started, 1e-3)
        bar = ("#" * int(WIDTH * share)).ljust(WIDTH, ".")
        return f"{self._label} [{bar}] {int(100 * share)}% {amount(done)}, {amount(rate)}/s"


def amount(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
