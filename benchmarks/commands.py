"""The cost of whole commands, compared with a ten-line script that signs in with plain MSAL, and with `pkcs11-tool`.

    python benchmarks/commands.py [--quick]

Each run is a separate process, in the environment of `make runtime`. The authority is the development authority; the
token is one of SoftHSM.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificate

import goals
from goals import Goal, Part, relative_time
from key_stores import pem_files, pfx_files, softhsm
from keyvouch.bench import Contender, Samples, measure
from keyvouch.bench.rounds import Operation
from keyvouch.testing.authority import App, Authority

RUNTIME = Path(__file__).parents[1] / ".venv-runtime" / "bin"
"""Where `make runtime` has installed the distributions, and only what they require: a program starts more slowly beside
the hundred packages of a checkout's environment."""
INTERPRETER, PROGRAM = str(RUNTIME / "python"), str(RUNTIME / "keyvouch")
RUNS_PER_SECOND = 12
"""How often each command is run, for each second of the usual duration of a measurement."""
SCOPE = "https://graph.microsoft.com/.default"
SCRIPT = f"""\
import sys
import msal
import requests
authority, client_id, key, certificate, ca_file = sys.argv[1:]
session = requests.Session()
session.trust_env, session.verify = False, ca_file
credential = {{"private_key": open(key).read(), "public_certificate": open(certificate).read()}}
app = msal.ConfidentialClientApplication(
    client_id, authority=authority, client_credential=credential, http_client=session, instance_discovery=False
)
print(app.acquire_token_for_client(["{SCOPE}"])["access_token"])
"""
PYTHON, CLICK, IMPORT_MSAL, IMPORT_KEYVOUCH = "python -c pass", "import click", "import msal", "import keyvouch"
TEN_LINES, TOOL = "ten lines of MSAL", "pkcs11-tool --sign"
VERSION, CACHED, COLD = "keyvouch --version", "keyvouch token, cached", "keyvouch token, cold"
SIGN_PFX, SIGN_TOKEN = "keyvouch sign, PFX", "keyvouch sign, PKCS#11"
INTRODUCTION = """\
Milliseconds, from the start of a process to its end, in an environment with only what keyvouch requires. The ten-line
script signs in with MSAL and the same key; `keyvouch token`, cold, also signs and sends a request, and writes its
cache. The keys are RSA-2048."""


def write_files(folder: Path, authority: Authority) -> App:
    """Make a key, register it, and write a profile that the environment names; return the application.

    The ten-line script reads the key and its certificate from `app.key` and `app.crt`, keyvouch both from `app.pem`.
    """
    key, certificate = folder / "app.key", folder / "app.crt"
    with pem_files(folder) as make:
        made = Path(make("RSA-2048").removeprefix("pem:")).rename(folder / "app.pem").read_text()
    end = made.index("-----BEGIN CERTIFICATE")
    key.write_text(made[:end])
    certificate.write_text(made[end:])
    app = authority.register(certificates=[load_pem_x509_certificate(certificate.read_bytes())])
    (folder / "script.py").write_text(SCRIPT)
    (folder / "config.toml").write_text(
        f'[profiles.n]\nauthority = "{authority.url}"\ntenant = "{app.tenant}"\nclient-id = "{app.client_id}"\n'
        f'scopes = ["{SCOPE}"]\nkeys = ["pem:{folder / "app.pem"}"]\nca-file = "{authority.ca_file}"\n'
    )
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # pip compiles what it installs; make a checkout behave the same
    os.environ.update(
        KEYVOUCH_CONFIG=str(folder / "config.toml"),
        CACHE_DIRECTORY=str(folder / "cache"),
        STATE_DIRECTORY=str(folder / "state"),
    )
    return app


def run(*arguments: str) -> Callable[[], AbstractContextManager[Operation]]:
    """Return what prepares nothing, and runs a command that must succeed."""

    @contextlib.contextmanager
    def each() -> Iterator[Operation]:
        yield partial(
            subprocess.run,
            arguments,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    return each


def token_commands(folder: Path, authority: Authority) -> Iterator[Contender]:
    """Yield what requests a token; begin by filling keyvouch's cache."""
    app = write_files(folder, authority)
    token = run(PROGRAM, "token")
    with token() as fill:
        fill()

    @contextlib.contextmanager
    def cold() -> Iterator[Operation]:
        """Keep the filled cache elsewhere meanwhile."""
        (folder / "cache").rename(folder / "kept")
        try:
            with token() as operation:
                yield operation
        finally:
            shutil.rmtree(folder / "cache")
            (folder / "kept").rename(folder / "cache")

    yield Contender(CACHED, each=token)
    yield Contender(COLD, each=cold)
    script, *files = [str(folder / name) for name in ("script.py", "app.key", "app.crt")]
    script_arguments = [authority.authority, app.client_id, *files, authority.ca_file]
    yield Contender(TEN_LINES, each=run(INTERPRETER, script, *script_arguments))


def sign_commands(folder: Path, pfx: str, token: str) -> Iterator[Contender]:
    """Yield what signs a file."""
    from softhsm_tokens import PIN, SOFTHSM

    message = str(folder / "message")
    Path(message).write_bytes(b"x" * 32)
    yield Contender(SIGN_PFX, each=run(PROGRAM, "sign", "--key", pfx, message))
    yield Contender(SIGN_TOKEN, each=run(PROGRAM, "sign", "--key", token, "--algorithm", "RS256", message))
    where = ["--module", str(SOFTHSM), "--token-label", "bench", "--login", "--pin", PIN, "--label", "RSA-2048"]
    what = ["--sign", "--mechanism", "RSA-PKCS", "--input-file", message, "--output-file", os.devnull]
    yield Contender(TOOL, each=run("pkcs11-tool", *where, *what))


def start_up() -> Iterator[Contender]:
    """Yield what shows where the time goes, and the smallest command."""
    for name in (PYTHON, CLICK, IMPORT_MSAL, IMPORT_KEYVOUCH):
        yield Contender(name, each=run(INTERPRETER, "-c", name.removeprefix("python -c ")))
    yield Contender(VERSION, each=run(PROGRAM, "--version"))


def goals_of(found: dict[str, Samples]) -> list[Goal]:
    """Return the goals."""
    return [
        Goal(f"{SIGN_TOKEN}, RSA-2048", 150, goals.scaled(found[SIGN_TOKEN].rounds, 1e3), unit="ms"),
        Goal(f"{COLD}, relative to: {TEN_LINES}", 1.05, relative_time(found[COLD], found[TEN_LINES])),
        Goal(f"{CACHED}, relative to: {CLICK}", 1.2, relative_time(found[CACHED], found[CLICK])),
        Goal(f"{CACHED}, relative to: {IMPORT_MSAL}", 1.1, relative_time(found[CACHED], found[IMPORT_MSAL])),
        Goal(f"{VERSION}, relative to: {CLICK}", 1.5, relative_time(found[VERSION], found[CLICK])),
    ]


def measure_subject(seconds: float) -> Part:
    """Run all commands in turns."""
    runs = max(12, round(seconds * RUNS_PER_SECOND))  # with fewer there is no confidence interval
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        authority = stack.enter_context(Authority())
        pfx, token = (
            stack.enter_context(store(folder))("RSA-2048")
            for store, folder in zip((pfx_files, softhsm), folders[1:], strict=True)
        )
        contenders = [
            *start_up(),
            *token_commands(folders[0], authority),
            *sign_commands(folders[1], pfx, token),
        ]
        samples = measure([_limited(each, runs) for each in contenders], seconds=60)
    found = {each.contender.name: each for each in samples}
    if failed := [name for name, each in found.items() if each.errors]:
        raise RuntimeError(f"failed: {', '.join(failed)}")
    rows = [[name, *_cells(each)] for name, each in sorted(found.items(), key=lambda item: item[1].latency(50))]
    return Part(
        "Whole commands",
        f"{INTRODUCTION}\n\n{goals.table(['', 'median, ms', '99 % confidence', 'p10 to p90'], rows)}",
        goals_of(found),
        {"commands": goals.documents(samples)},
    )


def _limited(contender: Contender, runs: int) -> Contender:
    return Contender(contender.name, each=contender.each, most=runs)


def _cells(measured: Samples) -> list[str]:
    middle = goals.scaled(measured.rounds, 1e3)
    low, high = (goals.figure(measured.latency(part) * 1e3) for part in (10, 90))
    return [goals.figure(middle.value), goals.interval(middle), f"{low} to {high}"]


if __name__ == "__main__":
    goals.main(measure_subject)
