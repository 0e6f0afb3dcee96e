"""_statistics.py: what has come of everything, counted by cause; and what an observer is told of connections."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from trishake import (
    CloseCode,
    Connection,
    ConnectionClosed,
    Identity,
    NoResponse,
    Observer,
    Peer,
    PeerId,
    Refused,
    Rejected,
    StreamRefused,
    UnknownProtocol,
    Untrusted,
    VerdictCode,
    only,
    reject,
)
from trishake.testing._by_hand import read_to_end
from trishake_protocol.patterns import CLASSICAL

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    QUICK,
    SETTLED,
    ByHand,
    arrival,
    closed_port,
    connect,
    met,
)


def peer(identity: Identity, **options: Any) -> Peer:
    return Peer(identity, **{"limits": QUICK, "suites": (CLASSICAL.id,), **options})


class Register(Observer):
    """Remembers what it is told of connections and streams."""

    def __init__(self) -> None:
        self.connections: list[tuple[str, Connection]] = []
        self.ends: list[ConnectionClosed] = []
        self.streams: list[tuple[PeerId, str, str]] = []

    def connected(self, connection: Connection) -> None:
        self.connections.append(("connected", connection))

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        self.connections.append(("disconnected", connection))
        self.ends.append(closed)

    def stream_refused(self, peer: PeerId, protocol: str, why: str) -> None:
        self.streams.append((peer, protocol, why))


async def test_a_peer_that_has_done_nothing_has_nothing_to_count() -> None:
    counts = Peer(BOB).statistics()
    assert (counts.admitted, counts.accepted, counts.dialed) == (0, 0, 0)
    for mapping in (counts.refused, counts.failed, counts.streams_refused, counts.ended):
        assert mapping == {}


async def test_greetings_are_counted_on_both_sides_by_what_came_of_them() -> None:
    async with peer(BOB, trust=only(ADA.id)) as bob, peer(ADA) as ada, peer(EVE) as eve:
        listener = await bob.listen(ANYWHERE)
        await ada.dial(listener.invite)
        await arrival(bob)
        for _ in range(2):
            with pytest.raises(Rejected):
                await eve.dial(listener.invite)
        with pytest.raises(Rejected, match="DUPLICATE"):
            await ada.dial(listener.invite)
        with pytest.raises(NoResponse):
            await ada.dial(f"tcp://{EVE.id}@127.0.0.1:{await closed_port()}")
        with pytest.raises(Untrusted):
            await ada.dial(str(listener.addresses[0]), trust=only())
        await wait_all_tasks_blocked(SETTLED)

        at_bob = bob.statistics()
        assert (at_bob.admitted, at_bob.accepted, at_bob.dialed) == (5, 1, 0)
        assert at_bob.refused == {"IDENTITY_UNKNOWN": 2, "DUPLICATE": 1, "ABORTED": 1}
        assert at_bob.failed == {}
        at_ada = ada.statistics()
        assert (at_ada.admitted, at_ada.accepted, at_ada.dialed) == (0, 0, 1)
        assert at_ada.failed == {"DUPLICATE": 1, "connect/refused": 1, "IDENTITY_UNKNOWN": 1}
        assert eve.statistics().failed == {"IDENTITY_UNKNOWN": 2}


async def test_strangers_who_make_no_sense_are_counted_by_how_far_they_came() -> None:
    async with peer(BOB) as bob:
        listener = await bob.listen(ANYWHERE)
        for said in (b"", b"GET / HTTP/1.1\r\n\r\n"):
            async with await connect(listener) as stream:
                await stream.send_all(said)
                await stream.send_eof()
                await read_to_end(stream)
        async with await connect(listener) as stream:
            hand = ByHand(stream)
            await hand.say(hand.flight())
            await hand.hear_syn_ack(BOB.id)
        await wait_all_tasks_blocked(SETTLED)
        counts = bob.statistics()
        assert counts.refused == {"syn/closed": 1, "syn/foreign": 1, "ack/closed": 1}
        assert counts.accepted == 0


async def test_a_dial_to_oneself_is_counted_on_both_of_its_sides() -> None:
    async with peer(ADA) as ada:
        with pytest.raises(Refused):
            await ada.dial((await ada.listen(ANYWHERE)).invite)
        await wait_all_tasks_blocked(SETTLED)
        counts = ada.statistics()
        assert counts.failed == counts.refused == {"SELF": 1}


async def test_ends_are_counted_by_the_code_of_their_close() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        listener = await bob.listen(ANYWHERE)
        for code in (CloseCode.NORMAL, CloseCode.NORMAL, CloseCode.POLICY):
            await (await ada.dial(listener.invite)).aclose(code)
        await wait_all_tasks_blocked(SETTLED)
        assert ada.statistics().ended == bob.statistics().ended == {"NORMAL": 2, "POLICY": 1}


async def test_a_connection_that_is_cut_is_counted_as_that() -> None:
    async with peer(BOB) as bob, await connect(await bob.listen(ANYWHERE)) as stream:
        hand = ByHand(stream)
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        await hand.say(hand.ack())
        at_bob = await arrival(bob)
        await stream.aclose()
        await at_bob.closed()
        assert bob.statistics().ended == {"cut": 1}


async def test_streams_that_we_refused_are_counted_and_observed() -> None:
    async def refuse(_: object) -> Any:
        return reject(VerdictCode.POLICY, "not today", why=f"ask again: {next(numbers)}")

    watch, numbers = Register(), itertools.count()
    async with met(bob={"observers": [watch]}) as two:
        two.bob.handle("some/1", read_to_end, trust=only(EVE.id))
        two.bob.handle("none/1", read_to_end, trust=refuse)
        for protocol in ("some/1", "none/1", "none/1", "what/1"):
            with pytest.raises(UnknownProtocol if protocol == "what/1" else StreamRefused):
                await two.at_ada.open_stream(protocol)
        assert two.bob.statistics().streams_refused == {"IDENTITY_UNKNOWN": 1, "POLICY": 2, "UNKNOWN_PROTOCOL": 1}
        assert two.ada.statistics().streams_refused == {}
    assert watch.streams == [
        (ADA.id, "some/1", "IDENTITY_UNKNOWN"),
        (ADA.id, "none/1", "POLICY: ask again: 0"),
        (ADA.id, "none/1", "POLICY: ask again: 1"),
        (ADA.id, "what/1", "UNKNOWN_PROTOCOL"),
    ]


async def test_an_observer_sees_a_connection_open_and_end_once_each() -> None:
    at_ada, at_bob = Register(), Register()
    async with met(ada={"observers": [at_ada]}, bob={"observers": [at_bob]}) as two:
        assert at_ada.connections == [("connected", two.at_ada)]
        await two.at_ada.aclose(CloseCode.POLICY, "enough")
        await two.at_bob.closed()
        await two.at_ada.aclose()
    assert at_ada.connections == [("connected", two.at_ada), ("disconnected", two.at_ada)]
    assert at_bob.connections == [("connected", two.at_bob), ("disconnected", two.at_bob)]
    assert [(end.code, end.text, end.by_peer) for end in at_ada.ends + at_bob.ends] == [
        (CloseCode.POLICY, "enough", False),
        (CloseCode.POLICY, "enough", True),
    ]


async def test_a_snapshot_does_not_change_and_cannot_be_changed() -> None:
    async with peer(BOB) as bob, peer(ADA) as ada:
        before = ada.statistics()
        await (await ada.dial((await bob.listen(ANYWHERE)).invite)).aclose()
        assert (before.dialed, before.ended) == (0, {})
        assert (ada.statistics().dialed, ada.statistics().ended) == (1, {"NORMAL": 1})
        with pytest.raises(FrozenInstanceError):
            before.dialed = 5  # type: ignore[misc]
        with pytest.raises(TypeError):
            before.ended["NORMAL"] = 5  # type: ignore[index]
