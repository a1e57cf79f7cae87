"""Valid and invalid `windows:` URIs; these tests do not need Windows."""

from __future__ import annotations

import pytest

from keyvouch._core.opening import parse
from keyvouch.errors import ConfigurationError

SHA1 = "CA20A903F6693D54E8087A25FC2EAB1779E7D69B"
SHA256 = "2868C9406012AB780D6DD9BFC1A02600877F55D68C46E513BA8B0EEE78A33431"
PAIRS = [SHA1[at : at + 2] for at in range(0, len(SHA1), 2)]


@pytest.mark.parametrize(
    "spelled",
    [
        SHA1,
        SHA1.lower(),
        ":".join(PAIRS),  # as OpenSSL prints it
        " ".join(PAIRS).lower(),  # as the certificate dialog shows it
        "\u200e" + " ".join(PAIRS).lower(),  # as copied from there, with an invisible mark
        f"%E2%80%8E{SHA1}",
    ],
)
def test_thumbprint_in_all_spellings(spelled: str) -> None:
    """A thumbprint is accepted in the notation of any tool."""
    assert parse(f"windows:thumbprint={spelled}").get("thumbprint") == SHA1


def test_thumbprint_of_sha256() -> None:
    """SHA-256 thumbprints are accepted too."""
    assert parse(f"windows:thumbprint={SHA256.lower()}").get("thumbprint") == SHA256


@pytest.mark.parametrize("wrong", ["4A5B", "G" * 40, SHA1[:-1]])
def test_invalid_thumbprint_is_refused(wrong: str) -> None:
    """The error describes a valid thumbprint."""
    with pytest.raises(ConfigurationError, match="40 hexadecimal digits"):
        parse(f"windows:thumbprint={wrong}")


@pytest.mark.parametrize("spelled", ["LocalMachine", "localmachine", "LOCALMACHINE"])
def test_location_in_any_case(spelled: str) -> None:
    """Locations are case-insensitive, as in Windows."""
    assert parse(f"windows:location={spelled}").get("location") == "LocalMachine"


def test_invalid_location_lists_the_valid_ones() -> None:
    """The error lists both locations."""
    with pytest.raises(ConfigurationError, match="CurrentUser or LocalMachine"):
        parse("windows:location=Machine")


@pytest.mark.parametrize("name", ["friendly-name", "provider", "container", "store"])
def test_nul_is_refused(name: str) -> None:
    """Windows' strings end at a NUL, so another key than the URI's would be opened or created."""
    with pytest.raises(ConfigurationError, match=f"{name}.* it contains a NUL"):
        parse(f"windows:{name}=a%00b")
