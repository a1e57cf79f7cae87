"""All errors that a user of keyvouch can encounter.

    KeyvouchError
    ├── ConfigurationError          invalid configuration, URI, file or TLS trust
    │   ├── PluginMissing           no installed store claims the scheme
    │   ├── PluginBroken            the store's plugin cannot be imported, or requires another contract
    │   └── PluginConflict          two distributions claim one scheme
    ├── NotSupported                this store, platform or file type cannot do that
    ├── KeyNotFound
    ├── AmbiguousKey
    ├── KeyExists
    ├── SecretRequired              a password or PIN is required, and none was given
    ├── SecretIncorrect             the store refused the password or PIN
    ├── StoreLocked                 too many wrong PINs: only the store's administrator can help
    ├── AccessDenied                a permission is missing, or a file is readable by too many
    ├── StoreUnavailable            the store cannot be reached at present
    │   ├── Throttled               the store asks to wait
    │   └── SessionLost             for stores to raise: the connection is lost (users see StoreUnavailable)
    ├── AlgorithmUnsupported
    ├── KeyUnusable                 found, but it must not or cannot sign, or is not a key
    ├── KeyChanged                  another key is in the place of the expected one
    ├── CertificateMissing
    ├── CertificateMismatch         the certificate belongs to another key
    ├── CertificateExpired
    ├── CertificateNotYetValid
    ├── SignatureMismatch           `verify`: the signature is not valid for this key and message
    ├── AuthorityRefused            the authority, or Microsoft Graph, refused the request
    ├── AuthorityUnavailable        no usable response: network, 5xx, 429, invalid JSON
    ├── SignatureInvalid            a store returned a wrong signature: a defect
    └── InternalError               a store broke its contract: a defect

The text of an error never contains a secret: URIs are redacted before they are quoted.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import ClassVar, ParamSpec, TypeVar

E = TypeVar("E", bound=BaseException)
P = ParamSpec("P")
R = TypeVar("R")


def _printable(text: str, kept: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in kept else "?" for each in text)


class KeyvouchError(Exception):
    """Base class of all errors that keyvouch raises on purpose."""

    code: ClassVar[str] = "error"
    """Stable, documented code for programs to compare."""
    exit_status: ClassVar[int] = 1
    """Exit status of the command."""
    transient: bool = False
    """True if the same call may succeed later."""
    try_next_key: bool = False
    """True if a client with several keys should go on to the next one."""
    _frames: tuple[str, ...] = ()
    """What `without_frames` removed, for `frame_lines`: not a note, so that a traceback ends with the hint."""

    def __init__(self, message: str, *, hint: str = "", uri: object = None) -> None:
        """`message` says what happened, `hint` what to do about it (an imperative); `uri` is the key's URI, redacted.

        Message and hint may quote a server or a file's name: a character that could control a terminal or reorder a log
        line becomes `?`, and so does a line break in the message, after which a hint might seem to begin.
        """
        self.message, self.hint = _printable(message), _printable(hint, kept="\n")
        super().__init__(self.message)
        self.uri = None if uri is None else str(uri)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigurationError(KeyvouchError):
    """A configuration, a URI, a file location or a trusted authority's certificate is invalid and must be corrected."""

    code = "configuration"
    exit_status = 2


class PluginMissing(ConfigurationError):
    """No installed distribution offers a store for the URI's scheme."""

    code = "plugin-missing"


class PluginBroken(ConfigurationError):
    """The store's plugin cannot be imported, or was written for another version of the contract."""

    code = "plugin-broken"


class PluginConflict(ConfigurationError):
    """Two distributions offer a store for one scheme."""

    code = "plugin-conflict"


class NotSupported(KeyvouchError):
    """The store, the platform or the file type cannot do what was requested."""

    code = "not-supported"
    exit_status = 2


class KeyNotFound(KeyvouchError):
    """The key or the file that the URI selects does not exist."""

    code = "key-not-found"
    exit_status = 3
    try_next_key = True


class AmbiguousKey(KeyvouchError):
    """Several keys match the URI; `candidates` lists their URIs, at most ten."""

    code = "ambiguous-key"
    exit_status = 3

    def __init__(self, message: str, *, hint: str = "", uri: object = None, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.candidates = candidates


class KeyExists(KeyvouchError):
    """The key already exists; nothing is ever overwritten."""

    code = "key-exists"
    exit_status = 3


class SecretRequired(KeyvouchError):
    """The store requires a password, PIN or token, and none was given."""

    code = "secret-required"
    exit_status = 4
    try_next_key = True


class SecretIncorrect(KeyvouchError):
    """The store refused the password, PIN or token."""

    code = "secret-incorrect"
    exit_status = 4
    try_next_key = True


class StoreLocked(KeyvouchError):
    """The store is locked after too many wrong PINs, or one more would lock it."""

    code = "store-locked"
    exit_status = 4
    try_next_key = True


class AccessDenied(KeyvouchError):
    """A permission is missing, or a file with a secret is readable by everyone."""

    code = "access-denied"
    exit_status = 4
    try_next_key = True


class StoreUnavailable(KeyvouchError):
    """The store cannot be reached at present."""

    code = "store-unavailable"
    exit_status = 5
    transient = True
    try_next_key = True


class Throttled(StoreUnavailable):
    """The store asks its callers to wait, for `retry_after` seconds if it says so."""

    code = "throttled"

    def __init__(self, message: str, *, hint: str = "", uri: object = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.retry_after = retry_after


class SessionLost(StoreUnavailable):
    """The connection or its session is lost; `performed`: whether the request may have been carried out.

    Raised by stores. The core reconnects, or turns it into `StoreUnavailable` at the end of the timeout.
    """

    code = "session-lost"

    def __init__(self, message: str, *, hint: str = "", uri: object = None, performed: bool = True) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.performed = performed


class AlgorithmUnsupported(KeyvouchError):
    """The key or its store does not support this signature algorithm."""

    code = "algorithm-unsupported"
    exit_status = 6
    try_next_key = True


class KeyUnusable(KeyvouchError):
    """What the URI selects cannot sign: it is damaged, disabled, of another type, or not a key."""

    code = "key-unusable"
    exit_status = 6
    try_next_key = True


class KeyChanged(KeyvouchError):
    """Another key is in the place of the expected one."""

    code = "key-changed"
    exit_status = 6
    try_next_key = True


class CertificateMissing(KeyvouchError):
    """The key has no certificate, and the operation requires one."""

    code = "certificate-missing"
    exit_status = 6
    try_next_key = True


class CertificateMismatch(KeyvouchError):
    """The certificate belongs to another key, or the chain is not in order."""

    code = "certificate-mismatch"
    exit_status = 6
    try_next_key = True


class CertificateExpired(KeyvouchError):
    """The certificate has expired."""

    code = "certificate-expired"
    exit_status = 6
    try_next_key = True


class CertificateNotYetValid(KeyvouchError):
    """The certificate is not yet valid."""

    code = "certificate-not-yet-valid"
    exit_status = 6
    try_next_key = True


class SignatureMismatch(KeyvouchError):
    """A signature to be verified is not valid for this key and message."""

    code = "signature-mismatch"
    exit_status = 6
    try_next_key = True


class AuthorityRefused(KeyvouchError):
    """The authority refused the request.

    `error` is the OAuth error code (RFC 6749, section 5.2), `error_codes` are Entra ID's AADSTS numbers, `thumbprint`
    is the SHA-256 of the certificate that was sent, in upper-case hexadecimal, and `correlation_id` is the ID that
    Microsoft's support asks for.
    """

    code = "authority-refused"
    exit_status = 7

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        uri: object = None,
        error: str = "",
        error_codes: tuple[int, ...] = (),
        thumbprint: str | None = None,
        correlation_id: str | None = None,
        try_next_key: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.error = error
        self.error_codes = error_codes
        self.thumbprint = thumbprint
        self.correlation_id = correlation_id
        self.try_next_key = try_next_key


class AuthorityUnavailable(KeyvouchError):
    """The authority gave no usable response; another key would not help."""

    code = "authority-unavailable"
    exit_status = 5
    transient = True

    def __init__(self, message: str, *, hint: str = "", uri: object = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.retry_after = retry_after


class SignatureInvalid(KeyvouchError):
    """A store returned a signature that its own public key does not verify: a defect in the store or its plugin."""

    code = "signature-invalid"
    exit_status = 1
    try_next_key = True


class InternalError(KeyvouchError):
    """A store raised an exception or returned a value that its contract does not allow: a defect in its plugin.

    The exception is the `__cause__`. Its text is not part of the message, since it may contain a secret.
    """

    code = "internal-error"
    exit_status = 1
    try_next_key = True


_MAX_NOTED_FRAMES = 8
"""Number of innermost frames that a note lists: from the plugin's call down into its library."""
_NOTE_HEADING = "Traceback without local variables (most recent call last):"


def without_frames(error: E) -> E:
    """Remove the tracebacks from the error and its chained exceptions; return the error.

    Frames hold local variables, and a report that shows them would show passwords, tokens and messages. `frame_lines`
    has file, line and function instead, and a note those of an exception that is not keyvouch's own. An exception
    that the current function's caller was already handling keeps its traceback, since it belongs to the caller.
    """
    caller = sys._getframe(1).f_back  # noqa: SLF001 - `inspect` offers the same, and takes milliseconds to import
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        traceback = each.__traceback__
        if each is not error and traceback is not None and _is_below(traceback.tb_frame, caller):
            continue
        if traceback is not None:
            _keep_frame_lines(each, traceback)
            BaseException.with_traceback(each, None)  # the class may refuse assignments, as a frozen dataclass does
        pending += [each.__cause__, each.__context__]
        if issubclass(type(each), BaseExceptionGroup):
            pending += each.exceptions  # type: ignore[attr-defined]
    return error


def _is_below(frame: FrameType, caller: FrameType | None) -> bool:
    """Return True if the frame is `caller` or one that called it."""
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is not None


def _keep_frame_lines(error: BaseException, traceback: TracebackType) -> None:
    """Keep the innermost frames as text, unless they were kept the first time that the frames were removed."""
    if _kept_lines(error):
        return
    lines = _traceback_lines(traceback)[-_MAX_NOTED_FRAMES:]
    with contextlib.suppress(Exception):  # a foreign class may refuse notes, or attributes
        if issubclass(type(error), KeyvouchError):
            error._frames = tuple(lines)  # type: ignore[attr-defined]  # noqa: SLF001
        else:
            error.add_note("\n".join([_NOTE_HEADING, *(f"  {line}" for line in lines)]))


def _kept_lines(error: BaseException) -> list[str]:
    with contextlib.suppress(Exception):  # a foreign class may use these names for anything
        if issubclass(type(error), KeyvouchError):
            return list(error._frames)  # type: ignore[attr-defined]  # noqa: SLF001
        return [line.strip() for line in _frame_note(error).splitlines()[1:]]
    return []


def _frame_note(error: BaseException) -> str:
    with contextlib.suppress(Exception):  # a foreign class may use this name for anything
        return next(text for note in getattr(error, "__notes__", ()) if (text := str(note)).startswith(_NOTE_HEADING))
    return ""


def _traceback_lines(traceback: TracebackType | None) -> list[str]:
    lines = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        lines.append(f'File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}')
        traceback = traceback.tb_next
    return lines


def frame_lines(error: BaseException) -> list[str]:
    """Return file, line and function of the error's frames, outermost first, even after `without_frames`."""
    return _kept_lines(error) or _traceback_lines(error.__traceback__)


def hidden_frames() -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for public functions: any exception, even an interrupt, leaves them `without_frames`."""
    return _hide


def _hide(function: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            without_frames(error)
            raise  # without a value, so that this frame is not added to the traceback

    return call
