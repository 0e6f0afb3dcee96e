"""Hostile peers that break the rules of the wire, against real peers, in both roles, over memory and TCP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from trishake import Peer
from trishake.testing import VirtualNetwork
from trishake.testing._hostile import HostilePeer, assert_dialer_withstands, assert_listener_withstands
from trishake.testing._strangers import STRANGERS, speaking_behind_the_end
from trishake_protocol import Session

WHO_DIAL = [one for one in STRANGERS if one.listener]
WHO_ARE_DIALED = [one for one in STRANGERS if one.dialer]
MEMORY_AND_TCP = pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)


@MEMORY_AND_TCP
@pytest.mark.parametrize("hostile", WHO_DIAL, ids=lambda one: one.name)
async def test_a_listener_withstands(network: VirtualNetwork, hostile: HostilePeer) -> None:
    await assert_listener_withstands(network.peer("bob"), hostile)


@MEMORY_AND_TCP
@pytest.mark.parametrize("hostile", WHO_ARE_DIALED, ids=lambda one: one.name)
async def test_a_dialer_withstands(network: VirtualNetwork, hostile: HostilePeer) -> None:
    await assert_dialer_withstands(network.peer("ada"), hostile)


@pytest.mark.parametrize("check", [assert_listener_withstands, assert_dialer_withstands])
async def test_a_close_that_is_not_answered_as_it_should_be_is_noticed(
    network: VirtualNetwork,
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[Peer, HostilePeer], Awaitable[object]],
) -> None:
    monkeypatch.setattr(Session, "finish", lambda _: None)
    with pytest.raises(AssertionError, match=r"bob said CLOSE .* to speaking_behind_the_end, not NORMAL"):
        await check(network.peer("bob"), speaking_behind_the_end)
