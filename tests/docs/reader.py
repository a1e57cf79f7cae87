"""A reader who follows a page literally, on a machine that meets all its requirements."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import msal.authority
import pytest
from cryptography import x509

import keyvouch
from docs.pages import ROOT, Block
from keyvouch import config
from keyvouch._core import opening
from keyvouch.testing.authority import Authority

CLIENT_ID = "8d2f7c1e-3f0a-4f4e-9d6e-6f0c6c1f4b7a"
"""The app that the pages sign in as; their tenant, contoso.onmicrosoft.com, is the development authority's own."""
PASSWORD = "correct horse"

PLACEHOLDERS = {
    "https://login.microsoftonline.com": "{authority}",
    "/etc/keyvouch": "{machine}/etc/keyvouch",
    "/etc/ssl/corp.pem": "{ca_file}",
    "/run/secrets/": "{machine}/run/secrets/",
    "/var/log/keyvouch/": "{machine}/var/log/keyvouch/",
    "chgrp svc-nightly ": "chgrp {group} ",
    # Already installed, with extras; only the targets must exist. The tests themselves show that they work.
    "$ pip install ": f"$ env -C {ROOT} python -m pip install --quiet --no-index --no-build-isolation --dry-run ",
    "$ make ": f"$ make --dry-run --directory={ROOT} ",
}
"""Text on the pages, and its replacement here."""

SETUP = f"""\
[profiles.nightly]
tenant = "contoso.onmicrosoft.com"
client-id = "{CLIENT_ID}"
scopes = ["https://graph.microsoft.com/.default"]
keys = ["pfx:/etc/keyvouch/app.pfx?password=env:APP_PFX_PASSWORD"]
"""


class Reader:
    """Runs the blocks of one page in order, in one environment and one Python namespace."""

    def __init__(self, folder: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, *, prepared: bool) -> None:
        """Set up the machine; `prepared` adds a registered key and the profile `nightly`."""
        self._machine = folder / "machine"
        self._replacements = {"authority": authority.url, "ca_file": authority.ca_file, "machine": str(self._machine)}
        self._replacements["group"] = str(os.getgid())
        self._app = authority.register(CLIENT_ID)
        self._monkeypatch = monkeypatch
        self.namespace = types.ModuleType("page").__dict__
        """The variables of the page's Python blocks."""
        self._shown = ""
        self._work = folder / "work"
        self._configuration = Path(os.environ["HOME"], ".config", "keyvouch", "config.toml")
        for each in (self._work, self._configuration.parent, *self._folders()):
            each.mkdir(parents=True)
        machines = self._machine / "etc/keyvouch/config.toml"  # on this machine, the reader's own is the same
        self._defaults = f'[defaults]\nauthority = "{authority.url}"\nca-file = "{authority.ca_file}"\n'
        machines.write_text(self._defaults)
        self._configuration.symlink_to(machines)
        monkeypatch.chdir(self._work)
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        # Every CA bundle contains Microsoft's certificates, and MSAL knows its hosts.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_file)
        known = msal.authority.WELL_KNOWN_AUTHORITY_HOSTS | {"localhost"}
        monkeypatch.setattr(msal.authority, "WELL_KNOWN_AUTHORITY_HOSTS", known)
        if prepared:
            self._prepare()

    def run(self, block: Block) -> None:
        """Run one block. Raises AssertionError if it does not do what the page says."""
        how: dict[str, Callable[[Block, str], None]] = {
            "console": self._run_console,
            "json": self._read_json,
            "python": self._run_python,
            "sh": self._run_shell,
            "text": self._read_text,
            "toml": self._read_toml,
        }
        assert block.not_run != "", f"{block.location} does not say why it is not run"
        if block.not_run is None:
            assert block.language in how, f"{block.location}: cannot run a block of {block.language or 'no language'}"
            how[block.language](block, self._fill_in(block.code))
            if block.language != "console":
                self._shown = ""

    def _folders(self) -> list[Path]:
        return [self._machine / folder for folder in ("etc/keyvouch", "run/secrets", "var/log/keyvouch")]

    def _prepare(self) -> None:
        self._monkeypatch.setenv("APP_PFX_PASSWORD", PASSWORD)
        etc = self._machine / "etc/keyvouch"
        for secret in (self._machine / "run/secrets/app-pfx-password", etc / "app.password"):
            secret.write_text(PASSWORD)
            secret.chmod(0o600)
        for uri in (
            f"pfx:{etc}/app.pfx?password=env:APP_PFX_PASSWORD",
            f"pem:{etc}/standby.pem",
            f"pem:{etc}/app.key?certificate-file={etc}/app.crt",
        ):
            with keyvouch.open_store(uri) as store:
                store.generate(keyvouch.KeySpec(subject="CN=nightly"))
            with keyvouch.open_signer(uri) as signer:
                self._app.add_certificate(signer.chain[0])
        self._save_profile(self._fill_in(SETUP))

    def _fill_in(self, code: str) -> str:
        for placeholder, value in PLACEHOLDERS.items():
            code = code.replace(placeholder, value.format(**self._replacements))
        return code

    def _run_console(self, block: Block, code: str) -> None:
        commands, output = split_console(code)
        assert commands, f"{block.location} has no line that starts with `$ `"
        printed = self._bash(block, commands)
        if block.exact:
            assert printed == output, block.location
        self._shown = printed

    def _run_shell(self, block: Block, code: str) -> None:
        self._bash(block, code)

    def _bash(self, block: Block, script: str) -> str:
        after = self._work.parent / "environment"
        done = subprocess.run(
            ["bash", "-eu", "-c", f"{script}\nenv -0 >'{after}'"],
            cwd=self._work,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, (
            f"{block.location}: status {done.returncode}\n{script}\n{done.stdout}\n{done.stderr}"
        )
        for line in after.read_text().split("\0")[:-1]:  # exported variables apply to the blocks that follow
            name, _, value = line.partition("=")
            if name not in ("_", "PWD", "OLDPWD", "SHLVL"):
                self._monkeypatch.setenv(name, value)
        for certificate in self._work.glob("*.cer"):  # as the reader uploads it in the portal
            self._app.add_certificate(x509.load_der_x509_certificate(certificate.read_bytes()))
        return done.stdout

    def _run_python(self, block: Block, code: str) -> None:
        if file := re.match(r"# (\w+\.py)\n", code):
            (self._work / file[1]).write_text(code)  # a console block runs it
            return
        lines = "\n" * (block.line - 1) + code
        page = str(ROOT / block.location.rpartition(":")[0])  # a traceback then shows the page's own lines
        exec(compile(lines, page, "exec"), self.namespace)  # noqa: S102 - that is the point

    def _read_toml(self, block: Block, code: str) -> None:
        path = self._work.parent / "block.toml"
        path.write_text(code, encoding="utf-8")
        with self._monkeypatch.context() as only_here:
            only_here.setenv("KEYVOUCH_CONFIG", str(path))
            configuration = config.load()
        profiles = [configuration.default_profile(), *map(configuration.profile, configuration.profiles)]
        for key in (key for profile in profiles for key in profile.keys):
            opening.parse(key)
        if block.note == "saved":
            self._configuration.write_text(self._defaults + code, encoding="utf-8")
        elif "nightly" in configuration.profiles and not config.load().profiles:
            self._save_profile(code)  # the page starts without a profile

    def _save_profile(self, text: str) -> None:
        with self._configuration.open("a", encoding="utf-8") as file:
            file.write(text)

    def _read_json(self, block: Block, code: str) -> None:
        """Output shown for the preceding command must have the same members as the real output."""
        shown = json.loads(code)
        if self._shown.startswith(("{", "[")):
            assert shape(json.loads(self._shown)) == shape(shown), block.location

    def _read_text(self, block: Block, code: str) -> None:
        for line in code.splitlines():
            if line.startswith(("pfx:", "pem:")):
                opening.parse(line)


def split_console(code: str) -> tuple[str, str]:
    """Return the commands of a console block, which begin with `$ `, and the output shown for them."""
    commands: list[str] = []
    output: list[str] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            commands.append(line.removeprefix("$ "))
        elif commands and commands[-1].endswith("\\") and not output:
            commands.append(line)
        else:
            output.append(line)
    return "\n".join(commands), "".join(f"{line}\n" for line in output)


def shape(value: object) -> object:
    """Return the names in a JSON value, without their values."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "value"
