"""identity.py: which keys may name a peer, their text, and that the private half never shows."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle
from typing import Any

import pytest

from trishake_protocol import Identity, InvalidPeerId, Network, PeerId, Profile, Role, TrishakeError
from trishake_protocol.identity import GreetingContext
from trishake_protocol.primitives import KeyPair, verify_ed25519

from .conftest import PSK, TRISHAKE, load, unhex

KNOWN = TRISHAKE["peer_ids"]
MALFORMED = load("trishake-v1-malformed.json")["peer_ids"]
SMALL_ORDER = load("ed25519/small-order-encodings.json")
SPECCHECK = load("ed25519/speccheck-cases.json")
P = 2**255 - 19


def encoded(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


# --- the key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["text"][:10])
def test_a_seed_gives_its_peer_id_and_its_text(known: dict[str, str]) -> None:
    identity = Identity.from_seed(unhex(known["seed"]))
    assert bytes(identity.id) == identity.id.key == unhex(known["key"])
    assert str(identity.id) == known["text"]


@pytest.mark.parametrize("y", SMALL_ORDER["masked"])
@pytest.mark.parametrize("sign", [0x00, 0x80], ids=["plus", "minus"])
def test_a_key_of_small_order_is_refused_in_each_of_its_14_encodings(y: str, sign: int) -> None:
    key = unhex(y)[:31] + bytes([unhex(y)[31] | sign])
    with pytest.raises(InvalidPeerId, match="small order"):
        PeerId(key)
    with pytest.raises(InvalidPeerId, match="small order"):
        PeerId.parse(text_of(key))


@pytest.mark.parametrize("sign", [0, 1], ids=["plus", "minus"])
@pytest.mark.parametrize("above", range(19))
def test_a_key_beyond_the_field_prime_is_refused(above: int, sign: int) -> None:
    with pytest.raises(InvalidPeerId, match=r"canonical|small order"):
        PeerId(encoded(P + above, sign))


def test_the_largest_canonical_key_of_no_small_order_is_taken() -> None:
    assert PeerId(encoded(P - 2)).key == encoded(P - 2)


SPECCHECK_VERDICTS = [
    # refused as a peer id, signature good under the key
    (0, True, None),
    (1, True, None),
    (2, False, True),  # R of small order, an honest key
    (3, False, True),  # good with and without the cofactor
    (4, False, False),  # good with the cofactor only
    (5, False, False),  # the same, reduced first
    (6, False, False),  # S > L
    (7, False, False),  # S much larger than L
    (8, False, False),  # R not canonical
    (9, False, False),  # the same, hashed unreduced
    (10, True, None),
    (11, True, None),
]


@pytest.mark.parametrize(("number", "refused", "good"), SPECCHECK_VERDICTS)
def test_speccheck_is_judged_as_rfc_8032_without_the_cofactor(number: int, refused: bool, good: bool) -> None:
    """OpenSSL lets 0, 1, 10 or 11 through; the peer id is what refuses them."""
    case: dict[str, str] = SPECCHECK[number]
    key = unhex(case["pub_key"])
    if refused:
        with pytest.raises(InvalidPeerId):
            PeerId(key)
    else:
        assert verify_ed25519(PeerId(key).key, unhex(case["signature"]), unhex(case["message"])) is good


def test_the_key_under_which_one_signature_fits_every_message_names_nobody() -> None:
    with pytest.raises(InvalidPeerId):
        PeerId(unhex(SMALL_ORDER["universal_forgery"]["public_key"]))


def test_the_universal_signature_is_bad_under_an_honest_key() -> None:
    signature = unhex(SMALL_ORDER["universal_forgery"]["signature"])
    assert not verify_ed25519(Identity.generate().id.key, signature, b"anything")


def test_a_key_on_no_point_of_the_curve_names_a_peer_that_can_sign_nothing() -> None:
    peer = PeerId(encoded(2))
    assert not verify_ed25519(peer.key, unhex(SMALL_ORDER["universal_forgery"]["signature"]), b"")
    assert not CONTEXT.verify(peer, b"record", bytes(64))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidPeerId, match=f"32 bytes, got {length}"):
        PeerId(b"\x07" * length)


# --- the text -------------------------------------------------------------------------------------------


def text_of(key: bytes, version: bytes = b"\x01") -> str:
    """The text form by the letter of section 6, for keys that PeerId would refuse."""
    check = hashlib.sha256(b"trishake/1 peer id\x00" + version + key).digest()[:2]
    return base64.b32encode(version + key + check).decode().lower()


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["text"][:10])
def test_the_text_reads_back_in_either_case(known: dict[str, str]) -> None:
    peer = PeerId(unhex(known["key"]))
    mixed = "".join(char.upper() if i % 2 else char for i, char in enumerate(known["text"]))
    for text in (known["text"], known["text"].upper(), mixed):
        assert PeerId.parse(text) == peer
    assert known["text"] == text_of(peer.key)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case["name"])
def test_a_malformed_text_is_refused(case: dict[str, str]) -> None:
    assert case["expected"] == "INVALID"
    with pytest.raises(InvalidPeerId):
        PeerId.parse(case["text"])


@pytest.mark.parametrize(
    "text",
    ["=" * 56, "a" * 50 + "======", "a" * 55 + "=", "8" * 56, "ſ" * 56, "a" * 55 + "\x00", "-" * 56],
    ids=["padding", "padded-31", "padded-34", "digit-eight", "long-s", "nul", "dashes"],
)
def test_a_text_of_the_right_length_and_the_wrong_letters_is_refused(text: str) -> None:
    with pytest.raises(InvalidPeerId):
        PeerId.parse(text)


TEXT: str = KNOWN[0]["text"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


@pytest.mark.parametrize("position", [0, 1, 2, 20, 40, 52, 53, 54, 55])
def test_every_substitution_of_a_character_is_caught(position: int) -> None:
    for letter in ALPHABET.replace(TEXT[position], ""):
        with pytest.raises(InvalidPeerId):
            PeerId.parse(TEXT[:position] + letter + TEXT[position + 1 :])


@pytest.mark.parametrize("position", range(55))
def test_every_transposition_of_neighbours_is_caught(position: int) -> None:
    first, second = TEXT[position : position + 2]
    swapped = TEXT[:position] + second + first + TEXT[position + 2 :]
    if first == second:
        assert PeerId.parse(swapped) == PeerId.parse(TEXT)
    else:
        with pytest.raises(InvalidPeerId):
            PeerId.parse(swapped)


def test_an_invalid_peer_id_is_a_value_error_and_one_of_ours() -> None:
    assert issubclass(InvalidPeerId, ValueError)
    assert issubclass(InvalidPeerId, TrishakeError)


def test_a_peer_id_shows_itself_as_it_is_read() -> None:
    peer = PeerId.parse(TEXT)
    assert repr(peer) == f"PeerId.parse({TEXT!r})"
    assert eval(repr(peer), {"PeerId": PeerId}) == peer
    assert peer.short == TEXT[:10] + "…"


def test_peer_ids_are_ordered_by_their_bytes_unsigned() -> None:
    low, middle, high = (PeerId(first + bytes(30) + b"\x01") for first in (b"\x03", b"\x7f", b"\x80"))
    assert sorted([high, low, middle]) == [low, middle, high]
    assert low < middle < high


def test_equal_keys_are_equal_peers() -> None:
    assert len({PeerId.parse(TEXT), PeerId.parse(TEXT.upper())}) == 1


# --- what stays private ---------------------------------------------------------------------------------

SEED, STATIC = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture
def identity() -> Identity:
    return Identity.from_seed(SEED, static_key=KeyPair(STATIC))


def secrets_in(shown: str) -> list[bytes]:
    """The secrets that this text gives away, in hex, in Python's spelling, or in base32."""
    return [
        secret
        for secret in (SEED, STATIC, PSK)
        if secret.hex() in shown.lower()
        or repr(secret)[2:-1] in shown
        or base64.b32encode(secret).decode().strip("=").lower() in shown.lower()
    ]


@pytest.mark.parametrize("show", [repr, str, "{}".format], ids=["repr", "str", "format"])
def test_nothing_secret_is_shown(identity: Identity, show: Any) -> None:
    network = Network("home", (PSK, SEED))
    for value in (identity, identity.static_key, network, Profile(network), [identity], {"who": identity}):
        assert secrets_in(show(value)) == []
    assert show(identity) == f"<Identity {identity.id}>"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_identity_and_its_keys_cannot_be_pickled(identity: Identity, protocol: int) -> None:
    for value in (identity, identity.static_key):
        with pytest.raises((TypeError, pickle.PicklingError), match=r"(?i)pickle"):
            pickle.dumps(value, protocol)


def test_a_peer_id_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(PeerId.parse(TEXT))) == PeerId.parse(TEXT)
    assert copy.copy(PeerId.parse(TEXT)) == PeerId.parse(TEXT)


def test_each_identity_has_a_static_key_of_its_own_in_each_process() -> None:
    """The Noise key is fresh even for the same Ed25519 key: it is never stored (section 5)."""
    first, second = Identity.from_seed(SEED), Identity.from_seed(SEED)
    assert first.id == second.id
    assert first.static_key.public != second.static_key.public


def test_generated_identities_differ() -> None:
    assert Identity.generate().id != Identity.generate().id


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed(bytes(length))


# --- what is signed -------------------------------------------------------------------------------------

CONTEXT = GreetingContext(Role.INITIATOR, b"h" * 32, b"s" * 32, PeerId.parse(TEXT))


def test_a_signature_covers_role_transcript_static_key_responder_and_record(identity: Identity) -> None:
    signature = identity.sign_greeting(CONTEXT, b"record")
    assert CONTEXT.verify(identity.id, b"record", signature)
    for other in (
        GreetingContext(Role.RESPONDER, CONTEXT.handshake_hash, CONTEXT.static_key, CONTEXT.responder),
        GreetingContext(CONTEXT.role, b"g" * 32, CONTEXT.static_key, CONTEXT.responder),
        GreetingContext(CONTEXT.role, CONTEXT.handshake_hash, b"t" * 32, CONTEXT.responder),
        GreetingContext(CONTEXT.role, CONTEXT.handshake_hash, CONTEXT.static_key, identity.id),
        GreetingContext(CONTEXT.role, CONTEXT.handshake_hash, CONTEXT.static_key, None),
    ):
        assert not other.verify(identity.id, b"record", signature)
    assert not CONTEXT.verify(identity.id, b"recore", signature)
    assert not CONTEXT.verify(PeerId.parse(TEXT), b"record", signature)


def test_the_signed_text_begins_as_no_other_protocols_text_does() -> None:
    tbs = CONTEXT.to_be_signed(b"record")
    assert tbs == (
        b" " * 64
        + b"trishake/1 initiator identity\x00"
        + b"h" * 32
        + b"s" * 32
        + b"\x00\x20"
        + PeerId.parse(TEXT).key
        + b"record"
    )
    nobody = GreetingContext(Role.RESPONDER, b"h" * 32, b"s" * 32, None).to_be_signed(b"record")
    assert nobody == b" " * 64 + b"trishake/1 responder identity\x00" + b"h" * 32 + b"s" * 32 + b"\x00\x00record"


def test_an_identity_has_no_call_that_signs_raw_bytes(identity: Identity) -> None:
    public = {name for name in dir(identity) if not name.startswith("_")}
    assert public == {"from_seed", "generate", "id", "sign_greeting", "static_key"}
