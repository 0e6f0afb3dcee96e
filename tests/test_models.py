"""protocol/models: the models say what the code does, and check.py says whether they hold.

Run with WRITE_STATES=1 to write protocol/models/states.pml anew, from the table of states.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from trishake_protocol.patterns import Role
from trishake_protocol.states import GREETING, Input, State

MODELS: Final = Path(__file__).resolve().parent.parent / "protocol" / "models"
SPIN: Final = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None, reason="spin and gcc are not installed"
)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check", MODELS / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check"] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


CHECK: Final = load()


def check(models: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(models / "check.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **environment}
    )


# --- the models and the code ----------------------------------------------------------------------------


def states() -> Iterator[str]:
    """The table of the greeting, in Promela."""
    yield "// Generated from GREETING in trishake_protocol/states.py: WRITE_STATES=1 pytest tests/test_models.py"
    yield ""
    yield f"mtype:state = {{ {', '.join(state.name for state in State)} }};"
    yield f"mtype:input = {{ {', '.join(input_.name for input_ in Input)} }};"
    for role, rows in GREETING.items():
        yield from ("", f"inline {role.name.lower()}_moves(input)", "{", "    if")
        now = f"state[{role.name}]"
        for state, moves in rows.items():
            for input_, then in moves.items():
                yield f"    :: {now} == {state.name} && input == {input_.name} -> {now} = {then.name}"
        yield from ("    :: else -> no_such_move = true", "    fi", "}")


def test_the_moves_of_the_model_are_those_of_the_table() -> None:
    text = "\n".join(states()) + "\n"
    file = MODELS / "states.pml"
    if "WRITE_STATES" in os.environ:
        file.write_text(text)
    assert file.read_text() == text


def test_the_model_moves_by_the_table_alone() -> None:
    """Whoever else sets a state ends, or is there to be broken."""
    text = (MODELS / "greeting.pml").read_text()
    assert '#include "states.pml"' in text
    for role in Role:
        assert text.count(f"{role.name.lower()}_moves(input)") == 1
    set_elsewhere = set(re.findall(r"state\[\w+\] = (\w+)", text))
    assert set_elsewhere == {"AWAIT_SYN", "AWAIT_SYN_ACK", "ENDED", "OPEN"}
    (broken,) = re.findall(r"#ifdef NO_VERDICT\n(.*?)#endif", text, re.DOTALL)
    assert text.count("] = OPEN") == broken.count("] = OPEN") == 1


@pytest.mark.parametrize("model", ["greeting", "crossing"])
def test_every_variant_of_a_model_is_described_and_tried(model: str) -> None:
    text = (MODELS / f"{model}.pml").read_text()
    tried = {flag for run in CHECK.RUNS if run.model == model for flag in run.flags}
    used = {
        name for line in re.findall(r"^#if.*", text, re.MULTILINE) for name in re.findall(r"\b[A-Z_]{3,}\b", line)
    }
    assert used == tried
    head = text[: text.index("*/")]
    assert not [flag for flag in tried if not re.search(rf"\b{flag}\b", head)]


@pytest.mark.parametrize("model", ["greeting", "crossing"])
def test_every_variant_that_is_broken_fails_what_holds_without_it(model: str) -> None:
    runs = [run for run in CHECK.RUNS if run.model == model]
    hold = {(run.property, run.claim) for run in runs if run.expected == CHECK.HOLDS}
    assert {(run.property, run.claim) for run in runs if run.expected != CHECK.HOLDS} <= hold


def test_every_claim_of_the_model_is_checked() -> None:
    claims = set(re.findall(r"^ltl (\w+)", (MODELS / "greeting.pml").read_text(), re.MULTILINE))
    held = {run.claim for run in CHECK.RUNS if run.claim and run.expected == CHECK.HOLDS}
    assert claims == held


# --- the check ------------------------------------------------------------------------------------------


@SPIN
@pytest.mark.slow
def test_the_small_runs_of_the_greeting_are_as_expected() -> None:
    done = check(MODELS, "--quick", "greeting")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as expected" in done.stdout


@SPIN
@pytest.mark.slow
def test_everything_is_as_expected() -> None:
    done = check(MODELS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r" holds +holds +\d+ ", done.stdout)) >= 18
    assert len(re.findall(r" (violated|cycle|deadlock) +\1 +\d+ ", done.stdout)) >= 18


CHANGES: Final = {
    "a move that leads elsewhere": (
        "states.pml",
        "input == ACCEPT -> state[RESPONDER] = OPEN",
        "input == ACCEPT -> state[RESPONDER] = ENDED",
        "holds    cycle !",
    ),
    "a move too few": (
        "states.pml",
        "    :: state[RESPONDER] == PEER_IDENTIFIED && input == REJECT -> state[RESPONDER] = ENDED\n",
        "",
        "holds    violated !",
    ),
    "a move too many": (
        "states.pml",
        "    :: else -> no_such_move = true\n",
        "    :: state[INITIATOR] == AWAIT_SYN_ACK && input == ACK -> state[INITIATOR] = ENDED\n"
        "    :: else -> no_such_move = true\n",
        "never reached: greeting.pml, or what it includes, line 18: ",
    ),
    "nothing broken any more": (
        "greeting.pml",
        "#ifndef NO_DRAIN",
        "#ifndef NEVER",
        "violated holds !",
    ),
    "no model": ("greeting.pml", "proctype Initiator", "protype Initiator", "syntax error"),
}


@SPIN
@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new", "said"), CHANGES.values(), ids=CHANGES)
def test_a_model_that_is_not_as_expected_is_told(file: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(MODELS, models)
    text = (models / file).read_text()
    assert old in text
    (models / file).write_text(text.replace(old, new, 1))
    done = check(models, "greeting", *(["--quick"] if "never reached" not in said else []))
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


@SPIN
@pytest.mark.parametrize(
    ("limit", "value"), [("DEPTH", 20), ("MEGABYTES", 8)], ids=["not deep enough", "not enough memory"]
)
def test_a_search_that_has_not_seen_everything_proves_nothing(
    limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CHECK, limit, value)
    pan = CHECK.compiled("crossing", ("IN_TIME",), False, False, tmp_path / "crossing")
    with pytest.raises(CHECK.Wrong):
        CHECK.searched(pan, None)


def test_without_spin_it_says_what_to_install(tmp_path: Path) -> None:
    done = check(MODELS, PATH=str(tmp_path))
    assert done.returncode == 2
    assert "apt-get install spin gcc" in done.stderr
    assert not done.stdout


# --- ProVerif -------------------------------------------------------------------------------------------


def proverif(
    directory: Path, monkeypatch: pytest.MonkeyPatch, greeting: list[str], static_only: list[str]
) -> None:
    """Put a program of that name on the path, which has these results."""
    said = {"greeting": greeting, "static_only": static_only}
    for model, results in said.items():
        (directory / model).write_text("".join(f"RESULT q {result}.\n" for result in results))
    program = directory / "proverif"
    program.write_text(f'#!/bin/sh\nexec /bin/cat "{directory}/$(basename "$1" .pv)"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


PROVED: Final = ["is true"] * 5 + ["is false"] * 3


@pytest.mark.parametrize(
    ("greeting", "static_only", "fine"),
    [
        (PROVED, ["is true", "is false"], True),
        (PROVED, ["is true", "is true"], False),
        (["is true"] * 8, ["is true", "is false"], False),
        (["cannot be proved", *PROVED[1:]], ["is true", "is false"], False),
        ([], ["is true", "is false"], False),
        (PROVED[1:], ["is true", "is false"], False),
    ],
    ids=["as expected", "no attack", "nothing happens", "not proved", "nothing said", "a query too few"],
)
def test_what_proverif_finds_is_compared(
    greeting: list[str], static_only: list[str], fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proverif(tmp_path, monkeypatch, greeting, static_only)
    assert CHECK.check_proverif() is fine


def test_without_proverif_it_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert CHECK.check_proverif()
    assert capsys.readouterr().out == "greeting.pv, static_only.pv: not checked, proverif is not installed\n"
