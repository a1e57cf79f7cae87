"""A key on a token and its signing operation."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from keyvouch.algorithms import Algorithm
from keyvouch.errors import AlgorithmUnsupported, NotSupported
from keyvouch.store import ForkGate, KeyUri, StoredKey
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import objects
from keyvouch_pkcs11.cryptoki import CryptokiError
from keyvouch_pkcs11.error_translation import UNSUPPORTED, as_keyvouch_error, translate_errors
from keyvouch_pkcs11.mechanisms import SigningMethod, signing_methods
from keyvouch_pkcs11.token import DEFAULT_TIMEOUT, Token
from keyvouch_pkcs11.uri_attributes import PIN_SOURCE

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.secrets import Secret, SecretResolver
    from keyvouch_pkcs11.peer import Peer

_IMPORT_GATE = ForkGate()


class Pkcs11Key(StoredKey):
    """A key on a token; all keys of the token share its sessions."""

    def __init__(
        self,
        token: Token,
        key: objects.PrivateKeyObject,
        uri: KeyUri,
        certificate: Certificate | None,
        secrets: SecretResolver,
    ) -> None:
        self.uri = uri
        self.public_key = objects.require_public_key(key, certificate)
        self.chain = key.chain
        self.exportable = key.exportable
        self._token = token
        self._handle = key.handle
        self._always_authenticate = key.always_authenticate
        self._secrets = secrets
        self._methods: dict[Algorithm, list[SigningMethod]] = {}
        """The methods still to try for each algorithm; one that worked comes first."""

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        """Sign in one of the token's sessions. Remembers which of several mechanisms the token supports."""
        # `translate_errors` and `token.session` would do the same, but add a few microseconds to each P-256 signature.
        token = self._token
        try:
            session = token.acquire_session(timeout)
        except CryptokiError as error:
            raise as_keyvouch_error(error, "opening a session") from error
        try:
            signature = self._sign_with_supported_method(session, message, algorithm)
        except CryptokiError as error:
            token.discard_session(session, error)
            raise as_keyvouch_error(error, "signing") from error
        except BaseException as error:
            token.discard_session(session, error)
            raise
        token.release_session(session)
        return signature

    def make_peer(self, algorithm: Algorithm) -> Peer:
        """Return a peer, with the method found by one signature. Raises what `sign` raises, and `NotSupported`."""
        if self._always_authenticate:
            raise NotSupported(
                "The key requires its PIN for each signature (CKA_ALWAYS_AUTHENTICATE), which a loop cannot enter.",
                hint="Compare with a key that does not require this.",
                uri=self.uri,
            )
        with _IMPORT_GATE:
            from keyvouch_pkcs11.peer import Peer
        self.sign(b"keyvouch", algorithm, timeout=DEFAULT_TIMEOUT)
        return Peer(self._token, self._handle, self._methods[algorithm][0])

    def _sign_with_supported_method(self, session: int, message: bytes, algorithm: Algorithm) -> bytes:
        methods = self._methods.get(algorithm) or self._methods.setdefault(algorithm, signing_methods(algorithm))
        for number, method in enumerate(methods, 1):
            try:
                signature = self._sign_with(session, method, message)
            except CryptokiError as error:
                if error.name not in UNSUPPORTED:
                    raise
                unsupported = error
                continue
            if number > 1:
                self._methods[algorithm] = methods[number - 1 :]
            return signature
        raise AlgorithmUnsupported(
            f"The token does not support {algorithm.name} with this key.", hint="Use another algorithm."
        ) from unsupported

    def _sign_with(self, session: int, method: SigningMethod, message: bytes) -> bytes:
        data = method.prepare(message)
        if not self._always_authenticate:
            return self._call_sign(session, method, data, None)
        token = self._token
        with self._secrets.attempt(
            self.uri, PIN_SOURCE, target=token.name, shows_failure=token.shows_failed_login
        ) as pin:
            return self._call_sign(session, method, data, pin)

    def _call_sign(self, session: int, method: SigningMethod, data: bytes, pin: Secret | None) -> bytes:
        buffer = ck.SignatureBuffer()
        length = ck.CK_ULONG(ck.MAX_SIGNATURE_SIZE)
        with self._token.module as functions:
            return_value = functions.sign_init(session, method.address, self._handle)
            if return_value:
                raise CryptokiError("SignInit", return_value)
            if pin is not None:  # for this one signature (CKA_ALWAYS_AUTHENTICATE)
                with translate_errors("logging in"):
                    functions.login(session, pin.reveal().encode(), ck.CKU_CONTEXT_SPECIFIC)
            return_value = functions.sign(session, data, len(data), buffer, ctypes.byref(length))
        if return_value:
            raise CryptokiError("Sign", return_value)
        return buffer.raw[: length.value]
