"""Selection of a certificate, its chain, and the errors if none or a wrong one is selected."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

import keyvouch
from keyvouch.certificate import self_signed
from keyvouch.cli import group
from keyvouch.errors import (
    AmbiguousKey,
    CertificateMissing,
    ConfigurationError,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    NotSupported,
)
from keyvouch.local_key import make_key as make_any_key
from keyvouch.store import KeySpec
from keyvouch_windows.crypt32 import Container
from scripted_key_formats import AnyKey
from scripted_keys import AES_CSP, SOFTWARE, make_key
from scripted_windows import CURRENT_USER, LOCAL_MACHINE, CertificateRecord, ScriptedWindows, pinned

IN_CNG = Container(SOFTWARE, "app")
LEAF, MIDDLE, ROOT = make_key("RSA-2048"), make_key("RSA-3072"), make_key("ECDSA_P256")
NOW = dt.datetime.now(dt.UTC)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def issued(subject: str, key: AnyKey, issuer: str, by: AnyKey, *, days: int = 30) -> x509.Certificate:
    """Issue a certificate for a key with `cryptography`, valid for this number of days from now."""
    builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW - dt.timedelta(days=60)).not_valid_after(NOW + dt.timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=key is not LEAF, path_length=None), critical=True)
    return builder.sign(by, hashes.SHA256())


LEAF_CERTIFICATE = issued("app", LEAF, "middle", MIDDLE)
MIDDLE_CERTIFICATE, EXPIRED = issued("middle", MIDDLE, "root", ROOT), issued("middle", MIDDLE, "root", ROOT, days=-1)
ROOT_CERTIFICATE = issued("root", ROOT, "root", ROOT)
OF_ANOTHER_KEY = issued("middle", make_key("ECDSA_P384"), "root", ROOT)


def add_issued(scripted: ScriptedWindows) -> None:
    """Add the key with the certificate issued for it."""
    scripted.add(LEAF, IN_CNG)
    scripted.my(machine=False)[:] = [CertificateRecord(LEAF_CERTIFICATE.public_bytes(Encoding.DER), IN_CNG)]


def put(scripted: ScriptedWindows, location: int, store: str, *certificates: x509.Certificate) -> None:
    scripted.stores[location, store] = [CertificateRecord(each.public_bytes(Encoding.DER)) for each in certificates]


def test_chain_is_built_from_the_stores(scripted: ScriptedWindows) -> None:
    """Issuers are found by name and signature; of two certificates for the same key the valid one is used."""
    add_issued(scripted)
    put(scripted, CURRENT_USER, "ca", OF_ANOTHER_KEY, EXPIRED, MIDDLE_CERTIFICATE)
    put(scripted, CURRENT_USER, "root", ROOT_CERTIFICATE)

    with keyvouch.open_signer("windows:subject=CN=app;issuer=CN=middle") as signer:
        assert signer.chain == (LEAF_CERTIFICATE, MIDDLE_CERTIFICATE, ROOT_CERTIFICATE)
    scripted.assert_all_released()


def test_unknown_issuer_ends_the_chain(scripted: ScriptedWindows) -> None:
    """An incomplete chain is not an error; the key can still be used."""
    add_issued(scripted)
    with keyvouch.open_signer("windows:subject=CN=app") as signer:
        assert signer.chain == (LEAF_CERTIFICATE,)


def test_import_keeps_intermediates_and_trusts_no_root(scripted: ScriptedWindows) -> None:
    """Which roots to trust is the administrator's decision."""
    chain = [LEAF_CERTIFICATE, MIDDLE_CERTIFICATE, ROOT_CERTIFICATE]
    with keyvouch.open_store("windows:location=LocalMachine") as store:
        store.import_key(LEAF, chain)

    assert [each.der for each in scripted.stores[LOCAL_MACHINE, "ca"]] == [
        MIDDLE_CERTIFICATE.public_bytes(Encoding.DER)
    ]
    assert not scripted.stores.get((LOCAL_MACHINE, "root"))
    scripted.assert_all_released()


@pytest.mark.parametrize(
    ("which", "says", "hint"),
    [
        (
            "subject=CN=other",
            "No certificate in the store My matches",
            "Use one that exists:\n  'windows:",
        ),
        ("issuer=CN=other", "No certificate in the store My matches", "Use one that exists"),
        ("friendly-name=other", "No certificate in the store My matches", "Use one that exists"),
        ("subject=CN=app;store=Mine", "Certificate store not found: Mine", "it is usually My"),
    ],
)
def test_no_match_is_reported(scripted: ScriptedWindows, which: str, says: str, hint: str) -> None:
    """The error lists the existing certificates."""
    add_issued(scripted)
    with pytest.raises(KeyNotFound, match=says) as caught:
        keyvouch.open_signer(f"windows:{which}")
    assert hint in caught.value.hint


def test_mistyped_store_is_not_created(scripted: ScriptedWindows) -> None:
    """No store is created for an unknown name, since nobody would find a certificate there."""
    with keyvouch.open_store("windows:location=CurrentUser;store=Mine") as store, pytest.raises(KeyvouchError):
        store.generate(KeySpec("RSA-2048", "CN=app"))
    assert (CURRENT_USER, "mine") not in scripted.stores
    assert not scripted.cng
    scripted.assert_all_released()


def test_certificate_without_a_key_is_reported(scripted: ScriptedWindows) -> None:
    """The error says that the private key is missing, for example if the file contained only the certificate."""
    put(scripted, CURRENT_USER, "my", LEAF_CERTIFICATE)
    with pytest.raises(KeyUnusable, match="its private key is not"):
        keyvouch.open_signer("windows:subject=CN=app")


@pytest.mark.parametrize(
    ("uri", "error", "says"),
    [
        (
            "windows:location=CurrentUser;thumbprint=" + "4A" * 20,
            ConfigurationError,
            "can only select an existing certificate",
        ),
        ("windows:location=CurrentUser;subject=CN=other", ConfigurationError, "differs from the requested CN=new"),
    ],
)
def test_uri_unsuitable_for_a_new_key(
    scripted: ScriptedWindows, uri: str, error: type[KeyvouchError], says: str
) -> None:
    """The URI's attributes must fit a key that does not exist yet."""
    with keyvouch.open_store(uri) as store, pytest.raises(error, match=says):
        store.generate(KeySpec("RSA-2048", "CN=new"))
    assert not scripted.cng


def test_impossible_imports(scripted: ScriptedWindows) -> None:
    """Nothing is imported if the location, the provider, the certificate or the key type is unsuitable."""
    edwards = make_any_key("Ed25519")
    chain = [self_signed(LEAF, "CN=new", 1)]
    for uri, key, given, error in (
        ("windows:", LEAF, chain, ConfigurationError),
        ("windows:location=CurrentUser", LEAF, [], CertificateMissing),
        ("windows:location=CurrentUser", edwards, [self_signed(edwards, "CN=new", 1)], NotSupported),
        (f"windows:location=CurrentUser;provider={SOFTWARE}", LEAF, chain, NotSupported),
        (f"windows:location=CurrentUser;provider={AES_CSP}", ROOT, [ROOT_CERTIFICATE], NotSupported),
    ):
        with keyvouch.open_store(uri) as store, pytest.raises(error):
            store.import_key(key, given)
    assert not scripted.cng
    assert not scripted.csp
    scripted.assert_all_released()


def test_second_import_is_refused(scripted: ScriptedWindows) -> None:
    """A second import is refused before the key is imported, since the existing one may be in use."""
    with keyvouch.open_store("windows:location=CurrentUser") as store:
        store.import_key(LEAF, [LEAF_CERTIFICATE])
        there = dict(scripted.cng)
        with pytest.raises(KeyExists, match="already exists in the store"):
            store.import_key(LEAF, [LEAF_CERTIFICATE])
    assert scripted.cng == there


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))], ids=str)
def test_certificate_listed_twice_is_one_key(scripted: ScriptedWindows, order: tuple[int, ...]) -> None:
    """CurrentUser may list a certificate of LocalMachine beside its own copy, in any order: its own key is used."""
    add_issued(scripted)
    listed = scripted.my(machine=False)
    copy = Container(SOFTWARE, "app", machine=True)
    copies = [CertificateRecord(listed[0].der), *listed, CertificateRecord(listed[0].der, copy)]
    listed[:] = [copies[each] for each in order]
    with keyvouch.open_store("windows:location=CurrentUser") as store:
        assert len(store.keys()) == 1
    with keyvouch.open_signer("windows:location=CurrentUser") as signer:
        assert signer.chain[0] == LEAF_CERTIFICATE


def test_names_are_listed_beside_thumbprints(scripted: ScriptedWindows) -> None:
    """A thumbprint says nothing to people: errors and `keys` also have the friendly name, or else the subject."""
    named = pinned(scripted.add(LEAF, IN_CNG, friendly_name="nightly"))
    other = pinned(scripted.add(MIDDLE, Container(SOFTWARE, "other"), subject="CN=other"))
    lines = [f"  '{named}'  nightly", f"  '{other}'  CN=other"]
    for uri, error in (("windows:friendly-name=Nightly", KeyNotFound), ("windows:store=My", AmbiguousKey)):
        with pytest.raises(error) as caught:
            keyvouch.open_signer(uri)
        assert caught.value.hint.splitlines()[1:] == lines
    listed = CliRunner().invoke(group, ["keys", "--key", "windows:"])
    assert "friendly name: nightly; Microsoft" in listed.stdout


@pytest.mark.parametrize(
    ("uri", "hint"),
    [("windows:store=Personal", "it is usually My"), ("windows:friendly-name=Nightly", "Use one that exists")],
)
def test_listing_without_a_match_has_the_hint_of_signing(scripted: ScriptedWindows, uri: str, hint: str) -> None:
    """`keys` says what to correct, like a command that opens the key."""
    scripted.add(LEAF, IN_CNG, friendly_name="nightly")
    done = CliRunner().invoke(group, ["keys", "--key", uri])
    assert hint in done.stderr + str(done.exception)
