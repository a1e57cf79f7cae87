"""RSASSA-PSS keys (RFC 4055): `cryptography` loads them as plain RSA keys, without their restrictions."""

from __future__ import annotations

import base64
import textwrap
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import PBES, serialize_key_and_certificates

from keyvouch._formats import asn1, pss
from keyvouch._formats.asn1 import Element
from keyvouch.algorithms import ALGORITHMS, Algorithm
from keyvouch.errors import KeyUnusable
from keyvouch.stores import pkcs12

_LINE_LENGTH = 64
"""Maximum length of a line in PEM (RFC 7468, section 2)."""


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
        if format is not PrivateFormat.PKCS8 or encoding not in (Encoding.DER, Encoding.PEM):
            return bytes(self._plain.private_bytes(encoding, format, encryption_algorithm))
        is_plain = isinstance(encryption_algorithm, NoEncryption)
        data = self._pkcs8() if is_plain else self._encrypted_pkcs8(encryption_algorithm.password)
        if encoding is Encoding.DER:
            return data
        label = b"PRIVATE KEY" if is_plain else b"ENCRYPTED PRIVATE KEY"
        lines = textwrap.wrap(base64.b64encode(data).decode(), _LINE_LENGTH)
        return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, "\n".join(lines).encode(), label)

    def _pkcs8(self) -> bytes:
        data = self._plain.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        version, _, key, *_ = asn1.parse(data).children
        return asn1.encode(Element(asn1.SEQUENCE, b"", (version, self._algorithm, key)))

    def _encrypted_pkcs8(self, password: bytes) -> bytes:
        """Return what `cryptography` puts into a PKCS#12: it encrypts no other PKCS#8 than its own."""
        builder = PrivateFormat.PKCS12.encryption_builder()
        encryption = builder.key_cert_algorithm(PBES.PBESv2SHA256AndAES256CBC).build(password)
        pfx = asn1.parse(serialize_key_and_certificates(None, self, None, None, encryption))
        _, *safes = pkcs12.plain_safes(pfx)
        (bag,) = pkcs12.bags(safes).keys
        return asn1.encode(bag.value)
