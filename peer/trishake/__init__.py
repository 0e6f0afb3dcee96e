"""Trishake: peers that know each other before the first message, on Trio.

General layout: an application makes a `Peer` (_peer.py), which dials addresses (_addresses.py, _transports.py)
and has listeners (_listener.py, _admission.py). Both greet (_greeting.py): they drive a Session of
`trishake_protocol` over a stream (_wire.py), under the deadlines of `Limits` (_limits.py), and ask the policy
(_trust.py) who is welcome. What comes of it is a `Connection` (_connection.py), a Trio stream, or an error
(_errors.py) that names the outcome. `initiate` and `respond` do the same over any stream. Whoever wants to
watch gives an `Observer` (_observer.py).
"""

from trishake_protocol import (
    AlertCode,
    CloseCode,
    Greeting,
    Identity,
    InvalidPeerId,
    LocalProtocolError,
    Network,
    PeerId,
    ProtocolError,
    RemoteProtocolError,
    Role,
    Suite,
    TrishakeError,
    VerdictCode,
    escape,
)

from ._addresses import Address
from ._connection import Connection
from ._errors import (
    BadHandshake,
    Cause,
    ConnectionClosed,
    DialError,
    InvalidAddress,
    NoResponse,
    Phase,
    Refused,
    Rejected,
    StreamError,
    StreamRefused,
    StreamReset,
    StreamTimeout,
    UnknownProtocol,
    Untrusted,
    WrongIdentity,
)
from ._handlers import StreamHandler
from ._limits import Limits
from ._listener import Listener
from ._observer import Observer, Progress, Step
from ._peer import Peer
from ._registry import Arrivals
from ._secure_stream import SecureStream, initiate, respond
from ._statistics import Statistics
from ._stream import Stream
from ._trust import Acceptance, Decision, Introduction, Policy, Rejection, accept, anyone, only, reject
from ._version import VERSION as __version__

__all__ = [
    "Acceptance",
    "Address",
    "AlertCode",
    "Arrivals",
    "BadHandshake",
    "Cause",
    "CloseCode",
    "Connection",
    "ConnectionClosed",
    "Decision",
    "DialError",
    "Greeting",
    "Identity",
    "Introduction",
    "InvalidAddress",
    "InvalidPeerId",
    "Limits",
    "Listener",
    "LocalProtocolError",
    "Network",
    "NoResponse",
    "Observer",
    "Peer",
    "PeerId",
    "Phase",
    "Policy",
    "Progress",
    "ProtocolError",
    "Refused",
    "Rejected",
    "Rejection",
    "RemoteProtocolError",
    "Role",
    "SecureStream",
    "Statistics",
    "Step",
    "Stream",
    "StreamError",
    "StreamHandler",
    "StreamRefused",
    "StreamReset",
    "StreamTimeout",
    "Suite",
    "TrishakeError",
    "UnknownProtocol",
    "Untrusted",
    "VerdictCode",
    "WrongIdentity",
    "__version__",
    "accept",
    "anyone",
    "escape",
    "initiate",
    "only",
    "reject",
    "respond",
]
