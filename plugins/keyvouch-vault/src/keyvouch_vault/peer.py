"""Signatures by a bare POST to transit through urllib3, for comparison with keyvouch."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from hvac.exceptions import VaultError

from keyvouch.errors import Throttled
from keyvouch_vault.key import signing_parameters
from keyvouch_vault.transit import KeyPath, decode_signature

if TYPE_CHECKING:
    from urllib3 import HTTPConnectionPool

    from keyvouch.algorithms import Algorithm
    from keyvouch.uri import KeyUri


def make_peer(
    pool: HTTPConnectionPool, headers: dict[str, str], uri: KeyUri, algorithm: Algorithm
) -> Callable[[bytes], bytes]:
    """Return a function that signs with the key version of a pinned URI.

    It raises urllib3's errors, and for a response that reports an error `Throttled` or hvac's.
    """
    path, version = KeyPath.of(uri), uri.get("version")
    url = quote(f"/v1/{path.mount}/sign/{path.name}")
    parameters = {"key_version": version, **signing_parameters(algorithm)}
    hash_name = algorithm.hash_name

    def sign(message: bytes) -> bytes:
        data = hashlib.new(hash_name, message).digest() if hash_name else message
        body = json.dumps({"input": base64.b64encode(data).decode(), **parameters})
        response = pool.urlopen("POST", url, body=body, headers=headers)
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise Throttled("The server limits the rate.")
        if response.status != HTTPStatus.OK:
            raise VaultError.from_status(response.status, f"HTTP status {response.status}")
        return decode_signature(response.json()["data"]["signature"], version)

    return sign
