"""The Trishake protocol without I/O: bytes in, events out.

General layout: a runtime drives one `Session` (session.py) a connection. Its states and moves are one
table (states.py), what it reports are the events (events.py), what it sends and reads are the messages
(messages.py) in frames and records (records.py). A greeting is made and verified in greeting.py, with who we
are (identity.py), who the other is (peer_id.py) and where we meet (network.py). Underneath is Noise (noise.py)
with its patterns and suites as data (patterns.py), on `cryptography` alone (primitives.py). Every number is in
limits.py, every error and every code in errors.py. Nothing here imports Trio, opens a socket or a file, or reads
a clock.
"""

from .errors import (
    RETRYABLE,
    AlertCode,
    CloseCode,
    ForeignProtocol,
    GreetingRefused,
    InvalidPeerId,
    LocalProtocolError,
    ProtocolError,
    Reason,
    RemoteProtocolError,
    TrishakeError,
    Truncated,
    VerdictCode,
    code_name,
    escape,
)
from .events import (
    Accepted,
    CloseReceived,
    CreditReceived,
    DataReceived,
    Event,
    GoAwayReceived,
    PeerIdentified,
    PongReceived,
    Rejected,
    StreamAccepted,
    StreamFinished,
    StreamOpened,
    StreamRefused,
    StreamReset,
    SynReceived,
    Wait,
)
from .foreign import foreign_protocol
from .greeting import Profile, UnexpectedIdentity
from .identity import GreetingToSign, Identity, PublicIdentity
from .messages import Greeting
from .network import Network
from .patterns import PRIVATE_SUITES, PUBLIC_SUITES, Role, Suite
from .peer_id import PeerId, verification_code
from .session import Session
from .states import Direction, State
from .streams import Streams

__all__ = [
    "PRIVATE_SUITES",
    "PUBLIC_SUITES",
    "RETRYABLE",
    "Accepted",
    "AlertCode",
    "CloseCode",
    "CloseReceived",
    "CreditReceived",
    "DataReceived",
    "Direction",
    "Event",
    "ForeignProtocol",
    "GoAwayReceived",
    "Greeting",
    "GreetingRefused",
    "GreetingToSign",
    "Identity",
    "InvalidPeerId",
    "LocalProtocolError",
    "Network",
    "PeerId",
    "PeerIdentified",
    "PongReceived",
    "Profile",
    "ProtocolError",
    "PublicIdentity",
    "Reason",
    "Rejected",
    "RemoteProtocolError",
    "Role",
    "Session",
    "State",
    "StreamAccepted",
    "StreamFinished",
    "StreamOpened",
    "StreamRefused",
    "StreamReset",
    "Streams",
    "Suite",
    "SynReceived",
    "TrishakeError",
    "Truncated",
    "UnexpectedIdentity",
    "VerdictCode",
    "Wait",
    "code_name",
    "escape",
    "foreign_protocol",
    "verification_code",
]
