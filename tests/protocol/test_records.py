"""records.py: frames and their bounds, records, rekeying, and the limit of a key."""

from __future__ import annotations

import pytest

from trishake_protocol import CloseCode, RemoteProtocolError, Suite
from trishake_protocol.messages import Close, FrameType, RecordType
from trishake_protocol.noise import CipherState
from trishake_protocol.records import RECORD_OVERHEAD, FrameHeader, RecordReader, RecordWriter, frame_bounds

from .conftest import load, unhex

KEY = bytes(range(32))


def writer_and_reader(n: int = 0) -> tuple[RecordWriter, RecordReader]:
    states = CipherState(key=KEY), CipherState(key=KEY)
    for state in states:
        state.n = n
    return RecordWriter(states[0]), RecordReader(states[1])


def sealed(plaintext: bytes, n: int = 0) -> bytes:
    """The body of a record with this plaintext, as it stands."""
    state = CipherState(key=KEY)
    state.n = n
    return state.encrypt_with_ad(b"", plaintext)


# --- frames ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_header_needs_three_bytes(length: int) -> None:
    assert FrameHeader.decode(b"\x10\x00\x05"[:length]) is None


@pytest.mark.parametrize("behind", [b"", b"rest"])
@pytest.mark.parametrize("make", [bytes, bytearray])
def test_a_header_is_a_type_and_a_big_endian_length(make: type[bytes] | type[bytearray], behind: bytes) -> None:
    assert FrameHeader.decode(make(b"\x10\x12\x34" + behind)) == FrameHeader(0x10, 0x1234)


SIZES = {0x0001: (32, 96, 64), 0x0002: (1216, 1200, 64), 0x0101: (48, 96, 64), 0x0102: (1248, 1200, 64)}
"""Section 5, without P; 128 <= P <= 16384."""


def test_the_frames_of_a_greeting_have_the_lengths_of_section_5(suite: Suite) -> None:
    syn, syn_ack, ack = SIZES[suite.id]
    assert list(frame_bounds(FrameType.SYN, suite)) == [syn]
    for type_, overhead in ((FrameType.SYN_ACK, syn_ack), (FrameType.ACK, ack)):
        bounds = frame_bounds(type_, suite)
        assert (bounds[0], bounds[-1]) == (overhead + 128, overhead + 16384)


@pytest.mark.parametrize(("type_", "least", "most"), [(FrameType.ALERT, 1, 65), (FrameType.RECORD, 16, 65535)])
def test_the_other_frames_have_bounds_without_a_suite(type_: FrameType, least: int, most: int) -> None:
    bounds = frame_bounds(type_, None)
    assert (bounds[0], bounds[-1]) == (least, most)


# --- records --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", RecordType)
@pytest.mark.parametrize("padding", [0, 1, 300])
@pytest.mark.parametrize("content", [b"", b"content", b"ends in zero\x00\x00", bytes(100)], ids=range(4))
def test_a_record_comes_out_as_it_went_in(type_: RecordType, padding: int, content: bytes) -> None:
    writer, reader = writer_and_reader()
    frame = writer.encode(type_, content, padding)
    assert frame[0] == FrameType.RECORD
    assert len(frame) == 3 + len(content) + 1 + padding + 16 == len(content) + padding + RECORD_OVERHEAD
    assert reader.decode(frame[3:]) == (type_, content)


def test_the_largest_record_fills_its_frame() -> None:
    writer, reader = writer_and_reader()
    content = b"\x07" * 65518
    frame = writer.encode(RecordType.DATA, content)
    assert frame[1:3] == b"\xff\xff"
    assert reader.decode(frame[3:]) == (RecordType.DATA, content)


def test_content_too_long_for_a_frame_is_not_encrypted() -> None:
    """Its caller cuts it; else a nonce would be used for what cannot be sent."""
    writer, reader = writer_and_reader()
    for content, padding in ((bytes(65519), 0), (bytes(65518), 1)):
        with pytest.raises(AssertionError):
            writer.encode(RecordType.DATA, content, padding)
    assert reader.decode(writer.encode(RecordType.DATA, b"next")[3:]) == (RecordType.DATA, b"next")


def test_content_in_parts_is_one_record_without_padding() -> None:
    (in_parts, _), (whole, _) = writer_and_reader(), writer_and_reader()
    parts = in_parts.encode_parts(RecordType.DATA, (b"con", memoryview(b"te"), b"nt"))
    assert b"".join(parts) == whole.encode(RecordType.DATA, b"content")


@pytest.mark.parametrize(
    ("plaintext", "said"),
    [
        (b"", "no type"),
        (b"\x00", "no type"),
        (bytes(1000), "no type"),
        (b"content\x09", "unknown type 9"),
        (b"content\xff\x00", "unknown type 255"),
        (b"contentX\x00", "unknown type 88"),
    ],
    ids=["empty", "zero", "zeros", "type-9", "type-255", "type-88"],
)
def test_a_plaintext_without_a_known_type_is_a_breach(plaintext: bytes, said: str) -> None:
    _, reader = writer_and_reader()
    with pytest.raises(RemoteProtocolError, match=said) as caught:
        reader.decode(sealed(plaintext))
    assert caught.value.reason is CloseCode.PROTOCOL


def test_a_record_that_does_not_decrypt_does_not_advance_the_nonce() -> None:
    writer, reader = writer_and_reader()
    good = writer.encode(RecordType.DATA, b"one")[3:]
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-1], bytes(16)):
        with pytest.raises(RemoteProtocolError, match="record 0 does not decrypt") as caught:
            reader.decode(bad)
        assert caught.value.reason is CloseCode.PROTOCOL
    assert reader.decode(good) == (RecordType.DATA, b"one")


def test_records_open_in_their_order_and_once() -> None:
    writer, reader = writer_and_reader()
    one, two, three = (writer.encode(RecordType.DATA, text)[3:] for text in (b"1", b"2", b"3"))
    assert reader.decode(one) == (RecordType.DATA, b"1")
    for wrong in (one, three):
        with pytest.raises(RemoteProtocolError, match="record 1 does not decrypt"):
            reader.decode(wrong)
    assert reader.decode(two) == (RecordType.DATA, b"2")


# --- rekey ----------------------------------------------------------------------------------------------

REKEYED = {vector["k"]: unhex(vector["ChaChaPoly"]) for vector in load("derived/rekey.json")["vectors"]}
TWICE = {vector["k"]: unhex(vector["ChaChaPoly_twice"]) for vector in load("derived/rekey.json")["vectors"]}


def under(key: bytes, n: int, plaintext: bytes) -> bytes:
    state = CipherState(key=key)
    state.n = n
    return state.encrypt_with_ad(b"", plaintext)


def test_the_key_is_replaced_before_every_65536th_record_and_the_nonce_goes_on() -> None:
    """All of the 131,074 records, so that no count of ours can be off by one."""
    writer, reader = writer_and_reader()
    keys = (KEY, REKEYED[KEY.hex()], TWICE[KEY.hex()])
    for n in range(2 * 65536 + 2):
        body = writer.encode(RecordType.DATA, b"x")[3:]
        if n % 65536 in (0, 1, 65535):
            assert body == under(keys[n // 65536], n, b"x\x01"), n
        assert reader.decode(body) == (RecordType.DATA, b"x"), n


def test_a_side_that_does_not_rekey_is_not_understood() -> None:
    _, reader = writer_and_reader(n=65536)
    with pytest.raises(RemoteProtocolError, match="record 65536 does not decrypt"):
        reader.decode(under(KEY, 65536, b"x\x01"))


# --- the limit of a key ---------------------------------------------------------------------------------

LIMIT = 2**63


def test_a_writer_is_exhausted_at_the_limit_and_not_before() -> None:
    writer, _ = writer_and_reader(n=LIMIT - 1)
    assert not writer.exhausted
    writer.encode(RecordType.DATA, b"the last")
    assert writer.exhausted


def test_the_last_nonce_before_the_limit_carries_data() -> None:
    writer, reader = writer_and_reader(n=LIMIT - 1)
    assert reader.decode(writer.encode(RecordType.DATA, b"x")[3:]) == (RecordType.DATA, b"x")


@pytest.mark.parametrize(
    ("type_", "content"),
    [
        (RecordType.DATA, b"x"),
        (RecordType.PING, b"\x00" + b"8 bytes!"),
        (RecordType.CLOSE, Close().encode()),
        (RecordType.CLOSE, Close(CloseCode.GOING_AWAY).encode()),
    ],
    ids=["data", "ping", "close-normal", "close-going-away"],
)
def test_nothing_but_close_key_limit_is_taken_at_the_limit(type_: RecordType, content: bytes) -> None:
    writer, reader = writer_and_reader(n=LIMIT)
    with pytest.raises(RemoteProtocolError, match=r"^a record beyond the key's limit$") as caught:
        reader.decode(writer.encode(type_, content)[3:])
    assert caught.value.reason is CloseCode.PROTOCOL


def test_close_key_limit_is_taken_at_the_limit() -> None:
    writer, reader = writer_and_reader(n=LIMIT)
    content = Close(CloseCode.KEY_LIMIT).encode()
    assert reader.decode(writer.encode(RecordType.CLOSE, content)[3:]) == (RecordType.CLOSE, content)
