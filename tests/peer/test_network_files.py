"""_network.py: private networks in files, and how their keys are rotated."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trishake_protocol
from trishake import AlertCode, Rejected, initiate, respond
from trishake._errors import BadFile
from trishake._files import locked
from trishake._network import Network

from .conftest import ADA, BOB, everything_of, memory_pair, written

KEYS = tuple(bytes([n]) * 32 for n in range(1, 6))


def text_of(key: bytes) -> str:
    """As the documentation of the file has it, and not by the code under test."""
    check = hashlib.sha256(b"trishake/1 network key\x00" + key).digest()[:3]
    return "psk-" + base64.b32encode(key + check).decode().lower()


TEXTS = [text_of(key) for key in KEYS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home.network"


# --- the file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_network_is_the_same_out_of_its_file(path: Path, count: int) -> None:
    network = Network("home", KEYS[0] if count == 1 else KEYS[:count])
    network.save(path)
    assert Network.load(path) == network
    assert type(Network.load(path)) is Network
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_is_as_its_documentation_says(path: Path) -> None:
    Network("home", KEYS[:2]).save(path)
    assert path.read_text() == (
        "# Trishake private network. Who has this file is in it: keep it secret.\n"
        f"name home\nkey {TEXTS[0]}\nkey {TEXTS[1]}\n"
    )
    assert {len(text) for text in TEXTS} == {60}


@pytest.mark.parametrize(
    "text",
    [
        f"name our home\nkey {TEXTS[0]}",
        f"\n  # by hand\r\n  key\t{TEXTS[0]}  \r\n\r\nname   our home \r\n#key psk-",
    ],
)
def test_a_file_may_be_written_by_hand(path: Path, text: str) -> None:
    assert Network.load(written(path, text)) == Network("our home", KEYS[0])


@given(name=st.text(min_size=1, max_size=20))
def test_a_name_comes_out_of_a_file_as_it_went_in_or_does_not_go_in(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    try:
        network = Network(name, KEYS[0])
    except ValueError:
        return
    path = tmp_path_factory.mktemp("names") / "file"
    try:
        network.save(path)
    except ValueError:
        assert not path.exists()
        assert not name.isprintable() or name != name.strip()
        return
    assert Network.load(path) == network


@pytest.mark.parametrize("name", [" home", "home ", "ho\nme", "ho\x1b[2Jme", "ho\u202eme", "#\r"])
def test_a_name_that_fits_on_no_line_is_not_written(path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="fits on no line"):
        Network(name, KEYS[0]).save(path)
    assert os.listdir(path.parent) == []


def test_quiet_is_in_no_file_and_each_members_own_choice(path: Path) -> None:
    Network("home", KEYS[0], quiet=True).save(path)
    assert not Network.load(path).quiet
    assert Network.load(path, quiet=True) == Network("home", KEYS[0], quiet=True)


def test_a_public_network_is_in_no_file(path: Path) -> None:
    with pytest.raises(ValueError, match=r"network 'home' is public.*Network\.new"):
        Network("home").save(path)
    assert not path.exists()


def test_a_file_that_is_there_is_not_overwritten(path: Path) -> None:
    Network("home", KEYS[0]).save(path)
    with pytest.raises(FileExistsError):
        Network("home", KEYS[1]).save(path)
    assert Network.load(path).psk == KEYS[0]


def test_a_file_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Network("home", KEYS[0]).save("~/network")
    assert (tmp_path / "network").exists()
    assert Network.load("~/network") == Network("home", KEYS[0])


def test_a_file_that_is_not_there_is_missing(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Network.load(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    Network("home", KEYS[0]).save(path)
    path.chmod(mode)
    with pytest.raises(BadFile, match="chmod 600"):
        Network.load(path)


SLIP = TEXTS[0][:20] + ("a" if TEXTS[0][20] != "a" else "b") + TEXTS[0][21:]
SWAPPED = TEXTS[2][:-2] + TEXTS[2][-1] + TEXTS[2][-2]
FOUR = "".join(f"key {text}\n" for text in TEXTS[:4])

BAD_FILES: dict[str, tuple[str | bytes, int | None, str]] = {
    "nothing": ("", None, "it has no name"),
    "a comment alone": ("# name home\n", None, "it has no name"),
    "no key": ("name home\n", None, "it has no key"),
    "no name": (f"key {TEXTS[0]}\n", None, "it has no name"),
    "two names": (f"name home\nkey {TEXTS[0]}\nname home\n", 3, "a second name"),
    "an empty name": (f"name\nkey {TEXTS[0]}\n", 1, "a name of 0 bytes"),
    "a long name": (f"name {'ä' * 33}\nkey {TEXTS[0]}\n", 1, "a name of 66 bytes"),
    "a name with a bell": (f"name ho\x07me\nkey {TEXTS[0]}\n", 1, "control characters"),
    "five keys": (f"name home\n{FOUR}key {TEXTS[4]}\n", 6, "a key more than the 4"),
    "a key twice": (f"name home\nkey {TEXTS[0]}\nkey {TEXTS[1]}\nkey {TEXTS[0]}\n", 4, "the same key a second"),
    "an unknown word": (f"name home\nkey {TEXTS[0]}\nquiet yes\n", 3, "begins neither"),
    "an unknown word alone": (f"name home\nkeys\nkey {TEXTS[0]}\n", 2, "begins neither"),
    "upper case words": (f"NAME home\nkey {TEXTS[0]}\n", 1, "begins neither"),
    "a key without its word": (f"name home\n{TEXTS[0]}\n", 2, "without the word `key`"),
    "a slip of the pen": (f"name home\nkey {SLIP}\n", 2, "a character of this key is wrong"),
    "two characters swapped": (f"name home\nkey {SWAPPED}\n", 2, "a character of this key is wrong"),
    "a key cut short": (f"name home\n\nkey {TEXTS[0][:-1]}\n", 3, "has 56 characters after psk-, this one has 55"),
    "a key too long": (f"name home\nkey {TEXTS[0]}a\n", 2, "this one has 57"),
    "a key and a remark": (f"name home\nkey {TEXTS[0]} # old\n", 2, "this one has 62"),
    "an empty key": ("name home\nkey\n", 2, "a key begins with psk-"),
    "an upper case key": (f"name home\nkey psk-{TEXTS[0][4:].upper()}\n", 2, "in lower case"),
    "a key with a 1": (f"name home\nkey {TEXTS[0][:-1]}1\n", 2, "the digits 2 to 7"),
    "a passphrase": ("name home\nkey correct horse battery staple\n", 2, "a passphrase"),
    "a key in hex": (f"name home\nkey {KEYS[0].hex()}\n", 2, "a key begins with psk-"),
    "no UTF-8": (b"name home\nkey psk-\xff" + TEXTS[0].encode(), 2, "no UTF-8"),
    "zeros": (bytes(100), 1, "begins neither"),
    "a private key": ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n", 1, "begins neither"),
    "too large": ("#" * (16 * 1024 + 1), None, "the limit is 16384"),
}


@pytest.mark.parametrize(("content", "line", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_with_its_line(
    path: Path, content: str | bytes, line: int | None, message: str
) -> None:
    with pytest.raises(BadFile) as caught:
        Network.load(written(path, content))
    assert (caught.value.path, caught.value.line) == (path, line)
    assert message in str(caught.value)


@pytest.mark.parametrize(("content", "line", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_no_error_shows_what_may_be_nearly_a_key(
    path: Path, content: str | bytes, line: int | None, message: str
) -> None:
    with pytest.raises(BadFile) as caught:
        Network.load(written(path, content))
    shown = everything_of(caught.value)
    raw = content.encode() if isinstance(content, str) else content
    for secret in [word for word in raw.split() if len(word) >= 12 and not word.startswith((b"#", b"-"))]:
        assert repr(secret)[2:14] not in shown
    assert "battery" not in shown


def test_a_directory_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="a directory"):
        Network.load(tmp_path)


# --- what is new in it ----------------------------------------------------------------------------------


def test_a_new_network_has_a_fresh_random_key() -> None:
    networks = [Network.new("home") for _ in range(20)]
    assert len({network.psk for network in networks}) == 20
    assert {len(network.psks[0]) for network in networks} == {32}
    assert {network.name for network in networks} == {"home"}
    assert Network.new("home", quiet=True).quiet


@pytest.mark.parametrize("name", ["", "ä" * 33])
def test_a_new_network_needs_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="a network's name"):
        Network.new(name)


def test_it_is_the_networks_of_the_core_with_files() -> None:
    assert isinstance(Network(), trishake_protocol.Network)
    assert Network().tag == trishake_protocol.Network().tag
    with pytest.raises(ValueError, match="never a passphrase"):
        Network("home", b"correct horse battery staple")


@pytest.mark.parametrize(
    "change", [Network.with_new_key, Network.with_last_key_first, Network.with_first_key_only]
)
def test_no_key_is_in_what_a_network_prints(change: Callable[[Network], Network]) -> None:
    network = change(Network("home", KEYS[:2]))
    shown = f"{network} {network!r}"
    assert "home" in shown
    for key in network.psks:
        assert repr(key)[2:-1] not in shown
        assert text_of(key)[4:] not in shown
        assert key.hex() not in shown


# --- rotation -------------------------------------------------------------------------------------------


def test_the_three_steps_of_a_rotation() -> None:
    before = Network("home", KEYS[0], quiet=True)
    first = before.with_new_key()
    assert first.psks[0] == KEYS[0]
    assert len(first.psks) == 2
    new = first.psks[1]
    second = first.with_last_key_first()
    assert second.psks == (new, KEYS[0])
    third = second.with_first_key_only()
    assert third.psks == (new,)
    assert third.psk == new
    for network in (first, second, third):
        assert type(network) is Network
        assert (network.name, network.quiet) == ("home", True)
    assert before.psks == (KEYS[0],)


def test_each_new_key_is_another() -> None:
    before = Network("home", KEYS[0])
    assert before.with_new_key().psks[1] != before.with_new_key().psks[1]


def test_the_other_keys_keep_their_order() -> None:
    assert Network("home", KEYS[:4]).with_last_key_first().psks == (KEYS[3], KEYS[0], KEYS[1], KEYS[2])


@pytest.mark.parametrize(
    ("network", "change", "message"),
    [
        (Network("home"), Network.with_new_key, "public"),
        (Network("home"), Network.with_last_key_first, "public"),
        (Network("home"), Network.with_first_key_only, "public"),
        (Network("home", KEYS[:4]), Network.with_new_key, r"has 4 keys.*with_first_key_only"),
        (Network("home", KEYS[0]), Network.with_last_key_first, r"one key.*with_new_key"),
        (Network("home", KEYS[0]), Network.with_first_key_only, r"one key.*with_last_key_first"),
    ],
)
def test_a_step_that_cannot_be_taken_says_which_can(
    network: Network, change: Callable[[Network], Network], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        change(network)


async def meet(dialer: Network, answerer: Network) -> None:
    """A greeting between the two. Raises what the dialer gets if they do not meet."""
    here, there = await memory_pair()

    async def answer() -> None:
        try:
            await respond(there, BOB, network=answerer)
        except trishake_protocol.TrishakeError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        try:
            await initiate(here, ADA, network=dialer)
        finally:
            nursery.cancel_scope.cancel()


async def test_members_meet_whichever_of_two_steps_that_follow_each_has() -> None:
    steps = [Network("home", KEYS[0])]
    steps.append(steps[-1].with_new_key())
    steps.append(steps[-1].with_last_key_first())
    steps.append(steps[-1].with_first_key_only())
    for before, after in itertools.pairwise(steps):
        await meet(before, after)
        await meet(after, before)


async def test_a_step_that_is_left_out_parts_them() -> None:
    before = Network("home", KEYS[0])
    after = before.with_new_key().with_last_key_first()
    with pytest.raises(BaseExceptionGroup) as caught:
        await meet(after, before)
    assert [error.reason for error in caught.value.exceptions if isinstance(error, Rejected)] == [
        AlertCode.HANDSHAKE_FAILED
    ]


async def test_a_file_is_replaced_by_the_next_step(path: Path) -> None:
    before = Network("home", KEYS[0])
    before.save(path)
    after = before.with_new_key()
    await after.replace(path)
    assert Network.load(path) == after
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(os.listdir(path.parent)) <= {path.name, f"{path.name}.lock"}


async def test_a_symbolic_link_to_the_file_stays_one(path: Path) -> None:
    Network("home", KEYS[0]).save(path)
    link = path.with_name("link")
    link.symlink_to(path)
    await Network("home", KEYS[1]).replace(link)
    assert link.is_symlink()
    assert Network.load(path).psk == KEYS[1]


async def test_only_the_file_of_the_same_network_is_replaced(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await Network("home", KEYS[0]).replace(path)
    assert os.listdir(path.parent) == []
    Network("office", KEYS[0]).save(path)
    with pytest.raises(ValueError, match="of the network 'office', not of 'home'"):
        await Network("home", KEYS[1]).replace(path)
    with pytest.raises(ValueError, match="public"):
        await Network("office").replace(path)
    assert Network.load(path) == Network("office", KEYS[0])
    notes = written(path.with_name("notes"), "Buy milk.\n")
    with pytest.raises(BadFile):
        await Network("home", KEYS[0]).replace(notes)
    assert notes.read_text() == "Buy milk.\n"


async def test_who_replaces_a_file_waits_for_who_has_locked_it(path: Path) -> None:
    before = Network("home", KEYS[0])
    before.save(path)
    after = before.with_new_key()
    async with trio.open_nursery() as nursery, locked(path):
        nursery.start_soon(after.replace, path)
        await trio.testing.wait_all_tasks_blocked()
        assert Network.load(path) == before
    assert Network.load(path) == after
