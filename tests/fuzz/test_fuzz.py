"""Every parser, with thousands of inputs that are nearly right: what it raises is its own, its work is bounded.

The long run is `python -m tests.fuzz`, the one that is guided by coverage `make fuzz`.
"""

from __future__ import annotations

import pytest

from .parsers import PARSERS, Parser
from .runs import fuzz

EACH_PARSER = pytest.mark.parametrize("parser", PARSERS.values(), ids=str)
NEVER_TAKEN = {"identity-rsa-private-key"}
"""It is read to say what it is."""

INPUTS = 1000
"""Of the quickest parsers; the others get fewer, so that each takes about as long."""


@EACH_PARSER
def test_a_real_input_is_taken_and_the_corpus_raises_nothing_foreign(parser: Parser) -> None:
    refused = [parser.refuses(data) for data in (*parser.seeds, *parser.corpus)]
    assert not all(refused) or parser.name in NEVER_TAKEN


@EACH_PARSER
def test_what_is_nearly_right_is_taken_or_refused_as_documented(parser: Parser) -> None:
    report = fuzz(parser, max(40, INPUTS // parser.slowness), seed=1)
    assert not report.foreign, report
    assert bool(report.refused) is bool(parser.refusals)


@pytest.mark.slow
@EACH_PARSER
def test_twenty_thousand_inputs_are_taken_or_refused_as_documented(parser: Parser) -> None:
    report = fuzz(parser, 20_000, seed=2)
    assert not report.foreign, report
