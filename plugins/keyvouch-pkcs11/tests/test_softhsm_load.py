"""SoftHSM under load: many signatures, lost sessions, forks."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

import keyvouch
from pkcs11_modules import close_all_sessions, log_out
from scripted_store import without_coverage
from softhsm_keys import SigningLoad, UriOf, generate
from softhsm_tokens import SOFTHSM, softhsm  # noqa: F401 - a fixture

pytestmark = pytest.mark.server


@pytest.mark.parametrize(("kind", "name"), [("RSA-2048", "PS256"), ("P-256", "ES256")])
def test_many_signatures(softhsm: UriOf, kind: str, name: str, *, plenty: bool) -> None:
    """100,000 signatures by eight threads, over both algorithms, are all correct."""
    generate(softhsm(), kind)
    with keyvouch.open_signer(softhsm()) as signer, SigningLoad(signer, name, 8, 50_000 if plenty else 2_000) as load:
        pass
    assert not load.errors
    assert load.count == (50_000 if plenty else 2_000)


@pytest.mark.parametrize(("kind", "name"), [("RSA-2048", "PS256"), ("P-256", "ES256")])
def test_sessions_lost_under_load(softhsm: UriOf, kind: str, name: str, *, soak: bool) -> None:
    """If sessions are closed every 2 seconds and the process is logged out every 7, no caller gets an error."""
    generate(softhsm(), kind)
    start = time.monotonic()
    losses = log_outs = 0
    with keyvouch.open_signer(softhsm()) as signer, SigningLoad(signer, name, 8) as load:
        while (now := time.monotonic() - start) < (600 if soak else 8):
            time.sleep(0.1)
            if now > 2 * (losses + 1):
                close_all_sessions(SOFTHSM)
                losses += 1
            if now > 7 * (log_outs + 1):
                log_out(SOFTHSM)
                log_outs += 1
    print(f"{load.count} signatures {name}, {losses} times all sessions closed, {log_outs} log-outs")
    assert not load.errors
    assert log_outs


_FORKING_PROGRAM = """
import os, sys, threading
import keyvouch
from keyvouch.algorithms import ALGORITHMS
from scripted_store import is_signed
ES256 = ALGORITHMS["ES256"]

def sign_messages(signer, count):
    for number in range(count):
        message = b"%d" % number
        assert is_signed(signer.public_key, signer.sign(message, ES256, timeout=30), message, "ES256")

with keyvouch.open_signer(sys.argv[1]) as signer:
    done, errors = threading.Event(), []

    def sign():
        try:
            while not done.is_set():
                sign_messages(signer, 1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=sign) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(int(sys.argv[2])):
        workers = []
        for _ in range(4):
            workers.append(os.fork())
            if workers[-1] == 0:
                try:
                    sign_messages(signer, 5)
                finally:
                    os._exit(0 if sys.exc_info()[0] is None else 1)
        assert [os.waitpid(worker, 0)[1] for worker in workers] == [0] * 4
    done.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
"""


def test_forked_workers(softhsm: UriOf, *, plenty: bool) -> None:
    """With four workers at a time while four threads of the parent sign, nothing hangs and all signatures are valid."""
    generate(softhsm())
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            _FORKING_PROGRAM,
            softhsm(),
            "50" if plenty else "5",
        ],
        env={**without_coverage(), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
