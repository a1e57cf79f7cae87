"""The store fulfils the contract inside Windows, and under Wine, where CNG keys do not outlive their handles."""

from __future__ import annotations

import itertools

import pytest

import keyvouch
from keyvouch.store import KeySpec
from keyvouch.testing import StoreConformance

PROVIDER = "Microsoft Enhanced RSA and AES Cryptographic Provider"


pytestmark = pytest.mark.usefixtures("cleaned_up_module")


class TestLegacyProvider(StoreConformance):
    """Keys of a legacy provider: RSA with PKCS#1 v1.5 only."""

    unsupported = (
        *("ec", "ed25519", "PS256", "PS384", "PS512"),
        *("secret", "connection", "stalled", "proxy", "replaced", "request", "grant"),
    )
    missing_uri = "windows:thumbprint=" + "4A" * 20
    _numbers = itertools.count()
    _base = f"windows:location=CurrentUser;provider={PROVIDER}"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _keys(cls) -> None:
        cls.uri = cls.make(f"{cls._base};friendly-name=one", exportable=True)
        for _ in range(2):
            cls.make(f"{cls._base};friendly-name=two", further=True)
        cls.ambiguous_uri = "windows:friendly-name=two;location=CurrentUser"
        cls.family_uri = f"{cls._base};friendly-name=two?select=newest&settle=0"

    @staticmethod
    def make(uri: str, *, exportable: bool = False, further: bool = False) -> str:
        with keyvouch.open_store(uri) as store:
            return str(store.generate(KeySpec("RSA-2048", "CN=kit", exportable=exportable, further=further)))

    def new_uri(self) -> str:
        return f"{self._base};friendly-name=new-{next(self._numbers)}"
