"""Writing to a token: choose a free id and label for a new key, and undo partial writes on failure."""

from __future__ import annotations

import contextlib
import secrets as random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from keyvouch.errors import KeyExists
from keyvouch_pkcs11 import cryptoki as ck
from keyvouch_pkcs11 import objects
from keyvouch_pkcs11.failures import told
from keyvouch_pkcs11.token import OWN_TIMEOUT, Token

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from keyvouch.store import KeyUri

_NEW_ID = 16
"""Number of random bytes in a new key's CKA_ID."""


class Place(NamedTuple):
    """The id and the label that identify a key on its token."""

    id: bytes
    label: bytes

    @property
    def attributes(self) -> dict[int, ck.Value]:
        """The attributes for an object's template."""
        return {ck.CKA_TOKEN: True, ck.CKA_ID: self.id, ck.CKA_LABEL: self.label}


def free_place(uri: KeyUri, token: Token, *, further: bool) -> Place:
    """Return a new key's id and label. Raises `KeyExists` if an object has this id or, unless `further`, this label."""
    identity, label = uri.get("id"), uri.get("object")
    taken: list[dict[int, ck.Value]] = [{ck.CKA_ID: identity}] if identity else []
    if label and not further:
        taken.append({ck.CKA_LABEL: label})
    with told("looking for keys"), token.session(OWN_TIMEOUT) as session, token.module as functions:
        if any(functions.find(session, each) for each in taken):
            raise KeyExists(
                f"The token has something of that id or label already: {uri}.",
                hint="Take another one, or add a member to the family: --further.",
                uri=uri,
            )
    return Place(identity or random.token_bytes(_NEW_ID), label or b"keyvouch")


def protection(*, exportable: bool) -> dict[int, ck.Value]:
    """Return the attributes of a private key's template that protect it."""
    return {
        ck.CKA_PRIVATE: True,
        ck.CKA_SIGN: True,
        ck.CKA_SENSITIVE: not exportable,
        ck.CKA_EXTRACTABLE: exportable,
    }


class Writing:
    """A read-write session, and the handles of the objects created in it."""

    def __init__(self, token: Token, handle: int) -> None:
        self.handle = handle
        self.made: list[int] = []
        self._module = token.module

    def create(self, template: ck.Template) -> None:
        """Create an object."""
        with self._module as functions:
            self.made.append(functions.create(self.handle, template))

    def destroy(self, *handles: int) -> None:
        """Delete objects."""
        with self._module as functions:
            for each in handles:
                functions.destroy(self.handle, each)

    def write_chain(self, chain: Sequence[Certificate], place: Place) -> None:
        """Write the key's own certificate with its id, and missing issuers without an id."""
        for number, certificate in enumerate(chain):
            template = objects.certificate_template(certificate, b"" if number else place.id, place.label)
            same = {ck.CKA_CLASS: ck.CKO_CERTIFICATE, ck.CKA_VALUE: template[ck.CKA_VALUE]}
            with self._module as functions:
                there = bool(number) and bool(functions.find(self.handle, same))
            if not there:
                self.create(template)


@contextlib.contextmanager
def session(token: Token) -> Iterator[Writing]:
    """Yield a session for writing; if the block fails, delete the objects created in it."""
    with token.writing() as handle:
        writing = Writing(token, handle)
        try:
            yield writing
        except BaseException:
            for each in writing.made:
                with contextlib.suppress(ck.CryptokiError):
                    writing.destroy(each)
            raise
