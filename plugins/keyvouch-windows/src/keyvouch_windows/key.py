"""A key in the Windows certificate store and its signing operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvouch.algorithms import Algorithm, verifies
from keyvouch.store import KeyUri, StoredKey
from keyvouch_windows.failures import is_undone, name_of, told, unsupported
from keyvouch_windows.native import NativeError
from keyvouch_windows.private_keys import OpenKey

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey


class WindowsKey(StoredKey):
    """A private key that Windows has opened."""

    def __init__(self, opened: OpenKey, uri: KeyUri, public_key: PublicKey, chain: tuple[Certificate, ...]) -> None:
        self.uri = uri
        self.public_key = public_key
        self.chain = chain
        self.exportable = opened.exportable()
        self._opened = opened
        self._proven: set[Algorithm] = set()

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:  # noqa: ARG002 - cannot be interrupted
        """Sign with the key's provider."""
        with told("signing", self.uri):
            try:
                signature = self._opened.sign(message, algorithm)
            except NativeError as error:
                if is_undone(error):
                    raise unsupported(f"{error} ({name_of(error)})", algorithm.name, self.uri) from error
                raise
        if algorithm.family == "RSA-PSS" and algorithm not in self._proven:
            # Some TPMs make the salt as long as possible and report success.
            if not verifies(self.public_key, signature, message, algorithm):
                raise unsupported("its salt is not as long as the hash", algorithm.name, self.uri)
            self._proven.add(algorithm)
        return signature

    def close(self) -> None:
        """Release the key's handle."""
        self._opened.close()
