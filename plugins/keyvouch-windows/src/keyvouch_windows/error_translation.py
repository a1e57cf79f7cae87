"""Translation of Windows' error codes into keyvouch's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keyvouch.errors import (
    AccessDenied,
    AlgorithmUnsupported,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
    SessionLost,
)
from keyvouch.store import KeyUri
from keyvouch_windows import accounts
from keyvouch_windows.error_codes import CODES, DENIED_OR_MISSING, LOST_HANDLE, UNSUPPORTED
from keyvouch_windows.error_mappings import ERROR_MAPPINGS, MAPPINGS_BY_FUNCTION, NO_ADMINISTRATOR
from keyvouch_windows.native import NativeError

_NAMES = {code: name for name, code in CODES.items()}
_FROM_WIN32 = 0x80070000
"""The prefix of a Win32 error that is reported as an HRESULT."""

_MAPPINGS = {name: each for each in ERROR_MAPPINGS for name in each.codes}


def code_name(error: NativeError) -> str:
    """Return the name of an error's code; empty if the code is not in `CODES`."""
    code = error.code
    if code not in _NAMES and code & 0xFFFF0000 == _FROM_WIN32:
        code &= 0xFFFF
    return _NAMES.get(code, "")


def is_unsupported(error: NativeError) -> bool:
    """Return whether the provider does not support what was requested."""
    name = code_name(error)
    return name in UNSUPPORTED and (error.function, name) not in MAPPINGS_BY_FUNCTION


@contextlib.contextmanager
def translate_errors(operation: str, uri: KeyUri | None = None, *, performed: bool = False) -> Iterator[None]:
    """Raise keyvouch's error for a `NativeError` in the block; `uri`: the key's pinned URI."""
    try:
        yield
    except NativeError as error:
        raise to_keyvouch_error(error, operation, uri, performed=performed) from error


def to_keyvouch_error(
    error: NativeError, operation: str, uri: KeyUri | None, *, performed: bool = False
) -> KeyvouchError:
    """Return keyvouch's error for a `NativeError`."""
    name = code_name(error)
    answer = f"{error} ({name})" if name else str(error)
    if name in LOST_HANDLE:
        return SessionLost(
            f"The key's handle became invalid while {operation}: {answer}.",
            hint="Check that the service CNG Key Isolation (KeyIso) is running.",
            uri=uri,
            performed=performed,
        )
    if mapping := MAPPINGS_BY_FUNCTION.get((error.function, name)) or _MAPPINGS.get(name):
        return mapping.error(f"{mapping.message[:-1]}: {answer}.", hint=mapping.hint, uri=uri)
    if name in DENIED_OR_MISSING:
        return _denied_or_missing(operation, answer, uri)
    if name in UNSUPPORTED:
        return NotSupported(
            f"The key's provider does not support this ({operation}): {answer}.", hint="Use another provider=.", uri=uri
        )
    look = (
        f"Look up the code: `certutil -error 0x{error.code:X}`." if error.code else "Try the operation with certutil."
    )
    return KeyUnusable(f"Windows reported an error while {operation}: {answer}.", hint=look, uri=uri)


def algorithm_unsupported(why: str, algorithm: str, uri: KeyUri) -> AlgorithmUnsupported:
    """Return the error for an algorithm that the provider does not support."""
    return AlgorithmUnsupported(
        f"The key's provider does not support {algorithm}: {why}.",
        hint="Use another algorithm, such as RS256, or move the key to the Microsoft Software Key Storage Provider.",
        uri=uri,
    )


def cannot_delete(error: NativeError, location: str) -> KeyvouchError:
    """Return the error for a key that cannot be deleted; its certificate can be, without the key."""
    translated = to_keyvouch_error(error, "deleting the key", None, performed=True)
    dialog = "certlm.msc" if location == "LocalMachine" else "certmgr.msc"
    if is_unsupported(error):
        translated.hint = f"Delete its certificate in {dialog}."
    elif code_name(error) in DENIED_OR_MISSING:
        translated.hint += f"\nIf the key no longer exists, delete its certificate in {dialog}."
    return translated


def not_exportable(uri: KeyUri) -> KeyUnusable:
    """Return the error for a key that may not be exported."""
    return KeyUnusable(
        "The key was created or imported as not exportable.",
        hint="Create another key on the machine that needs it: `keyvouch new`.",
        uri=uri,
    )


def _denied_or_missing(operation: str, answer: str, uri: KeyUri | None) -> KeyvouchError:
    account = accounts.current_account()
    location = uri and uri.get("location")
    if uri is None or location is None:
        return AccessDenied(
            f"Permission denied for {account} while {operation}: {answer}.",
            hint=NO_ADMINISTRATOR.hint,
            uri=uri,
        )
    if location == "LocalMachine":
        hint = f"As administrator, run: keyvouch grant '{account}' --key {uri.quoted}"
        if "container" in uri:
            hint += "\nOr correct container= and provider=: Windows reports the same if the container does not exist."
        else:
            hint += "\nIf the key no longer exists, delete its certificate in certlm.msc."
        return AccessDenied(
            f"The account {account} may not use this key, or the key no longer exists: {answer}.", hint=hint, uri=uri
        )
    return AccessDenied(
        f"The private key is not available to the account {account}: {answer}.",
        hint="Keys in CurrentUser belong to the account that created them. For a service, import the key with"
        " location=LocalMachine, then run `keyvouch grant`. If the key no longer exists, delete its certificate in"
        " certmgr.msc.",
        uri=uri,
    )
