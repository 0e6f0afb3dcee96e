"""peer_id.py: which keys may name a peer, every text of one, and the code that two people compare."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trishake_protocol import Identity, InvalidPeerId, PeerId, TrishakeError, verification_code
from trishake_protocol.limits import MAX_PEER_TEXT
from trishake_protocol.primitives import verify_ed25519

from .conftest import TRISHAKE, load, unhex

KNOWN = TRISHAKE["peer_ids"]
MALFORMED = load("trishake-v1-malformed.json")["peer_ids"]
SMALL_ORDER = load("ed25519/small-order-encodings.json")
SPECCHECK = load("ed25519/speccheck-cases.json")
FORMS = load("peer-id-forms.json")
P = 2**255 - 19

TEXT: str = KNOWN[0]["text"]
PEER = PeerId.parse(TEXT)
PEERS = st.binary(min_size=32, max_size=32).map(lambda seed: Identity.from_seed(seed).id)


def encoded(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


# --- the key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", SMALL_ORDER["masked"])
@pytest.mark.parametrize("sign", [0x00, 0x80], ids=["plus", "minus"])
def test_a_key_of_small_order_is_refused_in_each_of_its_14_encodings(y: str, sign: int) -> None:
    key = unhex(y)[:31] + bytes([unhex(y)[31] | sign])
    with pytest.raises(InvalidPeerId, match="small order"):
        PeerId(key)
    with pytest.raises(InvalidPeerId, match="small order"):
        PeerId.parse(text_of(key))


@pytest.mark.parametrize("sign", [0, 1], ids=["plus", "minus"])
@pytest.mark.parametrize("above", range(19))
def test_a_key_beyond_the_field_prime_is_refused(above: int, sign: int) -> None:
    with pytest.raises(InvalidPeerId, match=r"canonical|small order"):
        PeerId(encoded(P + above, sign))


def test_the_largest_canonical_key_of_no_small_order_is_taken() -> None:
    assert PeerId(encoded(P - 2)).key == encoded(P - 2)


SPECCHECK_VERDICTS = [
    # refused as a peer id, signature good under the key
    (0, True, None),
    (1, True, None),
    (2, False, True),  # R of small order, an honest key
    (3, False, True),  # good with and without the cofactor
    (4, False, False),  # good with the cofactor only
    (5, False, False),  # the same, reduced first
    (6, False, False),  # S > L
    (7, False, False),  # S much larger than L
    (8, False, False),  # R not canonical
    (9, False, False),  # the same, hashed unreduced
    (10, True, None),
    (11, True, None),
]


@pytest.mark.parametrize(("number", "refused", "good"), SPECCHECK_VERDICTS)
def test_speccheck_is_judged_as_rfc_8032_without_the_cofactor(number: int, refused: bool, good: bool) -> None:
    """OpenSSL lets 0, 1, 10 or 11 through; the peer id is what refuses them."""
    case: dict[str, str] = SPECCHECK[number]
    key = unhex(case["pub_key"])
    if refused:
        with pytest.raises(InvalidPeerId):
            PeerId(key)
    else:
        assert verify_ed25519(PeerId(key).key, unhex(case["signature"]), unhex(case["message"])) is good


def test_the_key_under_which_one_signature_fits_every_message_names_nobody() -> None:
    with pytest.raises(InvalidPeerId):
        PeerId(unhex(SMALL_ORDER["universal_forgery"]["public_key"]))


def test_the_universal_signature_is_bad_under_an_honest_key() -> None:
    signature = unhex(SMALL_ORDER["universal_forgery"]["signature"])
    assert not verify_ed25519(Identity.generate().id.key, signature, b"anything")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidPeerId, match=f"32 bytes, got {length}"):
        PeerId(b"\x07" * length)


# --- the text -------------------------------------------------------------------------------------------


def text_of(key: bytes, version: bytes = b"\x01") -> str:
    """The text form by the letter of section 6, for keys that PeerId would refuse."""
    check = hashlib.sha256(b"trishake/1 peer id\x00" + version + key).digest()[:2]
    return base64.b32encode(version + key + check).decode().lower()


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["text"][:10])
def test_the_text_reads_back_in_either_case(known: dict[str, str]) -> None:
    peer = PeerId(unhex(known["key"]))
    mixed = "".join(char.upper() if i % 2 else char for i, char in enumerate(known["text"]))
    for text in (known["text"], known["text"].upper(), mixed):
        assert PeerId.parse(text) == peer
    assert known["text"] == text_of(peer.key)


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case["name"])
def test_a_malformed_text_is_refused(case: dict[str, str]) -> None:
    assert case["expected"] == "INVALID"
    with pytest.raises(InvalidPeerId):
        PeerId.parse(case["text"])


@pytest.mark.parametrize(
    "text",
    ["=" * 56, "a" * 50 + "======", "a" * 55 + "=", "8" * 56, "ſ" * 56, "a" * 55 + "\x00", "-" * 56],
    ids=["padding", "padded-31", "padded-34", "digit-eight", "long-s", "nul", "dashes"],
)
def test_a_text_of_the_right_length_and_the_wrong_letters_is_refused(text: str) -> None:
    with pytest.raises(InvalidPeerId):
        PeerId.parse(text)


ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def refused(texts: Iterable[str]) -> None:
    for text in texts:
        with pytest.raises(InvalidPeerId):
            PeerId.parse(text)


# A slip is missed once in 65536 times, so every slip is tried on ids that are fixed.
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["text"][:10])
def test_every_slip_of_one_character_is_caught(known: dict[str, str]) -> None:
    text: str = known["text"]
    letters = ALPHABET + "0189-é"
    for i, char in enumerate(text):
        refused(text[:i] + letter + text[i + 1 :] for letter in letters.replace(char, ""))
        refused(text[:i] + letter + text[i:] for letter in letters)
        refused([text[:i] + text[i + 1 :]])
    refused(text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(55) if text[i] != text[i + 1])


@given(PEERS, st.integers(0, 55), st.sampled_from(ALPHABET))
def test_a_slip_that_is_not_caught_is_another_text_and_not_another_spelling(
    peer: PeerId, at: int, by: str
) -> None:
    text = str(peer)
    slip = text[:at] + by + text[at + 1 :]
    try:
        read = PeerId.parse(slip)
    except InvalidPeerId:
        return
    assert str(read) == slip
    assert (read == peer) == (slip == text)


def test_an_invalid_peer_id_is_a_value_error_and_one_of_ours() -> None:
    assert issubclass(InvalidPeerId, ValueError)
    assert issubclass(InvalidPeerId, TrishakeError)


def test_a_peer_id_shows_itself_as_it_is_read() -> None:
    peer = PeerId.parse(TEXT)
    assert repr(peer) == f"PeerId.parse({TEXT!r})"
    assert eval(repr(peer), {"PeerId": PeerId}) == peer
    assert peer.short == TEXT[:10] + "…"


def test_peer_ids_are_ordered_by_their_bytes_unsigned() -> None:
    low, middle, high = (PeerId(first + bytes(30) + b"\x01") for first in (b"\x03", b"\x7f", b"\x80"))
    assert sorted([high, low, middle]) == [low, middle, high]
    assert low < middle < high


def test_equal_keys_are_equal_peers() -> None:
    assert len({PeerId.parse(TEXT), PeerId.parse(TEXT.upper())}) == 1


def test_a_peer_id_can_be_pickled_and_copied() -> None:
    assert pickle.loads(pickle.dumps(PEER)) == PEER
    assert copy.copy(PEER) == PEER


# --- other texts ----------------------------------------------------------------------------------------

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def base58(raw: bytes) -> str:
    """By the letter of the base58btc draft: long division in base 256, byte by byte."""
    digits: list[int] = []
    for byte in raw:
        carry = byte
        for i, digit in enumerate(digits):
            carry += digit << 8
            carry, digits[i] = divmod(carry, 58)
        while carry:
            carry, digit = divmod(carry, 58)
            digits.append(digit)
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + "".join(BASE58[digit] for digit in reversed(digits))


def did_of(raw: bytes) -> str:
    return "did:key:z" + base58(raw)


def cid_of(raw: bytes) -> str:
    return "b" + base64.b32encode(raw).decode().lower().rstrip("=")


def ssh_of(raw: bytes, kind: str = "ssh-ed25519") -> str:
    return f"{kind} {base64.b64encode(raw).decode()}"


def string(raw: bytes) -> bytes:
    """A string of RFC 4251."""
    return len(raw).to_bytes(4, "big") + raw


MULTIHASH = bytes.fromhex("002408011220")
CID = b"\x01\x72" + MULTIHASH
SSH = string(b"ssh-ed25519") + (32).to_bytes(4, "big")

FORM: dict[str, Callable[[PeerId], str]] = {
    "own": str,
    "ssh": PeerId.ssh,
    "ssh-comment": lambda peer: peer.ssh("ann@desk, the old one – ø"),
    "did": lambda peer: peer.did,
    "libp2p": lambda peer: peer.libp2p,
    "cid": lambda peer: cid_of(CID + peer.key),
}


@pytest.mark.parametrize("case", FORMS["did_key"], ids=lambda case: case["text"][-6:])
def test_the_did_keys_of_the_method_s_own_vectors(case: dict[str, str]) -> None:
    peer = Identity.from_seed(unhex(case["seed"])).id
    assert peer.did == case["text"]
    assert PeerId.parse(case["text"]) == peer


@pytest.mark.parametrize("case", FORMS["libp2p"], ids=lambda case: case["text"][-6:])
def test_the_libp2p_ids_that_go_libp2p_made(case: dict[str, str]) -> None:
    peer = Identity.from_seed(unhex(case["seed"])).id
    assert peer.key == unhex(case["key"])
    assert peer.libp2p == case["text"]
    assert PeerId.parse(case["text"]) == peer


@pytest.mark.parametrize("case", FORMS["good"], ids=lambda case: case["text"][-6:])
def test_a_published_libp2p_id_reads_back(case: dict[str, str]) -> None:
    assert PeerId.parse(case["text"]).libp2p == case["text"]


@pytest.mark.parametrize("case", FORMS["same"], ids=lambda case: case["base58"][-6:])
def test_a_published_cid_is_the_same_peer_in_either_case(case: dict[str, str]) -> None:
    for cid in (case["cid"], case["cid"].upper()):
        assert PeerId.parse(cid).libp2p == case["base58"]


@pytest.mark.parametrize("case", FORMS["refused"], ids=lambda case: case["text"][:20])
def test_a_key_of_another_type_is_refused_by_its_name(case: dict[str, str]) -> None:
    with pytest.raises(InvalidPeerId, match=case["names"]):
        PeerId.parse(case["text"])


@pytest.mark.parametrize("form", FORM)
@given(PEERS, st.sampled_from(["{}", " {}", "{}\n", "\t{} \r\n", "\n\n{}"]))
def test_white_space_may_stand_around_each_form_but_our_own(form: str, peer: PeerId, around: str) -> None:
    text = around.format(FORM[form](peer))
    if form == "own" and text != str(peer):
        with pytest.raises(InvalidPeerId):
            PeerId.parse(text)
    else:
        assert PeerId.parse(text) == peer


@given(PEERS)
def test_each_form_is_what_its_specification_says(peer: PeerId) -> None:
    assert peer.did == did_of(b"\xed\x01" + peer.key)
    assert peer.libp2p == base58(MULTIHASH + peer.key)
    assert peer.ssh() == ssh_of(SSH + peer.key)
    assert (len(peer.did), len(peer.libp2p), len(peer.ssh()), len(peer.fingerprint)) == (56, 52, 80, 50)


@given(
    st.text(max_size=90) | st.from_regex(r"(did:key:z|12D3KooW|baf|Qm|ssh-ed25519 |sk-|z6Mk)[1-9A-Za-z =+/]{0,99}")
)
def test_any_text_is_a_peer_id_in_one_of_its_forms_or_is_refused(text: str) -> None:
    try:
        peer = PeerId.parse(text)
    except InvalidPeerId:
        return
    read = text.strip()
    comment = read.partition(" ")[2].partition(" ")[2]
    spellings = {peer.did, peer.libp2p, peer.ssh(comment)}
    assert read in spellings or read.lower() in {str(peer), cid_of(CID + peer.key)}


@pytest.mark.parametrize("form", ["did", "libp2p", "cid", "ssh"])
@given(PEERS, st.data())
def test_a_slip_in_another_form_never_gives_the_same_peer(form: str, peer: PeerId, data: st.DataObject) -> None:
    text = FORM[form](peer)
    i = data.draw(st.integers(0, len(text) - 1))
    slips = [
        text[:i] + text[i + 1 :],
        text[:i] + data.draw(st.characters(exclude_characters=text[i])) + text[i + 1 :],
        text[:i] + data.draw(st.sampled_from("1Az= ")) + text[i:],
    ]
    for slip in slips:
        try:
            read = PeerId.parse(slip)
        except InvalidPeerId:
            continue
        assert read != peer or slip.strip().lower() == text.lower()


HALF = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
K = PEER.key

REFUSED = {
    "one too few": (TEXT[:-1], r"56 characters, got 55: one too few$"),
    "one too many": (TEXT + "a", r"56 characters, got 57: one too many$"),
    "something else": ("hello", r"56 characters, got 5$"),
    "nothing": ("", r"56 characters, got 0$"),
    "zero": (
        TEXT[:11] + "0" + TEXT[12:],
        r"^character 12 is '0', perhaps meant as o: .* a to z and the digits 2 to 7$",
    ),
    "one": (TEXT[:55] + "1", r"^character 56 is '1', perhaps meant as l or i:"),
    "eight": ("8" + TEXT[1:], r"^character 1 is '8', perhaps meant as b:"),
    "nine": (TEXT[:1] + "9" + TEXT[2:], r"^character 2 is '9', perhaps meant as g:"),
    "dash": (TEXT[:4] + "-" + TEXT[4:], r"got 57: one too many; character 5 is '-':"),
    "kelvin": (TEXT[:30] + "\u212a" + TEXT[31:], r"^character 31 is '\u212a':"),
    "surrogate": (TEXT[:30] + "\udc80" + TEXT[31:], r"^character 31 is '\\udc80':"),
    "check": (TEXT[:-1] + "q", r"^a character of this peer id is wrong: its check characters do not fit"),
    "version": (
        "ai5u3ez53pfldhvuve3jfew7bkreocemy3sxnprr4gdkbwc3l5fpunpd",
        r"version 2, .*reads version 1: is one of",
    ),
    "too long": ("a" * (MAX_PEER_TEXT + 1), f"at most {MAX_PEER_TEXT} characters, got {MAX_PEER_TEXT + 1}"),
    "white space": (" " * MAX_PEER_TEXT + TEXT, "at most"),
    "pem": ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk", r"^this is a file of keys in PEM; (?!.*b3B)"),
    "fingerprint": (PEER.fingerprint, "this is a fingerprint"),
    "multibase": (PEER.did[8:], "begins with did:key:z6Mk"),
    "rsa": ("ssh-rsa AAAAB3NzaC1yc2E= ann", "of type 'ssh-rsa': a peer is an ssh-ed25519 key"),
    "ecdsa": ("ecdsa-sha2-nistp256 AAAA", "of type 'ecdsa-sha2-nistp256'"),
    "security key": ("sk-ssh-ed25519@openssh.com AAAA", "of type 'sk-ssh-ed25519@openssh.com'"),
    "certificate": ("ssh-ed25519-cert-v01@openssh.com AAAA", "of type 'ssh-ed25519-cert-v01@openssh.com'"),
    "long type": ("ssh-" + "x" * 99, r"of type 'ssh-x{36}…'"),
    "options": ('no-pty,command="ls" ' + PEER.ssh("a"), "stands in front of ssh-ed25519: leave out"),
    "known hosts": ("host.example " + PEER.ssh(), "stands in front of ssh-ed25519: leave out"),
    "no key": ("ssh-ed25519", "one line: ssh-ed25519, the key and a comment, one space apart"),
    "two spaces": (PEER.ssh().replace(" ", "  "), "one space apart"),
    "tab": (PEER.ssh().replace(" ", "\t"), "one space apart"),
    "key on the next line": (PEER.ssh().replace(" ", "\n"), "one space apart"),
    "two lines": (PEER.ssh("a") + "\n" + PEER.ssh("b"), "one space apart"),
    "escape": (PEER.ssh() + " \x1b[2J", "comment .* control characters"),
    "return": (PEER.ssh() + " a\rb", "comment .* control characters"),
    "bidi": (PEER.ssh() + " \u202e", "comment .* control characters"),
    "ssh short": (PEER.ssh()[:-1], r"80 characters, got 79: one too few$"),
    "ssh long": (PEER.ssh() + "A", r"80 characters, got 81: one too many$"),
    "ssh padded": (PEER.ssh() + "====", r"80 characters, got 84; character 81 is '=':"),
    "ssh url-safe": (HALF + "_" + "A" * 42, r"^character 38 is '_', perhaps meant as /:"),
    "ssh inner type": (ssh_of(string(b"ssh-ed25518") + string(K)), "says ssh-ed25519, the key in it is none"),
    "ssh inner length": (ssh_of(string(b"ssh-ed25519") + (31).to_bytes(4, "big") + K), "the key in it is none"),
    "ssh trailing": (ssh_of(SSH + K + b"\0\0\0"), "80 characters, got 84"),
    "did web": ("did:web:example.org", "of the method 'web': only a did:key"),
    "did nothing": ("did:", "of the method ''"),
    "did base": ("did:key:u7QEE", "begins with did:key:z$"),
    "did short": (PEER.did[:-1], r"the did:key of an Ed25519 key has 56 characters, got 55: one too few$"),
    "did long": (PEER.did + "z", r"56 characters, got 57: one too many$"),
    "did url": (f"{PEER.did}#{PEER.did[8:]}", r"56 characters, got 105; character 57 is '#':"),
    "did zero": (
        PEER.did[:20] + "0" + PEER.did[21:],
        r"^character 21 is '0', perhaps meant as o: .* without 0, I, O and l$",
    ),
    "did l": (PEER.did[:20] + "l" + PEER.did[21:], r"^character 21 is 'l', perhaps meant as L or 1:"),
    "did of no type": (did_of(b"\x55" + K), "is of another type, or a character of it is wrong"),
    "did out of range": ("did:key:z6Mk" + "z" * 44, "another type, or a character of it is wrong"),
    "did 31 bytes": (did_of(b"\xed\x01" + K[1:]), "32 bytes, got 31"),
    "did leading zero": ("did:key:z1" + PEER.did[9:], "another type"),
    "did empty": ("did:key:z", "another type"),
    "libp2p short": (
        PEER.libp2p[:-1],
        r"the libp2p peer id of an Ed25519 key has 52 characters, got 51: one too few$",
    ),
    "libp2p I": (PEER.libp2p[:9] + "I" + PEER.libp2p[10:], r"^character 10 is 'I', perhaps meant as i or 1:"),
    "libp2p out of range": ("12D3KooW" + "z" * 44, "another type, or a character of it is wrong"),
    "libp2p stump": ("12D3", "another type"),
    "libp2p ECDSA": (cid_of(b"\x01\x72\x00\x2a\x08\x03" + bytes(38)), "of type ECDSA"),
    "libp2p inline RSA": (cid_of(b"\x01\x72\x00\x2a\x08\x00" + bytes(38)), "of type RSA"),
    "libp2p wrong length": (cid_of(b"\x01\x72\x00\x25\x08\x01\x12\x20" + K), "another type"),
    "cid short": (cid_of(CID + K)[:-1], r"the CID of an Ed25519 key has 65 characters, got 64: one too few$"),
    "cid long": (cid_of(CID + K) + "a", r"65 characters, got 66: one too many$"),
    "cid one": (
        cid_of(CID + K)[:40] + "1" + cid_of(CID + K)[41:],
        r"^character 41 is '1', perhaps meant as l or i:",
    ),
    "cid one early": ("baf1", r"^character 4 is '1', perhaps"),
    "cid stump": ("bafz", "another type"),
    "cid of another hash": (cid_of(b"\x01\x72\x16\x20\x08\x02" + bytes(30)), "is of another type"),
    "cid of raw bytes": (cid_of(b"\x01\x55\x00\x20" + K), "CID is of some content"),
}
"""What is given, and what is said of it."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_peer_id_is_refused_with_what_is_wrong(name: str) -> None:
    text, complaint = REFUSED[name]
    with pytest.raises(InvalidPeerId, match=complaint) as caught:
        PeerId.parse(text)
    assert len(str(caught.value)) < 250
    assert all(unicodedata.category(char) not in {"Cc", "Cs", "Cf"} for char in str(caught.value))


@pytest.mark.parametrize("form", ["own", "did", "libp2p", "cid", "ssh"])
def test_a_key_of_small_order_is_refused_in_every_form(form: str) -> None:
    key = encoded(1)
    texts = {
        "own": text_of(key),
        "did": did_of(b"\xed\x01" + key),
        "libp2p": base58(MULTIHASH + key),
        "cid": cid_of(CID + key),
        "ssh": ssh_of(SSH + key),
    }
    with pytest.raises(InvalidPeerId, match="small order"):
        PeerId.parse(texts[form])


@pytest.mark.parametrize("y", [2, P - 2, 256**31], ids=["least", "greatest", "high"])
@pytest.mark.parametrize("form", FORM)
def test_keys_at_the_edges_have_every_form(form: str, y: int) -> None:
    for sign in (0, 1):
        peer = PeerId(encoded(y, sign))
        assert PeerId.parse(FORM[form](peer)) == peer


@pytest.mark.parametrize(
    "comment", ["a\nssh-rsa AAAA", "a\r", "\x00", "\x1b[2J", "\t", "\x7f", "\u2028", "\u202e", "\ud800"]
)
def test_a_comment_of_more_than_one_plain_line_is_refused(comment: str) -> None:
    with pytest.raises(ValueError, match="one line without control characters"):
        PEER.ssh(comment)


def test_a_line_is_never_longer_than_is_read() -> None:
    longest = "x" * (MAX_PEER_TEXT - 81)
    assert PeerId.parse(PEER.ssh(longest)) == PEER
    with pytest.raises(ValueError, match=f"at most {len(longest)} characters, got {len(longest) + 1}"):
        PEER.ssh(longest + "x")


# --- as ssh-keygen has it -------------------------------------------------------------------------------


def ssh_keygen(*arguments: str | Path) -> str:
    program = shutil.which("ssh-keygen")
    if program is None:
        pytest.fail("ssh-keygen is not here: install the OpenSSH client (openssh-client, openssh), and test again")
    return subprocess.run([program, *arguments], capture_output=True, encoding="utf-8", check=True).stdout


@pytest.mark.parametrize("number", range(4))
def test_a_key_that_ssh_keygen_made_is_read_and_shown_as_it_shows_it(tmp_path: Path, number: int) -> None:
    comment = ["ann@desk", "two words", "", "ø"][number]
    ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", tmp_path / "key")
    line = (tmp_path / "key.pub").read_text(encoding="utf-8")
    peer = PeerId.parse(line)
    assert peer.ssh(comment) == line.removesuffix("\n").rstrip(" ")
    assert_shown_alike(peer, tmp_path / "key.pub")


# 43 ends where it began, and 81 and 123 come to one place as often as there are signs for, and more often.
@pytest.mark.parametrize("number", [*range(8), 43, 81, 123])
def test_ssh_keygen_reads_and_shows_our_line_as_we_do(tmp_path: Path, number: int) -> None:
    peer = Identity.from_seed(number.to_bytes(32, "big")).id
    (tmp_path / "key.pub").write_text(peer.ssh("bob") + "\n", encoding="utf-8")
    assert_shown_alike(peer, tmp_path / "key.pub")


def assert_shown_alike(peer: PeerId, path: Path) -> None:
    shown, *picture = ssh_keygen("-lvf", path).splitlines()
    assert shown.split(" ")[:2] == ["256", peer.fingerprint]
    assert peer.picture().split("\n") == picture


def test_a_key_of_another_type_that_ssh_keygen_made_is_named(tmp_path: Path) -> None:
    ssh_keygen("-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "key")
    with pytest.raises(InvalidPeerId, match="ecdsa-sha2-nistp256"):
        PeerId.parse((tmp_path / "key.pub").read_text(encoding="utf-8"))
    with pytest.raises(InvalidPeerId, match="a file of keys"):
        PeerId.parse((tmp_path / "key").read_text(encoding="utf-8"))


# --- the code -------------------------------------------------------------------------------------------

ZERO, ONE, TWO, THREE = (Identity.from_seed(n.to_bytes(32, "big")).id for n in range(4))


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        (ZERO, ONE, "93294 89972 96077 81408 97044 72283"),
        (ONE, TWO, "14332 65094 62150 51935 68011 17978"),
        (ZERO, THREE, "06744 69760 10633 88994 16019 75575"),
    ],
)
def test_the_code_is_that_of_an_independent_computation_on_both_sides(a: PeerId, b: PeerId, code: str) -> None:
    """The numbers were computed with hashlib.scrypt from the text of the specification."""
    assert verification_code(a, b) == verification_code(str(b), a.did) == code


@given(PEERS, PEERS)
@settings(max_examples=3)
def test_the_code_is_scrypt_of_both_keys_in_order(a: PeerId, b: PeerId) -> None:
    assume(a != b)
    low, high = sorted([bytes(a), bytes(b)])
    salt = b"trishake/1 verification code\x00"
    raw = hashlib.scrypt(low + high, salt=salt, n=16384, r=8, p=1, dklen=32, maxmem=2**26)
    digits = str(int.from_bytes(raw, "big"))[-30:]
    code = verification_code(a, b)
    assert code.replace(" ", "") == digits
    assert [len(group) for group in code.split(" ")] == [5] * 6


def test_there_is_no_code_for_a_peer_and_itself() -> None:
    with pytest.raises(ValueError, match="pass our own and theirs"):
        verification_code(PEER, PeerId.parse(PEER.did))


def test_scrypt_is_not_imported_before_it_is_asked_for() -> None:
    script = "import sys, trishake_protocol; print('cryptography.hazmat.primitives.kdf.scrypt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
