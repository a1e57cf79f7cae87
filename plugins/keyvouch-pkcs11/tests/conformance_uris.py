"""The conformance kit's parameters for a token, common to all modules."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import pytest

import keyvouch
from pkcs11_modules import close_all_sessions


class Pkcs11Uris:
    """Mixin for `StoreConformance` classes: URIs of keys on one token."""

    uri: ClassVar[str]
    missing_uri: ClassVar[str | None]
    ambiguous_uri: ClassVar[str | None]
    family_uri: ClassVar[str | None]
    wrong_secret_uri: ClassVar[str | None]
    _module: ClassVar[Path]
    _label: ClassVar[str]
    _counter: ClassVar = itertools.count()

    @classmethod
    def prepare(cls, patch: pytest.MonkeyPatch, module: Path, label: str, pin: str, family_type: str = "P-256") -> None:
        """Generate the keys that the conformance kit requires, on the token with this label."""
        cls._module, cls._label = module, label
        patch.setenv("KIT_PIN", pin)
        patch.setenv("KIT_WRONG_PIN", pin[::-1])
        cls.uri = cls.make("rsa", "RSA-2048")
        cls.missing_uri = cls.uri_of("missing")
        cls.ambiguous_uri = cls.make("family", family_type)
        cls.make("family", family_type)
        cls.family_uri = f"{cls.ambiguous_uri}&select=newest&settle=0"
        cls.wrong_secret_uri = cls.uri.replace("KIT_PIN", "KIT_WRONG_PIN")

    @classmethod
    def uri_of(cls, label: str) -> str:
        """Return the URI of the key with this label."""
        return f"pkcs11:token={cls._label};object={label}?module-path={cls._module}&pin-source=env:KIT_PIN"

    @classmethod
    def make(cls, label: str, kind: str) -> str:
        """Generate a key, in addition to any with the same label."""
        with keyvouch.open_store(cls.uri_of(label)) as store:
            store.generate(keyvouch.KeySpec(kind, further=True))
        return cls.uri_of(label)

    def new_uri(self) -> str:
        """Return a URI for a new key."""
        return self.uri_of(f"new-{next(self._counter)}")

    def break_connection(self) -> None:
        """Close all sessions."""
        close_all_sessions(self._module)
