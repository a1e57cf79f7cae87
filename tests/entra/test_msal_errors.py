"""Keyvouch errors for the exceptions of MSAL and `requests`."""

from __future__ import annotations

import itertools
import json
import ssl

import pytest
import requests
from urllib3.exceptions import ProxyError

from keyvouch._system.sockets import ResponseTooLarge
from keyvouch.entra.discovery import UnexpectedResponse
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.entra.msal_errors import translate_discovery_error, translate_network_error
from keyvouch.errors import AuthorityRefused, AuthorityUnavailable, ConfigurationError, KeyvouchError, StoreUnavailable
from keyvouch.testing.authority import Authority


def test_unknown_option_stays_a_type_error() -> None:
    """An option that MSAL does not have raises TypeError, as any function does."""
    mistake = TypeError("ClientApplication.__init__() got an unexpected keyword argument 'bogus'")
    assert translate_discovery_error(mistake, "https://login") is mistake


@pytest.mark.parametrize(
    "text",
    [
        "int() argument must be a string, a bytes-like object or a real number, not 'list'",
        "argument of type 'NoneType' is not iterable",
        "argument of type 'int' is not a container or iterable",
        "list indices must be integers or slices, not str",
    ],
)
def test_type_errors_about_responses_are_translated(text: str) -> None:
    """A TypeError from MSAL's own code about a response is not the caller's mistake."""
    assert isinstance(translate_discovery_error(TypeError(text), "https://login"), AuthorityUnavailable)


# Errors on the network


def chained(*errors: Exception) -> Exception:
    """Return the last of these errors, each raised from the one before it."""
    for former, error in itertools.pairwise(errors):
        error.__cause__ = former
    return errors[-1]


def certificate_error(reason: str) -> Exception:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = reason
    return chained(error, requests.exceptions.SSLError("wrapped"))


def tls_error() -> Exception:
    error = ssl.SSLError(1, "wrong version")
    error.reason = "WRONG_VERSION_NUMBER"
    return chained(error, requests.exceptions.SSLError("wrapped"))


def connection_error(error: Exception) -> Exception:
    return chained(error, requests.exceptions.ConnectionError("wrapped"))


NETWORK_ERRORS = [
    (certificate_error("unable to get local issuer certificate"), ConfigurationError, "unable to get local", "ca-file"),
    (certificate_error("Hostname mismatch"), ConfigurationError, "not trusted: Hostname", "another server"),
    (certificate_error("IP address mismatch"), ConfigurationError, "not trusted: IP", "another server"),
    (certificate_error("certificate has expired"), ConfigurationError, "has expired", "clock"),
    (certificate_error("certificate is not yet valid"), ConfigurationError, "not yet valid", "clock"),
    (tls_error(), ConfigurationError, "the server does not use TLS on this port (wrong version number).", "port"),
    (
        requests.exceptions.SSLError("wrapped"),
        ConfigurationError,
        "connection to https://login failed: unknown reason.",
        "TLS versions",
    ),
    (requests.exceptions.InvalidProxyURL("x"), ConfigurationError, "proxy URL", "http://host:port"),
    (requests.exceptions.InvalidSchema("x"), ConfigurationError, "proxy URL", "http://host:port"),
    (UnexpectedResponse("too odd"), AuthorityUnavailable, "response from https://login: too odd.", "later"),
    (
        requests.exceptions.JSONDecodeError("x", "", 0),
        AuthorityUnavailable,
        "https://login: it is not valid JSON.",
        "later",
    ),
    (requests.exceptions.Timeout("x"), AuthorityUnavailable, "request to https://login timed out.", "try again later"),
    (connection_error(OSError(111, "No way")), AuthorityUnavailable, "cannot be reached: No way.", "network"),
    (connection_error(OSError("text")), AuthorityUnavailable, "cannot be reached: OSError.", "network"),
    (requests.exceptions.ConnectionError("x"), AuthorityUnavailable, "reached: ConnectionError.", "network"),
    (
        requests.exceptions.ProxyError(ProxyError("x", OSError("Tunnel connection failed: 407 No way"))),
        AuthorityUnavailable,
        "https://login cannot be reached: the proxy requires credentials (407 No way).",
        "proxy-credentials",
    ),
    (connection_error(ResponseTooLarge()), AuthorityUnavailable, "from https://login is larger than", "address"),
    (PermissionError(13, "Not you", "/cache/x"), ConfigurationError, "/cache/x cannot be written: Not you.", "/cache"),
    (OSError(28, "Full"), ConfigurationError, "the token cache cannot be written: Full.", "disk is full"),
]


@pytest.mark.parametrize(("error", "kind", "message", "hint"), NETWORK_ERRORS, ids=range(len(NETWORK_ERRORS)))
def test_network_errors(error: Exception, kind: type[KeyvouchError], message: str, hint: str) -> None:
    """Each becomes a KeyvouchError with the innermost reason and a hint that fits it."""
    found = translate_network_error(error, "https://login")
    assert type(found) is kind
    assert message in found.message
    assert "None" not in found.message
    assert hint in found.hint
    assert "https://login" in found.message or kind is ConfigurationError


def test_other_errors_are_not_translated() -> None:
    """Errors that are not of the network are left to other handlers."""
    for error in (ValueError("x"), TypeError("x"), KeyError("x"), StoreUnavailable("x")):
        assert translate_network_error(error, "https://login") is None


def test_innermost_reason_of_a_long_chain() -> None:
    """A cyclic or very long chain of errors is followed up to a limit; `reason` is followed like a cause."""
    one, other = requests.exceptions.ConnectionError("x"), OSError(5, "Deep")
    one.__cause__, other.__cause__ = other, one
    assert "Deep" in str(translate_network_error(one, "https://login"))
    outer = requests.exceptions.ConnectionError("x")
    outer.reason = OSError(5, "Inside")  # type: ignore[attr-defined]
    assert "Inside" in str(translate_network_error(outer, "https://login"))


# Exceptions from MSAL


def raised_during(error: Exception, context: Exception) -> Exception:
    error.__context__ = context
    return error


MSAL_ERRORS = [
    (KeyError("x"), AuthorityUnavailable, "response from https://login: KeyError."),
    (ValueError("odd option"), ConfigurationError, "MSAL rejected the settings: odd option"),
    (
        ValueError("Unable to get authority configuration for x"),
        AuthorityRefused,
        "https://login is not an authority, or the tenant",
    ),
    (
        ValueError("OIDC Discovery failed on x. HTTP status: 404, Error: y"),
        AuthorityRefused,
        "the tenant does not exist",
    ),
    (
        ValueError("OIDC Discovery failed on x. HTTP status: 400, Error: y"),
        AuthorityRefused,
        "the tenant does not exist",
    ),
    (
        ValueError("OIDC Discovery failed on x. HTTP status: 503, Error"),
        AuthorityUnavailable,
        "https://login: HTTP status 503 Service Unavailable.",
    ),
    (
        raised_during(ValueError("OIDC Discovery failed"), json.JSONDecodeError("x", "", 0)),
        AuthorityUnavailable,
        "not valid JSON.",
    ),
    (
        raised_during(ValueError("Unable to get authority configuration"), requests.exceptions.ConnectTimeout("x")),
        AuthorityUnavailable,
        "The request to https://login timed out.",
    ),
]


@pytest.mark.parametrize(("error", "kind", "message"), MSAL_ERRORS, ids=range(len(MSAL_ERRORS)))
def test_discovery_errors(error: Exception, kind: type[KeyvouchError], message: str) -> None:
    """MSAL's exceptions are distinguished by their text and their origin; the cause is kept."""
    found = translate_discovery_error(error, "https://login")
    assert type(found) is kind
    assert message in found.message
    assert found.hint
    assert found.__cause__ is error
    if isinstance(found, AuthorityRefused):
        assert (found.error, tuple(found.error_codes)) == ("invalid_tenant", (90002,))


def test_issuer_given_as_authority() -> None:
    """An issuer without a path as `authority`: the hint is the argument to pass."""
    with pytest.raises(ConfigurationError, match=r"https://idp\.example contains no tenant") as caught:
        ConfidentialClient("app", ["pem:/a.pem"], authority="https://idp.example")
    assert "oidc_authority='https://idp.example'" in caught.value.hint


def test_untrusted_certificate_of_an_authority(authority: Authority) -> None:
    """The hint names the setting in a profile, the option, the variable and Python's argument."""
    with pytest.raises(ConfigurationError, match="not trusted") as caught:
        ConfidentialClient("app", ["pem:/a.pem"], authority=authority.authority, instance_discovery=False)
    for name in ("ca-file", "--ca-file", "KEYVOUCH_CA_FILE", "ca_file="):
        assert name in caught.value.hint


def test_invalid_option_without_a_text() -> None:
    """The error for a ValueError without a text is still a configuration error."""
    assert isinstance(translate_discovery_error(ValueError(None), "https://login"), ConfigurationError)


def test_keyvouch_errors_stay_unchanged() -> None:
    """A KeyvouchError is passed on unchanged; a TypeError about multiple values is the caller's."""
    own_error = StoreUnavailable("x")
    assert translate_discovery_error(own_error, "https://login") is own_error
    mistake = TypeError("ClientApplication.__init__() got multiple values for argument 'x'")
    assert translate_discovery_error(mistake, "https://login") is mistake
