"""Keys in the Windows certificate store, used through the command line."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from keyvouch._core.opening import open_signer
from keyvouch.errors import NotSupported
from stores.key_material import openssl
from wine import Windows, path_in_windows

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("windows")]
CSP = "Microsoft Enhanced RSA and AES Cryptographic Provider"
"""Under Wine this provider's keys outlive the process; CNG keys do not."""


def make_pfx(folder: Path, subject: str, *form: str) -> tuple[Path, str]:
    """Create a key and a PFX with OpenSSL; return the PFX and its certificate's SHA-1 thumbprint with colons."""
    key, certificate, pfx = folder / "key.pem", folder / "certificate.pem", folder / "key.pfx"
    what = ("-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", subject)
    openssl("req", "-x509", *what, "-keyout", key, "-out", certificate)
    openssl("pkcs12", "-export", *form, "-inkey", key, "-in", certificate, "-out", pfx, "-passout", "pass:secret")
    result = openssl("x509", "-in", certificate, "-noout", "-fingerprint", "-sha1").decode()
    return pfx, result.partition("=")[2].strip()


def import_pfx(windows: Windows, pfx: Path, *options: str) -> str:
    """Import a PFX for the current user and return the pinned URI."""
    source = f"pfx:{path_in_windows(pfx)}?password=env:PASSWORD"
    done = windows.keyvouch(
        *("import", "--from", source, "--key", "windows:location=CurrentUser", "--output", "json", *options),
        PASSWORD="secret",
    )
    assert done.status == 0, done
    return str(json.loads(done.output)["uri"])


@pytest.mark.parametrize(
    "form",
    [("-legacy",), ("-certpbe", "AES-256-CBC", "-keypbe", "AES-256-CBC", "-macalg", "sha256")],
    ids=["old", "new"],
)
def test_imported_key_signs(windows: Windows, tmp_path: Path, form: tuple[str, ...]) -> None:
    """A key imported from OpenSSL's PFX, in the old and the new format, signs; OpenSSL verifies the signature."""
    pfx, digits = make_pfx(tmp_path, f"/CN=imported {form[0][1:]}", *form)
    message = tmp_path / "message"
    message.write_bytes(b"what is signed")

    uri = import_pfx(windows, pfx)

    assert f"thumbprint={digits.replace(':', '')}" in uri
    done = windows.keyvouch("sign", "--key", uri, "--algorithm", "RS256", path_in_windows(message))
    assert done.status == 0, done
    signature = tmp_path / "signature"
    signature.write_bytes(base64.urlsafe_b64decode(done.output.strip() + "=="))
    public = tmp_path / "public.pem"
    public.write_bytes(openssl("x509", "-in", tmp_path / "certificate.pem", "-noout", "-pubkey"))
    openssl("dgst", "-sha256", "-verify", public, "-signature", signature, message)


def test_thumbprint_in_every_spelling(windows: Windows, tmp_path: Path) -> None:
    """Thumbprints are accepted as PowerShell, OpenSSL and certmgr show them, even with the mark in certmgr's dialog."""
    pfx, colons = make_pfx(tmp_path, "/CN=spelt")
    uri = import_pfx(windows, pfx)
    plain = colons.replace(":", "")
    result = openssl("x509", "-in", tmp_path / "certificate.pem", "-noout", "-fingerprint", "-sha256").decode()
    long = result.partition("=")[2].strip()
    spellings = [
        plain.lower(),
        colons,
        "\u200e" + colons.replace(":", " ").lower(),
        long,
        long.replace(":", "").lower(),
        long.replace(":", " "),
    ]
    program = (
        "import json, sys; from keyvouch import open_signer\nfor each in sys.argv[1:]: print(open_signer(each).uri)"
    )

    done = windows.run("-c", program, *(f"windows:thumbprint={each}" for each in spellings))

    assert done.status == 0, done
    assert done.output.split() == [uri] * len(spellings)
    by_name = windows.keyvouch(
        "sign", "--key", "windows:subject=CN=spelt;issuer=CN=spelt", "--output", "json", stdin=b"x"
    )
    assert json.loads(by_name.output)["uri"] == uri


def test_legacy_provider_life_cycle(windows: Windows, tmp_path: Path) -> None:
    """A key is created, listed, signs with its provider's algorithm, is exported, and is deleted."""
    at = f"windows:location=CurrentUser;friendly-name=life;provider={CSP}"
    made = windows.keyvouch("new", "--key", at, "--subject", "CN=life", "--exportable", "--output", "json")
    assert made.status == 0, made
    uri = json.loads(made.output)["uri"]

    listed = windows.keyvouch("keys", "--key", "windows:subject=CN=life", "--output", "json")
    assert [(each["uri"], each["subject"], each["exportable"]) for each in json.loads(listed.output)] == [
        (uri, "CN=life", True)
    ]
    signed = windows.keyvouch("sign", "--key", "windows:friendly-name=life", "--output", "json", stdin=b"x")
    assert json.loads(signed.output)["algorithm"] == "RS256"
    again = windows.keyvouch("new", "--key", at, "--subject", "CN=life")
    assert (again.status, "A matching certificate already exists" in again.errors) == (3, True)
    other = windows.keyvouch("new", "--key", "windows:location=CurrentUser;friendly-name=life", "--subject", "CN=other")
    assert (other.status, f"already exists: '{uri}'" in other.errors) == (3, True)

    pfx = tmp_path / "life.pfx"
    to = ("--pfx", path_in_windows(pfx), "--password", "env:PASSWORD")
    exported = windows.keyvouch("export", "--key", uri, *to, PASSWORD="secret")
    assert exported.status == 0, exported
    unpacked = openssl("pkcs12", "-in", pfx, "-passin", "pass:secret", "-nodes", "-info")
    key = openssl("pkey", "-pubout", stdin=unpacked)
    assert key == openssl("x509", "-noout", "-pubkey", stdin=unpacked)

    assert windows.keyvouch("delete", "--yes", "--key", uri).status == 0
    gone = windows.keyvouch("sign", "--key", uri, stdin=b"x")
    assert gone.status == 3, gone


def test_non_exportable_key_is_not_exported(windows: Windows, tmp_path: Path) -> None:
    """Exporting a key imported as not exportable is refused with this reason, and no file is written."""
    pfx, _ = make_pfx(tmp_path, "/CN=kept")
    uri = import_pfx(windows, pfx)
    to = ("--pfx", path_in_windows(tmp_path / "out.pfx"), "--password", "env:PASSWORD")

    done = windows.keyvouch("export", "--key", uri, *to, PASSWORD="secret")

    assert done.status == 6, done
    assert "The key was created or imported as not exportable" in done.errors
    assert not (tmp_path / "out.pfx").exists()


def test_certificate_is_imported_once(windows: Windows, tmp_path: Path) -> None:
    """A second import under another name is refused; the error has the command to use, and the key still works."""
    pfx, _ = make_pfx(tmp_path, "/CN=once")
    uri = import_pfx(windows, pfx)
    source, to = f"pfx:{path_in_windows(pfx)}?password=env:PASSWORD", "windows:location=CurrentUser;friendly-name=twice"

    again = windows.keyvouch("import", "--from", source, "--key", to, PASSWORD="secret")

    assert again.status == 3, again
    assert f"keyvouch delete --key '{uri}'" in again.errors
    assert windows.keyvouch("sign", "--key", uri, stdin=b"x").status == 0


def test_import_adds_a_missing_key(windows: Windows, tmp_path: Path) -> None:
    """A certificate imported without its key is reported, and the suggested import of the PFX solves it."""
    pfx, _ = make_pfx(tmp_path, "/CN=alone")
    der = openssl("x509", "-in", tmp_path / "certificate.pem", "-outform", "DER")
    program = (
        "import sys; from keyvouch_windows import crypt32\n"
        "with crypt32.open_store('CurrentUser', 'My', write=True) as store:\n"
        "    with crypt32.add(store, bytes.fromhex(sys.argv[1]), crypt32.CERT_STORE_ADD_NEW): pass"
    )
    assert windows.run("-c", program, der.hex()).status == 0
    result = windows.keyvouch("sign", "--key", "windows:subject=CN=alone", stdin=b"x")
    assert (result.status, "Import the PFX that contains both" in result.errors) == (6, True)

    uri = import_pfx(windows, pfx)

    assert windows.keyvouch("sign", "--key", uri, stdin=b"x").status == 0


def test_wrong_location_is_reported(windows: Windows, tmp_path: Path) -> None:
    """For a wrong location the error gives the right one; without a location the output shows where it was found."""
    pfx, _ = make_pfx(tmp_path, "/CN=elsewhere")
    uri = import_pfx(windows, pfx)

    done = windows.keyvouch("sign", "--key", uri.replace("CurrentUser", "LocalMachine"), stdin=b"x")

    assert done.status == 3
    assert "Use location=CurrentUser" in done.errors
    found = windows.keyvouch("sign", "--key", uri.replace(";location=CurrentUser", ""), "--output", "json", stdin=b"x")
    assert json.loads(found.output)["uri"] == uri


def test_requires_windows() -> None:
    """The plugin can be installed and imported on every system, and reports that it needs Windows."""
    with pytest.raises(NotSupported, match="requires Windows") as caught:
        open_signer("windows:thumbprint=" + "4A" * 20)
    assert "Run this on Windows" in caught.value.hint
