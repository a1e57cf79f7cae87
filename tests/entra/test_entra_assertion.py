"""Endpoints for which Entra ID and AD FS have special rules."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

import keyvouch
from keyvouch.entra.assertion import EntraAssertion, central_endpoint
from signing_in import make_key


@pytest.mark.parametrize(
    ("endpoint", "central"),
    [
        (
            "https://westeurope.login.microsoft.com/t/oauth2/v2.0/token?allowestsrnonmsi=true",
            "https://login.microsoftonline.com/t/oauth2/v2.0/token",
        ),
        (
            "https://usgovvirginia.login.microsoftonline.us/t/oauth2/v2.0/token",
            "https://login.microsoftonline.us/t/oauth2/v2.0/token",
        ),
        (
            "https://chinaeast.login.partner.microsoftonline.cn/t/oauth2/v2.0/token",
            "https://login.partner.microsoftonline.cn/t/oauth2/v2.0/token",
        ),
        (
            "https://login.microsoftonline.com/t/oauth2/v2.0/token",
            "https://login.microsoftonline.com/t/oauth2/v2.0/token",
        ),
        ("https://login.microsoft.com.evil.example/t?x=1", "https://login.microsoft.com.evil.example/t?x=1"),
    ],
)
def test_audience_is_central(endpoint: str, central: str) -> None:
    """A regional endpoint is mapped to the central one; others stay unchanged."""
    assert central_endpoint(endpoint) == central


@pytest.mark.parametrize(
    ("endpoint", "algorithm", "thumbprint"),
    [
        ("https://sts.contoso.com/adfs/oauth2/token", "RS256", "x5t"),
        ("https://login.microsoftonline.com/t/oauth2/v2.0/token", "PS256", "x5t#S256"),
    ],
)
def test_adfs_gets_rs256(tmp_path: Path, endpoint: str, algorithm: str, thumbprint: str) -> None:
    """AD FS supports only RS256 with the SHA-1 thumbprint."""
    with keyvouch.open_signer(make_key(tmp_path).uri) as signer:
        made = EntraAssertion(signer)({"client_id": "id", "token_endpoint": endpoint})

    header = jwt.get_unverified_header(made)
    assert header["alg"] == algorithm
    assert thumbprint in header
