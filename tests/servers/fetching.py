"""The environment for programs that download packages, with the CAs that were set when the tests started.

The tests themselves run without these variables, so that the default trust applies.
"""

from __future__ import annotations

import os

TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
_at_start = {name: os.environ[name] for name in TRUST_VARIABLES if name in os.environ}


def environment() -> dict[str, str]:
    """Return the current environment, with those variables as they were at the start."""
    return {**os.environ, **_at_start}
