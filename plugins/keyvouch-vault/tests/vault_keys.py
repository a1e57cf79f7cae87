"""Keys on the test server, and helpers to open them."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

import keyvouch
from keyvouch.errors import KeyvouchError
from openbao import Server

E = TypeVar("E", bound=KeyvouchError)
_numbers = itertools.count(1)


def make_key(server: Server, kind: str = "ecdsa-p256", **more: object) -> str:
    """Create a separate key for a test; return its URI, with the token in VAULT_TEST_TOKEN."""
    name = f"{kind}-{next(_numbers)}"
    server.write(f"transit/keys/{name}", type=kind, **more)
    return key_uri(server, name)


def key_uri(server: Server, name: str) -> str:
    return f"vault:address={server.address};key={name}?auth=token&token=env:VAULT_TEST_TOKEN&ca-file={server.ca_file}"


def with_login(uri: str, login: str) -> str:
    """Return the URI with a different login."""
    return uri.replace("auth=token&token=env:VAULT_TEST_TOKEN", login)


def error_on_open(uri: str, kind: type[E]) -> E:
    """Assert that opening raises exactly this class of error, with a hint; return the error."""
    with pytest.raises(kind) as caught:
        keyvouch.open_signer(uri, timeout=10).close()
    assert type(caught.value) is kind
    assert caught.value.hint
    return caught.value


class Signing:
    """Threads that sign with one signer and verify the signatures themselves."""

    def __init__(self, signer: keyvouch.Signer) -> None:
        self.signer = signer
        self.failures: list[BaseException] = []
        self.stopping = False
        self.count = itertools.count()
        self.signed = 0

    def run(self) -> None:
        """Sign different messages until `stopping`. A signature of another key, or of another message, is a failure."""
        key: Any = self.signer.public_key
        try:
            while not self.stopping:
                message = b"%d" % next(self.count)
                signature = self.signer.sign(message, "ES256", timeout=15)
                r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
                key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
                self.signed += 1  # may be too low, since threads race here
        except BaseException as error:  # noqa: BLE001 - the test reports it
            self.failures.append(error)

    def wait_for_more(self) -> None:
        """Wait until a hundred more signatures are made, or one fails."""
        wanted = self.signed + 100
        while self.signed < wanted and not self.failures:
            time.sleep(0.01)


@contextlib.contextmanager
def signing(signer: keyvouch.Signer, threads: int = 8) -> Iterator[Signing]:
    """Sign in threads while the block runs, and for a while after it."""
    work = Signing(signer)
    running = [threading.Thread(target=work.run) for _ in range(threads)]
    for each in running:
        each.start()
    try:
        work.wait_for_more()
        yield work
        work.wait_for_more()
    finally:
        work.stopping = True
        for each in running:
            each.join()


def sign_for(signer: keyvouch.Signer, seconds: float, threads: int) -> list[BaseException]:
    """Sign in threads for `seconds`, and return the failures."""
    with signing(signer, threads) as work:
        time.sleep(seconds)
    return work.failures
