"""`keyvouch verify`"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import click

from keyvouch.algorithms import ALGORITHMS, Algorithm, algorithms_for, key_type, require_fit, verifies
from keyvouch.cli.inputs import read_path, read_stream
from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import select
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
@click.option(
    "--signature", type=click.Path(path_type=Path), help="File with the signature. Without it, FILE is a JWS."
)
@click.option("--certificate", type=click.Path(path_type=Path), help="The signer's certificate, instead of a key.")
@click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), help="Default: PS256, or the one for the curve.")
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
    """Verify a signature over FILE or standard input, in any form that `keyvouch sign` writes.

    The exit status is 6 if the signature is not valid.
    """
    if [file.name, str(signature), str(certificate)].count("-") + (file.name == "<stdin>") > 1:
        raise click.UsageError("Only one of FILE, --signature and --certificate can be standard input.")
    public_key = _from_certificate(certificate) if certificate else _from_key(profile, key)
    content = read_stream(file)
    signed = _read_jws(content) if signature is None else _read_detached(content, signature, public_key, algorithm)
    require_fit(key_type(public_key), signed.algorithm)
    if not verifies(public_key, signed.signature, signed.message, signed.algorithm):
        raise SignatureMismatch(
            f"The {signed.algorithm.name} signature is not valid for this key and message.",
            hint="Check the file, the key and --algorithm.",
        )
    present(
        {"verified": True, "algorithm": signed.algorithm.name},
        output,
        lambda result: click.echo(f"The {result['algorithm']} signature is valid."),
    )


def _from_certificate(path: Path) -> PublicKey:
    from keyvouch.certificate import load_certificates

    return load_certificates(read_path(path), path)[0].public_key()  # type: ignore[return-value]


def _from_key(profile: str | None, key: str | None) -> PublicKey:
    with select(profile, key).open() as signer:
        return signer.public_key


def _read_jws(content: bytes) -> _Signed:
    try:
        signing_input, _, encoded = content.strip().rpartition(b".")
        protected, _ = signing_input.split(b".")
        header = json.loads(_decode(protected))
        _refuse_extensions(header)
        return _Signed(signing_input, _decode(encoded), ALGORITHMS[header["alg"]])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SignatureMismatch(
            "Invalid JWS, or one with an unsupported algorithm.",
            hint="For a detached signature, use --signature.",
        ) from None


def _refuse_extensions(header: Any) -> None:
    """Raise `SignatureMismatch` if a recipient must understand an extension (RFC 7515, section 4.1.11): none are."""
    if "crit" in header:
        names = ", ".join(map(str, header["crit"])) if isinstance(header["crit"], list) else ""
        raise SignatureMismatch(
            f"The JWS requires an extension that is not supported: {names or 'its crit header is invalid'}.",
            hint="Verify it with a program that supports the extension, or ask its sender for a JWS without it.",
        )


def _read_detached(content: bytes, path: Path, public_key: PublicKey, algorithm: str | None) -> _Signed:
    chosen = ALGORITHMS[algorithm] if algorithm else algorithms_for(key_type(public_key))[0]
    signature = read_path(path)
    if signature.count(b".") == _DOTS_OF_JWS and signature.startswith(b"eyJ"):
        raise click.UsageError(f"{path} is a JWS that contains its message. Pass it as FILE, without --signature.")
    with contextlib.suppress(ValueError):  # otherwise it is a raw signature
        signature = _decode(signature.strip())
    return _Signed(content, signature, chosen)


def _decode(text: bytes) -> bytes:
    """Decode base64url without padding. Raises ValueError for anything else."""
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
