"""Translate the server's errors into keyvouch's."""

from __future__ import annotations

import contextlib
import re
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

_LOGIN_HINTS = {
    "token": "Create a new token, `bao token create`, and store it at the location that token= names.",
    "approle": "Create a new secret ID for the role, and check that role-id= is the role's.",
    "kubernetes": "Compare the role's bound service accounts, namespaces and audience with the pod's.",
    "jwt": "Compare the role's bound audiences and claims with the JWT's.",
    "cert": "Add the CA of the client certificate to the role's trusted certificates.",
    "userpass": "Correct username= and the password. Several wrong passwords lock the user for some minutes.",
    "ldap": "Correct username= and the password.",
    "none": "Configure the local proxy to log in itself (`auto_auth`, `api_proxy`).",
}

_MAX_TEXT_LENGTH = 500
"""Maximum length, in characters, of the server's text quoted in an error."""
_LIST_KEYS = "List the keys: `keyvouch keys`, without key=."
_TRANSLATIONS: tuple[tuple[type[VaultError], str, type[KeyvouchError], str, str], ...] = (
    (
        exceptions.InvalidPath,
        "namespace not found",
        ConfigurationError,
        "Namespace not found.",
        "Correct namespace=, or BAO_NAMESPACE or VAULT_NAMESPACE in the environment.",
    ),
    (
        exceptions.InvalidPath,
        "no handler",
        ConfigurationError,
        "Nothing is mounted at this path: {reason}.",
        "Correct mount=, auth-mount= or namespace=.",
    ),
    (
        exceptions.InvalidPath,
        "unsupported path",
        ConfigurationError,
        "Cannot {operation}: the engine at this mount path does not support it.",
        "Set mount= to the mount path of a transit engine.",
    ),
    (exceptions.InvalidPath, "", KeyNotFound, "Key not found: {reason}.", _LIST_KEYS),
    (exceptions.InvalidRequest, "key not found", KeyNotFound, "Key not found.", _LIST_KEYS),
    (
        exceptions.InternalServerError,
        "version for signing is higher",
        KeyNotFound,
        "Key version not found.",
        "List the versions: `keyvouch keys`.",
    ),
    (
        exceptions.InternalServerError,
        "less than the minimum",
        KeyUnusable,
        "The key version is older than the key's min_encryption_version.",
        "Use a newer version, or lower min_encryption_version.",
    ),
    (
        exceptions.InvalidRequest,
        "",
        KeyUnusable,
        "Cannot {operation}: {reason}.",
        "Check that the key's type can sign.",
    ),
    (
        exceptions.InternalServerError,
        "transaction commit failed",
        Throttled,
        "Cannot {operation}: it conflicts with another change.",
        "Try again.",
    ),
    (exceptions.VaultDown, "sealed", StoreUnavailable, "The server is sealed.", "Unseal it: `bao operator unseal`."),
    (
        exceptions.VaultNotInitialized,
        "",
        StoreUnavailable,
        "The server is not initialized.",
        "Initialize it: `bao operator init`.",
    ),
)
"""hvac's exception class, a part of the server's text, and keyvouch's error, message and hint; the first match wins."""


def _text_of(error: VaultError) -> str:
    """Return the server's text on one line."""
    return " ".join(" ".join(error.errors or []).split())


def _reason_of(error: VaultError) -> str:
    """Return the server's text, truncated, for use at the end of a sentence; it may have given none."""
    text = _text_of(error).removeprefix("1 error occurred: * ").rstrip(".")
    return text[:_MAX_TEXT_LENGTH] or f"the server gave no reason ({type(error).__name__})"


def is_invalid_token(error: VaultError) -> bool:
    """Return True if a 403 is about the token; a 403 from a policy has "1 error occurred" before the same text."""
    if not isinstance(error, exceptions.Forbidden):
        return False
    text = _text_of(error)
    return text == "permission denied" or "invalid token" in text


def policy_hint(path: str, *capabilities: str) -> str:
    """Return the hint with the policy rule that a request requires."""
    required = ", ".join(f'"{each}"' for each in capabilities)
    return f'Add to one of the token\'s policies: path "{path}" {{ capabilities = [{required}] }}'


@contextlib.contextmanager
def translate_errors(operation: str, denied_hint: str = "") -> Iterator[None]:
    """Translate the server's errors in the block into keyvouch's.

    `operation` is what the block does, such as "sign"; `denied_hint` is the hint if a policy denies it.
    """
    try:
        yield
    except VaultError as error:
        raise _translated(error, operation, denied_hint) from error


def _translated(error: VaultError, operation: str, denied_hint: str = "") -> KeyvouchError:
    if is_invalid_token(error):
        return SessionLost("The token is no longer valid.", hint="Try again.", performed=False)
    if isinstance(error, exceptions.Forbidden):
        return AccessDenied(
            f"Cannot {operation}: permission denied.", hint=denied_hint or "Allow it in one of the token's policies."
        )
    text, reason = _text_of(error), _reason_of(error)
    if isinstance(error, exceptions.InvalidPath) and not text:
        return _missing_path(error, operation)
    for kind, part, translation, message, hint in _TRANSLATIONS:
        if isinstance(error, kind) and part in text:
            return translation(message.format(reason=reason, operation=operation), hint=hint)
    return StoreUnavailable(f"The server failed to {operation}: {reason}.", hint="Check the server's log.")


def _missing_path(error: VaultError, operation: str) -> KeyvouchError:
    """Return the error for a path that does not exist; the server gives no reason."""
    path = str(error.url or "").removeprefix("/v1/")
    if re.search(r"/(keys|sign)/", path):
        return KeyNotFound(f"Key not found: {path} does not exist.", hint=_LIST_KEYS)
    return ConfigurationError(
        f"Cannot {operation}: {path or 'the path'} does not exist on this server.",
        hint="Correct mount=, auth-mount= or namespace=.",
    )


def login_error(error: VaultError, method: str) -> KeyvouchError:
    """Return keyvouch's error for a refused login with an auth method."""
    text, reason, hint = _text_of(error), _reason_of(error), _LOGIN_HINTS[method]
    match error:
        case exceptions.InvalidRequest() | exceptions.Unauthorized():
            if ("role" in text and "secret" not in text) or "configuration" in text:
                return ConfigurationError(f"Cannot log in: {reason}.", hint="Correct role= or auth-mount=.")
            return SecretIncorrect(f"Cannot log in: {reason}.", hint=hint)
        case exceptions.Forbidden() if method == "token":
            return SecretIncorrect("The server rejected the token.", hint=hint)
        case exceptions.Forbidden():
            return AccessDenied(
                f"Cannot log in: {reason}.", hint=f"Check that auth-mount= and namespace= are correct. {hint}"
            )
    return _translated(error, "log in")
