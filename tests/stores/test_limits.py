"""How much work opening a file may cause, since whoever wrote the file decides that."""

import base64
import datetime as dt
import hashlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding

from keyvouch.certificate import load_certificates, order_chain
from keyvouch.errors import CertificateMissing, KeyUnusable, KeyvouchError
from stores.key_material import PASSWORD, certify, der, integer, new_key, open_key, openssl, openssl_pfx, pem_of, write

NEW = ("-keypbe", "AES-256-CBC", "-certpbe", "AES-256-CBC", "-macalg", "sha256")
OLD = ("-legacy", "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-RC2-40", "-macalg", "sha1")
PLAIN = ("-keypbe", "NONE", "-certpbe", "NONE")
MADE = 70_000
"""Iteration count of the files that are modified to ask for more: its INTEGER has three bytes."""
LIMIT = r"the limit is 3,000,000"


def with_rounds(data: bytes, value: int, *, place: int | None = None) -> bytes:
    """Return the file with another iteration count everywhere, or in one place."""
    parts = data.split(integer(MADE))
    assert len(parts) > (place or 0) + 1
    glue = [integer(value) if place in {None, number} else integer(MADE) for number in range(len(parts) - 1)]
    return b"".join(part + after for part, after in zip(parts, [*glue, b""], strict=True))


def refused(scheme: str, path: Path, password: str = "?password=env:PASSWORD") -> str:
    """Return the error for a file that takes too long to open."""
    with pytest.raises(KeyUnusable) as caught:
        open_key(f"{scheme}:{path}{password}")
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "rounds"),
    [(NEW, 1_200_000), (OLD, 1_200_000), ((*PLAIN, "-macalg", "sha512"), 3_600_000)],
    ids=["new", "old", "mac"],
)
def test_too_many_rounds_are_rejected(folder: Path, options: Sequence[str], rounds: int) -> None:
    """The error has the total rounds of three derivations, and the limit."""
    path = openssl_pfx(folder / "app.pfx", *options, "-iter", rounds)
    assert re.search(r"3,600,000 rounds.*" + LIMIT, refused("pfx", path))


def test_commands_in_the_hint_work(folder: Path) -> None:
    """The hint's commands write a file that opens."""
    path = openssl_pfx(folder / "app.pfx", *NEW, "-iter", 1_200_000)
    commands = refused("pfx", path).partition("Convert it: ")[2].split(" && ")
    for command in commands:
        passwords = ("-passout", f"pass:{PASSWORD}", "-passin", f"pass:{PASSWORD}")
        openssl(*shlex.split(command)[1:], *passwords, folder=folder)
    (folder / "NEW.pfx").chmod(0o600)
    assert open_key(f"pfx:{folder}/NEW.pfx?password=env:PASSWORD").public_key == new_key().public_key()


@pytest.mark.parametrize("options", [NEW, OLD], ids=["new", "old"])
def test_recommended_rounds_open(folder: Path, options: Sequence[str]) -> None:
    """600,000 rounds, as OWASP recommends, open; in three key_files these are 1,800,000."""
    path = openssl_pfx(folder / "app.pfx", *options, "-iter", 600_000)
    assert open_key(f"pfx:{path}?password=env:PASSWORD").public_key == new_key().public_key()


@pytest.mark.parametrize("place", [0, 1, 2], ids=["certificates", "key", "mac"])
@pytest.mark.parametrize("options", [NEW, OLD], ids=["new", "old"])
def test_all_derivations_are_counted(folder: Path, options: Sequence[str], place: int) -> None:
    """A high count is found in any place."""
    path = openssl_pfx(folder / "app.pfx", *options, "-iter", MADE)
    write(path, with_rounds(path.read_bytes(), 0x7FFFFF, place=place))
    assert "8,528,607 rounds" in refused("pfx", path)


@pytest.mark.parametrize(
    "options", [("-v2", "aes-256-cbc"), ("-v2", "des3"), ("-v1", "PBE-SHA1-3DES"), ("-v1", "PBE-MD5-DES")]
)
def test_encrypted_pem_is_limited(folder: Path, options: Sequence[str]) -> None:
    """PKCS#8 in PEM has a count too, with PBKDF2 and with older schemes."""
    legacy = ("-provider", "legacy", "-provider", "default") if "PBE-MD5-DES" in options else ()
    data = openssl(
        "pkcs8",
        "-topk8",
        *options,
        *legacy,
        "-iter",
        MADE,
        "-passout",
        f"pass:{PASSWORD}",
        "-outform",
        "DER",
        stdin=pem_of(new_key()),
    )
    path = write(folder / "app.pem", armored(with_rounds(data, 0x7FFFFF)))
    said = refused("pem", path)
    assert re.search(r"8,388,607 rounds.*" + LIMIT, said)
    assert f"openssl pkey -aes256 -in {path}" in said


def test_keys_of_a_pem_count_together(folder: Path) -> None:
    """Several keys in one file do not bypass the limit."""
    one = openssl("pkcs8", "-topk8", "-iter", MADE, "-passout", f"pass:{PASSWORD}", stdin=pem_of(new_key()))
    assert "3,010,000 rounds" in refused("pem", write(folder / "app.pem", one * 43))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((2**20, 8, 1), r"1,024 MiB of memory \(scrypt\); the limit is 256 MiB"),
        ((2**14, 8, 64), f"8,388,608 rounds.*{LIMIT}"),
        ((2, 2**30 - 1, 1), "MiB of memory"),
        ((2**14, 8, 2**300), LIMIT),
    ],
)
def test_scrypt_is_limited(folder: Path, parameters: tuple[int, int, int], message: str) -> None:
    """The file sets N, r and p; memory is N * r * 128 bytes."""
    data = openssl(
        "pkcs8", "-topk8", "-scrypt", "-passout", f"pass:{PASSWORD}", "-outform", "DER", stdin=pem_of(new_key())
    )
    assert open_key(f"pem:{write(folder / 'good.pem', armored(data))}?password=env:PASSWORD")
    salt = re.search(rb"\x04\x08(.{8})\x02\x02\x40\x00", data, re.DOTALL)
    assert salt
    scrypt = bytes.fromhex("2b06010401da47040b")
    kdf = der(0x30, der(0x06, scrypt), der(0x30, der(0x04, salt[1]), *map(integer, parameters)))
    assert re.search(message, refused("pem", write(folder / "app.pem", armored(pkcs8(kdf)))))


def pkcs8(kdf: bytes, ciphertext: bytes = bytes(160)) -> bytes:
    """An encrypted key with this key derivation."""
    return der(0x30, encryption(kdf), der(0x04, ciphertext))


def encryption(kdf: bytes) -> bytes:
    """AES-256-CBC in PBES2 with this key derivation (RFC 8018, appendix A.4)."""
    cipher = der(0x30, der(0x06, bytes.fromhex("60864801650304012a")), der(0x04, bytes(16)))
    return der(0x30, der(0x06, bytes.fromhex("2a864886f70d01050d")), der(0x30, kdf, cipher))


def pbkdf2(rounds: int, *more: bytes) -> bytes:
    """PBKDF2 parameters."""
    return der(
        0x30, der(0x06, bytes.fromhex("2a864886f70d01050c")), der(0x30, der(0x04, bytes(8)), integer(rounds), *more)
    )


def armored(data: bytes, label: bytes = b"ENCRYPTED PRIVATE KEY") -> bytes:
    """Encode as PEM."""
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, base64.encodebytes(data), label)


@pytest.mark.parametrize(
    "rounds", [2**31 - 1, 2**63, 2**64, 2**800, 2**30_000], ids=lambda rounds: str(rounds.bit_length())
)
def test_huge_counts_are_rejected(folder: Path, rounds: int) -> None:
    """Any number, however large, is refused and shown."""
    assert re.search(LIMIT, refused("pem", write(folder / "app.pem", armored(pkcs8(pbkdf2(rounds))))))


@pytest.mark.parametrize("tag", [0x0C, 0x86], ids=["string", "context"])
@pytest.mark.parametrize("scheme", ["2a864886f70d01050c", "2a864886f70d010c0103"], ids=["PBKDF2", "PKCS#12"])
def test_rounds_of_an_identifier_with_another_tag_count(folder: Path, scheme: str, tag: int) -> None:
    """Rounds count wherever they would be used: another tag on the identifier does not hide them."""
    kdf = der(0x30, der(tag, bytes.fromhex(scheme)), der(0x30, der(0x04, bytes(8)), integer(2**31 - 1)))
    key = pkcs8(kdf) if scheme.endswith("050c") else der(0x30, kdf, der(0x04, bytes(160)))
    assert "2,147,483,647 rounds" in refused("pem", write(folder / "app.pem", armored(key)))


@pytest.mark.parametrize("tag", [0x31, 0xA0], ids=["set", "context"])
def test_rounds_in_another_container_count(folder: Path, tag: int) -> None:
    """Nor does another tag on the identifier's container, or on that of its parameters."""
    parts = der(0x06, bytes.fromhex("2a864886f70d01050c")), der(tag, der(0x04, bytes(8)), integer(2**31 - 1))
    assert "2,147,483,647 rounds" in refused("pem", write(folder / "app.pem", armored(pkcs8(der(tag, *parts)))))


def test_long_derived_keys_count(folder: Path) -> None:
    """PBKDF2 runs once for each block of its output."""
    long = pbkdf2(100_000, integer(32 * 40))
    assert "4,000,000 rounds" in refused("pem", write(folder / "app.pem", armored(pkcs8(long))))


def test_rounds_in_ber_are_counted(folder: Path) -> None:
    """Octet strings in pieces and indefinite lengths do not hide a count."""
    inner = der(
        0x30,
        der(0x30, der(0x06, bytes.fromhex("2a864886f70d010701")), der(0xA0, der(0x04, safe_with(pbkdf2(2**31 - 1))))),
    )
    middle = len(inner) // 2
    pieces = b"\x24\x80" + der(0x04, inner[:middle]) + der(0x24, der(0x04, inner[middle:])) + b"\0\0"
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    file = b"\x30\x80" + integer(3) + b"\x30\x80" + data + b"\xa0\x80" + pieces + b"\0\0" * 3
    assert "2,147,483,647 rounds" in refused("pfx", write(folder / "app.pfx", file))


def test_nested_data_is_not_parsed(folder: Path) -> None:
    """Only the safes and their contents are read: thousands of nested octet strings cause no work."""
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    inner = der(0x30)
    for _ in range(3_000):
        inner = der(0x30, data, der(0xA0, der(0x04, inner)))
    path = write(folder / "app.pfx", der(0x30, integer(3), inner))
    with pytest.raises(KeyvouchError):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def safe_with(kdf: bytes) -> bytes:
    """Safe contents with one encrypted key."""
    bag = der(0x30, der(0x06, bytes.fromhex("2a864886f70d010c0a0102")), der(0xA0, pkcs8(kdf)))
    return der(0x30, bag)


@pytest.mark.parametrize("scheme", ["pem", "pfx"])
def test_large_unencrypted_key_is_rejected_unparsed(folder: Path, scheme: str) -> None:
    """Checking the primes of RSA-16384 takes minutes: the key is refused because of its size."""
    numbers = [integer(value) for value in (0, 2**16383 + 1, 65537, 2**16383 - 1, *[2**8191 + 1] * 5)]
    algorithm = der(0x30, der(0x06, bytes.fromhex("2a864886f70d010101")), der(0x05))
    key = der(0x30, integer(0), algorithm, der(0x04, der(0x30, *numbers)))
    data = armored(key, b"PRIVATE KEY")
    if scheme == "pfx":
        bag = der(0x30, der(0x06, bytes.fromhex("2a864886f70d010c0a0101")), der(0xA0, key))
        data = der(0x06, bytes.fromhex("2a864886f70d010701"))
        inner = der(0x30, der(0x30, data, der(0xA0, der(0x04, der(0x30, bag)))))
        data = der(0x30, integer(3), der(0x30, data, der(0xA0, der(0x04, inner))))
    said = refused(scheme, write(folder / f"app.{scheme}", data))
    assert re.search(r"a private key of 9,\d\d\d bytes; the limit is 5,120", said)


@pytest.mark.parametrize("modulus", [2**4423 - 1, (2**2203 - 1) ** 2, 2**9689 - 1], ids=["prime", "square", "large"])
@pytest.mark.parametrize("form", ["jwk", "pem"])
def test_modulus_without_two_primes(folder: Path, modulus: int, form: str) -> None:
    """No try to factor a (Mersenne) prime or its square succeeds: it is refused first, as is a very large modulus."""
    group = modulus - 1 if modulus != (2**2203 - 1) ** 2 else (2**2203 - 1) * (2**2203 - 2)
    exponent = next(each for each in itertools.count(3, 2) if math.gcd(each, group) == 1)
    numbers = [modulus, exponent, pow(exponent, -1, group)]
    if form == "jwk":
        members = {name: base64url(value) for name, value in zip(("n", "e", "d"), numbers, strict=True)}
        path = write(folder / "app.pem", json.dumps({"kty": "RSA", **members}).encode())
    else:
        content = der(0x30, *map(integer, [0, *numbers, 2, 2, 2]))
        path = write(folder / "app.pem", armored(content, b"RSA PRIVATE KEY"))
    assert "cannot be read" in refused("pem", path, "")


def base64url(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(-(-value.bit_length() // 8), "big")).decode().rstrip("=")


def test_openssl_errors_are_not_internal_errors(folder: Path) -> None:
    """A Diffie-Hellman key that OpenSSL considers too large is reported as what it is."""
    parameters = der(0x30, integer(2**18_000 + 1), integer(2))
    algorithm = der(0x30, der(0x06, bytes.fromhex("2a864886f70d010301")), parameters)
    key = der(0x30, integer(0), algorithm, der(0x04, integer(12345)))
    assert "is a Diffie-Hellman key" in refused("pem", write(folder / "app.pem", armored(key, b"PRIVATE KEY")))


def test_private_keys_count_together(folder: Path) -> None:
    """Each key takes time to check, so their total size is limited."""
    path = write(folder / "app.pem", pem_of(new_key("RSA-2048")) * 40)
    assert "the limit is 32,768" in refused("pem", path)


def test_large_exponent_is_refused(folder: Path) -> None:
    """RSA with a public exponent of more than 64 bits is refused: nobody uses it."""
    options = ("-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", f"rsa_keygen_pubexp:{2**65 + 3}")
    path = write(folder / "app.pem", openssl("genpkey", "-quiet", "-algorithm", "RSA", *options))
    assert "Invalid public exponent" in refused("pem", path)


def big_certificate(bits: int = 8193, exponent: int = 65537, *, issuer: Any = None) -> x509.Certificate:
    """A certificate for a fictitious RSA key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "big")])
    begin = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        name, name, RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1).public_key(), 1, begin, begin + dt.timedelta(days=1)
    )
    return builder.sign(issuer or new_key(), hashes.SHA256())


@pytest.mark.parametrize(("bits", "exponent"), [(8193, 65537), (16384, 65537), (2048, 2**64 + 1)])
def test_certificates_with_large_keys_are_skipped(bits: int, exponent: int) -> None:
    """Such a certificate is not used for verification; if it is the only one, none can be read."""
    big = big_certificate(bits, exponent)
    leaf = certify(new_key("P-256", 1), "app", new_key(), "big")
    found = load_certificates(pem_of(leaf, big), "file")
    assert found == [leaf]
    with pytest.raises(CertificateMissing, match="8192 bits"):
        load_certificates(big.public_bytes(Encoding.DER), "file")


@pytest.mark.parametrize(("bits", "exponent"), [(8192, 65537), (2048, 2**64 - 1)])
def test_largest_keys_in_certificates_are_read(bits: int, exponent: int) -> None:
    """Keys exactly at the limits are read."""
    assert load_certificates(pem_of(big_certificate(bits, exponent)), "file")


@pytest.mark.parametrize("scheme", ["pem", "pfx"])
def test_many_certificates_are_refused(folder: Path, scheme: str) -> None:
    """Finding issuers among thousands of certificates with the same name would take minutes."""
    many = [certify(new_key())] * 501
    if scheme == "pem":
        path = write(folder / "app.pem", pem_of(new_key(), *many))
    else:
        path = openssl_pfx(folder / "app.pfx", chain=many)
    assert "501; the limit is 500" in refused(scheme, path)


def test_chain_is_ten_certificates() -> None:
    """A chain has at most ten certificates, whatever the file contains."""
    keys = [new_key("P-256", which) for which in range(15)]
    pool = [
        certify(key, f"n{number}", issuer, f"n{number + 1}")
        for number, (key, issuer) in enumerate(itertools.pairwise(keys))
    ]
    assert order_chain(pool, keys[0].public_key()) == tuple(pool[:10])


def test_large_pfx_is_refused(folder: Path) -> None:
    """A mebibyte is more than the certificates of all public CAs need."""
    path = openssl_pfx(folder / "app.pfx")
    assert "the limit for a PFX file is 1,048,576" in refused("pfx", write(path, path.read_bytes() + bytes(2**20)))


def test_key_in_the_encrypted_part_is_counted(folder: Path) -> None:
    """The rounds of a doubly encrypted key are visible only with the password, and are then counted, too."""
    path = write(folder / "app.pfx", with_hidden_key(rounds=2_000_000))
    assert open_key(f"pfx:{path}?password=env:PASSWORD").public_key == new_key("P-256").public_key()
    write(path, with_hidden_key(rounds=3_100_000))
    with pytest.raises(KeyUnusable, match="3,102,048 rounds"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def with_hidden_key(rounds: int) -> bytes:
    """A PFX whose key, encrypted with this many rounds, is inside an encrypted part."""
    options = ("-outform", "DER", "-v2", "aes-256-cbc", "-iter", rounds, "-passout", f"pass:{PASSWORD}")
    key = openssl("pkcs8", "-topk8", *options, stdin=pem_of(new_key("P-256")))
    safe = der(0x30, der(0x30, der(0x06, bytes.fromhex("2a864886f70d010c0a0102")), der(0xA0, key)))
    padder = PKCS7(128).padder()
    cipher_key = hashlib.pbkdf2_hmac("sha1", PASSWORD.encode(), bytes(8), 2048, 32)
    encryptor = Cipher(AES256(cipher_key), CBC(bytes(16))).encryptor()
    ciphertext = encryptor.update(padder.update(safe) + padder.finalize()) + encryptor.finalize()
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    content = der(0x30, integer(0), der(0x30, data, encryption(pbkdf2(2048)), der(0x80, ciphertext)))
    part = der(0x30, der(0x06, bytes.fromhex("2a864886f70d010706")), der(0xA0, content))
    return der(0x30, integer(3), der(0x30, data, der(0xA0, der(0x04, der(0x30, part)))))
