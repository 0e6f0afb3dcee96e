"""ByHand: one side of a greeting, step by step, with real Noise and whatever a test wants inside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import trio

from trishake_protocol import Greeting, Identity, Network, PeerId, Role, Suite, VerdictCode
from trishake_protocol.identity import GreetingContext
from trishake_protocol.limits import MUX
from trishake_protocol.messages import (
    Close,
    FrameType,
    MuxFlag,
    MuxFrame,
    MuxType,
    Preface,
    RecordType,
    StreamOpen,
    Verdict,
    encode_frame,
    encode_greeting_payload,
)
from trishake_protocol.noise import HandshakeState
from trishake_protocol.patterns import CLASSICAL, SUITES
from trishake_protocol.primitives import KeyPair
from trishake_protocol.records import RecordReader, RecordWriter

Signature: TypeAlias = bytes | Callable[[GreetingContext, bytes], bytes]
"""64 bytes, or what makes them of (context, record)."""

Payload: TypeAlias = bytes | Callable[[bytes, bytes], bytes]
"""The plaintext of a greeting, or what makes it of (record, signature)."""

_MOST: Final = 2**26
"""Bytes; whoever sends more before the end of the stream is not listened to any longer."""


class ByHand:
    """One end of a greeting, and of the connection behind it, in a test's hands.

    It sends nothing by itself: `flight`, `syn_ack`, `ack`, `record` give bytes, `say` writes them, and the other
    methods read. What comes that is not what was to be read raises AssertionError.

    identity: who signs. suite: what is offered; by default the dialer's choice, or else the classical one.
    static_key: instead of the identity's own. ephemeral: instead of a fresh one. caps: by default streams, without
    which no Peer goes on; `initiate` and `respond`, which have none, take it for one who has said nothing.
    """

    role: Role
    """Known once it has dialed or was dialed; so are these: """
    noise: HandshakeState
    writer: RecordWriter
    reader: RecordReader

    def __init__(
        self,
        stream: trio.abc.Stream,
        identity: Identity,
        *,
        suite: Suite | None = None,
        network: Network | None = None,
        static_key: KeyPair | None = None,
        ephemeral: KeyPair | None = None,
        version_max: int = 1,
        caps: Sequence[str] = (MUX,),
    ) -> None:
        self.stream = stream
        self.identity = identity
        self._follows = suite is None
        self.suite = suite or CLASSICAL
        self.network = network or Network()
        self.static_key = static_key or identity.static_key
        self.ephemeral = ephemeral
        self.offers: tuple[int, ...] = (self.suite.id,)
        self.version_max = version_max
        self.caps = tuple(caps)
        self.heard = b""
        """Every byte that the other side has sent."""
        self.read = 0
        """How many of them have been made sense of."""
        self._responder: PeerId | None = None

    # --- bytes ------------------------------------------------------------------------------------------

    async def say(self, *parts: bytes) -> None:
        """Write them, as one."""
        await self.stream.send_all(b"".join(parts))

    async def hear(self, length: int) -> bytes:
        """Exactly so many bytes."""
        while len(self.heard) - self.read < length:
            data = await self.stream.receive_some(length - (len(self.heard) - self.read))
            _check(data, f"the other side ended after {self.heard.hex()}")
            self.heard += data
        part = self.heard[self.read : self.read + length]
        self.read += length
        return part

    async def hear_frame(self) -> tuple[int, bytes]:
        """(type, body) of the next frame."""
        header = await self.hear(3)
        return header[0], await self.hear(int.from_bytes(header[1:], "big"))

    async def hear_to_end(self) -> bytes:
        """What comes from here to the end of the stream, or until it breaks."""
        rest = self.heard[self.read :] + await read_to_end(self.stream)
        self.heard = self.heard[: self.read] + rest
        self.read = len(self.heard)
        return rest

    # --- as the initiator -------------------------------------------------------------------------------

    def flight(self, *, suite: int | None = None, preface: bytes | None = None) -> bytes:
        """Preface and SYN. preface: another one than is hashed."""
        self.role = Role.INITIATOR
        said = Preface(
            suite or self.suite.id, self.offers, self.network.tag, version_max=self.version_max
        ).encode()
        self._start(said)
        return (preface or said) + encode_frame(FrameType.SYN, self.noise.write_message())

    async def hear_syn_ack(self, responder: PeerId) -> bytes:
        """Read SYN-ACK and believe it; its payload."""
        body = await self._hear(FrameType.SYN_ACK)
        self._responder = responder
        return self.noise.read_message(body)

    # --- as the responder -------------------------------------------------------------------------------

    async def hear_flight(self) -> Preface:
        """Read preface and SYN."""
        self.role = Role.RESPONDER
        header = await self.hear(19)
        rest = await self.hear(2 * header[8] + int.from_bytes(header[9:11], "big"))
        decoded = Preface.decode(header + rest)
        if decoded is None:
            raise AssertionError(f"a preface that is not complete: {(header + rest).hex()}")
        preface, _ = decoded
        if self._follows and preface.suite in SUITES:
            self.suite, self.offers = SUITES[preface.suite], (preface.suite,)
        body = await self._hear(FrameType.SYN)
        self._start(header + rest)
        self.noise.read_message(body)
        return preface

    async def hear_ack(self) -> bytes:
        """Read ACK; its payload."""
        payload = self.noise.read_message(await self._hear(FrameType.ACK))
        self._split()
        return payload

    # --- as either --------------------------------------------------------------------------------------

    def honest(self, **changes: Any) -> Greeting:
        """An honest greeting, but for these fields."""
        said = Greeting(
            self.role.value, self.identity.id.key, self.offers, int(time.time()), vers=(1, self.version_max)
        )
        return replace(said, **{"caps": self.caps, **changes})

    def syn_ack(
        self,
        greeting: Greeting | bytes | None = None,
        *,
        signature: Signature | None = None,
        payload: Payload | None = None,
    ) -> bytes:
        """SYN-ACK. greeting: a record, instead of an honest one. signature, payload: instead of what would be
        right for it.
        """
        return self._greet(FrameType.SYN_ACK, greeting, signature, payload)

    def ack(
        self,
        greeting: Greeting | bytes | None = None,
        *,
        signature: Signature | None = None,
        payload: Payload | None = None,
    ) -> bytes:
        """ACK, in the same way."""
        frame = self._greet(FrameType.ACK, greeting, signature, payload)
        self._split()
        return frame

    def record(self, type_: RecordType, content: bytes = b"") -> bytes:
        """An encrypted record, framed."""
        return self.writer.encode(type_, content)

    def verdict(self, verdict: Verdict) -> bytes:
        """The record with this verdict."""
        return self.record(RecordType.VERDICT, verdict.encode())

    def ready(self) -> bytes:
        """The verdict that takes the other side in."""
        return self.verdict(Verdict(VerdictCode.READY))

    async def hear_record(self) -> tuple[RecordType, bytes]:
        """(type, content) of the next record."""
        return self.reader.decode(await self._hear(FrameType.RECORD))

    async def hear_verdict(self) -> Verdict:
        """The next record, which is VERDICT."""
        type_, content = await self.hear_record()
        _check(type_ is RecordType.VERDICT, f"{type_.name} came where VERDICT was to come")
        return Verdict.decode(content)

    async def hear_close(self) -> Close:
        """The next record, which is CLOSE."""
        type_, content = await self.hear_record()
        _check(type_ is RecordType.CLOSE, f"{type_.name} came where CLOSE was to come")
        return Close.decode(content)

    # --- the whole of it --------------------------------------------------------------------------------

    async def answer(self) -> None:
        """The responder's part, up to the ACK; the verdict is the test's."""
        await self.hear_flight()
        await self.say(self.syn_ack())
        await self.hear_ack()

    async def call(self, responder: PeerId) -> None:
        """The initiator's part, up to and with the ACK; the verdict has not been read."""
        await self.say(self.flight())
        await self.hear_syn_ack(responder)
        await self.say(self.ack())

    async def _hear(self, type_: FrameType) -> bytes:
        found, body = await self.hear_frame()
        _check(found == type_, f"frame 0x{found:02X}, {body.hex()}, came where {type_.name} was to come")
        return body

    def _greet(
        self,
        type_: FrameType,
        greeting: Greeting | bytes | None,
        signature: Signature | None,
        payload: Payload | None,
    ) -> bytes:
        said = self.honest() if greeting is None else greeting
        record = said.encode() if isinstance(said, Greeting) else said

        def compose(h: bytes) -> bytes:
            if isinstance(payload, bytes):
                return payload
            context = GreetingContext(self.role, h, self.static_key.public, self._responder)
            sign = self.identity.sign_greeting if signature is None else signature
            signed = sign if isinstance(sign, bytes) else sign(context, record)
            return (payload or encode_greeting_payload)(record, signed)

        return encode_frame(type_, self.noise.write_message(compose))

    def _start(self, preface: bytes) -> None:
        self.noise = HandshakeState(
            self.suite.noise_name,
            self.suite.pattern,
            self.role,
            prologue=self.network.prologue(preface),
            s=self.static_key,
            e=self.ephemeral,
            psks=self.network.psks[:1],
        )

    def _split(self) -> None:
        to_responder, to_initiator = self.noise.split()
        ours, theirs = (
            (to_responder, to_initiator) if self.role is Role.INITIATOR else (to_initiator, to_responder)
        )
        self.writer, self.reader = RecordWriter(ours), RecordReader(theirs)


def mux(type_: MuxType, flags: int, stream: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A frame of a stream, for a DATA record. length: what it claims, if not that of its body."""
    return MuxFrame(type_, flags, stream, len(body) if length is None else length).encode() + body


def opening(stream: int, protocol: str, flags: int = MuxFlag.SYN) -> bytes:
    """The frame that opens a stream, for a DATA record."""
    return mux(MuxType.DATA, flags, stream, StreamOpen(protocol).encode())


async def read_to_end(stream: trio.abc.ReceiveStream, *, most: int = _MOST) -> bytes:
    """All that comes until the end of the stream, or until it breaks; not much more than that many bytes."""
    received = bytearray()
    try:
        while len(received) < most and (data := await stream.receive_some()):
            received += data
    except trio.BrokenResourceError:
        pass
    return bytes(received)


def _check(condition: object, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)
