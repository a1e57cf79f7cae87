"""Root writes in a folder of another account that can replace files there with links at any time."""

import contextlib
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import keyvouch
from keyvouch import certificate
from keyvouch._core.key_management import open_store
from keyvouch._system import files
from keyvouch.errors import ConfigurationError, KeyvouchError, StoreUnavailable
from keyvouch.local_key import make_key
from keyvouch.stores import pem

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can act for another account"
)

SERVICE, OTHER = 60123, 60124
"""Accounts that need not exist: only the uid matters."""


def facts(path: Path) -> tuple[bytes, int, int, int]:
    status = path.stat()
    return path.read_bytes(), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def own(path: Path, account: int = SERVICE) -> Path:
    """Change the owner of a file, folder or link."""
    os.chown(path, account, account, follow_symlinks=False)
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file of root in a folder of root that must stay unchanged."""
    folder = tmp_path / "outside"
    folder.mkdir()
    path = folder / "victim"
    path.write_bytes(b"of root")
    path.chmod(0o600)
    before = facts(path)
    yield path
    assert facts(path) == before
    assert [each.name for each in folder.iterdir()] == ["victim"]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder owned by the service's account."""
    folder = tmp_path / "service"
    folder.mkdir()
    return own(folder)


@pytest.fixture
def app(theirs: Path) -> Path:
    """A file in it, owned by the service's account."""
    path = theirs / "app.pem"
    path.write_bytes(b"old")
    path.chmod(0o640)
    return own(path)


def after(name: str, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the other account act right after a function of `os`."""
    real = getattr(os, name)

    def and_then(*arguments: object, **options: object) -> object:
        result = real(*arguments, **options)
        act()
        return result

    monkeypatch.setattr(os, name, and_then)


def swap(path: Path, target: Path) -> Callable[[], None]:
    """Return a function that replaces a file with a link."""

    def swapped() -> None:
        path.unlink(missing_ok=True)
        own_link(path, target)

    return swapped


def own_link(path: Path, target: Path | str, account: int = SERVICE) -> Path:
    path.symlink_to(target)
    return own(path, account)


# Races


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_file_swapped_while_it_is_rewritten(
    app: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Owner and mode are copied from the replaced file, and are applied to no other file."""
    after(moment, swap(app, outside), monkeypatch)
    files.rewrite(app, b"new")


@pytest.mark.parametrize("moment", ["fsync", "link"])
def test_file_swapped_while_it_is_created(
    theirs: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A certificate is made world-readable before it gets its name."""
    after(moment, swap(theirs / "app.cer", outside), monkeypatch)
    with contextlib.suppress(FileExistsError):
        files.write_private(theirs / "app.cer", b"certificate", mode=0o644)


def test_certificate_out_swapped(theirs: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--certificate-out` never changes the mode of a file that replaces its own."""
    from keyvouch.cli.export import write_certificate

    key = make_key("P-256")
    own_key = theirs.parent / "own.pem"
    files.write_private(own_key, pem.write(key, [certificate.self_signed(key, "CN=app", 1)], None, "app"))
    after("link", swap(theirs / "app.cer", outside), monkeypatch)
    with keyvouch.open_signer(f"pem:{own_key}") as signer:
        write_certificate(theirs / "app.cer", signer)


@pytest.mark.parametrize("certificate_file", [True, False])
def test_key_swapped_after_reading(
    app: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch, certificate_file: bool
) -> None:
    """A key read through a link is not written to a file that replaces the link."""
    key = make_key("P-256")
    secret = theirs.parent / "secret.pem"
    files.write_private(secret, pem.write(key, [certificate.self_signed(key, "CN=app", 1)], None, "app"))
    app.unlink()
    own_link(app, secret)
    real = files.rewrite

    def rewrite(*arguments: object, **options: object) -> None:
        app.unlink()
        app.write_bytes(b"mine")
        own(app)
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "rewrite", rewrite)
    uri = f"pem:{app}"
    if certificate_file:
        files.write_private(theirs / "app.key", pem.write(key, [], None, "app"))
        uri = f"pem:{theirs / 'app.key'}?certificate-file={app}"
    with open_store(uri) as store, pytest.raises(ConfigurationError, match="changed since it was read"):
        store.install_certificate([certificate.self_signed(key, "CN=new", 1)])
    assert app.read_bytes() == b"mine"


def in_a_loop(folder: Path, act: Callable[[], None]) -> int:
    """Start a process of the service's account that acts repeatedly; return its pid."""
    process = os.fork()
    if process:
        return process
    try:
        os.chdir(folder)  # it cannot search the folders above
        os.setgroups([])
        os.setresgid(SERVICE, SERVICE, SERVICE)
        os.setresuid(SERVICE, SERVICE, SERVICE)
        while True:
            with contextlib.suppress(OSError):
                act()
    finally:
        os._exit(1)


@contextlib.contextmanager
def attacked(folder: Path, act: Callable[[], None]) -> Iterator[None]:
    process = in_a_loop(folder, act)
    try:
        yield
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@pytest.mark.parametrize("name", ["app.pem", "app.cer"])
def test_files_swapped_continuously(app: Path, theirs: Path, outside: Path, name: str) -> None:
    """Whatever the owner of the folder puts in it and whenever, no file elsewhere changes."""
    link = str(outside)

    def act() -> None:
        Path("link").symlink_to(link)
        Path("link").rename(name)
        Path("file").write_bytes(b"mine")
        Path("file").rename(name)
        Path(name).unlink()

    written = 0
    with attacked(theirs, act):
        for _ in range(300):
            with contextlib.suppress(OSError, KeyvouchError):
                if name == app.name:
                    files.rewrite(app, b"new")
                else:
                    files.write_private(theirs / name, b"new", mode=0o644)
                written += 1
    assert written


def test_folder_swapped_continuously(theirs: Path, outside: Path) -> None:
    """No file is created, replaced or deleted in a folder that another account's link leads to."""
    elsewhere = str(outside.parent)
    (theirs / "d").mkdir()
    own(theirs / "d")

    def act() -> None:
        Path("d").rename("real")
        Path("d").symlink_to(elsewhere)
        Path("d").unlink()
        Path("real").rename("d")

    acts: list[Callable[[Path], None]] = [
        lambda folder: files.write_private(folder / "new", b"new"),
        lambda folder: files.rewrite(folder / "victim", b"new"),
        lambda folder: files.remove(folder / "victim"),
    ]
    with attacked(theirs, act):
        for number in range(900):
            with contextlib.suppress(OSError, KeyvouchError):
                acts[number % 3](theirs / "d")


# Links


@pytest.mark.parametrize("path", ["file", "folder/victim", "folder/new", "dangling", "twice"])
def test_link_of_another_account_to_a_foreign_file(theirs: Path, outside: Path, path: str) -> None:
    """Root follows a link only to files of the link's owner; the error says so."""
    own_link(theirs / "file", outside)
    own_link(theirs / "folder", outside.parent)
    own_link(theirs / "dangling", outside.parent / "new")
    own_link(theirs / "twice", "file")
    with pytest.raises(ConfigurationError, match=f"{theirs / path} cannot be written: another account controls"):
        files.rewrite(theirs / path, b"new")


@pytest.mark.parametrize("act", [files.remove, lambda path: files.write_private(path, b"new")])
def test_folder_of_root_through_a_link(theirs: Path, outside: Path, act: Callable[[Path], None]) -> None:
    """Nothing is created or deleted in a folder of root behind another account's link."""
    own_link(theirs / "folder", outside.parent)
    with pytest.raises(ConfigurationError, match="another account controls"):
        act(theirs / "folder" / "victim")


@pytest.mark.parametrize("path", ["folder/below", "dangling", "dangling/below"])
def test_folder_is_not_created_through_a_link(theirs: Path, outside: Path, path: str) -> None:
    """A folder is not created through another account's link to a folder of root."""
    own_link(theirs / "folder", outside.parent)
    own_link(theirs / "dangling", outside.parent / "new")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        files.make_folder(theirs / path)


@pytest.mark.parametrize("absolute", [True, False])
def test_link_within_one_account(app: Path, theirs: Path, absolute: bool) -> None:
    """A link to a file of the same owner is followed, and stays a link."""
    (theirs / "d").mkdir()
    own(theirs / "d")
    link = own_link(theirs / "d" / "link", app if absolute else "../app.pem")
    files.rewrite(link, b"new")
    assert link.is_symlink()
    assert facts(app) == (b"new", SERVICE, SERVICE, 0o640)


def test_link_of_root_in_a_folder_of_another_account(theirs: Path, outside: Path) -> None:
    """The owner of the folder could have moved a link of root there from elsewhere."""
    (theirs / "app.pem").symlink_to(outside)
    with pytest.raises(ConfigurationError, match="another account controls"):
        files.rewrite(theirs / "app.pem", b"new")


def test_link_of_a_third_account(theirs: Path, app: Path) -> None:
    """A link of one account to a file of another is not followed."""
    own_link(theirs / "link", app, OTHER)
    with pytest.raises(ConfigurationError, match="another account controls"):
        files.rewrite(theirs / "link", b"new")
    assert app.read_bytes() == b"old"


def test_sticky_folder(tmp_path: Path, outside: Path) -> None:
    """In /tmp a link of root is followed; one of another account is not."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    target = tmp_path / "target"
    target.write_bytes(b"old")
    (shared / "own").symlink_to(target)
    own_link(shared / "theirs", outside)
    files.rewrite(shared / "own", b"new")
    assert target.read_bytes() == b"new"
    with pytest.raises(ConfigurationError, match="another account controls"):
        files.rewrite(shared / "theirs", b"new")


@pytest.mark.parametrize("name", ["victim", "new"])
def test_audit_records_through_a_link(theirs: Path, outside: Path, name: str) -> None:
    """Records of root's command go to no file that the owner of the folder chose, and none is created there."""
    own_link(theirs / "audit.log", outside.with_name(name))
    with pytest.raises(ConfigurationError, match="another account controls"):
        files.open_to_append(theirs / "audit.log")


def test_audit_records_through_a_hard_link(theirs: Path, outside: Path) -> None:
    """A hard link is treated like a symbolic link."""
    os.link(outside, theirs / "audit.log")
    with pytest.raises(OSError, match="several hard links"):
        files.open_to_append(theirs / "audit.log")
    (theirs / "audit.log").unlink()


def test_audit_records_to_a_fifo_of_another_account(theirs: Path) -> None:
    """Root does not wait for a full FIFO that the owner of the folder holds open."""
    path = theirs / "audit.log"
    os.mkfifo(path)
    own(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while os.write(reader, b"x" * 65536):
                pass
        with pytest.raises(OSError, match="belongs to another account"):
            files.open_to_append(path)
    finally:
        os.close(reader)


@pytest.mark.parametrize(("account", "accepted"), [(0, True), (SERVICE, False)])
def test_audit_records_in_a_sticky_folder(tmp_path: Path, account: int, accepted: bool) -> None:
    """In /tmp a file that another account created first is not appended to: it could change the records."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    path = shared / "audit.log"
    path.touch()
    path.chmod(0o666)
    own(path, account)
    if accepted:
        os.close(files.open_to_append(path))
        return
    with pytest.raises(OSError, match="belongs to another account"):
        files.open_to_append(path)


def test_audit_records_in_a_file_of_the_folder_owner(theirs: Path) -> None:
    """Root's command appends to the audit file of a service."""
    path = theirs / "audit.log"
    path.touch()
    own(path)
    os.close(files.open_to_append(path))


def test_relative_path_below_an_unsearchable_folder(theirs: Path) -> None:
    """An account that cannot search the folders above its working directory can write files there."""
    process = os.fork()
    if not process:
        try:
            os.chdir(theirs)
            os.setresuid(SERVICE, SERVICE, SERVICE)
            files.write_private(Path("new"), b"new")
            files.rewrite(Path("new"), b"newer")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == 0
    assert (theirs / "new").read_bytes() == b"newer"


# Locks


def test_lock_of_another_account(theirs: Path) -> None:
    """A lock that another account put there, and may hold forever, is refused with a remedy."""
    own(theirs, OTHER)
    path = theirs / ".lock"
    path.touch()
    own(path)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(ConfigurationError, match="belongs to another user") as caught,
            files.locked(path, timeout=5),
        ):
            pytest.fail("locked")
    assert caught.value.hint == f"Run: rm {path}"


@pytest.mark.parametrize("kind", ["hard link", "link", "fifo"])
def test_lock_through_a_link(theirs: Path, outside: Path, kind: str) -> None:
    """A file elsewhere is neither locked nor given to the owner of the folder."""
    path = theirs / ".lock"
    make = {
        "hard link": lambda: os.link(outside, path),
        "link": lambda: path.symlink_to(outside),
        "fifo": lambda: os.mkfifo(path),
    }
    make[kind]()
    with pytest.raises(ConfigurationError), files.locked(path, timeout=5):
        pytest.fail("locked")
    path.unlink()


def test_lock_of_root_belongs_to_the_folder_owner(theirs: Path) -> None:
    """The lock that root's command leaves in a service's folder does not lock the service out."""
    with files.locked(theirs / ".lock", timeout=5):
        pass
    assert facts(theirs / ".lock")[1:] == (SERVICE, 0, 0o600)


def test_reader_cannot_block_a_new_profile(tmp_path: Path) -> None:
    """An account that can read the configuration and its folder can lock both, but nobody waits for it."""
    from keyvouch import config

    folder = tmp_path / "configuration"
    folder.mkdir()
    path = folder / "config.toml"
    path.write_text("[profiles.a]\n")
    with contextlib.ExitStack() as stack:
        for readable in (folder, path):
            handle = os.open(readable, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        config.add_profile(path, "b", {"tenant": "t"})
    assert "[profiles.b]" in path.read_text()
    locks = [each for each in folder.iterdir() if each != path]
    assert [facts(each)[3] for each in locks] == [0o600]


def test_held_lock_excludes_others(theirs: Path) -> None:
    """Our own lock still keeps others out."""
    path = theirs / ".lock"
    with files.locked(path, timeout=5), pytest.raises(StoreUnavailable), files.locked(path, timeout=0):
        pytest.fail("two hold one lock")
