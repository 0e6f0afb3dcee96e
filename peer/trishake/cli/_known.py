"""`trishake known`: whom we know, and where they answered."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import trio

from trishake_protocol import escape

from .._addresses import Address
from .._errors import ChangedIdentity
from .._known_peers import KnownPeer, KnownPeers
from ._home import home
from ._identities import read_peer
from ._outcomes import ExitCode, UsageError
from ._output import Output


def known_peers_path(arguments: argparse.Namespace) -> Path:
    path: Path | None = arguments.known
    return path or home() / "known_peers"


def list_known(arguments: argparse.Namespace, output: Output) -> ExitCode:
    known = _opened(arguments)
    entries = known.entries()
    for entry in entries:
        output.result(_facts(entry), f"{entry.peer}  {entry.name}")
    for problem in known.problems:
        output.fault({"path": str(problem.path), "line": problem.line, "message": str(problem)}, str(problem))
    if not entries and not known.problems:
        output.note(f"Nobody is known yet in {known.path}.")
    return ExitCode.FAILED if known.problems else ExitCode.OK


def add(arguments: argparse.Namespace, output: Output) -> ExitCode:
    known = _opened(arguments)
    where: str = arguments.where
    if arguments.peer is None and "://" not in where:
        raise UsageError(f"{where!r} names no peer: say who it is, or give an invite, scheme://<peer id>@…")
    peer = read_peer(arguments.peer or where)
    try:
        trio.run(known.remember, where, peer)
    except ChangedIdentity as error:  # nobody has answered: what the library says of that would mislead
        error.what = (
            f"{escape(error.name)} is known as {error.expected} ({error.path}, line {error.line}), not as {peer}"
        )
        raise
    except ValueError as error:
        raise UsageError(str(error)) from None
    name = Address.parse(where).endpoint if "://" in where else where
    output.result({"name": name, "peer": str(peer)}, f"known: {peer}  {name}")
    return ExitCode.OK


def forget(arguments: argparse.Namespace, output: Output) -> ExitCode:
    known = _opened(arguments)
    try:
        forgotten = trio.run(known.forget, arguments.who)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for entry in forgotten:
        output.result(_facts(entry), f"forgotten: {entry.peer}  {entry.name}")
    if not forgotten:
        output.note(f"Nothing is known of {arguments.who} in {known.path}.")
    return ExitCode.OK if forgotten else ExitCode.FAILED


def _opened(arguments: argparse.Namespace) -> KnownPeers:
    logging.getLogger("trishake").setLevel(logging.CRITICAL)  # what is wrong with the file is told here
    return KnownPeers(known_peers_path(arguments))


def _facts(entry: KnownPeer) -> dict[str, object]:
    return {"name": entry.name, "peer": str(entry.peer), "line": entry.line, "comment": entry.comment}
