"""The pytest plugin: fixtures for tests of peers, on a virtual clock, with one seed.

It is found by itself once the package is installed. An async test that asks for `network`, or for a fixture that
needs it, is run by Trio without a marker, on a clock that jumps to the next deadline when nobody has anything to
do. A test that is not done after a day of that clock fails: what it waits for never comes. A clock that it asks
for itself, a fixture with a `trio.abc.Clock`, is taken instead, and has no such end. pytest-trio is needed:
`pip install trishake[testing]`.

A package of its own, which loads neither Trio nor Trishake before a test asks for them: pytest loads it in every
run, wherever Trishake is installed.

`--trishake-seed`, or the ini setting `trishake_seed`: another seed, or `random`. `--trishake-over tcp`: the
networks of this run over real sockets on loopback; those of one test, by its parameter:
`@pytest.mark.parametrize("network", ["memory", "tcp"], indirect=True)`.

Hypothesis runs one test many times, on the clock that the test asks for, and each time needs a network of its own:
`async with VirtualNetwork() as network`, in a test that asks for `autojump_clock`.
"""

from __future__ import annotations

import inspect
import random
import secrets
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import pytest

if TYPE_CHECKING:
    import trio

    from trishake import Identity
    from trishake.testing import HostilePeers, NetworkPeer, VirtualNetwork

_SEED: Final = "trishake_seed"
_SETTLED: Final = 0.01
"""Seconds without a task that runs, and the clock may jump. On Linux, what is sent on loopback has arrived when
the call that sends it returns, however busy the machine is; this is for a system that takes its time."""


class _Setting(NamedTuple):
    """Of one test."""

    seed: int
    over: Any


_DAY: Final = 24 * 60 * 60
"""Seconds."""

_OVER: Final = ("memory", "tcp")

_setting: Final = pytest.StashKey[_Setting]()
_network: Final[pytest.StashKey[VirtualNetwork]] = pytest.StashKey()
_seed: Final = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trishake")
    group.addoption(
        "--trishake-seed", dest=_SEED, metavar="N", help="seed of the networks of this run: a number, or `random`"
    )
    group.addoption(
        "--trishake-over",
        choices=_OVER,
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
        raise pytest.UsageError(
            f"the seed is {said!r}, by --trishake-seed or the ini setting trishake_seed: it must be a number, "
            "or `random`"
        ) from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist: the workers have the seed of the run."""
    node.workerinput[_SEED] = str(node.config.stash[_seed])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or _SETTING_FIXTURE not in item.fixturenames:
            continue
        if inspect.iscoroutinefunction(item.obj) and _has_pytest_trio(item.config):
            item.add_marker(pytest.mark.trio(run=partial(_run, item)), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say what is amiss before another plugin stumbles over it."""
    if not isinstance(item, pytest.Function) or _SETTING_FIXTURE not in item.fixturenames:
        return
    other = next((name for name in ("asyncio", "anyio") if item.get_closest_marker(name)), None)
    if not _has_pytest_trio(item.config):
        why = "pytest-trio runs tests that ask for `network`, and is not here: pip install trishake[testing]"
    elif other or "anyio_backend" in item.fixturenames:
        why = (
            f"`network` is there for tests that Trio runs, and {other or 'anyio'}'s plugin would run this one: "
            f"take its marker away, or set {other or 'anyio'}_mode to strict"
        )
    elif not inspect.iscoroutinefunction(item.obj) and not hasattr(item.obj, "hypothesis"):
        why = "`network` is there for tests that are `async def`, and this one is not"
    else:
        return
    pytest.fail(f"{item.name}: {why}", pytrace=False)


def _has_pytest_trio(config: pytest.Config) -> bool:
    return any(
        getattr(plugin, "__name__", None) == "pytest_trio.plugin" for plugin in config.pluginmanager.get_plugins()
    )


def _run(
    item: pytest.Function,
    test: Callable[..., Awaitable[object]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> object:
    """`trio.run`, on the virtual clock, with everything that is left to chance from the seed."""
    __tracebackhide__ = True  # a failure shows the test's lines alone

    import trio
    from trio.testing import MockClock

    setting = item.stash[_setting]
    if clock is None:
        clock = MockClock(autojump_threshold=0 if setting.over == "memory" else _SETTLED)
        test = partial(_within_a_day, item, test)
    with _seeded(setting.seed):
        try:
            return trio.run(test, clock=clock, instruments=instruments)
        except BaseExceptionGroup as group:
            if group.subgroup(KeyboardInterrupt) is not None:
                raise KeyboardInterrupt from group  # in whose task it came is chance, and pytest stops at no group
            error, *others = group.exceptions
            if others or group.message != _OF_A_NURSERY:
                raise
    # pytest-trio runs each test in a nursery, which has wrapped what the test itself has raised.
    try:
        raise error
    finally:
        del error


async def _within_a_day(item: pytest.Function, test: Callable[..., Awaitable[object]]) -> object:
    import trio

    lines: list[str] = []
    with trio.CancelScope(deadline=trio.current_time() + _DAY) as day:
        try:
            return await test()
        except BaseException as error:
            if not day.cancel_called:
                raise
            lines = list(dict.fromkeys(_lines_in(item.path, error)))
    where = f", at {', '.join(lines)}," if lines else ""
    raise AssertionError(
        f"the test is not done after a day of its virtual clock: what it waits for{where} never comes"
    )


def _lines_in(path: Path, error: BaseException) -> Iterator[str]:
    """Of a file, the last line on the way to each place where something was cancelled, `test_app.py:12`."""
    frames = walk_tb(error.__traceback__)
    here = [f"{path.name}:{line}" for frame, line in frames if frame.f_code.co_filename == str(path)]
    deeper: list[str] = []
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        deeper = [line for part in group.exceptions for line in _lines_in(path, part)]
    yield from deeper or here[-1:]


_OF_A_NURSERY: Final = "Exceptions from Trio nursery"


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """What the module `random` gives comes from the seed, and so does the order of tasks that could run at once;
    behind the block, both are as they were.

    What is needed for the second is not public; pytest-trio does the same for Hypothesis. Without it the order is
    Trio's own.
    """
    scheduler = vars(import_module("trio._core._run"))
    order, sorted_before = scheduler.get("_r"), scheduler.get(_IN_ORDER)
    state = random.getstate()
    order_state = order.getstate() if isinstance(order, random.Random) else None
    random.seed(seed)
    _seed_the_scheduler(seed)
    try:
        yield
    finally:
        random.setstate(state)
        if isinstance(order, random.Random) and order_state is not None:
            order.setstate(order_state)
            scheduler[_IN_ORDER] = sorted_before


def _seed_the_scheduler(seed: int) -> None:
    scheduler = vars(import_module("trio._core._run"))
    if isinstance(order := scheduler.get("_r"), random.Random):
        order.seed(seed)
        scheduler[_IN_ORDER] = True


_IN_ORDER: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    network = item.stash.get(_network, None)
    if report.failed and network is not None:
        again = f"pytest --trishake-seed={network.seed} --trishake-over={network.over} {shlex.quote(item.nodeid)}"
        story = network.story() or "nothing has happened"
        report.sections.append(("the network", f"{story}\nseed {network.seed}; the same again: {again}"))
    if report.when == "teardown" and network is not None:
        del item.stash[_network]  # the item is there as long as the run, and would hold every network of it
    return report


# --- fixtures -------------------------------------------------------------------------------------------


@pytest.fixture
def _trishake_setting(request: pytest.FixtureRequest) -> _Setting:
    if hasattr(request.node.obj, "hypothesis"):
        raise ValueError(
            "`network` would be one for all examples of Hypothesis: open one in each, "
            "`async with VirtualNetwork() as network`, and ask for `autojump_clock` instead"
        )
    over: Any = request.config.getoption("--trishake-over")
    if (callspec := getattr(request.node, "callspec", None)) is not None:
        over = callspec.params.get("network", over)
    if over not in _OVER:
        raise ValueError(f"the parameter of `network` is one of {', '.join(_OVER)}, not {over!r}")
    setting = _Setting(request.config.stash[_seed], over)
    request.node.stash[_setting] = setting
    return setting


_SETTING_FIXTURE: Final = "_trishake_setting"


@pytest.fixture
async def network(request: pytest.FixtureRequest, _trishake_setting: _Setting) -> AsyncGenerator[VirtualNetwork]:
    """A network of its own for the test: `network.peer("ada")`, `network.link(ada, bob)`; see `VirtualNetwork`."""
    from trishake.testing import VirtualNetwork

    async with VirtualNetwork(seed=_trishake_setting.seed, over=_trishake_setting.over) as there:
        request.node.stash[_network] = there
        _seed_the_scheduler(there.seed)  # the order in which pytest-trio sets up fixtures is nobody's
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
    import trio

    from trishake.testing import HostilePeers

    async with trio.open_nursery() as nursery:
        yield HostilePeers(network, nursery)
        nursery.cancel_scope.cancel()


@pytest.fixture
def identity() -> Callable[[str], Identity]:
    """`identity("ada")` is Ada's, the same in every run, and that of `network.peer("ada")`."""
    from trishake.testing import identity_of

    return identity_of
