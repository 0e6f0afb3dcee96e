"""What each command takes, and which function of which module runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from .._version import VERSION
from ._outcomes import MEANINGS, ExitCode
from ._output import Output

Command = Callable[[argparse.Namespace, Output], ExitCode]

_DESCRIPTION: Final = "Peers that know each other before the first message."

_FILES: Final = """files:
  Your identity and the peers that you know are in TRISHAKE_HOME, by default
  ~/.config/trishake: `identity` and `known_peers`.
"""


def parse_arguments() -> argparse.Namespace:
    """Those of this process. Exits with 2 where they make no sense, with 0 after --help."""
    return _parser().parse_args()


def _exit_codes() -> str:
    return "exit codes:\n" + "".join(f"  {code:>3}  {meaning}\n" for code, meaning in MEANINGS.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trishake",
        description=_DESCRIPTION,
        epilog=_FILES + "\n" + _exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trishake {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_keygen(commands)
    _add_id(commands)
    _add_verify(commands)
    _add_network(commands)
    _add_listen(commands)
    _add_dial(commands)
    _add_ping(commands)
    _add_doctor(commands)
    _add_known(commands)
    demo = _add(commands, "demo", "._demo:run", "two peers in two processes greet each other, step by step")
    demo.add_argument("--svg", metavar="FILE", type=Path, help="also draw it, with the times of both sides")
    return parser


def _add(commands: Any, name: str, run: str, text: str, more: str = "") -> argparse.ArgumentParser:
    """run: the module and the function; it is loaded when it is to run."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of words")
    parser.set_defaults(run=tuple(run.split(":")))
    return parser


# --- who we are -----------------------------------------------------------------------------------------


def _add_keygen(commands: Any) -> None:
    parser = _add(commands, "keygen", "._identities:keygen", "make an identity, and write its key to a file")
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="by default, your identity's")
    parser.add_argument("-p", "--passphrase", action="store_true", help="encrypt it; the passphrase is asked for")
    parser.add_argument("--passphrase-file", metavar="FILE", help="encrypt it; the passphrase is there (-: stdin)")
    parser.add_argument("--format", choices=("openssh", "pkcs8"), default="openssh")
    parser.add_argument("-C", "--comment", default="", help="for the public half, which is written to FILE.pub")


def _add_id(commands: Any) -> None:
    parser = _add(
        commands,
        "id",
        "._identities:show",
        "show an identity in each of its forms",
        "\nWithout PEER it is your own.",
    )
    parser.add_argument(
        "peer",
        metavar="PEER",
        nargs="?",
        help="peer id, invite, 'ssh-ed25519 AAAA…', did:key, libp2p peer id, or a .pub file",
    )
    parser.add_argument("--qr", action="store_true", help="also as a QR code (pip install 'trishake[qr]')")
    _add_identity(parser)


def _add_verify(commands: Any) -> None:
    parser = _add(
        commands,
        "verify",
        "._identities:verify",
        "show the digits that two people compare",
        "\nBoth sides see the same thirty digits if, and only if, each has the other's true"
        "\nidentity. Read them to each other over the telephone, or face to face.",
    )
    parser.add_argument("a", metavar="A", help="an identity, as `trishake id` takes it")
    parser.add_argument("b", metavar="B", nargs="?", help="the other one; by default your own")
    _add_identity(parser)


def _add_identity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("your identity")
    which = group.add_mutually_exclusive_group()
    which.add_argument("-i", "--identity", metavar="FILE", type=Path, help="a key file, instead of your own")
    which.add_argument("--agent", action="store_true", help="a key that ssh-agent holds (trishake[ssh])")
    which.add_argument("--signer", metavar="SOCKET", help="a process that holds the key, at its Unix socket")
    group.add_argument("--agent-key", metavar="PEER", help="which one, where it holds several")
    group.add_argument("--passphrase-file", metavar="FILE", help="with the passphrase of the key file (-: stdin)")


# --- private networks -----------------------------------------------------------------------------------


def _add_network(commands: Any) -> None:
    network = commands.add_parser(
        "network", help="make and rotate the key of a private network", description="Private networks."
    )
    commands = network.add_subparsers(required=True, metavar="COMMAND")
    new = _add(
        commands,
        "new",
        "._networks:new",
        "make a private network: a file with its name and a fresh key",
        "\nWhoever has the file is in the network. Hand it over as you would a password.",
    )
    new.add_argument("name", metavar="NAME")
    new.add_argument("file", metavar="FILE", nargs="?", type=Path, help="by default NAME.network")
    show = _add(commands, "show", "._networks:show", "show a network's name and how many keys it has")
    show.add_argument("file", metavar="FILE", type=Path)
    rotate = _add(
        commands,
        "rotate",
        "._networks:rotate",
        "replace a network's key, in three steps",
        "\nEach step changes the file; hand it to every peer before you take the next."
        "\n  add   a fresh key, which all take and nobody uses yet"
        "\n  use   the newest key is the one that all use; the old ones are still taken"
        "\n  drop  the old keys",
    )
    rotate.add_argument("step", choices=("add", "use", "drop"))
    rotate.add_argument("file", metavar="FILE", type=Path)


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network").add_mutually_exclusive_group()
    group.add_argument("--network", metavar="FILE", type=Path, help="a private one, of `trishake network new`")
    group.add_argument("--public-network", metavar="NAME", help="a public one; `trishake` by default")


# --- meeting others -------------------------------------------------------------------------------------


def _add_listen(commands: Any) -> None:
    parser = _add(
        commands,
        "listen",
        "._listening:listen",
        "listen, show the invite, and who comes",
        "\nUntil Ctrl-C or SIGTERM. Everybody is welcome who is in the network, unless"
        "\nyou say who. Where several options say who is welcome, each is enough."
        "\nTo be dialed from other machines: trishake listen tcp://0.0.0.0:PORT",
    )
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        default="tcp://127.0.0.1:0",
        help="tcp://host:port, unix:///path, …; %(default)s by default",
    )
    welcome = parser.add_argument_group("who is welcome")
    welcome.add_argument("--only", metavar="PEER", action="append", default=[], help="this peer; again for more")
    welcome.add_argument(
        "--authorized-keys", metavar="FILE", type=Path, help="those in a file of OpenSSH's format"
    )
    welcome.add_argument("--known", metavar="FILE", type=Path, help="those in a file of known peers")
    welcome.add_argument("--block", metavar="PEER", action="append", default=[], help="not this one, in any case")
    parser.add_argument("--qr", action="store_true", help="show the invite as a QR code (trishake[qr])")
    parser.add_argument("--once", action="store_true", help="end when the first connection has ended")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes that share the port")
    _add_identity(parser)
    _add_where(parser)


def _add_dial(commands: Any) -> None:
    parser = _add(
        commands,
        "dial",
        "._dialing:dial",
        "greet a peer, and say what came of it",
        "\n\n" + _exit_codes(),
    )
    parser.add_argument(
        "--explain", action="store_true", help="also each step with its time, a picture, and what went wrong"
    )
    parser.add_argument("--svg", metavar="FILE", type=Path, help="write the picture to a file, however it ends")
    _add_dialed(parser)


def _add_ping(commands: Any) -> None:
    parser = _add(
        commands, "ping", "._dialing:ping", "greet a peer, and time its answers", "\nExit codes: as of `dial`."
    )
    _add_dialed(parser)
    parser.add_argument("-c", "--count", metavar="N", type=int, default=4, help="pings; %(default)s by default")
    parser.add_argument(
        "--interval", metavar="SECONDS", type=float, default=1.0, help="between two; %(default)s by default"
    )


def _add_doctor(commands: Any) -> None:
    parser = _add(
        commands,
        "doctor",
        "._doctor:doctor",
        "find out what keeps you from a peer",
        "\nIt checks, one after the other: the invite, its name, the port at each address,"
        "\nwhat is spoken there, in which versions and suites, who is there, whether it"
        "\nwants us, its clock, and how fast it is. It asks nobody and records nothing:"
        "\nwith `--trust ask`, who is neither named nor known is not told who we are."
        "\nThe first thing that is wrong is said at the end. Exit codes: as of `dial`.",
    )
    _add_dialed(
        parser, "to connect, 5 by default, and to greet, 10; twelve times that, or 60, for all checks together"
    )


def _add_dialed(
    parser: argparse.ArgumentParser, timeout: str = "to connect, and again to greet; 10 by default"
) -> None:
    """timeout: what it is for."""
    parser.add_argument("invite", metavar="INVITE", help="scheme://<peer id>@host:port, or without the id")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, help=timeout)
    trust = parser.add_argument_group("who may answer")
    trust.add_argument(
        "--trust",
        choices=("ask", "accept-new", "strict", "anyone"),
        default="ask",
        help="ask: whom the invite names, and without a name who is known there, or you say yes to; accept-new: "
        "who is known there, or nobody yet; strict: who is known there; anyone. Default: %(default)s",
    )
    trust.add_argument("--known", metavar="FILE", type=Path, help="the file of known peers")
    _add_identity(parser)
    _add_where(parser)


# --- whom we know ---------------------------------------------------------------------------------------


def _add_known(commands: Any) -> None:
    known = commands.add_parser(
        "known", help="list, add and forget the peers that you know", description="The file of known peers."
    )
    commands = known.add_subparsers(required=True, metavar="COMMAND")
    listing = _add(commands, "list", "._known:list_known", "list the known peers, and where they answered")
    adding = _add(
        commands,
        "add",
        "._known:add",
        "record who is to answer to a name",
        "\nThe name is as it will be dialed. `*` is for a peer that dials you, wherever it is.",
    )
    adding.add_argument("where", metavar="WHERE", help="an invite; or host:port, an address, or '*'")
    adding.add_argument("peer", metavar="PEER", nargs="?", help="who, in any form; not needed with an invite")
    forgetting = _add(commands, "forget", "._known:forget", "forget who answered to a name, or a peer everywhere")
    forgetting.add_argument("who", metavar="WHO", help="host:port, an address, an invite, or a peer id")
    for parser in (listing, adding, forgetting):
        parser.add_argument("--known", metavar="FILE", type=Path, help="another file than the usual one")
