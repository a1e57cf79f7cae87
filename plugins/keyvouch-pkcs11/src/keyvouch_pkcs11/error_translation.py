"""Translation of a module's return values into keyvouch's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keyvouch.errors import (
    AccessDenied,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
    SecretIncorrect,
    SecretRequired,
    SessionLost,
    StoreLocked,
    StoreUnavailable,
)
from keyvouch_pkcs11.cryptoki import CryptokiError

SESSION_LOST = frozenset(
    {
        "CRYPTOKI_NOT_INITIALIZED",
        "DEVICE_ERROR",
        "DEVICE_REMOVED",
        "FUNCTION_FAILED",
        "GENERAL_ERROR",
        "KEY_HANDLE_INVALID",
        "OBJECT_HANDLE_INVALID",
        "OPERATION_ACTIVE",
        "OPERATION_NOT_INITIALIZED",
        "SESSION_CLOSED",
        "SESSION_HANDLE_INVALID",
        "TOKEN_NOT_PRESENT",
        "USER_NOT_LOGGED_IN",
    }
)
"""The session, the login or the module is lost: connecting again may help."""
REQUIRES_INITIALIZATION = frozenset({"CRYPTOKI_NOT_INITIALIZED", "DEVICE_ERROR", "GENERAL_ERROR"})
"""The subset that requires initializing the module again if opening a new session fails with them too."""
UNSUPPORTED = frozenset(
    {
        "ARGUMENTS_BAD",
        "FUNCTION_NOT_SUPPORTED",
        "KEY_FUNCTION_NOT_PERMITTED",
        "KEY_TYPE_INCONSISTENT",
        "MECHANISM_INVALID",
        "MECHANISM_PARAM_INVALID",
    }
)
"""The module or this key does not support the operation; another mechanism may work."""
_UNSUPPORTED_KEY_TYPE = UNSUPPORTED | {"ATTRIBUTE_VALUE_INVALID", "CURVE_NOT_SUPPORTED", "KEY_SIZE_RANGE"}
_ERRORS: dict[str, tuple[type[KeyvouchError], str, str]] = {
    "PIN_INCORRECT": (
        SecretIncorrect,
        "The token rejected the PIN.",
        "Correct the PIN. The token locks it after a few failed attempts.",
    ),
    "PIN_INVALID": (SecretIncorrect, "The PIN contains invalid characters.", "Correct the PIN."),
    "PIN_LEN_RANGE": (SecretIncorrect, "The PIN is too long or too short for the token.", "Correct the PIN."),
    "PIN_EXPIRED": (AccessDenied, "The token's PIN has expired.", "Set a new PIN with the token's own tool."),
    "PIN_LOCKED": (StoreLocked, "The token's PIN is locked.", "Ask the token's security officer to unlock it."),
    "USER_PIN_NOT_INITIALIZED": (SecretRequired, "The token has no PIN yet.", "Set one: `pkcs11-tool --init-pin`."),
    "SESSION_COUNT": (StoreUnavailable, "The token has no free session.", "Stop other programs that use the token."),
    "DEVICE_MEMORY": (StoreUnavailable, "The token is full.", "Delete objects that are no longer needed."),
    "TOKEN_WRITE_PROTECTED": (
        AccessDenied,
        "The token is write-protected.",
        "Use another token, or remove the write protection.",
    ),
}


@contextlib.contextmanager
def translate_errors(operation: str, *, performed: bool = False) -> Iterator[None]:
    """Raise keyvouch's error for a `CryptokiError` in the block.

    The operation completes the sentence "failed while ..."; `performed`: it may have been carried out.
    """
    try:
        yield
    except CryptokiError as error:
        raise as_keyvouch_error(error, operation, performed=performed) from error


def as_keyvouch_error(error: CryptokiError, operation: str, *, performed: bool = False) -> KeyvouchError:
    """Return keyvouch's error for a return value."""
    if error.name in SESSION_LOST:
        return SessionLost(
            f"Session or login lost while {operation}: {error}.",
            hint="Check that the token is still present: `pkcs11-tool --list-slots`.",
            performed=performed,
        )
    if error.name in _ERRORS:
        error_class, message, hint = _ERRORS[error.name]
        return error_class(message, hint=hint)
    return KeyUnusable(f"The module failed while {operation}: {error}.", hint="Check the module's log for the reason.")


@contextlib.contextmanager
def unsupported_key_type(message: str, hint: str) -> Iterator[None]:
    """Raise `NotSupported` if the token cannot generate or import the type of key."""
    try:
        yield
    except CryptokiError as error:
        if error.name in _UNSUPPORTED_KEY_TYPE:
            raise NotSupported(message, hint=hint) from error
        raise
