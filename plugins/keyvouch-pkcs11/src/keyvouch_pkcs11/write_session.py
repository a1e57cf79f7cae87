"""Read-write sessions: identifiers for new keys, and deletion of what was created if a later step fails."""

from __future__ import annotations

import contextlib
import secrets as random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from keyvouch.errors import KeyExists
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import objects
from keyvouch_pkcs11.error_translation import translate_errors
from keyvouch_pkcs11.templates import KeyIdentifiers, certificate_template
from keyvouch_pkcs11.token import DEFAULT_TIMEOUT, Token

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.store import KeyUri

_ID_SIZE = 16
"""Number of random bytes in a new key's CKA_ID."""


def new_identifiers(uri: KeyUri, token: Token, *, further: bool) -> KeyIdentifiers:
    """Return a new key's id and label. Raises `KeyExists` if an object has this id or, unless `further`, this label."""
    key_id, label = uri.get("id"), uri.get("object")
    templates: list[dict[int, ck.AttributeValue]] = [{ck.CKA_ID: key_id}] if key_id else []
    if label and not further:
        templates.append({ck.CKA_LABEL: label})
    with translate_errors("searching for keys"), token.session(DEFAULT_TIMEOUT) as session, token.module as functions:
        if any(functions.find_objects(session, each) for each in templates):
            raise KeyExists(
                f"An object with this id or label already exists: {uri}.",
                hint="Use another id or label, or add a member to the family: --further.",
                uri=uri,
            )
    return KeyIdentifiers(key_id or random.token_bytes(_ID_SIZE), label or b"keyvouch")


class WriteSession:
    """A read-write session, and the handles of the objects created in it. Its methods raise `CryptokiError`."""

    def __init__(self, token: Token, handle: int) -> None:
        self._handle = handle
        self._created: list[int] = []
        self._module = token.module

    def generate_key_pair(self, mechanism: int, public: ck.Template, private: ck.Template) -> int:
        """Generate a key pair and return the handle of the private key."""
        with self._module as functions:
            self._created += functions.generate_key_pair(self._handle, mechanism, public, private)
        return self._created[-1]

    def create(self, template: ck.Template) -> int:
        """Create an object and return its handle."""
        with self._module as functions:
            self._created.append(functions.create_object(self._handle, template))
        return self._created[-1]

    def destroy(self, *handles: int) -> None:
        """Delete objects."""
        with self._module as functions:
            for each in handles:
                functions.destroy_object(self._handle, each)

    def destroy_created(self) -> None:
        """Delete the objects created in this session, as far as the token permits it."""
        for each in self._created:
            with contextlib.suppress(ck.CryptokiError):
                self.destroy(each)

    def read_private_key(self, handle: int) -> objects.PrivateKeyObject:
        """Return the private key at a handle."""
        with self._module as functions:
            return objects.read_private_key(functions, self._handle, handle)

    def find_certificates(self, key_id: bytes) -> list[int]:
        """Return the handles of the certificates with this id."""
        with self._module as functions:
            found = objects.find_certificates(functions, self._handle, {ck.CKA_ID: key_id})
        return [handle for handle, _ in found]

    def find_public_objects(self, key: objects.PrivateKeyObject) -> list[int]:
        """Return the handles of a key's own public keys and certificates."""
        with self._module as functions:
            return objects.find_public_objects(functions, self._handle, key)

    def write_chain(self, chain: Sequence[Certificate], identifiers: KeyIdentifiers) -> None:
        """Write the key's own certificate with its id, and missing issuers without an id."""
        leaf, *issuers = chain
        self.create(certificate_template(leaf, identifiers))
        for issuer in issuers:
            template = certificate_template(issuer, KeyIdentifiers(b"", identifiers.label))
            if not self._contains_certificate(template[ck.CKA_VALUE]):
                self.create(template)

    def _contains_certificate(self, value: ck.AttributeValue) -> bool:
        template = {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_VALUE: value}
        with self._module as functions:
            return bool(functions.find_objects(self._handle, template))


@contextlib.contextmanager
def write_session(token: Token) -> Iterator[WriteSession]:
    """Yield a session for writing; if the block fails, delete the objects created in it."""
    with token.read_write_session() as handle:
        session = WriteSession(token, handle)
        try:
            yield session
        except BaseException:
            session.destroy_created()
            raise
