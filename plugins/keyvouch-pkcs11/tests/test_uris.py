"""The URIs of RFC 7512: what is read, what is printed, and what other programs do with it."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keyvouch
import p11tool
from keyvouch._core.opening import parse
from keyvouch.errors import ConfigurationError, KeyNotFound, StoreUnavailable
from keyvouch_pkcs11.store import Pkcs11Store
from softhsm_keys import UriOf, generate
from softhsm_tokens import PIN, SOFTHSM, make_token, softhsm  # noqa: F401 - a fixture

# Appendix of the grammar, RFC 7512, section 2.3, written down independently of the plugin.
_CHARACTER = r"[A-Za-z0-9\-._~:\[\]@!$'()*+,=]|%[0-9A-F]{2}"
_PATH = rf"[A-Za-z0-9_-]+=(?:{_CHARACTER}|&)*"
_QUERY = rf"[A-Za-z0-9_-]+=(?:{_CHARACTER}|[/?|])*"
RFC_7512 = re.compile(rf"pkcs11:(?:{_PATH}(?:;{_PATH})*)?(?:\?{_QUERY}(?:&{_QUERY})*)?")
UNUSUAL = "Ünï/co\\de;1 %&^`{\U0001f511}|\"<>#?'*"

EXAMPLES = [  # RFC 7512, section 3, in its order, except pin-value=
    "pkcs11:",
    "pkcs11:object=my-pubkey;type=public",
    "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
    (
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0"
        ";object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin"
    ),
    "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
    "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
    "pkcs11:slot-description=Sun%20Metaslot",
    "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23",
    "pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
    "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
    "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
    (
        "pkcs11:token=my-token;object=my-certificate;type=cert;vendor-aaa=value-a"
        "?pin-source=file:/etc/token_pin&vendor-bbb=value-b"
    ),
]


def refusal(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    return caught.value


# Reading


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_rfc(text: str) -> None:
    """Every example is read, and printed as a URI of the same grammar that reads back."""
    uri = parse(text)
    assert parse(str(uri)) == uri
    assert RFC_7512.fullmatch(str(uri))


def test_values_of_the_examples() -> None:
    """Values are decoded; an empty one is a value, which only an empty field matches."""
    uri = parse(EXAMPLES[3])
    assert uri.get("token") == "The Software PKCS#11 Softtoken"
    assert uri.get("manufacturer") == "Snake Oil, Inc."
    assert uri.get("id") == bytes.fromhex("69953e5cf4bdec91")
    assert uri.get("serial") == ""
    assert parse(EXAMPLES[10]).get("token") == "Name with a small A with acute: á"


@pytest.mark.parametrize("scheme", ["pkcs11", "PKCS11", "Pkcs11"])
def test_scheme_in_any_case(scheme: str) -> None:
    """The scheme's case has no meaning (RFC 3986, section 3.1)."""
    assert str(parse(f"{scheme}:token=prod")) == "pkcs11:token=prod"


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "manufacturer",
        "serial",
        "model",
        "slot-description",
        "slot-manufacturer",
        "object",
        "id",
        "library-manufacturer",
        "library-description",
        "vendor-a",
    ],
)
def test_empty_value(name: str) -> None:
    """An attribute whose value the RFC allows to be empty reads back as it was printed."""
    uri = parse(f"pkcs11:{name}=")
    assert uri.raw_values([name]) == (b"",)
    assert str(uri) == f"pkcs11:{name}="
    assert uri != parse("pkcs11:")


@pytest.mark.parametrize("text", ["slot-id=", "slot-id=a", "library-version=", "library-version=2.", "type=", "type=x"])
def test_value_that_the_rfc_does_not_allow(text: str) -> None:
    """A number, a version or a type that the RFC's grammar excludes is an error that names the attribute."""
    assert text.partition("=")[0] in refusal(f"pkcs11:{text}").message


@pytest.mark.parametrize(
    ("text", "value"), [("library-version=3", "3.0"), ("library-version=02.6", "2.6"), ("slot-id=007", "7")]
)
def test_numbers_are_compared_as_numbers(text: str, value: str) -> None:
    """Leading zeros have no meaning, and a missing minor version is 0."""
    assert parse(f"pkcs11:{text}").get(text.partition("=")[0]) == value


def test_attributes_of_vendors() -> None:
    """Any other name is a vendor's attribute, on both sides of the `?`; the query may repeat one."""
    uri = parse("pkcs11:vendor_A=1;x-b=;token=t?vendor-c=2&vendor-c=3&x-d=/a|b")
    assert str(uri) == "pkcs11:token=t;vendor_A=1;x-b=?vendor-c=2&x-d=/a|b"
    assert uri.undeclared == ["vendor_A", "x-b"]
    same = parse("pkcs11:x-b=;token=t;vendor_A=1?x-d=/a|b&vendor-c=2")
    assert (same, hash(same), same.identity()) == (uri, hash(uri), uri.identity())
    assert 'Duplicate attribute "vendor-a"' in refusal("pkcs11:vendor-a=1;vendor-a=2").message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("pkcs11:tokn=prod", 'Did you mean "token"?'),
        ("pkcs11:?pin-sorce=env:X", 'Did you mean "pin-source"?'),
        ("pkcs11:?modul-path=/x", 'Did you mean "module-path"?'),
        ("pkcs11:?Pin-Source=env:X", 'Did you mean "pin-source"?'),
        ("pkcs11:Object=app", 'Did you mean "object"?'),
        ("pkcs11:?serialize=true", 'Did you mean "serialise"?'),
        ("pkcs11:vendor a=1", "Known attributes before the `?`: token"),
        ("pkcs11:*=1", "Known attributes before the `?`: token"),
        ("pkcs11:hunter2", "Known attributes before the `?`: token"),
    ],
)
def test_misspelling_is_not_a_vendor(text: str, hint: str) -> None:
    """A name that is almost a known one, or that the RFC's grammar excludes, is an error."""
    error = refusal(text)
    assert error.hint.startswith(hint)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "name", ["pin-value", "pin", "PIN", "pinfile", "x-pin-value", "password", "x-acme-secret", "user-pin"]
)
@pytest.mark.parametrize("side", ["?", ""])
def test_pin_in_a_uri(name: str, side: str) -> None:
    """A PIN in the URI is refused with the line to write instead, and is in no part of the error."""
    error = refusal(f"pkcs11:{side}{name}=hunter2")
    assert f'Unsupported attribute "{name}": a URI must not contain a secret' in error.message
    assert f"Remove {name}=." in error.hint
    assert "pin-source=env:NAME" in error.hint
    assert "hunter2" not in f"{error!r} {error} {error.uri} {error.args}"


# Printing


@given(
    st.dictionaries(
        st.sampled_from(["token", "object", "id", "serial", "vendor-a", "module-path", "certificate-file", "vendor_b"]),
        st.one_of(st.text(string.printable), st.text(), st.just(UNUSUAL), st.just("***"), st.just("%2A")).map(
            lambda text: text.encode(errors="ignore").replace(b"\0", b"") or b"x"
        ),
    )
)
def test_printed_characters(values: dict[str, bytes]) -> None:
    """Whatever the values contain, a printed URI has only the RFC's characters, and reads back."""
    path = {"token", "object", "id", "serial", "vendor-a"}
    encoded = {name: "".join(f"%{byte:02x}" for byte in data) for name, data in values.items()}
    before = ";".join(f"{name}={value}" for name, value in encoded.items() if name in path)
    after = "&".join(f"{name}={value}" for name, value in encoded.items() if name not in path)
    uri = parse(f"pkcs11:{before}?{after}")
    for text in (str(uri), uri.reveal()):
        assert RFC_7512.fullmatch(text)
        assert not set(text) & set("'\"")
        assert parse(text) == uri


def test_address_in_a_value() -> None:
    """The user and password of an address are not printed, also where its slashes would be encoded."""
    uri = parse("pkcs11:vendor-a=https://me:hunter2@host/?vendor-b=https://me:hunter2@host/")
    assert "hunter2" not in str(uri)
    assert uri.reveal().count("hunter2") == 2


def test_every_byte_of_an_id_is_encoded() -> None:
    """An id that looks like text is encoded too, so that `id=21` and `id=%21` are not confused."""
    assert str(parse("pkcs11:id=21")) == "pkcs11:id=%32%31"


def test_hash_of_the_key_is_in_the_query() -> None:
    """`spki-sha256` is printed after the `?`, where other programs ignore it; it is read on both sides."""
    digest = "ab" * 32
    before, after = parse(f"pkcs11:object=a;spki-sha256={digest}"), parse(f"pkcs11:object=a?spki-sha256={digest}")
    assert before == after
    assert before.identity() == after.identity() != parse("pkcs11:object=a").identity()
    assert str(before) == f"pkcs11:object=a?spki-sha256={digest}"
    assert "Duplicate" in refusal(f"pkcs11:spki-sha256={digest}?spki-sha256={digest}").message


# On a token


@pytest.mark.server
def test_p11tool_reads_what_is_printed(softhsm: UriOf) -> None:
    """p11tool finds the key, and no other, with every URI that keyvouch prints for it."""
    label = "".join(f"%{byte:02X}" for byte in UNUSUAL.encode()[:30])
    make_token("Ünï/co;de 1%")
    token = "%C3%9Cn%C3%AF%2Fco%3Bde%201%25"
    generate(softhsm("object=other", token=token))
    generate(softhsm("object=app"))
    pinned = generate(softhsm(f"object={label};id=%21%00%FF/;", token=token, more="&select=newest&verify=always"))
    with keyvouch.open_store(pinned) as store:
        (info,) = store.keys()
        (listed_token,) = store.tokens()
    with keyvouch.open_signer(pinned) as signer:
        uris = {pinned, str(info.uri), signer.uri, signer.requested_uri}
    for uri in map(str, uris):
        assert RFC_7512.fullmatch(uri)
        assert p11tool.listed_ids(uri, SOFTHSM, PIN) == [b"!\x00\xff/"]
    assert len(p11tool.listed_ids(str(listed_token.uri), SOFTHSM, PIN)) == 2


@pytest.mark.server
def test_what_p11tool_prints_is_read(softhsm: UriOf) -> None:
    """The URI that p11tool prints for a private key opens it; for another object, the error has the line to type."""
    generate(softhsm("object=a/b ü;id=%21"))
    more = f"?module-path={SOFTHSM}&pin-source=env:HSM_PIN"
    uris = p11tool.printed_uris("pkcs11:token=prod", SOFTHSM, PIN)
    assert sorted(uri.rpartition("=")[2] for uri in uris) == ["cert", "private", "public"]
    for uri in uris:
        if uri.endswith("private"):
            keyvouch.open_signer(uri + more).close()
            continue
        with pytest.raises(ConfigurationError, match="Only a private key can sign") as caught:
            keyvouch.open_signer(uri + more)
        keyvouch.open_signer(caught.value.hint.removeprefix("Write '").removesuffix("'.")).close()


@pytest.mark.server
def test_unknown_attribute_before_the_question_mark(softhsm: UriOf) -> None:
    """An attribute that nobody knows matches no key (RFC 7512, section 2.5); the error has the URI without it."""
    pinned = generate(softhsm("object=app", more="&vendor-b=2"))
    assert pinned.endswith("&vendor-b=2")
    with pytest.raises(ConfigurationError, match="Unknown attribute label, vendor-a: ") as caught:
        keyvouch.open_signer(softhsm("object=app;label=x;vendor-a=1", more="&vendor-b=2"))
    assert str(parse(softhsm("object=app", more="&vendor-b=2"))) in caught.value.hint


@pytest.mark.server
def test_attribute_by_its_name_in_another_program(softhsm: UriOf) -> None:
    """What pkcs11-tool calls the label is `object`: the URI in the error opens the same key."""
    pinned = generate(softhsm("object=app"))
    generate(softhsm("object=other"))
    with pytest.raises(ConfigurationError, match="Unknown attribute label: ") as caught:
        keyvouch.open_signer(softhsm("label=app"))
    with keyvouch.open_signer(caught.value.hint.removeprefix("Write '").removesuffix("'.")) as signer:
        assert str(signer.uri) == pinned


@pytest.mark.server
def test_empty_values_match_empty_fields(softhsm: UriOf) -> None:
    """An empty value matches only what is empty on the token."""
    generate(softhsm("object=app;id=%21"))
    for key in ("object=app;id=", "object=;id=%21", "object="):
        with pytest.raises(KeyNotFound):
            keyvouch.open_signer(softhsm(key))
    with pytest.raises(StoreUnavailable, match="No token matches"):
        keyvouch.open_signer(softhsm("object=app;serial="))


@pytest.mark.server
@pytest.mark.parametrize("written", ["21a2", "21A2", "0x21a2", "21:a2", "21%20A2"])
def test_id_in_hexadecimal(softhsm: UriOf, written: str) -> None:
    """An id written as other tools show it is not found; the hint has the URI with the right id."""
    generate(softhsm("object=app;id=%21%A2"))
    with pytest.raises(KeyNotFound) as caught:
        keyvouch.open_signer(softhsm(f"id={written}"))
    assert "Write 'pkcs11:token=prod;id=%21%A2?" in caught.value.hint
    keyvouch.open_signer(caught.value.hint.partition("Write '")[2].removesuffix("'.")).close()


@pytest.mark.server
def test_id_of_no_key(softhsm: UriOf) -> None:
    """If no key has the id in hexadecimal either, the hint says how to list the keys."""
    generate(softhsm("object=app;id=%21"))
    for written in ("22", "22a", "xy"):
        with pytest.raises(KeyNotFound) as caught:
            keyvouch.open_signer(softhsm(f"id={written}"))
        assert caught.value.hint.startswith("List the keys")


def test_syntax_is_declared_once() -> None:
    """URIs parsed for the store's class and by its scheme are printed alike."""
    assert parse("pkcs11:").store_class is Pkcs11Store
