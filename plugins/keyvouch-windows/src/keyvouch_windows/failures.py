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
from keyvouch_windows.codes import CODES, LOST, UNDONE, WITHHELD
from keyvouch_windows.native import NativeError
from keyvouch_windows.remedies import BY_FUNCTION, REMEDIES

_NAMES = {code: name for name, code in CODES.items()}
_FROM_WIN32 = 0x80070000
"""The prefix of a Win32 error that is reported as an HRESULT."""

_REMEDIES = {name: remedy for remedy in REMEDIES for name in remedy.codes}


def name_of(error: NativeError) -> str:
    """Return the name of an error's code; empty if the code is not in `CODES`."""
    code = error.code
    if code not in _NAMES and code & 0xFFFF0000 == _FROM_WIN32:
        code &= 0xFFFF
    return _NAMES.get(code, "")


def is_undone(error: NativeError) -> bool:
    """Return whether the provider does not support what was asked for."""
    name = name_of(error)
    return name in UNDONE and (error.function, name) not in BY_FUNCTION


@contextlib.contextmanager
def told(doing: str, uri: KeyUri | None = None, *, performed: bool = False) -> Iterator[None]:
    """Raise keyvouch's error for a `NativeError` in the block; `uri`: the key's pinned URI."""
    try:
        yield
    except NativeError as error:
        raise as_error(error, doing, uri, performed=performed) from error


def as_error(error: NativeError, doing: str, uri: KeyUri | None, *, performed: bool = False) -> KeyvouchError:
    """Return keyvouch's error for a `NativeError`."""
    name = name_of(error)
    answer = f"{error} ({name})" if name else str(error)
    if name in LOST:
        return SessionLost(
            f"Windows lost hold of the key while {doing}: {answer}.",
            hint="Look whether the service CNG Key Isolation (KeyIso) runs.",
            uri=uri,
            performed=performed,
        )
    if remedy := BY_FUNCTION.get((error.function, name)) or _REMEDIES.get(name):
        return remedy.kind(f"{remedy.meaning[:-1]}: {answer}.", hint=remedy.hint, uri=uri)
    if name in WITHHELD:
        return _withheld(doing, answer, uri)
    if name in UNDONE:
        return NotSupported(
            f"The key's provider cannot do it ({doing}): {answer}.", hint="Take another provider=.", uri=uri
        )
    look = f"Look up the code: `certutil -error 0x{error.code:X}`." if error.code else "Try the same with certutil."
    return KeyUnusable(f"Windows refused {doing}: {answer}.", hint=look, uri=uri)


def unsupported(why: str, algorithm: str, uri: KeyUri) -> AlgorithmUnsupported:
    """Return the error for an algorithm that the provider does not support."""
    return AlgorithmUnsupported(
        f"The key's provider does not sign with {algorithm}: {why}.",
        hint="Use another algorithm, as RS256; or move the key to the Microsoft Software Key Storage Provider.",
        uri=uri,
    )


def not_exportable(uri: KeyUri) -> KeyUnusable:
    """Return the error for a key that may not be exported."""
    return KeyUnusable(
        "The key was made, or imported, as not exportable: Windows gives it to nobody.",
        hint="Make another one on the machine that needs it: `keyvouch new`.",
        uri=uri,
    )


def _withheld(doing: str, answer: str, uri: KeyUri | None) -> KeyvouchError:
    account = accounts.of_this_thread()
    location = uri and uri.get("location")
    if uri is None or location is None:
        return AccessDenied(
            f"Windows refused {doing} to {account}: {answer}.",
            hint="Do it in a console that runs as administrator.",
            uri=uri,
        )
    if location == "LocalMachine":
        hint = f"As administrator, run: keyvouch grant '{account}' --key {uri.quoted}"
        if "container" in uri:
            hint += "\nOr correct container= and provider=: Windows says the same where there is none."
        return AccessDenied(f"The account {account} may not use this key, or it is gone: {answer}.", hint=hint, uri=uri)
    return AccessDenied(
        f"The private key is not there for the account {account}: {answer}.",
        hint="Keys of CurrentUser belong to the account that made them. For a service, import the key with"
        " location=LocalMachine, then `keyvouch grant`.",
        uri=uri,
    )
