"""`trishake dial` and `ping`: each exit code by its true cause, over real sockets and between real processes."""

from __future__ import annotations

import re
import signal
import socket as stdlib_socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from trishake import Identity, Network, Peer, Policy, accept, anyone, blocked, only, reject
from trishake._known_peers import KnownPeers
from trishake.cli._outcomes import MEANINGS, ExitCode
from trishake_protocol import VerdictCode
from trishake_protocol.messages import Verdict
from trishake_protocol.patterns import SUITES

from .command_line import PATIENCE, User, in_words, too_wide
from .conftest import ANYWHERE, BOB, EVE, ByHand, serving
from .test_ssh_agent import Agent, agent  # noqa: F401


@pytest.fixture
def ada(tmp_path: Path) -> User:
    return User(tmp_path / "ada")


def endpoint(invite: str) -> str:
    return invite.partition("@")[2]


def unnamed(invite: str) -> str:
    """The address alone: who is there is not said."""
    return f"tcp://{endpoint(invite)}"


@asynccontextmanager
async def listening(
    identity: Identity = BOB, *, trust: Policy = anyone, network: Network | None = None, address: str = ANYWHERE
) -> AsyncIterator[str]:
    """Somebody who listens in this process; his invite."""
    async with Peer(identity, trust=trust, network=network) as peer:
        yield (await peer.listen(address)).invite


@contextmanager
def closed_port() -> Iterator[str]:
    """Held, so that nobody else gets it meanwhile, and not listened at."""
    with stdlib_socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{held.getsockname()[1]}"


@asynccontextmanager
async def saying(data: bytes | None) -> AsyncIterator[str]:
    """A port that says this and hangs up; with None it is silent until the end."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if data is None:
                await trio.sleep_forever()
            await stream.receive_some()
            await stream.send_all(data or b"")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"tcp://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def same_both_ways(user: User, code: ExitCode, *arguments: object) -> str:
    """Run a command with and without --json, which end with the same code; what it says then in words."""
    words = await user.run(*arguments)
    as_json = await user.run(*arguments, "--json")
    assert (words.code, as_json.code) == (code, code)
    assert not too_wide(words.out + words.err)
    assert "\x1b" not in words.out
    facts = as_json.facts()
    if code is not ExitCode.OK:
        assert not words.out
        assert not as_json.err
        assert facts[-1]["exit_code"] == code
        assert _untimed(in_words(facts[-1]["message"])) in _untimed(in_words(words.err))
    return in_words(words.out + words.err)


def _untimed(text: str) -> str:
    return re.sub(r"after [0-9.]+ s", "after a while", text)


# --- 0: accepted ----------------------------------------------------------------------------------------


async def test_whom_the_invite_names_is_greeted(ada: User) -> None:
    async with listening() as invite:
        shown = await same_both_ways(ada, ExitCode.OK, "dial", invite)
    assert f"accepted peer {BOB.id}" in shown


async def test_where_the_other_side_sees_us_reaches_no_terminal_as_it_came(ada: User) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        hand = ByHand(stream, BOB, suite=SUITES[Network().default_suites[0]])
        await hand.answer()
        await hand.say(hand.verdict(Verdict(VerdictCode.READY, seen="\x1b]0;title\x07\u202e")))
        await stream.receive_some()

    async with serving(serve) as port:
        shown = await same_both_ways(ada, ExitCode.OK, "dial", f"tcp://{BOB.id}@127.0.0.1:{port}")
    assert r"seen as \x1b]0;title\x07\u202e" in shown


async def test_what_the_other_side_says_reaches_no_terminal_as_it_came(ada: User) -> None:
    async def welcome(_: object) -> object:
        return accept("\x1b[31mred\x07 " + "long " * 40)

    async with (
        Peer(BOB, trust=welcome, agent="\x1b]0;title\x07" + " very long" * 5) as bob,  # type: ignore[arg-type]
    ):
        invite = (await bob.listen(ANYWHERE)).invite
        shown = await same_both_ways(ada, ExitCode.OK, "dial", invite)
    assert "red" in shown
    assert "\x07" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("where", ["tcp://[::1]:0", "unix://{}/bob.socket"])
async def test_a_peer_is_dialed_over_ipv6_and_at_a_unix_socket(ada: User, where: str) -> None:
    async with listening(address=where.format(ada.directory)) as invite:
        await same_both_ways(ada, ExitCode.OK, "dial", invite)


@pytest.mark.slow
async def test_a_network_is_named_by_its_file_or_its_name(ada: User) -> None:
    network = Network.new("home")
    network.save(ada.directory / "home.network")
    async with listening(network=network) as invite:
        await same_both_ways(ada, ExitCode.OK, "dial", "--network", "home.network", invite)
    async with listening(network=Network("club")) as invite:
        await same_both_ways(ada, ExitCode.OK, "dial", "--public-network", "club", invite)


@pytest.mark.slow
async def test_a_key_that_an_ssh_agent_holds_is_an_identity(ada: User, agent: Agent) -> None:  # noqa: F811
    one, other = agent.add("one"), agent.add("other")
    ada.environment["SSH_AUTH_SOCK"] = str(agent.path)
    async with listening(trust=only(str(other))) as invite:
        await same_both_ways(ada, ExitCode.OK, "dial", "--agent", "--agent-key", other, invite)
        await same_both_ways(ada, ExitCode.REJECTED, "dial", "--agent", "--agent-key", one, invite)
        code = (await ada.run("dial", "--agent", invite)).code
    assert code != ExitCode.OK


@pytest.mark.slow
async def test_a_key_that_another_process_holds_is_an_identity(ada: User) -> None:
    socket = ada.directory / "signer"
    script = (
        "import sys, trio, trishake\n"
        "from trishake._remote_signer import serve_signer\n"
        "trio.run(serve_signer, trishake.Identity.load(sys.argv[1]), sys.argv[2])"
    )
    command = [sys.executable, "-c", script, str(ada.key), str(socket)]
    holder = await trio.lowlevel.open_process(command, env=ada.environment)
    try:
        with trio.fail_after(PATIENCE):
            while not socket.exists():
                await trio.sleep(0.01)
        async with listening(trust=only(ada.identity.id)) as invite:
            eve = User(ada.directory / "eve")
            await same_both_ways(eve, ExitCode.OK, "dial", "--signer", socket, invite)
    finally:
        holder.kill()
        with trio.CancelScope(shield=True):
            await holder.wait()


async def test_an_encrypted_key_is_asked_for_at_a_dial(ada: User) -> None:
    key = ada.directory / "locked"
    identity = Identity.generate()
    identity.save(key, password="open sesame", format="pkcs8")
    async with (
        listening(trust=only(identity.id)) as invite,
        ada.at_terminal("dial", "-i", key, invite) as terminal,
    ):
        await terminal.waits_with("Passphrase of")
        await terminal.type("open sesame\n")
        assert await terminal.ended() == 0
        assert "sesame" not in terminal.shown


@pytest.mark.slow
async def test_a_wrong_passphrase_is_told(ada: User) -> None:
    key = ada.directory / "locked"
    Identity.generate().save(key, password="open sesame", format="pkcs8")
    async with ada.at_terminal("dial", "-i", key, "tcp://127.0.0.1:1") as terminal:
        await terminal.waits_with("Passphrase of")
        await terminal.type("guess\n")
        assert await terminal.ended() == ExitCode.FAILED
        assert "does not open with this password" in in_words(terminal.shown)


# --- 3: no response -------------------------------------------------------------------------------------


async def test_a_closed_port_a_silent_one_and_one_of_http_give_no_response(ada: User) -> None:
    with closed_port() as address:
        assert "the port is closed" in await same_both_ways(ada, ExitCode.NO_RESPONSE, "dial", address)
    async with saying(None) as address:
        done = await ada.run("dial", "--timeout", 0.3, address)
        assert done.code == ExitCode.NO_RESPONSE
        assert "the time was up" in in_words(done.err)
    async with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        done = await ada.run("dial", address)
        assert done.code == ExitCode.NO_RESPONSE
        assert "HTTP" in done.err


@pytest.mark.slow
async def test_who_hangs_up_at_once_gives_no_response(ada: User) -> None:
    async with saying(b"") as address:
        assert "closed the stream" in await same_both_ways(ada, ExitCode.NO_RESPONSE, "dial", address)


# --- 4: rejected ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trust", "why"),
    [
        pytest.param(blocked, "IDENTITY_BLOCKED", marks=pytest.mark.slow),
        (lambda _: only(EVE.id), "IDENTITY_UNKNOWN"),
    ],
    ids=["blocked", "not one of them"],
)
async def test_who_is_not_welcome_is_told_why(ada: User, trust: object, why: str) -> None:
    async with listening(trust=trust(ada.identity.id)) as invite:  # type: ignore[operator]
        assert why in await same_both_ways(ada, ExitCode.REJECTED, "dial", invite)


async def test_a_rejection_in_hostile_words_is_shown_escaped(ada: User) -> None:
    async def refuse(_: object) -> object:
        return reject(text="\x1b[2Jgo\naway")

    async with listening(trust=refuse) as invite:  # type: ignore[arg-type]
        assert "go" in await same_both_ways(ada, ExitCode.REJECTED, "dial", invite)


@pytest.mark.slow
async def test_another_network_or_another_key_of_it_is_a_rejection(ada: User) -> None:
    Network.new("home").save(ada.directory / "home.network")
    async with listening(network=Network("club")) as invite:
        assert "WRONG_NETWORK" in await same_both_ways(ada, ExitCode.REJECTED, "dial", invite)
    async with listening(network=Network.new("home")) as invite:
        shown = await same_both_ways(ada, ExitCode.REJECTED, "dial", "--network", "home.network", invite)
        assert "another key than ours" in shown
        assert "private network" in await same_both_ways(ada, ExitCode.REJECTED, "dial", invite)


# --- 5: somebody else -----------------------------------------------------------------------------------


async def test_who_is_not_the_one_whom_the_invite_names_is_refused(ada: User) -> None:
    async with listening(EVE) as invite:
        named = f"tcp://{BOB.id}@{endpoint(invite)}"
        shown = await same_both_ways(ada, ExitCode.WRONG_IDENTITY, "dial", named)
    assert str(BOB.id) in shown
    assert str(EVE.id) in shown


@pytest.mark.parametrize(
    "trust",
    [pytest.param("strict", marks=pytest.mark.slow), "accept-new", pytest.param("ask", marks=pytest.mark.slow)],
)
async def test_the_command_that_a_changed_identity_names_mends_it(ada: User, trust: str) -> None:
    """Also in the shell of somebody who has the file elsewhere."""
    book = ada.directory / "whom I know"
    async with listening(BOB) as invite:
        address = unnamed(invite)
        assert (await ada.run("dial", "--trust", "accept-new", "--known", book, address)).code == 0
    async with listening(EVE, address=address):
        changed = await ada.run("dial", "--trust", trust, "--known", book, address)
        assert changed.code == ExitCode.WRONG_IDENTITY
        assert str(BOB.id) in changed.err
        assert changed.err.count(str(EVE.id)) == 1
        command = changed.err.splitlines()[-1].strip()
        assert command.startswith("trishake known forget ")
        shell = f'trishake() {{ "{sys.executable}" -m trishake "$@"; }}\n{command}'
        mended = await trio.run_process(
            ["/bin/sh", "-c", shell], env=ada.environment, cwd="/", capture_stdout=True, check=False
        )
        assert mended.returncode == 0
        assert str(BOB.id) in mended.stdout.decode()
        assert KnownPeers(book).entries() == ()
        assert (await ada.run("dial", "--trust", "accept-new", "--known", book, address)).code == 0


# --- 6: refused by our own policy -----------------------------------------------------------------------


async def test_a_stranger_is_asked_about_at_a_terminal_and_remembered_after_a_yes(ada: User) -> None:
    async with listening() as invite:
        address = unnamed(invite)
        async with ada.at_terminal("dial", address) as terminal:
            before = await terminal.waits_with("[yes/no] ")
            assert str(BOB.id) in before
            await terminal.type("no\n")
            assert await terminal.ended() == ExitCode.UNTRUSTED
        assert KnownPeers(ada.home / "known_peers").entries() == ()
        async with ada.at_terminal("dial", address) as terminal:
            await terminal.waits_with("[yes/no] ")
            await terminal.type("yes\n")
            assert await terminal.ended() == ExitCode.OK
            assert "accepted" in terminal.shown
        (known,) = KnownPeers(ada.home / "known_peers").entries()
        assert (known.name, known.peer) == (endpoint(invite), BOB.id)
        assert (await ada.run("dial", address)).code == ExitCode.OK


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("\x04", ExitCode.UNTRUSTED), ("\x03", ExitCode.INTERRUPTED)])
async def test_to_leave_at_the_question_is_no_yes(ada: User, answer: str, code: ExitCode) -> None:
    async with listening() as invite, ada.at_terminal("dial", unnamed(invite)) as terminal:
        await terminal.waits_with("[yes/no] ")
        await terminal.type(answer)
        assert await terminal.ended() == code
    assert not (ada.home / "known_peers").exists()


async def test_a_stranger_is_refused_where_nobody_can_be_asked(ada: User) -> None:
    async with listening() as invite:
        shown = await same_both_ways(ada, ExitCode.UNTRUSTED, "dial", unnamed(invite))
    assert "Nobody can be asked here: use an invite" in shown


@pytest.mark.slow
async def test_strict_takes_nobody_who_is_not_known_even_if_the_invite_names_him(ada: User) -> None:
    async with listening() as invite:
        for dialed in (invite, unnamed(invite)):
            shown = await same_both_ways(ada, ExitCode.UNTRUSTED, "dial", "--trust", "strict", dialed)
            assert f"add this line: {endpoint(invite)} {BOB.id}" in shown
        await same_both_ways(ada, ExitCode.OK, "dial", "--trust", "anyone", unnamed(invite))


# --- 7: the greeting broke ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_dial_to_oneself_is_no_greeting(ada: User) -> None:
    async with listening(ada.identity) as invite:
        assert "met itself" in await same_both_ways(ada, ExitCode.NOT_GREETED, "dial", invite)


@pytest.mark.slow
async def test_a_key_that_is_nowhere_signs_nothing(ada: User, agent: Agent) -> None:  # noqa: F811
    missing = ada.directory / "missing"
    shown = await same_both_ways(ada, ExitCode.NOT_GREETED, "dial", "--signer", missing, "tcp://127.0.0.1:1")
    assert f"our key did not sign: nobody is at {missing}" in shown
    shown = await same_both_ways(ada, ExitCode.NOT_GREETED, "dial", "--agent", "tcp://127.0.0.1:1")
    assert "there is no ssh-agent" in shown
    ada.environment["SSH_AUTH_SOCK"] = str(agent.path)
    shown = await same_both_ways(ada, ExitCode.NOT_GREETED, "dial", "--agent", "tcp://127.0.0.1:1")
    assert "holds none" in shown


async def test_a_dial_that_never_became_a_greeting_is_explained_too(ada: User) -> None:
    missing, picture = ada.directory / "missing", ada.directory / "picture.svg"
    done = await ada.run("dial", "--explain", "--svg", picture, "--signer", missing, "tcp://127.0.0.1:1")
    assert done.code == ExitCode.NOT_GREETED
    assert f"our key did not sign: nobody is at {missing}" in in_words(done.err)
    assert not picture.exists()


# --- 130, 2 ---------------------------------------------------------------------------------------------


async def test_ctrl_c_at_a_silent_port_ends_with_130_and_without_a_word(ada: User) -> None:
    async with trio.open_nursery() as nursery:
        connected = trio.Event()

        async def serve(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            connected.set()
            await stream.receive_some()

        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with ada.at_terminal("dial", f"tcp://127.0.0.1:{port}") as terminal:
            with trio.fail_after(PATIENCE):
                await connected.wait()
            await terminal.type("\x03")
            assert await terminal.ended() == ExitCode.INTERRUPTED
            assert terminal.shown.strip() in ("", "^C")
        nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dial",),
        ("dial", "nonsense"),
        ("dial", "tcp://127.0.0.1"),
        ("dial", f"tcp://{'a' * 56}@127.0.0.1:1"),
        ("dial", "other://127.0.0.1:1"),
        ("dial", "mem://bob"),
        ("ping", "mem://bob"),
        ("dial", "--timeout", "0", "tcp://127.0.0.1:1"),
        ("dial", "--timeout", "nan", "tcp://127.0.0.1:1"),
        ("dial", "--network", "x", "--public-network", "y", "tcp://127.0.0.1:1"),
        ("dial", "--public-network", "", "tcp://127.0.0.1:1"),
        ("dial", "--agent", "--signer", "x", "tcp://127.0.0.1:1"),
        ("ping", "-c", "0", "tcp://127.0.0.1:1"),
        ("ping", "--interval", "nan", "tcp://127.0.0.1:1"),
        ("ping", "--interval", "-1", "tcp://127.0.0.1:1"),
    ],
    ids=" ".join,
)
async def test_arguments_that_make_no_sense_end_with_2(ada: User, arguments: tuple[str, ...]) -> None:
    done = await ada.run(*arguments)
    assert done.code == ExitCode.USAGE
    assert not done.out
    assert done.err
    assert not too_wide(done.err)


async def test_the_help_names_every_exit_code() -> None:
    assert set(MEANINGS) == set(ExitCode)


# --- ping -----------------------------------------------------------------------------------------------


async def test_pings_are_counted_and_timed(ada: User) -> None:
    async with listening() as invite:
        done = await ada.run("ping", "-c", 3, "--interval", 0, "--json", invite)
        assert done.code == 0
        *_, last = facts = done.facts()
        assert [each["ping"] for each in facts if "ping" in each] == [1, 2, 3]
        assert last["lost"] == 0
        assert 0 < last["least"] <= last["median"] <= last["most"]
        assert all(last[name] == round(last[name], 3) for name in ("least", "median", "most"))


@pytest.mark.slow
async def test_pings_that_nobody_answers_are_lost(ada: User) -> None:
    bob = User(ada.directory / "bob")
    async with bob.running("listen") as listener:
        invite = await listener.line()
        async with ada.running("ping", "-c", 2, "--interval", 0, "--json", invite) as pinging:
            assert (await pinging.facts())["outcome"] == "accepted"
            await pinging.facts()
            listener.process.send_signal(signal.SIGSTOP)
        async with ada.running("ping", "-c", 2, "--interval", 0.5, "--json", invite) as unanswered:
            listener.process.send_signal(signal.SIGCONT)
            await unanswered.facts()
            await unanswered.facts()
            listener.process.send_signal(signal.SIGSTOP)
            assert (await unanswered.facts())["milliseconds"] is None
            assert (await unanswered.facts())["lost"] == 1
            listener.process.send_signal(signal.SIGCONT)
            assert await unanswered.ended() == ExitCode.NO_RESPONSE


async def test_a_connection_that_ends_between_two_pings_is_told(ada: User) -> None:
    bob = User(ada.directory / "bob")
    async with bob.running("listen") as listener:
        invite = await listener.line()
        async with ada.running("ping", "--interval", 30, "--json", invite) as pinging:
            await pinging.facts()
            await pinging.facts()
            listener.process.send_signal(signal.SIGTERM)
            assert await listener.ended() == 0
            told = await pinging.facts()
            assert told["outcome"] == "connection closed"
            assert await pinging.ended() == ExitCode.NO_RESPONSE
