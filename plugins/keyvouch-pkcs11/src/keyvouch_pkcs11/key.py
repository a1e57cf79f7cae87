"""A key on a token and its signing operation."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from keyvouch.algorithms import Algorithm
from keyvouch.errors import AlgorithmUnsupported
from keyvouch.store import KeyUri, StoredKey
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import objects
from keyvouch_pkcs11.cryptoki import CryptokiError
from keyvouch_pkcs11.failures import UNDONE, as_error, told
from keyvouch_pkcs11.mechanisms import Way, ways
from keyvouch_pkcs11.token import PIN, Token

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.secrets import Secret, SecretResolver

_LONGEST_SIGNATURE = 1024
"""In bytes: that of RSA-8192."""
_Buffer = ctypes.c_char * _LONGEST_SIGNATURE


class Pkcs11Key(StoredKey):
    """A key on a token; all keys of the token share its sessions."""

    def __init__(
        self,
        token: Token,
        found: objects.PrivateObject,
        uri: KeyUri,
        certificate: Certificate | None,
        secrets: SecretResolver,
    ) -> None:
        self.uri = uri
        self.public_key = objects.require_public_key(found, [certificate] if certificate else [])
        self.chain = found.chain
        self.exportable = found.exportable
        self._token = token
        self._handle = found.handle
        self._always_authenticate = found.always_authenticate
        self._secrets = secrets
        self._ways: dict[Algorithm, list[Way]] = {}
        """The mechanisms still to try for each algorithm; one that worked comes first."""

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        """Sign in one of the token's sessions. Remembers which of several mechanisms the token supports."""
        token = (
            self._token
        )  # `told` and `token.session` would do the same but add a few microseconds to each P-256 signature
        try:
            session = token.take(timeout)
        except CryptokiError as error:
            raise as_error(error, "opening a session") from error
        try:
            signature = self._by_some_way(session, message, algorithm)
        except CryptokiError as error:
            token.close(session)
            raise as_error(error, "signing") from error
        except BaseException:
            token.close(session)
            raise
        token.put_back(session)
        return signature

    def _by_some_way(self, session: int, message: bytes, algorithm: Algorithm) -> bytes:
        possible = self._ways.get(algorithm) or self._ways.setdefault(algorithm, ways(algorithm))
        for number, way in enumerate(possible, 1):
            try:
                signature = self._sign(session, way, message)
            except CryptokiError as error:
                if error.name not in UNDONE:
                    raise
                refusal = error
                continue
            if number > 1:
                self._ways[algorithm] = possible[number - 1 :]
            return signature
        raise AlgorithmUnsupported(
            f"The token does not sign {algorithm.name} with this key.", hint="Use another algorithm."
        ) from refusal

    def _sign(self, session: int, way: Way, message: bytes) -> bytes:
        data = way.prepare(message)
        if not self._always_authenticate:
            return self._call(session, way, data, None)
        token = self._token
        with self._secrets.attempt(self.uri, PIN, target=token.name, shows_failure=token.shows_failed_try) as pin:
            return self._call(session, way, data, pin)

    def _call(self, session: int, way: Way, data: bytes, pin: Secret | None) -> bytes:
        buffer = _Buffer()
        length = ck.CK_ULONG(_LONGEST_SIGNATURE)
        with self._token.module as functions:
            number = functions.sign_init(session, way.address, self._handle)
            if number:
                raise CryptokiError("SignInit", number)
            if pin is not None:  # for this one signature (CKA_ALWAYS_AUTHENTICATE)
                with told("logging in"):
                    functions.login(session, pin.reveal().encode(), ck.CKU_CONTEXT_SPECIFIC)
            number = functions.sign(session, data, len(data), buffer, ctypes.byref(length))
        if number:
            raise CryptokiError("Sign", number)
        return buffer.raw[: length.value]
