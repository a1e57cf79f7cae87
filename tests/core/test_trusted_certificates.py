"""Certificates to trust for TLS that cannot be used: the error has the cause, and the line that helps."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from accounts import SERVICE, answer_as, only_root, public  # noqa: F401 - a fixture
from keyvouch._system.tls import client_context
from keyvouch.errors import ConfigurationError
from stores.key_material import certify, new_key, pem_of


def refusal(path: str | None) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        client_context(path)
    return caught.value


@pytest.mark.parametrize("name", ["/nonexistent/ca.pem", "~/ca.pem"])
def test_missing_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint names what is wrong: the field, or the variable."""
    error = refusal(name)
    assert error.message == f"The trusted TLS certificates {name} do not exist."
    assert error.hint.startswith("Correct ca-file: write the absolute path")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    for variable in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, name)
        assert refusal(None).hint.startswith(f"Correct {variable}:")


def test_certificate_in_der(tmp_path: Path) -> None:
    """The line in the hint converts it."""
    path = tmp_path / "a ca.cer"
    path.write_bytes(certify(new_key()).public_bytes(Encoding.DER))
    command = refusal(str(path)).hint.removeprefix("Convert it: ")
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    client_context(str(tmp_path / "NEW.pem"))


def test_file_without_certificates(tmp_path: Path) -> None:
    """A key is not a certificate."""
    path = tmp_path / "app.key"
    path.write_bytes(pem_of(new_key()))
    error = refusal(str(path))
    assert "contains no certificate in PEM" in error.message
    assert "certificate authority" in error.hint


@only_root
@pytest.mark.parametrize("closed", ["folder", "file"])
def test_file_that_this_account_cannot_read(public: Path, closed: str) -> None:
    """The line in the hint, which root has to run, lets the account read it."""
    folder = public / "tls"
    folder.mkdir(mode=0o700 if closed == "folder" else 0o755)
    path = folder / "ca.pem"
    path.write_bytes(certify(new_key()).public_bytes(Encoding.PEM))
    path.chmod(0o600 if closed == "file" else 0o644)
    client_context(str(path))

    def trust() -> str:
        client_context(str(path))
        return "trusted"

    text = answer_as(SERVICE, trust)
    assert f"{path} cannot be read: Permission denied" in text
    lines = text.partition("Run as root: ")[2].replace("Then, if it exists: ", "")
    subprocess.run(["sh", "-eu", "-c", lines], check=True)
    assert answer_as(SERVICE, trust) == "trusted"
