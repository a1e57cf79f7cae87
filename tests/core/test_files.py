"""What is written, how, and whose files are believed."""

import errno
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvouch import files
from keyvouch.errors import AccessDenied, ConfigurationError, StoreUnavailable
from keyvouch.files import check_trusted, locked, make_folder, read_private, reading, write_private

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
    """An empty folder that belongs to this user."""
    place = tmp_path / "folder"
    place.mkdir(mode=0o700)
    return place


# Writing


def test_written_file_is_private(folder: Path) -> None:
    """A file is made for its owner alone, whatever the umask is, and nothing else stays in the folder."""
    before = os.umask(0)
    try:
        write_private(folder / "key", b"octets")
    finally:
        os.umask(before)
    assert (folder / "key").read_bytes() == b"octets"
    assert mode_of(folder / "key") == 0o600
    assert names_in(folder) == ["key"]


def test_file_is_private_from_the_first_byte(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file beside it has the same mode when the first octet is written."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(os.fstat(handle).st_mode))
    write_private(folder / "key", b"octets")
    assert [stat.S_IMODE(mode) for mode in seen if stat.S_ISREG(mode)] == [0o600]


def test_file_that_is_there_is_kept(folder: Path) -> None:
    """Nothing is written over a file, unless that is asked for."""
    (folder / "key").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_private(folder / "key", b"new")
    assert (folder / "key").read_bytes() == b"old"
    assert names_in(folder) == ["key"]


def test_dangling_link_counts_as_a_file(folder: Path) -> None:
    """A link that leads nowhere is not written through."""
    (folder / "key").symlink_to(folder / "elsewhere")
    with pytest.raises(FileExistsError):
        write_private(folder / "key", b"new")
    assert not (folder / "elsewhere").exists()


def test_replaced_file_is_private(folder: Path) -> None:
    """What stood there is replaced as a whole, its mode included."""
    (folder / "key").write_bytes(b"older and longer")
    (folder / "key").chmod(0o644)
    write_private(folder / "key", b"new", replace=True)
    assert (folder / "key").read_bytes() == b"new"
    assert mode_of(folder / "key") == 0o600


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_file_system_without_links(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where a file system has no links the file is written all the same, and not over another."""
    monkeypatch.setattr(os, "link", failing(number))
    write_private(folder / "key", b"octets")
    with pytest.raises(FileExistsError):
        write_private(folder / "key", b"others")
    assert (folder / "key").read_bytes() == b"octets"
    assert mode_of(folder / "key") == 0o600
    assert names_in(folder) == ["key"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """A file is there as a whole or not at all, also where there are no links."""
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    monkeypatch.setattr(os, broken, failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        write_private(folder / "key", b"octets")
    assert names_in(folder) == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_failed_replacement_keeps_the_old(folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """A replacement that fails leaves what was there."""
    (folder / "key").write_bytes(b"old")
    monkeypatch.setattr(os, broken, failing(errno.EIO))
    with pytest.raises(OSError, match="error"):
        write_private(folder / "key", b"new", replace=True)
    assert (folder / "key").read_bytes() == b"old"
    assert names_in(folder) == ["key"]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "The disk is full."),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "Let this account write to /x"),
        (errno.EPERM, "Let this account write to /x"),
        (errno.ENOENT, "Make the folder /x first."),
        (errno.ENOTDIR, "Make the folder /x first."),
        (errno.EIO, "Write somewhere else."),
    ],
)
def test_unwritable_place_has_its_remedy(number: int, hint: str) -> None:
    """Why a file cannot be written is told in words, with what to do."""
    error = files.cannot_write(Path("/x/key"), OSError(number, os.strerror(number)))
    assert isinstance(error, ConfigurationError)
    assert "/x/key cannot be written: " in error.message
    assert hint in error.hint


def test_folder_is_private(folder: Path) -> None:
    """A folder of our own is open to its owner alone; one that is there is taken as it is."""
    make_folder(folder / "a" / "b")
    make_folder(folder / "a" / "b")
    assert mode_of(folder / "a" / "b") == 0o700


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_file_in_the_way_of_a_folder(folder: Path, place: str) -> None:
    """A folder that cannot be made is a clear error."""
    (folder / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        make_folder(folder / place)


# Places


def test_own_folders_follow_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit's StateDirectory= and CacheDirectory= are taken, of several the first."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/one:/var/cache/two")
    assert (files.state_folder(), files.cache_folder()) == (Path("/var/lib/one"), Path("/var/cache/one"))


@pytest.mark.parametrize(("account", "folder"), [(0, "/var/lib/keyvouch"), (1000, "/home/me/.local/state/keyvouch")])
def test_state_of_root_is_the_machines(monkeypatch: pytest.MonkeyPatch, account: int, folder: str) -> None:
    """Without systemd, root keeps its state with the machine's, everyone else at home."""
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(os, "geteuid", lambda: account)
    monkeypatch.setattr(sys, "platform", "linux")
    assert files.state_folder() == Path(folder)


def test_configuration_is_the_users_or_the_machines(own_folders: Path) -> None:
    """The user's own goes first; the machine's is /etc/keyvouch, not /etc/xdg."""
    user, machine = files.configuration_files()
    assert user.is_relative_to(own_folders)
    assert user.name == "config.toml"
    assert machine == Path("/etc/keyvouch/config.toml")


def no_home(*arguments: object, **options: object) -> Path:
    raise RuntimeError("could not determine the home directory")


def home_named_tilde(*arguments: object, **options: object) -> Path:
    return Path("~/.config/keyvouch")


@pytest.mark.parametrize("find", [no_home, home_named_tilde])
def test_account_without_home(monkeypatch: pytest.MonkeyPatch, find: Callable[..., Path]) -> None:
    """Where there is no home, the working directory does not stand in: it is not looked into, nor written to."""
    for kind in ("config", "state", "cache"):
        monkeypatch.setattr(f"platformdirs.user_{kind}_path", find)
    for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert files.configuration_files() == [Path("/etc/keyvouch/config.toml")]
    for place in (files.state_folder, files.cache_folder):
        with pytest.raises(ConfigurationError, match="no home"):
            place()


# Locks

HOLDER = """
    import sys, time
    from pathlib import Path
    from keyvouch.files import locked
    with locked(Path(sys.argv[1]), timeout=1):
        print("held", flush=True)
        sys.stdin.read()
"""


def start_holder(lock: Path, program: str = HOLDER) -> subprocess.Popen[bytes]:
    """Start a process that says something once it holds the lock, and gives it back when its input ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout
    assert holder.stdout.readline().strip() == b"held"
    return holder


def test_lock_keeps_another_process_out(folder: Path) -> None:
    """A lock that another process holds is waited for, and then told with its file."""
    lock = folder / "below" / "lock"
    with (
        start_holder(lock) as holder,
        pytest.raises(StoreUnavailable, match=f"{lock} for 0 seconds"),
        locked(lock, timeout=0.1),
    ):
        pytest.fail("two hold one lock")
    assert holder.returncode == 0
    with locked(lock, timeout=0):
        assert mode_of(lock) == 0o600


def test_lock_is_waited_for(folder: Path) -> None:
    """The next one gets the lock as soon as it is given back."""
    with start_holder(folder / "lock") as holder:
        assert holder.stdin
        holder.stdin.close()
        with locked(folder / "lock", timeout=20):
            pass


def test_killed_process_holds_no_lock(folder: Path) -> None:
    """A lock ends with its process, so that nobody has to remove a file by hand."""
    with start_holder(folder / "lock") as holder:
        holder.kill()
        holder.wait()
        with locked(folder / "lock", timeout=5):
            pass


def test_forked_child_keeps_no_lock(folder: Path) -> None:
    """A child that was forked while its parent held a lock does not hold it after the parent."""
    forking = """
        import os, sys
        from pathlib import Path
        from keyvouch.files import locked
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


def test_exception_gives_the_lock_back(folder: Path) -> None:
    """Whatever happens inside, the lock is free afterwards."""
    with pytest.raises(RuntimeError), locked(folder / "lock", timeout=0):
        raise RuntimeError
    with locked(folder / "lock", timeout=0):
        pass


def test_lock_that_cannot_be_made(folder: Path) -> None:
    """A place that cannot be written is a clear error, not a wait."""
    (folder / "lock").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"), locked(folder / "lock", timeout=0):
        pytest.fail("a folder is no lock")


# Reading


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_private_file_is_read(folder: Path, mode: int) -> None:
    """The owner and a group may be able to read a secret."""
    path = folder / "key"
    path.write_bytes(b"octets")
    path.chmod(mode)
    assert read_private(path) == b"octets"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o666])
def test_world_readable_file_is_refused(folder: Path, mode: int) -> None:
    """A secret that everyone can read is refused with the command that ends that, unless the profile lets it pass."""
    path = folder / "key"
    path.write_bytes(b"octets")
    path.chmod(mode)
    with pytest.raises(AccessDenied, match="Everyone on this machine can read") as caught:
        read_private(path)
    assert caught.value.hint == f"Run: chmod o-rwx {path}"
    assert read_private(path, any_reader=True) == b"octets"


def test_world_readable_kubernetes_secret(folder: Path) -> None:
    """In a volume of the kubelet the remedy is the volume's mode, since its files are read-only."""
    (folder / "..2026").mkdir()
    (folder / "..data").symlink_to("..2026")
    (folder / "..data" / "key").write_bytes(b"octets")
    (folder / "..data" / "key").chmod(0o644)
    (folder / "key").symlink_to("..data/key")
    with pytest.raises(AccessDenied) as caught:
        read_private(folder / "key")
    assert "defaultMode: 0400" in caught.value.hint


@pytest.mark.parametrize("place", ["/run/secrets/key", "/var/run/secrets/key"])
def test_world_readable_container_secret(place: str) -> None:
    """Where a container keeps its secrets the remedy is its own."""
    assert "container's secret" in reading._remedy(Path(place))


def test_missing_file_is_an_os_error(folder: Path) -> None:
    """What cannot be read at all is told by whoever knows what the file is for."""
    with pytest.raises(FileNotFoundError):
        read_private(folder / "key")


# Trust


def test_own_file_is_trusted(folder: Path) -> None:
    """A file of this user, in folders of this user and of root, is believed; the sticky /tmp above it is no harm."""
    (folder / "config").write_bytes(b"")
    check_trusted(folder / "config")


@pytest.mark.parametrize("what", ["config", ""])
@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_world_writable_is_not_trusted(folder: Path, what: str, mode: int) -> None:
    """A file that everyone could have written, or exchanged in its folder, is refused with the remedy."""
    (folder / "config").write_bytes(b"")
    (folder / what).chmod(mode)
    with pytest.raises(ConfigurationError, match=f"everyone can write to {folder / what}") as caught:
        check_trusted(folder / "config")
    assert caught.value.hint == f"Run: chmod o-w {folder / what}"


def test_world_writable_ancestor_is_not_trusted(folder: Path) -> None:
    """Any folder above can be exchanged with all that is in it."""
    (folder / "a").mkdir()
    (folder / "a" / "config").write_bytes(b"")
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="everyone can write"):
        check_trusted(folder / "a" / "config")


def test_sticky_folder_is_trusted(folder: Path) -> None:
    """In a sticky folder nobody can touch the files of others."""
    (folder / "config").write_bytes(b"")
    folder.chmod(0o1777)
    check_trusted(folder / "config")


def test_sticky_file_is_not_trusted(folder: Path) -> None:
    """On a file the sticky bit protects nothing."""
    (folder / "config").write_bytes(b"")
    (folder / "config").chmod(0o1666)
    with pytest.raises(ConfigurationError, match="everyone can write"):
        check_trusted(folder / "config")


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the path, itself and not what it leads to, belong to another user; return that one's number."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345, follow_symlinks=False)
        return 12345
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)  # only root can give files away
    return owner


@pytest.mark.parametrize("what", ["config", ""])
def test_file_of_another_user_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Whoever owns a file, or a folder above it, could have written it."""
    (folder / "config").write_bytes(b"")
    owner = give_away(folder / what, monkeypatch)
    with pytest.raises(ConfigurationError, match=rf"belongs to another user \(uid {owner}\)"):
        check_trusted(folder / "config")


def test_file_of_root_is_trusted_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's files are everyone's to believe."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    check_trusted(Path("/etc/passwd"))


def test_link_is_followed(folder: Path) -> None:
    """What a link leads to is what must be trusted."""
    (folder / "open").mkdir()
    (folder / "open" / "config").write_bytes(b"")
    (folder / "link").symlink_to("open/config")
    check_trusted(folder / "link")
    (folder / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match="everyone can write"):
        check_trusted(folder / "link")


@pytest.mark.parametrize("chain", ["direct", "two links", "folder"])
def test_link_in_an_open_folder_is_not_trusted(folder: Path, chain: str) -> None:
    """Where everyone can write, everyone can lead a link elsewhere, though it leads to a good file now."""
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
    """In a sticky folder a link can still be another user's, who leads it where they want."""
    (folder / "config").write_bytes(b"")
    (folder / "link").symlink_to("config")
    give_away(folder / "link", monkeypatch)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        check_trusted(folder / "link")


def test_circle_of_links_is_an_os_error(folder: Path) -> None:
    """Links that lead round in a circle end as an error, not in a hang."""
    (folder / "one").symlink_to("other")
    (folder / "other").symlink_to("one")
    with pytest.raises(OSError, match="symbolic links"):
        check_trusted(folder / "one")


def test_missing_file_is_not_judged(folder: Path) -> None:
    """A file that is not there is told as missing, by whoever knows what it is for."""
    with pytest.raises(FileNotFoundError):
        check_trusted(folder / "config")
