"""Certificates in `certificate-file`: in any order, with others among them."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509

from keyvouch import open_signer
from keyvouch.errors import CertificateMismatch
from scripted_store import Script, new_key
from stores.key_material import certify, openssl, pem_of, write


def write_certificates(path: Path, certificates: Sequence[x509.Certificate]) -> Path:
    return write(path, pem_of(*certificates))


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_certificate_file_selects_the_key(tmp_path: Path, order: tuple[int, ...]) -> None:
    """The store is asked for the key of the leaf, wherever that is among its issuers and others' certificates."""
    root, middle, key = new_key("P-256", 1), new_key("P-256", 2), new_key()
    chain = (certify(key, "app", middle, "middle"), certify(middle, "middle", root, "root"), certify(root, "root"))
    given = [*chain, certify(new_key("P-256", 3), "stranger")]
    path = write_certificates(tmp_path / "app.crt", [given[number] for number in order])
    folder = tmp_path / "keys"
    folder.mkdir()
    for number in range(2):
        write(folder / f"{number}.pem", pem_of([key, new_key("P-256", 4)][number]))
    with open_signer(f"pem:{folder}/*.pem?certificate-file={path}") as signer:
        assert signer.chain == chain


def test_missing_issuer_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file has further certificates, and none of them continues the chain, a warning names the missing one."""
    root, middle, key = new_key("P-256", 1), new_key("P-256", 2), new_key()
    leaf = certify(key, "app", middle, "middle")
    path = write_certificates(tmp_path / "app.crt", [certify(root, "root"), leaf])
    with Script() as script, open_signer(f"{script.uri}?certificate-file={path}") as signer:
        assert signer.chain == (leaf,)
    assert "the certificate of CN=middle, which issued that of CN=app, is missing" in caplog.text


def test_leaf_or_root_only_is_complete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with only the leaf, or without the root, is usual, and no reason for a warning."""
    middle, key = new_key("P-256", 2), new_key()
    chain = [certify(key, "app", middle, "middle"), certify(middle, "middle", new_key("P-256", 1), "root")]
    for size in (1, 2):
        path = write_certificates(tmp_path / f"{size}.crt", chain[:size])
        with Script() as script, open_signer(f"{script.uri}?certificate-file={path}"):
            assert "Incomplete" not in caplog.text


def test_certificate_file_with_only_issuers(tmp_path: Path) -> None:
    """If none of several certificates is the key's, the error does not blame one that is an authority's."""
    root, middle = new_key("P-256", 1), new_key("P-256", 2)
    path = write_certificates(tmp_path / "app.crt", [certify(root, "root"), certify(middle, "middle", root, "root")])
    with (
        Script() as script,
        pytest.raises(CertificateMismatch, match="CN=middle does not belong to the key, and neither does any other"),
    ):
        open_signer(f"{script.uri}?certificate-file={path}")


def test_unreadable_certificate_in_certificate_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One certificate that cannot be read is named in a warning, and does not affect the others."""
    path = write_certificates(tmp_path / "app.crt", [certify(new_key())])
    source = write(tmp_path / "odd.key", pem_of(new_key("P-256", 5)))
    odd = openssl("req", "-x509", "-key", source, "-subj", "/CN=odd+CN=odd")
    path.write_bytes(odd + path.read_bytes())
    with Script() as script, open_signer(f"{script.uri}?certificate-file={path}") as signer:
        assert signer.chain == (certify(new_key()),)
    assert "the certificate of CN=odd,CN=odd cannot be read" in caplog.text
