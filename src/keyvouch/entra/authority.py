"""MSAL's options for a profile's authority, without importing MSAL."""

from __future__ import annotations

from keyvouch._core import environment
from keyvouch.config import CLOUDS, Profile
from keyvouch.errors import ConfigurationError


def authority_options(profile: Profile, name: str) -> dict[str, object]:
    """Return MSAL's options for the authority to sign in to.

    An `authority` with a tenant has Entra ID's URL form; without one it is an OpenID Connect issuer.
    """
    if is_issuer(profile):
        return {"oidc_authority": str(profile.authority).rstrip("/")}
    require_fields(profile, name, "tenant")
    base = profile.authority or CLOUDS[profile.cloud]
    # MSAL knows Microsoft's clouds; do not ask Microsoft about a private authority.
    return {"authority": f"{base.rstrip('/')}/{profile.tenant}", "instance_discovery": not profile.authority}


def is_issuer(profile: Profile) -> bool:
    """Return True if the profile's authority is an OpenID Connect issuer, not Entra ID or a server of its form."""
    return bool(profile.authority and not profile.tenant)


def required_scopes(profile: Profile) -> tuple[str, ...]:
    """Return the name of the field `scopes` if it is required: an issuer may grant scopes by default."""
    return () if is_issuer(profile) else ("scopes",)


def require_fields(profile: Profile, name: str, *fields: str) -> None:
    """Raise `ConfigurationError` if the profile lacks one of these fields."""
    other_server = """; for a server that is not Microsoft's, authority = "https://..." with its issuer"""
    if profile.authority:
        other_server = "; for an OpenID Connect issuer, leave out the tenant (--tenant)"
    examples = {
        "keys": 'keys = ["scheme:..."]',
        "scopes": f'scopes = ["https://graph.microsoft.com/.default"] for Entra ID{other_server}',
        "tenant": f'tenant = "..." for Entra ID{other_server}',
    }
    for field in fields:
        if not getattr(profile, field):
            spelled = field.replace("_", "-")
            if name == environment.NAME:
                raise environment.missing(spelled)
            example = examples.get(field, f'{spelled} = "..."')
            if not name:
                option = spelled.removesuffix("s")
                other = " (for a server that is not Microsoft's, --authority)" if field in ("tenant", "scopes") else ""
                if profile.authority and other:
                    other = " (for an OpenID Connect issuer, leave out --tenant)"
                raise ConfigurationError(
                    f"Missing option --{option}.",
                    hint=f"Pass --{option}{other}, set {environment.VARIABLES[spelled]}, or use a profile.",
                )
            raise ConfigurationError(f"The profile {name!r} has no {spelled}.", hint=f"Add {example}.")
