"""`trishake keygen`, `id`, `verify`: who we are, and in which forms that is told."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import trio

from trishake_protocol import PeerId, verification_code

from .._addresses import Address
from .._errors import BadFile
from .._files import make_directory
from .._keys import Identity
from .._qr import qr_code
from .._remote_signer import RemoteSigner
from .._signer import Signer
from .._ssh_agent import SshAgent
from ._home import home
from ._outcomes import ExitCode, UsageError
from ._output import Output, table

_LONGEST_LINE = 8192
"""Bytes of a passphrase, or of a public key, in a file."""


def keygen(arguments: argparse.Namespace, output: Output) -> ExitCode:
    path: Path = arguments.file or home() / "identity"
    if not path.name:
        raise UsageError(f"{path} is a directory: name the file in it that is to be written")
    public = path.with_name(path.name + ".pub")
    if arguments.passphrase and arguments.passphrase_file:
        raise UsageError("-p asks for a passphrase, and --passphrase-file names it: say one of the two")
    for taken in (path, public):
        if taken.exists():
            raise FileExistsError(
                f"{taken} is there already, and is not overwritten; name another file, or move it"
            )
    password = _new_passphrase() if arguments.passphrase else _first_line(arguments.passphrase_file)
    if password == "":
        raise UsageError(f"the passphrase in {arguments.passphrase_file} is empty")
    identity = Identity.generate()
    try:
        line = identity.id.ssh(arguments.comment)
    except ValueError as error:
        raise UsageError(str(error)) from None
    make_directory(path.parent)
    identity.save(path, password=password, format=arguments.format)
    public.write_text(line + "\n", encoding="utf-8")
    text = f"Your identity is in {path}: keep it to yourself. {public} is for all others."
    output.note(text + ("" if password else " It is not encrypted: -p asks for a passphrase."))
    output.result({"path": str(path), **_facts(identity.id)}, _shown(identity.id))
    return ExitCode.OK


def show(arguments: argparse.Namespace, output: Output) -> ExitCode:
    peer = read_peer(arguments.peer) if arguments.peer else trio.run(open_identity, arguments, output).id
    output.result(_facts(peer), _shown(peer))
    if arguments.qr:
        output.picture(qr_code(str(peer)))
    return ExitCode.OK


def verify(arguments: argparse.Namespace, output: Output) -> ExitCode:
    a = read_peer(arguments.a)
    b = read_peer(arguments.b) if arguments.b else trio.run(open_identity, arguments, output).id
    if a == b:
        raise UsageError(f"{a} is both of them: what is compared are two people's identities")
    code = verification_code(a, b)
    output.result({"a": str(a), "b": str(b), "code": code}, code)
    output.note("The other side sees the same digits if nobody is in between.")
    return ExitCode.OK


async def open_identity(arguments: argparse.Namespace, output: Output) -> Identity | Signer:
    """The one that the options name, or the user's own, which is made if there is none yet."""
    if arguments.agent:
        return await SshAgent.connect(None if arguments.agent_key is None else read_peer(arguments.agent_key))
    if arguments.agent_key is not None:
        raise UsageError("--agent-key says which key of an ssh-agent is meant: say --agent too")
    if arguments.signer is not None:
        return await RemoteSigner.connect(arguments.signer)
    return load_identity(arguments, output)


def load_identity(arguments: argparse.Namespace, output: Output) -> Identity:
    path: Path = arguments.identity or home() / "identity"
    password = passphrase_of(arguments.passphrase_file, path)
    if arguments.identity is None and not path.exists():
        made = Identity.load_or_create(path)
        output.note(f"You had no identity yet: a new one is in {path}.")
        return made
    try:
        return Identity.load(path, password=password)
    except FileNotFoundError:
        raise BadFile(
            path, "there is no such file", f"Check the path, or make one: trishake keygen {path}"
        ) from None


@cache  # workers load the same key again, and nobody is to type twice
def passphrase_of(file: str | None, path: Path) -> str | Callable[[], str] | None:
    """A passphrase for the key at path, asked for at a terminal; None where there is no way to have one."""
    if file is None and sys.stdin.isatty():
        return cache(partial(_asked, f"Passphrase of {path}: "))
    return _first_line(file)


def read_peer(text: str) -> PeerId:
    """The peer that a text names: its id in any form, an invite, or a file that ssh-keygen calls .pub."""
    if "://" in text:
        peer = Address.parse(text).peer
        if peer is None:
            raise UsageError(f"{text!r} names no peer: an invite does, scheme://<peer id>@…")
        return peer
    if text.endswith(".pub"):
        return PeerId.parse(_first_line(text) or "")
    return PeerId.parse(text.strip())


def _facts(peer: PeerId) -> dict[str, object]:
    return {
        "id": str(peer),
        "short": peer.short,
        "ssh": peer.ssh(),
        "did": peer.did,
        "libp2p": peer.libp2p,
        "fingerprint": peer.fingerprint,
    }


def _shown(peer: PeerId) -> str:
    # The ssh line is longer than a terminal of 80 columns, and is to be copied whole: it has a line of its own.
    rows = {"peer id": str(peer), "did": peer.did, "libp2p": peer.libp2p, "ssh": peer.fingerprint}
    return f"{table(rows)}\n{peer.ssh()}\n{peer.picture()}"


def _new_passphrase() -> str:
    if not sys.stdin.isatty():
        raise UsageError("-p asks for a passphrase, and this is no terminal: use --passphrase-file")
    passphrase = _asked("New passphrase: ")
    if not passphrase:
        raise UsageError("an empty passphrase: leave -p out, if none is wanted")
    if _asked("The same again: ") != passphrase:
        raise UsageError("the two are not the same")
    return passphrase


def _asked(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError:
        print(file=sys.stderr)
        return ""


def _first_line(file: str | None) -> str | None:
    """Without its end of line. `-` is stdin."""
    if file is None:
        return None
    if file == "-":
        line = sys.stdin.buffer.readline(_LONGEST_LINE)
    else:
        with open(file, "rb") as lines:
            line = lines.readline(_LONGEST_LINE)
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        pass  # the error would carry the line, which may be a passphrase
    raise BadFile(Path(file), "its first line is no UTF-8", "Is it the right file?")
