"""Tokens for the tests: SoftHSM, in a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, OFFICER_PIN = "correct-horse", "12345678"


def require_softhsm() -> None:
    """Skip where SoftHSM is not installed; `make test` installs it where it may."""
    if not SOFTHSM.exists():
        pytest.skip("there is no SoftHSM: apt-get install softhsm2")


def use_softhsm(folder: Path, patch: pytest.MonkeyPatch, *labels: str) -> None:
    """Let SoftHSM keep its tokens in this folder, and make one with each label."""
    require_softhsm()
    tokens = folder / "tokens"
    tokens.mkdir()
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    patch.setenv("SOFTHSM2_CONF", str(settings))
    for label in labels:
        make_token(label)


def make_token(label: str) -> None:
    """Make a token in the folder that is in use."""
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", OFFICER_PIN, "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """SoftHSM with the token `prod`; gives URIs of keys on it."""
    use_softhsm(tmp_path, monkeypatch, "prod")
    monkeypatch.setenv("HSM_PIN", PIN)

    def at(key: str = "object=app", *, token: str = "prod", pin: str = "HSM_PIN", more: str = "") -> str:
        source = f"&pin-source=env:{pin}" if pin else ""
        return f"pkcs11:token={token};{key}?module-path={SOFTHSM}{source}{more}"

    return at
