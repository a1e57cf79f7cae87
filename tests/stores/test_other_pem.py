"""PEM files with something odd in them: it affects as little as possible, and the error names it."""

import base64
import subprocess
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from keyvouch.errors import KeyUnusable, SecretIncorrect, SecretRequired
from stores.key_material import certify, new_key, open_key, openssl, openssl_pfx, pem_of, write
from stores.test_pem_reading import encrypted, traditional

BROKEN = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"


@pytest.mark.parametrize("query", ["", "?password=env:PASSWORD"], ids=["without a password", "with one"])
def test_damaged_encrypted_key_is_skipped(folder: Path, query: str) -> None:
    """An encrypted key that is damaged does not affect the others."""
    key = open_key(f"pem:{write(folder / 'app.pem', BROKEN + pem_of(new_key()))}{query}")
    assert key.public_key == new_key().public_key()
    assert "cannot be read" in key.advice[0]


def test_key_with_another_password_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keys with different passwords, those that the password decrypts are used."""
    options = ("-topk8", "-passout", "pass:other")
    other = openssl("pkcs8", *options, stdin=pem_of(new_key("P-384")))
    path = write(folder / "app.pem", other + encrypted())
    key = open_key(f"pem:{path}?password=env:PASSWORD")
    assert key.public_key == new_key().public_key()
    assert "another password" in key.advice[0]
    monkeypatch.setenv("PASSWORD", "other")
    assert open_key(f"pem:{path}?password=env:PASSWORD").public_key == new_key("P-384").public_key()
    monkeypatch.setenv("PASSWORD", "third")
    with pytest.raises(SecretIncorrect):
        open_key(f"pem:{path}?password=env:PASSWORD")


def test_plain_key_does_not_replace_an_encrypted_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong password, or none, another key in the file is not taken instead."""
    path = write(folder / "app.pem", encrypted() + pem_of(new_key("P-384")))
    with pytest.raises(SecretRequired):
        open_key(f"pem:{path}")
    monkeypatch.setenv("PASSWORD", "wrong")
    with pytest.raises(SecretIncorrect):
        open_key(f"pem:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n"], ids=["CR", "CRLF", "LF"])
def test_line_ends_of_any_system(folder: Path, end: bytes) -> None:
    """A key with headers is read with the line ends of Windows, Unix and old Macs."""
    data = traditional("P-256", "-aes128", "-passout", "env:PASSWORD").replace(b"\n", end)
    assert open_key(f"pem:{write(folder / 'app.pem', data)}?password=env:PASSWORD")


@pytest.mark.parametrize("wrong", [b"BEGIN PRIVAT KEY", b"END PRIVATE KE"])
def test_missing_end_is_named(folder: Path, wrong: bytes) -> None:
    """If the first and last lines of a block differ, the error names the line that is missing."""
    name = wrong.partition(b" ")[0] + b" PRIVATE KEY"
    path = write(folder / "app.pem", pem_of(new_key()).replace(name, wrong))
    expected = "PRIVAT KEY" if wrong.startswith(b"BEGIN") else "PRIVATE KEY"
    with pytest.raises(KeyUnusable, match=f"no line -----END {expected}-----"):
        open_key(f"pem:{path}")


def test_dsa_key_of_openssh_causes_no_warning(folder: Path) -> None:
    """A key type that `cryptography` deprecates is refused, and the caller sees no warning of a library."""
    path = folder / "id_dsa"
    write(path, openssl("genpkey", "-genparam", "-algorithm", "DSA", "-pkeyopt", "dsa_paramgen_bits:1024"))
    write(path, openssl("genpkey", "-paramfile", path))
    subprocess.run(["ssh-keygen", "-p", "-N", "", "-f", path], check=True, capture_output=True)
    assert b"OPENSSH" in path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyUnusable, match="DSA"):
            open_key(f"pem:{path}")


@pytest.mark.parametrize("serial", ["0", "-5"])
def test_odd_serial_number_causes_no_warning(folder: Path, serial: str) -> None:
    """A serial number that is not positive does not matter, and the caller sees no warning of a library."""
    key = write(folder / "app.key", pem_of(new_key()))
    certificate = openssl("req", "-x509", "-key", key, "-subj", "/CN=odd", "-set_serial", serial)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_key(f"pem:{write(folder / 'app.pem', key.read_bytes() + certificate)}").chain


def test_damaged_certificate_without_a_name(folder: Path) -> None:
    """The message about a certificate of which nothing can be read does not pretend that it has a subject."""
    certificate = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    key = open_key(f"pem:{write(folder / 'app.pem', pem_of(new_key(), certify(new_key())) + certificate)}")
    assert key.advice[0].partition(": ")[2].startswith("A certificate cannot be read")


@pytest.mark.parametrize("label", ["CERTIFICATE", "PKCS7", "X"])
@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_pfx_under_another_label(folder: Path, scheme: str, label: str) -> None:
    """`certutil -encode` on Windows labels whatever it encodes as a certificate: a PFX in it is read."""
    data = base64.encodebytes(openssl_pfx(folder / "a.pfx").read_bytes()).decode()
    path = write(folder / "app", f"-----BEGIN {label}-----\n{data}-----END {label}-----\n".encode())
    if scheme == "pfx":
        assert open_key(f"pfx:{path}?password=env:PASSWORD").chain == (certify(new_key()),)
    else:
        with pytest.raises(KeyUnusable, match=f"write pfx:{path}"):
            open_key(f"pem:{path}")


@pytest.mark.parametrize("after", [b"\r\n", b"\0", b""], ids=["line end", "NUL", "more"])
def test_bytes_after_a_certificate(folder: Path, after: bytes) -> None:
    """As OpenSSL does, keyvouch reads a certificate in DER with something after it; further certificates count."""
    issuer, key = new_key("P-256", 1), write(folder / "app.key", pem_of(new_key()))
    chain = (certify(new_key(), "app", issuer, "root"), certify(issuer, "root"))
    data = [each.public_bytes(Encoding.DER) for each in chain]
    from keyvouch.certificate import load_certificates

    found = load_certificates(data[0] + after if after else b"".join(data), key)
    assert tuple(found) == (chain[:1] if after else chain)
