"""A room of people, each connected to each: every line comes from its sender directly, who is proved by his key.

    python examples/chat.py listen                     prints an invite, and waits for the first
    python examples/chat.py dial 'tcp://…@host:port'   joins the room of whoever gave it

Who joins meets everybody: the one who was dialed names the others. In the room a line that begins with a slash
is a command, all else is said to everybody:

    /send PEER PATH    send a file; PEER is the beginning of a peer id
    /who               who is here, and your own invite
    /quit, Ctrl-D      leave, once the files that you send have gone out; Ctrl-C leaves at once

Exit codes: 0 it ended well, 2 bad usage, 3 no response, 4 rejected, 5 somebody else answered, 6 refused by us,
7 cut off before we were in the room, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from filetransfer import TransferError, receive_file, receive_offer, send_file
from terminal import Progress, Terminal, keyboard, lines
from trishake import (
    Address,
    AlertCode,
    BadFile,
    Decision,
    DialError,
    Identity,
    Introduction,
    InvalidAddress,
    InvalidPeerId,
    Limits,
    NoResponse,
    Peer,
    PeerId,
    Rejected,
    Role,
    Stream,
    StreamError,
    VerdictCode,
    WrongIdentity,
    anyone,
    escape,
    only,
    reject,
)

MOST_MEMBERS = 32
PATIENCE = 5
"""Seconds that another member has to introduce itself, to take a line, to say goodbye."""
COMMANDS = "/send PEER PATH sends a file, /who tells who is here, /quit leaves"

Lost = (trio.BrokenResourceError, trio.ClosedResourceError)
"""How a stream ends that is not ended by its other side's goodbye."""


@dataclass
class Member:
    """Somebody in the room. stream: for talking. invite: where it listens, if it says so."""

    stream: Stream
    invite: str | None
    sends: trio.Lock = field(default_factory=trio.Lock)
    """Held while it sends us a file: one at a time, more wait for their turn."""


class Room:
    """Who is here, and what is said. nursery: for what goes on while we are in the room.

    The protocol `room/1` is lines of text, on one stream between any two members, opened by the one who dialed.
    The first line of each side is invites: who dialed tells its own, who was dialed its own and those of all the
    others; every further line is said to the room. So of any two who join by the same member, the later one is
    told of the earlier one, and dials it. The end of one side's lines is its goodbye.
    """

    def __init__(self, peer: Peer, nursery: trio.Nursery, downloads: Path, largest_file: int) -> None:
        self.peer = peer
        self.nursery = nursery
        self.downloads = downloads
        self.largest_file = largest_file
        self.terminal = Terminal()
        self.invite = ""
        self.members: dict[PeerId, Member] = {}
        self.dialing: set[PeerId] = set()
        self.somebody_came = trio.Event()

    def tell(self, text: str) -> None:
        self.terminal.line(f"* {text}")

    # --- coming and going -------------------------------------------------------------------------------

    async def join(self, *invites: str) -> None:
        """Meet the first of these members that answers, and all that it names. Raises what came instead."""
        connection = await self.peer.dial(*invites)
        if connection.role is Role.INITIATOR:  # else we dialed each other at once, and its dial is kept
            await self.nursery.start(self.talk, await connection.open_stream("room/1"))

    async def talk(self, stream: Stream, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The life of a `room/1` stream, on both sides of it; started once its members are met."""
        async with stream:
            why = ""
            try:
                said = lines(stream)
                told = await self.introduce(stream, said)
                if stream.is_ours:  # a stranger who dials us does not send us dialing
                    await self.meet(told)
                task_status.started()
                why = await self.listen_to(stream, said)
            finally:
                self.part(stream, why)

    async def introduce(self, stream: Stream, said: AsyncIterator[str]) -> dict[PeerId, str]:
        """Exchange the first lines. Returns the invites that were told, by who is invited to."""
        with trio.move_on_after(PATIENCE):
            if stream.is_ours:
                await stream.send_all(f"{self.invite}\n".encode())
            told = invites_in(await anext(said, ""))
            known = [member.invite for member in self.members.values() if member.invite]
            if stream.peer not in self.members:
                self.tell(f"{stream.peer} is here")
            self.members[stream.peer] = Member(stream, told.pop(stream.peer, None))
            self.somebody_came.set()
            if not stream.is_ours:
                await stream.send_all(" ".join([self.invite, *known]).encode() + b"\n")
            return told
        raise trio.BrokenResourceError(f"{stream.peer} did not introduce itself within {PATIENCE} s")

    async def meet(self, told: dict[PeerId, str]) -> None:
        """Join all these that we do not know yet."""
        async with trio.open_nursery() as nursery:
            for id_, invite in told.items():
                known = id_ == self.peer.id or id_ in self.dialing or self.peer.connection(id_) is not None
                if not known and len(self.members) + len(self.dialing) < MOST_MEMBERS:
                    self.dialing.add(id_)
                    nursery.start_soon(self.meet_one, id_, invite)

    async def meet_one(self, id_: PeerId, invite: str, attempts: int = 3) -> None:
        try:
            await self.join(invite)
        except (DialError, StreamError, *Lost) as error:
            match error:
                case Rejected(reason=VerdictCode.DUPLICATE):  # it dialed us meanwhile
                    pass
                case Rejected(reason=AlertCode.BUSY, retry_after=seconds) if attempts > 1:
                    await trio.sleep(min(seconds or 1, PATIENCE))
                    await self.meet_one(id_, invite, attempts - 1)
                case _:
                    self.tell(f"{id_} is not met: {error}")
        finally:
            self.dialing.discard(id_)

    async def listen_to(self, stream: Stream, said: AsyncIterator[str]) -> str:
        """Show what is said, named by who is at the other end, until it leaves. Returns why, if it was lost."""
        try:
            async for line in said:
                self.terminal.line(f"{stream.peer.short} {escape(line)}")
        except Lost as error:
            return f": {error}"
        return ""

    def part(self, stream: Stream, why: str) -> None:
        member = self.members.get(stream.peer)
        if member and member.stream is stream and not self.nursery.cancel_scope.cancel_called:
            del self.members[stream.peer]
            self.tell(f"{stream.peer.short} has left{why}")

    async def leave(self) -> None:
        """Say goodbye; what the others have said until they hear it is still shown."""
        self.nursery.cancel_scope.deadline = trio.current_time() + PATIENCE
        goodbyes, self.members = self.members, {}
        for member in goodbyes.values():
            with suppress(*Lost):
                await member.stream.send_eof()

    # --- what we type -----------------------------------------------------------------------------------

    async def obey_keyboard(self) -> None:
        """Until we want to leave and our files have gone out."""
        async with trio.open_nursery() as files:
            async for line in lines(keyboard()):
                match line.strip().split(maxsplit=2):
                    case []:
                        pass
                    case ["/quit"]:
                        break
                    case ["/who"]:
                        self.tell(f"your invite: {self.invite}")
                        for id_, member in self.members.items():
                            self.tell(f"{id_} {member.stream.connection.address}")
                    case ["/send", who, path]:
                        if receiver := self.find(who):
                            files.start_soon(self.send, receiver, Path(path).expanduser())
                    case [command, *_] if command.startswith("/"):
                        self.tell(COMMANDS)
                    case _:
                        await self.say(line)
            if files.child_tasks:
                self.tell("you leave when your files have gone out; Ctrl-C leaves at once")

    async def say(self, line: str) -> None:
        async with trio.open_nursery() as nursery:
            for member in self.members.values():
                nursery.start_soon(self.say_to, member, line.encode() + b"\n")

    async def say_to(self, member: Member, line: bytes) -> None:
        """Who does not listen for long is no longer in the room: it shall not hold up the others."""
        with suppress(*Lost), trio.move_on_after(PATIENCE) as patience:
            await member.stream.send_all(line)
        if patience.cancelled_caught:
            self.tell(f"{member.stream.peer.short} has taken nothing for {PATIENCE} s")
            await trio.aclose_forcefully(member.stream)

    # --- files ------------------------------------------------------------------------------------------

    def find(self, who: str) -> Member | None:
        """The one member whose id begins so."""
        match [member for id_, member in self.members.items() if str(id_).startswith(who.rstrip("…"))]:
            case [member]:
                return member
            case found:
                self.tell(f"{len(found) or 'no'} peer ids begin with {who!r}: /who lists them")
                return None

    async def send(self, member: Member, path: Path) -> None:
        who = member.stream.peer.short
        try:
            size = path.stat().st_size
            async with await member.stream.connection.open_stream("file/1") as stream:
                with Progress(self.terminal, f"to {who}: {path.name}", size) as progress:
                    digest = await send_file(stream, path, progress)
        except (TransferError, OSError, StreamError, *Lost) as error:
            self.tell(f"{path} was not sent to {who}: {error}")
        else:
            self.tell(f"{path} was sent to {who}, SHA-256 {digest}")

    async def receive(self, stream: Stream) -> None:
        """The handler of `file/1`: from members only."""
        who = stream.peer.short
        if member := self.members.get(stream.peer):
            try:
                async with member.sends:
                    offer = await receive_offer(stream, self.largest_file)
                    with Progress(self.terminal, f"from {who}: {offer.name}", offer.size) as progress:
                        path, digest = await receive_file(stream, offer, self.downloads, progress)
            except (TransferError, OSError, *Lost) as error:
                self.tell(f"no file from {who}: {error}")
            else:
                self.tell(f"{path} came from {who}, SHA-256 {digest}")


def invites_in(line: str) -> dict[PeerId, str]:
    """The invites in a line, by who is invited to; what is none is passed over."""
    found: dict[PeerId, str] = {}
    for text in line.split()[:MOST_MEMBERS]:
        with suppress(InvalidAddress):
            address = Address.parse(text)
            if address.peer and address.scheme == "tcp":  # a member is a host, not a socket file of ours
                found[address.peer] = text
    return found


async def no_files(introduction: Introduction) -> Decision:
    return reject(text="no files are taken here")


async def enter(arguments: argparse.Namespace) -> None:
    trust = only(*arguments.only) if arguments.only else anyone
    limits = Limits(connections=MOST_MEMBERS)
    identity = Identity.load_or_create(arguments.identity) if arguments.identity else Identity.generate()
    async with Peer(identity, trust=trust, limits=limits) as peer, trio.open_nursery() as nursery:
        room = Room(peer, nursery, arguments.downloads, arguments.max_file)
        peer.handle("room/1", room.talk)
        peer.handle("file/1", room.receive, trust=no_files if arguments.no_files else None)
        room.invite = (await peer.listen(arguments.address)).invite
        if arguments.invites:
            room.tell(f"you are {peer.id}")
            await room.join(*arguments.invites)
        room.tell(f"invite: {room.invite}")
        await room.somebody_came.wait()
        await room.obey_keyboard()
        await room.leave()


def exit_code(error: BaseException) -> int:
    match error:
        case InvalidAddress() | InvalidPeerId() | BadFile() | OSError():
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
    commands = parser.add_subparsers(required=True)
    listening = commands.add_parser("listen", help="print an invite, and wait for who dials it")
    dialing = commands.add_parser("dial", help="join the room of the one who gave you the invite")
    dialing.add_argument("invites", metavar="INVITE", nargs="+", help="of a member; more, if it may have left")
    anywhere = "tcp://127.0.0.1:0"
    listening.add_argument("address", metavar="ADDRESS", nargs="?", default=anywhere)
    listening.set_defaults(invites=[])
    dialing.add_argument("--listen", metavar="ADDRESS", dest="address", default=anywhere)
    for command in (listening, dialing):
        command.add_argument(
            "--identity", metavar="FILE", help="be the same as last time; made if it is not there"
        )
        command.add_argument("--only", metavar="PEER_ID", action="append", help="take nobody else")
        command.add_argument("--downloads", metavar="DIR", type=Path, default=Path("downloads"))
        command.add_argument("--max-file", metavar="BYTES", type=int, default=2**30)
        command.add_argument("--no-files", action="store_true", help="take no files")
    code = 0
    try:
        trio.run(enter, parser.parse_args())
    except* (DialError, StreamError, InvalidAddress, InvalidPeerId, BadFile, OSError, *Lost) as group:
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
