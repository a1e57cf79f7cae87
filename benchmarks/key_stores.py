"""The stores that are measured, run with the helpers of the tests.

Those that yield `MakeKey` are given an empty folder; the function makes a key of a type, and returns its URI.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import keyvouch

if TYPE_CHECKING:
    from openbao import Server

ROOT = Path(__file__).parents[1]
PASSWORD = "correct-horse"  # noqa: S105 - of throwaway keys
TRANSIT_TYPES = {"RSA-2048": "rsa-2048", "P-256": "ecdsa-p256"}
"""Vault's names for the types of keys."""

MakeKey = Callable[[str], str]

sys.path += [str(each) for each in (ROOT / "tests", *sorted(ROOT.glob("plugins/*/tests")))]


@contextlib.contextmanager
def pfx_files(folder: Path) -> Iterator[MakeKey]:
    """Keys in PFX files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PFX_PASSWORD", PASSWORD)
        yield lambda kind: _generated(f"pfx:{folder / kind}.pfx?password=env:PFX_PASSWORD", kind)


@contextlib.contextmanager
def pem_files(folder: Path) -> Iterator[MakeKey]:
    """Keys in PEM files, not encrypted."""
    yield lambda kind: _generated(f"pem:{folder / kind}.pem", kind)


@contextlib.contextmanager
def softhsm(folder: Path) -> Iterator[MakeKey]:
    """Keys in the token `bench` of SoftHSM, labelled with their type."""
    from pkcs11_modules import finalize_modules
    from softhsm_tokens import PIN, SOFTHSM, use_softhsm

    with pytest.MonkeyPatch.context() as patch:
        use_softhsm(folder, patch, "bench")
        patch.setenv("SOFTHSM_PIN", PIN)
        location = f"module-path={SOFTHSM}&pin-source=env:SOFTHSM_PIN"
        yield lambda kind: _generated(f"pkcs11:token=bench;object={kind}?{location}", kind)
        finalize_modules()


@contextlib.contextmanager
def tpm(folder: Path) -> Iterator[MakeKey]:
    """Keys in a TPM: tpm2-pkcs11 and swtpm."""
    from tpm_token import TPM2, TPM_LABEL, TPM_PIN
    from tpm_token import tpm as running

    with pytest.MonkeyPatch.context() as patch, running(folder, patch):
        patch.setenv("TPM_PIN", TPM_PIN)
        location = f"module-path={TPM2}&pin-source=env:TPM_PIN"
        yield lambda kind: _generated(f"pkcs11:token={TPM_LABEL};object={kind}?{location}", kind)


@contextlib.contextmanager
def openbao_server(folder: Path) -> Iterator[Server]:
    """Run OpenBao over TLS, with its data in memory and without an audit log: as fast as it can be."""
    import openbao

    with (
        pytest.MonkeyPatch.context() as patch,
        openbao.running(folder, openbao.IN_MEMORY, audited=False) as server,
    ):
        server.configure()
        patch.setenv("VAULT_TEST_TOKEN", server.token("keys"))
        yield server


def transit_key(server: Server, kind: str) -> str:
    """Make a key named like its type in the server's transit engine; return its URI."""
    from vault_keys import key_uri

    server.write(f"transit/keys/{kind}", type=TRANSIT_TYPES[kind])
    return key_uri(server, kind)


@contextlib.contextmanager
def openbao(folder: Path) -> Iterator[MakeKey]:
    """Keys in the transit engine of OpenBao."""
    with openbao_server(folder) as server:
        yield partial(transit_key, server)


@dataclasses.dataclass(frozen=True)
class KeyVault:
    """The Key Vault simulator in another process."""

    ca_file: str
    _pipe: Connection

    def make(self, kind: str, *, elsewhere: bool = False) -> tuple[str, str]:
        """Make a certificate, possibly in another vault; return its URI, and the id of its key as the SDK takes it."""
        self._pipe.send(("elsewhere" if elsewhere else "make", kind, 0, 0))
        uri, key_id = self._pipe.recv()
        return uri, key_id

    def copy(self, kind: str, begin: int, end: int) -> None:
        """Add certificates with the same key as that which `make` has made, with numbers in their names."""
        self._pipe.send(("copy", kind, begin, end))
        self._pipe.recv()


@contextlib.contextmanager
def key_vault_simulator(folder: Path) -> Iterator[KeyVault]:
    """Run the Key Vault simulator, with a login in the environment.

    It is in a process of its own, so that it does not compete for this one's interpreter lock.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve_key_vault, args=(folder, theirs))
    server.start()
    theirs.close()
    with pytest.MonkeyPatch.context() as patch, ours:
        ca_file, login = ours.recv()
        for name, value in login.items():
            patch.setenv(name, value)
        yield KeyVault(ca_file, ours)
    server.join()


@contextlib.contextmanager
def key_vault(folder: Path) -> Iterator[MakeKey]:
    """Keys in the Key Vault simulator."""
    with key_vault_simulator(folder) as vault:
        yield lambda kind: vault.make(kind)[0]


def _serve_key_vault(folder: Path, pipe: Connection) -> None:
    """Run the simulator until the pipe is closed."""
    import azure_simulator

    with (
        azure_simulator.running(folder) as vault,
        azure_simulator.Vault(vault.authority, vault.app) as other,
        contextlib.suppress(EOFError),
    ):
        login = {name: value for name, value in os.environ.items() if name.startswith("AZURE_")}
        pipe.send((str(vault.ca_file), login))
        while True:
            wanted, name, begin, end = pipe.recv()
            if wanted == "copy":
                copies = (f"{name}-{number}" for number in range(begin, end))
                vault.keys.update({each: dataclasses.replace(vault.keys[name], name=each) for each in copies})
                pipe.send(None)
            else:
                chosen = other if wanted == "elsewhere" else vault
                uri = chosen.make(name, name)
                pipe.send((uri, f"{chosen.address}/keys/{name}/{chosen.keys[name].newest.version}"))


def _generated(uri: str, kind: str) -> str:
    """Generate a key, and return the URI as it was given: not pinned, as users write it."""
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec(kind))
    return uri
