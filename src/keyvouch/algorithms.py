"""JOSE signature algorithms (RFC 7518 section 3, RFC 8037), key types, and which of them fit together.

An `Algorithm` is one of the ten objects in `ALGORITHMS`: compare them by identity. `cryptography` is imported only when
a hash or a key is first needed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NewType

from keyvouch._system.forks import ForkGate
from keyvouch.errors import AlgorithmUnsupported, ConfigurationError, KeyUnusable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurve,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
    PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

DerSignature = NewType("DerSignature", bytes)
"""An ECDSA signature in X9.62 form: a DER SEQUENCE of r and s. Stores' libraries often use it."""
JoseSignature = NewType("JoseSignature", bytes)
"""A signature in JOSE form: for ECDSA r and s concatenated, each of the curve's full width."""


CRYPTOGRAPHY = ForkGate()
"""Gate for calls of `cryptography`: OpenSSL locks its random number generator, the Rust code its initialization."""


class Algorithm:
    """A JOSE signature algorithm."""

    def __init__(self, name: str, family: str, hash_name: str, curve: str = "", coordinate_size: int = 0) -> None:
        self.name = name
        """The header's `alg` value."""
        self.family = family
        """Signature scheme: "RSA-PSS", "RSA-PKCS1", "ECDSA" or "EdDSA"."""
        self.hash_name = hash_name
        """Hash name as in `hashlib` and `cryptography`, in lower case; "" for EdDSA, which hashes internally."""
        self.curve = curve
        """The only curve it is used with: "P-256", "P-384", "P-521", "Ed25519"; "" for RSA."""
        self.coordinate_size = coordinate_size
        """For ECDSA, the size in bytes of r and of s."""

    def __repr__(self) -> str:
        return f"<Algorithm {getattr(self, 'name', '?')}>"

    @cached_property
    def hash(self) -> HashAlgorithm:
        """The hash object for `cryptography`. PSS salts are as long as its digest (RFC 7518, section 3.5)."""
        from cryptography.hazmat.primitives import hashes

        chosen: HashAlgorithm = getattr(hashes, self.hash_name.upper())()
        return chosen

    @cached_property
    def padding(self) -> PSS | PKCS1v15:
        """The RSA padding object for `cryptography`."""
        from cryptography.hazmat.primitives.asymmetric import padding

        if self.family == "RSA-PKCS1":
            return padding.PKCS1v15()
        mask: MGF1 = padding.MGF1(self.hash)
        return padding.PSS(mask, self.hash.digest_size)


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("PS256", "RSA-PSS", "sha256"),
        Algorithm("PS384", "RSA-PSS", "sha384"),
        Algorithm("PS512", "RSA-PSS", "sha512"),
        Algorithm("RS256", "RSA-PKCS1", "sha256"),
        Algorithm("RS384", "RSA-PKCS1", "sha384"),
        Algorithm("RS512", "RSA-PKCS1", "sha512"),
        Algorithm("ES256", "ECDSA", "sha256", "P-256", 32),
        Algorithm("ES384", "ECDSA", "sha384", "P-384", 48),
        Algorithm("ES512", "ECDSA", "sha512", "P-521", 66),
        Algorithm("EdDSA", "EdDSA", "", "Ed25519"),
    )
}

PS256, RS256 = ALGORITHMS["PS256"], ALGORITHMS["RS256"]

KEY_TYPES = ("RSA-2048", "RSA-3072", "RSA-4096", "P-256", "P-384", "P-521", "Ed25519")
"""Key types that can be requested, as `KeySpec` and the command spell them."""

_SMALLEST_RSA, LARGEST_RSA = 2048, 8192
"""Bits of the modulus. Windows stops at 16384, where a signature takes a second and checking a private key a minute."""
_SMALLEST_EXPONENT = 3
LONGEST_EXPONENT = 64
"""Bits (OPENSSL_RSA_MAX_PUBEXP_BITS). Nearly all exponents are 65537."""
_NEW_RSA = "Make a new key: RSA-2048, RSA-3072 or RSA-4096."
_ED25519_SIGNATURE = 64
"""Bytes of an Ed25519 signature (RFC 8032, section 5.1.6)."""
ELLIPTIC_CURVES = {"P-256": "secp256r1", "P-384": "secp384r1", "P-521": "secp521r1"}
"""Names of the elliptic curves in `cryptography`, by their names in JOSE (RFC 7518, section 6.2.1.1)."""
_CURVE_NAMES = {name: jose for jose, name in ELLIPTIC_CURVES.items()}
_BY_CURVE = {algorithm.curve: algorithm for algorithm in ALGORITHMS.values() if algorithm.curve}


def find_algorithm(name: str | Algorithm) -> Algorithm:
    """Return the algorithm with this JOSE name. Raises `ConfigurationError` for an unknown name."""
    if isinstance(name, Algorithm):
        return name
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise ConfigurationError(
            f"Unknown signature algorithm {name!r}.", hint=f"Use one of {', '.join(ALGORITHMS)}."
        ) from None


def key_type(key: object) -> str:
    """Return the type of a `cryptography` public or private key: "RSA-2048", "P-256", "Ed25519".

    Raises `KeyUnusable` for a type without a JOSE signature algorithm (DSA, X25519, other elliptic curves).
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
            return f"RSA-{key.key_size}"
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey() if key.curve.name in _CURVE_NAMES:
            return _CURVE_NAMES[key.curve.name]
        case ed25519.Ed25519PublicKey() | ed25519.Ed25519PrivateKey():
            return "Ed25519"
    kind = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    raise KeyUnusable(f"Unsupported key type: {kind}.", hint="Use RSA, P-256, P-384, P-521 or Ed25519.")


def elliptic_curve(name: str) -> EllipticCurve:
    """Return the curve with this JOSE name, one of `ELLIPTIC_CURVES`, as an object of `cryptography`."""
    from cryptography.hazmat.primitives.asymmetric import ec

    curve: EllipticCurve = getattr(ec, ELLIPTIC_CURVES[name].upper())()
    return curve


def require_usable(key: object) -> None:
    """Raise `KeyUnusable` for a private or public key that must not sign, in any store.

    This applies to a key type without a JOSE signature algorithm, RSA outside 2,048 to 8,192 bits, and an RSA public
    exponent that is even, less than 3, or longer than the 64 bits to which OpenSSL limits it for long keys.
    """
    kind = key_type(key)
    if not kind.startswith("RSA-"):
        return
    bits = int(kind.removeprefix("RSA-"))
    if bits < _SMALLEST_RSA:
        raise KeyUnusable(f"Key too weak: {kind}.", hint=_NEW_RSA)
    if bits > LARGEST_RSA:
        raise KeyUnusable(f"Key too large: a {kind} signature takes seconds.", hint=_NEW_RSA)
    public: Any = key if hasattr(key, "public_numbers") else key.public_key()  # type: ignore[attr-defined]
    exponent: int = public.public_numbers().e
    if exponent < _SMALLEST_EXPONENT or exponent % 2 == 0 or exponent.bit_length() > LONGEST_EXPONENT:
        raise KeyUnusable("Invalid public exponent of the RSA key.", hint=_NEW_RSA)


def is_too_large(key: object) -> bool:
    """Return True if verifying with an RSA public key is so slow that a file of such keys would block its reader."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if not isinstance(key, RSAPublicKey):
        return False
    return key.key_size > LARGEST_RSA or key.public_numbers().e.bit_length() > LONGEST_EXPONENT


def signature_size(public_key: PublicKey) -> int:
    """Return the size in bytes of this key's signatures in JOSE form.

    RFC 8017, section 8.1.1; RFC 7518, section 3.4; RFC 8032, section 5.1.6.
    """
    algorithm = algorithms_for(key_type(public_key))[0]
    if algorithm.family == "EdDSA":
        return _ED25519_SIGNATURE
    return 2 * algorithm.coordinate_size or (public_key.key_size + 7) // 8  # type: ignore[union-attr]  # RSA


def algorithms_for(kind: str) -> tuple[Algorithm, ...]:
    """Return the algorithms for this key type (see `key_type`), the preferred one first."""
    if not kind.startswith("RSA-"):
        return (_BY_CURVE[kind],)
    return tuple(algorithm for algorithm in ALGORITHMS.values() if not algorithm.curve)


def require_fit(kind: str, algorithm: Algorithm, allowed: Sequence[Algorithm] = ()) -> None:
    """Raise `AlgorithmUnsupported` if a key of this type, or one that is restricted to these, cannot sign with it.

    Checked before a store is called, since some stores return an invalid signature for an algorithm that does not fit.
    """
    fitting = allowed or algorithms_for(kind)
    if algorithm not in fitting:
        names = ", ".join(each.name for each in fitting)
        key = f"A key of type {kind}"
        if allowed and all(each.family == "RSA-PSS" for each in allowed):
            key = f"An RSASSA-PSS key ({kind}), which is restricted to PSS,"
        raise AlgorithmUnsupported(f"{key} cannot sign with {algorithm.name}.", hint=f"Use {names}.")


def der_to_jose(signature: DerSignature, algorithm: Algorithm) -> JoseSignature:
    """Convert an ECDSA signature from DER to r||s of full width (RFC 7518, section 3.4).

    Raises ValueError if it is not DER, or belongs to a larger curve.
    """
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    r, s = decode_dss_signature(signature)
    size = algorithm.coordinate_size
    try:
        return JoseSignature(r.to_bytes(size, "big") + s.to_bytes(size, "big"))
    except OverflowError:
        raise ValueError(f"r and s of {algorithm.name} signatures have at most {size} bytes") from None


def jose_to_der(signature: JoseSignature, algorithm: Algorithm) -> DerSignature:
    """Convert an ECDSA signature from r||s to DER. Raises ValueError if its length does not match the curve."""
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    size = algorithm.coordinate_size
    if len(signature) != 2 * size:
        raise ValueError(f"expected a signature of {2 * size} bytes with {algorithm.name}, got {len(signature)}")
    r, s = signature[:size], signature[size:]
    return DerSignature(encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")))


@CRYPTOGRAPHY
def verifies(public_key: PublicKey, signature: bytes, message: bytes, algorithm: Algorithm) -> bool:
    """Return True if `cryptography` finds the signature, in JOSE form, valid for this key and message."""
    from cryptography.exceptions import InvalidSignature

    try:
        if algorithm.family == "ECDSA":
            from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

            der = jose_to_der(JoseSignature(signature), algorithm)
            public_key.verify(der, message, ECDSA(algorithm.hash))  # type: ignore[call-arg, arg-type]
        elif algorithm.family == "EdDSA":
            public_key.verify(signature, message)  # type: ignore[call-arg]
        else:
            public_key.verify(signature, message, algorithm.padding, algorithm.hash)  # type: ignore[call-arg, arg-type]
    except (InvalidSignature, ValueError):
        return False
    return True
