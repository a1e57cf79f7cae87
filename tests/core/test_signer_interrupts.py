"""Signal handlers that raise, at whatever instruction: nothing is left in use or locked that later calls wait for.

Each case runs in a process of its own, without coverage, which has a lock that an interrupt leaves held.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keyvouch import open_signer, open_store
from keyvouch._core.connections import _open
from scripted_store import LONG_ENOUGH, MESSAGE, Script, without_coverage


class Interrupted(Exception):
    """Raised by the signal handler."""


def repeat_interrupted(number: int, act: Callable[[], object]) -> None:
    """Repeat a call until a signal handler has interrupted it this often."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # Python ignores what a handler raises in a callback of the garbage collector
    interrupted = 0
    while interrupted < number:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0004))
            for _ in range(10_000):  # an exception can be ignored after all, as in a callback of `weakref`
                act()
        except Interrupted:
            interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)


def sign(way: str) -> None:
    """No signature remains counted as in progress, for which closing would wait."""
    with Script() as script:
        signer = open_signer(script.uri)
        signature = signer.sign(MESSAGE, "ES256")
        script.signing = lambda *_: signature
        key: Any = signer.private_key()
        acts: dict[str, Callable[[], object]] = {
            "sign": lambda: signer.sign(MESSAGE, "ES256"),
            "negotiated": lambda: signer.sign_negotiated(lambda *_: MESSAGE),
            "private key": lambda: key.sign(MESSAGE, ec.ECDSA(hashes.SHA256())),
        }
        repeat_interrupted(2_000, acts[way])
        signer._current.opened.retire()
        assert signer._current.opened.use.has_ended
        signer.close()
        script.violations.clear()  # the script's own count is not safe from interrupts


def list_readers() -> None:
    """No call of a store remains counted as in progress."""
    with Script() as script:
        store = open_store(script.able_uri)
        repeat_interrupted(1_000, store.readers)
        store._use.end()
        assert store._use.has_ended
        store.close()
        assert script.count("close") == 1


def open_again(way: str) -> None:
    """No lock remains held after an interrupt while a key is opened again."""

    def reload_if_due() -> None:
        signer._reloader.next_check, script.revision = 0, script.revision + 1
        signer.sign_negotiated(lambda *_: MESSAGE)

    def lose() -> None:
        script.drop()
        signer.sign(MESSAGE, "ES256")

    with Script() as script:
        signer = open_signer(script.uri)
        acts: dict[str, Callable[[], object]] = {
            "reload": signer.reload,
            "reload if due": reload_if_due,
            "lost session": lose,
            "open": lambda: open_signer(script.uri, timeout=1),
        }
        repeat_interrupted(500, acts[way])
        assert not signer._reloader.lock.locked()
        assert not signer._current.lock.locked()
        assert not _open.lock._is_owned()  # type: ignore[attr-defined]
        signer.reload(timeout=LONG_ENOUGH)
        signer.close()
        script.violations.clear()  # the script's own count is not safe from interrupts


CASES: dict[str, Callable[[], None]] = {
    **{way: partial(sign, way) for way in ("sign", "negotiated", "private key")},
    "readers": list_readers,
    **{way: partial(open_again, way) for way in ("reload", "reload if due", "lost session", "open")},
}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such signal on Windows")
@pytest.mark.parametrize("case", CASES)
def test_interrupts_leave_nothing_behind(case: str) -> None:
    """Hundreds of interrupts at random moments; afterwards nothing is in use, locked or waited for."""
    done = subprocess.run(
        [sys.executable, __file__, case],
        env={**without_coverage(), "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        capture_output=True,
        check=False,
        timeout=4 * LONG_ENOUGH,
    )
    assert done.returncode == 0, done.stderr.decode()


if __name__ == "__main__":
    CASES[sys.argv[1]]()
