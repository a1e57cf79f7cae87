"""Every private name of the Azure SDK that this plugin uses, each because there is no public one.

A test fails if an installed release lacks one of them, and pyproject.toml has an upper bound for each package.

`http_challenge_cache`, in each of two packages, remembers the challenge of each vault: its tenant, and the resource
that a token must be for.
"""

from __future__ import annotations

import contextlib
import os
import threading

from azure.keyvault.certificates._shared import http_challenge_cache as certificate_challenges
from azure.keyvault.keys._shared import http_challenge_cache as key_challenges

CHALLENGE_CACHES = (certificate_challenges, key_challenges)


class _Locks:
    process = os.getpid()
    """The process in which the challenge caches' locks were created."""


def forget_challenge(vault_url: str) -> None:
    """Remove a vault's challenge from the caches: it is from an earlier login, and may name another tenant."""
    for cache in CHALLENGE_CACHES:
        with contextlib.suppress(KeyError):  # raised by older releases
            cache.remove_challenge_for_url(vault_url)


def replace_inherited_locks() -> None:
    """In a forked child, replace the caches' locks: a thread of the parent may have held them during the fork."""
    if _Locks.process == os.getpid():
        return
    for cache in CHALLENGE_CACHES:
        vars(cache)["_lock"] = threading.Lock()
    # Last, so that no other thread uses a lock that is not replaced yet. If two threads replace the locks, two of them
    # may change a cache at once, which is harmless: each change is one operation on a dict.
    _Locks.process = os.getpid()
