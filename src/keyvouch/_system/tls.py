"""TLS settings for clients: which certificate authorities are trusted, and the client certificate.

Stores and token requests trust the same ones. Certificates are always verified. A file that others could have written
is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import sys
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from keyvouch._system import files
from keyvouch._system.sockets import use_bounded_sockets
from keyvouch._system.text import shell_quoted
from keyvouch.errors import AccessDenied, ConfigurationError

_OPENSSL_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_HASHED_NAME = re.compile(r"[0-9a-f]{8}\.\d+")
"""The name by which OpenSSL finds a certificate in a folder."""


def client_context(ca_file: str | None, client_certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    """Return the settings of `plain_context` for a client whose sockets end with their `exchange`."""
    context = plain_context(ca_file, client_certificate)
    use_bounded_sockets(context)
    return context


def plain_context(ca_file: str | None, client_certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    """Return TLS settings for a client.

    Trusts `ca_file`, else the file or folder that `$REQUESTS_CA_BUNDLE` or `$CURL_CA_BUNDLE` names, else those that
    OpenSSL's variables name, else the system's certificates; see `_trust_packaged`. Raises `AccessDenied` if this
    account may not read a file, `ConfigurationError` if a file cannot be used otherwise.
    """
    bundle = ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    try:
        if bundle:
            files.check_trusted_certificates(Path(bundle))
        else:
            _check_openssl_variables()
        is_folder = bool(bundle) and Path(bundle or "").is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else bundle or None, capath=bundle if is_folder else None
        )
        if not bundle:
            _trust_packaged(context)
    except PermissionError as error:
        path = Path(error.filename or bundle or os.environ.get("SSL_CERT_FILE", ""))
        raise AccessDenied(
            f"The trusted TLS certificates {path} cannot be read: {error.strerror}.", hint=files.read_hint(path, error)
        ) from error
    except OSError as error:
        if not bundle:
            raise ConfigurationError(
                f"The system's trusted TLS certificates cannot be read: {error.strerror}.",
                hint="Set ca-file to a PEM file of certificates.",
            ) from error
        raise _unusable(Path(bundle), ca_file, error) from error
    if client_certificate:
        _use_client_certificate(context, client_certificate)
    return context


def _unusable(path: Path, ca_file: str | None, error: OSError) -> ConfigurationError:
    """Return the error for certificates to trust that cannot be read; `ca_file` is None if a variable names them."""
    name = "ca-file" if ca_file else "REQUESTS_CA_BUNDLE" if os.environ.get("REQUESTS_CA_BUNDLE") else "CURL_CA_BUNDLE"
    message = f"The trusted TLS certificates {path} cannot be read"
    if not isinstance(error, ssl.SSLError):
        hint = f"Correct {name}: write the absolute path of a PEM file. ~ is not expanded."
        reason = "do not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        return ConfigurationError(f"The trusted TLS certificates {path} {reason}.", hint=hint)
    hint = f"Set {name} to a file with the certificates of the server's certificate authority, in PEM."
    with contextlib.suppress(OSError):
        if ssl.create_default_context(cadata=files.read(path)).cert_store_stats()["x509"]:  # DER
            hint = f"Convert it: openssl x509 -inform DER -in {shell_quoted(path)} -out NEW.pem"
    return ConfigurationError(f"{message}: it contains no certificate in PEM.", hint=hint)


def _trust_packaged(context: ssl.SSLContext) -> None:
    """Trust certifi's certificates if the system has none, and on Windows.

    Containers without ca-certificates and Python from python.org on macOS have none. Windows fetches a root certificate
    when a program that uses its own TLS needs it: OpenSSL sees only those that are there already.
    """
    if any(os.environ.get(name) for name in _OPENSSL_VARIABLES):  # a choice of the user's
        return
    if sys.platform == "win32" or not _has_certificates(context):
        context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)  # certifi's, or what a distribution replaces it with


def _has_certificates(context: ssl.SSLContext) -> bool:
    """Return whether the system has certificates: loaded ones, or a folder that is searched when one is needed."""
    if context.cert_store_stats()["x509_ca"]:
        return True
    folder = ssl.get_default_verify_paths().capath
    return bool(folder) and any(_HASHED_NAME.fullmatch(each.name) for each in Path(folder).iterdir())


def _use_client_certificate(context: ssl.SSLContext, client_certificate: tuple[str, str]) -> None:
    try:
        for path in client_certificate:
            files.check_trusted(Path(path))
        context.load_cert_chain(*client_certificate, password="")
    except OSError as error:
        raise ConfigurationError(
            f"The client certificate {client_certificate[0]} or its key cannot be used.",
            hint="Provide a certificate and its unencrypted key, both in PEM.",
        ) from error


def _check_openssl_variables() -> None:
    """Refuse certificates named by OpenSSL's variables if others could have written them, or if they cannot be read.

    OpenSSL ignores what is missing or cannot be read; the former is usual. Raises `ConfigurationError`, OSError.
    """
    for path in (os.environ.get("SSL_CERT_FILE", ""), *os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if path:
                files.check_trusted_certificates(Path(path))
            if path and not Path(path).is_dir():
                files.read(Path(path))
