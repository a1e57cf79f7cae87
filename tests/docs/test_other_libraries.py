"""The lines for other libraries sign with the unmodified library, and another one verifies the signature.

The libraries sign in to `PublicServices`; assertions go to Authlib's server, which verifies them with joserfc. Other
tokens are verified by PyJWT or joserfc, the request to AWS, which is not a JWT, by `cryptography`.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joserfc.jwk
import joserfc.jwt
import jwt
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

import keyvouch
from docs.pages import DOCS, Block, blocks_of
from docs.public_services import PublicServices, Request
from docs.reader import Reader
from keyvouch import Signer
from keyvouch.testing.authority import Authority
from keyvouch.testing.throwaway import throwaway_signer
from servers.authlib_server import AuthlibServer
from servers.oidc import identified_jwk

PAGE = DOCS / "how-to" / "other-libraries.md"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the libraries' own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # some have no way to close their sessions
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def sections() -> dict[str, list[Block]]:
    """Return the page's blocks by the heading above them; those before the first heading have the name ""."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found: dict[str, list[Block]] = {}
    for block in blocks_of(PAGE):
        above = [line for line in lines[: block.line - 1] if re.match(r"## ", line)]
        found.setdefault(above[-1].removeprefix("## ").partition(":")[0] if above else "", []).append(block)
    return found


@dataclass
class Page:
    """The page in the hands of a reader."""

    reader: Reader
    services: PublicServices

    def follow(self, heading: str, idp: AuthlibServer | None = None) -> dict[str, Any]:
        """Run the blocks of a section, with this server as the page's; return the page's variables."""
        endpoint = "https://idp.example.com/token"
        for block in sections()[heading]:
            code = block.code.replace(endpoint, idp.endpoint if idp else endpoint)
            self.reader.run(dataclasses.replace(block, code=code))
        return self.reader.namespace

    @property
    def signer(self) -> Signer:
        signer: Signer = self.reader.namespace["signer"]
        return signer


@pytest.fixture
def page(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """The page, of which the tests run sections."""
    reader = Reader(tmp_path, authority, monkeypatch, prepared=True)
    with PublicServices(tmp_path, monkeypatch) as services:
        opened = Page(reader, services)
        yield opened
        opened.signer.close()


@pytest.fixture
def idp(page: Page, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuthlibServer]:
    """A server that knows the page's client with two keys, so that it requires a `kid`."""
    with AuthlibServer() as server, throwaway_signer() as other:
        with keyvouch.open_signer("profile:nightly") as signer:
            server.register("nightly", [identified_jwk(each.public_key) for each in (other, signer)])
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", server.ca_file)
        yield server


def by_joserfc(token: str, signer: Signer, algorithm: str) -> dict[str, Any]:
    """Verify a token; return its claims."""
    key = joserfc.jwk.RSAKey.import_key(signer.public_key)  # type: ignore[arg-type]  # an RSA key
    return joserfc.jwt.decode(token, key, algorithms=[algorithm]).claims


def by_pyjwt(token: str | bytes, signer: Signer, algorithm: str) -> dict[str, Any]:
    """Verify a token; return its claims."""
    return jwt.decode(token, signer.public_key, algorithms=[algorithm], options={"verify_aud": False})


def test_pyjwt(page: Page, idp: AuthlibServer) -> None:
    """PyJWT signs an assertion that Authlib's server accepts."""
    token = page.follow("PyJWT", idp)["token"]
    request = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": token,
    }
    assert requests.post(idp.endpoint, request, timeout=30).json()["token_type"] == "Bearer", idp.refusals


def test_pygithub(page: Page) -> None:
    """PyGithub signs in as the app, and calls the API with the installation's token."""
    assert page.follow("PyGithub")["branch"] == "main"

    asked, used = page.services.requests
    claims = by_joserfc(asked.headers["Authorization"].removeprefix("Bearer "), page.signer, "RS256")
    assert claims["iss"] == "123456"
    assert used.headers["Authorization"] == "token opaque"


def test_google_auth(page: Page) -> None:
    """google-auth exchanges a signed assertion for a token."""
    assert page.follow("google-auth")["credentials"].token == "opaque"

    assertion = page.services.request("oauth2.googleapis.com").form["assertion"]
    assert by_pyjwt(assertion, page.signer, "RS256")["iss"] == "nightly@contoso.iam.gserviceaccount.com"
    assert jwt.get_unverified_header(assertion)["kid"] == "4f2a9c"


def test_snowflake(page: Page) -> None:
    """The connector logs in with a token for the key's fingerprint."""
    assert not page.follow("Snowflake")["connection"].is_closed()

    sent = page.services.request("contoso-prod.snowflakecomputing.com")
    body = gzip.decompress(sent.body) if sent.headers.get("Content-Encoding") == "gzip" else sent.body
    data = json.loads(body)["data"]
    assert data["AUTHENTICATOR"] == "SNOWFLAKE_JWT"
    assert by_joserfc(data["TOKEN"], page.signer, "RS256")["sub"] == "CONTOSO-PROD.NIGHTLY"


def test_simple_salesforce(page: Page) -> None:
    """simple-salesforce logs in with the JWT bearer flow."""
    assert page.follow("simple-salesforce")["salesforce"].session_id == "opaque"

    assertion = page.services.request("login.salesforce.com").form["assertion"]
    assert by_joserfc(assertion, page.signer, "RS256")["sub"] == "nightly@contoso.com"


def test_aws(page: Page) -> None:
    """The session signs its request for credentials with the store's key, as AWS documents it."""
    page.follow("AWS IAM Roles Anywhere")["roles_anywhere"].get_refreshable_credentials().get_frozen_credentials()

    sent = page.services.request("rolesanywhere.eu-central-1.amazonaws.com")
    certificate = x509.load_der_x509_certificate(base64.b64decode(sent.headers["X-Amz-X509"]))
    assert certificate == page.signer.chain[0]
    _verify_aws(sent, certificate)


def _verify_aws(sent: Request, certificate: x509.Certificate) -> None:
    """Rebuild what must have been signed (Signature Version 4 with X.509), and verify it."""
    headers = {name.lower(): value for name, value in sent.headers.items()}
    algorithm, _, parameters = headers["authorization"].partition(" ")
    values = dict(each.split("=", 1) for each in parameters.split(", "))
    serial, scope = values["Credential"].split("/", 1)
    signed = "".join(f"{name}:{headers[name]}\n" for name in values["SignedHeaders"].split(";"))
    body = hashlib.sha256(sent.body).hexdigest()
    canonical = f"POST\n{sent.path}\n\n{signed}\n{values['SignedHeaders']}\n{body}".encode()
    text = f"{algorithm}\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}".encode()

    assert algorithm == "AWS4-X509-RSA-SHA256"
    assert serial == str(certificate.serial_number)
    signature = bytes.fromhex(values["Signature"])
    certificate.public_key().verify(signature, text, padding.PKCS1v15(), SHA256())  # type: ignore[call-arg, arg-type, union-attr]


def test_joserfc(page: Page) -> None:
    """joserfc signs a token with the adapter's key."""
    signed = page.follow("joserfc")["signed"]

    assert by_pyjwt(signed, page.signer, "RS256") == {"iss": "nightly"}
    assert jwt.get_unverified_header(signed)["kid"] == "2026"


def test_authlib(page: Page, idp: AuthlibServer) -> None:
    """Authlib authenticates with a client assertion that its server accepts."""
    assert page.follow("Authlib", idp)["answer"]["token_type"] == "Bearer"


def test_jwcrypto(page: Page) -> None:
    """jwcrypto signs a token with the adapter's key."""
    signed = page.follow("jwcrypto")["token"].serialize()

    assert by_pyjwt(signed, page.signer, "RS256") == {"iss": "nightly"}


def test_python_jose(page: Page) -> None:
    """python-jose signs a token."""
    assert by_pyjwt(page.follow("python-jose")["token"], page.signer, "RS256") == {"iss": "nightly"}


def test_oauthlib(page: Page) -> None:
    """oauthlib puts a signed assertion into the request's body."""
    body = page.follow("oauthlib")["body"]

    assertion = re.search(r"assertion=([^&]+)", body)
    assert assertion
    assert by_joserfc(assertion[1], page.signer, "RS256")["sub"] == "nightly@contoso.com"


def test_every_section_is_tested() -> None:
    """A library that is added to the page gets a test here."""
    names = {"AWS IAM Roles Anywhere": "aws"}
    tests = {names.get(heading, heading.lower().replace("-", "_")) for heading in sections() if heading}
    assert {f"test_{name}" for name in tests} <= {*globals()}
