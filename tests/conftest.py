"""For every test: what it logs is checked as it comes (leaks.py)."""

from __future__ import annotations

import pytest

from .leaks import LogCheck


def pytest_configure(config: pytest.Config) -> None:
    check = LogCheck()
    config.pluginmanager.register(check, "trishake-log")
