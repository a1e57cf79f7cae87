"""The servers, each started once per run (with xdist: per worker) and stopped at its end."""

from collections.abc import Iterator

import pytest

from servers.oidc import OidcProvider


@pytest.fixture(scope="session")
def oidc_provider() -> Iterator[OidcProvider]:
    """An authorization server without clients: a test registers its own, with a client id that no other test uses."""
    with OidcProvider() as judge:
        yield judge
