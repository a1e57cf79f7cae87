"""Keys in the formats in which Windows exports them."""

from __future__ import annotations

import ctypes
import struct
import subprocess

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyvouch_windows.error_codes import CODES
from keyvouch_windows.ncrypt import CRYPT_PKCS12_PBE_PARAMS, NCryptBuffer, NCryptBufferDesc
from scripted_calls import CallFailedError

AnyKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
CURVES: dict[str, tuple[ec.EllipticCurve, bytes]] = {
    "ECDSA_P256": (ec.SECP256R1(), b"ECS1"),
    "ECDSA_P384": (ec.SECP384R1(), b"ECS3"),
    "ECDSA_P521": (ec.SECP521R1(), b"ECS5"),
}


def public_blob(key: AnyKey, kind: str) -> bytes:
    """Return a public key as a BCRYPT_RSAPUBLIC_BLOB or BCRYPT_ECCPUBLIC_BLOB."""
    if isinstance(key, rsa.RSAPrivateKey) and kind == "RSAPUBLICBLOB":
        numbers = key.public_key().public_numbers()
        modulus = numbers.n.to_bytes(key.key_size // 8, "big")
        return (
            b"RSA1" + struct.pack("<5I", key.key_size, 3, len(modulus), 0, 0) + numbers.e.to_bytes(3, "big") + modulus
        )
    if isinstance(key, ec.EllipticCurvePrivateKey) and kind == "ECCPUBLICBLOB":
        point, width = key.public_key().public_numbers(), (key.key_size + 7) // 8
        (magic,) = (magic for curve, magic in CURVES.values() if curve.name == key.curve.name)
        return magic + struct.pack("<I", width) + point.x.to_bytes(width, "big") + point.y.to_bytes(width, "big")
    raise CallFailedError(CODES["NTE_NOT_SUPPORTED"])


def encrypted_pkcs8(key: AnyKey, parameters: int | None) -> bytes:
    """Return PKCS#8, encrypted according to the parameters; with OpenSSL, since `cryptography` lacks this format."""
    if parameters is None:
        raise CallFailedError(CODES["NTE_BAD_FLAGS"])
    listed = NCryptBufferDesc.from_address(parameters)
    buffers = (NCryptBuffer * listed.cBuffers).from_address(listed.pBuffers)
    buffer_values = {each.BufferType: ctypes.string_at(each.pvBuffer, each.cbBuffer) for each in buffers}
    assert (listed.ulVersion, [each.BufferType for each in buffers]) == (0, [46, 41, 42])
    secret = buffer_values[46].decode("utf-16-le")
    assert secret.endswith("\0")
    assert "\0" not in secret[:-1]
    assert buffer_values[41] == b"1.2.840.113549.1.12.1.3\0"
    derived = CRYPT_PKCS12_PBE_PARAMS.from_buffer_copy(buffer_values[42])
    assert derived.iIterations >= 2000
    assert derived.cbSalt == len(buffer_values[42]) - ctypes.sizeof(derived) == 8
    assert buffer_values[42][-8:] not in (bytes(8), secret.encode()[:8])
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    forms = ("-topk8", "-inform", "DER", "-outform", "DER", "-v1", "PBE-SHA1-3DES")
    return subprocess.run(
        ["openssl", "pkcs8", *forms, "-passout", f"pass:{secret[:-1]}"], input=plain, capture_output=True, check=True
    ).stdout


def legacy_blob(key: AnyKey, *, private: bool) -> bytes:
    """Return a key as a PUBLICKEYBLOB or PRIVATEKEYBLOB."""
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers, bits = key.private_numbers(), key.key_size
    head = struct.pack("<BBHI", 0x7 if private else 0x6, 2, 0, 0xA400)
    head += (b"RSA2" if private else b"RSA1") + struct.pack("<II", bits, numbers.public_numbers.e)
    parts = [(numbers.public_numbers.n, 8)]
    if private:
        halves = (numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
        parts += [*((each, 16) for each in halves), (numbers.d, 8)]
    return head + b"".join(number.to_bytes(bits // divisor, "little") for number, divisor in parts)
