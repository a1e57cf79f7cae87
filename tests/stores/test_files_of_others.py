"""Files of other programs, in `files`: public test keys, each of a kind that once failed."""

import hashlib
import shutil
import warnings
from pathlib import Path

import pytest
from cryptography import x509

from keyvouch._formats import asn1
from keyvouch.certificate import spki_sha256
from keyvouch.errors import AmbiguousKey, CertificateMissing, KeyNotFound, KeyUnusable, NotSupported, SecretIncorrect
from keyvouch.secrets import Secret
from stores.key_material import (
    PASSWORD,
    certify,
    der,
    new_key,
    open_key,
    openssl,
    openssl_pfx,
    pem_of,
    store,
    uri,
    write,
)
from stores.test_pfx_reading import NEW, OLD, PLAIN

FILES = Path(__file__).with_name("files")
RSA_SPKI = "f1079c4297e43cacce02bdbdfda7f65186dfa4f003c79e0580cbf11c005e90d2"
ENCRYPTIONS = pytest.mark.parametrize("options", [OLD, NEW, PLAIN], ids=["old", "new", "plain"])


@pytest.fixture(autouse=True)
def _passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "pw")
    monkeypatch.setenv("WINDOWS", "password")
    monkeypatch.setenv("JAVA", "changeit")


def located(folder: Path, name: str, attributes: str = "", password: str = "PW") -> str:
    """Return the URI of a copy that only its owner can read."""
    path = Path(shutil.copy(FILES / name, folder / name))
    path.chmod(0o600)
    scheme = "pem" if name.endswith(".pem") else "pfx"
    return f"{scheme}:path={path}{attributes}?password=env:{password}"


def names(chain: tuple[x509.Certificate, ...]) -> list[str]:
    return [certificate.subject.rfc4514_string() for certificate in chain]


def odd_certificate(folder: Path, key: Path) -> Path:
    """A certificate that OpenSSL accepts and `cryptography` refuses: an attribute twice in its name."""
    path = folder / "odd.crt"
    openssl("req", "-x509", "-key", key, "-subj", "/O=x/CN=odd+CN=odd", "-out", path)
    return path


def test_nul_after_friendly_name(folder: Path) -> None:
    """Windows ends the friendly name with a NUL, which does not belong to it."""
    name = ";friendly-name=Valid Certificate Path Test1 EE"
    key = open_key(located(folder, "windows-export.pfx", name, "WINDOWS"))
    assert names(key.chain) == ["CN=Valid EE Certificate Test1,O=Test Certificates 2011,C=US"]
    assert "%00" not in str(key.uri)


def test_nul_is_not_exported(folder: Path) -> None:
    """A PFX written from such a file has the name without NUL."""
    text = located(folder, "windows-export.pfx", password="WINDOWS")
    exported = write(folder / "new.pfx", store(text).export_pfx(uri(text), Secret("pw")))
    listing = openssl("pkcs12", "-in", exported, "-passin", "pass:pw", "-nokeys")
    assert b"friendlyName: Valid Certificate Path Test1 EE\n" in listing
    assert open_key(f"pfx:path={exported};friendly-name=Valid Certificate Path Test1 EE?password=env:PW")


def test_unreadable_certificate_of_another_is_skipped(folder: Path) -> None:
    """A certificate that is not the key's own is skipped, and named with the reason."""
    key = open_key(located(folder, "c_nullalg_chain.p12"))
    assert names(key.chain) == ["CN=leaf rsa", "CN=Intermediate"]
    assert "the certificate of CN=test cannot be read" in key.advice[0].lower().replace("cn=", "CN=")


@ENCRYPTIONS
def test_unreadable_certificate_is_skipped(folder: Path, options: tuple[str, ...]) -> None:
    """However the file is encrypted, one certificate that cannot be read does not affect the others."""
    other = write(folder / "other.key", pem_of(new_key("P-256", 1)))
    options = (*options, "-certfile", str(odd_certificate(folder, other)))
    key = open_key(f"pfx:{openssl_pfx(folder / 'app.pfx', *options)}?password=env:PASSWORD")
    assert key.chain == (certify(new_key()),)
    assert "O=x,CN=odd,CN=odd" in key.advice[0]


@pytest.mark.parametrize("name", ["c_dupdn.p12", "generated.pem"])
def test_unreadable_certificate_of_the_key_is_an_error(folder: Path, name: str) -> None:
    """A key whose own certificate cannot be read does not open: its assertions would not name the certificate."""
    if name == "generated.pem":
        source = write(folder / "app.key", pem_of(new_key()))
        path = write(folder / name, source.read_bytes() + odd_certificate(folder, source).read_bytes())
        text = f"pem:{path}"
    else:
        text = located(folder, name)
    with pytest.raises(CertificateMissing, match=r"CN=.* cannot be read: duplicate attributes"):
        open_key(text)


def test_unreadable_certificate_in_another_file_is_used(folder: Path) -> None:
    """With `certificate-file`, the certificate in the key's own file does not matter."""
    assert open_key(located(folder, "c_dupdn.p12") + "&certificate-file=/other.crt").chain == ()


def test_text_mode_copy_is_reported(folder: Path) -> None:
    """Carriage returns that a copy in text mode has inserted are not blamed on the password."""
    with pytest.raises(KeyUnusable, match=r"copied as text.*\n.*in binary mode"):
        open_key(located(folder, "b_crlf.p12"))


@ENCRYPTIONS
def test_text_mode_copy_is_recognized(folder: Path, options: tuple[str, ...]) -> None:
    """So it is with every encryption."""
    path = openssl_pfx(folder / "app.pfx", *options, "-name", "\n")
    write(path, path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(KeyUnusable, match="copied as text"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def test_dsa_key_of_java_is_named(folder: Path) -> None:
    """A DSA key is reported as what it is."""
    with pytest.raises(KeyUnusable, match="DSA"):
        open_key(located(folder, "j_dsa.p12", password="JAVA"))


@pytest.mark.parametrize("kind", ["DSA", "Ed448", "SECP256K1"])
def test_unusable_kind_is_named(folder: Path, kind: str) -> None:
    """A key of a type that cannot sign JWTs is not blamed on the password."""
    path = openssl_pfx(folder / "app.pfx", key=new_key(kind))
    with pytest.raises(KeyUnusable, match=f"(?i){kind}"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def test_trusted_certificate_is_read(folder: Path) -> None:
    """OpenSSL's certificates with trust settings are certificates."""
    assert names(open_key(located(folder, "trusted.pem")).chain) == ["CN=leaf rsa"]


@pytest.mark.parametrize("form", ["trusted", "X509 CERTIFICATE", "PKCS7"])
def test_other_forms_of_certificates_are_read(folder: Path, form: str) -> None:
    """So are those with the older label, and those in a PKCS#7."""
    certificate = pem_of(certify(new_key()))
    if form == "trusted":
        data = openssl("x509", "-trustout", "-addtrust", "clientAuth", stdin=certificate)
    elif form == "PKCS7":
        data = openssl("crl2pkcs7", "-nocrl", "-certfile", write(folder / "a.crt", certificate))
    else:
        data = certificate.replace(b"CERTIFICATE", form.encode())
    assert form.upper().encode() in data
    assert open_key(f"pem:{write(folder / 'app.pem', pem_of(new_key()) + data)}").chain == (certify(new_key()),)


@pytest.mark.parametrize("attributes", ["", ";friendly-name=new"])
def test_only_the_chosen_key_is_judged(folder: Path, attributes: str) -> None:
    """A weak key in the file does not affect the others."""
    text = located(folder, "b_weak_good.p12", attributes)
    assert open_key(text).uri.get("spki-sha256") == RSA_SPKI


def test_weak_key_is_found_by_its_name(folder: Path) -> None:
    """If the weak key is chosen, the error says that it is weak."""
    with pytest.raises(KeyUnusable, match="RSA-1024"):
        open_key(located(folder, "b_weak_good.p12", ";friendly-name=old"))


def test_weak_key_is_found_by_its_digest(folder: Path) -> None:
    """A pinned URI of a weak key does not open another one."""
    weak = new_key("RSA-1024")
    path = write(folder / "app.pem", pem_of(weak, new_key()))
    with pytest.raises(KeyUnusable, match="RSA-1024"):
        open_key(f"pem:path={path};spki-sha256={spki_sha256(weak.public_key())}")


def test_other_keys_still_count(folder: Path) -> None:
    """A file with a weak key contains several keys: it is not rewritten."""
    path = write(folder / "app.pem", pem_of(new_key("RSA-1024"), new_key()))
    with pytest.raises(NotSupported, match="several keys"):
        store(f"pem:{path}").install_certificate(uri(f"pem:{path}"), [certify(new_key())])


def test_keys_in_encrypted_safes_are_ambiguous(folder: Path) -> None:
    """Of two keys in encrypted contents, none is taken silently."""
    with pytest.raises(AmbiguousKey) as caught:
        open_key(located(folder, "b_two_enc.p12"))
    assert len({open_key(each).uri.get("spki-sha256") for each in caught.value.candidates}) == 2


def test_name_of_the_key_is_found(folder: Path) -> None:
    """A friendly name that only the key has identifies it."""
    assert open_key(located(folder, "c_keyname_only.p12", ";friendly-name=nightly"))
    with pytest.raises(KeyNotFound, match="Use one of: nightly"):
        open_key(located(folder, "c_keyname_only.p12", ";friendly-name=other"))


def test_ber_in_der_is_read_without_warning(folder: Path) -> None:
    """BER inside a definite outer length is read, and the caller sees no warning of a library."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_key(located(folder, "b_ber_inner.p12")).uri.get("spki-sha256") == RSA_SPKI


@pytest.mark.parametrize("name", ["ecc256.pem", "lab1.pem", "pss512.pem"])
def test_public_key_is_that_of_openssl(folder: Path, name: str) -> None:
    """Keys in older or unusual encodings are read, as OpenSSL reads them."""
    expected = openssl("pkey", "-in", FILES / name, "-pubout", "-outform", "DER")
    key = open_key(located(folder, name))
    assert key.uri.get("spki-sha256") == hashlib.sha256(expected).hexdigest()


def test_wrong_password_is_distinguished_from_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the password decrypts the file but the MAC does not match, the file was changed."""
    path = openssl_pfx(folder / "app.pfx")
    data = bytearray(path.read_bytes())
    data[data.index(asn1.parse(bytes(data)).child(2).child(0).child(1).content)] ^= 1  # the MAC
    write(path, bytes(data))
    with pytest.raises(KeyUnusable, match="damaged"):
        open_key(f"pfx:{path}?password=env:PASSWORD")
    monkeypatch.setenv("PASSWORD", "wrong")
    with pytest.raises(SecretIncorrect):
        open_key(f"pfx:{path}?password=env:PASSWORD")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (" {} ", "spaces"),
        ('"{}"', "quotation marks"),
        ("'{}'", "quotation marks"),
        ("“{}”", "quotation marks"),
        ("x{}", "Correct"),
    ],
)
def test_incorrect_password_hint(folder: Path, monkeypatch: pytest.MonkeyPatch, given: str, hint: str) -> None:
    """Quotation marks and spaces around a password are the most frequent mistakes."""
    monkeypatch.setenv("PASSWORD", given.format(PASSWORD))
    with pytest.raises(SecretIncorrect, match=hint):
        open_key(f"pfx:{openssl_pfx(folder / 'app.pfx')}?password=env:PASSWORD")


def test_password_for_an_empty_password(folder: Path) -> None:
    """If the file's password is empty, the error says so."""
    path = openssl_pfx(folder / "app.pfx", password="")
    with pytest.raises(SecretIncorrect, match=r"password is empty.\nRemove password="):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def test_password_for_a_plain_file_is_ignored(folder: Path) -> None:
    """A password for a file that is not encrypted, and has no MAC, does no harm."""
    path = openssl_pfx(folder / "app.pfx", "-nomac", *PLAIN, password="")
    assert open_key(f"pfx:{path}?password=env:PASSWORD")


def test_safes_within_safes_are_read(folder: Path) -> None:
    """A safe may contain another one (RFC 7292, section 4.2.6)."""
    plain = openssl_pfx(folder / "a.pfx", "-nomac", *PLAIN).read_bytes()
    inner = asn1.parse(asn1.parse(plain).child(1).child(1).child(0).content).child(1).child(1).child(0).content
    bag = der(0x30, der(0x30, der(0x06, bytes.fromhex("2a864886f70d010c0a0106")), der(0xA0, inner)))
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    safes = der(0x30, der(0x30, data, der(0xA0, der(0x04, bag))))
    file = der(0x30, der(0x02, b"\x03"), der(0x30, data, der(0xA0, der(0x04, safes))))
    assert open_key(f"pfx:{write(folder / 'app.pfx', file)}").public_key == new_key().public_key()
