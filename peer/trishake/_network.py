"""Private networks in files: a few lines of text that whoever is to be a member gets."""

from __future__ import annotations

import base64
import dataclasses
import os
from pathlib import Path
from typing import Final, Self

import trishake_protocol
from trishake_protocol import escape
from trishake_protocol.limits import MAX_NETWORK_NAME, MAX_PSKS, PSK_LENGTH
from trishake_protocol.primitives import SHA256

from ._errors import BadFile
from ._files import FilePath, create_file, expanded, locked, read_file, replace_file

_FILE_LIMIT: Final = 16 * 1024
_HEADER: Final = "# Trishake private network. Who has this file is in it: keep it secret.\n"

_KEY_PREFIX: Final = "psk-"
_KEY_LENGTH: Final = 56
"""Characters after the prefix: 32 bytes of key and 3 of check, in base32."""
_CHECK_LENGTH: Final = 3
_BASE32: Final = frozenset("abcdefghijklmnopqrstuvwxyz234567")

_COPY_IT: Final = "Copy the file anew from another member."


class Network(trishake_protocol.Network):
    """Peers meet only within one network. Its name is never sent; it is bound into the handshake.

    name: 1 to 64 bytes of UTF-8.
    psk: None for a public network; for a private one 32 random bytes, never a passphrase, or up to four such
        keys while they are being rotated: a responder takes any of them, an initiator uses the first.
    quiet: a responder of a private network says nothing at all, not even ALERT, to who lacks the key. It is each
        member's own choice, and in no file.
    Raises ValueError for anything else. The keys are in no `repr`.

    A private network is made once, and its file given to every member over a way that nobody else can read:

        Network.new("home").save("home.network")

    Its key is rotated in three steps. Each gives another network, whose file is put in the place of the old one at
    every member, and only when all have it, and have started anew with it, comes the next. So any two members can
    meet at any time:

        network.with_new_key()          all take the new key, nobody dials with it yet
        network.with_last_key_first()   all dial with the new key; the old one is still taken
        network.with_first_key_only()   the old key is of no more use

    A step that comes too early parts those who have it from those who do not, until all have it.
    """

    __slots__ = ()

    @classmethod
    def new(cls, name: str, *, quiet: bool = False) -> Self:
        """A private network with a fresh random key. Raises ValueError for a name that is none."""
        return cls(name, os.urandom(PSK_LENGTH), quiet)

    @classmethod
    def load(cls, path: FilePath, *, quiet: bool = False) -> Self:
        """The private network in a file.

        path: `~` is the home directory. At most 16 KiB, and of no use to group and others (0600).
        Raises FileNotFoundError; BadFile, with the line, for all else that is wrong with it.
        """
        place = expanded(path)
        data, _ = read_file(place, limit=_FILE_LIMIT, others_may="nothing")
        name, keys = _parse(place, data)
        return cls(name, keys[0] if len(keys) == 1 else keys, quiet)

    def save(self, path: FilePath) -> None:
        """Write it into a new file that nobody else may read (0600): all of it or nothing.

        Raises FileExistsError if something is there, which is not overwritten; OSError if it cannot be written;
        BadFile where there is no home for `~`; ValueError for a public network, and for a name that fits on no
        line.
        """
        create_file(expanded(path), self._encode())

    async def replace(self, path: FilePath) -> None:
        """Put it in the place of what the file holds: an earlier state of the same network, with the same rights.

        Who reads meanwhile, or after a crash, finds the old one or the new one. A symbolic link stays one.
        Raises FileNotFoundError if there is none, BadFile if that is no network's file; ValueError if it is
        another network's, and as `save` does; OSError if it cannot be written.
        """
        data = self._encode()
        place = Path(os.path.realpath(expanded(path)))
        before = type(self).load(place)
        if before.name != self.name:
            raise ValueError(f"{place} is the file of the network {before.name!r}, not of {self.name!r}")
        async with locked(place):
            replace_file(place, data)

    def with_new_key(self) -> Self:
        """With a fresh random key at the end: it is taken, and nobody dials with it yet. The first step.

        Raises ValueError for a public network, and for one that has four keys.
        """
        self._check_private()
        if len(self.psks) == MAX_PSKS:
            raise ValueError(
                f"network {self.name!r} has {MAX_PSKS} keys, which is the most: end the last rotation first, "
                "with with_first_key_only()"
            )
        return dataclasses.replace(self, psk=(*self.psks, os.urandom(PSK_LENGTH)))

    def with_last_key_first(self) -> Self:
        """With the last key as the first, which is dialed with; the others are still taken. The second step.

        Raises ValueError for a network with fewer than two keys.
        """
        self._check_rotating("with_new_key()")
        return dataclasses.replace(self, psk=(self.psks[-1], *self.psks[:-1]))

    def with_first_key_only(self) -> Self:
        """With the key that is dialed with, and no other. The third step.

        Raises ValueError for a network with fewer than two keys.
        """
        self._check_rotating("with_new_key(), then with_last_key_first()")
        return dataclasses.replace(self, psk=self.psks[0])

    def _check_private(self) -> None:
        if not self.private:
            raise ValueError(f"network {self.name!r} is public: it has no key; a private one is Network.new(name)")

    def _check_rotating(self, before: str) -> None:
        self._check_private()
        if len(self.psks) < 2:
            raise ValueError(f"network {self.name!r} has one key, so no other to change to: first {before}")

    def _encode(self) -> bytes:
        self._check_private()
        if (why := _unfit(self.name)) is not None:
            raise ValueError(f"the name {self.name!r} fits on no line of a file: {why}")
        keys = "".join(f"key {_text_of(key)}\n" for key in self.psks)
        return f"{_HEADER}name {self.name}\n{keys}".encode()


def _unfit(name: str) -> str | None:
    """Why the name cannot be written into a file, and read from it again; None if it can."""
    if name != name.strip():
        return "it begins or ends with a space"
    if name != escape(name):
        return "it has control characters"
    return None


# --- keys as text ---------------------------------------------------------------------------------------


def _check(key: bytes) -> bytes:
    return SHA256.digest(b"trishake/1 network key\x00" + key)[:_CHECK_LENGTH]


def _text_of(key: bytes) -> str:
    return _KEY_PREFIX + base64.b32encode(key + _check(key)).decode().lower()


def _key_of(text: str) -> bytes:
    """Raises ValueError, which says what is wrong and shows nothing of the text: it may be nearly the key."""
    if not text.startswith(_KEY_PREFIX):
        raise ValueError(f"a key begins with {_KEY_PREFIX}; a passphrase, or a key of another program, is none")
    text = text.removeprefix(_KEY_PREFIX)
    if len(text) != _KEY_LENGTH:
        raise ValueError(f"a key has {_KEY_LENGTH} characters after {_KEY_PREFIX}, this one has {len(text)}")
    if not _BASE32.issuperset(text):
        raise ValueError("a key is made of the letters a to z, in lower case, and the digits 2 to 7")
    raw = base64.b32decode(text.upper())
    key, check = raw[:PSK_LENGTH], raw[PSK_LENGTH:]
    if check != _check(key):
        raise ValueError("a character of this key is wrong: its check characters do not fit")
    return key


# --- the file -------------------------------------------------------------------------------------------


def _parse(path: Path, data: bytes) -> tuple[str, tuple[bytes, ...]]:
    """The name and the keys. No error shows a line: a key may stand where none belongs."""
    name: str | None = None
    keys: list[bytes] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        text = _text(path, line, number).strip()
        if not text or text.startswith("#"):
            continue
        word, rest = (*text.split(maxsplit=1), "")[:2]
        if word == "name":
            if name is not None:
                raise BadFile(path, "a second name", "A network has one: remove this line.", line=number)
            name = _name(path, rest, number)
        elif word == "key":
            if len(keys) == MAX_PSKS:
                raise BadFile(
                    path, f"a key more than the {MAX_PSKS} there may be", "Remove old ones.", line=number
                )
            keys.append(_key(path, rest, number, keys))
        elif word.startswith(_KEY_PREFIX):
            raise BadFile(path, "a key without the word `key` before it", "Write `key psk-…`.", line=number)
        else:
            raise BadFile(path, "a line that begins neither with `name` nor with `key` nor with #", line=number)
    if name is None:
        raise BadFile(path, "it has no name", "Is it the right file? Else add a line `name …`.")
    if not keys:
        raise BadFile(path, "it has no key", _COPY_IT)
    return name, tuple(keys)


def _text(path: Path, line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        pass  # the error would carry the line
    raise BadFile(path, "a line that is no UTF-8", _COPY_IT, line=number)


def _name(path: Path, name: str, number: int) -> str:
    if not 1 <= len(name.encode()) <= MAX_NETWORK_NAME:
        what = f"a name of {len(name.encode())} bytes"
        raise BadFile(path, what, f"A network's name has 1 to {MAX_NETWORK_NAME}.", line=number)
    if (why := _unfit(name)) is not None:
        raise BadFile(path, f"this is no name of a network: {why}", _COPY_IT, line=number)
    return name


def _key(path: Path, text: str, number: int, others: list[bytes]) -> bytes:
    try:
        key = _key_of(text)
    except ValueError as error:
        raise BadFile(path, str(error), _COPY_IT, line=number) from None
    if key in others:
        raise BadFile(path, "the same key a second time", "Remove this line.", line=number)
    return key
