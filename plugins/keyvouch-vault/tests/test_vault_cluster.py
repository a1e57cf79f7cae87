"""A cluster behind a load balancer loses a node: callers that are signing notice nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import keyvouch
from cluster import Cluster, wait_until
from vault_keys import signing

# One cluster for all tests, because it is slow to start; hence a single pytest-xdist worker.
pytestmark = [pytest.mark.server, pytest.mark.xdist_group("vault-cluster")]


@pytest.fixture
def signer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[keyvouch.Signer]:
    """A key in the cluster, with a login that is renewed every two seconds, even during an election."""
    cluster.wait_until_healthy()
    leader = cluster.active
    leader.write("auth/approle/role/brief", token_policies=["keys"], token_ttl="3s")
    leader.write("transit/keys/app", type="ecdsa-p256")
    monkeypatch.setenv("ROLE_SECRET", leader.secret_id("brief"))
    login = f"auth=approle&role-id={leader.role_id('brief')}&secret-id=env:ROLE_SECRET"
    uri = f"vault:address={cluster.address};key=app?{login}&ca-file={cluster.ca_file}"
    with keyvouch.open_signer(uri) as opened:
        yield opened


def test_leader_is_killed(cluster: Cluster, signer: keyvouch.Signer) -> None:
    """If the leader dies, eight threads wait until another is elected."""
    leader = cluster.active
    with signing(signer) as work:
        leader.kill()
        wait_until(lambda: cluster.has_new_leader(leader))
    leader.launch()
    assert work.failures == []


def test_node_is_sealed(cluster: Cluster, signer: keyvouch.Signer) -> None:
    """A sealed leader still responds, but refuses everything."""
    leader = cluster.active
    with signing(signer) as work:
        leader.write("sys/seal")
        wait_until(lambda: cluster.has_new_leader(leader))
    leader.stop()
    leader.launch()
    assert work.failures == []


def test_nodes_are_restarted(cluster: Cluster, signer: keyvouch.Signer) -> None:
    """All nodes are restarted one after the other, with the leader last, as for an upgrade."""
    followers = [each for each in cluster.nodes if each is not cluster.active]
    with signing(signer) as work:
        for node in (*followers, cluster.active):
            node.stop()
            work.wait_for_more()
            node.launch()
            cluster.wait_until_healthy()
    assert work.failures == []


def test_leader_steps_down(cluster: Cluster, signer: keyvouch.Signer) -> None:
    """The leader steps down, and keeps running as a standby of the new one.

    This test is last: for ten seconds the node will not lead again, even if the others vote for it.
    """
    leader = cluster.active
    with signing(signer) as work:
        leader.admin.sys.step_down()
        wait_until(lambda: cluster.has_new_leader(leader))
    assert work.failures == []
