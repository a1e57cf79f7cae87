"""Keys in transit: `vault:address=https://vault:8200;key=app?auth=approle&role-id=...&secret-id=file:/run/secrets/sid`."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hvac.exceptions import InvalidPath, InvalidRequest

from keyvouch.algorithms import algorithms_for, key_type, verifies
from keyvouch.certificate import check_chain, parse_subject, self_signed, spki_sha256
from keyvouch.errors import (
    AccessDenied,
    CertificateMismatch,
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    NotSupported,
    SessionLost,
)
from keyvouch.https import OWN_TIMEOUT, is_loopback
from keyvouch.private_key import wrap
from keyvouch.store import (
    Attribute,
    DeletesKeys,
    GeneratesKeys,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    KeyStore,
    KeyUri,
    ListsKeys,
    StoredKey,
    choose_one,
)
from keyvouch_vault import transit
from keyvouch_vault.addresses import ATTRIBUTES, NEEDED, is_name
from keyvouch_vault.failures import policy, told
from keyvouch_vault.key import VaultKey
from keyvouch_vault.logins import LogIn, client_certificate
from keyvouch_vault.replies import Names
from keyvouch_vault.session import Session
from keyvouch_vault.transit import FoundKey, Place, Version

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey
    from keyvouch.secrets import SecretResolver
    from keyvouch_vault.replies import Reply

_PROBE = b"keyvouch: does this certificate belong to the key?"


class VaultStore(KeyStore, ListsKeys, GeneratesKeys, ImportsKeys, HoldsCertificates, DeletesKeys):
    """Keys in transit: `vault:address=https://vault:8200;mount=transit;key=app;version=3?auth=token&token=env:TOKEN`.

    A key without version is a family: the version that the certificate belongs to, else the newest that has settled.
    To sign, a policy has to allow `update` of `transit/sign/app`; to find version and public key, `read` of
    `transit/keys/app`, which the URI may spare by `version=` and `certificate-file=`.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = ATTRIBUTES

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        address, method = uri.get("address"), uri.get("auth")
        if not address:
            raise ConfigurationError("The server's address is missing.", hint="Write address=, or set VAULT_ADDR.")
        if not method:
            raise ConfigurationError(
                "The URI does not say how to log in.", hint="Write auth=approle after the `?`, or another method."
            )
        needed = ("scope",) if method == "jwt" and "profile" in uri else NEEDED[method]
        if missing := [name for name in needed if name not in uri]:
            raise ConfigurationError(f"auth={method} needs {', '.join(missing)}.", hint="Add it after the `?`.")
        if method == "none" and not is_loopback(address):
            raise ConfigurationError(
                "auth=none is for a local proxy that logs in by itself.", hint="Write its address on loopback."
            )
        self._uri = uri
        self._secrets = secrets
        self._log_in = LogIn(uri, secrets)
        self._session: Session | None = None
        self._process = 0

    def connect(self, *, timeout: float) -> None:
        """Log in; keys that are already open keep their own log-in."""
        proxy_credentials = self._secrets.proxy_credentials(self._uri.get("proxy-credentials"))
        session = Session(self._uri, self._log_in, client_certificate(self._uri, self._secrets), proxy_credentials)
        session.begin(timeout)
        self._session, self._process = session, os.getpid()
        self._changing = threading.Lock()

    def close(self) -> None:
        """Revoke the token if it was created for this log-in, and close the connections."""
        session, self._session = self._session, None
        if session is not None and self._process == os.getpid():
            session.end()

    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> StoredKey:
        """Open the version that the URI selects; without read permission, `version=` and the certificate are enough."""
        session = self._connected()
        try:
            version, pinned, settles_at = self._choose(uri, certificate, timeout)
        except AccessDenied:
            if certificate is None or "version" not in uri:
                raise
            return _by_certificate(session, uri, certificate, timeout)
        key = VaultKey(session, pinned, version.public_key, version.chain, exportable=version.exportable)
        key.settles_at = settles_at
        return key

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the versions that may sign, of the key or of all keys in the mount."""
        names = [uri.get("key")] if "key" in uri else self._names(uri)
        listed = []
        for name in names:
            named = uri.replace({"key": name})
            with contextlib.suppress(*(() if "key" in uri else (KeyUnusable, KeyNotFound))):  # keys that cannot sign
                listed += [each.info(named) for each in self._versions(named, OWN_TIMEOUT)]
        digest = uri.get("spki-sha256")
        return [info for info in listed if digest in (None, info.spki_sha256)]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Create a key, or with `further` its next version, and its certificate if the server can store it."""
        parse_subject(spec.subject)
        place = _place(uri)
        with self._change("making a key", place.path(), "create", "update", "read") as client:
            found = self._found(client, place)
            if found is None:
                reply = client.secrets.transit.create_key(
                    place.key,
                    exportable=spec.exportable,
                    key_type=transit.TYPES[spec.key_type],
                    mount_point=place.mount,
                )
                if uri.get("deletion-allowed"):
                    client.secrets.transit.update_key_configuration(
                        place.key, deletion_allowed=True, mount_point=place.mount
                    )
            else:
                _require_rotatable(uri, spec, found)
                reply = client.secrets.transit.rotate_key(place.key, mount_point=place.mount)
            newest = _newest(client, place, reply)
            pinned = newest.info(uri).uri
            key = VaultKey(self._connected(), pinned, newest.public_key)
            signing = wrap(newest.public_key, lambda *what: key.sign(*what, timeout=OWN_TIMEOUT))
            _certify(client, place, newest.number, [self_signed(signing, spec.subject, spec.days)])
        return pinned

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Import a key, wrapped for the server; its later versions are created on the server."""
        check_chain(chain, key.public_key())
        if key_type(key) not in transit.TYPES:
            raise NotSupported(f"Transit takes no {key_type(key)}.", hint=f"It takes {', '.join(transit.TYPES)}.")
        place = _place(uri)
        with self._change("importing a key", place.path("import"), "create", "update") as client:
            if self._found(client, place) is not None:
                raise _exists(uri)
            transit.import_key(client, place, key, exportable=exportable)
            if uri.get("deletion-allowed"):
                client.secrets.transit.update_key_configuration(
                    place.key, deletion_allowed=True, mount_point=place.mount
                )
            if chain:
                _certify(client, place, 1, chain)
        return transit.pinned(uri, 1, spki_sha256(key.public_key()))

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Store the chain with the version it belongs to. Raises `NotSupported` if the server cannot store it."""
        version, pinned, _ = self._choose(uri, chain[0], OWN_TIMEOUT)
        check_chain(chain, version.public_key)
        place = _place(uri)
        with self._change("writing a certificate", place.path("set-certificate"), "update") as client:
            try:
                transit.set_certificate(client, place, version.number, chain)
            except InvalidPath:
                raise NotSupported(
                    "This server keeps no certificates beside its keys.", hint="Name the file: certificate-file=."
                ) from None
        return pinned

    def delete(self, uri: KeyUri) -> None:
        """Delete the key, if this is its only version and the server allows it."""
        self._choose(uri, None, OWN_TIMEOUT)
        place = _place(uri)
        with self._change("deleting a key", place.path(), "delete", "read") as client:
            found = self._found(client, place)
            if found is not None and found.latest_version > 1:
                raise NotSupported(
                    "Transit deletes no single version of a key.",
                    hint=f"Let it be used no more: bao write {place.path('config')} min_encryption_version=...",
                )
            try:
                client.secrets.transit.delete_key(place.key, mount_point=place.mount)
            except InvalidRequest as error:
                if "not allowed" not in str(error):
                    raise
                raise AccessDenied(
                    "The key must not be deleted.",
                    hint=f"If it shall be: bao write {place.path('config')} deletion_allowed=true",
                ) from error

    # Shared helpers.

    def _connected(self) -> Session:
        if self._session is None or self._process != os.getpid():
            raise SessionLost("There is no log-in.", hint="Try again.", performed=False)
        return self._session

    @contextlib.contextmanager
    def _change(self, doing: str, path: str, *capabilities: str) -> Iterator[Any]:
        """Yield hvac's client for one change at a time: of several concurrent changes, the server fails all but one."""
        session = self._connected()
        with self._changing, session.asking(2 * OWN_TIMEOUT, doing, policy(path, *capabilities)) as client:
            yield client

    @staticmethod
    def _found(client: Any, place: Place) -> FoundKey | None:
        """Return the key as the server describes it, or None if it does not exist."""
        try:
            return transit.read_key(client, place)
        except InvalidPath as error:
            if any(error.errors or []):  # for a key that does not exist, the server gives no reason
                raise
            return None

    def _names(self, uri: KeyUri) -> list[str]:
        mount = uri.get("mount")
        with self._connected().asking(OWN_TIMEOUT, "listing keys", policy(f"{mount}/keys", "list")) as client:
            try:
                names: list[str] = client.secrets.transit.list_keys(mount_point=mount).data_as(Names).keys
            except InvalidPath as error:
                if any(error.errors or []):
                    raise
                return []
        return [name for name in names if is_name(name)]  # import/ holds the server's wrapping key

    def _versions(self, uri: KeyUri, timeout: float) -> list[Version]:
        """Return the versions that match the URI. Raises `KeyNotFound`, `KeyUnusable` if none may sign."""
        place, wanted = _place(uri), uri.get("version")
        needs = policy(place.path(), "read") + "\nOr name version= and certificate-file= in the URI."
        with self._connected().asking(timeout, "reading the key", needs) as client:
            found = self._found(client, place)
        if found is None:
            raise KeyNotFound(
                f"There is no key {place.key} in {place.mount}.",
                hint=f"List what is there: keyvouch keys --key {uri.replace({'key': None, 'version': None}).quoted}.",
                uri=uri,
            )
        able = found.versions()
        if not able:
            raise KeyUnusable(
                f"No version of the key {place.key} may sign.",
                hint=f"Lower its min_encryption_version: bao write {place.path('config')} min_encryption_version=...",
            )
        matching = [each for each in able if wanted in (None, each.number)]
        if not matching:
            raise KeyNotFound(
                f"The key {place.key} has no version {wanted} that may sign.",
                hint=f"These may: {', '.join(str(each.number) for each in able)}.",
                uri=uri,
            )
        return matching

    def _choose(self, uri: KeyUri, certificate: Certificate | None, timeout: float) -> tuple[Version, KeyUri, Any]:
        found = self._versions(uri, timeout)
        infos = [each.info(uri) for each in found]
        try:
            info, settles_at = choose_one(uri.replace({"select": "newest"}), infos, certificate)
        except CertificateMismatch as error:
            numbers = ", ".join(str(each.number) for each in found)
            error.hint = f"Give the certificate of a version that is there ({numbers}), or take out version=."
            raise
        return found[infos.index(info)], info.uri, settles_at


def _place(uri: KeyUri) -> Place:
    return Place(uri.get("mount"), uri.get("key"))


def _newest(client: Any, place: Place, reply: Reply) -> Version:
    """Return the version just created, from the response; an older server returns no data, so the key is read."""
    found = FoundKey(reply) if reply.has_data else transit.read_key(client, place)
    return found.newest()


def _require_rotatable(uri: KeyUri, spec: KeySpec, found: FoundKey) -> None:
    if not spec.further or "version" in uri:
        raise _exists(uri)
    if found.type != transit.TYPES[spec.key_type]:
        raise NotSupported(f"The key is of the type {found.type}, and so are its versions.", hint="Make another key.")


def _certify(client: Any, place: Place, version: int, chain: Sequence[Certificate]) -> None:
    """Store the certificate of a key that was just created; do nothing if an older server cannot store it."""
    with (
        told("the certificate; the key itself is there now", policy(place.path("set-certificate"), "update")),
        contextlib.suppress(InvalidPath),
    ):
        transit.set_certificate(client, place, version, chain)


def _exists(uri: KeyUri) -> KeyExists:
    return KeyExists(
        f"There is a key {uri.get('key')} already.", hint="Take another name, or add a version: --further.", uri=uri
    )


def _by_certificate(session: Session, uri: KeyUri, certificate: Certificate, timeout: float) -> VaultKey:
    """Open a version that may not be read. Raises `CertificateMismatch` if the certificate is another key's."""
    public_key: Any = certificate.public_key()
    kind, digest = key_type(public_key), spki_sha256(public_key)
    pinned = transit.pinned(uri, uri.get("version"), digest)
    choose_one(uri, [KeyInfo(pinned, kind, digest)], certificate)
    key = VaultKey(session, pinned, public_key)
    algorithm = algorithms_for(kind)[0]
    if not verifies(public_key, key.sign(_PROBE, algorithm, timeout=timeout), _PROBE, algorithm):
        raise CertificateMismatch(
            f"The certificate of {certificate.subject.rfc4514_string()} belongs to another key, or version of it.",
            hint="Correct version=, or give that version's certificate.",
            uri=uri,
        )
    return key
