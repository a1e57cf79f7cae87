"""Rules of `KeyStore.open` and of the listing: which key a URI means, and that it goes on to mean it."""

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
from keyvouch.testing.conformance import judge
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs, refused
from keyvouch.testing.conformance.meanwhile import in_another_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyvouch.store import KeyInfo, KeyStore, StoredKey
    from keyvouch.uri import KeyUri

_IN_ANOTHER_PROCESS = """
import sys
from keyvouch import open_signer
from keyvouch.certificate import spki_sha256
with open_signer(sys.argv[1]) as signer:
    print(spki_sha256(signer.public_key))
"""


class Finding(Declarations):
    """See `keyvouch.store.KeyStore.open`."""

    @needs()
    def test_pinned_uri_finds_the_key_again(self) -> None:
        """The URI of an open key opens this very key, and stays as it is then (`StoredKey.uri`)."""
        with self.opened(self.uri) as (made, key):
            again = made.open(key.uri, timeout=TIMEOUT)
            found, pinned = again.public_key, again.uri
            again.close()
            if found != key.public_key:
                broken(seen=f"another key at {key.uri}", wanted="the one that it was told of")
            if pinned != key.uri:
                broken(seen=f"{pinned} for what was opened by {key.uri}", wanted="the same URI: it is pinned already")
            pinned_text = str(key.uri)
        with self.opened(pinned_text) as (_, key):  # by another store object, from the text
            if key.public_key != found:
                broken(seen=f"another key at {pinned_text} after connecting anew", wanted="the same")

    @needs()
    def test_pinned_uri_holds_in_another_process(self) -> None:
        """The text of a pinned URI opens the key in another process too (`StoredKey.uri`)."""
        if self.store_class is not None:  # not installed: another process cannot find it
            return
        with self.opened(self.uri) as (_, key):
            pinned, wanted = str(key.uri), spki_sha256(key.public_key)
        done = in_another_process(_IN_ANOTHER_PROCESS, pinned)
        if done.stdout.strip() != wanted:
            broken(seen=done.stdout + done.stderr[-500:], wanted=f"the key {wanted}")

    @needs("family", "list")
    def test_pinned_key_is_not_followed(self) -> None:
        """A key that was opened by its pinned URI signs, though it has a younger successor (`StoredKey.uri`)."""
        family = str(self.family_uri)
        with self.opened(family) as (made, newest):
            older = [
                info
                for info in self._listed(made, self.parsed(family))
                if info.spki_sha256 != spki_sha256(newest.public_key)
            ]
            if not older:
                broken(seen="a family with one member", wanted="`family_uri` with an older one beside it")
            key = made.open(older[0].uri, timeout=TIMEOUT)
            try:
                if spki_sha256(key.public_key) != older[0].spki_sha256:
                    broken(seen="the newest member", wanted=f"the one that {older[0].uri} names")
                algorithm = self.algorithm_of(key)
                signature = key.sign(b"x", algorithm, timeout=TIMEOUT)
                if not judge.is_good(key.public_key, signature, b"x", algorithm.name):
                    broken(
                        seen="a signature of another key than the one that was opened",
                        wanted="the pinned one's",
                        change="Sign with the version that the pinned URI names.",
                    )
            finally:
                key.close()

    @needs("family", "list")
    def test_newest_member_is_chosen(self) -> None:
        """With `select=newest` a family opens its newest settled member (`KeyStore.open`, `choose_one`)."""
        family = self.parsed(str(self.family_uri))
        with self.opened(str(family)) as (made, key):
            chosen, _ = choose_one(family, self._listed(made, family))
            if chosen.spki_sha256 != spki_sha256(key.public_key):
                broken(seen=f"{key.uri}", wanted=f"{chosen.uri}", change="Let `choose_one` choose.")
            if "select" in key.uri or "settle" in key.uri:
                broken(seen=f"{key.uri}", wanted="a pinned URI, without `select` and `settle`")

    @needs()
    def test_digest_of_the_public_key_is_heeded(self) -> None:
        """Every URI may hold `spki-sha256`, and then another key at that place is KeyChanged (`choose_one`)."""
        with self.opened(self.uri) as (made, key):
            digest = spki_sha256(key.public_key)
            made.open(self.parsed(self.uri).replace({"spki-sha256": digest}), timeout=TIMEOUT).close()
            other = self.parsed(self.uri).replace({"spki-sha256": digest[::-1]})
            refused(lambda: made.open(other, timeout=TIMEOUT), KeyChanged, change="Let `choose_one` choose.")

    @needs("missing")
    def test_missing_key_is_told_by_type(self) -> None:
        """No key is KeyNotFound, with a hint (`KeyStore.open`)."""
        missing = str(self.missing_uri)
        with self.connected(missing) as made:
            refused(lambda: made.open(self.parsed(missing), timeout=TIMEOUT), KeyNotFound)

    @needs("ambiguous")
    def test_several_keys_are_told_and_named(self) -> None:
        """Several matches are AmbiguousKey with a URI for each, which opens it (`KeyStore.open`, `choose_one`)."""
        several = str(self.ambiguous_uri)
        with self.connected(several) as made:
            with self._candidates(made, several) as keys:
                opened = {spki_sha256(key.public_key) for key in keys}
            if len(opened) < 2:  # noqa: PLR2004 - several
                broken(seen=f"{len(opened)} keys behind the candidates", wanted="each of those that match")

    @needs("ambiguous")
    def test_certificate_chooses_its_key(self) -> None:
        """Of several matches the one with the given certificate's key is opened (`KeyStore.open`)."""
        several = str(self.ambiguous_uri)
        with self.connected(several) as made:
            with self._candidates(made, several) as keys:
                for key in keys:
                    chosen = made.open(self.parsed(several), self.certificate_of(key), timeout=TIMEOUT)
                    if chosen.public_key != key.public_key:
                        broken(seen=str(chosen.uri), wanted=str(key.uri), change="Hand `certificate` to `choose_one`.")
                    chosen.close()
            foreign = self_signed(make_key("P-256"), "CN=conformance", 1)
            refused(lambda: made.open(self.parsed(several), foreign, timeout=TIMEOUT), CertificateMismatch)

    @needs("replaced", "generate")
    def test_replaced_key_is_noticed(self) -> None:
        """`changed` tells that another key took the place of this one, and the URI opens that (`StoredKey.changed`)."""
        uri = self.new_uri()
        with self.connected(uri) as made:
            assert isinstance(made, GeneratesKeys)
            made.generate(self.parsed(uri), self.spec())
            key = made.open(self.parsed(uri), timeout=TIMEOUT)
            if key.changed():
                broken(seen="changed() of a key that was just opened", wanted="False")
            self.replace_key(uri)
            if not key.changed():
                broken(seen="changed() is False though the key was replaced", wanted="True")
            with contextlib.suppress(KeyChanged, KeyUnusable, SessionLost):
                self.require_signature(key)  # with the key as it was opened, or not at all
            refused(lambda: made.open(self._with_digest(key), timeout=TIMEOUT), KeyChanged, KeyNotFound)
            new = made.open(self.parsed(uri), timeout=TIMEOUT)
            if new.public_key == key.public_key:
                broken(seen="the former key", wanted="the one that took its place")
            for each in (key, new):
                each.close()

    @needs()
    def test_attributes_are_declared_well(self) -> None:
        """Attributes have a name once, and a help; an unknown one is refused (`KeyStore.attributes`)."""
        attributes = self.the_class().attributes
        names = [each.name for each in attributes]
        if len(set(names)) < len(names):
            broken(seen=f"a name twice in {names}", wanted="each once")
        if without := [each.name for each in attributes if not each.help]:
            broken(seen=f"{', '.join(without)} without help", wanted="one sentence for each")
        if len([each for each in attributes if each.positional]) > 1:
            broken(seen="two attributes that take the path form", wanted="one at most")
        purposes = frozenset[str]().union(*(each.required_for for each in attributes))
        if unknown := purposes - {"open", "generate"}:
            broken(seen=f"required_for={set(unknown)}", wanted='"open", "generate", or both: nothing else is asked')
        sign = "&" if "?" in self.uri else "?"
        refused(lambda: self.parsed(f"{self.uri}{sign}no-such-attribute=1"), ConfigurationError)

    @needs("list")
    def test_listing_agrees_with_opening(self) -> None:
        """Each key that is listed opens by its URI, and is what the listing says (`ListsKeys.keys`)."""
        with self.connected(self.uri) as made:
            listed = self._listed(made, self.parsed(self.uri))
            if not listed:
                broken(seen="an empty list for a URI that opens", wanted="that key")
            for info in listed:
                key = made.open(info.uri, timeout=TIMEOUT)
                told = (info.key_type, info.spki_sha256)
                if (key_type(key.public_key), spki_sha256(key.public_key)) != told and info.spki_sha256 is not None:
                    broken(seen=f"{told} listed, another key opened by {info.uri}", wanted="the same")
                if None not in (info.exportable, key.exportable) and info.exportable is not key.exportable:
                    broken(seen=f"exportable {info.exportable} listed, {key.exportable} open", wanted="the same")
                key.close()

    @needs("list")
    def test_listing_is_of_what_matches(self) -> None:
        """The listing of a pinned URI has that key alone, and that of a missing one has none (`ListsKeys.keys`)."""
        with self.opened(self.uri) as (made, key):
            listed = [info.spki_sha256 for info in self._listed(made, self._with_digest(key))]
            if listed not in ([spki_sha256(key.public_key)], [None]):
                broken(
                    seen=f"{len(listed)} keys listed for {key.uri}",
                    wanted="that key alone",
                    change="Leave out what does not match each attribute that the URI gives, `spki-sha256` among them.",
                )
        if self.offers("missing"):
            with self.connected(str(self.missing_uri)) as made:
                try:
                    others = self._listed(made, self.parsed(str(self.missing_uri)))
                except KeyNotFound:
                    return
                if others:
                    broken(seen=f"{others[0].uri} listed for {self.missing_uri}", wanted="nothing, or KeyNotFound")

    # What the tests above have in common.

    @staticmethod
    def _listed(made: KeyStore, uri: KeyUri) -> list[KeyInfo]:
        assert isinstance(made, ListsKeys)
        return made.keys(uri)

    @staticmethod
    def _with_digest(key: StoredKey) -> KeyUri:
        return key.uri.replace({"spki-sha256": spki_sha256(key.public_key)})

    @contextlib.contextmanager
    def _candidates(self, made: KeyStore, uri: str) -> Iterator[list[StoredKey]]:
        """Give the keys that a URI with several matches is told to mean, open."""
        error = refused(
            lambda: made.open(self.parsed(uri), timeout=TIMEOUT), AmbiguousKey, change="Let `choose_one` choose."
        )
        assert isinstance(error, AmbiguousKey)
        opened = [made.open(self.parsed(candidate), timeout=TIMEOUT) for candidate in error.candidates]
        try:
            yield opened
        finally:
            for key in opened:
                key.close()
