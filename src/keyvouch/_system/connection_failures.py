"""Why a request got no response, in the words of an error message: from the errors of urllib3, requests, TLS and OS.

Used for stores and for token requests. A failure of the proxy is distinguished from one of the server, and named with
the proxy's address, without credentials.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable
from http.client import BadStatusLine, HTTPException, IncompleteRead, RemoteDisconnected
from typing import Any, Literal, TypeVar

import requests
from msgspec import Struct, structs
from urllib3.exceptions import (
    DecodeError,
    LocationParseError,
    NewConnectionError,
    PoolError,
    ProtocolError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as PoolTimeout

from keyvouch._system.sockets import MAX_RESPONSE_BYTES, ResponseTooLarge

E = TypeVar("E", bound=BaseException)
Kind = Literal["address", "trust", "tls", "timeout", "too large", "proxy", "connection"]
_MAX_CAUSES = 20
"""Maximum number of exceptions considered: urllib3 and requests wrap each other's several times."""
_MAX_QUOTE = 60
_PROXY_NOTE = "keyvouch_proxy"
"""The attribute in which `note_proxy` records the proxy: not all errors of requests contain urllib3's pool."""
_CLIENT_CERTIFICATE_ALERTS = ("certificate", "unknown ca", "access denied")
"""What a server's alert contains if it is about the client's certificate, or about its absence."""
_NOT_TLS = ("wrong version number", "http request", "https proxy request", "unknown protocol", "record layer failure")
"""OpenSSL's reasons for a response that is not TLS."""
_ALERT = re.compile(r"(?:sslv3|tlsv1|tlsv13|ssl/tls) (?:alert )?(.+)")
"""OpenSSL's reason for an alert that was received."""
_ON_LOOPBACK = re.compile(r"//(localhost|127(\.\d+){3}|\[::1\])(:|/|$)")
_PROXY_HINT = "Correct proxy, or the environment variable HTTPS_PROXY. To connect without a proxy, set NO_PROXY."
_TLS_HINT = "Check address, port and proxy, and which TLS versions and ciphers the server supports."
_CREDENTIALS_HINT = "Set proxy-credentials to a reference to user:password for the proxy."

_FLAWS: tuple[tuple[type[BaseException], str], ...] = (
    (RemoteDisconnected, "closed the connection without a response"),
    (IncompleteRead, "closed the connection before the end of its response"),
    (BadStatusLine, "sent a response that is not HTTP"),
    (DecodeError, "sent a response that cannot be decompressed"),
    (HTTPException, "sent an invalid HTTP response"),
    (ConnectionResetError, "closed the connection"),
    (BrokenPipeError, "closed the connection"),
)
"""What a server or proxy did, by exception: the first that fits."""


class Failure(Struct, frozen=True):
    """Why a request failed."""

    kind: Kind
    message: str
    hint: str


class _Proxy(Struct, frozen=True):
    address: str
    """Without credentials."""
    sent_credentials: bool


def cause_of(error: BaseException, kind: type[E]) -> E | None:
    """Return the exception of this type that caused `error`; urllib3 and requests wrap it more than once."""
    return next((each for each in _causes(error) if isinstance(each, kind)), None)


def note_proxy(error: BaseException, address: str | None) -> None:
    """Record on an error of requests that the request used a proxy; `address` without credentials, None for none."""
    vars(error)[_PROXY_NOTE] = address


def describe_failure(error: BaseException, server: str, pool: Any = None, *, ca_file: str = "ca-file=") -> Failure:
    """Return why a request to `server` failed.

    `pool`: urllib3's pool, if `error` does not contain it. `ca_file`: what the hint calls the setting for a CA.
    """
    failure = _describe(error, server, pool)
    if failure.kind != "trust":
        return failure
    return structs.replace(failure, hint=failure.hint.format(ca_file=ca_file))


def _describe(error: BaseException, server: str, pool: Any) -> Failure:
    causes = _causes(error)
    proxy = _proxy_of(pool, causes)
    if cause_of(error, ResponseTooLarge):
        return Failure(
            "too large",
            f"The response from {server} is larger than {MAX_RESPONSE_BYTES >> 20} MiB.",
            "Check that the address is the server's, not another service's.",
        )
    if cause_of(error, LocationParseError):
        return Failure("address", f"Invalid address: {server}.", "Correct the address, or proxy.")
    if cause_of(error, ProxyError) or cause_of(error, requests.exceptions.ProxyError):
        return _proxy_failure(causes, server, proxy)
    failure = _server_failure(causes, server)
    if proxy is None:
        return failure
    message = f"{failure.message} The request went through the proxy {proxy.address}."
    return structs.replace(failure, message=message)


def _server_failure(causes: list[BaseException], server: str) -> Failure:
    if found := _first(causes, ssl.SSLCertVerificationError):
        return _untrusted(found, server)
    if (failed := _first(causes, ssl.SSLError)) and not _is_timeout(causes):
        return _tls_failure(failed, server)
    if not failed and (_first(causes, SSLError) or _first(causes, requests.exceptions.SSLError)):
        return Failure("tls", f"The TLS connection to {server} failed: unknown reason.", _TLS_HINT)
    if _is_timeout(causes):
        return Failure(
            "timeout", f"The request to {server} timed out.", "Check that the server responds, and try again later."
        )
    if flaw := _flaw_of_response(causes):
        return Failure(
            "connection",
            f"{server} {flaw}.",
            "Check the address, the network and the proxy, and that the server is running.",
        )
    reason, check = _system_reason(causes), "the address, the network, private endpoints and the proxy"
    if _first(causes, socket.gaierror):
        reason = f"its host name was not found ({reason})"
        check = "the host name in the address for a typing error, then DNS, private endpoints and the proxy"
    return Failure(
        "connection",
        f"{server} cannot be reached: {reason}.",
        f"Check {check}, and that the server is running.",
    )


def _untrusted(error: ssl.SSLCertVerificationError, peer: str) -> Failure:
    reason = error.verify_message
    hint = "Set {ca_file} to a PEM file with its CA, or with that of a proxy that intercepts TLS."
    if "ostname" in reason or "IP address" in reason:
        hint = "Correct the address: the certificate belongs to another server, and does not contain this host name."
    elif "expired" in reason or "not yet valid" in reason:
        hint = "Correct this machine's clock, or have the server's certificate renewed."
    return Failure("trust", f"The TLS certificate of {peer} is not trusted: {reason}.", hint)


def _tls_failure(error: ssl.SSLError, server: str) -> Failure:
    reason = _reason_of(error)
    failed = f"The TLS connection to {server} failed"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "unexpected eof" in reason:
        return Failure(
            "connection", f"{failed}: the server closed the connection.", "Check the address, the proxy and firewalls."
        )
    if reason in _NOT_TLS:
        return Failure(
            "tls",
            f"{failed}: the server does not use TLS on this port ({reason}).",
            "Write http://: it is allowed on this machine. Or correct the port, if another server was meant."
            if _ON_LOOPBACK.search(server)
            else "Correct the port in the address, and check what listens on it.",
        )
    if alert := _alert_of(error):
        return Failure("tls", f"{failed}: the server sent the alert `{alert}`.", _alert_hint(alert))
    return Failure(
        "tls",
        f"{failed}: {reason}.",
        _TLS_HINT,
    )


def _reason_of(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason; Python's table of names lacks some, which are only in the text."""
    text = re.search(r"\] (.+?) \(_ssl", str(error))
    return (error.reason or (text[1] if text else "unknown reason")).lower().replace("_", " ")


def _alert_of(error: ssl.SSLError) -> str:
    """Return the name of the alert that was received; an empty string if there was none."""
    found = _ALERT.fullmatch(_reason_of(error))
    return found[1] if found else ""


def _alert_hint(alert: str) -> str:
    if any(each in alert for each in _CLIENT_CERTIFICATE_ALERTS):
        return "Send the client certificate that the server requires, or use an address that requires none."
    if alert == "unrecognized name":
        return "Correct the host name in the address: the server does not know it."
    if alert in ("handshake failure", "protocol version", "insufficient security"):
        return "Check which TLS versions and ciphers the server supports, and whether it requires a client certificate."
    return "Check the address, and the reason in the server's log."


def _proxy_failure(causes: list[BaseException], server: str, proxy: _Proxy | None) -> Failure:
    name = f"the proxy {proxy.address}" if proxy else "the proxy"
    if found := _first(causes, ssl.SSLCertVerificationError):
        return _untrusted(found, name)
    what, hint = _flaw_of_proxy(causes, proxy)
    return Failure("proxy", f"{server} cannot be reached: {name} {what}.", hint)


def _flaw_of_proxy(causes: list[BaseException], proxy: _Proxy | None) -> tuple[str, str]:
    """Return what the proxy did, and a hint."""
    for error in reversed(causes):
        if refused := re.match(r"Tunnel connection failed: (\d+) ?(.*)", str(error)):  # from http.client
            return _refusal_of_proxy(refused[1], _quote(refused[2]), proxy)
    if failed := _first(causes, ssl.SSLError):
        if (reason := _reason_of(failed)) in _NOT_TLS:
            return "does not use TLS", "Set proxy, or HTTPS_PROXY, to http://host:port."
        alert = _alert_of(failed)
        return f"failed the TLS handshake: {f'alert `{alert}`' if alert else reason}", _PROXY_HINT
    if _is_timeout(causes):
        return "timed out", _PROXY_HINT
    if flaw := _flaw_of_response(causes):
        uses_tls = (bad := _first(causes, BadStatusLine)) is not None and _line_of(bad).startswith(
            ("\x15\x03", "\x16\x03")
        )
        return flaw, "Set proxy, or HTTPS_PROXY, to https://host:port." if uses_tls else _PROXY_HINT
    return f"cannot be reached: {_system_reason(causes)}", _PROXY_HINT


def _refusal_of_proxy(status: str, reason: str, proxy: _Proxy | None) -> tuple[str, str]:
    shown = f"{status} {reason}".rstrip()
    if status == "407":
        if proxy is not None and proxy.sent_credentials:
            return f"rejected the credentials ({shown})", f"Correct the user name and the password. {_CREDENTIALS_HINT}"
        return f"requires credentials ({shown})", _CREDENTIALS_HINT
    if status.startswith("5"):
        return f"failed to connect to it ({shown})", "Check the address, and whether the proxy can reach the server."
    return f"refused the connection ({shown})", "Have the proxy's administrator permit this host, or set NO_PROXY."


def _flaw_of_response(causes: list[BaseException]) -> str:
    """Return what is wrong with a response that is not HTTP or is incomplete; an empty string if there was none."""
    for kind, flaw in _FLAWS:
        if error := _first(causes, kind):
            quoted = _quote(_line_of(error)) if kind is BadStatusLine else ""
            return f"{flaw}: {quoted}" if quoted else flaw
    has_reason = any(isinstance(each, OSError) and each.strerror for each in causes)
    return "sent an invalid HTTP response" if _first(causes, ProtocolError) and not has_reason else ""


def _line_of(error: BaseException) -> str:
    """Return the line that a `BadStatusLine` is about."""
    return str(error.args[0]) if error.args else ""


def _is_timeout(causes: list[BaseException]) -> bool:
    # urllib3's error for a refused connection is also one of its timeouts.
    if any(isinstance(each, TimeoutError | requests.exceptions.Timeout) for each in causes):
        return True
    return any(isinstance(each, PoolTimeout) and not isinstance(each, NewConnectionError) for each in causes)


def _system_reason(causes: list[BaseException]) -> str:
    """Return the innermost reason of the operating system, or else the innermost error's class."""
    reasons = [str(each.strerror) for each in causes if isinstance(each, OSError) and each.strerror]
    return (reasons[-1] if reasons else type(causes[-1]).__name__).rstrip(".")


def _proxy_of(pool: Any, causes: list[BaseException]) -> _Proxy | None:
    """Return the proxy that the request used, from urllib3's pool, which is in some of its errors."""
    pools = [pool, *(each.pool for each in causes if isinstance(each, PoolError))]
    for each in pools:
        url = getattr(each, "proxy", None)
        if url is not None:
            headers = {name.lower() for name in getattr(each, "proxy_headers", None) or ()}
            address = f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
            return _Proxy(address, url.auth is not None or "proxy-authorization" in headers)
    noted = [str(note) for each in causes if (note := getattr(each, _PROXY_NOTE, None))]
    return _Proxy(noted[0], sent_credentials=False) if noted else None


def _causes(error: BaseException) -> list[BaseException]:
    """Return an exception and those that caused it, the innermost last.

    The context of an operating system's error is not a cause: the program may have been handling another error.
    """
    found: list[BaseException] = [error]
    for each in found:
        for inner in _direct_causes(each):
            if not any(inner is known for known in found) and len(found) < _MAX_CAUSES:
                found.append(inner)
    return found


def _direct_causes(error: BaseException) -> Iterable[BaseException]:
    wrapped = [getattr(error, "original_error", None), getattr(error, "reason", None), *error.args, error.__cause__]
    inner = [each for each in wrapped if isinstance(each, BaseException)]
    is_wrapper = not isinstance(error, OSError) or isinstance(error, requests.exceptions.RequestException)
    return inner or ([error.__context__] if is_wrapper and error.__context__ is not None else [])


def _first(causes: Iterable[BaseException], kind: type[E]) -> E | None:
    return next((each for each in causes if isinstance(each, kind)), None)


def _quote(text: str) -> str:
    """Return the text on one line, printable and truncated."""
    return " ".join("".join(each if each.isascii() and each.isprintable() else " " for each in text).split())[
        :_MAX_QUOTE
    ]
