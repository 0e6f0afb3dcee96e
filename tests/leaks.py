"""What the tests log: every event as _events.py lists it, and no secret in any of it.

A plugin of pytest, for a whole run. Secrets notes every secret that the library makes or is handed, where it is
made, and changes nothing there. LogCheck reads every record of every logger as it comes, and every line of a file
that TRISHAKE_LOG names; the test in whose run one is wrong fails. No complaint shows the secret.
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import re
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from trishake import _events, _keys
from trishake.testing._impostors import NEUTRAL, NOT_CANONICAL
from trishake_protocol import Identity, Network, noise, primitives

PART: Final = 15
"""Bytes of a secret that nobody may log: its first, or its last. 20 characters of base64, 24 of base32."""

_LONG: Final = re.compile(r"[0-9A-Za-z+/_-]{40,}")
_HEX: Final = re.compile(rf"[0-9a-f]{{{2 * PART},}}")
# These two begin with what stands before a byte: a search for that is quick, one for any digit is not.
_PAIRS: Final = re.compile(rf"[ :.'\"=([-](?:[0-9a-fA-F]{{2}}[ :.-]){{{PART - 1},}}[0-9a-fA-F]{{2}}")
_NUMBERS: Final = re.compile(rf"[ ,;'\"=([](?:\d{{1,3}}(?:[,;] ?| )){{{PART - 1},}}\d{{1,3}}")
_LITERAL: Final = re.compile(r"""b(?:'([^']{15,})'|"([^"]{15,})")""")
_RAW: Final = re.compile(r"[\x80-\xff\\]")
_BASE32: Final = re.compile(r"[A-Z2-7]{24,}")
_FROM_URL: Final = str.maketrans("-_", "+/")


class Secrets:
    """All that have been made so far, by their first and last bytes; and whether a text has one of them in it."""

    def __init__(self) -> None:
        self._parts: set[bytes] = set()
        self._manifold: set[bytes] = set()
        """Without those of one letter, as tests make them: in plain text, they are no more than a long word."""
        self._passwords: set[str] = set()
        self._new: list[bytes] = []
        """Noted, and not yet among the parts: that is done when somebody looks."""
        self._clean: set[str] = set()
        """Words that have been looked at: what is logged after them cannot make them secret."""

    def note(self, secret: bytes) -> None:
        self._new.append(secret)

    def note_password(self, password: bytes | None) -> None:
        if password is not None and len(password) >= 8 and len(set(password)) > 1:
            self._passwords.add(password.decode(errors="surrogateescape"))

    def find(self, text: str) -> str | None:
        """As what there is one in it: hexadecimal, base64, …; None if there is none."""
        text = f" {text}"
        for peer_id in _OF_ATTACKERS:
            text = text.replace(peer_id, "")
        for word in _LONG.findall(text):
            if word not in self._clean:
                if (form := self._form_of(word)) is not None:
                    return form
                if len(self._clean) > 50_000:
                    self._clean.clear()
                self._clean.add(word)
        if any(password in text for password in self._passwords):
            return "a password"
        for pairs in _PAIRS.findall(text):
            if self._has(bytes.fromhex(re.sub("[^0-9a-fA-F]", "", pairs))):
                return "hexadecimal, byte by byte"
        for numbers in _NUMBERS.findall(text):
            if self._has(bytes(min(int(number), 255) for number in re.findall(r"\d+", numbers))):
                return "a list of numbers"
        if any(self._has(_unescaped(one or other)) for one, other in _LITERAL.findall(text)):
            return "bytes as Python shows them"
        if _RAW.search(text) and self._has(_unescaped(text), self._manifold):
            return "raw bytes"
        return None

    def _form_of(self, word: str) -> str | None:
        for run in _HEX.findall(word.lower()):
            if any(self._has(bytes.fromhex(run[at : at + (len(run) - at) // 2 * 2])) for at in range(2)):
                return "hexadecimal"
        for run in _BASE32.findall(word.upper()):
            if any(self._has(base64.b32decode(_groups(run[at:], 8))) for at in range(8)):
                return "base32"
        plain = word.translate(_FROM_URL)
        if any(self._has(base64.b64decode(_groups(plain[at:], 4))) for at in range(4)):
            return "base64"
        return "plain text" if self._has(word.encode(), self._manifold) else None

    def _has(self, data: bytes, parts: set[bytes] | None = None) -> bool:
        if self._new:
            # Zeros are no sign of anything: in base32, they are any word of many A's.
            self._parts.update(part for secret in self._new for part in _ends(secret) if any(part))
            various = [secret for secret in self._new if len(set(secret)) >= 8]
            self._manifold.update(part for secret in various for part in _ends(secret))
            self._new.clear()
        among = self._parts if parts is None else parts
        return any(data[at : at + PART] in among for at in range(len(data) - PART + 1))


_OF_ATTACKERS: Final = tuple(
    base64.b32encode(b"\x01" + key).decode()[:52].lower() for key in (NEUTRAL, NOT_CANONICAL)
)
"""How ids begin that hostile peers choose: mostly zeros or ones, as the private keys of some tests are."""


def _ends(secret: bytes) -> tuple[bytes, bytes]:
    return secret[:PART], secret[-PART:]


def _groups(text: str, size: int) -> str:
    """Filled up to a whole number of groups, with what stands for zeros."""
    return text + "A" * (-len(text) % size)


def _unescaped(text: str) -> bytes:
    r"""The bytes of a text in which some are `\x…`."""
    escapes = {r"\n": b"\n", r"\r": b"\r", r"\t": b"\t", r"\\": b"\\", r"\'": b"'", r"\"": b'"'}
    return b"".join(
        escapes.get(part) or bytes.fromhex(part[2:])
        if part[0] == "\\" and len(part) > 1
        else part.encode("latin-1")
        for part in re.findall(
            r"""\\x[0-9a-f]{2}|\\[nrt\\'"]|.""", text.encode("latin-1", "replace").decode("latin-1")
        )
    )


def _observe(owner: Any, name: str, seen: Callable[..., None], *, before: bool = False) -> Callable[[], None]:
    """Call `seen` with the result of each call, and its arguments; what is returned ends that.

    before: with None for the result, before the call.
    """
    observed = getattr(owner, name)

    @functools.wraps(observed)
    def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            seen(None, *args)
        result = observed(*args, **kwargs)
        if not before:
            seen(result, *args)
        return result

    setattr(owner, name, call)
    return lambda: setattr(owner, name, observed)


def note_all(secrets: Secrets) -> list[Callable[[], None]]:
    """Have every secret noted from here on, until what is returned is called."""

    def key(_: object, owner: Any, *__: object) -> None:
        secrets.note(owner._private.private_bytes_raw())

    def each(values: Iterable[bytes], *_: object) -> None:
        for value in values:
            secrets.note(value)

    def next_key(_: object, state: Any) -> None:
        secrets.note(state._aead.encrypt(state._cipher.nonce(2**64 - 1), bytes(32), b"")[:32])

    return [
        _observe(primitives.KeyPair, "__init__", key),
        _observe(primitives.KeyPair, "dh", lambda shared, *_: secrets.note(shared)),
        _observe(primitives._MLKEM768KeyPair, "__init__", key),
        _observe(primitives._MLKEM768KeyPair, "decapsulate", lambda shared, *_: secrets.note(shared)),
        _observe(primitives._MLKEM768, "encapsulate", lambda made, *_: secrets.note(made[1])),
        _observe(primitives.Hash, "hkdf", each),
        _observe(noise.CipherState, "rekey", next_key, before=True),
        _observe(Identity, "__post_init__", key),
        _observe(Network, "__post_init__", lambda _, network: each(network.psks)),
        _observe(_keys, "_password", lambda password, *_: secrets.note_password(password)),
    ]


class LogCheck(logging.Handler):
    """Reads all that is logged. Registered as a plugin, it fails the test in whose run something is wrong."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.secrets = Secrets()
        self.records = 0
        self._wrong: list[str] = []
        self._told = False
        self._seen: set[str] = set()
        # Here, not when the run begins: the modules of the tests make identities as they are imported.
        self._ends = [*note_all(self.secrets), _observe(_events._JsonLines, "write", self._check_line)]

    # --- what is read

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1
        fields: Any = getattr(record, "fields", None)
        said = record.getMessage()
        odd = None
        if record.name.partition(".")[0] == "trishake" and (odd := _oddity(record, said, fields)) is not None:
            self._wrong.append(f"{_place(record)}: {odd}")
        if record.exc_info and record.exc_info[1] is not None:
            said += "".join(traceback.format_exception(record.exc_info[1]))
        if record.args:
            said += f" {record.args}"
        if fields is not None and odd is None:  # plain values, most of which are those of the record before
            new = [value for value in fields.values() if type(value) is str and value not in self._seen]
            if len(self._seen) > 50_000:
                self._seen.clear()
            self._seen.update(new)
            said = " ".join((said, *new))
        elif fields is not None:
            said += f" {fields}"
        if (form := self.secrets.find(said)) is not None:
            self._wrong.append(f"{_place(record)}: a secret was logged, as {form}")

    def _check_line(self, _: None, lines: Any, line: dict[str, object]) -> None:
        if (form := self.secrets.find(json.dumps(line, ensure_ascii=False))) is not None:
            self._wrong.append(f"{lines.path}, event {line['event']}: a secret was written, as {form}")

    # --- when

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        logging.getLogger().addHandler(self)
        # Every step is to make its event. What tests read in caplog stays what it is by default.
        logging.getLogger("trishake").setLevel(logging.DEBUG)
        shown: Any = session.config.pluginmanager.get_plugin("logging-plugin")
        for handler in (shown.caplog_handler, shown.report_handler, shown.log_file_handler) if shown else ():
            handler.setLevel(logging.WARNING)

    def pytest_unconfigure(self) -> None:
        logging.getLogger().removeHandler(self)
        logging.getLogger("trishake").setLevel(logging.NOTSET)
        for end in self._ends:
            end()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        result = yield
        self._fail()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        result = yield
        self._fail()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self._told:  # what was captured of this test has the secret in it
            report.sections.clear()
        if report.when == "teardown":
            self._told = False
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._wrong:  # after the last test
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _fail(self) -> None:
        if self._wrong:
            wrong, self._wrong, self._told = self._wrong, [], True
            pytest.fail("\n".join(dict.fromkeys(wrong)), pytrace=False)


_FIELDS: Final = {name: set(fields) for name, fields in _events.EVENTS.items()}
_PLAIN: Final = {str, int, float, bool, type(None)}


def _place(record: logging.LogRecord) -> str:
    event = getattr(record, "event", "without a name")
    return f"{record.name}, event {event}, in {Path(record.pathname).name}, line {record.lineno}"


def _oddity(record: logging.LogRecord, said: str, fields: Any) -> str | None:
    """What is wrong with it as an event; None for what is one."""
    name: Any = getattr(record, "event", None)
    if record.name != "trishake" or name not in _FIELDS or not isinstance(fields, dict):
        return "it is none of EVENTS"
    if fields.keys() != _FIELDS[name]:
        return f"its fields are {sorted(fields)}, not those of EVENTS"
    if not said.isprintable():
        return "its text is not one line that is safe to show"
    for key, value in fields.items():
        if type(value) not in _PLAIN:
            return f"JSON has no kind for {key}"
        if type(value) is str and not value.isprintable():
            return f"{key} is not safe to show"
    return None
