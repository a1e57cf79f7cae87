"""`keyvouch verify`"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import click

from keyvouch.algorithms import ALGORITHMS, Algorithm, algorithms_for, key_type, require_fit, verifies
from keyvouch.cli.common import choose, key_options, output_option, print_json, read, read_path
from keyvouch.errors import SignatureMismatch

if TYPE_CHECKING:
    from keyvouch.algorithms import PublicKey


_DOTS_OF_JWS = 2


class _Signed(NamedTuple):
    message: bytes
    """The signed bytes."""
    signature: bytes
    algorithm: Algorithm


@click.command("verify")
@key_options
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--signature", type=click.Path(path_type=Path), help="The signature's file; without it FILE is a JWS.")
@click.option("--certificate", type=click.Path(path_type=Path), help="The signer's certificate, in place of a key.")
@click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), help="By default PS256, or what the curve demands.")
@output_option
def command(
    profile: str | None,
    key: str | None,
    file: BinaryIO,
    signature: Path | None,
    certificate: Path | None,
    algorithm: str | None,
    output: str,
) -> None:
    """Check a signature over FILE, or standard input: one that `keyvouch sign` wrote, raw, in base64url or as a JWS.

    Exit status 6 says that it is not this key's.
    """
    public_key = _from_certificate(certificate) if certificate else _from_key(profile, key)
    content = read(file)
    signed = _read_jws(content) if signature is None else _read_detached(content, signature, public_key, algorithm)
    require_fit(key_type(public_key), signed.algorithm)
    if not verifies(public_key, signed.signature, signed.message, signed.algorithm):
        raise SignatureMismatch(
            f"This is not the key's {signed.algorithm.name} signature over this message.",
            hint="Check the file, the key and --algorithm.",
        )
    if output == "json":
        print_json({"verified": True, "algorithm": signed.algorithm.name})
    else:
        click.echo(f"Good: it is this key's {signed.algorithm.name} signature.")


def _from_certificate(path: Path) -> PublicKey:
    from keyvouch.certificate import load_certificates

    return load_certificates(read_path(path), path)[0].public_key()  # type: ignore[return-value]


def _from_key(profile: str | None, key: str | None) -> PublicKey:
    with choose(profile, key).open() as signer:
        return signer.public_key


def _read_jws(content: bytes) -> _Signed:
    try:
        signing_input, _, encoded = content.strip().rpartition(b".")
        header = json.loads(_decode(signing_input.partition(b".")[0]))
        return _Signed(signing_input, _decode(encoded), ALGORITHMS[header["alg"]])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SignatureMismatch(
            "This is no JWS with an algorithm that can be checked.",
            hint="Give a bare signature's file with --signature.",
        ) from None


def _read_detached(content: bytes, place: Path, public_key: PublicKey, algorithm: str | None) -> _Signed:
    chosen = ALGORITHMS[algorithm] if algorithm else algorithms_for(key_type(public_key))[0]
    octets = read_path(place)
    if octets.count(b".") == _DOTS_OF_JWS and octets.startswith(b"eyJ"):
        raise click.UsageError(f"{place} is a JWS, with its message in it: give it as FILE, without --signature.")
    with contextlib.suppress(ValueError):  # otherwise it is a raw signature
        octets = _decode(octets.strip())
    return _Signed(content, octets, chosen)


def _decode(text: bytes) -> bytes:
    """Decode base64url without padding. Raises ValueError for anything else."""
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
