"""Run by `test_windows_rules` inside Windows: print the results as JSON."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from keyvouch import config
from keyvouch._core import opening
from keyvouch._system import files
from keyvouch._system.windows import files as windows_files
from keyvouch.cli.inputs import is_interactive
from keyvouch.errors import KeyvouchError
from keyvouch.secrets import SecretResolver
from keyvouch.security_descriptor import ALLOW, FILE_ALL_ACCESS, Ace

assert sys.platform == "win32"

FOLDER = Path(r"C:\kevÿ 100%")
EVERYONE = "S-1-1-0"
DACL_SECURITY_INFORMATION = 4
HOLDING = """
import sys
from pathlib import Path
from keyvouch._system.files import LockFile
with LockFile(Path(sys.argv[1])) as lock:
    print(lock.acquire(0), flush=True)
    sys.stdin.read()
"""
PRINTING = """
import click
from keyvouch.cli import output, streams
streams.prepare()
click.echo("ü ж")
output.print_table(["subject"], [["ü ж"]])
click.echo("Fehler ü ж", err=True)
"""


def outcome_of(function: Callable[[], object]) -> object:
    """Return the result, or the error's class, message and hint."""
    try:
        return function()
    except KeyvouchError as error:
        return [type(error).__name__, error.message, error.hint]
    except OSError as error:
        return type(error).__name__


def allowed(path: Path) -> list[str]:
    """Return who has any right there, without those that always have."""
    return sorted({*(windows_files.rules_at(path).allowed(0xFFFFFFFF) or ())} - {"S-1-5-18", "S-1-5-32-544"})


def write(name: str, data: bytes) -> Path:
    path = FOLDER / name
    files.write_private(path, data)
    return path


def open_to_everyone(path: Path) -> None:
    """Give everyone full access to a file or folder."""
    rules = windows_files.rules_at(path)
    opened = rules.with_dacl([*(rules.dacl or ()), Ace(ALLOW, 0, FILE_ALL_ACCESS, EVERYONE)])
    assert ctypes.WinDLL("advapi32").SetFileSecurityW(str(path), DACL_SECURITY_INFORMATION, opened.to_bytes())


def check_files() -> dict[str, object]:
    """Create, read and replace files."""
    files.make_folder(FOLDER)
    key = write("app.pfx", b"key")
    again = outcome_of(lambda: files.write_private(key, b"other"))
    files.rewrite(key, b"rewritten")
    results = {"user": windows_files.this_user(), "folder": allowed(FOLDER), "file": allowed(key), "again": again}
    results["private"] = outcome_of(lambda: SecretResolver().read_private(key).decode())
    plain = Path(r"C:\plain")
    plain.mkdir()
    files.rewrite(plain / "config.toml", b"")
    results["configuration"], results["its folder"] = allowed(plain / "config.toml"), allowed(plain)
    open_to_everyone(key)
    files.rewrite(key, b"rewritten")
    results["kept rules"] = allowed(key)
    results["open"] = outcome_of(lambda: SecretResolver().read_private(key).decode())
    results["open, allowed"] = outcome_of(lambda: SecretResolver(any_reader=True).read_private(key).decode())
    with key.open("rb") as reader:
        threading.Timer(0.1, reader.close).start()
        results["replaced while read"] = outcome_of(lambda: files.write_private(key, b"new", replace=True))
    results["left"] = [path.name for path in FOLDER.iterdir()]
    results["a folder"] = outcome_of(lambda: SecretResolver().read_private(FOLDER))
    with files.locked(FOLDER / "lock", timeout=1):
        results["somebody there"] = is_interactive()
    return results


def check_locks() -> dict[str, object]:
    """Wait for a lock that another process holds until it is killed."""
    path = FOLDER / "held.lock"
    with (
        subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder,
        files.LockFile(path) as lock,
    ):
        assert holder.stdout
        results: dict[str, object] = {"there": holder.stdout.readline().strip().decode(), "here": lock.acquire(0)}
        os.utime(path, (0, 0))
        before = lock.stamp()
        lock.touch()
        results["touched"] = lock.stamp() != before
        holder.kill()
        holder.wait()
        results["killed"] = lock.acquire(30)
    with files.LockFile(path) as lock, files.LockFile(path) as other:
        results["again"] = [lock.acquire(0), other.acquire(0)]
    return results


def load(path: Path) -> object:
    os.environ["KEYVOUCH_CONFIG"] = str(path)
    return outcome_of(lambda: list(config.load().profiles))


def check_configurations() -> dict[str, object]:
    """Read files as editors and shells on Windows write them."""
    text = "[profiles.nächtlich]\n".replace("ä", "ae")
    results = {
        "utf-8 with a mark": load(write("mark.toml", b"\xef\xbb\xbf" + text.encode())),
        "utf-16": load(write("utf16.toml", text.encode("utf-16"))),
        "double quotes": load(write("quotes.toml", b'[profiles.a]\nkeys = ["pfx:C:\\keys\\app.pfx"]\n')),
        "a folder": load(FOLDER),
        "missing": load(FOLDER / "missing.toml"),
    }
    tab = write("tab.toml", b'[profiles.a]\nca-file = "C:\\temp\\new.pem"\n')
    load(tab)
    results["tab"] = outcome_of(lambda: config.load().profile("a"))
    opened = write("open.toml", text.encode())
    open_to_everyone(opened)
    results["open"] = load(opened)
    below = Path(r"C:\open")
    below.mkdir()
    files.write_private(below / "config.toml", text.encode())
    open_to_everyone(below)
    results["in an open folder"] = load(below / "config.toml")
    return results


def check_secrets() -> dict[str, object]:
    secrets = SecretResolver(commands=True)

    def resolve(reference: str) -> object:
        return outcome_of(lambda: secrets.resolve(reference).reveal())

    os.environ["UMLAUTS"] = "gehäim"
    written = {
        "file": "gehäim\r\n".encode(),
        "file with a mark": b"\xef\xbb\xbfgeheim",
        "utf-16": "geheim".encode("utf-16"),
    }
    return {
        **{name: resolve(f"file:{write(f'{name}.txt', data)}") for name, data in written.items()},
        "environment": resolve("env:UMLAUTS"),
        "program": resolve(r'command:"C:\windows\system32\cmd.exe" /c echo geheim'),
    }


def check_paths() -> dict[str, object]:
    texts = [r"pfx:C:\keys\app.pfx", "pfx:C:/keys/app.pfx", r"pfx:\\server\share\app.pfx", "pfx://server/share/app.pfx"]
    results: dict[str, object] = {text: str(opening.parse(text).get("path")) for text in texts}
    results["long"] = outcome_of(lambda: opening.open_signer(rf"pfx:C:\{'long' * 70}.pfx"))
    return results


def check_encodings() -> dict[str, object]:
    """Run the command with its output in a code page."""
    results: dict[str, object] = {}
    for name in ("cp1252", "cp437", "cp850", "ascii", "utf-8"):
        done = subprocess.run(
            [sys.executable, "-c", PRINTING],
            env={**os.environ, "PYTHONIOENCODING": name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        results[name] = [done.returncode, done.stdout.hex(), done.stderr.hex()]
    return results


def check_pipes() -> dict[str, object]:
    """Run the command when nobody reads its output, as before `Select-Object -First 1`."""
    with subprocess.Popen(
        [sys.executable, "-m", "keyvouch", "stores"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        return {"errors": process.stderr.read().decode()}


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "files": check_files(),
                "locks": check_locks(),
                "configurations": check_configurations(),
                "secrets": check_secrets(),
                "paths": check_paths(),
                "encodings": check_encodings(),
                "pipes": check_pipes(),
            }
        )
    )
