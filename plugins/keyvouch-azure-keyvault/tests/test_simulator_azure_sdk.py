"""What the unmodified Azure SDK can do with the Key Vault simulator."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.keyvault.certificates import (
    CertificatePolicy,
    CertificatePolicyAction,
    LifetimeAction,
    WellKnownIssuerNames,
)
from azure.keyvault.keys import JsonWebKey
from azure.keyvault.keys.crypto import CryptographyClient, SignatureAlgorithm
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from keyvouch_azure_keyvault.testing import KeyVault
from keyvouch_azure_keyvault.testing.fixtures import key_vault  # noqa: F401 - a fixture
from scripted_store import is_signed
from simulator_clients import SOON, Sdk, issue, sdk_of
from testing.clients import certify, key_for

DIGESTS: dict[str, Callable[[bytes], Any]] = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


@pytest.fixture
def sdk(key_vault: KeyVault) -> Iterator[Sdk]:
    with sdk_of(key_vault) as clients:
        yield clients


def policy(issuer: str = WellKnownIssuerNames.unknown, **more: Any) -> CertificatePolicy:
    """Return a policy for a non-exportable P-256 key."""
    named = {"key_type": "EC", "key_curve_name": "P-256", "exportable": False, "subject": "CN=app"}
    return CertificatePolicy(issuer, **named | more)


class TestKeys:
    @pytest.mark.parametrize("hardware", [False, True])
    def test_rsa_key_is_created(self, sdk: Sdk, *, hardware: bool) -> None:
        """An RSA or RSA-HSM key has the requested size."""
        created = sdk.keys.create_rsa_key("app", size=3072, hardware_protected=hardware)
        assert created.key_type == ("RSA-HSM" if hardware else "RSA")
        assert len(created.key.n) * 8 == 3072
        assert created.properties.recovery_level == "Recoverable+Purgeable"

    def test_ec_key_is_created(self, sdk: Sdk) -> None:
        """An EC key is on the requested curve, and only signs and verifies."""
        created = sdk.keys.create_ec_key("app", curve="P-384")
        assert (created.key_type, created.key.crv) == ("EC", "P-384")
        assert sorted(created.key_operations) == ["sign", "verify"]

    def test_key_is_fetched_by_name_and_by_version(self, sdk: Sdk) -> None:
        """Without a version the newest is returned."""
        first, second = (sdk.keys.create_ec_key("app") for _ in range(2))
        assert sdk.keys.get_key("app").id == second.id
        assert sdk.keys.get_key("app", first.properties.version).id == first.id
        with pytest.raises(ResourceNotFoundError):
            sdk.keys.get_key("other")

    def test_listing_follows_the_pages(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """More keys and versions than fit on a page are all listed."""
        for number in range(26):
            key_vault.make_key(f"key-{number}", "P-256")
            key_vault.make_key("many", "P-256")
        names = [each.name for each in sdk.keys.list_properties_of_keys()]
        assert sorted(names) == sorted({*names})
        assert len(names) == 27
        assert len({each.version for each in sdk.keys.list_properties_of_key_versions("many")}) == 26

    @pytest.mark.parametrize(
        ("key_type", "algorithms"),
        [
            ("RSA-2048", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
            ("P-256", ["ES256"]),
            ("P-384", ["ES384"]),
            ("P-521", ["ES512"]),
        ],
    )
    def test_key_signs(self, sdk: Sdk, key_vault: KeyVault, key_type: str, algorithms: list[str]) -> None:
        """Signatures are valid, even if the SDK gets a URL and fetches the key itself."""
        public_key = key_vault.make_key("app", key_type).private_key.public_key()
        key = sdk.keys.get_key("app")
        for algorithm in algorithms:
            digest = DIGESTS[algorithm[2:]](b"message").digest()
            for of in (key, key.id):
                with CryptographyClient(of, **sdk.options) as client:
                    signature = client.sign(SignatureAlgorithm(algorithm), digest).signature
                    assert client.verify(SignatureAlgorithm(algorithm), digest, signature).is_valid
                assert is_signed(public_key, signature, b"message", algorithm)

    def test_key_is_imported(self, sdk: Sdk) -> None:
        """A private JWK is imported as a key that signs."""
        key = key_for("ES256", "imported")
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        numbers = key.private_numbers()
        point = numbers.public_numbers
        values = {"x": point.x.to_bytes(32), "y": point.y.to_bytes(32), "d": numbers.private_value.to_bytes(32)}
        created = sdk.keys.import_key("app", JsonWebKey(kty="EC", crv="P-256", key_ops=["sign"], **values))
        digest = hashlib.sha256(b"message").digest()
        signature = sdk.keys.get_cryptography_client("app").sign(SignatureAlgorithm.es256, digest).signature
        assert is_signed(key.public_key(), signature, b"message", "ES256")
        assert created.key_operations == ["sign"]

    def test_disabled_key_does_not_sign(self, sdk: Sdk) -> None:
        """A disabled key is shown, and its operations are refused until it is enabled again."""
        created = sdk.keys.create_ec_key("app")
        sdk.keys.update_key_properties("app", enabled=False, tags={"a": "b"})
        found = sdk.keys.get_key("app")
        assert (found.properties.enabled, found.properties.tags) == (False, {"a": "b"})
        client = CryptographyClient(created, **sdk.options)
        with pytest.raises(HttpResponseError, match="not allowed on a disabled key"):
            client.sign(SignatureAlgorithm.es256, bytes(32))
        sdk.keys.update_key_properties("app", created.properties.version, enabled=True)
        assert client.sign(SignatureAlgorithm.es256, bytes(32)).signature

    def test_deleted_key_is_recovered(self, sdk: Sdk) -> None:
        """A deleted key's name stays reserved, and the key is recovered with all its versions."""
        first, second = (sdk.keys.create_ec_key("app") for _ in range(2))
        poller = sdk.keys.begin_delete_key("app", _polling_interval=SOON)
        poller.wait()
        assert poller.result().recovery_id
        with pytest.raises(ResourceNotFoundError):
            sdk.keys.get_key("app")
        with pytest.raises(ResourceExistsError, match="deleted but recoverable"):
            sdk.keys.create_ec_key("app")
        assert [each.name for each in sdk.keys.list_deleted_keys()] == ["app"]
        poller = sdk.keys.begin_recover_deleted_key("app", _polling_interval=SOON)
        poller.wait()
        assert sdk.keys.get_key("app", first.properties.version).id == first.id
        assert sdk.keys.get_key("app").id == second.id

    def test_purged_key_is_gone(self, sdk: Sdk) -> None:
        """After a purge the name is free again."""
        sdk.keys.create_ec_key("app")
        sdk.keys.begin_delete_key("app", _polling_interval=SOON).wait()
        sdk.keys.purge_deleted_key("app")
        wait_until_gone(sdk.keys.get_deleted_key)
        assert sdk.keys.create_ec_key("app").name == "app"


class TestCertificates:
    def test_self_signed_certificate_is_created(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """A certificate follows its policy; its non-exportable key has the same name and version, and signs."""
        wanted = policy(WellKnownIssuerNames.self, validity_in_months=6, enhanced_key_usage=["1.3.6.1.5.5.7.3.2"])
        created: Any = sdk.certificates.begin_create_certificate("app", wanted, _polling_interval=SOON).result()
        leaf = x509.load_der_x509_certificate(bytes(created.cer))
        assert leaf.subject.rfc4514_string() == "CN=app"
        assert 175 < (leaf.not_valid_after_utc - dt.datetime.now(dt.UTC)).days < 186
        assert created.properties.x509_thumbprint == leaf.fingerprint(hashes.SHA1())  # noqa: S303 - a thumbprint is that
        assert created.policy.exportable is False
        key = sdk.keys.get_key("app", created.properties.version)
        assert created.key_id == key.id
        assert key.properties.managed
        signature = CryptographyClient(key, **sdk.options).sign(
            SignatureAlgorithm.es256, hashlib.sha256(b"message").digest()
        )
        assert is_signed(leaf.public_key(), signature.signature, b"message", "ES256")

    def test_policy_has_the_services_defaults(self, sdk: Sdk) -> None:
        """Missing policy values are the service's defaults: exportable RSA-2048, one year, automatic renewal."""
        wanted = CertificatePolicy.get_default()
        sdk.certificates.begin_create_certificate("app", wanted, _polling_interval=SOON).wait()
        found = sdk.certificates.get_certificate_policy("app")
        assert (found.key_type, found.exportable, found.reuse_key) == ("RSA", True, False)
        assert found.validity_in_months == 12
        assert found.lifetime_actions
        assert found.lifetime_actions[0].action == "AutoRenew"

    def test_policy_is_changed(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """A changed policy is for the next version; values that are not given are kept."""
        key_vault.make_certificate("app", "P-256")
        action = LifetimeAction(CertificatePolicyAction.auto_renew, days_before_expiry=30)
        wanted = CertificatePolicy("Self", validity_in_months=3, lifetime_actions=[action])
        sdk.certificates.update_certificate_policy("app", wanted)
        found = sdk.certificates.get_certificate_policy("app")
        assert (found.subject, found.key_type, found.exportable) == ("CN=app", "EC", False)
        assert (found.validity_in_months, found.lifetime_actions[0].days_before_expiry) == (3, 30)

    def test_certificate_is_fetched_and_listed(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """A name gives the newest version; each version can be read by its id."""
        first, second = (key_vault.make_certificate("app", "P-256") for _ in range(2))
        key_vault.make_key("bare", "P-256")
        assert sdk.certificates.get_certificate("app").properties.version == second.version
        assert sdk.certificates.get_certificate_version("app", first.version).properties.version == first.version
        assert [each.name for each in sdk.certificates.list_properties_of_certificates()] == ["app"]
        listed = sdk.certificates.list_properties_of_certificate_versions("app")
        assert {each.version for each in listed} == {first.version, second.version}

    def test_issued_certificate_is_merged(self, sdk: Sdk) -> None:
        """With issuer Unknown the vault creates a request, and waits for its certificate."""
        sdk.certificates.begin_create_certificate("app", policy()).wait()
        operation = sdk.certificates.get_certificate_operation("app")
        assert (operation.status, operation.issuer_name) == ("inProgress", "Unknown")
        unfinished = sdk.certificates.get_certificate("app")
        assert not unfinished.cer
        assert unfinished.properties.enabled is False
        assert [each.name for each in sdk.certificates.list_properties_of_certificates()] == []
        assert [each.name for each in sdk.certificates.list_properties_of_certificates(include_pending=True)] == ["app"]
        issued = issue(bytes(operation.csr or b""))
        merged = sdk.certificates.merge_certificate("app", [issued.public_bytes(serialization.Encoding.DER)])
        assert bytes(merged.cer or b"") == issued.public_bytes(serialization.Encoding.DER)
        assert sdk.certificates.get_certificate_operation("app").status == "completed"

    def test_request_for_the_same_key(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """With `reuse_key` the next version has the newest one's key."""
        public_key = key_vault.make_certificate("app", "P-256").private_key.public_key()
        sdk.certificates.begin_create_certificate("app", policy(reuse_key=True)).wait()
        operation = sdk.certificates.get_certificate_operation("app")
        issued = issue(bytes(operation.csr or b""))
        assert issued.public_key() == public_key
        sdk.certificates.merge_certificate("app", [issued.public_bytes(serialization.Encoding.DER)])
        assert len(list(sdk.certificates.list_properties_of_certificate_versions("app"))) == 2

    def test_foreign_certificate_is_not_merged(self, sdk: Sdk) -> None:
        """A certificate for another key than the request's is refused."""
        sdk.certificates.begin_create_certificate("app", policy()).wait()
        foreign = certify(key_for("ES256", "foreign")).public_bytes(serialization.Encoding.DER)
        with pytest.raises(HttpResponseError, match="does not match the public part"):
            sdk.certificates.merge_certificate("app", [foreign])

    def test_request_is_cancelled(self, sdk: Sdk) -> None:
        """Only one request is possible at a time; it can be canceled and deleted."""
        sdk.certificates.begin_create_certificate("app", policy()).wait()
        with pytest.raises(HttpResponseError, match="inProgress"):
            sdk.certificates.begin_create_certificate("app", policy())
        assert sdk.certificates.cancel_certificate_operation("app").cancellation_requested
        sdk.certificates.delete_certificate_operation("app")
        with pytest.raises(ResourceNotFoundError, match="Pending certificate not found"):
            sdk.certificates.get_certificate_operation("app")

    def test_certificate_is_imported(self, sdk: Sdk) -> None:
        """A PFX is imported as a certificate; if the policy says so, its secret does not contain the key."""
        key = key_for("ES256", "imported")
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        leaf = certify(key)
        pfx = pkcs12.serialize_key_and_certificates(b"", key, leaf, None, serialization.BestAvailableEncryption(b"pw"))
        with pytest.raises(HttpResponseError, match="can not be read"):
            sdk.certificates.import_certificate("app", pfx, password="wrong", policy=policy())
        created = sdk.certificates.import_certificate("app", pfx, password="pw", policy=policy())
        assert bytes(created.cer or b"") == leaf.public_bytes(serialization.Encoding.DER)
        signature = sdk.keys.get_cryptography_client("app").sign(SignatureAlgorithm.es256, bytes(32)).signature
        assert len(signature) == 64

    def test_disabled_certificate_is_shown_as_such(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """A disabled certificate is shown as such, and its key does not sign."""
        version = key_vault.make_certificate("app", "P-256").version
        sdk.certificates.update_certificate_properties("app", version, enabled=False)
        assert sdk.certificates.get_certificate("app").properties.enabled is False
        with pytest.raises(HttpResponseError, match="disabled key"):
            sdk.keys.get_cryptography_client("app").sign(SignatureAlgorithm.es256, bytes(32))

    def test_deleted_certificate_is_recovered(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """A certificate is deleted and recovered with its key, and the name stays reserved meanwhile."""
        key_vault.make_certificate("app", "P-256")
        sdk.certificates.begin_delete_certificate("app", _polling_interval=SOON).wait()
        assert key_vault.deleted == ["app"]
        with pytest.raises(ResourceNotFoundError):
            sdk.keys.get_key("app")
        with pytest.raises(ResourceExistsError, match="deleted but recoverable"):
            sdk.certificates.begin_create_certificate("app", policy())
        assert [each.name for each in sdk.certificates.list_deleted_certificates()] == ["app"]
        sdk.certificates.begin_recover_deleted_certificate("app", _polling_interval=SOON).wait()
        assert sdk.keys.get_key("app").name == sdk.certificates.get_certificate("app").name

    def test_purged_certificate_is_gone(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """After a purge the name is free again."""
        key_vault.make_certificate("app", "P-256")
        sdk.certificates.begin_delete_certificate("app", _polling_interval=SOON).wait()
        sdk.certificates.purge_deleted_certificate("app")
        wait_until_gone(sdk.certificates.get_deleted_certificate)
        assert key_vault.deleted == []
        sdk.certificates.begin_create_certificate("app", policy()).wait()

    def test_purge_protection_keeps_what_was_deleted(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """With purge protection a deleted certificate can only be recovered."""
        key_vault.purge_protection = True
        key_vault.make_certificate("app", "P-256")
        assert sdk.certificates.get_certificate("app").properties.recovery_level == "Recoverable"
        sdk.certificates.begin_delete_certificate("app", _polling_interval=SOON).wait()
        with pytest.raises(HttpResponseError, match="purge protection"):
            sdk.certificates.purge_deleted_certificate("app")
        assert key_vault.deleted == ["app"]


class TestSecrets:
    def test_secret_has_versions(self, sdk: Sdk, key_vault: KeyVault) -> None:
        """A secret can be read back, by default the newest version."""
        first = sdk.secrets.set_secret("greeting", "hello", content_type="text/plain")
        assert sdk.secrets.set_secret("greeting", "good day").value == "good day"
        assert sdk.secrets.get_secret("greeting").value == "good day"
        found = sdk.secrets.get_secret("greeting", first.properties.version)
        assert (found.value, found.properties.content_type) == ("hello", "text/plain")
        key_vault.set_secret("other", "x")
        assert {each.name for each in sdk.secrets.list_properties_of_secrets()} == {"greeting", "other"}
        assert len(list(sdk.secrets.list_properties_of_secret_versions("greeting"))) == 2

    def test_disabled_secret_is_not_given(self, sdk: Sdk) -> None:
        """A disabled secret cannot be read."""
        created = sdk.secrets.set_secret("greeting", "hello")
        sdk.secrets.update_secret_properties("greeting", created.properties.version, enabled=False)
        with pytest.raises(HttpResponseError, match="not allowed on a disabled secret"):
            sdk.secrets.get_secret("greeting")

    def test_secret_is_deleted_recovered_and_purged(self, sdk: Sdk) -> None:
        """Secrets are deleted, recovered and purged like keys."""
        sdk.secrets.set_secret("greeting", "hello")
        sdk.secrets.begin_delete_secret("greeting", _polling_interval=SOON).wait()
        with pytest.raises(ResourceNotFoundError):
            sdk.secrets.get_secret("greeting")
        sdk.secrets.begin_recover_deleted_secret("greeting", _polling_interval=SOON).wait()
        assert sdk.secrets.get_secret("greeting").value == "hello"
        sdk.secrets.begin_delete_secret("greeting", _polling_interval=SOON).wait()
        sdk.secrets.purge_deleted_secret("greeting")
        wait_until_gone(sdk.secrets.get_deleted_secret, "greeting")

    @pytest.mark.parametrize("exportable", [False, True])
    def test_secret_of_a_certificate_has_the_key_where_it_is_exportable(self, sdk: Sdk, *, exportable: bool) -> None:
        """The secret is PKCS#12, with the key if it is exportable; other libraries download the key this way."""
        wanted = policy(WellKnownIssuerNames.self, exportable=exportable)
        sdk.certificates.begin_create_certificate("app", wanted, _polling_interval=SOON).wait()
        secret = sdk.secrets.get_secret("app")
        assert secret.properties.content_type == "application/x-pkcs12"
        found = pkcs12.load_pkcs12(base64.b64decode(secret.value or ""), None)
        assert (found.key is not None) == exportable
        assert bool(found.cert or found.additional_certs)


def wait_until_gone(find: Callable[[str], object], name: str = "app") -> None:
    for _ in range(10):
        try:
            find(name)
        except ResourceNotFoundError:
            return
    raise AssertionError(f"{name} is still there")
