"""Probe: what is there at an address, asked on connections of their own that come to no greeting.

    hear          say something, or nothing, and hear the answer: bounded in bytes and in time
    first_answer  the ALERT that a preface is answered with, which says what a peer speaks
    recognize     which other protocol is spoken there, asked in that protocol

Nothing that is said names us, or anything that is ours. What comes back is anybody's: it proves nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from trishake_protocol import escape, foreign_protocol
from trishake_protocol.limits import FRAME_HEADER, MAX_ALERT_DETAIL
from trishake_protocol.messages import Alert, FrameType, Preface

from ._errors import NoResponse
from ._steps import SUITE_NOBODY_HAS, VERSION_NOBODY_SPEAKS, Cause
from ._transport import abandon

_MOST: Final = 4096
"""Bytes of an answer that are kept; then nothing more is read."""

_LONGEST_SHOWN: Final = 60
"""Characters of an answer, before they are escaped."""

_HTTP_REQUEST: Final = b"HEAD / HTTP/1.0\r\n\r\n"

Connect = Callable[[], Awaitable[trio.abc.Stream]]
"""A stream to the place in question. Raises OSError, BrokenResourceError, TooSlowError or NoResponse."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, at most 4096 bytes, and why no more was read: None where it told enough."""

    data: bytes
    ended: Cause | None

    @property
    def protocol(self) -> str | None:
        """Another protocol than ours, by its name, where the bytes tell it."""
        return foreign_protocol(self.data)

    @property
    def alert(self) -> Alert | None:
        """The ALERT that it is, if it is one."""
        if not _begins_alert(self.data) or len(self.data) < (end := _end_of_frame(self.data)):
            return None
        return Alert.decode(self.data[FRAME_HEADER:end])

    @property
    def shown(self) -> str:
        """The first line, or what there is of it, safe to show."""
        line = self.data.split(b"\n", 1)[0].rstrip(b"\r")
        text = escape(line[:_LONGEST_SHOWN].decode("utf-8", "backslashreplace"))
        return f"{text}…" if len(line) > _LONGEST_SHOWN else text


async def hear(connect: Connect, opening: bytes, seconds: float, told_enough: Callable[[bytes], bool]) -> Answer:
    """Connect, say this, and hear what comes back. The stream is closed at once when it has told enough.

    seconds: for the answer; to connect has a deadline of its own. Raises as `connect`.
    """
    stream = await connect()
    heard = b""
    try:
        with trio.move_on_after(seconds):
            if opening:
                await stream.send_all(opening)
            while not told_enough(heard) and len(heard) < _MOST:
                data = await stream.receive_some(_MOST - len(heard))
                if not data:
                    return Answer(heard, Cause.CLOSED)
                heard = (heard + data)[:_MOST]
            return Answer(heard, None)
    except trio.BrokenResourceError:
        return Answer(heard, Cause.RESET)
    finally:
        await abandon(stream)
    return Answer(heard, Cause.TIMEOUT)


async def first_answer(connect: Connect, preface: Preface, seconds: float) -> Answer:
    """What this preface is answered with, by a peer or by whoever is there. Raises as `connect`."""
    return await hear(connect, preface.encode(), seconds, _told_by_peer)


def asking_for_versions(tag: bytes) -> Preface:
    """A preface of a version that nobody speaks: the answer names those that are spoken. tag: of our network."""
    version = VERSION_NOBODY_SPEAKS
    return Preface(SUITE_NOBODY_HAS, (SUITE_NOBODY_HAS,), tag, version=version, version_max=version)


def asking_for_suites(tag: bytes) -> Preface:
    """A preface with a suite that nobody has: the answer names those that are enabled. tag: of our network."""
    return Preface(SUITE_NOBODY_HAS, (SUITE_NOBODY_HAS,), tag)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Something that is no Trishake. protocol: its name, if it can be told; shown: how it begins, safe to show."""

    protocol: str | None
    shown: str

    def __str__(self) -> str:
        name = self.protocol or "another protocol"
        return f'{name}, which begins "{self.shown}"' if self.shown else name


async def recognize(connect: Connect, host: str | None, tag: bytes | None, seconds: float) -> Foreign | None:
    """What speaks there, asked in silence, in HTTP, in TLS, and with a tag in ours; None if nothing answers.

    Three or four connections at once. host: named to a TLS server (SNI). seconds: for all of them.
    """
    openings = {"": b"", "TLS": _client_hello(host), "HTTP": _HTTP_REQUEST}
    if tag is not None:
        openings["Trishake"] = asking_for_versions(tag).encode()
    answers: dict[str, Answer] = {}

    async def ask(protocol: str, opening: bytes) -> None:
        try:
            told_enough = _told_by_peer if protocol == "Trishake" else _told_by_others
            answers[protocol] = await hear(connect, opening, seconds, told_enough)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, NoResponse):
            return  # the others may be luckier
        if protocol != "HTTP" and _named(protocol, answers[protocol]):
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for protocol, opening in openings.items():
            nursery.start_soon(ask, protocol, opening)
    # Who speaks first is named by that, and what a TLS server says to HTTP would hide the TLS.
    for protocol in openings:
        if protocol in answers and (name := _named(protocol, answers[protocol])):
            return Foreign(name, "" if name in ("TLS", "Trishake") else answers[protocol].shown)
    for answer in answers.values():
        if answer.data:
            return Foreign(answer.protocol, answer.shown)
    return None


def _named(asked: str, answer: Answer) -> str | None:
    """The protocol that this answer makes certain, where it was asked in this one, or in silence."""
    if asked == "Trishake":
        return asked if answer.alert is not None else None
    return answer.protocol if asked in ("", answer.protocol) else None


def _told_by_peer(heard: bytes) -> bool:
    """Whether it is a whole ALERT, or whatever tells another protocol."""
    return len(heard) >= _end_of_frame(heard) if _begins_alert(heard) else _told_by_others(heard)


def _told_by_others(heard: bytes) -> bool:
    return b"\n" in heard or foreign_protocol(heard) == "TLS"


def _begins_alert(heard: bytes) -> bool:
    """Whether these bytes are an ALERT, or the beginning of one."""
    if heard[:1] != bytes((FrameType.ALERT,)):
        return False
    return len(heard) < FRAME_HEADER or 1 <= int.from_bytes(heard[1:FRAME_HEADER], "big") <= 1 + MAX_ALERT_DETAIL


def _end_of_frame(heard: bytes) -> int:
    return FRAME_HEADER + int.from_bytes(heard[1:FRAME_HEADER], "big")


def _client_hello(host: str | None) -> bytes:
    """How a TLS client begins."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    hello = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname=host).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return hello.read()
