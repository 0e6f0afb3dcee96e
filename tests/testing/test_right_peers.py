"""What a right peer does, looked at with the kit alone: who gets in, who does not, for which reason and how soon.

Hostile peers have their own files, test_strangers.py and test_impostors.py. Here are peers that are honest and not
welcome, lines that fail, and what is to be bounded. All of it together is what tests/breakages.py runs against
libraries that are broken in one place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import pytest
import trio

from trishake import (
    CloseCode,
    Connection,
    ConnectionClosed,
    Decision,
    DialError,
    Introduction,
    Limits,
    Network,
    Policy,
    Stream,
    StreamRefused,
    VerdictCode,
    accept,
    initiate,
    only,
    reject,
    respond,
)
from trishake.testing import (
    ByHand,
    HostilePeer,
    NetworkPeer,
    Right,
    Scene,
    VirtualNetwork,
    assert_accepts,
    assert_listener_withstands,
    assert_no_response,
    assert_refuses,
    assert_rejects,
    attack,
    hostile_peer,
    identity_of,
    silent,
)
from trishake_protocol import Role
from trishake_protocol.limits import MAX_STREAMS, STREAM_WINDOW
from trishake_protocol.messages import Close, FrameType, MuxFlag, MuxFrame, MuxType, RecordType, StreamOpen
from trishake_protocol.messages import encode_frame as frame

from .conftest import Wire, both

NOBODY: Final = only(identity_of("nobody").id)
in_memory: Final = pytest.mark.parametrize("network", ["memory"], indirect=True)
over_tcp: Final = pytest.mark.parametrize("network", ["tcp"], indirect=True)

KEY: Final = bytes(range(32))
OTHER_KEY: Final = bytes(range(1, 33))


def policy_that(answers: Decision | None = None, *, fails: bool = False, takes: float = 0) -> Policy:
    """A policy of one answer. takes: seconds."""

    async def policy(_: Introduction) -> Decision:
        await trio.sleep(takes)
        if fails:
            raise RuntimeError("this policy has a flaw")
        return answers or accept()

    return policy


class Seen:
    """A policy that takes everybody, and remembers who was introduced."""

    def __init__(self) -> None:
        self.peers: list[object] = []

    async def __call__(self, introduction: Introduction) -> Decision:
        self.peers.append(introduction.peer)
        return accept()


async def seconds_of(wait: Callable[[], Awaitable[object]], *, most: float = 300) -> float:
    """How long it takes. Fails where it has not come to an end by then."""
    began = trio.current_time()
    with trio.move_on_after(most) as waited:
        await wait()
    assert not waited.cancelled_caught, f"it was to end within {most:g} s, and goes on"
    return trio.current_time() - began


# --- who is let in ----------------------------------------------------------------------------------------


@both
async def test_two_peers_that_trust_each_other_meet(network: VirtualNetwork) -> None:
    ada = network.peer("ada", trust=only(identity_of("bob").id))
    bob = network.peer("bob", trust=only(identity_of("ada").id))
    connection = await assert_accepts(bob, ada)
    there = bob.connection(ada.id)
    assert there is not None
    assert there.peer == ada.id
    assert there.channel_binding == connection.channel_binding


async def test_whoever_the_listener_does_not_trust_is_told_so_and_is_not_in(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob", trust=NOBODY)
    rejected = await assert_rejects(bob, ada, "IDENTITY_UNKNOWN")
    assert rejected.authenticated
    assert not ada.connections
    assert not bob.connections


async def test_whomever_the_dialer_does_not_trust_never_learns_who_has_called(network: VirtualNetwork) -> None:
    seen = Seen()
    ada, bob = network.peer("ada", trust=NOBODY), network.peer("bob", trust=seen)
    await assert_refuses(ada, bob, "IDENTITY_UNKNOWN")
    await trio.sleep(30)
    assert seen.peers == []
    assert not bob.connections


async def test_a_dial_has_a_policy_of_its_own(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    await assert_refuses(ada, bob, "IDENTITY_UNKNOWN", trust=NOBODY)
    await assert_accepts(bob, ada)


async def test_nobody_is_in_before_the_policy_has_said_so(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob", trust=policy_that(takes=2))
    assert await seconds_of(lambda: assert_accepts(bob, ada)) >= 2


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (policy_that(reject(VerdictCode.IDENTITY_BLOCKED)), "IDENTITY_BLOCKED"),
        (policy_that(reject(0x8123)), 0x8123),
        (policy_that(fails=True), "INTERNAL"),
        (policy_that(takes=1000), "POLICY_TIMEOUT"),
    ],
    ids=["says no", "says no in its own words", "fails", "hangs"],
)
async def test_a_policy_that_does_not_say_yes_lets_nobody_in(
    network: VirtualNetwork, policy: Policy, reason: Any
) -> None:
    ada, bob = network.peer("ada"), network.peer("bob", trust=policy)
    assert await seconds_of(lambda: assert_rejects(bob, ada, reason)) <= Limits().policy + 0.1
    assert not bob.connections


async def test_a_peer_does_not_take_itself(network: VirtualNetwork) -> None:
    bob = network.peer("bob")
    await assert_refuses(network.peer("twin", identity=identity_of("bob")), bob, "SELF")


async def test_a_protocol_has_a_policy_of_its_own(network: VirtualNetwork) -> None:
    used: list[object] = []

    async def admin(stream: Stream) -> None:
        used.append(stream.peer)

    ada, bob = network.peer("ada"), network.peer("bob")
    bob.handle("admin/1", admin, trust=NOBODY)
    connection = await assert_accepts(bob, ada)
    with pytest.raises(StreamRefused):
        await connection.open_stream("admin/1")
    assert used == []


# --- networks ---------------------------------------------------------------------------------------------


async def test_peers_of_two_public_networks_do_not_meet(network: VirtualNetwork) -> None:
    bob = network.peer("bob", network=Network("here"))
    rejected = await assert_rejects(bob, network.peer("ada", network=Network("elsewhere")), "WRONG_NETWORK")
    assert not rejected.authenticated  # it came in clear: anybody on the way could have said it


@pytest.mark.parametrize(
    "elsewhere", [Network("home", psk=OTHER_KEY), Network("elsewhere", psk=KEY)], ids=["key", "name"]
)
async def test_whoever_lacks_the_key_or_the_name_of_a_private_network_is_not_in(
    network: VirtualNetwork, elsewhere: Network
) -> None:
    bob = network.peer("bob", network=Network("home", psk=KEY))
    await assert_rejects(bob, network.peer("ada", network=elsewhere), "HANDSHAKE_FAILED")
    await assert_accepts(bob, network.peer("eve", network=Network("home", psk=KEY)))


async def test_a_quiet_network_does_not_answer_strangers(network: VirtualNetwork) -> None:
    bob = network.peer("bob", network=Network("home", psk=KEY, quiet=True))
    stranger = network.peer("ada", network=Network("home", psk=OTHER_KEY))
    await assert_no_response(bob, stranger, phase="syn-ack", cause="closed")


async def test_the_key_of_a_network_is_in_nothing_that_is_shown(network: VirtualNetwork) -> None:
    ada, bob = (network.peer(name, network=Network("home", psk=KEY)) for name in ("ada", "bob"))
    connection = await assert_accepts(bob, ada)
    rejected = await assert_rejects(
        bob, network.peer("eve", network=Network("home", psk=OTHER_KEY)), "HANDSHAKE_FAILED"
    )
    shown = [repr(bob.network), repr(bob), repr(connection), str(connection.timeline), str(rejected)]
    for key in (KEY, OTHER_KEY):
        assert [text for text in shown if repr(key)[2:-1] in text or key.hex() in text] == []


# --- lines that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["ada", "bob"])
async def test_whichever_byte_of_a_greeting_is_changed_nobody_is_in(network: VirtualNetwork, sender: str) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    link = network.link(sender, bob if sender == "ada" else ada)
    timeline = (await assert_accepts(bob, ada)).timeline
    await ada.connections[0].aclose()
    await trio.sleep(1)
    length = sum(step.sent if sender == "ada" else step.received for step in timeline.entries)
    for byte in [*range(0, length, 53), length - 1]:
        link.heal().corrupt(byte)
        with pytest.raises(DialError):
            await ada.dial(bob)
        await trio.sleep(30)
        assert (byte, ada.connections, bob.connections) == (byte, (), ())
    link.heal()
    await assert_accepts(bob, ada)


@pytest.mark.parametrize(("after", "phase"), [(0, "syn-ack"), (200, "syn-ack"), (1460, "verdict")])
async def test_a_dialer_gives_up_in_time_where_the_answer_does_not_come(
    network: VirtualNetwork, after: int, phase: str
) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    network.link(bob, ada).stall(after)
    waited = await seconds_of(lambda: assert_no_response(bob, ada, phase=phase, cause="timeout"))
    assert waited == pytest.approx(Limits().greeting, abs=0.1)


async def test_whoever_says_nothing_is_hung_up_on_in_time(network: VirtualNetwork) -> None:
    bob = await network.peer("bob").ready()
    waited = await seconds_of(lambda: attack(silent, bob))
    assert waited == pytest.approx(Limits().syn, abs=0.1)


@both
async def test_a_line_that_is_gone_is_noticed_by_both_sides(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    here = await assert_accepts(bob, ada)
    there = bob.connection(ada.id)
    assert there is not None
    network.link(ada, bob).half_open().reverse.half_open()
    for connection in (here, there):
        await seconds_of(connection.closed, most=Limits().keepalive + Limits().keepalive_answer + 1)


@both
async def test_a_line_that_lives_is_kept_however_long_nobody_speaks(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    connection = await assert_accepts(bob, ada)
    await trio.sleep(600)
    assert connection.is_open
    assert bob.connection(ada.id) is not None


async def test_an_end_without_close_is_no_end(network: VirtualNetwork, wire: Wire) -> None:
    here, there = await wire()
    ends: list[Any] = []
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            ends.append(await respond(there, identity_of("bob")))

        nursery.start_soon(answer)
        stream = await initiate(here, identity_of("ada"))
    network.link("ada", "bob").cut()
    for end in (stream, *ends):
        with pytest.raises(ConnectionClosed) as caught:
            await end.receive_some()
        assert caught.value.code is None


# --- one connection ---------------------------------------------------------------------------------------


async def test_a_connection_that_lives_is_not_pushed_out_by_another(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    connection = await assert_accepts(bob, ada)
    await assert_rejects(bob, network.peer("twin", identity=identity_of("ada")), "DUPLICATE")
    await trio.sleep(30)
    assert connection.is_open


async def test_whoever_comes_back_from_a_crash_is_not_locked_out_by_a_dead_line(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    await assert_accepts(bob, ada)
    network.link(ada, bob).half_open().reverse.half_open()
    await assert_accepts(bob, network.peer("reborn", identity=identity_of("ada")))


@pytest.mark.parametrize("delay", [0.0, 0.3])
async def test_two_dials_that_cross_give_both_sides_one_connection(network: VirtualNetwork, delay: float) -> None:
    ada, bob = await network.peer("ada").ready(), await network.peer("bob").ready()
    network.link(ada, bob).delay(delay).reverse.delay(delay)
    results: dict[str, Connection | DialError] = {}

    async def dial(one: NetworkPeer, other: NetworkPeer) -> None:
        try:
            results[one.name] = await one.dial(other)
        except DialError as error:
            results[one.name] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, ada, bob)
        nursery.start_soon(dial, bob, ada)
    await trio.sleep(30)
    found = results["ada"], results["bob"]
    assert all(isinstance(one, Connection) and one.is_open for one in found), found
    assert len({one.session_id for one in cast("tuple[Connection, ...]", found)}) == 1
    assert len(ada.connections) == len(bob.connections) == 1
    assert [dict(peer.statistics().ended) for peer in (ada, bob)] == [{}, {}]


async def test_words_of_the_other_side_cannot_command_a_terminal(network: VirtualNetwork) -> None:
    bob = network.peer("bob", trust=policy_that(reject(text="\x1b]0;owned\x07 \u202eno")))
    rejected = await assert_rejects(bob, network.peer("ada"), "POLICY")
    shown = str(rejected) + rejected.explain() + str(rejected.timeline)
    assert [char for char in "\x1b\x07\u202e" if char in shown] == []


# --- what is bounded --------------------------------------------------------------------------------------


@over_tcp
async def test_an_address_has_so_many_greetings_at_once(network: VirtualNetwork, nursery: trio.Nursery) -> None:
    bob = await network.peer("bob", limits=Limits(handshakes_per_address=2)).ready()
    for _ in range(2):
        nursery.start_soon(attack, silent, bob)
    await trio.sleep(1)
    await assert_rejects(bob, network.peer("ada"), "BUSY")


@over_tcp
async def test_an_address_begins_so_many_greetings_a_second(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob", limits=Limits(handshake_burst=2, handshake_rate=0.1))
    for _ in range(2):
        await (await assert_accepts(bob, ada)).aclose()
    await assert_rejects(bob, ada, "BUSY")
    await trio.sleep(20)
    await assert_accepts(bob, ada)


async def test_a_listener_has_so_many_connections(network: VirtualNetwork) -> None:
    bob = network.peer("bob", limits=Limits(connections=1))
    await assert_accepts(bob, network.peer("ada"))
    await assert_rejects(bob, network.peer("eve"), "CAPACITY")


async def test_a_reader_who_does_not_read_holds_the_writer_back(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    bob.handle("hold/1", hold)
    stream = await (await assert_accepts(bob, ada)).open_stream("hold/1")
    sent = 0
    with trio.move_on_after(20):
        while sent < 8 * STREAM_WINDOW:
            await stream.send_all(bytes(1024))
            sent += 1024
    assert sent <= STREAM_WINDOW


async def hold(_: Stream) -> None:
    """Read nothing, and stay."""
    await trio.sleep_forever()


# --- hostile peers that only these tests need -------------------------------------------------------------


def _breach(code: CloseCode) -> Callable[[Callable[[Scene], Awaitable[None]]], HostilePeer]:
    return hostile_peer(listener=Right("accepted", told="READY", ended=code.name, closed=code.name))


async def _come_in(scene: Scene) -> ByHand:
    hand = scene.hand()
    assert scene.role is Role.INITIATOR
    assert scene.right is not None
    await hand.call(scene.right)
    await scene.hear_verdict(hand)
    return hand


def _opening(stream: int, protocol: str = "hold/1") -> bytes:
    body = StreamOpen(protocol).encode()
    return MuxFrame(MuxType.DATA, MuxFlag.SYN, stream, len(body)).encode() + body


@_breach(CloseCode.PROTOCOL)
async def saying_nothing_known(scene: Scene) -> None:
    """Sends a record of a type that there is not."""
    hand = await _come_in(scene)
    await hand.say(hand.record(cast("RecordType", 9), b"hello"))
    await scene.hear_close(hand)


@_breach(CloseCode.PROTOCOL)
async def saying_nothing_at_all(scene: Scene) -> None:
    """Sends DATA that is empty."""
    hand = await _come_in(scene)
    await hand.say(hand.record(RecordType.DATA))
    await scene.hear_close(hand)


@_breach(CloseCode.PROTOCOL)
async def opening_again(scene: Scene) -> None:
    """Opens a stream under a number behind which it has opened another."""
    hand = await _come_in(scene)
    await hand.say(hand.record(RecordType.DATA, _opening(3) + _opening(1)))
    await scene.hear_close(hand)


@_breach(CloseCode.PROTOCOL)
async def speaking_when_all_is_said(scene: Scene) -> None:
    """Opens a stream that nobody takes, ends it, and sends data on it."""
    hand = await _come_in(scene)
    end = MuxFrame(MuxType.WINDOW_UPDATE, MuxFlag.FIN, 1, 0).encode()
    more = MuxFrame(MuxType.DATA, MuxFlag.NONE, 1, 5).encode() + b"hello"
    await hand.say(hand.record(RecordType.DATA, _opening(1, "nobody's/1") + end + more))
    await scene.hear_close(hand)


@hostile_peer(listener=Right("ack/timeout", told="TIMEOUT"))
async def stopping(scene: Scene) -> None:
    """Begins a greeting, and says no more."""
    hand = scene.hand()
    await hand.say(hand.flight())
    await scene.hear_the_end()


@hostile_peer(listener=Right("ack/broken"))
async def refusing_in_no_words(scene: Scene) -> None:
    """Says an ALERT that is none, in the place of ACK: nobody answers an ALERT with another."""
    hand = scene.hand()
    await hand.say(hand.flight(), frame(FrameType.ALERT, b""))
    await scene.hear_the_end()


HERE: Final = [
    saying_nothing_known,
    saying_nothing_at_all,
    opening_again,
    speaking_when_all_is_said,
    stopping,
    refusing_in_no_words,
]


@both
@pytest.mark.parametrize("peer", HERE, ids=[peer.name for peer in HERE])
async def test_a_listener_withstands_it_too(network: VirtualNetwork, peer: HostilePeer) -> None:
    await assert_listener_withstands(network.peer("bob"), peer)


@hostile_peer(listener=Right("IDENTITY_UNKNOWN", told="IDENTITY_UNKNOWN"))
async def talking_on(scene: Scene) -> None:
    """Is rejected, and has more on its way."""
    hand = await _come_in(scene)
    for _ in range(3):
        await trio.sleep(Limits().drain_after_verdict / 4)
        await hand.say(bytes(1000))


async def test_a_listener_reads_on_behind_a_rejection_which_a_reset_would_destroy(network: VirtualNetwork) -> None:
    answer = await assert_listener_withstands(network.peer("bob", trust=NOBODY), talking_on)
    assert answer.obstacle is None


@hostile_peer(listener=Right("accepted", told="READY"))
async def crowding(scene: Scene) -> None:
    """Opens a stream more than it may."""
    hand = await _come_in(scene)
    for number in range(MAX_STREAMS + 1):
        await hand.say(hand.record(RecordType.DATA, _opening(1 + 2 * number)))
    await trio.sleep(1)
    await hand.say(hand.record(RecordType.CLOSE, Close().encode()))


async def test_a_peer_has_so_many_streams(network: VirtualNetwork) -> None:
    at_work: list[Stream] = []

    async def work(stream: Stream) -> None:
        at_work.append(stream)
        await trio.sleep_forever()

    bob = network.peer("bob")
    bob.handle("hold/1", work)
    await assert_listener_withstands(bob, crowding)
    assert len(at_work) == MAX_STREAMS
