"""File access: locations, safe reading and writing, locks, and checks of who could have written a file.

- `locations`: paths of the configuration, the state and the caches.
- `reading`: regular files within a size limit; a secret that everyone can read is refused.
- `writing`: complete or not at all, with mode 0600 from the first byte, safe in a folder of another account.
- `temporary_files`, `access_rights`: parts of `writing`.
- `locks`: locks between processes.
- `own_files`: files that keyvouch keeps for itself; refused if another account could have written them.
- `trust`: refuses to load, run or trust files that others could have written.
- `folders`, `path_resolution`: folders that are held open, and the symbolic links that are followed to them.
- `errors`, `access_hints`, `accounts`: errors and hints for files that cannot be read or written.
"""

from keyvouch._system.files.access_hints import grant_append_hint, has_other_readers, readers_hint
from keyvouch._system.files.copied_access import common_group
from keyvouch._system.files.errors import cannot_write, long_path_hint, read_hint, require_folder_of
from keyvouch._system.files.folders import Folder
from keyvouch._system.files.foreign_writers import check_trusted, check_trusted_certificates
from keyvouch._system.files.locations import cache_folder, configuration_files, foreign_home, state_folder
from keyvouch._system.files.locks import LockFile, locked
from keyvouch._system.files.own_files import read_own, require_own_folder, write_own
from keyvouch._system.files.path_resolution import absolute, make_folder, open_folder
from keyvouch._system.files.reading import (
    Stamp,
    read,
    read_private_with_status,
    read_with_status,
    stamp,
)
from keyvouch._system.files.writing import open_to_append, remove, rewrite, truncate, write_private

__all__ = [
    "Folder",
    "LockFile",
    "Stamp",
    "absolute",
    "cache_folder",
    "cannot_write",
    "check_trusted",
    "check_trusted_certificates",
    "common_group",
    "configuration_files",
    "foreign_home",
    "grant_append_hint",
    "has_other_readers",
    "locked",
    "long_path_hint",
    "make_folder",
    "open_folder",
    "open_to_append",
    "read",
    "read_hint",
    "read_own",
    "read_private_with_status",
    "read_with_status",
    "readers_hint",
    "remove",
    "require_folder_of",
    "require_own_folder",
    "rewrite",
    "stamp",
    "state_folder",
    "truncate",
    "write_own",
    "write_private",
]
