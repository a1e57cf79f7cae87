"""Calls to the module do not multiply with the number of keys on a token."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from keyvouch._core.opening import parse
from keyvouch.algorithms import ALGORITHMS
from keyvouch.certificate import self_signed
from keyvouch.errors import AmbiguousKey, KeyChanged, KeyNotFound, StoreUnavailable
from keyvouch.local_key import make_key
from keyvouch.secrets import SecretResolver
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import templates
from keyvouch_pkcs11.store import Pkcs11Store
from pkcs11_modules import only_token, recorded_calls
from softhsm_keys import UriOf, generate
from softhsm_tokens import SOFTHSM, softhsm  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from keyvouch.algorithms import PrivateKey

pytestmark = pytest.mark.server

SEARCHES_OF_ALL = 3
"""For the private keys, the public keys, and the certificates."""


@pytest.fixture
def store(softhsm: UriOf) -> Iterator[Pkcs11Store]:
    """A connected store, with the key `app`, to which the token is logged in."""
    generate(softhsm())
    uri = parse(softhsm())
    opened = Pkcs11Store(uri, SecretResolver())
    opened.connect(timeout=30)
    opened.open(uri, timeout=30)
    yield opened
    opened.close()


def add_keys(number: int, *, label: str = "", issuer: tuple[PrivateKey, x509.Certificate] | None = None) -> list[bytes]:
    """Import this many keys, each with its certificate; return their ids."""
    token, added = only_token(SOFTHSM), []
    with token.read_write_session() as session, token.module as functions:
        for each in range(number):
            key = make_key("P-256")
            certificate = self_signed(key, f"CN={each}", 30) if issuer is None else issued_by(*issuer, key)
            private, public = templates.imported_key(key)
            identifiers = templates.KeyIdentifiers(b"%d" % each, (label or f"other-{each}").encode())
            functions.create_object(session, templates.private_key_template(identifiers, private, exportable=False))
            functions.create_object(session, templates.public_key_template(identifiers, public))
            functions.create_object(session, templates.certificate_template(certificate, identifiers))
            added.append(identifiers.id)
    return added


def remove(ids: list[bytes]) -> None:
    token = only_token(SOFTHSM)
    with token.read_write_session() as session, token.module as functions:
        for each in ids:
            for handle in functions.find_objects(session, {ck.CKA_ID: each}):
                functions.destroy_object(session, handle)


def issued_by(key: PrivateKey, issuer: x509.Certificate, subject_key: PrivateKey) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number()).public_key(subject_key.public_key())
    builder = builder.issuer_name(issuer.subject).subject_name(x509.Name.from_rfc4514_string("CN=leaf"))
    return builder.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1)).sign(key, hashes.SHA256())


def calls_of(store: Pkcs11Store, uri: str) -> Counter[str]:
    """Return how often each function is called to open the key, or to fail."""
    with recorded_calls() as calls:
        try:
            store.open(parse(uri), timeout=30).close()
        except (AmbiguousKey, KeyNotFound):
            calls.append("failed")
    return Counter(calls)


def test_calls_to_open_a_key(store: Pkcs11Store, softhsm: UriOf) -> None:
    """By label, two searches and four objects; by id, one search and the same objects; other keys do not count."""
    pinned = str(store.open(parse(softhsm()), timeout=30).uri)
    finding = ("FindObjectsInit", "FindObjects", "FindObjectsFinal")
    # SoftHSM always has a second slot, with a token that is not initialized.
    expected = Counter(GetSlotList=2, GetTokenInfo=2, GetAttributeValue=4)
    by_label, by_id = expected + Counter(finding * 2), expected + Counter(finding)
    assert (calls_of(store, softhsm()), calls_of(store, pinned)) == (by_label, by_id)
    add_keys(30)
    assert (calls_of(store, softhsm()), calls_of(store, pinned)) == (by_label, by_id)


@pytest.mark.parametrize("name", ["slot-description=%00", "slot-manufacturer=%00", "library-description=%00"])
def test_attributes_of_slot_and_library_are_compared(store: Pkcs11Store, softhsm: UriOf, name: str) -> None:
    """What is read only if the URI gives it still decides which token is meant."""
    with pytest.raises(StoreUnavailable, match="No token matches"):
        store.open(parse(softhsm(f"object=app;{name}")), timeout=30)


def test_missing_key_among_many(store: Pkcs11Store, softhsm: UriOf) -> None:
    """A label or id that no key has takes as many calls as with one key."""
    for missing in ("object=missing", "id=%FF%FE"):
        before = calls_of(store, softhsm(missing))
        assert before["failed"]
        added = add_keys(15)
        assert calls_of(store, softhsm(missing)) == before
        remove(added)


def test_ambiguous_among_many(store: Pkcs11Store, softhsm: UriOf) -> None:
    """The error lists ten keys, and no more than that are read completely."""
    add_keys(30)
    with recorded_calls() as calls, pytest.raises(AmbiguousKey, match="More than 10 keys match") as caught:
        store.open(parse(softhsm("type=private")), timeout=30)
    assert len(caught.value.candidates) == 10
    assert caught.value.hint.count("\n") == 11
    counted = Counter(calls)
    assert counted["FindObjectsInit"] == SEARCHES_OF_ALL
    # Public keys and certificates once; of 11 keys also the private key and the certificate's value.
    assert counted["GetAttributeValue"] == 2 * 31 + 2 * 11
    assert str(store.open(parse(caught.value.candidates[3]), timeout=30).uri) == caught.value.candidates[3]


def test_choice_among_many(store: Pkcs11Store, softhsm: UriOf) -> None:
    """The newest, the certificate's and the pinned key are found among many with three searches."""
    certificate = store.open(parse(softhsm()), timeout=30).chain[0]
    digest = store.open(parse(softhsm()), timeout=30).uri.get("spki-sha256")
    add_keys(20, label="app")
    for uri, given in ((softhsm(), certificate), (softhsm(more=f"&spki-sha256={digest}"), None)):
        with recorded_calls() as calls:
            assert store.open(parse(uri), given, timeout=30).chain == (certificate,)
        assert calls.count("FindObjectsInit") == SEARCHES_OF_ALL
    assert calls_of(store, softhsm(more="&select=newest"))["FindObjectsInit"] == SEARCHES_OF_ALL
    with pytest.raises(KeyChanged):
        store.open(parse(softhsm(more=f"&spki-sha256={'0' * 64}")), timeout=30)


def test_common_issuer_is_searched_once(store: Pkcs11Store, softhsm: UriOf) -> None:
    """The issuer of many certificates is looked for once."""
    key = make_key("P-256")
    add_keys(12, label="issued", issuer=(key, self_signed(key, "CN=ca", 30)))
    counted = calls_of(store, softhsm("object=issued", more="&select=newest"))
    assert counted["FindObjectsInit"] == SEARCHES_OF_ALL + 1


def test_signing_calls_do_not_grow(store: Pkcs11Store, softhsm: UriOf) -> None:
    """A signature uses the handle found when the key was opened: it searches nothing."""
    key = store.open(parse(softhsm()), timeout=30)
    add_keys(20)
    with recorded_calls() as calls:
        key.sign(b"message", ALGORITHMS["ES256"], timeout=30)
    assert calls == []  # C_SignInit and C_Sign are called directly


def test_attributes_larger_than_the_buffer(store: Pkcs11Store, softhsm: UriOf) -> None:
    """A label and a certificate for which the buffers are too small are read with their sizes."""
    label = "a" * 5000
    key = make_key("P-256")
    names = x509.SubjectAlternativeName([x509.DNSName(f"{number}.example") for number in range(500)])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().serial_number(1).public_key(key.public_key()).add_extension(names, False)
    builder = builder.issuer_name(x509.Name([])).subject_name(x509.Name([]))
    certificate = builder.not_valid_before(now).not_valid_after(now + dt.timedelta(days=1)).sign(key, hashes.SHA256())
    assert len(certificate.public_bytes(Encoding.DER)) > ck._BUFFER_SIZE
    pinned = store.import_key(parse(softhsm(f"object={label}")), key, [certificate])
    opened = store.open(pinned, timeout=30)
    assert opened.uri.get("object") == label.encode()
    assert opened.chain == (certificate,)
