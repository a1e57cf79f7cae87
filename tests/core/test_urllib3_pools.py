"""The private names of urllib3 that keyvouch relies on still exist and do what they did."""

from __future__ import annotations

import pytest
from urllib3.connection import HTTPConnection, HTTPSConnection

from keyvouch._system.urllib3_pools import POOL_CLASSES


class Called(Exception):
    """`_new_conn` was called."""


@pytest.mark.parametrize("kind", [HTTPConnection, HTTPSConnection])
def test_new_conn_creates_the_socket(kind: type[HTTPConnection], monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib3's own `connect` gets its socket from `_new_conn`, which can be overridden."""

    def fail(_: HTTPConnection) -> None:
        raise Called

    monkeypatch.setattr(HTTPConnection, "_new_conn", fail)
    with pytest.raises(Called):
        kind("vault.test").connect()


@pytest.mark.parametrize("name", ["vault.test", "vault.test.", "[::1]"])
def test_dns_host_is_the_name_to_look_up(name: str) -> None:
    """`_dns_host` is the name as given, with the final dot, which `host` does not have."""
    assert HTTPConnection(name)._dns_host.strip("[]") == name.strip("[]")


@pytest.mark.parametrize(("scheme", "kind"), [("http", HTTPConnection), ("https", HTTPSConnection)])
def test_pools_make_our_connections(scheme: str, kind: type[HTTPConnection]) -> None:
    """Each scheme's pool makes connections of a class of our own, derived from urllib3's."""
    connection = POOL_CLASSES[scheme]("vault.test").ConnectionCls
    assert issubclass(connection, kind)
    assert connection._new_conn is not HTTPConnection._new_conn
