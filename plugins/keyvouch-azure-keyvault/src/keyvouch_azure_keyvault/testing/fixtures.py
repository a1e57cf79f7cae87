"""A pytest fixture: `from keyvouch_azure_keyvault.testing.fixtures import key_vault`.

It requires the fixture `authority` from `keyvouch.testing.fixtures`. Alternatively, name both modules in
`pytest_plugins`.
"""

from collections.abc import Iterator

import pytest

from keyvouch.testing.authority import Authority
from keyvouch_azure_keyvault.testing.vault import KeyVault


@pytest.fixture
def key_vault(authority: Authority) -> Iterator[KeyVault]:
    """A Key Vault simulator for one test, which accepts the tokens that its `authority` issues."""
    with KeyVault(authority) as running:
        yield running
