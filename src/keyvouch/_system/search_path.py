"""Trusted entries of `sys.path`: not the working directory, unless keyvouch itself was imported from there.

`python -m`, `PYTHONPATH=:` and a script in the working directory put it on `sys.path`. Anyone who can write there could
plant a module or a distribution. This module imports only what the interpreter has loaded before it looks there.
"""

import os
import sys

_PACKAGE = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120 - pathlib is not loaded yet
HOME = os.path.normcase(os.path.realpath(os.path.dirname(_PACKAGE)))  # noqa: PTH120
"""The folder or zip archive that keyvouch was imported from."""
_removed: "list[str]" = []


def is_trusted(entry: object) -> bool:
    """Return True if code and distributions may be loaded from an entry of `sys.path`.

    Relative entries are not trusted, since their meaning depends on the working directory.
    """
    if not isinstance(entry, str):
        return False  # the import system ignores it too
    try:
        resolved = os.path.normcase(os.path.realpath(entry or os.curdir))
    except (OSError, ValueError):  # relative, and the working directory no longer exists; or a NUL
        return False
    if resolved == HOME:
        return True
    return os.path.isabs(entry) and resolved != _working_directory()  # noqa: PTH117 - pathlib is not loaded yet


def trusted() -> "list[str]":
    """Return the trusted entries of `sys.path`."""
    return [entry for entry in sys.path if is_trusted(entry)]


def skipped() -> "list[str]":
    """Return the absolute paths of the untrusted entries, including those that were removed."""
    entries = [*_removed, *(entry for entry in sys.path if isinstance(entry, str) and not is_trusted(entry))]
    found = []
    for entry in entries:
        try:
            found.append(os.path.abspath(entry))  # noqa: PTH100 - pathlib is not loaded yet
        except (OSError, ValueError):
            continue
    return list(dict.fromkeys(found))


def remove_untrusted() -> None:
    """Remove untrusted entries from `sys.path`. For the command only: a program's path is its own."""
    _removed.extend(entry for entry in sys.path if isinstance(entry, str) and not is_trusted(entry))
    sys.path[:] = trusted()


class only_trusted:  # noqa: N801 - used as a function, like `contextlib.suppress`
    """Remove untrusted entries from `sys.path` for the imports in a block."""

    def __enter__(self) -> None:
        self._entries = sys.path[:]
        sys.path[:] = trusted()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        sys.path[:] = self._entries


def _working_directory() -> "str | None":
    try:
        return os.path.normcase(os.path.realpath(os.curdir))
    except OSError:  # it no longer exists, so nothing can be in it
        return None
