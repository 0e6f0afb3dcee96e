"""What each test logs is checked as it comes (leaks.py), and that a whole run shows each threat (threats.py)."""

from __future__ import annotations

import gc
import signal

import pytest

from .leaks import LogCheck, Secrets
from .threats import ThreatCheck

_check = LogCheck()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_check)
    config.pluginmanager.register(ThreatCheck())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that starts us in the background has every process of ours ignore Ctrl-C, which some tests send.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests stay to the end: whatever collects garbage need not look at them each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def secrets() -> Secrets:
    """Every secret that this run has made so far."""
    return _check.secrets
