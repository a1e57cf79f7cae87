"""Paths of key files: errors for those that cannot be used, and the names of new ones."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvouch._system import files
from keyvouch.errors import AccessDenied, ConfigurationError, KeyExists, KeyNotFound, KeyUnusable, KeyvouchError
from keyvouch.secrets import SecretResolver
from keyvouch.stores import key_files
from stores.key_material import open_key, uri, write

SUFFIXES = (".pem",)


def fails(number: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


def error_of(act: Callable[[], object], kind: type[KeyvouchError]) -> KeyvouchError:
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    return caught.value


# Paths in a URI


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/keys-*/a.pem", "only one *"), ("/keys/*-*.pem", "only one *"), ("/keys%00.pem", "NUL is not allowed")],
)
def test_invalid_path_has_a_reason(path: str, reason: str) -> None:
    """The error for an invalid path says what is wrong with it."""
    assert reason in error_of(lambda: uri(f"pem:{path}"), ConfigurationError).message


# Families


def test_unchanged_folder_is_not_listed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose folder is unchanged is not listed again; after another file changes, it is listed once."""
    write(folder / "app-1.pem", b"x")
    family = key_files.Family(folder / "app-*.pem")
    list_folder = key_files.list_folder
    listings = []

    def counted(path: Path) -> list[str]:
        listings.append(path)
        return list_folder(path)

    monkeypatch.setattr(key_files, "list_folder", counted)
    assert not family.changed()
    assert len(listings) == 0
    write(folder / "other.pem", b"x")
    assert [family.changed(), family.changed()] == [False, False]
    assert len(listings) == 1
    write(folder / "app-2.pem", b"x")
    assert [family.changed(), family.changed()] == [True, True]


def test_missing_folder_of_a_family_is_named(folder: Path) -> None:
    """The error names the missing folder, whatever else exists."""
    write(folder / "other.pem", b"x")
    error = error_of(lambda: key_files.members(folder / "keys" / "*.pem"), KeyNotFound)
    assert str(folder / "keys") in error.message


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone cannot be set")
def test_new_member_is_named_in_utc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any time zone the name has the time in UTC, and it is read back as the creation time."""
    with monkeypatch.context() as change:
        change.setenv("TZ", "XYZ-11")
        time.tzset()
        begin = time.time()
        path = key_files.new_member_path(folder / "app-*.pem")
    time.tzset()
    created = key_files.read_key_file(write(path, b"x"), SecretResolver(), SUFFIXES).created
    assert path.match("app-*Z.pem")
    assert created
    assert begin - 1 < created.timestamp() < begin + 60


# Missing files


def test_at_most_eight_neighbours_are_listed(folder: Path) -> None:
    """The hint for a missing file lists at most eight others; "..." means that there are more."""
    for number in range(8):
        write(folder / f"{number}.pem", b"x")
    listed = ", ".join(f"{number}.pem" for number in range(8))
    assert (
        key_files.missing_file_error(folder / "a.pem", SUFFIXES).hint
        == f"Correct the path; {folder} contains: {listed}."
    )
    write(folder / "8.pem", b"x")
    assert (
        key_files.missing_file_error(folder / "a.pem", SUFFIXES).hint
        == f"Correct the path; {folder} contains: {listed}, ...."
    )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a.pem;friendly-name=b", "Write path="),
        ("a;b.pem", "keyvouch new"),
        ("a=b.pem", "keyvouch new"),
        ("keys/a.pem", "keys does not exist"),
        ("~/a.pem", "~ is not expanded"),
    ],
)
def test_hints_for_missing_files(folder: Path, name: str, hint: str) -> None:
    """The error names the file; the hint says what is probably wrong with the path."""
    error = error_of(lambda: open_key(f"pem:{folder / name}"), KeyNotFound)
    assert str(folder / name) in error.message
    assert hint in error.hint


def test_long_path_on_windows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows reports a path that is too long as missing: the hint says so, and the error still names the file."""
    monkeypatch.setattr(files.errors, "_WINDOWS", True)
    long = folder / ("x" * 250) / "a.pem"
    error = key_files.missing_file_error(long, SUFFIXES)
    assert str(long) in error.message
    assert "LongPathsEnabled" in error.hint
    assert "LongPathsEnabled" not in key_files.missing_file_error(Path("/a.pem"), SUFFIXES).hint


def test_missing_file_in_unlistable_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file missing from a folder that cannot be listed is still reported as missing."""
    monkeypatch.setattr(Path, "iterdir", fails(errno.EACCES))
    error = key_files.missing_file_error(folder / "a.pem", SUFFIXES)
    assert "a.pem does not exist" in error.message
    assert "keyvouch new" in error.hint


# Files that cannot be read


def test_folder_or_empty_file_has_a_hint(folder: Path) -> None:
    """The hint for a folder, and for an empty file, says that a key file is required."""
    for path in (folder, write(folder / "empty.pem", b"")):
        assert "file that contains a key" in error_of(lambda at=path: open_key(f"pem:{at}"), KeyUnusable).hint  # type: ignore[misc]


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (errno.EINVAL, KeyUnusable, "file that contains a key"),
        (errno.EFBIG, KeyUnusable, "file that contains a key"),
        (errno.EACCES, AccessDenied, "permission to read it"),
        (errno.EIO, AccessDenied, "file system"),
        (errno.ENAMETOOLONG, KeyNotFound, "keyvouch new"),
        (errno.ENOENT, KeyNotFound, "keyvouch new"),
        (errno.ENOTDIR, KeyNotFound, "keyvouch new"),
    ],
)
def test_read_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[KeyvouchError], hint: str
) -> None:
    """The error names the file and the reason, and the hint fits the reason."""
    resolver = SecretResolver()
    monkeypatch.setattr(resolver, "read_private_with_status", fails(number))
    error = error_of(lambda: key_files.read_key_file(folder / "a.pem", resolver, SUFFIXES), kind)
    assert str(folder / "a.pem") in error.message
    assert kind is KeyNotFound or os.strerror(number) in error.message
    assert hint in error.hint


def test_unreadable_certificate_file(folder: Path) -> None:
    """The error for an unreadable `certificate-file` says where it was given."""
    error = error_of(lambda: key_files.read_certificate_file(folder), AccessDenied)
    assert str(folder) in error.message
    assert "None" not in error.message
    assert "certificate-file=" in error.message
    assert error.hint == "Specify a file, not a folder."
    assert key_files.read_certificate_file(folder / "missing.crt") == (b"", None)
    path = write(folder / "app.crt", b"x")
    assert key_files.read_certificate_file(path) == (b"x", files.stamp(path.stat()))


# Files that cannot be written


def test_existing_file_is_an_error(folder: Path) -> None:
    """The error names the existing file, both when it is looked for and when it is written."""
    path = write(folder / "a.pem", b"x")
    for act in (lambda: key_files.require_no_file(path), lambda: key_files.write_new(path, b"y")):
        error = error_of(act, KeyExists)
        assert str(path) in error.message
        assert "nothing is overwritten" in error.hint
    assert path.read_bytes() == b"x"


def test_missing_folder_is_an_error(folder: Path) -> None:
    """The error names the file, gives the reason, and says which folder to create."""
    path = folder / "keys" / "a.pem"
    error = error_of(lambda: key_files.require_no_file(path), ConfigurationError)
    assert str(path) in error.message
    assert error.message.endswith("cannot be written: its folder does not exist.")
    assert f"Create the folder {folder / 'keys'}" in error.hint


@pytest.mark.parametrize("function", ["write_private", "rewrite", "remove"])
def test_write_errors(folder: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """The error for any failed write names the file and the reason, and has the remedy for a full disk."""
    path = write(folder / "a.pem", b"x")
    monkeypatch.setattr(files, function, fails(errno.ENOSPC))
    act = {
        "write_private": lambda: key_files.write_new(path, b"y"),
        "rewrite": lambda: key_files.replace(path, b"y"),
        "remove": lambda: key_files.remove(path),
    }[function]
    error = error_of(act, ConfigurationError)
    assert str(path) in error.message
    assert os.strerror(errno.ENOSPC) in error.message
    assert "disk is full" in error.hint


def test_changed_file_is_not_replaced(folder: Path) -> None:
    """A file that somebody else has changed since it was read is kept; an unchanged one is replaced."""
    path = write(folder / "a.pem", b"x")
    read = key_files.read_key_file(path, SecretResolver(), SUFFIXES).stamp
    key_files.replace(path, b"mine", replaces=read)
    assert path.read_bytes() == b"mine"
    error_of(lambda: key_files.replace(path, b"again", replaces=read), ConfigurationError)
    assert path.read_bytes() == b"mine"
    key_files.replace(path, b"anyway")
    assert path.read_bytes() == b"anyway"
    key_files.remove(path)
    assert not path.exists()
