"""CNG and legacy keys on a double of the DLLs: features that Wine lacks, and the calls made to Windows."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import pkcs12

import keyvouch
from keyvouch.cli import group
from keyvouch.errors import AccessDenied, AlgorithmUnsupported, KeyUnusable, NotSupported
from keyvouch.secrets import Secret
from keyvouch.store import KeySpec
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from scripted_keys import ACCOUNT, AES_CSP, OLD_CSP, PLATFORM, SOFTWARE, make_key
from scripted_windows import ScriptedWindows, make_certificate, pinned, uri_of

READONLY, OPEN_EXISTING, SILENT, PREFER_CNG = 0x8000, 0x4000, 0x40, 0x20000
PKCS1, PSS, MACHINE, PERSIST = 0x2, 0x8, 0x20, 0x80000000
HASHES = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
IN_CNG = Container(SOFTWARE, "app")


def verify(public_key: Any, signature: bytes, message: bytes, algorithm: str) -> None:
    """Verify a signature with `cryptography`, with the exact salt length."""
    hashed = HASHES[algorithm[2:]]
    if algorithm.startswith("ES"):
        half = len(signature) // 2
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        public_key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashed))
    elif algorithm.startswith("PS"):
        public_key.verify(signature, message, padding.PSS(padding.MGF1(hashed), hashed.digest_size), hashed)
    else:
        public_key.verify(signature, message, padding.PKCS1v15(), hashed)


@pytest.mark.parametrize(
    ("kind", "algorithm", "padded"),
    [
        *(("RSA-2048", f"RS{size}", PKCS1) for size in HASHES),
        *(("RSA-2048", f"PS{size}", PSS) for size in HASHES),
        *(("ECDSA_P256", "ES256", 0), ("ECDSA_P384", "ES384", 0), ("ECDSA_P521", "ES512", 0)),
    ],
)
def test_cng_key_signs(scripted: ScriptedWindows, kind: str, algorithm: str, padded: int) -> None:
    """A CNG key signs with each algorithm of its type: in one call, without a dialog, salt as long as the digest."""
    certificate = scripted.add(make_key(kind), IN_CNG)

    with keyvouch.open_signer(uri_of(certificate)) as signer:
        signature = signer.sign(b"message", algorithm)

    verify(certificate.public_key(), signature, b"message", algorithm)
    ((*_, flags),) = scripted.called("NCryptSignHash")
    assert flags == padded | SILENT
    scripted.assert_all_released()


@pytest.mark.parametrize("interactive", [False, True])
def test_dialogs_are_shown_only_if_interactive(scripted: ScriptedWindows, *, interactive: bool) -> None:
    """Opening and signing are silent unless the caller is interactive."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    with keyvouch.open_signer(uri_of(certificate), interactive=interactive) as signer:
        signer.sign(b"x", "RS256")

    silent = 0 if interactive else SILENT
    assert [flags for _, flags, *_ in scripted.called("CryptAcquireCertificatePrivateKey")] == [PREFER_CNG | silent]
    assert [flags & SILENT for *_, flags in scripted.called("NCryptSignHash")] == [silent]


def test_opening_is_read_only(scripted: ScriptedWindows) -> None:
    """Stores are opened read-only, and only if they exist."""
    certificate = scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "app", machine=True))
    with keyvouch.open_signer(uri_of(certificate)):
        pass

    flags = {flags & 0xFFFF for *_, flags, _ in scripted.called("CertOpenStore")}
    assert flags == {READONLY | OPEN_EXISTING}


@pytest.mark.parametrize("caches_handle", [False, True])
def test_cached_handle_lives_as_long_as_its_certificate(scripted: ScriptedWindows, *, caches_handle: bool) -> None:
    """A handle owned by Windows is not released, and its certificate is held while the key is in use."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    scripted.my(machine=False)[0].caches_handle = caches_handle

    with keyvouch.open_signer(uri_of(certificate)) as signer:
        verify(certificate.public_key(), signer.sign(b"x", "PS256"), b"x", "PS256")

    assert len(scripted.called("NCryptFreeObject")) == (0 if caches_handle else 1)
    scripted.assert_all_released()


def test_key_with_cached_handle_is_deleted_by_name(scripted: ScriptedWindows) -> None:
    """A lent key is not deleted through the handle that its certificate releases."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    scripted.my(machine=False)[0].caches_handle = True

    with keyvouch.open_store(pinned(certificate)) as store:
        store.delete()

    assert (scripted.cng, scripted.my(machine=False)) == ({}, [])
    scripted.assert_all_released()


@pytest.mark.parametrize("location", ["CurrentUser", "LocalMachine"])
@pytest.mark.parametrize(
    ("key_type", "native"),
    [
        ("RSA-2048", "RSA"),
        ("RSA-3072", "RSA"),
        ("P-256", "ECDSA_P256"),
        ("P-384", "ECDSA_P384"),
        ("P-521", "ECDSA_P521"),
    ],
)
def test_cng_key_life_cycle(scripted: ScriptedWindows, location: str, key_type: str, native: str) -> None:
    """A key is created for signing only and not exportable, is listed as such, signs, and is deleted."""
    with keyvouch.open_store(f"windows:location={location};friendly-name=life") as store:
        uri = store.generate(KeySpec(key_type, "CN=life"))

    machine = MACHINE if location == "LocalMachine" else 0
    ((_, _, algorithm, _, legacy, flags),) = scripted.called("NCryptCreatePersistedKey")
    assert (algorithm, legacy, flags) == (native, 0, machine)
    (record,) = scripted.cng.values()
    assert record.properties["Key Usage"] == ((2).to_bytes(4, "little"), PERSIST)
    assert record.properties["Export Policy"] == (bytes(4), PERSIST)
    assert ("Length" in record.properties) == (native == "RSA")
    (stored,) = scripted.my(machine=bool(machine))
    assert stored.friendly_name == "life\0".encode("utf-16-le")
    with keyvouch.open_signer(str(uri)) as signer:
        assert signer.exportable is False
        signer.sign(b"x", {"RSA": "PS256", "ECDSA_P256": "ES256", "ECDSA_P384": "ES384", "ECDSA_P521": "ES512"}[native])
    with keyvouch.open_store(str(uri)) as store:
        (info,) = store.keys()
        assert (info.subject, info.key_type, info.exportable) == ("CN=life", key_type, False)
        store.delete()
    assert (scripted.cng, scripted.my(machine=bool(machine))) == ({}, [])
    scripted.assert_all_released()


@pytest.mark.parametrize("key_type", ["RSA-2048", "P-256", "P-384", "P-521"])
def test_export_round_trip(scripted: ScriptedWindows, key_type: str) -> None:
    """A key is exported as PKCS#8, encrypted in the form that every Windows supports, and becomes a PFX."""
    with keyvouch.open_store("windows:location=CurrentUser") as store:
        uri = store.generate(KeySpec(key_type, "CN=export", exportable=True))
    (record,) = scripted.cng.values()
    assert record.properties["Export Policy"] == ((1).to_bytes(4, "little"), PERSIST)

    with keyvouch.open_store(str(uri)) as store:
        data = store.export_pfx(Secret("secret"))

    key, certificate, _ = pkcs12.load_key_and_certificates(data, b"secret")
    assert key
    assert certificate
    assert key.private_numbers() == record.key.private_numbers()  # type: ignore[union-attr]  # RSA or EC
    assert certificate.public_key() == record.key.public_key()
    scripted.assert_all_released()


@pytest.mark.parametrize(
    ("container", "says"),
    [(IN_CNG, "NTE_NOT_SUPPORTED"), (IN_CNG, "NTE_PERM"), (Container(AES_CSP, "app", 24, spec=1), "NTE_BAD_KEY_STATE")],
)
def test_non_exportable_key_is_not_exported(scripted: ScriptedWindows, container: Container, says: str) -> None:
    """The error gives the reason, whether Windows reports it beforehand or only fails to export."""
    certificate = scripted.add(make_key("RSA-2048"), container)
    with keyvouch.open_store(uri_of(certificate)) as store:
        with pytest.raises(KeyUnusable, match="created or imported as not exportable"):
            store.export_pfx(Secret("secret"))
        assert "PKCS8_PRIVATEKEY" not in str(scripted.called("NCryptExportKey"))

        scripted.fail("NCryptGetProperty", CODES["NTE_NOT_SUPPORTED"])
        scripted.fail("CryptGetKeyParam", CODES["NTE_BAD_TYPE"])
        scripted.fail("NCryptExportKey", CODES[says])
        with pytest.raises(KeyUnusable, match="created or imported as not exportable"):
            store.export_pfx(Secret("secret"))
    scripted.assert_all_released()


@pytest.mark.parametrize("kind", ["RSA-2048", "ECDSA_P256"])
@pytest.mark.parametrize("exportable", [False, True])
@pytest.mark.parametrize("location", ["CurrentUser", "LocalMachine"])
def test_import(scripted: ScriptedWindows, kind: str, location: str, *, exportable: bool) -> None:
    """A key is imported as a PFX, into CNG, in the URI's location, and exportable only if requested."""
    key = make_key(kind)
    certificate = make_certificate(key)

    with keyvouch.open_store(f"windows:location={location};friendly-name=taken") as store:
        uri = store.import_key(key, [certificate], exportable=exportable)

    ((*_, flags),) = scripted.called("PFXImportCertStore")
    assert flags == 0x100 | (0x1 if exportable else 0) | (MACHINE if location == "LocalMachine" else 0x1000)
    with keyvouch.open_signer(str(uri)) as signer:
        assert signer.exportable is exportable
    scripted.assert_all_released()


@pytest.mark.parametrize("code", [0, CODES["ERROR_INVALID_PARAMETER"], CODES["NTE_BAD_FLAGS"]])
def test_import_without_cng_support_for_pfx(scripted: ScriptedWindows, code: int) -> None:
    """If Windows does not support that, RSA keys go into a legacy provider, and EC keys are refused."""
    scripted.pfx_cng_error = code
    with keyvouch.open_store("windows:location=CurrentUser") as store:
        uri = store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])
    with keyvouch.open_signer(str(uri)) as signer:
        signer.sign(b"x", "RS256")

    with (
        keyvouch.open_store("windows:location=CurrentUser;friendly-name=ec") as store,
        pytest.raises(NotSupported, match="cannot import P-256 keys here"),
    ):
        store.import_key(make_key("ECDSA_P256"), [make_certificate(make_key("ECDSA_P256"))])
    scripted.assert_all_released()


def test_failed_import_is_not_retried_elsewhere(scripted: ScriptedWindows) -> None:
    """If access to CNG is denied, the key is not silently imported into a legacy provider."""
    scripted.fail("PFXImportCertStore", CODES["ERROR_ACCESS_DENIED"], nth=1)
    with keyvouch.open_store("windows:location=LocalMachine") as store, pytest.raises(AccessDenied):
        store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])
    assert len(scripted.called("PFXImportCertStore")) == 1
    assert (scripted.cng, scripted.csp) == ({}, {})
    scripted.assert_all_released()


def test_installed_certificate_is_linked_to_the_key(scripted: ScriptedWindows) -> None:
    """A renewed certificate is added with the same key; the friendly name moves to it and stays unique."""
    key = make_key("RSA-2048")
    former = scripted.add(key, IN_CNG, friendly_name="app")
    renewed = make_certificate(key)

    with keyvouch.open_store(uri_of(former)) as store:
        uri = store.install_certificate([renewed])

    before, after = scripted.my(machine=False)
    assert before.container == after.container
    assert before.friendly_name is None
    for opening in (str(uri), "windows:friendly-name=app"):
        with keyvouch.open_signer(opening) as signer:
            assert signer.chain == (renewed,)
    scripted.assert_all_released()


@pytest.mark.parametrize("kind", ["RSA-2048", "ECDSA_P384"])
@pytest.mark.parametrize("machine", [False, True])
def test_key_without_certificate(scripted: ScriptedWindows, kind: str, *, machine: bool) -> None:
    """A key is opened by provider and container, in either location, and pinned by its public key."""
    scripted.add(make_key(kind), Container(SOFTWARE, "alone", machine=machine))
    scripted.my(machine=machine).clear()

    with keyvouch.open_signer(f"windows:provider={SOFTWARE};container=alone") as signer:
        assert signer.public_key == make_key(kind).public_key()
        pinned = signer.uri
        signer.sign(b"x", "ES384" if kind.startswith("EC") else "PS256")

    assert [flags for *_, flags in scripted.called("NCryptOpenKey")] == [
        SILENT,
        *([MACHINE | SILENT] if machine else []),
    ]
    assert f"location={'LocalMachine' if machine else 'CurrentUser'}" in pinned
    with keyvouch.open_signer(pinned):
        pass
    scripted.assert_all_released()


def test_missing_container(scripted: ScriptedWindows) -> None:
    """In LocalMachine Windows does not distinguish a missing container from a denied one: the hint covers both."""
    with pytest.raises(AccessDenied) as caught:
        keyvouch.open_signer(f"windows:location=LocalMachine;provider={SOFTWARE};container=alone")
    assert "keyvouch grant" in caught.value.hint
    assert "Or correct container=" in caught.value.hint


def test_tpm_key(scripted: ScriptedWindows) -> None:
    """A key is created in the provider named by provider=."""
    with keyvouch.open_store(f"windows:location=LocalMachine;provider={PLATFORM}") as store:
        uri = store.generate(KeySpec("RSA-2048", "CN=tpm"))

    assert [name for _, name, _ in scripted.called("NCryptOpenStorageProvider")] == [PLATFORM]
    with keyvouch.open_signer(str(uri)) as signer:
        signer.sign(b"x", "RS256")
    scripted.assert_all_released()


def assert_falls_back(scripted: ScriptedWindows, certificate: x509.Certificate) -> None:
    """Assert that PS256 is refused as unsupported by the provider, and that negotiation yields RS256."""
    with keyvouch.open_signer(uri_of(certificate)) as signer:
        with pytest.raises(AlgorithmUnsupported, match="does not support PS256"):
            signer.sign(b"x", "PS256")
        message, signature = signer.sign_negotiated(lambda algorithm, *_: algorithm.name.encode())
        assert message == b"RS256"
        verify(certificate.public_key(), signature, message, "RS256")
    scripted.assert_all_released()


@pytest.mark.parametrize(
    "code",
    [
        "NTE_NOT_SUPPORTED",
        "NTE_BAD_FLAGS",
        "NTE_INVALID_PARAMETER",
        "TPM_E_PCP_UNSUPPORTED_PSS_SALT",
        "TPM_20_E_SCHEME",
    ],
)
def test_provider_without_pss(scripted: ScriptedWindows, code: str) -> None:
    """TPMs report missing PSS support in various ways, even with a code whose sign does not indicate failure."""
    certificate = scripted.add(make_key("RSA-2048"), Container(PLATFORM, "tpm"))
    for number in (1, 2):
        scripted.fail("NCryptSignHash", CODES[code], nth=number)
    assert_falls_back(scripted, certificate)


@pytest.mark.parametrize("pss", ["maximum", "zeros"])
def test_tpm_with_another_salt(scripted: ScriptedWindows, pss: str) -> None:
    """Some TPMs report success but make the salt as long as possible, or return zeros."""
    certificate = scripted.add(make_key("RSA-2048"), Container(PLATFORM, "tpm"))
    scripted.cng[PLATFORM, "tpm", False].pss = pss
    assert_falls_back(scripted, certificate)


@pytest.mark.parametrize(("provider", "kind"), [(OLD_CSP, 1), (AES_CSP, 24)])
@pytest.mark.parametrize("machine", [False, True])
def test_legacy_key_signs(scripted: ScriptedWindows, provider: str, kind: int, *, machine: bool) -> None:
    """A legacy key is opened with the provider that supports SHA-2, and its signature is in big-endian order."""
    container = Container(provider, "old", kind, machine, 1)
    certificate = scripted.add(make_key("RSA-2048"), container)

    with keyvouch.open_signer(uri_of(certificate)) as signer:
        for algorithm in ("RS256", "RS384", "RS512"):
            verify(certificate.public_key(), signer.sign(b"x", algorithm), b"x", algorithm)

    ((_, name, opened, type_, flags),) = scripted.called("CryptAcquireContextW")
    assert (name, opened, type_, flags) == ("old", AES_CSP, 24, SILENT | (MACHINE if machine else 0))
    scripted.assert_all_released()


def test_legacy_key_falls_back_to_rs256(scripted: ScriptedWindows) -> None:
    """Legacy providers do not support PSS."""
    assert_falls_back(scripted, scripted.add(make_key("RSA-2048"), Container(OLD_CSP, "old", 1, spec=1)))


def test_legacy_key_opened_through_cng(scripted: ScriptedWindows) -> None:
    """A legacy key that Windows opens through CNG is used through CNG, with PSS."""
    scripted.cng_opens_legacy_keys = True
    certificate = scripted.add(make_key("RSA-2048"), Container(OLD_CSP, "old", 1, spec=1), exportable=True)

    with keyvouch.open_signer(uri_of(certificate)) as signer:
        verify(certificate.public_key(), signer.sign(b"x", "PS256"), b"x", "PS256")
    with keyvouch.open_store(pinned(certificate)) as store:
        store.export_pfx(Secret("secret"))
        store.delete()

    assert (scripted.csp, scripted.my(machine=False)) == ({}, [])
    scripted.assert_all_released()


@pytest.mark.parametrize("provider", [AES_CSP, OLD_CSP])
def test_named_legacy_provider_life_cycle(scripted: ScriptedWindows, provider: str) -> None:
    """A legacy provider, even one without SHA-2, makes RSA keys only; exportable if requested."""
    at = f"windows:location=LocalMachine;provider={provider}"
    with keyvouch.open_store(at) as store:
        with pytest.raises(NotSupported, match="supports only RSA keys"):
            store.generate(KeySpec("P-256", "CN=csp"))
        uri = store.generate(KeySpec("RSA-2048", "CN=csp", exportable=True))
    ((_, spec, flags, _),) = scripted.called("CryptGenKey")
    assert (spec, flags) == (1, 2048 << 16 | 1)
    assert [each.container and each.container.provider for each in scripted.my(machine=True)] == [provider]
    with keyvouch.open_store(str(uri)) as store:
        key, _, _ = pkcs12.load_key_and_certificates(store.export_pfx(Secret("secret")), b"secret")
        store.delete()
    made = make_key("RSA-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    assert isinstance(made, rsa.RSAPrivateKey)
    assert key.private_numbers() == made.private_numbers()
    assert (scripted.csp, scripted.my(machine=True)) == ({}, [])
    scripted.assert_all_released()


@pytest.mark.parametrize(
    "container", [Container(SOFTWARE, "app", machine=True), Container(AES_CSP, "app", 24, True, 1)]
)
def test_access_to_a_key(scripted: ScriptedWindows, container: Container) -> None:
    """Access is granted and revoked on the key itself; only its DACL is read and written."""
    certificate = scripted.add(make_key("RSA-2048"), container)
    usual = ["NT AUTHORITY\\SYSTEM", "BUILTIN\\Administrators"]
    with keyvouch.open_store(f"{uri_of(certificate)};store=My;location=LocalMachine") as store:
        assert store.readers() == usual
        store.grant(ACCOUNT)
        assert store.readers() == [*usual, ACCOUNT]
        store.revoke(ACCOUNT)
        assert store.readers() == usual
    scripted.assert_all_released()


@pytest.mark.parametrize("undo", ["CertAddEncodedCertificateToStore", "CertSetCertificateContextProperty"])
@pytest.mark.parametrize("provider", [SOFTWARE, AES_CSP])
def test_key_is_deleted_if_its_certificate_cannot_be_stored(
    scripted: ScriptedWindows, undo: str, provider: str
) -> None:
    """Neither the key nor the certificate is left, and the first failure is reported."""
    scripted.fail(undo, CODES["ERROR_DISK_FULL"])

    def make(store: Any) -> object:
        return store.generate(KeySpec("RSA-2048", "CN=undone"))

    def take(store: Any) -> object:
        return store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])

    makers: list[tuple[str, Callable[[Any], object]]] = [(f";provider={provider}", make), ("", take)]
    for where, act in makers:
        with (
            keyvouch.open_store(f"windows:location=CurrentUser{where}") as store,
            pytest.raises(keyvouch.errors.StoreUnavailable, match="The disk is full"),
        ):
            act(store)
    assert (scripted.cng, scripted.csp, scripted.my(machine=False)) == ({}, {}, [])
    scripted.assert_all_released()


@pytest.mark.parametrize(
    ("named", "saved"),
    [
        ("", "windows:thumbprint="),
        (";friendly-name=nightly", "windows:friendly-name=nightly;location=CurrentUser?select="),
    ],
)
def test_saved_profile_selects_only_the_new_key(
    scripted: ScriptedWindows, tmp_path: Path, named: str, saved: str
) -> None:
    """A saved profile has the pinned key or its friendly name, so that it never selects a certificate added later."""
    configuration = tmp_path / "config.toml"
    profile = ("--save-profile", "nightly", "--tenant", "t", "--client-id", "7")
    at = f"windows:location=CurrentUser{named};provider={PLATFORM}"
    done = CliRunner().invoke(group, ["--config", str(configuration), "new", "--key", at, *profile])

    assert done.exit_code == 0, done.output
    (key,) = tomllib.loads(configuration.read_text())["profiles"]["nightly"]["keys"]
    assert key.replace("%20", " ").replace(f";provider={PLATFORM}", "").startswith(saved)
    assert scripted.my(machine=False)
