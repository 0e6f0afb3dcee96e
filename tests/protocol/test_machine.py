"""Two sessions and two byte pipes between them, in any interleaving, beside the model of the specification.

After every step each session is where the model is; each event, each error with its reason, and each frame on the
wire is the one that the model foretold.

    Greetings       any answer of either side at any moment; and with each thing that can be wrong with one of them
    OpenSessions    records, and the ends of the two directions
    OpenStreams     streams inside them
    Tampered…       the same three, and on the wire one frame is changed, lost, repeated or swapped

The wire delivers what it likes, and ends where it likes. What follows from damage is foretold too, all but how it
looks to whom it hits first; he hears of nothing that was said behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from trishake_protocol import (
    AlertCode,
    CloseCode,
    Identity,
    LocalProtocolError,
    Network,
    Profile,
    PublicIdentity,
    RemoteProtocolError,
    Role,
    Session,
    State,
    VerdictCode,
    Wait,
)
from trishake_protocol.events import Accepted, DataReceived, Event, PeerIdentified
from trishake_protocol.states import Direction

from . import model
from .conftest import NOW, PSK
from .model import Bringing, Damage, Message, Raises, Run, Side, Way

INITIATOR, RESPONDER = Role
ADA, BOB, EVE = (Identity.from_seed(letter * 32) for letter in (b"a", b"b", b"e"))
ADA_AGAIN = Identity.from_seed(b"a" * 32)
"""The same identity in another process: its Noise key is another one."""

T = TypeVar("T")
ROLES = st.sampled_from(Role)
ENDS = ["finish", "finish", "close", "cut"]
REASONS = [code for code in CloseCode if code is not CloseCode.NORMAL]
DAMAGES = st.sampled_from(["flip", "flip", "drop", "repeat", "swap"])
BITS = st.integers(0, 20_000)
PICKS = st.integers(0, 50)
SEEN = st.sampled_from([None, "192.0.2.7:4711"])
VERDICTS = st.sampled_from([*(code for code in VerdictCode if code is not VerdictCode.READY), 0x8000, 0xFFFF])
TEXTS = st.sampled_from([None, "sorry", "ø" * 128])
ALL = 1 << 30
LENGTHS = st.one_of(st.integers(0, 4), st.integers(0, 40), st.integers(0, 1500), st.just(ALL))
SIZES = st.one_of(st.integers(0, 60), st.sampled_from([5000, 16364, 16365, 70_000]))
STREAM_SIZES = st.one_of(st.integers(0, 60), st.sampled_from([16_000, 140_000, 300_000]))


# --- what the two bring ---------------------------------------------------------------------------------


@dataclass
class Start:
    """What both bring, and what is wrong with it, if anything is."""

    brings: dict[Role, Bringing]
    own_dial: bool
    key_log: dict[Role, bool]


@st.composite
def starts(draw: Callable[..., Any], flaw: str | None = None, mux: bool | None = None) -> Start:
    """Two that may meet, but for this flaw. Hybrid suites are rare: they are dear."""
    private = flaw in (ANOTHER_KEY, ANOTHER_KEY_IN_SILENCE) or draw(st.integers(0, 3)) == 0
    hybrid = draw(st.integers(0, 11)) == 0
    classical_id, hybrid_id = (0x0101, 0x0102) if private else (0x0001, 0x0002)
    offers = (hybrid_id, classical_id) if hybrid else (classical_id,)
    caps = ("mux/1", "x") if (draw(st.booleans()) if mux is None else mux) else ("x",)
    network = Network("home", PSK) if private else Network("home")
    quiet = private and draw(st.booleans())

    def bringing(identity: Identity) -> Bringing:
        app = draw(st.sampled_from([None, b"app"]))
        elsewhere = draw(st.integers(0, 2)) == 0
        return Bringing(identity, network, offers, NOW, caps, app=app, elsewhere=elsewhere)

    ada, bob = bringing(ADA), bringing(BOB)
    bob.network = Network("home", (bytes(32), PSK), quiet=quiet) if private else network
    if draw(st.booleans()):
        ada.expected = BOB.id
    if flaw is not None:
        FLAWS[flaw](ada, bob)
    key_log = {role: draw(st.integers(0, 3)) == 0 for role in Role}
    return Start({INITIATOR: ada, RESPONDER: bob}, flaw == OWN_DIAL, key_log)


def _another_network(_: Bringing, bob: Bringing) -> None:
    bob.network = Network("work", bob.network.psk, quiet=bob.network.quiet)


def _another_key(quiet: bool) -> Callable[[Bringing, Bringing], None]:
    def make(_: Bringing, bob: Bringing) -> None:
        bob.network = Network("home", bytes(32), quiet=quiet)

    return make


def _no_common_suite(ada: Bringing, bob: Bringing) -> None:
    private = ada.network.psk is not None
    ada.offers, bob.offers = ((0x0101,), (0x0102,)) if private else ((0x0001,), (0x0002,))


def _public_meets_private(_: Bringing, bob: Bringing) -> None:
    private = bob.network.psk is not None
    bob.network, bob.offers = (Network("home"), (0x0001,)) if private else (Network("home", PSK), (0x0101,))


def _lower_suite(ada: Bringing, bob: Bringing) -> None:
    """A second try with a lower suite than both have."""
    private = ada.network.psk is not None
    ada.offers = bob.offers = (0x0102, 0x0101) if private else (0x0002, 0x0001)
    ada.suite = ada.offers[1]


def _unknown_offer_first(ada: Bringing, bob: Bringing) -> None:
    """No flaw at all: what is unknown, or of the other kind of network, is ignored."""
    ada.offers = bob.offers = (0x7777, 0x0101 if ada.network.psk is None else 0x0001, *ada.offers)


def _own_dial(ada: Bringing, _: Bringing) -> None:
    """The responder knows the ephemeral key of this dial."""


def _wrong_id(ada: Bringing, _: Bringing) -> None:
    ada.expected = EVE.id


def _own_key(_: Bringing, bob: Bringing) -> None:
    bob.identity = ADA


def _own_noise_key(ada: Bringing, bob: Bringing) -> None:
    bob.identity = Identity.from_seed(b"b" * 32, static_key=ada.identity.static_key)


def _own_id(ada: Bringing, bob: Bringing) -> None:
    bob.identity = ADA_AGAIN
    ada.expected = None


def _impostor(who: int) -> Callable[[Bringing, Bringing], None]:
    """He says that he is the other, and signs with his own key."""

    def make(ada: Bringing, bob: Bringing) -> None:
        brings = (ada, bob)[who]
        impostor = Identity.from_seed(b"e" * 32)
        object.__setattr__(impostor, "id", brings.identity.id)
        brings.identity, brings.impostor, brings.elsewhere = impostor, True, False

    return make


def _expired(late: int, who: int) -> Callable[[Bringing, Bringing], None]:
    def make(ada: Bringing, bob: Bringing) -> None:
        (ada, bob)[who].exp = NOW
        (bob, ada)[who].now = NOW + late

    return make


def _one_without_streams(who: int) -> Callable[[Bringing, Bringing], None]:
    def make(ada: Bringing, bob: Bringing) -> None:
        (ada, bob)[who].caps = ()

    return make


OWN_DIAL = "a dial of our own"
ANOTHER_KEY, ANOTHER_KEY_IN_SILENCE = "another key", "another key in a quiet network"
FLAWS: dict[str, Callable[[Bringing, Bringing], None]] = {
    "another network": _another_network,
    ANOTHER_KEY: _another_key(quiet=False),
    ANOTHER_KEY_IN_SILENCE: _another_key(quiet=True),
    "no common suite": _no_common_suite,
    "public meets private": _public_meets_private,
    "a lower suite": _lower_suite,
    "an unknown offer first": _unknown_offer_first,
    "another id expected": _wrong_id,
    OWN_DIAL: _own_dial,
    "our own key": _own_key,
    "our own Noise key": _own_noise_key,
    "our own id": _own_id,
    "the initiator an impostor": _impostor(0),
    "the responder an impostor": _impostor(1),
    "the initiator's greeting at its last second": _expired(300, 0),
    "the initiator's greeting expired": _expired(301, 0),
    "the responder's greeting at its last second": _expired(300, 1),
    "the responder's greeting expired": _expired(301, 1),
    "the initiator without streams": _one_without_streams(0),
    "the responder without streams": _one_without_streams(1),
}


# --- what is on the wire ---------------------------------------------------------------------------------


def pattern(before: bytearray, size: int) -> bytes:
    """Bytes that show from where in the stream they are."""
    start = len(before) % 251
    return (bytes(range(251)) * ((start + size) // 251 + 1))[start : start + size]


def frames(data: bytes, foretold: list[Message], suite: int) -> list[Message]:
    """What was written, frame by frame, against what was foretold: the types, the lengths, nothing missing."""
    expected, written = list(foretold), list[Message]()
    while data:
        assert expected, "more is written than was foretold"
        message = expected[0]
        if message.kind == "preface":
            assert data.startswith("🤝".encode())
            message.length = model.PREFACE + 2 * data[8]
        else:
            content = int.from_bytes(data[1:3], "big") - model.TAG - 1
            message.length = model.HEADER + int.from_bytes(data[1:3], "big")
            assert data[0] == model.FRAME_TYPES.get(message.kind, 0x10)
            if message.kind == "DATA" and content < message.size:
                written.append(first_of(message, content))
                data = data[written[-1].length :]
                continue
            check_length(message, suite)
        assert message.length <= len(data)
        written.append(message)
        data = data[message.length :]
        del expected[0]
    assert not expected, "less is written than was foretold"
    return written


def first_of(message: Message, content: int) -> Message:
    """A record with the first bytes of this DATA, which is left with the others."""
    assert 0 < content <= model.MOST_CONTENT
    first, rest = message.event, None
    if isinstance(message.event, DataReceived):
        first, rest = DataReceived(message.event.data[:content]), DataReceived(message.event.data[content:])
    message.event = rest
    message.size -= content
    return Message("DATA", first, content, length=model.RECORD + content)


def check_length(message: Message, suite: int) -> None:
    body = message.length - model.HEADER
    match message.kind:
        case "SYN":
            assert body == model.SYN_LENGTH[suite]
        case "SYN-ACK" | "ACK":
            plaintext = body - (model.SYN_ACK_LENGTH[suite] if message.kind == "SYN-ACK" else model.ACK_LENGTH)
            assert plaintext > 0
            assert plaintext % 256 == 0
        case "DATA":
            assert body == message.size + 1 + model.TAG
            assert message.size <= model.MOST_CONTENT
        case "PING":
            assert body == 9 + 1 + model.TAG
        case _:
            pass


# --- the machine ----------------------------------------------------------------------------------------


class Conversation(RuleBasedStateMachine):
    """Two honest ends, over a wire that delivers what it likes, and ends where it likes."""

    sessions: dict[Role, Session]
    sides: dict[Role, Side]
    optimistic = late = False

    def __init__(self) -> None:
        super().__init__()
        self.wire = {role: bytearray() for role in Role}  # what this side has written and the other not been given
        self.ways = {role: Way() for role in Role}
        self.lost = dict.fromkeys(Role, False)  # what this side writes from now on reaches nobody
        self.events: dict[Role, list[Event]] = {role: [] for role in Role}
        self.sent: dict[tuple[Role, int], bytearray] = defaultdict(bytearray)  # by sender and stream
        self.got: dict[tuple[Role, int], int] = defaultdict(int)  # by receiver and stream
        self.lines: dict[Role, list[str]] = {role: [] for role in Role}

    def begin(self, start: Start, far: int, *, optimistic: bool = False) -> None:
        """Two sessions. far: how often, in turn, one of them gets on; who reads the last is not asked yet."""
        self.optimistic = optimistic
        brings = start.brings
        self.sides = {
            role: Side(role, brings, self.ways, own_dial=start.own_dial and role is RESPONDER) for role in Role
        }
        for role, side in self.sides.items():
            side.other = self.sides[role.other]
        options: dict[Role, dict[str, Any]] = {role: {} for role in Role}
        for role in Role:
            ours = brings[role]
            options[role] = {
                "identity": PublicIdentity(ours.identity.id, ours.identity.static_key)
                if ours.elsewhere
                else ours.identity,
                "profile": Profile(ours.network, ours.offers, caps=ours.caps, app=ours.app, exp=ours.exp),
                "now": ours.now,
                "key_log": self.lines[role].append if start.key_log[role] else None,
            }
        initiator = Session.initiator(
            **options[INITIATOR], expected=brings[INITIATOR].expected, suite=brings[INITIATOR].suite
        )
        responder = Session.responder(
            **options[RESPONDER], is_own_dial=lambda e: start.own_dial and e == initiator.ephemeral_key
        )
        self.sessions = {INITIATOR: initiator, RESPONDER: responder}
        for i in range(far):
            (self.get_on if i + 1 < far else self.exchange)((INITIATOR, RESPONDER)[i % 2])

    # --- the wire

    @rule(role=ROLES)
    def write(self, role: Role) -> None:
        """Every frame is foretold, and none is missing."""
        foretold = self.sides[role].write()
        data = self.sessions[role].data_to_send()
        messages = list(frames(data, foretold, self.sides[role].attempt))
        if not self.lost[role]:
            self.wire[role] += data
            if not self.damaged(role):
                self.ways[role].messages += messages

    @rule(role=ROLES, length=LENGTHS)
    def deliver(self, role: Role, length: int) -> None:
        """Part of what this side has written reaches the other; and its end, if that is next."""
        if self.ways[role].ended:
            return
        reader = self.sessions[role.other]
        chunk = bytes(self.wire[role][: min(length, reader.receive_room)])
        del self.wire[role][: len(chunk)]
        if self.sides[role.other].state is not State.ENDED:
            self.ways[role].arrived += len(chunk)
        reader.receive_data((bytes, bytearray, memoryview)[length % 3](chunk))
        if self.lost[role] and not self.wire[role]:
            self.ways[role].ended = True
            reader.receive_eof()

    @rule(role=ROLES)
    def read(self, role: Role) -> None:
        """Everything that this side can be told now."""
        while not isinstance(told := self.read_one(role), Wait | RemoteProtocolError):
            self.events[role].append(told)
            if isinstance(told, PeerIdentified) and self.sides[role].mux:
                self.sides[role].carry_streams()
                self.sessions[role].carry_streams()

    @rule(role=ROLES)
    def read_once(self, role: Role) -> None:
        """One event, so that others are still to come when something else happens."""
        if self.sides[role].state is State.OPEN:
            told = self.read_one(role)
            if not isinstance(told, Wait | RemoteProtocolError):
                self.events[role].append(told)

    @rule(role=ROLES, length=LENGTHS)
    def trickle(self, role: Role, length: int) -> None:
        self.write(role)
        self.deliver(role, length)
        self.read(role.other)

    @rule(role=ROLES)
    def exchange(self, role: Role) -> None:
        """All that this side has to say arrives, and is read."""
        self.write(role)
        self.deliver(role, ALL)
        self.read(role.other)

    @rule(role=ROLES)
    def get_on(self, role: Role) -> None:
        """The same, and whoever reads it says yes if he is asked."""
        self.exchange(role)
        other = role.other
        if self.sides[other].state is State.PEER_IDENTIFIED:
            self.say_yes(other, None, None, self.optimistic)
        if self.sides[other].state is State.SIGNING:
            self.sign_as(other, "right")

    def speak(self, role: Role, count: int) -> None:
        """Say something, so that it is under way when the next thing happens."""

    def check_all(self) -> None:
        self.each_session_is_where_the_model_is()
        self.each_knows_the_streams_that_are_not_over()
        self.nobody_is_accepted_unless_both_said_yes()
        self.both_see_the_same_connection()

    def part(self) -> None:
        """One side ends, while the other speaks; then the other ends, too."""
        first = INITIATOR if self.late else RESPONDER
        self.speak(first.other, 1)
        self.end(first, "close" if self.optimistic else "finish", CloseCode.IDLE, None, 0, False)
        self.speak(first.other, 1)
        self.settle()
        self.end(first.other, "finish", CloseCode.IDLE, None, 0, False)

    def settle(self) -> None:
        """All that is said arrives and is read, and so is what is answered to it."""
        for _ in range(3):
            for role in Role:
                self.exchange(role)

    def cut(self, role: Role, share: int) -> None:
        """The direction ends: behind all that is under way, or somewhere in it."""
        if not self.lost[role]:
            self.lost[role] = True
            del self.wire[role][len(self.wire[role]) * share // 4 :]

    # --- what the applications do, in any state

    def say_yes(self, role: Role, seen: str | None, text: str | None, optimistic: bool) -> None:
        self.both(
            partial(self.sides[role].accept, seen, text, optimistic),
            partial(self.sessions[role].accept, seen=seen, text=text, optimistic=optimistic),
        )

    def say_no(
        self, role: Role, reason: VerdictCode | int, text: str | None, retry: int | None, seen: str | None
    ) -> None:
        self.both(
            partial(self.sides[role].reject, reason, text, retry, seen),
            partial(self.sessions[role].reject, reason, text=text, retry_after=retry, seen=seen),
        )

    def give_up(self, role: Role, code: AlertCode, retry: int | None) -> None:
        self.both(
            partial(self.sides[role].refuse, code, retry),
            partial(self.sessions[role].refuse, code, retry_after=retry),
        )

    def sign_as(self, role: Role, whose: str) -> None:
        session, side = self.sessions[role], self.sides[role]
        greeting = session.to_sign
        assert (greeting is not None) is (side.state is State.SIGNING)
        if greeting is None:
            with pytest.raises(LocalProtocolError):
                session.sign(bytes(64))
            return
        context, record = greeting
        if whose == "another greeting's":
            context = context._replace(handshake_hash=bytes(32))
        holder = EVE if whose == "somebody else's" else side.ours.identity
        signature = holder.sign_greeting(context, record)
        if whose == "right":
            self.both(side.sign, partial(session.sign, signature))
        else:
            with pytest.raises(LocalProtocolError, match="no signature"):
                session.sign(signature)

    def send_bytes(self, role: Role, size: int) -> None:
        data = pattern(self.sent[role, 0], size)
        if self.both(partial(self.sides[role].send, data), partial(self.sessions[role].send, data)):
            self.sent[role, 0] += data

    @rule(
        role=ROLES,
        how=st.sampled_from(ENDS),
        code=st.sampled_from(REASONS),
        text=TEXTS,
        share=st.integers(0, 4),
        crossing=st.booleans(),
    )
    def end(self, role: Role, how: str, code: CloseCode, text: str | None, share: int, crossing: bool) -> None:
        """A direction ends. crossing: something is under way against it."""
        if crossing:
            self.speak(role.other, 1)
            self.write(role.other)
        side, session = self.sides[role], self.sessions[role]
        match how:
            case "finish":
                self.both(partial(side.finish, text), partial(session.finish, text))
            case "close":
                self.both(partial(side.close, code, text), partial(session.close, code, text))
            case _:
                self.cut(role, share)

    @rule(role=ROLES, payload=st.sampled_from([b"8 bytes!", bytes(8)]))
    def ping(self, role: Role, payload: bytes) -> None:
        self.both(partial(self.sides[role].ping, payload), partial(self.sessions[role].ping, payload))

    # --- the steps of which the rules are made

    def both(self, foretold: Callable[[], T], real: Callable[[], T]) -> bool:
        """The model and the session do it, with the same result, or refuse it alike. Whether it was done."""
        try:
            expected = foretold()
        except (LocalProtocolError, ValueError) as error:
            with pytest.raises(type(error)):
                real()
            return False
        assert real() == expected
        return True

    def read_one(self, role: Role) -> Event | Wait | RemoteProtocolError:
        side, session = self.sides[role], self.sessions[role]
        foretold = side.next()
        told: Event | Wait | RemoteProtocolError
        try:
            told = session.next_event()
        except RemoteProtocolError as error:
            told = error
        match foretold:
            case Damage():
                side.after_damage(told)
            case Raises():
                assert isinstance(told, RemoteProtocolError), f"{told}, and not {foretold}"
                assert Raises(type(told), told.reason) == foretold, told
            case Run(stream=stream):
                assert isinstance(told, DataReceived)
                assert told.stream == stream
                side.took(foretold, told.data)
            case _:
                assert told == foretold
        if isinstance(told, DataReceived):
            self.check_data(role, told)
        return told

    def check_data(self, role: Role, event: DataReceived) -> None:
        """What is received is what was sent, from its beginning on and without a gap."""
        got, sent = self.got[role, event.stream], self.sent[role.other, event.stream]
        assert event.data
        assert event.data == sent[got : got + len(event.data)]
        self.got[role, event.stream] += len(event.data)

    def damaged(self, role: Role) -> bool:
        messages = self.ways[role].messages
        return bool(messages) and messages[-1].kind == "damage"

    # --- what always holds

    @invariant()
    def each_session_is_where_the_model_is(self) -> None:
        for role, session in self.sessions.items():
            side = self.sides[role]
            assert session.state is side.state
            assert session.told == side.told
            assert session.has_data_to_send is side.has_something_to_say
            assert session.finished_handshake is side.finished_handshake
            assert session.mux is side.mux
            if side.state is State.OPEN:
                assert (session.sending, session.receiving) == (side.sending, side.receiving)
            if side.state in model.UNIDENTIFIED:
                assert 0 <= session.receive_room <= model.GREETING_BUFFER
                if not self.damaged(role.other):
                    unread = self.ways[role.other].arrived
                    assert session.receive_room == max(0, model.GREETING_BUFFER - unread)
            else:
                assert 0 < session.receive_room <= 2 * (model.HEADER + 65535)

    @invariant()
    def each_knows_the_streams_that_are_not_over(self) -> None:
        for role, session in self.sessions.items():
            side = self.sides[role].streams
            if side is not None and session.streams is not None:
                assert len(session.streams) == len(side.views)
                assert side.ours <= model.MOST_STREAMS
                for id_, view in list(side.views.items())[:8]:
                    assert session.streams.credit(id_) == (0 if view.sent_fin else view.window)
                    assert view.window >= 0

    @invariant()
    def nobody_is_accepted_unless_both_said_yes(self) -> None:
        if any(isinstance(event, Accepted) for event in self.events[INITIATOR]):
            assert all(side.said_yes for side in self.sides.values())
            assert any(isinstance(event, PeerIdentified) for event in self.events[RESPONDER])
        if self.sessions[INITIATOR].state is State.OPEN:
            assert self.sides[RESPONDER].said_yes

    @invariant()
    def both_see_the_same_connection(self) -> None:
        ours, theirs = self.sessions[INITIATOR], self.sessions[RESPONDER]
        if ours.finished_handshake and theirs.finished_handshake:
            assert (ours.session_id, ours.channel_binding) == (theirs.session_id, theirs.channel_binding)
            assert ours.greeting_id == theirs.greeting_id
        for role, session in self.sessions.items():
            if not session.finished_handshake:
                with pytest.raises(LocalProtocolError):
                    _ = session.session_id
            identified = [event for event in self.events[role] if isinstance(event, PeerIdentified)]
            assert len(identified) <= 1
            for event in identified:
                assert event.peer == self.sides[role].theirs.identity.id

    def teardown(self) -> None:
        """All that was said arrives, and both directions end. Then nobody waits for more, and both logs agree."""
        if not hasattr(self, "sessions"):
            return
        self.settle()
        for role in Role:
            self.cut(role, 4)
        self.settle()
        self.check_all()
        for side in self.sides.values():
            if side.state is State.OPEN:
                assert side.receiving is not Direction.OPEN
        if all(self.lines.values()) and all(session.finished_handshake for session in self.sessions.values()):
            assert set(self.lines[INITIATOR]) == set(self.lines[RESPONDER])


class Greetings(Conversation):
    """Each side may say yes or no, or nothing, at any moment, to whoever it is."""

    happy = True

    @initialize(start=starts(), far=st.integers(0, 3), optimistic=st.booleans(), happy=st.booleans())
    def start(self, start: Start, far: int, optimistic: bool, happy: bool) -> None:
        self.happy = happy
        self.begin(start, far, optimistic=optimistic)

    def teardown(self) -> None:
        """With a happy end, both say yes at last, if they still can."""
        if hasattr(self, "sessions") and self.happy:
            for role in (*Role, *Role):
                self.get_on(role)
                if self.sides[INITIATOR].optimistic:
                    for size in (5000, 11_345, 11_344):  # with 5020 gone, 11364 may still go: a record and 11344
                        self.send_bytes(INITIATOR, size)
        super().teardown()

    def turn(self, role: Role, pick: int) -> Role:
        """Mostly the side that is asked something, if one is; else this one."""
        asked = [role for role, side in self.sides.items() if side.state in (State.PEER_IDENTIFIED, State.SIGNING)]
        return asked[pick % len(asked)] if asked and pick > 10 else role

    @rule(role=ROLES, pick=PICKS, seen=SEEN, text=TEXTS, optimistic=st.booleans())
    def accept(self, role: Role, pick: int, seen: str | None, text: str | None, optimistic: bool) -> None:
        self.say_yes(self.turn(role, pick), seen, text, optimistic)

    @rule(
        role=ROLES, pick=PICKS, whose=st.sampled_from(["right", "right", "another greeting's", "somebody else's"])
    )
    def sign(self, role: Role, pick: int, whose: str) -> None:
        self.sign_as(self.turn(role, pick), whose)

    @rule(role=ROLES, pick=PICKS, reason=VERDICTS, text=TEXTS, retry=st.sampled_from([None, 0, 70_000]), seen=SEEN)
    def reject(
        self,
        role: Role,
        pick: int,
        reason: VerdictCode | int,
        text: str | None,
        retry: int | None,
        seen: str | None,
    ) -> None:
        self.say_no(self.turn(role, pick), reason, text, retry, seen)

    @rule(role=ROLES, pick=PICKS, code=st.sampled_from(AlertCode), retry=st.sampled_from([None, 0, 7]))
    def refuse(self, role: Role, pick: int, code: AlertCode, retry: int | None) -> None:
        self.give_up(self.turn(role, pick), code, retry if code is AlertCode.BUSY else None)

    @rule(role=ROLES)
    def strike(self, role: Role) -> None:
        """This side's deadline: a responder says so, an initiator goes without a word."""
        side = self.sides[role]
        if side.state is State.OPEN:
            return
        if role is INITIATOR:
            self.cut(role, 4)
        elif side.state is State.PEER_IDENTIFIED:
            self.say_no(role, VerdictCode.POLICY_TIMEOUT, None, None, None)
        else:
            self.give_up(role, AlertCode.TIMEOUT, None)

    @rule(role=ROLES, size=SIZES)
    def send(self, role: Role, size: int) -> None:
        self.send_bytes(role, size)

    @rule(role=ROLES)
    def open(self, role: Role) -> None:
        side, session = self.sides[role].streams, self.sessions[role].streams
        if side is not None and session is not None:
            self.both(partial(side.open, "echo"), partial(session.open, "echo"))


def with_flaw(flaw: str) -> type[Greetings]:
    """The same, between two of whom one brings the wrong thing."""

    class Flawed(Greetings):
        @initialize(start=starts(flaw), far=st.integers(0, 3), optimistic=st.booleans())
        def start(self, start: Start, far: int, optimistic: bool) -> None:
            self.begin(start, far, optimistic=optimistic)

    return Flawed


class OpenSessions(Conversation):
    """Two who have met, and have one byte stream each way: all of section 9."""

    @initialize(start=starts(mux=False), late=st.booleans(), optimistic=st.booleans())
    def start(self, start: Start, late: bool, optimistic: bool) -> None:
        """Where the verdict is late, it is still to be written."""
        self.late = late
        self.begin(start, 3, optimistic=optimistic)
        self.say_yes(RESPONDER, None, None, False)
        if not late:
            self.exchange(RESPONDER)

    @rule(role=ROLES, size=SIZES)
    def send(self, role: Role, size: int) -> None:
        self.send_bytes(role, size)

    def speak(self, role: Role, count: int) -> None:
        for _ in range(count):
            self.send_bytes(role, 10)
            self.ping(role, b"8 bytes!")

    def teardown(self) -> None:
        if hasattr(self, "sessions"):
            self.settle()
            self.part()
        super().teardown()

    @rule(role=ROLES, what=st.sampled_from(["accept", "reject", "refuse", "sign"]))
    def decide_too_late(self, role: Role, what: str) -> None:
        session, before = self.sessions[role], self.sessions[role].state
        if before in (State.OPEN, State.ENDED):
            verbs: dict[str, Callable[[], None]] = {
                "accept": session.accept,
                "reject": session.reject,
                "refuse": partial(session.refuse, AlertCode.BUSY),
                "sign": partial(session.sign, bytes(64)),
            }
            with pytest.raises(LocalProtocolError):
                verbs[what]()


class OpenStreams(Conversation):
    """Two who have met, and have streams: all of section 10 that honest ends come to."""

    @initialize(start=starts(mux=True), late=st.booleans(), optimistic=st.booleans(), streams=st.integers(1, 3))
    def start(self, start: Start, late: bool, optimistic: bool, streams: int) -> None:
        """Some streams are there already: they were opened before the verdict, and are accepted."""
        self.late = late
        self.begin(start, 2, optimistic=optimistic)
        for _ in range(streams):
            self.open_one(INITIATOR, "echo")
        self.get_on(INITIATOR)
        if not late:
            self.get_on(RESPONDER)
            for _ in range(streams):
                self.open_one(RESPONDER, "echo")
            self.settle()
            self.accept_all()
            self.settle()

    def accept_all(self) -> None:
        for role, side in self.sides.items():
            if side.streams is not None:
                for id_ in [id_ for id_, view in side.streams.views.items() if view.state == "asked"]:
                    self.answer_to(role, id_, "accept")

    @rule()
    def settle_all(self) -> None:
        self.settle()

    @rule(
        role=ROLES,
        protocol=st.sampled_from(["p", "echo", "ø" * 64]),
        early=st.sampled_from([0, 0, 10, 140_000]),
        then=st.sampled_from(["", "", "finish", "reset"]),
    )
    def open(self, role: Role, protocol: str, early: int, then: str) -> None:
        """Perhaps with data right behind it, and the end of that."""
        self.open_one(role, protocol)
        side = self.sides[role].streams
        if side is not None and early:
            self.send_on(role, side.latest, early)
            if then:
                self.end_one(role, side.latest, then)

    @rule(role=ROLES, chance=st.integers(0, 9))
    def open_all(self, role: Role, chance: int) -> None:
        """Seldom: as many as there may be, and one more."""
        side = self.sides[role].streams
        if side is not None and not chance:
            for _ in range(model.MOST_STREAMS - side.ours + 1):
                self.open_one(role, "echo")

    def open_one(self, role: Role, protocol: str) -> None:
        side, session = self.sides[role].streams, self.sessions[role].streams
        if side is not None and session is not None:
            assert session.can_open is (side.ours < model.MOST_STREAMS)
            self.both(partial(side.open, protocol), partial(session.open, protocol))

    @rule(role=ROLES, pick=PICKS, answer=st.sampled_from(["accept", "refuse", "unknown"]))
    def answer(self, role: Role, pick: int, answer: str) -> None:
        if id_ := self.which(role, pick, "asked"):
            self.answer_to(role, id_, answer)

    def answer_to(self, role: Role, id_: int, answer: str) -> None:
        side, session = self.sides[role].streams, self.sessions[role].streams
        assert side is not None
        assert session is not None
        text = "nø" if answer == "refuse" else ""
        real = {
            "accept": partial(session.accept, id_),
            "refuse": partial(session.refuse, id_, text),
            "unknown": partial(session.refuse_unknown, id_),
        }
        self.both(partial(side.answer, id_, answer, text), real[answer])

    @rule(role=ROLES, pick=PICKS, size=STREAM_SIZES)
    def send_on_stream(self, role: Role, pick: int, size: int) -> None:
        if id_ := self.which(role, pick):
            self.send_on(role, id_, size)

    def send_on(self, role: Role, id_: int, size: int) -> None:
        side, session = self.sides[role].streams, self.sessions[role].streams
        assert side is not None
        assert session is not None
        data, taken = pattern(self.sent[role, id_], size), [0]

        def foretold() -> int:
            taken[0] = side.send(id_, data)
            return taken[0]

        self.both(foretold, partial(session.send, id_, data))
        self.sent[role, id_] += data[: taken[0]]

    @rule(role=ROLES, pick=PICKS, how=st.sampled_from(["finish", "finish", "reset"]))
    def end_stream(self, role: Role, pick: int, how: str) -> None:
        if id_ := self.which(role, pick):
            self.end_one(role, id_, how)

    def end_one(self, role: Role, id_: int, how: str) -> None:
        side, session = self.sides[role].streams, self.sessions[role].streams
        self.both(partial(getattr(side, how), id_), partial(getattr(session, how), id_))

    @rule(role=ROLES, pick=PICKS, share=st.sampled_from([1, 1, 2]))
    def consume(self, role: Role, pick: int, share: int) -> None:
        side, session = self.sides[role].streams, self.sessions[role].streams
        if side is None or session is None:
            return
        unread = [id_ for id_, view in side.views.items() if view.unread]
        if unread:
            id_ = unread[pick % len(unread)]
            length = -(-side.views[id_].unread // share)
            side.views[id_].unread -= length
            self.both(partial(side.consume, id_, length), partial(session.consume, id_, length))

    @rule(role=ROLES)
    def go_away(self, role: Role) -> None:
        side, session = self.sides[role].streams, self.sessions[role].streams
        if side is not None and session is not None:
            self.both(side.go_away, session.go_away)

    def which(self, role: Role, pick: int, state: str | None = None) -> int:
        """A stream that this side knows, or now and then one that may be over; 0 if there is none."""
        side = self.sides[role].streams
        if side is None:
            return 0
        wanted = {state} if state else {"asked", "awaiting", "open", "refused"}
        ids = [id_ for id_, view in side.views.items() if view.state in wanted]
        if pick > 45 and side.opened:
            return 2 * (pick % side.opened) + (1 if side.parity else 2)
        return ids[pick % len(ids)] if ids else 0

    def abandon_one_and_leave(self) -> None:
        """One stream is refused while data follows it, one reset unanswered, one opened behind a GO AWAY."""
        side, theirs = self.sides[INITIATOR].streams, self.sides[RESPONDER].streams
        self.open_one(INITIATOR, "p")
        self.settle()
        if side is not None and theirs is not None:
            self.answer_to(RESPONDER, side.latest, "refuse")
            self.send_on(INITIATOR, side.latest, 10)
            self.settle()
        self.open_one(INITIATOR, "p")
        self.settle()
        if side is not None:
            self.end_one(INITIATOR, side.latest, "reset")
        self.go_away(RESPONDER)
        self.settle()
        self.open_one(INITIATOR, "p")
        self.settle()
        self.check_all()

    def speak(self, role: Role, count: int) -> None:
        for i in range(count):
            self.open_one(role, "echo")
            self.write(role)
            self.send_on_stream(role, i, 10)

    def on_some(self, do: Callable[[Role, int], None]) -> None:
        for role, side in self.sides.items():
            for pick in range(min(3, len(side.streams.views) if side.streams else 0)):
                do(role, pick)

    def teardown(self) -> None:
        """What is open is accepted, used and finished, where there is still somebody to do it."""
        if hasattr(self, "sessions"):
            self.settle()
            self.accept_all()
            self.settle()
            self.on_some(lambda role, pick: self.send_on_stream(role, pick, 140_000))
            self.settle()
            self.on_some(lambda role, pick: self.consume(role, pick, 1))
            self.settle()
            self.check_all()
            self.on_some(lambda role, pick: self.end_stream(role, pick, "finish"))
            self.settle()
            self.abandon_one_and_leave()
            self.part()
        super().teardown()


class Tampering(Conversation):
    """Somebody on the wire, who changes one frame that is under way, loses, repeats or swaps it."""

    intended: tuple[Role, str, int, int] | None = None

    @initialize(role=ROLES, how=DAMAGES, pick=PICKS, bit=BITS)
    def intend(self, role: Role, how: str, pick: int, bit: int) -> None:
        """If it is not done before the end, it is done at the end."""
        self.intended = role, how, pick, bit

    @rule(role=ROLES, how=DAMAGES, pick=PICKS, bit=BITS)
    def damage(self, role: Role, how: str, pick: int, bit: int) -> None:
        way, wire = self.ways[role], self.wire[role]
        if self.damaged(role) or self.lost[role] or self.sides[role.other].state is State.ENDED:
            return
        self.speak(role, pick % 4)
        self.write(role)
        messages = list(way.messages)
        starts_ = [
            end - message.length - way.arrived
            for end, message in zip(accumulate(message.length for message in messages), messages, strict=True)
        ]
        whole = [i for i, start in enumerate(starts_) if start >= 0]
        if not whole:
            return
        i = whole[pick % len(whole)]
        start, length = starts_[i], messages[i].length
        frame = bytes(wire[start : start + length])
        if how == "flip":
            wire[start + bit // 8 % length] ^= 1 << bit % 8
        elif how == "drop":
            del wire[start : start + length]
        elif how == "repeat":
            wire[start:start] = frame
            i += 1
        elif i + 1 < len(messages):
            end = start + length + messages[i + 1].length
            wire[start:end] = wire[start + length : end] + frame
        else:
            return
        way.messages.clear()
        way.messages += [*messages[:i], Message("damage", length=1 << 60)]

    def teardown(self) -> None:
        if self.intended is not None and hasattr(self, "sessions") and not any(map(self.damaged, Role)):
            self.damage(*self.intended)
        super().teardown()


class TamperedGreetings(Tampering, Greetings):
    """The same while they greet each other."""


class TamperedSessions(Tampering, OpenSessions):
    """The same once they have met."""


class TamperedStreams(Tampering, OpenStreams):
    """The same with streams."""


MACHINES: dict[type[Conversation], tuple[int, int]] = {
    Greetings: (100, 15),
    OpenSessions: (80, 25),
    OpenStreams: (50, 30),
    TamperedGreetings: (100, 12),
    TamperedSessions: (60, 15),
    TamperedStreams: (30, 20),
}
"""How many runs of each, and of how many steps, take a second or so."""


def run(machine: type[Conversation], runs: int, steps: int) -> None:
    chosen = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(machine, settings=chosen)


TIMES = pytest.mark.parametrize("times", [1, pytest.param(15, marks=pytest.mark.slow)])


@TIMES
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_all_that_two_sessions_do_is_foretold(machine: type[Conversation], times: int) -> None:
    runs, steps = MACHINES[machine]
    run(machine, times * runs, steps)


@TIMES
@pytest.mark.parametrize("flaw", FLAWS)
def test_two_who_may_not_meet_are_told_what_is_foretold(flaw: str, times: int) -> None:
    run(with_flaw(flaw), 10 * times, 8)
