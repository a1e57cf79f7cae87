"""Who else can write to what is loaded, run or trusted: groups and access control lists."""

import grp
import os
import pwd
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import keyvouch
from acls import acl, set_acl
from keyvouch import certificate, https
from keyvouch._system import files
from keyvouch._system.files import check_trusted, check_trusted_certificates, foreign_writers
from keyvouch.entra.transport import Session
from keyvouch.errors import ConfigurationError
from keyvouch.local_key import make_key
from keyvouch.stores import pem

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these lists")

ME = os.geteuid() if sys.platform != "win32" else 0
STRANGER, TEAM = 60123, 60124


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[SimpleNamespace]]:
    """The user and group databases: this account, and another one that shares a group with a colleague."""
    users = [SimpleNamespace(pw_name="me", pw_uid=ME, pw_gid=60200)]
    groups = [
        SimpleNamespace(gr_name="me", gr_gid=60200, gr_mem=[]),
        SimpleNamespace(gr_name="team", gr_gid=TEAM, gr_mem=["me", "colleague"]),
    ]

    def first(found: list[SimpleNamespace], key: str, value: object) -> SimpleNamespace:
        for each in found:
            if getattr(each, key) == value:
                return each
        raise KeyError(value)

    monkeypatch.setattr(pwd, "getpwuid", lambda uid: first(users, "pw_uid", uid))
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: first(groups, "gr_gid", gid))
    return {"users": users, "groups": groups}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    path = folder / "config"
    path.write_bytes(b"")
    path.chmod(0o644)
    return path


def group_writable(path: Path, gid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a path group-writable; if only root may change its group, the status is faked."""
    path.chmod(0o775)
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        status = real(self)
        if self != path:
            return status
        fields = list(status[:10])
        fields[5] = gid
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "lstat", lstat)


# Groups


@pytest.mark.parametrize("what", ["file", "folder"])
def test_group_with_members_can_write(
    file: Path, what: str, accounts: dict[str, list[SimpleNamespace]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file or folder that other members of a group can write to is not trusted."""
    path = file if what == "file" else file.parent
    group_writable(path, TEAM, monkeypatch)
    with pytest.raises(ConfigurationError, match=f"the group team can write to {path}") as caught:
        check_trusted(file)
    assert caught.value.hint == f"Run: chmod g-w {path}"


@pytest.mark.parametrize("gid", [0, 60200])
def test_group_of_root_or_private_group(
    file: Path, gid: int, accounts: dict[str, list[SimpleNamespace]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's group may write, and so may a group whose only member is the owner: a umask of 002 is common."""
    group_writable(file, gid, monkeypatch)
    check_trusted(file)


@pytest.mark.parametrize("how", ["listed", "primary", "not my own", "unknown"])
def test_private_group_has_no_other_member(
    file: Path, how: str, accounts: dict[str, list[SimpleNamespace]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group is private only if no other account is in it, either as a member or through its primary group."""
    if how == "listed":
        accounts["groups"][0].gr_mem = ["me", "colleague"]
    elif how == "primary":
        accounts["users"].append(SimpleNamespace(pw_name="colleague", pw_uid=STRANGER, pw_gid=60200))
    elif how == "not my own":
        accounts["users"][0].pw_gid = 60201
    else:
        accounts["groups"].clear()
    group_writable(file, 60200, monkeypatch)
    with pytest.raises(ConfigurationError, match="the group (me|60200) can write"):
        check_trusted(file)


def test_group_in_a_sticky_folder(
    file: Path, accounts: dict[str, list[SimpleNamespace]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sticky folder a group cannot replace the files of others."""
    group_writable(file.parent, TEAM, monkeypatch)
    file.parent.chmod(0o1775)
    check_trusted(file)


def test_user_databases_are_read_only_if_needed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no group can write, as almost everywhere, no user database is read."""
    monkeypatch.setattr(pwd, "getpwall", lambda: pytest.fail("read"))
    monkeypatch.setattr(os, "getxattr", lambda *_, **__: pytest.fail("read"))
    foreign_writers._check_mode(file, file)


# Access control lists


@linux
@pytest.mark.parametrize("what", ["file", "folder"])
def test_user_with_access(file: Path, what: str, accounts: dict[str, list[SimpleNamespace]]) -> None:
    """If an access control list gives a user write access, it is refused with the command that removes it."""
    path = file if what == "file" else file.parent
    set_acl(path, acl(owner=7, users={STRANGER: 6}))
    with pytest.raises(ConfigurationError, match=f"the user {STRANGER} can write to {path}") as caught:
        check_trusted(file)
    assert caught.value.hint.endswith(f"un: setfacl -x u:{STRANGER} {path}")


@linux
def test_group_with_access(file: Path, accounts: dict[str, list[SimpleNamespace]]) -> None:
    """So is a named group that has other members."""
    set_acl(file, acl(groups={TEAM: 2}))
    with pytest.raises(ConfigurationError, match="the group team can write") as caught:
        check_trusted(file)
    assert caught.value.hint.endswith(f"un: setfacl -x g:team {file}")


@linux
@pytest.mark.parametrize(
    "attribute",
    [
        acl(users={STRANGER: 4}),
        acl(users={STRANGER: 6}, mask=4),
        acl(users={0: 6, ME: 6}),
        acl(groups={0: 6, 60200: 6}),
        acl(groups={TEAM: 6}, group=6, mask=0),
    ],
    ids=["reads", "masked", "trusted users", "trusted groups", "masked groups"],
)
def test_access_control_list_without_write_access(
    file: Path, attribute: bytes, accounts: dict[str, list[SimpleNamespace]]
) -> None:
    """Read access, rights masked out, and trusted accounts do no harm."""
    set_acl(file, attribute)
    check_trusted(file)


@linux
def test_default_list_of_a_folder(file: Path) -> None:
    """A folder's default list does not allow writing to the folder; each file is checked itself."""
    set_acl(file.parent, acl(owner=7, users={STRANGER: 7}), default=True)
    check_trusted(file)


@linux
@pytest.mark.parametrize("attribute", [b"", b"\x02\x00", b"\x03\x00\x00\x00", b"\x02\x00\x00\x00\x01\x00"])
def test_invalid_access_control_list(file: Path, attribute: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that cannot be parsed is an error; it is not taken to deny writing."""
    file.chmod(0o664)
    monkeypatch.setattr(os, "getxattr", lambda *_, **__: attribute or b"\x00")
    with pytest.raises(OSError, match="Invalid access control list"):
        check_trusted(file)


# What is trusted


@pytest.fixture
def certificates(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate to trust for TLS; the environment names no other one."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    key = make_key("P-256")
    file.write_bytes(pem.write_chain([certificate.self_signed(key, "CN=root", 1)]))
    return file


def refused(function: object, *arguments: object, **options: object) -> str:
    with pytest.raises(ConfigurationError, match="is not trusted: everyone can write to") as caught:
        function(*arguments, **options)  # type: ignore[operator]
    return caught.value.hint


@pytest.mark.parametrize("variable", ["", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_certificates_for_tls(certificates: Path, what: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that can write to `ca-file`, or to the environment's replacement for it, could read every secret."""
    (certificates if what == "file" else certificates.parent).chmod(0o777)
    if variable:
        monkeypatch.setenv(variable, str(certificates))
    named = None if variable else str(certificates)
    refused(https.Pools, https.Limits(), ca_file=named)
    refused(Session, named)


@pytest.mark.parametrize("variable", ["", "SSL_CERT_DIR"])
def test_folder_of_certificates(certificates: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of certificates each must be trusted, whatever its link's target; a dangling link is skipped."""
    folder = certificates.parent / "certs"
    folder.mkdir()
    (folder / "dangling.0").symlink_to("nowhere")
    (folder / "0a1b2c3d.0").symlink_to(certificates)
    check_trusted_certificates(folder)
    certificates.chmod(0o666)
    if variable:
        monkeypatch.setenv(variable, f"/nowhere{os.pathsep}{folder}")
    assert refused(https.Pools, https.Limits(), ca_file=None if variable else str(folder)).endswith(str(certificates))


def test_certificates_of_the_system() -> None:
    """Debian's /etc/ssl/certs is full of links, and is trusted."""
    if folder := ssl.get_default_verify_paths().capath:
        check_trusted_certificates(Path(folder))


@pytest.mark.parametrize("which", [0, 1])
def test_certificate_of_a_client(certificates: Path, tmp_path: Path, which: int) -> None:
    """A client's certificate and key must be trusted, too."""
    other = tmp_path / "other.pem"
    other.write_bytes(b"")
    pair = [str(other), str(other)]
    pair[which] = str(certificates)
    certificates.chmod(0o602)
    refused(https.Pools, https.Limits(), client_certificate=tuple(pair))


def test_certificate_file(tmp_path: Path) -> None:
    """`certificate-file` decides which certificate an assertion names, so others must not be able to write it."""
    key = make_key("P-256")
    chain = [certificate.self_signed(key, "CN=app", 1)]
    files.write_private(tmp_path / "app.key", pem.write(key, [], None, "app"))
    files.write_private(tmp_path / "app.crt", pem.write_chain(chain))
    uri = f"pem:{tmp_path / 'app.key'}?certificate-file={tmp_path / 'app.crt'}"
    keyvouch.open_signer(uri).close()
    (tmp_path / "app.crt").chmod(0o666)
    assert refused(keyvouch.open_signer, uri) == f"Run: chmod o-w {tmp_path / 'app.crt'}"


def test_kubernetes_volume(tmp_path: Path) -> None:
    """A kubelet volume is trusted: a sticky folder, and links of root to a folder that only root can write."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o1777)
    (volume / "..2026_01").mkdir(mode=0o755)
    (volume / "..2026_01" / "ca.crt").write_bytes(b"")
    (volume / "..data").symlink_to("..2026_01")
    (volume / "ca.crt").symlink_to("..data/ca.crt")
    check_trusted(volume / "ca.crt")
