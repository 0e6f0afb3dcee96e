"""errors.py: the codes are those of sections 8 and 9, and text of the other side is made safe."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import pytest

import trishake_protocol
from trishake_protocol import (
    RETRYABLE,
    AlertCode,
    CloseCode,
    ForeignProtocol,
    GreetingRefused,
    Identity,
    InvalidPeerId,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    TrishakeError,
    Truncated,
    UnexpectedIdentity,
    VerdictCode,
    code_name,
    escape,
)
from trishake_protocol.errors import FIRST_APPLICATION_VERDICT

from .conftest import TRISHAKE

REFUSALS = TRISHAKE["refusals"]


def test_the_alerts_are_those_of_the_vectors() -> None:
    assert {code.name: code.value for code in AlertCode} == {a["name"]: a["code"] for a in REFUSALS["alerts"]}


def test_the_verdicts_are_those_of_the_vectors() -> None:
    named = {v["name"]: v["map"]["code"] for v in REFUSALS["verdicts"] if not v["name"].startswith("0x")}
    assert {code.name: code.value for code in VerdictCode} == named


def test_the_applications_own_verdicts_begin_at_0x8000() -> None:
    assert FIRST_APPLICATION_VERDICT == 0x8000
    assert max(code.value for code in VerdictCode) < FIRST_APPLICATION_VERDICT


def test_the_close_codes_are_those_of_section_9() -> None:
    names = "NORMAL PROTOCOL INTERNAL GOING_AWAY IDLE REPLACED KEY_LIMIT FLOW_CONTROL POLICY"
    assert [code.name for code in CloseCode] == names.split()
    assert [code.value for code in CloseCode] == list(range(9))


def test_eight_reasons_are_retryable_and_no_other() -> None:
    names = "BUSY TIMEOUT GOING_AWAY CAPACITY SHUTTING_DOWN POLICY_TIMEOUT INTERNAL CROSSING"
    assert sorted(code_name(reason) for reason in RETRYABLE) == sorted(names.split())
    assert not RETRYABLE & set(range(0x10000))  # a number is a code that nobody here knows


def test_codes_of_the_same_number_are_not_equal() -> None:
    """A set of reasons must not mix up an ALERT, a CLOSE and a number that nobody knows."""
    assert AlertCode.BUSY != 5
    assert len({AlertCode.MALFORMED, CloseCode.PROTOCOL, 1}) == 3


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (AlertCode.BUSY, "BUSY"),
        (VerdictCode.SELF, "SELF"),
        (CloseCode.IDLE, "IDLE"),
        (0x8001, "0x8001"),
        (7, "0x0007"),
    ],
)
def test_a_code_without_a_name_is_shown_as_its_number(code: AlertCode, name: str) -> None:
    assert code_name(code) == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("välkommen, 例え 🤝", "välkommen, 例え 🤝"),
        ("one\ntwo\ttab", "one\\ntwo\\ttab"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066a\u2069", "\\u2066a\\u2069"),
        ("\u200e\u200f\u061c", "\\u200e\\u200f\\u061c"),
        ("\u200d joins an emoji", "\u200d joins an emoji"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
        ("", ""),
    ],
)
def test_text_of_the_other_side_is_made_safe_to_show(text: str, shown: str) -> None:
    assert escape(text) == shown


@pytest.mark.parametrize(
    "chars",
    [
        pytest.param([*range(0x20000), *range(0xE0000, 0xE1000)], id="those with properties of their own"),
        pytest.param(range(0x110000), id="all", marks=pytest.mark.slow),
    ],
)
def test_no_control_character_and_no_bidirectional_override_gets_through(chars: Iterable[int]) -> None:
    """From U+20000 on there are ideographs, tags, and what is private or not assigned."""
    left = set(escape("".join(map(chr, chars))))
    assert {char for char in left if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")} == set()
    overrides = {"RLE", "LRE", "RLO", "LRO", "PDF", "RLI", "LRI", "FSI", "PDI"}
    assert {char for char in left if unicodedata.bidirectional(char) in overrides} == set()


TREE = [
    (InvalidPeerId, TrishakeError),
    (ProtocolError, TrishakeError),
    (LocalProtocolError, ProtocolError),
    (RemoteProtocolError, ProtocolError),
    (ForeignProtocol, RemoteProtocolError),
    (Truncated, RemoteProtocolError),
    (GreetingRefused, RemoteProtocolError),
    (UnexpectedIdentity, GreetingRefused),
]


@pytest.mark.parametrize(("child", "parent"), TREE, ids=lambda error: error.__name__)
def test_the_tree_of_errors_is_the_one_in_the_docstring(child: type, parent: type) -> None:
    assert parent in child.__bases__


def test_every_public_error_is_in_the_tree() -> None:
    public = [getattr(trishake_protocol, name) for name in trishake_protocol.__all__]
    errors = {value for value in public if isinstance(value, type) and issubclass(value, BaseException)}
    assert errors == {TrishakeError} | {child for child, _ in TREE}


def test_a_refused_greeting_names_its_reason() -> None:
    error = GreetingRefused(VerdictCode.EXPIRED, "too late")
    assert (str(error), error.reason) == ("EXPIRED: too late", VerdictCode.EXPIRED)


def test_an_unexpected_identity_names_both() -> None:
    expected, actual = Identity.generate().id, Identity.generate().id
    error = UnexpectedIdentity(expected, actual)
    assert (error.expected, error.actual) == (expected, actual)
    assert str(expected) in str(error)
    assert str(actual) in str(error)


@pytest.mark.parametrize(("protocol", "said"), [("SSH", "SSH"), (None, "another protocol")])
def test_a_foreign_protocol_is_named_where_it_is_known(protocol: str | None, said: str) -> None:
    error = ForeignProtocol(protocol)
    assert error.protocol == protocol
    assert str(error) == f"the other side speaks {said}, not Trishake"
