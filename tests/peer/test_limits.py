"""_limits.py: the defaults are those of section 12 of the specification."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from trishake import Limits

SPECIFICATION = Path(__file__).parents[2] / "protocol" / "SPEC.md"


def section_12() -> dict[str, str]:
    """The rows of its table: what → value."""
    section = SPECIFICATION.read_text(encoding="utf-8").partition("## 12. ")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", section, re.MULTILINE)
    return {what: value for what, value in rows if what not in {"what", "---"}}


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        ("TCP connect", (Limits().connect,)),
        ("preface and SYN complete, from accept", (Limits().syn,)),
        ("whole greeting", (Limits().greeting, Limits().policy)),
        ("writing an ALERT", (Limits().write_alert,)),
        ("waiting for CLOSE", (Limits().close,)),
        (
            "handshakes at once: total / per address (IPv4 /32, IPv6 /64)",
            (Limits().handshakes, Limits().handshakes_per_address),
        ),
        ("handshake rate per address", (Limits().handshake_rate, Limits().handshake_burst)),
        (
            "connections that others dialed / per identity",
            (Limits().connections, Limits().connections_per_identity),
        ),
        ("ping of a connection that another would replace", (Limits().duplicate_ping,)),
        ("verdict held, or kept connection awaited, when dials cross", (Limits().crossing,)),
        ("answer to a stream that is opened", (Limits().open_stream,)),
        ("request to be there once its stream is open; its reply to be taken", (Limits().request,)),
        ("streams to finish when a connection is closed", (Limits().finish,)),
        ("streams opened and reset, unanswered", (Limits().resets_per_second,)),
        ("keepalive ping / its answer", (Limits().keepalive, Limits().keepalive_answer)),
    ],
)
def test_a_default_is_what_the_specification_says(row: str, numbers: tuple[float, ...]) -> None:
    stated = [float(number) for number in re.findall(r"\d+", section_12()[row])]
    assert tuple(stated[: len(numbers)]) == numbers


def test_how_long_a_refused_peer_is_drained_is_what_section_8_says() -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    assert "at most 1 s after an ALERT, 5 s after a VERDICT, 256 KiB" in text
    limits = Limits()
    assert (limits.drain_after_alert, limits.drain_after_verdict, limits.drain_bytes) == (1, 5, 256 * 1024)


def test_how_crossing_and_duplicates_are_told_apart_in_time_is_what_section_11_says() -> None:
    section = SPECIFICATION.read_text(encoding="utf-8").partition("## 11. ")[2].partition("\n## ")[0]
    assert re.findall(r"\(2 s\)|≤ 3 s", section) == ["(2 s)", "≤ 3 s"]
    assert (Limits().duplicate_ping, Limits().crossing) == (2, 3)


def test_how_many_resets_a_second_are_borne_is_what_section_10_says() -> None:
    assert f"more than {Limits().resets_per_second} streams a second" in SPECIFICATION.read_text(encoding="utf-8")


def test_limits_are_named_and_never_change() -> None:
    limits = Limits(close=1)
    assert limits.close == 1
    with pytest.raises(FrozenInstanceError):
        limits.close = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(1)  # type: ignore[misc]
    assert all(getattr(limits, field.name) > 0 for field in fields(Limits))
