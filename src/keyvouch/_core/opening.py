"""Open a signer or a store from a URI or a profile.

signer = open_signer("pkcs11:token=prod;object=app?pin-source=env:HSM_PIN")
signer = open_signer("profile:nightly")
with open_store("pfx:/etc/keyvouch/app.pfx") as store:
    print(store.generate(KeySpec(subject="CN=app", days=365)))
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from keyvouch import config
from keyvouch._core import registry
from keyvouch._core.audit import record_audit
from keyvouch._core.connections import CLOSING_TIMEOUT, Deadline, acquire, release
from keyvouch._core.in_use import InUse
from keyvouch._core.signer import Signer
from keyvouch._core.store_faults import require_key, require_type, store_code
from keyvouch._system import forks
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
    PluginBroken,
    PluginMissing,
    SecretRequired,
    StoreUnavailable,
    hidden_frames,
)
from keyvouch.secrets import AccessToken, Secret, SecretResolver
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
    TokenInfo,
)
from keyvouch.uri import KeyUri, parse_uri, redact, scheme_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PrivateKey

log = logging.getLogger("keyvouch")
Capability = TypeVar("Capability")
T = TypeVar("T")

OPEN_TIMEOUT = 30.0
"""Seconds that opening a key may take, including connecting."""
_IMPORTED_EARLY = (
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.asymmetric.padding",
    "cryptography.hazmat.primitives.asymmetric.rsa",
    "cryptography.hazmat.primitives.asymmetric.utils",
    "cryptography.hazmat.primitives.keywrap",
    "cryptography.hazmat.primitives.serialization.pkcs12",
    "cryptography.x509.oid",
    "keyvouch.private_key",
)
CHANGE_TIMEOUT = 120.0
"""Seconds that making or changing a key may take: some tokens need a minute for RSA-4096."""


@hidden_frames()  # a URI may by mistake contain the secret itself
def open_signer(
    uri: str | KeyUri, *, timeout: float = OPEN_TIMEOUT, interactive: bool = False, trusted: bool = True
) -> Signer:
    """Open the key that the URI selects, and check it; `profile:NAME` opens the first usable key of that profile.

    A URI is trusted like code: it names modules, programs and secrets. With `trusted=False` only `profile:NAME` is
    accepted. `interactive` lets `prompt:` ask on the terminal. Raises `ConfigurationError`, `PluginMissing`,
    `KeyNotFound`, `AmbiguousKey`, `SecretRequired`, `SecretIncorrect`, `AccessDenied`, `StoreUnavailable`,
    `KeyUnusable`, `CertificateMismatch`, `KeyChanged`.
    """
    text = str(uri)
    if profile_name := _profile_of(text):
        profile = config.load().profile(profile_name)
        parse_keys(profile, profile_name)
        return open_first(profile.keys, resolver_for(profile, interactive=interactive), timeout=timeout)
    if not trusted:
        raise ConfigurationError(
            "A URI from outside is not opened.", hint="Put it into a profile, and use profile:NAME.", uri=redact(text)
        )
    return open_uri(uri, resolver_for(None, interactive=interactive), timeout=timeout)


@hidden_frames()
def open_store(uri: str | KeyUri, *, interactive: bool = False) -> Store:
    """Open the URI's store: a context manager for all operations besides signing.

    The URI need not select a key if all of them are meant.
    """
    if profile_name := _profile_of(str(uri)):
        profile = config.load().profile(profile_name)
        if not profile.keys:
            raise ConfigurationError(f"The profile {profile_name!r} has no keys.", hint='Add keys = ["scheme:..."].')
        return Store(parse(profile.keys[0]), resolver_for(profile, interactive=interactive))
    return Store(parse(uri), resolver_for(None, interactive=interactive))


def parse(uri: str | KeyUri) -> KeyUri:
    """Parse a URI and complete it with what its store declares. Raises `ConfigurationError`, `PluginMissing`."""
    if isinstance(uri, KeyUri):
        return uri
    if _profile_of(uri):
        raise ConfigurationError("A profile stands where a key belongs.", hint="Write the key's own URI.", uri=uri)
    scheme = scheme_of(uri)
    attributes = registry.store_class(scheme).attributes
    with store_code(scheme):  # calls the attributes' `parse`
        return parse_uri(uri, attributes)


def parse_keys(profile: config.Profile, name: str) -> None:
    """Raise `ConfigurationError` for an invalid key of the profile, naming the profile and the key.

    A standby key whose store is not installed is reported only when that key is needed.
    """
    for number, key in enumerate(profile.keys, 1):
        try:
            parse(key)
        except (PluginMissing, PluginBroken) as error:
            if number == 1:
                error.message = f"In the profile {name!r}, key {number}: {error.message}"
                raise
        except ConfigurationError as error:
            error.message = f"In the profile {name!r}, key {number}: {error.message}"
            raise


def resolver_for(
    profile: config.Profile | None, *, interactive: bool = False, confirm: bool = False, commands: bool = True
) -> SecretResolver:
    """Return a resolver under the profile's rules; without a profile, under the strictest.

    `commands`: False if the references are not the profile's own, so that no program is run. `confirm`: ask a person
    twice, for a secret that will protect something new.
    """
    return SecretResolver(
        interactive=interactive,
        any_reader=profile is not None and profile.permissions == "any",
        commands=profile is not None and commands,
        confirm=confirm,
        sign_in=sign_in,
    )


def sign_in(profile: str, scope: str, timeout: float, **demanded: Any) -> AccessToken:
    """Return a profile's access token for a store that authenticates with it. Raises what a store may raise."""
    _require_no_cycle((profile,))
    # By name, as in keyvouch/__init__.py: it belongs to a higher layer, and is imported only if it is needed.
    with forks.IMPORTS:
        above = importlib.import_module("keyvouch.entra.profile")
    try:
        token: AccessToken = above.access_token(profile, scope, timeout, **demanded)
    except AuthorityUnavailable as error:
        raise StoreUnavailable(f"The profile {profile!r} cannot sign in: {error.message}", hint=error.hint) from error
    except AuthorityRefused as error:
        raise SecretRequired(f"The profile {profile!r} cannot sign in: {error.message}", hint=error.hint) from error
    return token


def _require_no_cycle(path: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` if a key of the last profile, or of one that it needs, needs a profile on the path."""
    for key in config.load().profile(path[-1]).keys:
        with contextlib.suppress(PluginMissing, PluginBroken):  # reported when the key is needed
            uri = parse(key)
            if "profile" not in uri:
                continue
            needed = (*path, str(uri.get("profile")))
            if needed[-1] in path:
                raise ConfigurationError(
                    f"A profile cannot sign in without itself: {' -> '.join(needed)}.",
                    hint="Open the key of one of them in another way.",
                )
            _require_no_cycle(needed)


def open_first(uris: Sequence[str], secrets: SecretResolver, *, timeout: float = OPEN_TIMEOUT) -> Signer:
    """Open the first of these keys that opens, as the errors' `try_next_key` allows; else raise the last error."""
    if not uris:
        raise ConfigurationError("There is no key.", hint='Add keys = ["scheme:..."] to the profile.')
    deadline = Deadline(timeout)
    for position, uri in enumerate(uris[:-1]):
        share = deadline.left() / (len(uris) - position)  # a stalled store leaves time for the next key
        try:
            return open_uri(uri, secrets, timeout=share)
        except KeyvouchError as error:
            if not error.try_next_key:
                raise
            log.warning("A key does not open, going on to the next: %s", error.message)
    return open_uri(uris[-1], secrets, timeout=deadline.left())


def open_uri(uri: str | KeyUri, secrets: SecretResolver, *, timeout: float = OPEN_TIMEOUT) -> Signer:
    """Open the key of this URI, with this resolver's secrets and rules."""
    deadline = Deadline(timeout)
    parsed = parse(uri)
    if missing := parsed.missing_for("open"):
        raise ConfigurationError(
            f"The URI {parsed} does not say which key: {', '.join(missing)} is missing.",
            hint=f"See: keyvouch stores {parsed.scheme}. In a shell, a URI stands in single quotes.",
            uri=parsed,
        )
    import_early()
    connection = acquire(parsed, registry.store_class(parsed.scheme), secrets, timeout=deadline.left())
    try:
        return Signer(connection, parsed, deadline)
    except BaseException as error:
        release(connection)
        if isinstance(error, KeyvouchError):
            error.uri = error.uri or str(parsed)
        raise


@functools.cache
@forks.IMPORTS
def import_early() -> None:
    """Import now, while forks wait, what is otherwise imported when a key is opened, used or made."""
    for name in _IMPORTED_EARLY:
        importlib.import_module(name)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    ec.ECDSA(hashes.SHA256())  # this call imports inside functions too


def _profile_of(text: str) -> str:
    """Return the name in `profile:NAME`; empty for another URI. Raises `ConfigurationError` if the name is missing."""
    if scheme_of(text) != "profile":
        return ""
    name = text.removeprefix("profile:")
    if not name:
        raise ConfigurationError("profile: names no profile.", hint="Write profile:NAME.")
    return name


class Store:
    """An open store, for operations on keys besides signing. Made by `open_store`; close it, or use `with`.

    Operations that the store does not offer raise `NotSupported`, which lists the stores that do. A change is not
    repeated if it may have been carried out, and is recorded on the logger `keyvouch.audit`.
    """

    def __init__(self, uri: KeyUri, secrets: SecretResolver) -> None:
        """Use `open_store` instead."""
        import_early()
        self.uri = uri
        self._connection = acquire(uri, registry.store_class(uri.scheme), secrets)
        self._use = InUse()
        self._given_back = False
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
        """Return the keys that match the URI."""
        lister = self._capable(ListsKeys, "list its keys")
        found = self._call(lambda: lister.keys(self.uri), OPEN_TIMEOUT, repeatable=True)
        return self._checked("keys", found, list, members=KeyInfo)

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
                "The URI names a key that there is already, by spki-sha256.", hint="Take that out.", uri=self.uri
            )
        if missing := self.uri.missing_for("generate"):
            raise ConfigurationError(
                f"The URI {self.uri} lacks {', '.join(missing)}, without which no key is made.",
                hint=f"Add {', '.join(f'{each}=' for each in missing)}: `keyvouch stores {self.uri.scheme}` has what it"
                " means. Did the shell cut the URI at `;` or `&`? Put it in single quotes, in cmd.exe in double ones.",
                uri=self.uri,
            )
        return self._change("generate", lambda: generator.generate(self.uri, spec), KeyUri)

    @hidden_frames()
    def import_key(self, key: PrivateKey, chain: Sequence[Certificate], *, exportable: bool = False) -> KeyUri:
        """Import a key that was made elsewhere and return its pinned URI. Raises `KeyExists`."""
        importer = self._capable(ImportsKeys, "import keys")
        return self._change("import", lambda: importer.import_key(self.uri, key, chain, exportable=exportable), KeyUri)

    @hidden_frames()
    def install_certificate(self, chain: Sequence[Certificate]) -> KeyUri:
        """Store a chain with the key, leaf first; return the URI that identifies the key afterwards.

        Raises `ConfigurationError` if the chain is empty.
        """
        if not chain:
            raise ConfigurationError("There is no certificate to install.", hint="Give the key's own, and its issuers.")
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
        keeper = self._capable(GrantsAccess, "tell who may use a key")
        found = self._call(lambda: keeper.readers(self.uri), OPEN_TIMEOUT, repeatable=True)
        return self._checked("readers", found, list, members=str)

    @hidden_frames()
    def grant(self, account: str) -> None:
        """Allow an account to sign with the key; permissions of others are unchanged."""
        keeper = self._capable(GrantsAccess, "grant access to keys")
        self._change("grant", lambda: keeper.grant(self.uri, account), None)

    @hidden_frames()
    def revoke(self, account: str) -> None:
        """Revoke an account's permission to sign with the key."""
        keeper = self._capable(GrantsAccess, "grant access to keys")
        self._change("revoke", lambda: keeper.revoke(self.uri, account), None)

    @hidden_frames()
    def close(self) -> None:
        """Wait for running calls (10 seconds at most), then release the connection. May be called twice."""
        if self._given_back or not self._close_once.acquire(blocking=False):
            return
        try:
            self._close()
        finally:  # an interrupted caller may call it again
            self._close_once.release()

    def _close(self) -> None:
        self._use.end()
        deadline = Deadline(CLOSING_TIMEOUT)
        while not self._use.over and deadline.left() > 0:
            time.sleep(0.01)
        self._given_back = True
        if self._use.over:
            release(self._connection)
        else:  # a store is not closed during its own call: a native module would not survive it
            log.warning("A store is still used after %.0f seconds, and is left open.", CLOSING_TIMEOUT)

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
            hint=f"These can: {', '.join(able) or 'none'}.",
            uri=self.uri,
        )

    @hidden_frames()
    def require_pinned(self) -> None:
        """Raise `ConfigurationError` if the URI may refer to another key later."""
        pinned = self._call(self._pinned, OPEN_TIMEOUT, repeatable=True)
        if pinned.identity() != self.uri.identity():
            raise ConfigurationError(
                f"{self.uri} does not say for good which key is to be deleted.",
                hint=f"If it is the one that is there now, take {pinned.quoted}",
                uri=self.uri,
            )

    def _pinned(self) -> KeyUri:
        key = self._connection.store.open(self.uri, timeout=OPEN_TIMEOUT)
        require_key(self.uri.scheme, key)
        try:
            return key.uri
        finally:
            key.close()

    def _checked(self, method: str, result: T, expected: type, *, members: type | None = None) -> T:
        require_type(self.uri.scheme, method, result, expected, members=members)
        return result

    def _change(self, event: str, action: Callable[[], T], expected: type | None) -> T:
        """Make a change and record it; the result must have the `expected` type, or is unchecked if that is None."""
        outcome = "done"
        try:
            result = self._call(action, CHANGE_TIMEOUT, repeatable=False)
            return self._checked(event, result, expected) if expected else result
        except KeyvouchError as error:
            outcome = error.code
            error.uri = error.uri or str(self.uri)
            raise
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            record_audit(event, {"uri": str(self.uri), "outcome": outcome})

    def _call(self, action: Callable[[], T], timeout: float, *, repeatable: bool) -> T:
        token = self._use.token
        if token is None:
            raise KeyUnusable("The store is closed.", hint="Open it again, or close it later.", uri=self.uri)
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
