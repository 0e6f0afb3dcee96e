"""primitives.py against Wycheproof, and what the rows of Noise 4 must be."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

from trishake_protocol.primitives import CHACHAPOLY, MLKEM768, SHA256, Ed25519PrivateKey, KeyPair, verify_ed25519

from .conftest import load, unhex


def cases_of(name: str) -> list[dict[str, Any]]:
    return list(chain.from_iterable(group["tests"] for group in load(f"wycheproof/{name}")["testGroups"]))


X25519 = cases_of("x25519_test.json")
ENCAPSULATIONS = cases_of("mlkem_768_encaps_test.json")
DECAPSULATIONS = cases_of("mlkem_768_test.json")


def named(test: dict[str, Any]) -> str:
    return f"tc{test['tcId']}"


# --- X25519 ---------------------------------------------------------------------------------------------


def test_all_x25519_vectors_are_run() -> None:
    assert len(X25519) == 518
    assert sum(unhex(test["shared"]) == bytes(32) for test in X25519) == 31


@pytest.mark.parametrize("test", X25519, ids=named)
def test_x25519_gives_the_published_secret_and_refuses_an_all_zero_one(test: dict[str, Any]) -> None:
    """Section 5: "An all-zero X25519 result is an error." Non-canonical keys and keys on the twist are none."""
    key_pair = KeyPair(unhex(test["private"]))
    if unhex(test["shared"]) == bytes(32):
        with pytest.raises(ValueError, match="shared key"):
            key_pair.dh(unhex(test["public"]))
    else:
        assert key_pair.dh(unhex(test["public"])) == unhex(test["shared"])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        KeyPair(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        KeyPair().dh(b"\x09" * length)


def test_two_key_pairs_share_a_secret_and_are_never_the_same() -> None:
    ours, theirs = KeyPair(), KeyPair()
    assert ours.public != theirs.public
    assert ours.dh(theirs.public) == theirs.dh(ours.public)


def test_a_key_pair_shows_no_private_key() -> None:
    private = bytes(range(32, 64))
    shown = f"{KeyPair(private)!r} {KeyPair(private)}"
    assert private.hex() not in shown
    assert repr(private) not in shown


# --- ML-KEM-768 -----------------------------------------------------------------------------------------
#
# Not expressible with `cryptography`: the randomness m of an encapsulation cannot be given, so the ciphertext of
# a valid encapsulation vector cannot be compared, only its key loaded and its lengths checked (the noise vectors
# compare whole messages, with the encapsulation handed in). A decapsulation key can be given as a seed only, not
# in its expanded form. Ciphertexts of a wrong length never reach the KEM: a frame's length is exact.


class OfSeed:
    """The key pair that the library makes, with a known private key in place of the fresh one."""

    def __init__(self, seed: bytes) -> None:
        self.key_pair = MLKEM768.generate_key_pair()
        private = MLKEM768PrivateKey.from_seed_bytes(seed)
        self.key_pair._private = private  # type: ignore[attr-defined]
        self.public = private.public_key().public_bytes_raw()


def test_all_ml_kem_vectors_are_run() -> None:
    assert len(ENCAPSULATIONS) == 39
    assert len(DECAPSULATIONS) == 66


@pytest.mark.parametrize("test", ENCAPSULATIONS, ids=named)
def test_encapsulation_takes_valid_keys_and_refuses_the_others(test: dict[str, Any]) -> None:
    if test["result"] == "invalid":
        with pytest.raises(ValueError, match=r"key|encoding|invalid"):
            MLKEM768.encapsulate(unhex(test["ek"]))
        return
    ciphertext, shared_secret = MLKEM768.encapsulate(unhex(test["ek"]))
    assert len(ciphertext) == len(unhex(test["c"])) == 1088
    assert len(shared_secret) == len(unhex(test["K"])) == 32


@pytest.mark.parametrize("length", [0, 1183, 1185])
def test_an_encapsulation_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"1184|length"):
        MLKEM768.encapsulate(bytes(length))


@pytest.mark.parametrize("test", [test for test in DECAPSULATIONS if test["result"] == "valid"], ids=named)
def test_decapsulation_gives_the_published_secret(test: dict[str, Any]) -> None:
    """One of them fails FIPS 203's comparison in a late byte: another secret comes out, and no error."""
    of_seed = OfSeed(unhex(test["seed"]))
    assert of_seed.public == unhex(test["ek"])
    assert of_seed.key_pair.decapsulate(unhex(test["c"])) == unhex(test["K"])


@pytest.mark.parametrize("test", [test for test in DECAPSULATIONS if test["result"] == "invalid"], ids=named)
def test_a_seed_or_a_ciphertext_of_another_length_is_refused(test: dict[str, Any]) -> None:
    seed, ciphertext = unhex(test["seed"]), unhex(test["c"])
    if len(seed) != 64:
        with pytest.raises(ValueError, match="64"):
            MLKEM768PrivateKey.from_seed_bytes(seed)
        return
    assert len(ciphertext) != 1088
    of_seed = OfSeed(seed)
    with pytest.raises(ValueError, match="ciphertext"):
        of_seed.key_pair.decapsulate(ciphertext)


def test_what_is_encapsulated_comes_out_again_and_is_fresh_each_time() -> None:
    key_pair = MLKEM768.generate_key_pair()
    assert len(key_pair.public) == 1184
    (c1, k1), (c2, k2) = (MLKEM768.encapsulate(key_pair.public) for _ in range(2))
    assert key_pair.decapsulate(c1) == k1
    assert key_pair.decapsulate(c2) == k2
    assert (c1, k1) != (c2, k2)


def test_a_wrong_ciphertext_gives_another_secret_and_no_error() -> None:
    key_pair = MLKEM768.generate_key_pair()
    ciphertext, shared_secret = MLKEM768.encapsulate(key_pair.public)
    wrong = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    assert key_pair.decapsulate(wrong) not in (shared_secret, bytes(32))


# --- the rows of Noise 4 --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "nonce"),
    [
        (0, "000000000000000000000000"),
        (1, "000000000100000000000000"),
        (2**63, "000000000000000000000080"),
        (2**64 - 1, "00000000ffffffffffffffff"),
    ],
)
def test_the_nonce_of_chachapoly_is_little_endian(n: int, nonce: str) -> None:
    assert CHACHAPOLY.nonce(n) == unhex(nonce)


def test_sha256_is_sha256() -> None:
    assert SHA256.digest(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert SHA256.length == 32


def test_no_hash_leaves_anything_behind_for_the_next() -> None:
    first, other, again = (SHA256.digest(data) for data in (b"abc", b"abcd", b"abc"))
    assert first == again != other
    assert "Hash object" not in repr(SHA256)


def test_hkdf_is_that_of_rfc_5869_with_empty_info() -> None:
    """RFC 5869, test case 3, asks for 42 bytes with empty salt and info; these are its first 32."""
    (output,) = SHA256.hkdf(b"", b"\x0b" * 22, 1)
    assert output.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert SHA256.hkdf(b"ck", b"ikm", 3)[:2] == SHA256.hkdf(b"ck", b"ikm", 2)


# --- Ed25519: what a signature must be ------------------------------------------------------------------

ORDER = 2**252 + 27742317777372353535851937790883648493


def test_a_signature_is_good_under_its_key_and_for_its_message_alone() -> None:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, signature = private.public_key().public_bytes_raw(), private.sign(b"message")
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    assert verify_ed25519(public, signature, b"message")
    assert not verify_ed25519(public, signature, b"massage")
    assert not verify_ed25519(other, signature, b"message")


def test_a_signature_with_s_plus_l_is_bad() -> None:
    """RFC 8032 wants S < L; without it anyone could make a second signature out of a first."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    signature = private.sign(b"message")
    s = int.from_bytes(signature[32:], "little") + ORDER
    malleated = signature[:32] + s.to_bytes(32, "little")
    assert not verify_ed25519(private.public_key().public_bytes_raw(), malleated, b"message")


@pytest.mark.parametrize("public", [b"", bytes(31), b"\x02" + bytes(31)], ids=["empty", "short", "off-curve"])
def test_a_key_that_is_none_verifies_nothing(public: bytes) -> None:
    assert not verify_ed25519(public, bytes(64), b"message")


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_bad(length: int) -> None:
    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    assert not verify_ed25519(public, bytes(length), b"message")
