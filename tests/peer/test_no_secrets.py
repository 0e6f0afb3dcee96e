"""What is shown of objects, of failures and of their frames has no key, password or pre-shared key in it."""

from __future__ import annotations

import json
import os
import pickle
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import trishake
import trishake_protocol
from trishake import (
    DialError,
    Identity,
    Network,
    Peer,
    SecureStream,
    Suite,
    initiate,
    only,
    respond,
)
from trishake._greeting import Greeter
from trishake._limits import Limits
from trishake._observers import Observers
from trishake._signer import Signer
from trishake._timeline import Trace
from trishake._trust import anyone
from trishake._wire import Wire
from trishake_protocol import GreetingToSign, Profile, PublicIdentity, Role, Session
from trishake_protocol.noise import CipherState, HandshakeState
from trishake_protocol.patterns import SUITES
from trishake_protocol.primitives import MLKEM768, KeyPair
from trishake_protocol.records import RecordReader, RecordWriter

from ..leaks import Secrets
from .conftest import (
    ADA,
    BOB,
    EVE,
    EVERY_SUITE,
    MEMORY_AND_TCP,
    StreamPair,
    StreamPairMaker,
    memory_pair,
    met,
    network_of,
    outcomes,
    relayed,
    side,
)

LIBRARY: Final = tuple(str(Path(module.__file__ or "").parent) for module in (trishake, trishake_protocol))
PASSWORD: Final = "correct horse"


def fresh_psk() -> Network:
    return Network("home", os.urandom(32))


# --- objects --------------------------------------------------------------------------------------------


def greeter() -> Greeter:
    profile = Profile(fresh_psk())
    session = Session.initiator(Identity.generate(), profile, now=0)
    trace = Trace(Role.INITIATOR, ADA.id, "home", None, Observers())
    wire = Wire.over(trio.testing.memory_stream_pair()[0])
    return Greeter(session, wire, identity=Identity.generate(), trust=anyone, limits=Limits(), trace=trace)


def handshake() -> HandshakeState:
    suite = SUITES[0x0102]
    static, psk = KeyPair(), os.urandom(32)
    state = HandshakeState(suite.noise_name, suite.pattern, Role.INITIATOR, s=static, psks=[psk])
    state.write_message()
    return state


OBJECTS: Final[dict[str, Callable[[], object]]] = {
    "identity": Identity.generate,
    "identity of a seed": lambda: Identity.from_seed(os.urandom(32)),
    "public identity": lambda: PublicIdentity(ADA.id),
    "static key": KeyPair,
    "kem key": MLKEM768.generate_key_pair,
    "network": fresh_psk,
    "network with two keys": lambda: Network.new("home").with_new_key(),
    "profile": lambda: Profile(fresh_psk()),
    "peer": lambda: Peer(Identity.generate(), network=fresh_psk()),
    "session of an initiator": lambda: Session.initiator(Identity.generate(), Profile(fresh_psk()), now=0),
    "session of a responder": lambda: Session.responder(Identity.generate(), Profile(fresh_psk()), now=0),
    "handshake": handshake,
    "symmetric state": lambda: handshake()._symmetric,
    "cipher": lambda: CipherState(key=os.urandom(32)),
    "writer": lambda: RecordWriter(CipherState(key=os.urandom(32))),
    "reader": lambda: RecordReader(CipherState(key=os.urandom(32))),
    "greeter": greeter,
}


@pytest.mark.parametrize("kind", OBJECTS)
async def test_an_object_that_holds_secrets_shows_none(kind: str, secrets: Secrets) -> None:
    shown = OBJECTS[kind]()
    assert secrets.find(f"{shown!r} {shown} {[shown]} {shown:}") is None


@pytest.mark.parametrize("kind", ["identity", "static key", "peer", "handshake", "cipher"])
async def test_what_holds_a_key_is_not_pickled(kind: str) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(OBJECTS[kind]())


@EVERY_SUITE
@MEMORY_AND_TCP
async def test_what_an_open_connection_shows_has_no_key_in_it(
    suite: Suite, transport: StreamPairMaker, secrets: Secrets
) -> None:
    options = {"network": network_of(suite), "suites": (suite.id,)}
    for end in await outcomes(
        await transport(), side(Identity.generate(), **options), side(Identity.generate(), **options)
    ):
        assert isinstance(end, SecureStream)
        assert secrets.find(f"{end!r} {end._session!r} {end.timeline!r} {end.timeline} {end.greeting!r}") is None
        assert secrets.find(json.dumps(end.timeline.as_dict())) is None


async def test_what_peers_and_streams_show_has_no_key_in_it(secrets: Secrets) -> None:
    async with met() as two:
        two.bob.handle("echo/1", two.bob.aclose)  # type: ignore[arg-type]
        for shown in (two.ada, two.at_ada, two.at_bob, two.bob.statistics(), two.at_ada.timeline):
            assert secrets.find(f"{shown!r} {shown}") is None


# --- failures -------------------------------------------------------------------------------------------

Failing = Callable[[], Awaitable[list[BaseException]]]


class Broken(Signer):
    """Fails with the greeting in its hands."""

    async def sign(self, greeting: GreetingToSign) -> bytes:
        raise RuntimeError("the hardware is gone")


async def both(ada: dict[str, Any], bob: dict[str, Any], streams: StreamPair | None = None) -> list[BaseException]:
    identities = [options.pop("identity", None) or Identity.generate() for options in (ada, bob)]
    found = await outcomes(streams or await memory_pair(), side(identities[0], **ada), side(identities[1], **bob))
    return [end for end in found if isinstance(end, DialError)]


async def change_bytes(which: Role, number: int, network: Network) -> list[BaseException]:
    def change(sender: Role, index: int, frame: bytes) -> list[bytes]:
        return [frame[:-1] + bytes([frame[-1] ^ 1])] if (sender, index) == (which, number) else [frame]

    async with relayed(memory_pair, change) as streams:
        return await both({"network": network}, {"network": network}, streams)


async def policy_raises() -> list[BaseException]:
    async def policy(_: object) -> Any:
        raise RuntimeError("a black cat")

    return await both({}, {"trust": policy})


async def nobody_answers(call: Any) -> list[BaseException]:
    here, there = await memory_pair()
    async with here, there:
        options = {"limits": Limits(syn=0.05, greeting=0.05), "network": fresh_psk()}
        with pytest.raises(DialError) as caught:
            await call(here, Identity.generate(), **options)
    return [caught.value]


FAILURES: Final[dict[str, Failing]] = {
    "another key": lambda: both({"network": fresh_psk()}, {"network": fresh_psk()}),
    "another network": lambda: both({"network": Network("one")}, {"network": Network("two")}),
    "public and private": lambda: both({"network": Network("home")}, {"network": fresh_psk()}),
    "not welcome": lambda: both({}, {"trust": only(EVE.id)}),
    "not whom we want": lambda: both({"trust": only(EVE.id)}, {}),
    "policy that raises": policy_raises,
    "signer that fails, dialing": lambda: both({"identity": Broken(ADA.id)}, {}),
    "signer that fails, answering": lambda: both({}, {"identity": Broken(BOB.id)}),
    "oneself": lambda: both({"identity": EVE}, {"identity": EVE}),
    "SYN changed": lambda: change_bytes(Role.INITIATOR, 1, fresh_psk()),
    "SYN-ACK changed": lambda: change_bytes(Role.RESPONDER, 0, fresh_psk()),
    "ACK changed": lambda: change_bytes(Role.INITIATOR, 2, fresh_psk()),
    "verdict changed": lambda: change_bytes(Role.RESPONDER, 1, fresh_psk()),
    "SYN changed, in public": lambda: change_bytes(Role.INITIATOR, 1, Network()),
    "ACK changed, in public": lambda: change_bytes(Role.INITIATOR, 2, Network()),
    "nobody dials": lambda: nobody_answers(respond),
    "nobody answers": lambda: nobody_answers(initiate),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_failed_greeting_shows_no_secret_in_anything_that_is_said_of_it(
    kind: str, secrets: Secrets
) -> None:
    failures = await FAILURES[kind]()
    assert failures
    for error in failures:
        assert isinstance(error, DialError)
        said = [repr(error), str(error), error.explain(), str(error.timeline), repr(error.timeline)]
        said += [json.dumps(error.as_dict()), repr(error.args), repr(vars(error)), frames_of(error)]
        assert [secrets.find(text) for text in said] == [None] * len(said)


def frames_of(error: BaseException) -> str:
    """Its traceback, and those of all that it came of, with the variables of the library's own frames."""
    text, whole = "", traceback.TracebackException.from_exception(error, capture_locals=True)
    pending, seen = [whole], set[int]()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        text += "".join(one.format_exception_only())
        for frame in one.stack:
            if frame.filename.startswith(LIBRARY):
                text += "\n".join(
                    f"{frame.name}: {name} = {shown}" for name, shown in (frame.locals or {}).items()
                )
        pending += [*(one.exceptions or ()), *filter(None, (one.__cause__, one.__context__))]
    return text
