"""The rate limits that Microsoft publishes for Key Vault."""

from __future__ import annotations

import pytest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import connected_store, parse_uri
from keyvouch.store import KeySpec
from keyvouch_azure_keyvault.rate_limits import published_limit


@pytest.mark.parametrize(
    ("kind", "in_hsm", "in_software"),
    [
        ("RSA-2048", 2000, 4000),
        ("RSA-3072", 500, 1000),
        ("RSA-4096", 250, 500),
        ("P-256", 2000, 4000),
        ("P-384", 2000, 4000),
        ("P-521", 2000, 4000),
    ],
)
def test_published_limits(kind: str, in_hsm: int, in_software: int) -> None:
    """The limits are those of the page that they name; the lower one if the protection is unknown."""
    limits = [published_limit(kind, hsm=each) for each in (True, None, False)]
    assert [limit and limit.signatures for limit in limits] == [in_hsm, in_hsm, in_software]
    assert {(each.seconds, each.scope, each.source) for each in limits if each} == {
        (10.0, "vault", "https://learn.microsoft.com/azure/key-vault/general/service-limits")
    }


def test_type_without_a_published_limit() -> None:
    """A key type that the page does not list, such as an imported RSA-2560 key, has no limit."""
    assert published_limit("RSA-2560", hsm=False) is None


@pytest.mark.parametrize("attribute", ["certificate", "key"])
@pytest.mark.parametrize(("kind", "query", "signatures"), [("RSA-2048", "", 4000), ("P-256", "&hsm=true", 2000)])
def test_protection_is_known_without_a_request(
    vault: Vault, attribute: str, kind: str, query: str, signatures: int
) -> None:
    """Opening a key reveals whether an HSM protects it: by its type, or by its certificate's policy."""
    uri = vault.uri(f"{attribute}=limited-{attribute}-{kind}", query)
    with keyvouch.open_store(uri) as creating:
        creating.generate(KeySpec(kind))
    with connected_store(uri) as store:
        key = store.open(parse_uri(uri), timeout=10)
        before = len(vault.calls)
        limit = store.rate_limit(key)
        assert limit is not None
        assert limit.signatures == signatures
        assert len(vault.calls) == before
