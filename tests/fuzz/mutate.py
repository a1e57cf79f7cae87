"""Garbage, and mutations of real input."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from keyvouch.errors import KeyvouchError

_MOST_AT_ONCE = 4


def feed(seed: int, count: int, samples: Sequence[bytes], consume: Callable[[bytes], object]) -> dict[str, int]:
    """Give `count` mutations of the samples to `consume`; return how often each outcome occurred.

    Any exception but a `KeyvouchError` with a hint fails, with the seed and the input that caused it.
    """
    chance = random.Random(seed)
    ends: dict[str, int] = {}
    for number in range(count):
        data = mutate(chance, chance.choice(samples))
        end = "taken"
        try:
            consume(data)
        except KeyvouchError as error:
            end = error.code if error.hint else "no hint"
        except BaseException as error:
            raise AssertionError(f"{error!r} at input {number} of seed {seed}: {data!r}") from error
        ends[end] = ends.get(end, 0) + 1
    assert "no hint" not in ends
    return ends


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Return the bytes with a few changes; occasionally only garbage."""
    if chance.random() < 0.02:
        return chance.randbytes(chance.randrange(200))
    changed = bytearray(data)
    for _ in range(chance.randint(1, _MOST_AT_ONCE)):
        chance.choice(_WAYS)(chance, changed)
    return bytes(changed)


def _place(chance: random.Random, data: bytearray) -> int:
    return chance.randrange(len(data) + 1)


def _flip(chance: random.Random, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _insert(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    data[at:at] = chance.randbytes(chance.randint(1, 4))


def _insert_sign(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    data[at:at] = chance.choice(
        (b"%", b"?", b"&", b";", b"=", b":", b"\0", b"\n", b'"', b"'", b"[", b"{", b"\xff", b"*")
    )


def _delete(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    del data[at : at + chance.randint(1, 8)]


def _cut(chance: random.Random, data: bytearray) -> None:
    del data[_place(chance, data) :]


def _repeat(chance: random.Random, data: bytearray) -> None:
    begin, at = _place(chance, data), _place(chance, data)
    data[at:at] = data[begin : begin + chance.randint(1, 64)]


def _overwrite(chance: random.Random, data: bytearray) -> None:
    at, size = _place(chance, data), chance.randint(1, 4)
    data[at : at + size] = bytes(chance.choice((0, 0x7F, 0x80, 0xFF)) for _ in range(size))


_WAYS = (_flip, _flip, _insert, _insert_sign, _delete, _cut, _repeat, _overwrite)
