"""Sign-in with a profile: its keys, authority and token cache."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from typing import Any

import msal
import msgspec

from keyvouch import config
from keyvouch._core import opening
from keyvouch._core.retries import Deadline
from keyvouch._system import forks
from keyvouch._system.single_flight import FlightTimeout, SingleFlight
from keyvouch._system.sockets import ending_within
from keyvouch.config import Profile
from keyvouch.entra.authority import authority_options, require_fields
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
    """The clients of this process, by configuration file and profile."""

    def __init__(self) -> None:
        self.after_fork()
        self.flights = SingleFlight[ConfidentialClient]()
        forks.watch(self)

    def after_fork(self) -> None:
        """Start with no clients: the parent's connections to the authority belong to the parent."""
        self.by_profile: dict[tuple[str, str], ConfidentialClient] = {}


_clients = _Clients()


@hidden_frames()
def connect(profile: str | None = None) -> ConfidentialClient:
    """Return the client for a profile, signed in; by default the profile in `KEYVOUCH_PROFILE`, or the only one.

    Signs in unless a valid token is cached. Later calls in the process return the same client, and do nothing while
    the token is valid. Raises `ConfigurationError`, and what `ConfidentialClient.access_token` raises.
    """
    client = client_of(profile)
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


def client_of(profile: str | None, timeout: float = ACCESS_TOKEN_TIMEOUT) -> ConfidentialClient:
    """Return the process's single client for a profile, created on first use.

    Waits up to `timeout` seconds while another thread creates it. Raises what `ConfidentialClient` raises.
    """
    configuration = config.load()
    name = configuration.pick(profile)
    profile_id = (str(configuration.path), name)

    def find_or_make() -> ConfidentialClient:
        client = _clients.by_profile.get(profile_id)
        if client is None or client.closed:
            client = _clients.by_profile[profile_id] = make_client(configuration.profile(name), name)
        return client

    try:
        return _clients.flights.do(profile_id, find_or_make, timeout=timeout)
    except FlightTimeout:
        raise AuthorityUnavailable("Timed out waiting for the client to be created.", hint="Try again later.") from None


def make_client(profile: Profile, name: str, secrets: SecretResolver | None = None) -> ConfidentialClient:
    """Create the client for a profile, without signing anything. `secrets` replaces the profile's own resolver."""
    require_fields(profile, name, "client_id", "keys", "scopes")
    opening.parse_keys(profile, name)
    secrets = secrets or opening.resolver_for(profile)
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
        **authority_options(profile, name),
    )


def _token_cache(profile: Profile, kind: str = "") -> msal.TokenCache:
    if profile.token_cache == "memory":  # noqa: S105 - not a secret
        return msal.TokenCache()
    # Both caches are in one folder: if it cannot be created, one warning is enough.
    return open_token_cache(functools.partial(cache_path, profile, kind), quiet=bool(kind))
