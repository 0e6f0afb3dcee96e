"""Cancellation, at every step of every call: what was half done is undone, and nobody else notices.

Each scenario is a call with what it needs before and after. It is run again and again, cancelled one step of any
task later each time, until it ends before that; after each time nothing may be left (see `World.left`), and a
witness on the same connection must still be understood.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock

from trishake import (
    AlertCode,
    CloseCode,
    Connection,
    ConnectionClosed,
    DialError,
    NoResponse,
    Peer,
    Rejected,
    Stream,
    StreamRefused,
    StreamTimeout,
    TrishakeError,
    UnknownProtocol,
    VerdictCode,
)
from trishake_protocol.messages import Verdict

from .conftest import ADA, BOB, EVE, ByHand, cancelled_at, outcome, read_to_end
from .world import (
    MEM,
    TCP,
    Sink,
    World,
    by_hand,
    double,
    echo,
    nobody,
    peer,
    say_nothing,
    steady,
    thoughtful,
    undecided,
    world,
)

__all__ = ["steady"]

pytestmark = pytest.mark.usefixtures("steady")

Call = Callable[[], Awaitable[object]]
Scenario = Callable[[World], AbstractAsyncContextManager[Call]]

_MOST_STEPS: Final = 3000
_LONGEST: Final = 3.0
"""Seconds in which one cancelled call, and what comes of it, has to be over."""


async def cancel_everywhere(here: World, scenario: Scenario, *, stride: int = 1) -> int:
    """Run the scenario cancelled at each step, and once to its end; how many steps that are."""
    for step in range(1, _MOST_STEPS, stride):
        started = trio.current_time()
        async with scenario(here) as call:
            reached = await cancelled_at(step, call)
        try:
            await here.check()
            assert trio.current_time() - started < _LONGEST
        except BaseException as error:
            error.add_note(f"cancelled at step {step}")
            raise
        if not reached:
            return step
    raise AssertionError(f"still running after {_MOST_STEPS} steps")


# --- dial -----------------------------------------------------------------------------------------------


async def close_if_open(ends: list[Connection]) -> None:
    for connection in ends:
        await connection.aclose()


@asynccontextmanager
async def dialing(here: World, *more: str) -> AsyncIterator[Call]:
    opened: list[Connection] = []

    async def dial() -> None:
        opened.append(await here.ada.dial(here.invite, *more))

    yield dial
    await close_if_open(opened)


@asynccontextmanager
async def dialing_one_that_is_dead(here: World) -> AsyncIterator[Call]:
    opened: list[Connection] = []

    async def dial() -> None:
        opened.append(await here.ada.dial("mem://nobody", here.invite))

    yield dial
    await close_if_open(opened)


@asynccontextmanager
async def dialing_twice_the_same(here: World) -> AsyncIterator[Call]:
    async with dialing(here, here.invite) as dial:
        yield dial


@asynccontextmanager
async def dialing_at_once(here: World) -> AsyncIterator[Call]:
    """The first fails at once, and the second and the third are dialed in one moment."""
    opened: list[Connection] = []

    async def dial() -> None:
        opened.append(await here.ada.dial("mem://nobody", "mem://nobody", here.invite, here.invite))

    yield dial
    await close_if_open(opened)


DIALS: Final = pytest.mark.parametrize(
    "scenario",
    [dialing, dialing_one_that_is_dead, dialing_twice_the_same, dialing_at_once],
    ids=["one", "dead and alive", "twice", "several"],
)


@DIALS
@pytest.mark.parametrize("policy", [None, thoughtful], ids=["anyone", "policy"])
async def test_a_dial_cancelled_at_any_step_leaves_nothing_open(
    autojump_clock: MockClock, scenario: Scenario, policy: Any
) -> None:
    options = {"trust": policy} if policy else {}
    async with world(ada=options, bob=options) as here:
        assert await cancel_everywhere(here, scenario) > 10


@DIALS
async def test_a_dial_over_tcp_cancelled_at_any_step_leaves_nothing_open(scenario: Scenario) -> None:
    async with world(TCP, ada={"trust": thoughtful}, bob={"trust": thoughtful}) as here:
        assert await cancel_everywhere(here, scenario, stride=5) > 10
