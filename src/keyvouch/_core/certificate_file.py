"""Certificates beside a key, in a file, a variable or a credential; a signer replaces them together with its key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from keyvouch import certificate
from keyvouch._core.uri_text import is_certificate_reference
from keyvouch._formats.text_encodings import decode
from keyvouch._system import files
from keyvouch.errors import AccessDenied, CertificateMissing, KeyNotFound
from keyvouch.uri import KeyUri

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


class CertificateFile:
    """What `certificate-file=` names, a file or a reference; without certificates if the URI has none."""

    def __init__(self, uri: KeyUri) -> None:
        self._uri = uri
        self._source: str = uri.get("certificate-file") or ""
        self._is_reference = is_certificate_reference(self._source)
        self._stamp: files.Stamp | None = None
        self._read_stamp: files.Stamp | None = None

    def read(self) -> list[Certificate]:
        """Return the current certificates; call `mark_used` once they are in use.

        Raises `KeyNotFound`, `AccessDenied`, `CertificateMissing`; `ConfigurationError` for a file that others could
        have written.
        """
        if not self._source:
            return []
        data, stamp = self._read_variable() if self._variable else self._read_file(self._path)
        try:
            certificates = certificate.load_certificates(decode(data) if self._is_reference else data, self._source)
        except CertificateMissing as error:
            if self._is_reference:  # no program that a hint may contain knows references
                error.hint = "Store the certificate there, in PEM or its base64."
            raise
        self._read_stamp = stamp
        return certificates

    def mark_used(self) -> None:
        """Record that the certificates read last are in use."""
        self._stamp = self._read_stamp

    def changed(self) -> bool:
        """Return True if the certificates are not those that are in use."""
        if not self._source:
            return False
        if self._variable:
            return _variable_stamp(os.environ.get(self._variable)) != self._stamp
        try:
            return files.stamp(self._path.stat()) != self._stamp
        except (OSError, KeyNotFound):
            return True

    @property
    def _variable(self) -> str:
        """The name of the variable; empty if the certificates are in a file."""
        kind, _, name = self._source.partition(":")
        return name if self._is_reference and kind == "env" else ""

    @property
    def _path(self) -> Path:
        """The path of the file, or of the credential."""
        if not self._is_reference:
            return Path(self._source)
        name = self._source.partition(":")[2]
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise KeyNotFound(
                f"Certificate not found: {self._source}. No credentials were passed to this process.",
                hint=f"Add LoadCredential={name}:/path to the systemd unit.",
                uri=self._uri,
            )
        return Path(folder, name)

    def _read_variable(self) -> tuple[bytes, files.Stamp]:
        value = os.environ.get(self._variable)
        if value is None:
            raise KeyNotFound(
                f"Certificate not found: the environment variable {self._variable} is not set.",
                hint=f"Set {self._variable}, or correct certificate-file.",
                uri=self._uri,
            )
        return os.fsencode(value), _variable_stamp(value)

    def _read_file(self, path: Path) -> tuple[bytes, files.Stamp]:
        try:
            files.check_trusted(path)
            data, status = files.read_with_status(path)
        except FileNotFoundError:
            hint = "Correct certificate-file." + (" ~ is not expanded." if str(path).startswith("~") else "")
            raise KeyNotFound(f"Certificate file not found: {path}.", hint=hint, uri=self._uri) from None
        except OSError as error:
            raise AccessDenied(
                f"Cannot read the certificate file {path}: {error.strerror}.",
                hint=files.read_hint(path, error),
                uri=self._uri,
            ) from error
        return data, files.stamp(status)


def _variable_stamp(value: str | None) -> files.Stamp:
    return hash(value), 0, 0, 0
