"""Fixtures of a client with two keys, of which the authority knows both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import App, Authority
from signing_in import Key, make_key


@pytest.fixture
def preferred(tmp_path: Path) -> Key:
    return make_key(tmp_path, "preferred.pem", "RSA-2048")


@pytest.fixture
def standby(tmp_path: Path) -> Key:
    return make_key(tmp_path, "standby.pem", "RSA-2048")


@pytest.fixture
def app(authority: Authority, preferred: Key, standby: Key) -> App:
    return authority.register(certificates=[preferred.certificate, standby.certificate])


@pytest.fixture
def client_of(authority: Authority, app: App) -> Iterator[Callable[..., ConfidentialClient]]:
    """Create clients that are closed at the end."""
    clients: list[ConfidentialClient] = []

    def make(*uris: Any) -> ConfidentialClient:
        clients.append(
            ConfidentialClient(
                app.client_id,
                uris,
                authority=authority.authority,
                ca_file=authority.ca_file,
                instance_discovery=False,
            )
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()
