"""Lists of keys: certificates from beside the store, and which key signs when."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keyvouch.certificate import certificate_spki
from keyvouch.store import KeyInfo, KeyUri, Schedule

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


def with_certificates(infos: Sequence[KeyInfo], given: Sequence[Certificate]) -> list[KeyInfo]:
    """Describe the keys by these certificates, which take precedence over those in the store."""
    leaves = {certificate_spki(each): each for each in reversed(given)}
    return [_described(info, leaves.get(info.spki_sha256 or "")) for info in infos]


def _described(info: KeyInfo, leaf: Certificate | None) -> KeyInfo:
    if leaf is None:
        return info
    return dataclasses.replace(
        info,
        subject=leaf.subject.rfc4514_string(),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        has_certificate=True,
    )


def schedule(uri: KeyUri, infos: Sequence[KeyInfo], spki: str, settles_at: dt.datetime | None) -> Schedule:
    """Return the key with this public key as the one that signs now, and the one that settles at this time."""
    now = next((info for info in infos if info.spki_sha256 == spki), None)
    settle = dt.timedelta(seconds=uri.get("settle"))
    waiting = (info for info in infos if info.age_begins and info.age_begins + settle == settles_at)
    return Schedule(now, next(waiting, None), settles_at)


def successors(infos: Sequence[KeyInfo], spki: str) -> list[KeyInfo]:
    """Return the members of a family that may sign after the key with this public key, the next one first."""
    now = dt.datetime.now(dt.UTC)
    current = next((info.age_begins for info in infos if info.spki_sha256 == spki), None)
    if current is None:
        return []
    aged = [(info.age_begins, info) for info in infos if info.not_after is None or now <= info.not_after]
    younger = [(begins, info) for begins, info in aged if begins and begins > current]
    return [info for _, info in sorted(younger, key=lambda pair: pair[0])]
