"""assert_accepts and its like: they pass where they should, and say who, where and why where they do not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import trio

from trishake import (
    Address,
    Cause,
    Decision,
    Introduction,
    Limits,
    NoResponse,
    Peer,
    Phase,
    Refused,
    Rejected,
    VerdictCode,
    WrongIdentity,
    only,
    reject,
)
from trishake.testing import (
    NetworkPeer,
    VirtualNetwork,
    assert_accepts,
    assert_no_response,
    assert_refuses,
    assert_rejects,
)
from trishake.testing._virtual_network import identity_of

from .conftest import both

NOBODY: Final = only(identity_of("nobody").id)


async def say_no(_: Introduction) -> Decision:
    return reject(text="go away")


async def say_a_number(_: Introduction) -> Decision:
    return reject(0x8123)


# --- where all is as it should be -------------------------------------------------------------------------


@both
async def test_a_peer_that_is_welcome_is_accepted(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob", trust=only(identity_of("ada").id))
    network.link(ada, bob).delay(0.5)
    connection = await assert_accepts(bob, ada)
    assert connection.peer == bob.id
    there = bob.connection(ada.id)
    assert there is not None
    assert there.is_open


@both
@pytest.mark.parametrize("reason", ["IDENTITY_UNKNOWN", VerdictCode.IDENTITY_UNKNOWN])
async def test_a_peer_that_is_not_welcome_is_rejected(network: VirtualNetwork, reason: Any) -> None:
    ada, bob = network.peer("ada"), network.peer("bob", trust=NOBODY)
    network.link(ada, bob).delay(0.5)
    rejected = await assert_rejects(bob, ada, reason)
    assert isinstance(rejected, Rejected)
    assert rejected.reason is VerdictCode.IDENTITY_UNKNOWN
    again = await assert_rejects(bob, ada, reason)  # what the listener counts is counted from here
    assert again is not rejected


async def test_a_rejection_has_the_words_and_the_number_of_the_application(network: VirtualNetwork) -> None:
    ada = network.peer("ada")
    assert (
        await assert_rejects(network.peer("bob", trust=say_no), ada, "POLICY", text="go away")
    ).text == "go away"
    assert (await assert_rejects(network.peer("carl", trust=say_a_number), ada, 0x8123)).reason == 0x8123


@both
async def test_a_dialer_refuses_whom_it_does_not_trust(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada", trust=NOBODY), network.peer("bob")
    refused = await assert_refuses(ada, bob, "IDENTITY_UNKNOWN")
    assert isinstance(refused, Refused)
    await assert_refuses(network.peer("eve"), bob, "IDENTITY_UNKNOWN", trust=NOBODY)
    wrong = Address("bob", peer=identity_of("fred").id, scheme="mem")
    assert isinstance(await assert_refuses(network.peer("carl"), wrong, "IDENTITY_UNKNOWN"), WrongIdentity)


@both
@pytest.mark.parametrize(
    ("phase", "cause"),
    [(None, None), ("syn-ack", None), (None, "timeout"), ("syn-ack", "timeout"), (Phase.SYN_ACK, Cause.TIMEOUT)],
)
async def test_a_dialer_has_no_answer(network: VirtualNetwork, phase: Any, cause: Any) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    network.link(bob, ada).stall()
    silence = await assert_no_response(bob, ada, phase=phase, cause=cause)
    assert isinstance(silence, NoResponse)
    assert (silence.phase, silence.cause) == (Phase.SYN_ACK, Cause.TIMEOUT)


@both
async def test_whoever_is_dialed_may_be_a_peer_a_listener_an_address_or_an_invite(network: VirtualNetwork) -> None:
    ada = network.peer("ada")
    async with Peer(identity_of("eve"), transports=[network.transport("eve")]) as eve:
        with pytest.raises(ValueError, match="does not listen: call its `listen` first"):
            await assert_accepts(eve, ada)
        listener = await eve.listen("mem://eve")
        for dialed in (eve, listener, listener.invite, Address.parse(listener.invite), "mem://eve"):
            connection = await assert_accepts(dialed, ada)
            assert connection.peer == eve.id
            await connection.aclose()


@pytest.mark.parametrize("reason", ["NO_SUCH", "identity_unknown", ""])
async def test_a_reason_that_is_none_is_a_slip_of_the_pen(network: VirtualNetwork, reason: str) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    for check in (assert_rejects(bob, ada, reason), assert_refuses(ada, bob, reason)):
        with pytest.raises(ValueError, match="is no reason; those of the specification are MALFORMED, "):
            await check
    assert not ada.connections


# --- where it is not --------------------------------------------------------------------------------------

Case = Callable[[VirtualNetwork, NetworkPeer], Awaitable[object]]


async def accepts_a_stranger(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_accepts(network.peer("bob", trust=NOBODY), ada)


async def accepts_in_a_changed_greeting(network: VirtualNetwork, ada: NetworkPeer) -> None:
    network.link("bob", ada).corrupt(1000)
    await assert_accepts(network.peer("bob"), ada)


async def accepts_in_a_changed_ack(network: VirtualNetwork, ada: NetworkPeer) -> None:
    network.link(ada, "bob").corrupt(1300)
    await assert_accepts(network.peer("bob"), ada)


async def accepts_behind_a_stall(network: VirtualNetwork, ada: NetworkPeer) -> None:
    network.link("bob", ada).stall(30)
    await assert_accepts(network.peer("bob"), ada)


async def accepts_whom_nobody_trusts(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_accepts(network.peer("bob"), ada, trust=NOBODY)


async def accepts_where_nobody_is(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_accepts("mem://bob", ada)


async def rejects_a_friend(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_rejects(network.peer("bob"), ada, "IDENTITY_UNKNOWN")


async def rejects_for_another_reason(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_rejects(network.peer("bob", trust=NOBODY), ada, "POLICY")


async def rejects_with_other_words(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_rejects(network.peer("bob", trust=say_no), ada, "POLICY", text="please stay")


async def rejects_where_nobody_is(network: VirtualNetwork, ada: NetworkPeer) -> None:
    network.link(ada, "bob").refuse()
    await assert_rejects(network.peer("bob"), ada, "POLICY")


async def rejects_by_another(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await network.peer("bob").ready()
    await assert_rejects("mem://bob", ada, "POLICY")


async def refuses_a_friend(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_refuses(ada, network.peer("bob"), "IDENTITY_UNKNOWN")


async def refuses_for_another_reason(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_refuses(ada, network.peer("bob"), "POLICY", trust=NOBODY)


async def refuses_and_is_rejected(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_refuses(ada, network.peer("bob", trust=NOBODY), "IDENTITY_UNKNOWN")


async def hears_nothing_of_a_friend(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_no_response(network.peer("bob"), ada)


async def hears_nothing_and_is_rejected(network: VirtualNetwork, ada: NetworkPeer) -> None:
    await assert_no_response(network.peer("bob", trust=NOBODY), ada)


async def hears_nothing_in_another_phase(network: VirtualNetwork, ada: NetworkPeer) -> None:
    network.link("bob", ada).stall(30)
    await assert_no_response(network.peer("bob"), ada, phase="verdict", cause=Cause.CLOSED)


MESSAGES: Final[dict[Case, str]] = {
    accepts_a_stranger: "bob was to accept ada; ada dialed bob: rejected, IDENTITY_UNKNOWN, at step 7, verdict",
    accepts_in_a_changed_greeting: "bob was to accept ada; "
    "ada dialed bob: not greeted, HANDSHAKE_FAILED, at step 4, identity verified",
    accepts_in_a_changed_ack: "bob was to accept ada; "
    "ada dialed bob: rejected, HANDSHAKE_FAILED, at step 7, verdict",
    accepts_behind_a_stall: "bob was to accept ada; "
    "ada dialed bob: no response, syn-ack/timeout, at the step 'SYN-ACK received'",
    accepts_whom_nobody_trusts: "bob was to accept ada; "
    "ada dialed bob: refused by policy, IDENTITY_UNKNOWN, at the step 'policy'",
    accepts_where_nobody_is: "mem://bob was to accept ada; "
    "ada dialed mem://bob: no response, connect/refused, at the step 'connected'",
    rejects_a_friend: "bob was to reject ada with IDENTITY_UNKNOWN; it was accepted, by bob, at step 7, verdict",
    rejects_for_another_reason: "bob was to reject ada with POLICY; "
    "ada dialed bob: rejected, IDENTITY_UNKNOWN, at step 7, verdict",
    rejects_with_other_words: "bob was to reject ada with POLICY and the words 'please stay'; "
    "the words were 'go away'",
    rejects_where_nobody_is: "bob was to reject ada with POLICY; "
    "ada dialed bob: no response, connect/refused, at the step 'connected'",
    rejects_by_another: "mem://bob was to reject ada with POLICY; "
    f"it was accepted, by {identity_of('bob').id.short}, at step 7, verdict",
    refuses_a_friend: "ada was to refuse bob with IDENTITY_UNKNOWN; it was accepted, by bob, at step 7, verdict",
    refuses_for_another_reason: "ada was to refuse bob with POLICY; "
    "ada dialed bob: refused by policy, IDENTITY_UNKNOWN, at the step 'policy'",
    refuses_and_is_rejected: "ada was to refuse bob with IDENTITY_UNKNOWN; "
    "ada dialed bob: rejected, IDENTITY_UNKNOWN, at step 7, verdict",
    hears_nothing_of_a_friend: "ada was to get no response from bob; it was accepted, by bob, at step 7, verdict",
    hears_nothing_and_is_rejected: "ada was to get no response from bob; "
    "ada dialed bob: rejected, IDENTITY_UNKNOWN, at step 7, verdict",
    hears_nothing_in_another_phase: "ada was to get no response from bob in the phase verdict, because of closed; "
    "ada dialed bob: no response, syn-ack/timeout, at the step 'SYN-ACK received'",
}


@both
@pytest.mark.parametrize("case", MESSAGES, ids=lambda case: case.__name__)
async def test_the_first_line_says_what_was_expected_and_who_where_and_why_it_is_not(
    network: VirtualNetwork, case: Case
) -> None:
    ada = network.peer("ada")
    with pytest.raises(AssertionError) as failed:
        await case(network, ada)
    first, *rest = str(failed.value).splitlines()
    assert first == MESSAGES[case]
    if "the words were" not in first:
        assert any(line.startswith("step    ") for line in rest)  # the timeline
        assert "Dialing " in rest[1] or "it was accepted" in first  # the explanation


@pytest.mark.parametrize(("phase", "cause"), [("syn-ack", "closed"), ("verdict", "timeout"), (None, "reset")])
async def test_another_phase_or_cause_is_another_silence(network: VirtualNetwork, phase: Any, cause: Any) -> None:
    ada, bob = network.peer("ada"), network.peer("bob")
    network.link(bob, ada).stall()
    with pytest.raises(AssertionError, match="syn-ack/timeout"):
        await assert_no_response(bob, ada, phase=phase, cause=cause)


async def test_a_listener_that_has_no_connection_by_then_has_not_accepted(network: VirtualNetwork) -> None:
    ada, bob = network.peer("ada"), network.peer("bob", limits=Limits(close=0.1))
    network.link(bob, ada).delay(1)

    async def hang_up() -> None:
        await (await anext(bob.arrivals())).aclose(finish=0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang_up)
        with pytest.raises(AssertionError, match="ada has heard READY, and bob has no connection with it"):
            await assert_accepts(bob, ada)


async def test_a_check_takes_no_longer_than_it_must(network: VirtualNetwork) -> None:
    began = trio.current_time()
    await assert_accepts(network.peer("bob"), network.peer("ada"))
    await assert_rejects(network.peer("carl", trust=NOBODY), network.peer("eve"), "IDENTITY_UNKNOWN")
    assert trio.current_time() - began < 0.1
