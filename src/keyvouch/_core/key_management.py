"""Management of keys: list, make, import and delete them, install certificates, grant access.

with open_store("pfx:/etc/keyvouch/app.pfx") as store:
    print(store.generate(KeySpec(subject="CN=app", days=365)))
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from keyvouch import config
from keyvouch._core import listing, registry
from keyvouch._core.audit import record_audit
from keyvouch._core.certificate_file import CertificateFile
from keyvouch._core.connections import CLOSING_TIMEOUT, acquire, release
from keyvouch._core.opening import OPEN_TIMEOUT, import_early, parse, profile_name, resolver_for
from keyvouch._core.retries import Deadline
from keyvouch._core.store_faults import require_key, require_type
from keyvouch._system import forks
from keyvouch._system.in_use import InUse
from keyvouch._system.not_picklable import NotPicklable
from keyvouch.certificate import spki_sha256
from keyvouch.errors import ConfigurationError, KeyUnusable, KeyvouchError, NotSupported, hidden_frames
from keyvouch.secrets import Secret, SecretResolver
from keyvouch.store import (
    DeletesKeys,
    ExportsKeys,
    GeneratesKeys,
    GrantsAccess,
    HoldsCertificates,
    ImportsKeys,
    KeyInfo,
    KeySpec,
    ListsKeys,
    ListsTokens,
    ListsUnusableKeys,
    Schedule,
    TokenInfo,
    UnusableKey,
)
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey

log = logging.getLogger("keyvouch")
Capability = TypeVar("Capability")
T = TypeVar("T")

CHANGE_TIMEOUT = 120.0
"""Seconds that making or changing a key may take: some tokens need a minute for RSA-4096."""


@hidden_frames()
def open_store(uri: str | KeyUri, *, interactive: bool = False) -> Store:
    """Open the URI's store: a context manager for all operations besides signing.

    The URI need not select a key if all of them are meant.
    """
    if name := profile_name(uri):
        profile = config.load().profile(name)
        if not profile.keys:
            raise ConfigurationError(
                f"The profile {name!r} has no keys.", hint='Add keys = ["scheme:..."] to the profile.'
            )
        return Store(parse(profile.keys[0]), resolver_for(profile, interactive=interactive))
    return Store(parse(uri), resolver_for(None, interactive=interactive))


class Store(NotPicklable):
    """An open store, for operations on keys besides signing. Made by `open_store`; close it, or use `with`.

    Operations that the store does not offer raise `NotSupported`, which lists the stores that do. A change is not
    repeated if it may have been carried out, and is recorded on the logger `keyvouch.audit`.
    """

    pickle_hint = "Pass its uri, and call keyvouch.open_store in the other process."

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        """Use `open_store` instead."""
        import_early()
        self.uri = uri
        self._connection = acquire(uri, secrets)
        self._use = InUse()
        self._released = False
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        """Discard, in a child, the calls of the parent's threads."""
        self._close_once = threading.Lock()
        closed = self._use.token is None
        self._use = InUse()
        if closed:
            self._use.end()

    @hidden_frames()
    def keys(self) -> list[KeyInfo]:
        """Return the keys that match the URI, with the certificates of its `certificate-file`, if it has one."""
        lister = self._capable(ListsKeys, "list its keys")
        found = self._call(lambda: lister.keys(self.uri), OPEN_TIMEOUT, repeatable=True)
        checked = self._checked("keys", found, list, members=KeyInfo)
        return listing.with_certificates(checked, CertificateFile(self.uri).read())

    @hidden_frames()
    def unusable_keys(self) -> list[UnusableKey]:
        """Return what `keys` leaves out, with the reason; an empty list if the store does not know."""
        store = self._connection.store
        if not isinstance(store, ListsUnusableKeys):
            return []
        found = self._call(lambda: store.unusable_keys(self.uri), OPEN_TIMEOUT, repeatable=True)
        return self._checked("unusable_keys", found, list, members=UnusableKey)

    @hidden_frames()
    def schedule(self, infos: Sequence[KeyInfo]) -> Schedule:
        """Return which of these keys the URI selects now, and which one later; raises nothing if it selects none."""
        if self.uri.selects_no_key:
            return Schedule()
        try:
            leaves = CertificateFile(self.uri).read()
            opened = self._call(lambda: self._opened(leaves[0] if leaves else None), OPEN_TIMEOUT, repeatable=True)
        except KeyvouchError:
            return Schedule()
        return listing.schedule(self.uri, infos, *opened)

    def _opened(self, leaf: Certificate | None) -> tuple[str, dt.datetime | None]:
        """Return the digest of the public key that the URI opens, and when it will open another one."""
        key = self._connection.store.open(self.uri, leaf, timeout=OPEN_TIMEOUT)
        require_key(self.uri.scheme, key)
        try:
            return spki_sha256(key.public_key), key.settles_at
        finally:
            key.close()

    @hidden_frames()
    def tokens(self) -> list[TokenInfo]:
        """Return the tokens that match the URI; an empty list if the store has no tokens."""
        store = self._connection.store
        if not isinstance(store, ListsTokens):
            return []
        found = self._call(lambda: store.tokens(self.uri), OPEN_TIMEOUT, repeatable=True)
        return self._checked("tokens", found, list, members=TokenInfo)

    @hidden_frames()
    def generate(self, spec: KeySpec) -> KeyUri:
        """Make a key and return its pinned URI. Raises `KeyExists`, and `ConfigurationError` for an unsuitable URI."""
        generator = self._capable(GeneratesKeys, "make keys")
        if "spki-sha256" in self.uri:
            raise ConfigurationError(
                "The URI identifies an existing key: it contains spki-sha256.",
                hint="Remove spki-sha256 to make a new key.",
                uri=self.uri,
            )
        if missing := self.uri.missing_for("generate"):
            raise ConfigurationError(
                f"Making a key requires {', '.join(missing)} in the URI {self.uri}.",
                hint=f"Add {', '.join(f'{each}=' for each in missing)}; see `keyvouch stores {self.uri.scheme}`."
                " If the shell cut the URI at `;` or `&`, put it in single quotes; in cmd.exe, in double quotes.",
                uri=self.uri,
            )
        return self._change("generate", lambda: generator.generate(self.uri, spec), KeyUri)

    @hidden_frames()
    def import_key(self, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False) -> KeyUri:
        """Import a key that was made elsewhere and return its pinned URI. Raises `KeyExists`.

        Raises `NotSupported` for an RSASSA-PSS key if the store cannot keep its parameters: only files can.
        """
        importer = self._capable(ImportsKeys, "import keys")
        self._require_parameters_kept(key)
        return self._change("import", lambda: importer.import_key(self.uri, key, chain, exportable=exportable), KeyUri)

    @hidden_frames()
    def install_certificate(self, chain: Sequence[Certificate]) -> KeyUri:
        """Store a chain with the key, leaf first; return the URI that identifies the key afterwards.

        Raises `ConfigurationError` if the chain is empty.
        """
        if not chain:
            raise ConfigurationError(
                "No certificates to install.", hint="Pass the key's certificate, followed by its issuers'."
            )
        holder = self._capable(HoldsCertificates, "hold certificates")
        return self._change("install", lambda: holder.install_certificate(self.uri, chain), KeyUri)

    @hidden_frames()
    def export_pfx(self, password: Secret) -> bytes:
        """Return the key and its chain as PKCS#12."""
        exporter = self._capable(ExportsKeys, "export keys")
        return self._change("export", lambda: exporter.export_pfx(self.uri, password), bytes)

    @hidden_frames()
    def delete(self) -> None:
        """Delete the key of the pinned URI. Raises `ConfigurationError` if the URI may refer to another key later."""
        deleter = self._capable(DeletesKeys, "delete keys")
        self.require_pinned()
        self._change("delete", lambda: deleter.delete(self.uri), None)

    @hidden_frames()
    def readers(self) -> list[str]:
        """Return the accounts that may sign with the key."""
        keeper = self._capable(GrantsAccess, "list who may use a key")
        found = self._call(lambda: keeper.readers(self.uri), OPEN_TIMEOUT, repeatable=True)
        return self._checked("readers", found, list, members=str)

    @hidden_frames()
    def grant(self, account: str) -> None:
        """Allow an account to sign with the key, or with all keys of the `family`; others' permissions are kept."""
        keeper = self._capable(GrantsAccess, "grant access to keys")
        for uri in self.family():
            self._change("grant", functools.partial(keeper.grant, uri, account), None, uri)

    @hidden_frames()
    def revoke(self, account: str) -> None:
        """Revoke an account's permission to sign with the key, or with all keys of the `family`."""
        keeper = self._capable(GrantsAccess, "grant access to keys")
        for uri in self.family():
            self._change("revoke", functools.partial(keeper.revoke, uri, account), None, uri)

    @hidden_frames()
    def family(self) -> list[KeyUri]:
        """Return the pinned URIs of the keys that `select=newest` selects now or later: those that have not expired.

        A URI without `select`, or whose keys have all expired, is returned as it is.
        """
        if "select" not in self.uri:
            return [self.uri]
        now = dt.datetime.now(dt.UTC)
        members = [info.uri for info in self.keys() if info.not_after is None or now <= info.not_after]
        return members or [self.uri]

    @hidden_frames()
    def close(self) -> None:
        """Wait for running calls (10 seconds at most), then release the connection. May be called twice."""
        if self._released or not self._close_once.acquire(blocking=False):
            return
        try:
            self._close()
        finally:  # an interrupted caller may call it again
            self._close_once.release()

    def _close(self) -> None:
        self._use.end()
        deadline = Deadline(CLOSING_TIMEOUT)
        while not self._use.has_ended and deadline.left() > 0:
            time.sleep(0.01)
        self._released = True
        if self._use.has_ended:
            release(self._connection)
        else:  # a store is not closed during its own call: a native module would not survive it
            log.warning("A store is still in use after %.0f seconds; it is not closed.", CLOSING_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _capable(self, capability: type[Capability], what: str) -> Capability:
        store = self._connection.store
        if isinstance(store, capability):
            return store
        able = [name for name in _loadable_schemes() if issubclass(registry.store_class(name), capability)]
        raise NotSupported(
            f"The store {self.uri.scheme}: cannot {what}.",
            hint=f"Stores that can: {', '.join(able) or 'none'}.",
            uri=self.uri,
        )

    @hidden_frames()
    def require_pinned(self) -> None:
        """Raise `ConfigurationError` if the URI may refer to another key later."""
        pinned = self._call(self._pinned, OPEN_TIMEOUT, repeatable=True)
        if pinned.identity() != self.uri.identity():
            raise ConfigurationError(
                f"The URI {self.uri} is not pinned: it may refer to another key later.",
                hint=f"To delete the key that it refers to now, use {pinned.quoted}",
                uri=self.uri,
            )

    def _pinned(self) -> KeyUri:
        key = self._connection.store.open(self.uri, timeout=OPEN_TIMEOUT)
        require_key(self.uri.scheme, key)
        try:
            return key.uri
        finally:
            key.close()

    def _require_parameters_kept(self, key: PrivateKey) -> None:
        from keyvouch.stores.file import FileStore
        from keyvouch.stores.pss_keys import PssPrivateKey

        if isinstance(key, PssPrivateKey) and not isinstance(self._connection.store, FileStore):
            names = ", ".join(algorithm.name for algorithm in key.algorithms)
            raise NotSupported(
                f"Cannot import an RSASSA-PSS key: {self.uri.scheme}: cannot limit it to the algorithms that it allows"
                f" ({names}).",
                hint="Make a new key there: `keyvouch new`. An RSASSA-PSS key can be imported into pfx: and pem:.",
                uri=self.uri,
            )

    def _checked(self, method: str, result: T, expected: type, *, members: type | None = None) -> T:
        require_type(self.uri.scheme, method, result, expected, members=members)
        return result

    def _change(self, event: str, action: Callable[[], T], expected: type | None, changed: KeyUri | None = None) -> T:
        """Make a change and record it; the result must have the `expected` type, or is unchecked if that is None.

        `changed` is the URI of the key, if it is not the store's.
        """
        outcome, uri = "done", str(changed or self.uri)
        try:
            result = self._call(action, CHANGE_TIMEOUT, repeatable=False)
            return self._checked(event, result, expected) if expected else result
        except KeyvouchError as error:
            outcome = error.code
            error.uri = error.uri or uri
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            record_audit(event, {"uri": uri, "outcome": outcome})

    def _call(self, action: Callable[[], T], timeout: float, *, repeatable: bool) -> T:
        token = self._use.token
        if token is None:
            raise KeyUnusable(
                "The store is closed.", hint="Open a new one, or close this one after its last use.", uri=self.uri
            )
        try:
            return self._connection.call(lambda _: action(), Deadline(timeout), repeatable=repeatable)[0]
        finally:
            del token  # a library may keep an exception, and with it this frame


def _loadable_schemes() -> list[str]:
    schemes = []
    for plugin in registry.plugins():
        with contextlib.suppress(ConfigurationError):  # one bad plugin must not make the others fail
            registry.store_class(plugin.scheme)
            schemes.append(plugin.scheme)
    return schemes
