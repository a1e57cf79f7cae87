"""Entra ID's errors: the AADSTS codes with the messages of the service.

The messages are the service's own, as quoted in its error reference
(https://learn.microsoft.com/entra/identity-platform/reference-error-codes) and in user reports. If no message is
known, ours starts like a known one, and a comment says so.
"""

import uuid
from datetime import UTC, datetime

ASSERTION_HELP = (
    "Review the documentation at https://learn.microsoft.com/entra/identity-platform/certificate-credentials ."
)

# From AADSTS code to OAuth error and message. `invalid_client` has status 401, all others 400.
TEXTS: dict[int, tuple[str, str]] = {
    # The request.
    90002: (
        "invalid_request",
        (
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the "
            "correct cloud. Check with your subscription administrator, this may happen if there are no active "
            "subscriptions for the tenant."
        ),
    ),
    900023: (
        "invalid_request",
        "Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external domain.",
    ),
    900144: ("invalid_request", "The request body must contain the following parameter: '{parameter}'."),
    900561: ("invalid_request", "The endpoint only accepts POST requests. Received a {method} request."),
    9000411: ("invalid_request", "The request is not properly formatted. The parameter '{parameter}' is duplicated."),
    70003: ("unsupported_grant_type", "The app requested an unsupported grant type '{grant}'."),
    70011: (
        "invalid_scope",
        (
            "The provided request must include a 'scope' input parameter. The provided value for the input parameter "
            "'scope' is not valid. The scope {scope} is not valid."
        ),
    ),
    1002012: (
        "invalid_scope",
        (
            "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with "
            "/.default suffixed to the resource identifier (application ID URI)."
        ),
    ),
    # The application and its type of credential.
    700016: (
        "unauthorized_client",
        (
            "Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if "
            "the application has not been installed by the administrator of the tenant or consented to by any user in "
            "the tenant. You may have sent your authentication request to the wrong tenant."
        ),
    ),
    700025: (
        "invalid_client",
        "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
    ),
    7000215: (
        "invalid_client",
        (
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, "
            "not the client secret ID, for a secret added to app '{client_id}'."
        ),
    ),
    7000218: (
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
    ),
    # The assertion's form. The text after 50027's first sentence is ours: Entra ID returns only that sentence.
    50027: ("invalid_request", "JWT token is invalid or malformed. {reason}"),
    5002723: (
        "invalid_client",
        (
            "Invalid JWT token. No certificate SHA-1 thumbprint, certificate SHA-256 thumbprint, nor keyId specified "
            "in token header."
        ),
    ),
    5002727: (
        "invalid_request",
        "Invalid JWT header type specified, must be 'JWT' or 'http://openid.net/specs/jwt/1.0'.",
    ),
    5002730: ("invalid_request", "Invalid JWT token. Unsupported key for the signing algorithm."),
    5002738: (
        "invalid_client",
        (
            "Invalid JWT token. '{algorithm}' is not a supported signature algorithm. Supported signing algorithms "
            "are: '{supported}'"
        ),
    ),
    # The certificate and the signature.
    700027: ("invalid_client", "{text} [Reason - {reason}{details}]"),
    700030: (
        "invalid_client",
        (
            "Invalid certificate - subject name in certificate is not authorized. SubjectNames/SubjectAlternativeNames "
            "(up to 10) in token certificate are: {subjects}."
        ),
    ),
    1000502: ("invalid_client", "The provided certificate is not within its specified validity period."),
    7000213: ("invalid_client", "Invalid certificate chain."),
    7000214: ("invalid_client", "Certificate has been revoked."),
    # The claims.
    50048: ("invalid_client", "Subject mismatches Issuer claim in the client assertion. Contact the tenant admin."),
    90014: (
        "invalid_request",
        (
            "The required field '{claim}' is missing from the credential. Ensure that you have all the necessary "
            "parameters for the login request."
        ),
    ),
    700021: (
        "invalid_client",
        "Client assertion application identifier doesn't match 'client_id' parameter. " + ASSERTION_HELP,
    ),
    700023: ("invalid_client", "Client assertion audience claim does not match Realm issuer. " + ASSERTION_HELP),
    700024: ("invalid_client", "{text} " + ASSERTION_HELP),
}


class AadstsError(Exception):
    """An error response with an AADSTS `code`; `values` fill in the placeholders of that code's message."""

    def __init__(self, code: int, **values: str) -> None:
        self.code = code
        self.error, text = TEXTS[code]
        self.text = text.format(**values).rstrip()
        super().__init__(f"AADSTS{code}: {self.text}")

    @property
    def status(self) -> int:
        """The HTTP status of the response."""
        return 401 if self.error == "invalid_client" else 400


def response_body(failure: AadstsError, correlation_id: str, *, error: str | None = None) -> dict[str, object]:
    """Return the JSON object of Entra ID's response; `correlation_id` and the other ids are GUIDs as text."""
    trace_id = str(uuid.uuid4())
    timestamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
    return {
        "error": error or failure.error,
        "error_description": (
            f"{failure} Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {timestamp}"
        ),
        "error_codes": [failure.code],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        "error_uri": f"https://login.microsoftonline.com/error?code={failure.code}",
    }
