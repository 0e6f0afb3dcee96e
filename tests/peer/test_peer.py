"""_peer.py: an identity that dials and listens, over real sockets."""

from __future__ import annotations

import gc
import socket as stdlib_socket
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    Address,
    AlertCode,
    BadHandshake,
    CloseCode,
    Connection,
    ConnectionClosed,
    Decision,
    DialError,
    Identity,
    Introduction,
    InvalidAddress,
    Limits,
    Listener,
    LocalProtocolError,
    Network,
    NoResponse,
    Peer,
    PeerId,
    Refused,
    Rejected,
    Role,
    Step,
    Stream,
    Untrusted,
    VerdictCode,
    WrongIdentity,
    accept,
    anyone,
    initiate,
    only,
    respond,
)
from trishake.testing._by_hand import read_to_end
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK, HYBRID_PSK

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    PSK,
    QUICK,
    SETTLED,
    ByHand,
    Resolver,
    Watch,
    alert,
    arrival,
    cancelled_at,
    connect,
    open_sockets,
    outcome,
    receive_exactly,
    reset,
    serving,
)


def peer(identity: Identity, **options: Any) -> Peer:
    private = "network" in options and options["network"].private
    suites = (CLASSICAL_PSK.id,) if private else (CLASSICAL.id,)
    return Peer(identity, **{"limits": QUICK, "suites": suites, **options})


@asynccontextmanager
async def by_hand(listener: Listener, **options: Any) -> AsyncIterator[ByHand]:
    """A dialer in our hands."""
    async with await connect(listener) as stream:
        yield ByHand(stream, **options)


TWO_EACH = replace(QUICK, connections_per_identity=2)
"""For who meets the same peer twice."""


def collect_quietly() -> None:
    """Sockets that were left open trouble this test, and no other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def has_ipv6() -> bool:
    try:
        with stdlib_socket.socket(stdlib_socket.AF_INET6) as socket:
            socket.bind(("::1", 0))
    except OSError:
        return False
    return True


# --- meeting --------------------------------------------------------------------------------------------


async def test_two_peers_meet_by_invite_and_talk() -> None:
    """As the README has it, with the default suites."""
    async with (
        Peer(BOB, trust=only(ADA.id), limits=QUICK) as bob,
        Peer(ADA, limits=QUICK) as ada,
        Peer(EVE, limits=QUICK) as eve,
    ):
        heard: list[tuple[PeerId, bytes]] = []

        @bob.handle("say/1")
        async def listen(stream: Stream) -> None:
            heard.append((stream.peer, await read_to_end(stream)))
            await stream.send_all(b"heard")

        listener = await bob.listen(ANYWHERE)
        connection = await ada.dial(listener.invite)
        async with await connection.open_stream("say/1") as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            assert await read_to_end(stream) == b"heard"
        assert heard == [(ADA.id, b"hello")]
        assert ada.id == ADA.id
        with pytest.raises(Rejected, match="IDENTITY_UNKNOWN"):
            await eve.dial(listener.invite)


async def test_an_invite_says_who_is_there_and_where() -> None:
    async with peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        (address,) = listener.addresses
        assert (address.host, address.peer) == ("127.0.0.1", None)
        assert address.port != 0
        assert listener.invites == (listener.invite,)
        assert Address.parse(listener.invite) == Address("127.0.0.1", address.port, BOB.id)


async def test_a_wildcard_address_is_invited_to_by_this_machines_name() -> None:
    async with peer(BOB) as bob:
        listener = await bob.listen("tcp://0.0.0.0:0")
        assert listener.addresses[0].host == "0.0.0.0"
        assert Address.parse(listener.invite).host == stdlib_socket.gethostname().lower()


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_peers_meet_over_ipv6() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen("tcp://[::1]:0")
        port = listener.addresses[0].port
        assert listener.invite == f"tcp://{BOB.id}@[::1]:{port}"
        async with await ada.dial(listener.invite) as connection:
            assert connection.address == f"[::1]:{port}"
            assert connection.seen == (await arrival(bob)).address


@pytest.mark.parametrize("upper", [False, True])
async def test_an_invite_may_be_an_address_or_a_text_of_either_case(upper: bool) -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen(Address("127.0.0.1", 0))
        text = listener.invite.replace(str(BOB.id), str(BOB.id).upper()) if upper else listener.invite
        for invite in (text, Address.parse(text)):
            async with await ada.dial(invite) as connection:
                assert connection.peer == BOB.id


async def test_without_an_id_whoever_the_policy_takes_will_do() -> None:
    async with peer(BOB) as bob, peer(ADA, trust=only(EVE.id)) as ada:
        listener = await bob.listen(ANYWHERE)
        somewhere = str(listener.addresses[0])
        with pytest.raises(Untrusted):
            await ada.dial(somewhere)
        connection = await ada.dial(somewhere, trust=anyone)  # the policy for this dial
        assert connection.peer == BOB.id


async def test_whoever_answers_instead_of_the_one_who_was_dialed_is_refused() -> None:
    watch = Watch()
    async with peer(EVE, observers=[watch]) as eve, peer(ADA) as ada:
        listener = await eve.listen(ANYWHERE)
        where = str(listener.addresses[0].with_peer(BOB.id))
        with pytest.raises(WrongIdentity) as caught:
            await ada.dial(where)
        assert (caught.value.expected, caught.value.actual) == (BOB.id, EVE.id)
        assert caught.value.address == f"127.0.0.1:{listener.addresses[0].port}"
    ((role, error),) = watch.failures
    assert role is Role.RESPONDER
    assert isinstance(error, Rejected)
    assert error.reason is AlertCode.ABORTED
    assert error.peer is None  # nothing has named her


async def test_a_name_that_leads_to_somebody_else_is_no_way_to_be_the_one_who_was_dialed(
    resolver: Resolver,
) -> None:
    watch = Watch()
    async with peer(EVE, observers=[watch]) as eve, peer(ADA) as ada:
        listener = await eve.listen(ANYWHERE)
        resolver.names["bob.test"] = ["127.0.0.1"]
        with pytest.raises(WrongIdentity) as caught:
            await ada.dial(f"tcp://{BOB.id}@bob.test:{listener.addresses[0].port}")
        assert caught.value.actual == EVE.id
        assert (await watch.wait_failed()).peer is None  # nor has she learned who dialed


async def test_two_may_be_dialed_at_once_and_by_one() -> None:
    async with peer(BOB, limits=TWO_EACH) as bob, peer(ADA, limits=TWO_EACH) as ada, peer(EVE) as eve:
        at_bob, at_eve = await bob.listen(ANYWHERE), await eve.listen(ANYWHERE)
        met: dict[str, Connection] = {}

        async def dial(name: str, invite: str) -> None:
            met[name] = await ada.dial(invite)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, "bob", at_bob.invite)
            nursery.start_soon(dial, "eve", at_eve.invite)
            nursery.start_soon(dial, "bob again", at_bob.invite)
        assert {name: connection.peer for name, connection in met.items()} == {
            "bob": BOB.id,
            "eve": EVE.id,
            "bob again": BOB.id,
        }
        assert len({connection.session_id for connection in met.values()}) == 3


async def test_a_peer_that_dials_itself_learns_it_and_the_wire_says_any_failure() -> None:
    heard = b""
    async with peer(ADA) as ada:
        listener = await ada.listen(ANYWHERE)
        with pytest.raises(Refused) as caught:
            await ada.dial(listener.invite)
        assert_met_itself(caught.value)

        async def pass_on(stream: trio.SocketStream) -> None:
            """Between the dial and the listener, to see what the latter says."""
            nonlocal heard
            async with await connect(listener) as onward:
                await onward.send_all(await receive_exactly(stream, PREFACE_AND_SYN))
                heard = await read_to_end(onward)
                await stream.send_all(heard)

        async with serving(pass_on) as port:
            with pytest.raises(Refused) as caught:
                await ada.dial(f"tcp://127.0.0.1:{port}")
        assert_met_itself(caught.value)
    assert heard == alert(AlertCode.HANDSHAKE_FAILED.value)


PREFACE_AND_SYN = 19 + 2 + 3 + 32


def assert_met_itself(error: Refused) -> None:
    assert type(error) is Refused
    assert error.reason is VerdictCode.SELF
    assert not error.retryable
    assert "itself" in str(error)


async def test_the_dial_of_another_is_not_taken_for_our_own() -> None:
    """Only a dial still under way counts; a stranger's ephemeral key is none of ours."""
    async with peer(ADA) as ada, peer(BOB) as bob:
        listener = await ada.listen(ANYWHERE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ada.dial, (await bob.listen(ANYWHERE)).invite)
            assert (await bob.dial(listener.invite)).peer == ADA.id


# --- streams, or nothing --------------------------------------------------------------------------------


async def test_whoever_dials_and_has_no_streams_is_rejected_with_a_text() -> None:
    async with peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected) as caught:
            await initiate(await connect(listener), ADA, suites=(CLASSICAL.id,), limits=QUICK)
        assert caught.value.reason is VerdictCode.POLICY
        assert caught.value.text == "this peer speaks in streams (mux/1), and the other side does not"
        assert bob.connections == ()
        assert bob.statistics().refused == {"POLICY": 1}


async def test_whoever_is_dialed_and_has_no_streams_is_left_without_a_name() -> None:
    ends: list[object] = []

    async def answer(stream: trio.SocketStream) -> None:
        ends.append(await outcome(respond, stream, BOB, suites=(CLASSICAL.id,), limits=QUICK))

    async with peer(ADA) as ada:
        async with serving(answer) as port:
            with pytest.raises(Untrusted, match=r"mux/1") as caught:
                await ada.dial(f"tcp://{BOB.id}@127.0.0.1:{port}")
        assert caught.value.reason is VerdictCode.POLICY
        assert ada.connections == ()
    (error,) = ends
    assert isinstance(error, Rejected)
    assert (error.reason, error.peer) == (AlertCode.ABORTED, None)


# --- leaving --------------------------------------------------------------------------------------------


async def test_leaving_the_block_closes_every_connection_and_tells_the_other_side() -> None:
    ends: list[ConnectionClosed] = []

    async def see_the_end(connection: Connection) -> None:
        ends.append(await connection.closed())

    before = open_sockets()
    async with peer(ADA, limits=TWO_EACH) as ada, trio.open_nursery() as nursery:
        ears = await ada.listen(ANYWHERE)
        with trio.fail_after(5):  # far less than Bob's limits
            async with peer(BOB, limits=replace(TWO_EACH, close=30, finish=30)) as bob:
                await ada.dial((await bob.listen(ANYWHERE)).invite)
                dialed_by_bob = await bob.dial(ears.invite)
                while len(ada.connections) < 2:
                    await trio.lowlevel.checkpoint()
                for connection in ada.connections:
                    nursery.start_soon(see_the_end, connection)
        with pytest.raises(ConnectionClosed) as caught:
            await dialed_by_bob.open_stream("any/1")
        assert not caught.value.by_peer
    assert [(end.code, end.by_peer) for end in ends] == [(CloseCode.GOING_AWAY, True)] * 2
    assert open_sockets() == before


async def test_leaving_cancels_a_handler_that_goes_on_without_its_stream() -> None:
    cancelled = trio.Event()

    async def go_on(stream: Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with peer(ADA) as ada:
        with trio.fail_after(5):
            async with peer(BOB, limits=replace(QUICK, finish=0.1)) as bob:
                bob.handle("go-on/1", go_on)
                await (await ada.dial((await bob.listen(ANYWHERE)).invite)).open_stream("go-on/1")
        assert cancelled.is_set()


async def test_an_error_in_the_block_leaves_no_time_to_finish() -> None:
    async def fail(listener: Listener, bob: Peer) -> None:
        async with peer(ADA, limits=Limits(finish=30)) as ada:
            await (await ada.dial(listener.invite)).open_stream("shout/1")
            raise ValueError("of the application's own")

    async with peer(BOB) as bob:
        bob.handle("shout/1", shout)
        listener = await bob.listen(ANYWHERE)
        with trio.fail_after(5), pytest.raises(ValueError, match="own"):
            await fail(listener, bob)


async def test_after_leaving_nobody_listens_any_more() -> None:
    async with peer(ADA) as ada:
        async with peer(BOB) as bob:
            listener = await bob.listen(ANYWHERE)
        assert [connection async for connection in bob.arrivals()] == []
        with pytest.raises(NoResponse, match="port is closed"):
            await ada.dial(listener.invite)


async def test_an_error_in_the_block_comes_out_as_itself() -> None:
    async def dial_from_a_block(invite: str) -> None:
        async with peer(ADA) as ada:
            await ada.listen(ANYWHERE)
            await ada.dial(invite)

    async def fail_in_a_block(error: Exception) -> None:
        async with peer(ADA) as ada:
            await ada.listen(ANYWHERE)
            raise error

    async with peer(BOB, trust=only()) as bob:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected):  # and no group around it
            await dial_from_a_block(listener.invite)
        for error in (ValueError("of the application's own"), trio.TooSlowError()):
            with pytest.raises(type(error)) as caught:
                await fail_in_a_block(error)
            assert caught.value is error


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_comes_out_as_itself_and_the_other_side_is_told(interrupt: type[BaseException]) -> None:
    """A Ctrl-C is no line that was cut: whoever is left sees CLOSE."""

    async def interrupted(invite: str) -> None:
        async with Peer(ADA, limits=QUICK) as ada:
            await ada.dial(invite)
            met.append(await arrival(bob))
            raise interrupt

    met: list[Connection] = []
    async with Peer(BOB, limits=QUICK) as bob:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(interrupt):
            await interrupted(listener.invite)
        closed = await met[0].closed()
        assert (closed.code, closed.by_peer) == (CloseCode.GOING_AWAY, True)


async def test_a_cancelled_block_tells_the_other_side() -> None:
    async with Peer(BOB, limits=QUICK) as bob:
        listener = await bob.listen(ANYWHERE)
        with trio.CancelScope() as scope:
            async with Peer(ADA, limits=QUICK) as ada:
                await ada.dial(listener.invite)
                at_bob = await arrival(bob)
                scope.cancel()
        assert scope.cancelled_caught
        closed = await at_bob.closed()
        assert (closed.code, closed.by_peer) == (CloseCode.GOING_AWAY, True)


async def test_a_peer_that_was_closed_within_its_block_begins_nothing_new() -> None:
    async with Peer(BOB, limits=QUICK) as bob, Peer(ADA, limits=QUICK) as ada:
        listener = await bob.listen(ANYWHERE)
        await ada.aclose()
        for call in (ada.dial, ada.listen):
            with pytest.raises(LocalProtocolError):
                await call(listener.invite)
        with pytest.raises(LocalProtocolError):
            ada.keep(listener.invite)


async def test_leaving_raises_nothing_though_the_other_sides_have_hung_up() -> None:
    async with peer(ADA) as ada, peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        async with by_hand(listener) as hand:
            await hand.call(BOB.id)
            await hand.hear_verdict()
            accepted = await arrival(bob)
            assert isinstance(hand.stream, trio.SocketStream)
            await reset(hand.stream)
        dialed = await ada.dial(listener.invite)
        await trio.aclose_forcefully(dialed)
        with trio.fail_after(5):
            await accepted.aclose()


async def test_a_cancelled_block_closes_every_socket() -> None:
    before = open_sockets()
    async with peer(ADA, limits=TWO_EACH) as ada:
        ears = await ada.listen(ANYWHERE)
        within = open_sockets()
        with trio.CancelScope() as scope:
            async with peer(BOB, limits=TWO_EACH) as bob:
                listener = await bob.listen(ANYWHERE)
                await bob.dial(ears.invite)
                await ada.dial(listener.invite)
                async with by_hand(listener):
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        await wait_all_tasks_blocked(SETTLED)
        assert ada.connections == ()  # her own ends see that he is gone
        assert open_sockets() == within
    assert open_sockets() == before


async def test_a_cancelled_block_closes_every_socket_of_a_listener_with_several(resolver: Resolver) -> None:
    resolver.names["everywhere.test"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    before = open_sockets()
    with trio.CancelScope() as scope:
        async with peer(BOB) as bob:
            listener = await bob.listen("tcp://everywhere.test:0")
            assert len(listener.invites) == 3
            scope.cancel()
    left_open = open_sockets() - before
    collect_quietly()
    assert left_open == set()


@pytest.mark.parametrize(
    ("said", "answer"),
    [("nothing", b""), ("magic", alert(0x08)), ("flight", alert(0x08))],
)
async def test_a_greeting_under_way_is_told_going_away_when_we_leave(said: str, answer: bytes) -> None:
    watch = Watch()
    async with trio.open_nursery() as nursery:
        async with peer(BOB, observers=[watch], limits=Limits(close=30, drain_after_alert=30)) as bob:
            hand = ByHand(await connect(await bob.listen(ANYWHERE)))
            flight = hand.flight()
            await hand.say({"nothing": b"", "magic": flight[:4], "flight": flight}[said])
            if said == "flight":
                await hand.hear_syn_ack(BOB.id)
            await wait_all_tasks_blocked(SETTLED)
            heard: list[bytes] = []

            async def hear() -> None:
                async with hand.stream:
                    heard.append(await hand.hear_to_end())

            nursery.start_soon(hear)
            left = trio.current_time()
        assert trio.current_time() - left < 5
    assert heard == [answer]
    ((_, error),) = watch.failures
    assert isinstance(error, Refused)
    assert error.reason is AlertCode.GOING_AWAY


async def test_a_dialer_whom_the_policy_considers_is_told_shutting_down_when_we_leave() -> None:
    considering = trio.Event()

    async def consider(introduction: Introduction) -> Decision:
        considering.set()
        await trio.sleep_forever()
        return accept()

    ends: list[Any] = []

    async def dial(ada: Peer, invite: str) -> None:
        ends.append(await outcome(ada.dial, invite))

    async with (
        peer(ADA) as ada,
        trio.open_nursery() as nursery,
        peer(BOB, trust=consider, limits=Limits(policy=30)) as bob,
    ):
        nursery.start_soon(dial, ada, (await bob.listen(ANYWHERE)).invite)
        await considering.wait()
    (error,) = ends
    assert isinstance(error, Rejected)
    assert (error.reason, error.authenticated, error.retryable) == (VerdictCode.SHUTTING_DOWN, True, True)


async def test_a_listener_that_is_closed_leaves_its_connections_open_and_takes_no_more() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        bob.handle("shout/1", shout)
        listener = await bob.listen(ANYWHERE)
        connection = await ada.dial(listener.invite)
        await arrival(bob)
        await listener.aclose()
        assert await ask(connection, b"still here") == b"STILL HERE"
        with pytest.raises(NoResponse):
            await ada.dial(listener.invite)


# --- who comes, and what they ask -----------------------------------------------------------------------


async def shout(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk.upper())


async def ask(connection: Connection, word: bytes) -> bytes:
    async with await connection.open_stream("shout/1") as stream:
        await stream.send_all(word)
        await stream.send_eof()
        return await read_to_end(stream)


async def test_a_handler_serves_one_connection_after_another() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        bob.handle("shout/1", shout)
        listener = await bob.listen(ANYWHERE)
        for word in (b"hello", b"again"):
            async with await ada.dial(listener.invite) as connection:
                assert await ask(connection, word) == word.upper()


async def test_a_handler_serves_who_was_dialed_and_who_dialed_alike() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        bob.handle("shout/1", shout)
        ada.handle("shout/1", shout)
        at_ada = await ada.dial((await bob.listen(ANYWHERE)).invite)
        assert await ask(at_ada, b"to the responder") == b"TO THE RESPONDER"
        assert await ask(await arrival(bob), b"to the initiator") == b"TO THE INITIATOR"


async def test_arrivals_can_be_iterated_until_the_peer_leaves() -> None:
    seen: list[bytes] = []

    async def take_each(bob: Peer) -> None:
        async for connection in bob.arrivals():
            seen.append(connection.session_id)

    async with (
        peer(ADA, limits=THREE_EACH) as ada,
        trio.open_nursery() as nursery,
        peer(BOB, limits=THREE_EACH) as bob,
    ):
        listener = await bob.listen(ANYWHERE)
        nursery.start_soon(take_each, bob)
        dialed = [await ada.dial(listener.invite) for _ in range(3)]
        while len(seen) < 3:
            await trio.lowlevel.checkpoint()
    assert seen == [connection.session_id for connection in dialed]


THREE_EACH = replace(QUICK, connections_per_identity=3)


async def test_iterating_arrivals_may_stop_at_any_time(recwarn: pytest.WarningsRecorder) -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen(ANYWHERE)
        await ada.dial(listener.invite)
        async for connection in bob.arrivals():
            assert connection.peer == ADA.id
            break
        gc.collect()
        await trio.lowlevel.checkpoint()
    assert recwarn.list == []


async def test_a_peer_dials_and_listens_only_within_its_block() -> None:
    bob = peer(BOB)
    for call in (bob.listen, bob.dial):
        with pytest.raises(LocalProtocolError, match="async with"):
            await call("tcp://127.0.0.1:1")
    async with bob:
        await bob.listen(ANYWHERE)
    before = open_sockets()
    for call in (bob.listen, bob.dial):
        with pytest.raises(LocalProtocolError, match="async with"):
            await call(ANYWHERE)
    assert open_sockets() == before


async def test_a_dial_under_way_when_its_peer_leaves_opens_nothing() -> None:
    reached, ended = trio.Event(), trio.Event()
    ends: list[Connection | DialError] = []

    async def take_its_time(stream: trio.SocketStream) -> None:
        hand = ByHand(stream)
        await hand.hear_flight()
        reached.set()
        await ended.wait()
        await hand.hear_to_end()

    async def dial(ada: Peer, port: int) -> None:
        ends.append(await outcome(ada.dial, f"tcp://127.0.0.1:{port}"))
        ended.set()

    async with serving(take_its_time) as port, trio.open_nursery() as nursery:
        async with peer(ADA) as ada:
            nursery.start_soon(dial, ada, port)
            await reached.wait()
        with trio.fail_after(5):
            await ended.wait()
    (error,) = ends
    assert isinstance(error, Refused)
    assert error.reason is AlertCode.GOING_AWAY


async def test_whatever_step_a_dial_is_at_when_its_peer_leaves_no_connection_stays_open() -> None:
    ends: list[Connection | DialError] = []

    async def dial(ada: Peer, invite: str, ended: trio.Event) -> None:
        ends.append(await outcome(ada.dial, invite))
        ended.set()

    limits = Limits(handshake_burst=10**6, close=0.1)
    async with peer(BOB, limits=limits) as bob:
        listener = await bob.listen(ANYWHERE)
        for step in range(2, 500):
            ended = trio.Event()
            async with trio.open_nursery() as nursery, peer(ADA, limits=limits) as ada:
                nursery.start_soon(dial, ada, listener.invite, ended)
                if not await cancelled_at(step, ended.wait):
                    break
        assert {type(end) for end in ends} == {Connection, Refused}
        for end in ends:
            if isinstance(end, Connection):
                try:
                    with pytest.raises(ConnectionClosed), trio.fail_after(1):
                        await end.open_stream("is this open?")
                finally:
                    await trio.aclose_forcefully(end)


async def test_a_name_looked_up_when_its_peer_leaves_opens_nothing(resolver: Resolver) -> None:
    ends: list[Connection | DialError] = []

    async def dial(ada: Peer) -> None:
        ends.append(await outcome(ada.dial, "tcp://later.test:1"))

    async def listen(ada: Peer) -> None:
        with pytest.raises(LocalProtocolError, match="left its block"):
            await ada.listen("tcp://home.test:0")

    async with peer(BOB) as bob, trio.open_nursery() as nursery:
        listener = await bob.listen(ANYWHERE)
        before = open_sockets()
        async with peer(ADA) as ada:
            nursery.start_soon(dial, ada)
            nursery.start_soon(listen, ada)
            await wait_all_tasks_blocked()
        resolver.learn("home.test", ["127.0.0.1"])
        resolver.learn("later.test", [(stdlib_socket.AF_INET, ("127.0.0.1", listener.addresses[0].port))])
        await wait_all_tasks_blocked(SETTLED)
        assert open_sockets() == before
    (error,) = ends
    assert isinstance(error, Refused)
    assert error.reason is AlertCode.GOING_AWAY


async def test_where_it_cannot_listen_it_says_so() -> None:
    async with peer(BOB) as bob:
        taken = (await bob.listen(ANYWHERE)).addresses[0]
        with pytest.raises(OSError, match=rf"in use. .* port 0 is whichever is free.*{taken}"):
            await bob.listen(taken)
        with pytest.raises(InvalidAddress):
            await bob.listen("127.0.0.1:0")


# --- private networks -----------------------------------------------------------------------------------

HOME = Network("home", PSK)
OTHER_KEY = bytes(reversed(PSK))


async def test_peers_of_one_private_network_meet() -> None:
    async with Peer(BOB, network=HOME, limits=QUICK) as bob, Peer(ADA, network=HOME, limits=QUICK) as ada:
        listener = await bob.listen(ANYWHERE)
        async with await ada.dial(listener.invite) as connection:
            assert connection.suite is HYBRID_PSK
            assert (await arrival(bob)).peer == ADA.id


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Network("home", OTHER_KEY), AlertCode.HANDSHAKE_FAILED),
        (Network("away", PSK), AlertCode.HANDSHAKE_FAILED),
        (Network("home"), AlertCode.UNSUPPORTED_SUITE),
    ],
    ids=["another key", "another name", "no key"],
)
async def test_whoever_is_not_of_the_private_network_is_refused_before_any_key_is_made(
    network: Network, reason: AlertCode
) -> None:
    watch = Watch()
    async with peer(BOB, network=HOME, observers=[watch]) as bob, peer(EVE, network=network) as eve:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected) as caught:
            await eve.dial(listener.invite)
    assert caught.value.reason is reason
    assert not caught.value.authenticated
    assert not caught.value.retryable
    ((_, error),) = watch.failures
    assert isinstance(error, BadHandshake)
    assert error.reason is reason
    assert Step.SYN_ACK_SENT not in [progress.step for progress in watch.steps]


async def test_the_networks_key_makes_nobody_another_member() -> None:
    """It is everybody's in the network: who is who, each proves with a key of his own."""
    async with peer(BOB, network=HOME, trust=only(ADA.id)) as bob, peer(EVE, network=HOME) as thief:
        with pytest.raises(Rejected, match="IDENTITY_UNKNOWN"):
            await thief.dial((await bob.listen(ANYWHERE)).invite)
        at_thief = (await thief.listen(ANYWHERE)).addresses[0]
        async with peer(ADA, network=HOME) as ada:
            with pytest.raises(WrongIdentity):
                await ada.dial(str(at_thief.with_peer(BOB.id)))
        assert thief.connections == bob.connections == ()


async def test_a_public_network_is_not_entered_with_a_private_key() -> None:
    async with peer(BOB) as bob, peer(ADA, network=HOME) as ada:
        with pytest.raises(Rejected) as caught:
            await ada.dial((await bob.listen(ANYWHERE)).invite)
    assert caught.value.reason is AlertCode.UNSUPPORTED_SUITE


async def test_peers_of_two_public_networks_are_told_so() -> None:
    async with peer(BOB, network=Network("home")) as bob, peer(ADA, network=Network("away")) as ada:
        with pytest.raises(Rejected, match="same network") as caught:
            await ada.dial((await bob.listen(ANYWHERE)).invite)
    assert caught.value.reason is AlertCode.WRONG_NETWORK


async def test_keys_are_rotated_while_peers_go_on_meeting() -> None:
    """A responder takes any of its keys; an initiator uses the first."""
    old, new = PSK, OTHER_KEY
    stages = [Network("home", keys) for keys in ((old,), (old, new), (new, old), (new,))]
    for stage, next_stage in pairwise(stages):
        for network_of_ada, network_of_bob in ((stage, next_stage), (next_stage, stage)):
            async with peer(BOB, network=network_of_bob) as bob, peer(ADA, network=network_of_ada) as ada:
                connection = await ada.dial((await bob.listen(ANYWHERE)).invite)
                assert connection.peer == BOB.id
                await trio.aclose_forcefully(connection)


@pytest.mark.parametrize(
    "said",
    [
        lambda hand: hand.flight()[:4],
        lambda hand: hand.flight()[:21],
        lambda hand: hand.flight()[:8] + bytes(20),
        lambda hand: hand.flight(),
    ],
    ids=["magic", "preface", "a malformed preface", "a SYN under another key"],
)
async def test_a_quiet_network_says_nothing_at_all_to_who_lacks_its_key(
    said: Callable[[ByHand], bytes], socket_clock: MockClock
) -> None:
    quiet = Network("home", PSK, quiet=True)
    async with peer(BOB, network=quiet, limits=Limits(syn=0.1)) as bob:
        listener = await bob.listen(ANYWHERE)
        async with by_hand(listener, suite=CLASSICAL_PSK, network=Network("home", OTHER_KEY)) as hand:
            await hand.say(said(hand))
            assert await hand.hear_to_end() == b""


async def test_a_quiet_network_does_not_even_say_busy() -> None:
    quiet = Network("home", PSK, quiet=True)
    async with (
        peer(BOB, network=quiet, limits=Limits(handshakes_per_address=0)) as bob,
        by_hand(await bob.listen(ANYWHERE), suite=CLASSICAL_PSK, network=quiet) as hand,
    ):
        assert await hand.hear_to_end() == b""


async def test_a_quiet_network_speaks_to_who_has_its_key() -> None:
    quiet = Network("home", PSK, quiet=True)
    async with peer(BOB, network=quiet, trust=only()) as bob, peer(ADA, network=quiet) as ada:
        with pytest.raises(Rejected, match="IDENTITY_UNKNOWN"):
            await ada.dial((await bob.listen(ANYWHERE)).invite)


# --- capacity -------------------------------------------------------------------------------------------


async def test_one_connection_too_many_is_rejected_until_there_is_room_again() -> None:
    async with (
        peer(BOB, limits=replace(TWO_EACH, connections=2)) as bob,
        peer(ADA, limits=TWO_EACH) as ada,
        peer(EVE) as eve,
    ):
        listener = await bob.listen(ANYWHERE)
        first = await ada.dial(listener.invite)
        at_bob = await arrival(bob)
        await eve.dial(listener.invite)
        with pytest.raises(Rejected) as caught:
            await ada.dial(listener.invite)
        assert caught.value.reason is VerdictCode.CAPACITY
        assert caught.value.authenticated
        assert caught.value.retryable
        assert caught.value.retry_after
        await first.aclose()
        await at_bob.closed()
        assert (await ada.dial(listener.invite)).peer == BOB.id


async def test_whom_the_policy_rejects_and_who_fails_take_no_room() -> None:
    async with peer(BOB, trust=only(ADA.id), limits=Limits(connections=1)) as bob:
        listener = await bob.listen(ANYWHERE)
        async with peer(EVE) as eve, peer(ADA) as ada:
            for _ in range(3):
                with pytest.raises(Rejected, match="IDENTITY_UNKNOWN"):
                    await eve.dial(listener.invite)
            async with by_hand(listener) as hand:
                await hand.say(hand.flight())
                await hand.hear_syn_ack(BOB.id)
            assert (await ada.dial(listener.invite)).peer == BOB.id


async def test_a_policy_that_fails_for_one_hurts_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def superstitious(introduction: Introduction) -> Decision:
        if introduction.peer == EVE.id:
            raise RuntimeError("a black cat")
        return accept()

    async with peer(BOB, trust=superstitious) as bob, peer(ADA) as ada, peer(EVE) as eve:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected) as caught:
            await eve.dial(listener.invite)
        assert caught.value.reason is VerdictCode.INTERNAL
        assert (await ada.dial(listener.invite)).peer == BOB.id
    (record,) = caplog.records
    assert str(EVE.id) in record.getMessage()


# --- errors carry where and who -------------------------------------------------------------------------


async def test_an_error_of_a_dial_carries_the_address_and_the_peer() -> None:
    async with peer(BOB, trust=only()) as bob, peer(ADA) as ada:
        listener = await bob.listen(ANYWHERE)
        where = f"127.0.0.1:{listener.addresses[0].port}"
        with pytest.raises(Rejected) as rejected:
            await ada.dial(listener.invite)
        assert (rejected.value.address, rejected.value.peer) == (where, BOB.id)
        with pytest.raises(Untrusted) as untrusted:
            await ada.dial(str(listener.addresses[0]), trust=only())
        assert (untrusted.value.address, untrusted.value.peer) == (where, BOB.id)
        await listener.aclose()
        with pytest.raises(NoResponse) as unanswered:
            await ada.dial(listener.invite)
        assert (unanswered.value.address, unanswered.value.peer) == (where, BOB.id)
        for error in (rejected.value, untrusted.value, unanswered.value):
            assert where in str(error)
