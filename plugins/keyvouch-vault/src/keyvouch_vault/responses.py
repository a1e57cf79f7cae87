"""The server's responses, decoded into types at once; anything unexpected raises `StoreUnavailable`.

Only the fields that are used are declared; others are ignored. Nothing is taken for granted, since a response may come
from a gateway, another server or a faulty Vault.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec

from keyvouch.errors import AccessDenied, StoreUnavailable
from keyvouch.https import Reply, describe_response
from keyvouch.tokens import is_token

T = TypeVar("T")
_MAX_LIFETIME = 2**31
_MIN_YEAR, _MAX_YEAR = 1970, 2900
_Lifetime = Annotated[int, msgspec.Meta(ge=0, le=_MAX_LIFETIME)]
"""Seconds; 0 means that the token never expires."""
_VersionNumber = Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
"""A key version's number."""


class Auth(msgspec.Struct):
    """The token that a login or a renewal returned."""

    lease_duration: _Lifetime
    renewable: bool
    client_token: str = ""


class TokenLookup(msgspec.Struct):
    """The result of looking up a token."""

    ttl: _Lifetime
    renewable: bool = False


class WrappingLookup(msgspec.Struct):
    """The path at which a wrapping token was created."""

    creation_path: str


class UnwrappedSecretId(msgspec.Struct):
    """A secret ID that was unwrapped."""

    secret_id: str


class KeyNames(msgspec.Struct):
    """The names of the keys in a mount."""

    keys: list[str]


class TransitKeyData(msgspec.Struct):
    """A transit key. The contents of `keys` depend on its type."""

    type: str
    keys: msgspec.Raw
    latest_version: _VersionNumber = 1
    min_encryption_version: _VersionNumber = 0
    exportable: bool = False


class KeyVersionData(msgspec.Struct):
    """One version of a key pair."""

    public_key: str
    creation_time: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    certificate_chain: str | None = None

    def __post_init__(self) -> None:
        """Reject a year to which adding an interval could overflow."""
        if self.creation_time and not _MIN_YEAR <= self.creation_time.year <= _MAX_YEAR:
            raise ValueError("the year is out of range")


KeyVersions = dict[_VersionNumber, KeyVersionData]


class Signature(msgspec.Struct):
    """A signature: `vault:v3:...`."""

    signature: str


class WrappingKey(msgspec.Struct):
    """The public key that imported keys are wrapped with, in PEM."""

    public_key: str


class _Envelope(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()
    auth: msgspec.Raw = msgspec.Raw()


class _ErrorBody(msgspec.Struct):
    """An error response; the server always sends one of these fields, and other JSON is not its own."""

    errors: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    request_id: str | msgspec.UnsetType = msgspec.UNSET


class Response:
    """A successful response, whose contents are decoded on request."""

    def __init__(self, reply: Reply, address: str, sent: Iterable[str] = ()) -> None:
        """Decode the outer object of a response from `address`; an empty body is valid. Raises `StoreUnavailable`.

        `sent` are the values in the request, which the error does not repeat.
        """
        envelope = _decode(reply.body or b"{}", _Envelope)
        if envelope is None:
            # Only a page is quoted: damaged JSON may contain a token.
            is_page = reply.body.lstrip().startswith(b"<")
            raise _not_from_vault(reply if is_page else reply._replace(body=b""), address, sent)
        self._envelope, self._address = envelope, address

    @property
    def has_data(self) -> bool:
        """True if the response has `data` other than null."""
        return bytes(self._envelope.data) not in (b"", b"null")

    def decode(self, raw: msgspec.Raw, kind: type[T]) -> T:
        """Decode a raw part of what `data_as` returned. Raises `StoreUnavailable`."""
        found = _decode(raw, kind)
        if found is None:
            raise self._unexpected_format()
        return found

    def data_as(self, kind: type[T]) -> T:
        """Decode `data`. Raises `StoreUnavailable`."""
        return self.decode(self._envelope.data, kind)

    def auth(self) -> Auth:
        """Decode `auth`. Raises `StoreUnavailable`, `AccessDenied` if the login requires a second step."""
        auth = self.decode(self._envelope.auth, Auth)
        if not auth.client_token:
            raise AccessDenied("The login returned no token.", hint="Use an auth method that does not require MFA.")
        if not is_token(auth.client_token):
            raise self._unexpected_format()
        return auth

    def _unexpected_format(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"Unexpected response from {self._address}.",
            hint="Check that the address is that of Vault or OpenBao, and what a gateway in front of it changes.",
        )


def _decode(body: bytes | msgspec.Raw, kind: type[T]) -> T | None:
    """Decode JSON; return None if it does not match `kind`. The exception may contain a token, so it is dropped."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError):
        return None


def error_texts(reply: Reply, address: str, sent: Iterable[str] = ()) -> list[str]:
    """Return the texts of an error response, or one empty text if it has none. Raises `StoreUnavailable`."""
    parsed = _decode(reply.body, _ErrorBody)
    if parsed is None or (parsed.errors is msgspec.UNSET and parsed.request_id is msgspec.UNSET):
        raise _not_from_vault(reply, address, sent)
    return parsed.errors or [""]


def _not_from_vault(reply: Reply, address: str, sent: Iterable[str]) -> StoreUnavailable:
    """Return the error for a response that is not in Vault's format at all; a page may repeat what was sent."""
    body = reply.body
    for value in filter(None, sent):
        body = body.replace(value.encode(), b"...")
    shown = describe_response(reply.status, reply.reason, body)
    return StoreUnavailable(
        f"The response from {address} is not from Vault or OpenBao: {shown}.",
        hint="Check that the address is that of the server, and not of a proxy or another service.",
    )
