"""Transport: how bytes get from one peer to another, and the race to the first place that answers.

A transport is one class: `resolve` says which places an address stands for, `connect` goes to one of them,
`listen` binds. What all of them share is here, once: `open_stream` races the places under one deadline and says
in the words of `NoResponse` what kept it from them. `trishake.testing.check_transport` tells whether a transport
keeps its promises.
"""

from __future__ import annotations

import abc
import contextvars
import errno
import os
import socket as stdlib_socket
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, cast

import trio

from ._addresses import Address, format_endpoint
from ._errors import NoResponse
from ._limits import Limits
from ._steps import NO_NAME_SERVER, NO_SUCH_NAME, Cause, Phase, Step
from ._timeline import Trace

_STAGGER: Final = 0.25
"""Seconds before the next attempt begins beside those under way (RFC 8305, section 5)."""

_CAUSES: Final = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ECONNRESET: Cause.RESET,
    errno.ETIMEDOUT: Cause.TIMEOUT,
}

_NAME_ERRORS: Final = {
    stdlib_socket.EAI_NONAME: NO_SUCH_NAME,
    stdlib_socket.EAI_NODATA: NO_SUCH_NAME,
    stdlib_socket.EAI_AGAIN: NO_NAME_SERVER,
}

_handshakes: Final[contextvars.ContextVar[list[str]]] = contextvars.ContextVar("handshakes")
"""Those that `open_stream` has got to, in whichever of its tasks."""

Place: TypeAlias = Any
"""One concrete place that an address stands for: a socket address, say. Only its transport looks inside."""


class Bound(NamedTuple):
    """A listener that is bound. address: where, as it can be dialed: a port of 0 has become the port taken.

    Its `accept` waits for no dialer but the one that is there: whatever a handshake needs is done when its
    stream is first read or written. It raises ClosedResourceError once closed, OSError when the system fails it.
    """

    address: Address
    listener: trio.abc.Listener[trio.abc.Stream]


class Transport(abc.ABC):
    """How bytes get from one peer to another: one class for a scheme of addresses, or for two.

    Its streams carry bytes in order and lose none, or end: BrokenResourceError, ClosedResourceError,
    BusyResourceError as Trio has them. One that half-closes is a `trio.abc.HalfCloseableStream`; one that wraps
    another has it as `transport_stream`, so that the other end's address is found.
    """

    schemes: ClassVar[tuple[str, ...]]
    """What its addresses begin with, in lower case and without `://`."""

    async def resolve(self, address: Address) -> Sequence[Place]:
        """The places that the address stands for, the best one first. Raises OSError."""
        return (address,)

    def endpoint_of(self, address: Address, place: Place) -> str:
        """The place in short, for people."""
        return address.endpoint

    @abc.abstractmethod
    async def connect(self, address: Address, place: Place, nursery: trio.Nursery) -> trio.abc.Stream:
        """A stream to one place of `resolve(address)`.

        nursery: for tasks that the stream needs as long as it is open; none of them may raise. The caller sets
        the deadline. Cancelled, it leaves nothing open. Raises OSError or BrokenResourceError; NoResponse where
        the transport knows more, as that another protocol answered.
        """

    @abc.abstractmethod
    async def listen(self, address: Address, nursery: trio.Nursery) -> Sequence[Bound]:
        """Listeners, one for each place that the address stands for; all of them, or OSError and none.

        nursery: for tasks that accepted streams need, as in `connect`.
        """


async def open_stream(
    address: Address,
    transport: Transport,
    limits: Limits,
    nursery: trio.Nursery,
    trace: Trace | None = None,
) -> trio.abc.Stream:
    """A stream to whichever place answers first, within `limits.connect`, names resolved.

    trace: gets the two steps, the places, and what each said that failed.
    Cancelled, it leaves nothing open. Raises NoResponse with phase RESOLVE or CONNECT; where every place fails,
    for what the best one said.
    """
    started = trio.current_time()
    phase = Phase.RESOLVE
    handshakes: list[str] = []
    noted = _handshakes.set(handshakes)
    try:
        with trio.fail_after(limits.connect):
            places = await transport.resolve(address)
            if not places:
                raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "the name stands for no address")
            if trace is not None:
                trace.places = {transport.endpoint_of(address, place): None for place in places}
                trace.mark(Step.RESOLVED)
            phase = Phase.CONNECT
            if len(places) == 1:
                stream = await transport.connect(address, places[0], nursery)
            else:
                stream = await _race(address, transport, places, nursery, trace)
            if trace is not None:
                endpoint = remote_endpoint(stream)
                trace.endpoint = None if endpoint is None else format_endpoint(*endpoint)
                trace.mark(Step.CONNECTED)
            return stream
    except NoResponse as error:
        error.elapsed = trio.current_time() - started
        raise
    except trio.TooSlowError as error:
        failure = no_response(phase, error, trio.current_time() - started)
        failure.detail = f"in the {handshakes[-1]} handshake" if handshakes else None
    except (OSError, trio.BrokenResourceError) as error:
        failure = no_response(phase, error, trio.current_time() - started)
    finally:
        _handshakes.reset(noted)
    try:
        raise failure
    finally:
        del failure  # its traceback holds this frame: they would keep one another until the next collection


def begins_handshake(name: str) -> None:
    """A transport's connection is there, and its own handshake begins: should the time be up, that is why."""
    if (handshakes := _handshakes.get(None)) is not None:
        handshakes.append(name)


def no_response(
    phase: Phase, error: OSError | trio.BrokenResourceError | trio.TooSlowError, elapsed: float
) -> NoResponse:
    """What it means that `resolve` or `connect` raised this, or took too long. elapsed: seconds."""
    match error:
        case stdlib_socket.gaierror():
            cause, detail = Cause.UNREACHABLE, _NAME_ERRORS.get(error.errno or 0, error.strerror)
        case OSError():
            cause = _CAUSES.get(error.errno or 0, Cause.UNREACHABLE)
            detail = None
            if cause is Cause.UNREACHABLE:  # the others say as much by themselves
                detail = os.strerror(error.errno) if error.errno else str(error) or None
        case trio.BrokenResourceError():
            cause, detail = Cause.CLOSED, str(error) or None
        case _:
            cause, detail = Cause.TIMEOUT, None
    return NoResponse(phase, cause, elapsed=elapsed, detail=detail)


def _told(error: OSError | trio.BrokenResourceError | NoResponse) -> str:
    """What one of several places said."""
    said = error if isinstance(error, NoResponse) else no_response(Phase.CONNECT, error, 0)
    return said.detail or str(said.cause)


async def _race(
    address: Address, transport: Transport, places: Sequence[Place], nursery: trio.Nursery, trace: Trace | None
) -> trio.abc.Stream:
    """Try the places, each a little after the one before (RFC 8305). Raises the first one's error."""
    winner: list[trio.abc.Stream] = []
    errors: dict[int, OSError | trio.BrokenResourceError | NoResponse] = {}

    async def attempt(index: int) -> bool:
        try:
            stream = await transport.connect(address, places[index], nursery)
        except (OSError, trio.BrokenResourceError, NoResponse) as error:
            errors[index] = error
            if trace is not None:
                trace.places[transport.endpoint_of(address, places[index])] = _told(error)
            return False
        if winner:  # two in one tick
            await abandon(stream)
        else:
            winner.append(stream)
        return True

    try:
        await race(len(places), attempt)
    except BaseException:
        for stream in winner:  # connected, and cancelled before anyone had it
            await abandon(stream)
        raise
    if winner:
        return winner[0]
    raise errors[min(errors)]


async def race(count: int, attempt: Callable[[int], Awaitable[bool]]) -> None:
    """Start attempts 0, 1, … each a little after the one before, or at once when that has failed (RFC 8305).

    attempt: whether the race is over with it; the others are cancelled then. Returns when it is over, or when all
    have failed.
    """
    failed = [trio.Event() for _ in range(count)]

    async def run(index: int) -> None:
        if await attempt(index):
            attempts.cancel_scope.cancel()
        else:
            failed[index].set()

    async with trio.open_nursery() as attempts:
        for index in range(count):
            attempts.start_soon(run, index)
            if index + 1 < count:
                with trio.move_on_after(_STAGGER):
                    await failed[index].wait()


async def abandon(stream: trio.abc.Stream) -> None:
    """Close it at once, also where the task is cancelled."""
    with trio.CancelScope(shield=True):  # a forceful close waits for nothing
        await trio.aclose_forcefully(stream)


def remote_endpoint(stream: trio.abc.Stream) -> tuple[str, int] | None:
    """The other end's host and port, through TLS or WebSocket too.

    None where the transport has no such thing, and where the other end is gone already.
    """
    below: object = stream
    while not isinstance(below, trio.SocketStream):
        below = getattr(below, "transport_stream", None)
        if below is None:
            return None
    try:
        name = cast("object", below.socket.getpeername())
    except OSError:
        return None
    if not isinstance(name, tuple):
        return None  # a Unix socket's is a path
    host, port = cast("tuple[object, ...]", name)[:2]
    return (host, port) if isinstance(host, str) and isinstance(port, int) else None


class OneCaller:
    """Lets one task at a time into one direction of a stream; another gets BusyResourceError."""

    __slots__ = ("_inside", "_left", "_verb")

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._inside = False
        self._left: trio.Event | None = None

    def __enter__(self) -> None:
        if self._inside:
            self.check()
        self._inside = True

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inside = False
        if self._left is not None:
            self._left.set()

    async def wait_left(self) -> None:
        """Wait until no task is inside. A checkpoint only if there is one."""
        if self._inside:
            self._left = trio.Event()
            await self._left.wait()

    def check(self) -> None:
        """Raises BusyResourceError while a task is inside."""
        if self._inside:
            raise trio.BusyResourceError(f"another task is already in {self._verb} on this stream")
