"""The store fulfils the contract, on the Key Vault simulator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import ClassVar

import pytest

from azure_simulator import PROXIED, Vault, running
from keyvouch.testing import Relay, StoreConformance


class TestKeyVault(StoreConformance):
    """A lost connection does not end a login here, so the login is broken instead, by revoking its token.

    No URI contains a secret, and none is ambiguous: a certificate without a version is a family.

    The service creates certificates for a number of months, here for a year.
    """

    unsupported = ("ed25519", "ambiguous", "secret", "replaced", "export", "grant")
    many: ClassVar[int] = 300
    days: ClassVar[int] = 365
    _numbers = itertools.count()
    _vault: ClassVar[Vault]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _keys(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with (
            running(tmp_path_factory.mktemp("vault"), names=[PROXIED]) as cls._vault,
            Relay(("127.0.0.1", cls._vault.port)) as cls.relay,
        ):
            cls._vault.make("rsa")
            cls._vault.make("family", "P-256", created=1_700_000_000)
            cls._vault.make("family", "P-256")
            cls.uri = cls.at("rsa")
            cls.missing_uri = cls.at("missing")
            cls.family_uri = f"{cls.at('family')}&select=newest&settle=0"
            cls.proxied_uri = cls.uri.replace(f"localhost:{cls.relay.port}", f"{PROXIED}:443")
            cls.proxied_server = ("127.0.0.1", cls._vault.port)
            yield

    @classmethod
    def at(cls, name: str) -> str:
        assert cls.relay is not None
        address = f"https://localhost:{cls.relay.port}"
        ca = cls._vault.ca_file
        return f"azure-keyvault:vault={address};certificate={name}?auth=environment&ca-file={ca}&purge=true"

    def break_connection(self) -> None:
        self._vault.revoke_tokens()

    def restore_connection(self) -> None:
        """Do nothing: the next login restores it."""

    def new_uri(self) -> str:
        return self.at(f"new-{next(self._numbers)}")
