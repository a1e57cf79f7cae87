"""Which key a URI selects among those that match it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keyvouch._core.key_infos import KeyInfo
from keyvouch.errors import AmbiguousKey, CertificateMismatch, KeyChanged, KeyNotFound
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_MOST_LISTED = 10
"""Maximum number of URIs in the error for an ambiguous URI."""


def choose_one(
    uri: KeyUri, infos: Sequence[KeyInfo], certificate: Certificate | None = None
) -> tuple[KeyInfo, dt.datetime | None]:
    """Return the one matching key that the URI selects, and when another will be chosen (None if never).

    In this order: the key that `spki-sha256` identifies; the certificate's; the only one; with `select=newest` the
    newest that has settled. Raises `KeyNotFound`, `KeyChanged`, `CertificateMismatch`, `AmbiguousKey`.
    """
    if not infos:
        raise KeyNotFound(f"Key not found: {uri}.", hint="List the keys: `keyvouch keys`.", uri=uri)
    if pinned := uri.get("spki-sha256"):
        found = _by_key(infos, pinned)
        if found is None:
            raise KeyChanged(
                f"The key at {uri} was replaced by another.",
                hint="To use the new key, remove spki-sha256 from the URI.",
                uri=uri,
            )
        return found, None
    if certificate is not None:
        found = next((info for info in infos if _has_certificate(info, certificate)), None)
        if found is None:
            raise CertificateMismatch(
                f"The certificate of {certificate.subject.rfc4514_string()} does not belong to the key {uri}.",
                hint="Use the certificate that was issued for this key.",
                uri=uri,
            )
        return found, None
    if len(infos) == 1:
        return infos[0], None
    if uri.get("select") != "newest":
        raise _ambiguous(uri, infos, "Use one of these URIs")
    return _newest_settled(uri, infos, dt.datetime.now(dt.UTC))


def is_decided(
    uri: KeyUri, infos: Sequence[KeyInfo], certificate: Certificate | None = None, *, newest_first: bool = False
) -> bool:
    """Return True if further matches would not change the choice of `choose_one`, or that it fails.

    A store that reads its keys one by one calls this after each, and reads no more than needed. `newest_first`: each
    key is older than those before it.
    """
    if not infos:
        return False
    last = infos[-1]
    if pinned := uri.get("spki-sha256"):
        return bool(last.spki_sha256 == pinned)
    if certificate is not None:
        return _has_certificate(last, certificate)
    if uri.get("select") != "newest":
        return len(infos) > _MOST_LISTED
    now, settle = dt.datetime.now(dt.UTC), dt.timedelta(seconds=uri.get("settle"))
    return newest_first and last.has_certificate and _valid(last, now) and _has_settled(last, now, settle)


def _ambiguous(uri: KeyUri, infos: Sequence[KeyInfo], advice: str) -> AmbiguousKey:
    """Return the error that lists a URI for each match, or for the first ones if there are many."""
    number, first = str(len(infos)), infos[:_MOST_LISTED]
    candidates = tuple(str(info.uri) for info in first)
    lines = [f"  {info.uri.quoted}  {info.friendly_name or info.subject or ''}".rstrip() for info in first]
    if len(infos) > _MOST_LISTED:
        number = f"More than {_MOST_LISTED}"
        lines.append("  ...")
    hint = "\n".join((f"{advice}:", *lines))
    return AmbiguousKey(f"{number} keys match {uri}.", hint=hint, uri=uri, candidates=candidates)


def _by_key(infos: Sequence[KeyInfo], spki: str) -> KeyInfo | None:
    return next((info for info in infos if info.spki_sha256 == spki), None)


def _has_certificate(info: KeyInfo, certificate: Certificate) -> bool:
    from keyvouch.certificate import belongs_to

    return info.spki_sha256 is not None and belongs_to(certificate, info.spki_sha256)


def _newest_settled(uri: KeyUri, infos: Sequence[KeyInfo], now: dt.datetime) -> tuple[KeyInfo, dt.datetime | None]:
    settle = dt.timedelta(seconds=uri.get("settle"))
    infos = _usable(infos, now, settle)
    aged = [(info.age_begins, info) for info in infos if info.age_begins]
    if len(aged) < len(infos):
        raise _ambiguous(uri, infos, "Their ages are unknown; use one of these URIs")
    aged.sort(key=lambda pair: pair[0], reverse=True)
    chosen = next((index for index, (begin, _) in enumerate(aged) if begin + settle <= now), len(aged) - 1)
    younger = [begin + settle for begin, _ in aged[:chosen]]
    return aged[chosen][1], min(younger, default=None)


def _usable(infos: Sequence[KeyInfo], now: dt.datetime, settle: dt.timedelta) -> Sequence[KeyInfo]:
    """Return the members with a valid certificate; before the first one has settled, also settled ones without."""
    certified = [info for info in infos if info.has_certificate]
    if not certified:
        return infos
    # If none is valid, choose among all of them: the assertion then reports which certificate has expired.
    usable = [info for info in certified if _valid(info, now)] or certified
    if any(_has_settled(info, now, settle) for info in certified):
        return usable
    return [*usable, *(info for info in infos if not info.has_certificate and _has_settled(info, now, settle))]


def _has_settled(info: KeyInfo, now: dt.datetime, settle: dt.timedelta) -> bool:
    return info.age_begins is not None and info.age_begins + settle <= now


def _valid(info: KeyInfo, now: dt.datetime) -> bool:
    return (info.not_before is None or info.not_before <= now) and (info.not_after is None or now <= info.not_after)
