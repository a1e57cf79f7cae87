"""Opening a private key, and whether it is exportable, on the double of the DLLs."""

from __future__ import annotations

import pytest

import keyvouch
from keyvouch.errors import KeyvouchError
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from scripted_keys import AES_CSP, OLD_CSP, SOFTWARE, make_key
from scripted_windows import ScriptedWindows, uri_of

ALLOW_EXPORT, ALLOW_PLAINTEXT, ALLOW_ARCHIVING, ALLOW_PLAINTEXT_ARCHIVING = 1, 2, 4, 8
LEGACY = [(OLD_CSP, 1), (AES_CSP, 24)]


@pytest.mark.parametrize(("provider", "kind"), LEGACY)
@pytest.mark.parametrize("exportable", [True, False])
def test_exportable_legacy_key(scripted: ScriptedWindows, provider: str, kind: int, *, exportable: bool) -> None:
    """A legacy key is exportable if its permissions include CRYPT_EXPORT; the others do not matter."""
    certificate = scripted.add(make_key("RSA-2048"), Container(provider, "old", kind, spec=1), exportable=exportable)
    with keyvouch.open_signer(uri_of(certificate)) as signer:
        assert signer.exportable is exportable
    scripted.assert_all_released()


def test_legacy_key_of_unknown_exportability(scripted: ScriptedWindows) -> None:
    """If the provider does not report permissions, it is unknown whether the key is exportable."""
    certificate = scripted.add(make_key("RSA-2048"), Container(AES_CSP, "old", 24, spec=1), exportable=True)
    scripted.fail("CryptGetKeyParam", CODES["NTE_BAD_TYPE"])
    with keyvouch.open_signer(uri_of(certificate)) as signer:
        assert signer.exportable is None
    scripted.assert_all_released()


@pytest.mark.parametrize(
    ("policy", "exportable"),
    [
        (0, False),
        (ALLOW_EXPORT, True),
        (ALLOW_PLAINTEXT, True),
        (ALLOW_EXPORT | ALLOW_PLAINTEXT, True),
        (ALLOW_ARCHIVING, False),
        (ALLOW_PLAINTEXT_ARCHIVING, False),
    ],
)
def test_exportable_cng_key(scripted: ScriptedWindows, policy: int, *, exportable: bool) -> None:
    """Two policy bits allow export; the archiving bits only allow it once, before the key is first closed."""
    certificate = scripted.add(make_key("RSA-2048"), Container(SOFTWARE, "app"))
    scripted.cng[SOFTWARE, "app", False].policy = policy
    with keyvouch.open_signer(uri_of(certificate)) as signer:
        assert signer.exportable is exportable
    scripted.assert_all_released()


@pytest.mark.parametrize("machine", [False, True])
@pytest.mark.parametrize(("provider", "kind"), [(SOFTWARE, 0), *LEGACY])
def test_key_opened_by_its_container(scripted: ScriptedWindows, provider: str, kind: int, *, machine: bool) -> None:
    """After CRYPT_E_NO_KEY_PROPERTY the key is opened through its provider, by the container in the certificate."""
    container = Container(provider, "app", kind, machine, 1 if kind else 0)
    certificate = scripted.add(make_key("RSA-2048"), container)
    scripted.fail("CryptAcquireCertificatePrivateKey", CODES["CRYPT_E_NO_KEY_PROPERTY"])

    with keyvouch.open_signer(uri_of(certificate)) as signer:
        assert signer.sign(b"x", "RS256")

    opened = scripted.called("CryptAcquireContextW" if kind else "NCryptOpenKey")
    assert len(opened) == 1
    scripted.assert_all_released()


@pytest.mark.parametrize("name", ["NTE_BAD_KEYSET", "NTE_PERM", "NTE_SILENT_CONTEXT"])
@pytest.mark.parametrize(("provider", "kind"), [(SOFTWARE, 0), *LEGACY])
def test_other_failures_are_not_bypassed(scripted: ScriptedWindows, provider: str, kind: int, name: str) -> None:
    """Any other failure to open a certificate's key is an error, even though its provider would open it."""
    certificate = scripted.add(make_key("RSA-2048"), Container(provider, "app", kind, spec=1 if kind else 0))
    scripted.fail("CryptAcquireCertificatePrivateKey", CODES[name])

    with pytest.raises(KeyvouchError, match=name):
        keyvouch.open_signer(uri_of(certificate), timeout=1)

    assert not scripted.called("CryptAcquireContextW")
    assert not scripted.called("NCryptOpenKey")
    scripted.assert_all_released()
