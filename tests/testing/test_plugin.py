"""The pytest plugin, in runs of their own: which tests it runs, on which clock, with which seed; what it says."""

from __future__ import annotations

import importlib.metadata
import random
import re
import shlex
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from pytest_trishake import _seeded
from trishake import Identity
from trishake.testing import NetworkPeer, VirtualNetwork
from trishake.testing._virtual_network import identity_of

pytest_plugins = ["pytester"]

ROOT: Final = Path(__file__).parents[2]

_MODULE: Final = "pytest_trishake"
INSTALLED: Final = any(entry.value == _MODULE for entry in importlib.metadata.entry_points(group="pytest11"))
"""Whether pytest finds it by itself."""


def run(pytester: pytest.Pytester, *arguments: str, process: bool = False) -> pytest.RunResult:
    """pytest, in this process or in one of its own."""
    runs = pytester.runpytest_subprocess if process else pytester.runpytest_inprocess
    return runs(*([] if INSTALLED else ["-p", _MODULE]), "-p", "no:cacheprovider", *arguments)


@pytest.mark.parametrize("path", ["README.md", "docs/testing.md"])
def test_the_file_that_the_documents_show_is_enough(pytester: pytest.Pytester, path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    (shown, *_) = re.findall(r"```python\n(from trishake import only\n.*?)```", text, re.DOTALL)
    assert len(shown.strip().splitlines()) <= 10
    pytester.makepyfile(shown)
    run(pytester).assert_outcomes(passed=1)


# --- in this run ------------------------------------------------------------------------------------------


async def test_the_clock_jumps_over_whatever_is_waited_for(network: VirtualNetwork) -> None:
    began = trio.current_time()
    await trio.sleep(3600)
    assert trio.current_time() - began == pytest.approx(3600)


async def test_a_clock_of_ones_own_is_taken_instead(network: VirtualNetwork, mock_clock: MockClock) -> None:
    with trio.move_on_after(60):
        mock_clock.jump(10)
        assert trio.current_time() == 10


async def test_a_pair_of_peers_is_ada_and_bob(
    peer_pair: tuple[NetworkPeer, NetworkPeer], network: VirtualNetwork
) -> None:
    ada, bob = peer_pair
    assert list(network.peers.values()) == [ada, bob]
    assert (str(ada), str(bob)) == ("ada", "bob")
    assert (await ada.dial(bob)).peer == bob.id


def test_an_identity_is_that_of_the_peer_of_its_name(identity: object) -> None:
    assert callable(identity)
    ada = identity("ada")
    assert isinstance(ada, Identity)
    assert ada.id == identity_of("ada").id


async def test_a_network_is_of_the_seed_of_the_run(network: VirtualNetwork, pytestconfig: pytest.Config) -> None:
    said = pytestconfig.getoption("trishake_seed") or pytestconfig.getini("trishake_seed")
    assert said == "random" or network.seed == int(said)


def test_what_is_left_to_chance_elsewhere_stays_as_it_was() -> None:
    async def main() -> list[float]:
        order: list[float] = []

        async def task(number: int) -> None:
            await trio.lowlevel.checkpoint()
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(task, number)
        return [*order, random.random()]

    scheduler = vars(trio._core._run)
    random.seed(7)
    before = random.getstate(), scheduler["_r"].getstate(), scheduler["_ALLOW_DETERMINISTIC_SCHEDULING"]
    runs: list[list[float]] = []
    for seed in (1, 1, 2):
        with _seeded(seed):
            runs.append(trio.run(main))
    with pytest.raises(ZeroDivisionError), _seeded(3):
        raise ZeroDivisionError
    assert before == (random.getstate(), scheduler["_r"].getstate(), scheduler["_ALLOW_DETERMINISTIC_SCHEDULING"])
    assert runs[0] == runs[1] != runs[2]


# --- in runs of their own ---------------------------------------------------------------------------------

PASSING: Final = """
    import pytest, trio
    from hypothesis import given, settings, strategies, HealthCheck
    from trishake import Rejected, only
    from trishake.testing import VirtualNetwork

    async def test_only_ada_is_welcome(network):
        ada, eve = network.peer("ada"), network.peer("eve")
        bob = network.peer("bob", trust=only(ada.id))
        assert (await ada.dial(bob)).peer == bob.id
        with pytest.raises(Rejected, match="IDENTITY_UNKNOWN"):
            await eve.dial(bob)

    @pytest.mark.trio
    async def test_with_a_marker(network):
        await trio.sleep(1000)

    class TestClass:
        async def test_method(self, peer_pair):
            ada, bob = peer_pair
            await ada.dial(bob)

    @pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)
    async def test_over(network, request):
        assert network.over == request.node.callspec.params["network"]
        await network.peer("ada").dial(network.peer("bob"))

    async def test_clock(network, autojump_clock):
        await trio.sleep(100)

    def test_identity(identity):
        assert identity("ada").id != identity("bob").id

    @pytest.fixture
    async def bob(network):
        return network.peer("bob")

    async def test_a_fixture_that_needs_it(bob):
        await trio.sleep(1000)
        assert str(bob) == "bob"

    @given(number=strategies.integers(0, 3))
    @settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @pytest.mark.trio
    async def test_with_hypothesis(autojump_clock, number):
        async with VirtualNetwork(seed=number) as network:
            await trio.sleep(1000)
            await network.peer("ada").dial(network.peer(f"bob{number}"))

    async def test_skipped(network):
        pytest.skip("not today")

    @pytest.mark.xfail(raises=ZeroDivisionError, strict=True)
    async def test_expected(network):
        1 / 0
"""

OWN: Final = """
    import pytest

    @pytest.fixture
    def network():
        return 42

    def test_it_wins(network):
        assert network == 42

    @pytest.mark.parametrize("network", [1, 2])
    def test_a_parameter_wins_too(network):
        assert network in (1, 2)
"""


@pytest.mark.parametrize("trio_mode", ["false", "true"])
def test_tests_of_all_kinds_pass_without_any_setting(pytester: pytest.Pytester, trio_mode: str) -> None:
    pytester.makepyfile(test_passing=PASSING, test_own=OWN)
    result = run(
        pytester, "-q", "-rA", "-W", "error", "-o", f"trio_mode={trio_mode}", process=trio_mode == "false"
    )
    result.assert_outcomes(passed=12, skipped=1, xfailed=1)


FAILING: Final = """
    import random, trio
    from trishake.testing import assert_accepts

    async def test_fails(network):
        ada, bob = network.peer("ada"), network.peer("bob")
        network.link(ada, bob).corrupt(60).delay(0, spread=2)
        print("drawn", random.random())
        await assert_accepts(bob, ada)

    async def test_hangs(peer_pair):
        await trio.sleep_forever()

    async def test_raises(network):
        raise KeyError("as it is")
"""


def test_a_test_that_fails_says_who_where_and_why_and_how_to_see_it_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_failing=FAILING)
    result = run(pytester, "--trishake-seed", "random")
    result.assert_outcomes(failed=3)
    said = result.stdout.str()
    assert (
        "bob was to accept ada; ada dialed bob: not greeted, HANDSHAKE_FAILED, at step 4, identity verified"
        in said
    )
    assert re.search(
        r"^ +\d+\.\d{3} s  ada dialed bob: not greeted, HANDSHAKE_FAILED, at step 4", said, re.MULTILINE
    )
    assert "the link from ada to bob: spread 2 s, corrupts byte 60" in said
    assert "after a day of its virtual clock: what it waits for, at test_failing.py:11, never comes" in said
    assert "Exception Group" not in said
    assert re.search(r"^test_failing.py:8: AssertionError$", said, re.MULTILINE)
    (seed, again) = re.findall(r"^seed (\d+); the same again: pytest (.*test_fails.*)$", said, re.MULTILINE)[0]
    assert int(seed) > 0
    repeated = run(pytester, *shlex.split(again), process=True)
    repeated.assert_outcomes(failed=1)
    for pattern in (r"drawn \S+", r"^ +\d+\.\d{3} s  ada dialed bob.*$", r"^seed .*$"):
        first, second = (re.search(pattern, text, re.MULTILINE) for text in (said, repeated.stdout.str()))
        assert first is not None
        assert second is not None
        assert first[0] == second[0]


SEEDED: Final = """
    import pytest

    @pytest.mark.parametrize("number", range(4))
    async def test_seed(network, number):
        print(f"<seed {network.seed}> <over {network.over}>")
"""


@pytest.mark.parametrize(
    ("arguments", "ini", "seed", "over"),
    [
        ([], "", "0", "memory"),
        (["--trishake-seed=5", "--trishake-over=tcp"], "trishake_seed = 7", "5", "tcp"),
        ([], "trishake_seed = 7", "7", "memory"),
        pytest.param(["-n2", "--trishake-seed=random"], "", None, "memory", marks=pytest.mark.slow),
    ],
)
def test_the_seed_is_that_of_the_command_line_or_the_settings_for_every_worker(
    pytester: pytest.Pytester, arguments: list[str], ini: str, seed: str | None, over: str
) -> None:
    pytester.makepyfile(SEEDED)
    pytester.makeini(f"[pytest]\n{ini}\n")
    result = run(pytester, "-rP", *arguments, process="-n2" in arguments)
    result.assert_outcomes(passed=4)
    found = set(re.findall(r"<seed (\d+)> <over (\w+)>", result.stdout.str()))
    assert len(found) == 1
    ((found_seed, found_over),) = found
    assert found_over == over
    assert found_seed == seed if seed is not None else int(found_seed) > 0


def test_a_seed_that_is_none_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SEEDED)
    result = run(pytester, "--trishake-seed=seven")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the seed is 'seven', *: it must be a number, or `random`"])


MISTAKEN: Final = """
    import pytest
    from hypothesis import given, strategies

    @pytest.mark.parametrize("network", ["udp"], indirect=True)
    async def test_over(network):
        pass

    def test_sync(network):
        pass

    @given(number=strategies.integers())
    async def test_examples(network, number):
        pass
"""


NOT_OF_TRIO: Final = """
    import pytest

    @pytest.mark.asyncio
    async def test_asyncio(network):
        pass

    @pytest.mark.anyio
    async def test_anyio(network):
        pass

    @pytest.mark.parametrize("anyio_backend", ["trio"])
    async def test_anyio_auto(anyio_backend, network):
        pass

    def test_sync(peer_pair):
        pass

    def test_nothing_to_do_with_it():
        pass
"""


def test_a_test_that_trio_does_not_run_is_told_so(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers =\n    asyncio: of pytest-asyncio\n    anyio: of anyio")
    pytester.makepyfile(test_other=NOT_OF_TRIO)
    result = run(pytester, "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=1, errors=4)
    reasons = [
        "test_asyncio: `network` is there for tests that Trio runs, and asyncio's plugin would run *asyncio_mode*",
        "test_anyio: `network` is there for tests that Trio runs, and anyio's plugin would run *anyio_mode*",
        "test_anyio_auto*: `network` is there for tests that Trio runs, and anyio's plugin would run *anyio_mode*",
        "test_sync: `network` is there for tests that are `async def`, and this one is not",
    ]
    result.stdout.fnmatch_lines(reasons)


@pytest.mark.parametrize("strict", [(), ("--strict-markers", "-W", "error")])
def test_a_run_without_pytest_trio_says_what_is_missing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, strict: tuple[str, ...]
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("async def test_it(peer_pair): pass", test_other="def test_other(): pass")
    result = pytester.runpytest_subprocess("-p", _MODULE, "-p", "no:cacheprovider", *strict)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        "test_it: pytest-trio runs tests *, and is not here: pip install trishake?testing?"
    )


INTERRUPTED: Final = """
    async def test_interrupted(network):
        def policy(_):
            raise KeyboardInterrupt

        await network.peer("ada").dial(network.peer("bob", trust=policy))

    def test_next():
        pass
"""


def test_ctrl_c_in_the_task_of_a_peer_ends_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_interrupted=INTERRUPTED)
    result = run(pytester, process=True)
    assert result.ret is pytest.ExitCode.INTERRUPTED
    result.assert_outcomes()


KEPT: Final = """
    import gc
    from trishake.testing import VirtualNetwork

    async def test_one(network):
        await network.peer("ada").dial(network.peer("bob"))

    async def test_another(network):
        await network.peer("ada").dial(network.peer("bob"))

    def test_none_is_left():
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, VirtualNetwork)]
"""


def test_a_network_is_held_no_longer_than_its_test_lasts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_kept=KEPT)
    run(pytester, process=True).assert_outcomes(passed=3)


def test_a_mistake_of_the_test_is_said_as_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MISTAKEN)
    result = run(pytester)
    result.assert_outcomes(errors=3)
    for said in (
        "*the parameter of `network` is one of memory, tcp, not 'udp'",
        "*`network` would be one for all examples of Hypothesis: open one in each*",
    ):
        result.stdout.fnmatch_lines([said])


def test_its_fixtures_are_shown_and_it_can_be_turned_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SEEDED)
    shown = run(pytester, "--fixtures", "-q").stdout.str()
    for name, text in {
        "network": "A network of its own",
        "peer_pair": "Two peers",
        "identity": "is Ada's",
    }.items():
        assert re.search(rf"^{name}\b.*\n.*{text}", shown, re.MULTILINE)
    off = pytester.runpytest_subprocess("-p", "no:trishake")
    assert "fixture 'network' not found" in off.stdout.str() or off.parseoutcomes().get("failed") == 4


ORDERED: Final = """
    import trio
    from trishake import DialError
    from trishake.testing import VirtualNetwork

    class Order(trio.abc.Instrument):
        def __init__(self):
            self.lines = []
        def before_task_step(self, task):
            self.lines.append(f"{trio.current_time()!r} {task.name} {task.coro.cr_frame.f_lineno}")

    async def test_order(network):
        order = Order()
        trio.lowlevel.add_instrument(order)
        network.reorder(0.3)
        peers = [network.peer(f"peer{number}") for number in range(4)]
        for one in peers:
            for other in peers:
                if one is not other:
                    network.link(one, other).delay(0.05, spread=0.2).split()
        async with trio.open_nursery() as nursery:
            for index, one in enumerate(peers):
                nursery.start_soon(one.dial, peers[(index + 1) % 4])
                nursery.start_soon(one.dial, peers[(index + 2) % 4])
        await trio.sleep(30)
        trio.lowlevel.remove_instrument(order)
        with open("order", "w") as file:
            file.write("\\n".join([*order.lines, network.story()]))
"""


def test_runs_with_one_seed_have_the_same_events_in_the_same_order(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(ORDERED)
    found: list[str] = []
    for seed, hashes in (("3", "1"), ("3", "2")):
        monkeypatch.setenv("PYTHONHASHSEED", hashes)
        run(pytester, f"--trishake-seed={seed}", process=True).assert_outcomes(passed=1)
        found.append((pytester.path / "order").read_text())
    assert found[0].splitlines() == found[1].splitlines()
    assert found[0].count("\n") > 1000
