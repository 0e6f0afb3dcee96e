"""_impostors.py: right peers withstand each of them, in both roles; and peers that leave a check out do not."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import trio

from trishake import Identity, Network, NoResponse, Peer, PeerId, Role, only
from trishake._addresses import Address
from trishake.cli._outcomes import ExitCode
from trishake.testing import _impostors
from trishake.testing._hostile import (
    HostilePeer,
    assert_dialer_withstands,
    assert_listener_withstands,
    attack,
    serving,
)
from trishake.testing._impostors import IMPOSTORS
from trishake.testing._virtual_network import VirtualNetwork
from trishake_protocol import Accepted, Event, GreetingRefused, RemoteProtocolError, Session, State
from trishake_protocol import greeting as greeting_module
from trishake_protocol import messages as messages_module
from trishake_protocol import network as network_module
from trishake_protocol import peer_id as peer_id_module
from trishake_protocol.greeting import Handshake
from trishake_protocol.identity import GreetingContext
from trishake_protocol.messages import FrameType, Greeting, Ping, RecordType
from trishake_protocol.noise import CipherState, HandshakeState
from trishake_protocol.patterns import CLASSICAL, CLASSICAL_PSK, HYBRID, HYBRID_PSK
from trishake_protocol.primitives import KeyPair
from trishake_protocol.records import RecordReader
from trishake_protocol.states import Input

from ..peer.command_line import PATIENCE, User

HOME: Final = Network("home", psk=bytes(range(32)))

PUBLIC: Final[dict[str, dict[str, Any]]] = {
    "classical": {"suites": (CLASSICAL.id,)},
    "hybrid": {"suites": (HYBRID.id,)},
}
PRIVATE: Final[dict[str, dict[str, Any]]] = {
    "classical psk": {"network": HOME, "suites": (CLASSICAL_PSK.id,)},
    "hybrid psk": {"network": HOME, "suites": (HYBRID_PSK.id,)},
}
OF_INTEREST_WITH_PSK: Final = [
    _impostors.impostor,
    _impostors.downgrader,
    _impostors.man_in_the_middle,
    _impostors.outsider,
    _impostors.preface_tamperer,
    _impostors.record_replayer,
    _impostors.replayer,
    _impostors.stolen_static,
    _impostors.syn_tamperer,
]


def named(peers: list[HostilePeer]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("peer", peers, ids=[peer.name for peer in peers])


DIALING: Final = [peer for peer in IMPOSTORS if peer.listener is not None]
DIALED: Final = [peer for peer in IMPOSTORS if peer.dialer is not None]

in_memory: Final = pytest.mark.parametrize("network", ["memory"], indirect=True)
over_tcp: Final = pytest.mark.parametrize("network", ["tcp"], indirect=True)
everywhere: Final = pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)
suites_in_public: Final = pytest.mark.parametrize(
    "options",
    [
        pytest.param(PUBLIC["classical"], id="classical"),
        pytest.param(PUBLIC["hybrid"], id="hybrid", marks=pytest.mark.slow),  # over TCP, it is that of all
    ],
)
suites_in_private: Final = pytest.mark.parametrize("options", PRIVATE.values(), ids=PRIVATE)


# --- right peers ----------------------------------------------------------------------------------------


@in_memory
@suites_in_public
@named(DIALING)
async def test_a_listener_withstands_it(
    network: VirtualNetwork, options: dict[str, Any], peer: HostilePeer
) -> None:
    await assert_listener_withstands(network.peer("bob", **options), peer)


@in_memory
@suites_in_public
@named(DIALED)
async def test_a_dialer_withstands_it(network: VirtualNetwork, options: dict[str, Any], peer: HostilePeer) -> None:
    await assert_dialer_withstands(network.peer("ada", **options), peer)


@over_tcp
@named(DIALING)
async def test_a_listener_withstands_it_over_real_sockets(network: VirtualNetwork, peer: HostilePeer) -> None:
    await assert_listener_withstands(network.peer("bob"), peer)


@over_tcp
@named(DIALED)
async def test_a_dialer_withstands_it_over_real_sockets(network: VirtualNetwork, peer: HostilePeer) -> None:
    await assert_dialer_withstands(network.peer("ada"), peer)


@everywhere
@suites_in_private
@named(OF_INTEREST_WITH_PSK)
async def test_a_member_of_a_private_network_withstands_it(
    network: VirtualNetwork, options: dict[str, Any], peer: HostilePeer
) -> None:
    await assert_listener_withstands(network.peer("bob", **options), peer)
    await assert_dialer_withstands(network.peer("ada", **options), peer)


@in_memory
@named(OF_INTEREST_WITH_PSK)
async def test_a_listener_of_a_quiet_network_withstands_it(network: VirtualNetwork, peer: HostilePeer) -> None:
    bob = network.peer("bob", network=Network("home", psk=bytes(range(32)), quiet=True))
    answer = await assert_listener_withstands(bob, peer)
    lacks_the_key = peer in {_impostors.outsider, _impostors.preface_tamperer, _impostors.syn_tamperer}
    assert (answer.told is None) is lacks_the_key


@in_memory
@named(DIALING)
async def test_a_listener_that_welcomes_nobody_withstands_it(network: VirtualNetwork, peer: HostilePeer) -> None:
    bob = network.peer("bob", trust=only(Identity.generate().id))
    await assert_listener_withstands(bob, peer)
    assert bob.statistics().accepted == 0


@in_memory
@named(DIALED)
async def test_a_dialer_names_itself_to_those_only_whom_it_does_not_refuse(
    network: VirtualNetwork, peer: HostilePeer
) -> None:
    assert peer.dialer is not None
    answer = await assert_dialer_withstands(network.peer("ada"), peer)
    verified = "accepted" in peer.dialer.counts or "verdict/broken" in peer.dialer.counts
    assert answer.named_itself is verified


# --- what they say of themselves ------------------------------------------------------------------------


@named(list(IMPOSTORS))
def test_a_docstring_says_what_it_does_and_each_code_that_is_right(peer: HostilePeer) -> None:
    assert peer.__doc__ is not None
    does, _, rest = peer.__doc__.partition("\n")
    answers = " ".join(rest.split())
    assert does.endswith(".")
    for right in (peer.listener, peer.dialer):
        if right is not None:
            codes = {*right.counts, right.told, right.ended} - {"accepted", None}
            assert [code for code in codes if str(code) not in answers] == []
    assert ("right listener" in answers) is (peer.listener is not None)
    assert ("right dialer" in answers) is (peer.dialer is not None)


def test_all_of_them_are_in_the_list_under_their_own_names() -> None:
    there = {name: value for name, value in vars(_impostors).items() if isinstance(value, HostilePeer)}
    assert {peer.name: peer for peer in IMPOSTORS} == there
    assert len(IMPOSTORS) == len(there)


# --- peers that leave a check out -----------------------------------------------------------------------

Breakage = Callable[[pytest.MonkeyPatch], None]


def does_not_check_the_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GreetingContext, "verify", lambda *_: True)


def takes_an_empty_signature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(greeting_module, "SIGNATURE_LENGTH", 0)
    does_not_check_the_signature(patch)


def signing_without(**left_out: Any) -> Breakage:
    """A library in which signatures do not cover these parts of the context, on both sides."""
    whole = GreetingContext.to_be_signed

    def leave_out(patch: pytest.MonkeyPatch) -> None:
        def to_be_signed(self: GreetingContext, record: bytes) -> bytes:
            return whole(self._replace(**left_out), record)

        patch.setattr(GreetingContext, "to_be_signed", to_be_signed)

    return leave_out


def does_not_sign_the_record(patch: pytest.MonkeyPatch) -> None:
    whole = GreetingContext.to_be_signed
    patch.setattr(GreetingContext, "to_be_signed", lambda self, _: whole(self, b""))


def takes_whoever_answers(patch: pytest.MonkeyPatch) -> None:
    initiator = Session.initiator

    def for_anybody(*args: Any, **options: Any) -> Session:
        return initiator(*args, **{**options, "expected": None})

    patch.setattr(Session, "initiator", for_anybody)


def takes_keys_of_small_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(peer_id_module, "_SMALL_ORDER", frozenset())


def takes_keys_that_are_not_canonical(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(peer_id_module, "_FIELD_PRIME", 2**255)


def takes_a_shared_secret_of_zero(patch: pytest.MonkeyPatch) -> None:
    agree = KeyPair.dh

    def dh(self: KeyPair, public: bytes) -> bytes:
        return agree(self, public) if any(public) else bytes(32)

    patch.setattr(KeyPair, "dh", dh)


def takes_what_has_expired(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(greeting_module, "EXPIRY_ALLOWANCE", 2**40)


def takes_what_it_must_understand(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(messages_module, "_refuse_unknown_critical", lambda *_: None)


def takes_any_padding(patch: pytest.MonkeyPatch) -> None:
    def decode(payload: bytes) -> tuple[bytes, bytes]:
        record, signature, _ = msgpack.unpackb(payload)
        return record, signature

    patch.setattr(greeting_module, "decode_greeting_payload", decode)


def takes_any_encoding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(messages_module, "decode_canonical", msgpack.unpackb)


def takes_any_suite_and_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Handshake, "_refuse_downgrade", lambda *_: None)


def binds_neither_preface_nor_name(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(network_module.Network, "prologue", lambda *_: b"")


def takes_any_algorithm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(greeting_module, "_identity_of", lambda greeting: PeerId(greeting.id))


def takes_either_role(patch: pytest.MonkeyPatch) -> None:
    decode = Greeting.decode

    def either(record: bytes, sender: Role) -> Greeting:
        try:
            return decode(record, sender)
        except GreetingRefused:
            return decode(record, sender.other)

    patch.setattr(Greeting, "decode", either)


def takes_any_record_for_ready(patch: pytest.MonkeyPatch) -> None:
    def welcome(session: Session, _: bytes) -> Accepted:
        session._machine.receive(Input.READY)
        return Accepted(None, None)

    patch.setitem(Session._READERS, (State.AWAIT_VERDICT, FrameType.RECORD), welcome)


def does_not_mind_a_verdict(patch: pytest.MonkeyPatch) -> None:
    read = Session._read_control

    def ignore(self: Session, type_: RecordType, content: bytes) -> Event | None:
        return None if type_ is RecordType.VERDICT else read(self, type_, content)

    patch.setattr(Session, "_read_control", ignore)


def drops_frames_of_another_type(patch: pytest.MonkeyPatch) -> None:
    read = Session._next_while_open

    def skip(self: Session) -> Event | None:
        if self._inbox and self._inbox[self._read_to] != FrameType.RECORD:
            self._inbox, self._read_to = b"", 0
        return read(self)

    patch.setattr(Session, "_next_while_open", skip)


def does_not_know_its_own_dials(patch: pytest.MonkeyPatch) -> None:
    responder = Session.responder

    def answer(*args: Any, **options: Any) -> Session:
        return responder(*args, **{**options, "is_own_dial": lambda _: False})

    patch.setattr(Session, "responder", answer)


def answers_with_one_ephemeral_key(patch: pytest.MonkeyPatch) -> None:
    responder, key = Session.responder, KeyPair()

    def answer(*args: Any, **options: Any) -> Session:
        return responder(*args, **{**options, "ephemeral": key})

    patch.setattr(Session, "responder", answer)


def drops_records_that_it_cannot_read(patch: pytest.MonkeyPatch) -> None:
    decode = RecordReader.decode

    def forgive(self: RecordReader, body: bytes | memoryview) -> tuple[RecordType, bytes]:
        try:
            return decode(self, body)
        except RemoteProtocolError:
            return RecordType.PING, Ping(bytes(8), answer=True).encode()

    patch.setattr(RecordReader, "decode", forgive)


def takes_a_record_twice(patch: pytest.MonkeyPatch) -> None:
    decode = RecordReader.decode
    read: dict[bytes, tuple[RecordType, bytes]] = {}

    def again(self: RecordReader, body: bytes | memoryview) -> tuple[RecordType, bytes]:
        if bytes(body) not in read:
            read[bytes(body)] = decode(self, body)
        return read[bytes(body)]

    patch.setattr(RecordReader, "decode", again)


def has_one_key_for_both_directions(patch: pytest.MonkeyPatch) -> None:
    split = HandshakeState.split

    def split_once(self: HandshakeState) -> tuple[CipherState, CipherState]:
        one, _ = split(self)
        return one, copy(one)

    patch.setattr(HandshakeState, "split", split_once)


BOTH: Final = "listener", "dialer"

CAUGHT: Final[list[tuple[Breakage, HostilePeer, tuple[str, ...]]]] = [
    (does_not_check_the_signature, _impostors.impostor, BOTH),
    (takes_an_empty_signature, _impostors.unsigned, BOTH),
    (does_not_check_the_signature, _impostors.doppelganger, ("listener",)),
    (does_not_check_the_signature, _impostors.interceptor, BOTH),
    (signing_without(handshake_hash=b""), _impostors.stolen_static, BOTH),
    (signing_without(handshake_hash=b""), _impostors.wrong_transcript, BOTH),
    (signing_without(static_key=b""), _impostors.wrong_static_key, BOTH),
    (signing_without(handshake_hash=b"", static_key=b""), _impostors.interceptor, BOTH),
    (signing_without(responder=None), _impostors.wrong_responder, BOTH),
    (signing_without(responder=None), _impostors.misbinding, ("listener",)),
    (signing_without(role=Role.INITIATOR), _impostors.wrong_role, BOTH),
    (does_not_sign_the_record, _impostors.wrong_record, BOTH),
    (takes_whoever_answers, _impostors.squatter, ("dialer",)),
    (takes_whoever_answers, _impostors.misbinding, ("dialer",)),
    (takes_keys_of_small_order, _impostors.small_order_identity, BOTH),
    (takes_keys_that_are_not_canonical, _impostors.noncanonical_identity, BOTH),
    (takes_a_shared_secret_of_zero, _impostors.small_order_ephemeral, BOTH),
    (takes_a_shared_secret_of_zero, _impostors.small_order_static, BOTH),
    (takes_what_has_expired, _impostors.expired, BOTH),
    (takes_what_it_must_understand, _impostors.unknown_critical, BOTH),
    (takes_any_padding, _impostors.bad_padding, BOTH),
    (takes_any_encoding, _impostors.noncanonical_greeting, BOTH),
    (takes_any_suite_and_version, _impostors.downgrader, BOTH),
    (takes_any_suite_and_version, _impostors.offers_stripper, ("listener",)),
    (takes_any_suite_and_version, _impostors.version_downgrader, BOTH),
    (takes_any_suite_and_version, _impostors.version_stripper, ("listener",)),
    (binds_neither_preface_nor_name, _impostors.preface_tamperer, BOTH),
    (binds_neither_preface_nor_name, _impostors.outsider, BOTH),
    (takes_any_algorithm, _impostors.unknown_algorithm, BOTH),
    (takes_either_role, _impostors.role_confusion, BOTH),
    (takes_any_record_for_ready, _impostors.verdict_skipper, ("dialer",)),
    (takes_any_record_for_ready, _impostors.verdict_in_clear, ("dialer",)),
    (does_not_mind_a_verdict, _impostors.second_verdict, BOTH),
    (drops_frames_of_another_type, _impostors.record_relabeller, BOTH),
    (does_not_know_its_own_dials, _impostors.self_relay, ("dialer",)),
    (answers_with_one_ephemeral_key, _impostors.replayer, ("listener",)),
    (drops_records_that_it_cannot_read, _impostors.record_tamperer, BOTH),
    (drops_records_that_it_cannot_read, _impostors.record_dropper, BOTH),
    (drops_records_that_it_cannot_read, _impostors.record_reorderer, BOTH),
    (drops_records_that_it_cannot_read, _impostors.unencrypted, BOTH),
    (takes_a_record_twice, _impostors.record_replayer, BOTH),
    (has_one_key_for_both_directions, _impostors.record_reflector, ("listener",)),
]


@in_memory
@pytest.mark.parametrize(
    ("role", "breakage", "peer"),
    [
        pytest.param(role, breakage, peer, id=f"{peer.name}-{role}-{number}")
        for number, (breakage, peer, roles) in enumerate(CAUGHT)
        for role in roles
    ],
)
async def test_a_peer_that_leaves_a_check_out_is_caught(
    network: VirtualNetwork, monkeypatch: pytest.MonkeyPatch, role: str, breakage: Breakage, peer: HostilePeer
) -> None:
    withstands = assert_listener_withstands if role == "listener" else assert_dialer_withstands
    broken = await network.peer("broken").ready()
    breakage(monkeypatch)
    with pytest.raises(AssertionError, match=peer.name):
        await withstands(broken, peer)
    monkeypatch.undo()


def test_each_is_caught_where_a_check_is_left_out_but_those_whom_the_keys_alone_stop() -> None:
    by_keys = {
        _impostors.key_misbinding,
        _impostors.reflecting,
        _impostors.echoing,
        _impostors.man_in_the_middle,
        _impostors.syn_tamperer,
        _impostors.verdict_relabeller,
    }
    assert {peer for _, peer, _ in CAUGHT} == set(IMPOSTORS) - by_keys


async def test_a_dialer_that_does_not_listen_cannot_be_led_back_to_itself() -> None:
    async with Peer(Identity.generate()) as ada:
        await assert_dialer_withstands(ada, _impostors.self_relay)
        assert dict(ada.statistics().failed) == {"syn-ack/closed": 1}


@everywhere
async def test_a_dialer_that_listens_knows_itself_when_it_is_led_back(network: VirtualNetwork) -> None:
    ada = network.peer("ada")
    await assert_dialer_withstands(ada, _impostors.self_relay)
    assert dict(ada.statistics().failed) == {"SELF": 1}


# --- who is not there -----------------------------------------------------------------------------------


@in_memory
async def test_an_attack_on_nobody_is_no_response(network: VirtualNetwork) -> None:
    nobody = Address("nowhere", peer=Identity.generate().id, scheme="mem")
    with pytest.raises(NoResponse) as caught:
        await attack(_impostors.impostor, nobody, transport=network.transport("mallory"))
    assert caught.value.counted_as == "connect/refused"


# --- other processes ------------------------------------------------------------------------------------


async def test_the_command_line_listens_and_withstands_them(tmp_path: Path) -> None:
    bob = User(tmp_path / "bob")
    async with bob.running("listen", "--json") as listener:
        (invite,) = (await listener.facts())["invites"]
        for peer in (
            _impostors.impostor,
            _impostors.stolen_static,
            _impostors.replayer,
            _impostors.man_in_the_middle,
            _impostors.downgrader,
            _impostors.record_replayer,
        ):
            assert peer.listener is not None
            answer = await attack(peer, invite)
            assert (peer.name, answer.told) == (peer.name, peer.listener.told)
            assert answer.closed == peer.listener.closed
        async with Peer(Identity.generate()) as honest:
            connection = await honest.dial(invite)
            assert connection.peer == bob.identity.id


@pytest.mark.parametrize(
    ("peer", "code", "said"),
    [
        (_impostors.impostor, ExitCode.NOT_GREETED, "BAD_SIGNATURE"),
        pytest.param(_impostors.squatter, ExitCode.WRONG_IDENTITY, "expected", marks=pytest.mark.slow),
        pytest.param(
            _impostors.man_in_the_middle, ExitCode.NOT_GREETED, "HANDSHAKE_FAILED", marks=pytest.mark.slow
        ),
    ],
    ids=["impostor", "squatter", "man_in_the_middle"],
)
async def test_the_command_line_dials_and_withstands_it(
    tmp_path: Path, peer: HostilePeer, code: ExitCode, said: str
) -> None:
    ada = User(tmp_path / "ada")
    async with serving(peer, "tcp://127.0.0.1:0") as served:
        done = await ada.run("dial", "--json", served.invite)
        with trio.fail_after(PATIENCE):
            while not all(answer.ended for answer in served.answers):
                await trio.sleep(0.001)
    assert done.code == code
    assert said in done.facts()[-1]["message"]
    assert peer.dialer is not None
    assert [answer.told for answer in served.answers] == [peer.dialer.told]
