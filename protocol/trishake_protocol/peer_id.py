"""A peer id, the texts it is written as and read from, and the code that two people compare by telephone.

    ae5u3ez53pfldhvuve3jfew7bkreocemy3sxnprr4gdkbwc3l5fpum4p     the 56 characters of section 6, its own text
    ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA… ann@desk               the line of an OpenSSH public key file
    did:key:z6Mki…                                               a W3C did:key
    12D3KooWD3e… and bafzaajaiaejc…                              a libp2p peer id, and the same as a CIDv1

All are the same 32 bytes. Each has one spelling, but for upper and lower case in base32: a text that is accepted
is the text that would be written.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from .errors import InvalidPeerId, escape
from .limits import MAX_PEER_TEXT
from .primitives import SHA256, scrypt

_FIELD_PRIME: Final = 2**255 - 19

_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(y)
    for y in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""The y of the eight points of small order, in each of its encodings, without the sign bit."""

_TEXT_VERSION: Final = b"\x01"
_CHECK_LENGTH: Final = 2

_SSH_TYPE: Final = "ssh-ed25519"
SSH_KEY_HEADER: Final = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"
"""What stands before the 32 bytes of a public key (RFC 8709, section 4)."""

_MULTICODEC_ED25519: Final = b"\xed\x01"
_MULTICODEC_NAMES: Final = {
    b"\xe7\x01": "secp256k1",
    b"\xec\x01": "X25519",
    b"\x80\x24": "P-256",
    b"\x81\x24": "P-384",
    b"\x82\x24": "P-521",
    b"\x85\x24": "RSA",
}
"""By the first two bytes, the varint of the multicodec table."""

_MULTIHASH_ED25519: Final = b"\x00\x24\x08\x01\x12\x20"
"""An identity multihash of 36 bytes: the protobuf {Type: Ed25519, Data: 32 bytes} of libp2p."""

_MULTIHASH_SHA256: Final = b"\x12\x20"
_LIBP2P_KEY_TYPES: Final = {b"\x08\x00": "RSA", b"\x08\x02": "secp256k1", b"\x08\x03": "ECDSA"}
"""By the first field of the protobuf, which follows 00 and a length."""

_CID_V1_LIBP2P_KEY: Final = b"\x01\x72"


class _Spelling(NamedTuple):
    """How one kind of text is spelled.

    what: the kind, for errors. prefix: how it begins. length: characters, the prefix counted. alphabet: of what
    follows the prefix; letters: the same in words. meant: what people mean by a character outside it.
    """

    what: str
    prefix: str
    length: int
    alphabet: str
    letters: str
    meant: dict[str, str]

    def check(self, text: str, *, any_length: bool = False) -> str:
        """What follows the prefix. Raises InvalidPeerId for another length, or naming a foreign character."""
        complaints: list[str] = []
        if len(text) != self.length and not any_length:
            slip = {self.length - 1: ": one too few", self.length + 1: ": one too many"}.get(len(text), "")
            complaints.append(f"{self.what} has {self.length} characters, got {len(text)}{slip}")
        rest = text[len(self.prefix) :]
        for position, char in enumerate(rest, len(self.prefix) + 1):
            if char not in self.alphabet:
                meant = f", perhaps meant as {self.meant[char]}" if char in self.meant else ""
                complaints.append(
                    f"character {position} is {char!r}{meant}: {self.what} is made of {self.letters}"
                )
                break
        if complaints:
            raise InvalidPeerId("; ".join(complaints))
        return rest


_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE64: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

_IN_BASE32: Final = "the letters a to z and the digits 2 to 7"
_IN_BASE58: Final = "letters and digits without 0, I, O and l"
_MEANT_IN_BASE32: Final = {"0": "o", "1": "l or i", "8": "b", "9": "g"}
_MEANT_IN_BASE58: Final = {"0": "o", "O": "o", "I": "i or 1", "l": "L or 1"}

# What follows the prefix is 56 or 64 characters of base32, or 68 of base64: 35, 40 or 51 bytes, with no spare bit
# and no padding. So what has the length and the letters decodes, and is the only spelling of its bytes.
_TEXT: Final = _Spelling("a peer id", "", 56, _BASE32 + _BASE32.upper(), _IN_BASE32, _MEANT_IN_BASE32)
_CID: Final = _Spelling(
    "the CID of an Ed25519 key", "b", 65, _BASE32 + _BASE32.upper(), _IN_BASE32, _MEANT_IN_BASE32
)
_SSH: Final = _Spelling(
    "an ssh-ed25519 key, without its comment,",
    "ssh-ed25519 ",
    80,
    _BASE64,
    "letters, digits, + and /",
    {"-": "+", "_": "/"},
)
_DID: Final = _Spelling("the did:key of an Ed25519 key", "did:key:z", 56, _BASE58, _IN_BASE58, _MEANT_IN_BASE58)
_LIBP2P: Final = _Spelling("the libp2p peer id of an Ed25519 key", "", 52, _BASE58, _IN_BASE58, _MEANT_IN_BASE58)

_NOT_A_KEY: Final = {
    "-----BEGIN": "this is a file of keys in PEM; give the line of the public key, which begins with ssh-ed25519",
    "SHA256:": "this is a fingerprint, from which no key can be had; give the key or the peer id itself",
    "z6Mk": "this is a key in multibase; as a did it begins with did:key:z6Mk",
    "k51": "this is a libp2p key name in base36; give it as 12D3KooW… or as bafz…",
    "k2k4": "this is a libp2p key name in base36, and the SHA-256 of a key, not a key",
}
"""What is shown elsewhere for a key, by how it begins, and what to give instead."""

_PICTURE_WIDTH: Final = 17
_PICTURE_HEIGHT: Final = 9
_PICTURE_VISITS: Final = " .o+=*BOX@%&#/^"

_CODE_DIGITS: Final = 30
_CODE_GROUP: Final = 5


def _check(key: bytes) -> bytes:
    return SHA256.digest(b"trishake/1 peer id\x00" + _TEXT_VERSION + key)[:_CHECK_LENGTH]


@dataclass(frozen=True, slots=True, order=True)
class PeerId:
    """A peer's public key: 32 bytes, and a text of 56 characters that catches a slip of the pen.

    Ordered by its bytes, unsigned. Raises InvalidPeerId if the key is not canonical or of small order.
    A key on no point of the curve passes here; no signature is good under it (section 6).
    """

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != 32:
            raise InvalidPeerId(f"a peer id is 32 bytes, got {len(self.key)}")
        y = self.key[:31] + bytes([self.key[31] & 0x7F])
        if y in _SMALL_ORDER:
            raise InvalidPeerId("this key is of small order: anyone could sign for it")
        if int.from_bytes(y, "little") >= _FIELD_PRIME:
            raise InvalidPeerId("this key is not in its canonical encoding")

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Read any of the text forms; which one it is shows in how it begins.

        The 56 characters, in upper or lower case; an OpenSSH public key line, `ssh-ed25519 AAAA… [comment]`,
        without options in front; `did:key:z6Mk…`; a libp2p peer id, `12D3KooW…` or `bafz…`. At most 1024
        characters, and white space around all but the first. Raises InvalidPeerId, saying what is wrong with it.

        One slip in the 56 characters goes unseen once in 65536 times; the other forms have nothing to catch one.
        """
        if len(text) > MAX_PEER_TEXT:
            raise InvalidPeerId(f"a peer id is written in at most {MAX_PEER_TEXT} characters, got {len(text)}")
        stripped = text.strip()
        for beginning, complaint in _NOT_A_KEY.items():
            if stripped.startswith(beginning):
                raise InvalidPeerId(complaint)
        if stripped.startswith(("ssh-", "ecdsa-", "sk-")) or f" {_SSH_TYPE} " in stripped:
            return cls(_key_of_ssh(stripped))
        if stripped.startswith("did:"):
            return cls(_key_of_did(stripped))
        if stripped.startswith(("12D3", "16Uiu2", "Qm")):
            return cls(_key_of_libp2p(stripped))
        if stripped[:3].lower() == "baf":
            return cls(_key_of_cid(stripped))
        return cls(_key_of_text(text))

    @property
    def short(self) -> str:
        """The first ten characters of the text form, for logs and prompts. Not enough to know a peer by."""
        return str(self)[:10] + "…"

    def ssh(self, comment: str = "") -> str:
        """The line of an OpenSSH `.pub` or `authorized_keys` file: `ssh-ed25519 AAAA… comment`, without a newline.

        Raises ValueError for a comment with control characters, or one that makes the line longer than `parse`
        reads.
        """
        line = " ".join(filter(None, (_SSH_TYPE, base64.b64encode(self._ssh_key).decode(), comment)))
        if escape(comment) != comment:
            raise ValueError(f"a comment in a key file is one line without control characters, got {comment!r}")
        if len(line) > MAX_PEER_TEXT:
            raise ValueError(
                f"a comment has at most {MAX_PEER_TEXT - len(line) + len(comment)} characters, got {len(comment)}"
            )
        return line

    @property
    def did(self) -> str:
        """The W3C did:key: `did:key:z6Mk…`, 56 characters."""
        return "did:key:z" + _base58_encode(_MULTICODEC_ED25519 + self.key)

    @property
    def libp2p(self) -> str:
        """The libp2p peer id: `12D3KooW…`, 52 characters."""
        return _base58_encode(_MULTIHASH_ED25519 + self.key)

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -lf` shows of the key: `SHA256:…`, 50 characters. No key can be read from it."""
        return "SHA256:" + base64.b64encode(self._ssh_digest).decode().rstrip("=")

    def picture(self) -> str:
        """The picture that `ssh-keygen -lvf` draws of the key: 11 lines of 19 characters, no newline at the end.

        For people to see that something is other than it was; two keys can be made whose pictures look alike.
        """
        x, y = start = _PICTURE_WIDTH // 2, _PICTURE_HEIGHT // 2
        visits: dict[tuple[int, int], int] = {}
        for byte in self._ssh_digest:
            for shift in (0, 2, 4, 6):
                step = byte >> shift
                x = min(max(x + (1 if step & 1 else -1), 0), _PICTURE_WIDTH - 1)
                y = min(max(y + (1 if step & 2 else -1), 0), _PICTURE_HEIGHT - 1)
                visits[x, y] = min(visits.get((x, y), 0) + 1, len(_PICTURE_VISITS) - 1)
        shown = {place: _PICTURE_VISITS[count] for place, count in visits.items()} | {start: "S", (x, y): "E"}
        rows = ("".join(shown.get((x, y), " ") for x in range(_PICTURE_WIDTH)) for y in range(_PICTURE_HEIGHT))
        return "\n".join(["+--[ED25519 256]--+", *(f"|{row}|" for row in rows), "+----[SHA256]-----+"])

    @property
    def _ssh_key(self) -> bytes:
        return SSH_KEY_HEADER + self.key

    @property
    def _ssh_digest(self) -> bytes:
        return SHA256.digest(self._ssh_key)

    def __str__(self) -> str:
        raw = _TEXT_VERSION + self.key + _check(self.key)
        return base64.b32encode(raw).decode().lower()

    def __bytes__(self) -> bytes:
        return self.key

    def __repr__(self) -> str:
        return f"PeerId.parse({str(self)!r})"


def verification_code(a: PeerId | str, b: PeerId | str) -> str:
    """What two people read to each other to be sure of both keys: 30 digits in six groups, `00000 00000 …`.

    The same on both sides, whichever id is given first. a, b: ids, or their text. Raises ValueError if they are
    the same id, InvalidPeerId for a text that is none. Takes some 50 ms and 16 MiB: call it from a thread where
    that is too long to wait.

    Whoever stands between the two needs two keys, one to show to each, with which both see one code; among 10^30,
    or 2^100, codes a birthday attack finds such a pair in about 2^50 tries. Each of these tries costs a whole
    scrypt, so that 2^50, which are cheap of a plain hash, are out of reach.
    """
    a, b = (PeerId.parse(each) if isinstance(each, str) else each for each in (a, b))
    if a == b:
        raise ValueError(f"two peers are compared, and both ids are {a}: pass our own and theirs")
    first, second = sorted((a.key, b.key))
    raw = scrypt(first + second, b"trishake/1 verification code\x00", n=2**14, r=8, p=1, length=32)
    digits = f"{int.from_bytes(raw, 'big') % 10**_CODE_DIGITS:0{_CODE_DIGITS}}"
    return " ".join(digits[i : i + _CODE_GROUP] for i in range(0, _CODE_DIGITS, _CODE_GROUP))


def _key_of_text(text: str) -> bytes:
    _TEXT.check(text)
    raw = base64.b32decode(text.upper())
    version, key, check = raw[:1], raw[1:33], raw[33:]
    if version != _TEXT_VERSION:
        raise InvalidPeerId(
            f"a peer id of version {version[0]}, and this software reads version 1: "
            "is one of its first two characters wrong?"
        )
    if check != _check(key):
        raise InvalidPeerId(
            "a character of this peer id is wrong: its check characters do not fit; compare it with the original"
        )
    return key


def _key_of_ssh(text: str) -> bytes:
    kind = text.split(maxsplit=1)[0]
    if f" {_SSH_TYPE} " in text and kind != _SSH_TYPE:
        raise InvalidPeerId(f"something stands in front of {_SSH_TYPE}: leave out options, and names of hosts")
    if kind != _SSH_TYPE:
        raise InvalidPeerId(f"this is a key of type {_shown(kind)}: a peer is an {_SSH_TYPE} key")
    line = re.fullmatch(r"(\S+ \S+)(?: (.*))?", text)
    if line is None:
        raise InvalidPeerId(f"a public key is one line: {_SSH_TYPE}, the key and a comment, one space apart")
    comment: str = line[2] or ""
    if escape(comment) != comment:
        raise InvalidPeerId("the comment of a public key has no control characters: leave it out")
    raw = base64.b64decode(_SSH.check(line[1]))
    if not raw.startswith(SSH_KEY_HEADER):
        raise InvalidPeerId(f"the line says {_SSH_TYPE}, the key in it is none: a character of it is wrong")
    return raw[len(SSH_KEY_HEADER) :]


def _key_of_did(text: str) -> bytes:
    method = text.split(":", 2)[1]
    if not text.startswith("did:key:"):
        raise InvalidPeerId(f"this did is of the method {_shown(method)}: only a did:key is a key")
    if not text.startswith(_DID.prefix):
        raise InvalidPeerId(f"a did:key is in base58, and so begins with {_DID.prefix}")
    raw = _base58_decode(_DID.check(text, any_length=not text.startswith("did:key:z6Mk")))
    if not raw.startswith(_MULTICODEC_ED25519):
        kind = _MULTICODEC_NAMES.get(raw[:2], "another type, or a character of it is wrong")
        raise InvalidPeerId(f"a peer is an Ed25519 key, did:key:z6Mk…; this did:key is of {kind}")
    return raw[len(_MULTICODEC_ED25519) :]


def _key_of_libp2p(text: str) -> bytes:
    return _key_of_multihash(_base58_decode(_LIBP2P.check(text, any_length=not text.startswith("12D3KooW"))))


def _key_of_cid(text: str) -> bytes:
    # Its first bytes before its length: that of another CID differs, and to hear of it would help nobody.
    head = base64.b32decode(_CID.check(text[:17], any_length=True).ljust(16, "a").upper())
    if not head.startswith(_CID_V1_LIBP2P_KEY):
        raise InvalidPeerId("this CID is of some content, not of a key: that of a peer begins with bafz")
    start = len(_CID_V1_LIBP2P_KEY)
    _key_of_multihash(head[start:])
    return base64.b32decode(_CID.check(text).upper())[start + len(_MULTIHASH_ED25519) :]


def _key_of_multihash(raw: bytes) -> bytes:
    """What follows the head in the libp2p peer id of an Ed25519 key. Raises InvalidPeerId for another type."""
    if raw.startswith(_MULTIHASH_ED25519):
        return raw[len(_MULTIHASH_ED25519) :]
    kind = "of another type, or a character of it is wrong"
    if raw.startswith(_MULTIHASH_SHA256):
        kind = "the SHA-256 of a key, most often an RSA key, and holds none"
    elif raw[:1] == b"\x00" and raw[2:4] in _LIBP2P_KEY_TYPES:
        kind = f"of type {_LIBP2P_KEY_TYPES[raw[2:4]]}"
    raise InvalidPeerId(f"a peer is an Ed25519 key, 12D3KooW…; this libp2p peer id is {kind}")


def _shown(word: str) -> str:
    """A word of somebody's text, short and safe enough for an error."""
    return repr(word if len(word) <= 40 else word[:40] + "…")


def _base58_encode(raw: bytes) -> str:
    number = int.from_bytes(raw, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\x00"))) + digits


def _base58_decode(text: str) -> bytes:
    """`text` is of the alphabet, and no longer than MAX_PEER_TEXT: the time grows with its square.

    No two texts decode to the same bytes.
    """
    number = 0
    for char in text:
        number = number * 58 + _BASE58.index(char)
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
