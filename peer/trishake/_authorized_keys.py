"""OpenSSH's own file of who may come in, as a policy (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").

What is refused here and not there: a line of more than 8 KiB, a NUL byte, a key that is limited to one command.
What admits there and not here: a certificate, and any key that is not an ssh-ed25519 one.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import ipaddress
import logging
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from trishake_protocol import PeerId, VerdictCode, escape
from trishake_protocol.errors import InvalidPeerId
from trishake_protocol.peer_id import SSH_KEY_HEADER

from ._errors import BadFile
from ._events import log_event
from ._files import FilePath, Version, expanded, is_settled, read_file, version_of
from ._trust import Decision, Introduction, accept, reject

_FILE_LIMIT: Final = 2**20
_LINE_LIMIT: Final = 2**13
_PROBLEMS_KEPT: Final = 100
_SHOWN: Final = 60
"""Bytes of a file's text in a message."""

_TYPE: Final = b"ssh-ed25519"
_KEY_LENGTH: Final = len(SSH_KEY_HEADER) + 32
_SHORTEST_LINE: Final = len(_TYPE) + 1 + 68

_KEY_TYPE: Final = re.compile(rb"(?:ssh|ecdsa|sk|webauthn)-[a-z0-9-]+(?:@[a-z0-9.-]+)?")
_OPTIONS: Final = re.compile(rb'(?:[^ \t"\\]|\\"?|"(?:[^"\\]|\\"?)*+")++')
_OPTION: Final = re.compile(rb'([A-Za-z0-9-]+)(?:="((?:[^"\\]|\\"|\\(?!"))*+)")?')
_BLANKS: Final = re.compile(rb"[ \t]+")
_ADDRESS_LIKE: Final = re.compile(r"[0-9.]+|[^*?]*:[^*?]*|[^*?/][^*?]*/[^*?]*")
_PREFIX: Final = re.compile(r"[^/]+(?:/[0-9]{1,3})?")
_TIME: Final = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})(?:([0-9]{2})([0-9]{2})([0-9]{2})?)?([Zz])?")
_ENDPOINT: Final = re.compile(r"\[([^\]]+)\](?::[0-9]+)?|([^:/]+):[0-9]+")

_WITHOUT_MEANING: Final = frozenset(
    {
        *("agent-forwarding", "port-forwarding", "pty", "user-rc", "x11-forwarding"),
        *("no-agent-forwarding", "no-port-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding"),
        *("no-touch-required", "restrict", "verify-required"),
    }
)
_WITHOUT_MEANING_VALUED: Final = frozenset({"environment", "permitopen", "permitlisten", "tunnel"})
_BARRING: Final = {
    "cert-authority": "its key signs certificates (cert-authority), which are not spoken here",
    "principals": "its key signs certificates (principals=), which are not spoken here",
    "command": "its key is limited to one command (command=): whoever holds it is not a peer",
}
_COPY_AGAIN: Final = "Copy the whole line of the .pub file again."
_OTHERS_COUNT: Final = "This line admits nobody; the others count."

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class AuthorizedKeys:
    """A policy: whoever has an ssh-ed25519 line in this file is welcome, whether it dials us or we dial it.

    The file is read again when it changes. While it is missing or cannot be used, nobody is welcome, and the
    logger "trishake" says so once, as ERROR. A line that cannot be used admits nobody; it is in `problems`, and
    in the log as WARNING. Who is not welcome is told IDENTITY_UNKNOWN and nothing more; `Rejection.why` says to
    our side what to add, or which line refused it.

    `from=` and `expiry-time=` count as in sshd; `command=`, `cert-authority` and `principals=` make a line that
    admits nobody, as does an option that sshd does not know; all others mean nothing here. `from=` is matched
    against the host that dialed, or that was dialed: by a name, where it was dialed by one. Whoever has no
    address, as over a Unix socket or in memory, is not welcome by such a line. An open connection lasts, whatever
    becomes of its line.

    path: `~` is expanded, a symbolic link followed; at most 1 MiB, and writable by its owner only.
    Raises FileNotFoundError if there is none, BadFile if it cannot be used as a whole.
    """

    def __init__(self, path: FilePath) -> None:
        self.path: Final = expanded(path).absolute()
        self._version: Version | None = None
        self._data: bytes | None = None
        self._failure: BadFile | None = None
        self._contents = _Contents()
        self._read()

    async def __call__(self, introduction: Introduction) -> Decision:
        """Whether this peer is welcome now. Raises nothing."""
        self._refresh()
        if self._failure is not None:
            return reject(VerdictCode.IDENTITY_UNKNOWN, why=str(self._failure))
        lines = self._contents.lines.get(introduction.peer)
        if lines is None:
            why = f"If it should, add a line with {introduction.peer.ssh()} to {self.path}"
            return reject(VerdictCode.IDENTITY_UNKNOWN, why=why)
        host, now = _host_of(introduction.address), time.time()
        objections: list[str] = []
        for line in lines:
            objection = line.objection(host, now)
            if objection is None:
                return accept()
            if len(objections) < _PROBLEMS_KEPT:
                objections.append(f"{self.path}, line {line.number}: {objection}.")
        return reject(VerdictCode.IDENTITY_UNKNOWN, why=" ".join(objections))

    @property
    def peers(self) -> frozenset[PeerId]:
        """Who has a line that admits it now, if only from some addresses. Looks first if the file has changed."""
        self._refresh()
        now = time.time()
        return frozenset(
            peer for peer, lines in self._contents.lines.items() if any(line.counts(now) for line in lines)
        )

    @property
    def problems(self) -> tuple[BadFile, ...]:
        """What is wrong with the file, or with its lines: the first 100. Looks first if the file has changed."""
        self._refresh()
        return tuple(self._contents.problems) if self._failure is None else (self._failure,)

    def __repr__(self) -> str:
        return f"AuthorizedKeys({str(self.path)!r})"

    def _refresh(self) -> None:
        try:
            if self._version is None or version_of(self.path) != self._version:
                self._read()
        except FileNotFoundError:
            self._fail(BadFile(self.path, "there is no such file", "Nobody is welcome until it is back."))
        except BadFile as error:
            self._fail(error)

    def _read(self) -> None:
        data, version = read_file(self.path, limit=_FILE_LIMIT, others_may="read")
        self._version = version if is_settled(version) else None
        self._failure = None
        if data != self._data:
            self._data = data
            self._contents = _parse(self.path, data)
            self._contents.log(self.path)

    def _fail(self, failure: BadFile) -> None:
        # The version is not kept: what hindered us may pass without a change of the file.
        if self._failure is None or str(self._failure) != str(failure):
            text = f"nobody is welcome: {failure}"
            log_event(logging.ERROR, "authorized_keys.problem", text, path=failure.path, line=failure.line)
        self._version = self._data = None
        self._failure = failure
        self._contents = _Contents()


# --- the file -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Contents:
    lines: dict[PeerId, list[_Line]] = field(default_factory=dict[PeerId, "list[_Line]"])
    problems: list[BadFile] = field(default_factory=list[BadFile])
    problems_left_out: int = 0

    def log(self, path: Path) -> None:
        for problem in self.problems:
            log_event(logging.WARNING, "authorized_keys.problem", str(problem), path=path, line=problem.line)
        if self.problems_left_out:
            text = f"{path}: {self.problems_left_out} more lines admit nobody"
            log_event(logging.WARNING, "authorized_keys.problem", text, path=path, line=None)


def _parse(path: Path, data: bytes) -> _Contents:
    contents = _Contents()
    for number, text in _numbered(data):
        # No key fits into these. A megabyte of them, with a message each, would hold everybody up for seconds.
        if len(text) < _SHORTEST_LINE and len(contents.problems) == _PROBLEMS_KEPT:
            contents.problems_left_out += 1
            continue
        try:
            peer, line = _parse_line(number, text)
        except _Unusable as error:
            what, advice = error.args
        else:
            contents.lines.setdefault(peer, []).append(line)
            if line.barred is None:
                continue
            what, advice = line.barred, _OTHERS_COUNT
        if len(contents.problems) < _PROBLEMS_KEPT:
            contents.problems.append(BadFile(path, what, advice, line=number))
        else:
            contents.problems_left_out += 1
    return contents


def _numbered(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are to be read, without the blanks around them."""
    for number, text in enumerate(data.split(b"\n"), 1):
        stripped = text.strip(b" \t\r")
        if stripped and not stripped.startswith(b"#"):
            yield number, stripped


class _Unusable(ValueError):
    """A line, or an option of it: what is wrong, and what to do."""

    def __init__(self, what: str, advice: str = _OTHERS_COUNT) -> None:
        super().__init__(what, advice)


def _shown(text: bytes) -> str:
    # In ASCII: a blank that is none, or a letter of another alphabet, is what may be wrong.
    shown = escape(text[:_SHOWN].decode("ascii", "backslashreplace"))
    return shown + ("…" if len(text) > _SHOWN else "")


# --- a line ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A line with a peer's key. barred: why it admits nobody, if that is so."""

    number: int
    barred: str | None = None
    sources: tuple[_Source, ...] | None = None
    expires: float = math.inf

    def counts(self, now: float) -> bool:
        return self.barred is None and now <= self.expires

    def objection(self, host: str | None, now: float) -> str | None:
        """Why the line does not admit its peer from there; None if it does."""
        if self.barred is not None:
            return self.barred
        if now > self.expires:
            return f"its key expired on {datetime.fromtimestamp(self.expires):%Y-%m-%d %H:%M:%S} (expiry-time=)"
        if self.sources is None:
            return None
        if host is None:
            return "its key is good from some addresses only (from=), and the peer has no address"
        if not _comes_from(self.sources, host):
            return f"its key is not good from {escape(host)} (from=)"
        return None


def _parse_line(number: int, text: bytes) -> tuple[PeerId, _Line]:
    """Raises _Unusable where the line names no peer; if its options are at fault, the line is barred."""
    if text.startswith(b"\xef\xbb\xbf"):
        raise _Unusable("a byte order mark before the line", "Save the file without one.")
    if len(text) > _LINE_LIMIT:
        raise _Unusable(f"a line of {len(text)} bytes, the limit is {_LINE_LIMIT}")
    if b"\0" in text:
        raise _Unusable("a NUL byte", "The file is damaged, or no text of one byte a letter: write it anew.")
    options, word, key = _split(text)
    peer = _parse_key(word, key)
    try:
        return peer, _with_options(number, options)
    except _Unusable as error:
        return peer, _Line(number, barred=error.args[0])


def _split(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Options, the word for the key's type, the key in base64. The comment may be anything."""
    options = b""
    words = _BLANKS.split(text, 2)
    if not _KEY_TYPE.fullmatch(words[0]):
        end = _OPTIONS.match(text)
        options = end.group() if end else b""
        if text[len(options) : len(options) + 1] == b'"':
            raise _Unusable(f"a quote that does not end: {_shown(text[len(options) :])}")
        words = _BLANKS.split(text[len(options) :].lstrip(b" \t"), 2)
        if not _KEY_TYPE.fullmatch(words[0]):
            what = "neither a key nor options and a key" if words[0] else "no key"
            # A line of another file may be a secret: of a private key, or of a private network.
            shown = f": {_shown(text)}" if b"ssh-" in text else ""
            raise _Unusable(what + shown, _COPY_AGAIN)
    if len(words) < 2:
        raise _Unusable(f"nothing after {_shown(words[0])}", _COPY_AGAIN)
    return options, words[0], words[1]


def _parse_key(word: bytes, key: bytes) -> PeerId:
    if word != _TYPE:
        raise _Unusable(f"an {_shown(word)} key: a peer has an {_TYPE.decode()} key")
    try:
        blob = binascii.a2b_base64(key)
    except binascii.Error:
        blob = b""
    if base64.b64encode(blob) != key:  # the decoder passes over what is none; so does its strict mode over a "="
        raise _Unusable(f"the key is no base64: {_shown(key)}", _COPY_AGAIN)
    if not blob.startswith(SSH_KEY_HEADER) and not SSH_KEY_HEADER.startswith(blob):
        type_ = blob[4 : 4 + int.from_bytes(blob[:4])]
        raise _Unusable(f"the line says {_TYPE.decode()}, its key is of the type '{_shown(type_)}'", _COPY_AGAIN)
    if len(blob) != _KEY_LENGTH:
        raise _Unusable(f"the key has {len(blob)} bytes, one of this type has {_KEY_LENGTH}", _COPY_AGAIN)
    try:
        return PeerId(blob[len(SSH_KEY_HEADER) :])
    except InvalidPeerId as error:
        raise _Unusable(f"the key is no peer's: {error}", "Whoever made it should make a new one.") from None


# --- options --------------------------------------------------------------------------------------------


def _with_options(number: int, options: bytes) -> _Line:
    barred: str | None = None
    sources: tuple[_Source, ...] | None = None
    expires = math.inf
    for name, value in _parse_options(options):
        if name in _BARRING:
            barred = barred or _BARRING[name]
        elif name == "from" and value is not None:
            if sources is not None:
                raise _Unusable("more than one from=")
            sources = tuple(_parse_source(pattern) for pattern in _text(name, value).split(","))
            if all(source.negated for source in sources):
                raise _Unusable('a from= of negations only matches nobody: add ",*"')
        elif name == "expiry-time" and value is not None:
            expires = min(expires, _parse_time(_text(name, value)))
        elif name not in (_WITHOUT_MEANING if value is None else _WITHOUT_MEANING_VALUED):
            form = "" if value is None else '="…"'
            raise _Unusable(f"an unknown option: {_shown(name.encode())}{form}")
    return _Line(number, barred, sources, expires)


def _parse_options(options: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Name in lower case, and value where there is one."""
    position = 0
    while position < len(options):
        found = _OPTION.match(options, position)
        if found is None or options[found.end() : found.end() + 1] not in (b"", b","):
            raise _Unusable(f"an unknown option: {_shown(options[position:])}")
        name, value = found.groups()
        yield name.decode().lower(), None if value is None else value.replace(b'\\"', b'"')
        position = found.end() + 1
        if position == len(options):
            raise _Unusable("a comma and no option after it")


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _Unusable(f"{name}= is no UTF-8: {_shown(value)}") from None


def _parse_time(text: str) -> float:
    """Seconds since 1970, from local time unless there is a Z."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise _Unusable(f"an expiry-time of '{_shown(text.encode())}', its form is YYYYMMDD[HHMM[SS]][Z]")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    try:
        # Either way: mktime alone would take the 32nd of May for the 1st of June.
        in_utc = datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
        moment = in_utc if found[7] else time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
    except (ValueError, OverflowError):
        raise _Unusable(f"an expiry-time of {text}, which is no date") from None
    if moment <= 0:
        raise _Unusable(f"an expiry-time of {text}, which is before 1970")
    return moment


# --- from= ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """One pattern of from=: a network, or a text with `*` and `?` in lower case."""

    negated: bool
    network: _Network | None
    pattern: str

    def matches(self, host: str, address: _IPAddress | None) -> bool:
        if self.network is None:
            return fnmatch.fnmatchcase(host, self.pattern.replace("[", "[[]"))
        return address in self.network if address is not None else False


def _parse_source(text: str) -> _Source:
    negated, pattern = text.startswith("!"), text.removeprefix("!").lower()
    if not pattern:
        raise _Unusable("an empty pattern in from=")
    network: _Network | None = None
    if _ADDRESS_LIKE.fullmatch(pattern):
        try:
            if "%" in pattern or not _PREFIX.fullmatch(pattern):
                raise ValueError
            network = _as_ipv4_where_mapped(ipaddress.ip_network(pattern))
        except ValueError:
            advice = "is no address, and no network without bits to the right of its length"
            raise _Unusable(f"a pattern in from= {advice}: {_shown(pattern.encode())}") from None
    return _Source(negated, network, pattern)


def _as_ipv4_where_mapped(network: _Network) -> _Network:
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


def _host_of(address: str | None) -> str | None:
    """Of `host:port` and `[v6]:port`; all else is its own host."""
    if address is None:
        return None
    found = _ENDPOINT.fullmatch(address)
    return (found[1] or found[2]) if found else address


def _comes_from(sources: tuple[_Source, ...], host: str) -> bool:
    address: _IPAddress | None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    address = getattr(address, "ipv4_mapped", None) or address
    name = (host if address is None else str(address)).lower()
    found = False
    for source in sources:
        # Where a name leads is not known here: it may well be into the network that is not to match.
        if source.negated and (source.matches(name, address) or (source.network and address is None)):
            return False
        found = found or source.matches(name, address)
    return found
