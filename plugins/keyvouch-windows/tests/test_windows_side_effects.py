"""Side effects that are avoided: dialogs when listing keys, and loss of keys when deleting certificates."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import keyvouch
from keyvouch.errors import AccessDenied, KeyvouchError, NotSupported, StoreUnavailable
from keyvouch.store import KeySpec
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from scripted_keys import ACCOUNT, OLD_CSP, SMART_CARD, SOFTWARE, make_key
from scripted_windows import LOCAL_MACHINE, CertificateRecord, ScriptedWindows, make_certificate, pinned

SILENT = 0x40
IN_CNG, IN_THE_MACHINE = Container(SOFTWARE, "app"), Container(SOFTWARE, "app", machine=True)


def test_listing_shows_no_dialog(scripted: ScriptedWindows) -> None:
    """Listing shows no dialog even if interactive: Windows would ask for each card that is not inserted."""
    scripted.add(make_key("RSA-2048"), Container(SMART_CARD, "card"))
    scripted.add(make_key("RSA-2048"), Container(OLD_CSP, "old", 1, spec=1))
    with keyvouch.open_store("windows:", interactive=True) as store:
        assert len(store.keys()) == 2
    opened = [*scripted.called("NCryptOpenKey"), *scripted.called("CryptAcquireContextW")]
    assert [flags for *_, flags in opened] == [SILENT, SILENT]


def test_malformed_friendly_name(scripted: ScriptedWindows) -> None:
    """A malformed friendly name does not break the listing."""
    scripted.add(make_key("RSA-2048"), IN_CNG)
    scripted.my(machine=False)[0].friendly_name = b"\x00\xd8\x00"
    with keyvouch.open_store("windows:") as store:
        assert len(store.keys()) == 1


def test_key_is_kept_if_its_certificate_cannot_be_deleted(scripted: ScriptedWindows) -> None:
    """An account that may not write to the machine's store gets an error before the key is deleted."""
    certificate = scripted.add(make_key("RSA-2048"), IN_THE_MACHINE)
    scripted.read_only_locations.add(LOCAL_MACHINE)

    with keyvouch.open_store(pinned(certificate, "LocalMachine")) as store, pytest.raises(AccessDenied) as caught:
        store.delete()

    assert caught.value.hint == "Run this in a console opened as administrator."
    assert (SOFTWARE, "app", True) in scripted.cng
    scripted.assert_all_released()


def test_key_is_kept_if_another_certificate_uses_it(scripted: ScriptedWindows) -> None:
    """This includes one in the other location, but not a copy of the same certificate."""
    certificate = scripted.add(make_key("RSA-2048"), IN_THE_MACHINE)
    copy = CertificateRecord(certificate.public_bytes(Encoding.DER), IN_THE_MACHINE)
    other = CertificateRecord(
        make_certificate(make_key("RSA-2048"), "CN=other").public_bytes(Encoding.DER), IN_THE_MACHINE
    )
    for theirs, stays in ((other, True), (copy, False)):
        scripted.my(machine=True)[:] = [CertificateRecord(certificate.public_bytes(Encoding.DER), IN_THE_MACHINE)]
        scripted.my(machine=False)[:] = [theirs]
        with keyvouch.open_store(pinned(certificate, "LocalMachine")) as store:
            store.delete()
        assert (bool(scripted.cng), scripted.my(machine=True)) == (stays, [])


def test_no_key_is_created_if_the_store_is_read_only(scripted: ScriptedWindows) -> None:
    """Any account may create a machine key, but only administrators may write to the machine's store."""
    scripted.read_only_locations.add(LOCAL_MACHINE)
    with keyvouch.open_store("windows:location=LocalMachine") as store:
        with pytest.raises(AccessDenied, match="Administrator rights are required"):
            store.generate(KeySpec("RSA-2048", "CN=new"))
        with pytest.raises(AccessDenied, match="Administrator rights are required"):
            store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])
    assert not scripted.called("NCryptCreatePersistedKey") + scripted.called("PFXImportCertStore")
    scripted.assert_all_released()


def test_first_failure_is_reported(scripted: ScriptedWindows) -> None:
    """The first failure is reported, not the failure to delete the unused key."""
    scripted.fail("CertAddEncodedCertificateToStore", CODES["ERROR_DISK_FULL"])
    scripted.fail("NCryptDeleteKey", CODES["NTE_PERM"])
    with keyvouch.open_store("windows:location=CurrentUser") as store:
        with pytest.raises(StoreUnavailable, match="The disk is full"):
            store.generate(KeySpec("RSA-2048", "CN=new"))
        with pytest.raises(StoreUnavailable, match="The disk is full"):
            store.import_key(make_key("RSA-2048"), [make_certificate(make_key("RSA-2048"))])
    scripted.assert_all_released()


def test_user_key_with_machine_certificate_is_not_granted(scripted: ScriptedWindows) -> None:
    """Some tools import keys in this way; the account granted access would not find the key."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CNG)
    scripted.my(machine=True)[:] = [CertificateRecord(certificate.public_bytes(Encoding.DER), IN_CNG)]
    scripted.my(machine=False).clear()
    with (
        keyvouch.open_store(pinned(certificate, "LocalMachine")) as store,
        pytest.raises(NotSupported, match="only by its own user"),
    ):
        store.grant(ACCOUNT)
    assert not scripted.called("NCryptSetProperty")


def test_container_name_fits_a_card(scripted: ScriptedWindows) -> None:
    """A container's name has at most 39 characters."""
    with keyvouch.open_store(f"windows:location=CurrentUser;provider={SMART_CARD}") as store:
        store.generate(KeySpec("RSA-2048", "CN=card"))
    ((_, _, _, name, *_),) = scripted.called("NCryptCreatePersistedKey")
    assert len(name) <= 39


@pytest.mark.parametrize("fails", [False, True])
def test_failed_import_keeps_the_certificate(scripted: ScriptedWindows, *, fails: bool) -> None:
    """An import adds the missing key and keeps the friendly name; if it fails, the certificate is unchanged."""
    key = make_key("RSA-2048")
    certificate = scripted.add(key, IN_CNG, friendly_name="app")
    (record,) = scripted.my(machine=False)
    record.container = None
    if fails:
        scripted.fail("CertAddEncodedCertificateToStore", CODES["ERROR_INVALID_PARAMETER"], 1)

    outcome = pytest.raises(KeyvouchError) if fails else contextlib.nullcontext()
    with keyvouch.open_store("windows:location=CurrentUser") as store, outcome:
        store.import_key(key, [certificate])

    (left,) = scripted.my(machine=False)
    assert (left.der, left.friendly_name) == (record.der, "app\0".encode("utf-16-le"))
    assert (left.container is None) == fails
    scripted.assert_all_released()
