"""check_policy: what a trust policy promises, tried out with introductions of every kind, and real greetings."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import trio

from trishake_protocol import Greeting, PeerId, Role, code_name
from trishake_protocol.limits import MAX_AGENT, MAX_APP, MAX_CAP, MAX_CAPS, MUX
from trishake_protocol.patterns import CLASSICAL

from .._addresses import Address
from .._keys import Identity
from .._limits import Limits
from .._transport import Bound, Place, Transport
from .._trust import Acceptance, Decision, Introduction, Policy, Rejection, as_peer_id
from .._trust import check_policy as check_is_policy
from ._assertions import assert_accepts, assert_refuses, assert_rejects
from ._link import End
from ._promises import check, in_a_sentence
from ._virtual_network import NetworkPeer, VirtualNetwork, identity_of

BOTH: Final = (Role.INITIATOR, Role.RESPONDER)
"""Who dials us, and whom we dial."""

_AT_ONCE: Final = 100
"""Questions."""

_STEPS: Final = 50
"""Of the scheduler, at each of which a question is cancelled once; fewer if it is answered by then."""

_IMPERSONATED: Final = 3
"""How many of the welcome are claimed to be."""

_SHOWN: Final = 60
"""Characters of what was said."""

_SESSION: Final = bytes(range(8))

_AGENTS: Final = (
    None,
    "",
    "x" * MAX_AGENT,
    "\x1b[2J\r\n\0\x9b31m\x7f",
    "\u202eada\u2066\u200f\u2069",
    "admin",
    "True",
)
_APPS: Final = (None, b"", b"\xff\xfe\0", b"null", b'{"admin": true}', b"[" * MAX_APP)
"""Among them what a parser of JSON recurses on, and what is no text."""

_RECORDS: Final[tuple[dict[str, Any], ...]] = (
    {"caps": ()},
    {"caps": tuple(f"{number:02}".ljust(MAX_CAP, "x") for number in range(MAX_CAPS))},
    {"exp": 0},
    {"exp": 2**64 - 1},
    {"time": 0},
    {"time": 2**64 - 1},
    {"vers": (1, 255)},
    {"extra": {"x-admin": True}},
)
"""Other fields of a greeting."""

Who = Identity | PeerId | str
"""An identity, which greets; or an id or its text, which is only asked about."""

_Check = Callable[["_Bench"], Awaitable[None]]


async def check_policy(
    policy: Policy,
    *,
    welcome: Iterable[Who | tuple[Who, str]] = (),
    unwelcome: Iterable[Who | tuple[Who, str]] = (),
    directions: Collection[Role] = BOTH,
    agent: str | None = None,
    app: bytes | None = None,
    limits: Limits | None = None,
) -> None:
    """Whether a policy keeps what is expected of one. Raises AssertionError with the promise that it breaks.

    welcome, unwelcome: those that it is to accept, and to reject. Each is asked about at addresses of every kind;
    or, where it stands with an address (`("…", "192.0.2.7:4711")`, a path, a name in memory), there only. Besides
    them it is asked about a stranger, of whom it may think what it likes.
    directions: which of the peer's roles that holds for. INITIATOR: it dials us; RESPONDER: we dial it.
    agent, app: what all of them say about themselves, where a promise is not about that: the welcome say no more
    than the unwelcome, so that a policy which believes words is found out.
    limits: `Limits.policy` is the time that it has, for each question.
    Raises TypeError for no policy, InvalidAddress for an address that none could have, ValueError if there is
    nobody to be asked about, or somebody is both.
    """
    check_is_policy(policy)
    guests = [*_guests(welcome, True), *_guests(unwelcome, False)]
    if not guests or not directions:
        raise ValueError("somebody must be welcome or unwelcome, in a direction: else there is nothing to check")
    known = {True: set[tuple[PeerId, str | None]](), False: set[tuple[PeerId, str | None]]()}
    for guest in guests:
        known[guest.welcome is True].add((guest.peer, guest.place))
    if both := known[True] & known[False]:
        raise ValueError(f"{next(iter(both))[0]} is welcome and unwelcome: it can be one of them")
    bench = _Bench(policy, guests, tuple(directions), agent, app, limits or Limits())
    for promise in _CHECKS:
        with in_a_sentence(promise.__doc__ or ""):
            await promise(bench)


# --- who, and what is asked -----------------------------------------------------------------------------


class _Guest(NamedTuple):
    """Somebody a policy is asked about."""

    number: int
    """Which makes its addresses its own."""
    peer: PeerId
    identity: Identity | None
    place: str | None
    """The only address that it is to be asked about at; any, if None."""
    welcome: bool | None
    """None: nothing is known of it."""

    def __str__(self) -> str:
        how = {True: "the welcome peer", False: "the unwelcome peer", None: "a stranger,"}[self.welcome]
        return f"{how} {self.peer.short}"

    @property
    def name(self) -> str:
        """In memory."""
        return f"guest-{self.number}"

    @property
    def places(self) -> tuple[str | None, ...]:
        """Addresses of every kind; a dialer's is what the kernel says, or None."""
        if self.place is not None:
            return (self.place,)
        high, low = divmod(self.number, 256)
        return (
            f"198.18.{high % 256}.{low}:4711",
            f"[2001:db8::{self.number:x}]:4711",
            f"/run/{self.name}",
            self.name,
            None,
        )

    @property
    def hostile_places(self) -> tuple[str, ...]:
        """Which no transport of ours gives, but one of the application's own may."""
        if self.place is not None:
            return ()
        return (
            "",
            f"{self.name}\r\n\0\x1b[2J",
            f"\u202e{self.name} *,?[!\\%%#",
            f"[{self.name}]:99999999",
            self.name + "x" * 300,
        )


class _Question(NamedTuple):
    """What a policy is asked. how: in which words or place it differs from the others."""

    guest: _Guest
    introduction: Introduction
    how: str

    def __str__(self) -> str:
        whom = "who dialed us" if self.introduction.role is Role.INITIATOR else "whom we dialed"
        return f"asked about {self.guest}, {whom}, {self.how}"


def _guests(who: Iterable[Who | tuple[Who, str]], welcome: bool) -> Generator[_Guest]:
    for number, item in enumerate(who, 1):
        somebody, place = item if isinstance(item, tuple) else (item, None)
        if place is not None:
            _address_at(place)
        identity = somebody if isinstance(somebody, Identity) else None
        peer = identity.id if identity is not None else as_peer_id(somebody)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        yield _Guest(2 * number + welcome, peer, identity, place, welcome)


def _address_at(place: str) -> Address:
    """What is dialed to be there. Raises InvalidAddress."""
    scheme = "unix" if place.startswith("/") else "tcp" if ":" in place else "mem"
    return Address.parse(f"{scheme}://{place}")


def _stranger(number: int = 0) -> _Guest:
    identity = identity_of(f"a stranger to everybody {number}")
    return _Guest(0xF000 + number, identity.id, identity, None, None)


class _Bench:
    """A policy, and those that it is asked about."""

    def __init__(
        self,
        policy: Policy,
        guests: Sequence[_Guest],
        directions: Sequence[Role],
        agent: str | None,
        app: bytes | None,
        limits: Limits,
    ) -> None:
        self.policy = policy
        self.guests = guests
        self.directions = directions
        self.agent = agent
        self.app = app
        self.limits = limits
        self.time = int(time.time())
        self._about_all: list[_Question] = []

    def having(self, welcome: bool) -> list[_Guest]:
        return [guest for guest in self.guests if guest.welcome is welcome]

    # --- questions

    def question(
        self,
        guest: _Guest,
        role: Role,
        place: str | None,
        how: str,
        *,
        session_id: bytes | None = None,
        **said: Any,
    ) -> _Question:
        fields: dict[str, Any] = {"caps": (MUX,), "agent": self.agent, "app": self.app, **said}
        greeting = Greeting(role.value, guest.peer.key, (CLASSICAL.id,), fields.pop("time", self.time), **fields)
        session_id = _SESSION if role is Role.INITIATOR else session_id
        return _Question(guest, Introduction(guest.peer, role, place, greeting, session_id), how)

    def plain(self, guest: _Guest, role: Role) -> _Question:
        return next(self.by_place(guest, role))

    def by_place(self, guest: _Guest, role: Role) -> Generator[_Question]:
        for place in guest.places:
            yield self.question(guest, role, place, f"at {place}" if place else "with no address")

    def by_hostile_place(self, guest: _Guest, role: Role) -> Generator[_Question]:
        for place in guest.hostile_places:
            yield self.question(guest, role, place, f"at {place!r}")

    def by_words(self, guest: _Guest, role: Role) -> Generator[_Question]:
        """Whatever it may say about itself."""
        ask = partial(self.question, guest, role, guest.places[0])
        others = [other.peer for other in self.having(True) if other.peer != guest.peer][:_IMPERSONATED]
        for agent in (*_AGENTS, *map(str, others)):
            yield ask(
                "which says nothing of its agent" if agent is None else f"with the agent {agent!r}", agent=agent
            )
        for app in (*_APPS, *(other.key for other in others), *(str(other).encode() for other in others)):
            yield ask("which says no app" if app is None else f"with the app {_shown(app)}", app=app)
        for record in _RECORDS:
            yield ask(f"with {', '.join(f'{key} {_shown(value)}' for key, value in record.items())}", **record)
        if role is Role.RESPONDER:
            yield ask("on a connection that is open", session_id=_SESSION)

    def about_all(self) -> list[_Question]:
        """Every kind of question about the guests and a stranger, in both directions."""
        if not self._about_all:
            kinds = (self.by_place, self.by_hostile_place, self.by_words)
            guests = (*self.guests, _stranger())
            self._about_all = [
                question for guest in guests for role in BOTH for kind in kinds for question in kind(guest, role)
            ]
        return self._about_all

    # --- answers

    async def answer(self, question: _Question) -> object:
        """What it returns in its time, whatever that is. Raises AssertionError if it has not decided."""
        with trio.move_on_after(self.limits.policy):
            with _telling(question):
                return await self.policy(question.introduction)
        raise AssertionError(f"{question}, it had not decided after {self.limits.policy:g} s")

    async def decide(self, question: _Question) -> Decision:
        """Raises AssertionError for what is no decision."""
        answer = await self.answer(question)
        if not isinstance(answer, Acceptance | Rejection):
            raise AssertionError(f"{question}, it returned {answer!r}")
        return answer

    async def verdict(self, question: _Question) -> str:
        """Its decision in a word: accept, or the reason."""
        return _verdict(await self.decide(question))


@contextmanager
def _telling(question: _Question) -> Generator[None]:
    """The policy is the application's, and may raise whatever it likes: that is what is to be told."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise _Raised(f"{question}, it raised {error!r}") from error


class _Raised(AssertionError):
    """The policy has."""


def _verdict(decision: Decision) -> str:
    return "accept" if isinstance(decision, Acceptance) else code_name(decision.reason)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


# --- the promises ---------------------------------------------------------------------------------------


async def _check_time(bench: _Bench) -> None:
    """It decides within Limits.policy"""
    for question in bench.about_all():
        try:
            await bench.answer(question)
        except _Raised:
            pass  # which is another promise


async def _check_raises_nothing(bench: _Bench) -> None:
    """It raises nothing, whoever is there and whatever it says"""
    for question in bench.about_all():
        await bench.answer(question)


async def _check_decides(bench: _Bench) -> None:
    """It returns accept() or reject(), and nothing else"""
    for question in bench.about_all():
        await bench.decide(question)


async def _check_welcome(bench: _Bench) -> None:
    """Who is welcome is welcome, wherever it is, in each direction"""
    for guest in bench.having(True):
        for role in bench.directions:
            for question in bench.by_place(guest, role):
                verdict = await bench.verdict(question)
                check(verdict == "accept", f"{question}, it said {verdict}")


async def _check_unwelcome(bench: _Bench) -> None:
    """Who is unwelcome is not accepted, in either direction"""
    for guest in bench.having(False):
        for role in bench.directions:
            await _expect_rejection(bench, bench.plain(guest, role))


async def _check_places(bench: _Bench) -> None:
    """Who is unwelcome is not accepted, wherever it is"""
    for guest in bench.having(False):
        for role in bench.directions:
            for question in (*bench.by_place(guest, role), *bench.by_hostile_place(guest, role)):
                await _expect_rejection(bench, question)
            for other in bench.having(True) if guest.place is None else ():
                for place in other.places:
                    where = f"at {place}, where {other} was"
                    await _expect_rejection(bench, bench.question(guest, role, place, where))


async def _check_words(bench: _Bench) -> None:
    """Who is unwelcome is not accepted, whatever it says about itself"""
    for guest in bench.having(False):
        for role in bench.directions:
            for question in bench.by_words(guest, role):
                await _expect_rejection(bench, question)


async def _expect_rejection(bench: _Bench, question: _Question) -> None:
    check(await bench.verdict(question) != "accept", f"{question}, it accepted")


async def _check_why(bench: _Bench) -> None:
    """Its why stays on our side: what the other side is told does not hold it"""
    for question in bench.about_all():
        decision = await bench.decide(question)
        if isinstance(decision, Rejection) and decision.why and decision.text:
            told = decision.why.strip() in decision.text
            check(not told, f"{question}, it had the peer told {decision.text!r}, its why being {decision.why!r}")


async def _check_alike(bench: _Bench) -> None:
    """It decides alike when it is asked again, whoever was asked about in between"""
    questions = bench.about_all()
    first = [await bench.verdict(question) for question in questions]
    order = [*reversed(range(len(questions))), *random.Random(0).sample(range(len(questions)), len(questions))]
    for index in order:
        again = await bench.verdict(questions[index])
        check(again == first[index], f"{questions[index]}, it said {first[index]}, and then {again}")


async def _check_at_once(bench: _Bench) -> None:
    """A hundred questions at once are answered each as alone"""
    questions = bench.about_all()
    chosen = [questions[index * len(questions) // _AT_ONCE] for index in range(_AT_ONCE)]
    alone = [await bench.verdict(question) for question in chosen]

    async def ask(question: _Question, expected: str) -> None:
        verdict = await bench.verdict(question)
        check(verdict == expected, f"{question}, it said {expected} alone, and {verdict} with {_AT_ONCE} at once")

    async with trio.open_nursery() as nursery:
        for question, expected in zip(chosen, alone, strict=True):
            nursery.start_soon(ask, question, expected)


async def _check_cancelled(bench: _Bench) -> None:
    """A question that is cancelled does no harm"""
    for role in BOTH:
        expected = await bench.verdict(bench.plain(_stranger(), role))
        for step in range(1, _STEPS):
            # Somebody new each time: what is done for a peer once, such as recording it, is cancelled too.
            question = bench.plain(_stranger(2 * step + (role is Role.INITIATOR)), role)
            was_cancelled = await _cancel_at(step, bench, question)
            when = f"after it was cancelled at step {step}"
            verdict = await bench.verdict(question._replace(how=f"{question.how}, {when}"))
            check(verdict == expected, f"{question}, it said {verdict} {when}; else it says {expected}")
            for guest in bench.guests if role in bench.directions else ():
                verdict = await bench.verdict(bench.plain(guest, role))
                check((verdict == "accept") == guest.welcome, f"{when}, it said {verdict} to {guest}")
            if not was_cancelled:
                break


async def _cancel_at(step: int, bench: _Bench, question: _Question) -> bool:
    """Ask, and cancel that at the n-th step which any task takes; whether it got so far."""
    scope = trio.CancelScope()
    instrument = _CancelAt(scope, step)
    trio.lowlevel.add_instrument(instrument)
    try:
        with scope, _telling(question):
            await bench.policy(question.introduction)
    finally:
        trio.lowlevel.remove_instrument(instrument)
    late = trio.current_time() - instrument.cancelled_at if scope.cancel_called else 0
    check(late <= bench.limits.policy, f"{question}, it went on for {late:g} s after it was cancelled")
    return scope.cancel_called


class _CancelAt(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._steps_left = step
        self.cancelled_at = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps_left -= 1
        if self._steps_left == 0:
            self.cancelled_at = trio.current_time()
            self._scope.cancel()


async def _check_tasks(bench: _Bench) -> None:
    """It leaves no task behind"""
    questions = bench.about_all()
    await bench.verdict(questions[0])
    before = trio.lowlevel.current_statistics().tasks_living
    for question in questions:
        await bench.verdict(question)
    with trio.move_on_after(bench.limits.policy):
        while trio.lowlevel.current_statistics().tasks_living > before:
            await trio.sleep(0.001)
    more = trio.lowlevel.current_statistics().tasks_living - before
    check(more <= 0, f"{len(questions)} questions were answered, and {more} more tasks are there than before")


async def _check_greetings(bench: _Bench) -> None:
    """Real greetings end as it decides, on both sides"""
    async with VirtualNetwork() as network:
        stage = _Stage(network)
        options: dict[str, Any] = {"limits": bench.limits, "suites": (CLASSICAL.id,)}
        host = network.peer("host", trust=bench.policy, **options)
        dialer = network.peer("dialer", trust=bench.policy, transports=[stage], **options)
        for guest in (*bench.guests, _stranger()):
            if guest.identity is None:
                continue
            name = f"{guest.name}-{guest.peer.short}"
            visitor = network.peer(name, identity=guest.identity, agent=bench.agent, app=bench.app, **options)
            if guest.place is None and Role.INITIATOR in bench.directions:
                await _visit(bench, guest, visitor, host)
            if Role.RESPONDER in bench.directions:
                await _be_dialed(bench, guest, dialer, stage.address_of(guest, name))
            await visitor.aclose(finish=0)


async def _visit(bench: _Bench, guest: _Guest, visitor: NetworkPeer, host: NetworkPeer) -> None:
    decision = await bench.decide(bench.question(guest, Role.INITIATOR, None, "with no address"))
    if isinstance(decision, Acceptance):
        connection = await assert_accepts(host, visitor)
        check(
            connection.welcome == decision.text, f"{guest} was told {connection.welcome!r}, not {decision.text!r}"
        )
    else:
        await assert_rejects(host, visitor, decision.reason, text=decision.text)


async def _be_dialed(bench: _Bench, guest: _Guest, dialer: NetworkPeer, address: Address) -> None:
    decision = await bench.decide(bench.question(guest, Role.RESPONDER, address.endpoint, f"at {address}"))
    if isinstance(decision, Acceptance):
        await assert_accepts(str(address), dialer)
    else:
        await assert_refuses(dialer, str(address), decision.reason)


class _Stage(Transport):
    """Leads to guests at whatever address they are to be; and listens as the network does."""

    schemes = ("tcp", "unix", "mem")

    def __init__(self, network: VirtualNetwork) -> None:
        self._network = network
        self._names: dict[str, str] = {}

    def address_of(self, guest: _Guest, name: str) -> Address:
        """Where the guest is to be dialed, who is in the network under that name."""
        address = _address_at(guest.place or guest.name)
        self._names[address.endpoint] = name
        return address

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> End:
        return await self._network.connect("dialer", Address(self._names[address.endpoint], scheme="mem"), nursery)

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        return await self._network.listen(address, nursery)


_CHECKS: Final[tuple[_Check, ...]] = (
    _check_time,
    _check_raises_nothing,
    _check_decides,
    _check_welcome,
    _check_unwelcome,
    _check_places,
    _check_words,
    _check_why,
    _check_alike,
    _check_at_once,
    _check_cancelled,
    _check_tasks,
    _check_greetings,
)
