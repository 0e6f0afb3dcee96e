"""Signer: an identity whose private key is not in this process, and signs nothing but greetings.

Two of them are ready to be used: _remote_signer.py, a process of one's own that holds the key, and _ssh_agent.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from trishake_protocol import GreetingToSign, PublicIdentity


class Signer(PublicIdentity, ABC):
    """An identity to hand to a Peer, `initiate` or `respond`, whose private key is held elsewhere.

    A subclass has a `sign` of its own, and calls `super().__init__` with the peer id of the key.
    """

    @abstractmethod
    async def sign(self, greeting: GreetingToSign) -> bytes:
        """The Ed25519 signature, 64 bytes, over `greeting.text`.

        Many greetings may call it at once. It is cancelled when the greeting's time is up (`Limits.greeting`).
        What it raises ends that greeting with SigningFailed; a signature that does not verify is shown to nobody.
        """
