"""For each Windows error code, keyvouch's error, its message and its hint (docs/stores/windows-errors.md)."""

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


class ErrorMapping(NamedTuple):
    """The error that some codes are translated to."""

    codes: tuple[str, ...]
    error: type[KeyvouchError]
    message: str
    hint: str


_INSERT = "Insert the card or token that contains this key."
_INTERACTIVE = "Run this in an interactive session, in code with `interactive=True`, or use a key without a PIN."
_LATER = "Close that program, or try again later."

ERROR_MAPPINGS = (
    ErrorMapping(
        ("ERROR_CANCELLED", "NTE_USER_CANCELLED", "SCARD_E_CANCELLED"),
        AccessDenied,
        "The operation was canceled.",
        "Try again, and confirm the prompt.",
    ),
    ErrorMapping(
        ("SCARD_W_CANCELLED_BY_USER",),
        AccessDenied,
        "The PIN prompt was canceled.",
        "Try again, and enter the PIN.",
    ),
    ErrorMapping(
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
        "The key requires a PIN or a confirmation.",
        _INTERACTIVE,
    ),
    ErrorMapping(
        ("NTE_TEMPORARY_PROFILE",),
        AccessDenied,
        "The account is logged on without its own profile, which contains its keys.",
        "Use a key in location=LocalMachine, or let the task load the user's profile.",
    ),
    ErrorMapping(
        ("NTE_BAD_KEY_STATE",),
        AccessDenied,
        "The key cannot be decrypted: the account's password was reset after the key was created.",
        "Log on with the former password, or import the key again.",
    ),
    ErrorMapping(
        ("ERROR_NO_SUCH_LOGON_SESSION",),
        AccessDenied,
        "This logon session, such as a network logon or a task without a stored password, has no user keys.",
        "Use location=LocalMachine, or run this in a console, or in a task that stores the password.",
    ),
    ErrorMapping(
        ("ERROR_PRIVILEGE_NOT_HELD",),
        AccessDenied,
        "Administrator rights are required.",
        "Run this in a console opened as administrator.",
    ),
    ErrorMapping(
        ("SCARD_E_NO_ACCESS", "SCARD_W_SECURITY_VIOLATION"),
        AccessDenied,
        "The card denied the operation.",
        "Ask the issuer of the card what it permits.",
    ),
    ErrorMapping(
        ("NTE_INCORRECT_PASSWORD", "SCARD_E_INVALID_CHV", "SCARD_W_WRONG_CHV"),
        SecretIncorrect,
        "Incorrect PIN or key password.",
        "Enter the correct one: a few incorrect attempts block a card.",
    ),
    ErrorMapping(
        ("TPM_20_E_AUTH_FAIL", "TPM_E_PCP_AUTHENTICATION_FAILED"),
        SecretIncorrect,
        "The TPM rejected the key's password.",
        "Enter the correct one: a few incorrect attempts lock the TPM.",
    ),
    ErrorMapping(
        ("SCARD_W_CHV_BLOCKED",),
        StoreLocked,
        "The card's PIN is blocked.",
        "Unblock it with the PUK, using the card's own tool.",
    ),
    ErrorMapping(
        (
            "NTE_AUTHENTICATION_IGNORED",
            "TPM_E_DEFEND_LOCK_RUNNING",
            "TPM_20_E_LOCKOUT",
            "TPM_E_PCP_AUTHENTICATION_IGNORED",
            "TPM_E_LOCKED_OUT",
        ),
        StoreLocked,
        "The TPM is temporarily locked after too many incorrect passwords.",
        "Wait: `Get-Tpm` shows for how long. Each further incorrect attempt makes it longer.",
    ),
    ErrorMapping(
        ("CRYPT_E_NOT_FOUND", "ERROR_NOT_FOUND"),
        KeyNotFound,
        "The certificate or key no longer exists.",
        "List the existing keys: `keyvouch keys`.",
    ),
    ErrorMapping(
        ("CRYPT_E_EXISTS",),
        KeyExists,
        "The certificate already exists in the store.",
        "Use another certificate, or delete the existing one.",
    ),
    ErrorMapping(
        ("NTE_EXISTS",),
        KeyExists,
        "A key container with this name already exists.",
        "Use another container=, or omit it.",
    ),
    ErrorMapping(
        ("CRYPT_E_NO_KEY_PROPERTY",),
        KeyUnusable,
        "The certificate is in the store, but its private key is not.",
        "Import the PFX that contains both: `keyvouch import`.",
    ),
    ErrorMapping(
        ("NTE_BAD_KEY", "NTE_BAD_DATA", "NTE_DECRYPTION_FAILURE", "NTE_KEYSET_ENTRY_BAD"),
        KeyUnusable,
        "The key is damaged, or was copied from another machine.",
        "Import it again from its PFX, or create a new key: `keyvouch new`.",
    ),
    ErrorMapping(
        ("NTE_BAD_PROV_TYPE", "NTE_PROV_TYPE_NOT_DEF", "NTE_PROV_TYPE_NO_MATCH"),
        KeyUnusable,
        "The certificate refers to a provider of the wrong type for its key.",
        "Repair it: `certutil -repairstore My THUMBPRINT`.",
    ),
    ErrorMapping(
        ("CRYPT_E_BAD_ENCODE", "CRYPT_E_ASN1_EOD", "CRYPT_E_ASN1_BADTAG"),
        KeyUnusable,
        "Windows cannot parse the certificate.",
        "Examine it: `certutil -dump FILE` shows what is wrong.",
    ),
    ErrorMapping(
        ("ERROR_INVALID_PASSWORD",),
        KeyUnusable,
        "Windows cannot decrypt the key to be imported.",
        "Check that Windows is up to date: it should read PFX files with SHA-1 and 3DES.",
    ),
    ErrorMapping(
        ("SCARD_E_NO_KEY_CONTAINER", "SCARD_E_NO_SUCH_CERTIFICATE"),
        KeyUnusable,
        "The card does not contain this key.",
        _INSERT,
    ),
    ErrorMapping(
        ("SCARD_E_CARD_UNSUPPORTED", "SCARD_E_UNKNOWN_CARD", "SCARD_W_UNSUPPORTED_CARD"),
        KeyUnusable,
        "Unsupported smart card.",
        "Install the card vendor's minidriver.",
    ),
    ErrorMapping(
        ("NTE_BAD_KEYSET_PARAM",),
        ConfigurationError,
        "Invalid container name for this provider.",
        "Correct container=, or omit it.",
    ),
    ErrorMapping(
        ("NTE_BAD_PROVIDER", "NTE_KEYSET_NOT_DEF"),
        ConfigurationError,
        "Unknown provider.",
        "Correct provider=: `certutil -csplist` lists the installed providers.",
    ),
    ErrorMapping(
        ("NTE_PROV_DLL_NOT_FOUND",),
        StoreUnavailable,
        "The key's provider is not installed.",
        "Reinstall its software, or that of the card: `certutil -csplist` lists the installed providers.",
    ),
    ErrorMapping(
        ("NTE_BAD_SIGNATURE", "NTE_PROVIDER_DLL_FAIL"),
        StoreUnavailable,
        "The key's provider failed to start.",
        "Repair its software: `certutil -csptest` shows whether it works.",
    ),
    ErrorMapping(
        ("NTE_FAIL", "NTE_INTERNAL_ERROR", "NTE_SYS_ERR", "TPM_E_PCP_INTERNAL_ERROR"),
        StoreUnavailable,
        "The key's provider reported an internal error.",
        "Try again. If the error persists, check the event log; a key in a TPM that has been cleared is lost.",
    ),
    ErrorMapping(
        ("ERROR_NOT_ENOUGH_MEMORY", "NTE_NO_MEMORY"),
        StoreUnavailable,
        "Windows is out of memory.",
        "Close other programs, or restart the machine.",
    ),
    ErrorMapping(
        ("ERROR_DISK_FULL",),
        StoreUnavailable,
        "The disk is full.",
        "Free some space on the disk with the user's profile.",
    ),
    ErrorMapping(
        ("ERROR_BUSY",),
        StoreUnavailable,
        "Another program is using the key's container.",
        _LATER,
    ),
    ErrorMapping(
        ("ERROR_SERVICE_DISABLED",),
        StoreUnavailable,
        "The service that stores the keys is disabled.",
        "Enable it: `Set-Service KeyIso -StartupType Manual`; for a smart card: SCardSvr.",
    ),
    ErrorMapping(("NTE_DEVICE_NOT_FOUND",), StoreUnavailable, "The device with the key was not found.", _INSERT),
    ErrorMapping(
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
        "Check its status; for a TPM, `Get-Tpm` shows what is missing.",
    ),
    ErrorMapping(
        ("NTE_TOKEN_KEYSET_STORAGE_FULL", "SCARD_E_WRITE_TOO_MANY"),
        StoreUnavailable,
        "The card is full.",
        "Delete a key that is no longer needed on it.",
    ),
    ErrorMapping(
        ("SCARD_E_NO_READERS_AVAILABLE", "SCARD_E_READER_UNAVAILABLE"),
        StoreUnavailable,
        "No card reader found.",
        "Connect the card reader.",
    ),
    ErrorMapping(("SCARD_E_NO_SMARTCARD",), StoreUnavailable, "There is no card in the reader.", _INSERT),
    ErrorMapping(("SCARD_W_REMOVED_CARD",), StoreUnavailable, "The card was removed.", _INSERT),
    ErrorMapping(
        ("SCARD_E_SHARING_VIOLATION", "SCARD_E_SERVER_TOO_BUSY"),
        StoreUnavailable,
        "Another program is using the card.",
        _LATER,
    ),
    ErrorMapping(
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
        "The card does not respond.",
        "Try again, or reinsert the card.",
    ),
)

NO_STORE = ErrorMapping((), KeyNotFound, "Certificate store not found.", "Correct store= in the URI; it is usually My.")
NO_PROVIDER = next(each for each in ERROR_MAPPINGS if "NTE_BAD_PROVIDER" in each.codes)
NO_PROFILE = next(each for each in ERROR_MAPPINGS if "NTE_TEMPORARY_PROFILE" in each.codes)
NO_ADMINISTRATOR = next(each for each in ERROR_MAPPINGS if "ERROR_PRIVILEGE_NOT_HELD" in each.codes)
MAPPINGS_BY_FUNCTION = {
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
