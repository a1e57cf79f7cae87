"""Who may use a key: its access control list, which CNG and the legacy providers store in the same form."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from keyvouch.errors import AccessDenied, KeyUnusable, NotSupported
from keyvouch.security_descriptor import FILE_GENERIC_READ, GENERIC_READ, SecurityDescriptor
from keyvouch.security_descriptor import READ_DATA as FILE_READ_DATA
from keyvouch.store import KeyUri
from keyvouch_windows import accounts
from keyvouch_windows.codes import UNDONE
from keyvouch_windows.failures import as_error, name_of
from keyvouch_windows.native import NativeError
from keyvouch_windows.private_keys import OpenKey

_READ = GENERIC_READ | FILE_GENERIC_READ
"""The rights of "Read" in certmgr's "Manage Private Keys": enough to sign, not to change or delete.

A key's rights are those of the file that contains it. The same mask, 0x80120089, is granted to NETWORK SERVICE in the
`SecurityDescriptor` that Microsoft's documentation sets for new keys (Configuration Manager, "Database replicas for
management points"); Carbon.Cryptography's authors saw GENERIC_READ and SYNCHRONIZE set by certmgr.
"""
_IN_CERTMGR = "in certlm.msc: All Tasks, Manage Private Keys"


def readers(key: OpenKey, called: Callable[[str], str] = accounts.name_of) -> tuple[str, ...]:
    """Return the names of the accounts that may sign with a key. Raises `NativeError`, `KeyUnusable`.

    Groups are not expanded. An account that is itself denied access is left out.
    """
    allowed = _rules(key).allowed(FILE_READ_DATA)
    return tuple(called(sid) for sid in ((accounts.WELL_KNOWN["everyone"],) if allowed is None else allowed))


def grant(key: OpenKey, account: str, uri: KeyUri, *, machine: bool) -> None:
    """Grant an account permission to sign with a key; do nothing if it already has it.

    `machine`: whether it is a machine key; a user's key may have its certificate in LocalMachine too, since some tools
    import it that way. Raises `NotSupported`, `AccessDenied`, and as `accounts.sid_of`.
    """
    if uri.get("location") == "CurrentUser" or not machine:
        raise NotSupported(
            "A key of CurrentUser is its user's: no other account finds it there, whatever it may do with it.",
            hint="Import the key into LocalMachine, and grant it there:"
            " `keyvouch import --from pfx:FILE --key windows:location=LocalMachine`.",
            uri=uri,
        )
    sid = accounts.sid_of(account)
    with told("granting access to the key", uri):
        rules = _rules(key)
        changed = rules.allowing(sid, _READ)
        if not _may(changed, sid):
            raise AccessDenied(
                f"A rule of the key's denies it to {accounts.name_of(sid)}, and goes before any permission.",
                hint=f"Take the denial away {_IN_CERTMGR}.",
                uri=uri,
            )
        if changed != rules:
            _set(key, changed, uri, lambda: _may(_rules(key), sid))


def revoke(key: OpenKey, account: str, uri: KeyUri) -> None:
    """Remove the rules that allow an account anything; do nothing if there are none.

    Permissions through groups remain. Raises `NotSupported`, `AccessDenied`, and as `accounts.sid_of`.
    """
    sid = accounts.sid_of(account)
    with told("revoking access to the key", uri):
        rules = _rules(key)
        if rules.dacl is None:
            raise NotSupported(
                "The key has no list of access rules: everyone may use it.", hint=f"Give it one {_IN_CERTMGR}.", uri=uri
            )
        changed = rules.not_allowing(sid)
        if _may(changed, sid):
            raise NotSupported(
                f"{accounts.name_of(sid)} may use the key by a rule that its folder hands down. Nothing changed.",
                hint=f"Take the rule away at the folder, or end the inheritance {_IN_CERTMGR}, Advanced.",
                uri=uri,
            )
        if changed != rules:
            _set(key, changed, uri, lambda: not _may(_rules(key), sid))


@contextlib.contextmanager
def told(doing: str, uri: KeyUri) -> Iterator[None]:
    """Raise keyvouch's error for a `NativeError` while a provider reads or sets a key's access rules."""
    try:
        yield
    except NativeError as error:
        if name_of(error) in UNDONE:
            raise NotSupported(
                f"The key's provider has no access rules for its keys: {error} ({name_of(error)}).",
                hint="Who has the card, or the token, and its PIN may sign; for accounts to be granted, take a key of"
                " the Microsoft Software Key Storage Provider in location=LocalMachine.",
                uri=uri,
            ) from error
        raise as_error(error, doing, None) from error  # no URI: the remedy is an administrator, not a grant


def _rules(key: OpenKey) -> SecurityDescriptor:
    try:
        return SecurityDescriptor.from_bytes(key.access_rules())
    except ValueError as error:
        raise KeyUnusable(
            f"The key's access rules cannot be read: {error}", hint=f"Look at them {_IN_CERTMGR}."
        ) from error


def _may(rules: SecurityDescriptor, sid: str) -> bool:
    allowed = rules.allowed(FILE_READ_DATA)
    return allowed is None or sid in allowed


def _set(key: OpenKey, rules: SecurityDescriptor, uri: KeyUri, holds: Callable[[], bool]) -> None:
    key.set_access_rules(rules.to_bytes())
    if not holds():
        raise NotSupported(
            "The key's provider took the new access rules, and did not keep them.",
            hint=f"Look at them {_IN_CERTMGR}; or take a key of the Microsoft Software Key Storage Provider.",
            uri=uri,
        )
