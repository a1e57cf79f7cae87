"""Servers that speak the Key Vault protocol and differ from the service: emulators, gateways and old installations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import keyvouch
from azure_simulator import Vault, running
from bare_azure_store import assert_raises, connected_store, opened_key, parse_uri
from keyvouch.algorithms import find_algorithm
from keyvouch.errors import (
    AccessDenied,
    ConfigurationError,
    KeyvouchError,
    NotSupported,
    SessionLost,
    StoreUnavailable,
    Throttled,
)
from keyvouch.store import KeySpec
from keyvouch_azure_keyvault.testing import Body
from keyvouch_azure_keyvault.testing.certificate_endpoints import CertificateEndpoints
from keyvouch_azure_keyvault.testing.protocol import API_VERSIONS
from keyvouch_azure_keyvault.uri_attributes import DEFAULT_API_VERSION

ES256 = find_algorithm("ES256")
OLD = ("7.4", "7.5", "7.6", "2025-07-01")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    """A server whose newest API version is 2025-07-01, and which creates certificates at once."""
    with running(tmp_path_factory.mktemp("old"), api_versions=OLD, creates_at_once=True) as vault:
        yield vault


# The version of the API


def test_default_api_version(old: Vault) -> None:
    """Opening, listing and signing request an API version that older servers support, whatever the SDK's default is."""
    uri = old.make("plain", "P-256")
    with connected_store(uri) as store:
        assert [each.uri.get("certificate") for each in store.keys(parse_uri(uri))] == ["plain"]
    with keyvouch.open_signer(uri) as signer:
        assert signer.sign(b"x", "ES256")
    assert DEFAULT_API_VERSION in OLD


@pytest.mark.parametrize("version", ["7.5", "2025-07-01"])
def test_api_version_attribute(tmp_path: Any, version: str) -> None:
    """`api-version=` is sent with each request, also by `keyvouch new` and when signing."""
    with running(tmp_path, api_versions=[version]) as vault:
        uri = parse_uri(vault.uri("certificate=made", f"&api-version={version}"))
        with connected_store(str(uri)) as store:
            made = store.generate(uri, KeySpec("P-256"))
            assert made.get("api-version") == version
            assert store.open(made, timeout=10).sign(b"x", ES256, timeout=10)


@pytest.mark.parametrize("version", ["9.9", "2026-04-01", "2030-01-01-preview"])
def test_unsupported_api_version(old: Vault, version: str) -> None:
    """The error names the version that was sent, the server's reason, and the attribute to set."""
    uri = old.uri("certificate=plain", f"&api-version={version}")
    error = assert_raises(ConfigurationError, lambda: keyvouch.open_signer(uri, timeout=5))
    assert f"API version {version}" in error.message
    assert "2025-07-01" in error.message
    assert "api-version=" in error.hint


@pytest.mark.parametrize("value", ["", "latest", "7", "7.4%26x=1", "7.4%20", "2025-7-1", "v7.4", "7.4%0A"])
def test_invalid_api_version(old: Vault, value: str) -> None:
    """A value that is not a version is refused before anything is sent."""
    before = len(old.calls)
    with pytest.raises(ConfigurationError, match="api-version"):
        keyvouch.open_signer(old.uri("certificate=plain", f"&api-version={value}"))
    assert len(old.calls) == before


def test_all_api_versions_of_the_service(tmp_path: Any) -> None:
    """Each of the service's API versions can be requested."""
    with running(tmp_path) as vault:
        vault.make("app", "P-256")
        for version in API_VERSIONS:
            with opened_key(vault.uri("certificate=app", f"&api-version={version}")) as key:
                assert key.sign(b"x", ES256, timeout=10)


# Creations that are completed at once


def test_creation_completed_at_once(old: Vault) -> None:
    """A creation whose response is `completed` succeeds and makes one version; `--further` makes the next one."""
    uri = parse_uri(old.uri("certificate=instant"))
    with connected_store(str(uri)) as store:
        first = store.generate(uri, KeySpec("P-256"))
        second = store.generate(uri, KeySpec("P-256", further=True))
        found = [each.version for each in old.keys["instant"].versions]
        assert [first.get("version"), second.get("version")] == found
        assert store.open(second, timeout=10).sign(b"x", ES256, timeout=10)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "changes",
    [{"csr": None}, {"csr": ""}, {"csr": "bm90IGEgcmVxdWVzdA=="}, {"status": "Completed"}],
    ids=["no request", "empty request", "placeholder", "capital letter"],
)
def test_completed_operation_of_an_emulator(
    old: Vault, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], *, at_once: bool
) -> None:
    """The new version is found without the operation's request, and however the status is spelled."""
    describe = CertificateEndpoints._describe_pending
    if not at_once:
        monkeypatch.setattr(CertificateEndpoints, "_create", _create_in_progress(CertificateEndpoints._create))

    def describe_as_emulator(self: Any, call: Any, pending: Any) -> dict[str, Any]:
        found = describe(self, call, pending)
        return {**found, **changes} if found["status"] == "completed" else found

    monkeypatch.setattr(CertificateEndpoints, "_describe_pending", describe_as_emulator)
    name = f"emulated-{abs(hash((str(changes), at_once)))}"
    uri = parse_uri(old.uri(f"certificate={name}"))
    with connected_store(str(uri)) as store:
        for number in range(2):
            made = store.generate(uri, KeySpec("P-256", further=number > 0))
            assert made.get("version") == old.keys[name].newest.version
            assert len(old.keys[name].versions) == number + 1


def _create_in_progress(create: Any) -> Any:
    def create_later(self: Any, call: Any) -> Any:
        self._creates_at_once = False
        try:
            return create(self, call)
        finally:
            self._creates_at_once = True

    return create_later


def test_operation_that_is_gone(old: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that keeps no completed operations has created the certificate nevertheless."""
    monkeypatch.setattr(CertificateEndpoints, "_get_pending", CertificateEndpoints._delete_pending)
    uri = parse_uri(old.uri("certificate=gone"))
    with connected_store(str(uri)) as store:
        store.generate(uri, KeySpec("P-256"))
        made = store.generate(uri, KeySpec("P-256", further=True))
    assert made.get("version") == old.keys["gone"].newest.version


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_failed_creation(old: Vault, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """A creation that ends in another status is an error with the server's reason."""
    describe = CertificateEndpoints._describe_pending
    failure = {"status": status, "error": {"code": "Bad", "message": "the issuer refused"}}
    monkeypatch.setattr(CertificateEndpoints, "_describe_pending", lambda *what: describe(*what) | failure)
    uri = parse_uri(old.uri(f"certificate={status}"))
    with connected_store(str(uri)) as store:
        error = assert_raises(NotSupported, lambda: store.generate(uri, KeySpec("P-256")))
    assert "the issuer refused" in error.message


# Responses that are not the service's


ERRORS = {
    400: StoreUnavailable,
    401: SessionLost,
    403: AccessDenied,
    404: StoreUnavailable,
    405: StoreUnavailable,
    409: Throttled,
    418: StoreUnavailable,
    429: Throttled,
    500: StoreUnavailable,
    502: StoreUnavailable,
}
TEXTS = {
    "html": (
        "text/html",
        b"<!doctype html><title>gateway</title><style>p{}</style><body><h1>Route &amp; host unknown</h1></body>",
    ),
    "text": ("text/plain", b"Route & host unknown\r\n"),
    "string": ("application/json", b'"Route & host unknown"'),
}
OBJECTS = {
    "message": ("application/json", b'{"message": "Route & host unknown", "path": "/keys"}'),
    "problem": (
        "application/problem+json",
        b'{"type": "about:blank", "title": "Bad", "detail": "Route & host unknown"}',
    ),
    "error": ("application/json", b'{"error": "Route & host unknown"}'),
}


@pytest.mark.parametrize(
    ("status", "kind", "content_type", "body"),
    [
        *((200, StoreUnavailable, *text) for text in TEXTS.values()),  # an object is judged by its fields
        *((*each, *text) for each in ERRORS.items() for text in (TEXTS | OBJECTS).values()),
    ],
)
def test_responses_without_the_service_json(
    old: Vault, status: int, kind: type[KeyvouchError], content_type: str, body: bytes
) -> None:
    """The error of a gateway's or another server's response has its status and its text, on one line."""
    old.make("plain", "P-256")
    with opened_key(old.uri("certificate=plain")) as key:
        old.disturb = lambda _: Body(body, status, content_type)
        try:
            error = assert_raises(kind, lambda: key.sign(b"x", ES256, timeout=5))
        finally:
            old.disturb = lambda _: None
    assert f"HTTP status {status}" in error.message
    assert "Route & host unknown" in error.message
    assert "\n" not in error.message
    assert "<" not in error.message
    assert error.hint


def test_gateway_refusal_is_not_a_missing_role(old: Vault) -> None:
    """A gateway's 403 neither proves the login nor suggests a role assignment."""
    old.fail("keys/list", Body(b"<h1>Blocked</h1>", 403, "text/html"))
    uri = old.make("plain", "P-256")
    error = assert_raises(AccessDenied, lambda: keyvouch.open_signer(uri, timeout=5))
    assert "Blocked" in error.message
    assert "az role" not in error.hint


def test_text_of_a_response_shows_no_secret(old: Vault) -> None:
    """A page that repeats the request's token, or contains terminal escapes, is quoted without them."""
    token = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9." + "a" * 300
    page = f"Denied\x1b[2J\x07 for Bearer {token}".encode()
    uri = old.make("plain", "P-256")
    with opened_key(uri) as key:
        old.fail("keys/sign", Body(page, 403, "text/plain"))
        error = assert_raises(AccessDenied, lambda: key.sign(b"x", ES256, timeout=5))
    assert "Denied" in error.message
    assert "eyJ" not in error.message
    assert error.message.isprintable()


def test_empty_response(old: Vault) -> None:
    """A response without a body is reported by its status."""
    uri = old.make("plain", "P-256")
    with opened_key(uri) as key:
        old.fail("keys/sign", Body(b"", 404))
        error = assert_raises(StoreUnavailable, lambda: key.sign(b"x", ES256, timeout=5))
    assert "HTTP status 404" in error.message
