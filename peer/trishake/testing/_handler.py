"""check_handler: what a stream handler promises, tried out in real conversations that go well, and that do not."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final, cast

import trio

from trishake_protocol.patterns import CLASSICAL

from .._connection import Connection
from .._errors import RequestFailed
from .._handlers import StreamHandler
from .._limits import Limits
from .._messages import MAX_SIZE, RequestFunction, answer, request
from .._peer import Peer
from .._stream import Stream
from ._promises import SOON, check, in_a_sentence, within_time
from ._virtual_network import VirtualNetwork, identity_of

_POINTS: Final = 40
"""Of a conversation, at each of which the client leaves once."""

_DIALED_POINTS: Final = 6
"""The same, where each needs a connection of its own."""

_BROKEN_OFF: Final = 8 * 1024 * 1024
"""Bytes of all conversations that a promise breaks off: long ones are broken off at fewer points."""

_AT_ONCE: Final = 10
"""Conversations."""

_SINGLY: Final = 4096
"""Bytes of each direction that come one by one; all of a long conversation would take minutes."""

_GARBAGE: Final = (1, 100, 5000, 70_000)
"""Bytes."""

_MOMENT: Final = 0.1
"""Seconds in which a handler reads what it will read of that, and answers."""

_ENDS: Final = 100
"""How often a handler may find the end of its stream."""

_CLOGGED: Final = 4096
"""Bytes that a client who never reads takes. A window holds more; not every handler would fill one soon."""

_FLOOD: Final = 256 * 1024
"""Bytes that such a client says, to have the handler answer."""

_AHEAD: Final = 1024 * 1024
"""Bytes that a handler may read while its answer waits to be taken; who reads more has no bound."""

_HUNG_UP: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

_Check = Callable[["_Bench"], Awaitable[None]]


async def check_handler(
    handler: StreamHandler,
    conversation: StreamHandler,
    *,
    protocol: str = "test/1",
    limits: Limits | None = None,
    seconds: float = SOON,
    seed: int = 0,
) -> None:
    """Whether a stream handler keeps what is expected of one. Raises AssertionError with the promise it breaks.

    conversation: `async (stream) -> None`, what a right client says and hears; it raises AssertionError, or
    whatever it likes, where it hears something else. It is held some two hundred times, each time on a new stream,
    also several at once, and often it is cancelled in the middle.
    protocol: as the stream's handler shall see it. limits: of the handler's peer; `Limits.finish` is the time that
    a handler has to end once nobody is there. seconds: what one conversation may take. seed: of the garbage.
    Quick on a virtual clock, and on a real one if the conversation is. A handler that shields itself from being
    cancelled, and waits for ever, keeps the check waiting too.
    """
    if not callable(handler) or not callable(conversation):
        raise TypeError("handler and conversation are async functions of a stream")
    trial = _Trial(handler, conversation, protocol, limits or Limits(), seconds, seed)
    for promise in _CHECKS:
        with in_a_sentence(promise.__doc__ or ""):
            async with _bench(trial) as bench:
                await promise(bench)


async def check_request(
    function: RequestFunction,
    value: object,
    reply: object,
    *,
    protocol: str = "test/1",
    max_size: int = MAX_SIZE,
    limits: Limits | None = None,
    seconds: float = SOON,
    seed: int = 0,
) -> None:
    """The same of a function that answers requests: this value is answered with this reply.

    reply: a value, or the RequestFailed that the function is to raise. The rest is as `Peer.handle_request` and
    `check_handler` have it.
    """
    limits = limits or Limits()

    async def conversation(stream: Stream) -> None:
        try:
            got = await request(stream, value, max_size=max_size)
        except RequestFailed as failed:
            got = failed
        if isinstance(got, RequestFailed) and isinstance(reply, RequestFailed):
            check(
                (got.kind, got.text) == (reply.kind, reply.text), f"{value!r} was answered {got!r}, not {reply!r}"
            )
        else:
            check(got == reply, f"{value!r} was answered {got!r}, not {reply!r}")

    handler = partial(answer, function=function, max_size=max_size, seconds=limits.request)
    await check_handler(handler, conversation, protocol=protocol, limits=limits, seconds=seconds, seed=seed)


# --- streams that somebody has a hand in ----------------------------------------------------------------


class _Dressed(Stream):
    """The very stream that it is put around: whatever becomes of that becomes of this."""

    __slots__ = ()

    def __init__(self, stream: Stream) -> None:
        object.__setattr__(self, "__dict__", vars(stream))


class _Watched(_Dressed):
    """Holds a handler that goes on after the end, again and again: a virtual clock would stand still for ever."""

    __slots__ = ("ends",)

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.ends = 0
        """How often the handler has been told that the stream has ended."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._counting():
            await self._hold()
            await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with self._counting():
            await self._hold()
            data = await super().receive_some(max_bytes)
        self.ends += not data
        return data

    @contextmanager
    def _counting(self) -> Generator[None]:
        try:
            yield
        except _HUNG_UP:
            self.ends += 1
            raise

    async def _hold(self) -> None:
        if self.ends >= _ENDS:
            await trio.sleep_forever()


class _Singly(_Watched):
    """Gives one byte at a time, as a line may."""

    __slots__ = ("_left",)

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._left = _SINGLY

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(1 if self._left > 0 else max_bytes)
        self._left -= len(data)
        return data


class _Counted(_Dressed):
    """Counts the bytes of a conversation in both directions, and ends it after so many.

    end: told when that is; it does not return then.
    """

    __slots__ = ("_end", "_end_at", "passed", "said")

    def __init__(
        self, stream: Stream, end_at: float = math.inf, end: Callable[[], Awaitable[None]] = trio.sleep_forever
    ) -> None:
        super().__init__(stream)
        self._end_at = end_at
        self._end = end
        self.passed = 0
        self.said = bytearray()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = bytes(data)
        if self._left < len(rest):
            rest = rest[: int(self._left)]
        await super().send_all(rest)
        self.said += rest[: _FLOOD - len(self.said)]
        await self._count(len(rest))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        most = min(math.inf if max_bytes is None else max_bytes, max(self._left, 1))
        data = await super().receive_some(None if most == math.inf else int(most))
        await self._count(len(data))
        return data

    @property
    def _left(self) -> float:
        return max(self._end_at - self.passed, 0)

    async def _count(self, length: int) -> None:
        self.passed += length
        if self.passed >= self._end_at:
            await self._end()


class _Clogged(_Watched):
    """Its other side does not read: what is sent waits, until it is released."""

    __slots__ = ("_released", "_room", "ahead", "waiting")

    def __init__(self, stream: Stream, released: trio.Event) -> None:
        super().__init__(stream)
        self._released = released
        self._room = _CLOGGED
        self.waiting = False
        self.ahead = 0
        """Bytes that were read while an answer waited."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.waiting:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._room -= len(data)
        if self._room < 0:
            self.waiting = True
            try:
                await self._released.wait()
            finally:
                self.waiting = False
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await super().receive_some(max_bytes)
        if self.waiting:
            self.ahead += len(data)
        return data


# --- the bench ------------------------------------------------------------------------------------------


class _Trial:
    """What is tried out."""

    def __init__(
        self,
        handler: StreamHandler,
        conversation: StreamHandler,
        protocol: str,
        limits: Limits,
        seconds: float,
        seed: int,
    ) -> None:
        self.handler = handler
        self.conversation = conversation
        self.protocol = protocol
        self.limits = limits
        self.seconds = seconds
        self.seed = seed
        self.length = 0
        """Bytes of a conversation that has gone well, in both directions."""
        self.said = b""
        """What the client said in it; its beginning, where that was much."""


class _Bench:
    """A peer with the handler, and clients."""

    def __init__(self, trial: _Trial, network: VirtualNetwork, nursery: trio.Nursery) -> None:
        self.trial = trial
        self.network = network
        self.dress: Callable[[Stream], _Watched] = _Watched
        """What the handler's streams are put into."""
        self.dress_client: Callable[[Stream], Stream] | None = None
        self.left = trio.Event()
        """The handler's peer has left its block."""
        self._nursery = nursery
        self._peer = trio.CancelScope()
        self._at_work: set[_Watched] = set()
        self._news = trio.lowlevel.ParkingLot()
        self._failure: BaseException | None = None
        self._options: dict[str, Any] = {"limits": trial.limits, "suites": (CLASSICAL.id,)}

    # --- the handler's side

    async def start(self) -> None:
        """Have a peer with the handler."""
        self.left = trio.Event()
        self._peer = trio.CancelScope()
        self._invite = await self._nursery.start(self._run_peer)

    async def _run_peer(self, task_status: trio.TaskStatus[str]) -> None:
        transport = self.network.transport("host")
        with self._peer:
            async with Peer(identity_of("host"), transports=[transport], **self._options) as peer:
                peer.handle(self.trial.protocol, self._handle)
                task_status.started((await peer.listen("mem://host")).invite)
                await trio.sleep_forever()
        self.left.set()

    async def _handle(self, stream: Stream) -> None:
        watched = self.dress(stream)
        self._at_work.add(watched)
        try:
            await self.trial.handler(watched)
        except SystemExit as error:  # which would end the test's process, in place of the peer's
            self._failure = error
        except Exception as error:
            if not _is_hang_up(error):
                self._failure = error
            raise
        finally:
            self._at_work.discard(watched)
            self._news.unpark_all()

    async def leave(self) -> None:
        """Have the handler's peer leave, with all that it does cancelled."""
        self._peer.cancel()
        await self.left.wait()

    def take_failure(self) -> BaseException | None:
        """What the handler has raised that was more than a hang-up."""
        failure, self._failure = self._failure, None
        return failure

    async def wait_idle(self, when: str) -> BaseException | None:
        """Until no handler is at work; what one has raised that was more than a hang-up.

        Raises AssertionError if that takes longer than `Limits.finish`.
        """
        finish = self.trial.limits.finish
        with trio.move_on_after(finish):
            while self._at_work:
                await self._news.park()
        goes_on = any(watched.ends >= _ENDS for watched in self._at_work)
        again = f"; it finds the end of its stream again and again, {_ENDS} times by now" if goes_on else ""
        check(not self._at_work, f"the handler was still at work {finish:g} s after {when}{again}")
        failure = self.take_failure()
        check(not isinstance(failure, SystemExit), f"it raised {failure!r}, which ends the whole program, {when}")
        return failure

    # --- the client's side

    async def dial(self, name: str = "ada") -> Connection:
        """A client's connection to the handler's peer."""
        client = self.network.peers.get(name) or self.network.peer(name, **self._options)
        return await client.dial(self._invite)

    async def converse(self, connection: Connection, how: str = "") -> _Counted:
        """A conversation that goes well. Raises AssertionError if it does not, or has not ended in time."""
        with within_time(f"the conversation to end{how}", self.trial.seconds), self._telling():
            stream = await connection.open_stream(self.trial.protocol)
            async with stream:
                counted = _Counted(self.dress_client(stream) if self.dress_client else stream)
                await self.trial.conversation(counted)
        return counted

    @contextmanager
    def _telling(self) -> Generator[None]:
        """The conversation is the application's, and may raise whatever it likes: that is what is to be told."""
        try:
            yield
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else f"the client got {error!r}"
            failure = self.take_failure()
            because = "" if failure is None else f"; the handler had raised {failure!r}"
            raise AssertionError(what + because) from error

    async def break_off(
        self, connection: Connection, point: int, how: Callable[[Stream], Awaitable[None]]
    ) -> None:
        """A conversation up to so many bytes, and then what is done to it."""
        stream = await connection.open_stream(self.trial.protocol)
        scope = trio.CancelScope()

        async def end() -> None:
            if not scope.cancel_called:  # another task of the conversation may have come to the point too
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await how(stream)
            await trio.lowlevel.checkpoint()

        with within_time(f"the first {point} bytes of the conversation", self.trial.seconds):
            try:
                with self._telling(), scope:
                    if point:
                        await self.trial.conversation(_Counted(stream, point, end))
                    await end()
            except AssertionError:
                if not scope.cancel_called:  # else it is what came of the end, to another of its tasks
                    raise

    def points(self, number: int) -> list[int]:
        """Of the conversation, in bytes: at most so many of them, with the first and the last."""
        length = self.trial.length
        last = max(min(number - 1, length, _BROKEN_OFF // max(length, 1)), 1)
        return sorted({round(index * length / last) for index in range(last + 1)})

    def at(self, point: int) -> str:
        return f"{point} of {self.trial.length} bytes into the conversation"


@asynccontextmanager
async def _bench(trial: _Trial) -> AsyncGenerator[_Bench]:
    async with VirtualNetwork(seed=trial.seed) as network, trio.open_nursery() as nursery:
        bench = _Bench(trial, network, nursery)
        await bench.start()
        yield bench
        nursery.cancel_scope.cancel()


def _is_hang_up(error: Exception) -> bool:
    """Whether it says no more than that the other side has gone."""
    if isinstance(error, ExceptionGroup):
        return cast("ExceptionGroup[Exception]", error).split(_HUNG_UP)[1] is None
    return isinstance(error, _HUNG_UP)


# --- the promises ---------------------------------------------------------------------------------------


async def _check_conversation(bench: _Bench) -> None:
    """The conversation goes well"""
    counted = await bench.converse(await bench.dial())
    bench.trial.length, bench.trial.said = counted.passed, bytes(counted.said)
    failure = await bench.wait_idle("the client had closed the stream")
    check(failure is None, f"the client had what it wanted, and the handler raised {failure!r}")


async def _check_pieces(bench: _Bench) -> None:
    """It goes well where each byte comes alone, in either direction"""
    bench.dress = bench.dress_client = _Singly
    await bench.converse(await bench.dial())


async def _check_slow_line(bench: _Bench) -> None:
    """It goes well on a slow line, which splits what is sent"""
    connection = await bench.dial()
    length = bench.trial.length
    link = bench.network.link("ada", "host")
    for way in (link, link.reverse):
        way.delay(0.005).bandwidth(max(20_000, 5 * length)).split(max(1, length // 200))
    await bench.converse(connection)


async def _check_at_once(bench: _Bench) -> None:
    """It goes well ten times at once, and again afterwards"""
    bench.dress = bench.dress_client = _Singly  # so that all of them are under way at the same time
    connections = [await bench.dial("ada"), await bench.dial("bob")]
    async with trio.open_nursery() as nursery:
        for index in range(_AT_ONCE):
            how = f", one of {_AT_ONCE} at once"
            nursery.start_soon(bench.converse, connections[index % len(connections)], how)
    await bench.converse(connections[0], " afterwards")
    await bench.wait_idle("the clients had closed their streams")


async def _check_closed(bench: _Bench) -> None:
    """The handler ends soon when the client closes the stream, at whatever point"""
    connection = await bench.dial()
    for point in bench.points(_POINTS):
        await bench.break_off(connection, point, Stream.aclose)
        await bench.wait_idle(f"the client had closed the stream, {bench.at(point)}")
    await bench.converse(connection, " afterwards")


async def _check_reset(bench: _Bench) -> None:
    """The handler ends soon when the client resets the stream, at whatever point"""
    connection = await bench.dial()
    for point in bench.points(_POINTS):
        await bench.break_off(connection, point, trio.aclose_forcefully)
        await bench.wait_idle(f"the client had reset the stream, {bench.at(point)}")
    await bench.converse(connection, " afterwards")


async def _check_line(bench: _Bench) -> None:
    """The handler ends soon when the connection ends, at whatever point"""
    link = bench.network.link("ada", "host")
    for point in bench.points(_DIALED_POINTS):
        for fault in (link.cut, link.reset):
            connection = await bench.dial()

            async def end(stream: Stream, fault: Callable[[], object] = fault) -> None:
                fault()
                await stream.connection.closed()

            await bench.break_off(connection, point, end)
            await bench.wait_idle(f"the connection was gone ({link}), {bench.at(point)}")
            link.heal()
    await bench.converse(await bench.dial(), " afterwards")


async def _check_cancelled(bench: _Bench) -> None:
    """The handler ends soon when its peer leaves, at whatever point"""
    finish = bench.trial.limits.finish
    for point in bench.points(_DIALED_POINTS):
        took = 0.0

        async def end(stream: Stream) -> None:
            nonlocal took
            began = trio.current_time()
            await bench.leave()
            took = trio.current_time() - began
            await stream.connection.closed()

        await bench.break_off(await bench.dial(), point, end)
        check(
            took <= finish, f"it was cancelled {bench.at(point)}, and took {took:g} s more; {finish:g} are allowed"
        )
        await bench.start()
    await bench.converse(await bench.dial(), " afterwards")


async def _check_tasks(bench: _Bench) -> None:
    """The handler leaves no task behind"""
    connection = await bench.dial()
    await bench.converse(connection)
    await bench.wait_idle("the client had closed the stream")
    before = trio.lowlevel.current_statistics().tasks_living
    points = bench.points(_DIALED_POINTS)
    for point in points:
        await bench.break_off(connection, point, Stream.aclose)
    await bench.wait_idle("the clients had closed their streams")
    with trio.move_on_after(bench.trial.limits.finish):
        while trio.lowlevel.current_statistics().tasks_living > before:
            await trio.sleep(0.001)
    more = trio.lowlevel.current_statistics().tasks_living - before
    check(more <= 0, f"{more} more tasks are there, after {len(points)} streams, than before")


async def _check_silence(bench: _Bench) -> None:
    """A client who says nothing disturbs no other stream"""
    connection = await bench.dial()
    silent = await connection.open_stream(bench.trial.protocol)
    await bench.converse(connection, " beside a silent one")
    await silent.aclose()
    await bench.wait_idle("the silent client had closed its stream")
    await bench.converse(connection, " afterwards")


async def _check_garbage(bench: _Bench) -> None:
    """A client who says garbage disturbs no other stream"""
    connection = await bench.dial()
    chance = random.Random(bench.trial.seed)
    begun = bench.trial.said[: len(bench.trial.said) // 2]
    garbage = [chance.randbytes(size) for size in _GARBAGE]
    garbage += [begun + part for part in garbage] + [b"\0" * 5000, b"\xff" * 5000, b"\n" * 5000]
    for said in garbage:
        stream = await connection.open_stream(bench.trial.protocol)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_say_garbage, stream, said)
            await bench.converse(connection, " beside garbage")
        await bench.wait_idle(f"a client had said {len(said)} bytes of garbage and closed the stream")


async def _say_garbage(stream: Stream, said: bytes) -> None:
    async with stream:
        with trio.move_on_after(_MOMENT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hear_to_the_end, stream)
                with suppress(*_HUNG_UP):
                    await stream.send_all(said)
                    await stream.send_eof()


async def _hear_to_the_end(stream: Stream) -> None:
    with suppress(*_HUNG_UP):
        while await stream.receive_some():
            pass


async def _check_never_reads(bench: _Bench) -> None:
    """A client who never reads holds the handler back, and disturbs no other stream"""
    released = trio.Event()
    clogged: list[_Clogged] = []

    def clog(stream: Stream) -> _Watched:
        clogged.append(_Clogged(stream, released))
        return clogged[0]

    connection = await bench.dial()
    bench.dress = clog
    stream = await connection.open_stream(bench.trial.protocol)
    while not clogged:
        await trio.sleep(0.001)
    bench.dress = _Watched
    sent = 0

    async def say() -> None:
        nonlocal sent
        block = bench.trial.said * max(1, 4096 // len(bench.trial.said))
        with suppress(*_HUNG_UP):
            while sent < _FLOOD or (clogged[0].waiting and clogged[0].ahead <= _AHEAD):
                await stream.send_all(block)
                sent += len(block)

    async with trio.open_nursery() as nursery:
        if bench.trial.said:
            nursery.start_soon(say)
        await bench.converse(connection, " beside a client who never reads")
        before = -1
        while before < sent:
            before = sent
            await trio.sleep(_MOMENT)
        nursery.cancel_scope.cancel()
    ahead = clogged[0].ahead
    check(ahead <= _AHEAD, f"it read {ahead} bytes more while its answer waited, where {_AHEAD} are much already")
    await trio.aclose_forcefully(stream)
    released.set()
    await bench.wait_idle("a client who never read had reset the stream")
    await bench.converse(connection, " afterwards")


_CHECKS: Final[tuple[_Check, ...]] = (
    _check_conversation,
    _check_pieces,
    _check_slow_line,
    _check_at_once,
    _check_closed,
    _check_reset,
    _check_line,
    _check_cancelled,
    _check_tasks,
    _check_silence,
    _check_garbage,
    _check_never_reads,
)
