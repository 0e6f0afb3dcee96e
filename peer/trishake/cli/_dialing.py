"""`trishake dial` and `trishake ping`: greet a peer, and say what came of it."""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from trishake_protocol import LocalProtocolError, PeerId, escape

from .._addresses import Address
from .._connection import Connection
from .._diagram import MIN_WIDTH, clipped
from .._diagram import picture as picture_of
from .._errors import BadFile, DialError, InvalidAddress, Untrusted
from .._files import check_publishable, expanded, publish_file
from .._known_peers import KnownPeers
from .._limits import Limits
from .._peer import Peer
from .._timeline import Timeline
from .._trust import Introduction, Policy, anyone, reject
from ._identities import open_identity
from ._known import known_peers_path
from ._networks import network_of
from ._outcomes import ExitCode, Outcome, UsageError, outcome_of
from ._output import Output, painter, table, wrapped

_PING_TIMEOUT = 5
"""Seconds for the answer to a ping."""


def dial(arguments: argparse.Namespace, output: Output) -> ExitCode:
    picture = expanded(arguments.svg) if arguments.svg is not None else None
    if picture is not None:
        check_publishable(picture)
    failure = trio.run(_dial, arguments, output, picture)
    return ExitCode.OK if failure is None else failure.code


async def _dial(arguments: argparse.Namespace, output: Output, picture: Path | None) -> Outcome | None:
    """How it failed, where that is told already; None if it did not."""
    try:
        await _dial_once(arguments, output, picture)
    except DialError as error:
        timeline = _timeline_of(error)
        if timeline is None:
            raise
        if picture is not None:
            try:
                publish_file(picture, timeline.svg().encode())
            except BadFile as unwritable:  # how the dial ended matters more
                output.note(str(unwritable))
        outcome = outcome_of(error)
        if not arguments.explain or outcome is None or output.as_json:  # machines get all of it in any case
            raise
        output.picture(_explained(timeline))
        output.picture(wrapped(error.explain(), indent=""))
        return outcome
    return None


def _timeline_of(error: DialError) -> Timeline | None:
    """None of one that came before any greeting, as where nobody can sign."""
    try:
        return error.timeline
    except LocalProtocolError:
        return None


def _explained(timeline: Timeline) -> str:
    """The table of its steps, and the picture if the terminal is wide enough for one."""
    columns = shutil.get_terminal_size().columns
    parts = ["\n".join(clipped(line, columns) for line in str(timeline).splitlines())]
    if columns >= MIN_WIDTH:
        parts.append(picture_of(timeline, columns, paint=painter()))
    return "\n\n".join(parts) + "\n"


async def _dial_once(arguments: argparse.Namespace, output: Output, picture: Path | None) -> None:
    async with _connected(arguments, output) as greeted:
        connection = greeted.connection
        timeline = connection.timeline
        if picture is not None:
            publish_file(picture, timeline.svg().encode())
        rows: dict[str, object | None] = {
            "peer": str(connection.peer),
            "address": connection.address,
            "session": connection.session_id.hex(),
            "suite": str(connection.suite),
            "agent": None if connection.greeting.agent is None else escape(connection.greeting.agent),
            "says": None if connection.welcome is None else escape(connection.welcome),
            "seen as": None if connection.seen is None else escape(connection.seen),
        }
        facts = {name.replace(" ", "_"): value for name, value in rows.items()}
        output.result(
            {
                "outcome": "accepted",
                **facts,
                "milliseconds": round(greeted.milliseconds, 3),
                "timeline": timeline.as_dict(),
            },
            "accepted\n" + table({**rows, "time": f"{greeted.milliseconds:.1f} ms"}, indent="  "),
        )
        if arguments.explain:
            output.picture("\n" + _explained(timeline).rstrip())


def ping(arguments: argparse.Namespace, output: Output) -> ExitCode:
    if arguments.count < 1 or not 0 <= arguments.interval < math.inf:
        raise UsageError("--count takes a number from 1 on, --interval seconds from 0 on")
    return trio.run(_ping, arguments, output)


async def _ping(arguments: argparse.Namespace, output: Output) -> ExitCode:
    times: list[float] = []
    async with _connected(arguments, output) as greeted:
        connection = greeted.connection
        output.result(
            {"outcome": "accepted", "peer": str(connection.peer), "milliseconds": round(greeted.milliseconds, 3)},
            f"{connection.peer}\naccepted in {greeted.milliseconds:.1f} ms",
        )
        for number in range(1, arguments.count + 1):
            milliseconds = None
            with trio.move_on_after(_PING_TIMEOUT):
                milliseconds = round(await connection.ping() * 1000, 3)
                times.append(milliseconds)
            answer = "no answer" if milliseconds is None else f"{milliseconds:.2f} ms"
            output.result({"ping": number, "milliseconds": milliseconds}, f"{number}: {answer}")
            if number < arguments.count:
                with trio.move_on_after(arguments.interval):
                    raise await connection.closed()
    lost = arguments.count - len(times)
    if times:
        least, median, most = min(times), round(statistics.median(times), 3), max(times)
        output.result(
            {"pings": arguments.count, "lost": lost, "least": least, "median": median, "most": most},
            f"{arguments.count} pings, {lost} lost; least, median, most: {least:.2f}, {median:.2f}, {most:.2f} ms",
        )
    return ExitCode.NO_RESPONSE if lost else ExitCode.OK


# --- meeting --------------------------------------------------------------------------------------------


@dataclass
class _Greeted:
    connection: Connection
    milliseconds: float


@dataclass
class _Stranger:
    """Who answered at an address that we know nothing of; noted, so that a person can be asked without haste."""

    peer: PeerId | None = None

    async def note(self, introduction: Introduction) -> bool:
        self.peer = introduction.peer
        return False


@asynccontextmanager
async def _connected(arguments: argparse.Namespace, output: Output) -> AsyncGenerator[_Greeted]:
    """Dial the invite; where it names nobody and nobody is known there, ask, and dial again."""
    address = address_of(arguments.invite)
    stranger = _Stranger()
    trust = _policy(arguments, address, stranger)
    identity = await open_identity(arguments, output)
    async with Peer(identity, trust=trust, network=network_of(arguments), limits=_limits(arguments)) as peer:
        try:
            greeted = await _timed_dial(peer, address)
        except Untrusted as error:
            if stranger.peer is None:
                raise
            if (why := _why_not(stranger.peer, address, output)) is not None:
                refused = Untrusted(stranger.peer, reject(why=why))
                refused.stands_for(error)
                raise refused from None
            await KnownPeers(known_peers_path(arguments)).remember(address.endpoint, stranger.peer)
            greeted = await _timed_dial(peer, replace(address, peer=stranger.peer))
        async with greeted.connection:
            yield greeted


async def _timed_dial(peer: Peer, address: Address) -> _Greeted:
    started = trio.current_time()
    connection = await peer.dial(address)
    return _Greeted(connection, (trio.current_time() - started) * 1000)


def _policy(arguments: argparse.Namespace, address: Address, stranger: _Stranger) -> Policy:
    path = known_peers_path(arguments)
    match arguments.trust:
        case "anyone":
            return anyone
        case "strict":
            return KnownPeers(path, strict=True)
        case "accept-new":
            return KnownPeers(path)
        case _:  # whoever the invite names has proved it already, before any policy is asked
            return anyone if address.peer is not None else KnownPeers(path, ask=stranger.note)


def _why_not(stranger: PeerId, address: Address, output: Output) -> str | None:
    """Ask whoever sits there; None if the stranger is welcome."""
    output.note(f"Nobody is known yet at {address.endpoint}. Who answers there is")
    output.note(f"{stranger}\n{stranger.fingerprint}")
    if output.as_json or not sys.stdin.isatty():
        return (
            "Nobody can be asked here: use an invite that names the peer, or --trust accept-new if you accept "
            "whoever answers first."
        )
    print(stranger.picture(), file=sys.stderr)
    print("Is that the one, and shall it be remembered? [yes/no] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # Ctrl-D
        print(file=sys.stderr)
    return None if answer.strip().lower() == "yes" else "The answer was not `yes`."


def address_of(text: str) -> Address:
    """What another process can dial. Raises InvalidAddress."""
    address = Address.parse(text)
    if address.scheme == "mem":
        raise InvalidAddress(
            f"'{address}': what listens in the memory of a process can be dialed within that process alone, "
            "not from here"
        )
    return address


def _limits(arguments: argparse.Namespace) -> Limits:
    seconds: float | None = arguments.timeout
    if seconds is None:
        return Limits()
    if not seconds > 0:
        raise UsageError("--timeout takes a number of seconds above 0")
    return Limits(connect=seconds, greeting=seconds)
