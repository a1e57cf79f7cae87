"""A job runs as an account of its own, and root has set up its key and its configuration."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import keyvouch
from accounts import OTHER, SERVICE, answer_as, only_root, public  # noqa: F401 - a fixture
from acls import acl, set_acl
from keyvouch import cli, config
from keyvouch._system import files, tls
from keyvouch._system.files import check_trusted
from keyvouch._system.files.accounts import user_name
from keyvouch._system.files.reading import read_private_with_status
from keyvouch.errors import ConfigurationError
from stores.key_material import certify, new_key, pem_of, write

pytestmark = only_root


@pytest.fixture
def etc(public: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's folder for keyvouch, as root makes it under a umask of 077, with a configuration and a key."""
    folder = public / "etc"
    folder.mkdir(mode=0o700)
    (folder / "config.toml").write_text("[profiles.nightly]\ntenant = 't'\n")
    (folder / "config.toml").chmod(0o600)
    key = new_key()
    write(folder / "app.pem", pem_of(key, certify(key)))
    user = public / "home" / "config.toml"
    monkeypatch.setattr(files, "configuration_files", lambda: [user, folder / "config.toml"])
    sign()  # imports what the other account could not
    return folder


def profile() -> str:
    return repr(config.load().profile("nightly"))


def sign() -> str:
    with keyvouch.open_signer(config_key()) as signer:
        return f"signed {len(signer.sign(b'x', 'ES256'))}"


def config_key() -> str:
    return f"pem:{files.configuration_files()[-1].parent}/app.pem"


def shell(line: str) -> None:
    subprocess.run(["sh", "-eu", "-c", line], check=True)


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
def test_account_without_a_group_of_its_own(etc: Path, groups: dict[int, str], name: str) -> None:
    """If others are in its primary group, or may join it, the account gets access by its name."""
    groups[SERVICE] = name
    etc.chmod(0o755)
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


# Families


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


@pytest.mark.parametrize("owns", [False, True])
def test_new_key_in_a_folder_for_an_account(etc: Path, owns: bool) -> None:
    """If the folder is for another account, the line that lets it read the new key is printed, and helps."""
    os.chown(etc, SERVICE if owns else 0, SERVICE)
    etc.chmod(0o700 if owns else 0o750)
    _, told = new_member(etc)
    (path,) = etc.glob("job-*")
    assert f"Run: chgrp {SERVICE} {path} && chmod g+rX {path}\n" in told
    shell(told.partition("Run: ")[2].partition("\n")[0])
    assert files.readers_hint(path) == ""

    def sign_with_new() -> str:
        with keyvouch.open_signer(f"pem:{path}") as signer:
            return f"signed {len(signer.sign(b'x', 'ES256'))}"

    assert answer_as(SERVICE, sign_with_new).startswith("signed")


@pytest.mark.parametrize("group", [0, 27, 42, 50])
def test_folder_of_the_system_is_for_nobody(etc: Path, group: int) -> None:
    """A folder for a group of the system does not say that this group is to read a key."""
    os.chown(etc, 0, group)
    etc.chmod(0o750)
    assert "chgrp" not in new_member(etc)[1]


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


@pytest.mark.parametrize("owner", [0, SERVICE])
def test_file_of_another_account_is_never_changed(public: Path, owner: int) -> None:
    """The hint names the owner of a file that others can write to, and no command that only the owner may run."""
    path = public / "config.toml"
    path.write_text("")
    path.chmod(0o666)
    os.chown(path, owner, owner)

    def check() -> str:
        check_trusted(path)
        return "trusted"

    for account in {0, SERVICE, OTHER} - {owner}:
        told = answer_as(account, check)
        assert f"everyone can write to {path}" in told
        assert f"Ask {user_name(owner)}, its owner" in told
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
