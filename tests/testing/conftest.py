"""What the tests of the kit share: bare streams across a network, and what a test may have left behind.

wire            two ends of one connection, with no greeting on it
both            over memory and over TCP
open_files      what the process holds open
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pytest
import trio

from trishake import Address
from trishake.testing import VirtualNetwork

both: Final = pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)

Ends = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]
Wire = Callable[..., Awaitable[Ends]]


@pytest.fixture
async def wire(network: VirtualNetwork, nursery: trio.Nursery) -> AsyncIterator[Wire]:
    """`await wire()`: the dialer's end and the listener's. They are closed when the test ends."""
    ends: list[trio.abc.AsyncResource] = []

    async def connect(dialer: str = "ada", listener: str = "bob") -> Ends:
        address = Address(listener, scheme="mem")
        (bound,) = await network.transport(listener).listen(address, nursery)
        here = await network.transport(dialer).connect(address, address, nursery)
        there = await bound.listener.accept()
        await bound.listener.aclose()
        assert isinstance(here, trio.abc.HalfCloseableStream)
        assert isinstance(there, trio.abc.HalfCloseableStream)
        ends.extend((here, there))
        return here, there

    yield connect
    for end in ends:
        await trio.aclose_forcefully(end)


def open_files() -> set[str]:
    """What the process holds open, as the system names it: `socket:[4711]`."""
    found: set[str] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # that of the listing itself
            continue
    return found
