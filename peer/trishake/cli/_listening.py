"""`trishake listen`: be there to be dialed, and show who comes and who is turned away."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import AsyncIterator, Mapping
from typing import NoReturn

import trio

from trishake_protocol import Role, escape

from .._authorized_keys import AuthorizedKeys
from .._connection import Connection
from .._errors import ConnectionClosed, DialError
from .._known_peers import KnownPeers
from .._observer import Observer
from .._peer import Peer
from .._qr import qr_code
from .._tcp import Tcp
from .._trust import Policy, all_of, any_of, anyone, blocked, only
from ._dialing import address_of
from ._identities import open_identity, read_peer
from ._networks import network_of
from ._outcomes import ExitCode, UsageError, outcome_of
from ._output import Output, wrapped
from ._workers import run_workers


def listen(arguments: argparse.Namespace, output: Output) -> ExitCode:
    if arguments.workers == 1:
        trio.run(_listen, arguments, output)
        return ExitCode.OK
    if arguments.workers < 1 or arguments.once:
        raise UsageError("--workers takes a number from 1 on, and does not go with --once")
    return run_workers(arguments, output, _listen)


async def _listen(
    arguments: argparse.Namespace, output: Output, *, ends: int | None = None, quiet: bool = False
) -> None:
    """Until we are told to leave.

    ends: where other processes listen at the same port, a pipe that ends when all shall leave. quiet: one of the
    others shows the invite.
    """
    trust = _policy(arguments)
    address_of(arguments.address)
    identity = await open_identity(arguments, output)
    transports = [] if ends is None else [Tcp(reuse_port=True)]
    teller = _Teller(output)
    async with Peer(
        identity, trust=trust, network=network_of(arguments), observers=[teller], transports=transports
    ) as peer:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            listener = await peer.listen(arguments.address)
            if not quiet:
                facts = {"event": "listening", "peer": str(peer.id), "invites": list(listener.invites)}
                output.result(facts, "\n".join(listener.invites))
                if arguments.qr:
                    output.picture(qr_code(listener.invite))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(teller.watch)
                nursery.start_soon(_leave_at_signal, signals, nursery.cancel_scope)
                if ends is not None:
                    nursery.start_soon(_leave_at_end, ends, nursery.cancel_scope)
                if arguments.once:
                    async for connection in peer.arrivals():
                        await connection.closed()
                        break
                    nursery.cancel_scope.cancel()


async def _leave_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


async def _leave_at_end(pipe: int, scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(pipe)
    scope.cancel()


def _policy(arguments: argparse.Namespace) -> Policy:
    """Any of those who are named as welcome, and none of those who are blocked."""
    policies: list[Policy] = []
    if arguments.only:
        policies.append(only(*(read_peer(peer) for peer in arguments.only)))
    if arguments.authorized_keys is not None:
        policies.append(AuthorizedKeys(arguments.authorized_keys))
    if arguments.known is not None:
        policies.append(KnownPeers(arguments.known, strict=True))
    welcome = any_of(*policies) if policies else anyone
    if not arguments.block:
        return welcome
    return all_of(blocked(*(read_peer(peer) for peer in arguments.block)), welcome)


class _Teller(Observer):
    """A line, or two, for each who comes, goes, or is turned away."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._failure: OSError | None = None
        self._failed = trio.Event()

    async def watch(self) -> NoReturn:
        """Raises why a line could not be written, once there is one: a Peer goes on whatever its observers do."""
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    def _tell(self, facts: Mapping[str, object], text: str) -> None:
        if self._failure is not None:
            return
        at = time.strftime("%H:%M:%S")
        try:
            self._output.result({"at": time.time(), **facts}, wrapped(f"{at}  {text}", indent=" " * 10))
        except OSError as error:  # who read our output has seen enough, or its disk is full
            self._failure = error
            self._failed.set()

    def connected(self, connection: Connection) -> None:
        facts = {
            "event": "accepted",
            "peer": str(connection.peer),
            "address": connection.address,
            "session": connection.session_id.hex(),
            "agent": connection.greeting.agent,
        }
        where = connection.address or "somewhere"
        self._tell(facts, f"accepted  {where}  session {connection.session_id.hex()}\n          {connection.peer}")

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        facts = {
            "event": "closed",
            "peer": str(connection.peer),
            "session": connection.session_id.hex(),
            "message": str(closed),
        }
        text = "" if closed.text is None else f": {escape(closed.text)}"
        self._tell(facts, f"closed    {connection.address}  session {connection.session_id.hex()}{text}")

    def failed(self, role: Role, error: DialError) -> None:
        outcome = outcome_of(error)
        assert outcome is not None
        timeline = error.timeline
        if timeline.session_id is not None:
            name = f"\n          session {timeline.session_id.hex()}"
        else:
            name = "" if timeline.greeting_id is None else f"\n          greeting {timeline.greeting_id.hex()}"
        self._tell({"event": "failed", **outcome.facts, "message": str(error)}, f"failed    {error}{name}")
