"""What a test says of a dial: it is accepted, rejected for this reason, refused by the dialer, or not answered.

Each looks at both sides, and says which peer, which step and which reason where it is otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import trio

from trishake_protocol import AlertCode, VerdictCode, code_name

from .._addresses import Address
from .._connection import Connection
from .._errors import DialError, NoResponse, Refused, Rejected
from .._listener import Listener
from .._peer import Peer
from .._steps import Cause, Phase
from .._trust import Policy
from ._accounts import account_of_failure
from ._virtual_network import NetworkPeer

Dialed: TypeAlias = Peer | Listener | Address | str
"""Who is dialed: a peer that listens, a listener, or an invite. With a peer, its side is looked at too."""

Reason: TypeAlias = AlertCode | VerdictCode | int | str
"""A code of the specification, or its name; a number where it is the application's own."""

_SOON: Final = 5.0
"""Seconds until the other side must have noticed too."""


async def assert_accepts(listener: Dialed, dialer: Peer, *, trust: Policy | None = None) -> Connection:
    """The listener takes the dialer in, and each is who the other thinks. The dialer's connection.

    trust: the dialer's policy for this dial. Raises AssertionError otherwise.
    """
    invite = await invite_to(listener)
    expected = f"{name_of(listener)} was to accept {name_of(dialer)}"
    try:
        connection = await dialer.dial(invite, trust=trust)
    except DialError as error:
        raise _failed(expected, error, dialer, listener) from error
    if isinstance(listener, Peer):
        if connection.peer != listener.id:
            raise AssertionError(f"{expected}, and {connection.peer} has answered in its place")
        if not await wait_until(lambda: listener.connection(dialer.id) is not None):
            raise AssertionError(
                f"{expected}: {name_of(dialer)} has heard READY, and {name_of(listener)} has no connection with it"
            )
    return connection


async def assert_rejects(
    listener: Dialed, dialer: Peer, reason: Reason, *, text: str | None = None, trust: Policy | None = None
) -> Rejected:
    """The listener does not take the dialer in, for this reason, and both know it. What the dialer is told.

    text: what the listener says besides. trust: the dialer's policy for this dial. Raises AssertionError
    otherwise.
    """
    invite = await invite_to(listener)
    wanted = _code(reason)
    expected = f"{name_of(listener)} was to reject {name_of(dialer)} with {wanted}"
    told = listener.statistics().told.get(wanted, 0) if isinstance(listener, Peer) else 0
    try:
        connection = await dialer.dial(invite, trust=trust)
    except Rejected as error:
        if code_name(error.reason) != wanted:
            raise _failed(expected, error, dialer, listener) from error
        if text is not None and error.text != text:
            raise AssertionError(f"{expected} and the words {text!r}; the words were {error.text!r}") from error
        if isinstance(listener, Peer):
            heard = await wait_until(lambda: listener.statistics().told.get(wanted, 0) > told)
            if not heard:
                counted = dict(listener.statistics().told)
                raise AssertionError(
                    f"{expected}: the dialer was told so, and the listener has counted {counted}"
                ) from error
        return error
    except DialError as error:
        raise _failed(expected, error, dialer, listener) from error
    raise _accepted(expected, connection, listener)


async def assert_refuses(
    dialer: Peer, listener: Dialed, reason: Reason, *, trust: Policy | None = None
) -> Refused:
    """The dialer does not go on with who listens there, for this reason. What its own side says.

    trust: the dialer's policy for this dial. Raises AssertionError otherwise.
    """
    invite = await invite_to(listener)
    wanted = _code(reason)
    expected = f"{name_of(dialer)} was to refuse {name_of(listener)} with {wanted}"
    try:
        connection = await dialer.dial(invite, trust=trust)
    except Refused as error:
        if code_name(error.reason) != wanted:
            raise _failed(expected, error, dialer, listener) from error
        return error
    except DialError as error:
        raise _failed(expected, error, dialer, listener) from error
    raise _accepted(expected, connection, listener)


async def assert_no_response(
    listener: Dialed, dialer: Peer, *, phase: Phase | str | None = None, cause: Cause | str | None = None
) -> NoResponse:
    """The dialer gets no answer, or none to the end. What it says of that.

    phase, cause: how far it comes, and why not farther; whichever, by default. Raises AssertionError otherwise.
    """
    invite = await invite_to(listener)
    where = "" if phase is None else f" in the phase {phase}"
    why = "" if cause is None else f", because of {cause}"
    expected = f"{name_of(dialer)} was to get no response from {name_of(listener)}{where}{why}"
    try:
        connection = await dialer.dial(invite)
    except NoResponse as error:
        if phase not in (None, error.phase) or cause not in (None, error.cause):
            raise _failed(expected, error, dialer, listener) from error
        return error
    except DialError as error:
        raise _failed(expected, error, dialer, listener) from error
    raise _accepted(expected, connection, listener)


async def invite_to(listener: Dialed) -> str:
    """What is to be dialed. Raises ValueError for a peer that does not listen."""
    if isinstance(listener, NetworkPeer):
        return (await listener.ready()).invite
    if isinstance(listener, Peer):
        if not listener.listeners:
            raise ValueError(f"{listener!r} does not listen: call its `listen` first")
        return listener.listeners[0].invite
    return listener.invite if isinstance(listener, Listener) else str(listener)


def name_of(who: Dialed) -> str:
    """What a test calls it, or else what there is of it."""
    match who:
        case NetworkPeer():
            return who.name
        case Peer():
            return who.id.short
        case Listener():
            return str(who.addresses[0])
        case _:
            return str(who)


def _code(reason: Reason) -> str:
    """Its name. Raises ValueError for a name that is none: a slip of the pen shall not look like a failure."""
    if not isinstance(reason, str):
        return code_name(reason)
    names = [code.name for kind in (AlertCode, VerdictCode) for code in kind]
    if reason not in names:
        raise ValueError(f"{reason!r} is no reason; those of the specification are {', '.join(names)}")
    return reason


async def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether it has come true within the time that the other side has to notice."""
    pause = 0.001
    with trio.move_on_after(_SOON):
        while not condition():
            await trio.sleep(pause)
            pause *= 1.5  # over sockets, each pause takes real time too
    return condition()


def _failed(expected: str, error: DialError, dialer: Peer, listener: Dialed) -> AssertionError:
    found = account_of_failure(error, name_of(dialer), name_of(listener))
    return AssertionError(f"{expected}; {found}\n\n{error.explain()}\n\n{error.timeline}")


def _accepted(expected: str, connection: Connection, listener: Dialed) -> AssertionError:
    awaited = isinstance(listener, Peer) and listener.id == connection.peer
    who = name_of(listener) if awaited else connection.peer.short
    return AssertionError(f"{expected}; it was accepted, by {who}, at step 7, verdict\n\n{connection.timeline}")
