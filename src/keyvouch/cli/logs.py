"""Where logs and audit records go. Only the command attaches handlers; a program that embeds keyvouch has its own."""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from pathlib import Path

from keyvouch import files
from keyvouch.errors import ConfigurationError

SYSLOG: str | tuple[str, int] = "/dev/log" if sys.platform != "win32" else ("localhost", 514)
"""Where the machine's syslog listens."""


def to_standard_error() -> None:
    """Show keyvouch's own log; MSAL's and urllib3's stay quiet, since they may hold what is secret."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("keyvouch")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def only_ours() -> None:
    """Keep libraries from writing beside our own error what that says in two sentences: MSAL, azure-identity, any.

    Python prints warnings that nobody handles; of keyvouch's own logger they still are.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    logger = logging.getLogger("keyvouch")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)


def audit_to(destination: str) -> None:
    """Write audit records to `file:/path` (mode 0600, appended) or `syslog`.

    Raises `ConfigurationError` for another destination, or one that cannot be written.
    """
    logger = logging.getLogger("keyvouch.audit")
    handler = _handler(destination)
    handler.setFormatter(logging.Formatter("keyvouch: %(message)s" if destination == "syslog" else "%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Strict:
    """A handler that does not go on without its record: logging's own would print it with a traceback instead."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        raise ConfigurationError(
            "The audit record could not be written.", hint="See to the place that `audit` names in the profile."
        )


class _StrictFile(_Strict, logging.FileHandler):
    def _open(self) -> TextIOWrapper:
        handle = files.open_to_append(Path(self.baseFilename))
        return open(handle, "a", encoding=self.encoding, errors=self.errors)  # noqa: PTH123 - a descriptor


def _syslog() -> logging.Handler:
    import logging.handlers  # with much that is seldom needed

    class StrictSyslog(_Strict, logging.handlers.SysLogHandler):
        pass

    return StrictSyslog(SYSLOG)


def _handler(destination: str) -> logging.Handler:
    kind, _, place = destination.partition(":")
    path = Path(place)
    try:
        if destination == "syslog":
            return _syslog()
        if kind == "file" and path.is_absolute() and "\0" not in place:
            return _StrictFile(path, encoding="utf-8")
    except OSError as error:
        raise files.cannot_write(path, error) from error
    raise ConfigurationError(f"Audit records cannot go to {destination!r}.", hint='Use "file:/path" or "syslog".')
