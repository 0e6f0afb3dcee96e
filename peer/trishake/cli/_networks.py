"""`trishake network`: the files of private networks."""

from __future__ import annotations

import argparse
from pathlib import Path

import trio

from .._network import Network
from ._outcomes import ExitCode, UsageError
from ._output import Output, table


def new(arguments: argparse.Namespace, output: Output) -> ExitCode:
    try:
        network = Network.new(arguments.name)
        path: Path = arguments.file or Path(f"{arguments.name}.network")
        if not path.name:
            raise UsageError(f"{path} is a directory: name the file in it that is to be written")
        network.save(path)
    except ValueError as error:
        raise UsageError(str(error)) from None
    output.result({"path": str(path), "name": network.name}, str(path))
    output.note(
        f"Whoever has {path} is in the network {network.name}. Hand it to its peers as you would a password; "
        f"they say --network {path}."
    )
    return ExitCode.OK


def show(arguments: argparse.Namespace, output: Output) -> ExitCode:
    network = Network.load(arguments.file)
    facts = {"name": network.name, "keys": len(network.psks)}
    output.result(facts, table(facts))
    return ExitCode.OK


_NEXT = {
    "add": "When every peer has this file, say: trishake network rotate use {path}",
    "use": "When every peer has this file, say: trishake network rotate drop {path}",
    "drop": "Hand the file to every peer once more: the old keys are of no use to anybody then.",
}


def rotate(arguments: argparse.Namespace, output: Output) -> ExitCode:
    path: Path = arguments.file
    network = Network.load(path)
    try:
        match arguments.step:
            case "add":
                network = network.with_new_key()
            case "use":
                network = network.with_last_key_first()
            case _:
                network = network.with_first_key_only()
    except ValueError:
        raise UsageError(
            f"{path} has {len(network.psks)} of at most 4 keys: `add` one, then `use` it, then `drop` the others"
        ) from None
    trio.run(network.replace, path)
    output.result({"path": str(path), "name": network.name, "keys": len(network.psks)}, str(path))
    output.note(_NEXT[arguments.step].format(path=path))
    return ExitCode.OK


def network_of(arguments: argparse.Namespace) -> Network | None:
    """The one that the options name; None for the usual one."""
    if arguments.network is not None:
        return Network.load(arguments.network)
    if arguments.public_network is not None:
        try:
            return Network(arguments.public_network)
        except ValueError as error:
            raise UsageError(str(error)) from None
    return None
