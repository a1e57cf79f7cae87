"""Access to the modules loaded in this process, to disturb them in tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import module
from keyvouch_pkcs11.token import Token


def loaded_module(path: Path) -> module.Module:
    """Return this process's module loaded from a file."""
    return module._modules[os.path.realpath(path)]


def only_token(path: Path) -> Token:
    """Return the only token of a module that is in use."""
    (token,) = loaded_module(path)._tokens.values()
    return token


def close_all_sessions(path: Path) -> None:
    """Close every session of a module while no call is running, since SoftHSM would crash during one."""
    loaded = loaded_module(path)
    with loaded.exclusive():
        for slot in loaded._functions.slots():
            loaded._functions._call("CloseAllSessions", ck.CK_ULONG(slot))


def log_out(path: Path) -> None:
    """Log out of a module's tokens, as another library in this process might."""
    loaded = loaded_module(path)
    for slot in list(loaded._tokens):
        with contextlib.suppress(ck.CryptokiError), loaded as functions:
            session = functions.open_session(slot)
            functions._call("Logout", ck.CK_ULONG(session))
            functions.close_session(session)


def finalize_modules() -> None:
    """Finalize all modules, so that they are initialized again on their next use."""
    for each in module._modules.values():
        each.finalize()


@contextlib.contextmanager
def recorded_calls() -> Iterator[list[str]]:
    """Record the names of all calls to modules during the block, without C_: `FindObjectsInit`."""
    calls: list[str] = []
    call = ck.Cryptoki._call

    def recorded(self: ck.Cryptoki, name: str, *arguments: object) -> None:
        calls.append(name)
        call(self, name, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ck.Cryptoki, "_call", recorded)
        yield calls
