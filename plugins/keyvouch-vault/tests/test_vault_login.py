"""Each auth method, and staying logged in."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import keyvouch
from keyvouch._core.opening import parse
from keyvouch.algorithms import ALGORITHMS
from keyvouch.entra.transport import Session
from keyvouch.errors import AccessDenied, ConfigurationError, SecretIncorrect, SecretRequired, StoreUnavailable
from keyvouch.local_key import make_key, sign_locally
from keyvouch.secrets import SecretResolver
from keyvouch.testing.authority import Authority
from keyvouch_vault import auth_methods
from keyvouch_vault.store import VaultStore
from openbao import PASSWORD, Server
from scripted_server import TOKEN_LOOKUP, ScriptedServer, http_response, scripted_server
from signing_in import make_key as make_file
from signing_in import write_profile
from vault_keys import error_on_open, sign_for, with_login
from vault_keys import make_key as make_vault_key

pytestmark = pytest.mark.server


@pytest.fixture
def uri(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key, and a token that may do anything with it."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys"))
    return make_vault_key(server)


def signs(uri: str) -> bool:
    with keyvouch.open_signer(uri) as signer:
        return len(signer.sign(b"message", "ES256")) == 64


# Methods.


def test_token(uri: str) -> None:
    """A token that the URI refers to; what it may do besides its policies does not matter."""
    assert signs(uri)


def test_token_without_the_default_policy(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that may not even look itself up can sign."""
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys", no_default_policy=True))
    assert signs(uri)


def test_approle(server: Server, uri: str, tmp_path: Path) -> None:
    """A role ID and a secret ID from a file log in; the resulting token is revoked at the end."""
    secret = tmp_path / "secret-id"
    secret.touch(mode=0o600)
    secret.write_text(server.secret_id("keys") + "\n")
    before = len(server.requests("auth/token/revoke-self"))
    assert signs(with_login(uri, f"auth=approle&role-id={server.role_id('keys')}&secret-id=file:{secret}"))
    assert len(server.requests("auth/token/revoke-self")) == before + 1


def test_wrapped_secret_id(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unwrapped once and used for later logins; a caller that finds it already unwrapped is warned."""
    made = server.admin.adapter.post("/v1/auth/approle/role/keys/secret-id", json={}, wrap_ttl="60s")
    monkeypatch.setenv("WRAPPED", made["wrap_info"]["token"])
    wrapped = with_login(uri, f"auth=approle&role-id={server.role_id('keys')}&wrapped-secret-id=env:WRAPPED")
    with keyvouch.open_signer(wrapped) as signer:
        server.write("sys/leases/revoke-prefix/auth/approle/login")
        assert signer.sign(b"message", "ES256")
    assert "someone else has it" in error_on_open(wrapped, SecretIncorrect).hint


def test_wrapping_token_of_something_else(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that does not wrap a secret ID of this auth method is not even unwrapped."""
    made = server.admin.adapter.post("/v1/sys/wrapping/wrap", json={"secret_id": "mine"}, wrap_ttl="60s")
    monkeypatch.setenv("WRAPPED", made["wrap_info"]["token"])
    wrapped = with_login(uri, f"auth=approle&role-id={server.role_id('keys')}&wrapped-secret-id=env:WRAPPED")
    assert "wrap a new secret ID" in error_on_open(wrapped, SecretIncorrect).hint


def test_userpass(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user name and password log in."""
    monkeypatch.setenv("PW", PASSWORD)
    assert signs(with_login(uri, "auth=userpass&username=admin&password=env:PW"))


def test_ldap(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LDAP has the same requests; this server does not support it, so userpass is mounted in its place."""
    server.write("sys/auth/ldap", type="userpass")
    server.write("auth/ldap/users/ann", password=PASSWORD, token_policies=["keys"])
    monkeypatch.setenv("PW", PASSWORD)
    assert signs(with_login(uri, "auth=ldap&username=ann&password=env:PW"))


def test_certificate(server: Server, uri: str, tmp_path: Path) -> None:
    """A TLS client certificate logs in, unless other users may read its key."""
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    server.authority.write_pair(certificate, key, "CN=client", "client")
    server.write("sys/auth/cert", type="cert")
    server.write("auth/cert/certs/app", certificate=server.ca_file.read_text(), token_policies=["keys"])
    login = with_login(uri, f"auth=cert&role=app&client-certificate-file={certificate}&client-key-file={key}")
    assert signs(login)
    key.chmod(0o644)
    error_on_open(login, AccessDenied)
    key.chmod(0o600)
    error_on_open(login.replace(str(certificate), str(server.ca_file)), ConfigurationError)
    key.unlink()
    error_on_open(login, SecretRequired)


def jwt(claims: dict[str, object], key: object) -> str:
    head = {"alg": "ES256", "typ": "JWT"}
    text = ".".join(
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in (head, claims)
    )
    signature = sign_locally(key, text.encode(), ALGORITHMS["ES256"])  # type: ignore[arg-type]
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_jwt(server: Server, uri: str, tmp_path: Path) -> None:
    """A JWT is read from its file again at each login; a wrong audience and a wrong role are different errors."""
    key = make_key("P-256")
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    server.write("sys/auth/jwt", type="jwt")
    server.write("auth/jwt/config", jwt_validation_pubkeys=[public.decode()])
    server.write(
        "auth/jwt/role/app",
        role_type="jwt",
        user_claim="sub",
        bound_audiences=["vault"],
        token_policies=["keys"],
    )
    file = tmp_path / "jwt"
    file.touch(mode=0o600)
    login = with_login(uri, f"auth=jwt&role=app&jwt=file:{file}")
    now = int(time.time())
    file.write_text(jwt({"sub": "app", "aud": "vault", "iat": now, "exp": now + 300}, key))
    with keyvouch.open_signer(login) as signer:
        file.write_text(jwt({"sub": "app", "aud": "vault", "iat": now, "exp": now + 600}, key))
        server.write("sys/leases/revoke-prefix/auth/jwt/login")
        assert signer.sign(b"message", "ES256")
    error_on_open(login.replace("role=app", "role=nobody"), AccessDenied)
    file.write_text(jwt({"sub": "app", "aud": "other", "iat": now, "exp": now + 300}, key))
    assert "audiences" in error_on_open(login, SecretIncorrect).hint


def test_access_token_of_a_profile(
    server: Server, uri: str, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JWT is another profile's access token from Entra ID, whose key may be anywhere, fetched at each login."""
    published = Session(authority.ca_file).get(f"{authority.authority}/discovery/v2.0/keys").json()["keys"][0]
    certificate = x509.load_der_x509_certificate(base64.b64decode(published["x5c"][0]))
    public = certificate.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    server.write("sys/auth/entra", type="jwt")
    server.write("auth/entra/config", jwt_validation_pubkeys=[public.decode()])
    server.write(
        "auth/entra/role/app",
        role_type="jwt",
        user_claim="oid",
        bound_audiences=["api://vault"],
        token_policies=["keys"],
    )
    key = make_file(tmp_path)
    app = authority.register(certificates=[key.certificate])
    ca_file = shutil.copy(authority.ca_file, tmp_path / "authority.pem")  # it outlives the authority
    fields = {"ca-file": str(ca_file)}
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(tmp_path, authority, app, [key.uri], **fields)))
    login = with_login(uri, "auth=jwt&auth-mount=entra&role=app&profile=nightly&scope=api://vault/.default")
    with keyvouch.open_signer(login) as signer:
        server.write("sys/leases/revoke-prefix/auth/entra/login")
        assert signer.sign(b"message", "ES256")
    error_on_open(login.replace("api://vault/", "api://other/"), SecretIncorrect)
    error_on_open(login.replace("&scope=api://vault/.default", ""), ConfigurationError)
    app.remove_certificate(key.certificate)
    assert "AADSTS" in str(error_on_open(login.replace("api://vault/", "api://another/"), SecretRequired))
    authority.close()
    error_on_open(login.replace("api://vault/", "api://third/"), StoreUnavailable)


def test_profile_that_depends_on_itself(uri: str, authority: Authority, tmp_path: Path) -> None:
    """A profile whose key is opened with its own token is an error, which shows the cycle."""
    login = with_login(uri, "auth=jwt&profile=nightly&scope=api://vault/.default")
    with pytest.MonkeyPatch.context() as patch:
        path = write_profile(tmp_path, authority, authority.register(), [login])
        patch.setenv("KEYVOUCH_CONFIG", str(path))
        assert "nightly -> nightly" in str(error_on_open(login, ConfigurationError))
        text = path.read_text()
        path.write_text(text + text.replace("[profiles.nightly]", "[profiles.daily]"))
        assert "daily -> nightly -> nightly" in str(
            error_on_open(login.replace("nightly", "daily"), ConfigurationError)
        )


def test_kubernetes(server: Server, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service account's token logs in, once the cluster has reviewed it for the server."""
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {
            "authenticated": True,
            "user": {"username": "system:serviceaccount:prod:app", "uid": "1", "groups": ["system:serviceaccounts"]},
        },
    }
    with scripted_server(
        http_response("201 Created", json.dumps(review).encode(), "Content-Type: application/json")
    ) as cluster:
        login = _kubernetes_login(server, uri, tmp_path, cluster)
        assert signs(login)
        assert "/apis/authentication.k8s.io/v1/tokenreviews" in cluster.requests[0]
        mounted = login.replace(f"&jwt=file:{tmp_path / 'service-account'}", "")
        error_on_open(mounted, SecretRequired)  # not in a pod
        (tmp_path / "service-account").chmod(0o644)  # as Kubernetes mounts it
        monkeypatch.setattr(auth_methods, "_SERVICE_ACCOUNT_TOKEN", tmp_path / "service-account")
        assert signs(mounted)
        error_on_open(mounted.replace("role=app", "role=nobody"), AccessDenied)


def _kubernetes_login(server: Server, uri: str, tmp_path: Path, cluster: ScriptedServer) -> str:
    now = int(time.time())
    account = {"namespace": "prod", "serviceaccount": {"name": "app", "uid": "1"}}
    claims = {
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:prod:app",
        "iat": now,
        "exp": now + 300,
        "kubernetes.io": account,
    }
    token = jwt(claims, make_key("P-256"))
    server.write("sys/auth/kubernetes", type="kubernetes")
    server.write(
        "auth/kubernetes/config",
        kubernetes_host=cluster.address,
        token_reviewer_jwt=token,
        kubernetes_ca_cert=server.ca_file.read_text(),
        disable_local_ca_jwt=True,
        disable_iss_validation=True,
    )
    server.write(
        "auth/kubernetes/role/app",
        bound_service_account_names=["app"],
        bound_service_account_namespaces=["prod"],
        token_policies=["keys"],
    )
    file = tmp_path / "service-account"
    file.touch(mode=0o600)
    file.write_text(token)
    return with_login(uri, f"auth=kubernetes&role=app&jwt=file:{file}")


def test_local_proxy_that_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """auth=none sends no token, whatever is in the environment: the proxy on loopback adds its own."""
    monkeypatch.setenv("VAULT_TOKEN", "s.stray")
    with scripted_server(http_response("200 OK", TOKEN_LOOKUP, "Content-Type: application/json")) as proxy:
        uri = parse(f"vault:address={proxy.address};key=app?auth=none")
        VaultStore(uri, SecretResolver()).connect(timeout=5)
        (request,) = proxy.requests
        assert "lookup-self" in request
        assert "x-vault-token" not in request.lower()


# Staying logged in.


def approle_uri(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch, role: str, **more: object) -> str:
    server.write(f"auth/approle/role/{role}", token_policies=["keys"], **more)
    monkeypatch.setenv("ROLE_SECRET", server.secret_id(role))
    return with_login(uri, f"auth=approle&role-id={server.role_id(role)}&secret-id=env:ROLE_SECRET")


def test_token_is_renewed(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is renewed before a signature, by one of the threads, without another login."""
    short = approle_uri(server, uri, monkeypatch, "renewed", token_ttl="3s")
    with keyvouch.open_signer(short) as signer:
        logged_in, renewed = (len(server.requests(f"auth/{each}")) for each in ("approle/login", "token/renew-self"))
        assert sign_for(signer, 5.0, threads=8) == []
    assert len(server.requests("auth/approle/login")) == logged_in
    assert 2 <= len(server.requests("auth/token/renew-self")) - renewed <= 4


def test_token_is_replaced_near_maximum_ttl(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near the end of a token's maximum lifetime, another is fetched while 30 threads sign."""
    short = approle_uri(server, uri, monkeypatch, "short", token_ttl="2s", token_max_ttl="3s")
    with keyvouch.open_signer(short) as signer:
        assert sign_for(signer, 7.0, threads=30) == []


def test_tokens_with_ttl_of_five_seconds(
    server: Server, uri: str, monkeypatch: pytest.MonkeyPatch, *, soak: bool, plenty: bool
) -> None:
    """Token after token expires while eight threads sign: for ten minutes in `make soak`, one in CI."""
    brief = approle_uri(server, uri, monkeypatch, "brief", token_ttl="5s", token_max_ttl="5s")
    with keyvouch.open_signer(brief) as signer:
        logged_in = len(server.requests("auth/approle/login"))
        assert sign_for(signer, 600 if soak else 60 if plenty else 12, threads=8) == []
    assert len(server.requests("auth/approle/login")) > logged_in


def test_token_expired_between_signatures(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause longer than the token's lifetime, the next signature logs in first."""
    short = approle_uri(server, uri, monkeypatch, "paused", token_ttl="1s", token_max_ttl="1s")
    with keyvouch.open_signer(short) as signer:
        time.sleep(1.5)
        denied = len([each for each in server.requests(_sign_path(uri)) if "error" in each])
        assert signer.sign(b"message", "ES256")
        assert len([each for each in server.requests(_sign_path(uri)) if "error" in each]) == denied


def test_revoked_token_under_load(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight threads whose token is revoked, one logs in, and none sees an error."""
    with keyvouch.open_signer(approle_uri(server, uri, monkeypatch, "revoked", token_ttl="10m")) as signer:
        before = len(server.requests("auth/approle/login"))
        threading.Timer(0.5, lambda: server.write("sys/leases/revoke-prefix/auth/approle/login")).start()
        assert sign_for(signer, 1.5, threads=8) == []
    assert len(server.requests("auth/approle/login")) == before + 1


def test_replaced_token_is_read_again(server: Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the token itself was given, its replacement is read when the old one is revoked."""
    old = server.token("keys")
    monkeypatch.setenv("VAULT_TEST_TOKEN", old)
    with keyvouch.open_signer(uri) as signer:
        monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys"))
        server.write("auth/token/revoke", token=old)
        assert signer.sign(b"message", "ES256")


def _sign_path(uri: str) -> str:
    return f"transit/sign/{uri.partition(';key=')[2].partition('?')[0]}"
