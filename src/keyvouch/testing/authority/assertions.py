"""Validation of client assertions (RFC 7523) by Entra ID's rules.

The rules: https://learn.microsoft.com/entra/identity-platform/certificate-credentials.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from keyvouch.testing.authority import jose
from keyvouch.testing.authority.aadsts import AadstsError
from keyvouch.testing.authority.certificates import find_certificate, signature_error
from keyvouch.testing.authority.directory import App

SKEW = 300
"""Number of seconds by which the clocks of client and authority may differ."""

TYPES = ("JWT", "http://openid.net/specs/jwt/1.0")
INITIAL_ID_LIMIT = 10_000
LAST_TIME = 253402300799  # the end of the year 9999, the last representable time


@dataclass(frozen=True)
class Assertion:
    """The parts of a JWT, not yet verified."""

    header: dict[str, object]
    claims: dict[str, object]
    message: bytes
    """The signed bytes."""
    signature: bytes


def parse(text: str) -> Assertion:
    """Split a JWT into its parts. Raises AadstsError if it is malformed."""
    message, _, signature = text.rpartition(".")
    try:
        header, claims = (jose.read_object(jose.from_base64url(part)) for part in message.split("."))
        return Assertion(header, claims, message.encode("ascii"), jose.from_base64url(signature))
    except ValueError as error:
        raise AadstsError(50027, reason=f"{str(error).capitalize()}.") from None


class AssertionValidator:
    """Validates assertions, and remembers their IDs while they are valid."""

    def __init__(self, algorithms: Collection[str], *, refuse_replays: bool) -> None:
        self._algorithms = tuple(sorted(algorithms))
        self._refuse_replays = refuse_replays
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str, str], float] = {}
        self._purge_at = INITIAL_ID_LIMIT

    def validate(self, assertion: Assertion, app: App, audiences: Collection[str], now: float) -> None:
        """Check that the assertion is from the application and for one of the audiences. Raises AadstsError otherwise.

        `now` is in seconds since 1970. A refused assertion may be presented again, an accepted one may not.
        """
        self._check_header(assertion.header)
        certificate = find_certificate(assertion.header, app)
        algorithm, key = str(assertion.header["alg"]), certificate.public_key()
        if not jose.fits(algorithm, key):
            raise AadstsError(5002730)
        if not jose.verifies(algorithm, key, assertion.signature, assertion.message):
            raise signature_error(assertion.header, certificate)
        _check_parties(assertion.claims, app.client_id, audiences)
        expires = _check_times(assertion.claims, now)
        self._check_id(assertion.claims, app, expires, now)

    def _check_header(self, header: dict[str, object]) -> None:
        if header.get("alg") not in self._algorithms:
            raise AadstsError(5002738, algorithm=str(header.get("alg")), supported=",".join(self._algorithms))
        if header.get("typ") not in TYPES:
            raise AadstsError(5002727)
        if "crit" in header:
            # RFC 7515, section 4.1.11: a recipient that does not support a critical extension must refuse.
            raise AadstsError(50027, reason="The crit header contains an unsupported extension.")

    def _check_id(self, claims: dict[str, object], app: App, expires: float, now: float) -> None:
        jti = claims.get("jti")
        if not isinstance(jti, str) or not jti:
            raise AadstsError(90014, claim="jti")
        if self._refuse_replays and not self._remember((app.tenant, app.client_id, jti), expires + SKEW, now):
            # Entra ID documents no code for this (currently it accepts an assertion more than once, while RFC 7523 lets
            # a server refuse it). This code makes a client create a new assertion, which is the remedy.
            raise AadstsError(700024, text=f"Client assertion was presented before: its jti '{jti}' has been used.")

    def _remember(self, name: tuple[str, str, str], until: float, now: float) -> bool:
        with self._lock:
            if self._seen.get(name, 0) > now:
                return False
            if len(self._seen) >= self._purge_at:
                self._seen = {seen: end for seen, end in self._seen.items() if end > now}
                # Doubled, so that scanning all of them stays rare.
                self._purge_at = max(INITIAL_ID_LIMIT, 2 * len(self._seen))
            self._seen[name] = until
            return True


def _check_parties(claims: dict[str, object], client_id: str, audiences: Collection[str]) -> None:
    for name in ("iss", "sub", "aud"):
        if name not in claims:
            raise AadstsError(90014, claim=name)
    if claims["iss"] != claims["sub"]:
        raise AadstsError(50048)
    if not isinstance(claims["iss"], str) or claims["iss"].lower() != client_id.lower():
        raise AadstsError(700021)
    if not isinstance(claims["aud"], str) or claims["aud"] not in audiences:
        raise AadstsError(700023)


def _check_times(claims: dict[str, object], now: float) -> float:
    """Return the expiry. Raises AadstsError if it is not currently valid. Missing times count as 1970."""
    not_before, issued, expires = (_read_time(claims, name) for name in ("nbf", "iat", "exp"))
    if not max(not_before, issued) - SKEW <= now < expires + SKEW:
        raise AadstsError(
            700024,
            text=(
                f"Client assertion is not within its valid time range. Current time: {_write_time(now)}, assertion "
                f"valid from {_write_time(max(not_before, issued))}, expiry time of assertion {_write_time(expires)}."
            ),
        )
    return expires


def _read_time(claims: dict[str, object], name: str) -> float:
    # MSAL sends fractions of a second, and Entra ID accepts them.
    value = claims.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LAST_TIME <= value <= LAST_TIME:
        raise AadstsError(50027, reason=f"The claim {name} is not a number of seconds.")
    return value


def _write_time(seconds: float) -> str:
    time = datetime.fromtimestamp(max(seconds, 0), UTC)
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}0Z"
