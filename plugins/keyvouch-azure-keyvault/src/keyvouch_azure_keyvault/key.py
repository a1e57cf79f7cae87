"""A signing key: one version of a key in the vault."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from azure.keyvault.keys import KeyVaultKey as SdkKey
from azure.keyvault.keys.crypto import SignatureAlgorithm

from keyvouch.algorithms import Algorithm
from keyvouch.errors import KeyNotFound, KeyUnusable, StoreUnavailable
from keyvouch.store import StoredKey
from keyvouch_azure_keyvault.error_translation import Operation

if TYPE_CHECKING:
    from keyvouch.uri import KeyUri
    from keyvouch_azure_keyvault.key_versions import KeyVersion
    from keyvouch_azure_keyvault.session import Session
    from keyvouch_azure_keyvault.uri_attributes import KeyLocation


class KeyVaultKey(StoredKey):
    """One version of a key, which signs with one request and the login it was opened with."""

    remote = True

    def __init__(self, session: Session, uri: KeyUri, location: KeyLocation, version: KeyVersion) -> None:
        self.uri = uri
        self.public_key = version.public_key
        self.chain = version.chain
        self.exportable = version.exportable
        self.hsm = version.hsm
        """Whether an HSM protects the key; None if that is unknown."""
        self._session = session
        self._operation = Operation("signing", location, "keys/sign", "Key Vault Crypto User")
        # From the URI, not from a response, because the token is sent to this address.
        key_id = location.key_id(version.version)
        self._sdk_key = SdkKey(key_id, jwk=_public_jwk(version.public_key))
        self._client = session.signing_client(self._sdk_key)

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        """Sign in the vault. The message is hashed locally and only its digest is sent, whatever its length."""
        digest = hashlib.new(algorithm.hash_name, message).digest()
        try:
            with self._session.performing(self._operation, timeout):
                signature: object = self._client.sign(SignatureAlgorithm(algorithm.name), digest).signature
        except KeyNotFound as error:
            raise KeyUnusable(
                "The key, or this version of it, was deleted.",
                hint=f"{error.hint}\nTo create another, run: keyvouch new --key URI",
            ) from error
        if not isinstance(signature, bytes) or not signature:
            raise StoreUnavailable(
                "The vault's response does not contain a signature.",
                hint="Check that vault= leads to Key Vault, and not to a proxy.",
            )
        return signature

    def make_peer(self, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that signs as `Session.make_peer` says."""
        return self._session.make_peer(self._sdk_key, algorithm)


def _public_jwk(public_key: Any) -> dict[str, object]:
    numbers = public_key.public_numbers()
    if hasattr(numbers, "n"):
        return {"kty": "RSA", "n": _unsigned(numbers.n), "e": _unsigned(numbers.e), "key_ops": ["sign"]}
    size = (public_key.curve.key_size + 7) // 8
    curve = f"P-{public_key.curve.key_size}"
    point = {"x": numbers.x.to_bytes(size), "y": numbers.y.to_bytes(size)}
    return {"kty": "EC", "crv": curve, **point, "key_ops": ["sign"]}


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)
