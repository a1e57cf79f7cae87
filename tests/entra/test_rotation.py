"""A running client follows the rotation of its key, and nobody who asks it for tokens sees anything of it."""

from __future__ import annotations

import base64
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

import keyvouch
from keyvouch.certificate import fingerprint
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import Authority
from scripted_store import until

NO_CACHE = '{"access_token": {"nbf": {"essential": true}}}'
"""With a claims challenge MSAL asks the authority each time."""


def make_member(uri: str, *, further: bool = False) -> tuple[Path, x509.Certificate]:
    """Make a key; return its file and its certificate."""
    with keyvouch.open_store(uri) as store:
        pinned = store.generate(keyvouch.KeySpec(further=further))
    with keyvouch.open_signer(pinned) as signer:
        return pinned.get("path"), signer.chain[0]


@contextmanager
def busy(client: ConfidentialClient) -> Iterator[Callable[[], None]]:
    """Let 8 threads ask for tokens, each for its own resource and without the cache; what is given checks on them."""
    numbers, done = itertools.count(), threading.Event()

    def ask(index: int) -> None:
        while not done.is_set():
            assert client.access_token([f"api://{index}/.default"], claims_challenge=NO_CACHE)
            next(numbers)

    with ThreadPoolExecutor(8) as pool:
        asking: list[Future[None]] = [pool.submit(ask, index) for index in range(8)]

        def go_on() -> None:
            """Wait for a hundred more tokens."""
            end = next(numbers) + 100
            until(lambda: next(numbers) >= end or any(each.done() for each in asking))

        try:
            yield go_on
        finally:
            done.set()
        for each in asking:
            each.result()


@pytest.fixture
def client_of(authority: Authority) -> Callable[..., ConfidentialClient]:
    def make(client_id: str, key: str) -> ConfidentialClient:
        return ConfidentialClient(
            client_id,
            [key],
            authority=authority.authority,
            ca_file=authority.ca_file,
            instance_discovery=False,
        )

    return make


def test_family_rotates_unseen(
    authority: Authority, tmp_path: Path, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A further key is made and registered, settles, and the old one is removed: not one request is refused."""
    family = f"pem:{tmp_path}/app-*.pem?select=newest&settle=2"
    old_file, old = make_member(family)
    app = authority.register(certificates=[old])
    with client_of(app.client_id, family) as client, busy(client) as go_on:
        go_on()
        _, new = make_member(family, further=True)
        app.add_certificate(new)

        def new_one_signs() -> bool:
            header = authority.exchanges[-1].header or {}
            return authority_name(new) == header["x5t#S256"]

        until(new_one_signs)
        go_on()  # what was signed with the old key is answered
        app.remove_certificate(old)
        old_file.unlink()
        go_on()

    assert {exchange.status for exchange in authority.exchanges} == {200}


def test_replaced_key_is_reloaded_by_all(
    authority: Authority, tmp_path: Path, client_of: Callable[..., ConfidentialClient]
) -> None:
    """File and registration are replaced in one moment: what is refused is signed anew, in every thread."""
    uri = f"pem:{tmp_path}/app.pem"
    file, old = make_member(uri)
    app = authority.register(certificates=[old])
    with client_of(app.client_id, uri) as client, busy(client) as go_on:
        go_on()
        new_file, new = make_member(f"pem:{tmp_path}/new.pem")
        app.add_certificate(new)
        new_file.replace(file)
        app.remove_certificate(old)
        go_on()

    assert authority.exchanges[-1].status == 200


def authority_name(certificate: x509.Certificate) -> str:
    """Return the thumbprint as an assertion's header has it."""
    return base64.urlsafe_b64encode(fingerprint(certificate)).rstrip(b"=").decode()
