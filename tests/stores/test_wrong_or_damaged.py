"""Whether the password is wrong, the file is damaged, or its algorithm is unsupported: what the error says is true."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvouch._formats import asn1
from keyvouch.errors import KeyUnusable, SecretIncorrect
from stores.key_material import (
    PASSWORD,
    certify,
    der,
    integer,
    new_key,
    open_key,
    openssl,
    openssl_pfx,
    pem_of,
    write,
)
from stores.test_files_of_others import odd_certificate
from stores.test_pfx_reading import NEW, OLD, together

ARIA = ("-keypbe", "aria-256-cbc", "-certpbe", "aria-256-cbc")
CFB = ("-keypbe", "aes-256-cfb", "-certpbe", "aes-256-cfb")
BLAKE = ("-macalg", "blake2b512")
ENCRYPTIONS = pytest.mark.parametrize("options", [OLD, NEW, ("-nomac", *NEW[:4])], ids=["old", "new", "without a MAC"])


def flip(path: Path, at: int) -> Path:
    """Change one bit of the byte at this offset."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    return write(path, bytes(data))


def encrypted_certificates(path: Path) -> bytes:
    """Return the ciphertext of the first safe."""
    safes = asn1.parse(asn1.parse(path.read_bytes()).child(1).child(1).child(0).content)
    return safes.child(0).child(1).child(0).child(1).child(2).content


def encrypted_key(path: Path) -> bytes:
    """Return the ciphertext of the key, in the second safe."""
    safes = asn1.parse(asn1.parse(path.read_bytes()).child(1).child(1).child(0).content)
    bags = asn1.parse(safes.child(1).child(1).child(0).content)
    return bags.child(0).child(1).child(0).child(1).content


@ENCRYPTIONS
@pytest.mark.parametrize(
    ("part", "where"),
    [(encrypted_certificates, "end"), (encrypted_key, "end"), (encrypted_key, "middle")],
    ids=["certificates", "key", "inside the key"],
)
def test_damaged_ciphertext_is_not_a_wrong_password(
    folder: Path, options: tuple[str, ...], part: Callable[[Path], bytes], where: str
) -> None:
    """As long as the password decrypts anything in the file, it is the file that is damaged."""
    path = openssl_pfx(folder / "app.pfx", *options)
    ciphertext = part(path)
    begin = path.read_bytes().index(ciphertext)
    flip(path, begin + (len(ciphertext) // 2 if where == "middle" else len(ciphertext) - 1))
    with pytest.raises(KeyUnusable, match="damaged"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("options", [("-v2", "aes-256-cbc"), ("-v1", "PBE-SHA1-3DES")], ids=["PBES2", "PKCS#12"])
@pytest.mark.parametrize("where", ["middle", "end"])
def test_damaged_pem_is_not_a_wrong_password(folder: Path, options: tuple[str, ...], where: str) -> None:
    """So it is with an encrypted key in PEM."""
    arguments = ("pkcs8", "-topk8", *options, "-passout", f"pass:{PASSWORD}", "-outform", "DER")
    path = write(folder / "app.der", openssl(*arguments, stdin=pem_of(new_key())))
    ciphertext = asn1.parse(path.read_bytes()).child(1).content
    begin = path.read_bytes().index(ciphertext)
    flip(path, begin + (len(ciphertext) // 2 if where == "middle" else len(ciphertext) - 1))
    pem = armor(path.read_bytes(), "ENCRYPTED PRIVATE KEY")
    with pytest.raises(KeyUnusable, match="cannot be read"):
        open_key(f"pem:{write(folder / 'app.pem', pem)}?password=env:PASSWORD")


@pytest.mark.parametrize("options", [ARIA, CFB, (*NEW[:4], *BLAKE)], ids=["ARIA", "AES-CFB", "BLAKE2"])
def test_wrong_password_with_rare_algorithms(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """A file that opens with the right password is not reported as unsupported with a wrong one."""
    path = openssl_pfx(folder / "app.pfx", *options)
    assert open_key(f"pfx:{path}?password=env:PASSWORD")
    monkeypatch.setenv("PASSWORD", "wrong")
    with pytest.raises(SecretIncorrect):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def test_wrong_password_with_a_stream_cipher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RC4 has no padding: a wrong password is recognized by the plaintext."""
    options = ("-topk8", "-v1", "PBE-SHA1-RC4-128", "-passout", f"pass:{PASSWORD}", "-provider", "legacy")
    data = openssl("pkcs8", *options, "-provider", "default", stdin=pem_of(new_key()))
    path = write(folder / "app.pem", data)
    assert open_key(f"pem:{path}?password=env:PASSWORD")
    for wrong in range(20):
        monkeypatch.setenv("PASSWORD", f"wrong {wrong}")
        with pytest.raises(SecretIncorrect):
            open_key(f"pem:{path}?password=env:PASSWORD")


def test_unreadable_certificate_in_aria(folder: Path) -> None:
    """A certificate that cannot be read is skipped in a file that only OpenSSL decrypts, too."""
    other = write(folder / "other.key", pem_of(new_key("P-256", 1)))
    path = openssl_pfx(folder / "app.pfx", *ARIA, "-certfile", str(odd_certificate(folder, other)))
    key = open_key(f"pfx:{path}?password=env:PASSWORD")
    assert key.chain == (certify(new_key()),)
    assert "O=x,CN=odd,CN=odd" in key.advice[0]


def test_refused_key_in_aria(folder: Path) -> None:
    """If the reader refuses a file, the password, which matches its MAC, is not blamed."""
    path = folder / "app.pfx"
    key = write(folder / "app.key", openssl("genpkey", "-algorithm", "SM2"))
    openssl("req", "-x509", "-key", key, "-subj", "/CN=app", "-out", folder / "app.crt")
    files = ("-inkey", key, "-in", folder / "app.crt", "-out", path)
    openssl("pkcs12", "-export", *files, "-passout", f"pass:{PASSWORD}", *ARIA)
    with pytest.raises(KeyUnusable, match=r"ARIA"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def test_several_keys_in_aria(folder: Path) -> None:
    """Of two keys that only OpenSSL decrypts, none is taken silently."""
    options = ("-nomac", "-certpbe", "NONE", "-keypbe", "aria-256-cbc")
    files = [openssl_pfx(folder / f"{n}.pfx", *options, key=new_key("P-256", n)).read_bytes() for n in range(2)]
    with pytest.raises(KeyUnusable, match=r"ARIA.*several keys"):
        open_key(f"pfx:{write(folder / 'app.pfx', together(*files))}?password=env:PASSWORD")


@pytest.mark.parametrize("password", ["Pässwort", "p🔑", "密码"], ids=["Latin-1", "emoji", "Chinese"])
def test_password_as_older_openssl_encoded_it(folder: Path, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """OpenSSL before 1.1 took each byte of the password's UTF-8 for a character; OpenSSL 3 still opens such files."""
    as_characters = password.encode().decode("latin-1")
    path = openssl_pfx(folder / "app.pfx", *OLD, password=as_characters)
    assert openssl("pkcs12", "-legacy", "-in", path, "-nodes", "-passin", f"pass:{password}")
    monkeypatch.setenv("PASSWORD", password)
    assert open_key(f"pfx:{path}?password=env:PASSWORD").public_key == new_key().public_key()


@pytest.mark.parametrize("kind", ["secret", "nothing"])
def test_pfx_without_keys_or_certificates(folder: Path, kind: str) -> None:
    """An error about a missing key does not speak of certificates that are not there."""
    oid = bytes.fromhex("2a864886f70d010c0a0105")
    bag = der(0x30, der(0x06, oid), der(0xA0, der(0x30, der(0x06, b"\x2a\x03"), der(0xA0, der(0x04, b"secret")))))
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    safe = der(0x30, bag if kind == "secret" else b"")
    content = der(0x30, der(0x30, data, der(0xA0, der(0x04, safe))))
    path = write(folder / "app.pfx", der(0x30, integer(3), der(0x30, data, der(0xA0, der(0x04, content)))))
    with pytest.raises(KeyUnusable, match="contains no private key") as caught:
        open_key(f"pfx:{path}")
    assert "certificate" not in caught.value.message


def test_another_version_of_pfx(folder: Path) -> None:
    """A PFX whose version is not 3 is not said to be no PFX because it is one."""
    path = openssl_pfx(folder / "app.pfx", "-nomac")
    data = path.read_bytes().replace(b"\x02\x01\x03", b"\x02\x01\x04", 1)
    with pytest.raises(KeyUnusable, match="another version"):
        open_key(f"pfx:{write(path, data)}?password=env:PASSWORD")


def armor(data: bytes, label: str) -> bytes:
    """Return the data as a PEM block."""
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n".encode()
