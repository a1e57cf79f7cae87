"""The servers, each started once for a whole run (under xdist: once a worker) and stopped at its end."""

from collections.abc import Iterator

import pytest

from servers.oidc import OidcProvider


@pytest.fixture(scope="session")
def oidc_provider() -> Iterator[OidcProvider]:
    """A judge without clients: a test registers its own, with a client id that no other test has."""
    with OidcProvider() as judge:
        yield judge
