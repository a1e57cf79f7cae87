"""A running client follows the rotation of its key without its callers noticing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

import keyvouch
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import Authority
from scripted_store import until
from signing_in import authority_name, busy


def make_member(uri: str, *, further: bool = False) -> tuple[Path, x509.Certificate]:
    """Make a key; return its file and certificate."""
    with keyvouch.open_store(uri) as store:
        pinned = store.generate(keyvouch.KeySpec(further=further))
    with keyvouch.open_signer(pinned) as signer:
        return pinned.get("path"), signer.chain[0]


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


def test_family_rotates_without_a_refusal(
    authority: Authority, tmp_path: Path, client_of: Callable[..., ConfidentialClient]
) -> None:
    """Another key is created and registered, settles, and the old one is removed: no request is refused."""
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
        go_on()  # what was signed with the old key is accepted
        app.remove_certificate(old)
        old_file.unlink()
        go_on()

    assert {exchange.status for exchange in authority.exchanges} == {200}


def test_replaced_key_is_reloaded_by_all(
    authority: Authority, tmp_path: Path, client_of: Callable[..., ConfidentialClient]
) -> None:
    """File and registration are replaced at the same moment: a refused assertion is signed again, in every thread."""
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
