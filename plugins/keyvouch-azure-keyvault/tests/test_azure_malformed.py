"""Whatever responds instead of the vault or the authority, only keyvouch's errors are raised."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keyvouch
import malformed
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import connected_store, parse_uri
from keyvouch.algorithms import find_algorithm
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import KeyvouchError, StoreUnavailable
from keyvouch.store import KeySpec, StoredKey
from keyvouch.testing.authority import Authority
from keyvouch.testing.authority.server import Response
from keyvouch.testing.throwaway import throwaway_signer
from keyvouch_azure_keyvault.store import KeyVaultStore
from keyvouch_azure_keyvault.testing import Body, Refusal
from keyvouch_azure_keyvault.testing.protocol import JsonResponse
from test_azure_sign_in import Endpoint, endpoint  # noqa: F401 - a fixture

SCOPE = "https://graph.microsoft.com/.default"
PS256 = find_algorithm("PS256")
_numbers = itertools.count(1)


@pytest.fixture
def store(vault: Vault) -> Iterator[KeyVaultStore]:
    """A connected store, so that only one request gets a malformed response."""
    if "malformed" not in vault.keys:
        vault.make("malformed")
        vault.make_key("bare")
    with connected_store(vault.uri("certificate=malformed")) as found:
        yield found


@pytest.fixture
def key(vault: Vault, store: KeyVaultStore) -> StoredKey:
    return store.open(parse_uri(vault.uri("certificate=malformed")), timeout=10)


@pytest.fixture
def operations(vault: Vault, store: KeyVaultStore, key: StoredKey) -> dict[str, Callable[[], object]]:
    certificate, bare = (parse_uri(vault.uri(each)) for each in ("certificate=malformed", "key=bare"))
    whole = parse_uri(vault.uri("certificate=malformed")).replace({"certificate": None})
    return {
        "certificates/list": lambda: store.open(certificate, timeout=10),
        "certificates/get": lambda: store.open(certificate, timeout=10),
        "keys/list": lambda: store.open(bare, timeout=10),
        "keys/get": lambda: store.open(bare, timeout=10),
        "keys/sign": lambda: key.sign(b"message", PS256, timeout=10),
        "listing": lambda: store.keys(whole),
    }


def keyvouch_error_of(operation: Callable[[], object]) -> KeyvouchError | None:
    try:
        operation()
    except KeyvouchError as error:
        return error
    return None


def call_with_response(
    vault: Vault, permission: str, body: bytes, operation: Callable[[], object], status: int = 200
) -> Any:
    """Call `operation` with `body` as the response to the next request that needs the permission."""
    vault.fail(permission, Body(body, status))
    try:
        return keyvouch_error_of(operation)
    finally:
        vault._faults.clear()


PERMISSIONS = ("certificates/list", "certificates/get", "keys/list", "keys/get", "keys/sign")


@pytest.mark.parametrize("permission", PERMISSIONS)
@pytest.mark.parametrize("status", [200, 400, 403, 404])
def test_malformed_responses(
    vault: Vault, operations: dict[str, Callable[[], object]], permission: str, status: int
) -> None:
    """Bodies that are not in Key Vault's format at all, with success and error statuses."""
    for body in malformed.WHOLE:
        error = call_with_response(vault, permission, body, operations[permission], status)
        assert error is None or error.hint, body[:40]
        if status == 200 and permission in ("keys/sign", "keys/get"):
            assert error is not None, body[:40]
            assert error.try_next_key, body[:40]


@pytest.mark.parametrize("permission", PERMISSIONS)
def test_wrong_fields(
    vault: Vault, operations: dict[str, Callable[[], object]], monkeypatch: pytest.MonkeyPatch, permission: str
) -> None:
    """Valid responses in which one field is missing or has an invalid value."""
    bodies: list[Any] = []
    original = JsonResponse.response
    operations[permission]()  # the SDK asks for a challenge once, which is not a response to this operation

    def response(self: JsonResponse) -> Response:
        bodies.append(self.body)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(JsonResponse, "response", response)
        before = len(vault.calls)
        operations[permission]()
        calls = [each.partition(" ")[2] for each in vault.calls[before:]]
    valid = dict(zip(reversed(calls), reversed(bodies), strict=True))[permission]
    for body in malformed.variants(valid):
        error = call_with_response(vault, permission, body, operations[permission])
        assert error is None or (error.hint and "None" not in error.message), body
    operations[permission]()


@pytest.mark.parametrize("permission", ["keys/list", "certificates/list", "keys/get"])
def test_malformed_listing(vault: Vault, operations: dict[str, Callable[[], object]], permission: str) -> None:
    """Malformed responses while everything in the vault is listed."""
    for body in malformed.WHOLE:
        call_with_response(vault, permission, body, operations["listing"])


def test_malformed_responses_to_changes(vault: Vault) -> None:
    """Creating a key or certificate succeeds or raises one of keyvouch's errors."""
    for permission, which in (("keys/create", "key"), ("certificates/create", "certificate")):
        with connected_store(vault.uri("certificate=malformed")) as store:
            for body in malformed.WHOLE:
                uri = parse_uri(vault.uri(f"{which}=made-{next(_numbers)}"))
                call_with_response(vault, permission, body, functools.partial(store.generate, uri, KeySpec("P-256")))


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer authorization", 'Bearer authorization="\u00fc"', "x" * 5000, 'Bearer resource="a"']
)
def test_malformed_challenges(vault: Vault, header: str) -> None:
    """Challenges that do not say which resource the token is for."""
    vault.disturb = lambda _: Refusal(401, "Unauthorized", "no", headers={"WWW-Authenticate": header})
    try:
        assert keyvouch_error_of(lambda: keyvouch.open_signer(vault.uri("certificate=malformed"), timeout=5))
    finally:
        vault.disturb = lambda _: None


TOKEN = {"token_type": "Bearer", "expires_in": 3599, "access_token": "a.b.c"}
TOKENS = (*malformed.WHOLE, *malformed.variants(TOKEN))


def test_malformed_tokens_from_the_authority(vault: Vault) -> None:
    """Whatever the authority responds, only keyvouch's errors are raised, and nothing of the response is kept."""
    for body in TOKENS:
        vault.authority._scripted.clear()
        vault.authority.answer_next(200, body, {"Content-Type": "application/json"})
        error = keyvouch_error_of(lambda: connected_store(vault.uri("certificate=malformed")).__enter__().close())
        assert error is None or error.hint, body
    vault.authority._scripted.clear()


@pytest.mark.parametrize("body", [each for each in malformed.WHOLE if len(each) < 1000] + [malformed.WHOLE[-1]])
def test_malformed_discovery(vault: Vault, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """The authority's endpoints cannot be discovered."""
    monkeypatch.setattr(Authority, "_respond", lambda *_: Response(200, body, {"Content-Type": "application/json"}))
    error = keyvouch_error_of(lambda: keyvouch.open_signer(vault.uri("certificate=malformed"), timeout=5))
    assert error
    assert error.try_next_key


def test_malformed_tokens_from_managed_identity(vault: Vault, endpoint: Endpoint) -> None:
    """The same for a machine's own token endpoint."""
    managed = vault.uri("certificate=malformed").replace("auth=environment", "auth=managed-identity")
    valid = {"access_token": "a.b.c", "expires_on": "4102444800", "resource": "r", "token_type": "Bearer"}
    for body in (*malformed.WHOLE, *malformed.variants(valid)):
        endpoint.body = body
        error = keyvouch_error_of(lambda: connected_store(managed).__enter__().close())
        assert error is None or error.hint, body


def test_standby_key_signs_in(vault: Vault, store: KeyVaultStore) -> None:
    """Whatever the preferred key's vault responds, the client signs in with its standby key."""
    with Authority(refuse_replays=False) as authority, throwaway_signer() as standby:
        app = authority.register(certificates=standby.chain)
        for permission, body in (
            ("keys/list", malformed.WHOLE[-1]),
            ("certificates/list", b'{"value": 5}'),
            ("certificates/get", b"[]"),
            ("keys/sign", b"{}"),
        ):
            responses = {permission: Body(body)}
            vault.disturb = responses.get
            with ConfidentialClient(
                app.client_id,
                [vault.uri("certificate=malformed"), standby],
                authority=authority.authority,
                ca_file=authority.ca_file,
                instance_discovery=False,
            ) as client:
                assert client.access_token([SCOPE], timeout=20)
    vault.disturb = lambda _: None


def test_response_without_a_version(vault: Vault, operations: dict[str, Callable[[], object]]) -> None:
    """A key whose identifier has no version is not opened as version None."""
    identifier = f"{vault.address}/keys/bare"
    error = call_with_response(
        vault, "keys/list", json.dumps({"value": [{"kid": identifier}]}).encode(), operations["keys/list"]
    )
    assert isinstance(error, StoreUnavailable)
    assert "None" not in str(error)


NAMES = ("value", "key", "attributes", "id", "kid", "cer", "kty", "n", "e", "enabled", "exp", "created", "error")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    permission=st.sampled_from(PERMISSIONS),
    status=st.sampled_from((200, 200, 400, 403, 404, 409, 500)),
    body=malformed.fuzzed(NAMES),
)
def test_arbitrary_json(
    vault: Vault, operations: dict[str, Callable[[], object]], permission: str, status: int, body: bytes
) -> None:
    """Any JSON from any endpoint leads to success or to one of keyvouch's errors."""
    call_with_response(vault, permission, body, operations[permission], status)
