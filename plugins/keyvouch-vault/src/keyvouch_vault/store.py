"""Keys in Vault or OpenBao: `vault:address=https://vault:8200;key=app?auth=approle&role-id=...&secret-id=file:/run/secrets/sid`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
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
    KeyvouchError,
    NotSupported,
)
from keyvouch.https import OWN_TIMEOUT, is_loopback
from keyvouch.private_key import wrap
from keyvouch.store import (
    Attribute,
    DeletesKeys,
    ForkGate,
    GeneratesKeys,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    KeyStore,
    KeyUri,
    ListsKeys,
    ListsUnusableKeys,
    OffersPeer,
    ProcessLocal,
    StoredKey,
    UnusableKey,
    choose_one,
    is_decided,
)
from keyvouch_vault import permissions, transit
from keyvouch_vault.auth_methods import AuthMethod, client_certificate
from keyvouch_vault.error_translation import translate_errors
from keyvouch_vault.key import VaultKey
from keyvouch_vault.responses import KeyNames
from keyvouch_vault.session import Session
from keyvouch_vault.transit import KeyPath, KeyVersion, TransitKey
from keyvouch_vault.uri_attributes import ATTRIBUTES, AUTH_METHODS, REQUIRED_BY_METHOD, is_valid_name

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import Algorithm, PrivateKey
    from keyvouch.secrets import SecretResolver

_IMPORT_GATE = ForkGate()
_MOST_LISTED = 10
"""Maximum number of versions that an error lists."""
_TEST_MESSAGE = b"keyvouch: does this certificate belong to the key?"


class VaultStore(
    KeyStore, ListsKeys, ListsUnusableKeys, GeneratesKeys, ImportsKeys, HoldsCertificates, DeletesKeys, OffersPeer
):
    """Keys in Vault or OpenBao: `vault:address=https://vault:8200;mount=transit;key=app;version=3?auth=token&token=env:TOKEN`.

    Without `version`, the version that the certificate belongs to is selected, else the newest that has settled.
    A policy must allow `update` of `transit/sign/app`, to sign, and `read` of `transit/keys/app`, to find the version
    and its public key. The latter is not needed if the URI has `version=` and `certificate-file=`.
    """

    attributes: ClassVar[tuple[Attribute, ...]] = ATTRIBUTES

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        _check_login_attributes(uri)
        self._uri = uri
        self._secrets = secrets
        self._auth_method = AuthMethod(uri, secrets)
        self._session = ProcessLocal[Session]()

    def connect(self, *, timeout: float) -> None:
        """Log in; keys that are already open keep their own session."""
        proxy_credentials = self._secrets.proxy_credentials(self._uri.get("proxy-credentials"))
        certificate = client_certificate(self._uri, self._secrets)
        session = Session(self._uri, self._auth_method, certificate, proxy_credentials)
        session.log_in(timeout)
        self._session.set(session)
        self._change_lock = threading.Lock()

    def close(self) -> None:
        """Revoke the token if it was created by the login, and close the connections."""
        if session := self._session.take():
            session.close()

    def open(self, uri: KeyUri, certificate: Certificate | None = None, *, timeout: float) -> StoredKey:
        """Open the version that the URI selects; without read permission, `version=` and the certificate are enough."""
        session = self._session.get()
        try:
            version, pinned_uri, settles_at = self._choose_version(uri, certificate, timeout)
        except AccessDenied:
            if certificate is None or "version" not in uri:
                raise
            return _open_without_reading(session, uri, certificate, timeout)
        key = VaultKey(session, pinned_uri, version.public_key, version.chain, exportable=version.exportable)
        key.settles_at = settles_at
        return key

    def keys(self, uri: KeyUri) -> list[KeyInfo]:
        """Return the versions that may sign, of the key or of all keys in the mount that may be read."""
        names = [uri.get("key")] if "key" in uri else self._list_names(uri)
        infos = []
        for name in names:
            key_uri = uri.replace({"key": name})
            with contextlib.suppress(*(() if "key" in uri else (KeyUnusable, KeyNotFound, AccessDenied))):
                key, numbers = self._read_numbers(key_uri, OWN_TIMEOUT)
                infos += [key.version(number).info(key_uri) for number in numbers]
        digest = uri.get("spki-sha256")
        return [info for info in infos if digest in (None, info.spki_sha256)]

    def unusable_keys(self, uri: KeyUri) -> list[UnusableKey]:
        """Return the versions older than their key's min_encryption_version, and the keys that may not be read."""
        names = [uri.get("key")] if "key" in uri else self._list_names(uri)
        return [each for name in names for each in self._retired(uri.replace({"key": name}))]

    def _retired(self, uri: KeyUri) -> list[UnusableKey]:
        try:
            with self._session.get().authenticated(OWN_TIMEOUT, "read the key") as client:
                key = _read_key(client, KeyPath.of(uri))
        except AccessDenied as error:
            return [UnusableKey(str(uri), error.message)]
        if key is None or key.type not in transit.TYPES.values():
            return []
        wanted = [each for each in key.retired_numbers() if uri.get("version") in (None, each)]
        reason = "The version is older than the key's min_encryption_version."
        return [UnusableKey(str(uri.replace({"version": str(each)})), reason) for each in wanted]

    def generate(self, uri: KeyUri, spec: KeySpec) -> KeyUri:
        """Create a key, or with `further` its next version, and its certificate if the server can store it."""
        parse_subject(spec.subject)
        path, operation = KeyPath.of(uri), "add a key version" if spec.further else "create the key"
        with self._change(operation) as client:
            permissions.require(
                client, operation, path.required_to_create(further=spec.further, deletable=uri.get("deletion-allowed"))
            )
            version = _create_version(client, path, uri, spec)
            pinned_uri = version.info(uri).uri
            key = VaultKey(self._session.get(), pinned_uri, version.public_key)
            private_key = wrap(version.public_key, lambda *arguments: key.sign(*arguments, timeout=OWN_TIMEOUT))
            with _certifying(uri, version.number):
                _store_certificate(client, path, version.number, [self_signed(private_key, spec.subject, spec.days)])
        return pinned_uri

    def import_key(
        self, uri: KeyUri, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False
    ) -> KeyUri:
        """Import a key, wrapped for the server; its later versions are created on the server."""
        check_chain(chain, key.public_key())
        if key_type(key) not in transit.TYPES:
            raise NotSupported(
                f"Transit does not support the key type {key_type(key)}.", hint=f"Use {', '.join(transit.TYPES)}."
            )
        path = KeyPath.of(uri)
        with self._change("import the key") as client:
            permissions.require(
                client,
                "import the key",
                path.required_to_import(certified=bool(chain), deletable=uri.get("deletion-allowed")),
            )
            if (existing := _read_key(client, path)) is not None:
                raise _key_exists(uri, existing)
            transit.import_key(client, path, key, exportable=exportable)
            _apply_deletion_allowed(client, path, uri)
            if chain:
                with _certifying(uri, 1):
                    _store_certificate(client, path, 1, chain)
        return transit.pinned_uri(uri, 1, spki_sha256(key.public_key()))

    def install_certificate(self, uri: KeyUri, chain: Sequence[Certificate]) -> KeyUri:
        """Store the chain with the version it belongs to. Raises `NotSupported` if the server cannot store it."""
        version, pinned_uri, _ = self._choose_version(uri, chain[0], OWN_TIMEOUT)
        check_chain(chain, version.public_key)
        path = KeyPath.of(uri)
        with self._change("store the certificate") as client:
            try:
                transit.set_certificate(client, path, version.number, chain)
            except InvalidPath:
                raise NotSupported(
                    "This server cannot store certificates with keys.",
                    hint="Add certificate-file= with the certificate's path to the URI.",
                ) from None
        return pinned_uri

    def delete(self, uri: KeyUri) -> None:
        """Delete the key, if this is its only version and the server allows it."""
        self._choose_version(uri, None, OWN_TIMEOUT)
        path = KeyPath.of(uri)
        with self._change("delete the key") as client:
            key = _read_key(client, path)
            if key is not None and key.latest_version > 1:
                raise NotSupported(
                    "Transit cannot delete a single version of a key.",
                    hint=f"Disable it: bao write {path.api_path('config')} min_encryption_version=...",
                )
            try:
                client.secrets.transit.delete_key(path.name, mount_point=path.mount)
            except InvalidRequest as error:
                if "not allowed" not in str(error):
                    raise
                raise AccessDenied(
                    "Deletion is not allowed for this key.",
                    hint=f"To allow it: bao write {path.api_path('config')} deletion_allowed=true",
                ) from error

    def peer(self, uri: KeyUri, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Return a function that posts to transit through urllib3, with the token of the current login."""
        with _IMPORT_GATE:
            from keyvouch_vault.peer import make_peer
        return make_peer(*self._session.get().plain_pool(), uri, algorithm)

    # Shared helpers.

    @contextlib.contextmanager
    def _change(self, operation: str) -> Iterator[Any]:
        """Yield hvac's client for one change at a time: of several concurrent changes, the server fails all but one."""
        with self._change_lock, self._session.get().authenticated(2 * OWN_TIMEOUT, operation) as client:
            yield client

    def _list_names(self, uri: KeyUri) -> list[str]:
        mount, session = uri.get("mount"), self._session.get()
        with session.authenticated(OWN_TIMEOUT, "list keys") as client:
            try:
                names: list[str] = client.secrets.transit.list_keys(mount_point=mount).data_as(KeyNames).keys
            except InvalidPath as error:
                if any(error.errors or []):
                    raise
                return []
        return [name for name in names if is_valid_name(name)]  # import/ holds the server's wrapping key

    def _read_numbers(self, uri: KeyUri, timeout: float, alternative: str = "") -> tuple[TransitKey, list[int]]:
        """Return the key and its versions that match the URI. Raises `KeyNotFound`, `KeyUnusable` if none may sign."""
        path, number = KeyPath.of(uri), uri.get("version")
        with self._session.get().authenticated(timeout, "read the key", alternative) as client:
            key = _read_key(client, path)
        if key is None:
            raise KeyNotFound(
                f"Key not found: {path.name} in {path.mount}.",
                hint=f"List the keys: keyvouch keys --key {uri.replace({'key': None, 'version': None}).quoted}.",
                uri=uri,
            )
        numbers = key.usable_numbers()
        if not numbers:
            raise KeyUnusable(
                f"All versions of the key {path.name} are older than its min_encryption_version.",
                hint=f"Lower it: bao write {path.api_path('config')} min_encryption_version=...",
            )
        matching = [each for each in numbers if number in (None, each)]
        if not matching:
            raise KeyNotFound(
                f"The key {path.name} has no version {number} that may sign.",
                hint=f"Use one of the versions {_listed(numbers)}.",
                uri=uri,
            )
        return key, matching

    def _choose_version(
        self, uri: KeyUri, certificate: Certificate | None, timeout: float
    ) -> tuple[KeyVersion, KeyUri, Any]:
        key, numbers = self._read_numbers(uri, timeout, "Or add version= and certificate-file= to the URI.")
        family = uri.replace({"select": "newest"})
        versions: list[KeyVersion] = []
        infos: list[KeyInfo] = []
        for number in reversed(numbers):
            versions.append(key.version(number))
            infos.append(versions[-1].info(uri))
            if is_decided(family, infos, certificate, newest_first=True):
                break
        try:
            info, settles_at = choose_one(family, infos, certificate)
        except CertificateMismatch as error:
            error.hint = f"Use the certificate of an existing version ({_listed(numbers)}), or remove version=."
            raise
        return versions[infos.index(info)], info.uri, settles_at


def _listed(numbers: list[int]) -> str:
    """Return the numbers as text; if there are many, the last ones."""
    return ", ".join(("...",) * (len(numbers) > _MOST_LISTED) + (*map(str, numbers[-_MOST_LISTED:]),))


def _check_login_attributes(uri: KeyUri) -> None:
    address, method = uri.get("address"), uri.get("auth")
    if not address:
        raise ConfigurationError(
            "Missing server address.", hint="Add address= to the URI, or set BAO_ADDR or VAULT_ADDR."
        )
    if not method:
        raise ConfigurationError(
            "Missing auth method.", hint=f"Add auth= after the `?`, with one of {', '.join(AUTH_METHODS)}."
        )
    required = ("scope",) if method == "jwt" and "profile" in uri else REQUIRED_BY_METHOD[method]
    if missing := [name for name in required if name not in uri]:
        raise ConfigurationError(f"auth={method} requires {', '.join(missing)}.", hint="Add it after the `?`.")
    if method == "none" and not is_loopback(address):
        raise ConfigurationError(
            "auth=none requires a local proxy that logs in itself.", hint="Set address= to its loopback address."
        )


def _read_key(client: Any, path: KeyPath) -> TransitKey | None:
    """Return the key as the server describes it, or None if it does not exist."""
    try:
        return transit.read_key(client, path)
    except InvalidPath as error:
        if any(error.errors or []):  # for a key that does not exist, the server gives no reason
            raise
        return None


def _create_version(client: Any, path: KeyPath, uri: KeyUri, spec: KeySpec) -> KeyVersion:
    """Create a key, or the next version of an existing one."""
    existing = _read_key(client, path)
    if existing is None:
        response = client.secrets.transit.create_key(
            path.name,
            exportable=spec.exportable,
            key_type=transit.TYPES[spec.key_type],
            mount_point=path.mount,
        )
        _apply_deletion_allowed(client, path, uri)
    else:
        _require_rotatable(uri, spec, existing)
        response = client.secrets.transit.rotate_key(path.name, mount_point=path.mount)
    # Older servers return no data.
    return (TransitKey(response) if response.has_data else transit.read_key(client, path)).newest()


def _apply_deletion_allowed(client: Any, path: KeyPath, uri: KeyUri) -> None:
    if uri.get("deletion-allowed"):
        client.secrets.transit.update_key_configuration(path.name, deletion_allowed=True, mount_point=path.mount)


def _require_rotatable(uri: KeyUri, spec: KeySpec, key: TransitKey) -> None:
    if not spec.further or "version" in uri:
        raise _key_exists(uri, key)
    if key.type != transit.TYPES[spec.key_type]:
        existing = next(name for name, transit_type in transit.TYPES.items() if transit_type == key.type)
        raise NotSupported(
            f"Cannot add a version of type {spec.key_type}: the key {uri.get('key')} has the type {existing}.",
            hint=f"Use --key-type {existing}, or another name to create a separate key.",
        )


def _store_certificate(client: Any, path: KeyPath, version: int, chain: Sequence[Certificate]) -> None:
    """Store the certificate of a version that was just created; do nothing if an older server cannot store it."""
    with translate_errors("store the new key's certificate"), contextlib.suppress(InvalidPath):
        transit.set_certificate(client, path, version, chain)


@contextlib.contextmanager
def _certifying(uri: KeyUri, version: int) -> Iterator[None]:
    """Add to an error in the block that the version was created, and how to get one with a certificate."""
    try:
        yield
    except KeyvouchError as error:
        error.hint += f"\nVersion {version} of the key was created, without a certificate. {_finish(uri)}"
        raise


def _finish(uri: KeyUri) -> str:
    whole = uri.replace({"version": None}).quoted
    return (
        f"Create a version with one: keyvouch new --further --key {whole}\n"
        f"Or, if a CA has issued one, store it: keyvouch install FILE --key {whole}"
    )


def _key_exists(uri: KeyUri, key: TransitKey) -> KeyExists:
    name = uri.get("key")
    if key.type in transit.TYPES.values() and not any(key.version(each).chain for each in key.usable_numbers()):
        return KeyExists(f"Key already exists, without a certificate: {name}.", hint=_finish(uri), uri=uri)
    return KeyExists(f"Key already exists: {name}.", hint="Use another name, or add a version: --further.", uri=uri)


def _open_without_reading(session: Session, uri: KeyUri, certificate: Certificate, timeout: float) -> VaultKey:
    """Open a version that may not be read. Raises `CertificateMismatch` if the certificate is another key's."""
    public_key: Any = certificate.public_key()
    kind, digest = key_type(public_key), spki_sha256(public_key)
    pinned_uri = transit.pinned_uri(uri, uri.get("version"), digest)
    choose_one(uri, [KeyInfo(pinned_uri, kind, digest)], certificate)
    key = VaultKey(session, pinned_uri, public_key)
    algorithm = algorithms_for(kind)[0]
    if not verifies(public_key, key.sign(_TEST_MESSAGE, algorithm, timeout=timeout), _TEST_MESSAGE, algorithm):
        raise CertificateMismatch(
            f"The certificate of {certificate.subject.rfc4514_string()} does not match this key version.",
            hint="Correct version=, or use that version's certificate.",
            uri=uri,
        )
    return key
