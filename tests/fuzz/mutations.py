"""Mutations of structure: what is nearly right goes further into a parser than what is random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

MAX_LENGTH: Final = 8192
"""Bytes of a mutated input at most; what grows with its input is measured by `growing`."""

_INTEGERS: Final = tuple(
    sorted(
        {near for power in (0, 4, 5, 6, 7, 8, 12, 14, 15, 16, 31, 32, 63, 64) for near in (2**power - 1, 2**power)}
        | {127, 129, 255, 257, 16384, 16385, 65519, 65520, 65535}
    )
)
"""Around every bound of a width, and of the protocol."""

_HEADS: Final = tuple(
    bytes.fromhex(head)
    for head in (
        *(
            "c0",
            "c1",
            "c2",
            "c3",
            "c400",
            "c4ff",
            "c5ffff",
            "c6ffffffff",
            "c67fffffff",
            "c8ffff00",
            "c9ffffffff00",
        ),
        *(
            "ca7fc00000",
            "cb7ff8000000000000",
            "ccff",
            "cd0000",
            "cfffffffffffffffff",
            "d08000",
            "d38000000000000000",
        ),
        *(
            "d4ff00",
            "d6ff00000000",
            "d7ff0000000000000000",
            "d9ff",
            "daffff",
            "dbffffffff",
            "a0",
            "bf",
            "8f",
            "9f",
        ),
        *(
            "dcffff",
            "dc0040",
            "dd00000000",
            "ddffffffff",
            "deffff",
            "de0020",
            "dfffffffff",
            "df00000000",
            "80",
            "90",
        ),
        *(
            "f09fa49d",
            "ffffffff",
            "0000000000000000",
            "efbbbf",
            "e280ae",
            "eda080",
            "c3a9",
            "00",
            "0a",
            "0d0a",
            "25",
        ),
    )
)
"""Beginnings of msgpack values, most with a length that is not there; and text that is not what it looks like."""

_NESTS: Final = (
    b"\x91",
    b"\x81\x00",
    b"\x81\xa1a",
    b"\xdd\x00\x00\x00\x01",
    b"\xdc\x00\x40",
    b"[",
    b'{"a":',
    b"(",
)

_Mutation = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def _flip(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _replace(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def _truncate(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        at = chance.randrange(len(data))
        del data[at:]


def _behead(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[: chance.randrange(1, 9)]


def _delete(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start, end = _slice(chance, data)
    del data[start:end]


def _insert_random(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randint(0, len(data))
    data[at:at] = chance.randbytes(chance.choice((1, 1, 2, 4, 8, 64)))


def _duplicate(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start, end = _slice(chance, data)
    at = chance.randint(0, len(data))
    data[at:at] = data[start:end] * chance.choice((1, 1, 1, 2, 8, 32))


def _exchange(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    start, end = _slice(chance, data)
    part = data[start:end]
    del data[start:end]
    at = chance.randint(0, len(data))
    data[at:at] = part


def _splice(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = chance.choice(seeds)
    data[chance.randint(0, len(data)) :] = other[chance.randint(0, len(other)) :]


def _cross(chance: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = chance.choice(seeds)
    start, end = _slice(chance, other)
    at = chance.randint(0, len(data))
    data[at : at + chance.choice((0, end - start))] = other[start:end]


def _integer(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    width = chance.choice((1, 2, 4, 8))
    number = chance.choice(_INTEGERS) & (1 << 8 * width) - 1
    at = chance.randint(0, len(data))
    data[at : at + width] = number.to_bytes(width, chance.choice(("big", "big", "little")))


def _length(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """A number there becomes a little more or less, or what would fit behind it."""
    width = chance.choice((1, 2, 2, 4, 4))
    if len(data) < width:
        return
    at = chance.randint(0, len(data) - width)
    said = int.from_bytes(data[at : at + width], "big")
    left = len(data) - at - width
    number = chance.choice((said + 1, said - 1, said * 2, left, left + 1, left - 1, left + 2**8))
    data[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "big")


def _head(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    head = chance.choice(_HEADS)
    at = chance.randint(0, len(data))
    data[at : at + chance.choice((0, 1, len(head)))] = head


def _nest(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randint(0, len(data)) if chance.random() < 0.5 else 0
    data[at:at] = chance.choice(_NESTS) * chance.choice((1, 3, 4, 5, 63, 64, 65, 600, 1500))


def _decimal(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randint(0, len(data))
    number = chance.choice((*map(str, _INTEGERS), "-1", "1e400", "NaN", "9" * 5000))
    data[at : at + chance.choice((0, 1, len(number)))] = number.encode()


_MUTATIONS: Final[tuple[_Mutation, ...]] = (
    *(_flip, _flip, _replace, _replace, _truncate, _behead, _delete, _insert_random, _duplicate, _exchange),
    *(_splice, _cross, _integer, _integer, _length, _length, _head, _head, _nest, _decimal),
)


def _slice(chance: random.Random, data: bytes | bytearray) -> tuple[int, int]:
    start = chance.randint(0, len(data))
    return start, min(len(data), start + chance.choice((1, 1, 2, 3, 4, 8, 12, 32, 80, 256)))


def mutated(chance: random.Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of the seeds, with one to six mutations. tokens: words of the format, which are put in as well."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4, 6))):
        if tokens and chance.random() < 0.2:
            token = chance.choice(tokens)
            at = chance.randint(0, len(data))
            data[at : at + chance.choice((0, 0, 1, len(token)))] = token
        else:
            chance.choice(_MUTATIONS)(chance, data, seeds)
    return bytes(data[:MAX_LENGTH])


def growing(seed: bytes, length: int) -> list[bytes]:
    """Inputs of about that many bytes which a parser may take too long over: of this seed, over and over."""
    half = len(seed) // 2
    grown = [
        seed * (length // max(1, len(seed))),
        seed[:half] + seed[half : half + 1] * length + seed[half:],
        seed + seed[-1:] * length,
        seed[:1] * length + seed,
    ]
    return [data[: 2 * length] for data in grown]
