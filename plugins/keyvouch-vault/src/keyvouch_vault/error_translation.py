"""Translate the server's errors into keyvouch's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from hvac import exceptions
from hvac.exceptions import VaultError

from keyvouch.errors import (
    AccessDenied,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    SecretRequired,
    SessionLost,
    StoreUnavailable,
    Throttled,
)
from keyvouch_vault.permissions import WRONG_MOUNT, WRONG_NAME, Permission, policy_hint

_LOGIN_HINTS = {
    "token": "Create a new token, `bao token create`, and store it at the location that token= names.",
    "approle": "Create a new secret ID for the role: bao write -field=secret_id -f auth/{mount}/role/ROLE/secret-id\n"
    "Compare role-id= with: bao read -field=role_id auth/{mount}/role/ROLE/role-id (it is not the role's name).",
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
        KeyNotFound,
        "Namespace not found.",
        "Correct namespace=, or BAO_NAMESPACE or VAULT_NAMESPACE in the environment.",
    ),
    (
        exceptions.InvalidPath,
        "no handler",
        KeyNotFound,
        "Nothing is mounted at this path: {reason}.",
        "Correct mount=, auth-mount= or namespace=. To enable the engine: bao secrets enable {path}transit",
    ),
    (
        exceptions.InvalidPath,
        "unsupported path",
        KeyNotFound,
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
        exceptions.InternalServerError,
        "no such key version",
        KeyUnusable,
        "The key version is older than the key's min_decryption_version.",
        "Use a newer version, or lower min_decryption_version.",
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


@contextlib.contextmanager
def translate_errors(operation: str, alternative: str = "") -> Iterator[None]:
    """Translate the server's errors in the block into keyvouch's.

    `operation` is what the block does, such as "sign"; `alternative` is added to the hint if a policy denies it.
    """
    try:
        yield
    except VaultError as error:
        raise _translated(error, operation, alternative) from error


def _translated(error: VaultError, operation: str, alternative: str = "") -> KeyvouchError:
    if is_invalid_token(error):
        return SessionLost("The token is no longer valid.", hint="Try again.", performed=False)
    if isinstance(error, exceptions.Forbidden):
        denied = Permission.for_request(error)
        hints = policy_hint([denied]), alternative, WRONG_MOUNT if denied.capability == "list" else WRONG_NAME
        return AccessDenied(f"Cannot {operation}: permission denied.", hint="\n".join(filter(None, hints)))
    text, reason = _text_of(error), _reason_of(error)
    if isinstance(error, exceptions.InvalidPath) and not text:
        return _missing_path(error, operation)
    for kind, part, translation, message, hint in _TRANSLATIONS:
        if isinstance(error, kind) and part in text:
            mount = re.split(r"/(?:keys|sign|wrapping_key)\b", _path_of(error))[0]
            path = "" if mount == "transit" else f"-path={mount} "
            return translation(message.format(reason=reason, operation=operation), hint=hint.format(path=path))
    return StoreUnavailable(f"The server failed to {operation}: {reason}.", hint="Check the server's log.")


def _path_of(error: VaultError) -> str:
    return str(error.url or "").removeprefix("/v1/")


def _missing_path(error: VaultError, operation: str) -> KeyvouchError:
    """Return the error for a path that does not exist; the server gives no reason."""
    path = _path_of(error)
    if re.search(r"/(keys|sign)/", path):
        return KeyNotFound(f"Key not found: {path} does not exist.", hint=_LIST_KEYS)
    return KeyNotFound(
        f"Cannot {operation}: {path or 'the path'} does not exist on this server.",
        hint="Correct mount=, auth-mount= or namespace=.",
    )


def login_error(error: VaultError, method: str, mount: str) -> KeyvouchError:
    """Return keyvouch's error for a refused login with an auth method that is mounted at `mount`."""
    text, reason, hint = _text_of(error), _reason_of(error), _LOGIN_HINTS[method].format(mount=mount)
    match error:
        case exceptions.InvalidRequest() if "missing secret_id" in text:
            return SecretRequired(
                "Cannot log in: the role requires a secret ID.",
                hint="Add secret-id= after the `?`, with a reference such as secret-id=file:/run/secrets/secret-id.",
            )
        case exceptions.InvalidRequest() | exceptions.Unauthorized():
            if ("role" in text and "secret" not in text) or "configuration" in text:
                return AccessDenied(f"Cannot log in: {reason}.", hint="Correct role= or auth-mount=.")
            return SecretIncorrect(f"Cannot log in: {reason}.", hint=hint)
        case exceptions.Forbidden() if method == "token":
            return SecretIncorrect("The server rejected the token.", hint=hint)
        case exceptions.VaultError() if isinstance(error, exceptions.Forbidden) or "no handler" in text:
            path = "" if mount == method else f"-path={mount} "
            return AccessDenied(
                f"Cannot log in: {reason}.",
                hint=f"Check that auth-mount= and namespace= are correct, and that the method is enabled:"
                f" bao auth enable {path}{method}\n{hint}",
            )
    return _translated(error, "log in")
