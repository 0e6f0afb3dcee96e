"""One greeting under way: Noise, what each side says within it, and the order in which that is checked.

    initiator                      responder
    start()          ── SYN ──▶      read_preface(), read_syn()
    open(); verify() ◀ SYN-ACK ──    compose(), signed; write()
    compose(), signed; write()
                     ── ACK ──▶      open(); verify()
    transport()                      transport()

Whatever is wrong with what the other side sent is raised as GreetingRefused, with the code that section 7 has
for it. Sections 5 to 7 of the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import AlertCode, GreetingRefused, InvalidPeerId, VerdictCode
from .identity import GreetingContext, GreetingToSign, Identity, PublicIdentity
from .key_log import LoggedKeys
from .limits import EXPIRY_ALLOWANCE, MAX_EXTENSION, SIGNATURE_LENGTH, VERSION
from .messages import Greeting, GreetingTemplate, Preface, decode_greeting_payload, encode_greeting_payload
from .network import Network
from .noise import CipherState, HandshakeError, HandshakeState
from .patterns import SUITES, Role, Suite
from .peer_id import PeerId
from .primitives import CHACHAPOLY, MLKEM768, Kem, KeyPair


class UnexpectedIdentity(GreetingRefused):
    """Somebody answered and proved who he is, and it is not the one who was dialed (section 7, step 6)."""

    def __init__(self, expected: PeerId, actual: PeerId) -> None:
        super().__init__(VerdictCode.IDENTITY_UNKNOWN, f"expected {expected}, and {actual} answered")
        self.expected = expected
        self.actual = actual


def usable_suites(offers: tuple[int, ...], *, private: bool) -> list[Suite]:
    """Those of the offers that count: unknown ids and the wrong kind of network are ignored (section 3)."""
    known = [SUITES[offer] for offer in offers if offer in SUITES]
    return [suite for suite in known if suite.pattern.psk is private]


def _no_extra() -> dict[str, object]:
    return {}


@dataclass(frozen=True, slots=True)
class Profile:
    """What one side brings to every greeting, besides its identity.

    offers: ids of the suites enabled, best first; None means the network's default.
    caps: session features; app: opaque to Trishake, at most 4096 bytes, handed to the other side's policy.
    exp: Unix seconds after which the other side refuses this greeting, or None.
    versions, ext, extra: what a later version of the protocol would say (section 13).
    Raises ValueError for what cannot be sent.
    """

    network: Network = field(default_factory=Network)
    offers: tuple[int, ...] | None = None
    caps: tuple[str, ...] = ()
    agent: str | None = None
    app: bytes | None = None
    exp: int | None = None
    versions: tuple[int, int] = (VERSION, VERSION)
    ext: bytes = b""
    extra: dict[str, object] = field(default_factory=_no_extra)
    suites: tuple[Suite, ...] = field(init=False, repr=False, compare=False)
    """The offers that this version can speak in this network, best first."""
    _template: GreetingTemplate = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.offers is None:
            object.__setattr__(self, "offers", self.network.default_suites)
        usable = usable_suites(self.offers or (), private=self.network.private)
        object.__setattr__(self, "suites", tuple(usable))
        if not usable:
            kind = "private" if self.network.private else "public"
            offered = ", ".join(f"0x{offer:04x}" for offer in self.offers or ())
            raise ValueError(f"no suite of a {kind} network among the offers ({offered or 'none'})")
        longest = self.greeting(Role.INITIATOR, bytes(32), time=2**64 - 1)
        encode_greeting_payload(longest.encode(), bytes(SIGNATURE_LENGTH))  # raises where it cannot be sent
        object.__setattr__(self, "_template", GreetingTemplate(longest))
        if not self.versions[0] <= VERSION <= self.versions[1]:
            raise ValueError(f"the versions {self.versions} do not include {VERSION}, which this package speaks")
        if len(self.ext) > MAX_EXTENSION:
            raise ValueError(f"an extension of {len(self.ext)} bytes, the limit is {MAX_EXTENSION}")

    def suite(self, id_: int | None) -> Suite:
        """The one of that id among them, or the best. Raises ValueError if it is not among them."""
        for suite in self.suites:
            if id_ is None or suite.id == id_:
                return suite
        raise ValueError(f"suite 0x{id_:04x} is not among the offers of this profile")

    def greeting(self, role: Role, id_: bytes, *, time: int) -> Greeting:
        """What this side says. time: our clock, Unix seconds."""
        return Greeting(
            role=role.value,
            id=id_,
            offers=self.offers or (),
            time=time,
            vers=self.versions,
            caps=tuple(sorted(set(self.caps), key=str.encode)),
            agent=self.agent,
            app=self.app,
            exp=self.exp,
            extra=self.extra,
        )

    def record(self, role: Role, id_: bytes, *, time: int) -> bytes:
        """That greeting encoded, to be signed. Raises ValueError for a time that is no uint."""
        return self._template.encode(role, id_, time)


class Handshake:
    """One side of one greeting. The keys of Noise are in here, and gone after `transport`.

    now: our clock, Unix seconds. expected: who must answer, if that is known (initiator).
    kem, ephemeral: for reproducible tests only. key_log: called with each line of the key log, None for none.
    """

    def __init__(
        self,
        role: Role,
        identity: Identity | PublicIdentity,
        profile: Profile,
        *,
        now: int,
        expected: PeerId | None = None,
        kem: Kem = MLKEM768,
        ephemeral: KeyPair | None = None,
        key_log: Callable[[str], None] | None = None,
    ) -> None:
        self.role = role
        self.suite: Suite | None = None
        self._identity = identity
        self._profile = profile
        self.now = now
        self._expected = expected
        self._kem = kem
        self._ephemeral = ephemeral
        self._logged = None if key_log is None else LoggedKeys(key_log)
        self._preface: Preface | None = None
        self._noise: HandshakeState | None = None
        self._peer: PeerId | None = None
        """The other side, once it is verified; so in SYN-ACK it is not named yet."""

    # --- initiator --------------------------------------------------------------------------------------

    def start(self, suite: Suite) -> tuple[bytes, bytes]:
        """(preface, SYN body) of an attempt with this suite."""
        profile = self._profile
        self.suite = suite
        self._preface = Preface(
            suite=suite.id,
            offers=profile.offers or (),
            net_tag=profile.network.tag,
            version_max=profile.versions[1],
            ext=profile.ext,
        )
        preface = self._preface.encode()
        self._noise = self._new_noise(preface, profile.network.psks[:1])
        return preface, self._noise.write_message()

    @property
    def ephemeral_key(self) -> bytes:
        """Our e, once it has been sent."""
        noise = self._started()
        assert noise.e is not None
        return noise.e.public

    # --- responder --------------------------------------------------------------------------------------

    def read_preface(self, preface: Preface) -> None:
        """Section 7, step 3: is the suite enabled, is the network ours."""
        enabled = {suite.id: suite for suite in self._profile.suites}
        network = self._profile.network
        if preface.suite not in enabled:
            raise GreetingRefused(AlertCode.UNSUPPORTED_SUITE, self._why_not(preface.suite))
        if preface.net_tag != network.tag:
            if network.private:
                raise GreetingRefused(AlertCode.HANDSHAKE_FAILED, "a private network has no tag")
            raise GreetingRefused(AlertCode.WRONG_NETWORK, f"the tag is not that of the network {network.name!r}")
        self.suite = enabled[preface.suite]
        self._preface = preface

    def _why_not(self, offer: int) -> str:
        """What is wrong with a suite that is not enabled here."""
        suite = SUITES.get(offer)
        if suite is None or suite.pattern.psk is self._profile.network.private:
            return f"suite 0x{offer:04x} is not enabled here"
        its, ours = ("private", "public") if suite.pattern.psk else ("public", "private")
        return f"suite 0x{offer:04x} is of a {its} network, and we are in a {ours} one"

    def read_syn(self, body: bytes) -> bytes:
        """Open the SYN under the first key that fits (step 5); on a public network there is none to try.

        Returns the initiator's ephemeral key, 32 bytes.
        """
        noise = self._opened(body)
        if noise is None:
            raise GreetingRefused(AlertCode.HANDSHAKE_FAILED, "the SYN does not open: another key, name or tag")
        self._noise = noise
        return noise.re

    def _opened(self, body: bytes) -> HandshakeState | None:
        # Nothing is raised from here: a traceback that shows its frames' variables would show the keys.
        assert self._preface is not None
        preface = self._preface.encode()
        keys = self._profile.network.psks
        for i in range(max(1, len(keys))):
            noise = self._new_noise(preface, keys[i : i + 1])
            try:
                noise.read_message(body)
            except HandshakeError:
                continue
            return noise
        return None

    # --- either side ------------------------------------------------------------------------------------

    def compose(self) -> GreetingToSign:
        """Do the DH and KEM of SYN-ACK (steps 7 and 8) or ACK, and say what is to be signed in it."""
        try:
            h = self._started().begin_message()
        except HandshakeError as error:
            raise GreetingRefused(AlertCode.HANDSHAKE_FAILED, str(error)) from None
        if self._logged is not None:
            self._logged.greeted(self.role, self._syn_key)
        record = self._profile.record(self.role, self._identity.id.key, time=self.now)
        context = GreetingContext(self.role, h, self._identity.static_key.public, self._peer)
        return GreetingToSign(context, record)

    def write(self, greeting: GreetingToSign, signature: bytes) -> bytes:
        """The body of SYN-ACK or ACK, which is the first thing that names the initiator."""
        return self._started().end_message(encode_greeting_payload(greeting.record, signature))

    def open(self, body: bytes) -> bytes:
        """The payload of the other side's SYN-ACK or ACK (step 1 of a greeting, and its AEAD)."""
        noise = self._started()
        try:
            payload = noise.read_message(body)
        except HandshakeError as error:
            raise GreetingRefused(AlertCode.HANDSHAKE_FAILED, str(error)) from None
        if self._logged is not None:
            self._logged.greeted(self.role.other, self._syn_key)
        if noise.re == self.ephemeral_key or noise.rs == self._identity.static_key.public:
            raise GreetingRefused(VerdictCode.SELF, "our own keys came back, as of a dial to ourselves or an echo")
        return payload

    def verify(self, payload: bytes) -> tuple[PeerId, Greeting]:
        """Steps 2 to 8 for a greeting, in order: who the other side is, and what it says."""
        noise = self._started()
        sender = self.role.other
        responder = self._identity.id if sender is Role.INITIATOR else None
        context = GreetingContext(sender, noise.payload_h, noise.rs, responder)
        record, signature = decode_greeting_payload(payload)
        greeting = Greeting.decode(record, sender)
        peer = _identity_of(greeting)
        if len(signature) != SIGNATURE_LENGTH or not context.verify(peer, record, signature):
            raise GreetingRefused(VerdictCode.BAD_SIGNATURE, f"the signature is not that of {peer}")
        if peer == self._identity.id:
            raise GreetingRefused(VerdictCode.SELF, "who is there has proved our own identity")
        if self._expected is not None and peer != self._expected:
            raise UnexpectedIdentity(self._expected, peer)
        if greeting.exp is not None and self.now > greeting.exp + EXPIRY_ALLOWANCE:
            raise GreetingRefused(
                VerdictCode.EXPIRED,
                f"the greeting expired {self.now - greeting.exp} s ago by our clock, "
                f"which is {clocks_apart(self.now - greeting.time)} its sender's",
            )
        self._refuse_downgrade(greeting)
        self._peer = peer
        return peer, greeting

    def transport(self) -> tuple[bytes, CipherState, CipherState]:
        """(channel binding, our direction, their direction). The handshake's keys are dropped."""
        noise = self._started()
        syn_key = self._syn_key
        to_responder, to_initiator = noise.split()
        if self._logged is not None:
            self._logged.split(syn_key)
        if self.role is Role.INITIATOR:
            return noise.h, to_responder, to_initiator
        return noise.h, to_initiator, to_responder

    def _started(self) -> HandshakeState:
        assert self._noise is not None
        return self._noise

    @property
    def _syn_key(self) -> bytes:
        """The initiator's e, by which the lines of the key log are found."""
        return self.ephemeral_key if self.role is Role.INITIATOR else self._started().re

    def _new_noise(self, preface: bytes, psks: tuple[bytes, ...]) -> HandshakeState:
        assert self.suite is not None
        return HandshakeState(
            self.suite.noise_name,
            self.suite.pattern,
            self.role,
            prologue=self._profile.network.prologue(preface),
            s=self._identity.static_key,
            e=self._ephemeral,
            psks=psks,
            kem=self._kem,
            cipher=CHACHAPOLY if self._logged is None else self._logged.cipher,
        )

    def _refuse_downgrade(self, greeting: Greeting) -> None:
        """Step 8: is this the best that both sides say, under their signatures, that they can?"""
        assert self._preface is not None
        assert self.suite is not None
        ours = self._profile
        initiator, responder = ours.offers or (), greeting.offers
        if self.role is Role.RESPONDER:
            initiator, responder = responder, initiator
            if greeting.offers != self._preface.offers:
                raise GreetingRefused(VerdictCode.DOWNGRADE, "the offers in ACK are not those of the preface")
            if greeting.vers[1] != self._preface.version_max:
                raise GreetingRefused(
                    VerdictCode.DOWNGRADE,
                    f"ACK says version {greeting.vers[1]} at most, the preface {self._preface.version_max}",
                )
        usable = usable_suites(initiator, private=ours.network.private)
        best = next((suite for suite in usable if suite.id in responder), None)
        if best is not self.suite:
            raise GreetingRefused(
                VerdictCode.DOWNGRADE,
                f"the suite is {self.suite}, and the best that both have is {best or 'none'}",
            )
        lowest = max(greeting.vers[0], ours.versions[0])
        highest = min(greeting.vers[1], ours.versions[1])
        if not lowest <= VERSION == highest:
            raise GreetingRefused(
                VerdictCode.DOWNGRADE, f"both speak versions {lowest} to {highest}, and this is {VERSION}"
            )


def clocks_apart(seconds: int) -> str:
    """How far a clock is ahead of another, as words that fit in front of the other."""
    return f"{abs(seconds)} s {'behind' if seconds < 0 else 'ahead of'}"


def _identity_of(greeting: Greeting) -> PeerId:
    if greeting.alg != "ed25519":
        raise GreetingRefused(VerdictCode.BAD_IDENTITY_KEY, f"unknown algorithm {greeting.alg!r}")
    try:
        return PeerId(greeting.id)
    except InvalidPeerId as error:
        raise GreetingRefused(VerdictCode.BAD_IDENTITY_KEY, str(error)) from None
