"""Keys in files sign; `cryptography` and the `openssl` command verify."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvouch.algorithms import ALGORITHMS, algorithms_for
from stores.key_material import certify, new_key, open_key, openssl, openssl_pfx, pem_of, write

MESSAGE = b"header.payload"
PAIRS = [
    (kind, algorithm.name)
    for kind in ("RSA-2048", "RSA-3072", "RSA-4096", "P-256", "P-384", "P-521", "Ed25519")
    for algorithm in algorithms_for(kind)
]


def judge(public_key: Any, signature: bytes, name: str) -> None:
    """Raise InvalidSignature unless the signature conforms to RFC 7518, section 3, or RFC 8037."""
    if name == "EdDSA":
        public_key.verify(signature, MESSAGE)
        return
    digest = getattr(hashes, f"SHA{name[2:]}")()
    if name.startswith("ES"):
        middle = {"ES256": 32, "ES384": 48, "ES512": 66}[name]
        assert len(signature) == 2 * middle
        r, s = (int.from_bytes(half) for half in (signature[:middle], signature[middle:]))
        public_key.verify(utils.encode_dss_signature(r, s), MESSAGE, ec.ECDSA(digest))
    elif name.startswith("PS"):
        public_key.verify(signature, MESSAGE, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    else:
        public_key.verify(signature, MESSAGE, padding.PKCS1v15(), digest)


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_pem_key_signs(folder: Path, kind: str, name: str) -> None:
    """A PEM key signs with every algorithm that fits it."""
    path = write(folder / "app.pem", pem_of(new_key(kind)))
    signature = open_key(f"pem:{path}").sign(MESSAGE, ALGORITHMS[name], timeout=1)
    judge(new_key(kind).public_key(), signature, name)


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_pfx_key_signs(folder: Path, kind: str, name: str) -> None:
    """A PFX key signs with every algorithm that fits it."""
    path = openssl_pfx(folder / "app.pfx", key=new_key(kind))
    signature = open_key(f"pfx:{path}?password=env:PASSWORD").sign(MESSAGE, ALGORITHMS[name], timeout=1)
    judge(new_key(kind).public_key(), signature, name)


def test_openssl_accepts_signature(folder: Path) -> None:
    """The `openssl` command verifies PS256 with a salt as long as the digest."""
    path = openssl_pfx(folder / "app.pfx", key=new_key("RSA-2048"))
    signature = open_key(f"pfx:{path}?password=env:PASSWORD").sign(MESSAGE, ALGORITHMS["PS256"], timeout=1)
    public = write(
        folder / "public.pem",
        new_key("RSA-2048").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )
    options = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32")
    signed = write(folder / "signature", signature)
    answer = openssl("dgst", "-sha256", "-verify", public, *options, "-signature", signed, stdin=MESSAGE)
    assert answer == b"Verified OK\n"


def test_threads_sign_at_once(folder: Path) -> None:
    """Many threads sign with one key."""
    key = open_key(f"pem:{write(folder / 'app.pem', pem_of(new_key()))}")
    with ThreadPoolExecutor(8) as pool:
        signatures = list(pool.map(lambda _: key.sign(MESSAGE, ALGORITHMS["ES256"], timeout=1), range(400)))
    for signature in signatures:
        judge(new_key().public_key(), signature, "ES256")


def test_key_has_its_uri_and_public_key(folder: Path) -> None:
    """An open key has its public key and chain, and is marked exportable."""
    key = new_key()
    opened = open_key(f"pem:{write(folder / 'app.pem', pem_of(key, certify(key)))}")
    assert opened.public_key == key.public_key()
    assert opened.chain == (certify(key),)
    assert opened.exportable is True
    assert opened.settles_at is None
