"""The core's rules on Windows, in a real Windows Python: files and their access rules, paths, code pages, tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyvouch.testing.authority import Authority
from signing_in import PASSWORD, SCOPE, make_key
from wine import Windows, path_in_windows

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("windows")]


COPYING = r"""
import os, pathlib, sys
from keyvouch._system import files
path = pathlib.Path(os.environ["LOCALAPPDATA"], "ca.pem")
files.write_private(path, pathlib.Path(sys.argv[1]).read_bytes(), replace=True)
print(path)
"""
"""Everyone can write to this machine's /tmp, so CA certificates must be elsewhere."""


@pytest.fixture(scope="module")
def inside(windows: Windows) -> dict[str, dict[str, Any]]:
    """The results of `inside_windows`."""
    done = windows.run(path_in_windows(Path(__file__).with_name("inside_windows.py")))
    assert done.status == 0, done
    found: dict[str, dict[str, Any]] = json.loads(done.output)
    return found


def test_new_files_are_private(inside: dict[str, dict[str, Any]]) -> None:
    """New files and folders are accessible to the account, Administrators and SYSTEM; none is overwritten."""
    found = inside["files"]

    assert found["folder"] == found["file"] == [found["user"]]
    assert (found["private"], found["again"]) == ("rewritten", "FileExistsError")
    assert found["left"] == ["app.pfx"]


def test_rewritten_file_keeps_its_rules(inside: dict[str, dict[str, Any]]) -> None:
    """Existing readers keep access, and an open reader is waited for; the folder decides who may read a new file."""
    found = inside["files"]

    assert found["kept rules"] == ["S-1-1-0", found["user"]]
    assert found["replaced while read"] is None
    assert found["configuration"] == found["its folder"] == ["S-1-1-0", found["user"]]


def test_world_readable_key_is_rejected(inside: dict[str, dict[str, Any]]) -> None:
    """The hint is the command to run; `permissions = "any"` allows the key."""
    found = inside["files"]
    error, message, hint = found["open"]

    assert error == "AccessDenied"
    assert message == r"Everyone on this machine can read C:\kevÿ 100%\app.pfx (Everyone, S-1-1-0)."
    assert hint == (
        r'Run: icacls "C:\kevÿ 100%\app.pfx" /inheritance:r /grant:r "*S-1-5-18:F" "*S-1-5-32-544:F"'
        f' "*{found["user"]}:F" /remove:g "*S-1-1-0"'
    )
    assert found["open, allowed"] == "rewritten"
    assert found["a folder"] == "IsADirectoryError"


def test_locks(inside: dict[str, dict[str, Any]]) -> None:
    """One process holds a lock, until it ends; another sees that the file was touched meanwhile."""
    found = inside["locks"]

    assert (found["there"], found["here"], found["killed"]) == ("True", False, True)
    assert found["touched"] is True
    assert found["again"] == [True, False]


def test_no_prompt_through_nul(inside: dict[str, dict[str, Any]]) -> None:
    """A scheduled task's standard input may be NUL, which claims to be a terminal."""
    assert inside["files"]["somebody there"] is False


@pytest.mark.parametrize(
    ("name", "path"), [("open", r"C:\kevÿ 100%\open.toml"), ("in an open folder", "C:\\open")], ids=["file", "folder"]
)
def test_untrusted_configuration_is_rejected(inside: dict[str, dict[str, Any]], name: str, path: str) -> None:
    """A configuration that everyone can write, or replace in its folder, is refused."""
    error, message, hint = inside["configurations"][name]

    assert error == "ConfigurationError"
    assert f"is not trusted: everyone can write to {path} (Everyone, S-1-1-0)" in message
    assert hint.startswith(f'Run: icacls "{path}" /inheritance:r')


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("utf-16", r"(Get-Content 'C:\kevÿ 100%\utf16.toml') | Set-Content -Encoding utf8 'C:\kevÿ 100%\utf16.toml'"),
        ("double quotes", "a path with backslashes in single quotes."),
        ("tab", "in double quotes a backslash begins an escape."),
        ("a folder", "Specify a file."),
        ("missing", "Correct its path."),
    ],
)
def test_unreadable_configuration(inside: dict[str, dict[str, Any]], name: str, hint: str) -> None:
    """Mistakes made by editors, PowerShell and backslashes are reported with the remedy."""
    error, _, actual_hint = inside["configurations"][name]

    assert error == "ConfigurationError"
    assert hint in actual_hint


def test_byte_order_marks_accepted(inside: dict[str, dict[str, Any]]) -> None:
    """UTF-8 may begin with a byte order mark, in a configuration and in a secret."""
    assert inside["configurations"]["utf-8 with a mark"] == ["naechtlich"]
    assert inside["secrets"]["file with a mark"] == "geheim"


def test_secrets(inside: dict[str, dict[str, Any]]) -> None:
    """Secrets may have non-ASCII letters and Windows line endings, and programs a path with backslashes."""
    found = inside["secrets"]

    assert (found["environment"], found["file"], found["program"]) == ("gehäim", "gehäim", "geheim")
    assert "Set-Content -Encoding utf8" in found["utf-16"][2]


def test_paths(inside: dict[str, dict[str, Any]]) -> None:
    """A path may begin with a drive letter or a server name, with either slash."""
    error, _, hint = inside["paths"].pop("long")
    assert (error, "enable long paths" in hint) == ("KeyNotFound", True)
    assert inside["paths"] == {
        r"pfx:C:\keys\app.pfx": r"C:\keys\app.pfx",
        "pfx:C:/keys/app.pfx": r"C:\keys\app.pfx",
        r"pfx:\\server\share\app.pfx": r"\\server\share\app.pfx",
        "pfx://server/share/app.pfx": r"\\server\share\app.pfx",
    }


@pytest.mark.parametrize("name", ["cp1252", "cp437", "cp850", "utf-8"])
def test_code_pages(inside: dict[str, dict[str, Any]], name: str) -> None:
    """A letter in the code page is printed as it is, another one as an escape; nothing crashes."""
    status, output, errors = inside["encodings"][name]
    cyrillic = "ж" if name == "utf-8" else r"\u0436"

    assert status == 0
    assert bytes.fromhex(output).decode(name).split() == ["ü", cyrillic, "subject", "ü", cyrillic]
    assert bytes.fromhex(errors).decode(name).split() == ["Fehler", "ü", cyrillic]


def test_ascii_output(inside: dict[str, dict[str, Any]]) -> None:
    """Nothing crashes even if the output encoding lacks all the letters."""
    assert inside["encodings"]["ascii"][0] == 0


def test_closed_pipe(inside: dict[str, dict[str, Any]]) -> None:
    """When the reader has closed the pipe, Windows reports another error than POSIX; nothing is printed about it."""
    assert inside["pipes"] == {"errors": ""}


@pytest.fixture
def profile(windows: Windows, authority: Authority, tmp_path: Path) -> Iterator[str]:
    """A profile for a key in a file, added with the command to the user's configuration."""
    key = make_key(tmp_path)
    app = authority.register(certificates=[key.certificate])
    uri = f"pfx:{path_in_windows(tmp_path / 'app.pfx')}?password=env:APP_PASSWORD"
    ca_file = windows.run("-c", COPYING, path_in_windows(Path(authority.ca_file))).output.strip()
    done = windows.keyvouch(
        *("profile", "add", "cached", "--key", uri, "--tenant", app.tenant, "--client-id", app.client_id),
        *("--scope", SCOPE, "--authority", authority.url, "--ca-file", ca_file),
    )
    assert done.status == 0, done
    assert r"AppData\Local\keyvouch\config.toml" in done.output
    yield "cached"
    windows.run("-c", r"import os; os.unlink(os.environ['LOCALAPPDATA'] + r'\keyvouch\config.toml')")


def test_token_cache(windows: Windows, authority: Authority, profile: str) -> None:
    """A second run neither signs nor posts; the file has no plaintext token; a damaged one is replaced."""
    first = windows.keyvouch("token", "--profile", profile, APP_PASSWORD=PASSWORD)
    assert first.status == 0, first
    posted = len(authority.exchanges)
    second = windows.keyvouch("token", "--profile", profile)
    assert (second.status, second.output) == (0, first.output)
    assert len(authority.exchanges) == posted

    inspected = windows.run(
        "-c",
        "import os, pathlib, sys\n"
        r"(path,) = pathlib.Path(os.environ['LOCALAPPDATA'], r'keyvouch\Cache\tokens').glob('*.json')" + "\n"
        "assert list(path.parent.glob('*.??.lock'))\n"
        "data = path.read_bytes()\n"
        "print(sys.argv[1].encode() in data, b'AccessToken' in data)\n"
        "path.write_bytes(data[::-1])\n",
        first.output.strip(),
    )
    assert inspected.output == "False False\n", inspected

    third = windows.keyvouch("token", "--profile", profile, APP_PASSWORD=PASSWORD)
    assert third.status == 0, third
    assert third.errors == ""
    assert len(authority.exchanges) == posted + 1
