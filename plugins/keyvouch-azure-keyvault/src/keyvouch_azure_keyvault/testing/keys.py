"""Private keys in the vault: making, importing, describing and using them."""

import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from keyvouch.testing.authority.jose import HASHES, from_base64url, to_base64url
from keyvouch_azure_keyvault.testing import refusals
from keyvouch_azure_keyvault.testing.objects import PrivateKey, Version
from keyvouch_azure_keyvault.testing.refusals import bad, invalid

CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}
ALGORITHM_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "ES256K": "P-256K"}
ALGORITHM_HASHES = {f"{family}{bits}": HASHES[bits] for family in ("RS", "PS", "ES") for bits in HASHES} | {
    "ES256K": HASHES["256"]
}
RSA_SIZES = (2048, 3072, 4096)
OPERATIONS = {
    "RSA": ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"),
    "EC": ("sign", "verify"),
}
"""The permitted operations of a key that was created without `key_ops`."""


def make_version(properties: dict[str, Any], *, hsm_only: bool = False) -> Version:
    """Make a key from a create request, or from the `key_props` of a policy. Raises `Refusal`.

    `hsm_only`: accept only the key types of an HSM.
    """
    kind = properties.get("kty", "RSA")
    require_type(kind, hsm_only=hsm_only)
    key = _make_rsa(properties) if kind.startswith("RSA") else _make_ec(properties)
    return Version(
        private_key=key,
        kind=kind,
        operations=operations_of(properties, kind),
        exportable=bool(properties.get("exportable")),
    )


def require_type(kind: Any, *, hsm_only: bool) -> None:
    """Raise `Refusal` unless the vault supports this key type."""
    if kind not in ("RSA-HSM", "EC-HSM", *(() if hsm_only else ("RSA", "EC"))):
        raise bad(f"Invalid kty value: {kind}", "KeyTypeNotSupported")


def operations_of(properties: dict[str, Any], kind: str) -> tuple[str, ...]:
    """Return the key's permitted operations: `key_ops`, or all that its type supports. Raises `Refusal`."""
    possible = OPERATIONS[kind.removesuffix("-HSM")]
    wanted = properties.get("key_ops")
    if wanted is None:
        return possible
    if not isinstance(wanted, list) or not set(wanted) <= {*possible, "import", "export"}:
        raise invalid("key_ops")
    return tuple(wanted)


def _make_rsa(properties: dict[str, Any]) -> rsa.RSAPrivateKey:
    size = properties.get("key_size", RSA_SIZES[0])
    if size not in RSA_SIZES:
        raise bad(f"Unsupported key size ({size}). Supported sizes are {list(RSA_SIZES)}")
    return rsa.generate_private_key(65537, size)


def _make_ec(properties: dict[str, Any]) -> ec.EllipticCurvePrivateKey:
    curve = CURVES.get(properties.get("crv", "P-256"))
    if curve is None:
        raise invalid("crv")
    return ec.generate_private_key(curve)


def curve_of(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the service's name for a key's curve."""
    return next(name for name, curve in CURVES.items() if curve.name == key.curve.name)


def public_jwk(version: Version) -> dict[str, Any]:
    """Return the public key as a JWK, with type and operations."""
    key = version.private_key
    jwk: dict[str, Any] = {"kty": version.kind, "key_ops": list(version.operations)}
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return jwk | {"n": _encode(numbers.n), "e": _encode(numbers.e)}
    size, point = (key.key_size + 7) // 8, key.public_key().public_numbers()
    return jwk | {"crv": curve_of(key), "x": _encode(point.x, size), "y": _encode(point.y, size)}


def read_private_jwk(jwk: dict[str, Any]) -> PrivateKey:
    """Return the private key in a JWK. Raises `Refusal`."""
    try:
        kind, members = str(jwk["kty"]), {name: from_base64url(jwk[name]) for name in jwk.keys() & _MEMBERS}
        values = {name: int.from_bytes(value) for name, value in members.items()}
        if kind.startswith("RSA"):
            public = rsa.RSAPublicNumbers(values["e"], values["n"])
            p, q, d, dp, dq, qi = (values[name] for name in ("p", "q", "d", "dp", "dq", "qi"))
            return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, public).private_key()
        point = ec.EllipticCurvePublicNumbers(values["x"], values["y"], CURVES[jwk["crv"]])
        return ec.EllipticCurvePrivateNumbers(values["d"], point).private_key()
    except (KeyError, ValueError, TypeError):
        raise invalid("key") from None


_MEMBERS = frozenset({"n", "e", "p", "q", "d", "dp", "dq", "qi", "x", "y"})


def sign(version: Version, key_id: str, algorithm: str, digest: bytes) -> bytes:
    """Sign a digest; an EC signature is r and s. Raises `Refusal` for everything that the service refuses."""
    used = ALGORITHM_HASHES.get(algorithm)
    if used is None:
        raise invalid("alg")
    _require_fit(version, key_id, algorithm)
    if len(digest) != used.digest_size:
        message = f"Invalid length of 'value': {len(digest)} bytes. {algorithm} requires {used.digest_size} bytes, "
        raise bad(f"{message}encoded with base64url.")
    require_usable(version, "sign")
    key, hashed = version.private_key, utils.Prehashed(used)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(hashed)))
        width = (key.key_size + 7) // 8
        return r.to_bytes(width) + s.to_bytes(width)
    if algorithm.startswith("RS"):
        return key.sign(digest, padding.PKCS1v15(), hashed)
    return key.sign(digest, padding.PSS(padding.MGF1(used), used.digest_size), hashed)


def _require_fit(version: Version, key_id: str, algorithm: str) -> None:
    message, key = f"Key and signing algorithm are incompatible. Key {key_id}", version.private_key
    if algorithm not in ALGORITHM_CURVES:
        if isinstance(key, ec.EllipticCurvePrivateKey):
            raise bad(
                f"{message} is of type '{version.kind}', and algorithm '{algorithm}' can only be used with RSA keys."
            )
    elif not isinstance(key, ec.EllipticCurvePrivateKey):
        raise bad(f"{message} is of type '{version.kind}', and algorithm '{algorithm}' can only be used with EC keys.")
    elif curve_of(key) != ALGORITHM_CURVES[algorithm]:
        allowed = f"algorithm '{algorithm}' can only be used with curve '{ALGORITHM_CURVES[algorithm]}'."
        raise bad(f"{message} uses curve '{curve_of(key)}', and {allowed}")


def require_usable(version: Version, operation: str) -> None:
    """Raise `Refusal` unless the key is currently valid and permits the operation."""
    begin, end = version.validity
    now = time.time()
    refusal: Callable[[str], refusals.Refusal]
    if not version.enabled:
        refusal = refusals.disabled
    elif end is not None and now >= end:
        refusal = refusals.expired
    elif begin is not None and now < begin:
        refusal = refusals.not_yet_valid
    elif operation not in version.operations:
        refusal = refusals.not_permitted
    else:
        return
    raise refusal(operation)


def _encode(number: int, size: int = 0) -> str:
    return to_base64url(number.to_bytes(size or (number.bit_length() + 7) // 8))
