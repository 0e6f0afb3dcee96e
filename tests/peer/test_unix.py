"""_unix.py: a socket file, whose it is, and when it goes."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from trishake import Address, Cause, Limits, NoResponse, Peer, Phase, Unix
from trishake._transport import open_stream

from .conftest import ADA, BOB, NOBODY, nobody_at, open_sockets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def at(path: Path) -> Address:
    return Address("", scheme="unix", path=str(path))


async def test_the_file_is_there_as_long_as_its_listener(path: Path, nursery: trio.Nursery) -> None:
    before = os.umask(0o077)
    try:
        (bound,) = await Unix().listen(at(path), nursery)
    finally:
        os.umask(before)
    status = path.lstat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o700  # what the umask left of it
    assert bound.address == at(path)
    await bound.listener.aclose()
    assert not path.exists()
    await bound.listener.aclose()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_the_file_has_the_mode_that_was_asked_for_whatever_the_umask(
    path: Path, nursery: trio.Nursery, mode: int
) -> None:
    for umask in (0o000, 0o077, 0o777):
        before = os.umask(umask)
        try:
            (bound,) = await Unix(mode=mode).listen(at(path), nursery)
        finally:
            os.umask(before)
        async with bound.listener:
            assert stat.S_IMODE(path.lstat().st_mode) == mode


async def test_a_socket_file_that_was_left_behind_is_replaced(path: Path, nursery: trio.Nursery) -> None:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
        crashed.listen()
    assert path.exists()
    (bound,) = await Unix().listen(at(path), nursery)
    async with bound.listener:
        stream = await Unix().connect(bound.address, bound.address, nursery)
        await stream.aclose()


@pytest.mark.parametrize("listening", [True, False], ids=["listening", "bound"])
async def test_a_path_that_somebody_holds_is_not_taken_from_him(
    path: Path, nursery: trio.Nursery, listening: bool
) -> None:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as holder:
        holder.bind(str(path))
        if listening:
            holder.listen()
            holder.setblocking(False)
        with pytest.raises(OSError, match="somebody listens there") as caught:
            await Unix().listen(at(path), nursery)
        assert caught.value.errno == errno.EADDRINUSE
        assert path.exists()
        if listening:
            with pytest.raises(BlockingIOError):  # and he has not been bothered
                holder.accept()


@pytest.mark.parametrize("kind", ["file", "directory", "link to a socket"])
async def test_what_is_no_socket_stays(path: Path, nursery: trio.Nursery, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as socket:
            socket.bind(str(path.with_name("other")))
        path.symlink_to(path.with_name("other"))
    before = open_sockets()
    with pytest.raises(OSError, match="no socket"):
        await Unix().listen(at(path), nursery)
    assert path.exists()
    assert open_sockets() == before


async def test_a_dial_to_what_is_no_socket_says_so(path: Path) -> None:
    path.write_text("precious")
    before = open_sockets()
    async with Peer(ADA) as ada:
        with pytest.raises(NoResponse) as caught:
            await ada.dial(at(path).with_peer(BOB.id))
    assert "a file is there that is no socket" in str(caught.value)
    assert caught.value.cause is Cause.UNREACHABLE
    assert open_sockets() == before


async def test_a_file_that_another_one_has_put_there_stays_at_close(path: Path, nursery: trio.Nursery) -> None:
    (bound,) = await Unix().listen(at(path), nursery)
    path.rename(path.with_name("ours"))  # so that its inode is not used again
    path.write_text("another's")
    await bound.listener.aclose()
    assert path.read_text() == "another's"


@pytest.mark.parametrize("what", NOBODY)
async def test_a_dial_says_why_nobody_could_be_reached(path: Path, nursery: trio.Nursery, what: str) -> None:
    path = nobody_at(path, what)
    before = open_sockets()
    with pytest.raises(NoResponse) as caught:
        await open_stream(at(path), Unix(), Limits(), nursery)
    assert open_sockets() == before
    refused = what == "a stale socket"
    assert caught.value.phase is Phase.CONNECT
    assert caught.value.cause is (Cause.REFUSED if refused else Cause.UNREACHABLE)
    if not refused:
        said = {"too long": "too long", "a file": os.strerror(errno.ENOTSOCK)}
        assert said.get(what, "No such file") in str(caught.value)


async def test_a_full_backlog_makes_the_next_one_wait(path: Path, nursery: trio.Nursery) -> None:
    """Linux says EAGAIN at once, which to Trio looks like a connection."""
    before = open_sockets()
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        first = await open_stream(at(path), Unix(), Limits(), nursery)
        with pytest.raises(NoResponse) as caught:
            await open_stream(at(path), Unix(), Limits(connect=0.2), nursery)
        assert caught.value.cause is Cause.TIMEOUT
        async with trio.open_nursery() as dialing:
            second: list[trio.abc.Stream] = []

            async def dial() -> None:
                second.append(await open_stream(at(path), Unix(), Limits(), nursery))

            dialing.start_soon(dial)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not second
            listener.accept()[0].close()
        for stream in (first, second[0]):
            await stream.aclose()
    assert open_sockets() == before
