"""`keyvouch doctor --unseal`"""

from __future__ import annotations

import json

import pytest

from keyvouch._secrets import pin_attempts
from keyvouch.errors import SecretIncorrect
from signing_in import run


def try_pin(pin: str) -> str:
    """Try a PIN on a token whose PIN is 1234."""
    try:
        with pin_attempts.single_try("token 1", lambda: pin):
            if pin != "1234":
                raise SecretIncorrect("wrong")  # noqa: TRY301 - it is to leave the block
    except SecretIncorrect as error:
        return error.message
    return "good"


def test_refused_pin_is_tried_again_after_unseal() -> None:
    """A refused PIN is not tried again until it is unsealed."""
    assert try_pin("0000") == "wrong"
    assert "rejected earlier" in try_pin("0000")
    assert "1 token" in run("doctor", "--unseal").output
    assert try_pin("0000") == "wrong"


@pytest.mark.parametrize("tokens", [0, 2])
def test_unseal_counts_tokens(tokens: int) -> None:
    """The JSON output has the number of tokens concerned."""
    for number in range(tokens):
        with pytest.raises(SecretIncorrect), pin_attempts.single_try(f"token {number}", lambda: "0000"):
            raise SecretIncorrect("wrong")

    assert json.loads(run("doctor", "--unseal", "--output", "json").output) == {"tokens": tokens}


def test_doctor_requires_an_option() -> None:
    """`doctor` requires a task; there is only one so far."""
    assert run("doctor").status == 2
