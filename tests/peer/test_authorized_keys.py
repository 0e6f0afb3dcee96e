"""_authorized_keys.py: who may come in, as OpenSSH's own file says; and that no damage to it lets anybody in."""

from __future__ import annotations

import base64
import logging
import os
import socket as stdlib_socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trishake import (
    Acceptance,
    Decision,
    Greeting,
    Introduction,
    PeerId,
    Rejected,
    Rejection,
    Role,
    Untrusted,
    VerdictCode,
    accept,
)
from trishake._authorized_keys import AuthorizedKeys, _parse, _parse_time, _Unusable
from trishake._errors import BadFile
from trishake._keys import Identity
from trishake._network import Network

from .conftest import ADA, ANYWHERE, BOB, EVE, Watch
from .world import CARL, MEM, peer

ED25519: Final = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
WHERE: Final = "192.0.2.7:4711"


def blob(data: bytes) -> str:
    return base64.b64encode(data).decode()


def line_of(who: PeerId, options: str = "", comment: str = "") -> str:
    """As ssh-keygen writes it into a .pub file; that it does is tested below."""
    return " ".join(part for part in (options, "ssh-ed25519", blob(ED25519 + who.key), comment) if part)


A: Final = line_of(ADA.id, comment="ada@home")
B: Final = line_of(BOB.id)
RSA: Final = "ssh-rsa " + blob(b"\0\0\0\x07ssh-rsa\0\0\0\x03\1\0\1\0\0\0\x21\0" + b"\xab" * 32)


def introduction_of(who: PeerId, address: str | None = WHERE, role: Role = Role.INITIATOR) -> Introduction:
    return Introduction(who, role, address, Greeting(role.value, who.key, (1,), 0), bytes(8))


async def asked(policy: AuthorizedKeys, who: PeerId, address: str | None = WHERE) -> Decision:
    """What it says; that of a rejection nothing but IDENTITY_UNKNOWN is sent."""
    decision = await policy(introduction_of(who, address))
    assert await policy(introduction_of(who, address, Role.RESPONDER)) == decision
    if isinstance(decision, Rejection):
        assert (decision.reason, decision.text, decision.retry_after) == (VerdictCode.IDENTITY_UNKNOWN, None, None)
        assert decision.why
    return decision


async def welcomes(policy: AuthorizedKeys, who: PeerId, address: str | None = WHERE) -> bool:
    return isinstance(await asked(policy, who, address), Acceptance)


async def why(policy: AuthorizedKeys, who: PeerId, address: str | None = WHERE) -> str:
    decision = await asked(policy, who, address)
    assert isinstance(decision, Rejection)
    return decision.why or ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authorized_keys"


def write(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    path.chmod(0o600)
    return path


def long_ago(path: Path) -> None:
    """As if the file had been written an hour ago."""
    os.utime(path, (time.time() - 3600,) * 2)


# --- what OpenSSH makes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """Lines that ssh-keygen has made, by the type of key; `who` is whose the ssh-ed25519 one is."""

    lines: dict[str, str]
    certificate: str
    who: PeerId


def ssh_keygen(*args: str | Path) -> str:
    return subprocess.run(("/usr/bin/ssh-keygen", *args), capture_output=True, check=True).stdout.decode()


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    directory = tmp_path_factory.mktemp("ssh")
    lines = {}
    for type_, *bits in (("ed25519",), ("rsa", "-b", "1024"), ("ecdsa",)):
        ssh_keygen("-q", "-t", type_, *bits, "-N", "", "-C", f'a "quoted" {type_}', "-f", directory / type_)
        lines[type_] = (directory / f"{type_}.pub").read_text().rstrip("\n")
    ssh_keygen("-q", "-s", directory / "ed25519", "-I", "it", "-n", "ada", directory / "ed25519.pub")
    key = load_ssh_public_key(lines["ed25519"].encode())
    assert isinstance(key, Ed25519PublicKey)
    certificate = (directory / "ed25519-cert.pub").read_text().rstrip("\n")
    return Keys(lines, certificate, PeerId(key.public_bytes_raw()))


async def test_a_key_of_ssh_keygen_is_a_peer(path: Path, openssh: Keys) -> None:
    policy = AuthorizedKeys(write(path, openssh.lines["ed25519"]))
    assert policy.peers == {openssh.who}
    assert not policy.problems
    assert await asked(policy, openssh.who) == accept()
    assert not await welcomes(policy, EVE.id)


@pytest.mark.parametrize("type_", ["rsa", "ecdsa"])
def test_a_key_of_another_type_names_no_peer(path: Path, openssh: Keys, type_: str) -> None:
    policy = AuthorizedKeys(write(path, openssh.lines[type_], A))
    assert policy.peers == {ADA.id}
    (problem,) = policy.problems
    word = openssh.lines[type_].split()[0]
    assert str(problem).startswith(f"{path}, line 1: an {word} key: a peer has an ssh-ed25519 key. ")


def test_a_certificate_names_no_peer_nor_does_the_key_that_signs_it(path: Path, openssh: Keys) -> None:
    policy = AuthorizedKeys(write(path, openssh.certificate, "cert-authority " + openssh.lines["ed25519"]))
    assert policy.peers == set()
    assert [problem.line for problem in policy.problems] == [1, 2]
    assert "ssh-ed25519-cert-v01@openssh.com" in str(policy.problems[0])


def test_the_keys_are_those_that_ssh_keygen_finds(path: Path, openssh: Keys) -> None:
    write(
        path,
        "# a comment",
        "",
        f"  \t{A}",
        'from="*",environment="A=\\"b, c\\" d" ' + B,  # several blanks there, sshd skips and ssh-keygen does not
        'permitopen="[::1]:22" ' + openssh.lines["ed25519"] + "\r",
        openssh.lines["rsa"],
        "ssh-ed25519 AAAA",
        f"#{line_of(EVE.id)}",
    )
    listed = ssh_keygen("-l", "-f", path).split("\n")
    found = {line.split()[1] for line in listed if line.endswith("(ED25519)")}
    policy = AuthorizedKeys(path)
    fingerprints = set()
    for who in policy.peers:
        lone = write(path.with_name("lone"), line_of(who))
        fingerprints.add(ssh_keygen("-l", "-f", lone).split()[1])
    assert fingerprints == found
    assert policy.peers == {ADA.id, BOB.id, openssh.who}


async def test_who_is_not_there_learns_nothing_and_we_learn_which_line_to_add(path: Path) -> None:
    policy = AuthorizedKeys(write(path, A))
    advice = await why(policy, BOB.id)
    assert str(path) in advice
    assert f"add a line with {line_of(BOB.id)} " in advice
    with path.open("a") as file:
        file.write(advice.partition("add a line with ")[2].partition(" to /")[0] + "\n")
    assert await asked(policy, BOB.id) == accept()


# --- the file as a whole --------------------------------------------------------------------------------


@contextmanager
def not_root() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _socket(path: Path) -> None:
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as socket:
        socket.bind(str(path))


def _symlink_loop(path: Path) -> None:
    path.symlink_to(path)


def _below_a_file(path: Path) -> None:
    write(path, A)


def _group_writable(path: Path) -> None:
    write(path, A).chmod(0o620)


def _world_writable(path: Path) -> None:
    write(path, A).chmod(0o602)


def _link_to_group_writable(path: Path) -> None:
    target = path.with_name("target")
    _group_writable(target)
    path.symlink_to(target)


def _too_large(path: Path) -> None:
    write(path, A, b"#" * 2**20)


UNUSABLE: Final = [
    (_directory, "a directory"),
    (_fifo, "no regular file"),
    (_socket, "No such device"),
    (_symlink_loop, "symbolic links"),
    (_group_writable, "others may write it: its mode is 0620. Run: chmod go-w"),
    (_world_writable, "others may write it: its mode is 0602"),
    (_link_to_group_writable, "others may write it"),
    (_too_large, "the limit is 1048576"),
]
WHOLE: Final = pytest.mark.parametrize(("make", "what"), UNUSABLE, ids=[make.__name__ for make, _ in UNUSABLE])


@WHOLE
def test_a_file_that_cannot_be_used_is_refused_at_once(
    path: Path, make: Callable[[Path], None], what: str
) -> None:
    make(path)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BadFile) as caught:
        AuthorizedKeys(path)
    assert what in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.path == path
    assert len(os.listdir("/proc/self/fd")) == descriptors


@WHOLE
async def test_a_file_that_becomes_unusable_locks_everybody_out_until_it_is_mended(
    path: Path, make: Callable[[Path], None], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = AuthorizedKeys(write(path, A))
    path.unlink()
    make(path)
    assert what in await why(policy, ADA.id)
    assert policy.peers == set()
    assert [what in str(problem) for problem in policy.problems] == [True]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]  # once, of all these looks at it
    assert what in caplog.messages[0]
    path.rmdir() if path.is_dir() else path.unlink()
    write(path, A)
    assert await asked(policy, ADA.id) == accept()
    assert not policy.problems
    assert len(caplog.records) == 1


def test_a_file_that_we_may_not_read_is_refused(path: Path) -> None:
    write(path, A).chmod(0)
    with not_root(), pytest.raises(BadFile, match=f"{path}: it cannot be read: Permission denied"):
        AuthorizedKeys(path)


async def test_a_file_that_we_may_no_longer_read_locks_everybody_out(path: Path) -> None:
    policy = AuthorizedKeys(write(path, A))
    path.chmod(0)
    with not_root():
        assert "Permission denied" in await why(policy, ADA.id)
    path.chmod(0o600)
    assert await welcomes(policy, ADA.id)


async def test_what_hindered_us_from_reading_may_pass_without_a_change_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process has used up its descriptors."""
    policy = AuthorizedKeys(write(path, A))
    with path.open("a") as file:
        file.write(B + "\n")
    long_ago(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", _no_descriptor_left)
        assert "Too many open files" in await why(policy, ADA.id)
    assert await welcomes(policy, ADA.id)
    assert await welcomes(policy, BOB.id)


def _no_descriptor_left(*_: object) -> int:
    raise OSError(24, "Too many open files")


def test_a_missing_file_is_refused_at_once(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(path)):
        AuthorizedKeys(path)
    path.symlink_to(path.with_name("nowhere"))
    with pytest.raises(FileNotFoundError, match=str(path)):
        AuthorizedKeys(path)


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    write(path, A)
    with pytest.raises(BadFile, match="Not a directory"):
        AuthorizedKeys(path / "authorized_keys")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400, 0o444])
async def test_others_may_read_it(path: Path, mode: int) -> None:
    write(path, A).chmod(mode)
    assert await welcomes(AuthorizedKeys(path), ADA.id)


async def test_a_symbolic_link_is_followed(path: Path) -> None:
    target = write(path.with_name("target"), A)
    other = write(path.with_name("other"), B)
    path.symlink_to(target)
    policy = AuthorizedKeys(path)
    assert await welcomes(policy, ADA.id)
    path.unlink()
    path.symlink_to(other)
    assert policy.peers == {BOB.id}
    other.unlink()
    assert "no such file" in await why(policy, BOB.id)


async def test_the_path_is_found_at_once_and_for_good(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(path, A)
    monkeypatch.setenv("HOME", str(tmp_path))
    of_home = AuthorizedKeys("~/authorized_keys")
    monkeypatch.chdir(tmp_path)
    relative = AuthorizedKeys(path.name)
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/nowhere")
    for policy in (of_home, relative):
        assert policy.path == path
        assert repr(policy) == f"AuthorizedKeys({str(path)!r})"
        assert await welcomes(policy, ADA.id)


# --- lines ----------------------------------------------------------------------------------------------

NO_KEY: Final = "neither a key nor|no key"

BAD_LINES: Final[list[tuple[str, str | bytes, str]]] = [
    ("truncated", A[:60], "the key has 36 bytes, one of this type has 51"),
    ("truncated_in_its_head", "ssh-ed25519 AAAA", "the key has 3 bytes"),
    ("cut_in_the_middle_of_four_letters", A[:61], "no base64"),
    ("without_a_key", "ssh-ed25519", "nothing after ssh-ed25519"),
    ("too_long_a_key", f"ssh-ed25519 {blob(ED25519 + bytes(range(33)))}", "has 52 bytes"),
    ("another_length_within", f"ssh-ed25519 {blob(ED25519[:-1] + bytes([31]) + EVE.id.key)}", "of the type"),
    ("a_letter_that_is_none", A.replace("AAAAC3", "AAAA*3"), "no base64"),
    ("the_other_base64", "ssh-ed25519 " + blob(ED25519 + b"\xfb" * 32).replace("+", "-"), "no base64"),
    ("padding_in_the_middle", A.replace("AAAAC3", "AAAA==AAAAC3"), "no base64"),
    ("padding_at_the_end", B + "=", "no base64"),
    ("something_after_the_key", B + ",x", "no base64"),
    ("another_type_within", A.replace("ssh-ed25519 AAAA", "ssh-rsa AAAA"), "an ssh-rsa key: a peer has"),
    ("another_type_without", RSA.replace("ssh-rsa AAAA", "ssh-ed25519 AAAA"), "its key is of the type 'ssh-rsa'"),
    ("rsa", RSA, "an ssh-rsa key: a peer has an ssh-ed25519 key"),
    ("security_key", "sk-ssh-ed25519@openssh.com AAAA", "an sk-ssh-ed25519@openssh.com key: a peer has"),
    ("small_order", f"ssh-ed25519 {blob(ED25519 + bytes(32))}", "no peer's: this key is of small order"),
    ("not_canonical", f"ssh-ed25519 {blob(ED25519 + bytes([255]) * 32)}", "canonical"),
    ("nul_in_the_comment", A + "\0", "a NUL byte"),
    ("nul_before", "\0" + A, "a NUL byte"),
    ("invalid_utf8_in_the_key", A.encode().replace(b"AAAAC3", b"AAAA\xff3"), r"no base64: AAAA\\xff3"),
    ("invalid_utf8_before_the_key", b"\xff " + A.encode(), r"an unknown option: \\xff"),
    ("no_break_space_for_a_blank", A.replace(" ", "\xa0"), r"no key: ssh-ed25519\\xc2\\xa0AAAA"),
    ("huge", A + "x" * 2**13, "a line of 8[0-9]{3} bytes, the limit is 8192"),
    ("unknown_option", f"no-such-option {A}", "an unknown option: no-such-option"),
    ("unknown_option_with_value", f'pty,no-such="a b" {A}', 'an unknown option: no-such="…"'),
    ("option_with_a_value_that_it_has_not", f'restrict="x" {A}', 'an unknown option: restrict="…"'),
    ("option_without_its_value", f"from {A}", "an unknown option: from"),
    ("option_without_its_quotes", f"from=192.0.2.7 {A}", "an unknown option: from=192.0.2.7"),
    ("option_with_single_quotes", f"from='192.0.2.7' {A}", "an unknown option: from="),
    ("part_of_an_option", f"restric {A}", "an unknown option: restric"),
    ("something_after_the_quote", f'from="*"x {A}', "an unknown option"),
    ("two_commas", f"pty,,restrict {A}", "an unknown option: ,restrict"),
    ("comma_at_the_beginning", f",pty {A}", "an unknown option: ,pty"),
    ("comma_at_the_end", f"pty, {A}", "a comma and no option after it"),
    ("blank_after_the_comma", f'pty, from="*" {A}', NO_KEY),
    ("unterminated_quote", f'from="192.0.2.7 {A}', "a quote that does not end"),
    ("quote_ended_by_an_escape", f'environment="A=b\\" {A}', "a quote that does not end"),
    ("options_only", 'from="*",restrict', "no key"),
    ("certificate_authority", f"cert-authority {A}", "signs certificates"),
    ("principals", f'principals="ada" {A}', "signs certificates"),
    ("one_command", f'command="echo hi" {A}', "limited to one command"),
    ("one_command_in_capitals", f'COMMAND="echo hi" {A}', "limited to one command"),
    ("one_command_among_others", f'restrict,from="*",command="a,b \\" c",pty {A}', "limited to one command"),
    ("two_from", f'from="*",from="192.0.2.7" {A}', "more than one from="),
    ("empty_from", f'from="" {A}', "an empty pattern"),
    ("empty_pattern", f'from="*,,192.0.2.7" {A}', "an empty pattern"),
    ("empty_negation", f'from="*,!" {A}', "an empty pattern"),
    ("negations_only", f'from="!192.0.2.1" {A}', 'add ",\\*"'),
    ("bits_beyond_the_length", f'from="*,!192.0.2.7/24" {A}', "bits to the right of its length: 192.0.2.7/24"),
    ("too_long_a_network", f'from="*,192.0.2.0/33" {A}', "is no address"),
    ("netmask", f'from="192.0.0.0/255.0.0.0" {A}', "is no address"),
    ("network_without_length", f'from="192.0.2.0/" {A}', "is no address"),
    ("name_with_length", f'from="*,!example/24" {A}', "is no address"),
    ("short_address", f'from="*,!192.7" {A}', "is no address"),
    ("octal_address", f'from="*,!0300.0.2.7" {A}', "is no address"),
    ("host_and_port", f'from="{WHERE}" {A}', "is no address"),
    ("zone", f'from="*,!fe80::1%eth0" {A}', "is no address"),
    ("from_no_utf8", b'from="*,\xff" ' + A.encode(), r"from= is no UTF-8: \*,\\xff"),
    ("time_no_date", f'expiry-time="20300230" {A}', "20300230, which is no date"),
    ("time_no_hour", f'expiry-time="203001012460" {A}', "which is no date"),
    ("time_before_all_times", f'expiry-time="00010101Z" {A}', "before 1970"),
    ("time_zero", f'expiry-time="19700101Z" {A}', "before 1970"),
    ("time_no_month_at_all", f'expiry-time="2030" {A}', "its form is YYYYMMDD"),
    ("time_with_dashes", f'expiry-time="2030-01-01" {A}', "its form is YYYYMMDD"),
    ("time_empty", f'expiry-time="" {A}', "its form is YYYYMMDD"),
    ("time_in_other_digits", f'expiry-time="２０３００１０１" {A}', "its form is YYYYMMDD"),
    ("time_of_another_zone", f'expiry-time="20300101+01" {A}', "its form is YYYYMMDD"),
    ("form_feed_before", "\f" + A, NO_KEY),
    ("ssh1", "1024 35 1415926535897932384626433", NO_KEY),
    ("known_hosts", f"example.com {A}", "an unknown option: example.com"),
    ("private_key", "-----BEGIN OPENSSH PRIVATE KEY-----", NO_KEY),
    ("binary", bytes(range(11, 256)), NO_KEY),
    ("bell", "\a\x1b[2J ssh-", r"an? key.*: \\x07\\x1b\[2J"),
]


@pytest.mark.parametrize(
    ("text", "what"), [(text, what) for _, text, what in BAD_LINES], ids=[name for name, _, _ in BAD_LINES]
)
async def test_a_line_that_cannot_be_used_admits_nobody_and_the_others_count(
    path: Path, text: str | bytes, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = AuthorizedKeys(write(path, "# first", text, B))
    assert not await welcomes(policy, ADA.id)
    assert not await welcomes(policy, EVE.id)
    assert await welcomes(policy, BOB.id)
    assert policy.peers == {BOB.id}
    (problem,) = policy.problems
    assert (problem.path, problem.line) == (path, 2)
    assert str(problem).startswith(f"{path}, line 2: ")
    assert str(problem).endswith(".")
    assert str(problem).isprintable()
    assert len(str(problem)) < 400
    with pytest.raises(BadFile, match=what):
        raise problem
    assert [(record.name, record.levelno) for record in caplog.records] == [("trishake", logging.WARNING)]
    assert caplog.messages == [str(problem)]


GOOD_LINES: Final[list[tuple[str, str | bytes]]] = [
    ("bare", A),
    ("without_a_comment", line_of(ADA.id)),
    ("leading_blanks", f" \t {A}"),
    ("trailing_blanks", f"{line_of(ADA.id)} \t"),
    ("many_blanks", A.replace(" ", " \t ", 1)),
    ("crlf", A + "\r"),
    ("crlf_without_a_comment", line_of(ADA.id) + "\r"),
    ("comment_in_another_encoding", A.encode() + b" \xff\xfe"),
    ("comment_with_a_quote", A + ' "'),
    ("comment_like_a_key", f"{A} {RSA}"),
    ("escaped_quotes", f'environment="A=\\"b c\\"",from="*" {A}'),
    ("backslashes", f'environment="A=b\\\\c\\d" {A}'),
    ("a_key_in_a_value", f'environment="{line_of(EVE.id)}" {A}'),
    ("as_long_as_may_be", A + "x" * (2**13 - len(A))),
    ("blank_in_a_value", f'permitopen="a b" {A}'),
    ("unix_path", f'from="/run/*,192.0.2.7" {A}'),
    *(
        (option.partition("=")[0], f"{option} {A}")
        for option in (
            *("agent-forwarding", "no-agent-forwarding", "port-forwarding", "no-port-forwarding", "pty"),
            *("no-pty", "user-rc", "no-user-rc", "X11-forwarding", "no-X11-forwarding", "restrict"),
            *("no-touch-required", "verify-required", 'environment="NAME=value"', 'permitopen="host:22"'),
            *('permitlisten="8080"', 'tunnel="1"', "RESTRICT", "no-x11-FORWARDING", 'Tunnel="1"', 'FROM="*"'),
            *('restrict,pty,environment="A=b",permitopen="a:1",permitopen="b:2"',),
        )
    ),
]


@pytest.mark.parametrize("text", [text for _, text in GOOD_LINES], ids=[name for name, _ in GOOD_LINES])
async def test_a_line_as_sshd_takes_it_admits(path: Path, text: str | bytes) -> None:
    policy = AuthorizedKeys(write(path, text))
    assert policy.problems == ()
    assert policy.peers == {ADA.id}
    assert await welcomes(policy, ADA.id)
    assert not await welcomes(policy, EVE.id)


def crlf(*lines: str) -> bytes:
    return b"".join(line.encode() + b"\r\n" for line in lines)


FILES: Final[list[tuple[str, bytes, set[PeerId], list[int]]]] = [
    ("empty", b"", set(), []),
    ("one_newline", b"\n", set(), []),
    ("no_newline_at_the_end", A.encode(), {ADA.id}, []),
    ("crlf", crlf("# c", "", A, "nonsense", B), {ADA.id, BOB.id}, [4]),
    ("carriage_returns_only", f"{A}\r{B}".encode(), {ADA.id}, []),  # one line, as for sshd
    ("byte_order_mark", b"\xef\xbb\xbf" + f"{A}\n{B}\n".encode(), {BOB.id}, [1]),
    ("utf_16", f"{A}\n{B}\n".encode("utf-16"), set(), [1, 2, 3]),
    ("duplicates", f"{A}\n{B}\n{A}\n{A}\n".encode(), {ADA.id, BOB.id}, []),
    ("comments", f"#{A}\n  # {B}\n#\n".encode(), set(), []),
    ("huge_comment", b"#" * 2**14 + f"\n{A}\n".encode(), {ADA.id}, []),
    ("truncated", f"{A}\n{B}".encode()[:-1], {ADA.id}, [2]),
    ("a_gap_of_zeros", f"{A}\n".encode() + bytes(4096) + f"{B}\n".encode(), {ADA.id}, [2]),
    ("broken_lines", "\n".join(A.split()).encode(), set(), [1, 2, 3]),
    ("other_line_ends", f"# c\v{A}\f{A}\x85{A}\u2028{A}".encode(), set(), []),
    ("a_million_lines", b"\n" * 1_000_000 + A.encode(), {ADA.id}, []),
    ("as_large_as_may_be", f"{A}\n#".encode().ljust(2**20, b"x"), {ADA.id}, []),
]


@pytest.mark.parametrize(("data", "peers", "lines"), [row[1:] for row in FILES], ids=[name for name, *_ in FILES])
async def test_who_is_welcome_by_a_file(path: Path, data: bytes, peers: set[PeerId], lines: list[int]) -> None:
    path.write_bytes(data)
    policy = AuthorizedKeys(path)
    assert policy.peers == peers
    assert [problem.line for problem in policy.problems] == lines
    assert {one.id for one in (ADA, BOB, EVE) if await welcomes(policy, one.id)} == peers


def test_a_byte_order_mark_is_called_so(path: Path) -> None:
    policy = AuthorizedKeys(write(path, b"\xef\xbb\xbf" + A.encode()))
    assert [str(problem) for problem in policy.problems] == [
        f"{path}, line 1: a byte order mark before the line. Save the file without one."
    ]


def _private_key(path: Path) -> None:
    Identity.generate().save(path)


def _key_in_pkcs8(path: Path) -> None:
    Identity.generate().save(path, format="pkcs8")


def _network(path: Path) -> None:
    Network.new("home").save(path)


@pytest.mark.parametrize("save", [_private_key, _key_in_pkcs8, _network])
def test_of_a_file_of_secrets_given_by_mistake_nothing_is_shown(
    path: Path, save: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(path)
    policy = AuthorizedKeys(path)
    told = caplog.text + "".join(map(repr, policy.problems)) + repr(policy) + repr(vars(policy)["_contents"])
    lines = [line for line in path.read_text().splitlines() if line[0] not in "-#" and not line.startswith("name")]
    assert policy.problems
    assert lines
    for line in lines:
        word = line.removeprefix("key psk-")
        assert not any(word[start : start + 8] in told for start in range(len(word) - 7))


def test_of_many_bad_lines_a_hundred_are_told_and_the_rest_counted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = AuthorizedKeys(write(path, *["x"] * 150, *[A + "\0"] * 100, B))
    assert [problem.line for problem in policy.problems] == list(range(1, 101))
    assert policy.peers == {BOB.id}
    assert caplog.messages == [*map(str, policy.problems), f"{path}: 150 more lines admit nobody"]


def test_of_a_megabyte_of_bad_lines_only_those_that_are_kept_are_put_in_words(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message for each would hold everybody up for seconds."""
    made: list[object] = []

    class Counted(_Unusable):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr("trishake._authorized_keys._Unusable", Counted)
    path.write_bytes(b"x\n" * 2**19)
    policy = AuthorizedKeys(path)
    assert len(policy.problems) == len(made) == 100


async def test_a_key_that_a_bad_option_bars_is_told_by_its_line(path: Path) -> None:
    policy = AuthorizedKeys(write(path, "", f'command="ls" {A}', f"nonsense {A}"))
    advice = await why(policy, ADA.id)
    assert f"{path}, line 2: its key is limited to one command" in advice
    assert f"{path}, line 3: an unknown option: nonsense" in advice


async def test_any_line_that_admits_is_enough(path: Path) -> None:
    lines = (f'command="ls" {A}', f'from="10.0.0.0/8" {A}', f'expiry-time="20010101" {A}')
    policy = AuthorizedKeys(write(path, *lines))
    assert not await welcomes(policy, ADA.id)
    advice = await why(policy, ADA.id)
    for number, what in enumerate(("one command", "not good from 192.0.2.7", "expired on 2001-01-01 00:00:00"), 1):
        assert f"{path}, line {number}: " in advice
        assert what in advice
    assert await welcomes(policy, ADA.id, "10.1.2.3:1")
    write(path, *lines, A)
    assert await welcomes(policy, ADA.id)


async def test_of_a_key_with_many_lines_a_hundred_say_why(path: Path) -> None:
    policy = AuthorizedKeys(write(path, *[f'from="10.0.0.0/8" {A}'] * 150))
    advice = await why(policy, ADA.id)
    assert advice.count(": its key is not good from 192.0.2.7") == 100
    assert f"{path}, line 100: " in advice


# --- from= ----------------------------------------------------------------------------------------------

V6: Final = "[2001:db8::7]:4711"

FROM: Final[list[tuple[str, str | None, bool]]] = [
    # PATTERNS of ssh_config(5)
    ("*", WHERE, True),
    ("192.0.2.*", WHERE, True),
    ("192.0.2.?", WHERE, True),
    ("192.0.2.??", WHERE, False),
    ("192.0.2.?", "192.0.2.17:4711", False),
    ("192.0.1.*", WHERE, False),
    ("192.0.2.7", WHERE, True),
    ("192.0.2.7", "192.0.2.70:4711", False),
    ("192.0.2.7", "1192.0.2.7:4711", False),
    ("192.0.2.7*", "192.0.2.70:4711", True),
    ("*.example.com", "ada.example.com:4711", True),
    ("*.EXAMPLE.com", "Ada.Example.COM:4711", True),
    ("*.example.com", "example.com:4711", False),
    ("*.example.com", "ada.example.com.evil.test:4711", False),
    ("[a]", "a:4711", False),
    ("[a]*", "[a]x", True),
    # lists, and negation
    ("10.0.0.1,192.0.2.7", WHERE, True),
    ("10.0.0.1,10.0.0.2", WHERE, False),
    ("!192.0.2.7,*", WHERE, False),
    ("*,!192.0.2.7", WHERE, False),
    ("192.0.2.*,!192.0.2.8", WHERE, True),
    ("192.0.2.0/24,!192.0.2.0/29", WHERE, False),
    ("192.0.2.0/24,!192.0.2.0/29", "192.0.2.8:4711", True),
    ("!*.evil.test,*", "a.evil.test:4711", False),
    ("!*.evil.test,*", "a.good.test:4711", True),
    # CIDR, address/length
    ("192.0.2.0/24", WHERE, True),
    ("192.0.3.0/24", WHERE, False),
    ("192.0.2.7/32", WHERE, True),
    ("192.0.2.6/32", WHERE, False),
    ("0.0.0.0/0", WHERE, True),
    ("0.0.0.0/0", V6, False),
    ("::/0", V6, True),
    ("::/0", WHERE, False),
    ("2001:db8::/32", V6, True),
    ("2001:db9::/32", V6, False),
    ("2001:db8::7", V6, True),
    ("2001:0DB8:0::7", V6, True),
    ("2001:db8::8", V6, False),
    ("2001:db8:*", V6, True),
    ("2001:db8:*", "[2001:0db8:0:0::7]:4711", True),
    ("*,!2001:db8::/32", V6, False),
    ("fe80::/10", "[fe80::1%eth0]:4711", True),
    ("*,!fe80::/10", "[fe80::1%eth0]:4711", False),
    # IPv4 in IPv6 counts as IPv4
    ("192.0.2.0/24", "[::ffff:192.0.2.7]:4711", True),
    ("192.0.2.7", "[::ffff:c000:207]:4711", True),
    ("192.0.2.*", "[::ffff:c000:207]:4711", True),
    ("*,!192.0.2.0/24", "[::ffff:192.0.2.7]:4711", False),
    ("*,!192.0.2.*", "[::ffff:192.0.2.7]:4711", False),
    ("::ffff:192.0.2.0/120", WHERE, True),
    ("*,!::ffff:192.0.2.0/120", WHERE, False),
    ("*,!::ffff:192.0.2.7", "[::ffff:192.0.2.7]:4711", False),
    # other kinds of addresses
    ("*", None, False),
    ("192.0.2.7,*", None, False),
    ("/run/ada/*", "/run/ada/socket", True),
    ("/run/ada/*", "/run/eve/socket", False),
    ("/run/ada/*", "/run/ada/socket:1", True),
    ('/run/\\"ada\\"/*', '/run/"ada"/socket', True),
    ('*,!/run/\\"ada\\"/*', '/run/"ada"/socket', False),
    ("bob", "bob", True),
    ("bob", "bobby", False),
    ("192.0.2.0/24", "bob", False),
    ("192.0.2.0/24", "192.0.2.7", True),
    ("2001:db8::7", "2001:db8::7", True),
    ("2001:db8::7", "[2001:db8::7]", True),
    ("*,!192.0.2.0/24", "bob.test:4711", False),  # nobody has looked up where that is
    ("*", "", True),
]


@pytest.mark.parametrize(("patterns", "address", "welcome"), FROM)
async def test_from_says_where_a_key_is_good(
    path: Path, patterns: str, address: str | None, welcome: bool
) -> None:
    policy = AuthorizedKeys(write(path, line_of(ADA.id, f'from="{patterns}"')))
    assert policy.problems == ()
    assert policy.peers == {ADA.id}
    assert await welcomes(policy, ADA.id, address) is welcome
    assert not await welcomes(policy, EVE.id, address)


@pytest.mark.parametrize(
    ("address", "what"), [(WHERE, "not good from 192.0.2.7 (from=)"), (None, "the peer has no address")]
)
async def test_who_comes_from_elsewhere_learns_nothing_and_we_learn_the_line(
    path: Path, address: str | None, what: str
) -> None:
    policy = AuthorizedKeys(write(path, B, f'from="10.0.0.0/8" {A}'))
    assert await why(policy, ADA.id, address) == f"{path}, line 2: " + (
        f"its key is {what}." if address else f"its key is good from some addresses only (from=), and {what}."
    )


async def test_a_pattern_of_many_stars_is_matched_without_trying_every_way(path: Path) -> None:
    """Which would not end within our lifetime."""
    policy = AuthorizedKeys(write(path, f'from="{"*a" * 2000}b" {A}'))
    assert not await welcomes(policy, ADA.id, f"{'a' * 250}:1")


# --- expiry-time= ---------------------------------------------------------------------------------------


def stamp(seconds_from_now: float, form: str, *, utc: bool = False) -> str:
    moment = time.time() + seconds_from_now
    return time.strftime(form, time.gmtime(moment) if utc else time.localtime(moment)) + ("Z" if utc else "")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
@pytest.mark.parametrize("utc", [False, True])
@pytest.mark.parametrize(
    ("seconds", "form", "welcome"),
    [
        (60, "%Y%m%d%H%M%S", True),
        (-60, "%Y%m%d%H%M%S", False),
        (120, "%Y%m%d%H%M", True),
        (-120, "%Y%m%d%H%M", False),
        (2 * 86400, "%Y%m%d", True),
        (-2 * 86400, "%Y%m%d", False),
        (10**9, "%Y%m%d", True),
        (-(10**9), "%Y%m%d", False),
    ],
)
async def test_a_key_is_good_until_it_expires(
    path: Path, monkeypatch: pytest.MonkeyPatch, zone: str, utc: bool, seconds: float, form: str, welcome: bool
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        policy = AuthorizedKeys(write(path, f'expiry-time="{stamp(seconds, form, utc=utc)}" {A}'))
        assert policy.problems == ()
        assert await welcomes(policy, ADA.id) is welcome
        assert policy.peers == ({ADA.id} if welcome else set())
        if not welcome:
            assert f"{path}, line 1: its key expired on " in await why(policy, ADA.id)
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_a_key_expires_while_the_file_stays_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, f'expiry-time="{stamp(60, "%Y%m%d%H%M%S")}" {A}')
    policy = AuthorizedKeys(path)
    now = time.time()
    assert await welcomes(policy, ADA.id)
    monkeypatch.setattr(time, "time", lambda: now + 58)
    assert await welcomes(policy, ADA.id)
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert not await welcomes(policy, ADA.id)
    assert policy.peers == set()


@pytest.mark.parametrize(
    "options",
    [
        'expiry-time="20010101",expiry-time="20990101"',
        'expiry-time="20990101",expiry-time="20010101"',
        'from="*",expiry-time="20010101"',
        'EXPIRY-TIME="20010101"',
    ],
)
async def test_the_first_time_counts_and_no_other_option_outweighs_it(path: Path, options: str) -> None:
    policy = AuthorizedKeys(write(path, f"{options} {A}"))
    assert not policy.problems
    assert not await welcomes(policy, ADA.id)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    ("text", "for_date"),
    [
        ("20300101", "2030-01-01 00:00:00"),
        ("20300715", "2030-07-15 00:00:00"),
        ("203007151234", "2030-07-15 12:34:00"),
        ("20300715123456", "2030-07-15 12:34:56"),
        ("20300715Z", "2030-07-15 00:00:00 UTC"),
        ("203007151234z", "2030-07-15 12:34:00 UTC"),
        ("20280229235959Z", "2028-02-29 23:59:59 UTC"),
        ("99991231235959", "9999-12-31 23:59:59"),
    ],
)
def test_a_time_is_what_date_takes_it_for(
    monkeypatch: pytest.MonkeyPatch, zone: str, text: str, for_date: str
) -> None:
    expected = subprocess.run(
        ("date", "-d", for_date, "+%s"), capture_output=True, check=True, env={"TZ": zone, "PATH": "/bin:/usr/bin"}
    )
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert _parse_time(text) == int(expected.stdout)
    finally:
        monkeypatch.undo()
        time.tzset()


# --- the file changes -----------------------------------------------------------------------------------


async def test_what_is_added_and_removed_counts_at_once(path: Path) -> None:
    policy = AuthorizedKeys(write(path, A))
    for lines, peers in (((A, B), {ADA.id, BOB.id}), ((B,), {BOB.id}), ((), set()), ((A,), {ADA.id})):
        write(path, *lines)
        assert {one.id for one in (ADA, BOB) if await welcomes(policy, one.id)} == peers
        assert policy.peers == peers


def _delete(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    os.truncate(path, 0)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 30)


def _replace(path: Path) -> None:
    os.replace(write(path.with_name("new"), B), path)


def _rename(path: Path) -> None:
    path.rename(path.with_name("old"))


def _rename_its_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))


def _let_others_write(path: Path) -> None:
    path.chmod(0o666)


def _comment_out(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"#" + data[1:])


def _same_size(path: Path) -> None:
    write(path, line_of(BOB.id, comment="ada@home"))


def _same_size_and_times(path: Path) -> None:
    before = path.stat()
    _same_size(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: Final = [_delete, _truncate, _cut, _replace, _rename, _rename_its_directory, _let_others_write]
CHANGES += [_comment_out, _same_size, _same_size_and_times]


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_who_is_taken_out_of_the_file_is_locked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], settled: bool
) -> None:
    """settled: the file is old enough to be read no more while a look at it says that it is the same."""
    path = tmp_path / "ssh" / "authorized_keys"
    path.parent.mkdir()
    write(path, A)
    if settled:
        monkeypatch.setattr("trishake._files._COARSEST_TICK", 0)
        await trio.sleep(0.02)  # more than a tick of any kernel
    policy = AuthorizedKeys(path)
    assert (policy._version is not None) is settled
    assert await welcomes(policy, ADA.id)
    change(path)
    assert not await welcomes(policy, ADA.id)
    assert ADA.id not in policy.peers


def _coarse(status: os.stat_result) -> tuple[int, ...]:
    """As FAT has it: times in steps of two seconds."""
    step = 2 * 10**9
    times = (status.st_mtime_ns // step * step, status.st_ctime_ns // step * step)
    return status.st_dev, status.st_ino, status.st_size, *times


@pytest.mark.parametrize("backdate", [False, True])
async def test_changes_within_one_tick_of_the_clock_are_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch, backdate: bool
) -> None:
    """In place and of one size, they leave no other mark; so a young file is read each time."""
    monkeypatch.setattr("trishake._files._version", _coarse)
    write(path, A)
    before = path.stat().st_mtime_ns - 3600 * 10**9
    policy = AuthorizedKeys(path)
    for _ in range(10):
        for here, gone in ((BOB, ADA), (ADA, BOB)):
            with path.open("r+b") as file:
                file.write(line_of(here.id).encode())
            if backdate:
                os.utime(path, ns=(before, before))
            assert policy.peers == {here.id}
            assert not await welcomes(policy, gone.id)


async def test_a_settled_file_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trishake._files._COARSEST_TICK", 0)
    write(path, A)
    await trio.sleep(0.02)
    policy = AuthorizedKeys(path)
    monkeypatch.setattr(os, "open", _no_descriptor_left)
    assert await welcomes(policy, ADA.id)
    assert policy.peers == {ADA.id}


async def test_each_version_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = AuthorizedKeys(write(path, "nonsense"))
    for _ in range(3):
        assert not await welcomes(policy, ADA.id)
    assert len(caplog.records) == 1
    write(path, "nonsense", A, "other nonsense")
    for _ in range(3):
        assert await welcomes(policy, ADA.id)
    assert [f"line {number}: " in message for number, message in zip((1, 1, 3), caplog.messages, strict=True)]
    caplog.clear()
    path.unlink()
    for _ in range(3):
        assert "there is no such file. Nobody is welcome until it is back." in await why(policy, ADA.id)
    path.symlink_to(path)
    for _ in range(3):
        assert "symbolic links" in await why(policy, ADA.id)
    assert [(record.name, record.levelno) for record in caplog.records] == [("trishake", logging.ERROR)] * 2
    assert all(message.startswith(f"nobody is welcome: {path}: ") for message in caplog.messages)


async def test_a_file_that_comes_back_as_it_was_is_taken_up_and_its_problems_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = AuthorizedKeys(write(path, A, "nonsense"))
    saved = path.with_name("saved")
    path.rename(saved)
    assert not await welcomes(policy, ADA.id)
    saved.rename(path)
    assert await welcomes(policy, ADA.id)
    assert [problem.line for problem in policy.problems] == [2]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR, logging.WARNING]


# --- damage ---------------------------------------------------------------------------------------------

VALID: Final = "\n".join(
    (
        "# those of home",
        A,
        line_of(BOB.id, 'from="192.0.2.0/24,!192.0.2.9"', "bob"),
        line_of(CARL.id, 'command="echo \\"hi\\"",restrict'),
        RSA,
        "",
    )
).encode()
KNOWN: Final = {ADA.id, BOB.id}


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The valid file after a few strokes of fate."""
    data = bytearray(VALID)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 12))
        match draw(st.sampled_from(["flip", "delete", "insert", "duplicate", "truncate", "swap"])):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "delete":
                del data[start : start + length]
            case "insert":
                pieces = st.sampled_from(
                    [b"\n", b'"', b" ", b",", b"\\", b"#", b"\r", b"\0", b"=", b"from=", b"A"]
                )
                data[start:start] = draw(pieces | st.binary(min_size=1, max_size=12))
            case "duplicate":
                data[start:start] = data[start : start + draw(st.integers(1, 200))]
            case "truncate":
                del data[start:]
            case _:
                data[start:] = data[start + length :] + data[start : start + length]
    return bytes(data)


def exact_keys(data: bytes) -> set[PeerId]:
    """Whoever's 68 letters stand somewhere in the file, behind the word for the type."""
    found = set()
    for rest in data.split(b"ssh-ed25519")[1:]:
        letters = rest.lstrip(b" \t")[:68]
        try:
            key = base64.b64decode(letters, validate=True)
            if key.startswith(ED25519) and len(key) == 51:
                found.add(PeerId(key[-32:]))
        except ValueError:
            pass
    return found


@given(damaged())
@example(VALID)
@settings(max_examples=400, deadline=None)
def test_no_damage_lets_anybody_in_who_has_no_line(data: bytes) -> None:
    contents = _parse(Path("authorized_keys"), data)
    admitted = {
        who
        for who, lines in contents.lines.items()
        for line in lines
        if line.objection("192.0.2.7", time.time()) is None
    }
    assert admitted <= exact_keys(data)
    if data == VALID:
        assert admitted == KNOWN
    assert all(problem.line and str(problem).isprintable() for problem in contents.problems)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_of_noise_nobody_is_admitted(data: bytes) -> None:
    assert not _parse(Path("authorized_keys"), data).lines


@given(st.binary(max_size=60))
@settings(max_examples=400, deadline=None)
def test_no_damage_to_the_options_turns_a_limited_key_into_a_good_one(data: bytes) -> None:
    """Of one command; unless a line ends before the key, the option is still there, or the line is no good."""
    limited = b"".join(byte.to_bytes() for byte in data if byte not in b"\n#")
    text = b'command="ls",' + limited + b" " + line_of(ADA.id).encode()
    lines = _parse(Path("authorized_keys"), text).lines.get(ADA.id, [])
    assert all(line.barred for line in lines)


# --- over real peers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [ANYWHERE, MEM])
async def test_a_listener_takes_those_of_the_file_and_a_change_of_it_counts_for_the_next(
    path: Path, where: str
) -> None:
    policy = AuthorizedKeys(write(path, B))
    watch = Watch()
    async with peer(BOB, trust=policy, observers=[watch]) as bob, peer(ADA) as ada:
        listener = await bob.listen(where)
        with pytest.raises(Rejected) as refused:
            await ada.dial(listener.invite)
        assert refused.value.reason is VerdictCode.IDENTITY_UNKNOWN
        assert refused.value.text is None
        error = await watch.wait_failed()
        assert isinstance(error, Untrusted)
        assert f"add a line with {line_of(ADA.id)} to {path}" in str(error)
        write(path, A)
        async with await ada.dial(listener.invite) as connection:
            assert connection.peer == BOB.id
        path.unlink()
        with pytest.raises(Rejected):
            await ada.dial(listener.invite)


async def test_a_dialer_takes_those_of_the_file(path: Path) -> None:
    policy = AuthorizedKeys(write(path, A))
    watch = Watch()
    async with peer(BOB, observers=[watch]) as bob, peer(ADA, trust=policy) as ada:
        listener = await bob.listen(ANYWHERE)
        with pytest.raises(Untrusted, match=f"{path}") as refused:
            await ada.dial(listener.invite)
        assert line_of(BOB.id) in str(refused.value)
        assert (await watch.wait_failed()).peer is None  # she left without a word about herself
        with path.open("a") as file:
            file.write(B + "\n")
        async with await ada.dial(listener.invite) as connection:
            assert connection.peer == BOB.id


async def test_both_sides_may_have_one(path: Path) -> None:
    at_ada, at_bob = write(path.with_name("ada"), B), write(path.with_name("bob"), A)
    async with (
        peer(BOB, trust=AuthorizedKeys(at_bob)) as bob,
        peer(ADA, trust=AuthorizedKeys(at_ada)) as ada,
        peer(EVE) as eve,
    ):
        listener = await bob.listen(ANYWHERE)
        async with await ada.dial(listener.invite) as connection:
            assert connection.peer == BOB.id
        with pytest.raises(Rejected):
            await eve.dial(listener.invite)


@pytest.mark.parametrize(
    ("where", "patterns", "welcome"),
    [
        (ANYWHERE, "127.0.0.0/8", True),
        (ANYWHERE, "10.0.0.0/8", False),
        (ANYWHERE, "*,!127.0.0.1", False),
        ("tcp://[::1]:0", "::1", True),
        ("tcp://[::1]:0", "127.0.0.1", False),
        (MEM, "*", False),
        ("unix://{}/socket", "*", False),
    ],
)
async def test_from_is_where_the_dialer_is(path: Path, where: str, patterns: str, welcome: bool) -> None:
    policy = AuthorizedKeys(write(path, f'from="{patterns}" {A}'))
    async with peer(BOB, trust=policy) as bob, peer(ADA) as ada:
        listener = await bob.listen(where.format(path.parent))
        if welcome:
            async with await ada.dial(listener.invite) as connection:
                assert connection.peer == BOB.id
        else:
            with pytest.raises(Rejected):
                await ada.dial(listener.invite)


@pytest.mark.parametrize(
    ("where", "patterns", "welcome"),
    [
        (ANYWHERE, "127.0.0.1", True),
        (ANYWHERE, "10.0.0.0/8", False),
        (MEM, "bob", True),
        (MEM, "eve", False),
        ("unix://{}/socket", "/*/socket", True),
        ("unix://{}/socket", "/run/*", False),
    ],
)
async def test_from_is_what_was_dialed(path: Path, where: str, patterns: str, welcome: bool) -> None:
    policy = AuthorizedKeys(write(path, f'from="{patterns}" {B}'))
    async with peer(BOB) as bob, peer(ADA, trust=policy) as ada:
        listener = await bob.listen(where.format(path.parent))
        if welcome:
            async with await ada.dial(listener.invite) as connection:
                assert connection.peer == BOB.id
        else:
            with pytest.raises(Untrusted):
                await ada.dial(listener.invite)
