"""tests/breakages.py: its list fits the sources, docs/breakages.md has just that, and each breakage is caught."""

from __future__ import annotations

import pytest

from trishake.testing import IMPOSTORS, STRANGERS

from . import breakages
from .breakages import BREAKAGES, DOCUMENT, LEAST, ROOT, Breakage, Outcome, Stale, broken, document, names_in, run

QUICK = "policy not asked"
"""What one of the first tests notices."""

each = pytest.mark.parametrize("breakage", BREAKAGES, ids=[breakage.name for breakage in BREAKAGES])

PLAIN = Breakage("plain", "do much", "peer/trishake/_version.py", "one", "two")


@each
def test_a_breakage_fits_the_sources_and_is_still_python(breakage: Breakage) -> None:
    text = (ROOT / breakage.file).read_text("utf-8")
    changed = broken(breakage, text)
    assert changed != text
    compile(changed, breakage.file, "exec")


def test_no_two_breakages_have_one_name_or_break_the_same() -> None:
    assert len({breakage.name for breakage in BREAKAGES}) == len(BREAKAGES) >= LEAST
    assert len({(breakage.file, breakage.old, breakage.new) for breakage in BREAKAGES}) == len(BREAKAGES)


def test_a_breakage_is_shown_by_a_hostile_peer_of_the_kit() -> None:
    hostile = {peer.name for peer in (*IMPOSTORS, *STRANGERS)}
    shown = {breakage.by for breakage in BREAKAGES if breakage.by}
    assert shown
    assert shown <= hostile


def test_the_document_has_each_of_them_and_which_test_has_caught_it() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert names_in(text) == [breakage.name for breakage in BREAKAGES]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if "`test_" not in row] == []


@pytest.mark.parametrize("text", ["none", "one and one"])
def test_a_breakage_that_no_longer_fits_is_an_error(text: str) -> None:
    with pytest.raises(Stale, match="'plain': its text occurs"):
        broken(PLAIN, text.replace("none", "nobody"))


def test_the_document_keeps_its_columns_whatever_a_message_says() -> None:
    text = document([Outcome(PLAIN, "test_it[<a|b>]", "no | nothing " + 1000 * "x")])
    (row,) = [line for line in text.splitlines() if line.startswith("| plain")]
    assert row.replace("\\|", "").count("|") == 6
    assert len(row) < 400
    assert names_in(text) == ["plain"]


def test_a_breakage_is_caught() -> None:
    (breakage,) = [one for one in BREAKAGES if one.name == QUICK]
    outcome = run(breakage, breakages.KIT_TESTS[:1])
    assert outcome.caught, outcome.problem
    assert outcome.test.startswith("test_")
    assert "bob was to reject ada" in outcome.message


@pytest.mark.slow
@each
def test_each_breakage_is_caught(breakage: Breakage) -> None:
    outcome = run(breakage)
    assert outcome.caught, outcome.problem


@pytest.mark.slow
def test_a_library_that_is_whole_is_not_caught() -> None:
    assert run(None).problem == "no test has failed"


def test_a_copy_that_cannot_be_imported_catches_nothing() -> None:
    text = (ROOT / PLAIN.file).read_text("utf-8")
    outcome = run(PLAIN._replace(old=text, new="raise RuntimeError('no version')"))
    assert not outcome.caught
    assert outcome.problem == "the copy is not what is imported: RuntimeError: no version"


BREAKS_DOWN = "async def test_it(network):\n    raise RuntimeError('broken down')\n"
DOES_NOT_LOAD = "import nowhere_at_all\n"
PASSES = "def test_it():\n    assert True\n"
FAILS = "async def test_it(network):\n    assert 1 == 2, 'a plain word'\n"
RAISES_NOTHING = "import pytest\ndef test_it():\n    with pytest.raises(OSError):\n        pass\n"


@pytest.mark.parametrize(
    ("test", "problem", "message"),
    [
        pytest.param(
            BREAKS_DOWN,
            "test_it has broken down, and was to fail: RuntimeError: broken down",
            "",
            id="breaks down",
        ),
        pytest.param(
            DOES_NOT_LOAD, "the tests have broken down: ", "", id="does not load", marks=pytest.mark.slow
        ),
        pytest.param(PASSES, "no test has failed", "", id="passes", marks=pytest.mark.slow),
        pytest.param(FAILS, "", "a plain word", id="fails", marks=pytest.mark.slow),
        pytest.param(RAISES_NOTHING, "", "DID NOT RAISE", id="raises nothing", marks=pytest.mark.slow),
    ],
)
def test_what_counts_is_an_assertion_that_fails(
    tmp_path_factory: pytest.TempPathFactory, test: str, problem: str, message: str
) -> None:
    file = tmp_path_factory.mktemp("kit") / "test_it.py"
    file.write_text(test, "utf-8")
    outcome = run(None, (str(file),))
    assert outcome.problem.startswith(problem)
    assert outcome.caught is (problem == "")
    assert message in outcome.message


def test_the_kit_tests_are_there_and_use_what_is_public() -> None:
    for name in breakages.KIT_TESTS:
        assert (ROOT / name).is_file()
    text = (ROOT / breakages.KIT_TESTS[0]).read_text("utf-8")
    assert "trishake._" not in text
    assert "testing._" not in text
