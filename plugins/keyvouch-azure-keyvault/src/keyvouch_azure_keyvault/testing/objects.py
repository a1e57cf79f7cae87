"""The vault's objects: versioned keys, certificates and secrets, including deleted ones."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyvouch_azure_keyvault.testing.refusals import being_deleted, deleted_name, missing, not_deleted

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(kw_only=True)
class ObjectVersion:
    """A version of an object. Times are in seconds since 1970."""

    version: str = field(default_factory=lambda: uuid.uuid4().hex)
    enabled: bool = True
    not_before: int | None = None
    expires: int | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    updated: int = field(default_factory=lambda: int(time.time()))
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def validity(self) -> tuple[int | None, int | None]:
        """The times from and until which it may be used."""
        return self.not_before, self.expires


@dataclass(kw_only=True)
class Version(ObjectVersion):
    """A version of a key, and of the certificate with the same name if there is one."""

    private_key: PrivateKey
    kind: str
    """The `kty`: RSA, RSA-HSM, EC, EC-HSM."""
    operations: tuple[str, ...]
    certificate: x509.Certificate | None = None
    issuers: tuple[x509.Certificate, ...] = ()
    """The issuing certificates."""
    exportable: bool = False

    @property
    def validity(self) -> tuple[int | None, int | None]:
        """The certificate's validity, if there is one; otherwise the key's."""
        if self.certificate is None:
            return super().validity
        moments = self.certificate.not_valid_before_utc, self.certificate.not_valid_after_utc
        return int(moments[0].timestamp()), int(moments[1].timestamp())


@dataclass(kw_only=True)
class SecretVersion(ObjectVersion):
    """A version of a secret."""

    value: str
    content_type: str | None = None


@dataclass
class Pending:
    """A pending certificate: its key, and the request made from the requested policy."""

    version: Version
    issuer: str
    request: bytes
    policy: dict[str, Any]
    status: str = "inProgress"
    cancelled: bool = False


@dataclass
class Item:
    """All versions of a key; for a certificate, also its policy and pending operation."""

    name: str
    versions: list[Version] = field(default_factory=list)
    policy: dict[str, Any] | None = None
    """A certificate's policy, as in the service's JSON; None for a key by itself."""
    pending: Pending | None = None

    @property
    def newest(self) -> Version:
        """The version used if none is specified."""
        return self.versions[-1]


@dataclass
class Secret:
    """All versions of a secret."""

    name: str
    versions: list[SecretVersion] = field(default_factory=list)

    @property
    def newest(self) -> SecretVersion:
        """The version used if none is specified."""
        return self.versions[-1]


T = TypeVar("T", Item, Secret)


@dataclass
class DeletedObject(Generic[T]):
    """A deleted object."""

    item: T
    kind: str
    date: int
    """Time of deletion, in seconds since 1970."""
    requests_until_deleted: int
    """Number of further requests for which it is reported as not yet deleted."""
    purged: bool = False
    requests_until_purged: int = 0
    """For a purged object: number of further requests for which it is reported as still present."""


class ObjectStore(Generic[T]):
    """Objects by name, with the service's soft delete, each step of which takes effect after a delay.

    `kind` is `Key`, `Certificate` or `Secret`. Methods raise `Refusal`.
    """

    def __init__(self, slow: int) -> None:
        self.live: dict[str, T] = {}
        self.deleted: dict[str, DeletedObject[T]] = {}
        self._slow = slow
        self._recovering: dict[str, int] = {}

    def find(self, kind: str, name: str) -> T:
        """Return the object with this name, which must have a version."""
        found = self.live.get(name)
        if found is None or not found.versions:
            raise missing(kind, name)
        if self._recovering.get(name, 0) > 0:
            self._recovering[name] -= 1
            raise missing(kind, name)
        return found

    def require_free(self, kind: str, name: str) -> None:
        """Raise `Refusal` if the name belongs to a deleted object; a live object may have it."""
        found = self._find_deleted(name)
        if found is not None and (found.requests_until_deleted or found.purged):
            found.requests_until_deleted = max(0, found.requests_until_deleted - 1)
            raise being_deleted(kind)
        if found is not None:
            raise deleted_name(kind, name)

    def delete(self, kind: str, name: str) -> DeletedObject[T]:
        """Delete all versions of an object."""
        item = self.find(kind, name)
        del self.live[name]
        self.deleted[name] = DeletedObject(item, kind, int(time.time()), self._slow)
        return self.deleted[name]

    def get_deleted(self, kind: str, name: str) -> DeletedObject[T]:
        """Return a deleted object, once the deletion is complete."""
        found = self._find_deleted(name)
        if found is None or found.kind != kind:
            raise not_deleted(kind, name)
        if found.requests_until_deleted:
            found.requests_until_deleted -= 1
            raise not_deleted(kind, name)
        return found

    def recover(self, kind: str, name: str) -> T:
        """Recover a deleted object."""
        found = self._require_deleted(kind, name)
        del self.deleted[name]
        self.live[name] = found.item
        self._recovering[name] = self._slow
        return found.item

    def purge(self, kind: str, name: str) -> None:
        """Delete an object permanently."""
        found = self._require_deleted(kind, name)
        found.purged, found.requests_until_purged = True, self._slow

    def _require_deleted(self, kind: str, name: str) -> DeletedObject[T]:
        found = self._find_deleted(name)
        if found is None or found.kind != kind:
            raise not_deleted(kind, name)
        if found.requests_until_deleted or found.purged:
            found.requests_until_deleted = max(0, found.requests_until_deleted - 1)
            raise being_deleted(kind)
        return found

    def _find_deleted(self, name: str) -> DeletedObject[T] | None:
        found = self.deleted.get(name)
        if found is not None and found.purged:
            if not found.requests_until_purged:
                del self.deleted[name]
                return None
            found.requests_until_purged -= 1
        return found
