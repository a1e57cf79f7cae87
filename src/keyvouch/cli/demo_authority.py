"""`keyvouch demo --serve`: the development authority on its own, for programs and jobs to sign in to."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NoReturn

import click

from keyvouch.certificate import find_leaves, load_certificates
from keyvouch.cli.examples import for_windows
from keyvouch.cli.inputs import read_path

if TYPE_CHECKING:
    from keyvouch.testing.authority import App

_READABLE_FOLDER, _READABLE_FILE = 0o755, 0o644


def serve(files: Sequence[Path]) -> NoReturn:
    """Run the authority until a signal ends it, with an app registration that has the certificates in these files."""
    from keyvouch.testing.authority import Authority

    certificates = [find_leaves(load_certificates(read_path(each), each))[0] for each in files]
    with tempfile.TemporaryDirectory(prefix="keyvouch-demo-") as folder, Authority() as authority:
        app = authority.register(certificates=certificates)
        _print_lines(app, authority.url, _copy_for_everyone(Path(authority.ca_file), Path(folder)))
        while True:  # on Windows, Ctrl-C ends only a sleep
            time.sleep(3600)


def _copy_for_everyone(ca_file: Path, folder: Path) -> Path:
    """Copy the certificate to a folder that other accounts may enter, since a job often has one of its own."""
    folder.chmod(_READABLE_FOLDER)
    copy = folder / "ca.pem"
    copy.write_bytes(ca_file.read_bytes())
    copy.chmod(_READABLE_FILE)
    return copy


def _print_lines(app: App, url: str, ca_file: PurePath) -> None:
    lines: tuple[str, ...] = (
        f"keyvouch profile add demo --tenant {app.tenant} --client-id {app.client_id} \\",
        f"  --authority {url} --ca-file {shlex.quote(str(ca_file))} --key URI",
        "keyvouch token --profile demo",
    )
    if sys.platform == "win32":
        lines = for_windows(lines)
    click.echo(
        f"A development authority is running at {url}, until Ctrl-C.\n"
        "Type this in another terminal, with the URI of the key:\n"
    )
    click.echo("\n".join(lines))
