"""The store keeps the contract, in a Windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

import pytest

import keyvouch
from keyvouch.store import KeySpec
from keyvouch.testing import StoreConformance

PROVIDER = "Microsoft Enhanced RSA and AES Cryptographic Provider"
"""A legacy one: its keys outlive the handle under Wine, which those of CNG do not."""


class TestLegacyProvider(StoreConformance):
    """Keys of the user's, in a legacy provider: RSA and PKCS#1 alone.

    No secret is given, and there is no connection. Access rules do not hold under Wine.
    """

    unsupported = (
        *("ec", "ed25519", "PS256", "PS384", "PS512"),
        *("secret", "connection", "stalled", "proxy", "replaced", "request", "grant"),
    )
    missing_uri = "windows:thumbprint=" + "4A" * 20
    many: ClassVar[int] = 300
    _numbers = itertools.count()
    _base = f"windows:location=CurrentUser;provider={PROVIDER}"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _keys(cls) -> Iterator[None]:
        cls.uri = cls._made(f"{cls._base};friendly-name=one", exportable=True)
        for _ in range(2):
            cls._made(f"{cls._base};friendly-name=two", further=True)
        cls.ambiguous_uri = "windows:friendly-name=two"
        cls.family_uri = f"{cls._base};friendly-name=two?select=newest&settle=0"
        yield
        with keyvouch.open_store("windows:location=CurrentUser") as store:
            left = store.keys()
        for info in left:
            with keyvouch.open_store(str(info.uri)) as store:
                store.delete()

    @staticmethod
    def _made(uri: str, *, exportable: bool = False, further: bool = False) -> str:
        with keyvouch.open_store(uri) as store:
            return str(store.generate(KeySpec("RSA-2048", "CN=kit", exportable=exportable, further=further)))

    def new_uri(self) -> str:
        return f"{self._base};friendly-name=new-{next(self._numbers)}"
