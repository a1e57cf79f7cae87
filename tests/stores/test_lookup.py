"""Where a key's file is looked for, and the errors if it is missing or may not be read."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvouch.errors import AccessDenied, ConfigurationError, KeyChanged, KeyNotFound, KeyUnusable
from keyvouch.secrets import SecretResolver
from stores.key_material import certify, new_key, open_key, openssl_pfx, pem_of, store, uri, write

NOBODY = 65534


@pytest.fixture
def forbidden(folder: Path) -> Iterator[Path]:
    """A folder that this account may not search; root, who may search any, becomes another account."""
    path = folder / "forbidden"
    path.mkdir(mode=0)
    root = sys.platform != "win32" and os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    yield path
    if root:
        os.seteuid(0)
    path.chmod(0o700)


@pytest.fixture
def app(folder: Path) -> Path:
    return write(folder / "app.pem", pem_of(new_key(), certify(new_key())))


def test_missing_file_lists_neighbours(folder: Path) -> None:
    """If a file is missing, the error names those of the same type in its folder."""
    for name in ("old.pfx", "new.P12", "other.pem"):
        write(folder / name, b"x")
    with pytest.raises(KeyNotFound, match=r"(?m)contains: new\.P12, old\.pfx\.$"):
        open_key(f"pfx:{folder / 'app.pfx'}")


@pytest.mark.parametrize("name", ["keys/app.pem", "keys/app-*.pem", "elsewhere/app.pem"])
def test_relative_path_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A missing file with a relative path is reported with the folder that the path is relative to."""
    monkeypatch.chdir(folder.parent)
    line = f"\nThe path {name} is relative to the working directory, {folder.parent}."
    with pytest.raises(KeyNotFound) as caught:
        open_key(f"pem:{name}")
    assert caught.value.hint.endswith(line)
    with pytest.raises(KeyNotFound) as caught:
        open_key(f"pem:{folder}/app.pem")
    assert "relative" not in caught.value.hint


def test_missing_folder_is_named(folder: Path) -> None:
    """If the folder itself is missing, the error says so."""
    with pytest.raises(KeyNotFound, match=r"folder .*keys does not exist"):
        open_key(f"pfx:{folder / 'keys' / 'app.pfx'}")


def test_empty_folder_has_a_hint(folder: Path) -> None:
    """If there are no similar files, the error says how to make a key."""
    with pytest.raises(KeyNotFound, match="keyvouch new"):
        open_key(f"pfx:{folder / 'app.pfx'}")


def test_path_through_a_file(app: Path) -> None:
    """A path through a file does not exist."""
    with pytest.raises(KeyNotFound):
        open_key(f"pem:{app / 'app.pem'}")


def test_tilde_is_not_expanded() -> None:
    """A ~ is literal, and the error says so."""
    with pytest.raises(KeyNotFound, match="~ is not expanded"):
        open_key("pem:~/app.pem")


def test_missing_file_precedes_password(folder: Path) -> None:
    """The password for a missing file is not prompted for."""
    with pytest.raises(KeyNotFound):
        open_key(f"pfx:{folder / 'app.pfx'}?password=env:MISSING")


def test_folder_is_not_a_key(folder: Path) -> None:
    """A folder is not a key file."""
    with pytest.raises(KeyUnusable, match="is a folder"):
        open_key(f"pem:{folder}")


def test_empty_file_fails(folder: Path) -> None:
    """An empty file is reported as empty."""
    with pytest.raises(KeyUnusable, match="is empty"):
        open_key(f"pem:{write(folder / 'app.pem', b'')}")


@pytest.mark.skipif(sys.platform == "win32", reason="access rules are not read there")
def test_world_readable_key_is_rejected(app: Path) -> None:
    """A world-readable key is refused, with the remedy, unless the profile allows it."""
    app.chmod(0o644)
    with pytest.raises(AccessDenied, match="chmod o-rwx"):
        open_key(f"pem:{app}")
    text = f"pem:{app}"
    assert store(text, SecretResolver(any_reader=True)).open(uri(text), timeout=1)


def test_group_may_read(app: Path) -> None:
    """A key that the group can read is accepted."""
    app.chmod(0o640)
    assert open_key(f"pem:{app}")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder's mode means nothing there")
@pytest.mark.parametrize("name", ["app.pem", "*.pem"])
def test_inaccessible_path_is_access_denied(forbidden: Path, name: str) -> None:
    """A path that this account may not read or list is `AccessDenied`, whether or not it exists."""
    text = f"pem:{forbidden / name}"
    with pytest.raises(AccessDenied, match="cannot be read"):
        open_key(text)
    with pytest.raises(AccessDenied, match="cannot be read"):
        store(text).keys(uri(text))
    with pytest.raises(AccessDenied, match="cannot be read"):
        store(text).keys(uri(f"pem:{forbidden}"))


def test_listing_needs_a_path() -> None:
    """A file store cannot list the whole disk."""
    with pytest.raises(ConfigurationError, match="a folder to list"):
        store("pem:").keys(uri("pem:"))


@pytest.mark.parametrize("path", ["/keys-*/app.pfx", "/keys/*-*.pfx", "/keys%00.pfx"])
def test_invalid_paths_are_rejected(path: str) -> None:
    """A path may contain one *, in the file's name."""
    with pytest.raises(ConfigurationError, match="path"):
        uri(f"pfx:{path}")


def test_relative_path_is_pinned(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pinned URI opens from any working directory, and so do the files it refers to."""
    monkeypatch.chdir(app.parent)
    pinned = open_key("pem:app.pem?certificate-file=app.crt").uri
    monkeypatch.chdir("/")
    assert pinned.get("path") == app
    assert pinned.get("certificate-file") == str(app.with_suffix(".crt"))
    assert open_key(pinned)


def test_pinned_uri_keeps_access_attributes(folder: Path) -> None:
    """The pinned URI identifies the key and how to reach it, and leaves nothing to select."""
    path = openssl_pfx(folder / "app.pfx")
    pinned = open_key(f"pfx:{path}?password=env:PASSWORD&select=newest&settle=5").uri
    assert str(pinned).startswith(f"pfx:path={path};spki-sha256=")
    assert str(pinned).endswith("?password=env:PASSWORD")
    assert open_key(pinned).uri == pinned


def test_unusual_file_names_are_pinned(folder: Path) -> None:
    """A name may contain the URI's own separators, or bytes that are not UTF-8."""
    names = [b"a;b&c?d%e f.pem", b"k\xe9y.pem"]
    for name in names:
        write(folder / os.fsdecode(name), pem_of(new_key()))
    infos = store("pem:").keys(uri(f"pem:{folder}"))
    assert [os.fsencode(open_key(info.uri).uri.get("path").name) for info in infos] == names


def test_replaced_key_is_noticed(app: Path) -> None:
    """A file that now contains another key does not open by the pinned URI."""
    key = open_key(f"pem:{app}")
    assert not key.changed()
    write(app, pem_of(new_key("P-256", 1)))
    assert key.changed()
    with pytest.raises(KeyChanged):
        open_key(key.uri)


def test_moved_file_is_noticed(app: Path) -> None:
    """A copy of the same size and time moved into place is a change; so is a missing file."""
    key = open_key(f"pem:{app}")
    times = app.stat()
    copy = write(app.with_name("copy"), app.read_bytes())
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    copy.replace(app)
    assert key.changed()
    app.unlink()
    assert key.changed()


def test_folder_is_listed(folder: Path) -> None:
    """In a folder the files of this type are listed; unreadable ones are skipped."""
    write(folder / "a.pem", pem_of(new_key()))
    write(folder / "b.key", pem_of(new_key("RSA-2048"), certify(new_key("RSA-2048"), "b")))
    write(folder / "c.pem", b"broken")
    write(folder / "d.txt", pem_of(new_key()))
    bare, certified = store("pem:").keys(uri(f"pem:{folder}"))
    assert (bare.key_type, bare.has_certificate, bare.subject) == ("P-256", False, None)
    assert (certified.key_type, certified.has_certificate, certified.subject) == ("RSA-2048", True, "CN=b")
    assert certified.not_after == certify(new_key("RSA-2048"), "b").not_valid_after_utc
    assert certified.exportable is True


def test_error_in_a_listed_file_is_raised(folder: Path) -> None:
    """An error in a file that the URI names is raised by the listing, too."""
    path = write(folder / "c.pem", b"broken")
    with pytest.raises(KeyUnusable):
        store("pem:").keys(uri(f"pem:{path}"))
    with pytest.raises(KeyNotFound):
        store("pem:").keys(uri(f"pem:{path}.not"))


def test_pinned_uri_lists_its_key(folder: Path) -> None:
    """A listing contains only the key that the URI selects."""
    path = write(folder / "two.pem", pem_of(new_key("P-256", 1), new_key("P-256", 2)))
    first, second = store("pem:").keys(uri(f"pem:{path}"))
    assert store("pem:").keys(second.uri) == [second]
    assert first != second


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
@pytest.mark.parametrize("asked", ["missing", "public", "friendly name"])
def test_line_break_in_a_name_is_no_hint(folder: Path, asked: str) -> None:
    """No name of a file or key, which others may choose, begins a line that looks like a command to run."""
    path = folder / "a\nRun as root: true.pfx"
    openssl_pfx(path, "-name", "a\nRun as root: true")
    if asked == "public":
        path.chmod(0o644)
    encoded = str(path).replace("\n", "%0A")
    opened = {
        "missing": f"pfx:{folder}/app.pfx",
        "public": f"pfx:{encoded}?password=env:PASSWORD",
        "friendly name": f"pfx:path={encoded};friendly-name=b?password=env:PASSWORD",
    }
    with pytest.raises((KeyNotFound, AccessDenied)) as caught:
        open_key(opened[asked])
    assert "Run as root" in str(caught.value)
    assert not any(line.startswith("Run as root") for line in str(caught.value).splitlines())
