"""RSASSA-PSS keys (RFC 4055): `cryptography` loads them as plain RSA keys, without their restrictions."""

from __future__ import annotations

from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keyvouch._formats import asn1, pss
from keyvouch._formats.asn1 import Element
from keyvouch.algorithms import ALGORITHMS, Algorithm
from keyvouch.errors import KeyUnusable


class _Wrapper:
    """What both keys share: the plain RSA key does the work."""

    def __init__(self, plain: Any, algorithm: Element) -> None:
        self._plain = plain
        self._algorithm = algorithm

    @property
    def key_size(self) -> int:
        return int(self._plain.key_size)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class PssPublicKey(_Wrapper, rsa.RSAPublicKey):
    """A public key whose SubjectPublicKeyInfo contains the restrictions, as that in its certificate does."""

    def public_bytes(self, encoding: Encoding, format: PublicFormat) -> bytes:  # noqa: A002 - the name of the base class
        data: bytes = self._plain.public_bytes(encoding, format)
        if (encoding, format) == (Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            return pss.key_info(self._algorithm, data)
        return data

    def public_numbers(self) -> rsa.RSAPublicNumbers:
        numbers: rsa.RSAPublicNumbers = self._plain.public_numbers()
        return numbers

    def verify(self, *arguments: Any) -> None:
        self._plain.verify(*arguments)

    def encrypt(self, *arguments: Any) -> bytes:
        return bytes(self._plain.encrypt(*arguments))

    def recover_data_from_signature(self, *arguments: Any) -> bytes:
        return bytes(self._plain.recover_data_from_signature(*arguments))

    def __eq__(self, other: object) -> bool:
        return bool(self._plain == (other._plain if isinstance(other, PssPublicKey) else other))

    __hash__ = None  # type: ignore[assignment]  # as in `cryptography`


class PssPrivateKey(_Wrapper, rsa.RSAPrivateKey):
    """A private key that is restricted to PSS, and perhaps to one hash."""

    def __init__(self, plain: rsa.RSAPrivateKey, algorithm: Element) -> None:
        """Raise `KeyUnusable` if no algorithm of JOSE fits the restrictions, and ValueError if they are invalid."""
        super().__init__(plain, algorithm)
        hashes = pss.allowed_hashes(algorithm)
        self.algorithms: tuple[Algorithm, ...] = tuple(
            each for each in ALGORITHMS.values() if each.family == "RSA-PSS" and each.hash_name in hashes
        )
        if not self.algorithms:
            raise KeyUnusable(
                "The parameters of the RSASSA-PSS key allow no algorithm of JOSE.",
                hint="Use a key with SHA-256, SHA-384 or SHA-512, also for MGF1, and a salt no longer than the hash.",
            )

    def public_key(self) -> rsa.RSAPublicKey:
        return PssPublicKey(self._plain.public_key(), self._algorithm)

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        numbers: rsa.RSAPrivateNumbers = self._plain.private_numbers()
        return numbers

    def sign(self, *arguments: Any) -> bytes:
        return bytes(self._plain.sign(*arguments))

    def decrypt(self, *arguments: Any) -> bytes:
        return bytes(self._plain.decrypt(*arguments))

    def private_bytes(self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: Any) -> bytes:  # noqa: A002
        data: bytes = self._plain.private_bytes(encoding, format, encryption_algorithm)
        if (encoding, format) == (Encoding.DER, PrivateFormat.PKCS8) and isinstance(encryption_algorithm, NoEncryption):
            version, _, key, *_ = asn1.parse(data).children
            return asn1.encode(Element(asn1.SEQUENCE, b"", (version, self._algorithm, key)))
        return data
