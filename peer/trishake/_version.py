"""The version, in one place, and the agent string that a greeting carries by default."""

from typing import Final

VERSION: Final = "0.1.0"
AGENT: Final = f"trishake/{VERSION}"
