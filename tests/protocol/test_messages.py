"""messages.py: every message at its bounds, and canonical msgpack just inside and just outside of them."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trishake_protocol import (
    AlertCode,
    CloseCode,
    Greeting,
    GreetingRefused,
    RemoteProtocolError,
    Role,
    VerdictCode,
)
from trishake_protocol.limits import MAGIC
from trishake_protocol.messages import (
    Alert,
    Close,
    FrameType,
    GreetingTemplate,
    MuxFlag,
    MuxFrame,
    MuxType,
    Ping,
    Preface,
    RecordType,
    StreamAnswer,
    StreamOpen,
    StreamVerdict,
    Verdict,
    decode_canonical,
    decode_greeting_payload,
    encode_canonical,
    encode_frame,
    encode_greeting_payload,
)

from .. import yamux
from .conftest import unhex

KEY = b"\x07" * 32


def packed(value: object) -> bytes:
    """msgpack as it comes: keys in the order given, and no limit."""
    return msgpack.packb(value, use_bin_type=True)


# --- canonical msgpack ----------------------------------------------------------------------------------
#
# A CLOSE may have unknown keys, so it carries any value; what is wrong with it is a malformed CLOSE.


def nested(depth: int, make: Callable[[Any], object], innermost: object = 0) -> Any:
    value = innermost
    for _ in range(depth):
        value = make(value)
    return value


def in_list(value: Any) -> object:
    return [value]


def in_map(value: Any) -> object:
    return {"k": value}


INSIDE = [
    ("depth-4-arrays", nested(3, in_list)),
    ("depth-4-maps", nested(3, in_map)),
    ("depth-4-empty-array", nested(2, in_list, [])),
    ("map-32", {f"{i:02}": i for i in range(32)}),
    ("array-64", list(range(64))),
    ("str-256", "s" * 256),
    ("str-256-in-utf8", "ø" * 128),
    ("key-256", {"k" * 256: 0}),
    ("bin-60000", bytes(60000)),
    ("bool", [True, False]),
    ("int-edges", [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1]),
    ("negative-edges", [-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)]),
    ("empty", ["", b"", [], {}]),
    ("keys-by-bytes", {"": 0, "A": 0, "a": 0, "aa": 0, "ø": 0, "ﬀ": 0, "𝄞": 0}),
]
OUTSIDE = [
    ("depth-5-arrays", packed(nested(4, in_list))),
    ("depth-5-maps", packed(nested(4, in_map))),
    ("depth-5-empty-array", packed(nested(3, in_list, []))),
    ("depth-3000", b"\x91" * 3000 + b"\x00"),
    ("map-33", packed({f"{i:02}": i for i in range(33)})),
    ("array-65", packed(list(range(65)))),
    ("str-257", packed("s" * 257)),
    ("str-257-in-utf8", packed("ø" * 128 + "o")),
    ("key-257", packed({"k" * 257: 0})),
    ("nil", b"\xc0"),
    ("never-used", b"\xc1"),
    ("float32", packed(struct.unpack(">f", bytes(4))[0])),
    ("float64", b"\xcb" + struct.pack(">d", 1.5)),
    ("ext", packed(msgpack.ExtType(1, b"x"))),
    ("ext-empty", packed(msgpack.ExtType(1, b""))),
    ("timestamp", packed(msgpack.Timestamp(1))),
    ("map-unsorted", packed({"b": 0, "a": 0})),
    ("map-unsorted-by-length", packed({"b": 0, "aa": 0})),
    ("map-duplicate", b"\x82\xa1a\x00\xa1a\x00"),
    ("map-inner-unsorted", packed([{"b": 0, "a": 0}])),
    ("key-int", packed({0: 0})),
    ("key-bin", packed({b"a": 0})),
    ("key-bool", packed({True: 0})),
    ("key-nil", b"\x81\xc0\x00"),
    ("key-array", b"\x81\x91\x00\x00"),
    ("utf8-invalid", b"\xa1\xff"),
    ("utf8-surrogate", b"\xa3\xed\xa0\x80"),
    ("utf8-overlong", b"\xa2\xc0\x80"),
    ("int-as-uint8", b"\xcc\x01"),
    ("int-as-uint16", b"\xcd\x00\xff"),
    ("int-as-uint32", b"\xce\x00\x00\xff\xff"),
    ("int-as-uint64", b"\xcf\x00\x00\x00\x00\xff\xff\xff\xff"),
    ("int-as-int8", b"\xd0\x01"),
    ("negative-as-int16", b"\xd1\xff\xff"),
    ("str-as-str8", b"\xd9\x01a"),
    ("str-as-str16", b"\xda\x00\x01a"),
    ("bin-as-bin16", b"\xc5\x00\x01a"),
    ("array-as-array16", b"\xdc\x00\x01\x00"),
    ("map-as-map16", b"\xde\x00\x01\xa1a\x00"),
    ("array-that-claims-too-much", b"\xdd\xff\xff\xff\xff"),
    ("map-that-claims-too-much", b"\xdf\xff\xff\xff\xff"),
    ("bin-that-claims-too-much", b"\xc6\xff\xff\xff\xff"),
    ("str-that-claims-too-much", b"\xdb\xff\xff\xff\xff"),
]


def close_with(raw: bytes) -> bytes:
    """A CLOSE that is right but for the value of an unknown key."""
    return b"\x82\xa4code\x00\xa5other" + raw


@pytest.mark.parametrize(("name", "value"), INSIDE, ids=[name for name, _ in INSIDE])
def test_a_value_within_the_limits_goes_through(name: str, value: Any) -> None:
    assert decode_canonical(encode_canonical(value)) == value
    assert encode_canonical(value) == packed(value)


@pytest.mark.parametrize(
    "value", [pytest.param(value, id=name) for name, value in INSIDE if "depth-4" not in name]
)
def test_an_unknown_key_may_have_any_value_within_the_limits(value: Any) -> None:
    assert Close.decode(close_with(packed(value))) == Close()


@pytest.mark.parametrize(("name", "raw"), OUTSIDE, ids=[name for name, _ in OUTSIDE])
def test_a_value_beyond_the_limits_is_refused_also_in_an_unknown_key(name: str, raw: bytes) -> None:
    for decode in (Close.decode, Verdict.decode):
        with pytest.raises(RemoteProtocolError, match="malformed") as caught:
            decode(close_with(raw))
        assert caught.value.reason is CloseCode.PROTOCOL


def test_arrays_that_claim_the_whole_buffer_take_no_memory() -> None:
    """msgpack makes the list that a header claims: one in another, they would be a thousand times what came."""
    claims = b"\xdd\x00\x00\xf0\x00" * 500  # each of 61440
    data = claims.ljust(65000, b"\x00")
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="over a limit"):
            Close.decode(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * len(data)


def test_depth_is_counted_from_the_outermost_map() -> None:
    Close.decode(close_with(packed(nested(3, in_list))))
    with pytest.raises(RemoteProtocolError, match="depth 5"):
        Close.decode(close_with(packed(nested(4, in_list))))


@pytest.mark.parametrize("raw", [b"", b"\x81\xa4code\x00\x00", b"\x81\xa4code"], ids=["empty", "trailing", "cut"])
def test_more_or_less_than_one_value_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed CLOSE"):
        Close.decode(raw)


@pytest.mark.parametrize(
    "value",
    [
        nested(4, in_list, []),
        {f"{i:02}": i for i in range(33)},
        list(range(65)),
        "s" * 257,
        {"k" * 257: 0},
        2**64,
        -(2**63) - 1,
        None,
        1.5,
        {1: 0},
        {b"a": 0},
        [object()],
        {1, 2},
        "\ud800",
        bytearray(b"x"),
    ],
    ids=range(15),
)
def test_what_is_beyond_the_limits_cannot_be_encoded(value: object) -> None:
    with pytest.raises(ValueError, match=r"cannot be sent|surrogates"):
        encode_canonical(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({1: 0}, "a key that is no str"),
        ({"k" * 257: 0}, "a key of more than 256 bytes"),
        ("s" * 257, "a str of more than 256 bytes"),
        (list(range(65)), "an array of 65, the limit is 64"),
        ({f"{i:02}": i for i in range(33)}, "a map of 33, the limit is 32"),
        (nested(5, in_list), "an array at depth 5, the limit is 4"),
        (nested(5, in_map), "a map at depth 5, the limit is 4"),
        (None, "a NoneType is not allowed"),
        (1.5, "a float is not allowed"),
    ],
    ids=["key-int", "key-257", "str-257", "array-65", "map-33", "arrays", "maps", "none", "float"],
)
def test_what_cannot_be_encoded_is_told(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^this cannot be sent: {said}$"):
        encode_canonical(value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\xc1", "it does not parse, or is over a limit"),
        (
            packed({"code": 0, "a": 0}),
            "its keys are out of order or twice there, or it is not in its shortest encoding",
        ),
    ],
    ids=["never-used", "unsorted"],
)
def test_what_is_not_canonical_is_told(raw: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^a malformed CLOSE: {said}$"):
        Close.decode(raw)


def test_maps_are_sorted_by_bytes_whatever_their_order() -> None:
    assert encode_canonical({"ø": 1, "b": {"z": 0, "y": 0}, "aa": 2}) == packed(
        {"aa": 2, "b": {"y": 0, "z": 0}, "ø": 1}
    )


SCALARS = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=64) | st.binary(max_size=300)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=64), inner, max_size=6)


def values(depth: int) -> st.SearchStrategy[Any]:
    return SCALARS if depth == 0 else SCALARS | containers(values(depth - 1))


@settings(max_examples=150)
@given(values(4))
def test_every_canonical_value_has_one_encoding_and_comes_back(value: Any) -> None:
    encoded = encode_canonical(value)
    decoded = decode_canonical(encoded)
    assert decoded == value
    assert encode_canonical(decoded) == encoded  # also tells True from 1, which are equal in Python


# --- frames ---------------------------------------------------------------------------------------------


def test_the_types_are_those_of_sections_2_and_9() -> None:
    assert {type_.name: type_.value for type_ in FrameType} == {
        "SYN": 0x01,
        "SYN_ACK": 0x02,
        "ACK": 0x03,
        "RECORD": 0x10,
        "ALERT": 0x7F,
    }
    assert [type_.name for type_ in sorted(RecordType)] == ["DATA", "VERDICT", "CLOSE", "PING"]
    assert sorted(RecordType) == [1, 2, 3, 4]


@pytest.mark.parametrize("length", [0, 1, 255, 256, 65535])
def test_a_frame_is_type_length_and_body(length: int) -> None:
    assert encode_frame(FrameType.ACK, bytes(length)) == b"\x03" + struct.pack(">H", length) + bytes(length)


# --- Preface --------------------------------------------------------------------------------------------

PREFACES = [
    Preface(1, (1,), b"8 bytes!"),
    Preface(2, (2, 1), b"8 bytes!", version_max=255),
    Preface(8, tuple(range(1, 9)), bytes(8), ext=bytes(256)),
    Preface(0xFFFF, (0, 0xFFFF), b"\xff" * 8, ext=b"x"),
]
OF_SECTION_3 = b"".join(
    [
        MAGIC,
        b"\x01",  # version
        b"\x03",  # version_max
        b"\x00\x02",  # suite
        b"\x02",  # n_offers
        b"\x00\x05",  # ext_len
        b"8 bytes!",  # net_tag
        b"\x00\x02\x00\x01",  # offers
        b"hello",  # ext
    ]
)


def test_a_preface_has_the_layout_of_section_3() -> None:
    preface = Preface(2, (2, 1), b"8 bytes!", version_max=3, ext=b"hello")
    assert preface.encode() == OF_SECTION_3
    assert Preface.decode(OF_SECTION_3) == (preface, len(OF_SECTION_3))


def test_a_preface_is_of_version_1_and_without_extension_unless_told() -> None:
    plain = MAGIC + unhex("0101 0001 01 0000") + b"8 bytes!" + unhex("0001")
    assert Preface(1, (1,), b"8 bytes!").encode() == plain


@pytest.mark.parametrize("preface", PREFACES, ids=range(len(PREFACES)))
def test_a_preface_comes_back_whatever_stands_behind_it(preface: Preface) -> None:
    encoded = preface.encode()
    assert Preface.decode(encoded + b"\x01\x00\x20") == (preface, len(encoded))


@pytest.mark.parametrize("preface", PREFACES, ids=range(len(PREFACES)))
def test_a_preface_is_awaited_until_its_last_byte(preface: Preface) -> None:
    encoded = preface.encode()
    for cut in range(4, len(encoded)):
        assert Preface.decode(encoded[:cut]) is None


def spoiled(offset: int, value: bytes) -> bytes:
    return OF_SECTION_3[:offset] + value + OF_SECTION_3[offset + len(value) :]


@pytest.mark.parametrize(
    ("offset", "value", "judged_at", "code", "said"),
    [
        (4, b"\x00", 5, AlertCode.UNSUPPORTED_VERSION, "version 0 of the protocol, and we speak 1"),
        (4, b"\x02", 5, AlertCode.UNSUPPORTED_VERSION, "version 2 of the protocol, and we speak 1"),
        (5, b"\x00", 11, AlertCode.MALFORMED, "version_max 0 below version 1"),
        (8, b"\x00", 11, AlertCode.MALFORMED, "0 offers, 1 to 8 are allowed"),
        (8, b"\x09", 11, AlertCode.MALFORMED, "9 offers, 1 to 8 are allowed"),
        (9, b"\x01\x01", 11, AlertCode.MALFORMED, "an extension of 257 bytes, the limit is 256"),
        (9, b"\xff\xff", 11, AlertCode.MALFORMED, "an extension of 65535 bytes, the limit is 256"),
        (6, b"\x00\x03", len(OF_SECTION_3), AlertCode.MALFORMED, "suite 0x0003 is not among its own offers"),
        (19, b"\x00\x03", len(OF_SECTION_3), AlertCode.MALFORMED, "suite 0x0002 is not among its own offers"),
    ],
    ids=["version-0", "version-2", "max", "offers-0", "offers-9", "ext-257", "ext-65535", "suite", "offers"],
)
def test_a_bad_preface_is_refused_as_soon_as_it_shows(
    offset: int, value: bytes, judged_at: int, code: AlertCode, said: str
) -> None:
    data = spoiled(offset, value)
    assert Preface.decode(data[: judged_at - 1]) is None
    for seen in (data[:judged_at], data):
        with pytest.raises(GreetingRefused) as caught:
            Preface.decode(seen)
        assert caught.value.reason is code
        assert said in str(caught.value)


# --- Alert ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*AlertCode, 0x00, 0x09, 0x0B, 0xFF])
def test_an_alert_without_detail_comes_back_and_an_unknown_code_stays_a_number(code: AlertCode | int) -> None:
    assert Alert.decode(Alert(code).encode()).code == code
    assert len(Alert(code).encode()) == 1


@pytest.mark.parametrize(
    ("alert", "body"),
    [
        (Alert(AlertCode.BUSY, retry_after=0), "050000"),
        (Alert(AlertCode.BUSY, retry_after=65535), "05ffff"),
        (Alert(AlertCode.UNSUPPORTED_VERSION, versions=(1, 255)), "0201ff"),
        (Alert(AlertCode.UNSUPPORTED_SUITE, suites=(2, 1, 0xFFFF)), "0300020001ffff"),
        (Alert(AlertCode.UNSUPPORTED_SUITE, suites=(1,) * 32), "03" + "0001" * 32),
    ],
    ids=["busy-0", "busy-65535", "versions", "suites", "suites-32"],
)
def test_an_alert_with_its_detail_comes_back(alert: Alert, body: str) -> None:
    assert alert.encode().hex() == body
    assert Alert.decode(bytes.fromhex(body)) == alert


def test_a_retry_beyond_u16_is_sent_as_the_longest_there_is() -> None:
    assert Alert(AlertCode.BUSY, retry_after=100_000).encode() == b"\x05\xff\xff"


@pytest.mark.parametrize(
    "body",
    [
        b"\x05",
        b"\x05\x01",
        b"\x05\x00\x01\x02",
        b"\x02",
        b"\x02\x01",
        b"\x02\x01\x01\x01",
        b"\x03\x00\x02\x00",
        b"\x06detail",
        b"\x0adetail",
        b"\x0bdetail",
        b"\xff" * 65,
    ],
    ids=lambda body: body[:5].hex(),
)
def test_a_detail_that_does_not_fit_its_code_is_ignored(body: bytes) -> None:
    alert = Alert.decode(body)
    assert (alert.retry_after, alert.versions, alert.suites) == (None, None, None)
    assert Alert.decode(body[:1]).code == alert.code


# --- Greeting -------------------------------------------------------------------------------------------

PLAIN = Greeting(role="initiator", id=KEY, offers=(2, 1), time=1_800_000_000)
FULL = Greeting(
    role="responder",
    id=KEY,
    offers=tuple(range(8)),
    time=2**64 - 1,
    vers=(0, 255),
    caps=tuple(sorted(f"{i:02}" + "c" * 62 for i in range(32))),
    agent="ø" * 32,
    app=bytes(4096),
    exp=0,
    alg="another",
    extra={"note": {"a": [1, b"\x00", True]}, "z": -1},
)


EMPTY = replace(PLAIN, agent="", app=b"", caps=("",), extra={"": b""})


@pytest.mark.parametrize("greeting", [PLAIN, FULL, EMPTY], ids=["plain", "full", "empty"])
def test_a_greeting_comes_back(greeting: Greeting) -> None:
    assert Greeting.decode(greeting.encode(), Role(greeting.role)) == greeting


@pytest.mark.parametrize("greeting", [PLAIN, FULL, EMPTY], ids=["plain", "full", "empty"])
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("time", [0, 2**64 - 1])
def test_a_record_out_of_a_template_is_that_of_the_greeting_with_its_role_id_and_time(
    greeting: Greeting, role: Role, time: int
) -> None:
    other_id = bytes(range(32))
    record = GreetingTemplate(greeting).encode(role, other_id, time)
    assert record == replace(greeting, role=role.value, id=other_id, time=time).encode()


@pytest.mark.parametrize(("id_", "time"), [(KEY, -1), (KEY, 2**64), (KEY, True), (KEY[:31], 0)], ids=range(4))
def test_a_template_makes_no_record_that_is_out_of_bounds(id_: bytes, time: int) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        GreetingTemplate(PLAIN).encode(Role.INITIATOR, id_, time)


def test_a_greeting_out_of_bounds_is_no_template() -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        GreetingTemplate(replace(PLAIN, agent="a" * 65))


def test_a_greeting_is_a_canonical_map_of_the_keys_of_section_6() -> None:
    pairs = msgpack.unpackb(PLAIN.encode())
    assert pairs == {
        "alg": "ed25519",
        "caps": [],
        "id": KEY,
        "offers": [2, 1],
        "role": "initiator",
        "time": 1_800_000_000,
        "ver": 1,
        "vers": [1, 1],
    }
    assert list(pairs) == sorted(pairs)


BAD_VALUES = [
    ("agent", ["a" * 65, "ø" * 33, b"agent", 1]),
    ("alg", [1, b"ed25519"]),
    ("app", [bytes(4097), "app", []]),
    ("caps", [["b", "a"], ["a", "a"], [f"{i:02}" for i in range(33)], ["c" * 65], [b"a"], "a", [["a"]]]),
    ("exp", [-1, "1", True, [1]]),
    ("id", [bytes(31), bytes(33), "i" * 32, []]),
    ("offers", [[], list(range(9)), [-1], [65536], [True], 1, ["1"], [[1]]]),
    ("role", ["observer", "responder", "Initiator", "", 1, b"initiator"]),
    ("time", [-1, "1", True, [1]]),
    ("ver", [0, 2, True, "1", [1]]),
    ("vers", [[1], [1, 1, 1], [2, 1], [0, 256], [-1, 1], [True, 1], 1, ["1", "1"], {}]),
]


@pytest.mark.parametrize(
    ("key", "value"),
    [pytest.param(key, value, id=f"{key}-{i}") for key, bad in BAD_VALUES for i, value in enumerate(bad)],
)
def test_a_greeting_with_a_value_out_of_bounds_is_a_bad_greeting(key: str, value: Any) -> None:
    pairs = {**msgpack.unpackb(PLAIN.encode()), key: value}
    with pytest.raises(GreetingRefused) as caught:
        Greeting.decode(encode_canonical(pairs), Role.INITIATOR)
    assert caught.value.reason is VerdictCode.BAD_GREETING


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"role": "responder"}, "the role is 'responder', and the initiator sent it"),
        ({"ver": 2}, "schema version 2, and we read 1"),
        ({"id": KEY[:31]}, "id must be bin of 32 bytes"),
        ([0], "it is no map"),
    ],
    ids=["role", "ver", "id", "array"],
)
def test_a_bad_greeting_is_told_in_what(value: Any, said: str) -> None:
    record = {**msgpack.unpackb(PLAIN.encode()), **value} if isinstance(value, dict) else value
    with pytest.raises(GreetingRefused, match=f"the record: {said}$"):
        Greeting.decode(encode_canonical(record), Role.INITIATOR)


@pytest.mark.parametrize("key", ["alg", "caps", "id", "offers", "role", "time", "ver", "vers"])
def test_a_greeting_without_a_mandatory_key_is_a_bad_greeting(key: str) -> None:
    pairs = msgpack.unpackb(PLAIN.encode())
    del pairs[key]
    with pytest.raises(GreetingRefused, match=f"{key} is missing") as caught:
        Greeting.decode(encode_canonical(pairs), Role.INITIATOR)
    assert caught.value.reason is VerdictCode.BAD_GREETING


@pytest.mark.parametrize("key", ["!", "!new", "!agent"])
def test_an_unknown_key_that_must_be_understood_refuses_the_greeting(key: str) -> None:
    pairs = {**msgpack.unpackb(PLAIN.encode()), key: True}
    with pytest.raises(GreetingRefused, match="must be understood") as caught:
        Greeting.decode(encode_canonical(pairs), Role.INITIATOR)
    assert caught.value.reason is VerdictCode.UNSUPPORTED_CRITICAL


@pytest.mark.parametrize("key", ["new", "a!", "", "zzz", "ø"], ids=range(5))
def test_another_unknown_key_is_kept_and_ignored(key: str) -> None:
    pairs = {**msgpack.unpackb(PLAIN.encode()), key: [1, {"k": b"v"}]}
    greeting = Greeting.decode(encode_canonical(pairs), Role.INITIATOR)
    assert greeting.extra == {key: [1, {"k": b"v"}]}
    assert greeting.encode() == encode_canonical(pairs)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("agent", "a" * 65),
        ("alg", "a" * 257),
        ("app", bytes(4097)),
        ("caps", ("b", "a")),
        ("exp", -1),
        ("id", bytes(31)),
        ("offers", ()),
        ("role", b"initiator"),
        ("role", "r" * 257),
        ("time", -1),
        ("vers", (2, 1)),
    ],
    ids=range(11),
)
def test_a_greeting_out_of_bounds_cannot_be_encoded(key: str, value: Any) -> None:
    fields = {"role": "initiator", "id": KEY, "offers": (1,), "time": 0, key: value}
    with pytest.raises(ValueError, match=f"^this greeting cannot be sent: {key} must be "):
        Greeting(**fields).encode()


@pytest.mark.parametrize("extra", [{"nil": None}, {f"{i:02}": i for i in range(25)}], ids=["nil", "map-33"])
def test_a_greeting_with_more_than_goes_into_a_map_cannot_be_encoded(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^this cannot be sent: a"):
        replace(PLAIN, extra=extra).encode()


# --- the payload around it ------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [*range(140, 200), 255, 256, 257, 400, 3000, 16000])
def test_a_payload_is_padded_to_a_multiple_of_256_its_own_header_counted(length: int) -> None:
    record, signature = b"r" * length, b"s" * 64
    payload = encode_greeting_payload(record, signature)
    assert len(payload) % 256 == 0
    assert len(payload) - len(encode_canonical([record, signature, b""])) < 256 + 2
    assert decode_greeting_payload(payload) == (record, signature)


def test_there_is_no_padding_where_the_length_is_a_multiple_already() -> None:
    overhead = len(encode_canonical([b"r" * 300, b"s" * 64, b""])) - 300
    payload = encode_greeting_payload(b"r" * (512 - overhead), b"s" * 64)
    assert len(payload) == 512
    assert payload.endswith(b"\xc4\x00")


def test_the_longest_payload_is_16384_bytes() -> None:
    overhead = len(encode_canonical([bytes(16000), bytes(64), b""])) - 16000
    assert len(encode_greeting_payload(bytes(16384 - overhead), bytes(64))) == 16384
    with pytest.raises(ValueError, match="the limit is 16384"):
        encode_greeting_payload(bytes(16384 - overhead + 1), bytes(64))


NO_ARRAY, NOT_ZERO = "the payload is no array of three bin", "the padding is not all zero"


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (packed([b"r", b"s"]), NO_ARRAY),
        (packed([b"r", b"s", b"", b""]), NO_ARRAY),
        (packed(["r", b"s", b""]), NO_ARRAY),
        (packed([b"r", "s", b""]), NO_ARRAY),
        (packed([b"r", b"s", ""]), NO_ARRAY),
        (packed([b"r", b"s", 0]), NO_ARRAY),
        (packed({"r": b"r", "s": b"s", "t": b""}), NO_ARRAY),
        (packed(b"r"), NO_ARRAY),
        (packed([b"r", b"s", b"\x01"]), NOT_ZERO),
        (packed([b"r", b"s", b"\x00\x00\x80"]), NOT_ZERO),
        (packed([b"r", b"s", b"X"]), NOT_ZERO),
        (packed([b"r", b"s", b""]) + b"\x00", "the outer array: it does not parse"),
        (b"\xdc\x00\x03" + packed([b"r", b"s", b""])[1:], "the outer array: .*shortest encoding"),
        (b"", "the outer array: it does not parse"),
        (bytes(256), "the outer array: it does not parse"),
    ],
    ids=range(15),
)
def test_a_payload_that_is_no_array_of_three_bin_with_zero_padding_is_a_bad_greeting(
    payload: bytes, said: str
) -> None:
    with pytest.raises(GreetingRefused, match=f"{said}($|,)") as caught:
        decode_greeting_payload(payload)
    assert caught.value.reason is VerdictCode.BAD_GREETING


@pytest.mark.parametrize("padding", [0, 1, 7, 300])
def test_padding_may_be_of_any_length(padding: int) -> None:
    assert decode_greeting_payload(packed([b"r", b"s", bytes(padding)])) == (b"r", b"s")


# --- Verdict and Close ----------------------------------------------------------------------------------

VERDICTS = [
    *(Verdict(code) for code in VerdictCode),
    Verdict(0x8000),
    Verdict(0xFFFF),
    Verdict(0x0399),
    Verdict(VerdictCode.CAPACITY, retry=0),
    Verdict(VerdictCode.CAPACITY, 2**64 - 1, "s" * 64, "t" * 256),
    Verdict(VerdictCode.READY, seen="[2001:db8::1]:4711", text="ø" * 128),
    Verdict(VerdictCode.POLICY, text=""),
]
CLOSES = [*(Close(code) for code in CloseCode), Close(9), Close(0xFFFF, "t" * 256), Close(text="")]


@pytest.mark.parametrize("message", [*VERDICTS, *CLOSES], ids=lambda message: repr(message)[:60])
def test_a_verdict_or_a_close_comes_back(message: Verdict | Close) -> None:
    assert type(message).decode(message.encode()) == message


@pytest.mark.parametrize("message", [Verdict, Close])
def test_a_known_code_comes_back_as_its_name_and_another_as_a_number(message: type[Verdict | Close]) -> None:
    for number in (0, 3, 0x0101, 0x0399, 0x8000):
        code = message.decode(packed({"code": number})).code
        known = {member.value: member for member in (VerdictCode if message is Verdict else CloseCode)}
        assert code is known[number] if number in known else code == number


BOTH, ONLY_VERDICT = (Verdict, Close), (Verdict,)
BAD_MAPS = [
    (BOTH, {}),
    (BOTH, {"text": "code is missing"}),
    (BOTH, {"code": -1}),
    (BOTH, {"code": 65536}),
    (BOTH, {"code": False}),
    (BOTH, {"code": "0"}),
    (BOTH, {"code": None}),
    (BOTH, {"code": 0.0}),
    (BOTH, {"code": 0, "text": "t" * 257}),
    (BOTH, {"code": 0, "text": b"t"}),
    (BOTH, {"!new": 0, "code": 0}),
    (BOTH, [0]),
    (BOTH, 0),
    (ONLY_VERDICT, {"code": 0, "retry": -1}),
    (ONLY_VERDICT, {"code": 0, "retry": "1"}),
    (ONLY_VERDICT, {"code": 0, "retry": True}),
    (ONLY_VERDICT, {"code": 0, "seen": "s" * 65}),
    (ONLY_VERDICT, {"code": 0, "seen": "ø" * 33}),
    (ONLY_VERDICT, {"code": 0, "seen": 1}),
]


@pytest.mark.parametrize(("messages", "value"), BAD_MAPS, ids=range(len(BAD_MAPS)))
def test_a_malformed_verdict_or_close_is_a_breach(messages: tuple[Any, ...], value: Any) -> None:
    for message in messages:
        with pytest.raises(RemoteProtocolError, match="malformed") as caught:
            message.decode(packed(value))
        assert caught.value.reason is CloseCode.PROTOCOL


@pytest.mark.parametrize("message", BOTH, ids=["Verdict", "Close"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([0], "it is no map"),
        ({}, "code is missing"),
        ({"code": 65536}, "code must be u16"),
        ({"!new": 0, "code": 0}, "the key '!new' must be understood, and is not"),
    ],
    ids=["array", "empty", "code", "critical"],
)
def test_a_malformed_verdict_or_close_is_told_in_what(message: Any, value: Any, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^a malformed {message.__name__.upper()}: {said}$"):
        message.decode(packed(value))


@pytest.mark.parametrize("message", BOTH, ids=["Verdict", "Close"])
def test_an_unknown_key_of_a_verdict_or_a_close_is_ignored(message: Any) -> None:
    assert message.decode(packed({"code": 0, "new": [1, {}]})) == message.decode(packed({"code": 0}))


@pytest.mark.parametrize(
    "message",
    [
        Verdict(0x10000),
        Verdict(-1),
        Verdict(VerdictCode.READY, seen="s" * 65),
        Verdict(VerdictCode.READY, text="t" * 257),
        Verdict(VerdictCode.READY, retry=-1),
        Close(0x10000),
        Close(CloseCode.IDLE, "ø" * 128 + "o"),
    ],
    ids=range(7),
)
def test_a_verdict_or_a_close_out_of_bounds_cannot_be_encoded(message: Verdict | Close) -> None:
    with pytest.raises(ValueError, match=f"^this {type(message).__name__.upper()} cannot be sent: "):
        message.encode()


# --- Ping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [False, True])
def test_a_ping_comes_back(answer: bool) -> None:
    ping = Ping(b"8 bytes!", answer)
    assert ping.encode() == bytes([answer]) + b"8 bytes!"
    assert Ping.decode(ping.encode()) == ping


def test_a_ping_asks_unless_told() -> None:
    assert Ping(b"8 bytes!") == Ping(b"8 bytes!", False)


@pytest.mark.parametrize(
    "content", [b"", b"\x00", bytes(8), bytes(10), b"\x02" + bytes(8), b"\xff" + bytes(8)], ids=bytes.hex
)
def test_a_malformed_ping_is_a_breach(content: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^a malformed PING$") as caught:
        Ping.decode(content)
    assert caught.value.reason is CloseCode.PROTOCOL


# --- streams --------------------------------------------------------------------------------------------


def test_the_types_and_flags_of_yamux_are_those_of_its_specification() -> None:
    assert {type_.name: type_.value for type_ in MuxType} == {
        "DATA": yamux.DATA,
        "WINDOW_UPDATE": yamux.WINDOW_UPDATE,
        "PING": yamux.PING,
        "GO_AWAY": yamux.GO_AWAY,
    }
    assert {flag.name: flag.value for flag in MuxFlag} == {
        "NONE": yamux.NONE,
        "SYN": yamux.SYN,
        "ACK": yamux.ACK,
        "FIN": yamux.FIN,
        "RST": yamux.RST,
    }


MUX_FRAMES = [
    (MuxFrame(MuxType.DATA, MuxFlag.SYN, 1, 5), "000000010000000100000005"),
    (MuxFrame(MuxType.WINDOW_UPDATE, MuxFlag.ACK | MuxFlag.FIN, 2**32 - 1, 2**32 - 1), "00010006ffffffffffffffff"),
    (MuxFrame(MuxType.PING, MuxFlag.NONE, 0, 0x01020304), "000200000000000001020304"),
    (MuxFrame(MuxType.GO_AWAY, 0xFFFF, 0, 2), "0003ffff0000000000000002"),
]


@pytest.mark.parametrize(("frame", "encoded"), MUX_FRAMES, ids=[frame.type.name for frame, _ in MUX_FRAMES])
@pytest.mark.parametrize("make", [bytes, bytearray])
def test_a_mux_frame_has_the_layout_of_yamux_and_comes_back(
    make: type[bytes] | type[bytearray], frame: MuxFrame, encoded: str
) -> None:
    assert frame.encode().hex() == encoded
    assert MuxFrame.decode(make(frame.encode() + b"a body")) == frame
    assert MuxFrame.decode(make(b"\xffbefore" + frame.encode()), 7) == frame


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        ("010000000000000000000000", "version 1"),
        ("ff0900000000000000000000", "version 255"),
        ("000400000000000000000000", "unknown type 4"),
        ("00ff00000000000000000000", "unknown type 255"),
    ],
)
def test_a_mux_frame_of_another_version_or_type_is_a_breach(encoded: str, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said) as caught:
        MuxFrame.decode(unhex(encoded))
    assert caught.value.reason is CloseCode.PROTOCOL


STREAM_GREETINGS = [
    (StreamOpen("p"), "0170"),
    (StreamOpen("ø" * 64), "80" + "c3b8" * 64),
    (StreamOpen("a\x00b"), "03610062"),
    (StreamAnswer(StreamVerdict.ACCEPTED), "00"),
    (StreamAnswer(StreamVerdict.UNKNOWN_PROTOCOL), "01"),
    (StreamAnswer(StreamVerdict.REFUSED), "0200"),
    (StreamAnswer(StreamVerdict.REFUSED, "nø"), "02036ec3b8"),
    (StreamAnswer(StreamVerdict.REFUSED, "t" * 255), "02ff" + "74" * 255),
]


@pytest.mark.parametrize(("message", "encoded"), STREAM_GREETINGS, ids=range(len(STREAM_GREETINGS)))
def test_the_greeting_of_a_stream_comes_back_whatever_stands_behind_it(
    message: StreamOpen | StreamAnswer, encoded: str
) -> None:
    data = unhex(encoded)
    assert message.encode() == data
    for behind in (b"", b"\x00", b"early data"):
        assert type(message).decode(bytearray(data + behind)) == (message, len(data))


@pytest.mark.parametrize(("message", "encoded"), STREAM_GREETINGS, ids=range(len(STREAM_GREETINGS)))
def test_the_greeting_of_a_stream_is_awaited_until_its_last_byte(
    message: StreamOpen | StreamAnswer, encoded: str
) -> None:
    data = unhex(encoded)
    for cut in range(len(data)):
        assert type(message).decode(data[:cut]) is None


@pytest.mark.parametrize("data", ["00", "81", "ff", "01ff", "03eda080", "02c080", "02c362"])
def test_a_protocol_id_out_of_bounds_is_not_decoded_and_as_soon_as_it_shows(data: str) -> None:
    with pytest.raises(ValueError, match=r"a protocol id of|utf-8"):
        StreamOpen.decode(unhex(data))


@pytest.mark.parametrize("protocol", ["", "p" * 129, "ø" * 64 + "p", "\ud800"], ids=range(4))
def test_a_protocol_id_out_of_bounds_cannot_be_encoded(protocol: str) -> None:
    with pytest.raises(ValueError, match=r"1 to 128 bytes|surrogates"):
        StreamOpen(protocol).encode()


@pytest.mark.parametrize("answer", [*range(3, 256, 36), 255])
def test_another_answer_to_a_stream_is_a_breach(answer: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"answered with {answer}") as caught:
        StreamAnswer.decode(bytes([answer]))
    assert caught.value.reason is CloseCode.PROTOCOL


@pytest.mark.parametrize("text", ["t" * 256, "ø" * 128])
def test_a_text_with_which_a_stream_is_refused_has_at_most_255_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="256 bytes, the limit is 255"):
        StreamAnswer(StreamVerdict.REFUSED, text).encode()


def test_only_a_refusal_carries_a_text() -> None:
    assert StreamAnswer(StreamVerdict.ACCEPTED, "text").encode() == b"\x00"
    assert StreamAnswer(StreamVerdict.UNKNOWN_PROTOCOL, "text").encode() == b"\x01"


def test_a_text_that_is_no_utf8_is_replaced_and_not_refused() -> None:
    assert StreamAnswer.decode(b"\x02\x02\xffa") == (StreamAnswer(StreamVerdict.REFUSED, "�a"), 4)


# --- whatever comes -------------------------------------------------------------------------------------


def decode_greeting(data: bytes, sender: Role) -> None:
    assert Greeting.decode(data, sender).encode() == data


def decode_payload(data: bytes) -> None:
    record, signature = decode_greeting_payload(data)
    padding = len(data) - len(encode_canonical([record, signature, b""]))
    assert data in [encode_canonical([record, signature, bytes(max(0, padding - more))]) for more in (0, 1, 3)]


def decode_preface(data: bytes) -> None:
    decoded = Preface.decode(MAGIC + data)
    if decoded is not None:
        preface, length = decoded
        assert preface.encode() == (MAGIC + data)[:length]


def decode_alert(data: bytes) -> None:
    body = (data or b"\x00")[:65]  # the frame's bounds are 1 to 65
    alert = Alert.decode(body)
    assert alert.encode() in (body, body[:1])


def decode_verdict(data: bytes) -> None:
    assert Verdict.decode(data).encode()[1:6] in data


def decode_close(data: bytes) -> None:
    assert Close.decode(data).encode()[1:6] in data


def decode_ping(data: bytes) -> None:
    assert Ping.decode(data).encode() == data


def decode_mux_frame(data: bytes) -> None:
    header = data[:12].ljust(12, b"\x00")  # it is called with a header
    assert MuxFrame.decode(header).encode() == header


def decode_stream_open(data: bytes) -> None:
    try:
        decoded = StreamOpen.decode(data)
    except ValueError:
        return  # no breach: such a stream is reset
    if decoded is not None:
        opened, length = decoded
        assert opened.encode() == data[:length]


def decode_stream_answer(data: bytes) -> None:
    decoded = StreamAnswer.decode(data)
    if decoded is not None:
        answer, length = decoded
        assert answer.encode() == data[:length] or "\ufffd" in answer.text


DECODERS: dict[str, Callable[[bytes], None]] = {
    "Preface": decode_preface,
    "Alert": decode_alert,
    "greeting of an initiator": lambda data: decode_greeting(data, Role.INITIATOR),
    "greeting of a responder": lambda data: decode_greeting(data, Role.RESPONDER),
    "payload": decode_payload,
    "Verdict": decode_verdict,
    "Close": decode_close,
    "Ping": decode_ping,
    "MuxFrame": decode_mux_frame,
    "StreamOpen": decode_stream_open,
    "StreamAnswer": decode_stream_answer,
}
"""Each decodes, and checks that what it took is what it was given."""

SHORT = {"Preface", "Alert", "Ping", "MuxFrame", "StreamOpen", "StreamAnswer"}
"""Those that a few bytes can be."""

SEEDS = [
    PREFACES[2].encode()[4:],
    Alert(AlertCode.BUSY, retry_after=3).encode(),
    PLAIN.encode(),
    FULL.encode(),
    encode_greeting_payload(PLAIN.encode(), bytes(64)),
    VERDICTS[-2].encode(),
    Close(CloseCode.IDLE, "text").encode(),
    Ping(bytes(8)).encode(),
    MuxFrame(MuxType.DATA, MuxFlag.SYN, 1, 5).encode(),
    StreamOpen("echo").encode(),
    StreamAnswer(StreamVerdict.REFUSED, "text").encode(),
]


def is_breach(decode: Callable[[bytes], None], data: bytes) -> bool:
    """Whether it is refused as the other side's breach; any other error fails the test."""
    try:
        decode(data)
    except RemoteProtocolError:
        return True
    return False


@settings(max_examples=200)
@given(data=st.binary(max_size=400))
@example(data=b"\x91" * 2000)
@example(data=b"\xdf\xff\xff\xff\xff")
@example(data=b"\x81" * 1500)
def test_arbitrary_bytes_are_a_message_or_a_breach(data: bytes) -> None:
    for decoder, decode in DECODERS.items():
        taken = not is_breach(decode, data)
        assert not taken or decoder in SHORT or len(data) > 6, decoder


@settings(max_examples=150)
@given(
    seed=st.sampled_from(SEEDS),
    at=st.integers(0, 300),
    cut=st.integers(0, 8),
    patch=st.binary(max_size=12),
)
def test_a_spoiled_message_is_a_message_or_a_breach(seed: bytes, at: int, cut: int, patch: bytes) -> None:
    spoiled_seed = seed[:at] + patch + seed[at + cut :]
    for decoder, decode in DECODERS.items():
        refused = is_breach(decode, spoiled_seed)
        assert refused is is_breach(decode, spoiled_seed), decoder


@settings(max_examples=200)
@given(values(3))
def test_a_canonical_value_that_is_no_map_is_no_verdict_and_no_close(value: Any) -> None:
    encoded = encode_canonical(value)
    refused = {decoder: is_breach(decode, encoded) for decoder, decode in DECODERS.items()}
    if not isinstance(value, dict) or "code" not in value:
        assert refused["Verdict"]
        assert refused["Close"]


def test_every_seed_is_taken_by_its_own_decoder() -> None:
    """Else the fuzzing above would start from rubbish."""
    own = ["Preface", "Alert", *list(DECODERS)[2:]]
    assert [is_breach(DECODERS[decoder], seed) for decoder, seed in zip(own, SEEDS, strict=True)] == [False] * 11
