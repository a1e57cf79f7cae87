"""State and caches in folders that another account owns or can write to."""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msal
import pytest

from acls import acl, set_acl
from cached_entries import entry
from keyvouch._secrets import pin_records
from keyvouch._secrets.pin_attempts import single_try
from keyvouch._system import files
from keyvouch.entra import cached_token, locked_token_cache
from keyvouch.errors import ConfigurationError, SecretIncorrect

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can act for another account"
)

SERVICE, OTHER = 60123, 60124
"""Accounts that need not exist: only the uid matters."""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of root with files named like records, which must stay unchanged."""
    folder = tmp_path / "outside"
    (folder / "tree.json").mkdir(parents=True)
    names = ["victim.json", "tree.json/inside"]
    for name in names:
        (folder / name).write_bytes(b"of root")
    yield folder
    for name in names:
        assert (folder / name).read_bytes() == b"of root"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every account can reach and only its owner can write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def own(path: Path, account: int = SERVICE) -> Path:
    os.chown(path, account, account, follow_symlinks=False)
    return path


def give_to_group(folder: Path) -> None:
    os.chown(folder, -1, SERVICE)
    folder.chmod(0o770)


def as_account(account: int, act: Callable[[], bool]) -> bool:
    """Call a function in a process of another account, and return its result."""
    process = os.fork()
    if not process:
        try:
            os.setgroups([])
            os.setresgid(account, account, account)
            os.setresuid(account, account, account)
            os._exit(int(act()))
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, 1)
    return status == 1


# Refused PINs


@pytest.fixture
def state(own_folders: Path) -> Path:
    """The state folder of a service."""
    folder = own_folders / "state_directory"
    folder.mkdir()
    return own(folder)


def refused() -> Path:
    return files.state_folder() / "refused"


def test_unseal_does_not_follow_links(state: Path, outside: Path) -> None:
    """Root's `doctor --unseal` deletes nothing through a link of the service."""
    (state / "refused").symlink_to(outside)
    own(state / "refused")
    with pytest.raises(ConfigurationError, match="another account controls"):
        pin_records.forget_refusals()


def test_unseal_while_the_folder_is_swapped(state: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root deletes nothing if the folder becomes a link after its records have been listed."""
    folder = state / "refused"
    folder.mkdir()
    for name in ("victim.json", "tree.json"):
        (folder / name).write_bytes(b"{}")
    real = pin_records._remove

    def remove(*arguments: object) -> bool:
        with contextlib.suppress(OSError):
            folder.rename(state / "away")
            folder.symlink_to(outside)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pin_records, "_remove", remove)
    assert pin_records.forget_refusals() == 2
    assert not list((state / "away").iterdir())


@pytest.mark.parametrize("kind", ["link", "hard link", "folder"])
def test_refusal_that_cannot_be_recorded(
    state: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A link that replaces a record on a full disk does not get a file elsewhere truncated."""
    victim = outside / "victim.json"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def swap() -> None:
        (path,) = refused().glob("*.json")
        path.unlink()
        if kind == "folder":
            victim.rename(outside / path.name)
            shutil.rmtree(refused())
            refused().symlink_to(outside)
            own(refused())
        elif kind == "link":
            own(refused())
            path.symlink_to(victim)
            own(path)
        else:
            own(refused())
            os.link(victim, path)

    def try_wrong_pin() -> None:
        with monkeypatch.context() as patch, single_try("token", lambda: "wrong"):
            swap()
            patch.setattr(files, "write_private", full)
            raise SecretIncorrect("no")

    with pytest.raises(SecretIncorrect):
        try_wrong_pin()
    for each in outside.glob("*.json"):
        if each.is_file():
            assert each.read_bytes() == b"of root"
            each.rename(victim)


OPENED: dict[str, tuple[Callable[[Path], object], str]] = {
    "everyone": (lambda folder: folder.chmod(0o777), "everyone"),
    "group": (give_to_group, f"the group {SERVICE}"),
    "list": (lambda folder: set_acl(folder, acl(owner=7, users={OTHER: 7}, group=5)), f"the user {OTHER}"),
}
"""Ways to let others write to a folder, and who then can."""


@pytest.mark.parametrize("kind", OPENED)
def test_writable_records_folder_is_restricted(
    public: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """A folder that something else opened, as Kubernetes does with a volume, is closed with a warning."""
    monkeypatch.setenv("STATE_DIRECTORY", str(public))
    open_it, who = OPENED[kind]
    files.make_folder(refused())
    open_it(refused())
    with pytest.raises(SecretIncorrect), single_try("token", lambda: "wrong"):
        raise SecretIncorrect("no")
    assert caplog.messages == [f"Removed write permission for others from {refused()}: {who} had it."]
    (record,) = refused().glob("*.json")

    def delete() -> bool:
        with contextlib.suppress(PermissionError):
            record.unlink()
            return True
        return False

    assert not as_account(SERVICE, delete)
    assert not as_account(OTHER, delete)


@pytest.mark.parametrize("kind", OPENED)
def test_writable_records_folder_of_a_service(state: Path, kind: str) -> None:
    """Root leaves another account's folder as it is and tries no PIN: others could delete the refusal."""
    open_it, who = OPENED[kind]
    files.make_folder(refused())
    open_it(refused())
    own(refused())
    mode = refused().stat().st_mode
    with (
        pytest.raises(ConfigurationError, match=f"{refused()} cannot be used: {who} can write") as caught,
        single_try("token", str),
    ):
        pytest.fail("was tried")
    assert caught.value.hint == f"Ask {SERVICE}, its owner, to remove that permission, or use a file of your own."
    assert refused().stat().st_mode == mode


def test_records_folder_of_another_account(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service does not use a folder that another account owns."""
    monkeypatch.setenv("STATE_DIRECTORY", str(public))
    (public / "refused").mkdir()
    own(public / "refused", OTHER).chmod(0o755)

    def act() -> bool:
        try:
            with single_try("token", lambda: "right"):
                return False
        except ConfigurationError as error:
            return "belongs to another user" in error.message

    with contextlib.suppress(Exception), single_try("warm", lambda: "up"):
        pass
    assert as_account(SERVICE, act)


# Folders and locks


def test_parent_folders_are_not_world_writable(tmp_path: Path) -> None:
    """A service with umask 0 does not create world-writable folders."""
    before = os.umask(0)
    try:
        files.make_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o640])
def test_lock_readable_by_others_is_restricted(public: Path, mode: int) -> None:
    """A lock that something else opened to others is closed again: any reader could hold it."""
    path = public / ".lock"
    path.touch()
    path.chmod(mode)
    with files.locked(path, timeout=5):
        assert path.stat().st_mode & 0o777 == 0o600

    def act() -> bool:
        try:
            handle = os.open(path, os.O_RDONLY)
        except PermissionError:
            return True
        fcntl.flock(handle, fcntl.LOCK_EX)
        return False

    assert as_account(SERVICE, act)


# Tokens


def cached(account: str = "service") -> str:
    return json.dumps({"AccessToken": {"a": entry(secret=f"token-of-{account}")}})


def find(path: Path) -> str | None:
    found = cached_token.find_token(path, "client", ["scope"])
    return found.text if found else None


def keep(path: Path) -> None:
    """Cache another token, as a program does."""
    add_to(locked_token_cache.open_token_cache(lambda: path))


def add_to(cache: msal.TokenCache) -> None:
    cache.add(
        {
            "client_id": "client",
            "scope": ["scope"],
            "token_endpoint": "https://login.example/tenant/t",
            "response": {"access_token": "fresh", "expires_in": 3600, "token_type": "Bearer"},
        }
    )


def seen_by_msal(path: Path) -> list[str]:
    return [each["secret"] for each in locked_token_cache.open_token_cache(lambda: path).search("AccessToken")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Root's cache, with a token in it."""
    folder = tmp_path / "tokens"
    folder.mkdir(mode=0o700)
    path = folder / "cache.json"
    path.touch(mode=0o600)
    path.write_text(cached())
    return path


def put_link(path: Path, account: int) -> None:
    elsewhere = path.parent.parent / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    own(path, account)


def put_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def put_hard_link(path: Path) -> None:
    os.link(path, path.with_name("another"))


SPOILED_FILES: dict[str, Callable[[Path], object]] = {
    "another account's": own,
    "readable by all": lambda path: path.chmod(0o644),
    "readable by its group": lambda path: path.chmod(0o640),
    "writable by all": lambda path: path.chmod(0o602),
    "writable by a list": lambda path: set_acl(path, acl(users={SERVICE: 6})),
    "own link": lambda path: put_link(path, 0),
    "link": lambda path: put_link(path, SERVICE),
    "fifo": put_fifo,
    "hard link": put_hard_link,
}


@pytest.mark.parametrize("kind", SPOILED_FILES)
def test_cache_of_another_account_is_not_used(path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A token that another account could have planted or read is not used; the next one is cached privately."""
    assert find(path) == "token-of-service"
    SPOILED_FILES[kind](path)
    assert find(path) is None
    assert seen_by_msal(path) == []
    keep(path)
    assert find(path) == "fresh"
    assert not path.is_symlink()
    assert (path.stat().st_uid, path.stat().st_mode & 0o777, path.stat().st_nlink) == (0, 0o600, 1)
    assert not caplog.records


def test_cache_in_a_folder_of_another_account(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tokens then stay in memory, with one warning that names the folder; nothing is written there."""
    own(path.parent)
    assert find(path) is None
    assert seen_by_msal(path) == []
    caplog.clear()
    before = path.read_bytes()
    keep(path)
    assert path.read_bytes() == before
    (message,) = caplog.messages
    assert message.startswith(f"The token was not cached: {path.parent} cannot be used: it belongs to another user")


@pytest.mark.parametrize("kind", OPENED)
def test_cache_in_a_writable_folder(path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The folder is closed to others. What they planted is not used; our own token still is."""
    open_it, who = OPENED[kind]
    planted = path.with_name("planted.json")
    planted.write_text(cached("other"))
    own(planted).chmod(0o600)
    open_it(path.parent)
    assert find(planted) is None
    assert find(path) == "token-of-service"
    assert not path.parent.stat().st_mode & 0o022
    assert caplog.messages == [f"Removed write permission for others from {path.parent}: {who} had it."]


def test_folder_that_cannot_be_restricted(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a file system without modes, a running program writes no token and trusts none."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    cache = locked_token_cache.open_token_cache(lambda: path)
    path.parent.chmod(0o777)
    monkeypatch.setattr(os, "chmod", refuse)
    assert find(path) is None
    path.unlink()
    add_to(cache)
    assert not path.exists()
    assert [each["secret"] for each in cache.search("AccessToken")] == ["fresh"]
    assert caplog.messages[-1].startswith(
        f"The token was not cached: {path.parent} cannot be used: everyone can write to it."
    )


def test_link_to_another_cache_folder(public: Path) -> None:
    """Another account's link leads neither to another cache of ours nor to a location where a token is written."""
    ours, theirs = public / "ours", public / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    (ours / "cache.json").touch(mode=0o600)
    (ours / "cache.json").write_text(cached())
    own(theirs)
    (theirs / "tokens").symlink_to(ours)
    own(theirs / "tokens")
    assert find(ours / "cache.json") == "token-of-service"
    assert find(theirs / "tokens" / "cache.json") is None


def test_planted_cache_of_an_unprivileged_account(public: Path) -> None:
    """The same applies to a service: a token that another account planted is not used."""
    folder = public / "tokens"
    folder.mkdir()
    own(folder).chmod(0o700)
    path = folder / "cache.json"
    path.touch(mode=0o600)
    path.write_text(cached("other"))
    own(path)
    find(path)  # imports everything that is needed
    assert as_account(SERVICE, lambda: find(path) is not None)
    own(path, OTHER).chmod(0o644)
    assert as_account(SERVICE, lambda: find(path) is None)
    own(path)
    path.chmod(0o600)
    own(folder, OTHER).chmod(0o755)
    assert as_account(SERVICE, lambda: find(path) is None)
