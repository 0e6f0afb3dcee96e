"""What is made to keep us busy, or to fill our memory, is refused before it does.

Nothing here measures time: what a hostile input costs is counted, in calls or in bytes; or there is a limit.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from trishake._errors import BadFile, WrongPassword
from trishake._keys import Identity
from trishake._messages import _decode as decode_message
from trishake._messages import encode_message
from trishake_protocol.messages import MuxFrame, MuxType

from .mutations import growing
from .parsers import PARSERS, Parser
from .runs import peak_memory

# --- every parser ---------------------------------------------------------------------------------------

QUICK: Final = [parser for parser in PARSERS.values() if parser.slowness < 20]
"""Those that run no event loop, and draw no picture."""


def calls(parser: Parser, data: bytes) -> int:
    """How many functions were called for this input, Python's own included."""
    count = 0

    def called(*_: object) -> None:
        nonlocal count
        count += 1

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        parser.refuses(data)
    finally:
        sys.setprofile(before)
    return count


def grown(parser: Parser, length: int) -> list[bytes]:
    return [data for seed in parser.seeds[:4] for data in growing(seed, length)]


@pytest.mark.parametrize("parser", QUICK, ids=str)
def test_sixteen_times_the_input_is_little_more_than_sixteen_times_the_work(parser: Parser) -> None:
    parser.refuses(parser.seeds[0])  # what is made at first use is no work of the input
    some = max(calls(parser, data) for data in grown(parser, 256))
    many = max(calls(parser, data) for data in grown(parser, 16 * 256))
    assert many <= 20 * some + 500


@pytest.mark.parametrize("parser", QUICK, ids=str)
def test_memory_grows_with_the_input_and_no_faster(parser: Parser) -> None:
    parser.refuses(parser.seeds[0])
    for data in grown(parser, 8192):
        assert peak_memory(parser, data) <= 256 * 1024 + 256 * len(data)


MOST: Final = b"\xff\xff\xff\xff"
ANNOUNCING: Final = {
    "canonical-msgpack": [
        b"\xdd" + MOST,
        b"\xdf" + MOST,
        b"\xc6" + MOST,
        b"\xdb" + MOST,
        b"\xc9" + MOST + b"\x01",
    ],
    "greeting-payload": [b"\x93\xc6" + MOST, b"\xdd" + MOST, b"\x93" + b"\xdc\xff\xff" * 400],
    "verdict": [b"\xdf" + MOST, b"\x81\xa4code\xdd" + MOST],
    "message": [
        *(b"\xdd" + MOST, b"\xdf" + MOST, b"\xc6" + MOST, b"\xdb" + MOST),
        *(b"\x91\xdd" + MOST, b"\x81\xc0\xdf" + MOST, (b"\xdd" + MOST) * 900, (b"\xdc\xff\xff") * 900),
    ],
    "message-channel": [MOST, b"\x7f\xff\xff\xff" + bytes(1000), b"\x00\x00\x10\x00" + b"\xdd" + MOST],
    "reply": [MOST, b"\x00\x00\x00\x05\xdd" + MOST],
    "ssh-agent": [
        MOST,
        b"\x00\x04\x00\x00",
        b"\x00\x00\x00\x05\x0c" + MOST,
        b"\x00\x00\x00\x09\x0c" + MOST + MOST,
    ],
    "streams-responder": [
        MuxFrame(MuxType.DATA, 1, 1, 2**32 - 1).encode(),
        MuxFrame(MuxType.DATA, 1, 1, 2**18).encode(),
    ],
    "stream-open": [b"\xff", b"\x80"],
    "session-awaiting-syn-public": [b"\xf0\x9f\xa4\x9d\x01\x01\x00\x02\xff" + MOST, b"\x01\xff\xff"],
    "session-awaiting-ack-public": [b"\x03\xff\xff", b"\x7f\xff\xff", b"\x03\x40\x50"],
    "session-open-responder": [b"\xff\xff"],
    "record": [bytes(1)],
    "identity-openssh-private-key": [b"openssh-key-v1\x00" + MOST, b"openssh-key-v1\x00" + bytes(12) + MOST * 2],
    "identity-encrypted-private-key": [b"\x30\x84" + MOST, b"\x30\xff" + MOST * 40],
}
"""By parser: inputs that say of something in them that it is as long as can be said, and it is not there."""


@pytest.mark.parametrize("name", ANNOUNCING)
def test_what_is_announced_takes_no_room_until_it_is_there(name: str) -> None:
    parser = PARSERS[name]
    parser.refuses(parser.seeds[0])  # a library that is loaded at first use takes more
    usual = max(peak_memory(parser, data) for data in parser.seeds)
    for data in ANNOUNCING[name]:
        assert peak_memory(parser, data) < usual + 64 * 1024 + 20 * len(data), data[:16].hex()


# --- messages -------------------------------------------------------------------------------------------


def packed(value: object) -> bytes:
    return cast("bytes", msgpack.packb(value))  # pyright: ignore[reportUnknownMemberType]


def test_a_map_has_at_most_1024_keys_that_are_ints_so_that_few_can_collide() -> None:
    """87,000, chosen to collide, are a message of half a megabyte; to make a dict of it took six seconds."""
    assert len(decode_message(packed({i * 2**40: i for i in range(1024)}))) == 1024
    with pytest.raises(ValueError, match="a map with 1025 keys that are ints, the limit is 1024"):
        decode_message(packed([{"k": {i * 2**40: i for i in range(1025)}}]))


def test_such_a_map_is_not_sent_either() -> None:
    with pytest.raises(ValueError, match="a map with 1025 keys that are ints"):
        encode_message(dict.fromkeys(range(1025)), 2**20)


@pytest.mark.parametrize("keys", [map(str, range(3000)), map(b"%d".__mod__, range(3000))], ids=["str", "bytes"])
def test_keys_that_are_hashed_with_a_secret_are_not_counted(keys: Iterator[object]) -> None:
    value = dict.fromkeys([*keys, *range(1024)], 7)
    assert decode_message(encode_message(value, 2**20)[4:]) == value


# --- key files ------------------------------------------------------------------------------------------


PASSWORD: Final = "nine lives of a cat"


def der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = bytes((len(content),)) if len(content) < 0x80 else b"\x82" + len(content).to_bytes(2, "big")
    return bytes((tag,)) + length + content


def integer(number: int) -> bytes:
    return der(2, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


PBES2: Final = bytes.fromhex("06092a864886f70d01050d")
PBKDF2: Final = bytes.fromhex("06092a864886f70d01050c")
SCRYPT: Final = bytes.fromhex("06092b06010401da47040b")
PKCS12_3DES: Final = bytes.fromhex("060a2a864886f70d010c0103")
HMAC_SHA256: Final = bytes.fromhex("300c06082a864886f70d02090500")
AES_256_CBC: Final = der(0x30, bytes.fromhex("060960864801650304012a"), der(4, bytes(16)))


def encrypted(algorithm: bytes) -> bytes:
    raw = der(0x30, algorithm, der(4, bytes(64)))
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n%b-----END ENCRYPTED PRIVATE KEY-----\n" % (
        base64.encodebytes(raw)
    )


def by_pbkdf2(iterations: int) -> bytes:
    derivation = der(0x30, PBKDF2, der(0x30, der(4, b"saltsalt"), integer(iterations), HMAC_SHA256))
    return encrypted(der(0x30, PBES2, der(0x30, derivation, AES_256_CBC)))


def by_scrypt(n: int, r: int, p: int) -> bytes:
    derivation = der(0x30, SCRYPT, der(0x30, der(4, b"saltsalt"), integer(n), integer(r), integer(p)))
    return encrypted(der(0x30, PBES2, der(0x30, derivation, AES_256_CBC)))


def by_pkcs12(iterations: int) -> bytes:
    return encrypted(der(0x30, PKCS12_3DES, der(0x30, der(4, b"saltsalt"), integer(iterations))))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to write a private key into."""
    path = tmp_path / "key"
    path.touch(0o600)
    return path


@pytest.mark.parametrize(
    "data",
    [
        by_pbkdf2(10_000_001),
        by_pbkdf2(2**63),
        by_pbkdf2(2**200),
        by_pkcs12(10_000_001),
        by_scrypt(2**19, 8, 1),
        by_scrypt(2**14, 8, 17),
        by_scrypt(2**14, 2**30, 1),
    ],
    ids=["PBKDF2", "PBKDF2 2^63", "PBKDF2 2^200", "PKCS#12", "scrypt N", "scrypt p", "scrypt r"],
)
def test_a_key_whose_password_would_take_long_to_try_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(
        BadFile, match=r"asks for .+ iterations, the limit is \d+.*Encrypt it anew: openssl"
    ) as caught:
        Identity.load(file, password=PASSWORD)
    assert not isinstance(caught.value, WrongPassword)


@pytest.mark.parametrize(
    "data", [by_pbkdf2(1), by_pkcs12(1), by_scrypt(2**14, 8, 1)], ids=["PBKDF2", "PKCS#12", "scrypt"]
)
def test_a_password_that_is_quick_to_try_is_tried(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(WrongPassword, match="does not open with this password"):
        Identity.load(file, password=PASSWORD)


@pytest.mark.parametrize("data", [by_pbkdf2(0), by_pbkdf2(-1), by_scrypt(-2, -2, 1), encrypted(der(0x30, PBES2))])
def test_a_key_whose_encryption_makes_no_sense_is_damaged(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(BadFile, match="cut off or damaged"):
        Identity.load(file, password=PASSWORD)


def test_the_key_that_was_looked_at_is_the_key_that_is_read(file: Path) -> None:
    """A second key in the line of BEGIN was read instead, with as many rounds as it likes."""
    other, seen = (Ed25519PrivateKey.from_private_bytes(seed * 32) for seed in (b"o", b"s"))
    encryption = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(1).build(PASSWORD.encode())
    begin, *hidden, end = other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption).strip().splitlines()
    _, *shown, _ = seen.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption).strip().splitlines()
    file.write_bytes(b"\n".join([begin + b"".join(hidden), *shown, end, b""]))
    assert Identity.load(file, password=PASSWORD).id.key == seen.public_key().public_bytes_raw()


@pytest.mark.parametrize("kind", ["2b6571", "2b656f"], ids=["Ed448", "X448"])
def test_a_key_of_a_length_that_its_kind_has_not_is_damaged(file: Path, kind: str) -> None:
    """OpenSSL fails at it in a way that `cryptography` does not foresee."""
    raw = der(0x30, integer(0), der(0x30, der(6, bytes.fromhex(kind))), der(4, der(4, bytes(32))))
    file.write_bytes(b"-----BEGIN PRIVATE KEY-----\n%b-----END PRIVATE KEY-----\n" % base64.encodebytes(raw))
    with pytest.raises(BadFile, match="cut off or damaged"):
        Identity.load(file)
