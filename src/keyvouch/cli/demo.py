"""`keyvouch demo`"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyvouch.certificate import load_certificates

if TYPE_CHECKING:
    from keyvouch.testing.authority import Authority

PROFILE = """\
[defaults]
authority = {url}
ca-file = {ca_file}

[profiles.nightly]
tenant = {tenant}
client-id = {client_id}
scopes = ["https://graph.microsoft.com/.default"]
keys = [{key}]
"""


@click.command("demo")
def command() -> None:
    """Show it all on this machine: a key, an authority as strict as Entra ID, a token, and two mistakes.

    Everything is made in a temporary folder and removed at the end; nothing leaves this machine.
    """
    from keyvouch.testing.authority import Authority

    with tempfile.TemporaryDirectory(prefix="keyvouch-demo-") as folder, Authority() as authority:
        _Demo(Path(folder), authority).play()


class _Demo:
    """The commands that a user would type, really run, one after the other."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._folder = folder
        self._authority = authority
        self._key = f"pfx:{folder / 'app.pfx'}?password=env:APP_PFX_PASSWORD"
        self._environment = {
            **os.environ,
            "APP_PFX_PASSWORD": secrets.token_urlsafe(16),
            "CACHE_DIRECTORY": str(folder / "cache"),
            "KEYVOUCH_CONFIG": str(folder / "config.toml"),
            "STATE_DIRECTORY": str(folder / "state"),
        }

    def play(self) -> None:
        self._title("A key in a PFX, and its self-signed certificate")
        certificate = self._folder / "app.cer"
        self._write_configuration("(not registered yet)")
        self._run("new", "--key", self._key, "--subject", "CN=nightly", "--certificate-out", str(certificate))

        self._title("An authority registers the public half: here the development authority, by itself")
        leaf = load_certificates(certificate.read_bytes(), certificate)[0]
        app = self._authority.register(certificates=[leaf])
        click.echo(f"app registration {app.client_id} in tenant {app.tenant}")
        self._write_configuration(app.client_id)

        self._title("A token, through unmodified MSAL")
        self._run("token", "--profile", "nightly", shorten=True)
        self._show_what_was_sent()

        self._title("The same again: from the cache, nothing signed, nobody asked")
        before = len(self._authority.exchanges)
        self._run("token", "--profile", "nightly", shorten=True)
        click.echo(f"requests to the authority: {len(self._authority.exchanges) - before}")

        self._title("A mistake: the wrong password")
        self._run("sign", "--key", self._key, password="wrong")  # noqa: S106 - it is meant to be wrong

        self._title("A mistake: the certificate is not registered")
        app.remove_certificate(leaf)
        self._run("token", "--profile", "nightly", "--scope", "https://vault.azure.net/.default")

    def _write_configuration(self, client_id: str) -> None:
        values = {
            "url": self._authority.url,
            "ca_file": self._authority.ca_file,
            "tenant": self._authority.tenant,
            "client_id": client_id,
            "key": self._key,
        }
        text = PROFILE.format(**{name: json.dumps(value) for name, value in values.items()})
        (self._folder / "config.toml").write_text(text, encoding="utf-8")

    def _run(self, *arguments: str, password: str | None = None, shorten: bool = False) -> None:
        """Type a command, and print what it prints."""
        click.secho(f"$ keyvouch {shlex.join(arguments)}".replace(str(self._folder), "$DEMO"), bold=True)
        environment = {**self._environment, **({"APP_PFX_PASSWORD": password} if password else {})}
        done = subprocess.run(  # noqa: S603 - our own command, with arguments of our own
            [sys.executable, "-P", "-m", "keyvouch", *arguments],
            env=environment,
            input="",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            check=False,
        )
        output = done.stdout.rstrip().replace(str(self._folder), "$DEMO")
        click.echo(f"{output[:40]}... ({len(output)} characters)" if shorten and not done.returncode else output)
        if done.returncode:
            click.echo(f"(exit status {done.returncode})")

    def _show_what_was_sent(self) -> None:
        exchange = self._authority.exchanges[-1]
        click.echo("The client assertion that was sent, decoded:")
        click.echo(json.dumps(exchange.header, indent=2))
        click.echo(json.dumps(exchange.claims, indent=2))

    def _title(self, text: str) -> None:
        click.secho(f"\n== {text}", fg="cyan", bold=True)
