"""A store's key as a key of joserfc or jwcrypto: it signs, and has only public members."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jwcrypto.jwk
import jwcrypto.jws
import jwt
import pytest
from joserfc import jwk, jws

from keyvouch import Signer
from keyvouch.errors import NotSupported
from keyvouch.private_key import joserfc_key, jwcrypto_key
from keyvouch.testing.throwaway import throwaway_signer

KEYS = [
    *(("RSA-2048", name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    *(("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"), ("Ed25519", "EdDSA")),
]
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi"}

pytestmark = pytest.mark.filterwarnings("ignore:.*EdDSA.*")  # joserfc: Ed25519 is its name now


@pytest.fixture(scope="module")
def signers() -> Iterator[dict[str, Signer]]:
    opened = {kind: throwaway_signer(kind) for kind in dict(KEYS)}
    yield opened
    for signer in opened.values():
        signer.close()


def payload(token: str, signer: Signer, algorithm: str) -> Any:
    """Verify a compact JWS with PyJWT."""
    return jwt.api_jws.decode(token, signer.public_key, algorithms=[algorithm])


@pytest.mark.parametrize(("kind", "algorithm"), KEYS)
def test_joserfc_signs(signers: dict[str, Signer], kind: str, algorithm: str) -> None:
    """Every algorithm that the key supports, verified by PyJWT."""
    key = joserfc_key(signers[kind].private_key())
    token = jws.serialize_compact({"alg": algorithm}, b"message", key, algorithms=[algorithm])

    assert payload(token, signers[kind], algorithm) == b"message"


@pytest.mark.parametrize(("kind", "algorithm"), KEYS)
def test_jwcrypto_signs(signers: dict[str, Signer], kind: str, algorithm: str) -> None:
    """Every algorithm that the key supports, verified by PyJWT."""
    token = jwcrypto.jws.JWS(b"message")
    token.allowed_algs = [algorithm]
    token.add_signature(jwcrypto_key(signers[kind].private_key()), protected=json.dumps({"alg": algorithm}))

    assert payload(token.serialize(compact=True), signers[kind], algorithm) == b"message"


@pytest.mark.parametrize("kind", dict(KEYS))
def test_members_are_public(signers: dict[str, Signer], kind: str) -> None:
    """The JWK has the public members, those that the caller adds, and nothing private."""
    private_key = signers[kind].private_key()
    of_joserfc = joserfc_key(private_key, kid="2026", use="sig")
    of_jwcrypto = jwcrypto_key(private_key, kid="2026", use="sig")

    assert of_joserfc.as_dict(private=True) == json.loads(of_jwcrypto.export())
    assert of_joserfc.kid == "2026"
    assert not PRIVATE_MEMBERS & {*of_jwcrypto}
    assert of_joserfc.thumbprint() == of_jwcrypto.thumbprint()


def test_libraries_still_verify_with_it(signers: dict[str, Signer]) -> None:
    """The public half is there too: the same key object verifies."""
    key = signers["P-256"].private_key()
    token = jws.serialize_compact({"alg": "ES256"}, b"message", joserfc_key(key))

    assert jws.deserialize_compact(token, joserfc_key(key)).payload == b"message"
    verifier = jwcrypto.jws.JWS()
    verifier.deserialize(token, jwcrypto_key(key))
    assert verifier.payload == b"message"


@pytest.mark.parametrize("export", [jwcrypto.jwk.JWK.from_pyca, lambda key: jwk.RSAKey(key, key).kid])
def test_export_names_the_adapter(signers: dict[str, Signer], export: Any) -> None:
    """A library that exports the bare key gets an error whose hint names the function to use."""
    with pytest.raises(NotSupported, match="does not leave its store") as caught:
        export(signers["RSA-2048"].private_key())

    assert "joserfc_key" in str(caught.value.hint)
    assert "jwcrypto_key" in str(caught.value.hint)
