"""Who has too much access to a file on Windows, and the command line that fixes it."""

from __future__ import annotations

import pytest

from keyvouch._system.windows.access_rules import (
    distrust,
    hint_to_grant_read,
    hint_to_grant_read_rules,
    private,
    too_many_readers,
)
from keyvouch.security_descriptor import (
    ALLOW,
    DELETE,
    DELETE_CHILD,
    DENY,
    FILE_ALL_ACCESS,
    GENERIC_ALL,
    GENERIC_READ,
    INHERIT_ONLY,
    INHERITED,
    WRITE_DAC,
    Ace,
    SecurityDescriptor,
)

SYSTEM, ADMINISTRATORS, USERS, EVERYONE = "S-1-5-18", "S-1-5-32-544", "S-1-5-32-545", "S-1-1-0"
AUTHENTICATED, GUESTS, CREATOR_OWNER = "S-1-5-11", "S-1-5-32-546", "S-1-3-0"
TRUSTED_INSTALLER = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"
ME, OTHER = "S-1-5-21-1-2-3-1104", "S-1-5-21-1-2-3-1105"
READ, MODIFY, FULL = 0x1200A9, 0x1301BF, FILE_ALL_ACCESS
"""What icacls shows as RX, M and F."""
CREATE = 0x116
"""WD, AD, WEA, WA: what Users may do in %ProgramData% and in folders created there."""
BELOW = 0x3
"""(OI)(CI): files and folders below inherit the rule."""


def rules(*allowed: tuple[str, int], owner: str = ADMINISTRATORS, inherited: bool = False) -> SecurityDescriptor:
    """Return the rules that Windows sets by default, followed by the given ones."""
    flags = INHERITED if inherited else 0
    aces = [Ace(ALLOW, flags, mask, sid) for sid, mask in ((SYSTEM, FULL), (ADMINISTRATORS, FULL), *allowed)]
    return SecurityDescriptor(owner, dacl=tuple(aces))


@pytest.mark.parametrize(
    "group",
    [
        *(EVERYONE, AUTHENTICATED, USERS, GUESTS, "S-1-2-1", "S-1-5-4", "S-1-5-7", "S-1-5-113"),
        *("S-1-5-21-7-8-9-513", "S-1-5-21-7-8-9-514"),
    ],
)
def test_groups_of_everyone(group: str) -> None:
    """Everyone, Authenticated Users, Users, Guests and the like, and Domain Users of any domain, count as everyone."""
    assert too_many_readers("C:\\x", rules((group, READ)), ME)
    assert distrust("C:\\x", rules((group, MODIFY)), ME)


@pytest.mark.parametrize("account", [ME, OTHER, "S-1-5-21-7-8-9-512", "S-1-5-80-1-2-3-4-5", "S-1-15-2-1", "S-1-3-4"])
def test_explicit_accounts_may_have_access(account: str) -> None:
    """An account or a group that somebody chose may read and write, just as a POSIX group may read."""
    assert too_many_readers("C:\\x", rules((account, FULL)), ME) is None
    assert distrust("C:\\x", rules((account, FULL)), ME) is None


@pytest.mark.parametrize("mask", [READ, GENERIC_READ, GENERIC_ALL, WRITE_DAC])
def test_rights_that_include_reading(mask: int) -> None:
    """Generic rights count as the rights they map to; an account that may change the rules can gain read access."""
    assert too_many_readers("C:\\x", rules((USERS, mask)), ME)


def test_rules_that_do_not_grant_reading() -> None:
    """A rule that is only inherited, a denial, and the right to read attributes do not let anyone read."""
    aces = (
        Ace(ALLOW, INHERIT_ONLY | BELOW, FULL, USERS),
        Ace(DENY, 0, FULL, EVERYONE),
        Ace(ALLOW, 0, FULL, EVERYONE),
        Ace(ALLOW, 0, 0x120080, USERS),
    )
    assert too_many_readers("C:\\x", SecurityDescriptor(ME, dacl=aces), ME) is None


def test_missing_and_empty_dacl() -> None:
    """Without a DACL everyone has full access; with an empty one nobody has any."""
    assert too_many_readers("C:\\x", SecurityDescriptor(ME, dacl=None), ME)
    assert distrust("C:\\x", SecurityDescriptor(ME, dacl=None), ME)
    assert too_many_readers("C:\\x", SecurityDescriptor(ME, dacl=()), ME) is None


def test_remedy_for_readers() -> None:
    """The command keeps SYSTEM, Administrators and the reading account, by SID, and removes the group's own rule."""
    who, remedy = too_many_readers(r"C:\ProgramData\keyvouch\app.pfx", rules((USERS, READ)), ME) or ("", "")
    assert who == "Users, S-1-5-32-545"
    assert remedy == (
        'Run: icacls "C:\\ProgramData\\keyvouch\\app.pfx" '
        f'/inheritance:r /grant:r "*S-1-5-18:F" "*S-1-5-32-544:F" "*{ME}:R" /remove:g "*S-1-5-32-545"'
    )


def test_remedy_for_inherited_readers() -> None:
    """Disabling inheritance removes inherited rules; the owner keeps all rights, and SYSTEM is named once."""
    _, hint = too_many_readers("C:\\x", rules((USERS, READ), owner=ME, inherited=True), ME) or ("", "")
    assert hint == f'Run: icacls "C:\\x" /inheritance:r /grant:r "*S-1-5-18:F" "*S-1-5-32-544:F" "*{ME}:F"'
    _, hint = too_many_readers("C:\\x", rules((USERS, READ), inherited=True), SYSTEM) or ("", "")
    assert hint == 'Run: icacls "C:\\x" /inheritance:r /grant:r "*S-1-5-18:F" "*S-1-5-32-544:F"'


DEFAULTS = {
    "C:": ("C:\\", TRUSTED_INSTALLER, [(AUTHENTICATED, 0x4), (USERS, READ)]),
    "D:": ("D:\\", ADMINISTRATORS, [(AUTHENTICATED, MODIFY), (USERS, READ)]),
    "ProgramData": (r"C:\ProgramData", SYSTEM, [(USERS, READ), (USERS, CREATE)]),
    "Program Files": (r"C:\Program Files", TRUSTED_INSTALLER, [(USERS, READ), ("S-1-15-2-1", READ)]),
    "profile": (r"C:\Users\me", SYSTEM, [(ME, FULL)]),
}
"""What `icacls` shows on a new Windows: path, owner, and who has rights besides SYSTEM and Administrators."""


@pytest.mark.parametrize("name", DEFAULTS)
def test_default_folders_trusted(name: str) -> None:
    """Folders as Windows creates them may be above a configuration: adding files does not replace any."""
    path, owner, allowed = DEFAULTS[name]
    assert distrust(path, rules(*allowed, owner=owner), ME, folder=True, root=path.endswith("\\")) is None


def test_folder_created_in_a_drive_root_is_rejected() -> None:
    """Authenticated Users may rename and delete such a folder; the command leaves them what they need for reading."""
    why, remedy = distrust(r"C:\jobs", rules((AUTHENTICATED, MODIFY), inherited=True), ME, folder=True) or ("", "")
    assert why == r"everyone can write to C:\jobs (Authenticated Users, S-1-5-11)"
    assert remedy == (
        r'Run: icacls "C:\jobs" /inheritance:r /grant:r "*S-1-5-18:(OI)(CI)F" "*S-1-5-32-544:(OI)(CI)F"'
        ' "*S-1-5-11:(OI)(CI)RX"'
    )


@pytest.mark.parametrize("mask", [DELETE, DELETE_CHILD, WRITE_DAC])
def test_folder_with_replaceable_files_is_rejected(mask: int) -> None:
    """A right to delete the folder or its contents, or to change its rules, is refused."""
    assert distrust(r"C:\jobs", rules((EVERYONE, mask)), ME, folder=True)


def test_append_right_on_a_file_is_rejected() -> None:
    """The right that adds files to a folder allows writing to a file."""
    assert distrust(r"C:\ProgramData\keyvouch\config.toml", rules((USERS, 0x4)), ME)


@pytest.mark.parametrize("owner", [SYSTEM, ADMINISTRATORS, TRUSTED_INSTALLER, ME])
def test_owners_trusted(owner: str) -> None:
    """The system's own accounts and this account are trusted owners."""
    assert distrust("C:\\x", rules((USERS, READ), owner=owner), ME) is None


@pytest.mark.parametrize("owner", [OTHER, USERS, None])
def test_other_owners_are_rejected(owner: str | None) -> None:
    """Another owner could grant itself all rights; this includes a file that others put into %ProgramData%."""
    told = distrust(r"C:\ProgramData\keyvouch\config.toml", SecurityDescriptor(owner, dacl=()), ME)
    assert told == (
        rf"C:\ProgramData\keyvouch\config.toml belongs to another account ({owner})",
        r'Run: icacls "C:\ProgramData\keyvouch\config.toml" /setowner *S-1-5-32-544, or use a file of your own.',
    )


def test_drive_root_is_quoted_in_commands() -> None:
    """The trailing backslash of a root path does not escape the closing quote."""
    assert (
        '"D:\\."' in (distrust("D:\\", SecurityDescriptor(OTHER, dacl=()), ME, folder=True, root=True) or ("", ""))[1]
    )


def test_commands_that_grant_access() -> None:
    """An account may read a file, or see a folder's rules; both are named by SID."""
    assert hint_to_grant_read(r"C:\x", ME) == f'Run: icacls "C:\\x" /grant "*{ME}:R"'
    assert hint_to_grant_read_rules(r"C:\x", ME) == f'Run: icacls "C:\\x" /grant "*{ME}:(RC,RA,S)"'


def test_private_rules() -> None:
    """What keyvouch writes does not inherit from above, and its folders pass their rules on."""
    assert private(ME) == f"D:P(A;;FA;;;S-1-5-18)(A;;FA;;;S-1-5-32-544)(A;;FA;;;{ME})"
    assert private(SYSTEM, folder=True) == "D:P(A;OICI;FA;;;S-1-5-18)(A;OICI;FA;;;S-1-5-32-544)"
