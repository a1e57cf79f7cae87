"""Whatever responds in place of Vault, only keyvouch's errors are raised, so that another key can be tried."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keyvouch
import malformed
from fake_vault import FakeVault, fake_vault
from keyvouch.algorithms import PS256
from keyvouch.certificate import spki_sha256
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import KeyChanged, KeyvouchError, StoreUnavailable
from keyvouch.local_key import make_key
from keyvouch.secrets import SecretResolver
from keyvouch.store import KeySpec
from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.tls import make_context
from keyvouch.testing.throwaway import throwaway_signer
from keyvouch.uri import KeyUri, parse_uri
from keyvouch_vault.store import VaultStore

SCOPE = "https://graph.microsoft.com/.default"
LOGINS = {
    "token": "auth=token&token=env:VAULT_TEST_TOKEN",
    "approle": "auth=approle&role-id=app&secret-id=env:VAULT_TEST_TOKEN",
    "wrapped": "auth=approle&role-id=app&wrapped-secret-id=env:VAULT_TEST_TOKEN",
    "kubernetes": "auth=kubernetes&role=app&jwt=env:VAULT_TEST_TOKEN",
    "jwt": "auth=jwt&role=app&jwt=env:VAULT_TEST_TOKEN",
    "userpass": "auth=userpass&username=app&password=env:VAULT_TEST_TOKEN",
    "ldap": "auth=ldap&username=app&password=env:VAULT_TEST_TOKEN",
    "none": "auth=none",
}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def vault(key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeVault]:
    monkeypatch.setenv("VAULT_TEST_TOKEN", "s.token")
    _, ca_file = make_context(tmp_path)
    with fake_vault(key) as server:
        server.ca_file = str(ca_file)
        yield server


def uri_text(vault: FakeVault, login: str = "token") -> str:
    return f"vault:address={vault.address};key=app?{LOGINS[login]}&ca-file={vault.ca_file}"


def parsed_uri(vault: FakeVault, login: str = "token") -> KeyUri:
    return parse_uri(uri_text(vault, login), VaultStore.attributes)


def connected(vault: FakeVault, login: str = "token") -> VaultStore:
    store = VaultStore(parsed_uri(vault, login), SecretResolver())
    store.connect(timeout=10)
    return store


def logging_in(login: str) -> Callable[[FakeVault], object]:
    return lambda vault: connected(vault, login).close()


def opening(vault: FakeVault) -> object:
    store = connected(vault)
    try:
        return store.open(parsed_uri(vault), timeout=10)
    finally:
        store.close()


def signing(vault: FakeVault) -> object:
    store = connected(vault)
    try:
        return store.open(parsed_uri(vault), timeout=10).sign(b"message", PS256, timeout=10)
    finally:
        store.close()


def listing(vault: FakeVault) -> object:
    store = connected(vault)
    try:
        return store.keys(parsed_uri(vault).replace({"key": None}))
    finally:
        store.close()


def renewing(vault: FakeVault) -> object:
    store = connected(vault, "approle")
    try:
        renewal = store._session.get()._renewal
        renewal.schedule(0.0, renewal.expires_at + 3600)  # due for renewal
        key = store.open(parsed_uri(vault), timeout=10)
        renewal.schedule(0.0, 0.0)  # expired
        return key.sign(b"message", PS256, timeout=10)
    finally:
        store.close()


def generating(vault: FakeVault) -> object:
    vault.exists = False
    store = connected(vault)
    try:
        return store.generate(parsed_uri(vault).replace({"deletion-allowed": "true"}), KeySpec("RSA-2048"))
    finally:
        vault.exists = True
        store.close()


def rotating(vault: FakeVault) -> object:
    store = connected(vault)
    try:
        return store.generate(parsed_uri(vault), KeySpec("RSA-2048", further=True))
    finally:
        store.close()


IMPORTED = make_key("RSA-2048")


def importing(vault: FakeVault) -> object:
    vault.exists = False
    store = connected(vault)
    try:
        return store.import_key(parsed_uri(vault), IMPORTED, [])
    finally:
        vault.exists = True
        store.close()


def deleting(vault: FakeVault) -> None:
    store = connected(vault)
    try:
        store.delete(parsed_uri(vault))
    finally:
        store.close()


OPERATIONS: dict[str, tuple[str, Callable[[FakeVault], object]]] = {
    **{f"login {each}": ("login", logging_in(each)) for each in LOGINS if each not in ("token", "none")},
    "unwrap": ("wrapping/unwrap", logging_in("wrapped")),
    "wrapping lookup": ("wrapping/lookup", logging_in("wrapped")),
    "token": ("lookup-self", logging_in("token")),
    "none": ("lookup-self", logging_in("none")),
    "renewal": ("renew-self", renewing),
    "revocation": ("revoke-self", logging_in("approle")),
    "key": ("keys/app", opening),
    "signature": ("sign", signing),
    "list": ("keys", listing),
    "listed key": ("keys/app", listing),
    "capabilities": ("capabilities-self", rotating),
    "creation": ("create", generating),
    "rotation": ("create", rotating),
    "configuration": ("config", generating),
    "certificate": ("set-certificate", generating),
    "wrapping key": ("wrapping_key", importing),
    "import": ("import", importing),
    "deletion": ("delete", deleting),
}
"""By name: the endpoint, and the function that sends a request to it."""
STATUSES = ("200 OK", "400 Bad Request", "404 Not Found")


def raised_error(vault: FakeVault, operation: Callable[[FakeVault], object]) -> KeyvouchError | None:
    """Call `operation` and return the error that it raised. Any error other than keyvouch's fails the test."""
    try:
        operation(vault)
    except KeyvouchError as error:
        return error
    return None


@pytest.mark.parametrize("name", OPERATIONS)
def test_fake_responses_are_sufficient(vault: FakeVault, name: str) -> None:
    """The fake's own responses are sufficient for the store, and each endpoint of the table is requested."""
    endpoint, operation = OPERATIONS[name]
    if name != "deletion":
        operation(vault)
    else:
        deleting(vault)
    assert endpoint in vault.requested


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_malformed_responses(vault: FakeVault, name: str, status: str) -> None:
    """Bodies that are not in Vault's format at all, with success and error statuses."""
    endpoint, operation = OPERATIONS[name]
    for body in malformed.WHOLE:
        vault.overrides[endpoint] = status, body
        error = raised_error(vault, operation)
        assert error is None or (error.hint and error.try_next_key) or name in ("deletion", "certificate"), body[:40]


@pytest.mark.parametrize("name", OPERATIONS)
def test_wrong_fields(vault: FakeVault, name: str) -> None:
    """Valid responses in which one field is missing or has an invalid value."""
    endpoint, operation = OPERATIONS[name]
    for body in malformed.variants(vault.bodies[endpoint]):
        vault.overrides[endpoint] = "200 OK", body
        error = raised_error(vault, operation)
        assert error is None or error.hint, body


BROKEN = (b"{}", b"[]", b'{"data": [], "auth": []}', b'{"errors": [5]}', malformed.WHOLE[-1], b'{"data": {"keys": 5}}')


@pytest.fixture(scope="module")
def client_of() -> Iterator[Callable[[str], ConfidentialClient]]:
    with Authority(refuse_replays=False) as authority, throwaway_signer() as standby:
        app = authority.register(certificates=standby.chain)
        yield lambda uri: ConfidentialClient(
            app.client_id,
            [uri, standby],
            authority=authority.authority,
            ca_file=authority.ca_file,
            instance_discovery=False,
        )


@pytest.mark.parametrize(
    "name", [each for each in OPERATIONS if each.startswith("login")] + ["token", "key", "signature"]
)
def test_standby_key_signs_in(vault: FakeVault, client_of: Callable[[str], ConfidentialClient], name: str) -> None:
    """Whatever the preferred key's Vault responds, the client signs in with its standby key."""
    endpoint, _ = OPERATIONS[name]
    uri = uri_text(vault, name.removeprefix("login ") if name.startswith("login") else "token")
    for body in BROKEN:
        vault.overrides[endpoint] = "200 OK", body
        with client_of(uri) as client:
            assert client.access_token([SCOPE], timeout=20)
    assert endpoint in vault.requested


def test_later_signatures_fail_over(vault: FakeVault, client_of: Callable[[str], ConfidentialClient]) -> None:
    """A Vault that signed at first and then responds with nonsense is skipped as well."""
    vault.overrides["sign"] = "200 OK", b"{}"
    with client_of(uri_text(vault)) as client:
        assert client.access_token([SCOPE], timeout=20)
        assert client.access_token([SCOPE], claims_challenge='{"access_token": {}}', timeout=20)


def test_returned_token_with_control_characters(vault: FakeVault) -> None:
    """A token that the server returns is checked before it is sent, and does not appear in any error."""
    vault.bodies["login"] = {"auth": {"client_token": "s.se\ncret", "lease_duration": 3600, "renewable": True}}
    with pytest.raises(StoreUnavailable) as caught:
        connected(vault, "approle")
    assert "cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_invalid_utf_8_keeps_no_token(vault: FakeVault) -> None:
    """The decoder's error, which contains the whole response, is not even kept as the context."""
    body = b'{"auth": {"client_token": "s.secret", "lease_duration": 1, "renewable": true, "client_token": "\xff"}}'
    vault.overrides["login"] = "200 OK", body
    with pytest.raises(StoreUnavailable) as caught:
        connected(vault, "approle")
    assert caught.value.__context__ is None


def test_errors_never_contain_none(vault: FakeVault) -> None:
    """A missing type, version or reason does not appear as None in errors."""
    for name in ("key", "signature", "creation", "wrapping key"):
        endpoint, operation = OPERATIONS[name]
        for body in malformed.variants(vault.bodies[endpoint]):
            vault.overrides[endpoint] = "200 OK", body
            error = raised_error(vault, operation)
            assert error is None or "None" not in str(error), body
        del vault.overrides[endpoint]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"errors": null}', b'{"errors": []}', b'{"errors": [""]}', b'{"errors": ["."]}']
)
def test_errors_without_a_reason(vault: FakeVault, body: bytes) -> None:
    """If an error response gives no reason, the message says so, instead of ending with a colon."""
    for name in ("login approle", "unwrap", "token", "key", "signature", "list", "creation", "import", "deletion"):
        endpoint, operation = OPERATIONS[name]
        for status in (400, 401, 403, 404, 405, 412, 500, 501, 502, 503):
            vault.overrides = {endpoint: (f"{status} Error", body)}
            error = raised_error(vault, operation)
            assert error is None or not re.search(r": *\.|: *$", error.message), error


FIELDS = ("data", "auth", "errors", "keys", "1", "type", "public_key", "ttl", "client_token", "lease_duration")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(OPERATIONS)),
    status=st.sampled_from(STATUSES),
    body=malformed.fuzzed((*FIELDS, "signature")),
)
def test_arbitrary_json(vault: FakeVault, name: str, status: str, body: bytes) -> None:
    """Any JSON from any endpoint leads to success or to one of keyvouch's errors."""
    endpoint, operation = OPERATIONS[name]
    vault.overrides = {endpoint: (status, body)}
    raised_error(vault, operation)


def test_malformed_signatures(vault: FakeVault) -> None:
    """Anything other than `vault:v1:base64` is not a signature."""
    for text in ("", "vault", "vault:v1", "vault:v1:a:b", "vault:v1:\u20ac", "vault:v1:abcde", "vault:v2:c2ln"):
        vault.overrides["sign"] = "200 OK", json.dumps({"data": {"signature": text}}).encode()
        error = raised_error(vault, signing)
        assert error is not None
        assert error.try_next_key


def test_unsuitable_wrapping_keys(vault: FakeVault) -> None:
    """No key is wrapped with a wrapping key that is too short or not RSA."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - must be refused
    for public in (short.public_key(), make_key("P-256").public_key()):
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        vault.bodies["wrapping_key"] = {"data": {"public_key": pem}}
        with pytest.raises(StoreUnavailable, match="wrapping key"):
            importing(vault)
    assert "import" not in vault.requested


def test_digest_in_the_uri_is_enforced(vault: FakeVault, key: rsa.RSAPrivateKey) -> None:
    """Without `spki-sha256`, whatever responds in place of Vault chooses the key; with it, no other key is opened."""
    for version in ("", ";version=1"):
        text = uri_text(vault).replace("key=app", f"key=app{version}")
        with keyvouch.open_signer(text) as signer:
            assert signer.public_key == key.public_key()
        for digest in ("0" * 64, spki_sha256(make_key("RSA-2048").public_key())):
            with pytest.raises(KeyChanged):
                keyvouch.open_signer(text.replace("?", f";spki-sha256={digest}?"))
