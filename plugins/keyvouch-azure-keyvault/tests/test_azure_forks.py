"""A vault's key in a forked child process."""

from __future__ import annotations

import os

import pytest
from azure.keyvault.keys._shared import http_challenge_cache

import keyvouch
from azure_fixtures import vault  # noqa: F401 - a fixture
from azure_simulator import Vault
from scripted_store import is_signed

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_child_signs_although_a_parents_thread_held_a_lock(vault: Vault) -> None:
    """The child logs in itself, and is not blocked by an SDK lock that one of the parent's threads held."""
    with keyvouch.open_signer(vault.make("forked", "P-256")) as signer:
        with vars(http_challenge_cache)["_lock"]:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    signed = signer.sign(b"message", "ES256", timeout=10)
                    status = 0 if is_signed(signer.public_key, signed, b"message", "ES256") else 2
                finally:
                    os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert is_signed(signer.public_key, signer.sign(b"message", "ES256"), b"message", "ES256")
