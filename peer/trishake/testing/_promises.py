"""What the checks have in common: a promise is a sentence, and what breaks it comes out as one AssertionError."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, cast

import trio

from .._errors import NoResponse

SOON: Final = 10.0
"""Seconds for anything that has to happen."""


def check(kept: bool, sentence: str) -> None:
    """Raises AssertionError with the sentence, unless it was kept."""
    if not kept:
        raise AssertionError(sentence)


@contextmanager
def in_a_sentence(promise: str) -> Generator[None]:
    """What breaks a promise comes out as one AssertionError, and not as a group of what came of it."""
    try:
        yield
    except (ExceptionGroup, trio.BrokenResourceError, trio.ClosedResourceError, OSError, NoResponse) as error:
        first, *_ = sorted(_leaves(error), key=lambda leaf: not isinstance(leaf, AssertionError))
        what = first if isinstance(first, AssertionError) else repr(first)
        raise AssertionError(f"{promise}: {what}") from error
    except AssertionError as error:
        raise AssertionError(f"{promise}: {error}") from error


def _leaves(error: Exception) -> Generator[Exception]:
    if isinstance(error, ExceptionGroup):
        for part in cast("ExceptionGroup[Exception]", error).exceptions:
            yield from _leaves(part)
    else:
        yield error


@contextmanager
def within_time(what: str, seconds: float = SOON) -> Generator[None]:
    """Raises AssertionError if what is inside has not ended by then."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise AssertionError(f"waited {seconds:g} s in vain for {what}") from None
