"""QR codes in the terminal, for invites and ids to be scanned (`pip install 'trishake[qr]'`)."""

from __future__ import annotations

import io
from typing import Final

_COLOURS: Final = "\x1b[97;40m"
_USUAL: Final = "\x1b[0m"
"""White on black, since the blocks that are drawn are the light ones."""


def qr_code(text: str) -> str:
    """The text as a QR code of half blocks: about 45 columns and 23 lines for an invite.

    It sets its own colours, so that it can be scanned from a light terminal as from a dark one. Raises
    ImportError, which says what to install; ValueError for more text than a code holds.
    """
    try:
        import segno
    except ImportError as error:
        raise ImportError("for QR codes, segno is needed: pip install 'trishake[qr]'") from error
    drawn = io.StringIO()
    segno.make_qr(text, error="l").terminal(drawn, compact=True)
    return "\n".join(f"{_COLOURS}{line}{_USUAL}" for line in drawn.getvalue().splitlines())
