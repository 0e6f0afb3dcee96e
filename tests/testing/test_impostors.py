"""_impostors.py: right peers withstand each of them, in both roles; and peers that leave a check out do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from trishake import Identity, Network, Peer, PeerId, only
from trishake.cli._outcomes import ExitCode
from trishake.testing import _impostors
from trishake.testing._hostile import (
    HostilePeer,
    assert_dialer_withstands,
    assert_listener_withstands,
    attack,
    serving,
)
from trishake.testing._impostors import IMPOSTORS
from trishake.testing._virtual_network import VirtualNetwork
from trishake_protocol import greeting as greeting_module
from trishake_protocol import messages as messages_module
from trishake_protocol import noise as noise_module
from trishake_protocol.greeting import Handshake
from trishake_protocol.identity import GreetingContext
from trishake_protocol.messages import Greeting
from trishake_protocol.noise import CipherState, HandshakeState
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK, HYBRID, HYBRID_PSK
from trishake_protocol.primitives import KeyPair
from trishake_protocol.records import RecordReader
from trishake_protocol.session import Session

from ..peer.command_line import User

HOME: Final = Network("home", psk=bytes(range(32)))

PUBLIC: Final[dict[str, dict[str, Any]]] = {
    "both suites": {},
    "classical": {"suites": (CLASSICAL.id,)},
    "hybrid": {"suites": (HYBRID.id,)},
}
PRIVATE: Final[dict[str, dict[str, Any]]] = {
    "classical psk": {"network": HOME, "suites": (CLASSICAL_PSK.id,)},
    "hybrid psk": {"network": HOME, "suites": (HYBRID_PSK.id,)},
}
OF_INTEREST_WITH_PSK: Final = [
    _impostors.impostor,
    _impostors.downgrader,
    _impostors.man_in_the_middle,
    _impostors.outsider,
    _impostors.preface_tamperer,
    _impostors.record_replayer,
    _impostors.replayer,
    _impostors.stolen_static,
    _impostors.syn_tamperer,
]


def named(peers: list[HostilePeer]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("peer", peers, ids=[peer.name for peer in peers])


DIALING: Final = [peer for peer in IMPOSTORS if peer.listener is not None]
DIALED: Final = [peer for peer in IMPOSTORS if peer.dialer is not None]
TAKEN_IN: Final = [peer for peer in DIALED if peer.dialer is not None and peer.dialer.ended is not None]

in_memory: Final = pytest.mark.parametrize("network", ["memory"], indirect=True)
over_tcp: Final = pytest.mark.parametrize("network", ["tcp"], indirect=True)
everywhere: Final = pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)
suites_in_public: Final = pytest.mark.parametrize("options", PUBLIC.values(), ids=PUBLIC)
suites_in_private: Final = pytest.mark.parametrize("options", PRIVATE.values(), ids=PRIVATE)


# --- right peers ----------------------------------------------------------------------------------------


@in_memory
@suites_in_public
@named(DIALING)
async def test_a_listener_withstands_it(
    network: VirtualNetwork, options: dict[str, Any], peer: HostilePeer
) -> None:
    await assert_listener_withstands(network.peer("bob", **options), peer)


@in_memory
@suites_in_public
@named(DIALED)
async def test_a_dialer_withstands_it(network: VirtualNetwork, options: dict[str, Any], peer: HostilePeer) -> None:
    await assert_dialer_withstands(network.peer("ada", **options), peer)


@over_tcp
@named(DIALING)
async def test_a_listener_withstands_it_over_real_sockets(network: VirtualNetwork, peer: HostilePeer) -> None:
    await assert_listener_withstands(network.peer("bob"), peer)


@over_tcp
@named(DIALED)
async def test_a_dialer_withstands_it_over_real_sockets(network: VirtualNetwork, peer: HostilePeer) -> None:
    await assert_dialer_withstands(network.peer("ada"), peer)


@everywhere
@suites_in_private
@named(OF_INTEREST_WITH_PSK)
async def test_a_member_of_a_private_network_withstands_it(
    network: VirtualNetwork, options: dict[str, Any], peer: HostilePeer
) -> None:
    await assert_listener_withstands(network.peer("bob", **options), peer)
    await assert_dialer_withstands(network.peer("ada", **options), peer)


@in_memory
@named(DIALING)
async def test_a_listener_that_welcomes_nobody_withstands_it(network: VirtualNetwork, peer: HostilePeer) -> None:
    bob = network.peer("bob", trust=only(Identity.generate().id))
    await assert_listener_withstands(bob, peer)
    assert bob.statistics().accepted == 0


@in_memory
@named(TAKEN_IN)
async def test_whoever_is_caught_once_it_was_taken_in_is_told_so(
    network: VirtualNetwork, peer: HostilePeer
) -> None:
    assert peer.dialer is not None
    for answer in (
        await assert_listener_withstands(network.peer("bob"), peer),
        await assert_dialer_withstands(network.peer("ada"), peer),
    ):
        assert answer.closed == peer.dialer.ended
        assert answer.obstacle is None


@in_memory
@named(DIALED)
async def test_a_dialer_names_itself_to_those_only_whom_it_does_not_refuse(
    network: VirtualNetwork, peer: HostilePeer
) -> None:
    assert peer.dialer is not None
    answer = await assert_dialer_withstands(network.peer("ada"), peer)
    verified = "accepted" in peer.dialer.counts or "verdict/broken" in peer.dialer.counts
    assert answer.named_itself is verified


# --- what they say of themselves ------------------------------------------------------------------------


@named(list(IMPOSTORS))
def test_a_docstring_says_what_it_does_and_each_code_that_is_right(peer: HostilePeer) -> None:
    assert peer.__doc__ is not None
    does, _, answers = peer.__doc__.partition("\n")
    assert does.endswith((".", "peer", "public")) or answers.strip()
    assert answers.strip().count("right") >= 1
    for right in (peer.listener, peer.dialer):
        if right is not None:
            codes = {*right.counts, right.told, right.ended} - {"accepted", None}
            assert [code for code in codes if str(code) not in answers] == []
    assert ("listener" in answers) is (peer.listener is not None)
    assert ("dialer" in answers) is (peer.dialer is not None)


def test_all_of_them_are_in_the_list_under_their_own_names() -> None:
    there = {name: value for name, value in vars(_impostors).items() if isinstance(value, HostilePeer)}
    assert {peer.name: peer for peer in IMPOSTORS} == there
    assert len(IMPOSTORS) == len(there)
