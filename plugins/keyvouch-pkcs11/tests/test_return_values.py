"""The return values of modules that are handled by name."""

import pytest

from keyvouch_pkcs11 import cryptoki, error_translation, token

HANDLED = {
    *error_translation.SESSION_LOST,
    *error_translation.REQUIRES_INITIALIZATION,
    *error_translation.UNSUPPORTED,
    *error_translation._UNSUPPORTED_KEY_TYPE,
    *error_translation._ERRORS,
    *token._ENDED_SESSION,
}


@pytest.mark.parametrize("name", sorted(HANDLED))
def test_handled_name_has_a_number(name: str) -> None:
    """A return value without its number in `RETURN_VALUES` would never be recognized by name."""
    assert name in cryptoki.RETURN_VALUES
