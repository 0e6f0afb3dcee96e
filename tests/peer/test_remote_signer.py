"""_remote_signer.py: a key in a process of its own, what that process signs, and what becomes of us without it."""

from __future__ import annotations

import os
import signal
import socket as stdlib_socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trishake
import trishake_protocol
from trishake import AlertCode, Identity, Peer, Rejected, RequestFailed, only
from trishake._errors import SigningFailed
from trishake._messages import encode_message, request
from trishake._remote_signer import RemoteSigner, serve_signer
from trishake._signer import Signer
from trishake.testing._by_hand import read_to_end
from trishake_protocol import GreetingToSign, Role
from trishake_protocol.identity import GreetingContext
from trishake_protocol.messages import Greeting
from trishake_protocol.patterns import CLASSICAL

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    NOBODY,
    NOW,
    QUICK,
    Watch,
    cancelled_at,
    nobody_at,
    open_sockets,
)

HOLDER = """
import sys, trio
from trishake._remote_signer import serve_signer
from trishake_protocol import Identity

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_signer, Identity.from_seed(bytes.fromhex(sys.argv[1])), sys.argv[2])
        print("ready", end="", flush=True)

trio.run(main)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signer"


@asynccontextmanager
async def holder(path: Path, seed: bytes = b"b" * 32) -> AsyncIterator[trio.Process]:
    """A process that has Bob's key, and listens by now. Killed at the end."""
    packages = [str(Path(package.__file__).parents[1]) for package in (trishake, trishake_protocol)]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", HOLDER, seed.hex(), str(path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages)},
    )
    try:
        assert process.stdout is not None
        async with process.stdout:
            assert await process.stdout.receive_some() == b"ready"
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def held_here(path: Path, identity: Identity = BOB) -> AsyncIterator[None]:
    """The same in this process, where it is quick."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_signer, identity, path)
        yield
        nursery.cancel_scope.cancel()


def peer(identity: Identity | Signer, **options: Any) -> Peer:
    return Peer(identity, **{"limits": QUICK, "suites": (CLASSICAL.id,), **options})


def greeting(identity: Identity, role: Role = Role.INITIATOR, **said: Any) -> GreetingToSign:
    record = replace(Greeting(role.value, identity.id.key, (CLASSICAL.id,), NOW), **said).encode()
    responder = EVE.id if role is Role.INITIATOR else None
    return GreetingToSign(GreetingContext(role, b"h" * 32, b"s" * 32, responder), record)


# --- a process that signs -------------------------------------------------------------------------------


async def test_another_process_signs_for_both_roles(path: Path) -> None:
    async with holder(path):
        signer = await RemoteSigner.connect(path)
        assert signer.id == BOB.id
        assert str(BOB.id) in repr(signer)
        async with peer(signer, trust=only(ADA.id)) as bob, peer(ADA, trust=only(BOB.id)) as ada:
            connection = await ada.dial((await bob.listen(ANYWHERE)).invite)
            assert connection.peer == BOB.id
            await connection.aclose()
            assert (await bob.dial((await ada.listen(ANYWHERE)).invite)).peer == ADA.id


async def test_only_its_own_user_can_ask_it(path: Path) -> None:
    before = os.umask(0)
    try:
        async with held_here(path):
            status = path.lstat()
    finally:
        os.umask(before)
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert not path.exists()


async def test_the_process_refuses_every_other_text_and_goes_on(path: Path) -> None:
    good = greeting(BOB).text
    texts: list[object] = [
        b"",
        os.urandom(300),
        b"ssh-connection",
        greeting(EVE).text,
        greeting(BOB, Role.RESPONDER).text[1:],
        good[:-1],
        good + b"\x00",
        good.decode("latin-1"),
        good[64:],
        7,
        True,
        1.5,
        [good],
        {"text": good},
    ]
    async with holder(path) as process:
        for text in texts:
            with pytest.raises(RequestFailed) as caught:
                await request(await trio.open_unix_socket(str(path)), text, max_size=2**20)
            assert caught.value.kind == "no-greeting"
        with pytest.raises(RequestFailed) as caught:
            await request(await trio.open_unix_socket(str(path)), bytes(2**19), max_size=2**20)
        assert caught.value.kind == "bad-request"
        assert "32768" in caught.value.text
        for raw in (b"\xff" * 100, b"\x00\x00\x00\x05\xc1", b"\x00", b""):
            stream = await trio.open_unix_socket(str(path))
            async with stream:
                await stream.send_all(raw)
                await stream.send_eof()
                assert BOB.id.key not in await read_to_end(stream)
        signed = await RemoteSigner(BOB.id, path).sign(greeting(BOB))
        assert greeting(BOB).verify(BOB.id, signed)
        assert process.poll() is None


async def test_the_largest_greeting_fits(path: Path) -> None:
    most = greeting(BOB, caps=tuple(f"{i:02}" + "c" * 62 for i in range(32)), app=bytes(4096), agent="a" * 64)
    async with held_here(path):
        assert most.verify(BOB.id, await RemoteSigner(BOB.id, path).sign(most))


async def test_many_ask_at_once_more_than_can_wait_to_be_accepted(path: Path) -> None:
    async with held_here(path):
        signer = RemoteSigner(BOB.id, path)
        signed: list[bytes] = []

        async def sign(i: int) -> None:
            wanted = greeting(BOB, time=i)
            signature = await signer.sign(wanted)
            assert wanted.verify(BOB.id, signature)
            signed.append(signature)

        async with trio.open_nursery() as nursery:
            for i in range(200):
                nursery.start_soon(sign, i)
        assert len(set(signed)) == 200


async def test_it_signs_for_nobody_else_than_it_is(path: Path) -> None:
    async with held_here(path):
        with pytest.raises(SigningFailed, match="another identity's"):
            await RemoteSigner(EVE.id, path).sign(greeting(EVE))


async def test_a_path_may_be_relative(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    async with held_here(Path("signer")):
        monkeypatch.chdir("/")  # which does not move it
        assert (await RemoteSigner.connect(str(path))).id == BOB.id


async def test_a_place_that_is_taken_is_an_error(path: Path) -> None:
    path.write_text("precious")
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="no socket"), flatten_subgroups=True):
        async with held_here(path):
            pass
    assert path.read_text() == "precious"


# --- a process that is gone -----------------------------------------------------------------------------


async def test_when_the_process_dies_greetings_fail_and_when_it_is_back_they_do_not(path: Path) -> None:
    watch = Watch()
    async with holder(path) as process:
        signer = await RemoteSigner.connect(path)
        bob = peer(signer, observers=[watch])
        async with bob, peer(ADA) as ada:
            invite = (await bob.listen(ANYWHERE)).invite
            await (await ada.dial(invite)).aclose()

            process.kill()
            await process.wait()
            with pytest.raises(Rejected) as caught:
                await ada.dial(invite)
            assert caught.value.reason is AlertCode.BUSY
            failure = await watch.wait_failed()
            assert isinstance(failure, SigningFailed)
            assert str(path) in str(failure)
            with pytest.raises(SigningFailed, match="nobody is at"):
                await bob.dial((await ada.listen(ANYWHERE)).invite)

            async with holder(path):
                assert (await ada.dial(invite)).peer == BOB.id


async def test_a_process_that_hangs_is_given_up_in_time(path: Path) -> None:
    async with holder(path) as process, peer(ADA) as ada:
        invite = (await ada.listen(ANYWHERE)).invite
        signer = await RemoteSigner.connect(path)
        process.send_signal(signal.SIGSTOP)
        async with peer(signer, limits=replace(QUICK, greeting=0.2)) as bob:
            with pytest.raises(SigningFailed, match="the time was up"):
                await bob.dial(invite)
        process.send_signal(signal.SIGCONT)
        async with peer(signer) as bob:
            assert (await bob.dial(invite)).peer == ADA.id


# --- nobody, or somebody else ---------------------------------------------------------------------------


@pytest.mark.parametrize("what", NOBODY)
async def test_where_nobody_is_the_error_names_the_place(path: Path, what: str) -> None:
    path = nobody_at(path, what)
    before = open_sockets()
    for call in (lambda: RemoteSigner.connect(path), lambda: RemoteSigner(BOB.id, path).sign(greeting(BOB))):
        with pytest.raises(SigningFailed, match="nobody is at") as caught:
            await call()
        assert str(path) in str(caught.value)
        assert "None" not in str(caught.value)
    assert open_sockets() == before


@asynccontextmanager
async def something_at(path: Path, script: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[None]:
    socket = trio.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    await socket.bind(str(path))
    socket.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, script, [trio.SocketListener(socket)])
        yield
        nursery.cancel_scope.cancel()


def message(value: object) -> bytes:
    return encode_message(value, 2**20)


@pytest.mark.parametrize(
    ("says", "what"),
    [
        pytest.param(b"", "did not answer as a signer does", id="nothing"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "did not answer as a signer does", id="HTTP"),
        pytest.param(b"\xff" * 64, "did not answer as a signer does", id="a huge length"),
        pytest.param(b"\x00\x00\x00\x01\xc1", "did not answer as a signer does", id="no message"),
        pytest.param(message(5), "did not answer as a signer does", id="no reply"),
        pytest.param(message([0, bytes(2**19)]), "did not answer as a signer does", id="too much"),
        pytest.param(message([0, bytes(40)])[:-1], "did not answer as a signer does", id="a part"),
        pytest.param(message([0, None]), "is no signer: it answered a NoneType", id="None"),
        pytest.param(message([0, "x" * 32]), "is no signer: it answered a str", id="str"),
        pytest.param(message([0, [1]]), "is no signer: it answered a list", id="list"),
        pytest.param(message([1, "unknown", "no idea"]), "does not sign it", id="a failure"),
    ],
)
async def test_who_answers_otherwise_than_a_signer_is_none(path: Path, says: bytes, what: str) -> None:
    async def script(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive_some()
                await stream.send_all(says)
            except trio.BrokenResourceError:
                pass  # it has heard enough

    before = open_sockets()
    async with something_at(path, script):
        for call in (lambda: RemoteSigner.connect(path), lambda: RemoteSigner(BOB.id, path).sign(greeting(BOB))):
            with pytest.raises(SigningFailed, match=what) as caught:
                await call()
            assert str(path) in str(caught.value)
    await wait_all_tasks_blocked()
    assert open_sockets() == before


@pytest.mark.parametrize(
    "key", [b"", bytes(31), bytes(32), bytes(33)], ids=["empty", "short", "small order", "long"]
)
async def test_who_names_no_peer_is_no_signer(path: Path, key: bytes) -> None:
    async def script(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(message([0, key]))

    async with something_at(path, script):
        with pytest.raises(SigningFailed, match="named no peer id"):
            await RemoteSigner.connect(path)


async def test_who_is_silent_is_waited_for_until_the_caller_gives_up(path: Path) -> None:
    async def script(stream: trio.SocketStream) -> None:
        async with stream:
            assert await read_to_end(stream) == message(None)  # and then our end of the stream

    before = open_sockets()
    async with something_at(path, script):
        with trio.move_on_after(0.1) as scope:
            await RemoteSigner.connect(path)
        assert scope.cancelled_caught
        await wait_all_tasks_blocked(0.01)
    assert open_sockets() == before


async def test_where_the_backlog_is_full_it_waits_for_its_turn(path: Path) -> None:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        async with await trio.open_unix_socket(str(path)):
            with trio.move_on_after(0.2) as scope:
                await RemoteSigner.connect(path)
            assert scope.cancelled_caught


async def test_cancelled_at_any_step_it_leaves_nothing_open(path: Path) -> None:
    async with held_here(path):
        before = open_sockets()
        signer = RemoteSigner(BOB.id, path)
        for step in range(1, 200):
            reached = await cancelled_at(step, lambda: signer.sign(greeting(BOB)))
            await wait_all_tasks_blocked()
            assert open_sockets() == before, step
            if not reached:
                break
        assert not reached
        assert step > 5
