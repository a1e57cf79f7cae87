"""Who may use a key: its access control list, which CNG and the legacy providers store in the same form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from keyvouch.errors import AccessDenied, KeyUnusable, NotSupported
from keyvouch.security_descriptor import FILE_GENERIC_READ, GENERIC_READ, SecurityDescriptor
from keyvouch.security_descriptor import READ_DATA as FILE_READ_DATA
from keyvouch.store import KeyUri
from keyvouch_windows import accounts
from keyvouch_windows.error_codes import UNSUPPORTED
from keyvouch_windows.error_translation import code_name, to_keyvouch_error
from keyvouch_windows.native import NativeError
from keyvouch_windows.private_keys import OpenKey

_READ = GENERIC_READ | FILE_GENERIC_READ
"""The rights of "Read" in certmgr's "Manage Private Keys": enough to sign, not to change or delete.

A key's rights are those of the file that contains it. The same mask, 0x80120089, is granted to NETWORK SERVICE in the
`SecurityDescriptor` that Microsoft's documentation sets for new keys (Configuration Manager, "Database replicas for
management points"); Carbon.Cryptography's authors saw GENERIC_READ and SYNCHRONIZE set by certmgr.
"""
_IN_CERTMGR = "in certlm.msc: All Tasks, Manage Private Keys"


def readers(key: OpenKey, name_of: Callable[[str], str] = accounts.name_of) -> tuple[str, ...]:
    """Return the names of the accounts that may sign with a key. Raises `NativeError`, `KeyUnusable`.

    Groups are not expanded. An account that is itself denied access is left out.
    """
    allowed = _read_rules(key).allowed(FILE_READ_DATA)
    return tuple(name_of(sid) for sid in ((accounts.WELL_KNOWN["everyone"],) if allowed is None else allowed))


def grant(key: OpenKey, account: str, uri: KeyUri, *, machine: bool) -> None:
    """Grant an account permission to sign with a key; do nothing if it already has it.

    `machine`: whether it is a machine key; a user's key may have its certificate in LocalMachine too, since some tools
    import it that way. Raises `NotSupported`, `AccessDenied`, and as `accounts.sid_of`.
    """
    if uri.get("location") == "CurrentUser" or not machine:
        raise NotSupported(
            "A key in CurrentUser can be used only by its own user, whatever its access rules allow.",
            hint="Import the key into LocalMachine, and grant access to it there:"
            " `keyvouch import --from pfx:FILE --key windows:location=LocalMachine`.",
            uri=uri,
        )
    sid = accounts.sid_of(account)
    with translate_errors("granting access to the key", uri):
        rules = _read_rules(key)
        changed = rules.allowing(sid, _READ)
        if not _is_allowed(changed, sid):
            raise AccessDenied(
                f"An access rule denies {accounts.name_of(sid)} the key, and takes precedence over any permission.",
                hint=f"Remove that rule {_IN_CERTMGR}.",
                uri=uri,
            )
        if changed != rules:
            _set_rules(key, changed, uri, lambda: _is_allowed(_read_rules(key), sid))


def revoke(key: OpenKey, account: str, uri: KeyUri) -> None:
    """Remove the rules that allow an account anything; do nothing if there are none.

    Permissions through groups remain. Raises `NotSupported`, `AccessDenied`, and as `accounts.sid_of`.
    """
    sid = accounts.sid_of(account)
    with translate_errors("revoking access to the key", uri):
        rules = _read_rules(key)
        if rules.dacl is None:
            raise NotSupported(
                "The key has no access rules: everyone may use it.", hint=f"Add access rules {_IN_CERTMGR}.", uri=uri
            )
        changed = rules.not_allowing(sid)
        if _is_allowed(changed, sid):
            raise NotSupported(
                f"{accounts.name_of(sid)} may use the key through a rule inherited from its folder.",
                hint=f"Remove the rule from the folder, or disable inheritance {_IN_CERTMGR}, Advanced.",
                uri=uri,
            )
        if changed != rules:
            _set_rules(key, changed, uri, lambda: not _is_allowed(_read_rules(key), sid))


@contextlib.contextmanager
def translate_errors(operation: str, uri: KeyUri) -> Iterator[None]:
    """Raise keyvouch's error for a `NativeError` while a provider reads or sets a key's access rules."""
    try:
        yield
    except NativeError as error:
        if code_name(error) in UNSUPPORTED:
            raise NotSupported(
                f"The key's provider does not support access rules: {error} ({code_name(error)}).",
                hint="To grant accounts access, use a key of the Microsoft Software Key Storage Provider in"
                " location=LocalMachine. With a card or token, anyone who has it and its PIN may sign.",
                uri=uri,
            ) from error
        # Without a URI: the remedy is an administrator, not a grant.
        raise to_keyvouch_error(error, operation, None) from error


def _read_rules(key: OpenKey) -> SecurityDescriptor:
    try:
        return SecurityDescriptor.from_bytes(key.access_rules())
    except ValueError as error:
        raise KeyUnusable(f"Cannot read the key's access rules: {error}", hint=f"Check them {_IN_CERTMGR}.") from error


def _is_allowed(rules: SecurityDescriptor, sid: str) -> bool:
    allowed = rules.allowed(FILE_READ_DATA)
    return allowed is None or sid in allowed


def _set_rules(key: OpenKey, rules: SecurityDescriptor, uri: KeyUri, is_done: Callable[[], bool]) -> None:
    key.set_access_rules(rules.to_bytes())
    if not is_done():
        raise NotSupported(
            "The key's provider accepted the new access rules, but did not store them.",
            hint=f"Check them {_IN_CERTMGR}; or use a key of the Microsoft Software Key Storage Provider.",
            uri=uri,
        )
