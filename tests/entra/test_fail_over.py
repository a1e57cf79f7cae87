"""Which key is tried when, and how long a caller waits."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.hashes import SHA256

import keyvouch
from keyvouch.entra import advice, keys
from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.errors import (
    AuthorityRefused,
    AuthorityUnavailable,
    ConfigurationError,
    InternalError,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    StoreUnavailable,
)
from keyvouch.testing.authority import App, Authority
from keyvouch.testing.authority.server import Response
from scripted_store import Script, in_threads, until
from signing_in import SCOPE, Key, make_key

OTHER = "api://other/.default"


def refusal(code: int, error: str = "invalid_client") -> tuple[int, str, dict[str, str]]:
    """A response shaped like Entra ID's."""
    body = {"error": error, "error_description": f"AADSTS{code}: No.", "error_codes": [code], "correlation_id": "c"}
    return 401, json.dumps(body), {"Content-Type": "application/json"}


@pytest.fixture
def preferred(tmp_path: Path) -> Key:
    return make_key(tmp_path, "preferred.pem", "RSA-2048")


@pytest.fixture
def standby(tmp_path: Path) -> Key:
    return make_key(tmp_path, "standby.pem", "RSA-2048")


@pytest.fixture
def app(authority: Authority, preferred: Key, standby: Key) -> App:
    return authority.register(certificates=[preferred.certificate, standby.certificate])


@pytest.fixture
def client_of(authority: Authority, app: App) -> Iterator[Callable[..., ConfidentialClient]]:
    """Create clients that are closed at the end."""
    clients: list[ConfidentialClient] = []

    def make(*uris: Any) -> ConfidentialClient:
        clients.append(
            ConfidentialClient(
                app.client_id,
                uris,
                authority=authority.authority,
                ca_file=authority.ca_file,
                instance_discovery=False,
            )
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def thumbprints(authority: Authority) -> list[object]:
    """The thumbprint with which each request was signed."""
    return [(exchange.header or {}).get("x5t#S256") for exchange in authority.exchanges]


# Refused by the authority.


@pytest.mark.parametrize("code", sorted(advice.KEY_REFUSED))
def test_refused_key_gives_way(
    authority: Authority, preferred: Key, standby: Key, client_of: Callable[..., ConfidentialClient], code: int
) -> None:
    """A key refused by its own fault is tried once, since reloading gives the same one; then the next key is used."""
    client = client_of(preferred.uri, standby.uri)
    authority.answer_next(*refusal(code))

    assert client.access_token([SCOPE])
    assert [exchange.status for exchange in authority.exchanges] == [401, 200]
    assert len(set(thumbprints(authority))) == 2


@pytest.mark.parametrize("code", [*sorted(advice.ADVICE.keys() - advice.KEY_REFUSED), 999999])
def test_other_refusal_ends_it(
    authority: Authority, preferred: Key, standby: Key, client_of: Callable[..., ConfidentialClient], code: int
) -> None:
    """A refusal that would be the same for any key is not retried with another."""
    client = client_of(preferred.uri, standby.uri)
    authority.answer_next(*refusal(code))

    with pytest.raises(AuthorityRefused) as caught:
        client.access_token([SCOPE])

    assert caught.value.error_codes == (code,)
    assert not caught.value.try_next_key
    assert len(authority.exchanges) == 1


def test_refused_key_skipped_for_a_while(
    authority: Authority,
    preferred: Key,
    standby: Key,
    client_of: Callable[..., ConfidentialClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A refused key is skipped for five minutes, with one warning; then it is tried after the accepted one."""
    client = client_of(preferred.uri, standby.uri)
    authority.answer_next(*refusal(700027))
    with caplog.at_level(logging.WARNING, "keyvouch"):
        client.access_token([SCOPE])
        client.access_token([OTHER])
    assert len([record for record in caplog.records if "passed over" in record.message]) == 1
    first, second, third = thumbprints(authority)
    assert first != second == third

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + keys.REFUSED_FOR + 1)
    authority.answer_next(*refusal(700027))
    client.access_token(["api://later/.default"])
    assert thumbprints(authority)[3:] == [second, first]


def test_all_refused_are_all_tried(
    authority: Authority, preferred: Key, standby: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """If every key was refused recently, none is skipped; the last refusal is raised."""
    client = client_of(preferred.uri, standby.uri)
    for _ in range(2):
        authority.answer_next(*refusal(700027))
        authority.answer_next(*refusal(7000214))
        with pytest.raises(AuthorityRefused) as caught:
            client.access_token([SCOPE])
        assert caught.value.error_codes == (7000214,)
    assert len(authority.exchanges) == 4


def test_reloaded_key_has_one_more_try(
    authority: Authority, app: App, tmp_path: Path, client_of: Callable[..., ConfidentialClient]
) -> None:
    """If reloading gives another certificate, the key is tried once more, and not again after that."""
    old = make_key(tmp_path, "app.pem")
    client = client_of(old.uri)
    app.add_certificate(old.certificate)
    client.access_token([SCOPE])
    make_key(tmp_path, "new.pem")
    (tmp_path / "new.pem").replace(tmp_path / "app.pem")
    app.remove_certificate(old.certificate)

    with pytest.raises(AuthorityRefused) as caught:
        client.access_token([OTHER])

    tried = thumbprints(authority)[1:]
    assert len(tried) == len(set(tried)) == 2
    assert caught.value.thumbprint
    assert caught.value.thumbprint in str(caught.value)


def test_refusal_names_what_was_sent(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """The thumbprint in the error is that of the assertion sent."""
    authority.answer_next(*refusal(700016))
    with pytest.raises(AuthorityRefused) as caught:
        client_of(preferred.uri).access_token([SCOPE])
    assert caught.value.thumbprint == preferred.certificate.fingerprint(SHA256()).hex().upper()


# Failed in the store.


def test_stalled_store_leaves_time(
    authority: Authority, app: App, standby: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A store that stalls until its time is over leaves the next key its share."""
    with Script("RSA-2048") as script:
        script.before["connect"] = time.sleep
        script.always["connect"] = StoreUnavailable("It does not answer.")
        client = client_of(script.uri, standby.uri)

        assert client.access_token([SCOPE], timeout=4)
        assert sum(script.timeouts("connect")) <= 2
        client.close()


@pytest.mark.parametrize("error", [StoreUnavailable("down"), SecretIncorrect("wrong")])
def test_all_stores_failed(
    authority: Authority, client_of: Callable[..., ConfidentialClient], error: KeyvouchError
) -> None:
    """The last store's error is raised, and also by inherited calls."""
    with Script("RSA-2048") as first, Script("RSA-2048") as last:
        first.always["open"] = SecretIncorrect("the first one's")
        last.always["open"] = error
        client = client_of(first.uri, last.uri)
        with pytest.raises(type(error), match=str(error)):
            client.access_token([SCOPE])
        with pytest.raises(type(error), match=str(error)):
            client.acquire_token_for_client([SCOPE])
        assert authority.exchanges == []


def test_misconfigured_key_is_not_passed_over(
    authority: Authority, standby: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A mistake that must be corrected is reported, not hidden by the standby key."""
    with Script("RSA-2048") as script:
        script.always["open"] = ConfigurationError("Correct it.")
        client = client_of(script.uri, standby.uri)
        with pytest.raises(ConfigurationError, match="Correct it"):
            client.access_token([SCOPE])


def test_defect_of_a_store_is_named(
    authority: Authority, app: App, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A plugin's defect is not blamed on the authority."""
    with Script("RSA-2048") as script:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        script.fail("sign", ZeroDivisionError("a defect"))
        with pytest.raises(InternalError, match="scripted: raised ZeroDivisionError"):
            client.access_token([SCOPE])
        client.close()


@pytest.mark.parametrize("signing", [ZeroDivisionError("a defect"), bytes(3), None])
def test_standby_key_signs_after_a_defect(
    authority: Authority, app: App, standby: Key, client_of: Callable[..., ConfidentialClient], signing: object
) -> None:
    """A store that raises anything, or returns a malformed signature, does not prevent the standby key from signing."""

    def answer(*_: object) -> bytes:
        if isinstance(signing, Exception):
            raise signing
        return signing  # type: ignore[return-value]

    with Script("RSA-2048") as script:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri, standby.uri)
        script.signing = answer
        assert client.access_token([SCOPE])
        client.close()


# Many threads.


def test_failing_leader_fails_all(authority: Authority, app: App, client_of: Callable[..., ConfidentialClient]) -> None:
    """If the working thread fails, all that wait for the same get its error: one signature is tried, not eight."""
    with Script("RSA-2048") as script:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        client.access_token([OTHER])
        script.always["sign"] = SecretIncorrect("The PIN is wrong.")
        before = script.count("sign")
        with script.held("sign") as gate, ThreadPoolExecutor(1) as pool:
            asked = pool.submit(in_threads, 8, lambda: client.access_token([SCOPE]))
            gate.entered.wait()
            _until_waiting(client, 7)
            gate.open()
            results = asked.result()
        assert {type(result) for result in results} == {SecretIncorrect}
        assert script.count("sign") == before + 1
        client.close()


def test_waiting_thread_keeps_its_time(
    authority: Authority, app: App, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A thread waits for another's request no longer than its timeout, and sends no request itself."""
    with Script("RSA-2048") as script, ThreadPoolExecutor(1) as pool:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        with script.held("sign") as gate:
            patient = pool.submit(client.access_token, [SCOPE])
            gate.entered.wait()
            with pytest.raises(AuthorityUnavailable, match=r"within 0\.05 seconds") as caught:
                client.access_token([SCOPE], timeout=0.05)
            gate.open()
        assert caught.value.transient
        assert patient.result()
        assert len(authority.exchanges) == 1
        client.close()


def test_impatient_leader_fails_alone(
    authority: Authority, app: App, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A thread whose time is over fails alone; one that waits for it and has more time starts again."""
    with Script("RSA-2048") as script, ThreadPoolExecutor(2) as pool:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        stalled = threading.Event()

        def stall(timeout: float) -> None:
            if not stalled.is_set():
                stalled.set()
                _until_waiting(client, 1)
                time.sleep(timeout)
                raise StoreUnavailable("It does not answer.")

        script.before["sign"] = stall
        impatient = pool.submit(client.access_token, [SCOPE], timeout=0.5)
        stalled.wait()
        patient = pool.submit(client.access_token, [SCOPE])

        assert isinstance(impatient.exception(), StoreUnavailable)
        assert patient.result()
        client.close()


def _until_waiting(client: ConfidentialClient, number: int) -> None:
    """Wait until this many threads wait for another's request."""

    def waiting() -> int:
        flights = list(client._flights._flights.values())
        return sum(len(flight.ended._cond._waiters) for flight in flights)  # type: ignore[attr-defined, misc]

    until(lambda: waiting() >= number)


def test_slow_authority_keeps_the_time(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request to an authority that does not respond ends at the caller's timeout."""
    client = client_of(preferred.uri)
    release = threading.Event()
    respond = Authority._respond

    def late(self: Authority, *arguments: Any) -> Any:
        release.wait(30)
        return respond(self, *arguments)

    monkeypatch.setattr(Authority, "_respond", late)
    try:
        with pytest.raises(AuthorityUnavailable, match="cannot be reached"):
            client.access_token([SCOPE], timeout=0.3)
    finally:
        release.set()


# A busy authority.


@pytest.mark.parametrize("body", [b"", b'{"error": "temporarily_unavailable"}', b'{"error": "invalid_client"}'])
def test_busy_authority_tells_when(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], body: bytes
) -> None:
    """429 is not a refusal, whatever its body; the error says after how many seconds to retry."""
    client = client_of(preferred.uri)
    authority.answer_next(429, body, {"Retry-After": "30", "Content-Type": "application/json"})
    for _ in range(2):  # the second time MSAL sends no request
        with pytest.raises(AuthorityUnavailable) as caught:
            client.access_token([SCOPE])
        assert caught.value.retry_after
        assert 20 < caught.value.retry_after <= 30
    assert len(authority.exchanges) == 1
    assert client.access_token([OTHER])


def test_busy_without_a_time(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """If the response does not say how long to wait, MSAL waits five seconds."""
    client = client_of(preferred.uri)
    authority.answer_next(429, b"", {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})
    with pytest.raises(AuthorityUnavailable) as caught:
        client.access_token([SCOPE])
    assert caught.value.retry_after
    assert caught.value.retry_after <= 5


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        '"token"',
        "null",
        "7",
        "{}",
        '{"access_token": 7}',
        '{"access_token": null}',
        '{"access_token": "t", "expires_in": "soon"}',
        '{"access_token": "t", "expires_in": []}',
        '{"access_token": ["t"], "expires_in": 3600}',
        '{"access_token": "t", "expires_in": 3600, "scope": 5}',
        '{"access_token": "t", "expires_in": 3600, "client_info": "%%%"}',
        '{"access_token": "t", "expires_in": 3600, "id_token": "a.b"}',
    ],
)
def test_odd_answer_is_no_defect(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], body: str
) -> None:
    """JSON that is not a token response is reported as an unusable response of the authority."""
    client = client_of(preferred.uri)
    authority.answer_next(200, body, {"Content-Type": "application/json"})
    with pytest.raises(AuthorityUnavailable, match="no usable answer"):
        client.access_token([SCOPE])


@pytest.mark.parametrize(
    "body",
    [
        '{"error": "invalid_client", "error_codes": "700027"}',
        '{"error": "invalid_client", "error_codes": [[], {}, "x"]}',
        '{"error": ["invalid_client"], "error_description": {"a": 1}, "correlation_id": 5}',
        '{"error": "x", "error_description": "\\u0000\\n\\n"}',
    ],
)
def test_odd_refusal_is_a_refusal(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], body: str
) -> None:
    """A refusal whose members have unexpected types is still reported as a refusal."""
    client = client_of(preferred.uri)
    authority.answer_next(400, body, {"Content-Type": "application/json"})
    with pytest.raises(AuthorityRefused) as caught:
        client.access_token([SCOPE])
    assert caught.value.hint


@pytest.mark.parametrize("error", [{"code": 403, "message": "a gateway's"}, ["x"], 7, None, "a\nb", "日本"])
def test_odd_error_does_not_stay(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], error: object
) -> None:
    """An error in another format, as gateways send it, does not affect later requests."""
    client = client_of(preferred.uri)
    authority.answer_next(403, json.dumps({"error": error}), {"Content-Type": "application/json"})
    with pytest.raises(AuthorityRefused):
        client.access_token([SCOPE])
    assert client.access_token([SCOPE])


def test_unknown_option_is_the_programs(authority: Authority, preferred: Key) -> None:
    """An option that MSAL does not have is not a failure of the authority."""
    with pytest.raises(TypeError, match="bogus"):
        ConfidentialClient("id", [preferred.uri], authority=authority.authority, bogus=1)


def test_claims_that_msal_refuses(authority: Authority, preferred: Key) -> None:
    """Claims that MSAL rejects before sending anything are the caller's mistake."""
    client = ConfidentialClient(
        "id",
        [preferred.uri],
        authority=authority.authority,
        ca_file=authority.ca_file,
        instance_discovery=False,
        client_capabilities=["cp1"],
    )
    with client, pytest.raises(ConfigurationError, match="MSAL refuses"):
        client.access_token([SCOPE], claims_challenge="no JSON")
    assert authority.exchanges == []


def test_own_signer_is_used(authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient]) -> None:
    """A signer that the program opened is used as one of the keys, and stays the program's."""
    with keyvouch.open_signer(preferred.uri) as signer:
        client = client_of(signer)
        assert client.access_token([SCOPE])
        client.close()
        assert signer.sign(b"", "PS256")


# A client that runs for months.


def test_token_at_hand_is_used(
    authority: Authority, app: App, client_of: Callable[..., ConfidentialClient], caplog: pytest.LogCaptureFixture
) -> None:
    """A token that is due for renewal but still valid is returned, with a warning, if no store can sign."""
    with Script("RSA-2048") as script:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        body = {"token_type": "Bearer", "access_token": "t", "expires_in": 3600, "refresh_in": 1}
        authority.answer_next(200, json.dumps(body), {"Content-Type": "application/json"})
        assert client.access_token([SCOPE]) == "t"
        until(lambda: script.count("sign") == 1 and _is_due(client))
        script.always["sign"] = SecretIncorrect("The PIN was changed.")
        assert client.access_token([SCOPE]) == "t"
        assert "The PIN was changed" in caplog.text
        del script.always["sign"]
        assert client.access_token([SCOPE]) != "t"
        client.close()


def _is_due(client: ConfidentialClient) -> bool:
    (entry,) = client.token_cache.search("AccessToken")
    return int(entry["refresh_on"]) < time.time() - 1


def test_skipped_key_helps_out(
    authority: Authority, app: App, standby: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A recently refused key is tried if no other key's store can sign."""
    with Script("RSA-2048") as script:
        app.add_certificate(script.newest.chain[0])
        client = client_of(standby.uri, script.uri)
        authority.answer_next(*refusal(700027))
        client.access_token([SCOPE])
        script.always["sign"] = SecretIncorrect("no")
        assert client.access_token([OTHER])
        client.close()


def test_silent_call_fails_over(
    authority: Authority, app: App, preferred: Key, standby: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """`acquire_token_silent` returns None for a refusal, but the next key is still tried."""
    client = client_of(preferred.uri, standby.uri)
    user = base64.urlsafe_b64encode(b'{"uid": "u", "utid": "t"}').decode()
    client.token_cache.add(
        {
            "client_id": app.client_id,
            "scope": [SCOPE],
            "token_endpoint": client.authority.token_endpoint,
            "response": {"access_token": "a", "refresh_token": "r", "expires_in": 1, "client_info": user},
        }
    )
    account = {"home_account_id": "u.t", "environment": "localhost", "realm": app.tenant}
    authority.answer_next(*refusal(700027))
    assert client.acquire_token_silent(scopes=[SCOPE], account=account) is None
    assert len(set(thumbprints(authority))) == 2


def test_closed_signer_gives_way(preferred: Key, standby: Key, client_of: Callable[..., ConfidentialClient]) -> None:
    """A signer that its program closed is skipped."""
    with keyvouch.open_signer(preferred.uri) as signer:
        client = client_of(signer, standby.uri)
    assert client.access_token([SCOPE])


def test_mistake_in_options_opens_nothing(authority: Authority) -> None:
    """An unknown assertion option is reported when the client is created, and no key is opened."""
    with Script("RSA-2048") as script:
        for options in ({"x5t": "bogus"}, {"lifetime": 0}):
            with pytest.raises(ConfigurationError):
                client_credential(script.uri, **options)
            with pytest.raises(ConfigurationError):
                ConfidentialClient("id", [script.uri], assertion=options, authority=authority.authority)
        assert script.count("open") == 0


def test_closed_client_leaves_nothing_open(app: App, client_of: Callable[..., ConfidentialClient]) -> None:
    """A key that is being opened when the client is closed is closed too, and so is one opened afterwards."""
    with Script("RSA-2048") as script, ThreadPoolExecutor(1) as pool:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        with script.held("open") as gate:
            asking = pool.submit(client.access_token, [SCOPE])
            gate.entered.wait()
            client.close()
            gate.open()
        assert isinstance(asking.exception(), KeyUnusable)
        assert script.count("close key") == script.count("open") == 1
        assert client.closed


def test_child_of_a_fork_asks_by_itself(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A client created before a fork works in the child, whatever locks the parent's threads held."""
    client = client_of(preferred.uri)
    client.access_token([SCOPE])
    mapping = client.http_client._expiring_mapping
    with client.token_cache._lock, mapping._lock, client._telemetry_lock:
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if client.access_token([OTHER]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.access_token(["api://parent/.default"])


# Discovery and TLS.


def make_client(authority: Authority, uri: str, **options: Any) -> ConfidentialClient:
    return ConfidentialClient("id", [uri], authority=authority.authority, instance_discovery=False, **options)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, "<html></html>", AuthorityUnavailable),
        (200, "", AuthorityUnavailable),
        (200, "[]", AuthorityUnavailable),
        (200, "{}", AuthorityUnavailable),
        (200, '{"token_endpoint": 5, "authorization_endpoint": []}', AuthorityUnavailable),
        (401, "", AuthorityUnavailable),
        (403, "no", AuthorityUnavailable),
        (429, "", AuthorityUnavailable),
        (503, "", AuthorityUnavailable),
        (400, "{}", AuthorityRefused),
        (404, "", AuthorityRefused),
    ],
)
def test_odd_discovery_told(
    authority: Authority,
    preferred: Key,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    body: str,
    error: type[KeyvouchError],
) -> None:
    """Only an unknown tenant is a refusal; anything else instead of endpoints is an unusable response."""
    response = Response(status, body.encode(), {})
    monkeypatch.setattr(Authority, "_respond", lambda *_: response)
    with pytest.raises(error):
        make_client(authority, preferred.uri, ca_file=authority.ca_file)


def test_reason_of_no_connection_told(preferred: Key) -> None:
    """The error contains the system's reason, not the exception's name."""
    with pytest.raises(AuthorityUnavailable, match="cannot be reached: Connection refused"):
        ConfidentialClient("id", [preferred.uri], authority="https://localhost:9/t", instance_discovery=False)


def test_wrong_host_told(authority: Authority, preferred: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a certificate of another host does not suggest ca-file."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: resolve("localhost", *rest))
    with pytest.raises(ConfigurationError, match="not trusted") as caught:
        ConfidentialClient(
            "id",
            [preferred.uri],
            authority=authority.authority.replace("localhost", "login.example"),
            ca_file=authority.ca_file,
            instance_discovery=False,
        )
    assert "another server's" in caught.value.hint


def test_no_tls_told(preferred: Key) -> None:
    """A port that does not speak TLS is reported as such."""
    with socket.create_server(("localhost", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(9000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(ConfigurationError, match="There is no TLS"):
            ConfidentialClient(
                "id",
                [preferred.uri],
                authority=f"https://localhost:{server.getsockname()[1]}/t",
                instance_discovery=False,
            )


def test_no_certificates_in_ca_file(authority: Authority, preferred: Key, tmp_path: Path) -> None:
    """A ca-file in another format is reported."""
    (tmp_path / "ca.pem").write_text("no certificates")
    with pytest.raises(ConfigurationError, match="ca-file") as caught:
        make_client(authority, preferred.uri, ca_file=str(tmp_path / "ca.pem"))
    assert "PEM" in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://proxy:1", "http://[::1", "no address"])
def test_useless_proxy_told(authority: Authority, preferred: Key, proxy: str) -> None:
    """An invalid proxy address is a configuration error; the tenant is not blamed."""
    with pytest.raises((ConfigurationError, AuthorityUnavailable)) as caught:
        ConfidentialClient(
            "id",
            [preferred.uri],
            authority="https://login.example/t",
            instance_discovery=False,
            proxy=proxy,
        )
    assert "proxy" in str(caught.value).lower()


def test_dripping_answer_ends(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body sent one byte at a time is abandoned in time, although each byte comes soon."""
    client = client_of(preferred.uri)
    assert client._session

    class Drip(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            time.sleep(0.05)
            return b" "

    adapter = client._session.get_adapter("https://localhost")

    def send(self: Any, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response.raw, response.request = 200, Drip(), request
        return response

    monkeypatch.setattr(type(adapter), "send", send)
    with pytest.raises(AuthorityUnavailable):
        client.access_token([SCOPE], timeout=0.3)


@pytest.mark.parametrize("token", [5, None, "", ["t"], "a\nb", "日本"])
def test_no_token_is_not_given_again(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient], token: object
) -> None:
    """A token that is not a valid string is an error, even if MSAL has cached it; the next call sends a new request."""
    client = client_of(preferred.uri)
    body = {"token_type": "Bearer", "access_token": token, "expires_in": 3600}
    authority.answer_next(200, json.dumps(body), {"Content-Type": "application/json"})
    with pytest.raises(AuthorityUnavailable):
        client.access_token([SCOPE])
    assert client.access_token([SCOPE]).count(".") == 2
