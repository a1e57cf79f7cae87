"""The rate limits that Microsoft publishes for Key Vault."""

from __future__ import annotations

from keyvouch.store import RateLimit

_SOURCE = "https://learn.microsoft.com/azure/key-vault/general/service-limits"
_SECONDS = 10.0
_SOFTWARE_KEYS = {"RSA-2048": 4000, "RSA-3072": 1000, "RSA-4096": 500, "P-256": 4000, "P-384": 4000, "P-521": 4000}
"""Signatures in `_SECONDS` with keys protected by software, by key type. For keys in an HSM it is half of that."""


def published_limit(key_type: str, *, hsm: bool | None) -> RateLimit | None:
    """Return the limit of a vault for keys of this type; if `hsm` is None, which is unknown, the lower one."""
    if key_type not in _SOFTWARE_KEYS:
        return None
    signatures = _SOFTWARE_KEYS[key_type] if hsm is False else _SOFTWARE_KEYS[key_type] // 2
    return RateLimit(signatures, _SECONDS, "vault", _SOURCE)
