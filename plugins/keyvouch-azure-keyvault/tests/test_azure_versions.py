"""How the SDK's objects are read, and which of them are refused."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any, cast

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.keyvault.certificates import CertificatePolicyAction, KeyType, WellKnownIssuerNames

from keyvouch.errors import KeyUnusable, StoreUnavailable
from keyvouch_azure_keyvault import key_versions
from keyvouch_azure_keyvault.uri_attributes import KeyLocation

VERSION = "0123456789abcdef0123456789abcdef"
NOW = dt.datetime.now(dt.UTC)
LOCATION = KeyLocation("https://contoso.vault.azure.net", is_certificate=True, name="app", version=None)


def properties(**changes: object) -> Any:
    given: dict[str, object] = {
        "version": VERSION,
        "enabled": True,
        "created_on": NOW,
        "not_before": None,
        "expires_on": None,
        "exportable": False,
    }
    return SimpleNamespace(**{**given, **changes})


def test_properties_are_read() -> None:
    """Properties are read, and some may be missing."""
    assert key_versions.read_properties(properties()) == key_versions.VersionProperties(VERSION, True, NOW, None, None)
    assert key_versions.read_properties(properties(enabled=None)).enabled is False
    assert key_versions.read_properties(properties(enabled="true")).enabled is False


@pytest.mark.parametrize("version", [None, "", "1", VERSION + "0", 5, [VERSION], VERSION[:-1] + "\n"])
def test_invalid_versions(version: object) -> None:
    """A version has 32 hexadecimal digits."""
    with pytest.raises(StoreUnavailable) as caught:
        key_versions.read_properties(properties(version=version))
    assert "None" not in str(caught.value)


@pytest.mark.parametrize("name", ["created_on", "not_before", "expires_on"])
@pytest.mark.parametrize(
    "value", [5, "2024-01-01", NOW.replace(tzinfo=None), NOW.replace(year=1969), NOW.replace(year=2901), []]
)
def test_invalid_times(name: str, value: object) -> None:
    """A time has a time zone, and can be added to."""
    with pytest.raises(StoreUnavailable):
        key_versions.read_properties(properties(**{name: value}))


def policy_of(**given: object) -> key_versions.PolicySettings:
    given = {"issuer_name": "Self", "exportable": False, "lifetime_actions": [], "key_type": "RSA", **given}
    found = SimpleNamespace(**given)
    client = SimpleNamespace(get_certificate_policy=lambda _: found)
    return key_versions.fetch_policy(cast("Any", SimpleNamespace(certificates=client)), LOCATION)


RENEWS = [SimpleNamespace(action=CertificatePolicyAction.auto_renew)]
WRITES = [SimpleNamespace(action=CertificatePolicyAction.email_contacts)]


def test_advice_on_renewal() -> None:
    """Only a certificate that the vault renews on its own has the advice, which names vault and certificate."""
    (advice,) = policy_of(lifetime_actions=[*WRITES, *RENEWS]).advice
    assert "--vault-name contoso --name app" in advice
    assert policy_of(lifetime_actions=WRITES).advice == ()
    assert policy_of(lifetime_actions=None).advice == ()
    assert policy_of(lifetime_actions=RENEWS, issuer_name=WellKnownIssuerNames.unknown).advice == ()


@pytest.mark.parametrize(("given", "read"), [(True, True), (False, False), (None, None), ("yes", None)])
def test_exportable(given: object, read: object) -> None:
    """Whether a key is exportable may be unknown."""
    assert policy_of(exportable=given).exportable is read


@pytest.mark.parametrize(
    ("given", "read"), [(KeyType.rsa_hsm, True), (KeyType.ec, False), ("EC-HSM", True), (None, None), ("", None)]
)
def test_protection_by_an_hsm(given: object, read: object) -> None:
    """Whether an HSM protects the keys may be unknown."""
    assert policy_of(key_type=given).hsm is read


def listed(error: ResourceNotFoundError) -> object:
    def raises(_: str) -> Any:
        raise error

    client = SimpleNamespace(list_properties_of_certificate_versions=raises)
    return key_versions.list_versions(cast("Any", SimpleNamespace(certificates=client)), LOCATION)


def test_missing_names() -> None:
    """The service's own 404 is an empty list; another server's is an error."""
    own = ResourceNotFoundError("no")
    own.error = cast("Any", SimpleNamespace(code="CertificateNotFound"))
    assert listed(own) == []
    with pytest.raises(ResourceNotFoundError):
        listed(ResourceNotFoundError("no"))


def key(**changes: object) -> Any:
    jwk = SimpleNamespace(crv=None, e=b"\1\0\1", n=b"\xc1" + b"\1" * 255, x=None, y=None)
    given = {"name": "app", "key_type": "RSA", "key": jwk, "key_operations": ["sign"], "properties": properties()}
    return SimpleNamespace(**{**given, **changes})


def test_keys_are_read() -> None:
    """A key can sign if its operations include that, or if it lists none."""
    assert key_versions.read_key(key()).version == VERSION
    assert key_versions.read_key(key(key_operations=None)).exportable is False
    assert key_versions.read_key(key(properties=properties(exportable=True))).exportable is True


@pytest.mark.parametrize(
    "changes",
    [
        {"key_operations": ["verify"]},
        {"key_operations": []},
        {"key_type": None},
        {"key_type": "oct"},
        {"key_type": "EC"},
        {"key": SimpleNamespace(crv=None, e=None, n=None)},
        {"key": SimpleNamespace(crv=None, e=b"", n=b"")},
        {"key_type": "EC", "key": SimpleNamespace(crv="P-256", x=b"\1", y=b"\1")},
        {"key_type": "EC", "key": SimpleNamespace(crv="P-256K", x=b"\1", y=b"\1")},
    ],
)
def test_keys_that_cannot_sign(changes: dict[str, object]) -> None:
    """Keys of other types, for other operations, or damaged are refused, and no message contains None."""
    with pytest.raises(KeyUnusable) as caught:
        key_versions.read_key(key(**changes))
    assert caught.value.hint
    assert "None" not in str(caught.value)


def test_pending_certificate() -> None:
    """A certificate that is still pending has no key to sign with."""
    with pytest.raises(KeyUnusable, match="pending"):
        key_versions._read_certificate(SimpleNamespace(cer=None, name="app", properties=properties()))
