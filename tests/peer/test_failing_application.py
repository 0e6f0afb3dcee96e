"""What the application's own code raises while it is cancelled: its nursery then holds both, and no peer falls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trishake import Decision, DialError, GreetingToSign, Introduction, Signer, accept
from trishake._trust import ask_policy

from .conftest import ADA, BOB
from .test_trust import introduction_of
from .world import MEM, echo, peer


class Failure(Exception):
    """Raised by the application, amid its cancellation."""


async def fail_amid_cancellation(working: trio.Event) -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Failure

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        working.set()
        await trio.sleep_forever()


async def test_a_policy_that_fails_as_its_asker_is_cancelled_leaves_only_the_cancellation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def policy(_: Introduction) -> Decision:
        await fail_amid_cancellation(trio.Event())
        return accept()

    with trio.move_on_after(0.01) as scope:
        await ask_policy(policy, introduction_of(ADA.id), 60)
    assert scope.cancelled_caught
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def work_of_a_policy(working: trio.Event) -> dict[str, Any]:
    async def policy(_: Introduction) -> Decision:
        await fail_amid_cancellation(working)
        return accept()

    return {"trust": policy}


async def work_of_a_signer(working: trio.Event) -> dict[str, Any]:
    class Failing(Signer):
        async def sign(self, greeting: GreetingToSign) -> bytes:
            await fail_amid_cancellation(working)
            return b""

    return {"identity": Failing(BOB.id)}


@pytest.mark.parametrize("work", [work_of_a_policy, work_of_a_signer])
async def test_a_peer_is_left_without_a_failure_while_its_listener_greets(
    work: Callable[[trio.Event], Awaitable[dict[str, Any]]], nursery: trio.Nursery
) -> None:
    working = trio.Event()
    options = await work(working)

    async def dial(invite: str) -> None:
        async with peer(ADA) as ada:
            with pytest.raises(DialError):
                await ada.dial(invite)

    async with peer(options.pop("identity", BOB), **options) as bob:
        nursery.start_soon(dial, (await bob.listen(MEM)).invite)
        await working.wait()


async def test_a_peer_is_left_without_a_failure_while_its_handlers_work() -> None:
    working = [trio.Event(), trio.Event()]

    async def handler(_: object) -> None:
        await fail_amid_cancellation(working[0])

    async def answer(*_: object) -> None:
        await fail_amid_cancellation(working[1])

    async with peer(ADA) as ada:
        async with peer(BOB) as bob, trio.open_nursery() as asking:
            bob.handle("fail/1", handler)
            bob.handle_request("fail/2", answer)
            bob.handle("echo/1", echo)
            connection = await ada.dial((await bob.listen(MEM)).invite)
            await connection.open_stream("fail/1")
            asking.start_soon(connection.request, "fail/2", None)
            for event in working:
                await event.wait()
            bob._nursery.cancel_scope.cancel()  # type: ignore[union-attr]
            asking.cancel_scope.cancel()
        await connection.closed()
