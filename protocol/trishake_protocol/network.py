"""Networks: a name that both sides must share, and for a private one a key (section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .limits import MAX_NETWORK_NAME, MAX_PSKS, PSK_LENGTH
from .patterns import PRIVATE_SUITES, PUBLIC_SUITES
from .primitives import SHA256

_PRIVATE_TAG: Final = bytes(8)


@dataclass(frozen=True, slots=True)
class Network:
    """Peers meet only within one network. Its name is never sent; it is bound into the handshake.

    name: 1 to 64 bytes of UTF-8.
    psk: None for a public network; for a private one 32 random bytes, never a passphrase, or up to four such
        keys while they are being rotated: a responder takes any of them, an initiator uses the first.
    quiet: a responder of a private network says nothing at all, not even ALERT, to who lacks the key.
    Raises ValueError for anything else. The keys are in no `repr`.
    """

    name: str = "trishake"
    psk: bytes | tuple[bytes, ...] | None = field(default=None, repr=False)
    quiet: bool = False
    tag: bytes = field(init=False, repr=False, compare=False)
    """`net_tag`: 8 bytes that tell public networks apart, and zero for every private one."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode()) <= MAX_NETWORK_NAME:
            raise ValueError(f"a network's name is 1 to {MAX_NETWORK_NAME} bytes of UTF-8")
        if self.psk is not None and not 1 <= len(self.psks) <= MAX_PSKS:
            raise ValueError(f"a private network has 1 to {MAX_PSKS} keys, got {len(self.psks)}")
        if any(len(psk) != PSK_LENGTH for psk in self.psks):
            raise ValueError(f"a pre-shared key is exactly {PSK_LENGTH} random bytes, never a passphrase")
        if self.quiet and not self.private:
            raise ValueError("only a private network can be quiet: a public one has no key to prove")
        digest = SHA256.digest(b"trishake/1 network\x00" + self.name.encode())
        object.__setattr__(self, "tag", _PRIVATE_TAG if self.private else digest[:8])

    @property
    def psks(self) -> tuple[bytes, ...]:
        if self.psk is None:
            return ()
        return (self.psk,) if isinstance(self.psk, bytes) else self.psk

    @property
    def private(self) -> bool:
        return self.psk is not None

    @property
    def default_suites(self) -> tuple[int, ...]:
        return PRIVATE_SUITES if self.private else PUBLIC_SUITES

    def prologue(self, preface: bytes) -> bytes:
        """What Noise binds before the first message: every byte of the preface, and the name (section 3)."""
        name = self.name.encode()
        return b"".join(
            (
                b"trishake/1 prologue\x00",
                len(preface).to_bytes(2, "big"),
                preface,
                len(name).to_bytes(2, "big"),
                name,
            )
        )
