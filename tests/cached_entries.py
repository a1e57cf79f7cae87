"""Entries of MSAL's token cache, for tests of the file that holds them."""

from __future__ import annotations

import time
from typing import Any

CLIENT, SCOPES = "client", ["scope"]


def entry(**changes: object) -> dict[str, Any]:
    """Return a valid access token's entry, with these changes."""
    return {
        "credential_type": "AccessToken",
        "secret": "token",
        "home_account_id": None,
        "environment": "login.example",
        "client_id": CLIENT,
        "target": "scope",
        "realm": "tenant",
        "token_type": "Bearer",
        "cached_at": str(int(time.time())),
        "expires_on": str(int(time.time()) + 3600),
        **changes,
    }
