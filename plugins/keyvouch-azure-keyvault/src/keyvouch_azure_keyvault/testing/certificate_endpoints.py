"""The operations on certificates."""

import base64
import time
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from keyvouch.testing.authority.jose import to_base64url
from keyvouch_azure_keyvault.testing.certificates import complete_policy, make_request, read_pfx, self_sign
from keyvouch_azure_keyvault.testing.key_endpoints import find_version, identifier
from keyvouch_azure_keyvault.testing.keys import curve_of, make_version, operations_of, require_type
from keyvouch_azure_keyvault.testing.objects import Item, ObjectStore, Pending, Version
from keyvouch_azure_keyvault.testing.protocol import Call, JsonResponse, Route, paginate
from keyvouch_azure_keyvault.testing.refusals import Refusal, bad, being_changed, invalid, missing
from keyvouch_azure_keyvault.testing.soft_delete import PurgeProtection, SoftDeleteEndpoints

KIND = "Certificate"
STATUS = (
    "Pending certificate created. Certificate request is in progress. This may take some time based on the issuer "
    "provider. Please check again later."
)


class CertificateEndpoints:
    """Certificates with their keys: create, request and merge, import."""

    def __init__(
        self, objects: ObjectStore[Item], protection: PurgeProtection, *, creates_at_once: bool = False
    ) -> None:
        self._objects, self._protection, self._creates_at_once = objects, protection, creates_at_once
        self._deletion = SoftDeleteEndpoints(
            KIND,
            objects,
            protection,
            describe=lambda call, item: self._bundle(call, item, item.newest),
            summarise=lambda call, item: self._item(call, item, item.newest, named=False),
            guard=_require_certificate,
        )

    def routes(self) -> list[Route]:
        """Return the operations."""
        return [
            Route("GET", "certificates", "certificates/list", self._list),
            Route("GET", "certificates/{name}/versions", "certificates/list", self._versions),
            Route("GET", "certificates/{name}/policy", "certificates/get", self._get_policy),
            Route("PATCH", "certificates/{name}/policy", "certificates/update", self._update_policy),
            Route("GET", "certificates/{name}/pending", "certificates/get", self._get_pending),
            Route("PATCH", "certificates/{name}/pending", "certificates/update", self._cancel_pending),
            Route("DELETE", "certificates/{name}/pending", "certificates/delete", self._delete_pending),
            Route("POST", "certificates/{name}/pending/merge", "certificates/create", self._merge),
            Route("POST", "certificates/{name}/create", "certificates/create", self._create),
            Route("POST", "certificates/{name}/import", "certificates/import", self._import),
            Route("GET", "certificates/{name}/{version}", "certificates/get", self._get),
            Route("PATCH", "certificates/{name}/{version}", "certificates/update", self._update),
            *self._deletion.routes(),
        ]

    def _list(self, call: Call) -> JsonResponse:
        pending_too = call.query.get("includePending", "").lower() == "true"
        live = [each for each in self._objects.live.values() if each.policy is not None]
        shown = [(each, _shown(each)) for each in live if each.versions or (pending_too and each.pending)]
        return paginate(call, [self._item(call, item, version, named=False) for item, version in shown])

    def _versions(self, call: Call) -> JsonResponse:
        found = self._objects.live.get(call.name)
        own = found is not None and found.policy is not None
        return paginate(call, [self._item(call, found, each) for each in found.versions] if found and own else [])

    def _get(self, call: Call) -> JsonResponse:
        item = self._objects.live.get(call.name)
        created = item.pending.version if item is not None and item.pending else None
        if (
            item is not None
            and created is not None
            and (call.version == created.version or not (call.version or item.versions))
        ):
            return JsonResponse(200, self._bundle(call, item, created))
        return JsonResponse(200, self._bundle(call, *self._find(call)))

    def _update(self, call: Call) -> JsonResponse:
        item, version = self._find(call)
        call.apply(version)
        return JsonResponse(200, self._bundle(call, item, version))

    def _get_policy(self, call: Call) -> JsonResponse:
        return JsonResponse(200, self._describe_policy(call, self._require(call)))

    def _update_policy(self, call: Call) -> JsonResponse:
        item = self._require(call)
        policy = dict(item.policy or {})
        for name, value in call.body.items():
            former = policy.get(name)
            policy[name] = {**former, **value} if isinstance(former, dict) and isinstance(value, dict) else value
        item.policy = complete_policy(policy)
        return JsonResponse(200, self._describe_policy(call, item))

    # Creating certificates.

    def _create(self, call: Call) -> JsonResponse:
        policy = complete_policy(call.required("policy"))
        item = self._for_change(call)
        if item.pending and item.pending.status == "inProgress":
            raise being_changed(item.name)
        properties = policy["key_props"]
        if properties["reuse_key"] and item.versions:
            former = item.newest
            created = Version(private_key=former.private_key, kind=former.kind, operations=former.operations)
            created.exportable = former.exportable
        else:
            created = make_version(properties)
        call.apply(created)
        item.policy = policy
        item.pending = Pending(created, policy["issuer"]["name"], make_request(created.private_key, policy), policy)
        self._objects.live[call.name] = item
        if self._creates_at_once:
            _self_sign(item, item.pending)
        url = f"{call.base}/certificates/{call.name}/pending?api-version={call.query['api-version']}"
        location = {"Location": f"{url}&request_id={created.version}", "Retry-After": "10"}
        return JsonResponse(202, self._describe_pending(call, item.pending), location)

    def _get_pending(self, call: Call) -> JsonResponse:
        item, pending = self._pending(call)
        _self_sign(item, pending)
        return JsonResponse(200, self._describe_pending(call, pending))

    def _cancel_pending(self, call: Call) -> JsonResponse:
        _, pending = self._pending(call)
        pending.cancelled = bool(call.required("cancellation_requested"))
        return JsonResponse(200, self._describe_pending(call, pending))

    def _delete_pending(self, call: Call) -> JsonResponse:
        item, pending = self._pending(call)
        item.pending = None
        if not item.versions:
            del self._objects.live[item.name]
        return JsonResponse(200, self._describe_pending(call, pending))

    def _merge(self, call: Call) -> JsonResponse:
        item, pending = self._pending(call)
        try:
            chain = [x509.load_der_x509_certificate(base64.b64decode(each)) for each in call.required("x5c")]
        except (ValueError, TypeError):
            raise invalid("x5c", "ASN1 bad tag value met.") from None
        if not chain:
            raise invalid("x5c", "X5C must have at least one valid item")
        if pending.status != "inProgress":
            raise bad(f"The pending certificate {item.name} is completed.")  # the message is ours
        if chain[0].public_key() != pending.version.private_key.public_key():
            # The service's message when importing a certificate that does not match the key.
            raise bad(
                "The public key of the end-entity certificate in the specified X.509 certificate content does not match"
                " the public part of the specified private key. Please check if certificate is valid."
            )
        call.apply(pending.version)
        _complete(item, pending, chain)
        return JsonResponse(201, self._bundle(call, item, pending.version))

    def _import(self, call: Call) -> JsonResponse:
        value = call.required("value")
        try:
            pfx = base64.b64decode(value, validate=True)
        except ValueError:
            raise invalid("value") from None
        key, leaf, others = read_pfx(pfx, call.body.get("pwd"))
        item = self._for_change(call)
        given = call.body.get("policy") or {}
        own = (
            {"kty": "RSA", "key_size": key.key_size}
            if isinstance(key, RSAPrivateKey)
            else {"kty": "EC", "crv": curve_of(key)}
        )
        properties = {
            "key_props": own | (given.get("key_props") or {}),
            "x509_props": {"subject": leaf.subject.rfc4514_string()} | (given.get("x509_props") or {}),
        }
        policy = complete_policy({"issuer": {"name": "Unknown"}, **given, **properties})
        kind = policy["key_props"]["kty"]
        require_type(kind, hsm_only=False)
        version = Version(private_key=key, kind=kind, operations=operations_of({}, kind))
        version.certificate, version.issuers = leaf, tuple(others)
        version.exportable = bool(policy["key_props"]["exportable"])
        call.apply(version)
        item.policy = policy
        item.versions.append(version)
        self._objects.live[call.name] = item
        return JsonResponse(200, self._bundle(call, item, version))

    # Shared helpers.

    def _find(self, call: Call) -> tuple[Item, Version]:
        item, version = find_version(self._objects, KIND, call)
        _require_certificate(item)
        return item, version

    def _require(self, call: Call) -> Item:
        item = self._objects.live.get(call.name)
        if item is None or item.policy is None:
            raise missing(KIND, call.name)
        return item

    def _pending(self, call: Call) -> tuple[Item, Pending]:
        item = self._objects.live.get(call.name)
        if item is None or item.pending is None:
            raise Refusal(404, "PendingCertificateNotFound", f"Pending certificate not found: {call.name}")
        return item, item.pending

    def _for_change(self, call: Call) -> Item:
        self._objects.require_free(KIND, call.name)
        item = self._objects.live.get(call.name) or Item(call.name)
        if item.versions and item.policy is None:
            # The message is ours: a certificate's key has its name, and this key exists without a certificate.
            raise Refusal(409, "Conflict", f"There is a key {item.name} that belongs to no certificate.", "KeyExists")
        return item

    def _describe_policy(self, call: Call, item: Item) -> dict[str, Any]:
        created = item.versions[0].created if item.versions else int(time.time())
        attributes = {"enabled": True, "created": created, "updated": created}
        address = f"{call.base}/certificates/{item.name}/policy"
        return {"id": address, **(item.policy or {}), "attributes": attributes}

    def _describe_pending(self, call: Call, pending: Pending) -> dict[str, Any]:
        done = pending.status == "completed"
        return {
            "id": f"{call.base}/certificates/{call.name}/pending",
            "issuer": {"name": pending.issuer},
            "csr": base64.b64encode(pending.request).decode(),
            "cancellation_requested": pending.cancelled,
            "status": pending.status,
            "request_id": pending.version.version,
            **({"target": f"{call.base}/certificates/{call.name}"} if done else {"status_details": STATUS}),
        }

    def _item(self, call: Call, item: Item, version: Version, *, named: bool = True) -> dict[str, Any]:
        found = version.certificate
        digest = {"x5t": to_base64url(found.fingerprint(hashes.SHA1()))} if found else {}  # noqa: S303 - x5t is SHA-1
        address = identifier(call, "certificates", item, version if named else None)
        attributes = self._protection.attributes(version)
        if found is None:
            attributes["enabled"] = False
        return {"id": address, **digest, "attributes": attributes, "tags": version.tags}

    def _bundle(self, call: Call, item: Item, version: Version) -> dict[str, Any]:
        bundle = {**self._item(call, item, version), "policy": self._describe_policy(call, item)}
        if item.pending:
            bundle["pending"] = {"id": f"{call.base}/certificates/{item.name}/pending"}
        if version.certificate is None:
            return bundle
        der = version.certificate.public_bytes(serialization.Encoding.DER)
        addresses = {
            name: identifier(call, where, item, version) for name, where in (("kid", "keys"), ("sid", "secrets"))
        }
        return {**bundle, **addresses, "cer": base64.b64encode(der).decode()}


def _require_certificate(item: Item) -> None:
    if item.policy is None:
        raise missing(KIND, item.name)


def _shown(item: Item) -> Version:
    return item.newest if item.versions or item.pending is None else item.pending.version


def _self_sign(item: Item, pending: Pending) -> None:
    if pending.issuer == "Self" and pending.status == "inProgress":
        _complete(item, pending, [self_sign(pending.version.private_key, pending.policy)])


def _complete(item: Item, pending: Pending, chain: list[x509.Certificate]) -> None:
    version = pending.version
    version.certificate, version.issuers = chain[0], tuple(chain[1:])
    version.created = version.updated = int(time.time())
    item.versions.append(version)
    pending.status = "completed"
