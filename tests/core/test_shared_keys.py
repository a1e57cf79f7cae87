"""Root adds a key for the account of a job: who can read it, and the message if the account cannot."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import keyvouch
from accounts import OTHER, SERVICE, answer_as, etc, only_root, public, shell  # noqa: F401 - fixtures
from acls import acl, set_acl
from keyvouch import cli
from keyvouch._core import opening
from keyvouch._system import files
from keyvouch.secrets import SecretResolver
from stores.key_material import certify, new_key, pem_of, write

pytestmark = only_root


def family(folder: Path) -> str:
    """Make a family in which the account can read the older member; return its URI."""
    folder.chmod(0o755)
    old, new = (folder / f"job-{which}.pem" for which in ("a", "b"))
    for path, which, changed in ((old, 1, 1000), (new, 2, 2000)):
        key = new_key("P-256", which)
        write(path, pem_of(key, certify(key)))
        os.utime(path, (changed, changed))
    os.chown(old, 0, SERVICE)
    old.chmod(0o640)
    return f"pem:{folder}/job-*.pem?select=newest"


def warnings_of(act: Callable[[], object]) -> str:
    """Return the warnings that keyvouch logs meanwhile, in order."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("keyvouch").addHandler(handler)
    act()
    return "\n".join(records)


def test_newer_member_that_the_account_cannot_read(etc: Path) -> None:
    """Opening warns of it, with the line that lets the account read it; after that, it signs."""
    uri = family(etc)

    def use() -> None:
        with keyvouch.open_signer(uri) as signer:
            signer.sign(b"x", "ES256")
            signer.sign(b"x", "ES256")
            signer.reload()

    told = answer_as(SERVICE, lambda: warnings_of(use))
    assert told.count("A newer key of the family is not used") == 1
    assert f"{etc / 'job-b.pem'} cannot be read: Permission denied." in told
    shell(told.partition("Run as root: ")[2].partition("\n")[0])
    assert answer_as(SERVICE, lambda: keyvouch.open_signer(uri).uri + warnings_of(use)) == (
        keyvouch.open_signer(uri).uri
    )


def test_program_warns_of_a_new_member_once(etc: Path) -> None:
    """A program that is running when the member appears warns of it too."""
    uri = family(etc)
    new = (etc / "job-b.pem").rename(etc / "later")
    os.chown(etc, SERVICE, SERVICE)

    def use() -> None:
        with keyvouch.open_signer(uri) as signer:
            new.rename(etc / "job-b.pem")
            signer.reload()
            signer.reload()

    told = answer_as(SERVICE, lambda: warnings_of(use))
    assert told.count(f"not used: {etc / 'job-b.pem'} cannot be read") == 1


def test_skipped_key_of_a_profile(etc: Path) -> None:
    """The warning about a key that is skipped has the line that lets the account read it."""
    family(etc)
    keys = [f"pem:{etc}/{name}.pem" for name in ("job-b", "job-a")]

    def use() -> None:
        opening.open_first(keys, SecretResolver()).close()

    told = answer_as(SERVICE, lambda: warnings_of(use))
    assert f"trying the next one: {etc / 'job-b.pem'} cannot be read: Permission denied.\nRun as root: chgrp" in told


def new_member(folder: Path, *, imports: bool = False) -> tuple[os.stat_result, str]:
    """Add a member to a family with the command; return the status of its file, and standard error."""
    uri = f"pem:{folder}/job-*.pem"
    how = ["import", "--from", f"pem:{folder}/app.pem"] if imports else ["new", "--further", "--key-type", "P-256"]
    found = CliRunner().invoke(cli.group, [*how, "--key", uri], env={"KEYVOUCH_CONFIG": os.devnull})
    assert found.exit_code == 0, found.output
    return max(folder.glob("job-2*.pem")).stat(), found.stderr


@pytest.mark.parametrize("imports", [False, True])
def test_new_member_has_the_group_of_the_others(etc: Path, imports: bool) -> None:
    """If a group can read all members, it can read the new one too."""
    family(etc)
    (etc / "job-b.pem").unlink()
    status, told = new_member(etc, imports=imports)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, SERVICE, 0o640)
    assert "chgrp" not in told


@pytest.mark.parametrize("case", ["other group", "closed member", "list", "folder of others", "root's group"])
def test_new_member_is_private_in_doubt(etc: Path, case: str) -> None:
    """If the members differ, or others could have put them there, only the owner can read the new one."""
    family(etc)
    old, other = etc / "job-a.pem", etc / "job-b.pem"
    os.chown(other, 0, SERVICE)
    other.chmod(0o640)
    match case:
        case "other group":
            os.chown(other, 0, OTHER)
        case "closed member":
            other.chmod(0o600)
        case "list":
            set_acl(other, acl(users={OTHER: 4}))
        case "folder of others":
            os.chown(etc, OTHER, OTHER)
        case "root's group":
            os.chown(old, 0, 0)
            os.chown(other, 0, 0)
    status, _ = new_member(etc)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o600)


def test_new_key_in_a_folder_for_an_account(etc: Path) -> None:
    """If the folder is for another account, the line that lets it read the new key is printed, and helps."""
    os.chown(etc, 0, SERVICE)
    etc.chmod(0o750)
    _, told = new_member(etc)
    (path,) = etc.glob("job-*")
    assert f"Run: chgrp {SERVICE} {path} && chmod g+rX {path}\n" in told
    shell(told.partition("Run: ")[2].partition("\n")[0])
    assert files.readers_hint(path) == ""

    def sign_with_new() -> str:
        with keyvouch.open_signer(f"pem:{path}") as signer:
            return f"signed {len(signer.sign(b'x', 'ES256'))}"

    assert answer_as(SERVICE, sign_with_new).startswith("signed")


@pytest.mark.parametrize("case", ["owner", "group", "everyone", "folder above"])
def test_no_line_for_root_in_a_folder_of_others(etc: Path, case: str) -> None:
    """Who can replace the new key by a link could have root give them another file: they create the key themselves."""
    folder = etc / "keys"
    folder.mkdir()
    os.chown(folder, SERVICE if case == "owner" else 0, SERVICE)
    folder.chmod({"group": 0o770, "everyone": 0o777}.get(case, 0o750))
    if case == "folder above":
        os.chown(etc, SERVICE, SERVICE)
    _, told = new_member(folder)
    assert "chgrp" not in told
    assert "setfacl" not in told
    assert "Create the key as the account that uses it" in told


def test_files_in_a_sticky_folder_are_no_members(etc: Path) -> None:
    """Anyone can put a file there: that does not say that its owner is to read a new key."""
    etc.chmod(0o1777)
    old = write(etc / "job-a.pem", pem_of(new_key("P-256"), certify(new_key("P-256"))))
    os.chown(old, SERVICE, SERVICE)
    _, told = new_member(etc)
    assert "Another account" not in told


@pytest.mark.parametrize("group", [0, 27, 42, 50])
def test_folder_of_the_system_is_for_nobody(etc: Path, group: int) -> None:
    """A folder for a group of the system does not say that this group is to read a key."""
    os.chown(etc, 0, group)
    etc.chmod(0o750)
    assert "chgrp" not in new_member(etc)[1]
