"""Records of refused PINs: one file for each token, with salted digests, in the state folder.

A value whose try was interrupted may be the PIN itself, so its record contains only a label, which 1 in 256 values has.

A record that other accounts could have written, or that is damaged, counts as a refusal of every value.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from keyvouch._system import files
from keyvouch.errors import KeyvouchError, SecretIncorrect

T = TypeVar("T")

UNSEAL = "run: keyvouch doctor --unseal"
"""The end of a hint: how to try a refused value once more."""
_MAX_BYTES = 1024 * 1024
"""Maximum size of a record; thousands of refused values fit."""
_LABEL_LENGTH, _DIGEST_LENGTH = 2, 128
"""Hexadecimal digits of a label, and of the digest that scrypt returns."""


class DamagedRecordError(Exception):
    """The record is unreliable; the text says why."""


class PinRecord(msgspec.Struct, frozen=True):
    """Known facts about one token."""

    salt: bytes
    refused: frozenset[bytes] = frozenset()
    """Digests of the values that the token refused."""
    interrupted: dict[str, int] = {}
    """Number of tries that ended without an answer, by the value's label."""
    shows_failures: bool = False
    """True if the token has been seen to show a failed try, so that showing none is meaningful."""

    @property
    def is_empty(self) -> bool:
        return not (self.refused or self.interrupted)

    def refuses(self, reveal: Callable[[], str]) -> bool:
        if not self.refused:
            return False  # without deriving a digest, which takes longer than the login itself
        digest = self._digest(reveal)
        return any(hmac.compare_digest(digest, each) for each in self.refused)

    def with_try(self, label: str) -> PinRecord:
        tries = self.interrupted.get(label, 0) + 1
        return msgspec.structs.replace(self, interrupted={**self.interrupted, label: tries})

    def with_refusal(self, reveal: Callable[[], str]) -> PinRecord:
        """Return the record with this value; its label stays, since an interrupted value may have the same one."""
        return msgspec.structs.replace(self, refused=self.refused | {self._digest(reveal)})

    def _digest(self, reveal: Callable[[], str]) -> bytes:
        return hashlib.scrypt(reveal().encode(errors="surrogatepass"), salt=self.salt, n=2**14, r=8, p=1)


def forget_refusals() -> int:
    """Forget every refusal, so that each value may be tried once more; return the number of tokens affected.

    Also removes damaged records. Raises `ConfigurationError` if a record cannot be removed.
    """
    path = _records_folder()
    try:
        with files.open_folder(path) as folder:
            return sum(_remove(folder, name) for name in folder.names() if name.endswith(".json"))
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise files.cannot_write(path, error) from error


def _remove(folder: files.Folder, name: str) -> bool:
    """Remove a record; return True if it kept any value from being tried. Raises OSError."""
    try:
        counts = not _read(folder, name).is_empty
    except DamagedRecordError:
        counts = True
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        folder.remove_any(name)
    return counts


def _records_folder() -> Path:
    return files.state_folder() / "refused"


def make_records_folder(folder: Path) -> None:
    """Create the folder of the records. Raises `ConfigurationError` if other accounts could delete a refusal there."""
    files.make_folder(folder)
    try:
        files.require_own_folder(folder, of_any_account=True)  # what root does there is the owner's concern
    except OSError as error:
        raise files.cannot_write(folder, error) from error


def record_path(target: str) -> Path:
    # A token's label may contain anything; its digest is a safe file name.
    return _records_folder() / f"{hashlib.sha256(target.encode(errors='surrogatepass')).hexdigest()[:32]}.json"


def label_of(path: Path, reveal: Callable[[], str]) -> str:
    """Return the label of a value for the token with this record: one byte in hexadecimal.

    It has no salt: otherwise each record of the same value would reveal another byte.
    """
    return hashlib.sha256(path.name.encode() + reveal().encode(errors="surrogatepass")).hexdigest()[:_LABEL_LENGTH]


def read_record(path: Path) -> PinRecord:
    """Return the record. Raises `SecretIncorrect` if it is damaged: it may have listed this very value as refused."""
    try:
        with files.open_folder(path.parent) as folder:
            return _read(folder, path.name)
    except OSError as error:
        raise files.cannot_write(path, error) from error
    except DamagedRecordError as damage:
        raise SecretIncorrect(
            f"Cannot try the PIN: the record of refused PINs, {path}, {damage}.",
            hint=f"If the PIN is correct and the token is not about to lock, {UNSEAL}",
        ) from damage


def _read(folder: files.Folder, name: str) -> PinRecord:
    """Return the record; an empty one if the file does not exist. Raises `DamagedRecordError`."""
    try:
        entry = json.loads(_read_file(folder, name))
        interrupted = _of_type(entry.get("interrupted", {}), dict)
        # Records of earlier versions have only digests, also of interrupted values: all of them count as refused.
        older = [each for each in interrupted if len(each) == _DIGEST_LENGTH]
        return PinRecord(
            _parse_digest(entry["salt"]),
            frozenset(map(_parse_digest, [*_of_type(entry["digests"], list), *older])),
            {_parse_label(each): _of_type(tries, int) for each, tries in interrupted.items() if each not in older},
            _of_type(entry.get("shows-failures", False), bool),
        )
    except FileNotFoundError:
        return PinRecord(os.urandom(16))
    except OSError as error:
        raise DamagedRecordError(f"cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DamagedRecordError("is damaged") from None


def _parse_digest(text: str) -> bytes:
    digest = bytes.fromhex(_of_type(text, str))
    if not digest:
        raise ValueError("empty")
    return digest


def _parse_label(text: str) -> str:
    if len(bytes.fromhex(text)) * 2 != _LABEL_LENGTH:
        raise ValueError("not a label")
    return text


def _of_type(value: object, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(kind.__name__)
    return value


def _read_file(folder: files.Folder, name: str) -> bytes:
    """Read the opened file. Raises OSError, and `DamagedRecordError` if somebody else could have written it."""
    handle = folder.open(name, os.O_RDONLY)
    try:
        _require_own(os.fstat(handle), folder)
        return os.read(handle, _MAX_BYTES)
    finally:
        os.close(handle)


def _require_own(status: os.stat_result, folder: files.Folder) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DamagedRecordError("is not a regular file")
    if status.st_size > _MAX_BYTES:
        raise DamagedRecordError("is too large")
    if os.name != "posix":
        return
    # The folder's owner could replace the file anyway.
    if status.st_uid not in (0, os.geteuid(), folder.owner()):
        raise DamagedRecordError(f"belongs to another account (uid {status.st_uid})")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DamagedRecordError("can be written by other accounts")


def settle_record(path: Path, record: PinRecord) -> None:
    """Record the result of a try. If that fails, the value stays interrupted; a refusal empties the file instead."""
    try:
        if record.is_empty and not record.shows_failures:
            with contextlib.suppress(FileNotFoundError):
                files.remove(path)
        else:
            write_record(path, record)
    except (OSError, KeyvouchError):
        if record.refused:
            with contextlib.suppress(OSError, KeyvouchError):
                files.truncate(path)  # a damaged record refuses every value


def write_record(path: Path, record: PinRecord) -> None:
    entry = {
        "salt": record.salt.hex(),
        "digests": sorted(each.hex() for each in record.refused),
        "interrupted": record.interrupted,
        "shows-failures": record.shows_failures,
    }
    try:
        files.write_private(path, json.dumps(entry).encode(), replace=True)
    except OSError as error:
        raise files.cannot_write(path, error) from error
