"""The Noise patterns and Trishake's suites, as rows.

A new pattern or suite is one row here; no code elsewhere knows any of them by name.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class Role(enum.Enum):
    """Who opened the greeting. The value is the word that is signed (section 6)."""

    INITIATOR = "initiator"
    RESPONDER = "responder"

    @property
    def other(self) -> Role:
        """Of the peer at the other end."""
        return Role.RESPONDER if self is Role.INITIATOR else Role.INITIATOR


class Token(enum.Enum):
    """Noise 5.3; `E1` and `EKEM1` are those of the hfs extension, `PSK` that of Noise 9."""

    E = "e"
    S = "s"
    EE = "ee"
    ES = "es"
    SE = "se"
    PSK = "psk"
    E1 = "e1"
    EKEM1 = "ekem1"


class Pattern(NamedTuple):
    """A handshake pattern without pre-messages: the initiator writes first, then they alternate."""

    name: str
    messages: tuple[tuple[Token, ...], ...]
    psk: bool
    """Whether this is a PSK handshake, in which `e` is mixed into the key too (Noise 9.2)."""

    @classmethod
    def parse(cls, name: str, text: str) -> Pattern:
        """Read a pattern as the specification prints it: one message a line, `-> e` or `<- e, ee`."""
        lines = [line.strip() for line in text.strip().splitlines()]
        messages = tuple(tuple(Token(word.strip()) for word in line[2:].split(",")) for line in lines)
        return cls(name, messages, psk=any(Token.PSK in message for message in messages))


XX: Final = Pattern.parse(
    "XX",
    """
    -> e
    <- e, ee, s, es
    -> s, se
    """,
)
XXhfs: Final = Pattern.parse(
    "XXhfs",
    """
    -> e, e1
    <- e, ee, ekem1, s, es
    -> s, se
    """,
)
XXpsk0: Final = Pattern.parse(
    "XXpsk0",
    """
    -> psk, e
    <- e, ee, s, es
    -> s, se
    """,
)
XXhfs_psk0: Final = Pattern.parse(
    "XXhfs+psk0",
    """
    -> psk, e, e1
    <- e, ee, ekem1, s, es
    -> s, se
    """,
)

KEM_PUBLIC_LENGTH: Final = 1184
KEM_CIPHERTEXT_LENGTH: Final = 1088
"""Bytes, of ML-KEM-768 (section 5)."""


class Suite(NamedTuple):
    """A row of section 5. The three lengths are of a frame's body, without the P bytes of a greeting."""

    id: int
    noise_name: str
    pattern: Pattern
    syn: int
    syn_ack: int
    ack: int

    def __str__(self) -> str:
        return f"0x{self.id:04x} {self.noise_name}"


CLASSICAL: Final = Suite(0x0001, "Noise_XX_25519_ChaChaPoly_SHA256", XX, 32, 96, 64)
HYBRID: Final = Suite(0x0002, "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256", XXhfs, 1216, 1200, 64)
CLASSICAL_PSK: Final = Suite(0x0101, "Noise_XXpsk0_25519_ChaChaPoly_SHA256", XXpsk0, 48, 96, 64)
HYBRID_PSK: Final = Suite(0x0102, "Noise_XXhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256", XXhfs_psk0, 1248, 1200, 64)

SUITES: Final = {suite.id: suite for suite in (HYBRID, CLASSICAL, HYBRID_PSK, CLASSICAL_PSK)}

PUBLIC_SUITES: Final = (HYBRID.id, CLASSICAL.id)
PRIVATE_SUITES: Final = (HYBRID_PSK.id, CLASSICAL_PSK.id)
"""The suites enabled by default, best first."""
