"""Windows accounts: the name that people write, and the SID, which does not depend on the language of Windows."""

from __future__ import annotations

import os

from keyvouch.errors import ConfigurationError, StoreUnavailable
from keyvouch.security_descriptor import sid_to_bytes, sid_to_text
from keyvouch_windows import advapi32
from keyvouch_windows.native import NativeError

WELL_KNOWN = {
    "everyone": "S-1-1-0",
    "authenticated users": "S-1-5-11",
    "system": "S-1-5-18",
    "localsystem": "S-1-5-18",
    "local system": "S-1-5-18",
    "local service": "S-1-5-19",
    "localservice": "S-1-5-19",
    "network service": "S-1-5-20",
    "networkservice": "S-1-5-20",
    "administrators": "S-1-5-32-544",
    "users": "S-1-5-32-545",
    "iis_iusrs": "S-1-5-32-568",
}
"""SIDs by English name, which Windows in another language does not know; some as services and tools spell them."""
_AUTHORITIES = ("nt authority", "builtin")
_SERVICE, _POOL = "nt service", "iis apppool"


def sid_of(account: str) -> str:
    """Return the SID of an account: `DOMAIN\\name`, `name`, `NT SERVICE\\name`, a well-known name, or a SID as text.

    Raises `ConfigurationError` if the account does not exist, `StoreUnavailable` if it cannot be looked up.
    """
    if account.upper().startswith("S-1-"):
        try:
            return sid_to_text(sid_to_bytes(account))
        except ValueError as error:
            raise ConfigurationError(str(error), hint="Copy it from `whoami /user`, run as that account.") from error
    authority, name = _split(account)
    if authority in ("", *_AUTHORITIES) and name.lower() in WELL_KNOWN:
        return WELL_KNOWN[name.lower()]
    found = _look_up(rf"{os.environ.get('COMPUTERNAME', '')}\{name}" if authority == "." else account)
    if found is None:
        raise ConfigurationError(f'Unknown account: "{account}".', hint=_hint_for(account))
    return found


def name_of(sid: str) -> str:
    """Return an account's name, `DOMAIN\\name`; its SID if the name is unknown or cannot be looked up."""
    try:
        return advapi32.account_of(sid_to_bytes(sid)) or sid
    except NativeError:
        return sid


def current_account() -> str:
    """Return the name of the account that this thread runs as; "this account" if Windows does not report it.

    Looked up by SID: for SYSTEM and the service accounts, Windows' own user name is the computer's, `DOMAIN\\MACHINE$`.
    """
    try:
        return name_of(sid_to_text(advapi32.current_sid()))
    except NativeError:
        return "this account"


def _split(account: str) -> tuple[str, str]:
    """Return the part before the backslash, in lower case, and the name."""
    authority, separator, name = account.partition("\\")
    return (authority.lower(), name) if separator else ("", account)


def _look_up(account: str) -> str | None:
    try:
        found = advapi32.sid_of(account)
    except NativeError as error:
        raise StoreUnavailable(
            f'Cannot look up the account "{account}": {error}.',
            hint="Try again when a domain controller is reachable, or use the SID, which `whoami /user` shows.",
        ) from error
    return None if found is None else sid_to_text(found)


def _hint_for(account: str) -> str:
    authority, name = _split(account)
    if authority == _SERVICE:
        return f"Install the service first, and use the name that `sc.exe query {name}` finds."
    if authority == _POOL:
        return "Start the application pool once, since that creates its account, and use its name as IIS shows it."
    if not account.endswith("$") and _look_up(f"{account}$") is not None:
        return f"Use '{account}$': the name of a managed service account (gMSA) ends in $."
    return (
        "Use DOMAIN\\name, or DOMAIN\\name$ for a managed service account (gMSA). Quote it, so that the shell does not"
        " interpret \\ and $. Or use the SID, which `whoami /user` shows."
    )
