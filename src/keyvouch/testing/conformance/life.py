"""Rules of the capabilities: making, taking in, certifying, giving away and deleting keys."""

from __future__ import annotations

import datetime as dt
import functools

from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import load_der_x509_csr

from keyvouch.algorithms import key_type
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
    RequestsCertificates,
    StoredKey,
)
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs, refused
from keyvouch.testing.conformance.meanwhile import at_once

_PASSWORD = "correct horse battery"  # noqa: S105 - of what is thrown away


class Life(Declarations):
    """See the capabilities of `keyvouch.store`."""

    @needs("generate")
    def test_made_key_is_found_and_signs(self) -> None:
        """`generate` returns the pinned URI of the very key that it made (`GeneratesKeys.generate`)."""
        uri = self.new_uri()
        with self.connected(uri) as made:
            pinned = self._generated(made, uri)
            self._require_signing(made, pinned)

    @needs("generate")
    def test_made_key_is_what_was_asked_for(self) -> None:
        """A key has the type, and its certificate subject and days, of the KeySpec; else NotSupported (`KeySpec`)."""
        kinds = {"rsa": ("RSA-2048", "RSA-3072"), "ec": ("P-256", "P-384"), "ed25519": ("Ed25519",)}
        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, GeneratesKeys)
            for name, number, wanted in [(kind, *each) for kind, types in kinds.items() for each in enumerate(types)]:
                spec = KeySpec(wanted, f"CN={wanted},O=Æ/b\\+c", self.days)
                try:
                    key = made.open(made.generate(self.parsed(self.new_uri()), spec), timeout=TIMEOUT)
                except NotSupported as error:
                    if name in self.unsupported or number:
                        continue
                    broken(seen=f"{error!r} for {wanted}", wanted=f'a key, or "{name}" in `unsupported`')
                _require_as_asked(key, spec)
                key.close()
                if name in self.unsupported:
                    broken(seen=f"{name}: declared as unsupported, and made all the same", wanted="one of the two")

    @needs("generate")
    def test_made_key_is_never_written_over(self) -> None:
        """Where a key is there `generate` raises KeyExists, and the key stays (`GeneratesKeys.generate`)."""
        uri = self.new_uri()
        with self.connected(uri) as made:
            pinned = self._generated(made, uri)
            before = self._public(made, pinned)
            refused(lambda: self._generated(made, uri), KeyExists)
            if self._public(made, pinned) != before:
                broken(seen="another key", wanted="the first one")

    @needs("generate", "family")
    def test_further_members_are_told_apart(self) -> None:
        """Of members that are made at once each maker is told its own (`GeneratesKeys.generate`, `KeySpec.further`)."""
        family = str(self.family_uri)
        with self.connected(family) as made:
            assert isinstance(made, GeneratesKeys)
            make = functools.partial(made.generate, self.parsed(family), self.spec(further=True))
            pinned = at_once([make] * 4, 4 * TIMEOUT)
            keys = {spki_sha256(self._public(made, uri)) for uri in pinned}  # type: ignore[arg-type]
            if len(keys) < len(pinned):
                broken(
                    seen=f"{len(keys)} keys behind {len(pinned)} URIs that were returned",
                    wanted="to each its own",
                    change="Take the version from the answer that made it, and do not ask for the newest afterwards.",
                )

    @needs("export")
    def test_exportable_is_true_to_export(self) -> None:
        """`exportable` says whether `export_pfx` gives the key away (`StoredKey.exportable`, `ExportsKeys`)."""
        with self.opened(self.uri) as (made, key):
            assert isinstance(made, ExportsKeys)
            try:
                octets = made.export_pfx(key.uri, Secret(_PASSWORD))
            except (KeyUnusable, NotSupported) as error:
                if key.exportable:
                    broken(seen=f"exportable, and yet {error!r}", wanted="one of the two")
                return
            if key.exportable is False:
                broken(seen="not exportable, and yet exported", wanted="KeyUnusable, or `exportable` True")
            private_key, leaf, _ = pkcs12.load_key_and_certificates(octets, _PASSWORD.encode())
            if private_key is None or private_key.public_key() != key.public_key:
                broken(seen="another key in the PKCS#12", wanted="this one")
            if key.chain and leaf != key.chain[0]:
                broken(seen="another certificate in the PKCS#12", wanted="the key's")

    @needs()
    def test_refused_import_is_told_by_type(self) -> None:
        """Where `import` is declared, `import_key` is not there, or raises NotSupported (`ImportsKeys.import_key`)."""
        if "import" not in self.unsupported or not issubclass(self.the_class(), ImportsKeys):
            return
        key = make_key(self.quick_kind())
        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, ImportsKeys)
            certificates = [self_signed(key, "CN=conformance", 1)]
            refused(lambda: made.import_key(self.parsed(uri), key, certificates, exportable=False), NotSupported)

    @needs("import")
    def test_imported_key_is_found_and_signs(self) -> None:
        """`import_key` takes key and chain, and never writes over one (`ImportsKeys.import_key`)."""
        key = make_key(self.quick_kind())
        certificate = self_signed(key, "CN=conformance", 1)
        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, ImportsKeys)
            pinned = made.import_key(self.parsed(uri), key, [certificate], exportable=False)
            if self._public(made, pinned) != key.public_key():
                broken(seen="another key", wanted="the one that was imported")
            self._require_signing(made, pinned)
            other = make_key(self.quick_kind())
            refused(lambda: made.import_key(self.parsed(uri), other, [], exportable=False), KeyExists)
            if self._public(made, pinned) != key.public_key():
                broken(seen="another key after a second import", wanted="the first one")

    @needs("install", "generate")
    def test_installed_certificate_is_the_keys(self) -> None:
        """`install_certificate` keeps a chain beside the key, and returns its URI (`HoldsCertificates`)."""
        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, HoldsCertificates)
            pinned = self._generated(made, uri)
            key = made.open(pinned, timeout=TIMEOUT)
            certificate = self.certificate_of(key, "CN=installed")
            key.close()
            known_as = made.install_certificate(pinned, [certificate])
            again = made.open(known_as, certificate, timeout=TIMEOUT)
            holds = "certificate" not in self.unsupported  # else it stands where the core reads it
            if holds and (not again.chain or again.chain[0] != certificate):
                broken(seen="another certificate, or none", wanted="the one that was installed")
            again.close()

    @needs("delete", "generate")
    def test_deleted_key_is_gone(self) -> None:
        """`delete` takes the key of a pinned URI, and neither another one nor its successor (`DeletesKeys.delete`)."""
        uri, other = self.new_uri(), self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, DeletesKeys)
            pinned, kept = self._generated(made, uri), self._generated(made, other)
            held = made.open(kept, timeout=TIMEOUT)
            made.delete(pinned)
            refused(lambda: made.open(pinned, timeout=TIMEOUT), KeyNotFound)
            self.require_signature(held)
            held.close()
            self._require_signing(made, kept)
            successor = self._generated(made, uri)
            refused(lambda: made.delete(pinned), KeyNotFound, KeyChanged, change="Delete what the pinned URI names.")
            self._require_signing(made, successor)

    @needs("request", "generate")
    def test_request_is_the_keys(self) -> None:
        """`request_certificate` returns PKCS#10 in DER, for the subject, signed by the key (RFC 2986)."""
        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, RequestsCertificates)
            pinned = self._generated(made, uri)
            octets = made.request_certificate(pinned, self.spec(subject="CN=requested"))
            request = load_der_x509_csr(octets)
            if not request.is_signature_valid or request.public_key() != self._public(made, pinned):
                broken(seen="a request of another key, or with a wrong signature", wanted="the key's own")
            if request.subject != parse_subject("CN=requested"):
                broken(seen=request.subject.rfc4514_string(), wanted="the subject of the KeySpec")

    @needs("grant")
    def test_granted_account_is_a_reader(self) -> None:
        """`grant` adds an account and `revoke` takes it away, each also twice, and nobody else (`GrantsAccess`)."""
        account = str(self.account)
        with self.opened(self.uri) as (made, key):
            assert isinstance(made, GrantsAccess)
            before = set(made.readers(key.uri))
            try:
                for _ in range(2):
                    made.grant(key.uri, account)
                granted = set(made.readers(key.uri))
            finally:
                for _ in range(2):
                    made.revoke(key.uri, account)
            after = set(made.readers(key.uri))
            if granted != before | {account}:
                broken(seen=f"{sorted(before)}, and after `grant` {sorted(granted)}", wanted=f"{account} beside them")
            if after != before:
                broken(seen=f"{sorted(before)}, and after `revoke` {sorted(after)}", wanted="the same")

    # What the tests above have in common.

    def _generated(self, made: KeyStore, uri: str) -> KeyUri:
        assert isinstance(made, GeneratesKeys)
        return made.generate(self.parsed(uri), self.spec())

    @staticmethod
    def _public(made: KeyStore, uri: KeyUri) -> object:
        key = made.open(uri, timeout=TIMEOUT)
        try:
            return key.public_key
        finally:
            key.close()

    def _require_signing(self, made: KeyStore, uri: KeyUri) -> None:
        key = made.open(uri, timeout=TIMEOUT)
        try:
            self.require_signature(key)
            if key.chain and certificate_spki(key.chain[0]) != spki_sha256(key.public_key):
                broken(seen="a certificate of another key", wanted="the key's")
            again = made.open(key.uri, timeout=TIMEOUT)
            if again.public_key != key.public_key:
                broken(seen=f"another key at {key.uri}", wanted="the one that was made")
            again.close()
        finally:
            key.close()


def _require_as_asked(key: StoredKey, spec: KeySpec) -> None:
    if key_type(key.public_key) != spec.key_type:
        broken(
            seen=key_type(key.public_key), wanted=spec.key_type, change="Raise NotSupported for what cannot be made."
        )
    for certificate in key.chain[:1]:
        if certificate.subject != parse_subject(spec.subject):
            broken(seen=certificate.subject.rfc4514_string(), wanted=f"{spec.subject}, as in the KeySpec")
        days = (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1)
        if abs(days - spec.days) > 1:
            broken(seen=f"a certificate for {days:.1f} days", wanted=f"{spec.days}, as in the KeySpec")
