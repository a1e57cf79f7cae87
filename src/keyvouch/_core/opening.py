"""Open a signer from a URI or a profile.

signer = open_signer("pkcs11:token=prod;object=app?pin-source=env:HSM_PIN")
signer = open_signer("profile:nightly")
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Sequence
from typing import Any, TypeVar

from keyvouch import config
from keyvouch._core import environment, registry
from keyvouch._core.connections import acquire, release
from keyvouch._core.retries import Deadline
from keyvouch._core.signer import Signer
from keyvouch._core.store_faults import store_code
from keyvouch._core.uri_mistakes import several_uris, unknown_scheme
from keyvouch._formats.text_encodings import decode
from keyvouch._secrets.key_bytes import forget_key, keep_key
from keyvouch._secrets.redaction import redact
from keyvouch._system import forks
from keyvouch.errors import (
    ConfigurationError,
    KeyvouchError,
    PluginBroken,
    PluginMissing,
    hidden_frames,
)
from keyvouch.secrets import AccessToken, Secret, SecretResolver
from keyvouch.uri import KeyUri, parse_uri, scheme_of

log = logging.getLogger("keyvouch")
SignerClass = TypeVar("SignerClass", bound=Signer)

OPEN_TIMEOUT = 30.0
"""Seconds that opening a key may take, including connecting."""


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
    if name := profile_name(uri):
        profile = config.load().profile(name)
        keys = parse_keys(profile, name)
        return open_first(keys, resolver_for(profile, interactive=interactive), timeout=timeout)
    if not trusted:
        raise ConfigurationError(
            "Cannot open a key's URI with trusted=False.",
            hint="Add the URI to a profile, and open profile:NAME.",
            uri=redact(str(uri)),
        )
    return open_uri(uri, resolver_for(None, interactive=interactive), timeout=timeout)


@hidden_frames()
def load_signer(data: bytes, *, password: str | Secret | None = None) -> Signer:
    """Open a key that the program already has: the bytes of a PFX, PEM or JWK, also in base64, with its certificates.

    The password, if any, is used only for this key. As long as the signer exists, its `uri` opens the key in this
    process and its forked children. Raises what `open_signer` raises.
    """
    secret = Secret(password) if isinstance(password, str) else password
    name = keep_key(bytes(data), secret)
    scheme = "pfx" if decode(data)[:1] == b"\x30" else "pem"
    try:
        signer = open_signer(f"{scheme}:memory:{name}")
    except BaseException:
        forget_key(name)
        raise
    weakref.finalize(signer, forget_key, name)
    return signer


def parse(uri: str | KeyUri) -> KeyUri:
    """Parse a URI and complete it with what its store declares. Raises `ConfigurationError`, `PluginMissing`."""
    if isinstance(uri, KeyUri):
        return uri if uri.store_class else parse(uri.reveal())  # one that was parsed without its store
    scheme = scheme_of(uri)
    if mistake := several_uris(uri):
        raise mistake
    if scheme == "profile":
        raise ConfigurationError("Expected the URI of a key, got a profile.", hint="Write the key's own URI.", uri=uri)
    try:
        store_class = registry.store_class(scheme)
    except PluginMissing:
        if mistake := unknown_scheme(uri):
            raise mistake from None
        raise
    with store_code(scheme):  # calls the attributes' `parse`
        return parse_uri(uri, store_class.attributes, scheme=scheme, store_class=store_class)


def parse_keys(profile: config.Profile, name: str) -> list[str | KeyUri]:
    """Return the profile's keys, parsed. Raises `ConfigurationError` for an invalid one, naming profile and key.

    A standby key whose store is not installed stays text: that is reported only when the key is needed.
    """
    keys: list[str | KeyUri] = []
    for number, key in enumerate(profile.keys, 1):
        try:
            keys.append(_not_opened_with(name, parse(key)))
        except (PluginMissing, PluginBroken) as error:
            if number == 1:
                error.message = f"{_key_name(name, number)}: {error.message}"
                raise
            keys.append(key)
        except ConfigurationError as error:
            error.message = f"{_key_name(name, number)}: {error.message}"
            raise
    return keys


def _not_opened_with(name: str, key: KeyUri) -> KeyUri:
    """Return the key. Raises `ConfigurationError` if its store is opened with the profile that contains it."""
    if "profile" in key and key.get("profile") == name:
        raise ConfigurationError(
            f"the key is opened with the profile itself, profile={name}.",
            hint="Name another profile, whose key is in another store.",
        )
    return key


def _key_name(name: str, number: int) -> str:
    return environment.VARIABLES["keys"] if name == environment.NAME else f"Profile {name!r}, key {number}"


def resolver_for(
    profile: config.Profile | None, *, interactive: bool = False, confirm: bool = False, commands: bool | None = None
) -> SecretResolver:
    """Return the resolver for the secrets of a profile's keys, under its rules; without a profile, for a URI's.

    `commands` allows `command:`; by default only a profile does, since a URI may come from elsewhere.
    """
    return SecretResolver(
        interactive=interactive,
        any_reader=profile is not None and profile.permissions == "any",
        commands=profile is not None if commands is None else commands,
        confirm=confirm,
        sign_in=_sign_in,
    )


def _sign_in(profile: str, scope: str, timeout: float, **demanded: Any) -> AccessToken:
    """Return a profile's access token, for a store that authenticates with it."""
    # The only import of a higher layer: a store may authenticate with a profile, whose key is in another store.
    with forks.IMPORTS:
        from keyvouch.entra.profile import sign_in
    return sign_in(profile, scope, timeout, **demanded)


def open_first(uris: Sequence[str | KeyUri], secrets: SecretResolver, *, timeout: float = OPEN_TIMEOUT) -> Signer:
    """Open the first of these keys that opens, as the errors' `try_next_key` allows; else raise the last error."""
    if not uris:
        raise ConfigurationError("The profile has no keys.", hint='Add keys = ["scheme:..."] to the profile.')
    deadline = Deadline(timeout)
    for position, uri in enumerate(uris[:-1]):
        share = deadline.left() / (len(uris) - position)  # a stalled store leaves time for the next key
        try:
            return open_uri(uri, secrets, timeout=share)
        except KeyvouchError as error:
            if not error.try_next_key:
                raise
            log.warning("Cannot open a key, trying the next one: %s", error)
    return open_uri(uris[-1], secrets, timeout=deadline.left())


def open_uri(uri: str | KeyUri, secrets: SecretResolver, *, timeout: float = OPEN_TIMEOUT) -> Signer:
    """Open the key of this URI, with this resolver's secrets and rules."""
    return open_as(Signer, uri, secrets, timeout=timeout)


def open_as(
    signer_class: type[SignerClass], uri: str | KeyUri, secrets: SecretResolver, *, timeout: float = OPEN_TIMEOUT
) -> SignerClass:
    """Like `open_uri`, with a signer of this class."""
    deadline = Deadline(timeout)
    parsed = parse(uri)
    _require_attributes(parsed)
    import_early()
    connection = acquire(parsed, secrets, timeout=deadline.left())
    try:
        return signer_class(connection, parsed, deadline)
    except BaseException as error:
        release(connection)
        if isinstance(error, KeyvouchError):
            error.uri = error.uri or str(parsed)
        raise


def require_complete(uri: KeyUri) -> None:
    """Raise `ConfigurationError` if the URI lacks what opening its key requires. This connects to nothing."""
    _require_attributes(uri)
    release(acquire(uri, resolver_for(None)))


def _require_attributes(uri: KeyUri) -> None:
    if missing := uri.missing_for("open"):
        raise ConfigurationError(
            f"The URI {uri} is incomplete: missing {', '.join(missing)}.",
            hint=f"{uri.hint_for_missing(missing)} In a shell, put the URI in single quotes.",
            uri=uri,
        )


@functools.cache
@forks.IMPORTS
def import_early() -> None:
    """Import now, while forks wait, what is otherwise imported when a key is opened, used or made."""
    if forks.process.never_forks:
        return
    import random  # noqa: F401 - as all of these: loaded for later

    import cryptography.exceptions
    import cryptography.hazmat.primitives.asymmetric.ed25519
    import cryptography.hazmat.primitives.asymmetric.padding
    import cryptography.hazmat.primitives.asymmetric.rsa
    import cryptography.hazmat.primitives.asymmetric.utils
    import cryptography.hazmat.primitives.keywrap
    import cryptography.hazmat.primitives.serialization.pkcs12
    import cryptography.x509.oid  # noqa: F401 - loaded for later
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    import keyvouch.private_key  # noqa: F401

    ec.ECDSA(hashes.SHA256())  # this call imports inside functions too


def is_profile(uri: str) -> bool:
    """Return True for `profile:NAME`."""
    return uri.partition(":")[0].lower() == "profile" and ":" in uri


def profile_name(uri: str | KeyUri) -> str:
    """Return the name in `profile:NAME`; empty for a key's URI. Raises `ConfigurationError` if the name is missing."""
    if isinstance(uri, KeyUri) or not is_profile(uri):
        return ""
    scheme_of(uri)  # reports control characters
    name = uri.partition(":")[2]
    if not name:
        raise ConfigurationError("The name of the profile is missing.", hint="Write profile:NAME.")
    return name
