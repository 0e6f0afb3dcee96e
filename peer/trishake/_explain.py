"""Explain: a failed greeting in words: its error in one line, and as a short paragraph. Loaded when somebody asks.

What happened and what to do next are one function for each kind of error; who decided, how certain that is, and
when to try again are one function or table each. Both the line and the paragraph are made of these.
A timeline is None for an error that no greeting has raised: then less is said.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from trishake_protocol import AlertCode, PeerId, Role, VerdictCode, code_name, escape
from trishake_protocol.errors import Reason
from trishake_protocol.greeting import clocks_apart
from trishake_protocol.limits import EXPIRY_ALLOWANCE, VERSION

from ._steps import (
    NO_NAME_SERVER,
    NO_SUCH_NAME,
    SUITE_NOBODY_HAS,
    VERSION_NOBODY_SPEAKS,
    Cause,
    Ending,
    Phase,
    Step,
)
from ._timeline import Timeline


def paragraph(
    timeline: Timeline,
    what: str,
    decided: str,
    retry: str,
    advice: str,
    others: Sequence[str],
    *,
    answered: bool,
) -> str:
    """What `DialError.explain` gives, of its parts; what: without a full stop, all else in sentences.

    others: the other addresses that were dialed, each with what came of it. answered: whether the other side has
    the session id for certain.
    """
    besides = f"The other addresses: {', '.join(others)}." if others else ""
    again = _told(timeline) if timeline.role is Role.RESPONDER else retry
    parts = (f"{_subject(timeline)}: {what}.", besides, _step(timeline), decided, _ids(timeline, answered), again)
    return " ".join(filter(None, (*parts, advice)))


def _subject(timeline: Timeline) -> str:
    where = None if timeline.address is None else escape(timeline.address)
    whom = "" if timeline.peer is None else f" ({timeline.peer.short})"
    if timeline.outcome == Ending.WRONG_IDENTITY:
        whom = ""  # what follows names both: who was dialed, and who answered
    if timeline.role is Role.RESPONDER:
        return f"A dial from {where}{whom}" if where else f"A dial over a stream{whom}"
    if where is None:
        return f"Greeting over a stream{whom}"
    at = f" at {timeline.endpoint}" if timeline.endpoint not in (None, where) else ""
    return f"Dialing {where}{at}{whom}"


def _step(timeline: Timeline) -> str:
    """At which step it ended, and when."""
    step = timeline.entries[-1].step
    doing = _DOING[step]
    if step is Step.VERDICT and timeline.role is Role.RESPONDER:
        doing = "telling the verdict"
    return f"It ended while {doing}, after {_duration(timeline.seconds)}."


_DOING: Final = {
    Step.RESOLVED: "looking up the name",
    Step.CONNECTED: "connecting",
    Step.SYN_SENT: "sending SYN",
    Step.ADMITTED: "asking for room",
    Step.SYN_RECEIVED: "waiting for SYN",
    Step.SYN_ACK_SENT: "answering with SYN-ACK",
    Step.SYN_ACK_RECEIVED: "waiting for SYN-ACK",
    Step.ACK_RECEIVED: "waiting for ACK",
    Step.IDENTITY_VERIFIED: "verifying the identity",
    Step.POLICY: "deciding about the peer",
    Step.ACK_SENT: "sending ACK",
    Step.VERDICT: "waiting for the verdict",
}
"""What is done in each step, as long as it is not done."""


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _told(timeline: Timeline) -> str:
    """What a dialer was told: that, and not whether to try again, is what a listener has to know."""
    if timeline.told is not None:
        return f"The dialer was told {timeline.told}."
    has_left = timeline.outcome == Ending.REJECTED or timeline.reason in _HAS_LEFT
    return "" if has_left or _was_told(timeline) else "The dialer was told nothing."


_HAS_LEFT: Final = {f"{phase}/{cause}" for phase in Phase for cause in (Cause.CLOSED, Cause.RESET)}


def _ids(timeline: Timeline, answered: bool) -> str:
    """Under which name the other side's log has it."""
    session, greeting = timeline.session_id, timeline.greeting_id
    if session is not None and (answered or timeline.role is Role.RESPONDER):
        return f"Both logs have it as session {session.hex()}."
    if greeting is None:
        return ""
    if timeline.role is Role.RESPONDER:
        return f"Both logs have it as greeting {greeting.hex()}."
    theirs = "" if timeline.reason == _FOREIGN_TO_US else ", and in theirs too if it came that far"
    return f"In our log it is greeting {greeting.hex()}{theirs}."


_FOREIGN_TO_US: Final = f"{Phase.SYN_ACK}/{Cause.FOREIGN}"


# --- no response ----------------------------------------------------------------------------------------


def account_of_silence(
    phase: Phase, cause: Cause, detail: str | None, protocol: str | None, timeline: Timeline | None
) -> tuple[str, str]:
    """What happened, without a full stop, and what to do next, in sentences: of NoResponse."""
    match phase:
        case Phase.RESOLVE:
            return _unresolved(cause, detail, timeline)
        case Phase.CONNECT:
            return _unconnected(cause, detail, protocol, timeline)
        case _:
            return _unanswered(phase, cause, detail, protocol, timeline)


def _unresolved(cause: Cause, detail: str | None, timeline: Timeline | None) -> tuple[str, str]:
    address = "" if timeline is None else escape(timeline.address or "")
    name = f"the name {address.rpartition(':')[0]}" if address else "the name"
    if cause is Cause.TIMEOUT:
        return (
            f"{name} was not looked up in time: the name servers are slow, or silent",
            "Check this machine's name servers, or dial the IP address instead.",
        )
    if detail == NO_SUCH_NAME:
        return f"{name} stands for no address", "Check how it is spelled, or ask for a new invite."
    if detail == NO_NAME_SERVER:
        return (
            f"no name server would say what {name} stands for",
            "Check this machine's network and its name servers, or dial the IP address instead.",
        )
    return f"{name} could not be looked up{_more(detail)}", "Check the name, and this machine's network."


def _unconnected(
    cause: Cause, detail: str | None, protocol: str | None, timeline: Timeline | None
) -> tuple[str, str]:
    address = "" if timeline is None else timeline.address or ""
    if address.startswith("/"):
        return _unconnected_to_file(cause, detail)
    places = () if timeline is None else timeline.places
    each = _tried(places, address, detail)
    port = address.rpartition(":")[2]
    if len({said for _, said in places}) > 1:
        return (
            f"none of its addresses has let us in{each}",
            "Check each: where it is refused, nobody listens; where no answer came, something drops what is sent.",
        )
    match cause:
        case Cause.REFUSED if address and not port.isdigit():
            return "nobody listens under that name", "Start the other side, or check the name."
        case Cause.REFUSED:
            return (
                f"the port is closed: the machine is there, and nobody listens{each}",
                "Start the other side, and check that the port is that of its invite.",
            )
        case Cause.TIMEOUT if detail:
            return (
                f"the connection was made, and the time was up {detail}",
                "Something takes connections there and says nothing: check the port, and what the address begins "
                "with.",
            )
        case Cause.TIMEOUT:
            return (
                f"the time was up, and nothing had come back: what was sent there was dropped{each}",
                "Check that the machine is on and the address right, and that no firewall drops "
                f"{f'port {port}' if port.isdigit() else 'what is sent there'}.",
            )
        case Cause.UNREACHABLE if address.lower().startswith("[fe80:") and "%" not in address:
            return (
                f"a link-local address is one of a network interface, and it names none{each}",
                "Name the interface behind the address, as [fe80::1%eth0].",
            )
        case Cause.UNREACHABLE if places and all(place.startswith("[") for place, _ in places):
            return (
                f"it has an IPv6 address only, and this machine cannot reach that{each}",
                "Give this machine IPv6, or have the other side listen on an IPv4 address too.",
            )
        case Cause.UNREACHABLE:
            return (
                f"the address cannot be reached{each}",
                "Check the address, and that this machine has a route to it.",
            )
        case Cause.FOREIGN:
            spoken = f"{protocol} is spoken there" if protocol else "another protocol is spoken there"
            return (
                f"{spoken}, and not what the address says{_more(detail)}",
                "Check the port, and what the address begins with: tcp://, tls:// and ws:// are different doors.",
            )
        case _:
            return (
                f"{_BROKE[cause]} before it could carry a greeting{each}",
                "Check what the address begins with, and look at the log of who listens there.",
            )


def _tried(places: Sequence[tuple[str, str | None]], address: str, detail: str | None) -> str:
    """The places that a name stood for, each with what it said; of a single one, what the system says of it."""
    if len(places) < 2:
        place = "".join(place for place, _ in places if place != address)
        return _more(": ".join(filter(None, (place, detail))))
    return _more("; ".join(f"{place}: {said or 'no answer'}" for place, said in places))


def _unconnected_to_file(cause: Cause, detail: str | None) -> tuple[str, str]:
    """A Unix socket: there is no machine between."""
    match cause:
        case Cause.REFUSED:
            return (
                "the socket's file is there, and nobody listens at it",
                "Start the other side: its program has ended, and left the file behind.",
            )
        case Cause.TIMEOUT:
            return (
                "whoever listens at that socket takes nobody in: its queue is full",
                "Look at its log: it is stuck, or has more dialers than it can greet.",
            )
        case _ if detail == os.strerror(errno.ENOENT):
            return (
                "there is no such file, and so nobody listens",
                "Start the other side, and check the path.",
            )
        case _ if detail == os.strerror(errno.ENOTSOCK):
            return "a file is there that is no socket", "Check the path."
        case _ if detail in _FORBIDDEN:
            return (
                f"the socket's file may not be used by this program's user{_more(detail)}",
                "Ask whose it is to give you the right to write to it, and to enter its directories.",
            )
        case _:
            return f"the socket's file cannot be used{_more(detail)}", "Check the path."


_FORBIDDEN: Final = {os.strerror(errno.EACCES), os.strerror(errno.EPERM)}


def _more(detail: str | None) -> str:
    return f" ({_brief(detail)})" if detail else ""


def _brief(text: str) -> str:
    """What may quote the other side, which may have said much."""
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


_QUOTED: Final = 200
"""Characters."""


_BROKE: Final = {
    Cause.CLOSED: "the connection was made, and the other side closed it",
    Cause.RESET: "the connection was made, and reset",
    Cause.BROKEN: "the connection was made, and what came over it was not valid",
}

_AWAITED: Final = {
    Phase.SYN_ACK: ("our SYN", "its SYN-ACK"),
    Phase.VERDICT: ("our ACK", "its verdict"),
    Phase.SYN: ("connecting", "its SYN"),
    Phase.ACK: ("our SYN-ACK", "its ACK"),
}
"""What we had said, and what we waited for."""


def _unanswered(
    phase: Phase, cause: Cause, detail: str | None, protocol: str | None, timeline: Timeline | None
) -> tuple[str, str]:
    """The stream was there, and the greeting stopped."""
    if timeline is not None and _was_told(timeline):
        how = "the time was up" if cause is Cause.TIMEOUT else "the connection was reset"
        return f"{how} while the dialer was told that it is accepted", _AFTER_TELLING[cause is Cause.TIMEOUT]
    said, awaited = _AWAITED[phase]
    part = 0 if timeline is None else timeline.entries[-1].received
    begun = f"{part} bytes into {awaited}" if part else f"after {said}, before the first byte of {awaited}"
    dialing = phase in (Phase.SYN_ACK, Phase.VERDICT)
    match cause:
        case Cause.CLOSED:
            who = "the other side" if dialing else "the dialer"
            return f"{who} closed the stream {begun}", _AFTER_CLOSE[phase, bool(part)]
        case Cause.RESET if dialing:
            return (
                f"the connection was reset {begun}",
                "Its program crashed, or something between you cuts connections: look at its log.",
            )
        case Cause.RESET:
            return (
                f"the connection was reset {begun}",
                "The dialer's program crashed or gave up, or something between you cuts connections.",
            )
        case Cause.TIMEOUT:
            return f"the time was up {begun}", _AFTER_SILENCE[phase, bool(part)]
        case Cause.FOREIGN if dialing:
            spoken = protocol or "another protocol"
            return f"{spoken} is spoken there, not Trishake", _FOREIGN.get(spoken, "Check the port of the invite.")
        case Cause.FOREIGN:
            spoken = protocol or "another protocol"
            return f"it speaks {spoken}, not Trishake", "It has the wrong port: nothing to do on this side."
        case _:
            return (
                f"what came instead of {awaited} is not valid{_more(detail)}",
                "Something between you changes the bytes, or the other side has a fault: update both.",
            )


def _was_told(timeline: Timeline) -> bool:
    """Whether it ended while a dialer was told READY: he may have it, or not."""
    return timeline.role is Role.RESPONDER and timeline.entries[-1].step is Step.VERDICT


_AFTER_TELLING: Final = {
    False: "The dialer's program crashed or gave up, or something between you cuts connections.",
    True: "It does not read: it is stuck, or the way to it is very slow. See its log.",
}
"""By whether the time was up."""

_AFTER_CLOSE: Final = {
    (Phase.SYN_ACK, False): "Check that it is Trishake; a private network that is quiet does this too to whoever "
    "has not its key, and its log says so.",
    (Phase.SYN_ACK, True): "Its program ended just then, or something between you cuts connections: see its log.",
    (Phase.VERDICT, False): "It ended before it had decided, or dropped us in silence: look at its log.",
    (Phase.VERDICT, True): "It ended while it told us what it had decided: look at its log.",
    (Phase.SYN, False): "A port scan or a health check looks like this: nothing to do on this side.",
    (Phase.SYN, True): "The dialer ended, or something between you cuts connections: see its log.",
    (Phase.ACK, False): "The dialer left without a word, as one does whose own time is up: see its log.",
    (Phase.ACK, True): "The dialer ended just then, or something between you cuts connections: see its log.",
}
"""By what was awaited, and whether it had begun."""

_AFTER_SILENCE: Final = {
    (Phase.SYN_ACK, False): "Something takes connections there and says nothing: check that it is Trishake, and "
    "not stuck.",
    (Phase.SYN_ACK, True): "It is very slow, or stuck: look at its log, or give it longer (Limits.greeting).",
    (Phase.VERDICT, False): "Its policy may still be at work, or it is stuck: look at its log, or give both sides "
    "longer (Limits.greeting).",
    (Phase.VERDICT, True): "It has decided, and the way back is very slow: give it longer (Limits.greeting).",
    (Phase.SYN, False): "It is no peer, or is stuck: nothing to do on this side.",
    (Phase.SYN, True): "It is slow, or wants to keep us busy; a peer that is only slow needs a longer Limits.syn.",
    (Phase.ACK, False): "Its policy may still be at work, or it is gone: see its log.",
    (Phase.ACK, True): "It is very slow, or the way from it is: it needs a longer Limits.greeting here.",
}
_FOREIGN: Final = {
    "HTTP": "That is a web server's port: check the port; for a WebSocket the invite begins with ws://.",
    "SSH": "That is an SSH server's port: check the port of the invite.",
    "TLS": "That is a TLS server's port: check the port; for Trishake inside TLS the invite begins with tls://.",
}


def certainty_of_silence(phase: Phase, cause: Cause, peer: PeerId | None) -> str:
    """Who decided, and how certain that is: of NoResponse."""
    match phase, cause:
        case Phase.RESOLVE, _:
            return "Nobody there was asked: this is what this machine's resolver says."
        case _, Cause.REFUSED:
            return "The system there decided so, not a peer; nothing is proved."
        case _, Cause.UNREACHABLE:
            return "Nobody there was asked: this is what this machine's system says."
        case _, Cause.FOREIGN:
            return "This is a guess from its first bytes; nothing is proved."
        case Phase.VERDICT, _:
            return f"That it was {peer or 'the peer'} who answered is proved; why it ended is not."
        case Phase.ACK, _ if peer is not None:
            return f"That it was {peer} who dialed is proved; why it ended is not."
        case _:
            return "Nobody decided so, and nothing is proved: this is only what was seen from here."


# --- rejected by the other side -------------------------------------------------------------------------


def account_of_rejection(
    reason: Reason,
    versions: tuple[int, int] | None,
    suites: tuple[int, ...] | None,
    retry_after: int | None,
    timeline: Timeline | None,
) -> tuple[str, str]:
    """What happened, without a full stop, and what to do next, in sentences: of Rejected."""
    private = timeline is not None and timeline.suite is not None and timeline.suite.pattern.psk
    network = "" if timeline is None else f", {escape(timeline.network)!r}"
    us = "our peer id" if timeline is None else f"our peer id, {timeline.own}"
    if timeline is not None and timeline.role is Role.RESPONDER and reason is not AlertCode.ABORTED:
        return "a dialer has no right to say so, and left with that", "It has a fault: nothing to do on this side."
    match reason:
        case AlertCode.UNSUPPORTED_VERSION if versions is not None:
            lowest, highest = versions
            older = "It" if highest < VERSION else "This side"
            theirs = f"version {lowest}" if lowest == highest else f"versions {lowest} to {highest}"
            return f"it speaks {theirs} of the protocol, and we speak {VERSION}", f"{older} is older: update it."
        case AlertCode.UNSUPPORTED_SUITE if suites is not None:
            return _without_suite(suites, private, network)
        case AlertCode.WRONG_NETWORK:
            return (
                f"it is in another public network than ours{network}",
                "Both sides must name the same network: ask which one it is in.",
            )
        case AlertCode.HANDSHAKE_FAILED if private:
            return (
                f"our SYN does not open there: its private network has another key than ours{network}, or another "
                "name",
                "Compare the network files of both sides; after a rotation, get the new one.",
            )
        case AlertCode.BUSY if retry_after is None:
            return (
                "it cannot greet anybody just now",
                "Its log says why: too much to do, or a key that did not sign.",
            )
        case VerdictCode.EXPIRED:
            return _expired(timeline)
        case VerdictCode.IDENTITY_UNKNOWN:
            return "it does not know us", f"Ask who runs it to add {us}."
        case VerdictCode.IDENTITY_BLOCKED:
            return "it has blocked us", f"Ask who runs it why, and say {us}."
        case AlertCode() | VerdictCode() as reason:
            return _REJECTIONS[reason]
        case int():
            return (
                "its application has a reason of its own",
                "Look the number up in the application's documentation, or ask who runs it.",
            )


def _without_suite(suites: tuple[int, ...], private: bool, network: str) -> tuple[str, str]:
    theirs = ", ".join(f"0x{suite:04x}" for suite in suites) or "none"
    in_private = bool(suites) and all(suite & _OF_PRIVATE for suite in suites)
    if in_private and not private:
        return (
            "it is in a private network, and we dialed without a network key",
            "Get the network file from a member: Peer(network=Network.load(…)), or --network FILE.",
        )
    if private and not in_private:
        return (
            f"it is in a public network, and we dialed with the key of a private one{network}",
            "Dial it without that network, or have the other side join it.",
        )
    return f"it has none of our suites enabled, only {theirs}", f"Enable one of {theirs} here, or ours there."


_OF_PRIVATE: Final = 0x0100
"""The bit that ids of suites with a network key have (section 3)."""


def _expired(timeline: Timeline | None) -> tuple[str, str]:
    """The clocks of both sides, as far as they are known, say whose fault it is."""
    difference = None if timeline is None else timeline.clock_difference
    if difference is None or abs(difference) <= EXPIRY_ALLOWANCE:
        agree = "" if difference is None else ", which agrees with ours"
        return (
            f"our greeting has expired by its clock{agree}",
            "Our greeting names an end that is past: name a later one.",
        )
    return (
        f"our greeting has expired by its clock, which is {clocks_apart(difference)} ours",
        "Set the clocks of both machines right.",
    )


_REJECTIONS: Final[dict[Reason, tuple[str, str]]] = {
    AlertCode.MALFORMED: (
        "it could not read what we sent",
        "One of the two sides has a fault, or something between you changes the bytes: update both.",
    ),
    AlertCode.UNSUPPORTED_VERSION: ("it does not speak our version", "One of the two sides is older: update it."),
    AlertCode.UNSUPPORTED_SUITE: (
        "it has none of our suites enabled",
        "The two sides need a suite in common, and both a private network or neither.",
    ),
    AlertCode.BUSY: (
        "it has no room for a greeting just now, or we began too many",
        "If it goes on, dial less often, or ask who runs it to look at its log and raise that limit.",
    ),
    AlertCode.HANDSHAKE_FAILED: (
        "the cryptography of our greeting did not hold there",
        "Something between you changes the bytes, or one of the two sides has a fault: update both.",
    ),
    AlertCode.TIMEOUT: (
        "our part of the greeting was not there in time",
        "The way there is slow, or this machine is: its Limits.syn and Limits.greeting are what counts.",
    ),
    AlertCode.GOING_AWAY: (
        "it is closing, and takes no more greetings",
        "If it stays away, ask who runs it.",
    ),
    AlertCode.ABORTED: (
        "the dialer has seen who we are, and left",
        "It had dialed somebody else, its policy does not take us, or its key did not sign: its log says which.",
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
        "the suite or version of this greeting is weaker than both sides can",
        "Someone between you may have forced it: do not go on over this path.",
    ),
    VerdictCode.SELF: ("it has our own identity", "Give each peer an identity of its own; check the address."),
    VerdictCode.POLICY: ("its policy does not want us", "Ask who runs it what the policy asks for."),
    VerdictCode.DUPLICATE: (
        "a connection between the two of us is open already",
        "Use that one (`Peer.connection`), or close it first.",
    ),
    VerdictCode.CROSSING: (
        "it was dialing us at the same moment, its own dial was to be kept, and did not get here",
        "Check that it can reach a listener of ours, or dial when it does not.",
    ),
    VerdictCode.CAPACITY: (
        "every connection that it may have is taken",
        "If it goes on, ask who runs it to raise Limits.connections.",
    ),
    VerdictCode.SHUTTING_DOWN: (
        "it began to close before its policy had decided about us",
        "If it stays away, ask who runs it.",
    ),
    VerdictCode.POLICY_TIMEOUT: (
        "its policy had not decided in time",
        "Ask who runs it to make the policy quicker, or to raise Limits.policy there.",
    ),
    VerdictCode.INTERNAL: ("its policy failed", "That is a fault over there: its log has the traceback."),
}


# --- refused by us --------------------------------------------------------------------------------------


def account_of_breach(reason: Reason, what: str, timeline: Timeline | None) -> tuple[str, str]:
    """What happened, without a full stop, and what to do next, in sentences: of BadHandshake.

    what: what the protocol's core says of it, behind the reason's name.
    """
    what = _brief(what.removeprefix(f"{code_name(reason)}: "))
    network = "ours" if timeline is None else f"ours, {escape(timeline.network)!r}"
    match reason:
        case AlertCode.UNSUPPORTED_VERSION if what.startswith(f"version {VERSION_NOBODY_SPEAKS} "):
            return f"it dials with {what}", _ASKED
        case AlertCode.UNSUPPORTED_VERSION:
            return f"it dials with {what}", "The lower one is older: update it."
        case AlertCode.UNSUPPORTED_SUITE if what.startswith(f"suite 0x{SUITE_NOBODY_HAS:04x} "):
            return what, _ASKED
        case AlertCode.UNSUPPORTED_SUITE if what.endswith(_IN_PRIVATE):
            return what, "It has no network key: give it the network file if it should come in."
        case AlertCode.UNSUPPORTED_SUITE if what.endswith(_IN_PUBLIC):
            return what, "It has a network key, and we none: it dials the wrong peer, or this one lacks the file."
        case AlertCode.UNSUPPORTED_SUITE:
            return what, "Enable a suite here that it offers, or one of ours there."
        case AlertCode.WRONG_NETWORK:
            return f"it dialed in another public network than {network}", "Both sides must name the same network."
        case AlertCode.HANDSHAKE_FAILED if timeline is not None and timeline.role is Role.RESPONDER:
            if timeline.entries[-1].step is Step.SYN_RECEIVED:
                return (
                    f"its SYN does not open: it has another network key, or another name for the network, than "
                    f"{network}",
                    "Compare the network files of both sides; after a rotation, give it the new one.",
                )
            return f"its ACK does not open ({what})", _BROKEN
        case AlertCode.HANDSHAKE_FAILED:
            return f"its SYN-ACK does not open ({what})", _BROKEN
        case AlertCode.MALFORMED:
            return f"what it sent cannot be read ({what})", _BROKEN
        case VerdictCode.BAD_SIGNATURE:
            return f"{what}, whom it claims to be", "It does not hold the key that it names: do not trust it."
        case VerdictCode.BAD_IDENTITY_KEY:
            return f"its identity proves nothing ({what})", "Its owner must make a new one: trishake keygen."
        case VerdictCode.BAD_GREETING:
            return f"its greeting breaks the rules ({what})", _BROKEN
        case VerdictCode.UNSUPPORTED_CRITICAL:
            return f"its greeting asks for something that we do not know ({what})", "Update this side."
        case VerdictCode.EXPIRED:
            return what, "Set the clocks of both machines right; if they are, its greeting ends too early."
        case VerdictCode.DOWNGRADE:
            return what, "Someone between you may have forced the weaker choice: do not go on over this path."
        case _:
            return what, _BROKEN


_ASKED: Final = "No release has that: `trishake doctor` asks so what there is. Nothing to do on this side."
_IN_PRIVATE: Final = "and we are in a private one"
_IN_PUBLIC: Final = "and we are in a public one"

_BROKEN: Final = "Something between you changes the bytes, or the other side has a fault: update both."


def account_of_refusal(
    reason: Reason, text: str | None, why: str | None, peer: PeerId, role: Role | None
) -> tuple[str, str]:
    """What happened, without a full stop, and what to do next, in sentences: of Untrusted.

    text, why: what the policy says, to the other side and to ours.
    """
    words = f': "{escape(text)}"' if text else ""
    code = f"({code_name(reason)}{words})"
    match reason:
        case VerdictCode.POLICY_TIMEOUT:
            what, advice = f"our policy had not decided about {peer} in time {code}", "Make it quicker."
        case VerdictCode.INTERNAL:
            what, advice = f"our policy failed for {peer} {code}", "The log says how."
        case VerdictCode.DUPLICATE:
            what = f"a connection with {peer} is open already {code}"
            advice = "That one goes on; Limits.connections_per_identity says how many there may be."
        case VerdictCode.CROSSING if role is Role.RESPONDER:
            what = f"we were dialing {peer} at the same moment, and our own dial is kept {code}"
            advice = "Nothing to do: both sides get the one connection."
        case VerdictCode.CROSSING:
            what = f"{peer} has dialed us meanwhile, and its dial is kept {code}"
            advice = "Use its connection (`Peer.connection`), or dial again if there is none."
        case VerdictCode.CAPACITY:
            what = f"there is no room for {peer}: every connection that we may have is taken {code}"
            advice = "Raise Limits.connections, or close what is not needed."
        case VerdictCode.IDENTITY_UNKNOWN:
            what, advice = f"our policy does not take {peer} {code}", "Add it to the policy if it should come in."
        case VerdictCode.IDENTITY_BLOCKED:
            what, advice = f"our policy does not take {peer} {code}", "Change the policy to let it in again."
        case _:
            what, advice = f"our policy does not take {peer} {code}", "Change the policy if it should be let in."
    return what, escape(why) if why else advice


# --- whether to try again, and when ---------------------------------------------------------------------


def when_to_retry(why: Cause | Reason, retryable: bool, retry_after: int | None = None) -> str:
    """For whoever dialed. why: the cause of NoResponse, or the reason of the others."""
    if not retryable:
        return "Trying again unchanged will not help."
    if retry_after:
        return f"Try again in {retry_after} s."
    return _WHEN.get(why, "Try again later.")


_WHEN: Final[dict[Cause | Reason, str]] = {
    Cause.REFUSED: "Try again once it is started.",
    Cause.UNREACHABLE: "Try again once that is mended.",
    Cause.TIMEOUT: "Try again: it may have been busy.",
    Cause.CLOSED: "Try again in some seconds: it may just be starting again.",
    Cause.RESET: "Try again in some seconds: it may just be starting again.",
    Cause.BROKEN: "Try again: it may have been the way there.",
    AlertCode.BUSY: "Try again in some seconds.",
    AlertCode.TIMEOUT: "Try again now.",
    AlertCode.GOING_AWAY: "Try again once it is back.",
    VerdictCode.SHUTTING_DOWN: "Try again once it is back.",
    VerdictCode.INTERNAL: "Try again once that is mended.",
    VerdictCode.CROSSING: "Try again now.",
}
