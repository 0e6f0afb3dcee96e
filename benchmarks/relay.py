"""A line of 50 ms there and back, on loopback: a TCP relay that holds every byte for 25 ms.

It runs in a thread with a loop of its own, so that it serves peers on Trio and on asyncio alike.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from queue import Queue
from typing import Final

import trio

ROUND_TRIP: Final = 0.050
"""Seconds."""

_ONE_WAY: Final = ROUND_TRIP / 2


@contextmanager
def relay(port: int) -> Generator[int]:
    """The port at which to dial, to be relayed to `port`, both on 127.0.0.1."""
    ports: Queue[int] = Queue()
    threading.Thread(target=trio.run, args=(partial(_serve, port, ports),), daemon=True).start()
    yield ports.get(timeout=10)


async def _serve(port: int, ports: Queue[int]) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, partial(_relay, port), 0, host="127.0.0.1"))
        ports.put(listener.socket.getsockname()[1])


async def _relay(port: int, dialer: trio.SocketStream) -> None:
    """The kernel connects a dialer on loopback at once. Over the line TCP would have taken one round trip, and
    the first byte another half: the listener hears of the dialer then, and nothing reaches it before.
    """
    reachable = trio.current_time() + ROUND_TRIP + _ONE_WAY
    async with dialer, trio.open_nursery() as nursery:
        there, to_listener = trio.open_memory_channel[tuple[float, bytes]](math.inf)
        back, to_dialer = trio.open_memory_channel[tuple[float, bytes]](math.inf)
        nursery.start_soon(_read, dialer, there, reachable)
        await trio.sleep_until(reachable)
        async with await trio.open_tcp_stream("127.0.0.1", port) as listener:
            nursery.start_soon(_read, listener, back, reachable)
            nursery.start_soon(_write, dialer, to_dialer)
            await _write(listener, to_listener)


async def _read(
    stream: trio.SocketStream, line: trio.MemorySendChannel[tuple[float, bytes]], not_before: float
) -> None:
    async for data in stream:
        line.send_nowait((max(trio.current_time() + _ONE_WAY, not_before), data))


async def _write(stream: trio.SocketStream, line: trio.MemoryReceiveChannel[tuple[float, bytes]]) -> None:
    async for due, data in line:
        await trio.sleep_until(due)
        await stream.send_all(data)
