"""Rules of `KeyStore.open` and of the listing: which key a URI means, and that it goes on to mean it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from keyvouch.algorithms import algorithms_for, key_type
from keyvouch.certificate import spki_sha256
from keyvouch.errors import AmbiguousKey, ConfigurationError, KeyNotFound
from keyvouch.store import KeyInfo, KeyStore, ListsKeys
from keyvouch.testing.conformance import judge
from keyvouch.testing.conformance.declarations import TIMEOUT, Declarations, broken, needs

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
        done = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", _IN_ANOTHER_PROCESS, pinned],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stdout.strip() != wanted:
            broken(seen=done.stdout + done.stderr[-500:], wanted=f"the key {wanted}")

    @needs("family", "list")
    def test_pinned_key_is_not_followed(self) -> None:
        """A key that was opened by its pinned URI signs, though it has a younger successor (`StoredKey.uri`)."""
        family = str(self.family_uri)
        with self.opened(family) as (made, newest):
            older = [info for info in self._listed(made, family) if info.spki_sha256 != spki_sha256(newest.public_key)]
            if not older:
                broken(seen="a family with one member", wanted="`family_uri` with an older one beside it")
            key = made.open(older[0].uri, timeout=TIMEOUT)
            try:
                if spki_sha256(key.public_key) != older[0].spki_sha256:
                    broken(seen="the newest member", wanted=f"the one that {older[0].uri} names")
                algorithm = algorithms_for(key_type(key.public_key))[0]
                signature = key.sign(b"x", algorithm, timeout=TIMEOUT)
                if not judge.is_good(key.public_key, signature, b"x", algorithm.name):
                    broken(
                        seen="a signature of another key than the one that was opened",
                        wanted="the pinned one's",
                        change="Sign with the version that the pinned URI names.",
                    )
            finally:
                key.close()

    @needs("missing")
    def test_missing_key_is_told_by_type(self) -> None:
        """No key is KeyNotFound, with a hint (`KeyStore.open`)."""
        missing = str(self.missing_uri)
        with self.connected(missing) as made:
            error = self._refusal(lambda: made.open(self.parsed(missing), timeout=TIMEOUT).close())
            if not isinstance(error, KeyNotFound):
                broken(seen=repr(error), wanted="KeyNotFound", change="Map the library's own error to it.")
            if not error.hint:
                broken(seen=f"{error!r} without a hint", wanted="what there is instead, or where to look")

    @needs("ambiguous")
    def test_several_keys_are_told_and_named(self) -> None:
        """Several matches are AmbiguousKey with a URI for each, which opens it (`KeyStore.open`, `choose_one`)."""
        several = str(self.ambiguous_uri)
        with self.connected(several) as made:
            error = self._refusal(lambda: made.open(self.parsed(several), timeout=TIMEOUT).close())
            if not isinstance(error, AmbiguousKey):
                broken(seen=repr(error), wanted="AmbiguousKey", change="Let `choose_one` choose.")
            opened = set()
            for candidate in error.candidates:
                key = made.open(self.parsed(candidate), timeout=TIMEOUT)
                opened.add(spki_sha256(key.public_key))
                key.close()
            if len(opened) < 2:  # noqa: PLR2004 - several
                broken(seen=f"{len(opened)} keys behind the candidates", wanted="each of those that match")

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
        sign = "&" if "?" in self.uri else "?"
        with pytest.raises(ConfigurationError):
            self.parsed(f"{self.uri}{sign}no-such-attribute=1")

    @needs("list")
    def test_listing_agrees_with_opening(self) -> None:
        """Each key that is listed opens by its URI, and is what the listing says (`ListsKeys.keys`)."""
        with self.connected(self.uri) as made:
            listed = self._listed(made, self.uri)
            if not listed:
                broken(seen="an empty list for a URI that opens", wanted="that key")
            for info in listed:
                key = made.open(info.uri, timeout=TIMEOUT)
                told = (info.key_type, info.spki_sha256)
                if (key_type(key.public_key), spki_sha256(key.public_key)) != told and info.spki_sha256 is not None:
                    broken(seen=f"{told} listed, another key opened by {info.uri}", wanted="the same")
                if info.exportable is not key.exportable:
                    broken(seen=f"exportable {info.exportable} listed, {key.exportable} open", wanted="the same")
                key.close()

    def _listed(self, made: KeyStore, uri: str) -> list[KeyInfo]:
        assert isinstance(made, ListsKeys)
        return made.keys(self.parsed(uri))

    @staticmethod
    def _refusal(act: Callable[[], object]) -> Exception | None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
            return error
        return None
