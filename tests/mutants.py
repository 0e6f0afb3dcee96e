"""Break the core in a thousand places, one at a time, and see a test go red each time: `make mutants`.

In functions mutmut does it. What stands outside of them it leaves alone, and there a protocol has its tables and
its numbers: the rows of the states, the bounds of a key, the bytes of a type. Those are broken here, and so are
properties; and calls and refusals are left out one by one, which is not among mutmut's changes either.

A mutant that no test notices must be explained in docs/mutants.md, which says why it may live; else this fails.
"""

from __future__ import annotations

import ast
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType

import cryptography.hazmat.primitives.asymmetric.mlkem  # noqa: F401  what the tests import, once for all mutants
import hypothesis  # noqa: F401
import msgpack  # noqa: F401
import pytest
import trio  # noqa: F401

ROOT = Path(__file__).parents[1]
CORE = ROOT / "protocol/trishake_protocol"
TREE = ROOT / "mutants"
EXPLAINED = ROOT / "docs/mutants.md"
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
MODULES = [Path(path).stem for path in CONFIG["only_mutate"]]
MUTMUT = Path(sys.executable).with_name("mutmut")
CHILDREN = 2
TIME_LIMIT = 300
"""Seconds that the tests may take for a mutant made here: many times what they take without."""

OUTCOMES = ("killed", "timeout", "survived")


@dataclass(frozen=True)
class Mutant:
    """One change. where: module and name, as `states.GREETING`; diff: its lines, from - and + on, stripped."""

    where: str
    diff: tuple[str, ...]

    @property
    def module(self) -> str:
        return self.where.partition(".")[0]

    def __str__(self) -> str:
        return "\n".join(("```diff", f"# {self.where}", *self.diff, "```"))


def changed(lines: Iterable[str]) -> tuple[str, ...]:
    """Of a unified diff the lines that differ, without their indentation."""
    return tuple(
        f"{line[0]} {line[1:].strip()}"
        for line in lines
        if line[0] in "+-" and not line.startswith(("+++", "---")) and line[1:].strip()
    )


# --- in functions: mutmut -------------------------------------------------------------------------------


def mutmut(*arguments: str) -> list[str]:
    return subprocess.run(
        [MUTMUT, *arguments], cwd=TREE, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()


def lay_out() -> None:
    """The tree for mutmut, which wants the packages under `src`; links, so that it sees what is changed here."""
    shutil.rmtree(TREE, ignore_errors=True)  # what mutmut knows of another day's tests
    (TREE / "src").mkdir(parents=True)
    for link, target in (
        ("src/trishake_protocol", "../../protocol/trishake_protocol"),
        ("tests", "../tests"),
        ("examples", "../examples"),
        ("pyproject.toml", "../pyproject.toml"),
    ):
        (TREE / link).symlink_to(target)


def check_test_ids() -> None:
    """mutmut asks for tests by their id. Where pytest does not find one, mutmut takes the error for a red test."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", *CONFIG["pytest_add_cli_args"]]
    collected = subprocess.run(
        [*collect, *CONFIG["pytest_add_cli_args_test_selection"]],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if odd := [line for line in collected if "\\" in line or not (line.isascii() and line.isprintable())]:
        sys.exit("\n".join(("these tests need an id of plain ASCII, without a backslash:", *odd)))


def in_functions() -> Iterator[tuple[str, Mutant | str]]:
    """(outcome, the mutant) of each; of one that was killed, its module only."""
    check_test_ids()
    lay_out()
    subprocess.run([MUTMUT, "run", "--max-children", str(CHILDREN)], cwd=TREE, check=True)
    for line in mutmut("results", "--all", "true"):
        name, outcome = line.strip().rsplit(": ", 1)
        module, function = name.removeprefix("trishake_protocol.").split(".", 1)
        if outcome in ("killed", "timeout"):
            yield outcome, module
            continue
        mangled = function.partition("__mutmut_")[0]
        qualified = mangled.removeprefix("x_") if mangled.startswith("x_") else ".".join(mangled.split("ǁ")[1:])
        yield "survived", Mutant(f"{module}.{qualified}", changed(mutmut("show", name)))


# --- what mutmut leaves as it is: here ------------------------------------------------------------------

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Mod: ast.Mult,
}


class Source:
    """A module, and every change that mutmut does not make in it."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.bytes = (CORE / f"{module}.py").read_bytes()
        self._lines = self.bytes.splitlines(keepends=True)
        self._tree = ast.parse(self.bytes)
        self._bounds = {
            alias.name
            for node in self._tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "limits"
            for alias in node.names
        }

    def mutants(self) -> Iterator[tuple[Mutant, bytes]]:
        """(mutant, the whole module with it)."""
        for where, root in self._statements(self._tree.body, self.module):
            for start, end, new in self._changes(root):
                mutated = self.bytes[:start] + new.encode() + self.bytes[end:]
                diff = difflib.unified_diff(
                    self.bytes.decode().splitlines(), mutated.decode().splitlines(), n=0, lineterm=""
                )
                yield Mutant(where, changed(diff)), mutated

    def _statements(self, body: Iterable[ast.stmt], where: str) -> Iterator[tuple[str, ast.AST]]:
        for node in body:
            match node:
                case ast.ClassDef():
                    yield from self._statements(node.body, f"{where}.{node.name}")
                case ast.FunctionDef(decorator_list=[ast.Name("property")]):
                    yield from ((f"{where}.{node.name}", statement) for statement in node.body)
                case ast.FunctionDef():
                    for statement in ast.walk(node):
                        if isinstance(statement, ast.Raise | ast.Expr):
                            yield f"{where}.{node.name}", statement
                case ast.Assign(value=ast.Tuple() | ast.Constant(value=str())):
                    pass  # __slots__, and the words of a state
                case ast.Assign(targets=[ast.Name(name)], value=value):
                    yield f"{where}.{name}", value
                case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value):
                    yield f"{where}.{name}", value

    def _changes(self, root: ast.AST) -> Iterator[tuple[int, int, str]]:
        """(from, to, instead) of bytes."""
        if isinstance(root, ast.Raise | ast.Expr):
            if not isinstance(root, ast.Expr) or not isinstance(root.value, ast.Constant):  # a docstring
                yield *self._span(root), "pass"
            return
        for node in ast.walk(root):
            start, end = self._span(node) if hasattr(node, "lineno") else (0, 0)
            match node:
                case ast.Dict(keys=keys, values=values) if keys and None not in keys:
                    yield from self._changes_of_rows([key for key in keys if key], values)
                case ast.Constant(value=str(value)) if node is root:
                    yield start, end, repr(value + "x")
                case ast.Constant(value=bytes(value)) if node is root:
                    yield start, end, repr(value + b"x")
                case ast.Constant(value=bool(value)):
                    yield start, end, str(not value)
                case ast.Constant(value=int(value)):
                    yield start, end, str(value + 1)
                case ast.Lambda():
                    yield *self._span(node.body), "True"
                case ast.Return(value=ast.expr()):
                    yield start, end, "return None"
                case ast.Attribute(value=ast.Name("limits")):
                    yield start, end, f"({ast.unparse(node)} + 1)"
                case ast.Name(name) if name in self._bounds:
                    yield start, end, f"({name} + 1)"
                case ast.Compare(ops=ops):
                    for i, op in enumerate(ops):
                        new = ast.Compare(
                            node.left, [*ops[:i], SWAPPED[type(op)](), *ops[i + 1 :]], node.comparators
                        )
                        yield start, end, ast.unparse(new)
                case ast.BoolOp(op=op, values=values):
                    yield start, end, ast.unparse(ast.BoolOp(SWAPPED[type(op)](), values))
                case ast.BinOp(op=op) if type(op) in SWAPPED:
                    yield start, end, ast.unparse(ast.BinOp(node.left, SWAPPED[type(op)](), node.right))

    def _changes_of_rows(self, keys: list[ast.expr], values: list[ast.expr]) -> Iterator[tuple[int, int, str]]:
        """A row of a table left out, and a row that leads where the next one does."""
        for i, (key, value) in enumerate(zip(keys, values, strict=True)):
            if i + 1 < len(keys):
                yield self._span(key)[0], self._span(keys[i + 1])[0], ""
            else:  # with the comma before it: one may stand behind
                yield self._span(values[i - 1])[1] if i else self._span(key)[0], self._span(value)[1], ""
            other = self._text(values[(i + 1) % len(values)])
            if other != self._text(value):
                yield *self._span(value), other

    def _span(self, node: ast.AST) -> tuple[int, int]:
        def offset(line: int, column: int) -> int:
            return sum(map(len, self._lines[: line - 1])) + column

        return offset(node.lineno, node.col_offset), offset(node.end_lineno, node.end_col_offset)

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self.bytes[start:end].decode()


class Mutated(SourceFileLoader):
    """Loads a module as it is in memory; all that is beside it comes from where it always does."""

    def __init__(self, name: str, source: bytes) -> None:
        super().__init__(name, str(CORE / f"{name.rpartition('.')[2]}.py"))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None


def run_tests(module: str, source: bytes) -> int:
    """pytest's exit code with this module. Only in a process of its own: it stays imported."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(ROOT)
    sys.meta_path.insert(0, Mutated(f"trishake_protocol.{module}", source))
    signal.alarm(TIME_LIMIT)
    selected = CONFIG["pytest_add_cli_args_test_selection"]
    first = [path for path in selected if module in path]  # mostly its own tests tell
    rest = [path for path in selected if module not in path]
    # That a plugin is imported already, and its assertions are not rewritten, is as meant.
    quiet = ["-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*quiet, *CONFIG["pytest_add_cli_args"], *first, *rest]))


def fork(module: str, source: bytes) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = run_tests(module, source)
        finally:
            os._exit(status)
    return pid


def left_by_mutmut() -> Iterator[tuple[str, Mutant]]:
    """(outcome, the mutant) of each. What all the tests import is imported once, here, but not what is changed."""
    _, status = os.waitpid(fork(MODULES[0], Source(MODULES[0]).bytes), 0)
    if status:
        sys.exit("the tests are red before anything is broken")
    rows = [row for module in MODULES for row in Source(module).mutants()]
    running: dict[int, Mutant] = {}

    def ended() -> tuple[str, Mutant]:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        return "timeout" if code < 0 else "killed" if code else "survived", running.pop(pid)

    for done, (mutant, source) in enumerate(rows):
        print(f"\r{done} of {len(rows)} that mutmut does not make", end="", flush=True)
        if len(running) == CHILDREN:
            yield ended()
        running[fork(mutant.module, source)] = mutant
    while running:
        yield ended()
    print()


# --- what is explained ----------------------------------------------------------------------------------


def explained() -> set[Mutant]:
    """The blocks of diff in docs/mutants.md."""
    blocks = re.findall(r"^```diff\n# (\S+)\n(.*?)^```$", EXPLAINED.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {Mutant(where, tuple(diff.splitlines())) for where, diff in blocks}


def main() -> int:
    figures: dict[str, Counter[str]] = {module: Counter() for module in MODULES}
    survivors: set[Mutant] = set()
    for made in (in_functions(), left_by_mutmut()):
        for outcome, mutant in made:
            figures[mutant if isinstance(mutant, str) else mutant.module][outcome] += 1
            if outcome == "survived" and isinstance(mutant, Mutant):
                survivors.add(mutant)
    print("| module | mutants |", " | ".join(OUTCOMES), "|")
    for module, counts in figures.items():
        print(f"| {module} | {counts.total()} |", " | ".join(str(counts[outcome]) for outcome in OUTCOMES), "|")
    unexplained, gone = survivors - explained(), explained() - survivors
    for mutant in sorted(unexplained, key=str):
        print(f"\nno test goes red, and docs/mutants.md does not say why:\n{mutant}")
    for mutant in sorted(gone, key=str):
        print(f"\nexplained in docs/mutants.md, and not among the survivors:\n{mutant}")
    return 1 if unexplained or gone else 0


if __name__ == "__main__":
    sys.exit(main())
