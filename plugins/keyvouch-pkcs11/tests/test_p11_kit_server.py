"""Keys behind p11-kit's socket, whose server process is killed under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyvouch
from p11_kit_server import P11_KIT_CLIENT, P11KitServer, p11_kit_server
from scripted_store import is_signed
from softhsm_tokens import PIN

pytestmark = pytest.mark.server
KEYS = [
    f"pkcs11:token={token};object=app?module-path={P11_KIT_CLIENT}&pin-source=env:HSM_PIN"
    for token in ("first", "second")
]
THREADS = 4


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[P11KitServer]:
    monkeypatch.setenv("HSM_PIN", PIN)
    with p11_kit_server(tmp_path, monkeypatch, "first", "second") as running:
        yield running


def test_child_killed_under_load(server: P11KitServer, monkeypatch: pytest.MonkeyPatch, *, soak: bool) -> None:
    """No caller gets an error, on either token, and each kill costs at most the signatures in flight.

    Recovery requires reinitializing the module, for the keys of both tokens.
    """
    for key in KEYS:
        with keyvouch.open_store(key) as store:
            store.generate(keyvouch.KeySpec("P-256"))
    done, errors, lock = threading.Event(), [], threading.Lock()
    finished = calls = kills = 0
    with keyvouch.open_signer(KEYS[0]) as first, keyvouch.open_signer(KEYS[1]) as second:
        from keyvouch_pkcs11.key import Pkcs11Key

        sign_once = Pkcs11Key.sign

        def counted(self: Pkcs11Key, *arguments: object, **named: object) -> bytes:
            nonlocal calls
            with lock:
                calls += 1
            return sign_once(self, *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(Pkcs11Key, "sign", counted)

        def sign(thread: int) -> None:
            nonlocal finished
            signer, number = (first, second)[thread % 2], 0
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
        deadline = time.monotonic() + (60 if soak else 6)
        while time.monotonic() < deadline:
            time.sleep(0.7)
            kills += server.kill_children()
        done.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert kills > 5
    assert finished <= calls <= finished + THREADS * kills
