"""VirtualNetwork: peers by name and the links between them, in memory or over TCP on loopback."""

from __future__ import annotations

import errno
import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

import trio

from trishake_protocol import LocalProtocolError, PeerId, Role, TrishakeError

from .._addresses import Address
from .._connection import Connection
from .._errors import ConnectionClosed, DialError
from .._keep import Keeper
from .._keys import Identity
from .._listener import Listener
from .._memory import Memory, memory_pair
from .._observer import Observer, Progress
from .._peer import Peer
from .._steps import Step
from .._stream import Stream
from .._tcp import Tcp
from .._transport import Bound, Place, Transport, abandon
from .._trust import Policy
from ._accounts import account_of_failure
from ._link import End, Line, Link, check_seconds

Over = Literal["memory", "tcp"]
"""What the connections of a network are made of."""

_LOOPBACK: Final = "127.0.0.1"

_REMEMBERED: Final = 50
"""Lines of the story."""


def identity_of(name: str) -> Identity:
    """The identity that goes with a name, the same in every run. No secret: whoever has this kit has it too."""
    return Identity.from_seed(hashlib.sha256(b"trishake.testing identity\0" + name.encode()).digest())


class VirtualNetwork:
    """Peers by name, and links that do to their bytes what a test says: `async with VirtualNetwork() as network`.

    seed: of all that is left to chance, in which pieces links split and how long they take. over: `memory`, with
    no kernel socket, or `tcp`, real sockets on loopback under the same names.
    On a virtual clock, as the fixture `network` has it, no test waits, whatever it waits for.
    """

    def __init__(self, *, seed: int = 0, over: Over = "memory") -> None:
        self.seed: Final = seed
        self.over: Final = over
        self.peers: Final[dict[str, NetworkPeer]] = {}
        """Those that there are, by name."""
        self._names: dict[PeerId, str] = {}
        self._memory = Memory(private=True)
        self._tcp = Tcp()
        self._places: dict[str, Address] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._dials: Counter[tuple[str, str]] = Counter()
        self._within = 0.0
        self._nursery: trio.Nursery | None = None
        """While the block runs."""
        self._failed: Exception | None = None
        self._story: deque[str] = deque(maxlen=_REMEMBERED)

    async def __aenter__(self) -> Self:
        self._began = trio.current_time()
        self._block = trio.open_nursery()
        self._nursery = await self._block.__aenter__()
        return self

    async def __aexit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                async with trio.open_nursery() as closing:
                    for peer in self.peers.values():
                        closing.start_soon(partial(peer.aclose, finish=0))
        finally:
            self._block_entered().cancel_scope.cancel()
            try:
                # The body's own error goes on as it is: the nursery would wrap it in a group.
                await self._block.__aexit__(None, None, None)
            finally:
                self._nursery = None
            if self._failed is not None and _is_of_cancellation(error):
                raise self._failed

    def peer(self, name: str, *, identity: Identity | None = None, **options: Any) -> NetworkPeer:
        """A peer that listens at `mem://name`, and is there as long as the network.

        identity: another than the name's own. options: what `Peer` takes; `trust`, say.
        Raises ValueError for a name that is taken, or none that an address can have; a peer that was closed has
        left its own. LocalProtocolError outside `async with`. If it cannot listen, that error ends the network's
        block.
        """
        nursery = self._block_entered()
        if name in self.peers and not self.peers[name].closed:
            raise ValueError(f"there is a peer {name!r} already: a name is one peer's, until that is closed")
        if Address.parse(f"mem://{name}").host != name:
            raise ValueError(f"a peer's name is the host of an address, in lower case, not {name!r}")
        peer = NetworkPeer(self, name, identity or identity_of(name), options)
        self.peers[name] = peer
        self._names[peer.id] = name
        nursery.start_soon(self._host, peer, nursery)
        return peer

    async def _host(self, peer: NetworkPeer, nursery: trio.Nursery) -> None:
        try:
            await peer.run()
        except (OSError, TrishakeError) as error:
            self._failed = error
            nursery.cancel_scope.cancel()

    def _block_entered(self) -> trio.Nursery:
        if self._nursery is None:
            raise LocalProtocolError(
                "a network has peers within its block: async with VirtualNetwork() as network"
            )
        return self._nursery

    def link(self, sender: NetworkPeer | str, receiver: NetworkPeer | str) -> Link:
        """The way from one peer, or name, to another; `.reverse` is the way back."""
        here, there = str(sender), str(receiver)
        if (here, there) not in self._links:
            link = self._links[here, there] = Link(here, there)
            link.reverse = self._links[there, here] = Link(there, here)
            link.reverse.reverse = link
            link.within = link.reverse.within = self._within
        return self._links[here, there]

    def reorder(self, within: float) -> None:
        """What is sent on different links arrives in another order: each piece up to so many seconds later.

        On one link the order stays. For all links, those that come into use later too. Raises ValueError for
        seconds that make no sense.
        """
        self._within = check_seconds(within)
        for link in self._links.values():
            link.within = within

    def transport(self, name: str) -> Transport:
        """For `Peer(transports=[…])` of the application's own: it dials as this name, and listens at `mem://name`."""
        self._names.setdefault(identity_of(name).id, name)
        return Names(self, name)

    def name_of(self, peer: PeerId | None) -> str:
        """The name of a peer that is or was there; else the id in short."""
        if peer is None:
            return "somebody"
        return self._names.get(peer, peer.short)

    def story(self) -> str:
        """What has happened, a line for each greeting and each connection's end; and what the links are like.

        The last lines, where there were many.
        """
        links = [
            f"the link from {link.sender} to {link.receiver}: {link}" for link in self._links.values() if str(link)
        ]
        return "\n".join([*self._story, *links])

    def tell(self, text: str) -> None:
        """Put it into the story."""
        self._story.append(f"{trio.current_time() - self._began:9.3f} s  {text}")

    # --- how connections come about ---------------------------------------------------------------------

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        if self.over == "memory":
            return await self._memory.listen(address, nursery)
        if address.host in self._places:
            raise OSError(errno.EADDRINUSE, "somebody listens under that name", address.host)
        (bound,) = await self._tcp.listen(Address(_LOOPBACK), nursery)
        self._places[address.host] = bound.address
        forget = partial(self._places.pop, address.host, None)
        return [Bound(replace(address, peer=None), _TcpListener(bound.listener, forget))]

    async def connect(self, dialer: str, address: Address, nursery: trio.Nursery) -> End:
        """Raises OSError; LocalProtocolError outside the network's block."""
        lines = self._block_entered()
        name = address.host
        if name in self.peers:
            await self.peers[name].ready()
        there = self.link(dialer, name)
        await trio.sleep(there.seconds + there.reverse.seconds)
        if there.refuses:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the link refuses", name)
        far = await self._reach(address, nursery)
        try:
            ours, near = memory_pair() if self.over == "memory" else await _tcp_pair()
        except BaseException:
            await abandon(far)
            raise
        ends = dialer, name
        self._dials[ends] += 1
        seed = random.Random(f"{self.seed} {dialer} {name} {self._dials[ends]}")
        lines.start_soon(Line(there, near, far, seed).run)
        return ours

    async def _reach(self, address: Address, nursery: trio.Nursery) -> End:
        if self.over == "memory":
            return await self._memory.connect(address, address, nursery)
        if address.host not in self._places:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens under that name", address.host)
        (place,) = await self._tcp.resolve(self._places[address.host])
        return await self._tcp.connect(address, place, nursery)


class NetworkPeer(Peer):
    """A peer of a `VirtualNetwork`, which has made it: `network.peer("bob")`. It is within its block already.

    It takes another peer of the network where a `Peer` takes an invite.
    """

    def __init__(self, network: VirtualNetwork, name: str, identity: Identity, options: dict[str, Any]) -> None:
        observers = [_Narrator(network, name), *options.pop("observers", ())]
        transports = [network.transport(name), *options.pop("transports", ())]
        super().__init__(identity, observers=observers, transports=transports, **options)
        self.name: Final = name
        self.invite: Final = str(Address(name, peer=self.id, scheme="mem"))
        """`mem://<peer id>@name`, also before it listens."""
        self.closed = False
        self._is_ready = trio.Event()

    async def run(self) -> None:
        """Run by the network."""
        try:
            async with self:
                try:
                    await super().listen(f"mem://{self.name}")
                finally:
                    self._is_ready.set()
                await trio.sleep_forever()
        finally:
            self.closed = True

    async def ready(self) -> Self:
        """Wait until it listens; `dial`, `open_stream` and `listen` do so by themselves."""
        await self._is_ready.wait()
        return self

    async def dial(
        self,
        target: NetworkPeer | PeerId | Address | str,
        *more: NetworkPeer | Address | str,
        trust: Policy | None = None,
    ) -> Connection:
        """As `Peer.dial`."""
        await self.ready()
        return await super().dial(_target(target), *[_address(other) for other in more], trust=trust)

    async def listen(self, address: Address | str) -> Listener:
        """As `Peer.listen`: somewhere else too; at `mem://name` it listens already."""
        await self.ready()
        return await super().listen(address)

    async def open_stream(
        self,
        target: NetworkPeer | PeerId | Address | str,
        protocol: str,
        optimistic: bytes = b"",
        *,
        trust: Policy | None = None,
    ) -> Stream:
        """As `Peer.open_stream`."""
        await self.ready()
        return await super().open_stream(_target(target), protocol, optimistic, trust=trust)

    def keep(
        self,
        target: NetworkPeer | PeerId | Address | str,
        *more: NetworkPeer | Address | str,
        trust: Policy | None = None,
    ) -> Keeper:
        """As `Peer.keep`. Raises LocalProtocolError before this peer is `ready`, too."""
        if not self._is_ready.is_set():
            raise LocalProtocolError(f"{self.name} has not begun yet: `await {self.name}.ready()` first")
        return super().keep(_target(target), *[_address(other) for other in more], trust=trust)

    async def aclose(self, *, finish: float | None = None) -> None:
        """As `Peer.aclose`. Its name is free for another one."""
        await self.ready()
        await super().aclose(finish=finish)
        self.closed = True

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<NetworkPeer {self.name} {self.id.short}>"


def _is_of_cancellation(error: BaseException | None) -> bool:
    """Whether a block has come to its end, or to none but for being cancelled; in a nursery of its own, say."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_cancellation, cast("BaseExceptionGroup[BaseException]", error).exceptions))
    return error is None or isinstance(error, trio.Cancelled)


def _target(target: NetworkPeer | PeerId | Address | str) -> PeerId | Address | str:
    return target if isinstance(target, PeerId) else _address(target)


def _address(target: NetworkPeer | Address | str) -> Address | str:
    return target.invite if isinstance(target, NetworkPeer) else target


async def _tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends on loopback: the dialer's, and the line's next to it. Cancelled, it leaves nothing open."""
    (listener,) = await trio.open_tcp_listeners(0, host=_LOOPBACK)
    socket = trio.socket.socket(listener.socket.family, listener.socket.type)
    try:
        await socket.connect(listener.socket.getsockname())
        return trio.SocketStream(socket), await listener.accept()
    except BaseException:
        socket.close()
        raise
    finally:
        listener.socket.close()  # not `aclose`: cancelled in that, both ends would be nobody's


class _TcpListener(trio.abc.Listener[trio.abc.Stream]):
    """One that leaves its name when it is closed: its port may be somebody else's soon."""

    def __init__(self, listener: trio.abc.Listener[trio.abc.Stream], forget: Callable[[], object]) -> None:
        self._listener = listener
        self._forget = forget

    async def accept(self) -> trio.abc.Stream:
        return await self._listener.accept()

    async def aclose(self) -> None:
        self._forget()
        await self._listener.aclose()


class Names(Transport):
    """What a peer of the network dials and listens with. name: its own."""

    schemes = ("mem",)

    def __init__(self, network: VirtualNetwork, name: str) -> None:
        self.name: Final = name
        self._network = network

    def of(self, name: str) -> Transport:
        """The same of somebody else in the network."""
        return self._network.transport(name)

    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> trio.abc.Stream:
        return await self._network.connect(self.name, address, nursery)

    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        return await self._network.listen(address, nursery)


def names_of(peer: Peer) -> Names | None:
    """With what it dials and listens in its network; None for a peer that is in none."""
    way = peer.transport(Address("anybody", scheme="mem"))
    return way if isinstance(way, Names) else None


class _Narrator(Observer):
    """Tells the network's story, as one peer sees it."""

    def __init__(self, network: VirtualNetwork, name: str) -> None:
        self._network = network
        self._name = name

    def progress(self, progress: Progress) -> None:
        if progress.step is Step.VERDICT and progress.role is Role.INITIATOR:
            self._network.tell(f"{self._name} dialed {self._network.name_of(progress.peer)}: accepted")

    def failed(self, role: Role, error: DialError) -> None:
        self._network.tell(account_of_failure(error, self._name, self._network.name_of(error.peer)))

    def disconnected(self, connection: Connection, closed: ConnectionClosed) -> None:
        other = self._network.name_of(connection.peer)
        why = str(closed).replace(str(connection.peer), other)
        self._network.tell(f"{self._name}'s connection with {other} ended: {why}")
