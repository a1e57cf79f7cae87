"""Parse and write Windows' key blobs (bcrypt.h; wincrypt.h, RSAPUBKEY)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from keyvouch.algorithms import CRYPTOGRAPHY, elliptic_curve

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

_RSA_HEADER = "<6I"
"""BCRYPT_RSAKEY_BLOB: magic, bits, sizes in bytes of exponent, modulus and primes; then these, big-endian."""
_EC_HEADER = "<2I"
"""BCRYPT_ECCKEY_BLOB: magic, size of a coordinate in bytes; then x and y."""
_LEGACY_HEADER = "<BBHIIII"
"""PUBLICKEYSTRUC and RSAPUBKEY: type, version, reserved, algorithm, magic, bits, exponent; little-endian."""

_PRIVATEKEYBLOB, _CALG_RSA_KEYX, _RSA2 = 0x7, 0xA400, int.from_bytes(b"RSA2", "little")


@CRYPTOGRAPHY
def rsa_public_key(blob: bytes) -> RSAPublicKey:
    """Parse a BCRYPT_RSAPUBLIC_BLOB."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    _, _, exponent_size, modulus_size, _, _ = struct.unpack_from(_RSA_HEADER, blob)
    start = struct.calcsize(_RSA_HEADER)
    exponent, modulus = blob[start : start + exponent_size], blob[start + exponent_size :][:modulus_size]
    return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()


@CRYPTOGRAPHY
def ec_public_key(blob: bytes) -> EllipticCurvePublicKey:
    """Parse a BCRYPT_ECCPUBLIC_BLOB of P-256, P-384 or P-521."""
    from cryptography.hazmat.primitives.asymmetric import ec

    _, size = struct.unpack_from(_EC_HEADER, blob)
    names = {32: "P-256", 48: "P-384", 66: "P-521"}
    point = b"\x04" + blob[struct.calcsize(_EC_HEADER) :][: 2 * size]
    return ec.EllipticCurvePublicKey.from_encoded_point(elliptic_curve(names[size]), point)


@CRYPTOGRAPHY
def legacy_public_key(blob: bytes) -> RSAPublicKey:
    """Parse a PUBLICKEYBLOB."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    exponent, (modulus,) = _legacy(blob, 1)
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


@CRYPTOGRAPHY
def legacy_private_key(blob: bytes) -> RSAPrivateKey:
    """Parse a PRIVATEKEYBLOB."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    exponent, (modulus, p, q, dp, dq, qi, d) = _legacy(blob, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 1)
    return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(exponent, modulus)).private_key()


def legacy_blob(key: RSAPrivateKey) -> bytes:
    """Write a PRIVATEKEYBLOB of type key exchange, the type used for signing here.

    Raises OverflowError if the format cannot represent the key: primes of different lengths, an exponent of more than
    32 bits, or a length that is not a multiple of 16 bits.
    """
    numbers = key.private_numbers()
    size, exponent = key.key_size // 8, numbers.public_numbers.e
    if exponent >> 32 or key.key_size % 16:
        raise OverflowError
    header = struct.pack(_LEGACY_HEADER, _PRIVATEKEYBLOB, 2, 0, _CALG_RSA_KEYX, _RSA2, key.key_size, exponent)
    halves = (numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    return b"".join(
        (
            header,
            numbers.public_numbers.n.to_bytes(size, "little"),
            *(each.to_bytes(size // 2, "little") for each in halves),
            numbers.d.to_bytes(size, "little"),
        )
    )


def _legacy(blob: bytes, *lengths: float) -> tuple[int, list[int]]:
    """Return the public exponent and the numbers of a blob; `lengths` are relative to the modulus."""
    *_, bits, exponent = struct.unpack_from(_LEGACY_HEADER, blob)
    offset, numbers = struct.calcsize(_LEGACY_HEADER), []
    for length in lengths:
        size = int(bits // 8 * length)
        numbers.append(int.from_bytes(blob[offset : offset + size], "little"))
        offset += size
    return exponent, numbers
