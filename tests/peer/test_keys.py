"""_keys.py: identities in files, with the real ssh-keygen and openssl at the other end."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import trishake_protocol
from trishake._errors import BadFile, WrongPassword
from trishake._keys import Identity

from .conftest import everything_of, written

SEED: Final = bytes(range(100, 132))
KEY: Final = Ed25519PrivateKey.from_private_bytes(SEED)
POINT: Final = KEY.public_key().public_bytes_raw()
OTHER_POINT: Final = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
PASSWORD: Final = "Pässword of 3 words"

FORMATS: Final = pytest.mark.parametrize("format_", ["openssh", "pkcs8"])


def run(program: str, *arguments: str | Path) -> str:
    """What the program prints. Without it there is no test: to skip would hide that nothing was tested."""
    if shutil.which(program) is None:
        pytest.fail(f"{program} is not installed; these tests need it (packages openssh-client and openssl)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def made_by_ssh_keygen(path: Path, kind: str = "ed25519", password: str = "", *more: str) -> Path:
    run("ssh-keygen", "-q", "-t", kind, "-N", password, "-a", "1", "-C", "a comment", *more, "-f", path)
    return path


def public_key_by_ssh_keygen(path: Path, password: str = "") -> bytes:
    kind, encoded = run("ssh-keygen", "-y", "-P", password, "-f", path).split()[:2]
    assert kind == "ssh-ed25519"
    return base64.b64decode(encoded)[-32:]


def public_key_by_openssl(path: Path, password: str = "") -> bytes:
    pem = run("openssl", "pkey", "-in", path, "-passin", f"pass:{password}", "-pubout")
    return base64.b64decode("".join(pem.splitlines()[1:-1]))[-32:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "id_ed25519"


# --- from others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["", PASSWORD, "x" * 100])
def test_a_key_of_ssh_keygen_works_as_it_is(path: Path, password: str) -> None:
    made_by_ssh_keygen(path, "ed25519", password)
    identity = Identity.load(path, password=password or None)
    assert identity.id.key == public_key_by_ssh_keygen(path, password)
    assert type(identity) is Identity


@pytest.mark.parametrize("cipher", ["aes128-cbc", "aes256-gcm@openssh.com"])
def test_a_key_that_ssh_keygen_has_encrypted_in_another_way(path: Path, cipher: str) -> None:
    made_by_ssh_keygen(path, "ed25519", PASSWORD, "-Z", cipher)
    if cipher == "aes128-cbc":
        with pytest.raises(BadFile, match=r"encrypted with aes128-cbc.*ssh-keygen -p -f"):
            Identity.load(path, password=PASSWORD)
        return
    assert Identity.load(path, password=PASSWORD).id.key == public_key_by_ssh_keygen(path, PASSWORD)
    with pytest.raises(WrongPassword):
        Identity.load(path, password="another")


@pytest.mark.parametrize("password", ["", PASSWORD])
def test_a_key_of_openssl_works_as_it_is(path: Path, password: str) -> None:
    encryption = ["-aes256", "-pass", f"pass:{password}"] if password else []
    run("openssl", "genpkey", "-algorithm", "ed25519", *encryption, "-out", path)
    path.chmod(0o600)
    identity = Identity.load(path, password=password or None)
    assert identity.id.key == public_key_by_openssl(path, password)


def test_a_file_with_windows_line_ends_and_text_around_the_key(path: Path) -> None:
    pem = pkcs8(KEY).replace(b"\n", b"\r\n")
    assert Identity.load(written(path, b"Key of Ada:\r\n\r\n" + pem + b"\r\n")).id.key == POINT
    assert Identity.load(written(path, openssh_file().replace(b"\n", b"\r\n"))).id.key == POINT


def test_a_file_with_the_public_key_beside_the_private_one(path: Path) -> None:
    assert Identity.load(written(path, PUBLIC_LINE + b" ada@home\n" + OPENSSH)).id.key == POINT


def test_a_password_for_a_file_that_is_not_encrypted_is_not_asked_for(path: Path) -> None:
    def never() -> str:
        raise AssertionError("asked")

    for content in (openssh_file(), pkcs8(KEY)):
        written(path, content)
        assert Identity.load(path, password=never).id.key == POINT
        assert Identity.load(path, password="of another file").id.key == POINT


# --- to others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, PASSWORD, b"\xff of bytes", "x" * 100])
@FORMATS
def test_an_identity_is_the_same_out_of_its_file(
    path: Path, format_: Literal["openssh", "pkcs8"], password: str | bytes | None
) -> None:
    identity = Identity.from_seed(SEED)
    identity.save(path, format=format_, password=password)
    assert Identity.load(path, password=password).id == identity.id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]
    assert (b"BEGIN OPENSSH PRIVATE KEY" in path.read_bytes()) is (format_ == "openssh")
    if password is not None:
        assert b"ENCRYPTED" in path.read_bytes() or b"aes256" in base64.b64decode(inside(path.read_bytes()))
        with pytest.raises(WrongPassword, match="no password was given"):
            Identity.load(path)


@pytest.mark.parametrize("password", ["", PASSWORD])
def test_ssh_keygen_reads_what_was_saved(path: Path, password: str) -> None:
    identity = Identity.generate()
    identity.save(path, password=password or None)
    assert public_key_by_ssh_keygen(path, password) == identity.id.key


@pytest.mark.parametrize("password", ["", PASSWORD])
def test_openssl_reads_what_was_saved_as_pkcs8(path: Path, password: str) -> None:
    identity = Identity.generate()
    identity.save(path, password=password or None, format="pkcs8")
    assert public_key_by_openssl(path, password) == identity.id.key


def test_an_identity_is_encrypted_with_as_many_rounds_as_ssh_keygen_takes(path: Path) -> None:
    Identity.from_seed(SEED).save(path, password=PASSWORD)
    raw = base64.b64decode(inside(path.read_bytes()))
    options = raw.index(b"bcrypt") + len(b"bcrypt") + 4
    salt = struct.unpack_from(">I", raw, options)[0]
    assert struct.unpack_from(">I", raw, options + 4 + salt)[0] == 24


@pytest.mark.parametrize("password", ["", b"", lambda: ""])
@FORMATS
def test_an_empty_password_encrypts_nothing(path: Path, format_: Any, password: Any) -> None:
    with pytest.raises(ValueError, match="an empty password"):
        Identity.generate().save(path, password=password, format=format_)
    assert os.listdir(path.parent) == []


def test_another_format_is_none(path: Path) -> None:
    with pytest.raises(ValueError, match="'openssh' and 'pkcs8'"):
        Identity.generate().save(path, format="ppk")  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["a file", "a directory", "a link that leads nowhere"])
def test_what_is_there_is_not_overwritten(path: Path, what: str) -> None:
    if what == "a file":
        path.write_text("precious")
    elif what == "a directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    before = path.lstat()
    with pytest.raises(FileExistsError):
        Identity.generate().save(path)
    assert path.lstat() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_directory_that_is_not_there_is_not_made_by_save(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Identity.generate().save(tmp_path / "no" / "key")
    assert os.listdir(tmp_path) == []


def test_where_the_disk_is_full_nothing_is_left(path: Path) -> None:
    code = (
        "import resource, sys; from trishake._keys import Identity\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: Identity.generate().save(sys.argv[1])\n"
        "except OSError as error: print(error.strerror)"
    )
    assert python(code, path) == "File too large\n"
    assert os.listdir(path.parent) == []


def python(code: str, *arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- passwords ------------------------------------------------------------------------------------------


@cache
def encrypted(format_: str) -> bytes:
    encryption: KeySerializationEncryption
    if format_ == "pkcs8":
        return KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode()))
    encryption = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(1).build(PASSWORD.encode())
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption)


@pytest.mark.parametrize(
    ("password", "message"),
    [
        (None, "no password was given"),
        ("", "the password given is empty"),
        (lambda: b"", "the password given is empty"),
        (PASSWORD + " ", "does not open with this password"),
        (PASSWORD.encode("latin-1"), "does not open with this password"),
        (lambda: "geheim", "does not open with this password"),
    ],
)
@FORMATS
def test_a_wrong_password_is_told_from_none(path: Path, format_: str, password: Any, message: str) -> None:
    with pytest.raises(WrongPassword, match=message) as caught:
        Identity.load(written(path, encrypted(format_)), password=password)
    assert caught.value.path == path


@FORMATS
def test_a_function_is_asked_for_the_password_once(path: Path, format_: str) -> None:
    asked = []

    def ask() -> str:
        asked.append(1)
        return PASSWORD

    assert Identity.load(written(path, encrypted(format_)), password=ask).id.key == POINT
    assert len(asked) == 1


@FORMATS
def test_what_the_function_raises_goes_through(path: Path, format_: str) -> None:
    def hang_up() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Identity.load(written(path, encrypted(format_)), password=hang_up)
    with pytest.raises(KeyboardInterrupt):
        Identity.generate().save(path.with_name("new"), password=hang_up)
    with pytest.raises(KeyboardInterrupt):
        Identity.load_or_create(path.with_name("new"), password=hang_up)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("password", [5, lambda: None, lambda: 5])
def test_a_password_is_text_or_bytes(path: Path, password: Any) -> None:
    with pytest.raises(TypeError, match="a password is text or bytes, not"):
        Identity.load(written(path, encrypted("openssh")), password=password)
    with pytest.raises(TypeError, match="a password is text or bytes, not"):
        Identity.generate().save(path.with_name("new"), password=password)


def test_a_password_that_came_through_the_environment_is_its_bytes(path: Path) -> None:
    Identity.from_seed(SEED).save(path, password=b"\xff\xfe", format="pkcs8")
    assert Identity.load(path, password=os.fsdecode(b"\xff\xfe")).id.key == POINT


@FORMATS
@pytest.mark.parametrize("password", ["hunter2-hunter2", "hunter2-hunter2\ud800"])
def test_no_error_shows_a_password(path: Path, format_: str, password: str) -> None:
    with pytest.raises(ValueError if "\ud800" in password else WrongPassword) as caught:
        Identity.load(written(path, encrypted(format_)), password=password)
    assert "hunter2" not in everything_of(caught.value)


def without_bcrypt(code: str, *arguments: str | Path) -> str:
    """In a process in which `import bcrypt` fails."""
    return python(f"import sys; sys.modules['bcrypt'] = None\nfrom trishake._keys import *\n{code}", *arguments)


def test_without_bcrypt_an_encrypted_openssh_key_says_what_to_install(path: Path) -> None:
    written(path, encrypted("openssh"))
    code = "try: Identity.load(sys.argv[1], password=lambda: print('asked'))\nexcept BadFile as e: print(e)"
    message = without_bcrypt(code, path)
    assert "needs the package bcrypt. Run: pip install 'trishake[ssh]'" in message
    assert "asked" not in message
    code = "try: Identity.generate().save(sys.argv[1], password='pw')\nexcept BadFile as e: print(e)"
    message = without_bcrypt(code, path.with_name("new"))
    assert "pip install 'trishake[ssh]', or use format='pkcs8'" in message
    assert os.listdir(path.parent) == [path.name]


def test_without_bcrypt_all_else_goes(path: Path) -> None:
    code = (
        "one = Identity.generate(); one.save(sys.argv[1]); assert Identity.load(sys.argv[1]).id == one.id\n"
        "one.save(sys.argv[1] + '8', format='pkcs8', password='pw')\n"
        "assert Identity.load(sys.argv[1] + '8', password='pw').id == one.id; print('good')"
    )
    assert without_bcrypt(code, path) == "good\n"


# --- what is no identity --------------------------------------------------------------------------------


def pkcs8(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def inside(pem: bytes) -> bytes:
    return b"".join(pem.splitlines()[1:-1])


def armoured(raw: bytes, label: str = "OPENSSH PRIVATE KEY") -> bytes:
    text = base64.encodebytes(raw)
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label.encode(), text, label.encode())


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def openssh_file(
    *,
    outer: bytes = POINT,
    inner: bytes = POINT,
    innermost: bytes = POINT,
    kind: bytes = b"ssh-ed25519",
    public: bytes | None = None,
    cipher: bytes = b"none",
    kdf: bytes = b"none",
    options: bytes = b"",
    keys: int = 1,
    magic: bytes = b"openssh-key-v1\0",
    padding: bytes = b"\x01\x02\x03\x04",
    after: bytes = b"",
) -> bytes:
    """A file in OpenSSH's format, made by hand (its PROTOCOL.key). outer, inner, innermost: the public key."""
    blob = string(kind) + string(outer) if public is None else public
    secret = bytes(8) + string(b"ssh-ed25519") + string(inner) + string(SEED + innermost) + string(b"a") + b""
    secret += padding[: -len(secret) % 8] if padding != b"none" else b""
    head = magic + string(cipher) + string(kdf) + string(options) + struct.pack(">I", keys)
    return armoured(head + string(blob) * keys + string(secret) + after)


def kdf_options(rounds: int, salt: bytes = b"s" * 16) -> bytes:
    return string(salt) + struct.pack(">I", rounds)


def test_the_file_made_by_hand_is_a_good_one(path: Path) -> None:
    assert Identity.load(written(path, openssh_file())).id.key == POINT
    assert public_key_by_ssh_keygen(path) == POINT


OPENSSH: Final = openssh_file()
PUBLIC_LINE: Final = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
PUBLIC_PEM: Final = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
SK: Final = b"sk-ssh-ed25519@openssh.com"
CERTIFICATE_LINE: Final = b"ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAx ada"
DAMAGED: Final = "cut off or damaged"
P256: Final = string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\x04" + bytes(64))

BAD_FILES: Final[dict[str, tuple[bytes, str]]] = {
    "nothing": (b"", "it is empty"),
    "blanks": (b" \r\n\n", "it is empty"),
    "too large": (b"-" * (64 * 1024 + 1), "the limit is 65536"),
    "text": (b"Buy milk.\n", "it is not a private key"),
    "zeros": (bytes(1000), "it is not a private key"),
    "a seed in hex": (SEED.hex().encode(), "it is not a private key"),
    "a seed": (SEED, "it is not a private key"),
    "in DER": (KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "it is not a private key"),
    "a public key": (PUBLIC_LINE + b" ada@home\n", "without `.pub`"),
    "a public key in PEM": (PUBLIC_PEM, "it is a public key"),
    "a public key of RFC 4716": (b"---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n", "it is a public key"),
    "an authorized key": (b"# me\nno-pty ecdsa-sha2-nistp256 AAAAE2VjZHNh a@b\n", "it is a public key"),
    "a certificate of OpenSSH": (CERTIFICATE_LINE, "it is a certificate"),
    "a certificate of X.509": (armoured(b"0\0", "CERTIFICATE"), "it is a certificate"),
    "a request": (armoured(b"0\0", "CERTIFICATE REQUEST"), "it is CERTIFICATE REQUEST, not a private key"),
    "PuTTY's": (b"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "puttygen KEY.ppk -O private-openssh"),
    "two keys": (OPENSSH + pkcs8(KEY), "it holds 2 private keys"),
    "a key and a certificate": (OPENSSH + armoured(b"0\0", "CERTIFICATE"), "it holds more than a private key"),
    "a key and its public half": (pkcs8(KEY) + PUBLIC_PEM, "it holds more than a private key"),
    "no end line": (OPENSSH.rpartition(b"-----END")[0], "its END line is missing"),
    "another end line": (OPENSSH.replace(b"END OPENSSH", b"END"), "its END line is missing"),
    "a begin line alone": (b"-----BEGIN OPENSSH PRIVATE KEY-----", "its END line is missing"),
    "nothing inside": (armoured(b""), DAMAGED),
    "begin and end on one line": (b"-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----", DAMAGED),
    "lines missing": (OPENSSH.replace(OPENSSH.splitlines()[3] + b"\n", b""), DAMAGED),
    "a line of PKCS#8 missing": (armoured(b"", "PRIVATE KEY"), DAMAGED),
    "PKCS#8 cut short": (pkcs8(KEY).replace(b"\n-----END", b"A\n-----END").replace(b"MC4", b"MC"), DAMAGED),
    "encrypted PKCS#8 cut short": (armoured(b"\x30\x81\xa3\x30\x5f", "ENCRYPTED PRIVATE KEY"), DAMAGED),
    "encrypted PKCS#8 of nothing": (armoured(b"", "ENCRYPTED PRIVATE KEY"), DAMAGED),
    "another version of OpenSSH's format": (openssh_file(magic=b"openssh-key-v2\0"), DAMAGED),
    "another public key outside": (openssh_file(outer=OTHER_POINT), DAMAGED),
    "another public key inside": (openssh_file(inner=OTHER_POINT), DAMAGED),
    "another public key beside the seed": (openssh_file(innermost=OTHER_POINT), DAMAGED),
    "another public key throughout": (
        openssh_file(outer=OTHER_POINT, inner=OTHER_POINT, innermost=OTHER_POINT),
        "its public key is not that of its private key",
    ),
    "a public key of small order": (
        openssh_file(outer=bytes(32), inner=bytes(32), innermost=bytes(32)),
        "its public key is not that of its private key",
    ),
    "no padding": (openssh_file(padding=b"none"), DAMAGED),
    "wrong padding": (openssh_file(padding=bytes(4)), DAMAGED),
    "bytes after the end": (openssh_file(after=b"!"), DAMAGED),
    "no keys": (openssh_file(keys=0), DAMAGED),
    "two keys in one": (openssh_file(keys=2), "it holds 2 private keys"),
    "no kind": (openssh_file(kind=b""), DAMAGED),
    "a kind that rings": (openssh_file(kind=b"ssh\x07"), DAMAGED),
    "a kind that is no ASCII": (openssh_file(kind=b"\xff\xfe"), DAMAGED),
    "an endless kind": (openssh_file(kind=b"k" * 65), DAMAGED),
    "a kind of another": (openssh_file(kind=b"ssh-kyber"), "a key of the type ssh-kyber"),
    "a key in a security key": (openssh_file(kind=SK), "a key in a security key (sk-ssh-ed25519@openssh.com)"),
    "an ECDSA key": (openssh_file(public=P256), "an ECDSA key (nistp256)"),
    "a DSA key": (openssh_file(kind=b"ssh-dss"), "a DSA key"),
    "an RSA key of nothing": (openssh_file(public=string(b"ssh-rsa")), DAMAGED),
    "an unknown cipher": (
        openssh_file(cipher=b"rot\x1b13", kdf=b"bcrypt", options=kdf_options(1)),
        r"encrypted with rot\x1b13, which cannot be read here",
    ),
    "a cipher without a password": (openssh_file(cipher=b"aes256-ctr"), "asks for 0 rounds"),
    "rounds without end": (
        openssh_file(cipher=b"aes256-ctr", kdf=b"bcrypt", options=kdf_options(2**32 - 1)),
        "asks for 4294967295 rounds, the limit is 4096",
    ),
    "no salt": (openssh_file(cipher=b"aes256-ctr", kdf=b"bcrypt", options=kdf_options(1, b"")), DAMAGED),
    "no options": (openssh_file(cipher=b"aes256-ctr", kdf=b"bcrypt"), DAMAGED),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_and_named(path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadFile) as caught:
        Identity.load(written(path, content), password=PASSWORD)
    assert message in str(caught.value)
    assert caught.value.path == path
    assert caught.value.args[2], "what to do is not said"
    shown = everything_of(caught.value)
    for secret in (repr(SEED)[2:20], SEED.hex(), base64.b64encode(SEED).decode()[:20], PASSWORD):
        assert secret not in shown


@pytest.mark.parametrize("kept", [100, 200, 300])
def test_a_file_that_is_cut_off_is_refused(path: Path, kept: int) -> None:
    for content in (encrypted("openssh"), OPENSSH):
        with pytest.raises(BadFile, match="cut off") as caught:
            Identity.load(
                written(path, armoured(base64.b64decode(inside(content))[: kept // 2])), password=PASSWORD
            )
        assert not isinstance(caught.value, WrongPassword)
        with pytest.raises(BadFile, match="cut off"):
            Identity.load(written(path, content[:kept]), password=PASSWORD)


def test_no_byte_of_a_key_file_can_be_changed_unnoticed_or_lead_to_another_error(path: Path) -> None:
    raw = bytearray(base64.b64decode(inside(OPENSSH)))
    for at in range(len(raw)):
        raw[at] ^= 0x40
        try:
            loaded = Identity.load(written(path, armoured(bytes(raw))))
        except BadFile:
            pass
        else:  # the comment, which is nobody's secret
            assert loaded.id.key == POINT
            assert at == len(raw) - raw_padding(OPENSSH) - 1
        raw[at] ^= 0x40


def raw_padding(pem: bytes) -> int:
    """The padding counts up: 1, 2, 3, …"""
    return base64.b64decode(inside(pem))[-1]


OTHER_KINDS: Final = [
    ("rsa", ["-b", "2048"], "an RSA key of 2048 bits"),
    ("ecdsa", ["-m", "PEM"], "an ECDSA key"),
    ("ecdsa", ["-b", "256"], r"an ECDSA key \(nistp256\)"),
    ("ecdsa", ["-b", "521"], r"an ECDSA key \(nistp521\)"),
    ("rsa", ["-b", "1024", "-m", "PEM"], "an RSA key"),
    ("rsa", ["-b", "1024", "-m", "PKCS8"], "an RSA key of 1024 bits"),
]


@pytest.mark.parametrize(
    ("kind", "options", "name", "password"),
    [  # by default each once, and in each container one that is encrypted
        pytest.param(*other, password, marks=[] if bool(password) is (at % 2 == 1) else [pytest.mark.slow])
        for at, other in enumerate(OTHER_KINDS)
        for password in ("", PASSWORD)
    ],
)
def test_a_key_of_ssh_keygen_of_another_kind_is_named(
    path: Path, kind: str, options: list[str], name: str, password: str
) -> None:
    made_by_ssh_keygen(path, kind, password, *options)
    with pytest.raises(BadFile, match=rf"it is {name}.*ssh-keygen -t ed25519.*trishake keygen"):
        Identity.load(path, password=password or None)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-algorithm", "x25519"], "an X25519 key"),
        (["-algorithm", "ed448"], "an Ed448 key"),
        (["-algorithm", "x448"], "an X448 key"),
        (["-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:1024"], "an RSA key of 1024 bits"),
        (["-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"], r"an ECDSA key \(secp384r1\)"),
        pytest.param(
            ["-algorithm", "dh", "-pkeyopt", "group:ffdhe2048"],
            "a DH key",
            marks=pytest.mark.filterwarnings("ignore:Diffie-Hellman"),
        ),
    ],
)
@pytest.mark.parametrize("password", ["", PASSWORD])
def test_a_key_of_openssl_of_another_kind_is_named(
    path: Path, arguments: list[str], name: str, password: str
) -> None:
    encryption = ["-aes256", "-pass", f"pass:{password}"] if password else []
    run("openssl", "genpkey", *arguments, *encryption, "-out", path)
    path.chmod(0o600)
    with pytest.raises(BadFile, match=rf"it is {name}.*ssh-keygen -t ed25519.*trishake keygen"):
        Identity.load(path, password=password or None)


def test_a_key_with_its_parameters_before_it_is_one_key(path: Path) -> None:
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", path)
    path.chmod(0o600)
    assert path.read_text().count("-----BEGIN") == 2
    with pytest.raises(BadFile, match=r"it is an ECDSA key \(secp256r1\)"):
        Identity.load(path)


def test_a_dsa_key_is_named(path: Path) -> None:
    content = pkcs8(dsa.generate_private_key(1024))
    with pytest.raises(BadFile, match="it is a DSA key of 1024 bits"):
        Identity.load(written(path, content))


def test_the_public_half_of_ssh_keygen_is_named_whatever_its_rights(path: Path) -> None:
    made_by_ssh_keygen(path)
    public = path.with_name(path.name + ".pub")
    for mode in (0o644, 0o600):
        public.chmod(mode)
        with pytest.raises(BadFile, match=r"it is a public key.*without `\.pub`") as caught:
            Identity.load(public)
        assert caught.value.path == public


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o601, 0o777])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "my key", OPENSSH)
    path.chmod(mode)
    with pytest.raises(BadFile, match=rf"others may use it.*chmod 600 '{path}'"):
        Identity.load(path)
    path.chmod(0o400)
    assert Identity.load(path).id.key == POINT


def a_directory(path: Path) -> None:
    path.mkdir()


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_directory, "it is a directory"),
        (os.mkfifo, "no regular file"),
        (a_link_to_itself, "it cannot be read"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    ],
)
def test_what_is_no_file_is_refused(path: Path, make: Callable[[Path], object], message: str) -> None:
    make(path)
    with pytest.raises(BadFile, match=message):
        Identity.load(path)
    with pytest.raises(BadFile, match=message):
        Identity.load_or_create(path)


def test_a_file_that_is_not_there_is_missing(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Identity.load(path)


def test_a_file_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made_by_ssh_keygen(tmp_path / "key")
    assert Identity.load("~/key").id.key == public_key_by_ssh_keygen(tmp_path / "key")
    Identity.from_seed(SEED).save("~/saved")
    assert Identity.load(tmp_path / "saved").id.key == POINT
    assert Identity.load_or_create("~/.trishake/key").id == Identity.load(tmp_path / ".trishake" / "key").id


# --- load or create -------------------------------------------------------------------------------------


def test_load_or_create_makes_a_file_and_then_loads_it(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "key"
    identity = Identity.load_or_create(path)
    assert type(identity) is Identity
    assert Identity.load_or_create(path).id == identity.id == Identity.load(path).id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.parents[n].stat().st_mode) for n in (0, 1)} == {0o700}
    assert os.listdir(path.parent) == ["key"]


def test_load_or_create_asks_for_the_password_once(path: Path) -> None:
    asked = []

    def ask() -> str:
        asked.append(1)
        return PASSWORD

    identity = Identity.load_or_create(path, password=ask)
    assert Identity.load(path, password=PASSWORD).id == identity.id
    assert len(asked) == 1
    assert Identity.load_or_create(path, password=ask).id == identity.id
    assert len(asked) == 2
    with pytest.raises(WrongPassword):
        Identity.load_or_create(path)


def test_who_comes_too_late_has_the_identity_that_is_there(path: Path) -> None:
    theirs = Identity.generate()
    asked = []

    def ask() -> str:
        """Asked after it was seen that there is no file: meanwhile another makes it."""
        asked.append(1)
        theirs.save(path, password=PASSWORD)
        return PASSWORD

    assert Identity.load_or_create(path, password=ask).id == theirs.id
    assert len(asked) == 1
    assert os.listdir(path.parent) == [path.name]


def test_eight_processes_at_once_have_one_identity(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    code = """
import os, sys
import cryptography.hazmat.primitives.serialization
from trishake._keys import Identity
gate, opener = os.pipe()
children = []
for _ in range(8):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(opener)
        os.read(gate, 1)  # ends when the gate is opened, for all at once
        os.write(1, f"{Identity.load_or_create(sys.argv[1]).id}\\n".encode())
        os._exit(0)
os.close(opener)
sys.exit(max(os.waitpid(child, 0)[1] for child in children) != 0)
"""
    said = python(code, path).splitlines()
    assert said == [str(Identity.load(path).id)] * 8
    assert os.listdir(path.parent) == ["key"]


@pytest.mark.parametrize("content", [b"", b"Buy milk.\n", PUBLIC_LINE])
def test_load_or_create_does_not_make_a_key_in_the_place_of_another_file(path: Path, content: bytes) -> None:
    written(path, content)
    with pytest.raises(BadFile):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_load_or_create_through_a_link_that_leads_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")
    with pytest.raises(BadFile, match="a symbolic link that leads nowhere"):
        Identity.load_or_create(path)
    assert os.listdir(path.parent) == [path.name]


# --- an identity ----------------------------------------------------------------------------------------


def test_it_is_the_cores_identity_with_files() -> None:
    assert type(Identity.generate()) is Identity
    identity = Identity.from_seed(SEED)
    assert type(identity) is Identity
    assert isinstance(identity, trishake_protocol.Identity)
    assert identity.id == trishake_protocol.Identity.from_seed(SEED).id
    assert repr(identity) == f"<Identity {identity.id}>"
    assert not hasattr(identity, "__dict__")
