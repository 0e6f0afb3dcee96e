"""patterns.py: the rows are those of section 5."""

from __future__ import annotations

import pytest

from trishake_protocol import PRIVATE_SUITES, PUBLIC_SUITES, Role, Suite
from trishake_protocol.patterns import SUITES, XX, Pattern, Token, XXhfs, XXhfs_psk0, XXpsk0

E, S, EE, ES, SE, PSK, E1, EKEM1 = Token


@pytest.mark.parametrize(
    ("pattern", "messages"),
    [
        (XX, ((E,), (E, EE, S, ES), (S, SE))),
        (XXhfs, ((E, E1), (E, EE, EKEM1, S, ES), (S, SE))),
        (XXpsk0, ((PSK, E), (E, EE, S, ES), (S, SE))),
        (XXhfs_psk0, ((PSK, E, E1), (E, EE, EKEM1, S, ES), (S, SE))),
    ],
    ids=lambda value: value.name if isinstance(value, Pattern) else "",
)
def test_a_pattern_has_the_tokens_of_section_5(pattern: Pattern, messages: tuple[tuple[Token, ...], ...]) -> None:
    assert pattern.messages == messages
    assert pattern.psk is any(PSK in message for message in messages)


@pytest.mark.parametrize(
    ("id_", "noise_name", "pattern"),
    [
        (0x0002, "Noise_XXhfs_25519+MLKEM768_ChaChaPoly_SHA256", XXhfs),
        (0x0001, "Noise_XX_25519_ChaChaPoly_SHA256", XX),
        (0x0102, "Noise_XXhfs+psk0_25519+MLKEM768_ChaChaPoly_SHA256", XXhfs_psk0),
        (0x0101, "Noise_XXpsk0_25519_ChaChaPoly_SHA256", XXpsk0),
    ],
)
def test_a_suite_has_the_id_and_the_name_of_section_5(id_: int, noise_name: str, pattern: Pattern) -> None:
    suite = SUITES[id_]
    assert (suite.id, suite.noise_name, suite.pattern) == (id_, noise_name, pattern)
    assert str(suite) == f"0x{id_:04x} {noise_name}"


def test_bit_0x0100_of_a_suite_means_psk(suite: Suite) -> None:
    assert suite.pattern.psk is bool(suite.id & 0x0100)


def test_the_lengths_of_a_suite_are_those_of_its_tokens(suite: Suite) -> None:
    """Counted from the pattern, so that a new row cannot have a wrong length."""
    size = {E: 32, S: 32, E1: 1184, EKEM1: 1088}
    has_key = False
    lengths = []
    for message in suite.pattern.messages:
        length = 0
        for token in message:
            length += size.get(token, 0)
            if token in (S, E1, EKEM1) and has_key:
                length += 16
            if token in (EE, ES, SE, PSK, EKEM1) or (token is E and suite.pattern.psk):
                has_key = True
        lengths.append(length + (16 if has_key else 0))
    assert lengths == [suite.syn, suite.syn_ack, suite.ack]


def test_the_default_of_each_kind_of_network_is_the_hybrid_suite() -> None:
    assert PUBLIC_SUITES == (0x0002, 0x0001)
    assert PRIVATE_SUITES == (0x0102, 0x0101)


def test_the_other_role_is_the_other_side() -> None:
    assert Role.INITIATOR.other is Role.RESPONDER
    assert Role.RESPONDER.other is Role.INITIATOR
