"""`keyvouch export`"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click

from keyvouch._core.signer import Signer
from keyvouch._system import files
from keyvouch.cli.common import choose, key_options, next_command, output_option, print_json
from keyvouch.errors import CertificateMissing, KeyExists


@click.command("export")
@key_options
@click.option("--certificate", type=click.Path(path_type=Path), metavar="FILE.cer", help="Write the public half (DER).")
@click.option("--pfx", type=click.Path(path_type=Path), metavar="FILE", help="Write key and certificate (PKCS#12).")
@click.option("--password", metavar="REFERENCE", help="For the PFX, as prompt:, env:NAME or file:/path.")
@output_option
def command(
    profile: str | None, key: str | None, certificate: Path | None, pfx: Path | None, password: str | None, output: str
) -> None:
    """Write the certificate of a key, which every store can; or the key itself, where its store gives it away.

    Nothing is ever overwritten.
    """
    if (certificate is None) == (pfx is None):
        raise click.UsageError("Give one of --certificate and --pfx.")
    if pfx and not password:
        raise click.UsageError("A PFX is protected: give --password prompt:, env:NAME or file:/path.")
    chosen = choose(profile, key)
    if certificate:
        with chosen.open() as signer:
            write_certificate(certificate, signer)
    elif pfx and password:
        require_free(pfx)
        secret = chosen.confirming().resolve(password, f"password of {pfx}")
        with chosen.open_store() as store:
            _write(pfx, store.export_pfx(secret))
    written = str(certificate or pfx)
    if output == "json":
        print_json({"file": written})
        return
    click.echo(f"Wrote {written}.")
    if certificate:
        click.echo(f"Upload {written} on the app registration (Certificates & secrets).", err=True)
        next_command(f"keyvouch token --profile {chosen.name or 'NAME'}")


def write_certificate(path: Path, signer: Signer) -> None:
    """Write the certificate in DER, as the portal accepts it. Raises `CertificateMissing`, `KeyExists`."""
    from cryptography.hazmat.primitives.serialization import Encoding

    if not signer.chain:
        raise CertificateMissing(
            "This key has no certificate.", hint="Give one with certificate-file=.", uri=signer.uri
        )
    _write(path, signer.chain[0].public_bytes(Encoding.DER), mode=0o644)


def require_free(path: Path) -> None:
    """Raise `KeyExists` if the file exists, `ConfigurationError` if its folder is missing."""
    if os.path.lexists(path):
        raise KeyExists(f"{path} is there already.", hint="Name another file, or remove it.")
    if not os.path.isdir(path.parent):  # noqa: PTH112 - `Path.is_dir` raises PermissionError
        raise files.cannot_write(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def _write(path: Path, octets: bytes, *, mode: int = 0o600) -> None:
    try:
        files.write_private(path, octets, mode=mode)
    except FileExistsError:
        require_free(path)
        raise
    except OSError as error:
        raise files.cannot_write(path, error) from error
