"""The advice given for each refusal."""

from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyvouch._core import environment
from keyvouch.entra import aadsts_advice
from keyvouch.entra.assertion import choose_algorithm
from keyvouch.entra.client_key import UsedKey
from keyvouch.errors import AlgorithmUnsupported
from stores.key_material import new_key, pem_of


@pytest.mark.parametrize("code", sorted(aadsts_advice.ADVICE))
def test_every_code_has_advice(code: int) -> None:
    """A known code has its own advice, and says whether another key could help."""
    refused = aadsts_advice.authority_refused({"error": "invalid_client", "error_codes": [code]}, None)

    assert refused.hint == aadsts_advice.ADVICE[code]
    assert refused.try_next_key is (code in aadsts_advice.KEY_REFUSED)


def test_trace_id_is_removed() -> None:
    """Trace ID and timestamp are removed from the text; the correlation id is kept as an attribute."""
    refused = aadsts_advice.authority_refused(
        {
            "error": "invalid_client",
            "error_description": "AADSTS700016: Not found. Trace ID: 1 Correlation ID: 2 Timestamp: 3",
            "error_codes": [700016],
            "correlation_id": "2",
        },
        None,
    )

    assert refused.message == "The authority refused the request: AADSTS700016: Not found."
    assert refused.correlation_id == "2"


@pytest.mark.parametrize("field", ["error", "error_description"])
def test_assertion_that_the_server_repeats(field: str) -> None:
    """A server may quote the assertion, which is valid for some minutes: the error does not repeat it."""
    assertion = jwt.encode({"aud": "x"}, pem_of(new_key("P-256")), "ES256")
    refused = aadsts_advice.authority_refused({field: f"Invalid client_assertion={assertion}."}, None)
    assert refused.message == "The authority refused the request: Invalid client_assertion=..."
    assert assertion[-40:] not in f"{refused} {refused.error}"


def test_long_list_of_algorithms() -> None:
    """What a server lists is quoted only in part."""
    listed = ("none", *(f"X{number}" for number in range(10_000)))
    with pytest.raises(AlgorithmUnsupported, match="only the algorithms none, X0") as caught:
        choose_algorithm(new_key().public_key(), listed, "pem:a", "")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("result", [{}, {"error": None, "error_codes": None}, {"error": "x", "error_description": ""}])
def test_refusal_without_a_reason(result: dict[str, object]) -> None:
    """A refusal without any reason is still an error with a hint."""
    assert aadsts_advice.authority_refused(result, None).hint


@pytest.mark.parametrize(
    ("description", "refused"),
    [
        ("Key 'key-2025' not found.", True),
        ('Key "key-2025" not found.', True),
        ("Missing parameter.", False),
        ("Invalid parameter 'key-2025a'.", False),
        (None, False),
    ],
)
def test_invalid_request(description: str | None, *, refused: bool) -> None:
    """An invalid request refuses the key only if the description quotes its `kid`; the hint then says what was sent."""
    key = UsedKey("pem:app.pem", ec.generate_private_key(ec.SECP256R1()).public_key(), None, header={"kid": "key-2025"})

    error = aadsts_advice.authority_refused({"error": "invalid_request", "error_description": description}, key)

    assert error.try_next_key is refused
    assert ("Sent: kid key-2025." in error.hint) is refused


@pytest.mark.parametrize(
    ("error", "description"),
    [
        ("invalid_dpop_proof", "The DPoP proof JWT header is missing."),
        ("invalid_request", "DPoP proof is missing"),
        ("use_dpop_nonce", None),
    ],
)
def test_dpop_is_required(error: str, description: str | None) -> None:
    """A server that demands proof of possession cannot get it: the client must be registered without."""
    hint = aadsts_advice.authority_refused({"error": error, "error_description": description}, None).hint
    assert (
        hint == "Turn off DPoP (proof of possession) for this client at the authority: keyvouch sends no DPoP header."
    )


@pytest.mark.parametrize(
    ("profile", "place"),
    [
        ("", "algorithm or audience in the argument assertion={...} (of the command: in the table of a profile)"),
        ("nightly", "in the profile's table assertion"),
        (environment.NAME, "KEYVOUCH_ASSERTION_AUDIENCE"),
    ],
)
def test_where_options_are_set(profile: str, place: str) -> None:
    """Options for assertions are set where the client's settings are: in its arguments, if it has no profile."""
    key = UsedKey("pem:app.pem", ec.generate_private_key(ec.SECP256R1()).public_key(), None, profile=profile)
    assert place in aadsts_advice.authority_refused({"error": "invalid_client"}, key).hint


def test_invalid_request_without_kid() -> None:
    """If no `kid` was sent, an invalid request does not refuse the key."""
    key = UsedKey("pem:app.pem", ec.generate_private_key(ec.SECP256R1()).public_key(), None)

    assert not aadsts_advice.refuses_key({"error": "invalid_request", "error_description": "kid ''"}, key)
