"""The store passes the conformance kit."""

import itertools

import pytest

import keyvouch
from keyvouch.testing import StoreConformance


class TestSqliteStore(StoreConformance):
    unsupported = (
        *("secret", "connection", "stalled", "replaced"),
        *("import", "request", "install", "delete", "export", "grant", "peer"),
    )
    counter = itertools.count()

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _generate_keys(cls, tmp_path_factory):
        cls.prefix = f"sqlite:path={tmp_path_factory.mktemp('keys')}/keys.db;name="
        cls.uri = cls.rsa_uri = cls.generate("rsa", "RSA-2048")
        cls.ec_uri = cls.generate("ec", "P-256")
        cls.ed25519_uri = cls.generate("ed25519", "Ed25519")
        cls.missing_uri = f"{cls.prefix}missing"
        cls.ambiguous_uri = cls.generate("family", "P-256")
        cls.generate("family", "P-256")
        cls.family_uri = f"{cls.ambiguous_uri}?select=newest&settle=0"

    @classmethod
    def generate(cls, name, kind):
        with keyvouch.open_store(f"{cls.prefix}{name}") as store:
            store.generate(keyvouch.KeySpec(kind, further=True))
        return f"{cls.prefix}{name}"

    def new_uri(self):
        return f"{self.prefix}new{next(self.counter)}"
