"""The grammar of key URIs."""

import os
import random
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyvouch._core import opening
from keyvouch._secrets.redaction import redact
from keyvouch.errors import ConfigurationError
from keyvouch.proxies import parse_proxy
from keyvouch.store import UriSyntax
from keyvouch.uri import (
    CORE_ATTRIBUTES,
    Attribute,
    KeyUri,
    is_reference,
    parse_choice,
    parse_flag,
    parse_path,
    parse_uri,
    scheme_of,
)

ATTRIBUTES = (
    Attribute(
        "path", "the file", positional=True, required_for=frozenset({"open", "generate"}), parse=bytes.hex
    ),  # bytes: a path may contain any of them
    Attribute("friendly-name", "which of several", required_for=frozenset({"generate"}), parse=bytes.hex),
    Attribute("password", "of the file", query=True, secret=True, environment=("APP_PASSWORD", "APP_OLD_PASSWORD")),
    Attribute("role-id", "who logs in", query=True),
    Attribute("mount", "of the engine", default="transit", environment=("APP_MOUNT",)),
)
DECLARED = {attribute.name: attribute for attribute in (*ATTRIBUTES, *CORE_ATTRIBUTES)}
SECRET = "hunter2"  # must not appear in any error


def parse(text: str) -> KeyUri:
    return parse_uri(text, ATTRIBUTES)


def path_of(text: str) -> bytes:
    return bytes.fromhex(parse(text).get("path"))


def refusal(text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert caught.value.hint
    return caught.value


# Parsing


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("pfx:/etc/app.pfx", b"/etc/app.pfx"),
        ("pfx:path=/etc/app.pfx", b"/etc/app.pfx"),
        ("pfx:/etc/my%20app.pfx", b"/etc/my app.pfx"),
        ("pfx:/etc/my app.pfx", b"/etc/my app.pfx"),
        ("pfx:/etc/%ff.pfx", b"/etc/\xff.pfx"),
        ("pfx:/etc/a=b.pfx", b"/etc/a=b.pfx"),
        ("pfx:/etc/a;b.pfx", b"/etc/a;b.pfx"),
        ("pfx:unknown=x", b"unknown=x"),
        ("pfx:path=path=x", b"path=x"),
        ("pfx:path%3Dx", b"path=x"),
        ("pfx:C:/50%de/x.pfx", b"C:/50%de/x.pfx"),
        ("pfx:C:\\keys\\app.pfx", b"C:\\keys\\app.pfx"),
        ("pfx:\\\\server\\share\\50%41.pfx", b"\\\\server\\share\\50%41.pfx"),
        ("pfx:path=C:/50%25de/x.pfx", b"C:/50%de/x.pfx"),
    ],
)
def test_path_is_what_was_written(text: str, path: bytes) -> None:
    """The path form extends to `?` and is percent-decoded; a Windows path is taken literally."""
    assert path_of(text) == path


def test_attributes_stand_on_both_sides() -> None:
    """Attributes before `?` select the key, those after it say how to reach it."""
    uri = parse("pfx:path=/a;friendly-name=b?password=env:X&role-id=r%26s")
    assert uri.scheme == "pfx"
    assert [uri.get(name) for name in ("path", "friendly-name", "password", "role-id")] == [
        b"/a".hex(),
        b"b".hex(),
        "env:X",
        "r&s",
    ]


def test_empty_parts_are_passed_over() -> None:
    """Empty parts between separators are not an error."""
    assert parse("pfx:path=/a;?&password=env:X&") == parse("pfx:/a?password=env:X")


@pytest.mark.parametrize("scheme", ["PFX", "Pfx", "pfX"])
def test_case_of_the_scheme(scheme: str) -> None:
    """The scheme's case has no meaning (RFC 3986, section 3.1), and is printed in lower case."""
    assert str(parse(f"{scheme}:/A")) == "pfx:/A"


def test_silent_uri_gives_defaults() -> None:
    """A missing attribute has its declared default, and is not in the URI."""
    uri = parse("pfx:/a")
    assert (uri.get("mount"), uri.get("settle"), uri.get("select")) == ("transit", 900, None)
    assert "mount" not in uri
    assert str(uri) == "pfx:/a"


def test_undeclared_name_is_a_key_error() -> None:
    """A store that reads an undeclared attribute is defective, and does not get a default."""
    with pytest.raises(KeyError):
        parse("pfx:/a").get("passwrd")
    with pytest.raises(KeyError):
        parse("pfx:/a").replace({"passwrd": "x"})


def test_order_does_not_matter() -> None:
    """Two URIs with the same values are equal, hash alike and print alike."""
    one, other = (parse(f"pfx:{which}") for which in ("path=/a;friendly-name=b", "friendly-name=b;path=/a"))
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == str(other)


@pytest.mark.parametrize("other", ["pfx:/b", "pem:/a", "pfx:/a?role-id=x", "pfx:path=/a;mount=x"])
def test_another_value_is_another_uri(other: str) -> None:
    """A URI is identified by its scheme and values."""
    assert parse("pfx:/a") != parse(other)


def test_default_written_out_is_another_uri() -> None:
    """URIs are compared by what is written, so that a URI reads back as it was printed."""
    assert parse("pfx:path=/a;mount=transit") != parse("pfx:/a")


def test_replace_changes_one_value() -> None:
    """Replacing a value makes a new URI; None removes the value."""
    uri = parse("pfx:/a?role-id=r")
    assert uri.replace({"mount": None}) == uri
    with pytest.raises(KeyError, match="passwrd"):
        uri.replace({"passwrd": None})
    assert str(uri.replace({"path": b"/\xff", "role-id": None, "mount": "m n"})) == "pfx:path=/%FF;mount=m n"
    assert str(uri) == "pfx:/a?role-id=r"


def test_octets_are_compared_as_they_stand() -> None:
    """Connections compare bytes, however an attribute interprets them."""
    assert parse("pfx:/a%ff?role-id=%72").raw_values(["path", "role-id", "mount"]) == (b"/a\xff", b"r", None)


def test_missing_attributes_are_named() -> None:
    """Attributes that a purpose needs, and the URI lacks, are named."""
    assert parse("pfx:").missing_for("open") == ["path"]
    assert parse("pfx:/a").missing_for("open") == []
    assert parse("pfx:/a").missing_for("generate") == ["friendly-name"]


# The environment


def test_environment_completes_a_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a missing attribute the first declared variable that is set is used, and becomes part of the URI."""
    monkeypatch.setenv("APP_OLD_PASSWORD", "env:OLD")
    monkeypatch.setenv("APP_MOUNT", "kv")
    assert str(parse("pfx:/a")) == "pfx:path=/a;mount=kv?password=env:OLD"


def test_uri_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute in the URI takes precedence over the environment."""
    monkeypatch.setenv("APP_MOUNT", "kv")
    assert parse("pfx:path=/a;mount=m").get("mount") == "m"


def test_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable counts as unset, as is usual in shells."""
    monkeypatch.setenv("APP_PASSWORD", "")
    assert "password" not in parse("pfx:/a")


@pytest.mark.parametrize(("variable", "value"), [("APP_PASSWORD", SECRET), ("APP_MOUNT", "\udcff")])
def test_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """An invalid value is refused with the name of its variable."""
    monkeypatch.setenv(variable, value)
    error = refusal("pfx:/a")
    assert variable in error.message
    assert SECRET not in f"{error} {error.uri}"


# Round trip

octets = st.binary(min_size=1)
paths = st.one_of(
    octets,
    st.text(min_size=1).map(lambda text: text.encode(errors="ignore") or b"x"),
    st.builds(bytes.__add__, st.sampled_from([b"C:\\", b"c:/", b"\\\\server\\", b"path=", b"/", b"mount="]), octets),
    st.text("\\/:;?&=%C '\"\u2019path", min_size=1).map(str.encode),
)
values = st.fixed_dictionaries(
    {},
    optional={
        "path": paths,
        "friendly-name": octets,
        "mount": st.text(min_size=1).map(str.encode),
        "password": st.text().map(lambda text: b"file:" + text.encode()),
        "role-id": st.text(min_size=1).map(str.encode),
        "settle": st.integers(0, 10**9 - 1).map(lambda number: str(number).encode()),
        "select": st.just(b"newest"),
        "spki-sha256": st.binary(min_size=32, max_size=32).map(lambda digest: digest.hex().encode()),
    },
)


@given(values)
@example({"path": b"path="})
@example({"path": b"path=/x"})
@example({"path": b"C:\\a?b"})
@example({"path": b"C:\\it's"})
@example({"path": b"C:\\\xff"})
@example({"path": b"C:/a;password=x"})
@example({"path": b"/a;password=x"})
@example({"path": b"\\\\server\\50%41"})
def test_printed_uri_reads_back(chosen: dict[str, bytes]) -> None:
    """A printed URI parses to an equal URI, whatever bytes its values contain."""
    uri = KeyUri("pfx", chosen, DECLARED)
    assert parse(str(uri)) == uri
    assert str(parse(str(uri))) == str(uri)


@given(values)
def test_printed_uri_is_printable(chosen: dict[str, bytes]) -> None:
    """A printed URI is one line of text without quotes, control characters or surrogates."""
    text = str(KeyUri("pfx", chosen, DECLARED))
    assert text.isprintable()
    assert not set(text) & set("'\"\u2018\u2019\u201a\u201b")
    text.encode()


@pytest.mark.parametrize("scheme", ["pfx", "azure-keyvault", "x+y.z-1"])
@pytest.mark.parametrize("path", ["/a b/$HOME`id`.pfx", "C:\\it's.pfx", "/a,b", "/*", "~/x", "/a!b\\", "/a\u2019b"])
def test_quoted_uri_survives_a_shell(tmp_path: Path, scheme: str, path: str) -> None:
    """A URI quoted for a shell reaches a program unchanged."""
    uri = KeyUri(scheme, {"path": path.encode(), "password": b"env:X"}, DECLARED)
    done = subprocess.run(["sh", "-c", f"printf %s {uri.quoted}"], capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout.decode() == str(uri)


def test_quoted_uri_suits_powershell() -> None:
    """Only single quotes are used, around everything that PowerShell splits at, such as commas."""
    assert parse("pfx:/a,b").quoted == "'pfx:/a,b'"
    assert parse("pfx:/a?password=env:X").quoted == "'pfx:/a?password=env:X'"
    assert parse("pfx:/a/b.pfx").quoted == "pfx:/a/b.pfx"


# Refusals


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("pfx:path=/a;path=/b", 'Duplicate attribute "path"', "Remove one"),
        ("pfx:/a?password=env:A&password=env:B", 'Duplicate attribute "password"', "Remove one"),
        ("pfx:/a%2", "two hexadecimal digits", "Write %25"),
        ("pfx:/a?role-id=%zz", "Invalid value of role-id: %", "Write %25"),
        ("pfx:/a?passwrd=env:X", 'Unknown attribute "passwrd"', 'Did you mean "password"?'),
        ("pfx:/a?zzz=1", 'Unknown attribute "zzz"', "Known attributes after the `?`: password"),
        ("pfx:path=/a;password=env:X", '"password" must come after the `?`', "Move it after"),
        ("pfx:/a;password=env:X", '"password" must come after the `?`', "Move it after"),
        ("pfx:/a?friendly-name=x", '"friendly-name" must come before the `?`', "Move it before"),
        ("pfx:/a?select", '"select" has no value', "Write select=VALUE"),
        ("pfx:/a?role-id=", '"role-id" has no value', "Write role-id=VALUE"),
        ("pfx:path=", '"path" has no value', "Write path=VALUE"),
        ("pfx:/a?select=oldest", "expected newest", "newest"),
        ("pfx:/a?settle=soon", "a whole number of seconds", "seconds"),
        ("pfx:/a?settle=-1", "a whole number of seconds", "seconds"),
        ("pfx:/a?settle=9999999999", "at most 9 digits", "seconds"),
        ("pfx:path=/a;spki-sha256=12", "64 hexadecimal digits", "Correct spki-sha256: only the key"),
        ("pfx:/a?role-id=%ff", "not valid UTF-8", "who logs in"),
        ("C:\\x.pfx", "got a path", "Write 'pfx:C:/x.pfx'"),
        ("pfx:\\\\?\\C:\\x.pfx", "the ? ends the path", "path=\\\\%3F\\"),
        ("\\\\server\\x.pfx", "got a path", "Write 'pfx://server/x.pfx'"),
        ("/etc/x.pfx", "the scheme is missing", "Write 'pfx:/etc/x.pfx'."),
        ("./x.key", "the scheme is missing", "pem:./x.key"),
        ("app.pem", "the scheme is missing", "pem:app.pem"),
        ("app", "the scheme is missing", "keyvouch stores"),
        ("", "the scheme is missing", "keyvouch stores"),
        (":x", "the scheme is missing", "keyvouch stores"),
        ("1pfx:/a", "the scheme is missing", "keyvouch stores"),
        ("pfx", "the scheme is missing", "scheme and a colon"),
        ("'pfx:/a'", "the scheme is missing", "cmd.exe supports only double quotes"),
        ("pfx:C:\temp\new.pfx", "control character at position 7", "In TOML, put the URI in single quotes"),
        ("pfx:/a\x00", "control character", "single quotes"),
        ("pfx:/a\ud800", "control character", "single quotes"),
    ],
)
def test_wrong_uri_says_what_to_do(text: str, message: str, hint: str) -> None:
    """Each mistake has its own message and remedy."""
    error = refusal(text)
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("pfx:/a%2", "Invalid value of path: %", "Write %25 for"),
        ("pfx:/a?settle=soon", "Invalid value of settle: ", "Correct settle: seconds"),
        ("pfx:/a?hunter2", "Expected name=value in every part of the URI.", "Known attributes after the `?`: "),
        ("pfx:\ta", "Invalid URI pfx:...: control character at position 5.", "In TOML"),
        ("\ta", "Invalid URI: control character at position 1.", "In TOML"),
        (
            r"C:\a.pfx?password=env:X",
            r"Expected a key's URI, got a path: C:\a.pfx?....",
            "Write 'pfx:C:/a.pfx?...'.",
        ),
        (
            "/etc/a?settle=1",
            "Invalid URI '/etc/a?...': the scheme is missing.",
            "Write 'pfx:/etc/a?...' or 'pem:/etc/a?...'.",
        ),
        ("~a", "Invalid URI '~a': the scheme is missing.", "Write 'pfx:~a' or 'pem:~a'."),
        (".a", "Invalid URI '.a': the scheme is missing.", "Write 'pfx:.a' or 'pem:.a'."),
        ("a.pfx", "Invalid URI 'a.pfx': the scheme is missing.", "Write 'pfx:a.pfx'."),
        ("a.p12", "Invalid URI 'a.p12': the scheme is missing.", "Write 'pfx:a.p12'."),
        ("a.key", "Invalid URI 'a.key': the scheme is missing.", "Write 'pem:a.key'."),
        ('"pfx:/a"', "the scheme is missing.", "Remove the quotes"),
        ("abc", "Invalid URI 'abc': the scheme is missing.", "A URI begins with"),
    ],
)
def test_wrong_uri_is_described_exactly(text: str, message: str, hint: str) -> None:
    """Quoted text is what was written, up to its `?`, and the hint can be followed literally."""
    error = refusal(text)
    assert error.message.endswith(message) or error.message.startswith(message)
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pfx:/a%2", "pfx:***"),
        ("pfx:path=/a;x=1", "pfx:***"),
        ("pfx:/a?role-id=r&x=1", "pfx:/a?***"),
        ("pfx:/a?settle=soon", "pfx:/a?***"),
        ("pfx:/***", "pfx:***"),
    ],
)
def test_uri_of_a_refusal(text: str, shown: str) -> None:
    """The error has the URI as far as it was parsed, and no more."""
    assert refusal(text).uri == shown


def test_backslash_after_the_question_mark() -> None:
    """Only `\\\\?\\` is reported as the beginning of a Windows path cut off by a `?`."""
    assert "Unknown attribute" in refusal(r"pfx:/a?\x=1").message
    assert "begins with" not in refusal("pfx:\\\\?x=1").message
    assert r"path=\\%3F\ " in refusal("pfx:\\\\?\\C:").hint


def test_most_seconds() -> None:
    """A number of seconds has at most nine digits."""
    assert parse("pfx:/a?settle=999999999").get("settle") == 999_999_999


def test_newest_is_the_value() -> None:
    """A store gets the value of `select`."""
    assert parse("pfx:/a?select=newest").get("select") == "newest"


def test_store_without_a_positional_attribute() -> None:
    """A store without a positional attribute accepts only name=value, and its URI may be empty."""
    declared = (Attribute("name", "which"),)
    assert parse_uri("x:name=a", declared).get("name") == "a"
    assert str(parse_uri("x:", declared)) == "x:"
    with pytest.raises(ConfigurationError, match="Expected name=value"):
        parse_uri("x:a", declared)


def test_name_of_a_secret_in_a_path() -> None:
    """A secret given before the `?` is refused even if it contains an =."""
    assert '"password" must come after' in refusal("pfx:/a;password=file:/a=b").message
    assert '"password" must come after' in refusal("pfx:/a;PASSWORD=a=b").message


def test_equal_hashes_are_rare() -> None:
    """Different URIs have different hashes, so that a dictionary need not compare them."""
    assert len({hash(parse(f"pfx:/{number}")) for number in range(100)}) > 90


def test_short_form_is_printed() -> None:
    """A path is printed as it was written, even with characters that separate only in a query."""
    for text in ("pfx:/a&b=c", "pfx:C:/a/b.pfx", r"pfx:C:\a\b.pfx", "pfx:/A/B.pfx"):
        assert str(parse(text)) == text
    assert parse("pfx:/A/B.pfx").quoted == "pfx:/A/B.pfx"


OPEN_ENDED = (
    Attribute("path", "the file", positional=True, parse=parse_path),
    Attribute("id", "octets", parse=bytes),
    Attribute("x-vendor-*", "what a vendor wants", query=True),
    Attribute("y*", "another's", query=True),
)


def test_attributes_of_vendors() -> None:
    """A name that matches a declaration with `*` uses that declaration, and keeps its own name."""
    uri = parse_uri("acme:/a?x-vendor-one=1&x-vendor-two_2=2&y=3", OPEN_ENDED)
    assert [uri.get(name) for name in ("x-vendor-one", "x-vendor-two_2", "y")] == ["1", "2", "3"]
    assert str(uri) == "acme:/a?x-vendor-one=1&x-vendor-two_2=2&y=3"
    assert {"x-vendor-one", "x-vendor-two_2", "y"} <= set(uri.declared)


@pytest.mark.parametrize(
    "name", ["x-vendo", "x-other", "vendor-", "x", "pathx", "x-vendor-a b", "x-vendor-a/b", "X-vendor-a"]
)
def test_names_that_no_vendor_has(name: str) -> None:
    """A name with another prefix, or with characters other than letters, digits, - and _, is not declared."""
    with pytest.raises(ConfigurationError, match="Unknown attribute"):
        parse_uri(f"acme:/a?{name}=1", OPEN_ENDED)


def test_attribute_of_a_vendor_stands_once() -> None:
    """Like any other attribute, it is given once, on its own side, with a value."""
    for text, message in (
        ("acme:/a?x-vendor-a=1&x-vendor-a=2", 'Duplicate attribute "x-vendor-a"'),
        ("acme:path=/a;x-vendor-a=1", '"x-vendor-a" must come after'),
        ("acme:/a?x-vendor-a=", '"x-vendor-a" has no value'),
    ):
        with pytest.raises(ConfigurationError, match=message):
            parse_uri(text, OPEN_ENDED)


def test_octets_are_printed_in_ascii() -> None:
    """An identifier that is not text is percent-encoded, even if parts of it could be read as letters."""
    uri = parse_uri("x:path=/\u00e9;id=a%C3%A9%ff-1", OPEN_ENDED)
    assert str(uri) == "x:path=/\u00e9;id=a%C3%A9%FF-1"
    assert uri.get("id") == b"a\xc3\xa9\xff-1"


ANY_NAME = (
    Attribute("name", "which"),
    Attribute("label", "may be empty", empty=True),
    Attribute("id", "octets", binary=True),
    Attribute("secret-source", "a reference", query=True, secret=True),
    Attribute("*", "what others know", query=True, empty=True),
)


class StandardStore:
    """Declares what its URIs' standard demands."""

    uri_syntax = UriSyntax(path_characters="+", query_characters="/", after_query=frozenset({"spki-sha256"}))


def standard(text: str) -> KeyUri:
    return parse_uri(text, ANY_NAME, store_class=StandardStore)


def test_empty_value_of_some_attributes() -> None:
    """Only an attribute that declares it may be empty, and then it is a value."""
    uri = standard("x:label=")
    assert (uri.get("label"), str(uri)) == ("", "x:label=")
    for text in ("x:name=", "x:label", "x:other"):
        with pytest.raises(ConfigurationError, match=r"has no value|Expected name=value"):
            standard(text)


def test_any_other_name() -> None:
    """With `*`, any name is accepted on both sides; of several with one name in the query, the first is kept."""
    uri = standard("x:b=1;name=n;a=?d=2&c=3&c=4")
    assert str(uri) == "x:name=n;a=;b=1?c=3&d=2"
    assert uri.undeclared == ["a", "b"]
    assert standard("x:a=;b=1;name=n?c=3&d=2") == uri
    for text, message in (("x:a=1;a=2", "Duplicate"), ("x:a=1?a=2", "must come before"), ("x:names=1", "Unknown")):
        with pytest.raises(ConfigurationError, match=message):
            standard(text)


def test_other_name_that_suggests_a_secret() -> None:
    """A value that would be shown must not be a secret; the hint has the attribute to write instead."""
    for text in (f"x:?my-password={SECRET}", f"x:pin={SECRET}"):
        with pytest.raises(ConfigurationError, match="must not contain a secret") as caught:
            standard(text)
        assert "write secret-source=env:NAME" in caught.value.hint
        assert SECRET not in f"{caught.value!r} {caught.value.uri}"


def test_characters_of_a_standard() -> None:
    """A store may say which characters are printed as they are, in the core's attributes too."""
    uri = standard("x:name=a+/\u00e9;id=A1?certificate-file=/a+")
    assert str(uri) == "x:name=a+%2F%C3%A9;id=%41%31?certificate-file=/a%2B"
    assert standard(str(uri)) == uri


def test_attribute_printed_after_the_question_mark() -> None:
    """It still identifies the key, and is read on both sides."""
    digest = "ab" * 32
    uri = standard(f"x:name=a;spki-sha256={digest}")
    assert str(uri) == f"x:name=a?spki-sha256={digest}"
    assert standard(str(uri)) == uri
    assert uri.identity() != standard("x:name=a").identity()


@pytest.mark.parametrize("mark", ["\u200e", "\u200f"])
def test_mark_of_direction_is_left_to_its_attribute(mark: str) -> None:
    """A direction mark copied unseen from a Windows dialog is not a control character, and is visible when printed."""
    uri = parse(f"pfx:path={mark}/a")
    assert path_of(str(uri)) == f"{mark}/a".encode()
    assert str(uri).isprintable()


def test_fingerprint_is_taken_as_tools_show_it() -> None:
    """Colons and capitals in a key's digest make no difference."""
    shown = ":".join(["AB"] * 32)
    assert parse(f"pfx:path=/a;spki-sha256={shown}").get("spki-sha256") == "ab" * 32


def test_anything_else_is_a_configuration_error() -> None:
    """Any text gives a KeyUri or a ConfigurationError, and a KeyUri reads back."""
    chance = random.Random(0)
    pieces = [
        *string.printable,
        *"%\\:;?&=\u2019\ud800\udcff\x00\u00a0\U0001f511",
        *("pfx:", "path=", "password=", "env:", "settle=", "C:\\", "\\\\", "%ff", "spki-sha256=", "select=newest", "?"),
    ]
    for _ in range(5000):
        text = chance.choice(["", "pfx:", "pfx:/a?"]) + "".join(chance.choices(pieces, k=chance.randrange(12)))
        try:
            scheme_of(text)
            uri = parse(text)
        except ConfigurationError as error:
            str(error).encode(errors="backslashreplace")
        else:
            assert parse(str(uri)) == uri


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        f"pfx:/a?password={SECRET}",
        f"pfx:/a?password= {SECRET}",
        f"pfx:/a?password=x&{SECRET}",
        f"pfx:/a?password=x;{SECRET}",
        f"pfx:/a?password=x?{SECRET}",
        f"pfx:/a?password=x&y={SECRET}",
        f"pfx:/a?password=x%26{SECRET}",
        f"pfx:/a?password=ENV:{SECRET}",
        f"pfx:/a?password={SECRET}%zz",
        f"pfx:/a?password=%zz{SECRET}",
        f"pfx:/a?password={SECRET}\x00",
        f"pfx:/a?password=%ff{SECRET}",
        f"pfx:/a?PASSWORD={SECRET}",
        f"pfx:/a?passwd={SECRET}",
        f"pfx:/a?passphrase={SECRET}",
        f"pfx:/a?password:{SECRET}",
        f"pfx:/a?password%3D{SECRET}",
        f"pfx:/a?password=env:X&password={SECRET}",
        f"pfx:/a?role-id=%ff&password={SECRET}",
        f"pfx:/a?zzz=1&password={SECRET}",
        f"pfx:/a;password={SECRET}",
        f"pfx:path=/a;password={SECRET}",
        f"pfx:C:\\a;password={SECRET}",
        f"C:\\a.pfx?password={SECRET}",
        f"/a.pfx?password={SECRET}",
        f"password={SECRET}",
        f"pfx:/a?pin-value={SECRET}",
        f"pfx:/a?client-secret={SECRET}",
        f"pfx:/a?token={SECRET}",
    ],
)
def test_secret_in_a_uri_is_not_echoed(text: str) -> None:
    """A secret's value instead of a reference is refused, and is in no part of the error."""
    error = refusal(text)
    assert SECRET not in f"{error!r} {error} {error.uri} {error.args} {redact(text)}"


def test_long_text_is_redacted_once() -> None:
    """Untrusted text may be designed to be slow: it is scanned once, however long it is."""
    for piece in (
        "pass-",
        "pass=env:",
        "a",
        "pin:",
        "%3d",
        "pass%",
        "://",
        "://a:",
        "&",
        "@://",
        "proxy=",
        "proxy=://@",
    ):
        assert len(redact("x:" + piece * 40_000)) > 0


def test_attributes_before_a_secret_stay_visible() -> None:
    """A redacted text still shows which key it is about."""
    assert redact("pfx:path=/a?role-id=r&password=x&y") == "pfx:path=/a?role-id=r&password=***"


@pytest.mark.parametrize(
    "text",
    [
        "pfx:/a?password=env:X&role-id=r",
        "pfx:/a?password=credential:standby&role-id=r",
        "pfx:/a?password=keyring%3Ax/y",
        "pkcs11:token=prod;object=app?pin-source=file:/x",
        "pfx:/etc/secrets/app.pfx",
        "pem:/a?certificate-file=/b",
        "",
    ],
)
def test_references_are_not_redacted(text: str) -> None:
    """References, and a token's label, are not secrets, and are shown."""
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("?token=x", "?token=***"),
        ("x:/a?proxy=http://me:pw%40host/", "x:/a?proxy=http://***%40host/"),
        ("x:/a?proxy=http://me:p%40w%40host/", "x:/a?proxy=http://***%40host/"),
        ("x:/a?proxy=http://me:pw@host&role-id=a%40b", "x:/a?proxy=http://***@host&role-id=a%40b"),
        ("x:/a%40b?proxy=http://host", "x:/a%40b?proxy=http://host"),
        ("pkcs11:a?token=x?y", "pkcs11:a?token=***"),
        ("pkcs11:token=prod?pin-value=x", "pkcs11:token=prod?pin-value=***"),
        ("pkcs11:token=prod;token=other;secret=x", "pkcs11:token=prod;token=other;secret=***"),
        ("secret:/a?password=x", "secret:/a?password=***"),
        ("pfx:/a&pin:x", "pfx:/a&pin:***"),
        ("pfx:/a;pin:x", "pfx:/a;pin:***"),
        ("pfx:/a?pin:x", "pfx:/a?pin:***"),
        ("pfx:/a?pin:env:X", "pfx:/a?pin:***"),
        ("pfx:/a?pin%3Denv:X", "pfx:/a?pin%3Denv:X"),
    ],
)
def test_what_is_redacted(text: str, shown: str) -> None:
    """Everything from the first value that may be a secret is redacted; a label or scheme before it is shown."""
    assert redact(text) == shown


@pytest.mark.parametrize(
    "value", [b"env:X", None, 5, "", "env", "ENV:X", "env:X hunter2", "env:X=hunter2", "other:x", "hunter2"]
)
def test_what_is_no_reference(value: object) -> None:
    """A reference is a known word and a colon, and for a variable its name and nothing else."""
    assert not is_reference(value)


@pytest.mark.parametrize("value", ["env:X", "env:", "env:APP.KEY-1", "file:/a b", "prompt:"])
def test_what_is_a_reference(value: str) -> None:
    """Whether the target exists is checked only when the reference is resolved."""
    assert is_reference(value)


@pytest.mark.parametrize("kind", ["env", "file", "credential", "keyring", "command", "prompt"])
def test_references_are_taken(kind: str) -> None:
    """Every kind of reference is accepted for a secret, and is shown unchanged."""
    uri = parse(f"pfx:/a?password={kind}:x")
    assert uri.get("password") == f"{kind}:x"
    assert repr(uri) == f"<KeyUri pfx:/a?password={kind}:x>"


# Credentials in addresses

REACHED = (
    Attribute("address", "where", connection=True),
    Attribute("object", "a label"),
    Attribute("proxy", "a proxy", query=True, connection=True, parse=parse_proxy),
    Attribute("ca-file", "a file", query=True, parse=parse_path),
    Attribute("proxy-credentials", "where they are", query=True, secret=True),
)


@pytest.mark.parametrize(
    "userinfo",
    [f"me:{SECRET}", f":{SECRET}", SECRET, f"{SECRET}:", f"me:a@{SECRET}", f"me:{SECRET}:x", f"me:%253B{SECRET}"],
)
@pytest.mark.parametrize("name", ["proxy", "address", "object"])
def test_credentials_in_an_address_are_not_shown(name: str, userinfo: str) -> None:
    """User and password in any address are left out of what is printed; `get` returns them."""
    value = f"http://{userinfo}@host:3128"
    uri = parse_uri(f"demo:{'' if name != 'proxy' else '?'}{name}={value}", REACHED)
    shown = f"{uri} {uri!r} {uri.quoted} {redact(uri.reveal())}"
    assert SECRET not in shown
    assert "http://***@host:3128" in shown
    assert uri.get(name) == value.replace("%25", "%")
    assert parse_uri(uri.reveal(), REACHED) == uri


@pytest.mark.parametrize(
    "text",
    [
        f"demo:address=https://me:{SECRET}@host;object=a?proxy=http://p&ca-file=/a@b",
        f"demo:address=https://me:a;{SECRET}@host",
        f"demo:address=https://me:a&{SECRET}@host",
        f"demo:address=https://me:a?{SECRET}@host",
        f"demo:address=https://me:a;b={SECRET}@host",
        f"demo:address=https://me:{SECRET}",
        f"demo:address=https%3A%2F%2Fme:{SECRET}%40host",
        f"demo:?proxy=http://me:{SECRET}@host&zzz=1",
        f"demo:?proxy=http://me:{SECRET}/x@host",
        f"demo:?proxy=http://me:{SECRET}#x@host",
        f"demo:?proxy=http://me:x#{SECRET}@host",
        f"demo:?proxy=http://me:x&{SECRET}@host",
        f"demo:?proxy=http://me:x?{SECRET}@host",
        f"demo:?proxy=http://me:{SECRET}%0Ax@host",
        f"demo:?proxy=http://me:{SECRET} x@host",
        f"demo:?proxy=http://me:{SECRET}@[host",
        f"demo:?proxy=http://me:{SECRET}@host:port",
        f"demo:?proxy=http://me:{SECRET}@host\u2100",
        f"demo:?proxy=me:{SECRET}@host",
        f"demo:?proxy=ftp://me:{SECRET}@host",
        f"demo:?proxy=http://me:{SECRET}@",
        f"demo:?proxy-credentials=me:{SECRET}",
        f"demo:?proxy-credentials=env:{SECRET}@x",
        f"Demo:address=https://me:{SECRET}@host",
        f"https://me:{SECRET}@host",
        f"//me:{SECRET}@host",
    ],
)
def test_credentials_in_a_wrong_uri_are_not_echoed(text: str) -> None:
    """The password is not shown, whatever is wrong with the URI and wherever the password seems to end."""
    with pytest.raises(ConfigurationError) as caught:
        parse_uri(text + "&zzz=1" if "?" in text else text + "?zzz=1", REACHED)
    error = caught.value
    assert SECRET not in f"{error!r} {error} {error.uri} {error.args} {redact(text)}"
    assert SECRET not in repr(error.__cause__)


@pytest.mark.parametrize(
    "text",
    [
        "vault:address=https://vault:8200;key=a@b?proxy=http://proxy:3128&ca-file=/home/me@work/ca.pem",
        "vault:address=https://[::1]:8200;key=app?auth=token&token=file:///run/user@1000/token",
        "azure-keyvault:https://contoso.vault.azure.net/certificates/app?auth=cli",
        "pem:/srv/me@work/app.pem",
        "pkcs11:object=me@work;token=a:b@c",
    ],
)
def test_addresses_without_credentials_are_shown(text: str) -> None:
    """A port, a path, or an @ elsewhere is not a password."""
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "demo:address=https://***@host",
        "demo:object=a?proxy=http://***@host",
        "demo:object=a?***",
        "demo:object=***",
        "demo:object=a?proxy-credentials=***",
        "pfx:***",
    ],
)
def test_redacted_uri_is_refused(text: str) -> None:
    """A URI copied from a log is refused with a hint, instead of using asterisks as a password."""
    with pytest.raises(ConfigurationError, match="redacted") as caught:
        parse_uri(text, REACHED)
    assert "original value" in caught.value.hint
    assert "proxy-credentials=env:NAME" in caught.value.hint


def test_asterisks_that_are_meant() -> None:
    """A name that contains asterisks is printed so that it reads back."""
    uri = parse_uri("demo:object=%2A%2A%2A%2A;address=https://%2A%2A%2A@host", REACHED)
    assert uri.get("object") == "****"
    assert parse_uri(uri.reveal(), REACHED) == uri
    assert "object=%2A%2A%2A*" in str(uri)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"http://***@host", "redacted"),
        (b"me:pw@host", "http:// before the user"),
        (b"http://me:p/w@host", "percent-encode"),
        (b"http://me:p?w@host", "percent-encode"),
        (b"http://host/path", "http://host:port"),
        (b"http://host?x", "http://host:port"),
        (b"http://host#x", "http://host:port"),
        (b"http://a b", "spaces"),
        (b"http://me:%0A@host", "spaces"),
        (b"ftp://host", "http://host:port"),
        (b"http://", "http://host:port"),
        (b"http://host:99999", "http://host:port"),
        (b"http://[host", "http://host:port"),
    ],
)
def test_what_is_no_proxy(octets: bytes, reason: str) -> None:
    """The error for an invalid proxy address does not contain the address."""
    with pytest.raises(ValueError, match=reason):
        parse_proxy(octets)


@pytest.mark.parametrize("text", ["http://host:3128", "https://host", "host:3128", "host", "http://me:p%40w@host/"])
def test_what_is_a_proxy(text: str) -> None:
    """A proxy is an address with or without scheme, port and credentials."""
    assert parse_proxy(text.encode()) == text


# Parsers that stores use


def test_flag_is_true_or_false() -> None:
    """A flag is `true` or `false`; similar values are refused."""
    assert parse_flag(b"true") is True
    assert parse_flag(b"false") is False
    for octets in (b"", b"True", b"FALSE", b"1", b"0", b"yes", b"true ", b"\xff"):
        with pytest.raises(ValueError, match=r"^expected true or false$"):
            parse_flag(octets)


def test_choice_is_one_of_the_words() -> None:
    """A choice must match exactly; the error lists all of them."""
    parse_word = parse_choice("one", "other")
    assert (parse_word(b"one"), parse_word(b"other")) == ("one", "other")
    for octets in (b"", b"One", b"on", b"one,other", b"third"):
        with pytest.raises(ValueError, match=r"^expected one or other$"):
            parse_word(octets)
    with pytest.raises(UnicodeDecodeError):
        parse_word(b"\xff")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r"C:\keys\app.pfx", rb"C:\keys\app.pfx"),
        ("c:/keys/app.pfx", b"c:/keys/app.pfx"),
        (r"\\server\share\app.pfx", rb"\\server\share\app.pfx"),
        (r"C:\100%\a&b=c\app.pfx", rb"C:\100%\a&b=c\app.pfx"),
        (r"C:\a%20b.pfx", rb"C:\a%20b.pfx"),
        (r"\\a%20b\c", rb"\\a%20b\c"),
        ("C:a%20b.pfx", b"C:a b.pfx"),
        ("1:/a%20b", b"1:/a b"),
        ("CC:/a%20b", b"CC:/a b"),
        ("/C:/a%20b", b"/C:/a b"),
        (r"\a%20b", rb"\a b"),
    ],
)
def test_windows_path_is_taken_as_it_is(text: str, path: bytes) -> None:
    """In a path with a drive or share a % is literal; elsewhere it begins an escape. All of these read back."""
    uri = parse(f"pfx:{text}")
    assert uri.raw_values(["path"]) == (path,)
    assert parse(str(uri)) == uri


@pytest.mark.parametrize("name", ["a'b", "a?b", "a;b", "a\u2019b", "a\tb", "a***b"])
def test_windows_path_that_must_be_encoded_reads_back(name: str) -> None:
    """Characters that would end a path or a shell quotation are percent-encoded, and the attribute is named."""
    uri = parse("pfx:/x").replace({"path": rf"C:\100%\{name}"})
    assert str(uri).startswith("pfx:path=C:\\100%25\\a%")
    assert parse(str(uri)) == uri


@pytest.mark.parametrize("text", [r"C:\app.pfx", "C:/app.pfx", r"\\server\app.pfx"])
def test_path_alone_is_no_uri(text: str) -> None:
    """A Windows path is distinguished from a one-letter scheme, and the hint has a URI that reads back."""
    error = refusal(text)
    assert "got a path" in error.message
    assert error.hint == f"Write 'pfx:{text.replace(chr(92), '/')}'."


def test_path_of_a_file() -> None:
    """A path may contain any bytes but NUL, even if they are not text."""
    assert parse_path(b"/a b/\xc3\xa9") == "/a b/\u00e9"
    assert os.fsencode(parse_path(b"/\xff")) == b"/\xff"
    for octets in (b"\0", b"/a\0b"):
        with pytest.raises(ValueError, match="NUL"):
            parse_path(octets)


def test_uri_that_is_not_complete_yet() -> None:
    """A debugger may print a URI before its values are set."""
    assert repr(KeyUri.__new__(KeyUri)) == "<KeyUri ?>"


def test_references_are_not_made_absolute() -> None:
    """A certificate in a variable has no path, unlike one in a relative file."""
    text = "pem:env:TLS_KEY?certificate-file=env:TLS_CERT"
    assert str(opening.parse(text).with_absolute_files()) == str(opening.parse(text))
    relative = opening.parse("pem:env:TLS_KEY?certificate-file=app.crt").with_absolute_files()
    assert relative.get("certificate-file") == str(Path("app.crt").absolute())
