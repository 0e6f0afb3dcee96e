"""The key log: what a dissector needs to read one connection. Nobody has it who does not ask for it.

One line a key, `<label> <e> <key>`, in hex; e is the ephemeral key in the initiator's SYN, 32 bytes, which stands
there in clear and is how the lines of one connection are found:

    TRISHAKE_SYN_ACK_STATIC       s in SYN-ACK, nonce 0
    TRISHAKE_SYN_ACK_GREETING     the greeting in SYN-ACK, nonce 0; s in ACK, nonce 1
    TRISHAKE_ACK_GREETING         the greeting in ACK, nonce 0
    TRISHAKE_INITIATOR_TRAFFIC    records of the initiator from nonce 0 on, rekeyed as section 9 says
    TRISHAKE_RESPONDER_TRAFFIC    those of the responder

Both sides log the same keys. They open this one connection: no key of an identity or of a network is among them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .patterns import Role
from .primitives import CHACHAPOLY, Aead, Cipher


class LoggedKeys:
    """The keys of one handshake as Noise makes them, and the lines for some of them.

    log: called with each line, without a line end.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._latest: deque[bytes] = deque(maxlen=2)
        self.cipher: Cipher = CHACHAPOLY._replace(key=self._make)
        """To be handed to Noise. Noise itself knows of no log: it only has its keys made here."""

    def _make(self, key: bytes) -> Aead:
        self._latest.append(key)
        return CHACHAPOLY.key(key)

    def greeted(self, sender: Role, e: bytes) -> None:
        """SYN-ACK or ACK is done up to its payload, and its keys are the latest."""
        before, latest = self._latest
        if sender is Role.RESPONDER:
            self._write("SYN_ACK_STATIC", e, before)
            self._write("SYN_ACK_GREETING", e, latest)
        else:
            self._write("ACK_GREETING", e, latest)

    def split(self, e: bytes) -> None:
        """The handshake was split into its two directions."""
        to_responder, to_initiator = self._latest
        self._write("INITIATOR_TRAFFIC", e, to_responder)
        self._write("RESPONDER_TRAFFIC", e, to_initiator)

    def _write(self, label: str, e: bytes, key: bytes) -> None:
        self._log(f"TRISHAKE_{label} {e.hex()} {key.hex()}")
