"""key_log.py: the lines of a key log open what their connection said, and nobody has them who did not ask."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from types import FunctionType, ModuleType

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from trishake_protocol import CloseCode, Identity, Profile, Role, Session, Suite
from trishake_protocol.messages import FrameType, Preface, RecordType, decode_greeting_payload
from trishake_protocol.primitives import KeyPair

from .conftest import NOW, RECORDINGS, Pair, Recording, network_of

LABELS = [
    "TRISHAKE_SYN_ACK_STATIC",
    "TRISHAKE_SYN_ACK_GREETING",
    "TRISHAKE_ACK_GREETING",
    "TRISHAKE_INITIATOR_TRAFFIC",
    "TRISHAKE_RESPONDER_TRAFFIC",
]
ADA, BOB = Identity.generate(), Identity.generate()


def nonce(n: int) -> bytes:
    return bytes(4) + n.to_bytes(8, "little")


def opened(key: bytes, n: int, ciphertext: bytes) -> bytes:
    """What stands before the tag, which nobody can check without the transcript. Block 0 is for the tag."""
    cipher = Cipher(algorithms.ChaCha20(key, (1).to_bytes(4, "little") + nonce(n)), mode=None)
    return cipher.decryptor().update(ciphertext[:-16])


def frames(said: bytes, *, of: Role) -> list[tuple[int, bytes]]:
    """(type, body) of all that one side has said."""
    if of is Role.INITIATOR:
        decoded = Preface.decode(said)
        assert decoded is not None
        said = said[decoded[1] :]
    found: list[tuple[int, bytes]] = []
    while said:
        end = 3 + int.from_bytes(said[1:3], "big")
        found.append((said[0], said[3:end]))
        said = said[end:]
    return found


class Logged(Pair):
    """Two sessions, and the lines that each was asked to log."""

    def __init__(self, suite: Suite, *, asked: tuple[Role, ...] = tuple(Role)) -> None:
        profile = Profile(network_of(suite), offers=(suite.id,))
        self.lines: dict[Role, list[str]] = {role: [] for role in Role}
        logs = {role: self.lines[role].append if role in asked else None for role in Role}
        super().__init__(
            Session.initiator(ADA, profile, now=NOW, key_log=logs[Role.INITIATOR]),
            Session.responder(BOB, profile, now=NOW, key_log=logs[Role.RESPONDER]),
        )

    def keys(self) -> dict[str, bytes]:
        """By label, of the initiator's lines."""
        lines = [line.split(" ") for line in self.lines[Role.INITIATOR]]
        return {label: bytes.fromhex(key) for label, _, key in lines}


@pytest.fixture
def logged(suite: Suite) -> Logged:
    pair = Logged(suite)
    pair.greet()
    return pair


# --- what the lines are ---------------------------------------------------------------------------------


def test_both_sides_log_the_same_lines_under_the_ephemeral_key_that_stands_in_the_syn(logged: Logged) -> None:
    syn = frames(bytes(logged.initiator.sent), of=Role.INITIATOR)[0]
    lines = logged.lines[Role.INITIATOR]
    assert logged.lines[Role.RESPONDER] == lines
    assert [line.split(" ")[0] for line in lines] == LABELS
    assert {line.split(" ")[1] for line in lines} == {syn[1][:32].hex()}
    assert {len(key) for key in logged.keys().values()} == {32}
    assert len(set(logged.keys().values())) == len(LABELS)


def test_the_traffic_keys_decrypt_every_record(logged: Logged) -> None:
    logged.initiator.session.send(b"ping?")
    logged.responder.session.send(b"pong.")
    logged.initiator.session.finish()
    logged.responder.session.close(CloseCode.POLICY, "enough")
    logged.talk()
    plaintexts: dict[Role, list[bytes]] = {}
    for end, role, label in (
        (logged.initiator, Role.INITIATOR, "TRISHAKE_INITIATOR_TRAFFIC"),
        (logged.responder, Role.RESPONDER, "TRISHAKE_RESPONDER_TRAFFIC"),
    ):
        aead = ChaCha20Poly1305(logged.keys()[label])
        records = [body for type_, body in frames(bytes(end.sent), of=role) if type_ == FrameType.RECORD]
        plaintexts[role] = [aead.decrypt(nonce(n), body, b"") for n, body in enumerate(records)]
    assert plaintexts[Role.INITIATOR][0] == b"ping?\x01"
    assert plaintexts[Role.RESPONDER][1] == b"pong.\x01"
    assert [plaintext[-1] for plaintext in plaintexts[Role.RESPONDER]] == [
        RecordType.VERDICT,
        RecordType.DATA,
        RecordType.CLOSE,
    ]


def test_the_greeting_keys_open_what_each_side_said_of_itself(logged: Logged, suite: Suite) -> None:
    keys = logged.keys()
    syn_ack = frames(bytes(logged.responder.sent), of=Role.RESPONDER)[0]
    ack = frames(bytes(logged.initiator.sent), of=Role.INITIATOR)[1]
    assert (syn_ack[0], ack[0]) == (FrameType.SYN_ACK, FrameType.ACK)
    s = suite.syn_ack - 64  # behind s stand its tag of 16 bytes, and that of the greeting is at the end
    static, greeting = syn_ack[1][s : s + 48], syn_ack[1][s + 48 :]
    assert opened(keys["TRISHAKE_SYN_ACK_STATIC"], 0, static) == BOB.static_key.public
    record, signature = decode_greeting_payload(opened(keys["TRISHAKE_SYN_ACK_GREETING"], 0, greeting))
    assert BOB.id.key in record
    assert len(signature) == 64
    assert opened(keys["TRISHAKE_SYN_ACK_GREETING"], 1, ack[1][:48]) == ADA.static_key.public
    record, _ = decode_greeting_payload(opened(keys["TRISHAKE_ACK_GREETING"], 0, ack[1][48:]))
    assert ADA.id.key in record


@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
def test_a_recorded_handshake_logs_the_keys_that_were_recorded_with_it(recording: Recording) -> None:
    lines: dict[Role, list[str]] = {role: [] for role in Role}
    pair = Pair(
        recording.initiator(key_log=lines[Role.INITIATOR].append),
        recording.responder(key_log=lines[Role.RESPONDER].append),
    )
    pair.identify_initiator()
    e = KeyPair(bytes.fromhex(recording.vector["initiator"]["ephemeral_private"])).public.hex()
    keys = recording.vector["keys"]
    for role in Role:
        assert lines[role][-2:] == [
            f"TRISHAKE_INITIATOR_TRAFFIC {e} {keys['initiator_to_responder']}",
            f"TRISHAKE_RESPONDER_TRAFFIC {e} {keys['responder_to_initiator']}",
        ]


# --- when they come -------------------------------------------------------------------------------------


def test_a_key_is_logged_before_what_it_opens_is_sent(suite: Suite) -> None:
    pair = Logged(suite)
    flight = pair.initiator.write()
    assert pair.lines[Role.INITIATOR] == []
    pair.responder.read(flight)
    assert [line.split(" ")[0] for line in pair.lines[Role.RESPONDER]] == LABELS[:2]
    pair.initiator.read(pair.responder.write())
    assert [line.split(" ")[0] for line in pair.lines[Role.INITIATOR]] == LABELS[:2]
    pair.initiator.session.accept()
    assert [line.split(" ")[0] for line in pair.lines[Role.INITIATOR]] == LABELS


def test_a_greeting_that_does_not_open_logs_nothing(suite: Suite) -> None:
    pair = Logged(suite)
    pair.responder.read(pair.initiator.write())
    syn_ack = bytearray(pair.responder.write())
    syn_ack[-1] ^= 1
    pair.initiator.read(syn_ack)
    assert pair.initiator.error is not None
    assert pair.lines[Role.INITIATOR] == []


def test_a_private_network_of_several_keys_logs_under_the_one_that_opened_the_syn() -> None:
    recording = next(recording for recording in RECORDINGS.values() if recording.suite.id == 0x0102)
    old, new = bytes(32), bytes(range(32))
    initiator = replace(recording.network[Role.INITIATOR], psk=new)
    responder = replace(initiator, psk=(old, new))
    lines: dict[Role, list[str]] = {role: [] for role in Role}
    pair = Pair(
        Session.initiator(ADA, Profile(initiator), now=NOW, key_log=lines[Role.INITIATOR].append),
        Session.responder(BOB, Profile(responder), now=NOW, key_log=lines[Role.RESPONDER].append),
    )
    pair.greet()
    assert lines[Role.INITIATOR] == lines[Role.RESPONDER]
    assert len(lines[Role.INITIATOR]) == len(LABELS)


def test_a_rekey_logs_nothing_more() -> None:
    recording = next(iter(RECORDINGS.values()))
    lines: list[str] = []
    pair = Pair(recording.initiator(key_log=lines.append), recording.responder())
    pair.greet()
    count = len(lines)
    writer = pair.initiator.session._writer  # pyright: ignore[reportPrivateUsage]
    assert writer is not None
    writer._cipher_state.n = 65536  # pyright: ignore[reportPrivateUsage]
    pair.initiator.session.send(b"under the second key")
    assert pair.initiator.write()
    assert len(lines) == count


# --- who has them ---------------------------------------------------------------------------------------


def held_by(root: object) -> Iterator[object]:
    """Everything that can be reached from an object, but by way of code."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type | ModuleType | FunctionType):
            continue
        seen.add(id(item))
        yield item
        waiting += gc.get_referents(item)


@pytest.mark.parametrize("asked", Role)
def test_who_did_not_ask_for_a_log_is_told_nothing_and_keeps_no_key(suite: Suite, asked: Role) -> None:
    pair = Logged(suite, asked=(asked,))
    pair.greet()
    assert len(pair.lines[asked]) == len(LABELS)
    assert pair.lines[asked.other] == []
    keys = {bytes.fromhex(line.split(" ")[2]) for line in pair.lines[asked]}
    silent = pair.responder if asked is Role.INITIATOR else pair.initiator
    held = list(held_by(silent.session))
    assert any(item == silent.session.channel_binding for item in held)  # it is looked at where it should be
    assert not [item for item in held if isinstance(item, bytes) and item in keys]


def test_no_repr_shows_a_key(logged: Logged) -> None:
    for end in (logged.initiator, logged.responder):
        shown = "".join(repr(item) for item in (end.session, *vars(end.session).values()))
        shown += repr(end.session._handshake._logged)  # pyright: ignore[reportPrivateUsage]
        for key in logged.keys().values():
            assert key.hex() not in shown
            assert repr(key)[2:-1] not in shown
