"""The return values of modules that are handled by name."""

import pytest

from keyvouch_pkcs11 import cryptoki, errors, token

HANDLED = {
    *errors.SESSION_LOST,
    *errors.REQUIRES_INITIALIZATION,
    *errors.UNSUPPORTED,
    *errors._UNSUPPORTED_KEY_TYPE,
    *errors._ERRORS,
    *token._ENDED_SESSION,
}


@pytest.mark.parametrize("name", sorted(HANDLED))
def test_handled_name_has_a_number(name: str) -> None:
    """A return value without its number in `RETURN_VALUES` would never be recognized by name."""
    assert name in cryptoki.RETURN_VALUES
