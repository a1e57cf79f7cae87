"""A signing key: one version of a transit key."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

from keyvouch.algorithms import Algorithm
from keyvouch.errors import KeyNotFound, KeyUnusable
from keyvouch.store import StoredKey
from keyvouch_vault.responses import Signature
from keyvouch_vault.transit import KeyPath, decode_signature

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.algorithms import PublicKey
    from keyvouch.uri import KeyUri
    from keyvouch_vault.session import Session

_PARAMETERS = {
    "RSA-PSS": {"signature_algorithm": "pss", "salt_length": "hash"},  # the server's default is the longest salt
    "RSA-PKCS1": {"signature_algorithm": "pkcs1v15"},
    "ECDSA": {},
    "EdDSA": {},
}


def signing_parameters(algorithm: Algorithm) -> dict[str, object]:
    """Return the parameters of a signature: except for EdDSA, the input is the message's digest."""
    # "jws": r||s for ECDSA, as in JOSE.
    parameters: dict[str, object] = {"marshaling_algorithm": "jws", **_PARAMETERS[algorithm.family]}
    if algorithm.hash_name:
        parameters.update(prehashed=True, hash_algorithm=f"sha2-{algorithm.hash_name.removeprefix('sha')}")
    return parameters


class VaultKey(StoredKey):
    """One version of a key, which signs with the session it was opened with."""

    remote = True

    def __init__(
        self,
        session: Session,
        uri: KeyUri,
        public_key: PublicKey,
        chain: tuple[Certificate, ...] = (),
        *,
        exportable: bool | None = None,
    ) -> None:
        self.uri = uri
        self.public_key = public_key
        self.chain = chain
        self.exportable = exportable
        self._session = session
        self._path = KeyPath.of(uri)
        self._version: int = uri.get("version")

    def sign(self, message: bytes, algorithm: Algorithm, *, timeout: float) -> bytes:
        """Sign on the server. The message is hashed locally and only its digest is sent, except for EdDSA."""
        if algorithm.hash_name:
            message = hashlib.new(algorithm.hash_name, message).digest()
        try:
            with self._session.authenticated(timeout, "sign") as client:
                response = client.secrets.transit.sign_data(
                    self._path.name,
                    hash_input=base64.b64encode(message).decode(),
                    key_version=self._version,
                    mount_point=self._path.mount,
                    **signing_parameters(algorithm),
                )
        except KeyNotFound as error:
            raise KeyUnusable(
                f"The key {self._path.name} in {self._path.mount}, or this version of it, was deleted.",
                hint="Create another, and open it: `keyvouch new`.",
            ) from error
        return decode_signature(response.data_as(Signature).signature, self._version)
