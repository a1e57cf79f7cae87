"""The store passes the conformance kit with each available module; `opencryptoki_suite.py` tests another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from conformance_uris import Pkcs11Uris
from keyvouch.testing import StoreConformance
from p11_kit_server import P11_KIT_CLIENT, P11KitServer, p11_kit_server
from softhsm_tokens import PIN, SOFTHSM, use_softhsm
from tpm_token import TPM2, TPM_LABEL, TPM_PIN, tpm

pytestmark = pytest.mark.server


class TestSoftHsm(Pkcs11Uris, StoreConformance):
    """SoftHSM never locks a token, and runs in this process, so no server can stall."""

    unsupported = ("refusals", "stalled", "replaced", "request", "export", "grant")

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _token(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            use_softhsm(tmp_path_factory.mktemp("softhsm"), patch, "conformance")
            cls.prepare(patch, SOFTHSM, "conformance", PIN)
            yield


class TestP11KitServer(Pkcs11Uris, StoreConformance):
    """SoftHSM behind p11-kit's socket, whose server process is killed; p11-kit does not support Ed25519."""

    unsupported = ("ed25519", "refusals", "stalled", "replaced", "request", "export", "grant")
    _server: ClassVar[P11KitServer]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _token(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with (
            pytest.MonkeyPatch.context() as patch,
            p11_kit_server(tmp_path_factory.mktemp("p11-kit"), patch, "conformance") as cls._server,
        ):
            cls.prepare(patch, P11_KIT_CLIENT, "conformance", PIN)
            yield

    def break_connection(self) -> None:
        assert self._server.kill_children()


class TestTpm(Pkcs11Uris, StoreConformance):
    """The TPM's module cannot import keys and does not work in a forked child."""

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
