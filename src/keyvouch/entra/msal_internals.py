"""All private names of MSAL that keyvouch uses; everything else in this package uses only MSAL's public interface.

MSAL may rename them in any release: `tests/entra/test_msal_internals.py` checks that they exist, and pyproject.toml
allows no release of MSAL that is newer than the tested ones.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any

import msal


def token_cache_lock(cache: msal.TokenCache) -> AbstractContextManager[Any]:
    """Return the reentrant lock that MSAL holds while it reads or changes a token cache."""
    lock: AbstractContextManager[Any] = cache._lock  # noqa: SLF001
    return lock


def renew_locks(application: msal.ConfidentialClientApplication) -> None:
    """Replace an application's locks in a forked child: a parent's thread may hold them, and cannot release them."""
    throttled_responses = getattr(application.http_client, "_expiring_mapping", None)
    for owner, name in (
        (application.token_cache, "_lock"),
        (throttled_responses, "_lock"),
        (application, "_telemetry_lock"),
    ):
        if hasattr(owner, name):
            setattr(owner, name, threading.RLock())


def discard_telemetry(application: msal.ConfidentialClientApplication) -> None:
    """Discard the errors of earlier responses, which MSAL would report in a header of its next request."""
    application._telemetry_buffer.clear()  # noqa: SLF001
