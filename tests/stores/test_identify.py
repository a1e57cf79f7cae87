"""What is said about a file that is neither PFX nor PEM: what it is, and a command that really converts it."""

import base64
import datetime as dt
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyvouch import open_signer
from keyvouch.certificate import load_certificates
from keyvouch.errors import CertificateMissing, KeyUnusable
from stores.key_material import PASSWORD, certify, new_key, open_key, openssl, openssl_pfx, pem_of, write

PEM = pem_of(new_key("P-256"), certify(new_key("P-256")))


def pfx(folder: Path) -> bytes:
    return openssl_pfx(folder / "source.pfx", key=new_key("P-256")).read_bytes()


def convert(folder: Path, error: KeyUnusable) -> None:
    """Run the command in the hint."""
    command = error.hint.partition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True, cwd=folder)


def opens(path: Path) -> bool:
    path.chmod(0o600)
    scheme = "pfx" if path.suffix == ".pfx" else "pem"
    return bool(open_key(f"{scheme}:{path}?password=env:PASSWORD").public_key == new_key("P-256").public_key())


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("wrapped", [True, False], ids=["lines", "one line"])
@pytest.mark.parametrize("inside", ["pfx", "pem"])
def test_base64_is_decoded(folder: Path, scheme: str, times: int, wrapped: bool, inside: str) -> None:
    """Base64, as Key Vault, GitHub Actions and Kubernetes hand it out, even if it was encoded twice."""
    data = pfx(folder) if inside == "pfx" else PEM
    for _ in range(times):
        data = base64.encodebytes(data) if wrapped else base64.b64encode(data)
    path = write(folder / "given", data)
    with pytest.raises(KeyUnusable, match="it is the base64 of") as caught:
        open_key(f"{scheme}:{path}")
    assert {1: "", 2: ", encoded twice", 3: ", encoded 3 times"}[times] in caught.value.message
    convert(folder, caught.value)
    assert opens(folder / f"NEW.{inside}")


@pytest.mark.parametrize("kind", ["Key Vault PFX", "Key Vault PEM", "service account"])
@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_json_is_named(folder: Path, scheme: str, kind: str) -> None:
    """JSON that contains the key is named, with the command that extracts it."""
    content, what, extracted = {
        "Key Vault PFX": ({"value": base64.b64encode(pfx(folder)).decode()}, "az keyvault", "-d > NEW.pfx"),
        "Key Vault PEM": ({"value": PEM.decode()}, "az keyvault", "jq -r .value"),
        "service account": ({"type": "service_account", "private_key": PEM.decode()}, "service", "jq -r .private_key"),
    }[kind]
    path = write(folder / "given", json.dumps(content, indent=2).encode())
    with pytest.raises(KeyUnusable, match=what) as caught:
        open_key(f"{scheme}:{path}")
    assert extracted in caught.value.hint


@pytest.mark.parametrize("content", ["JWK", "set of JWKs"])
def test_jwk_is_read_as_pem(folder: Path, content: str) -> None:
    """A private JWK is read under `pem:`, which is what the hint under `pfx:` says."""
    key = new_key("P-256")
    numbers, public = key.private_numbers(), key.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": _encode(public.x),
        "y": _encode(public.y),
        "d": _encode(numbers.private_value),
    }
    path = write(folder / "given", json.dumps(jwk if content == "JWK" else {"keys": [jwk]}).encode())
    with pytest.raises(KeyUnusable, match=f"it is a {content}") as caught:
        open_key(f"pfx:{path}")
    assert caught.value.hint == f"Write pem:{path} to read it."
    assert open_key(f"pem:{path}").public_key == key.public_key()


def _encode(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("data", "what", "command"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "HTML", "Download it again"),
        (b"<?xml version='1.0'?><RSAKeyValue/>", "XML", "Export"),
        (b"\xfe\xed\xfe\xed\0\0\0\2", "JKS", "keytool -importkeystore"),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "PuTTY", "puttygen"),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me\n", "SSH public key", "private key"),
        (b"apiVersion: v1\nkind: Secret\ndata:\n  tls.key: LS0t\n", "Kubernetes Secret", "kubectl get secret"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
        (b"$ANSIBLE_VAULT;1.1;AES256\n61\n", "Ansible Vault", "ansible-vault decrypt"),
        (b"PK\x03\x04....", "ZIP", "unzip"),
        (b'{"keys": []}', "set of JWKs", "a private key"),
    ],
)
@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_other_files_are_named(folder: Path, scheme: str, data: bytes, what: str, command: str) -> None:
    """Files of other kinds are named, under either scheme."""
    with pytest.raises(KeyUnusable, match=f"it is .*{what}") as caught:
        open_key(f"{scheme}:{write(folder / 'given', data)}")
    assert command in caught.value.hint


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
@pytest.mark.parametrize("form", ["key", "certificate", "pkcs7", "public key", "revocation list", "message (CMS)"])
def test_der_is_named(folder: Path, scheme: str, form: str) -> None:
    """DER is named for what it contains; neither scheme sends users to the other."""
    with pytest.raises(KeyUnusable, match=f"(?i)it is an? .*{re.escape(form.replace('pkcs7', 'PKCS#7'))}") as caught:
        open_key(f"{scheme}:{write(folder / 'given', make_der(folder, form))}")
    assert "pfx:" not in caught.value.hint
    if form == "key":
        convert(folder, caught.value)
        assert opens(folder / "NEW.pem")


@pytest.mark.parametrize("form", ["PKCS#8", "PKCS#1", "SEC1", "encrypted"])
@pytest.mark.parametrize("encoded", [False, True], ids=["DER", "base64 of DER"])
@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_key_in_der_is_converted(folder: Path, scheme: str, encoded: bool, form: str) -> None:
    """One command converts each form, and an encrypted key stays encrypted."""
    kind = "RSA-2048" if form == "PKCS#1" else "P-256"
    options = {
        "PKCS#8": ("pkey",),
        "PKCS#1": ("pkey", "-traditional"),
        "SEC1": ("pkey", "-traditional"),
        "encrypted": ("pkcs8", "-topk8", "-passout", f"pass:{PASSWORD}"),
    }[form]
    data = openssl(*options, "-outform", "DER", stdin=pem_of(new_key(kind)))
    path = write(folder / "given key", base64.b64encode(data) if encoded else data)
    with pytest.raises(KeyUnusable, match="private key in DER") as caught:
        open_key(f"{scheme}:{path}?password=env:PASSWORD")
    command = caught.value.hint.partition(": ")[2]
    passwords = f" -passin pass:'{PASSWORD}' -passout pass:'{PASSWORD}'" if form == "encrypted" else ""
    subprocess.run(["sh", "-c", command + passwords], check=True, cwd=folder)
    assert open_key(f"pem:{folder}/NEW.pem?password=env:PASSWORD").public_key == new_key(kind).public_key()
    assert (b"ENCRYPTED" in (folder / "NEW.pem").read_bytes()) == (form == "encrypted")


@pytest.mark.parametrize("name", ["app", "an app", "50%?&.x"])
def test_uri_in_the_hint_opens(folder: Path, name: str) -> None:
    """The URI in a hint is quoted and encoded as its file requires: it opens the key, under the other scheme."""
    for scheme, data in (("pem", pfx(folder)), ("pfx", PEM)):
        path = write(folder / name, data)
        uri = scheme + ":" + str(path).replace("%", "%25").replace("?", "%3F")
        with pytest.raises(KeyUnusable) as caught:
            open_key(uri)
        (advised,) = shlex.split(caught.value.hint.removeprefix("Write ").removesuffix("."))
        assert open_key(f"{advised}?password=env:PASSWORD").public_key == new_key("P-256").public_key()


@pytest.mark.parametrize("name", ["app.crt", "50%&.crt"])
@pytest.mark.parametrize("scheme", ["pfx", "pem"])
@pytest.mark.parametrize("form", ["certificate", "pkcs7", "PEM"])
def test_uri_in_the_hint_about_a_certificate_opens(folder: Path, scheme: str, form: str, name: str) -> None:
    """Only the name of the key's file is missing in the URI."""
    path = write(folder / name, pem_of(certify(new_key("P-256"))) if form == "PEM" else make_der(folder, form))
    with pytest.raises(KeyUnusable) as caught:
        open_key(f"{scheme}:{str(path).replace('%', '%25')}")
    (uri,) = shlex.split(caught.value.hint.partition("write ")[2].removesuffix("."))
    key = write(folder / "app.key", pem_of(new_key("P-256")))
    with open_signer(uri.replace("KEY-FILE", str(key))) as signer:
        assert signer.chain[0].public_key() == new_key("P-256").public_key()


@pytest.mark.parametrize("form", ["key", "public key", "PEM"])
def test_key_as_certificate_file(folder: Path, form: str) -> None:
    """For a key in place of a certificate, the hint neither converts the key nor asks for another one."""
    data = pem_of(new_key("P-256")) if form == "PEM" else make_der(folder, form)
    with pytest.raises(CertificateMissing) as caught:
        load_certificates(data, "app.crt")
    assert caught.value.hint == "Specify the file with the certificate."


def make_der(folder: Path, form: str) -> bytes:
    """A key, its certificate or its public key in DER."""
    key = new_key("P-256")
    if form == "key":
        return bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    if form == "certificate":
        return certify(key).public_bytes(Encoding.DER)
    if form == "public key":
        return openssl("pkey", "-pubout", "-outform", "DER", stdin=pem_of(key))
    if form == "revocation list":
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateRevocationListBuilder(certify(key).subject, now, now + dt.timedelta(1))
        return builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    certificate = write(folder / "a.crt", pem_of(certify(key)))
    if form == "message (CMS)":
        return openssl("cms", "-encrypt", "-outform", "DER", certificate, stdin=b"text")
    return openssl("crl2pkcs7", "-nocrl", "-certfile", certificate, "-outform", "DER")


def test_escaped_line_ends_are_converted(folder: Path) -> None:
    """PEM whose line ends are the two characters of an escape, with or without quotation marks."""
    for quote in (b"", b'"'):
        path = write(folder / "given", quote + PEM.replace(b"\n", b"\\n") + quote)
        with pytest.raises(KeyUnusable, match="two characters") as caught:
            open_key(f"pem:{path}")
        convert(folder, caught.value)
        assert opens(folder / "NEW.pem")


@pytest.mark.parametrize("end", [r"\n", r"\r\n"])
@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_escaped_line_ends_of_windows(folder: Path, scheme: str, end: str) -> None:
    """So it is with escaped line ends of Windows, under either scheme."""
    path = write(folder / "given", PEM.replace(b"\n", end.encode()))
    with pytest.raises(KeyUnusable, match=r"instead of line ends") as caught:
        open_key(f"{scheme}:{path}")
    convert(folder, caught.value)
    assert opens(folder / "NEW.pem")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_byte_order_mark(folder: Path, encoding: str) -> None:
    """UTF-16 is recognized even if it does not begin with a byte order mark."""
    with pytest.raises(KeyUnusable, match=r"UTF-16") as caught:
        open_key(f"pem:{write(folder / 'given', PEM.decode().encode(encoding))}")
    convert(folder, caught.value)
    assert opens(folder / "NEW.pem")


def test_armored_pfx_is_read(folder: Path) -> None:
    """A PFX in PEM, as GnuTLS writes it, opens; `pem:` says how."""
    data = b"-----BEGIN PKCS12-----\n" + base64.encodebytes(pfx(folder)) + b"-----END PKCS12-----\n"
    path = write(folder / "given", data)
    assert open_key(f"pfx:{path}?password=env:PASSWORD").public_key == new_key("P-256").public_key()
    with pytest.raises(KeyUnusable, match="write pfx:"):
        open_key(f"pem:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("encoding", ["DER", "PEM"])
def test_p7b_is_a_chain(folder: Path, encoding: str) -> None:
    """A `.p7b`, which Windows authorities hand out, is read wherever certificates are."""
    chain = [certify(new_key("P-256"), "app", new_key("P-256", 1), "root"), certify(new_key("P-256", 1), "root")]
    source = write(folder / "chain.pem", pem_of(*chain))
    data = openssl("crl2pkcs7", "-nocrl", "-certfile", source, "-outform", encoding)
    assert load_certificates(data, "chain.p7b") == chain


def test_pfx_as_certificate_file(folder: Path) -> None:
    """For a PFX in place of a certificate, the hint extracts its certificates."""
    with pytest.raises(CertificateMissing, match=r"it is a PFX.\nExtract .*-nokeys"):
        load_certificates(pfx(folder), "app.pfx")


def test_text_mode_damage_is_named(folder: Path) -> None:
    """Bytes that were decoded and encoded as UTF-8 cannot be restored."""
    data = pfx(folder).decode(errors="replace").encode()
    with pytest.raises(KeyUnusable, match="treated as text"):
        open_key(f"pfx:{write(folder / 'given', data)}")
