"""A signer for tests, without a file or server."""

from __future__ import annotations

import os

import pytest

import keyvouch
from keyvouch.algorithms import KEY_TYPES, key_type
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import ConfigurationError
from keyvouch.testing.authority import Authority
from keyvouch.testing.fixtures import signer  # noqa: F401 - a fixture
from keyvouch.testing.throwaway import throwaway_signer
from scripted_store import is_signed
from signing_in import SCOPE


@pytest.mark.parametrize("kind", [kind for kind in KEY_TYPES if kind not in ("RSA-3072", "RSA-4096")])
def test_each_kind_signs(kind: str) -> None:
    """A key of each type can be created, with a certificate for the given subject."""
    with throwaway_signer(kind, "CN=nightly,O=Contoso", days=7) as made:
        algorithm = {"R": "PS256", "E": "EdDSA"}.get(kind[0]) or f"ES{kind[2:].replace('521', '512')}"
        assert key_type(made.public_key) == kind
        assert is_signed(made.public_key, made.sign(b"x", algorithm), b"x", algorithm)
        assert made.chain[0].subject.rfc4514_string() == "CN=nightly,O=Contoso"


def test_unknown_key_type_is_refused() -> None:
    """Other types are refused."""
    with pytest.raises(ConfigurationError):
        throwaway_signer("RSA-1024")


def test_signers_have_different_keys() -> None:
    """Each signer has its own key."""
    with throwaway_signer("P-256") as one, throwaway_signer("P-256") as other:
        assert one.public_key != other.public_key


def test_child_has_the_same_key() -> None:
    """A forked child can sign with it, too."""
    with throwaway_signer("P-256") as made:
        child = os.fork()
        if child == 0:
            os._exit(0 if is_signed(made.public_key, made.sign(b"x", "ES256"), b"x", "ES256") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_program_signs_in_with_it(authority: Authority, signer: keyvouch.Signer) -> None:
    """Only the fixture, the development authority and the program's client are needed to sign in."""
    app = authority.register(certificates=signer.chain)
    with ConfidentialClient(
        app.client_id,
        [signer],
        authority=authority.authority,
        ca_file=authority.ca_file,
        instance_discovery=False,
    ) as client:
        assert client.access_token([SCOPE])
