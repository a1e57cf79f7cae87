"""SoftHSM tokens for the tests, with a separate folder for each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pkcs11_modules import finalize_modules

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, SO_PIN = "correct-horse", "12345678"


def require_softhsm() -> None:
    """Skip the test if SoftHSM is not installed; `make test` installs it if it can."""
    if not SOFTHSM.exists():
        pytest.skip("SoftHSM is not installed: apt-get install softhsm2")


def use_softhsm(folder: Path, patch: pytest.MonkeyPatch, *labels: str) -> None:
    """Make SoftHSM store its tokens in this folder, and create one for each label."""
    require_softhsm()
    tokens = folder / "tokens"
    tokens.mkdir()
    finalize_modules()  # they read their configuration when initialized
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    patch.setenv("SOFTHSM2_CONF", str(configuration))
    for label in labels:
        make_token(label)


def make_token(label: str) -> None:
    """Create a token in the current folder."""
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Set up SoftHSM with the token `prod`; return a function that builds URIs of its keys."""
    use_softhsm(tmp_path, monkeypatch, "prod")
    monkeypatch.setenv("HSM_PIN", PIN)

    def uri(key: str = "object=app", *, token: str = "prod", pin: str = "HSM_PIN", more: str = "") -> str:
        source = f"&pin-source=env:{pin}" if pin else ""
        return f"pkcs11:token={token};{key}?module-path={SOFTHSM}{source}{more}"

    return uri
