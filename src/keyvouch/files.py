"""Where keyvouch keeps what it writes, how it writes it, and whose files it believes.

What it writes is made with mode 0600 from the first byte, beside its destination, and then moved there. A file with a
secret that everyone can read is refused; so is a configuration, a module or a program that others could have written.
On Windows access rules stand in place of modes: what they mean is told in `access_rules`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from keyvouch.errors import AccessDenied, ConfigurationError, KeyvouchError, StoreUnavailable

_WINDOWS = sys.platform == "win32"
_LARGEST = 16 * 1024 * 1024
"""Bytes of a file that is read: keys, certificates and configurations are far smaller."""
_LONGEST_PATH = 259
"""Characters that Windows takes (MAX_PATH), where its administrators have not allowed more."""
_READING = 1.0
"""Seconds that another process has for reading a file that is replaced; on Windows alone it must be waited for."""


def configuration_files() -> list[Path]:
    """Return the places of the configuration, the first to be tried first; never the working directory."""
    user = _user_folder("user_config_path")
    if _WINDOWS:
        machine = Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData"), "keyvouch", "config.toml")
    else:
        machine = Path("/etc/keyvouch/config.toml")
    return [user / "config.toml", machine] if user else [machine]


def state_folder() -> Path:
    """Return the folder of what must outlive the process: refused secrets, journals. It may not exist yet."""
    if given := os.environ.get("STATE_DIRECTORY"):  # systemd's; of several the first
        return Path(given.split(os.pathsep)[0])
    if sys.platform != "win32" and os.geteuid() == 0:
        return Path("/var/lib/keyvouch")
    return _user_folder("user_state_path") or _without_home("STATE_DIRECTORY")


def cache_folder() -> Path:
    """Return the folder of what may be lost: tokens. It may not exist yet."""
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given.split(os.pathsep)[0])
    return _user_folder("user_cache_path") or _without_home("CACHE_DIRECTORY")


def _user_folder(kind: str) -> Path | None:
    """Return the user's folder of a kind, by the name of its function; None for an account without a home."""
    import platformdirs

    try:
        folder: Path = getattr(platformdirs, kind)("keyvouch", appauthor=False)
    except RuntimeError:
        return None
    # Older versions of platformdirs then give a folder named ~ in the working directory.
    return folder if folder.is_absolute() else None


def _without_home(variable: str) -> NoReturn:
    home = "load its profile (%LOCALAPPDATA%)" if _WINDOWS else "HOME"
    raise ConfigurationError("This account has no home folder.", hint=f"Set {variable} to a folder, or {home}.")


def make_folder(folder: Path) -> None:
    """Make a folder of our own, open to its owner alone. Raises `ConfigurationError` where that cannot be."""
    try:
        if sys.platform == "win32":
            from keyvouch import windows_files

            if not folder.is_dir():
                folder.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):  # another process was faster
                    windows_files.make_folder(folder)
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file of mode 0600 as a whole or not at all.

    Raises FileExistsError where a file is already there and `replace` is false, other OSErrors as they come.
    """
    handle, name = _make_beside(path)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            _replace(name, path)
        else:
            _link(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def create_private(path: Path) -> int:
    """Make a file of mode 0600 and return its descriptor, open for writing. Raises OSErrors, also FileExistsError."""
    if sys.platform == "win32":
        from keyvouch import windows_files

        return windows_files.create(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _make_beside(path: Path) -> tuple[int, str]:
    """Make the temporary file that will get this path."""
    if _WINDOWS:  # where `tempfile` gives it the folder's rules
        import secrets

        name = path.parent / f".{path.name}.{secrets.token_hex(8)}"
        return create_private(name), str(name)
    import tempfile

    return tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp's mode is 0600


def rewrite(path: Path, data: bytes) -> None:
    """Write over a file as a whole, and leave it to those who could read it before; a link stays a link.

    A new one is of mode 0600; on Windows its folder says who may read it, as of a configuration the service accounts.
    Raises OSErrors as they come.
    """
    target = path.resolve()
    if sys.platform == "win32":
        from keyvouch import security_descriptor, windows_files

        rules = windows_files.rules_at(target) if target.exists() else security_descriptor.SecurityDescriptor()
        write_private(target, data, replace=True)
        windows_files.give_rules(target, rules)
        return
    before = target.stat() if target.exists() else None
    write_private(target, data, replace=True)
    if before is not None:
        with contextlib.suppress(PermissionError):  # only root may give a file away
            os.chown(target, before.st_uid, before.st_gid)
        target.chmod(stat.S_IMODE(before.st_mode))


def _replace(name: str, path: Path) -> None:
    """Give the finished file its name. On Windows nobody may have the other open: one who reads it is waited for."""
    deadline = time.monotonic() + _READING
    while True:
        try:
            os.replace(name, path)
        except PermissionError:
            if not _WINDOWS or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _link(name: str, path: Path) -> None:
    """Give the finished file its name, unless that is taken: what a rename cannot promise on POSIX."""
    if _WINDOWS:
        os.rename(name, path)
        return
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, as FAT and some network shares
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # the name is ours, or taken
        try:
            os.replace(name, path)
        except OSError:
            os.unlink(path)
            raise


def cannot_write(path: Path, error: OSError) -> KeyvouchError:
    """Turn an OSError met while writing into an error with its remedy."""
    hints = {
        errno.ENOENT: f"Make the folder {path.parent} first.",
        errno.ENOTDIR: f"Make the folder {path.parent} first.",
        errno.EROFS: "The file system is read-only: name a place that can be written.",
        errno.ENOSPC: "The disk is full.",
        errno.EACCES: f"Let this account write to {path.parent}, or name another place.",
        errno.EPERM: f"Let this account write to {path.parent}, or name another place.",
    }
    hint = advice_for_long(path) or hints.get(error.errno or 0, "Name another place.")
    return ConfigurationError(f"{path} cannot be written: {error.strerror or error}.", hint=hint)


def advice_for_long(path: Path) -> str:
    """Return what to do about a path that Windows may say is not there because it is long; empty for any other."""
    if not _WINDOWS or len(str(path)) <= _LONGEST_PATH:
        return ""
    return f"The path has more than {_LONGEST_PATH} characters: shorten it, or allow long paths (LongPathsEnabled)."


@contextlib.contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold a lock between processes on this file, which is made where it is missing.

    Raises `StoreUnavailable` after `timeout` seconds, `ConfigurationError` where the file cannot be made.
    """
    make_folder(path.parent)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise cannot_write(path, error) from error
    with _held(handle, path, timeout):
        yield


@contextlib.contextmanager
def locked_folder(folder: Path, *, timeout: float) -> Iterator[None]:
    """Hold a lock between processes on a folder that is there; nothing is left in it. On Windows there is no such lock.

    Raises `StoreUnavailable` after `timeout` seconds, `ConfigurationError` where the folder cannot be opened.
    """
    if _WINDOWS:
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with _held(handle, folder, timeout):
        yield


@contextlib.contextmanager
def _held(handle: int, path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock on an open file, and close it at the end."""
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"Another process has held the lock {path} for {timeout:.0f} seconds.",
                    hint="Look for a keyvouch process that hangs.",
                )
            time.sleep(0.02)
        try:
            yield
        finally:
            _unlock(handle)
    finally:
        os.close(handle)


def _unlock(handle: int) -> None:
    # Closing alone is not enough: a child that was forked meanwhile has the file open too, and would keep it locked.
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_UN)


def _try_lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read(path: Path) -> bytes:
    """Read a file that a person wrote: a configuration, a certificate. OSError as it comes.

    What is no regular file is an OSError too, since a FIFO would be waited for, and so is one too large to be meant.
    """
    with _open(path) as file:
        return file.read()


def read_private(path: Path, *, any_reader: bool = False) -> bytes:
    """As `read`, for a file that holds a key or a secret.

    Raises `AccessDenied` where everyone can read it (`any_reader` lets that pass).
    """
    with _open(path) as file:  # what is checked is what is read: the open file, not its name
        if not any_reader:
            _require_few_readers(file.fileno(), path)
        return file.read()


def _require_few_readers(handle: int, path: Path) -> None:
    if sys.platform == "win32":
        from keyvouch import access_rules, windows_files

        found = access_rules.too_many_readers(
            str(path.absolute()), windows_files.rules_of(handle), windows_files.this_user()
        )
        if found:
            raise AccessDenied(f"Everyone on this machine can read {path} ({found[0]}).", hint=found[1])
    elif os.fstat(handle).st_mode & stat.S_IROTH:
        raise AccessDenied(f"Everyone on this machine can read {path}.", hint=_remedy(path))


def _open(path: Path) -> BinaryIO:
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except PermissionError:
        if _WINDOWS and path.is_dir():  # which says no more than that on Windows
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
        raise
    try:
        _require_regular(os.fstat(handle), path)
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    if status.st_size > _LARGEST:
        raise OSError(errno.EFBIG, "Too large", str(path))


def let_read(path: Path, error: OSError) -> str:
    """Return what lets this account read a file that it could not."""
    if sys.platform == "win32" and isinstance(error, PermissionError):
        from keyvouch import access_rules, windows_files

        return access_rules.let_read(str(path.absolute()), windows_files.this_user())
    return "Let this account read it."


def _remedy(path: Path) -> str:
    place = str(path)
    if Path(path.parent, "..data").is_symlink():  # how the kubelet lays out a volume
        return "Set defaultMode: 0400 on the Kubernetes volume (with fsGroup: 0440)."
    if place.startswith(("/run/secrets/", "/var/run/secrets/")):
        return "Give the container's secret the mode 0400 (Compose: the long form of `secrets`, with uid and mode)."
    return f"Run: chmod o-rwx {path}"


def check_trusted(path: Path) -> None:
    """Refuse what others could have written: a configuration, a module, a program; and the folders above it.

    Raises `ConfigurationError`: it, or a folder above it, can be written by everyone (sticky folders aside), or belongs
    to someone who is neither root nor this user. So with the links on the way to it, and where they lead. OSErrors as
    they come.
    """
    os.path.realpath(path, strict=True)  # links that lead round in a circle end here
    if sys.platform == "win32":
        _check_rules(path)
        return
    for place in _followed(path.absolute()):
        status = place.lstat()
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_mode & stat.S_IWOTH and not sticky and not stat.S_ISLNK(status.st_mode):
            raise ConfigurationError(
                f"{path} is not trusted: everyone can write to {place}.", hint=f"Run: chmod o-w {place}"
            )
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigurationError(
                f"{path} is not trusted: {place} belongs to another user (uid {status.st_uid}).",
                hint=f"Run: chown root {place}, or use a file of your own.",
            )


def _check_rules(path: Path) -> None:
    """Refuse what others could have written, by the access rules of Windows."""
    if sys.platform == "win32":
        from keyvouch import access_rules, windows_files

        user = windows_files.this_user()
        for place in _followed(path.absolute()):
            try:
                rules = windows_files.rules_at(place)
            except PermissionError:
                if place == path.absolute():
                    raise
                raise ConfigurationError(
                    f"{path} is not trusted: this account may not see who can write to {place}.",
                    hint=access_rules.let_see(str(place), user),
                ) from None
            folder, root = os.path.isdir(place), place == place.parent
            if found := access_rules.distrust(str(place), rules, user, folder=folder, root=root):
                raise ConfigurationError(f"{path} is not trusted: {found[0]}.", hint=found[1])


def _followed(path: Path) -> Iterator[Path]:
    """Give the path and every folder above it; where one is a link, also all that it leads through."""
    for place in (path, *path.parents):
        yield place
        if target := _target(place):
            yield from _followed(place.parent / target)


def _target(place: Path) -> str | None:
    """Return where a link leads to; None where it is none. A junction of Windows' counts as no symbolic link."""
    if not _WINDOWS:
        return os.readlink(place) if place.is_symlink() else None
    try:
        return os.readlink(place)
    except (OSError, ValueError):  # no reparse point; one that is no link, as of a file that is kept in a cloud
        return None
