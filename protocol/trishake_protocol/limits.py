"""Every number of the wire protocol, with its unit and its reason.

Deadlines are not here: the core reads no clock. They are the runtime's, as are the limits of a listener.
"""

from typing import Final

# --- the specification's ------------------------------------------------------------------------------

VERSION: Final = 1
"""The protocol version that this package speaks (section 3)."""

MAGIC: Final = b"\xf0\x9f\xa4\x9d"
"""UTF-8 of U+1F91D, the handshake sign (section 3)."""

PREFACE_HEADER: Final = 19
"""Bytes of the preface before offers and extension (section 3)."""

MAX_OFFERS: Final = 8
MAX_EXTENSION: Final = 256
"""Bytes of the preface's extension (section 3)."""

MAX_NETWORK_NAME: Final = 64
"""Bytes of UTF-8 (section 3)."""

PSK_LENGTH: Final = 32
MAX_PSKS: Final = 4
"""Keys that a responder may hold at once, for rotation (section 4)."""

FRAME_HEADER: Final = 3
"""type u8, length u16 (section 2)."""

MIN_GREETING: Final = 128
MAX_GREETING: Final = 16384
"""Bytes of the plaintext of SYN-ACK and ACK (section 5)."""

GREETING_BLOCK: Final = 256
"""A greeting is padded to a multiple of this many bytes, so that its length tells little (section 6)."""

SIGNATURE_LENGTH: Final = 64
SESSION_ID_LENGTH: Final = 8
GREETING_ID_LENGTH: Final = 8

MUX: Final = "mux/1"
"""The cap of a peer that has streams; they are in use where both greetings list it (section 10)."""

EXPIRY_ALLOWANCE: Final = 300
"""Seconds that `exp` may lie behind the receiver's clock (section 6)."""

MAX_AGENT: Final = 64
MAX_APP: Final = 4096
MAX_CAPS: Final = 32
MAX_CAP: Final = 64
MAX_TEXT: Final = 256
"""Bytes of UTF-8 of the text in VERDICT and CLOSE (section 8)."""

MAX_SEEN: Final = 64
MAX_ALERT_DETAIL: Final = 64

MAX_DEPTH: Final = 4
MAX_MAP: Final = 32
MAX_ARRAY: Final = 64
MAX_STR: Final = 256
"""Canonical msgpack (section 6)."""

TAG_LENGTH: Final = 16
"""Bytes of a ChaCha20-Poly1305 tag."""

MAX_NOISE_MESSAGE: Final = 65535
"""Bytes of one Noise message, and so of a frame's body (Noise 3)."""

MAX_RECORD_PLAINTEXT: Final = MAX_NOISE_MESSAGE - TAG_LENGTH
MAX_RECORD_CONTENT: Final = MAX_RECORD_PLAINTEXT - 1
"""What one record carries: the plaintext less its type byte (section 9)."""

REKEY_INTERVAL: Final = 65536
"""Records under one key (section 9)."""

KEY_LIMIT_NONCE: Final = 2**63
"""Only CLOSE KEY_LIMIT may use this nonce, and nothing a later one (section 9)."""

MAX_OPTIMISTIC: Final = 16 * 1024
"""Bytes of records, headers and all, that may follow an ACK before its verdict (section 9)."""

PING_LENGTH: Final = 8

MUX_HEADER: Final = 12
"""Bytes of the header of a yamux frame (section 10)."""

STREAM_WINDOW: Final = 256 * 1024
"""Bytes that each side may send on a new stream before the other gives credit (section 10)."""

MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**32 - 1
MAX_STREAMS: Final = 256
"""Streams that one side may have open at once, answered or not (section 10)."""

MAX_PROTOCOL_ID: Final = 128
"""Bytes of UTF-8 of the id in a stream's greeting (section 10)."""

MAX_REFUSAL_TEXT: Final = 255
"""Bytes of UTF-8 of the text with which a stream is refused (section 10)."""

# --- our own ------------------------------------------------------------------------------------------

HANDSHAKE_BUFFER: Final = 20 * 1024
"""Bytes kept for one greeting: the longest ACK, and some of the optimistic data behind it (section 12)."""

REMEMBERED_RESETS: Final = 1024
"""Streams that we reset and whose late frames we count (section 10)."""

CREDIT_UNIT: Final = 64 * 1024
"""Bytes of which credit is given a multiple: who has crumbs of a window left sends crumbs, and falls behind."""

MAX_RUN: Final = 64
"""Frames of one stream's data that make one event at most: so it takes no longer than another."""

MAX_UNSENT_ANSWERS: Final = 1024
"""Answers and resets that may wait to be written, for a peer that opens streams and does not read (section 10).

An honest peer waits for the answers of MAX_STREAMS.
"""

MAX_PEER_TEXT: Final = 1024
"""Characters of a text that names a peer: an OpenSSH line with its comment; the other forms have 52 to 65."""
