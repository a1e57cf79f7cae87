"""Which key is tried when."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

import keyvouch
from keyvouch.entra import aadsts_advice, key_failover
from keyvouch.entra.msal import ConfidentialClient, client_credential
from keyvouch.errors import (
    AuthorityRefused,
    ConfigurationError,
    InternalError,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    SecretIncorrect,
    StoreUnavailable,
)
from keyvouch.testing.authority import App, Authority
from scripted_store import Script, until
from signing_in import SCOPE, Key, make_key

OTHER = "api://other/.default"


def refusal(code: int, error: str = "invalid_client") -> tuple[int, str, dict[str, str]]:
    """A response shaped like Entra ID's."""
    body = {"error": error, "error_description": f"AADSTS{code}: No.", "error_codes": [code], "correlation_id": "c"}
    return 401, json.dumps(body), {"Content-Type": "application/json"}


def thumbprints(authority: Authority) -> list[object]:
    """The thumbprint with which each request was signed."""
    return [(exchange.header or {}).get("x5t#S256") for exchange in authority.exchanges]


# Refused by the authority.


@pytest.mark.parametrize("code", sorted(aadsts_advice.KEY_REFUSED))
def test_next_key_is_tried_after_a_refusal(
    authority: Authority, preferred: Key, standby: Key, client_of: Callable[..., ConfidentialClient], code: int
) -> None:
    """A key refused by its own fault is tried once, since reloading gives the same one; then the next key is used."""
    client = client_of(preferred.uri, standby.uri)
    authority.answer_next(*refusal(code))

    assert client.access_token([SCOPE])
    assert [exchange.status for exchange in authority.exchanges] == [401, 200]
    assert len(set(thumbprints(authority))) == 2


@pytest.mark.parametrize("code", [*sorted(aadsts_advice.ADVICE.keys() - aadsts_advice.KEY_REFUSED), 999999])
def test_refusal_of_the_request_is_not_retried(
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


def test_refusal_after_an_unreachable_store_is_shown_once(
    authority: Authority,
    preferred: Key,
    standby: Key,
    client_of: Callable[..., ConfidentialClient],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the last key is refused, only the error has the authority's text; it mentions the key that was skipped."""
    client = client_of(preferred.uri.replace("preferred.pem", "gone.pem"), standby.uri)
    authority.answer_next(*refusal(700027))
    with caplog.at_level(logging.WARNING, "keyvouch"), pytest.raises(AuthorityRefused) as caught:
        client.access_token([SCOPE])
    assert "AADSTS" in caught.value.message
    assert "AADSTS" not in caplog.text
    assert "Skipped before: " in caught.value.hint
    assert "does not exist" in caught.value.hint


def test_key_that_does_not_open_is_skipped_with_its_hint(
    standby: Key, client_of: Callable[..., ConfidentialClient], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning about a key that cannot be opened has the reason, and the hint on a line of its own."""
    with caplog.at_level(logging.WARNING, "keyvouch"):
        client_of(f"pem:{tmp_path}/missing/app.pem", standby.uri).access_token([SCOPE])
    (line,) = caplog.messages
    assert line.startswith(f"Skipping a key ({tmp_path}/missing/app.pem does not exist.): ")
    assert line.partition("\n")[2].startswith("Correct the path: the folder ")


def test_error_of_the_last_key_is_not_a_warning_too(
    client_of: Callable[..., ConfidentialClient], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If no key can be opened, the last one's error is raised, and only the others are warnings."""
    client = client_of(f"pem:{tmp_path}/first.pem", f"pem:{tmp_path}/last.pem")
    with caplog.at_level(logging.WARNING, "keyvouch"), pytest.raises(KeyNotFound, match=r"last\.pem"):
        client.access_token([SCOPE])
    (line,) = caplog.messages
    assert line.startswith(f"Skipping a key ({tmp_path}/first.pem does not exist.): ")


def test_refused_key_is_skipped_for_five_minutes(
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
    assert len([record for record in caplog.records if "Skipping a key" in record.message]) == 1
    first, second, third = thumbprints(authority)
    assert first != second == third

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + key_failover.REFUSED_FOR + 1)
    authority.answer_next(*refusal(700027))
    client.access_token(["api://later/.default"])
    assert thumbprints(authority)[3:] == [second, first]


def test_all_keys_are_tried_if_all_were_refused(
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


def test_reloaded_key_is_tried_once_more(
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


def test_refusal_contains_the_thumbprint_sent(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """The thumbprint in the error is that of the assertion sent."""
    authority.answer_next(*refusal(700016))
    with pytest.raises(AuthorityRefused) as caught:
        client_of(preferred.uri).access_token([SCOPE])
    assert caught.value.thumbprint == preferred.certificate.fingerprint(SHA256()).hex().upper()


# Failed in the store.


def test_stalled_store_leaves_time_for_the_next_key(
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
def test_last_error_is_raised_if_all_stores_fail(
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


def test_misconfigured_key_is_not_skipped(
    authority: Authority, standby: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A mistake that must be corrected is reported, not hidden by the standby key."""
    with Script("RSA-2048") as script:
        script.always["open"] = ConfigurationError("Correct it.")
        client = client_of(script.uri, standby.uri)
        with pytest.raises(ConfigurationError, match="Correct it"):
            client.access_token([SCOPE])


def test_store_defect_is_an_internal_error(
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


def test_signer_opened_by_the_program(
    authority: Authority, preferred: Key, client_of: Callable[..., ConfidentialClient]
) -> None:
    """A signer that the program opened is used as one of the keys, and stays the program's."""
    with keyvouch.open_signer(preferred.uri) as signer:
        client = client_of(signer)
        assert client.access_token([SCOPE])
        client.close()
        assert signer.sign(b"", "PS256")


# A client that runs for months.


def test_cached_token_is_used_if_no_store_can_sign(
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


def test_refused_key_is_tried_if_no_other_store_can_sign(
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


def test_closed_signer_is_skipped(preferred: Key, standby: Key, client_of: Callable[..., ConfidentialClient]) -> None:
    """A signer that its program closed is skipped."""
    with keyvouch.open_signer(preferred.uri) as signer:
        client = client_of(signer, standby.uri)
    assert client.access_token([SCOPE])


def test_invalid_assertion_options_open_no_key(authority: Authority) -> None:
    """An unknown assertion option is reported when the client is created, and no key is opened."""
    with Script("RSA-2048") as script:
        for options in ({"x5t": "bogus"}, {"lifetime": 0}):
            with pytest.raises(ConfigurationError):
                client_credential(script.uri, **options)
            with pytest.raises(ConfigurationError):
                ConfidentialClient("id", [script.uri], assertion=options, authority=authority.authority)
        assert script.count("open") == 0


def test_closing_a_client_closes_all_keys(app: App, client_of: Callable[..., ConfidentialClient]) -> None:
    """A key that is being opened when the client is closed is closed too, and so is one opened afterwards."""
    with Script("RSA-2048") as script, ThreadPoolExecutor(1) as pool:
        app.add_certificate(script.newest.chain[0])
        client = client_of(script.uri)
        with script.held("open") as gate:
            pending = pool.submit(client.access_token, [SCOPE])
            gate.entered.wait()
            client.close()
            gate.open()
        assert isinstance(pending.exception(), KeyUnusable)
        assert script.count("close key") == script.count("open") == 1
        assert client.closed


def test_client_works_in_a_forked_child(
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
