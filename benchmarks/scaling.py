"""How Trishake's `Peer` bears many connections, many streams and many processes: the tables of docs/scaling.md.

    python -m benchmarks.scaling all             # everything, in about five minutes
    python -m benchmarks.scaling connections     # 10, 100, 1,000 and 10,000 of them, over tcp:// and mem://
    python -m benchmarks.scaling streams         # 1, 10, 100, 250 and 1,000 of them
    python -m benchmarks.scaling cores           # a handshake's CPU time and memory, at each of its ends
    python -m benchmarks.scaling workers         # handshakes a second with one process listening, and with two

What is compared is held by processes that live at the same time, and they take turns: one measures, the others
wait. A figure is the median of the rounds; a ratio is the median of the rounds' ratios, which a machine that is
faster in one minute than in the next does not spoil. By CPU: the CPU time of the process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from benchmarks.measure import (
    WARM_UP,
    WRITE,
    Clock,
    Stream,
    TrioLoop,
    receive_all,
    resident,
    round_trips,
    send_each,
)
from benchmarks.peers.trishake_peer import LIMITS, TrishakePeer
from benchmarks.suites import SUITES, add_suite
from trishake import Address, Connection, Identity, Network, Peer, Tcp
from trishake_protocol import Profile, Session

CONNECTIONS: Final = (10, 100, 1_000, 10_000)
STREAMS: Final = (1, 10, 100, 250, 1_000)
WORKERS: Final = (1, 2)

STREAMS_EACH: Final = 250
"""Of one connection; each side may open 256."""

ROUNDS: Final = 7
DIALS: Final = 20
"""In turn, of each round, beside the connections that are held."""
ROUND_TRIPS: Final = 1_000
WRITES: Final = 512
IDLE: Final = 30
"""Seconds; each end of an idle connection asks once in that time whether the other is alive."""
NEVER: Final = 1e6
"""Seconds from one such question to the next."""
NONE: Final = "–"
THRESHOLD: Final = 50_000
"""Containers made and not freed, before Python's garbage collector looks at the youngest; by default 700 or 2,000,
as the Python may be."""

DIALERS: Final = 2
"""Processes that dial the workers."""
AT_ONCE: Final = 8
"""Dials under way at once in each."""
GREETINGS: Final = 200
"""Of each dialing process in a round."""
SYNS_AT_ONCE: Final = 32
SYNS: Final = 640
HELD: Final = 500
"""Connections by which memory is measured, at each end."""

SPARE: Final = 100
"""File descriptors of the process itself."""

ADDRESSES: Final = {"tcp": "tcp://127.0.0.1:0", "mem": "mem://scaling"}
LOOP: Final = TrioLoop()

Pair = tuple[float, float]
"""By the clock on the wall, and by CPU."""


# --- a process that holds something, and obeys ------------------------------------------------------------


Commands = dict[str, Callable[..., Awaitable[Any]]]


async def obey(commands: Commands) -> None:
    """Run the commands that come on stdin, a JSON list a line, and print what each returns; end with stdin."""
    async for line in _lines(trio.lowlevel.FdStream(os.dup(0))):
        name, *arguments = json.loads(line)
        print(json.dumps(await commands[name](*arguments)), flush=True)
    os._exit(0)  # as in measure.py: closing everything is not measured


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in stream:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


async def hold_connections(suite: str, transport: str, count: int, keepalive: float, threshold: int) -> None:
    """Both ends of that many, idle. Commands: ready, dial, round_trip, idle.

    keepalive: seconds, as in `Limits`. threshold: of Python's garbage collector, or 0 for its own.
    """
    subject = TrishakePeer(suite, ADDRESSES[transport], replace(LIMITS, keepalive=keepalive))
    async with subject.place(WARM_UP + count + DIALS) as place:
        held: list[Any] = []

        async def connect(numbers: range) -> None:
            for number in numbers:
                held.append(await place.dial(place.port, number))
                held.append(await place.accept())

        await connect(range(WARM_UP))
        gc.collect()
        empty = resident()
        await connect(range(WARM_UP, WARM_UP + count))
        gc.collect()
        each = (resident() - empty) / count / 1024
        for end in held[: 2 * WARM_UP : 2]:
            await end.aclose()
        ends = await held[-2].open_stream(), await held[-1].accept_stream()

        async def ready() -> float:
            return each

        async def dial() -> Pair:
            """ms each, until both ends have the connection."""
            before = len(held)
            clock = Clock()
            await connect(range(WARM_UP + count, WARM_UP + count + DIALS))
            wall, cpu = clock.read()
            for end in held[before::2]:
                await end.aclose()
            del held[before:]
            return wall / DIALS * 1e3, cpu / DIALS * 1e3

        async def idle() -> tuple[float, float, float]:
            """ms of CPU a second, of these the garbage collector's, and its longest run in ms."""
            runs: list[float] = []

            def on_collection(phase: str, _: object) -> None:
                runs.append(time.perf_counter() if phase == "start" else time.perf_counter() - runs.pop())

            gc.callbacks.append(on_collection)
            clock = Clock()
            await trio.sleep(IDLE)
            wall, cpu = clock.read()
            gc.callbacks.remove(on_collection)
            return cpu / wall * 1e3, sum(runs) / wall * 1e3, max(runs, default=0) * 1e3

        if threshold:
            gc.set_threshold(threshold)
        await obey({
            "ready": ready,
            "dial": dial,
            "round_trip": partial(_time_round_trips, [ends], ROUND_TRIPS),
            "idle": idle,
        })  # fmt: skip


async def hold_streams(suite: str, count: int) -> None:
    """Both ends of that many. Commands: ready, one, all, bulk."""
    async with TrishakePeer(suite).place(-(-count // STREAMS_EACH)) as place:
        pairs: list[tuple[Stream, Stream]] = []
        for number in range(count):
            if number % STREAMS_EACH == 0:
                dialer, listener = await place.dial(place.port, number // STREAMS_EACH), await place.accept()
            pairs.append((await dialer.open_stream(), await listener.accept_stream()))
        gc.collect()

        async def ready() -> None:
            pass

        await obey({
            "ready": ready,
            "one": partial(_time_round_trips, pairs[-1:], ROUND_TRIPS),
            "all": partial(_time_round_trips, pairs, max(2, ROUND_TRIPS // count)),
            "bulk": partial(_time_bulk, pairs),
        })  # fmt: skip


async def listen(suite: str) -> None:
    """A worker. Commands: open (seed and port), usage."""
    async with AsyncExitStack() as block:
        peers: list[Peer] = []

        async def open_(seed: str, port: int) -> str:
            """The invite."""
            identity = Identity.from_seed(bytes.fromhex(seed))
            transports = [Tcp(reuse_port=True)]
            peer = Peer(identity, suites=SUITES[suite], limits=LIMITS, transports=transports)
            peers.append(await block.enter_async_context(peer))
            return (await peer.listen(f"tcp://127.0.0.1:{port}")).invite

        async def usage() -> dict[str, float]:
            gc.collect()
            return {"cpu": time.process_time(), "held": len(peers[0].connections), "bytes": resident()}

        await obey({"open": open_, "usage": usage})


async def dialer(suite: str) -> None:
    """Dials, each connection by another identity. Commands: be, dial, hang_up, knock."""
    profile = Profile(Network(), SUITES[suite])
    async with AsyncExitStack() as block:
        peers: list[Peer] = []
        held: list[Connection] = []

        async def be(count: int) -> None:
            """That many peers, from the first round on."""
            for _ in range(count):
                peer = Peer(Identity.generate(), suites=SUITES[suite], limits=LIMITS)
                peers.append(await block.enter_async_context(peer))

        async def dial(invite: str, count: int) -> dict[str, float]:
            """By AT_ONCE tasks, which each dial in turn."""
            address, free = Address.parse(invite), iter(peers[len(held) : len(held) + count])

            async def dial_in_turn() -> None:
                for peer in free:
                    held.append(await peer.dial(address))

            gc.collect()
            clock = Clock()
            await LOOP.together([dial_in_turn] * AT_ONCE)
            wall, cpu = clock.read()
            gc.collect()
            return {"wall": wall, "cpu": cpu, "bytes": resident()}

        async def hang_up() -> None:
            await LOOP.together([connection.aclose for connection in held])
            held.clear()

        async def knock(invite: str, count: int) -> dict[str, float]:
            """Send the same SYN again and again, and leave when the SYN-ACK is there: hardly any work here."""
            address = Address.parse(invite)
            syn = Session.initiator(Identity.generate(), profile, now=int(time.time()))
            flight = bytes(syn.data_to_send())
            clock = Clock()
            for _ in range(count // SYNS_AT_ONCE):  # blocking sockets, as no task has anything to do meanwhile
                sockets = [socket.create_connection((address.host, address.port)) for _ in range(SYNS_AT_ONCE)]
                for one in sockets:
                    one.sendall(flight)
                for one in sockets:
                    if not one.recv(64 * 1024):
                        raise EOFError("no SYN-ACK")
                    one.close()
            wall, cpu = clock.read()
            return {"wall": wall, "cpu": cpu}

        await obey({"be": be, "dial": dial, "hang_up": hang_up, "knock": knock})


async def _time_round_trips(pairs: list[tuple[Stream, Stream]], times: int) -> Pair:
    """µs each, where each of the pairs makes that many at the same time as the others."""
    clock = Clock()
    await LOOP.together([partial(round_trips, LOOP, *pair, times) for pair in pairs])
    wall, cpu = clock.read()
    each = 1e6 / times / len(pairs)
    return wall * each, cpu * each


async def _time_bulk(pairs: list[tuple[Stream, Stream]]) -> Pair:
    """MiB/s of all the streams together, each with its share of the writes, at least one."""
    writes = max(1, WRITES // len(pairs))
    clock = Clock()
    await LOOP.together(
        [partial(send_each, client, bytes(WRITE), writes) for client, _ in pairs]
        + [partial(receive_all, server, writes * WRITE) for _, server in pairs]
    )
    wall, cpu = clock.read()
    mebibytes = writes * len(pairs) * WRITE / 2**20
    return mebibytes / wall, mebibytes / cpu


class Failed(Exception):
    """One of the processes has ended by itself; its own error is on stderr."""


class Process:
    """One of the above, as the program that measures sees it. cpu: the only one that it runs on.

    module: another program whose processes obey in this way.
    """

    def __init__(
        self, what: str, *arguments: object, cpu: int | None = None, module: str = "benchmarks.scaling"
    ) -> None:
        words = [sys.executable, "-m", module, what, *map(str, arguments)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if cpu is not None:
            os.sched_setaffinity(self._process.pid, {cpu})

    def begin(self, *command: object) -> None:
        """Have it do something, and do not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """Of what was begun."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._process.args} has failed")
        return json.loads(line)

    def ask(self, *command: object) -> Any:
        self.begin(*command)
        return self.result()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


@contextmanager
def processes(made: Sequence[Process]) -> Iterator[None]:
    """Those that are in it by then end with the block."""
    try:
        yield
    finally:
        for process in made:
            process.end()


def ask_together(asked: Sequence[Process], *command: object) -> list[Any]:
    for process in asked:
        process.begin(*command)
    return [process.result() for process in asked]


def in_turns(held: Sequence[Process], commands: Sequence[str]) -> list[dict[str, list[Pair]]]:
    """What each of them measures in each round, by command."""
    figures: list[dict[str, list[Pair]]] = [{command: [] for command in commands} for _ in held]
    for command in commands:
        for _ in range(ROUNDS):
            for process, each in zip(held, figures, strict=True):
                each[command].append(process.ask(command))
    return figures


# --- the tables -------------------------------------------------------------------------------------------


def _connections(suite: str, kinds: Sequence[tuple[str, int, float, int]]) -> Iterator[list[str]]:
    """Rows; the ratios are to the first. kinds: as `hold_connections` takes them."""
    held = [Process("hold-connections", suite, *kind) for kind in kinds]
    with processes(held):
        kib = ask_together(held, "ready")
        figures = in_turns(held, ["dial", "round_trip"])
        idle = [] if kinds[-1][2] == NEVER else ask_together(held, "idle")
    for index, (transport, count, keepalive, threshold) in enumerate(kinds):
        dial, there_and_back = figures[index]["dial"], figures[index]["round_trip"]
        name = f"{transport}://" + (f", GC threshold {threshold:,}" if threshold else "")
        descriptors = 2 * count if transport == "tcp" else 0
        of_idle = (
            [f"{idle[index][0]:.1f}", f"{idle[index][1]:.1f}", f"{idle[index][2]:,.0f}"] if idle else [NONE] * 3
        )
        yield [
            name, NONE if keepalive == NEVER else f"{keepalive:.0f}", f"{count:,}",
            f"{kib[index]:.1f}", f"{descriptors:,}",
            pair(dial), ratio(dial, figures[0]["dial"]),
            pair(there_and_back, 0), ratio(there_and_back, figures[0]["round_trip"]),
            *of_idle,
        ]  # fmt: skip


def connections(suite: str) -> None:
    by_file_limit = (raise_file_limit() - SPARE) // 2 - WARM_UP - DIALS
    most = min(CONNECTIONS[-1], by_file_limit)
    usual = LIMITS.keepalive
    groups = [
        [("tcp", count, NEVER, 0) for count in (*CONNECTIONS[:-1], most)],
        [("mem", count, NEVER, 0) for count in (CONNECTIONS[0], CONNECTIONS[-1])],
        [("tcp", count, usual, 0) for count in (*CONNECTIONS[:-1], most)],
        [("tcp", CONNECTIONS[0], usual, 0), ("tcp", most, usual, THRESHOLD)],
    ]
    rows: list[list[str]] = []
    for kinds in groups:
        try:
            rows += _connections(suite, kinds)
        except Failed as error:
            print(error, file=sys.stderr)
            rows.append([f"{kinds[0][0]}://", f"{kinds[-1][2]:.0f}", f"{kinds[-1][1]:,}", "failed", *[NONE] * 8])
    table(
        f"connections, both ends in one process, {suite}",
        ["over", "keepalive, s", "connections", "KiB each", "file descriptors", "a dial, ms (by CPU)", "× 10",
         "a round trip, µs (by CPU)", "× 10",
         "idle, ms of CPU a second", "of these GC", "longest run of the GC, ms"],
        rows,
    )  # fmt: skip


def streams(suite: str) -> None:
    held = [Process("hold-streams", suite, count) for count in STREAMS]
    with processes(held):
        ask_together(held, "ready")
        figures = in_turns(held, ["one", "all", "bulk"])
    table(
        f"streams, both ends in one process, {suite}",
        ["streams", "connections", "a round trip on one, µs (by CPU)", "× 1", "on all at once, µs each (by CPU)",
         "× 1", "all together, MiB/s (by CPU)", "× 1"],
        [[
            f"{count:,}", f"{-(-count // STREAMS_EACH)}",
            pair(each["one"], 0), ratio(each["one"], figures[0]["one"]),
            pair(each["all"], 0), ratio(each["all"], figures[0]["all"]),
            pair(each["bulk"], 0), ratio(each["bulk"], figures[0]["bulk"]),
        ] for count, each in zip(STREAMS, figures, strict=True)],
    )  # fmt: skip


def cores(suite: str) -> None:
    """Of both suites, whatever is asked for."""
    usable = sorted(os.sched_getaffinity(0))
    ends = {
        name: (Process("listen", name, cpu=usable[0]), Process("dialer", name, cpu=usable[-1])) for name in SUITES
    }
    rows = []
    with processes([process for both in ends.values() for process in both]):
        invites = {name: listener.ask("open", secrets.token_hex(32), 0) for name, (listener, _) in ends.items()}
        kib: dict[str, Pair] = {}
        for name, (listener, dials) in ends.items():
            dials.ask("be", WARM_UP + HELD)
            here, there = dials.ask("dial", invites[name], WARM_UP), listener.ask("usage")
            here_then, there_then = dials.ask("dial", invites[name], HELD), listener.ask("usage")
            grown = there_then["bytes"] - there["bytes"], here_then["bytes"] - here["bytes"]
            kib[name] = grown[0] / HELD / 1024, grown[1] / HELD / 1024
            dials.ask("hang_up")
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ends}
        for _ in range(ROUNDS):
            for name, (listener, dials) in ends.items():
                before = listener.ask("usage")
                here = dials.ask("dial", invites[name], GREETINGS)
                there = listener.ask("usage")
                assert there["held"] - before["held"] == GREETINGS
                spent = there["cpu"] - before["cpu"], here["cpu"], here["wall"]
                times[name].append(tuple(seconds / GREETINGS * 1e3 for seconds in spent))  # type: ignore[arg-type]
                dials.ask("hang_up")
    for name, rounds in times.items():
        of_listener, of_dialer, wall = (statistics.median(column) for column in zip(*rounds, strict=True))
        rows.append([
            name, f"{of_listener:.2f}", f"{of_dialer:.2f}", f"{1e3 / of_listener:,.0f}", f"{1e3 / of_dialer:,.0f}",
            f"{1e3 / wall:,.0f}", f"{kib[name][0]:.1f}", f"{kib[name][1]:.1f}",
        ])  # fmt: skip
    table(
        f"cores: one process listens, one dials, {AT_ONCE} at once, each on a core of its own",
        ["suite", "listener, CPU ms", "dialer, CPU ms", "handshakes a core, listening", "a core, dialing",
         "handshakes/s, both", "KiB each, listener", "KiB each, dialer"],
        rows,
    )  # fmt: skip


def workers(suite: str) -> None:
    seed = secrets.token_hex(32)
    listening = {count: [Process("listen", suite) for _ in range(count)] for count in WORKERS}
    dialers = [Process("dialer", suite) for _ in range(DIALERS)]
    rows = []
    with processes([*dialers, *(worker for group in listening.values() for worker in group)]):
        ask_together(dialers, "be", GREETINGS)
        invites = {}
        for count, group in listening.items():
            invites[count] = group[0].ask("open", seed, 0)
            for worker in group[1:]:
                worker.ask("open", seed, Address.parse(invites[count]).port)
        for what, command, times in [
            ("handshakes", "dial", GREETINGS),
            ("SYNs answered", "knock", SYNS),
        ]:
            rates: dict[int, list[tuple[float, float, float, float]]] = {count: [] for count in WORKERS}
            for turn in range(ROUNDS + 1):
                for count, group in listening.items():
                    before = ask_together(group, "usage")
                    dialed = ask_together(dialers, command, invites[count], times)
                    after = ask_together(group, "usage")
                    each = [then["cpu"] - now["cpu"] for now, then in zip(before, after, strict=True)]
                    total = times * DIALERS
                    wall, share = max(one["wall"] for one in dialed), max(each) / sum(each)
                    of_dialers = sum(one["cpu"] for one in dialed)
                    if turn:  # the first warms up
                        figures = total / wall, sum(each) / total * 1e3, of_dialers / total * 1e3, share
                        rates[count].append(figures)
                    ask_together(dialers, "hang_up")
            for count in WORKERS:
                rate, of_workers, of_dialers, share = map(statistics.median, zip(*rates[count], strict=True))
                against = [one[0] / other[0] for one, other in zip(rates[count], rates[WORKERS[0]], strict=True)]
                rows.append([
                    what, f"{count}", f"{rate:,.0f}", f"{statistics.median(against):.2f}",
                    f"{of_workers:.2f}", f"{count * 1e3 / of_workers:,.0f}",
                    f"{of_dialers:.2f}", f"{of_dialers / (of_dialers + of_workers):.0%}", f"{share:.0%}",
                ])  # fmt: skip
    cpus = len(os.sched_getaffinity(0))
    table(
        f"workers, {suite}: {DIALERS} processes dial, {AT_ONCE} at once each; all of them share {cpus} cores",
        ["", "workers", "a second", "× 1", "workers, CPU ms", "with a core each, computed", "dialers, CPU ms",
         "dialers' share of the CPU", "of the busiest worker"],
        rows,
    )  # fmt: skip


def pair(figures: Sequence[Pair], digits: int = 2) -> str:
    wall, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
    return f"{wall:,.{digits}f} ({cpu:,.{digits}f})"


def ratio(figures: Sequence[Pair], to: Sequence[Pair]) -> str:
    """By CPU; the median of the rounds' ratios."""
    return f"{statistics.median(one[1] / other[1] for one, other in zip(figures, to, strict=True)):.2f}"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n**{title}**\n")
    print("| " + " | ".join(heads) + " |")
    print("|" + "|".join("---" if not index else "--:" for index in range(len(heads))) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def raise_file_limit() -> int:
    """As many file descriptors as the system gives; returns how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


TABLES: Final = {"connections": connections, "streams": streams, "cores": cores, "workers": workers}
HOLDERS: Final = {
    "hold-connections": (hold_connections, (str, str, int, float, int)),
    "hold-streams": (hold_streams, (str, int)),
    "listen": (listen, (str,)),
    "dialer": (dialer, (str,)),
}
"""What the processes do that this program starts, and the types of its arguments."""


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in HOLDERS:
        raise_file_limit()
        function, types = HOLDERS[sys.argv[1]]
        trio.run(function, *(type_(word) for type_, word in zip(types, sys.argv[2:], strict=True)))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("of", choices=["all", *TABLES])
    add_suite(parser)
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, {len(os.sched_getaffinity(0))} cores, {platform.platform()},", end=" ")
    print(f"Python {platform.python_version()}")
    for name, measure in TABLES.items():
        if options.of in ("all", name):
            measure(options.suite)


if __name__ == "__main__":
    main()
