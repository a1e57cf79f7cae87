"""What the development authority refuses in an assertion: each rule of Entra ID, with a forgery that breaks only it."""

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keyvouch.testing.authority import Authority
from testing.clients import Client, certify, encode, join, key_for, sign, thumbprint, x5c

WIDER = ["PS384", "PS512", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"]


class TestForm:
    @pytest.mark.parametrize(
        "text",
        ["x", "a.b", "a.b.c.d", "..", "é.é.é", "W10.W10.c2ln", "e30=.e30.c2ln", "e30.e30.c2l n", "e30.e30.c2lnB"],
    )
    def test_malformed_is_refused(self, client: Client, text: str) -> None:
        """Anything but three parts of unpadded base64url, two of them JSON objects, is not a JWT: 50027."""
        assert client.refused(text)[:3] == (400, "invalid_request", [50027])

    @pytest.mark.parametrize("claims", ['{"a": NaN}', '{"a": 1, "a": 1}', "[" * 20_000, "\ufeff{}", "[]"])
    def test_bad_json_is_refused(self, client: Client, claims: str) -> None:
        """JSON must be strict: no NaN, no duplicate names, no deep nesting, an object."""
        message = f"{encode(json.dumps(client.header()).encode())}.{encode(claims.encode())}"
        assert client.code(f"{message}.{encode(sign('PS256', client.key, message.encode()))}") == 50027

    def test_padded_part_is_refused(self, client: Client) -> None:
        """A valid but padded signature does not belong to a JWT."""
        assert client.code(client.assertion() + "==") == 50027

    def test_critical_extension_is_refused(self, client: Client) -> None:
        """A critical extension that is not supported: 50027."""
        assert client.code(client.assertion({"crit": ["b64"], "b64": False})) == 50027

    @pytest.mark.parametrize("kind", [None, "at+jwt", "jwt", ["JWT"], {}])
    def test_type_must_be_jwt(self, client: Client, kind: Any) -> None:
        """`typ` must be JWT: 5002727."""
        assert client.refused(client.assertion({"typ": kind}))[:3] == (400, "invalid_request", [5002727])


class TestAlgorithm:
    @pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
    def test_entra_algorithms_are_accepted(self, authority: Authority, algorithm: str) -> None:
        """PS256 and RS256 are accepted by default."""
        with Client(authority, algorithm) as client:
            assert client.post().status_code == 200

    @pytest.mark.parametrize("algorithm", WIDER)
    def test_others_are_refused(self, authority: Authority, algorithm: str) -> None:
        """Any other algorithm is refused although its signature is valid: 5002738, naming the accepted ones."""
        with Client(authority, algorithm) as client:
            status, error, codes, text = client.refused()
        assert (status, error, codes) == (401, "invalid_client", [5002738])
        assert f"'{algorithm}' is not a supported signature algorithm" in text
        assert "'PS256,RS256'" in text

    @pytest.mark.parametrize("algorithm", WIDER)
    def test_others_can_be_accepted(self, algorithm: str) -> None:
        """`algorithms` extends the set."""
        with Authority(algorithms={algorithm}) as authority, Client(authority, algorithm) as client:
            assert client.post().status_code == 200

    def test_none_is_refused(self, client: Client) -> None:
        """An unsigned assertion: 5002738."""
        assert client.code(f"{join(client.header(alg='none'), client.claims())}.") == 5002738

    @pytest.mark.parametrize("algorithm", [None, 5, ["PS256"], "ps256", "HS256"])
    def test_invalid_algorithms_are_refused(self, client: Client, algorithm: Any) -> None:
        """Any other value of `alg`: 5002738."""
        message = join(client.header(alg=algorithm), client.claims())
        assert client.code(f"{message}.{encode(sign('PS256', client.key, message.encode()))}") == 5002738

    def test_public_key_as_secret_is_refused(self, client: Client) -> None:
        """HS256 with the public key as secret: 5002738."""
        header = {"x5t#S256": thumbprint(client.certificate)}
        secret = client.certificate.fingerprint(hashes.SHA256())
        assert client.code(jwt.encode(client.claims(), secret, "HS256", header)) == 5002738

    def test_key_must_fit_algorithm(self) -> None:
        """An RSA certificate with ES256, or P-256 with ES384: 5002730."""
        with Authority(algorithms={"ES256", "ES384"}) as authority, Client(authority, "ES256") as client:
            message = join(client.header(alg="ES384"), client.claims())
            signature = sign("ES384", key_for("ES384"), message.encode())
            assert client.refused(f"{message}.{encode(signature)}")[:3] == (400, "invalid_request", [5002730])
            rsa = certify(key_for("PS256"))
            client.app.add_certificate(rsa)
            assert client.code(client.assertion({"x5t#S256": thumbprint(rsa)})) == 5002730


class TestSignature:
    def test_pyjwt_is_accepted(self, client: Client) -> None:
        """A signature made by PyJWT is accepted."""
        token = jwt.encode(client.claims(), client.key, "PS256", {"x5t#S256": thumbprint(client.certificate)})
        assert client.post(token).status_code == 200

    @pytest.mark.parametrize("salt", [0, 20, 31, 33, 222])
    def test_salt_is_the_hash_length(self, client: Client, salt: int) -> None:
        """A PSS salt of another length, such as OpenSSL's maximum, does not verify: 700027."""
        status, error, codes, text = client.refused(client.assertion(salt=salt))
        assert (status, error, codes) == (401, "invalid_client", [700027])
        assert "[Reason - The provided signature value did not match the expected signature value., Thumb" in text

    def test_other_key_is_refused(self, client: Client) -> None:
        """A signature by another key with the registered thumbprint: 700027, naming the key found."""
        text = client.refused(client.assertion(key=key_for("PS256", "other")))[3]
        assert client.certificate.fingerprint(hashes.SHA256()).hex().upper() in text
        assert f"Found key 'Start={client.certificate.not_valid_before_utc:%m/%d/%Y %H:%M:%S}" in text

    def test_changed_claims_are_refused(self, client: Client) -> None:
        """Claims replaced after signing: 700027."""
        header, _, signature = client.assertion().split(".")
        claims = join({}, client.claims()).split(".")[1]
        assert client.code(f"{header}.{claims}.{signature}") == 700027

    def test_padding_must_match_the_header(self, client: Client) -> None:
        """A PKCS #1 v1.5 signature with PS256: 700027."""
        message = join(client.header(), client.claims())
        assert client.code(f"{message}.{encode(sign('RS256', client.key, message.encode()))}") == 700027

    def test_empty_signature_is_refused(self, client: Client) -> None:
        """No signature with PS256: 700027."""
        assert client.code(f"{join(client.header(), client.claims())}.") == 700027

    def test_der_signature_is_refused(self) -> None:
        """An ECDSA signature in ASN.1 form is not the JOSE form: 700027."""
        with Authority(algorithms={"ES256"}) as authority, Client(authority, "ES256") as client:
            assert isinstance(client.key, ec.EllipticCurvePrivateKey)
            message = join(client.header(), client.claims())
            der = client.key.sign(message.encode(), ec.ECDSA(hashes.SHA256()))
            assert client.code(f"{message}.{encode(der)}") == 700027

    def test_short_halves_are_refused(self) -> None:
        """r and s must have the curve's width, with leading zeros if necessary: 700027."""
        with Authority(algorithms={"ES512"}) as authority, Client(authority, "ES512") as client:
            message, whole = join(client.header(), client.claims()), b"\x01" * 132
            while whole[66]:  # P-521 has one bit there: every second signature has a leading zero to remove
                whole = sign("ES512", client.key, message.encode())
            assert client.code(f"{message}.{encode(whole[:66] + whole[67:])}") == 700027
            assert client.post(f"{message}.{encode(whole)}").status_code == 200


class TestThumbprint:
    def test_sha1_is_accepted(self, client: Client) -> None:
        """`x5t` by itself finds the certificate, too."""
        header = {"x5t#S256": None, "x5t": thumbprint(client.certificate, hashes.SHA1())}  # noqa: S303
        assert client.post(client.assertion(header)).status_code == 200

    def test_both_thumbprints_must_match(self, client: Client) -> None:
        """Both thumbprints must be the certificate's, even if the other one is registered: 700027."""
        other = certify(key_for("PS256", "other"))
        client.app.add_certificate(other)
        header = {"x5t": thumbprint(other, hashes.SHA1())}  # noqa: S303
        assert client.code(client.assertion(header)) == 700027

    def test_unregistered_is_refused(self, client: Client) -> None:
        """An unregistered certificate: 700027, naming the thumbprint sent."""
        client.app.remove_certificate(client.certificate)
        status, error, codes, text = client.refused()
        sent = client.certificate.fingerprint(hashes.SHA256()).hex().upper()
        assert (status, error, codes) == (401, "invalid_client", [700027])
        assert f"[Reason - The key was not found., Thumbprint of key used by client: '{sent}'" in text

    def test_other_applications_is_refused(self, client: Client) -> None:
        """A certificate registered for another application does not count: 700027."""
        other = certify(key_for("PS256", "other"))
        client.authority.register(certificates=[other])
        header = {"x5t#S256": thumbprint(other)}
        assert client.code(client.assertion(header, key=key_for("PS256", "other"))) == 700027

    @pytest.mark.parametrize("value", ["not base64url!", 5, None, "", "AAAA"])
    def test_invalid_thumbprints_are_refused(self, client: Client, value: Any) -> None:
        """A malformed thumbprint matches no certificate: 700027."""
        message = join(client.header() | {"x5t#S256": value}, client.claims())
        assert client.code(f"{message}.{encode(sign('PS256', client.key, message.encode()))}") == 700027

    def test_plain_base64_is_refused(self, client: Client) -> None:
        """The header does not use hexadecimal: 700027."""
        hexadecimal = client.certificate.fingerprint(hashes.SHA256()).hex()
        assert client.code(client.assertion({"x5t#S256": hexadecimal})) == 700027

    def test_only_kid_is_refused(self, client: Client) -> None:
        """A `kid` does not find a certificate: 700027."""
        header = {"x5t#S256": None, "kid": thumbprint(client.certificate)}
        assert client.code(client.assertion(header)) == 700027

    def test_kid_with_thumbprint_is_ignored(self, client: Client) -> None:
        """A `kid` beside a thumbprint is ignored."""
        assert client.post(client.assertion({"kid": "anything"})).status_code == 200

    def test_missing_thumbprint_is_refused(self, client: Client) -> None:
        """If no certificate is named: 5002723."""
        assert client.refused(client.assertion({"x5t#S256": None}))[:3] == (401, "invalid_client", [5002723])


class TestCertificate:
    @pytest.mark.parametrize(("days", "reason"), [((-2, -1), "is expired."), ((1, 2), "is not yet valid.")])
    def test_outside_validity_is_refused(self, client: Client, days: tuple[int, int], reason: str) -> None:
        """A registered certificate outside its validity: 700027 with that reason."""
        client.certificate = certify(client.key, days=days)
        client.app.add_certificate(client.certificate)
        status, error, codes, text = client.refused()
        assert (status, error, codes) == (401, "invalid_client", [700027])
        assert f"[Reason - The key used {reason}, Thumbprint" in text

    def test_revoked_is_refused(self, client: Client) -> None:
        """A revoked certificate: 7000214."""
        client.app.revoke(client.certificate)
        assert client.refused()[:3] == (401, "invalid_client", [7000214])

    def test_leaf_in_x5c_is_accepted(self, client: Client) -> None:
        """The registered certificate may be sent in x5c."""
        assert client.post(client.assertion({"x5c": x5c(client.certificate)})).status_code == 200

    def test_x5c_must_match_thumbprint(self, client: Client) -> None:
        """The first certificate in x5c must match the thumbprint: 50027."""
        other = certify(key_for("PS256", "other"))
        assert client.code(client.assertion({"x5c": x5c(other, client.certificate)})) == 50027

    @pytest.mark.parametrize("chain", ["text", 5, {}, [5], ["%%%"], ["AAAA"], [None]])
    def test_invalid_x5c_is_refused(self, client: Client, chain: Any) -> None:
        """x5c must be a list of base64 certificates: 50027."""
        assert client.code(client.assertion({"x5c": chain})) == 50027

    def test_base64url_in_x5c_is_refused(self, client: Client) -> None:
        """x5c must be plain padded base64, not base64url: 50027."""
        chain = x5c(client.certificate)[0].replace("+", "-").replace("/", "_").rstrip("=")
        assert client.code(client.assertion({"x5c": [chain + "-"]})) == 50027


class TestSubjectNameAndIssuer:
    @pytest.fixture
    def sni(self, client: Client) -> Client:
        """A client whose application trusts a subject from an issuer; the chain is root, intermediate, leaf."""
        root_key, ca_key = key_for("PS256", "root"), key_for("PS256", "ca")
        self.root = certify(root_key, "CN=root", ca=True)
        self.ca = certify(ca_key, "CN=ca", (root_key, self.root), ca=True, path_length=0)
        client.app.remove_certificate(client.certificate)
        client.certificate = certify(client.key, "CN=app,O=Contoso", (ca_key, self.ca))
        client.app.trust_subject("CN=app,O=Contoso", self.root)
        return client

    def code(self, client: Client, *chain: Any, **options: Any) -> int:
        return client.code(client.assertion({"x5c": x5c(*chain), "x5t#S256": thumbprint(chain[0])}, **options))

    def test_chain_is_accepted(self, sni: Client) -> None:
        """Leaf, intermediate and root sign in, although nothing is registered."""
        assert sni.post(sni.assertion({"x5c": x5c(sni.certificate, self.ca, self.root)})).status_code == 200

    def test_root_may_be_omitted(self, sni: Client) -> None:
        """The trusted issuer need not be sent."""
        assert sni.post(sni.assertion({"x5c": x5c(sni.certificate, self.ca)})).status_code == 200

    def test_thumbprint_may_be_omitted(self, sni: Client) -> None:
        """Only the chain identifies the certificate."""
        header = {"x5c": x5c(sni.certificate, self.ca), "x5t#S256": None}
        assert sni.post(sni.assertion(header)).status_code == 200

    def test_intermediate_may_be_trusted(self, sni: Client) -> None:
        """The trusted issuer may be an intermediate, followed by its own issuers."""
        sni.app.trusts = ((sni.certificate.subject, self.ca),)
        for chain in ((sni.certificate,), (sni.certificate, self.ca, self.root)):
            assert sni.post(sni.assertion({"x5c": x5c(*chain)})).status_code == 200

    def test_renewed_leaf_is_accepted(self, sni: Client) -> None:
        """A new certificate with that subject need not be registered, which is the purpose of this trust."""
        sni.key = key_for("PS256", "other")
        sni.certificate = certify(sni.key, "CN=app,O=Contoso", (key_for("PS256", "ca"), self.ca))
        assert sni.post(sni.assertion({"x5c": x5c(sni.certificate, self.ca)})).status_code == 200

    def test_missing_x5c_is_refused(self, sni: Client) -> None:
        """Without x5c the thumbprint is looked up among the registered ones: 700027."""
        assert sni.code() == 700027

    def test_subject_must_be_trusted(self, sni: Client) -> None:
        """Another subject from the same issuer: 700030, naming it."""
        sni.certificate = certify(sni.key, "CN=other", (key_for("PS256", "ca"), self.ca))
        status, error, codes, text = sni.refused(sni.assertion({"x5c": x5c(sni.certificate, self.ca)}))
        assert (status, error, codes) == (401, "invalid_client", [700030])
        assert "CN=other" in text

    def test_ca_first_is_refused(self, sni: Client) -> None:
        """The leaf must come first; a CA's subject is not the trusted one: 700030."""
        assert self.code(sni, self.ca, sni.certificate, self.root) == 700030

    def test_ca_as_leaf_is_refused(self, sni: Client) -> None:
        """A CA certificate with the trusted subject is not a leaf: 7000213."""
        leaf = certify(sni.key, "CN=app,O=Contoso", (key_for("PS256", "root"), self.root), ca=True)
        assert self.code(sni, leaf, self.root) == 7000213

    def test_self_signed_is_refused(self, sni: Client) -> None:
        """A self-signed certificate with the trusted subject: 7000213, even if it is registered."""
        leaf = certify(sni.key, "CN=app,O=Contoso")
        sni.app.add_certificate(leaf)
        assert self.code(sni, leaf) == 7000213

    def test_missing_intermediate_is_refused(self, sni: Client) -> None:
        """A gap in the chain: 7000213."""
        assert self.code(sni, sni.certificate, self.root) == 7000213

    def test_forged_issuer_is_refused(self, sni: Client) -> None:
        """A root with the same name but another key: 7000213."""
        root_key, ca_key = key_for("PS256", "forged"), key_for("PS256", "ca")
        root = certify(root_key, "CN=root", ca=True)
        ca = certify(ca_key, "CN=ca", (root_key, root), ca=True)
        assert self.code(sni, sni.certificate, ca, root) == 7000213

    def test_leaf_cannot_issue(self, sni: Client) -> None:
        """A leaf from the trusted issuer that signs another leaf: 7000213."""
        between_key = key_for("PS256", "other")
        between = certify(between_key, "CN=someone", (key_for("PS256", "ca"), self.ca))
        leaf = certify(sni.key, "CN=app,O=Contoso", (between_key, between))
        assert self.code(sni, leaf, between, self.ca, self.root) == 7000213

    def test_path_length_is_enforced(self, sni: Client) -> None:
        """A CA below one that does not allow any: 7000213."""
        below_key = key_for("PS256", "other")
        below = certify(below_key, "CN=below", (key_for("PS256", "ca"), self.ca), ca=True)
        leaf = certify(sni.key, "CN=app,O=Contoso", (below_key, below))
        assert self.code(sni, leaf, below, self.ca, self.root) == 7000213

    def test_issuer_must_sign_certificates(self, sni: Client) -> None:
        """A CA whose key usage excludes certificate signing: 7000213."""
        ca_key = key_for("PS256", "ca")
        ca = certify(ca_key, "CN=ca", (key_for("PS256", "root"), self.root), ca=True, signs=False)
        assert self.code(sni, sni.certificate, ca, self.root) == 7000213

    def test_leaf_is_not_its_issuer(self, sni: Client) -> None:
        """A certificate trusted as an issuer cannot sign in itself: 7000213."""
        leaf = certify(sni.key, "CN=alone")
        sni.app.trust_subject("CN=alone", leaf)
        assert self.code(sni, leaf) == 7000213

    def test_expired_leaf_is_refused(self, sni: Client) -> None:
        """A chain outside its validity: 1000502."""
        leaf = certify(sni.key, "CN=app,O=Contoso", (key_for("PS256", "ca"), self.ca), days=(-2, -1))
        assert self.code(sni, leaf, self.ca) == 1000502

    def test_revoked_intermediate_is_refused(self, sni: Client) -> None:
        """Any revoked certificate in the chain: 7000214."""
        sni.app.revoke(self.ca)
        assert self.code(sni, sni.certificate, self.ca) == 7000214

    def test_chain_needs_its_key(self, sni: Client) -> None:
        """Somebody else's chain, which is public, proves nothing: 700027."""
        assert self.code(sni, sni.certificate, self.ca, key=key_for("PS256", "other")) == 700027

    def test_thumbprint_must_match_chain(self, sni: Client) -> None:
        """The thumbprint must be the leaf's: 50027."""
        header = {"x5c": x5c(sni.certificate, self.ca), "x5t#S256": thumbprint(self.ca)}
        assert sni.code(sni.assertion(header)) == 50027


class TestClaims:
    @pytest.mark.parametrize("name", ["iss", "sub", "aud", "jti"])
    def test_missing_claim_is_refused(self, client: Client, name: str) -> None:
        """A missing required claim: 90014, naming it."""
        status, error, codes, text = client.refused(client.assertion(**{name: None}))
        assert (status, error, codes) == (400, "invalid_request", [90014])
        assert f"'{name}'" in text

    def test_subject_must_be_issuer(self, client: Client) -> None:
        """iss and sub must be equal: 50048."""
        assert client.refused(client.assertion(sub="someone"))[:3] == (401, "invalid_client", [50048])

    def test_issuer_must_be_client(self, client: Client) -> None:
        """An assertion for another application, by the same certificate: 700021."""
        other = client.authority.register(certificates=[client.certificate])
        assertion = client.assertion(iss=other.client_id, sub=other.client_id)
        assert client.refused(assertion)[:3] == (401, "invalid_client", [700021])

    def test_issuer_is_accepted_as_audience(self, client: Client) -> None:
        """The tenant's issuer may be the audience."""
        assert client.post(client.assertion(aud=f"{client.authority.authority}/v2.0")).status_code == 200

    def test_domain_is_accepted_as_audience(self, client: Client) -> None:
        """The audience may name the tenant as the request's URL does."""
        client.tenant = "contoso.onmicrosoft.com"
        assert client.post().status_code == 200

    @pytest.mark.parametrize(
        "audience",
        [
            "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
            "{url}/common/oauth2/v2.0/token",
            "{url}/{tenant}",
            "{url}/{tenant}/oauth2/v2.0/token/",
            ["{url}/{tenant}/oauth2/v2.0/token"],
            5,
        ],
    )
    def test_other_audience_is_refused(self, client: Client, audience: Any) -> None:
        """Another cloud, tenant or endpoint, or a value that is not a string: 700023."""
        if isinstance(audience, str):
            audience = audience.format(url=client.authority.url, tenant=client.tenant)
        assert client.refused(client.assertion(aud=audience))[:3] == (401, "invalid_client", [700023])

    def test_other_tenants_audience_is_refused(self, client: Client) -> None:
        """Another tenant of the same authority: 700023."""
        other = client.authority.register(tenant="fabrikam.example")
        audience = f"{client.authority.url}/{other.tenant}/oauth2/v2.0/token"
        assert client.code(client.assertion(aud=audience)) == 700023

    def test_replay_is_refused(self, client: Client) -> None:
        """An assertion is for one request: 700024, for which the remedy is a new assertion."""
        assertion = client.assertion()
        assert client.post(assertion).status_code == 200
        status, error, codes, text = client.refused(assertion)
        assert (status, error, codes) == (401, "invalid_client", [700024])
        assert "was presented before" in text

    def test_same_id_newly_signed_is_refused(self, client: Client) -> None:
        """Replay is detected by the jti, not the text."""
        assert client.post(client.assertion(jti="one")).status_code == 200
        assert client.code(client.assertion(jti="one")) == 700024

    def test_same_id_of_other_application(self, client: Client) -> None:
        """Each application has its own ids."""
        assert client.post(client.assertion(jti="one")).status_code == 200
        with Client(client.authority) as other:
            assert other.post(other.assertion(jti="one")).status_code == 200

    def test_refused_assertion_can_be_presented_again(self, client: Client) -> None:
        """A forgery sent first cannot use up the genuine assertion's id."""
        assert client.code(client.assertion(jti="one", key=key_for("PS256", "other"))) == 700027
        assert client.post(client.assertion(jti="one")).status_code == 200

    def test_replays_can_be_accepted(self) -> None:
        """`refuse_replays=False` is Entra ID's current behavior."""
        with Authority(refuse_replays=False) as authority, Client(authority) as client:
            assertion = client.assertion()
            assert [client.post(assertion).status_code for _ in range(2)] == [200, 200]


class TestTimes:
    @pytest.mark.parametrize(
        ("name", "offset"), [("exp", -290), ("nbf", 290), ("iat", 290), ("exp", 10_000_000), ("nbf", -10_000)]
    )
    def test_skew_is_allowed(self, client: Client, name: str, offset: int) -> None:
        """Clocks may differ by five minutes; an assertion's lifetime is not limited."""
        assert client.post(client.assertion(None, **{name: int(time.time()) + offset})).status_code == 200

    @pytest.mark.parametrize(("name", "offset"), [("exp", -310), ("nbf", 310), ("iat", 310)])
    def test_time_outside_skew_is_refused(self, client: Client, name: str, offset: int) -> None:
        """Beyond that: 700024, with the authority's time and the assertion's."""
        now = int(time.time())
        status, error, codes, text = client.refused(client.assertion(None, **{name: now + offset}))
        assert (status, error, codes) == (401, "invalid_client", [700024])
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.0000000Z", time.gmtime(now + offset))
        assert stamp in text
        assert "Current time: " in text

    def test_missing_exp_is_refused(self, client: Client) -> None:
        """A missing `exp` counts as 1970: 700024."""
        status, _, codes, text = client.refused(client.assertion(exp=None))
        assert (status, codes) == (401, [700024])
        assert "expiry time of assertion 1970-01-01T00:00:00.0000000Z." in text

    def test_nbf_and_iat_are_optional(self, client: Client) -> None:
        """Neither `nbf` nor `iat` is required."""
        assert client.post(client.assertion(nbf=None, iat=None)).status_code == 200

    def test_fractions_are_accepted(self, client: Client) -> None:
        """MSAL sends fractions of a second, which are accepted."""
        now = time.time()
        assert client.post(client.assertion(nbf=now, iat=now, exp=now + 600.5)).status_code == 200

    @pytest.mark.parametrize("value", ["1700000000", True, [1], {}])
    @pytest.mark.parametrize("name", ["nbf", "iat", "exp"])
    def test_times_must_be_numbers(self, client: Client, name: str, value: Any) -> None:
        """A time must be a number: 50027."""
        assert client.code(client.assertion(**{name: value})) == 50027

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "1e300", "-1e300", "9" * 400])
    def test_huge_numbers_are_refused(self, client: Client, number: str) -> None:
        """Times beyond any calendar get a response, not a crash."""
        claims = json.dumps(client.claims(nbf=0)).replace('"nbf": 0', f'"nbf": {number}').replace('"exp"', '"e"')
        message = f"{encode(json.dumps(client.header()).encode())}.{encode(claims.encode())}"
        code = client.code(f"{message}.{encode(sign('PS256', client.key, message.encode()))}")
        assert code in {50027, 700024}
