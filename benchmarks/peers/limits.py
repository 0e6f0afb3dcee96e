"""What no handshake library in Python can beat: the primitives alone, the AEAD alone, sockets without Trio.

--of primitives: a greeting's public-key work, of both ends: X25519, 2 key pairs and 6 exchanges; Ed25519, 2
signatures and 2 verifications; hybrid, also ML-KEM-768: a key pair, an encapsulation and a decapsulation.
--of aead: ChaCha20Poly1305, sealed and opened. --of sockets: TCP sockets that take turns in one thread.
"""

from __future__ import annotations

import argparse
import select
import socket
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from benchmarks.measure import (
    COUNTS,
    MESSAGE,
    WRITE,
    Clock,
    NotMeasured,
    arguments,
    import_,
    print_line,
    result,
)
from benchmarks.suites import add_suite

IMPORTS = """import trio, msgpack
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
"""
"""What Trishake imports of others."""


def timed(function: Callable[[], None], times: int) -> tuple[float, float]:
    """Seconds, wall and CPU, for all of them, after a warm-up."""
    for _ in range(max(1, times // 10)):
        function()
    clock = Clock()
    for _ in range(times):
        function()
    return clock.read()


def greeting(hybrid: bool) -> Callable[[], None]:
    """A function that does the public-key work of one greeting."""
    static, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    signing = Ed25519PrivateKey.generate()
    verifying = signing.public_key()

    def work() -> None:
        for _ in range(2):
            X25519PrivateKey.generate().public_key()
            verifying.verify(signing.sign(MESSAGE), MESSAGE)
        for _ in range(6):
            static.exchange(theirs)
        if hybrid:
            key = MLKEM768PrivateKey.generate()
            _, ciphertext = key.public_key().encapsulate()
            key.decapsulate(ciphertext)

    return work


def seal_and_open(data: bytes) -> Callable[[], None]:
    key, nonce = ChaCha20Poly1305(ChaCha20Poly1305.generate_key()), bytes(12)

    def work() -> None:
        key.decrypt(nonce, key.encrypt(nonce, data, None), None)

    return work


class Sockets:
    """Two connected sockets and the one that listens, on loopback."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._held: list[socket.socket] = []
        self.connect()
        self._client, self._server = self._held
        for end in self._held:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(False)

    def connect(self) -> None:
        self._held.append(socket.create_connection(self._listener.getsockname()))
        self._held.append(self._listener.accept()[0])

    def round_trip(self) -> None:
        self._client.sendall(MESSAGE)
        _read(self._server)
        self._server.sendall(MESSAGE)
        _read(self._client)

    def sender(self, data: bytes) -> Callable[[], None]:
        """A function that writes `data` and reads it, in turns of 64 KiB at most."""
        per_turn = WRITE // len(data)

        def turn() -> None:
            for _ in range(per_turn):
                self._client.sendall(data)
            size = per_turn * len(data)
            while size > 0:
                size -= _read(self._server)

        return turn


def _read(end: socket.socket) -> int:
    """What is there, in bytes; waits until there is something."""
    select.select([end], [], [])
    return len(end.recv(WRITE))


def primitives(measurement: str, count: int, suite: str) -> dict[str, Any]:
    if measurement == "handshakes":
        return times_each(greeting(suite == "hybrid"), count, 1e3, "ms")
    raise NotMeasured("the primitives are those of a handshake")


def aead(measurement: str, count: int) -> dict[str, Any]:
    if measurement == "bulk":
        return rate(seal_and_open(bytes(WRITE)), count, WRITE / 2**20, "MiB/s")
    if measurement == "messages":
        return rate(seal_and_open(MESSAGE), count, 1e-3, "thousand/s")
    if measurement == "pingpong":
        one_way = seal_and_open(MESSAGE)

        def there_and_back() -> None:
            one_way()
            one_way()

        return times_each(there_and_back, count, 1e6, "µs")
    raise NotMeasured("an AEAD only seals and opens")


def sockets(measurement: str, count: int) -> dict[str, Any]:
    ends = Sockets()
    if measurement == "handshakes":
        return times_each(ends.connect, count, 1e3, "ms")
    if measurement == "bulk":
        return rate(ends.sender(bytes(WRITE)), count, WRITE / 2**20, "MiB/s")
    if measurement == "messages":
        per_turn = WRITE // len(MESSAGE)
        return rate(ends.sender(MESSAGE), count // per_turn, per_turn * 1e-3, "thousand/s")
    if measurement == "pingpong":
        return times_each(ends.round_trip, count, 1e6, "µs")
    raise NotMeasured("see bare TCP on Trio")


def times_each(function: Callable[[], None], count: int, factor: float, unit: str) -> dict[str, Any]:
    wall, cpu = timed(function, count)
    return result(wall / count * factor, unit, cpu=cpu / count * factor)


def rate(function: Callable[[], None], count: int, amount: float, unit: str) -> dict[str, Any]:
    """amount: of the unit, in one call."""
    wall, cpu = timed(function, count)
    return result(count * amount / wall, unit, cpu=count * amount / cpu, more=True)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    count = options.count or COUNTS.get(options.measurement, 1)
    if options.measurement == "import" and options.of == "primitives":
        return import_(IMPORTS)
    if options.at_once > 1:
        raise NotMeasured("there is nothing in it that could run at once")
    if options.of == "primitives":
        return primitives(options.measurement, count, options.suite)
    return (aead if options.of == "aead" else sockets)(options.measurement, count)


if __name__ == "__main__":
    parser = arguments()
    add_suite(parser)
    parser.add_argument("--of", choices=["primitives", "aead", "sockets"], required=True)
    options = parser.parse_args()
    try:
        found = measured(options)
    except NotMeasured as reason:
        found = {"not_measured": str(reason)}
    print_line(f"limit: {options.of}", options.measurement, found)
