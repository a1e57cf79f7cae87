"""Limits on the work to open a file, since the file itself sets the number of hash rounds for its password.

What programs write: OpenSSL 2,048 rounds for each of the three derivations in a PKCS#12 file, Windows 2,000, Java
10,000, GnuTLS and NSS up to 600,000, which OWASP also recommends; scrypt N=16384, r=8, p=1 (OpenSSL). Java itself
accepts up to 5,000,000 for one derivation, .NET 600,000 for a file, Go 1,000,000. A million rounds take 0.3 to 0.7
seconds, depending on the hash; a scrypt cost N * r * p of a million takes 0.4 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from keyvouch._formats.asn1 import Element
from keyvouch.errors import KeyUnusable

MAX_ROUNDS = 3_000_000
"""Maximum number of rounds for all key derivations in a file together; for scrypt, N * r * p."""
MAX_MEMORY = 256 * 1024 * 1024
"""Maximum number of bytes for scrypt: 128 * N * r (RFC 7914, section 2)."""
MAX_KEY_SIZE = 5 * 1024
"""Maximum size of one PKCS#8 private key in bytes, encrypted or not: RSA-8192 has 4,800, and takes seconds to check."""
MAX_TOTAL_KEY_SIZE = 32 * 1024
"""Maximum total size of the private keys in a file, in bytes: 26 RSA-2048 keys."""

_PBES1 = tuple(bytes.fromhex(prefix) for prefix in ("2a864886f70d010c01", "2a864886f70d0105"))
"""The OID arcs of the encryption schemes in PKCS#12 (RFC 7292, appendix C) and PKCS#5 (RFC 8018, appendix A.3)."""
_PBKDF2 = bytes.fromhex("2a864886f70d01050c")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_INTEGER = b"\x02"
_MAX_INTEGER_BYTES = 8
"""Maximum number of bytes of an integer; a longer one exceeds every limit."""
_BLOCK = 32
"""Number of bytes that PBKDF2 with SHA-256 derives per block."""


def require_few_rounds(path: Path, rounds: Iterable[int], hint: str) -> None:
    """Raise `KeyUnusable` if this is too many rounds of key derivation."""
    if (total := sum(rounds)) > MAX_ROUNDS:
        raise KeyUnusable(
            f"Opening {path} requires {total:,} rounds of key derivation; the limit is {MAX_ROUNDS:,}.", hint=hint
        )


def require_small_keys(path: Path, sizes: Iterable[int]) -> None:
    """Raise `KeyUnusable` if private keys of these sizes, in bytes, take too long to check."""
    sizes = list(sizes)
    for size, limit in ((max(sizes, default=0), MAX_KEY_SIZE), (sum(sizes), MAX_TOTAL_KEY_SIZE)):
        if size > limit:
            what = "a private key" if limit == MAX_KEY_SIZE else "private keys"
            raise KeyUnusable(
                f"{path} contains {what} of {size:,} bytes; the limit is {limit:,}.",
                hint="Use RSA with at most 8192 bits, or an elliptic curve, and a separate file for each key.",
            )


def rounds_of(tree: Element, path: Path, hint: str) -> Iterator[int]:
    """Yield the number of rounds for every key derivation in the tree's algorithm identifiers.

    Raises `KeyUnusable` if scrypt would need too much memory.
    """
    for element in tree.walk():
        match element:
            # Whatever the tags are: decryption does not check them either.
            case Element(children=(Element(content=oid), Element(children=parameters), *_)):
                if oid == _SCRYPT:
                    yield _scrypt(parameters, path, hint)
                elif oid == _PBKDF2:
                    yield _pbkdf2(parameters)
                elif oid.startswith(_PBES1):
                    yield from (number(each) for each in parameters[1:2] if each.tag == _INTEGER)


def number(element: Element) -> int:
    """Return an INTEGER's value, at least 1; for a very large one, a number above every limit."""
    if element.tag != _INTEGER:
        return 1
    if len(element.content) > _MAX_INTEGER_BYTES:
        return 1 << 8 * _MAX_INTEGER_BYTES
    return max(1, int.from_bytes(element.content, "big"))


def _pbkdf2(parameters: tuple[Element, ...]) -> int:
    """Return the rounds: PBKDF2-params are salt, iterationCount, keyLength OPTIONAL, prf (RFC 8018, appendix A.2)."""
    numbers = [number(each) for each in parameters[1:] if each.tag == _INTEGER]
    rounds = numbers[0] if numbers else 1
    key_length = numbers[1] if len(numbers) > 1 else _BLOCK
    return rounds * math.ceil(key_length / _BLOCK)


def _scrypt(parameters: tuple[Element, ...], path: Path, hint: str) -> int:
    """Return N * r * p: scrypt-params are salt, N, r, p, keyLength OPTIONAL (RFC 7914, section 7.1)."""
    cost, block_size, parallelism, *_ = [*map(number, parameters[1:4]), 1, 1, 1]
    if (memory := 128 * cost * block_size) > MAX_MEMORY:
        raise KeyUnusable(
            f"Opening {path} requires {memory // 2**20:,} MiB of memory (scrypt);"
            f" the limit is {MAX_MEMORY // 2**20:,} MiB.",
            hint=hint,
        )
    return cost * block_size * parallelism
