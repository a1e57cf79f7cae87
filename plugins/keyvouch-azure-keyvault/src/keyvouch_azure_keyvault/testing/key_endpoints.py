"""The operations on keys."""

from typing import Any

from keyvouch.testing.authority.jose import to_base64url
from keyvouch_azure_keyvault.testing.keys import (
    make_version,
    operations_of,
    public_jwk,
    read_private_jwk,
    require_type,
    sign,
)
from keyvouch_azure_keyvault.testing.objects import Item, ObjectStore, Version
from keyvouch_azure_keyvault.testing.protocol import Call, JsonResponse, Route, paginate
from keyvouch_azure_keyvault.testing.refusals import Refusal, missing
from keyvouch_azure_keyvault.testing.soft_delete import PurgeProtection, SoftDeleteEndpoints

KIND = "Key"


class KeyEndpoints:
    """Keys, including those of certificates, which are managed: they can only be read and used."""

    def __init__(self, objects: ObjectStore[Item], protection: PurgeProtection, *, managed_hsm: bool) -> None:
        self._objects, self._protection, self._hsm = objects, protection, managed_hsm
        self._deletion = SoftDeleteEndpoints(
            KIND,
            objects,
            protection,
            describe=lambda call, item: self._bundle(call, item, item.newest),
            summarise=lambda call, item: self._item(call, item, item.newest, named=False),
            guard=_require_unmanaged,
        )

    def routes(self) -> list[Route]:
        """Return the operations."""
        return [
            Route("GET", "keys", "keys/list", self._list),
            Route("GET", "keys/{name}/versions", "keys/list", self._versions),
            Route("GET", "keys/{name}/{version}", "keys/get", self._get),
            Route("POST", "keys/{name}/create", "keys/create", self._create),
            Route("PUT", "keys/{name}", "keys/import", self._import),
            Route("PATCH", "keys/{name}/{version}", "keys/update", self._update),
            Route("POST", "keys/{name}/{version}/sign", "keys/sign", self._sign),
            *self._deletion.routes(),
        ]

    def _list(self, call: Call) -> JsonResponse:
        live = [each for each in self._objects.live.values() if each.versions]
        return paginate(call, [self._item(call, each, each.newest, named=False) for each in live])

    def _versions(self, call: Call) -> JsonResponse:
        found = self._objects.live.get(call.name)
        return paginate(call, [self._item(call, found, each) for each in found.versions] if found else [])

    def _get(self, call: Call) -> JsonResponse:
        return JsonResponse(200, self._bundle(call, *find_version(self._objects, KIND, call)))

    def _create(self, call: Call) -> JsonResponse:
        item = self._for_change(call)
        call.required("kty")
        return self._add(call, item, make_version(dict(call.body), hsm_only=self._hsm))

    def _import(self, call: Call) -> JsonResponse:
        item, jwk = self._for_change(call), call.required("key")
        kind = str(jwk.get("kty"))
        if call.body.get("Hsm") and not kind.endswith("-HSM"):
            kind += "-HSM"
        require_type(kind, hsm_only=self._hsm)
        created = Version(private_key=read_private_jwk(jwk), kind=kind, operations=operations_of(jwk, kind))
        return self._add(call, item, created)

    def _add(self, call: Call, item: Item, created: Version) -> JsonResponse:
        call.apply(created)
        item.versions.append(created)
        self._objects.live[call.name] = item
        return JsonResponse(200, self._bundle(call, item, created))

    def _update(self, call: Call) -> JsonResponse:
        item, version = find_version(self._objects, KIND, call)
        _require_unmanaged(item)
        if call.body.get("key_ops") is not None:
            version.operations = operations_of(dict(call.body), version.kind)
        call.apply(version)
        return JsonResponse(200, self._bundle(call, item, version))

    def _sign(self, call: Call) -> JsonResponse:
        item, version = find_version(self._objects, KIND, call)
        key_id = identifier(call, "keys", item, version)
        signature = sign(version, key_id, str(call.required("alg")), call.decode_base64url("value"))
        return JsonResponse(200, {"kid": key_id, "value": to_base64url(signature)})

    def _for_change(self, call: Call) -> Item:
        self._objects.require_free(KIND, call.name)
        item = self._objects.live.get(call.name) or Item(call.name)
        _require_unmanaged(item)
        return item

    def _item(self, call: Call, item: Item, version: Version, *, named: bool = True) -> dict[str, Any]:
        kid = identifier(call, "keys", item, version if named else None)
        return {"kid": kid, "attributes": self._protection.attributes(version), "tags": version.tags} | _managed(item)

    def _bundle(self, call: Call, item: Item, version: Version) -> dict[str, Any]:
        key = {"kid": identifier(call, "keys", item, version), **public_jwk(version)}
        attributes = {**self._protection.attributes(version), "exportable": version.exportable}
        return {"key": key, "attributes": attributes, "tags": version.tags} | _managed(item)


def find_version(objects: ObjectStore[Item], kind: str, call: Call) -> tuple[Item, Version]:
    """Return the named version, or else the newest. Raises `Refusal`."""
    item = objects.find(kind, call.name)
    for each in item.versions:
        if each.version == call.version.lower() or (not call.version and each is item.newest):
            return item, each
    raise missing(kind, f"{call.name}/{call.version}")


def identifier(call: Call, collection: str, item: Item, version: Version | None) -> str:
    """Return the URL of a version, or of the object if there is no version."""
    base = f"{call.base}/{collection}/{item.name}"
    return f"{base}/{version.version}" if version else base


def _managed(item: Item) -> dict[str, Any]:
    return {"managed": True} if item.policy is not None else {}


def _require_unmanaged(item: Item) -> None:
    if item.policy is not None:
        # The message is ours: the service's message for the key of a certificate is not known.
        raise Refusal(403, "Forbidden", f"The key {item.name} is managed by a certificate.", "KeyManaged")
