"""The server's responses, decoded into types at once; anything unexpected raises `StoreUnavailable`.

Only the fields that are used are declared; others are ignored. Nothing is taken for granted, since a response may come
from a gateway, another server or a faulty Vault.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, TypeVar

import msgspec

from keyvouch.errors import AccessDenied, StoreUnavailable
from keyvouch.tokens import is_token

T = TypeVar("T")
_LONGEST_LIFE = 2**31
_FIRST_YEAR, _LAST_YEAR = 1970, 2900
_Lifetime = Annotated[int, msgspec.Meta(ge=0, le=_LONGEST_LIFE)]
"""Seconds; 0 means that the token never expires."""
_Number = Annotated[int, msgspec.Meta(ge=0, lt=10**9)]
"""A key version's number."""


class Auth(msgspec.Struct):
    """The token that a log-in or a renewal returned."""

    lease_duration: _Lifetime
    renewable: bool
    client_token: str = ""


class Token(msgspec.Struct):
    """A token that was looked up."""

    ttl: _Lifetime
    renewable: bool = False


class Wrapping(msgspec.Struct):
    """The path at which a wrapping token was created."""

    creation_path: str


class SecretId(msgspec.Struct):
    """An unwrapped secret id."""

    secret_id: str


class Names(msgspec.Struct):
    """The names of the keys in a mount."""

    keys: list[str]


class Key(msgspec.Struct):
    """A transit key. The contents of `keys` depend on its type."""

    type: str
    keys: msgspec.Raw
    latest_version: _Number = 1
    min_encryption_version: _Number = 0
    exportable: bool = False


class KeyVersion(msgspec.Struct):
    """One version of a key pair."""

    public_key: str
    creation_time: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    certificate_chain: str | None = None

    def __post_init__(self) -> None:
        """Reject a year so far off that adding to it could overflow."""
        if self.creation_time and not _FIRST_YEAR <= self.creation_time.year <= _LAST_YEAR:
            raise ValueError("the year is out of range")


KeyVersions = dict[_Number, KeyVersion]


class Signature(msgspec.Struct):
    """A signature: `vault:v3:...`."""

    signature: str


class WrappingKey(msgspec.Struct):
    """The public key that imported keys are wrapped with, in PEM."""

    public_key: str


class _Body(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()
    auth: msgspec.Raw = msgspec.Raw()


class _Refusal(msgspec.Struct):
    errors: list[str] | None = None


class Reply:
    """A successful response, whose contents are decoded on request."""

    def __init__(self, body: bytes, address: str, status: int) -> None:
        """Decode the outer object of a response from `address`; an empty body is valid. Raises `StoreUnavailable`."""
        outer = _decode(body or b"{}", _Body)
        if outer is None:
            raise _not_vault(address, status)
        self._body, self._address = outer, address

    @property
    def has_data(self) -> bool:
        """Whether the response has `data` other than null."""
        return bytes(self._body.data) not in (b"", b"null")

    def part(self, raw: msgspec.Raw, kind: type[T]) -> T:
        """Decode a raw part of what `data_as` returned. Raises `StoreUnavailable`."""
        found = _decode(raw, kind)
        if found is None:
            raise self._unexpected()
        return found

    def data_as(self, kind: type[T]) -> T:
        """Decode `data`. Raises `StoreUnavailable`."""
        return self.part(self._body.data, kind)

    def granted(self) -> Auth:
        """Decode `auth`. Raises `StoreUnavailable`, `AccessDenied` if the log-in is incomplete."""
        auth = self.part(self._body.auth, Auth)
        if not auth.client_token:
            raise AccessDenied("The log-in returned no token.", hint="Does it require a second factor?")
        if not is_token(auth.client_token):
            raise self._unexpected()
        return auth

    def _unexpected(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._address} returned an unexpected answer.",
            hint="Check that the address leads to Vault or OpenBao, and what a gateway in front of it does.",
        )


def _decode(body: bytes | msgspec.Raw, kind: type[T]) -> T | None:
    """Decode JSON; return None if it does not match `kind`. The exception may contain a token, so it is dropped."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError):
        return None


def error_texts(body: bytes, address: str, status: int) -> list[str]:
    """Return the texts of an error response, or one empty text if it has none. Raises `StoreUnavailable`."""
    refusal = _decode(body, _Refusal)
    if refusal is None:
        raise _not_vault(address, status)
    return refusal.errors or [""]


def _not_vault(address: str, status: int) -> StoreUnavailable:
    """Return the error for a response that is not in Vault's format at all."""
    return StoreUnavailable(
        f"{address} returned an answer ({status}) that is not from Vault or OpenBao.",
        hint="Check that the address leads to Vault, and not to a proxy or another server.",
    )
