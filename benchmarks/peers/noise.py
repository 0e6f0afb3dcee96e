"""`noiseprotocol`, the Noise Protocol Framework for Python, over Trio TCP: Noise_XX_25519_ChaChaPoly_SHA256.

An identity here is an X25519 key, proved by the pattern alone: nothing is signed, no policy is asked, and the
dialer speaks last, so it does not learn whether it was accepted. Each message has two bytes of length before it,
as is the custom.
"""

from __future__ import annotations

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection

from benchmarks.measure import OverTcp, arguments, main

PATTERN = b"Noise_XX_25519_ChaChaPoly_SHA256"

MAX_PLAINTEXT = 65535 - 16
"""Bytes of a Noise message without its tag."""


class NoiseStream:
    def __init__(self, transport: trio.SocketStream) -> None:
        self._transport = transport
        self._received = bytearray()
        self._noise = NoiseConnection.from_name(PATTERN)

    async def greet(self, key: bytes, *, initiator: bool) -> None:
        """The three messages. key: our own, private, 32 bytes."""
        noise = self._noise
        if initiator:
            noise.set_as_initiator()
        else:
            noise.set_as_responder()
        noise.set_keypair_from_private_bytes(Keypair.STATIC, key)
        noise.start_handshake()
        ours = initiator
        while not noise.handshake_finished:
            if ours:
                await self._transport.send_all(framed(noise.write_message()))
            else:
                noise.read_message(await self._receive_message())
            ours = not ours

    async def send_all(self, data: bytes) -> None:
        parts = (data[start : start + MAX_PLAINTEXT] for start in range(0, len(data), MAX_PLAINTEXT))
        await self._transport.send_all(b"".join(framed(self._noise.encrypt(part)) for part in parts))

    async def receive_some(self) -> bytes:
        return bytes(self._noise.decrypt(await self._receive_message()))

    async def _receive_message(self) -> bytes:
        length = int.from_bytes(await self._receive_exactly(2), "big")
        return await self._receive_exactly(length)

    async def _receive_exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            data = await self._transport.receive_some()
            if not data:
                raise trio.BrokenResourceError("the stream ended within a message")
            self._received += data
        data = bytes(self._received[:size])
        del self._received[:size]
        return data


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


if __name__ == "__main__":
    ada, bob = (X25519PrivateKey.generate().private_bytes_raw() for _ in range(2))

    async def dial(transport: trio.SocketStream) -> NoiseStream:
        stream = NoiseStream(transport)
        await stream.greet(ada, initiator=True)
        return stream

    async def answer(transport: trio.SocketStream) -> NoiseStream:
        stream = NoiseStream(transport)
        await stream.greet(bob, initiator=False)
        return stream

    main(OverTcp("noiseprotocol", "import noise.connection, trio", dial, answer), arguments().parse_args())
