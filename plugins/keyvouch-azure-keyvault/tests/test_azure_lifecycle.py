"""Which version a URI selects, and how keys are created, certified, imported and deleted."""

from __future__ import annotations

import datetime as dt
import functools
import re
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from bare_azure_store import assert_raises, connected_store, parse_uri
from keyvouch.algorithms import find_algorithm
from keyvouch.certificate import self_signed, spki_sha256
from keyvouch.errors import (
    AccessDenied,
    CertificateMismatch,
    CertificateMissing,
    ConfigurationError,
    KeyChanged,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    NotSupported,
    StoreUnavailable,
)
from keyvouch.local_key import make_key
from keyvouch.store import KeySpec
from keyvouch_azure_keyvault.testing import Refusal, refusals

OLD = 1_700_000_000


def opened_version(uri: str) -> str:
    with keyvouch.open_signer(uri) as signer:
        version: str = parse_uri(signer.uri).get("version")
    return version


def versions(vault: Vault, name: str) -> list[str]:
    return [each.version for each in vault.keys[name].versions]


def test_newest_settled_version_is_opened(vault: Vault) -> None:
    """A new version is not selected until it has settled, which leaves time to register it; `settle=0` selects it."""
    for created in (OLD, OLD + 10, int(time.time())):
        uri = vault.make("settled", "P-256", created=created)
    _, settled, newest = versions(vault, "settled")
    assert opened_version(uri) == settled
    assert opened_version(f"{uri}&settle=0") == newest


def test_disabled_version_is_skipped(vault: Vault) -> None:
    """A disabled version is not selected; if the URI names it, it is reported."""
    vault.make("disabled", "P-256", created=OLD)
    uri = vault.make("disabled", "P-256", created=OLD + 10, enabled=False)
    good, bad = versions(vault, "disabled")
    assert opened_version(uri) == good
    with keyvouch.open_store(uri) as store:
        (skipped,) = store.unusable_keys()
    assert (bad in skipped.name, skipped.reason) == (True, "The version is disabled.")
    named = uri.replace("certificate=disabled", f"certificate=disabled;version={bad}")
    assert "set-attributes --enabled true" in assert_raises(KeyUnusable, lambda: keyvouch.open_signer(named)).hint
    vault.keys["disabled"].versions[0].enabled = False
    assert_raises(KeyUnusable, lambda: keyvouch.open_signer(uri))


def test_missing_certificate_has_the_command_that_lists_the_vault(vault: Vault) -> None:
    """The hint can be pasted: it has the vault and the login, and lists what the vault contains."""
    vault.make("present", "P-256")
    error = assert_raises(KeyNotFound, lambda: keyvouch.open_signer(vault.uri("certificate=absent", "&settle=0")))
    (listing,) = re.findall("List the keys: keyvouch keys --key '(.*)'", error.hint)
    with keyvouch.open_store(listing) as store:
        listed = store.keys()
    names = [info.uri.get("certificate") for info in listed]  # of all tests that use this vault
    assert "present" in names
    assert "absent" not in names
    assert "--vault-name VAULT" not in error.hint


def test_expired_version_is_skipped(vault: Vault) -> None:
    """Only versions that are valid now are selected."""
    vault.make("expired", "P-256", created=OLD)
    uri = vault.make("expired", "P-256", created=OLD + 10)
    valid, ended = vault.keys["expired"].versions
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(days=9)
    name = x509.Name.from_rfc4514_string("CN=expired")
    builder = x509.CertificateBuilder(
        name, name, ended.private_key.public_key(), 1, begin, begin + dt.timedelta(days=1)
    )
    ended.certificate = builder.sign(ended.private_key, hashes.SHA256())
    assert opened_version(uri) == valid.version


def test_digest_and_certificate_select_their_version(vault: Vault, tmp_path: Path) -> None:
    """`spki-sha256` or a given certificate selects the version with that key, and no other."""
    for _ in range(2):
        uri = vault.make("chosen", "P-256", created=OLD)
    older, _ = vault.keys["chosen"].versions
    digest = spki_sha256(older.private_key.public_key())
    assert opened_version(uri.replace("=chosen", f"=chosen;spki-sha256={digest}")) == older.version
    assert_raises(KeyChanged, lambda: keyvouch.open_signer(uri.replace("=chosen", f"=chosen;spki-sha256={'0' * 64}")))
    versioned = uri.replace("=chosen", f"=chosen;version={older.version};spki-sha256={'0' * 64}")
    assert_raises(KeyChanged, lambda: keyvouch.open_signer(versioned))
    assert opened_version(versioned.replace("0" * 64, digest)) == older.version
    file = tmp_path / "older.cer"
    assert older.certificate
    file.write_bytes(older.certificate.public_bytes(serialization.Encoding.PEM))
    assert opened_version(f"{uri}&certificate-file={file}") == older.version


def test_key_with_certificate_file(vault: Vault, tmp_path: Path) -> None:
    """`key=` opens a key without a certificate, which comes from a file."""
    vault.make_key("bare", "P-256")
    uri = vault.uri("key=bare")
    with keyvouch.open_signer(uri) as signer:
        assert signer.chain == ()
        assert signer.exportable is False
        certificate = self_signed(signer.private_key(), "CN=bare", 10)
    file = tmp_path / "bare.cer"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with keyvouch.open_signer(f"{uri}&certificate-file={file}") as signer:
        assert list(signer.chain) == [certificate]
        assert signer.sign(b"x", "ES256")
    foreign = self_signed(make_key("P-256"), "CN=foreign", 10)
    file.write_bytes(foreign.public_bytes(serialization.Encoding.PEM))
    assert_raises(CertificateMismatch, lambda: keyvouch.open_signer(f"{uri}&certificate-file={file}"))


def test_pasted_identifier_opens_the_key(vault: Vault) -> None:
    """The identifier shown in the portal works in a URI, for a certificate or a key, with or without a version."""
    vault.make("pasted", "P-256", created=OLD)
    version = versions(vault, "pasted")[0]
    query = f"?auth=environment&ca-file={vault.ca_file}"
    for kind, path in (("certificate", f"certificates/pasted/{version}"), ("key", "keys/pasted")):
        with keyvouch.open_signer(f"azure-keyvault:{vault.address}/{path}{query}") as signer:
            uri = parse_uri(signer.uri)
            assert (uri.get(kind), uri.get("version"), uri.get("url")) == ("pasted", version, None)
            assert signer.sign(b"x", "ES256")


@pytest.mark.parametrize(
    ("which", "hint"),
    [
        ("vault=http://a.vault.azure.net;certificate=a", "vault's URL"),
        ("vault=https://a.vault.azure.net/keys;certificate=a", "vault's URL"),
        ("vault=https://user@a.vault.azure.net;certificate=a", "vault's URL"),
        ("vault=https://a.vault.azure.net;certificate=a_b", "name"),
        ("vault=https://a.vault.azure.net;certificate=a;version=1", "newest enabled"),
        ("vault=https://a.vault.azure.net;certificate=a;key=b", "certificate="),
        ("vault=https://a.vault.azure.net", "certificate=NAME"),
        ("certificate=a", "vault="),
        ("https://a.vault.azure.net/secrets/a", "portal"),
        ("vault=https://a.managedhsm.azure.net;certificate=a", "key="),
    ],
)
def test_invalid_uri(vault: Vault, which: str, hint: str) -> None:
    """Mistakes in the URI are reported before anything is sent to a vault."""
    before = len(vault.calls)

    def open_it() -> None:
        uri = parse_uri(f"azure-keyvault:{which}?auth=environment")
        from keyvouch_azure_keyvault.store import _require_supported_location
        from keyvouch_azure_keyvault.uri_attributes import vault_url

        vault_url(uri)
        _require_supported_location(uri)

    assert hint in assert_raises(ConfigurationError, open_it).hint
    assert len(vault.calls) == before


@pytest.mark.parametrize("cloud", ["vault.azure.cn", "vault.usgovcloudapi.net", "managedhsm.azure.net"])
def test_sovereign_clouds(cloud: str) -> None:
    """A vault in a sovereign cloud and a Managed HSM are addressed like any other."""
    uri = parse_uri(f"azure-keyvault:vault=https://Contoso.{cloud};key=app?auth=cli")
    assert uri.get("vault") == f"https://contoso.{cloud}"


def test_created_certificate_is_neither_exportable_nor_renewed(vault: Vault) -> None:
    """A generated key cannot leave the vault, and the service does not renew its certificate unnoticed."""
    with keyvouch.open_store(vault.uri("certificate=made")) as store:
        pinned = store.generate(KeySpec("RSA-3072", "CN=made,O=Contoso", 365))
        assert_raises(KeyExists, lambda: store.generate(KeySpec("RSA-3072")))
        further = store.generate(KeySpec("RSA-3072", "CN=made", further=True))
    policy = vault.keys["made"].policy
    assert policy is not None
    assert policy["key_props"] == {"exportable": False, "kty": "RSA", "key_size": 3072, "reuse_key": False}
    assert [each["action"]["action_type"] for each in policy["lifetime_actions"]] == ["EmailContacts"]
    assert versions(vault, "made") == [pinned.get("version"), further.get("version")]


def test_premium_key_is_created_in_an_hsm(vault: Vault) -> None:
    """`hsm=true` requests RSA-HSM and EC-HSM, for certificates and for keys."""
    for number, (kind, wanted) in enumerate({"RSA-2048": "RSA-HSM", "P-384": "EC-HSM"}.items()):
        for attribute in ("certificate", "key"):
            name = f"premium-{attribute}-{number}"
            with keyvouch.open_store(vault.uri(f"{attribute}={name}", "&hsm=true")) as store:
                store.generate(KeySpec(kind))
            assert vault.keys[name].newest.kind == wanted


def test_vaults_request_is_merged(vault: Vault) -> None:
    """The vault creates a new certificate's request, which is pending until the issued certificate is installed."""
    uri = parse_uri(vault.uri("certificate=requested"))
    with connected_store(str(uri)) as store:
        request = x509.load_der_x509_csr(store.request_certificate(uri, KeySpec("P-256", "CN=requested")))
        assert request.is_signature_valid
        ca_key = make_key("P-256")
        ca = self_signed(ca_key, "CN=CA", 100)
        begin = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
        builder = x509.CertificateBuilder(
            ca.subject, request.subject, request.public_key(), 7, begin, begin + dt.timedelta(days=9)
        )
        issued = builder.sign(ca_key, hashes.SHA256())
        pinned = store.install_certificate(uri, [issued])
        key = store.open(pinned, timeout=10)
        assert key.chain == (issued,)
        assert key.sign(b"x", find_algorithm("ES256"), timeout=10)
        other = self_signed(make_key("P-256"), "CN=other", 9)
        assert_raises(CertificateMismatch, lambda: store.install_certificate(uri, [other]))


def test_import_requires_the_named_certificate(vault: Vault) -> None:
    """A certificate is imported with its key; `key=` imports only a key, of either type."""
    key = make_key("P-256")
    uri = parse_uri(vault.uri("certificate=imported"))
    with connected_store(str(uri)) as store:
        assert_raises(CertificateMissing, lambda: store.import_key(uri, key, []))
        assert_raises(NotSupported, lambda: store.import_key(uri, make_key("Ed25519"), []))
        for kind, algorithm in (("RSA-2048", "PS256"), ("P-256", "ES256")):
            alone = parse_uri(vault.uri(f"key=alone-{kind}"))
            pinned = store.import_key(alone, make_key(kind), [])
            assert store.open(pinned, timeout=10).sign(b"x", find_algorithm(algorithm), timeout=10)
            assert_raises(KeyExists, functools.partial(store.import_key, alone, key, []))


def test_deleted_certificate_can_be_recovered(vault: Vault) -> None:
    """Deleting is not purging: the name stays reserved, and the hint says how to recover it."""
    uri = parse_uri(vault.make("deleted", "P-256"))
    with connected_store(str(uri)) as store:
        pinned = store.open(uri, timeout=10).uri
        store.delete(pinned)
        assert "recover" in assert_raises(KeyNotFound, lambda: store.open(pinned, timeout=10)).hint
        assert (
            "az keyvault certificate recover" in assert_raises(KeyExists, lambda: store.generate(uri, KeySpec())).hint
        )
    assert "deleted" in vault.deleted


@pytest.mark.parametrize("kind", ["certificate", "key"])
def test_version_is_disabled(vault: Vault, kind: str) -> None:
    """One of several versions cannot be deleted; as the hint says, it can be disabled, and the others still sign."""
    name = f"old-{kind}"
    make = vault.make_certificate if kind == "certificate" else vault.make_key
    make(name, "P-256", created=OLD)
    make(name, "P-256", created=OLD + 10)
    older, newer = versions(vault, name)
    former = vault.uri(f"{kind}={name};version={older}")
    with connected_store(former) as store:
        assert "disable=true" in assert_raises(NotSupported, lambda: store.delete(parse_uri(former))).hint
        key = store.open(parse_uri(former), timeout=10)
        store.delete(parse_uri(f"{former}&disable=true"))
        assert_raises(KeyUnusable, lambda: key.sign(b"x", find_algorithm("ES256"), timeout=10))
    assert opened_version(vault.uri(f"{kind}={name}")) == newer
    assert [each.enabled for each in vault.keys[name].versions] == [False, True]


def test_purge_protection_is_reported(vault: Vault) -> None:
    """Purge protection is reported, and the certificate stays deleted."""
    uri = parse_uri(vault.make("kept", "P-256") + "&purge=true")
    vault.purge_protection = True
    try:
        with connected_store(str(uri)) as store:
            pinned = store.open(uri, timeout=10).uri
            error = assert_raises(AccessDenied, lambda: store.delete(pinned))
    finally:
        vault.purge_protection = False
    assert "purge protection" in error.message


def test_one_of_several_versions_is_not_deleted(vault: Vault) -> None:
    """The service deletes all versions at once, so a version is not deleted while there are others."""
    for _ in range(2):
        uri = parse_uri(vault.make("several", "P-256"))
    with connected_store(str(uri)) as store:
        pinned = store.open(uri, timeout=10).uri
        assert "disable=true" in assert_raises(NotSupported, lambda: store.delete(pinned)).hint
    assert len(versions(vault, "several")) == 2


def test_listing_shows_certificates_and_bare_keys(vault: Vault) -> None:
    """Each version is listed once: a certificate's key is not listed separately."""
    vault.make("listed", "P-256")
    vault.make_key("listed-key", "P-384")
    with keyvouch.open_store(vault.uri("").replace(";?", "?")) as store:
        listed = store.keys()
        found = {str(info.uri): info for info in listed}
    of_name = [info for text, info in found.items() if "=listed;" in text or "=listed-key;" in text]
    assert sorted(info.key_type for info in of_name) == ["P-256", "P-384"]
    assert sorted(info.has_certificate for info in of_name) == [False, True]


def test_unknown_name_is_free(vault: Vault) -> None:
    """An unknown name is free, whether its listing is empty or 404; a 404 from another server is an error."""
    uri = parse_uri(vault.uri("certificate=free"))
    unknown = refusals.missing("Certificate", "free")
    with connected_store(str(uri)) as store:
        vault.fail("certificates/list", unknown)
        assert_raises(KeyNotFound, lambda: store.open(uri, timeout=10))
        vault.fail("certificates/list", unknown)
        assert store.open(store.generate(uri, KeySpec("P-256")), timeout=10).chain
        vault.fail("certificates/list", Refusal(404))
        assert_raises(StoreUnavailable, lambda: store.open(uri, timeout=10))
