"""The store passes the conformance kit, which interrupts and stalls a relay between the store and the agent."""

import os
import subprocess
import time

import pytest

from keyvouch.testing import Relay, StoreConformance


class TestAgentStore(StoreConformance):
    unsupported = (
        *("certificate", "family", "long", "PS256", "PS384", "PS512", "RS384"),
        *("secret", "proxy", "replaced"),
        *("generate", "import", "request", "install", "delete", "export", "grant", "peer"),
    )

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _agent(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("agent")
        path = folder / "socket"
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            for number, kind in enumerate(("rsa", "ecdsa", "ed25519", "rsa", "rsa")):
                file, comment = folder / str(number), kind if number < 3 else "twin"
                subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", file], check=True)
                subprocess.run(["ssh-add", "-q", file], env={**os.environ, "SSH_AUTH_SOCK": str(path)}, check=True)
            with Relay(str(path)) as cls.relay:
                cls.prefix = f"ssh-agent:socket={cls.relay.address};comment="
                cls.uri = cls.rsa_uri = f"{cls.prefix}rsa"
                cls.ec_uri = f"{cls.prefix}ecdsa"
                cls.ed25519_uri = f"{cls.prefix}ed25519"
                cls.missing_uri = f"{cls.prefix}missing"
                cls.ambiguous_uri = f"{cls.prefix}twin"
                yield
        finally:
            agent.kill()
            agent.wait()
