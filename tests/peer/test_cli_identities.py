"""`trishake keygen`, `id`, `verify`: at a terminal, over pipes, and with whatever files there are."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from trishake import Identity, PeerId
from trishake._keys import WrongPassword

from .command_line import User, in_words, too_wide


@pytest.fixture
def ada(tmp_path: Path) -> User:
    return User(tmp_path / "ada")


@pytest.fixture
def nobody(tmp_path: Path) -> User:
    """Who has no identity yet, nor any directory for it."""
    user = User(tmp_path / "nobody")
    user.key.unlink()
    user.home.rmdir()
    return user


async def test_a_new_identity_is_in_a_file_for_its_owner_alone_and_its_public_half_beside_it(nobody: User) -> None:
    done = await nobody.run("keygen", "-C", "ada@home")
    identity = Identity.load(nobody.key)
    assert done.code == 0
    assert str(identity.id) in done.out
    assert identity.id.ssh() in done.out.splitlines()
    assert not too_wide(done.out + done.err)
    assert stat.S_IMODE(nobody.key.stat().st_mode) == 0o600
    assert nobody.key.with_name("identity.pub").read_text() == identity.id.ssh("ada@home") + "\n"
    again = await nobody.run("keygen")
    assert again.code == 1
    assert f"{nobody.key} is there already" in in_words(again.err)
    assert Identity.load(nobody.key).id == identity.id


async def test_a_new_passphrase_is_asked_for_twice_and_never_shown(nobody: User) -> None:
    async with nobody.at_terminal("keygen", "-p") as terminal:
        await terminal.waits_with("New passphrase: ")
        await terminal.type("open sesame\n")
        await terminal.waits_with("The same again: ")
        await terminal.type("open sesame\n")
        assert await terminal.ended() == 0
        assert "sesame" not in terminal.shown
    assert Identity.load(nobody.key, password="open sesame").id is not None
    with pytest.raises(WrongPassword):
        Identity.load(nobody.key)


@pytest.mark.parametrize(
    ("answers", "why"),
    [(("one\n", "other\n"), "not the same"), (("\n",), "empty passphrase"), (("\x04",), "empty passphrase")],
    ids=["two different ones", "an empty one", "Ctrl-D"],
)
@pytest.mark.slow
async def test_a_passphrase_that_is_none_makes_no_key(nobody: User, answers: tuple[str, ...], why: str) -> None:
    async with nobody.at_terminal("keygen", "-p") as terminal:
        for prompt, answer in zip(("New passphrase: ", "The same again: "), answers, strict=False):
            await terminal.waits_with(prompt)
            await terminal.type(answer)
        assert await terminal.ended() == 2
        assert why in in_words(terminal.shown)
    assert not nobody.key.exists()


async def test_ctrl_c_at_a_prompt_ends_with_130(nobody: User) -> None:
    async with nobody.at_terminal("keygen", "-p") as terminal:
        await terminal.waits_with("New passphrase: ")
        await terminal.type("\x03")
        assert await terminal.ended() == 130
    assert not nobody.key.exists()


async def test_the_passphrase_of_an_encrypted_key_comes_from_a_terminal_a_file_or_stdin(ada: User) -> None:
    key, secret = ada.directory / "locked", ada.directory / "passphrase"
    secret.write_text("open sesame\nmore\n")
    made = await ada.run("keygen", key, "--passphrase-file", secret, "--format", "pkcs8", "--json")
    assert made.code == 0
    (facts,) = made.facts()
    for arguments, given in ((("--passphrase-file", secret), b""), (("--passphrase-file", "-"), b"open sesame\n")):
        shown = await ada.run("id", "-i", key, "--json", *arguments, given=given)
        assert shown.code == 0
        assert shown.facts()[0]["id"] == facts["id"]
    async with ada.at_terminal("id", "-i", key) as terminal:
        await terminal.waits_with(f"Passphrase of {key}: ")
        await terminal.type("open sesame\n")
        assert await terminal.ended() == 0
        assert facts["id"] in terminal.shown
        assert "sesame" not in terminal.shown
    unasked = await ada.run("id", "-i", key)
    assert unasked.code == 1
    assert "--passphrase-file" in unasked.err


async def test_an_identity_is_shown_in_forms_of_which_each_is_taken(ada: User) -> None:
    (facts,) = (await ada.run("id", "--json")).facts()
    assert {PeerId.parse(facts[form]) for form in ("id", "ssh", "did", "libp2p")} == {ada.identity.id}
    invite = f"tcp://{facts['id']}@example.net:1"
    public = ada.directory / "ada.pub"
    public.write_text(facts["ssh"] + " ada\n")
    bob = Identity.generate().id
    codes = [
        (await ada.run("verify", "--json", form, bob)).facts()[0]["code"]
        for form in (invite, public, facts["did"])
    ]
    codes.append((await ada.run("verify", "--json", bob)).facts()[0]["code"])
    assert len(set(codes)) == 1
    assert len([digit for digit in codes[0] if digit.isdigit()]) == 30


@pytest.mark.slow
@pytest.mark.parametrize("form", ["id", "ssh", "did", "libp2p"])
async def test_each_form_of_an_identity_names_it(ada: User, form: str) -> None:
    (facts,) = (await ada.run("id", "--json")).facts()
    named = await ada.run("id", facts[form])
    assert named.code == 0
    assert named.out == (await ada.run("id")).out
    assert not too_wide(named.out)


async def test_an_identity_that_was_named_and_is_missing_is_never_made(ada: User) -> None:
    missing = ada.directory / "missing"
    done = await ada.run("dial", "-i", missing, "tcp://127.0.0.1:1")
    assert done.code == 1
    assert in_words(done.err).startswith(f"trishake: {missing}: there is no such file")
    assert f"trishake keygen {missing}" in done.err
    assert not missing.exists()


@pytest.mark.slow
async def test_an_own_identity_is_made_when_it_is_first_needed(nobody: User) -> None:
    first = await nobody.run("id")
    assert "You had no identity yet" in first.err
    assert (await nobody.run("id")).out == first.out


async def test_an_identity_that_cannot_be_made_is_not_said_to_be_there(nobody: User) -> None:
    nobody.environment["TRISHAKE_HOME"] = "/dev/null"
    done = await nobody.run("id")
    assert done.code == 1
    assert "You had no identity" not in done.err
    assert "/dev/null/identity" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "{}/home"}, "{}/home/.config/trishake/identity"),
        ({"HOME": "{}/home", "XDG_CONFIG_HOME": "{}/xdg"}, "{}/xdg/trishake/identity"),
        ({"HOME": "{}/home", "XDG_CONFIG_HOME": ""}, "{}/home/.config/trishake/identity"),
    ],
)
async def test_without_trishake_home_the_files_are_where_the_users_settings_are(
    ada: User, tmp_path: Path, environment: dict[str, str], expected: str
) -> None:
    user = ada.without("TRISHAKE_HOME", "HOME")
    user.environment |= {name: value.format(tmp_path) for name, value in environment.items()}
    assert (await user.run("id")).code == 0
    assert Path(expected.format(tmp_path)).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("keygen", ""), 2),
        (("keygen", "/"), 2),
        (("keygen", "."), 2),
        (("keygen", "new", "-C", "two\nlines"), 2),
        (("keygen", "new", "-p"), 2),
        (("keygen", "new", "-p", "--passphrase-file", "x"), 2),
        (("keygen", "new", "--passphrase-file", "missing"), 1),
        (("keygen", "new", "--passphrase-file", "binary.pub"), 1),
        (("keygen", "new", "--passphrase-file", "/dev/null"), 2),
        (("keygen", "missing/new/"), 0),
        (("id", "nonsense"), 2),
        (("id", "\x1b[31m"), 2),
        (("id", "tcp://127.0.0.1:1"), 2),
        (("id", "missing.pub"), 1),
        (("id", "binary.pub"), 1),
        (("id", "-i", "."), 1),
        (("id", "-i", "open"), 1),
        (("id", "-i", "x", "--agent"), 2),
        (("id", "--agent-key", "x"), 2),
        (("verify", "nonsense"), 2),
        (("verify", "ada/identity.pub"), 1),
    ],
    ids=str,
)
async def test_what_a_user_can_do_wrong_has_a_code_and_is_told_in_words(
    ada: User, arguments: tuple[str, ...], code: int
) -> None:
    (ada.directory / "binary.pub").write_bytes(b"\xff\xfe\n")
    (ada.directory / "open").write_text("secret-secret")
    (ada.directory / "open").chmod(0o644)
    done = await ada.run(*arguments)
    assert done.code == code
    assert bool(code) == bool(done.err.strip()) or code == 0
    assert not too_wide(done.err)
    assert "secret" not in done.err
    if code != 2 or not done.err.startswith("usage"):
        as_json = await ada.run(*arguments, "--json") if code else done
        assert as_json.code == code
        assert not code or as_json.facts()[-1]["exit_code"] == code
