"""identity.py: a seed and its peer id, what is signed, and that the private half never shows."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import pytest

from trishake_protocol import Identity, Network, PeerId, Profile, Role
from trishake_protocol.identity import GreetingContext
from trishake_protocol.primitives import KeyPair

from .conftest import PSK, TRISHAKE, load, unhex

KNOWN = TRISHAKE["peer_ids"]
SMALL_ORDER = load("ed25519/small-order-encodings.json")
TEXT: str = KNOWN[0]["text"]


# --- the key ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["text"][:10])
def test_a_seed_gives_its_peer_id_and_its_text(known: dict[str, str]) -> None:
    identity = Identity.from_seed(unhex(known["seed"]))
    assert bytes(identity.id) == identity.id.key == unhex(known["key"])
    assert str(identity.id) == known["text"]


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


def test_a_key_on_no_point_of_the_curve_names_a_peer_that_can_sign_nothing() -> None:
    peer = PeerId((2).to_bytes(32, "little"))
    for signature in (bytes(64), unhex(SMALL_ORDER["universal_forgery"]["signature"])):
        assert not CONTEXT.verify(peer, b"record", signature)


def test_an_identity_has_no_call_that_signs_raw_bytes(identity: Identity) -> None:
    public = {name for name in dir(identity) if not name.startswith("_")}
    assert public == {"from_seed", "generate", "id", "sign_greeting", "static_key"}
