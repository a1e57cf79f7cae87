"""Which server a URL belongs to, and whether it names a server and nothing else."""

from __future__ import annotations

import pytest

from keyvouch.hosts import Endpoint, authority_of, endpoint_of, is_origin


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://Vault.Example./v1", Endpoint("vault.example", 443)),
        ("https://vault:8200?a=b", Endpoint("vault", 8200)),
        ("https://[::1]:8200", Endpoint("::1", 8200)),
        ("http://vault", None),
        ("https://user@vault", None),
        ("https://@vault", None),
        ("https://vault:0", None),
        ("https://vault:x", None),
        ("https://[::1", None),
        ("https://", None),
        ("vault:8200", None),
    ],
)
def test_endpoint(url: str, endpoint: Endpoint | None) -> None:
    """An https URL belongs to its host and port; other URLs belong to no endpoint."""
    assert endpoint_of(url) == endpoint


def test_authorities_of_one_cloud() -> None:
    """All aliases and regional hosts of a cloud are one authority, with the same port."""
    aliases = (
        "https://login.microsoftonline.com",
        "https://sts.windows.net/",
        "https://westeurope.login.microsoft.com",
    )
    assert len({authority_of(url) for url in aliases}) == 1
    assert authority_of("https://login.windows.net:444") != authority_of(aliases[0])
    assert authority_of("https://login.microsoftonline.us") != authority_of(aliases[0])
    assert authority_of("http://login.microsoftonline.com") is None


@pytest.mark.parametrize("url", ["https://vault", "HTTPS://Vault:8200", "https://[::1]:1", "http://localhost"])
def test_origin(url: str) -> None:
    """A scheme, a host and a port are an origin."""
    assert is_origin(url, "https", "http")


@pytest.mark.parametrize(
    "url",
    [
        "https://vault/",
        "https://vault/path",
        "https://vault?",
        "https://vault#",
        "https://vault\\path",
        "https://va\nult",
        "https://va ult",
        " https://vault",
        "https://user:password@vault",
        "https://@vault",
        "https://vault:0",
        "https://vault:65536",
        "https://",
        "ftp://vault",
        "vault:8200",
    ],
)
def test_not_an_origin(url: str) -> None:
    """A path, query, fragment, user name or control character makes it more than an origin."""
    assert not is_origin(url, "https", "http")
