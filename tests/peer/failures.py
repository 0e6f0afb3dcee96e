"""Failures of greetings, each made for real: on loopback, and some in a network namespace of their own.

FAILURES    name → what makes it, and gives what each side of ours says of it
PATIENT     those that wait until a time is up: for a clock that jumps when nothing happens
ELSEWHERE   those that need a network namespace of their own; `elsewhere` makes them
"""

from __future__ import annotations

import functools
import json
import shutil
import socket as stdlib_socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import trio

from trishake import (
    DialError,
    Identity,
    Introduction,
    KnownPeers,
    Listener,
    Network,
    Peer,
    Statistics,
    VerdictCode,
    accept,
    blocked,
    initiate,
    only,
    reject,
)
from trishake._signer import Signer
from trishake._trust import Decision, Policy
from trishake.testing._by_hand import read_to_end
from trishake_protocol import GreetingToSign
from trishake_protocol.messages import FrameType, RecordType, Verdict, encode_frame
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK

from .conftest import (
    ADA,
    ANYWHERE,
    BOB,
    EVE,
    PSK,
    QUICK,
    ByHand,
    Resolver,
    Watch,
    alert,
    closed_port,
    connect,
    outcomes,
    reset,
    serving,
    side,
)

HASTY: Final = replace(QUICK, syn=1, greeting=2)
"""For a failure that takes all of its time."""

CARL: Final = Identity.from_seed(b"c" * 32)


@dataclass(frozen=True)
class Ends:
    """What one failure was to each side, None where the side is not ours. statistics: the listener's."""

    dialer: DialError | None = None
    listener: DialError | None = None
    statistics: Statistics | None = None


Make = Callable[[Path], Awaitable[Ends]]
FAILURES: Final[dict[str, Make]] = {}


PATIENT: Final[set[str]] = set()


def failure(name: str, *, patient: bool = False) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        assert name not in FAILURES
        FAILURES[name] = make
        if patient:
            PATIENT.add(name)
        return make

    return add


def failures(makers: dict[str, Callable[[], Awaitable[Ends]]], *, patient: bool = False) -> None:
    """Of those that need no path."""
    for name, make in makers.items():
        failure(name, patient=patient)(lambda _, make=make: make())  # type: ignore[misc]


# --- our own sides --------------------------------------------------------------------------------------


def peer(identity: Identity | Signer, **options: Any) -> Peer:
    network = options.get("network")
    suites = ((CLASSICAL_PSK if network is not None and network.private else CLASSICAL).id,)
    return Peer(identity, **{"limits": QUICK, "suites": suites, **options})


@asynccontextmanager
async def host(where: str = ANYWHERE, **options: Any) -> AsyncIterator[tuple[Peer, Listener, Watch]]:
    """Bob, who listens."""
    watch = Watch()
    async with peer(**{"identity": BOB, "observers": [watch], **options}) as bob:
        yield bob, await bob.listen(where), watch


async def failed(awaitable: Awaitable[object]) -> DialError:
    try:
        await awaitable
    except DialError as error:
        return error
    raise AssertionError("it did not fail")


async def between(
    *,
    ada: dict[str, Any] | None = None,
    bob: dict[str, Any] | None = None,
    expect: Identity = BOB,
    where: str = ANYWHERE,
) -> Ends:
    """Ada dials Bob."""
    async with host(where, **(bob or {})) as (his, listener, watch):
        address = listener.addresses[0].with_peer(expect.id)
        async with peer(**{"identity": ADA, **(ada or {})}) as hers:
            error = await failed(hers.dial(address))
        return Ends(error, await watch.wait_failed(), his.statistics())


async def dialed(address: str, **options: Any) -> Ends:
    """Ada dials somebody else."""
    async with peer(**{"identity": ADA, **options}) as hers:
        return Ends(await failed(hers.dial(address)))


Script = Callable[[ByHand], Awaitable[None]]


async def dialing(script: Script, **options: Any) -> Ends:
    """Ada dials Bob, who is in our hands."""

    async def serve(stream: trio.SocketStream) -> None:
        await script(ByHand(stream, BOB))
        await trio.aclose_forcefully(stream)

    async with serving(serve) as port:
        return await dialed(f"tcp://{BOB.id}@127.0.0.1:{port}", **options)


async def listening(script: Script, **options: Any) -> Ends:
    """Ada, who is in our hands, dials Bob."""
    async with host(**options) as (his, listener, watch):
        stream = await connect(listener)
        await script(ByHand(stream, ADA))
        error = await watch.wait_failed()
        await trio.aclose_forcefully(stream)
        return Ends(listener=error, statistics=his.statistics())


async def wait(_: Introduction) -> Decision:
    await trio.sleep_forever()
    raise AssertionError


async def fail(_: Introduction) -> Decision:
    raise KeyError("a fault in the policy")


def saying(decision: Decision) -> Policy:
    async def say(_: Introduction) -> Decision:
        return decision

    return say


# --- nobody is there ------------------------------------------------------------------------------------


async def wrong_port() -> Ends:
    return await dialed(f"tcp://{BOB.id}@127.0.0.1:{await closed_port()}")


async def filtered() -> Ends:
    """A listening socket whose backlog is full drops what comes."""
    with stdlib_socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        where = full.getsockname()
        with stdlib_socket.create_connection(where):
            return await dialed(f"tcp://{BOB.id}@127.0.0.1:{where[1]}", limits=HASTY)


async def several_places() -> Ends:
    resolver = Resolver()
    resolver.names["bob.test"] = ["127.0.0.1", "127.0.0.2"]
    trio.socket.set_custom_hostname_resolver(resolver)
    return await dialed(f"tcp://{BOB.id}@bob.test:{await closed_port()}")


async def several() -> Ends:
    invites = [f"tcp://{BOB.id}@127.0.0.{number}:{await closed_port()}" for number in (1, 2)]
    async with peer(ADA) as ada:
        return Ends(await failed(ada.dial(*invites)))


async def several_causes() -> Ends:
    """One of its places has a closed port, and one drops what comes."""
    resolver = Resolver()
    with stdlib_socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        where = full.getsockname()
        with stdlib_socket.create_connection(where):
            closed = ("127.0.0.2", await closed_port())
            resolver.names["bob.test"] = [(stdlib_socket.AF_INET, place) for place in (closed, where)]
            trio.socket.set_custom_hostname_resolver(resolver)
            return await dialed(f"tcp://{BOB.id}@bob.test:4711")


async def found_by_name() -> Ends:
    async def serve(stream: trio.SocketStream) -> None:
        hand = ByHand(stream, BOB)
        await in_syn_ack(hand)
        await close(hand)

    async with serving(serve) as port:
        resolver = Resolver()
        resolver.names["bob.test"] = ["127.0.0.1"]
        trio.socket.set_custom_hostname_resolver(resolver)
        return await dialed(f"tcp://{BOB.id}@bob.test:{port}")


async def slow_resolver() -> Ends:
    trio.socket.set_custom_hostname_resolver(Resolver())
    return await dialed(f"tcp://{BOB.id}@bob.test:4711", limits=HASTY)


async def nobody_in_memory() -> Ends:
    return await dialed(f"mem://{BOB.id}@bob")


failures(
    {
        "wrong port": wrong_port,
        "every address of the name fails": several_places,
        "every invite fails": several,
        "it closes in SYN-ACK, dialed by a name": found_by_name,
        "nobody under that name in memory": nobody_in_memory,
    }
)
failures(
    {
        "filtered port": filtered,
        "the addresses of the name fail each in its way": several_causes,
        "name server silent": slow_resolver,
    },
    patient=True,
)


@failure("Unix socket missing")
async def _(path: Path) -> Ends:
    return await dialed(f"unix://{BOB.id}@{path / 'socket'}")


@failure("Unix socket left behind")
async def _(path: Path) -> Ends:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as crashed:
        crashed.bind(str(path / "socket"))
    return await dialed(f"unix://{BOB.id}@{path / 'socket'}")


@failure("Unix socket whose queue is full", patient=True)
async def _(path: Path) -> Ends:
    sockets = [stdlib_socket.socket(stdlib_socket.AF_UNIX) for _ in range(3)]
    sockets[0].bind(str(path / "socket"))
    sockets[0].listen(0)
    sockets[1].connect(str(path / "socket"))
    try:
        return await dialed(f"unix://{BOB.id}@{path / 'socket'}", limits=replace(QUICK, connect=0.3))
    finally:
        for one in sockets:
            one.close()


# --- in a namespace of its own --------------------------------------------------------------------------

_ELSEWHERE: Final = """
import json, os, socket, subprocess, sys, tempfile, threading
import trio
from trishake import DialError, Identity, Limits, Peer

INVITE = str(Identity.from_seed(b"b" * 32).id)

async def dial(address):
    async with Peer(Identity.from_seed(b"a" * 32), limits=Limits(connect=3), suites=(1,)) as ada:
        try:
            await ada.dial(f"{address[0]}://{INVITE}@{address[1]}")
        except DialError as error:
            return error.explain(), str(error), error.counted_as

def mount(text, path):
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    subprocess.run(["mount", "--bind", file.name, path], check=True)

def answer(server):
    try:
        while True:
            query, who = server.recvfrom(512)
            server.sendto(query[:2] + b"\\x81\\x83" + query[4:6] + bytes(6) + query[12:], who)  # NXDOMAIN
    except OSError:
        pass

mount("nameserver 127.0.0.1\\noptions timeout:1 attempts:1\\n", "/etc/resolv.conf")
mount("127.0.0.1 localhost\\n2001:db8::7 six.test\\n", "/etc/hosts")
told = {"no route": trio.run(dial, ("tcp", "192.0.2.7:4711"))}
told["IPv6 only"] = trio.run(dial, ("tcp", "six.test:4711"))
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
told["no name server"] = trio.run(dial, ("tcp", "bob.test:4711"))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
threading.Thread(target=answer, args=(server,), daemon=True).start()
told["unknown name"] = trio.run(dial, ("tcp", "bob.test:4711"))
directory = tempfile.mkdtemp()
os.chmod(directory, 0o755)
listener = socket.socket(socket.AF_UNIX)
listener.bind(directory + "/socket")
os.chmod(directory + "/socket", 0o600)
listener.listen()
os.setuid(65534)
told["Unix socket not permitted"] = trio.run(dial, ("unix", directory + "/socket"))
json.dump(told, sys.stdout)
"""

ELSEWHERE: Final = ("no route", "IPv6 only", "no name server", "unknown name", "Unix socket not permitted")


@functools.cache
def elsewhere() -> dict[str, list[str]] | None:
    """What dials said in a namespace without a network, with a name server of its own; None if not permitted."""
    if sys.platform != "linux" or shutil.which("ip") is None or shutil.which("unshare") is None:
        return None
    if subprocess.run(["unshare", "-mn", "true"], capture_output=True, check=False).returncode:
        return None
    command = ["unshare", "-mn", sys.executable, "-c", _ELSEWHERE]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    told: dict[str, list[str]] = json.loads(done.stdout)
    return told


# --- it is something else -------------------------------------------------------------------------------


def answering(data: bytes, *, scheme: str = "tcp", **options: Any) -> Callable[[], Awaitable[Ends]]:
    async def make() -> Ends:
        async def serve(stream: trio.SocketStream) -> None:
            await stream.send_all(data)
            await read_to_end(stream)
            await trio.aclose_forcefully(stream)

        async with serving(serve) as port:
            return await dialed(f"{scheme}://{BOB.id}@127.0.0.1:{port}", **options)

    return make


def calling(data: bytes) -> Callable[[], Awaitable[Ends]]:
    async def call(hand: ByHand) -> None:
        await hand.say(data)

    return functools.partial(listening, call)


HTTP: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
SSH: Final = b"SSH-2.0-OpenSSH_9.2\r\n"
TLS: Final = bytes.fromhex("15030100020232")

failures(
    {
        "HTTP answers": answering(HTTP),
        "SSH answers": answering(SSH),
        "TLS answers": answering(TLS),
        "unknown bytes answer": answering(b"\x80what is this?"),
        "HTTP calls": calling(b"GET / HTTP/1.1\r\n\r\n"),
        "SSH calls": calling(SSH),
        "TLS calls": calling(bytes.fromhex("16030100050100000100")),
        "unknown bytes call": calling(b"\x80what is this?"),
        "tls:// to SSH": answering(SSH, scheme="tls"),
        "ws:// to HTTP": answering(HTTP, scheme="ws"),
        "ws:// to SSH": answering(SSH, scheme="ws"),
    }
)
failures({f"{scheme}:// to silence": answering(b"", scheme=scheme) for scheme in ("tls", "ws")}, patient=True)


def by_scheme(scheme: str) -> Callable[[], Awaitable[Ends]]:
    async def make() -> Ends:
        async with host() as (his, listener, watch):
            ends = await dialed(f"{scheme}://{BOB.id}@127.0.0.1:{listener.addresses[0].port}")
            return replace(ends, listener=await watch.wait_failed(), statistics=his.statistics())

    return make


failures({f"{scheme}:// to a plain port of Trishake's": by_scheme(scheme) for scheme in ("tls", "ws")})


# --- another network, key or name -----------------------------------------------------------------------

HOME: Final = Network("home", PSK)


async def version_too_new(hand: ByHand) -> None:
    flight = bytearray(hand.flight())
    flight[4] = flight[5] = 2  # version and version_max
    await hand.say(bytes(flight))


def alerting(code: int, detail: bytes = b"") -> Callable[[], Awaitable[Ends]]:
    async def answer(hand: ByHand) -> None:
        await hand.hear_flight()
        await hand.say(alert(code, detail))
        await hand.stream.aclose()

    return functools.partial(dialing, answer)


def deciding(code: VerdictCode | int, **parts: Any) -> Callable[[], Awaitable[Ends]]:
    async def answer(hand: ByHand) -> None:
        await hand.answer()
        await hand.say(hand.verdict(Verdict(code, **parts)))
        await hand.stream.aclose()

    return functools.partial(dialing, answer)


failures(
    {
        "wrong key in the invite": lambda: between(expect=EVE),
        "wrong public network": lambda: between(ada={"network": Network("club")}),
        "no network key": lambda: between(bob={"network": HOME}),
        "network key where none is": lambda: between(ada={"network": HOME}),
        "wrong network key": lambda: between(ada={"network": Network("home", PSK[::-1])}, bob={"network": HOME}),
        "right key, another name": lambda: between(ada={"network": Network("house", PSK)}, bob={"network": HOME}),
        "quiet private network, no key": lambda: between(bob={"network": Network("home", PSK, quiet=True)}),
        "suite refused": lambda: between(ada={"suites": (2,)}),
        "its version too new for us": alerting(0x02, b"\x02\x03"),
        "its version too old for us": alerting(0x02, b"\x00\x00"),
        "a dialer's version too new for us": functools.partial(listening, version_too_new),
        "tampered SYN": alerting(0x06),
    }
)


# --- policies -------------------------------------------------------------------------------------------

APPLICATION: Final = 0x8001


async def changed(path: Path) -> Ends:
    known = KnownPeers(path / "known_peers")
    async with host() as (his, listener, watch):
        address = replace(listener.addresses[0], peer=None)
        (path / "known_peers").write_text(f"{address.endpoint} {CARL.id}\n")
        (path / "known_peers").chmod(0o600)
        async with peer(ADA, trust=known) as ada:
            error = await failed(ada.dial(address))
        return Ends(error, await watch.wait_failed(), his.statistics())


failures(
    {
        "blocked": lambda: between(bob={"trust": blocked(ADA.id)}),
        "unknown": lambda: between(bob={"trust": only(EVE.id)}),
        "policy says no": lambda: between(bob={"trust": saying(reject(text="members only"))}),
        "application's own code": lambda: between(bob={"trust": saying(reject(APPLICATION, "no seat left"))}),
        "policy fails": lambda: between(bob={"trust": fail}),
        "our own policy says no": lambda: between(ada={"trust": saying(reject())}),
        "our own policy does not know it": lambda: between(ada={"trust": only(EVE.id)}),
        "our own policy has blocked it": lambda: between(ada={"trust": blocked(BOB.id)}),
        "our own policy fails": lambda: between(ada={"trust": fail}),
    }
)
failures(
    {
        "policy slow": lambda: between(bob={"trust": wait}),
        "our own policy is slow": lambda: between(ada={"trust": wait}),
    },
    patient=True,
)
failure("known peer changed")(changed)


async def too_slow_a_dialer() -> Ends:
    """Its policy takes longer than the listener gives it."""

    async def hesitate(_: Introduction) -> Decision:
        await trio.sleep((HASTY.greeting + QUICK.greeting) / 2)
        return accept()

    return await between(ada={"trust": hesitate, "limits": replace(QUICK, policy=10)}, bob={"limits": HASTY})


async def without_streams() -> Ends:
    async with host() as (his, listener, watch):
        stream = await connect(listener)
        error = await failed(initiate(stream, ADA, suites=(CLASSICAL.id,), limits=QUICK))
        return Ends(error, await watch.wait_failed(), his.statistics())


async def over_a_stream() -> Ends:
    """Nobody has dialed: the stream was there, and has no address."""
    watch = Watch()
    streams = trio.testing.memory_stream_pair()
    at_ada, _ = await outcomes(streams, side(ADA, expect=EVE.id), side(BOB, observers=[watch]))
    assert isinstance(at_ada, DialError)
    return Ends(at_ada, await watch.wait_failed())


failures({"a dialer without streams": without_streams, "somebody else over a stream": over_a_stream})
failures({"the dialer too slow": too_slow_a_dialer}, patient=True)


# --- no room --------------------------------------------------------------------------------------------


async def by_rate() -> Ends:
    limits = replace(QUICK, handshake_burst=1, handshake_rate=0.01)
    async with host(limits=limits) as (his, listener, watch), peer(ADA) as ada, peer(EVE) as eve:
        await eve.dial(listener.invite)
        error = await failed(ada.dial(listener.invite))
        return Ends(error, await watch.wait_failed(), his.statistics())


async def held(**limits: Any) -> Ends:
    """Somebody else has the one slot."""
    async with (
        host(limits=replace(QUICK, **limits)) as (his, listener, watch),
        peer(ADA) as ada,
        await connect(listener),
    ):
        await trio.testing.wait_all_tasks_blocked(0.01)
        error = await failed(ada.dial(listener.invite))
        return Ends(error, await watch.wait_failed(), his.statistics())


async def duplicate() -> Ends:
    async with host() as (his, listener, watch), peer(ADA) as ada:
        await ada.dial(listener.invite)
        error = await failed(ada.dial(listener.invite))
        return Ends(error, await watch.wait_failed(), his.statistics())


failures(
    {
        "full": lambda: between(bob={"limits": replace(QUICK, connections=0)}),
        "busy: rate": by_rate,
        "busy: this address": functools.partial(held, handshakes_per_address=1),
        "busy: every slot": functools.partial(held, handshakes=1),
        "duplicate": duplicate,
    }
)


# --- to oneself, and at the same moment -----------------------------------------------------------------


async def self_dial() -> Ends:
    async with host() as (his, listener, watch):
        error = await failed(his.dial(listener.invite))
        (listening,) = [one for role, one in watch.failures if role.value == "responder"]
        return Ends(error, listening, his.statistics())


async def crossing() -> Ends:
    """Bob, whose id is the larger one, dials Ada, who dials Bob before she has said READY."""
    small, large = sorted((ADA, BOB), key=lambda identity: identity.id.key)
    asked, answer = trio.Event(), trio.Event()

    async def slowly(stream: trio.SocketStream) -> None:
        hand = ByHand(stream, small)
        await hand.answer()
        asked.set()
        await answer.wait()
        await hand.say(hand.ready())
        await read_to_end(stream)

    async with (
        serving(slowly) as port,
        host(identity=large) as (his, listener, watch),
        trio.open_nursery() as tasks,
    ):
        tasks.start_soon(his.dial, f"tcp://{small.id}@127.0.0.1:{port}")
        await asked.wait()
        hand = ByHand(await connect(listener), small)
        await hand.say(hand.flight())
        await hand.hear_syn_ack(large.id)
        await hand.say(hand.ack())
        await trio.testing.wait_all_tasks_blocked(0.01)
        answer.set()
        assert (await hand.hear_verdict()).code is VerdictCode.CROSSING
        error = await watch.wait_failed()
        await hand.stream.aclose()
        await his.aclose(finish=0)
        return Ends(listener=error, statistics=his.statistics())


failures(
    {
        "self-dial": self_dial,
        "two peers of one identity": lambda: between(ada={"identity": Identity.from_seed(b"b" * 32)}),
        "crossing": crossing,
    }
)
failures({"crossing, and no connection comes": deciding(VerdictCode.CROSSING)}, patient=True)


# --- somebody closes ------------------------------------------------------------------------------------


async def going_away() -> Ends:
    """Bob leaves while Ada's policy is at work."""
    async with host() as (his, listener, watch):

        async def meanwhile(_: Introduction) -> Decision:
            await listener.aclose()
            await watch.wait_failed()
            return accept()

        async with peer(ADA, trust=meanwhile) as ada:
            error = await failed(ada.dial(listener.invite))
        return Ends(error, await watch.wait_failed(), his.statistics())


async def shutting_down() -> Ends:
    asked = trio.Event()

    async def ask(_: Introduction) -> Decision:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    async with host(trust=ask) as (his, listener, watch), peer(ADA) as ada, trio.open_nursery() as tasks:

        async def leave() -> None:
            await asked.wait()
            await listener.aclose()

        tasks.start_soon(leave)
        error = await failed(ada.dial(listener.invite))
        return Ends(error, await watch.wait_failed(), his.statistics())


async def leaving() -> Ends:
    async def silence(stream: trio.SocketStream) -> None:
        await read_to_end(stream)

    async with serving(silence) as port, peer(ADA) as ada, trio.open_nursery() as tasks:

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked(0.01)
            await ada.aclose()

        tasks.start_soon(leave)
        return Ends(await failed(ada.dial(f"tcp://{BOB.id}@127.0.0.1:{port}")))


failures(
    {
        "it leaves before our ACK": going_away,
        "it leaves while its policy decides": shutting_down,
        "we leave while we dial": leaving,
    }
)


# --- keys held elsewhere --------------------------------------------------------------------------------


class Unplugged(Signer):
    async def sign(self, greeting: GreetingToSign) -> bytes:
        raise OSError("the token is unplugged")


class Stuck(Signer):
    async def sign(self, greeting: GreetingToSign) -> bytes:
        await trio.sleep_forever()
        raise AssertionError


failures(
    {
        "our key does not sign": lambda: between(ada={"identity": Unplugged(ADA.id)}),
        "its key does not sign": lambda: between(bob={"identity": Unplugged(BOB.id)}),
    }
)
failures(
    {"our key does not sign in time": lambda: between(ada={"identity": Stuck(ADA.id), "limits": HASTY})},
    patient=True,
)


# --- clocks ---------------------------------------------------------------------------------------------

HOUR: Final = 3600


async def expired_there() -> Ends:
    """Bob's clock is two hours ahead of Ada's, whose greeting was good for one."""

    async def answer(hand: ByHand) -> None:
        await hand.hear_flight()
        await hand.say(hand.syn_ack(hand.honest(time=int(time.time()) + 2 * HOUR)))
        await hand.hear_ack()
        await hand.say(hand.verdict(Verdict(VerdictCode.EXPIRED)))

    return await dialing(answer)


async def expired_here() -> Ends:
    async def answer(hand: ByHand) -> None:
        await hand.hear_flight()
        now = int(time.time())
        await hand.say(hand.syn_ack(hand.honest(time=now - 2 * HOUR, exp=now - HOUR)))
        await read_to_end(hand.stream)

    return await dialing(answer)


async def expired_dialer() -> Ends:
    async def call(hand: ByHand) -> None:
        await hand.say(hand.flight())
        await hand.hear_syn_ack(BOB.id)
        now = int(time.time())
        await hand.say(hand.ack(hand.honest(time=now - 2 * HOUR, exp=now - HOUR)))

    return await listening(call)


async def expired_by_right_clocks() -> Ends:
    async with host() as (his, listener, watch), peer(ADA) as ada:
        ada._profile = replace(ada._profile, exp=int(time.time()) - HOUR)
        error = await failed(ada.dial(listener.invite))
        return Ends(error, await watch.wait_failed(), his.statistics())


failures(
    {
        "our clock is behind": expired_there,
        "its clock is behind": expired_here,
        "a dialer's clock is behind": expired_dialer,
        "our greeting has expired, and the clocks agree": expired_by_right_clocks,
    }
)


# --- cut, slow, broken, at each step --------------------------------------------------------------------


async def before_syn_ack(hand: ByHand) -> None:
    await hand.hear_flight()


async def in_syn_ack(hand: ByHand) -> None:
    await hand.hear_flight()
    await hand.say(hand.syn_ack()[:100])


async def after_ack(hand: ByHand) -> None:
    await hand.answer()


async def in_verdict(hand: ByHand) -> None:
    await hand.answer()
    await hand.say(hand.ready()[:10])


async def before_syn(hand: ByHand) -> None:
    pass


async def in_syn(hand: ByHand) -> None:
    await hand.say(hand.flight()[:40])


async def after_syn_ack(hand: ByHand) -> None:
    await hand.say(hand.flight())
    await hand.hear_syn_ack(BOB.id)


async def in_ack(hand: ByHand) -> None:
    await hand.say(hand.flight())
    await hand.hear_syn_ack(BOB.id)
    await hand.say(hand.ack()[:100])


async def close(hand: ByHand) -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert isinstance(hand.stream, trio.SocketStream)
    await hand.stream.send_eof()
    await read_to_end(hand.stream)


async def crash(hand: ByHand) -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert isinstance(hand.stream, trio.SocketStream)
    await reset(hand.stream)


async def stand_still(hand: ByHand) -> None:
    await read_to_end(hand.stream)


_ANSWERING: Final = {
    "before SYN-ACK": before_syn_ack,
    "in SYN-ACK": in_syn_ack,
    "after ACK": after_ack,
    "in the verdict": in_verdict,
}
_CALLING: Final = {
    "before SYN": before_syn,
    "in SYN": in_syn,
    "after SYN-ACK": after_syn_ack,
    "in ACK": in_ack,
}
_ENDS: Final = {"closes": close, "crashes": crash, "stands still": stand_still}


def ending(run: Callable[[Script], Awaitable[Ends]], begin: Script, end: Script) -> Callable[[], Awaitable[Ends]]:
    async def script(hand: ByHand) -> None:
        await begin(hand)
        await end(hand)

    return functools.partial(run, script)


for _how, _end in _ENDS.items():
    for _where, _begin in _ANSWERING.items():
        failures({f"it {_how} {_where}": ending(dialing, _begin, _end)}, patient=_end is stand_still)
    for _where, _begin in _CALLING.items():
        failures({f"a dialer {_how} {_where}": ending(listening, _begin, _end)}, patient=_end is stand_still)


def changed_at(frame: bytes, at: int) -> bytes:
    """One bit of it is another."""
    return frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :]


def answering_with(make: Callable[[ByHand], bytes], *, verdict: bool = False) -> Callable[[], Awaitable[Ends]]:
    async def answer(hand: ByHand) -> None:
        await (hand.answer() if verdict else hand.hear_flight())
        await hand.say(make(hand))
        await read_to_end(hand.stream)

    return functools.partial(dialing, answer)


def calling_with(make: Callable[[ByHand], bytes], *, ack: bool = True) -> Callable[[], Awaitable[Ends]]:
    async def call(hand: ByHand) -> None:
        if ack:
            await hand.say(hand.flight())
            await hand.hear_syn_ack(BOB.id)
        await hand.say(make(hand))

    return functools.partial(listening, call)


SMALL_ORDER: Final = b"\x01" + bytes(31)
WRONG: Final = bytes(64)

failures(
    {
        "SYN-ACK changed on its way": answering_with(lambda hand: changed_at(hand.syn_ack(), 150)),
        "SYN-ACK is another frame": answering_with(lambda _: encode_frame(FrameType.RECORD, bytes(40))),
        "SYN-ACK with a wrong signature": answering_with(lambda hand: hand.syn_ack(signature=WRONG)),
        "SYN-ACK of an identity of small order": answering_with(
            lambda hand: hand.syn_ack(hand.honest(id=SMALL_ORDER))
        ),
        "SYN-ACK that is no greeting": answering_with(lambda hand: hand.syn_ack(payload=b"\x80" * 200)),
        "SYN-ACK too short": answering_with(lambda hand: hand.syn_ack(payload=b"\x80")),
        "downgrade, seen by the dialer": answering_with(lambda hand: hand.syn_ack(hand.honest(offers=(2,)))),
        "downgrade, seen by the listener": calling_with(lambda hand: hand.ack(hand.honest(offers=(2, 1)))),
        "verdict changed on its way": answering_with(lambda hand: changed_at(hand.ready(), 10), verdict=True),
        "verdict is another record": answering_with(
            lambda hand: hand.record(RecordType.DATA, b"hello"), verdict=True
        ),
        "SYN changed on its way": calling_with(lambda hand: changed_at(hand.flight(), 8), ack=False),
        "SYN is another frame": calling_with(
            lambda hand: hand.flight()[:21] + encode_frame(FrameType.ACK, bytes(40)), ack=False
        ),
        "ACK changed on its way": calling_with(lambda hand: changed_at(hand.ack(), 100)),
        "ACK is another frame": calling_with(lambda _: encode_frame(FrameType.SYN, bytes(32))),
        "ACK with a wrong signature": calling_with(lambda hand: hand.ack(signature=WRONG)),
        "ACK of an identity of small order": calling_with(lambda hand: hand.ack(hand.honest(id=SMALL_ORDER))),
        "ACK that is no greeting": calling_with(lambda hand: hand.ack(payload=b"\x80" * 200)),
        "ACK that asks too much": calling_with(lambda hand: hand.ack(hand.honest(extra={"!quantum": True}))),
        "ALERT of a listener, from a dialer": calling_with(lambda _: alert(0x05)),
        "ACK too short": calling_with(lambda hand: hand.ack(payload=b"\x80")),
        "our signature is wrong, it says": deciding(VerdictCode.BAD_SIGNATURE),
        "our identity proves nothing, it says": deciding(VerdictCode.BAD_IDENTITY_KEY),
        "our greeting breaks the rules, it says": deciding(VerdictCode.BAD_GREETING),
        "our greeting asks too much, it says": deciding(VerdictCode.UNSUPPORTED_CRITICAL),
        "downgrade, it says": deciding(VerdictCode.DOWNGRADE),
        "our bytes are malformed, it says": alerting(0x01),
        "too slow, it says": alerting(0x07),
    }
)
