"""noise.py against every published vector of its patterns, in both roles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trishake_protocol.noise import CipherState, HandshakeError, HandshakeState
from trishake_protocol.patterns import XX, Pattern, Role, XXhfs, XXhfs_psk0, XXpsk0
from trishake_protocol.primitives import CHACHAPOLY, MLKEM768, SHA256, Cipher, Hash, Kem, KeyPair

from .conftest import FixedKem, FixedKeyPair, load, unhex

# Rows that Trishake does not have, and the vectors do.

XX1 = Pattern.parse(
    "XX1",
    """
    -> e
    <- e, ee, s
    -> es, s, se
    """,
)
XXpsk3 = Pattern.parse(
    "XXpsk3",
    """
    -> e
    <- e, ee, s, es
    -> s, se, psk
    """,
)
XXpsk0_psk1 = Pattern.parse(
    "XXpsk0+psk1",
    """
    -> psk, e, psk
    <- e, ee, s, es
    -> s, se
    """,
)
XXpsk0_psk2 = Pattern.parse(
    "XXpsk0+psk2",
    """
    -> psk, e
    <- e, ee, s, es, psk
    -> s, se
    """,
)
XXpsk0_psk3 = Pattern.parse(
    "XXpsk0+psk3",
    """
    -> psk, e
    <- e, ee, s, es
    -> s, se, psk
    """,
)
XXpsk0_psk1_psk2_psk3 = Pattern.parse(
    "XXpsk0+psk1+psk2+psk3",
    """
    -> psk, e, psk
    <- e, ee, s, es, psk
    -> s, se, psk
    """,
)
PATTERNS = {
    pattern.name: pattern
    for pattern in (XX, XX1, XXpsk3, XXpsk0_psk1, XXpsk0_psk2, XXpsk0_psk3, XXpsk0_psk1_psk2_psk3)
}
AES_GCM = Cipher(name="AESGCM", key=AESGCM, nonce=lambda n: b"\x00\x00\x00\x00" + n.to_bytes(8, "big"))
CIPHERS = {cipher.name: cipher for cipher in (CHACHAPOLY, AES_GCM)}
HASHES = {
    hash_.name: hash_
    for hash_ in (
        SHA256,
        Hash("SHA512", hashes.SHA512()),
        Hash("BLAKE2s", hashes.BLAKE2s(32)),
        Hash("BLAKE2b", hashes.BLAKE2b(64)),
    )
}


@dataclass
class Case:
    """A vector, whatever file it is from: what each side brings, and what comes out."""

    name: str
    pattern: Pattern
    cipher: Cipher
    hash: Hash
    prologue: bytes
    s: dict[Role, KeyPair]
    e: dict[Role, KeyPair]
    messages: list[tuple[bytes, bytes]]
    psks: list[bytes] = field(default_factory=list)
    handshake_hash: bytes | None = None
    kem: Kem = MLKEM768

    def side(self, role: Role, kem: Kem | None = None) -> HandshakeState:
        return HandshakeState(
            self.name,
            self.pattern,
            role,
            prologue=self.prologue,
            s=self.s[role],
            e=self.e[role],
            psks=self.psks,
            kem=kem or self.kem,
            hash_=self.hash,
            cipher=self.cipher,
        )


def classical_case(vector: dict[str, Any]) -> Case:
    name = vector.get("protocol_name") or vector["name"]
    _, pattern, _, cipher, hash_ = name.split("_")
    assert vector["init_prologue"] == vector["resp_prologue"]
    assert vector.get("init_psks") == vector.get("resp_psks")
    return Case(
        name=name,
        pattern=PATTERNS[pattern],
        cipher=CIPHERS[cipher],
        hash=HASHES[hash_],
        prologue=unhex(vector["init_prologue"]),
        s={
            Role.INITIATOR: KeyPair(unhex(vector["init_static"])),
            Role.RESPONDER: KeyPair(unhex(vector["resp_static"])),
        },
        e={
            Role.INITIATOR: KeyPair(unhex(vector["init_ephemeral"])),
            Role.RESPONDER: KeyPair(unhex(vector["resp_ephemeral"])),
        },
        messages=[(unhex(m["payload"]), unhex(m["ciphertext"])) for m in vector["messages"]],
        psks=[unhex(psk) for psk in vector.get("init_psks", [])],
        handshake_hash=unhex(vector["handshake_hash"]) if "handshake_hash" in vector else None,
    )


FILES = ("cacophony-xx-25519", "noise-c-xx-25519", "snow-xx-25519")
CASES = {
    f"{file.partition('-xx')[0]}-{i}-{case.name}": case
    for file in FILES
    for i, case in enumerate(map(classical_case, load(f"noise/{file}.json")["vectors"]))
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def sender_of(i: int) -> Role:
    """Who writes message i, before and after the handshake alike."""
    return Role.INITIATOR if i % 2 == 0 else Role.RESPONDER


def check_handshake(case: Case, sides: dict[Role, HandshakeState]) -> None:
    """Each handshake message as its sender writes it, and as its receiver reads it."""
    for i in range(len(case.pattern.messages)):
        payload, ciphertext = case.messages[i]
        writer, reader = sides[sender_of(i)], sides[sender_of(i).other]
        assert writer.write_message(payload) == ciphertext, f"message {i}"
        assert reader.read_message(ciphertext) == payload, f"message {i}"
        assert writer.h == reader.h, f"message {i}"
    assert all(side.finished for side in sides.values())


def test_all_vectors_of_the_three_files_are_run() -> None:
    assert len(CASES) == 24 + 8 + 48


def test_both_roles_repeat_a_published_handshake(case: Case) -> None:
    sides = {role: case.side(role) for role in Role}
    check_handshake(case, sides)
    for role, side in sides.items():
        if case.handshake_hash is not None:
            assert side.h == case.handshake_hash
        assert side.rs == case.s[role.other].public
        assert side.re == case.e[role.other].public


def test_transport_messages_follow_a_published_handshake(case: Case) -> None:
    sides = {role: case.side(role) for role in Role}
    check_handshake(case, sides)
    ours = {role: dict(zip(Role, side.split(), strict=True)) for role, side in sides.items()}
    transport = list(enumerate(case.messages))[len(case.pattern.messages) :]
    assert len(transport) >= 2
    for i, (payload, ciphertext) in transport:
        sender = sender_of(i)
        assert ours[sender][sender].encrypt_with_ad(b"", payload) == ciphertext, f"message {i}"
        assert ours[sender.other][sender].decrypt_with_ad(b"", ciphertext) == payload, f"message {i}"


def test_the_payload_may_be_made_from_the_hash_that_will_cover_it(case: Case) -> None:
    told = b""

    def payload(h: bytes) -> bytes:
        nonlocal told
        told = h
        return case.messages[0][0]

    initiator, responder = case.side(Role.INITIATOR), case.side(Role.RESPONDER)
    assert initiator.write_message(payload) == case.messages[0][1]
    responder.read_message(case.messages[0][1])
    assert told == initiator.payload_h == responder.payload_h != initiator.h


# --- the hfs extension: the encapsulation is fixed, so it is taken out of the published message -----------


class Witness:
    """A key pair that remembers what it opened: this is how an initiator learns what a responder drew."""

    def __init__(self, key_pair: FixedKeyPair) -> None:
        self.public = key_pair.public
        self.key_pair = key_pair
        self.ciphertext = b""
        self.shared_secret = b""

    def generate_key_pair(self) -> Witness:
        return self

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        raise AssertionError("an initiator does not encapsulate")

    def decapsulate(self, ciphertext: bytes) -> bytes:
        self.ciphertext = ciphertext
        self.shared_secret = self.key_pair.decapsulate(ciphertext)
        return self.shared_secret


@dataclass
class HybridCase:
    case: Case
    kem_seed: bytes
    cs1_k: bytes
    cs2_k: bytes

    def sides(self) -> dict[Role, HandshakeState]:
        """The initiator reads the recorded message 2 first; the responder then repeats its encapsulation."""
        case, key_pair = self.case, FixedKeyPair(self.kem_seed)
        witness = Witness(key_pair)
        initiator = case.side(Role.INITIATOR, witness)
        initiator.write_message(case.messages[0][0])
        assert initiator.read_message(case.messages[1][1]) == case.messages[1][0]
        assert len(witness.ciphertext) == 1088
        drawn = FixedKem(key_pair, witness.ciphertext, witness.shared_secret)
        return {role: case.side(role, drawn) for role in Role}


def published_xxhfs() -> HybridCase:
    file = load("noise/xxhfs-25519-mlkem768-chachapoly-sha256.json")
    (vector,) = file["vectors"]
    case = Case(
        name=file["protocol"],
        pattern=XXhfs,
        cipher=CHACHAPOLY,
        hash=SHA256,
        prologue=unhex(vector["prologue"]),
        s={
            Role.INITIATOR: KeyPair(unhex(vector["static_i_private"])),
            Role.RESPONDER: KeyPair(unhex(vector["static_r_private"])),
        },
        e={
            Role.INITIATOR: KeyPair(unhex(vector["ephemeral_dh_i_private"])),
            Role.RESPONDER: KeyPair(unhex(vector["ephemeral_dh_r_private"])),
        },
        messages=[(b"", unhex(vector[name])) for name in ("msg_a", "msg_b", "msg_c")],
        handshake_hash=unhex(vector["handshake_hash"]),
    )
    return HybridCase(case, unhex(vector["kem_keygen_seed"]), unhex(vector["cs1_k"]), unhex(vector["cs2_k"]))


def derived_xxhfs_psk0() -> HybridCase:
    (vector,) = load("derived/xxhfs-psk0-reference.json")["vectors"]
    case = Case(
        name=vector["protocol_name"],
        pattern=XXhfs_psk0,
        cipher=CHACHAPOLY,
        hash=SHA256,
        prologue=unhex(vector["prologue"]),
        s={
            Role.INITIATOR: KeyPair(unhex(vector["init_static"])),
            Role.RESPONDER: KeyPair(unhex(vector["resp_static"])),
        },
        e={
            Role.INITIATOR: KeyPair(unhex(vector["init_ephemeral"])),
            Role.RESPONDER: KeyPair(unhex(vector["resp_ephemeral"])),
        },
        messages=[(unhex(m["payload"]), unhex(m["ciphertext"])) for m in vector["messages"]],
        psks=[unhex(vector["psk"])],
        handshake_hash=unhex(vector["handshake_hash"]),
    )
    return HybridCase(case, unhex(vector["kem_keygen_seed"]), unhex(vector["cs1_k"]), unhex(vector["cs2_k"]))


@pytest.fixture(params=[published_xxhfs, derived_xxhfs_psk0], ids=["XXhfs", "XXhfs+psk0"])
def hybrid(request: pytest.FixtureRequest) -> HybridCase:
    return request.param()


def test_both_roles_repeat_a_hybrid_handshake(hybrid: HybridCase) -> None:
    sides = hybrid.sides()
    check_handshake(hybrid.case, sides)
    for side in sides.values():
        assert side.h == hybrid.case.handshake_hash


def test_a_hybrid_handshake_ends_in_the_published_keys(hybrid: HybridCase) -> None:
    sides = hybrid.sides()
    check_handshake(hybrid.case, sides)
    for side in sides.values():
        for cipher_state, key in zip(side.split(), (hybrid.cs1_k, hybrid.cs2_k), strict=True):
            expected = CHACHAPOLY.key(key).encrypt(CHACHAPOLY.nonce(0), b"which key is it?", b"")
            assert cipher_state.encrypt_with_ad(b"", b"which key is it?") == expected


def test_the_kem_secret_is_mixed_into_the_keys(hybrid: HybridCase) -> None:
    """Else the hybrid would be no stronger than X25519: another secret must give another message 2."""
    case = hybrid.case
    honest = hybrid.sides()[Role.RESPONDER]
    other = case.side(Role.RESPONDER, FixedKem(None, bytes(1088), bytes(32)))
    also_other = case.side(Role.RESPONDER, FixedKem(None, bytes(1088), bytes(31) + b"\x01"))
    written = []
    for responder in (honest, other, also_other):
        responder.read_message(case.messages[0][1])
        written.append(responder.write_message(case.messages[1][0]))
    # e is in clear, ekem1 is encrypted before the secret is mixed in; s and the payload come behind it.
    behind_ekem1 = 32 + 1088 + 16
    assert written[1][:behind_ekem1] == written[2][:behind_ekem1]
    assert written[1][behind_ekem1:] != written[2][behind_ekem1:]
    assert written[0][behind_ekem1:] != written[1][behind_ekem1:]


# --- rekey ----------------------------------------------------------------------------------------------

REKEYS = load("derived/rekey.json")["vectors"]


def ciphertext_under(cipher: Cipher, key: bytes, n: int) -> bytes:
    return cipher.key(key).encrypt(cipher.nonce(n), b"text", b"")


@pytest.mark.parametrize("vector", REKEYS, ids=lambda vector: vector["k"][:8])
@pytest.mark.parametrize(
    ("cipher", "times", "new_key"),
    [(CHACHAPOLY, 1, "ChaChaPoly"), (CHACHAPOLY, 2, "ChaChaPoly_twice"), (AES_GCM, 1, "AESGCM")],
    ids=["ChaChaPoly", "ChaChaPoly-twice", "AESGCM"],
)
def test_rekey_gives_the_key_that_the_specification_computes(
    vector: dict[str, str], cipher: Cipher, times: int, new_key: str
) -> None:
    cipher_state = CipherState(cipher, unhex(vector["k"]))
    for _ in range(times):
        cipher_state.rekey()
    assert cipher_state.encrypt_with_ad(b"", b"text") == ciphertext_under(cipher, unhex(vector[new_key]), 0)


def test_rekey_leaves_the_nonce_where_it_is() -> None:
    cipher_state = CipherState(key=unhex(REKEYS[1]["k"]))
    for _ in range(3):
        cipher_state.encrypt_with_ad(b"", b"")
    cipher_state.rekey()
    assert cipher_state.n == 3
    expected = ciphertext_under(CHACHAPOLY, unhex(REKEYS[1]["ChaChaPoly"]), 3)
    assert cipher_state.encrypt_with_ad(b"", b"text") == expected


# --- what does not open ---------------------------------------------------------------------------------

KEY = bytes(range(32))


@pytest.mark.parametrize("cipher", CIPHERS.values(), ids=CIPHERS.keys())
@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c[:-1] + bytes([c[-1] ^ 1]),
        lambda c: bytes([c[0] ^ 0x80]) + c[1:],
        lambda c: c[:-1],
        lambda c: c + b"\x00",
        lambda c: c[:15],
        lambda c: b"",
    ],
    ids=["last-bit", "first-bit", "short", "long", "shorter-than-a-tag", "empty"],
)
def test_a_failed_read_leaves_key_and_nonce_unchanged(cipher: Cipher, spoil: Any) -> None:
    writer, reader = CipherState(cipher, KEY), CipherState(cipher, KEY)
    assert reader.decrypt_with_ad(b"ad", writer.encrypt_with_ad(b"ad", b"one")) == b"one"
    two = writer.encrypt_with_ad(b"ad", b"two")
    for _ in range(2):
        with pytest.raises(HandshakeError):
            reader.decrypt_with_ad(b"ad", spoil(two))
    assert reader.n == 1
    assert reader.decrypt_with_ad(b"ad", two) == b"two"
    assert reader.decrypt_with_ad(b"", writer.encrypt_with_ad(b"", b"three")) == b"three"


def test_a_message_does_not_open_under_other_associated_data_or_out_of_order() -> None:
    writer, reader = CipherState(key=KEY), CipherState(key=KEY)
    one, two = (writer.encrypt_with_ad(b"ad", text) for text in (b"one", b"two"))
    with pytest.raises(HandshakeError):
        reader.decrypt_with_ad(b"da", one)
    with pytest.raises(HandshakeError):
        reader.decrypt_with_ad(b"ad", two)
    assert reader.decrypt_with_ad(b"ad", one) == b"one"
    with pytest.raises(HandshakeError):
        reader.decrypt_with_ad(b"ad", one)


def test_a_cipher_without_a_key_passes_everything_through() -> None:
    cipher_state = CipherState()
    assert not cipher_state.has_key
    assert cipher_state.encrypt_with_ad(b"ad", b"plain") == b"plain"
    assert cipher_state.decrypt_with_ad(b"ad", b"plain") == b"plain"
    assert cipher_state.n == 0


@pytest.mark.parametrize(
    ("prologue", "psk"), [(b"another prologue", KEY), (b"prologue", bytes(32))], ids=["prologue", "psk"]
)
def test_another_prologue_or_psk_does_not_open_the_first_message(prologue: bytes, psk: bytes) -> None:
    initiator = HandshakeState("N", XXpsk0, Role.INITIATOR, prologue=b"prologue", s=KeyPair(), psks=[KEY])
    responder = HandshakeState("N", XXpsk0, Role.RESPONDER, prologue=prologue, s=KeyPair(), psks=[psk])
    with pytest.raises(HandshakeError, match=r"^the message does not decrypt$"):
        responder.read_message(initiator.write_message())


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_message_too_short_for_its_tokens_does_not_open(length: int) -> None:
    responder = HandshakeState("N", XX, Role.RESPONDER, s=KeyPair())
    with pytest.raises(HandshakeError, match=r"^the message is too short$"):
        responder.read_message(bytes(length))


def test_an_all_zero_dh_result_does_not_open() -> None:
    responder = HandshakeState("N", XX, Role.RESPONDER, s=KeyPair())
    responder.read_message(bytes(32))
    with pytest.raises(HandshakeError, match=r"^the DH result is all zero$"):
        responder.write_message()


def test_a_kem_key_that_does_not_load_does_not_open() -> None:
    responder = HandshakeState("N", XXhfs, Role.RESPONDER, s=KeyPair())
    responder.read_message(KeyPair().public + b"\xff" * 1184)
    with pytest.raises(HandshakeError, match=r"^the KEM key is none$"):
        responder.write_message()


@pytest.mark.parametrize("role", Role)
def test_before_the_first_message_nothing_is_known_of_the_other_side(role: Role) -> None:
    side = HandshakeState("N", XXhfs, role, s=KeyPair())
    assert side.rs == side.re == side.re1 == side.payload_h == b""
    assert side.e is None
    assert side.e1 is None


def test_without_a_prologue_it_is_empty() -> None:
    """Section 5.3 of Noise: MixHash is called with it all the same."""
    plain, empty = (HandshakeState("N", XX, Role.INITIATOR, **given) for given in ({}, {"prologue": b""}))
    assert plain.h == empty.h


def test_ephemeral_keys_are_fresh_in_each_handshake() -> None:
    first, second = (HandshakeState("N", XXhfs, Role.INITIATOR, s=KeyPair()).write_message() for _ in range(2))
    assert len(first) == len(second) == 32 + 1184
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]


def test_split_drops_the_keys_of_the_handshake() -> None:
    initiator = HandshakeState("N", XXpsk0, Role.INITIATOR, s=KeyPair(), psks=[KEY])
    responder = HandshakeState("N", XXpsk0, Role.RESPONDER, s=KeyPair(), psks=[KEY])
    responder.read_message(initiator.write_message())
    initiator.read_message(responder.write_message())
    responder.read_message(initiator.write_message())
    for side in (initiator, responder):
        assert side.finished
        side.split()
        assert side.s is None
        assert side.e is None
        assert side.e1 is None
        assert side._psks == ()
        assert side._symmetric.ck == b""
        assert not side._symmetric.cipher_state.has_key


def test_a_handshake_shows_how_far_it_is_and_no_key() -> None:
    initiator = HandshakeState("N", XX, Role.INITIATOR, s=KeyPair())
    initiator.write_message()
    assert repr(initiator) == "<HandshakeState initiator, 1 of 3 messages>"
