"""The store fulfils the contract with CNG keys in the machine's store: on real Windows, as administrator."""

from __future__ import annotations

import itertools

import pytest

import keyvouch
from keyvouch.store import KeySpec
from keyvouch.testing import StoreConformance

pytestmark = pytest.mark.usefixtures("cleaned_up_module")


class TestSoftwareProvider(StoreConformance):
    """Keys of the Microsoft Software Key Storage Provider: RSA including PSS, and EC."""

    unsupported = ("ed25519", "secret", "connection", "stalled", "proxy", "replaced", "request")
    account = r"NT AUTHORITY\LOCAL SERVICE"
    missing_uri = "windows:thumbprint=" + "4A" * 20
    _numbers = itertools.count()
    _base = "windows:location=LocalMachine"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _keys(cls) -> None:
        cls.uri = cls.make(f"{cls._base};friendly-name=native-one", exportable=True)
        for _ in range(2):
            cls.make(f"{cls._base};friendly-name=native-two", further=True)
        cls.ambiguous_uri = f"{cls._base};friendly-name=native-two"
        cls.family_uri = f"{cls._base};friendly-name=native-two?select=newest&settle=0"

    @staticmethod
    def make(uri: str, *, exportable: bool = False, further: bool = False) -> str:
        with keyvouch.open_store(uri) as store:
            return str(store.generate(KeySpec("RSA-2048", "CN=native kit", exportable=exportable, further=further)))

    def new_uri(self) -> str:
        return f"{self._base};friendly-name=native-new-{next(self._numbers)}"
