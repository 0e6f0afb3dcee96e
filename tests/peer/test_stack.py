"""How deep our own code is between a caller and the socket: a rule of the design."""

import traceback
from pathlib import Path

import pytest
import trio

import trishake
import trishake_protocol
from trishake import Identity, Limits, Peer

OURS = tuple(str(Path(package.__file__ or "").parent) for package in (trishake, trishake_protocol))


def depths_of_sends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of ours on the stack at each send on a socket, to be filled as they happen."""
    depths: list[int] = []
    with trio.socket.socket() as socket:
        kind = type(socket)
    real_send = kind.send

    async def counting_send(self: object, *arguments: object) -> int:
        depths.append(sum(frame.filename.startswith(OURS) for frame in traceback.extract_stack()))
        return await real_send(self, *arguments)

    real_send = kind.send
    monkeypatch.setattr(kind, "send", counting_send)
    return depths


async def test_few_frames_of_ours_lie_between_a_caller_and_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Peer(Identity.generate()) as bob, Peer(Identity.generate(), limits=Limits(close=0.1)) as ada:
        listener = await bob.listen("tcp://127.0.0.1:0")
        depths = depths_of_sends(monkeypatch)
        connection = await ada.dial(listener.invite)
        assert 1 <= depths[0] <= 4
        depths.clear()
        await connection.send_all(b"hello")
        assert depths
        assert max(depths) <= 3
