"""A full or read-only disk, or a folder of another owner: the token is still printed.

The faults are real: mounts in the command's own namespace, resource limits, and dropped capabilities.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import keyvouch
from keyvouch import config
from keyvouch.entra.cached_token import cached_token
from keyvouch.testing.authority import App, Authority
from scripted_store import without_coverage
from signing_in import Done, Key, make_key, run, write_profile

ROOT = os.geteuid() == 0
NAMESPACE = ["unshare", *([] if ROOT else ["--map-root-user"]), "--mount", "sh", "-c"]
FULL = [*NAMESPACE, 'mount -t tmpfs -o size=64k x "$0" && { cat /dev/zero > "$0/all" 2>/dev/null; exec "$@"; }']
READ_ONLY = [*NAMESPACE, 'mount -t tmpfs -o ro x "$0" && exec "$@"']
SMALL_FILES = ["sh", "-c", 'ulimit -f 0 && exec "$@"']
ORDINARY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"] if ROOT else []
"""Root without the capabilities that bypass permissions."""
WITHOUT_RIGHTS = [*ORDINARY, "sh", "-c", 'exec "$@"']


@pytest.fixture
def app(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """An app registration, and its profile `nightly`."""
    key = make_key(tmp_path)
    app = authority.register(certificates=[key.certificate])
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri])))
    return app


@pytest.fixture
def cache(own_folders: Path) -> Path:
    """The cache's folder, which already exists."""
    folder = own_folders / "cache_directory"
    folder.mkdir()
    return folder


def run_under(prefix: Sequence[str], folder: Path, *arguments: str) -> Done:
    """Run the command with a faulty folder; without coverage, which could not write its data either."""
    command = [*prefix, str(folder), sys.executable, "-P", "-m", "keyvouch", *arguments]
    done = subprocess.run(command, env=without_coverage(), capture_output=True, check=False, timeout=120)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        (FULL, "No space left on device"),
        (READ_ONLY, "Read-only file system"),
        (SMALL_FILES, "File too large"),
    ],
    ids=["full", "read-only", "limited"],
)
def test_token_printed_without_cache(cache: Path, prefix: Sequence[str], reason: str) -> None:
    """One warning on standard error names the reason and the remedies; the token is printed."""
    done = run_under(prefix, cache, "token")
    assert done.status == 0, done.errors
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.output)
    assert re.fullmatch(
        rf"The token was not cached: .*({reason}|temporary directory).* Set CACHE_DIRECTORY .*\n", done.errors
    )


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("mode", [0o500, 0o000], ids=["unwritable", "closed"])
@pytest.mark.parametrize("folder", [".", "tokens"])
def test_token_printed_without_rights(cache: Path, mode: int, folder: str) -> None:
    """The token is printed even if a folder cannot be written or read."""
    (cache / folder).mkdir(exist_ok=True)
    if ROOT:
        shutil.chown(cache / folder, "games")
    (cache / folder).chmod(mode)
    try:
        done = run_under(WITHOUT_RIGHTS, cache, "token")
    finally:
        (cache / folder).chmod(0o700)
    assert done.status == 0, done.errors
    assert done.output.startswith("ey")
    reason = r"Permission denied\.|cannot be used: it belongs to another user \(uid \d+\)\."
    assert re.fullmatch(rf"The token was not cached: .*({reason}) Set .*\n", done.errors)


@pytest.mark.usefixtures("app")
def test_token_printed_with_old_cache(cache: Path) -> None:
    """The token is printed even if an existing cache can no longer be written or read."""
    assert run("token").status == 0
    for path in (cache / "tokens").iterdir():
        path.chmod(0)
    (cache / "tokens").chmod(0o500)
    done = run_under(WITHOUT_RIGHTS, cache, "token")
    (cache / "tokens").chmod(0o700)
    assert (done.status, done.output[:2]) == (0, "ey"), done.errors
    assert "The token was not cached" in done.errors


@pytest.mark.usefixtures("app")
def test_token_without_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An account without a home folder does not have a cache."""

    def fail(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", fail)
    assert keyvouch.connect("nightly").access_token()
    assert caplog.text.count("The token was not cached: This account has no home directory.") == 1
    profile = config.load().profile("nightly")
    assert cached_token(profile, "nightly") is None


@pytest.mark.usefixtures("app")
def test_token_without_temporary_folder(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without one, msal-extensions cannot be imported if portalocker is installed; a cache in a file needs neither."""

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "msal_extensions":
                raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    for name in [name for name in sys.modules if name.partition(".")[0] == "msal_extensions"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert keyvouch.connect("nightly").access_token()
    assert not [record for record in caplog.records if record.name == "keyvouch"]
    assert len(list((cache / "tokens").glob("*.json"))) == 1


@pytest.mark.usefixtures("app")
def test_program_gets_a_warning(own_folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In Python there is one warning on the logger, however often the token is renewed."""
    (own_folders / "cache_directory").write_text("a file is in the way")
    client = keyvouch.connect("nightly")
    for _ in range(3):
        client.remove_tokens_for_client()
        assert client.access_token()
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(":")[0] for text in said] == ["The token was not cached"]


@pytest.mark.usefixtures("app")
def test_azure_credential_gets_a_token(own_folders: Path) -> None:
    """The Azure SDK's credential behaves the same."""
    from keyvouch.entra.azure import KeyvouchCredential

    (own_folders / "cache_directory").write_text("a file is in the way")
    assert KeyvouchCredential("nightly").get_token("https://vault.azure.net/.default").token


@pytest.mark.usefixtures("app")
def test_cache_is_written_again_once_possible(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The cache is tried again for each token, so that it is written once the disk has room again."""
    (cache / "tokens").mkdir()
    client = keyvouch.connect("nightly")
    (written,) = (cache / "tokens").glob("*.json")
    written.unlink()
    written.mkdir()
    for _ in range(2):
        client.remove_tokens_for_client()
        client.access_token()
    assert caplog.text.count("The token was not cached") == 1
    written.rmdir()
    client.remove_tokens_for_client()
    client.access_token()
    assert written.is_file()


def test_no_cache_signs_in_again(app: App, authority: Authority, cache: Path, tmp_path: Path) -> None:
    """With --no-cache nothing is read or written, so that a mistake in the profile is reported."""
    assert json.loads(run("token", "--no-cache", "--output", "json").output)["from_cache"] is False
    assert not list(cache.iterdir())
    assert run("token").status == 0
    before = {path: path.read_bytes() for path in cache.rglob("*.json")}
    assert run("token", "--no-cache").status == 0
    assert len(authority.exchanges) == 3
    assert before == {path: path.read_bytes() for path in cache.rglob("*.json")}

    (tmp_path / "app.pfx").unlink()
    assert run("token").status == 0
    assert run("token", "--no-cache").status == 3


@pytest.mark.parametrize("destination", ["file:/dev/full", "file:{folder}/missing/audit.jsonl", "file:{folder}/folder"])
@pytest.mark.parametrize("required", [True, False, None])
def test_unwritable_audit(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str, *, required: bool | None
) -> None:
    """If a record cannot be written, the command fails if the profile requires it; otherwise it warns once."""
    (tmp_path / "folder").mkdir()
    key: Key = make_key(tmp_path)
    app = authority.register(certificates=[key.certificate])
    fields = {} if required is None else {"audit-required": required}
    path = write_profile(tmp_path, authority, app, [key.uri], audit=destination.format(folder=tmp_path), **fields)
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    done = run("token", "--no-cache")
    assert "Traceback" not in done.errors
    assert "Exception ignored" not in done.errors
    if required:
        assert (done.status, done.output) == (2, "")
        assert re.search("audit|cannot be written", done.errors)
    else:
        assert (done.status, done.output[:2]) == (0, "ey"), done.errors
        assert re.fullmatch("Audit records are not written: .*\n", done.errors)


def test_audit_destination_is_always_checked(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid destination is a mistake in the profile, whether or not records are required."""
    key = make_key(tmp_path)
    app = authority.register(certificates=[key.certificate])
    path = write_profile(tmp_path, authority, app, [key.uri], audit="stdout")
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
    assert run("token").status == 2
