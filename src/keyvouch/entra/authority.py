"""A profile's authority and cached token, without importing MSAL."""

from __future__ import annotations

from pathlib import Path

from keyvouch.config import CLOUDS, Profile
from keyvouch.entra import token_cache
from keyvouch.errors import ConfigurationError


def authority_options(profile: Profile, name: str) -> dict[str, object]:
    """Return MSAL's options for the authority to sign in to.

    An `authority` with a tenant has Entra ID's URL form; without one it is an OpenID Connect issuer.
    """
    if profile.authority and not profile.tenant:
        return {"oidc_authority": profile.authority.rstrip("/")}
    require(profile, name, "tenant")
    base = profile.authority or CLOUDS[profile.cloud]
    # MSAL knows Microsoft's clouds; do not ask Microsoft about a private authority.
    return {"authority": f"{base.rstrip('/')}/{profile.tenant}", "instance_discovery": not profile.authority}


def require(profile: Profile, name: str, *fields: str) -> None:
    """Raise `ConfigurationError` if the profile lacks one of these fields."""
    examples = {"keys": 'keys = ["scheme:..."]', "scopes": 'scopes = ["https://graph.microsoft.com/.default"]'}
    for field in fields:
        if not getattr(profile, field):
            spelled = field.replace("_", "-")
            example = examples.get(field, f'{spelled} = "..."')
            if not name:
                option = spelled.removesuffix("s")
                raise ConfigurationError(f"There is no {option}.", hint=f"Give --{option}, or use a profile.")
            raise ConfigurationError(f"The profile {name!r} has no {spelled}.", hint=f"Add {example}.")


def cache_location(profile: Profile, kind: str = "") -> Path:
    """Return the path of the profile's token cache, or of the cache for a separate `kind` of tokens."""
    identity = (profile.authority or CLOUDS[profile.cloud], profile.tenant or "", str(profile.client_id))
    return token_cache.location(*identity, *filter(None, [kind]))


def cached_token(profile: Profile, name: str) -> str | None:
    """Return a valid token from the profile's cache, without accessing keys or the authority."""
    require(profile, name, "client_id", "scopes")
    if profile.token_cache == "memory":  # noqa: S105 - a place
        return None
    try:
        place = cache_location(profile)
    except ConfigurationError:  # no home folder: no cache
        return None
    return token_cache.find_token(place, str(profile.client_id), profile.scopes)
