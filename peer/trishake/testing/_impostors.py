"""Hostile peers that claim to be somebody else, or to have said something else, than they are and have."""

from __future__ import annotations

from trishake_protocol import Role

from ._hostile import Right, Scene, hostile


@hostile(
    listener=Right("BAD_SIGNATURE", told="BAD_SIGNATURE"),
    dialer=Right("BAD_SIGNATURE", told="ABORTED"),
    poses=True,
)
async def impostor(scene: Scene) -> None:
    """Claims another's id, and signs with a key of its own.

    A right listener says BAD_SIGNATURE, under encryption; a right dialer refuses it with BAD_SIGNATURE, and says
    nothing that names it.
    """
    hand = scene.hand()
    if scene.role is Role.INITIATOR:
        assert scene.right is not None
        await hand.say(hand.flight())
        await hand.hear_syn_ack(scene.right)
        await hand.say(hand.ack(hand.honest(id=scene.victim.id.key)))
        await scene.hear_verdict(hand)
    else:
        await hand.hear_flight()
        await hand.say(hand.syn_ack(hand.honest(id=scene.victim.id.key)))
        await scene.hear_the_end()
