"""The first use in a process imports most of keyvouch: a concurrent fork in another thread must not break the child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keyvouch
from scripted_store import LONG_ENOUGH, without_coverage

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")

_FORK = """
import faulthandler, os, sys, threading, time
import keyvouch

def use():
    with keyvouch.open_signer(sys.argv[1]) as signer:
        keyvouch.ClientAssertion(signer)({"client_id": "app", "token_endpoint": "https://login.example/token"})

first = threading.Thread(target=use)
begin = time.monotonic()
first.start()
time.sleep(float(sys.argv[2]))
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(30, exit=True)
    use()
    os._exit(0)
first.join()
took = time.monotonic() - begin
assert os.waitpid(child, 0)[1] == 0, "the child hangs"
print(took)
"""

_IMPORTS = """
import json, sys, threading
import keyvouch
from keyvouch._system import forks

ungated = set()

def watch(event, arguments):
    if event == "import" and not any(threading.get_ident() in gate.inside for gate in forks._gates):
        ungated.add(arguments[0])

sys.addaudithook(watch)
uri, other, config = sys.argv[1:]
with keyvouch.open_store(other) as store:
    store.generate(keyvouch.KeySpec())
    store.keys()
    try:
        store.generate(keyvouch.KeySpec())
    except keyvouch.KeyvouchError:
        pass
with keyvouch.open_signer(uri) as signer:
    signer.sign(b"message", "PS256")
    signer.private_key()
    signer.reload()
    keyvouch.ClientAssertion(signer, send_x5c=True)({"client_id": "app", "token_endpoint": "https://login.example"})
with keyvouch.open_store(uri) as store:
    store.install_certificate(signer.chain)
try:
    keyvouch.open_signer("profile:nightly")
except keyvouch.KeyvouchError:
    pass
print(json.dumps(sorted(ungated)))
"""


def run(program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *arguments],
        env={**without_coverage(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def uri(tmp_path: Path) -> str:
    made = f"pem:{tmp_path / 'app.pem'}"
    with keyvouch.open_store(made) as store:
        store.generate(keyvouch.KeySpec())
    return made


@pytest.mark.parametrize("scheme", ["pem", "pfx"])
def test_imports_on_first_use_are_gated(uri: str, scheme: str, tmp_path: Path) -> None:
    """What the first use imports is imported while forks wait: otherwise a child could not import a module."""
    config = tmp_path / "config.toml"
    config.write_text(f'[profiles.nightly]\nkeys = ["{uri}"]\n', encoding="utf-8")
    other = f"{scheme}:{tmp_path / 'other'}.{scheme}"
    found = run(_IMPORTS, uri, other, str(config), KEYVOUCH_CONFIG=str(config))
    assert json.loads(found) == []


def test_fork_during_first_use(uri: str) -> None:
    """A child forked while another thread opens and signs for the first time can open and sign, too."""
    whole = float(run(_FORK, uri, "0"))
    for part in range(1, 16):
        assert float(run(_FORK, uri, str(whole * part / 14))) < whole + LONG_ENOUGH
