"""Windows access rules that let too many accounts read or write a file, and the `icacls` command that corrects them.

These functions take facts and return sentences; `files` queries the system. Groups are identified by their
SIDs, which are the same in every language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from keyvouch.security_descriptor import (
    APPEND_DATA,
    DELETE,
    DELETE_CHILD,
    READ_DATA,
    WRITE_DAC,
    WRITE_DATA,
    WRITE_OWNER,
    SecurityDescriptor,
)

SYSTEM, ADMINISTRATORS = "S-1-5-18", "S-1-5-32-544"
_TRUSTED_INSTALLER = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
_EVERYONE = {
    "S-1-1-0": "Everyone",
    "S-1-2-0": "Local",
    "S-1-2-1": "Console Logon",
    "S-1-5-2": "Network",
    "S-1-5-4": "Interactive",
    "S-1-5-7": "Anonymous Logon",
    "S-1-5-11": "Authenticated Users",
    "S-1-5-13": "Terminal Server Users",
    "S-1-5-14": "Remote Interactive Logon",
    "S-1-5-15": "This Organization",
    "S-1-5-113": "Local account",
    "S-1-5-32-545": "Users",
    "S-1-5-32-546": "Guests",
    "S-1-5-32-554": "Pre-Windows 2000 Compatible Access",
}
"""Broad groups, whose members were not chosen with this file in mind (Microsoft: Well-known SIDs)."""
_OF_A_DOMAIN = {"513": "Domain Users", "514": "Domain Guests"}
_TO_READ = READ_DATA | WRITE_DAC | WRITE_OWNER
"""An account that can change the rules can grant itself the right to read."""
_TO_WRITE = WRITE_DATA | APPEND_DATA | DELETE | WRITE_DAC | WRITE_OWNER
_TO_REPLACE = DELETE_CHILD | DELETE | WRITE_DAC | WRITE_OWNER
"""Rights on a folder that allow replacing its contents. Adding files is not among them: by default Users can do that in
%ProgramData% and below, and the owner of a new file is checked."""


def too_many_readers(path: str, rules: SecurityDescriptor, user: str) -> tuple[str, str] | None:
    """Return which groups can read this file but should not, and the remedy; None if there are none.

    `user` is the SID of the account that reads it.
    """
    groups = _everyone_with(rules, _TO_READ)
    if not groups:
        return None
    own = {} if user in (SYSTEM, ADMINISTRATORS) else {user: "F" if rules.owner == user else "R"}
    removed = {ace.sid for ace in rules.dacl or () if ace.sid in groups and ace.allows and not ace.inherited}
    return _named(groups), _icacls(path, own, removed)


def distrust(
    path: str, rules: SecurityDescriptor, user: str, *, folder: bool = False, root: bool = False
) -> tuple[str, str] | None:
    """Return why another account could have written this file or folder, and the remedy; None if none could.

    `folder`: the trusted file is below it. `root`: it is the root of a drive or share, which cannot be moved.
    """
    rights = _TO_REPLACE & ~(DELETE if root else 0) if folder else _TO_WRITE
    groups = _everyone_with(rules, rights)
    if groups:
        kept = {user: "F"} if rules.owner == user and user not in (SYSTEM, ADMINISTRATORS) else {}
        # They can still read it: a service account may need to.
        kept |= dict.fromkeys((group for group in groups if group in _EVERYONE), "RX") or {"S-1-5-32-545": "RX"}
        removed = groups - kept.keys()
        return f"everyone can write to {path} ({_named(groups)})", _icacls(path, kept, removed, folder=folder)
    if rules.owner not in (SYSTEM, ADMINISTRATORS, _TRUSTED_INSTALLER, user):
        hint = f"Run: icacls {_quoted(path)} /setowner *{ADMINISTRATORS}, or use a file of your own."
        return f"{path} belongs to another account ({rules.owner})", hint
    return None


def hint_to_grant_read_rules(path: str, user: str) -> str:
    """Return the hint with the command that lets an account see a folder's rules, and nothing more."""
    return f'Run: icacls {_quoted(path)} /grant "*{user}:(RC,RA,S)"'


def hint_to_grant_read(path: str, user: str) -> str:
    """Return the hint with the command that lets an account read a file."""
    return f'Run: icacls {_quoted(path)} /grant "*{user}:R"'


def private(user: str, *, folder: bool = False) -> str:
    """Return the rules, in SDDL, of a file that only this account, Administrators and SYSTEM can use.

    Nothing is inherited. The account itself is listed: files that an administrator creates belong to Administrators,
    and in a program that is not elevated the same person is not one of them.
    """
    flags = "OICI" if folder else ""
    accounts = dict.fromkeys((SYSTEM, ADMINISTRATORS, user))
    return "D:P" + "".join(f"(A;{flags};FA;;;{account})" for account in accounts)


def _everyone_with(rules: SecurityDescriptor, rights: int) -> set[str]:
    """Return the groups in `_EVERYONE` that have any of these rights."""
    allowed = rules.allowed(rights)
    if allowed is None:
        return {"S-1-1-0"}
    return {sid for sid in allowed if _name(sid)}


def _name(sid: str) -> str | None:
    """Return the English name of a broad group; None for any other account."""
    of_domain = re.fullmatch(r"S-1-5-21-\d+-\d+-\d+-(\d+)", sid)
    return _OF_A_DOMAIN.get(of_domain[1]) if of_domain else _EVERYONE.get(sid)


def _named(groups: Iterable[str]) -> str:
    return ", ".join(f"{_name(sid)}, {sid}" for sid in sorted(groups))


def _icacls(path: str, kept: dict[str, str], removed: Iterable[str | None], *, folder: bool = False) -> str:
    """Return the command that grants access only to SYSTEM, Administrators and `kept`, and disables inheritance."""
    below = "(OI)(CI)" if folder else ""
    grants = {SYSTEM: "F", ADMINISTRATORS: "F", **kept}
    line = f"Run: icacls {_quoted(path)} /inheritance:r /grant:r "
    line += " ".join(f'"*{sid}:{below}{right}"' for sid, right in grants.items())
    if named := " ".join(f'"*{sid}"' for sid in sorted(filter(None, removed))):
        line += f" /remove:g {named}"
    return line


def _quoted(path: str) -> str:
    # A backslash before the quote would escape it; names on Windows contain no quotes.
    return f'"{path}."' if path.endswith("\\") else f'"{path}"'
