"""Soft delete as in the service: deleted objects can be recovered until they are purged."""

from collections.abc import Callable
from typing import Any, Generic

from keyvouch_azure_keyvault.testing.objects import DeletedObject, ObjectStore, ObjectVersion, T
from keyvouch_azure_keyvault.testing.protocol import Call, JsonResponse, Route, paginate
from keyvouch_azure_keyvault.testing.refusals import purge_protected

DAYS = 90
"""Number of days for which a deleted object is kept."""


class PurgeProtection:
    """Whether deleted objects can be purged, and the attributes in which the service reports it."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    def attributes(self, version: ObjectVersion) -> dict[str, Any]:
        """Return the attributes of a version."""
        begin, end = version.validity
        times = {name: value for name, value in (("nbf", begin), ("exp", end)) if value is not None}
        attributes = {"enabled": version.enabled, "created": version.created, "updated": version.updated}
        level = "Recoverable" if self.enabled else "Recoverable+Purgeable"
        return attributes | times | {"recoveryLevel": level, "recoverableDays": DAYS}


Describe = Callable[[Call, T], dict[str, Any]]


class SoftDeleteEndpoints(Generic[T]):
    """The operations that delete, purge and recover keys, certificates or secrets.

    `kind` is `Key`, `Certificate` or `Secret`. `describe` returns an object's JSON, `summarise` its JSON in a listing,
    and `guard` raises `Refusal` for an object that must not be deleted by itself.
    """

    def __init__(
        self,
        kind: str,
        objects: ObjectStore[T],
        protection: PurgeProtection,
        *,
        describe: Describe[T],
        summarise: Describe[T],
        guard: Callable[[T], None],
    ) -> None:
        self._kind = kind
        self._objects: ObjectStore[T] = objects
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

    def _delete(self, call: Call) -> JsonResponse:
        self._guard(self._objects.find(self._kind, call.name))
        found = self._objects.delete(self._kind, call.name)
        return JsonResponse(200, self._describe(call, found.item) | self._describe_deletion(call, found))

    def _list(self, call: Call) -> JsonResponse:
        found = [
            each
            for each in self._objects.deleted.values()
            if each.kind == self._kind and not each.requests_until_deleted
        ]
        return paginate(
            call, [self._summarise(call, each.item) | self._describe_deletion(call, each) for each in found]
        )

    def _get(self, call: Call) -> JsonResponse:
        found = self._objects.get_deleted(self._kind, call.name)
        return JsonResponse(200, self._describe(call, found.item) | self._describe_deletion(call, found))

    def _purge(self, call: Call) -> JsonResponse:
        if self._protection.enabled:
            raise purge_protected()
        self._objects.purge(self._kind, call.name)
        return JsonResponse(204)

    def _recover(self, call: Call) -> JsonResponse:
        return JsonResponse(200, self._describe(call, self._objects.recover(self._kind, call.name)))

    def _describe_deletion(self, call: Call, found: DeletedObject[T]) -> dict[str, Any]:
        return {
            "recoveryId": f"{call.base}/deleted{self._collection}/{found.item.name}",
            "deletedDate": found.date,
            "scheduledPurgeDate": found.date + DAYS * 24 * 60 * 60,
        }
