"""Which PEM files are opened, and the errors for the others."""

import base64
import re
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keyvouch.errors import (
    AmbiguousKey,
    CertificateMismatch,
    CertificateMissing,
    KeyUnusable,
    SecretIncorrect,
    SecretRequired,
)
from stores.key_material import PASSWORD, certify, new_key, open_key, openssl, openssl_pfx, pem_of, write

PASS_OUT = f"pass:{PASSWORD}"


def traditional(kind: str, *options: str) -> bytes:
    """The key as "RSA PRIVATE KEY" or "EC PRIVATE KEY"."""
    return openssl("pkey", "-traditional", *options, stdin=pem_of(new_key(kind)))


def encrypted(*options: str) -> bytes:
    """The key as "ENCRYPTED PRIVATE KEY"."""
    return openssl("pkcs8", "-topk8", "-passout", PASS_OUT, *options, stdin=pem_of(new_key()))


def test_key_and_certificate_open(folder: Path) -> None:
    """Key and certificate may be in one file, in any order."""
    path = write(folder / "app.pem", pem_of(certify(new_key()), new_key()))
    key = open_key(f"pem:{path}")
    assert key.public_key == new_key().public_key()
    assert key.chain == (certify(new_key()),)


def test_key_alone_opens(folder: Path) -> None:
    """The certificate may be elsewhere: the store does not read `certificate-file`."""
    path = write(folder / "app.key", pem_of(new_key()))
    assert open_key(f"pem:{path}?certificate-file=/nowhere.pem").chain == ()


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "P-384", "P-521"])
def test_traditional_key_opens(folder: Path, kind: str) -> None:
    """The formats before PKCS#8 open."""
    data = traditional(kind)
    assert data.startswith((b"-----BEGIN RSA PRIVATE KEY", b"-----BEGIN EC PRIVATE KEY"))
    assert open_key(f"pem:{write(folder / 'app.pem', data)}").public_key == new_key(kind).public_key()


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256"])
@pytest.mark.parametrize("cipher", ["-aes256", "-des3"])
def test_encrypted_traditional_key_opens(folder: Path, kind: str, cipher: str) -> None:
    """The encrypted formats before PKCS#8 open, too."""
    path = write(folder / "app.pem", traditional(kind, cipher, "-passout", PASS_OUT))
    assert b"Proc-Type: 4,ENCRYPTED" in path.read_bytes()
    assert open_key(f"pem:{path}?password=env:PASSWORD").public_key == new_key(kind).public_key()


@pytest.mark.parametrize("options", [("-v2", "aes-256-cbc"), ("-v2", "des3"), ("-v1", "PBE-SHA1-3DES")])
def test_encrypted_pkcs8_opens(folder: Path, options: tuple[str, ...]) -> None:
    """Encrypted PKCS#8 opens."""
    path = write(folder / "app.pem", encrypted(*options))
    assert open_key(f"pem:{path}?password=env:PASSWORD").public_key == new_key().public_key()


def test_text_around_blocks_is_ignored(folder: Path) -> None:
    """The output of `openssl pkcs12 -nodes`, with text between the blocks and Windows line endings, opens."""
    listing = openssl("pkcs12", "-in", openssl_pfx(folder / "app.pfx"), "-passin", PASS_OUT, "-nodes")
    assert b"Bag Attributes" in listing
    path = write(folder / "app.pem", listing.replace(b"\n", b"\r\n"))
    assert open_key(f"pem:{path}").chain == (certify(new_key()),)


def test_curve_parameters_are_skipped(folder: Path) -> None:
    """`openssl ecparam -genkey` writes the curve before the key."""
    data = openssl("ecparam", "-name", "prime256v1", "-genkey")
    assert data.startswith(b"-----BEGIN EC PARAMETERS")
    assert open_key(f"pem:{write(folder / 'app.pem', data)}")


def test_unnecessary_password_is_ignored(folder: Path) -> None:
    """A password for an unencrypted key does no harm."""
    path = write(folder / "app.pem", pem_of(new_key()))
    assert open_key(f"pem:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("data", [encrypted, lambda: traditional("RSA-2048", "-aes256", "-passout", PASS_OUT)])
def test_missing_password_is_an_error(folder: Path, data: type[bytes]) -> None:
    """If a password is required, the error says how to give one."""
    with pytest.raises(SecretRequired, match=r"\?password=env:NAME"):
        open_key(f"pem:{write(folder / 'app.pem', data())}")


@pytest.mark.parametrize("data", [encrypted, lambda: traditional("RSA-2048", "-aes256", "-passout", PASS_OUT)])
def test_wrong_password_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, data: type[bytes]) -> None:
    """A wrong password is reported as such, and not shown."""
    path = write(folder / "app.pem", data())
    monkeypatch.setenv("PASSWORD", "battery staple")
    with pytest.raises(SecretIncorrect) as caught:
        open_key(f"pem:{path}?password=env:PASSWORD")
    assert "staple" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"


def test_two_keys_are_ambiguous(folder: Path) -> None:
    """Neither of two keys is taken; the error lists a URI that opens each."""
    keys = [new_key("P-256", 1), new_key("P-256", 2)]
    path = write(folder / "app.pem", pem_of(*keys, certify(keys[1])))
    with pytest.raises(AmbiguousKey) as caught:
        open_key(f"pem:{path}")
    opened = [open_key(candidate) for candidate in caught.value.candidates]
    assert [key.public_key for key in opened] == [key.public_key() for key in keys]
    assert [key.chain for key in opened] == [(), (certify(keys[1]),)]


def test_certificate_of_another_key_is_rejected(folder: Path) -> None:
    """A key does not open if the file has only another key's certificate."""
    path = write(folder / "app.pem", pem_of(new_key(), certify(new_key("P-256", 1))))
    with pytest.raises(CertificateMismatch):
        open_key(f"pem:{path}")


def test_certificate_alone_fails(folder: Path) -> None:
    """For a file with only a certificate, the error says what to add."""
    path = write(folder / "app.crt", pem_of(certify(new_key())))
    with pytest.raises(KeyUnusable, match=r"no private key: name .*certificate-file="):
        open_key(f"pem:{path}")


def test_public_key_fails(folder: Path) -> None:
    """A public key is reported as such."""
    data = new_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyUnusable, match="public key"):
        open_key(f"pem:{write(folder / 'app.pem', data)}")


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "Ed25519"])
def test_openssh_key_opens(folder: Path, kind: str) -> None:
    """OpenSSH's own format opens."""
    data = new_key(kind).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    path = write(folder / "id", data)
    assert open_key(f"pem:{path}").public_key == new_key(kind).public_key()


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_encrypted_openssh_key_fails(folder: Path, kind: str) -> None:
    """For an encrypted one, the command in the error makes a copy that opens, and leaves the original as it is."""
    path = folder / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", PASSWORD, "-f", path], check=True)
    before = path.read_bytes()
    with pytest.raises(KeyUnusable, match="encrypted, and in OpenSSH's format") as caught:
        open_key(f"pem:{path}?password=env:PASSWORD")
    command = caught.value.hint.partition(": ")[2].replace("-N ''", f"-P '{PASSWORD}' -N ''")
    subprocess.run(["sh", "-c", command], check=True, cwd=folder, capture_output=True)
    assert path.read_bytes() == before
    assert open_key(f"pem:{folder / 'NEW.pem'}")


@pytest.mark.parametrize("end", [100, -30])
def test_truncated_pem_fails(folder: Path, end: int) -> None:
    """A truncated key or certificate is reported as such."""
    path = write(folder / "app.pem", pem_of(new_key(), certify(new_key()))[:end])
    with pytest.raises(KeyUnusable, match="truncated"):
        open_key(f"pem:{path}")


def test_damaged_key_fails(folder: Path) -> None:
    """An unreadable unencrypted key is not blamed on the password."""
    data = pem_of(new_key()).replace(b"MIG", b"MIH")
    with pytest.raises(KeyUnusable, match="cannot be read"):
        open_key(f"pem:{write(folder / 'app.pem', data)}")


def test_pem_in_utf_16_fails(folder: Path) -> None:
    """UTF-16, as PowerShell's > writes, is reported with the command that converts it back."""
    path = write(folder / "app.pem", pem_of(new_key()).decode().encode("utf-16"))
    with pytest.raises(KeyUnusable) as caught:
        open_key(f"pem:{path}")
    assert f"Set-Content -Encoding utf8 '{path}'" in caught.value.hint


def test_pfx_in_pem_fails(folder: Path) -> None:
    """For a PFX the error has the right scheme."""
    path = openssl_pfx(folder / "app.pem")
    with pytest.raises(KeyUnusable, match=re.escape(f"pfx:{path}")):
        open_key(f"pem:{path}")


@pytest.mark.parametrize("kind", ["RSA-1024", "SECP256K1", "Ed448", "DSA"])
def test_other_keys_fail(folder: Path, kind: str) -> None:
    """A key that is too short, or of a type that cannot sign JWTs, is refused."""
    with pytest.raises(KeyUnusable, match=r"RSA"):
        open_key(f"pem:{write(folder / 'app.pem', pem_of(new_key(kind)))}")


def test_other_pem_blocks_fail(folder: Path) -> None:
    """For PEM without a key the error says what is missing."""
    data = openssl("ecparam", "-name", "prime256v1")
    with pytest.raises(KeyUnusable, match="PRIVATE KEY block"):
        open_key(f"pem:{write(folder / 'app.pem', data)}")


def _mutated(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    assert len(old) == len(new)
    return data.replace(old, new)


def test_certificate_of_another_version(folder: Path) -> None:
    """A certificate with an invalid version is reported, and is not a defect."""
    key = new_key()
    certificate = certify(key).public_bytes(Encoding.DER)
    odd = _mutated(certificate, bytes.fromhex("a003020102"), bytes.fromhex("a003020113"))
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(odd) + b"-----END CERTIFICATE-----\n"
    write(folder / "app.pem", pem_of(key) + pem)
    with pytest.raises(CertificateMissing):
        open_key(f"pem:{folder}/app.pem")


@pytest.mark.parametrize("tag", [0x0C, 0x14, 0x16, 0x1E])
def test_unparsable_certificate_name(folder: Path, tag: int) -> None:
    """A certificate with a wrongly encoded name is skipped, and does not affect its family."""
    key, other = new_key(), new_key("P-256", 1)
    certificate = certify(key, "xpp").public_bytes(Encoding.DER)
    odd = _mutated(certificate, b"\x0c\x03xpp", bytes((tag, 3)) + b"\xfcpp")
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(odd) + b"-----END CERTIFICATE-----\n"
    write(folder / "a.pem", pem_of(key) + pem)
    write(folder / "b.pem", pem_of(other, certify(other)))
    with pytest.raises((CertificateMissing, CertificateMismatch)):
        open_key(f"pem:{folder}/a.pem")
    assert open_key(f"pem:{folder}/*.pem").chain == (certify(other),)


def test_invalid_vector_is_not_a_wrong_password(folder: Path) -> None:
    """An initialization vector of the wrong size, at which `cryptography` panics, is an unreadable key."""
    block = traditional("P-256", "-aes256", "-passout", PASS_OUT)
    block = re.sub(rb"(DEK-Info: AES-256-CBC,)[0-9A-F]+", rb"\1D6874BB048E64955D9068957", block)
    assert b"DEK-Info" in block
    write(folder / "app.pem", block)
    with pytest.raises(KeyUnusable, match="cannot be read"):
        open_key(f"pem:{folder}/app.pem?password=env:PASSWORD")


def test_many_begin_lines_take_linear_time(folder: Path) -> None:
    """A file with many unterminated blocks is scanned only once."""
    write(folder / "app.pem", b"-----BEGIN A-----\n" * 200_000)
    with pytest.raises(KeyUnusable, match="truncated"):
        open_key(f"pem:{folder}/app.pem")
