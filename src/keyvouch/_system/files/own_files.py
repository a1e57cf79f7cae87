"""Files that keyvouch keeps for itself (records, tokens); refused if another account could have written them.

The folder is held open while it is checked and used, so that the folder checked is the folder used. On Windows the
access rules of the account's own folders, and DPAPI, provide this protection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
from pathlib import Path

from keyvouch._system.files.folders import Folder
from keyvouch._system.files.path_resolution import open_folder
from keyvouch._system.files.reading import content, opened
from keyvouch._system.files.writing import write_into
from keyvouch._system.text import shell_quoted
from keyvouch.errors import ConfigurationError

log = logging.getLogger("keyvouch")


def read_own(path: Path) -> bytes:
    """Read a file that this account wrote and that nobody else can read.

    Raises OSErrors as they come, `ConfigurationError` if another account could have written or can read the file.
    """
    with open_folder(path.parent) as folder:
        require_own(folder)
        with opened(folder.open(path.name, os.O_RDONLY), path) as file:
            _require_private(os.fstat(file.fileno()), path)
            return content(file, path)[0]


def write_own(path: Path, data: bytes) -> None:
    """Write or replace a complete file, for this account only.

    Raises OSErrors as they come, `ConfigurationError` if another account can write to the folder.
    """
    with open_folder(path.parent) as folder:
        require_own(folder)
        write_into(folder, path.name, data, replace=True)


def require_own_folder(path: Path, *, of_any_account: bool = False) -> None:
    """Raise `ConfigurationError` if another account can write to a folder, and OSErrors as they come.

    If others can write to a folder of this account, it is closed to them with a warning: Kubernetes opens a volume's
    folders to its `fsGroup` whenever a pod starts. `of_any_account`: root may use the folder of another account.
    """
    with open_folder(path) as folder:
        require_own(folder, of_any_account=of_any_account)


def require_own(folder: Folder, *, of_any_account: bool = False) -> None:
    """Check an open folder like `require_own_folder`."""
    if sys.platform == "win32":
        return
    account, owner = os.geteuid(), folder.owner()
    if owner not in (0, account) and not (of_any_account and account == 0):
        raise ConfigurationError(
            f"{folder.path} cannot be used: it belongs to another user (uid {owner}).",
            hint="Use a folder of your own, or run the command as that account.",
        )
    if owner == account and (writer := folder.foreign_writer()):
        with contextlib.suppress(OSError):
            folder.restrict_writing_to_owner()
            log.warning("Removed write permission for others from %s: %s had it.", folder.path, writer.subject)
    if writer := folder.foreign_writer():
        raise ConfigurationError(
            f"{folder.path} cannot be used: {writer.subject} can write to it.",
            hint=writer.hint(folder.own_status(), folder.path),
        )


def _require_private(status: os.stat_result, path: Path) -> None:
    """Raise `ConfigurationError` for a file that somebody else could have written or can read.

    With an access control list the group bits are its mask: no named entry can do more.
    """
    if sys.platform == "win32":
        return
    others = stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    if others or status.st_nlink > 1 or status.st_uid not in (0, os.geteuid()):
        raise ConfigurationError(
            f"{path} cannot be used: other accounts can open it.", hint=f"Run: rm {shell_quoted(path)}"
        )
