"""Certificates, checked with the `openssl` command and `cryptography`."""

import datetime as dt
import hashlib
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyvouch import certificate
from keyvouch.certificate import check_chain, check_validity, load_certificates, order_chain, parse_subject, status
from keyvouch.errors import (
    CertificateExpired,
    CertificateMismatch,
    CertificateMissing,
    CertificateNotYetValid,
    ConfigurationError,
)
from stores.key_material import certify, new_key, openssl, pem_of, write

KINDS = ["RSA-2048", "RSA-3072", "P-256", "P-384", "P-521", "Ed25519"]


def der_of(thing: Any) -> bytes:
    data: bytes = thing.public_bytes(Encoding.DER)
    return data


def chain_of(*names: str) -> list[x509.Certificate]:
    """A chain, leaf first: each name's key is issued by the next one's, the last is self-signed."""
    keys = [new_key("P-256", number) for number in range(len(names))]
    issued = [
        certify(key, name, issuer, issuer_name)
        for (key, name), (issuer, issuer_name) in itertools.pairwise(zip(keys, names, strict=True))
    ]
    return [*issued, certify(keys[-1], names[-1])]


def valid_between(begin: int, end: int) -> x509.Certificate:
    """A certificate whose validity begins and ends this many seconds from now."""
    key = new_key()
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder(parse_subject("authority"), parse_subject("app"), key.public_key(), 1)
        .not_valid_before(now + dt.timedelta(seconds=begin))
        .not_valid_after(now + dt.timedelta(seconds=end))
        .sign(key, certificate._signing_hash(key))
    )


def with_unknown_key(known: x509.Certificate) -> x509.Certificate:
    """The certificate, with an unknown identifier for its key type."""
    elliptic, unknown = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0209")
    return x509.load_der_x509_certificate(der_of(known).replace(elliptic, unknown))


# Thumbprints


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_thumbprint_matches_openssl(kind: str, name: certificate.HashName) -> None:
    """A thumbprint is the hash of the whole DER, in upper case, as Entra ID and Windows show it."""
    leaf = certify(new_key(kind))
    reported = openssl("x509", "-noout", "-fingerprint", f"-{name}", stdin=pem_of(leaf)).decode()
    assert certificate.thumbprint(leaf, name) == reported.strip().partition("=")[2].replace(":", "")
    assert certificate.fingerprint(leaf, name).hex().upper() == certificate.thumbprint(leaf, name)


@pytest.mark.parametrize("kind", KINDS)
def test_spki_digest_matches_openssl(kind: str) -> None:
    """A key is identified by the digest of its public half, which all its certificates share."""
    leaf = certify(new_key(kind))
    pem = openssl("x509", "-noout", "-pubkey", stdin=pem_of(leaf))
    expected = hashlib.sha256(openssl("pkey", "-pubin", "-outform", "DER", stdin=pem)).hexdigest()
    assert certificate.spki_sha256(new_key(kind).public_key()) == expected
    assert certificate.certificate_spki(leaf) == expected


# Reading


def test_pem_is_read_in_order() -> None:
    """A PEM file yields its certificates in order; keys and text between them are skipped."""
    leaf, root = chain_of("app", "root")
    data = b"Bag Attributes\n" + pem_of(leaf) + pem_of(new_key()) + b"\r\n# comment\n" + pem_of(root)
    assert load_certificates(data, "file") == [leaf, root]


def test_der_is_one_certificate() -> None:
    """Anything but PEM is read as a single certificate in DER."""
    leaf = certify(new_key())
    assert load_certificates(der_of(leaf), "file") == [leaf]


@pytest.mark.parametrize(
    "data",
    [b"", b"text", pem_of(new_key()), b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30\x03"],
    ids=["empty", "text", "key", "damaged", "cut"],
)
def test_missing_certificate_error_names_the_file(data: bytes) -> None:
    """The error names the file if it has no readable certificate."""
    with pytest.raises(CertificateMissing, match=r"^No valid certificate found in app.crt"):
        load_certificates(data, "app.crt")


def test_certificate_in_utf_16() -> None:
    """PowerShell's > writes PEM as UTF-16: the hint converts it back."""
    with pytest.raises(CertificateMissing) as caught:
        load_certificates(pem_of(new_key()).decode().encode("utf-16"), "app.crt")
    assert "(Get-Content 'app.crt') | Set-Content -Encoding utf8 'app.crt'" in caught.value.hint


# The order of a chain


@pytest.mark.parametrize("seed", range(10))
def test_chain_is_ordered(seed: int) -> None:
    """Whatever the order of the certificates, the key's own comes first and each next one issued the one before."""
    chain = chain_of("app", "issuing", "policy", "root")
    shuffled = random.Random(seed).sample(chain, len(chain))
    assert order_chain(shuffled, new_key("P-256", 0).public_key()) == tuple(chain)


def test_unrelated_certificates_are_omitted() -> None:
    """A certificate that did not issue anything in the chain is not part of it, even with the issuer's name."""
    chain = chain_of("app", "root")
    impostor = certify(new_key("P-256", 7), "root")
    pool = [impostor, certify(new_key("RSA-2048"), "other"), *reversed(chain)]
    assert order_chain(pool, new_key("P-256", 0).public_key()) == tuple(chain)


def test_duplicate_certificates_are_omitted() -> None:
    """A bundle that repeats certificates does not make the chain longer."""
    chain = chain_of("app", "root")
    assert order_chain(chain * 2, new_key("P-256", 0).public_key()) == tuple(chain)


def test_incomplete_chain_is_accepted() -> None:
    """A chain need not reach a root."""
    chain = chain_of("app", "issuing", "root")
    assert order_chain([chain[0], chain[2]], new_key("P-256", 0).public_key()) == (chain[0],)


def test_leaf_that_expires_last_is_used() -> None:
    """Of several certificates for a key, the one that expires last is used."""
    key = new_key()
    leaves = [certificate.self_signed(key, "app", days) for days in (10, 30, 20)]
    assert order_chain(leaves, key.public_key())[0] == leaves[1]


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_valid_leaf_is_preferred(order: int) -> None:
    """A renewed certificate that is not yet valid does not replace one that still is."""
    current, renewed = valid_between(-1000, 1000), valid_between(500, 100_000)
    assert order_chain([current, renewed][::order], new_key().public_key())[0] == current


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_complete_chain_is_preferred(order: int) -> None:
    """Of two certificates of a cross-signed authority, the one whose own issuer is there is used."""
    leaf_key, middle_key, one, other = (new_key("P-256", number) for number in range(4))
    leaf = certify(leaf_key, "app", middle_key, "middle")
    middles = [certify(middle_key, "middle", one, "one"), certify(middle_key, "middle", other, "other")]
    root = certify(other, "other")
    assert order_chain([leaf, *middles[::order], root], leaf_key.public_key()) == (leaf, middles[1], root)


@pytest.mark.parametrize("order", [1, -1], ids=["first", "last"])
def test_expired_issuer_is_avoided(order: int) -> None:
    """An authority's expired certificate is not used if it has a valid one."""
    key, authority = new_key("P-256", 1), new_key()
    issuers = [valid_between(-1000, -500), valid_between(-1000, 1000)]
    leaf = certify(key, "leaf", authority, "app")
    assert order_chain([leaf, *issuers[::order]], key.public_key())[1] == issuers[1]


def test_cross_signed_authorities() -> None:
    """Cross-signed authorities make a finite chain."""
    one, other = new_key("P-256", 1), new_key("P-256", 2)
    pool = [certify(one, "one", other, "other"), certify(other, "other", one, "one")]
    assert order_chain(pool, one.public_key()) == tuple(pool)


def test_no_certificates_give_an_empty_chain() -> None:
    """A key without a certificate has an empty chain."""
    assert order_chain([], new_key().public_key()) == ()


def test_certificate_of_another_key_is_rejected() -> None:
    """If there are certificates but none for this key, the error says so."""
    with pytest.raises(CertificateMismatch, match="CN=app does not belong to the key"):
        order_chain(chain_of("app", "root"), new_key("RSA-2048").public_key())


def test_unknown_key_type_in_a_bundle() -> None:
    """A certificate with an unreadable key type does not affect the others in its bundle."""
    leaf = certify(new_key())
    pool = [with_unknown_key(leaf), leaf]
    assert leaf in order_chain(pool, new_key().public_key())
    with pytest.raises(CertificateMismatch):
        order_chain(pool[:1], new_key().public_key())
    with pytest.raises(CertificateMismatch):
        check_chain(pool[:1], new_key().public_key())


def test_chain_in_order_passes() -> None:
    """A chain in order, complete or not, or an empty one, is accepted."""
    chain = chain_of("app", "issuing", "root")
    for length in range(4):
        check_chain(chain[:length], new_key("P-256", 0).public_key())


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 2), (0, 0)])
def test_chain_out_of_order_is_rejected(order: tuple[int, ...]) -> None:
    """The error names the certificate that the next one did not issue."""
    chain = chain_of("app", "issuing", "root")
    with pytest.raises(CertificateMismatch, match="CN=app was not issued by"):
        check_chain([chain[place] for place in order], new_key("P-256", 0).public_key())


def test_chain_must_begin_with_the_key() -> None:
    """The first certificate must be the key's own; otherwise an assertion's header would name another."""
    chain = chain_of("app", "root")
    with pytest.raises(CertificateMismatch, match="CN=root does not belong to the key"):
        check_chain(chain[::-1], new_key("P-256", 0).public_key())


# Validity


@pytest.mark.parametrize(
    ("begin", "end", "state"), [(-60, 60, "valid"), (-60, -2, "expired"), (60, 120, "not-yet-valid")]
)
def test_status_has_the_validity(begin: int, end: int, state: str) -> None:
    """A chain's status is that of its first certificate, with both dates."""
    leaf = valid_between(begin, end)
    found = status([leaf, certify(new_key())])
    assert (found.state, found.not_before, found.not_after) == (
        state,
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
    )


def test_first_and_last_second_are_valid() -> None:
    """Both ends are part of the validity (RFC 5280, section 4.1.2.5)."""
    leaf, second = valid_between(0, 60), dt.timedelta(seconds=1)
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    states = [status([leaf], now).state for now in (begin - second, begin, end, end + second)]
    assert states == ["not-yet-valid", "valid", "valid", "expired"]


def test_status_without_a_certificate() -> None:
    """A key without a certificate is shown as such."""
    assert status([]) == certificate.CertificateStatus("missing")


def test_validity_is_enforced() -> None:
    """A key that may not be used now is refused, with the date, the subject and the URI."""
    check_validity(valid_between(-60, 60))
    with pytest.raises(CertificateExpired, match=r"CN=app expired at 20\d\d-\d\d-\d\d \d\d:\d\d UTC") as caught:
        check_validity(valid_between(-60, -2), "pfx:/a")
    assert caught.value.uri == "pfx:/a"
    with pytest.raises(CertificateNotYetValid, match="CN=app is not valid before 20"):
        check_validity(valid_between(60, 120))


# New certificates


@pytest.mark.parametrize("kind", KINDS)
def test_self_signed_is_verified_by_openssl(tmp_path: Path, kind: str) -> None:
    """OpenSSL accepts a new certificate, including its signature, for client authentication."""
    made = certificate.self_signed(new_key(kind), "CN=app,O=Contoso", 30)
    path = write(tmp_path / "app.pem", pem_of(made))
    openssl("verify", "-check_ss_sig", "-purpose", "sslclient", "-CAfile", path, path)
    text = openssl("x509", "-in", path, "-noout", "-text").decode()
    assert "TLS Web Client Authentication" in text
    assert "Digital Signature" in text
    assert "CA:FALSE" in text
    made.verify_directly_issued_by(made)


def test_self_signed_has_the_requested_fields() -> None:
    """It has the given subject, days and key, begins now and not earlier, and has its own serial number."""
    key, before = new_key(), dt.datetime.now(dt.UTC).replace(microsecond=0)
    made, other = (certificate.self_signed(key, "CN=app,O=Contoso", 30) for _ in range(2))
    assert made.subject.rfc4514_string() == made.issuer.rfc4514_string() == "CN=app,O=Contoso"
    assert before <= made.not_valid_before_utc <= dt.datetime.now(dt.UTC)
    assert made.not_valid_after_utc - made.not_valid_before_utc == dt.timedelta(days=30)
    assert made.public_key() == key.public_key()
    assert made.serial_number != other.serial_number
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("days", [-1, 10**7, 10**12])
def test_invalid_days_are_rejected(days: int) -> None:
    """An end before the beginning, or beyond the last representable date, is the caller's mistake."""
    with pytest.raises(ConfigurationError, match=f"Invalid validity period: {days} days"):
        certificate.self_signed(new_key(), "app", days)


@pytest.mark.parametrize("kind", KINDS)
def test_request_is_verified_by_openssl(kind: str) -> None:
    """A request proves possession of the key, and contains the subject."""
    made = certificate.request(new_key(kind), "CN=app,O=Contoso")
    openssl("req", "-inform", "DER", "-verify", "-noout", stdin=der_of(made))
    reported = openssl("req", "-inform", "DER", "-noout", "-subject", "-nameopt", "RFC2253", stdin=der_of(made))
    assert reported.decode().strip() == "subject=CN=app,O=Contoso"
    pem = openssl("req", "-inform", "DER", "-noout", "-pubkey", stdin=der_of(made))
    assert pem == new_key(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("app", "CN=app"),
        ("my app", "CN=my app"),
        ("CN=app,O=Contoso", "CN=app,O=Contoso"),
        (r"CN=a\,b", r"CN=a\,b"),
        ("CN=ä\u2019", "CN=ä\u2019"),
    ],
)
def test_subject_is_a_distinguished_name(text: str, name: str) -> None:
    """A subject has the syntax of RFC 4514; a bare word is a common name."""
    assert parse_subject(text).rfc4514_string() == name


@pytest.mark.parametrize("text", ["", "CN=", "a,b", "=x", "CN=\\", "X=y", "CN=a,", "C=DEU", "CN=" + "x" * 65, "CN=#zz"])
def test_invalid_subject_is_rejected(text: str) -> None:
    """An invalid name is reported with an example of the syntax; nothing is guessed and no warning is issued."""
    with pytest.raises(ConfigurationError, match="Invalid subject") as caught:
        parse_subject(text)
    assert "RFC 4514" in caught.value.hint
