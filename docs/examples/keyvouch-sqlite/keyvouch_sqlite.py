"""Keys in a SQLite database: `sqlite:path=/var/lib/app/keys.db;name=nightly`."""

import contextlib
import sqlite3
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from keyvouch.certificate import self_signed
from keyvouch.errors import ConfigurationError, KeyExists, StoreUnavailable
from keyvouch.local_key import make_key, sign_locally
from keyvouch.store import Attribute, GeneratesKeys, KeyInfo, KeyStore, ListsKeys, StoredKey, choose_one

TABLE = "CREATE TABLE IF NOT EXISTS keys (id INTEGER PRIMARY KEY, name TEXT, pkcs8 BLOB, certificate BLOB)"
REQUIRED = frozenset({"open", "generate"})


class SqliteStore(KeyStore, ListsKeys, GeneratesKeys):
    """Keys in a SQLite database: `sqlite:path=/var/lib/app/keys.db;name=nightly`."""

    # uri
    attributes = (
        Attribute("path", "the path of the database", connection=True, required_for=REQUIRED),
        Attribute("name", "the key's name", required_for=REQUIRED),
        Attribute("id", "the key's number, if several have the same name", parse=int),
    )

    def __init__(self, uri, secrets):
        self._path = Path(uri.get("path") or "")
        if not self._path.is_absolute():
            raise ConfigurationError("path= requires an absolute path.", hint="Write path=/...", uri=uri)

    # connect
    def connect(self, *, timeout):
        with self._database(timeout) as database:
            database.execute("SELECT 1 FROM keys LIMIT 1")

    def close(self):
        """Do nothing: each call has its own connection."""

    # open
    def open(self, uri, certificate=None, *, timeout):
        rows = self._rows(uri, timeout)
        info, settles_at = choose_one(uri, [self._info(uri, row) for row in rows], certificate)
        row = next(row for row in rows if row[0] == info.uri.get("id"))
        return SqliteKey(info.uri, row, settles_at)

    def keys(self, uri):
        return [self._info(uri, row) for row in self._rows(uri, 10.0)]

    def _rows(self, uri, timeout):
        with self._database(timeout) as database:
            rows = database.execute("SELECT id, pkcs8, certificate, name FROM keys").fetchall()
        return [row for row in rows if uri.get("name") in (None, row[3]) and uri.get("id") in (None, row[0])]

    @staticmethod
    def _info(uri, row):
        number, pkcs8, certificate, name = row
        key, leaf = load_der_private_key(pkcs8, None), x509.load_der_x509_certificate(certificate)
        pinned = uri.replace({"name": name, "id": str(number), "select": None, "settle": None})
        return KeyInfo.from_chain(pinned, key.public_key(), [leaf], exportable=True)

    # errors
    @contextlib.contextmanager
    def _database(self, timeout):
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=timeout)) as database, database:
                database.execute(TABLE)
                yield database
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{self._path}: {error}.", hint="Check that it is a writable database.") from error

    # generate
    def generate(self, uri, spec):
        if "id" in uri or (self._rows(uri, 10.0) and not spec.further):
            raise KeyExists(f"Key already exists: {uri}.", hint="Use another name, or --further.", uri=uri)
        key = make_key(spec.key_type)
        pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        certificate = self_signed(key, spec.subject, spec.days).public_bytes(Encoding.DER)
        with self._database(10.0) as database:
            cursor = database.execute(
                "INSERT INTO keys (name, pkcs8, certificate) VALUES (?, ?, ?)", (uri.get("name"), pkcs8, certificate)
            )
        return uri.replace({"id": str(cursor.lastrowid)})


# sign
class SqliteKey(StoredKey):
    """A key from the database, in memory."""

    exportable = True

    def __init__(self, uri, row, settles_at):
        self.uri = uri
        self.settles_at = settles_at
        self.chain = (x509.load_der_x509_certificate(row[2]),)
        self._key = load_der_private_key(row[1], None)
        self.public_key = self._key.public_key()

    def sign(self, message, algorithm, *, timeout):
        return sign_locally(self._key, message, algorithm)
