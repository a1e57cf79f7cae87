"""Client assertions, checked with `cryptography`, joserfc and PyJWT."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keyvouch import ClientAssertion, open_signer
from keyvouch import assertion as assertion_module
from keyvouch._formats.text_encodings import base64url
from keyvouch.algorithms import Algorithm
from keyvouch.assertion import jwk_thumbprint, public_jwk
from keyvouch.errors import (
    AlgorithmUnsupported,
    CertificateExpired,
    CertificateNotYetValid,
    ConfigurationError,
    StoreUnavailable,
)
from keyvouch.local_key import sign_locally
from scripted_store import LONG_ENOUGH, MESSAGE, Script, certify, is_signed, new_key, until
from traces import traces

ENDPOINT = "https://login.example/tenant/oauth2/v2.0/token"
CONTEXT = {"client_id": "00000000-0000-4000-8000-000000000001", "token_endpoint": ENDPOINT}
PREFERRED = [("RSA-2048", "PS256"), ("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"), ("Ed25519", "EdDSA")]


def decode(part: str) -> bytes:
    """Base64url without padding, and nothing else (RFC 7515, section 2)."""
    assert not set(part) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def header_of(assertion: str) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(decode(assertion.split(".", maxsplit=1)[0]))
    return header


def claims_of(assertion: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(decode(assertion.split(".")[1]))
    return claims


def made(
    kind: str = "RSA-2048",
    *,
    chain: list[x509.Certificate] | None = None,
    context: Mapping[str, str] = CONTEXT,
    **options: Any,
) -> str:
    """One assertion from a new signer."""
    with Script(kind, chain=chain) as script, open_signer(script.uri) as signer:
        return ClientAssertion(signer, **options)(context)


def thumbprint(certificate: x509.Certificate, name: str) -> str:
    digest = hashlib.new(name, certificate.public_bytes(Encoding.DER)).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


# Verified by others.


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 names it Ed25519; servers need not know that yet
@pytest.mark.parametrize(("kind", "name"), [*PREFERRED, ("RSA-2048", "RS256"), ("RSA-2048", "PS512")])
def test_other_libraries_accept_the_assertion(kind: str, name: str) -> None:
    """`cryptography`, PyJWT and joserfc verify an assertion of each algorithm."""
    assertion, public_key = made(kind, algorithm=name), new_key(kind).public_key()
    signed, _, signature = assertion.rpartition(".")
    assert is_signed(public_key, decode(signature), signed.encode(), name)
    assert jwt.decode(assertion, public_key, [name], audience=ENDPOINT)["iss"] == CONTEXT["client_id"]
    kinds: dict[str, Any] = {"RSA-2048": RSAKey, "Ed25519": OKPKey}
    theirs = kinds.get(kind, ECKey).import_key(public_jwk(public_key))
    judge = jws.JWSRegistry(algorithms=[name], strict_check_header=False)
    assert json.loads(jws.deserialize_compact(assertion, theirs, registry=judge).payload) == claims_of(assertion)


# The header.


@pytest.mark.parametrize(("kind", "name"), PREFERRED)
def test_header_with_certificate(kind: str, name: str) -> None:
    """The header contains the algorithm, the type, and the certificate's SHA-256 thumbprint, and nothing else."""
    certificate = certify(new_key(kind))
    header = header_of(made(kind, chain=[certificate]))
    assert header == {"alg": name, "typ": "JWT", "x5t#S256": thumbprint(certificate, "sha256")}


@pytest.mark.parametrize(("kind", "name"), PREFERRED)
def test_header_without_certificate(kind: str, name: str) -> None:
    """Without a certificate the key is identified by its RFC 7638 thumbprint, as joserfc computes it."""
    kinds: dict[str, Any] = {"RSA-2048": RSAKey, "Ed25519": OKPKey}
    theirs = kinds.get(kind, ECKey).import_key(public_jwk(new_key(kind).public_key()))
    assert header_of(made(kind, chain=[])) == {"alg": name, "typ": "JWT", "kid": theirs.thumbprint()}


@pytest.mark.parametrize(
    ("name", "x5t", "field", "digest"),
    [
        ("PS256", "auto", "x5t#S256", "sha256"),
        ("RS256", "auto", "x5t", "sha1"),
        ("RS512", "auto", "x5t#S256", "sha256"),
        ("RS256", "sha256", "x5t#S256", "sha256"),
        ("PS256", "sha1", "x5t", "sha1"),
        ("PS256", "sha256", "x5t#S256", "sha256"),
    ],
)
def test_thumbprint_field(name: str, x5t: str, field: str, digest: str) -> None:
    """`x5t="auto"` is SHA-256, or SHA-1 with RS256; any other value is used as given."""
    certificate = certify(new_key("RSA-2048"))
    header = header_of(made(chain=[certificate], algorithm=name, x5t=x5t))
    assert header == {"alg": name, "typ": "JWT", field: thumbprint(certificate, digest)}


@pytest.mark.parametrize("certified", [True, False])
def test_kid_is_sent_as_it_is(certified: bool) -> None:
    """A requested `kid` is in the header, beside the certificate or instead of the key's thumbprint."""
    header = header_of(made(chain=[certify(new_key("RSA-2048"))] if certified else [], kid="my key"))
    assert header["kid"] == "my key"
    assert ("x5t#S256" in header) is certified


def test_chain_is_sent_leaf_first() -> None:
    """`x5c` is the whole chain, leaf first, in base64 with padding and without newlines (RFC 7515, section 4.1.6)."""
    root, key = new_key("P-256", 1), new_key("RSA-2048")
    chain = [certify(key, "app", root, issuer_name="root"), certify(root, "root")]
    header = header_of(made(chain=chain, send_x5c=True))
    assert header["x5c"] == [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in chain]
    assert not any("\n" in each for each in header["x5c"])


def test_header_is_compact_and_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header has no whitespace, and is encoded once as long as the key and its certificate stay the same."""
    encoded = []
    make_header = ClientAssertion._header

    def counted(self: ClientAssertion, *arguments: Any) -> Any:
        encoded.append(arguments)
        return make_header(self, *arguments)

    monkeypatch.setattr(ClientAssertion, "_header", counted)
    for chain in ([], [certify(new_key())]):
        encoded.clear()
        with Script(chain=chain) as script:
            script.newest.shown = script.newest.public_key  # like a store that keeps its public keys
            with open_signer(script.uri) as signer:
                make = ClientAssertion(signer)
                headers = {make(CONTEXT).split(".")[0] for _ in range(3)}
        assert len(headers) == len(encoded) == 1
        assert b" " not in decode(headers.pop())


def test_no_certificate_no_chain() -> None:
    """`send_x5c` without a certificate sends none."""
    assert "x5c" not in header_of(made(chain=[], send_x5c=True))


def test_header_follows_a_new_certificate() -> None:
    """After a reload the header names the new certificate, even if the key is the same."""
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer)
        make(CONTEXT)
        script.newest.chain = (certify(new_key(), "renewed"),)
        signer.reload()
        assert header_of(make(CONTEXT))["x5t#S256"] == thumbprint(script.newest.chain[0], "sha256")


# The claims.


def test_claims_are_complete() -> None:
    """`aud` is the token endpoint, `iss` and `sub` are the client, times are integers ten minutes apart."""
    before = int(time.time())
    claims = claims_of(made())
    assert list(claims) == ["aud", "iss", "sub", "jti", "nbf", "iat", "exp"]
    assert claims["aud"] == ENDPOINT
    assert claims["iss"] == claims["sub"] == CONTEXT["client_id"]
    assert uuid.UUID(claims["jti"]).version == 4
    assert all(type(claims[name]) is int for name in ("nbf", "iat", "exp"))
    assert before <= claims["nbf"] == claims["iat"] == claims["exp"] - 600 <= time.time()


def test_jti_is_unique() -> None:
    """No two assertions have the same `jti`."""
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer)
        assert len({claims_of(make(CONTEXT))["jti"] for _ in range(50)}) == 50


def test_given_audience_and_lifetime() -> None:
    """`audience` replaces the token endpoint; `lifetime` is counted from `iat`."""
    claims = claims_of(made(audience="https://issuer.example", lifetime=61))
    assert claims["aud"] == "https://issuer.example"
    assert claims["exp"] - claims["iat"] == 61


@pytest.mark.parametrize("odd", ['"},{"', "a\\b", "é\u2028\n", "\x00"])
def test_special_characters_are_escaped(odd: str) -> None:
    """Whatever a client id or an endpoint contains, the claims are valid JSON and it stays a string value."""
    claims = claims_of(made(context={"client_id": odd, "token_endpoint": odd}))
    assert (claims["aud"], claims["iss"], claims["sub"]) == (odd, odd, odd)


@pytest.mark.parametrize(
    "options",
    [
        {"x5t": "md5"},
        {"lifetime": 0},
        {"lifetime": -1},
        {"reuse": -1},
        {"reuse": 541},
        {"lifetime": 100, "reuse": 41},
        {"algorithm": "HS256"},
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    """Meaningless options are refused when they are given, not at the first signature."""
    with Script() as script, open_signer(script.uri) as signer, pytest.raises(ConfigurationError):
        ClientAssertion(signer, **options)


def test_message_for_invalid_options() -> None:
    """The error repeats the value, and the hint lists what is allowed."""
    with Script() as script, open_signer(script.uri) as signer:
        with pytest.raises(ConfigurationError, match="'md5'") as caught:
            ClientAssertion(signer, x5t="md5")  # type: ignore[arg-type]
        assert all(f'"{each}"' in caught.value.hint for each in ("auto", "sha256", "sha1"))
        with pytest.raises(ConfigurationError, match="Invalid lifetime or reuse.*: 100 and 41 seconds") as caught:
            ClientAssertion(signer, lifetime=100, reuse=41)
        assert "60 seconds more than reuse" in caught.value.hint


@pytest.mark.parametrize("options", [{"lifetime": 1}, {"reuse": 540}, {"lifetime": 61, "reuse": 1}])
def test_limits_of_the_options(options: dict[str, Any]) -> None:
    """An assertion may live for one second, and be reused until a minute before it expires."""
    claims = claims_of(made(**options))
    assert claims["exp"] - claims["iat"] == options.get("lifetime", 600)


def test_algorithm_of_an_endpoint() -> None:
    """An override of `algorithm_for` or `audience_of` receives the endpoint that the assertion is for."""
    endpoints = []

    class ForEndpoint(ClientAssertion):
        def algorithm_for(self, endpoint: str) -> Algorithm | None:
            endpoints.append(endpoint)
            return super().algorithm_for(endpoint)

        def audience_of(self, endpoint: str) -> str:
            endpoints.append(endpoint)
            return super().audience_of(endpoint)

    with Script() as script, open_signer(script.uri) as signer:
        ForEndpoint(signer)(CONTEXT)
    assert endpoints == [ENDPOINT] * 2


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [("https://example.okta.com/oauth2/v1/token", "RS256"), (ENDPOINT, "PS256")],
)
def test_default_algorithm_of_an_rsa_key(endpoint: str, name: str) -> None:
    """A server that is not Microsoft's gets RS256, which all should support; Entra ID gets PS256."""
    context = {**CONTEXT, "token_endpoint": endpoint}
    assert header_of(made(context=context))["alg"] == name
    assert header_of(made(context=context, algorithm="PS384"))["alg"] == "PS384"


def test_unsuitable_algorithm() -> None:
    """An algorithm that the key does not support is refused before the store is called."""
    with Script() as script, open_signer(script.uri) as signer:
        with pytest.raises(AlgorithmUnsupported):
            ClientAssertion(signer, algorithm="PS256")(CONTEXT)
        assert script.count("sign") == 0


def test_rs256_has_the_same_claims() -> None:
    """A store without PSS signs the same payload with RS256, and the header identifies the certificate by SHA-1."""
    payloads = []

    def no_pss(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
        payloads.append(message.split(b".")[1])
        if algorithm.name == "PS256":
            raise AlgorithmUnsupported("no PSS here")
        return sign_locally(key, message, algorithm)

    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.signing = no_pss
        header = header_of(ClientAssertion(signer)(CONTEXT))
        assert header == {"alg": "RS256", "typ": "JWT", "x5t": thumbprint(script.newest.chain[0], "sha1")}
    assert payloads[0] == payloads[1]


# Validity.


@pytest.mark.parametrize(("days", "error"), [((-9, -1), CertificateExpired), ((1, 9), CertificateNotYetValid)])
def test_invalid_certificate_is_refused(days: tuple[int, int], error: type[Exception]) -> None:
    """An assertion with a certificate that is not currently valid is refused; plain signatures are not."""
    with Script(chain=[certify(new_key(), days=days)]) as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer)
        for _ in range(2):
            with pytest.raises(error) as caught:
                make(CONTEXT)
            assert getattr(caught.value, "uri", None) == str(signer.uri)
        assert script.count("sign") == 0
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")


def test_certificate_that_expires_while_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validity is checked for each assertion."""
    with Script(chain=[certify(new_key(), days=(-30, 0))]) as script, open_signer(script.uri) as signer:
        end = script.newest.chain[0].not_valid_after_utc.timestamp()
        make = ClientAssertion(signer)
        monkeypatch.setattr(time, "time", lambda: end - 60)
        make(CONTEXT)
        monkeypatch.setattr(time, "time", lambda: end + 60)
        until(lambda: signer.certificate_status().state == "expired")
        with pytest.raises(CertificateExpired):
            make(CONTEXT)


# Reuse.


def test_assertion_is_reused() -> None:
    """With `reuse` an assertion is reused for a client and endpoint for that long; another client gets its own."""
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer, reuse=300)
        first = make(CONTEXT)
        assert make(CONTEXT) == first
        assert make({**CONTEXT, "client_id": "another"}) != first
        assert make({**CONTEXT, "token_endpoint": "https://other.example"}) != first
        assert script.count("sign") == 3


def test_assertion_is_not_reused_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `reuse` seconds a new assertion is made."""
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer, reuse=300)
        first, clock = make(CONTEXT), time.time()
        monkeypatch.setattr(time, "time", lambda: clock + 299)
        assert make(CONTEXT) == first
        monkeypatch.setattr(time, "time", lambda: clock + 301)
        assert make(CONTEXT) != first


def test_assertion_is_reused_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """An assertion is reused in the same instant, but not `reuse` seconds later or if the clock went back."""
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer, reuse=300)
        clock = float(int(time.time()))
        made = []
        for moment in (clock, clock, clock + 300, clock + 299):
            monkeypatch.setattr(time, "time", lambda now=moment: now)
            made.append(make(CONTEXT))
        assert made[0] == made[1]
        assert len(set(made)) == 3


def test_assertion_is_reused_only_for_its_client() -> None:
    """A reusable assertion names its client and endpoint like any other."""
    claims = claims_of(made(reuse=300))
    assert (claims["iss"], claims["aud"]) == (CONTEXT["client_id"], ENDPOINT)


def test_concurrent_clients_get_separate_assertions() -> None:
    """Two clients that ask at the same instant do not get each other's assertion."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(2) as pool:
        make = ClientAssertion(signer, reuse=300)
        with script.held("sign") as gate:
            first = pool.submit(make, CONTEXT)
            assert gate.entered.wait(LONG_ENOUGH)
            second = pool.submit(make, {**CONTEXT, "client_id": "another"})
            until(lambda: len(make._flights._flights) == 2)
            gate.open()
        assert claims_of(first.result())["iss"] == CONTEXT["client_id"]
        assert claims_of(second.result())["iss"] == "another"


@pytest.mark.parametrize("same_key", [True, False])
def test_assertion_of_a_former_key_is_dropped(same_key: bool) -> None:
    """After a reload that found another key or certificate, the old assertion is not reused."""
    with Script() as script:
        script.newest.shown = script.newest.public_key  # like a store that keeps its public keys
        with open_signer(script.uri) as signer:
            make = ClientAssertion(signer, reuse=300)
            first = make(CONTEXT)
            if same_key:
                script.newest.chain = (certify(new_key(), "renewed"),)
            else:
                script.rotate()
            signer.reload()
            second = make(CONTEXT)
            assert header_of(second)["x5t#S256"] == thumbprint(script.newest.chain[0], "sha256")
            assert first != second == make(CONTEXT)


def test_number_of_cached_assertions_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many clients ask within `reuse` seconds, at most so many assertions are cached; the latest is used."""
    monkeypatch.setattr(assertion_module, "_MAX_REUSABLE", 10)
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer, reuse=300)
        for number in range(50):
            context = {**CONTEXT, "client_id": str(number)}
            assert make(context) == make(context)
            assert len(make._reusable) <= 10


def test_old_assertions_are_evicted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many, assertions that are too old for reuse are dropped first."""
    monkeypatch.setattr(assertion_module, "_MAX_REUSABLE", 4)
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer, reuse=300)
        contexts = [{**CONTEXT, "client_id": str(number)} for number in range(5)]
        made = [make(context) for context in contexts[:4]]
        for number in (0, 1):
            make._reusable[(str(number), ENDPOINT)].made -= 301
        make(contexts[4])
        assert [make(context) for context in contexts[2:4]] == made[2:4]


def test_newer_half_is_kept_on_eviction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest half of the limit is kept; an assertion of this second is, one of `reuse` seconds ago is not."""
    monkeypatch.setattr(assertion_module, "_MAX_REUSABLE", 6)
    clock = float(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: clock)

    def kept(*ages: float) -> set[str]:
        with Script() as script, open_signer(script.uri) as signer:
            make = ClientAssertion(signer, reuse=300)
            for number, age in enumerate(ages):
                make({**CONTEXT, "client_id": str(number)})
                make._reusable[str(number), ENDPOINT].made -= age
            make({**CONTEXT, "client_id": "new"})
            return {client for client, _ in make._reusable}

    assert kept(300, 300, 300, 300, 299, 0) == {"4", "5", "new"}
    assert kept(0.5, 300, 300, 300, 300, 0) == {"0", "5", "new"}
    assert kept(10, 1, 30, 2, 20, 3) == {"1", "3", "5", "new"}
    assert kept(300, 1, 2, 3, 4) == {"0", "1", "2", "3", "4", "new"}
    assert kept(-5, -5, 1, 2, 3, 4) == {"2", "3", "4", "new"}


def test_assertion_survives_a_lost_session() -> None:
    """If the key is the same as before, its assertion is reused."""
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer, reuse=300)
        first = make(CONTEXT)
        script.drop()
        signer.sign(MESSAGE, "ES256")
        assert make(CONTEXT) == first


def test_threads_share_an_assertion() -> None:
    """Threads that need the same assertion at the same time make one signature."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(8) as pool:
        make = ClientAssertion(signer, reuse=300)
        with script.held("sign") as gate:
            making = [pool.submit(make, CONTEXT) for _ in range(8)]
            assert gate.entered.wait(LONG_ENOUGH)
            gate.open()
        assert len({each.result() for each in making}) == 1
        assert script.count("sign") == 1


def test_waiting_thread_times_out() -> None:
    """A thread waits for another's assertion no longer than its own timeout, and signs nothing itself."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(1) as pool:
        make = ClientAssertion(signer, reuse=300)
        with script.held("sign") as gate:
            first = pool.submit(make, CONTEXT)
            assert gate.entered.wait(LONG_ENOUGH)
            with pytest.raises(StoreUnavailable, match="Timed out waiting for the assertion") as caught:
                make(CONTEXT, timeout=0.01)
            assert "later" in caught.value.hint
            gate.open()
        assert claims_of(first.result())["aud"] == ENDPOINT
        assert script.count("sign") == 1


def test_failure_is_not_cached() -> None:
    """If an assertion could not be made, the next caller tries again."""
    with Script() as script, open_signer(script.uri) as signer:
        make = ClientAssertion(signer, reuse=300)
        script.fail("sign", StoreUnavailable("down"))
        with pytest.raises(StoreUnavailable):
            make(CONTEXT, timeout=0.05)
        assert claims_of(make(CONTEXT))["aud"] == ENDPOINT


def test_error_contains_no_assertion() -> None:
    """If signing fails, neither the error nor any frame of it contains what was to be signed."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", AlgorithmUnsupported("no"))
        with pytest.raises(AlgorithmUnsupported) as caught:
            ClientAssertion(signer)(CONTEXT)
    encoded = base64.urlsafe_b64encode(b'{"aud":"https://login')[:24].decode()
    assert not any(encoded in text for text in traces(caught.value))


def test_assertion_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """The audit record of an assertion says whose and for whom it is, but does not contain it."""
    caplog.set_level(logging.INFO, "keyvouch.audit")
    assertion = made()
    [line] = caplog.messages
    record = json.loads(line)
    claims = claims_of(assertion)
    assert (record["jti"], record["client_id"], record["audience"]) == (claims["jti"], claims["iss"], claims["aud"])
    assert not any(part in line for part in assertion.split("."))


# Key thumbprints.


def number(text: str) -> int:
    return int.from_bytes(decode(text), "big")


def test_thumbprint_of_rfc_7638() -> None:
    """The example in RFC 7638, section 3.1, has the thumbprint given there."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
        "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzK"
        "nqDKgw"
    )
    public_key = rsa.RSAPublicNumbers(number("AQAB"), number(n)).public_key()
    assert jwk_thumbprint(public_key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_thumbprint_of_rfc_8037() -> None:
    """The example in RFC 8037, appendix A.3, has the thumbprint given there."""
    public_key = ed25519.Ed25519PublicKey.from_public_bytes(decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
    assert jwk_thumbprint(public_key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_coordinates_have_full_length(curve: str) -> None:
    """An EC key's coordinates have the curve's width, including leading zeros (RFC 7518, section 6.2.1.2)."""
    jwk = public_jwk(new_key(curve).public_key())
    assert [len(decode(jwk[name])) for name in ("x", "y")] == [(int(curve[2:]) + 7) // 8] * 2


@pytest.mark.parametrize(
    ("curve", "secret", "name"),
    [
        (ec.SECP256R1(), 379, "x"),
        (ec.SECP256R1(), 43, "y"),
        (ec.SECP384R1(), 197, "x"),
        (ec.SECP384R1(), 176, "y"),
    ],
)
def test_coordinate_with_leading_zeros(curve: ec.EllipticCurve, secret: int, name: str) -> None:
    """A coordinate that would fit into fewer bytes keeps its leading zeros."""
    public_key = ec.derive_private_key(secret, curve).public_key()
    data = decode(public_jwk(public_key)[name])
    assert len(data) == curve.key_size // 8
    assert data[0] == 0
    assert int.from_bytes(data, "big") == getattr(public_key.public_numbers(), name)


@pytest.mark.parametrize(
    ("data", "text"), [(b"", b""), (b"\0", b"AA"), (b"\0\0", b"AAA"), (b"\0\0\x17", b"AAAX"), (b"\xff\xef", b"_-8")]
)
def test_base64url(data: bytes, text: bytes) -> None:
    """The URL-safe alphabet without padding (RFC 7515, section 2)."""
    assert base64url(data) == text
