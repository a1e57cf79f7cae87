"""`keyvouch sign`"""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

import click

from keyvouch.algorithms import ALGORITHMS, Algorithm, find_algorithm
from keyvouch.assertion import base64url
from keyvouch.cli.common import choose, key_options, output_option, print_json, read

FORMS = ("base64url", "raw", "jws")


@click.command("sign")
@key_options
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), help="By default PS256, or what the curve demands.")
@click.option("--form", type=click.Choice(FORMS), default="base64url", show_default=True, help="What to write.")
@output_option
def command(
    profile: str | None, key: str | None, file: BinaryIO, algorithm: str | None, form: str, output: str
) -> None:
    """Sign FILE, or standard input, and write the signature to standard output.

    base64url and raw: the bare signature in JOSE form (ECDSA: r||s). jws: message and signature in one (RFC 7515,
    compact). `keyvouch verify` checks all three.
    """
    if form == "raw" and output == "json":
        raise click.UsageError("A raw signature is no text for JSON: take --form base64url.")
    message = read(file)
    with choose(profile, key).open() as signer:
        wanted = find_algorithm(algorithm) if algorithm else None
        used: list[Algorithm] = []

        def build(chosen: Algorithm, chain: object, public_key: object) -> bytes:  # noqa: ARG001
            used[:] = [chosen]  # the second call, if the store does not support the first algorithm
            return _jws_input(message, chosen.name) if form == "jws" else message

        signing_input, signature = signer.sign_negotiated(build, algorithm=wanted)
        uri = str(signer.uri)
    text = base64url(signature).decode()
    if form == "jws":
        text = f"{signing_input.decode()}.{text}"
    if output == "json":
        form = "jws" if form == "jws" else "base64url"
        print_json({"algorithm": used[0].name, "form": form, "signature": text, "uri": uri})
    elif form == "raw":
        sys.stdout.buffer.write(signature)
    else:
        click.echo(text)


def _jws_input(message: bytes, algorithm: str) -> bytes:
    header = json.dumps({"alg": algorithm}, separators=(",", ":")).encode()
    return base64url(header) + b"." + base64url(message)
