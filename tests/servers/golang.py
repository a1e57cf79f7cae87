"""Build a server written in Go, once for all test runs. Go keeps what it downloads in its own folders."""

import hashlib
import shutil
from pathlib import Path

from servers import fetching

CACHE = fetching.CACHE / "go"

BUILD_TIMEOUT = 600
"""Seconds; includes the downloads."""

_HOME = str(Path.home())
"""Before a test has its own: Go's folders are in it."""


def build(folder: Path) -> Path:
    """Return the program built from ``folder``, which contains a Go module."""
    sources = b"\n".join(source.read_bytes() for source in sorted(folder.iterdir()))
    program = CACHE / f"{folder.name}-{hashlib.sha256(sources).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with fetching.locked(program.with_suffix(".lock")):
        if not program.exists():
            _build(folder, program)
    return program


def _build(folder: Path, program: Path) -> None:
    if not shutil.which("go"):
        fetching.server_missing("Go is missing: install Go 1.22 or newer (https://go.dev/dl)")
    unfinished = program.with_suffix(".new")
    # Without the commit, which git may refuse to read in a folder of another account.
    command = ["go", "build", "-buildvcs=false", "-o", str(unfinished), "."]
    fetching.run(command, folder, BUILD_TIMEOUT, HOME=_HOME)
    unfinished.replace(program)
