"""_registry.py: two peers dial each other at once, or one of them dials twice, in every order (section 11).

    Net, Link       a transport in memory, whose messages pass when the scene says so, on the virtual clock
    Order           a scene: the messages of two greetings pass in this order
    cross           two peers who dial each other in a scene, and all that came of it

SMALL and LARGE are the peers with the smaller and the larger id: LARGE's dial is kept where both could be.
"""

from __future__ import annotations

import errno
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pytest
import trio
from hypothesis import HealthCheck, assume, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trishake import (
    Address,
    CloseCode,
    Connection,
    Decision,
    DialError,
    Identity,
    Introduction,
    Limits,
    NoResponse,
    Observer,
    Peer,
    PeerId,
    Policy,
    Refused,
    Rejected,
    Role,
    Stream,
    Untrusted,
    VerdictCode,
    WrongIdentity,
    accept,
    reject,
)
from trishake._transport import Bound, Place, Transport
from trishake_protocol.patterns import CLASSICAL

from .conftest import ADA, BOB, EVE, cancelled_at, frame_length
from .conftest import outcome as end_of

SMALL, LARGE = sorted((ADA, BOB), key=lambda identity: identity.id.key)

SYN, SYN_ACK, ACK, VERDICT = MESSAGES = ("SYN", "SYN-ACK", "ACK", "VERDICT")

LONG: Final = 12
"""Seconds after which nothing of a greeting, its refusal or a replaced connection is under way any more."""


# --- the net --------------------------------------------------------------------------------------------


class End(trio.abc.HalfCloseableStream):
    """One end of a transport, which knows whether it was closed."""

    def __init__(self, half: trio.abc.HalfCloseableStream, lingers: float = 0) -> None:
        self._half = half
        self._lingers = lingers
        self._sent = 0
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._half.send_all(data)
        self._sent += 1
        if self._lingers and self._sent > 1:
            await trio.sleep(self._lingers)

    async def wait_send_all_might_not_block(self) -> None:
        await self._half.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._half.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._half.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self._half.aclose()


Delay = tuple[float, float]
"""Seconds that the messages of who dialed are under way, and those of who was dialed."""

Options = dict[str, Any]
OTHER: Final = {"small": "large", "large": "small"}


@dataclass
class Link:
    """One transport: from a dialer to the host it dialed."""

    to: str
    delay: dict[Role, float]
    """Seconds that what this role sends is under way."""
    ends: list[End] = field(default_factory=list)
    cut: set[Role] = field(default_factory=set)
    """Of whom nothing arrives any more, not even the end; nobody is told."""

    @property
    def is_open(self) -> bool:
        return not all(end.closed for end in self.ends)


Pace = Callable[[Link, str | None], Awaitable[None]]
"""Waits until a message may be delivered: SYN (with its preface), SYN-ACK, ACK, VERDICT (or what came in their
place), or None for whatever follows."""


async def at_once(link: Link, message: str | None) -> None:
    pass


class Door(trio.abc.Listener[trio.abc.Stream]):
    """Where a host waits for who dials it."""

    def __init__(self) -> None:
        self.knock, self._opened = trio.open_memory_channel[End](math.inf)

    async def accept(self) -> trio.abc.Stream:
        return await self._opened.receive()

    async def aclose(self) -> None:
        self._opened.close()
        await trio.lowlevel.checkpoint()


class Net(Transport):
    """Hosts by name, and every link that there was. Its tasks run in `nursery`, to be set."""

    schemes = ("net",)
    nursery: trio.Nursery

    def __init__(self, pace: Pace = at_once) -> None:
        self.pace = pace
        self.doors: dict[str, Door] = {}
        self.links: list[Link] = []
        self.delays: dict[str, Delay] = {}
        """By the host that is dialed."""
        self.lingering: dict[str, float] = {}
        """Seconds by which a verdict of this host is there before it knows that it has sent it."""
        self.refusing: set[str] = set()

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        await trio.lowlevel.checkpoint()
        door = self.doors[address.host] = Door()
        return [Bound(address, door)]

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> End:
        await trio.lowlevel.checkpoint()
        out, back = self.delays.get(address.host, (0, 0))
        link = Link(address.host, {Role.INITIATOR: out, Role.RESPONDER: back})
        (here, near), (far, there) = memory_stream_pair(), memory_stream_pair()
        link.ends = [End(here), End(there, self.lingering.get(address.host, 0))]
        try:
            if address.host in self.refusing:
                raise trio.BrokenResourceError
            self.doors[address.host].knock.send_nowait(link.ends[1])
        except trio.BrokenResourceError:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody is there") from None
        self.links.append(link)
        self.nursery.start_soon(self._carry, link, Role.INITIATOR, near, far)
        self.nursery.start_soon(self._carry, link, Role.RESPONDER, far, near)
        return link.ends[0]

    async def _carry(
        self, link: Link, sender: Role, source: trio.abc.Stream, sink: trio.abc.HalfCloseableStream
    ) -> None:
        put, take = trio.open_memory_channel[tuple[float, int, bytes]](math.inf)

        async def deliver() -> None:
            names = ("SYN", None, "ACK") if sender is Role.INITIATOR else ("SYN-ACK", "VERDICT")
            async for due, number, frame in take:
                await trio.sleep_until(due)
                if frame:
                    await self.pace(link, names[number] if number < len(names) else None)
                if sender in link.cut:
                    continue
                try:
                    if frame:
                        await sink.send_all(frame)
                    else:
                        await sink.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # it has hung up; that it has is on its way

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            with put:
                for number in itertools.count():
                    frame = await _read_frame(source, preface=sender is Role.INITIATOR and number == 0)
                    put.send_nowait((trio.current_time() + link.delay[sender], number, frame))
                    if not frame:
                        break


async def _read_frame(source: trio.abc.Stream, *, preface: bool) -> bytes:
    """The next frame; what there is of it at the end of the stream."""
    frame = b""
    while not (length := frame_length(frame, preface=preface)) or len(frame) < length:
        more = await source.receive_some(max(1, length - len(frame)) if length else 1)
        if not more:
            break
        frame += more
    return frame


# --- scenes ---------------------------------------------------------------------------------------------

Step = tuple[str, str]
"""The host that was dialed, and the message of that greeting."""


class Order:
    """The messages of both greetings pass in this order.

    One that is not there when its turn comes is waited for, so many seconds, and then passes when it comes.
    late: a dial begins when it is its SYN's turn, not before. leave_after: so many messages, somebody leaves.
    together: the last message passes so many seconds and turns of Trio's loop after the one before it.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        *,
        late: bool = False,
        patience: float = 0,
        leave_after: int | None = None,
        together: tuple[float, int] | None = None,
    ) -> None:
        self.steps = tuple(steps)
        self.late = late
        self._patience = patience
        self._leave_after = leave_after
        self._together = together
        self._here = {step: trio.Event() for step in self.steps}
        self._may_pass = {step: trio.Event() for step in self.steps}

    async def pace(self, link: Link, message: str | None) -> None:
        step = (link.to, message or "")
        if step in self._here:
            self._here[step].set()
            await self._may_pass[step].wait()

    async def run(self, dials: dict[str, Callable[[], None]], leave: Callable[[], None]) -> None:
        """dials: by the host that is dialed. leave: called when `leave_after` messages have passed."""
        if not self.late:
            for dial in dials.values():
                dial()
        *steps, last = self.steps
        for number, step in enumerate(steps if self._together else self.steps):
            if number == self._leave_after:
                await wait_all_tasks_blocked()
                leave()
            to, message = step
            if self.late and message == SYN:
                dials[to]()
            await wait_all_tasks_blocked()
            if self._patience and not self._here[step].is_set():
                with trio.move_on_after(self._patience):
                    await self._here[step].wait()
            if self._together and step == steps[-1]:
                await self._pass_together(step, last)
            self._may_pass[step].set()
            await wait_all_tasks_blocked()

    async def _pass_together(self, step: Step, last: Step) -> None:
        assert self._together is not None
        seconds, turns = self._together
        if not seconds:
            await self._here[last].wait()
        self._may_pass[step].set()
        if seconds:
            await trio.sleep(seconds)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        self._may_pass[last].set()


def orders() -> Iterator[tuple[Step, ...]]:
    """Every order in which the messages of two greetings can pass."""
    for places in itertools.combinations(range(8), 4):
        to_large, to_small = iter(MESSAGES), iter(MESSAGES)
        yield tuple(("large", next(to_large)) if at in places else ("small", next(to_small)) for at in range(8))


@dataclass
class Dial:
    """One dial, and what came of it. had: there was a connection with the other side when it began."""

    to: str
    at: float = 0
    had: bool = False
    end: Connection | DialError | None = None
    ended: float = math.inf

    def __str__(self) -> str:
        end = self.end
        if isinstance(end, Connection):
            text = f"{end.role.name.lower()}'s {end.session_id.hex()[:4]}{'' if end.is_open else ', closed'}"
        else:
            text = repr(end)
        return f"dial of {self.to} from {self.at:.2f} s, {self.ended - self.at:.2f} s: {text}"


@dataclass
class Outcome:
    """What came of two dials that cross, long after."""

    dials: dict[str, Dial]
    """By the host that was dialed."""
    kept: dict[str, tuple[Connection, ...]] = field(default_factory=dict)
    """The connections of each side."""
    talked: bool = False
    open_links: int = 0
    open_in_the_end: int = 0

    @property
    def initiator(self) -> str | None:
        """Whose dial was kept."""
        if not self.kept["large"]:
            return None
        return "large" if self.kept["large"][0].role is Role.INITIATOR else "small"

    def disagreements(self) -> Iterator[str]:
        """Where this is not one connection, the same on both sides and for both dials that returned one."""
        at_small, at_large = self.kept["small"], self.kept["large"]
        if len(at_small) != 1 or len(at_large) != 1:
            yield f"SMALL has {len(at_small)} connections, LARGE has {len(at_large)}"
        elif at_small[0].session_id != at_large[0].session_id or at_small[0].role is at_large[0].role:
            yield "the two sides have kept different connections"
        elif not self.talked:
            yield "no stream works on it"
        for to, dial in self.dials.items():
            if isinstance(dial.end, Connection) and dial.end not in self.kept[OTHER[to]]:
                yield f"what was returned is not kept: {dial}"
        if self.open_links != len(at_small):
            yield f"{self.open_links} transports are open"
        if self.open_in_the_end:
            yield f"{self.open_in_the_end} transports are open after both have left"

    def failures(self) -> Iterator[str]:
        """Dials that failed."""
        for dial in self.dials.values():
            if not isinstance(dial.end, Connection):
                yield str(dial)

    def explain(self) -> str:
        return "; ".join(map(str, self.dials.values()))


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def talks(connection: Connection) -> bool:
    """Whether a stream works on it."""
    with trio.move_on_after(60):
        async with await connection.open_stream("echo") as stream:
            await stream.send_all(b"hello")
            return await stream.receive_some() == b"hello"
    return False


def no_leave() -> None:
    raise AssertionError("who is to leave?")


def address_of(host: str, expected: PeerId | None) -> Address:
    return Address(host, 1, expected, scheme="net")


def peer(identity: Identity, net: Net, **options: Any) -> Peer:
    made = Peer(identity, transports=[net], **{"suites": (CLASSICAL.id,), **options})
    made.handle("echo", echo)
    return made


async def _cross(
    order: Order | None = None,
    *,
    given: Iterable[str] = ("small", "large"),
    delays: dict[str, Delay] | None = None,
    head_start: float = 0,
    pace: Pace = at_once,
    refusing: Iterable[str] = (),
    lingering: dict[str, float] | None = None,
    leaving: str | None = None,
    small: Options | None = None,
    large: Options | None = None,
) -> Outcome:
    net = Net(order.pace if order else pace)
    net.delays = delays or {}
    net.lingering = lingering or {}
    net.refusing |= set(refusing)
    peers = {"small": peer(SMALL, net, **small or {}), "large": peer(LARGE, net, **large or {})}
    ids = {"small": SMALL.id, "large": LARGE.id, "wrong": EVE.id}
    leave = {name: trio.Event() for name in peers}
    outcome = Outcome({to: Dial(to) for to in ("large", "small")})

    async def live(name: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with peers[name]:
            await peers[name].listen(address_of(name, None))
            task_status.started()
            await leave[name].wait()

    async def dial(to: str) -> None:
        mine = outcome.dials[to]
        who = peers[OTHER[to]]
        mine.at = trio.current_time()
        mine.had = bool(who.connections)
        expected = ids["wrong"] if f"not {to}" in given else ids[to] if to in given else None
        try:
            mine.end = await who.dial(address_of(to, expected))
        except DialError as error:
            mine.end = error
        mine.ended = trio.current_time()

    async with trio.open_nursery() as nursery:
        net.nursery = nursery
        async with trio.open_nursery() as living:
            for name in peers:
                await living.start(live, name)
            async with trio.open_nursery() as dialing:
                if order is not None:
                    dials = {to: partial(dialing.start_soon, dial, to) for to in outcome.dials}
                    await order.run(dials, leave[leaving].set if leaving else no_leave)
                else:
                    first, second = ("large", "small") if head_start >= 0 else ("small", "large")
                    dialing.start_soon(dial, first)
                    await trio.sleep(abs(head_start))
                    dialing.start_soon(dial, second)
            await trio.sleep(LONG)
            await wait_all_tasks_blocked()
            outcome.kept = {name: host.connections for name, host in peers.items()}
            outcome.open_links = sum(link.is_open for link in net.links)
            if outcome.kept["small"] and outcome.kept["large"]:
                outcome.talked = all([await talks(kept[0]) for kept in outcome.kept.values()])
            for event in leave.values():
                event.set()
        outcome.open_in_the_end = sum(link.is_open for link in net.links)
        nursery.cancel_scope.cancel()
    return outcome


def cross(order: Order | None = None, **scene: Any) -> Outcome:
    """SMALL dials LARGE, and LARGE dials SMALL.

    given: who is dialed by id; `not small` is dialed by another's. delays: of the link to each host, out and
    back. head_start: seconds by which SMALL dials first. lingering: seconds that a host takes to know that
    its verdict has gone. leaving: who leaves, where the order says when.
    small, large: options of the peers. It raises what comes out of either peer, and trio.TooSlowError if
    either hangs.
    """

    async def main() -> Outcome:
        with trio.fail_after(100):
            return await _cross(order, **scene)

    return trio.run(main, clock=MockClock(autojump_threshold=0))


# --- crossing dials, in every order ---------------------------------------------------------------------

ORDERS: Final = tuple(orders())

GIVEN: Final = {"both": ("small", "large"), "large": ("large",), "small": ("small",), "neither": ()}
"""Who is dialed by id; LARGE knows from the start that its dial crosses where SMALL is."""

ROWS: Final = list(itertools.product(GIVEN, (False, True), (0, 4)))


def check_orders(given: str, late: bool, patience: float, some: Iterable[tuple[Step, ...]]) -> None:
    wrong: list[str] = []
    for steps in some:
        outcome = cross(Order(steps, late=late, patience=patience), given=GIVEN[given])
        wrong += (f"{_short(steps)}: {problem} ({outcome.explain()})" for problem in problems(outcome))
        if not late and not patience and "small" in GIVEN[given] and outcome.initiator != "large":
            wrong.append(f"{_short(steps)}: LARGE knew, and its dial was not kept")
    assert not wrong, "\n".join(wrong)


def problems(outcome: Outcome) -> Iterator[str]:
    """Where not both dials have given the one connection, in time.

    Who had a connection when the dial began did not cross: that dial may be told DUPLICATE.
    """
    yield from outcome.disagreements()
    for dial in outcome.dials.values():
        if not isinstance(dial.end, Connection) and not (dial.had and _is(dial.end, VerdictCode.DUPLICATE)):
            yield f"it failed: {dial}"
        if dial.ended - dial.at > 10:
            yield f"it took too long: {dial}"


def _is(end: object, reason: VerdictCode) -> bool:
    return isinstance(end, Rejected | Refused) and end.reason is reason


def _short(steps: tuple[Step, ...]) -> str:
    return " ".join(f"{message}→{to}" for to, message in steps)


def test_there_are_seventy_orders() -> None:
    assert len(set(ORDERS)) == 70


@pytest.mark.parametrize(("row", "given", "late", "patience"), [(at, *row) for at, row in enumerate(ROWS)])
def test_crossing_dials_give_one_connection_in_any_order(
    row: int, given: str, late: bool, patience: float
) -> None:
    """Five orders in each row, and each order in one row or two; all of them below."""
    check_orders(given, late, patience, ORDERS[row % 14 :: 14])


@pytest.mark.slow
@pytest.mark.parametrize(("given", "late", "patience"), ROWS)
def test_crossing_dials_give_one_connection_in_every_order(given: str, late: bool, patience: float) -> None:
    """late: a dial begins with its SYN's turn. patience: a message that is held (3 s) is waited for, or is not."""
    check_orders(given, late, patience, ORDERS)


def test_a_dial_told_crossing_gives_the_connection_that_was_open_when_it_began() -> None:
    """SMALL said READY, and dials before LARGE has heard it: LARGE keeps its own, and SMALL has it already."""
    to_small = [("small", message) for message in MESSAGES]
    to_large = [("large", message) for message in MESSAGES]
    outcome = cross(Order([*to_small[:3], *to_large[:3], to_small[3], to_large[3]], late=True))
    assert not list(outcome.disagreements())
    assert outcome.initiator == "large"
    assert outcome.dials["large"].had
    assert isinstance(outcome.dials["large"].end, Connection)
    assert outcome.dials["large"].ended == 0


def test_both_ready_the_larger_ids_connection_is_kept_though_the_smallers_is_younger() -> None:
    """As above, but LARGE has held its verdict in vain for 3 s: it says READY too, and then hears ours.

    SMALL had replaced LARGE's connection by its own, and LARGE replaced SMALL's by its own: none was left.
    """
    to_small = [("small", message) for message in MESSAGES]
    to_large = [("large", message) for message in MESSAGES]
    outcome = cross(Order([*to_small[:3], *to_large, to_small[3]], late=True, patience=4))
    assert not list(problems(outcome))
    assert outcome.initiator == "large"


@pytest.mark.parametrize("turns", range(16))
def test_ready_of_one_dial_meets_the_ack_of_the_other_in_one_turn_of_the_loop(turns: int) -> None:
    """SMALL hears READY while it says READY to LARGE: whichever of the two comes first by a hair."""
    steps = [
        *[("large", SYN), ("large", SYN_ACK), ("small", SYN), ("small", SYN_ACK), ("large", ACK)],
        *[("small", ACK), ("large", VERDICT)],
    ]
    outcome = cross(Order(steps, patience=4, together=(0, turns)), given=())
    assert not list(problems(outcome)), outcome.explain()


@pytest.mark.parametrize("turns", range(12))
def test_ready_comes_in_the_turn_in_which_a_verdict_has_been_held_long_enough(turns: int) -> None:
    """LARGE says READY to SMALL after 3 s, and hears READY while it writes that."""
    steps = [
        *[("small", SYN), ("small", SYN_ACK), ("small", ACK), ("large", SYN), ("large", SYN_ACK)],
        *[("large", ACK), ("small", VERDICT)],
    ]
    outcome = cross(Order(steps, late=True, together=(3, turns)))
    assert not list(problems(outcome)), outcome.explain()


@pytest.mark.parametrize("lingering", [0, 2])
def test_a_dial_told_duplicate_of_what_our_listener_is_opening_gives_that(lingering: float) -> None:
    """SMALL has heard LARGE's READY, and told LARGE's dial so, before LARGE knows that its READY is written."""
    steps = [
        *[("large", SYN), ("large", SYN_ACK), ("small", SYN), ("large", ACK)],
        *[("small", SYN_ACK), ("large", VERDICT), ("small", ACK), ("small", VERDICT)],
    ]
    outcome = cross(Order(steps, patience=1), given=(), delays={"large": (0, 0.5)}, lingering={"large": lingering})
    assert not list(problems(outcome)), outcome.explain()
    assert outcome.initiator == "small"


# --- crossing dials, on slow links ----------------------------------------------------------------------

DELAYS: Final = (0, 0.1, 1, 2.9, 3.5, 6)
delays = st.tuples(st.sampled_from(DELAYS), st.sampled_from(DELAYS))
SCENES: Final = settings(max_examples=40, deadline=None, derandomize=True, database=None)
FIXTURES: Final = {"suppress_health_check": [HealthCheck.function_scoped_fixture]}


def is_in_time(delay: Delay, held: float = 0) -> bool:
    """Whether a greeting is through before its deadline: the SYN in 5 s, the verdict in 10 s."""
    return delay[0] < 5 and 2 * sum(delay) + held < 10


@settings(SCENES, **FIXTURES)
@drawn(to_large=delays, to_small=delays, given=st.sampled_from(list(GIVEN)))
def test_crossing_dials_give_one_connection_if_either_would_get_there(
    to_large: Delay, to_small: Delay, given: str
) -> None:
    """Two dials at the same moment, each message so many seconds under way."""
    outcome = cross(given=GIVEN[given], delays={"large": to_large, "small": to_small})
    kept = {name: [one.session_id for one in kept] for name, kept in outcome.kept.items()}
    assert kept["small"] == kept["large"], outcome.explain()
    assert len(kept["small"]) <= 1
    assert outcome.open_links == len(kept["small"])
    assert not outcome.open_in_the_end
    if is_in_time(to_small):
        assert not list(outcome.disagreements()), outcome.explain()
        if is_in_time(to_large):
            assert not list(outcome.failures()), outcome.explain()
    for dial in outcome.dials.values():
        assert dial.ended <= 13
        if not isinstance(dial.end, Connection):
            assert isinstance(dial.end, NoResponse) or _is(dial.end, VerdictCode.CROSSING), outcome.explain()


@pytest.mark.parametrize(
    ("to_large", "to_small", "kept"),
    [
        ((2.9, 0), (1, 1), "large"),
        ((2.9, 1), (2.9, 0), "large"),
        ((1, 1), (3.5, 0.1), "small"),
        ((1, 0), (1, 3.5), "small"),
    ],
)
def test_a_connection_that_opened_during_the_other_sides_greeting_is_not_taken_for_dead(
    to_large: Delay, to_small: Delay, kept: str
) -> None:
    """Its answer to a ping takes longer than 2 s: it was replaced by a dial that its dialer had given up.

    Or it takes so long that the other dial's time is up before it is told.
    """
    outcome = cross(delays={"large": to_large, "small": to_small})
    assert not list(problems(outcome)), outcome.explain()
    assert outcome.initiator == kept


def test_a_dial_whose_greeting_began_before_ready_of_the_other_is_told_crossing_though_it_came_later() -> None:
    """SMALL has said READY, dials, and LARGE hears that READY between SMALL's SYN and ACK: no duplicate."""
    outcome = cross(delays={"large": (0.2, 0.2), "small": (0, 1)}, head_start=-1.5)
    assert not list(outcome.disagreements())
    assert outcome.dials["large"].had
    assert not list(outcome.failures()), outcome.explain()


@settings(SCENES, **FIXTURES)
@drawn(
    to_large=st.tuples(st.floats(0, 1.7), st.floats(0, 1.7)),
    to_small=st.tuples(st.floats(0, 2.4), st.floats(0, 2.4)),
    given=st.sampled_from(list(GIVEN)),
    head_start=st.floats(-12, 12),
)
def test_whoever_dials_first_and_however_long_before_there_is_one_connection(
    to_large: Delay, to_small: Delay, given: str, head_start: float
) -> None:
    """Each greeting is in time, the one that is held too. Where one dial begins when the other has ended, a round
    trip is shorter than the 2 s of a ping, or the first connection is taken for dead."""
    assume(is_in_time(to_large, held=3))
    assume(is_in_time(to_small))
    outcome = cross(given=GIVEN[given], delays={"large": to_large, "small": to_small}, head_start=head_start)
    if any(dial.had for dial in outcome.dials.values()) and max(sum(to_large), sum(to_small)) >= 2:
        return
    assert not list(problems(outcome)), outcome.explain()


# --- one of the two fails -------------------------------------------------------------------------------


def stall(at: Step) -> Pace:
    """That message never arrives, nor what comes behind it."""

    async def pace(link: Link, message: str | None) -> None:
        if (link.to, message) == at:
            await trio.sleep_forever()

    return pace


def rejecting(role: Role, decision: Decision | None = None, after: float = 0) -> Policy:
    """A policy for whom we dial (RESPONDER) or who dials us (INITIATOR); everybody else is welcome at once."""

    async def policy(introduction: Introduction) -> Decision:
        if introduction.role is role:
            await trio.sleep(after)
            return decision or accept()
        return accept()

    return policy


@pytest.mark.parametrize("refusing", ["small", "large"])
def test_where_one_address_refuses_the_other_dial_is_accepted_at_once(refusing: str) -> None:
    outcome = cross(refusing=[refusing])
    assert not list(outcome.disagreements())
    assert isinstance(outcome.dials[refusing].end, NoResponse)
    assert isinstance(outcome.dials[OTHER[refusing]].end, Connection)
    assert outcome.dials[OTHER[refusing]].ended == 0


@pytest.mark.parametrize("who", ["small", "large"])
def test_where_one_dial_means_somebody_else_the_other_is_accepted_at_once(who: str) -> None:
    outcome = cross(given=[f"not {who}"])
    assert not list(outcome.disagreements())
    assert isinstance(outcome.dials[who].end, WrongIdentity)
    assert isinstance(outcome.dials[OTHER[who]].end, Connection)
    assert outcome.dials[OTHER[who]].ended == 0


@pytest.mark.parametrize(
    ("to", "message"),
    [(to, message) for to in OTHER for message in MESSAGES if (to, message) != ("small", VERDICT)],
)
@pytest.mark.parametrize("given", GIVEN)
def test_where_one_dial_stalls_the_other_is_accepted_within_the_hold(to: str, given: str, message: str) -> None:
    """All but LARGE's verdict: see the next test."""
    outcome = cross(given=GIVEN[given], pace=stall((to, message)))
    assert not list(outcome.disagreements()), outcome.explain()
    other = outcome.dials[OTHER[to]]
    assert isinstance(other.end, Connection)
    holds = to == "small" and (message in (ACK, VERDICT) or "small" in GIVEN[given])
    assert other.ended == (3 if holds else 0), outcome.explain()
    assert outcome.initiator == to
    stalled = outcome.dials[to]
    assert isinstance(stalled.end, NoResponse) or stalled.end is other.end or to == "large", outcome.explain()


def test_a_verdict_that_never_arrives_leaves_no_connection_and_both_know() -> None:
    """What no order of messages can help: SMALL said READY, gave up its own dial, and LARGE never heard."""
    outcome = cross(pace=stall(("small", VERDICT)))
    assert outcome.kept == {"small": (), "large": ()}
    assert outcome.open_links == 0
    assert isinstance(outcome.dials["small"].end, NoResponse)
    given_up = outcome.dials["large"].end
    assert isinstance(given_up, Connection)
    assert not given_up.is_open


def test_a_dial_of_the_larger_id_goes_on_though_the_other_side_was_told_ready_meanwhile() -> None:
    """SMALL's time is up before it hears that READY: LARGE's dial had ended for it, and no connection was left."""
    outcome = cross(given=(), delays={"large": (2.9, 3.5), "small": (2, 2)}, head_start=6)
    assert not list(outcome.disagreements()), outcome.explain()
    assert outcome.initiator == "large"
    assert isinstance(outcome.dials["large"].end, NoResponse)
    assert isinstance(outcome.dials["small"].end, Connection)


def test_a_dial_of_the_larger_id_that_goes_on_beside_an_open_connection_gives_that() -> None:
    """Nobody knew that the two cross until SMALL's SYN-ACK; SMALL has heard READY, and says DUPLICATE."""
    outcome = cross(given=(), delays={"small": (0, 1)})
    assert not list(problems(outcome)), outcome.explain()
    assert outcome.initiator == "small"
    assert outcome.dials["small"].ended == 2  # the verdict


def test_where_that_verdict_never_arrives_the_dial_fails_and_both_keep_the_connection() -> None:
    outcome = cross(given=(), delays={"small": (0, 1)}, pace=stall(("small", VERDICT)))
    assert not list(outcome.disagreements()), outcome.explain()
    assert outcome.initiator == "small"
    assert isinstance(outcome.dials["large"].end, Connection)
    assert isinstance(outcome.dials["small"].end, NoResponse)
    assert outcome.dials["small"].ended == 10


def test_a_dial_of_the_smaller_id_that_finds_before_its_ack_that_the_other_sides_is_open_gives_that() -> None:
    outcome = cross(given=(), delays={"large": (0, 1)}, pace=stall(("large", VERDICT)))
    assert not list(problems(outcome)), outcome.explain()
    assert outcome.initiator == "large"
    assert outcome.dials["large"].ended < 3


@pytest.mark.parametrize("who", ["small", "large"])
def test_where_one_policy_rejects_the_dialer_the_other_dial_is_accepted(who: str) -> None:
    """`who` lets nobody in, and dials out."""
    outcome = cross(**{who: {"trust": rejecting(Role.INITIATOR, reject())}})
    assert not list(outcome.disagreements())
    assert outcome.initiator == who
    end = outcome.dials[who].end
    assert _is(end, VerdictCode.POLICY) or isinstance(end, Connection)
    assert isinstance(outcome.dials[OTHER[who]].end, Connection)
    assert outcome.dials[OTHER[who]].ended == 0


@pytest.mark.parametrize("who", ["small", "large"])
def test_where_one_policy_rejects_whom_it_dialed_the_other_dial_is_accepted(who: str) -> None:
    outcome = cross(**{who: {"trust": rejecting(Role.RESPONDER, reject())}})
    assert not list(outcome.disagreements())
    assert outcome.initiator == OTHER[who]
    assert isinstance(outcome.dials[who].end, Connection)
    assert outcome.dials[who].ended == 0


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("role", [Role.INITIATOR, Role.RESPONDER])
@pytest.mark.parametrize("who", ["small", "large"])
def test_a_slow_policy_delays_and_changes_nothing(who: str, role: Role, given: str) -> None:
    outcome = cross(given=GIVEN[given], **{who: {"trust": rejecting(role, after=2.9)}})
    assert not list(problems(outcome)), outcome.explain()
    assert max(dial.ended for dial in outcome.dials.values()) <= 5.8


@pytest.mark.parametrize("who", ["small", "large"])
@pytest.mark.parametrize("after", range(8))
def test_whenever_one_leaves_both_dials_end_and_nothing_stays_open(who: str, after: int) -> None:
    for steps in ORDERS[after::14]:
        outcome = cross(Order(steps, leave_after=after), leaving=who)
        assert outcome.kept == {"small": (), "large": ()}, _short(steps)
        assert outcome.open_links == outcome.open_in_the_end == 0, _short(steps)
        for dial in outcome.dials.values():
            assert dial.ended <= 10, f"{_short(steps)}: {dial}"
            assert isinstance(dial.end, DialError) or not dial.end.is_open


@pytest.mark.parametrize("steps", ORDERS[::7], ids=_short)
def test_where_two_connections_may_be_open_both_sides_have_the_same(steps: tuple[Step, ...]) -> None:
    limits = Limits(connections_per_identity=2)
    outcome = cross(Order(steps), small={"limits": limits}, large={"limits": limits})
    at_small, at_large = ({one.session_id for one in kept} for kept in outcome.kept.values())
    assert at_small == at_large
    assert 1 <= len(at_small) <= 2
    assert not list(outcome.failures())


# --- one dials twice ------------------------------------------------------------------------------------


@dataclass
class Two:
    """SMALL and LARGE, who dial each other when a test says so."""

    net: Net
    small: Peer
    large: Peer

    async def dial(self, to: str) -> Connection:
        who, whom = (self.large, self.small) if to == "small" else (self.small, self.large)
        return await who.dial(address_of(to, whom.id))

    @property
    def session_ids(self) -> tuple[list[bytes], list[bytes]]:
        at_small, at_large = (
            [connection.session_id for connection in who.connections] for who in (self.small, self.large)
        )
        return at_small, at_large


@asynccontextmanager
async def two(**options: Any) -> AsyncIterator[Two]:
    async with trio.open_nursery() as nursery:
        net = Net()
        net.nursery = nursery
        async with peer(SMALL, net, **options) as small, peer(LARGE, net, **options) as large:
            await small.listen(address_of("small", None))
            await large.listen(address_of("large", None))
            yield Two(net, small, large)
        assert not any(link.is_open for link in net.links)
        nursery.cancel_scope.cancel()


EITHER_TWICE: Final = pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(("small", "large"), repeat=2))
)


@EITHER_TWICE
async def test_a_second_dial_is_a_duplicate_while_the_first_connection_lives(
    first: str, second: str, autojump_clock: MockClock
) -> None:
    async with two() as peers:
        connection = await peers.dial(first)
        await trio.sleep(1)
        with pytest.raises(Rejected) as rejected:
            await peers.dial(second)
        assert rejected.value.reason is VerdictCode.DUPLICATE
        assert peers.session_ids == ([connection.session_id], [connection.session_id])
        assert await talks(connection)
        await trio.sleep(LONG)
        assert peers.net.links[0].is_open
        assert not peers.net.links[1].is_open


@EITHER_TWICE
@pytest.mark.parametrize("cut", [{Role.INITIATOR}, {Role.RESPONDER}, set(Role)], ids=["out", "back", "both ways"])
async def test_a_dead_connection_is_replaced_by_the_second_dial_on_both_sides(
    first: str, second: str, cut: set[Role], autojump_clock: MockClock
) -> None:
    async with two() as peers:
        old = await peers.dial(first)
        await trio.sleep(20)
        peers.net.links[0].cut = cut
        olds = [*peers.small.connections, *peers.large.connections]
        started = trio.current_time()
        new = await peers.dial(second)
        assert trio.current_time() - started == 2
        assert new.session_id != old.session_id
        await wait_all_tasks_blocked()
        assert peers.session_ids == ([new.session_id], [new.session_id])
        assert await talks(new)
        for connection in olds:
            assert (await connection.closed()).code is CloseCode.REPLACED
        await trio.sleep(LONG)
        assert not peers.net.links[0].is_open


async def test_a_young_dead_connection_of_the_larger_id_is_given_up_when_its_greeting_must_be_over(
    autojump_clock: MockClock,
) -> None:
    """Only then is it sure that the two dials do not cross; see settle()."""
    async with two() as peers:
        await peers.dial("small")
        peers.net.links[0].cut = set(Role)
        await trio.sleep(1)
        new = await peers.dial("large")
        assert trio.current_time() == Limits().greeting
        assert peers.session_ids == ([new.session_id], [new.session_id])


async def test_a_dial_cancelled_while_it_is_in_question_leaves_nothing_open(autojump_clock: MockClock) -> None:
    """As above, but nobody waits that long."""
    async with two() as peers:
        await peers.dial("small")
        peers.net.links[0].cut = set(Role)
        with trio.move_on_after(5) as scope:
            await peers.dial("large")
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert not peers.net.links[1].is_open
        assert peers.large.connections == ()


@pytest.mark.parametrize("to", ["small", "large"])
async def test_of_two_dials_of_one_peer_at_once_one_is_a_duplicate(to: str, autojump_clock: MockClock) -> None:
    async with two() as peers:
        ends: list[Connection | DialError] = []

        async def dial() -> None:
            ends.append(await end_of(peers.dial, to))  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            nursery.start_soon(dial)
        (connection,) = (end for end in ends if isinstance(end, Connection))
        (failure,) = (end for end in ends if isinstance(end, DialError))
        assert _is(failure, VerdictCode.DUPLICATE)
        assert peers.session_ids == ([connection.session_id], [connection.session_id])


async def test_two_dials_that_cross_beside_a_connection_that_lives_are_told_duplicate_at_once(
    autojump_clock: MockClock,
) -> None:
    """LARGE holds its verdict for its own dial; which, told DUPLICATE, does not wait for that verdict in turn."""
    async with two() as peers:
        connection = await peers.dial("large")
        await trio.sleep(1)
        started = trio.current_time()
        ends: list[Connection | DialError] = []

        async def dial(to: str) -> None:
            ends.append(await end_of(peers.dial, to))  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, "small")
            nursery.start_soon(dial, "large")
        assert trio.current_time() == started
        assert all(_is(end, VerdictCode.DUPLICATE) for end in ends), ends
        assert peers.session_ids == ([connection.session_id], [connection.session_id])


@EITHER_TWICE
async def test_where_two_connections_may_be_open_the_third_is_a_duplicate_while_the_oldest_lives(
    first: str, second: str, autojump_clock: MockClock
) -> None:
    async with two(limits=Limits(connections_per_identity=2)) as peers:
        oldest, other = await peers.dial(first), await peers.dial(second)
        with pytest.raises(Rejected, match="DUPLICATE"):
            await peers.dial(second)
        await trio.sleep(20)
        peers.net.links[0].cut = set(Role)
        third = await peers.dial(second)
        await wait_all_tasks_blocked()
        assert not oldest.is_open
        assert peers.session_ids == ([other.session_id, third.session_id],) * 2


@pytest.mark.parametrize("to", ["small", "large"])
def test_a_dial_cancelled_at_any_step_of_a_crossing_leaves_nothing_half_open(to: str) -> None:
    async def cancel_at(step: int) -> bool:
        async with two() as peers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_of, peers.dial, OTHER[to])
                got_there = await cancelled_at(step, partial(end_of, peers.dial, to))
            await trio.sleep(LONG)
            at_small, at_large = peers.session_ids
            assert at_small == at_large
            assert sum(link.is_open for link in peers.net.links) == len(at_small) <= 1
            return got_there

    step = 1
    while trio.run(cancel_at, step, clock=MockClock(autojump_threshold=0)):
        step += 7


# --- a policy that takes its time -----------------------------------------------------------------------


@pytest.mark.parametrize("welcome", [True, False])
async def test_a_dial_waits_for_its_own_policy_though_the_other_side_was_let_in_meanwhile(
    welcome: bool, autojump_clock: MockClock
) -> None:
    asked, answered = trio.Event(), trio.Event()

    async def of_this_dial(_: Introduction) -> Decision:
        asked.set()
        await answered.wait()
        return accept() if welcome else reject(VerdictCode.IDENTITY_UNKNOWN)

    ends: list[Connection | DialError] = []

    async def dial(small: Peer) -> None:
        try:
            ends.append(await small.dial("mem://large", trust=of_this_dial))
        except DialError as error:
            ends.append(error)

    async with Peer(SMALL) as small, Peer(LARGE) as large, trio.open_nursery() as nursery:
        await small.listen("mem://small")
        await large.listen("mem://large")
        nursery.start_soon(dial, small)
        await asked.wait()
        await large.dial("mem://small")
        await wait_all_tasks_blocked()
        assert not ends
        answered.set()
        await wait_all_tasks_blocked()
        (end,) = ends
        if welcome:
            assert isinstance(end, Connection)
            assert end.role is Role.RESPONDER
            assert end.is_open
        else:
            assert isinstance(end, Refused)
            assert end.reason is VerdictCode.IDENTITY_UNKNOWN
        assert len(small.connections) == 1


@pytest.mark.parametrize("welcome", [True, False])
async def test_a_dial_that_is_overtaken_before_anybody_answers_asks_its_own_policy_too(welcome: bool) -> None:
    asked: list[Introduction] = []

    async def of_this_dial(introduction: Introduction) -> Decision:
        asked.append(introduction)
        return accept() if welcome else reject(VerdictCode.IDENTITY_UNKNOWN)

    class Keeps(Observer):
        def failed(self, role: Role, error: DialError) -> None:
            told.append((error, error.as_dict()))

    ends: list[Connection | DialError] = []
    told: list[tuple[DialError, dict[str, object]]] = []

    async def dial(small: Peer, invite: str) -> None:
        try:
            ends.append(await small.dial(invite, trust=of_this_dial))
        except DialError as error:
            ends.append(error)

    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    where = f"127.0.0.1:{silent.socket.getsockname()[1]}"
    observed = Peer(SMALL, observers=[Keeps()])
    async with silent, observed as small, Peer(LARGE) as large, trio.open_nursery() as nursery:
        await small.listen("mem://small")
        nursery.start_soon(dial, small, f"tcp://{LARGE.id}@{where}")
        async with await silent.accept():
            await large.dial("mem://small")
            with trio.fail_after(3):
                while not ends:
                    await wait_all_tasks_blocked(0.01)
        (end,) = ends
        (kept,) = small.connections
        assert [(one.peer, one.role, one.address) for one in asked] == [(LARGE.id, Role.RESPONDER, where)]
        if welcome:
            assert end is kept
        else:
            assert isinstance(end, Untrusted)
            assert (end.peer, end.address, end.session_id) == (LARGE.id, where, kept.session_id)
            assert end.timeline.session_id == kept.session_id
        ((error, facts),) = told
        assert error.counted_as == "CROSSING"
        assert error.as_dict() == facts  # what comes of the dial is nothing of the greeting that had ended
        assert kept.is_open
