"""Rules of the capabilities: making, taking in, certifying, giving away and deleting keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from keyvouch.algorithms import make_key
from keyvouch.certificate import certificate_spki, self_signed, spki_sha256
from keyvouch.errors import KeyExists, KeyNotFound, NotSupported
from keyvouch.secrets import Secret
from keyvouch.store import (
    DeletesKeys,
    ExportsKeys,
    GeneratesKeys,
    HoldsCertificates,
    ImportsKeys,
    KeySpec,
    KeyStore,
    KeyUri,
)
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs

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
    def test_made_key_is_never_written_over(self) -> None:
        """Where a key is there `generate` raises KeyExists, and the key stays (`GeneratesKeys.generate`)."""
        uri = self.new_uri()
        with self.connected(uri) as made:
            pinned = self._generated(made, uri)
            before = self._public(made, pinned)
            try:
                self._generated(made, uri)
            except KeyExists as error:
                if not error.hint:
                    broken(seen=f"{error!r} without a hint", wanted="what to do instead")
            except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
                broken(seen=repr(error), wanted="KeyExists")
            else:
                broken(seen="a second key made under the same URI", wanted="KeyExists")
            if self._public(made, pinned) != before:
                broken(seen="another key", wanted="the first one")

    @needs("generate", "family")
    def test_further_members_are_told_apart(self) -> None:
        """Of members that are made at once each maker is told its own (`GeneratesKeys.generate`, `KeySpec.further`)."""
        family = str(self.family_uri)
        with self.connected(family) as made:
            assert isinstance(made, GeneratesKeys)
            spec = KeySpec(self._kind(), "CN=conformance", 1, further=True)
            with ThreadPoolExecutor(4) as pool:
                work = [pool.submit(made.generate, self.parsed(family), spec) for _ in range(4)]
                pinned = [each.result() for each in work]
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
            except NotSupported:
                if key.exportable:
                    broken(seen="exportable, and yet NotSupported", wanted="one of the two")
                return
            if key.exportable is False:
                broken(seen="not exportable, and yet exported", wanted="NotSupported, or `exportable` True")
            private_key, leaf, _ = pkcs12.load_key_and_certificates(octets, _PASSWORD.encode())
            if private_key is None or private_key.public_key() != key.public_key:
                broken(seen="another key in the PKCS#12", wanted="this one")
            if key.chain and leaf != key.chain[0]:
                broken(seen="another certificate in the PKCS#12", wanted="the key's")

    @needs("import")
    def test_imported_key_is_found_and_signs(self) -> None:
        """`import_key` takes key and chain, and never writes over one (`ImportsKeys.import_key`)."""
        key = make_key(self._kind())
        certificate = self_signed(key, "CN=conformance", 1)
        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, ImportsKeys)
            pinned = made.import_key(self.parsed(uri), key, [certificate], exportable=False)
            if self._public(made, pinned) != key.public_key():
                broken(seen="another key", wanted="the one that was imported")
            self._require_signing(made, pinned)
            with pytest.raises(KeyExists):
                made.import_key(self.parsed(uri), make_key(self._kind()), [], exportable=False)
            if self._public(made, pinned) != key.public_key():
                broken(seen="another key after a second import", wanted="the first one")

    @needs("install", "generate")
    def test_installed_certificate_is_the_keys(self) -> None:
        """`install_certificate` keeps a chain beside the key, and returns its URI (`HoldsCertificates`)."""
        from keyvouch.private_key import wrap

        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, HoldsCertificates)
            pinned = self._generated(made, uri)
            key = made.open(pinned, timeout=TIMEOUT)
            signing = wrap(key.public_key, lambda message, algorithm: key.sign(message, algorithm, timeout=TIMEOUT))
            certificate = self_signed(signing, "CN=installed", 2)
            key.close()
            known_as = made.install_certificate(pinned, [certificate])
            again = made.open(known_as, certificate, timeout=TIMEOUT)
            holds = "certificate" not in self.unsupported  # else it stands where the core reads it
            if holds and (not again.chain or again.chain[0] != certificate):
                broken(seen="another certificate, or none", wanted="the one that was installed")
            again.close()

    @needs("delete", "generate")
    def test_deleted_key_is_gone(self) -> None:
        """`delete` takes a pinned URI, and then the key is not found (`DeletesKeys.delete`)."""
        uri, other = self.new_uri(), self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, DeletesKeys)
            pinned, kept = self._generated(made, uri), self._generated(made, other)
            made.delete(pinned)
            with pytest.raises(KeyNotFound):
                made.open(pinned, timeout=TIMEOUT)
            self._require_signing(made, kept)

    # What the tests above have in common.

    def _kind(self) -> str:
        return next(
            kind
            for name, kind in (("ec", "P-256"), ("rsa", "RSA-2048"), ("ed25519", "Ed25519"))
            if name not in self.unsupported
        )

    def _generated(self, made: KeyStore, uri: str) -> KeyUri:
        assert isinstance(made, GeneratesKeys)
        return made.generate(self.parsed(uri), KeySpec(self._kind(), "CN=conformance", 1))

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
