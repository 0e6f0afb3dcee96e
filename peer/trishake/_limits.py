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

    connections_per_identity: int = 1
    """Connections with one peer at once; one more is rejected with DUPLICATE while the oldest is alive."""

    duplicate_ping: float = 2
    """The answer of a connection that another one would replace."""

    crossing: float = 3
    """Waiting for the other one of two dials that cross (section 11)."""

    keepalive: float = 30
    keepalive_answer: float = 20
    """Silence before a ping, and the answer to it; then the other side is taken for dead."""

    redial_first: float = 0.5
    redial_longest: float = 60
    """The pause before a kept peer is dialed again: doubled with every failure, and less up to half of it."""

    open_stream: float = 10
    """The answer to a stream that we open."""

    request: float = 10
    """A request whose stream is open to be there, and its reply to be taken."""

    finish: float = 5
    """What is open when a connection is closed may finish within this time."""

    resets_per_second: int = 64
    """Streams that the other side opens and resets before we have answered; more end the connection."""
