"""Deadlines and limits of the runtime, in one place (section 12 of the specification)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer waits for, and how much it takes at once. Times in seconds; defaults of the specification.

    Every deadline is absolute: it counts from where it says, and no byte that arrives pushes it back.
    """

    connect: float = 10
    """A stream to the other side: its name looked up, connected, and the handshakes of TLS and WebSocket done."""

    syn: float = 5
    """Preface and SYN complete, from accept."""

    greeting: float = 10
    """The whole greeting: the initiator's from its first byte, the responder's from accept."""

    policy: float = 3
    """The application's policy, within the greeting."""

    write_alert: float = 1
    """Writing a refusal."""

    drain_after_alert: float = 1
    drain_after_verdict: float = 5
    drain_bytes: int = 256 * 1024
    """Reading on after a refusal, so that a reset does not destroy it (section 8)."""

    close: float = 5
    """Waiting for the other side's CLOSE."""

    handshakes: int = 256
    handshakes_per_address: int = 8
    """Greetings under way at once at a peer's listeners; an address is an IPv4 /32 or an IPv6 /64."""

    handshake_rate: float = 20
    handshake_burst: int = 40
    """New greetings a second from one address, and how many may come at once."""

    connections: int = 1024
    """Connections that were dialed to us and are open; one more is rejected with CAPACITY."""
