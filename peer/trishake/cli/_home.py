"""Where the user's own files are."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The directory of what is ours: TRISHAKE_HOME, or `trishake` where the user's settings are.

    Raises FileNotFoundError for a user who has no home directory.
    """
    own = os.environ.get("TRISHAKE_HOME")
    if own:
        return Path(own)
    settings = os.environ.get("XDG_CONFIG_HOME")
    if settings:
        return Path(settings) / "trishake"
    try:
        return Path.home() / ".config" / "trishake"
    except RuntimeError:
        raise FileNotFoundError(
            "there is no home directory for your files: set TRISHAKE_HOME to another one"
        ) from None
