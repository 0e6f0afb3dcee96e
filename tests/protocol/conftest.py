"""Both ends of a greeting, for the tests: recorded ones, live ones, and one that breaks the rules.

Recording   a handshake of tests/vectors/trishake-v1.json; its sessions repeat it byte for byte
Pair        two live sessions with fresh keys, and everything each has said and been told
Hostile     the other side in our hands: real Noise, and whatever payload a test wants inside
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from hypothesis import HealthCheck, settings

from trishake_protocol import (
    Event,
    Identity,
    Network,
    PeerId,
    Profile,
    RemoteProtocolError,
    Role,
    Session,
    Suite,
    Wait,
)
from trishake_protocol.identity import GreetingContext
from trishake_protocol.messages import (
    FrameType,
    Preface,
    encode_canonical,
    encode_frame,
    encode_greeting_payload,
)
from trishake_protocol.noise import CipherState, HandshakeState
from trishake_protocol.patterns import SUITES
from trishake_protocol.primitives import Kem, KeyPair
from trishake_protocol.records import RecordReader, RecordWriter

# A busy machine is no reason to fail.
settings.register_profile("trishake", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("trishake")

VECTORS = Path(__file__).parents[1] / "vectors"
NOW = 1_800_000_000
PSK = bytes(range(32))


# --- recorded -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FixedKeyPair:
    """The ML-KEM-768 key pair of a seed (d || z of FIPS 203, 64 bytes)."""

    seed: bytes

    @cached_property
    def private(self) -> MLKEM768PrivateKey:
        return MLKEM768PrivateKey.from_seed_bytes(self.seed)

    @cached_property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self.private.decapsulate(ciphertext)


@dataclass(frozen=True)
class FixedKem:
    """A KEM whose key pair and whose encapsulation are given: `cryptography` draws the latter at random."""

    key_pair: FixedKeyPair | None = None
    ciphertext: bytes = b""
    shared_secret: bytes = b""

    def generate_key_pair(self) -> FixedKeyPair:
        assert self.key_pair is not None
        return self.key_pair

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        MLKEM768PublicKey.from_public_bytes(public)  # a key that does not load is refused as ever
        return self.ciphertext, self.shared_secret


def unhex(value: str) -> bytes:
    return bytes.fromhex(value)


class Recording:
    """One handshake of trishake-v1.json. Its sessions say, and expect, those very bytes."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.vector = vector
        self.name: str = vector["name"]
        self.suite: Suite = SUITES[int(vector["suite"], 16)]
        self.flight = unhex(vector["preface"]) + unhex(vector["syn"]["frame"])
        self.syn_ack = unhex(vector["syn_ack"]["frame"])
        self.ack = unhex(vector["ack"]["frame"])
        self.verdict = unhex(vector["records"][0]["frame"])
        self.records: list[dict[str, Any]] = vector["records"]
        self.network = {
            Role.INITIATOR: Network(vector["network"], self._psk(vector.get("psk"))),
            Role.RESPONDER: Network(vector["network"], self._psks(vector["responder"].get("psks"))),
        }
        self.profile = {role: self._profile(role) for role in Role}
        self.identity = {role: self._identity(role) for role in Role}
        self.ephemeral = {role: KeyPair(unhex(vector[role.value]["ephemeral_private"])) for role in Role}
        self.kem = {role: self._kem(role) for role in Role}
        self.now: dict[Role, int] = {role: vector[role.value]["time"] for role in Role}

    def initiator(self, **options: Any) -> Session:
        """A fresh initiator; `flight` is in its `data_to_send`."""
        return self._session(Session.initiator, Role.INITIATOR, options)

    def responder(self, **options: Any) -> Session:
        return self._session(Session.responder, Role.RESPONDER, options)

    def accept_options(self) -> dict[str, str]:
        """What the recorded VERDICT READY says besides."""
        said: dict[str, Any] = self.records[0]["map"]
        return {key: said[key] for key in ("seen", "text") if key in said}

    def cipher_state(self, sender: Role) -> CipherState:
        """The transport key of what `sender` sends, at nonce 0."""
        return CipherState(key=unhex(self.vector["keys"][f"{sender.value}_to_{sender.other.value}"]))

    def writer(self, sender: Role, *, n: int = 0) -> RecordWriter:
        return RecordWriter(self._at(sender, n))

    def reader(self, sender: Role, *, n: int = 0) -> RecordReader:
        """Reads what `sender` sends."""
        return RecordReader(self._at(sender, n))

    def _at(self, sender: Role, n: int) -> CipherState:
        cipher_state = self.cipher_state(sender)
        cipher_state.n = n
        return cipher_state

    def _session(self, make: Callable[..., Session], role: Role, options: dict[str, Any]) -> Session:
        given: dict[str, Any] = {
            "identity": self.identity[role],
            "profile": self.profile[role],
            "now": self.now[role],
            "kem": self.kem[role],
            "ephemeral": self.ephemeral[role],
        }
        return make(**{**given, **options})

    @staticmethod
    def _psk(psk: str | None) -> bytes | None:
        return None if psk is None else unhex(psk)

    @staticmethod
    def _psks(psks: list[str] | None) -> tuple[bytes, ...] | None:
        return None if psks is None else tuple(unhex(psk) for psk in psks)

    def _identity(self, role: Role) -> Identity:
        side = self.vector[role.value]
        return Identity.from_seed(unhex(side["identity_seed"]), static_key=KeyPair(unhex(side["static_private"])))

    def _profile(self, role: Role) -> Profile:
        side = self.vector[role.value]
        extra: dict[str, Any] = dict(side["record_extra"])
        app: str | None = extra.pop("app", None)
        agent: str | None = extra.pop("agent", None)
        exp: int | None = extra.pop("exp", None)
        if "note" in extra:  # a bin stands in it as hex
            extra["note"] = {**extra["note"], "a": [_bin_of_note(item) for item in extra["note"]["a"]]}
        return Profile(
            network=self.network[role],
            offers=tuple(side["offers"]),
            caps=tuple(side["caps"]),
            agent=agent,
            app=None if app is None else unhex(app),
            exp=exp,
            versions=tuple(side["versions"]),
            ext=unhex(self.vector["preface_ext"]) if role is Role.INITIATOR else b"",
            extra=extra,
        )

    def _kem(self, role: Role) -> Kem:
        side = self.vector[role.value]
        if "kem_keygen_seed" in side:
            return FixedKem(FixedKeyPair(unhex(side["kem_keygen_seed"])))
        if "kem_ciphertext" in side:
            return FixedKem(None, unhex(side["kem_ciphertext"]), unhex(side["kem_shared_secret"]))
        return FixedKem()


def _bin_of_note(item: object) -> object:
    return b"\x00\x01" if item == "0001" else item


def load(name: str) -> dict[str, Any]:
    """A file of tests/vectors."""
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


TRISHAKE = load("trishake-v1.json")
RECORDINGS = {vector["name"]: Recording(vector) for vector in TRISHAKE["handshakes"]}


# --- live -----------------------------------------------------------------------------------------------


class End:
    """A session, with all that it has said and all that it was told."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sent = bytearray()
        self.events: list[Event] = []
        self.error: RemoteProtocolError | None = None

    def write(self) -> bytes:
        """What it wants to say now."""
        data = self.session.data_to_send()
        self.sent += data
        return data

    def read(self, data: bytes = b"", *, eof: bool = False) -> list[Event]:
        """Hand it these bytes; the events that they were. A breach is kept in `error`."""
        self.session.receive_data(data)
        if eof:
            self.session.receive_eof()
        new: list[Event] = []
        try:
            while not isinstance(event := self.session.next_event(), Wait):
                new.append(event)
        except RemoteProtocolError as error:
            self.error = error
        self.events += new
        return new


class Pair:
    """An initiator and a responder, and the wire between them."""

    def __init__(self, initiator: Session, responder: Session) -> None:
        self.initiator = End(initiator)
        self.responder = End(responder)

    def talk(self) -> None:
        """Carry bytes to and fro until neither has more to say."""
        while True:
            to_responder = self.initiator.write()
            self.responder.read(to_responder)
            to_initiator = self.responder.write()
            self.initiator.read(to_initiator)
            if not to_responder and not to_initiator:
                return

    def identify_responder(self) -> None:
        """Up to the pause in which the initiator decides."""
        self.talk()

    def identify_initiator(self) -> None:
        """Up to the pause in which the responder decides."""
        self.talk()
        self.initiator.session.accept()
        self.talk()

    def greet(self) -> None:
        """The whole greeting: both accept."""
        self.identify_initiator()
        self.responder.session.accept()
        self.talk()
        self.initiator.events.clear()
        self.responder.events.clear()


def network_of(suite: Suite, name: str = "trishake", psk: bytes | tuple[bytes, ...] = PSK) -> Network:
    """A network in which this suite can be spoken."""
    return Network(name, psk if suite.pattern.psk else None)


def make_pair(
    initiator: Profile,
    responder: Profile | None = None,
    *,
    who_calls: Identity | None = None,
    who_answers: Identity | None = None,
    expected: PeerId | None = None,
    suite: int | None = None,
    ephemeral: KeyPair | None = None,
    is_own_dial: Callable[[bytes], bool] = lambda _: False,
) -> Pair:
    return Pair(
        Session.initiator(
            who_calls or Identity.generate(),
            initiator,
            now=NOW,
            expected=expected,
            suite=suite,
            ephemeral=ephemeral,
        ),
        Session.responder(
            who_answers or Identity.generate(), responder or initiator, now=NOW, is_own_dial=is_own_dial
        ),
    )


# --- hostile --------------------------------------------------------------------------------------------


@dataclass
class Hostile:
    """One side by hand: its Noise is right, what it says within it is the test's choice."""

    role: Role
    suite: Suite
    identity: Identity = field(default_factory=Identity.generate)
    offers: tuple[int, ...] = ()
    version_max: int = 1
    ephemeral: KeyPair | None = None
    static_key: KeyPair | None = None
    """Instead of the identity's own."""

    def __post_init__(self) -> None:
        self.offers = self.offers or (self.suite.id,)
        self.static_key = self.static_key or self.identity.static_key
        self.network = network_of(self.suite)
        self.noise: HandshakeState
        self.responder_id: PeerId | None = None

    # --- as the initiator

    def write_flight(self) -> bytes:
        """Preface and SYN."""
        preface = Preface(self.suite.id, self.offers, self.network.tag, version_max=self.version_max).encode()
        self._start(preface)
        return preface + encode_frame(FrameType.SYN, self.noise.write_message())

    def read_syn_ack(self, frame: bytes, responder: PeerId) -> None:
        self.responder_id = responder
        self.noise.read_message(frame[3:])

    # --- as the responder

    def read_flight(self, flight: bytes) -> None:
        decoded = Preface.decode(flight)
        assert decoded is not None
        preface, length = decoded
        self._start(preface.encode())
        self.noise.read_message(flight[length + 3 :])

    # --- as either

    def record(self, **changes: Any) -> bytes:
        """An honest record, with these keys changed; None leaves one out."""
        honest = {
            "alg": "ed25519",
            "caps": [],
            "id": self.identity.id.key,
            "offers": list(self.offers),
            "role": self.role.value,
            "time": NOW,
            "ver": 1,
            "vers": [1, self.version_max],
        }
        pairs = {**honest, **changes}
        return encode_canonical({key: value for key, value in pairs.items() if value is not None})

    def sign(self, h: bytes, record: bytes) -> bytes:
        assert self.static_key is not None
        context = GreetingContext(self.role, h, self.static_key.public, self.responder_id)
        return self.identity.sign_greeting(context, record)

    def greet(
        self,
        record: bytes | None = None,
        *,
        signature: bytes | None = None,
        padding: bytes | None = None,
        payload: bytes | None = None,
    ) -> bytes:
        """SYN-ACK or ACK, framed. What is not given is as it should be."""
        raw = self.record() if record is None else record

        def compose(h: bytes) -> bytes:
            if payload is not None:
                return payload
            signed = self.sign(h, raw) if signature is None else signature
            if padding is not None:
                return encode_canonical([raw, signed, padding])
            return encode_greeting_payload(raw, signed)

        type_ = FrameType.ACK if self.role is Role.INITIATOR else FrameType.SYN_ACK
        return encode_frame(type_, self.noise.write_message(compose))

    def transport(self) -> tuple[RecordWriter, RecordReader]:
        """What we send, what they send."""
        to_responder, to_initiator = self.noise.split()
        if self.role is Role.INITIATOR:
            return RecordWriter(to_responder), RecordReader(to_initiator)
        return RecordWriter(to_initiator), RecordReader(to_responder)

    def _start(self, preface: bytes) -> None:
        self.noise = HandshakeState(
            self.suite.noise_name,
            self.suite.pattern,
            self.role,
            prologue=self.network.prologue(preface),
            s=self.static_key,
            e=self.ephemeral,
            psks=self.network.psks[:1],
        )


# --- fixtures -------------------------------------------------------------------------------------------


@pytest.fixture(params=SUITES.values(), ids=lambda suite: f"0x{suite.id:04x}")
def suite(request: pytest.FixtureRequest) -> Suite:
    """Each of the four suites."""
    return request.param


@pytest.fixture
def profile(suite: Suite) -> Profile:
    """What either side brings: this suite alone."""
    return Profile(network_of(suite), offers=(suite.id,))


@pytest.fixture
def pair(profile: Profile) -> Pair:
    """Two strangers who have not said a word yet."""
    return make_pair(profile)


@pytest.fixture
def open_pair(pair: Pair) -> Pair:
    """Two who have greeted each other, and accepted."""
    pair.greet()
    return pair


@pytest.fixture
def recording(suite: Suite) -> Recording:
    """The recorded greeting of an ordinary dial in this suite."""
    return RECORDINGS[f"0x{suite.id:04x}-a"]
