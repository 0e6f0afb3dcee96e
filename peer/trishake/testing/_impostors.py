"""Hostile peers that claim to be somebody else, or to have said something else, than they are and have.

    who they are        impostor, unsigned, squatter, doppelganger, stolen_static, small_order_identity, …
    what they signed    wrong_transcript, wrong_static_key, wrong_responder, misbinding, interceptor, …
    what they say       expired, unknown_critical, bad_padding, downgrader, role_confusion, …
    what was said       replayer, reflecting, echoing, self_relay
    in between          man_in_the_middle, preface_tamperer, record_dropper, record_reorderer, …

IMPOSTORS is all of them. Nearly each is met by one check of section 6, 7 or 9 of the specification, and passes
all those before it: a peer that leaves that check out takes what it must not take, or names another reason. A few
are stopped by the keys alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypedDict, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from trishake_protocol import PeerId, Role, VerdictCode
from trishake_protocol.identity import GreetingContext
from trishake_protocol.limits import EXPIRY_ALLOWANCE, FRAME_HEADER, GREETING_BLOCK, PREFACE_HEADER
from trishake_protocol.messages import (
    Close,
    FrameType,
    Ping,
    RecordType,
    Verdict,
    encode_frame,
    encode_greeting_payload,
)
from trishake_protocol.network import Network
from trishake_protocol.noise import HandshakeError
from trishake_protocol.patterns import SUITES, Suite
from trishake_protocol.primitives import KeyPair

from .._memory import memory_pair
from .._transport import abandon
from ._by_hand import ByHand
from ._hostile import HostilePeer, Right, Scene, hostile_peer

_packb = cast("Callable[..., bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType]

_NOTHING_ELSE: Final[Mapping[str, Any]] = MappingProxyType({})

_UNKNOWN_OFFER: Final = 0x7A7A
"""A suite that there is not."""

_VERSION_MAX_AT: Final = 5
_N_OFFERS_AT: Final = 8
_EXT_LENGTH_AT: Final = slice(9, 11)
"""Places in a preface."""

NEUTRAL: Final = b"\x01" + bytes(31)
"""The neutral element, as a key and as the R of a signature, which is then good for every text."""

NOT_CANONICAL: Final = b"\xef" + b"\xff" * 30 + b"\x7f"
"""y = p + 2, which is to be written as 2."""


class _Rights(TypedDict):
    listener: Right
    dialer: Right


def _refused(name: str) -> _Rights:
    """By a VERDICT of that name; a dialer has the same reason, and says no more than ABORTED."""
    return {"listener": Right(name, told=name), "dialer": Right(name, told="ABORTED")}


def _ended(name: str) -> _Rights:
    """Taken in, and then ended with a CLOSE of that name."""
    return {
        "listener": Right("accepted", told="READY", ended=name, closed=name),
        "dialer": Right("accepted", ended=name, closed=name),
    }


async def _greet(
    scene: Scene,
    hand: ByHand | None = None,
    *,
    claims: Mapping[str, Any] = _NOTHING_ELSE,
    record: Callable[[bytes], bytes] | None = None,
    responder: PeerId | None = None,
    **said: Any,
) -> None:
    """Greet, up to what the right peer makes of it.

    claims: fields of the greeting that are not honest. record: what becomes of it before it is signed.
    responder: who is taken for the one that answers. said: of `ByHand.ack`.
    """
    hand = hand or scene.hand()
    dials = scene.role is Role.INITIATOR
    if dials:
        await hand.say(hand.flight())
        await hand.hear_syn_ack(responder or _dialed(scene))
    else:
        await hand.hear_flight()
    greeting = hand.honest(**claims).encode()
    greeting = greeting if record is None else record(greeting)
    if dials:
        await hand.say(hand.ack(greeting, **said))
        await scene.hear_verdict(hand)
    else:
        await hand.say(hand.syn_ack(greeting, **said))
        await scene.hear_the_end()


async def _get_in(scene: Scene, hand: ByHand) -> bool:
    """Greet as is right. Whether the connection is open then: a listener need not welcome strangers."""
    if scene.role is Role.RESPONDER:
        await hand.answer()
        await hand.say(hand.ready())
        return True
    await hand.call(_dialed(scene))
    await scene.hear_verdict(hand)
    return scene.answer.told == VerdictCode.READY.name


def _dialed(scene: Scene) -> PeerId:
    if scene.right is None:
        raise AssertionError("who listens is to be dialed by its id, and the invite has none")
    return scene.right


def _ping(number: int) -> bytes:
    return Ping(number.to_bytes(8, "big"), answer=False).encode()


def _flipped(data: bytes, at: int, mask: int = 0x01) -> bytes:
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


# --- who they are ---------------------------------------------------------------------------------------


@hostile_peer(**_refused("BAD_SIGNATURE"), poses=True)
async def impostor(scene: Scene) -> None:
    """Claims another's id, and signs with a key of its own.

    A right listener says BAD_SIGNATURE, under encryption; a right dialer refuses it with BAD_SIGNATURE, and says
    ABORTED, which names nobody.
    """
    await _greet(scene, claims={"id": scene.victim.id.key})


@hostile_peer(**_refused("BAD_SIGNATURE"), poses=True)
async def unsigned(scene: Scene) -> None:
    """Claims another's id, and leaves the signature out.

    A right listener says BAD_SIGNATURE; a right dialer refuses it with BAD_SIGNATURE, and says ABORTED.
    """
    await _greet(scene, claims={"id": scene.victim.id.key}, signature=b"")


@hostile_peer(dialer=Right("IDENTITY_UNKNOWN", told="ABORTED"), poses=True)
async def squatter(scene: Scene) -> None:
    """Answers at another's address, with an identity of its own that it proves.

    A right dialer refuses it with IDENTITY_UNKNOWN, since it was to be the other, and says ABORTED.
    """
    await _greet(scene)


@hostile_peer(listener=Right("BAD_SIGNATURE", told="BAD_SIGNATURE"))
async def doppelganger(scene: Scene) -> None:
    """Claims the id of the very listener that it dials.

    A right listener says BAD_SIGNATURE: whether the key is its own is asked after whether it is there at all.
    """
    await _greet(scene, claims={"id": _dialed(scene).key})


@hostile_peer(**_refused("BAD_SIGNATURE"), poses=True)
async def stolen_static(scene: Scene) -> None:
    """Has another's Noise static key pair, and a greeting that the other has signed before for the same peer.

    A right listener says BAD_SIGNATURE, since the signature covers the transcript of one greeting; a right dialer
    refuses it with BAD_SIGNATURE, and says ABORTED.
    """
    await _say_what_the_victim_said(scene, scene.hand(static_key=scene.victim.static_key))


@hostile_peer(**_refused("BAD_IDENTITY_KEY"))
async def small_order_identity(scene: Scene) -> None:
    """Has the neutral element for its key, under which one signature is good for every text.

    A right listener says BAD_IDENTITY_KEY; a right dialer refuses it with BAD_IDENTITY_KEY, and says ABORTED.
    """
    await _greet(scene, claims={"id": NEUTRAL}, signature=NEUTRAL + bytes(32))


@hostile_peer(**_refused("BAD_IDENTITY_KEY"))
async def noncanonical_identity(scene: Scene) -> None:
    """Writes its key as no key is to be written, with a y that is not reduced: one identity had two ids.

    A right listener says BAD_IDENTITY_KEY; a right dialer refuses it with BAD_IDENTITY_KEY, and says ABORTED.
    """
    await _greet(scene, claims={"id": NOT_CANONICAL})


@hostile_peer(**_refused("BAD_IDENTITY_KEY"))
async def unknown_algorithm(scene: Scene) -> None:
    """Says that its key is of another algorithm than Ed25519.

    A right listener says BAD_IDENTITY_KEY; a right dialer refuses it with BAD_IDENTITY_KEY, and says ABORTED.
    """
    await _greet(scene, claims={"alg": "none"})


class _SmallOrder(KeyPair):
    """The X25519 key 0: what it agrees on with anybody is known to everybody."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "public", bytes(32))

    def dh(self, public: bytes) -> bytes:
        return bytes(32)


class _WithoutPrivate(KeyPair):
    """Another's X25519 key, of which it has the public half only."""

    def __init__(self, public: bytes) -> None:
        super().__init__()
        object.__setattr__(self, "public", public)


@hostile_peer(**_refused("HANDSHAKE_FAILED"))
async def small_order_ephemeral(scene: Scene) -> None:
    """Sends an ephemeral key of small order, with which every shared secret is zero.

    A right listener says HANDSHAKE_FAILED, in clear; a right dialer refuses it with HANDSHAKE_FAILED, and says
    ABORTED.
    """
    await _greet(scene, scene.hand(ephemeral=_SmallOrder()))


@hostile_peer(**_refused("HANDSHAKE_FAILED"))
async def small_order_static(scene: Scene) -> None:
    """Sends a Noise static key of small order, with which every shared secret is zero.

    A right listener says HANDSHAKE_FAILED, in clear; a right dialer refuses it with HANDSHAKE_FAILED, and says
    ABORTED.
    """
    await _greet(scene, scene.hand(static_key=_SmallOrder()))


@hostile_peer(**_refused("HANDSHAKE_FAILED"))
async def outsider(scene: Scene) -> None:
    """Knows neither the name of the network nor its key, and repeats the tag that it has seen on the wire.

    A right listener says HANDSHAKE_FAILED, in a private network before it has answered anything else; a right
    dialer refuses it with HANDSHAKE_FAILED, and says ABORTED.
    """
    private = scene.network.private
    elsewhere = Network("elsewhere", psk=scene.seed.randbytes(32) if private else None)
    object.__setattr__(elsewhere, "tag", scene.network.tag)
    hand = scene.hand(network=elsewhere)
    if scene.role is Role.RESPONDER:
        await _answer_blindly(scene, hand)
        return
    await hand.say(hand.flight())
    if private:
        await scene.hear_the_end()
    else:
        await _call_blindly(scene, hand)


# --- what they signed -----------------------------------------------------------------------------------


async def _sign_otherwise(scene: Scene, **otherwise: Any) -> None:
    """Sign as is right, but for these parts of the context."""

    def sign(context: GreetingContext, record: bytes) -> bytes:
        return scene.identity.sign_greeting(context._replace(**otherwise), record)

    await _greet(scene, signature=sign)


@hostile_peer(**_refused("BAD_SIGNATURE"))
async def wrong_transcript(scene: Scene) -> None:
    """Signs its greeting for another transcript: one signature were good for every connection.

    A right listener says BAD_SIGNATURE; a right dialer refuses it with BAD_SIGNATURE, and says ABORTED.
    """
    await _sign_otherwise(scene, handshake_hash=bytes(32))


@hostile_peer(**_refused("BAD_SIGNATURE"))
async def wrong_static_key(scene: Scene) -> None:
    """Signs its greeting for another Noise static key than it uses.

    A right listener says BAD_SIGNATURE; a right dialer refuses it with BAD_SIGNATURE, and says ABORTED.
    """
    await _sign_otherwise(scene, static_key=scene.victim.static_key.public)


@hostile_peer(**_refused("BAD_SIGNATURE"))
async def wrong_responder(scene: Scene) -> None:
    """Signs its greeting for another responder; as one, it names a responder where none is to be named.

    A right listener says BAD_SIGNATURE; a right dialer refuses it with BAD_SIGNATURE, and says ABORTED.
    """
    await _sign_otherwise(scene, responder=scene.victim.id)


@hostile_peer(**_refused("BAD_SIGNATURE"))
async def wrong_role(scene: Scene) -> None:
    """Signs its greeting as the other role would.

    A right listener says BAD_SIGNATURE; a right dialer refuses it with BAD_SIGNATURE, and says ABORTED.
    """
    await _sign_otherwise(scene, role=scene.role.other)


@hostile_peer(**_refused("BAD_SIGNATURE"))
async def wrong_record(scene: Scene) -> None:
    """Signs another record than it sends.

    A right listener says BAD_SIGNATURE; a right dialer refuses it with BAD_SIGNATURE, and says ABORTED.
    """

    def sign(context: GreetingContext, record: bytes) -> bytes:
        return scene.identity.sign_greeting(context, _flipped(record, -1))

    await _greet(scene, signature=sign)


@hostile_peer(
    listener=Right("BAD_SIGNATURE", told="BAD_SIGNATURE"), dialer=Right("IDENTITY_UNKNOWN", told="ABORTED")
)
async def misbinding(scene: Scene) -> None:
    """Dialed by somebody who means it, passes him on to another peer; dialed by a right peer, passes that on too.

    Without the responder's id in what the caller signs, a listener would take him for one who meant to call it. A
    right listener says BAD_SIGNATURE; a right dialer, who is answered by another, refuses it with
    IDENTITY_UNKNOWN, and says ABORTED.
    """
    await _greet(scene, scene.hand(scene.victim), responder=scene.identity.id)


@hostile_peer(**_refused("HANDSHAKE_FAILED"))
async def key_misbinding(scene: Scene) -> None:
    """Signs another's Noise static key as its own, without its private half: what the other says were its words.

    A right listener says HANDSHAKE_FAILED, in clear; a right dialer refuses it with HANDSHAKE_FAILED, and says
    ABORTED.
    """
    await _greet(scene, scene.hand(static_key=_WithoutPrivate(scene.victim.static_key.public)))


@hostile_peer(**_refused("BAD_SIGNATURE"), poses=True)
async def interceptor(scene: Scene) -> None:
    """A man in the middle who greets both sides with keys of his own, and hands on what the other side has signed.

    A right listener says BAD_SIGNATURE; a right dialer refuses it with BAD_SIGNATURE, and says ABORTED.
    """
    await _say_what_the_victim_said(scene, scene.hand())


async def _say_what_the_victim_said(scene: Scene, hand: ByHand) -> None:
    """Greet with what the victim has said to somebody else, signature and all."""
    if scene.role is Role.INITIATOR:
        await _greet(scene, hand, payload=await _greeting_of_the_victim(scene, hand.suite))
    else:
        await hand.hear_flight()
        await hand.say(hand.syn_ack(payload=await _greeting_of_the_victim(scene, hand.suite)))
        await scene.hear_the_end()


async def _greeting_of_the_victim(scene: Scene, suite: Suite) -> bytes:
    """What the victim says and signs in the role that is now ours, to one with other keys: the plaintext."""
    one, other = memory_pair()
    victim = ByHand(one, scene.victim, suite=suite, network=scene.network)
    there = ByHand(other, scene.identity, suite=suite, network=scene.network)
    if scene.role is Role.INITIATOR:
        await victim.say(victim.flight())
        await there.hear_flight()
        await there.say(there.syn_ack())
        await victim.hear_syn_ack(_dialed(scene))
        await victim.say(victim.ack())
        return await there.hear_ack()
    await there.say(there.flight())
    await victim.hear_flight()
    await victim.say(victim.syn_ack())
    return await there.hear_syn_ack(scene.victim.id)


# --- what they say --------------------------------------------------------------------------------------


@hostile_peer(**_refused("EXPIRED"))
async def expired(scene: Scene) -> None:
    """Greets with a record whose time was over an hour ago.

    A right listener says EXPIRED; a right dialer refuses it with EXPIRED, and says ABORTED.
    """
    await _greet(scene, claims={"exp": int(time.time()) - EXPIRY_ALLOWANCE - 3600})


@hostile_peer(**_refused("UNSUPPORTED_CRITICAL"))
async def unknown_critical(scene: Scene) -> None:
    """Says something that must be understood, under a key that nobody knows.

    A right listener says UNSUPPORTED_CRITICAL; a right dialer refuses it with UNSUPPORTED_CRITICAL, and says
    ABORTED.
    """
    await _greet(scene, claims={"extra": {"!only-on-sundays": True}})


@hostile_peer(**_refused("BAD_GREETING"))
async def bad_padding(scene: Scene) -> None:
    """Hides words in the padding of its greeting, which no signature covers.

    A right listener says BAD_GREETING; a right dialer refuses it with BAD_GREETING, and says ABORTED.
    """

    def hide(record: bytes, signature: bytes) -> bytes:
        unpadded = len(encode_greeting_payload(record, signature).rstrip(b"\x00"))
        words = b"nobody checks this".ljust(GREETING_BLOCK - unpadded % GREETING_BLOCK, b".")
        return _packb([record, signature, words])

    await _greet(scene, payload=hide)


@hostile_peer(**_refused("BAD_GREETING"))
async def noncanonical_greeting(scene: Scene) -> None:
    """Signs a record whose encoding is not the shortest: what is read and what was signed could come apart.

    A right listener says BAD_GREETING; a right dialer refuses it with BAD_GREETING, and says ABORTED.
    """
    await _greet(scene, record=lambda record: b"\xde\x00" + bytes((record[0] & 0x0F,)) + record[1:])


@hostile_peer(**_refused("BAD_GREETING"))
async def role_confusion(scene: Scene) -> None:
    """Signs a record that says that it is of the other role.

    A right listener says BAD_GREETING; a right dialer refuses it with BAD_GREETING, and says ABORTED.
    """
    await _greet(scene, claims={"role": scene.role.other.value})


@hostile_peer(**_refused("DOWNGRADE"))
async def downgrader(scene: Scene) -> None:
    """Speaks the worse of two suites that both sides have; as responder, one that it says it does not have.

    So it looks to the listener when somebody has made a dialer try again with less, and to a dialer when an
    answer is of another suite than both would choose. A right listener says DOWNGRADE; a right dialer refuses it
    with DOWNGRADE, and says ABORTED.
    """
    hand = scene.hand()
    if scene.role is Role.RESPONDER:
        await hand.hear_flight()
        others = tuple(id_ for id_ in scene.network.default_suites if id_ != hand.suite.id)
        await hand.say(hand.syn_ack(hand.honest(offers=others)))
        await scene.hear_the_end()
    elif len(scene.suites) > 1:
        hand = scene.hand(suite=SUITES[scene.suites[-1]])
        hand.offers = scene.suites
        await _greet(scene, hand)
    else:  # there is no worse one: then they do not agree on what was offered
        await _greet(scene, hand, claims={"offers": (*hand.offers, _UNKNOWN_OFFER)})


@hostile_peer(listener=Right("DOWNGRADE", told="DOWNGRADE"))
async def offers_stripper(scene: Scene) -> None:
    """Signs that it has offered one suite more than its preface says: as if that had been struck out on the way.

    A right listener says DOWNGRADE.
    """
    hand = scene.hand()
    await _greet(scene, hand, claims={"offers": (*hand.offers, _UNKNOWN_OFFER)})


@hostile_peer(**_refused("DOWNGRADE"))
async def version_downgrader(scene: Scene) -> None:
    """Signs that it does not speak the version that it speaks.

    A right listener says DOWNGRADE; a right dialer refuses it with DOWNGRADE, and says ABORTED.
    """
    hand = scene.hand(version_max=3)
    await _greet(scene, hand, claims={"vers": (2, 3)})


@hostile_peer(listener=Right("DOWNGRADE", told="DOWNGRADE"))
async def version_stripper(scene: Scene) -> None:
    """Signs that it speaks a higher version than its preface says: as if that had been struck out on the way.

    A right listener says DOWNGRADE.
    """
    await _greet(scene, claims={"vers": (1, 2)})


# --- what was said before -------------------------------------------------------------------------------


@hostile_peer(**_refused("HANDSHAKE_FAILED"), poses=True)
async def replayer(scene: Scene) -> None:
    """Has recorded a whole greeting of another, byte for byte, and sends it once more.

    To a listener it is one that this listener has taken before. A right listener says HANDSHAKE_FAILED, in clear;
    a right dialer refuses it with HANDSHAKE_FAILED, and says ABORTED.
    """
    if scene.role is Role.RESPONDER:
        hand = scene.hand()
        await hand.hear_flight()
        await hand.say(await _syn_ack_of_the_victim(scene, hand.suite))
        await scene.hear_the_end()
        return
    flight, ack = await _call_of_the_victim(scene)
    hand = scene.hand()
    await hand.say(flight)
    await hand.hear_frame()
    await hand.say(ack)
    await scene.hear_the_end()


async def _syn_ack_of_the_victim(scene: Scene, suite: Suite) -> bytes:
    """As it was sent to somebody else who spoke the same suite: the frame."""
    one, other = memory_pair()
    victim = ByHand(one, scene.victim, suite=suite, network=scene.network)
    there = ByHand(other, scene.identity, suite=suite, network=scene.network)
    await there.say(there.flight())
    await victim.hear_flight()
    return victim.syn_ack()


async def _call_of_the_victim(scene: Scene) -> tuple[bytes, bytes]:
    """(preface and SYN, ACK) with which the victim has been at this listener; it has left again."""
    stream = await scene.another()
    victim = ByHand(stream, scene.victim, suite=scene.suite, network=scene.network)
    try:
        flight = victim.flight()
        await victim.say(flight)
        await victim.hear_syn_ack(_dialed(scene))
        ack = victim.ack()
        await victim.say(ack)
        if (await victim.hear_verdict()).code is VerdictCode.READY:
            await victim.say(victim.record(RecordType.CLOSE, Close().encode()))
        await victim.hear_to_end()
    finally:
        await abandon(stream)
    return flight, ack


@hostile_peer(**_refused("HANDSHAKE_FAILED"))
async def reflecting(scene: Scene) -> None:
    """Has no key of its own, and sends back those of the other side, encrypted as they came.

    A right listener says HANDSHAKE_FAILED, in clear; a right dialer refuses it with HANDSHAKE_FAILED, and says
    ABORTED.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        await hand.say(hand.flight())
        _, body = await hand.hear_frame()
        await hand.say(encode_frame(FrameType.ACK, body[hand.suite.syn_ack - hand.suite.ack :]))
    else:
        await hand.hear_flight()
        made_up = scene.seed.randbytes(hand.suite.syn_ack - len(hand.noise.re) + GREETING_BLOCK)
        await hand.say(encode_frame(FrameType.SYN_ACK, hand.noise.re + made_up))
    await scene.hear_the_end()


@hostile_peer(listener=Right("MALFORMED", told="MALFORMED"), dialer=Right("syn-ack/foreign"))
async def echoing(scene: Scene) -> None:
    """Sends back every byte that it hears.

    A right listener says MALFORMED, since a SYN-ACK is nothing that it is sent; a right dialer counts it as
    syn-ack/foreign, for a preface is no frame, and hangs up without a word.
    """
    if scene.role is Role.INITIATOR:
        hand = scene.hand()
        await hand.say(hand.flight())
    async for data in scene.stream:
        await scene.stream.send_all(data)


@hostile_peer(dialer=Right(("SELF", "syn-ack/closed")))
async def self_relay(scene: Scene) -> None:
    """Hands a dialer's own words to the listener of that same dialer, and the answer back to it.

    A right dialer counts it as SELF, for its listener knows the dial for one of its own, and hangs up without a
    word; one that does not listen is hung up on, and counts it as syn-ack/closed.
    """
    hand = scene.hand()
    await hand.hear_flight()
    if not scene.has_another:
        await scene.stream.send_eof()
        await scene.hear_the_end()
        return
    there = await scene.another()
    try:
        await there.send_all(hand.heard)
        await scene.stream.send_all(await there.receive_some())
        await scene.hear_the_end()
    finally:
        await abandon(there)


# --- in between -----------------------------------------------------------------------------------------
# These pass on what an honest victim says, in either role, but for what their docstrings say.


@hostile_peer(**_refused("HANDSHAKE_FAILED"), poses=True)
async def man_in_the_middle(scene: Scene) -> None:
    """Passes everything on as it came but for one byte: of an honest peer's SYN-ACK, or ACK.

    A right listener says HANDSHAKE_FAILED, in clear; a right dialer refuses it with HANDSHAKE_FAILED, and says
    ABORTED.
    """
    hand = scene.hand(scene.victim)
    if scene.role is Role.INITIATOR:
        await hand.say(hand.flight())
        await hand.hear_syn_ack(_dialed(scene))
        await hand.say(_flipped(hand.ack(), -1))
    else:
        await hand.hear_flight()
        await hand.say(_flipped(hand.syn_ack(), -1))
    await scene.hear_the_end()


@hostile_peer(**_refused("HANDSHAKE_FAILED"), poses=True)
async def preface_tamperer(scene: Scene) -> None:
    """Passes everything on as it came but for one byte of the preface that is not looked at before the end.

    It goes on where the honest peer cannot. A right listener says HANDSHAKE_FAILED, in clear; a right dialer
    refuses it with HANDSHAKE_FAILED, and says ABORTED.
    """
    await _tamper_with_the_flight(scene, lambda preface: _VERSION_MAX_AT)


@hostile_peer(**_refused("HANDSHAKE_FAILED"), poses=True)
async def syn_tamperer(scene: Scene) -> None:
    """Passes everything on as it came but for one bit of the key in SYN.

    It goes on where the honest peer cannot. A right listener says HANDSHAKE_FAILED, in clear; a right dialer
    refuses it with HANDSHAKE_FAILED, and says ABORTED.
    """

    def first_of_the_key(preface: bytes) -> int:
        extension = int.from_bytes(preface[_EXT_LENGTH_AT], "big")
        return PREFACE_HEADER + 2 * preface[_N_OFFERS_AT] + extension + FRAME_HEADER

    await _tamper_with_the_flight(scene, first_of_the_key)


async def _tamper_with_the_flight(scene: Scene, place: Callable[[bytes], int]) -> None:
    """place: of the byte that is changed, for the header of the preface."""
    hand = scene.hand(scene.victim)
    if scene.role is Role.INITIATOR:
        flight = hand.flight()
        await hand.say(_flipped(flight, place(flight), 0x02))
        await _call_blindly(scene, hand)
        return
    at = place(await hand.hear(PREFACE_HEADER))
    await hand.hear(max(0, at + 1 - hand.read))
    hand.heard, hand.read = _flipped(hand.heard, at, 0x02), 0
    await _answer_blindly(scene, hand)


async def _call_blindly(scene: Scene, hand: ByHand) -> None:
    """Send ACK whether or not the SYN-ACK can be read: where not, one that is made up."""
    try:
        await hand.hear_syn_ack(_dialed(scene))
    except HandshakeError:
        await hand.say(encode_frame(FrameType.ACK, scene.seed.randbytes(hand.suite.ack + GREETING_BLOCK)))
        await scene.hear_the_end()
        return
    await hand.say(hand.ack())
    await scene.hear_verdict(hand)


async def _answer_blindly(scene: Scene, hand: ByHand) -> None:
    """Send SYN-ACK whether or not the SYN can be read: where not, one that is made up."""
    try:
        await hand.hear_flight()
    except HandshakeError:
        made_up = scene.seed.randbytes(hand.suite.syn_ack + GREETING_BLOCK)
        await hand.say(encode_frame(FrameType.SYN_ACK, made_up))
    else:
        await hand.say(hand.syn_ack())
    await scene.hear_the_end()


async def _tamper_with_records(scene: Scene, tamper: Callable[[list[bytes]], list[bytes]]) -> None:
    """Get in, say three things that no right peer minds, as they come out of `tamper`, and be told to leave."""
    hand = scene.hand(scene.victim)
    if await _get_in(scene, hand):
        await hand.say(*tamper([hand.record(RecordType.PING, _ping(number)) for number in range(3)]))
        await scene.hear_close(hand)
        await scene.hear_the_end()


@hostile_peer(**_ended("PROTOCOL"), poses=True)
async def record_tamperer(scene: Scene) -> None:
    """Changes one byte of a record, once the two have met.

    A right listener has said READY to the honest one, and ends the connection with PROTOCOL; so does a right
    dialer.
    """
    await _tamper_with_records(scene, lambda records: [_flipped(records[0], -1), *records[1:]])


@hostile_peer(**_ended("PROTOCOL"), poses=True)
async def record_dropper(scene: Scene) -> None:
    """Keeps one record back, once the two have met, and passes on the next.

    A right listener has said READY to the honest one, and ends the connection with PROTOCOL; so does a right
    dialer.
    """
    await _tamper_with_records(scene, lambda records: records[1:])


@hostile_peer(**_ended("PROTOCOL"), poses=True)
async def record_replayer(scene: Scene) -> None:
    """Passes a record on twice, once the two have met.

    A right listener has said READY to the honest one, and ends the connection with PROTOCOL; so does a right
    dialer.
    """
    await _tamper_with_records(scene, lambda records: [records[0], *records])


@hostile_peer(**_ended("PROTOCOL"), poses=True)
async def record_reorderer(scene: Scene) -> None:
    """Passes two records on in the wrong order, once the two have met.

    A right listener has said READY to the honest one, and ends the connection with PROTOCOL; so does a right
    dialer.
    """
    await _tamper_with_records(scene, lambda records: [records[1], records[0], records[2]])


@hostile_peer(**_ended("PROTOCOL"), poses=True)
async def record_relabeller(scene: Scene) -> None:
    """Writes another frame type in front of a record, once the two have met.

    A right listener has said READY to the honest one, and ends the connection with PROTOCOL; so does a right
    dialer.
    """

    def relabel(records: list[bytes]) -> list[bytes]:
        return [bytes((FrameType.ALERT,)) + records[0][1:], *records[1:]]

    await _tamper_with_records(scene, relabel)


@hostile_peer(**_ended("PROTOCOL"), poses=True)
async def record_reflector(scene: Scene) -> None:
    """Sends a peer's own record back to it, once the two have met.

    A right listener has said READY to the honest one, and ends the connection with PROTOCOL; so does a right
    dialer.
    """
    hand = scene.hand(scene.victim)
    if not await _get_in(scene, hand):
        return
    await hand.say(hand.record(RecordType.PING, _ping(0)))
    _, body = await hand.hear_frame()
    hand.reader.decode(body)  # the reader counts them
    await hand.say(encode_frame(FrameType.RECORD, body))
    await scene.hear_close(hand)
    await scene.hear_the_end()


@hostile_peer(**_ended("PROTOCOL"))
async def unencrypted(scene: Scene) -> None:
    """Says a record in clear, once it is taken in.

    A right listener has said READY, and ends the connection with PROTOCOL; so does a right dialer.
    """
    hand = scene.hand()
    if await _get_in(scene, hand):
        await hand.say(encode_frame(FrameType.RECORD, _ping(0) + bytes((RecordType.PING,)) + bytes(16)))
        await scene.hear_close(hand)
        await scene.hear_the_end()


@hostile_peer(**_ended("PROTOCOL"))
async def second_verdict(scene: Scene) -> None:
    """Says READY once it is taken in: as initiator for once, as responder once more.

    A right listener has said READY, and ends the connection with PROTOCOL; so does a right dialer.
    """
    hand = scene.hand()
    if await _get_in(scene, hand):
        await hand.say(hand.ready())
        await scene.hear_close(hand)
        await scene.hear_the_end()


@hostile_peer(dialer=Right("verdict/broken"))
async def verdict_skipper(scene: Scene) -> None:
    """Proves who it is, says no verdict, and goes on as if it had.

    A right dialer does not take that for a welcome: it counts it as verdict/broken, and hangs up without a word.
    """
    hand = scene.hand()
    await hand.answer()
    await hand.say(hand.record(RecordType.PING, _ping(0)))
    await scene.hear_the_end()


@hostile_peer(dialer=Right("verdict/broken"))
async def verdict_in_clear(scene: Scene) -> None:
    """Says READY in clear: anybody on the way could have said it.

    A right dialer does not take that for a welcome: it counts it as verdict/broken, and hangs up without a word.
    """
    hand = scene.hand()
    await hand.answer()
    content = Verdict(VerdictCode.READY).encode() + bytes((RecordType.VERDICT,))
    await hand.say(encode_frame(FrameType.RECORD, content + bytes(16)))
    await scene.hear_the_end()


@hostile_peer(dialer=Right("verdict/broken"), poses=True)
async def verdict_relabeller(scene: Scene) -> None:
    """Writes another frame type in front of an honest peer's READY.

    A right dialer does not take that for a welcome: it counts it as verdict/broken, and hangs up without a word.
    """
    hand = scene.hand(scene.victim)
    await hand.answer()
    await hand.say(bytes((FrameType.ACK,)) + hand.ready()[1:])
    await scene.hear_the_end()


IMPOSTORS: Final[tuple[HostilePeer, ...]] = (
    impostor,
    unsigned,
    squatter,
    doppelganger,
    stolen_static,
    small_order_identity,
    noncanonical_identity,
    unknown_algorithm,
    small_order_ephemeral,
    small_order_static,
    outsider,
    wrong_transcript,
    wrong_static_key,
    wrong_responder,
    wrong_role,
    wrong_record,
    misbinding,
    key_misbinding,
    interceptor,
    expired,
    unknown_critical,
    bad_padding,
    noncanonical_greeting,
    role_confusion,
    downgrader,
    offers_stripper,
    version_downgrader,
    version_stripper,
    replayer,
    reflecting,
    echoing,
    self_relay,
    man_in_the_middle,
    preface_tamperer,
    syn_tamperer,
    record_tamperer,
    record_dropper,
    record_replayer,
    record_reorderer,
    record_relabeller,
    record_reflector,
    unencrypted,
    second_verdict,
    verdict_skipper,
    verdict_in_clear,
    verdict_relabeller,
)
"""All of them, in the order in which they stand here."""
