"""An identity whose key is in an ssh-agent, as `ssh-add` has put it there.

The agent's protocol is spoken by paramiko (`pip install 'trishake[ssh]'`), in a thread, since it blocks.
An agent signs whatever it is asked to; what we ask for is a greeting, and 64 spaces in front of it keep it from
being anything that ssh would sign.
"""

from __future__ import annotations

import os
import socket as stdlib_socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar, cast

import trio

from trishake_protocol import GreetingToSign, InvalidPeerId, PeerId
from trishake_protocol.peer_id import SSH_KEY_HEADER

from ._errors import SigningFailed
from ._signer import Signer
from ._trust import as_peer_id
from ._unix import connect

if TYPE_CHECKING:
    from paramiko.agent import AgentSSH

_SIGNATURE: Final = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x40"
"""What stands before the 64 bytes of a signature (RFC 8709, section 6)."""

_MAX_ANSWER: Final = 256 * 1024
"""Bytes, as in OpenSSH's own agent and clients."""

_KEYS: Final = b"\x0c"
"""The type of an answer that lists keys (RFC 9987, SSH_AGENT_IDENTITIES_ANSWER)."""

_THREADS: Final = 8
"""That ask one agent at once; the others wait. They are not counted among Trio's 40, which look up names too: an
agent that is silent, or asks its owner each time, would hold up whoever needs one."""

_T = TypeVar("_T")


class SshAgent(Signer):
    """The identity of an Ed25519 key that an ssh-agent holds. Made by `connect`."""

    def __init__(self, id_: PeerId, path: str) -> None:
        """path: of the agent's socket. Nothing is asked yet."""
        super().__init__(id_)
        self._path = path
        self._threads = trio.CapacityLimiter(_THREADS)

    @classmethod
    async def connect(
        cls, peer: PeerId | str | None = None, *, path: str | os.PathLike[str] | None = None
    ) -> Self:
        """The identity of one of the agent's keys.

        peer: which; it may be left out where the agent has one Ed25519 key. path: of the agent's socket, by
        default what SSH_AUTH_SOCK says. Raises SigningFailed where there is no agent, or no such key; ImportError,
        which says what to install. An agent may ask its owner: `trio.fail_after` bounds that.
        """
        where = os.environ.get("SSH_AUTH_SOCK") if path is None else os.fspath(path)
        if not where:
            raise SigningFailed("there is no ssh-agent (SSH_AUTH_SOCK is not set)")
        held = await _in_agent(where, _ids, trio.CapacityLimiter(1))
        if peer is not None:
            wanted = as_peer_id(peer)
            if wanted not in held:
                raise SigningFailed(
                    f"the ssh-agent at {where} does not hold the key of {wanted} (ssh-add adds it)"
                )
            return cls(wanted, where)
        if len(held) != 1:
            found = ", ".join(str(id_) for id_ in held) or "none (ssh-add adds one)"
            raise SigningFailed(f"of Ed25519 keys, the ssh-agent at {where} holds {found}: say which one to use")
        return cls(held[0], where)

    async def sign(self, greeting: GreetingToSign) -> bytes:
        return await _in_agent(self._path, partial(_sign, id_=self.id, text=greeting.text), self._threads)


async def _in_agent(path: str, ask: Callable[[AgentSSH], _T], threads: trio.CapacityLimiter) -> _T:
    """Connect, and ask in a thread. Cancelled, it shuts the socket down, and waits for the thread to end."""
    try:
        stream = await connect(path)
    except OSError as error:
        raise SigningFailed(f"there is no ssh-agent at {path} ({error.strerror or error})") from error
    async with stream:
        blocking = stdlib_socket.socket(fileno=os.dup(stream.socket.fileno()))
        with blocking:
            blocking.setblocking(True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hang_up_at_the_end, blocking)
                answered = await trio.to_thread.run_sync(_ask, path, blocking, ask, limiter=threads)
                nursery.cancel_scope.cancel()
    if isinstance(answered, SigningFailed | ImportError):
        raise answered
    return answered


async def _hang_up_at_the_end(socket: stdlib_socket.socket) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with suppress(OSError):  # the agent may have hung up first
            socket.shutdown(stdlib_socket.SHUT_RDWR)


def _ask(
    path: str, socket: stdlib_socket.socket, ask: Callable[[AgentSSH], _T]
) -> _T | SigningFailed | ImportError:
    """Returns its errors: raised in the nursery above they would become a group."""
    try:
        from paramiko.agent import AgentSSH
        from paramiko.ssh_exception import SSHException
    except ImportError as error:
        missing = ImportError("to speak with an ssh-agent, paramiko is needed: pip install 'trishake[ssh]'")
        missing.__cause__ = error
        return missing

    class Agent(AgentSSH):
        def __init__(self) -> None:
            super().__init__()
            # paramiko's own Agent asks the environment where to; the stubs do not know this.
            self._connect(_Answers(socket))  # type: ignore[attr-defined]  # pyright: ignore

    try:
        return ask(Agent())
    except SigningFailed as error:
        return error
    except (SSHException, OSError, ValueError, ArithmeticError) as error:  # the last two: of keys that are none
        failed = SigningFailed(f"the ssh-agent at {path} did not answer as one does: {error}")
        failed.__cause__ = error
        return failed


class _Answers:
    """The agent's socket as paramiko uses it, with each answer read whole and bounded, and only the keys of peers.

    paramiko itself would make room for as many bytes, and as many keys, as are announced; and it would fail of any
    key or comment that it does not understand, though we do not want that one.
    """

    def __init__(self, socket: stdlib_socket.socket) -> None:
        self._socket = socket
        self._answer = b""

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)
        header = self._read(4)
        length = int.from_bytes(header, "big")
        if length > _MAX_ANSWER:
            raise ValueError(f"an answer of {length} bytes, the limit is {_MAX_ANSWER}")
        answer = self._read(length)
        if answer.startswith(_KEYS):
            answer = _KEYS + _of_peers(answer[len(_KEYS) :])
        self._answer = _string(answer)

    def recv(self, length: int) -> bytes:
        part, self._answer = self._answer[:length], self._answer[length:]
        return part

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise ValueError("it hung up")
            data += part
        return bytes(data)


def _of_peers(listed: bytes) -> bytes:
    """A list of keys without those that can be no peer's, and without comments. Raises ValueError if cut off."""
    number, rest = int.from_bytes(listed[:4], "big"), memoryview(listed)[4:]
    kept: list[bytes] = []
    for _ in range(number):
        key, rest = _take_string(rest)
        _, rest = _take_string(rest)
        if key.startswith(SSH_KEY_HEADER) and len(key) == len(SSH_KEY_HEADER) + 32:
            kept.append(key)
    return len(kept).to_bytes(4, "big") + b"".join(_string(key) + _string(b"") for key in kept)


def _string(data: bytes) -> bytes:
    """As SSH has it on the wire (RFC 4251, section 5)."""
    return len(data).to_bytes(4, "big") + data


def _take_string(data: memoryview) -> tuple[bytes, memoryview]:
    """The string that the data begins with, and what follows it."""
    end = 4 + int.from_bytes(data[:4], "big")
    if len(data) < max(4, end):
        raise ValueError("its list of keys is cut off")
    return bytes(data[4:end]), data[end:]


def _ids(agent: AgentSSH) -> list[PeerId]:
    """Whose keys it holds; one that proves nothing is passed over."""
    held: list[PeerId] = []
    for key in agent.get_keys():
        with suppress(InvalidPeerId):
            held.append(PeerId(key.asbytes()[len(SSH_KEY_HEADER) :]))
    return held


def _sign(agent: AgentSSH, *, id_: PeerId, text: bytes) -> bytes:
    for key in agent.get_keys():
        if key.asbytes() == SSH_KEY_HEADER + id_.key:
            signed = cast("bytes", key.sign_ssh_data(text))  # its stubs say another type
            if not signed.startswith(_SIGNATURE):
                raise SigningFailed("the ssh-agent's answer is no Ed25519 signature")
            return signed[len(_SIGNATURE) :]
    raise SigningFailed(f"the ssh-agent no longer holds the key of {id_} (ssh-add adds it)")
