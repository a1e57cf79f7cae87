"""A signer as a `cryptography` private key, for code that expects one: certificates, requests, PyJWT, PyGithub.

Only `sign` and `public_key` work. Anything that would reveal the key raises, and so does anything that a store cannot
do: signing a hash computed elsewhere (Prehashed), or a PSS salt that is not as long as the hash.

joserfc (and Authlib, which uses it) and jwcrypto export a private key to make a JWK of it: `joserfc_key` and
`jwcrypto_key` make one that has only the public members, and signs.

`to_pfx` is for the stores that export keys: it writes a key and its chain as PKCS#12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat, pkcs12

from keyvouch.algorithms import ALGORITHMS, Algorithm, JoseSignature, jose_to_der, key_type
from keyvouch.errors import AlgorithmUnsupported, NotSupported, hidden_frames

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.serialization import KeySerializationEncryption
    from cryptography.utils import Buffer
    from cryptography.x509 import Certificate
    from joserfc.jwk import ECKey, OKPKey, RSAKey
    from jwcrypto.jwk import JWK

    from keyvouch.algorithms import PrivateKey, PublicKey
    from keyvouch.secrets import Secret

Sign = Callable[[bytes, Algorithm], bytes]
"""Signs a message and returns the signature in JOSE form."""


def wrap(public_key: PublicKey, sign: Sign) -> PrivateKey:
    """Return a private key object for this public key that signs with `sign`."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return _RSAKey(public_key, sign)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _ECKey(public_key, sign)
    return _Ed25519Key(public_key, sign)


def joserfc_key(private_key: PrivateKey, **members: str | list[str]) -> RSAKey | ECKey | OKPKey:
    """Return this private key as a key for joserfc and Authlib. The key object has only the public members of the JWK.

    `members` are added to the JWK: `joserfc_key(signer.private_key(), kid="2026")`. Needs joserfc 1.6 or newer.
    """
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kind: Any = OKPKey
    if isinstance(private_key, rsa.RSAPrivateKey):
        kind = RSAKey
    elif isinstance(private_key, ec.EllipticCurvePrivateKey):
        kind = ECKey
    public = kind.import_key(private_key.public_key()).as_dict()
    key: RSAKey | ECKey | OKPKey = kind(private_key, {**public, **members})  # otherwise it exports the key to get them
    return key


def jwcrypto_key(private_key: PrivateKey, **members: str | list[str]) -> JWK:
    """Return this private key as a `JWK` for jwcrypto, with only the public members.

    `members` are added to the JWK: `jwcrypto_key(signer.private_key(), kid="2026")`. Needs jwcrypto 1.5 or newer.
    """
    from jwcrypto.jwk import JWK

    class StoreJWK(JWK):  # type: ignore[misc]  # jwcrypto has no type hints
        def get_op_key(self, operation: str | None = None, arg: Any = None) -> Any:
            return private_key if operation == "sign" else super().get_op_key(operation, arg)

    public = JWK.from_pyca(private_key.public_key()).export_public(as_dict=True)
    return StoreJWK(**{**public, **members})


def to_pfx(key: PrivateKey, chain: Sequence[Certificate], password: Secret | None, name: str) -> bytes:
    """Return an exported key, its chain (which may be empty) and its friendly name as PKCS#12.

    Encrypted with AES-256 and HMAC-SHA-256; unencrypted if there is no password.
    """
    leaf, issuers = (chain[0], chain[1:]) if chain else (None, ())
    return pkcs12.serialize_key_and_certificates(name.encode(), key, leaf, issuers or None, _encryption(password))


def _encryption(password: Secret | None) -> KeySerializationEncryption:
    if password is None:
        return NoEncryption()
    builder = PrivateFormat.PKCS12.encryption_builder()
    builder = builder.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(hashes.SHA256())
    return builder.build(password.reveal().encode())


def _find_algorithm(family: str, hash_name: str, curve: str = "") -> Algorithm:
    for algorithm in ALGORITHMS.values():
        if (algorithm.family, algorithm.hash_name) == (family, hash_name) and curve in ("", algorithm.curve):
            return algorithm
    raise AlgorithmUnsupported(
        f"Unsupported signature: JOSE does not define {family} with {hash_name}.",
        hint="Use SHA-256, SHA-384 or SHA-512.",
    )


def _hash_name(algorithm: Any) -> str:
    if isinstance(algorithm, utils.Prehashed):
        raise AlgorithmUnsupported(
            "Prehashed is not supported: a store signs messages, not hashes.", hint="Sign the message itself."
        )
    return str(algorithm.name)


class _StoreKey:
    """Common parts of the three key types."""

    def __init__(self, public_key: Any, sign: Sign) -> None:
        self._public_key = public_key
        self._sign = sign

    def public_key(self) -> Any:
        return self._public_key

    @property
    def key_size(self) -> int:
        return int(self._public_key.key_size)

    def _refuse(self, *_: object) -> NoReturn:
        raise NotSupported(
            "The private key does not leave its store.",
            hint="Use sign(). For joserfc, Authlib and jwcrypto use keyvouch.private_key.joserfc_key or jwcrypto_key.",
        )

    private_bytes = private_bytes_raw = private_numbers = decrypt = exchange = _refuse

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lstrip('_')} in a store>"


class _RSAKey(_StoreKey, rsa.RSAPrivateKey):
    @hidden_frames()
    def sign(
        self,
        data: Buffer,
        padding: padding.AsymmetricPadding,
        algorithm: Any,
    ) -> bytes:
        hash_name = _hash_name(algorithm)
        return self._sign(bytes(data), _find_algorithm(_rsa_family(padding, algorithm), hash_name))


def _rsa_family(scheme: padding.AsymmetricPadding, hash_algorithm: hashes.HashAlgorithm) -> str:
    if isinstance(scheme, padding.PKCS1v15):
        return "RSA-PKCS1"
    if not isinstance(scheme, padding.PSS):
        raise AlgorithmUnsupported(f"Unsupported signature padding: {scheme.name}.", hint="Use PSS or PKCS1v15.")
    salts = (hash_algorithm.digest_size, padding.PSS.DIGEST_LENGTH)
    if scheme not in [padding.PSS(scheme.mgf, salt) for salt in salts]:  # cryptography has no accessor for the salt
        raise AlgorithmUnsupported(
            "The PSS salt must be as long as the hash.", hint="Use padding.PSS.DIGEST_LENGTH for the salt."
        )
    if scheme.mgf != padding.MGF1(hash_algorithm):
        raise AlgorithmUnsupported(
            "MGF1 must use the same hash as the signature.", hint="Pass that hash to padding.MGF1."
        )
    return "RSA-PSS"


class _ECKey(_StoreKey, ec.EllipticCurvePrivateKey):
    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public_key.curve
        return curve

    @hidden_frames()
    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if getattr(signature_algorithm, "deterministic_signing", False):
            raise AlgorithmUnsupported(
                "Deterministic signatures are not supported.", hint="Omit deterministic_signing."
            )
        algorithm = _find_algorithm("ECDSA", _hash_name(signature_algorithm.algorithm), key_type(self._public_key))
        return jose_to_der(JoseSignature(self._sign(bytes(data), algorithm)), algorithm)


class _Ed25519Key(_StoreKey, ed25519.Ed25519PrivateKey):
    @hidden_frames()
    def sign(self, data: Buffer) -> bytes:
        return self._sign(bytes(data), ALGORITHMS["EdDSA"])
