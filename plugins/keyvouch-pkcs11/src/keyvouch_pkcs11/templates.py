"""Attribute templates of new objects: generated and imported key pairs, certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvouch.algorithms import key_type
from keyvouch.certificate import to_der
from keyvouch.errors import NotSupported
from keyvouch.store import ForkGate
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11.public_keys import EC_PARAMS, ED25519_EC_PARAMS, PUBLIC_EXPONENT

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey

Attributes = dict[int, ck.AttributeValue]

_IMPORT_GATE = ForkGate()


class KeyIdentifiers(msgspec.Struct, frozen=True):
    """The CKA_ID and the CKA_LABEL of a key and of the objects that belong to it."""

    id: bytes
    label: bytes

    @property
    def attributes(self) -> Attributes:
        """The attributes for the template of a token object."""
        return {ck.CKA_TOKEN: True, ck.CKA_ID: self.id, ck.CKA_LABEL: self.label}


def public_key_template(identifiers: KeyIdentifiers, key_attributes: Attributes) -> Attributes:
    """Return the template of a public key, which anyone can read."""
    return {**key_attributes, **identifiers.attributes, ck.CKA_PRIVATE: False, ck.CKA_VERIFY: True}


def private_key_template(identifiers: KeyIdentifiers, key_attributes: Attributes, *, exportable: bool) -> Attributes:
    """Return the template of a private key, which cannot be extracted unless it is `exportable`."""
    return {
        **key_attributes,
        **identifiers.attributes,
        ck.CKA_PRIVATE: True,
        ck.CKA_SIGN: True,
        ck.CKA_SENSITIVE: not exportable,
        ck.CKA_EXTRACTABLE: exportable,
    }


def certificate_template(certificate: Certificate, identifiers: KeyIdentifiers) -> Attributes:
    """Return the template of a certificate."""
    return {
        ck.CKA_CLASS: ck.CKO_CERTIFICATE,
        ck.CKA_CERTIFICATE_TYPE: ck.CKC_X_509,
        **identifiers.attributes,
        ck.CKA_PRIVATE: False,
        ck.CKA_SUBJECT: certificate.subject.public_bytes(),
        ck.CKA_ISSUER: certificate.issuer.public_bytes(),
        ck.CKA_SERIAL_NUMBER: _der(certificate.serial_number),
        ck.CKA_VALUE: to_der(certificate),
    }


def generation(kind: str) -> tuple[int, Attributes]:
    """Return the mechanism that generates this type of key, and the key's attributes for the public template.

    Raises `NotSupported`.
    """
    name, _, size = kind.partition("-")
    if name == "RSA":
        return ck.CKM_RSA_PKCS_KEY_PAIR_GEN, {ck.CKA_MODULUS_BITS: int(size), ck.CKA_PUBLIC_EXPONENT: PUBLIC_EXPONENT}
    if kind in EC_PARAMS:
        return ck.CKM_EC_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: EC_PARAMS[kind]}
    if kind == "Ed25519":
        return ck.CKM_EC_EDWARDS_KEY_PAIR_GEN, {ck.CKA_EC_PARAMS: ED25519_EC_PARAMS}
    raise NotSupported(f"A PKCS#11 token cannot generate {kind} keys.", hint="Use RSA-2048 or P-256.")


def imported_key(key: PrivateKey) -> tuple[Attributes, Attributes]:
    """Return the key's attributes for the private and the public template. Raises `NotSupported`."""
    if isinstance(key, rsa.RSAPrivateKey):
        shared, private, public = _rsa_attributes(key)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        shared, private, public = _ec_attributes(key)
    else:
        raise NotSupported(
            "Ed25519 keys cannot be imported into a token.", hint="Generate the key on the token: `keyvouch new`."
        )
    return (
        {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY, **shared, **private},
        {ck.CKA_CLASS: ck.CKO_PUBLIC_KEY, **shared, **public},
    )


def _rsa_attributes(key: rsa.RSAPrivateKey) -> tuple[Attributes, Attributes, Attributes]:
    """Return the attributes of both objects, of the private key only, and of the public key only."""
    numbers = key.private_numbers()
    public = {ck.CKA_MODULUS: numbers.public_numbers.n, ck.CKA_PUBLIC_EXPONENT: numbers.public_numbers.e}
    private = {
        ck.CKA_PRIVATE_EXPONENT: numbers.d,
        ck.CKA_PRIME_1: numbers.p,
        ck.CKA_PRIME_2: numbers.q,
        ck.CKA_EXPONENT_1: numbers.dmp1,
        ck.CKA_EXPONENT_2: numbers.dmq1,
        ck.CKA_COEFFICIENT: numbers.iqmp,
    }
    return {ck.CKA_KEY_TYPE: ck.CKK_RSA, **_big_integers(public)}, _big_integers(private), {}


def _ec_attributes(key: ec.EllipticCurvePrivateKey) -> tuple[Attributes, Attributes, Attributes]:
    """Return the attributes of both objects, of the private key only, and of the public key only."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    value = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)
    shared: Attributes = {ck.CKA_KEY_TYPE: ck.CKK_EC, ck.CKA_EC_PARAMS: EC_PARAMS[key_type(key)]}
    return shared, {ck.CKA_VALUE: value}, {ck.CKA_EC_POINT: _der(point)}


def _big_integers(numbers: dict[int, int]) -> Attributes:
    return {each: number.to_bytes((number.bit_length() + 7) // 8) for each, number in numbers.items()}


@_IMPORT_GATE
def _der(value: int | bytes) -> bytes:
    from cryptography.hazmat import asn1

    return asn1.encode_der(value)
