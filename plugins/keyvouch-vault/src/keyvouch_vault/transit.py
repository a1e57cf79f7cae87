"""Transit's description of a key, and the requests that hvac has no method for."""

from __future__ import annotations

import base64
import datetime as dt
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from keyvouch.algorithms import CRYPTOGRAPHY, key_type, require_usable
from keyvouch.certificate import load_certificates, order_chain, spki_sha256
from keyvouch.errors import CertificateMissing, KeyUnusable, StoreUnavailable
from keyvouch.store import KeyInfo
from keyvouch_vault import replies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey, PublicKey
    from keyvouch.uri import KeyUri
    from keyvouch_vault.replies import Reply

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


class Place(NamedTuple):
    """A key's location: the engine's mount and the key's name."""

    mount: str
    key: str

    def path(self, *more: str) -> str:
        """Return the API path of the key, or of a resource below it."""
        return "/".join((self.mount, "keys", self.key, *more))

    @property
    def signing(self) -> str:
        """The API path for signatures, which is all that a minimal policy must allow."""
        return f"{self.mount}/sign/{self.key}"


@dataclass(frozen=True)
class Version:
    """One version of a key."""

    number: int
    public_key: PublicKey
    created: dt.datetime | None
    chain: tuple[Certificate, ...]
    exportable: bool

    def info(self, uri: KeyUri) -> KeyInfo:
        """Return the entry for a listing; its URI is that of exactly this version."""
        digest = spki_sha256(self.public_key)
        leaf = self.chain[0] if self.chain else None
        return KeyInfo(
            pinned(uri, self.number, digest),
            key_type(self.public_key),
            digest,
            subject=leaf.subject.rfc4514_string() if leaf else None,
            not_before=leaf.not_valid_before_utc if leaf else None,
            not_after=leaf.not_valid_after_utc if leaf else None,
            created=self.created,
            exportable=self.exportable,
            has_certificate=leaf is not None,
        )


def pinned(uri: KeyUri, version: int, digest: str) -> KeyUri:
    """Return the URI of exactly this version, with its digest, since a key may be deleted and created again."""
    return uri.replace({"version": str(version), "spki-sha256": digest, "select": None, "settle": None})


class FoundKey:
    """A key as the server describes it."""

    def __init__(self, reply: Reply) -> None:
        """Decode the description. Raises `StoreUnavailable`."""
        self._reply = reply
        self._key = reply.data_as(replies.Key)

    @property
    def type(self) -> str:
        """The key type, by the server's name."""
        return self._key.type

    @property
    def latest_version(self) -> int:
        """The number of the newest version."""
        return self._key.latest_version

    def versions(self) -> list[Version]:
        """Return the versions that may sign, in order. Raises `KeyUnusable` if the type cannot, `StoreUnavailable`."""
        if self.type not in TYPES.values():
            raise KeyUnusable(
                f"A transit key of the type {self.type[:50]!r} cannot sign a JWT.",
                hint=f"Use {', '.join(TYPES.values())}.",
            )
        described = self._reply.part(self._key.keys, replies.KeyVersions)
        floor = self._key.min_encryption_version
        return [self._version(number, each) for number, each in sorted(described.items()) if number >= floor]

    def newest(self) -> Version:
        """Return the newest version that may sign. Raises `KeyUnusable`, `StoreUnavailable`."""
        able = self.versions()
        if not able:
            raise _unreadable()
        return able[-1]

    def _version(self, number: int, described: replies.KeyVersion) -> Version:
        from cryptography.exceptions import UnsupportedAlgorithm

        try:
            public_key = _public_key(described.public_key)
            chain = _chain(described.certificate_chain, public_key)
        except (TypeError, ValueError, UnsupportedAlgorithm):
            raise _unreadable() from None
        return Version(number, public_key, described.creation_time, chain, self._key.exportable)


def _unreadable() -> StoreUnavailable:
    return StoreUnavailable(
        "The server describes the key in a way that is not understood.", hint="Is it Vault or OpenBao?"
    )


def read_key(client: Any, place: Place) -> FoundKey:
    """Read a key. Raises hvac's `VaultError`, `StoreUnavailable`."""
    return FoundKey(client.secrets.transit.read_key(place.key, mount_point=place.mount))


@CRYPTOGRAPHY
def _public_key(text: str) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if text.startswith("-----"):
        return load_pem_public_key(text.encode())  # type: ignore[return-value]  # one of the types above
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(text))


def _chain(text: str | None, public_key: PublicKey) -> tuple[Certificate, ...]:
    if not text:
        return ()
    try:
        found = load_certificates(text.encode(), "the key's certificate_chain")
    except CertificateMissing:
        return ()
    return order_chain(found, public_key)


def signature_of(text: str, version: int) -> bytes:
    """Return the bytes of `vault:v3:...`. Raises `KeyUnusable` if another version signed, `StoreUnavailable`."""
    try:
        _, made_by, encoded = text.split(":")
        octets = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:
        raise StoreUnavailable("The answer contains no signature.", hint="Is it Vault or OpenBao?") from None
    if made_by != f"v{version}":
        raise KeyUnusable(
            f"The version {made_by[:20]!r} has signed in place of v{version}.", hint="Name version= in the URI."
        )
    return octets


def set_certificate(client: Any, place: Place, version: int, chain: Sequence[Certificate]) -> None:
    """Store a chain with a version of a key, in Vault 1.15 or later or OpenBao. Raises hvac's `VaultError`."""
    from cryptography.hazmat.primitives.serialization import Encoding

    text = "".join(each.public_bytes(Encoding.PEM).decode() for each in chain)
    body = {"version": version, "certificate_chain": text}
    client.adapter.post(f"/v1/{place.path('set-certificate')}", json=body)


def import_key(client: Any, place: Place, key: PrivateKey, *, exportable: bool) -> None:
    """Import a key, wrapped with the server's wrapping key. Raises hvac's `VaultError`, `StoreUnavailable`."""
    reply = client.adapter.get(f"/v1/{place.mount}/wrapping_key")
    wrapping = _wrapping_key(reply.data_as(replies.WrappingKey).public_key)
    body = {
        "type": TYPES[key_type(key)],
        "ciphertext": base64.b64encode(_wrapped(key, wrapping)).decode(),
        "hash_function": "SHA256",
        "exportable": exportable,
        "allow_rotation": True,  # its later versions are created on the server
    }
    client.adapter.post(f"/v1/{place.path('import')}", json=body)


@CRYPTOGRAPHY
def _wrapping_key(text: str) -> RSAPublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        found = load_pem_public_key(text.encode())
        require_usable(found)
    except (TypeError, ValueError, UnsupportedAlgorithm, KeyUnusable):
        found = None
    if not isinstance(found, RSAPublicKey):
        raise StoreUnavailable("The server returned no usable wrapping key.", hint="Is it Vault or OpenBao?")
    return found


@CRYPTOGRAPHY
def _wrapped(key: PrivateKey, wrapping: RSAPublicKey) -> bytes:
    """Wrap PKCS#8 with a new AES key (RFC 5649), and the AES key with RSA-OAEP, as transit requires."""
    from cryptography.hazmat.primitives import hashes, keywrap, serialization
    from cryptography.hazmat.primitives.asymmetric import padding

    octets = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    once = os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
    return wrapping.encrypt(once, oaep) + keywrap.aes_key_wrap_with_padding(once, octets)
