"""_ssh_agent.py: a real ssh-agent with real keys, and such as only claim to be one."""

from __future__ import annotations

import builtins
import os
import shutil
import socket as stdlib_socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trishake import AlertCode, Identity, InvalidPeerId, Peer, PeerId, Rejected, only
from trishake._errors import SigningFailed
from trishake._signer import Signer
from trishake._ssh_agent import SshAgent
from trishake_protocol import GreetingToSign, Role
from trishake_protocol.identity import GreetingContext
from trishake_protocol.messages import Greeting
from trishake_protocol.patterns import CLASSICAL

from .conftest import ADA, ANYWHERE, BOB, EVE, NOW, QUICK, Watch, cancelled_at, open_sockets


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed: these tests need OpenSSH's client (openssh-client)"
    return found


class Agent:
    """A running ssh-agent, and what one does with it on a command line."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent"
        self._directory = directory

    def generate(self, name: str, type_: str = "ed25519", comment: str = "") -> Path:
        """A key in a file, its public half beside it."""
        file = self._directory / name
        run(program("ssh-keygen"), "-q", "-t", type_, "-N", "", "-C", comment, "-f", str(file))
        return file

    def add(self, name: str, type_: str = "ed25519", comment: str = "") -> PeerId | None:
        """A new key in the agent; who it is, if it can be a peer's."""
        file = self.generate(name, type_, comment)
        self.ssh_add("-q", str(file))
        blob = bytes.fromhex(run(sys.executable, "-c", _BLOB, str(file.with_suffix(".pub"))))
        return PeerId(blob[-32:]) if type_ == "ed25519" else None

    def ssh_add(self, *arguments: str, **environment: str) -> None:
        run(program("ssh-add"), *arguments, SSH_AUTH_SOCK=str(self.path), **environment)


_BLOB = "import base64, sys; print(base64.b64decode(open(sys.argv[1]).read().split()[1]).hex())"


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent without a key, killed at the end."""
    agent = Agent(tmp_path)
    command = [program("ssh-agent"), "-D", "-a", str(agent.path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 10
        while not agent.path.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, "ssh-agent made no socket within 10 s"
            time.sleep(0.005)
        yield agent
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = {thread for thread in threading.enumerate() if busy(thread)}
    yield
    until = time.monotonic() + 5
    while left := [thread for thread in threading.enumerate() if busy(thread) and thread not in before]:
        assert time.monotonic() < until, left
        time.sleep(0.005)


def busy(thread: threading.Thread) -> bool:
    """Whether it is one of Trio's that works for us; those that wait for work are named otherwise."""
    return "_ask" in thread.name


def peer(identity: Identity | Signer, **options: Any) -> Peer:
    return Peer(identity, **{"limits": QUICK, "suites": (CLASSICAL.id,), **options})


def greeting(id_: PeerId) -> GreetingToSign:
    record = Greeting(Role.RESPONDER.value, id_.key, (CLASSICAL.id,), NOW).encode()
    return GreetingToSign(GreetingContext(Role.RESPONDER, b"h" * 32, b"s" * 32, None), record)


# --- an agent -------------------------------------------------------------------------------------------


async def test_a_key_of_the_agents_greets_in_both_roles(agent: Agent) -> None:
    id_ = agent.add("key")
    assert id_ is not None
    signer = await SshAgent.connect(path=agent.path)
    assert signer.id == id_
    assert str(id_) in repr(signer)
    async with peer(signer, trust=only(ADA.id)) as ours, peer(ADA, trust=only(id_)) as ada:
        connection = await ada.dial((await ours.listen(ANYWHERE)).invite)
        assert connection.peer == id_
        await connection.aclose()
        assert (await ours.dial((await ada.listen(ANYWHERE)).invite)).peer == ADA.id


async def test_two_keys_of_one_agent_meet(agent: Agent) -> None:
    one, other = agent.add("one"), agent.add("other")
    assert one is not None
    assert other is not None
    first = await SshAgent.connect(one, path=str(agent.path))
    second = await SshAgent.connect(str(other), path=agent.path)
    async with peer(first) as guest, peer(second) as host:
        assert (await guest.dial((await host.listen(ANYWHERE)).invite)).peer == other


async def test_by_default_it_is_the_agent_of_the_environment(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = agent.add("key")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
    assert (await SshAgent.connect()).id == id_
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    with pytest.raises(SigningFailed, match="no ssh-agent at /nowhere"):
        await SshAgent.connect()
    assert (await SshAgent.connect(path=agent.path)).id == id_
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("SSH_AUTH_SOCK")
        else:
            monkeypatch.setenv("SSH_AUTH_SOCK", unset)
        with pytest.raises(SigningFailed, match="SSH_AUTH_SOCK is not set"):
            await SshAgent.connect()


async def test_of_several_keys_it_has_to_be_said_which_one(agent: Agent) -> None:
    one, other = agent.add("one"), agent.add("other")
    with pytest.raises(SigningFailed, match="say which one") as caught:
        await SshAgent.connect(path=agent.path)
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)
    assert (await SshAgent.connect(other, path=agent.path)).id == other


async def test_keys_of_other_types_are_passed_over(agent: Agent) -> None:
    for type_ in ("rsa", "ecdsa"):
        agent.add(type_, type_)
    with pytest.raises(SigningFailed, match=r"holds none \(ssh-add adds one\)"):
        await SshAgent.connect(path=agent.path)
    id_ = agent.add("key", comment="ada@example")
    signer = await SshAgent.connect(path=agent.path)
    assert signer.id == id_
    assert greeting(signer.id).verify(signer.id, await signer.sign(greeting(signer.id)))


async def test_a_certificate_beside_its_key_is_passed_over(agent: Agent) -> None:
    """ssh-add puts both into the agent, where it finds both."""
    authority, file = agent.generate("authority"), agent.generate("key")
    run(program("ssh-keygen"), "-q", "-s", str(authority), "-I", "ada", "-n", "ada", str(file.with_suffix(".pub")))
    agent.ssh_add("-q", str(file))
    signer = await SshAgent.connect(path=agent.path)
    assert greeting(signer.id).verify(signer.id, await signer.sign(greeting(signer.id)))


async def test_a_key_that_the_agent_does_not_hold_is_named(agent: Agent) -> None:
    agent.add("key")
    for wanted in (EVE.id, str(EVE.id)):
        with pytest.raises(SigningFailed, match=f"does not hold the key of {EVE.id}"):
            await SshAgent.connect(wanted, path=agent.path)
    with pytest.raises(InvalidPeerId):
        await SshAgent.connect("ada", path=agent.path)


async def test_an_agent_without_keys_holds_none(agent: Agent) -> None:
    with pytest.raises(SigningFailed, match=r"holds none \(ssh-add adds one\)"):
        await SshAgent.connect(path=agent.path)


async def test_a_key_that_is_taken_away_signs_no_more_until_it_is_back(agent: Agent, tmp_path: Path) -> None:
    id_, watch = agent.add("key"), Watch()
    signer = await SshAgent.connect(path=agent.path)
    async with peer(signer, observers=[watch]) as ours, peer(ADA) as ada:
        invite = (await ours.listen(ANYWHERE)).invite
        agent.ssh_add("-q", "-D")
        with pytest.raises(Rejected) as caught:
            await ada.dial(invite)
        assert caught.value.reason is AlertCode.BUSY
        failure = await watch.wait_failed()
        assert isinstance(failure, SigningFailed)
        assert f"no longer holds the key of {id_}" in str(failure)
        with pytest.raises(SigningFailed, match="no longer holds the key"):
            await ours.dial((await ada.listen(ANYWHERE)).invite)
        agent.ssh_add("-q", str(tmp_path / "key"))
        assert (await ada.dial(invite)).peer == id_


async def test_a_locked_agent_signs_no_more_until_it_is_unlocked(agent: Agent, tmp_path: Path) -> None:
    agent.add("key")
    signer = await SshAgent.connect(path=agent.path)
    askpass = tmp_path / "askpass"
    askpass.write_text("#!/bin/sh\necho password\n")
    askpass.chmod(0o700)
    answers = {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    agent.ssh_add("-x", **answers)
    with pytest.raises(SigningFailed, match=r"no longer holds the key.*unlocked"):
        await signer.sign(greeting(signer.id))
    agent.ssh_add("-X", **answers)
    assert greeting(signer.id).verify(signer.id, await signer.sign(greeting(signer.id)))


async def test_many_greetings_sign_at_once(agent: Agent) -> None:
    agent.add("key")
    signer = await SshAgent.connect(path=agent.path)
    wanted = greeting(signer.id)
    before = open_sockets()
    signed: list[bytes] = []

    async def sign() -> None:
        signed.append(await signer.sign(wanted))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(sign)
    assert len(signed) == 100
    assert all(wanted.verify(signer.id, signature) for signature in set(signed))
    assert open_sockets() == before


async def test_an_agent_that_is_gone_is_named(agent: Agent, tmp_path: Path) -> None:
    agent.add("key")
    signer = await SshAgent.connect(path=agent.path)
    agent.path.rename(tmp_path / "elsewhere")
    with pytest.raises(SigningFailed, match="there is no ssh-agent at") as caught:
        await signer.sign(greeting(signer.id))
    assert str(agent.path) in str(caught.value)


@pytest.mark.parametrize("what", ["nothing", "a file", "a stale socket", "too long"])
async def test_where_there_is_no_agent_the_error_names_the_place(tmp_path: Path, what: str) -> None:
    path = tmp_path / ("x" * 200 if what == "too long" else "agent")
    if what == "a file":
        path.write_text("")
    elif what == "a stale socket":
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as crashed:
            crashed.bind(str(path))
    before = open_sockets()
    with pytest.raises(SigningFailed, match="there is no ssh-agent at") as caught:
        await SshAgent.connect(path=path)
    assert str(path) in str(caught.value)
    assert "None" not in str(caught.value)
    assert open_sockets() == before


async def test_without_paramiko_the_error_says_what_to_install(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "paramiko"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "paramiko":
            raise ModuleNotFoundError("No module named 'paramiko'", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'trishake\[ssh\]'"):
        await SshAgent.connect(path=agent.path)
    async with peer(ADA) as ada, peer(SshAgent(BOB.id, str(agent.path))) as ours:
        with pytest.raises(SigningFailed, match=r"pip install 'trishake\[ssh\]'"):
            await ours.dial((await ada.listen(ANYWHERE)).invite)


# --- what only claims to be one -------------------------------------------------------------------------


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def key_blob(id_: PeerId) -> bytes:
    return string(b"ssh-ed25519") + string(id_.key)


def keys(*blobs: bytes, count: int | None = None, comment: bytes = b"") -> bytes:
    number = len(blobs) if count is None else count
    return string(b"\x0c" + number.to_bytes(4, "big") + b"".join(string(blob) + string(comment) for blob in blobs))


def signed(type_: bytes, signature: bytes) -> bytes:
    return string(b"\x0e" + string(string(type_) + string(signature)))


FAILURE = string(b"\x05")


class Claims:
    """Gives these answers, one for each request, to everybody who connects; then it is silent, or hangs up."""

    def __init__(self, path: Path, answers: tuple[bytes, ...], *, silent: bool) -> None:
        self.asked = threading.Event()
        self.heard_end = threading.Event()
        self._answers = answers
        self._silent = silent
        self._listener = stdlib_socket.socket(stdlib_socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(stdlib_socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: stdlib_socket.socket) -> None:
        try:
            for answer in self._answers:
                if not connection.recv(65536):
                    return
                connection.sendall(answer)
            self.asked.set()
            if self._silent:
                while connection.recv(65536):
                    pass
                self.heard_end.set()
        except OSError:
            pass  # it has heard enough


@contextmanager
def claims(path: Path, *answers: bytes, silent: bool = False) -> Iterator[Claims]:
    agent = Claims(path, answers, silent=silent)
    try:
        yield agent
    finally:
        agent.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(b"", "hung up", id="nothing"),
        pytest.param(b"\x00\x00", "hung up", id="half a length"),
        pytest.param(keys(key_blob(BOB.id))[:-1], "hung up", id="a part"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "the limit is 262144", id="an ssh server"),
        pytest.param(b"\xff\xff\xff\xff" + bytes(64), "4294967295 bytes, the limit is 262144", id="a huge length"),
        pytest.param((262145).to_bytes(4, "big"), "262145 bytes, the limit is 262144", id="just too long"),
        pytest.param(FAILURE, "could not get keys", id="a failure"),
        pytest.param(string(b""), "could not get keys", id="an empty answer"),
        pytest.param(string(b"\x0e" + bytes(80)), "could not get keys", id="another answer"),
        pytest.param(keys(count=0xFFFFFFFF), "list of keys is cut off", id="more keys than there"),
        pytest.param(keys(key_blob(BOB.id), count=2), "list of keys is cut off", id="one more key than there"),
        pytest.param(keys(b"\xff\xfe\xfd"), "holds none", id="a key that is none"),
        pytest.param(keys(string(b"ssh-ed25519") + string(bytes(5))), "holds none", id="a short key"),
        pytest.param(keys(key_blob(BOB.id) + b"x"), "holds none", id="a long key"),
        pytest.param(keys(), "holds none", id="no keys"),
        pytest.param(keys(string(b"ssh-ed25519") + string(bytes(32))), "holds none", id="a key of small order"),
        pytest.param(keys(*[b""] * 1000), "holds none", id="empty keys"),
    ],
)
async def test_who_answers_otherwise_than_an_agent_is_none(tmp_path: Path, answer: bytes, says: str) -> None:
    path = tmp_path / "agent"
    before = open_sockets()
    with claims(path, answer):
        with pytest.raises(SigningFailed, match=says) as caught, trio.fail_after(5):
            await SshAgent.connect(path=path)
        assert str(path) in str(caught.value)
    assert open_sockets() == before


HAS_BOB = keys(key_blob(BOB.id))
NEGATIVE_RSA = string(b"ssh-rsa") + string(b"\x01\x00\x01") + string(b"\x80" + bytes(127))


@pytest.mark.parametrize(
    "answer",
    [keys(key_blob(BOB.id), comment=b"\xff\xfe"), keys(NEGATIVE_RSA, b"\xff", b"", key_blob(BOB.id))],
    ids=["a comment in no UTF-8", "keys that paramiko cannot read"],
)
async def test_what_stands_beside_the_key_may_be_anything(tmp_path: Path, answer: bytes) -> None:
    with claims(tmp_path / "agent", answer):
        assert (await SshAgent.connect(path=tmp_path / "agent")).id == BOB.id


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(FAILURE, "did not answer as one does", id="a failure"),
        pytest.param(b"", "hung up", id="nothing"),
        pytest.param(b"\xff" * 8, "the limit is 262144", id="a huge length"),
        pytest.param(signed(b"ssh-rsa", bytes(64)), "no Ed25519 signature", id="another type"),
        pytest.param(signed(b"ssh-ed25519", bytes(63)), "no Ed25519 signature", id="too short"),
        pytest.param(string(b"\x0e"), "no Ed25519 signature", id="empty"),
        pytest.param(string(b"\x0e" + b"\xff" * 200), "no Ed25519 signature", id="garbage"),
        pytest.param(signed(b"ssh-ed25519", bytes(64)), "no signature of", id="a wrong signature"),
        pytest.param(
            string(b"\x0e" + string(string(b"ssh-ed25519") + string(bytes(64)) + b"x")), "no ", id="more"
        ),
    ],
)
async def test_what_is_no_signature_of_the_key_is_shown_to_nobody(
    tmp_path: Path, answer: bytes, says: str
) -> None:
    path = tmp_path / "agent"
    with claims(path, HAS_BOB, answer):
        async with peer(SshAgent(BOB.id, str(path))) as ours, peer(ADA) as ada:
            with pytest.raises(SigningFailed, match=says):
                await ours.dial((await ada.listen(ANYWHERE)).invite)


async def test_an_answer_in_single_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent"

    class Dribbles(Claims):
        def _answer(self, connection: stdlib_socket.socket) -> None:
            connection.recv(65536)
            for i in range(len(HAS_BOB)):
                connection.sendall(HAS_BOB[i : i + 1])

    agent = Dribbles(path, (), silent=False)
    try:
        assert (await SshAgent.connect(path=path)).id == BOB.id
    finally:
        agent.close()


@pytest.mark.parametrize(
    "answers", [(), (b"\x00\x00\x00",), (HAS_BOB[:40],), (HAS_BOB,)], ids=["at all", "length", "middle", "signing"]
)
async def test_a_silent_agent_is_left_when_the_caller_gives_up(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    path = tmp_path / "agent"
    before = open_sockets()
    with claims(path, *answers, silent=True) as agent:
        calls: list[Callable[[], Any]] = [lambda: SshAgent(BOB.id, str(path)).sign(greeting(BOB.id))]
        if answers != (HAS_BOB,):
            calls.append(lambda: SshAgent.connect(path=path))
        for call in calls:
            agent.asked.clear()
            agent.heard_end.clear()
            with trio.move_on_after(0.1) as scope:
                await call()
            assert scope.cancelled_caught
            # The thread has ended with the call, and its socket is closed.
            assert not any(busy(thread) for thread in threading.enumerate())
            assert await trio.to_thread.run_sync(agent.heard_end.wait, 5)
    assert open_sockets() == before


async def test_a_greeting_that_a_silent_agent_should_sign_ends_in_time(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    with claims(path, HAS_BOB, silent=True):
        ours = peer(SshAgent(BOB.id, str(path)), limits=replace(QUICK, greeting=0.2))
        async with ours, peer(ADA) as ada:
            with pytest.raises(SigningFailed, match="the time was up"):
                await ours.dial((await ada.listen(ANYWHERE)).invite)


async def test_an_agent_that_is_busy_holds_up_nobody_else(tmp_path: Path) -> None:
    """Its backlog is full, and to connect to it waits: not in the loop that all others share."""
    path = tmp_path / "agent"
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as first:
            first.connect(str(path))
            with trio.move_on_after(0.2) as scope:
                await SshAgent.connect(path=path)
            assert scope.cancelled_caught


async def test_many_who_wait_for_a_silent_agent_hold_up_no_other_thread(tmp_path: Path) -> None:
    """Such as Trio's own, which look up names."""
    path = tmp_path / "agent"
    common = trio.to_thread.current_default_thread_limiter()
    with claims(path, silent=True):
        signer = SshAgent(BOB.id, str(path))
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(signer.sign, greeting(BOB.id))
            await wait_all_tasks_blocked()
            assert sum(busy(thread) for thread in threading.enumerate()) <= 8
            assert common.borrowed_tokens == 0
            nursery.cancel_scope.cancel()


async def test_a_process_whose_agent_is_silent_exits_when_it_wants_to(tmp_path: Path) -> None:
    path = tmp_path / "agent"
    script = (
        "import sys, trio\n"
        "from trishake._ssh_agent import SshAgent\n"
        "async def main():\n"
        "    with trio.move_on_after(0.2):\n"
        "        await SshAgent.connect(path=sys.argv[1])\n"
        "trio.run(main)\n"
    )
    with claims(path, silent=True):
        command = [sys.executable, "-c", script, str(path)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with trio.fail_after(20):
            done = await trio.run_process(command, env=env, capture_stderr=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


async def test_cancelled_at_any_step_it_leaves_nothing_open(agent: Agent) -> None:
    agent.add("key")
    signer = await SshAgent.connect(path=agent.path)
    before = open_sockets()
    for step in range(1, 200):
        reached = await cancelled_at(step, lambda: signer.sign(greeting(signer.id)))
        assert open_sockets() == before, step
        assert not any(busy(thread) for thread in threading.enumerate()), step
        if not reached:
            break
    assert not reached
    assert step > 5
