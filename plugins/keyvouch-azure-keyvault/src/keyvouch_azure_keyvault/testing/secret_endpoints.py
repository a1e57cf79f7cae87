"""The operations on secrets; a certificate's secret is the certificate, with its key if that is exportable."""

import base64
from typing import Any

from keyvouch_azure_keyvault.testing.certificates import PKCS12, write_pfx
from keyvouch_azure_keyvault.testing.key_endpoints import find_version
from keyvouch_azure_keyvault.testing.objects import Item, Secret, SecretVersion, Shelf
from keyvouch_azure_keyvault.testing.protocol import Call, Reply, Route, listed
from keyvouch_azure_keyvault.testing.refusals import Refusal, disabled, missing
from keyvouch_azure_keyvault.testing.soft_delete import Deletion, Protection

KIND = "Secret"


class Secrets:
    """Secrets by themselves, and those of certificates, which can only be read."""

    def __init__(self, shelf: Shelf[Secret], certified: Shelf[Item], protection: Protection) -> None:
        self._shelf, self._certified, self._protection = shelf, certified, protection
        self._deletion = Deletion(
            KIND,
            shelf,
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

    def _list(self, call: Call) -> Reply:
        return listed(call, [self._item(call, each, each.newest, named=False) for each in self._shelf.live.values()])

    def _versions(self, call: Call) -> Reply:
        found = self._shelf.live.get(call.name)
        return listed(call, [self._item(call, found, each) for each in found.versions] if found else [])

    def _get(self, call: Call) -> Reply:
        certified = self._certified.live.get(call.name)
        if certified is not None and certified.policy is not None and certified.versions:
            return self._get_certificate(call)
        secret, version = self._find(call)
        if not version.enabled:
            raise disabled("get", "secret")
        return Reply(200, {**self._item(call, secret, version), "value": version.value})

    def _get_certificate(self, call: Call) -> Reply:
        _, version = find_version(self._certified, KIND, call)
        if not version.enabled:
            raise disabled("get", "secret")
        place = f"{call.name}/{version.version}"
        told = {
            "value": base64.b64encode(write_pfx(call.name, version)).decode(),
            "contentType": PKCS12,
            "id": f"{call.base}/secrets/{place}",
            "kid": f"{call.base}/keys/{place}",
            "managed": True,
            "attributes": self._protection.attributes(version),
            "tags": version.tags,
        }
        return Reply(200, told)

    def _set(self, call: Call) -> Reply:
        self._shelf.require_free(KIND, call.name)
        certified = self._certified.live.get(call.name)
        if certified is not None and certified.policy is not None:
            # The message is ours: the service's message for the secret of a certificate is not known.
            raise Refusal(403, "Forbidden", f"The secret {call.name} is managed by a certificate.", "SecretManaged")
        made = SecretVersion(value=str(call.required("value")), content_type=call.body.get("contentType"))
        call.apply(made)
        secret = self._shelf.live.setdefault(call.name, Secret(call.name))
        secret.versions.append(made)
        return Reply(200, {**self._item(call, secret, made), "value": made.value})

    def _update(self, call: Call) -> Reply:
        secret, version = self._find(call)
        version.content_type = call.body.get("contentType", version.content_type)
        call.apply(version)
        return Reply(200, self._item(call, secret, version))

    def _find(self, call: Call) -> tuple[Secret, SecretVersion]:
        secret = self._shelf.find(KIND, call.name)
        for each in secret.versions:
            if each.version == call.version.lower() or (not call.version and each is secret.newest):
                return secret, each
        raise missing(KIND, f"{call.name}/{call.version}")

    def _item(self, call: Call, secret: Secret, version: SecretVersion, *, named: bool = True) -> dict[str, Any]:
        address = f"{call.base}/secrets/{secret.name}" + (f"/{version.version}" if named else "")
        kind = {"contentType": version.content_type} if version.content_type else {}
        return {"id": address, **kind, "attributes": self._protection.attributes(version), "tags": version.tags}
