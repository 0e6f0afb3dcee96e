"""_tcp.py: where a name is listened at. How one is dialed is in test_transport.py: every transport races."""

from __future__ import annotations

import pytest
import trio

from trishake import Address, Tcp

from .conftest import BOB, Resolver, open_sockets

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
