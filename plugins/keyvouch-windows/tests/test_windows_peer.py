"""The peer of a key in Windows, on a double of the DLLs; `test_windows_cng` and the kit use real ones."""

from __future__ import annotations

import pytest

from keyvouch.errors import AlgorithmUnsupported
from keyvouch_windows.crypt32 import Container
from keyvouch_windows.error_codes import CODES
from keyvouch_windows.native import NativeError
from peers import compared
from scripted_keys import OLD_CSP, SOFTWARE, make_key
from scripted_store import is_signed
from scripted_windows import ScriptedWindows, pinned

IN_CNG, IN_CSP = Container(SOFTWARE, "app"), Container(OLD_CSP, "app", 1, spec=1)


@pytest.mark.parametrize(
    ("container", "kind", "algorithm"),
    [
        *((IN_CNG, "RSA-2048", f"{family}{bits}") for family in ("RS", "PS") for bits in (256, 384, 512)),
        (IN_CNG, "ECDSA_P256", "ES256"),
        (IN_CNG, "ECDSA_P521", "ES512"),
        (IN_CSP, "RSA-2048", "RS256"),
        (IN_CSP, "RSA-2048", "RS512"),
    ],
)
def test_peer_signs_until_the_store_is_closed(
    scripted: ScriptedWindows, container: Container, kind: str, algorithm: str
) -> None:
    """The peer signs with a handle of its own, which is released when the store is closed."""
    certificate = scripted.add(make_key(kind), container)
    with compared(pinned(certificate), algorithm) as (_, key, peer):
        key.close()
        assert is_signed(key.public_key, peer(b"message"), b"message", algorithm)
    scripted.assert_all_released()


def test_legacy_provider_has_no_pss(scripted: ScriptedWindows) -> None:
    """An algorithm that the provider does not support has no peer, and no handle is left."""
    certificate = scripted.add(make_key("RSA-2048"), IN_CSP)
    with pytest.raises(AlgorithmUnsupported), compared(pinned(certificate), "PS256"):
        pass
    scripted.assert_all_released()


@pytest.mark.parametrize(("container", "function"), [(IN_CNG, "NCryptSignHash"), (IN_CSP, "CryptSignHashW")])
def test_failure_is_not_translated(scripted: ScriptedWindows, container: Container, function: str) -> None:
    """A failed signature raises Windows' code, and leaves no handle."""
    certificate = scripted.add(make_key("RSA-2048"), container)
    with compared(pinned(certificate), "RS256") as (_, _, peer):
        scripted.fail(function, CODES["NTE_PERM"])
        with pytest.raises(NativeError) as caught:
            peer(b"message")
        assert caught.value.code == CODES["NTE_PERM"]
    scripted.assert_all_released()
