"""docs/threats.md: its rows, and whether the test that each one names ran and passed.

A plugin of pytest. Where the whole of the default suite was asked for, the run fails if the test of a row did not
run, did not pass, or was skipped in part; of any other run nothing can be said, and nothing is. Under xdist it is
the process that hands out the tests which judges: it sees the reports of all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

import pytest

LEAST: Final = 80
"""Rows. A table with fewer has lost some."""

_COLUMNS: Final = ["id", "attack", "defence", "section", "test"]
_ID: Final = re.compile(r"([A-Z])([1-9][0-9]?)")
_SECTION: Final = re.compile(r"[1-9][0-9]?")
_DOCUMENT: Final = re.compile(r"\[`((?:docs/)?([A-Za-z-]+\.md))`\]\(([A-Za-z./-]+)\)")
_TEST: Final = re.compile(r"`(tests/(?:[a-z_]+/)*test_[a-z0-9_]+\.py)::(test_[a-z0-9_]+)`")


class Row(NamedTuple):
    """One threat."""

    line: int
    id: str
    attack: str
    defence: str
    sections: tuple[str, ...]
    """Numbers of sections of protocol/SPEC.md, or paths of other documents from the root of the repository."""
    path: str
    """Of the test's file, from the root of the repository."""
    test: str

    @property
    def node(self) -> str:
        """The test as pytest names it, without its parameters."""
        return f"{self.path}::{self.test}"


class BadTable(ValueError):
    """A line of the table is not as it must be; which one, and why, is its text."""


def read_table(text: str, *, least: int = LEAST) -> list[Row]:
    """All rows, in their order.

    Raises BadTable for a row that has not the five columns, for ids that are not in order, and for too few rows.
    """
    rows = [_row(number, cells) for number, cells in _cells(text)]
    for one, other in pairwise(rows):
        if _place(one.id) >= _place(other.id):
            raise BadTable(f"line {other.line}: {other.id} comes after {one.id}; ids go up, each once")
    if len(rows) < least:
        raise BadTable(f"{len(rows)} rows, expected at least {least}")
    return rows


def _cells(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is a row, and neither the head of a table nor the rule under it."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("|"):
            cells = [cell.strip() for cell in line.strip().split("|")]
            if len(cells) != len(_COLUMNS) + 2 or cells[0] or cells[-1]:
                raise BadTable(f"line {number}: expected {len(_COLUMNS)} columns between | and |, got {line!r}")
            if cells[1:-1] != _COLUMNS and set("".join(cells)) != {"-"}:
                yield number, cells[1:-1]


def _row(line: int, cells: list[str]) -> Row:
    id_, attack, defence, section, test = cells
    if _ID.fullmatch(id_) is None:
        raise BadTable(f"line {line}: {id_!r} is no id; one is a letter and a number, such as A1")
    for name, text in (("attack", attack), ("defence", defence)):
        if not text.endswith("."):
            raise BadTable(f"line {line}: the {name} is a sentence with its full stop, got {text!r}")
    named = _TEST.fullmatch(test)
    if named is None:
        raise BadTable(f"line {line}: a test is `tests/….py::test_…`, got {test!r}")
    return Row(line, id_, attack, defence, tuple(_sections(line, section)), named[1], named[2])


def _sections(line: int, text: str) -> Iterator[str]:
    for part in text.split(", "):
        if _SECTION.fullmatch(part):
            yield part
        elif document := _DOCUMENT.fullmatch(part):
            path, name, target = document.groups()
            if target != (f"../{name}" if path == name else name):
                raise BadTable(f"line {line}: {part} does not lead to the {path} that it names")
            yield path
        else:
            raise BadTable(
                f"line {line}: {part!r} is neither the number of a section nor a link such as [`docs/….md`](….md)"
            )


def _place(id_: str) -> tuple[str, int]:
    return id_[0], int(id_[1:])


def objection(source: str, test: str) -> str | None:
    """What speaks against this test of a module as the test of a row; None if nothing does.

    It has to be there, to be in the default run, and never to be skipped as a whole.
    """
    marks = _marks(source).get(test)
    if marks is None:
        return "there is no such test"
    for mark in marks:
        if re.match(r"\[?pytest\.mark\.(slow|skip|skipif|xfail)\b", mark):
            return f"it is not in every run: {mark.partition('(')[0]}"
    return None


@cache
def _marks(source: str) -> dict[str, list[str]]:
    """Of each function of a module: its decorators, and the marks of the whole module, as they are written."""
    body = ast.parse(source).body
    of_all = [
        ast.unparse(node.value)
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    return {
        node.name: of_all + [ast.unparse(decorator) for decorator in node.decorator_list]
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


class ThreatCheck:
    """Judges a whole run by the table. Registered as a plugin."""

    def __init__(self, *, least: int = LEAST) -> None:
        self._least = least
        self._outcomes: dict[str, set[str]] = {}
        """By test, without parameters: what came of its cases and of their fixtures."""
        self._verdict: list[str] = []
        self._wrong = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._outcomes.setdefault(report.nodeid.partition("[")[0], set()).add(report.outcome)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not ended or session.shouldfail or not is_whole(session.config):
            return
        try:
            rows = read_table((session.config.rootpath / "docs" / "threats.md").read_text(), least=self._least)
        except (BadTable, OSError) as error:
            self._wrong, self._verdict = True, [f"docs/threats.md: {error}"]
        else:
            open_ = {row: why for row in rows if (why := self._why_not(row)) is not None}
            self._wrong = bool(open_)
            self._verdict = [f"{row.id} {row.node}: {why}" for row, why in open_.items()]
            self._verdict.append(
                f"{len(open_)} of {len(rows)} threats are not shown by their tests"
                if open_
                else f"{len(rows)} threats, each shown by its test"
            )
        if self._wrong:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _why_not(self, row: Row) -> str | None:
        outcomes = self._outcomes.get(row.node)
        if outcomes is None:
            return "did not run"
        return next((outcome for outcome in ("failed", "skipped") if outcome in outcomes), None)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._wrong:
            terminalreporter.section("threats", red=True)
        for line in self._verdict:
            terminalreporter.write_line(line, red=self._wrong)


def is_whole(config: pytest.Config) -> bool:
    """Whether all tests of the default run were asked for: no paths were given, and nothing is left out.

    Never in a worker of xdist, which is given paths.
    """
    addopts: list[str] = config.getini("addopts")
    marks = addopts[addopts.index("-m") + 1] if "-m" in addopts else ""
    narrowed = ("keyword", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "collectonly", "setuponly")
    return (
        config.args_source is pytest.Config.ArgsSource.TESTPATHS
        and config.getoption("markexpr") == marks
        and not any(config.getoption(name, None) for name in narrowed)
    )
