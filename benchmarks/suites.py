"""Trishake's suites by the names that the programs take."""

from __future__ import annotations

import argparse
from typing import Final

SUITES: Final = {"classical": (0x0001,), "hybrid": (0x0002,)}
"""Ids: X25519 alone, and together with ML-KEM-768."""


def add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", choices=[*SUITES], default="classical")
