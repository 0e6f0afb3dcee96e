"""docs/threats.md: each row names a section and a test that are there; threats.py: whether that test ran."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest

from .threats import BadTable, Row, objection, read_table

pytest_plugins = ["pytester"]

ROOT: Final = Path(__file__).parent.parent
ROWS: Final = read_table((ROOT / "docs" / "threats.md").read_text())
SECTIONS: Final = set(re.findall(r"^## ([0-9]+)\. ", (ROOT / "protocol" / "SPEC.md").read_text(), re.MULTILINE))


# --- the table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_names_a_test_of_every_run(row: Row) -> None:
    """That it passed as well is seen when a whole run ends: threats.py."""
    path = ROOT / row.path
    assert path.is_file(), f"{row.id}, line {row.line}: there is no {row.path}"
    assert objection(path.read_text(), row.test) is None, f"{row.id}, line {row.line}: {row.node}"


def test_each_section_of_a_row_is_there() -> None:
    assert {"1", "14"} <= SECTIONS
    for row in ROWS:
        for section in row.sections:
            is_there = section in SECTIONS if section.isdigit() else (ROOT / section).is_file()
            assert is_there, f"{row.id}, line {row.line}: there is no {section}"


def test_no_attack_stands_there_twice() -> None:
    attacks = [row.attack for row in ROWS]
    assert len(set(attacks)) == len(attacks)


# --- reading one ----------------------------------------------------------------------------------------

HEAD: Final = "| id | attack | defence | section | test |\n|---|---|---|---|---|\n"
GOOD: Final = "| A1 | He listens. | He hears nothing. | 1, 14 | `tests/peer/test_x.py::test_he_hears_nothing` |\n"


def test_a_row_is_read_into_its_parts() -> None:
    assert read_table(f"# Threats\n\n{HEAD}{GOOD}\nMore.\n", least=1) == [
        Row(
            5,
            "A1",
            "He listens.",
            "He hears nothing.",
            ("1", "14"),
            "tests/peer/test_x.py",
            "test_he_hears_nothing",
        )
    ]


def test_other_documents_are_read_by_their_paths() -> None:
    text = GOOD.replace("1, 14", "9, [`docs/identities.md`](identities.md), [`README.md`](../README.md)")
    assert read_table(HEAD + text, least=1)[0].sections == ("9", "docs/identities.md", "README.md")


@pytest.mark.parametrize("ids", [("A1", "A3", "A10", "B1"), ("A9", "C1")], ids=str)
def test_ids_may_leave_numbers_out(ids: tuple[str, ...]) -> None:
    rows = [GOOD.replace("A1", id_) for id_ in ids]
    assert tuple(row.id for row in read_table(HEAD + "".join(rows), least=1)) == ids


@pytest.mark.parametrize("ids", [("A1", "A1"), ("A2", "A1"), ("A10", "A9"), ("B1", "A2")], ids=str)
def test_ids_go_up_each_once(ids: tuple[str, ...]) -> None:
    rows = [GOOD.replace("A1", id_) for id_ in ids]
    with pytest.raises(BadTable, match=f"line 4: {ids[1]} comes after {ids[0]}"):
        read_table(HEAD + "".join(rows), least=1)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("A1", "a1", "'a1' is no id"),
        ("A1", "A01", "'A01' is no id"),
        ("A1", "", "'' is no id"),
        (" | 1, 14", "", "5 columns"),
        ("listens", "lis|tens", "5 columns"),
        ("` |", "`", "5 columns"),
        ("He listens.", "He listens", "the attack is a sentence"),
        ("He hears nothing.", "", "the defence is a sentence"),
        ("1, 14", "", "neither the number of a section"),
        ("1, 14", "§1", "neither the number of a section"),
        ("1, 14", "14.", "neither the number of a section"),
        ("1, 14", "0", "neither the number of a section"),
        ("1, 14", "identities.md", "neither the number of a section"),
        ("1, 14", "[`docs/identities.md`](scaling.md)", "does not lead to the docs/identities.md"),
        ("1, 14", "[`README.md`](README.md)", "does not lead to the README.md"),
        ("`tests/", "`docs/", "a test is `tests/"),
        ("::test_he", "::he", "a test is `tests/"),
        ("nothing`", "nothing[0]`", "a test is `tests/"),
        ("peer/", "../", "a test is `tests/"),
        ("`", "", "a test is `tests/"),
    ],
)
def test_a_row_that_is_none_is_refused_with_its_line(old: str, new: str, complaint: str) -> None:
    assert old in GOOD
    with pytest.raises(BadTable, match="line 3: .*" + re.escape(complaint)):
        read_table(HEAD + GOOD.replace(old, new), least=1)


def test_a_table_that_has_lost_rows_is_refused() -> None:
    rows = [GOOD.replace("A1", f"A{number}") for number in range(1, 80)]
    with pytest.raises(BadTable, match="79 rows, expected at least 80"):
        read_table(HEAD + "".join(rows))
    assert len(read_table(HEAD + "".join(rows) + GOOD.replace("A1", "B1"))) == 80


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def test_it(): ...", None),
        ("async def test_it(): ...", None),
        ("@pytest.mark.parametrize('x', [1, pytest.param(2, marks=pytest.mark.slow)])\ndef test_it(x): ...", None),
        ("pytestmark = pytest.mark.filterwarnings('error')\ndef test_it(): ...", None),
        ("def test_it_too(): ...", "there is no such test"),
        ("class TestAll:\n    def test_it(self): ...", "there is no such test"),
        ("def helper():\n    def test_it(): ...", "there is no such test"),
        ("# def test_it(): ...", "there is no such test"),
        ("@pytest.mark.slow\ndef test_it(): ...", "pytest.mark.slow"),
        ("@other\n@pytest.mark.skipif(True, reason='')\nasync def test_it(): ...", "pytest.mark.skipif"),
        ("@pytest.mark.skip\ndef test_it(): ...", "pytest.mark.skip"),
        ("@pytest.mark.xfail(strict=True)\ndef test_it(): ...", "pytest.mark.xfail"),
        ("pytestmark = pytest.mark.slow\ndef test_it(): ...", "pytest.mark.slow"),
        ("pytestmark = [pytest.mark.skipif(True, reason='')]\ndef test_it(): ...", "pytest.mark.skipif"),
        ("def test_it(): ...\n\n@pytest.mark.slow\ndef test_it(): ...", "pytest.mark.slow"),
    ],
)
def test_a_test_that_is_not_in_every_run_is_none(source: str, complaint: str | None) -> None:
    found = objection(source, "test_it")
    assert found is None if complaint is None else complaint in str(found)


# --- whether they ran -----------------------------------------------------------------------------------

PLUGIN: Final = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from threats import ThreatCheck

def pytest_configure(config):
    config.pluginmanager.register(ThreatCheck(least=2))
"""
OUR_OWN: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
SETTINGS: Final = f"""
[tool.pytest.ini_options]
testpaths = {OUR_OWN["testpaths"]}
addopts = "{OUR_OWN["addopts"].replace("--import-mode=importlib", "")}"
markers = ["slow: not in every run"]
"""
TESTS: Final = """
import pytest

def test_one():
    pass

@pytest.mark.parametrize("number", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_two(number):
    pass

def test_of_no_row():
    pass
"""
TABLE: Final = HEAD + "".join(
    GOOD.replace("A1", id_).replace("peer/test_x.py::test_he_hears_nothing", f"test_all.py::{test}")
    for id_, test in (("A1", "test_one"), ("B1", "test_two"))
)
SHOWN: Final = "2 threats, each shown by its test"
ONE_IS_NOT: Final = "1 of 2 threats are not shown by their tests"


def run(
    pytester: pytest.Pytester,
    *options: str,
    tests: str = TESTS,
    table: str | None = TABLE,
    within: str = ".",
    alone: bool = False,
) -> tuple[int, list[str]]:
    """The exit status of a run of pytest over these tests and this table, and the lines in which it judges.

    alone: in a process of its own, with no plugin that is not asked for.
    """
    for name in ("tests", "docs"):
        pytester.mkdir(name)
    for name, text in {
        "pyproject.toml": SETTINGS,
        "tests/conftest.py": PLUGIN,
        "tests/test_all.py": tests,
        "docs/threats.md": table,
    }.items():
        if text is not None:
            (pytester.path / name).write_text(text)
    os.chdir(pytester.path / within)
    if alone or options[:2] == IN_WORKERS[:2]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            done = pytester.runpytest_subprocess(*options)
    else:
        done = pytester.runpytest_inprocess(*options)
    return done.ret, [
        line for line in done.outlines if re.match(r"\d+ (of \d+ )?threats|docs/threats.md:|[A-Z]\d+ tests/", line)
    ]


IN_WORKERS: Final = ("-p", "xdist", "-n", "2")
WORKERS: Final = pytest.mark.parametrize("workers", [(), IN_WORKERS], ids=["alone", "in workers"])


@WORKERS
def test_a_run_that_shows_all_says_so_in_one_line(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    assert run(pytester, *workers) == (pytest.ExitCode.OK, [SHOWN])


@WORKERS
def test_a_row_whose_test_is_gone_fails_the_run(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    judged = run(pytester, *workers, tests=TESTS.replace("test_one", "test_of_another_name"))
    assert judged == (pytest.ExitCode.TESTS_FAILED, ["A1 tests/test_all.py::test_one: did not run", ONE_IS_NOT])


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        pytest.param("def test_one", "@pytest.mark.slow\ndef test_one", "A1: did not run", id="is slow"),
        pytest.param("[1, 2, ", "[", "B1: did not run", id="its only case is slow"),
        pytest.param("test_one():\n    pass", "test_one():\n    assert False", "A1: failed", id="fails"),
        pytest.param("test_one():\n    pass", "test_one():\n    pytest.skip()", "A1: skipped", id="skips"),
        pytest.param("test_one():\n    pass", "test_one():\n    pytest.xfail()", "A1: skipped", id="is to fail"),
        pytest.param("test_one():", "test_one(no_such_fixture):", "A1: failed", id="its fixture fails"),
        pytest.param(
            "(number):\n    ", "(number):\n    number > 1 or pytest.skip()\n    ", "B1: skipped", id="a case skips"
        ),
        pytest.param(
            "(number):\n    ", "(number):\n    assert number == 1\n    ", "B1: failed", id="a case fails"
        ),
    ],
)
def test_a_row_whose_test_did_not_pass_fails_the_run(
    pytester: pytest.Pytester, old: str, new: str, wrong: str
) -> None:
    assert old in TESTS
    test = "test_one" if wrong.startswith("A1") else "test_two"
    said = wrong.replace(":", f" tests/test_all.py::{test}:")
    judged = run(pytester, tests=TESTS.replace(old, new))
    assert judged == (pytest.ExitCode.TESTS_FAILED, [said, ONE_IS_NOT])


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        (TABLE.replace("A1", "C1"), "docs/threats.md: line 4: B1 comes after C1"),
        (HEAD + TABLE.splitlines()[-1], "docs/threats.md: 1 rows, expected at least 2"),
        (None, "docs/threats.md: [Errno 2]"),
    ],
    ids=["out of order", "too short", "missing"],
)
def test_a_table_that_cannot_be_read_fails_the_run(
    pytester: pytest.Pytester, table: str | None, wrong: str
) -> None:
    status, (said,) = run(pytester, table=table)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert said.startswith(wrong)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["tests/test_all.py"], 0),
        (["tests/test_all.py::test_of_no_row"], 0),
        (["-k", "no_row"], 0),
        (["-m", "slow"], 0),
        (["--deselect", "tests/test_all.py::test_one"], 0),
        (["--ignore", "tests/none"], 0),
        (["--ignore-glob", "*none*"], 0),
        (["--setup-plan"], 0),
        (["--lf"], 0),
        (["--sw"], 0),
        (["--co"], 0),
        (["--setup-only"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_a_run_of_a_part_nothing_is_said(pytester: pytest.Pytester, options: list[str], status: int) -> None:
    assert run(pytester, *options) == (status, [])


@pytest.mark.parametrize("options", [["-x"], ["--maxfail=1"], [*IN_WORKERS, "-x"]], ids=" ".join)
def test_of_a_run_that_was_given_up_nothing_is_said(pytester: pytest.Pytester, options: list[str]) -> None:
    ended, said = run(pytester, *options, tests="def test_none():\n    assert False\n" + TESTS)
    assert ended in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert said == []


def test_of_a_run_that_was_interrupted_nothing_is_said(pytester: pytest.Pytester) -> None:
    judged = run(pytester, tests=TESTS + "\ndef test_last():\n    raise KeyboardInterrupt\n", alone=True)
    assert judged == (pytest.ExitCode.INTERRUPTED, [])


def test_of_a_run_from_a_directory_below_nothing_is_said(pytester: pytest.Pytester) -> None:
    assert run(pytester, within="tests") == (pytest.ExitCode.OK, [])


@pytest.mark.parametrize("options", [["-x"], ["-m", "not slow"], ["-v"], ["--ff"]], ids=" ".join)
def test_what_leaves_nothing_out_is_a_whole_run(pytester: pytest.Pytester, options: list[str]) -> None:
    assert run(pytester, *options) == (pytest.ExitCode.OK, [SHOWN])
