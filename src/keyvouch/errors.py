"""Every error that a user of keyvouch can meet.

    KeyvouchError
    ├── ConfigurationError          configuration, URI, file or TLS trust that must be corrected
    │   ├── PluginMissing           no installed store claims the scheme
    │   ├── PluginBroken            the store's plugin does not import, or speaks another contract
    │   └── PluginConflict          two distributions claim one scheme
    ├── NotSupported                this store, platform or file kind cannot do that
    ├── KeyNotFound
    ├── AmbiguousKey
    ├── KeyExists
    ├── SecretRequired              a password or PIN is needed, and none was given
    ├── SecretIncorrect             the store refused the password or PIN
    ├── StoreLocked                 too many wrong PINs: only the store's administrator can help
    ├── AccessDenied                a permission is missing, or a file is open to too many
    ├── StoreUnavailable            the store cannot be reached, or not now
    │   ├── Throttled               the store asks to wait
    │   └── SessionLost             for stores to raise: the connection is gone (users see StoreUnavailable)
    ├── AlgorithmUnsupported
    ├── KeyUnusable                 found, but it may not sign, or is no key that can
    ├── KeyChanged                  another key stands where the expected one was
    ├── CertificateMissing
    ├── CertificateMismatch         the certificate belongs to another key
    ├── CertificateExpired
    ├── CertificateNotYetValid
    ├── SignatureMismatch           `verify`: the signature is not this key's over this message
    ├── AuthorityRefused            the authority, or Microsoft Graph, said no
    ├── AuthorityUnavailable        no usable answer: network, 5xx, 429, no JSON
    ├── SignatureInvalid            a store returned a signature that is wrong: a defect
    └── InternalError               a store broke its contract: a defect

An error's text never holds a secret: what it quotes of a URI is redacted before it gets here.
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


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in text)


class KeyvouchError(Exception):
    """The base of all errors that keyvouch raises on purpose."""

    code: ClassVar[str] = "error"
    """Stable and documented: what programs compare with."""
    exit_status: ClassVar[int] = 1
    """What the command exits with."""
    transient: bool = False
    """Whether the same call may well succeed later."""
    try_next_key: bool = False
    """Whether a client with several keys goes on to the next one."""

    def __init__(self, message: str, *, hint: str = "", uri: object = None) -> None:
        """Take what happened, what to do about it (an imperative), and the key's URI as it may be shown.

        Both may quote a server: a character that could drive a terminal, or reorder a line of a log, becomes `?`.
        """
        self.message, self.hint = _printable(message), _printable(hint)
        super().__init__(self.message)
        self.uri = None if uri is None else str(uri)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class ConfigurationError(KeyvouchError):
    """A configuration, a URI, a file's place or a trusted authority's certificate must be corrected."""

    code = "configuration"
    exit_status = 2


class PluginMissing(ConfigurationError):
    """No installed distribution offers a store for the URI's scheme."""

    code = "plugin-missing"


class PluginBroken(ConfigurationError):
    """The store's plugin fails to import, or was written for another version of the contract."""

    code = "plugin-broken"


class PluginConflict(ConfigurationError):
    """Two distributions offer a store for one scheme."""

    code = "plugin-conflict"


class NotSupported(KeyvouchError):
    """The store, the platform or the kind of file cannot do what was asked."""

    code = "not-supported"
    exit_status = 2


class KeyNotFound(KeyvouchError):
    """No key, or no file, is where the URI points."""

    code = "key-not-found"
    exit_status = 3
    try_next_key = True


class AmbiguousKey(KeyvouchError):
    """Several keys match the URI; `candidates` names each."""

    code = "ambiguous-key"
    exit_status = 3

    def __init__(self, message: str, *, hint: str = "", uri: object = None, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.candidates = candidates


class KeyExists(KeyvouchError):
    """A key is already there, and nothing is ever overwritten."""

    code = "key-exists"
    exit_status = 3


class SecretRequired(KeyvouchError):
    """The store needs a password, PIN or token, and there is none."""

    code = "secret-required"
    exit_status = 4
    try_next_key = True


class SecretIncorrect(KeyvouchError):
    """The store refused the password, PIN or token."""

    code = "secret-incorrect"
    exit_status = 4
    try_next_key = True


class StoreLocked(KeyvouchError):
    """The store is locked after too many wrong PINs, or would be by one more."""

    code = "store-locked"
    exit_status = 4
    try_next_key = True


class AccessDenied(KeyvouchError):
    """A permission is missing, or a file that holds a secret is open to everyone."""

    code = "access-denied"
    exit_status = 4
    try_next_key = True


class StoreUnavailable(KeyvouchError):
    """The store cannot be reached, or not now."""

    code = "store-unavailable"
    exit_status = 5
    transient = True
    try_next_key = True


class Throttled(StoreUnavailable):
    """The store asks its callers to wait, for `retry_after` seconds where it says so."""

    code = "throttled"

    def __init__(self, message: str, *, hint: str = "", uri: object = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.retry_after = retry_after


class SessionLost(StoreUnavailable):
    """The connection or its log-in is gone; `performed`: whether the request may have been carried out.

    Stores raise it. The core connects again, or turns it into `StoreUnavailable` when the time is over.
    """

    code = "session-lost"

    def __init__(self, message: str, *, hint: str = "", uri: object = None, performed: bool = True) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.performed = performed


class AlgorithmUnsupported(KeyvouchError):
    """The key, or its store, cannot make signatures of this algorithm."""

    code = "algorithm-unsupported"
    exit_status = 6
    try_next_key = True


class KeyUnusable(KeyvouchError):
    """What the URI points at is no key that can sign: damaged, disabled, of another kind, or no key at all."""

    code = "key-unusable"
    exit_status = 6
    try_next_key = True


class KeyChanged(KeyvouchError):
    """Another key stands where the expected one was."""

    code = "key-changed"
    exit_status = 6
    try_next_key = True


class CertificateMissing(KeyvouchError):
    """The key has no certificate, and what was asked needs one."""

    code = "certificate-missing"
    exit_status = 6
    try_next_key = True


class CertificateMismatch(KeyvouchError):
    """The certificate belongs to another key, or the chain is not in order."""

    code = "certificate-mismatch"
    exit_status = 6
    try_next_key = True


class CertificateExpired(KeyvouchError):
    """The certificate's end has passed."""

    code = "certificate-expired"
    exit_status = 6
    try_next_key = True


class CertificateNotYetValid(KeyvouchError):
    """The certificate's beginning lies ahead."""

    code = "certificate-not-yet-valid"
    exit_status = 6
    try_next_key = True


class SignatureMismatch(KeyvouchError):
    """A signature that was to be checked is not this key's over this message."""

    code = "signature-mismatch"
    exit_status = 6
    try_next_key = True


class AuthorityRefused(KeyvouchError):
    """The authority refused the request.

    `error` is OAuth's code (RFC 6749, section 5.2), `error_codes` are Entra ID's AADSTS numbers, `thumbprint` is the
    SHA-256 of the certificate that was sent, in upper-case hexadecimal, and `correlation_id` what Microsoft's support
    asks for.
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
    """The authority gave no usable answer; another key would not help."""

    code = "authority-unavailable"
    exit_status = 5
    transient = True

    def __init__(self, message: str, *, hint: str = "", uri: object = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, uri=uri)
        self.retry_after = retry_after


class SignatureInvalid(KeyvouchError):
    """A store returned a signature that its own public key does not verify: a defect of the store or its plugin."""

    code = "signature-invalid"
    exit_status = 1
    try_next_key = True


class InternalError(KeyvouchError):
    """A store raised an exception or returned a value that its contract does not allow: a defect of its plugin.

    The exception is the `__cause__`. Its text is not part of the message, since it may contain a secret.
    """

    code = "internal-error"
    exit_status = 1
    try_next_key = True


_NOTED_FRAMES = 8
"""How many of the innermost frames a note lists: from the plugin's call down into its library."""
_NOTE = "Traceback without local variables (most recent call last):"


def without_frames(error: E) -> E:
    """Remove the tracebacks from the error and from every exception behind it; return the error.

    Frames hold local variables, and a report that shows them would show passwords, tokens and messages. A note lists
    file, line and function instead. An exception that the caller of the current function was already handling keeps
    its traceback, since it is the caller's.
    """
    caller = sys._getframe(1).f_back  # noqa: SLF001 - `inspect` offers the same, and takes milliseconds to import
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        traceback = each.__traceback__
        if each is not error and traceback is not None and _is_below(traceback.tb_frame, caller):
            continue
        if traceback is not None:
            _note(each, traceback)
            BaseException.with_traceback(each, None)  # the class may refuse assignments, as a frozen dataclass does
        waiting += [each.__cause__, each.__context__]
        if issubclass(type(each), BaseExceptionGroup):
            waiting += each.exceptions  # type: ignore[attr-defined]
    return error


def _is_below(frame: FrameType, caller: FrameType | None) -> bool:
    """Return whether the frame is `caller` or one that called it."""
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is not None


def _note(error: BaseException, traceback: TracebackType) -> None:
    """Add a note with the innermost frames, unless there is one from the first time the frames were removed."""
    if _noted(error):
        return
    lines = [f"  {line}" for line in _lines(traceback)[-_NOTED_FRAMES:]]
    with contextlib.suppress(Exception):  # a class of someone else's may refuse notes
        error.add_note("\n".join([_NOTE, *lines]))


def _noted(error: BaseException) -> str:
    with contextlib.suppress(Exception):  # a class of someone else's may have anything by this name
        return next(text for note in getattr(error, "__notes__", ()) if (text := str(note)).startswith(_NOTE))
    return ""


def _lines(traceback: TracebackType | None) -> list[str]:
    lines = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        lines.append(f'File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}')
        traceback = traceback.tb_next
    return lines


def frame_lines(error: BaseException) -> list[str]:
    """Return file, line and function of the frames that the error passed, outermost first, also `without_frames`."""
    noted = [line.strip() for line in _noted(error).splitlines()[1:]]
    return noted or _lines(error.__traceback__)


def hidden_frames() -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for public functions: whatever they raise, an interrupt too, leaves them `without_frames`."""
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
