"""VirtualNetwork: peers by name, what faults of a link do to a greeting, one seed, and nothing left behind."""

from __future__ import annotations

import gc
import random
import socket as stdlib_socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    Address,
    Bound,
    Cause,
    Connection,
    ConnectionClosed,
    DialError,
    InvalidAddress,
    LocalProtocolError,
    Memory,
    NoResponse,
    Observer,
    Peer,
    Phase,
    Progress,
    Rejected,
    Role,
    Step,
    Stream,
    only,
)
from trishake.testing import NetworkPeer, VirtualNetwork
from trishake.testing._virtual_network import identity_of
from trishake_protocol.patterns import CLASSICAL

from .conftest import both, open_files

QUICK: Final[dict[str, Any]] = {"suites": (CLASSICAL.id,)}


class Watch(Observer):
    """What one peer's greetings have come to, and how its connections ended."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.ended: list[ConnectionClosed] = []

    def progress(self, progress: Progress) -> None:
        if progress.step is Step.VERDICT:
            self.outcomes.append("accepted")

    def failed(self, role: Role, error: DialError) -> None:
        self.outcomes.append(error.counted_as)

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        self.ended.append(closed)


async def echo(stream: Stream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def echoed(connection: Connection, data: bytes) -> bytes:
    async with await connection.open_stream("echo/1") as stream:
        await stream.send_all(data)
        await stream.send_eof()
        return b"".join([part async for part in stream])


# --- peers by name ----------------------------------------------------------------------------------------


@both
async def test_a_peer_is_dialed_by_itself_by_its_invite_and_by_its_address(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    assert bob.invite == f"mem://{bob.id}@bob"
    for target in (bob, bob.invite, Address.parse(bob.invite), "mem://bob", bob.id):
        connection = await ada.dial(target)
        assert connection.peer == bob.id
        await connection.aclose()
    assert (await ada.dial("mem://nobody", bob)).peer == bob.id
    assert str(bob) == "bob"
    assert repr(bob) == f"<NetworkPeer bob {bob.id.short}>"


def test_an_identity_goes_with_its_name_alone() -> None:
    assert identity_of("ada").id == identity_of("ada").id
    assert len({identity_of(name).id for name in ("ada", "bob", "Ada", "")}) == 4


async def test_a_peer_takes_what_a_peer_takes(network: VirtualNetwork) -> None:
    watch = Watch()
    eve = identity_of("eve")
    ada = network.peer("ada", identity=eve)
    bob = network.peer("bob", trust=only(eve.id), observers=[watch], transports=[Memory(private=True)])
    assert ada.id == eve.id
    with pytest.raises(NoResponse):  # its transport is its own, and knows nobody else
        await ada.dial(bob)
    carl = network.peer("carl", trust=only(eve.id), observers=[watch])
    assert (await ada.dial(carl)).peer == carl.id
    with pytest.raises(Rejected):
        await network.peer("dan").dial(carl)
    await trio.testing.wait_all_tasks_blocked()
    assert watch.outcomes == ["accepted", "IDENTITY_UNKNOWN"]


async def test_a_network_has_peers_within_its_block(autojump_clock: MockClock) -> None:
    network = VirtualNetwork()
    with pytest.raises(LocalProtocolError, match="async with VirtualNetwork"):
        network.peer("ada")
    async with network:
        network.peer("ada")
    with pytest.raises(LocalProtocolError, match="async with VirtualNetwork"):
        network.peer("bob")
    assert list(network.peers) == ["ada"]


async def test_a_peer_is_told_to_listen_elsewhere_at_once_and_to_keep_somebody_once_it_is_ready(
    network: VirtualNetwork,
) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    with pytest.raises(LocalProtocolError, match=r"ada has not begun yet: `await ada.ready\(\)` first"):
        ada.keep(bob)
    elsewhere = await bob.listen("tcp://127.0.0.1:0")
    assert [listener.addresses[0].scheme for listener in bob.listeners] == ["mem", "tcp"]
    assert elsewhere is bob.listeners[1]
    await ada.ready()
    assert (await ada.keep(bob).connected()).peer == bob.id


async def test_a_name_is_one_peers_until_that_is_closed(network: VirtualNetwork) -> None:
    network.peer("bob")
    with pytest.raises(ValueError, match="there is a peer 'bob' already"):
        network.peer("bob")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:1", "x@bob", "Bob", "?", "[::"])
async def test_a_name_that_no_address_can_have_is_refused(network: VirtualNetwork, name: str) -> None:
    with pytest.raises(ValueError, match=r"name|address|invite"):
        network.peer(name)
    assert not network.peers


@both
async def test_a_name_is_free_again_once_its_peer_is_closed(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    await ada.dial(bob)
    await bob.aclose()
    with pytest.raises(NoResponse) as refused:
        await ada.dial("mem://bob")
    assert (refused.value.phase, refused.value.cause) == (Phase.CONNECT, Cause.REFUSED)
    another = network.peer("bob", identity=identity_of("another"))
    assert (await ada.dial("mem://bob")).peer == another.id
    assert network.name_of(bob.id) == network.name_of(another.id) == "bob"
    assert network.name_of(identity_of("nobody").id) == identity_of("nobody").id.short
    assert network.name_of(None) == "somebody"


@both
async def test_nobody_listens_where_there_is_no_peer(network: VirtualNetwork) -> None:
    with pytest.raises(NoResponse) as refused:
        await network.peer("ada").dial("mem://nobody")
    assert (refused.value.phase, refused.value.cause) == (Phase.CONNECT, Cause.REFUSED)


@both
async def test_a_peer_of_the_applications_own_dials_and_listens_too(network: VirtualNetwork) -> None:
    eve = Peer(identity_of("eve"), transports=[network.transport("eve")])
    async with eve:
        await eve.listen("mem://eve")
        ada = network.peer("ada")
        assert (await ada.dial("mem://eve")).peer == eve.id
        assert "ada dialed eve: accepted" in network.story()
        network.link("eve", "ada").refuse()
        with pytest.raises(NoResponse) as refused:
            await eve.dial(ada.invite, trust=only(ada.id))
        assert refused.value.cause is Cause.REFUSED
    with pytest.raises(NoResponse) as gone:
        await ada.dial("mem://eve")
    assert gone.value.cause is Cause.REFUSED


@both
async def test_two_cannot_listen_under_one_name(network: VirtualNetwork) -> None:
    bob = await network.peer("bob").ready()
    async with Peer(identity_of("eve"), transports=[network.transport("eve")]) as eve:
        with pytest.raises(OSError, match="somebody listens under that name"):
            await eve.listen("mem://bob")
    assert (await network.peer("ada").dial("mem://bob")).peer == bob.id


@both
async def test_streams_requests_and_arrivals_go_over_the_network(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    bob.handle("echo/1", echo)

    @bob.handle_request("double/1")
    async def double(value: Any, _: object) -> Any:
        return value * 2

    network.link(ada, bob).delay(0.1).split()
    async with await ada.open_stream(bob, "echo/1", b"optimistic ") as stream:
        await stream.send_all(b"and not")
        await stream.send_eof()
        assert b"".join([part async for part in stream]) == b"optimistic and not"
    connection = await anext(bob.arrivals())
    assert connection.peer == ada.id
    there = await anext(ada.arrivals())
    assert await there.request("double/1", 21) == 42
    assert await echoed(there, bytes(100_000)) == bytes(100_000)


@both
async def test_a_kept_connection_comes_back_when_the_link_is_well_again(network: VirtualNetwork) -> None:
    ada, bob = await network.peer("ada").ready(), network.peer("bob")
    keeper = ada.keep(bob)
    first = await anext(ada.arrivals())
    link = network.link(ada, bob)
    link.cut().refuse()
    await first.closed()
    await trio.sleep(30)
    assert ada.connection(bob.id) is None
    link.heal()
    with trio.fail_after(1000):
        while (second := ada.connection(bob.id)) is None:
            await trio.sleep(1)
    assert second is not first
    keeper.stop()


@both
@pytest.mark.parametrize("seconds", [0, 0.5])
async def test_dials_that_cross_come_to_one_connection(network: VirtualNetwork, seconds: float) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    bob.handle("echo/1", echo)
    network.link(ada, bob).delay(seconds).reverse.delay(seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ada.dial, bob)
        nursery.start_soon(bob.dial, ada)
    await trio.sleep(10)
    assert len(ada.connections) == len(bob.connections) == 1
    assert await echoed(ada.connections[0], b"once") == b"once"


@both
async def test_an_idle_connection_stays(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    bob.handle("echo/1", echo)
    connection = await ada.dial(bob)
    await trio.sleep(1000 if network.over == "memory" else 100)
    assert await echoed(connection, b"still there") == b"still there"


# --- what a fault does to a greeting ----------------------------------------------------------------------


_places: Final[dict[str, tuple[str, int]]] = {}


async def places(network: VirtualNetwork) -> dict[str, tuple[str, int]]:
    """Of a greeting: in which direction, and behind how many bytes of it."""
    if _places:
        return _places
    ada, bob = network.peer("measuring", **QUICK), network.peer("measured", **QUICK)
    timeline = (await ada.dial(bob)).timeline
    syn, syn_ack = timeline[Step.SYN_SENT].sent, timeline[Step.SYN_ACK_RECEIVED].received
    _places.update(
        {
            "before the preface": ("there", 0),
            "in the preface": ("there", 5),
            "in SYN": ("there", syn - 1),
            "in ACK": ("there", syn + 100),
            "before SYN-ACK": ("back", 0),
            "in SYN-ACK": ("back", syn_ack - 1),
            "in READY": ("back", syn_ack + 10),
        }
    )
    return _places


FAULTS: Final = {
    # what the dialer counts it as, and the listener
    ("before the preface", "cut"): ("syn-ack/closed", "syn/closed"),
    ("in the preface", "cut"): ("syn-ack/closed", "syn/closed"),
    ("in SYN", "cut"): ("syn-ack/closed", "syn/closed"),
    ("in ACK", "cut"): ("verdict/closed", "ack/closed"),
    ("before SYN-ACK", "cut"): ("syn-ack/closed", "syn/closed"),
    ("in SYN-ACK", "cut"): ("syn-ack/closed", "ack/closed"),
    ("in READY", "cut"): ("verdict/closed", "accepted"),
    ("before the preface", "reset"): ("syn-ack/reset", "syn/reset"),
    ("in the preface", "reset"): ("syn-ack/reset", "syn/reset"),
    ("in SYN", "reset"): ("syn-ack/reset", "syn/reset"),
    ("in ACK", "reset"): ("verdict/reset", "ack/reset"),
    ("before SYN-ACK", "reset"): ("syn-ack/reset", "syn/reset"),
    ("in SYN-ACK", "reset"): ("syn-ack/reset", "ack/reset"),
    ("in READY", "reset"): ("verdict/reset", "accepted"),
    ("before the preface", "stall"): ("syn-ack/closed", "syn/timeout"),
    ("in the preface", "stall"): ("TIMEOUT", "syn/timeout"),
    ("in SYN", "stall"): ("TIMEOUT", "syn/timeout"),
    ("in ACK", "stall"): ("verdict/timeout", "ack/timeout"),
    ("before SYN-ACK", "stall"): ("syn-ack/timeout", "ack/timeout"),
    ("in SYN-ACK", "stall"): ("syn-ack/timeout", "ack/timeout"),
    ("in READY", "stall"): ("verdict/timeout", "accepted"),
    ("before the preface", "half_open"): ("syn-ack/closed", "syn/timeout"),
    ("in the preface", "half_open"): ("TIMEOUT", "syn/timeout"),
    ("in SYN", "half_open"): ("TIMEOUT", "syn/timeout"),
    ("in ACK", "half_open"): ("verdict/timeout", "ack/timeout"),
    ("before SYN-ACK", "half_open"): ("syn-ack/timeout", "ack/timeout"),
    ("in SYN-ACK", "half_open"): ("syn-ack/timeout", "ack/timeout"),
    ("in READY", "half_open"): ("verdict/timeout", "accepted"),
    ("before the preface", "corrupt"): ("syn-ack/closed", "syn/foreign"),
    ("in the preface", "corrupt"): ("MALFORMED", "MALFORMED"),
    ("in SYN", "corrupt"): ("HANDSHAKE_FAILED", "ABORTED"),
    ("in ACK", "corrupt"): ("HANDSHAKE_FAILED", "HANDSHAKE_FAILED"),
    ("before SYN-ACK", "corrupt"): ("syn-ack/broken", "ack/closed"),
    ("in SYN-ACK", "corrupt"): ("HANDSHAKE_FAILED", "ABORTED"),
    ("in READY", "corrupt"): ("verdict/broken", "accepted"),
}


@pytest.mark.parametrize(
    ("network", "rough"),
    [("memory", False), ("memory", True), pytest.param("tcp", False, marks=pytest.mark.slow)],
    indirect=["network"],
)
@pytest.mark.parametrize(("place", "fault"), FAULTS)
async def test_a_fault_of_the_link_is_what_either_side_says_of_the_greeting(
    network: VirtualNetwork, place: str, fault: str, rough: bool
) -> None:
    direction, after = (await places(network))[place]
    watch = Watch()
    ada, bob = network.peer("ada", **QUICK), network.peer("bob", observers=[watch], **QUICK)
    there = network.link(ada, bob)
    for link in (there, there.reverse):
        if rough:
            link.delay(0.3, spread=0.1).split()
    getattr(there if direction == "there" else there.reverse, fault)(after)
    with pytest.raises(DialError) as failed:
        await ada.dial(bob)
    await trio.sleep(60)
    assert (failed.value.counted_as, watch.outcomes) == (FAULTS[place, fault][0], [FAULTS[place, fault][1]])
    if fault in ("cut", "reset", "corrupt"):
        assert not there.lines
    there.heal()
    there.reverse.heal()
    assert (await ada.dial(bob)).peer == bob.id


@both
@pytest.mark.parametrize("direction", ["there", "back"])
@pytest.mark.parametrize(
    ("fault", "heard"),
    [
        ("cut", "ended without CLOSE"),
        ("reset", "broke"),
        ("stall", "silent for"),
        ("half_open", "silent for"),
    ],
)
async def test_a_fault_behind_ready_ends_the_connection_for_both(
    network: VirtualNetwork, fault: str, heard: str, direction: str
) -> None:
    theirs, ours = Watch(), Watch()
    ada = network.peer("ada", observers=[ours])
    bob = network.peer("bob", observers=[theirs])
    bob.handle("echo/1", echo)
    connection = await ada.dial(bob)
    assert await echoed(connection, b"so far so good") == b"so far so good"
    link = network.link(ada, bob)
    getattr(link if direction == "there" else link.reverse, fault)()
    await trio.sleep(100)
    assert (len(ours.ended), len(theirs.ended)) == (1, 1)
    assert any(heard in str(watch.ended[0]) for watch in (ours, theirs))
    with pytest.raises(ConnectionClosed):
        await connection.open_stream("echo/1")


@both
async def test_a_byte_that_changes_behind_ready_is_noticed(network: VirtualNetwork) -> None:
    ours = Watch()
    ada, bob = network.peer("ada", observers=[ours]), network.peer("bob")
    connection = await ada.dial(bob)
    network.link(ada, bob).corrupt(
        connection.timeline[Step.SYN_SENT].sent + connection.timeline[Step.ACK_SENT].sent
    )
    with pytest.raises(ConnectionClosed):
        await connection.open_stream("echo/1")
    assert "PROTOCOL" in str(await connection.closed())
    assert len(ours.ended) == 1


@both
async def test_a_link_that_refuses_is_nobody_there_for_this_dialer_alone(network: VirtualNetwork) -> None:
    ada, bob, eve = network.peer("ada"), network.peer("bob"), network.peer("eve")
    link = network.link(eve, bob).refuse()
    with pytest.raises(NoResponse) as refused:
        await eve.dial(bob)
    assert (refused.value.phase, refused.value.cause) == (Phase.CONNECT, Cause.REFUSED)
    await ada.dial(bob)
    await bob.dial(eve)
    await bob.connections[0].aclose()
    await bob.connections[0].aclose()
    link.heal()
    await eve.dial(bob)


async def test_a_stall_within_the_limits_delays_a_greeting_and_no_more(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    link = network.link(ada, bob).stall(30)

    async def resume() -> None:
        await trio.sleep(3)
        link.resume()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(resume)
        connection = await ada.dial(bob)
    assert connection.timeline.seconds == pytest.approx(3)


async def test_a_greeting_takes_the_time_of_its_way(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    network.link(ada, bob).delay(0.1).reverse.delay(0.2)
    timeline = (await ada.dial(bob)).timeline
    assert [entry.at for entry in timeline.entries if entry.step in (Step.CONNECTED, Step.SYN_ACK_RECEIVED)] == [
        pytest.approx(0.3),
        pytest.approx(0.6),
    ]
    assert timeline[Step.VERDICT].at == pytest.approx(0.9)


# --- order, and the seed ----------------------------------------------------------------------------------


async def arrivals_at_bob(network: VirtualNetwork) -> list[str]:
    """Who of ten is there first, all of whom dial at once."""
    bob = network.peer("bob", **QUICK)
    order: list[str] = []

    async def hello(stream: Stream) -> None:
        order.append(network.name_of(stream.connection.peer))

    bob.handle("hello/1", hello)
    dialers = [network.peer(f"peer{number}", **QUICK) for number in range(10)]
    async with trio.open_nursery() as nursery:
        for dialer in dialers:
            nursery.start_soon(dialer.open_stream, bob, "hello/1")
    await trio.sleep(60)
    return order


async def test_what_is_sent_on_different_links_arrives_in_another_order(network: VirtualNetwork) -> None:
    network.reorder(2)
    order = await arrivals_at_bob(network)
    assert sorted(order) == [f"peer{number}" for number in range(10)]
    assert order != sorted(order)


async def test_reordering_stays_where_a_link_is_delayed_or_healed(network: VirtualNetwork) -> None:
    link = network.link("ada", "bob").delay(1)
    network.reorder(2)
    assert str(link) == "delay 1 s, reordered within 2 s"
    assert str(link.heal()) == "reordered within 2 s"
    assert str(network.link("bob", "eve")) == "reordered within 2 s"
    network.reorder(0)
    assert str(link) == ""


def test_reordering_within_less_than_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds are 0 or more"):
        VirtualNetwork().reorder(-1)


async def scenario(seed: int) -> tuple[str, list[str]]:
    """A story with everything in it that is left to chance, and in which order its tasks ran."""
    order: list[str] = []
    async with VirtualNetwork(seed=seed) as network:
        network.reorder(0.5)
        peers = [network.peer(f"peer{number}", **QUICK) for number in range(6)]
        for one in peers:
            one.handle("echo/1", echo)
            for other in peers:
                if one is not other:
                    network.link(one, other).split().delay(0.1, spread=0.2)
        network.link("peer1", "peer2").corrupt(70)
        network.link("peer3", "peer4").cut(80)

        async def talk(one: NetworkPeer, other: NetworkPeer) -> None:
            try:
                stream = await one.open_stream(other, "echo/1", b"hello")
                order.append(f"{trio.current_time()!r} {one} {other} {len(await stream.receive_some())}")
            except (DialError, ConnectionClosed) as error:
                order.append(f"{trio.current_time()!r} {one} {other} {type(error).__name__}")

        async with trio.open_nursery() as nursery:
            for index, one in enumerate(peers):
                nursery.start_soon(talk, one, peers[(index + 1) % 6])
                nursery.start_soon(talk, one, peers[(index + 3) % 6])
        return network.story(), order


async def test_one_seed_is_one_story_and_another_seed_another(network: VirtualNetwork) -> None:
    first, _ = await scenario(network.seed)
    second, _ = await scenario(network.seed)
    other, _ = await scenario(network.seed + 1)
    assert sorted(first.splitlines()) == sorted(second.splitlines())
    assert sorted(first.splitlines()) != sorted(other.splitlines())


async def test_a_line_has_its_chances_from_the_seed_whatever_others_do(network: VirtualNetwork) -> None:
    taken: list[float] = []
    for crowd in (0, 5):
        async with VirtualNetwork(seed=network.seed) as quiet:
            quiet.reorder(3)
            ada, bob = quiet.peer("ada", **QUICK), quiet.peer("bob", **QUICK)
            async with trio.open_nursery() as nursery:
                for number in range(crowd):
                    nursery.start_soon(quiet.peer(f"other{number}", **QUICK).dial, bob)
                random.random()
                taken.append((await ada.dial(bob)).timeline.seconds)
    assert taken[0] == pytest.approx(taken[1])
    assert 0 < taken[0] < 12


async def test_each_connection_has_chances_of_its_own(network: VirtualNetwork) -> None:
    network.reorder(3)
    ada, bob = network.peer("ada", **QUICK), network.peer("bob", **QUICK)
    taken: list[float] = []
    for _ in range(2):
        connection = await ada.dial(bob)
        taken.append(connection.timeline.seconds)
        await connection.aclose()
    assert taken[0] != pytest.approx(taken[1])


def test_two_networks_in_one_test_have_nothing_in_common() -> None:
    async def main() -> None:
        async with VirtualNetwork() as one, VirtualNetwork() as another:
            bobs = one.peer("bob"), another.peer("bob", identity=identity_of("another"))
            one.link("ada", "bob").refuse()
            with pytest.raises(NoResponse):
                await one.peer("ada").dial(bobs[0])
            assert (await another.peer("ada").dial("mem://bob")).peer == bobs[1].id

    trio.run(main, clock=MockClock(autojump_threshold=0))


# --- nothing is left behind -------------------------------------------------------------------------------


class Boom(Exception):
    pass


async def connect_all(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    bob.handle("echo/1", echo)
    network.link(ada, bob).delay(0.1)
    await (await ada.dial(bob)).open_stream("echo/1")


async def leave_well(network: VirtualNetwork) -> None:
    await connect_all(network)


async def leave_with_an_error(network: VirtualNetwork) -> None:
    await connect_all(network)
    raise Boom


async def leave_cancelled(network: VirtualNetwork) -> None:
    await connect_all(network)
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.sleep(0)
    raise Boom


async def leave_with_bytes_under_way(network: VirtualNetwork) -> None:
    await connect_all(network)
    network.link("ada", "bob").delay(1000)
    (connection,) = network.peers["ada"].connections
    with trio.move_on_after(5):
        await connection.open_stream("echo/1", bytes(1000))


async def leave_in_a_stall(network: VirtualNetwork) -> None:
    await connect_all(network)
    network.link("ada", "bob").stall().reverse.stall()


async def leave_with_a_cable_out(network: VirtualNetwork) -> None:
    await connect_all(network)
    network.link("ada", "bob").half_open().reverse.half_open()


async def leave_before_anyone_listens(network: VirtualNetwork) -> None:
    network.peer("ada")


async def leave_with_a_dial_under_way(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    network.link(ada, bob).delay(0.5)
    with trio.move_on_after(1.2):
        await ada.dial(bob)


@pytest.mark.parametrize("over", ["memory", "tcp"])
@pytest.mark.parametrize(
    "leave",
    [
        leave_well,
        leave_with_an_error,
        leave_cancelled,
        leave_with_bytes_under_way,
        leave_in_a_stall,
        leave_with_a_cable_out,
        leave_before_anyone_listens,
        leave_with_a_dial_under_way,
    ],
)
def test_a_network_leaves_no_task_no_line_and_no_file_behind(
    leave: Callable[[VirtualNetwork], Any], over: Any
) -> None:
    async def main() -> None:
        before = open_files()
        tasks = trio.lowlevel.current_statistics().tasks_living
        network = VirtualNetwork(over=over)
        try:
            async with network:
                await leave(network)
        except Boom:
            pass
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert open_files() <= before
        assert all(not link.lines for link in network._links.values())

    trio.run(main, clock=MockClock(autojump_threshold=0.01 if over == "tcp" else 0))
    gc.collect()


@pytest.mark.parametrize("over", ["memory", "tcp"])
@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt])
def test_the_error_of_the_body_comes_out_as_it_is(over: Any, error: type[BaseException]) -> None:
    async def fail() -> None:
        async with VirtualNetwork(over=over) as network:
            await connect_all(network)
            raise error

    with pytest.raises(error) as raised:
        trio.run(fail, clock=MockClock(autojump_threshold=0.01 if over == "tcp" else 0))
    assert type(raised.value) is error


async def test_a_cancelled_body_leaves_its_scope_as_ever(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as waited:
        async with VirtualNetwork() as network:
            await connect_all(network)
            await trio.sleep_forever()
    assert waited.cancelled_caught
    assert trio.current_time() == 1


class NoRoom(Memory):
    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        raise OSError(28, "no room here")


async def wait(_: VirtualNetwork) -> None:
    await trio.sleep_forever()


async def wait_in_a_nursery(_: VirtualNetwork) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()


async def leave(_: VirtualNetwork) -> None:
    pass


async def fail(_: VirtualNetwork) -> None:
    raise Boom


@pytest.mark.parametrize(
    ("body", "error"), [(wait, OSError), (wait_in_a_nursery, OSError), (leave, OSError), (fail, Boom)]
)
def test_a_peer_that_cannot_listen_ends_the_network_with_that_error(
    body: Callable[[VirtualNetwork], Any], error: type[Exception]
) -> None:
    """In a run of its own: in one of pytest-trio's, a cancellation that nobody catches passes for a success."""

    async def main() -> None:
        async with VirtualNetwork() as network:
            network.peer("bob", transports=[NoRoom()])
            await body(network)

    with pytest.raises(error, match="no room here" if error is OSError else None):
        trio.run(main, clock=MockClock(autojump_threshold=0))


@both
async def test_a_dial_that_is_cancelled_at_any_time_leaves_nothing(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    network.link(ada, bob).delay(0.1).reverse.delay(0.1)
    (await ada.dial(bob))
    await ada.connections[0].aclose()
    await trio.sleep(30)
    before, tasks = open_files(), trio.lowlevel.current_statistics().tasks_living
    for tenths in range(9 if network.over == "memory" else 7):
        with trio.move_on_after(tenths * 0.1 + 0.05 if network.over == "memory" else tenths * 0.1) as waited:
            await ada.dial(bob)
        for connection in ada.connections:
            await connection.aclose()
        assert waited.cancelled_caught == (tenths < 6) or network.over == "tcp"
        await trio.sleep(30)
        assert not network.link(ada, bob).lines
        assert open_files() == before
        assert trio.lowlevel.current_statistics().tasks_living == tasks


async def test_a_dial_that_is_cancelled_at_any_checkpoint_leaves_nothing(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada", **QUICK), network.peer("bob", **QUICK)
    await ada.dial(bob)
    await ada.connections[0].aclose()
    await trio.sleep(30)
    tasks = trio.lowlevel.current_statistics().tasks_living
    for turns in range(100):
        scope = trio.CancelScope()

        async def dial(scope: trio.CancelScope = scope) -> None:
            with scope:
                await ada.dial(bob)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        for connection in ada.connections:
            await connection.aclose()
        await trio.sleep(30)
        assert not network.link(ada, bob).lines
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        if not scope.cancelled_caught:
            assert turns > 10
            break
    else:
        pytest.fail("the dial took more than 100 turns")


async def dial_for(network: VirtualNetwork, turns: int) -> None:
    """A dial that is cancelled after so many turns of Trio's loop."""
    scope = trio.CancelScope()

    async def dial() -> None:
        with scope:
            await network.peers["ada"].dial("mem://bob")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        scope.cancel()


@pytest.mark.parametrize("network", ["tcp"], indirect=True)
async def test_a_dial_that_is_cancelled_as_it_connects_leaves_no_socket(network: VirtualNetwork) -> None:
    await network.peer("ada", **QUICK).ready()
    await network.peer("bob", **QUICK).ready()
    before = open_files()
    for turns in range(0, 14, 2):
        await dial_for(network, turns)
        await trio.sleep(30)
        gc.collect()
        if not network.peers["ada"].connections:
            assert open_files() == before


def test_in_memory_there_is_no_socket_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        files, threads = open_files(), threading.active_count()

        def none(*_: object, **__: object) -> None:
            raise AssertionError("a socket was made")

        with monkeypatch.context() as patched:
            patched.setattr(stdlib_socket, "socket", none)
            patched.setattr(trio.socket, "socket", none)
            patched.setattr(trio.to_thread, "run_sync", none)
            async with VirtualNetwork() as network:
                await connect_all(network)
                assert open_files() == files
                assert threading.active_count() == threads
                await trio.sleep(10_000)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("name", ["ada bob", "", "mem://bob"])
async def test_a_target_that_is_none_is_refused(network: VirtualNetwork, name: str) -> None:
    ada = network.peer("ada")
    with pytest.raises((InvalidAddress, NoResponse)):
        await ada.dial(name)


# --- the story --------------------------------------------------------------------------------------------


async def test_the_story_says_who_did_what_when_and_what_the_links_are_like(network: VirtualNetwork) -> None:
    ada, eve = network.peer("ada"), network.peer("eve")
    bob = network.peer("bob", trust=only(ada.id))
    network.link(ada, bob).delay(1)
    connection = await ada.dial(bob)
    with pytest.raises(Rejected):
        await eve.dial(bob)
    await trio.sleep(1)
    network.link(bob, ada).cut()
    await connection.closed()
    await trio.sleep(1)
    lines = network.story().splitlines()
    assert lines[0] == "    3.000 s  ada dialed bob: accepted"
    assert sorted(lines[1:3]) == [
        "    3.000 s  bob was dialed by eve: refused by policy, IDENTITY_UNKNOWN, at the step 'policy'; "
        "it was told IDENTITY_UNKNOWN",
        "    3.000 s  eve dialed bob: rejected, IDENTITY_UNKNOWN, at step 7, verdict",
    ]
    assert sorted(line[13:55] for line in lines[3:5]) == [
        "ada's connection with bob ended: the conne",
        "bob's connection with ada ended: the conne",
    ]
    assert str(bob.id) not in network.story()
    assert lines[5:] == [
        "the link from ada to bob: delay 1 s",
        "the link from bob to ada: cut after 0 bytes",
    ]


async def test_the_story_has_its_last_lines(network: VirtualNetwork) -> None:
    for number in range(1000):
        network.tell(f"event {number}")
    lines = network.story().splitlines()
    assert len(lines) == 50
    assert lines[-1].endswith("event 999")
