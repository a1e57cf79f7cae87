"""Translation of a module's return values into keyvouch's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keyvouch.errors import (
    AccessDenied,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    SecretRequired,
    SessionLost,
    StoreLocked,
    StoreUnavailable,
)
from keyvouch_pkcs11.cryptoki import CryptokiError

LOST = frozenset(
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
"""The session, the log-in or the module is lost: connecting again may help."""
NEEDS_INITIALISING = frozenset({"CRYPTOKI_NOT_INITIALIZED", "DEVICE_ERROR", "GENERAL_ERROR"})
"""The subset that requires initialising the module again if opening a new session fails with them too."""
UNDONE = frozenset(
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
_TOLD: dict[str, tuple[type[KeyvouchError], str, str]] = {
    "PIN_INCORRECT": (SecretIncorrect, "The token refused the PIN.", "Correct it. A few wrong ones lock the token."),
    "PIN_INVALID": (SecretIncorrect, "The PIN has characters that the token does not take.", "Correct it."),
    "PIN_LEN_RANGE": (SecretIncorrect, "The PIN is too long or too short for the token.", "Correct it."),
    "PIN_EXPIRED": (AccessDenied, "The token's PIN has expired.", "Set a new one, with the token's own tool."),
    "PIN_LOCKED": (StoreLocked, "The token is locked.", "Let its security officer unlock it."),
    "USER_PIN_NOT_INITIALIZED": (SecretRequired, "The token has no PIN yet.", "Set one: `pkcs11-tool --init-pin`."),
    "SESSION_COUNT": (StoreUnavailable, "The token has no session left.", "End other programs that use it."),
    "DEVICE_MEMORY": (StoreUnavailable, "The token is full.", "Delete what is not needed any more."),
    "TOKEN_WRITE_PROTECTED": (AccessDenied, "The token is write-protected.", "Take another, or let it be written."),
}


@contextlib.contextmanager
def told(doing: str, *, performed: bool = False) -> Iterator[None]:
    """Raise keyvouch's error for a `CryptokiError` in the block; `performed`: the operation may have been performed."""
    try:
        yield
    except CryptokiError as error:
        raise as_error(error, doing, performed=performed) from error


def as_error(error: CryptokiError, doing: str, *, performed: bool = False) -> KeyvouchError:
    """Return keyvouch's error for a return value."""
    if error.name in LOST:
        return SessionLost(
            f"The module lost its session or its log-in while {doing} ({error}).",
            hint="See whether the token is still there: `pkcs11-tool --list-slots`.",
            performed=performed,
        )
    if error.name in _TOLD:
        kind, message, hint = _TOLD[error.name]
        return kind(message, hint=hint)
    return KeyUnusable(f"The module refused {doing}: {error}.", hint="See the module's own log for the reason.")
