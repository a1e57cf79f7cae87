"""Shared helpers for tests that sign in: keys in files, profiles, and the command run as a user would."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msal
from cryptography import x509

import keyvouch
from keyvouch.certificate import fingerprint
from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.entra.transport import Session
from keyvouch.testing.authority import App, Authority
from scripted_store import until
from servers.oidc import Client, OidcProvider

SCOPE = "https://graph.microsoft.com/.default"
PASSWORD = "correct horse"
NO_CACHE = '{"access_token": {"nbf": {"essential": true}}}'
"""With this claims challenge MSAL asks the authority each time."""


class Key(NamedTuple):
    """A key in a file."""

    uri: str
    certificate: x509.Certificate


def make_key(folder: Path, name: str = "app.pfx", key_type: str = "RSA-2048", days: int = 365) -> Key:
    """Create a key in a PFX or PEM file, protected by the password in the variable APP_PASSWORD."""
    os.environ["APP_PASSWORD"] = PASSWORD
    uri = f"{'pfx' if name.endswith('.pfx') else 'pem'}:{folder / name}?password=env:APP_PASSWORD"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(key_type=key_type, subject=f"CN={name}", days=days))
    with keyvouch.open_signer(uri) as signer:
        return Key(uri, signer.chain[0])


def write_profile(folder: Path, authority: Authority, app: App, keys: Sequence[str], **fields: object) -> Path:
    """Write a configuration with a single profile, `nightly`."""
    values = {
        "authority": authority.url,
        "tenant": app.tenant,
        "client-id": app.client_id,
        "scopes": [SCOPE],
        "keys": list(keys),
        "ca-file": authority.ca_file,
        **fields,
    }
    path = folder / "config.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    path.write_text("\n".join(["[profiles.nightly]", *lines]) + "\n", encoding="utf-8")
    return path


def sign_in(signer: keyvouch.Signer, authority: Authority, provider: OidcProvider, algorithm: str = "PS256") -> None:
    """Sign in with unmodified MSAL at both servers: the authority knows the certificate, the other one the key."""
    app = authority.register(certificates=signer.chain)
    client_id = str(uuid.uuid4())
    provider.register(Client(client_id, algorithm, signer.chain[0]))
    for client, url, session, scope in (
        (app.client_id, authority.authority, Session(authority.ca_file), SCOPE),
        (client_id, provider.authority, provider.session(), provider.scope),
    ):
        application = msal.ConfidentialClientApplication(
            client,
            authority=url,
            client_credential=client_credential(signer),
            http_client=session,
            instance_discovery=False,
        )
        answer = application.acquire_token_for_client([scope])
        assert "access_token" in answer, answer
    assert provider.refusals(client_id) == []


@contextmanager
def busy(client: ConfidentialClient) -> Iterator[Callable[[], None]]:
    """Let 8 threads request tokens, each for its own resource and without the cache; yield a wait for more of them."""
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


def authority_name(certificate: x509.Certificate) -> str:
    """Return the thumbprint in the form of an assertion's header."""
    return base64.urlsafe_b64encode(fingerprint(certificate)).rstrip(b"=").decode()


class Done(NamedTuple):
    """A command's output and exit status."""

    status: int
    output: str
    errors: str


def run(
    *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Done:
    """Run `keyvouch` in its own process."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "keyvouch", *arguments],
        input=stdin,
        env={**os.environ, **(environment or {})},
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=120,
    )
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
