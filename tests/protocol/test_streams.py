"""streams.py: each rule of section 10, with the other side by hand, and whole conversations of two ends.

What our streams say is read by `tests/yamux.py`, which knows nothing of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from trishake_protocol import CloseCode, LocalProtocolError, Profile, RemoteProtocolError, Role, State, Wait
from trishake_protocol.events import (
    CloseReceived,
    CreditReceived,
    DataReceived,
    Event,
    GoAwayReceived,
    StreamAccepted,
    StreamEvent,
    StreamFinished,
    StreamOpened,
    StreamRefused,
    StreamReset,
)
from trishake_protocol.limits import MAX_RUN
from trishake_protocol.messages import MuxFrame, RecordType
from trishake_protocol.patterns import CLASSICAL
from trishake_protocol.streams import Streams

from .. import yamux
from ..yamux import ACK, DATA, FIN, GO_AWAY, NONE, PING, RST, SYN, WINDOW, WINDOW_UPDATE, Frame
from .conftest import End, Pair, make_pair

INITIATOR, RESPONDER = Role
FIRST = {INITIATOR: 1, RESPONDER: 2}
"""The id of the first stream that each opens."""

ASK = b"\x04echo"
ACCEPTED, UNKNOWN, REFUSED = b"\x00", b"\x01", b"\x02"


MakeFrame = Callable[..., bytes]


# --- one end, and the other side by hand ----------------------------------------------------------------


def hear(streams: Streams, *frames: bytes) -> list[StreamEvent]:
    """Hand it these bytes; the events that they were."""
    streams.receive_data(b"".join(frames))
    events = []
    while (event := streams.next_event()) is not None:
        events.append(event)
    return events


def said(streams: Streams) -> list[Frame]:
    """What it wants to say now, as the independent reader reads it."""
    return yamux.frames_in(streams.data_to_send())


def breach(streams: Streams, *frames: bytes) -> CloseCode:
    """The code with which it ends the session after these bytes."""
    with pytest.raises(RemoteProtocolError) as caught:
        hear(streams, *frames)
    assert isinstance(caught.value.reason, CloseCode)
    return caught.value.reason


def our_stream(role: Role = INITIATOR) -> tuple[Streams, int]:
    """A stream that we opened, and whose answer has not come."""
    streams = Streams(role)
    id_ = streams.open("echo")
    streams.data_to_send()
    return streams, id_


def our_open_stream(role: Role = INITIATOR) -> tuple[Streams, int]:
    streams, id_ = our_stream(role)
    assert hear(streams, yamux.data(id_, ACCEPTED, ACK)) == [StreamAccepted(id_)]
    return streams, id_


def their_stream(role: Role = RESPONDER) -> tuple[Streams, int]:
    """A stream that the other side opened, and that waits for our answer."""
    streams, id_ = Streams(role), FIRST[role.other]
    assert hear(streams, yamux.data(id_, ASK, SYN)) == [StreamOpened(id_, "echo")]
    return streams, id_


def their_open_stream(role: Role = RESPONDER) -> tuple[Streams, int]:
    streams, id_ = their_stream(role)
    streams.accept(id_)
    streams.data_to_send()
    return streams, id_


def reset_here() -> tuple[Streams, int]:
    """A stream of the other side's, 1000 bytes of whose window were used when we reset it."""
    streams, id_ = their_open_stream()
    hear(streams, yamux.data(id_, bytes(1000 - len(ASK))))
    streams.reset(id_)
    streams.data_to_send()
    return streams, id_


def is_over(streams: Streams, id_: int) -> bool:
    try:
        streams.send(id_, b"")
    except LocalProtocolError as error:
        return "is over" in str(error)
    return False


# --- what is on the wire is yamux -----------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_an_opener_says_syn_and_its_protocol_in_one_frame(role: Role) -> None:
    streams = Streams(role)
    id_ = streams.open("echo")
    assert id_ == FIRST[role]
    assert said(streams) == [Frame(DATA, SYN, id_, 5, ASK)]
    assert said(streams) == []


@pytest.mark.parametrize("role", Role)
def test_ids_have_the_parity_of_their_opener_and_increase(role: Role) -> None:
    streams = Streams(role)
    ids = [streams.open("echo") for _ in range(5)]
    assert ids == [FIRST[role] + 2 * i for i in range(5)]
    assert [frame.stream for frame in said(streams)] == ids


@pytest.mark.parametrize("role", Role)
def test_an_acceptor_says_ack_with_its_answer(role: Role) -> None:
    streams, id_ = their_stream(role)
    streams.accept(id_)
    assert said(streams) == [Frame(DATA, ACK, id_, 1, ACCEPTED)]


def test_a_refusal_says_ack_and_the_answer_and_then_fin() -> None:
    streams, id_ = their_stream()
    streams.refuse(id_, "nø")
    assert said(streams) == [
        Frame(DATA, ACK, id_, 5, REFUSED + b"\x03" + "nø".encode()),
        Frame(WINDOW_UPDATE, FIN, id_, 0),
    ]


def test_an_unknown_protocol_is_answered_by_ack_and_one_byte_and_then_fin() -> None:
    streams, id_ = their_stream()
    streams.refuse_unknown(id_)
    assert said(streams) == [Frame(DATA, ACK, id_, 1, UNKNOWN), Frame(WINDOW_UPDATE, FIN, id_, 0)]


@pytest.mark.parametrize("make", [bytes, memoryview])
def test_data_is_one_frame_without_flags(make: type[bytes] | type[memoryview]) -> None:
    streams, id_ = our_open_stream()
    assert streams.send(id_, make(b"hello")) == 5
    assert said(streams) == [Frame(DATA, NONE, id_, 5, b"hello")]


def test_no_data_is_no_frame() -> None:
    streams, id_ = our_open_stream()
    assert streams.send(id_, b"") == 0
    assert said(streams) == []


def test_fin_and_rst_are_window_updates_without_credit() -> None:
    streams, id_ = our_open_stream()
    streams.finish(id_)
    streams.reset(id_)
    assert said(streams) == [Frame(WINDOW_UPDATE, FIN, id_, 0), Frame(WINDOW_UPDATE, RST, id_, 0)]


def test_go_away_is_said_once() -> None:
    streams = Streams(INITIATOR)
    streams.go_away()
    streams.go_away()
    assert said(streams) == [Frame(GO_AWAY, NONE, 0, 0)]


def test_everything_is_said_in_its_order_and_counted_until_then() -> None:
    streams, id_ = our_open_stream()
    assert streams.unsent == 0
    streams.send(id_, b"one")
    other = streams.open("chat")
    streams.send(id_, b"two")
    streams.finish(id_)
    hear(streams, yamux.ping(7))
    unsent = streams.unsent
    data = streams.data_to_send()
    assert len(data) == unsent == 5 * 12 + 3 + 5 + 3
    assert yamux.frames_in(data) == [
        Frame(DATA, NONE, id_, 3, b"one"),
        Frame(DATA, SYN, other, 5, b"\x04chat"),
        Frame(DATA, NONE, id_, 3, b"two"),
        Frame(WINDOW_UPDATE, FIN, id_, 0),
        Frame(PING, ACK, 0, 7),
    ]
    assert streams.unsent == 0


# --- ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "ids"),
    [
        (RESPONDER, [0]),
        (RESPONDER, [2]),
        (RESPONDER, [1, 1]),
        (RESPONDER, [3, 1]),
        (RESPONDER, [2**32 - 2]),
        (INITIATOR, [0]),
        (INITIATOR, [1]),
        (INITIATOR, [2, 2]),
        (INITIATOR, [4, 2]),
        (INITIATOR, [2**32 - 1]),
    ],
)
@pytest.mark.parametrize("how", [yamux.data, yamux.window_update], ids=["data", "update"])
def test_an_id_that_is_not_theirs_or_does_not_increase_is_a_breach(
    role: Role, ids: list[int], how: MakeFrame
) -> None:
    streams = Streams(role)
    *before, bad = ids
    hear(streams, *(yamux.data(id_, ASK, SYN) for id_ in before))
    assert breach(streams, how(bad, flags=SYN)) is CloseCode.PROTOCOL


@pytest.mark.parametrize("role", Role)
def test_ids_may_be_left_out_up_to_the_last(role: Role) -> None:
    streams, first = Streams(role), FIRST[role.other]
    last = 2**32 - 2 + first % 2
    for id_ in (first, first + 200, last):
        assert hear(streams, yamux.data(id_, ASK, SYN)) == [StreamOpened(id_, "echo")]


@pytest.mark.parametrize("role", Role)
def test_after_the_last_id_no_stream_can_be_opened(role: Role) -> None:
    streams = Streams(role)
    last = 2**32 - 2 + FIRST[role] % 2
    streams._next_id = last  # two thousand million streams later
    assert streams.open("echo") == last
    with pytest.raises(LocalProtocolError, match="open a new connection"):
        streams.open("echo")
    assert [frame.stream for frame in said(streams)] == [last]
    assert len(streams) == 1


NEVER_OPENED = [
    ("data", lambda id_: yamux.data(id_, b"x")),
    ("no-data", lambda id_: yamux.data(id_)),
    ("window-update", lambda id_: yamux.window_update(id_, 1)),
    ("fin", lambda id_: yamux.window_update(id_, 0, FIN)),
    ("rst", lambda id_: yamux.window_update(id_, 0, RST)),
    ("ack", lambda id_: yamux.data(id_, ACCEPTED, ACK)),
]


@pytest.mark.parametrize(("name", "frame"), NEVER_OPENED, ids=[name for name, _ in NEVER_OPENED])
@pytest.mark.parametrize("id_", [0, 3, 4, 5, 6, 2**32 - 2, 2**32 - 1])
@pytest.mark.parametrize("role", Role)
def test_a_frame_for_a_stream_that_was_never_opened_is_a_breach(
    role: Role, id_: int, name: str, frame: Callable[[int], bytes]
) -> None:
    """Each side has opened its first stream, and no other."""
    streams = Streams(role)
    streams.open("echo")
    hear(streams, yamux.data(FIRST[role.other], ASK, SYN))
    assert breach(streams, frame(id_)) is CloseCode.PROTOCOL


@pytest.mark.parametrize("role", Role)
def test_a_frame_without_syn_opens_nothing(role: Role) -> None:
    for id_ in (1, 2):
        assert breach(Streams(role), yamux.data(id_, ASK)) is CloseCode.PROTOCOL


# --- the greeting of a stream ---------------------------------------------------------------------------


def test_an_accepted_stream_carries_data_both_ways() -> None:
    streams, id_ = our_open_stream()
    assert hear(streams, yamux.data(id_, b"hello")) == [DataReceived(b"hello", id_)]
    assert streams.send(id_, b"hi") == 2


def test_data_may_stand_right_behind_the_protocol_and_the_answer() -> None:
    streams = Streams(RESPONDER)
    assert hear(streams, yamux.data(1, ASK + b"early", SYN)) == [
        StreamOpened(1, "echo"),
        DataReceived(b"early", 1),
    ]
    opener, id_ = our_stream()
    assert opener.send(id_, b"early") == 5
    assert said(opener) == [Frame(DATA, NONE, id_, 5, b"early")]
    assert hear(opener, yamux.data(id_, ACCEPTED + b"late", ACK)) == [
        StreamAccepted(id_),
        DataReceived(b"late", id_),
    ]


def test_a_stream_may_be_opened_without_a_body_and_named_later() -> None:
    """As hashicorp's own does it: SYN on a window update, which may bring credit as well."""
    streams = Streams(RESPONDER)
    events = hear(streams, yamux.window_update(1, 1000, SYN), yamux.data(3, b"", SYN))
    assert [event for event in events if not isinstance(event, CreditReceived)] == []
    assert hear(streams, yamux.data(1, ASK), yamux.data(3, ASK)) == [
        StreamOpened(1, "echo"),
        StreamOpened(3, "echo"),
    ]
    streams.accept(1)
    assert streams.send(1, bytes(2 * WINDOW)) == WINDOW + 1000 - 1


@pytest.mark.parametrize("protocol", ["p", "ø" * 64, "p" * 128])
def test_a_protocol_id_has_1_to_128_bytes(protocol: str) -> None:
    streams, opener = Streams(RESPONDER), Streams(INITIATOR)
    opener.open(protocol)
    assert hear(streams, opener.data_to_send()) == [StreamOpened(1, protocol)]


@pytest.mark.parametrize("protocol", ["", "p" * 129, "ø" * 65])
def test_a_protocol_id_out_of_bounds_is_not_sent(protocol: str) -> None:
    streams = Streams(INITIATOR)
    with pytest.raises(ValueError, match="1 to 128 bytes"):
        streams.open(protocol)
    assert len(streams) == 0
    assert said(streams) == []
    assert streams.open("echo") == 1


@pytest.mark.parametrize(
    "greeting", [b"\x00", b"\x81", b"\x81" + b"p" * 129, b"\xff", b"\x01\xff", b"\x03\xed\xa0\x80"], ids=bytes.hex
)
def test_a_protocol_id_out_of_bounds_is_reset_and_the_others_go_on(greeting: bytes) -> None:
    streams, id_ = their_open_stream()
    assert hear(streams, yamux.data(3, greeting + b"more", SYN)) == []
    assert said(streams) == [Frame(WINDOW_UPDATE, RST, 3, 0)]
    assert hear(streams, yamux.data(3, b"dropped"), yamux.data(id_, b"x")) == [DataReceived(b"x", id_)]
    assert len(streams) == 1


def test_a_refused_opener_is_told_why_and_finishes() -> None:
    streams, id_ = our_stream()
    text = "nø, today not".encode()
    answer = REFUSED + bytes([len(text)]) + text
    assert hear(streams, yamux.data(id_, answer, ACK)) == [StreamRefused(id_, False, "nø, today not")]
    assert said(streams) == [Frame(WINDOW_UPDATE, FIN, id_, 0)]
    assert hear(streams, yamux.window_update(id_, 0, FIN)) == []
    assert is_over(streams, id_)


def test_an_opener_whose_protocol_is_unknown_is_told_so() -> None:
    streams, id_ = our_stream()
    assert hear(streams, yamux.data(id_, UNKNOWN, ACK | FIN)) == [StreamRefused(id_, True)]
    assert said(streams) == [Frame(WINDOW_UPDATE, FIN, id_, 0)]
    assert is_over(streams, id_)


def test_a_refused_opener_that_had_finished_does_not_finish_again() -> None:
    streams, id_ = our_stream()
    streams.finish(id_)
    streams.data_to_send()
    assert hear(streams, yamux.data(id_, UNKNOWN, ACK)) == [StreamRefused(id_, True)]
    assert said(streams) == []
    hear(streams, yamux.window_update(id_, 0, FIN))
    assert is_over(streams, id_)


def test_a_refused_opener_sends_nothing_more() -> None:
    streams, id_ = our_stream()
    hear(streams, yamux.data(id_, UNKNOWN, ACK))
    for verb in (lambda: streams.send(id_, b"x"), lambda: streams.finish(id_)):
        with pytest.raises(LocalProtocolError, match="our half is finished"):
            verb()


def test_what_stands_behind_a_refusal_is_discarded_and_not_kept() -> None:
    streams, id_ = our_stream()
    hear(streams, yamux.data(id_, UNKNOWN + bytes(1000), ACK), yamux.data(id_, bytes(1000)))
    assert held(streams)["greeting"] == 0


def test_a_text_has_at_most_255_bytes() -> None:
    streams, id_ = their_stream()
    with pytest.raises(ValueError, match="the limit is 255"):
        streams.refuse(id_, "ø" * 128)
    assert said(streams) == []
    streams.refuse(id_, "t" * 255)
    assert said(streams)[0].body == REFUSED + b"\xff" + b"t" * 255


def test_a_text_that_is_no_utf8_is_shown_as_well_as_it_can_be() -> None:
    streams, id_ = our_stream()
    assert hear(streams, yamux.data(id_, REFUSED + b"\x02\xffa", ACK)) == [StreamRefused(id_, False, "�a")]


@pytest.mark.parametrize("answer", [3, 4, 0x7F, 0xFF])
def test_an_unknown_answer_is_a_breach(answer: int) -> None:
    streams, id_ = our_stream()
    assert breach(streams, yamux.data(id_, bytes([answer]), ACK)) is CloseCode.PROTOCOL


@pytest.mark.parametrize("how", ["in its frame", "in a frame of its own"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ACCEPTED, [StreamAccepted(1), StreamReset(1, False)]),
        (UNKNOWN, [StreamRefused(1, True)]),
        (REFUSED + b"\x02no", [StreamRefused(1, False, "no")]),
        (REFUSED + b"\x02n", [StreamReset(1, False)]),
    ],
    ids=["accepted", "unknown", "refused", "incomplete"],
)
def test_an_answer_is_honoured_before_the_reset_that_follows(
    how: str, answer: bytes, told: list[StreamEvent]
) -> None:
    """And a refused stream was over already: of its reset nobody needs to hear."""
    streams, id_ = our_stream()
    frames = (
        [yamux.data(id_, answer, ACK | RST)]
        if how == "in its frame"
        else [yamux.data(id_, answer, ACK), yamux.window_update(id_, 0, RST)]
    )
    assert hear(streams, *frames) == told
    assert is_over(streams, id_)


@pytest.mark.parametrize("sent", [b"", b"\x04", b"\x04ech"], ids=bytes.hex)
def test_an_opener_that_finishes_within_its_greeting_has_opened_nothing(sent: bytes) -> None:
    streams = Streams(RESPONDER)
    assert hear(streams, yamux.data(1, sent, SYN | FIN)) == [StreamReset(1, True)]
    assert said(streams) == [Frame(WINDOW_UPDATE, RST, 1, 0)]
    assert len(streams) == 0


@pytest.mark.parametrize("sent", [b"", REFUSED, REFUSED + b"\x04no"], ids=bytes.hex)
def test_an_acceptor_that_finishes_within_its_answer_has_not_answered(sent: bytes) -> None:
    streams, id_ = our_stream()
    assert hear(streams, yamux.data(id_, sent, ACK | FIN)) == [StreamReset(id_, False)]
    assert said(streams) == [Frame(WINDOW_UPDATE, RST, id_, 0)]
    assert len(streams) == 0


def test_an_opener_that_has_finished_and_is_not_answered_hears_of_a_reset() -> None:
    streams, id_ = our_stream()
    streams.finish(id_)
    streams.data_to_send()
    assert hear(streams, yamux.window_update(id_, 0, FIN)) == [StreamReset(id_, False)]
    assert said(streams) == [Frame(WINDOW_UPDATE, RST, id_, 0)]
    assert len(streams) == 0


def test_an_opener_may_finish_before_it_is_answered() -> None:
    streams = Streams(RESPONDER)
    assert hear(streams, yamux.data(1, ASK + b"all", SYN | FIN)) == [
        StreamOpened(1, "echo"),
        DataReceived(b"all", 1),
        StreamFinished(1),
    ]
    streams.accept(1)
    assert streams.send(1, b"answer") == 6
    streams.finish(1)
    assert len(streams) == 0


def test_a_refusal_of_an_opener_that_has_finished_ends_the_stream() -> None:
    streams = Streams(RESPONDER)
    hear(streams, yamux.data(1, ASK, SYN | FIN))
    streams.refuse(1)
    assert len(streams) == 0


def test_what_a_refused_opener_still_sends_is_discarded_until_it_finishes() -> None:
    streams, id_ = their_stream()
    streams.refuse(id_)
    assert hear(streams, yamux.data(id_, b"early"), yamux.data(id_, b"more", FIN)) == []
    assert is_over(streams, id_)


def test_a_refused_opener_gets_no_credit_for_what_is_discarded() -> None:
    streams, id_ = their_stream()
    streams.refuse(id_)
    streams.data_to_send()
    hear(streams, yamux.data(id_, bytes(WINDOW - len(ASK))))
    assert said(streams) == []
    assert breach(streams, yamux.header(DATA, NONE, id_, 1)) is CloseCode.FLOW_CONTROL


def test_a_stream_that_we_refused_tells_nothing_more() -> None:
    """Neither credit nor a reset: for the application it is over."""
    streams, id_ = their_stream()
    streams.refuse(id_)
    assert hear(streams, yamux.window_update(id_, 1), yamux.window_update(id_, 0, RST)) == []
    assert is_over(streams, id_)


ANSWERS = {
    "accept": lambda streams, id_: streams.accept(id_),
    "refuse": lambda streams, id_: streams.refuse(id_, "no"),
    "refuse_unknown": lambda streams, id_: streams.refuse_unknown(id_),
}


@pytest.mark.parametrize("verb", ANSWERS)
@pytest.mark.parametrize("before", ANSWERS)
def test_a_stream_is_answered_once(before: str, verb: str) -> None:
    streams, id_ = their_stream()
    ANSWERS[before](streams, id_)
    streams.data_to_send()
    with pytest.raises(LocalProtocolError, match=f"cannot (accept|refuse) stream {id_}"):
        ANSWERS[verb](streams, id_)
    assert said(streams) == []


@pytest.mark.parametrize("verb", ANSWERS)
def test_only_a_stream_that_asks_can_be_answered(verb: str) -> None:
    for streams, id_ in (our_stream(), our_open_stream()):
        with pytest.raises(LocalProtocolError, match=f"cannot (accept|refuse) stream {id_}"):
            ANSWERS[verb](streams, id_)
    streams = Streams(RESPONDER)
    hear(streams, yamux.data(1, b"\x04ec", SYN))
    with pytest.raises(LocalProtocolError, match="not greeted yet"):
        ANSWERS[verb](streams, 1)
    with pytest.raises(LocalProtocolError, match="never opened"):
        ANSWERS[verb](streams, 3)
    assert said(streams) == []


@pytest.mark.parametrize("greeting", [b"\x04ec", ASK], ids=["not-greeted", "asked"])
def test_nothing_is_sent_on_a_stream_before_it_is_answered(greeting: bytes) -> None:
    """The opener would take the first byte for the answer, or FIN for the lack of one."""
    streams = Streams(RESPONDER)
    hear(streams, yamux.data(1, greeting, SYN))
    for verb in (lambda: streams.send(1, b"x"), lambda: streams.finish(1)):
        with pytest.raises(LocalProtocolError, match="stream 1"):
            verb()
    assert said(streams) == []


# --- windows --------------------------------------------------------------------------------------------


def test_a_new_stream_may_be_sent_256_kib_its_greeting_counted() -> None:
    streams, id_ = our_open_stream()
    assert streams.send(id_, bytes(WINDOW)) == WINDOW - len(ASK)
    assert streams.send(id_, b"x") == 0
    assert sum(len(frame.body) for frame in said(streams)) == WINDOW - len(ASK)

    streams, id_ = their_open_stream()
    assert streams.send(id_, bytes(WINDOW)) == WINDOW - len(ACCEPTED)


def test_credit_lets_more_be_sent_and_says_so() -> None:
    streams, id_ = our_open_stream()
    streams.send(id_, bytes(WINDOW))
    assert hear(streams, yamux.window_update(id_, 3)) == [CreditReceived(id_)]
    assert streams.send(id_, b"12345") == 3
    assert said(streams)[-1] == Frame(DATA, NONE, id_, 3, b"123")
    assert hear(streams, yamux.window_update(id_, 0)) == []


def test_what_can_be_sent_can_be_asked_before() -> None:
    streams, id_ = our_open_stream()
    assert streams.credit(id_) == WINDOW - len(ASK)
    streams.send(id_, bytes(1000))
    hear(streams, yamux.window_update(id_, 10))
    assert streams.credit(id_) == WINDOW - len(ASK) - 990
    assert streams.send(id_, bytes(WINDOW)) == WINDOW - len(ASK) - 990
    assert streams.credit(id_) == 0


def test_there_is_no_credit_where_nothing_can_be_sent_any_more() -> None:
    streams, id_ = our_open_stream()
    streams.finish(id_)
    assert streams.credit(id_) == 0
    streams.reset(id_)
    assert streams.credit(id_) == streams.credit(99) == 0


def test_credit_before_the_protocol_counts_and_is_not_told() -> None:
    """Nobody has heard of that stream yet."""
    streams = Streams(RESPONDER)
    assert hear(streams, yamux.window_update(1, 10, SYN), yamux.window_update(1, 10)) == []
    hear(streams, yamux.data(1, ASK))
    streams.accept(1)
    assert streams.send(1, bytes(2 * WINDOW)) == WINDOW + 20 - 1


def test_credit_for_a_half_that_we_have_finished_is_not_told() -> None:
    streams, id_ = our_open_stream()
    streams.finish(id_)
    assert hear(streams, yamux.window_update(id_, 10)) == []


def test_the_window_may_be_filled_to_its_last_byte() -> None:
    streams, id_ = their_open_stream()
    left = WINDOW - len(ASK)
    assert hear(streams, yamux.data(id_, bytes(left))) == [DataReceived(bytes(left), id_)]
    assert breach(streams, yamux.header(DATA, NONE, id_, 1)) is CloseCode.FLOW_CONTROL


@pytest.mark.parametrize("length", [WINDOW - len(ASK) + 1, 2**31, 2**32 - 1])
def test_a_header_alone_is_judged_by_its_window(length: int) -> None:
    """Before a byte of its body is there, let alone stored."""
    streams, id_ = their_open_stream()
    assert breach(streams, yamux.header(DATA, NONE, id_, length)) is CloseCode.FLOW_CONTROL


def test_the_first_frame_of_a_stream_is_judged_by_the_window_too() -> None:
    assert breach(Streams(RESPONDER), yamux.header(DATA, SYN, 1, WINDOW + 1)) is CloseCode.FLOW_CONTROL
    assert hear(Streams(RESPONDER), yamux.header(DATA, SYN, 1, WINDOW)) == []


def test_a_window_counts_all_frames_of_its_stream_and_of_no_other() -> None:
    streams, id_ = their_open_stream()
    hear(streams, yamux.data(id_, bytes(WINDOW - len(ASK) - 10)))
    hear(streams, yamux.data(3, ASK + bytes(WINDOW - len(ASK)), SYN))
    assert len(hear(streams, yamux.data(id_, bytes(10)))) == 1
    assert breach(streams, yamux.header(DATA, NONE, id_, 1)) is CloseCode.FLOW_CONTROL


def test_credit_is_given_when_the_application_has_consumed_and_not_before() -> None:
    streams, id_ = their_open_stream()
    hear(streams, yamux.data(id_, bytes(WINDOW - len(ASK))))
    assert said(streams) == []
    streams.consume(id_, WINDOW - len(ASK))
    assert said(streams) == [Frame(WINDOW_UPDATE, NONE, id_, WINDOW)]


def test_credit_is_worth_a_frame_from_half_a_window_on() -> None:
    """The protocol id is consumed as soon as it is read."""
    streams, id_ = their_open_stream()
    hear(streams, yamux.data(id_, bytes(WINDOW - len(ASK))))
    streams.consume(id_, WINDOW // 2 - len(ASK) - 1)
    assert said(streams) == []
    streams.consume(id_, 1)
    assert said(streams) == [Frame(WINDOW_UPDATE, NONE, id_, WINDOW // 2)]
    streams.consume(id_, WINDOW // 2 - 1)
    assert said(streams) == []
    streams.consume(id_, 1)
    assert said(streams) == [Frame(WINDOW_UPDATE, NONE, id_, WINDOW // 2)]


def test_the_answer_is_consumed_as_soon_as_it_is_read() -> None:
    streams, id_ = our_open_stream()
    hear(streams, yamux.data(id_, bytes(WINDOW - 1)))
    streams.consume(id_, WINDOW // 2 - 1)
    assert said(streams) == [Frame(WINDOW_UPDATE, NONE, id_, WINDOW // 2)]


def test_what_credit_was_given_for_may_be_sent() -> None:
    streams, id_ = their_open_stream()
    hear(streams, yamux.data(id_, bytes(WINDOW - len(ASK))))
    streams.consume(id_, WINDOW // 2)
    (update,) = said(streams)
    assert update.length == WINDOW // 2  # and what was consumed beyond comes with the next
    assert len(hear(streams, yamux.data(id_, bytes(update.length)))) == 1
    assert breach(streams, yamux.header(DATA, NONE, id_, 1)) is CloseCode.FLOW_CONTROL


def test_a_side_that_has_finished_gets_no_more_credit() -> None:
    streams, id_ = their_open_stream()
    hear(streams, yamux.data(id_, bytes(WINDOW - len(ASK)), FIN))
    streams.consume(id_, WINDOW - len(ASK))
    assert said(streams) == []


def test_a_window_may_grow_to_2_31_minus_1_and_no_further() -> None:
    streams, id_ = our_open_stream()
    left = 2**31 - 1 - (WINDOW - len(ASK))
    assert hear(streams, yamux.window_update(id_, left)) == [CreditReceived(id_)]
    assert breach(streams, yamux.window_update(id_, 1)) is CloseCode.FLOW_CONTROL


@pytest.mark.parametrize("credit", [2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("flags", [NONE, FIN, RST])
def test_credit_that_overflows_a_window_at_once_is_a_breach(credit: int, flags: int) -> None:
    streams, id_ = our_open_stream()
    assert breach(streams, yamux.window_update(id_, credit, flags)) is CloseCode.FLOW_CONTROL


def test_credit_that_overflows_the_window_of_a_new_stream_is_a_breach() -> None:
    frame = yamux.window_update(1, 2**31 - WINDOW, SYN)
    assert breach(Streams(RESPONDER), frame) is CloseCode.FLOW_CONTROL


# --- the end of a stream --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [yamux.data, yamux.window_update], ids=["data", "update"])
def test_fin_may_come_with_either_frame(how: MakeFrame) -> None:
    streams, id_ = their_open_stream()
    assert hear(streams, how(id_, flags=FIN)) == [StreamFinished(id_)]
    assert streams.send(id_, b"still") == 5


def test_fin_with_data_comes_behind_it_and_with_credit_too() -> None:
    streams, id_ = their_open_stream()
    assert hear(streams, yamux.data(id_, b"last", FIN)) == [DataReceived(b"last", id_), StreamFinished(id_)]
    streams, id_ = their_open_stream()
    assert hear(streams, yamux.window_update(id_, 9, FIN)) == [CreditReceived(id_), StreamFinished(id_)]


BEHIND_FIN = [
    ("data", yamux.data(1, b"x")),
    ("data-with-fin", yamux.data(1, b"x", FIN)),
    ("header", yamux.header(DATA, NONE, 1, 1)),
    ("no-data", yamux.data(1)),
    ("fin", yamux.window_update(1, 0, FIN)),
]


@pytest.mark.parametrize(("name", "frame"), BEHIND_FIN, ids=[name for name, _ in BEHIND_FIN])
@pytest.mark.parametrize("answer", [None, *ANSWERS])
def test_data_behind_fin_is_a_breach(name: str, frame: bytes, answer: str | None) -> None:
    """Whether the stream was answered before or not; where the refusal has ended it, FIN is only late."""
    streams, id_ = their_stream()
    hear(streams, yamux.window_update(id_, 0, FIN))
    if answer is not None:
        ANSWERS[answer](streams, id_)
    if name == "fin" and is_over(streams, id_):
        assert hear(streams, frame) == []
    else:
        assert breach(streams, frame) is CloseCode.PROTOCOL


def test_credit_behind_fin_is_none() -> None:
    streams, id_ = their_open_stream()
    hear(streams, yamux.window_update(id_, 0, FIN))
    assert hear(streams, yamux.window_update(id_, 5)) == [CreditReceived(id_)]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_stream_whose_halves_are_finished_is_over(first: str) -> None:
    streams, id_ = their_open_stream()
    if first == "ours":
        streams.finish(id_)
    assert len(streams) == 1
    assert hear(streams, yamux.window_update(id_, 0, FIN)) == [StreamFinished(id_)]
    if first == "theirs":
        assert len(streams) == 1
        streams.finish(id_)
    assert len(streams) == 0
    assert is_over(streams, id_)


def test_a_stream_is_there_until_it_is_over() -> None:
    streams, id_ = their_open_stream()
    assert id_ in streams
    streams.finish(id_)
    assert id_ in streams
    hear(streams, yamux.window_update(id_, 0, FIN))
    assert id_ not in streams
    assert id_ + 2 not in streams


def test_our_half_is_finished_once() -> None:
    streams, id_ = our_open_stream()
    streams.finish(id_)
    for verb in (lambda: streams.finish(id_), lambda: streams.send(id_, b"x"), lambda: streams.send(id_, b"")):
        with pytest.raises(LocalProtocolError, match="our half is finished"):
            verb()
    assert said(streams) == [Frame(WINDOW_UPDATE, FIN, id_, 0)]
    assert hear(streams, yamux.data(id_, b"still")) == [DataReceived(b"still", id_)]


def ended_by_fin() -> tuple[Streams, int]:
    streams, id_ = their_open_stream()
    streams.finish(id_)
    hear(streams, yamux.window_update(id_, 0, FIN))
    return streams, id_


def ended_by_their_reset() -> tuple[Streams, int]:
    streams, id_ = their_open_stream()
    hear(streams, yamux.window_update(id_, 0, RST))
    return streams, id_


ENDED = {"by-fin": ended_by_fin, "by-their-reset": ended_by_their_reset, "by-our-reset": reset_here}


@pytest.mark.parametrize("how", ENDED)
def test_a_verb_for_a_stream_that_is_over_sends_nothing(how: str) -> None:
    streams, id_ = ENDED[how]()
    streams.data_to_send()
    streams.consume(id_, WINDOW)
    streams.reset(id_)
    for verb in (
        lambda: streams.send(id_, b"x"),
        lambda: streams.finish(id_),
        lambda: streams.accept(id_),
        lambda: streams.refuse(id_),
        lambda: streams.refuse_unknown(id_),
    ):
        with pytest.raises(LocalProtocolError, match=f"stream {id_} is over, or was never opened"):
            verb()
    assert said(streams) == []


@pytest.mark.parametrize("how", ENDED)
@pytest.mark.parametrize("credit", [0, 1, 2**31, 2**32 - 1])
def test_credit_that_comes_late_is_ignored(how: str, credit: int) -> None:
    streams, id_ = ENDED[how]()
    assert hear(streams, yamux.window_update(id_, credit)) == []


@pytest.mark.parametrize("how", ENDED)
@pytest.mark.parametrize("flags", [FIN, RST, FIN | RST])
def test_an_end_that_comes_late_is_ignored(how: str, flags: int) -> None:
    streams, id_ = ENDED[how]()
    assert hear(streams, yamux.window_update(id_, 0, flags)) == []
    assert len(streams) == 0


@pytest.mark.parametrize("how", ["by-fin", "by-their-reset"])
@pytest.mark.parametrize("length", [0, 1, WINDOW + 1])
def test_data_behind_the_end_that_the_other_side_gave_is_a_breach(how: str, length: int) -> None:
    streams, id_ = ENDED[how]()
    assert breach(streams, yamux.header(DATA, NONE, id_, length)) is CloseCode.PROTOCOL


# --- resets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "abandoned"),
    [
        (our_stream, False),
        (our_open_stream, False),
        (their_stream, True),
        (their_open_stream, False),
    ],
)
@pytest.mark.parametrize("how", [yamux.data, yamux.window_update], ids=["data", "update"])
def test_a_reset_is_told_and_whether_its_opener_gave_up(
    make: Callable[[], tuple[Streams, int]], abandoned: bool, how: MakeFrame
) -> None:
    streams, id_ = make()
    assert hear(streams, how(id_, flags=RST)) == [StreamReset(id_, abandoned)]
    assert said(streams) == []
    assert len(streams) == 0
    assert streams.can_open


def test_a_stream_that_is_reset_before_its_protocol_is_there_was_abandoned() -> None:
    streams = Streams(RESPONDER)
    assert hear(streams, yamux.data(1, b"\x04ec", SYN), yamux.window_update(1, 0, RST)) == [StreamReset(1, True)]
    assert hear(streams, yamux.data(3, b"", SYN | RST)) == [StreamReset(3, True)]


def test_a_stream_that_is_opened_and_reset_in_one_frame_is_never_shown() -> None:
    """Whoever was told of it, and answered, would be told that there is no such stream."""
    streams = Streams(RESPONDER)
    assert hear(streams, yamux.data(1, b"\x04echo", SYN | RST)) == [StreamReset(1, True)]
    assert hear(streams, yamux.data(3, b"\x04ec", SYN), yamux.data(3, b"ho", RST)) == [StreamReset(3, True)]
    assert len(streams) == 0


def test_a_reset_overrules_fin() -> None:
    streams, id_ = their_open_stream()
    assert hear(streams, yamux.window_update(id_, 0, FIN | RST)) == [StreamReset(id_, False)]


def test_a_reset_behind_fin_is_told() -> None:
    streams, id_ = their_open_stream()
    frames = yamux.window_update(id_, 0, FIN), yamux.window_update(id_, 0, RST)
    assert hear(streams, *frames) == [StreamFinished(id_), StreamReset(id_, False)]


def test_data_for_a_stream_that_was_reset_here_is_dropped_and_the_others_go_on() -> None:
    streams, id_ = reset_here()
    assert hear(streams, yamux.data(id_, bytes(100)), yamux.data(3, ASK, SYN)) == [StreamOpened(3, "echo")]


def test_data_for_a_stream_that_was_reset_here_counts_against_its_window() -> None:
    streams, id_ = reset_here()
    left = WINDOW - 1000
    assert hear(streams, yamux.data(id_, bytes(left - 1)), yamux.data(id_, b"x")) == []
    assert breach(streams, yamux.header(DATA, NONE, id_, 1)) is CloseCode.FLOW_CONTROL


@pytest.mark.parametrize("flags", [NONE, RST])
def test_data_beyond_the_window_of_a_stream_that_was_reset_here_is_a_breach(flags: int) -> None:
    streams, id_ = reset_here()
    assert breach(streams, yamux.header(DATA, flags, id_, WINDOW - 1000 + 1)) is CloseCode.FLOW_CONTROL


def test_after_two_resets_that_crossed_nothing_more_is_expected() -> None:
    streams, id_ = reset_here()
    assert hear(streams, yamux.window_update(id_, 0, RST)) == []
    assert breach(streams, yamux.data(id_, b"x")) is CloseCode.PROTOCOL


def test_a_reset_in_the_middle_of_a_frame_drops_the_rest_of_it() -> None:
    streams, id_ = their_open_stream()
    frame = yamux.data(id_, b"0123456789", FIN)
    assert hear(streams, frame[:-4]) == [DataReceived(b"012345", id_)]
    streams.reset(id_)
    assert hear(streams, frame[-4:], yamux.data(3, ASK, SYN)) == [StreamOpened(3, "echo")]
    left = WINDOW - len(ASK) - 10
    assert breach(streams, yamux.header(DATA, NONE, id_, left + 1)) is CloseCode.FLOW_CONTROL


def test_our_own_stream_that_we_reset_is_not_answered_any_more() -> None:
    streams, id_ = our_stream()
    streams.reset(id_)
    assert said(streams) == [Frame(WINDOW_UPDATE, RST, id_, 0)]
    assert hear(streams, yamux.data(id_, ACCEPTED + b"hello", ACK), yamux.window_update(id_, 0, FIN)) == []


def test_of_more_than_1024_resets_the_oldest_is_no_longer_counted_and_still_no_breach() -> None:
    """Whoever gives up a thousand streams within one round trip has not been wronged by the answers."""
    streams = Streams(INITIATOR)
    ids = []
    for _ in range(1025):
        ids.append(streams.open("echo"))
        streams.reset(ids[-1])
        streams.data_to_send()
    assert hear(streams, *(yamux.data(id_, b"x") for id_ in ids[1:])) == []
    whole = yamux.data(ids[0], bytes(256 * 1024))
    assert hear(streams, whole, whole) == []
    assert hear(streams, yamux.data(ids[1], bytes(256 * 1024 - 1))) == []
    assert breach(streams, yamux.data(ids[1], b"x")) is CloseCode.FLOW_CONTROL


# --- how many -------------------------------------------------------------------------------------------


def opened_by_them(count: int) -> tuple[Streams, list[int]]:
    streams, ids = Streams(RESPONDER), [1 + 2 * i for i in range(count)]
    events = hear(streams, *(yamux.data(id_, ASK, SYN) for id_ in ids))
    assert events == [StreamOpened(id_, "echo") for id_ in ids]
    return streams, ids


@pytest.mark.parametrize("answered", [False, True])
def test_a_257th_stream_is_reset_while_the_others_go_on(answered: bool) -> None:
    streams, ids = opened_by_them(256)
    for id_ in ids if answered else []:
        streams.accept(id_)
    streams.data_to_send()
    more = ids[-1] + 2
    assert hear(streams, yamux.data(more, ASK + b"early", SYN), yamux.data(more, b"late")) == []
    assert said(streams) == [Frame(WINDOW_UPDATE, RST, more, 0)]
    assert hear(streams, *(yamux.data(id_, b"x") for id_ in ids)) == [DataReceived(b"x", id_) for id_ in ids]


def test_the_data_of_a_257th_stream_counts_against_its_window() -> None:
    streams, ids = opened_by_them(256)
    more = ids[-1] + 2
    hear(streams, yamux.data(more, ASK, SYN), yamux.data(more, bytes(WINDOW - len(ASK))))
    assert breach(streams, yamux.header(DATA, NONE, more, 1)) is CloseCode.FLOW_CONTROL


def test_the_first_frame_of_a_257th_stream_counts_too() -> None:
    streams, ids = opened_by_them(256)
    assert breach(streams, yamux.header(DATA, SYN, ids[-1] + 2, WINDOW + 1)) is CloseCode.FLOW_CONTROL


def test_a_257th_stream_may_come_with_credit_or_its_own_end() -> None:
    streams, ids = opened_by_them(256)
    more = ids[-1] + 2
    frames = [
        yamux.window_update(more, 2**32 - 1, SYN),
        yamux.window_update(more + 2, 0, SYN | FIN),
        yamux.window_update(more + 4, 0, SYN | RST),
    ]
    assert hear(streams, *frames) == []
    assert [(frame.flags, frame.stream) for frame in said(streams)] == [(RST, more + 2 * i) for i in range(3)]


def test_there_is_room_again_when_a_stream_is_over() -> None:
    streams, ids = opened_by_them(256)
    hear(streams, yamux.window_update(ids[7], 0, RST))
    more = ids[-1] + 2
    assert hear(streams, yamux.data(more, ASK, SYN)) == [StreamOpened(more, "echo")]
    assert hear(streams, yamux.data(more + 2, ASK, SYN)) == []


def test_our_streams_leave_room_for_theirs() -> None:
    streams = Streams(RESPONDER)
    for _ in range(256):
        streams.open("echo")
    events = hear(streams, *(yamux.data(1 + 2 * i, ASK, SYN) for i in range(257)))
    assert len(events) == 256
    assert len(streams) == 512


@pytest.mark.parametrize("role", Role)
def test_we_open_256_streams_and_no_more_until_one_is_over(role: Role) -> None:
    streams = Streams(role)
    hear(streams, yamux.data(FIRST[role.other], ASK, SYN))
    ids = []
    for _ in range(256):
        assert streams.can_open
        ids.append(streams.open("echo"))
    assert not streams.can_open
    streams.data_to_send()
    with pytest.raises(LocalProtocolError, match="256 streams of ours are open"):
        streams.open("echo")
    assert said(streams) == []
    streams.reset(FIRST[role.other])
    assert not streams.can_open
    streams.reset(ids[3])
    assert streams.can_open
    assert streams.open("echo") == ids[-1] + 2


def test_a_flood_of_opens_by_a_side_that_does_not_read_is_a_breach() -> None:
    """Each costs us a reset: 1024 may be unsent."""
    streams, ids = opened_by_them(256)
    flood = [yamux.data(ids[-1] + 2 * i, ASK, SYN) for i in range(1, 1026)]
    assert hear(streams, *flood[:-1]) == []
    assert breach(streams, flood[-1]) is CloseCode.PROTOCOL


@pytest.mark.parametrize(
    "frame",
    [lambda id_: yamux.data(id_, b"\x00", SYN), lambda id_: yamux.data(id_, b"", SYN | FIN)],
    ids=["bad-id", "fin"],
)
def test_a_flood_of_greetings_that_are_none_is_a_breach_too(frame: Callable[[int], bytes]) -> None:
    streams = Streams(RESPONDER)
    hear(streams, *(frame(1 + 2 * i) for i in range(1024)))
    assert breach(streams, frame(1 + 2 * 1024)) is CloseCode.PROTOCOL


def test_a_flood_whose_refusals_are_read_is_none() -> None:
    streams, ids = opened_by_them(256)
    for i in range(1, 3000):
        hear(streams, yamux.data(ids[-1] + 2 * i, ASK, SYN))
        assert len(said(streams)) == 1
    assert hear(streams, yamux.data(ids[0], b"x")) == [DataReceived(b"x", ids[0])]


def test_our_own_resets_are_nobody_elses_breach() -> None:
    """Whoever opens and resets without writing has himself to thank; the other side may go on."""
    streams = Streams(RESPONDER)
    for _ in range(1100):
        streams.reset(streams.open("echo"))
    assert hear(streams, yamux.data(1, ASK, SYN)) == [StreamOpened(1, "echo")]
    assert hear(streams, yamux.data(3, b"\x00", SYN)) == []
    assert sum(frame.flags == RST for frame in said(streams)) == 1101


# --- frames that are of no stream -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 2**32 - 1])
def test_a_ping_is_answered_with_its_value(value: int) -> None:
    streams = Streams(INITIATOR)
    assert hear(streams, yamux.ping(value)) == []
    assert streams.unsent == 12
    assert said(streams) == [Frame(PING, ACK, 0, value)]
    assert said(streams) == []


def test_of_many_pings_the_latest_is_answered() -> None:
    streams = Streams(INITIATOR)
    hear(streams, *(yamux.ping(i) for i in range(1000)))
    assert streams.unsent == 12
    assert said(streams) == [Frame(PING, ACK, 0, 999)]


def test_the_answer_to_a_ping_is_not_answered() -> None:
    streams = Streams(INITIATOR)
    assert hear(streams, yamux.ping(1, ACK), yamux.ping(2, NONE)) == []
    assert said(streams) == []


@pytest.mark.parametrize("code", [0, 1, 2, 2**32 - 1])
def test_go_away_is_told_with_its_code(code: int) -> None:
    streams, id_ = our_open_stream()
    assert hear(streams, yamux.go_away(code), yamux.data(id_, b"x")) == [
        GoAwayReceived(code),
        DataReceived(b"x", id_),
    ]


def test_after_our_go_away_no_stream_is_taken_and_the_open_ones_finish() -> None:
    streams, id_ = their_open_stream()
    streams.go_away()
    assert hear(streams, yamux.data(3, ASK, SYN)) == []
    assert said(streams) == [Frame(GO_AWAY, NONE, 0, 0), Frame(WINDOW_UPDATE, RST, 3, 0)]
    assert hear(streams, yamux.data(id_, b"last", FIN)) == [DataReceived(b"last", id_), StreamFinished(id_)]
    assert streams.send(id_, b"answer") == 6
    streams.finish(id_)
    assert len(streams) == 0


@pytest.mark.parametrize("version", [1, 2, 255])
def test_another_version_of_yamux_is_a_breach(version: int) -> None:
    for type_ in range(4):
        frame = yamux.header(type_, NONE, 0, 0, version)
        assert breach(Streams(INITIATOR), frame) is CloseCode.PROTOCOL


@pytest.mark.parametrize("type_", [4, 5, 255])
def test_an_unknown_type_is_a_breach(type_: int) -> None:
    assert breach(Streams(INITIATOR), yamux.header(type_, NONE, 0, 0)) is CloseCode.PROTOCOL


@pytest.mark.parametrize("flags", [0x10, 0x8000, 0xFFF0])
def test_unknown_flags_are_ignored(flags: int) -> None:
    streams, id_ = their_stream()
    streams.accept(id_)
    streams.data_to_send()
    assert hear(
        streams,
        yamux.data(id_, b"x", flags),
        yamux.window_update(id_, 1, flags),
        yamux.data(3, ASK, SYN | flags),
        yamux.ping(1, SYN | flags),
        yamux.header(GO_AWAY, flags, 0, 0),
        yamux.window_update(id_, 0, FIN | flags),
        yamux.window_update(3, 0, RST | flags),
    ) == [
        DataReceived(b"x", id_),
        CreditReceived(id_),
        StreamOpened(3, "echo"),
        GoAwayReceived(0),
        StreamFinished(id_),
        StreamReset(3, True),
    ]
    assert said(streams) == [Frame(PING, ACK, 0, 1)]


@pytest.mark.parametrize("flags", [NONE, ACK, SYN | ACK])
def test_an_ack_that_comes_or_does_not_come_means_nothing(flags: int) -> None:
    """What answers a stream is its greeting."""
    streams, id_ = our_stream()
    if not flags & SYN:
        assert hear(streams, yamux.data(id_, ACCEPTED, flags)) == [StreamAccepted(id_)]
    assert hear(streams, yamux.data(2, ASK, SYN | flags)) == [StreamOpened(2, "echo")]


# --- any segmentation -----------------------------------------------------------------------------------

BODIES = st.sampled_from(
    [
        b"",
        b"x",
        b"hello there",
        ASK,
        ASK + b"early",
        b"\x00",
        b"\x01",
        b"\x02\x02no",
        b"\x02",
        b"\x05ab",
        bytes(300),
    ]
)
FLAGS = st.sampled_from([NONE, NONE, NONE, NONE, FIN, RST, ACK, ACK | FIN, 0x40])
OPENS = st.sampled_from([ASK, ASK, ASK + b"early", b"\x04ec", b"\x00", b"", b"\x01\xff", b"\x81"])
SCRIPTS = st.lists(
    st.one_of(
        st.builds(lambda body, flags: ("open", body, flags), OPENS, FLAGS),
        st.builds(lambda body, flags: ("answer", body, flags | ACK), BODIES, FLAGS),
        st.builds(lambda which, body, flags: ("data", which, body, flags), st.integers(0, 5), BODIES, FLAGS),
        st.builds(
            lambda which, credit, flags: ("credit", which, credit, flags),
            st.integers(0, 5),
            st.sampled_from([0, 1, 5000, 2**31]),
            FLAGS,
        ),
        st.builds(lambda value: ("ping", value), st.integers(0, 9)),
        st.just(("go-away",)),
    ),
    max_size=14,
)


def scripted(script: Sequence[tuple]) -> bytes:
    """The bytes of a responder with whom we have two streams of ours, 1 and 3; it opens 2, 4, 6."""
    frames, opened, answered = [], [], iter((1, 3))
    for name, *args in script:
        match name:
            case "open":
                opened.append(2 + 2 * len(opened))
                frames.append(yamux.data(opened[-1], args[0], SYN | args[1]))
            case "answer":
                if (id_ := next(answered, None)) is not None:
                    frames.append(yamux.data(id_, *args))
            case "data" | "credit":
                known = [1, 3, *opened]
                make = yamux.data if name == "data" else yamux.window_update
                frames.append(make(known[args[0] % len(known)], *args[1:]))
            case "ping":
                frames.append(yamux.ping(*args))
            case "go-away":
                frames.append(yamux.go_away())
    return b"".join(frames)


def merged(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    """Neighbouring parts of the same stream's data as one."""
    result: list[StreamEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, DataReceived) and isinstance(last, DataReceived) and event.stream == last.stream:
            result[-1] = DataReceived(last.data + event.data, event.stream)
        else:
            result.append(event)
    return result


def outcome(wire: bytes, cuts: Sequence[int]) -> tuple[list[StreamEvent], str, list[Frame], dict[str, int]]:
    """Everything that can be seen of an end which is given these bytes, cut like this."""
    streams = Streams(INITIATOR)
    for protocol in ("echo", "chat"):
        streams.open(protocol)
    events: list[StreamEvent] = []
    said_of_breach = ""
    try:
        for start, end in zip((0, *cuts), (*cuts, len(wire)), strict=True):
            streams.receive_data(wire[start:end])
            while (event := streams.next_event()) is not None:
                events.append(event)
    except RemoteProtocolError as error:
        said_of_breach = str(error)
    return merged(events), said_of_breach, said(streams), {} if said_of_breach else held(streams)


@settings(max_examples=150)
@given(script=SCRIPTS, data=st.data())
def test_the_events_are_the_same_however_the_bytes_are_cut(script: list[tuple], data: st.DataObject) -> None:
    wire = scripted(script)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    whole = outcome(wire, [])
    assert outcome(wire, cuts) == whole
    assert outcome(wire, range(1, len(wire))) == whole


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_arbitrary_bytes_are_events_or_a_breach(chunks: list[bytes]) -> None:
    streams, _ = our_stream()
    with suppress(RemoteProtocolError):
        hear(streams, *chunks)


# --- several frames of one stream at once -----------------------------------------------------------------


class OneByOne(Streams):
    """The reference: reads each frame by itself, and thinks nothing of what follows it."""

    def _read_run(self, frame: MuxFrame) -> bytes:
        return b""


def two_open(make: type[Streams] = Streams) -> Streams:
    """Streams 1 and 3 of ours, and 2 of theirs, open all three."""
    streams = make(INITIATOR)
    for _ in range(2):
        streams.open("echo")
    hear(streams, yamux.data(1, ACCEPTED, ACK), yamux.data(3, ACCEPTED, ACK), yamux.data(2, ASK, SYN))
    streams.accept(2)
    streams.data_to_send()
    return streams


Facts = tuple[list[StreamEvent], CloseCode | None, str, list[Frame], dict[int, int], Counter[str]]


def run_outcome(make: type[Streams], wire: bytes, cuts: Sequence[int], consumed: int) -> Facts:
    """All that can be seen of an end that hears this, cut like this. consumed: of each event, at most."""
    streams = two_open(make)
    events: list[StreamEvent] = []
    code, text = None, ""
    try:
        for start, end in zip((0, *cuts), (*cuts, len(wire)), strict=True):
            streams.receive_data(wire[start:end])
            while (event := streams.next_event()) is not None:
                events.append(event)
    except RemoteProtocolError as error:
        code, text = cast("CloseCode", error.reason), str(error)
    for event in merged(events):
        if isinstance(event, DataReceived):
            streams.consume(event.stream, min(consumed, len(event.data)))
    windows = {id_: stream.receive_window for id_, stream in streams._streams.items()}
    kept = Counter[str]() if code else held(streams)
    if kept:
        kept["_inbox"] -= streams._read_to  # what has been read of it goes with the rest
    return merged(events), code, text, said(streams), windows, kept


CRUMBS = st.builds(
    lambda id_, sizes: b"".join(yamux.data(id_, bytes([size % 256]) * size) for size in sizes),
    st.sampled_from([1, 1, 1, 2, 3]),
    st.one_of(
        st.lists(st.sampled_from([1, 1, 2, 3, 100, 0]), max_size=6),
        st.integers(60, 135).map(lambda count: [1 + i % 3 for i in range(count)]),
        st.sampled_from([[WINDOW - 1], [WINDOW], [WINDOW + 1], [WINDOW // 2, WINDOW // 2], [WINDOW // 2] * 3]),
    ),
)
ODD_ONES = st.one_of(
    st.builds(
        yamux.data,
        st.sampled_from([1, 2, 3, 5]),
        st.binary(max_size=3),
        st.sampled_from([FIN, RST, ACK, 0x40, FIN | RST, SYN]),
    ),
    st.builds(
        yamux.window_update, st.sampled_from([1, 3]), st.sampled_from([0, 7]), st.sampled_from([NONE, FIN, RST])
    ),
    st.sampled_from([yamux.ping(3), yamux.go_away(), yamux.data(4, ASK + b"early", SYN)]),
    st.builds(
        lambda id_, length: yamux.header(DATA, NONE, id_, length), st.just(1), st.sampled_from([3, WINDOW + 1])
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(frames=st.lists(st.one_of(CRUMBS, CRUMBS, ODD_ONES), max_size=7), data=st.data())
def test_frames_read_together_are_what_they_are_one_by_one(frames: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    consumed = data.draw(st.sampled_from([0, 1, WINDOW // 2, WINDOW]))
    expected = run_outcome(OneByOne, wire, [], consumed)
    assert run_outcome(Streams, wire, [], consumed) == expected
    assert run_outcome(Streams, wire, cuts, consumed) == expected


@pytest.mark.parametrize("count", [1, 2, MAX_RUN - 1, MAX_RUN, MAX_RUN + 1, 2 * MAX_RUN, 3 * MAX_RUN + 5])
def test_crumbs_of_one_stream_that_came_together_are_one_event_each_64(count: int) -> None:
    streams = two_open()
    crumbs = [bytes([1 + i % 250]) * (1 + i % 3) for i in range(count)]
    events = hear(streams, *(yamux.data(1, crumb) for crumb in crumbs))
    assert events == [
        DataReceived(b"".join(crumbs[start : start + MAX_RUN]), 1) for start in range(0, count, MAX_RUN)
    ]
    assert MAX_RUN == 64


def test_a_run_ends_where_another_stream_or_another_kind_of_frame_stands() -> None:
    streams = two_open()
    one, three = yamux.data(1, b"a"), yamux.data(3, b"b")
    assert hear(streams, one, one, three, three, three, one) == [
        DataReceived(b"aa", 1),
        DataReceived(b"bbb", 3),
        DataReceived(b"a", 1),
    ]
    assert hear(streams, one, yamux.ping(9), one) == [DataReceived(b"a", 1)] * 2
    assert hear(streams, one, yamux.window_update(1, 5), one) == [
        DataReceived(b"a", 1),
        CreditReceived(1),
        DataReceived(b"a", 1),
    ]
    assert hear(streams, one, yamux.data(1, b"", NONE), one, yamux.data(1, b"z", FIN)) == [
        DataReceived(b"a", 1),
        DataReceived(b"a", 1),
        DataReceived(b"z", 1),
        StreamFinished(1),
    ]
    assert said(streams) == [Frame(PING, ACK, 0, 9, b"")]


LEFT = WINDOW - 1
"""Of the window of stream 1: the answer has taken a byte."""


@pytest.mark.parametrize("sizes", [[LEFT], [1, LEFT - 1], [LEFT - 7, 7], [1] * 100 + [LEFT - 100]])
def test_a_run_may_use_all_of_its_window_and_not_a_byte_more(sizes: list[int]) -> None:
    streams = two_open()
    streams.receive_data(b"".join(yamux.data(1, bytes(size)) for size in [*sizes, 1]))
    received = 0
    while received < LEFT:  # what was within it is delivered first
        event = streams.next_event()
        assert isinstance(event, DataReceived)
        received += len(event.data)
    assert received == LEFT
    with pytest.raises(RemoteProtocolError, match="whose window is 0") as caught:
        streams.next_event()
    assert caught.value.reason is CloseCode.FLOW_CONTROL


def test_credit_given_for_a_run_opens_its_window_by_as_much() -> None:
    streams = two_open()
    half = WINDOW // 2
    hear(streams, *[yamux.data(1, bytes(half // 4))] * 4)
    streams.consume(1, half - 2)  # and the answer's byte has been consumed too
    assert said(streams) == []
    streams.consume(1, 2)
    assert said(streams) == [Frame(WINDOW_UPDATE, NONE, 1, half, b"")]
    hear(streams, yamux.data(1, bytes(WINDOW - 1)))
    assert breach(streams, yamux.data(1, bytes(3))) is CloseCode.FLOW_CONTROL


def test_data_behind_fin_is_a_breach_also_in_a_run() -> None:
    streams = two_open()
    one = yamux.data(1, b"a")
    assert hear(streams, one, one, yamux.data(1, b"z", FIN)) == [
        DataReceived(b"aa", 1),
        DataReceived(b"z", 1),
        StreamFinished(1),
    ]
    assert breach(streams, one, one) is CloseCode.PROTOCOL


def test_a_run_of_a_stream_that_was_reset_here_is_dropped_and_counted() -> None:
    streams = two_open()
    streams.reset(1)
    assert hear(streams, *[yamux.data(1, bytes(1000))] * 20, yamux.data(3, b"b")) == [DataReceived(b"b", 3)]
    assert breach(streams, yamux.data(1, bytes(WINDOW - 20_000 + 1))) is CloseCode.FLOW_CONTROL


def test_what_has_been_read_of_a_record_is_not_kept_behind_it() -> None:
    streams = two_open()
    hear(streams, *[yamux.data(1, bytes(100))] * 100, yamux.data(1, bytes(500))[:-1])
    assert len(streams._inbox) == 0
    hear(streams, b"\0", yamux.data(1, b"abc")[:7])
    hear(streams, b"")
    assert len(streams._inbox) - streams._read_to == 7
    hear(streams, yamux.data(1, b"abc")[7:])
    assert len(streams._inbox) == 0


# --- what is kept ---------------------------------------------------------------------------------------


def held(streams: Streams) -> Counter[str]:
    """How much each container in it holds, those of its streams together."""
    sizes = Counter({name: len(value) for name, value in vars(streams).items() if hasattr(value, "__len__")})
    for stream in streams._streams.values():
        sizes["greeting"] += len(stream.greeting)
    return +sizes


class Two:
    """Two ends, and the wire between them."""

    def __init__(self) -> None:
        self.ends = {role: Streams(role) for role in Role}

    def talk(self) -> dict[Role, list[StreamEvent]]:
        """Carry bytes to and fro until neither has more to say; what each was told."""
        events: dict[Role, list[StreamEvent]] = {role: [] for role in Role}
        while any(end.unsent for end in self.ends.values()):
            for role, end in self.ends.items():
                events[role.other] += hear(self.ends[role.other], end.data_to_send())
        return events


def use_and_finish(two: Two, ids: list[int]) -> None:
    caller, answerer = two.ends[INITIATOR], two.ends[RESPONDER]
    for id_ in ids:
        answerer.accept(id_)
        caller.send(id_, b"question")
        caller.finish(id_)
    told = two.talk()
    assert told[INITIATOR] == [StreamAccepted(id_) for id_ in ids]
    for id_ in ids:
        answerer.consume(id_, 8)
        answerer.send(id_, b"answer")
        answerer.finish(id_)
    told = two.talk()
    assert len(told[INITIATOR]) == 2 * len(ids)


def refuse(two: Two, ids: list[int]) -> None:
    for id_ in ids:
        two.ends[RESPONDER].refuse(id_, "no")


def reset_by_both(two: Two, ids: list[int]) -> None:
    for end in two.ends.values():
        for id_ in ids:
            end.reset(id_)


@pytest.mark.parametrize("use", [use_and_finish, refuse, reset_by_both], ids=lambda use: use.__name__)
def test_after_10000_streams_nothing_is_left(use: Callable[[Two, list[int]], None]) -> None:
    two = Two()
    for _ in range(50):
        ids = [two.ends[INITIATOR].open("echo") for _ in range(200)]
        assert two.talk()[RESPONDER] == [StreamOpened(id_, "echo") for id_ in ids]
        use(two, ids)
        two.talk()
    assert ids[-1] == 19_999
    for end in two.ends.values():
        assert held(end) == held(Streams(INITIATOR)) == Counter()
        assert end.can_open


def test_of_10000_streams_that_one_side_reset_1024_are_remembered_there() -> None:
    two = Two()
    for _ in range(50):
        ids = [two.ends[INITIATOR].open("echo") for _ in range(200)]
        two.talk()
        for id_ in ids:
            two.ends[RESPONDER].reset(id_)
        assert two.talk()[INITIATOR] == [StreamReset(id_, False) for id_ in ids]
    assert held(two.ends[INITIATOR]) == Counter()
    assert sum(held(two.ends[RESPONDER]).values()) == 1024


# --- two ends, and whatever they do ---------------------------------------------------------------------

PATTERN = bytes(i * i % 251 for i in range(1009)) * 600
"""What is sent: at each offset of a stream the next byte of this, repeated, so that nothing can be moved."""


def pattern(offset: int, length: int) -> bytes:
    return PATTERN[offset % 1009 : offset % 1009 + length]


@dataclass
class Side:
    """What one end has done with a stream, and was told of it."""

    answer: str | None = None
    sent: int = 0
    got: int = 0
    consumed: int = 0
    finished: bool = False
    was_reset: bool = False
    told: list[type] = field(default_factory=list)


@dataclass
class Model:
    """One stream, as the two applications see it."""

    opener: Role
    protocol: str
    sides: dict[Role, Side] = field(default_factory=lambda: {role: Side() for role in Role})

    def alive(self, role: Role) -> bool:
        """Whether this end knows the stream, and can still do something with it."""
        side = self.sides[role]
        known = role is self.opener or StreamOpened in side.told
        refused = side.answer == "refuse" or StreamRefused in side.told
        finished = side.finished and StreamFinished in side.told
        return known and not (refused or finished or side.was_reset or StreamReset in side.told)

    def asks(self, role: Role) -> bool:
        return self.alive(role) and role is not self.opener and self.sides[role].answer is None

    def can_send(self, role: Role) -> bool:
        return self.alive(role) and not self.asks(role) and not self.sides[role].finished

    def unread(self, role: Role) -> int:
        return self.sides[role].got - self.sides[role].consumed


ROLES, PICKS = st.sampled_from(Role), st.integers(0, 50)


class TwoEnds(RuleBasedStateMachine):
    """Two honest ends over a wire that delivers what it likes, when it likes. There is no breach."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = {role: Streams(role) for role in Role}
        self.wire = {role: bytearray() for role in Role}  # what this end has written and the other not read
        self.readers = {role: yamux.Reader() for role in Role}
        self.windows: Counter[tuple[Role, int]] = Counter()  # what its sender may still send, as the wire shows
        self.streams: dict[int, Model] = {}

    # --- what the applications do

    def which(self, role: Role, pick: int, wanted: Callable[[Model, Role], object]) -> int | None:
        """One of the streams to which this can be done."""
        ids = [id_ for id_, model in self.streams.items() if wanted(model, role)]
        return ids[pick % len(ids)] if ids else None

    @initialize(count=st.integers(0, 3))
    def start(self, count: int) -> None:
        """Some streams are there already, and ask."""
        for role in Role:
            for _ in range(count):
                self.open(role, "echo")
        self.settle()

    @rule(role=ROLES, protocol=st.sampled_from(["p", "echo", "ø" * 64]))
    def open(self, role: Role, protocol: str) -> None:
        self.streams[self.ends[role].open(protocol)] = Model(role, protocol)

    @rule(role=ROLES, pick=PICKS, answer=st.sampled_from(["accept", "accept", "refuse"]))
    def answer(self, role: Role, pick: int, answer: str) -> None:
        if (id_ := self.which(role, pick, Model.asks)) is not None:
            side = self.streams[id_].sides[role]
            side.answer = answer
            if answer == "accept":
                self.ends[role].accept(id_)
            else:
                self.ends[role].refuse(id_, "no")

    @rule(role=ROLES, pick=PICKS, length=st.one_of(st.integers(0, 50), st.integers(100_000, 300_000)))
    def send(self, role: Role, pick: int, length: int) -> None:
        if (id_ := self.which(role, pick, Model.can_send)) is not None:
            side = self.streams[id_].sides[role]
            side.sent += self.ends[role].send(id_, pattern(side.sent, length))

    @rule(role=ROLES, pick=PICKS, share=st.sampled_from([1, 1, 2, 5]))
    def consume(self, role: Role, pick: int, share: int) -> None:
        if (id_ := self.which(role, pick, Model.unread)) is not None:
            length = -(-self.streams[id_].unread(role) // share)
            self.ends[role].consume(id_, length)
            self.streams[id_].sides[role].consumed += length

    @rule(role=ROLES, pick=PICKS)
    def finish(self, role: Role, pick: int) -> None:
        if (id_ := self.which(role, pick, Model.can_send)) is not None:
            self.ends[role].finish(id_)
            self.streams[id_].sides[role].finished = True

    @rule(role=ROLES, pick=PICKS)
    def reset(self, role: Role, pick: int) -> None:
        if (id_ := self.which(role, pick, Model.alive)) is not None:
            self.ends[role].reset(id_)
            self.streams[id_].sides[role].was_reset = True

    # --- the wire

    @rule(role=ROLES)
    def write(self, role: Role) -> None:
        data = self.ends[role].data_to_send()
        self.wire[role] += data
        for frame in self.readers[role].read(data):
            if frame.flags & SYN:
                self.windows[INITIATOR, frame.stream] = self.windows[RESPONDER, frame.stream] = WINDOW
            if frame.type == DATA:
                self.windows[role, frame.stream] -= frame.length
                assert self.windows[role, frame.stream] >= 0
            else:
                self.windows[role.other, frame.stream] += frame.length

    @rule(role=ROLES, length=st.one_of(st.integers(1, 40), st.integers(1, 400_000)))
    def deliver(self, role: Role, length: int) -> None:
        """Part of what this end has written reaches the other."""
        data = bytes(self.wire[role][:length])
        del self.wire[role][:length]
        self.ends[role.other].receive_data(data)
        while (event := self.ends[role.other].next_event()) is not None:
            self.tell(role.other, event)

    @rule(role=ROLES, again=st.booleans())
    def exchange(self, role: Role, again: bool) -> None:
        """All that this end has to say arrives, and perhaps what the other says to it."""
        self.write_and_deliver(role)
        if again:
            self.write_and_deliver(role.other)

    def write_and_deliver(self, role: Role) -> None:
        self.write(role)
        self.deliver(role, len(self.wire[role]))

    def tell(self, role: Role, event: StreamEvent) -> None:
        assert not isinstance(event, GoAwayReceived)
        model = self.streams[event.stream]
        mine, theirs = model.sides[role], model.sides[role.other]
        match event:
            case StreamOpened(protocol=protocol):
                assert (role, protocol, mine.told) == (model.opener.other, model.protocol, [])
            case StreamReset(abandoned=True) if not mine.told:
                assert (role, theirs.was_reset) == (model.opener.other, True)
            case _:
                assert model.alive(role)  # nobody hears of a stream that he does not know, or that is over for him
        match event:
            case StreamAccepted():
                assert (role, theirs.answer) == (model.opener, "accept")
            case StreamRefused(unknown=unknown, text=text):
                assert (role, theirs.answer, unknown, text) == (model.opener, "refuse", False, "no")
            case DataReceived(data=data):
                assert data == pattern(mine.got, len(data))
                assert StreamFinished not in mine.told
                mine.got += len(data)
                assert mine.got <= theirs.sent
                return
            case CreditReceived():
                assert not mine.finished
                return
            case StreamFinished():
                assert theirs.finished
                assert mine.got == theirs.sent
            case StreamReset(abandoned=abandoned):
                assert theirs.was_reset
                assert abandoned is (role is not model.opener and mine.answer is None)
        assert type(event) not in mine.told
        mine.told.append(type(event))

    @invariant()
    def each_knows_the_streams_that_are_not_over(self) -> None:
        for role, end in self.ends.items():
            alive = sum(model.alive(role) for model in self.streams.values())
            assert alive <= len(end) <= len(self.streams)

    def settle(self) -> None:
        """Everything arrives, and is consumed."""
        while any(end.unsent for end in self.ends.values()) or any(self.wire.values()):
            for role in Role:
                self.write_and_deliver(role)
                for _ in self.streams:
                    self.consume(role, 0, 1)

    def teardown(self) -> None:
        """Everything is answered and finished: then both ends agree, and nothing is left."""
        self.settle()
        for role in Role:
            for _ in self.streams:
                self.answer(role, 0, "accept")
        self.settle()
        for role in Role:
            for _ in self.streams:
                self.finish(role, 0)
        self.settle()
        for model in self.streams.values():
            opener, acceptor = model.sides[model.opener], model.sides[model.opener.other]
            if opener.was_reset or acceptor.was_reset:
                continue
            assert acceptor.answer == ("refuse" if StreamRefused in opener.told else "accept")
            assert opener.got == acceptor.sent
            if acceptor.answer == "accept":
                assert acceptor.got == opener.sent
                assert StreamFinished in opener.told
                assert StreamFinished in acceptor.told
        for end in self.ends.values():
            assert len(end) == 0
            assert set(held(end)) <= {"_reset_here"}


TwoEnds.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestTwoEnds(TwoEnds.TestCase):
    """Whatever two honest ends do, in any order, and however the wire cuts it."""


# --- through a session ----------------------------------------------------------------------------------

MUX = Profile(offers=(CLASSICAL.id,), caps=("mux/1",))
MAX_CONTENT = 65518


@dataclass
class Carried:
    """Two sessions that carry streams."""

    pair: Pair
    ours: Streams  # the initiator's
    theirs: Streams

    @property
    def initiator(self) -> End:
        return self.pair.initiator

    @property
    def responder(self) -> End:
        return self.pair.responder

    def stream(self) -> int:
        """One of the initiator's, accepted."""
        id_ = self.ours.open("echo")
        self.pair.talk()
        self.theirs.accept(id_)
        self.pair.talk()
        self.initiator.events.clear()
        self.responder.events.clear()
        return id_

    def records(self) -> list[tuple[RecordType, bytes]]:
        """What the initiator wants to say now, decrypted; the responder does not get it."""
        return self._decrypted(self.initiator, self.responder)

    def answers(self) -> list[tuple[RecordType, bytes]]:
        """The same of the responder."""
        return self._decrypted(self.responder, self.initiator)

    def say(self, *contents: bytes) -> list[Event]:
        """DATA of the initiator's with these contents, which its streams would never send."""
        writer = self.initiator.session._writer
        assert writer is not None
        return self.responder.read(b"".join(writer.encode(RecordType.DATA, content) for content in contents))

    @staticmethod
    def _decrypted(sender: End, receiver: End) -> list[tuple[RecordType, bytes]]:
        assert receiver.session._reader is not None
        data, records = sender.write(), []
        while data:
            end = 3 + int.from_bytes(data[1:3], "big")
            records.append(receiver.session._reader.decode(data[3:end]))
            data = data[end:]
        return records


@pytest.fixture
def carried() -> Carried:
    pair = make_pair(MUX)
    pair.greet()
    return Carried(pair, pair.initiator.session.carry_streams(), pair.responder.session.carry_streams())


def test_frames_travel_in_data_records(carried: Carried) -> None:
    id_ = carried.ours.open("echo")
    ((type_, content),) = carried.records()
    assert type_ is RecordType.DATA
    assert yamux.frames_in(content) == [Frame(DATA, SYN, id_, 5, ASK)]
    assert carried.initiator.write() == b""


def test_what_happens_to_streams_is_among_the_events_of_the_session(carried: Carried) -> None:
    one, two = carried.ours.open("echo"), carried.theirs.open("chat")
    assert (one, two) == (1, 2)
    carried.ours.send(one, b"early")
    carried.pair.talk()
    assert carried.responder.events == [StreamOpened(1, "echo"), DataReceived(b"early", 1)]
    assert carried.initiator.events == [StreamOpened(2, "chat")]
    carried.theirs.accept(one)
    carried.ours.refuse_unknown(two)
    carried.ours.finish(one)
    carried.pair.talk()
    assert carried.initiator.events[1:] == [StreamAccepted(1)]
    assert carried.responder.events[2:] == [StreamRefused(2, True), StreamFinished(1)]
    assert (len(carried.ours), len(carried.theirs)) == (1, 1)


def test_it_can_be_asked_whether_there_is_something_to_send(carried: Carried) -> None:
    session = carried.initiator.session
    assert not session.has_data_to_send
    for say in (
        lambda: carried.ours.open("echo"),
        lambda: hear(carried.ours, yamux.ping(0)),
        lambda: session.ping(bytes(8)),
        lambda: session.finish(),
    ):
        say()
        assert session.has_data_to_send
        assert carried.initiator.write()
        assert not session.has_data_to_send


def test_a_ping_that_is_not_answered_yet_is_something_to_send(carried: Carried) -> None:
    carried.initiator.session.ping(bytes(8))
    carried.responder.read(carried.initiator.write())
    assert carried.responder.session.has_data_to_send


def test_several_small_sends_become_one_record(carried: Carried) -> None:
    one, two = carried.stream(), carried.stream()
    for i in range(10):
        carried.ours.send((one, two)[i % 2], b"%d" % i)
    ((_, content),) = carried.records()
    assert [frame.body for frame in yamux.frames_in(content)] == [b"%d" % i for i in range(10)]


@pytest.mark.parametrize(
    ("size", "count"), [(MAX_CONTENT - 12, 1), (MAX_CONTENT - 11, 2), (2 * MAX_CONTENT - 12, 2), (200_000, 4)]
)
def test_a_big_send_is_cut_in_records_of_equal_size(carried: Carried, size: int, count: int) -> None:
    id_ = carried.stream()
    data = pattern(0, size)
    assert carried.ours.send(id_, data) == size
    records = carried.records()
    sizes = [len(content) for _, content in records]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) < count
    assert yamux.frames_in(b"".join(content for _, content in records)) == [Frame(DATA, NONE, id_, size, data)]


def test_a_big_send_arrives_whole_and_byte_by_byte_too(carried: Carried) -> None:
    id_ = carried.stream()
    carried.ours.send(id_, pattern(0, 70_000))
    wire = carried.initiator.write()
    for byte in wire:
        carried.responder.read(bytes([byte]))
    assert merged(carried.responder.events) == [DataReceived(pattern(0, 70_000), id_)]


def test_a_frame_may_be_cut_by_the_records_anywhere(carried: Carried) -> None:
    frames = yamux.data(1, ASK + b"early", SYN | FIN)
    events = [event for i in range(len(frames)) for event in carried.say(frames[i : i + 1])]
    assert merged(events) == [StreamOpened(1, "echo"), DataReceived(b"early", 1), StreamFinished(1)]


BREACHES = [
    ("never-opened", yamux.data(7, b"x"), CloseCode.PROTOCOL),
    ("version", yamux.header(DATA, NONE, 1, 0, version=1), CloseCode.PROTOCOL),
    ("behind-fin", yamux.data(1, ASK, SYN | FIN) + yamux.data(1, b"x"), CloseCode.PROTOCOL),
    ("window", yamux.header(DATA, SYN, 1, WINDOW + 1), CloseCode.FLOW_CONTROL),
    ("overflow", yamux.window_update(1, 2**31 - 1, SYN), CloseCode.FLOW_CONTROL),
]


@pytest.mark.parametrize(("name", "content", "code"), BREACHES, ids=[name for name, _, _ in BREACHES])
def test_a_breach_of_a_stream_ends_the_session_with_its_code(
    carried: Carried, name: str, content: bytes, code: CloseCode
) -> None:
    carried.say(content)
    error = carried.responder.error
    assert error is not None
    assert error.reason is code
    assert carried.responder.session.state is State.ENDED
    assert carried.initiator.read(carried.responder.write()) == [CloseReceived(code)]
    carried.theirs.open("echo")
    assert not carried.responder.session.has_data_to_send
    assert carried.responder.write() == b""


def test_what_was_queued_before_a_breach_is_sent_before_the_close(carried: Carried) -> None:
    id_ = carried.stream()
    carried.theirs.send(id_, b"queued")
    carried.say(yamux.data(7, b"x"))
    assert carried.initiator.read(carried.responder.write()) == [
        DataReceived(b"queued", id_),
        CloseReceived(CloseCode.PROTOCOL),
    ]


CLOSES = {
    "finish": (lambda session: session.finish("bye"), CloseReceived(CloseCode.NORMAL, "bye")),
    "close": (lambda session: session.close(CloseCode.IDLE), CloseReceived(CloseCode.IDLE)),
}


@pytest.mark.parametrize("verb", CLOSES)
def test_what_was_queued_before_a_close_is_sent_before_it(carried: Carried, verb: str) -> None:
    close, told = CLOSES[verb]
    id_ = carried.stream()
    carried.ours.send(id_, b"last")
    carried.ours.finish(id_)
    close(carried.initiator.session)
    assert carried.responder.read(carried.initiator.write()) == [
        DataReceived(b"last", id_),
        StreamFinished(id_),
        told,
    ]


@pytest.mark.parametrize("verb", CLOSES)
def test_behind_our_close_no_stream_says_anything(carried: Carried, verb: str) -> None:
    id_ = carried.stream()
    CLOSES[verb][0](carried.initiator.session)
    carried.ours.send(id_, b"too late")
    assert [type_ for type_, _ in carried.records()] == [RecordType.CLOSE]
    carried.ours.send(id_, b"too late")
    assert not carried.initiator.session.has_data_to_send
    assert carried.initiator.write() == b""


@pytest.mark.parametrize("verb", CLOSES)
def test_after_the_other_sides_close_nothing_but_close_is_sent(carried: Carried, verb: str) -> None:
    id_ = carried.stream()
    carried.theirs.send(id_, b"queued, and never sent")
    CLOSES[verb][0](carried.initiator.session)
    carried.responder.read(carried.initiator.write())
    carried.theirs.send(id_, b"nor this")
    assert [type_ for type_, _ in carried.answers()] == [RecordType.CLOSE]
    carried.theirs.send(id_, b"nor this")
    assert not carried.responder.session.has_data_to_send
    assert carried.responder.write() == b""
    assert carried.responder.error is None


@pytest.mark.parametrize("verb", CLOSES)
@pytest.mark.parametrize("crossing", [yamux.data(1, b"x"), yamux.data(7, b"a breach")], ids=["data", "breach"])
def test_data_that_crosses_our_close_is_discarded(carried: Carried, verb: str, crossing: bytes) -> None:
    carried.stream()
    CLOSES[verb][0](carried.responder.session)
    assert carried.say(crossing) == []
    assert carried.responder.error is None
    assert held(carried.theirs)["_inbox"] == 0
    carried.pair.talk()
    assert carried.responder.events == [CloseReceived(CloseCode.NORMAL)]


def test_what_had_arrived_and_was_not_handed_out_before_our_close_is_discarded(carried: Carried) -> None:
    session = carried.responder.session
    carried.ours.open("one")
    carried.ours.open("two")
    session.receive_data(carried.initiator.write())
    assert session.next_event() == StreamOpened(1, "one")
    session.close(CloseCode.GOING_AWAY)
    assert session.next_event() is Wait.NEED_DATA


def test_streams_that_were_opened_while_the_other_side_decides_are_sent_when_it_has() -> None:
    pair = make_pair(MUX)
    pair.identify_responder()
    ours = pair.initiator.session.carry_streams()
    id_ = ours.open("echo")
    pair.initiator.session.accept()
    pair.talk()
    assert ours.unsent
    assert not pair.initiator.session.has_data_to_send
    pair.responder.session.carry_streams()
    pair.responder.session.accept()
    pair.talk()
    assert pair.responder.events[-1] == StreamOpened(id_, "echo")


@pytest.mark.parametrize("verb", CLOSES)
def test_a_close_that_is_refused_before_the_verdict_changes_nothing(verb: str) -> None:
    pair = make_pair(MUX)
    pair.identify_responder()
    ours = pair.initiator.session.carry_streams()
    pair.initiator.session.accept(optimistic=True)
    ours.open("echo")
    unsent = ours.unsent
    with pytest.raises(LocalProtocolError):
        CLOSES[verb][0](pair.initiator.session)
    assert ours.unsent == unsent


@pytest.mark.parametrize("lacking", Role)
def test_there_are_no_streams_unless_both_have_them(lacking: Role) -> None:
    profiles = {lacking: Profile(offers=(CLASSICAL.id,)), lacking.other: MUX}
    pair = make_pair(profiles[INITIATOR], profiles[RESPONDER])
    pair.greet()
    for end in (pair.initiator, pair.responder):
        with pytest.raises(LocalProtocolError, match="no streams"):
            end.session.carry_streams()
        assert end.session.streams is None


def test_there_are_no_streams_before_the_peer_is_identified() -> None:
    pair = make_pair(MUX)
    with pytest.raises(LocalProtocolError, match="not identified yet"):
        pair.initiator.session.carry_streams()


def test_a_session_that_carries_streams_is_no_byte_stream(carried: Carried) -> None:
    with pytest.raises(LocalProtocolError, match="send on one of them"):
        carried.initiator.session.send(b"x")
    assert carried.initiator.write() == b""
