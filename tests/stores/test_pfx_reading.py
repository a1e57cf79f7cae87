"""Which PFX files are opened, and the errors for the others."""

import base64
import contextlib
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

from keyvouch._formats import asn1
from keyvouch.errors import AmbiguousKey, KeyNotFound, KeyUnusable, SecretIncorrect, SecretRequired
from keyvouch.secrets import SecretResolver
from stores import several_keys
from stores.key_material import (
    PASSWORD,
    certify,
    der,
    integer,
    new_key,
    open_key,
    openssl,
    openssl_pfx,
    pem_of,
    store,
    to_ber,
    uri,
    write,
)

OLD = ("-legacy", "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-RC2-40", "-macalg", "sha1")
NEW = ("-keypbe", "AES-256-CBC", "-certpbe", "AES-256-CBC", "-macalg", "sha256")
PLAIN = ("-keypbe", "NONE", "-certpbe", "NONE")


@pytest.fixture
def several(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PFX with two keys; its password is in `env:CHANGEIT`."""
    monkeypatch.setenv("CHANGEIT", several_keys.PASSWORD)
    return write(folder / "two.pfx", several_keys.PFX)


@pytest.mark.parametrize("options", [OLD, NEW, PLAIN], ids=["old", "new", "plain"])
@pytest.mark.parametrize("password", [PASSWORD, "Pässwort €"], ids=["ascii", "unicode"])
def test_pfx_with_password_opens(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], password: str
) -> None:
    """Old and new encryption open, with a password in any script."""
    monkeypatch.setenv("PASSWORD", password)
    path = openssl_pfx(folder / "app.pfx", *options, password=password)
    key = open_key(f"pfx:{path}?password=env:PASSWORD")
    assert key.public_key == new_key().public_key()
    assert key.chain == (certify(new_key()),)


def test_cryptography_pfx_opens(folder: Path) -> None:
    """A PFX that `cryptography` wrote without a password opens."""
    data = pkcs12.serialize_key_and_certificates(b"app", new_key(), certify(new_key()), None, NoEncryption())
    assert open_key(f"pfx:{write(folder / 'app.pfx', data)}").public_key == new_key().public_key()


@pytest.mark.parametrize("options", [(), ("-nomac", *PLAIN)], ids=["empty", "absent"])
def test_missing_password_is_tried(folder: Path, options: tuple[str, ...]) -> None:
    """Without `password=`, both an empty password and none are tried."""
    path = openssl_pfx(folder / "app.pfx", *options, password="")
    assert open_key(f"pfx:{path}").public_key == new_key().public_key()


def test_missing_password_is_an_error(folder: Path) -> None:
    """If a password is required, the error says how to give one."""
    with pytest.raises(SecretRequired, match=r"\?password=env:NAME"):
        open_key(f"pfx:{openssl_pfx(folder / 'app.pfx')}")


@pytest.mark.parametrize("options", [OLD, NEW], ids=["old", "new"])
def test_wrong_password_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    """A wrong password is distinguished from an invalid file, and is not shown."""
    monkeypatch.setenv("PASSWORD", "battery staple")
    path = openssl_pfx(folder / "app.pfx", *options)
    with pytest.raises(SecretIncorrect) as caught:
        open_key(f"pfx:{path}?password=env:PASSWORD")
    assert "staple" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"


def test_chain_is_ordered(folder: Path) -> None:
    """Of several certificates those in the key's chain are returned, leaf first, whatever their order in the file."""
    root, middle, leaf = (new_key("P-256", which) for which in range(3))
    chain = (
        certify(leaf, "app", middle, "middle"),
        certify(middle, "middle", root, "root"),
        certify(root, "root"),
    )
    shuffled = [chain[2], certify(new_key("P-256", 3), "stranger"), chain[0], chain[1]]
    path = openssl_pfx(folder / "app.pfx", key=leaf, chain=shuffled)
    assert open_key(f"pfx:{path}?password=env:PASSWORD").chain == chain


def test_pfx_without_certificate_opens(folder: Path) -> None:
    """A PFX may contain only the key."""
    path = openssl_pfx(folder / "app.pfx", "-nocerts")
    assert open_key(f"pfx:{path}?password=env:PASSWORD").chain == ()


def test_pfx_without_key_fails(folder: Path) -> None:
    """A PFX with only certificates is not a key."""
    path = openssl_pfx(folder / "app.pfx", "-nokeys")
    with pytest.raises(KeyUnusable, match="no private key"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def test_several_keys_are_ambiguous(several: Path) -> None:
    """None of several keys is taken; the error lists a URI that opens each."""
    with pytest.raises(AmbiguousKey) as caught:
        open_key(f"pfx:{several}?password=env:CHANGEIT")
    names = [open_key(candidate).chain[0].subject.rfc4514_string() for candidate in caught.value.candidates]
    assert names == ["CN=one", "CN=two"]
    assert all("friendly-name=" in candidate for candidate in caught.value.candidates)


@pytest.mark.parametrize("name", ["one", "two"])
def test_friendly_name_chooses_key(several: Path, name: str) -> None:
    """`friendly-name=` selects one of several keys, with its certificate."""
    key = open_key(f"pfx:path={several};friendly-name={name}?password=env:CHANGEIT")
    assert [certificate.subject.rfc4514_string() for certificate in key.chain] == [f"CN={name}"]
    assert key.chain[0].public_key() == key.public_key


def test_certificate_chooses_key(several: Path) -> None:
    """The certificate given with the file selects one of several keys."""
    leaf = open_key(f"pfx:path={several};friendly-name=two?password=env:CHANGEIT").chain[0]
    assert open_key(f"pfx:{several}?password=env:CHANGEIT", leaf).chain == (leaf,)


def test_unknown_friendly_name_fails(several: Path) -> None:
    """For an unknown name the error lists similar ones."""
    with pytest.raises(KeyNotFound, match=r"(?m)Use one of: two\.$"):
        open_key(f"pfx:path={several};friendly-name=tw?password=env:CHANGEIT")


def test_friendly_name_of_single_key(folder: Path) -> None:
    """Even a single key must have the requested name."""
    path = openssl_pfx(folder / "app.pfx", "-name", "app")
    assert open_key(f"pfx:path={path};friendly-name=app?password=env:PASSWORD")
    with pytest.raises(KeyNotFound, match=r"Use one of: app\."):
        open_key(f"pfx:path={path};friendly-name=other?password=env:PASSWORD")


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("names_on", ["key", "certificate"])
def test_each_name_of_a_key_is_found(folder: Path, name: str, names_on: str) -> None:
    """A key that is in the file twice, or has two certificates, is found by each of its names."""
    options = ("-nomac", *PLAIN) if names_on == "certificate" else ("-nomac", *PLAIN, "-nocerts")
    same = [openssl_pfx(folder / f"{each}.pfx", *options, "-name", each).read_bytes() for each in ("first", "second")]
    nameless = openssl_pfx(folder / "c.pfx", "-nomac", *PLAIN, "-nocerts").read_bytes()
    other = openssl_pfx(folder / "d.pfx", *options, "-name", "other", key=new_key("P-384")).read_bytes()
    path = write(folder / "app.pfx", together(*same, nameless, other))
    assert open_key(f"pfx:path={path};friendly-name={name}").public_key == new_key().public_key()


def test_friendly_name_in_utf_8(folder: Path) -> None:
    """A friendly name should be a BMPString; some programs write a UTF8String."""
    options = ("-nomac", *PLAIN, "-nocerts", "-name")
    files = [
        openssl_pfx(folder / f"{name}.pfx", *options, name, key=key).read_bytes()
        for name, key in (("ab", new_key()), ("other", new_key("P-384")))
    ]
    bmp, utf8 = der(0x1E, "ab".encode("utf-16-be")), der(0x0C, "äb".encode() + b"c")
    data = together(*files)
    assert data.count(bmp) == 1
    assert len(bmp) == len(utf8)
    path = write(folder / "app.pfx", data.replace(bmp, utf8))
    assert open_key(f"pfx:path={path};friendly-name=äbc").public_key == new_key().public_key()


def test_several_encrypted_keys_require_password(several: Path) -> None:
    """Several keys require a password just like one."""
    with pytest.raises(SecretRequired):
        open_key(f"pfx:{several}")


def test_ber_opens_without_warning(folder: Path) -> None:
    """BER, as some programs write it, with indefinite lengths and octet strings in pieces, opens."""
    path = openssl_pfx(folder / "app.pfx")
    write(path, to_ber(path.read_bytes()))
    assert open_key(f"pfx:{path}?password=env:PASSWORD").public_key == new_key().public_key()


def test_several_keys_in_ber(several: Path) -> None:
    """Keys are counted in BER just as in DER."""
    write(several, to_ber(several.read_bytes()))
    assert len(store(f"pfx:{several}").keys(uri(f"pfx:{several}?password=env:CHANGEIT"))) == 2


def test_trailing_bytes_are_ignored(folder: Path) -> None:
    """A newline after the data, as some copying adds, does no harm."""
    path = openssl_pfx(folder / "app.pfx")
    write(path, path.read_bytes() + b"\n")
    assert open_key(f"pfx:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("form", ["der", "asn1"])
def test_truncated_pfx_fails(folder: Path, share: float, form: str) -> None:
    """A truncated file is not blamed on the password."""
    path = openssl_pfx(folder / "app.pfx")
    data = path.read_bytes() if form == "der" else to_ber(path.read_bytes())
    write(path, data[: int(len(data) * share)])
    with pytest.raises(KeyUnusable, match="truncated"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


def test_pem_in_pfx_fails(folder: Path) -> None:
    """For PEM the error has the right scheme."""
    path = write(folder / "app.pfx", pem_of(new_key()))
    with pytest.raises(KeyUnusable, match=re.escape(f"Write pem:{path}")):
        open_key(f"pfx:{path}")


@pytest.mark.parametrize("data", [b"0", b"\x30\x03\x02\x01\x00", b"hello", base64.b64encode(several_keys.PFX)])
def test_other_files_fail(folder: Path, data: bytes) -> None:
    """A file that is not PKCS#12 is reported as such, without mention of a password."""
    with pytest.raises(KeyUnusable, match="not a PFX"):
        open_key(f"pfx:{write(folder / 'app.pfx', data)}?password=env:PASSWORD")


@pytest.mark.parametrize("kind", ["RSA-1024", "SECP256K1", "Ed448", "DSA"])
def test_other_keys_fail(folder: Path, kind: str) -> None:
    """A key that is too short, or of a type that cannot sign JWTs, is refused."""
    path = openssl_pfx(folder / "app.pfx", key=new_key(kind))
    with pytest.raises(KeyUnusable, match=r"RSA"):
        open_key(f"pfx:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("cipher", ["NONE", "AES-256-CBC", "PBE-SHA1-3DES"])
@pytest.mark.parametrize("password", [PASSWORD, "Pässwort €"], ids=["ascii", "unicode"])
def test_duplicate_key_counts_once(folder: Path, monkeypatch: pytest.MonkeyPatch, cipher: str, password: str) -> None:
    """A key that is in a file twice is not ambiguous."""
    monkeypatch.setenv("PASSWORD", password)
    options = ("-nomac", "-certpbe", "NONE", "-keypbe", cipher, "-CSP", "Microsoft Software Key Storage Provider")
    once = openssl_pfx(folder / "once.pfx", *options, password=password)
    path = write(folder / "app.pfx", together(once.read_bytes(), once.read_bytes()))
    assert open_key(f"pfx:{path}?password=env:PASSWORD").public_key == new_key().public_key()


def test_damaged_key_of_several(folder: Path) -> None:
    """If one of several keys cannot be read, the others can be used; its name still identifies it."""
    options = ("-nomac", "-certpbe", "NONE")
    good = openssl_pfx(folder / "a.pfx", *options, "-name", "good").read_bytes()
    bad = openssl_pfx(folder / "b.pfx", *options, "-name", "bad", key=new_key("P-256", 1)).read_bytes()
    ciphertext = re.compile(rb"(?<=\x04\x81\x90).{144}", re.DOTALL)
    path = write(folder / "app.pfx", together(good, ciphertext.sub(bytes(144), bad)))
    key = open_key(f"pfx:{path}?password=env:PASSWORD")
    assert key.public_key == new_key().public_key()
    assert "The key 'bad' in" in key.advice[0]
    with pytest.raises(KeyUnusable, match="Export each"):
        open_key(f"pfx:path={path};friendly-name=bad?password=env:PASSWORD")


@pytest.mark.parametrize(
    ("cipher", "password", "query"),
    [("aria-256-cbc", PASSWORD, "?password=env:PASSWORD"), ("AES-256-CBC", "", "")],
    ids=["cipher", "empty"],
)
def test_several_keys_with_unsupported_encryption(folder: Path, cipher: str, password: str, query: str) -> None:
    """An encryption that only old versions of `cryptography` support opens, or raises only KeyUnusable."""
    data = openssl_pfx(
        folder / "app.pfx", "-nomac", "-certpbe", "NONE", "-keypbe", cipher, password=password
    ).read_bytes()
    path = write(folder / "app.pfx", together(data, data))
    with contextlib.suppress(KeyUnusable):
        assert open_key(f"pfx:{path}{query}").public_key == new_key().public_key()


@pytest.mark.parametrize("which", ["PFX", "PEM"])
@pytest.mark.parametrize("password", [PASSWORD, "wrong"], ids=["right", "wrong"])
def test_unsupported_cipher_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, which: str, password: str) -> None:
    """An unsupported cipher is not blamed on the password."""
    monkeypatch.setenv("PASSWORD", password)
    if which == "PFX":
        path = openssl_pfx(folder / "app.pfx", "-nomac", "-certpbe", "NONE", "-keypbe", "AES-256-CBC")
        data = path.read_bytes()
    else:
        path = folder / "app.pem"
        options = ("-topk8", "-v2", "aes-256-cbc", "-outform", "DER", "-passout", f"pass:{PASSWORD}")
        data = openssl("pkcs8", *options, stdin=pem_of(new_key()))
    aes, unknown = bytes.fromhex("60864801650304012a"), bytes.fromhex("60864801660304012a")
    assert data.count(aes) == 1
    data = data.replace(aes, unknown)
    if which == "PEM":
        lines = base64.encodebytes(data)
        data = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + lines + b"-----END ENCRYPTED PRIVATE KEY-----\n"
    write(path, data)
    with pytest.raises(KeyUnusable, match=r"unsupported algorithm.* 2\.16\.840\.1\.102\.3\.4\.1\.42"):
        open_key(f"{which.lower()}:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("cipher", ["camellia-256-cbc", "aria-256-cbc"])
def test_rare_ciphers_open(folder: Path, monkeypatch: pytest.MonkeyPatch, cipher: str) -> None:
    """Ciphers that OpenSSL supports open, and a wrong password is reported as such."""
    path = openssl_pfx(folder / "app.pfx", "-certpbe", cipher, "-keypbe", cipher)
    assert open_key(f"pfx:{path}?password=env:PASSWORD")
    monkeypatch.setenv("PASSWORD", "wrong")
    with pytest.raises(SecretIncorrect):
        open_key(f"pfx:{path}?password=env:PASSWORD")


@pytest.mark.parametrize("indefinite", [False, True], ids=["definite", "indefinite"])
def test_nested_ber_is_read(folder: Path, *, indefinite: bool) -> None:
    """The safes that the MAC covers may be BER too: several keys are found in them."""
    data = openssl_pfx(folder / "app.pfx", "-nomac", "-certpbe", "NONE", "-keypbe", "NONE").read_bytes()
    other = openssl_pfx(folder / "b.pfx", "-nomac", *PLAIN, "-name", "näme", key=new_key("P-384")).read_bytes()
    safe = asn1.parse(together(data, other)).child(1).child(1).child(0).content
    inner = to_ber(safe)
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    file = der(0x30, integer(3), der(0x30, data, der(0xA0, der(0x04, inner))))
    path = write(folder / "app.pfx", to_ber(file) if indefinite else file)
    assert {info.key_type for info in store(f"pfx:{path}").keys(uri(f"pfx:{path}"))} == {"P-256", "P-384"}
    assert open_key(f"pfx:path={path};friendly-name=näme").public_key == new_key("P-384").public_key()


def test_prompt_is_for_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files share a connection, but a password typed for one is not tried on another."""
    answers = {"first": "one", "second": "two"}
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers[Path(prompt.rstrip(": ")).stem])
    secrets = SecretResolver(interactive=True)
    for name, password in answers.items():
        text = f"pfx:{openssl_pfx(folder / f'{name}.pfx', password=password)}?password=prompt:"
        assert store(text, secrets).open(uri(text), timeout=1)


def together(*files: bytes) -> bytes:
    """Make one PFX without a MAC from the contents of these."""
    safes = [asn1.parse(asn1.parse(data).child(1).child(1).child(0).content) for data in files]
    contents = [asn1.encode(content) for safe in safes for content in safe.children]
    data = der(0x06, bytes.fromhex("2a864886f70d010701"))
    return der(0x30, integer(3), der(0x30, data, der(0xA0, der(0x04, der(0x30, *contents)))))
