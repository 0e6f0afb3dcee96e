"""_impostors.py: each hostile peer is met as its docstring says, by who listens and by who dials."""

from __future__ import annotations

import pytest

from trishake import Network
from trishake.testing._hostile import HostilePeer, assert_dialer_withstands, assert_listener_withstands
from trishake.testing._impostors import IMPOSTORS
from trishake.testing._virtual_network import VirtualNetwork
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK, HYBRID, HYBRID_PSK

DIALING = [peer for peer in IMPOSTORS if peer.listener is not None]
DIALED = [peer for peer in IMPOSTORS if peer.dialer is not None]
HOME = Network("home", psk=bytes(range(32)))
SUITES = {
    "both": {},
    "classical": {"suites": (CLASSICAL.id,)},
    "hybrid": {"suites": (HYBRID.id,)},
    "psk": {"network": HOME},
    "classical-psk": {"network": HOME, "suites": (CLASSICAL_PSK.id,)},
    "hybrid-psk": {"network": HOME, "suites": (HYBRID_PSK.id,)},
}

OVER = pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)


@OVER
@pytest.mark.parametrize("options", SUITES.values(), ids=SUITES)
@pytest.mark.parametrize("peer", DIALING, ids=lambda peer: peer.name)
async def test_a_listener_withstands_it(network: VirtualNetwork, peer: HostilePeer, options) -> None:
    await assert_listener_withstands(network.peer("bob", **options), peer)


@OVER
@pytest.mark.parametrize("options", SUITES.values(), ids=SUITES)
@pytest.mark.parametrize("peer", DIALED, ids=lambda peer: peer.name)
async def test_a_dialer_withstands_it(network: VirtualNetwork, peer: HostilePeer, options) -> None:
    await assert_dialer_withstands(network.peer("ada", **options), peer)
