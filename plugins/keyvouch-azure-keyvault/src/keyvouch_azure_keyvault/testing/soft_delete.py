"""Soft delete as in the service: deleted objects can be recovered until they are purged."""

from collections.abc import Callable
from typing import Any, Generic

from keyvouch_azure_keyvault.testing.objects import Deleted, Held, Shelf, T
from keyvouch_azure_keyvault.testing.protocol import Call, Reply, Route, listed
from keyvouch_azure_keyvault.testing.refusals import purge_protected

DAYS = 90
"""Number of days for which a deleted object is kept."""


class Protection:
    """Whether deleted objects can be purged, and the attributes in which the service reports it."""

    def __init__(self, *, purge: bool) -> None:
        self.purge = purge
        """True if purging is prevented."""

    def attributes(self, held: Held) -> dict[str, Any]:
        """Return the attributes of a version."""
        begin, end = held.validity
        times = {name: value for name, value in (("nbf", begin), ("exp", end)) if value is not None}
        told = {"enabled": held.enabled, "created": held.created, "updated": held.updated}
        level = "Recoverable" if self.purge else "Recoverable+Purgeable"
        return told | times | {"recoveryLevel": level, "recoverableDays": DAYS}


Describe = Callable[[Call, T], dict[str, Any]]


class Deletion(Generic[T]):
    """The operations that delete, purge and recover keys, certificates or secrets.

    `kind` is `Key`, `Certificate` or `Secret`. `describe` returns an object's JSON, `summarise` its JSON in a listing,
    and `guard` raises `Refusal` for an object that must not be deleted by itself.
    """

    def __init__(
        self,
        kind: str,
        shelf: Shelf[T],
        protection: Protection,
        *,
        describe: Describe[T],
        summarise: Describe[T],
        guard: Callable[[T], None],
    ) -> None:
        self._kind = kind
        self._shelf: Shelf[T] = shelf
        self._protection = protection
        self._describe: Describe[T] = describe
        self._summarise: Describe[T] = summarise
        self._guard: Callable[[T], None] = guard
        self._collection = f"{kind.lower()}s"

    def routes(self) -> list[Route]:
        """Return the operations."""
        live, deleted = f"{self._collection}/{{name}}", f"deleted{self._collection}/{{name}}"
        return [
            Route("DELETE", live, f"{self._collection}/delete", self._delete),
            Route("GET", f"deleted{self._collection}", f"{self._collection}/list", self._list),
            Route("GET", deleted, f"{self._collection}/get", self._get),
            Route("DELETE", deleted, f"{self._collection}/purge", self._purge),
            Route("POST", f"{deleted}/recover", f"{self._collection}/recover", self._recover),
        ]

    def _delete(self, call: Call) -> Reply:
        self._guard(self._shelf.find(self._kind, call.name))
        found = self._shelf.delete(self._kind, call.name)
        return Reply(200, self._describe(call, found.thing) | self._fate(call, found))

    def _list(self, call: Call) -> Reply:
        found = [each for each in self._shelf.deleted.values() if each.kind == self._kind and not each.absent]
        return listed(call, [self._summarise(call, each.thing) | self._fate(call, each) for each in found])

    def _get(self, call: Call) -> Reply:
        found = self._shelf.look(self._kind, call.name)
        return Reply(200, self._describe(call, found.thing) | self._fate(call, found))

    def _purge(self, call: Call) -> Reply:
        if self._protection.purge:
            raise purge_protected()
        self._shelf.purge(self._kind, call.name)
        return Reply(204)

    def _recover(self, call: Call) -> Reply:
        return Reply(200, self._describe(call, self._shelf.recover(self._kind, call.name)))

    def _fate(self, call: Call, found: Deleted[T]) -> dict[str, Any]:
        return {
            "recoveryId": f"{call.base}/deleted{self._collection}/{found.thing.name}",
            "deletedDate": found.date,
            "scheduledPurgeDate": found.date + DAYS * 24 * 60 * 60,
        }
