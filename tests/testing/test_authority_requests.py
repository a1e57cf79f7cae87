"""What the development authority refuses before it checks an assertion, and bad input that it survives."""

import errno
import socket
import socketserver
import ssl
import uuid
from typing import Any

import pytest

from keyvouch.testing.authority import Authority
from testing.clients import Client, new_session


class TestTokenRequest:
    def test_grant_must_be_known(self, client: Client) -> None:
        """Another grant type: 70003."""
        expected = (400, "unsupported_grant_type", [70003])
        assert client.refused(grant_type="password")[:3] == expected

    @pytest.mark.parametrize("name", ["grant_type", "client_id", "scope", "client_assertion_type"])
    def test_missing_parameter_is_named(self, client: Client, name: str) -> None:
        """A missing required parameter: 900144."""
        status, error, codes, text = client.refused(**{name: None})
        assert (status, error, codes) == (400, "invalid_request", [900144])
        assert f"'{name}'" in text

    def test_duplicate_parameter(self, client: Client) -> None:
        """A duplicate parameter: 9000411."""
        assert client.refused(scope=["a/.default", "b/.default"])[2] == [9000411]

    @pytest.mark.parametrize("scope", ["User.Read", "api://demo/.default User.Read", ".default", "api://demo/.Default"])
    def test_scope_must_be_default(self, client: Client, scope: str) -> None:
        """A scope that does not end with `/.default`: 1002012."""
        status, error, codes, text = client.refused(scope=scope)
        assert (status, error, codes) == (400, "invalid_scope", [1002012])
        assert scope in text

    @pytest.mark.parametrize("scope", ["/.default", "api://one/.default api://two/.default"])
    def test_scope_is_one_resource(self, client: Client, scope: str) -> None:
        """No resource, or several: 70011."""
        assert client.refused(scope=scope)[:3] == (400, "invalid_scope", [70011])

    def test_application_must_be_known(self, client: Client) -> None:
        """An application unknown in the tenant: 700016, before its credential is checked."""
        expected = (400, "unauthorized_client", [700016])
        assert client.refused(client_id=str(uuid.uuid4()), client_assertion="x")[:3] == expected

    def test_secret_is_refused(self, client: Client) -> None:
        """Any client secret: 7000215."""
        assert client.refused(client_secret="s", client_assertion=None)[:3] == (401, "invalid_client", [7000215])

    def test_credential_is_required(self, client: Client) -> None:
        """No credential at all: 7000218."""
        assert client.refused(client_assertion=None)[:3] == (401, "invalid_client", [7000218])

    def test_public_client_must_not_send_credentials(self, client: Client) -> None:
        """A public client that presents a credential: 700025."""
        client.app.make_public()
        assert client.refused()[:3] == (401, "invalid_client", [700025])
        assert client.refused(client_secret="s", client_assertion=None)[2] == [700025]

    def test_tenant_must_be_known(self, client: Client) -> None:
        """An unknown tenant: 90002."""
        client.tenant = str(uuid.uuid4())
        assert client.refused()[:3] == (400, "invalid_request", [90002])

    def test_tenant_must_be_a_name(self, client: Client) -> None:
        """A tenant that is neither a GUID nor a domain name: 900023."""
        client.tenant = "no_tenant"
        assert client.refused()[:3] == (400, "invalid_request", [900023])

    def test_other_content_type_is_not_a_form(self, client: Client) -> None:
        """A body that is not a form has no parameters: 900144 for the first."""
        answer = client.session.post(client.endpoint, json=client.form(), timeout=10)
        assert (answer.status_code, answer.json()["error_codes"]) == (400, [900144])

    @pytest.mark.parametrize("body", [b"\xff\xfe", b"a=%ff", b"&" * 1000, b"=".join([b"a"] * 500), b""])
    def test_invalid_forms_are_refused(self, client: Client, body: bytes) -> None:
        """A malformed form: 900144."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = client.session.post(client.endpoint, data=body, headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["error_codes"]) == (400, [900144])


class TestAnswer:
    def test_error_has_the_form_of_entra_id(self, client: Client) -> None:
        """A refusal has Entra ID's members, its text with ids, and the page for the code."""
        body = client.post(scope="x").json()
        assert list(body) == [
            "error",
            "error_description",
            "error_codes",
            "timestamp",
            "trace_id",
            "correlation_id",
            "error_uri",
        ]
        tail = f" Trace ID: {body['trace_id']} Correlation ID: {body['correlation_id']} Timestamp: {body['timestamp']}"
        assert body["error_description"].startswith("AADSTS1002012: ")
        assert body["error_description"].endswith(tail)
        assert body["error_uri"] == "https://login.microsoftonline.com/error?code=1002012"

    @pytest.mark.parametrize("sent", ["3f2504e0-4f89-41d3-9a0c-0305e82c3301", "not a GUID"])
    def test_correlation_id_is_the_clients(self, client: Client, sent: str) -> None:
        """`client-request-id` is returned if it is a GUID."""
        client.session.headers["client-request-id"] = sent
        assert (client.post(scope="x").json()["correlation_id"] == sent) == (sent != "not a GUID")

    def test_nothing_is_cached(self, client: Client) -> None:
        """No response of the token endpoint may be cached."""
        assert client.post().headers["Cache-Control"] == "no-store"


class TestDiscovery:
    def get(self, client: Client, path: str) -> Any:
        return client.session.get(f"{client.authority.url}/{path}", timeout=10)

    def test_endpoints_name_the_guid(self, client: Client) -> None:
        """For a tenant requested by its domain the endpoints have its GUID."""
        found = self.get(client, "CONTOSO.onmicrosoft.com/v2.0/.well-known/openid-configuration").json()
        assert found["issuer"] == f"{client.authority.authority}/v2.0"
        assert found["token_endpoint"] == client.endpoint
        assert self.get(client, found["jwks_uri"].removeprefix(client.authority.url + "/")).status_code == 200

    @pytest.mark.parametrize("rest", ["v2.0/.well-known/openid-configuration", "discovery/v2.0/keys"])
    def test_tenant_must_be_known(self, client: Client, rest: str) -> None:
        """An unknown tenant: 90002, here as `invalid_tenant`."""
        answer = self.get(client, f"{uuid.uuid4()}/{rest}")
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_tenant")
        assert answer.json()["error_codes"] == [90002]


class TestServer:
    @pytest.mark.parametrize("path", ["", "favicon.ico", "{tenant}", "{tenant}/oauth2/token", "a/b/c/d", "%00/%ff"])
    def test_other_paths_are_not_found(self, client: Client, path: str) -> None:
        """Any other path is 404."""
        address = f"{client.authority.url}/{path.format(tenant=client.tenant)}"
        assert client.session.get(address, timeout=10).status_code == 404

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"])
    def test_token_requires_post(self, client: Client, method: str) -> None:
        """Any other method on the token endpoint: 405."""
        answer = client.session.request(method, client.endpoint, timeout=10)
        assert answer.status_code == 405
        if method == "GET":
            assert answer.json()["error_codes"] == [900561]

    def test_keys_require_get(self, client: Client) -> None:
        """Discovery accepts only GET."""
        assert client.session.post(f"{client.authority.authority}/discovery/v2.0/keys", timeout=10).status_code == 405

    def test_long_bodies_are_refused(self, client: Client) -> None:
        """More than 64 KiB: 413, and the server keeps running."""
        assert client.post(padding="x" * 70_000).status_code == 413
        assert client.post().status_code == 200

    def test_connection_is_kept_open(self, client: Client) -> None:
        """One connection serves many requests, including refused ones."""
        raw = b"GET /%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
        answer = talk(client.authority, raw % b"a" + raw % b"b" + b"GET /c HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 404") == 3

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"\x00\xff\x00\r\n\r\n", b"400"),
            (b"POST\r\n\r\n", b"400"),
            (b"GET / HTTP/9.9\r\n\r\n", b"400"),
            (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
            (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
            (b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", b"431"),
            (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
            (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 6000 + b"\r\n\r\n", b"413"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        ],
    )
    def test_garbage_is_refused(self, client: Client, sent: bytes, status: bytes) -> None:
        """Malformed HTTP gets its own response, and the next request is served."""
        answer = talk(client.authority, sent)
        assert status in answer.partition(b"\r\n")[0].partition(b":")[2 if answer.startswith(b"<") else 0]
        assert client.post().status_code == 200

    def test_incomplete_body_is_not_a_request(self, client: Client) -> None:
        """A body shorter than its length gets no response, and is not recorded."""
        path = client.endpoint.removeprefix(client.authority.url).encode()
        assert talk(client.authority, b"POST " + path + b" HTTP/1.1\r\nContent-Length: 10\r\n\r\na=b") == b""
        assert client.authority.exchanges == []

    def test_server_survives_plain_text(self, client: Client, capfd: pytest.CaptureFixture[str]) -> None:
        """Clients that do not speak TLS, or send nothing, do no harm, and nothing is printed."""
        port = int(client.authority.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as silent:
            for data in (b"GET / HTTP/1.1\r\n\r\n", b""):
                with socket.create_connection(("127.0.0.1", port)) as plain:
                    plain.sendall(data)
            assert client.post().status_code == 200
            assert silent.fileno() > 0
        assert capfd.readouterr() == ("", "")

    def test_both_loopbacks_are_served(self, client: Client) -> None:
        """If ::1 exists, `localhost` may resolve to it, so the same port is served there."""
        port = int(client.authority.url.rpartition(":")[2])
        try:
            socket.create_connection(("::1", port), 10).close()
        except OSError:
            with pytest.raises(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
                pytest.fail("there is an ::1, but the authority does not listen on it")

    @pytest.mark.parametrize(("failure", "times"), [(errno.EADDRNOTAVAIL, 1), (errno.EADDRINUSE, 3)])
    def test_second_loopback_may_fail(self, monkeypatch: pytest.MonkeyPatch, failure: int, times: int) -> None:
        """Without ::1 only IPv4 is served; if another program uses the port on ::1, another port is taken."""
        bind, failures = socketserver.TCPServer.server_bind, [failure] * times

        def fail_at_first(server: socketserver.TCPServer) -> None:
            if server.address_family == socket.AF_INET6 and failures:
                raise OSError(failures.pop(), "not here")
            bind(server)

        monkeypatch.setattr(socketserver.TCPServer, "server_bind", fail_at_first)
        with Authority() as authority, Client(authority) as client:
            assert client.post().status_code == 200
        assert not failures

    def test_other_ca_is_not_trusted(self, authority: Authority) -> None:
        """Each authority has its own CA."""
        with Authority() as other, new_session(other) as session, pytest.raises(OSError, match="CERTIFICATE_VERIFY"):
            session.get(authority.url, timeout=10)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
    def test_loopback_names_are_certified(self, authority: Authority, host: str) -> None:
        """Its certificate is valid for all loopback names under the strictest verification."""
        context = ssl.create_default_context(cafile=authority.ca_file)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        port = int(authority.url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            assert connection.version() in {"TLSv1.2", "TLSv1.3"}


def talk(authority: Authority, data: bytes) -> bytes:
    """Send bytes over TLS, close the sending side, and return everything received."""
    context = ssl.create_default_context(cafile=authority.ca_file)
    address = ("127.0.0.1", int(authority.url.rpartition(":")[2]))
    with (
        socket.create_connection(address, 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(data)
        plain_shutdown(connection)
        return read_all(connection)


def plain_shutdown(connection: ssl.SSLSocket) -> None:
    """Close the sending side; the other direction stays open."""
    socket.socket.shutdown(connection, socket.SHUT_WR)


def read_all(connection: ssl.SSLSocket) -> bytes:
    """Return everything received until the end, however it ends."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except OSError:
        pass
    return received
