"""The environment for programs that fetch packages: with the CAs that the tests were started with.

Tests run without these variables, so that they see what is trusted by default.
"""

from __future__ import annotations

import os

TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
_at_start = {name: os.environ[name] for name in TRUST_VARIABLES if name in os.environ}


def environment() -> dict[str, str]:
    """Return today's environment, with those variables as they were at the start."""
    return {**os.environ, **_at_start}
