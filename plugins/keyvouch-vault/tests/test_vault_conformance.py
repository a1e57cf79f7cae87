"""The store fulfils the contract, on OpenBao."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

import pytest

import keyvouch
from keyvouch.testing import Relay, StoreConformance
from openbao import Server

pytestmark = pytest.mark.server


class TestOpenBao(StoreConformance):
    """A lost connection does not end a session here, so `break_connection` revokes its tokens instead.

    No URI is ambiguous: a key without a version is a family.
    """

    unsupported = ("ambiguous", "replaced", "request", "export", "grant")
    many: ClassVar[int] = 300
    _numbers = itertools.count()
    _server: ClassVar[Server]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _keys(cls, server: Server) -> Iterator[None]:
        cls._server = server
        with pytest.MonkeyPatch.context() as patch, Relay(("127.0.0.1", server.port)) as cls.relay:
            patch.setenv("KIT_SECRET_ID", server.secret_id("keys"))
            patch.setenv("KIT_WRONG_SECRET_ID", "wrong-horse")
            cls.uri = cls.make("rsa", "RSA-2048")
            cls.missing_uri = cls.at("missing")
            family = cls.make("family", "P-256")
            cls.make("family", "P-256")
            cls.family_uri = f"{family}&select=newest&settle=0"
            cls.wrong_secret_uri = cls.uri.replace("KIT_SECRET_ID", "KIT_WRONG_SECRET_ID")
            cls.proxied_uri = cls.uri.replace(f"localhost:{cls.relay.port}", "vault.invalid:8200")
            cls.proxied_server = ("127.0.0.1", server.port)
            yield

    @classmethod
    def at(cls, key: str) -> str:
        assert cls.relay is not None
        login = f"auth=approle&role-id={cls._server.role_id('keys')}&secret-id=env:KIT_SECRET_ID"
        address = f"https://localhost:{cls.relay.port}"
        return f"vault:address={address};key={key}?{login}&ca-file={cls._server.ca_file}&deletion-allowed=true"

    @classmethod
    def make(cls, key: str, kind: str) -> str:
        with keyvouch.open_store(cls.at(key)) as store:
            store.generate(keyvouch.KeySpec(kind, further=True))
        return cls.at(key)

    def new_uri(self) -> str:
        return self.at(f"new-{next(self._numbers)}")

    def break_connection(self) -> None:
        self._server.write("sys/leases/revoke-prefix/auth/approle/login")

    def restore_connection(self) -> None:
        """Do nothing: the next login restores it."""

    def count_refusals(self) -> int:
        return sum("error" in each for each in self._server.requests("auth/approle/login"))
