"""_trust.py: what a policy is told, and what it may say."""

from __future__ import annotations

from typing import Any

import pytest

from trishake import (
    Acceptance,
    AlertCode,
    Greeting,
    Introduction,
    InvalidPeerId,
    PeerId,
    Rejection,
    Role,
    VerdictCode,
    accept,
    anyone,
    only,
    reject,
)

from .conftest import ADA, BOB, EVE


def introduction_of(peer: PeerId) -> Introduction:
    greeting = Greeting(Role.INITIATOR.value, peer.key, (1,), 0, agent="a/1", app=b"app")
    return Introduction(peer, Role.INITIATOR, "192.0.2.7:4711", greeting, bytes(8))


async def test_anyone_is_welcome_to_anyone() -> None:
    assert await anyone(introduction_of(EVE.id)) == accept()


@pytest.mark.parametrize("peers", [(ADA.id, BOB.id), (str(ADA.id), BOB.id), (str(ADA.id).upper(), str(BOB.id))])
async def test_only_these_are_welcome(peers: tuple[PeerId | str, ...]) -> None:
    policy = only(*peers)
    assert await policy(introduction_of(ADA.id)) == accept()
    assert await policy(introduction_of(BOB.id)) == accept()
    assert await policy(introduction_of(EVE.id)) == reject(VerdictCode.IDENTITY_UNKNOWN)


async def test_only_nobody_is_nobody() -> None:
    assert await only()(introduction_of(ADA.id)) == reject(VerdictCode.IDENTITY_UNKNOWN)


def test_only_reads_its_ids_at_once() -> None:
    with pytest.raises(InvalidPeerId):
        only("ada")


def test_an_introduction_has_the_greetings_agent_and_app_at_hand() -> None:
    introduction = introduction_of(ADA.id)
    assert (introduction.agent, introduction.app) == ("a/1", b"app")


def test_what_a_decision_says() -> None:
    assert accept() == Acceptance(None)
    assert accept("come in") == Acceptance("come in")
    assert reject() == Rejection(VerdictCode.POLICY, None, None)
    assert reject(0x8001, "no", retry_after=5) == Rejection(0x8001, "no", 5)


@pytest.mark.parametrize("text", ["x" * 256, "ä" * 128, ""])
def test_a_text_may_be_256_bytes(text: str) -> None:
    assert accept(text).text == text
    assert reject(text=text).text == text


@pytest.mark.parametrize("text", ["x" * 257, "ä" * 128 + "x", "\ud800"])
def test_a_text_that_no_verdict_can_carry_is_refused_where_it_is_made(text: str) -> None:
    with pytest.raises(ValueError, match=r"256 bytes|surrogates"):
        accept(text)
    with pytest.raises(ValueError, match=r"256 bytes|surrogates"):
        reject(text=text)


@pytest.mark.parametrize(
    "reason", [*(code for code in VerdictCode if code is not VerdictCode.READY), 0x8000, 0xFFFF]
)
def test_a_reason_is_a_verdict_code_or_the_applications_own(reason: VerdictCode | int) -> None:
    assert reject(reason).reason == reason


@pytest.mark.parametrize("reason", [VerdictCode.READY, 0, 0x0203, 0x7FFF, 0x10000, -1])
def test_no_other_reason_will_do(reason: VerdictCode | int) -> None:
    with pytest.raises(ValueError, match=r"READY|0x8000 to 0xFFFF|u16"):
        reject(reason)


@pytest.mark.parametrize("retry_after", [-1, 1.5, True, 2**64, "soon"])
def test_a_retry_that_no_verdict_can_carry_is_refused_where_it_is_made(retry_after: Any) -> None:
    with pytest.raises(ValueError, match=r"uint|64 bits"):
        reject(retry_after=retry_after)


@pytest.mark.parametrize(
    "reason",
    [
        AlertCode.BUSY,
        "no",
        None,
    ],
)
def test_what_is_no_reason_of_a_verdict_is_refused_where_it_is_made(reason: Any) -> None:
    with pytest.raises(ValueError, match="code"):
        reject(reason)


@pytest.mark.parametrize("mistaken", [ADA, ADA.id.key, None], ids=["an identity", "bytes", "nothing"])
def test_only_refuses_what_could_never_be_a_peer(mistaken: Any) -> None:
    """It would be equal to nobody's id, and so refuse everybody without a word."""
    with pytest.raises(TypeError, match="a PeerId or its text is needed"):
        only(BOB.id, mistaken)
