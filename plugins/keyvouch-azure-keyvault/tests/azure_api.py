"""The REST protocol of the test vault: keys and certificates, as the service documents them."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from azure_http import Call, Refusal, Reply
from azure_objects import (
    Item,
    Version,
    bad,
    decode,
    encode,
    make_request,
    make_version,
    private_key_of,
    public_jwk,
    self_sign,
)

_NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")


class Api:
    """Answers authenticated requests. `url` is the address that identifiers begin with."""

    purge_protection = False
    page = 25
    slow_deletes = 1
    """How often the service says 404 of what it is deleting."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, Item] = {}
        """All of them; those of certificates have a policy."""
        self.secrets: dict[str, str] = {}
        self.deleted: dict[str, tuple[Item, int]] = {}

    def answer(self, call: Call) -> Reply:
        """Find what does it. Raises `Refusal`."""
        collection, *rest = call.path
        if not re.fullmatch(r"7\.[0-6]|20\d\d-\d\d-\d\d", call.query.get("api-version", "")):
            raise Refusal(400, "BadParameter", "The specified version is not recognized.")
        verb = rest[1] if len(rest) > 1 and not re.fullmatch("[0-9a-f]{32}", rest[1]) else ""
        if len(rest) > 2:
            verb = "/".join(rest[1:]) if collection == "certificates" else rest[2]
        if rest and not _NAME.fullmatch(rest[0]):
            raise bad("name")
        one: Callable[[Call], Reply] | None = getattr(
            self, f"_{call.method}_{collection}_{(verb or ('one' if rest else 'all')).replace('/', '_')}".lower(), None
        )
        if one is None:
            raise Refusal(405, "MethodNotAllowed", f"{call.method} is not allowed here.")
        return one(call)

    # Keys.

    def _get_keys_all(self, call: Call) -> Reply:
        items = [self._key_item(each, each.newest, short=True) for each in self.keys.values() if each.versions]
        return self._listed(call, items)

    def _get_keys_versions(self, call: Call) -> Reply:
        found = self.keys.get(call.path[1])
        return self._listed(call, [self._key_item(found, each) for each in found.versions] if found else [])

    def _get_keys_one(self, call: Call) -> Reply:
        return Reply(200, self._key_bundle(*self._version(call, "key")))

    def _post_keys_create(self, call: Call) -> Reply:
        item = self._free(call, "key")
        made = make_version(call.body, None, call.body.get("key_ops") or ("sign", "verify"))
        item.versions.append(made)
        return Reply(200, self._key_bundle(item, made))

    def _put_keys_one(self, call: Call) -> Reply:
        item, jwk = self._free(call, "key"), call.body["key"]
        kind = f"{jwk['kty']}-HSM" if call.body.get("Hsm") else jwk["kty"]
        item.versions.append(Version(private_key_of(jwk), kind, tuple(jwk.get("key_ops") or ("sign", "verify"))))
        return Reply(200, self._key_bundle(item, item.newest))

    def _post_keys_sign(self, call: Call) -> Reply:
        item, version = self._version(call, "key")
        signature = version.sign(str(call.body.get("alg")), decode(str(call.body.get("value"))))
        return Reply(200, {"kid": self._id("keys", item, version), "value": encode(signature)})

    def _delete_keys_one(self, call: Call) -> Reply:
        if self.keys[call.path[1]].policy if call.path[1] in self.keys else False:
            raise Refusal(403, "Forbidden", "The key is managed by a certificate.", "KeyManaged")
        return self._delete(call, "key")

    # Certificates.

    def _get_certificates_all(self, call: Call) -> Reply:
        found = [self._certificate_item(each, each.newest) for each in self._certified() if each.versions]
        return self._listed(call, [{**each, "id": each["id"].rpartition("/")[0]} for each in found])

    def _get_certificates_versions(self, call: Call) -> Reply:
        found = [each for each in self._certified() if each.name == call.path[1]]
        return self._listed(call, [self._certificate_item(item, each) for item in found for each in item.versions])

    def _get_certificates_one(self, call: Call) -> Reply:
        return Reply(200, self._bundle(*self._version(call, "certificate")))

    def _get_certificates_policy(self, call: Call) -> Reply:
        return Reply(200, self._one(call, "certificate").policy)

    def _post_certificates_create(self, call: Call) -> Reply:
        policy = call.body.get("policy") or {}
        issuer = (policy.get("issuer") or {}).get("name")
        if issuer not in ("Self", "Unknown"):
            raise bad("policy.issuer.name")
        item = self._free(call, "certificate")
        if item.pending and item.pending["status"] == "inProgress":
            raise Refusal(409, "Conflict", f"A pending certificate operation for {item.name} is in progress.")
        made = make_version(policy.get("key_props") or {}, item.newest if item.versions else None)
        csr = make_request(made, policy)
        item.policy = {"id": f"{self.url}/certificates/{item.name}/policy", **policy}
        item.pending_key = made
        item.pending = {
            "id": f"{self.url}/certificates/{item.name}/pending",
            "issuer": {"name": issuer},
            "csr": base64.b64encode(csr).decode(),
            "cancellation_requested": False,
            "status": "inProgress",
            "request_id": made.version,
        }
        return Reply(202, item.pending)

    def _get_certificates_pending(self, call: Call) -> Reply:
        item = self._pending(call)
        assert item.pending is not None
        if item.pending["issuer"]["name"] == "Self" and item.pending_key and item.policy:
            self._complete(item, self_sign(item.pending_key, item.policy))
        return Reply(200, item.pending)

    def _delete_certificates_pending(self, call: Call) -> Reply:
        item = self._pending(call)
        told, item.pending, item.pending_key = item.pending, None, None
        return Reply(200, told)

    def _post_certificates_pending_merge(self, call: Call) -> Reply:
        item = self._pending(call)
        chain = [x509.load_der_x509_certificate(base64.b64decode(each)) for each in call.body.get("x5c") or []]
        if item.pending_key is None or not chain:
            raise Refusal(400, "BadParameter", "There is nothing to be merged.")
        if chain[0].public_key() != item.pending_key.private_key.public_key():
            raise Refusal(400, "BadParameter", "Public key from x5c differs from the pending certificate's.")
        return Reply(201, self._bundle(item, self._complete(item, chain[0])))

    def _post_certificates_import(self, call: Call) -> Reply:
        item = self._free(call, "certificate")
        password = str(call.body["pwd"]).encode() if call.body.get("pwd") else None
        try:
            octets = base64.b64decode(call.body["value"], validate=True)
            key, leaf, _ = pkcs12.load_key_and_certificates(octets, password)
        except (KeyError, ValueError):
            raise Refusal(
                400, "BadParameter", "The specified PKCS#12 X.509 certificate content can not be read."
            ) from None
        if key is None or leaf is None:
            raise Refusal(400, "BadParameter", "The PKCS#12 has no private key.")
        item.policy = {**(call.body.get("policy") or {}), "id": f"{self.url}/certificates/{item.name}/policy"}
        kind = item.policy.get("key_props", {}).get("kty") or "RSA"
        item.versions.append(Version(key, kind, ("sign", "verify"), certificate=leaf))
        return Reply(200, self._bundle(item, item.newest))

    def _patch_certificates_one(self, call: Call) -> Reply:
        item, version = self._version(call, "certificate")
        version.enabled = (call.body.get("attributes") or {}).get("enabled", version.enabled)
        return Reply(200, self._bundle(item, version))

    def _delete_certificates_one(self, call: Call) -> Reply:
        return self._delete(call, "certificate")

    def _get_secrets_one(self, call: Call) -> Reply:
        value = self.secrets.get(call.path[1])
        if value is None:
            raise _missing("secret", call.path[1])
        return Reply(200, {"value": value, "id": f"{self.url}/secrets/{call.path[1]}/{'0' * 32}", "attributes": {}})

    # What was deleted.

    def _get_deletedcertificates_one(self, call: Call) -> Reply:
        return self._get_deleted(call)

    _get_deletedkeys_one = _get_deletedcertificates_one

    def _delete_deletedcertificates_one(self, call: Call) -> Reply:
        self._get_deleted(call)
        if self.purge_protection:
            raise Refusal(
                403,
                "Forbidden",
                "Operation is not allowed because purge protection is enabled on this vault.",
                "PurgeNotAllowed",
            )
        del self.deleted[call.path[1]]
        return Reply(204)

    _delete_deletedkeys_one = _delete_deletedcertificates_one

    def _post_deletedcertificates_recover(self, call: Call) -> Reply:
        item, _ = self.deleted.pop(call.path[1])
        self.keys[item.name] = item
        return Reply(200, self._bundle(item, item.newest))

    # What they have in common.

    def _certified(self) -> list[Item]:
        return [each for each in self.keys.values() if each.policy is not None]

    def _one(self, call: Call, kind: str) -> Item:
        found = self.keys.get(call.path[1])
        if found is None or not found.versions or (kind == "certificate" and found.policy is None):
            raise _missing(kind, call.path[1])
        return found

    def _version(self, call: Call, kind: str) -> tuple[Item, Version]:
        item = self._one(call, kind)
        wanted = call.path[2] if len(call.path) > 2 else ""
        for each in item.versions:
            if each.version == wanted or (not wanted and each is item.newest):
                return item, each
        raise _missing(kind, f"{item.name}/{wanted}")

    def _pending(self, call: Call) -> Item:
        found = self.keys.get(call.path[1])
        if found is None or found.pending is None:
            raise Refusal(404, "PendingCertificateNotFound", f"Pending certificate not found: {call.path[1]}")
        return found

    def _free(self, call: Call, kind: str) -> Item:
        name = call.path[1]
        if name in self.deleted:
            state = "is currently in a deleted but recoverable state, and its name cannot be reused."
            said = f"{kind.capitalize()} {name} {state}"
            raise Refusal(409, "Conflict", said, "ObjectIsDeletedButRecoverable")
        found = self.keys.setdefault(name, Item(name))
        if kind == "key" and found.policy is not None:
            raise Refusal(409, "Conflict", f"The key {name} is managed by a certificate.", "KeyManaged")
        return found

    def _complete(self, item: Item, certificate: x509.Certificate) -> Version:
        made, item.pending_key = item.pending_key, None
        assert made is not None and item.pending is not None  # noqa: PT018
        made.certificate, made.created = certificate, int(time.time())
        item.versions.append(made)
        item.pending |= {"status": "completed", "target": f"{self.url}/certificates/{item.name}"}
        return made

    def _delete(self, call: Call, kind: str) -> Reply:
        item = self._one(call, kind)
        del self.keys[item.name]
        self.deleted[item.name] = (item, self.slow_deletes)
        bundle = self._bundle(item, item.newest) if kind == "certificate" else self._key_bundle(item, item.newest)
        return Reply(200, {**bundle, "recoveryId": f"{self.url}/deleted{kind}s/{item.name}", "deletedDate": 0})

    def _get_deleted(self, call: Call) -> Reply:
        item, waits = self.deleted.get(call.path[1], (None, 0))
        if item is None or waits:
            if item is not None:
                self.deleted[item.name] = (item, waits - 1)
            raise _missing("deleted object", call.path[1])
        bundle = self._bundle(item, item.newest) if item.policy is not None else self._key_bundle(item, item.newest)
        return Reply(200, {**bundle, "recoveryId": f"{self.url}/{call.path[0]}/{item.name}"})

    def _id(self, collection: str, item: Item, version: Version) -> str:
        return f"{self.url}/{collection}/{item.name}/{version.version}"

    def _key_item(self, item: Item, version: Version, *, short: bool = False) -> dict[str, Any]:
        kid = f"{self.url}/keys/{item.name}" if short else self._id("keys", item, version)
        told: dict[str, Any] = {"kid": kid, "attributes": version.attributes()}
        return told | ({"managed": True} if item.policy is not None else {})

    def _key_bundle(self, item: Item, version: Version) -> dict[str, Any]:
        key = {"kid": self._id("keys", item, version), **public_jwk(version)}
        exportable = bool(((item.policy or {}).get("key_props") or {}).get("exportable"))
        return {"key": key, "attributes": {**version.attributes(), "exportable": exportable}}

    def _certificate_item(self, item: Item, version: Version) -> dict[str, Any]:
        digest = version.certificate.fingerprint(hashes.SHA1()) if version.certificate else b""  # noqa: S303
        told = {"id": self._id("certificates", item, version), "x5t": encode(digest)}
        return {**told, "attributes": version.attributes()}

    def _bundle(self, item: Item, version: Version) -> dict[str, Any]:
        assert version.certificate is not None
        der = version.certificate.public_bytes(serialization.Encoding.DER)
        return {
            **self._certificate_item(item, version),
            "kid": self._id("keys", item, version),
            "sid": self._id("secrets", item, version),
            "cer": base64.b64encode(der).decode(),
            "policy": item.policy,
        }

    def _listed(self, call: Call, items: list[dict[str, Any]]) -> Reply:
        size, begin = min(int(call.query.get("maxresults", self.page)), self.page), int(call.query.get("$skiptoken", 0))
        link = None
        if begin + size < len(items):
            path = "/".join(call.path)
            version = call.query["api-version"]
            link = f"{self.url}/{path}?api-version={version}&$skiptoken={begin + size}&maxresults={size}"
        return Reply(200, {"value": items[begin : begin + size], "nextLink": link})


def _missing(kind: str, name: str) -> Refusal:
    said = f"A {kind} with (name/id) {name} was not found in this key vault."
    more = f"If you recently deleted this {kind} you may be able to recover it using the correct recovery command."
    return Refusal(404, f"{kind.capitalize()}NotFound", f"{said} {more}")
