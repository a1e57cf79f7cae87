"""The store keeps the contract, on each module that can be had here; `opencryptoki_suite.py` has one more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from keyvouch.testing import StoreConformance
from pkcs11_kit import Pkcs11Uris
from pkcs11_remote import REMOTE, Remote, remote
from pkcs11_tokens import PIN, SOFTHSM, use_softhsm
from pkcs11_tpm import TPM2, TPM_LABEL, TPM_PIN, tpm

pytestmark = pytest.mark.server


class TestSoftHsm(Pkcs11Uris, StoreConformance):
    """It never locks a token, and its module is in this process: there is no server that could stall."""

    unsupported = ("refusals", "stalled", "replaced", "request", "export", "grant")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _token(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            use_softhsm(tmp_path_factory.mktemp("softhsm"), patch, "conformance")
            cls.prepare(patch, SOFTHSM, "conformance", PIN)
            yield


class TestRemote(Pkcs11Uris, StoreConformance):
    """SoftHSM behind p11-kit's socket, whose other end is killed; p11-kit does not pass Ed25519 on."""

    unsupported = ("ed25519", "refusals", "stalled", "replaced", "request", "export", "grant")
    _server: ClassVar[Remote]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _token(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with (
            pytest.MonkeyPatch.context() as patch,
            remote(tmp_path_factory.mktemp("remote"), patch, "conformance") as cls._server,
        ):
            cls.prepare(patch, REMOTE, "conformance", PIN)
            yield

    def break_connection(self) -> None:
        assert self._server.kill_children()


class TestTpm(Pkcs11Uris, StoreConformance):
    """Its module takes keys of its own making alone, and is of no use in a forked child."""

    unsupported = ("ed25519", "import", "fork", "refusals", "stalled", "replaced", "request", "export", "grant")
    many: ClassVar[int] = 100

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _token(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with (
            pytest.MonkeyPatch.context() as patch,
            tpm(tmp_path_factory.mktemp("tpm"), patch),
        ):
            cls.prepare(patch, TPM2, TPM_LABEL, TPM_PIN)
            yield
