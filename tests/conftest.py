"""For all tests."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Thousands of tests stay to the end: whatever collects garbage need not look at them each time."""
    gc.collect()
    gc.freeze()
