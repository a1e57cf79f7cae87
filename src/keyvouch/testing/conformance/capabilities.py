"""Rules about the capabilities: generating, importing, certifying, exporting, granting and deleting keys; peers."""

from __future__ import annotations

import datetime as dt
import functools

from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import load_der_x509_csr

from keyvouch.algorithms import Algorithm, algorithms_for, key_type
from keyvouch.certificate import certificate_spki, parse_subject, self_signed, spki_sha256
from keyvouch.errors import KeyChanged, KeyExists, KeyNotFound, KeyUnusable, NotSupported
from keyvouch.local_key import make_key
from keyvouch.secrets import Secret
from keyvouch.store import (
    DeletesKeys,
    ExportsKeys,
    GeneratesKeys,
    GrantsAccess,
    HoldsCertificates,
    ImportsKeys,
    KeySpec,
    KeyStore,
    KeyUri,
    OffersPeer,
    RequestsCertificates,
    StoredKey,
)
from keyvouch.testing.conformance import verification
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, fail, needs, require_error
from keyvouch.testing.conformance.execution import run_concurrently

_THREADS = 4
_PASSWORD = "correct horse battery"  # noqa: S105 - of a throwaway PFX


class Capabilities(Declarations):
    """See the capabilities of `keyvouch.store`."""

    @needs("generate")
    def test_generated_key_opens_and_signs(self) -> None:
        """`generate` returns the pinned URI of the key that it made (`GeneratesKeys.generate`)."""
        uri = self.new_uri()
        with self.connected(uri) as store:
            pinned = self._generate(store, uri)
            self._require_signing(store, pinned)

    @needs("generate")
    def test_generated_key_matches_its_spec(self) -> None:
        """Key type, subject and days are those of the KeySpec, or it raises NotSupported (`KeySpec`)."""
        kinds = {"rsa": ("RSA-2048", "RSA-3072"), "ec": ("P-256", "P-384"), "ed25519": ("Ed25519",)}
        uri = self.new_uri()
        with self.connected(uri) as store:
            assert isinstance(store, GeneratesKeys)
            for name, number, key_type_name in [
                (kind, *each) for kind, types in kinds.items() for each in enumerate(types)
            ]:
                spec = KeySpec(key_type_name, f"CN={key_type_name},O=Æ/b\\+c", self.days)
                try:
                    key = store.open(store.generate(self.parsed(self.new_uri()), spec), timeout=TIMEOUT)
                except NotSupported as error:
                    if name in self.unsupported or number:
                        continue
                    fail(got=f"{error!r} for {key_type_name}", expected=f'a key, or "{name}" in `unsupported`')
                _require_spec(key, spec)
                key.close()
                if name in self.unsupported:
                    fail(got=f"{name} is declared as unsupported, but was generated", expected="one of the two")

    @needs("generate")
    def test_generated_key_is_never_overwritten(self) -> None:
        """If the key exists, `generate` raises KeyExists and does not change it (`GeneratesKeys.generate`)."""
        uri = self.new_uri()
        with self.connected(uri) as store:
            pinned = self._generate(store, uri)
            before = self._public_key(store, pinned)
            require_error(lambda: self._generate(store, uri), KeyExists)
            if self._public_key(store, pinned) != before:
                fail(got="another key", expected="the first one")

    @needs("generate", "family")
    def test_concurrent_members_have_their_own_uris(self) -> None:
        """Each of several concurrent calls returns its own new member (`GeneratesKeys.generate`, `KeySpec.further`)."""
        family = str(self.family_uri)
        with self.connected(family) as store:
            assert isinstance(store, GeneratesKeys)
            generate = functools.partial(store.generate, self.parsed(family), self.spec(further=True))
            pinned = run_concurrently([generate] * 4, 4 * TIMEOUT)
            keys = {spki_sha256(self._public_key(store, uri)) for uri in pinned}  # type: ignore[arg-type]
            if len(keys) < len(pinned):
                fail(
                    got=f"{len(keys)} keys for {len(pinned)} returned URIs",
                    expected="one key for each URI",
                    fix="Use the version in the response that created the key. Do not query the newest one.",
                )

    @needs("export")
    def test_exportable_agrees_with_export(self) -> None:
        """`exportable` reports whether `export_pfx` works (`StoredKey.exportable`, `ExportsKeys`)."""
        with self.opened(self.uri) as (store, key):
            assert isinstance(store, ExportsKeys)
            try:
                pfx = store.export_pfx(key.uri, Secret(_PASSWORD))
            except (KeyUnusable, NotSupported) as error:
                if key.exportable:
                    fail(got=f"{error!r} although the key is exportable", expected="one of the two")
                return
            if key.exportable is False:
                fail(got="an exported key that is not exportable", expected="KeyUnusable, or `exportable` True")
            private_key, leaf, _ = pkcs12.load_key_and_certificates(pfx, _PASSWORD.encode())
            if private_key is None or private_key.public_key() != key.public_key:
                fail(got="another key in the PKCS#12", expected="the exported key")
            if key.chain and leaf != key.chain[0]:
                fail(got="another certificate in the PKCS#12", expected="the key's certificate")

    @needs()
    def test_unsupported_import_is_refused(self) -> None:
        """If `import` is declared, `import_key` is missing or raises NotSupported (`ImportsKeys.import_key`)."""
        if "import" not in self.unsupported or not issubclass(self.the_class(), ImportsKeys):
            return
        key = make_key(self.quick_kind())
        uri = self.new_uri()
        with self.connected(uri) as store:
            assert isinstance(store, ImportsKeys)
            certificates = [self_signed(key, "CN=conformance", 1)]
            require_error(lambda: store.import_key(self.parsed(uri), key, certificates, exportable=False), NotSupported)

    @needs("import")
    def test_imported_key_opens_and_signs(self) -> None:
        """`import_key` stores key and chain, and never overwrites a key (`ImportsKeys.import_key`)."""
        key = make_key(self.quick_kind())
        certificate = self_signed(key, "CN=conformance", 1)
        uri = self.new_uri()
        with self.connected(uri) as store:
            assert isinstance(store, ImportsKeys)
            pinned = store.import_key(self.parsed(uri), key, [certificate], exportable=False)
            if self._public_key(store, pinned) != key.public_key():
                fail(got="another key", expected="the imported key")
            self._require_signing(store, pinned)
            other = make_key(self.quick_kind())
            require_error(lambda: store.import_key(self.parsed(uri), other, [], exportable=False), KeyExists)
            if self._public_key(store, pinned) != key.public_key():
                fail(got="another key after a second import", expected="the first one")

    @needs("install", "generate")
    def test_installed_certificate_is_returned(self) -> None:
        """`install_certificate` stores a chain with the key, and returns its URI (`HoldsCertificates`)."""
        uri = self.new_uri()
        with self.connected(uri) as store:
            assert isinstance(store, HoldsCertificates)
            pinned = self._generate(store, uri)
            key = store.open(pinned, timeout=TIMEOUT)
            certificate = self.certificate_of(key, "CN=installed")
            key.close()
            installed = store.install_certificate(pinned, [certificate])
            again = store.open(installed, certificate, timeout=TIMEOUT)
            holds = "certificate" not in self.unsupported  # otherwise the core reads it elsewhere
            if holds and (not again.chain or again.chain[0] != certificate):
                fail(got="another certificate, or none", expected="the installed certificate")
            again.close()

    @needs("delete", "generate")
    def test_deleted_key_is_not_found(self) -> None:
        """`delete` deletes the key of the pinned URI, not another key or its successor (`DeletesKeys.delete`)."""
        uri, other = self.new_uri(), self.new_uri()
        with self.connected(uri) as store:
            assert isinstance(store, DeletesKeys)
            pinned, kept = self._generate(store, uri), self._generate(store, other)
            held = store.open(kept, timeout=TIMEOUT)
            store.delete(pinned)
            require_error(lambda: store.open(pinned, timeout=TIMEOUT), KeyNotFound)
            self.require_signature(held)
            held.close()
            self._require_signing(store, kept)
            successor = self._generate(store, uri)
            require_error(
                lambda: store.delete(pinned), KeyNotFound, KeyChanged, fix="Delete only the key of the pinned URI."
            )
            self._require_signing(store, successor)

    @needs("request", "generate")
    def test_request_is_signed_by_the_key(self) -> None:
        """`request_certificate` returns PKCS#10 in DER, for the subject, signed by the key (RFC 2986)."""
        uri = self.new_uri()
        with self.connected(uri) as store:
            assert isinstance(store, RequestsCertificates)
            pinned = self._generate(store, uri)
            der = store.request_certificate(pinned, self.spec(subject="CN=requested"))
            request = load_der_x509_csr(der)
            if not request.is_signature_valid or request.public_key() != self._public_key(store, pinned):
                fail(got="a request by another key, or with an invalid signature", expected="one signed by the key")
            if request.subject != parse_subject("CN=requested"):
                fail(got=request.subject.rfc4514_string(), expected="the subject in the KeySpec")

    @needs("grant")
    def test_granted_account_is_a_reader(self) -> None:
        """`grant` adds and `revoke` removes only this account, even if called twice (`GrantsAccess`)."""
        account = str(self.account)
        with self.opened(self.uri) as (store, key):
            assert isinstance(store, GrantsAccess)
            before = set(store.readers(key.uri))
            try:
                for _ in range(2):
                    store.grant(key.uri, account)
                granted = set(store.readers(key.uri))
            finally:
                for _ in range(2):
                    store.revoke(key.uri, account)
            after = set(store.readers(key.uri))
            if granted != before | {account}:
                fail(got=f"{sorted(before)}, and {sorted(granted)} after `grant`", expected=f"also {account}")
            if after != before:
                fail(got=f"{sorted(before)}, and {sorted(after)} after `revoke`", expected="the same")

    @needs("peer")
    def test_signatures_of_peers_verify(self) -> None:
        """A peer's signatures are valid, for each supported algorithm and in four threads at once (`OffersPeer`)."""
        for _, uri in self.kinds_with_uris():
            with self.opened(uri) as (store, key):
                for algorithm in algorithms_for(key_type(key.public_key)):
                    if algorithm.name not in self.unsupported:
                        _require_signing_peer(store, key, algorithm)

    # Helpers.

    def _generate(self, store: KeyStore, uri: str) -> KeyUri:
        assert isinstance(store, GeneratesKeys)
        return store.generate(self.parsed(uri), self.spec())

    @staticmethod
    def _public_key(store: KeyStore, uri: KeyUri) -> object:
        key = store.open(uri, timeout=TIMEOUT)
        try:
            return key.public_key
        finally:
            key.close()

    def _require_signing(self, store: KeyStore, uri: KeyUri) -> None:
        key = store.open(uri, timeout=TIMEOUT)
        try:
            self.require_signature(key)
            if key.chain and certificate_spki(key.chain[0]) != spki_sha256(key.public_key):
                fail(got="a certificate of another key", expected="the key's own")
            again = store.open(key.uri, timeout=TIMEOUT)
            if again.public_key != key.public_key:
                fail(got=f"another key at {key.uri}", expected="the new key")
            again.close()
        finally:
            key.close()


def _require_signing_peer(store: KeyStore, key: StoredKey, algorithm: Algorithm) -> None:
    assert isinstance(store, OffersPeer)
    sign = store.peer(key.uri, algorithm)

    def valid(thread: int) -> bool:
        messages = [b"%d %d" % (thread, number) for number in range(5)]
        return all(verification.verifies(key.public_key, sign(each), each, algorithm.name) for each in messages)

    if not all(run_concurrently([functools.partial(valid, thread) for thread in range(_THREADS)], 4 * TIMEOUT)):
        fail(
            got=f"an invalid {algorithm.name} signature by the peer, or one over another thread's message",
            expected="a valid one in JOSE form",
            fix="Hash the message once, return ECDSA signatures as r||s, and use a session for each thread.",
        )


def _require_spec(key: StoredKey, spec: KeySpec) -> None:
    if key_type(key.public_key) != spec.key_type:
        fail(got=key_type(key.public_key), expected=spec.key_type, fix="Raise NotSupported for unsupported key types.")
    for certificate in key.chain[:1]:
        if certificate.subject != parse_subject(spec.subject):
            fail(got=certificate.subject.rfc4514_string(), expected=f"{spec.subject}, from the KeySpec")
        days = (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1)
        if abs(days - spec.days) > 1:
            fail(got=f"a certificate for {days:.1f} days", expected=f"{spec.days}, from the KeySpec")
