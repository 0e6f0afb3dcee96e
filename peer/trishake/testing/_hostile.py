"""Hostile peers: what one is, what it has in its hands, and whether a right peer withstands it.

HostilePeer                     silent, impostor, …: a script, and what a right peer makes of it
attack, serving                 let it loose on who listens, or be there for who dials
assert_listener_withstands      a right listener answers as it should, and is there for others afterwards
assert_dialer_withstands        the same of who dials it
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from trishake_protocol import (
    AlertCode,
    Identity,
    Network,
    PeerId,
    ProtocolError,
    Role,
    Suite,
    VerdictCode,
    code_name,
)
from trishake_protocol.limits import FRAME_HEADER, PREFACE_HEADER
from trishake_protocol.messages import Alert, Close, FrameType, RecordType
from trishake_protocol.noise import HandshakeError
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK, SUITES

from .._addresses import Address
from .._errors import DialError, Rejected
from .._limits import Limits
from .._memory import MemoryStream
from .._peer import Peer, transport_for
from .._transport import Transport, abandon, open_stream
from .._trust import anyone
from ._accounts import account_of_failure
from ._assertions import Dialed, invite_to, name_of, wait_until
from ._by_hand import ByHand, read_to_end
from ._link import reset_stream
from ._virtual_network import Names, NetworkPeer, VirtualNetwork, identity_of, names_of

Script = Callable[["Scene"], Awaitable[None]]

_PATIENCE: Final = 120.0
"""Seconds after which a hostile peer that nobody hangs up on gives up."""

MALLORY: Final = "mallory"
"""Who hostile peers are, among the identities of the kit."""

VICTIM: Final = "victim"
"""Whom they have stolen from, and whom they claim to be."""

HONEST: Final = "honest"
"""Who comes afterwards."""

_UNWELCOME: Final = {"IDENTITY_UNKNOWN", "IDENTITY_BLOCKED", "POLICY"}
"""What a listener says whose policy has no place for strangers."""


@dataclass(frozen=True)
class Right:
    """What a right peer makes of a hostile one.

    counted: how its greeting ends at the right peer, as `DialError.counted_as` and `Statistics` have it, or
    `accepted`; several where the transport decides. told: the name of the code that the hostile one is told; None
    where it is told nothing. ended: where it was accepted, how the connection ends at the right peer, as
    `Statistics.ended` has it. closed: the code of the CLOSE that it is told then; None where it does not listen.
    says: what the dialer's error says.
    """

    counted: str | tuple[str, ...]
    told: str | None = None
    ended: str | None = None
    closed: str | None = None
    says: str = ""

    @property
    def counts(self) -> tuple[str, ...]:
        return (self.counted,) if isinstance(self.counted, str) else self.counted


class HostilePeer:
    """A peer that breaks the rules in one way. Its docstring says which, and what a right peer answers.

    script: what it does, whichever side it is on. listener, dialer: what is right, of who is dialed by it and of
    who dials it; None where it has no such side. poses: whether it is dialed under the victim's id.
    """

    def __init__(
        self, script: Script, *, listener: Right | None = None, dialer: Right | None = None, poses: bool = False
    ) -> None:
        self.script: Final = script
        self.name: Final = getattr(script, "__name__", "hostile")
        self.__name__ = self.name  # by which pytest calls it, as a parameter
        self.__doc__ = script.__doc__
        self.listener: Final = listener
        self.dialer: Final = dialer
        self.poses: Final = poses

    def __repr__(self) -> str:
        return f"<HostilePeer {self.name}>"


def hostile_peer(
    *, listener: Right | None = None, dialer: Right | None = None, poses: bool = False
) -> Callable[[Script], HostilePeer]:
    """Make a hostile peer of a script, as a decorator; for the arguments see `HostilePeer`."""

    def make(script: Script) -> HostilePeer:
        return HostilePeer(script, listener=listener, dialer=dialer, poses=poses)

    return make


@dataclass
class Answer:
    """What the right peer has said. told: of the greeting, by its name: a refusal, or READY. closed: the code of
    its CLOSE, by its name. ended: whether its stream has ended, cleanly or not. named_itself: whether a dialer has
    sent ACK, the first thing that names it. awaited: whether the script has come to where it waits for the end of
    that stream. over: whether nothing more is heard. obstacle: why the script has not come to its end.
    """

    told: str | None = None
    closed: str | None = None
    ended: bool = False
    named_itself: bool = False
    awaited: bool = False
    over: bool = False
    obstacle: str | None = None


class Scene:
    """What a hostile peer has in its hands.

    stream: to the right peer; all that comes from there is remembered. role: its own; INITIATOR: it has dialed.
    identity: its own. victim: somebody else's, of whom it has stolen what its docstring says, and nothing more.
    right: who the right peer is; None where a dialer has not said so yet. network, suite: what is spoken there;
    where it was dialed, the dialer has the choice. suites: ids of those that the right peer has enabled, best
    first, where it was dialed. seed: for all that is random.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        role: Role,
        right: PeerId | None,
        network: Network,
        suite: Suite | None,
        seed: random.Random,
        again: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
        suites: tuple[int, ...] = (),
    ) -> None:
        self.stream: Final = Overheard(stream)
        self.role: Final = role
        self.identity: Final = identity_of(MALLORY)
        self.victim: Final = identity_of(VICTIM)
        self.right: Final = right
        self.network: Final = network
        self.suite: Final = suite
        self.suites: Final = suites
        self.seed: Final = seed
        self.answer: Final = Answer()
        self._again = again

    def hand(self, identity: Identity | None = None, **options: Any) -> ByHand:
        """Our end of the greeting, step by step. options: of `ByHand`, `static_key` say."""
        options = {"suite": self.suite, "network": self.network, **options}
        return ByHand(self.stream, identity or self.identity, **options)

    @property
    def has_another(self) -> bool:
        """Whether the right peer can be dialed: it listens, and we know where."""
        return self._again is not None

    async def another(self) -> trio.abc.Stream:
        """One more connection to the right peer, where it listens."""
        if self._again is None:
            raise TypeError("who was dialed has no way to the dialer, which does not listen")
        return await self._again()

    async def hear_the_end(self) -> None:
        """Wait until the right peer has hung up; what it says in clear before that is its answer."""
        self.answer.awaited = True
        await read_to_end(self.stream)

    async def hear_verdict(self, hand: ByHand) -> None:
        """The listener's verdict is its answer; behind any but READY it hangs up."""
        verdict = await hand.hear_verdict()
        self.answer.told = code_name(verdict.code)
        if verdict.code is not VerdictCode.READY:
            await self.hear_the_end()

    async def hear_close(self, hand: ByHand) -> None:
        """Read on until the right peer says CLOSE; its code is part of the answer."""
        while True:
            type_, content = await hand.hear_record()
            if type_ is RecordType.CLOSE:
                self.answer.closed = code_name(Close.decode(content).code)
                return

    async def play(self, peer: HostilePeer) -> None:
        """Run the script to its end, or until the right peer hangs up."""
        try:
            with trio.fail_after(_PATIENCE):
                await peer.script(self)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.answer.obstacle = f"the stream broke: {error}"
        except trio.TooSlowError:
            self.answer.obstacle = f"nobody has hung up within {_PATIENCE:g} s"
        except (AssertionError, ProtocolError, HandshakeError) as error:
            self.answer.obstacle = str(error)
        finally:
            self.answer.ended = self.stream.ended
            frames = list(_frames_in(self.stream.heard, preface=self.role is Role.RESPONDER))
            self.answer.named_itself = self.role is Role.RESPONDER and any(
                type_ == FrameType.ACK for type_, _ in frames
            )
            if self.answer.told is None:
                self.answer.told = next(
                    (_code_of(body) for type_, body in frames if type_ == FrameType.ALERT), None
                )
            self.answer.over = True
            await abandon(self.stream)


class Overheard(trio.abc.HalfCloseableStream):
    """A stream that remembers what came. heard: all of it. ended: whether its end came, or it broke."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.transport_stream: Final = stream
        self.heard = b""
        self.ended = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.transport_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.transport_stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Nothing where the transport cannot half-close."""
        if isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
            await self.transport_stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = bytes(await self.transport_stream.receive_some(max_bytes))
        except trio.BrokenResourceError:
            self.ended = True
            raise
        self.heard += data
        self.ended = not data
        return data

    def reset(self) -> None:
        """As a crash does; of a transport that knows no such thing it is a plain end."""
        if isinstance(self.transport_stream, MemoryStream | trio.SocketStream):
            reset_stream(self.transport_stream)

    async def aclose(self) -> None:
        await self.transport_stream.aclose()


async def attack(
    peer: HostilePeer, listener: Dialed, *, transport: Transport | None = None, seed: int = 0
) -> Answer:
    """Dial who listens, and do there what this peer does. What it is answered.

    transport: for schemes of the application's own; a peer's own transport, by default, or that of its network.
    Raises NoResponse where nobody can be reached.
    """
    address = Address.parse(await invite_to(listener))
    way = transport or _way_to(listener, address)
    network, suite, suites = _spoken_by(listener)
    chance = random.Random(seed)
    unreachable: DialError
    async with trio.open_nursery() as nursery:

        async def connect() -> trio.abc.Stream:
            return await open_stream(address, way, Limits(), nursery)

        try:
            stream = await connect()
        except DialError as error:
            unreachable = error  # it comes out alone, in no group
        else:
            scene = Scene(stream, Role.INITIATOR, address.peer, network, suite, chance, connect, suites)
            await scene.play(peer)
            nursery.cancel_scope.cancel()
            return scene.answer
    raise unreachable


@asynccontextmanager
async def serving(
    peer: HostilePeer,
    address: Address | str,
    *,
    transport: Transport | None = None,
    network: Network | None = None,
    back: Dialed | None = None,
    seed: int = 0,
) -> AsyncGenerator[Served]:
    """Be there for dialers, as this peer is, while the block runs; its `invite` is what they dial.

    address: where to listen, `tcp://127.0.0.1:0` say. network: what dialers speak. back: where the dialer listens
    itself, if it does. Raises OSError.
    """
    async with trio.open_nursery() as nursery:
        where = Address.parse(address) if isinstance(address, str) else address
        way = transport or transport_for(where.scheme)
        (bound, *_) = await way.listen(where, nursery)
        served = Served(bound.address.with_peer(identity_of(VICTIM if peer.poses else MALLORY).id))

        async def connect(dialer: Dialed) -> trio.abc.Stream:
            there = Address.parse(await invite_to(dialer))
            return await open_stream(there, transport or transport_for(there.scheme), Limits(), nursery)

        again = None if back is None else partial(connect, back)

        async def welcome(stream: trio.abc.Stream, number: int) -> None:
            chance = random.Random(f"{seed} {number}")
            scene = Scene(stream, Role.RESPONDER, None, network or Network(), None, chance, again)
            served.answers.append(scene.answer)
            await scene.play(peer)

        async def accept() -> None:
            while True:
                nursery.start_soon(welcome, await bound.listener.accept(), len(served.answers))

        nursery.start_soon(accept)
        try:
            yield served
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(bound.listener)


class Served:
    """Where a hostile peer is, and what those have said who came. invite: what to dial."""

    def __init__(self, address: Address) -> None:
        self.invite: Final = str(address)
        self.answers: Final[list[Answer]] = []


class HostilePeers:
    """The fixture `hostile`: hostile peers in the network of a test. nursery: of those that are dialed."""

    def __init__(self, network: VirtualNetwork, nursery: trio.Nursery) -> None:
        self._network = network
        self._nursery = nursery

    async def __call__(self, peer: HostilePeer, name: str | None = None) -> Served:
        """Have it listen, at `mem://` and its name, until the test ends; `.invite` is what to dial.

        name: another one.
        """
        served: Served = await self._nursery.start(self._serve, peer, name or peer.name)
        return served

    async def _serve(self, peer: HostilePeer, name: str, *, task_status: trio.TaskStatus[Served]) -> None:
        way = self._network.transport(name)
        async with serving(peer, f"mem://{name}", transport=way, seed=self._network.seed) as served:
            task_status.started(served)
            await trio.sleep_forever()

    async def attack(self, peer: HostilePeer, listener: Dialed) -> Answer:
        """Have it dial who listens in the network, or anywhere else. What it is answered."""
        invite = await invite_to(listener)
        way = self._network.transport(MALLORY) if Address.parse(invite).scheme == "mem" else None
        return await attack(peer, listener, transport=way, seed=self._network.seed)


async def assert_listener_withstands(listener: Peer, peer: HostilePeer, *, seed: int = 0) -> Answer:
    """The listener answers this hostile peer as a right one does, and is there for others afterwards. The answer.

    It need not welcome those others: a verdict of whatever kind will do. Nor need it welcome the hostile one,
    `identity_of("mallory")`; but what one does that is accepted first is then not tried at all. In a quiet network
    it need not say an ALERT. Raises AssertionError otherwise; NoResponse where nobody listens.
    """
    __tracebackhide__ = True  # pytest points at the line of the test
    if peer.listener is None:
        raise ValueError(f"{peer.name} dials nobody: see assert_dialer_withstands")
    right = peer.listener
    who = name_of(listener)
    before = _tally(listener)
    answer = await attack(peer, listener, seed=seed)
    if "accepted" in right.counts and answer.told in _UNWELCOME:
        right = Right(answer.told, told=answer.told)
    silent = answer.told is None and listener.network.quiet and right.told in AlertCode.__members__
    if answer.told != right.told and not silent:
        said = f" ({answer.obstacle})" if answer.obstacle else ""
        raise AssertionError(f"{who} told {peer.name} {answer.told}, not {right.told}{said}")
    _assert_closed(who, peer, right, answer)
    _assert_hung_up(who, peer, answer)
    await wait_until(lambda: not any(one.greetings for one in listener.listeners))
    if not await wait_until(lambda: bool((_tally(listener) - before).keys() & right.counts)):
        found = dict(_tally(listener) - before)
        raise AssertionError(f"{who} was to count {peer.name} as {' or '.join(right.counts)}, and counted {found}")
    if right.ended is not None and not await wait_until(
        lambda: bool((_tally(listener) - before)[f"ended: {right.ended}"])
    ):
        found = dict(_tally(listener) - before)
        raise AssertionError(f"{who} was to end the connection of {peer.name} with {right.ended}, and has {found}")
    await _assert_still_there(listener, peer)
    return answer


async def assert_dialer_withstands(dialer: Peer, peer: HostilePeer, *, seed: int = 0) -> Answer:
    """The dialer takes this hostile peer for what it is, as a right one does. What the dialer has said.

    Its policy is not asked: whoever proves an identity would be welcome. Raises AssertionError otherwise.
    """
    __tracebackhide__ = True
    if peer.dialer is None:
        raise ValueError(f"{peer.name} answers nobody: see assert_listener_withstands")
    right = peer.dialer
    where, way = ("tcp://127.0.0.1:0", None)
    if (names := names_of(dialer)) is not None:
        where, way = f"mem://{peer.name}", names.of(peer.name)
    if isinstance(dialer, NetworkPeer):
        await dialer.ready()
    failure: AssertionError
    back = dialer if dialer.listeners else None
    async with serving(peer, where, transport=way, network=dialer.network, back=back, seed=seed) as served:
        try:
            return await _dialed_by(dialer, peer, right, served)
        except AssertionError as error:
            failure = error  # it comes out alone, in no group
    raise failure


async def _dialed_by(dialer: Peer, peer: HostilePeer, right: Right, served: Served) -> Answer:
    """What the dialer has said to it. Raises AssertionError where that, or what it makes of it, is not right."""
    who = name_of(dialer)
    before = dialer.connections
    came_of_it = "accepted"
    try:
        connection = await dialer.dial(served.invite, trust=anyone)
    except DialError as error:
        came_of_it = account_of_failure(error, who, peer.name)
        if error.counted_as not in right.counts:
            raise AssertionError(
                f"{who} was to count {peer.name} as {' or '.join(right.counts)}; {came_of_it}\n\n{error.explain()}"
            ) from error
        if right.says not in str(error):
            raise AssertionError(f"{who} was to name {right.says}, and says: {error}") from error
    else:
        if "accepted" not in right.counts:
            await connection.aclose(finish=0)
            raise AssertionError(
                f"{who} has accepted {peer.name}, and was to count it as {' or '.join(right.counts)}"
            )
        closed = await connection.closed()
        ended = "cut" if closed.code is None else code_name(closed.code)
        if ended != right.ended:
            expected = f"the connection of {who} with {peer.name} was to end with {right.ended}"
            raise AssertionError(f"{expected}, and it has ended with {ended}: {closed}")
    if not served.answers:
        raise AssertionError(f"{who} never came to {peer.name}, and its dial has led elsewhere: {came_of_it}")
    await wait_until(lambda: all(answer.over or answer.ended for answer in served.answers))
    for one in served.answers:
        _assert_hung_up(who, peer, one)
    answer = served.answers[0]
    if answer.told != right.told:
        raise AssertionError(f"{who} told {peer.name} {answer.told}, not {right.told}")
    _assert_closed(who, peer, right, answer)
    if right.told == AlertCode.ABORTED.name and any(answer.named_itself for answer in served.answers):
        raise AssertionError(f"{who} has named itself to {peer.name}, and was to say {right.told} before that")
    if left := [one for one in dialer.connections if one.peer in _claimed(dialer) and one not in before]:
        raise AssertionError(f"{who} still has {left}")
    return answer


def _claimed(dialer: Peer) -> set[PeerId]:
    """Under whose ids a hostile peer may have been taken in; what else the dialer is connected with is its own."""
    return {identity_of(MALLORY).id, identity_of(VICTIM).id, dialer.id}


def _assert_closed(who: str, peer: HostilePeer, right: Right, answer: Answer) -> None:
    if right.closed is not None and answer.closed != right.closed:
        said = f" ({answer.obstacle})" if answer.obstacle else ""
        raise AssertionError(f"{who} said CLOSE {answer.closed} to {peer.name}, not {right.closed}{said}")


def _way_to(listener: Dialed, address: Address, name: str = MALLORY) -> Transport:
    """How who listens there is reached; in a network, under this name."""
    if not isinstance(listener, Peer):
        return transport_for(address.scheme)
    way = listener.transport(address)
    return way.of(name) if isinstance(way, Names) else way


def _assert_hung_up(who: str, peer: HostilePeer, answer: Answer) -> None:
    if answer.awaited and not answer.ended:
        raise AssertionError(f"{who} was to hang up on {peer.name}, and has not")


def _spoken_by(listener: Dialed) -> tuple[Network, Suite, tuple[int, ...]]:
    """The network of who listens, the suite that costs a hostile peer least, and all that are enabled there."""
    if not isinstance(listener, Peer):
        return Network(), CLASSICAL, Network().default_suites
    wanted = CLASSICAL_PSK if listener.network.private else CLASSICAL
    suites = tuple(listener.suites)
    return listener.network, wanted if wanted.id in suites else SUITES[suites[0]], suites


def _tally(listener: Peer) -> Counter[str]:
    """How greetings of others, and connections, have ended there."""
    statistics = listener.statistics()
    ended = {f"ended: {code}": count for code, count in statistics.ended.items()}
    return Counter({"accepted": statistics.accepted, **statistics.refused, **ended})


def _frames_in(heard: bytes, *, preface: bool) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each whole frame in what was heard. preface: whether that begins with one."""
    position = 0
    if preface and len(heard) >= PREFACE_HEADER:
        position = PREFACE_HEADER + 2 * heard[8] + int.from_bytes(heard[9:11], "big")
    while len(heard) >= position + FRAME_HEADER:
        body = position + FRAME_HEADER
        end = body + int.from_bytes(heard[position + 1 : body], "big")
        if len(heard) >= end:
            yield heard[position], heard[body:end]
        position = end


def _code_of(alert: bytes) -> str | None:
    return code_name(Alert.decode(alert).code) if alert else None


async def _assert_still_there(listener: Peer, peer: HostilePeer) -> None:
    invite = await invite_to(listener)
    transports = [_way_to(listener, Address.parse(invite), HONEST)]
    who = name_of(listener)
    async with Peer(
        identity_of(HONEST), network=listener.network, suites=listener.suites, transports=transports
    ) as honest:
        try:
            connection = await honest.dial(invite)
        except DialError as error:
            if not (isinstance(error, Rejected) and error.authenticated):
                raise AssertionError(
                    f"{who} is not there for others after {peer.name}: {account_of_failure(error, HONEST, who)}"
                ) from error
        else:
            await connection.aclose(finish=0)
