"""What the Key Vault simulator refuses, with the service's messages; our own client sends what the SDK would not."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from keyvouch.testing.authority import Authority
from keyvouch_azure_keyvault.testing import KeyVault
from keyvouch_azure_keyvault.testing.fixtures import key_vault  # noqa: F401 - a fixture
from simulator_clients import Raw, token_of
from testing.clients import encode, key_for

DIGEST = encode(hashlib.sha256(b"message").digest())


@pytest.fixture
def raw(key_vault: KeyVault) -> Iterator[Raw]:
    with Raw(key_vault) as client:
        yield client


class TestToken:
    def test_challenge_names_tenant_and_resource(self, raw: Raw, key_vault: KeyVault) -> None:
        """A request without a token gets 401 and a challenge."""
        answer = raw.ask("GET", "keys", token="")
        assert answer.status_code == 401
        assert answer.json()["error"]["message"] == "AKV10000: Request is missing a Bearer or PoP token."
        expected = f'Bearer authorization="{key_vault.authority.authority}", resource="https://vault.azure.net"'
        assert answer.headers["WWW-Authenticate"] == expected

    def test_token_is_asked_for_before_all_else(self, raw: Raw) -> None:
        """Even a request that is wrong in every way gets the challenge first."""
        assert raw.refused("POST", "nothing/here?api-version=0", token="")[0] == 401

    def test_audience_must_be_key_vault(self, raw: Raw, authority: Authority) -> None:
        """A token for another audience is refused; a trailing slash makes no difference."""
        status, _, message = raw.refused("GET", "keys", token=token_of(authority, "https://graph.microsoft.com"))
        assert (status, message[:9]) == (401, "AKV10022:")
        assert raw.ask("GET", "keys", token=token_of(authority, "https://vault.azure.net/")).status_code == 200

    def test_tenant_must_be_the_vaults(self, raw: Raw, authority: Authority) -> None:
        """A token that the same authority issued for another tenant is refused."""
        foreign = token_of(authority, "https://vault.azure.net", "fabrikam.example")
        assert raw.refused("GET", "keys", token=foreign)[2].startswith("AKV10032: Invalid issuer.")

    def test_signature_must_be_the_authoritys(self, raw: Raw) -> None:
        """Another key's signature, a changed claim, and a key that the authority does not publish are refused."""
        header, claims = (
            jwt.get_unverified_header(raw.token),
            jwt.decode(raw.token, options={"verify_signature": False}),
        )
        forged = jwt.encode(claims, key_for("RSA"), "RS256", {"kid": header["kid"]})
        assert raw.refused("GET", "keys", token=forged)[0] == 401
        parts = raw.token.split(".")
        assert raw.refused("GET", "keys", token=".".join([*parts[:2], forged.split(".")[2]]))[0] == 401
        unknown = jwt.encode(claims, key_for("RSA"), "RS256", {"kid": "unknown"})
        assert raw.refused("GET", "keys", token=unknown)[2].startswith("AKV10046:")
        unsigned = jwt.encode(claims, "", "none", {"kid": header["kid"]})
        assert raw.refused("GET", "keys", token=unsigned)[0] == 401

    @pytest.mark.parametrize("token", ["x", "x.y.z", "....", "e30.e30.e30"])
    def test_malformed_token_is_refused(self, raw: Raw, token: str) -> None:
        """Any other value after `Bearer` is 401."""
        assert raw.refused("GET", "keys", token=token)[0] == 401

    def test_token_must_be_current(self) -> None:
        """An expired token is refused."""
        with Authority(token_lifetime=0) as authority, KeyVault(authority) as vault, Raw(vault) as raw:
            assert raw.refused("GET", "keys")[0] == 401

    def test_revoked_tokens_are_refused(self, raw: Raw, key_vault: KeyVault) -> None:
        """Tokens used so far are refused; a new one is accepted."""
        assert raw.ask("GET", "keys").status_code == 200
        key_vault.revoke_tokens()
        assert raw.refused("GET", "keys")[0] == 401
        assert raw.ask("GET", "keys", token=token_of(key_vault.authority, key_vault.resource)).status_code == 200


class TestRequest:
    def test_api_version_must_be_known(self, raw: Raw) -> None:
        """The API version is required, and must be one of the service's."""
        assert raw.refused("GET", "keys?x=y")[:2] == (400, "BadParameter")
        status, _, message = raw.refused("GET", "keys?api-version=7.99")
        assert status == 400
        assert re.match(
            r"The specified version \(7\.99\) is not recognized\. Consider using .* \(2026-04-01\)", message
        )

    @pytest.mark.parametrize("name", ["a_b", "a.b", "%C3%A4", "a" * 128])
    def test_name_has_letters_digits_and_hyphens(self, raw: Raw, name: str) -> None:
        """A name has at most 127 letters, digits and hyphens."""
        status, code, message = raw.refused("POST", f"keys/{name}/create", {"kty": "EC"})
        assert (status, code) == (400, "BadParameter")
        assert message.startswith("The request URI contains an invalid name: ")

    def test_body_must_be_json(self, raw: Raw) -> None:
        """The body must have the JSON content type, and be an object without duplicate names."""
        typed = {"Content-Type": "application/json"}
        assert raw.ask("POST", "keys/app/create", data=b"{}").status_code == 415
        for body in (b"{", b"[]", b'{"kty": "EC", "kty": "RSA"}'):
            assert raw.ask("POST", "keys/app/create", data=body, headers=typed).status_code == 400
        utf8 = {"Content-Type": "application/json; charset=utf-8"}
        assert raw.ask("POST", "keys/app/create", data=b'{"kty": "EC"}', headers=utf8).status_code == 200

    def test_method_and_path_must_be_an_operations(self, raw: Raw) -> None:
        """An unsupported method is 405 with the allowed ones; an unknown path is 404 without a body."""
        answer = raw.ask("POST", "keys")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
        assert raw.ask("GET", "storage").status_code == 404
        assert raw.ask("GET", "storage").content == b""

    def test_page_has_25_items_at_most(self, raw: Raw, key_vault: KeyVault) -> None:
        """`maxresults` may be less, and `nextLink` uses the address that the client knows."""
        for number in range(3):
            key_vault.make_key(f"key-{number}", "P-256")
        for wrong in ("0", "26", "x"):
            assert raw.refused("GET", f"keys?api-version=7.4&maxresults={wrong}")[0] == 400
        answer = raw.ask("GET", "keys?api-version=7.4&maxresults=2").json()
        assert len(answer["value"]) == 2
        assert answer["nextLink"].startswith(f"{key_vault.url}/keys?api-version=7.4&$skiptoken=")
        rest = raw.ask("GET", answer["nextLink"].removeprefix(f"{key_vault.url}/")).json()
        assert (len(rest["value"]), rest["nextLink"]) == (1, None)


class TestCreatingKeys:
    @pytest.mark.parametrize("kty", ["oct", "oct-HSM", "OKP", "rsa"])
    def test_type_must_be_the_services(self, raw: Raw, kty: str) -> None:
        """Only RSA, RSA-HSM, EC and EC-HSM are accepted."""
        found = raw.refused("POST", "keys/app/create", {"kty": kty})
        assert found == (400, "KeyTypeNotSupported", f"Invalid kty value: {kty}")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"kty": "RSA", "key_size": 1024},
            {"kty": "EC", "crv": "P-192"},
            {"kty": "EC", "key_ops": ["encrypt"]},
            {"kty": "EC", "key_ops": "sign"},
            {"kty": "EC", "attributes": {"enabled": "yes"}},
            {"kty": "EC", "attributes": {"nbf": 20, "exp": 10}},
        ],
    )
    def test_wrong_parameter_is_refused(self, raw: Raw, body: dict[str, Any]) -> None:
        """A wrong parameter is refused, and nothing is created."""
        assert raw.refused("POST", "keys/app/create", body)[:2] == (400, "BadParameter")
        assert raw.ask("GET", "keys/app").status_code == 404

    def test_private_jwk_must_be_complete(self, raw: Raw) -> None:
        """A public key, or inconsistent numbers, are not accepted as a private key."""
        for key in (
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"},
        ):
            assert raw.refused("PUT", "keys/app", {"key": key})[0] == 400

    def test_certificates_key_is_managed(self, raw: Raw, key_vault: KeyVault) -> None:
        """A certificate's key can be used, but neither changed nor deleted separately."""
        key_vault.make_certificate("app", "P-256")
        assert raw.refused("POST", "keys/app/create", {"kty": "EC"})[0] == 403
        assert raw.refused("PATCH", "keys/app", {"attributes": {"enabled": False}})[0] == 403
        assert raw.refused("DELETE", "keys/app")[0] == 403
        assert raw.ask("GET", "keys/app").json()["managed"] is True

    def test_certificate_cannot_have_a_keys_name(self, raw: Raw, key_vault: KeyVault) -> None:
        """A certificate cannot have the name of an existing separate key."""
        key_vault.make_key("app", "P-256")
        policy = {"issuer": {"name": "Self"}, "x509_props": {"subject": "CN=app"}}
        assert raw.refused("POST", "certificates/app/create", {"policy": policy})[0] == 409
        assert raw.refused("GET", "certificates/app")[:2] == (404, "CertificateNotFound")


class TestSigning:
    @pytest.mark.parametrize(
        ("key_type", "algorithm", "message"),
        [
            ("RSA-2048", "ES256", "can only be used with EC keys"),
            ("P-256", "PS256", "can only be used with RSA keys"),
            ("P-256", "ES384", "uses curve 'P-256', and algorithm 'ES384' can only be used with curve 'P-384'"),
            ("P-256", "HS256", "Property alg has invalid value"),
        ],
    )
    def test_algorithm_must_fit_the_key(
        self, raw: Raw, key_vault: KeyVault, key_type: str, algorithm: str, message: str
    ) -> None:
        """The algorithm must fit the key's type and curve."""
        key_vault.make_key("app", key_type)
        status, code, text = raw.refused("POST", "keys/app//sign", {"alg": algorithm, "value": DIGEST})
        assert (status, code) == (400, "BadParameter")
        assert message in text

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"value": DIGEST}, "Property 'alg' is required."),
            ({"alg": "ES256"}, "Property 'value' is required."),
            ({"alg": "ES256", "value": f"{DIGEST}="}, "Content of 'value' is not base64url."),
            ({"alg": "ES256", "value": "+/+/"}, "Content of 'value' is not base64url."),
            (
                {"alg": "ES256", "value": encode(b"short")},
                "Invalid length of 'value': 5 bytes. ES256 requires 32 bytes",
            ),
        ],
    )
    def test_digest_must_be_valid(self, raw: Raw, key_vault: KeyVault, body: dict[str, str], message: str) -> None:
        """The digest must be unpadded base64url, with the length of the algorithm's hash."""
        key_vault.make_key("app", "P-256")
        status, _, text = raw.refused("POST", "keys/app//sign", body)
        assert status == 400
        assert text.startswith(message)

    def test_key_must_be_usable(self, raw: Raw, key_vault: KeyVault) -> None:
        """The key must be enabled, valid now and allowed to sign: each failure has its own inner code."""
        now = int(time.time())
        for name, state, code in (
            ("disabled", {"enabled": False}, "KeyDisabled"),
            ("expired", {"expires": now - 10}, "KeyExpired"),
            ("early", {"not_before": now + 1000}, "KeyNotYetValid"),
            ("verifying", {"operations": ("verify",)}, "KeyOperationForbidden"),
        ):
            key_vault.make_key(name, "P-256", **state)
            body = {"alg": "ES256", "value": DIGEST}
            assert raw.refused("POST", f"keys/{name}//sign", body)[:2] == (403, code)

    def test_version_must_exist(self, raw: Raw, key_vault: KeyVault) -> None:
        """An unknown version is refused, and the response names the version that signed."""
        created = key_vault.make_key("app", "P-256")
        body = {"alg": "ES256", "value": DIGEST}
        assert raw.refused("POST", f"keys/app/{'0' * 32}/sign", body)[:2] == (404, "KeyNotFound")
        kid = f"{key_vault.url}/keys/app/{created.version}"
        assert raw.ask("POST", f"keys/app/{created.version}/sign", body).json()["kid"] == kid
        assert raw.ask("POST", "keys/app//sign", body).json()["kid"] == kid


class TestCertificates:
    @pytest.mark.parametrize(
        "policy",
        [
            {},
            {"issuer": {"name": "DigiCert"}, "x509_props": {"subject": "CN=app"}},
            {"issuer": {"name": "Self"}},
            {"issuer": {"name": "Self"}, "x509_props": {"subject": "app"}},
            {"issuer": {"name": "Self"}, "x509_props": {"subject": "CN=app", "validity_months": 0}},
            {"issuer": {"name": "Self"}, "x509_props": {"subject": "CN=app", "key_usage": ["sign"]}},
            {"issuer": {"name": "Self"}, "x509_props": {"subject": "CN=app", "ekus": ["client"]}},
            {"issuer": {"name": "Self"}, "x509_props": {"subject": "CN=app"}, "key_props": {"kty": "oct"}},
        ],
    )
    def test_policy_must_be_valid(self, raw: Raw, policy: dict[str, Any]) -> None:
        """Invalid issuer, subject, validity, usages or key type are refused."""
        assert raw.refused("POST", "certificates/app/create", {"policy": policy})[0] == 400
        assert raw.ask("GET", "certificates/app").status_code == 404

    def test_merge_needs_a_request_and_certificates(self, raw: Raw) -> None:
        """Without a pending request it is 404; anything but DER certificates is 400."""
        status, code, _ = raw.refused("POST", "certificates/app/pending/merge", {"x5c": []})
        assert (status, code) == (404, "PendingCertificateNotFound")
        policy = {"issuer": {"name": "Unknown"}, "x509_props": {"subject": "CN=app"}, "key_props": {"kty": "EC"}}
        assert raw.ask("POST", "certificates/app/create", {"policy": policy}).status_code == 202
        wrongs: list[dict[str, Any]] = [{}, {"x5c": []}, {"x5c": ["AAAA"]}, {"x5c": "AAAA"}]
        for wrong in wrongs:
            assert raw.refused("POST", "certificates/app/pending/merge", wrong)[0] == 400


class TestDeleting:
    def test_each_step_takes_time(self, raw: Raw, key_vault: KeyVault) -> None:
        """While a key is being deleted it can be neither purged nor recovered, and its name is not free."""
        key_vault.make_key("app", "P-256")
        assert raw.ask("DELETE", "keys/app").status_code == 200
        being = (409, "ObjectIsBeingDeleted", "Key is currently being deleted.")
        assert raw.refused("DELETE", "deletedkeys/app") == being
        assert raw.ask("GET", "deletedkeys/app").status_code == 200

    def test_missing_key_cannot_be_deleted(self, raw: Raw) -> None:
        """A key that does not exist can be neither deleted, recovered nor purged."""
        assert raw.refused("DELETE", "keys/app")[:2] == (404, "KeyNotFound")
        expected = (404, "KeyNotFound", "Deleted Key not found: app")
        assert raw.refused("GET", "deletedkeys/app") == expected
        assert raw.refused("POST", "deletedkeys/app/recover") == expected
        assert raw.refused("DELETE", "deletedkeys/app") == expected


def test_vault_must_be_running(authority: Authority) -> None:
    """A vault has an address only while it is running."""
    vault = KeyVault(authority)
    with pytest.raises(RuntimeError, match="not running"):
        _ = vault.url
    with vault:
        assert vault.start() is vault
    vault.close()
    with pytest.raises(RuntimeError, match="not running"):
        _ = vault.ca_file
