"""The core is without I/O: it imports nothing that could open, wait or look at a clock."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trishake_protocol

PACKAGE = Path(trishake_protocol.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.glob("*.py"))}
IO = {
    "_io",
    "asyncio",
    "datetime",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "trio",
    "trishake",
    "urllib",
}
"""`trishake` is the runtime above the core: it may import the core, never the other way round."""


def imported_by(tree: ast.Module) -> set[str]:
    """The top-level packages that a module imports, at its top or anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def called_in(tree: ast.Module) -> set[str]:
    return {
        node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_the_package_is_read() -> None:
    assert {"session", "states", "noise", "messages", "primitives"} < MODULES.keys()
    assert list(PACKAGE.glob("*/*.py")) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_anything_that_does_io(module: str) -> None:
    assert imported_by(MODULES[module]) & IO == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_opens_a_file_prints_or_imports_by_name(module: str) -> None:
    assert called_in(MODULES[module]) & {"open", "print", "input", "exec", "eval", "__import__"} == set()


@pytest.mark.parametrize(("library", "owner"), [("cryptography", "primitives"), ("msgpack", "messages")])
def test_one_module_alone_imports_a_library(library: str, owner: str) -> None:
    assert [module for module, tree in MODULES.items() if library in imported_by(tree)] == [owner]


def test_nothing_else_is_imported_from_outside_the_standard_library() -> None:
    imported = set().union(*map(imported_by, MODULES.values()))
    assert imported - set(sys.stdlib_module_names) == {"cryptography", "msgpack"}


BLOCKED = f"""
import sys
import cryptography.exceptions
import cryptography.hazmat.primitives.asymmetric.ed25519
import cryptography.hazmat.primitives.asymmetric.mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
import cryptography.hazmat.primitives.ciphers.aead
import cryptography.hazmat.primitives.kdf.hkdf
import base64, dataclasses, enum, msgpack, unicodedata

X25519PrivateKey.generate()  # the first key made imports the backend

blocked = {IO - {"_io"}!r}
for name in list(sys.modules):
    if name.partition(".")[0] in blocked:
        del sys.modules[name]
asked = []

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            asked.append(name)
            raise ImportError(f"{{name}} is not for the core")

sys.meta_path.insert(0, Refuse())
assert not any(name.startswith("trishake") for name in sys.modules)

import trishake_protocol
from trishake_protocol import *

def responder_answers():
    mine, yours = Identity.generate(), Identity.generate()
    a = Session.initiator(mine, Profile(), now=0)
    b = Session.responder(yours, Profile(), now=0)
    b.receive_data(a.data_to_send()); b.next_event()
    a.receive_data(b.data_to_send()); a.next_event(); a.accept()
    b.receive_data(a.data_to_send()); b.next_event(); b.accept()
    a.receive_data(b.data_to_send())
    return a.next_event()

print(type(responder_answers()).__name__, asked)
"""


def test_the_core_imports_and_greets_where_no_io_can_be_imported() -> None:
    """Libraries are imported first: what `cryptography`, `msgpack` and `dataclasses` need is their business."""
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "Accepted []\n"
