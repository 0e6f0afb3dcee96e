"""The pytest plugin: fixtures for tests of peers, on a virtual clock, with one seed.

It is found by itself once the package is installed. A test that asks for `network`, or for a fixture that needs
it, is run by Trio without a marker, on a clock that jumps to the next deadline when nobody has anything to do; a
clock that the test asks for itself, a fixture with a `trio.abc.Clock`, is taken instead.

`--trishake-seed`, or the ini setting `trishake_seed`: another seed, or `random`. `--trishake-over tcp`: the
networks of this run over real sockets on loopback; those of one test, by its parameter:
`@pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)`.
"""

from __future__ import annotations

import inspect
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from functools import partial
from importlib import import_module
from typing import Any, Final, NamedTuple, get_args

import pytest
import trio
from trio.testing import MockClock

from .._keys import Identity
from ._hostile import HostilePeers
from ._virtual_network import NetworkPeer, Over, VirtualNetwork, identity_of

_SEED: Final = "trishake_seed"
_SETTLED: Final = 0.01
"""Seconds without a task that runs: what was sent on loopback has arrived by then, and the clock may jump."""


class _Setting(NamedTuple):
    """Of one test."""

    seed: int
    over: Over


_setting: Final = pytest.StashKey[_Setting]()
_network: Final = pytest.StashKey[VirtualNetwork]()
_seed: Final = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trishake")
    group.addoption(
        "--trishake-seed", dest=_SEED, metavar="N", help="seed of the networks of this run: a number, or `random`"
    )
    group.addoption(
        "--trishake-over",
        choices=("memory", "tcp"),
        default="memory",
        help="what the networks of this run are made of, where a test does not say",
    )
    parser.addini(_SEED, "seed of the networks: a number, or `random`", default="0")


def pytest_configure(config: pytest.Config) -> None:
    said = config.getoption(_SEED) or config.getini(_SEED)
    if handed_on := getattr(config, "workerinput", {}).get(_SEED):  # by the process that runs all the workers
        said = handed_on
    try:
        config.stash[_seed] = secrets.randbits(32) if said == "random" else int(said)
    except ValueError:
        raise pytest.UsageError(f"--trishake-seed: {said!r} is neither a number nor `random`") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist: the workers have the seed of the run."""
    node.workerinput[_SEED] = str(node.config.stash[_seed])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or _SETTING_FIXTURE not in item.fixturenames:
            continue
        if inspect.iscoroutinefunction(getattr(item.obj, "__wrapped__", item.obj)):
            item.add_marker(pytest.mark.trio(run=partial(_run, item)), append=False)


def _run(
    item: pytest.Function,
    test: Callable[..., Awaitable[object]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> object:
    """`trio.run`, on the virtual clock, with everything that is left to chance from the seed."""
    setting = item.stash[_setting]
    if clock is None:
        clock = MockClock(autojump_threshold=0 if setting.over == "memory" else _SETTLED)
    state = random.getstate()
    random.seed(setting.seed)
    _seed_the_scheduler(setting.seed)
    try:
        return trio.run(test, clock=clock, instruments=instruments)
    finally:
        random.setstate(state)


def _seed_the_scheduler(seed: int) -> None:
    """Tasks that could run at the same time run in the order of the seed.

    What is needed for that is not public; pytest-trio does the same for Hypothesis. Without it the order is
    Trio's own.
    """
    scheduler = import_module("trio._core._run")
    shuffled_by = getattr(scheduler, "_r", None)
    if isinstance(shuffled_by, random.Random):
        shuffled_by.seed(seed)
        vars(scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    network = item.stash.get(_network, None)
    if report.failed and network is not None:
        again = f"pytest --trishake-seed={network.seed} --trishake-over={network.over} {item.nodeid!r}"
        story = network.story() or "nothing has happened"
        report.sections.append(("the network", f"{story}\nseed {network.seed}; the same again: {again}"))
    return report


# --- fixtures -------------------------------------------------------------------------------------------


@pytest.fixture
def _trishake_setting(request: pytest.FixtureRequest) -> _Setting:
    over: Any = request.config.getoption("--trishake-over")
    if (callspec := getattr(request.node, "callspec", None)) is not None:
        over = callspec.params.get("network", over)
    if over not in get_args(Over):
        raise ValueError(f"the parameter of `network` is one of {', '.join(get_args(Over))}, not {over!r}")
    setting = _Setting(request.config.stash[_seed], over)
    request.node.stash[_setting] = setting
    return setting


_SETTING_FIXTURE: Final = "_trishake_setting"


@pytest.fixture
async def network(request: pytest.FixtureRequest, _trishake_setting: _Setting) -> AsyncGenerator[VirtualNetwork]:
    """A network of its own for the test: `network.peer("ada")`, `network.link(ada, bob)`; see `VirtualNetwork`."""
    async with VirtualNetwork(seed=_trishake_setting.seed, over=_trishake_setting.over) as there:
        request.node.stash[_network] = there
        yield there


@pytest.fixture
async def peer_pair(network: VirtualNetwork) -> tuple[NetworkPeer, NetworkPeer]:
    """Two peers of the network who welcome whoever proves an identity: ada and bob. Neither has dialed."""
    return network.peer("ada"), network.peer("bob")


@pytest.fixture
async def hostile(network: VirtualNetwork) -> AsyncGenerator[HostilePeers]:
    """Hostile peers in the network: `(await hostile(silent)).invite` is one to dial, `hostile.attack(silent, bob)`
    has one dial Bob; see `HostilePeers`.
    """
    async with trio.open_nursery() as nursery:
        yield HostilePeers(network, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
def identity() -> Callable[[str], Identity]:
    """`identity("ada")` is Ada's, the same in every run, and that of `network.peer("ada")`."""
    return identity_of
