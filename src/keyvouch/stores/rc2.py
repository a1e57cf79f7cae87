"""RC2 in CBC mode (RFC 2268), decryption only: `cryptography` has no effective key lengths below 128 bits.

Windows before version 10 and OpenSSL before version 3 encrypt the certificates of a PFX file with 40 bits.
"""

from __future__ import annotations

import struct

BLOCK = 8
"""Number of bytes of a block."""

_PI = bytes.fromhex(
    "d978f9c419ddb5ed28e9fd794aa0d89dc67e37832b76538e624c6488448bfba2179a59f587b34f1361456d8d09817d32"
    "bd8f40eb86b77b0bf09521225c6b4e8254d66593ce60b21c7356c014a78cf1dc1275ca1f3bbee4d1423dd430a33cb626"
    "6fbf0eda4669075727f21d9bbc944303f811c7f690ef3ee706c3d52fc8661ed708e8eade8052eef784aa72ac354d6a2a"
    "961ad2715a1549744b9fd05e0418a4ecc2e0416e0f51cbcc2491af50a1f47039997c3a8523b8b47afc02365b25559731"
    "2d5dfa98e38a92ae05df2910676cbac9d300e6cfe19ea82c6316013f58e289a90d38341bab33ffb0bb480c5fb9b1cd2e"
    "c5f3db47e5a59c770aa62068fe7fc1ad"
)
"""PITABLE: a permutation of all bytes (RFC 2268, section 2)."""
_MIXES = 16
_BEFORE_MASH = (11, 5)
"""The mixing rounds, counted down, that a mashing round follows (RFC 2268, section 4)."""
_ROTATIONS = (1, 2, 3, 5)


def decrypt_cbc(key: bytes, effective_bits: int, vector: bytes, data: bytes) -> bytes:
    """Return the plaintext, with its padding. Raises ValueError if the data are not whole blocks."""
    if len(data) % BLOCK or len(vector) != BLOCK:
        raise ValueError("incomplete block")
    words = _expand(key, effective_bits)
    plain = bytearray()
    for begin in range(0, len(data), BLOCK):
        block = data[begin : begin + BLOCK]
        plain += bytes(a ^ b for a, b in zip(_decrypt_block(words, block), vector, strict=True))
        vector = block
    return bytes(plain)


def _expand(key: bytes, effective_bits: int) -> tuple[int, ...]:
    """Return the 64 words of the expanded key (RFC 2268, section 2)."""
    size, mask = (effective_bits + 7) // 8, 0xFF >> -effective_bits % 8
    table = bytearray(key.ljust(128, b"\0"))
    for index in range(len(key), 128):
        table[index] = _PI[(table[index - 1] + table[index - len(key)]) & 0xFF]
    table[128 - size] = _PI[table[128 - size] & mask]
    for index in reversed(range(128 - size)):
        table[index] = _PI[table[index + 1] ^ table[index + size]]
    return struct.unpack("<64H", table)


def _decrypt_block(words: tuple[int, ...], block: bytes) -> bytes:
    state = list(struct.unpack("<4H", block))
    for number in reversed(range(_MIXES)):
        for index in reversed(range(4)):
            rotated = state[index] >> _ROTATIONS[index] | state[index] << 16 - _ROTATIONS[index]
            first, second, third = state[index - 1], state[index - 2], state[index - 3]
            state[index] = rotated - words[4 * number + index] - (first & second) - (~first & third) & 0xFFFF
        if number in _BEFORE_MASH:
            for index in reversed(range(4)):
                state[index] = state[index] - words[state[index - 1] & 63] & 0xFFFF
    return struct.pack("<4H", *state)
