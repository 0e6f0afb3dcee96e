"""Two people talk; each knows who the other is before the first line.

    python examples/chat.py listen                     prints an invite
    python examples/chat.py dial 'tcp://…@host:port'   joins

What one types, the other reads, named by peer id. The end of the input (Ctrl-D) closes cleanly. Exit codes:
0 they talked, 2 bad usage, 3 no response, 4 rejected, 5 somebody else answered, 6 refused by us, 7 cut off.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator

import trio

from trishake import (
    Connection,
    ConnectionClosed,
    DialError,
    Identity,
    InvalidAddress,
    InvalidPeerId,
    NoResponse,
    Peer,
    Policy,
    Rejected,
    WrongIdentity,
    anyone,
    escape,
    only,
)

LONGEST_LINE = 64 * 1024
"""Bytes; a longer line is shown in parts, so that nobody can fill our memory with one."""


async def lines(read: AsyncIterable[bytes | bytearray]) -> AsyncIterator[str]:
    """The lines of a byte stream, as text."""
    rest = b""
    async for chunk in read:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


async def keyboard() -> AsyncIterator[bytes]:
    """What is typed, as it comes. The thread that reads may be left behind at the end."""
    while chunk := await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 4096, abandon_on_cancel=True):
        yield chunk


async def say(connection: Connection) -> None:
    async for line in lines(keyboard()):
        await connection.send_all(line.encode() + b"\n")
    await connection.send_eof()


async def show(connection: Connection) -> None:
    async for line in lines(connection):
        print(f"{connection.peer.short} {escape(line)}", flush=True)


async def talk(connection: Connection) -> None:
    """Until both have ended; at a keyboard, until the other one has."""
    print(f"* {connection.peer} is here, session {connection.session_id.hex()}", flush=True)
    async with connection, trio.open_nursery() as nursery:
        nursery.start_soon(say, connection)
        await show(connection)
        print(f"* {connection.peer.short} has left", flush=True)
        if sys.stdin.isatty():
            nursery.cancel_scope.cancel()


async def listen(address: str, trust: Policy) -> None:
    async with Peer(Identity.generate(), trust=trust) as peer:
        listener = await peer.listen(address)
        print(f"* invite: {listener.invite}", flush=True)
        await talk(await listener.accept())


async def dial(invite: str) -> None:
    async with Peer(Identity.generate()) as peer:
        print(f"* you are {peer.id}", flush=True)
        await talk(await peer.dial(invite))


def exit_code(error: BaseException) -> int:
    match error:
        case InvalidAddress() | InvalidPeerId() | OSError():
            return 2
        case NoResponse():
            return 3
        case Rejected():
            return 4
        case WrongIdentity():
            return 5
        case DialError():
            return 6
        case _:
            return 7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    listening = commands.add_parser("listen", help="print an invite, and wait for who dials it")
    listening.add_argument("address", nargs="?", default="tcp://127.0.0.1:0")
    listening.add_argument("--only", metavar="PEER_ID", action="append", help="take nobody else")
    dialing = commands.add_parser("dial", help="join the one who gave you the invite")
    dialing.add_argument("invite")
    arguments = parser.parse_args()
    code = 0
    try:
        if arguments.command == "listen":
            trust = only(*arguments.only) if arguments.only else anyone
            trio.run(listen, arguments.address, trust)
        else:
            trio.run(dial, arguments.invite)
    except* (DialError, ConnectionClosed, InvalidAddress, InvalidPeerId, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"* {error}", file=sys.stderr)
        code = exit_code(error)
    except* KeyboardInterrupt:
        code = 130
    return code


if __name__ == "__main__":
    sys.exit(main())
