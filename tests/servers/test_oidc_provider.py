"""The server really verifies. The client here is unmodified MSAL, and PyJWT makes its assertions."""

import base64
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import msal
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from servers.oidc import Client, OidcProvider

pytestmark = pytest.mark.server

ALGORITHMS = ["PS256", "RS256", "ES256", "EdDSA"]

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

Assertion = Callable[[dict[str, str]], str]


@cache
def key_for(algorithm: str) -> PrivateKey:
    return new_key(algorithm)


def new_key(algorithm: str) -> PrivateKey:
    match algorithm:
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(65537, 2048)


def new_client(judge: OidcProvider, algorithm: str = "PS256") -> str:
    client_id = str(uuid.uuid4())
    judge.register(Client(client_id, algorithm, key_for(algorithm).public_key()))
    return client_id


def claims_for(client_id: str, audience: str) -> dict[str, object]:
    now = int(time.time())
    return {
        "aud": audience,
        "iss": client_id,
        "sub": client_id,
        "jti": str(uuid.uuid4()),
        "nbf": now,
        "exp": now + 300,
    }


def assertion(
    algorithm: str = "PS256", *, key: PrivateKey | None = None, claims: dict[str, object] | None = None
) -> Assertion:
    """Return a function that MSAL calls for an assertion; it gets MSAL's context only without a default for it."""

    def build(context: dict[str, str]) -> str:
        right = claims_for(context["client_id"], context["token_endpoint"])
        return jwt.encode(right | (claims or {}), key or key_for(algorithm), algorithm)

    return build


def ask(judge: OidcProvider, client_id: str, assertion: Assertion, *, authority: str = "authority") -> dict[str, Any]:
    """Request a token with a new application, since MSAL caches tokens and responses for each."""
    with judge.session() as session:
        app = msal.ConfidentialClientApplication(
            client_id,
            client_credential={"client_assertion": assertion},
            instance_discovery=False,
            http_client=session,
            **{authority: getattr(judge, authority)},
        )
        result: dict[str, Any] = app.acquire_token_for_client([judge.scope])
        return result


def assert_token_for(client_id: str, result: dict[str, Any]) -> None:
    assert "access_token" in result, result
    claims = jwt.decode(result["access_token"], options={"verify_signature": False})
    assert claims["client_id"] == client_id


def assert_refused(judge: OidcProvider, client_id: str, result: dict[str, Any], reason: str) -> None:
    assert result["error"] == "invalid_client", result
    assert judge.refusals(client_id) == [reason]


@pytest.mark.parametrize("authority", ["authority", "oidc_authority"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_issues_a_token(oidc_provider: OidcProvider, algorithm: str, authority: str) -> None:
    client_id = new_client(oidc_provider, algorithm)

    result = ask(oidc_provider, client_id, assertion(algorithm), authority=authority)

    assert_token_for(client_id, result)
    assert oidc_provider.refusals(client_id) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rejects_another_clients_key(oidc_provider: OidcProvider, algorithm: str) -> None:
    client_id = new_client(oidc_provider, algorithm)

    result = ask(oidc_provider, client_id, assertion(algorithm, key=new_key(algorithm)))

    assert_refused(oidc_provider, client_id, result, "signature verification failed")


def test_rejects_another_algorithm_of_the_same_key(oidc_provider: OidcProvider) -> None:
    client_id = new_client(oidc_provider, "PS256")

    result = ask(oidc_provider, client_id, assertion("RS256", key=key_for("PS256")))

    assert_refused(oidc_provider, client_id, result, "alg mismatch")


def test_rejects_a_replay(oidc_provider: OidcProvider) -> None:
    client_id = new_client(oidc_provider)
    replayed = assertion(claims={"jti": "the same"})

    assert_token_for(client_id, ask(oidc_provider, client_id, replayed))
    result = ask(oidc_provider, client_id, replayed)

    assert_refused(oidc_provider, client_id, result, "client assertion tokens must only be used once")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        pytest.param(
            {"aud": "https://localhost/another/oauth2/v2.0/token"},
            "audience (aud) must equal the endpoint url, issuer identifier or token endpoint url",
            id="audience",
        ),
        pytest.param({"iss": "another"}, "iss (JWT issuer) must be the client_id", id="issuer"),
        pytest.param({"exp": 1}, "jwt expired", id="expired"),
        pytest.param({"nbf": 2**40}, "jwt not active yet", id="not yet valid"),
    ],
)
def test_rejects_invalid_claims(oidc_provider: OidcProvider, claims: dict[str, object], reason: str) -> None:
    client_id = new_client(oidc_provider)

    result = ask(oidc_provider, client_id, assertion(claims=claims))

    assert_refused(oidc_provider, client_id, result, reason)


@pytest.mark.parametrize("salt", [0, 20, padding.PSS.MAX_LENGTH])
def test_rejects_another_salt_length(oidc_provider: OidcProvider, salt: Any) -> None:
    client_id = new_client(oidc_provider)
    key = key_for("PS256")
    assert isinstance(key, rsa.RSAPrivateKey)

    def salted(context: dict[str, str]) -> str:
        signed, _, _ = assertion()(context).rpartition(".")
        signature = key.sign(signed.encode(), padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
        return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    result = ask(oidc_provider, client_id, salted)

    assert_refused(oidc_provider, client_id, result, "signature verification failed")


def test_accepts_a_new_key_of_a_known_client(oidc_provider: OidcProvider) -> None:
    client_id = new_client(oidc_provider)
    key = new_key("PS256")

    oidc_provider.register(Client(client_id, "PS256", key.public_key()))

    assert_token_for(client_id, ask(oidc_provider, client_id, assertion(key=key)))


def test_rejects_a_client_without_a_key(oidc_provider: OidcProvider) -> None:
    with pytest.raises(ValueError, match="JSON Web Key Set"):
        oidc_provider.register(Client("keyless", "RS256", {"kty": "RSA"}))


def test_has_the_clients_it_was_started_with() -> None:
    with OidcProvider([Client("first", "ES256", key_for("ES256").public_key())]) as judge:
        assert_token_for("first", ask(judge, "first", assertion("ES256")))


def test_startup_error_is_shown() -> None:
    with pytest.raises(RuntimeError, match="client_id"):
        OidcProvider([Client("", "ES256", key_for("ES256").public_key())]).start()


PARENT = """
import sys
from servers.oidc import OidcProvider

judge = OidcProvider()
judge.start()
print(judge.port, flush=True)
sys.stdin.read()
"""


def test_ends_with_its_parent(oidc_provider: OidcProvider, tmp_path: Path) -> None:
    """Even if the parent is killed, no server is left running."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert listens(port)
        parent.kill()

    deadline = time.monotonic() + 10
    while listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
