"""`keyvouch export`"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click

from keyvouch._core.signer import Signer
from keyvouch._system import files
from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present, print_next_command
from keyvouch.cli.selection import Selection, select
from keyvouch.errors import CertificateMissing, KeyExists


@click.command("export")
@key_options
@click.option("--certificate", type=click.Path(path_type=Path), metavar="FILE.cer", help="Write the certificate (DER).")
@click.option("--pfx", type=click.Path(path_type=Path), metavar="FILE", help="Write key and certificate (PKCS#12).")
@click.option("--password", metavar="REFERENCE", help="Password of the PFX file: prompt:, env:NAME or file:/path.")
@output_option
def command(
    profile: str | None, key: str | None, certificate: Path | None, pfx: Path | None, password: str | None, output: str
) -> None:
    """Write the certificate of a key; or the key itself, if its store allows it.

    Existing files are never overwritten.
    """
    if (certificate is None) == (pfx is None):
        raise click.UsageError("Use either --certificate or --pfx.")
    if pfx and not password:
        raise click.UsageError("A PFX file needs a password. Use --password prompt:, env:NAME or file:/path.")
    selection = select(profile, key)
    if certificate:
        with selection.open() as signer:
            write_certificate(certificate, signer)
    elif pfx and password:
        _write_pfx(pfx, selection, password)
    present(
        {"file": str(certificate or pfx)},
        output,
        lambda result: _print_text(result["file"], selection.name, is_certificate=certificate is not None),
    )


def _print_text(path: str, profile: str, *, is_certificate: bool) -> None:
    click.echo(f"Wrote {path}.")
    if is_certificate:
        click.echo(f"Upload {path} to the app registration (Certificates & secrets).", err=True)
        print_next_command(f"keyvouch token --profile {profile or 'NAME'}")


def write_certificate(path: Path, signer: Signer) -> None:
    """Write the certificate in DER, as the portal accepts it. Raises `CertificateMissing`, `KeyExists`."""
    from keyvouch.certificate import to_der

    if not signer.chain:
        raise CertificateMissing(
            "The key has no certificate.", hint="Add certificate-file= to the URI.", uri=signer.uri
        )
    _write(path, to_der(signer.chain[0]), mode=0o644)


def require_new_file(path: Path) -> None:
    """Raise `KeyExists` if the file exists, `ConfigurationError` if its folder is missing."""
    if os.path.lexists(path):
        raise KeyExists(f"{path} already exists.", hint="Choose another file, or remove this one.")
    if not os.path.isdir(path.parent):  # noqa: PTH112 - `Path.is_dir` raises PermissionError
        raise files.cannot_write(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def _write_pfx(path: Path, selection: Selection, password: str) -> None:
    require_new_file(path)
    secret = selection.new_secrets.resolve(password, f"password of {path}")
    with selection.open_store() as store:
        _write(path, store.export_pfx(secret))


def _write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    try:
        files.write_private(path, data, mode=mode)
    except FileExistsError:
        require_new_file(path)
        raise
    except OSError as error:
        raise files.cannot_write(path, error) from error
