"""Known peers: which identity answered where, kept in a file. Trust on first use, as ssh's `known_hosts`."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from trishake_protocol import InvalidPeerId, PeerId, Role, VerdictCode, escape

from ._addresses import Address
from ._errors import BadFile, ChangedIdentity, Refused
from ._events import log_event
from ._files import (
    FilePath,
    Version,
    expanded,
    is_settled,
    locked,
    make_directory,
    read_file,
    replace_file,
    version_of,
)
from ._trust import Decision, Introduction, Rejection, accept, as_peer_id, reject, says_yes

_MAX_FILE: Final = 1024 * 1024
_MAX_LINE: Final = 4096
"""Bytes, without the end of the line."""
_MAX_PROBLEMS: Final = 100

_ANYWHERE: Final = "*"
"""Stands for a name in the line of a peer that was met, wherever it is."""
_HEADER: Final = b"""\
# Known peers: which identity answered where. Each line: NAME PEER_ID [comment]
# NAME is what was dialed: host:port, or a path; what would not fit into it is percent-encoded.
# NAME * is a peer that may dial us, wherever it is.
"""
_READABLE: Final = "/:[]@+,;=!$&'()"
"""What stands for itself in a name, besides letters, digits and `_.-~`; a `*` does not: see `_ANYWHERE`."""
_FIELDS: Final = re.compile(r"[ \t]*([^ \t]+)[ \t]+([^ \t]+)(?:[ \t]+(.*?))?[ \t]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME: Final = re.compile(r"[!-~]+")
_IPV6: Final = re.compile(r"\[([^\]]+)\](.*)", re.DOTALL)


class KnownPeer(NamedTuple):
    """A line of the file. name: as it stands there, in its usual form; `*` for anywhere. line: from 1."""

    name: str
    peer: PeerId
    line: int
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changed(Rejection):
    """Somebody else is known under the name."""

    known: KnownPeer
    path: Path

    @property
    def says_more(self) -> bool:
        return True

    def refusal(self, peer: PeerId) -> Refused:
        return ChangedIdentity(self.known.name, self.known.peer, peer, self.path, self.known.line)


class KnownPeers:
    """A policy that remembers who answered where, and refuses loudly if it is somebody else the next time.

        Peer(identity, trust=KnownPeers("~/.config/app/known_peers"))

    A name that is dialed for the first time is recorded, and whoever answers is welcome; with `strict`, only who
    is recorded already; with `ask`, whom the callback says True of, and then it is recorded. Another identity than
    the recorded one is refused with ChangedIdentity, also if the invite named it. A name is what was dialed:
    `host:port`, the path of a Unix socket, a name in memory.

    Who dials us has no name to be compared. It is welcome if its id stands anywhere in the file; else anybody is,
    and is not recorded; with `strict` nobody; with `ask`, whom the callback says yes to, which is recorded under
    `*`. Where the transport knows no addresses, a dial is the same.

    The file is text; processes may share it, and people may edit it. Whatever is wrong with it never makes a
    stranger welcome: while a line cannot be read, no unknown name is taken and none is recorded, for it may have
    stood there. While all of the file is of no use, nobody is welcome. `problems` says what to mend.

    path: `~` is the home directory. It is made when first written, with its directory (0700).
    Raises ValueError for `strict` and `ask` together, BadFile where there is no home for `~`.
    """

    def __init__(
        self,
        path: FilePath,
        *,
        strict: bool = False,
        ask: Callable[[Introduction], Awaitable[bool]] | None = None,
    ) -> None:
        if strict and ask is not None:
            raise ValueError(
                "strict takes only who is recorded, so there is nobody to ask about: give one of them"
            )
        if "\0" in os.fspath(path):
            raise ValueError(f"{path!r} is no path: there is a NUL in it")
        self._path = expanded(path).absolute()
        self._strict = strict
        self._ask = ask
        self._version: Version | None = None
        self._settled = False
        self._book = _Book(self._path, b"")
        self._logged: tuple[Version | None, tuple[str, ...]] = (None, ())

    @property
    def path(self) -> Path:
        """Where the file is, or will be."""
        return self._path

    @property
    def problems(self) -> tuple[BadFile, ...]:
        """What is wrong with the file as it is now: at most 100 of its faults."""
        try:
            return self._current().problems
        except BadFile as error:
            return (error,)

    def entries(self) -> tuple[KnownPeer, ...]:
        """What is recorded, line by line; bad lines are left out. Raises BadFile if the file is of no use."""
        return self._current().entries

    async def remember(self, name: str, peer: PeerId | str) -> None:
        """Record a peer under a name.

        name: as in the file, or an address or invite (`tcp://host:port`); `*` for a peer that may dial us.
        Raises ChangedIdentity if the name is another's: forget it first. Raises BadFile if the file is faulty or
        cannot be written, and ValueError, InvalidAddress or InvalidPeerId for what is no name or peer.
        """
        await self._record(_name_of(name), as_peer_id(peer))

    async def forget(self, who: str | PeerId) -> tuple[KnownPeer, ...]:
        """Remove what is recorded under a name, or all of a peer's lines; what was removed, perhaps nothing.

        who: a name as for `remember`, or a peer id, or its text. Bad lines stay as they are.
        Raises BadFile if the file is of no use or cannot be written, ValueError or InvalidAddress for no name.
        """
        peer = who if isinstance(who, PeerId) else _peer_of(who)
        # A text may be both: a name in memory is often the id of who should be there.
        name = None if isinstance(who, PeerId) or (peer is not None and " " in who) else _name_of(who)
        if not self._current().entries:
            return ()
        try:
            target = Path(os.path.realpath(self._path))
            async with locked(target):
                book = self._read(target)
                removed = tuple(entry for entry in book.entries if entry.name == name or entry.peer == peer)
                if removed:
                    replace_file(target, book.without(removed))
        except OSError as error:
            raise _unwritable(self._path, error) from None
        return removed

    async def __call__(self, introduction: Introduction) -> Decision:
        """Whether the peer is welcome; a fault of the file is a rejection with INTERNAL, never an error."""
        try:
            return await self._decide(introduction)
        except ChangedIdentity as error:
            log_event(
                logging.WARNING,
                "known_peers.changed",
                str(error),
                name=escape(error.name),
                expected=error.expected,
                actual=error.actual,
                path=error.path,
                line=error.line,
            )
            known = KnownPeer(error.name, error.expected, error.line, "")
            return _Changed(VerdictCode.IDENTITY_UNKNOWN, why=str(error), known=known, path=self._path)
        except BadFile as error:
            return reject(VerdictCode.INTERNAL, why=str(error))

    def __repr__(self) -> str:
        return f"KnownPeers({str(self._path)!r})"

    async def _decide(self, introduction: Introduction) -> Decision:
        book, peer = self._current(), introduction.peer
        dialed = introduction.address if introduction.role is Role.RESPONDER else None
        name = _encoded(dialed) if dialed else _ANYWHERE
        if book.knows(name, peer):
            return accept()
        if name == _ANYWHERE and not self._strict and self._ask is None:
            return accept()  # strangers shall not fill the file
        book.check_whole()
        if self._strict:
            return reject(
                VerdictCode.IDENTITY_UNKNOWN,
                why=f"{'It' if name == _ANYWHERE else name} is not in {self._path}, and nobody else is welcome. "
                f"If it should be, add this line: {name} {peer}",
            )
        if self._ask is not None and not await says_yes(self._ask, introduction):
            return reject(why="Whoever was asked about it said no.")
        await self._record(name, peer)
        return accept()

    async def _record(self, name: str, peer: PeerId) -> None:
        """Raises ChangedIdentity and BadFile: trust that cannot be remembered is none."""
        try:
            target = Path(os.path.realpath(self._path))  # a link stays one
            make_directory(target.parent)
            async with locked(target):
                book = self._read(target)  # another process may have been quicker
                if book.has(name, peer):
                    return
                book.check_whole()
                # From reading to replacing there is no checkpoint: nobody is cancelled with half of it done.
                replace_file(target, book.having(name, peer))
        except OSError as error:
            raise _unwritable(self._path, error) from None
        text = f"{peer} is known as {escape(name)} from now on ({self._path})"
        log_event(logging.INFO, "known_peers.remembered", text, name=escape(name), peer=peer, path=self._path)

    def _current(self) -> _Book:
        """What the file says now; it is read again if it is another version."""
        version: Version | None = None
        try:
            version = version_of(self._path)
            if version != self._version or not self._settled:
                self._book, self._version = self._load(self._path)
                self._settled = self._version is not None and is_settled(self._version)
        except BadFile as error:
            self._version = None  # to be read again, even if there is nothing next time
            self._book = _Book(self._path, b"")
            self._report(version, (error,))
            raise
        self._report(version, self._book.problems)
        return self._book

    def _load(self, path: Path) -> tuple[_Book, Version | None]:
        version: Version | None
        try:
            data, version = read_file(path, limit=_MAX_FILE, others_may="read")
        except FileNotFoundError:
            data, version = b"", None
        return self._book if data == self._book.data else _Book(self._path, data), version

    def _read(self, path: Path) -> _Book:
        return self._load(path)[0]

    def _report(self, version: Version | None, problems: tuple[BadFile, ...]) -> None:
        report = version, tuple(map(str, problems))
        if report != self._logged:
            self._logged = report
            for problem in problems:
                text = f"known peers: {problem}"
                log_event(logging.WARNING, "known_peers.problem", text, path=problem.path, line=problem.line)


class _Book:
    """What a file says. path: for errors."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self.data = data
        self._bad: BadFile | None = None
        self._by_name: dict[str, KnownPeer] = {}
        self._contradictions: dict[str, BadFile] = {}
        entries: list[KnownPeer] = []
        problems: list[BadFile] = []
        for number, line in enumerate(data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n"), 1):
            try:
                fields = _parse(line)
            except ValueError as error:
                self._add_bad(problems, str(error), number)
                continue
            if fields is None:
                continue
            entry = KnownPeer(fields[0], fields[1], number, fields[2])
            entries.append(entry)
            if entry.name != _ANYWHERE:
                first = self._by_name.setdefault(entry.name, entry)
                if first.peer != entry.peer and entry.name not in self._contradictions:
                    fault = self._contradiction(first, entry)
                    self._contradictions[entry.name] = fault
                    problems.append(fault)
        if data and not data.endswith(b"\n"):
            # It may be all that a crash, or a full disk, has left of the file: what stood behind it is missing.
            self._add_bad(
                problems, "the last line has no end, so that the file may be cut off", data.count(b"\n") + 1
            )
        self.entries = tuple(entries)
        self.problems = tuple(problems[:_MAX_PROBLEMS])
        self._ids = frozenset(entry.peer for entry in entries)
        self._anywhere = frozenset(entry.peer for entry in entries if entry.name == _ANYWHERE)

    def _add_bad(self, problems: list[BadFile], what: str, number: int) -> None:
        if self._bad is not None and len(problems) >= _MAX_PROBLEMS:
            return  # a million of them would hold everybody up for seconds
        bad = BadFile(
            self._path,
            what,
            "Mend the line or remove it; until then, no name that is in no other line is taken or recorded.",
            line=number,
        )
        self._bad = self._bad or bad
        problems.append(bad)

    def _contradiction(self, first: KnownPeer, second: KnownPeer) -> BadFile:
        return BadFile(
            self._path,
            f"{first.name} is {second.peer} here, and {first.peer} in line {first.line}",
            "Remove the wrong line; until then, nobody is taken for it.",
            line=second.line,
        )

    def knows(self, name: str, peer: PeerId) -> bool:
        """Whether it is welcome without further question. Raises ChangedIdentity, and BadFile for two answers.

        Who has no name is known under any.
        """
        return peer in self._ids if name == _ANYWHERE else self.has(name, peer)

    def has(self, name: str, peer: PeerId) -> bool:
        """Whether it is recorded under this very name. Raises what `knows` does."""
        if name == _ANYWHERE:
            return peer in self._anywhere
        if name in self._contradictions:
            raise self._contradictions[name]
        known = self._by_name.get(name)
        if known is not None and known.peer != peer:
            raise ChangedIdentity(name, known.peer, peer, self._path, known.line)
        return known is not None

    def check_whole(self) -> None:
        """Raises BadFile if who is not to be found may have stood in a bad line."""
        if self._bad is not None:
            raise self._bad

    def having(self, name: str, peer: PeerId) -> bytes:
        """The file with a line more. Raises BadFile if it would be read no more then."""
        line = f"{name} {peer} since {time.strftime('%Y-%m-%d', time.gmtime())}\n".encode()
        if len(line) > _MAX_LINE:
            raise BadFile(self._path, f"a name of {len(name)} bytes is too long for it", "Use a shorter address.")
        data = (self.data or _HEADER) + line
        if len(data) > _MAX_FILE:
            raise BadFile(self._path, f"it is full: {_MAX_FILE} bytes", "Remove the peers that are not needed.")
        return data

    def without(self, entries: tuple[KnownPeer, ...]) -> bytes:
        """The file without these lines, and else as it is."""
        gone = {entry.line for entry in entries}
        lines = enumerate(re.findall(rb"[^\n]*\n|[^\n]+", self.data), 1)
        return b"".join(line for number, line in lines if number not in gone)


def _parse(line: bytes) -> tuple[str, PeerId, str] | None:
    """Name, peer and comment; None for a line that names nobody. Raises ValueError, saying what is wrong."""
    line = line.removesuffix(b"\r")
    if len(line) > _MAX_LINE:
        raise ValueError(f"{len(line)} bytes, the limit is {_MAX_LINE}")
    if b"\0" in line:
        raise ValueError("there is a NUL in it: this is no text")
    if b"\r" in line:
        raise ValueError("there is a carriage return within it")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8") from None
    if not text.strip(" \t") or text.lstrip(" \t").startswith("#"):
        return None
    fields = _FIELDS.fullmatch(text)
    if fields is None:
        raise ValueError("a line must be: NAME PEER_ID [comment]")
    name, peer, comment = fields.groups()
    try:
        return _checked(name), PeerId.parse(peer), comment or ""
    except InvalidPeerId as error:
        raise ValueError(f"the second word is no peer id: {error}") from None


def _checked(name: str) -> str:
    """The usual form of a name in the file. Raises ValueError."""
    if name == _ANYWHERE:
        return name
    if not _NAME.fullmatch(name) or "#" in name:
        raise ValueError("a character of the name must be percent-encoded")
    if "*" in name:
        raise ValueError("a name is no pattern; a * that is meant is written %2A")
    return _encoded(_decoded(name))


def _encoded(name: str) -> str:
    """A name as it stands in the file. Paths are told apart by every character, hosts not by upper and lower case.

    Of an IPv6 address too there is one spelling: under another, whoever answers would be taken for new.
    """
    if not name.startswith("/"):
        name = name.lower()
    if found := _IPV6.fullmatch(name):
        with suppress(ValueError):  # it is no address then, and stays as it is
            name = f"[{ipaddress.IPv6Address(found[1])}]{found[2]}"
    return quote_from_bytes(name.encode("utf-8", "surrogatepass"), safe=_READABLE)


def _decoded(name: str) -> str:
    if _BAD_ESCAPE.search(name):
        raise ValueError(
            "a % in the name is not followed by two hexadecimal digits; one that is meant is written %25"
        )
    try:
        return unquote_to_bytes(name.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise ValueError("the name's percent-encoding is no UTF-8") from None


def _name_of(text: str) -> str:
    """The name that is meant by a name, an address or an invite."""
    if "://" in text and not text.startswith("/"):
        return _encoded(Address.parse(text).endpoint)
    if not text:
        raise ValueError("a name is needed: what was dialed, as host:port")
    return text if text == _ANYWHERE else _encoded(_decoded(text))


def _peer_of(text: str) -> PeerId | None:
    try:
        return PeerId.parse(text)
    except InvalidPeerId:
        return None


def _unwritable(path: Path, error: OSError) -> BadFile:
    return BadFile(
        path,
        f"it cannot be written: {error.strerror}",
        "Check the rights of its directory, and the room on the disk.",
    )
