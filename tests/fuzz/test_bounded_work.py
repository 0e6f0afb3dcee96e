"""What is made to keep us busy, or to fill our memory, is refused before it does.

Nothing here measures time: what a hostile input costs is counted, in calls or in bytes; or there is a limit.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from trishake._errors import BadFile, WrongPassword
from trishake._keys import Identity
from trishake._messages import _decode as decode_message
from trishake._messages import encode_message

# --- messages -------------------------------------------------------------------------------------------


def test_a_map_has_at_most_1024_keys_that_are_ints_so_that_few_can_collide() -> None:
    """87,000, chosen to collide, are a message of half a megabyte; to make a dict of it took six seconds."""
    assert len(decode_message(msgpack.packb({i * 2**40: i for i in range(1024)}))) == 1024
    with pytest.raises(ValueError, match="a map with 1025 keys that are ints, the limit is 1024"):
        decode_message(msgpack.packb([{"k": {i * 2**40: i for i in range(1025)}}]))


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
