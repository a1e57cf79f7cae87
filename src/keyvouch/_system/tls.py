"""TLS settings for clients: which certificate authorities are trusted, and the client certificate.

Certificates are always verified. A file that others could have written is refused.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from keyvouch._system import files
from keyvouch._system.sockets import use_bounded_sockets
from keyvouch.errors import ConfigurationError


def client_context(
    ca_file: str | None, client_certificate: tuple[str, str] | None = None, default: str | None = None
) -> ssl.SSLContext:
    """Return TLS settings for a client whose sockets end with their `exchange`.

    Trusts `ca_file`, else the file that the environment names, else `default`, else the system's certificates. Raises
    `ConfigurationError` if a file cannot be used.
    """
    named = ca_file or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    bundle = named or default  # the default comes with a package, which is trusted like code
    try:
        if named:
            files.check_trusted_certificates(Path(named))
        elif not default:
            _check_openssl_variables()
        is_folder = bool(bundle) and Path(bundle or "").is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else bundle or None, capath=bundle if is_folder else None
        )
    except OSError as error:
        raise ConfigurationError(
            f"The trusted TLS certificates {bundle} cannot be read.",
            hint="Set ca-file=, or the environment variable REQUESTS_CA_BUNDLE, to a readable PEM file.",
        ) from error
    use_bounded_sockets(context)
    if client_certificate:
        try:
            for path in client_certificate:
                files.check_trusted(Path(path))
            context.load_cert_chain(*client_certificate, password="")
        except OSError as error:
            raise ConfigurationError(
                f"The client certificate {client_certificate[0]} or its key cannot be used.",
                hint="Provide a certificate and its unencrypted key, both in PEM.",
            ) from error
    return context


def _check_openssl_variables() -> None:
    """Refuse certificates named by OpenSSL's variables if others could have written them.

    Raises `ConfigurationError`, OSError.
    """
    for path in (os.environ.get("SSL_CERT_FILE", ""), *os.environ.get("SSL_CERT_DIR", "").split(os.pathsep)):
        if path and Path(path).exists():
            files.check_trusted_certificates(Path(path))
