"""An adapter that sends hvac's requests through `keyvouch.https`.

hvac's own adapter sends the token to any host after a redirect, retries nothing, has no overall timeout, and takes
twice as long for a P-256 signature. This one keeps hvac's interface.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import hvac
from hvac.adapters import Adapter
from hvac.exceptions import VaultError

from keyvouch.errors import StoreUnavailable, Throttled
from keyvouch.https import Pools, retry_after
from keyvouch_vault.responses import Response, error_texts

if TYPE_CHECKING:
    from keyvouch.uri import KeyUri

_TOO_MANY_REQUESTS, _BAD_REQUEST = 429, 400
_REDIRECTS = range(300, 400)


class PoolAdapter(Adapter):  # type: ignore[misc]  # hvac has no types
    """An adapter that sends hvac's requests through urllib3 pools; each response is a `Response`."""

    pools: Pools

    def close(self) -> None:
        """Close the connections, which other clients may also use."""
        self.pools.close()

    def get_login_token(self, response: Any) -> Any:
        """Not implemented: only hvac's own login methods call this, and they are not used."""
        raise NotImplementedError

    def own_headers(self) -> dict[str, str]:
        """Return the headers of every request, with the token and the namespace."""
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if self.token:
            headers["X-Vault-Token"] = self.token
        if self.namespace:
            headers["X-Vault-Namespace"] = self.namespace
        return headers

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **options: Any) -> Response:
        """Send one request. Raises hvac's `VaultError` if the server refuses it, else keyvouch's errors."""
        content = options.get("json")
        sent = [each for each in {**(headers or {}), **(content or {})}.values() if isinstance(each, str)]
        headers = {**(headers or {}), **self.own_headers()}
        if self.token:
            sent.append(self.token)
        body = json.dumps(content).encode() if content is not None else None
        reply = self.pools.request(method.upper(), self.base_uri + url, body, headers)
        status = reply.status
        if status in _REDIRECTS:
            raise StoreUnavailable(
                "The server returned a redirect, which is not followed because the request contains a token.",
                hint="Use the address of the active server, or of a load balancer that routes requests to it.",
            )
        if status == _TOO_MANY_REQUESTS:
            raise Throttled(
                f"Too many requests to {self.base_uri}.",
                hint="Raise the server's rate limit quota, or send fewer requests.",
                retry_after=retry_after(reply.headers),
            )
        if status >= _BAD_REQUEST:
            errors = error_texts(reply, self.base_uri, sent)
            raise VaultError.from_status(status, None, errors=errors, method=method, url=url)
        return Response(reply, self.base_uri, sent)


def make_client(pools: Pools, uri: KeyUri, token: str = "") -> Any:
    """Return an hvac client that uses the pools. The default token is empty: for None, hvac reads ~/.vault-token."""
    client = hvac.Client(
        url=uri.get("address"),
        token=token,
        adapter=PoolAdapter,
        namespace=uri.get("namespace"),
        session=_UnusedSession(),
    )
    client.adapter.pools = pools
    return client


class _UnusedSession:
    """A placeholder for the `requests` session that hvac would create and never use."""

    verify = cert = proxies = None
