"""What a signer adds to a store: checks, algorithm selection, reload, closing, audit."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding

from keyvouch import ClientAssertion, open_signer
from keyvouch._core import connections
from keyvouch._core import signer as signer_module
from keyvouch._core.connections import CLOSING_TIMEOUT, Connection
from keyvouch._core.signer import Signer
from keyvouch.algorithms import ALGORITHMS, PS256, RS256, Algorithm, JoseSignature, algorithms_for, jose_to_der
from keyvouch.errors import (
    AlgorithmUnsupported,
    CertificateMismatch,
    CertificateMissing,
    ConfigurationError,
    InternalError,
    KeyNotFound,
    KeyUnusable,
    KeyvouchError,
    SignatureInvalid,
    StoreUnavailable,
)
from keyvouch.local_key import sign_locally
from scripted_store import (
    LONG_ENOUGH,
    MESSAGE,
    Member,
    Script,
    ScriptedKey,
    certify,
    in_threads,
    is_signed,
    new_key,
    until,
)

KINDS = ("RSA-2048", "P-256", "P-384", "P-521", "Ed25519")
PAIRS = [(kind, algorithm.name) for kind in KINDS for algorithm in algorithms_for(kind)]
MISFITS = [
    (kind, name) for kind in KINDS for name in ALGORITHMS if name not in {fit.name for fit in algorithms_for(kind)}
]

Chain = tuple[x509.Certificate, ...]


def build(algorithm: Algorithm, chain: Chain, public_key: object) -> bytes:
    return f"{algorithm.name}.payload".encode()


def look_soon(signer: Signer) -> None:
    """As if a second had passed since the last check of the key."""
    signer._reloader.next_check = 0.0


def write_certificates(path: Path, certificates: Sequence[x509.Certificate]) -> Path:
    path.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in certificates))
    return path


# Opening.


def test_signer_shows_the_key() -> None:
    """A signer has both URIs, the public key, the chain, and whether the key is exportable."""
    with Script() as script, open_signer(script.uri) as signer:
        assert (signer.requested_uri, signer.uri) == (script.uri, f"{script.uri};version=1")
        assert signer.public_key == script.newest.public_key
        assert signer.chain == script.newest.chain
        assert signer.exportable is False


def test_thumbprint_is_the_certificates() -> None:
    """The thumbprint is the hash of the certificate in upper-case hexadecimal."""
    with Script() as script, open_signer(script.uri) as signer:
        leaf = script.newest.chain[0]
        assert signer.thumbprint() == leaf.fingerprint(hashes.SHA256()).hex().upper()
        assert signer.thumbprint("sha1") == leaf.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303


def test_key_without_certificate() -> None:
    """A key needs no certificate to sign."""
    with Script(chain=()) as script, open_signer(script.uri) as signer:
        assert (signer.chain, signer.thumbprint(), signer.certificate_status().state) == ((), None, "missing")
        assert is_signed(signer.public_key, signer.sign(MESSAGE, "ES256"), MESSAGE, "ES256")


def test_foreign_certificate_is_refused() -> None:
    """A store's certificate for another key is refused at open, and what was opened is closed."""
    with Script(chain=[certify(new_key("P-256", 1))]) as script:
        with pytest.raises(CertificateMismatch, match="does not belong to the key") as caught:
            open_signer(script.uri)
        assert caught.value.uri == script.uri
        assert (script.count("close key"), script.count("close")) == (1, 1)


def test_chain_out_of_order_is_refused() -> None:
    """Each certificate of a store's chain must be issued by the next."""
    root, middle, key = new_key("P-256", 1), new_key("P-256", 2), new_key()
    chain = [
        certify(key, "app", middle, issuer_name="middle"),
        certify(root, "root"),
        certify(middle, "middle", root, issuer_name="root"),
    ]
    with Script(chain=chain) as script, pytest.raises(CertificateMismatch, match="Invalid certificate chain"):
        open_signer(script.uri)


def test_certificate_file_is_ordered(tmp_path: Path) -> None:
    """A certificate-file may hold its chain in any order, and takes precedence over the store's certificates."""
    root, key = new_key("P-256", 1), new_key()
    leaf, issuer = certify(key, "app", root, issuer_name="root"), certify(root, "root")
    path = write_certificates(tmp_path / "app.pem", [issuer, leaf])
    with Script() as script, open_signer(f"{script.uri}?certificate-file={path}") as signer:
        assert signer.chain == (leaf, issuer)


def test_certificate_file_of_another_key(tmp_path: Path) -> None:
    """A certificate-file must contain the key's certificate."""
    path = write_certificates(tmp_path / "app.pem", [certify(new_key("P-256", 1))])
    with Script() as script, pytest.raises(CertificateMismatch):
        open_signer(f"{script.uri}?certificate-file={path}")


@pytest.mark.parametrize(("octets", "error"), [(None, KeyNotFound), (b"nothing", CertificateMissing)])
def test_useless_certificate_file(tmp_path: Path, octets: bytes | None, error: type[Exception]) -> None:
    """A certificate-file that is missing or contains no certificate fails before the store is asked."""
    path = tmp_path / "app.pem"
    if octets is not None:
        path.write_bytes(octets)
    with Script() as script:
        with pytest.raises(error):
            open_signer(f"{script.uri}?certificate-file={path}")
        assert script.count("connect") == 0


def test_key_that_jose_does_not_know() -> None:
    """A key on a curve that JOSE has no algorithm for is refused at open, and closed."""
    with Script(key=ec.generate_private_key(ec.SECP224R1()), chain=()) as script:
        with pytest.raises(KeyUnusable, match="secp224r1"):
            open_signer(script.uri)
        assert script.count("close key") == 1


def test_defective_store_leaves_nothing_open() -> None:
    """A key that violates the contract is closed again, and so is the connection."""
    with Script() as script:
        script.newest.chain = ("no certificate",)  # type: ignore[assignment]
        with pytest.raises(InternalError, match="chain"):
            open_signer(script.uri)
        assert (script.count("close key"), script.count("close")) == (1, 1)


# The algorithm.


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_each_algorithm_is_signed(kind: str, name: str) -> None:
    """Any algorithm that fits the key's type signs, given by name or as an Algorithm."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        for asked in (name, ALGORITHMS[name]):
            assert is_signed(signer.public_key, signer.sign(MESSAGE, asked), MESSAGE, name)


@pytest.mark.parametrize(("kind", "name"), MISFITS)
def test_misfit_never_reaches_the_store(kind: str, name: str) -> None:
    """An algorithm that does not fit the key's type is refused before the store is asked."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        with pytest.raises(AlgorithmUnsupported):
            signer.sign(MESSAGE, name)
        assert script.count("sign") == 0


@pytest.mark.parametrize("name", ["none", "HS256", "ps256", "ES256K", ""])
def test_unknown_name_is_refused(name: str) -> None:
    """A name that is not a JOSE algorithm for private-key signatures is a usage error."""
    with Script() as script, open_signer(script.uri) as signer, pytest.raises(ConfigurationError):
        signer.sign(MESSAGE, name)


# The first signature.


def _der(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
    return jose_to_der(JoseSignature(sign_locally(key, message, algorithm)), algorithm)


def _longest_salt(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
    signature: bytes = key.sign(
        message, padding.PSS(padding.MGF1(algorithm.hash), padding.PSS.MAX_LENGTH), algorithm.hash
    )
    return signature


def _other_key(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
    kind = "RSA-2048" if not algorithm.curve else algorithm.curve
    return sign_locally(new_key(kind, 9), message, algorithm)


def _other_message(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
    return sign_locally(key, message + b"!", algorithm)


def _nothing(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
    return b""


WRONG = [
    *[(kind, name, _der) for kind, name in PAIRS if name.startswith("ES")],
    *[("RSA-2048", name, _longest_salt) for name in ("PS256", "PS384", "PS512")],
    *[(kind, name, wrong) for kind, name in PAIRS for wrong in (_other_key, _other_message, _nothing)],
]


@pytest.mark.parametrize(("kind", "name", "wrong"), WRONG)
def test_wrong_first_signature_is_refused(kind: str, name: str, wrong: Callable[..., bytes]) -> None:
    """Each algorithm's first signature is verified: DER, a wrong salt length or another key's signature is refused."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        script.signing = wrong
        with pytest.raises(SignatureInvalid):
            signer.sign(MESSAGE, name)
        with pytest.raises(SignatureInvalid):  # nor is the second trusted
            signer.sign(MESSAGE, name)
        script.signing = sign_locally
        assert is_signed(signer.public_key, signer.sign(MESSAGE, name), MESSAGE, name)


def test_later_signatures_are_believed() -> None:
    """An algorithm whose first signature was valid is not verified again: signing has no further cost."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256")
        script.signing = lambda *_: bytes(64)
        assert signer.sign(MESSAGE, "ES256") == bytes(64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("returned", [b"", bytes(3), bytes(1000), "text", None, [1], bytearray(64)])
def test_malformed_signature_is_refused(kind: str, later: bool, returned: object) -> None:
    """Every signature, not only the first, has the type and length required by its algorithm."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        name = algorithms_for(kind)[0].name
        if later:
            signer.sign(MESSAGE, name)
        script.signing = lambda *_: returned  # type: ignore[assignment]
        with pytest.raises(SignatureInvalid) as caught:
            signer.sign(MESSAGE, name)
        assert caught.value.try_next_key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", ["remote", "verify=always"])
def test_every_signature_is_verified(kind: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If signatures come over a network, or with `verify=always`, a later signature by another key is refused."""
    monkeypatch.setattr(ScriptedKey, "remote", reason == "remote")
    with Script(kind) as script:
        uri = script.uri if reason == "remote" else f"{script.uri}?verify=always"
        with open_signer(uri) as signer:
            name = algorithms_for(kind)[0].name
            for _ in range(2):
                assert is_signed(signer.public_key, signer.sign(MESSAGE, name), MESSAGE, name)
            script.drop()  # a key reopened by its pinned URI keeps the rule
            signer.sign(MESSAGE, name)
            other = new_key(kind, 1)
            script.signing = lambda _, message, algorithm: sign_locally(other, message, algorithm)
            with pytest.raises(SignatureInvalid, match="Invalid signature from the store"):
                signer.sign(MESSAGE, name)
            with pytest.raises(SignatureInvalid):
                signer.sign_negotiated(build)


def test_verify_takes_always_only() -> None:
    """An invalid `verify` is refused, not ignored."""
    with Script() as script, pytest.raises(ConfigurationError, match="verify"):
        open_signer(f"{script.uri}?verify=never")


def test_every_algorithm_has_a_first_signature() -> None:
    """A valid signature proves nothing about another algorithm."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "RS256")
        script.signing = _longest_salt
        with pytest.raises(SignatureInvalid):
            signer.sign(MESSAGE, "PS256")


# Negotiation.


@pytest.mark.parametrize(
    ("kind", "name"),
    [("RSA-2048", "PS256"), ("P-256", "ES256"), ("P-384", "ES384"), ("P-521", "ES512"), ("Ed25519", "EdDSA")],
)
def test_preferred_algorithm(kind: str, name: str) -> None:
    """The default is PS256 for RSA, the curve's own for EC, EdDSA for Ed25519."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        message, signature = signer.sign_negotiated(build)
        assert message == f"{name}.payload".encode()
        assert is_signed(signer.public_key, signature, message, name)


def no_pss(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
    """Like a store that supports only PKCS#1."""
    if algorithm.family == "RSA-PSS":
        raise AlgorithmUnsupported("no PSS here")
    return sign_locally(key, message, algorithm)


def test_store_without_pss_signs_rs256() -> None:
    """If the store does not support PS256, RS256 is built and signed instead, and remembered for the key."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.signing = no_pss
        for _ in range(3):
            message, signature = signer.sign_negotiated(build)
            assert message == b"RS256.payload"
            assert is_signed(signer.public_key, signature, message, "RS256")
        assert script.count("sign") == 4  # PS256 once


@pytest.mark.parametrize("supported", ["RSA-PSS", "RSA-PKCS1"])
def test_rs256_preferred(supported: str) -> None:
    """With RS256 preferred, an RSA key signs with it; with PS256 if its store supports only that."""
    tried = []

    def only(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
        tried.append(algorithm.name)
        if algorithm.family != supported:
            raise AlgorithmUnsupported("not here")
        return sign_locally(key, message, algorithm)

    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.signing = only
        for _ in range(2):
            signer.sign_negotiated(build, preferred=RS256)
    assert tried == (["RS256", "PS256", "PS256"] if supported == "RSA-PSS" else ["RS256", "RS256"])


@pytest.mark.parametrize("kind", ["P-256", "Ed25519"])
def test_rs256_preferred_for_another_type(kind: str) -> None:
    """A preference for RS256 has no effect on a key of another type."""
    with Script(kind) as script, open_signer(script.uri) as signer:
        assert signer.sign_negotiated(build, preferred=RS256)[0] == signer.sign_negotiated(build)[0]


def test_rs256_belongs_to_its_key() -> None:
    """Another key uses its own preferred algorithm."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.signing = no_pss
        signer.sign_negotiated(build)
        script.signing = sign_locally
        script.rotate("RSA-2048")
        signer.reload()
        assert signer.sign_negotiated(build)[0] == b"PS256.payload"


def test_rs256_is_not_pushed_on_a_new_key() -> None:
    """A signature that falls back to RS256 while the key is replaced does not affect the new key."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:

        def rotate_meanwhile(key: Any, message: bytes, algorithm: Algorithm) -> bytes:
            if algorithm is RS256:
                script.rotate("P-256")
                signer.reload()
            return no_pss(key, message, algorithm)

        script.signing = rotate_meanwhile
        assert signer.sign_negotiated(build)[0] == b"RS256.payload"
        assert signer.sign_negotiated(build)[0] == b"ES256.payload"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyUnusable("disabled"), KeyUnusable),
        (SignatureInvalid("wrong"), SignatureInvalid),
        (ValueError("a defect"), InternalError),
    ],
)
def test_nothing_else_falls_back(error: Exception, raised: type[Exception]) -> None:
    """Errors other than AlgorithmUnsupported do not cause a fallback to RS256."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.fail("sign", error)
        with pytest.raises(raised):
            signer.sign_negotiated(build)
        assert script.count("sign") == 1


def test_named_algorithm_is_kept() -> None:
    """A caller that names PS256 gets PS256 or an error."""
    with Script("RSA-2048") as script, open_signer(script.uri) as signer:
        script.signing = no_pss
        with pytest.raises(AlgorithmUnsupported):
            signer.sign_negotiated(build, algorithm=PS256)


def test_ec_key_has_no_fallback() -> None:
    """AlgorithmUnsupported for any algorithm but PS256 is raised."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", AlgorithmUnsupported("no"))
        with pytest.raises(AlgorithmUnsupported):
            signer.sign_negotiated(build)


def test_error_of_build_leaves_the_signer_usable() -> None:
    """An exception in `build` reaches the caller, and closing does not wait for that signature."""

    def refuse(algorithm: Algorithm, chain: Chain, public_key: object) -> bytes:
        raise RuntimeError("no")

    with Script() as script, open_signer(script.uri) as signer:
        with pytest.raises(RuntimeError):
            signer.sign_negotiated(refuse)
        signer.close()
        assert script.count("close key") == 1


# Following a rotation.


def test_header_and_signature_are_one_keys(soak: bool) -> None:
    """However often the key is replaced, an assertion's header names the key that signs it."""
    replacements, each = (1000, 25_000) if soak else (100, 2500)
    keys = [new_key("P-256", which) for which in range(5)]
    members = [Member(key, (certify(key),)) for key in keys]
    public_keys = {thumbprint_in_header(member.chain[0]): member.public_key for member in members}
    with Script(key=keys[0], chain=members[0].chain) as script, open_signer(script.uri) as signer:
        make, made = ClientAssertion(signer, x5t="sha256"), [0] * 8
        done = threading.Event()

        def replace() -> None:
            for number in range(replacements):
                member = members[number % len(members)]
                script.rotate(key=member.private_key, chain=member.chain)
                look_soon(signer)
                before = sum(made)
                until(lambda before=before: sum(made) >= before + 20)  # type: ignore[misc]
            done.set()

        def sign(index: int) -> None:
            while made[index] < each or not done.is_set():
                message, _, signature = make(
                    {"client_id": "c", "token_endpoint": "https://login.microsoftonline.com/t"}
                ).rpartition(".")
                header = json.loads(from_base64url(message.partition(".")[0]))
                public_key = public_keys[header["x5t#S256"]]
                assert is_signed(public_key, from_base64url(signature), message.encode(), "ES256")
                made[index] += 1

        with ThreadPoolExecutor(9) as pool:
            working = [pool.submit(replace), *(pool.submit(sign, index) for index in range(8))]
            for work in working:
                work.result()
        assert sum(made) >= 8 * each
        assert script.count("open") > replacements / 2
        assert signer.reload_error is None


def thumbprint_in_header(certificate: x509.Certificate) -> str:
    return base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_replaced_key_is_followed() -> None:
    """If the store reports that the key was replaced, the next assertion uses the new key."""
    with Script() as script, open_signer(script.uri) as signer:
        new = script.rotate()
        look_soon(signer)
        message, signature = signer.sign_negotiated(build)
        assert signer.uri == f"{script.uri};version=2"
        assert signer.chain == new.chain
        assert is_signed(new.public_key, signature, message, "ES256")


def test_plain_signature_follows_nothing() -> None:
    """`sign` never checks for a new key: its message may already name one."""
    with Script() as script, open_signer(script.uri) as signer:
        script.rotate()
        look_soon(signer)
        signer.sign(MESSAGE, "ES256")
        assert signer.uri == f"{script.uri};version=1"


def test_store_is_looked_at_once_a_second() -> None:
    """A check may cost a system call, so it is not made for each signature."""
    with Script() as script, open_signer(script.uri) as signer:
        look_soon(signer)
        began = time.monotonic()
        for _ in range(50):
            signer.sign_negotiated(build)
        assert script.count("changed") <= 1 + (time.monotonic() - began)


def test_former_key_is_closed() -> None:
    """A replaced key is closed when its last signature is finished."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(1) as pool:
        with script.held("sign") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            script.rotate()
            assert signer.reload()
            assert script.count("close key") == 0
        assert is_signed(script.keys["app"][0].public_key, signing.result(), MESSAGE, "ES256")
        assert script.count("close key") == 1


def test_certificate_file_is_followed(tmp_path: Path) -> None:
    """A replaced certificate-file is read again."""
    path = write_certificates(tmp_path / "app.pem", [certify(new_key(), "old")])
    with Script() as script, open_signer(f"{script.uri}?certificate-file={path}") as signer:
        renewed = certify(new_key(), "renewed and longer")
        write_certificates(path, [renewed])
        look_soon(signer)
        signer.sign_negotiated(build)
        assert signer.chain == (renewed,)


def test_settled_member_is_followed() -> None:
    """When a younger member of the family has settled, the key is reopened."""
    with Script() as script:
        script.settles_at = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        with open_signer(script.uri) as signer:
            script.keys["app"].append(script.newest)
            look_soon(signer)
            signer.sign_negotiated(build)
            assert signer.uri == f"{script.uri};version=1"
            signer._current.opened.settles_at = dt.datetime.now(dt.UTC)
            look_soon(signer)
            signer.sign_negotiated(build)
            assert signer.uri == f"{script.uri};version=2"


def test_settling_survives_a_lost_connection() -> None:
    """A key reopened by its pinned URI, which does not name a family, still settles."""
    with Script() as script:
        script.settles_at = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
        with open_signer(script.uri) as signer:
            script.drop()
            signer.sign(MESSAGE, "ES256")
            assert signer._current.opened.settles_at == script.settles_at


@pytest.mark.parametrize(("days", "opens"), [((-30, 5), 2), ((-5, 30), 1)])
def test_ageing_certificate_is_looked_up_hourly(days: tuple[int, int], opens: int) -> None:
    """In the last third of its certificate's lifetime a key is reopened every hour."""
    with Script(chain=[certify(new_key(), days=days)]) as script, open_signer(f"{script.uri};version=1") as signer:
        signer._reloader._next_reload = 0.0  # as if the hour had passed
        for _ in range(2):
            look_soon(signer)
            signer.sign_negotiated(build)
        assert script.count("open") == opens


@pytest.mark.parametrize("more", ["", ";version=1?select=newest"])
def test_family_is_looked_up_hourly(more: str) -> None:
    """A URI that may lead to another key later, without a version or for a family, is reopened every hour."""
    with Script() as script, open_signer(script.uri + more) as signer:
        signer._reloader._next_reload = 0.0
        look_soon(signer)
        signer.sign_negotiated(build)
        assert script.count("open") == 2


def test_failed_follow_keeps_the_old_key() -> None:
    """If the new key does not open, the old one keeps signing; the error is kept until a reload succeeds."""
    with Script() as script, open_signer(script.uri) as signer:
        script.rotate()
        script.always["open"] = error = StoreUnavailable("down")
        look_soon(signer)
        message, signature = signer.sign_negotiated(build)
        assert is_signed(script.keys["app"][0].public_key, signature, message, "ES256")
        assert signer.reload_error is error
        del script.always["open"]
        look_soon(signer)
        signer.sign_negotiated(build)
        assert signer.uri == f"{script.uri};version=2"
        remembered: object = signer.reload_error
        assert remembered is None


def test_failed_follow_is_tried_again_later() -> None:
    """After a failure the next attempt comes no earlier than a second later."""
    with Script() as script, open_signer(script.uri) as signer:
        script.rotate()
        script.always["open"] = StoreUnavailable("down")
        look_soon(signer)
        began = time.monotonic()
        for _ in range(50):
            signer.sign_negotiated(build)
        assert script.count("open") <= 2 + (time.monotonic() - began)


def test_certificate_file_is_tried_again(tmp_path: Path) -> None:
    """A certificate-file whose key temporarily failed to open is not forgotten."""
    path = write_certificates(tmp_path / "app.pem", [certify(new_key(), "old")])
    with Script() as script, open_signer(f"{script.uri}?certificate-file={path}") as signer:
        renewed = certify(new_key(), "renewed and longer")
        write_certificates(path, [renewed])
        script.fail("open", StoreUnavailable("down"))
        for _ in range(2):
            look_soon(signer)
            signer.sign_negotiated(build)
        assert signer.chain == (renewed,)


def test_wrong_certificate_file_keeps_the_old(tmp_path: Path) -> None:
    """A file replaced with another key's certificate is not used."""
    path = write_certificates(tmp_path / "app.pem", [certify(new_key(), "old")])
    with Script() as script, open_signer(f"{script.uri}?certificate-file={path}") as signer:
        old = signer.chain
        write_certificates(path, [certify(new_key("P-256", 1))])
        look_soon(signer)
        signer.sign_negotiated(build)
        assert signer.chain == old
        assert isinstance(signer.reload_error, CertificateMismatch)


def test_others_sign_while_one_reloads() -> None:
    """While one thread reloads, the others sign with the old key."""
    with Script() as script, open_signer(script.uri) as signer, ThreadPoolExecutor(1) as pool:
        script.rotate()
        with script.held("open") as gate:
            look_soon(signer)
            first = pool.submit(signer.sign_negotiated, build)
            assert gate.entered.wait(LONG_ENOUGH)
            message, signature = signer.sign_negotiated(build)
            assert is_signed(script.keys["app"][0].public_key, signature, message, "ES256")
        message, signature = first.result()
        assert is_signed(script.newest.public_key, signature, message, "ES256")


def test_reload_tells_what_it_found() -> None:
    """An explicit reload returns whether key or certificate has changed."""
    with Script() as script, open_signer(script.uri) as signer:
        assert signer.reload() is False
        script.newest.chain = (certify(new_key(), "renewed"),)
        assert signer.reload() is True
        script.rotate()
        assert signer.reload() is True


def test_reload_that_is_asked_for_raises() -> None:
    """Its error is raised, and the old key stays."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("open", KeyNotFound("gone"))
        with pytest.raises(KeyNotFound):
            signer.reload()
        assert signer.uri == f"{script.uri};version=1"
        assert signer.reload_error is None


# Closing.


def test_closed_signer_is_unusable() -> None:
    """After close nothing is signed, and the store is not called."""
    with Script() as script:
        with open_signer(script.uri) as signer:
            key = signer.private_key()
        asked = len(script.events)
        for act in (
            lambda: signer.sign(MESSAGE, "ES256"),
            lambda: signer.sign_negotiated(build),
            lambda: key.sign(MESSAGE, ec.ECDSA(hashes.SHA256())),  # type: ignore[call-arg, arg-type]
            signer.reload,
        ):
            with pytest.raises(KeyUnusable, match="The signer is closed"):
                act()
        assert len(script.events) == asked


def test_close_may_be_called_twice() -> None:
    """If eight threads close a signer, its key is closed once; another signer of the store still signs."""
    with Script() as script, open_signer(script.uri) as other:
        signer = open_signer(script.uri)
        assert in_threads(8, signer.close) == [None] * 8
        assert (script.count("close key"), script.count("close")) == (1, 0)
        other.sign(MESSAGE, "ES256")


def test_close_waits_for_signatures() -> None:
    """Running signatures finish before key and store are closed, once each."""
    with Script() as script, ThreadPoolExecutor(9) as pool:
        signer = open_signer(script.uri)
        with script.held("sign") as gate:
            signing = [pool.submit(signer.sign, MESSAGE, "ES256") for _ in range(8)]
            until(lambda: script.count("sign") == 8)
            closing = pool.submit(signer.close)
            until(lambda: signer._current.closed)
            assert script.count("close key") == 0
            gate.open()
        closing.result()
        for signature in signing:
            assert is_signed(signer.public_key, signature.result(), MESSAGE, "ES256")
        assert (script.count("close key"), script.count("close")) == (1, 1)


def test_close_waits_for_former_keys() -> None:
    """The store is not closed during a signature of a key that has been replaced."""
    with Script() as script, ThreadPoolExecutor(2) as pool:
        signer = open_signer(script.uri)
        with script.held("sign") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            signer.reload()
            closing = pool.submit(signer.close)
            until(lambda: script.count("close key") == 1)
            assert script.count("close") == 0
            gate.open()
        closing.result()
        assert is_signed(signer.public_key, signing.result(), MESSAGE, "ES256")
        assert (script.count("close key"), script.count("close")) == (2, 1)


def test_interrupted_close_may_be_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C while waiting for a signature, the next call closes the rest."""
    with Script() as script, ThreadPoolExecutor(1) as pool:
        signer = open_signer(script.uri)
        with script.held("sign") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            with monkeypatch.context() as patch:
                patch.setattr(time, "sleep", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    signer.close()
            gate.open()
        signing.result()
        signer.close()
        assert (script.count("close key"), script.count("close")) == (1, 1)


def interrupt(_: float) -> None:
    raise KeyboardInterrupt


def test_slow_store_has_the_rest_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running signatures and the store's closing share 10 seconds; the store always has a tenth of a second."""
    given: list[float] = []

    def release(connection: Connection, timeout: float) -> None:
        given.append(timeout)
        connections.release(connection, timeout)

    monkeypatch.setattr(signer_module, "release", release)
    with Script() as script, ThreadPoolExecutor(2) as pool:
        signer = open_signer(script.uri)
        with script.held("sign") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            closing = pool.submit(signer.close)
            until(lambda: signer._current.closed)
            time.sleep(0.5)
            gate.open()
        closing.result()
        signing.result()
        monkeypatch.setattr(signer_module, "CLOSING_TIMEOUT", -1.0)
        open_signer(script.uri).close()
    assert 0.1 < given[0] <= CLOSING_TIMEOUT - 0.5
    assert given[1] == 0.1


def test_slow_store_is_left_behind(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A store that closes too slowly is abandoned."""
    monkeypatch.setattr(signer_module, "CLOSING_TIMEOUT", 0.05)
    with Script() as script, script.held("close") as gate:
        open_signer(script.uri).close()
        assert "did not close" in caplog.text
        gate.open()
        until(lambda: script.count("close"))


def test_stuck_signature_is_left_behind(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A signature that does not end is abandoned with one log line; its store is not closed under it."""
    monkeypatch.setattr(signer_module, "CLOSING_TIMEOUT", 0.05)
    with Script() as script, ThreadPoolExecutor(1) as pool:
        signer = open_signer(script.uri)
        with script.held("sign") as gate:
            signing = pool.submit(signer.sign, MESSAGE, "ES256")
            assert gate.entered.wait(LONG_ENOUGH)
            signer.close()
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert script.count("close") == script.count("close key") == 0
            gate.open()
        signing.result()
        assert script.count("close key") == 1


def test_threads_sign_while_it_closes() -> None:
    """Threads that sign while the signer is closed get a valid signature or an error that says it is closed."""
    for _ in range(20):
        with Script() as script:
            signer = open_signer(script.uri)

            def sign_on(signer: Signer = signer) -> bool:
                while True:
                    try:
                        signature = signer.sign(MESSAGE, "ES256")
                    except KeyUnusable as error:
                        return error.message == "The signer is closed."
                    assert is_signed(signer.public_key, signature, MESSAGE, "ES256")

            def close_soon(script: Script = script, signer: Signer = signer) -> None:
                until(lambda: script.count("sign") > 20)
                signer.close()

            with ThreadPoolExecutor(1) as pool:
                closing = pool.submit(close_soon)
                assert in_threads(4, sign_on) == [True] * 4
                closing.result()
            assert (script.count("close key"), script.count("close")) == (1, 1)


# Audit.


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, object]]]:
    """The audit records so far."""
    caplog.set_level(logging.INFO, "keyvouch.audit")
    return lambda: [json.loads(record.getMessage()) for record in caplog.records if record.name == "keyvouch.audit"]


Audit = Callable[[], list[dict[str, object]]]


def test_signature_is_recorded(audit: Audit) -> None:
    """A signature leaves one record: key, algorithm, thumbprint, milliseconds, outcome, and the caller's fields."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(b"the message itself", "ES256", audit={"jti": "1", "client_id": "app"})
        [record] = audit()
        assert isinstance(milliseconds := record.pop("milliseconds"), float)
        assert milliseconds > 0
        assert dt.datetime.fromisoformat(str(record.pop("time"))).tzinfo is not None
        assert record == {
            "event": "sign",
            "uri": f"{script.uri};version=1",
            "algorithm": "ES256",
            "thumbprint": signer.thumbprint(),
            "outcome": "signed",
            "jti": "1",
            "client_id": "app",
        }


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(KeyUnusable("disabled"), "key-unusable"), (ZeroDivisionError("secret"), "internal-error")],
)
def test_refusal_is_recorded(audit: Audit, error: Exception, outcome: str) -> None:
    """A failed signature is recorded with the error's code, but not its text."""
    with Script() as script, open_signer(script.uri) as signer:
        script.fail("sign", error)
        with pytest.raises(KeyvouchError):
            signer.sign(MESSAGE, "ES256")
        assert [record["outcome"] for record in audit()] == [outcome]
        assert str(error) not in json.dumps(audit())


def test_record_holds_no_message(audit: Audit) -> None:
    """Neither message nor signature is recorded."""
    with Script() as script, open_signer(script.uri) as signer:
        message, signature = signer.sign_negotiated(build)
        text = json.dumps(audit())
        assert message.decode() not in text
        assert signature.hex() not in text


def test_caller_cannot_forge_a_record(audit: Audit) -> None:
    """Fields from `audit=` cannot replace the record's own."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256", audit={"event": "nothing", "outcome": "other", "uri": "pfx:/x", "jti": "1"})
        [record] = audit()
        assert (record["event"], record["outcome"], record["jti"]) == ("sign", "signed", "1")
        assert record["uri"] == signer.uri


def test_odd_extras_fail_no_signature(audit: Audit) -> None:
    """Values that JSON cannot represent are recorded as text."""
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256", audit={"when": dt.date(2026, 1, 1), "line": "a\nb"})
        assert audit()[0]["when"] == "2026-01-01"


def test_failed_follow_is_recorded(audit: Audit) -> None:
    """A failed automatic reload is recorded."""
    with Script() as script, open_signer(script.uri) as signer:
        script.rotate()
        script.fail("open", StoreUnavailable("down"))
        look_soon(signer)
        signer.sign_negotiated(build)
        assert [(each["event"], each["outcome"]) for each in audit()] == [
            ("reload", "store-unavailable"),
            ("sign", "signed"),
        ]


def test_no_record_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """If the logger is not enabled for INFO, nothing is recorded."""
    caplog.set_level(logging.WARNING, "keyvouch.audit")
    with Script() as script, open_signer(script.uri) as signer:
        signer.sign(MESSAGE, "ES256")
    assert not caplog.records


def test_coroutines_sign() -> None:
    """`sign_async` signs in a thread, many concurrently."""

    async def sign(signer: Signer) -> list[bytes]:
        return await asyncio.gather(*[signer.sign_async(MESSAGE, "ES256") for _ in range(20)])

    with Script() as script, open_signer(script.uri) as signer:
        for signature in asyncio.run(sign(signer)):
            assert is_signed(signer.public_key, signature, MESSAGE, "ES256")


def test_signer_prints_its_pinned_uri() -> None:
    """A signer's repr is its pinned URI."""
    with Script() as script, open_signer(script.uri) as signer:
        assert repr(signer) == f"<Signer {script.uri};version=1>"
