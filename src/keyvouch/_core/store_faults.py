"""Violations of the contract by a store: exceptions other than `KeyvouchError`, and values of the wrong type.

Both become `InternalError`, so that a client with several keys tries the next one, and the plugin's authors learn where
it happened.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from types import TracebackType
from typing import Any

from keyvouch._core import registry
from keyvouch._system.signal_handlers import is_from_signal_handler
from keyvouch.algorithms import Algorithm
from keyvouch.errors import AuthorityRefused, AuthorityUnavailable, InternalError, KeyvouchError, frame_lines
from keyvouch.store import KeyInfo, StoredKey, TokenInfo
from keyvouch.uri import KeyUri


class store_code:  # noqa: N801 - used as a function, like `contextlib.suppress`
    """Run code of the store with this scheme: an exception that the contract does not allow becomes `InternalError`.

    Anything that is not an `Exception`, such as KeyboardInterrupt, passes through.
    """

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            checked = checked_error(self._scheme, error)
            if checked is not error:
                raise checked


def checked_error(scheme: str, error: Exception) -> Exception:
    """Return the store's error if its contract allows it, otherwise an `InternalError` with that error as its cause.

    An exception raised by one of the program's signal handlers is returned unchanged.
    """
    if _is_allowed(error) or is_from_signal_handler(error):
        return error
    lines = frame_lines(error)
    defect = _defect(scheme, f"raised {type(error).__name__}" + (f": {lines[-1]}" if lines else ""))
    defect.__cause__ = error
    return defect


_FIELDS_OF_ERRORS: dict[str, Any] = {
    "code": str,
    "exit_status": int,
    "transient": bool,
    "try_next_key": bool,
    "message": str,
    "hint": str,
    "uri": str | None,
    "candidates": tuple | None,  # from here on, only some classes have these fields
    "performed": bool | None,
    "retry_after": float | int | None,
}


def _is_allowed(error: Exception) -> bool:
    """Return True for one of keyvouch's errors that stores may raise, with fields of the right types."""
    kind = type(error)  # `isinstance` would also ask the error's own `__class__`
    if not issubclass(kind, KeyvouchError) or kind is KeyvouchError:
        return False
    if issubclass(kind, AuthorityRefused | AuthorityUnavailable):
        return False
    try:
        error.uri = error.uri  # type: ignore[attr-defined]  # the core completes it
        str(error)
        return all(_fits(getattr(error, name, None), expected) for name, expected in _FIELDS_OF_ERRORS.items())
    except Exception as failure:  # a class that overrides what the core relies on
        if is_from_signal_handler(failure):
            raise
        return False


def _fits(value: object, expected: Any, members: type = str) -> bool:
    """Return True if the value has this type; a datetime must have a time zone, and a tuple members of that type."""
    if not isinstance(value, expected):
        return False
    if isinstance(value, dt.datetime):
        return value.utcoffset() is not None
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, tuple) or all(isinstance(each, members) for each in value)


def require_type(scheme: str, method: str, value: object, expected: type, *, members: type | None = None) -> None:
    """Raise `InternalError` unless a method's result has the `expected` type, and its items the type `members`."""
    with store_code(scheme):  # it may be the store's own type of list, or contain objects of its own
        right = isinstance(value, expected)
        if right and members is not None:
            right = all(isinstance(each, members) for each in value)  # type: ignore[attr-defined]  # a list or a tuple
    if not right:
        kind = f"{expected.__name__} of {members.__name__}" if members else expected.__name__
        raise _defect(scheme, f"returned {type(value).__name__} from {method} instead of {kind}")
    if members in _FIELDS:
        for each in value:  # type: ignore[attr-defined]
            _require_fields(scheme, each, f"returned {type(each).__name__} from {method}", _FIELDS[members])


_TIME, _TEXT = dt.datetime | None, str | None
_FIELDS: dict[type, dict[str, Any]] = {
    KeyInfo: {
        "uri": KeyUri,
        "key_type": str,
        "spki_sha256": _TEXT,
        "subject": _TEXT,
        "not_before": _TIME,
        "not_after": _TIME,
        "created": _TIME,
        "exportable": bool | None,
        "has_certificate": bool,
        "advice": tuple,
        "provider": _TEXT,
        "friendly_name": str | None,
        "readers": tuple | None,
    },
    TokenInfo: {"uri": KeyUri, "description": str},
    StoredKey: {
        "uri": KeyUri,
        "advice": tuple,
        "exportable": bool | None,
        "settles_at": _TIME,
        "remote": bool,
    },
}


def require_key(scheme: str, stored: object) -> None:
    """Raise `InternalError` if the result of `KeyStore.open` is not a key as the contract defines it."""
    from cryptography.x509 import Certificate

    require_type(scheme, "open", stored, StoredKey)
    _require_fields(scheme, stored, "opened a key", _FIELDS[StoredKey])
    _require_fields(scheme, stored, "opened a key", {"chain": tuple}, members=Certificate)
    _require_fields(scheme, stored, "opened a key", {"algorithms": tuple}, members=Algorithm)
    if not hasattr(_attribute(scheme, stored, "public_key"), "public_bytes"):
        raise _defect(scheme, "opened a key whose public_key is not a public key")


def _require_fields(scheme: str, value: object, what: str, fields: dict[str, Any], *, members: type = str) -> None:
    for name, expected in fields.items():
        found = _attribute(scheme, value, name)
        with store_code(scheme):
            right = _fits(found, expected, members)
        if not right:
            if isinstance(found, dt.datetime) and expected == _TIME:
                raise _defect(scheme, f"{what} whose {name} is invalid: expected a timezone-aware datetime")
            raise _defect(scheme, f"{what} whose {name} has the wrong type, {type(found).__name__}")


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
    """Return name and version of the distribution that offers the scheme; empty if that cannot be determined."""
    with contextlib.suppress(Exception):
        return next(
            f"{plugin.distribution} {plugin.version}" for plugin in registry.plugins() if plugin.scheme == scheme
        )
    return ""
