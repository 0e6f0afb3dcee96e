"""`trishake listen`: who is welcome, how it ends, and several processes at one port."""

from __future__ import annotations

import os
import signal
import socket as stdlib_socket
from pathlib import Path

import pytest
import segno
import trio

from trishake import Identity, Network, Peer, Rejected
from trishake._known_peers import KnownPeers
from trishake.cli._outcomes import ExitCode

from .command_line import PATIENCE, Running, User, in_words, too_wide


@pytest.fixture
def ada(tmp_path: Path) -> User:
    return User(tmp_path / "ada")


@pytest.fixture
def bob(tmp_path: Path) -> User:
    return User(tmp_path / "bob")


async def is_welcome(identity: Identity, invite: str) -> bool:
    """Whether somebody who dials from this process is taken."""
    from trishake import Rejected

    async with Peer(identity) as peer:
        try:
            await (await peer.dial(invite)).aclose()
        except Rejected:
            return False
        return True


# --- who is welcome -------------------------------------------------------------------------------------


async def test_who_comes_and_goes_is_shown_within_the_width_of_a_terminal(ada: User, bob: User) -> None:
    async with bob.at_terminal("listen", "--only", ada.identity.id) as listener:
        await listener.waits_with("tcp://")
        invite = "tcp://" + (await listener.waits_with("\r\n"))
        assert await is_welcome(ada.identity, invite)
        await listener.waits_with("accepted")
        await listener.waits_with(str(ada.identity.id))
        await listener.waits_with("closed")
        async with Peer(Identity.generate()) as stranger:
            with pytest.raises(Rejected) as caught:
                await stranger.dial(invite)
        await listener.waits_with("failed")
        await listener.waits_with("IDENTITY_UNKNOWN")
        assert caught.value.session_id is not None
        await listener.waits_with(f"session {caught.value.session_id.hex()}")
        await listener.type("\x03")
        assert await listener.ended() == 0


async def test_a_listener_ends_when_nobody_reads_what_it_shows(bob: User) -> None:
    async with bob.running("listen", "--json") as listener:
        (invite,) = (await listener.facts())["invites"]
        assert listener.process.stdout is not None
        await listener.process.stdout.aclose()
        async with Peer(Identity.generate()) as guest:
            await guest.dial(invite)
            assert await listener.ended() == ExitCode.FAILED
        assert listener.err == ""


async def test_each_option_of_who_is_welcome_is_enough_and_a_block_is_above_all(ada: User, bob: User) -> None:
    by_id, by_key, known, eve = (Identity.generate() for _ in range(4))
    keys = bob.directory / "authorized_keys"
    keys.write_text(by_key.id.ssh("by key") + "\n" + eve.id.ssh("eve") + "\n")
    keys.chmod(0o600)
    book = bob.directory / "known"
    await KnownPeers(book).remember("*", known.id)
    welcome = ("--only", by_id.id.did, "--only", ada.identity.id.ssh(), "--authorized-keys", keys, "--known", book)
    async with bob.running("listen", "--json", *welcome, "--block", eve.id) as listener:
        (invite,) = (await listener.facts())["invites"]
        for identity in (by_id, ada.identity, by_key, known):
            assert await is_welcome(identity, invite)
            assert (await listener.facts())["peer"] == str(identity.id)
            assert (await listener.facts())["event"] == "closed"
        for identity, reason in ((eve, "IDENTITY_BLOCKED"), (Identity.generate(), "IDENTITY_UNKNOWN")):
            assert not await is_welcome(identity, invite)
            failed = await listener.facts()
            assert (failed["event"], failed["reason"], failed["peer"]) == ("failed", reason, str(identity.id))


@pytest.mark.slow
async def test_what_a_guest_says_of_itself_reaches_no_terminal_as_it_came(bob: User) -> None:
    async with bob.at_terminal("listen") as listener:
        await listener.waits_with("tcp://")
        invite = "tcp://" + (await listener.waits_with("\r\n"))
        async with Peer(Identity.generate(), agent="\x1b[31mred\x07") as guest:
            connection = await guest.dial(invite)
            await connection.aclose()
        await listener.waits_with("closed")
        await listener.type("\x03")
        assert await listener.ended() == 0
        assert "\x1b" not in listener.shown
        assert "\x07" not in listener.shown


# --- where ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("address", ["tcp://[::1]:0", "unix://{}/socket", "ws://127.0.0.1:0"])
async def test_one_listens_over_ipv6_at_a_unix_socket_and_by_web_socket(
    ada: User, bob: User, address: str
) -> None:
    async with bob.running("listen", "--once", address.format(bob.directory)) as listener:
        done = await ada.run("dial", await listener.line())
        assert done.code == 0
        shown = await listener.line_with("accepted")
        assert len(shown) <= 80
        assert await listener.ended() == 0


async def test_a_port_that_is_taken_is_told_and_with_its_address(bob: User) -> None:
    with stdlib_socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = await bob.run("listen", f"tcp://127.0.0.1:{port}")
        assert done.code == ExitCode.FAILED
        assert f"127.0.0.1:{port}" in done.err
        assert "ddress already in use. End who listens there" in in_words(done.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("tcp://192.0.2.1:3000",), "That is no address of this machine"),
        (("--workers", "2", "tcp://192.0.2.1:3000"), "That is no address of this machine"),
        (("tcp://name.invalid:3000",), "Check how the name is spelled"),
        (("--workers", "2", "tcp://name.invalid:3000"), "Check how the name is spelled"),
        (("unix:///missing/socket",), "Make its directory first"),
        ((f"unix:///{'long' * 40}",), "path too long. Check the address"),
    ],
    ids=["foreign", "foreign, workers", "no name", "no name, workers", "no directory", "long"],
)
async def test_where_nobody_can_listen_what_to_do_is_told(
    bob: User, arguments: tuple[str, ...], advice: str
) -> None:
    done = await bob.run("listen", *arguments)
    assert done.code == ExitCode.FAILED
    assert arguments[-1].removeprefix("unix://") in done.err
    assert advice in in_words(done.err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nonsense",), 2),
        (("other://x",), 2),
        (("mem://x",), 2),
        (("tcp://127.0.0.1:65536",), 2),
        (("--only", "nonsense"), 2),
        (("--block", "tcp://127.0.0.1:1"), 2),
        (("--workers", "0"), 2),
        (("--workers", "2", "--once"), 2),
        (("--workers", "2", "unix:///tmp/x"), 2),
        (("--workers", "2", "tcp://192.0.2.1:3000"), 1),
        (("tcp://192.0.2.1:3000",), 1),
        (("--authorized-keys", "missing"), 1),
        (("--authorized-keys", "."), 1),
        (("--network", "missing"), 1),
        (("-i", "missing"), 1),
        (("unix://{}",), 1),
    ],
    ids=str,
)
async def test_where_nobody_can_listen_is_told(bob: User, arguments: tuple[str, ...], code: int) -> None:
    where = [argument.format(bob.directory) for argument in arguments]
    for options in ((), ("--json",)):
        done = await bob.run("listen", *where, *options)
        assert done.code == code
        assert not too_wide(done.err)
        assert "Errno" not in done.err + done.out
        assert not options or done.facts()[-1]["exit_code"] == code


# --- the picture ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_picture_of_an_invite_is_its_qr_code(bob: User) -> None:
    async with bob.running("listen", "--qr") as listener:
        invite = await listener.line()
        matrix = [list(row) for row in segno.make_qr(invite, error="l").matrix_iter(border=4)]
        drawn: list[list[int]] = []
        for _ in range((len(matrix) + 1) // 2):
            row = (await listener.line()).removeprefix("\x1b[97;40m").removesuffix("\x1b[0m")
            drawn.append([int(block in "▄ ") for block in row])  # drawn is what is light
            drawn.append([int(block in "▀ ") for block in row])
        assert drawn[: len(matrix)] == [[int(bool(cell)) for cell in row] for row in matrix]
        assert len(matrix[0]) <= 80


# --- how it ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
async def test_a_listener_that_is_told_to_leave_tells_its_guests(bob: User, told: signal.Signals) -> None:
    async with bob.running("listen") as listener, Peer(Identity.generate()) as guest:
        connection = await guest.dial(await listener.line())
        listener.process.send_signal(told)
        with trio.fail_after(PATIENCE):
            closed = await connection.closed()
        assert closed.by_peer
        assert closed.code is not None
        assert await listener.ended() == 0


async def test_who_reads_no_more_ends_the_listener_quietly(ada: User, bob: User) -> None:
    async with bob.running("listen") as listener:
        invite = await listener.line()
        assert listener.process.stdout is not None
        await listener.process.stdout.aclose()
        await ada.run("dial", invite)
        assert await listener.ended() == ExitCode.FAILED
        assert listener.err == ""


# --- several processes ----------------------------------------------------------------------------------


def children_of(command: Running) -> list[int]:
    pid = command.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def all_gone(pids: list[int]) -> None:
    """Wait until none of them runs."""
    with trio.fail_after(PATIENCE):
        while any(_runs(pid) for pid in pids):
            await trio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listeners_at(port: int) -> int:
    """How many sockets listen at a port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(int(field[1].rpartition(":")[2], 16) == port and field[3] == "0A" for field in fields)


async def _three_workers(listener: Running) -> tuple[str, list[int]]:
    (invite,) = (await listener.facts())["invites"]
    port = int(invite.rpartition(":")[2])
    with trio.fail_after(PATIENCE):
        while listeners_at(port) < 3:
            await trio.sleep(0.01)
    workers = children_of(listener)
    assert len(workers) == 3
    return invite, workers


async def test_workers_share_a_port_and_an_end(bob: User) -> None:
    async with bob.running("listen", "--workers", 3, "--json") as listener:
        invite, workers = await _three_workers(listener)
        async with Peer(Identity.generate()) as guest:
            assert str((await guest.dial(invite)).peer) == str(bob.identity.id)
            assert (await listener.facts())["event"] == "accepted"
        listener.process.send_signal(signal.SIGTERM)
        assert await listener.ended() == 0
        await all_gone(workers)


@pytest.mark.slow
async def test_each_of_the_workers_serves(bob: User) -> None:
    async with bob.running("listen", "--workers", 3, "--json") as listener:
        invite, workers = await _three_workers(listener)
        for stopped in workers:  # the kernel hands a connection to any of them; who sleeps answers late, not never
            os.kill(stopped, signal.SIGSTOP)
        for awake in workers:
            os.kill(awake, signal.SIGCONT)
            with trio.fail_after(PATIENCE):
                while not await _answers(invite):
                    pass
            os.kill(awake, signal.SIGSTOP)
        for each in workers:
            os.kill(each, signal.SIGCONT)


async def _answers(invite: str) -> bool:
    from trishake import Limits, NoResponse

    async with Peer(Identity.generate(), limits=Limits(connect=0.3, greeting=0.3)) as guest:
        try:
            await (await guest.dial(invite)).aclose()
        except NoResponse:
            return False
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whom", "how", "code"),
    [
        ("group", signal.SIGINT, 0),
        ("group", signal.SIGTERM, 0),
        ("worker", signal.SIGKILL, ExitCode.FAILED),
        ("parent", signal.SIGKILL, -signal.SIGKILL),
    ],
)
async def test_no_worker_is_left_alone(bob: User, whom: str, how: signal.Signals, code: int) -> None:
    async with bob.running("listen", "--workers", 3, "--json") as listener:
        _, workers = await _three_workers(listener)
        if whom == "group":
            os.killpg(listener.process.pid, how)
        else:
            os.kill(workers[1] if whom == "worker" else listener.process.pid, how)
        assert await listener.ended() == code
        await all_gone(workers)


@pytest.mark.slow
async def test_workers_ask_for_a_passphrase_once(bob: User) -> None:
    key = bob.directory / "locked"
    Identity.generate().save(key, password="open sesame", format="pkcs8")
    async with bob.at_terminal("listen", "--workers", 2, "-i", key) as listener:
        await listener.waits_with("Passphrase of")
        await listener.type("open sesame\n")
        await listener.waits_with("tcp://")
        await listener.type("\x03")
        assert await listener.ended() == 0
        assert listener.shown.count("Passphrase of") == 1


# --- a network's key is rotated -------------------------------------------------------------------------


@pytest.mark.slow
async def test_peers_at_neighbouring_steps_of_a_rotation_meet(ada: User, bob: User) -> None:
    """Each step is taken on both sides, in either order, and those in between meet."""
    assert (await ada.run("network", "new", "home")).code == 0
    file = ada.directory / "home.network"
    stages = [file.read_bytes()]
    for step in ("add", "use", "drop"):
        done = await ada.run("network", "rotate", step, file)
        assert done.code == 0
        assert not too_wide(done.err)
        stages.append(file.read_bytes())
    assert len(Network.load(file).psks) == 1
    for number, stage in enumerate(stages):
        theirs = bob.directory / f"stage-{number}"
        theirs.write_bytes(stage)
        theirs.chmod(0o600)
    for listens in range(4):
        async with bob.running("listen", "--network", f"stage-{listens}") as listener:
            invite = await listener.line()
            for dials in range(4):
                code = (await ada.run("dial", "--network", f"stage-{dials}", invite)).code
                if abs(dials - listens) <= 1:
                    assert code == 0
                if {dials, listens} == {0, 3}:
                    assert code == ExitCode.REJECTED
