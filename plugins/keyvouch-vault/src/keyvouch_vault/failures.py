"""Translate the server's errors into keyvouch's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hvac import exceptions
from hvac.exceptions import VaultError

from keyvouch.errors import (
    AccessDenied,
    ConfigurationError,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    SessionLost,
    StoreUnavailable,
    Throttled,
)

_HINTS = {
    "token": "Put a new token there: `bao token create`.",
    "approle": "Make a new secret id for the role, and see that role-id= is the role's.",
    "kubernetes": "Compare the role's bound service accounts, namespaces and audience with this pod's.",
    "jwt": "Compare the role's bound audiences and claims with the JWT's.",
    "cert": "Let the role trust the CA of the client's certificate.",
    "userpass": "Correct username= and the password; several wrong ones lock the user for some minutes.",
    "ldap": "Correct username= and the password.",
    "none": "Let the local proxy log in by itself (`auto_auth`, `api_proxy`).",
}

_LONGEST = 500
"""Maximum length, in characters, of the server's text quoted in an error."""
_LIST = "List what is there: `keyvouch keys`, without key=."
_TOLD: tuple[tuple[type[VaultError], str, type[KeyvouchError], str, str], ...] = (
    (
        exceptions.InvalidPath,
        "namespace not found",
        ConfigurationError,
        "There is no such namespace.",
        "Correct namespace=, or VAULT_NAMESPACE in the environment.",
    ),
    (
        exceptions.InvalidPath,
        "no handler",
        ConfigurationError,
        "Nothing is mounted there: {said}.",
        "Correct mount=, auth-mount= or namespace=.",
    ),
    (
        exceptions.InvalidPath,
        "unsupported path",
        ConfigurationError,
        "What is mounted there cannot do that: {doing}.",
        "Let mount= name a transit engine.",
    ),
    (exceptions.InvalidPath, "", KeyNotFound, "There is no such key.", _LIST),
    (exceptions.InvalidRequest, "key not found", KeyNotFound, "There is no such key.", _LIST),
    (
        exceptions.InternalServerError,
        "version for signing is higher",
        KeyNotFound,
        "The key has no such version.",
        "See its versions: `keyvouch keys`.",
    ),
    (
        exceptions.InternalServerError,
        "less than the minimum",
        KeyUnusable,
        "This version of the key may not sign any more.",
        "Use a newer one, or lower min_encryption_version of the key.",
    ),
    (
        exceptions.InvalidRequest,
        "",
        KeyUnusable,
        "The server refuses {doing}: {said}.",
        "See that the key is of a type that signs.",
    ),
    (
        exceptions.InternalServerError,
        "transaction commit failed",
        Throttled,
        "Another change came first.",
        "Try again.",
    ),
    (exceptions.VaultDown, "sealed", StoreUnavailable, "The server is sealed.", "Unseal it: `bao operator unseal`."),
    (
        exceptions.VaultNotInitialized,
        "",
        StoreUnavailable,
        "The server is not initialised.",
        "Initialise it: `bao operator init`.",
    ),
)
"""hvac's exception class, a part of the server's text, and keyvouch's error, message and hint; the first match wins."""


def words(error: VaultError) -> str:
    """Return the server's text on one line, truncated."""
    said = " ".join(" ".join(error.errors or []).split())
    return said.removeprefix("1 error occurred: * ").rstrip(".")[:_LONGEST]


def is_dead_token(error: VaultError) -> bool:
    """Return whether a 403 is about the token; a 403 from a policy has "1 error occurred" before the same text."""
    if not isinstance(error, exceptions.Forbidden):
        return False
    said = " ".join(" ".join(error.errors or []).split())
    return said == "permission denied" or "invalid token" in said


def policy(path: str, *capabilities: str) -> str:
    """Return the hint with the line that a policy requires."""
    allowed = ", ".join(f'"{each}"' for each in capabilities)
    return f'Let a policy of this log-in say: path "{path}" {{ capabilities = [{allowed}] }}'


@contextlib.contextmanager
def told(doing: str, needs: str = "") -> Iterator[None]:
    """Translate the server's errors in the block into keyvouch's; `needs` is the hint if a policy denies access."""
    try:
        yield
    except VaultError as error:
        raise as_error(error, doing, needs) from error


def as_error(error: VaultError, doing: str, needs: str = "") -> KeyvouchError:
    """Return keyvouch's error for an error response."""
    if is_dead_token(error):
        return SessionLost("The token is not valid any more.", hint="Try again.", performed=False)
    if isinstance(error, exceptions.Forbidden):
        return AccessDenied(f"The server denies {doing}.", hint=needs or "Let a policy of this log-in allow it.")
    said = words(error)
    for kind, part, raised, message, hint in _TOLD:
        if isinstance(error, kind) and part in said:
            return raised(message.format(said=said, doing=doing), hint=hint)
    return StoreUnavailable(
        f"The server fails at {doing}: {said or type(error).__name__}.", hint="See the server's log."
    )


def as_log_in_error(error: VaultError, method: str) -> KeyvouchError:
    """Return keyvouch's error for a log-in that the server refuses."""
    said, hint = words(error), _HINTS[method]
    match error:
        case exceptions.InvalidRequest() | exceptions.Unauthorized():
            if ("role" in said and "secret" not in said) or "configuration" in said:
                return ConfigurationError(
                    f"The server refuses the log-in: {said}.", hint="Correct role= or auth-mount=."
                )
            return SecretIncorrect(f"The server refuses the log-in: {said}.", hint=hint)
        case exceptions.Forbidden() if method == "token":
            return SecretIncorrect("The server refuses the token.", hint=hint)
        case exceptions.Forbidden():
            return AccessDenied(
                f"The server denies the log-in: {said}.",
                hint=f"Is that log-in mounted, at auth-mount= and in namespace=? {hint}",
            )
    return as_error(error, "the log-in")
