"""`trishake network` and `trishake known`: files of networks and of peers, whole and faulty."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from trishake import Identity, Network
from trishake._known_peers import KnownPeers
from trishake.cli._outcomes import ExitCode

from .command_line import User, in_words, too_wide

ADA, BOB = Identity.from_seed(b"a" * 32).id, Identity.from_seed(b"b" * 32).id


@pytest.fixture
def ada(tmp_path: Path) -> User:
    return User(tmp_path / "ada")


# --- networks -------------------------------------------------------------------------------------------


async def test_a_networks_key_is_in_its_file_and_nowhere_else(ada: User) -> None:
    new = await ada.run("network", "new", "home", "--json")
    file = ada.directory / "home.network"
    assert new.facts() == [{"path": "home.network", "name": "home"}]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    add = await ada.run("network", "rotate", "add", file)
    show = await ada.run("network", "show", file, "--json")
    assert show.facts() == [{"name": "home", "keys": 2}]
    keys = [line.split()[1] for line in file.read_text().splitlines() if line.startswith("key ")]
    assert len(keys) == 2
    for key in keys:
        for done in (new, add, show):
            assert key not in done.out + done.err
    assert add.err.splitlines()[-1].strip() == f"trishake network rotate use {file}"
    again = await ada.run("network", "new", "home")
    assert again.code == ExitCode.FAILED
    assert "home.network: there is a file already" in in_words(again.err)


@pytest.mark.slow
async def test_a_rotation_goes_add_use_drop_and_no_other_way(ada: User) -> None:
    file = ada.directory / "home.network"
    Network.new("home").save(file)
    first = Network.load(file).psks
    for step, code, keys in [
        ("use", 2, 1),
        ("drop", 2, 1),
        ("add", 0, 2),
        ("use", 0, 2),
        ("drop", 0, 1),
        ("add", 0, 2),
        ("add", 0, 3),
        ("add", 0, 4),
        ("add", 2, 4),
    ]:
        done = await ada.run("network", "rotate", step, file)
        assert done.code == code
        assert not too_wide(done.err)
        assert len(Network.load(file).psks) == keys
    assert first[0] not in Network.load(file).psks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("new", ""), 2),
        (("new", "n" * 65), 2),
        (("new", "bell\x07"), 2),
        (("new", b"\xff"), 2),
        (("new", "a/b"), 1),
        (("new", "home", "."), 2),
        (("show", "missing"), 1),
        (("show", "."), 1),
        (("show", "/dev/null"), 1),
        (("show", "binary"), 1),
        (("rotate", "add", "missing"), 1),
        (("rotate", "nonsense", "binary"), 2),
        ((), 2),
    ],
    ids=str,
)
async def test_a_network_that_is_none_is_told(ada: User, arguments: tuple[str | bytes, ...], code: int) -> None:
    (ada.directory / "binary").write_bytes(b"\xff psk-secret")
    (ada.directory / "binary").chmod(0o600)
    done = await ada.run("network", *map(os.fsdecode, arguments))
    assert done.code == code
    assert not done.out
    assert done.err
    assert "secret" not in done.err
    assert not too_wide(done.err)


# --- known peers ----------------------------------------------------------------------------------------


async def test_known_peers_are_listed_and_forgotten(ada: User) -> None:
    empty = await ada.run("known", "list")
    assert (empty.code, empty.out) == (0, "")
    assert "Nobody is known yet" in empty.err
    known = KnownPeers(ada.home / "known_peers")
    await known.remember("example.net:1", ADA)
    await known.remember("example.net:2", BOB)
    await known.remember("*", BOB)
    listed = await ada.run("known", "list", "--json")
    assert [(each["name"], each["peer"]) for each in listed.facts()] == [
        ("example.net:1", str(ADA)),
        ("example.net:2", str(BOB)),
        ("*", str(BOB)),
    ]
    assert (await ada.run("known", "forget", f"tcp://{ADA}@example.net:1")).code == 0
    forgotten = await ada.run("known", "forget", BOB, "--json")
    assert [each["name"] for each in forgotten.facts()] == ["example.net:2", "*"]
    assert known.entries() == ()
    assert (await ada.run("known", "forget", BOB)).code == ExitCode.FAILED


async def test_a_known_peer_can_be_added_and_a_name_is_not_given_to_another(ada: User) -> None:
    assert (await ada.run("known", "add", f"tcp://{ADA}@example.net:1", "--json")).facts() == [
        {"name": "example.net:1", "peer": str(ADA)}
    ]
    assert (await ada.run("known", "add", "*", BOB.did)).out == f"known: {BOB}  *\n"
    recorded = KnownPeers(ada.home / "known_peers").entries()
    assert [(entry.name, entry.peer) for entry in recorded] == [("example.net:1", ADA), ("*", BOB)]
    changed = await ada.run("known", "add", "example.net:1", BOB)
    assert changed.code == ExitCode.WRONG_IDENTITY
    assert f"example.net:1 is known as {ADA} ({ada.home / 'known_peers'}, line 4), not as {BOB}." in in_words(
        changed.err
    )
    assert "answered" not in changed.err
    assert changed.err.endswith(f"\n  trishake known forget example.net:1 --known {ada.home / 'known_peers'}\n")
    assert KnownPeers(ada.home / "known_peers").entries() == recorded


async def test_the_faults_of_a_file_of_known_peers_are_shown_with_their_lines(ada: User) -> None:
    book = ada.directory / "book"
    book.write_text(f"example.net:1 {ADA}\nexample.net:2 nonsense\nexample.net:1 {BOB}\n")
    for options in ((), ("--json",)):
        done = await ada.run("known", "list", "--known", book, *options)
        assert done.code == ExitCode.FAILED
        shown = in_words(done.out + done.err)
        assert "line 2" in shown
        assert "line 3" in shown
        assert not options or [each["line"] for each in done.facts() if "message" in each] == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("list", "--known", "."), 1),
        (("list", "--known", "~nobody-at-all/x"), 1),
        (("forget", ""), 2),
        (("add", "example.net:1"), 2),
        (("add", "tcp://example.net:1"), 2),
        (("add", "", ADA), 2),
        (("forget", "a%zz"), 2),
        (("forget", "tcp://x"), 2),
        (("forget", "x", "--known", "."), 1),
        (("forget",), 2),
        ((), 2),
    ],
    ids=str,
)
async def test_what_is_no_name_or_no_file_is_told(ada: User, arguments: tuple[str, ...], code: int) -> None:
    done = await ada.run("known", *arguments)
    assert done.code == code
    assert done.err
    assert not done.out
    assert not too_wide(done.err)
