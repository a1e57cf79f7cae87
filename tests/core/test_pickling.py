"""An object that holds an open key cannot be sent to another process; the error says what can."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

import keyvouch
from keyvouch.entra.azure import KeyvouchCredential
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.testing.authority import Authority
from scripted_store import Script


@pytest.fixture
def script() -> Iterator[Script]:
    with Script() as prepared:
        yield prepared


@pytest.fixture
def objects(script: Script, authority: Authority) -> Iterator[dict[str, Any]]:
    """One open object of each kind."""
    with keyvouch.open_signer(script.uri) as signer, keyvouch.open_store(script.uri) as store:
        app = authority.register(certificates=signer.chain)
        with ConfidentialClient(
            app.client_id,
            [signer],
            authority=f"{authority.url}/{app.tenant}",
            ca_file=authority.ca_file,
            instance_discovery=False,
        ) as client:
            yield {
                "Signer": signer,
                "Store": store,
                "ConfidentialClient": client,
                "ClientAssertion": keyvouch.ClientAssertion(signer),
                "KeyvouchCredential": KeyvouchCredential(client),
            }


@pytest.mark.parametrize("send", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    ("kind", "instead"),
    [("Signer", "keyvouch.open_signer"), ("Store", "keyvouch.open_store"), ("ConfidentialClient", "keyvouch.connect")],
)
def test_error_names_the_alternative(
    objects: dict[str, Any], kind: str, instead: str, send: Callable[[object], object]
) -> None:
    """Pickling and copying raise TypeError, as for any object that cannot be pickled, with the call to make there."""
    with pytest.raises(TypeError, match=rf"(?s)cannot pickle a {kind}.*{instead}"):
        send(objects[kind])


@pytest.mark.parametrize("kind", ["ClientAssertion", "KeyvouchCredential"])
def test_object_that_holds_one(objects: dict[str, Any], kind: str) -> None:
    """An object that holds such an object reports the same."""
    with pytest.raises(TypeError, match="its key is open in this process"):
        pickle.dumps(objects[kind])


def test_credential_for_a_profile_can_be_pickled() -> None:
    """A credential that only names a profile holds no key."""
    assert b"nightly" in pickle.dumps(KeyvouchCredential("nightly"))


def test_pool_of_processes(script: Script) -> None:
    """A process pool, which pickles arguments, passes the error to its caller."""
    spawning = multiprocessing.get_context("spawn")
    with keyvouch.open_signer(script.uri) as signer, ProcessPoolExecutor(1, spawning) as pool:
        sent = pool.submit(len, signer)  # type: ignore[arg-type]

        with pytest.raises(TypeError, match=r"keyvouch\.open_signer in the other process"):
            sent.result()
