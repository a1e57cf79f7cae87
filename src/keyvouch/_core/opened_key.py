"""An opened key with its chain."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from keyvouch import certificate
from keyvouch._core.connections import Connection
from keyvouch._core.retries import Deadline
from keyvouch._core.store_faults import require_key
from keyvouch._system.forks import process
from keyvouch._system.in_use import InUse
from keyvouch._system.signal_handlers import is_from_signal_handler
from keyvouch.algorithms import PS256, RS256, Algorithm, algorithms_for, key_type, require_usable, signature_size
from keyvouch.errors import CertificateMismatch, KeyChanged, KeyvouchError
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from keyvouch.store import StoredKey

log = logging.getLogger("keyvouch")

_MOST_LEAVES = 10
"""Maximum number of certificates that are tried, since a store may need a request for each."""


class OpenedKey:
    """A key of one generation of its connection; once retired, it is closed when its last signature has ended."""

    def __init__(
        self, stored: StoredKey, chain: tuple[Certificate, ...], generation: int, *, verify_always: bool = False
    ) -> None:
        self.stored = stored
        self.chain = chain
        self.generation = generation
        self.fork_number = process.fork_number
        self.public_key = stored.public_key
        self.key_type = key_type(self.public_key)
        self.spki = certificate.spki_sha256(self.public_key)
        self.thumbprint = certificate.thumbprint(chain[0]) if chain else None
        self.settles_at = stored.settles_at
        self.signature_size = signature_size(self.public_key)
        self.verify_always = verify_always or bool(stored.remote)
        """True if every signature is verified, and not only the first with each algorithm."""
        self.verified: dict[object, Algorithm] = {}
        """Algorithms whose signatures need no further verification, by name and by object."""
        self.negotiable = _negotiable(stored.algorithms or algorithms_for(self.key_type))
        """The algorithms used if the caller names none, the key's choice first; one once a signature has decided."""
        self.retired = False
        self.use = InUse()
        """Each signature keeps its token while it uses the key, and calls `close_if_unused` afterwards."""
        self._lock = threading.Lock()
        self._closed = False

    @property
    def preferred(self) -> Algorithm:
        """The algorithm to try first if the caller prefers none."""
        return self.negotiable[0]

    def choices(self, preferred: Algorithm | None) -> tuple[Algorithm, ...]:
        """Return the algorithms to try if the caller names none; the preferred one first, if it is one of them."""
        return self.negotiable[::-1] if self.negotiable[-1] is preferred else self.negotiable

    @property
    def is_of_this_process(self) -> bool:
        """True if this process opened the key, and not a parent."""
        return self.fork_number == process.fork_number

    @property
    def idle(self) -> bool:
        """True if the key is retired and no signature of this process is running: a parent's threads do not count."""
        return self.use.has_ended or not self.is_of_this_process

    def retire(self) -> None:
        """Let no further signature begin, and close the key when the last one has ended."""
        self.retired = True  # first: a signature that ends in the meantime sees this, or ends before `use.end`
        self.use.end()
        self.close_if_unused()

    def close_if_unused(self) -> None:
        """Close the key if it is retired and no signature is using it."""
        if not self.retired or not self.is_of_this_process:
            return  # a child does not close its parent's handle
        with self._lock:
            if self._closed or not self.use.has_ended:
                return
            self._closed = True
        _close(self.stored)


def _negotiable(allowed: Sequence[Algorithm]) -> tuple[Algorithm, ...]:
    """Return PS256 and RS256, which a store may or may not support, as far as allowed; otherwise the first one."""
    return tuple(each for each in allowed if each in (PS256, RS256)) or tuple(allowed[:1])


def _close(stored: StoredKey) -> None:
    try:
        stored.close()
    except Exception as error:  # the contract forbids raising, and no caller could handle it
        if is_from_signal_handler(error):
            raise
        log.warning("Failed to close a key: %s", type(error).__name__)


def open_key(
    connection: Connection,
    uri: KeyUri,
    given: Sequence[Certificate],
    deadline: Deadline,
    *,
    expected: OpenedKey | None = None,
) -> OpenedKey:
    """Open the key and check its type, that the certificate belongs to it, and that the chain is in order.

    `given` are certificates from outside the store; if there are any, they take precedence over its own. Raises
    `KeyChanged` if the key is not the `expected` one, or not the one that `spki-sha256` names.
    """
    stored, generation = _open_stored(connection, uri, given, deadline)
    try:
        require_key(connection.scheme, stored)
        require_usable(stored.public_key)
        _require_digest(uri, stored, expected)
        chain = certificate.order_chain(given, stored.public_key) or stored.chain
        certificate.check_chain(chain, stored.public_key)
        _warn_of_missing_issuer(chain, given)
        verify_always = expected.verify_always if expected else uri.get("verify") == "always"
        opened = OpenedKey(stored, chain, generation, verify_always=verify_always)
    except BaseException as error:
        _close(stored)
        if isinstance(error, KeyvouchError):
            error.uri = error.uri or str(uri)
        raise
    if expected:  # a pinned URI no longer identifies the family, and a refused algorithm is not tried again
        opened.settles_at = opened.settles_at or expected.settles_at
        opened.negotiable = expected.negotiable
    return opened


def _open_stored(
    connection: Connection, uri: KeyUri, given: Sequence[Certificate], deadline: Deadline
) -> tuple[StoredKey, int]:
    """Open the key, with the first of the given certificates, in any order, that belongs to a key in the store."""
    leaves: list[Certificate] = certificate.find_leaves(given)[:_MOST_LEAVES]

    def open_with(leaf: Certificate | None) -> tuple[StoredKey, int]:
        return connection.call(lambda timeout: connection.store.open(uri, leaf, timeout=timeout), deadline)

    try:
        return open_with(leaves[0] if leaves else None)
    except CertificateMismatch:
        for leaf in leaves[1:]:
            with contextlib.suppress(CertificateMismatch):
                return open_with(leaf)
        raise


def _warn_of_missing_issuer(chain: Sequence[Certificate], given: Sequence[Certificate]) -> None:
    """Log a warning if there are further certificates, and none of them continues the chain."""
    missing = certificate.missing_issuer(chain)
    if missing and len(set(given)) > len(chain):
        name = chain[-1].subject.rfc4514_string()
        log.warning("Incomplete chain: the certificate of %s, which issued that of %s, is missing.", missing, name)


def _require_digest(uri: KeyUri, stored: StoredKey, expected: OpenedKey | None) -> None:
    """Raise `KeyChanged` for another key than the expected one, or the one that the URI names by its digest."""
    wanted = expected.spki if expected else uri.get("spki-sha256")
    if wanted is not None and certificate.spki_sha256(stored.public_key) != wanted:
        raise key_changed(stored.uri)


def key_changed(uri: KeyUri) -> KeyChanged:
    """Return the error for another key at a pinned URI."""
    return KeyChanged(
        f"The key at {uri} was replaced by another.",
        hint="Open it again to use the new key, or restore the old one.",
        uri=uri,
    )
