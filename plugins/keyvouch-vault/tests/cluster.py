"""Three servers with shared storage, on loopback behind haproxy, which routes all requests to the active one."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openbao import Server, free_port

_RAFT = """storage "raft" {{
  path                   = "{folder}/data"
  node_id                = "{name}"
  performance_multiplier = 1
  {join}
}}"""
_JOIN = """retry_join {{
    leader_api_addr     = "{address}"
    leader_ca_cert_file = "{ca_file}"
  }}"""
_HAPROXY = """
defaults
  mode tcp
  timeout connect 1s
  timeout client 60s
  timeout server 60s
listen vault
  bind 127.0.0.1:{port}
  option httpchk GET /v1/sys/health
  default-server check inter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
  default-server check-ssl check-sni localhost verify required verifyhost localhost ca-file {ca_file}
{servers}
"""
_TIMEOUT = 60.0
"""Timeout in seconds for what a cluster does on its own, which usually takes a few."""


class Cluster:
    """Three nodes behind a load balancer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"https://localhost:{self.port}"
        self.nodes: list[Server] = []
        for name in ("one", "two", "three"):
            node_folder = folder / name
            node_folder.mkdir()
            first = self.nodes[0] if self.nodes else None
            join = _JOIN.format(address=first.address, ca_file=first.ca_file) if first else ""
            storage = _RAFT.format(folder=node_folder, name=name, join=join)
            self.nodes.append(Server(node_folder, storage, first))
        self.ca_file = self.nodes[0].ca_file
        servers = "\n".join(f"  server {each.folder.name} 127.0.0.1:{each.port}" for each in self.nodes)
        (folder / "haproxy.cfg").write_text(_HAPROXY.format(port=self.port, ca_file=self.ca_file, servers=servers))
        self._balancer: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the nodes, and wait until they form a cluster."""
        first = self.nodes[0]
        first.start()
        first.write("sys/storage/raft/autopilot/configuration", server_stabilization_time="1s")
        for node in self.nodes[1:]:
            node.launch()
        with (self.folder / "haproxy.log").open("ab") as log:
            self._balancer = subprocess.Popen(
                ["haproxy", "-db", "-f", str(self.folder / "haproxy.cfg")], stdout=log, stderr=log
            )
        self.wait_until_healthy()

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        if self._balancer is not None:
            self._balancer.kill()
            self._balancer.wait()

    @property
    def active(self) -> Server:
        """The leader."""
        return next(each for each in self.nodes if self._is_active(each))

    def wait_until_healthy(self) -> None:
        """Wait until all three nodes are voters and follow one leader."""
        wait_until(self._is_healthy)

    def has_new_leader(self, former: Server) -> bool:
        """Return whether a node other than the former leader leads."""
        return any(self._is_active(each) for each in self.nodes if each is not former)

    def _is_active(self, node: Server) -> bool:
        with contextlib.suppress(Exception):  # it is not running, or not yet
            return bool(node.client().sys.read_leader_status()["is_self"])
        return False

    def _is_healthy(self) -> bool:
        with contextlib.suppress(Exception):  # no node leads at the moment
            for node in self.nodes:
                node.wait(5)
            state = self.active.admin.adapter.get("/v1/sys/storage/raft/autopilot/state")["data"]
            return bool(state["healthy"]) and len(state["voters"]) == len(self.nodes)
        return False


def wait_until(done: Callable[[], bool]) -> None:
    """Wait until `done` returns true."""
    end = time.monotonic() + _TIMEOUT
    while not done():
        assert time.monotonic() < end, "timed out waiting for the cluster"
        time.sleep(0.1)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        for node in made.nodes:
            shutil.rmtree(node.folder / "data", ignore_errors=True)
            node.audit.unlink(missing_ok=True)
