"""Each row of the table in docs/stores/azure-keyvault.md: the service's response, and the error that is raised."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import assert_raises, connected_store, opened_key, parse_uri
from keyvouch.algorithms import find_algorithm
from keyvouch.errors import (
    AccessDenied,
    AlgorithmUnsupported,
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
    SecretIncorrect,
    SecretRequired,
    StoreUnavailable,
    Throttled,
)
from keyvouch.store import KeySpec
from keyvouch_azure_keyvault.testing import Body, Cut, Drop, Fault, Refusal, Stall, refusals

PAGE = Path(__file__).parents[3] / "docs" / "stores" / "azure-keyvault.md"
PS256 = find_algorithm("PS256")


def signing(vault: Vault, *troubles: Refusal | Fault) -> object:
    with opened_key(vault.uri("certificate=errors")) as key:
        vault.fail("keys/sign", *troubles)
        return key.sign(b"x", PS256, timeout=1)


def signing_with_disabled_key(vault: Vault) -> object:
    uri = vault.make("errors-disabled", "P-256")
    with opened_key(uri) as key:
        vault.keys["errors-disabled"].newest.enabled = False
        return key.sign(b"x", find_algorithm("ES256"), timeout=10)


def signing_with_deleted_key(vault: Vault) -> object:
    uri = vault.make("errors-deleted", "P-256") + "&purge=true"
    with connected_store(uri) as store:
        key = store.open(parse_uri(uri), timeout=10)
        store.delete(key.uri)
        return key.sign(b"x", find_algorithm("ES256"), timeout=10)


def connecting(vault: Vault, *troubles: Refusal | Fault) -> object:
    vault.fail("keys/list", *troubles)
    return keyvouch.open_signer(vault.uri("certificate=errors"), timeout=10)


def connecting_unauthorised(vault: Vault) -> object:
    vault.disturb = lambda _: vault.unauthorised()
    try:
        return connecting(vault)
    finally:
        vault.disturb = lambda _: None


def opening_missing(vault: Vault) -> object:
    return keyvouch.open_signer(vault.uri("certificate=nowhere"))


def creating(vault: Vault, *troubles: Refusal | Fault) -> object:
    uri = parse_uri(vault.uri("certificate=errors-made"))
    with connected_store(str(uri)) as store:
        vault.fail("certificates/create", *troubles)
        return store.generate(uri, KeySpec("P-256"))


def creating_with_deleted_name(vault: Vault) -> object:
    uri = parse_uri(vault.make("errors-reused", "P-256"))
    with connected_store(str(uri)) as store:
        store.delete(store.open(uri, timeout=10).uri)
        return store.generate(uri, KeySpec("P-256"))


def connecting_without_ca(vault: Vault) -> object:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            patch.delenv(name, raising=False)
        bare = vault.uri("certificate=errors").replace(f"&ca-file={vault.ca_file}", "")
        return keyvouch.open_signer(bare, timeout=5)


def connecting_without_credential(vault: Vault) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AZURE_CLIENT_CERTIFICATE_PATH")
        return keyvouch.open_signer(vault.uri("certificate=errors"), timeout=5)


def connecting_unregistered(vault: Vault) -> object:
    certificate = vault.app.certificates[0]
    vault.app.remove_certificate(certificate)
    try:
        return keyvouch.open_signer(vault.uri("certificate=errors"), timeout=5)
    finally:
        vault.app.add_certificate(certificate)


@dataclass(frozen=True)
class Case:
    """A case for a row of the table: the operation, the responses, and the error that is raised."""

    row: str
    """The row's first cell."""
    do: Callable[..., object]
    kind: type[KeyvouchError]
    hint: str
    """A part of the hint."""
    responses: tuple[Refusal | Fault, ...] = ()


REDIRECT = Refusal(307, "Moved", "elsewhere", headers={"Location": "https://example.invalid/"})
UNKNOWN_VERSION = refusals.bad("The specified version (7.4) is not recognized.")
PAGE_OF_GATEWAY = b"<html><body>Blocked</body></html>"
ASK_ROLE = f'Run: az role assignment create --role "Key Vault Crypto User" --assignee {refusals.CALLER}'
CASES = (
    Case("401, twice", connecting_unauthorised, AccessDenied, "tenant, and this machine's clock"),
    Case("403 `ForbiddenByRbac`", signing, AccessDenied, ASK_ROLE, (refusals.missing_role("keys/sign"),)),
    Case(
        "403 `ForbiddenByPolicy`",
        signing,
        AccessDenied,
        f"Run: az keyvault set-policy --name VAULT --key-permissions sign --object-id {refusals.CALLER}",
        (refusals.missing_policy("keys/sign"),),
    ),
    *(
        Case("403 `ForbiddenByFirewall`", do, AccessDenied, "az keyvault network-rule add", (refusals.firewall(),))
        for do in (signing, connecting)
    ),
    *(
        Case("403 `ForbiddenByConnection`", do, AccessDenied, "private endpoint", (refusals.private_link(),))
        for do in (signing, connecting)
    ),
    Case("403, disabled key", signing_with_disabled_key, KeyUnusable, "set-attributes --enabled true"),
    Case("403, expired key", signing, KeyUnusable, "keyvouch new --further", (refusals.expired(),)),
    Case("403, key not yet valid", signing, KeyUnusable, "Wait until it is", (refusals.not_yet_valid(),)),
    Case("404", opening_missing, KeyNotFound, "keyvouch keys"),
    Case("404", signing_with_deleted_key, KeyUnusable, "recover"),
    Case("409, soft-deleted name", creating_with_deleted_name, KeyExists, "recover --name errors-reused"),
    Case("409, other", creating, Throttled, "later", (refusals.being_changed("errors-made"),)),
    Case("400, unknown API version", signing, ConfigurationError, "api-version=", (UNKNOWN_VERSION,)),
    Case("400 when signing", signing, AlgorithmUnsupported, "algorithm", (refusals.invalid("alg"),)),
    Case("400, other", creating, NotSupported, "another type", (refusals.bad("Invalid kty value: EC"),)),
    Case("429, with or without `Retry-After`", signing, Throttled, "reuse", (refusals.throttled(),)),
    Case("429, with or without `Retry-After`", signing, Throttled, "reuse", (refusals.throttled(300),)),
    *(
        Case("5xx, dropped connection, no response", signing, StoreUnavailable, hint, (response,))
        for response, hint in (
            (refusals.failing(500), "later"),
            (refusals.failing(503), "later"),
            (refusals.failing(504), "later"),
            (Drop(), "network"),
            (Cut(), "network"),
            (Stall(), "later"),
        )
    ),
    Case("a gateway's or another server's 403", signing, AccessDenied, "gateway", (Body(PAGE_OF_GATEWAY, 403),)),
    Case("a gateway's or another server's 404", signing, StoreUnavailable, "vault=", (Body(PAGE_OF_GATEWAY, 404),)),
    *(
        Case("any other response that is not Key Vault's", signing, StoreUnavailable, "gateway", (body,))
        for body in (Body(PAGE_OF_GATEWAY), Body(PAGE_OF_GATEWAY, 400), Body(PAGE_OF_GATEWAY, 502))
    ),
    Case("redirect", signing, StoreUnavailable, "own URL", (REDIRECT,)),
    Case("untrusted TLS certificate", connecting_without_ca, ConfigurationError, "ca-file="),
    Case("no credential", connecting_without_credential, SecretRequired, "AZURE_CLIENT_ID"),
    Case("refusal by the authority", connecting_unregistered, SecretIncorrect, "AZURE_CLIENT_CERTIFICATE_PATH"),
)


@pytest.fixture(autouse=True)
def existing_key(vault: Vault) -> None:
    if "errors" not in vault.keys:
        vault.make("errors")


def documented_errors() -> dict[str, set[str]]:
    """Return the table: the first cell of each row, and the error codes in the second."""
    section = PAGE.read_text(encoding="utf-8").partition("| the service's response |")[2].partition("\n\n")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines()[2:]]
    return {row[0].strip(): {*re.findall(r"\[`([a-z-]+)`\]", row[1])} for row in rows}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}: {case.do.__name__}")
def test_each_response_raises_its_error(vault: Vault, case: Case) -> None:
    """Each response raises its own error, which says what to do."""
    try:
        assert case.hint in assert_raises(case.kind, lambda: case.do(vault, *case.responses)).hint
    finally:
        vault.resume()


def test_every_row_has_a_case() -> None:
    """The page has exactly these rows, and each lists the errors that its cases raise."""
    covered: dict[str, set[str]] = {}
    for case in CASES:
        covered.setdefault(case.row, set()).add(case.kind.code)
    assert covered == documented_errors()


@pytest.mark.parametrize(
    ("permission", "option"),
    [
        ("keys/sign", "--key-permissions sign"),
        ("keys/get", "--key-permissions get"),
        ("certificates/get", "--certificate-permissions get"),
        ("certificates/list", "--certificate-permissions list"),
    ],
)
def test_policy_hint_is_for_the_refused_permission(vault: Vault, permission: str, option: str) -> None:
    """The permission in the hint is the one that the service names, whatever the operation began with."""
    try:
        error = assert_raises(AccessDenied, lambda: creating(vault, refusals.missing_policy(permission)))
    finally:
        vault.resume()
    assert error.hint == f"Run: az keyvault set-policy --name VAULT {option} --object-id {refusals.CALLER}"


def test_unknown_caller_is_a_placeholder(vault: Vault) -> None:
    """If the service does not say who was refused, the hint has a placeholder."""
    refusal = Refusal(403, "Forbidden", "No permission.", "ForbiddenByPolicy")
    try:
        error = assert_raises(AccessDenied, lambda: signing(vault, refusal))
    finally:
        vault.resume()
    assert error.hint == "Run: az keyvault set-policy --name VAULT --key-permissions sign --spn CLIENT-ID"


def test_refusal_contains_the_aadsts_code(vault: Vault) -> None:
    """The error contains AADSTS700027, which means that the certificate is not registered."""
    assert "AADSTS700027" in assert_raises(SecretIncorrect, lambda: connecting_unregistered(vault)).message


def test_401_is_hidden_by_a_new_log_in(vault: Vault) -> None:
    """After the SDK's own retry, the core logs in again, and the caller gets a signature."""
    with keyvouch.open_signer(vault.uri("certificate=errors")) as signer:
        vault.fail("keys/sign", vault.unauthorised(), vault.unauthorised())
        assert signer.sign(b"x", "PS256", timeout=10)
