"""The store keeps the contract."""

import itertools

import pytest

import keyvouch
from keyvouch.testing import StoreConformance


class TestSqliteStore(StoreConformance):
    unsupported = (
        *("secret", "connection", "stalled", "replaced"),
        *("import", "request", "install", "delete", "export", "grant"),
    )
    numbers = itertools.count()

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _make_keys(cls, tmp_path_factory):
        cls.at = f"sqlite:path={tmp_path_factory.mktemp('keys')}/keys.db;name="
        cls.uri = cls.rsa_uri = cls.make("rsa", "RSA-2048")
        cls.ec_uri = cls.make("ec", "P-256")
        cls.ed25519_uri = cls.make("ed25519", "Ed25519")
        cls.missing_uri = f"{cls.at}missing"
        cls.ambiguous_uri = cls.make("family", "P-256")
        cls.make("family", "P-256")
        cls.family_uri = f"{cls.ambiguous_uri}?select=newest&settle=0"

    @classmethod
    def make(cls, name, kind):
        with keyvouch.open_store(f"{cls.at}{name}") as store:
            store.generate(keyvouch.KeySpec(kind, further=True))
        return f"{cls.at}{name}"

    def new_uri(self):
        return f"{self.at}new{next(self.numbers)}"
