"""Dialing: which addresses are known of a peer, and several of them at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from trishake_protocol import PeerId, Role

from ._addresses import Address
from ._connection import Connection
from ._errors import DialError, InvalidAddress, NoResponse, Refused, Rejected
from ._steps import Phase
from ._transport import race

_KNOWN_PEERS: Final = 4096
_KNOWN_ADDRESSES: Final = 8
"""What an address book holds, of peers and of each peer; the oldest makes room."""


class AddressBook:
    """Where peers are, as far as we have been told or have seen. In memory only."""

    def __init__(self) -> None:
        self._addresses: dict[PeerId, dict[Address, None]] = {}

    def learn(self, invite: Address) -> None:
        """Raises InvalidAddress if it names no peer."""
        if invite.peer is None:
            raise InvalidAddress(f"'{invite}' names no peer: an invite is needed, scheme://<peer id>@…")
        known = self._addresses.pop(invite.peer, {})
        known.pop(invite, None)
        known[invite] = None
        if len(known) > _KNOWN_ADDRESSES:
            del known[next(iter(known))]
        self._addresses[invite.peer] = known
        if len(self._addresses) > _KNOWN_PEERS:
            del self._addresses[next(iter(self._addresses))]

    def of(self, peer: PeerId) -> list[Address]:
        """The latest first. Raises InvalidAddress if there is none."""
        known = self._addresses.get(peer)
        if not known:
            raise InvalidAddress(f"no address is known of {peer}: dial an invite of it, or learn one, first")
        return list(reversed(known))


async def first_to_accept(
    addresses: Sequence[Address],
    dial: Callable[[Address], Awaitable[Connection]],
    close_soon: Callable[[Connection], None],
) -> Connection:
    """Dial each a little after the one before, or at once when that has failed; the first READY is taken.

    A rejection under the other side's key is final: it would say the same elsewhere. Raises the error that says
    most, with the others in its `attempts`. close_soon: told of what nobody will have: the second of two in one
    tick, and all of them if it is cancelled.
    """
    accepted: list[Connection] = []
    errors: dict[int, DialError] = {}

    async def attempt(index: int) -> bool:
        try:
            accepted.append(await dial(addresses[index]))
        except DialError as error:
            errors[index] = error
            return isinstance(error, Rejected) and error.authenticated and addresses[index].peer is not None
        return True

    taken: Connection | None = None
    try:
        await race(len(addresses), attempt)
        taken = accepted[0] if accepted else None
    finally:
        for connection in accepted:
            # One that the other side has dialed meanwhile is not ours to close.
            if connection is not taken and connection.role is Role.INITIATOR:
                close_soon(connection)
    if taken is not None:
        return taken
    first = max(sorted(errors), key=lambda index: _telling(errors[index]))
    errors[first].attempts = tuple(errors[index] for index in sorted(errors) if index != first)
    raise errors[first]


_PHASES: Final = (Phase.RESOLVE, Phase.CONNECT, Phase.SYN_ACK, Phase.VERDICT)


def _telling(error: DialError) -> int:
    """How much an error says: a rejection more than our own refusal, that more than the furthest silence."""
    match error:
        case Rejected():
            return len(_PHASES) + 1 + error.authenticated
        case Refused():
            return len(_PHASES)
        case NoResponse():
            return _PHASES.index(error.phase)
        case _:
            raise AssertionError(f"{error!r} is no outcome of a dial")
