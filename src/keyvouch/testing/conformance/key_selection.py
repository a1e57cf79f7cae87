"""Rules about `KeyStore.open` and listings: which key a URI selects, and that it keeps selecting it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from keyvouch.algorithms import key_type
from keyvouch.certificate import self_signed, spki_sha256
from keyvouch.errors import (
    AmbiguousKey,
    CertificateMismatch,
    ConfigurationError,
    KeyChanged,
    KeyNotFound,
    KeyUnusable,
    SessionLost,
)
from keyvouch.local_key import make_key
from keyvouch.store import GeneratesKeys, ListsKeys, choose_one
from keyvouch.testing.conformance import verification
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, fail, needs, require_error
from keyvouch.testing.conformance.execution import run_in_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvouch.store import KeyInfo, KeyStore, StoredKey
    from keyvouch.uri import KeyUri

_PROGRAM = """
import sys
from keyvouch import open_signer
from keyvouch.certificate import spki_sha256
with open_signer(sys.argv[1]) as signer:
    print(spki_sha256(signer.public_key))
"""


class KeySelection(Declarations):
    """See `keyvouch.store.KeyStore.open`."""

    @needs()
    def test_pinned_uri_opens_the_same_key(self) -> None:
        """The URI of an open key opens the same key, which has the same URI (`StoredKey.uri`)."""
        with self.opened(self.uri) as (store, key):
            again = store.open(key.uri, timeout=TIMEOUT)
            found, pinned = again.public_key, again.uri
            again.close()
            if found != key.public_key:
                fail(got=f"another key at {key.uri}", expected="the key with this URI")
            if pinned != key.uri:
                fail(got=f"{pinned} for a key opened with {key.uri}", expected="the same URI, since it is pinned")
            pinned_text = str(key.uri)
        with self.opened(pinned_text) as (_, key):  # with another store object, from text
            if key.public_key != found:
                fail(got=f"another key at {pinned_text} after reconnecting", expected="the same key")

    @needs()
    def test_pinned_uri_works_in_another_process(self) -> None:
        """A pinned URI opens the same key in another process (`StoredKey.uri`)."""
        if self.store_class is not None:  # not installed, so another process cannot find it
            return
        with self.opened(self.uri) as (_, key):
            pinned, digest = str(key.uri), spki_sha256(key.public_key)
        done = run_in_process(_PROGRAM, pinned)
        if done.stdout.strip() != digest:
            fail(got=done.stdout + done.stderr[-500:], expected=f"the key {digest}")

    @needs("family", "list")
    def test_pinned_key_does_not_rotate(self) -> None:
        """A key opened with its pinned URI keeps signing although it has a newer successor (`StoredKey.uri`)."""
        family = str(self.family_uri)
        with self.opened(family) as (store, newest):
            older = [
                info
                for info in self._listed(store, self.parsed(family))
                if info.spki_sha256 != spki_sha256(newest.public_key)
            ]
            if not older:
                fail(got="a family with one member", expected="an older member in the family of `family_uri`")
            key = store.open(older[0].uri, timeout=TIMEOUT)
            try:
                if spki_sha256(key.public_key) != older[0].spki_sha256:
                    fail(got="the newest member", expected=f"the member of {older[0].uri}")
                algorithm = self.algorithm_of(key)
                signature = key.sign(b"x", algorithm, timeout=TIMEOUT)
                if not verification.verifies(key.public_key, signature, b"x", algorithm.name):
                    fail(
                        got="a signature by another key than the one that was opened",
                        expected="one by the pinned key",
                        fix="Sign with the version in the pinned URI.",
                    )
            finally:
                key.close()

    @needs("family", "list")
    def test_newest_member_is_chosen(self) -> None:
        """With `select=newest`, the newest settled member of a family is opened (`KeyStore.open`, `choose_one`)."""
        family = self.parsed(str(self.family_uri))
        with self.opened(str(family)) as (store, key):
            chosen, _ = choose_one(family, self._listed(store, family))
            if chosen.spki_sha256 != spki_sha256(key.public_key):
                fail(got=f"{key.uri}", expected=f"{chosen.uri}", fix="Use `choose_one`.")
            if "select" in key.uri or "settle" in key.uri:
                fail(got=f"{key.uri}", expected="a pinned URI, without `select` and `settle`")

    @needs()
    def test_spki_sha256_is_checked(self) -> None:
        """Every URI accepts `spki-sha256`, and then another key raises KeyChanged (`choose_one`)."""
        with self.opened(self.uri) as (store, key):
            digest = spki_sha256(key.public_key)
            store.open(self.parsed(self.uri).replace({"spki-sha256": digest}), timeout=TIMEOUT).close()
            other = self.parsed(self.uri).replace({"spki-sha256": digest[::-1]})
            require_error(lambda: store.open(other, timeout=TIMEOUT), KeyChanged, fix="Use `choose_one`.")

    @needs("missing")
    def test_missing_key_is_not_found(self) -> None:
        """A missing key raises KeyNotFound with a hint (`KeyStore.open`)."""
        missing = str(self.missing_uri)
        with self.connected(missing) as store:
            require_error(lambda: store.open(self.parsed(missing), timeout=TIMEOUT), KeyNotFound)

    @needs("ambiguous")
    def test_several_keys_are_ambiguous(self) -> None:
        """Several matches raise AmbiguousKey with a URI that opens each (`KeyStore.open`, `choose_one`)."""
        several = str(self.ambiguous_uri)
        with self.connected(several) as store:
            with self._candidates(store, several) as keys:
                opened = {spki_sha256(key.public_key) for key in keys}
            if len(opened) < 2:  # noqa: PLR2004 - several
                fail(got=f"{len(opened)} keys opened by the candidates", expected="one for each match")

    @needs("ambiguous")
    def test_certificate_selects_its_key(self) -> None:
        """Of several matches, the one with the given certificate's key is opened (`KeyStore.open`)."""
        several = str(self.ambiguous_uri)
        with self.connected(several) as store:
            with self._candidates(store, several) as keys:
                for key in keys:
                    chosen = store.open(self.parsed(several), self.certificate_of(key), timeout=TIMEOUT)
                    if chosen.public_key != key.public_key:
                        fail(got=str(chosen.uri), expected=str(key.uri), fix="Pass `certificate` to `choose_one`.")
                    chosen.close()
            foreign = self_signed(make_key("P-256"), "CN=conformance", 1)
            require_error(lambda: store.open(self.parsed(several), foreign, timeout=TIMEOUT), CertificateMismatch)

    @needs("replaced", "generate")
    def test_replaced_key_is_detected(self) -> None:
        """`changed` reports that the key was replaced, and the URI opens the new key (`StoredKey.changed`)."""
        uri = self.new_uri()
        with self.connected(uri) as store:
            assert isinstance(store, GeneratesKeys)
            store.generate(self.parsed(uri), self.spec())
            key = store.open(self.parsed(uri), timeout=TIMEOUT)
            if key.changed():
                fail(got="changed() is True for a key that was just opened", expected="False")
            self.replace_key(uri)
            if not key.changed():
                fail(got="changed() is False although the key was replaced", expected="True")
            with contextlib.suppress(KeyChanged, KeyUnusable, SessionLost):
                self.require_signature(key)  # only with the key that was opened
            require_error(lambda: store.open(self._with_digest(key), timeout=TIMEOUT), KeyChanged, KeyNotFound)
            new = store.open(self.parsed(uri), timeout=TIMEOUT)
            if new.public_key == key.public_key:
                fail(got="the old key", expected="the key that replaced it")
            for each in (key, new):
                each.close()

    @needs()
    def test_attributes_are_valid(self) -> None:
        """Attribute names are unique, each has help, and unknown ones are refused (`KeyStore.attributes`).

        A store that declares the attribute `*` accepts unknown ones.
        """
        attributes = self.the_class().attributes
        names = [each.name for each in attributes]
        if len(set(names)) < len(names):
            fail(got=f"duplicate names in {names}", expected="unique names")
        if without := [each.name for each in attributes if not each.help]:
            fail(got=f"no help for: {', '.join(without)}", expected="one sentence for each")
        if len([each for each in attributes if each.positional]) > 1:
            fail(got="several positional attributes", expected="at most one")
        purposes = frozenset[str]().union(*(each.required_for for each in attributes))
        if unknown := purposes - {"open", "generate"}:
            fail(got=f"required_for={set(unknown)}", expected='"open", "generate", or both')
        if "*" not in names:
            sign = "&" if "?" in self.uri else "?"
            require_error(lambda: self.parsed(f"{self.uri}{sign}no-such-attribute=1"), ConfigurationError)

    @needs("list")
    def test_listing_agrees_with_opening(self) -> None:
        """Each listed URI opens a key with the listed properties (`ListsKeys.keys`)."""
        with self.connected(self.uri) as store:
            listed = self._listed(store, self.parsed(self.uri))
            if not listed:
                fail(got="an empty list for a URI that opens a key", expected="that key")
            for info in listed:
                key = store.open(info.uri, timeout=TIMEOUT)
                expected = (info.key_type, info.spki_sha256)
                if (key_type(key.public_key), spki_sha256(key.public_key)) != expected and info.spki_sha256 is not None:
                    fail(got=f"{expected} listed, but {info.uri} opens another key", expected="the same key")
                if None not in (info.exportable, key.exportable) and info.exportable is not key.exportable:
                    fail(
                        got=f"exportable is {info.exportable} if listed, {key.exportable} if open", expected="the same"
                    )
                key.close()

    @needs("list")
    def test_listing_has_only_matching_keys(self) -> None:
        """The listing of a pinned URI has only that key, and that of a missing key is empty (`ListsKeys.keys`)."""
        with self.opened(self.uri) as (store, key):
            listed = [info.spki_sha256 for info in self._listed(store, self._with_digest(key))]
            if listed not in ([spki_sha256(key.public_key)], [None]):
                fail(
                    got=f"{len(listed)} keys listed for {key.uri}",
                    expected="only that key",
                    fix="List only keys that match every attribute of the URI, including `spki-sha256`.",
                )
        if self.offers("missing"):
            with self.connected(str(self.missing_uri)) as store:
                try:
                    others = self._listed(store, self.parsed(str(self.missing_uri)))
                except KeyNotFound:
                    return
                if others:
                    fail(got=f"{others[0].uri} listed for {self.missing_uri}", expected="an empty list, or KeyNotFound")

    # Helpers.

    @staticmethod
    def _listed(store: KeyStore, uri: KeyUri) -> list[KeyInfo]:
        assert isinstance(store, ListsKeys)
        return store.keys(uri)

    @staticmethod
    def _with_digest(key: StoredKey) -> KeyUri:
        return key.uri.replace({"spki-sha256": spki_sha256(key.public_key)})

    @contextlib.contextmanager
    def _candidates(self, store: KeyStore, uri: str) -> Iterator[list[StoredKey]]:
        """Open the candidates that are reported for a URI with several matches."""
        error = require_error(
            lambda: store.open(self.parsed(uri), timeout=TIMEOUT), AmbiguousKey, fix="Use `choose_one`."
        )
        assert isinstance(error, AmbiguousKey)
        opened = [store.open(self.parsed(candidate), timeout=TIMEOUT) for candidate in error.candidates]
        try:
            yield opened
        finally:
            for key in opened:
                key.close()
