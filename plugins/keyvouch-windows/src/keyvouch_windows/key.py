"""A key in the Windows certificate store and its signing operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from keyvouch.algorithms import Algorithm, verifies
from keyvouch.store import KeyUri, StoredKey
from keyvouch_windows.error_translation import algorithm_unsupported, code_name, is_unsupported, translate_errors
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
        self._verified: set[Algorithm] = set()

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:  # noqa: ARG002 - cannot be interrupted
        """Sign with the key's provider."""
        with translate_errors("signing", self.uri):
            try:
                signature = self._opened.sign(message, algorithm)
            except NativeError as error:
                if is_unsupported(error):
                    raise algorithm_unsupported(f"{error} ({code_name(error)})", algorithm.name, self.uri) from error
                raise
        if algorithm.family == "RSA-PSS" and algorithm not in self._verified:
            # Some TPMs make the salt as long as possible and report success.
            if not verifies(self.public_key, signature, message, algorithm):
                raise algorithm_unsupported("the salt is not as long as the hash", algorithm.name, self.uri)
            self._verified.add(algorithm)
        return signature

    def make_peer(self, algorithm: Algorithm) -> Callable[[bytes], bytes]:
        """Sign once, then return a function that signs with Windows' functions, until `close`. Raises as `sign`."""
        self.sign(b"keyvouch", algorithm, timeout=0)
        return self._opened.make_peer(algorithm)

    def close(self) -> None:
        """Release the key's handle."""
        self._opened.close()
