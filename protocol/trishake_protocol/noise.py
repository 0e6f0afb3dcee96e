"""The Noise Protocol Framework, revision 34, section 5, with the hfs extension, revision 1.

The letters are the specification's:

    s, e      our static and ephemeral key pair        rs, re    the other side's public keys
    e1, re1   our KEM key pair, its public key         ck, h     chaining key, handshake hash
    k, n      a cipher's key and nonce                 psks      pre-shared keys, in the order of use

One loop runs a pattern, for writing and for reading alike; a pattern is data (`patterns.py`). After the last
message `split` gives the two CipherStates; nothing of the handshake is needed then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .limits import TAG_LENGTH
from .patterns import KEM_CIPHERTEXT_LENGTH, KEM_PUBLIC_LENGTH, Pattern, Role, Token
from .primitives import (
    CHACHAPOLY,
    DH_LENGTH,
    MLKEM768,
    SHA256,
    Aead,
    Cipher,
    Hash,
    InvalidTag,
    Kem,
    KemKeyPair,
    KeyPair,
)

_REKEY_NONCE = 2**64 - 1


class HandshakeError(Exception):
    """A message that does not open: AEAD, DH, KEM or length. From outside all look the same (section 7).

    Never leaves the core: the session turns it into the refusal that its state asks for.
    """


class CipherState:
    """One direction's key and nonce (Noise 5.1)."""

    __slots__ = ("_aead", "_cipher", "n")

    def __init__(self, cipher: Cipher = CHACHAPOLY, key: bytes | None = None) -> None:
        self._cipher = cipher
        self._aead: Aead | None = None if key is None else cipher.key(key)
        self.n = 0

    @property
    def has_key(self) -> bool:
        return self._aead is not None

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        """The ciphertext, 16 bytes longer, under the next nonce. Without a key, the plaintext as it is."""
        if self._aead is None:
            return plaintext
        ciphertext = self._aead.encrypt(self._cipher.nonce(self.n), plaintext, ad)
        self.n += 1
        return ciphertext

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes | memoryview) -> bytes:
        """The plaintext. Raises HandshakeError if the tag is wrong; key and nonce are then unchanged."""
        if self._aead is None:
            return bytes(ciphertext)
        try:
            plaintext = self._aead.decrypt(self._cipher.nonce(self.n), ciphertext, ad)
        except InvalidTag:
            raise HandshakeError("the message does not decrypt") from None
        self.n += 1
        return plaintext

    def rekey(self) -> None:
        """Replace k by the first 32 bytes of ENCRYPT(k, 2^64 - 1, empty, 32 zeros); n goes on (Noise 4.2)."""
        assert self._aead is not None
        okm = self._aead.encrypt(self._cipher.nonce(_REKEY_NONCE), bytes(32), b"")
        self._aead = self._cipher.key(okm[:32])


class SymmetricState:
    """ck, h, and the cipher of the handshake (Noise 5.2)."""

    __slots__ = ("_cipher", "_hash", "cipher_state", "ck", "h")

    def __init__(self, protocol_name: bytes, hash_: Hash = SHA256, cipher: Cipher = CHACHAPOLY) -> None:
        self._hash = hash_
        self._cipher = cipher
        short = len(protocol_name) <= hash_.length
        self.h = protocol_name.ljust(hash_.length, b"\x00") if short else hash_.digest(protocol_name)
        self.ck = self.h
        self.cipher_state = CipherState(cipher)

    def mix_key(self, input_key_material: bytes) -> None:
        self.ck, temp_k = self._hash.hkdf(self.ck, input_key_material, 2)
        self.cipher_state = CipherState(self._cipher, temp_k[:32])

    def mix_hash(self, data: bytes) -> None:
        self.h = self._hash.digest(self.h + data)

    def mix_key_and_hash(self, input_key_material: bytes) -> None:
        self.ck, temp_h, temp_k = self._hash.hkdf(self.ck, input_key_material, 3)
        self.mix_hash(temp_h)
        self.cipher_state = CipherState(self._cipher, temp_k[:32])

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = self.cipher_state.encrypt_with_ad(self.h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        plaintext = self.cipher_state.decrypt_with_ad(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        temp_k1, temp_k2 = self._hash.hkdf(self.ck, b"", 2)
        return CipherState(self._cipher, temp_k1[:32]), CipherState(self._cipher, temp_k2[:32])

    def forget(self) -> None:
        """Drop ck and the handshake's key, from which the transport keys could be made again. h stays."""
        self.ck = b""
        self.cipher_state = CipherState(self._cipher)


class HandshakeState:
    """One side of one handshake (Noise 5.3): `write_message` and `read_message` in turn, then `split`.

    e: our ephemeral key pair; None makes one when the pattern asks for it.
    psks: one of 32 bytes for each `psk` in the pattern, in order.
    """

    def __init__(
        self,
        protocol_name: str,
        pattern: Pattern,
        role: Role,
        *,
        prologue: bytes = b"",
        s: KeyPair | None = None,
        e: KeyPair | None = None,
        psks: Sequence[bytes] = (),
        kem: Kem = MLKEM768,
        hash_: Hash = SHA256,
        cipher: Cipher = CHACHAPOLY,
    ) -> None:
        self.role = role
        self.s = s
        self.e = e
        self.rs = b""
        self.re = b""
        self.e1: KemKeyPair | None = None
        self.re1 = b""
        self.payload_h = b""
        """h just before the latest payload was encrypted: what a greeting's signature covers (section 6)."""
        self._kem = kem
        self._psks: tuple[bytes, ...] = tuple(psks)
        self._psk_handshake = pattern.psk
        self._messages = pattern.messages
        self._next = 0
        self._begun = bytearray()
        self._symmetric = SymmetricState(protocol_name.encode(), hash_, cipher)
        self._symmetric.mix_hash(prologue)

    def __repr__(self) -> str:
        return f"<HandshakeState {self.role.value}, {self._next} of {len(self._messages)} messages>"

    @property
    def finished(self) -> bool:
        return self._next == len(self._messages)

    @property
    def h(self) -> bytes:
        """The handshake hash; after the last message, the channel binding (Noise 11.2)."""
        return self._symmetric.h

    def write_message(self, payload: bytes | Callable[[bytes], bytes] = b"") -> bytes:
        """The next message of the pattern.

        payload: the bytes, or a function that makes them from h, as a signature over the transcript must.
        Raises HandshakeError if the other side's DH or KEM key is none.
        """
        h = self.begin_message()
        return self.end_message(payload(h) if callable(payload) else payload)

    def begin_message(self) -> bytes:
        """Do all of the next message but its payload. Returns h, which a signature in the payload covers.

        `end_message` is next. Raises HandshakeError as `write_message` does.
        """
        self._begun = bytearray()
        for token in self._messages[self._next]:
            self._WRITE[token](self, self._begun)
        self.payload_h = self.h
        return self.h

    def end_message(self, payload: bytes) -> bytes:
        """The message that was begun, with this payload."""
        message = bytes(self._begun) + self._symmetric.encrypt_and_hash(payload)
        self._next += 1
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the next message. Raises HandshakeError if anything in it is wrong."""
        reader = _Reader(message)
        for token in self._messages[self._next]:
            self._READ[token](self, reader)
        self.payload_h = self.h
        payload = self._symmetric.decrypt_and_hash(reader.rest())
        self._next += 1
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """(initiator to responder, responder to initiator). The keys of the handshake are dropped."""
        assert self.finished
        pair = self._symmetric.split()
        self.s = self.e = self.e1 = None
        self._psks = ()
        self._symmetric.forget()
        return pair

    # --- the tokens: what each does when written, when read, and for DH and psk either way

    def _write_e(self, buffer: bytearray) -> None:
        if self.e is None:
            self.e = KeyPair()
        buffer += self.e.public
        self._mix_e(self.e.public)

    def _read_e(self, reader: _Reader) -> None:
        self.re = reader.take(DH_LENGTH)
        self._mix_e(self.re)

    def _mix_e(self, public: bytes) -> None:
        self._symmetric.mix_hash(public)
        if self._psk_handshake:
            self._symmetric.mix_key(public)

    def _write_s(self, buffer: bytearray) -> None:
        assert self.s is not None
        buffer += self._symmetric.encrypt_and_hash(self.s.public)

    def _read_s(self, reader: _Reader) -> None:
        self.rs = self._symmetric.decrypt_and_hash(reader.take(DH_LENGTH + self._tag_length()))

    def _write_e1(self, buffer: bytearray) -> None:
        self.e1 = self._kem.generate_key_pair()
        buffer += self._symmetric.encrypt_and_hash(self.e1.public)

    def _read_e1(self, reader: _Reader) -> None:
        self.re1 = self._symmetric.decrypt_and_hash(reader.take(KEM_PUBLIC_LENGTH + self._tag_length()))

    def _write_ekem1(self, buffer: bytearray) -> None:
        try:
            ciphertext, shared_secret = self._kem.encapsulate(self.re1)
        except ValueError:
            raise HandshakeError("the KEM key is none") from None
        buffer += self._symmetric.encrypt_and_hash(ciphertext)
        self._symmetric.mix_key(shared_secret)

    def _read_ekem1(self, reader: _Reader) -> None:
        assert self.e1 is not None
        ciphertext = self._symmetric.decrypt_and_hash(reader.take(KEM_CIPHERTEXT_LENGTH + self._tag_length()))
        self._symmetric.mix_key(self.e1.decapsulate(ciphertext))

    def _mix_ee(self, _: object) -> None:
        self._mix_dh(self.e, self.re)

    def _mix_es(self, _: object) -> None:
        self._mix_dh(*((self.e, self.rs) if self.role is Role.INITIATOR else (self.s, self.re)))

    def _mix_se(self, _: object) -> None:
        self._mix_dh(*((self.s, self.re) if self.role is Role.INITIATOR else (self.e, self.rs)))

    def _mix_dh(self, ours: KeyPair | None, theirs: bytes) -> None:
        assert ours is not None
        try:
            shared_secret = ours.dh(theirs)
        except ValueError:
            raise HandshakeError("the DH result is all zero") from None
        self._symmetric.mix_key(shared_secret)

    def _mix_psk(self, _: object) -> None:
        self._symmetric.mix_key_and_hash(self._psks[0])
        self._psks = self._psks[1:]

    def _tag_length(self) -> int:
        return TAG_LENGTH if self._symmetric.cipher_state.has_key else 0

    _WRITE: Final = {
        Token.E: _write_e,
        Token.S: _write_s,
        Token.E1: _write_e1,
        Token.EKEM1: _write_ekem1,
        Token.EE: _mix_ee,
        Token.ES: _mix_es,
        Token.SE: _mix_se,
        Token.PSK: _mix_psk,
    }
    _READ: Final = {
        Token.E: _read_e,
        Token.S: _read_s,
        Token.E1: _read_e1,
        Token.EKEM1: _read_ekem1,
        Token.EE: _mix_ee,
        Token.ES: _mix_es,
        Token.SE: _mix_se,
        Token.PSK: _mix_psk,
    }


class _Reader:
    """Takes a message apart from the front."""

    __slots__ = ("_message", "_offset")

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._offset = 0

    def take(self, length: int) -> bytes:
        part = self._message[self._offset : self._offset + length]
        if len(part) < length:
            raise HandshakeError("the message is too short")
        self._offset += length
        return part

    def rest(self) -> bytes:
        return self._message[self._offset :]
