"""How Trishake's `Peer` bears many connections and many streams; both ends in one process.

    python -m benchmarks.scaling connections --transport mem     # 10, 100, 1,000 and 10,000 of them, idle
    python -m benchmarks.scaling streams                         # 1, 10, 100, 250 and 1,000 of them

Over TCP a connection takes two file descriptors here, as both its ends are in this process; over `mem://` none.
One JSON line for each row; of two figures the first is by the clock on the wall, the second by CPU time.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
from functools import partial
from typing import Final

import trio

from benchmarks.measure import (
    WARM_UP,
    WRITE,
    Clock,
    End,
    Stream,
    receive_all,
    resident,
    round_trips,
    send_each,
)
from benchmarks.peers.trishake_peer import TrishakePeer
from benchmarks.suites import add_suite

CONNECTIONS: Final = (10, 100, 1_000, 10_000)
STREAMS: Final = (1, 10, 100, 250, 1_000)

STREAMS_EACH: Final = 250
"""Of one connection; each side may open 256."""

DIALS: Final = 100
"""That are timed: the last ones before a number is reached."""

ROUND_TRIPS: Final = 2_000
WRITES: Final = 512

SPARE: Final = 100
"""File descriptors of the process itself."""

ADDRESSES: Final = {"tcp": "tcp://127.0.0.1:0", "mem": "mem://scaling"}


async def connections(subject: TrishakePeer, most: int) -> None:
    """With each number open: KiB each, and beside them a dial in ms and a round trip on the last of them in µs.

    most: the connections that there can be, in the place of a greater number.
    """
    steps = [min(count, most - WARM_UP) for count in CONNECTIONS]
    async with subject.place(WARM_UP + steps[-1]) as place:
        held: list[End] = []

        async def connect(times: int) -> None:
            for _ in range(times):
                held.append(await place.dial(place.port, len(held) // 2))
                held.append(await place.accept())

        await connect(WARM_UP)
        gc.collect()
        empty, done = resident(), 0
        for count in steps:
            timed = min(DIALS, count - done)
            await connect(count - done - timed)
            clock = Clock()
            await connect(timed)
            wall, cpu = clock.read()
            done = count
            gc.collect()
            each = (resident() - empty) / count / 1024
            ends = await held[-2].open_stream(), await held[-1].accept_stream()
            there_and_back = await _time_round_trips(subject, [ends], ROUND_TRIPS)
            _print(
                connections=count,
                kib_each=each,
                dial_ms=(wall / timed * 1e3, cpu / timed * 1e3),
                round_trip_us=there_and_back,
            )
        os._exit(0)  # as in measure.py: closing is not measured


async def streams(subject: TrishakePeer) -> None:
    """Of each number open: a round trip on one of them, and on all at once, in µs; MiB/s of all together."""
    async with subject.place(-(-STREAMS[-1] // STREAMS_EACH)) as place:
        pairs: list[tuple[Stream, Stream]] = []
        dialed: list[tuple[End, End]] = []
        for count in STREAMS:
            while len(pairs) < count:
                if len(pairs) % STREAMS_EACH == 0:
                    dialed.append((await place.dial(place.port, len(dialed)), await place.accept()))
                dialer, listener = dialed[-1]
                pairs.append((await dialer.open_stream(), await listener.accept_stream()))
            _print(
                streams=count,
                connections=len(dialed),
                round_trip_us=await _time_round_trips(subject, pairs[-1:], ROUND_TRIPS),
                round_trip_of_all_us=await _time_round_trips(subject, pairs, max(2, ROUND_TRIPS // count)),
                mib_per_second=await _time_bulk(subject, pairs),
            )
        os._exit(0)


async def _time_round_trips(
    subject: TrishakePeer, pairs: list[tuple[Stream, Stream]], times: int
) -> tuple[float, float]:
    """µs each, where each of the pairs makes that many at the same time as the others."""
    clock = Clock()
    await subject.loop.together([partial(round_trips, subject.loop, *pair, times) for pair in pairs])
    wall, cpu = clock.read()
    each = 1e6 / times / len(pairs)
    return wall * each, cpu * each


async def _time_bulk(subject: TrishakePeer, pairs: list[tuple[Stream, Stream]]) -> tuple[float, float]:
    """MiB/s of all the streams together, each with its share of the writes, at least one."""
    writes = max(1, WRITES // len(pairs))
    clock = Clock()
    await subject.loop.together(
        [partial(send_each, client, bytes(WRITE), writes) for client, _ in pairs]
        + [partial(receive_all, server, writes * WRITE) for _, server in pairs]
    )
    wall, cpu = clock.read()
    mebibytes = writes * len(pairs) * WRITE / 2**20
    return mebibytes / wall, mebibytes / cpu


def _print(**row: float | tuple[float, float]) -> None:
    rounded = {
        name: [round(one, 1) for one in value] if isinstance(value, tuple) else round(value, 1)
        for name, value in row.items()
    }
    print(json.dumps(rounded), flush=True)


def raise_file_limit() -> int:
    """As many file descriptors as the system gives; returns how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("of", choices=["connections", "streams"])
    parser.add_argument("--transport", choices=[*ADDRESSES], default="tcp")
    add_suite(parser)
    options = parser.parse_args()
    subject = TrishakePeer(options.suite, ADDRESSES[options.transport])
    most = (raise_file_limit() - SPARE) // 2 if options.transport == "tcp" else 1_000_000
    trio.run(streams, subject) if options.of == "streams" else trio.run(connections, subject, most)
