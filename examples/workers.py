"""Several processes, one identity, one port: each dialer meets one of them, whichever the system gives it to.

    python examples/workers.py --workers 4 --port 0      prints an invite, and serves until Ctrl-C or SIGTERM

Who dials can ask for an echo, which comes with the process id of the worker that it has met:

    await connection.request("echo/1", "hello")      # [4711, 'hello']

The workers share an identity, and nothing else: see `Tcp`. Its seed is made here, and reaches them through a pipe:
neither a command line nor the environment shows it. A worker leaves when that pipe ends, and so if this program is
killed. None is started again: what restarts it is what has started it.

Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 a worker has died, or could not listen, 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import trio

from trishake import Address, Identity, InvalidAddress, Peer, PeerId, Tcp

PATIENCE = 10
"""Seconds for a worker to be there, and to leave."""


# --- a worker -----------------------------------------------------------------------------------------------


async def echo(value: object, peer: PeerId) -> list[object]:
    return [os.getpid(), value]


async def work() -> None:
    """Listen as it is told on stdin, say there on stdout which invite leads here, and leave when stdin ends."""
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    told = cast("dict[str, Any]", json.loads(await receive_line(stdin)))
    identity = Identity.from_seed(bytes.fromhex(told["seed"]))
    async with Peer(identity, transports=[Tcp(reuse_port=True)]) as peer:
        peer.handle_request("echo/1", echo)
        try:
            listener = await peer.listen(told["address"])
        except OSError as error:
            sys.exit(f"cannot listen at {told['address']}: {error}")
        print(listener.invite, flush=True)
        await receive_line(stdin)  # there is none: it is the end


async def receive_line(stream: trio.abc.ReceiveStream) -> bytes:
    """Without its end; what there is, if the stream ends first."""
    line = b""
    while not line.endswith(b"\n") and (chunk := await stream.receive_some()):
        line += chunk
    return line.rstrip(b"\n")


# --- the program that starts them ---------------------------------------------------------------------------


class Died(Exception):
    """A worker has ended by itself."""


class Worker:
    """One of them, as this program sees it."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.leaving = False

    @classmethod
    async def start(cls, nursery: trio.Nursery) -> Worker:
        """It is killed with the nursery."""
        # In a session of its own: Ctrl-C is for this program, which then ends the workers.
        run = partial(
            trio.run_process,
            [sys.executable, __file__, "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            check=False,
        )
        worker = cls(await nursery.start(run))
        nursery.start_soon(worker._watch)
        return worker

    async def listen(self, address: Address, seed: bytes) -> str:
        """The invite that leads to it. Raises Died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        told = json.dumps({"address": str(address), "seed": seed.hex()}).encode() + b"\n"
        with trio.move_on_after(PATIENCE):
            with suppress(trio.BrokenResourceError):
                await self.process.stdin.send_all(told)
                if invite := await receive_line(self.process.stdout):
                    return invite.decode()
            await trio.sleep_forever()  # it has died, as whoever watches it will say
        raise Died(f"worker {self.process.pid} was not there within {PATIENCE} s")

    async def _watch(self) -> None:
        code = await self.process.wait()
        if not self.leaving:
            raise Died(f"worker {self.process.pid} has died, with exit code {code}: the others are ended too")

    async def leave(self) -> None:
        """Connections may finish what they do."""
        assert self.process.stdin is not None
        self.leaving = True
        await self.process.stdin.aclose()
        with trio.move_on_after(PATIENCE) as scope:
            await self.process.wait()
        if scope.cancelled_caught:
            self.process.kill()


async def start(workers: Sequence[Worker], address: Address, seed: bytes) -> None:
    """Have each of them listen, at the port that the first one has. Raises Died."""
    invite = ""
    for worker in workers:
        invite = await worker.listen(address, seed)
        address = replace(address, port=Address.parse(invite).port)
        print(f"* worker {worker.process.pid} listens", flush=True)
    print(f"* invite: {invite}", flush=True)


async def serve(count: int, address: Address) -> None:
    """Start that many, and end them at a signal. Raises Died, in a group."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            workers = [await Worker.start(nursery) for _ in range(count)]
            nursery.start_soon(start, workers, address, secrets.token_bytes(32))
            await anext(signals)
            async with trio.open_nursery() as leaving:
                for worker in workers:
                    leaving.start_soon(worker.leave)
            nursery.cancel_scope.cancel()


def main() -> int:
    if sys.argv[1:] == ["--work"]:
        trio.run(work)
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", metavar="N", type=int, default=2, help="processes; 2 by default")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1 by default")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers: at least 1")
    try:
        address = Address.parse(f"tcp://{arguments.host}:{arguments.port}")
    except InvalidAddress as error:
        parser.error(str(error))
    code = 0
    try:
        trio.run(serve, arguments.workers, address)
    except* Died as died:
        print(f"* {died.exceptions[0]}", file=sys.stderr)
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
