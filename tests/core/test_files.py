"""How files are written, and which files are trusted."""

import errno
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvouch._system import files
from keyvouch._system.files import (
    LockFile,
    check_trusted,
    errors,
    locked,
    make_folder,
    read_private_with_status,
    write_private,
)
from keyvouch.errors import AccessDenied, ConfigurationError, StoreUnavailable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def failing(number: int) -> Callable[..., None]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder owned by this user."""
    path = tmp_path / "folder"
    path.mkdir(mode=0o700)
    return path


# Writing


def test_written_file_is_private(folder: Path) -> None:
    """A file is accessible only to its owner, whatever the umask, and no other file stays in the folder."""
    before = os.umask(0)
    try:
        write_private(folder / "key", b"secret")
    finally:
        os.umask(before)
    assert (folder / "key").read_bytes() == b"secret"
    assert mode_of(folder / "key") == 0o600
    assert names_in(folder) == ["key"]


def test_temporary_file_is_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file has the same mode before its first byte is written."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(os.fstat(handle).st_mode))
    write_private(folder / "key", b"secret")
    assert [stat.S_IMODE(mode) for mode in seen if stat.S_ISREG(mode)] == [0o600]


def test_existing_file_is_kept(folder: Path) -> None:
    """A file is not overwritten unless requested."""
    (folder / "key").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_private(folder / "key", b"new")
    assert (folder / "key").read_bytes() == b"old"
    assert names_in(folder) == ["key"]


def test_dangling_link_is_not_written_through(folder: Path) -> None:
    """A dangling link is not written through."""
    (folder / "key").symlink_to(folder / "elsewhere")
    with pytest.raises(FileExistsError):
        write_private(folder / "key", b"new")
    assert not (folder / "elsewhere").exists()


def test_replaced_file_is_private(folder: Path) -> None:
    """The old file is replaced as a whole, including its mode."""
    (folder / "key").write_bytes(b"older and longer")
    (folder / "key").chmod(0o644)
    write_private(folder / "key", b"new", replace=True)
    assert (folder / "key").read_bytes() == b"new"
    assert mode_of(folder / "key") == 0o600


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_file_system_without_hard_links(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """On a file system without links the file is still written, and never over another."""
    monkeypatch.setattr(os, "link", failing(number))
    write_private(folder / "key", b"secret")
    with pytest.raises(FileExistsError):
        write_private(folder / "key", b"others")
    assert (folder / "key").read_bytes() == b"secret"
    assert mode_of(folder / "key") == 0o600
    assert names_in(folder) == ["key"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_full_disk_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """A file is complete or does not exist, even without links."""
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(os, broken, failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        write_private(folder / "key", b"secret")
    assert names_in(folder) == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failed_replacement_keeps_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """A replacement that fails leaves the old file."""
    (folder / "key").write_bytes(b"old")
    monkeypatch.setattr(os, broken, failing(errno.EIO))
    with pytest.raises(OSError, match="error"):
        write_private(folder / "key", b"new", replace=True)
    assert (folder / "key").read_bytes() == b"old"
    assert names_in(folder) == ["key"]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission to write to /x"),
        (errno.EPERM, "permission to write to /x"),
        (errno.ENOENT, "Create the folder /x first."),
        (errno.ENOTDIR, "Create the folder /x first."),
        (errno.EIO, "Choose another location."),
    ],
)
def test_write_errors_have_hints(number: int, hint: str) -> None:
    """The error says in words why a file cannot be written, and what to do."""
    error = files.cannot_write(Path("/x/key"), OSError(number, os.strerror(number)))
    assert isinstance(error, ConfigurationError)
    assert "/x/key cannot be written: " in error.message
    assert hint in error.hint


def test_folder_is_private(folder: Path) -> None:
    """A new folder is accessible only to its owner; an existing one is used as it is."""
    make_folder(folder / "a" / "b")
    make_folder(folder / "a" / "b")
    assert mode_of(folder / "a" / "b") == 0o700


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_file_in_place_of_a_folder(folder: Path, path: str) -> None:
    """A folder that cannot be made is a clear error."""
    (folder / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        make_folder(folder / path)


# Locations


def test_systemd_directories_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit's StateDirectory= and CacheDirectory= are used; of several, the first."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/one:/var/cache/two")
    assert (files.state_folder(), files.cache_folder()) == (Path("/var/lib/one"), Path("/var/cache/one"))


@pytest.mark.parametrize(("account", "folder"), [(0, "/var/lib/keyvouch"), (1000, "/home/me/.local/state/keyvouch")])
def test_state_folder_of_root(monkeypatch: pytest.MonkeyPatch, account: int, folder: str) -> None:
    """Without systemd, root keeps its state in the machine's directory, everyone else in their home."""
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(os, "geteuid", lambda: account)
    monkeypatch.setattr(sys, "platform", "linux")
    assert files.state_folder() == Path(folder)


def test_configuration_paths(own_folders: Path) -> None:
    """The user's own comes first; the machine's is /etc/keyvouch, not /etc/xdg."""
    user, machine = files.configuration_files()
    assert user.is_relative_to(own_folders)
    assert user.name == "config.toml"
    assert machine == Path("/etc/keyvouch/config.toml")


def no_home(*arguments: object, **options: object) -> Path:
    raise RuntimeError("could not determine the home directory")


def home_named_tilde(*arguments: object, **options: object) -> Path:
    return Path("~/.config/keyvouch")


def no_account(uid: int) -> None:
    raise KeyError(uid)


def require_no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that without a home the working directory is not a fallback: it is neither read nor written."""
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert files.configuration_files() == [Path("/etc/keyvouch/config.toml")]
    for find_folder in (files.state_folder, files.cache_folder):
        with pytest.raises(ConfigurationError, match="no home"):
            find_folder()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")
@pytest.mark.parametrize("home", [None, "", "home"])
def test_account_without_home_directory(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    """An account that neither HOME nor the system's database gives an absolute home has no folders of its own."""
    monkeypatch.setattr("pwd.getpwuid", no_account)
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    require_no_folders(monkeypatch)


@pytest.mark.parametrize("find", [no_home, home_named_tilde])
def test_account_without_home_directory_elsewhere(monkeypatch: pytest.MonkeyPatch, find: Callable[..., Path]) -> None:
    """On other systems, whose folders platformdirs knows, such an account has none either."""
    monkeypatch.setattr(sys, "platform", "darwin")
    for kind in ("config", "state", "cache"):
        monkeypatch.setattr(f"platformdirs.user_{kind}_path", find)
    require_no_folders(monkeypatch)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders")
@pytest.mark.parametrize("given", ["", " /elsewhere", "/elsewhere", "relative"])
def test_folders_are_those_of_platformdirs(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """On Linux platformdirs is not imported, which takes long, but the folders are those that it returns."""
    import platformdirs

    for kind in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", given)
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY", *(["HOME"] if given else [])):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert files.configuration_files()[0] == platformdirs.user_config_path("keyvouch") / "config.toml"
    assert files.state_folder() == platformdirs.user_state_path("keyvouch")
    assert files.cache_folder() == platformdirs.user_cache_path("keyvouch")


# Locks

HOLDER = """
    import sys, time
    from pathlib import Path
    from keyvouch._system.files import locked
    with locked(Path(sys.argv[1]), timeout=1):
        print("held", flush=True)
        sys.stdin.read()
"""


def start_holder(lock: Path, program: str = HOLDER) -> subprocess.Popen[bytes]:
    """Start a process that reports once it holds the lock, and releases it when its input ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout
    assert holder.stdout.readline().strip() == b"held"
    return holder


def test_lock_excludes_other_processes(folder: Path) -> None:
    """A caller waits for a lock that another process holds, then gets an error that names the file."""
    lock = folder / "below" / "lock"
    with (
        start_holder(lock) as holder,
        pytest.raises(StoreUnavailable, match=f"after 0 seconds waiting .* the lock {lock}"),
        locked(lock, timeout=0.1),
    ):
        pytest.fail("two hold one lock")
    assert holder.returncode == 0
    with locked(lock, timeout=0):
        assert mode_of(lock) == 0o600


def test_released_lock_is_acquired(folder: Path) -> None:
    """The next process gets the lock as soon as it is released."""
    with start_holder(folder / "lock") as holder:
        assert holder.stdin
        holder.stdin.close()
        with locked(folder / "lock", timeout=20):
            pass


def test_killed_process_releases_its_lock(folder: Path) -> None:
    """A lock ends with its process, so that nobody has to remove a file by hand."""
    with start_holder(folder / "lock") as holder:
        holder.kill()
        holder.wait()
        with locked(folder / "lock", timeout=5):
            pass


def test_forked_child_does_not_keep_the_lock(folder: Path) -> None:
    """A child forked while its parent held a lock does not keep holding it after the parent."""
    forking = """
        import os, sys
        from pathlib import Path
        from keyvouch._system.files import locked
        with locked(Path(sys.argv[1]), timeout=1):
            child = os.fork()
            if not child:
                sys.stdin.read()
                os._exit(0)
        print("held", flush=True)
        os.waitpid(child, 0)
    """
    with start_holder(folder / "lock", forking), locked(folder / "lock", timeout=1):
        pass


def test_killed_parent_releases_the_lock(folder: Path) -> None:
    """A child forked while another thread held a lock does not keep holding it after its parent was killed."""
    forking = """
        import os, sys, threading
        from pathlib import Path
        from keyvouch._system.files import locked
        held = threading.Event()
        def hold():
            with locked(Path(sys.argv[1]), timeout=1):
                held.set()
                threading.Event().wait()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        if os.fork():
            os.wait()
        else:
            print("held", flush=True)
            sys.stdin.read()
    """
    with start_holder(folder / "lock", forking) as holder:
        holder.kill()
        holder.wait()
        with locked(folder / "lock", timeout=0):
            pass


def test_fork_inside_the_lock(folder: Path) -> None:
    """A child that was forked inside the block leaves it without releasing its parent's lock."""
    with locked(folder / "lock", timeout=0):
        child = os.fork()
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            with LockFile(folder / "lock") as lock:
                assert not lock.acquire(0)
    if not child:
        os._exit(0)


def test_touched_lock_file(folder: Path) -> None:
    """A process that has the lock can leave a mark for those that wait."""
    with LockFile(folder / "lock") as waiting, LockFile(folder / "lock") as lock:
        before = waiting.stamp()
        assert lock.acquire(0)
        assert not waiting.acquire(0)
        assert waiting.stamp() == before
        os.utime(folder / "lock", (0, 0))
        assert waiting.stamp() != before
        lock.touch()
        assert waiting.stamp() != before


@pytest.mark.skipif(os.utime not in os.supports_fd, reason="the path must be used")
def test_touch_follows_no_link(folder: Path) -> None:
    """A link that has replaced the lock file does not redirect the mark to another file."""
    other = folder / "other"
    other.touch()
    os.utime(other, (1, 1))
    with LockFile(folder / "lock") as lock:
        (folder / "lock").unlink()
        (folder / "lock").symlink_to(other)
        lock.touch()
    assert other.stat().st_mtime == 1


def test_exception_releases_the_lock(folder: Path) -> None:
    """Whatever happens inside, the lock is released afterwards."""
    with pytest.raises(RuntimeError), locked(folder / "lock", timeout=0):
        raise RuntimeError
    with locked(folder / "lock", timeout=0):
        pass


def test_unwritable_lock_file(folder: Path) -> None:
    """An unwritable location is a clear error, not a wait."""
    (folder / "lock").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"), locked(folder / "lock", timeout=0):
        pytest.fail("a folder is no lock")


# Reading


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_private_file_is_read(folder: Path, mode: int) -> None:
    """The owner and a group may be able to read a secret."""
    path = folder / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    assert read_private_with_status(path)[0] == b"secret"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o666])
def test_world_readable_file_is_rejected(folder: Path, mode: int) -> None:
    """A world-readable secret is refused with the command that fixes it, unless the profile allows it."""
    path = folder / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(AccessDenied, match="Everyone on this machine can read") as caught:
        read_private_with_status(path)
    assert caught.value.hint == f"Run: chmod o-rwx {path}"
    assert read_private_with_status(path, any_reader=True)[0] == b"secret"


def test_world_readable_kubernetes_secret(folder: Path) -> None:
    """In a kubelet volume the remedy is the volume's mode, since its files are read-only."""
    (folder / "..2026").mkdir()
    (folder / "..data").symlink_to("..2026")
    (folder / "..data" / "key").write_bytes(b"secret")
    (folder / "..data" / "key").chmod(0o644)
    (folder / "key").symlink_to("..data/key")
    with pytest.raises(AccessDenied) as caught:
        read_private_with_status(folder / "key")
    assert "defaultMode: 0400" in caught.value.hint


@pytest.mark.parametrize("path", ["/run/secrets/key", "/var/run/secrets/key"])
def test_world_readable_container_secret(path: str) -> None:
    """A container's secret location has its own remedy."""
    assert "container's secret" in errors.restrict_readers_hint(Path(path))


def test_missing_file_is_an_os_error(folder: Path) -> None:
    """If a file cannot be read at all, the caller that knows its purpose reports it."""
    with pytest.raises(FileNotFoundError):
        read_private_with_status(folder / "key")


# Trust


def test_own_file_is_trusted(folder: Path) -> None:
    """A file of this user, in folders of this user and root, is trusted; the sticky /tmp above it does no harm."""
    (folder / "config").write_bytes(b"")
    check_trusted(folder / "config")


@pytest.mark.parametrize("what", ["config", ""])
@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_world_writable_is_not_trusted(folder: Path, what: str, mode: int) -> None:
    """A file that everyone could have written, or replaced in its folder, is refused with the remedy."""
    (folder / "config").write_bytes(b"")
    (folder / what).chmod(mode)
    with pytest.raises(ConfigurationError, match=f"everyone can write to {folder / what}") as caught:
        check_trusted(folder / "config")
    assert caught.value.hint == f"Run: chmod o-w {folder / what}"


def test_world_writable_ancestor_is_not_trusted(folder: Path) -> None:
    """Any folder above can be replaced with everything in it."""
    (folder / "a").mkdir()
    (folder / "a" / "config").write_bytes(b"")
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="everyone can write"):
        check_trusted(folder / "a" / "config")


def test_sticky_folder_is_trusted(folder: Path) -> None:
    """In a sticky folder nobody can change the files of others."""
    (folder / "config").write_bytes(b"")
    folder.chmod(0o1777)
    check_trusted(folder / "config")


def test_sticky_file_is_not_trusted(folder: Path) -> None:
    """On a file the sticky bit does not protect anything."""
    (folder / "config").write_bytes(b"")
    (folder / "config").chmod(0o1666)
    with pytest.raises(ConfigurationError, match="everyone can write"):
        check_trusted(folder / "config")


def change_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Give the path itself, not its target, to another user; return that user's id."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345, follow_symlinks=False)
        return 12345
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)  # only root can give files away
    return owner


@pytest.mark.parametrize("what", ["config", ""])
def test_file_of_another_user_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The owner of a file, or of a folder above it, could have written it."""
    (folder / "config").write_bytes(b"")
    owner = change_owner(folder / what, monkeypatch)
    with pytest.raises(ConfigurationError, match=rf"belongs to another user \(uid {owner}\)"):
        check_trusted(folder / "config")


def test_file_of_root_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everyone trusts root's files."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    check_trusted(Path("/etc/passwd"))


def test_link_is_followed(folder: Path) -> None:
    """The target of a link is what must be trusted."""
    (folder / "open").mkdir()
    (folder / "open" / "config").write_bytes(b"")
    (folder / "link").symlink_to("open/config")
    check_trusted(folder / "link")
    (folder / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match="everyone can write"):
        check_trusted(folder / "link")


@pytest.mark.parametrize("chain", ["direct", "two links", "folder"])
def test_link_in_a_world_writable_folder_is_not_trusted(folder: Path, chain: str) -> None:
    """If everyone can write to a folder, anyone can redirect its links, even those with a trusted target now."""
    (folder / "good").mkdir()
    (folder / "good" / "config").write_bytes(b"")
    (folder / "open").mkdir()
    (folder / "open" / "link").symlink_to(folder / "good" / "config")
    (folder / "open" / "link-to-folder").symlink_to(folder / "good")
    (folder / "second").symlink_to("open/link")
    (folder / "open").chmod(0o777)
    places = {
        "direct": folder / "open" / "link",
        "two links": folder / "second",
        "folder": folder / "open" / "link-to-folder" / "config",
    }
    with pytest.raises(ConfigurationError, match=f"everyone can write to {folder / 'open'}"):
        check_trusted(places[chain])


def test_link_of_another_user_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sticky folder a link can still belong to another user, who can redirect it."""
    (folder / "config").write_bytes(b"")
    (folder / "link").symlink_to("config")
    change_owner(folder / "link", monkeypatch)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        check_trusted(folder / "link")


def test_loop_of_links_is_an_os_error(folder: Path) -> None:
    """A loop of links is an error, not a hang."""
    (folder / "one").symlink_to("other")
    (folder / "other").symlink_to("one")
    with pytest.raises(OSError, match="symbolic links"):
        check_trusted(folder / "one")


def test_missing_file_is_file_not_found(folder: Path) -> None:
    """If a file is missing, the caller that knows its purpose reports it."""
    with pytest.raises(FileNotFoundError):
        check_trusted(folder / "config")
