"""What Windows answers, in keyvouch's errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from keyvouch.errors import (
    AccessDenied,
    AlgorithmUnsupported,
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
    SecretIncorrect,
    SessionLost,
    StoreLocked,
    StoreUnavailable,
)
from keyvouch.store import KeyUri
from keyvouch_windows.native import NativeError

CODES = {
    "ERROR_ACCESS_DENIED": 5,
    "ERROR_FILE_NOT_FOUND": 2,
    "ERROR_INVALID_HANDLE": 6,
    "ERROR_INVALID_PARAMETER": 87,
    "ERROR_CANCELLED": 1223,
    "RPC_S_SERVER_UNAVAILABLE": 1722,
    "RPC_S_CALL_FAILED": 1726,
    "E_ACCESSDENIED": 0x80070005,
    "NTE_BAD_ALGID": 0x80090008,
    "NTE_BAD_FLAGS": 0x80090009,
    "NTE_BAD_TYPE": 0x8009000A,
    "NTE_BAD_KEY_STATE": 0x8009000B,
    "NTE_NO_KEY": 0x8009000D,
    "NTE_EXISTS": 0x8009000F,
    "NTE_PERM": 0x80090010,
    "NTE_NOT_FOUND": 0x80090011,
    "NTE_BAD_PROVIDER": 0x80090013,
    "NTE_BAD_KEYSET": 0x80090016,
    "NTE_KEYSET_NOT_DEF": 0x80090019,
    "NTE_PROVIDER_DLL_FAIL": 0x8009001D,
    "NTE_PROV_DLL_NOT_FOUND": 0x8009001E,
    "NTE_SILENT_CONTEXT": 0x80090022,
    "NTE_TOKEN_KEYSET_STORAGE_FULL": 0x80090023,
    "NTE_TEMPORARY_PROFILE": 0x80090024,
    "NTE_INVALID_HANDLE": 0x80090026,
    "NTE_INVALID_PARAMETER": 0x80090027,
    "NTE_NOT_SUPPORTED": 0x80090029,
    "NTE_UI_REQUIRED": 0x8009002E,
    "NTE_DEVICE_NOT_READY": 0x80090030,
    "NTE_INCORRECT_PASSWORD": 0x80090033,
    "NTE_DEVICE_NOT_FOUND": 0x80090035,
    "NTE_USER_CANCELLED": 0x80090036,
    "CRYPT_E_NOT_FOUND": 0x80092004,
    "CRYPT_E_EXISTS": 0x80092005,
    "CRYPT_E_NO_KEY_PROPERTY": 0x8009200B,
    "SCARD_E_CANCELLED": 0x80100002,
    "SCARD_E_TIMEOUT": 0x8010000A,
    "SCARD_E_SHARING_VIOLATION": 0x8010000B,
    "SCARD_E_NO_SMARTCARD": 0x8010000C,
    "SCARD_E_NO_SERVICE": 0x8010001D,
    "SCARD_E_SERVICE_STOPPED": 0x8010001E,
    "SCARD_E_NO_READERS_AVAILABLE": 0x8010002E,
    "SCARD_E_NO_KEY_CONTAINER": 0x80100030,
    "SCARD_W_RESET_CARD": 0x80100068,
    "SCARD_W_REMOVED_CARD": 0x80100069,
    "SCARD_W_SECURITY_VIOLATION": 0x8010006A,
    "SCARD_W_WRONG_CHV": 0x8010006B,
    "SCARD_W_CHV_BLOCKED": 0x8010006C,
    "SCARD_W_CANCELLED_BY_USER": 0x8010006E,
    "SCARD_W_CARD_NOT_AUTHENTICATED": 0x8010006F,
}
"""Those that a user can meet, by the names of winerror.h; of others the number is shown."""
_NAMES = {code: name for name, code in CODES.items()}

UNDONE = frozenset(
    {
        "NTE_BAD_ALGID",
        "NTE_BAD_FLAGS",
        "NTE_BAD_TYPE",
        "NTE_INVALID_PARAMETER",
        "NTE_NOT_SUPPORTED",
        "ERROR_INVALID_PARAMETER",
    }
)
"""The provider does not do what was asked for."""
LOST = frozenset(
    {
        "ERROR_INVALID_HANDLE",
        "NTE_INVALID_HANDLE",
        "RPC_S_CALL_FAILED",
        "RPC_S_SERVER_UNAVAILABLE",
        "SCARD_E_NO_SERVICE",
        "SCARD_E_SERVICE_STOPPED",
        "SCARD_W_RESET_CARD",
    }
)
"""The key's handle is of no use any more: opening it again may mend it."""

_INSERT = "Insert the card, or the token, that holds this key."
_ATTENDED = "Sign where somebody can type the PIN, with `interactive=True`, or take a key without one."
_TOLD: dict[str, tuple[type[KeyvouchError], str, str]] = {
    "CRYPT_E_NOT_FOUND": (KeyNotFound, "Windows finds no such certificate.", "List what is there: `keyvouch keys`."),
    "CRYPT_E_EXISTS": (KeyExists, "This certificate is in the store already.", "Name another one, or delete that."),
    "CRYPT_E_NO_KEY_PROPERTY": (
        KeyUnusable,
        "The certificate is there without its private key.",
        "Import the PFX that holds both: `keyvouch import`.",
    ),
    "ERROR_CANCELLED": (AccessDenied, "Somebody cancelled the dialog.", "Try again, and confirm it."),
    "ERROR_FILE_NOT_FOUND": (KeyNotFound, "There is no such store.", "Correct store= in the URI: it is mostly My."),
    "NTE_DEVICE_NOT_FOUND": (StoreUnavailable, "The device with the key is not there.", _INSERT),
    "NTE_DEVICE_NOT_READY": (
        StoreUnavailable,
        "The device with the key is not ready.",
        "Look at it: of a TPM `Get-Tpm` says what it lacks.",
    ),
    "NTE_EXISTS": (KeyExists, "There is a key of this container's name.", "Name another container=, or none."),
    "NTE_INCORRECT_PASSWORD": (SecretIncorrect, "The password of the key is wrong.", "Correct it."),
    "NTE_PROV_DLL_NOT_FOUND": (
        StoreUnavailable,
        "The provider of this key is not there.",
        "Install its software again, or that of the card: `certutil -csplist` lists what is there.",
    ),
    "NTE_BAD_PROVIDER": (
        ConfigurationError,
        "There is no provider of this name.",
        "Correct provider=: `certutil -csplist` lists what is there.",
    ),
    "NTE_KEYSET_NOT_DEF": (
        ConfigurationError,
        "There is no provider of this name.",
        "Correct provider=: `certutil -csplist` lists what is there.",
    ),
    "NTE_PROVIDER_DLL_FAIL": (
        StoreUnavailable,
        "The provider of this key does not start.",
        "Repair its software: `certutil -csptest` shows whether it works.",
    ),
    "NTE_SILENT_CONTEXT": (AccessDenied, "The key wants somebody to type a PIN, or to confirm.", _ATTENDED),
    "NTE_UI_REQUIRED": (AccessDenied, "The key wants somebody to type a PIN, or to confirm.", _ATTENDED),
    "NTE_TEMPORARY_PROFILE": (
        AccessDenied,
        "This account was logged on with a temporary profile, which keeps no keys.",
        "Take a key in location=LocalMachine, or let the task load the user's profile.",
    ),
    "NTE_TOKEN_KEYSET_STORAGE_FULL": (StoreUnavailable, "The card is full.", "Delete a key that is not needed on it."),
    "NTE_USER_CANCELLED": (AccessDenied, "Somebody cancelled the dialog.", "Try again, and confirm it."),
    "SCARD_E_CANCELLED": (AccessDenied, "Somebody cancelled the dialog.", "Try again, and confirm it."),
    "SCARD_E_NO_KEY_CONTAINER": (KeyUnusable, "The card has no such key.", "Insert the card that this key is on."),
    "SCARD_E_NO_READERS_AVAILABLE": (StoreUnavailable, "There is no reader of cards.", "Plug it in."),
    "SCARD_E_NO_SMARTCARD": (StoreUnavailable, "No card is in the reader.", _INSERT),
    "SCARD_E_SHARING_VIOLATION": (
        StoreUnavailable,
        "Another program holds the card.",
        "End that program, or try again later.",
    ),
    "SCARD_E_TIMEOUT": (StoreUnavailable, "The card did not answer in time.", "Try again, or insert it anew."),
    "SCARD_W_CANCELLED_BY_USER": (AccessDenied, "Somebody cancelled the PIN's dialog.", "Try again, and type the PIN."),
    "SCARD_W_CARD_NOT_AUTHENTICATED": (AccessDenied, "No PIN was given to the card.", _ATTENDED),
    "SCARD_W_CHV_BLOCKED": (StoreLocked, "The card's PIN is blocked.", "Unblock it with the PUK and the card's tool."),
    "SCARD_W_REMOVED_CARD": (StoreUnavailable, "The card was removed.", _INSERT),
    "SCARD_W_SECURITY_VIOLATION": (AccessDenied, "The card refuses it.", "Ask who issued the card what it may do."),
    "SCARD_W_WRONG_CHV": (
        SecretIncorrect,
        "The card refused the PIN.",
        "Type the right one: a few wrong ones block it.",
    ),
}
WITHHELD = frozenset(
    {
        "E_ACCESSDENIED",
        "ERROR_ACCESS_DENIED",
        "NTE_BAD_KEYSET",
        "NTE_BAD_KEY_STATE",
        "NTE_NO_KEY",
        "NTE_NOT_FOUND",
        "NTE_PERM",
    }
)
"""This account may not use the key, or it is gone: Windows says the same to either."""


def name_of(error: NativeError) -> str:
    """Return the name of a failure's code; empty for one that has none here."""
    return _NAMES.get(error.code, "")


@contextlib.contextmanager
def told(doing: str, uri: KeyUri | None = None, *, performed: bool = False) -> Iterator[None]:
    """Raise the error of keyvouch's for what Windows answers inside; `uri`: the key's own, pinned."""
    try:
        yield
    except NativeError as error:
        raise as_error(error, doing, uri, performed=performed) from error


def as_error(error: NativeError, doing: str, uri: KeyUri | None, *, performed: bool = False) -> KeyvouchError:
    """Return the error of keyvouch's for an answer."""
    name = name_of(error)
    answer = f"{error} ({name})" if name else str(error)
    if name in LOST:
        return SessionLost(
            f"Windows lost hold of the key while {doing}: {answer}.",
            hint="Look whether the service CNG Key Isolation (KeyIso) runs.",
            uri=uri,
            performed=performed,
        )
    if name in WITHHELD:
        return _withheld(doing, answer, uri)
    if name in _TOLD:
        kind, message, hint = _TOLD[name]
        return kind(f"{message[:-1]}: {answer}.", hint=hint, uri=uri)
    if name in UNDONE:
        return NotSupported(
            f"The key's provider cannot do it ({doing}): {answer}.", hint="Take another provider=.", uri=uri
        )
    return KeyUnusable(
        f"Windows refused {doing}: {answer}.", hint=f"Look up the code: `certutil -error 0x{error.code:X}`.", uri=uri
    )


def unsupported(error: NativeError, algorithm: str, uri: KeyUri) -> AlgorithmUnsupported:
    """Return what it is called when a provider does not know an algorithm."""
    return AlgorithmUnsupported(
        f"The key's provider does not sign with {algorithm}: {error} ({name_of(error)}).",
        hint="Use another algorithm, as RS256; or move the key to the Microsoft Software Key Storage Provider.",
        uri=uri,
    )


def _withheld(doing: str, answer: str, uri: KeyUri | None) -> KeyvouchError:
    account = _account()
    if uri is None:
        return AccessDenied(
            f"Windows refused {doing} to {account}: {answer}.", hint="Do it in a console that runs as administrator."
        )
    if uri.get("location") == "LocalMachine":
        return AccessDenied(
            f"The account {account} may not use this key, or it is gone: {answer}.",
            hint=f"As administrator, run: keyvouch grant '{account}' --key {uri.quoted}",
            uri=uri,
        )
    return AccessDenied(
        f"The private key is not there for the account {account}: {answer}.",
        hint="Keys of CurrentUser belong to the account that made them. For a service, import the key with"
        " location=LocalMachine, then `keyvouch grant`.",
        uri=uri,
    )


def _account() -> str:
    domain, user = os.environ.get("USERDOMAIN"), os.environ.get("USERNAME", "this account")
    return f"{domain}\\{user}" if domain else user
