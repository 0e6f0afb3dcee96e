"""One file over a stream of its own: the protocol `file/1`.

    sender      "<size> <name>" and a newline
    receiver    "go" and a newline                        or why not, and the end of the stream
    sender      the bytes, then their SHA-256 in hexadecimal and a newline
    receiver    "kept" and a newline

Nothing here knows of peers or rooms: any Trio stream will do. What the sender says is bounded and checked before
it is believed; the file gets its name only when all of it has arrived and its digest is right.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from trishake import escape

CHUNK = 256 * 1024
"""Bytes that are read and sent at a time."""
LONGEST_LINE = 1024
LONGEST_NAME = 200
"""Bytes; file systems take 255, and a number may have to be added."""
FORBIDDEN = '<>:"|?*'
"""In names on Windows; elsewhere they are a nuisance."""

Report = Callable[[int], None]
"""Told how many bytes are done: first 0, then after each chunk."""


class TransferError(Exception):
    """The file did not get there; the text says why, and is safe to show."""


@dataclass(frozen=True)
class Offer:
    """What the other side wants to send. name: safe to store under. size: in bytes, not more than was asked."""

    name: str
    size: int


async def send_file(stream: trio.abc.Stream, path: Path, report: Report) -> str:
    """Send a file, and return its SHA-256 once the other side has stored it. Raises OSError, TransferError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file")
    async with await trio.open_file(path, "rb") as file:
        digest, sent, size = hashlib.sha256(), 0, os.fstat(file.fileno()).st_size
        await stream.send_all(f"{size} {path.name}".replace("\n", " ").encode(errors="replace") + b"\n")
        await expect(stream, "go")
        report(sent)
        while chunk := await file.read(min(CHUNK, size - sent)):
            digest.update(chunk)
            await stream.send_all(chunk)
            sent += len(chunk)
            report(sent)
    if sent < size:
        raise TransferError(f"{path} was cut to {sent} of its {size} bytes while it was sent")
    await stream.send_all(f"{digest.hexdigest()}\n".encode())
    await expect(stream, "kept")
    return digest.hexdigest()


async def receive_offer(stream: trio.abc.Stream, most: int) -> Offer:
    """What is offered. It is refused, and TransferError raised, if it has more than `most` bytes."""
    size, _, name = (await receive_line(stream)).partition(" ")
    if not (size.isascii() and size.isdecimal() and len(size) <= 18):
        raise TransferError("what came is no offer of a file")
    if int(size) > most:
        await stream.send_all(f"a file of {size} bytes is too large, the limit is {most}\n".encode())
        raise TransferError(f"a file of {size} bytes was offered, the limit is {most}")
    return Offer(safe_name(name), int(size))


async def receive_file(stream: trio.abc.Stream, offer: Offer, directory: Path, report: Report) -> tuple[Path, str]:
    """Store what was offered; where, and its SHA-256. Raises OSError, TransferError; then nothing stays."""
    directory.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=".", suffix=".part", dir=directory)
    try:
        async with trio.wrap_file(os.fdopen(handle, "wb")) as file:
            await stream.send_all(b"go\n")
            digest, received = hashlib.sha256(), 0
            report(received)
            while received < offer.size:
                chunk = await stream.receive_some(min(CHUNK, offer.size - received))
                if not chunk:
                    raise TransferError(f"it ended after {received} of {offer.size} bytes")
                digest.update(chunk)
                await file.write(chunk)
                received += len(chunk)
                report(received)
        if await receive_line(stream) != digest.hexdigest():
            raise TransferError("what arrived is not what was sent: the digests differ")
        path = reserve(directory, offer.name)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
    with suppress(trio.BrokenResourceError):  # it is here, whether or not the sender waits to hear it
        await stream.send_all(b"kept\n")
    return path, digest.hexdigest()


def safe_name(name: str) -> str:
    """The name that a file of this name gets here: no path, not hidden, nothing unprintable."""
    base = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(char if char.isprintable() and char not in FORBIDDEN else "_" for char in base)
    return plain.encode()[:LONGEST_NAME].decode(errors="ignore").strip(". ") or "file"


def reserve(directory: Path, name: str) -> Path:
    """A new empty file of this name, or with a number added: nothing that exists is touched."""
    plain = Path(name)
    for number in itertools.count(1):
        path = directory / (name if number == 1 else f"{plain.stem} ({number}){plain.suffix}")
        with suppress(FileExistsError):
            path.open("xb").close()
            return path
    raise AssertionError("numbers do not end")


async def expect(stream: trio.abc.Stream, wanted: str) -> None:
    line = await receive_line(stream)
    if line != wanted:
        raise TransferError(f'they answered "{escape(line)}"')


async def receive_line(stream: trio.abc.Stream) -> str:
    """One short line, and not a byte more."""
    line = bytearray()
    while byte := await stream.receive_some(1):
        if byte == b"\n":
            return line.decode(errors="replace")
        line += byte
        if len(line) > LONGEST_LINE:
            raise TransferError(f"a line of more than {LONGEST_LINE} bytes")
    raise TransferError("they ended it without an answer")
