"""An identity whose key is in an ssh-agent, as `ssh-add` has put it there.

The agent's protocol is spoken by paramiko (`pip install 'trishake[ssh]'`), in a thread, since it blocks.
An agent signs whatever it is asked to; what we ask for is a greeting, and 64 spaces in front of it keep it from
being anything that ssh would sign.
"""

from __future__ import annotations

import os
import socket as stdlib_socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar, cast

import trio

from trishake_protocol import GreetingToSign, InvalidPeerId, PeerId

from ._errors import SigningFailed
from ._signer import Signer
from ._trust import as_peer_id

if TYPE_CHECKING:
    from paramiko.agent import AgentSSH

_KEY: Final = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
"""What stands before the 32 bytes of a public key (RFC 8709, section 4)."""

_SIGNATURE: Final = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x40"
"""What stands before the 64 bytes of a signature (section 6)."""

_T = TypeVar("_T")


class SshAgent(Signer):
    """The identity of an Ed25519 key that an ssh-agent holds. Made by `connect`."""

    def __init__(self, id_: PeerId, path: str) -> None:
        """path: of the agent's socket. Nothing is asked yet."""
        super().__init__(id_)
        self._path = path

    @classmethod
    async def connect(
        cls, peer: PeerId | str | None = None, *, path: str | os.PathLike[str] | None = None
    ) -> Self:
        """The identity of one of the agent's keys.

        peer: which; it may be left out where the agent has one Ed25519 key. path: of the agent's socket, by
        default what SSH_AUTH_SOCK says. Raises SigningFailed where there is no agent, or no such key; ImportError,
        which says what to install.
        """
        where = os.environ.get("SSH_AUTH_SOCK") if path is None else os.fspath(path)
        if not where:
            raise SigningFailed("there is no ssh-agent (SSH_AUTH_SOCK is not set)")
        held = await _in_agent(where, _ids)
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
        return await _in_agent(self._path, partial(_sign, id_=self.id, text=greeting.text))


async def _in_agent(path: str, ask: Callable[[AgentSSH], _T]) -> _T:
    """Connect, and ask in a thread. Cancelled, the socket is shut down, and that ends the thread too."""
    with stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM) as socket:
        try:
            socket.connect(path)
        except OSError as error:
            raise SigningFailed(f"there is no ssh-agent at {path} ({error.strerror})") from error
        try:
            return await trio.to_thread.run_sync(_ask, path, socket, ask, abandon_on_cancel=True)
        except trio.Cancelled:
            socket.shutdown(stdlib_socket.SHUT_RDWR)
            raise


def _ask(path: str, socket: stdlib_socket.socket, ask: Callable[[AgentSSH], _T]) -> _T:
    try:
        from paramiko.agent import AgentSSH
        from paramiko.ssh_exception import SSHException
    except ImportError as error:
        raise ImportError("to speak with an ssh-agent, paramiko is needed: pip install 'trishake[ssh]'") from error

    class Agent(AgentSSH):
        def __init__(self) -> None:
            super().__init__()
            # paramiko's own Agent asks the environment where to; its stubs do not know of this.
            self._connect(socket)  # type: ignore[attr-defined]  # pyright: ignore

    try:
        return ask(Agent())
    except (SSHException, OSError) as error:
        raise SigningFailed(f"the ssh-agent at {path} did not answer: {error}") from error


def _ids(agent: AgentSSH) -> list[PeerId]:
    """Whose keys it holds; those that can be no peer's are passed over."""
    held: list[PeerId] = []
    for key in agent.get_keys():
        blob = key.asbytes()
        if blob.startswith(_KEY):
            try:
                held.append(PeerId(blob[len(_KEY) :]))
            except InvalidPeerId:
                continue
    return held


def _sign(agent: AgentSSH, *, id_: PeerId, text: bytes) -> bytes:
    for key in agent.get_keys():
        if key.asbytes() == _KEY + id_.key:
            signed = cast("bytes", key.sign_ssh_data(text))  # its stubs say another type
            if not signed.startswith(_SIGNATURE):
                raise SigningFailed("the ssh-agent's answer is no Ed25519 signature")
            return signed[len(_SIGNATURE) :]
    raise SigningFailed(f"the ssh-agent no longer holds the key of {id_} (ssh-add adds it)")
