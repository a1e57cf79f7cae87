"""Windows' error codes for users: which error is raised, its meaning, what to do (docs/stores/windows-errors.md)."""

from __future__ import annotations

from typing import NamedTuple

from keyvouch.errors import (
    AccessDenied,
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    StoreLocked,
    StoreUnavailable,
)


class Remedy(NamedTuple):
    """The error, meaning and hint for some codes."""

    codes: tuple[str, ...]
    kind: type[KeyvouchError]
    meaning: str
    hint: str


_INSERT = "Insert the card, or the token, that holds this key."
_ATTENDED = "Sign where somebody can type the PIN, with `interactive=True`, or take a key without one."
_AGAIN = "Try again, and confirm it."
_WAIT = "Wait: `Get-Tpm` tells for how long. Each wrong PIN makes it longer."

REMEDIES = (
    Remedy(("ERROR_CANCELLED", "NTE_USER_CANCELLED", "SCARD_E_CANCELLED"), AccessDenied, "Somebody cancelled.", _AGAIN),
    Remedy(
        ("SCARD_W_CANCELLED_BY_USER",),
        AccessDenied,
        "Somebody cancelled the dialog for the PIN.",
        "Try again, and type the PIN.",
    ),
    Remedy(
        (
            "NTE_SILENT_CONTEXT",
            "NTE_UI_REQUIRED",
            "NTE_PASSWORD_CHANGE_REQUIRED",
            "NTE_NOT_ACTIVE_CONSOLE",
            "SCARD_E_NO_PIN_CACHE",
            "SCARD_E_PIN_CACHE_EXPIRED",
            "SCARD_W_CARD_NOT_AUTHENTICATED",
        ),
        AccessDenied,
        "The key wants somebody to type a PIN, or to confirm.",
        _ATTENDED,
    ),
    Remedy(
        ("NTE_TEMPORARY_PROFILE",),
        AccessDenied,
        "This account was logged on without its own profile, which is where its keys are.",
        "Take a key in location=LocalMachine, or let the task load the user's profile.",
    ),
    Remedy(
        ("NTE_BAD_KEY_STATE",),
        AccessDenied,
        "The key cannot be decrypted: this account's password was reset since it was made.",
        "Log on with the former password, or import the key anew.",
    ),
    Remedy(
        ("ERROR_NO_SUCH_LOGON_SESSION",),
        AccessDenied,
        "This logon session keeps no keys, as one over the network, or a task without a stored password.",
        "Take location=LocalMachine, or run it in a console, or a task that stores the password.",
    ),
    Remedy(
        ("ERROR_PRIVILEGE_NOT_HELD",),
        AccessDenied,
        "That takes an administrator.",
        "Do it in a console that runs as administrator.",
    ),
    Remedy(
        ("SCARD_E_NO_ACCESS", "SCARD_W_SECURITY_VIOLATION"),
        AccessDenied,
        "The card refuses it.",
        "Ask who issued the card what it may do.",
    ),
    Remedy(
        ("NTE_INCORRECT_PASSWORD", "SCARD_E_INVALID_CHV", "SCARD_W_WRONG_CHV"),
        SecretIncorrect,
        "The PIN, or the password of the key, is wrong.",
        "Type the right one: a few wrong ones block a card.",
    ),
    Remedy(
        ("TPM_20_E_AUTH_FAIL", "TPM_E_PCP_AUTHENTICATION_FAILED"),
        SecretIncorrect,
        "The TPM refused the key's password.",
        "Type the right one: a few wrong ones lock the TPM.",
    ),
    Remedy(
        ("SCARD_W_CHV_BLOCKED",),
        StoreLocked,
        "The card's PIN is blocked.",
        "Unblock it with the PUK and the card's tool.",
    ),
    Remedy(
        (
            "NTE_AUTHENTICATION_IGNORED",
            "TPM_E_DEFEND_LOCK_RUNNING",
            "TPM_20_E_LOCKOUT",
            "TPM_E_PCP_AUTHENTICATION_IGNORED",
            "TPM_E_LOCKED_OUT",
        ),
        StoreLocked,
        "The TPM takes no password for a while, after too many wrong ones.",
        _WAIT,
    ),
    Remedy(
        ("CRYPT_E_NOT_FOUND", "ERROR_NOT_FOUND"),
        KeyNotFound,
        "Windows finds it no more.",
        "List what is there: `keyvouch keys`.",
    ),
    Remedy(
        ("CRYPT_E_EXISTS",),
        KeyExists,
        "This certificate is in the store already.",
        "Name another one, or delete that.",
    ),
    Remedy(("NTE_EXISTS",), KeyExists, "There is a key of this container's name.", "Name another container=, or none."),
    Remedy(
        ("CRYPT_E_NO_KEY_PROPERTY",),
        KeyUnusable,
        "The certificate is there without its private key.",
        "Import the PFX that holds both: `keyvouch import`.",
    ),
    Remedy(
        ("NTE_BAD_KEY", "NTE_BAD_DATA", "NTE_DECRYPTION_FAILURE", "NTE_KEYSET_ENTRY_BAD"),
        KeyUnusable,
        "The key is damaged, or was copied from another machine.",
        "Import it anew from its PFX, or make another one: `keyvouch new`.",
    ),
    Remedy(
        ("NTE_BAD_PROV_TYPE", "NTE_PROV_TYPE_NOT_DEF", "NTE_PROV_TYPE_NO_MATCH"),
        KeyUnusable,
        "The certificate names a provider of another type than that which has the key.",
        "Mend it: `certutil -repairstore My THUMBPRINT`.",
    ),
    Remedy(
        ("CRYPT_E_BAD_ENCODE", "CRYPT_E_ASN1_EOD", "CRYPT_E_ASN1_BADTAG"),
        KeyUnusable,
        "Windows cannot read the certificate.",
        "Look at it: `certutil -dump FILE` says what is wrong.",
    ),
    Remedy(
        ("ERROR_INVALID_PASSWORD",),
        KeyUnusable,
        "Windows cannot decrypt the key that it was given.",
        "Look whether this Windows is updated: it should read PFX with SHA-1 and 3DES.",
    ),
    Remedy(
        ("SCARD_E_NO_KEY_CONTAINER", "SCARD_E_NO_SUCH_CERTIFICATE"),
        KeyUnusable,
        "The card has no such key.",
        "Insert the card that this key is on.",
    ),
    Remedy(
        ("SCARD_E_CARD_UNSUPPORTED", "SCARD_E_UNKNOWN_CARD", "SCARD_W_UNSUPPORTED_CARD"),
        KeyUnusable,
        "Windows does not know this kind of card.",
        "Install the minidriver of the card's maker.",
    ),
    Remedy(
        ("NTE_BAD_KEYSET_PARAM",),
        ConfigurationError,
        "The provider takes no container of this name.",
        "Correct container=, or leave it out.",
    ),
    Remedy(
        ("NTE_BAD_PROVIDER", "NTE_KEYSET_NOT_DEF"),
        ConfigurationError,
        "There is no provider of this name.",
        "Correct provider=: `certutil -csplist` lists what is there.",
    ),
    Remedy(
        ("NTE_PROV_DLL_NOT_FOUND",),
        StoreUnavailable,
        "The provider of this key is not there.",
        "Install its software again, or that of the card: `certutil -csplist` lists what is there.",
    ),
    Remedy(
        ("NTE_BAD_SIGNATURE", "NTE_PROVIDER_DLL_FAIL"),
        StoreUnavailable,
        "The provider of this key does not start.",
        "Repair its software: `certutil -csptest` shows whether it works.",
    ),
    Remedy(
        ("NTE_FAIL", "NTE_INTERNAL_ERROR", "NTE_SYS_ERR", "TPM_E_PCP_INTERNAL_ERROR"),
        StoreUnavailable,
        "The provider of this key failed inside.",
        "Try again. If it stays so, look at the event log; a key in a TPM that was cleared since is lost.",
    ),
    Remedy(
        ("ERROR_NOT_ENOUGH_MEMORY", "NTE_NO_MEMORY"),
        StoreUnavailable,
        "Windows has no memory left.",
        "End other programs, or start the machine anew.",
    ),
    Remedy(("ERROR_DISK_FULL",), StoreUnavailable, "The disk is full.", "Make room on the disk with the profile."),
    Remedy(
        ("ERROR_BUSY",),
        StoreUnavailable,
        "Another program uses the key's container.",
        "End that program, or try again later.",
    ),
    Remedy(
        ("ERROR_SERVICE_DISABLED",),
        StoreUnavailable,
        "The service that keeps the keys is disabled.",
        "Allow it: `Set-Service KeyIso -StartupType Manual`; for a smart card: SCardSvr.",
    ),
    Remedy(("NTE_DEVICE_NOT_FOUND",), StoreUnavailable, "The device with the key is not there.", _INSERT),
    Remedy(
        (
            "NTE_DEVICE_NOT_READY",
            "TPM_20_E_RETRY",
            "TPM_E_PCP_DEVICE_NOT_READY",
            "TBS_E_DEACTIVATED",
            "TBS_E_INTERNAL_ERROR",
            "TBS_E_IOERROR",
            "TBS_E_SERVICE_DISABLED",
            "TBS_E_SERVICE_START_PENDING",
            "TBS_E_TPM_NOT_FOUND",
        ),
        StoreUnavailable,
        "The TPM, or the device with the key, is not ready.",
        "Look at it: of a TPM `Get-Tpm` says what it lacks.",
    ),
    Remedy(
        ("NTE_TOKEN_KEYSET_STORAGE_FULL", "SCARD_E_WRITE_TOO_MANY"),
        StoreUnavailable,
        "The card is full.",
        "Delete a key that is not needed on it.",
    ),
    Remedy(
        ("SCARD_E_NO_READERS_AVAILABLE", "SCARD_E_READER_UNAVAILABLE"),
        StoreUnavailable,
        "There is no reader of cards.",
        "Plug it in.",
    ),
    Remedy(("SCARD_E_NO_SMARTCARD",), StoreUnavailable, "No card is in the reader.", _INSERT),
    Remedy(("SCARD_W_REMOVED_CARD",), StoreUnavailable, "The card was removed.", _INSERT),
    Remedy(
        ("SCARD_E_SHARING_VIOLATION", "SCARD_E_SERVER_TOO_BUSY"),
        StoreUnavailable,
        "Another program holds the card.",
        "End that program, or try again later.",
    ),
    Remedy(
        (
            "SCARD_E_TIMEOUT",
            "SCARD_E_NOT_READY",
            "SCARD_E_COMM_DATA_LOST",
            "SCARD_F_COMM_ERROR",
            "SCARD_F_INTERNAL_ERROR",
            "SCARD_W_UNPOWERED_CARD",
            "SCARD_W_UNRESPONSIVE_CARD",
        ),
        StoreUnavailable,
        "The card does not answer.",
        "Try again, or insert it anew.",
    ),
)

NO_STORE = Remedy((), KeyNotFound, "There is no such store.", "Correct store= in the URI: it is mostly My.")
NO_PROVIDER = next(each for each in REMEDIES if "NTE_BAD_PROVIDER" in each.codes)
NO_PROFILE = next(each for each in REMEDIES if "NTE_TEMPORARY_PROFILE" in each.codes)
NO_ADMINISTRATOR = next(each for each in REMEDIES if "ERROR_PRIVILEGE_NOT_HELD" in each.codes)
BY_FUNCTION = {
    # All accounts may read the stores of LocalMachine, so it was opened for writing.
    ("CertOpenStore", "ERROR_ACCESS_DENIED"): NO_ADMINISTRATOR,
    ("CertOpenStore", "ERROR_FILE_NOT_FOUND"): NO_STORE,
    # CryptoAPI's error if the user's profile is not loaded, for example that of an impersonated account.
    ("CryptAcquireContextW", "ERROR_FILE_NOT_FOUND"): NO_PROFILE,
    ("NCryptOpenStorageProvider", "ERROR_FILE_NOT_FOUND"): NO_PROVIDER,
    ("NCryptOpenStorageProvider", "NTE_INVALID_PARAMETER"): NO_PROVIDER,
    ("NCryptOpenStorageProvider", "NTE_NOT_FOUND"): NO_PROVIDER,
    ("NCryptOpenStorageProvider", "NTE_PROV_DLL_NOT_FOUND"): NO_PROVIDER,
}
"""Codes that have another meaning if returned by this function."""
