"""Errors about the attributes of a URI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keyvouch._secrets.redaction import redact
from keyvouch.errors import ConfigurationError


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known attribute that is most like the name; None if none is similar enough."""
    import difflib

    found = difflib.get_close_matches(name, [each for each in known if each != "*"], n=1, cutoff=cutoff)
    return found[0] if found else None


def unknown_attribute(name: str, known: Mapping[str, bool], *, query: bool) -> ConfigurationError:
    """Return the error for a name that the store does not declare; `name` is empty if it may be a secret.

    `known`: for each name whether it belongs after the `?`; `query`: whether this one is there. A name on the other
    side is suggested only if it is hardly different.
    """
    names = list(known)
    side = "after" if query else "before"
    here = [each for each in names if known[each] == query]
    nearest = nearest_name(name, here, cutoff=0.65) or nearest_name(name, names, cutoff=0.8)
    hint = f'Did you mean "{nearest}"?' if nearest else f"Known attributes {side} the `?`: {', '.join(here)}."
    if not name:  # it may be a secret, or the end of one
        return ConfigurationError("Expected name=value in every part of the URI.", hint=hint)
    return ConfigurationError(f'Unknown attribute "{redact("?" + name)[1:]}".', hint=hint)


def misplaced_attribute(name: str, *, query: bool) -> ConfigurationError:
    """Return the error for an attribute on the wrong side of the `?`; `query` is True if it belongs after it."""
    side = "after" if query else "before"
    return ConfigurationError(
        f'The attribute "{name}" must come {side} the `?`.', hint=f"Move it {side} the `?` of the URI."
    )


def secret_attribute(name: str, reference: str | None) -> ConfigurationError:
    """Return the error for a name that suggests a secret; `reference` is the attribute that refers to one."""
    instead = f", and write {reference}=env:NAME or {reference}=file:/path" if reference else ""
    return ConfigurationError(
        f'Unsupported attribute "{name}": a URI must not contain a secret.',
        hint=f"Remove {name}=. Store the secret elsewhere{instead}.",
    )
