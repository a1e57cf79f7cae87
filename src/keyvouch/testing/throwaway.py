"""A signer for tests, with a key that exists only in memory: no file, no server, no profile.

with throwaway_signer() as signer:
    app = authority.register(certificates=signer.chain)
    client = ConfidentialClient(app.client_id, keys=[signer], ...)
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar

from keyvouch._core.connections import acquire, release
from keyvouch._core.opening import OPEN_TIMEOUT
from keyvouch._core.retries import Deadline
from keyvouch._core.signer import Signer
from keyvouch.algorithms import Algorithm
from keyvouch.certificate import self_signed
from keyvouch.local_key import make_key, sign_locally
from keyvouch.secrets import SecretResolver
from keyvouch.store import Attribute, KeyStore, KeyUri, StoredKey
from keyvouch.uri import parse_uri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_numbers = itertools.count(1)


def throwaway_signer(key_type: str = "RSA-2048", subject: str = "CN=throwaway", days: int = 1) -> Signer:
    """Make a key of this type (see `keyvouch.KeySpec`) with a self-signed certificate, and return its signer."""
    text = f"throwaway:number={next(_numbers)};key-type={key_type}?subject={subject}&days={days}"
    uri = parse_uri(text, _Store.attributes, store_class=_Store)
    connection = acquire(uri, SecretResolver())
    try:
        return Signer(connection, uri, Deadline(OPEN_TIMEOUT))
    except BaseException:
        release(connection)
        raise


class _Key(StoredKey):
    exportable = False

    def __init__(self, uri: KeyUri) -> None:
        self.uri = uri
        self._key = make_key(uri.get("key-type"))
        self.public_key = self._key.public_key()
        self.chain = (self_signed(self._key, uri.get("subject"), uri.get("days")),)

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:  # noqa: ARG002 - never waits
        return sign_locally(self._key, message, algorithm)


class _Store(KeyStore):
    """A store for one signer: it makes its key on the first connection, and keeps it."""

    attributes: ClassVar[tuple[Attribute, ...]] = (
        Attribute("number", "number of the signer", connection=True),
        Attribute("key-type", "type of the key", connection=True),
        Attribute("subject", "subject of the certificate", query=True, connection=True),
        Attribute("days", "days for which the certificate is valid", query=True, connection=True, parse=int),
    )

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:  # noqa: ARG002 - it has none
        self._uri = uri
        self._key: _Key | None = None

    def connect(self, *, timeout: float) -> None:  # noqa: ARG002 - never waits
        self._key = self._key or _Key(self._uri)

    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> StoredKey:  # noqa: ARG002
        if self._key is None:
            raise RuntimeError("open() before connect()")
        return self._key

    def close(self) -> None:
        self._key = None
