"""A key in the vault, opened with another profile's token: `auth=profile`."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import RESOURCE, Vault
from bare_azure_store import assert_raises, parse_uri
from keyvouch.errors import AccessDenied, SecretRequired
from keyvouch.https import Limits
from keyvouch.secrets import AccessToken, SecretResolver
from keyvouch.testing.authority import App, Authority
from keyvouch_azure_keyvault import credentials
from keyvouch_azure_keyvault.testing import Refusal
from keyvouch_azure_keyvault.transports import PoolTransport
from servers.oidc import OidcProvider
from signing_in import make_key, sign_in, write_profile

SCOPE = f"{RESOURCE}/.default"
CLAIMS = '{"access_token": {"nbf": {"essential": true, "value": "1700000000"}}}'

Profile = Callable[..., App]


@pytest.fixture
def profile(vault: Vault, own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Return a function that writes the profile `nightly`, with a key in a file, for an app of this tenant."""

    def write(tenant: str | None = None, **fields: object) -> App:
        key = make_key(own_folders)
        app = vault.authority.register(tenant=tenant, certificates=[key.certificate])
        path = write_profile(own_folders, vault.authority, app, [key.uri], **fields)
        path.chmod(0o600)
        monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))
        return app

    return write


def by_profile(uri: str) -> str:
    return uri.replace("auth=environment", "auth=profile&profile=nightly")


@pytest.mark.parametrize(("kind", "algorithm"), [("RSA-2048", "PS256"), ("P-256", "ES256")])
def test_unmodified_msal_signs_in(
    vault: Vault, profile: Profile, oidc_provider: OidcProvider, kind: str, algorithm: str
) -> None:
    """MSAL gets a token with a key in a vault, which is itself opened with a token that a key in a file signed for."""
    reader = profile()
    with keyvouch.open_signer(by_profile(vault.make(f"msal-{algorithm}", kind))) as signer:
        opened = vault.authority.exchanges[-1]
        assert (opened.client_id, opened.form["scope"], opened.status) == (reader.client_id, SCOPE, 200)
        before = vault.count("POST keys/sign")
        with Authority(algorithms=[algorithm]) as authority:
            sign_in(signer, authority, oidc_provider, algorithm)
        assert vault.count("POST keys/sign") == before + 2
    assert not [each for each in vault.calls if "secrets" in each]  # no key is downloaded


def test_vault_refuses_a_token_of_another_authority(
    vault: Vault, own_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault checks who signed the token: it refuses one from another authority, even for the same tenant."""
    key = make_key(own_folders)
    with Authority() as forger:
        app = forger.register(tenant=vault.authority.tenant, certificates=[key.certificate])
        monkeypatch.setenv("KEYVOUCH_CONFIG", str(write_profile(own_folders, forger, app, [key.uri])))
        uri = by_profile(vault.make("forged", "P-256"))
        with pytest.raises(keyvouch.KeyvouchError, match="rejected the token"):
            keyvouch.open_signer(uri, timeout=10)
        assert forger.exchanges[-1].status == 200


@pytest.mark.parametrize("named", ["id", "domain"])
def test_profile_in_the_vaults_tenant(vault: Vault, profile: Profile, named: str) -> None:
    """A profile in the vault's tenant is accepted, whether the tenant is given as an id or as a domain name."""
    profile(**({} if named == "id" else {"tenant": "contoso.onmicrosoft.com"}))
    with keyvouch.open_signer(by_profile(vault.make("tenant", "P-256"))) as signer:
        assert signer.sign(b"x", "ES256")


def test_profile_in_another_tenant_is_refused(vault: Vault, profile: Profile) -> None:
    """A profile signs in only to its own tenant, whatever tenant a vault names."""
    app = profile(tenant="fabrikam.example")
    before = len(vault.calls)
    uri = by_profile(vault.make("elsewhere", "P-256"))
    error = assert_raises(AccessDenied, lambda: keyvouch.open_signer(uri, timeout=10))
    assert vault.authority.tenant in error.message
    assert "for the vault's tenant" in error.hint
    assert {each.tenant for each in vault.authority.exchanges if each.client_id == app.client_id} == {app.tenant}
    assert len(vault.calls) == before


def test_recovers_from_another_tenants_challenge(vault: Vault, profile: Profile) -> None:
    """A vault that briefly names another tenant does not lock out the right one permanently."""
    profile()
    moved = f'Bearer authorization="{vault.authority.url}/fabrikam.example", resource="{RESOURCE}"'
    refusal = Refusal(401, "Unauthorized", "AKV10032: Invalid issuer.", headers={"WWW-Authenticate": moved})
    with keyvouch.open_signer(by_profile(vault.make("moved", "P-256"))) as signer:
        for times in (1, 2):
            vault.fail("keys/sign", *[refusal] * times)
            assert signer.sign(b"x", "ES256")


def test_claims_challenge_fetches_a_new_token(vault: Vault, profile: Profile) -> None:
    """Claims in a challenge (CAE) bypass the cache and reach the authority, and the caller does not notice."""
    profile()
    encoded = base64.urlsafe_b64encode(CLAIMS.encode()).decode()
    demand = (
        f'Bearer authorization="{vault.authority.authority}", resource="{RESOURCE}", error="insufficient_claims",'
        f' claims="{encoded}"'
    )
    with keyvouch.open_signer(by_profile(vault.make("claims", "P-256"))) as signer:
        assert _claims(vault) == {"access_token": {"xms_cc": {"values": ["CP1"]}}}
        before = len(vault.authority.exchanges)
        vault.fail("keys/sign", Refusal(401, "Unauthorized", "AKV10144", headers={"WWW-Authenticate": demand}))
        assert signer.sign(b"x", "ES256")
        assert len(vault.authority.exchanges) == before + 1
        wanted = json.loads(CLAIMS)
        wanted["access_token"]["xms_cc"] = {"values": ["CP1"]}
        assert _claims(vault) == wanted
        signer.sign(b"x", "ES256")
        assert len(vault.authority.exchanges) == before + 1


def _claims(vault: Vault) -> Any:
    return json.loads(vault.authority.exchanges[-1].form["claims"])


def test_revoked_token_is_not_reused(vault: Vault, profile: Profile) -> None:
    """A token that is refused before it expires is replaced, even though it is still in the profile's cache."""
    profile()
    uri = by_profile(vault.make("revoked", "P-256"))
    with keyvouch.open_signer(uri) as signer:
        before = len(vault.authority.exchanges)
        vault.revoke_tokens()
        assert signer.sign(b"x", "ES256")
        assert len(vault.authority.exchanges) == before + 1
    vault.revoke_tokens()
    with keyvouch.open_signer(uri) as signer:
        assert signer.sign(b"x", "ES256")
    assert len(vault.authority.exchanges) == before + 2


def test_refused_profile_is_one_error(vault: Vault, profile: Profile) -> None:
    """The error contains what the authority says about the profile's own key, with its code."""
    app = profile()
    app.remove_certificate(app.certificates[0])
    uri = by_profile(vault.make("refused", "P-256"))
    error = assert_raises(SecretRequired, lambda: keyvouch.open_signer(uri, timeout=10))
    assert "'nightly'" in error.message
    assert "AADSTS700027" in error.message


def test_expiry_is_the_tokens_own(vault: Vault, profile: Profile) -> None:
    """The SDK gets the token's real expiry."""
    profile()
    log_in = _log_in(vault, SecretResolver(sign_in=keyvouch.entra.profile.sign_in))
    info = log_in.get_token_info(SCOPE, options={"tenant_id": vault.authority.tenant, "enable_cae": True})
    expiry = jwt.decode(info.token, options={"verify_signature": False})["exp"]
    assert expiry - 5 <= info.expires_on <= expiry


def test_token_is_renewed_before_it_expires(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is due is requested again, some seconds apart rather than each time; others are kept."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(credentials, "time", SimpleNamespace(time=lambda: now[0]))
    asked: list[float] = []

    def sign(*_: object, **__: object) -> AccessToken:
        asked.append(now[0])
        # The authority fails to renew the second token: it is returned again, although it is due.
        begun = asked[1] if len(asked) == 3 else now[0]
        return AccessToken(f"token-{begun}", int(begun) + 7200, int(begun) + 3600)

    log_in = _log_in(vault, SecretResolver(sign_in=sign))
    options = {"tenant_id": vault.authority.tenant}
    for later in (0, 3500, 200, 3650, 1, 5):
        now[0] += later
        assert log_in.get_token_info(SCOPE, options=options).expires_on > now[0]  # type: ignore[arg-type]
    assert [moment - 1_700_000_000 for moment in asked] == [0, 3700, 7350, 7356]


def test_token_without_refresh_on_is_renewed_before_it_expires(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the authority names no time for renewal, it is five minutes before the token expires."""
    now = [1_700_000_000.0]
    monkeypatch.setattr(credentials, "time", SimpleNamespace(time=lambda: now[0]))
    asked: list[float] = []

    def sign(*_: object, **__: object) -> AccessToken:
        asked.append(now[0])
        return AccessToken("token", int(now[0]) + 3600)

    log_in = _log_in(vault, SecretResolver(sign_in=sign))
    for later in (0, 3200, 200):
        now[0] += later
        log_in.get_token(SCOPE)
    assert [moment - 1_700_000_000 for moment in asked] == [0, 3400]


def _log_in(vault: Vault, secrets: SecretResolver) -> credentials.VaultCredential:
    uri, limits = parse_uri(by_profile(vault.uri("certificate=app"))), Limits()
    return credentials.VaultCredential(uri, secrets, PoolTransport(uri, limits), limits)


def test_log_holds_no_secret(vault: Vault, profile: Profile, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that any library logs, at any level, contains a token or an assertion."""
    profile()
    caplog.set_level(logging.DEBUG)
    given: list[str] = []
    original = credentials.VaultCredential.get_token_info

    def record(*args: Any, **options: Any) -> Any:
        given.append((info := original(*args, **options)).token)
        return info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials.VaultCredential, "get_token_info", record)
        uri = by_profile(vault.make("logged", "P-256"))
        with keyvouch.open_signer(uri) as signer:
            signer.sign(b"x", "ES256")
            vault.revoke_tokens()
            signer.sign(b"x", "ES256")
    assert len({*given}) == 2
    assert caplog.text
    for token in given:
        assert token.rpartition(".")[2] not in caplog.text
    assert "eyJ" not in caplog.text  # how every JWT begins
