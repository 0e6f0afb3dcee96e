"""The runner: every measurement of every peer, each in a fresh process, interleaved; a table, JSON and a plot.

    python benchmarks/run.py --runs 5 --peers trishake,tls --only handshakes,bulk --json out.json --plot out

Interleaved means A B C A B C …: what else the machine does at a time falls on all peers alike.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import ssl
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent

PEERS: Final = {
    "tls": ["tls"],
    "tls-told": ["tls", "--told"],
    "tls-ca": ["tls", "--told", "--ca"],
    "trishake": ["trishake_stream"],
    "trishake-hybrid": ["trishake_stream", "--suite", "hybrid"],
    "trishake-peer": ["trishake_peer"],
    "trishake-peer-hybrid": ["trishake_peer", "--suite", "hybrid"],
    "trishake-optimistic": ["trishake_stream", "--optimistic"],
    "trishake-peer-optimistic": ["trishake_peer", "--optimistic"],
    "libp2p": ["libp2p"],
    "noise": ["noise"],
    "asyncssh": ["asyncssh"],
    "iroh": ["iroh"],
    "tcp": ["trio_tcp"],
    "limit-sockets": ["limits", "--of", "sockets"],
    "limit-aead": ["limits", "--of", "aead"],
    "limit-primitives": ["limits", "--of", "primitives"],
    "limit-primitives-hybrid": ["limits", "--of", "primitives", "--suite", "hybrid"],
}
"""Program and arguments of each. The first is what the others are compared with."""

ONLY: Final = {
    "tls-told": ("handshakes", "handshakes-32", "handshakes-1000", "latency"),
    "tls-ca": ("handshakes", "handshakes-32", "handshakes-1000"),
    "trishake-optimistic": ("latency",),
    "trishake-peer-optimistic": ("latency",),
}
"""Variants that differ from their peer in these alone."""

MEASUREMENTS: Final = {
    "handshakes": (["handshakes"], ["--count", "100"]),
    "handshakes-32": (["handshakes", "--at-once", "32"], ["--count", "200"]),
    "handshakes-1000": (["handshakes", "--at-once", "1000", "--count", "1000"], []),
    "bulk": (["bulk"], ["--count", "512"]),
    "pingpong": (["pingpong"], ["--count", "1000"]),
    "messages": (["messages"], ["--count", "5000"]),
    "memory": (["memory"], ["--count", "200"]),
    "import": (["import"], []),
    "latency": (["latency"], ["--count", "1"]),
}
"""The arguments of each, and those that a short run adds."""

SHORT: Final = [name for name in MEASUREMENTS if name != "handshakes-1000"]

PATH: Final = [os.environ.get("PYTHONPATH", ""), str(ROOT / "peer"), str(ROOT / "protocol")]
"""Where the programs find Trishake: in this checkout, whatever is installed, unless PYTHONPATH names another."""

ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, PATH))}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # else every import compiles, and none of what is installed does

LIBRARIES: Final = ("trio", "cryptography", "msgpack", "libp2p", "noiseprotocol", "asyncssh", "iroh")

Line = dict[str, Any]


def measure(peer: str, measurement: str, *, short: bool, limit: float) -> Line:
    """The JSON line of one process; `failed` says why there is none. limit: seconds."""
    program, *options = PEERS[peer]
    arguments, fewer = MEASUREMENTS[measurement]
    command = [sys.executable, "-m", f"benchmarks.peers.{program}", *arguments, *options]
    if short:
        command += fewer
    try:
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:g} s"}
    if done.returncode != 0 or not done.stdout:
        last_words = done.stderr.strip().splitlines() or [""]
        return {"failed": f"exit code {done.returncode}: {last_words[-1]}", "stderr": done.stderr}
    line: Line = json.loads(done.stdout.splitlines()[-1])
    return line


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": f"{model}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "openssl of ssl": ssl.OPENSSL_VERSION,
        "trishake": _revision(),
    }
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def _revision() -> str:
    """The version and the commit of the Trishake that is measured."""
    which = "import trishake; print(trishake.__version__, trishake.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", which], env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    version, file = found.stdout.split(maxsplit=1)
    describe = ["git", "-C", str(Path(file).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, check=False, capture_output=True, text=True).stdout.strip()
    return f"{version}, {commit or 'no commit'}"


def summary(lines: list[Line]) -> Line:
    """Median and spread of the runs of one peer; or why there are none."""
    for reason in ("failed", "not_measured"):
        if reasons := [line[reason] for line in lines if reason in line]:
            return {reason: reasons[0]}
    values = [line["value"] for line in lines]
    cpu = [line["cpu"] for line in lines if line["cpu"] is not None]
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "cpu": statistics.median(cpu) if cpu else None,
        "unit": lines[0]["unit"],
        "more_is_better": lines[0]["more_is_better"],
        "detail": lines[-1]["detail"],
        "values": values,
        "cpu_values": cpu,
    }


def print_table(measurement: str, found: dict[str, Line], reference: str) -> None:
    units = {line["unit"] for line in found.values() if "unit" in line}
    print(f"\n{measurement}, {', '.join(units) or 'nothing measured'}")
    print(f"  {'':23} {'median':>9} {'spread':>19} {'by CPU':>9} {f'× {reference}':>8} {'by CPU':>8}")
    base = found.get(reference, {})
    for peer, line in found.items():
        if "failed" in line:
            print(f"  {peer:23} failed: {line['failed']}")
            continue
        if "not_measured" in line:
            continue
        spread = f"{_figure(line['least'])} – {_figure(line['most'])}"
        beside = [_figure(ratio(line, base, key)) for key in ("values", "cpu_values")]
        print(
            f"  {peer:23} {_figure(line['median']):>9} {spread:>19} {_figure(line['cpu']):>9}"
            f" {beside[0]:>8} {beside[1]:>8}  {_detail(line['detail'])}"
        )
    for peer, line in found.items():
        if "not_measured" in line:
            print(f"  {peer:23} not measured: {line['not_measured']}")


def _figure(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(line: Line, base: Line, key: str) -> float | None:
    """The median of the ratios of each run to the one beside it: what slows the machine down slows both."""
    if not line.get(key) or not base.get(key):
        return None
    return statistics.median(one / other for one, other in zip(line[key], base[key], strict=False))


def _detail(detail: Line) -> str:
    return ", ".join(
        f"{name} {_figure(value) if isinstance(value, float) else value}"
        for name, value in detail.items()
        if value
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each measurement of each peer")
    parser.add_argument("--peers", default=",".join(PEERS), help="separated by commas: %(default)s")
    parser.add_argument("--only", help=f"measurements, separated by commas: {','.join(MEASUREMENTS)}")
    parser.add_argument("--short", action="store_true", help="less of each, for a first look")
    parser.add_argument("--limit", type=float, default=180, help="seconds that one process has")
    parser.add_argument("--json", type=Path, help="where to write everything that was found")
    parser.add_argument("--plot", type=Path, help="where to draw it: a path to which .png and .svg are added")
    options = parser.parse_args()
    peers = options.peers.split(",")
    measurements = options.only.split(",") if options.only else SHORT if options.short else list(MEASUREMENTS)
    for name, known in [(peer, PEERS) for peer in peers] + [(one, MEASUREMENTS) for one in measurements]:
        if name not in known:
            parser.error(f"{name!r} is not one of {', '.join(known)}")

    about = machine()
    print("\n".join(f"{name:16} {value}" for name, value in about.items()))
    results: dict[str, dict[str, Line]] = {}
    for measurement in measurements:
        lines: dict[str, list[Line]] = {peer: [] for peer in peers if measurement in ONLY.get(peer, MEASUREMENTS)}
        for run in range(options.runs):
            for peer in lines:
                if not any("value" not in line for line in lines[peer]):  # what failed once is not tried again
                    _progress(f"{measurement}: run {run + 1} of {options.runs}, {peer}")
                    lines[peer].append(measure(peer, measurement, short=options.short, limit=options.limit))
        _progress("")
        results[measurement] = {peer: summary(found) for peer, found in lines.items()}
        print_table(measurement, results[measurement], reference=next(iter(PEERS)))
    command = f"python benchmarks/run.py {' '.join(sys.argv[1:])}"
    report = {"command": command, "runs": options.runs, "machine": about, "results": results}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if options.plot:
        from plot import draw  # needs matplotlib, which nothing else here does

        draw(report, options.plot)


def _progress(text: str) -> None:
    """One line on a terminal that is written over; nothing in a file or a pipe but the lines themselves."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
