"""Trust: who is welcome. One kind of policy for both directions, asked before the verdict."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from trishake_protocol import AlertCode, Greeting, PeerId, Role, VerdictCode
from trishake_protocol.errors import FIRST_APPLICATION_VERDICT
from trishake_protocol.limits import MAX_REFUSAL_TEXT
from trishake_protocol.messages import Verdict

from ._errors import Refused, Untrusted, without_failures
from ._events import log_event, log_failure


@dataclass(frozen=True, slots=True)
class Introduction:
    """A peer that has proved who it is, and wants to meet us.

    role: the peer's own: INITIATOR dialed us, RESPONDER is whom we dialed.
    address: where it is, as the transport says; None where there is no such thing.
    greeting: what it says about itself, under its signature: `agent`, `app`, `caps`, … Escape its text
        before showing it.
    session_id: 8 bytes for both logs; None while we are the initiator, whose ACK is not written yet.
    """

    peer: PeerId
    role: Role
    address: str | None
    greeting: Greeting
    session_id: bytes | None

    @property
    def agent(self) -> str | None:
        """The peer's software and version, in its own words."""
        return self.greeting.agent

    @property
    def app(self) -> bytes | None:
        """What the peer's application put into its greeting."""
        return self.greeting.app


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The peer is welcome. text: for people, sent with READY by a responder, at most 256 bytes.

    Raises ValueError for what no verdict can carry; so does Rejection.
    """

    text: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None:
            Verdict(VerdictCode.READY, text=self.text).encode()  # raises where it cannot be sent


@dataclass(frozen=True, slots=True)
class Rejection:
    """The peer is not welcome; a responder tells it so, an initiator leaves without a word about itself.

    reason: a VerdictCode, or the application's own from 0x8000 to 0xFFFF.
    text: for people, at most 256 bytes. retry_after: seconds.
    why: for our own side only, of any length: what the error and the log say, and what to do. Never sent.
    """

    reason: VerdictCode | int = VerdictCode.POLICY
    text: str | None = None
    retry_after: int | None = None
    why: str | None = None

    def __post_init__(self) -> None:
        if self.reason is VerdictCode.READY:
            raise ValueError("READY is no reason to reject")
        if isinstance(self.reason, AlertCode):
            raise ValueError(f"{self.reason.name} is the code of an ALERT, not of a verdict")
        if not isinstance(self.reason, VerdictCode | int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"a reason is a code, VerdictCode.POLICY say, or a number of your own, not {self.reason!r}"
            )
        if isinstance(self.reason, int) and not FIRST_APPLICATION_VERDICT <= self.reason <= 0xFFFF:
            raise ValueError(f"an application's own reason is 0x8000 to 0xFFFF, got 0x{self.reason:04X}")
        Verdict(self.reason, self.retry_after, text=self.text).encode()
        if self.why is not None and not isinstance(self.why, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"why is a text, not {type(self.why).__name__}")

    @property
    def says_more(self) -> bool:
        """Than that nobody here knows the peer."""
        details = (self.text, self.retry_after)
        return self.reason is not VerdictCode.IDENTITY_UNKNOWN or details != (None, None)

    def refusal(self, peer: PeerId) -> Refused:
        """The error that our own side raises, or hands to its observer."""
        return Untrusted(peer, self)


Decision = Acceptance | Rejection
Policy = Callable[[Introduction], Awaitable[Decision]]
"""Called with a peer that has proved who it is; bounded by `Limits.policy`."""


def accept(text: str | None = None) -> Acceptance:
    """What a policy returns for a peer that is welcome."""
    return Acceptance(text)


def reject(
    reason: VerdictCode | int = VerdictCode.POLICY,
    text: str | None = None,
    *,
    retry_after: int | None = None,
    why: str | None = None,
) -> Rejection:
    """What a policy returns for a peer that is not. Raises ValueError for what no verdict can carry.

    why: what our own error and log say besides; it is never sent. Raises TypeError if it is no text.
    """
    return Rejection(reason, text, retry_after, why)


def check_policy(policy: Policy) -> None:
    """Raises TypeError for what is none: that would come to light only when somebody comes."""
    if not callable(policy):
        what = type(policy).__name__
        raise TypeError(
            f"a policy is an async function of an Introduction, not {what}; for certain peers: only(…)"
        )


async def ask_policy(policy: Policy, introduction: Introduction, seconds: float) -> Decision:
    """What the policy says, within its time. What it does wrong is a rejection too, and is logged."""
    with trio.move_on_after(seconds):
        # The policy is the application's: whatever it raises is its failure, and no bystander may fall with it.
        # The peer is told INTERNAL, the log gets the traceback.
        try:
            decision = await policy(introduction)
        except Exception:  # noqa: BLE001
            _log_failure(introduction)
            return _failed()
        except BaseExceptionGroup as group:
            _log_failure(introduction)
            raise without_failures(group) from group
        if not isinstance(decision, Acceptance | Rejection):  # pyright: ignore[reportUnnecessaryIsInstance]
            text = f"the policy for {introduction.peer} returned {decision!r}, not accept() or reject()"
            log_event(logging.ERROR, "policy.failed", text, peer=introduction.peer)
            return _failed()
        return decision
    return reject(
        VerdictCode.POLICY_TIMEOUT,
        why=f"It had not decided after {seconds:g} s: give it longer (Limits.policy), or make it quicker.",
    )


def _log_failure(introduction: Introduction) -> None:
    text = f"the policy failed for {introduction.peer}"
    log_failure("policy.failed", text, peer=introduction.peer)


def _failed() -> Rejection:
    return reject(VerdictCode.INTERNAL, why="It failed, and the log says how: mend the policy.")


async def anyone(introduction: Introduction) -> Decision:
    """Authenticated, not restricted: whoever proves an identity is welcome."""
    return accept()


def as_peer_id(peer: PeerId | str) -> PeerId:
    """The id, or the id that the text is. Raises InvalidPeerId for text that is none, TypeError for all else.

    Anything else would be equal to no peer's id, and so refuse everybody without a word.
    """
    if isinstance(peer, str):
        return PeerId.parse(peer)
    if not isinstance(peer, PeerId):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a PeerId or its text is needed, not {type(peer).__name__}; an identity has .id")
    return peer


def only(*peers: PeerId | str) -> Policy:
    """These peers and no others; who else comes is told IDENTITY_UNKNOWN.

    peers: ids, or their text. Raises InvalidPeerId for text that is none, TypeError for all else.
    """
    welcome = frozenset(as_peer_id(peer) for peer in peers)

    async def only_these(introduction: Introduction) -> Decision:
        return accept() if introduction.peer in welcome else reject(VerdictCode.IDENTITY_UNKNOWN)

    return only_these


def blocked(*peers: PeerId | str) -> Policy:
    """Everybody but these, who are told IDENTITY_BLOCKED. For use with others: `all_of(blocked(eve), known)`.

    peers, errors: as for `only`.
    """
    unwelcome = frozenset(as_peer_id(peer) for peer in peers)

    async def all_but_these(introduction: Introduction) -> Decision:
        return reject(VerdictCode.IDENTITY_BLOCKED) if introduction.peer in unwelcome else accept()

    return all_but_these


def ask(callback: Callable[[Introduction], Awaitable[bool]]) -> Policy:
    """Whoever the callback says True of; who else comes is told POLICY.

    It has `Limits.policy` seconds, and both sides' `Limits.greeting`: to ask a person, make all of them longer.
    What is neither True nor False is the callback's failure, and admits nobody.
    """

    async def ask_it(introduction: Introduction) -> Decision:
        return accept() if await says_yes(callback, introduction) else reject()

    return ask_it


async def says_yes(callback: Callable[[Introduction], Awaitable[bool]], introduction: Introduction) -> bool:
    """What the callback answers. Raises TypeError for what is neither True nor False."""
    answer = await callback(introduction)
    # Most things are true: the text "no" is, and so is the Rejection of a policy that was handed over here.
    if not isinstance(answer, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"the callback `ask` returned {type(answer).__name__}, not True or False")
    return answer


def all_of(*policies: Policy) -> Policy:
    """Who is welcome to every one of these, asked in order until one rejects; that is the answer.

    Where none does, the answer is the last one's. Put one that remembers, such as `KnownPeers`, last: it shall not
    remember whom another rejects. Raises ValueError for no policy at all, to which everybody would be welcome.
    """
    if not policies:
        raise ValueError("all_of() needs a policy: to none at all, everybody would be welcome; that is `anyone`")
    for policy in policies:
        check_policy(policy)

    async def all_of_these(introduction: Introduction) -> Decision:
        decision: Decision = accept()
        for policy in policies:
            decision = await policy(introduction)
            if not isinstance(decision, Acceptance):  # what is no decision at all is not for the next one to mend
                break
        return decision

    return all_of_these


def any_of(*policies: Policy) -> Policy:
    """Who is welcome to one of these, asked in order until one accepts.

    Where none does, the answer is the first that says more than IDENTITY_UNKNOWN, or else the first, and its `why`
    is that of all of them. Nobody is welcome to none at all.
    """

    for policy in policies:
        check_policy(policy)

    async def any_of_these(introduction: Introduction) -> Decision:
        rejections: list[Rejection] = []
        for policy in policies:
            decision = await policy(introduction)
            if not isinstance(decision, Rejection):
                return decision
            rejections.append(decision)
        if not rejections:
            return reject(VerdictCode.IDENTITY_UNKNOWN)
        telling = next((rejection for rejection in rejections if rejection.says_more), rejections[0])
        whys = [rejection.why for rejection in rejections if rejection.why]
        sentences = [why if why.endswith(".") else f"{why}." for why in whys[:-1]]
        return replace(telling, why=" ".join([*sentences, *whys[-1:]]) or None)

    return any_of_these


def shortened(text: str) -> str:
    """A text that fits where a stream is refused: at most 255 bytes of UTF-8."""
    return text.encode()[:MAX_REFUSAL_TEXT].decode(errors="ignore")
