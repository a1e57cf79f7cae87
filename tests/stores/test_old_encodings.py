"""Private keys in encodings of older programs: read as the same key, or refused with the command that rewrites them."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from keyvouch._formats import asn1
from keyvouch._formats.asn1 import Element
from keyvouch.errors import KeyUnusable
from stores.key_material import PASSWORD, der, integer, new_key, open_key, openssl, pem_of, write


def armored(data: bytes, label: str = "PRIVATE KEY") -> bytes:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n".encode()


def pkcs8(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def wrapped(algorithm: bytes, key: bytes) -> bytes:
    return der(0x30, integer(0), algorithm, der(0x04, key))


def algorithm_of(key: Any) -> bytes:
    return asn1.encode(asn1.parse(pkcs8(key)).child(1))


def inner_of(key: Any) -> Element:
    return asn1.parse(asn1.parse(pkcs8(key)).child(2).content)


def elliptic_curve_key(kind: str, value: bytes) -> bytes:
    rest = [asn1.encode(each) for each in inner_of(new_key(kind)).children[2:]]
    return der(0x30, integer(1), der(0x04, value), *rest)


def value_of(kind: str) -> bytes:
    return bytes(inner_of(new_key(kind)).child(1).content)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
@pytest.mark.parametrize("form", ["long", "short", "without public key"])
def test_private_value_of_another_length(folder: Path, kind: str, form: str) -> None:
    """A private value with a leading zero, or without one, is the same number."""
    value = value_of(kind)
    key = elliptic_curve_key(kind, b"\0" + value if form == "long" else value.lstrip(b"\0"))
    if form == "without public key":
        key = der(0x30, integer(1), der(0x04, value))
    data = armored(wrapped(algorithm_of(new_key(kind)), key))
    assert open_key(f"pem:{write(folder / 'app.pem', data)}").public_key == new_key(kind).public_key()


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_private_value_in_the_older_format(folder: Path, kind: str) -> None:
    """So it is in a block EC PRIVATE KEY, which names its curve itself."""
    curve = asn1.encode(asn1.parse(algorithm_of(new_key(kind))).child(1))
    public = [asn1.encode(each) for each in inner_of(new_key(kind)).children[2:] if each.tag == b"\xa1"]
    key = der(0x30, integer(1), der(0x04, b"\0" + value_of(kind)), der(0xA0, curve), *public)
    path = write(folder / "app.pem", armored(key, "EC PRIVATE KEY"))
    assert open_key(f"pem:{path}").public_key == new_key(kind).public_key()


def test_wrong_public_key_is_refused(folder: Path) -> None:
    """A private key is not read with another key's public key."""
    rest = [asn1.encode(each) for each in inner_of(new_key("P-256", 1)).children[2:]]
    key = der(0x30, integer(1), der(0x04, b"\0" + value_of("P-256")), *rest)
    with pytest.raises(KeyUnusable, match="cannot be read"):
        open_key(f"pem:{write(folder / 'app.pem', armored(wrapped(algorithm_of(new_key()), key)))}")


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "Ed25519"])
@pytest.mark.parametrize("label", ["RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY"])
def test_label_does_not_matter(folder: Path, kind: str, label: str) -> None:
    """The content says what it is, not the label of its block."""
    path = write(folder / "app.pem", armored(pkcs8(new_key(kind)), label))
    assert open_key(f"pem:{path}").public_key == new_key(kind).public_key()


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256"])
def test_older_format_in_a_block_of_pkcs8(folder: Path, kind: str) -> None:
    """So may the older formats be in a block PRIVATE KEY."""
    data = new_key(kind).private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    path = write(folder / "app.pem", armored(data))
    assert open_key(f"pem:{path}").public_key == new_key(kind).public_key()


@pytest.mark.parametrize("form", ["negative", "no primes", "no derived values"])
def test_rsa_numbers(folder: Path, form: str) -> None:
    """RSA integers without the leading zero, and keys with only modulus and exponents, are the same key."""
    numbers = [each.content for each in inner_of(new_key("RSA-2048")).children]
    if form == "negative":
        numbers = [number.lstrip(b"\0") or b"\0" for number in numbers]
    else:
        kept = 6 if form == "no derived values" else 4
        numbers = [*numbers[:kept], *[b"\0"] * (9 - kept)]
    key = der(0x30, *(der(0x02, number) for number in numbers))
    path = write(folder / "app.pem", armored(wrapped(algorithm_of(new_key("RSA-2048")), key)))
    assert open_key(f"pem:{path}").public_key == new_key("RSA-2048").public_key()


def test_rsa_without_null_parameters(folder: Path) -> None:
    """The NULL parameters of RSA may be missing."""
    algorithm = der(0x30, der(0x06, bytes.fromhex("2a864886f70d010101")))
    data = armored(wrapped(algorithm, asn1.encode(inner_of(new_key("RSA-2048")))))
    assert open_key(f"pem:{write(folder / 'app.pem', data)}").public_key == new_key("RSA-2048").public_key()


@pytest.mark.parametrize("form", ["bare", "with public key"])
def test_ed25519_without_its_own_string(folder: Path, form: str) -> None:
    """Some libraries write the 32 bytes, or these and the public key, without an OCTET STRING of their own."""
    key = new_key("Ed25519")
    content = key.private_bytes_raw() + (key.public_key().public_bytes_raw() if form != "bare" else b"")
    data = armored(wrapped(algorithm_of(key), content))
    assert open_key(f"pem:{write(folder / 'app.pem', data)}").public_key == key.public_key()


@pytest.mark.parametrize("kind", ["prime256v1", "secp384r1", "secp521r1"])
def test_explicit_curve_parameters(folder: Path, kind: str) -> None:
    """A curve that is given by its parameters is recognized."""
    data = openssl("ecparam", "-name", kind, "-genkey", "-param_enc", "explicit")
    expected = openssl("pkey", "-pubout", "-outform", "DER", "-ec_param_enc", "named_curve", stdin=data)
    assert open_key(f"pem:{write(folder / 'app.pem', data)}").public_key == load_der_public_key(expected)


def test_encrypted_old_encoding(folder: Path) -> None:
    """An old encoding that is encrypted is not blamed on the password."""
    plain = wrapped(algorithm_of(new_key("P-256")), elliptic_curve_key("P-256", b"\0" + value_of("P-256")))
    path = write(folder / "app.pem", armored(encrypted(plain), "ENCRYPTED PRIVATE KEY"))
    assert open_key(f"pem:{path}?password=env:PASSWORD").public_key == new_key("P-256").public_key()


def encrypted(plain: bytes) -> bytes:
    """An EncryptedPrivateKeyInfo with AES-256."""
    padder, salt = PKCS7(128).padder(), bytes(8)
    key = hashlib.pbkdf2_hmac("sha1", PASSWORD.encode(), salt, 2048, 32)
    encryptor = Cipher(AES256(key), CBC(bytes(16))).encryptor()
    ciphertext = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    pbkdf2 = der(0x30, der(0x06, bytes.fromhex("2a864886f70d01050c")), der(0x30, der(0x04, salt), integer(2048)))
    cipher = der(0x30, der(0x06, bytes.fromhex("60864801650304012a")), der(0x04, bytes(16)))
    algorithm = der(0x30, der(0x06, bytes.fromhex("2a864886f70d01050d")), der(0x30, pbkdf2, cipher))
    return der(0x30, algorithm, der(0x04, ciphertext))


def test_unreadable_key_names_the_command(folder: Path) -> None:
    """For what remains, the hint has the line that rewrites the file."""
    data = armored(wrapped(algorithm_of(new_key()), b"\x04\x01x"))
    with pytest.raises(KeyUnusable, match=r"openssl pkey -in .* -out NEW\.pem"):
        open_key(f"pem:{write(folder / 'app.pem', data)}")


@pytest.mark.parametrize("damage", ["tag", "point"])
def test_damaged_public_key_is_refused(folder: Path, damage: str) -> None:
    """A public key that cannot be compared is not ignored: the private key beside it may be damaged, too."""
    data = bytearray(openssl("pkey", "-traditional", "-outform", "DER", stdin=pem_of(new_key())))
    at = data.index(b"\xa1\x44\x03\x42\x00\x04")
    data[at if damage == "tag" else at + 5] ^= 0x10
    block = b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(bytes(data)) + b"-----END EC PRIVATE KEY-----\n"
    with pytest.raises(KeyUnusable):
        open_key(f"pem:{write(folder / 'app.pem', block)}")
