"""The store keeps the contract, on each module that can be had here."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

import pytest

import keyvouch
from keyvouch.testing import StoreConformance
from pkcs11_tokens import PIN, SOFTHSM, close_all_sessions, use_softhsm

pytestmark = pytest.mark.server


class TestSoftHsm(StoreConformance):
    """It never locks a token, and its module is in this process: there is no server that could stall."""

    unsupported = ("refusals", "stalled", "replaced", "request", "export", "grant")
    many: ClassVar[int] = 1500
    _numbers = itertools.count()

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _token(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            use_softhsm(tmp_path_factory.mktemp("softhsm"), patch, "conformance")
            patch.setenv("KIT_PIN", PIN)
            patch.setenv("KIT_WRONG_PIN", "wrong-horse")
            cls.uri = cls.make("rsa", "RSA-2048")
            cls.missing_uri = cls.at("missing")
            cls.ambiguous_uri = cls.make("family", "P-256")
            cls.make("family", "P-256")
            cls.family_uri = f"{cls.ambiguous_uri}&select=newest&settle=0"
            cls.wrong_secret_uri = cls.uri.replace("KIT_PIN", "KIT_WRONG_PIN")
            yield

    @classmethod
    def at(cls, label: str) -> str:
        return f"pkcs11:token=conformance;object={label}?module-path={SOFTHSM}&pin-source=env:KIT_PIN"

    @classmethod
    def make(cls, label: str, kind: str) -> str:
        with keyvouch.open_store(cls.at(label)) as store:
            store.generate(keyvouch.KeySpec(kind, further=True))
        return cls.at(label)

    def new_uri(self) -> str:
        return self.at(f"new-{next(self._numbers)}")

    def break_connection(self) -> None:
        close_all_sessions(SOFTHSM)
