"""Hostile peers that need no key: they say nothing, too much, the wrong thing, or stop in the middle."""

from __future__ import annotations

from ._hostile import Right, Scene, hostile


@hostile(listener=Right("syn/timeout"), dialer=Right("syn-ack/timeout"))
async def silent(scene: Scene) -> None:
    """Connects, or accepts, and says nothing at all.

    A right listener hangs up after `Limits.syn`, without a word, since nothing says that this is a peer at all; a
    right dialer gives up after `Limits.greeting`.
    """
    await scene.hear_the_end()
