"""What can go wrong in the core, by whose fault it is, and the codes that say so on the wire.

    TrishakeError
    ├── InvalidPeerId               also a ValueError: these bytes or this text are no peer id
    └── ProtocolError
        ├── LocalProtocolError      you called what the state does not allow
        └── RemoteProtocolError     they broke the protocol; .reason is the code that fits, if one does
            ├── ForeignProtocol     they speak something else; .protocol names it
            ├── Truncated           their bytes ended in the middle
            └── GreetingRefused     their greeting failed a check; .reason names it
                └── UnexpectedIdentity   somebody else answered; .expected, .actual (greeting.py)

The runtime's errors (`trishake`) hang from the same root.
"""

from __future__ import annotations

import enum
import unicodedata
from typing import Final


class AlertCode(enum.Enum):
    """Why a greeting was refused, in clear: anyone on the path can have written it (section 8)."""

    MALFORMED = 0x01
    UNSUPPORTED_VERSION = 0x02
    UNSUPPORTED_SUITE = 0x03
    WRONG_NETWORK = 0x04
    BUSY = 0x05
    HANDSHAKE_FAILED = 0x06
    TIMEOUT = 0x07
    GOING_AWAY = 0x08
    ABORTED = 0x0A


class VerdictCode(enum.Enum):
    """What the responder decided, authenticated (section 8)."""

    READY = 0x0000
    BAD_SIGNATURE = 0x0101
    BAD_IDENTITY_KEY = 0x0102
    BAD_GREETING = 0x0103
    UNSUPPORTED_CRITICAL = 0x0104
    EXPIRED = 0x0105
    DOWNGRADE = 0x0106
    SELF = 0x0107
    IDENTITY_UNKNOWN = 0x0201
    IDENTITY_BLOCKED = 0x0202
    POLICY = 0x0203
    DUPLICATE = 0x0301
    CROSSING = 0x0302
    CAPACITY = 0x0303
    SHUTTING_DOWN = 0x0304
    POLICY_TIMEOUT = 0x0305
    INTERNAL = 0x0306


FIRST_APPLICATION_VERDICT: Final = 0x8000
"""Verdict codes from here to 0xFFFF are the application's own (section 8)."""


class CloseCode(enum.Enum):
    """How a direction of an open session ended (section 9)."""

    NORMAL = 0
    PROTOCOL = 1
    INTERNAL = 2
    GOING_AWAY = 3
    IDLE = 4
    REPLACED = 5
    KEY_LIMIT = 6
    FLOW_CONTROL = 7
    POLICY = 8


Reason = AlertCode | VerdictCode | int
"""Why a greeting was rejected. An int is a code that this version does not know, or the application's own."""

RETRYABLE: Final[frozenset[Reason]] = frozenset(
    {
        AlertCode.BUSY,
        AlertCode.TIMEOUT,
        AlertCode.GOING_AWAY,
        VerdictCode.CAPACITY,
        VerdictCode.SHUTTING_DOWN,
        VerdictCode.POLICY_TIMEOUT,
        VerdictCode.INTERNAL,
        VerdictCode.CROSSING,
    }
)
"""The reasons that may be gone at the next try; no other is (section 8)."""


def code_name(code: enum.Enum | int) -> str:
    """The name of a code as the specification spells it, or its number where it has none."""
    return code.name if isinstance(code, enum.Enum) else f"0x{code:04x}"


_BIDI_CONTROLS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSAFE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories that move a cursor, end a line, or are no character at all."""


def escape(text: str) -> str:
    """Text of the other side, made safe to show: control characters and bidirectional overrides as \\x… or \\u…

    Section 8 asks it of whoever shows `text` or `agent`.
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if char in _BIDI_CONTROLS or unicodedata.category(char) in _UNSAFE
        else char
        for char in text
    )


class TrishakeError(Exception):
    """The root of every error that Trishake raises on purpose."""


class InvalidPeerId(TrishakeError, ValueError):
    """These bytes or this text are no peer id; the message says in what they fail."""


class ProtocolError(TrishakeError):
    """The rules of the protocol were broken; the subclass says by whom."""


class LocalProtocolError(ProtocolError):
    """The caller asked for what the session's state does not allow. Nothing was sent, nothing has changed."""


class RemoteProtocolError(ProtocolError):
    """The other side broke the protocol. The session has ended; what it answers is in `data_to_send`.

    reason: the code that fits, where there is one; not all of them are ever sent.
    """

    def __init__(self, text: str, *, reason: Reason | CloseCode | None = None) -> None:
        super().__init__(text)
        self.reason = reason


class ForeignProtocol(RemoteProtocolError):
    """The other side does not speak Trishake.

    protocol: `HTTP`, `SSH` or `TLS` where the first bytes tell, else None.
    """

    def __init__(self, protocol: str | None) -> None:
        super().__init__(f"the other side speaks {protocol or 'another protocol'}, not Trishake")
        self.protocol = protocol


class Truncated(RemoteProtocolError):
    """The other side's bytes ended where the protocol does not let them end."""


class GreetingRefused(RemoteProtocolError):
    """The other side's preface or greeting failed a check of section 7; `reason` says which."""

    reason: AlertCode | VerdictCode

    def __init__(self, reason: AlertCode | VerdictCode, text: str) -> None:
        super().__init__(f"{reason.name}: {text}", reason=reason)
