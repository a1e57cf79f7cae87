"""A private key that someone passes where it does not belong is never printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from signing_in import run
from stores.key_material import new_key, pem_of

KEY = new_key()
PEM = pem_of(KEY).decode()
SECRET = PEM.splitlines()[2][:30]


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", PEM),
        (PEM,),
        ("--config", PEM, "profile", "list"),
        ("assertion", "--key", "pem:a", "--client-id", "x", "--tenant", PEM.replace("\n", "")),
        ("sign", "--key", "pem:a", PEM),
        ("token", f"--ca-file={PEM}"),
        ("token", "--output", "json", "--tenant", PEM),
        ("profile", "show", PEM),
    ],
)
def test_key_as_an_argument(arguments: tuple[str, ...]) -> None:
    """It is refused before anything else, and the error says where a key belongs."""
    done = run(*arguments)
    assert done.status == 2
    assert "got the key itself" in done.errors
    assert "write pem:env:APP_KEY" in done.errors
    assert SECRET not in done.errors + done.output


@pytest.mark.parametrize("variable", ["KEYVOUCH_TENANT", "KEYVOUCH_CONFIG", "KEYVOUCH_PROFILE", "KEYVOUCH_CLIENT_ID"])
def test_key_in_a_variable_for_something_else(variable: str) -> None:
    """The error names the variable."""
    done = run("assertion", environment={variable: PEM})
    assert f"{variable} contains the key itself" in done.errors
    assert SECRET not in done.errors


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_key_in_a_field_of_a_profile(tmp_path: Path, output: str, debug: tuple[str, ...]) -> None:
    """An error that quotes a value omits the key in it, and is still valid JSON."""
    key, config = tmp_path / "app.pem", tmp_path / "config.toml"
    key.write_text(PEM)
    key.chmod(0o600)
    fields = f'tenant = "t"\nclient-id = "c"\nkeys = ["pem:{key}"]\nassertion = {{ algorithm = {json.dumps(PEM)} }}'
    config.write_text(f"[profiles.n]\n{fields}\n")
    done = run(*debug, "--config", str(config), "assertion", "--output", output)
    assert done.status == 2
    assert "Unknown signature algorithm" in done.errors
    assert SECRET not in done.errors
    if output == "json" and not debug:
        assert json.loads(done.errors)["error"]["code"] == "configuration"
