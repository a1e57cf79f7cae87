"""`keyvouch export`"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyvouch import config
from keyvouch._core import environment, opening
from keyvouch._core.signer import Signer
from keyvouch._system import files
from keyvouch.cli.options import Command, key_options, output_option
from keyvouch.cli.output import present, print_next_command, print_profile_commands
from keyvouch.cli.selection import Selection, select
from keyvouch.errors import CertificateMissing, ConfigurationError, KeyExists

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

STANDARD_OUTPUT = Path("-")


def _public_key_option(name: str, text: str) -> Callable[[Command], Command]:
    """Return an option with an optional file."""
    return click.option(name, is_flag=False, flag_value=str(STANDARD_OUTPUT), metavar="[FILE]", help=text)


@click.command("export")
@key_options
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="FILE.cer",
    help="Write the certificate (DER); to standard output (-) as PEM.",
)
@click.option(
    "--pfx",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write key and certificate (PKCS#12); - is standard output.",
)
@click.option("--password", metavar="REFERENCE", help="Password of the PFX file: prompt:, env:NAME or file:/path.")
@_public_key_option("--jwk", "Print the public key as a JWK, or write it to FILE.")
@_public_key_option("--jwks", "Print the public keys of all keys of the profile as a JWK set, or write it to FILE.")
@output_option
def command(
    profile: str | None,
    key: str | None,
    certificate: Path | None,
    pfx: Path | None,
    password: str | None,
    jwk: str | None,
    jwks: str | None,
    output: str,
) -> None:
    """Write the certificate or the public key of a key; or the key itself, if its store allows it.

    Existing files are never overwritten.
    """
    if [certificate, pfx, jwk, jwks].count(None) != 3:  # noqa: PLR2004 - all but one
        raise click.UsageError("Use one of --certificate, --pfx, --jwk and --jwks.")
    if jwk or jwks:
        _export_public_keys(select(profile, key), jwk or str(jwks), output, as_set=jwk is None)
        return
    if pfx and not password:
        raise click.UsageError("A PFX file needs a password. Use --password prompt:, env:NAME or file:/path.")
    selection = select(profile, key)
    if STANDARD_OUTPUT in (certificate, pfx):
        data = _certificate_pem(selection) if certificate else _pfx(STANDARD_OUTPUT, selection, str(password))
        sys.stdout.buffer.write(data)
        return
    if certificate:
        with selection.open() as signer:
            write_certificate(certificate, signer)
    elif pfx and password:
        _write_pfx(pfx, selection, password)
    present(
        {"file": str(certificate or pfx)},
        output,
        lambda result: _print_text(result["file"], selection, is_certificate=certificate is not None),
    )


def _print_text(path: str, selection: Selection, *, is_certificate: bool) -> None:
    from keyvouch.entra.authority import is_issuer

    click.echo(f"Wrote {path}.")
    if is_certificate:
        where = f"Upload {path} to the app registration (Certificates & secrets)."
        if is_issuer(selection.profile):
            where = f"Register {path} for the client at {selection.profile.authority}."
        click.echo(where, err=True)
        _print_next_command(selection)


def _print_next_command(selection: Selection) -> None:
    if not selection.name and not config.load().profiles:
        uri = opening.parse(selection.profile.keys[0])
        print_profile_commands(uri, uri, exported=True)
        return
    option = "" if selection.name == environment.NAME else f" --profile {selection.name or 'NAME'}"
    print_next_command(f"keyvouch token{option}")


def write_certificate(path: Path, signer: Signer) -> None:
    """Write the certificate in DER, as the portal accepts it. Raises `CertificateMissing`, `KeyExists`."""
    from keyvouch.certificate import to_der

    _write(path, to_der(_certificate(signer)), mode=0o644)


def _certificate_pem(selection: Selection) -> bytes:
    from keyvouch.stores.pem import write_chain

    with selection.open() as signer:
        return write_chain([_certificate(signer)])


def _certificate(signer: Signer) -> Certificate:
    if not signer.chain:
        raise CertificateMissing(
            "The key has no certificate.",
            hint="Add certificate-file= to the URI. For a server that knows the public key instead, use --jwk.",
            uri=signer.uri,
        )
    return signer.chain[0]


def _export_public_keys(selection: Selection, file: str, output: str, *, as_set: bool) -> None:
    found = _public_keys(selection) if as_set else [_public_key(selection)]
    if as_set:
        _warn_of_unused_kids(selection, found)
    text = json.dumps({"keys": found} if as_set else found[0], indent=2)
    if file == str(STANDARD_OUTPUT):
        click.echo(text)
        return
    _write(Path(file), f"{text}\n".encode(), mode=0o644)
    present({"file": file}, output, lambda result: _print_text(result["file"], selection, is_certificate=False))


def _public_key(selection: Selection) -> dict[str, str]:
    with selection.open() as signer:
        return _jwk(signer, selection)


def _jwk(signer: Signer, selection: Selection) -> dict[str, str]:
    from keyvouch.assertion import key_id, public_jwk

    kid = key_id(signer.public_key, selection.profile.assertion.kid)
    return {**public_jwk(signer.public_key), **({"kid": kid} if kid else {}), "use": "sig"}


def _with_successors(selection: Selection) -> Iterator[dict[str, str]]:
    """Yield the key that signs now, and the members of its family that sign later: they are registered before that."""
    from keyvouch._core import listing, opening
    from keyvouch.certificate import spki_sha256

    with selection.open() as signer, selection.open_store() as store:
        yield _jwk(signer, selection)
        if store.uri.get("select") != "newest" and store.schedule(()).next_at is None:
            return
        for info in listing.successors(store.keys(), spki_sha256(signer.public_key)):
            with opening.open_uri(info.uri, selection.secrets) as member:
                yield _jwk(member, selection)


def _public_keys(selection: Selection) -> list[dict[str, str]]:
    """Return all keys of the profile, each of which must open. Raises `ConfigurationError` if two have the same kid."""
    found: list[dict[str, str]] = []
    keys = selection.profile.keys
    for jwk in itertools.chain.from_iterable(_with_successors(selection.with_key(key)) for key in keys):
        if jwk in found:  # the same key in two stores
            continue
        if "kid" in jwk and jwk["kid"] in [each.get("kid") for each in found]:
            raise ConfigurationError(
                f"Two keys of the profile have the same kid: {jwk['kid']}.",
                hint='Remove kid from the table assertion, or list one for each key: kid = { THUMBPRINT = "..." }.',
            )
        found.append(jwk)
    return found


def _warn_of_unused_kids(selection: Selection, found: list[dict[str, str]]) -> None:
    """Say which thumbprints in the table `kid` are those of no key of the profile: they may be misspelled."""
    kids = selection.profile.assertion.kid
    sent = {each.get("kid") for each in found}
    for thumbprint, kid in kids.items() if isinstance(kids, dict) else ():
        if kid not in sent:
            click.echo(f"No key of the profile has the thumbprint {thumbprint} in the table kid.", err=True)


def require_new_file(path: Path) -> None:
    """Raise `KeyExists` if the file exists, `ConfigurationError` if its folder is missing or closed."""
    if os.path.lexists(path):
        raise KeyExists(f"{path} already exists.", hint="Choose another file, or remove this one.")
    files.require_folder_of(path)


def _write_pfx(path: Path, selection: Selection, password: str) -> None:
    require_new_file(path)
    _write(path, _pfx(path, selection, password))


def _pfx(path: Path, selection: Selection, password: str) -> bytes:
    secret = selection.new_secrets.resolve(password, f"password of {path}")
    with selection.open_store() as store:
        return store.export_pfx(secret)


def _write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    try:
        files.write_private(path, data, mode=mode)
    except FileExistsError:
        require_new_file(path)
        raise
    except OSError as error:
        raise files.cannot_write(path, error) from error
