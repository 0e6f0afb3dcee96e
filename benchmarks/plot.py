"""Draws what the runner has written: one panel for each measurement, one row for each peer.

python benchmarks/plot.py out.json docs/benchmarks      # docs/benchmarks.png and docs/benchmarks.svg
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

TITLES: Final = {
    "handshakes": "handshake, one at a time",
    "handshakes-32": "handshake, 32 at once",
    "handshakes-1000": "handshake, 1,000 at once",
    "bulk": "writes of 64 KiB, one way",
    "pingpong": "64 bytes there and back",
    "messages": "messages of 64 bytes, one way",
    "memory": "an idle connection, both ends",
    "import": "import",
    "latency": "dial to first answer, 50 ms away",
}

_OURS, _OTHERS, _LIMITS = "#c2410c", "#475569", "#7c8aa0"
_COLUMNS: Final = 3


def draw(report: dict[str, Any], path: Path) -> None:
    """report: as the runner makes it. path: without a suffix; the folder is made if need be."""
    results = report["results"]
    peers = _peers(results)
    rows = math.ceil(len(results) / _COLUMNS)
    mpl.rcParams.update({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "trishake"})
    figure, axes = plt.subplots(
        rows,
        _COLUMNS,
        figsize=(11, rows * (0.9 + 0.17 * len(peers)) + 0.5),
        sharey=True,
        squeeze=False,
        layout="constrained",
        facecolor="white",  # also on a dark page
    )
    for panel, (measurement, found) in zip(axes.flat, results.items(), strict=False):
        _draw_panel(
            panel, measurement, [(found[peer], peer, row) for row, peer in enumerate(peers) if peer in found]
        )
    for panel in list(axes.flat)[len(results) :]:
        panel.set_visible(False)
    axes[0][0].set_yticks(range(len(peers)), peers)
    axes[0][0].invert_yaxis()
    for label, peer in [
        (label, peer) for row in axes for label, peer in zip(row[0].get_yticklabels(), peers, strict=True)
    ]:
        label.set_color(_color(peer))
    about = report["machine"]
    figure.supxlabel(
        f"median, least and most of {report['runs']} interleaved runs, both ends in one process, loopback · "
        f"{about['cpu']} · Python {about['python']} · {about['date']}",
        fontsize=7,
        color=_OTHERS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def _peers(results: dict[str, dict[str, Any]]) -> list[str]:
    """Those of all measurements; the variants, which have few, behind the peer before them in their own."""
    peers: list[str] = []
    for found in results.values():
        before = -1
        for peer in found:
            if peer not in peers:
                peers.insert(before + 1, peer)
            before = peers.index(peer)
    return peers


def _draw_panel(panel: Axes, measurement: str, found: list[tuple[dict[str, Any], str, int]]) -> None:
    """found: (figures, peer, row). A dot at the median, a line from the least to the most, logarithmic."""
    unit, better = "", ""
    for line, peer, row in found:
        if "median" not in line:
            continue
        unit, better = line["unit"], "more" if line["more_is_better"] else "less"
        color = _color(peer)
        panel.plot([line["least"], line["most"]], [row, row], color=color, linewidth=1.2, alpha=0.5)
        panel.plot(line["median"], row, "o", color=color, markersize=4)
        panel.annotate(
            f"{line['median']:.3g}" if line["median"] < 1000 else f"{line['median']:,.0f}",
            (line["most"], row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=color,
        )
    panel.set_xscale("log")
    panel.margins(x=0.22)
    panel.set_xticks([])
    panel.set_xticks([], minor=True)
    panel.set_xlabel(f"{unit}, {better} is better, logarithmic", fontsize=7, color=_OTHERS)
    panel.set_title(TITLES[measurement], fontsize=9, fontweight="bold", loc="left")
    panel.grid(axis="y", color="#e2e8f0", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "left"]].set_visible(False)


def _color(peer: str) -> str:
    if peer.startswith("trishake"):
        return _OURS
    return _LIMITS if peer == "tcp" or peer.startswith("limit") else _OTHERS


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
