"""Keys in the Windows certificate store: `windows:thumbprint=4A5B...;store=My;location=LocalMachine`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from keyvouch.algorithms import key_type
from keyvouch.certificate import check_chain, spki_sha256
from keyvouch.errors import KeyNotFound, KeyUnusable
from keyvouch.private_key import to_pfx
from keyvouch.store import (
    Attribute,
    DeletesKeys,
    ExportsKeys,
    GeneratesKeys,
    GrantsAccess,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    KeyStore,
    KeyUri,
    ListsKeys,
    choose_one,
)
from keyvouch_windows import access, accounts, crypt32, making, private_keys
from keyvouch_windows.addresses import ATTRIBUTES
from keyvouch_windows.codes import KEPT, WITHHELD
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.entries import Entry, entries, held, is_there, issuers, matches, matching, remove
from keyvouch_windows.failures import as_error, name_of, not_exportable, told
from keyvouch_windows.key import WindowsKey
from keyvouch_windows.native import NativeError
from keyvouch_windows.private_keys import OpenKey
from keyvouch_windows.remedies import NO_STORE

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey, PublicKey
    from keyvouch.secrets import Secret, SecretResolver

_SHOWN = 5
"""Maximum number of keys listed in an error."""


class _Chosen(NamedTuple):
    entry: Entry
    place: Container
    """Its private key's container."""
    uri: KeyUri
    """Pinned."""
    settles_at: dt.datetime | None


class WindowsStore(
    KeyStore, ListsKeys, GeneratesKeys, ImportsKeys, HoldsCertificates, DeletesKeys, ExportsKeys, GrantsAccess
):
    """Keys in the Windows certificate store: `windows:thumbprint=4A5B...;store=My;location=LocalMachine`.

    A certificate is found by thumbprint, subject, issuer or friendly name, in CurrentUser and LocalMachine unless one
    is named; a key without certificate by `provider=` and `container=`. Keys are there on Windows alone; elsewhere this
    store is `NotSupported`.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = ATTRIBUTES

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:  # noqa: ARG002 - there is only one Windows
        self._silent = not secrets.interactive

    def connect(self, *, timeout: float) -> None:  # noqa: ARG002 - as everywhere here: Windows cannot be interrupted
        """Check that Windows' certificate store can be opened."""
        with told("opening the store"):
            is_there("LocalMachine", "My")  # all accounts may read it; the user's needs a profile

    def close(self) -> None:
        """Do nothing, since no store is kept open."""

    def open(
        self,
        uri: KeyUri,
        certificate: Certificate | None = None,
        *,
        timeout: float,  # noqa: ARG002
    ) -> WindowsKey:
        """Find the certificate and open its private key."""
        with told("looking for the key", uri):
            found = matching(uri)
            if not found and "container" in uri:
                opened, pinned, public_key, _ = self._in_container(uri)
                return WindowsKey(opened, pinned, public_key, ())
            chosen = self._choose(uri, found, certificate)
        with told("opening the key", chosen.uri):
            chain = (chosen.entry.certificate, *issuers(chosen.entry))
            key = WindowsKey(self._opened(chosen.entry, chosen.place), chosen.uri, chosen.entry.public_key, chain)
        key.settles_at = chosen.settles_at
        return key

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the certificates that have a private key."""
        digest = uri.get("spki-sha256")
        called = functools.cache(accounts.name_of)  # keys share a few accounts, and domain lookups are slow
        with told("listing the keys", uri):
            listed = [self._seen(each, each.container, uri, called) for each in matching(uri) if each.container]
        return [info for info in listed if digest in (None, info.spki_sha256)]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Generate a key, not exportable unless the spec says so, and its self-signed certificate."""
        return making.generate(uri, spec, silent=self._silent)

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Import the key with its certificate, as Windows imports a PFX file."""
        return making.import_key(uri, key, chain, exportable=exportable, silent=self._silent)

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Link a certificate to its key; the previous certificate stays until it is deleted."""
        with told("installing the certificate", uri, performed=True):
            found = matching(uri)
            if not found and "container" in uri:
                opened, pinned, public_key, place = self._in_container(uri)
                opened.close()
                check_chain(chain, public_key)
                return making.install(pinned, place, chain)
            entry, place, pinned, _ = self._choose(uri, found, chain[0])
            check_chain(chain, entry.public_key)
            return making.install(pinned, place, chain, entry)

    def export_pfx(self, uri: KeyUri, password: Secret) -> bytes:
        """Return the key, if it is exportable, and its chain as PKCS#12."""
        with told("looking for the key", uri):
            entry, place, pinned, _ = self._choose(uri, matching(uri))
        with told("exporting the key", pinned), closing(self._by_provider(place)) as opened:
            if opened.exportable() is False:
                raise not_exportable(pinned)
            chain = (entry.certificate, *issuers(entry))
            try:
                key = opened.private_key()
            except NativeError as error:
                if name_of(error) in KEPT:
                    raise not_exportable(pinned) from error
                raise
            return to_pfx(key, chain, password, entry.friendly_name or "")

    def delete(self, uri: KeyUri) -> None:
        """Delete the certificate and, unless another certificate uses it too, its key."""
        with told("looking for the key", uri):
            found = matching(uri)
            if not found and "container" in uri:
                opened, *_ = self._in_container(uri)
                with told("deleting the key", performed=True):
                    opened.delete()
                return
            entry, place, _, _ = self._choose(uri, found)
            known = [each for location in crypt32.LOCATIONS for each in entries(location, entry.store)]
        shared = any(each.container == place and each.certificate != entry.certificate for each in known)
        with told("deleting the key", performed=True):  # no URI: the remedy is an administrator, not a grant
            with held(entry, write=True):  # fail here, with the key intact, if the certificate may not be deleted
                if not shared:
                    self._by_provider(place).delete()
            remove(entry)

    def readers(self, uri: KeyUri) -> list[str]:
        """Return the accounts and groups that the key's access rules allow to sign."""
        with self._governed(uri) as (opened, pinned, _), access.told("reading who may use the key", pinned):
            return [*access.readers(opened)]

    def grant(self, uri: KeyUri, account: str) -> None:
        """Let an account sign: `DOMAIN\\name`, a gMSA `DOMAIN\\name$`, `NT SERVICE\\name`, or a SID in text form."""
        with self._governed(uri) as (opened, pinned, machine):
            access.grant(opened, account, pinned, machine=machine)

    def revoke(self, uri: KeyUri, account: str) -> None:
        """Revoke this account's permission to sign; permissions of its groups remain."""
        with self._governed(uri) as (opened, pinned, _):
            access.revoke(opened, account, pinned)

    def _choose(self, uri: KeyUri, found: list[Entry], certificate: Certificate | None = None) -> _Chosen:
        """Return the one certificate that the URI selects. Raises `KeyNotFound`, `KeyUnusable`, and as `choose_one`."""
        with_key = [(entry, entry.container) for entry in found if entry.container]
        if not found:
            raise _not_found(uri)
        if not with_key:
            raise KeyUnusable(
                f"The certificate is in {found[0].location}\\{found[0].store}, but its private key is not.",
                hint="Import the PFX that holds both: `keyvouch import --from pfx:FILE --key 'windows:location=...'`.",
                uri=uri,
            )
        infos = [entry.info(uri) for entry, _ in with_key]
        info, settles_at = choose_one(uri, infos, certificate)
        return _Chosen(*with_key[infos.index(info)], info.uri, settles_at)

    def _opened(self, entry: Entry, place: Container) -> OpenKey:
        with held(entry) as context:
            return private_keys.of_certificate(context, place, silent=self._silent)

    def _seen(self, entry: Entry, place: Container, uri: KeyUri, called: Callable[[str], str]) -> KeyInfo:
        """Describe a key; with fewer details if it cannot be opened (another user's, or on a card not inserted)."""
        exportable = readers = None
        # Always silent, even if interactive: a listing must not show a dialog for every card.
        with (
            contextlib.suppress(NativeError, KeyUnusable),
            closing(private_keys.of_container(place, silent=True)) as opened,
        ):
            exportable = opened.exportable()
            readers = access.readers(opened, called)
        return entry.info(uri, exportable=exportable, readers=readers)

    def _by_provider(self, place: Container) -> OpenKey:
        """Open a key in its own provider: CNG can open legacy keys too, but does not give their access rules."""
        return private_keys.of_container(place, silent=self._silent)

    @contextlib.contextmanager
    def _governed(self, uri: KeyUri) -> Iterator[tuple[OpenKey, KeyUri, bool]]:
        """Yield a key opened for its access rules, its pinned URI, and whether it is a machine key."""
        with told("looking for the key", uri):
            found = matching(uri)
            if not found and "container" in uri:
                opened, pinned, _, place = self._in_container(uri)
            else:
                _, place, pinned, _ = self._choose(uri, found)
                with told("opening the key"):  # the remedy is an administrator, not another grant
                    opened = self._by_provider(place)
        with closing(opened):
            yield opened, pinned, place.machine

    def _in_container(self, uri: KeyUri) -> tuple[OpenKey, KeyUri, PublicKey, Container]:
        """Open a key without a known certificate; return it with its pinned URI, public key and container."""
        places = _possible_places(uri)
        for number, (location, place) in enumerate(places, 1):
            try:
                opened = self._by_provider(place)
                break
            except NativeError as error:
                if name_of(error) == "NTE_BAD_KEYSET" and uri.get("location") == "CurrentUser":
                    raise KeyNotFound(
                        f"{place.provider} has no container {place.name} of this account: {error}.",
                        hint="Correct container= or provider=, or say location=LocalMachine.",
                        uri=uri,
                    ) from error
                if number == len(places) or name_of(error) not in WITHHELD:
                    raise as_error(error, "opening the container", uri.replace({"location": location})) from error
        try:
            public_key = opened.public_key()
            digest = spki_sha256(public_key)
            pinned = uri.replace({"provider": place.provider, "location": location, "spki-sha256": digest})
            choose_one(uri, [KeyInfo(pinned, key_type(public_key), digest)])
        except BaseException:
            opened.close()
            raise
        return opened, pinned, public_key, place


def _possible_places(uri: KeyUri) -> list[tuple[str, Container]]:
    """Return the possible containers, each with its location."""
    provider, name = uri.get("provider") or private_keys.SOFTWARE, uri.get("container")
    locations = [uri.get("location")] if "location" in uri else [*crypt32.LOCATIONS]
    return [(each, private_keys.container_of(provider, name, machine=each == "LocalMachine")) for each in locations]


def _not_found(uri: KeyUri) -> KeyNotFound:
    if "location" in uri:
        other = next(each for each in crypt32.LOCATIONS if each != uri.get("location"))
        if any(matches(uri, entry) for entry in entries(other, uri.get("store"))):
            return KeyNotFound(
                f"{uri.get('location')} has no such certificate, but {other} has.",
                hint=f"Write location={other} in the URI.",
                uri=uri,
            )
    if not any(is_there(location, uri.get("store")) for location in crypt32.LOCATIONS):
        return KeyNotFound(f"There is no store {uri.get('store')}.", hint=NO_STORE.hint, uri=uri)
    there = matching(uri.replace(dict.fromkeys(("thumbprint", "subject", "issuer", "friendly-name", "location"))))
    listed = "".join(f"\n  {each.uri(uri).quoted}" for each in there[:_SHOWN] if each.container)
    return KeyNotFound(
        f"No certificate in the store {uri.get('store')} matches {uri}.",
        hint=f"Take one of those that are there:{listed}" if listed else "Import one, or make one: `keyvouch new`.",
        uri=uri,
    )
