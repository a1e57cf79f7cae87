"""Who has access to a rewritten file, and what interrupted writes leave behind."""

import fcntl
import functools
import logging
import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from acls import acl, acl_of, set_acl
from keyvouch._system import files
from keyvouch._system.files import reading, rewrite, write_private
from keyvouch._system.files.reading import stamp
from keyvouch.config import add_profile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these lists")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "folder"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def file(folder: Path) -> Path:
    path = folder / "app.pem"
    path.write_bytes(b"old")
    path.chmod(0o640)
    return path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# Access


def test_group_can_always_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file gets its name after its mode, so its group can read it at every moment."""
    real = os.replace
    modes = []

    def replace(source: str, target: str, **options: int) -> None:
        modes.append(stat.S_IMODE(os.stat(source, dir_fd=options["src_dir_fd"]).st_mode))
        real(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)
    rewrite(file, b"new")
    assert modes == [0o640]


@pytest.mark.parametrize("special", [0o4755, 0o2755, 0o1755])
def test_special_bits_are_not_restored(file: Path, special: int) -> None:
    """A rewritten file is never setuid, setgid or sticky."""
    file.chmod(special)
    rewrite(file, b"new")
    assert mode_of(file) == 0o755


def test_group_that_cannot_be_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an account may not give a file to its group, no other group can read it."""
    if os.geteuid() == 0:
        os.chown(file, 60123, 60123)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    rewrite(file, b"new")
    assert mode_of(file) == (0o600 if os.geteuid() == 0 else 0o640)


@linux
def test_access_control_list_is_kept(file: Path) -> None:
    """Accounts that a list allows to read a file can read its replacement."""
    set_acl(file, acl(users={60123: 4}, group=4))
    before = acl_of(file)
    rewrite(file, b"new")
    assert before
    assert acl_of(file) == before


@linux
@pytest.mark.parametrize("way", ["write", "rewrite", "certificate"])
def test_default_list_of_a_folder_does_not_apply(file: Path, way: str) -> None:
    """A folder's default list that gives another account read access does not apply to a key."""
    set_acl(file.parent, acl(owner=7, users={60123: 7}, group=7), default=True)
    write = {
        "write": lambda: write_private(file, b"new", replace=True),
        "rewrite": lambda: rewrite(file, b"new"),
        "certificate": lambda: write_private(file.with_name("app.cer"), b"new", mode=0o644),
    }
    write[way]()
    (written,) = [each for each in file.parent.iterdir() if each.read_bytes() == b"new"]
    assert acl_of(written) is None


def test_links_of_a_volume_are_kept(folder: Path) -> None:
    """A link stays a link, even in the middle of the path: a kubelet volume, /etc/alternatives."""
    (folder / "..2026").mkdir()
    (folder / "..2026" / "app.pem").write_bytes(b"old")
    (folder / "..data").symlink_to("..2026")
    (folder / "app.pem").symlink_to("..data/app.pem")
    rewrite(folder / "app.pem", b"new")
    assert (folder / "app.pem").is_symlink()
    assert (folder / "..data").is_symlink()
    assert (folder / "..2026" / "app.pem").read_bytes() == b"new"


def test_dangling_link_is_written_through(folder: Path) -> None:
    """A configuration behind a dangling link is created at the link's target."""
    (folder / "link").symlink_to(folder / "new")
    rewrite(folder / "link", b"new")
    assert (folder / "new").read_bytes() == b"new"


def test_loop_of_links(folder: Path) -> None:
    """A loop of links is an error."""
    (folder / "one").symlink_to("other")
    (folder / "other").symlink_to("one")
    with pytest.raises(OSError, match="symbolic links"):
        rewrite(folder / "one", b"new")


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_other_file_types_are_not_replaced(folder: Path, kind: str) -> None:
    """Anything but a regular file is not replaced."""
    path = folder / "app.pem"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(OSError, match=r"regular file|directory"):
        rewrite(path, b"new")
    assert [each.name for each in folder.iterdir()] == ["app.pem"]


def test_changed_file_is_not_replaced(file: Path) -> None:
    """A change is not written over a file that somebody put there in the meantime."""
    seen = stamp(file.stat())
    rewrite(file, b"newer", replaces=seen)
    with pytest.raises(OSError, match="changed since it was read"):
        rewrite(file, b"newest", replaces=seen)
    assert file.read_bytes() == b"newer"


def test_growing_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows while it is read does not fill memory."""
    monkeypatch.setattr(reading, "_MAX_BYTES", 2)
    monkeypatch.setattr(reading, "_require_regular", lambda *_: None)
    with pytest.raises(OSError, match="Too large"):
        files.read(file)


def test_file_name_of_maximum_length(folder: Path) -> None:
    """A temporary name stays within the file system's limit."""
    path = folder / ("ä" * 127)
    write_private(path, b"old")
    rewrite(path, b"new")
    assert path.read_bytes() == b"new"


# Leftovers

KILLED = """
    import os, sys
    from pathlib import Path
    from keyvouch._system import files
    moment = sys.argv[2]
    real = getattr(os, moment)
    def die(*arguments, **options):
        if moment == "link":
            real(*arguments, **options)
        os._exit(9)
    setattr(os, moment, die)
    files.write_private(Path(sys.argv[1]), b"whole key", replace=moment == "fsync")
"""


def kill_in_a_write(path: Path, moment: str = "fsync") -> Path:
    """Make a process end in the middle of a write; return the file that it leaves behind."""
    import textwrap

    before = set(path.parent.iterdir())
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path), moment], check=False)
    assert done.returncode == 9
    (left,) = set(path.parent.iterdir()) - before - {path}
    assert left.read_bytes() == b"whole key"
    return left


@pytest.mark.parametrize("act", ["write", "rewrite", "remove"])
def test_leftover_is_removed(file: Path, act: str, caplog: pytest.LogCaptureFixture) -> None:
    """The next write to a file, or its deletion, removes a killed process's leftover, which is reported."""
    left = kill_in_a_write(file)
    acts = {
        "write": lambda: write_private(file, b"new", replace=True),
        "rewrite": lambda: rewrite(file, b"new"),
        "remove": lambda: files.remove(file),
    }
    with caplog.at_level(logging.WARNING, "keyvouch"):
        acts[act]()
    assert not left.exists()
    assert [record.getMessage() for record in caplog.records] == [
        f"Removed {left}, left by an interrupted write. It may have contained a private key."
    ]


def test_hard_link_left_by_a_new_file_is_removed(folder: Path) -> None:
    """A process killed after naming a file leaves a second name, which is removed too."""
    path = folder / "app.pem"
    left = kill_in_a_write(path, "link")
    rewrite(path, b"new")
    assert not left.exists()


def test_file_being_written_is_kept(file: Path) -> None:
    """A file that another process is still writing is kept."""
    left = kill_in_a_write(file)
    with left.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        rewrite(file, b"new")
    assert left.exists()


def test_empty_leftover_has_a_grace_period(file: Path) -> None:
    """An empty file may be one that another process has just created, so it gets time to lock it."""
    left = kill_in_a_write(file)
    left.write_bytes(b"")
    rewrite(file, b"new")
    assert left.exists()
    os.utime(left, (1, 1))
    rewrite(file, b"new")
    assert not left.exists()


@pytest.mark.parametrize("kind", ["another target", "another pattern", "hard link", "link", "folder"])
def test_other_files_are_kept(file: Path, kind: str, tmp_path: Path) -> None:
    """Only a regular file with a single name that belongs to this target is removed."""
    left = kill_in_a_write(file)
    moved = tmp_path / "moved"
    if kind == "another target":
        left = left.rename(left.with_name(left.name.replace("app.pem", "other.pem")))
    elif kind == "another pattern":
        left = left.rename(left.with_name(left.name + "0"))
    elif kind == "hard link":
        os.link(left, moved)
    elif kind == "link":
        left.rename(moved)
        left.symlink_to(moved)
    else:
        left.unlink()
        left.mkdir()
    rewrite(file, b"new")
    assert os.path.lexists(left)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can give files away")
def test_file_of_another_account_is_kept(file: Path) -> None:
    """A file of another account is not removed."""
    left = kill_in_a_write(file)
    os.chown(left, 60123, 60123)
    rewrite(file, b"new")
    assert left.exists()


def test_concurrent_writes_are_complete(folder: Path) -> None:
    """Processes that write the same file at the same time do not mistake each other's for leftovers."""
    program = "import sys; from pathlib import Path; from keyvouch._system.files import write_private\n"
    program += "for number in range(50): write_private(Path(sys.argv[1]), b'x' * 9, replace=True)"
    path = folder / "app.pem"
    writing = [subprocess.Popen([sys.executable, "-c", program, str(path)], stderr=subprocess.PIPE) for _ in range(4)]
    message = [each.communicate(timeout=120)[1] for each in writing]
    assert ([each.returncode for each in writing], message) == ([0] * 4, [b""] * 4)
    assert [each.name for each in folder.iterdir()] == ["app.pem"]


# File systems


@pytest.mark.parametrize("way", ["create", "replace"])
def test_append_only_folder(
    file: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In an append-only folder (chattr +a) a new key is written, and a warning names what could not be removed."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    if way == "create":
        write_private(file.with_name("new.pem"), b"new")
        assert file.with_name("new.pem").read_bytes() == b"new"
    else:
        with pytest.raises(PermissionError):
            rewrite(file, b"new")
        assert file.read_bytes() == b"old"
    (left,) = [each for each in file.parent.iterdir() if "keyvouch-" in each.name]
    assert caplog.messages == [f"Failed to remove {left}: Operation not permitted. It may contain a private key."]


@pytest.mark.parametrize("way", ["create", "rewrite"])
def test_folder_is_flushed(file: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is flushed to disk after the file has its name: a key reported as created survives a power failure."""
    real = os.fsync
    seen = []

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            seen.append((os.stat(handle).st_ino, sorted(each.name for each in file.parent.iterdir())))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if way == "create":
        write_private(file.with_name("new.pem"), b"new")
    else:
        rewrite(file, b"new")
    (inode, names) = seen[0]
    assert inode == file.parent.stat().st_ino
    assert ("new.pem" if way == "create" else "app.pem") in names


def test_folder_that_cannot_be_flushed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key can be written even if the file system cannot flush folders."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    rewrite(file, b"new")
    assert file.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount")
def test_bind_mounted_file(file: Path, tmp_path: Path) -> None:
    """A container's bind-mounted file cannot be replaced: it stays, and the hint says what to mount instead."""
    source = tmp_path / "source"
    source.write_bytes(b"mounted")
    program = f"""
        from pathlib import Path
        from keyvouch.stores import key_files
        from keyvouch.errors import KeyvouchError
        try:
            key_files.replace(Path({str(file)!r}), b"new")
        except KeyvouchError as error:
            print(error.hint, Path({str(file)!r}).read_bytes())
    """
    command = ["unshare", "--mount", "sh", "-c", f'mount --bind {source} {file} && exec "$@"', "sh"]
    done = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "Mount its folder instead: a mounted file cannot be replaced. b'mounted'\n", done


@linux
def test_append_to_a_descriptor(folder: Path) -> None:
    """`/dev/fd/3` and `/proc/self/fd/3` are descriptors, even of a pipe, whose links have no path behind them."""
    reading, writing = os.pipe()
    for place in (f"/dev/fd/{writing}", f"/proc/self/fd/{writing}"):
        handle = files.open_to_append(Path(place))
        os.write(handle, b"record")
        os.close(handle)
        assert os.read(reading, 100) == b"record"
    os.close(reading)
    os.close(writing)


@linux
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_append_to_container_output(folder: Path, kind: str) -> None:
    """`/proc/1/fd/1` is where a container's log goes, and is a pipe belonging to another process."""
    program = "import sys; sys.stdin.read()"
    with (folder / "log").open("wb") as log:
        output = log if kind == "file" else subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=output) as process:
            handle = files.open_to_append(Path(f"/proc/{process.pid}/fd/1"))
            os.write(handle, b"record")
            os.close(handle)
            printed, _ = process.communicate()
    assert (printed or (folder / "log").read_bytes()) == b"record"


def killed_at(call: int, act: Callable[[], object]) -> bool:
    """Run a function in a process killed right before this call of a C function; return False if it ended before."""
    process = os.fork()
    if not process:
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event == "c_call"
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            os.umask(0)
            sys.setprofile(count)
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


NEW = b"new" * 5000
WAYS: dict[str, Callable[[Path], object]] = {
    "create": lambda path: write_private(path, NEW),
    "rewrite": lambda path: rewrite(path, NEW),
    "keep": lambda path: files.write_own(path, NEW),
    "configure": lambda path: add_profile(path, "b", {"tenant": "t"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_process_killed_at_any_point(tmp_path: Path, way: str, soak: bool) -> None:
    """Whenever a process is killed, the old or the new file is complete, and nobody else can read what is left.

    This holds with any umask, in a folder with a default access control list. The next write removes what is left.
    """
    old = b'[profiles.a]\ntenant = "t"\n'
    add_profile(tmp_path / "warm.toml", "a", {"tenant": "t"})  # so that no child has to import anything
    for call in range(1, 2000, 1 if soak else 7):
        folder = tmp_path / str(call)
        folder.mkdir(mode=0o755)
        if sys.platform == "linux" and way != "keep":
            set_acl(folder, acl(owner=7, users={60123: 7}, group=7), default=True)
        path = folder / "app.pem"
        if way != "create":
            write_private(path, old)
        killed = killed_at(call, functools.partial(WAYS[way], path))
        for each in folder.iterdir():
            assert mode_of(each) == 0o600
            if not each.stat().st_size:
                os.utime(each, (0, 0))  # a minute later
        found = path.read_bytes() if path.exists() else b""
        assert found == NEW or (found == b"" if way == "create" else found.startswith(old))
        write_private(path, NEW, replace=True)
        assert {each.name for each in folder.iterdir()} <= {"app.pem", ".app.pem.lock"}
        if not killed:
            return
    pytest.fail("never ended")
