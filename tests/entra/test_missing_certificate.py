"""Keys without a certificate, which Entra ID would not find, and chains that are not complete."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import keyvouch
from keyvouch.certificate import thumbprint
from keyvouch.entra import aadsts_advice
from keyvouch.entra.assertion import EntraAssertion
from keyvouch.entra.client_key import UsedKey
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.entra.transport import Session
from keyvouch.errors import AuthorityRefused, CertificateMissing
from keyvouch.testing.authority import App, Authority
from scripted_store import Script, certify, new_key
from signing_in import SCOPE, Key, run

ENTRA = [
    "https://login.microsoftonline.com/t/oauth2/v2.0/token",
    "https://login.microsoftonline.us/t/oauth2/token",
    "https://westeurope.login.microsoft.com/t/oauth2/v2.0/token?x=1",
    "https://contoso.ciamlogin.com/t/oauth2/v2.0/token",
    "https://contoso.b2clogin.com/contoso.onmicrosoft.com/policy/oauth2/v2.0/token",
    "https://login.contoso.example/t/oauth2/v2.0/token",
]
OTHERS = [
    "https://idp.example/oauth2/v1/token",
    "https://idp.example/oauth2/token",
    "https://idp.example/services/oauth2/token",
    "https://idp.example/realms/partner/protocol/openid-connect/token",
    "https://idp.example/oauth/token",
    "https://login.microsoftonline.com.evil.example/oauth2/token",
    "https://sts.contoso.example/adfs/oauth2/token",
]


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A key in a PEM file without a certificate."""
    path = tmp_path / "the key's.pem"
    key = rsa.generate_private_key(65537, 2048)
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return f"pem:path={tmp_path}/the key%27s.pem"


@pytest.mark.parametrize("kid", [None, "thumbprint", "a"])
@pytest.mark.parametrize("endpoint", ENTRA)
def test_entra_requires_a_certificate(endpoint: str, kid: str | None) -> None:
    """For Entra ID, in any cloud, a key without a certificate is refused before anything is signed."""
    with Script("RSA-2048", chain=[]) as script, keyvouch.open_signer(script.uri) as signer:
        with pytest.raises(CertificateMissing) as caught:
            EntraAssertion(signer, kid=kid)({"client_id": "id", "token_endpoint": endpoint})
        assert script.count("sign") == 0
        assert "keyvouch new --further --certificate-out app.cer --key " in caught.value.hint


@pytest.mark.parametrize("endpoint", OTHERS)
def test_others_require_no_certificate(endpoint: str) -> None:
    """For AD FS and other servers the key's thumbprint is its `kid`."""
    with Script("RSA-2048", chain=[]) as script, keyvouch.open_signer(script.uri) as signer:
        made = EntraAssertion(signer)({"client_id": "id", "token_endpoint": endpoint})
    assert jwt.get_unverified_header(made)["kid"]


def test_nothing_is_sent(authority: Authority, app: App, bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After discovery, no request is sent for such a key."""
    with ConfidentialClient(
        app.client_id, [bare], authority=authority.authority, ca_file=authority.ca_file, instance_discovery=False
    ) as client:
        monkeypatch.delattr(Session, "request")
        with pytest.raises(CertificateMissing):
            client.access_token([SCOPE])


def test_standby_key_has_a_certificate(authority: Authority, app: App, bare: str, standby: Key) -> None:
    """If only the standby key has a certificate, it signs in."""
    with ConfidentialClient(
        app.client_id,
        [bare, standby.uri],
        authority=authority.authority,
        ca_file=authority.ca_file,
        instance_discovery=False,
    ) as client:
        assert client.access_token([SCOPE])


def test_commands_in_the_hint_create_the_certificate(bare: str, tmp_path: Path) -> None:
    """The commands in the hint, typed as they are, give the key a certificate; then an assertion is made."""
    with keyvouch.open_signer(bare) as signer, pytest.raises(CertificateMissing) as caught:
        EntraAssertion(signer)({"client_id": "id", "token_endpoint": ENTRA[0]})
    openssl, install = re.findall(r": ((?:openssl|keyvouch) .*)", caught.value.hint)

    subprocess.run(shlex.split(openssl), cwd=tmp_path, check=True, capture_output=True)
    done = run(*shlex.split(install)[1:], folder=tmp_path)

    assert done.status == 0, done.errors
    with keyvouch.open_signer(bare) as signer:
        made = EntraAssertion(signer)({"client_id": "id", "token_endpoint": ENTRA[0]})
    assert "x5t#S256" in jwt.get_unverified_header(made)


def refused(code: int, chain: list[x509.Certificate], **header: object) -> AuthorityRefused:
    used_key = UsedKey("pem:/a", new_key().public_key(), chain[0], tuple(chain), {"alg": "PS256", **header})
    result = {"error": "invalid_client", "error_codes": [code], "error_description": "AADSTS"}
    return aadsts_advice.authority_refused(result, used_key)


ISSUER_KEY = new_key("P-256", 1)
ISSUED = certify(new_key("RSA-2048"), "app", ISSUER_KEY, issuer_name="Contoso CA")
ISSUER = certify(ISSUER_KEY, "Contoso CA")


@pytest.mark.parametrize("code", [700027, 700030, 7000213])
def test_trust_by_issuer(code: int) -> None:
    """If the app may trust the issuer, the hint says to send the chain, or names the issuer that is missing in it."""
    assert "send-x5c = true" in refused(code, [ISSUED]).hint
    assert "'CN=Contoso CA'" in refused(code, [ISSUED], x5c=["..."]).hint
    assert "certificate-file" in refused(code, [ISSUED], x5c=["..."]).hint
    assert "certificate-file" not in refused(code, [ISSUED, ISSUER], x5c=["...", "..."]).hint


def test_self_signed_certificate_has_no_issuer() -> None:
    """A self-signed certificate can only be registered itself."""
    hint = refused(700027, [certify(new_key())]).hint
    assert "send-x5c" not in hint
    assert "keyvouch export --certificate app.cer --key pem:/a" in hint


@pytest.mark.parametrize("code", [700027, 7000214])
def test_entra_refusal_names_what_was_sent(code: int) -> None:
    """The hint has the algorithm and the SHA-256 thumbprint, and the SHA-1 that the portal lists."""
    certificate = certify(new_key())
    hint = refused(code, [certificate], **{"x5t#S256": "..."}).hint
    assert "Sent: algorithm PS256, thumbprint " in hint
    assert thumbprint(certificate) in hint
    assert f"{thumbprint(certificate, 'sha1')} (SHA-1)" in hint
