"""Hostile peers that break the rules of the wire: silent, too much, the wrong thing, cut off in the middle.

None of them claims to be anybody else. Those that need no key stand first; behind them, those that greet as they
should and turn hostile once they are in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from trishake_protocol import Role
from trishake_protocol.limits import FRAME_HEADER, STREAM_WINDOW, TAG_LENGTH
from trishake_protocol.messages import Close, FrameType, MuxFlag, MuxType, RecordType, encode_frame

from ._by_hand import ByHand, mux, opening
from ._hostile import HostilePeer, Right, Scene, Script, hostile_peer

_PAUSE: Final = 1.0
"""Seconds between two bytes of a slow peer: none of them is late, and all of them together are."""

_GARBAGE: Final = 4096
"""Bytes."""

_CROWD: Final = 300
"""Connections: more than there are slots for greetings."""

_FICKLE: Final = 1000
"""Streams, which fit into one record."""

_NOBODY_ANSWERS: Final = "hostile/1"
"""A protocol that no right peer has a handler for."""


# --- without a key --------------------------------------------------------------------------------------


@hostile_peer(listener=Right("syn/timeout"), dialer=Right("syn-ack/timeout"))
async def silent(scene: Scene) -> None:
    """Connects, or accepts, and says nothing at all.

    A right listener hangs up after `Limits.syn`, without a word, since nothing says that this is a peer at all; a
    right dialer gives up after `Limits.greeting`. Counted as syn/timeout and syn-ack/timeout.
    """
    await scene.hear_the_end()


@hostile_peer(listener=Right("syn/timeout", told="TIMEOUT"), dialer=Right("syn-ack/timeout"))
async def slow(scene: Scene) -> None:
    """Says what it should, a byte a second.

    Deadlines are absolute, so no byte pushes one back: a right listener says TIMEOUT after `Limits.syn`, a right
    dialer gives up after `Limits.greeting`. Counted as syn/timeout and syn-ack/timeout.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        said = hand.flight()
    else:
        await hand.hear_flight()
        said = hand.syn_ack()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_trickle, scene, said)
        await scene.hear_the_end()
        nursery.cancel_scope.cancel()


async def _trickle(scene: Scene, said: bytes) -> None:
    for i in range(len(said)):
        try:
            await scene.stream.send_all(said[i : i + 1])
        except trio.BrokenResourceError:
            return
        await trio.sleep(_PAUSE)


@hostile_peer(listener=Right("syn/foreign"), dialer=Right("syn-ack/foreign"))
async def garbage(scene: Scene) -> None:
    """Sends random bytes.

    A right listener hangs up at the first that are none of the magic's, without a word; a right dialer at the
    first that begins no frame. Counted as syn/foreign and syn-ack/foreign.
    """
    if scene.role is Role.RESPONDER:
        await scene.stream.receive_some()
    await scene.stream.send_all(b"\xff" + scene.seed.randbytes(_GARBAGE))
    await scene.hear_the_end()


@hostile_peer(listener=Right("MALFORMED", told="MALFORMED"), dialer=Right("syn-ack/broken"))
async def oversized(scene: Scene) -> None:
    """Announces a SYN, or a SYN-ACK, of 65535 bytes.

    A right listener says MALFORMED as soon as it has read the length, a right dialer hangs up (syn-ack/broken):
    neither waits for the rest, or makes room for it.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        preface = hand.flight()[: -FRAME_HEADER - hand.suite.syn]
        await hand.say(preface, bytes((FrameType.SYN,)), b"\xff\xff")
    else:
        await hand.hear_flight()
        await hand.say(bytes((FrameType.SYN_ACK,)), b"\xff\xff")
    await scene.hear_the_end()


@hostile_peer(listener=Right("syn/closed"), dialer=Right("syn-ack/closed"))
async def truncating(scene: Scene) -> None:
    """Ends its stream one byte before the end of SYN, or of SYN-ACK.

    A right peer ends the greeting in silence. Counted as syn/closed and syn-ack/closed.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        await hand.say(hand.flight()[:-1])
    else:
        await hand.hear_flight()
        await hand.say(hand.syn_ack()[:-1])
    await scene.stream.send_eof()
    await scene.hear_the_end()


@hostile_peer(listener=Right("ack/closed"), dialer=Right("verdict/closed"))
async def leaving(scene: Scene) -> None:
    """Ends its stream where it should send ACK, or the verdict.

    A dial that has heard no verdict is not accepted. Counted as ack/closed and verdict/closed.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        await hand.say(hand.flight())
    else:
        await hand.answer()
    await scene.stream.send_eof()
    await scene.hear_the_end()


@hostile_peer(listener=Right("syn/reset"), dialer=Right("syn-ack/reset"))
async def resetting(scene: Scene) -> None:
    """Breaks the connection in the middle of SYN, or of SYN-ACK.

    A right peer takes it for what it is, and tells nobody. Counted as syn/reset and syn-ack/reset.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        await hand.say(hand.flight()[:-1])
    else:
        await hand.hear_flight()
        await hand.say(hand.syn_ack()[:-1])
    await trio.sleep(_PAUSE)  # a reset overtakes what was sent
    scene.stream.reset()


@hostile_peer(listener=Right("BUSY", told="BUSY"))
async def flooding(scene: Scene) -> None:
    """Connects again and again, says nothing, and holds what it has.

    A right listener has so many slots for greetings and no more, in all and for each address: whoever comes beyond
    that is told BUSY, before any key is made. Once the silent ones have had their time, there is room for others.
    """
    told = trio.Event()

    async def wait_for_busy(stream: trio.abc.Stream) -> None:
        async with stream:
            try:
                if await stream.receive_some():
                    told.set()
            except trio.BrokenResourceError:
                pass

    async with trio.open_nursery() as nursery:
        for _ in range(_CROWD):
            if told.is_set():
                break
            nursery.start_soon(wait_for_busy, await scene.another())
            await trio.sleep(0)
        with trio.move_on_after(_PAUSE):
            await told.wait()
        nursery.cancel_scope.cancel()
    if told.is_set():
        scene.answer.told = "BUSY"


_CLIENTS: Final = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(505),
}
"""What somebody says who takes the port for one of another protocol."""

_SERVERS: Final = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n400 Bad Request",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "TLS": bytes.fromhex("15030100020246"),
}
"""What somebody answers at whose port another protocol is spoken."""


def foreign(protocol: str) -> HostilePeer:
    """Speaks another protocol: HTTP, SSH or TLS.

    A right listener hangs up without a word; a right dialer says which protocol it is. Counted as syn/foreign and
    syn-ack/foreign. Raises KeyError for another name.
    """
    client, server = _CLIENTS[protocol], _SERVERS[protocol]

    async def speak(scene: Scene) -> None:
        if scene.role is Role.INITIATOR:
            await scene.stream.send_all(client)
        else:
            await scene.stream.receive_some()
            await scene.stream.send_all(server)
            await scene.stream.send_eof()
        await scene.hear_the_end()

    speak.__name__ = f"foreign_{protocol.lower()}"
    speak.__doc__ = foreign.__doc__
    return HostilePeer(speak, listener=Right("syn/foreign"), dialer=Right("syn-ack/foreign", says=protocol))


# --- once they are in -----------------------------------------------------------------------------------
# To each of these a right listener has said READY.


def _breach(code: str) -> Callable[[Script], HostilePeer]:
    """Of one that is accepted, and whose connection a right peer ends with this code, and says so."""
    closed = None if code == "cut" else code
    return hostile_peer(
        listener=Right("accepted", told="READY", ended=code, closed=closed),
        dialer=Right("accepted", ended=code, closed=closed),
    )


async def _come_in(scene: Scene) -> ByHand:
    """Greet as one should, up to and with READY."""
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        assert scene.right is not None
        await hand.call(scene.right)
        await scene.hear_verdict(hand)
    else:
        await hand.answer()
        await hand.say(hand.ready())
    return hand


def _first_stream(scene: Scene) -> int:
    """The id of the first stream that this side may open."""
    return 1 if scene.role is Role.INITIATOR else 2


@_breach("cut")
async def vanishing(scene: Scene) -> None:
    """Is accepted, and ends its stream without CLOSE.

    A right peer takes that for a cut, never for an end: `ConnectionClosed` without a code.
    """
    await _come_in(scene)
    await scene.stream.send_eof()
    await scene.hear_the_end()


@_breach("cut")
async def never_reading(scene: Scene) -> None:
    """Is accepted, asks for a stream, and never reads an answer.

    A right peer waits for `Limits.keepalive`, asks whether anybody is there, and takes the connection for cut when
    nobody answers. Until then its writers are held back, and it keeps no more than they may send.
    """
    hand = await _come_in(scene)
    await hand.say(hand.record(RecordType.DATA, opening(_first_stream(scene), _NOBODY_ANSWERS)))
    await trio.sleep_forever()


@_breach("NORMAL")
async def speaking_behind_the_end(scene: Scene) -> None:
    """Is accepted, says CLOSE, and sends data behind it.

    CLOSE ends both directions: a right peer answers NORMAL, and takes none of that data.
    """
    hand = await _come_in(scene)
    data = opening(_first_stream(scene), _NOBODY_ANSWERS)
    await hand.say(hand.record(RecordType.CLOSE, Close().encode()), hand.record(RecordType.DATA, data))
    await scene.hear_close(hand)


@_breach("PROTOCOL")
async def speaking_on_no_stream(scene: Scene) -> None:
    """Is accepted, and sends data on a stream that nobody has opened.

    A right peer ends the connection with PROTOCOL.
    """
    hand = await _come_in(scene)
    await hand.say(hand.record(RecordType.DATA, mux(MuxType.DATA, MuxFlag.NONE, _first_stream(scene), b"hello")))
    await scene.hear_close(hand)


@_breach("PROTOCOL")
async def opening_others_streams(scene: Scene) -> None:
    """Is accepted, and opens a stream under a number that is the other side's to give.

    A right peer ends the connection with PROTOCOL.
    """
    hand = await _come_in(scene)
    await hand.say(hand.record(RecordType.DATA, opening(3 - _first_stream(scene), _NOBODY_ANSWERS)))
    await scene.hear_close(hand)


@_breach("FLOW_CONTROL")
async def overdrawing(scene: Scene) -> None:
    """Is accepted, opens a stream, and announces more data than it has credit for.

    A right peer counts before it stores anything: it ends the connection with FLOW_CONTROL.
    """
    hand = await _come_in(scene)
    stream = _first_stream(scene)
    length = STREAM_WINDOW + 1
    await hand.say(hand.record(RecordType.DATA, mux(MuxType.DATA, MuxFlag.SYN, stream, length=length)))
    await scene.hear_close(hand)


@_breach("FLOW_CONTROL")
async def crediting(scene: Scene) -> None:
    """Is accepted, opens a stream, and gives more credit than a window can hold.

    A right peer ends the connection with FLOW_CONTROL.
    """
    hand = await _come_in(scene)
    stream = _first_stream(scene)
    credit = mux(MuxType.WINDOW_UPDATE, MuxFlag.NONE, stream, length=2**32 - 1)
    await hand.say(hand.record(RecordType.DATA, opening(stream, _NOBODY_ANSWERS) + credit))
    await scene.hear_close(hand)


@_breach("PROTOCOL")
async def fickle(scene: Scene) -> None:
    """Is accepted, opens streams, and resets each before it can be answered.

    A right peer bears that for `Limits.resets_per_second` of them, and ends the connection with PROTOCOL.
    """
    hand = await _come_in(scene)
    first = _first_stream(scene)
    flags = MuxFlag.SYN | MuxFlag.RST
    streams = range(first, first + 2 * _FICKLE, 2)
    openings = b"".join(opening(stream, _NOBODY_ANSWERS, flags) for stream in streams)
    await hand.say(hand.record(RecordType.DATA, openings))
    await scene.hear_close(hand)


@hostile_peer(listener=Right("MALFORMED", told="MALFORMED"), dialer=Right("verdict/broken"))
async def hasty(scene: Scene) -> None:
    """Sends data before there is a verdict: in the place of ACK, or of the verdict itself.

    A right listener says MALFORMED; a right dialer has not been accepted (verdict/broken), whatever comes.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        await hand.say(hand.flight(), encode_frame(FrameType.RECORD, bytes(TAG_LENGTH)))
    else:
        await hand.answer()
        await hand.say(hand.record(RecordType.DATA, opening(_first_stream(scene), _NOBODY_ANSWERS)))
    await scene.hear_the_end()


STRANGERS: Final = (
    silent,
    slow,
    garbage,
    oversized,
    truncating,
    leaving,
    resetting,
    flooding,
    foreign("HTTP"),
    foreign("SSH"),
    foreign("TLS"),
    hasty,
    vanishing,
    never_reading,
    speaking_behind_the_end,
    speaking_on_no_stream,
    opening_others_streams,
    overdrawing,
    crediting,
    fickle,
)
"""All of them."""
