"""What all hostile peers have in common, and how they are let loose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trishake.testing
from trishake import Address, Bound, Memory, Peer, Place, Tcp, Transport, VerdictCode, reject
from trishake._memory import memory_pair
from trishake.testing import (
    IMPOSTORS,
    STRANGERS,
    HostilePeer,
    HostilePeers,
    Right,
    VirtualNetwork,
    assert_dialer_withstands,
    assert_listener_withstands,
    assert_no_response,
    assert_refuses,
    attack,
    flooding,
    identity_of,
    impostor,
    never_reading,
    oversized,
    serving,
    silent,
    slow,
)

EVERY_ONE = [*STRANGERS, *IMPOSTORS]


@pytest.mark.parametrize("peer", EVERY_ONE)
def test_as_a_parameter_each_has_its_name(peer: HostilePeer, request: pytest.FixtureRequest) -> None:
    assert request.node.name == f"test_as_a_parameter_each_has_its_name[{peer.name}]"


@pytest.mark.parametrize("peer", EVERY_ONE, ids=lambda peer: peer.name)
def test_each_says_what_it_does_and_what_a_right_peer_answers(peer: HostilePeer) -> None:
    assert peer.__doc__ is not None
    first, *rest = peer.__doc__.split("\n\n")
    assert first.endswith(".")
    said = " ".join(rest)
    for right in (peer.listener, peer.dialer):
        if right is not None:
            codes = {*right.counts, right.told, right.ended} - {None, "accepted", "READY"}
            assert {code for code in codes if code not in said} == set()


def test_each_is_an_import_and_has_a_name_of_its_own() -> None:
    names = [peer.name for peer in EVERY_ONE]
    assert len(names) == len(set(names))
    for peer in EVERY_ONE:
        if not peer.name.startswith("foreign_"):
            assert getattr(trishake.testing, peer.name) is peer


async def test_the_fixture_has_them_dialed_and_dialing(network: VirtualNetwork, hostile: HostilePeers) -> None:
    ada = network.peer("ada")
    await assert_no_response((await hostile(silent)).invite, ada, phase="syn-ack", cause="timeout")
    served = await hostile(impostor, "other")
    await assert_refuses(ada, served.invite, "BAD_SIGNATURE")
    assert [answer.told for answer in served.answers] == ["ABORTED"]
    assert (await hostile.attack(oversized, ada)).told == "MALFORMED"


async def test_any_listener_and_any_dialer_will_do() -> None:
    """Not of a virtual network, on the system's clock and real sockets: an invite is enough."""
    async with Peer(identity_of("app")) as app:
        listener = await app.listen("tcp://127.0.0.1:0")
        assert (await attack(impostor, listener)).told == "BAD_SIGNATURE"
        assert (await attack(oversized, listener.invite)).told == "MALFORMED"
        await assert_listener_withstands(app, impostor)
        await assert_dialer_withstands(app, impostor)
        async with serving(impostor, "tcp://127.0.0.1:0") as served:
            await assert_refuses(app, served.invite, "BAD_SIGNATURE")


@pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)
async def test_a_peer_of_the_applications_own_in_a_network_is_attacked_there(network: VirtualNetwork) -> None:
    app = Peer(identity_of("app"), transports=[network.transport("app")])
    async with app:
        await app.listen("mem://app")
        assert (await attack(oversized, app)).told == "MALFORMED"
        await assert_listener_withstands(app, impostor)
        await assert_dialer_withstands(app, impostor)
        network.link("app", "impostor").refuse()
        with pytest.raises(
            AssertionError, match="app was to count impostor as BAD_SIGNATURE; app dialed impostor: "
        ):
            await assert_dialer_withstands(app, impostor)
        network.link("honest", "app").refuse()
        with pytest.raises(AssertionError, match="app is not there for others after silent: honest dialed app: "):
            await assert_listener_withstands(app, silent)


async def test_a_dialer_keeps_the_connections_that_it_has_besides(network: VirtualNetwork) -> None:
    ada = network.peer("ada")
    connection = await ada.dial(network.peer("bob"))
    await assert_dialer_withstands(ada, impostor)
    assert ada.connections == (connection,)


async def test_a_listener_need_not_welcome_strangers(network: VirtualNetwork) -> None:
    async def nobody(_: object) -> object:
        return reject(VerdictCode.IDENTITY_UNKNOWN)

    assert (await assert_listener_withstands(network.peer("bob", trust=nobody), never_reading)).told == (
        "IDENTITY_UNKNOWN"
    )


async def test_whoever_cannot_be_let_loose_in_a_role_says_so(network: VirtualNetwork) -> None:
    with pytest.raises(ValueError, match="flooding answers nobody"):
        await assert_dialer_withstands(network.peer("ada"), flooding)
    one_sided = HostilePeer(silent.script, dialer=Right("syn-ack/timeout"))
    with pytest.raises(ValueError, match="silent dials nobody"):
        await assert_listener_withstands(network.peer("bob"), one_sided)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (Right("syn/timeout"), "bob told slow TIMEOUT, not None"),
        (Right("syn/closed", told="TIMEOUT"), "bob was to count slow as syn/closed, and counted "),
        (Right("syn/timeout", told="TIMEOUT", ended="cut"), "bob was to end the connection of slow with cut"),
    ],
)
async def test_a_listener_that_answers_otherwise_is_named(
    network: VirtualNetwork, wrong: Right, complaint: str
) -> None:
    with pytest.raises(AssertionError, match=f"^{complaint}"):
        await assert_listener_withstands(network.peer("bob"), HostilePeer(slow.script, listener=wrong))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (Right("syn-ack/closed"), "ada was to count slow as syn-ack/closed; ada dialed slow: no response, "),
        (Right("syn-ack/timeout", told="ABORTED"), "ada told slow None, not ABORTED"),
        (Right("syn-ack/timeout", says="HTTP"), "ada was to name HTTP, and says: no response"),
    ],
)
async def test_a_dialer_that_makes_something_else_of_it_is_named(
    network: VirtualNetwork, wrong: Right, complaint: str
) -> None:
    with pytest.raises(AssertionError, match=f"^{complaint}"):
        await assert_dialer_withstands(network.peer("ada"), HostilePeer(slow.script, dialer=wrong))


async def test_a_listener_that_is_not_there_for_others_afterwards_is_named(network: VirtualNetwork) -> None:
    """One hostile peer has come and has had its answer; from then on nobody gets in."""
    bob = network.peer("bob")
    network.link("honest", "bob").refuse()
    with pytest.raises(AssertionError, match="bob is not there for others after impostor: honest dialed bob: "):
        await assert_listener_withstands(bob, impostor)


async def test_what_else_a_dialer_is_connected_with_is_its_own_affair(network: VirtualNetwork) -> None:
    ada, bob, eve = network.peer("ada"), network.peer("bob"), network.peer("eve")
    before = await ada.dial(bob)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(assert_dialer_withstands, ada, slow)
        await trio.sleep(1)
        meanwhile = await eve.dial(ada)
    assert before.is_open
    assert meanwhile.is_open


class _Unending(trio.abc.HalfCloseableStream):
    """One that its owner forgets to close: the other side gets everything but the end."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _Forgetful(Memory):
    """Its listeners never close what they have accepted."""

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        return [
            Bound(bound.address, _OfForgetful(bound.listener)) for bound in await super().listen(address, nursery)
        ]


class _OfForgetful(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self, listener: trio.abc.Listener[trio.abc.Stream]) -> None:
        self.listener = listener

    async def accept(self) -> trio.abc.Stream:
        stream = await self.listener.accept()
        assert isinstance(stream, trio.abc.HalfCloseableStream)
        return _Unending(stream)

    async def aclose(self) -> None:
        await self.listener.aclose()


class _ForgetfulTcp(Tcp):
    """The same of a dialer. left: what it has not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[trio.SocketStream] = []

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> Any:
        stream = await super().connect(address, place, nursery)
        self.left.append(stream)
        return _Unending(stream)


NOT_HUNG_UP_ON = pytest.mark.parametrize("peer", [silent, oversized, impostor], ids=lambda peer: peer.name)


@NOT_HUNG_UP_ON
async def test_a_listener_that_does_not_hang_up_has_not_withstood(
    network: VirtualNetwork, peer: HostilePeer
) -> None:
    listener = network.peer("bob", transports=[_Forgetful(private=True)])
    with pytest.raises(AssertionError, match=f"^bob was to hang up on {peer.name}, and has not$"):
        await assert_listener_withstands(listener, peer)


@NOT_HUNG_UP_ON
@pytest.mark.parametrize("network", ["tcp"], indirect=True)
async def test_a_dialer_that_does_not_hang_up_has_not_withstood(
    network: VirtualNetwork, peer: HostilePeer
) -> None:
    way = _ForgetfulTcp()
    async with Peer(identity_of("bob"), transports=[way]) as dialer:
        with pytest.raises(AssertionError, match=f"was to hang up on {peer.name}, and has not$"):
            await assert_dialer_withstands(dialer, peer)
    assert way.left
    for stream in way.left:
        await stream.aclose()


class _Elsewhere(Transport):
    """Leads whoever dials to somebody who says nothing."""

    schemes = ("tcp",)

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> trio.abc.Stream:
        ours, self.theirs = memory_pair()
        return ours

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        raise OSError


async def test_a_dialer_that_the_hostile_peer_has_never_met_has_withstood_nothing(
    autojump_clock: MockClock,
) -> None:
    async with Peer(identity_of("app"), transports=[_Elsewhere()]) as app:
        with pytest.raises(AssertionError, match=r"never came to silent, .*syn-ack/timeout"):
            await assert_dialer_withstands(app, silent)
