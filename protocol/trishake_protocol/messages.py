"""The wire schema: every message, one dataclass each, with `encode` and `decode`.

    Preface      in clear, once, initiator to responder                 section 3
    Alert        in clear, before the verdict                           section 8
    Greeting     the record inside SYN-ACK and ACK                      section 6
    Verdict      record type 2, responder to initiator, exactly once    section 8
    Close        record type 3, ends its sender's direction             section 9
    Ping         record type 4                                          section 9
    MuxFrame     the header of a yamux frame, inside DATA               section 10
    StreamOpen   the first words of a stream, from who opens it         section 10
    StreamAnswer the first words of who accepts or refuses it           section 10

The maps are canonical msgpack; their keys are tables of rules, below. No other module imports msgpack. What
`decode` is given comes from the network: it is of bounded length, and every breach raises
RemoteProtocolError, or GreetingRefused where the specification gives it a code.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from . import limits
from .errors import AlertCode, CloseCode, GreetingRefused, RemoteProtocolError, VerdictCode
from .patterns import Role


class FrameType(enum.IntEnum):
    """The first byte of a frame (section 2)."""

    SYN = 0x01
    SYN_ACK = 0x02
    ACK = 0x03
    RECORD = 0x10
    ALERT = 0x7F


class RecordType(enum.IntEnum):
    """The last byte of a record before its padding (section 9)."""

    DATA = 1
    VERDICT = 2
    CLOSE = 3
    PING = 4


def encode_frame(type_: FrameType, body: bytes) -> bytes:
    return bytes((type_,)) + len(body).to_bytes(2, "big") + body


# --- canonical msgpack (section 6) ----------------------------------------------------------------------

Value = bool | int | str | bytes | list["Value"] | dict[str, "Value"]


_packb = cast("Callable[..., bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType]
_unpackb = cast("Callable[..., object]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType]


class _NotCanonical(Exception):
    """These bytes are not canonical msgpack; the message says in what. Never leaves this module."""


def encode_canonical(value: object) -> bytes:
    """Maps sorted by key, everything in its shortest encoding. Raises ValueError past the limits."""
    try:
        return _packb(_checked(value, 1))
    except (_NotCanonical, OverflowError) as error:
        raise ValueError(f"this cannot be sent: {error}") from None


def decode_canonical(data: bytes) -> Value:
    """Decode with every limit set, then encode again and compare the bytes."""
    try:
        value = _unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=limits.MAX_STR,
            max_bin_len=len(data),
            max_array_len=limits.MAX_ARRAY,
            max_map_len=limits.MAX_MAP,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException):
        raise _NotCanonical("it does not parse, or is over a limit") from None
    checked = _checked(value, 1)
    if _packb(checked) != data:
        raise _NotCanonical("its keys are out of order or twice there, or it is not in its shortest encoding")
    return checked


def _checked(value: object, depth: int) -> Value:
    """The value, if it is within the profile, its maps sorted. Integers are bounded by msgpack itself."""
    if isinstance(value, (int, bytes)):  # a bool is an int
        return value
    if isinstance(value, str):
        if len(value.encode()) > limits.MAX_STR:
            raise _NotCanonical(f"a str of more than {limits.MAX_STR} bytes")
        return value
    if isinstance(value, (list, tuple)):
        items = cast("list[object]", value)
        _check_size("an array", depth, len(items), limits.MAX_ARRAY)
        return [_checked(item, depth + 1) for item in items]
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value)
        _check_size("a map", depth, len(pairs), limits.MAX_MAP)
        # UTF-8 keeps the order of the code points, so these are in ascending byte order.
        return {key: _checked(pairs[key], depth + 1) for key in sorted(map(_checked_key, pairs))}
    raise _NotCanonical(f"a {type(value).__name__} is not allowed")


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise _NotCanonical("a key that is no str")
    if len(key.encode()) > limits.MAX_STR:
        raise _NotCanonical(f"a key of more than {limits.MAX_STR} bytes")
    return key


def _check_size(what: str, depth: int, size: int, limit: int) -> None:
    if depth > limits.MAX_DEPTH:
        raise _NotCanonical(f"{what} at depth {depth}, the limit is {limits.MAX_DEPTH}")
    if size > limit:
        raise _NotCanonical(f"{what} of {size}, the limit is {limit}")


# --- the schema of a map: a row a key -------------------------------------------------------------------


class _BadSchema(Exception):
    """A map that is not what its table says. Never leaves this module."""


class _UnknownCritical(_BadSchema):
    """An unknown key that begins with `!` (sections 6 and 13)."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A key of a map: what its value must be, in words and in code."""

    what: str
    valid: Callable[[Any], bool]
    optional: bool = False


def _is_uint(value: object, most: int = 2**64 - 1) -> bool:
    # A bool is an int in Python, and none on the wire.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _is_str(value: object, most: int) -> bool:
    return isinstance(value, str) and len(value.encode()) <= most


def _is_bin(value: object, least: int, most: int) -> bool:
    return isinstance(value, bytes) and least <= len(value) <= most


def _is_array(value: object, least: int, most: int, valid: Callable[[object], bool]) -> bool:
    if not isinstance(value, list):
        return False
    items = cast("list[object]", value)
    return least <= len(items) <= most and all(map(valid, items))


def _is_caps(value: object) -> bool:
    if not _is_array(value, 0, limits.MAX_CAPS, lambda cap: _is_str(cap, limits.MAX_CAP)):
        return False
    caps = cast("list[str]", value)
    return all(before < after for before, after in pairwise(caps))  # code points, so bytes of UTF-8 as well


def _is_versions(value: object) -> bool:
    if not _is_array(value, 2, 2, lambda version: _is_uint(version, 0xFF)):
        return False
    lowest, highest = cast("list[int]", value)
    return lowest <= highest


_GREETING_FIELDS: Final = {
    "agent": _Field("str of at most 64 bytes", lambda v: _is_str(v, limits.MAX_AGENT), optional=True),
    "alg": _Field("str", lambda v: _is_str(v, limits.MAX_STR)),
    "app": _Field("bin of at most 4096 bytes", lambda v: _is_bin(v, 0, limits.MAX_APP), optional=True),
    "caps": _Field("array of at most 32 str of at most 64 bytes, sorted, unique", _is_caps),
    "exp": _Field("uint", _is_uint, optional=True),
    "id": _Field("bin of 32 bytes", lambda v: _is_bin(v, 32, 32)),
    "offers": _Field(
        "array of 1 to 8 u16", lambda v: _is_array(v, 1, limits.MAX_OFFERS, lambda o: _is_uint(o, 0xFFFF))
    ),
    "role": _Field("str", lambda v: _is_str(v, limits.MAX_STR)),
    "time": _Field("uint", _is_uint),
    "ver": _Field("uint", _is_uint),
    "vers": _Field("array of 2 u8, lowest first", _is_versions),
}
_VARYING_FIELDS: Final = {key: _GREETING_FIELDS[key] for key in ("id", "role", "time")}
_VERDICT_FIELDS: Final = {
    "code": _Field("u16", lambda v: _is_uint(v, 0xFFFF)),
    "retry": _Field("uint", _is_uint, optional=True),
    "seen": _Field("str of at most 64 bytes", lambda v: _is_str(v, limits.MAX_SEEN), optional=True),
    "text": _Field("str of at most 256 bytes", lambda v: _is_str(v, limits.MAX_TEXT), optional=True),
}
_CLOSE_FIELDS: Final = {
    "code": _Field("u16", lambda v: _is_uint(v, 0xFFFF)),
    "text": _Field("str of at most 256 bytes", lambda v: _is_str(v, limits.MAX_TEXT), optional=True),
}


def _check_fields(fields: Mapping[str, _Field], value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _BadSchema("it is no map")
    pairs = cast("dict[str, Any]", value)
    for key, rule in fields.items():
        if key not in pairs:
            if not rule.optional:
                raise _BadSchema(f"{key} is missing")
        elif not rule.valid(pairs[key]):
            raise _BadSchema(f"{key} must be {rule.what}")
    return pairs


def _refuse_unknown_critical(fields: Mapping[str, _Field], pairs: Mapping[str, object]) -> None:
    for key in pairs:
        if key.startswith("!") and key not in fields:
            raise _UnknownCritical(f"the key {key!r} must be understood, and is not")


def _decode_map(what: str, fields: Mapping[str, _Field], data: bytes) -> dict[str, Any]:
    """A VERDICT's or a CLOSE's map, unknown keys and all. Raises RemoteProtocolError."""
    try:
        pairs = _check_fields(fields, decode_canonical(data))
        _refuse_unknown_critical(fields, pairs)
    except (_NotCanonical, _BadSchema) as error:
        raise RemoteProtocolError(f"a malformed {what}: {error}", reason=CloseCode.PROTOCOL) from None
    return pairs


_Code = TypeVar("_Code", bound=enum.Enum)


def _named(codes: type[_Code], number: int) -> _Code | int:
    """The code of that number; an unknown one stays a number."""
    try:
        return codes(number)
    except ValueError:
        return number


def _number(code: enum.Enum | int) -> int:
    return cast(int, code.value) if isinstance(code, enum.Enum) else code


def _encode_map(what: str, fields: Mapping[str, _Field], pairs: Mapping[str, object]) -> bytes:
    try:
        return encode_canonical(_check_fields(fields, pairs))
    except _BadSchema as error:
        raise ValueError(f"this {what} cannot be sent: {error}") from None


def _without_none(**pairs: object) -> dict[str, object]:
    return {key: value for key, value in pairs.items() if value is not None}


# --- Preface (section 3) --------------------------------------------------------------------------------


class Preface(NamedTuple):
    """What the initiator says first, in clear. Bound into the handshake byte for byte."""

    suite: int
    offers: tuple[int, ...]
    net_tag: bytes
    version: int = limits.VERSION
    version_max: int = limits.VERSION
    ext: bytes = b""

    def encode(self) -> bytes:
        return b"".join(
            (
                limits.MAGIC,
                bytes((self.version, self.version_max)),
                self.suite.to_bytes(2, "big"),
                bytes((len(self.offers),)),
                len(self.ext).to_bytes(2, "big"),
                self.net_tag,
                *(offer.to_bytes(2, "big") for offer in self.offers),
                self.ext,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> tuple[Preface, int] | None:
        """(preface, its length) from the front of `data`, which begins with MAGIC; None while incomplete.

        Judged as the bytes arrive: a bad version is refused on its own byte, whatever stands behind it.
        Raises GreetingRefused with UNSUPPORTED_VERSION or MALFORMED (section 7, step 2).
        """
        if len(data) > 4 and data[4] != limits.VERSION:
            raise GreetingRefused(
                AlertCode.UNSUPPORTED_VERSION,
                f"version {data[4]} of the protocol, and we speak {limits.VERSION}",
            )
        if len(data) < 11:
            return None
        version, version_max, n_offers = data[4], data[5], data[8]
        ext_length = int.from_bytes(data[9:11], "big")
        if version_max < version:
            raise GreetingRefused(AlertCode.MALFORMED, f"version_max {version_max} below version {version}")
        if not 1 <= n_offers <= limits.MAX_OFFERS:
            raise GreetingRefused(AlertCode.MALFORMED, f"{n_offers} offers, 1 to {limits.MAX_OFFERS} are allowed")
        if ext_length > limits.MAX_EXTENSION:
            raise GreetingRefused(
                AlertCode.MALFORMED,
                f"an extension of {ext_length} bytes, the limit is {limits.MAX_EXTENSION}",
            )
        end_of_offers = limits.PREFACE_HEADER + 2 * n_offers
        length = end_of_offers + ext_length
        if len(data) < length:
            return None
        offers = tuple(
            int.from_bytes(data[i : i + 2], "big") for i in range(limits.PREFACE_HEADER, end_of_offers, 2)
        )
        suite = int.from_bytes(data[6:8], "big")
        if suite not in offers:
            raise GreetingRefused(AlertCode.MALFORMED, f"suite 0x{suite:04x} is not among its own offers")
        preface = cls(suite, offers, bytes(data[11:19]), version, version_max, bytes(data[end_of_offers:length]))
        return preface, length


# --- Alert (section 8) ----------------------------------------------------------------------------------


class Alert(NamedTuple):
    """A refusal in clear. Its detail is kept only where it fits its code."""

    code: AlertCode | int
    retry_after: int | None = None
    """BUSY: seconds, at most 65535."""
    versions: tuple[int, int] | None = None
    """UNSUPPORTED_VERSION: lowest and highest that the sender speaks."""
    suites: tuple[int, ...] | None = None
    """UNSUPPORTED_SUITE: those that the sender has enabled."""

    def encode(self) -> bytes:
        detail = b""
        if self.retry_after is not None:
            detail = min(self.retry_after, 0xFFFF).to_bytes(2, "big")
        elif self.versions is not None:
            detail = bytes(self.versions)
        elif self.suites is not None:
            detail = b"".join(suite.to_bytes(2, "big") for suite in self.suites)
        return bytes((_number(self.code),)) + detail

    @classmethod
    def decode(cls, body: bytes) -> Alert:
        """body: 1 to 65 bytes; the caller has checked the length. An unknown code stays a number."""
        code, detail = _named(AlertCode, body[0]), body[1:]
        match code:
            case AlertCode.BUSY if len(detail) == 2:
                return cls(code, retry_after=int.from_bytes(detail, "big"))
            case AlertCode.UNSUPPORTED_VERSION if len(detail) == 2:
                return cls(code, versions=(detail[0], detail[1]))
            case AlertCode.UNSUPPORTED_SUITE if detail and len(detail) % 2 == 0:
                return cls(
                    code,
                    suites=tuple(int.from_bytes(detail[i : i + 2], "big") for i in range(0, len(detail), 2)),
                )
            case _:
                return cls(code)


# --- Greeting (section 6) -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a peer says about itself, under its signature: the record of SYN-ACK and ACK.

    id: the 32 bytes as they came; `offers`: suites, best first; `vers`: lowest and highest version;
    `caps`: sorted; `time`, `exp`: Unix seconds; `extra`: keys that this version does not know.
    """

    role: str
    id: bytes
    offers: tuple[int, ...]
    time: int
    vers: tuple[int, int] = (limits.VERSION, limits.VERSION)
    caps: tuple[str, ...] = ()
    agent: str | None = None
    app: bytes | None = None
    exp: int | None = None
    alg: str = "ed25519"
    extra: Mapping[str, object] = field(default_factory=dict[str, object])

    def encode(self) -> bytes:
        """The canonical record, to be signed. Raises ValueError where a value is out of its bounds."""
        pairs = _without_none(
            agent=self.agent,
            alg=self.alg,
            app=self.app,
            caps=list(self.caps),
            exp=self.exp,
            id=self.id,
            offers=list(self.offers),
            role=self.role,
            time=self.time,
            ver=1,
            vers=list(self.vers),
        )
        return _encode_map("greeting", _GREETING_FIELDS, {**self.extra, **pairs})

    @classmethod
    def decode(cls, record: bytes, sender: Role) -> Greeting:
        """Check the record and read it. Raises GreetingRefused (section 7, step 2 of a greeting)."""
        try:
            pairs = _check_fields(_GREETING_FIELDS, decode_canonical(record))
            if pairs["role"] != sender.value:
                raise _BadSchema(f"the role is {pairs['role']!r}, and the {sender.value} sent it")
            if pairs["ver"] != 1:
                raise _BadSchema(f"schema version {pairs['ver']}, and we read 1")
            _refuse_unknown_critical(_GREETING_FIELDS, pairs)
        except _UnknownCritical as error:
            raise GreetingRefused(VerdictCode.UNSUPPORTED_CRITICAL, str(error)) from None
        except (_NotCanonical, _BadSchema) as error:
            raise GreetingRefused(VerdictCode.BAD_GREETING, f"the record: {error}") from None
        return cls(
            role=pairs["role"],
            id=pairs["id"],
            offers=tuple(pairs["offers"]),
            time=pairs["time"],
            vers=(pairs["vers"][0], pairs["vers"][1]),
            caps=tuple(pairs["caps"]),
            agent=pairs.get("agent"),
            app=pairs.get("app"),
            exp=pairs.get("exp"),
            alg=pairs["alg"],
            extra={key: value for key, value in pairs.items() if key not in _GREETING_FIELDS},
        )


class GreetingTemplate:
    """The records of one side, which differ in role, id and time only: the rest is checked and sorted once.

    A record out of it costs 2 µs, where `Greeting.encode` takes 10.
    """

    __slots__ = ("_pairs",)

    def __init__(self, greeting: Greeting) -> None:
        """Raises ValueError where a value is out of its bounds."""
        self._pairs = cast("dict[str, Value]", decode_canonical(greeting.encode()))

    def encode(self, role: Role, id_: bytes, time: int) -> bytes:
        """The record of the greeting with these three. Raises ValueError where one is out of its bounds."""
        varying = {"id": id_, "role": role.value, "time": time}
        try:
            _check_fields(_VARYING_FIELDS, varying)
        except _BadSchema as error:
            raise ValueError(f"this greeting cannot be sent: {error}") from None
        return _packb({**self._pairs, **varying})  # a key keeps its place when its value is replaced


def encode_greeting_payload(record: bytes, signature: bytes) -> bytes:
    """`[record, signature, padding]`, padded to a multiple of 256 bytes. Raises ValueError if over 16384."""
    unpadded = _packb([record, signature, b""])  # three bin: there is nothing to sort and no limit to keep
    padding = bytes(-len(unpadded) % limits.GREETING_BLOCK)  # at most 255: its header does not grow
    payload = _packb([record, signature, padding])
    if len(payload) > limits.MAX_GREETING:
        raise ValueError(f"a greeting of {len(payload)} bytes, the limit is {limits.MAX_GREETING}")
    return payload


def decode_greeting_payload(payload: bytes) -> tuple[bytes, bytes]:
    """(record, signature), the latter of any length yet. Raises GreetingRefused with BAD_GREETING."""
    try:
        value = decode_canonical(payload)
    except _NotCanonical as error:
        raise GreetingRefused(VerdictCode.BAD_GREETING, f"the outer array: {error}") from None
    match value:
        case [bytes(record), bytes(signature), bytes(padding)]:
            if padding.strip(b"\x00"):
                raise GreetingRefused(VerdictCode.BAD_GREETING, "the padding is not all zero")
            return record, signature
        case _:
            raise GreetingRefused(VerdictCode.BAD_GREETING, "the payload is no array of three bin")


# --- Verdict (section 8) --------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the responder decided. retry: seconds; seen: the initiator's address as the responder sees it.

    `encode` raises ValueError where a value is out of its bounds; so does that of Close.
    """

    code: VerdictCode | int
    retry: int | None = None
    seen: str | None = None
    text: str | None = None

    def encode(self) -> bytes:
        pairs = _without_none(code=_number(self.code), retry=self.retry, seen=self.seen, text=self.text)
        return _encode_map("VERDICT", _VERDICT_FIELDS, pairs)

    @classmethod
    def decode(cls, content: bytes) -> Verdict:
        pairs = _decode_map("VERDICT", _VERDICT_FIELDS, content)
        code = _named(VerdictCode, pairs["code"])
        return cls(code, pairs.get("retry"), pairs.get("seen"), pairs.get("text"))


# --- Close and Ping (section 9) -------------------------------------------------------------------------


class Close(NamedTuple):
    """The authenticated end of its sender's direction."""

    code: CloseCode | int = CloseCode.NORMAL
    text: str | None = None

    def encode(self) -> bytes:
        return _encode_map("CLOSE", _CLOSE_FIELDS, _without_none(code=_number(self.code), text=self.text))

    @classmethod
    def decode(cls, content: bytes) -> Close:
        pairs = _decode_map("CLOSE", _CLOSE_FIELDS, content)
        return cls(_named(CloseCode, pairs["code"]), pairs.get("text"))


class Ping(NamedTuple):
    """A question, or the answer that echoes its 8 bytes."""

    payload: bytes
    answer: bool = False

    def encode(self) -> bytes:
        return bytes((self.answer,)) + self.payload

    @classmethod
    def decode(cls, content: bytes) -> Ping:
        if len(content) != 1 + limits.PING_LENGTH or content[0] > 1:
            raise RemoteProtocolError("a malformed PING", reason=CloseCode.PROTOCOL)
        return cls(content[1:], bool(content[0]))


# --- streams (section 10) -------------------------------------------------------------------------------


class MuxType(enum.IntEnum):
    """The second byte of a yamux frame."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


class MuxFlag(enum.IntEnum):
    """The flags of a yamux frame; others are ignored."""

    NONE = 0
    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


_MUX_HEADER: Final = struct.Struct(">BBHII")
_MUX_TYPES: Final = tuple(MuxType)


def encode_mux_header(type_: int, flags: int, stream: int, length: int) -> bytes:
    """A MuxFrame of the same, encoded: for DATA, of which there are many."""
    return _MUX_HEADER.pack(0, type_, flags, stream, length)


class MuxFrame(NamedTuple):
    """The header of a yamux frame, version 0.

    length: of DATA, the bytes behind the header; of WINDOW_UPDATE, the credit; of PING, its value; of GO_AWAY,
    its code. stream: 0 for PING and GO_AWAY.
    """

    type: MuxType
    flags: int
    stream: int
    length: int

    def encode(self) -> bytes:
        return encode_mux_header(self.type, self.flags, self.stream, self.length)

    @classmethod
    def decode(cls, data: bytes | bytearray, offset: int = 0) -> MuxFrame:
        """From the 12 bytes at the offset. Raises RemoteProtocolError for another version or type."""
        version, type_, flags, stream, length = _MUX_HEADER.unpack_from(data, offset)
        if version:
            raise RemoteProtocolError(f"a yamux frame of version {version}", reason=CloseCode.PROTOCOL)
        if type_ >= len(_MUX_TYPES):
            raise RemoteProtocolError(f"a yamux frame of unknown type {type_}", reason=CloseCode.PROTOCOL)
        return cls(_MUX_TYPES[type_], flags, stream, length)


class StreamOpen(NamedTuple):
    """What a stream is for. protocol: 1 to 128 bytes of UTF-8."""

    protocol: str

    def encode(self) -> bytes:
        """Raises ValueError if it is too short or too long."""
        encoded = self.protocol.encode()
        if not 1 <= len(encoded) <= limits.MAX_PROTOCOL_ID:
            raise ValueError(
                f"a protocol id has 1 to {limits.MAX_PROTOCOL_ID} bytes of UTF-8, got {len(encoded)}: "
                f"{self.protocol!r:.80}"
            )
        return bytes((len(encoded),)) + encoded

    @classmethod
    def decode(cls, data: bytes | bytearray) -> tuple[StreamOpen, int] | None:
        """(it, its length); None while bytes are missing. Raises ValueError if it is out of bounds."""
        if not data:
            return None
        end = 1 + data[0]
        if not 1 < end <= 1 + limits.MAX_PROTOCOL_ID:
            raise ValueError(f"a protocol id of {data[0]} bytes")
        if len(data) < end:
            return None
        return cls(bytes(data[1:end]).decode()), end


class StreamVerdict(enum.IntEnum):
    """The first byte that the acceptor of a stream sends."""

    ACCEPTED = 0
    UNKNOWN_PROTOCOL = 1
    REFUSED = 2


class StreamAnswer(NamedTuple):
    """Whether the stream is taken. text: for people, at most 255 bytes; with REFUSED only."""

    verdict: StreamVerdict
    text: str = ""

    def encode(self) -> bytes:
        """Raises ValueError if the text is too long."""
        if self.verdict is not StreamVerdict.REFUSED:
            return bytes((self.verdict,))
        text = self.text.encode()
        if len(text) > limits.MAX_REFUSAL_TEXT:
            raise ValueError(f"a text of {len(text)} bytes, the limit is {limits.MAX_REFUSAL_TEXT}")
        return bytes((self.verdict, len(text))) + text

    @classmethod
    def decode(cls, data: bytes | bytearray) -> tuple[StreamAnswer, int] | None:
        """(it, its length); None while bytes are missing. Raises RemoteProtocolError for another answer."""
        if not data:
            return None
        try:
            verdict = StreamVerdict(data[0])
        except ValueError:
            raise RemoteProtocolError(f"a stream was answered with {data[0]}", reason=CloseCode.PROTOCOL) from None
        if verdict is not StreamVerdict.REFUSED:
            return cls(verdict), 1
        if len(data) < 2 or len(data) < 2 + data[1]:
            return None
        end = 2 + data[1]
        return cls(verdict, bytes(data[2:end]).decode(errors="replace")), end
