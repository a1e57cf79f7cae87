"""Faults in selecting keys and in the capabilities; and stores that declare what they do not support."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from keyvouch.algorithms import Algorithm
from keyvouch.errors import KeyNotFound, KeyUnusable, NotSupported
from keyvouch.local_key import sign_locally
from keyvouch.secrets import SecretResolver
from keyvouch.store import Attribute, KeyInfo, KeySpec, KeyUri, StoredKey
from scripted_store import new_key
from testing.conformance.faults import caught_by, with_keys
from testing.conformance.memory_store import Member, MemoryKey, MemoryStore


@caught_by("test_pinned_key_does_not_rotate")
class NewestSigns(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        versions = self.store.server.keys[self.uri.get("key")]
        return (
            sign_locally(versions[max(versions, key=int)].key, message, algorithm)
            if len(versions) > 1
            else super().sign(message, algorithm, timeout=timeout)
        )


@caught_by("test_several_keys_are_ambiguous")
class FirstMatch(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if "version" not in uri and uri.get("select") is None and uri.get("key") == "family":
            uri = uri.replace({"version": "1"})
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_missing_key_is_not_found")
class BareKeyError(MemoryStore):
    def matches(self, uri: KeyUri) -> list[KeyInfo]:
        try:
            return super().matches(uri)
        except KeyNotFound:
            raise KeyError(uri.get("key")) from None


@caught_by("test_pinned_uri_opens_the_same_key")
class RefusesItsOwn(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if "version" in uri and uri.get("key") != "family":
            raise KeyNotFound(f"Key not found: {uri}.", hint="Leave the version out.")
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_listing_agrees_with_opening")
class ListsTooMuch(MemoryStore):
    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        found = super().keys(uri)
        if uri.get("key") == "ec" and "version" not in uri:
            found += [KeyInfo(uri.replace({"key": "ghost", "version": "1"}), "P-256")]
        return found

    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if uri.get("key") == "ec":
            uri = uri.replace({"version": "1"})
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_listing_has_only_matching_keys")
class ListsAll(MemoryStore):
    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        return [info for name in list(self.server.keys) for info in super().keys(uri.replace({"key": name}))]


@caught_by("test_spki_sha256_is_checked")
class IgnoresTheDigest(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        return super().open(uri.replace({"spki-sha256": None}), certificate, timeout=timeout)


@caught_by("test_certificate_selects_its_key")
class IgnoresTheCertificate(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        return super().open(uri, timeout=timeout)


@caught_by("test_newest_member_is_chosen")
class SelectsTheOldest(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        if uri.get("select") == "newest":
            uri = uri.replace({"version": "1"})
        return super().open(uri, certificate, timeout=timeout)


@caught_by("test_replaced_key_is_detected")
class NeverChanges(MemoryKey):
    def changed(self) -> bool:
        return False


@caught_by("test_replaced_key_is_detected")
class SignsWithTheSuccessor(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        there = self.store.server.keys[self.uri.get("key")][self.uri.get("version")]
        return sign_locally(there.key, message, algorithm)


@caught_by("test_attributes_are_valid")
class UnknownPurpose(MemoryStore):
    attributes = (*MemoryStore.attributes, Attribute("zone", "where", required_for=frozenset({"list"})))


@caught_by("test_failure_of_one_key_does_not_affect_others")
class FailureEndsTheSession(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        try:
            return super().open(uri, certificate, timeout=timeout)
        except KeyNotFound:
            self._epoch = None
            raise


@caught_by("test_generated_key_is_never_overwritten")
class Overwrites(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        self.server.keys.pop(uri.get("key"), None)
        return super().generate(uri, spec)


@caught_by("test_deleted_key_is_not_found")
class DeletesTheSuccessor(MemoryStore):
    def delete(self, uri: KeyUri) -> None:
        if self.server.keys.pop(uri.get("key"), None) is None:
            raise KeyNotFound(f"Key not found: {uri}.", hint="See `keyvouch keys`.", uri=uri)


@caught_by("test_signatures_of_peers_verify")
class PeerReturnsDer(MemoryStore):
    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        if algorithm.family != "ECDSA":
            return super().peer(uri, algorithm)
        key = self.server.keys[uri.get("key")][uri.get("version")].key
        return lambda message: bytes(key.sign(message, ec.ECDSA(algorithm.hash)))


@caught_by("test_signatures_of_peers_verify")
class PeerSharesASession(MemoryStore):
    """All threads share a session, which signs the message that was set last."""

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        sign, session = super().peer(uri, algorithm), [b""]
        all_have_set = threading.Barrier(4)

        def sign_in_session(message: bytes) -> bytes:
            session[0] = message
            all_have_set.wait(10)
            return sign(session[0])

        return sign_in_session


@caught_by("test_generated_key_matches_its_spec")
class OneSize(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        return super().generate(uri, replace(spec, key_type="RSA-2048" if "RSA" in spec.key_type else spec.key_type))


@caught_by("test_generated_key_matches_its_spec")
class OneSubject(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        return super().generate(uri, replace(spec, subject="CN=conformance"))


@caught_by("test_generated_key_matches_its_spec")
class OneYear(MemoryStore):
    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        return super().generate(uri, replace(spec, days=365))


@caught_by("test_request_is_signed_by_the_key")
class RequestsForAnother(MemoryStore):
    def request_certificate(self, uri: KeyUri, spec: KeySpec) -> bytes:
        self.server.keys["another"] = {"1": Member(new_key("P-256", 7), ())}
        return super().request_certificate(uri.replace({"key": "another", "version": "1"}), spec)


@caught_by("test_granted_account_is_a_reader")
class GrantsToOnlyOne(MemoryStore):
    def grant(self, uri: KeyUri, account: str) -> None:
        self.server.readers.clear()
        super().grant(uri, account)


@caught_by("test_granted_account_is_a_reader")
class GrantsToEveryone(MemoryStore):
    def grant(self, uri: KeyUri, account: str) -> None:
        super().grant(uri, "Everyone")

    def revoke(self, uri: KeyUri, account: str) -> None:
        super().revoke(uri, "Everyone")


@caught_by("test_granted_account_is_a_reader")
class RevokesOnce(MemoryStore):
    def revoke(self, uri: KeyUri, account: str) -> None:
        self.server.readers.remove(account)


@caught_by("test_concurrent_members_have_their_own_uris")
class ReportsTheNewest(MemoryStore):
    """Queries the newest version after creating one, which may be another caller's by then."""

    def pinned(self, uri: KeyUri, version: str) -> KeyUri:
        time.sleep(0.05)
        return super().pinned(uri, max(self.server.keys[uri.get("key")], key=int))


@caught_by("test_exportable_agrees_with_export")
class ExportsAlthoughNotExportable(MemoryStore):
    def open(self, uri: KeyUri, certificate: x509.Certificate | None = None, *, timeout: float) -> StoredKey:
        found = super().open(uri, certificate, timeout=timeout)
        found.exportable = False
        return found

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        return [replace(info, exportable=False) for info in super().keys(uri)]


class SignsSomething(MemoryKey):
    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        if not message:
            raise ValueError("nothing to sign")
        return super().sign(message, algorithm, timeout=timeout)


NothingToSign = with_keys(SignsSomething)
"""A store that cannot sign the empty message."""


class RefusesChildren(MemoryStore):
    """A store whose library works only in one process, and does not import keys."""

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        super().__init__(uri, secrets)
        self.process = os.getpid()

    def connect(self, *, timeout: float) -> None:
        if os.getpid() != self.process:
            raise KeyUnusable("Not in a child.", hint="Open the key after the fork.")
        super().connect(timeout=timeout)

    def import_key(self, *args: Any, **kwargs: Any) -> KeyUri:
        raise NotSupported("No keys from elsewhere.", hint="Make one here.")
