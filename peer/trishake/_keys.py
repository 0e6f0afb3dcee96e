"""Identities in files: private keys as OpenSSH and OpenSSL write them.

A file is looked at before it is opened with a password: what kind of key it is, OpenSSH's format says outside of
the encryption. What reads the key itself is `cryptography`, loaded when a file is first read or written.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

import trishake_protocol
from trishake_protocol import escape
from trishake_protocol.primitives import Ed25519PrivateKey

from ._errors import BadFile, WrongPassword, as_argument
from ._files import FilePath, create_file, expanded, make_directory, read_file

Password = str | bytes | Callable[[], str | bytes] | None
"""Text is taken as UTF-8. A function is asked once, and only if a password is needed."""

_FILE_LIMIT: Final = 64 * 1024

_KDF_ROUNDS: Final = 24
"""Of bcrypt's key derivation, as today's ssh-keygen does: some tenths of a second for who guesses, too."""

_MOST_KDF_ROUNDS: Final = 4096
"""About a minute; a file that asks for more is damaged, or there to keep us busy."""

_MOST_ITERATIONS: Final = 10_000_000
"""Of PKCS#8's key derivations but scrypt: some seconds, and ten times what is advised today."""

_MOST_OF_SCRYPT: Final = 2**21
"""N · r · p of RFC 7914: a second, and with 128 bytes each 256 MiB; OpenSSL's own default is 2^17."""

_MAGIC: Final = b"openssh-key-v1\x00"
_PEM_BEGIN: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_PUBLIC_LINE: Final = re.compile(rb"(ssh|ecdsa|sk)-[\w@.-]{1,60} +AAAA")
_NEEDED: Final = "An Ed25519 key is needed: make one with `ssh-keygen -t ed25519` or `trishake keygen`."
_THE_PRIVATE_ONE: Final = "Give the file without `.pub`: that is the private key."
_DAMAGED: Final = "Restore it from a copy."


class Identity(trishake_protocol.Identity):
    """Who we are: an Ed25519 private key that can be kept in a file.

    It signs greetings, and there is no call that signs anything else with it. `generate()` makes a fresh one,
    `from_seed(seed)` that of 32 known bytes.
    """

    __slots__ = ()

    @classmethod
    def load(cls, path: FilePath, *, password: Password = None) -> Self:
        """The identity in a file: an Ed25519 private key as OpenSSH or, in PKCS#8 and PEM, OpenSSL writes it.

        path: `~` is the home directory; `~/.ssh/id_ed25519` works as it is. At most 64 KiB, and of no use to
            group and others (0600), as ssh wants it.
        password: where the file is encrypted; for one that is not, it is ignored, as ssh does.
        Raises FileNotFoundError; WrongPassword if none was given, or one that does not fit; BadFile for all else
        that is wrong with it, and where an encrypted OpenSSH key lacks the package `bcrypt`.
        """
        place = expanded(path)
        return cls(_private_key(place, _read(place), password))

    @classmethod
    def load_or_create(cls, path: FilePath, *, password: Password = None) -> Self:
        """The identity in a file, which is made, with its directories (0700), if there is none.

        Of several processes that do so at once, all get the same identity. password: as for `load`; a new file
        is encrypted with it. Raises what `load` and `save` raise.
        """
        place = expanded(path)
        if callable(password):
            password = functools.cache(password)  # it is asked once, whatever the file turns out to be
        try:
            return cls.load(place, password=password)
        except FileNotFoundError:
            pass
        if place.is_symlink():
            raise BadFile(place, "it is a symbolic link that leads nowhere", "Remove it, or make what it names.")
        make_directory(place.parent)
        identity = cls.generate()
        try:
            identity.save(place, password=password)
        except FileExistsError:  # another was quicker: that one is the identity
            return cls.load(place, password=password)
        return identity

    def save(
        self,
        path: FilePath,
        *,
        password: Password = None,
        format: Literal["openssh", "pkcs8"] = "openssh",  # noqa: A002
    ) -> None:
        """Write the private key into a new file that nobody else may read (0600): all of it or nothing.

        password: encrypts it; None does not.
        format: `openssh`, which every ssh-keygen reads, or `pkcs8`, for OpenSSL. A password protects better in
            OpenSSH's; that needs the package `bcrypt`.
        Raises FileExistsError if something is there, which is not overwritten; BadFile without `bcrypt`, or a home
        for `~`; OSError if it cannot be written; ValueError for an empty password or another format.
        """
        if format not in ("openssh", "pkcs8"):
            raise ValueError(f"a format of {format!r}, possible are 'openssh' and 'pkcs8'")
        place = expanded(path)
        if format == "openssh" and password is not None and not _bcrypt_is_there():
            raise _lacks_bcrypt(place, "it cannot be encrypted", "or use format='pkcs8'")
        secret = _password(password)
        if secret == b"":
            raise ValueError("an empty password protects nothing; None saves without one")
        create_file(place, _encode(self._private, secret, format))


def _encode(key: Ed25519PrivateKey, secret: bytes | None, format_: str) -> bytes:
    from cryptography.hazmat.primitives import serialization

    shape = serialization.PrivateFormat.OpenSSH if format_ == "openssh" else serialization.PrivateFormat.PKCS8
    encryption: serialization.KeySerializationEncryption
    if secret is None:
        encryption = serialization.NoEncryption()
    elif format_ == "openssh":
        encryption = shape.encryption_builder().kdf_rounds(_KDF_ROUNDS).build(secret)
    else:
        encryption = serialization.BestAvailableEncryption(secret)
    return key.private_bytes(serialization.Encoding.PEM, shape, encryption)


# --- the file -------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return read_file(path, limit=_FILE_LIMIT, others_may="nothing")[0]
    except BadFile:
        # ssh-keygen lets everyone read a public key: that it is one is then what is wrong, not its rights.
        public = _public_in(path)
        if public is None:
            raise
    raise public


def _public_in(path: Path) -> BadFile | None:
    try:
        data, _ = read_file(path, limit=_FILE_LIMIT, others_may="read")
    except BadFile:
        return None
    return _public(path, data)


def _public(path: Path, data: bytes) -> BadFile | None:
    """What to say of a file that holds a public key or a certificate; None if it holds neither."""
    line = _PUBLIC_LINE.search(data)
    labels = _labels(data)
    if _private_labels(labels):
        return None
    if line and line[0].partition(b" ")[0].endswith(b"-cert-v01@openssh.com"):
        return BadFile(path, "it is a certificate, not a private key", _THE_PRIVATE_ONE)
    if any(label.endswith("CERTIFICATE") for label in labels):
        return BadFile(path, "it is a certificate, not a private key", "Give the file of its private key.")
    if line or "PUBLIC KEY" in labels or b"---- BEGIN SSH2 PUBLIC KEY ----" in data:
        return BadFile(path, "it is a public key, not the private one", _THE_PRIVATE_ONE)
    return None


# --- the password ---------------------------------------------------------------------------------------


def _password(password: Password) -> bytes | None:
    if password is None:
        return None
    given = password() if callable(password) else password
    if isinstance(given, bytes):
        return given
    # None too: who asks for a password does not want a file without one.
    if not isinstance(given, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a password is text or bytes, not {type(given).__name__}")
    try:
        return given.encode("utf-8", "surrogateescape")  # bytes that came through os.environ are themselves again
    except UnicodeEncodeError:
        pass  # the error would carry the password
    raise ValueError("a password has a character that is none in UTF-8")


def _needed_password(path: Path, password: Password) -> bytes:
    given = _password(password)
    if given is None:
        raise WrongPassword(path, "it is encrypted, and no password was given", "Give the password of this key.")
    if not given:
        raise WrongPassword(path, "it is encrypted, and the password given is empty", "Give its password.")
    return given


def _wrong_password(path: Path) -> WrongPassword:
    return WrongPassword(path, "it does not open with this password", "Check the password; else it is damaged.")


def _bcrypt_is_there() -> bool:
    from importlib.util import find_spec

    return find_spec("bcrypt") is not None


def _lacks_bcrypt(path: Path, what: str, otherwise: str) -> BadFile:
    what = f"{what}: OpenSSH's encryption needs the package bcrypt"
    return BadFile(path, what, f"Run: pip install 'trishake[ssh]', {otherwise}.")


# --- what is in the file --------------------------------------------------------------------------------


def _private_key(path: Path, data: bytes, password: Password) -> Ed25519PrivateKey:
    label, block = _one_block(path, data)
    key: object | None
    try:
        raw = binascii.a2b_base64(block.split(b"\n", 1)[1].rpartition(b"-----END")[0])
    except binascii.Error:
        raw = b""
    if label == "OPENSSH PRIVATE KEY":
        key = _openssh(path, _block_of(label, raw), raw, password)
    elif label == "ENCRYPTED PRIVATE KEY":
        if not _is_whole(raw):
            raise _damaged(path)
        _check_derivation(path, raw)
        key = _pem(_block_of(label, raw), _needed_password(path, password))
        if key is None:
            raise _wrong_password(path)
    else:
        key = _pem(block, None)
        if key is None and label in _OLD_LABELS:
            raise BadFile(path, f"it is {_OLD_LABELS[label]}", _NEEDED)
    if key is None:
        raise _damaged(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadFile(path, f"it is {_kind(key)}", _NEEDED)
    return key


def _one_block(path: Path, data: bytes) -> tuple[str, bytes]:
    """The label and the text of the private key in PEM. Raises BadFile if there is not this one alone."""
    if not data.strip():
        raise BadFile(path, "it is empty", _DAMAGED)
    if data.startswith(b"PuTTY-User-Key-File-"):
        advice = "Convert it: puttygen KEY.ppk -O private-openssh -o KEY, or `Export OpenSSH key` in PuTTYgen."
        raise BadFile(path, "it is a key in PuTTY's format", advice)
    if (public := _public(path, data)) is not None:
        raise public
    labels = [label for label in _labels(data) if not label.endswith(" PARAMETERS")]
    private = _private_labels(labels)
    if len(private) > 1:
        raise BadFile(path, f"it holds {len(private)} private keys", "Give a file that holds one.")
    if len(labels) > 1:
        advice = "Give a file that holds the private key alone."
        raise BadFile(path, f"it holds more than a private key: {len(labels)} PEM blocks", advice)
    if not private:
        what = f"it is {labels[0]}, not a private key" if labels else "it is not a private key"
        raise BadFile(path, what, "Give one in OpenSSH's format, or in PKCS#8 and PEM (`BEGIN PRIVATE KEY`).")
    label = private[0].encode()
    start = data.index(b"-----BEGIN " + label + b"-----")
    end_line = b"-----END " + label + b"-----"
    end = data.find(end_line, start)
    if end < 0:
        raise BadFile(path, "it is cut off: its END line is missing", _DAMAGED)
    return private[0], data[start : end + len(end_line)] + b"\n"


def _block_of(label: str, raw: bytes) -> bytes:
    """These bytes in PEM. What was looked at is what is read: of a block with more in it, readers differ."""
    return b"-----BEGIN %b-----\n%b-----END %b-----\n" % (label.encode(), base64.encodebytes(raw), label.encode())


def _labels(data: bytes) -> list[str]:
    return [label.decode() for label in _PEM_BEGIN.findall(data)]


def _private_labels(labels: list[str]) -> list[str]:
    return [label for label in labels if label.endswith("PRIVATE KEY")]


def _damaged(path: Path) -> BadFile:
    return BadFile(path, "it is a private key that is cut off or damaged", _DAMAGED)


# --- PKCS#8, and what is older --------------------------------------------------------------------------

_OLD_LABELS: Final = {
    "RSA PRIVATE KEY": "an RSA key",
    "EC PRIVATE KEY": "an ECDSA key",
    "DSA PRIVATE KEY": "a DSA key",
}


_PBES2: Final = bytes.fromhex("2a864886f70d01050d")
_SCRYPT: Final = bytes.fromhex("2b06010401da47040b")
"""Object identifiers in DER."""


class _OfAnotherKind:
    """A private key of which it is not known what it is."""


def _pem(block: bytes, password: bytes | None) -> object | None:
    """The key of a PEM block, of any kind; None if it makes none with this password, or for want of one."""
    from cryptography.exceptions import InternalError, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # An RSA key is read for its name's sake only, and to check a hostile one takes long.
        return load_pem_private_key(block, password, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        return _OfAnotherKind()
    except (ValueError, TypeError, InternalError):  # the last: of an Ed448 key of another length
        return None


def _is_whole(der: bytes) -> bool:
    """Whether this is one DER sequence from its first to its last byte."""
    if len(der) < 2 or der[0] != 0x30:
        return False
    if der[1] < 0x80:
        return len(der) == 2 + der[1]
    length_of_length = der[1] & 0x7F
    return len(der) == 2 + length_of_length + int.from_bytes(der[2 : 2 + length_of_length], "big")


class _Der:
    """Values in DER, one after the other (X.690)."""

    INTEGER: Final = 0x02
    OCTET_STRING: Final = 0x04
    OBJECT_IDENTIFIER: Final = 0x06
    SEQUENCE: Final = 0x30

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def next(self, tag: int) -> bytes:
        """The content of the next value. Raises ValueError if that is of another type, or cut off."""
        if len(self._rest) < 2 or self._rest[0] != tag:
            raise ValueError("another type")
        start, length = 2, self._rest[1]
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(self._rest[2:start], "big")
        content, self._rest = self._rest[start : start + length], self._rest[start + length :]
        if len(content) < length:
            raise ValueError("cut off")
        return content


def _check_derivation(path: Path, der: bytes) -> None:
    """Raises BadFile if to make the key of an encrypted PKCS#8 from its password would take too long."""
    try:
        work, limit = _work_of_derivation(der)
    except ValueError:
        work, limit = 0, 0
    if work < 1:
        raise _damaged(path)
    if work > limit:
        what = f"its encryption asks for {work if work < 2**64 else 'over 2^64'} iterations, the limit is {limit}"
        raise BadFile(path, what, f"Encrypt it anew: openssl pkcs8 -topk8 -in {as_argument(path)}")


def _work_of_derivation(der: bytes) -> tuple[int, int]:
    """What it asks for, and what it may (RFC 8018, appendix A; RFC 7914, section 7). Raises ValueError."""
    encryption = _Der(_Der(_Der(der).next(_Der.SEQUENCE)).next(_Der.SEQUENCE))
    kind, parameters = encryption.next(_Der.OBJECT_IDENTIFIER), _Der(encryption.next(_Der.SEQUENCE))
    if kind == _PBES2:
        derivation = _Der(parameters.next(_Der.SEQUENCE))
        kind, parameters = derivation.next(_Der.OBJECT_IDENTIFIER), _Der(derivation.next(_Der.SEQUENCE))
    parameters.next(_Der.OCTET_STRING)  # the salt
    numbers = [
        int.from_bytes(parameters.next(_Der.INTEGER), "big", signed=True)
        for _ in range(3 if kind == _SCRYPT else 1)
    ]
    return math.prod(numbers) if min(numbers) > 0 else 0, _MOST_OF_SCRYPT if kind == _SCRYPT else _MOST_ITERATIONS


def _kind(key: object) -> str:
    """What kind of key it is, with its article."""
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

    match key:
        case rsa.RSAPrivateKey():
            return f"an RSA key of {key.key_size} bits"
        case ec.EllipticCurvePrivateKey():
            return f"an ECDSA key ({key.curve.name})"
        case dsa.DSAPrivateKey():
            return f"a DSA key of {key.key_size} bits"
        case _OfAnotherKind():
            return "a key of a kind, or encrypted in a way, that cannot be read here"
        case _:
            name = type(key).__name__.removesuffix("PrivateKey")
            return f"{'an' if name[0] in 'EMX' else 'a'} {name} key"


# --- OpenSSH --------------------------------------------------------------------------------------------


class _Fields:
    """The numbers and strings of SSH's encoding, one after the other (RFC 4251, section 5)."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def string(self) -> bytes:
        return self._take(self.number())

    def _take(self, length: int) -> bytes:
        if len(self._rest) < length:
            raise ValueError("cut off")
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken


class _Envelope(NamedTuple):
    """What an OpenSSH key says outside of its encryption."""

    cipher: bytes
    rounds: int
    keys: int
    public: bytes
    """In SSH's encoding: the key's type, then what that type has."""


def _envelope(raw: bytes) -> _Envelope:
    """Raises ValueError if it is no whole one."""
    if not raw.startswith(_MAGIC):
        raise ValueError("not OpenSSH's format")
    fields = _Fields(raw[len(_MAGIC) :])
    cipher, kdf, options, keys, public = (
        fields.string(),
        fields.string(),
        fields.string(),
        fields.number(),
        fields.string(),
    )
    rounds = 0
    if kdf != b"none":
        of_kdf = _Fields(options)
        if not of_kdf.string():
            raise ValueError("no salt")
        rounds = of_kdf.number()
    if keys == 1:
        fields.string()
    return _Envelope(cipher, rounds, keys, public)


def _openssh(path: Path, block: bytes, raw: bytes, password: Password) -> Ed25519PrivateKey:
    try:
        envelope = _envelope(raw)
        public = _Fields(envelope.public)
        kind = public.string()
        point = public.string() if kind == b"ssh-ed25519" else b""
        name = _kind_of_openssh(kind, public)
    except ValueError:
        envelope, kind, point, name = None, b"", b"", ""
    if envelope is None:
        raise _damaged(path)
    if envelope.keys != 1:
        raise BadFile(path, f"it holds {envelope.keys} private keys", "Give a file that holds one.")
    if kind != b"ssh-ed25519":
        raise BadFile(path, f"it is {name}", _NEEDED)
    encrypted = envelope.cipher != b"none"
    if encrypted and not _bcrypt_is_there():
        advice = f"or decrypt it: ssh-keygen -p -N '' -f {as_argument(path)}"
        raise _lacks_bcrypt(path, "it is encrypted", advice)
    if encrypted and not 1 <= envelope.rounds <= _MOST_KDF_ROUNDS:
        what = f"its encryption asks for {envelope.rounds} rounds, the limit is {_MOST_KDF_ROUNDS}"
        raise BadFile(path, what, f"Encrypt it anew: ssh-keygen -p -a {_KDF_ROUNDS} -f {as_argument(path)}")
    key = _decrypted(block, _needed_password(path, password) if encrypted else None)
    if isinstance(key, _OfAnotherKind):
        what = f"it is encrypted with {escape(envelope.cipher[:40].decode(errors='replace'))}"
        raise BadFile(
            path,
            f"{what}, which cannot be read here",
            f"Encrypt it anew: ssh-keygen -p -f {as_argument(path)}",
        )
    if key is None:
        raise _wrong_password(path) if encrypted else _damaged(path)
    if key.public_key().public_bytes_raw() != point:
        raise BadFile(path, "its public key is not that of its private key", _DAMAGED)
    return key


def _decrypted(block: bytes, password: bytes | None) -> Ed25519PrivateKey | _OfAnotherKind | None:
    """The key; None if the block makes none with this password."""
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(block, password)
    except UnsupportedAlgorithm:
        return _OfAnotherKind()
    except (ValueError, TypeError, InvalidTag):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None


def _kind_of_openssh(kind: bytes, rest: _Fields) -> str:
    """What kind of key it is, with its article. Raises ValueError for what is no kind."""
    if kind == b"ssh-rsa":
        rest.string()  # the exponent
        return f"an RSA key of {int.from_bytes(rest.string(), 'big').bit_length()} bits"
    if kind == b"ssh-dss":
        return "a DSA key"
    name = kind.decode("ascii")
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise ValueError("no kind of key")
    if name.startswith("ecdsa-sha2-"):
        return f"an ECDSA key ({name.removeprefix('ecdsa-sha2-')})"
    if name.startswith("sk-"):
        return f"a key in a security key ({name})"
    return f"a key of the type {name}"
