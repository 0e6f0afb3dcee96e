"""Every parser of what comes from outside: the network, files, other programs, people.

Each is a function of bytes, the errors that are its own, and inputs that it takes. Whatever else it raises is
foreign: it would go past who handles what the parser documents.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, cast
from xml.etree import ElementTree

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trishake import Address, Identity, InvalidAddress, MessageChannel, NoResponse, Timeline
from trishake._authorized_keys import _host_of
from trishake._authorized_keys import _parse as parse_authorized_keys
from trishake._errors import (
    BadFile,
    BadMessage,
    ChangedIdentity,
    MessageTooLarge,
    RequestFailed,
    SigningFailed,
    WrongPassword,
)
from trishake._keys import _private_key
from trishake._known_peers import _Book, _name_of
from trishake._messages import _decode as decode_message
from trishake._messages import answer, request
from trishake._network import _key_of, _text_of
from trishake._network import _parse as parse_network
from trishake._probe import Answer
from trishake._ssh_agent import _ask, _ids, _sign
from trishake._steps import STEPS
from trishake._timeline import TimelineEntry
from trishake._websocket_stream import WebSocketStream
from trishake_protocol import (
    GreetingRefused,
    GreetingToSign,
    InvalidPeerId,
    LocalProtocolError,
    PeerId,
    RemoteProtocolError,
    Role,
    Truncated,
    UnexpectedIdentity,
)
from trishake_protocol.errors import AlertCode, CloseCode, ForeignProtocol, VerdictCode
from trishake_protocol.foreign import foreign_protocol, may_become_known
from trishake_protocol.identity import GreetingContext
from trishake_protocol.messages import (
    Alert,
    Close,
    Greeting,
    MuxFlag,
    MuxFrame,
    MuxType,
    Ping,
    Preface,
    StreamAnswer,
    StreamOpen,
    StreamVerdict,
    Verdict,
    _NotCanonical,
    decode_canonical,
    decode_greeting_payload,
)
from trishake_protocol.patterns import SUITES
from trishake_protocol.peer_id import SSH_KEY_HEADER
from trishake_protocol.records import FrameHeader, frame_bounds

from ..protocol.conftest import RECORDINGS, load
from . import sessions
from .sessions import CLASSICAL_RECORDING, Parse, records

CORPUS: Final = Path(__file__).parent / "corpus"
"""A directory a parser; each file is an input, named by the first 16 digits of its SHA-256."""


@dataclass(frozen=True)
class Parser:
    """One parser. refusals: the very classes of the errors that it documents; of a subclass they are not.

    make: makes the function that takes an input; what it needs is built when it is first asked for. slowness: how
    many times as long as the quickest it takes, roughly; the quick tests give it as many times fewer inputs.
    """

    name: str
    make: Callable[[], Parse]
    refusals: tuple[type[Exception], ...]
    make_seeds: Callable[[], Iterable[bytes]]
    tokens: tuple[bytes, ...] = ()
    slowness: int = 1

    def __str__(self) -> str:
        return self.name

    @cached_property
    def parse(self) -> Parse:
        return self.make()

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        """Inputs of a real sender, most of which it takes."""
        return tuple(dict.fromkeys(self.make_seeds()))

    @cached_property
    def corpus(self) -> tuple[bytes, ...]:
        """Inputs that found something once, or that led to code which no other leads to."""
        return tuple(path.read_bytes() for path in sorted((CORPUS / self.name).glob("*")))

    @cached_property
    def inputs(self) -> tuple[bytes, ...]:
        """What mutations begin with."""
        return (*self.seeds, *self.corpus)

    def refuses(self, data: bytes) -> bool:
        """Whether it refuses this input as it documents. Every other error comes through."""
        try:
            self.parse(data)
        except Exception as error:
            if type(error) in self.refusals:
                return True
            raise
        return False


_parsers: list[Parser] = []


def _add(
    name: str,
    make: Callable[[], Parse],
    refusals: tuple[type[Exception], ...],
    seeds: Callable[[], Iterable[bytes]],
    *,
    tokens: tuple[bytes, ...] = (),
    slowness: int = 1,
) -> None:
    _parsers.append(Parser(name, make, refusals, seeds, tokens, slowness))


def _text(data: bytes) -> str:
    """As a command line has it: bytes that are no UTF-8 are lone surrogates."""
    return data.decode(errors="surrogateescape")


# --- what is said by real senders -----------------------------------------------------------------------

_MALFORMED: Final = load("trishake-v1-malformed.json")
_HANDSHAKES: Final = load("trishake-v1.json")["handshakes"]
_PEER_ID_FORMS: Final = load("peer-id-forms.json")

_ADA: Final = PeerId(bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"))
_BOB: Final = PeerId(bytes.fromhex("8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"))
_PATH: Final = Path("/fuzzed")
_SEED_POINT: Final = Identity.from_seed(bytes(range(32))).id.key

_CRITICAL: Final = (
    b"\xa2!x\x01",
    b"\xa3exp\xcf",
    b"\xa3app\xc4",
    b"\xa5agent\xa0",
    b"\xa4caps\x90",
    b"\xa4text\xd9",
)


def _recorded(type_: str) -> list[bytes]:
    """Contents of the recorded records of a type."""
    said = (record for handshake in _HANDSHAKES for record in handshake["records"])
    return [bytes.fromhex(record["content"]) for record in said if record["type"] == type_]


def _plaintexts() -> list[bytes]:
    said = [record["plaintext"] for handshake in _HANDSHAKES for record in handshake["records"]]
    return [bytes.fromhex(text) for text in (*said, *(case["plaintext"] for case in _MALFORMED["records"]))]


def _payloads(sender: str) -> list[bytes]:
    cases = [*_MALFORMED["accepted"], *_MALFORMED["greetings"][::8]]
    return [bytes.fromhex(case["plaintext"]) for case in cases if case["from"] == sender]


def _greeting_records(role: Role, id_: PeerId = _ADA) -> list[bytes]:
    message = "ack" if role is Role.INITIATOR else "syn_ack"
    full = Greeting(
        role.value,
        id_.key,
        (1, 2),
        1_800_000_000,
        caps=("a/1", "mux/1"),
        agent="trishake/1",
        app=b"x" * 40,
        exp=2**40,
        extra={"note": {"a": [1, "b", [b"c"]]}, "y": -1, "z": True},
    )
    return [full.encode(), *(bytes.fromhex(handshake[message]["record"]) for handshake in _HANDSHAKES)]


def _signed_payloads(role: Role) -> list[bytes]:
    return [sessions.payload(role), *_payloads(role.value)]


def _records_of_eve(role: Role) -> list[bytes]:
    return [sessions.eve(role).record(), *_greeting_records(role, sessions.EVE.id)]


def _texts_to_sign() -> list[bytes]:
    whole = [
        GreetingContext(role, bytes(32), b"s" * 32, _BOB if role is Role.INITIATOR else None).to_be_signed(record)
        for role in Role
        for record in _greeting_records(role)[:2]
    ]
    return [*whole, whole[0].replace(_BOB.key, b"\x01" + bytes(31))]  # the last: to a key of small order


# --- the protocol: messages -----------------------------------------------------------------------------


def _parse_preface(data: bytes) -> None:
    decoded = Preface.decode(b"\xf0\x9f\xa4\x9d" + data)  # it is called when the magic was read
    if decoded is not None:
        preface, length = decoded
        assert preface.encode() == (b"\xf0\x9f\xa4\x9d" + data)[:length]


def _parse_frame_header(data: bytes) -> None:
    header = FrameHeader.decode(data)
    if header is not None and header.type in (0x01, 0x02, 0x03, 0x10, 0x7F):
        for recording in RECORDINGS.values():
            assert 0 < frame_bounds(header.type, recording.suite).stop <= 2**16


def _greeting_parser(role: Role) -> Parse:
    def parse(data: bytes) -> None:
        assert Greeting.decode(data, role).encode() == data

    return parse


def _parse_alert(data: bytes) -> None:
    body = (data or b"\x00")[:65]  # the frame's bounds are 1 to 65
    assert Alert.decode(body).encode() in (body, body[:1])


def _parse_mux_frame(data: bytes) -> None:
    header = data[:12].ljust(12, b"\x00")  # it is called with a header
    assert MuxFrame.decode(header).encode() == header


def _parse_stream_open(data: bytes) -> None:
    decoded = StreamOpen.decode(data)
    if decoded is not None:
        opened, length = decoded
        assert opened.encode() == data[:length]


def _parse_stream_answer(data: bytes) -> None:
    decoded = StreamAnswer.decode(data)
    if decoded is not None:
        assert 1 <= decoded[1] <= len(data)


def _parse_foreign(data: bytes) -> None:
    name, undecided = foreign_protocol(data), may_become_known(data)
    assert name is None or not undecided


_add(
    "preface",
    lambda: _parse_preface,
    (GreetingRefused,),
    lambda: [
        *(bytes.fromhex(handshake["preface"])[4:] for handshake in _HANDSHAKES),
        Preface(2, (2, 1, 3, 4, 5, 6, 7, 8), b"network!", version_max=9, ext=b"x" * 40).encode()[4:],
    ],
)
_add("frame-header", lambda: _parse_frame_header, (), lambda: [b"\x01\x00\x20", b"\x10\xff\xff", b"\x7f\x00\x01"])
_add(
    "alert",
    lambda: _parse_alert,
    (),
    lambda: [
        *(Alert(code).encode() for code in AlertCode),
        Alert(AlertCode.BUSY, retry_after=3).encode(),
        Alert(AlertCode.UNSUPPORTED_VERSION, versions=(1, 2)).encode(),
        Alert(AlertCode.UNSUPPORTED_SUITE, suites=(1, 2, 0x101)).encode(),
    ],
)
_add(
    "canonical-msgpack",
    lambda: decode_canonical,
    (_NotCanonical,),
    lambda: [*_greeting_records(Role.INITIATOR), b"\x93\x01\xc4\x01a\x81\xa1b\xc3", *_recorded("VERDICT")],
)
_add(
    "greeting-payload",
    lambda: decode_greeting_payload,
    (GreetingRefused,),
    lambda: [*_payloads("initiator"), *_payloads("responder")],
)
for _role in Role:
    _add(
        f"greeting-of-{_role.value}",
        partial(_greeting_parser, _role),
        (GreetingRefused,),
        partial(_greeting_records, _role),
        tokens=_CRITICAL,
    )
_add(
    "greeting-to-sign",
    lambda: partial(GreetingToSign.parse, signer=_ADA),
    (LocalProtocolError,),
    _texts_to_sign,
)
_add(
    "verdict",
    lambda: Verdict.decode,
    (RemoteProtocolError,),
    lambda: [
        *_recorded("VERDICT"),
        Verdict(VerdictCode.POLICY, 30, "192.0.2.7:4711", "not today ✗").encode(),
        *(bytes.fromhex(case["plaintext"])[:-1] for case in _MALFORMED["verdicts"]),
    ],
    tokens=_CRITICAL,
)
_add(
    "close",
    lambda: Close.decode,
    (RemoteProtocolError,),
    lambda: [*_recorded("CLOSE"), Close(CloseCode.IDLE, "text").encode(), Close(0x9000).encode()],
    tokens=_CRITICAL,
)
_add(
    "ping", lambda: Ping.decode, (RemoteProtocolError,), lambda: [Ping(bytes(8), bool(i)).encode() for i in (0, 1)]
)
_add(
    "mux-frame",
    lambda: _parse_mux_frame,
    (RemoteProtocolError,),
    lambda: [MuxFrame(type_, MuxFlag.SYN, 1, 5).encode() for type_ in MuxType],
)
_add(
    "stream-open",
    lambda: _parse_stream_open,
    (ValueError, UnicodeDecodeError),
    lambda: [StreamOpen(text).encode() for text in ("echo", "größe/1", "a" * 128)],
)
_add(
    "stream-answer",
    lambda: _parse_stream_answer,
    (RemoteProtocolError,),
    lambda: [StreamAnswer(verdict, "no ✗").encode() for verdict in StreamVerdict],
)
_add(
    "foreign-protocol",
    lambda: _parse_foreign,
    (),
    lambda: [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        b"<!doctype",
    ],
)

# --- the protocol: records, sessions, streams -----------------------------------------------------------

_GREETING_ENDS: Final = (RemoteProtocolError, GreetingRefused, ForeignProtocol, UnexpectedIdentity, Truncated)
_RECORD_ENDS: Final = (RemoteProtocolError, ForeignProtocol, Truncated)


def _flights(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [
        *(RECORDINGS[name].flight for name in names),
        *(bytes.fromhex(case["bytes"]) for case in _MALFORMED["prefaces"]),
    ]


def _first_frames(message: str) -> Callable[[], list[bytes]]:
    return lambda: [
        *(bytes.fromhex(handshake[message]["frame"]) for handshake in _HANDSHAKES),
        *(bytes.fromhex(case["bytes"]) for case in _MALFORMED["first_frames"]),
        CLASSICAL_RECORDING.ack + bytes.fromhex("1000180000"),
    ]


def _mux(*frames: tuple[MuxType, int, int, int | bytes]) -> bytes:
    said: list[bytes] = []
    for type_, flags, stream, body in frames:
        length = body if isinstance(body, int) else len(body)
        said += MuxFrame(type_, flags, stream, length).encode(), b"" if isinstance(body, int) else body
    return b"".join(said)


def _mux_talk(theirs: int, ours: int) -> list[bytes]:
    """What a peer says on streams. theirs, ours: the first ids that it opens and that we have opened."""
    data, update, syn = MuxType.DATA, MuxType.WINDOW_UPDATE, MuxFlag.SYN
    return [
        _mux((data, syn, theirs, b"\x06echo/1hello"), (data, 0, theirs, b"more"), (update, 4, theirs, 0)),
        _mux((data, MuxFlag.ACK, ours, b"\x00answer"), (data, 0, ours, b"q"), (data, 0, ours, b"rest")),
        _mux((data, MuxFlag.ACK, ours, b"\x01"), (update, 4, ours, 0), (data, 2, ours + 2, b"\x02\x02no")),
        _mux((MuxType.PING, syn, 0, 7), (MuxType.GO_AWAY, 0, 0, 0), (update, syn, theirs, 2**18)),
        _mux((update, 0, ours, 2**20), (update, 8, ours, 0), (data, 8, ours + 2, b"\x00"), (data, 0, ours, b"x")),
        _mux(*((data, syn, theirs + 2 * i, b"\x07files/%d" % (i % 10)) for i in range(40))),
        _mux((data, syn, theirs, b"\x06ech"), *((data, 0, theirs, b"o") for _ in range(80))),
    ]


def _talk(*, mux: tuple[int, int] | None = None) -> list[bytes]:
    """Inputs of records. mux: for a session with streams, the first ids of either side."""
    ping, close = Ping(bytes(8)).encode() + b"\x04", Close(CloseCode.IDLE, "late").encode() + b"\x03"
    end = Close().encode() + b"\x03"
    data = [b"hello\x01", b"more\x01\x00\x00"]
    if mux is not None:
        data = [content + b"\x01" for content in _mux_talk(*mux)]
    ready = Verdict(VerdictCode.READY).encode() + b"\x02"
    return [records(*data, ping, end), *(records(one, close) for one in data), records(ready), records(end, ping)]


for _name, _recording in (("public", "0x0002-a"), ("private", "0x0102-b"), ("classical", "0x0001-b")):
    _add(
        f"session-awaiting-syn-{_name}",
        partial(sessions.awaiting_syn, RECORDINGS[_recording]),
        _GREETING_ENDS,
        _flights(_recording, "0x0001-a", "0x0101-a"),
        slowness=4,
    )
    _add(
        f"session-awaiting-syn-ack-{_name}",
        partial(sessions.awaiting_syn_ack, RECORDINGS[_recording]),
        _GREETING_ENDS,
        _first_frames("syn_ack"),
        slowness=6,
    )
    _add(
        f"session-awaiting-ack-{_name}",
        partial(sessions.awaiting_ack, RECORDINGS[_recording]),
        _GREETING_ENDS,
        _first_frames("ack"),
        slowness=6,
    )
for _role in Role:
    _message = "ack" if _role is Role.INITIATOR else "syn-ack"
    _add(
        f"session-{_message}-payload",
        partial(sessions.in_greeting, _role, signed=False),
        _GREETING_ENDS,
        partial(_signed_payloads, _role),
        slowness=6,
    )
    _add(
        f"session-{_message}-record",
        partial(sessions.in_greeting, _role, signed=True),
        _GREETING_ENDS,
        partial(_records_of_eve, _role),
        tokens=_CRITICAL,
        slowness=10,
    )
    _add(
        f"session-open-{_role.value}",
        partial(sessions.in_open_session, _role, mux=False),
        _RECORD_ENDS,
        _talk,
        slowness=6,
    )
    _ids_of = (1, 2) if _role is Role.RESPONDER else (2, 1)
    _add(
        f"session-streams-{_role.value}",
        partial(sessions.in_open_session, _role, mux=True),
        _RECORD_ENDS,
        partial(_talk, mux=_ids_of),
        slowness=8,
    )
    _add(
        f"streams-{_role.value}",
        partial(sessions.in_streams, _role),
        (RemoteProtocolError,),
        partial(_mux_talk, *_ids_of),
        slowness=4,
    )
_add(
    "session-verdict",
    sessions.in_verdict,
    _GREETING_ENDS,
    lambda: [records(bytes.fromhex(case["plaintext"])) for case in _MALFORMED["verdicts"]] + _talk(),
    slowness=6,
)
_add("record", lambda: sessions.in_record(5), (RemoteProtocolError,), _plaintexts)
_add(
    "record-at-the-key-limit",
    lambda: sessions.in_record(2**63),
    (RemoteProtocolError,),
    lambda: [Close(CloseCode.KEY_LIMIT).encode() + b"\x03", *_plaintexts()],
)

# --- texts ----------------------------------------------------------------------------------------------


def _parse_peer_id(data: bytes) -> None:
    peer = PeerId.parse(_text(data))
    for text in (str(peer), peer.ssh(), peer.did, peer.libp2p):
        assert PeerId.parse(text) == peer


def _parse_address(data: bytes) -> None:
    address = Address.parse(_text(data))
    assert Address.parse(str(address)) == address
    _name_of(str(address))


def _peer_id_texts() -> list[bytes]:
    texts = [case["text"] for kind in ("did_key", "libp2p", "good", "refused") for case in _PEER_ID_FORMS[kind]]
    texts += [text for case in _PEER_ID_FORMS["same"] for text in (case["base58"], case["cid"])]
    texts += [str(_ADA), str(_ADA).upper(), _ADA.ssh("ann@desk"), _ADA.did, _ADA.libp2p]
    return [text.encode() for text in texts]


_add(
    "peer-id", lambda: _parse_peer_id, (InvalidPeerId,), _peer_id_texts, tokens=(b"ssh-ed25519 ", b"did:key:z6Mk")
)
_add(
    "peer-id-key", lambda: lambda data: PeerId(data), (InvalidPeerId,), lambda: [_ADA.key, bytes(32), b"\xff" * 32]
)
_add(
    "address",
    lambda: _parse_address,
    (InvalidAddress,),
    lambda: [
        *(
            b"tcp://host:4711",
            b"tls://192.0.2.7:0",
            b"ws://host/path",
            b"wss://[2001:db8::1]:443/a/b",
            b"mem://name",
        ),
        *(b"unix:///run/a b?#@", b"tcp://[fe80::1%25eth0]:1", b"own+scheme://host", b"tcp://host:65535"),
        f"tcp://{_ADA}@[::1]:4711".encode(),
        f"unix://{_ADA.did}@/run/socket".encode(),
        f"mem://{_ADA.libp2p}@name".encode(),
    ],
    tokens=(
        b"://",
        b"@",
        b":",
        b"[",
        b"]",
        b"/",
        b"?",
        b"#",
        b"%",
        b"unix://",
        b"mem://",
        b"::1",
        b"\t",
        b"\\",
        b";",
    ),
)
_add(
    "network-key",
    lambda: lambda data: _key_of(_text(data)),
    (ValueError,),
    lambda: [_text_of(bytes(range(32))).encode()],
)

# --- files ----------------------------------------------------------------------------------------------


def _read_known_peers(data: bytes) -> None:
    book = _Book(_PATH, data)
    for entry in book.entries:
        try:
            assert book.has(entry.name, entry.peer) or entry.name == "*"
            book.knows(entry.name, _BOB)
        except (ChangedIdentity, BadFile):
            pass  # two lines of one name; or another peer's name, as it should be
    book.without(book.entries)
    if book.problems:
        raise book.problems[0]


def _parse_known_name(data: bytes) -> None:
    name = _name_of(_text(data))
    assert name == "*" or _name_of(name) == name


def _read_authorized_keys(data: bytes) -> None:
    contents = parse_authorized_keys(_PATH, data)
    for lines in contents.lines.values():
        for line in lines:
            for host in (None, "192.0.2.7:4711", "[2001:db8::1]:1", "host.example:2", "[::ffff:192.0.2.7]:1"):
                line.objection(_host_of(host), 1_800_000_000.0)
    if contents.problems:
        raise contents.problems[0]


def _read_identity(data: bytes) -> None:
    _private_key(_PATH, data, "nine lives of a cat")  # that of the encrypted keys in the corpus


def _read_pem(label: bytes) -> Parse:
    """The data is what the base64 of a PEM block with this label stands for."""

    def parse(data: bytes) -> None:
        _read_identity(_pem(label, data))

    return parse


_SEED_DER: Final = bytes.fromhex("302e020100300506032b657004220420") + bytes(range(32))
"""An Ed25519 private key in PKCS#8 (RFC 8410, section 7)."""

_OPENSSH: Final = b"".join(
    (
        b"openssh-key-v1\x00\x00\x00\x00\x04none\x00\x00\x00\x04none\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x33",
        SSH_KEY_HEADER + _SEED_POINT,
        b"\x00\x00\x00\x88" + b"chckchck" + SSH_KEY_HEADER + _SEED_POINT,
        b"\x00\x00\x00\x40" + bytes(range(32)) + _SEED_POINT + b"\x00\x00\x00\x00\x01\x02\x03\x04\x05",
    )
)
"""The same in OpenSSH's format (PROTOCOL.key), not encrypted."""


def _private_keys(label: bytes) -> list[bytes]:
    return [_OPENSSH] if label.startswith(b"OPENSSH") else [_SEED_DER, b"\x30\x03\x02\x01\x00"]


_FILE_ENDS: Final = (BadFile, WrongPassword)


def _pem(label: bytes, raw: bytes) -> bytes:
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, base64.encodebytes(raw), label)


_add(
    "known-peers",
    lambda: _read_known_peers,
    (BadFile,),
    lambda: [
        f"# names\nhost:4711 {_ADA} since 2025-01-01\n[2001:db8::1]:1 {_BOB.did}\n* {_ADA}\r\n".encode(),
        f"/run/socket%20a {_ADA}\n  name\t{_BOB.libp2p}  comment é\nname {_ADA}\n".encode(),
    ],
    tokens=(b"\n", b" ", b"\t", b"#", b"%2A", b"*", b"[::1]:1", b"%", b"\r\n", b"\xc2\xa0"),
    slowness=4,
)
_add(
    "known-peers-name",
    lambda: _parse_known_name,
    (ValueError, InvalidAddress),
    lambda: [
        b"host:4711",
        b"tcp://host:4711",
        b"[2001:DB8::0:1]:4711",
        b"/run/a b",
        b"*",
        b"a%2Ab",
        b"gr\xc3\xb6",
    ],
    tokens=(b"%2A", b"%", b"%ff", b"://", b"[", b"]", b"::"),
)
_add(
    "authorized-keys",
    lambda: _read_authorized_keys,
    (BadFile,),
    lambda: [
        f"# all\n{_ADA.ssh('ann@desk')}\n\n{_BOB.ssh()}\r\n".encode(),
        f'from="192.0.2.0/24,!192.0.2.7,*.example,2001:db8::/32",expiry-time="20991231Z" {_ADA.ssh()}\n'.encode(),
        f'command="echo \\"a\\"",no-pty,environment="A=b" {_ADA.ssh()}\ncert-authority {_BOB.ssh()}\n'.encode(),
        f'expiry-time="20250230" {_ADA.ssh()}\nexpiry-time="99991231" {_BOB.ssh()}\n'.encode(),
        f'restrict,expiry-time="202401011200" {_BOB.ssh()}\necdsa-sha2-nistp256 AAAA x\n'.encode(),
    ],
    tokens=(
        *(
            b'from="',
            b'"',
            b'\\"',
            b"\\",
            b",",
            b'expiry-time="',
            b"20240230",
            b"!",
            b"*",
            b"?",
            b"[",
            b"::ffff:0/96",
        ),
        *(b"\n", b" ", b"\t", b"ssh-ed25519", b"=", b'="', b"restrict", b"/33", b"%eth0"),
    ),
    slowness=4,
)
_add(
    "network-file",
    lambda: partial(parse_network, _PATH),
    (BadFile,),
    lambda: [
        f"# a private network\nname home\nkey {_text_of(bytes(range(32)))}\nkey {_text_of(bytes(32))}\n".encode(),
        f"name größe \r\nkey {_text_of(b'k' * 32)}".encode(),
    ],
    tokens=(b"name ", b"key ", b"psk-", b"\n", b"#", b"\xe2\x80\xae", b"\xc2\xa0"),
)
_add(
    "identity-file",
    lambda: _read_identity,
    _FILE_ENDS,
    lambda: [
        _pem(b"PRIVATE KEY", _SEED_DER),
        _pem(b"OPENSSH PRIVATE KEY", _OPENSSH),
        _ADA.ssh("ann@desk").encode(),
        b"PuTTY-User-Key-File-3: ssh-ed25519\n",
        b"---- BEGIN SSH2 PUBLIC KEY ----\n",
        _pem(b"EC PARAMETERS", b"x") + _pem(b"EC PRIVATE KEY", b"y"),
    ],
    tokens=(
        *(b"-----BEGIN ", b"-----END ", b"PRIVATE KEY-----", b"OPENSSH ", b"RSA ", b"ENCRYPTED ", b"-----", b"\n"),
        *(b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n", b"CERTIFICATE"),
    ),
    slowness=4,
)
for _label in (b"OPENSSH PRIVATE KEY", b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"RSA PRIVATE KEY"):
    _add(
        "identity-" + _label.decode().lower().replace(" ", "-"),
        partial(_read_pem, _label),
        _FILE_ENDS,
        partial(_private_keys, _label),
        tokens=(b"\x06\x03\x2b\x65\x70", b"ssh-ed25519", b"none", b"bcrypt", b"aes256-ctr", b"\x30\x82"),
        slowness=8,
    )


# --- messages of the application ------------------------------------------------------------------------

_REPLY_ENDS: Final = (BadMessage, MessageTooLarge, RequestFailed, trio.BrokenResourceError)


def _framed(value: object) -> bytes:
    data = cast("bytes", msgpack.packb(value))  # pyright: ignore[reportUnknownMemberType]
    return len(data).to_bytes(4, "big") + data


def _run(function: Callable[..., Awaitable[None]], *args: object) -> None:
    trio.run(function, *args, clock=MockClock(autojump_threshold=0))


async def _heard(data: bytes) -> trio.abc.Stream:
    """A stream from which these bytes can be read, and nothing more."""
    here, there = memory_stream_pair()
    await there.send_all(data)
    await there.send_eof()
    return here


async def _receive_messages(data: bytes) -> None:
    channel = MessageChannel(await _heard(data), max_size=4096)
    async for _ in channel:
        pass


async def _request(data: bytes) -> None:
    await request(await _heard(data), None, max_size=4096)


async def _answer(data: bytes) -> None:
    async def function(value: object, _: object) -> object:
        return value

    await answer(await _heard(data), function, max_size=4096, seconds=10)


_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, 7, -1, 2**64 - 1, 1.5, math.inf, "text ✗", b"bytes", [], {}, [1, [2, {"k": [3]}]]),
    *({"a": 1, 2: [b"x"], b"k": None}, {i: i for i in range(40)}, ["x" * 300, b"y" * 300]),
)

_add(
    "message",
    lambda: decode_message,
    (ValueError, UnicodeDecodeError),
    lambda: [_framed(value)[4:] for value in _VALUES],
)
_add(
    "message-channel",
    lambda: partial(_run, _receive_messages),
    (BadMessage, MessageTooLarge, trio.BrokenResourceError),
    lambda: [_framed(_VALUES[i]) + _framed(_VALUES[-i]) for i in range(len(_VALUES))],
    slowness=20,
)
_add(
    "reply",
    lambda: partial(_run, _request),
    _REPLY_ENDS,
    lambda: [
        _framed(value) for value in ([0, None], [0, [1]], [1, "no-greeting", "text"], [1, "failed", ""], [2])
    ],
    slowness=20,
)
_add(
    "request",
    lambda: partial(_run, _answer),
    (),
    lambda: [_framed(value) for value in _VALUES],
    slowness=20,
)


# --- other programs -------------------------------------------------------------------------------------


class _Said:
    """A socket on which this was said, whatever it is told."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def sendall(self, _: bytes) -> None:
        pass

    def recv(self, length: int) -> bytes:
        part, self._data = self._data[:length], self._data[length:]
        return part


def _ask_and_sign(agent: Any) -> None:
    for id_ in _ids(agent):
        _sign(agent, id_=id_, text=b"text")


def _ask_agent(data: bytes) -> None:
    answered: Any = _ask("/agent", cast("Any", _Said(data)), _ask_and_sign)
    if answered is not None:
        raise answered


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _agent_answers() -> list[bytes]:
    key = SSH_KEY_HEADER + _ADA.key
    listed = b"\x0c\x00\x00\x00\x02" + _string(b"\x00\x00\x00\x07ssh-rsa") + _string(b"rsa")
    listed += _string(key) + _string(b"ann@desk")
    signed = b"\x0e" + _string(_string(b"ssh-ed25519") + _string(bytes(64)))
    return [_string(listed) + _string(signed), _string(b"\x0c\x00\x00\x00\x00"), _string(b"\x05")]


def _probe(data: bytes) -> None:
    heard = Answer(data[:4096], None)
    shown = heard.shown
    assert len(shown) <= 60 * 10 + 1
    assert heard.protocol is None or heard.alert is None


async def _websocket_accepted(data: bytes) -> None:
    here, there = memory_stream_pair()

    async def dial(nursery: trio.Nursery) -> WebSocketStream:
        nursery.start_soon(_say, there, data)
        return WebSocketStream.accepted(here, "/chat", nursery)

    await _read_websocket(dial)


async def _websocket_dialed(data: bytes) -> None:
    here, there = memory_stream_pair()

    async def answer_it() -> None:
        asked = await there.receive_some()
        key = asked[asked.lower().find(b"sec-websocket-key: ") + 19 :][:24]
        proof = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        await _say(there, data.replace(b"{accept}", proof))

    async def dial(nursery: trio.Nursery) -> WebSocketStream:
        nursery.start_soon(answer_it)
        return await WebSocketStream.open(here, Address("host", 80, scheme="ws", path="/chat"), nursery)

    await _read_websocket(dial)


async def _say(stream: trio.StapledStream[Any, Any], data: bytes) -> None:
    """The upgrade, what follows it once that was made sense of, and then the end."""
    head, blank_line, rest = data.partition(b"\r\n\r\n")
    with suppress(trio.BrokenResourceError):
        await stream.send_all(head + blank_line)
        await wait_all_tasks_blocked()
        await stream.send_all(rest)
        await wait_all_tasks_blocked()
        await stream.send_eof()


async def _read_websocket(made: Callable[[trio.Nursery], Awaitable[WebSocketStream]]) -> None:
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            async with await made(nursery) as stream:
                while await stream.receive_some():
                    pass
        except (trio.BrokenResourceError, NoResponse) as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


_UPGRADE: Final = (
    b"GET /chat HTTP/1.1\r\nHost: host\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_UPGRADED: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: {accept}\r\n\r\n"
)
_WEBSOCKET_FRAMES: Final = (
    b"\x82\x05hello",
    b"\x02\x02he\x80\x03llo",
    b"\x89\x01p",
    b"\x88\x02\x03\xe8",
    b"\x81\x01t",
)
_WEBSOCKET_TOKENS: Final = (
    *(b"\r\n", b": ", b"Sec-WebSocket-Extensions: permessage-deflate\r\n", b"Content-Length: 5\r\n", b"\x82\x7f"),
    *(b"Transfer-Encoding: chunked\r\n", b"Sec-WebSocket-Protocol: a, b\r\n", b"HTTP/1.1 302 \r\n", b"\x88\x00"),
)


def _masked(frame: bytes) -> bytes:
    return bytes((frame[0], frame[1] | 0x80)) + bytes(4) + frame[2:]


_add(
    "ssh-agent",
    lambda: _ask_agent,
    (SigningFailed,),
    _agent_answers,
    tokens=(b"ssh-ed25519", b"ssh-rsa", b"\x00\x00\x00\x40"),
    slowness=8,
)
_add(
    "probe",
    lambda: _probe,
    (),
    lambda: [b"\x7f\x00\x03\x02\x01\x01", b"SSH-2.0-x\r\n", b"HTTP/1.0 200 OK\r\n", b"\x15\x03\x01\x00\x02\x02"],
)
_add(
    "websocket-listening",
    lambda: partial(_run, _websocket_accepted),
    (trio.BrokenResourceError,),
    lambda: [
        _UPGRADE + b"".join(map(_masked, _WEBSOCKET_FRAMES[:4])),
        *(_UPGRADE + _masked(frame) + _masked(_WEBSOCKET_FRAMES[3]) for frame in _WEBSOCKET_FRAMES),
    ],
    tokens=_WEBSOCKET_TOKENS,
    slowness=60,
)
_add(
    "websocket-dialing",
    lambda: partial(_run, _websocket_dialed),
    (trio.BrokenResourceError, NoResponse),
    lambda: [
        _UPGRADED + b"".join(_WEBSOCKET_FRAMES[:4]),
        *(_UPGRADED + frame + _WEBSOCKET_FRAMES[3] for frame in _WEBSOCKET_FRAMES),
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ],
    tokens=_WEBSOCKET_TOKENS,
    slowness=60,
)


# --- recorded timelines ---------------------------------------------------------------------------------


def _read_timeline(data: bytes) -> None:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    timeline = Timeline.from_dict(facts)
    assert Timeline.from_dict(json.loads(json.dumps(timeline.as_dict()))).as_dict() == timeline.as_dict()
    assert all(len(line) <= 80 for line in timeline.picture().splitlines())
    ElementTree.fromstring(timeline.svg())
    assert str(timeline)


def _timelines() -> list[bytes]:
    made: list[bytes] = []
    for role, steps in STEPS.items():
        for failed in (False, True):
            facts = Timeline(
                number=7,
                role=role,
                began=1_800_000_000.25,
                seconds=0.0125,
                entries=tuple(
                    TimelineEntry(step, 0.001 * i, 0.001, 10 * i, 5 * i, failed and i == 5, "10.0.0.7:4711")
                    for i, step in enumerate(steps[: 6 if failed else None])
                ),
                outcome="rejected" if failed else "accepted",
                reason="POLICY" if failed else None,
                told=None,
                own=_ADA,
                network="trishake",
                peer=_BOB,
                address="tcp://host:4711",
                endpoint="10.0.0.7:4711",
                places=(("10.0.0.7:4711", None), ("[::1]:4711", "refused ✗")),
                suite=SUITES[2],
                greeting_id=b"greeting",
                session_id=b"session!",
                clock_difference=-3,
            )
            said = facts.as_dict()
            made += [
                json.dumps(changed).encode()
                for changed in (
                    said,
                    {**said, "suite": "none"},
                    {**said, "began": 10**400},
                    {**said, "sent": math.nan},
                )
            ]
    return made


_add(
    "timeline",
    lambda: _read_timeline,
    (ValueError, InvalidPeerId),
    _timelines,
    tokens=(b"null", b"true", b'""', b"1e308", b"-1", b"[]", b"{}", b'"\\u202e\\u0000"', b'"\\ud800"', b"0.5"),
    slowness=20,
)

PARSERS: Final = {parser.name: parser for parser in _parsers}
