"""Keys in transit: which one a URI selects, and how it is created, certified, imported and deleted."""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import keyvouch
from keyvouch._core.opening import parse
from keyvouch.algorithms import ALGORITHMS, verifies
from keyvouch.certificate import self_signed
from keyvouch.entra.assertion import EntraAssertion
from keyvouch.errors import (
    AccessDenied,
    CertificateMismatch,
    CertificateMissing,
    KeyChanged,
    KeyExists,
    KeyNotFound,
    KeyUnusable,
    NotSupported,
    SignatureInvalid,
)
from keyvouch.local_key import make_key
from keyvouch.testing.authority import Authority
from openbao import Server
from peers import compared
from scripted_store import is_signed
from servers.oidc import OidcProvider
from signing_in import run, sign_in
from stores.key_material import make_pss_key
from vault_keys import error_on_open, key_uri
from vault_keys import make_key as make_vault_key

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def _token(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("keys"))


def generate(uri: str, kind: str = "P-256", **more: bool) -> str:
    with keyvouch.open_store(uri) as store:
        return str(store.generate(keyvouch.KeySpec(kind, "CN=app", 30, **more)))


def certify(uri: str, path: Path) -> str:
    """Write a certificate for the key of this URI, and return the certificate-file attribute."""
    with keyvouch.open_signer(uri) as signer:
        path.write_bytes(self_signed(signer.private_key(), "CN=app", 30).public_bytes(Encoding.PEM))
    return f"&certificate-file={path}"


def test_command_creates_a_key(server: Server) -> None:
    """The command prints the pinned URI, and nothing about a file's password."""
    done = run("new", "--key", key_uri(server, "by-command"), "--key-type", "p-256")
    assert done.status == 0, done.errors
    assert "version=1;spki-sha256=" in done.output
    assert "not encrypted" not in done.errors


def test_line_for_a_profile_mentions_the_login(server: Server) -> None:
    """The URI that created a key has its creator's login; it follows the versions without `select=newest`."""
    uri = key_uri(server, "for-a-profile")
    options = ("--key", uri, "--key-type", "P-256")
    made = run("new", *options, "--certificate-out", f"{server.ca_file.parent}/for-a-profile.cer")
    further = run("new", *options, "--further")
    assert f"--key '{uri}'\nWrite it with the login of the job instead of yours, which may only sign." in made.errors
    assert "With this line, and the login of the job instead of yours, a profile always uses" in further.errors
    assert f'keys = ["{uri}"]' in further.errors


# Which version.


def test_version_is_pinned(server: Server) -> None:
    """A key without a version in its URI is opened at one version, and keeps signing with it after a rotation."""
    uri = make_vault_key(server)
    with keyvouch.open_signer(uri) as signer:
        assert ";version=1;" in signer.uri
        server.write(f"transit/keys/{parse(uri).get('key')}/rotate")
        signature = signer.sign(b"message", "ES256")
        assert verifies(signer.public_key, signature, b"message", ALGORITHMS["ES256"])
        assert not signer.reload()  # the new version has not settled


def test_newest_settled_version(server: Server) -> None:
    """The newest version whose age exceeds `settle` is selected; a running signer then switches to it."""
    uri = make_vault_key(server)
    time.sleep(1.1)
    server.write(f"transit/keys/{parse(uri).get('key')}/rotate")
    with keyvouch.open_signer(f"{uri}&settle=1") as signer:
        assert ";version=1;" in signer.uri
        time.sleep(1.1)
        signer.sign_negotiated(lambda *_: b"message")
        assert ";version=2;" in signer.uri


def test_versions_are_compared_as_numbers(server: Server) -> None:
    """The tenth version comes after the ninth."""
    uri = make_vault_key(server)
    for _ in range(9):
        server.write(f"transit/keys/{parse(uri).get('key')}/rotate")
    with keyvouch.open_signer(f"{uri}&settle=0") as signer:
        assert ";version=10;" in signer.uri
    with keyvouch.open_store(uri) as store:
        listed = store.keys()
    assert [info.uri.get("version") for info in listed] == [*range(1, 11)]


def test_certificate_selects_its_version(server: Server, tmp_path: Path) -> None:
    """certificate-file= opens the version it belongs to; a running signer follows a new certificate."""
    uri = make_vault_key(server)
    server.write(f"transit/keys/{parse(uri).get('key')}/rotate")
    first, second = (uri.replace("?", f";version={number}?") for number in (1, 2))
    file = certify(first, tmp_path / "app.crt")
    with keyvouch.open_signer(f"{uri}{file}&settle=0") as signer:
        assert ";version=1;" in signer.uri
        certify(second, tmp_path / "app.crt")
        time.sleep(1.1)
        signer.sign_negotiated(lambda *_: b"message")
        assert ";version=2;" in signer.uri


def test_certificate_matches_no_version(server: Server, tmp_path: Path) -> None:
    """A certificate that matches no version is reported, with the versions that exist."""
    uri = make_vault_key(server)
    (tmp_path / "other.crt").write_bytes(self_signed(make_key("P-256"), "CN=app", 30).public_bytes(Encoding.PEM))
    assert "(1)" in error_on_open(f"{uri}&certificate-file={tmp_path / 'other.crt'}", CertificateMismatch).hint


def test_policy_that_allows_only_signing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With version and certificate in the URI, one policy line is enough; a mismatch between them is noticed."""
    uri = make_vault_key(server, "rsa-2048")
    server.write(f"transit/keys/{parse(uri).get('key')}/rotate")
    file = certify(uri.replace("?", ";version=1?"), tmp_path / "app.crt")
    monkeypatch.setenv("VAULT_TEST_TOKEN", server.token("sign"))
    with keyvouch.open_signer(uri.replace("?", ";version=1?") + file) as signer:
        for name in ("PS256", "RS512"):
            assert verifies(signer.public_key, signer.sign(b"message", name), b"message", ALGORITHMS[name])
        assert signer.exportable is None
    error_on_open(uri.replace("?", ";version=2?") + file, CertificateMismatch)
    error_on_open(uri + file, AccessDenied)


def test_key_in_a_namespace_and_mount(server: Server) -> None:
    """The URI contains namespace and mount, in the same form as for `bao`."""
    server.write("sys/namespaces/team")
    headers = {"X-Vault-Namespace": "team"}
    post = server.admin.adapter.post
    allowed = 'path "keys/*" { capabilities = ["read", "update"] }'
    post("/v1/sys/mounts/keys/transit", json={"type": "transit"}, headers=headers)
    post("/v1/keys/transit/keys/app", json={"type": "ed25519"}, headers=headers)
    post(
        "/v1/sys/policies/acl/team",
        json={"policy": allowed},
        headers=headers,
    )
    post("/v1/sys/auth/userpass", json={"type": "userpass"}, headers=headers)
    post("/v1/auth/userpass/users/ann", json={"password": "secret", "token_policies": ["team"]}, headers=headers)
    uri = key_uri(server, "app").replace(";key=", ";namespace=team;mount=keys/transit;key=")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PW", "secret")
        login = uri.replace("auth=token&token=env:VAULT_TEST_TOKEN", "auth=userpass&username=ann&password=env:PW")
        with keyvouch.open_signer(login) as signer:
            assert signer.sign(b"message", "EdDSA")
        with compared(login, "EdDSA") as (_, key, peer):
            assert is_signed(key.public_key, peer(b"message"), b"message", "EdDSA")


@pytest.mark.parametrize(
    ("values", "address", "namespace", "ca_file"),
    [
        ({"VAULT_ADDR": "https://v:1", "VAULT_NAMESPACE": "v", "VAULT_CACERT": "/v"}, "https://v:1", "v", "/v"),
        (
            {"VAULT_ADDR": "https://v:1", "BAO_ADDR": "https://b:2", "VAULT_CACERT": "/v", "BAO_CACERT": "/b"},
            "https://b:2",
            None,
            "/b",
        ),
    ],
)
def test_environment_completes_the_uri(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], address: str, namespace: str | None, ca_file: str
) -> None:
    """Address, namespace and CA come from OpenBao's variables, then Vault's, and the URI keeps them."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    uri = parse("vault:key=app?auth=token&token=env:X")
    assert (uri.get("address"), uri.get("namespace"), uri.get("ca-file")) == (address, namespace, ca_file)
    assert address in str(uri)
    assert parse("vault:address=https://own;key=app?ca-file=/own").get("ca-file") == "/own"


def test_pinned_uri_keeps_values_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key opened with VAULT_ADDR can be opened without it by its pinned URI."""
    uri = make_vault_key(server)
    monkeypatch.setenv("VAULT_ADDR", server.address)
    monkeypatch.setenv("VAULT_CACERT", str(server.ca_file))
    with keyvouch.open_signer(f"vault:key={parse(uri).get('key')}?auth=token&token=env:VAULT_TEST_TOKEN") as signer:
        pinned = signer.uri
    monkeypatch.delenv("VAULT_ADDR")
    monkeypatch.delenv("VAULT_CACERT")
    keyvouch.open_signer(pinned).close()


# Creating, importing and deleting.


@pytest.mark.parametrize("kind", ["RSA-2048", "RSA-3072", "P-256", "P-384", "P-521", "Ed25519"])
def test_generated_key_cannot_leave(server: Server, kind: str) -> None:
    """A key is created on the server with a certificate, and can be neither exported nor backed up."""
    uri = key_uri(server, f"made-{kind.lower()}")
    generate(uri, kind)
    with keyvouch.open_signer(uri) as signer:
        assert signer.exportable is False
        assert signer.chain[0].subject.rfc4514_string() == "CN=app"
    data = server.admin.secrets.transit.read_key(parse(uri).get("key"))["data"]
    assert (data["exportable"], data["allow_plaintext_backup"]) == (False, False)


def test_unmodified_msal_signs_in(server: Server, authority: Authority, oidc_provider: OidcProvider) -> None:
    """Unmodified MSAL gets a token with PS256, under Entra ID's rules and from an independent server."""
    uri = key_uri(server, "msal")
    generate(uri, "RSA-2048")
    with keyvouch.open_signer(uri) as signer:
        sign_in(signer, authority, oidc_provider)


def test_further_version(server: Server) -> None:
    """`further` creates a version of the same type; an existing key, or a version in the URI, is KeyExists."""
    uri = key_uri(server, "further")
    assert ";version=1;" in generate(uri)
    assert ";version=2;" in generate(uri, further=True)
    for taken, further in ((uri, False), (uri.replace("?", ";version=3?"), True)):
        with pytest.raises(KeyExists):
            generate(taken, further=further)
    with pytest.raises(NotSupported):
        generate(uri, "RSA-2048", further=True)


def test_pinned_uri_has_absolute_files(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative ca-file is made absolute in the URI that is printed."""
    monkeypatch.chdir(server.ca_file.parent)
    with keyvouch.open_signer(make_vault_key(server).replace(str(server.ca_file), server.ca_file.name)) as signer:
        assert f"ca-file={server.ca_file}" in str(signer.uri)


def test_hint_for_a_missing_certificate_works(server: Server, tmp_path: Path) -> None:
    """The command in the hint for a key without a certificate, typed as it is, creates a version with one."""
    uri = make_vault_key(server, "rsa-2048")
    with keyvouch.open_signer(uri) as signer, pytest.raises(CertificateMissing) as caught:
        EntraAssertion(signer)(
            {"client_id": "id", "token_endpoint": "https://login.microsoftonline.com/t/oauth2/token"}
        )
    (line,) = re.findall("keyvouch (new .*)", caught.value.hint)
    done = run(*shlex.split(line), folder=tmp_path)
    assert done.status == 0, done.errors
    with keyvouch.open_signer(uri) as signer:
        assert signer.chain


def test_certificate_belongs_to_its_version(server: Server) -> None:
    """A certificate is stored with the version whose key it has, whatever the URI selects."""
    uri = make_vault_key(server)
    server.write(f"transit/keys/{parse(uri).get('key')}/rotate")
    with keyvouch.open_signer(uri.replace("?", ";version=2?")) as signer:
        new = self_signed(signer.private_key(), "CN=second", 30)
    with keyvouch.open_store(uri) as store:
        assert store.install_certificate([new]).get("version") == 2
    with keyvouch.open_signer(uri) as signer:  # the only one with a certificate
        assert signer.chain == (new,)
    foreign = self_signed(make_key("P-256"), "CN=foreign", 30)
    with keyvouch.open_store(uri) as store, pytest.raises(CertificateMismatch):
        store.install_certificate([foreign])


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "P-384", "P-521", "Ed25519"])
def test_imported_key_cannot_leave(server: Server, kind: str) -> None:
    """A key from a file signs as before, cannot be exported, and gets its later versions on the server."""
    uri, key = key_uri(server, f"imported-{kind.lower()}"), make_key(kind)
    chain = [self_signed(key, "CN=app", 30)]
    with keyvouch.open_store(uri) as store:
        store.import_key(key, chain)
    with keyvouch.open_signer(uri) as signer:
        assert signer.public_key == key.public_key()
        assert signer.chain == (*chain,)
        assert signer.exportable is False
        signer.sign_negotiated(lambda *_: b"message")
    assert ";version=2;" in generate(uri, kind, further=True)


def test_rsassa_pss_key_is_not_imported(server: Server, tmp_path: Path) -> None:
    """The server would sign with algorithms that the key does not allow, so nothing is imported."""
    uri = key_uri(server, "pss")
    done = run("import", "--from", f"pem:{make_pss_key(tmp_path, 'sha512', 64)}", "--key", uri)
    assert "Cannot import an RSASSA-PSS key: vault: cannot limit it" in done.errors
    error_on_open(uri, KeyNotFound)


def test_deleted_key_no_longer_signs(server: Server) -> None:
    """A signer whose key was deleted reports that."""
    uri = key_uri(server, "deleted") + "&deletion-allowed=true"
    pinned = generate(uri)
    with keyvouch.open_signer(uri) as signer:
        with keyvouch.open_store(pinned) as store:
            store.delete()
        with pytest.raises(KeyUnusable, match="deleted"):
            signer.sign(b"message", "ES256")


def test_replaced_key_does_not_sign(server: Server) -> None:
    """If another key is created under the name of a deleted one, its signatures are refused, and so is the old URI."""
    uri = key_uri(server, "replaced") + "&deletion-allowed=true"
    pinned = generate(uri)
    with keyvouch.open_signer(uri) as signer:
        with keyvouch.open_store(pinned) as store:
            store.delete()
        generate(uri)
        with pytest.raises(SignatureInvalid):
            signer.sign(b"message", "ES256")
    error_on_open(pinned, KeyChanged)


def test_key_is_deleted_if_the_server_allows_it(server: Server) -> None:
    """By default transit deletes no key; one of several versions is never deleted; a key created again is another."""
    kept, gone = key_uri(server, "kept"), key_uri(server, "gone") + "&deletion-allowed=true"
    pinned = generate(kept)
    with keyvouch.open_store(pinned) as store, pytest.raises(AccessDenied, match="deletion_allowed=true"):
        store.delete()
    pinned = generate(gone)
    generate(gone, further=True)
    with keyvouch.open_store(pinned) as store, pytest.raises(NotSupported, match="min_encryption_version"):
        store.delete()
    gone = key_uri(server, "gone-too") + "&deletion-allowed=true"
    pinned = generate(gone)
    with keyvouch.open_store(pinned) as store:
        store.delete()
    error_on_open(pinned, KeyNotFound)
    generate(gone)
    error_on_open(pinned, KeyChanged)
