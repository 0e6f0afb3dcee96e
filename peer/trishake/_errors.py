"""How a greeting or a connection can end other than well.

    TrishakeError
    ├── DialError                   a greeting that opened no connection, seen from either side;
    │   │                           .address, .peer, .session_id, .retryable, .timeline, .explain()
    │   ├── NoResponse              .phase, .cause, .elapsed, .protocol
    │   ├── Rejected                by the other side: .reason, .text, .retry_after, .authenticated
    │   └── Refused                 by us: .reason
    │       ├── WrongIdentity       .expected, .actual
    │       │   └── ChangedIdentity .name, .path, .line: who was there before
    │       ├── Untrusted           .verdict: what our policy said
    │       ├── SigningFailed       our own key, held elsewhere, did not sign
    │       └── BadHandshake        they broke the protocol, or someone between us did
    ├── ConnectionClosed            .code, .text, .by_peer; also a trio.BrokenResourceError
    ├── StreamError                 a stream that was not opened, or has not lasted; .peer, .protocol
    │   ├── UnknownProtocol         nobody there speaks it
    │   ├── StreamRefused           .text: they did not want it, or not from us
    │   ├── StreamTimeout           no answer; also a trio.TooSlowError
    │   └── StreamReset             they threw it away; also a trio.BrokenResourceError
    ├── MessageTooLarge             .size, .limit, .by_peer; also a ValueError
    ├── BadMessage                  .what: why what came is no message
    ├── RequestFailed               .kind, .text, .peer, .by_peer
    ├── InvalidAddress              also a ValueError
    ├── BadFile                     of keys or of trust; .path, .line
    │   └── WrongPassword           none was given, or not this one
    └── ProtocolError, InvalidPeerId        the core's (trishake_protocol.errors)

Every message says what happened, to whom, at which step, and what to do next. The type tells the outcomes
apart; no caller need read the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trishake_protocol import (
    RETRYABLE,
    CloseCode,
    LocalProtocolError,
    PeerId,
    Reason,
    Role,
    TrishakeError,
    VerdictCode,
    code_name,
    escape,
)

from ._steps import Cause, Ending, Phase

if TYPE_CHECKING:
    from pathlib import Path

    from ._timeline import Timeline, Trace
    from ._trust import Rejection


class DialError(TrishakeError):
    """A greeting that opened no connection.

    address: where it went, or whence it came; None for a stream that has none.
    peer: who the other side is, if that was proved; at a dial, else who was dialed, if that was known.
    session_id: 8 bytes that the other side's log shows too, once there is one.
    retryable: whether the same dial may go better later, with nothing changed on our side.
    """

    outcome = Ending.NOT_GREETED.value
    """How it ended, in two words that do not change: see `Ending`."""
    retryable = False
    address: str | None = None
    peer: PeerId | None = None
    session_id: bytes | None = None
    attempts: tuple[DialError, ...] = ()
    """What the other addresses said, where several were dialed; in their order, this one left out."""
    _trace: Trace | None = None
    _lead = ""
    """How the paragraph begins."""
    _answered = False
    """Whether the other side has answered under the keys of both, and so has the session id too."""

    @property
    def counted_as(self) -> str:
        """What `Statistics` counts it as: a code of the specification by its name, or `phase/cause`."""
        raise NotImplementedError

    @property
    def timeline(self) -> Timeline:
        """The steps that led to it. Raises LocalProtocolError for an error that no greeting has raised."""
        if self._trace is None:
            raise LocalProtocolError("this error is of no greeting: it has no timeline")
        return self._trace.timeline(self)

    def explain(self) -> str:
        """A short paragraph: what happened, at which step, who decided, how certain that is, whether to try again
        and when, and what to do next. Raises as `timeline`.
        """
        from ._explain import paragraph  # here, not above: most programs never come to that

        timeline = self.timeline
        what, advice = self._account()
        others = [f"{escape(str(attempt.address))} {attempt.counted_as}" for attempt in self.attempts]
        parts = (self._lead + what, self._decided(), self._retry(), advice, others)
        return paragraph(timeline, *parts, answered=self._answered)

    def _account(self) -> tuple[str, str]:
        """What happened, and what to do next: the first without a full stop, the second in sentences."""
        raise NotImplementedError

    def _decided(self) -> str:
        """Who decided, and whether that is proved."""
        raise NotImplementedError

    def _retry(self) -> str:
        """Whether to dial again, and when."""
        raise NotImplementedError

    @property
    def _known(self) -> Timeline | None:
        return None if self._trace is None else self.timeline

    def as_dict(self) -> dict[str, object]:
        """For machines: numbers, texts, lists, dicts and None, as JSON has them. Its keys do not change."""
        facts: dict[str, object] = {
            "outcome": self.outcome,
            "address": self.address,
            "peer": None if self.peer is None else str(self.peer),
            "session": None if self.session_id is None else self.session_id.hex(),
            "retryable": self.retryable,
            **self._facts(),
        }
        if self._trace is not None:
            facts |= {"explanation": self.explain(), "timeline": self.timeline.as_dict()}
        if self.attempts:
            facts["attempts"] = [attempt.as_dict() for attempt in self.attempts]
        return facts

    def _facts(self) -> dict[str, object]:
        return {}

    def ends(self, trace: Trace) -> None:
        """It is what the greeting of this trace has come to."""
        self._trace = trace
        self.address, self.session_id = trace.address, trace.session_id
        self.peer = trace.peer = self.peer or trace.peer

    def stands_for(self, error: DialError) -> None:
        """It is raised instead of this one, which ended the same greeting."""
        self.address, self.session_id, self._trace = error.address, error.session_id, error._trace

    def _at(self) -> str:
        return f" [{escape(self.address)}]" if self.address else ""


class NoResponse(DialError):
    """Nobody answered, or not to the end, or not in this protocol. Nothing is known for certain.

    phase: how far it came. cause: why it ended. elapsed: seconds since the attempt began.
    protocol: for `foreign`, the other protocol's name where it can be told.
    """

    outcome = Ending.NO_RESPONSE.value

    def __init__(
        self,
        phase: Phase,
        cause: Cause,
        *,
        elapsed: float = 0.0,
        protocol: str | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(phase, cause)
        self.phase = phase
        self.cause = cause
        self.elapsed = elapsed
        self.protocol = protocol
        self.detail = detail
        self.retryable = cause is not Cause.FOREIGN

    def __str__(self) -> str:
        what, advice = self._account()
        return f"no response{self._at()}: {what} ({self.phase}, after {self.elapsed:.2f} s). {advice}"

    @property
    def counted_as(self) -> str:
        return f"{self.phase}/{self.cause}"

    def _account(self) -> tuple[str, str]:
        from ._explain import account_of_silence

        return account_of_silence(self.phase, self.cause, self.detail, self.protocol, self._known)

    def _decided(self) -> str:
        from ._explain import certainty_of_silence

        return certainty_of_silence(self.phase, self.cause, self.peer)

    def _retry(self) -> str:
        from ._explain import when_to_retry

        return when_to_retry(self.cause, self.retryable)

    def _facts(self) -> dict[str, object]:
        return {"phase": str(self.phase), "cause": str(self.cause), "protocol": self.protocol}


class Rejected(DialError):
    """The other side answered, and does not want us.

    reason: an AlertCode or a VerdictCode; an int where the code is the application's own or unknown.
    text: the other side's words, as they came; escape them before showing them. retry_after: seconds.
    authenticated: True for a VERDICT; False for an ALERT, which anyone on the path can have written.
    versions, suites: what the other side speaks, where it says so.
    """

    outcome = Ending.REJECTED.value
    _lead = "rejected, "

    def __init__(
        self,
        reason: Reason,
        *,
        text: str | None = None,
        retry_after: int | None = None,
        authenticated: bool,
        versions: tuple[int, int] | None = None,
        suites: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.text = text
        self.retry_after = retry_after
        self.authenticated = self._answered = authenticated
        self.versions = versions
        self.suites = suites
        self.retryable = reason in RETRYABLE

    def __str__(self) -> str:
        what, advice = self._account()
        certain = "proved by its key" if self.authenticated else "a hint: anyone on the path can have sent it"
        again = f"{self._retry()} " if self.retryable else ""
        return f"rejected{self._at()}: {what} ({certain}). {again}{advice}"

    @property
    def counted_as(self) -> str:
        return code_name(self.reason)

    def _account(self) -> tuple[str, str]:
        from ._explain import account_of_rejection

        what, advice = account_of_rejection(self.reason, self.versions, self.suites, self.retry_after, self._known)
        text = f', with the words "{escape(self.text)}"' if self.text else ""
        return f"{code_name(self.reason)}: {what}{text}", advice

    def _decided(self) -> str:
        if self.authenticated:
            return f"{self.peer} decided so, and it is certain: its key proves it."
        return "The other side decided so; a hint, no proof: anyone on the path can have sent it."

    def _retry(self) -> str:
        from ._explain import when_to_retry

        return when_to_retry(self.reason, self.retryable, self.retry_after)

    def _facts(self) -> dict[str, object]:
        return {
            "reason": code_name(self.reason),
            "text": self.text,
            "retry_after": self.retry_after,
            "authenticated": self.authenticated,
        }


class Refused(DialError):
    """We refused the other side. reason: what it failed, as a code of the specification.

    what: that in words. advice: what to do next, in sentences.
    """

    _lead = "refused by us: "
    _identified = False
    """Whether the other side had proved who it is."""

    def __init__(self, reason: Reason, what: str, advice: str) -> None:
        super().__init__(reason, what, advice)
        self.reason = reason
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        what, advice = self._account()
        return f"refused by us{self._at()}: {what}. {advice}"

    @property
    def counted_as(self) -> str:
        return code_name(self.reason)

    def _account(self) -> tuple[str, str]:
        return self.what, self.advice

    def _decided(self) -> str:
        if self._identified or self.reason is VerdictCode.SHUTTING_DOWN:  # the latter: in the middle of a policy
            return f"We decided so, and it is certain who is there: {self.peer} has proved it."
        return "We decided so; who is there is not proved."

    def _retry(self) -> str:
        from ._explain import when_to_retry

        return when_to_retry(self.reason, self.retryable)

    def _facts(self) -> dict[str, object]:
        return {"reason": code_name(self.reason)}


class WrongIdentity(Refused):
    """Somebody answered at that address, and it is not the peer who was dialed. Nothing named us to him."""

    outcome = Ending.WRONG_IDENTITY.value
    _identified = True

    def __init__(self, expected: PeerId, actual: PeerId) -> None:
        super().__init__(
            VerdictCode.IDENTITY_UNKNOWN,
            f"expected {expected}, and {actual} answered",
            "If the peer has a new key, get a new invite from it over a channel you trust; else somebody else is "
            "at its address.",
        )
        self.expected = expected
        self.actual = actual
        self.peer = actual

    def _facts(self) -> dict[str, object]:
        return {"expected": str(self.expected), "actual": str(self.actual)}


class ChangedIdentity(WrongIdentity):
    """Somebody else answers now where a peer was known to be: it has a new key, or is not who it was.

    name: what was dialed, as the file of known peers has it. path, line: where in that file.
    """

    def __init__(self, name: str, expected: PeerId, actual: PeerId, path: Path, line: int) -> None:
        super().__init__(expected, actual)
        self.name = name
        self.path = path
        self.line = line
        self.what = (
            f"THE IDENTITY AT {escape(name)} HAS CHANGED. Known is {expected} ({path}, line {line}), and {actual} "
            "answered: the peer has a new key, or somebody else is in its place"
        )
        self.advice = (
            "Ask it over a channel you trust. If the new identity is right, forget the old one: "
            f"trishake known forget {as_argument(name)} --known {as_argument(path)}"
        )


class Untrusted(Refused):
    """Our own policy refused the peer, which had proved who it is. verdict: what the policy said.

    It may say something else later where it had failed, or was late.
    """

    outcome = Ending.REFUSED_BY_POLICY.value
    _identified = True

    def __init__(self, peer: PeerId, verdict: Rejection) -> None:
        super().__init__(verdict.reason, *self._account_of(peer, verdict, None))
        self.verdict = verdict
        self.peer = peer
        self.retryable = verdict.reason in RETRYABLE

    @staticmethod
    def _account_of(peer: PeerId, verdict: Rejection, role: Role | None) -> tuple[str, str]:
        from ._explain import account_of_refusal

        return account_of_refusal(verdict.reason, verdict.text, verdict.why, peer, role)

    def _account(self) -> tuple[str, str]:
        if self._trace is None or self.peer is None:
            return self.what, self.advice
        return self._account_of(self.peer, self.verdict, self._trace.role)


class SigningFailed(Refused):
    """Our identity's key is held elsewhere, and did not sign our greeting, or is not to be had. what: why not."""

    _lead = "our own key did not sign: "
    retryable = True  # an agent is unlocked, a process started again; a peer that is kept is not given up for that

    def __init__(self, what: str) -> None:
        super().__init__(VerdictCode.INTERNAL, what, "Check that who holds the key is there and unlocked.")

    def __str__(self) -> str:
        return f"our key did not sign{self._at()}: {self.what}. {self.advice}"

    def _decided(self) -> str:
        return "This is certain: it happened on our side."


class BadHandshake(Refused):
    """The other side broke the protocol, or someone between us did."""

    def __init__(self, reason: Reason, what: str) -> None:
        from ._explain import account_of_breach

        _, advice = account_of_breach(reason, what, None)
        super().__init__(reason, what, advice)

    def _account(self) -> tuple[str, str]:
        from ._explain import account_of_breach

        what, advice = account_of_breach(self.reason, self.what, self._known)
        return f"{code_name(self.reason)}: {what}", advice

    def _decided(self) -> str:
        if self.reason in (VerdictCode.EXPIRED, VerdictCode.DOWNGRADE):  # behind the check of the signature
            return "We decided so, and it is certain: its own signed greeting says so."
        return super()._decided()


class ConnectionClosed(TrishakeError, trio.BrokenResourceError):
    """The connection ended other than by the clean end of both directions.

    code: the CLOSE that ended it, None where there was none (the transport broke, or was cut).
    text: what came with it, as it came. by_peer: whether the other side ended it.
    """

    def __init__(
        self, what: str, *, code: CloseCode | int | None = None, text: str | None = None, by_peer: bool
    ) -> None:
        super().__init__(what)
        self.code = code
        self.text = text
        self.by_peer = by_peer


class StreamError(TrishakeError):
    """A stream of an open connection was not opened, or has not lasted. The connection goes on.

    peer: who is at the other end. protocol: what the stream is, or was to be, for.
    """

    def __init__(self, peer: PeerId, protocol: str, what: str) -> None:
        super().__init__(peer, protocol, what)
        self.peer = peer
        self.protocol = protocol
        self._what = what

    def __str__(self) -> str:
        return f"{escape(self.protocol)!r} with {self.peer}: {self._what}"


class UnknownProtocol(StreamError):
    """The other side does not know the protocol of the stream that we opened."""

    def __init__(self, peer: PeerId, protocol: str) -> None:
        super().__init__(
            peer,
            protocol,
            "it has no handler for that. Check the protocol's spelling, and what its program offers.",
        )


class StreamRefused(StreamError):
    """The other side knows the protocol, and did not take the stream. text: its words, as they came."""

    def __init__(self, peer: PeerId, protocol: str, text: str = "") -> None:
        super().__init__(
            peer, protocol, f"it refused the stream{f': {escape(text)!r}' if text else ''}. Ask who runs it."
        )
        self.text = text


class StreamTimeout(StreamError, trio.TooSlowError):
    """The other side did not answer the stream that we opened. seconds: how long we waited."""

    def __init__(self, peer: PeerId, protocol: str, seconds: float) -> None:
        super().__init__(
            peer, protocol, f"it was not open within {seconds:g} s: no answer, or no room. Try again later."
        )
        self.seconds = seconds


class StreamReset(StreamError, trio.BrokenResourceError):
    """The other side threw the stream away, both halves of it; what was on its way may be lost."""

    def __init__(self, peer: PeerId, protocol: str) -> None:
        super().__init__(peer, protocol, "it reset the stream: its handler failed, or had seen enough.")


class MessageTooLarge(TrishakeError, ValueError):
    """A message of more bytes than `max_size`. Sending, nothing was sent; receiving, nothing more can be.

    size, limit: bytes, without the four of the length. by_peer: whether the other side sent it.
    """

    def __init__(self, size: int, limit: int, *, by_peer: bool, peer: PeerId | None = None) -> None:
        if by_peer:
            what = f"{_named(peer)} began to send a message of {size} bytes, the limit here is {limit}. "
            advice = "Close this stream; if such messages are wanted, give both sides a larger max_size."
        else:
            what = f"a message of {size} bytes was not sent, the limit is {limit}. "
            advice = "Send it in parts, or give both sides a larger max_size."
        super().__init__(what + advice)
        self.size = size
        self.limit = limit
        self.by_peer = by_peer


class BadMessage(TrishakeError):
    """What came is no message; `what` says why not. Nothing more can be received over this stream."""

    def __init__(self, what: str, *, peer: PeerId | None = None) -> None:
        super().__init__(
            f"{_named(peer)} sent what is no message: {what}. Close this stream; "
            "the other side has a fault, or means something else by this protocol."
        )
        self.what = what


class RequestFailed(TrishakeError):
    """A request that the other side could not answer, or that a function of ours refuses on purpose.

    A function that answers requests raises it: kind, 1 to 64 visible ASCII characters for programs, and text
    for people, which is cut at 1024 bytes of UTF-8, are all that the other side is told. Raises ValueError for
    another kind. The kinds `failed`, `bad-request` and `bad-result` are Trishake's own.
    Caught, by_peer is True, peer says who failed, if that is known, and text is as it came: escape it.
    """

    def __init__(self, kind: str, text: str = "", *, peer: PeerId | None = None, by_peer: bool = False) -> None:
        if not is_request_kind(kind):
            raise ValueError(f"a kind of {kind!r}, possible are 1 to 64 visible ASCII characters")
        super().__init__(kind, text)
        self.kind = kind
        self.text = text
        self.peer = peer
        self.by_peer = by_peer

    def __str__(self) -> str:
        text = f': "{escape(self.text)}"' if self.text else ""
        if not self.by_peer:
            return f"request refused by us: {self.kind}{text}"
        what, advice = _REQUEST_FAILURES.get(self.kind, _REFUSED_ON_PURPOSE)
        return f"request failed: at {_named(self.peer)}, {what} ({self.kind}{text}). {advice}"


def is_request_kind(kind: str) -> bool:
    """Whether a request can fail with this kind: 1 to 64 visible ASCII characters."""
    return 0 < len(kind) <= 64 and kind.isascii() and kind.isprintable() and " " not in kind


def _named(peer: PeerId | None) -> str:
    return "the other side" if peer is None else str(peer)


def without_failures(group: BaseExceptionGroup) -> BaseException:
    """What is left of a nursery's group but its failures, where it was cancelled and a task of it failed besides.

    A scope that takes a Cancelled out of such a group lets the rest through: so who answers for the failure, as
    for one of the application's own code, has to take it out first.
    """
    _, others = group.split(Exception)
    assert others is not None
    return others


def as_argument(text: object) -> str:
    """The text as one word of a command that somebody may copy from an error into a shell."""
    from shlex import quote  # here, not above: most programs never come to that

    return quote(str(text))


class InvalidAddress(TrishakeError, ValueError):
    """This text is no address or invite; the message says in what it fails."""


class BadFile(TrishakeError):
    """A file of keys, or of whom to trust, that cannot be used as it is. path: which; line: from 1, or None."""

    def __init__(self, path: Path, what: str, advice: str = "", *, line: int | None = None) -> None:
        super().__init__(path, what, advice, line)
        self.path = path
        self.line = line
        self._what = what
        self._advice = advice

    def __str__(self) -> str:
        where = f"{self.path}, line {self.line}" if self.line else str(self.path)
        return f"{where}: {self._what}. {self._advice}".rstrip()


class WrongPassword(BadFile):
    """A key file is encrypted, and no password was given, or a wrong one."""


_REQUEST_FAILURES = {
    "failed": ("the function that answers had an error", "The log over there has it."),
    "bad-request": ("the request could not be read", "Send what is asked for, or update the older side."),
    "bad-result": ("the result cannot be sent", "The log over there says why."),
}
_REFUSED_ON_PURPOSE = ("the function that answers refused it", "Change the request as the kind says.")
