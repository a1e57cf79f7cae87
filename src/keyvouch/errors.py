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
    └── SignatureInvalid            a store returned a signature that is wrong: a defect

An error's text never holds a secret: what it quotes of a URI is redacted before it gets here.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


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
        """Take what happened, what to do about it (an imperative), and the key's URI as it may be shown."""
        super().__init__(message)
        self.message = message
        self.hint = hint
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


def without_frames(error: E) -> E:
    """Return the error, and what led to it, without the frames they came through.

    Frames hold locals, and a traceback that shows them would show what was in hand: a key's file, a password, an
    assertion. What happened is still told by the errors' own texts.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            waiting += [each.__cause__, each.__context__]
    return error


class hidden_frames(contextlib.ContextDecorator):  # noqa: N801 - used as a function, like `contextlib.suppress`
    """Let errors of this kind out `without_frames`; also a decorator. A defect keeps the frames it is found by."""

    def __init__(self, kind: type[Exception] = KeyvouchError) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, self._kind):
            without_frames(error)
