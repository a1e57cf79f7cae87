"""A job runs as an account of its own, and root has set up its key and its configuration."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import keyvouch
from accounts import OTHER, SERVICE, answer_as, etc, only_root, public, shell, sign  # noqa: F401 - fixtures
from keyvouch import cli, config
from keyvouch._system import files, tls
from keyvouch._system.files import check_trusted
from keyvouch._system.files.reading import read_private_with_status
from keyvouch.errors import ConfigurationError
from stores.key_material import certify, new_key, pem_of, write

pytestmark = only_root


def profile() -> str:
    return repr(config.load().profile("nightly"))


def test_configuration_in_a_closed_folder_is_not_reported_as_missing(etc: Path) -> None:
    """If the account cannot enter the folder, the error says so, and names the configuration."""
    told = answer_as(SERVICE, profile)
    assert f"The configuration {etc / 'config.toml'} cannot be read: Permission denied" in told
    assert "No configuration" not in told


def test_profile_cannot_be_picked_in_a_closed_folder(etc: Path) -> None:
    """Without a profile's name, the closed folder is reported too."""
    assert "cannot be read: Permission denied" in answer_as(SERVICE, lambda: config.load().pick())


@pytest.mark.parametrize("act", [profile, sign])
def test_hint_is_the_line_that_helps(etc: Path, act: Callable[[], str]) -> None:
    """The lines in the hints, run by root, let the account read what it needs; nobody else can."""
    for _ in range(3):
        told = answer_as(SERVICE, act)
        if "Run as root: " not in told:
            break
        shell(told.partition("Run as root: ")[2].partition("\n")[0])
    assert told.startswith(("<Profile", "signed"))
    assert "cannot be read: Permission denied" in answer_as(OTHER, act)


def test_hint_names_group_folder_and_file(etc: Path) -> None:
    """The hint changes the closed folder first: nobody can know from outside whether the file exists."""
    file = etc / "config.toml"
    told = answer_as(SERVICE, profile).splitlines()
    assert told[-2:] == [
        f"Run as root: chgrp {SERVICE} {etc} && chmod g+rX {etc}",
        f"Then, if it exists: chgrp {SERVICE} {file} && chmod g+rX {file}",
    ]


def test_hint_works_without_the_file(etc: Path) -> None:
    """The line in the hint also succeeds if the folder does not contain the file, and is not repeated then."""
    (etc / "config.toml").unlink()
    told = answer_as(SERVICE, profile)
    shell(told.partition("Run as root: ")[2].partition("\n")[0])
    assert "No configuration file was found" in answer_as(SERVICE, profile)


def test_hint_for_a_file_in_an_open_folder(etc: Path) -> None:
    """If only the file is closed, only the file is changed; a group that is already right stays."""
    etc.chmod(0o755)
    os.chown(etc / "config.toml", 0, SERVICE)
    told = answer_as(SERVICE, profile)
    assert told.endswith(f"\nRun as root: chmod g+rX {etc / 'config.toml'}")


def test_hint_for_a_family_in_a_closed_folder(etc: Path) -> None:
    """A family needs its folder to be listed."""
    etc.chmod(0o711)
    told = answer_as(SERVICE, lambda: str(keyvouch.open_signer(f"pem:{etc}/app-*.pem")))
    assert f"chgrp {SERVICE} {etc} && chmod g+rX {etc}" in told


def test_file_of_the_account_itself(etc: Path) -> None:
    """What the account owns, it can open itself."""
    etc.chmod(0o755)
    os.chown(etc / "app.pem", SERVICE, SERVICE)
    (etc / "app.pem").chmod(0)
    assert f"Run: chmod u+rX {etc / 'app.pem'}" in answer_as(SERVICE, sign)


def test_home_directory_is_not_opened(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another account's home directory is never opened: the file has to be moved."""
    monkeypatch.setattr(pwd, "getpwall", lambda: [SimpleNamespace(pw_dir=str(etc), pw_uid=0)])
    told = answer_as(SERVICE, sign)
    assert f"Move it out of {etc}, another account's home directory" in told
    assert "chmod" not in told


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Names of further groups and of their accounts, which are all called `nightly`."""
    known: dict[int, str] = {}

    def find(gid: int) -> SimpleNamespace:
        return SimpleNamespace(gr_name=known[gid], gr_mem=[])

    monkeypatch.setattr(grp, "getgrgid", find)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_name="nightly", pw_gid=uid))
    return known


def closed_to(gid: int, etc: Path) -> str:
    """Return the hint for a folder that this group may enter, and the account may not."""
    os.chown(etc, 0, gid)
    etc.chmod(0o750)
    return answer_as(SERVICE, sign).partition("\n")[2]


def test_group_that_may_read_is_joined(etc: Path, groups: dict[int, str]) -> None:
    """A file for a group that was made for several accounts keeps it, and the account is added to the group."""
    groups |= {2000: "key-readers", SERVICE: "nightly"}
    assert closed_to(2000, etc) == (
        "Run as root: usermod -a -G key-readers nightly\nThen restart what runs as nightly."
    )


@pytest.mark.parametrize(("gid", "name"), [(27, "sudo"), (42, "shadow"), (6, "disk"), (100, "users"), (1500, "jobs")])
def test_group_of_the_system_or_of_another_account_is_not_joined(
    etc: Path, groups: dict[int, str], monkeypatch: pytest.MonkeyPatch, gid: int, name: str
) -> None:
    """Membership would give the account more than the file: it gets the file instead."""
    groups |= {gid: name, SERVICE: "nightly"}
    monkeypatch.setattr(pwd, "getpwall", lambda: [SimpleNamespace(pw_uid=1500, pw_gid=1500, pw_name="x", pw_dir="/x")])
    hint = closed_to(gid, etc)
    assert hint.startswith(f"Run as root: chgrp nightly {etc} && chmod g+rX {etc}\n")
    assert hint.endswith(f"\nThe group {name}, which has access now, then loses it.")
    assert "usermod" not in hint


@pytest.mark.parametrize("name", ["nogroup", "users", "root"])
def test_account_without_a_group_of_its_own(
    etc: Path, groups: dict[int, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If others are in its primary group, or may join it, the account gets access by its name, with setfacl."""
    groups[SERVICE] = name
    etc.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "Install the package acl, then run as root: setfacl -m u:nightly:rX" in answer_as(SERVICE, sign)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert f"Run as root: setfacl -m u:nightly:rX {etc / 'app.pem'}" in answer_as(SERVICE, sign)
    (etc / "app.pem").chmod(0o644)
    assert f"Run as root: setfacl -m u:nightly:r {etc / 'app.pem'} && chmod o-rwx" in answer_as(SERVICE, sign)


def test_inaccessible_home_is_named(etc: Path, public: Path) -> None:
    """With another account's HOME and no configuration for the machine, the hint says to correct HOME."""
    (etc / "config.toml").unlink()
    etc.chmod(0o755)
    (public / "home").mkdir(mode=0o700)
    told = answer_as(SERVICE, profile)
    assert f"{public / 'home' / 'config.toml'} cannot be read" in told
    assert f"Set HOME to this account's home directory, or use {etc / 'config.toml'}" in told


def test_home_of_another_account_is_named(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If HOME is another account's, as after `su`, errors about the configuration and the token cache say so."""
    home = etc.parent / "home"
    home.mkdir(mode=0o755)
    (etc / "config.toml").unlink()
    etc.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(pwd, "getpwall", lambda: [SimpleNamespace(pw_dir=str(home), pw_uid=0)])
    sentence = f"HOME is {home}, which belongs to root: set it to this account's home directory."
    assert answer_as(SERVICE, profile).endswith(sentence)
    assert answer_as(SERVICE, files.foreign_home) == sentence
    assert answer_as(0, files.foreign_home) == ""
    os.chown(home, SERVICE, SERVICE)
    assert answer_as(SERVICE, files.foreign_home) == ""


def test_key_that_everyone_can_read(etc: Path) -> None:
    """If root has opened a key to everyone, the hint keeps it readable for the account."""
    etc.chmod(0o755)
    (etc / "app.pem").chmod(0o644)
    told = answer_as(SERVICE, sign)
    assert f"chgrp {SERVICE} {etc / 'app.pem'} && chmod g+r,o-rwx {etc / 'app.pem'}" in told
    shell(told.partition("Run as root: ")[2])
    assert answer_as(SERVICE, sign).startswith("signed")


def test_file_cannot_be_written(etc: Path) -> None:
    """A folder that others could write to would not be trusted: its owner has to write."""
    etc.chmod(0o755)

    def add() -> str:
        config.add_profile(etc / "new.toml", "n", {"tenant": "t"})
        return "added"

    told = answer_as(SERVICE, add)
    assert f"Run the command as root, who owns {etc}, or choose another location." in told


# Certificates to trust for TLS


@pytest.mark.parametrize("source", ["ca-file", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_certificates_that_the_account_cannot_read(
    etc: Path, monkeypatch: pytest.MonkeyPatch, source: str, closed: str
) -> None:
    """Wherever they are named, the hint has the lines that let the account read them."""
    path = write(etc / "ca.pem", pem_of(certify(new_key())))
    if closed == "file":
        etc.chmod(0o755)
    if source != "ca-file":
        monkeypatch.setenv(source, str(path))

    def connect() -> str:
        return type(tls.client_context(str(path) if source == "ca-file" else None)).__name__

    for _ in range(2 if closed == "folder" else 1):
        told = answer_as(SERVICE, connect)
        assert f"The trusted TLS certificates {path} cannot be read: Permission denied.\nRun as root: chgrp" in told
        shell(told.partition("Run as root: ")[2].partition("\n")[0])
    assert answer_as(SERVICE, connect) == "SSLContext"


def test_path_of_a_closed_configuration(etc: Path) -> None:
    """`keyvouch profile path` does not print the user's path if the machine's configuration is closed."""

    def path() -> str:
        found = CliRunner().invoke(cli.group, ["profile", "path"])
        return f"{found.output}{found.exception}"

    path()
    assert f"The configuration {etc / 'config.toml'} cannot be read" in answer_as(SERVICE, path)


# Commands only for files of one's own


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_device_is_never_changed(device: str) -> None:
    """A device is refused without a command that would change it for the whole machine."""
    with pytest.raises(ConfigurationError) as caught:
        check_trusted(Path(device))
    assert "chmod" not in caught.value.hint
    assert "chown" not in caught.value.hint
    assert "regular file" in caught.value.hint


@pytest.mark.parametrize("mode", [0o757, 0o775])
@pytest.mark.parametrize("account", [0, SERVICE])
def test_folder_of_root_that_others_can_write(etc: Path, account: int, mode: int) -> None:
    """Root and the account get the line that removes the permission from the folder of the configuration."""
    (etc / "config.toml").chmod(0o644)
    os.chown(etc, 0, OTHER)
    etc.chmod(mode)
    told = answer_as(account, profile)
    assert f"can write to {etc}.\nRun" in told
    shell(told.partition(": chmod ")[2].join(("chmod ", "")))
    assert answer_as(account, profile).startswith("<Profile")


def test_folder_of_another_account(etc: Path) -> None:
    """A configuration in the folder of another account needs root's help, and the line is complete."""
    etc.chmod(0o755)
    (etc / "config.toml").chmod(0o644)
    os.chown(etc, OTHER, OTHER)
    told = answer_as(SERVICE, profile)
    assert f"\nRun as root: chown root {etc}\n" in told
    shell(told.partition("Run as root: ")[2].partition("\n")[0])
    assert answer_as(SERVICE, profile).startswith("<Profile")


def test_file_of_another_account_is_never_changed(public: Path) -> None:
    """The hint names the owner of a file that others can write to, and no command that only the owner may run."""
    path = public / "config.toml"
    path.write_text("")
    path.chmod(0o666)
    os.chown(path, SERVICE, SERVICE)

    def check() -> str:
        check_trusted(path)
        return "trusted"

    for account in (0, OTHER):
        told = answer_as(account, check)
        assert f"everyone can write to {path}" in told
        assert f"Ask {SERVICE}, its owner" in told
        assert "chmod" not in told


def test_root_does_not_change_the_secret_of_another_account(public: Path) -> None:
    """Root is not told to run chmod in a folder that another account could have prepared."""
    path = write(public / "app.pem", b"x")
    path.chmod(0o644)
    os.chown(path, SERVICE, SERVICE)
    told = answer_as(0, lambda: str(read_private_with_status(path)))
    assert f"Ask {SERVICE}, its owner, to remove that permission" in told


def test_key_in_a_folder_that_the_account_may_not_enter(etc: Path) -> None:
    """Creating a key in a closed folder does not suggest creating the folder."""

    def create() -> str:
        with keyvouch.open_store(f"pem:{etc}/inside/new.pem") as store:
            return str(store.generate(keyvouch.KeySpec(key_type="P-256")))

    told = answer_as(SERVICE, create)
    assert "Permission denied" in told
    assert "Create the folder" not in told
