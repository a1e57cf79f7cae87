"""A private key that someone passes where it does not belong is never printed."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

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


def _private_bytes(kind: str, form: PrivateFormat, encoding: Encoding = Encoding.DER) -> bytes:
    return bytes(new_key(kind).private_bytes(encoding, form, NoEncryption()))


ED25519 = _private_bytes("Ed25519", PrivateFormat.PKCS8)
JWK = (
    '{"crv": "Ed25519", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",'
    ' "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kty": "OKP"}'
)
"""From RFC 8037, appendix A.1."""
FORMS = {
    "Ed25519": ED25519,
    "P-256": _private_bytes("P-256", PrivateFormat.PKCS8),
    "P-256, older": _private_bytes("P-256", PrivateFormat.TraditionalOpenSSL),
    "RSA": _private_bytes("RSA-2048", PrivateFormat.PKCS8),
    "short PEM": _private_bytes("Ed25519", PrivateFormat.PKCS8, Encoding.PEM),
    "JWK": JWK.encode(),
    "OpenSSH": b64decode(
        "".join(_private_bytes("Ed25519", PrivateFormat.OpenSSH, Encoding.PEM).decode().split("\n")[1:-2])
    ),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", FORMS)
def test_key_in_base64(kind: str, times: int) -> None:
    """A key is recognized in each encoding in which one is accepted: base64, also twice, however short the key is."""
    text = FORMS[kind]
    for _ in range(times):
        text = b64encode(text)
    done = run("sign", "--key", text.decode())
    assert "got the key itself" in done.errors
    assert text.decode()[-50:] not in done.errors


@pytest.mark.parametrize("changes", [('"', '\\"'), ('"', ""), ('"', "'")])
def test_jwk_after_a_shell(changes: tuple[str, str]) -> None:
    """A JWK is recognized too if its quotation marks were escaped, removed or replaced."""
    done = run("sign", "--key", JWK.replace(*changes))
    assert "got the key itself" in done.errors
    assert "nWGxne" not in done.errors


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
