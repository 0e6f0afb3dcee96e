"""_transports.py: how an address becomes a stream, or what kept it from it."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import Address, Cause, Limits, NoResponse, Peer, Phase
from trishake._transports import listen_tcp, open_tcp

from .conftest import ADA, BOB, QUICK, Place, Resolver, cancelled_at, closed_port, open_sockets, read_to_end

NAME = "peer.test"


def on_loopback(port: int) -> Place:
    return stdlib_socket.AF_INET, ("127.0.0.1", port)


async def failed_open(address: Address, limits: Limits = QUICK) -> NoResponse:
    before = open_sockets()
    with pytest.raises(NoResponse) as caught:
        await open_tcp(address, limits)
    assert open_sockets() == before
    return caught.value


@asynccontextmanager
async def open_port() -> AsyncIterator[int]:
    """Where somebody accepts and waits for the other to leave."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, read_to_end, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hanging_port() -> AsyncIterator[int]:
    """Where a connection is neither accepted nor refused: the backlog is full, and nobody takes from it."""
    with stdlib_socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [stdlib_socket.socket() for _ in range(8)]
        for client in waiting:
            client.setblocking(False)
            assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        await wait_all_tasks_blocked(0.02)
        yield listener.getsockname()[1]
        for client in waiting:
            client.close()


# --- resolving ------------------------------------------------------------------------------------------


async def test_a_name_that_nobody_knows_is_unreachable_at_resolve(resolver: Resolver) -> None:
    resolver.names[NAME] = stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "Name or service not known")
    error = await failed_open(Address(NAME, 4711))
    assert (error.phase, error.cause) == (Phase.RESOLVE, Cause.UNREACHABLE)
    assert "Name or service not known" in str(error)


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "..", "\u2488"], ids=["long label", "no label", "IDNA"])
async def test_a_name_that_cannot_be_asked_for_is_unreachable_at_resolve(host: str) -> None:
    error = await failed_open(Address(host, 4711))
    assert (error.phase, error.cause) == (Phase.RESOLVE, Cause.UNREACHABLE)


async def test_a_resolver_that_never_answers_is_a_timeout_at_resolve(
    autojump_clock: MockClock, resolver: Resolver
) -> None:
    error = await failed_open(Address(NAME, 4711), Limits())
    assert (error.phase, error.cause) == (Phase.RESOLVE, Cause.TIMEOUT)
    assert error.elapsed == pytest.approx(10)
    assert error.retryable


async def test_a_name_that_stands_for_nothing_is_unreachable(resolver: Resolver) -> None:
    resolver.names[NAME] = []
    error = await failed_open(Address(NAME, 4711))
    assert error.cause is Cause.UNREACHABLE


async def test_a_dial_says_where_and_whom_it_could_not_reach(resolver: Resolver) -> None:
    resolver.names[NAME] = stdlib_socket.gaierror(stdlib_socket.EAI_AGAIN, "Temporary failure")
    async with Peer(ADA, limits=QUICK) as ada:
        with pytest.raises(NoResponse, match=rf"\[{NAME}:4711\].*Temporary failure") as caught:
            await ada.dial(f"tcp://{BOB.id}@{NAME}:4711")
    assert (caught.value.address, caught.value.peer) == (f"{NAME}:4711", BOB.id)


# --- connecting -----------------------------------------------------------------------------------------


async def test_a_closed_port_refuses() -> None:
    error = await failed_open(Address("127.0.0.1", await closed_port()))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.REFUSED)


async def test_an_address_without_a_route_is_unreachable(resolver: Resolver) -> None:
    """No packet leaves: a TCP connection to all hosts of a network is refused by the kernel itself."""
    resolver.names[NAME] = [(stdlib_socket.AF_INET, ("255.255.255.255", 4711))]
    error = await failed_open(Address(NAME, 4711))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.UNREACHABLE)
    assert error.detail


async def test_an_address_that_neither_accepts_nor_refuses_is_a_timeout_at_connect() -> None:
    async with hanging_port() as port:
        error = await failed_open(Address("127.0.0.1", port), Limits(connect=0.1))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.TIMEOUT)
    assert 0.1 <= error.elapsed < 2


@pytest.mark.parametrize("first", ["refuses", "hangs", "refuses, hangs"])
async def test_a_name_with_several_addresses_is_reached_at_the_one_that_answers(
    resolver: Resolver, first: str
) -> None:
    before = open_sockets()
    async with open_port() as port, hanging_port() as hanging:
        held = open_sockets()
        bad = {"refuses": on_loopback(await closed_port()), "hangs": on_loopback(hanging)}
        resolver.names[NAME] = [*(bad[how] for how in first.split(", ")), on_loopback(port)]
        stream = await open_tcp(Address(NAME, 1), QUICK)
        assert stream.socket.getpeername() == ("127.0.0.1", port)
        await stream.aclose()
        await wait_all_tasks_blocked(0.05)  # the one that accepted sees the end of it
        assert open_sockets() == held  # and of the losers nothing is left
    assert open_sockets() == before


async def test_where_every_address_refuses_it_is_refused(resolver: Resolver) -> None:
    resolver.names[NAME] = [on_loopback(await closed_port()) for _ in range(3)]
    error = await failed_open(Address(NAME, 4711))
    assert (error.phase, error.cause) == (Phase.CONNECT, Cause.REFUSED)


A_FAMILY_NOBODY_HAS = 45
"""Below AF_MAX, and without a protocol in any kernel; as IPv6 is on some machines."""


@pytest.mark.parametrize("others", [False, True], ids=["alone", "with a good one behind"])
async def test_a_family_that_this_system_lacks_is_passed_over(resolver: Resolver, others: bool) -> None:
    """So it is for a process without a descriptor left."""
    async with open_port() as port:
        resolver.names[NAME] = [
            (A_FAMILY_NOBODY_HAS, ("127.0.0.1", port)),
            *([on_loopback(port)] if others else []),
        ]
        if others:
            await (await open_tcp(Address(NAME, 1), QUICK)).aclose()
        else:
            error = await failed_open(Address(NAME, 1))
            assert (error.phase, error.cause) == (Phase.CONNECT, Cause.UNREACHABLE)


async def test_a_cancelled_dial_leaves_nothing_open_while_it_connects(resolver: Resolver) -> None:
    async with hanging_port() as hanging:
        resolver.names[NAME] = [on_loopback(hanging)] * 3
        before = open_sockets()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_tcp, Address(NAME, 1), Limits())
            await wait_all_tasks_blocked(0.3)  # the second one is under way too
            assert len(open_sockets()) > len(before)
            nursery.cancel_scope.cancel()
        assert open_sockets() == before


async def test_whatever_step_a_dial_is_cancelled_at_it_leaves_nothing_open(resolver: Resolver) -> None:
    async with open_port() as port:
        closed = on_loopback(await closed_port())
        resolver.names[NAME] = [closed, on_loopback(port), closed]

        async def open_and_close() -> None:
            await trio.aclose_forcefully(await open_tcp(Address(NAME, 1), QUICK))

        before = open_sockets()
        for step in range(1, 200):
            cancelled = await cancelled_at(step, open_and_close)
            await wait_all_tasks_blocked(0.01)
            assert open_sockets() == before, f"cancelled at step {step}"
            if not cancelled:
                break
        assert not cancelled
        assert step > 5


# --- listening ------------------------------------------------------------------------------------------


async def test_a_listener_is_bound_at_each_place_that_the_name_stands_for(resolver: Resolver) -> None:
    resolver.names[NAME] = ["127.0.0.1", "127.0.0.2"]
    listeners = await listen_tcp(Address(NAME, 0))
    assert [listener.socket.getsockname()[0] for listener in listeners] == ["127.0.0.1", "127.0.0.2"]
    for listener in listeners:
        await listener.aclose()


async def test_what_cannot_be_bound_is_the_systems_error_and_leaves_nothing_open() -> None:
    (taken,) = await listen_tcp(Address("127.0.0.1", 0))
    async with taken:
        before = open_sockets()
        with pytest.raises(OSError, match="in use"):
            await listen_tcp(Address("127.0.0.1", taken.socket.getsockname()[1]))
        assert open_sockets() == before
