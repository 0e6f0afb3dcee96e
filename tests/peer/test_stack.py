"""How deep our own code is between a caller and the socket: a rule of the design."""

import os
import stat
import traceback
from pathlib import Path

import pytest
from trio.testing import wait_all_tasks_blocked

import trishake
import trishake_protocol
from trishake import Identity, Limits, Peer
from trishake.testing._by_hand import read_to_end

from .conftest import SETTLED

OURS = tuple(str(Path(package.__file__ or "").parent) for package in (trishake, trishake_protocol))


def depths_of_sends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames of ours on the stack at each write to a socket, to be filled as they happen."""
    depths: list[int] = []
    real_write = os.write

    def counting_write(descriptor: int, data: bytes) -> int:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            depths.append(sum(frame.filename.startswith(OURS) for frame in traceback.extract_stack()))
        return real_write(descriptor, data)

    monkeypatch.setattr(os, "write", counting_write)
    return depths


async def test_few_frames_of_ours_lie_between_a_caller_and_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Peer(Identity.generate()) as bob, Peer(Identity.generate(), limits=Limits(close=0.1)) as ada:
        bob.handle("sink/1", read_to_end)
        listener = await bob.listen("tcp://127.0.0.1:0")
        depths = depths_of_sends(monkeypatch)
        connection = await ada.dial(listener.invite)
        assert 1 <= depths[0] <= 4
        stream = await connection.open_stream("sink/1")
        await wait_all_tasks_blocked(SETTLED)
        depths.clear()
        await stream.send_all(b"hello")
        assert len(depths) == 1  # a lone message is on the socket when `send_all` returns
        assert depths[0] <= 3
        await stream.aclose()
