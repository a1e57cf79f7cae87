"""New and imported keys: what is written, how, and never over an existing file."""

import datetime as dt
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyvouch._system import files
from keyvouch.algorithms import KEY_TYPES, key_type
from keyvouch.errors import (
    CertificateMismatch,
    ConfigurationError,
    KeyExists,
    KeyUnusable,
    KeyvouchError,
    SecretRequired,
)
from keyvouch.store import KeySpec
from stores.key_material import PASSWORD, certify, load_with_openssl, new_key, open_key, openssl, store, uri, write

QUICK = KeySpec("P-256", "CN=new,O=Contoso", days=7)
SLOW = KeySpec("RSA-4096", "CN=new")


def generate(text: str, spec: KeySpec = QUICK) -> Any:
    """Generate a key, and open it."""
    return open_key(store(text).generate(uri(text), spec))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def no_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if an RSA key is created before a refusal."""
    monkeypatch.setattr(rsa, "generate_private_key", lambda *_: pytest.fail("a key was made"))


@pytest.mark.parametrize("kind", KEY_TYPES)
@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_every_key_type_is_generated(folder: Path, scheme: str, kind: str) -> None:
    """Every requested type of key is created, and opens by the returned URI."""
    key = generate(f"{scheme}:{folder}/app?password=env:PASSWORD", KeySpec(kind))
    assert key_type(key.public_key) == kind
    assert key.chain[0].public_key() == key.public_key


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_self_signed_certificate_is_generated(folder: Path, scheme: str) -> None:
    """The certificate has the subject, the validity and the key usage for signing in."""
    (certificate,) = generate(f"{scheme}:{folder}/app").chain
    assert certificate.subject.rfc4514_string() == "CN=new,O=Contoso"
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == dt.timedelta(days=7)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_certificate_file_is_written(folder: Path, scheme: str) -> None:
    """With `certificate-file` the certificate is written there, and only the key to its own file."""
    key = generate(f"{scheme}:{folder}/app?certificate-file={folder}/app.crt")
    certificate = x509.load_pem_x509_certificate((folder / "app.crt").read_bytes())
    assert certificate.public_key() == key.public_key
    assert key.chain == ()


def test_certificate_file_is_the_key_file(folder: Path) -> None:
    """A `certificate-file` equal to the key's path means the same file."""
    (folder / "link").symlink_to(folder)
    assert generate(f"pem:{folder}/app.pem?certificate-file={folder}/link/app.pem").chain


def test_pfx_is_strong(folder: Path) -> None:
    """A new PFX uses AES-256 and HMAC-SHA-256, according to the `openssl` command."""
    generate(f"pfx:{folder}/app.pfx?password=env:PASSWORD")
    command = ("pkcs12", "-info", "-noout", "-in", folder / "app.pfx", "-passin", f"pass:{PASSWORD}")
    told = openssl(*command, from_stderr=True).decode()
    assert "MAC: sha256" in told
    assert told.count("AES-256-CBC") == 2


def test_pfx_has_friendly_name(folder: Path) -> None:
    """The friendly name is the common name, or the one in the URI."""
    generate(f"pfx:{folder}/a.pfx")
    generate(f"pfx:path={folder}/b.pfx;friendly-name=bee")
    bundles = [pkcs12.load_pkcs12((folder / name).read_bytes(), None) for name in ("a.pfx", "b.pfx")]
    assert [bundle.cert and bundle.cert.friendly_name for bundle in bundles] == [b"new", b"bee"]


def test_pfx_is_read_by_openssl(folder: Path) -> None:
    """The `openssl` command reads the same key from a new PFX."""
    key = generate(f"pfx:{folder}/app.pfx?password=env:PASSWORD")
    assert load_with_openssl(folder / "app.pfx").public_key() == key.public_key


def test_pem_is_encrypted_pkcs8(folder: Path) -> None:
    """With a password a new PEM is encrypted PKCS#8, without one it is PKCS#8."""
    generate(f"pem:{folder}/closed.pem?password=env:PASSWORD")
    generate(f"pem:{folder}/open.pem")
    assert (folder / "closed.pem").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert (folder / "open.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    openssl("pkey", "-noout", "-in", folder / "closed.pem", "-passin", f"pass:{PASSWORD}")


@pytest.mark.parametrize("text", ["pfx:{}/app", "pem:{}/app", "pem:{}/app?certificate-file={}/app.crt"])
def test_files_are_private(folder: Path, text: str) -> None:
    """New files are readable only by their owner, whatever the umask."""
    before = os.umask(0)
    try:
        generate(text.format(folder, folder))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.usefixtures("no_key_is_made")
@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("taken", ["app.pem", "app.crt"])
def test_nothing_is_overwritten(folder: Path, taken: str, *, further: bool) -> None:
    """An existing file, even the certificate's, is kept, and is detected before a key is created."""
    write(folder / taken, b"here")
    with pytest.raises(KeyExists, match=taken):
        generate(f"pem:{folder}/app.pem?certificate-file={folder}/app.crt", KeySpec("RSA-4096", further=further))
    assert names(folder) == [taken]
    assert (folder / taken).read_bytes() == b"here"


@pytest.mark.usefixtures("no_key_is_made")
def test_dangling_link_is_an_existing_file(folder: Path) -> None:
    """A dangling link is not written through."""
    (folder / "app.pem").symlink_to(folder / "elsewhere")
    with pytest.raises(KeyExists):
        generate(f"pem:{folder}/app.pem", SLOW)


@pytest.mark.usefixtures("no_key_is_made")
@pytest.mark.parametrize(
    ("text", "spec", "error"),
    [
        ("pfx:{}/keys/app.pfx", SLOW, "Create the folder"),
        ("pfx:{}/keys/*.pfx", SLOW, "Create the folder"),
        ("pem:{}/app.pem?certificate-file={}/certificates/app.crt", SLOW, "Create the folder"),
        ("pfx:{}/app.pfx?password=env:MISSING", SLOW, "MISSING is not set"),
        ("pfx:{}/app.pfx", KeySpec("RSA-4096", "CN=new,nonsense"), "Invalid subject"),
        ("pfx:{}/app.pfx", KeySpec("RSA-1024"), "Unknown key type"),
        ("pem:{}/*.pem?certificate-file={}/app.crt", SLOW, "cannot share"),
    ],
)
def test_arguments_are_checked_first(folder: Path, text: str, spec: KeySpec, error: str) -> None:
    """What can be refused is refused before a key is created, and nothing is left behind."""
    with pytest.raises((ConfigurationError, SecretRequired), match=error):
        generate(text.format(folder, folder), spec)
    assert names(folder) == []


def test_failed_write_leaves_no_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the certificate cannot be written, the key is removed again."""
    write_private = files.write_private

    def full_disk(path: Path, data: bytes, **options: object) -> None:
        if path.suffix == ".crt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_private(path, data)

    monkeypatch.setattr(files, "write_private", full_disk)
    with pytest.raises(ConfigurationError, match="disk is full"):
        generate(f"pem:{folder}/app.pem?certificate-file={folder}/app.crt")
    assert names(folder) == []


def test_only_one_of_two_processes_creates_the_file(folder: Path) -> None:
    """Of several that create the same file concurrently, one succeeds."""
    text = f"pfx:{folder}/app.pfx"
    outcomes: list[str] = []

    def run() -> None:
        try:
            store(text).generate(uri(text), QUICK)
            outcomes.append("made")
        except KeyvouchError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["key-exists"] * 7 + ["made"]
    assert open_key(text)


def test_further_adds_a_family_member(folder: Path) -> None:
    """Another member is created only if requested, and never replaces the first."""
    text = f"pem:{folder}/app-*.pem"
    first = generate(text)
    with pytest.raises(KeyExists, match="--further"):
        generate(text)
    second = generate(text, KeySpec("P-256", further=True))
    assert first.uri != second.uri
    assert len(store(text).keys(uri(text))) == 2


def test_existing_file_suggests_a_family(folder: Path) -> None:
    """For a key that is to be replaced later, the error shows the path of a family that includes the existing file."""
    generate(f"pem:{folder}/app.pem")
    for further in (False, True):
        with pytest.raises(KeyExists, match="key that replaces it") as caught:
            generate(f"pem:{folder}/app.pem", KeySpec("P-256", further=further))
        assert f"such as '{folder}/app*.pem', and --further" in caught.value.hint
    text = f"pem:{folder}/app*.pem"
    assert generate(text, KeySpec("P-256", further=True))
    assert len(store(text).keys(uri(text))) == 2


@pytest.mark.usefixtures("no_key_is_made")
def test_single_file_has_no_further_key(folder: Path) -> None:
    """A path without `*` is refused, even if there is no file yet: it would not become a member of a family."""
    with pytest.raises(ConfigurationError, match=r"single file.*\n.*app\*\.pem"):
        generate(f"pem:{folder}/app.pem", KeySpec("P-256", further=True))


def test_further_creates_the_first_member(folder: Path) -> None:
    """The first member may be requested as a further one, too."""
    assert generate(f"pem:{folder}/app-*.pem", KeySpec("P-256", further=True))


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_key_is_imported(folder: Path, scheme: str) -> None:
    """A key and its chain are written as new ones would be."""
    issuer, key = new_key("P-256", 1), new_key("RSA-2048")
    chain = (certify(key, "app", issuer), certify(issuer, "authority"))
    text = f"{scheme}:{folder}/app?password=env:PASSWORD"
    opened = open_key(store(text).import_key(uri(text), key, chain))
    assert opened.public_key == key.public_key()
    assert opened.chain == chain
    with pytest.raises(KeyExists):
        store(text).import_key(uri(text), key, chain)


@pytest.mark.parametrize("scheme", ["pfx", "pem"])
def test_key_without_certificate_is_imported(folder: Path, scheme: str) -> None:
    """A key may be imported without a certificate."""
    text = f"{scheme}:{folder}/app?certificate-file={folder}/app.crt"
    assert open_key(store(text).import_key(uri(text), new_key(), ())).chain == ()
    assert names(folder) == ["app"]


def test_import_adds_member(folder: Path) -> None:
    """In a family an imported key becomes a further member."""
    text = f"pem:{folder}/*.pem"
    for which in (1, 2):
        store(text).import_key(uri(text), new_key("P-256", which), ())
    assert len(names(folder)) == 2


def test_import_is_checked(folder: Path) -> None:
    """A key that could not be opened afterwards is not written."""
    text = f"pem:{folder}/app.pem"
    with pytest.raises(KeyUnusable):
        store(text).import_key(uri(text), new_key("RSA-1024"), ())
    with pytest.raises(CertificateMismatch):
        store(text).import_key(uri(text), new_key(), [certify(new_key("P-256", 1))])
    assert names(folder) == []
