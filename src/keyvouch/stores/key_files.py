"""Files with keys: finding, reading, writing and deleting them.

A path names one file, or a family of files with a `*` in the name for the time at which each was made.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from keyvouch._formats.identify import certificate_hint, identify
from keyvouch._system import files
from keyvouch._system.files import Stamp, stamp
from keyvouch._system.text import shell_quoted
from keyvouch.errors import AccessDenied, KeyExists, KeyNotFound, KeyUnusable, KeyvouchError
from keyvouch.secrets import SecretResolver

_TIME_FORMAT = "%Y%m%dT%H%M%S%fZ"
_TIME_PATTERN = re.compile(r"(?<!\d)\d{8}T\d{12}Z")
_SECONDS_SIZE = len("20261201T000000")
_EARLIEST = dt.datetime.min.replace(tzinfo=dt.UTC)
_PUBLIC = ("a public key", "a public key (JWK)", "an SSH public key", "a certificate request")
_MAX_NEIGHBOURS = 8
"""Maximum number of neighbouring files to list in the error for a missing file."""


class KeyFile(msgspec.Struct, frozen=True):
    """A file that was read."""

    path: Path
    data: bytes
    stamp: Stamp
    created: dt.datetime | None
    """The time in its name, or else its modification time; None for a reference."""
    reference: str | None = None
    """The reference that was read instead of a file; `path` then only shows what it is."""

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"  # without the data


def parse_path(data: bytes) -> Path:
    """Return the path in a URI. Raises ValueError."""
    if b"\0" in data:
        raise ValueError("NUL is not allowed in a path")
    path = Path(os.fsdecode(data))
    if "*" in str(path.parent) or path.name.count("*") > 1:
        raise ValueError("only one * is allowed, in the file name")
    return path


def is_folder(path: Path) -> bool:
    """Return True if the path is a folder; False if this account cannot find out."""
    return os.path.isdir(path)  # noqa: PTH112 - `Path.is_dir` raises PermissionError


def is_family(path: Path) -> bool:
    return "*" in path.name


def members(path: Path) -> list[Path]:
    """Return the files of a family, or the single file itself. Raises `KeyNotFound` if the folder is missing."""
    return [path.with_name(name) for name in _member_names(path)] if is_family(path) else [path]


def _member_names(path: Path) -> list[str]:
    """Return the names of a family's files, sorted."""
    begin, _, end = path.name.partition("*")
    return [
        name
        for name in list_folder(path.parent)
        if name.startswith(begin)
        and name[len(begin) :].endswith(end)
        # As in a shell, a leading `*` does not match a dot: temporary files have such names.
        and (begin or not name.startswith("."))
    ]


def siblings(path: object) -> list[Path]:
    """Return the existing files of a family; an empty list for anything else, or if the folder cannot be listed."""
    with contextlib.suppress(KeyvouchError):
        if isinstance(path, Path) and is_family(path):
            return members(files.absolute(path))
    return []


class Family:
    """The members that a family had when its key was chosen: a new member may be that key's successor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = stamp(path.parent.stat())  # before listing: a file that appears in the meantime counts as new
        self._names = _member_names(path)
        self._states: dict[Path, tuple[Stamp, int] | None] = {}
        self.skipped: tuple[Path, ...] = ()
        """Members that could not be used: a change of one, also of its permissions, is a change of the family."""

    @property
    def is_empty(self) -> bool:
        """True if the family has no members."""
        return not self._names

    def to_read(self, *, newest_first: bool) -> Iterator[Path]:
        """Yield the members, and keep each one's state before it is read; by name, or the newest first."""
        folder, names = self.path.parent, self._names
        if newest_first:
            names = sorted(names, key=lambda name: created(folder, name) or _EARLIEST, reverse=True)
        for name in names:
            path = folder / name
            self._states[path] = _state(path)
            yield path

    def changed(self) -> bool:
        """Return True if the members have changed; the folder is listed only if it was modified."""
        now = stamp(self.path.parent.stat())
        if now != self._stamp:
            if _member_names(self.path) != self._names:
                return True
            self._stamp = now
        return any(_state(each) != self._states.get(each) for each in self.skipped)


def _state(path: Path) -> tuple[Stamp, int] | None:
    """Return what changes with a file's content or permissions; None if this account cannot find out."""
    try:
        status = path.stat()
    except OSError:
        return None
    return stamp(status), status.st_ctime_ns


def list_folder(folder: Path) -> list[str]:
    """Return the names in the folder, sorted; not as paths, of which thousands take long."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - strings
    except OSError as error:
        raise _cannot_read(folder, error, ()) from error


def with_suffix(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield the files in the folder with one of these suffixes, sorted by name."""
    for name in list_folder(folder):
        path = folder / name
        if path.suffix.lower() in suffixes:
            yield path


def read_key_file(path: Path, secrets: SecretResolver, suffixes: Sequence[str]) -> KeyFile:
    """Read a file that contains a key; `suffixes` are those of its kind, for the hint.

    Raises `KeyNotFound`, `AccessDenied`, `KeyUnusable`.
    """
    try:
        data, status = secrets.read_private_with_status(path)
    except AccessDenied:  # everyone can read it, as is usual for a certificate or a public key
        _require_key_in(path)
        raise
    except IsADirectoryError as error:
        raise KeyUnusable(f"{path} is a folder.", hint="Specify a file that contains a key.") from error
    except OSError as error:
        raise _cannot_read(path, error, suffixes) from error
    if not data:
        raise KeyUnusable(f"{path} is empty.", hint="Specify a file that contains a key.")
    return KeyFile(path, data, stamp(status), _time_in_name(path.name) or _last_change(status))


def _require_key_in(path: Path) -> None:
    """Raise `KeyUnusable` for a file that contains only what everyone may read, such as certificates."""
    from cryptography import x509

    data = b""
    with contextlib.suppress(OSError):
        data = files.read(path)
    is_certificate = b"-----BEGIN" in data and b"PRIVATE KEY" not in data and b"CERTIFICATE-----" in data
    with contextlib.suppress(ValueError):
        is_certificate = is_certificate or bool(x509.load_der_x509_certificate(data))
    if is_certificate:
        raise KeyUnusable(
            f"No private key found in {path}: it contains only a certificate.",
            hint=certificate_hint(path),
        )
    found = identify(data, path)
    if found and (found.what in _PUBLIC or found.what.endswith("but without a private key")):
        raise KeyUnusable(f"No private key found in {path}: it is {found.what}.", hint=found.hint)


def read_certificate_file(path: Path) -> tuple[bytes, Stamp | None]:
    """Read the file named by `certificate-file` and return its bytes and stamp; empty if there is none.

    Raises `AccessDenied`.
    """
    try:
        data, status = files.read_with_status(path)
    except FileNotFoundError:
        return b"", None
    except OSError as error:
        raise AccessDenied(
            f"Cannot read certificate-file={path}: {error.strerror}.", hint=files.read_hint(path, error)
        ) from error
    return data, stamp(status)


def missing_file_error(path: Path, suffixes: Sequence[str]) -> KeyNotFound:
    """Return the error for a missing file; the hint lists its neighbours of the same kind."""
    message = f"No file matches {path}." if is_family(path) else f"{path} does not exist."
    if advice := files.long_path_hint(path):
        return KeyNotFound(message, hint=advice)
    if any(part.startswith("~") for part in path.parts):
        return KeyNotFound(message, hint="Write the full path: ~ is not expanded.")
    if ";" in path.name and "=" in path.name:
        hint = "Write path=...;name=... to add another attribute: a bare path extends to the `?`."
        return KeyNotFound(message, hint=hint)
    if not is_folder(path.parent):
        return KeyNotFound(message, hint=f"Correct the path: the folder {path.parent} does not exist.")
    with contextlib.suppress(KeyvouchError):
        if neighbours := [*itertools.islice(with_suffix(path.parent, suffixes), _MAX_NEIGHBOURS + 1)]:
            names = ", ".join(
                [
                    *(shell_quoted(each.name) for each in neighbours[:_MAX_NEIGHBOURS]),
                    *(["..."] * (len(neighbours) > _MAX_NEIGHBOURS)),
                ]
            )
            return KeyNotFound(message, hint=f"Correct the path; {path.parent} contains: {names}.")
    return KeyNotFound(message, hint="Correct the path, or create a key there: `keyvouch new`.")


def _cannot_read(path: Path, error: OSError, suffixes: Sequence[str]) -> KeyvouchError:
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG:
        return missing_file_error(path, suffixes)
    if error.errno in (errno.EINVAL, errno.EFBIG):
        return KeyUnusable(f"{path} cannot be read: {error.strerror}.", hint="Specify a file that contains a key.")
    return AccessDenied(f"{path} cannot be read: {error.strerror}.", hint=files.read_hint(path, error))


def created(folder: Path, name: str) -> dt.datetime | None:
    """Return when a file was created, as in `KeyFile`, without reading it; None if this account cannot find out."""
    try:
        return _time_in_name(name) or _last_change((folder / name).stat())
    except OSError:
        return None


def _time_in_name(name: str) -> dt.datetime | None:
    if found := _TIME_PATTERN.search(name):
        seconds, fraction = found[0][:_SECONDS_SIZE], found[0][_SECONDS_SIZE:-1]
        with contextlib.suppress(ValueError):  # this is ten times as fast as `strptime`: a family may be large
            return dt.datetime.fromisoformat(f"{seconds}.{fraction}+00:00")
    return None


def _last_change(status: os.stat_result) -> dt.datetime:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
    return dt.datetime.fromtimestamp(0, dt.UTC)  # an invalid time, from a wrong clock: counts as the oldest


def new_member_path(path: Path) -> Path:
    """Return the path of a new member, named for the current time."""
    return path.with_name(path.name.replace("*", dt.datetime.now(dt.UTC).strftime(_TIME_FORMAT)))


def require_no_file(path: Path) -> None:
    """Raise `KeyExists` if the path exists, `ConfigurationError` if its folder is missing or closed."""
    if os.path.lexists(path):
        raise _already_exists(path)
    files.require_folder_of(path)


def family_hint(path: Path) -> str:
    """Return a hint for a key that is to be followed by another one, and whose path names a single file."""
    family = shell_quoted(f"{path.with_name(f'{path.stem}*{path.suffix}')}")
    return f"To add a key that replaces it later, use a path with *, such as {family}, and --further."


def write_new(path: Path, data: bytes, siblings: Sequence[Path] = ()) -> None:
    """Create a file with mode 0600; a group that can read all its siblings can read it too.

    Raises `KeyExists`, `ConfigurationError`.
    """
    try:
        files.write_private(path, data, group=files.common_group(siblings))
    except FileExistsError:
        raise _already_exists(path) from None
    except OSError as error:
        raise files.cannot_write(path, error) from error


def _already_exists(path: Path) -> KeyExists:
    return KeyExists(f"{path} already exists.", hint="Specify another file: nothing is overwritten.")


def replace(path: Path, data: bytes, *, replaces: Stamp | None = None) -> None:
    """Replace a file, keeping its access permissions. Raises `ConfigurationError`.

    `replaces` is the stamp of the file from which `data` were derived: any other file is not replaced.
    """
    try:
        files.rewrite(path, data, replaces=replaces)
    except OSError as error:
        raise files.cannot_write(path, error) from error


def remove(path: Path) -> None:
    """Delete a file. Raises `ConfigurationError`."""
    try:
        files.remove(path)
    except OSError as error:
        raise files.cannot_write(path, error) from error
