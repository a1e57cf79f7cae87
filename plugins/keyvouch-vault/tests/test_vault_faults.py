"""Each fault raises its own error, which says what to do."""

from __future__ import annotations

import re
import socket
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import keyvouch
from keyvouch.errors import (
    AccessDenied,
    ConfigurationError,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    SecretRequired,
    StoreUnavailable,
    Throttled,
)
from keyvouch.secrets import SecretResolver
from keyvouch.testing import Relay
from keyvouch.uri import parse_uri
from keyvouch_vault.store import VaultStore
from openbao import PASSWORD, Server
from scripted_server import TOKEN_LOOKUP, http_response, scripted_server
from servers.drips import DRIPS, dripping, json_response
from vault_keys import error_on_open, make_key, sign_for, with_login

pytestmark = pytest.mark.server
JSON = "Content-Type: application/json"


@pytest.fixture
def uri(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key, and a token that may do anything with it."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys"))
    return make_key(server)


# Addresses and trust.


def test_unknown_ca(server: Server, uri: str, tmp_path: Path) -> None:
    """A server whose CA is not trusted is a configuration error, and the hint names ca-file=."""
    error = error_on_open(uri.replace(f"&ca-file={server.ca_file}", ""), ConfigurationError)
    assert "ca-file=" in error.hint
    (tmp_path / "empty.pem").write_text("nothing")
    error_on_open(uri.replace(str(server.ca_file), str(tmp_path / "empty.pem")), ConfigurationError)


def test_ca_file_that_does_not_exist(server: Server, uri: str) -> None:
    """The error says that the file does not exist."""
    error = error_on_open(uri.replace(str(server.ca_file), "/nowhere/ca.pem"), ConfigurationError)
    assert error.message.startswith("The trusted TLS certificates /nowhere/ca.pem do not exist")


def test_ca_file_overrides_environment(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ca-file= takes precedence over REQUESTS_CA_BUNDLE."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    keyvouch.open_signer(uri).close()


def test_wrong_host_name(uri: str) -> None:
    """A host name that is not in the certificate is refused."""
    assert "host name" in error_on_open(uri.replace("localhost", "127.0.0.1"), ConfigurationError).hint


def test_connection_refused(uri: str) -> None:
    """An address on which nothing listens is unavailable immediately."""
    began = time.monotonic()
    error_on_open(re.sub(r"localhost:\d+", "localhost:1", uri), StoreUnavailable)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("address", ["http://vault:8200", "vault:8200", "https://", "https://u:p@vault", "ftp://vault"])
def test_invalid_addresses(address: str) -> None:
    """Plain http is allowed only on loopback, and an address may not contain a password."""
    with pytest.raises(ConfigurationError):
        parse_uri(f"vault:address={address};key=app?auth=token&token=env:X", VaultStore.attributes)


# Paths and keys.


@pytest.mark.parametrize(
    ("change", "kind", "hint"),
    [
        (";key=", KeyNotFound, "namespace="),
        (";mount=elsewhere;key=", KeyNotFound, "bao secrets enable -path=elsewhere transit"),
        (";mount=cubbyhole;key=", KeyNotFound, "keyvouch keys"),
        (";key=no", KeyNotFound, "keyvouch keys"),
        (";version=7;key=", KeyNotFound, "versions 1"),
    ],
)
def test_wrong_namespace_mount_key_or_version(
    server: Server,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    kind: type[KeyvouchError],
    hint: str,
) -> None:
    """A wrong namespace, mount, key or version each has its own error, unless a policy denies access first.

    Each lets the next key be tried: the URI may be right, and the server rebuilt.
    """
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("admin"))
    more = ";namespace=nowhere" if change == ";key=" else ""
    error = error_on_open(uri.replace(";key=", more + change), kind)
    assert hint in error.hint
    assert error.try_next_key


def test_version_below_the_minimum(server: Server, uri: str) -> None:
    """A version below the minimum is not found; a signer that has it open reports that it is unusable."""
    with keyvouch.open_signer(f"{uri}&settle=0") as signer:
        name = re.findall(r";key=([\w-]+)", uri)[0]
        server.write(f"transit/keys/{name}/rotate")
        server.write(f"transit/keys/{name}/config", min_encryption_version=2)
        with pytest.raises(KeyUnusable, match="min_encryption_version"):
            signer.sign(b"message", "ES256")
    error_on_open(uri.replace(f";key={name}", f";key={name};version=1"), KeyNotFound)
    with keyvouch.open_store(uri) as store:
        (skipped,) = store.unusable_keys()
    assert ";version=1" in skipped.name
    assert "min_encryption_version" in skipped.reason


def test_version_below_the_minimum_for_decryption(server: Server, uri: str) -> None:
    """The server removes such a version from the key: an open signer reports it at once, and it is not found again."""
    with keyvouch.open_signer(f"{uri}&settle=0") as signer:
        name = re.findall(r";key=([\w-]+)", uri)[0]
        server.write(f"transit/keys/{name}/rotate")
        server.write(f"transit/keys/{name}/config", min_decryption_version=2)
        with pytest.raises(KeyUnusable, match="min_decryption_version"):
            signer.sign(b"message", "ES256")
    error_on_open(uri.replace(f";key={name}", f";key={name};version=1"), KeyNotFound)


def test_key_that_cannot_sign(server: Server, uri: str) -> None:
    """An encryption key is unusable, and a listing skips it."""
    server.write("transit/keys/cipher", type="aes256-gcm96")
    error_on_open(re.sub(r";key=[\w-]+", ";key=cipher", uri), KeyUnusable)
    with keyvouch.open_store(re.sub(r";key=[\w-]+", "", uri)) as store:
        listed = store.keys()
    assert "cipher" not in {info.uri.get("key") for info in listed}


# Permissions and secrets.


def test_denied_signature_names_the_policy_rule(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a policy's 403, the hint gives the missing line, and nothing logs in again."""
    server.write("sys/policies/acl/reader", policy='path "transit/keys/*" { capabilities = ["read"] }')
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("reader"))
    before = len(server.requests("auth/token/lookup-self"))
    with keyvouch.open_signer(uri) as signer, pytest.raises(AccessDenied, match='path "transit/sign/') as caught:
        signer.sign(b"message", "ES256")
    assert 'capabilities = ["update"]' in caught.value.hint
    assert len(server.requests("auth/token/lookup-self")) == before + 1


def test_denied_read_suggests_version_and_certificate(
    server: Server, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who may only sign gets a hint to name the version and certificate."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("sign"))
    assert "certificate-file=" in error_on_open(uri, AccessDenied).hint


@pytest.mark.parametrize("token", ["s.wrong", "hvs.wrong"])
def test_invalid_token(uri: str, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """A wrong token is reported as such, and not shown."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", token)
    assert token not in str(error_on_open(uri, SecretIncorrect))


def test_stray_tokens_never_sign(uri: str, server: Server, own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VAULT_TOKEN and ~/.vault-token are never read, not even after a refused login."""
    token = server.token("keys")
    (own_folders / ".vault-token").write_text(token)
    monkeypatch.setenv("VAULT_TOKEN", token)
    monkeypatch.setenv("SID", "wrong")
    error_on_open(with_login(uri, f"auth=approle&role-id={server.role_id('keys')}&secret-id=env:SID"), SecretIncorrect)
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.wrong")
    error_on_open(uri, SecretIncorrect)


def test_wrong_role_or_auth_mount(uri: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """AppRole does not distinguish a wrong role from a wrong secret; an auth mount that does not exist is denied."""
    monkeypatch.setenv("SID", server.secret_id("keys"))
    wrong = error_on_open(with_login(uri, "auth=approle&role-id=nobody&secret-id=env:SID"), SecretIncorrect)
    assert "bao read -field=role_id auth/approle/role/ROLE/role-id" in wrong.hint
    error = error_on_open(with_login(uri, "auth=approle&auth-mount=no&role-id=x&secret-id=env:SID"), AccessDenied)
    assert "auth-mount=" in error.hint
    assert "bao auth enable -path=no approle" in error.hint
    error = error_on_open(with_login(uri, "auth=kubernetes&role=x&jwt=env:SID"), AccessDenied)
    assert "bao auth enable kubernetes" in error.hint


def test_missing_secret_id(uri: str, server: Server) -> None:
    """If the role requires a secret ID and the URI has none, the hint is to add it, not to create a new one."""
    error = error_on_open(with_login(uri, f"auth=approle&role-id={server.role_id('keys')}"), SecretRequired)
    assert "Add secret-id=" in error.hint


def test_wrong_protocol_on_loopback(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint for https:// to a server without TLS is http://, and the reverse."""
    assert "https://" in error_on_open(uri.replace("https:", "http:"), StoreUnavailable).hint
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.token")
    with socket.create_server(("127.0.0.1", 0)) as plain:
        responding = threading.Thread(target=_respond_without_tls, args=(plain,))
        responding.start()
        address = f"https://127.0.0.1:{plain.getsockname()[1]}"
        error = error_on_open(uri.replace(server.address, address), StoreUnavailable)
        responding.join()
    assert "http://" in error.hint


def _respond_without_tls(plain: socket.socket) -> None:
    connection, _ = plain.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")


def test_attribute_appended_to_a_reference(uri: str) -> None:
    """What belongs before the `?`, and was appended after it with `;`, is reported with where it belongs."""
    error = error_on_open(uri.replace("env:VAULT_TEST_TOKEN", "file:/x;version=2"), ConfigurationError)
    assert "version" in error.message
    assert "before the `?`" in error.hint


@pytest.mark.parametrize("query", ["", "auth=approle", "auth=userpass&username=a", "auth=none", "auth=magic"])
def test_missing_login_attributes(query: str) -> None:
    """What a login requires is checked before anything is sent."""
    with pytest.raises(ConfigurationError):
        VaultStore(parse_uri(f"vault:address=https://vault;key=app?{query}", VaultStore.attributes), SecretResolver())


# Servers that fail.


def test_sealed_server(server: Server, uri: str) -> None:
    """A sealed server is unavailable, and the hint says how to unseal it."""
    with keyvouch.open_signer(uri) as signer:
        server.write("sys/seal")
        try:
            with pytest.raises(StoreUnavailable, match="sealed"):
                signer.sign(b"message", "ES256", timeout=1)
        finally:
            server.stop()
            server.start()
        signer.sign(b"message", "ES256")


def test_signing_survives_server_restart(server: Server, uri: str) -> None:
    """Eight signing threads see no error when the server is killed and started again."""

    def restart() -> None:
        server.kill()
        server.start()

    with keyvouch.open_signer(uri) as signer:
        signer.sign(b"message", "ES256")
        restarting = threading.Timer(0.5, restart)
        restarting.start()
        assert sign_for(signer, 4.0, threads=8) == []
        restarting.join()


def error_from(*responses: bytes, timeout: float = 2.0, pause: float = 0.0) -> tuple[Exception, list[str]]:
    """Return the error that opening raises for these responses after a successful login, and the requests."""
    with scripted_server(http_response("200 OK", TOKEN_LOOKUP, JSON), *responses) as server:
        parsed = parse_uri(
            f"vault:address={server.address};key=app;version=1?auth=token&token=env:VAULT_TEST_TOKEN",
            VaultStore.attributes,
        )
        store = VaultStore(parsed, SecretResolver())
        store.connect(timeout=5)
        server.pause = pause
        with pytest.raises(KeyvouchError) as caught:
            store.open(parsed, timeout=timeout)
        store.close()
        return caught.value, server.requests


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (http_response("500 Internal Server Error", b'{"errors": ["boom"]}', JSON), StoreUnavailable),
        (http_response("502 Bad Gateway", b"<html>", "Content-Type: text/html"), StoreUnavailable),
        (http_response("503 Service Unavailable", b'{"errors": ["standby"]}', JSON), StoreUnavailable),
        (http_response("200 OK", b"<html>hello", "Content-Type: text/html"), StoreUnavailable),
        (http_response("200 OK", b"[1]", JSON), StoreUnavailable),
        (http_response("200 OK", b'{"data": {"type": "rsa-2048", "keys": 7}}', JSON), StoreUnavailable),
        (http_response("200 OK", b'{"data"', JSON, length=1000), StoreUnavailable),
        (b"nonsense\r\n\r\n", StoreUnavailable),
        (b"", StoreUnavailable),
    ],
)
def test_unusable_responses(monkeypatch: pytest.MonkeyPatch, reply: bytes, kind: type[KeyvouchError]) -> None:
    """A 5xx, non-JSON, truncated or missing response is unavailable, with a hint."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.token")
    error, requests = error_from(reply)
    assert type(error) is kind
    assert error.hint
    assert len(requests) == 2  # the plugin does not retry


@pytest.mark.parametrize(
    ("header", "seconds"), [((), None), (("Retry-After: 7",), 7.0), (("Retry-After: soon",), None)]
)
def test_quota(monkeypatch: pytest.MonkeyPatch, header: tuple[str, ...], seconds: float | None) -> None:
    """429 is `Throttled`, with the server's Retry-After if there is one."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.token")
    error, _ = error_from(http_response("429 Too Many Requests", b'{"errors": ["quota"]}', JSON, *header))
    assert isinstance(error, Throttled)
    assert error.retry_after == seconds


def test_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect to another host is an error, and neither a token nor a request is sent there."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.token")
    with scripted_server(http_response("200 OK", TOKEN_LOOKUP, JSON)) as other:
        for status in ("307 Temporary Redirect", "302 Found", "301 Moved Permanently"):
            error, _ = error_from(http_response(status, b"", f"Location: {other.address}/v1/transit/keys/app"))
            assert isinstance(error, StoreUnavailable)
            assert "load balancer" in error.hint
        assert other.requests == []


def test_silent_server(server: Server, uri: str) -> None:
    """Waiting for a server that never responds ends with the caller's timeout, which covers all retries."""
    with (
        Relay(("127.0.0.1", server.port)) as relay,
        keyvouch.open_signer(uri.replace(f":{server.port}", f":{relay.port}")) as signer,
    ):
        signer.sign(b"message", "ES256")
        relay.stall()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            signer.sign(b"message", "ES256", timeout=2)
        assert time.monotonic() - began < 3
        relay.resume()


def test_slow_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that arrives slowly, byte by byte, ends with the timeout."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.token")
    began = time.monotonic()
    error, _ = error_from(http_response("200 OK", b" " * 100, JSON), timeout=0.5, pause=0.1)
    assert isinstance(error, StoreUnavailable)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("drip", DRIPS)
def test_slow_signature_response(monkeypatch: pytest.MonkeyPatch, drip: str) -> None:
    """No part of a response outlasts the caller's timeout, which covers all retries."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.token")
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    key = {"type": "ecdsa-p256", "latest_version": 1, "supports_signing": True, "keys": {"1": {"public_key": pem}}}
    with dripping(drip) as server:
        server.responses += [json_response({"data": {"ttl": 0, "renewable": False}}), json_response({"data": key})]
        uri = f"vault:address=http://127.0.0.1:{server.port};key=app?auth=token&token=env:VAULT_TEST_TOKEN"
        with keyvouch.open_signer(uri) as signer:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="timed out"):
                signer.sign(b"message", "ES256", timeout=1)
    assert time.monotonic() - began < 5
    assert b"POST /v1/transit/sign/app" in server.asked[-1]


def test_password_is_not_in_errors(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password is reported without showing it; the same one is not sent again."""
    monkeypatch.setenv("PW", f"{PASSWORD}-wrong")
    wrong = with_login(uri, "auth=userpass&username=admin&password=env:PW")
    before = len(server.requests("auth/userpass/login/admin"))
    for _ in range(3):
        assert PASSWORD not in str(error_on_open(wrong, SecretIncorrect))
    assert len(server.requests("auth/userpass/login/admin")) == before + 1
