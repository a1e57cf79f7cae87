"""Acting as another account of this machine, which need not exist: only root can do that, in a child process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import keyvouch
from keyvouch._system import files
from stores.key_material import certify, new_key, pem_of, write

SERVICE, OTHER = 60123, 60124

only_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can act for another account"
)


def answer_as(account: int, act: Callable[[], str], *, groups: tuple[int, ...] = ()) -> str:
    """Return the text that a function returns in a process of another account, or the text of its exception.

    What the function imports must have been imported: the account may not be able to read Python's own files.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.setgroups(groups)
            os.setresgid(account, account, account)
            os.setresuid(account, account, account)
            try:
                text = act()
            except Exception as error:  # noqa: BLE001 - it is the answer
                text = str(error) or traceback.format_exc()
            os.write(writing, text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(process, 0)
    return text


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder of root that every account can reach: pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def etc(public: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's folder for keyvouch, as root makes it under a umask of 077, with a configuration and a key."""
    folder = public / "etc"
    folder.mkdir(mode=0o700)
    (folder / "config.toml").write_text("[profiles.nightly]\ntenant = 't'\n")
    (folder / "config.toml").chmod(0o600)
    key = new_key()
    write(folder / "app.pem", pem_of(key, certify(key)))
    user = public / "home" / "config.toml"
    monkeypatch.setattr(files, "configuration_files", lambda: [user, folder / "config.toml"])
    sign()  # imports what the other account could not
    return folder


def sign() -> str:
    with keyvouch.open_signer(config_key()) as signer:
        return f"signed {len(signer.sign(b'x', 'ES256'))}"


def config_key() -> str:
    return f"pem:{files.configuration_files()[-1].parent}/app.pem"


def shell(line: str) -> None:
    subprocess.run(["sh", "-eu", "-c", line], check=True)
