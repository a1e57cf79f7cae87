"""Feed garbage and mutated real input to everything that parses texts, files and responses.

Only `KeyvouchError`s may be raised. A few thousand inputs, the same each time; with `--soak` a million, different.
"""

from __future__ import annotations

import base64
import datetime as dt
import io
import itertools
import json
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

import keyvouch
from fuzz.mutate import feed
from keyvouch import config
from keyvouch._formats import asn1
from keyvouch._secrets.redaction import redact
from keyvouch.entra.msal import ConfidentialClient
from keyvouch.errors import KeyvouchError
from keyvouch.stores.file import PemStore, PfxStore
from keyvouch.testing.authority import Authority
from keyvouch.uri import parse_uri
from scripted_store import certify, new_key
from signing_in import make_key
from stores import several_keys
from stores.key_material import der, integer, open_key, pem_of, store, to_ber, uri, write

PASSWORD = "correct horse"
# What `cryptography` reads now but announces it will refuse counts as an error once it does.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


@pytest.fixture
def seed(soak: bool, record_property: Callable[[str, object], None]) -> int:
    """Constant, except when soaking."""
    found = random.SystemRandom().randrange(2**32) if soak else 1
    record_property("seed", found)
    return found


def times(count: int, soak: bool) -> int:
    """The number of inputs: 6,120 in total or, with `--soak`, 1.8 million."""
    return count * 300 if soak else count


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", PASSWORD)


URIS = (
    "pfx:/etc/keyvouch/app.pfx?password=env:PASSWORD",
    "pfx:path=/etc/keyvouch/all.pfx;friendly-name=a%3Bb?password=file:/run/x&certificate-file=/etc/c.pem&settle=5",
    "pem:C:\\keys\\app.key?certificate-file=C:\\keys\\app.crt",
    "pem:/etc/keyvouch/app-*.pem?select=newest&settle=900",
    f"pem:path=/etc/keyvouch/app.pem;spki-sha256={'ab' * 32}",
    "pfx:/etc/keyvouch/äöü 日本.pfx?password=env:PASSWORD",
)


def test_uris(seed: int, soak: bool) -> None:
    """Any text is a URI that reads back as printed, or an error."""

    def consume(data: bytes) -> None:
        text = data.decode(errors="surrogateescape")
        redact(text)
        store = PfxStore if chance.random() < 0.5 else PemStore
        parsed = parse_uri(text, store.attributes)
        assert parse_uri(str(parsed), store.attributes) == parsed
        parsed.quoted.encode(errors="surrogateescape")

    chance = random.Random(seed)
    ends = feed(seed, times(1700, soak), [text.encode() for text in URIS], consume)
    assert ends["taken"] > 100
    assert ends["configuration"] > 100


@pytest.mark.parametrize("which", ["/etc/app.pfx", "path=/etc/app.pfx;friendly-name=app"])
def test_typos_reveal_no_secret(which: str) -> None:
    """A secret is written in place of its reference, after a typo of one character: no error contains the secret."""
    text, secret = f"pfx:{which}?password=", "Sesam0effneDich"
    told = 0
    for place, character in itertools.product(range(len(text) + 1), ["", *string.printable, "ä", "\x85"]):
        for end in (place, place + 1):  # inserted, and replacing a character
            wrong = f"{text[:place]}{character}{text[end:]}{secret}"
            try:
                parse_uri(wrong, PfxStore.attributes)
            except KeyvouchError as error:
                told += 1
                assert secret not in f"{error} {error.uri}", wrong  # noqa: PT017 - most are refused, and some are not
    assert told > 1000


def test_configurations(seed: int, soak: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any text is a configuration with profiles, or an error."""
    sample = """\
[defaults]
cloud = "public"
ca-file = "/etc/ssl/corp.pem"
[profiles.nightly]
tenant = "contoso.onmicrosoft.com"
client-id = "8d2f7c1e"
scopes = ["https://graph.microsoft.com/.default"]
keys = ['pfx:C:\\app.pfx?password=env:X', "pem:/etc/app.pem"]
audit = "file:/var/log/audit.jsonl"
assertion = {send-x5c = true, x5t = "auto", lifetime = 600, reuse = 0}
permissions = "strict"
"""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("KEYVOUCH_CONFIG", str(path))

    def consume(data: bytes) -> None:
        path.write_bytes(data)
        found = config.load()
        for name in found.profiles:
            found.profile(name)
        found.default_profile()

    ends = feed(seed, times(600, soak), [sample.encode()], consume)
    assert set(ends) == {"taken", "configuration"}


def test_pem_files(seed: int, soak: bool, tmp_path: Path) -> None:
    """Any file is a key that opens, or an error."""
    key, other = new_key("P-256"), new_key("P-256", 1)
    rsa = new_key("RSA-2048")
    encrypted = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode()))
    traditional = key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(PASSWORD.encode())
    )
    samples = [
        pem_of(key, certify(key)),
        pem_of(rsa, certify(rsa), certify(key)),
        encrypted + pem_of(certify(other)),
        traditional,
    ]
    path = tmp_path / "app.pem"

    def consume(data: bytes) -> None:
        write(path, data)
        open_key(f"pem:{path}?password=env:PASSWORD")

    # An encrypted key takes milliseconds, so there are fewer of them.
    ends = feed(seed, times(500, soak), samples[:2], consume)
    assert ends["taken"] > 10
    assert ends["key-unusable"] > 100
    feed(seed, times(20, soak), samples, consume)


def test_keys_in_memory(seed: int, soak: bool) -> None:
    """Any bytes are a key that opens, encoded or not, or an error."""
    key, rsa = new_key("P-256"), new_key("RSA-2048")
    x5c = [base64.b64encode(certify(key).public_bytes(Encoding.DER)).decode()]
    samples = [
        json.dumps({**ECAlgorithm.to_jwk(key, as_dict=True), "x5c": x5c}).encode(),
        json.dumps({"keys": [ECAlgorithm.to_jwk(key, as_dict=True), {"kty": "oct"}]}).encode(),
        RSAAlgorithm.to_jwk(rsa).encode(),
        base64.b64encode(pem_of(key, certify(key))),
        pem_of(key, certify(key)).replace(b"\n", b"\\n"),
    ]
    ends = feed(seed, times(300, soak), samples, lambda data: keyvouch.load_signer(data).close())
    assert ends["taken"] > 1
    assert ends["key-unusable"] > 100


def test_pfx_files(seed: int, soak: bool, tmp_path: Path) -> None:
    """Any file is a key that opens, or an error."""
    key = new_key("P-256")
    encryption = PrivateFormat.PKCS12.encryption_builder().kdf_rounds(1)
    samples = [
        pkcs12.serialize_key_and_certificates(b"app", key, certify(key), [certify(new_key("P-256", 1))], each)
        for each in (
            encryption.key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC).hmac_hash(SHA256()).build(b"x"),
            encryption.key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC).build(b"x"),
        )
    ]
    path = tmp_path / "app.pfx"

    def consume(data: bytes) -> None:
        write(path, data)
        open_key(f"pfx:{path}?password=env:PASSWORD")

    ends = feed(seed, times(300, soak), samples, consume)
    assert ends["key-unusable"] > 10
    assert ends["secret-incorrect"] > 10


def test_pfx_files_with_several_keys(seed: int, soak: bool, tmp_path: Path) -> None:
    """A DER or BER file with unencrypted keys is read completely by our own parser."""
    key_bags = b"".join(
        der(
            0x30,
            der(0x06, bytes.fromhex("2a864886f70d010c0a0101")),
            der(0xA0, new_key("P-256", which).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
        )
        for which in range(2)
    )
    data_oid = der(0x06, bytes.fromhex("2a864886f70d010701"))
    safes = der(0x30, der(0x30, data_oid, der(0xA0, der(0x04, der(0x30, key_bags)))))
    definite = der(0x30, integer(3), der(0x30, data_oid, der(0xA0, der(0x04, safes))))
    samples = [definite, to_ber(definite)]
    path = tmp_path / "app.pfx"

    def consume(data: bytes) -> None:
        write(path, data)
        store(f"pfx:{path}").keys(uri(f"pfx:{path}"))

    ends = feed(seed, times(400, soak), samples, consume)
    assert ends["taken"] > 1
    assert ends["key-unusable"] > 100


def test_ber(seed: int, soak: bool) -> None:
    """Any bytes are a tree that is the same in DER, or a ValueError, and nothing else."""

    def consume(data: bytes) -> None:
        try:
            tree = asn1.parse(data)
        except ValueError:
            ends["refused"] += 1
        else:
            ends["taken"] += 1
            assert asn1.parse(asn1.encode(tree)) == tree

    ends = {"taken": 0, "refused": 0}
    feed(
        seed, times(2000, soak), [to_ber(several_keys.PFX), several_keys.PFX, b"\x30\x80" * 20 + b"\0\0" * 20], consume
    )
    assert min(ends.values()) > 100


class Canned(BaseAdapter):
    """Responses that replace a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.status, self.body = 200, b""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = self.status
        response.raw = HTTPResponse(io.BytesIO(self.body), status=self.status, preload_content=False)
        response.request, response.url = request, str(request.url)
        response.headers["Content-Type"] = "application/json; charset=utf-8"
        return response

    def close(self) -> None:
        pass


def test_token_responses(seed: int, soak: bool, tmp_path: Path, authority: Authority) -> None:
    """Any response of the token endpoint is a token, a refusal, or unusable."""
    taken = {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": "eyJ0.eyJ1.c2ln"}
    refused = {
        "error": "invalid_client",
        "error_description": "AADSTS700027: No. Trace ID: 1 Correlation ID: 2 Timestamp: 3",
        "error_codes": [700027],
        "timestamp": str(dt.datetime.now(dt.UTC)),
        "trace_id": "1",
        "correlation_id": "2",
        "error_uri": "https://login.microsoftonline.com/error?code=700027",
        "claims": '{"access_token":{}}',
    }
    more = {
        **taken,
        "refresh_in": 1800,
        "scope": "a b",
        "refresh_token": "r",
        "id_token": "e30.e30.",
        "client_info": "e30",
    }
    key = make_key(tmp_path, "app.pem", "P-256")
    canned, chance = Canned(), random.Random(seed)
    clients: list[ConfidentialClient] = []

    def fresh() -> ConfidentialClient:
        """A client without the tokens and responses that MSAL remembered for the previous one."""
        client = ConfidentialClient(
            "client", [key.uri], authority=authority.authority, ca_file=authority.ca_file, instance_discovery=False
        )
        assert client._session
        client._session.mount("https://", canned)
        return client

    def consume(data: bytes) -> None:
        number = len(counted)
        counted.append(None)
        if number % 200 == 0:
            for former in clients:
                former.close()
            clients[:] = [fresh()]
        canned.status, canned.body = chance.choice((200, 200, 200, 400, 401, 403, 429, 500, 503)), data
        clients[0].access_token([f"api://{number}/.default"], timeout=30)

    counted: list[None] = []
    samples = [json.dumps(each).encode() for each in (taken, refused, more)]
    ends = feed(seed, times(300, soak), samples, consume)
    assert set(ends) <= {"taken", "authority-refused", "authority-unavailable"}
    assert len(ends) == 3
