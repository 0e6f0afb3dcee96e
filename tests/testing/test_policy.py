"""check_policy: the policies that there are keep its promises, and one that breaks a promise is told which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    AuthorizedKeys,
    Identity,
    Introduction,
    InvalidAddress,
    KnownPeers,
    Limits,
    PeerId,
    Policy,
    Role,
    VerdictCode,
    accept,
    all_of,
    any_of,
    anyone,
    ask,
    blocked,
    only,
    reject,
)
from trishake._trust import Decision
from trishake.testing._policy import check_policy
from trishake.testing._virtual_network import identity_of
from trishake_protocol.messages import Greeting

ADA, BOB, EVE = map(identity_of, ("ada", "bob", "eve"))
AT_BOBS: Final = "bob.example:4711"
DIALED: Final = (Role.RESPONDER,)
DIALING: Final = (Role.INITIATOR,)


async def says_yes_to_ada(introduction: Introduction) -> bool:
    await trio.sleep(1)
    return introduction.peer == ADA.id


# --- policies that there are ----------------------------------------------------------------------------


@pytest.fixture
def authorized_keys(tmp_path: Path) -> AuthorizedKeys:
    """Ada from everywhere, Bob from one network."""
    path = tmp_path / "authorized_keys"
    path.write_text(f'{ADA.id.ssh("ada")}\nfrom="192.0.2.0/24" {BOB.id.ssh("bob")}\n')
    path.chmod(0o600)
    return AuthorizedKeys(path)


def known_peers(tmp_path: Path, **options: Any) -> KnownPeers:
    return KnownPeers(tmp_path / "known_peers", **options)


@pytest.mark.parametrize(
    ("policy", "welcome", "unwelcome"),
    [
        (only(ADA.id, str(BOB.id)), [ADA, BOB], [EVE]),
        (anyone, [ADA, EVE], []),
        (blocked(EVE.id), [ADA], [EVE]),
        (ask(says_yes_to_ada), [ADA], [EVE]),
        (all_of(blocked(EVE.id), only(ADA.id, EVE.id)), [ADA], [EVE, BOB]),
        (any_of(only(ADA.id), ask(says_yes_to_ada), only(BOB.id)), [ADA, BOB], [EVE]),
        (any_of(), [], [ADA]),
    ],
    ids=["only", "anyone", "blocked", "ask", "all_of", "any_of", "nobody"],
)
async def test_the_policies_that_there_are_keep_every_promise(
    policy: Policy, welcome: list[Identity], unwelcome: list[Identity], autojump_clock: MockClock
) -> None:
    await check_policy(policy, welcome=welcome, unwelcome=unwelcome)


async def test_authorized_keys_keep_every_promise(
    authorized_keys: AuthorizedKeys, autojump_clock: MockClock
) -> None:
    within, elsewhere = (BOB, "192.0.2.7:4711"), (BOB, "192.0.3.7:4711")
    await check_policy(authorized_keys, welcome=[ADA, within], unwelcome=[EVE, elsewhere])
    await check_policy(any_of(authorized_keys, only(EVE.id)), welcome=[ADA, EVE, within], unwelcome=[elsewhere])


async def test_known_peers_keep_every_promise_where_they_are_dialed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    known = known_peers(tmp_path)
    await known.remember(AT_BOBS, BOB.id)
    await check_policy(known, welcome=[ADA, (BOB, AT_BOBS)], unwelcome=[(EVE, AT_BOBS)], directions=DIALED)
    await check_policy(known, welcome=[ADA, EVE], directions=DIALING)


async def test_strict_known_peers_keep_every_promise(tmp_path: Path, autojump_clock: MockClock) -> None:
    known = known_peers(tmp_path, strict=True)
    await known.remember(AT_BOBS, BOB.id)
    await check_policy(known, welcome=[(BOB, AT_BOBS)], unwelcome=[EVE, (EVE, AT_BOBS)])
    await check_policy(known, welcome=[BOB], unwelcome=[EVE], directions=DIALING)


async def test_known_peers_who_ask_keep_every_promise(tmp_path: Path, autojump_clock: MockClock) -> None:
    known = known_peers(tmp_path, ask=says_yes_to_ada)
    await check_policy(all_of(blocked(BOB.id), known), welcome=[ADA], unwelcome=[EVE, BOB])


async def test_a_policy_may_take_longer_where_the_limits_say_so(autojump_clock: MockClock) -> None:
    async def slow(introduction: Introduction) -> Decision:
        await trio.sleep(20)
        return await only(ADA.id)(introduction)

    await check_policy(slow, welcome=[ADA], unwelcome=[EVE], limits=Limits(policy=30, greeting=40))


async def test_a_policy_is_checked_on_a_real_clock_too() -> None:
    began = trio.current_time()
    await check_policy(only(ADA.id), welcome=[ADA], unwelcome=[EVE])
    assert trio.current_time() - began < 30


async def test_a_task_that_ends_soon_is_not_left_behind(autojump_clock: MockClock) -> None:
    async def policy(introduction: Introduction) -> Decision:
        trio.lowlevel.spawn_system_task(trio.sleep, 1)
        return await only(ADA.id)(introduction)

    await check_policy(policy, welcome=[ADA], unwelcome=[EVE])


async def test_those_without_a_key_are_asked_about_only(autojump_clock: MockClock) -> None:
    asked = set[bytes | None]()

    async def policy(introduction: Introduction) -> Decision:
        asked.add(introduction.peer.key)
        return await only(ADA.id)(introduction)

    await check_policy(policy, welcome=[ADA.id], unwelcome=[str(EVE.id)])
    assert {ADA.id.key, EVE.id.key} < asked


async def test_a_policy_that_believes_only_what_was_agreed_on_is_right_to(autojump_clock: MockClock) -> None:
    async def with_a_ticket(introduction: Introduction) -> Decision:
        return await only(ADA.id)(introduction) if introduction.app == b"ticket" else reject()

    await check_policy(with_a_ticket, welcome=[ADA], unwelcome=[EVE], app=b"ticket")
    with pytest.raises(AssertionError, match=r"^Who is welcome is welcome.*it said POLICY$"):
        await check_policy(with_a_ticket, welcome=[ADA], unwelcome=[EVE])


# --- policies that are wrong ----------------------------------------------------------------------------

right: Final = only(ADA.id)


async def too_slow_for_one(introduction: Introduction) -> Decision:
    if introduction.peer == EVE.id:
        await trio.sleep(4)
    return await right(introduction)


async def needs_an_app(introduction: Introduction) -> Decision:
    assert introduction.app is not None
    return await right(introduction)


async def needs_an_address(introduction: Introduction) -> Decision:
    assert introduction.address is not None
    return await right(introduction)


async def needs_a_session(introduction: Introduction) -> Decision:
    assert introduction.session_id is not None
    return await right(introduction)


async def needs_text(introduction: Introduction) -> Decision:
    (introduction.app or b"").decode()
    return await right(introduction)


async def leaves_the_program(introduction: Introduction) -> Decision:
    raise SystemExit("nobody is welcome")


async def answers_true(introduction: Introduction) -> Any:
    return introduction.peer == ADA.id


async def forgets_to_answer(introduction: Introduction) -> Any:
    if introduction.peer == ADA.id:
        return accept()
    return None


def is_no_coroutine(introduction: Introduction) -> Any:
    return accept()


async def turns_dialers_away(introduction: Introduction) -> Decision:
    return reject() if introduction.role is Role.INITIATOR else await right(introduction)


async def needs_ipv4(introduction: Introduction) -> Decision:
    return reject() if (introduction.address or "").startswith("[") else await right(introduction)


async def accepts_whom_we_dial(introduction: Introduction) -> Decision:
    return accept() if introduction.role is Role.RESPONDER else await right(introduction)


async def trusts_a_network(introduction: Introduction) -> Decision:
    return accept() if (introduction.address or "").startswith("/run/") else await right(introduction)


async def trusts_an_empty_address(introduction: Introduction) -> Decision:
    return accept() if introduction.address == "" else await right(introduction)


async def believes_the_agent(introduction: Introduction) -> Decision:
    return accept() if str(ADA.id) in (introduction.agent or "") else await right(introduction)


async def believes_the_app(introduction: Introduction) -> Decision:
    return accept() if introduction.app == ADA.id.key else await right(introduction)


async def believes_who_has_no_caps(introduction: Introduction) -> Decision:
    return accept() if not introduction.greeting.caps else await right(introduction)


async def lets_those_in_who_do_not_expire(introduction: Introduction) -> Decision:
    return accept() if (introduction.greeting.exp or 0) > 2**32 else await right(introduction)


async def says_why(introduction: Introduction) -> Decision:
    why = "it is not in /etc/peers"
    return accept() if introduction.peer == ADA.id else reject(text=f"go away: {why}", why=why)


def stateful(decide: Callable[[list[Introduction], Introduction], Awaitable[Decision]]) -> Callable[[], Policy]:
    """Makes policies that remember whom they were asked about."""
    return lambda: partial(decide, [])


async def changes_its_mind(asked: list[Introduction], introduction: Introduction) -> Decision:
    asked.append(introduction)
    a_stranger = introduction.peer not in (ADA.id, EVE.id)
    times = sum(introduction == before for before in asked)
    return accept() if a_stranger and times % 2 else await right(introduction)


async def remembers_the_last(asked: list[Introduction], introduction: Introduction) -> Decision:
    asked.append(introduction)
    a_stranger = introduction.peer not in (ADA.id, EVE.id)
    return accept() if a_stranger and asked[-2].peer == introduction.peer else await right(introduction)


async def mixes_up_those_at_once(asked: list[Introduction], introduction: Introduction) -> Decision:
    asked.append(introduction)
    await trio.sleep(0.01)
    return await right(asked[-1])


def trusts_where_friends_were() -> Policy:
    places = set[str | None]()

    async def look_where(introduction: Introduction) -> Decision:
        if introduction.peer == ADA.id:
            places.add(introduction.address)
        known = bool(introduction.address) and introduction.address in places
        return accept() if known else await right(introduction)

    return look_where


def one_after_another() -> Policy:
    turn = trio.Lock()

    async def wait_in_line(introduction: Introduction) -> Decision:
        async with turn:
            await trio.sleep(0.1)
            return await right(introduction)

    return wait_in_line


def is_stuck_once_cancelled() -> Policy:
    turn = trio.Semaphore(1)

    async def forget_the_turn(introduction: Introduction) -> Decision:
        await turn.acquire()
        await trio.lowlevel.checkpoint()
        turn.release()
        return await right(introduction)

    return forget_the_turn


def records_before_it_knows() -> Policy:
    """Who is asked about is marked as known while it is looked up, and the mark stays if that is cancelled."""
    marked: list[Introduction] = []

    async def look_up(introduction: Introduction) -> Decision:
        if any(introduction is known for known in marked):
            return accept()
        marked.append(introduction)
        await trio.lowlevel.checkpoint()
        marked.pop()
        return await right(introduction)

    return look_up


def records_each_peer_once() -> Policy:
    """What is cancelled while a peer is recorded for the first time stays half done."""
    recorded: dict[PeerId, bool] = {}

    async def record(introduction: Introduction) -> Decision:
        if introduction.peer not in recorded:
            recorded[introduction.peer] = False
            await trio.lowlevel.checkpoint()
            recorded[introduction.peer] = True
        return await right(introduction) if recorded[introduction.peer] else accept()

    return record


def shuts_for_all_while_it_looks() -> Policy:
    """One after the other, and for ever where one is cancelled."""
    turn, shut = trio.Lock(), False

    async def look_up(introduction: Introduction) -> Decision:
        nonlocal shut
        async with turn:
            if shut:
                return reject(VerdictCode.IDENTITY_UNKNOWN)
            shut = True
            await trio.lowlevel.checkpoint()
            shut = False
            return await right(introduction)

    return look_up


async def will_not_be_cancelled(introduction: Introduction) -> Decision:
    try:
        await trio.sleep(0.01)
    except trio.Cancelled:
        with trio.CancelScope(shield=True):
            await trio.sleep(7)
        raise
    return await right(introduction)


async def raises_once_cancelled(introduction: Introduction) -> Decision:
    try:
        await trio.sleep(0.01)
    except trio.Cancelled:
        raise RuntimeError("the question was not answered") from None
    return await right(introduction)


async def leaves_tasks(introduction: Introduction) -> Decision:
    trio.lowlevel.spawn_system_task(trio.sleep, 60)
    return await right(introduction)


def made_anew(policy: Policy) -> Callable[[], Policy]:
    """For those that remember nothing."""
    return lambda: policy


@pytest.mark.parametrize(
    ("make", "promise", "found"),
    [
        (made_anew(too_slow_for_one), "It decides within Limits.policy", "not decided after 3 s"),
        (made_anew(needs_an_app), "It raises nothing", "AssertionError"),
        (made_anew(needs_an_address), "It raises nothing", "with no address, it raised AssertionError"),
        (made_anew(needs_a_session), "It raises nothing", "whom we dialed, .*it raised AssertionError"),
        (made_anew(needs_text), "It raises nothing", r"with the app b'\\xff.*UnicodeDecodeError"),
        (made_anew(leaves_the_program), "It raises nothing", "SystemExit"),
        (made_anew(is_no_coroutine), "It raises nothing", "TypeError"),
        (made_anew(answers_true), r"It returns accept\(\) or reject\(\)", "it returned True"),
        (made_anew(forgets_to_answer), r"It returns accept\(\) or reject\(\)", "unwelcome .*it returned None"),
        (made_anew(turns_dialers_away), "Who is welcome is welcome", "who dialed us, .*it said POLICY"),
        (made_anew(needs_ipv4), "Who is welcome is welcome", r"at \[2001:db8::3\]:4711, it said POLICY"),
        (made_anew(anyone), "Who is unwelcome is not accepted, in either", "who dialed us, .*it accepted"),
        (made_anew(accepts_whom_we_dial), "Who is unwelcome is not accepted, in either", "whom we dialed"),
        (made_anew(trusts_a_network), "Who is unwelcome is not accepted, wherever", "at /run/guest-2, it acc"),
        (trusts_where_friends_were, "Who is unwelcome is not accepted, wherever", "4711, where the welcome peer"),
        (made_anew(trusts_an_empty_address), "Who is unwelcome is not accepted, wherever", "at ''"),
        (made_anew(believes_the_agent), "Who is unwelcome is not accepted, whatever", f"agent '{ADA.id}'"),
        (made_anew(believes_the_app), "Who is unwelcome is not accepted, whatever", "with the app b"),
        (made_anew(believes_who_has_no_caps), "Who is unwelcome is not accepted, whatever", r"with caps \(\)"),
        (made_anew(lets_those_in_who_do_not_expire), "Who is unwelcome is not accepted, whatever", "with exp 184"),
        (made_anew(says_why), "Its why stays on our side", "its why being 'it is not in /etc/peers'"),
        (stateful(changes_its_mind), "It decides alike when", "a stranger, .* it said accept, and then IDENT"),
        (stateful(remembers_the_last), "It decides alike when", "a stranger, .*and then"),
        (stateful(mixes_up_those_at_once), "A hundred questions at once", "alone, and .* with 100 at once"),
        (one_after_another, "A hundred questions at once", "not decided after 3 s"),
        (is_stuck_once_cancelled, "A question that is cancelled", "not decided after 3 s"),
        (records_before_it_knows, "A question that is cancelled", "accept after it was cancelled at step"),
        (
            records_each_peer_once,
            "A question that is cancelled",
            "a stranger.*accept after it was cancelled at step",
        ),
        (
            shuts_for_all_while_it_looks,
            "A question that is cancelled",
            "said IDENTITY_UNKNOWN to the welcome peer",
        ),
        (made_anew(will_not_be_cancelled), "A question that is cancelled", "it went on for 7 s"),
        (made_anew(raises_once_cancelled), "A question that is cancelled", "RuntimeError"),
        (made_anew(leaves_tasks), "It leaves no task behind", "more tasks are there than before"),
    ],
)
async def test_a_policy_that_breaks_a_promise_is_told_which(
    make: Callable[[], Policy], promise: str, found: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(AssertionError, match=f"(?s)^{promise}.*{found}"):
        await check_policy(make(), welcome=[ADA], unwelcome=[EVE])


async def test_state_of_one_direction_is_found_in_that_direction(autojump_clock: MockClock) -> None:
    await check_policy(turns_dialers_away, welcome=[ADA], unwelcome=[EVE], directions=DIALED)
    await check_policy(accepts_whom_we_dial, welcome=[ADA], unwelcome=[EVE], directions=DIALING)
    with pytest.raises(AssertionError, match=r"^Who is unwelcome is not accepted, in either direction"):
        await check_policy(accepts_whom_we_dial, welcome=[ADA], unwelcome=[EVE], directions=DIALED)


async def test_who_is_to_be_at_one_address_only_is_asked_about_there(autojump_clock: MockClock) -> None:
    places = set[str | None]()

    async def policy(introduction: Introduction) -> Decision:
        if introduction.peer == BOB.id:
            places.add(introduction.address)
        return accept()

    await check_policy(policy, welcome=[(BOB, AT_BOBS)])
    assert places == {AT_BOBS}


# --- check_policy itself --------------------------------------------------------------------------------


async def test_what_is_no_policy_is_not_checked() -> None:
    with pytest.raises(TypeError, match="a policy is an async function"):
        await check_policy([ADA], welcome=[ADA])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a PeerId or its text is needed"):
        await check_policy(anyone, welcome=[7])  # type: ignore[list-item]


@pytest.mark.parametrize("nobody", [{}, {"welcome": [ADA], "directions": ()}])
async def test_a_check_of_nothing_is_none(nobody: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nothing to check"):
        await check_policy(anyone, **nobody)


@pytest.mark.parametrize("address", ["fe80::1", "", "bob.example:x", "bob.example:4711/path"])
async def test_nobody_is_at_an_address_that_is_none(address: str) -> None:
    with pytest.raises(InvalidAddress):
        await check_policy(anyone, welcome=[(BOB, address)])


async def test_nobody_is_welcome_and_unwelcome() -> None:
    with pytest.raises(ValueError, match=f"{ADA.id} is welcome and unwelcome"):
        await check_policy(anyone, welcome=[ADA], unwelcome=[str(ADA.id)])


async def test_every_kind_of_introduction_is_one_that_may_come(autojump_clock: MockClock) -> None:
    """A greeting that no peer could send would prove nothing."""
    said = list[Introduction]()

    async def policy(introduction: Introduction) -> Decision:
        said.append(introduction)
        return accept()

    await check_policy(policy, welcome=[ADA, BOB])
    for introduction in said:
        greeting = introduction.greeting
        assert Greeting.decode(greeting.encode(), introduction.role) == greeting
        assert greeting.id == introduction.peer.key
        assert introduction.session_id is not None or introduction.role is Role.RESPONDER
    assert {introduction.role for introduction in said} == {Role.INITIATOR, Role.RESPONDER}
    places = {introduction.address for introduction in said}
    assert {None, "", "198.18.0.3:4711", "[2001:db8::3]:4711", "/run/guest-3", "guest-3"} <= places
    agents = {introduction.agent for introduction in said}
    assert {None, "", str(ADA.id)} <= agents
    assert max(len((agent or "").encode()) for agent in agents) == 64
    apps = {introduction.app for introduction in said}
    assert {None, b"", ADA.id.key} <= apps
    assert max(len(app or b"") for app in apps) == 4096


async def test_an_application_may_reject_for_reasons_of_its_own(autojump_clock: MockClock) -> None:
    async def policy(introduction: Introduction) -> Decision:
        if introduction.peer == ADA.id:
            return accept("hello Ada")
        return reject(0x8001, "come back on Monday", retry_after=7, why="closed today")

    await check_policy(policy, welcome=[ADA], unwelcome=[EVE])


def is_real() -> bool:
    """Whether the question is a greeting's, which has ten seconds: the others have thirty."""
    return trio.current_effective_deadline() - trio.current_time() <= 10


async def test_real_greetings_take_place_in_both_directions(autojump_clock: MockClock) -> None:
    real = set[tuple[PeerId, Role, str | None]]()

    async def policy(introduction: Introduction) -> Decision:
        if is_real():
            assert introduction.agent == "ada/1"
            assert introduction.app == b"ticket"
            real.add((introduction.peer, introduction.role, introduction.address))
        return await any_of(right, only(BOB.id))(introduction)

    guests = {
        "welcome": [ADA, (BOB, AT_BOBS), (BOB, "/run/bob"), (BOB, "bob")],
        "unwelcome": [EVE, (EVE, AT_BOBS)],
    }
    await check_policy(policy, **guests, agent="ada/1", app=b"ticket", limits=Limits(policy=30))
    dialed = {(peer, address) for peer, role, address in real if role is Role.RESPONDER}
    assert {(BOB.id, AT_BOBS), (BOB.id, "/run/bob"), (BOB.id, "bob"), (EVE.id, AT_BOBS)} < dialed
    for role in Role:
        assert {ADA.id, EVE.id} <= {peer for peer, its_role, _ in real if its_role is role}


@pytest.mark.parametrize(
    ("role", "found"),
    [(Role.INITIATOR, "host was to accept guest-3-.*POLICY"), (Role.RESPONDER, "was to accept dialer.*POLICY")],
)
async def test_what_only_a_real_greeting_shows_is_found(role: Role, found: str, autojump_clock: MockClock) -> None:
    async def policy(introduction: Introduction) -> Decision:
        return reject() if is_real() and introduction.role is role else await right(introduction)

    with pytest.raises(AssertionError, match=f"(?s)^Real greetings end as it decides.*{found}"):
        await check_policy(policy, welcome=[ADA], unwelcome=[EVE], limits=Limits(policy=30))
