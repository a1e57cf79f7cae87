"""Every command with `--output json`, run once: throwaway keys, a development authority, and a scripted store.

`python tests/cli/json_scenario.py > tests/cli/json_outputs.json` records what the commands print. Do that only for an
addition: programs rely on everything that the file contains.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keyvouch
from keyvouch.testing.authority import Authority

Record = dict[str, Any]
"""A command's arguments, exit status, and its two streams: JSON, or None if nothing was printed, or "text"."""

PASSWORD = "correct horse"
TEXTS = ("message", "hint", "help", "title", "output", "advice", "remarks", "store")
"""Fields whose wording may change; only their type is recorded."""
PATTERNS = {
    r"eyJ[\w-]+\.[\w-]+\.[\w-]+": "<JWT>",
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b": "<UUID>",
    r"\b(?:[0-9a-f]{64}|[0-9A-F]{64})\b": "<SHA-256>",
    r"\b[0-9A-F]{40}\b": "<SHA-1>",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00": "<TIME>",
    r"localhost:\d+": "localhost:PORT",
    r"\A[\w-]{86,}\Z": "<SIGNATURE>",
    r"\S*keyvouch-authority-\w+": "$AUTHORITY",
    r"app-\d{8}T\d+Z": "app-<TIME>",
    r"server=\d+": "server=N",
}
UNSET = ("KEYVOUCH_", "XDG_", "CREDENTIALS_DIRECTORY", "UNSET_VARIABLE", "REQUESTS_CA_BUNDLE")
"""Environment variables that would change the outputs."""
SCRIPTED = """
import sys
from keyvouch import errors, store
from keyvouch.cli import main
from scripted_store import FullStore, Script

with Script() as script:
    script.accounts = ["operator"]
    {prepare}
    sys.argv[1:] = [each.format(able=script.able_uri, plain=script.uri) for each in sys.argv[1:]]
    main()
"""
DESCRIBED = """
    described = {"provider": "TPM", "readers": ("operator",), "advice": ("Renew it.",)}
    FullStore.keys = lambda self, uri: [store.KeyInfo(uri, "P-256", None, exportable=False, **described)]
"""


def normalised(value: Any, name: str = "") -> Any:
    """Return the value without what differs from run to run, and without wording."""
    match value:
        case dict():
            return {key: normalised(member, key) for key, member in value.items()}
        case list():
            return [normalised(member, name) for member in value]
        case float():
            return "<SECONDS>"
        case int() if name == "expires_on":
            return "<SECONDS>"
        case str():
            return _normalised_text(value, name)
    return value


def _normalised_text(value: str, name: str) -> str:
    if name in TEXTS:
        return "<TEXT>" if value else ""
    if name == "version":
        return "<VERSION>"
    for pattern, replacement in PATTERNS.items():
        value = re.sub(pattern, replacement, value)
    return value


class Scenario:
    """Runs the commands in one folder, one after another, and yields what each of them printed."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self._folder = folder
        self._authority = authority
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(UNSET)},
            "HOME": str(folder),
            "STATE_DIRECTORY": str(folder / "state"),
            "CACHE_DIRECTORY": str(folder / "cache"),
            "KEYVOUCH_CONFIG": str(folder / "config.toml"),
            "APP_PASSWORD": PASSWORD,
            "WRONG": "wrong",
        }
        self._app = authority.register("8d2f7c1e-3f0a-4f4e-9d6e-6f0c6c1f4b7a", "contoso.onmicrosoft.com")
        self._key = f"pfx:{folder}/app.pfx?password=env:APP_PASSWORD"
        (folder / "message").write_text("message")
        (folder / "text.pfx").write_text("not a PFX")
        (folder / "text.pfx").chmod(0o600)
        (folder / "config.toml").touch()

    def play(self) -> Iterator[tuple[str, Record]]:
        """Yield each case's name and record."""
        yield from self._make_keys()
        yield from self._add_profiles()
        yield from self._sign()
        yield from self._sign_in()
        yield from self._list()
        yield from self._change()
        yield from self._fail_in_store()
        yield from self._defects()

    def _make_keys(self) -> Iterator[tuple[str, Record]]:
        certificate = str(self._folder / "app.cer")
        new = ("new", "--key", self._key, "--subject", "CN=nightly", "--certificate-out", certificate)
        yield "new", self._run(*new)
        with self._variables(), keyvouch.open_signer(self._key) as signer:
            self._app.add_certificate(signer.chain[0])
        yield "new: file exists", self._run("new", "--key", self._key)
        profile = ("--save-profile", "family", "--tenant", "contoso.onmicrosoft.com", "--client-id", "7")
        yield "new: a family's profile", self._run("new", "--key", f"pem:{self._folder}/app-*.pem", *profile)
        self._run("new", "--key", f"pem:{self._folder}/app-*.pem", "--further")
        yield "new: P-256", self._run("new", "--key", f"pem:{self._folder}/ec.pem", "--key-type", "P-256")
        yield "new: no such folder", self._run("new", "--key", f"pem:{self._folder}/missing/app.pem")
        yield "new: incomplete options", self._run("new", "--key", self._key, "--save-profile", "n")

    def _add_profiles(self) -> Iterator[tuple[str, Record]]:
        server = ("--authority", self._authority.url, "--ca-file", self._authority.ca_file)
        app = ("--tenant", self._app.tenant, "--client-id", self._app.client_id)
        yield "profile add", self._run("profile", "add", "nightly", "--key", self._key, *app, *server)
        yield "profile add: exists", self._run("profile", "add", "nightly", "--key", self._key, *app)
        yield "profile add: unknown attribute", self._run("profile", "add", "n", "--key", "pfx:/x?passwort=env:X", *app)
        yield "profile list", self._run("profile", "list")
        yield "profile list: no such file", self._run("profile", "list", configuration="missing.toml")
        yield "profile show", self._run("profile", "show", "nightly")
        yield "profile show: unknown profile", self._run("profile", "show", "nitely")
        yield "profile path", self._run("profile", "path")
        yield "profile path: no such file", self._run("profile", "path", configuration="missing.toml")
        (self._folder / "broken.toml").write_text("[profiles.nightly\n")
        yield "profile list: invalid file", self._run("profile", "list", configuration="broken.toml")

    def _sign(self) -> Iterator[tuple[str, Record]]:
        message, signature, jws = (str(self._folder / name) for name in ("message", "signature", "jws"))
        yield "sign", self._run("sign", "--key", self._key, message)
        yield "sign: JWS", self._run("sign", "--key", self._key, "--form", "jws", message)
        yield "sign: raw", self._run("sign", "--key", self._key, "--form", "raw", message)
        yield "sign: ES256 with RSA", self._run("sign", "--key", self._key, "--algorithm", "ES256", message)
        Path(signature).write_text(self._text("sign", "--key", self._key, message))
        Path(jws).write_text(self._text("sign", "--key", self._key, "--form", "jws", message))
        yield "verify", self._run("verify", "--key", self._key, message, "--signature", signature)
        yield "verify: JWS", self._run("verify", "--certificate", f"{self._folder}/app.cer", jws)
        yield "verify: another message", self._run("verify", "--key", self._key, jws, "--signature", signature)
        yield "verify: not a JWS", self._run("verify", "--key", self._key, message)
        options = ("--client-id", "7", "--endpoint", "https://login.test/token")
        yield "assertion", self._run("assertion", "--profile", "nightly")
        yield "assertion: with only a key", self._run("assertion", "--key", self._key, *options)
        yield "assertion: no certificate", self._run("assertion", "--key", self._key, "--endpoint", "https://a/token")

    def _sign_in(self) -> Iterator[tuple[str, Record]]:
        yield "token", self._run("token", "--profile", "nightly")
        yield "token: cached", self._run("token", "--profile", "nightly")
        again = ("token", "--profile", "nightly", "--no-cache")
        yield "token: unknown tenant", self._run(*again, "--tenant", "nowhere.example")
        other = f"pem:{self._folder}/app-*.pem?select=newest&settle=0"
        yield "token: unregistered certificate", self._run(*again, "--key", other)
        for status, headers in ((429, {"Retry-After": "3600"}), (403, {})):
            self._authority.answer_next(status, headers=headers)
            yield f"token: {status}", self._run(*again)
        yield "token: no profile", self._run("token", configuration="missing.toml")

    def _list(self) -> Iterator[tuple[str, Record]]:
        yield "keys", self._run("keys", "--key", f"pfx:{self._folder}/app.pfx?password=env:APP_PASSWORD")
        yield "keys: none", self._run("keys", "--key", f"pem:{self._folder}/none-*.pem")
        yield "keys: all that a store can report", self._run_scripted(DESCRIBED, "keys", "--key", "{able}")
        yield "keys: unsupported", self._run_scripted("", "keys", "--key", "{plain}")
        yield "stores", self._only_built_in(self._run("stores"))
        for scheme in ("pfx", "pem"):
            yield f"stores {scheme}", self._run("stores", scheme)
        yield "stores: not installed", self._run("stores", "yubikey")

    def _change(self) -> Iterator[tuple[str, Record]]:
        copy = f"pem:{self._folder}/copy.pem"
        yield "import", self._run("import", "--from", self._key, "--key", copy)
        yield "import: file exists", self._run("import", "--from", self._key, "--key", copy)
        yield "install", self._run("install", f"{self._folder}/app.cer", "--key", copy)
        yield (
            "install: another key's",
            self._run("install", f"{self._folder}/app.cer", "--key", f"pem:{self._folder}/ec.pem"),
        )
        yield "install: no such file", self._run("install", f"{self._folder}/missing.cer", "--key", copy)
        certificate = ("--certificate", f"{self._folder}/exported.cer")
        yield "export certificate", self._run("export", "--key", copy, *certificate)
        yield "export certificate: file exists", self._run("export", "--key", copy, *certificate)
        yield "export JWKS", self._run("export", "--key", copy, "--jwks", f"{self._folder}/jwks.json")
        password = ("--password", "env:APP_PASSWORD")
        yield "export PFX", self._run("export", "--key", copy, "--pfx", f"{self._folder}/copy.pfx", *password)
        unset = ("--password", "env:UNSET_VARIABLE")
        yield "export PFX: no password", self._run("export", "--key", copy, "--pfx", f"{self._folder}/c.pfx", *unset)
        yield "delete: not pinned", self._run("delete", "--yes", "--key", copy)
        yield "delete: not confirmed", self._run("delete", "--key", copy)
        pinned = json.loads(self._text("keys", "--key", copy, "--output", "json"))[0]["uri"]
        yield "delete", self._run("delete", "--yes", "--key", pinned)
        yield "delete: no such key", self._run("delete", "--yes", "--key", pinned)
        yield "grant", self._run_scripted("", "grant", "nightly", "--key", "{able}")
        yield "grant --list", self._run_scripted("", "grant", "--list", "--key", "{able}")
        yield "grant --revoke", self._run_scripted("", "grant", "--revoke", "operator", "--key", "{able}")
        yield "grant: unsupported", self._run("grant", "--list", "--key", self._key)
        measured = self._run("bench", "--count", "1", "--algorithm", "ES256", f"pem:{self._folder}/ec.pem")
        yield "bench", self._without_figures(measured)
        yield "bench: no such file", self._run("bench", "--count", "1", f"pem:{self._folder}/missing.pem")
        yield "doctor", self._run("doctor", "--unseal")
        yield "doctor: unwritable state", self._run("doctor", "--unseal", STATE_DIRECTORY="/dev/null/state")
        demo = self._run("demo")
        demo["output"] = demo["output"][:6]  # the following steps need a PKCS#11 module
        yield "demo", demo

    def _fail_in_store(self) -> Iterator[tuple[str, Record]]:
        folder = self._folder
        for name, uri in {
            "no such file": f"pfx:{folder}/missing.pfx",
            "no password": f"pfx:{folder}/app.pfx",
            "variable not set": f"pfx:{folder}/app.pfx?password=env:UNSET_VARIABLE",
            "wrong password": f"pfx:{folder}/app.pfx?password=env:WRONG",
            "not a PFX": f"pfx:{folder}/text.pfx",
            "several keys": f"pem:{folder}/app-*.pem",
            "another key": f"pfx:path={folder}/app.pfx;spki-sha256={'0' * 64}?password=env:APP_PASSWORD",
            "certificate of another key": f"pem:{folder}/ec.pem?certificate-file={folder}/app.cer",
            "readable by everyone": f"pem:{folder}/open.pem",
            "unknown scheme": "yubikey:slot=9c",
            "not a URI": "app.pfx",
        }.items():
            if name == "readable by everyone":
                (folder / "open.pem").write_bytes((folder / "ec.pem").read_bytes())
                (folder / "open.pem").chmod(0o644)
            yield f"sign: {name}", self._run("sign", "--key", uri, str(folder / "message"))
        for error in (
            "Throttled('slow down', hint='Wait.', retry_after=3600.0)",
            "StoreUnavailable('gone', hint='Wait.')",
            "SessionLost('gone', hint='Connect again.')",
            "StoreLocked('locked', hint='Unlock it.')",
            "AccessDenied('no', hint='Ask.')",
            "KeyUnusable('no', hint='Ask.')",
        ):
            prepare = f"script.always['connect'] = errors.{error}"
            yield f"sign: {error.partition('(')[0]}", self._run_scripted(prepare, "sign", "--key", "{plain}")

    def _defects(self) -> Iterator[tuple[str, Record]]:
        for name, prepare in {
            "a store raises ValueError": "script.always['open'] = ValueError('wrong')",
            "a store signs wrongly": "script.signing = lambda *_: bytes(64)",
            "a store exits": "script.always['open'] = SystemExit(0)",
        }.items():
            yield f"sign: {name}", self._run_scripted(prepare, "sign", "--key", "{plain}")

    def _run(self, *arguments: str, configuration: str = "config.toml", **variables: str) -> Record:
        variables["KEYVOUCH_CONFIG"] = str(self._folder / configuration)
        return self._record(["-m", "keyvouch", *arguments, "--output", "json"], arguments, variables)

    def _run_scripted(self, prepare: str, *arguments: str) -> Record:
        program = SCRIPTED.replace("{prepare}", prepare.strip())
        folders = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        if recording := os.environ.get("SCRIPTED_STORE"):  # an older version's
            folders = os.pathsep.join([recording, folders])
        return self._record(["-c", program, *arguments, "--output", "json"], arguments, {"PYTHONPATH": folders})

    def _record(self, command: list[str], shown: tuple[str, ...], variables: dict[str, str]) -> Record:
        done = self._process(command, variables)
        record = {
            "arguments": list(shown),
            "status": done.returncode,
            "output": _parsed(done.stdout),
            "errors": _parsed(done.stderr),
        }
        return dict(normalised(json.loads(self._without_folders(json.dumps(record)))))

    def _process(self, command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", *command],
            env={**self._environment, **variables},
            cwd=self._folder,
            input="",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def _text(self, *arguments: str) -> str:
        return self._process(["-m", "keyvouch", *arguments], {}).stdout

    def _without_folders(self, text: str) -> str:
        for path, name in (
            (str(self._folder), "$FOLDER"),
            (sys.prefix, "$PREFIX"),
        ):
            text = text.replace(path, name)
        return text

    @staticmethod
    def _only_built_in(record: Record) -> Record:
        return {**record, "output": [each for each in record["output"] if each["distribution"] == "keyvouch"]}

    @staticmethod
    def _without_figures(record: Record) -> Record:
        """Return the result of a benchmark without what depends on the machine."""
        output = record["output"] | {"versions": "<VERSIONS>"}
        output["machine"] = {name: type(value).__name__ for name, value in output["machine"].items()}
        output["findings"] = [type(each).__name__ for each in output["findings"]]
        output["keys"] = [each | {"memory": type(each["memory"]).__name__} for each in output["keys"]]
        output["measurements"] = [each | {"histogram": "<HISTOGRAM>"} for each in output["measurements"]]
        return {**record, "output": output}

    @contextlib.contextmanager
    def _variables(self) -> Iterator[None]:
        before = os.environ.get("APP_PASSWORD")
        os.environ["APP_PASSWORD"] = PASSWORD
        try:
            yield
        finally:
            os.environ.pop("APP_PASSWORD")
            if before is not None:
                os.environ["APP_PASSWORD"] = before


def _parsed(text: str) -> object:
    """Return the JSON value; "text" for anything else, such as a warning or click's own errors."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return "text"


def play() -> dict[str, Record]:
    """Run all commands and return their records by the cases' names."""
    with tempfile.TemporaryDirectory(prefix="keyvouch-json-") as folder, Authority() as authority:
        return dict(Scenario(Path(folder), authority).play())


if __name__ == "__main__":
    json.dump(play(), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
