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
    OffersPeer,
    choose_one,
)
from keyvouch_windows import accounts, crypt32, key_access, private_keys, provisioning
from keyvouch_windows.certificates import (
    Entry,
    find_entries,
    find_issuers,
    list_entries,
    matches,
    open_context,
    remove,
    store_exists,
)
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import DENIED_OR_MISSING, NOT_EXPORTABLE
from keyvouch_windows.error_mappings import NO_STORE
from keyvouch_windows.error_translation import (
    cannot_delete,
    code_name,
    not_exportable,
    to_keyvouch_error,
    translate_errors,
)
from keyvouch_windows.key import WindowsKey
from keyvouch_windows.native import NativeError
from keyvouch_windows.private_keys import OpenKey
from keyvouch_windows.uri_attributes import ATTRIBUTES

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey, PublicKey
    from keyvouch.secrets import Secret, SecretResolver

_MAX_LISTED = 5
"""Maximum number of keys listed in an error."""


class _Selection(NamedTuple):
    entry: Entry
    container: Container
    """Its private key's container."""
    uri: KeyUri
    """Pinned."""
    settles_at: dt.datetime | None


class WindowsStore(
    KeyStore,
    ListsKeys,
    GeneratesKeys,
    ImportsKeys,
    HoldsCertificates,
    DeletesKeys,
    ExportsKeys,
    GrantsAccess,
    OffersPeer,
):
    """Keys in the Windows certificate store: `windows:thumbprint=4A5B...;store=My;location=LocalMachine`.

    A certificate is selected by thumbprint, subject, issuer or friendly name, in CurrentUser and LocalMachine unless
    `location=` names one; a key without a certificate by `provider=` and `container=`. The store works only on Windows.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = ATTRIBUTES

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:  # noqa: ARG002 - there is only one Windows
        self._silent = not secrets.interactive
        self._keys_of_peers: list[WindowsKey] = []

    def connect(self, *, timeout: float) -> None:  # noqa: ARG002 - as everywhere here: Windows cannot be interrupted
        """Check that Windows' certificate store can be opened."""
        with translate_errors("opening the store"):
            store_exists("LocalMachine", "My")  # all accounts may read it; the user's needs a profile

    def close(self) -> None:
        """Release the keys of peers; nothing else is kept open."""
        while self._keys_of_peers:
            self._keys_of_peers.pop().close()

    def open(
        self,
        uri: KeyUri,
        certificate: Certificate | None = None,
        *,
        timeout: float,  # noqa: ARG002
    ) -> WindowsKey:
        """Find the certificate and open its private key."""
        with translate_errors("looking for the key", uri):
            found = find_entries(uri)
            if not found and "container" in uri:
                opened, pinned, public_key, _ = self._open_without_certificate(uri)
                return WindowsKey(opened, pinned, public_key, ())
            selection = self._select(uri, found, certificate)
        with translate_errors("opening the key", selection.uri):
            entry = selection.entry
            opened = self._open_for_certificate(entry, selection.container)
            key = WindowsKey(opened, selection.uri, entry.public_key, (entry.certificate, *find_issuers(entry)))
        key.settles_at = selection.settles_at
        return key

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the certificates that have a private key."""
        digest = uri.get("spki-sha256")
        name_of = functools.cache(accounts.name_of)  # keys share a few accounts, and domain lookups are slow
        with translate_errors("listing the keys", uri):
            entries = find_entries(uri)
            if not entries and (missing := _missing_store(uri)):
                raise missing
            found = [(each, each.container) for each in entries if each.container]
            infos = [self._describe(entry, container, uri, name_of) for entry, container in found]
        return [info for info in infos if digest in (None, info.spki_sha256)]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Generate a key, not exportable unless the spec says so, and its self-signed certificate."""
        return provisioning.generate(uri, spec, silent=self._silent)

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Import the key with its certificate, as Windows imports a PFX file."""
        return provisioning.import_key(uri, key, chain, exportable=exportable, silent=self._silent)

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Link a certificate to its key; the previous certificate stays until it is deleted."""
        with translate_errors("installing the certificate", uri, performed=True):
            found = find_entries(uri)
            if not found and "container" in uri:
                opened, pinned, public_key, container = self._open_without_certificate(uri)
                opened.close()
                check_chain(chain, public_key)
                return provisioning.install(pinned, container, chain)
            entry, container, pinned, _ = self._select(uri, found, chain[0])
            check_chain(chain, entry.public_key)
            return provisioning.install(pinned, container, chain, entry)

    def export_pfx(self, uri: KeyUri, password: Secret) -> bytes:
        """Return the key, if it is exportable, and its chain as PKCS#12."""
        with translate_errors("looking for the key", uri):
            entry, container, pinned, _ = self._select(uri, find_entries(uri))
        with translate_errors("exporting the key", pinned), closing(self._open_in_provider(container)) as opened:
            if opened.exportable() is False:
                raise not_exportable(pinned)
            chain = (entry.certificate, *find_issuers(entry))
            try:
                key = opened.private_key()
            except NativeError as error:
                if code_name(error) in NOT_EXPORTABLE:
                    raise not_exportable(pinned) from error
                raise
            return to_pfx(key, chain, password, entry.friendly_name or "")

    def delete(self, uri: KeyUri) -> None:
        """Delete the certificate and, unless another certificate uses it too, its key."""
        with translate_errors("looking for the key", uri):
            found = find_entries(uri)
            if not found and "container" in uri:
                opened, *_ = self._open_without_certificate(uri)
                with translate_errors("deleting the key", performed=True):
                    opened.delete()
                return
            entry, container, _, _ = self._select(uri, found)
            known = [each for location in crypt32.LOCATIONS for each in list_entries(location, entry.store)]
        shared = any(each.container == container and each.certificate != entry.certificate for each in known)
        # Without a URI: the remedy is an administrator, not a grant.
        with translate_errors("deleting the key", performed=True):
            # Fail here, with the key intact, if the certificate may not be deleted.
            with open_context(entry, write=True):
                if not shared:
                    try:
                        self._open_in_provider(container).delete()
                    except NativeError as error:
                        raise cannot_delete(error, entry.location) from error
            remove(entry)

    def readers(self, uri: KeyUri) -> list[str]:
        """Return the accounts and groups that the key's access rules allow to sign."""
        with (
            self._open_for_access_rules(uri) as (opened, pinned, _),
            key_access.translate_errors("reading the key's access rules", pinned),
        ):
            return [*key_access.readers(opened)]

    def grant(self, uri: KeyUri, account: str) -> None:
        """Let an account sign: `DOMAIN\\name`, a gMSA `DOMAIN\\name$`, `NT SERVICE\\name`, or a SID in text form."""
        with self._open_for_access_rules(uri) as (opened, pinned, machine):
            key_access.grant(opened, account, pinned, machine=machine)

    def revoke(self, uri: KeyUri, account: str) -> None:
        """Revoke this account's permission to sign; permissions of its groups remain."""
        with self._open_for_access_rules(uri) as (opened, pinned, _):
            key_access.revoke(opened, account, pinned)

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that calls NCryptSignHash, or CryptSignHash with a key of a legacy provider."""
        key = self.open(uri, timeout=0)
        self._keys_of_peers.append(key)
        return key.make_peer(algorithm)

    def _select(self, uri: KeyUri, found: list[Entry], certificate: Certificate | None = None) -> _Selection:
        """Return the one certificate that the URI selects. Raises `KeyNotFound`, `KeyUnusable`, and as `choose_one`."""
        with_key = [(entry, entry.container) for entry in found if entry.container]
        if not found:
            raise _not_found(uri)
        if not with_key:
            raise KeyUnusable(
                f"The certificate is in {found[0].location}\\{found[0].store}, but its private key is not.",
                hint="Import the PFX that contains both:"
                " `keyvouch import --from pfx:FILE --key 'windows:location=...'`.",
                uri=uri,
            )
        infos = [entry.info(uri) for entry, _ in with_key]
        info, settles_at = choose_one(uri, infos, certificate)
        return _Selection(*with_key[infos.index(info)], info.uri, settles_at)

    def _open_for_certificate(self, entry: Entry, container: Container) -> OpenKey:
        with open_context(entry) as context:
            return private_keys.open_for_certificate(context, container, silent=self._silent)

    def _describe(self, entry: Entry, container: Container, uri: KeyUri, name_of: Callable[[str], str]) -> KeyInfo:
        """Describe a key; with fewer details if it cannot be opened (another user's, or on a card not inserted)."""
        exportable = readers = None
        # Always silent, even if interactive: a listing must not show a dialog for every card.
        with (
            contextlib.suppress(NativeError, KeyUnusable),
            closing(private_keys.open_in_container(container, silent=True)) as opened,
        ):
            exportable = opened.exportable()
            readers = key_access.readers(opened, name_of)
        return entry.info(uri, exportable=exportable, readers=readers)

    def _open_in_provider(self, container: Container) -> OpenKey:
        """Open a key in its own provider: CNG can open legacy keys too, but does not give their access rules."""
        return private_keys.open_in_container(container, silent=self._silent)

    @contextlib.contextmanager
    def _open_for_access_rules(self, uri: KeyUri) -> Iterator[tuple[OpenKey, KeyUri, bool]]:
        """Yield a key opened for its access rules, its pinned URI, and whether it is a machine key."""
        with translate_errors("looking for the key", uri):
            found = find_entries(uri)
            if not found and "container" in uri:
                opened, pinned, _, container = self._open_without_certificate(uri)
            else:
                _, container, pinned, _ = self._select(uri, found)
                with translate_errors("opening the key"):  # the remedy is an administrator, not another grant
                    opened = self._open_in_provider(container)
        with closing(opened):
            yield opened, pinned, container.machine

    def _open_without_certificate(self, uri: KeyUri) -> tuple[OpenKey, KeyUri, PublicKey, Container]:
        """Open a key without a known certificate; return it with its pinned URI, public key and container."""
        containers = _possible_containers(uri)
        for number, (location, container) in enumerate(containers, 1):
            try:
                opened = self._open_in_provider(container)
                break
            except NativeError as error:
                if code_name(error) == "NTE_BAD_KEYSET" and uri.get("location") == "CurrentUser":
                    raise KeyNotFound(
                        f'{container.provider} has no container "{container.name}" for this account: {error}.',
                        hint="Correct container= or provider=, or use location=LocalMachine.",
                        uri=uri,
                    ) from error
                if number == len(containers) or code_name(error) not in DENIED_OR_MISSING:
                    tried = uri.replace({"location": location})
                    raise to_keyvouch_error(error, "opening the container", tried) from error
        try:
            public_key = opened.public_key()
            digest = spki_sha256(public_key)
            pinned = uri.replace({"provider": container.provider, "location": location, "spki-sha256": digest})
            choose_one(uri, [KeyInfo(pinned, key_type(public_key), digest)])
        except BaseException:
            opened.close()
            raise
        return opened, pinned, public_key, container


def _possible_containers(uri: KeyUri) -> list[tuple[str, Container]]:
    """Return the possible containers, each with its location."""
    provider, name = uri.get("provider") or private_keys.SOFTWARE_PROVIDER, uri.get("container")
    locations = [uri.get("location")] if "location" in uri else [*crypt32.LOCATIONS]
    return [(each, private_keys.container_for(provider, name, machine=each == "LocalMachine")) for each in locations]


def _missing_store(uri: KeyUri) -> KeyNotFound | None:
    """Return the error for a store that does not exist; None if it does."""
    if any(store_exists(location, uri.get("store")) for location in crypt32.LOCATIONS):
        return None
    return KeyNotFound(f"Certificate store not found: {uri.get('store')}.", hint=NO_STORE.hint, uri=uri)


def _not_found(uri: KeyUri) -> KeyNotFound:
    if "location" in uri:
        other = next(each for each in crypt32.LOCATIONS if each != uri.get("location"))
        if any(matches(uri, entry) for entry in list_entries(other, uri.get("store"))):
            return KeyNotFound(
                f"The certificate is not in {uri.get('location')}, but in {other}.",
                hint=f"Use location={other} in the URI.",
                uri=uri,
            )
    if missing := _missing_store(uri):
        return missing
    selecting = ("thumbprint", "subject", "issuer", "friendly-name", "location")
    existing = find_entries(uri.replace(dict.fromkeys(selecting)))
    infos = [each.info(uri) for each in existing if each.container][:_MAX_LISTED]
    listed = "".join(f"\n  {info.uri.quoted}  {info.friendly_name or info.subject}" for info in infos)
    return KeyNotFound(
        f"No certificate in the store {uri.get('store')} matches {uri}.",
        hint=f"Use one that exists:{listed}" if listed else "Import one, or create one: `keyvouch new`.",
        uri=uri,
    )
