"""Tokens for the tests: SoftHSM, with a separate folder for each test, and opencryptoki."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import module

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, OFFICER_PIN = "correct-horse", "12345678"

OPENCRYPTOKI = Path("/usr/lib/x86_64-linux-gnu/opencryptoki/libopencryptoki.so.0")
OPENCRYPTOKI_LABEL, OPENCRYPTOKI_PIN = "keyvouch-test", "01234567"
_SLOT, _FIRST_LABEL, _FIRST_OFFICER_PIN = "3", "IBM OS PKCS#11", "87654321"
"""opencryptoki's software token, and its initial label and SO PIN."""
_TOKEN, _MEMORY = Path("/var/lib/opencryptoki/swtok"), Path("/dev/shm/var.lib.opencryptoki.swtok")


def require_softhsm() -> None:
    """Skip the test if SoftHSM is not installed; `make test` installs it if it can."""
    if not SOFTHSM.exists():
        pytest.skip("there is no SoftHSM: apt-get install softhsm2")


def use_softhsm(folder: Path, patch: pytest.MonkeyPatch, *labels: str) -> None:
    """Make SoftHSM store its tokens in this folder, and create one for each label."""
    require_softhsm()
    tokens = folder / "tokens"
    tokens.mkdir()
    end_modules()  # they read their configuration when initialised
    settings = folder / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    patch.setenv("SOFTHSM2_CONF", str(settings))
    for label in labels:
        make_token(label)


def loaded(path: Path) -> module.Module:
    """Return this process's module loaded from a file."""
    return module._modules[os.path.realpath(path)]


def close_all_sessions(path: Path) -> None:
    """Close every session of a module while no call is running, since SoftHSM would crash during one."""
    there = loaded(path)
    with there.exclusive():
        for slot in there.functions.slots():
            there.functions._call("CloseAllSessions", ck.CK_ULONG(slot))


def log_out(path: Path) -> None:
    """Log out of a module's tokens, as another library in this process might."""
    there = loaded(path)
    for slot in list(there.tokens):
        with contextlib.suppress(ck.CryptokiError), there as functions:
            session = functions.open_session(slot)
            functions._call("Logout", ck.CK_ULONG(session))
            functions.close_session(session)


def end_modules() -> None:
    """Finalise all modules, so that they are initialised again on their next use."""
    for each in module._modules.values():
        each.end()


def make_token(label: str) -> None:
    """Create a token in the current folder."""
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", OFFICER_PIN, "--pin", PIN]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)


@contextlib.contextmanager
def opencryptoki() -> Iterator[None]:
    """Run opencryptoki's daemon with a new software token; skip the test if its daemon or token is in use."""
    if os.geteuid() != 0 or shutil.which("pkcsslotd") is None:
        pytest.skip("there is no opencryptoki, or this is not root: apt-get install opencryptoki")
    if _listens():
        pytest.skip("the daemon of opencryptoki runs already: it is in use")
    with _daemon():
        label = next(line for line in _pkcsconf("-t").splitlines() if "Label:" in line).partition(":")[2].strip()
    if label not in (_FIRST_LABEL, OPENCRYPTOKI_LABEL):
        pytest.skip(f"the token {label} of opencryptoki is somebody's")
    for place in (*_TOKEN.glob("MK_*"), *_TOKEN.glob("TOK_OBJ/*"), _TOKEN / "NVTOK.DAT", _MEMORY):
        place.unlink(missing_ok=True)
    with _daemon():
        _pkcsconf("-I", "-S", _FIRST_OFFICER_PIN, answer=f"{OPENCRYPTOKI_LABEL}\n")
        _pkcsconf("-P", "-S", _FIRST_OFFICER_PIN, "-n", OFFICER_PIN)
        _pkcsconf("-u", "-S", OFFICER_PIN, "-n", OPENCRYPTOKI_PIN)
        yield


@contextlib.contextmanager
def _daemon() -> Iterator[None]:
    daemon = subprocess.Popen(["pkcsslotd", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while subprocess.run(["pkcsconf", "-i"], capture_output=True, check=False).returncode:
            assert daemon.poll() is None, "pkcsslotd does not start"
            time.sleep(0.02)
        yield
    finally:
        end_modules()  # the daemon waits for its clients
        daemon.terminate()
        try:
            daemon.wait(10)
        finally:
            daemon.kill()


def _listens() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex("/var/run/pkcsslotd.socket") == 0


def _pkcsconf(*arguments: str, answer: str = "") -> str:
    command = ["pkcsconf", *arguments, "-c", _SLOT]
    return subprocess.run(command, input=answer, text=True, capture_output=True, check=True).stdout


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Set up SoftHSM with the token `prod`; return a function that builds URIs of its keys."""
    use_softhsm(tmp_path, monkeypatch, "prod")
    monkeypatch.setenv("HSM_PIN", PIN)

    def at(key: str = "object=app", *, token: str = "prod", pin: str = "HSM_PIN", more: str = "") -> str:
        source = f"&pin-source=env:{pin}" if pin else ""
        return f"pkcs11:token={token};{key}?module-path={SOFTHSM}{source}{more}"

    return at
