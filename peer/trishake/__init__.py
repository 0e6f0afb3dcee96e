"""Trishake: peers that know each other before the first message, on Trio.

General layout: an application makes a `Peer` (_peer.py), which dials addresses (_addresses.py, _dialing.py,
_keep.py) and has listeners (_listener.py, _admission.py), over any `Transport` (_transport.py, _tcp.py, _unix.py,
_tls.py, _websocket.py, _memory.py). Both greet (_greeting.py): they drive a Session of `trishake_protocol` over a
stream (_wire.py), under the deadlines of `Limits` (_limits.py), and ask the policy (_trust.py) who is welcome:
one of a line, or one with a file (_authorized_keys.py, _known_peers.py). Who we are is in a file too (_keys.py;
_network.py has private networks, _files.py reads and writes all of them), or is held elsewhere (_signer.py,
_remote_signer.py, _ssh_agent.py). The command line is a package of its own (cli).
What comes of it is an error (_errors.py) that names the outcome, or a `Connection` (_connection.py, _writer.py),
known by identity (_registry.py), with many a `Stream` (_stream.py), which a handler answers (_handlers.py) and
which can carry messages (_messages.py). `initiate` and `respond` greet over any stream of yours, and give a
`SecureStream` (_secure_stream.py). Each greeting has a `Timeline` (_timeline.py), each failure explains itself
(_explain.py). What happens is told to every `Observer` (_observer.py, _observers.py), logged (_events.py),
counted (_statistics.py), and for OpenTelemetry made spans (_telemetry.py); _key_log.py is for dissectors, where
it is asked for.

What a first dial over TCP does not need is loaded when it is first asked for: `_LATER`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from trishake_protocol import (
    AlertCode,
    CloseCode,
    Greeting,
    GreetingToSign,
    InvalidPeerId,
    LocalProtocolError,
    PeerId,
    ProtocolError,
    RemoteProtocolError,
    Role,
    Suite,
    TrishakeError,
    VerdictCode,
    escape,
    verification_code,
)

from ._addresses import Address
from ._connection import Connection
from ._errors import (
    BadFile,
    BadHandshake,
    BadMessage,
    ChangedIdentity,
    ConnectionClosed,
    DialError,
    InvalidAddress,
    MessageTooLarge,
    NoResponse,
    Refused,
    Rejected,
    RequestFailed,
    SigningFailed,
    StreamError,
    StreamRefused,
    StreamReset,
    StreamTimeout,
    UnknownProtocol,
    Untrusted,
    WrongIdentity,
    WrongPassword,
)
from ._handlers import StreamHandler
from ._key_log import KeyLog
from ._keys import Identity, Password
from ._limits import Limits
from ._listener import Listener
from ._messages import MessageChannel, RequestFunction
from ._network import Network
from ._observer import Observer, Progress
from ._peer import Peer
from ._registry import Arrivals
from ._secure_stream import SecureStream, initiate, respond
from ._signer import Signer
from ._statistics import Statistics
from ._steps import Cause, Phase, Step
from ._stream import Stream
from ._tcp import Tcp
from ._timeline import Timeline, TimelineEntry
from ._transport import Bound, Place, Transport
from ._trust import (
    Acceptance,
    Decision,
    Introduction,
    Policy,
    Rejection,
    accept,
    all_of,
    any_of,
    anyone,
    ask,
    blocked,
    only,
    reject,
)
from ._version import VERSION as __version__

if TYPE_CHECKING:
    from ._authorized_keys import AuthorizedKeys
    from ._keep import Keeper
    from ._known_peers import KnownPeer, KnownPeers
    from ._memory import Memory
    from ._qr import qr_code
    from ._remote_signer import RemoteSigner, serve_signer
    from ._ssh_agent import SshAgent
    from ._telemetry import Telemetry
    from ._tls import Tls
    from ._unix import Unix
    from ._websocket import WebSocket

__all__ = [
    "Acceptance",
    "Address",
    "AlertCode",
    "Arrivals",
    "AuthorizedKeys",
    "BadFile",
    "BadHandshake",
    "BadMessage",
    "Bound",
    "Cause",
    "ChangedIdentity",
    "CloseCode",
    "Connection",
    "ConnectionClosed",
    "Decision",
    "DialError",
    "Greeting",
    "GreetingToSign",
    "Identity",
    "Introduction",
    "InvalidAddress",
    "InvalidPeerId",
    "Keeper",
    "KeyLog",
    "KnownPeer",
    "KnownPeers",
    "Limits",
    "Listener",
    "LocalProtocolError",
    "Memory",
    "MessageChannel",
    "MessageTooLarge",
    "Network",
    "NoResponse",
    "Observer",
    "Password",
    "Peer",
    "PeerId",
    "Phase",
    "Place",
    "Policy",
    "Progress",
    "ProtocolError",
    "Refused",
    "Rejected",
    "Rejection",
    "RemoteProtocolError",
    "RemoteSigner",
    "RequestFailed",
    "RequestFunction",
    "Role",
    "SecureStream",
    "Signer",
    "SigningFailed",
    "SshAgent",
    "Statistics",
    "Step",
    "Stream",
    "StreamError",
    "StreamHandler",
    "StreamRefused",
    "StreamReset",
    "StreamTimeout",
    "Suite",
    "Tcp",
    "Telemetry",
    "Timeline",
    "TimelineEntry",
    "Tls",
    "Transport",
    "TrishakeError",
    "Unix",
    "UnknownProtocol",
    "Untrusted",
    "VerdictCode",
    "WebSocket",
    "WrongIdentity",
    "WrongPassword",
    "__version__",
    "accept",
    "all_of",
    "any_of",
    "anyone",
    "ask",
    "blocked",
    "escape",
    "initiate",
    "only",
    "qr_code",
    "reject",
    "respond",
    "serve_signer",
    "verification_code",
]

_LATER = {
    "AuthorizedKeys": "._authorized_keys",
    "Keeper": "._keep",
    "KnownPeer": "._known_peers",
    "KnownPeers": "._known_peers",
    "Memory": "._memory",
    "RemoteSigner": "._remote_signer",
    "SshAgent": "._ssh_agent",
    "Telemetry": "._telemetry",
    "Tls": "._tls",
    "Unix": "._unix",
    "WebSocket": "._websocket",
    "qr_code": "._qr",
    "serve_signer": "._remote_signer",
}

if not TYPE_CHECKING:  # a checker would take every name for one that is there

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_LATER[name], __name__), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
