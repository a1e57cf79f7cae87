"""Transit's description of a key, and the requests that hvac has no method for."""

from __future__ import annotations

import base64
import datetime as dt
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvouch.algorithms import CRYPTOGRAPHY, key_type, require_usable
from keyvouch.certificate import load_certificates, order_chain, spki_sha256
from keyvouch.errors import CertificateMissing, KeyUnusable, StoreUnavailable
from keyvouch.store import KeyInfo
from keyvouch_vault import responses
from keyvouch_vault.permissions import Permission

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey, PublicKey
    from keyvouch.uri import KeyUri
    from keyvouch_vault.responses import Response

TYPES = {
    "RSA-2048": "rsa-2048",
    "RSA-3072": "rsa-3072",
    "RSA-4096": "rsa-4096",
    "P-256": "ecdsa-p256",
    "P-384": "ecdsa-p384",
    "P-521": "ecdsa-p521",
    "Ed25519": "ed25519",
}
"""Transit's names for the key types."""
_CHECK_SERVER = "Check that the server is Vault or OpenBao."


class KeyPath(NamedTuple):
    """The mount path of a transit engine, and the name of a key in it."""

    mount: str
    name: str

    @classmethod
    def of(cls, uri: KeyUri) -> KeyPath:
        """Return the path of a URI's key."""
        return cls(uri.get("mount"), uri.get("key"))

    def api_path(self, *more: str) -> str:
        """Return the API path of the key, or of a resource below it."""
        return "/".join((self.mount, "keys", self.name, *more))

    def required_to_create(self, *, further: bool, deletable: bool) -> list[Permission]:
        """Return the permissions to create a key, or a further version of it, with a certificate."""
        creating = Permission(self.api_path(*(("rotate",) if further else ())), "update")
        signing = Permission(f"{self.mount}/sign/{self.name}", "update")
        return self._required(creating, signing, certified=True, deletable=deletable and not further)

    def required_to_import(self, *, certified: bool, deletable: bool) -> list[Permission]:
        """Return the permissions to import a key, with or without a certificate."""
        wrapping, importing = (
            Permission(f"{self.mount}/wrapping_key", "read"),
            Permission(self.api_path("import"), "update"),
        )
        return self._required(wrapping, importing, certified=certified, deletable=deletable)

    def _required(self, *specific: Permission, certified: bool, deletable: bool) -> list[Permission]:
        more = [name for name, needed in (("config", deletable), ("set-certificate", certified)) if needed]
        reading = Permission(self.api_path(), "read")
        return [reading, *specific, *(Permission(self.api_path(name), "update") for name in more)]


@dataclass(frozen=True)
class KeyVersion:
    """One version of a key."""

    number: int
    public_key: PublicKey
    created: dt.datetime | None
    chain: tuple[Certificate, ...]
    exportable: bool

    def info(self, uri: KeyUri) -> KeyInfo:
        """Return the entry for a listing; its URI is that of exactly this version."""
        exact = pinned_uri(uri, self.number, spki_sha256(self.public_key))
        return KeyInfo.from_chain(exact, self.public_key, self.chain, created=self.created, exportable=self.exportable)


def pinned_uri(uri: KeyUri, version: int, digest: str) -> KeyUri:
    """Return the URI of exactly this version, with its digest, since a key may be deleted and created again."""
    changes = {"version": str(version), "spki-sha256": digest, "select": None, "settle": None}
    return uri.with_absolute_files().replace(changes)


class TransitKey:
    """A key as the server describes it."""

    def __init__(self, response: Response) -> None:
        """Decode the description. Raises `StoreUnavailable`."""
        self._response = response
        self._data = response.data_as(responses.TransitKeyData)

    @functools.cached_property
    def _versions(self) -> responses.KeyVersions:
        """All versions by number, not yet parsed: a key may have hundreds."""
        return self._response.decode(self._data.keys, responses.KeyVersions)

    @property
    def type(self) -> str:
        """The key type, by the server's name."""
        return self._data.type

    @property
    def latest_version(self) -> int:
        """The number of the newest version."""
        return self._data.latest_version

    def usable_numbers(self) -> list[int]:
        """Return the numbers of the versions that may sign, in order.

        Raises `KeyUnusable` if keys of this type cannot sign, `StoreUnavailable`.
        """
        if self.type not in TYPES.values():
            raise KeyUnusable(
                f"Transit keys of type {self.type[:50]!r} cannot sign JWTs.",
                hint=f"Use a key of one of these types: {', '.join(TYPES.values())}.",
            )
        return [number for number in sorted(self._versions) if number >= self._data.min_encryption_version]

    def retired_numbers(self) -> list[int]:
        """Return the numbers of the versions that may no longer sign. Raises `StoreUnavailable`."""
        return [number for number in sorted(self._versions) if number < self._data.min_encryption_version]

    def newest(self) -> KeyVersion:
        """Return the newest version that may sign. Raises `KeyUnusable`, `StoreUnavailable`."""
        numbers = self.usable_numbers()
        if not numbers:
            raise _unexpected_data()
        return self.version(numbers[-1])

    def version(self, number: int) -> KeyVersion:
        """Return a version, of which the response contains the key and its certificates. Raises `StoreUnavailable`."""
        from cryptography.exceptions import UnsupportedAlgorithm

        data = self._versions[number]
        try:
            public_key = _load_public_key(data.public_key)
            chain = _load_chain(data.certificate_chain, public_key)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            raise _unexpected_data() from None
        return KeyVersion(number, public_key, data.creation_time, chain, self._data.exportable)


def _unexpected_data() -> StoreUnavailable:
    return StoreUnavailable("Unexpected response when reading the key.", hint=_CHECK_SERVER)


def read_key(client: Any, path: KeyPath) -> TransitKey:
    """Read a key. Raises hvac's `VaultError`, `StoreUnavailable`."""
    return TransitKey(client.secrets.transit.read_key(path.name, mount_point=path.mount))


@CRYPTOGRAPHY
def _load_public_key(text: str) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if text.startswith("-----"):
        return load_pem_public_key(text.encode())  # type: ignore[return-value]  # one of the types above
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text))


def _load_chain(text: str | None, public_key: PublicKey) -> tuple[Certificate, ...]:
    if not text:
        return ()
    try:
        certificates = load_certificates(text.encode(), "the key's certificate_chain")
    except CertificateMissing:
        return ()
    return order_chain(certificates, public_key)


def decode_signature(text: str, version: int) -> bytes:
    """Decode a signature, `vault:v3:...`. Raises `KeyUnusable` if another version signed, `StoreUnavailable`."""
    try:
        _, signing_version, encoded = text.split(":")
        signature = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:
        raise StoreUnavailable("Unexpected response when signing.", hint=_CHECK_SERVER) from None
    if signing_version != f"v{version}":
        raise KeyUnusable(
            f"Expected a signature by key version v{version}, got {signing_version[:20]!r}.",
            hint="Check what a gateway in front of the server changes.",
        )
    return signature


def set_certificate(client: Any, path: KeyPath, version: int, chain: Sequence[Certificate]) -> None:
    """Store a chain with a version of a key, in Vault 1.15 or later or OpenBao. Raises hvac's `VaultError`."""
    from cryptography.hazmat.primitives.serialization import Encoding

    text = "".join(each.public_bytes(Encoding.PEM).decode() for each in chain)
    body = {"version": version, "certificate_chain": text}
    client.adapter.post(f"/v1/{path.api_path('set-certificate')}", json=body)


def import_key(client: Any, path: KeyPath, key: PrivateKey, *, exportable: bool) -> None:
    """Import a key, wrapped with the server's wrapping key. Raises hvac's `VaultError`, `StoreUnavailable`."""
    response = client.adapter.get(f"/v1/{path.mount}/wrapping_key")
    wrapping_key = _load_wrapping_key(response.data_as(responses.WrappingKey).public_key)
    body = {
        "type": TYPES[key_type(key)],
        "ciphertext": base64.b64encode(_wrap(key, wrapping_key)).decode(),
        "hash_function": "SHA256",
        "exportable": exportable,
        "allow_rotation": True,  # its later versions are created on the server
    }
    client.adapter.post(f"/v1/{path.api_path('import')}", json=body)


@CRYPTOGRAPHY
def _load_wrapping_key(text: str) -> RSAPublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text.encode())
        require_usable(key)
    except (TypeError, ValueError, UnsupportedAlgorithm, KeyUnusable):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise StoreUnavailable("The server returned an invalid wrapping key.", hint=_CHECK_SERVER)
    return key


@CRYPTOGRAPHY
def _wrap(key: PrivateKey, wrapping_key: RSAPublicKey) -> bytes:
    """Wrap PKCS#8 with a new AES key (RFC 5649), and the AES key with RSA-OAEP, as transit requires."""
    from cryptography.hazmat.primitives import hashes, keywrap, serialization
    from cryptography.hazmat.primitives.asymmetric import padding

    pkcs8 = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    aes_key = os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    return wrapping_key.encrypt(aes_key, oaep) + keywrap.aes_key_wrap_with_padding(aes_key, pkcs8)
