"""The cost of whole commands, compared with the ten-line script that signs in with plain MSAL.

    python benchmarks/commands.py [--rounds N] [--json FILE]

Each run is a separate process; the contenders run in turns. The authority is the development authority.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12

import keyvouch
from keyvouch.bench import Contender, Goal, Result, goal_table, measure, result_table, to_json
from keyvouch.testing.authority import App, Authority

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


def write_files(folder: Path, authority: Authority) -> App:
    """Make a key as PFX and PEM, register it, and write a profile."""
    os.environ["APP_PASSWORD"] = "a password"  # noqa: S105 - for a throwaway key
    uri = f"pfx:{folder / 'app.pfx'}?password=env:APP_PASSWORD"
    with keyvouch.open_store(uri) as store:
        store.generate(keyvouch.KeySpec())
    private_key, certificate, _ = pkcs12.load_key_and_certificates((folder / "app.pfx").read_bytes(), b"a password")
    if private_key is None or certificate is None:
        raise RuntimeError("the PFX is empty")
    app = authority.register(certificates=[certificate])
    key = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "app.key").write_bytes(key)
    (folder / "app.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "app.pem").write_bytes(key + certificate.public_bytes(Encoding.PEM))  # the same key for both contenders
    (folder / "app.pem").chmod(0o600)
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


def process(*arguments: str) -> Callable[[], object]:
    """Return a function that runs a process and checks that it succeeds."""
    return lambda: subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)  # noqa: S603


def contests(folder: Path, authority: Authority, app: App) -> dict[str, list[Contender]]:
    """Return the comparisons by title; the first contender of each is the baseline."""
    program = str(Path(sys.executable).parent / "keyvouch")
    files = [str(folder / name) for name in ("app.key", "app.crt")]
    script = process(
        sys.executable, str(folder / "script.py"), authority.authority, app.client_id, *files, authority.ca_file
    )
    token = process(program, "token")
    key = f"pfx:{folder / 'app.pfx'}?password=env:APP_PASSWORD"

    def cold() -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        token()

    return {
        "cold": [Contender("ten lines of MSAL", script), Contender("keyvouch token, cold", cold)],
        "cached": [
            Contender("import msal", process(sys.executable, "-c", "import msal")),
            Contender("keyvouch token, cached", token),
        ],
        "version": [
            Contender("import click", process(sys.executable, "-c", "import click")),
            Contender("keyvouch --version", process(program, "--version")),
        ],
        "sign": [
            Contender("import click", process(sys.executable, "-c", "import click")),
            Contender("keyvouch sign", process(program, "sign", "--key", key)),
        ],
    }


def main() -> None:
    """Run the benchmark and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder, Authority() as authority:
        app = write_files(Path(folder), authority)
        for title, contenders in contests(Path(folder), authority, app).items():
            found[title] = measure(contenders, rounds=options.rounds)
            print(result_table(title, found[title]), end="\n\n", flush=True)
    wanted = {"cold": 1.25, "cached": 1.1, "version": 1.5}
    print(
        goal_table(
            [
                Goal(f"{found[title][1].name}, of: {found[title][0].name}", most, found[title][1].ratio)
                for title, most in wanted.items()
            ]
        )
    )
    if options.json:
        options.json.write_text(to_json(found))


if __name__ == "__main__":
    main()
