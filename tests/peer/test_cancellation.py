"""Cancellation, at every step of every call: what was half done is undone, and nobody else notices.

Each scenario is a call with what it needs before and after. It is run again and again, cancelled one step of any
task later each time, until it ends before that; after each time nothing may be left (see `World.left`), and a
witness on the same connection must still be understood.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trishake import (
    AlertCode,
    CloseCode,
    Connection,
    ConnectionClosed,
    DialError,
    NoResponse,
    Peer,
    Rejected,
    Stream,
    StreamRefused,
    StreamTimeout,
    TrishakeError,
    UnknownProtocol,
    VerdictCode,
    anyone,
)
from trishake.testing._by_hand import read_to_end
from trishake_protocol.messages import Verdict

from .conftest import ADA, BOB, EVE, ByHand, cancelled_at, outcome
from .world import (
    CARL,
    HASTY,
    MEM,
    TCP,
    TLS,
    WS,
    Narrow,
    Sink,
    World,
    by_hand,
    double,
    echo,
    nobody,
    peer,
    say_nothing,
    steady,
    thoughtful,
    undecided,
    world,
)

__all__ = ["steady"]

pytestmark = pytest.mark.usefixtures("steady", "few_streams")

Call = Callable[[], Awaitable[object]]
Scenario = Callable[[World], AbstractAsyncContextManager[Call]]

_MOST_STEPS: Final = 3000
_LONGEST: Final = 3.0
"""Seconds in which one cancelled call, and what comes of it, has to be over."""


async def cancel_everywhere(here: World, scenario: Scenario, *, stride: int = 1) -> int:
    """Run the scenario cancelled at each step, and once to its end; how many steps that are."""
    for step in range(1, _MOST_STEPS, stride):
        started = trio.current_time()
        async with scenario(here) as call:
            reached = await cancelled_at(step, call)
        try:
            await here.check()
            assert trio.current_time() - started < _LONGEST
        except BaseException as error:
            error.add_note(f"cancelled at step {step}")
            raise
        if not reached:
            return step
    raise AssertionError(f"still running after {_MOST_STEPS} steps")


# --- dial -----------------------------------------------------------------------------------------------


async def close_if_open(ends: list[Connection]) -> None:
    for connection in ends:
        await connection.aclose()


@asynccontextmanager
async def dialing(here: World, *more: str) -> AsyncIterator[Call]:
    opened: list[Connection] = []

    async def dial() -> None:
        opened.append(await here.ada.dial(here.invite, *more))

    yield dial
    await close_if_open(opened)


@asynccontextmanager
async def dialing_one_that_is_dead(here: World) -> AsyncIterator[Call]:
    opened: list[Connection] = []

    async def dial() -> None:
        opened.append(await here.ada.dial("mem://nobody", here.invite))

    yield dial
    await close_if_open(opened)


@asynccontextmanager
async def dialing_twice_the_same(here: World) -> AsyncIterator[Call]:
    async with dialing(here, here.invite) as dial:
        yield dial


@asynccontextmanager
async def dialing_at_once(here: World) -> AsyncIterator[Call]:
    """The first fails at once, and the second and the third are dialed in one moment."""
    opened: list[Connection] = []

    async def dial() -> None:
        opened.append(await here.ada.dial("mem://nobody", "mem://nobody", here.invite, here.invite))

    yield dial
    await close_if_open(opened)


DIALS: Final = pytest.mark.parametrize(
    "scenario",
    [dialing, dialing_one_that_is_dead, dialing_twice_the_same, dialing_at_once],
    ids=["one", "dead and alive", "twice", "several"],
)


@DIALS
@pytest.mark.parametrize("policy", [None, thoughtful], ids=["anyone", "policy"])
async def test_a_dial_cancelled_at_any_step_leaves_nothing_open(
    autojump_clock: MockClock, scenario: Scenario, policy: Any
) -> None:
    options = {"trust": policy} if policy else {}
    async with world(ada=options, bob=options) as here:
        assert await cancel_everywhere(here, scenario) > 10


@DIALS
async def test_a_dial_over_tcp_cancelled_at_any_step_leaves_nothing_open(scenario: Scenario) -> None:
    async with world(TCP, ada={"trust": thoughtful}, bob={"trust": thoughtful}) as here:
        assert await cancel_everywhere(here, scenario, stride=11) > 10


# --- open -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def opening(here: World, protocol: str, ends: type[BaseException] | None = None) -> AsyncIterator[Call]:
    opened: list[Stream] = []

    async def open_() -> None:
        if ends is None:
            opened.append(await here.connection.open_stream(protocol))
        else:
            with pytest.raises(ends):
                await here.connection.open_stream(protocol)

    yield open_
    for stream in opened:
        await stream.send_all(b"is it open?")
        await stream.aclose()


@asynccontextmanager
async def opening_from_there(here: World) -> AsyncIterator[Call]:
    """Bob opens a stream; Ada answers it."""
    opened: list[Stream] = []

    async def open_() -> None:
        opened.append(await here.there.open_stream("answer/1"))

    yield open_
    for stream in opened:
        await stream.aclose()


@asynccontextmanager
async def opening_when_there_is_no_room(here: World, protocol: str) -> AsyncIterator[Call]:
    """Every place is taken, until one of the streams is closed."""
    taken: list[Stream] = []
    while here.connection._carried.can_open:
        taken.append(await here.connection.open_stream("echo/1"))

    async def make_room() -> None:
        await trio.sleep(0.02)
        await taken.pop().aclose()

    async with opening(here, protocol) as open_, trio.open_nursery() as nursery:
        nursery.start_soon(make_room)
        yield open_
    for stream in taken:
        await stream.aclose()


OPENS: Final = {
    "accepted": partial(opening, protocol="echo/1"),
    "considered": partial(opening, protocol="thoughtful/1"),
    "from there": opening_from_there,
    "refused": partial(opening, protocol="refused/1", ends=StreamRefused),
    "unknown": partial(opening, protocol="what/1", ends=UnknownProtocol),
    "never answered": partial(opening, protocol="undecided/1", ends=StreamTimeout),
    "no room": partial(opening_when_there_is_no_room, protocol="thoughtful/1"),
}

# --- send and receive -----------------------------------------------------------------------------------


def pattern(length: int, start: int = 0) -> bytes:
    """Bytes of which each part tells where it stands."""
    return bytes(7 * position // 5 % 251 for position in range(start, start + length))


LONG: Final = pattern(400 * 1024)
"""More than what a stream's window allows, and than what may be queued on a connection, together."""


@asynccontextmanager
async def sending(here: World, protocol: str, length: int, sinks: dict[str, Sink]) -> AsyncIterator[Call]:
    """What arrives is the beginning of what was sent, and all of what was said to be; the stream goes on."""
    sink = sinks[protocol]
    sent: list[bool] = []
    stream = await here.connection.open_stream(protocol)

    async def send() -> None:
        await stream.send_all(LONG[:length])
        sent.append(True)

    yield send
    await stream.send_all(b"|")
    await stream.aclose()
    with trio.fail_after(2):
        while not sink.ended.get(stream.id):
            await trio.sleep(0.005)
    received = sink.received.pop(stream.id)
    assert received.endswith(b"|")
    assert LONG.startswith(received[:-1])
    assert len(received) == length + 1 or not sent


@asynccontextmanager
async def waiting_to_send(here: World) -> AsyncIterator[Call]:
    """All credit is spent, until the other side begins to read."""
    stream = await here.connection.open_stream("slow/1")
    while credit := here.connection._carried.credit(stream.id):
        await stream.send_all(bytes(credit))
    yield stream.wait_send_all_might_not_block
    await stream.send_all(b"|")
    await stream.aclose()


@asynccontextmanager
async def sending_beside_others(here: World, sinks: dict[str, Sink]) -> AsyncIterator[Call]:
    """Three others send while one is cancelled: theirs arrives whole."""
    sink = sinks["sink/1"]
    others = [await here.connection.open_stream("sink/1") for _ in range(3)]

    async def send(stream: Stream) -> None:
        await stream.send_all(LONG[: 100 * 1024])
        await stream.aclose()

    async with trio.open_nursery() as nursery, sending(here, "sink/1", 100 * 1024, sinks) as call:
        for other in others:
            nursery.start_soon(send, other)
        yield call
    with trio.fail_after(2):
        while not all(sink.ended[other.id] for other in others):
            await trio.sleep(0.005)
    assert all(sink.received.pop(other.id) == LONG[: 100 * 1024] for other in others)


@asynccontextmanager
async def receiving(here: World, length: int = 20_000) -> AsyncIterator[Call]:
    """Whatever step a receive was cancelled at, the next one gets what comes next."""
    stream = await here.connection.open_stream("echo/1")
    received = bytearray()

    async def receive() -> None:
        while len(received) < length:
            received.extend(await stream.receive_some(4097))

    async with trio.open_nursery() as nursery:

        async def say() -> None:
            for at in range(0, length, 2000):
                await stream.send_all(LONG[at : at + 2000])

        nursery.start_soon(say)
        yield receive
        await receive()
    assert received == LONG[:length]
    await stream.aclose()


# --- ending a stream ------------------------------------------------------------------------------------


@asynccontextmanager
async def finishing(here: World) -> AsyncIterator[Call]:
    stream = await here.connection.open_stream("echo/1")
    await stream.send_all(b"last words")
    yield stream.send_eof
    await stream.send_eof()
    assert await read_to_end(stream) == b"last words"
    await stream.aclose()


@asynccontextmanager
async def closing_a_stream(here: World, protocol: str, said: bytes = b"") -> AsyncIterator[Call]:
    stream = await here.connection.open_stream(protocol)
    if said:
        await stream.send_all(said)
    yield stream.aclose
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"more")


@asynccontextmanager
async def using_a_stream(here: World) -> AsyncIterator[Call]:
    """From open to close, as an application has it."""

    async def use() -> None:
        async with await here.connection.open_stream("echo/1") as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            assert await read_to_end(stream) == b"hello"

    yield use


# --- requests, pings ------------------------------------------------------------------------------------


@asynccontextmanager
async def asking(here: World, value: Any = "ab") -> AsyncIterator[Call]:
    async def ask() -> None:
        assert await here.connection.request("double/1", value) == value * 2

    yield ask


@asynccontextmanager
async def pinging(here: World) -> AsyncIterator[Call]:
    yield here.connection.ping
    await here.connection.ping()


def scenarios_of_streams(sinks: dict[str, Sink]) -> dict[str, Scenario]:
    return {
        **OPENS,
        "send": partial(sending, protocol="sink/1", length=50_000, sinks=sinks),
        "send without credit": partial(sending, protocol="slow/1", length=len(LONG), sinks=sinks),
        "send beside others": partial(sending_beside_others, sinks=sinks),
        "wait to send": waiting_to_send,
        "receive": receiving,
        "send_eof": finishing,
        "aclose": partial(closing_a_stream, protocol="echo/1"),
        "aclose with something unread": partial(closing_a_stream, protocol="echo/1", said=b"unread"),
        "aclose of one that nobody reads": partial(closing_a_stream, protocol="silent/1", said=b"unread"),
        "open to close": using_a_stream,
        "request": asking,
        "long request": partial(asking, value="ab" * 80_000),
        "ping": pinging,
    }


NAMES: Final = [*scenarios_of_streams({})]


IMPATIENT: Final = {"limits": replace(HASTY, open_stream=0.1, policy=0.2)}
"""What is never answered is not long waited for."""


@pytest.fixture
def few_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side may open eight, the witness's among them."""
    monkeypatch.setattr("trishake_protocol.streams.MAX_STREAMS", 8)


@asynccontextmanager
async def world_of_streams(where: str, **options: Any) -> AsyncIterator[tuple[World, dict[str, Scenario]]]:
    sinks = {"sink/1": Sink(), "slow/1": Sink(pause=0.02)}
    async with world(where, handlers={"silent/1": say_nothing, **sinks}, **options) as here:
        here.bob.handle("refused/1", echo, trust=nobody)
        here.bob.handle("undecided/1", echo, trust=undecided)
        here.bob.handle("thoughtful/1", echo, trust=thoughtful)
        here.ada.handle("answer/1", echo)
        here.bob.handle_request("double/1", double)
        yield here, scenarios_of_streams(sinks)


@pytest.mark.parametrize("name", NAMES)
async def test_a_call_cancelled_at_any_step_hurts_nobody_else(autojump_clock: MockClock, name: str) -> None:
    async with world_of_streams(MEM, ada=IMPATIENT, bob=IMPATIENT) as (here, scenarios):
        await cancel_everywhere(here, scenarios[name])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if at % 2 else []) for at, name in enumerate(NAMES)]
)
async def test_a_call_over_tcp_cancelled_at_some_steps_hurts_nobody_else(name: str) -> None:
    """By the real clock nobody is in a hurry, but for an answer that never comes."""
    options = IMPATIENT if name == "never answered" else {"limits": HASTY}
    async with world_of_streams(TCP, ada=options, bob=options) as (here, scenarios):
        await cancel_everywhere(here, scenarios[name], stride=7)


@pytest.mark.parametrize("name", ["send without credit", "send beside others", "long request", "receive"])
async def test_a_call_cancelled_while_the_transport_is_clogged_hurts_nobody_else(name: str) -> None:
    narrow = {"transports": [Narrow()]}
    async with world_of_streams(TCP, ada=narrow, bob=narrow) as (here, scenarios):
        await cancel_everywhere(here, scenarios[name], stride=17)


# --- ending a connection --------------------------------------------------------------------------------


@asynccontextmanager
async def closing(here: World, protocol: str | None = None) -> AsyncIterator[Call]:
    """A connection beside the witness's, with or without an open stream that keeps it waiting."""
    connection = await here.ada.dial(here.invite)
    if protocol is not None:
        stream = await connection.open_stream(protocol)
        await stream.send_all(b"hello")
    yield connection.aclose
    with trio.fail_after(1):
        await connection.aclose()
        assert not (await connection.closed()).by_peer
        if protocol is not None:
            with pytest.raises(trio.BrokenResourceError):  # ConnectionClosed, or StreamReset if that came first
                await stream.send_all(b"more")


@asynccontextmanager
async def waiting_for_the_end(here: World) -> AsyncIterator[Call]:
    """Bob closes it; whoever waits for that may be cancelled."""
    connection = await here.ada.dial(here.invite)

    async def end() -> None:
        await wait_all_tasks_blocked()
        await here.bob.connections[-1].aclose(CloseCode.POLICY, "enough")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        yield connection.closed
    with trio.fail_after(1):
        closed = await connection.closed()
    assert (closed.code, closed.text, closed.by_peer) == (CloseCode.POLICY, "enough", True)


@asynccontextmanager
async def watching_arrivals(here: World) -> AsyncIterator[Call]:
    """Who is cancelled while he waits for the next connection has not missed it."""
    arrivals = here.bob.arrivals()
    assert await anext(arrivals) is here.there
    opened: list[Connection] = []
    seen: list[Connection] = []

    async def dial() -> None:
        opened.append(await here.ada.dial(here.invite))

    async def next_one() -> None:
        seen.append(await anext(arrivals))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        yield next_one
    with trio.fail_after(1):
        if not seen:
            await next_one()
    assert [one.session_id for one in seen] == [one.session_id for one in opened]
    await close_if_open(opened)


@asynccontextmanager
async def waiting_for_a_kept_one(here: World) -> AsyncIterator[Call]:
    """Keeping goes on though one of those who wait for it was cancelled. Stopped, it leaves nothing."""
    async with peer(CARL) as carl:
        listener = await carl.listen(f"mem://carl-{here.number()}")
        keeper = here.ada.keep(listener.invite)
        yield keeper.connected
        with trio.fail_after(1):
            connection = await keeper.connected()
        keeper.stop()
        await connection.aclose()


@asynccontextmanager
async def stopping_a_keeper(here: World) -> AsyncIterator[Call]:
    """A keeper that is stopped at any step of its dial leaves nothing, or the connection that it had by then."""
    async with peer(CARL) as carl:
        listener = await carl.listen(f"mem://carl-{here.number()}")

        async def keep() -> None:
            keeper = here.ada.keep(listener.invite, trust=thoughtful)
            try:
                await keeper.connected()
            finally:
                keeper.stop()

        yield keep
        for connection in here.ada.connections:
            if connection.peer == carl.id:
                await connection.aclose()


ENDS: Final[dict[str, Scenario]] = {
    "idle": closing,
    "with a stream": partial(closing, protocol="echo/1"),
    "with a stream that nobody reads": partial(closing, protocol="silent/1"),
    "closed": waiting_for_the_end,
    "arrivals": watching_arrivals,
    "kept": waiting_for_a_kept_one,
    "keeper": stopping_a_keeper,
}


@pytest.mark.parametrize("name", ENDS)
async def test_an_end_awaited_or_made_and_cancelled_at_any_step_leaves_nothing(
    autojump_clock: MockClock, name: str
) -> None:
    async with world_of_streams(MEM) as (here, _):
        await cancel_everywhere(here, ENDS[name])


@pytest.mark.parametrize("name", ENDS)
async def test_an_end_over_tcp_cancelled_at_some_steps_leaves_nothing(name: str, socket_clock: MockClock) -> None:
    async with world_of_streams(TCP) as (here, _):
        await cancel_everywhere(here, ENDS[name], stride=9)


async def answer_and_fall_silent(hand: ByHand) -> None:
    """A responder that says READY, and then nothing; not even CLOSE."""
    await hand.hear_flight()
    await hand.say(hand.syn_ack(hand.honest(caps=("mux/1",))))
    await hand.hear_ack()
    await hand.say(hand.verdict(Verdict(VerdictCode.READY)))
    await hand.hear_to_end()
    await hand.stream.aclose()


@asynccontextmanager
async def closing_without_an_answer(here: World) -> AsyncIterator[Call]:
    async with by_hand(answer_and_fall_silent, f"hand-{here.number()}") as invite:
        connection = await here.ada.dial(invite)
        yield connection.aclose
        await connection.aclose()
        await wait_all_tasks_blocked()


async def test_closing_cancelled_while_the_other_side_does_not_answer_leaves_nothing(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        await cancel_everywhere(here, closing_without_an_answer)


PATIENT: Final = {"limits": replace(HASTY, finish=2)}


async def being_closed(here: World, nursery: trio.Nursery) -> tuple[Connection, Stream]:
    """A connection whose close waits for a stream."""
    connection = await here.ada.dial(here.invite)
    stream = await connection.open_stream("echo/1")
    nursery.start_soon(connection.aclose)
    await trio.sleep(0.1)
    assert stream in connection.streams
    return connection, stream


async def test_a_second_close_that_is_cancelled_closes_at_once_too(autojump_clock: MockClock) -> None:
    """It once waited for the streams that the first one had given time to finish."""
    async with world(ada=PATIENT) as here, trio.open_nursery() as nursery:
        connection, stream = await being_closed(here, nursery)
        started = trio.current_time()
        await trio.aclose_forcefully(connection)
        assert not (await connection.closed()).by_peer
        assert trio.current_time() == started
        with pytest.raises(ConnectionClosed):
            await stream.send_all(b"more")


@pytest.mark.parametrize(
    "call",
    [lambda one: one.aclose(finish=0), lambda one: one.aclose(CloseCode.POLICY)],
    ids=["no time to finish", "not gracefully"],
)
async def test_a_second_close_can_take_away_the_time_to_finish(
    autojump_clock: MockClock, call: Callable[[Connection], Awaitable[None]]
) -> None:
    async with world(ada=PATIENT) as here, trio.open_nursery() as nursery:
        connection, _ = await being_closed(here, nursery)
        started = trio.current_time()
        await call(connection)
        assert trio.current_time() - started < 0.5
        assert (await connection.closed()).code is CloseCode.NORMAL


async def test_a_block_left_by_an_error_waits_for_no_stream_though_a_close_is_under_way(
    autojump_clock: MockClock,
) -> None:
    async def fail(here: World, nursery: trio.Nursery) -> None:
        async with peer(EVE, **PATIENT) as eve:
            connection = await eve.dial(here.invite)
            await connection.open_stream("echo/1")
            nursery.start_soon(connection.aclose)
            await trio.sleep(0.1)
            raise ZeroDivisionError

    async with world() as here, trio.open_nursery() as nursery:
        started = trio.current_time()
        with pytest.raises(ZeroDivisionError):
            await fail(here, nursery)
        assert trio.current_time() - started < 0.5


# --- the responder --------------------------------------------------------------------------------------

LEFT: Final = {AlertCode.GOING_AWAY, VerdictCode.SHUTTING_DOWN}


@asynccontextmanager
async def dialing_a_listener_that_closes(here: World, where: str) -> AsyncIterator[Call]:
    """At this step of a dial its listener is closed: the dialer is told, or has its connection."""
    listener = await here.bob.listen(where.replace("bob", f"bob-{here.number()}"))
    ended = trio.Event()
    ends: list[Connection | DialError] = []

    async def dial() -> None:
        ends.append(await outcome(here.ada.dial, listener.invite))
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        yield ended.wait
        await listener.aclose()
    (end,) = ends
    if isinstance(end, Connection):
        try:
            async with end, await end.open_stream("echo/1"):
                pass
        except ConnectionClosed:  # it was closed in the moment of READY
            assert (await end.closed()).code is CloseCode.GOING_AWAY
    elif isinstance(end, Rejected):
        assert end.reason in LEFT
    else:
        assert isinstance(end, NoResponse)
    with trio.fail_after(1):
        while listener.greetings:
            await trio.sleep(0.005)


@pytest.mark.parametrize("policy", [anyone, thoughtful], ids=["anyone", "policy"])
async def test_a_listener_closed_at_any_step_of_a_greeting_leaves_a_connection_or_nothing(
    autojump_clock: MockClock, policy: Any
) -> None:
    async with world(ada={"trust": policy}, bob={"trust": policy}) as here:
        await cancel_everywhere(here, partial(dialing_a_listener_that_closes, where=MEM))


async def test_a_listener_over_tcp_closed_at_some_step_of_a_greeting_leaves_a_connection_or_nothing() -> None:
    async with world(TCP, bob={"trust": thoughtful}) as here:
        await cancel_everywhere(here, partial(dialing_a_listener_that_closes, where=TCP), stride=3)


async def test_who_was_accepted_in_the_moment_of_leaving_is_told_so(autojump_clock: MockClock) -> None:
    """Whatever step of a greeting Bob leaves his block at: one who got READY gets CLOSE, and is not cut off."""
    ends: list[Connection | DialError] = []

    async def dial(ada: Peer, invite: str, ended: trio.Event) -> None:
        ends.append(await outcome(ada.dial, invite))
        ended.set()

    async with peer(ADA) as ada:
        for step in range(1, 500):
            ended = trio.Event()
            async with trio.open_nursery() as nursery, peer(BOB, trust=thoughtful) as bob:
                listener = await bob.listen(f"mem://bob-{step}")
                nursery.start_soon(dial, ada, listener.invite, ended)
                reached = await cancelled_at(step, ended.wait)
            if not reached:
                break
        assert {type(end) for end in ends} >= {Connection, Rejected}
        for end in ends:
            if isinstance(end, Connection):
                assert (await end.closed()).code is CloseCode.GOING_AWAY


# --- the whole life of a peer ---------------------------------------------------------------------------


@asynccontextmanager
async def living(here: World) -> AsyncIterator[Call]:
    """Eve comes, dials Bob, talks and leaves."""

    async def live() -> None:
        async with peer(EVE) as eve:
            connection = await eve.dial(here.invite)
            stream = await connection.open_stream("echo/1")
            await stream.send_all(b"hello")
            await stream.receive_some()
            await stream.send_all(b"hello again")

    yield live


@asynccontextmanager
async def being_visited(here: World, where: str) -> AsyncIterator[Call]:
    """Carl listens, and leaves when Ada has been there. If he is gone before, she is told so."""
    bound, visited = trio.Event(), trio.Event()
    invites: list[str] = []

    async def visit() -> None:
        await bound.wait()
        with suppress(TrishakeError):
            connection = await here.ada.dial(invites[0])
            async with connection, await connection.open_stream("echo/1") as stream:
                await stream.send_all(b"hello")
                await stream.receive_some()
                visited.set()
                await stream.receive_some()

    async def live() -> None:
        async with peer(CARL, trust=thoughtful) as carl:
            carl.handle("echo/1", echo)
            listener = await carl.listen(where.replace("bob", f"carl-{here.number()}"))
            invites.append(listener.invite)
            bound.set()
            await visited.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit)
        yield live
        if not invites:
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("scenario", [living, partial(being_visited, where=MEM)], ids=["dialer", "listener"])
async def test_a_peer_cancelled_at_any_step_of_its_life_leaves_nothing(
    autojump_clock: MockClock, scenario: Scenario
) -> None:
    async with world() as here:
        await cancel_everywhere(here, scenario)


@pytest.mark.parametrize("where", [TCP, TLS, WS], ids=["tcp", "tls", "ws"])
@pytest.mark.parametrize("listens", [False, True], ids=["dialer", "listener"])
async def test_a_peer_on_a_socket_cancelled_at_some_steps_of_its_life_leaves_nothing(
    where: str, listens: bool, socket_clock: MockClock
) -> None:
    async with world(where) as here:
        scenario = partial(being_visited, where=where) if listens else living
        await cancel_everywhere(here, scenario, stride=19 if where == TCP else 37)


USES: Final[dict[str, Callable[[Stream], Awaitable[object]]]] = {
    "aclose": lambda stream: stream.aclose(),
    "receive": read_to_end,
    "send_eof": lambda stream: stream.send_eof(),
    "send_all": lambda stream: stream.send_all(b"more"),
    "open_stream": lambda stream: stream.connection.open_stream("echo/1"),
    "ping": lambda stream: stream.connection.ping(),
    "request": lambda stream: stream.connection.request("echo/1", 1),
    "close the connection": lambda stream: stream.connection.aclose(),
}


@pytest.mark.parametrize("name", USES)
async def test_a_stream_that_outlives_the_cancelled_block_of_its_peer_is_broken_and_can_be_closed(
    autojump_clock: MockClock, name: str
) -> None:
    """Closing it, or reading what had arrived, once wanted a task of the peer's nursery, which was gone."""
    async with world() as here:
        with trio.CancelScope() as scope:
            async with peer(EVE) as eve:
                connection = await eve.dial(here.invite)
                stream = await connection.open_stream("echo/1")
                await stream.send_all(bytes(200_000))
                await trio.sleep(0.1)
                scope.cancel()
                await trio.sleep_forever()
        try:
            await USES[name](stream)
        except ConnectionClosed:
            assert name not in ("aclose", "receive", "close the connection")
        else:
            assert name in ("aclose", "receive", "close the connection")
