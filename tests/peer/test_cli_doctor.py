"""`trishake doctor` against whatever may stand at a port: real servers on loopback, and what is wrong first."""

from __future__ import annotations

import http.server
import json
import shutil
import socket as stdlib_socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import trio

from trishake import (
    Address,
    DialError,
    Identity,
    Introduction,
    Limits,
    Listener,
    Network,
    Observer,
    Peer,
    Policy,
    Progress,
    Role,
    Step,
    Tls,
    accept,
    anyone,
    blocked,
    reject,
)
from trishake._known_peers import KnownPeers
from trishake.cli import _doctor
from trishake.cli._arguments import _parser
from trishake.cli._findings import CHECKS
from trishake.cli._outcomes import ExitCode
from trishake.cli._output import Output, run_command
from trishake_protocol import AlertCode
from trishake_protocol.messages import Alert, FrameType, encode_frame

from .command_line import User, in_words, too_wide
from .conftest import ANYWHERE, BOB, EVE, PSK, Resolver, closed_port, frame_length, serving

QUICKLY = "0.4"
"""Seconds, for --timeout, where an answer is awaited that does not come."""


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor said with --json: the checks by their names, and the conclusion."""

    code: int
    checks: dict[str, dict[str, Any]]
    conclusion: dict[str, Any]

    def statuses(self) -> str:
        """The first letter of each, in their order."""
        return "".join(check["status"][0] for check in self.checks.values())

    def said(self, check: str) -> str:
        return " ".join(self.checks[check]["detail"])


Doctor = Callable[..., Awaitable[Diagnosis]]


@pytest.fixture
def ada(tmp_path: Path) -> User:
    return User(tmp_path / "ada")


@pytest.fixture
def doctor(ada: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command in this process, once for people and once for machines."""
    monkeypatch.setenv("TRISHAKE_HOME", str(ada.home))

    async def run(*arguments: object, timeout: str = QUICKLY, both: bool = False) -> Diagnosis:
        told: list[str] = []
        codes: list[ExitCode] = []
        for options in ([], ["--json"]) if both else (["--json"],):
            given = ["doctor", *map(str, arguments), "--timeout", timeout, *options]
            with trio.fail_after(12 * float(timeout) + 5):
                parsed = _parser().parse_args(given)
                codes.append(await _doctor._doctor(parsed, Output(as_json=parsed.json)))
            shown = capsys.readouterr()
            assert "\x1b" not in shown.out + shown.err
            assert parsed.json or not too_wide(shown.out)
            told.append(shown.out)
        assert len(set(codes)) == 1
        facts = [json.loads(line) for line in told[-1].splitlines()]
        *checks, conclusion = facts
        assert [check["check"] for check in checks] == list(CHECKS)
        assert [check["number"] for check in checks] == list(range(1, 10))
        assert conclusion["exit_code"] == codes[0]
        if both:
            assert all(in_words(line) in in_words(told[0]) for line in _untimed(checks))
        return Diagnosis(codes[0], {check["check"]: check for check in checks}, conclusion)

    return run


def _untimed(checks: list[dict[str, Any]]) -> list[str]:
    """What does not differ from one time to the next."""
    return [line for check in checks if check["check"] not in ("speed", "port") for line in check["detail"]]


@asynccontextmanager
async def listening(
    identity: Identity = BOB,
    *,
    trust: Policy = anyone,
    network: Network | None = None,
    address: str = ANYWHERE,
    limits: Limits | None = None,
) -> AsyncIterator[Listener]:
    async with Peer(identity, trust=trust, network=network, limits=limits) as peer:
        yield await peer.listen(address)


def unnamed(listener: Listener, scheme: str = "tcp") -> str:
    return f"{scheme}://{listener.addresses[0].endpoint}"


# --- a peer is there ------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [ANYWHERE, "tls://127.0.0.1:0", "ws://127.0.0.1:0/way", "unix://{}/bob"])
async def test_where_all_is_well_every_check_says_so(doctor: Doctor, tmp_path: Path, address: str) -> None:
    async with listening(address=address.format(tmp_path)) as listener:
        found = await doctor(listener.invite, timeout="5", both=True)
    assert (found.code, found.statuses()) == (ExitCode.OK, "ooooooooo")
    assert found.conclusion["outcome"] == "accepted"
    assert found.checks["versions"]["versions"] == [1, 1]
    assert found.checks["versions"]["suites"] == [0x0002, 0x0001]
    assert found.checks["peer"]["peer"] == str(BOB.id)
    assert found.checks["clock"]["clock_difference"] in (-1, 0, 1)
    speed = found.checks["speed"]
    assert 0 < speed["ping"] < 1000
    assert speed["greeting"] > 0
    assert (speed["seen"] is None) == address.startswith("unix")


@pytest.mark.parametrize(("quiet", "connections"), [(False, 4), (True, 6)])
async def test_few_connections_are_made_to_a_peer(
    doctor: Doctor, tmp_path: Path, quiet: bool, connections: int
) -> None:
    """One at the port, one each for versions and suites, or else for the other protocols, and the dial."""
    admitted: list[Progress] = []

    class Doorman(Observer):
        def progress(self, progress: Progress) -> None:
            if progress.step is Step.ADMITTED:
                admitted.append(progress)

    network = Network("home", PSK, quiet=quiet)
    network.save(tmp_path / "network")
    async with Peer(BOB, network=network, observers=[Doorman()]) as bob:
        listener = await bob.listen(ANYWHERE)
        assert (await doctor(listener.invite, "--network", tmp_path / "network")).code == ExitCode.OK
    assert len(admitted) == connections


async def test_who_is_examined_is_told_that_nothing_is_to_be_done(doctor: Doctor) -> None:
    failures: list[DialError] = []

    class Doorman(Observer):
        def failed(self, role: Role, error: DialError) -> None:
            failures.append(error)

    async with Peer(BOB, observers=[Doorman()]) as bob:
        listener = await bob.listen(ANYWHERE)
        assert (await doctor(listener.invite)).code == ExitCode.OK
    assert [error.timeline.told for error in failures] == [None, "UNSUPPORTED_VERSION", "UNSUPPORTED_SUITE"]
    for error in failures:
        assert "othing to do on this side" in str(error)
        assert "update it" not in str(error)
    assert all("`trishake doctor`" in str(error) for error in failures[1:])


async def test_who_is_rejected_is_told_the_verdict_and_the_clock(doctor: Doctor, ada: User) -> None:
    async def unwanted(_: Introduction) -> Any:
        return reject(text="not\x1b[31m today")

    async with listening(trust=unwanted) as listener:
        found = await doctor(listener.invite, timeout="5", both=True)
    assert (found.code, found.statuses()) == (ExitCode.REJECTED, "oooooofos")
    assert "POLICY" in found.said("verdict")
    assert "not\\x1b[31m today" in found.said("verdict")
    assert found.conclusion["failed"] == "verdict"
    async with listening(trust=blocked(ada.identity.id)) as listener:
        found = await doctor(listener.invite, timeout="5")
    assert found.checks["verdict"]["reason"] == "IDENTITY_BLOCKED"
    assert str(ada.identity.id) in found.conclusion["message"]


async def test_somebody_else_at_the_address_is_the_wrong_identity(doctor: Doctor) -> None:
    async with listening() as listener:
        found = await doctor(f"tcp://{EVE.id}@{listener.addresses[0].endpoint}", timeout="5", both=True)
    assert (found.code, found.statuses()) == (ExitCode.WRONG_IDENTITY, "ooooofsss")
    assert str(BOB.id) in found.said("peer")
    assert found.conclusion["expected"] == str(EVE.id)


async def test_a_peer_that_is_busy_is_one_all_the_same(doctor: Doctor) -> None:
    async with (
        listening(limits=Limits(handshakes_per_address=1)) as listener,
        await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port),
    ):
        found = await doctor(listener.invite, timeout="5", both=True)
    assert (found.code, found.statuses()) == (ExitCode.REJECTED, "oooouufss")
    assert "BUSY" in found.said("versions")
    assert found.checks["verdict"]["reason"] == "BUSY"


async def test_a_peer_that_closes_says_so(doctor: Doctor) -> None:
    async with trio.open_nursery() as nursery:
        listeners: list[Listener] = []

        async def leave(_: Introduction) -> Any:
            nursery.start_soon(listeners[0].aclose)
            await trio.sleep_forever()

        async with listening(trust=leave) as listener:
            listeners.append(listener)
            found = await doctor(listener.invite, timeout="5")
    assert (found.code, found.statuses()) == (ExitCode.REJECTED, "oooooofos")
    assert found.checks["verdict"]["reason"] == "SHUTTING_DOWN"


async def test_a_policy_that_takes_too_long_is_no_response(doctor: Doctor) -> None:
    async def ponder(_: Introduction) -> Any:
        await trio.sleep_forever()

    async with listening(trust=ponder) as listener:
        found = await doctor(listener.invite)
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "oooooofos")
    assert found.checks["verdict"]["reason"] == "verdict/timeout"


async def test_a_quiet_peer_that_does_not_decide_is_a_peer_all_the_same(doctor: Doctor, tmp_path: Path) -> None:
    async def ponder(_: Introduction) -> Any:
        await trio.sleep_forever()

    QUIET.save(tmp_path / "network")
    async with listening(trust=ponder, network=QUIET) as listener:
        found = await doctor(listener.invite, "--network", tmp_path / "network")
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "oooouofos")


async def test_a_peer_that_falls_silent_after_its_verdict_keeps_nobody_waiting(doctor: Doctor) -> None:
    """Between the two, somebody lets the two frames of a greeting come back, and nothing behind them."""
    async with listening() as listener:

        async def relay(near: trio.SocketStream) -> None:
            far = await trio.open_tcp_stream("127.0.0.1", listener.addresses[0].port)
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, near, far, None)
                nursery.start_soon(_pass_on, far, near, 2)

        async with serving(relay) as port:
            started = trio.current_time()
            found = await doctor(f"tcp://{BOB.id}@127.0.0.1:{port}")
            assert trio.current_time() - started < 3
    assert (found.code, found.statuses()) == (ExitCode.OK, "oooooooow")
    assert found.checks["speed"]["ping"] is None


async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, frames: int | None) -> None:
    """All of it, or so many frames; and the end only if all had passed."""
    buffer = bytearray()
    try:
        while data := await source.receive_some():
            if frames is None:
                await sink.send_all(data)
                continue
            buffer += data
            while frames and (length := frame_length(buffer, preface=False)) and len(buffer) >= length:
                await sink.send_all(buffer[:length])
                del buffer[:length]
                frames -= 1
        if frames != 0:
            await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def test_a_clock_that_is_far_off_is_a_warning(ada: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor is another process here, and has its own clock."""
    monkeypatch.setattr("trishake._peer.unix_time", lambda: int(time.time()) + 1000)
    async with listening() as listener:
        done = await ada.run("doctor", "--json", listener.invite)
    assert done.code == ExitCode.OK
    *checks, conclusion = done.facts()
    assert 1000 <= checks[7]["clock_difference"] <= 1002  # a second may end between the two
    assert checks[7]["status"] == "warning"
    assert conclusion["warnings"] == ["clock"]


# --- networks, versions, suites -------------------------------------------------------------------------

PRIVATE = Network("home", PSK)
QUIET = Network("home", PSK, quiet=True)


@pytest.mark.parametrize(
    ("theirs", "ours", "code", "statuses"),
    [
        (PRIVATE, PRIVATE, ExitCode.OK, "ooooooooo"),
        (QUIET, PRIVATE, ExitCode.OK, "oooouoooo"),
        (PRIVATE, None, ExitCode.REJECTED, "oooofssss"),
        (QUIET, None, ExitCode.NO_RESPONSE, "ooofsssss"),
        (None, PRIVATE, ExitCode.REJECTED, "oooofssss"),
        (PRIVATE, Network("home", bytes(32)), ExitCode.REJECTED, "oooooufss"),
        pytest.param(QUIET, Network("home", bytes(32)), ExitCode.NO_RESPONSE, "ooofsssss", marks=pytest.mark.slow),
        (Network("club"), None, ExitCode.REJECTED, "oooooufss"),
    ],
    ids=["key", "quiet, key", "no key", "quiet, no key", "public", "other key", "quiet, other key", "other name"],
)
async def test_a_network_lets_in_whom_it_lets_in(
    doctor: Doctor, tmp_path: Path, theirs: Network | None, ours: Network | None, code: ExitCode, statuses: str
) -> None:
    file = tmp_path / "network"
    options: list[object] = []
    if ours is not None:
        ours.save(file)
        options = ["--network", file]
    async with listening(network=theirs) as listener:
        found = await doctor(listener.invite, *options)
    assert (found.code, found.statuses()) == (code, statuses)


@asynccontextmanager
async def answering(alert: Alert) -> AsyncIterator[str]:
    """Whoever says anything there is told this."""

    async def tell(stream: trio.SocketStream) -> None:
        async with stream:
            if await stream.receive_some():
                await stream.send_all(encode_frame(FrameType.ALERT, alert.encode()))

    async with serving(tell) as port:
        yield f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        (PRIVATE, None, "it is in a private network, and we dialed without a network key"),
        (None, PRIVATE, "it is in a public network, and we dialed with the key of a private one, 'home'"),
    ],
)
async def test_whose_network_is_private_is_said(
    doctor: Doctor, tmp_path: Path, theirs: Network | None, ours: Network | None, words: str
) -> None:
    file = tmp_path / "network"
    if ours is not None:
        ours.save(file)
    async with listening(network=theirs) as listener:
        found = await doctor(listener.invite, *(() if ours is None else ("--network", file)))
    assert words in found.conclusion["message"]
    assert {check["milliseconds"] for check in found.checks.values() if check["status"] == "skipped"} == {None}


async def test_what_is_not_told_is_not_known(doctor: Doctor) -> None:
    """It names its versions to the first, and closes on whoever asks for its suites."""
    said = [Alert(AlertCode.UNSUPPORTED_VERSION, versions=(1, 1))]

    async def tell(stream: trio.SocketStream) -> None:
        async with stream:
            if said and await stream.receive_some():
                await stream.send_all(encode_frame(FrameType.ALERT, said.pop().encode()))

    async with serving(tell) as port:
        found = await doctor(f"tcp://127.0.0.1:{port}")
    assert found.checks["versions"]["status"] == "unknown"
    assert found.checks["versions"]["detail"] == ["version 1", "suites not told"]


async def test_a_peer_of_a_later_version_is_told_apart(doctor: Doctor) -> None:
    async with answering(Alert(AlertCode.UNSUPPORTED_VERSION, versions=(2, 3))) as address:
        found = await doctor(address, both=True)
    assert (found.code, found.statuses()) == (ExitCode.REJECTED, "oooofssss")
    assert "versions 2 to 3" in found.said("versions")
    assert "This side is older" in found.conclusion["message"]


# --- who is known ---------------------------------------------------------------------------------------


async def test_a_stranger_that_nobody_named_is_not_told_who_we_are(doctor: Doctor, ada: User) -> None:
    met: list[Introduction] = []

    async def note(introduction: Introduction) -> Any:
        met.append(introduction)
        return accept()

    async with listening(trust=note) as listener:
        found = await doctor(unnamed(listener), timeout="5", both=True)
        assert not met
        assert (found.code, found.statuses()) == (ExitCode.UNTRUSTED, "ooooofsos")
        assert str(BOB.id) in found.said("peer")
        assert "`trishake dial`" in found.conclusion["message"]
        found = await doctor(unnamed(listener), "--trust", "strict", timeout="5")
        assert found.code == ExitCode.UNTRUSTED
        assert f"add this line: {listener.addresses[0].endpoint} {BOB.id}" in found.conclusion["message"]
        assert not met
        for trust in ("anyone", "accept-new"):
            found = await doctor(unnamed(listener), "--trust", trust, timeout="5")
            assert (found.code, found.checks["peer"]["known"]) == (ExitCode.OK, "no")
    assert {each.peer for each in met} == {ada.identity.id}
    assert not (ada.home / "known_peers").exists()


async def test_whom_the_file_of_known_peers_has_there_is_said(doctor: Doctor, ada: User) -> None:
    async with listening() as listener:
        known = KnownPeers(ada.home / "known_peers")
        await known.remember(unnamed(listener), BOB.id)
        for trust in ("ask", "strict", "accept-new"):
            found = await doctor(unnamed(listener), "--trust", trust, timeout="5")
            assert (found.code, found.checks["peer"]["known"]) == (ExitCode.OK, "yes")
        await known.forget(BOB.id)
        await known.remember(unnamed(listener), EVE.id)
        found = await doctor(unnamed(listener), timeout="5", both=True)
        assert (found.code, found.statuses()) == (ExitCode.WRONG_IDENTITY, "ooooofsos")
        assert found.checks["peer"]["known"] == "changed"
        assert found.conclusion["message"].endswith(f" --known {known.path}")
        found = await doctor(listener.invite, timeout="5", both=True)
        assert (found.code, found.statuses()) == (ExitCode.OK, "ooooowooo")
        assert found.conclusion["warnings"] == ["peer"]
        assert [entry.peer for entry in known.entries()] == [EVE.id]


async def test_a_file_of_known_peers_that_cannot_be_read_is_said(doctor: Doctor, ada: User) -> None:
    (ada.home / "known_peers").write_text("\x1b[31mno line\n")
    async with listening() as listener:
        found = await doctor(unnamed(listener), timeout="5")
        assert (found.code, found.statuses()) == (ExitCode.UNTRUSTED, "ooooofsos")
        found = await doctor(listener.invite, timeout="5")
        assert (found.code, found.statuses()) == (ExitCode.OK, "ooooowooo")
    assert "line 1" in found.said("peer")


# --- nobody is there ------------------------------------------------------------------------------------


async def test_a_closed_port_is_closed(doctor: Doctor) -> None:
    endpoint = f"127.0.0.1:{await closed_port()}"
    found = await doctor(f"tcp://{endpoint}", both=True)
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "oofssssss")
    assert found.checks["port"]["places"][0]["failure"] == "refused"
    assert "closed" in found.said("port")
    assert "the port is closed" in found.conclusion["message"]


@contextmanager
def filtered_port() -> Iterator[int]:
    """Its backlog is full, so that Linux drops every SYN."""
    with stdlib_socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        try:
            for _ in range(4):
                waiting.append(stdlib_socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(listener.getsockname())
            yield listener.getsockname()[1]
        finally:
            for socket in waiting:
                socket.close()


async def test_a_port_that_drops_what_comes_is_not_a_closed_one(doctor: Doctor) -> None:
    with filtered_port() as port:
        found = await doctor(f"tcp://127.0.0.1:{port}")
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "oofssssss")
    assert found.checks["port"]["places"][0]["failure"] == "timeout"
    assert "firewall" in found.conclusion["message"]


async def test_a_name_that_is_none_ends_it(doctor: Doctor, resolver: Resolver) -> None:
    resolver.names["nowhere.test"] = stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "no such name")
    found = await doctor("tcp://nowhere.test:4711", both=True)
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ofsssssss")
    resolver.names["empty.test"] = []
    found = await doctor("tcp://empty.test:4711")
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ofsssssss")
    found = await doctor("tcp://slow.test:4711")
    assert (found.code, found.checks["name"]["cause"]) == (ExitCode.NO_RESPONSE, "timeout")


async def test_each_address_of_a_name_is_tried_by_itself(doctor: Doctor, resolver: Resolver) -> None:
    async with listening() as listener:
        port = listener.addresses[0].port
        closed = (stdlib_socket.AF_INET6, ("::1", port, 0, 0))
        resolver.names["bob.test"] = [closed, "127.0.0.1"]
        found = await doctor(f"tcp://{BOB.id}@bob.test:{port}", timeout="5", both=True)
    assert (found.code, found.statuses()) == (ExitCode.OK, "oowoooooo")
    assert found.checks["name"]["places"] == [f"[::1]:{port}", f"127.0.0.1:{port}"]
    failures = [place["failure"] for place in found.checks["port"]["places"]]
    assert failures[0] in ("refused", "unreachable")
    assert failures[1] is None
    assert found.conclusion["warnings"] == ["port"]


async def test_it_goes_on_with_the_first_address_that_is_open(
    doctor: Doctor, resolver: Resolver, nursery: trio.Nursery
) -> None:
    async def ssh(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"SSH-2.0-x\r\n")

    async with listening() as listener:
        port = listener.addresses[0].port
        (other,) = await trio.open_tcp_listeners(port, host="127.0.0.2")
        nursery.start_soon(trio.serve_listeners, ssh, [other])
        resolver.names["bob.test"] = ["127.0.0.1", "127.0.0.2"]
        found = await doctor(f"tcp://{BOB.id}@bob.test:{port}", timeout="5")
    assert (found.code, found.statuses()) == (ExitCode.OK, "ooooooooo")


async def test_of_a_name_with_a_thousand_addresses_eight_are_tried(doctor: Doctor, resolver: Resolver) -> None:
    port = await closed_port()
    resolver.names["many.test"] = [f"127.0.{i // 250}.{i % 250 + 1}" for i in range(1000)]
    found = await doctor(f"tcp://many.test:{port}")
    assert len(found.checks["port"]["places"]) == 8
    assert "992 more" in found.said("name")


@pytest.mark.parametrize(
    ("there", "statuses"), [("nothing", "ofsssssss"), ("a file", "ofsssssss"), ("left behind", "oofssssss")]
)
async def test_a_unix_socket_is_a_file_at_which_somebody_listens(
    doctor: Doctor, tmp_path: Path, there: str, statuses: str
) -> None:
    path = tmp_path / "socket"
    if there == "a file":
        path.touch()
    elif there == "left behind":
        with stdlib_socket.socket(stdlib_socket.AF_UNIX) as socket:
            socket.bind(str(path))
    found = await doctor(f"unix://{path}", both=True)
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, statuses)


async def test_a_path_of_somebodys_invite_is_escaped(doctor: Doctor, tmp_path: Path) -> None:
    async with listening(address=f"unix://{tmp_path}/red\x1b[31m") as listener:
        assert (await doctor(listener.invite, timeout="5", both=True)).code == ExitCode.OK
    assert (await doctor(listener.invite, both=True)).code == ExitCode.NO_RESPONSE


@pytest.mark.parametrize(
    "invite", ["nonsense", "tcp://127.0.0.1", f"tcp://{'a' * 56}@127.0.0.1:1", "mem://bob", "smtp://host:25"]
)
async def test_what_is_no_invite_is_said_before_anything_is_tried(doctor: Doctor, invite: str) -> None:
    found = await doctor(invite, both=True)
    assert (found.code, found.statuses()) == (ExitCode.USAGE, "fssssssss")
    assert found.conclusion["failed"] == "invite"
    assert invite in found.conclusion["message"]


# --- somebody else is there -----------------------------------------------------------------------------


@pytest.fixture
def web_server() -> Iterator[int]:
    """Python's own, and its port."""

    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(418)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["tcp", pytest.param("tls", marks=pytest.mark.slow), "ws"])
async def test_a_web_server_is_named(doctor: Doctor, web_server: int, scheme: str) -> None:
    found = await doctor(f"{scheme}://127.0.0.1:{web_server}")
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert (found.conclusion["cause"], found.conclusion["protocol"]) == ("foreign", "HTTP")
    assert "HTTP/1.0 " in found.said("protocol")
    assert found.checks["protocol"]["protocol"] == "HTTP"
    if scheme == "tcp":
        assert "418" in found.said("protocol")


@asynccontextmanager
async def tls_server(scripted: Callable[[Any], Awaitable[None]]) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        (bound,) = await Tls().listen(Address.parse("tls://127.0.0.1:0"), nursery)
        nursery.start_soon(partial(trio.serve_listeners, scripted, [bound.listener]))
        yield bound.address.port
        nursery.cancel_scope.cancel()


async def test_a_tls_server_is_named(doctor: Doctor) -> None:
    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            pass  # who spoke no TLS
        await trio.aclose_forcefully(stream)

    async with tls_server(serve) as port:
        found = await doctor(f"tcp://127.0.0.1:{port}", both=True)
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert found.conclusion["protocol"] == "TLS"
    assert "tls://" in found.conclusion["message"]


@pytest.mark.parametrize(
    ("to_tls", "to_http", "protocol", "begins"),
    [
        (b"\x16\x03\x03\x00\x7a\x02", b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS", ""),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", "HTTP", "HTTP/1.1 200 OK"),
    ],
)
async def test_a_web_server_is_named_by_what_it_says_to_whom(
    doctor: Doctor, to_tls: bytes, to_http: bytes, protocol: str, begins: str
) -> None:
    """One with TLS answers who speaks plain HTTP in plain HTTP, and one without answers TLS so."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            heard = await stream.receive_some(4096)
            if heard.startswith(b"\x16"):
                await stream.send_all(to_tls)
            elif heard.startswith(b"HEAD"):
                await stream.send_all(to_http)

    async with serving(serve) as port:
        found = await doctor(f"tcp://127.0.0.1:{port}")
    assert found.conclusion["protocol"] == protocol
    assert found.checks["protocol"]["begins"] == begins


async def test_what_is_inside_tls_is_named(doctor: Doctor) -> None:
    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        heard = b""
        try:
            while b"\n" not in heard and (data := await stream.receive_some()):
                heard += data
            await stream.send_all(b"HTTP/1.1 302 Found\r\n\r\n")
        except trio.BrokenResourceError:
            assert not heard.startswith(b"HEAD")
        await trio.aclose_forcefully(stream)

    async with tls_server(serve) as port:
        found = await doctor(f"tls://127.0.0.1:{port}")
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert found.conclusion["protocol"] == "HTTP"
    assert "302 Found" in found.said("protocol")


async def test_a_peer_without_the_tls_that_the_invite_says_is_named(doctor: Doctor) -> None:
    async with listening() as listener:
        found = await doctor(unnamed(listener, "tls"), both=True)
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert "begins with tcp://" in found.said("protocol")


async def test_tls_that_will_not_have_ours_is_no_other_protocol(doctor: Doctor) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        async with stream:
            if await stream.receive_some():
                await stream.send_all(bytes.fromhex("15030100020228"))  # an alert: handshake_failure

    async with serving(refuse) as port:
        found = await doctor(f"tls://127.0.0.1:{port}")
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert found.checks["protocol"]["cause"] != "foreign"
    assert "TLS is spoken there" not in found.conclusion["message"]


async def test_an_ssh_server_is_named_and_its_banner_is_made_harmless(doctor: Doctor) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"SSH-2.0-Evil\x1b]0;title\x07\xff" + b"long " * 40 + b"\r\nmore")

    async with serving(serve) as port:
        found = await doctor(f"tcp://127.0.0.1:{port}", both=True)
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert found.conclusion["protocol"] == "SSH"
    said = found.said("protocol")
    assert "SSH-2.0-Evil\\x1b]0;title\\x07" in said
    assert len(said) < 200
    assert "more" not in said


async def test_a_server_that_speaks_first_and_late_is_named(doctor: Doctor) -> None:
    """Nothing comes while the preface is waited for; who is asked nothing gets the banner."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with trio.move_on_after(0.2):
                await stream.receive_some()
                await trio.sleep_forever()
            await stream.send_all(b"SSH-2.0-Late\r\n")

    async with serving(serve) as port:
        found = await doctor(f"tcp://127.0.0.1:{port}")
    assert found.conclusion["protocol"] == "SSH"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sshd") is None, reason="no sshd here")
async def test_a_real_ssh_server_is_named(doctor: Doctor, tmp_path: Path) -> None:
    sshd = shutil.which("sshd")
    assert sshd is not None
    key = tmp_path / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    if subprocess.run([sshd, "-t", "-f", "/dev/null", "-h", key], capture_output=True, check=False).returncode:
        pytest.skip("the sshd of this machine does not run under this user")

    async def serve(stream: trio.SocketStream) -> None:
        command = [sshd, "-i", "-f", "/dev/null", "-h", str(key)]
        await trio.run_process(command, stdin=stream.socket.fileno(), stdout=stream.socket.fileno(), check=False)

    async with serving(serve) as port:
        found = await doctor(f"tcp://127.0.0.1:{port}")
    assert found.conclusion["protocol"] == "SSH"
    assert "SSH-2.0-OpenSSH" in found.said("protocol")


async def test_another_server_that_says_something_is_shown_as_it_begins(doctor: Doctor) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"220 mail.test ESMTP\r\n")
            await stream.receive_some()

    async with serving(serve) as port:
        found = await doctor(f"tcp://127.0.0.1:{port}")
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert found.conclusion["cause"] == "foreign"
    assert "220 mail.test ESMTP" in found.said("protocol")


# --- hostile --------------------------------------------------------------------------------------------


Script = Callable[[trio.SocketStream], Awaitable[None]]


def until_we_leave(script: Script) -> Script:
    @wraps(script)
    async def run(stream: trio.SocketStream) -> None:
        try:
            async with stream:
                await script(stream)
        except trio.BrokenResourceError:
            pass

    return run


@until_we_leave
async def silent(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


@until_we_leave
async def hanging_up(stream: trio.SocketStream) -> None:
    await stream.receive_some(4096)


@until_we_leave
async def resetting(stream: trio.SocketStream) -> None:
    await stream.receive_some(1)


@until_we_leave
async def dripping(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"\x7f")
        await trio.sleep(0.02)


@until_we_leave
async def endless(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"x" * 65536)


@until_we_leave
async def dripping_alert(stream: trio.SocketStream) -> None:
    """The longest that there is, and never to its end."""
    await stream.send_all(b"\x7f\x00\x41")
    while True:
        await stream.send_all(b"\x02")
        await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("server", "cause"),
    [
        (silent, "timeout"),
        (hanging_up, "closed"),
        (resetting, "reset"),
        pytest.param(dripping, "foreign", marks=pytest.mark.slow),
        (endless, "foreign"),
        (dripping_alert, "foreign"),
    ],
)
async def test_whatever_a_server_does_it_ends_in_time(
    doctor: Doctor, server: Callable[[trio.SocketStream], Awaitable[None]], cause: str
) -> None:
    async with serving(server) as port:
        started = trio.current_time()
        found = await doctor(f"tcp://127.0.0.1:{port}", timeout="0.3")
        assert trio.current_time() - started < 2
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert found.conclusion["cause"] == cause


@pytest.mark.parametrize("scheme", ["tls", pytest.param("ws", marks=pytest.mark.slow)])
async def test_where_the_transport_says_nothing_either_it_ends_in_time(doctor: Doctor, scheme: str) -> None:
    async with serving(silent) as port:
        started = trio.current_time()
        found = await doctor(f"{scheme}://127.0.0.1:{port}", timeout="0.2")
        assert trio.current_time() - started < 2
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "ooofsssss")
    assert (found.conclusion["phase"], found.conclusion["cause"]) == ("connect", "timeout")


async def test_a_connection_that_does_not_last_is_said(doctor: Doctor) -> None:
    async with Peer(BOB) as bob, trio.open_nursery() as nursery:

        async def hang_up() -> None:
            async for connection in bob.arrivals():
                await connection.aclose()

        nursery.start_soon(hang_up)
        listener = await bob.listen(ANYWHERE)
        found = await doctor(listener.invite, timeout="5")
        nursery.cancel_scope.cancel()
    assert (found.code, found.statuses()) == (ExitCode.NO_RESPONSE, "oooooooof")


@pytest.mark.parametrize("invite", ["red\x1bc", "smtp://\x1bchost:25", "mem://\x1bc"])
async def test_what_is_no_invite_is_escaped(doctor: Doctor, invite: str) -> None:
    found = await doctor(invite, both=True)
    assert found.code == ExitCode.USAGE
    assert r"\x1bc" in found.conclusion["message"]


def test_all_checks_together_have_twelve_times_what_one_has() -> None:
    limits, altogether = _doctor._limits(2.5)
    assert limits.connect == limits.greeting == altogether / 12 == 2.5


async def test_all_checks_together_have_a_deadline(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_doctor, "_ALTOGETHER", 0.3)
    async with serving(silent) as port:
        arguments = _parser().parse_args(["doctor", f"tcp://127.0.0.1:{port}", "--json"])
        with trio.fail_after(5):
            code = await _doctor._doctor(arguments, Output(as_json=True))
    *checks, conclusion = map(json.loads, capsys.readouterr().out.splitlines())
    assert code == ExitCode.NO_RESPONSE
    assert "".join(check["status"][0] for check in checks) == "ooofsssss"
    assert "together" in conclusion["message"]


# --- at a terminal --------------------------------------------------------------------------------------


async def test_at_a_terminal_a_check_is_shown_when_it_begins(ada: User) -> None:
    """And none of it is wider than 80 columns, which `Terminal` sees to."""
    async with serving(silent) as port, ada.at_terminal("doctor", f"tcp://127.0.0.1:{port}") as terminal:
        await terminal.waits_with("4 protocol …")
        assert "✓ 3 port" in terminal.shown
        assert "✗" not in terminal.shown
    async with listening() as listener, ada.at_terminal("doctor", listener.invite) as terminal:
        assert await terminal.ended() == ExitCode.OK
        rows = [line.rpartition("\r")[2] for line in terminal.shown.split("\r\n")]
        assert [row[2] for row in rows if row[:1] == "✓"] == list("123456789")
        assert rows[-2] == "All is well."


async def test_at_a_terminal_machines_are_told_no_more_than_elsewhere(ada: User) -> None:
    async with ada.at_terminal("doctor", "--json", "nonsense") as terminal:
        await terminal.waits_with('"exit_code": 2')
        assert "…" not in terminal.shown
        assert terminal.shown.startswith("{")


@pytest.mark.parametrize("timeout", ["0", "-1", "inf", "nan"])
def test_a_timeout_that_is_none_is_refused(
    doctor: Doctor, timeout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _parser().parse_args(["doctor", "tcp://127.0.0.1:1", "--timeout", timeout])
    output = Output(as_json=False)
    assert run_command(partial(_doctor.doctor, arguments, output), output) == ExitCode.USAGE
    assert "--timeout" in capsys.readouterr().err
