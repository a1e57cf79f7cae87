"""Certificates of a key change while the key stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import keyvouch
from keyvouch.certificate import self_signed
from keyvouch.errors import CertificateMismatch, KeyNotFound
from keyvouch.local_key import make_key
from keyvouch_windows.certificates import list_entries, remove

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

PROVIDER = "Microsoft Enhanced RSA and AES Cryptographic Provider"
AT = f"windows:location=CurrentUser;friendly-name=renewed;provider={PROVIDER};container=keyvouch-renewed"


@pytest.fixture
def key(cleaned_up: None) -> str:
    """Return the pinned URI of a key with its first certificate."""
    with keyvouch.open_store(AT) as store:
        return str(store.generate(keyvouch.KeySpec("RSA-2048", "CN=renewed")))


def new_certificate(uri: str) -> Certificate:
    """Return another certificate for a key."""
    with keyvouch.open_signer(uri) as signer:
        return self_signed(signer.private_key(), "CN=renewed", 30)


def test_certificate_is_installed_for_a_bare_key(key: str) -> None:
    """A certificate can be installed for a key identified only by provider and container."""
    certificate = new_certificate(key)
    remove_certificate()
    uri = f"windows:provider={PROVIDER};container=keyvouch-renewed"
    with keyvouch.open_signer(uri) as signer:
        assert signer.chain == ()

    with keyvouch.open_store(uri) as store:
        installed = str(store.install_certificate([certificate]))

    with keyvouch.open_signer(installed) as signer:
        assert signer.chain == (certificate,)


def test_certificate_of_another_key_is_refused(key: str) -> None:
    """Another key's certificate is refused, since nobody would accept signatures made with it."""
    other = self_signed(make_key("RSA-2048"), "CN=other", 30)
    with keyvouch.open_store(key) as store, pytest.raises(CertificateMismatch):
        store.install_certificate([other])


@pytest.mark.usefixtures("key")
def test_key_without_certificate_is_deleted() -> None:
    """A key without a certificate can be deleted by provider and container."""
    remove_certificate()
    uri = f"windows:location=CurrentUser;provider={PROVIDER};container=keyvouch-renewed"
    with keyvouch.open_signer(uri) as signer:
        pinned = signer.uri

    with keyvouch.open_store(pinned) as store:
        store.delete()

    with pytest.raises(KeyNotFound):
        keyvouch.open_signer(uri)


def remove_certificate() -> None:
    """Remove the certificate from its store and leave the key, as certmgr does."""
    for entry in list_entries("CurrentUser", "My"):
        if entry.friendly_name == "renewed":
            remove(entry)
