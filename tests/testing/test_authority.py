"""The development authority as its users see it, with unmodified MSAL and requests as clients."""

import contextlib
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import msal
import pytest
import requests
from cryptography.hazmat.primitives import hashes, serialization

from keyvouch.testing.authority import Authority
from testing.clients import Client, certify, key_for, new_session, read_jwt

SCOPE = "https://graph.microsoft.com/.default"


def credential(client: Client, *, thumbprint: bool = False) -> dict[str, str]:
    """MSAL's own certificate credential; with a thumbprint, its older form."""
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key = client.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain).decode()
    if thumbprint:
        return {"private_key": key, "thumbprint": client.certificate.fingerprint(hashes.SHA1()).hex()}  # noqa: S303
    return {"private_key": key, "public_certificate": client.certificate.public_bytes(pem).decode()}


def sign_in(client: Client, credential: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Acquire a token through MSAL."""
    application = msal.ConfidentialClientApplication(
        client.app.client_id,
        client_credential=credential,
        http_client=client.session,
        instance_discovery=False,
        **options or {"authority": client.authority.authority},
    )
    return dict(application.acquire_token_for_client([SCOPE]))


class TestMsal:
    def test_certificate_gets_token(self, client: Client) -> None:
        """MSAL's own certificate credential signs in."""
        result = sign_in(client, credential(client))
        assert result["token_type"] == "Bearer"
        assert result["expires_in"] == 3599

    def test_sha1_thumbprint_gets_token(self, client: Client) -> None:
        """MSAL's older form, RS256 with a padded SHA-1 `x5t`, signs in."""
        assert "access_token" in sign_in(client, credential(client, thumbprint=True))

    def test_oidc_authority_gets_token(self, client: Client) -> None:
        """The issuer is the one that MSAL expects for an `oidc_authority`."""
        address = f"{client.authority.authority}/v2.0"
        assert "access_token" in sign_in(client, credential(client), oidc_authority=address)

    def test_domain_name_gets_token(self, client: Client) -> None:
        """A tenant is found by its domain name."""
        address = f"{client.authority.url}/contoso.onmicrosoft.com"
        assert "access_token" in sign_in(client, credential(client), authority=address)

    def test_refusal_reaches_caller(self, client: Client) -> None:
        """MSAL passes on a refusal's error, code and correlation id."""
        client.app.remove_certificate(client.certificate)
        result = sign_in(client, credential(client))
        assert (result["error"], result["error_codes"]) == ("invalid_client", [700027])
        assert result["correlation_id"] in result["error_description"]

    def test_unknown_tenant_stops_discovery(self, client: Client) -> None:
        """MSAL's discovery fails for an unknown tenant."""
        with pytest.raises(ValueError, match="Unable to get authority configuration"):
            sign_in(client, credential(client), authority=f"{client.authority.url}/nowhere.example")

    def test_claims_challenge_is_recorded(self, client: Client) -> None:
        """The `claims` parameter is recorded, and has no effect."""
        application = msal.ConfidentialClientApplication(
            client.app.client_id,
            client_credential=credential(client),
            authority=client.authority.authority,
            http_client=client.session,
            instance_discovery=False,
        )
        application.acquire_token_for_client([SCOPE], claims_challenge='{"access_token": {}}')
        assert client.authority.exchanges[-1].form["claims"] == '{"access_token": {}}'


class TestTokens:
    def test_token_verifies_by_published_key(self, client: Client) -> None:
        """A program finds the key by the token's `kid`, and the token is for the resource."""
        keys = client.session.get(f"{client.authority.authority}/discovery/v2.0/keys", timeout=10).json()
        token = client.post().json()["access_token"]
        key = {key.key_id: key for key in jwt.PyJWKSet.from_dict(keys).keys}[jwt.get_unverified_header(token)["kid"]]
        issuer = f"{client.authority.authority}/v2.0"
        claims = jwt.decode(token, key, ["RS256"], audience="api://demo", issuer=issuer)
        assert claims["roles"] == ["Demo.Read"]

    def test_token_names_application(self, client: Client) -> None:
        """The token names the application and its tenant, and says that it used a certificate."""
        claims = read_jwt(client.post().json()["access_token"])[1]
        assert (claims["appid"], claims["tid"], claims["appidacr"]) == (client.app.client_id, client.tenant, "2")

    def test_resource_keeps_its_slash(self, client: Client) -> None:
        """The text before `/.default` is the audience, including a trailing slash."""
        token = client.post(scope="https://vault.azure.net//.default").json()["access_token"]
        assert read_jwt(token)[1]["aud"] == "https://vault.azure.net/"

    def test_lifetime_is_chosen(self) -> None:
        """`token_lifetime` is a token's lifetime in seconds."""
        with Authority(token_lifetime=90) as authority, Client(authority) as client:
            answer = client.post().json()
        claims = read_jwt(answer["access_token"])[1]
        assert (answer["expires_in"], claims["exp"] - claims["nbf"]) == (89, 90)

    def test_authorities_sign_differently(self) -> None:
        """Two authorities have two keys."""
        with Authority() as one, Authority() as other, Client(one) as here, Client(other) as there:
            kids = {read_jwt(client.post().json()["access_token"])[0]["kid"] for client in (here, there)}
        assert len(kids) == 2


class TestRegistration:
    def test_tenants_are_separate(self, authority: Authority) -> None:
        """An application is known only in its own tenant."""
        with Client(authority, tenant="fabrikam.example") as client:
            assert client.post().status_code == 200
            client.tenant = authority.tenant
            assert client.code() == 700016

    def test_same_id_in_two_tenants(self, authority: Authority) -> None:
        """An application may be registered in several tenants, once in each."""
        app = authority.register()
        assert authority.register(app.client_id, tenant="fabrikam.example").tenant != app.tenant
        with pytest.raises(ValueError, match="already registered in this tenant"):
            authority.register(app.client_id.upper())

    def test_added_certificate_works(self, client: Client) -> None:
        """A certificate is accepted as soon as it is added, beside the others."""
        other = key_for("PS256", "other")
        old, client.key, client.certificate = client.assertion(), other, certify(other)
        client.app.add_certificate(client.certificate)
        assert [client.post(old).status_code, client.post().status_code] == [200, 200]

    def test_unknown_algorithm_is_an_error(self) -> None:
        """An algorithm that cannot be verified cannot be accepted."""
        with pytest.raises(ValueError, match="HS256"):
            Authority(algorithms={"PS256", "HS256"})


class TestExchanges:
    def test_success_is_recorded(self, client: Client) -> None:
        """A record has the request, its assertion and the response."""
        assertion = client.assertion()
        client.post(assertion)
        exchange = client.authority.exchanges[-1]
        assert (exchange.tenant, exchange.client_id) == (client.tenant, client.app.client_id)
        assert (exchange.header, exchange.claims) == read_jwt(assertion)
        assert (exchange.status, exchange.code) == (200, None)

    def test_errors_are_recorded_in_order(self, client: Client) -> None:
        """A refusal's code is recorded, oldest first."""
        client.post(scope="User.Read")
        client.post("no.jwt.here")
        assert [(one.status, one.code) for one in client.authority.exchanges] == [(400, 1002012), (400, 50027)]

    def test_secrets_are_omitted(self, client: Client) -> None:
        """Secrets and assertions are not recorded, only that they were sent."""
        client.post(client_secret="hunter2")
        form = client.authority.exchanges[-1].form
        assert (form["client_secret"], form["client_assertion"]) == ("(omitted)", "(omitted)")

    def test_exchanges_are_a_copy(self, client: Client) -> None:
        """Changing the returned list does not change the records."""
        client.post()
        client.authority.exchanges.clear()
        assert len(client.authority.exchanges) == 1

    def test_discovery_is_not_recorded(self, client: Client) -> None:
        """Only token requests are recorded."""
        client.session.get(f"{client.authority.authority}/discovery/v2.0/keys", timeout=10)
        assert client.authority.exchanges == []


class TestScriptedAnswers:
    def test_scripted_response_is_used_once(self, client: Client) -> None:
        """The next token request gets the scripted response, later ones do not."""
        client.authority.answer_next(429, headers={"Retry-After": "7"})
        first = client.post()
        assert (first.status_code, first.headers["Retry-After"], first.content) == (429, "7", b"")
        assert client.post().status_code == 200

    @pytest.mark.parametrize("status", [100, 0, 600])
    def test_status_must_be_final(self, authority: Authority, status: int) -> None:
        """An impossible status raises an error at once."""
        with pytest.raises(ValueError, match=str(status)):
            authority.answer_next(status)

    def test_scripted_responses_are_queued(self, client: Client) -> None:
        """Several responses are sent in the order of their script."""
        client.authority.answer_next(503, "<html>busy</html>", {"Content-Type": "text/html"})
        client.authority.answer_next(403)
        answers = [client.post() for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503, 403, 200]
        assert answers[0].text == "<html>busy</html>"

    def test_discovery_ignores_scripted_responses(self, client: Client) -> None:
        """Discovery is not affected; the script waits for a token request."""
        client.authority.answer_next(503)
        assert client.session.get(f"{client.authority.authority}/discovery/v2.0/keys", timeout=10).ok
        assert client.post().status_code == 503

    def test_scripted_exchange_is_recorded(self, client: Client) -> None:
        """The record has the request and the scripted status, but no code."""
        client.authority.answer_next(503)
        client.post()
        exchange = client.authority.exchanges[-1]
        assert exchange.claims is not None
        assert (exchange.status, exchange.code) == (503, None)

    def test_scripted_response_does_not_consume_the_assertion(self, client: Client) -> None:
        """A scripted response verifies nothing, so the same assertion may be sent again."""
        client.authority.answer_next(503)
        assertion = client.assertion()
        assert [client.post(assertion).status_code for _ in range(2)] == [503, 200]


class TestLife:
    def test_close_ends_everything(self) -> None:
        """After close() the port is closed and the folder deleted; closing again does nothing."""
        authority = Authority().start()
        with new_session(authority) as session:
            address, ca_file = authority.authority, Path(authority.ca_file)
            authority.close()
            authority.close()
            assert not ca_file.parent.exists()
            session.verify = False
            with pytest.raises(requests.ConnectionError):
                session.get(f"{address}/discovery/v2.0/keys", timeout=10)

    def test_open_connections_are_closed(self, authority: Authority) -> None:
        """A client that keeps its connection open does not delay close()."""
        with Client(authority) as client:
            client.post()
            start = time.monotonic()
            authority.close()
        assert time.monotonic() - start < 4

    def test_silent_connection_is_closed(self, authority: Authority) -> None:
        """A client that never started TLS does not delay close() either."""
        with socket.create_connection(("127.0.0.1", int(authority.url.rpartition(":")[2]))) as silent:
            silent.settimeout(10)
            start = time.monotonic()
            authority.close()
            assert time.monotonic() - start < 4
            # It is reset if it had not yet been accepted.
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""

    def test_no_thread_remains(self) -> None:
        """A closed authority leaves no thread behind."""
        before = threading.active_count()
        with Authority() as authority, Client(authority) as client:
            client.post()
        deadline = time.monotonic() + 5
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before

    def test_registrations_survive_a_restart(self) -> None:
        """An authority that is closed and started again still knows its applications."""
        authority = Authority().start()
        authority.close()
        with authority, Client(authority) as client:
            assert client.post().status_code == 200

    def test_nothing_is_served_before_start(self) -> None:
        """An authority that is not running has no address, and the error says what to do."""
        with pytest.raises(RuntimeError, match=r"call start\(\)"):
            _ = Authority().url

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
    def test_ca_file_is_private_and_the_only_file(self, authority: Authority) -> None:
        """Only the CA's certificate is on disk, accessible only to this user."""
        file = Path(authority.ca_file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert [entry.name for entry in file.parent.iterdir()] == [file.name]
        assert "PRIVATE" not in file.read_text()

    def test_many_clients_at_once(self, authority: Authority) -> None:
        """Threads get their tokens concurrently, and no request is missing from the records."""
        with Client(authority) as client, ThreadPoolExecutor(8) as pool:
            assertions = [client.assertion() for _ in range(40)]
            statuses = list(pool.map(lambda assertion: client.post(assertion).status_code, assertions))
        assert statuses == [200] * 40
        assert len(authority.exchanges) == 40

    def test_log_has_no_secret(self, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        """The log has each request and response, but no assertion or token."""
        caplog.set_level(logging.DEBUG, "keyvouch.testing.authority")
        assertion = client.assertion()
        token = client.post(assertion).json()["access_token"]
        text = "\n".join(record.getMessage() for record in caplog.records)
        assert f"POST /{client.tenant}/oauth2/v2.0/token: 200" in text
        assert assertion not in text
        assert token not in text


def run(code: str) -> str:
    """Return the output of a new Python process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stderr == ""
    return done.stdout


def test_import_is_independent() -> None:
    """The authority imports nothing else from keyvouch, nor MSAL, PyJWT, joserfc or pytest."""
    modules = run("import sys, keyvouch.testing.authority; print(*sys.modules)").split()
    ours = {name for name in modules if name.split(".")[0] == "keyvouch"}
    assert {name for name in ours if not name.startswith("keyvouch.testing.authority")} == {
        "keyvouch",
        "keyvouch._system",  # these three come with `import keyvouch`
        "keyvouch._system.forks",
        "keyvouch._system.search_path",
        "keyvouch.testing",
    }
    assert not {"msal", "jwt", "joserfc", "pytest", "requests"} & set(modules)


def test_fixture_is_a_plugin(tmp_path: Path) -> None:
    """`pytest_plugins` provides the fixture, a running authority for each test."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["keyvouch.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(
        "def test_one(authority): authority.answer_next(503); assert authority.exchanges == []\n"
        "def test_two(authority): assert authority.url.startswith('https://localhost:')\n"
    )
    code = f"import pytest, sys; sys.exit(pytest.main(['-q', '-W', 'error', '--rootdir={tmp_path}', '{tmp_path}']))"
    assert "2 passed" in run(code)


def test_program_ends_without_close() -> None:
    """A program that never closes it still ends, and its folder is deleted."""
    ca_file = run(
        "import warnings; warnings.simplefilter('ignore', ResourceWarning)\n"
        "from keyvouch.testing.authority import Authority\n"
        "print(Authority().start().ca_file)"
    )
    assert not Path(ca_file.strip()).exists()
