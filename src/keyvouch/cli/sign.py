"""`keyvouch sign`"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

import click

from keyvouch._formats.text_encodings import base64url
from keyvouch.algorithms import ALGORITHMS, Algorithm, find_algorithm
from keyvouch.cli.inputs import read_stream
from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present
from keyvouch.cli.selection import select

FORMS = ("base64url", "raw", "jws")


@click.command("sign")
@key_options
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), help="Default: PS256, or the one for the curve.")
@click.option("--form", type=click.Choice(FORMS), default="base64url", show_default=True, help="Form of the signature.")
@output_option
def command(
    profile: str | None, key: str | None, file: BinaryIO, algorithm: str | None, form: str, output: str
) -> None:
    """Sign FILE or standard input, and write the signature to standard output.

    base64url and raw are a detached signature in JOSE form (ECDSA: r||s). jws contains the message and the signature
    (RFC 7515, compact). `keyvouch verify` accepts all three.
    """
    if form == "raw" and output == "json":
        raise click.UsageError("A raw signature cannot be printed as JSON. Use --form base64url.")
    message = read_stream(file)
    with select(profile, key).open() as signer:
        requested = find_algorithm(algorithm) if algorithm else None
        used: list[Algorithm] = []

        def build(chosen: Algorithm, chain: object, public_key: object) -> bytes:  # noqa: ARG001
            used[:] = [chosen]  # the second call, if the store does not support the first algorithm
            return _jws_input(message, chosen.name) if form == "jws" else message

        signing_input, signature = signer.sign_negotiated(build, algorithm=requested)
        uri = str(signer.uri)
    text = base64url(signature).decode()
    if form == "jws":
        text = f"{signing_input.decode()}.{text}"
    if form == "raw":
        sys.stdout.buffer.write(signature)
    else:
        result = {"algorithm": used[0].name, "form": form, "signature": text, "uri": uri}
        present(result, output, lambda shown: click.echo(shown["signature"]))


def _jws_input(message: bytes, algorithm: str) -> bytes:
    header = json.dumps({"alg": algorithm}, separators=(",", ":")).encode()
    return base64url(header) + b"." + base64url(message)
