"""Keys behind p11-kit's socket, whose server process is killed under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyvouch
from pkcs11_remote import REMOTE, Remote, remote
from pkcs11_tokens import PIN
from scripted_store import is_signed

pytestmark = pytest.mark.server
KEYS = [f"pkcs11:token={token};object=app?module-path={REMOTE}&pin-source=env:HSM_PIN" for token in ("far", "near")]
THREADS = 4


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setenv("HSM_PIN", PIN)
    with remote(tmp_path, monkeypatch, "far", "near") as served:
        yield served


def test_child_killed_under_load(server: Remote, monkeypatch: pytest.MonkeyPatch, *, soak: bool) -> None:
    """No caller gets an error, on either token, and each kill costs at most the signatures in flight.

    Recovery requires reinitialising the module, for the keys of both tokens.
    """
    for key in KEYS:
        with keyvouch.open_store(key) as store:
            store.generate(keyvouch.KeySpec("P-256"))
    done, errors, lock = threading.Event(), [], threading.Lock()
    finished = asked = deaths = 0
    with keyvouch.open_signer(KEYS[0]) as far, keyvouch.open_signer(KEYS[1]) as near:
        from keyvouch_pkcs11.key import Pkcs11Key

        sign_once = Pkcs11Key.sign

        def counted(self: Pkcs11Key, *arguments: object, **named: object) -> bytes:
            nonlocal asked
            with lock:
                asked += 1
            return sign_once(self, *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Pkcs11Key, "sign", counted)

        def sign(thread: int) -> None:
            nonlocal finished
            signer, number = (far, near)[thread % 2], 0
            while not done.is_set():
                message = b"%d %d" % (thread, number := number + 1)
                try:
                    assert is_signed(signer.public_key, signer.sign(message, "ES256", timeout=15), message, "ES256")
                except BaseException as error:  # noqa: BLE001 - the test reports it
                    errors.append(error)
                with lock:
                    finished += 1

        threads = [threading.Thread(target=sign, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + (60 if soak else 6)
        while time.monotonic() < end:
            time.sleep(0.7)
            deaths += server.kill_children()
        done.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert deaths > 5
    assert finished <= asked <= finished + THREADS * deaths
