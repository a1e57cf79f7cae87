"""The advice given for each refusal."""

from __future__ import annotations

import pytest

from keyvouch.entra import aadsts_advice


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


@pytest.mark.parametrize("result", [{}, {"error": None, "error_codes": None}, {"error": "x", "error_description": ""}])
def test_refusal_without_a_reason(result: dict[str, object]) -> None:
    """A refusal without any reason is still an error with a hint."""
    assert aadsts_advice.authority_refused(result, None).hint
