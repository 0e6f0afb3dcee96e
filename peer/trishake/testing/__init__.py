"""What tests take from Trishake: peers by name, links with faults, hostile peers, and promises to be kept.

The pytest plugin (_plugin.py) gives a test a `VirtualNetwork` (_virtual_network.py) with its links (_link.py), on
a virtual clock. What is to come of a dial is said by `assert_accepts` and its like (_assertions.py). `ByHand`
(_by_hand.py) is one side of a greeting, step by step. `check_transport` (_transport.py) tries out what a transport
of the application's own promises.
"""

from ._assertions import assert_accepts, assert_no_response, assert_refuses, assert_rejects
from ._by_hand import ByHand
from ._link import Link
from ._transport import check_transport
from ._virtual_network import NetworkPeer, VirtualNetwork

__all__ = [
    "ByHand",
    "Link",
    "NetworkPeer",
    "VirtualNetwork",
    "assert_accepts",
    "assert_no_response",
    "assert_refuses",
    "assert_rejects",
    "check_transport",
]
