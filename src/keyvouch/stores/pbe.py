"""Password-based encryption and MACs of PKCS#12 (RFC 7292) and PKCS#5 (RFC 8018, RFC 9579).

`cryptography` decrypts only a whole PKCS#12 file, and fails as a whole if one certificate or key in it is unusable.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from keyvouch._formats import asn1
from keyvouch._formats.asn1 import Element
from keyvouch.stores import limits, rc2

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, CipherAlgorithm


class UnsupportedAlgorithmError(ValueError):
    """An algorithm that is not implemented here; its text is the object identifier."""


class WrongPasswordError(ValueError):
    """The plaintext is not that of a key or certificates."""


class DamagedError(ValueError):
    """The plaintext begins like that of a key or certificates: the password is correct, and the rest was changed."""


def _oids(arc: str, suffixes: str) -> list[bytes]:
    return [bytes.fromhex(arc) + bytes((int(suffix),)) for suffix in suffixes.split()]


_RC4_128, _RC4_40, _DES3, _DES2, _RC2_128, _RC2_40 = _oids("2a864886f70d010c01", "1 2 3 4 5 6")
"""The schemes of PKCS#12 (RFC 7292, appendix C)."""
_SCHEMES = {_RC4_128: (16, 0), _RC4_40: (5, 0), _DES3: (24, 8), _DES2: (16, 8), _RC2_128: (16, 8), _RC2_40: (5, 8)}
"""Number of bytes of the key and of the initialization vector."""
_MD5_DES, _MD5_RC2, _SHA1_DES, _SHA1_RC2 = _oids("2a864886f70d0105", "3 6 10 11")
_PBES1 = {_MD5_DES: "md5", _MD5_RC2: "md5", _SHA1_DES: "sha1", _SHA1_RC2: "sha1"}
"""The schemes of PKCS#5 version 1.5 (RFC 8018, appendix A.3), with their hash."""
_PBKDF2, _PBES2, _PBMAC1 = _oids("2a864886f70d0105", "12 13 14")
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_HMACS = dict(
    zip(
        _oids("2a864886f70d02", "7 8 9 10 11 12 13"),
        ("sha1", "sha224", "sha256", "sha384", "sha512", "sha512_224", "sha512_256"),
        strict=True,
    )
)
"""Hashes of HMAC, as `hashlib` names them, by the HMAC's OID (RFC 8018, appendix B.1)."""
_HASHES = {
    bytes.fromhex("2a864886f70d0205"): "md5",
    bytes.fromhex("2b0e03021a"): "sha1",
    **dict(
        zip(
            _oids("6086480165030402", "4 1 2 3 5 6 8 9 10"),
            ("sha224", "sha256", "sha384", "sha512", "sha512_224", "sha512_256", "sha3_256", "sha3_384", "sha3_512"),
            strict=True,
        )
    ),
}
_AES = dict(zip(_oids("6086480165030401", "2 22 42"), (16, 24, 32), strict=True))
_CAMELLIA = dict(zip(_oids("2a83088c9a4b3d010101", "2 3 4"), (16, 24, 32), strict=True))
_DES_CBC, _DES3_CBC = bytes.fromhex("2b0e030207"), bytes.fromhex("2a864886f70d0307")
_RC2_CBC = bytes.fromhex("2a864886f70d0302")
_RC2_VERSIONS = {160: 40, 120: 64, 58: 128}
"""Effective key lengths by their encoding in the parameters (RFC 8018, appendix B.2.3)."""
_RC2_KEY_SIZE = 4
"""Default number of bytes if there is no version: 32 bits."""
_PEM_CIPHERS = {
    **dict(zip(("AES-128-CBC", "AES-192-CBC", "AES-256-CBC"), _AES, strict=True)),
    **dict(zip(("CAMELLIA-128-CBC", "CAMELLIA-192-CBC", "CAMELLIA-256-CBC"), _CAMELLIA, strict=True)),
    "DES-CBC": _DES_CBC,
    "DES-EDE3-CBC": _DES3_CBC,
}
"""OIDs of the ciphers that OpenSSL names in PEM headers."""
_FOR_KEY, _FOR_VECTOR, _FOR_MAC = 1, 2, 3
"""What bytes are derived for in PKCS#12 (RFC 7292, appendix B.3)."""
_MAX_KEY_SIZE = 64


def decrypt(algorithm: Element, data: bytes, password: str | None) -> bytes:
    """Return the plaintext of data encrypted with this AlgorithmIdentifier; None is no password, and not an empty one.

    Raises `UnsupportedAlgorithmError`, `WrongPasswordError`, `DamagedError`, and ValueError if the parameters are
    invalid.
    """
    oid, parameters = algorithm.child(0).content, algorithm.child(1)
    if oid == _PBES2:
        return _decrypt_pbes2(parameters, data, (password or "").encode())
    salt, rounds = parameters.child(0).content, limits.number(parameters.child(1))
    if oid in _PBES1:
        return _decrypt_pbes1(oid, salt, rounds, data, (password or "").encode())
    if oid not in _SCHEMES:
        raise UnsupportedAlgorithmError(asn1.dotted_oid(oid))
    key_size, vector_size = _SCHEMES[oid]
    key = derive("sha1", password, salt, purpose=_FOR_KEY, rounds=rounds, size=key_size)
    vector = derive("sha1", password, salt, purpose=_FOR_VECTOR, rounds=rounds, size=vector_size)
    if oid in {_RC4_40, _RC4_128}:
        return _decrypt_rc4(key, data)
    if oid in {_RC2_40, _RC2_128}:
        return _unpad(rc2.decrypt_cbc(key, 8 * key_size, vector, data), rc2.BLOCK)
    return _decrypt_cbc(_triple_des(key), vector, data)


def decrypt_pem(cipher: str, vector: bytes, data: bytes, password: str) -> bytes:
    """Return the plaintext of a PEM block encrypted as a whole, with the cipher and vector in its headers.

    Raises `UnsupportedAlgorithmError`, `WrongPasswordError`, `DamagedError`, and ValueError if the vector is invalid.
    """
    if cipher not in _PEM_CIPHERS:
        raise UnsupportedAlgorithmError(cipher)
    new, size = _cipher(_PEM_CIPHERS[cipher])
    salt, key, digest = vector[:8], b"", b""
    while len(key) < size:
        digest = hashlib.md5(digest + password.encode() + salt, usedforsecurity=False).digest()
        key += digest
    return _decrypt_cbc(new(key[:size]), vector, data)


def mac(digest_info: Element, salt: bytes, rounds: int, data: bytes, password: str | None) -> bytes:
    """Return the MAC of a PKCS#12's content, with the algorithm in its DigestInfo.

    Raises `UnsupportedAlgorithmError`, and ValueError if the parameters are invalid.
    """
    algorithm = digest_info.child(0)
    oid = algorithm.child(0).content
    if oid == _PBMAC1:
        parameters = algorithm.child(1)
        scheme = parameters.child(1).child(0).content
        key = _derive_pbes2(parameters.child(0), (password or "").encode(), None)
        return hmac.digest(key, data, _lookup(_HMACS, scheme))
    name = _lookup(_HASHES, oid)
    size = hashlib.new(name, usedforsecurity=False).digest_size
    key = derive(name, password, salt, purpose=_FOR_MAC, rounds=rounds, size=size)
    return hmac.digest(key, data, name)


def derive(name: str, password: str | None, salt: bytes, *, purpose: int, rounds: int, size: int) -> bytes:
    """Return bytes derived as in PKCS#12 (RFC 7292, appendix B.2)."""
    new = functools.partial(getattr(hashlib, name, None) or functools.partial(hashlib.new, name), usedforsecurity=False)
    block = new(b"").block_size
    text = b"" if password is None else password.encode("utf-16-be", "surrogatepass") + b"\0\0"
    source, derived = _fill(salt, block) + _fill(text, block), b""
    while len(derived) < size:
        digest = new(bytes((purpose,)) * block + source).digest()
        for _ in range(rounds - 1):
            digest = new(digest).digest()
        derived += digest
        source = _add(source, _fill(digest, block)[:block], block)
    return derived[:size]


def _fill(data: bytes, block: int) -> bytes:
    """Return the data, repeated up to whole blocks."""
    size = -(-len(data) // block) * block
    return (data * (size // len(data) + 1))[:size] if data else b""


def _add(source: bytes, digest: bytes, block: int) -> bytes:
    """Add the digest and one to each block."""
    addend, modulus = int.from_bytes(digest, "big") + 1, 1 << 8 * block
    blocks = (int.from_bytes(source[begin : begin + block], "big") for begin in range(0, len(source), block))
    return b"".join(((each + addend) % modulus).to_bytes(block, "big") for each in blocks)


def _decrypt_pbes1(oid: bytes, salt: bytes, rounds: int, data: bytes, password: bytes) -> bytes:
    digest = password + salt
    for _ in range(rounds):
        digest = hashlib.new(_PBES1[oid], digest, usedforsecurity=False).digest()
    key, vector = digest[:8], digest[8:16]
    if oid in {_MD5_RC2, _SHA1_RC2}:
        return _unpad(rc2.decrypt_cbc(key, 64, vector, data), rc2.BLOCK)
    return _decrypt_cbc(_triple_des(key), vector, data)


def _decrypt_pbes2(parameters: Element, data: bytes, password: bytes) -> bytes:
    derivation, scheme = parameters.child(0), parameters.child(1)
    oid = scheme.child(0).content
    if oid == _RC2_CBC:
        version, vector = scheme.child(1).child(0), scheme.child(1).children[-1].content
        key = _derive_pbes2(derivation, password, _RC2_KEY_SIZE)
        bits = _RC2_VERSIONS.get(limits.number(version), 8 * len(key))
        return _unpad(rc2.decrypt_cbc(key, bits, vector, data), rc2.BLOCK)
    new, size = _cipher(oid)
    return _decrypt_cbc(new(_derive_pbes2(derivation, password, size)), scheme.child(1).content, data)


def _cipher(oid: bytes) -> tuple[Callable[[bytes], CipherAlgorithm], int]:
    """Return the cipher with this OID, and the number of bytes of its key."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
    from cryptography.hazmat.primitives.ciphers.algorithms import AES

    if oid in _AES:
        return AES, _AES[oid]
    if oid in _CAMELLIA:
        return Camellia, _CAMELLIA[oid]
    if oid in {_DES_CBC, _DES3_CBC}:
        return _triple_des, 8 if oid == _DES_CBC else 24
    raise UnsupportedAlgorithmError(asn1.dotted_oid(oid))


def _derive_pbes2(derivation: Element, password: bytes, size: int | None) -> bytes:
    """Return a key for PBES2 or PBMAC1; the parameters may contain its size, and must if it is None."""
    oid, parameters = derivation.child(0).content, derivation.child(1).children
    if oid not in {_PBKDF2, _SCRYPT}:
        raise UnsupportedAlgorithmError(asn1.dotted_oid(oid))
    fixed = 2 if oid == _PBKDF2 else 4  # salt and rounds; salt, N, r and p
    salt, *numbers = parameters[:fixed]
    rest = parameters[fixed:]
    given = [limits.number(each) for each in rest if each.tag == asn1.INTEGER]
    size = given[0] if given else size
    if size is None or size > _MAX_KEY_SIZE or len(numbers) != fixed - 1:
        raise ValueError("invalid parameters of the key derivation")
    if oid == _SCRYPT:
        cost, block_size, parallelism = map(limits.number, numbers)
        return hashlib.scrypt(
            password, salt=salt.content, n=cost, r=block_size, p=parallelism, maxmem=2 * limits.MAX_MEMORY, dklen=size
        )
    functions = [each.child(0).content for each in rest if each.tag == asn1.SEQUENCE]
    name = _lookup(_HMACS, functions[0]) if functions else "sha1"
    return _pbkdf2(name, password, salt.content, limits.number(numbers[0]), size)


def _pbkdf2(name: str, password: bytes, salt: bytes, rounds: int, size: int) -> bytes:
    """Return a derived key. The OpenSSL of `cryptography` takes half as long as the one of `hashlib`, or less."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    return PBKDF2HMAC(getattr(hashes, name.upper())(), size, salt, rounds).derive(password)


def _decrypt_cbc(algorithm: CipherAlgorithm, vector: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    block: BlockCipherAlgorithm = algorithm  # type: ignore[assignment]
    decryptor = Cipher(algorithm, modes.CBC(vector)).decryptor()
    return _unpad(decryptor.update(data) + decryptor.finalize(), block.block_size // 8)


def _triple_des(key: bytes) -> CipherAlgorithm:
    """Return triple DES; single DES is the same with a key of 8 bytes, and two keys with one of 16."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES

    repeated = key * 3 if len(key) == 8 else key + key[: 24 - len(key)]  # noqa: PLR2004 - bytes of one key and of three
    return TripleDES(repeated)


def _decrypt_rc4(key: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.decrepit.ciphers.algorithms import ARC4
    from cryptography.hazmat.primitives.ciphers import Cipher

    return _require_sequence(Cipher(ARC4(key), None).decryptor().update(data))


def _unpad(plain: bytes, block: int) -> bytes:
    """Return the data without the padding (RFC 8018, section 6.1.1)."""
    count = plain[-1] if plain else 0
    if not 1 <= count <= block or plain[-count:] != bytes((count,)) * count:
        raise _refusal(plain, block)
    return _require_sequence(plain[:-count])


def _require_sequence(plain: bytes) -> bytes:
    """Return the data if they are a SEQUENCE, as everything that is encrypted in these files."""
    try:
        if asn1.parse(plain).tag == asn1.SEQUENCE:
            return plain
    except ValueError:
        pass
    raise _refusal(plain, 0)


def _refusal(plain: bytes, padding: int) -> DamagedError | WrongPasswordError:
    """Return the error for a plaintext, with up to `padding` bytes after it, that is not a SEQUENCE.

    A wrong password results in a SEQUENCE of the right size, with a plausible first element, less than once in 100,000
    times.
    """
    try:
        begin, end = asn1.outline(plain)
    except ValueError as error:
        return WrongPasswordError(str(error))
    fits = plain[:1] == asn1.SEQUENCE and 0 <= len(plain) - end <= padding
    if fits and plain[begin : begin + 1] in {asn1.SEQUENCE, asn1.INTEGER}:
        return DamagedError("the encrypted data were changed")
    return WrongPasswordError("unexpected plaintext")


def _lookup(names: dict[bytes, str], oid: bytes) -> str:
    if oid not in names:
        raise UnsupportedAlgorithmError(asn1.dotted_oid(oid))
    return names[oid]
