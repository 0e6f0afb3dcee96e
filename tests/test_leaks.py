"""leaks.py: a secret that is logged is seen in every form, and the test that did it fails."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from .leaks import PART, Secrets

SECRET: Final = bytes.fromhex("8f1a5c27e3904bd60d72b8415e9fa36c11c8e7d4203b96f5ac5d60e91b7f4832")
FORMS: Final[dict[str, Callable[[bytes], str]]] = {
    "hexadecimal": bytes.hex,
    "hexadecimal in capitals": lambda key: key.hex().upper(),
    "hexadecimal with colons": lambda key: key.hex(":"),
    "hexadecimal with spaces": lambda key: key.hex(" "),
    "base64": lambda key: base64.b64encode(key).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(key).decode(),
    "base64, one byte later": lambda key: base64.b64encode(b"x" + key).decode(),
    "base64, two bytes later": lambda key: base64.b64encode(b"xy" + key).decode(),
    "base32": lambda key: base64.b32encode(key).decode(),
    "base32 as in a network file": lambda key: "psk-" + base64.b32encode(key + b"1234").decode().lower(),
    "base32, three bytes later": lambda key: base64.b32encode(b"xyz" + key).decode(),
    "repr": repr,
    "repr of a bytearray": lambda key: repr(bytearray(key)),
    "list": lambda key: repr(list(key)),
    "tuple": lambda key: repr(tuple(key)),
    "numbers with spaces": lambda key: " ".join(map(str, key)),
    "latin-1": lambda key: key.decode("latin-1"),
    "latin-1, escaped": lambda key: ascii(key.decode("latin-1"))[1:-1],
    "its first two thirds": lambda key: key[:21].hex() + "…",
    "its last two thirds": lambda key: "…" + key[-21:].hex(),
}


def noted(*secrets: bytes) -> Secrets:
    found = Secrets()
    for secret in secrets:
        found.note(secret)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", ["%s", "the key is %s, of peer 3", "{'key': '%s'}", "[%s]"])
def test_a_secret_is_seen_in_each_form(form: str, around: str) -> None:
    text = around % FORMS[form](SECRET)
    assert noted(SECRET).find(text) is not None
    assert noted(bytes(reversed(SECRET))).find(text) is None


@pytest.mark.parametrize("seed", [b"a" * 32, bytes(range(32)), bytes(31) + b"\x01"])
@pytest.mark.parametrize("form", ["hexadecimal", "base64", "base32", "list", "repr"])
def test_the_plain_keys_of_tests_are_seen_where_it_is_clear_that_they_are_keys(seed: bytes, form: str) -> None:
    assert noted(seed).find(FORMS[form](seed)) is not None
    assert noted(seed).find("a" * 200) is None


def test_a_word_that_was_clean_is_seen_once_it_is_another_secret() -> None:
    secrets = noted(SECRET)
    other = bytes(reversed(SECRET))
    assert secrets.find(f"the first is {other.hex()}") is None
    assert secrets.find(f"the second is {SECRET.hex()}") is not None


@pytest.mark.parametrize("password", ["Pässword of 3 words", "open sesame"])
def test_a_password_is_seen(password: str) -> None:
    secrets = Secrets()
    secrets.note_password(password.encode())
    assert secrets.find(f"it does not open with {password}!") == "a password"
    assert secrets.find("it does not open with the password") is None


PLUGIN: Final = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from leaks import LogCheck

def pytest_configure(config):
    config.pluginmanager.register(LogCheck())
"""
LEAKING: Final = """
import logging, os
import pytest, trio
from trishake import Identity, Network
from trishake._events import follow_environment, log_event, log_failure
from trishake._keys import _password
from trishake_protocol.noise import CipherState
from trishake_protocol.primitives import MLKEM768, SHA256, KeyPair

log = logging.getLogger("trishake")

def raw(owner):
    return owner._private.private_bytes_raw()

def of_kem(part):
    ours = MLKEM768.generate_key_pair()
    ciphertext, shared = MLKEM768.encapsulate(ours.public)
    return {"seed": raw(ours), "there": shared, "here": ours.decapsulate(ciphertext)}[part]

def next_key():
    state = CipherState(key=os.urandom(32))
    key = state._aead.encrypt(bytes(4) + b"\\xff" * 8, bytes(32), b"")[:32]
    state.rekey()
    return key

SECRETS = {
    "identity": lambda: raw(Identity.generate()),
    "identity of a seed": lambda: raw(Identity.from_seed(os.urandom(32))),
    "static key": lambda: raw(Identity.generate().static_key),
    "ephemeral key": lambda: raw(KeyPair()),
    "dh": lambda: KeyPair().dh(KeyPair().public),
    "kem seed": lambda: of_kem("seed"),
    "kem secret there": lambda: of_kem("there"),
    "kem secret here": lambda: of_kem("here"),
    "chaining key": lambda: SHA256.hkdf(bytes(32), b"", 2)[0],
    "transport key": lambda: SHA256.hkdf(bytes(32), b"", 2)[1],
    "next transport key": next_key,
    "psk": lambda: Network.new("home").psk,
    "second psk": lambda: Network.new("home").with_new_key().psks[1],
    "password": lambda: _password("correct horse"),
}

@pytest.mark.parametrize("kind", SECRETS)
def test_leaks(kind):
    secret = SECRETS[kind]()
    log_event(logging.INFO, "unix.left_behind", secret.decode() if kind == "password" else secret.hex(), path="")

KEY = Identity.generate

def in_a_field(key):
    log_event(logging.DEBUG, "unix.left_behind", "left", path=key)

def in_an_argument(key):
    logging.getLogger("another.library").warning("the key is %r", key)

def in_an_object(key):
    logging.getLogger("another.library").warning("the key is %s", [key])

def in_a_traceback(key):
    try:
        raise ValueError(f"bad key {key!r}")
    except ValueError:
        log_failure("request.failed", "it failed", peer=None)

def in_a_chain(key):
    try:
        try:
            raise KeyError(key)
        except KeyError as error:
            raise ValueError("bad") from error
    except ValueError:
        log_failure("request.failed", "it failed", peer=None)

def in_a_file(key):
    log.setLevel(logging.CRITICAL)
    os.environ["TRISHAKE_LOG"] = "events"
    follow_environment()
    log_event(logging.DEBUG, "unix.left_behind", "left", path=key)
    del os.environ["TRISHAKE_LOG"]
    follow_environment()
    log.setLevel(logging.DEBUG)

@pytest.mark.parametrize("how", [in_a_field, in_an_argument, in_an_object, in_a_traceback, in_a_chain, in_a_file])
def test_leaks_how(how):
    how(raw(KEY()))

def test_leaks_and_fails():
    in_a_field(raw(KEY()))
    assert False

@pytest.fixture
def leaky():
    yield
    in_a_field(raw(KEY()))

def test_leaks_at_its_end(leaky):
    pass

def no_event():
    log.warning("just so")

def no_such_event():
    log_event(logging.INFO, "no.such", "text")

def a_field_too_few():
    log_event(logging.INFO, "stream.hung_up", "text", peer=None)

def a_field_too_many():
    log_event(logging.INFO, "unix.left_behind", "text", path="", more=1)

def another_logger():
    logging.getLogger("trishake.more").warning("text")

def two_lines():
    log.warning("one\\ntwo", extra={"event": "unix.left_behind", "fields": {"path": ""}})

def unescaped():
    log.warning("one", extra={"event": "unix.left_behind", "fields": {"path": "\\x1b[2J"}})

def no_json():
    log.warning("one", extra={"event": "unix.left_behind", "fields": {"path": b""}})

@pytest.mark.parametrize("how", [no_event, no_such_event, a_field_too_few, a_field_too_many, another_logger,
                                 two_lines, unescaped, no_json])
def test_is_no_event(how):
    how()

def test_clean(caplog):
    identity = KEY()
    text = f"left by {identity.id} {identity!r}"
    log_event(logging.WARNING, "unix.left_behind", text, path=identity.static_key.public)
    log_event(logging.INFO, "unix.left_behind", "not in caplog", path="")
    assert len(caplog.records) == 1

def test_clean_after_all():
    assert log.getEffectiveLevel() == logging.DEBUG
"""


@pytest.mark.parametrize(
    "options", [pytest.param([], id="alone"), pytest.param(["-n", "2"], id="in workers", marks=pytest.mark.slow)]
)
def test_the_test_that_logs_a_secret_or_what_is_no_event_fails(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "conftest.py").write_text(PLUGIN)
    (tmp_path / "test_some.py").write_text(LEAKING)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    env.pop("TRISHAKE_LOG", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", *options]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    results: dict[str, list[str]] = {}
    for case in ElementTree.parse(tmp_path / "out.xml").iter("testcase"):
        failed = [child.get("message", "") for child in case if child.tag in ("failure", "error")]
        results.setdefault(case.attrib["name"], []).extend(failed)
    leaking = {name: failed for name, failed in results.items() if name.startswith("test_leaks")}
    odd = {name: failed for name, failed in results.items() if name.startswith("test_is_no_event")}
    assert (len(leaking), len(odd)) == (14 + 6 + 2, 8), done.stdout
    assert {name: failed for name, failed in results.items() if name not in leaking and name not in odd} == {
        "test_clean": [],
        "test_clean_after_all": [],
    }
    for name, failed in leaking.items():
        assert any(re.search(r"event .+: a secret was (logged|written), as ", text) for text in failed), name
    assert [name for name, failed in odd.items() if not failed] == []
    assert re.findall(rf"[0-9a-f]{{{2 * PART},}}|correct horse", done.stdout + done.stderr) == []
