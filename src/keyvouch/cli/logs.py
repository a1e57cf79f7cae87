"""Destinations of logs and audit records. Only the command adds handlers; a program using keyvouch has its own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from keyvouch._system import files
from keyvouch.errors import ConfigurationError, KeyvouchError

SYSLOG: str | tuple[str, int] = "/dev/log" if sys.platform != "win32" else ("localhost", 514)
"""The address of the machine's syslog."""


def to_standard_error() -> None:
    """Show keyvouch's own log; MSAL's and urllib3's stay disabled because they may contain secrets."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("keyvouch")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def silence_libraries() -> None:
    """Keep libraries such as MSAL and azure-identity from printing warnings beside keyvouch's own error.

    Python prints warnings that no handler receives; those of keyvouch's own logger are still printed.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    logger = logging.getLogger("keyvouch")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)


def write_audit(destination: str, *, required: bool) -> None:
    """Write audit records to `file:/path` (mode 0600, appended) or `syslog`.

    Raises `ConfigurationError` for any other destination. If the destination cannot be written, raises it too if audit
    records are `required`, now or when a record is written; otherwise logs a warning.
    """
    logger = logging.getLogger("keyvouch.audit")
    try:
        handler = _handler(destination, (_fail if required else _warn_once)(destination))
    except _UnwritableError as unwritable:
        if required:
            raise unwritable.error from unwritable
        _warn(f"{unwritable.error.message} {unwritable.error.hint}")
        return
    handler.setFormatter(logging.Formatter("keyvouch: %(message)s" if destination == "syslog" else "%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _UnwritableError(Exception):
    """Audit records cannot be written to a valid destination."""

    def __init__(self, error: KeyvouchError) -> None:
        super().__init__(error)
        self.error = error


def _fail(destination: str) -> Callable[[BaseException | None], None]:
    def fail(error: BaseException | None) -> NoReturn:
        raise ConfigurationError(
            f"Cannot write the audit record to {destination}: {_reason(error)}.",
            hint="Correct `audit` in the profile, or its destination. `audit-required = false` makes this a warning.",
        ) from error

    return fail


def _warn_once(destination: str) -> Callable[[BaseException | None], None]:
    warned: list[bool] = []

    def warn(error: BaseException | None) -> None:
        if not warned:
            _warn(f"{destination}: {_reason(error)}.")
        warned.append(True)

    return warn


def _warn(reason: str) -> None:
    logging.getLogger("keyvouch").warning("Audit records are not written: %s", reason)


def _reason(error: BaseException | None) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _handler(destination: str, on_error: Callable[[BaseException | None], None]) -> logging.Handler:
    kind, _, name = destination.partition(":")
    path = Path(name)
    handler: logging.Handler
    try:
        if destination == "syslog":
            handler = _syslog()
        elif kind == "file" and path.is_absolute() and "\0" not in name:
            handler = _File(path, encoding="utf-8")
        else:
            raise ConfigurationError(
                f'Invalid destination for audit records: "{destination}".', hint='Use "file:/path" or "syslog".'
            )
    except OSError as error:
        unwritable = files.cannot_write(Path(str(SYSLOG)) if destination == "syslog" else path, error)
        if isinstance(error, PermissionError) and kind == "file":
            unwritable.hint = files.grant_append_hint(path)
        raise _UnwritableError(unwritable) from error
    # The default handler would print the record with a traceback.
    handler.handleError = lambda record: on_error(sys.exception())  # type: ignore[method-assign]  # noqa: ARG005
    return handler


def _syslog() -> logging.Handler:
    import logging.handlers  # imported late: it brings in much that is rarely needed

    return logging.handlers.SysLogHandler(SYSLOG)


class _File(logging.FileHandler):
    """Appends to a file, without following another account's links or blocking on a FIFO without a reader."""

    def _open(self) -> TextIOWrapper:
        handle = files.open_to_append(Path(self.baseFilename))
        return open(handle, "a", encoding=self.encoding, errors=self.errors)  # noqa: PTH123 - a descriptor
