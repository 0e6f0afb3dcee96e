"""An arrow never points back: peer → protocol, and within peer, one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trishake
import trishake_protocol
from trishake import Memory, Tcp, Tls, Unix, WebSocket
from trishake._peer import SCHEMES, transport_for

PEER = Path(trishake.__file__).parent
PROTOCOL = Path(trishake_protocol.__file__).parent
THIRD_PARTIES = {"trio"}
"""What `trishake` imports beside the core and the standard library: no cryptography."""
THIRD_PARTIES_OF = {
    "_keys": {"cryptography"},
    "_messages": {"msgpack"},
    "_qr": {"segno"},
    "_ssh_agent": {"paramiko"},
    "_telemetry": {"opentelemetry"},
    "_tls": {"cryptography"},
    "_websocket_stream": {"trio_websocket", "wsproto", "h11"},
}
"""And what one module alone does: key files, values, a certificate, and what the extras bring."""


def imports_of(path: Path, *, at_run_time: bool = False) -> list[tuple[int, str]]:
    """(level, module) of each import. at_run_time: without those that only a type checker sees."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                skipped |= set(ast.walk(node))
    found = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


MODULES = {path.stem: path for path in sorted(PEER.glob("*.py"))}


@pytest.mark.parametrize("path", sorted(PROTOCOL.glob("*.py")), ids=lambda path: path.stem)
def test_the_core_does_not_know_its_runtime(path: Path) -> None:
    outside = {module.partition(".")[0] for level, module in imports_of(path) if level == 0}
    assert outside & {"trishake", "trio"} == set()


def test_the_core_loads_without_the_runtime() -> None:
    code = "import sys, trishake_protocol; print(sorted({'trishake', 'trio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_trio_the_core_and_the_standard_library_alone(module: str) -> None:
    outside = {name.partition(".")[0] for level, name in imports_of(MODULES[module]) if level == 0}
    allowed = THIRD_PARTIES | THIRD_PARTIES_OF.get(module, set()) | {"trishake_protocol"}
    assert outside - set(sys.stdlib_module_names) <= allowed


def test_the_testing_kit_imports_what_the_library_does() -> None:
    for path in (PEER / "testing").glob("*.py"):
        outside = {name.partition(".")[0] for level, name in imports_of(path) if level == 0}
        assert outside - set(sys.stdlib_module_names) <= {*THIRD_PARTIES, "msgpack", "trishake_protocol"}, path


def test_the_pytest_plugin_costs_those_nothing_who_do_not_use_it() -> None:
    code = "import sys, pytest, pytest_trishake; print(sorted({'trio', 'trishake'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    )


def test_what_only_some_addresses_need_is_not_loaded_before() -> None:
    dear = {
        "trio_websocket",
        "wsproto",
        "cryptography.x509",
        "cryptography.hazmat.primitives.serialization",
        "trio.testing",
        "trishake.testing",
    }
    code = f"import sys, trishake; print(sorted({dear} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


LATER = {"_keep", "_memory", "_tls", "_unix", "_websocket", "_websocket_stream"}
"""What a dial over TCP does not need."""


def loaded_after(code: str) -> set[str]:
    """The modules of `trishake` in a process that has run this."""
    code = f"import sys, trishake\n{code}\nprint(*(name for name in sys.modules if name.startswith('trishake.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.removeprefix("trishake.") for name in done.stdout.split()}


def test_what_a_dial_over_tcp_does_not_need_is_loaded_later() -> None:
    dial = """
import trio
async def main():
    ada, bob = (trishake.Peer(trishake.Identity.generate()) for _ in range(2))
    async with ada, bob:
        listener = await bob.listen("tcp://127.0.0.1:0")
        await ada.dial(listener.invite)
trio.run(main)
"""
    later = LATER | {"_diagram", "_explain", "_recorded"}
    assert loaded_after("") & later == loaded_after(dial) & later == set()


def test_what_is_loaded_later_is_listed_before() -> None:
    code = "import trishake; print(dir(trishake)); from trishake import *; print(dir())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for listed in done.stdout.splitlines():
        assert set(trishake.__all__) <= set(ast.literal_eval(listed))


def test_a_name_that_is_loaded_later_is_that_of_its_module() -> None:
    for name, module in {"Keeper": "_keep", "Memory": "_memory", "Unix": "_unix"}.items():
        assert loaded_after(f"trishake.{name}") & LATER == {module}
    assert loaded_after("trishake.Tls") & LATER == {"_tls"}
    assert loaded_after("trishake.WebSocket") & LATER == {"_tls", "_websocket"}
    assert loaded_after("from trishake import *") & LATER == LATER - {"_websocket_stream"}


def test_a_name_that_is_nowhere_is_none() -> None:
    with pytest.raises(AttributeError, match=r"^module 'trishake' has no attribute 'Mammoth'$"):
        trishake.Mammoth  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Mammoth'"):
        from trishake import Mammoth  # noqa: F401


def test_a_peer_knows_the_schemes_of_every_transport_of_ours() -> None:
    ours = {"tcp": Tcp, "unix": Unix, "tls": Tls, "ws": WebSocket, "wss": WebSocket, "mem": Memory}
    assert {scheme: type(transport_for(scheme)) for scheme in SCHEMES} == ours
    assert [*ours] == list(SCHEMES)
    assert all(scheme in transport.schemes for scheme, transport in ours.items())


def test_hardly_anything_is_loaded_that_our_dependencies_do_not_load() -> None:
    """Else the time that an import takes grows unseen."""
    theirs = {name for _, name in imports_of(PROTOCOL / "primitives.py") if name.startswith("cryptography.")}
    code = f"import sys, msgpack, trio, {', '.join(theirs)}; theirs = set(sys.modules); import trishake; "
    code += "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - theirs}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {"trishake", "trishake_protocol", "dataclasses", "ipaddress", "urllib"}  # the last two: from 3.13 on
    assert set(done.stdout.split()) <= ours


def test_within_the_runtime_no_import_leads_back() -> None:
    arrows = {
        name: {module for level, module in imports_of(path, at_run_time=True) if level == 1 and module}
        for name, path in MODULES.items()
        if name not in {"__init__", "__main__"}
    }
    placed: list[str] = []
    while ready := sorted(name for name in arrows if name not in placed and arrows[name] <= set(placed)):
        placed += ready
    assert set(arrows) == set(placed), f"in a circle: {sorted(set(arrows) - set(placed))}"
    for lower, upper in [
        ("_wire", "_greeting"),
        ("_greeting", "_connection"),
        ("_trust", "_greeting"),
        ("_greeting", "_secure_stream"),
        ("_stream", "_connection"),
        ("_writer", "_connection"),
        ("_handlers", "_connection"),
        ("_connection", "_registry"),
        ("_connection", "_statistics"),
        ("_registry", "_peer"),
        ("_listener", "_peer"),
        ("_transport", "_tcp"),
        ("_tls", "_websocket"),
        ("_websocket", "_peer"),
        ("_errors", "_greeting"),
    ]:
        assert placed.index(lower) < placed.index(upper)
