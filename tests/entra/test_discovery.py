"""What is trusted in an authority's discovery, which decides where assertions are sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyvouch.entra import discovery
from keyvouch.entra.discovery import UnexpectedResponse
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.entra.transport import Session
from keyvouch.errors import AuthorityUnavailable, ConfigurationError
from keyvouch.testing.authority import App, Authority
from keyvouch.testing.authority.server import Request, Response
from servers.drips import dripping
from signing_in import SCOPE, Key, make_key

Change = Callable[[Request, Response], Response]


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path, "app.pem", "RSA-2048")


@pytest.fixture
def app(authority: Authority, key: Key) -> App:
    return authority.register(certificates=[key.certificate])


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Let a function change the authority's responses to GET."""
    respond = Authority._respond

    def install(function: Change) -> None:
        def changed(self: Authority, endpoints: Any, request: Request) -> Response:
            response = respond(self, endpoints, request)
            return function(request, response) if request.method == "GET" else response

        monkeypatch.setattr(Authority, "_respond", changed)

    return install


def sign_in(server: Authority, app: App, key: Key, **options: Any) -> str:
    options = {"authority": server.authority, "instance_discovery": False, **options}
    if "oidc_authority" in options:
        del options["authority"], options["instance_discovery"]
    with ConfidentialClient(app.client_id, [key.uri], ca_file=server.ca_file, **options) as client:
        return client.access_token([SCOPE])


def redirect(location: str) -> Response:
    return Response(302, b"", {"Location": location})


def document(response: Response, **changes: object) -> Response:
    assert isinstance(response.body, bytes)
    return Response(200, json.dumps({**json.loads(response.body), **changes}).encode(), response.headers)


def test_redirect_to_http(authority: Authority, app: App, key: Key, change: Callable[[Change], None]) -> None:
    """A redirect to http is not followed: whoever answers could direct the assertion anywhere."""
    with dripping("silence") as plain:
        change(lambda *_: redirect(f"http://localhost:{plain.port}/metadata"))
        with pytest.raises(ConfigurationError, match="redirects to 'http://localhost.*not https") as caught:
            sign_in(authority, app, key)
    assert authority.authority in str(caught.value)
    assert "authority" in caught.value.hint
    assert not authority.exchanges


def test_second_redirect_to_http(authority: Authority, app: App, key: Key, change: Callable[[Change], None]) -> None:
    """A redirect to http at a later hop is not followed either, and the error names that hop."""
    change(
        lambda request, _: redirect(
            "http://localhost:9/" if request.path == "/second" else f"{authority.url.upper()}/second"
        )
    )
    with pytest.raises(ConfigurationError, match="/second redirects to"):
        sign_in(authority, app, key)


@pytest.mark.parametrize(("hops", "accepted"), [(3, True), (4, False)])
def test_redirects(
    authority: Authority, app: App, key: Key, change: Callable[[Change], None], *, hops: int, accepted: bool
) -> None:
    """Up to three redirects are followed."""
    last: list[Response] = []

    def lead(request: Request, response: Response) -> Response:
        if not request.path.startswith("/hop"):
            last.append(response)
        hop = int(request.path.removeprefix("/hop") or 0) if request.path.startswith("/hop") else 0
        return last[0] if hop == hops else redirect(f"/hop{hop + 1}")

    change(lead)
    if accepted:
        assert sign_in(authority, app, key)
    else:
        with pytest.raises(ConfigurationError, match="Too many redirects: .* more than 3 times"):
            sign_in(authority, app, key)


def test_redirect_drops_parameters_and_headers(authority: Authority, change: Callable[[Change], None]) -> None:
    """Neither parameters nor headers for the first address are sent to the second."""
    received: list[Request] = []

    def lead(request: Request, _: Response) -> Response:
        received.append(request)
        return redirect("/second") if len(received) == 1 else Response(200, b"{}")

    change(lead)
    with Session(authority.ca_file) as session:
        session.get(f"{authority.url}/first", params={"a": "b"}, headers={"Authorization": "secret"})
    assert [(each.path, each.query, each.headers["Authorization"]) for each in received] == [
        ("/first", "a=b", "secret"),
        ("/second", "", None),
    ]


@pytest.mark.parametrize("name", ["token_endpoint", "authorization_endpoint", "device_authorization_endpoint"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "https://evil.test/t/token",
        "https://localhost/t/token",
        "http://localhost:{port}/t/token",
        "https://localhost:{port}@evil.test/t/token",
        "https://user:password@localhost:{port}/t/token",
        "https://localhost:{port}.evil.test/t/token",
        "https://[::1/",
        "",
    ],
)
def test_endpoint_elsewhere(
    authority: Authority, app: App, key: Key, change: Callable[[Change], None], name: str, endpoint: str
) -> None:
    """Only https, and only the authority's own host and port, are accepted."""
    port = authority.url.rpartition(":")[2]
    change(lambda _, response: document(response, **{name: endpoint.replace("{port}", port)}))
    with pytest.raises(ConfigurationError, match=f"The {name} of https://localhost"):
        sign_in(authority, app, key)


def test_malformed_endpoint(authority: Authority, app: App, key: Key, change: Callable[[Change], None]) -> None:
    """A malformed endpoint makes the response unusable, like one that is not JSON."""
    change(lambda _, response: document(response, device_authorization_endpoint=[5]))
    with pytest.raises(AuthorityUnavailable, match="device_authorization_endpoint is not a string"):
        sign_in(authority, app, key)


@pytest.mark.parametrize("issuer", ["https://evil.test", "{url}/other/v2.0", "{issuer_url}/more"])
def test_other_issuer(authority: Authority, app: App, key: Key, change: Callable[[Change], None], issuer: str) -> None:
    """An OpenID Connect issuer's document must name that issuer (OpenID Connect Discovery 1.0, section 4.3)."""
    issuer_url = f"{authority.authority}/v2.0"
    change(lambda _, response: document(response, issuer=issuer.format(url=authority.url, issuer_url=issuer_url)))
    with pytest.raises(ConfigurationError, match="Issuer mismatch"):
        sign_in(authority, app, key, oidc_authority=issuer_url)


@pytest.mark.parametrize("issuer", [None, 5])
def test_no_issuer(authority: Authority, app: App, key: Key, change: Callable[[Change], None], issuer: object) -> None:
    """A document that does not name an issuer is unusable."""
    change(lambda _, response: document(response, issuer=issuer))
    with pytest.raises(AuthorityUnavailable, match="its issuer is missing or not a string"):
        sign_in(authority, app, key, oidc_authority=f"{authority.authority}/v2.0")


def test_same_issuer(authority: Authority, app: App, key: Key, change: Callable[[Change], None]) -> None:
    """A trailing slash makes no difference."""
    issuer_url = f"{authority.authority}/v2.0"
    change(lambda _, response: document(response, issuer=f"{issuer_url}/"))
    assert sign_in(authority, app, key, oidc_authority=issuer_url)


LOGIN = "https://login.microsoftonline.com/contoso.com/v2.0"


@pytest.mark.parametrize(
    ("authority_url", "issuer", "token_endpoint", "accepted"),
    [
        (LOGIN, None, "https://login.microsoftonline.com/t/oauth2/v2.0/token", True),
        (LOGIN, None, "https://login.windows.net/t/oauth2/v2.0/token", True),
        (LOGIN, None, "https://login.microsoftonline.us/t/oauth2/v2.0/token", False),
        (LOGIN, None, "https://login.microsoftonline.com.evil.test/t/token", False),
        (LOGIN, None, "https://evil.test/login.microsoftonline.com", False),
        ("https://westus2.login.microsoft.com/t/v2.0", None, "https://westus2.login.microsoft.com/t/token", True),
        ("https://westus2.login.microsoft.com/t/v2.0", None, "https://login.microsoftonline.com/t/token", True),
        ("https://adfs.contoso.com/adfs", None, "https://adfs.contoso.com:443/adfs/oauth2/token/", True),
        ("https://adfs.contoso.com/adfs", None, "https://sts.contoso.com/adfs/oauth2/token/", False),
        ("https://ADFS.contoso.com/adfs", None, "https://adfs.contoso.com/adfs/oauth2/token/", True),
        ("https://accounts.test", "https://accounts.test", "https://tokens.test/token", True),
        ("https://accounts.test", "https://other.test", "https://accounts.test/token", False),
        # Microsoft's documents name the tenant by its id.
        (LOGIN, "https://login.microsoftonline.com/guid/v2.0", "https://login.microsoftonline.com/guid/token", True),
        (LOGIN, "https://login.microsoftonline.com/guid/v2.0", "https://evil.test/guid/token", False),
        ("https://login.contoso.com/t/v2.0", "https://t.ciamlogin.com/t/v2.0", "https://login.contoso.com/t", True),
        ("https://login.contoso.com/t/v2.0", "https://t.ciamlogin.com/t/v2.0", "https://t.ciamlogin.com/t", False),
        ("https://login.contoso.com/t/v2.0", "https://tciamlogin.com/t/v2.0", "https://login.contoso.com/t", False),
    ],
)
def test_endpoints_of_real_clouds(
    authority_url: str, issuer: str | None, token_endpoint: str, *, accepted: bool
) -> None:
    """Endpoints as Entra ID, its regions, External ID, AD FS and others name them; `issuer` makes it OpenID Connect."""
    body = json.dumps({"issuer": issuer, "token_endpoint": token_endpoint})
    issuer_url = authority_url if issuer else None
    if accepted:
        discovery.check_document(authority_url + discovery.DOCUMENT_PATH, body, issuer_url)
    else:
        with pytest.raises(ConfigurationError):
            discovery.check_document(authority_url + discovery.DOCUMENT_PATH, body, issuer_url)


@pytest.mark.parametrize("text", ["", "[]", "<html>"])
def test_no_document(text: str) -> None:
    """Text that is not a document has no endpoints; MSAL reports what is wrong with it."""
    discovery.check_document(LOGIN + discovery.DOCUMENT_PATH, text, None)


def test_deep_document() -> None:
    """A document that only the check fails to read, and MSAL does not, must not pass unchecked."""
    with pytest.raises(UnexpectedResponse, match="nested"):
        discovery.check_document(LOGIN + discovery.DOCUMENT_PATH, "[" * 100_000, None)


def test_document_in_another_encoding(
    authority: Authority, app: App, key: Key, change: Callable[[Change], None]
) -> None:
    """It is checked as MSAL decodes it: read as UTF-7, this one hides a second token endpoint."""
    hidden = "+ACIALAAiAHQAbwBrAGUAbgBfAGUAbgBkAHAAbwBpAG4AdAAiADoAIgBoAHQAdABwAHMAOgAvAC8AZQB2AGkAbAAvAHQ-"

    def encode(_: Request, response: Response) -> Response:
        return Response(200, document(response, zzz=hidden).body, {"Content-Type": "application/json; charset=utf-7"})

    change(encode)
    with pytest.raises(ConfigurationError, match="https://evil/t"):
        sign_in(authority, app, key)


@pytest.mark.parametrize("authority_suffix", ["", "?dc=a", ";a"])
def test_every_document_is_checked(
    authority: Authority, app: App, key: Key, change: Callable[[Change], None], authority_suffix: str
) -> None:
    """Every document is checked, whatever address MSAL derives from the authority's."""
    change(
        lambda _, response: Response(200, b'{"token_endpoint": "https://evil.test/t", "authorization_endpoint": ""}')
    )
    with pytest.raises(ConfigurationError, match="not an https URL|another host"):
        sign_in(authority, app, key, authority=authority.authority + authority_suffix)


def test_redirect_to_metadata_service(
    authority: Authority, app: App, key: Key, change: Callable[[Change], None]
) -> None:
    """An authority cannot make this machine query its cloud's metadata service."""
    change(lambda *_: redirect("http://169.254.169.254/metadata/instance"))
    with pytest.raises(ConfigurationError, match="not https"):
        sign_in(authority, app, key)


@pytest.mark.parametrize(
    ("method", "url"),
    [("GET", "http://localhost:9/mex"), ("POST", "http://169.254.169.254/token"), ("GET", "file:///etc/passwd")],
)
def test_only_https(method: str, url: str) -> None:
    """Only https is used, even for addresses from an authority's responses: MSAL may send a user's password there."""
    with Session() as session, pytest.raises(ConfigurationError, match="not https"):
        session.request(method, url)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://127.0.0.1:{port}/t/v2.0/.well-known/openid-configuration",
        "https://127.0.0.1:{port}/t/document",
        "https://localhost:{port}/t/document",
        "https://localhost:{port}/t/v2.0/.well-known/openid-configuration#",
        "https://localhost:{port}/t/v2.0/.well-known/openid%2Dconfiguration",
        "http://localhost:{port}/t/v2.0/.well-known/openid-configuration",
        "https://[::1/",
        5,
        None,
    ],
)
def test_document_found_elsewhere(
    authority: Authority, app: App, key: Key, change: Callable[[Change], None], endpoint: object
) -> None:
    """Instance discovery may not name a document on another host, or one that would not be checked."""
    port = authority.url.rpartition(":")[2]
    elsewhere = f"https://127.0.0.1:{port}/{authority.tenant}"
    found = endpoint.format(port=port) if isinstance(endpoint, str) else endpoint

    def lead(request: Request, _: Response) -> Response:
        if request.path == "/instance":
            return Response(200, json.dumps({"tenant_discovery_endpoint": found, "metadata": []}).encode())
        endpoints = {
            "token_endpoint": f"{elsewhere}/oauth2/v2.0/token",
            "authorization_endpoint": f"{elsewhere}/authorize",
        }
        return Response(200, json.dumps(endpoints).encode())

    change(lead)
    with pytest.raises((ConfigurationError, AuthorityUnavailable)):
        sign_in(authority, app, key, instance_discovery=f"{authority.url}/instance")
    assert not authority.exchanges


def test_document_found_by_instance_discovery(
    authority: Authority, app: App, key: Key, change: Callable[[Change], None]
) -> None:
    """A document on the authority's own host is used."""
    paths: list[str] = []

    def lead(request: Request, response: Response) -> Response:
        paths.append(request.path)
        if request.path != "/instance":
            return response
        found = f"{authority.authority}/v2.0/.well-known/openid-configuration"
        return Response(200, json.dumps({"tenant_discovery_endpoint": found, "metadata": []}).encode())

    change(lead)
    assert sign_in(authority, app, key, instance_discovery=f"{authority.url}/instance")
    assert "/instance" in paths
