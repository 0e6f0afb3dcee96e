"""_tcp.py: where a name is listened at. How one is dialed is in test_transport.py: every transport races."""

from __future__ import annotations

import errno
import socket as stdlib_socket
import sys

import pytest
import trio

from trishake import Address, Peer, Tcp

from .conftest import ADA, ANYWHERE, BOB, CLASSICAL, Resolver, open_sockets

NAME = "peer.test"


async def test_a_listener_is_bound_at_each_place_that_the_name_stands_for(
    resolver: Resolver, nursery: trio.Nursery
) -> None:
    resolver.names[NAME] = ["127.0.0.1", "127.0.0.2"]
    bounds = await Tcp().listen(Address(NAME, 0, BOB.id), nursery)
    assert [bound.address.host for bound in bounds] == ["127.0.0.1", "127.0.0.2"]
    for bound in bounds:
        assert bound.address.port > 0
        assert bound.address.peer is None
        await bound.listener.aclose()


async def test_what_cannot_be_bound_is_the_systems_error_and_leaves_nothing_open(nursery: trio.Nursery) -> None:
    (taken,) = await Tcp().listen(Address("127.0.0.1", 0), nursery)
    async with taken.listener:
        before = open_sockets()
        with pytest.raises(OSError, match="in use"):
            await Tcp().listen(taken.address, nursery)
        assert open_sockets() == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may give all dialers to one listener")
async def test_peers_of_one_identity_share_a_port_and_each_meets_some_of_the_dialers() -> None:
    transports = [Tcp(reuse_port=True)]
    async with (
        Peer(BOB, transports=transports) as bob,
        Peer(BOB, transports=transports) as his_double,
        Peer(ADA, suites=(CLASSICAL.id,)) as ada,
    ):
        listener = await bob.listen(ANYWHERE)
        assert (await his_double.listen(listener.addresses[0])).invite == listener.invite
        dialed = 0
        while not (bob.statistics().accepted and his_double.statistics().accepted):
            assert dialed < 30  # each has a chance of one in two, each time
            async with await ada.dial(listener.invite):
                dialed += 1
        assert bob.statistics().accepted + his_double.statistics().accepted == dialed


async def test_without_reuse_port_a_port_has_one_listener() -> None:
    async with Peer(BOB) as bob, Peer(BOB) as his_double:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(OSError, match="in use") as caught:
            await his_double.listen(listener.addresses[0])
        assert caught.value.errno == errno.EADDRINUSE


async def test_who_has_not_asked_to_share_a_port_keeps_it_from_one_who_has() -> None:
    async with Peer(BOB) as bob, Peer(BOB, transports=[Tcp(reuse_port=True)]) as his_double:
        listener = await bob.listen(ANYWHERE)
        before = open_sockets()
        with pytest.raises(OSError, match="in use") as caught:
            await his_double.listen(listener.addresses[0])
        assert caught.value.errno == errno.EADDRINUSE
        assert open_sockets() == before


async def test_a_shared_port_is_listened_at_in_each_place_that_the_name_stands_for(
    resolver: Resolver, nursery: trio.Nursery
) -> None:
    resolver.names[NAME] = ["127.0.0.1", "127.0.0.2"]
    bounds = await Tcp(reuse_port=True).listen(Address(NAME, 0), nursery)
    assert [bound.address.host for bound in bounds] == ["127.0.0.1", "127.0.0.2"]
    for bound in bounds:
        await bound.listener.aclose()


def test_a_system_that_cannot_share_a_port_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stdlib_socket, "SO_REUSEPORT", raising=False)
    Tcp()
    with pytest.raises(ValueError, match="no SO_REUSEPORT"):
        Tcp(reuse_port=True)
