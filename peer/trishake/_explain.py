"""Explain: a failed greeting as a short paragraph. Loaded when somebody asks.

What happened, at which step, who decided, how certain that is, whether to try again and when, what to do next:
each is one function here, or one table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from trishake_protocol import AlertCode, Role, VerdictCode, escape
from trishake_protocol.errors import Reason

from ._timeline import NO_NAME_SERVER, NO_SUCH_NAME, STEPS, Cause, Phase, Timeline


def paragraph(timeline: Timeline, what: str, decided: str, retry: str, advice: str, others: Sequence[str]) -> str:
    """What `DialError.explain` gives, of its parts; what: without a full stop, all else in sentences.

    others: the other addresses that were dialed, each with what came of it.
    """
    parts = [f"{_subject(timeline)}: {what}.", _step(timeline), decided, _ids(timeline)]
    if others:
        parts.append(f"The other addresses: {', '.join(others)}.")
    parts += [retry, advice]  # which may end with a command that is to be copied
    return " ".join(filter(None, parts))


def _subject(timeline: Timeline) -> str:
    where = escape(timeline.address or "a stream")
    if timeline.role is Role.RESPONDER:
        return f"A dial from {where}" if timeline.address else "A dial over a stream"
    whom = f" ({timeline.peer.short})" if timeline.peer is not None else ""
    return f"Dialing {where}{whom}" if timeline.address else f"Greeting over a stream{whom}"


def _step(timeline: Timeline) -> str:
    """At which step it ended, and when."""
    last = timeline.entries[-1]
    steps = STEPS[timeline.role]
    where = f'step {steps.index(last.step) + 1} of {len(steps)}, "{last.step.label}"'
    return f"It ended at {where}, after {_duration(timeline.seconds)}."


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _ids(timeline: Timeline) -> str:
    """Under which name the other side's log has it."""
    if timeline.session_id is not None:
        return f"Both logs have it as session {timeline.session_id.hex()}."
    if timeline.greeting_id is not None:
        return f"Our log has it as greeting {timeline.greeting_id.hex()}, and so has theirs if it came that far."
    return ""


# --- what happened, and what to do next -----------------------------------------------------------------


def account_of_silence(
    phase: Phase, cause: Cause, detail: str | None, protocol: str | None, timeline: Timeline
) -> tuple[str, str]:
    """What is said of NoResponse."""
    match phase:
        case Phase.RESOLVE:
            return _unresolved(cause, detail, timeline)
        case Phase.CONNECT:
            return _unconnected(cause, detail, protocol, timeline)
        case _:
            return _unanswered(phase, cause, detail, protocol, timeline)


def _unresolved(cause: Cause, detail: str | None, timeline: Timeline) -> tuple[str, str]:
    name = escape((timeline.address or "").rpartition(":")[0])
    if cause is Cause.TIMEOUT:
        return (
            f"looking up the name {name} took too long",
            "Check this machine's name servers, or dial the IP address instead.",
        )
    match detail:
        case _ if detail == NO_SUCH_NAME:
            return (
                f"the name {name} stands for no address",
                "Check how it is spelled, or ask for a new invite.",
            )
        case _ if detail == NO_NAME_SERVER:
            return (
                f"no name server would say what the name {name} stands for",
                "Check this machine's network and its name servers, or dial the IP address instead.",
            )
        case detail:
            return (
                f"the name {name} could not be looked up ({detail})",
                "Check the name, and this machine's network.",
            )


def _unconnected(cause: Cause, detail: str | None, protocol: str | None, timeline: Timeline) -> tuple[str, str]:
    tried = [f"{place}: {said}" for place, said in timeline.places if said]
    each = f" ({'; '.join(tried)})" if tried else ""
    port = (timeline.address or "").rpartition(":")[2]
    match cause:
        case Cause.REFUSED:
            return (
                f"nobody listens there: the machine answers, and the port is closed{each}",
                "Start the other side, and check that its address and port are those of the invite.",
            )
        case Cause.TIMEOUT:
            return (
                f"nothing came back: whatever was sent there was dropped{each}",
                f"Check that the machine is on, the address right, and that no firewall drops port {port}.",
            )
        case Cause.UNREACHABLE if timeline.places and all(place.startswith("[") for place, _ in timeline.places):
            return (
                f"it has an IPv6 address only, and this machine cannot reach that ({detail}){each}",
                "Give this machine IPv6, or have the other side listen on an IPv4 address too.",
            )
        case Cause.UNREACHABLE:
            return (
                f"the address cannot be reached ({detail}){each}",
                "Check the address, and that this machine has a route to it.",
            )
        case Cause.FOREIGN:
            return (
                f"{protocol or 'another protocol'} answers there, and not what the address says",
                "Check the port, and the scheme of the address.",
            )
        case cause:
            more = f" ({detail})" if detail else ""
            return (
                f"the connection was made, and {_BROKE[cause]} before it could carry anything{more}{each}",
                "Check the scheme of the address: the transport's own handshake failed.",
            )


_BROKE: Final = {
    Cause.CLOSED: "closed by the other side",
    Cause.RESET: "reset",
    Cause.BROKEN: "what came over it was not valid",
}

_AWAITED: Final = {
    Phase.SYN_ACK: ("our SYN", "its SYN-ACK"),
    Phase.VERDICT: ("our ACK", "its verdict"),
    Phase.SYN: ("the connection", "its SYN"),
    Phase.ACK: ("our SYN-ACK", "its ACK"),
}
"""What we had said, and what we waited for."""


def _unanswered(
    phase: Phase, cause: Cause, detail: str | None, protocol: str | None, timeline: Timeline
) -> tuple[str, str]:
    """The stream was there, and the greeting stopped."""
    said, awaited = _AWAITED[phase]
    part = timeline.entries[-1].received
    begun = f"{part} bytes into {awaited}" if part else f"after {said}, before the first byte of {awaited}"
    more = f" ({detail})" if detail else ""
    dialing = timeline.role is Role.INITIATOR
    match cause:
        case Cause.CLOSED:
            return f"the stream was closed {begun}", _AFTER_CLOSE[phase, bool(part)]
        case Cause.RESET:
            return (
                f"the connection was reset {begun}",
                "Its program ended, or something between you cuts connections: look at its log.",
            )
        case Cause.TIMEOUT if dialing:
            return f"the time was up {begun}", _AFTER_SILENCE[phase, bool(part)]
        case Cause.TIMEOUT:
            return f"the time was up {begun}", "The dialer is slow, gone, or no peer: nothing to do on this side."
        case Cause.FOREIGN:
            spoken = protocol or "another protocol than Trishake"
            advice = _FOREIGN.get(protocol or "", "Check the port number of the invite.")
            return (
                (f"{spoken} is spoken there, not Trishake", advice)
                if dialing
                else (
                    f"it speaks {spoken}",
                    "Whoever dials here has the wrong port: nothing to do on this side.",
                )
            )
        case _:
            return (
                f"what came instead of {awaited} is not valid{more}",
                "Something between you changes the bytes, or the other side has a fault: update both.",
            )


_AFTER_CLOSE: Final = {
    (
        Phase.SYN_ACK,
        False,
    ): "Is it Trishake that listens there? A private network that is quiet does this too to whoever "
    "has not its key; its log says why.",
    (
        Phase.SYN_ACK,
        True,
    ): "Its program ended just then, or something between you cuts connections: look at its log.",
    (Phase.VERDICT, False): "It ended before it had decided, or dropped us in silence: look at its log.",
    (Phase.VERDICT, True): "It ended while it told us what it had decided: look at its log.",
    (Phase.SYN, False): "A port scan or a health check looks like this: nothing to do on this side.",
    (Phase.SYN, True): "The dialer ended, or something between you cuts connections.",
    (Phase.ACK, False): "The dialer left without a word, as one does whose own time is up.",
    (Phase.ACK, True): "The dialer ended just then, or something between you cuts connections.",
}
_AFTER_SILENCE: Final = {
    (Phase.SYN_ACK, False): "Something listens there and says nothing: check that it is Trishake, and not stuck.",
    (Phase.SYN_ACK, True): "It is very slow, or stuck: try again, with a longer Limits.greeting if need be.",
    (
        Phase.VERDICT,
        False,
    ): "It may still be asking its policy: try again, with a longer Limits.greeting on both sides.",
    (Phase.VERDICT, True): "It is very slow, or the way back is: try again.",
}
_FOREIGN: Final = {
    "HTTP": "That is a web server's port: check the port; for a WebSocket the invite begins with ws://.",
    "SSH": "That is an SSH server's port: check the port of the invite.",
    "TLS": "That is a TLS server's port: check the port; for Trishake inside TLS the invite begins with tls://.",
}


# --- reasons --------------------------------------------------------------------------------------------


def account_of_rejection(
    reason: Reason, versions: tuple[int, int] | None, suites: tuple[int, ...] | None, timeline: Timeline
) -> tuple[str, str]:
    """What is said of Rejected."""
    private = timeline.suite is not None and timeline.suite.pattern.psk
    match reason:
        case AlertCode.UNSUPPORTED_VERSION if versions is not None:
            lowest, highest = versions
            older = "Its side" if highest < 1 else "This side"
            return f"it speaks versions {lowest} to {highest}, and we speak 1", f"{older} is older: update it."
        case AlertCode.UNSUPPORTED_SUITE if suites is not None:
            theirs = ", ".join(f"0x{suite:04x}" for suite in suites) or "none"
            in_private = bool(suites) and all(suite & 0x0100 for suite in suites)
            if in_private and not private:
                return (
                    "it is in a private network, and we dialed in a public one, without a network key",
                    "Get the network file from a member: Peer(network=Network.load(…)), or --network FILE.",
                )
            if private and not in_private:
                return (
                    f"it is in a public network, and we dialed in the private one {escape(timeline.network)!r}",
                    "Dial it without that network, or have the other side join it.",
                )
            return (
                f"it has none of our suites enabled, only {theirs}",
                f"Enable one of {theirs} here, or ours there.",
            )
        case AlertCode.WRONG_NETWORK:
            return (
                f"it is in another network than ours, which is {escape(timeline.network)!r}",
                "Both sides must name the same network: ask which one it is in.",
            )
        case AlertCode.HANDSHAKE_FAILED if private:
            return (
                f"our key of the private network {escape(timeline.network)!r}, or that name, is not its own",
                "Compare the network files of both sides; after a rotation, get the new one.",
            )
        case VerdictCode.EXPIRED:
            return (
                f"our greeting has expired by its clock{_clocks(timeline)}",
                "Set the clocks of both machines right.",
            )
        case VerdictCode.IDENTITY_UNKNOWN:
            return "it does not know us", f"Ask who runs it to add our peer id: {timeline.own}"
        case VerdictCode.IDENTITY_BLOCKED:
            return "it has blocked us", f"Ask who runs it why; our peer id is {timeline.own}"
        case AlertCode() | VerdictCode() as reason:
            return _REJECTIONS[reason]
        case int():
            return "its application's own reason", "Ask who runs it, or look up the number in its documentation."


_REJECTIONS: Final[dict[Reason, tuple[str, str]]] = {
    AlertCode.MALFORMED: (
        "it could not read what we sent",
        "One of the two sides has a fault, or something between you changes the bytes: update both.",
    ),
    AlertCode.UNSUPPORTED_VERSION: ("it does not speak our version", "One of the two sides is older: update it."),
    AlertCode.UNSUPPORTED_SUITE: ("it has none of our suites enabled", "Enable one in common on both sides."),
    AlertCode.BUSY: (
        "it has no room for a greeting just now, or we began too many",
        "If it goes on, ask who runs it to raise Limits.handshakes, or dial less often.",
    ),
    AlertCode.HANDSHAKE_FAILED: (
        "the cryptography of our greeting did not hold there",
        "Something between you changes the bytes, or one of the two sides has a fault: update both.",
    ),
    AlertCode.TIMEOUT: (
        "our part of the greeting did not get there in time",
        "The way there is slow, or this machine is: try again.",
    ),
    AlertCode.GOING_AWAY: ("it is closing, and takes no more greetings", "Wait until it is started again."),
    AlertCode.ABORTED: (
        "the dialer has seen who we are, and left",
        "It had dialed somebody else, or its policy does not take us: its log says which.",
    ),
    VerdictCode.BAD_SIGNATURE: (
        "our signature is not that of the identity we named",
        "Whoever holds our key signs with another: check the identity's file or agent.",
    ),
    VerdictCode.BAD_IDENTITY_KEY: (
        "our identity's key is of no kind that proves anything",
        "Make a new identity: trishake keygen.",
    ),
    VerdictCode.BAD_GREETING: ("our greeting breaks the rules", "One of the two sides has a fault: update both."),
    VerdictCode.UNSUPPORTED_CRITICAL: (
        "our greeting asks for something that it does not know",
        "It is older than this side: update it.",
    ),
    VerdictCode.DOWNGRADE: (
        "the suite or version is weaker than both sides can",
        "Someone between you may have forced it: do not go on over this path.",
    ),
    VerdictCode.SELF: ("it has our own identity", "Give each peer an identity of its own; check the address."),
    VerdictCode.POLICY: ("its policy does not want us", "Ask who runs it what the policy asks for."),
    VerdictCode.DUPLICATE: (
        "a connection between the two of us is open already",
        "Use that one: Peer.connection(peer); or close it before dialing again.",
    ),
    VerdictCode.CROSSING: (
        "it was dialing us at the same moment, and its own dial was to be kept",
        "Its connection did not come in time: dial again.",
    ),
    VerdictCode.CAPACITY: (
        "every connection that it may have is taken",
        "Come back later, or ask who runs it to raise Limits.connections.",
    ),
    VerdictCode.SHUTTING_DOWN: ("it began to close while it greeted us", "Wait until it is started again."),
    VerdictCode.POLICY_TIMEOUT: (
        "its policy had not decided in time",
        "Ask who runs it to make the policy quicker, or to raise Limits.policy there.",
    ),
    VerdictCode.INTERNAL: ("its policy failed", "That is a fault over there: its log has the traceback."),
}


def _clocks(timeline: Timeline) -> str:
    """How far the two clocks are apart, as the other side's greeting told."""
    if not timeline.clock_difference:
        return ""
    ahead = "ahead of" if timeline.clock_difference > 0 else "behind"
    return f", which is {abs(timeline.clock_difference)} s {ahead} ours"
