"""The built-in store conforms to the contract, in each of its formats."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import keyvouch
from keyvouch.testing import StoreConformance

PASSWORD = "correct horse"
ALWAYS = frozenset({"connection", "stalled", "refusals", "request", "grant"})
"""Files have no connection that could be lost or stall, and no server that counts logins or grants access."""


def make(uri: str, kind: str, *, further: bool = False) -> str:
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(kind, "CN=app", 30, further=further))
    return uri


class FileConformance(StoreConformance):
    """Common to all formats."""

    scheme: ClassVar[str]
    suffix: ClassVar[str]
    query: ClassVar[str]
    folder: ClassVar[Path]
    unsupported = ALWAYS
    _numbers = itertools.count()

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _make_keys(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        cls.folder = tmp_path_factory.mktemp("keys")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KIT_PASSWORD", PASSWORD)
            patch.setenv("KIT_WRONG", "wrong")
            cls.uri = cls.rsa_uri = make(cls.at("rsa"), "RSA-2048")
            cls.ec_uri = make(cls.at("ec"), "P-256")
            cls.ed25519_uri = make(cls.at("ed25519"), "Ed25519")
            cls.missing_uri = cls.at("missing")
            if "family" not in cls.unsupported:
                cls.ambiguous_uri = make(cls.at("member-*"), "P-256")
                make(cls.ambiguous_uri, "P-256", further=True)
                cls.family_uri = f"{cls.ambiguous_uri}{'&' if cls.query else '?'}select=newest&settle=0"
            cls.wrong_secret_uri = cls.uri.replace("KIT_PASSWORD", "KIT_WRONG") if cls.query else None
            yield

    @classmethod
    def at(cls, name: str) -> str:
        return f"{cls.scheme}:{cls.folder}/{name}{cls.suffix}{cls.query}"

    def new_uri(self) -> str:
        return self.at(f"new-{next(self._numbers)}")

    def replace_key(self, uri: str) -> None:
        with keyvouch.open_store(uri) as store:
            (there,) = store.keys()
        with keyvouch.open_store(there.uri) as store:
            store.delete()
        make(uri, "P-256")


class TestPfx(FileConformance):
    scheme, suffix, query = "pfx", ".pfx", "?password=env:KIT_PASSWORD"


class TestPem(FileConformance):
    scheme, suffix, query = "pem", ".pem", "?password=env:KIT_PASSWORD"


class TestPemInTheOpen(FileConformance):
    scheme, suffix, query = "pem", ".pem", ""
    unsupported = ALWAYS | {"secret"}


class TestPemInTwoFiles(FileConformance):
    scheme, suffix, query = "pem", ".key", ""
    unsupported = ALWAYS | {"secret", "certificate", "ambiguous", "family"}

    @classmethod
    def at(cls, name: str) -> str:
        return f"pem:{cls.folder}/{name}.key?certificate-file={cls.folder}/{name}.crt"
