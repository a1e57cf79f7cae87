"""Keys in a TPM, through tpm2-pkcs11: tests beyond the conformance kit."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator

import pytest

import keyvouch
from keyvouch.errors import KeyUnusable
from keyvouch.testing.authority import Authority
from scripted_store import is_signed
from servers.oidc import OidcProvider
from signing_in import sign_in
from tpm_token import TPM2, TPM_LABEL, TPM_PIN, tpm

pytestmark = pytest.mark.server
KEY = f"pkcs11:token={TPM_LABEL};object=app?module-path={TPM2}&pin-source=env:TPM_PIN"


@pytest.fixture(scope="module", autouse=True)
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[keyvouch.Signer]:
    """Return a signer for a key generated in a TPM."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPM_PIN", TPM_PIN)
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        with tpm(tmp_path_factory.mktemp("tpm"), patch):
            with keyvouch.open_store(KEY) as store:
                store.generate(keyvouch.KeySpec("RSA-2048", "CN=tpm", 30))
            with keyvouch.open_signer(KEY) as opened:
                yield opened


def test_unmodified_msal_signs_in(signer: keyvouch.Signer, authority: Authority, oidc_provider: OidcProvider) -> None:
    """Both test authorities accept PS256, which the TPM supports although it does not list it."""
    assert signer.exportable is False
    sign_in(signer, authority, oidc_provider)


@pytest.mark.parametrize("name", ["RS256", "PS256", "RS384", "RS512"])
def test_rsa_algorithms(signer: keyvouch.Signer, name: str) -> None:
    """A TPM's PSS salt is as long as the hash; tpm2-pkcs11 supports PSS only with SHA-256."""
    assert is_signed(signer.public_key, signer.sign(b"message", name), b"message", name)


def test_forked_child_gets_an_error(signer: keyvouch.Signer) -> None:
    """The child gets an error with the remedy, and the parent continues to sign."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signer.sign(b"message", "RS256")
        except KeyUnusable as error:
            status = 0 if "after the fork" in error.hint else 2
        except BaseException:  # noqa: BLE001 - pytest shows it
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert is_signed(signer.public_key, signer.sign(b"message", "RS256"), b"message", "RS256")
