"""An identity whose key is in a process of its own, reached over a Unix socket.

The holder of the key signs greetings of its own identity, and refuses every other text. So whoever takes over the
process that talks to the network can speak for the identity while he is there, and has no key when he is gone.
On the socket is one request (see _messages.py) a connection: None asks for the peer id, a text for its signature.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Final, Self

import trio

from trishake_protocol import GreetingToSign, Identity, InvalidPeerId, LocalProtocolError, PeerId

from ._addresses import Address
from ._errors import BadMessage, MessageTooLarge, RequestFailed, SigningFailed
from ._messages import answer, request
from ._signer import Signer
from ._unix import Unix, connect

_MAX_SIZE: Final = 32 * 1024
"""Bytes of a message; what is to be signed in the largest greeting has half of it."""

_PATIENCE: Final = 10
"""Seconds that who connects has to ask, and to take the answer."""


class RemoteSigner(Signer):
    """The identity that a process holds which runs `serve_signer`. Made by `connect`."""

    def __init__(self, id_: PeerId, path: str | os.PathLike[str]) -> None:
        """id_: whom it is to be. path: of its socket. Nothing is asked yet."""
        super().__init__(id_)
        self._address = _at(path)

    @classmethod
    async def connect(cls, path: str | os.PathLike[str]) -> Self:
        """Ask at a socket which identity is there; `trio.fail_after` bounds it. Raises SigningFailed if none."""
        try:
            return cls(PeerId(await _ask(_at(path), None)), path)
        except InvalidPeerId as error:
            raise SigningFailed(f"the process at {os.fspath(path)} named no peer id: {error}") from error

    async def sign(self, greeting: GreetingToSign) -> bytes:
        return await _ask(self._address, greeting.text)


async def serve_signer(
    identity: Identity,
    path: str | os.PathLike[str],
    *,
    task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Sign greetings of this identity, and nothing else, for who connects to a socket, until cancelled.

    path: of the socket, which only processes of the same user can open (mode 0600). It is there once the task has
    started: `await nursery.start(serve_signer, identity, path)`. Raises OSError if it cannot be bound.
    """

    async def sign(asked: Any, _: object) -> bytes:
        if asked is None:
            return identity.id.key
        if not isinstance(asked, bytes):
            raise RequestFailed("no-greeting", "a text in bytes is signed, or None answered with the peer id")
        try:
            return identity.sign_greeting(*GreetingToSign.parse(asked, identity.id))
        except LocalProtocolError as error:
            raise RequestFailed("no-greeting", str(error)) from None

    serve = partial(answer, function=sign, max_size=_MAX_SIZE, seconds=_PATIENCE)
    async with trio.open_nursery() as nursery:
        bounds = await Unix(mode=0o600).listen(_at(path), nursery)
        await trio.serve_listeners(serve, [bound.listener for bound in bounds], task_status=task_status)


def _at(path: str | os.PathLike[str]) -> Address:
    return Address("", scheme="unix", path=os.path.abspath(path))


async def _ask(address: Address, asked: bytes | None) -> bytes:
    try:
        stream = await connect(address.path)
    except OSError as error:
        raise SigningFailed(f"nobody is at {address.path} ({error.strerror or error})") from error
    try:
        answered = await request(stream, asked, max_size=_MAX_SIZE)
    except RequestFailed as error:
        raise SigningFailed(f"the process at {address.path} does not sign it: {error}") from error
    except (trio.BrokenResourceError, BadMessage, MessageTooLarge) as error:
        raise SigningFailed(f"the process at {address.path} did not answer as a signer does: {error}") from error
    if not isinstance(answered, bytes):
        raise SigningFailed(f"the process at {address.path} is no signer: it answered a {type(answered).__name__}")
    return answered
