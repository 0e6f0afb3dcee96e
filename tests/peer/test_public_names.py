"""The public names are in the package itself; its modules are its own business."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

import trishake
import trishake.testing
import trishake_protocol

PACKAGE = Path(trishake.__file__).parent
WAY_IN = "cli"
"""What the `trishake` command runs; nobody imports names from it."""
PUBLIC_PACKAGES = {"testing"}
"""Beside the package itself: for whoever writes tests."""


def body_of(module: str) -> list[ast.stmt]:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body


def imports_among(statements: list[ast.stmt]) -> list[ast.ImportFrom]:
    """Those, and what only a type checker sees: `__getattr__` loads it later. There may be nothing else."""
    found: list[ast.ImportFrom] = []
    for statement in statements:
        if isinstance(statement, ast.If):
            assert ast.unparse(statement.test) == "TYPE_CHECKING"
            found += imports_among(statement.body)
        else:
            assert isinstance(statement, ast.ImportFrom)
            found.append(statement)
    return found


def test_every_module_is_underscored() -> None:
    assert all(path.stem.startswith("_") for path in PACKAGE.glob("*.py"))


def test_every_package_within_is_public_or_the_way_in_and_its_modules_are_underscored() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/*.py")} == {*PUBLIC_PACKAGES, WAY_IN}
    assert all(path.stem.startswith("_") for path in PACKAGE.glob("*/*.py"))


@pytest.mark.parametrize("module", ["__init__", *(f"{package}/__init__" for package in sorted(PUBLIC_PACKAGES))])
def test_a_package_only_re_exports(module: str) -> None:
    docstring, *statements = body_of(module)
    assert isinstance(docstring, ast.Expr)
    if module == "__init__":  # the last ones find what is loaded later
        *statements, table, get_attribute, directory = statements
        assert ast.unparse(table).startswith("_LATER = {")
        assert ast.unparse(get_attribute).startswith("if not TYPE_CHECKING:\n\n    def __getattr__(")
        assert ast.unparse(directory).startswith("def __dir__(")
    *imports, names = statements
    assert imports_among(imports)
    assert isinstance(names, ast.Assign)


@pytest.mark.parametrize(
    "package", [trishake, trishake.testing, trishake_protocol], ids=lambda package: package.__name__
)
def test_all_is_sorted_and_there_and_said_once(package: ModuleType) -> None:
    names: list[str] = list(package.__all__)
    assert names == sorted(names, key=in_ruffs_order)
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(package, name)


def in_ruffs_order(name: str) -> tuple[int, str]:
    """Constants, classes, the rest: as RUF022 sorts `__all__`."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


def test_all_is_complete() -> None:
    imported = {
        alias.asname or alias.name
        for statement in imports_among(body_of("__init__")[1:-4])
        if statement.module not in {"importlib", "typing"}
        for alias in statement.names
    }
    assert set(trishake.__all__) == imported


def test_what_a_public_call_takes_or_gives_can_be_named() -> None:
    """Whoever annotates his own code needs these, and finds them in the package."""
    needed = {"Connection", "Stream", "SecureStream", "Statistics", "StreamHandler"}
    needed |= {"StreamError", "StreamReset", "StreamRefused", "StreamTimeout", "UnknownProtocol"}
    needed |= {"ConnectionClosed", "Listener", "Peer", "Identity", "PeerId", "Network", "Suite", "Role", "Limits"}
    needed |= {"Introduction", "Decision", "Policy", "Acceptance", "Rejection", "Greeting"}
    needed |= {
        "Observer",
        "Progress",
        "Step",
        "Phase",
        "Cause",
        "AlertCode",
        "VerdictCode",
        "CloseCode",
        "Address",
    }
    needed |= {"Transport", "Bound", "Place", "Tcp", "Unix", "Tls", "WebSocket", "Memory"}
    assert needed <= set(trishake.__all__)


@pytest.mark.parametrize("name", trishake.__all__)
def test_a_public_name_has_its_own_words(name: str) -> None:
    thing = getattr(trishake, name)
    if name not in {
        "__version__",
        "Policy",
        "Decision",
        "StreamHandler",
        "RequestFunction",
    }:  # a text, and aliases
        assert thing.__doc__
        assert not thing.__doc__.startswith(f"{name}(")  # which is what a dataclass says when nobody does


def test_every_module_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.name


def test_the_version_is_one() -> None:
    version = importlib.import_module("trishake._version")
    assert trishake.__version__ == version.VERSION
    assert f"trishake/{version.VERSION}" == version.AGENT
