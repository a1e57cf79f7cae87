"""Installing certificates, exporting and deleting."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs12

from keyvouch import open_store
from keyvouch.errors import (
    AccessDenied,
    CertificateMismatch,
    ConfigurationError,
    KeyChanged,
    KeyNotFound,
    NotSupported,
)
from keyvouch.secrets import Secret
from stores import several_keys
from stores.key_material import PASSWORD, certify, new_key, open_key, openssl, openssl_pfx, pem_of, store, uri, write

ISSUER = new_key("P-256", 9)
CHAIN = (certify(new_key(), "app", ISSUER), certify(ISSUER, "authority"))


@pytest.fixture
def app(folder: Path) -> Path:
    """A PEM file with a key and a self-signed certificate."""
    return write(folder / "app.pem", pem_of(new_key(), certify(new_key())))


@pytest.fixture
def several(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of one of two keys in a PFX."""
    monkeypatch.setenv("CHANGEIT", several_keys.PASSWORD)
    path = write(folder / "two.pfx", several_keys.PFX)
    return str(open_key(f"pfx:path={path};friendly-name=two?password=env:CHANGEIT").uri)


def install(text: str, chain: Sequence[x509.Certificate] = CHAIN) -> str:
    return str(store(text).install_certificate(uri(text), chain))


def test_chain_is_installed_in_pem(app: Path) -> None:
    """The chain replaces the one in the file."""
    assert open_key(install(f"pem:{app}")).chain == CHAIN


def test_key_block_is_kept(folder: Path) -> None:
    """The key in a PEM file stays unchanged, with its format and encryption."""
    options = ("-traditional", "-aes256", "-passout", f"pass:{PASSWORD}")
    block = openssl("pkey", *options, stdin=pem_of(new_key()))
    path = write(folder / "app.pem", block + pem_of(certify(new_key())))
    install(f"pem:{path}?password=env:PASSWORD")
    assert path.read_bytes().startswith(block)


def test_chain_is_installed_in_pfx(folder: Path) -> None:
    """A PFX is rewritten with the chain, keeping its password and friendly name."""
    path = openssl_pfx(folder / "app.pfx", "-name", "mine", "-legacy")
    assert open_key(install(f"pfx:{path}?password=env:PASSWORD")).chain == CHAIN
    bundle = pkcs12.load_pkcs12(path.read_bytes(), PASSWORD.encode())
    assert bundle.cert is not None
    assert bundle.cert.friendly_name == b"mine"


@pytest.mark.parametrize("before", [None, certify(new_key())])
def test_chain_is_installed_in_certificate_file(app: Path, before: x509.Certificate | None) -> None:
    """With `certificate-file` the chain is written there, and the key's file is not changed."""
    beside, data = app.with_name("app.crt"), app.read_bytes()
    if before:
        write(beside, pem_of(before))
    install(f"pem:{app}?certificate-file={beside}")
    assert beside.read_bytes() == pem_of(*CHAIN)
    assert app.read_bytes() == data


def test_key_in_certificate_file_is_kept(app: Path) -> None:
    """A private key in the file that `certificate-file` names is kept."""
    other = write(app.with_name("other.pem"), pem_of(new_key("P-256", 1)))
    install(f"pem:{app}?certificate-file={other}")
    assert other.read_bytes().startswith(pem_of(new_key("P-256", 1)))


def test_key_is_kept_if_both_paths_are_one_file(app: Path) -> None:
    """If `certificate-file` is the key's own file, the key is kept."""
    assert open_key(install(f"pem:{app}?certificate-file={app}")).chain == CHAIN


def test_certificate_chooses_member(app: Path) -> None:
    """In a family the chain is installed for the key that it was issued for."""
    write(app.with_name("other.pem"), pem_of(new_key("P-256", 1)))
    assert open_key(install(f"pem:{app.parent}/*.pem")).uri.get("path") == app


def test_chain_of_another_key_is_rejected(app: Path) -> None:
    """A certificate for another key is not installed."""
    data = app.read_bytes()
    with pytest.raises(CertificateMismatch):
        install(f"pem:{app}", [certify(new_key("P-256", 1))])
    assert app.read_bytes() == data


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such modes there")
def test_readers_keep_access(app: Path) -> None:
    """A rewritten file keeps its group and mode, and a link to it stays a link."""
    app.chmod(0o640)
    group = 12345 if os.geteuid() == 0 else os.getegid()
    os.chown(app, -1, group)
    link = app.with_name("link.pem")
    link.symlink_to(app)
    install(f"pem:{link}")
    assert link.is_symlink()
    assert (app.stat().st_mode & 0o777, app.stat().st_gid) == (0o640, group)


@pytest.mark.parametrize("text", ["pem:{}", "pem:{}?certificate-file={}.crt"])
def test_key_is_exported(app: Path, text: str) -> None:
    """An exported PFX contains key and chain, even if the chain is in `certificate-file`."""
    text = text.format(app, app)
    install(text)
    data = store(text).export_pfx(uri(text), Secret("another"))
    path = write(app.with_name("exported.pfx"), data)
    command = ("pkcs12", "-info", "-noout", "-in", path, "-passin", "pass:another")
    told = openssl(*command, from_stderr=True).decode()
    assert "MAC: sha256" in told
    assert told.count("AES-256-CBC") == 2
    bundle = pkcs12.load_pkcs12(data, b"another")
    assert bundle.cert is not None
    assert (bundle.cert.certificate, *(each.certificate for each in bundle.additional_certs)) == CHAIN


def test_missing_chain_is_not_exported(app: Path) -> None:
    """A missing `certificate-file` is an error, not a reason to leave the certificate out."""
    text = f"pem:{app}?certificate-file={app}.crt"
    with pytest.raises(KeyNotFound, match="Certificate file not found"):
        store(text).export_pfx(uri(text), Secret("another"))


def test_one_of_several_keys_is_exported(several: str) -> None:
    """Of several keys the one that the URI selects is exported."""
    bundle = pkcs12.load_pkcs12(store(several).export_pfx(uri(several), Secret("x")), b"x")
    assert bundle.cert is not None
    assert bundle.cert.friendly_name == b"two"
    assert bundle.additional_certs == []


def test_key_is_deleted(app: Path) -> None:
    """The key of a pinned URI is deleted, including its certificate file."""
    text = f"pem:{app}?certificate-file={app}.crt"
    install(text)
    pinned = open_key(text).uri
    store(text).delete(pinned)
    assert list(app.parent.iterdir()) == []
    with pytest.raises(KeyNotFound):
        store(text).delete(pinned)


def test_certificate_of_another_key_is_kept(app: Path) -> None:
    """A `certificate-file` for another key is not deleted."""
    beside = write(app.with_name("app.crt"), pem_of(certify(new_key("P-256", 1))))
    store("pem:").delete(open_key(f"pem:{app}?certificate-file={beside}").uri)
    assert list(app.parent.iterdir()) == [beside]


def test_only_pinned_is_deleted(app: Path) -> None:
    """A URI that does not identify the key exactly does not delete any."""
    with open_store(f"pem:{app}") as opened, pytest.raises(ConfigurationError) as caught:
        opened.delete()
    assert "spki-sha256" in caught.value.hint
    assert app.exists()


def test_changed_key_is_not_deleted(app: Path) -> None:
    """If the file now contains another key, it is not deleted."""
    pinned = open_key(f"pem:{app}").uri
    write(app, pem_of(new_key("P-256", 1)))
    with pytest.raises(KeyChanged):
        store("pem:").delete(pinned)
    assert app.exists()


def test_several_keys_are_not_rewritten(several: str) -> None:
    """A file with several keys is neither deleted nor rewritten for one of them."""
    with pytest.raises(NotSupported, match="several keys"):
        store(several).delete(uri(several))
    with pytest.raises(NotSupported, match="several keys"):
        install(several, open_key(several).chain)
    assert uri(several).get("path").read_bytes() == several_keys.PFX


def test_unwritable_file_is_an_error(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk rejects a write, the error says what to do, and the file stays unchanged."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    pinned, data = open_key(f"pem:{app}").uri, app.read_bytes()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ConfigurationError, match="read-only"):
        install(f"pem:{app}")
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(ConfigurationError, match="read-only"):
        store("pem:").delete(pinned)
    assert app.read_bytes() == data


def test_certificate_folder_is_denied(app: Path) -> None:
    """A `certificate-file` that is a folder cannot be read."""
    with pytest.raises(AccessDenied, match="certificate-file"):
        install(f"pem:{app}?certificate-file={app.parent}")
