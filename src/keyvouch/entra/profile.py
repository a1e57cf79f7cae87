"""Sign-in with a profile: its keys, authority and token cache."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from typing import Any

import msal
import msgspec

from keyvouch import config
from keyvouch._core import environment, opening
from keyvouch._core.retries import Deadline
from keyvouch._system import forks
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch._system.sockets import ending_within
from keyvouch.config import Profile
from keyvouch.entra.authority import authority_options, require_fields, required_scopes
from keyvouch.entra.cached_token import cache_path
from keyvouch.entra.locked_token_cache import open_token_cache
from keyvouch.entra.msal import ACCESS_TOKEN_TIMEOUT, ConfidentialClient
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    PluginBroken,
    PluginMissing,
    SecretRequired,
    StoreUnavailable,
    hidden_frames,
)
from keyvouch.secrets import AccessToken, SecretResolver


class _Clients:
    """The clients of this process, by configuration file and profile, or by the settings in variables."""

    def __init__(self) -> None:
        self.after_fork()
        self.flights = SingleFlight[ConfidentialClient]()
        forks.watch(self)

    def after_fork(self) -> None:
        """Start with no clients: the parent's connections to the authority belong to the parent."""
        self.by_profile: dict[tuple[str, ...], tuple[Profile, ConfidentialClient]] = {}


_clients = _Clients()


@hidden_frames()
def connect(profile: str | None = None, *, config: str | os.PathLike[str] | None = None) -> ConfidentialClient:
    """Return the client for a profile, signed in.

    By default, the settings are those in the variables `KEYVOUCH_TENANT`, `KEYVOUCH_CLIENT_ID`, `KEYVOUCH_KEY`,
    `KEYVOUCH_SCOPES`, `KEYVOUCH_AUTHORITY`, `KEYVOUCH_CA_FILE`, `KEYVOUCH_ASSERTION_ALGORITHM`,
    `KEYVOUCH_ASSERTION_KID`, `KEYVOUCH_ASSERTION_AUDIENCE` and `KEYVOUCH_ASSERTION_X5T`, with
    `KEYVOUCH_USE_AZURE_VARIABLES=true` also in those of azure-identity; otherwise the profile in `KEYVOUCH_PROFILE`,
    otherwise the only one.

    `config`: the configuration file, instead of the user's or the machine's. Signs in unless a valid token is cached.
    Later calls in the process return the same client, and do nothing while the token is valid; after the profile was
    changed in the file, they return a new client. Raises `ConfigurationError`, and what
    `ConfidentialClient.access_token` raises.
    """
    client = client_of(profile, config_file=config)
    client.access_token()
    return client


def access_token(
    profile: str,
    scope: str,
    timeout: float,
    *,
    cae: bool = False,
    claims: str | None = None,
    renew: bool = False,
) -> AccessToken:
    """Return a profile's access token for this scope; `SecretResolver.access_token` describes the other parameters.

    Raises the same errors as `connect`, and `StoreUnavailable` for claims that cannot be requested.
    """
    if claims:
        _require_valid_claims(claims)
    deadline = Deadline(timeout)
    with ending_within(timeout):  # also bounds discovery
        client = client_of(profile, timeout).variant(cae=cae)
    if renew:
        client.remove_tokens_for_client()
    now = int(time.time())  # before the request, so that the reported expiry is never too late
    found = client.token_result([scope], claims_challenge=claims, timeout=deadline.left())
    return AccessToken(str(found["access_token"]), now + int(found["expires_in"]), found.get("refresh_on"))


def sign_in(profile: str, scope: str, timeout: float, **demanded: Any) -> AccessToken:
    """Return a profile's access token for a store that authenticates with it. Raises what a store may raise."""
    _require_no_cycle((profile,))
    try:
        return access_token(profile, scope, timeout, **demanded)
    except AuthorityUnavailable as error:
        raise StoreUnavailable(f"The profile {profile!r} cannot sign in: {error.message}", hint=error.hint) from error
    except AuthorityRefused as error:
        raise SecretRequired(f"The profile {profile!r} cannot sign in: {error.message}", hint=error.hint) from error


def _require_no_cycle(path: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` if a key of the last profile, or of one that it needs, needs a profile on the path."""
    for key in config.load().profile(path[-1]).keys:
        with contextlib.suppress(PluginMissing, PluginBroken):  # reported when the key is needed
            uri = opening.parse(key)
            if "profile" not in uri:
                continue
            needed = (*path, str(uri.get("profile")))
            if needed[-1] in path:
                raise ConfigurationError(
                    f"Circular sign-in: {' -> '.join(needed)}.",
                    hint="Open the key of one of them in another way.",
                )
            _require_no_cycle(needed)


def _require_valid_claims(claims: str) -> None:
    """Raise `StoreUnavailable` unless a store's claims challenge is a JSON object to which MSAL can add capabilities.

    MSAL would raise various exceptions, which look like the caller's mistake.
    """
    try:
        requested = json.loads(claims)
    except (ValueError, RecursionError):
        requested = None
    if not isinstance(requested, dict) or not isinstance(requested.get("access_token", {}), dict):
        raise StoreUnavailable(
            "Unexpected claims challenge: it is not a JSON object of claims.",
            hint="Try again later. Check that no proxy or gateway modifies the store's responses.",
        )


def client_of(
    profile: str | None,
    timeout: float = ACCESS_TOKEN_TIMEOUT,
    *,
    config_file: str | os.PathLike[str] | None = None,
) -> ConfidentialClient:
    """Return the process's single client for a profile, created on first use, and again after the profile changed.

    A client that was replaced is not closed, since the program may still use it. Waits up to `timeout` seconds while
    another thread creates it. Raises what `ConfidentialClient` raises.
    """
    configuration = config.load(config_file)
    name = configuration.pick(profile)
    profile_id = (str(configuration.path), name, *(environment.variables() if name == environment.NAME else ()))
    current = configuration.profile(name)

    def find_or_make() -> ConfidentialClient:
        made_for, client = _clients.by_profile.get(profile_id, (None, None))
        if client is None or client.closed or made_for != current:
            client = make_client(current, name)
            _clients.by_profile[profile_id] = current, client
        return client

    try:
        return _clients.flights.do(profile_id, find_or_make, timeout=timeout)
    except FlightTimeout:
        raise AuthorityUnavailable("Timed out waiting for the client to be created.", hint="Try again later.") from None


def make_client(
    profile: Profile, name: str, secrets: SecretResolver | None = None, *, has_own_keys: bool = True
) -> ConfidentialClient:
    """Create the client for a profile, without signing anything. `secrets` replaces the profile's own resolver.

    `has_own_keys` is False if the keys are not those of the profile of this name in the configuration.
    """
    require_fields(profile, name, "client_id", "keys", *required_scopes(profile))
    opening.parse_keys(profile, name)
    # As with --key, a variable may not name a program to run.
    secrets = secrets or opening.resolver_for(profile, commands=name != environment.NAME)
    return ConfidentialClient(
        str(profile.client_id),
        keys=profile.keys,
        scopes=profile.scopes,
        ca_file=profile.ca_file,
        proxy=profile.proxy,
        proxy_credentials=functools.partial(secrets.proxy_credentials, profile.proxy_credentials),
        assertion=msgspec.structs.asdict(profile.assertion),
        open_uri=functools.partial(opening.open_uri, secrets=secrets),
        token_cache=_token_cache(profile),
        cae_token_cache=_token_cache(profile, "cae"),
        profile=name if has_own_keys else "",
        **authority_options(profile, name),
    )


def _token_cache(profile: Profile, kind: str = "") -> msal.TokenCache:
    if profile.token_cache == "memory":  # noqa: S105 - not a secret
        return msal.TokenCache()
    # Both caches are in one folder: if it cannot be created, one warning is enough.
    return open_token_cache(functools.partial(cache_path, profile, kind), quiet=bool(kind))
