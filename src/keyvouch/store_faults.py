"""Where a store breaks its contract: other exceptions than `KeyvouchError`, and values of the wrong type.

Both become `InternalError`, so that a client with several keys tries the next one, and the plugin's authors learn
where it happened.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
from types import TracebackType
from typing import Any

from keyvouch import registry
from keyvouch.errors import InternalError, KeyvouchError, frame_lines
from keyvouch.store import StoredKey
from keyvouch.uri import KeyUri


class store_code:  # noqa: N801 - used as a function, like `contextlib.suppress`
    """Run code of the store with this scheme: an exception that the contract does not allow becomes `InternalError`.

    What is not an `Exception`, such as KeyboardInterrupt, passes.
    """

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, KeyvouchError):
            made = unexpected(self._scheme, error)
            if made is not error:
                raise made


def unexpected(scheme: str, error: Exception) -> Exception:
    """Return the error for an exception of the store's own or of its libraries; it is the cause.

    An exception that a signal handler of the program raised is none of the store's, and is returned as it is.
    """
    if is_from_signal_handler(error):
        return error
    lines = frame_lines(error)
    made = _defect(scheme, f"raised {type(error).__name__}" + (f": {lines[-1]}" if lines else ""))
    made.__cause__ = error
    return made


def is_from_signal_handler(error: Exception) -> bool:
    """Return whether a signal handler of the program raised this: a timeout by SIGALRM, for example."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = [code for handler in handlers if (code := getattr(handler, "__code__", None)) is not None]
    return any(
        line.startswith(f'File "{code.co_filename}", ') and line.endswith(f", in {code.co_name}")
        for line in frame_lines(error)
        for code in codes
    )


def require_type(scheme: str, method: str, value: object, expected: type, *, members: type | None = None) -> None:
    """Raise `InternalError` unless the method's result is of this type, and its items, if it has any, of that."""
    right = isinstance(value, expected)
    if right and members is not None:
        right = all(isinstance(each, members) for each in value)  # type: ignore[attr-defined]  # a list or a tuple
    if not right:
        kind = f"{expected.__name__} of {members.__name__}" if members else expected.__name__
        raise _defect(scheme, f"returned {type(value).__name__} from {method} instead of {kind}")


def require_key(scheme: str, stored: object) -> None:
    """Raise `InternalError` if what `KeyStore.open` returned is not a key as the contract defines it."""
    from cryptography.x509 import Certificate

    require_type(scheme, "open", stored, StoredKey)
    _require_attribute(scheme, stored, "uri", KeyUri)
    _require_attribute(scheme, stored, "chain", tuple, members=Certificate)
    _require_attribute(scheme, stored, "advice", tuple, members=str)
    _require_attribute(scheme, stored, "exportable", bool | None)
    _require_attribute(scheme, stored, "settles_at", dt.datetime | None)
    if not hasattr(_attribute(scheme, stored, "public_key"), "public_bytes"):
        raise _defect(scheme, "opened a key whose public_key is not a public key")


def _require_attribute(scheme: str, stored: object, name: str, expected: Any, *, members: type | None = None) -> None:
    value = _attribute(scheme, stored, name)
    if not isinstance(value, expected) or (members and not all(isinstance(each, members) for each in value)):
        raise _defect(scheme, f"opened a key whose {name} has the wrong type, {type(value).__name__}")


def _attribute(scheme: str, stored: object, name: str) -> Any:
    with store_code(scheme):  # it may be a property, or missing
        return getattr(stored, name)


def _defect(scheme: str, what: str) -> InternalError:
    distribution = _distribution(scheme)
    return InternalError(
        f"The store {scheme}: {what}.",
        hint=f"Report it to the authors of {distribution}." if distribution else "Report it to the store's authors.",
    )


def _distribution(scheme: str) -> str:
    """Return name and version of the distribution that offers the scheme; empty if that cannot be found out."""
    with contextlib.suppress(Exception):
        return next(
            f"{plugin.distribution} {plugin.version}" for plugin in registry.plugins() if plugin.scheme == scheme
        )
    return ""
