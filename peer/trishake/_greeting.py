"""The greeting, driven over a wire: deadlines, policy, and how each outcome is told apart.

    greet_as_initiator    SYN → SYN-ACK → our policy → ACK → VERDICT
    greet_as_responder    SYN → SYN-ACK → ACK → our policy → VERDICT

Both return a Meeting or raise a DialError, and then the wire is closed. The rules are the session's; here are
the waits, each under an absolute deadline that knows its phase.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from trishake_protocol import (
    Accepted,
    AlertCode,
    CloseCode,
    Event,
    ForeignProtocol,
    Greeting,
    GreetingRefused,
    Identity,
    LocalProtocolError,
    PeerId,
    PeerIdentified,
    RemoteProtocolError,
    Role,
    Session,
    State,
    Suite,
    SynReceived,
    Truncated,
    UnexpectedIdentity,
    VerdictCode,
    Wait,
    code_name,
    escape,
)
from trishake_protocol import (
    Rejected as RejectedEvent,
)

from ._errors import (
    BadHandshake,
    ConnectionClosed,
    DialError,
    NoResponse,
    Refused,
    Rejected,
    SigningFailed,
    Untrusted,
    WrongIdentity,
    without_failures,
)
from ._limits import Limits
from ._signer import Signer
from ._steps import Cause, Phase, Step
from ._timeline import Timeline, Trace
from ._trust import Acceptance, Decision, Introduction, Policy, Rejection, ask_policy, reject
from ._wire import Wire

MAX_OPTIMISTIC_DATA: Final = 16_000
"""Bytes that an application may send with an ACK: what the specification allows, less what goes around them."""


def check_optimistic(data: bytes) -> None:
    """Raises ValueError for more than MAX_OPTIMISTIC_DATA."""
    if len(data) > MAX_OPTIMISTIC_DATA:
        raise ValueError(f"{len(data)} bytes of optimistic data, the limit is {MAX_OPTIMISTIC_DATA}")


MET_ITSELF: Final = (
    "this peer has met itself",
    "Check the address, and that no two peers share an identity.",
)
CLOSING: Final = (
    "this peer is closing, and greets nobody any more",
    "Dial, or be dialed, before its block ends.",
)


def unix_time() -> int:
    """Our clock, for the greeting's `time` and `exp`."""
    return int(time.time())


@dataclass(frozen=True, slots=True)
class Meeting:
    """A greeting that ended with READY: who is there, and what it said about itself."""

    identified: PeerIdentified
    trace: Trace
    seen: str | None = None
    text: str | None = None


class Greeted:
    """What a greeting has settled for good: who is on the other side, and how the two met."""

    def __init__(self, session: Session, wire: Wire, meeting: Meeting) -> None:
        # Properties, because an instance of fewer than 30 attributes takes a fifth of the memory of one with more
        # (PEP 412).
        self._session = session
        self._wire = wire
        self._meeting = meeting

    @property
    def peer(self) -> PeerId:
        """Who the other side is, proved."""
        return self._meeting.identified.peer

    @property
    def greeting(self) -> Greeting:
        """What it said about itself, signed: `agent`, `app`, `caps`. Escape its text before showing it."""
        return self._meeting.identified.greeting

    @property
    def seen(self) -> str | None:
        """Our own address as the other side sees it, where we dialed and it said so."""
        return self._meeting.seen

    @property
    def welcome(self) -> str | None:
        """The text that came with READY, where we dialed; escape it before showing it."""
        return self._meeting.text

    @property
    def address(self) -> str | None:
        """Where the other side is, `host:port`; None where the transport has no such thing."""
        return self._wire.address

    @property
    def role(self) -> Role:
        """Ours: INITIATOR where we dialed."""
        return self._session.role

    @property
    def session_id(self) -> bytes:
        """8 bytes, the same on both sides, for both logs."""
        return self._session.session_id

    @property
    def timeline(self) -> Timeline:
        """The steps of the greeting, with their durations and sizes."""
        return self._meeting.trace.timeline()

    @property
    def channel_binding(self) -> bytes:
        """32 bytes, the same on both sides and on no other connection (section 9)."""
        return self._session.channel_binding

    def _closed_by(self, code: CloseCode | int, text: str | None) -> ConnectionClosed:
        """The other side said CLOSE."""
        said = f': "{escape(text)}"' if text else ""
        return ConnectionClosed(
            f"{self.peer} closed the connection with {code_name(code)}{said}", code=code, text=text, by_peer=True
        )

    def _ended_by(self, error: RemoteProtocolError) -> ConnectionClosed:
        """The other side broke the protocol, or was cut off; the session holds what it is told."""
        cut = isinstance(error, Truncated)
        code = None if cut else error.reason if isinstance(error.reason, CloseCode) else CloseCode.PROTOCOL
        return ConnectionClosed(f"the connection to {self.peer} ended: {error}", code=code, by_peer=cut)

    def _broken_by(self, error: Exception) -> ConnectionClosed:
        """The transport broke."""
        return ConnectionClosed(f"the transport to {self.peer} broke: {error}", by_peer=True)

    @property
    def suite(self) -> Suite:
        """The suite that the greeting used."""
        assert self._session.suite is not None
        return self._session.suite


async def _no_objection(_: Introduction) -> Rejection | None:
    return None


class Greeter:
    """Drives one greeting on one wire: what both roles share.

    trace: what it has gone through, from the connecting on; its peer: who was dialed, if that is known.
    """

    def __init__(
        self,
        session: Session,
        wire: Wire,
        *,
        identity: Identity | Signer,
        trust: Policy,
        limits: Limits,
        trace: Trace,
    ) -> None:
        self.session = session
        self.wire = wire
        self.identity = identity
        self.trust = trust
        self.limits = limits
        self.trace = trace
        trace.endpoint = wire.address
        self.objection: Callable[[Introduction], Awaitable[Rejection | None]] = _no_objection
        """What else may stand against a peer that the policy takes (section 7, step 10); asked last."""
        self.behind_ack: Callable[[], None] | None = None
        """What the application wants to say with its ACK, before the verdict (section 9); it tells the session."""
        self.started = trio.current_time()
        """When the time of the greeting itself began to run."""
        self.heard_at = self.started
        """When the latest bytes came."""
        self.phase = Phase.SYN_ACK if session.role is Role.INITIATOR else Phase.SYN
        self.identified: PeerIdentified | None = None
        self.scope = trio.CancelScope()
        """Everything up to the verdict, under the deadline of its phase."""
        self.leaving = False
        self.met_itself = False
        """Whether a listener of our own has seen this dial's SYN; set by the peer."""
        self.overtaken = False
        """Whether the other side's own dial was kept instead of this one (section 11); set by the registry."""
        self._write_failure: trio.BrokenResourceError | None = None

    @property
    def address(self) -> str | None:
        """What was dialed, or where the dial came from."""
        return self.trace.address

    @property
    def deciding(self) -> bool:
        """Whether the other side is identified, and our policy has not decided yet."""
        return self.session.state is State.PEER_IDENTIFIED

    def leave(self) -> None:
        """Our side is closing: end a greeting under way, and tell a dialer so."""
        self.leaving = True
        self.scope.cancel()

    # --- waiting ----------------------------------------------------------------------------------------

    async def next_event(self) -> Event:
        """The next thing that happens. Raises RemoteProtocolError, Rejected, or NoResponse for the transport."""
        while (event := self.session.next_event()) is Wait.NEED_DATA:
            self.queue()
            if self.wire.pending and self._write_failure is None:
                with self.reading_first():
                    await self.wire.flush()
            if not await self.receive() and self._write_failure is not None:
                raise self.no_response(Cause.RESET) from self._write_failure
        assert not isinstance(event, Wait)
        if isinstance(event, RejectedEvent):
            raise self.rejected(event)
        return event

    @contextmanager
    def reading_first(self) -> Generator[None]:
        """A write that fails is no outcome yet: a refusal may have come before the stream broke."""
        try:
            yield
        except trio.BrokenResourceError as error:
            self._write_failure = error

    async def receive(self) -> bool:
        """Read once; False at the end of the stream. Raises NoResponse where the transport failed."""
        try:
            data = await self.wire.receive(self.session.receive_room)
        except trio.BrokenResourceError as error:
            raise self.no_response(Cause.RESET) from error
        self.heard_at = trio.current_time()
        if data:
            self.trace.received += len(data)
            self.session.receive_data(data)
        else:
            self.session.receive_eof()
        return bool(data)

    def queue(self) -> None:
        """Have the wire take over what the session wants to say."""
        self.trace.sent += self.wire.queue(self.session)

    async def decide(self, identified: PeerIdentified, heard: Step) -> Decision:
        """Ask the policy, within its time, and then whether anything else stands against this peer.

        heard: what it was that has identified it.
        """
        self.identified = identified
        self.trace.peer = identified.peer
        self.trace.clock_difference = identified.greeting.time - self.session.now
        session_id = self.session.session_id if self.session.finished_handshake else None
        self.trace.session_id = session_id
        self.trace.mark(heard, self.heard_at)
        self.trace.mark(Step.IDENTITY_VERIFIED)
        introduction = Introduction(
            identified.peer, self.session.role.other, self.address, identified.greeting, session_id
        )
        decision = await ask_policy(self.trust, introduction, self.limits.policy)
        if isinstance(decision, Acceptance) and (objection := await self.objection(introduction)):
            return objection
        if isinstance(decision, Acceptance):
            self.trace.mark(Step.POLICY)
        return decision

    async def sign(self) -> None:
        """Have our greeting signed, where its key is held elsewhere."""
        greeting = self.session.to_sign
        if greeting is None:
            return
        assert isinstance(self.identity, Signer)
        try:
            # The signer may be the application's own: what it raises is its failure, and ends this greeting only.
            try:
                signature = await self.identity.sign(greeting)
                self.session.sign(signature)
            except SigningFailed:
                raise
            except LocalProtocolError as error:
                raise SigningFailed(str(error)) from error
            except Exception as error:
                raise SigningFailed(f"its signer failed ({type(error).__name__}: {error})") from error
            except BaseExceptionGroup as group:
                raise without_failures(group) from group
        except SigningFailed:
            if self.session.role is Role.INITIATOR:
                self.session.reject()
            raise

    # --- ending -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def outcome(self, release: Callable[[], None] | None = None) -> AsyncGenerator[None]:
        """Whatever goes wrong inside becomes the DialError that names it, and the wire is closed then.

        Observers are told how it ended; also where it was cut off, which is no DialError.
        A context, not a call: dialing stays shallow (from `dial` to the socket four frames of ours).
        """
        try:
            try:
                yield
            except RemoteProtocolError as error:
                raise self.broken(error) from error
            except trio.BrokenResourceError as error:
                raise self.no_response(Cause.RESET) from error
        except DialError as error:
            responding = self.session.role is Role.RESPONDER
            if responding and not (isinstance(error, NoResponse) and error.cause is Cause.RESET):
                self._tell_why()
            self.failed(error)
            if responding or (isinstance(error, Refused) and self.session.state is State.ENDED):
                await self.say_goodbye(release)
            else:
                await self.wire.abort()  # no response, rejected, or we left: there is nothing more to say
            raise
        except BaseException:
            self.note_facts()
            self.trace.cancel()
            await self.wire.abort()
            raise

    def _tell_why(self) -> None:
        """Refuse a dialer whose greeting was still under way when its time was up, or when we left."""
        session = self.session
        if session.state in (State.AWAIT_SYN, State.AWAIT_ACK):
            session.refuse(AlertCode.GOING_AWAY if self.leaving else AlertCode.TIMEOUT)
        elif session.state is State.SIGNING:
            session.refuse(AlertCode.GOING_AWAY if self.leaving else AlertCode.BUSY)
        elif session.state is State.PEER_IDENTIFIED:
            session.reject(VerdictCode.SHUTTING_DOWN if self.leaving else VerdictCode.POLICY_TIMEOUT)
        elif session.state is State.OPEN:  # READY may be on its way: what follows it is no end without CLOSE
            session.close(CloseCode.GOING_AWAY)

    async def say_goodbye(self, release: Callable[[], None] | None = None) -> None:
        """Write the refusal that is queued, half-close, and read on so that no reset destroys it.

        Then, or if there is nothing to say, the wire is closed.
        """
        after_verdict = self.session.role is Role.RESPONDER and self.session.finished_handshake
        try:
            if self.wire.pending:
                with trio.move_on_after(self.limits.write_alert) as scope:
                    await self.wire.flush()
                    await self.wire.send_eof()
                if release is not None:
                    release()
                if not scope.cancelled_caught:
                    await self.wire.drain(
                        self.limits.drain_after_verdict if after_verdict else self.limits.drain_after_alert,
                        self.limits.drain_bytes,
                    )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other side is gone already, and has all that it will read
        finally:
            await self.wire.abort()

    # --- naming the outcome -----------------------------------------------------------------------------

    def failed(self, error: DialError) -> None:
        """It ended with this error: put where, who and when into it, and tell the observers."""
        self.queue()  # a refusal counts among what was sent
        self.note_facts()
        self.trace.fail(error)

    def note_facts(self) -> None:
        """What the session knows by now; not the session itself, which holds keys and does not last as long."""
        trace, session = self.trace, self.session
        trace.suite, trace.greeting_id, trace.told = session.suite, session.greeting_id, session.told
        if session.finished_handshake:
            trace.session_id = session.session_id

    def no_response(self, cause: Cause, *, protocol: str | None = None, detail: str | None = None) -> NoResponse:
        elapsed = trio.current_time() - self.started
        return NoResponse(self.phase, cause, elapsed=elapsed, protocol=protocol, detail=detail)

    def late(self) -> DialError:
        """The outcome when the scope was cancelled: the time was up, or we are leaving."""
        if self.leaving:
            reason = VerdictCode.SHUTTING_DOWN if self.deciding else AlertCode.GOING_AWAY
            what, advice = CLOSING
            dialing = self.session.role is Role.INITIATOR
            return Refused(reason, what, advice if dialing else "It may dial again once this peer is back.")
        if self.overtaken:
            return Refused(
                VerdictCode.CROSSING,
                "the other side has dialed us meanwhile, and its dial is kept",
                "Use its connection (`Peer.connection`), or dial again if there is none.",
            )
        if self.session.state is State.SIGNING:
            return SigningFailed("the time was up")
        if self.deciding and self.identified is not None:
            why = "The greeting's time was up before it had decided: give that longer (Limits.greeting)."
            return Untrusted(self.identified.peer, reject(VerdictCode.POLICY_TIMEOUT, why=why))
        return self.no_response(Cause.TIMEOUT)

    def broken(self, error: RemoteProtocolError) -> DialError:
        """The outcome for a breach of the protocol."""
        if isinstance(error, GreetingRefused) and error.reason is not AlertCode.MALFORMED:
            if self.phase is Phase.SYN_ACK:
                self.trace.mark(Step.SYN_ACK_RECEIVED, self.heard_at)
            elif self.phase is Phase.ACK:
                self.note_facts()
                self.trace.mark(Step.ACK_RECEIVED, self.heard_at)
        match error:
            case UnexpectedIdentity():
                return WrongIdentity(error.expected, error.actual)
            case GreetingRefused(reason=VerdictCode.SELF):
                how = str(error).removeprefix(f"{code_name(VerdictCode.SELF)}: ")
                return Refused(VerdictCode.SELF, f"{MET_ITSELF[0]}: {how}", MET_ITSELF[1])
            case GreetingRefused():
                return BadHandshake(error.reason, str(error))
            case ForeignProtocol():
                return self.no_response(Cause.FOREIGN, protocol=error.protocol)
            case Truncated():
                return self.no_response(Cause.CLOSED)
            case _:
                return self.no_response(Cause.BROKEN, detail=str(error))

    def rejected(self, event: RejectedEvent) -> DialError:
        if self.met_itself:
            return Refused(VerdictCode.SELF, f"{MET_ITSELF[0]}: our own listener was there", MET_ITSELF[1])
        return Rejected(
            event.reason,
            text=event.text,
            retry_after=event.retry_after,
            authenticated=event.authenticated,
            versions=event.versions,
            suites=event.suites,
        )


async def greet_as_initiator(greeter: Greeter) -> Meeting:
    """Steps 1, 4, 5 and 7. Returns only after READY; raises DialError, the wire then closed.

    Cancelled, it closes the wire at once.
    """
    session = greeter.session
    async with greeter.outcome():
        with greeter.scope:
            greeter.scope.deadline = greeter.started + greeter.limits.greeting
            greeter.queue()
            greeter.note_facts()
            greeter.trace.mark(Step.SYN_SENT)
            with greeter.reading_first():
                if not greeter.wire.write_now():  # as flush begins, a frame nearer to `dial`
                    await greeter.wire.flush()
            event = await greeter.next_event()
            assert isinstance(event, PeerIdentified)
            decision = await greeter.decide(event, Step.SYN_ACK_RECEIVED)
            if isinstance(decision, Rejection):
                session.reject()
                raise decision.refusal(event.peer)
            session.accept(optimistic=greeter.behind_ack is not None)
            await greeter.sign()
            if greeter.behind_ack is not None:
                greeter.behind_ack()
            greeter.phase = Phase.VERDICT
            greeter.queue()
            greeter.note_facts()
            greeter.trace.mark(Step.ACK_SENT)
            verdict = await greeter.next_event()
            assert isinstance(verdict, Accepted)
            greeter.trace.mark(Step.VERDICT)
            return Meeting(event, greeter.trace, verdict.seen, verdict.text)
        raise greeter.late()


async def greet_as_responder(greeter: Greeter, release: Callable[[], None] | None = None) -> Meeting:
    """Steps 2, 3, 6 and 7. Returns once READY is written; raises DialError, the wire then closed.

    release: called when a refusal is written, before its drain: it holds no slot while it waits.
    Cancelled, it closes the wire at once.
    """
    session, wire = greeter.session, greeter.wire
    async with greeter.outcome(release):
        with greeter.scope:
            greeter.scope.deadline = greeter.started + greeter.limits.syn
            greeter.trace.mark(Step.ADMITTED)
            event = await greeter.next_event()
            assert isinstance(event, SynReceived)
            greeter.note_facts()
            greeter.trace.mark(Step.SYN_RECEIVED, greeter.heard_at)
            greeter.scope.deadline = greeter.started + greeter.limits.greeting
            greeter.phase = Phase.ACK
            await greeter.sign()
            greeter.queue()
            greeter.trace.mark(Step.SYN_ACK_SENT)
            event = await greeter.next_event()
            assert isinstance(event, PeerIdentified)
            decision = await greeter.decide(event, Step.ACK_RECEIVED)
            if isinstance(decision, Rejection):
                session.reject(
                    decision.reason, text=decision.text, retry_after=decision.retry_after, seen=wire.address
                )
                raise decision.refusal(event.peer)
            session.accept(seen=wire.address, text=decision.text)
            greeter.queue()
            sent_at = trio.current_time()  # once it is written, the other side may have it already
            await wire.flush()
            greeter.trace.mark(Step.VERDICT, sent_at)
            return Meeting(event, greeter.trace)
        raise greeter.late()
