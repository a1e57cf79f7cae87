"""`keyvouch demo`"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyvouch.certificate import load_certificates
from keyvouch.cli import demo_authority
from keyvouch.cli.options import output_option
from keyvouch.cli.output import present

if TYPE_CHECKING:
    from keyvouch.testing.authority import App, Authority


@click.command("demo")
@click.option("--serve", is_flag=True, help="Only run the authority, until Ctrl-C, for your own programs and jobs.")
@click.option(
    "--register",
    "certificates",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --serve: register this certificate. May be repeated.",
)
@output_option
def command(*, serve: bool, certificates: tuple[Path, ...], output: str) -> None:
    """Demonstrate keyvouch: a key, an authority as strict as Entra ID, a token, and two mistakes.

    If SoftHSM and keyvouch-pkcs11 are installed, a second part switches the profile to a key that cannot be copied.
    Everything is created in a temporary folder and removed at the end. Nothing leaves this machine.

    With --serve only the authority runs, on a free port of this machine. It accepts the certificates in the files given
    with --register, and prints the commands that add a profile and get a token.
    """
    if serve != bool(certificates):
        raise click.UsageError("--serve requires --register FILE, with the certificate of a key, and vice versa.")
    if serve and output == "json":
        raise click.UsageError("--serve prints no JSON.")
    if serve:
        demo_authority.serve(certificates)
    from keyvouch.testing.authority import Authority

    steps = []
    with tempfile.TemporaryDirectory(prefix="keyvouch-demo-") as folder, Authority() as authority:
        for step in _Demo(Path(folder), authority).play():
            steps.append(asdict(step))
            if output == "text":
                _print_step(step)
    present(steps, output, lambda _: None)  # as text, each step is printed before the next one runs


@dataclass(frozen=True)
class _Step:
    """A command that was run, and its result."""

    title: str
    command: str
    output: str
    exit_status: int
    remarks: tuple[str, ...] = ()


def _print_step(step: _Step) -> None:
    click.secho(f"\n== {step.title}", fg="cyan", bold=True)
    click.secho(f"{_PROMPT} {step.command}", bold=True)
    click.echo(step.output)
    if step.exit_status:
        click.echo(f"(exit status {step.exit_status})")
    for remark in step.remarks:
        click.echo(remark)


_ON_WINDOWS = sys.platform == "win32"
_PROMPT = "PS>" if _ON_WINDOWS else "$"
_SOFTHSM = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
"""Path of the module on Debian, Fedora and Homebrew."""


class _Demo:
    """The commands that a user would type, actually run one after another."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._folder = folder
        self._authority = authority
        self._key = f"pfx:{folder / 'app.pfx'}?password=env:APP_PFX_PASSWORD"
        configuration = folder / "config.toml"
        configuration.touch()
        self._configuration = configuration
        self._environment = {
            **os.environ,
            "APP_PFX_PASSWORD": secrets.token_urlsafe(16),
            "CACHE_DIRECTORY": str(folder / "cache"),
            "HSM_PIN": secrets.token_urlsafe(16),
            "KEYVOUCH_CONFIG": str(configuration),
            "SOFTHSM2_CONF": str(folder / "softhsm2.conf"),
            "STATE_DIRECTORY": str(folder / "state"),
        }

    def play(self) -> Iterator[_Step]:
        """Run the commands one after another."""
        app = yield from self._first_part()
        yield from self._second_part(app)

    def _first_part(self) -> Generator[_Step, None, App]:
        """Sign in with a key in a file; return the app registration."""
        certificate = self._folder / "app.cer"
        yield self._run(
            "Create a key in a PFX file, and its self-signed certificate",
            *("new", "--key", self._key, "--subject", "CN=nightly", "--certificate-out", str(certificate)),
        )
        leaf = load_certificates(certificate.read_bytes(), certificate)[0]
        app = self._authority.register(certificates=[leaf])
        yield self._run(
            "app.cer is now registered with the development authority. Add a profile for that app",
            *("profile", "add", "nightly", "--tenant", app.tenant, "--client-id", app.client_id, "--key", self._key),
            *("--authority", self._authority.url, "--ca-file", self._authority.ca_file),
        )

        first = self._run("Get a token with unmodified MSAL", "token", "--profile", "nightly")
        sent = self._authority.exchanges[-1]
        decoded = "\n".join(json.dumps(part, indent=2) for part in (sent.header, sent.claims))
        yield _shortened(first, f"The client assertion that was sent, decoded:\n{decoded}")

        before = len(self._authority.exchanges)
        cached = self._run("Get the token again, from the cache: nothing is signed", "token", "--profile", "nightly")
        requests = len(self._authority.exchanges) - before
        yield _shortened(cached, f"requests to the authority: {requests}")

        yield self._run("A mistake: the wrong password", "sign", "--key", self._key, APP_PFX_PASSWORD="wrong")  # noqa: S106 - deliberately wrong
        app.remove_certificate(leaf)
        yield self._run(
            "A mistake: app.cer is no longer registered (with another scope, since the first token is cached)",
            *("token", "--profile", "nightly", "--scope", "https://vault.azure.net/.default"),
        )
        return app

    def _second_part(self, app: App) -> Iterator[_Step]:
        """Switch the same profile to a key on a token by changing one line."""
        module = next((each for each in _SOFTHSM if Path(each).exists()), None)
        tool = shutil.which("softhsm2-util")
        if module is None or tool is None or importlib.util.find_spec("keyvouch_pkcs11") is None:
            text = "Install SoftHSM and keyvouch-pkcs11 to see the second part, with a key on a token."
            if _ON_WINDOWS:
                return
            yield _Step(
                "Skipped the second part", "apt-get install softhsm2; pip install . ./plugins/keyvouch-pkcs11", text, 0
            )
            return
        tokens = self._folder / "tokens"
        tokens.mkdir()
        Path(self._environment["SOFTHSM2_CONF"]).write_text(f"directories.tokendir = {tokens}\n", encoding="utf-8")
        pin = self._environment["HSM_PIN"]
        make = [tool, "--init-token", "--free", "--label", "demo", "--so-pin", secrets.token_urlsafe(16), "--pin", pin]
        subprocess.run(make, env=self._environment, check=True, capture_output=True)  # noqa: S603 - a temporary PIN

        key = f"pkcs11:token=demo;object=app?module-path={module}&pin-source=env:HSM_PIN"
        certificate = self._folder / "token.cer"
        yield self._run(
            "The second part: create a key on a SoftHSM token, which cannot be exported",
            *("new", "--key", key, "--subject", "CN=nightly", "--certificate-out", str(certificate)),
        )
        app.add_certificate(load_certificates(certificate.read_bytes(), certificate)[0])
        before = self._configuration.read_text(encoding="utf-8")
        after = before.replace(self._key, key)
        self._configuration.write_text(after, encoding="utf-8")
        both = zip(before.splitlines(), after.splitlines(), strict=True)
        changed = [f"- {old}\n+ {new}" for old, new in both if old != new]
        token = self._run(
            "Use the same profile, with one line changed (and another scope, since the first token is cached)",
            *("token", "--profile", "nightly", "--scope", "https://storage.azure.com/.default"),
        )
        lines = "\n".join(changed).replace(str(self._folder), "$DEMO")
        yield _shortened(token, f"The changed line of the profile:\n{lines}")

    def _run(self, title: str, *arguments: str, **environment: str) -> _Step:
        """Run `keyvouch` with these arguments in a subprocess."""
        done = subprocess.run(  # noqa: S603 - our own command and arguments
            [sys.executable, "-P", "-m", "keyvouch", *arguments],
            env={**self._environment, **environment},
            input="",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            check=False,
        )
        shown = (_in_powershell if _ON_WINDOWS else _in_shell)(arguments, environment)
        shown = shown.replace(str(self._folder), "$DEMO")
        return _Step(title, shown, done.stdout.strip().replace(str(self._folder), "$DEMO"), done.returncode)


def _in_shell(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    changed = "".join(f"{name}={value} " for name, value in environment.items())
    return f"{changed}keyvouch {shlex.join(arguments)}"


def _in_powershell(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the command in double quotes, which cmd.exe accepts too."""
    changed = "".join(f'$env:{name} = "{value}"; ' for name, value in environment.items())
    quoted = (each if re.fullmatch(r"[\w:./=\\-]+", each) else f'"{each}"' for each in arguments)
    return f"{changed}keyvouch {' '.join(quoted)}"


def _shortened(step: _Step, remark: str) -> _Step:
    """Shorten the token: it is long, and nobody should get used to seeing one."""
    return replace(step, output=f"{step.output[:40]}... ({len(step.output)} characters)", remarks=(remark,))
