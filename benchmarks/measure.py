"""What is the same for every peer: arguments, timing loops, and the JSON line that a program prints.

A peer's program makes a `Subject` and calls `main`. Both ends live in this one process and talk over loopback:

    main → Subject.place → a measurement → Place.dial and Place.accept → End.open_stream and End.accept_stream

No connection is closed while a program runs: the process ends, and the system closes them. So the clock never
sees the end of a connection, whatever that costs a peer.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from .relay import ROUND_TRIP, relay

WRITE: Final = 64 * 1024
"""Bytes of one write of `bulk`."""

MESSAGE: Final = b"m" * 64

STREAMS: Final = 16
"""Open on the connection while one of them is measured, where there can be several."""

WARM_UP: Final = 50
"""Handshakes before the clock starts, or before memory is looked at."""

AsyncFunction = Callable[[], Coroutine[Any, Any, None]]


# --- what a peer provides ---------------------------------------------------------------------------------


class Stream(Protocol):
    """One side of a byte stream, as Trio names it."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self) -> bytes: ...


class End(Protocol):
    """One side of an authenticated connection."""

    async def open_stream(self) -> Stream:
        """A stream that can be written to at once; a peer with just one stream gives that."""
        ...

    async def accept_stream(self) -> Stream: ...


class Place(Protocol):
    """A listener on loopback, and those who dial it."""

    port: int

    async def dial(self, port: int, dialer: int) -> End:
        """Connect and authenticate; returns when the dialer knows who is there.

        port: this place's own, or one that leads there. dialer: which one, from 0; each dials once.
        """
        ...

    async def accept(self) -> End:
        """The next connection of which the listener knows who dialed."""
        ...

    async def ask(self, port: int, dialer: int, question: bytes) -> Stream:
        """Dial, and send these bytes as soon as that may be; the stream on which the answer will come."""
        stream = await (await self.dial(port, dialer)).open_stream()
        await stream.send_all(question)
        return stream


class Loop(Protocol):
    """Trio or asyncio, as far as the measurements need one."""

    def run(self, main: Callable[[], Awaitable[Any]]) -> Any: ...

    async def together(self, functions: Iterable[AsyncFunction]) -> None:
        """Run them concurrently until each has returned."""
        ...


class Subject(Protocol):
    """What is measured."""

    name: str
    imports: str
    """The statement with which an application has what it needs."""
    loop: Loop
    streams: int
    """Streams open on a connection while one is measured: 1 or STREAMS."""
    failures: tuple[type[Exception], ...]
    """What `dial` raises when nothing comes of it: an outcome, that is counted."""

    def place(self, dialers: int) -> AbstractAsyncContextManager[Place]:
        """dialers: how many there are, each with an identity of its own where one identity has one connection."""
        ...


class NotMeasured(Exception):
    """This peer has no such measurement; the text says why."""


class TrioLoop:
    def run(self, main: Callable[[], Awaitable[Any]]) -> Any:
        return trio.run(main)

    async def together(self, functions: Iterable[AsyncFunction]) -> None:
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)


class AsyncioLoop:
    def run(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return asyncio.run(main())

    async def together(self, functions: Iterable[AsyncFunction]) -> None:
        async with asyncio.TaskGroup() as group:
            for function in functions:
                group.create_task(function())


# --- a listener for peers that secure one stream over TCP ---------------------------------------------------


class SingleStream:
    """The End of a connection that is one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def open_stream(self) -> Stream:
        return self._stream

    async def accept_stream(self) -> Stream:
        return self._stream


class OverTcp:
    """A Subject that turns one Trio TCP stream into one authenticated stream.

    initiate, respond: make the secured stream of a connected one, at the dialer's end and at the listener's.
    initiate_asking: as initiate, with bytes to be sent as soon as that may be, where there is such a thing.
    """

    loop = TrioLoop()
    streams = 1

    def __init__(
        self,
        name: str,
        imports: str,
        initiate: Callable[[trio.SocketStream], Awaitable[Stream]],
        respond: Callable[[trio.SocketStream], Awaitable[Stream]],
        failures: tuple[type[Exception], ...] = (trio.BrokenResourceError, OSError),
        initiate_asking: Callable[[trio.SocketStream, bytes], Awaitable[Stream]] | None = None,
    ) -> None:
        self.name = name
        self.imports = imports
        self.failures = failures
        self._initiate = initiate
        self._respond = respond
        self._initiate_asking = initiate_asking

    @asynccontextmanager
    async def place(self, dialers: int) -> AsyncGenerator[Place]:
        async with trio.open_nursery() as nursery:
            place = _TcpPlace(self._initiate, self._initiate_asking)
            serve = partial(trio.serve_tcp, partial(self._answer, place), 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            place.port = listener.socket.getsockname()[1]
            yield place
            nursery.cancel_scope.cancel()

    async def _answer(self, place: _TcpPlace, transport: trio.SocketStream) -> None:
        try:
            stream = await self._respond(transport)
        except self.failures:
            return  # the dialer counts it
        place.arrive(SingleStream(stream))
        await trio.sleep_forever()  # the stream is closed when its handler returns


class _TcpPlace(Place):
    def __init__(
        self,
        initiate: Callable[[trio.SocketStream], Awaitable[Stream]],
        initiate_asking: Callable[[trio.SocketStream, bytes], Awaitable[Stream]] | None,
    ) -> None:
        self.port = 0
        self._initiate = initiate
        self._initiate_asking = initiate_asking
        self._arrived, self._arrivals = trio.open_memory_channel[End](100_000)
        self.arrive = self._arrived.send_nowait

    async def dial(self, port: int, dialer: int) -> End:
        return SingleStream(await self._initiate(await trio.open_tcp_stream("127.0.0.1", port)))

    async def ask(self, port: int, dialer: int, question: bytes) -> Stream:
        if self._initiate_asking is None:
            return await super().ask(port, dialer, question)
        return await self._initiate_asking(await trio.open_tcp_stream("127.0.0.1", port), question)

    async def accept(self) -> End:
        return await self._arrivals.receive()


# --- the measurements ---------------------------------------------------------------------------------------


class Clock:
    """Seconds since it was made: on the wall, and of this process's CPU time (both ends, all threads)."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def result(
    value: float, unit: str, *, cpu: float | None = None, more: bool = False, **detail: Any
) -> dict[str, Any]:
    """cpu: the CPU's share, in the same unit. more: whether more is better."""
    return {"value": value, "unit": unit, "cpu": cpu, "more_is_better": more, "detail": detail}


async def handshakes(subject: Subject, place: Place, count: int, at_once: int) -> dict[str, Any]:
    """From the dial until both ends hold the connection, ms each: the time for all of them, divided.

    at_once tasks dial in turn until `count` are done. With several at once, dial and accept of a task may be
    those of two connections; only the number counts.
    """
    held: list[End] = []
    failed: Counter[str] = Counter()

    async def dial_in_turn(numbers: Iterable[int]) -> None:
        for number in numbers:
            try:
                held.append(await place.dial(place.port, number))
            except subject.failures as error:
                failed[type(error).__name__] += 1
            else:
                held.append(await place.accept())

    await dial_in_turn(range(WARM_UP))
    gc.collect()
    numbers = iter(range(WARM_UP, WARM_UP + count))
    clock = Clock()
    await subject.loop.together([partial(dial_in_turn, numbers)] * at_once)
    wall, cpu = clock.read()
    accepted = len(held) // 2 - WARM_UP
    return result(wall / count * 1e3, "ms", cpu=cpu / count * 1e3, accepted=accepted, failed=failed)


async def _connect(subject: Subject, place: Place) -> tuple[Stream, Stream]:
    """The dialer's and the listener's end of one stream, among others where there can be several."""
    dialer, listener = await place.dial(place.port, 0), await place.accept()
    for _ in range(subject.streams):
        client, server = await dialer.open_stream(), await listener.accept_stream()
    return client, server


async def send_each(stream: Stream, data: bytes, times: int) -> None:
    """The same, as many times, one write each."""
    for _ in range(times):
        await stream.send_all(data)


async def receive_all(stream: Stream, size: int) -> None:
    """Read, and forget, that many bytes."""
    while size > 0:
        data = await stream.receive_some()
        if not data:
            raise EOFError(f"the stream ended {size} bytes early")
        size -= len(data)


async def _one_way(subject: Subject, place: Place, data: bytes, count: int) -> tuple[float, float]:
    """Wall and CPU seconds until the listener has read `count` writes of `data`."""
    client, server = await _connect(subject, place)

    async def transfer(times: int) -> None:
        await subject.loop.together(
            [partial(send_each, client, data, times), partial(receive_all, server, times * len(data))]
        )

    await transfer(max(1, count // 10))
    gc.collect()
    clock = Clock()
    await transfer(count)
    return clock.read()


async def bulk(subject: Subject, place: Place, count: int, at_once: int) -> dict[str, Any]:
    """Writes of 64 KiB one way, MiB/s until the listener has read them all."""
    wall, cpu = await _one_way(subject, place, bytes(WRITE), count)
    mebibytes = count * WRITE / 2**20
    return result(mebibytes / wall, "MiB/s", cpu=mebibytes / cpu, more=True)


async def messages(subject: Subject, place: Place, count: int, at_once: int) -> dict[str, Any]:
    """Messages of 64 bytes one way, one write each, thousands a second until the listener has read them all."""
    wall, cpu = await _one_way(subject, place, MESSAGE, count)
    return result(count / wall / 1e3, "thousand/s", cpu=count / cpu / 1e3, more=True)


async def pingpong(subject: Subject, place: Place, count: int, at_once: int) -> dict[str, Any]:
    """64 bytes there and back, one round trip after the other, µs each."""
    ends = await _connect(subject, place)
    await round_trips(subject.loop, *ends, max(1, count // 10))
    gc.collect()
    clock = Clock()
    await round_trips(subject.loop, *ends, count)
    wall, cpu = clock.read()
    return result(wall / count * 1e6, "µs", cpu=cpu / count * 1e6)


async def round_trips(loop: Loop, client: Stream, server: Stream, times: int) -> None:
    """A message there and back, one after the other."""

    async def ping() -> None:
        for _ in range(times):
            await client.send_all(MESSAGE)
            await receive_all(client, len(MESSAGE))

    async def pong() -> None:
        for _ in range(times):
            await receive_all(server, len(MESSAGE))
            await server.send_all(MESSAGE)

    await loop.together([ping, pong])


def resident() -> int:
    """Bytes of this process that are in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def memory(subject: Subject, place: Place, count: int, at_once: int) -> dict[str, Any]:
    """KiB of an idle connection, both ends: the growth of resident memory over `count` of them.

    The dialers are there before; the connections of the warm-up stay open, so that what the first of them load
    and allocate is not counted.
    """
    held: list[End] = []

    async def connect(times: int) -> None:
        for _ in range(times):
            held.append(await place.dial(place.port, len(held) // 2))
            held.append(await place.accept())

    await connect(WARM_UP)
    gc.collect()
    before = resident()
    await connect(count)
    gc.collect()
    return result((resident() - before) / count / 1024, "KiB")


async def latency(subject: Subject, place: Place, count: int, at_once: int) -> dict[str, Any]:
    """Dial to the first byte of the answer, over a line of 50 ms there and back: in round trips, the median.

    The dialer sends one byte as soon as it may (see `Place.ask`), the listener answers with one. detail: until the
    listener had the first byte, also in round trips.
    """
    arrived: list[float] = []
    answered: list[float] = []

    async def dial(port: int, number: int, start: float) -> None:
        await receive_all(await place.ask(port, number, b"?"), 1)
        answered.append(time.perf_counter() - start)

    async def answer(start: float) -> None:
        stream = await (await place.accept()).accept_stream()
        await receive_all(stream, 1)
        arrived.append(time.perf_counter() - start)
        await stream.send_all(b"!")

    with relay(place.port) as port:
        for number in range(count):
            start = time.perf_counter()
            await subject.loop.together([partial(dial, port, number, start), partial(answer, start)])
    return result(
        statistics.median(answered) / ROUND_TRIP,
        "round trips",
        to_the_listener=statistics.median(arrived) / ROUND_TRIP,
    )


def import_(statement: str) -> dict[str, Any]:
    """The import statement alone, in a fresh interpreter, ms. A run before, not counted, leaves the byte code."""
    program = f"import time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return result(float(done.stdout) * 1e3, "ms")


COUNTS: Final = {
    "bulk": 1024,
    "handshakes": 300,
    "latency": 5,
    "memory": 300,
    "messages": 20_000,
    "pingpong": 2_000,
}
"""How many of each, unless told."""

_MEASUREMENTS: Final = {
    "bulk": bulk,
    "handshakes": handshakes,
    "latency": latency,
    "memory": memory,
    "messages": messages,
    "pingpong": pingpong,
}


def arguments() -> argparse.ArgumentParser:
    """Those that every program has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measurement", choices=["import", *_MEASUREMENTS])
    parser.add_argument(
        "--count", type=int, help="how many handshakes, writes, messages, round trips or connections"
    )
    parser.add_argument("--at-once", type=int, default=1, help="handshakes under way at once")
    return parser


def print_line(peer: str, measurement: str, result: dict[str, Any]) -> None:
    print(json.dumps({"peer": peer, "measurement": measurement, **result}), flush=True)


def main(subject: Subject, options: argparse.Namespace) -> None:
    """Measure, print one JSON line, and end the process."""
    count = options.count or COUNTS.get(options.measurement, 1)
    report = partial(print_line, subject.name, options.measurement)

    async def measure() -> None:
        dialers = WARM_UP + count if options.measurement in ("handshakes", "latency", "memory") else 1
        async with subject.place(dialers) as place:
            report(await _MEASUREMENTS[options.measurement](subject, place, count, options.at_once))
            os._exit(0)  # nothing is closed: see above

    try:
        if options.measurement == "import":
            report(import_(subject.imports))
        else:
            subject.loop.run(measure)
    except* NotMeasured as reasons:  # a group, if it comes out of a nursery
        report({"not_measured": str(reasons.exceptions[0])})
