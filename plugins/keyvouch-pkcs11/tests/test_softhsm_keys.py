"""Keys on SoftHSM: tests beyond the conformance kit."""

from __future__ import annotations

from pathlib import Path

import pytest

import keyvouch
from keyvouch.certificate import self_signed
from keyvouch.errors import KeyExists
from keyvouch.local_key import make_key
from keyvouch.testing.authority import Authority
from keyvouch_pkcs11 import cryptoki as ck
from loaded_modules import loaded_by
from pkcs11_modules import only_token
from scripted_store import is_signed
from servers.oidc import OidcProvider
from signing_in import run, sign_in
from softhsm_keys import SigningLoad, UriOf, generate, generate_always_authenticating, record_pins
from softhsm_tokens import PIN, SOFTHSM, softhsm  # noqa: F401 - a fixture
from stores.key_material import make_pss_key

pytestmark = pytest.mark.server


def test_key_cannot_be_exported(softhsm: UriOf) -> None:
    """The token does not reveal the private value of a key that it generated."""
    generate(softhsm(), "RSA-2048")
    with keyvouch.open_signer(softhsm()) as signer:
        token = only_token(SOFTHSM)
        with token.session(10) as session, token.module as functions:
            (handle,) = functions.find_objects(session, {ck.CKA_CLASS: ck.CKO_PRIVATE_KEY})
            attributes = functions.read_attributes(
                session, handle, (ck.CKA_PRIVATE_EXPONENT, ck.CKA_PRIME_1, ck.CKA_SENSITIVE)
            )
        assert attributes == {ck.CKA_SENSITIVE: b"\1"}
        assert signer.exportable is False


def test_unmodified_msal_signs_in(softhsm: UriOf, authority: Authority, oidc_provider: OidcProvider) -> None:
    """Both test authorities accept the sign-in."""
    generate(softhsm(), "RSA-2048")
    with keyvouch.open_signer(softhsm()) as signer:
        sign_in(signer, authority, oidc_provider)


def test_sign_loads_only_what_it_uses(softhsm: UriOf) -> None:
    """`keyvouch sign` loads nothing that creates keys, prints tables or sends requests."""
    generate(softhsm(), "RSA-2048")
    modules = loaded_by("sign", "--key", softhsm(), message="message")
    assert "keyvouch_pkcs11.key" in modules
    unused = {"cryptography.hazmat.asn1", "keyvouch.private_key", "msal", "platformdirs", "requests", "rich"}
    assert unused.isdisjoint(modules)


def test_id_is_bytes(softhsm: UriOf) -> None:
    """An id is arbitrary bytes, and selects its key without a label."""
    pinned = generate(softhsm("id=%01%A2%00%DC%B5;object=app"))
    assert "id=%01%A2%00%DC%B5" in pinned  # bytes, although two of them form a UTF-8 letter
    with keyvouch.open_signer(softhsm("id=%01%A2%00%DC%B5")) as signer:
        assert str(signer.uri) == pinned


def test_label_or_id_in_use(softhsm: UriOf) -> None:
    """A label or id already in use raises KeyExists; a further member of a family needs its own id."""
    generate(softhsm("object=app;id=%01"))
    for taken in ("object=app", "object=other;id=%01", "object=app;id=%02"):
        with pytest.raises(KeyExists):
            generate(softhsm(taken))
    generate(softhsm("object=app;id=%02"), further=True)
    with keyvouch.open_store(softhsm()) as store:
        listed = store.keys()
    assert sorted(info.uri.get("id") for info in listed) == [b"\1", b"\2"]


def test_delete_keeps_objects_of_key_with_same_id(softhsm: UriOf) -> None:
    """Some tokens allow two keys with the same id: deleting one keeps the other's public key and certificate."""
    kept, deleted = (generate(softhsm(f"object={name}"), "RSA-2048") for name in ("kept;id=%01", "deleted;id=%02"))
    with keyvouch.open_signer(kept) as signer:
        token = only_token(SOFTHSM)
        with token.read_write_session() as session, token.module as functions:
            for handle in functions.find_objects(session, {ck.CKA_ID: b"\2"}):
                array, _buffers = ck._attribute_array({ck.CKA_ID: b"\1"})
                functions._call("SetAttributeValue", ck.CK_ULONG(session), ck.CK_ULONG(handle), array, ck.CK_ULONG(1))
        chain = signer.chain
    with keyvouch.open_store(deleted.replace("id=%02", "id=%01")) as store:
        store.delete()
    with keyvouch.open_signer(kept) as signer:
        assert signer.chain == chain
    with keyvouch.open_store(softhsm("id=%01")) as store:
        listed = store.keys()
    assert [info.uri.get("object") for info in listed] == [b"kept"]


def test_key_that_always_authenticates(softhsm: UriOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CKA_ALWAYS_AUTHENTICATE the PIN is given for each signature, and threads do not interfere."""
    generate(softhsm("object=other"))
    with keyvouch.open_signer(softhsm("object=other")):
        generate_always_authenticating(only_token(SOFTHSM))
        pins = record_pins(monkeypatch)
        with keyvouch.open_signer(softhsm()) as signer, SigningLoad(signer, "ES256", 4, 200) as load:
            pass
    assert not load.errors
    assert pins == [PIN.encode()] * 200


def test_installed_certificate_replaces_only_its_own(softhsm: UriOf) -> None:
    """Installing a certificate does not affect those of other keys."""
    first, other = generate(softhsm("object=app")), generate(softhsm("object=other"))
    with keyvouch.open_signer(other) as signer:
        kept = signer.chain
    with keyvouch.open_signer(first) as signer:
        new = self_signed(signer.private_key(), "CN=renewed", 30)
    with keyvouch.open_store(first) as store:
        store.install_certificate([new])
    with keyvouch.open_signer(first) as signer:
        assert signer.chain == (new,)
    with keyvouch.open_signer(other) as signer:
        assert signer.chain == kept


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "P-384", "P-521"])
def test_imported_key(softhsm: UriOf, kind: str) -> None:
    """An imported key signs and cannot be exported."""
    key = make_key(kind)
    with keyvouch.open_store(softhsm()) as store:
        store.import_key(key, [self_signed(key, "CN=app", 30)])
    with keyvouch.open_signer(softhsm()) as signer:
        name = "PS256" if kind.startswith("RSA") else {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[kind]
        assert is_signed(key.public_key(), signer.sign(b"message", name), b"message", name)
        assert signer.exportable is False


def test_rsassa_pss_key_is_not_imported(softhsm: UriOf, tmp_path: Path) -> None:
    """A token would sign with algorithms that the key does not allow, so nothing is imported."""
    path = make_pss_key(tmp_path, "sha512", 64)
    done = run("import", "--from", f"pem:{path}", "--key", softhsm())
    assert "Cannot import an RSASSA-PSS key: pkcs11: cannot limit it" in done.errors
    assert "(PS512)" in done.errors
    assert "keyvouch new" in done.errors
    with keyvouch.open_store(softhsm()) as store:
        assert store.keys() == []


def test_demo_continues_with_a_token(softhsm: UriOf) -> None:
    """In the demo's second part the profile signs with a key on a token, after changing one line."""
    done = run("demo")
    assert done.status == 0, done.errors
    assert '\n+ keys = ["pkcs11:token=demo' in done.output
    assert f"new --key 'pkcs11:token=demo;object=app?module-path={SOFTHSM}" in done.output
