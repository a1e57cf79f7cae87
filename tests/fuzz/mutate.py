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
        octets = mutate(chance, chance.choice(samples))
        end = "taken"
        try:
            consume(octets)
        except KeyvouchError as error:
            end = error.code if error.hint else "no hint"
        except BaseException as error:
            raise AssertionError(f"{error!r} at input {number} of seed {seed}: {octets!r}") from error
        ends[end] = ends.get(end, 0) + 1
    assert "no hint" not in ends
    return ends


def mutate(chance: random.Random, octets: bytes) -> bytes:
    """Return the bytes with a few changes; occasionally only garbage."""
    if chance.random() < 0.02:
        return chance.randbytes(chance.randrange(200))
    changed = bytearray(octets)
    for _ in range(chance.randint(1, _MOST_AT_ONCE)):
        chance.choice(_WAYS)(chance, changed)
    return bytes(changed)


def _place(chance: random.Random, octets: bytearray) -> int:
    return chance.randrange(len(octets) + 1)


def _flip(chance: random.Random, octets: bytearray) -> None:
    if octets:
        octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)


def _insert(chance: random.Random, octets: bytearray) -> None:
    at = _place(chance, octets)
    octets[at:at] = chance.randbytes(chance.randint(1, 4))


def _insert_sign(chance: random.Random, octets: bytearray) -> None:
    at = _place(chance, octets)
    octets[at:at] = chance.choice(
        (b"%", b"?", b"&", b";", b"=", b":", b"\0", b"\n", b'"', b"'", b"[", b"{", b"\xff", b"*")
    )


def _delete(chance: random.Random, octets: bytearray) -> None:
    at = _place(chance, octets)
    del octets[at : at + chance.randint(1, 8)]


def _cut(chance: random.Random, octets: bytearray) -> None:
    del octets[_place(chance, octets) :]


def _repeat(chance: random.Random, octets: bytearray) -> None:
    begin, at = _place(chance, octets), _place(chance, octets)
    octets[at:at] = octets[begin : begin + chance.randint(1, 64)]


def _overwrite(chance: random.Random, octets: bytearray) -> None:
    at, size = _place(chance, octets), chance.randint(1, 4)
    octets[at : at + size] = bytes(chance.choice((0, 0x7F, 0x80, 0xFF)) for _ in range(size))


_WAYS = (_flip, _flip, _insert, _insert_sign, _delete, _cut, _repeat, _overwrite)
