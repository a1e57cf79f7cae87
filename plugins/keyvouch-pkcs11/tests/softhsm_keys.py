"""Keys on SoftHSM for the tests: generating them, recording logins, and signing under load."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, Self

import pytest

import keyvouch
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import templates
from keyvouch_pkcs11.token import Token
from scripted_store import is_signed

UriOf = Callable[..., str]
"""The type of the fixture `softhsm_tokens.softhsm`."""


def generate_always_authenticating(token: Token) -> None:
    """Make the P-256 key `app`, which requires its PIN for each signature, on a token that is logged in to."""
    mechanism, key_attributes = templates.generation("P-256")
    identifiers = templates.KeyIdentifiers(b"\7", b"app")
    public = templates.public_key_template(identifiers, key_attributes)
    private = templates.private_key_template(identifiers, {ck.CKA_ALWAYS_AUTHENTICATE: True}, exportable=False)
    with token.read_write_session() as session, token.module as functions:
        functions.generate_key_pair(session, mechanism, public, private)


def generate(uri: str, kind: str = "P-256", **options: Any) -> str:
    """Generate a key and return its pinned URI."""
    with keyvouch.open_store(uri) as store:
        return str(store.generate(keyvouch.KeySpec(kind, "CN=app", 30, **options)))


def record_pins(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which the PIN of each C_Login is added from now on."""
    pins: list[bytes] = []
    login = ck.Cryptoki.login

    def recorded(self: ck.Cryptoki, session: int, pin: bytes, user: int = ck.CKU_USER) -> None:
        pins.append(pin)
        login(self, session, pin, user)

    monkeypatch.setattr(ck.Cryptoki, "login", recorded)
    return pins


class SigningLoad:
    """Threads that sign and verify distinct messages until the block ends."""

    def __init__(self, signer: keyvouch.Signer, name: str, threads: int, limit: int = sys.maxsize) -> None:
        self.errors: list[BaseException] = []
        self.count = 0
        self._signer, self._name, self._limit = signer, name, limit
        self._lock, self._done = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._done.is_set():
            with self._lock:
                if self.count == self._limit:
                    return
                self.count += 1
                message = b"%d" % self.count
            try:
                signature = self._signer.sign(message, self._name, timeout=15)
                assert is_signed(self._signer.public_key, signature, message, self._name)
            except BaseException as error:  # noqa: BLE001 - the test reports it
                self.errors.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._limit == sys.maxsize:
            self._done.set()
        for thread in self._threads:
            thread.join()
