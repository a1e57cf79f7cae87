"""MSAL's private names that keyvouch uses: a release of MSAL in which one has disappeared fails here."""

from __future__ import annotations

import inspect
import re
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msal
import pytest
import requests

from keyvouch.entra import msal_internals, transport
from keyvouch.entra.locked_token_cache import LockedTokenCache
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.entra.transport import Session
from keyvouch.testing.authority import Authority

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(authority: Authority) -> Iterator[ConfidentialClient]:
    with ConfidentialClient(
        "id", ["pem:/a"], authority=authority.authority, ca_file=authority.ca_file, instance_discovery=False
    ) as client:
        yield client


def test_every_lock_is_renewed(client: ConfidentialClient) -> None:
    """The locks of the token cache, of the throttled responses and of the telemetry exist, and are replaced."""

    def locks() -> list[object]:
        mapping = client.http_client._expiring_mapping
        return [client.token_cache._lock, mapping._lock, client._telemetry_lock]

    before = locks()
    assert all(type(lock) in (type(threading.Lock()), type(threading.RLock())) for lock in before)
    msal_internals.renew_locks(client)
    assert not {id(lock) for lock in before} & {id(lock) for lock in locks()}


@pytest.mark.parametrize("cache", [msal.TokenCache, msal.SerializableTokenCache])
def test_lock_of_a_token_cache(cache: type[msal.TokenCache]) -> None:
    """It is reentrant, and MSAL holds it while it adds a token."""
    held: list[bool] = []

    class Watched(cache):  # type: ignore[misc]
        def modify(self, *args: object, **kwargs: object) -> None:
            lock = msal_internals.token_cache_lock(self)
            thread = threading.Thread(target=lambda: held.append(not lock.acquire(blocking=False)))  # type: ignore[attr-defined]
            thread.start()
            thread.join()
            with lock:
                super().modify(*args, **kwargs)

    response = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
    Watched().add({"client_id": "c", "scope": ["s"], "token_endpoint": "https://a/t", "response": response})
    assert held
    assert all(held)


def test_telemetry_is_discarded(client: ConfidentialClient) -> None:
    """The buffer exists, and is empty afterwards."""
    client._telemetry_buffer["k"] = "v"
    msal_internals.discard_telemetry(client)
    assert not client._telemetry_buffer


def test_no_other_private_names(authority: Authority) -> None:
    """Our subclasses of MSAL's and requests' classes neither use nor replace their private attributes."""
    with Session(authority.ca_file) as session:
        application = msal.ConfidentialClientApplication(
            "id", "secret", authority=authority.authority, instance_discovery=False, http_client=session
        )
    pairs: list[tuple[type, object]] = [
        (ConfidentialClient, application),
        (LockedTokenCache, msal.SerializableTokenCache()),
        (Session, requests.Session()),
        (transport._Adapter, requests.adapters.HTTPAdapter()),
    ]
    for own, inherited in pairs:
        used = set(re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(own)))
        assert used
        assert not used & set(dir(inherited)), own


def test_newest_allowed_msal_is_tested() -> None:
    """pyproject.toml allows no minor release of MSAL newer than the one in constraints.txt, with which tests run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (limit,) = re.findall(r"^msal>=[\d.]+,<(\d+)\.(\d+)$", "\n".join(project["dependencies"]), re.MULTILINE)
    (tested,) = re.findall(r"^msal==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert (int(limit[0]), int(limit[1])) == (int(tested[0]), int(tested[1]) + 1)
