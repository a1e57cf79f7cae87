"""Tests with opencryptoki, whose token locks itself and whose module detects forks. One run at a time.

The whole machine shares one token, so `test_opencryptoki.py` runs this suite in a separate process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import keyvouch
from conformance_uris import Pkcs11Uris
from keyvouch.errors import SecretIncorrect, StoreLocked
from keyvouch.testing import StoreConformance
from keyvouch_pkcs11 import cryptoki as ck
from opencryptoki_token import OPENCRYPTOKI, OPENCRYPTOKI_LABEL, OPENCRYPTOKI_PIN, opencryptoki
from pkcs11_modules import only_token


def uri_of(label: str, pin: str = "OC_PIN") -> str:
    return f"pkcs11:token={OPENCRYPTOKI_LABEL};object={label}?module-path={OPENCRYPTOKI}&pin-source=env:{pin}"


def generate(label: str) -> str:
    with keyvouch.open_store(uri_of(label)) as store:
        store.generate(keyvouch.KeySpec("RSA-2048", further=True))
    return uri_of(label)


@pytest.fixture(scope="module", autouse=True)
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, opencryptoki():
        patch.setenv("STATE_DIRECTORY", str(tmp_path_factory.mktemp("state")))
        patch.setenv("OC_PIN", OPENCRYPTOKI_PIN)
        yield


class TestOpencryptoki(Pkcs11Uris, StoreConformance):
    """opencryptoki's software token supports only RSA."""

    unsupported = ("ec", "ed25519", "refusals", "stalled", "replaced", "request", "export", "grant")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _keys(cls, token: None) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            cls.prepare(patch, OPENCRYPTOKI, OPENCRYPTOKI_LABEL, OPENCRYPTOKI_PIN, "RSA-2048")
            yield


def flags() -> int:
    """Return the token's current flags."""
    token = only_token(OPENCRYPTOKI)
    with token.module as functions:
        return int(functions.token_info(token.slot).flags)


def test_wrong_pin_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If eight threads use a wrong PIN three times each, the token sees it once."""
    generate("counted")
    monkeypatch.setenv("OC_OTHER_PIN", "1234567")
    errors: list[Any] = []

    def open_key() -> None:
        for _ in range(3):
            try:
                keyvouch.open_signer(uri_of("counted", "OC_OTHER_PIN")).close()
            except BaseException as error:  # noqa: BLE001 - the test reports it
                errors.append(error)

    threads = [threading.Thread(target=open_key) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {type(error) for error in errors} == {SecretIncorrect}
    assert len(errors) == 24
    with keyvouch.open_store(f"pkcs11:token={OPENCRYPTOKI_LABEL}?module-path={OPENCRYPTOKI}") as store:
        store.keys()
        low = flags()
    assert low & ck.CKF_USER_PIN_COUNT_LOW
    assert not low & ck.CKF_USER_PIN_FINAL_TRY
    with keyvouch.open_signer(uri_of("counted")):
        assert not flags() & ck.CKF_USER_PIN_COUNT_LOW  # reset by the correct PIN


def test_no_pin_is_tried_before_the_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """If one more wrong PIN would lock the token, or if it is locked, not even the correct PIN is tried."""
    generate("last")
    for number in (1, 2):
        monkeypatch.setenv("OC_OTHER_PIN", f"100000{number}")
        with pytest.raises(SecretIncorrect):
            keyvouch.open_signer(uri_of("last", "OC_OTHER_PIN"))
    with pytest.raises(StoreLocked, match="One more wrong PIN"):
        keyvouch.open_signer(uri_of("last"))
    monkeypatch.setattr(ck, "CKF_USER_PIN_FINAL_TRY", 0)
    monkeypatch.setattr("keyvouch_pkcs11.token.CKF_USER_PIN_FINAL_TRY", 0)
    monkeypatch.setenv("OC_OTHER_PIN", "1000003")
    with pytest.raises((SecretIncorrect, StoreLocked)):
        keyvouch.open_signer(uri_of("last", "OC_OTHER_PIN"))
    with pytest.raises(StoreLocked, match="is locked"):
        keyvouch.open_signer(uri_of("last"))
