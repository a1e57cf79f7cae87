"""The operations on secrets; a certificate's secret is the certificate, with its key if that is exportable."""

import base64
from typing import Any

from keyvouch_azure_keyvault.testing.certificates import PKCS12, write_pfx
from keyvouch_azure_keyvault.testing.key_endpoints import find_version
from keyvouch_azure_keyvault.testing.objects import Item, ObjectStore, Secret, SecretVersion
from keyvouch_azure_keyvault.testing.protocol import Call, JsonResponse, Route, paginate
from keyvouch_azure_keyvault.testing.refusals import Refusal, disabled, missing
from keyvouch_azure_keyvault.testing.soft_delete import PurgeProtection, SoftDeleteEndpoints

KIND = "Secret"


class SecretEndpoints:
    """Secrets by themselves, and those of certificates, which can only be read."""

    def __init__(
        self, objects: ObjectStore[Secret], certificates: ObjectStore[Item], protection: PurgeProtection
    ) -> None:
        self._objects, self._certificates, self._protection = objects, certificates, protection
        self._deletion = SoftDeleteEndpoints(
            KIND,
            objects,
            protection,
            describe=lambda call, secret: self._item(call, secret, secret.newest),
            summarise=lambda call, secret: self._item(call, secret, secret.newest, named=False),
            guard=lambda _: None,
        )

    def routes(self) -> list[Route]:
        """Return the operations."""
        return [
            Route("GET", "secrets", "secrets/list", self._list),
            Route("GET", "secrets/{name}/versions", "secrets/list", self._versions),
            Route("GET", "secrets/{name}/{version}", "secrets/get", self._get),
            Route("PUT", "secrets/{name}", "secrets/set", self._set),
            Route("PATCH", "secrets/{name}/{version}", "secrets/set", self._update),
            *self._deletion.routes(),
        ]

    def _list(self, call: Call) -> JsonResponse:
        return paginate(
            call, [self._item(call, each, each.newest, named=False) for each in self._objects.live.values()]
        )

    def _versions(self, call: Call) -> JsonResponse:
        found = self._objects.live.get(call.name)
        return paginate(call, [self._item(call, found, each) for each in found.versions] if found else [])

    def _get(self, call: Call) -> JsonResponse:
        certificate = self._certificates.live.get(call.name)
        if certificate is not None and certificate.policy is not None and certificate.versions:
            return self._get_certificate(call)
        secret, version = self._find(call)
        if not version.enabled:
            raise disabled("get", "secret")
        return JsonResponse(200, {**self._item(call, secret, version), "value": version.value})

    def _get_certificate(self, call: Call) -> JsonResponse:
        _, version = find_version(self._certificates, KIND, call)
        if not version.enabled:
            raise disabled("get", "secret")
        path = f"{call.name}/{version.version}"
        bundle = {
            "value": base64.b64encode(write_pfx(call.name, version)).decode(),
            "contentType": PKCS12,
            "id": f"{call.base}/secrets/{path}",
            "kid": f"{call.base}/keys/{path}",
            "managed": True,
            "attributes": self._protection.attributes(version),
            "tags": version.tags,
        }
        return JsonResponse(200, bundle)

    def _set(self, call: Call) -> JsonResponse:
        self._objects.require_free(KIND, call.name)
        certificate = self._certificates.live.get(call.name)
        if certificate is not None and certificate.policy is not None:
            # The message is ours: the service's message for the secret of a certificate is not known.
            raise Refusal(403, "Forbidden", f"The secret {call.name} is managed by a certificate.", "SecretManaged")
        created = SecretVersion(value=str(call.required("value")), content_type=call.body.get("contentType"))
        call.apply(created)
        secret = self._objects.live.setdefault(call.name, Secret(call.name))
        secret.versions.append(created)
        return JsonResponse(200, {**self._item(call, secret, created), "value": created.value})

    def _update(self, call: Call) -> JsonResponse:
        secret, version = self._find(call)
        version.content_type = call.body.get("contentType", version.content_type)
        call.apply(version)
        return JsonResponse(200, self._item(call, secret, version))

    def _find(self, call: Call) -> tuple[Secret, SecretVersion]:
        secret = self._objects.find(KIND, call.name)
        for each in secret.versions:
            if each.version == call.version.lower() or (not call.version and each is secret.newest):
                return secret, each
        raise missing(KIND, f"{call.name}/{call.version}")

    def _item(self, call: Call, secret: Secret, version: SecretVersion, *, named: bool = True) -> dict[str, Any]:
        address = f"{call.base}/secrets/{secret.name}" + (f"/{version.version}" if named else "")
        kind = {"contentType": version.content_type} if version.content_type else {}
        return {"id": address, **kind, "attributes": self._protection.attributes(version), "tags": version.tags}
