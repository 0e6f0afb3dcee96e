"""_trust.py: what a policy is told, and what it may say."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from typing import Any

import pytest
import trio

from trishake import (
    Acceptance,
    AlertCode,
    Decision,
    Greeting,
    Introduction,
    InvalidPeerId,
    PeerId,
    Policy,
    Rejected,
    Rejection,
    Role,
    Untrusted,
    VerdictCode,
    accept,
    anyone,
    only,
    reject,
)
from trishake._trust import all_of, any_of, ask, ask_policy, blocked

from .conftest import ADA, ANYWHERE, BOB, EVE, Watch
from .world import echo, peer


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


@pytest.mark.parametrize("reason", ["IDENTITY_UNKNOWN", None, b"no"])
def test_what_is_no_code_at_all_is_told_where_to_find_one(reason: Any) -> None:
    with pytest.raises(ValueError, match=rf"VerdictCode\.POLICY.*not {reason!r}"):
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


# --- why, which is ours -------------------------------------------------------------------------------


def test_why_is_for_our_own_side_and_of_any_length() -> None:
    why = "Because. " * 1000
    rejection = reject(VerdictCode.IDENTITY_UNKNOWN, why=why)
    assert (rejection.why, rejection.text) == (why, None)
    error = rejection.refusal(EVE.id)
    assert type(error) is Untrusted
    assert (error.verdict, error.peer, error.reason) == (rejection, EVE.id, VerdictCode.IDENTITY_UNKNOWN)
    assert str(error) == f"refused by us: our policy does not take {EVE.id} (IDENTITY_UNKNOWN). {why}"


@pytest.mark.parametrize("why", [None, ""])
def test_without_a_why_the_error_says_what_to_do_all_the_same(why: str | None) -> None:
    assert str(reject(0x8001, "no", why=why).refusal(EVE.id)) == (
        f'refused by us: our policy does not take {EVE.id} (0x8001: "no"). '
        "Change the policy if it should be let in."
    )


def test_what_a_policy_has_taken_over_from_the_peer_does_not_write_our_log() -> None:
    message = str(
        reject(text="a\x1b[2J", why="its agent is \x1b[2J\n2026-01-01 all is well\u202e").refusal(EVE.id)
    )
    assert message.isprintable()
    assert message.endswith(r"its agent is \x1b[2J\n2026-01-01 all is well\u202e")


@pytest.mark.parametrize("why", [b"bytes", 1, ValueError("an error, not its text")])
def test_a_why_that_is_no_text_is_refused_where_it_is_made(why: Any) -> None:
    with pytest.raises(TypeError, match="why is a text, not "):
        reject(why=why)


async def test_why_is_in_our_own_error_and_not_in_what_the_peer_is_told() -> None:
    async def secretive(_: Introduction) -> Decision:
        return reject(VerdictCode.POLICY, "not today", why="Her line in the list is struck out.")

    watch = Watch()
    async with peer(BOB, trust=secretive, observers=[watch]) as bob, peer(ADA) as ada:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected) as told:
            await ada.dial(listener.invite)
        ours = await watch.wait_failed()
        assert "Her line" not in str(told.value)
        assert told.value.text == "not today"
        assert isinstance(ours, Untrusted)
        assert str(ours).endswith('(POLICY: "not today"). Her line in the list is struck out.')
        there = await ada.listen(ANYWHERE)
        with pytest.raises(Untrusted, match="Her line in the list is struck out"):
            await bob.dial(there.invite)


# --- policies made of others ----------------------------------------------------------------------------


def says(decision: Any, asked: list[Any] | None = None) -> Policy:
    """A policy that always says the same, and notes that it was asked."""

    async def policy(_: Introduction) -> Decision:
        await trio.lowlevel.checkpoint()
        if asked is not None:
            asked.append(decision)
        return decision  # type: ignore[no-any-return]

    return policy


UNKNOWN = reject(VerdictCode.IDENTITY_UNKNOWN)
BLOCKED = reject(VerdictCode.IDENTITY_BLOCKED)
BECAUSE = reject(VerdictCode.IDENTITY_UNKNOWN, why="because")
WORDS = reject(VerdictCode.IDENTITY_UNKNOWN, "words")
LATER = reject(VerdictCode.IDENTITY_UNKNOWN, retry_after=5)
FAILED = reject(VerdictCode.INTERNAL, why="It failed, and the log says how: mend the policy.")
HELLO = accept("hello")
WELCOME = accept("welcome")


async def test_the_blocked_are_told_so_and_all_others_are_welcome() -> None:
    policy = blocked(EVE.id, str(BOB.id).upper())
    assert await policy(introduction_of(ADA.id)) == accept()
    assert await policy(introduction_of(BOB.id)) == BLOCKED
    assert await policy(introduction_of(EVE.id)) == BLOCKED
    assert await blocked()(introduction_of(EVE.id)) == accept()


@pytest.mark.parametrize(("mistaken", "error"), [("eve", InvalidPeerId), (EVE, TypeError), (None, TypeError)])
def test_blocked_reads_its_ids_at_once(mistaken: Any, error: type[Exception]) -> None:
    """It would be equal to nobody's id, and so block nobody without a word."""
    with pytest.raises(error):
        blocked(BOB.id, mistaken)


@pytest.mark.parametrize(("answer", "decision"), [(True, accept()), (False, reject())])
async def test_whom_the_callback_says_yes_to_is_welcome(answer: bool, decision: Decision) -> None:
    asked: list[Introduction] = []

    async def callback(introduction: Introduction) -> bool:
        await trio.lowlevel.checkpoint()
        asked.append(introduction)
        return answer

    introduction = introduction_of(ADA.id)
    assert await ask(callback)(introduction) == decision
    assert asked == [introduction]


@pytest.mark.parametrize("answer", ["no", "yes", 1, 0, None, reject(), accept()], ids=repr)
async def test_what_is_neither_yes_nor_no_admits_nobody(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`ask(only(bob))` is easily written, and a rejection is as true as anything."""
    policy: Any = ask(says(answer))  # type: ignore[arg-type]
    decision = await ask_policy(policy, introduction_of(EVE.id), 1)
    assert decision == FAILED
    assert "the callback `ask` returned" in caplog.text


@pytest.mark.parametrize(
    ("decisions", "answer", "asked"),
    [
        ([HELLO], HELLO, 1),
        ([UNKNOWN], UNKNOWN, 1),
        ([HELLO, WELCOME], WELCOME, 2),
        ([HELLO, BLOCKED, WELCOME], BLOCKED, 2),
        ([UNKNOWN, BLOCKED], UNKNOWN, 1),
        ([accept(), accept(), BECAUSE], BECAUSE, 3),
    ],
)
async def test_all_of_asks_until_one_rejects(decisions: list[Decision], answer: Decision, asked: int) -> None:
    log: list[Any] = []
    assert await all_of(*(says(decision, log) for decision in decisions))(introduction_of(ADA.id)) == answer
    assert log == decisions[:asked]


def test_all_of_none_would_be_everybody() -> None:
    with pytest.raises(ValueError, match="everybody would be welcome"):
        all_of()


@pytest.mark.parametrize(
    ("decisions", "answer", "asked"),
    [
        ([], UNKNOWN, 0),
        ([HELLO], HELLO, 1),
        ([HELLO, WELCOME], HELLO, 1),
        ([UNKNOWN, WELCOME, BLOCKED], WELCOME, 2),
        ([UNKNOWN], UNKNOWN, 1),
        ([UNKNOWN, UNKNOWN], UNKNOWN, 2),
        ([UNKNOWN, BLOCKED], BLOCKED, 2),
        ([UNKNOWN, BECAUSE], BECAUSE, 2),
        ([UNKNOWN, WORDS], WORDS, 2),
        ([UNKNOWN, LATER], LATER, 2),
        ([WORDS, BECAUSE, BLOCKED], replace(WORDS, why=BECAUSE.why), 3),
        ([BECAUSE, BLOCKED, BECAUSE], replace(BLOCKED, why="because. because"), 3),
        ([reject(why="So."), UNKNOWN, BECAUSE], reject(why="So. because"), 3),
        ([BLOCKED, reject()], BLOCKED, 2),
    ],
)
async def test_any_of_asks_until_one_accepts(decisions: list[Decision], answer: Decision, asked: int) -> None:
    log: list[Any] = []
    assert await any_of(*(says(decision, log) for decision in decisions))(introduction_of(ADA.id)) == answer
    assert log == decisions[:asked]


@pytest.mark.parametrize("combine", [all_of, any_of])
@pytest.mark.parametrize("mistake", [None, True, False, "yes", VerdictCode.READY], ids=repr)
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_what_is_no_decision_is_not_made_good_by_another(
    combine: Any, mistake: object, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A policy without `return`, among others that accept or reject: it opens nothing, and the log has it."""
    for other in (accept(), UNKNOWN):
        decisions: list[Any] = [other, other]
        decisions.insert(place, mistake)
        decision = await ask_policy(combine(*map(says, decisions)), introduction_of(EVE.id), 1)
        stopped_before = place > 0 and isinstance(other, Rejection) == (combine is all_of)
        assert decision == (other if stopped_before else FAILED)
        assert (f"returned {mistake!r}, not accept() or reject()" in caplog.text) is not stopped_before
        caplog.clear()


@pytest.mark.parametrize("combine", [all_of, any_of])
async def test_a_policy_that_fails_among_others_admits_nobody(
    combine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(_: Introduction) -> Decision:
        raise OSError("the disk is gone")

    decision = await ask_policy(combine(failing, anyone), introduction_of(EVE.id), 1)
    assert decision == FAILED
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the disk is gone" in caplog.text


@pytest.mark.parametrize("combine", [all_of, any_of])
async def test_the_time_is_for_all_of_them_together(combine: Any, autojump_clock: trio.testing.MockClock) -> None:
    def slow(decision: Decision) -> Policy:
        async def policy(_: Introduction) -> Decision:
            await trio.sleep(0.6)
            return decision

        return policy

    goes_on = slow(accept() if combine is all_of else UNKNOWN)
    began = trio.current_time()
    decision = await ask_policy(combine(goes_on, goes_on), introduction_of(ADA.id), 1)
    assert isinstance(decision, Rejection)
    assert decision.reason is VerdictCode.POLICY_TIMEOUT
    assert decision.text is None
    assert "Limits.policy" in str(decision.refusal(EVE.id))
    assert trio.current_time() - began == pytest.approx(1)


async def test_they_nest_as_and_and_or_do() -> None:
    """Of three policies that each take some of eight peers, against sets."""
    everybody = [PeerId(bytes([number + 2]) * 32) for number in range(8)]
    sets = [frozenset(one for number, one in enumerate(everybody) if number >> bit & 1) for bit in range(3)]
    for a, b, c in itertools.permutations(sets):
        policies: list[tuple[Policy, frozenset[PeerId]]] = [
            (all_of(only(*a), any_of(only(*b), only(*c))), a & (b | c)),
            (any_of(only(*a), all_of(only(*b), only(*c))), a | (b & c)),
            (all_of(blocked(*a), any_of(only(*b), only(*c))), (b | c) - a),
            (any_of(all_of(blocked(*a), only(*b)), only(*c)), (b - a) | c),
        ]
        for policy, welcome in policies:
            admitted = {one for one in everybody if isinstance(await policy(introduction_of(one)), Acceptance)}
            assert admitted == welcome


async def test_over_real_peers_the_blocked_learn_that_they_are_and_the_unknown_that_they_are_not_known() -> None:
    async with (
        peer(BOB, trust=all_of(blocked(EVE.id), any_of(only(ADA.id), only(EVE.id)))) as bob,
        peer(ADA) as ada,
        peer(EVE) as eve,
    ):
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Rejected) as told:
            await eve.dial(listener.invite)
        assert told.value.reason is VerdictCode.IDENTITY_BLOCKED
        async with await ada.dial(listener.invite) as connection:
            assert connection.peer == BOB.id


@pytest.mark.parametrize("none", [ADA.id, [ADA.id], "anyone", None, True], ids=repr)
def test_what_is_no_policy_is_refused_where_it_is_given(none: Any) -> None:
    for take in (all_of, any_of, lambda policy: peer(ADA, trust=policy)):
        with pytest.raises(TypeError, match=r"^a policy is an async function of an Introduction, not "):
            take(none)
    if none is not None:
        with pytest.raises(TypeError, match="a policy is"):
            peer(ADA).handle("x/1", echo, trust=none)
