"""Handlers: what a peer does with the streams that others open, by protocol."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import trio

from trishake_protocol import PeerId
from trishake_protocol.messages import StreamOpen

from ._events import log_event, log_failure
from ._limits import Limits
from ._observers import Observers
from ._trust import Decision, Introduction, Policy, ask_policy, check_policy

if TYPE_CHECKING:
    from ._stream import Stream

UNKNOWN: Final = "UNKNOWN_PROTOCOL"
"""Why a stream was refused whose protocol has no handler."""

StreamHandler = Callable[["Stream"], Awaitable[object]]
"""Called with each stream of its protocol that another peer opens; the stream is closed when it returns."""


class Handler(NamedTuple):
    """What answers to one protocol. trust: who may open such a stream; whoever is connected, if None."""

    protocol: str
    function: StreamHandler
    trust: Policy | None


class Handlers:
    """The handlers of one peer. A handler that fails loses its stream, and nobody else anything."""

    def __init__(self, limits: Limits, observers: Observers) -> None:
        self._limits = limits
        self._observers = observers
        self._handlers: dict[str, Handler] = {}

    def add(self, handler: Handler) -> None:
        """Raises ValueError if the protocol has one already, or is out of bounds; TypeError if trust is none."""
        StreamOpen(handler.protocol).encode()
        if handler.trust is not None:
            check_policy(handler.trust)
        if handler.protocol in self._handlers:
            raise ValueError(f"{handler.protocol!r} has a handler already: one protocol, one handler")
        self._handlers[handler.protocol] = handler

    def find(self, protocol: str) -> Handler | None:
        return self._handlers.get(protocol)

    def refused(self, peer: PeerId, protocol: str, why: str) -> None:
        """A stream was refused; tell who watches."""
        self._observers.stream_refused(peer, protocol, why)

    async def decide(self, policy: Policy, introduction: Introduction) -> Decision:
        return await ask_policy(policy, introduction, self._limits.policy)

    async def run(self, handler: Handler, stream: Stream) -> None:
        """Hand the stream over, and close it afterwards: reset, if the handler fails or is cancelled."""
        try:
            # A handler is the application's. What it raises ends its stream; if it was more than a hang-up, the
            # log gets the traceback. Neither the connection nor the peer falls with it.
            await handler.function(stream)
        except Exception as error:  # noqa: BLE001
            if _is_hang_up(error):
                log_event(
                    logging.DEBUG,
                    "stream.hung_up",
                    f"{stream!r} ended: {error}",
                    peer=stream.peer,
                    protocol=handler.protocol,
                )
            else:
                log_failure(
                    "handler.failed",
                    f"the handler of {stream!r} failed",
                    peer=stream.peer,
                    protocol=handler.protocol,
                )
            await trio.aclose_forcefully(stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        else:
            await stream.aclose()


def _is_hang_up(error: Exception) -> bool:
    """Whether it says no more than that the other side has gone."""
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        return all(_is_hang_up(inner) for inner in group.exceptions)
    return isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError)
