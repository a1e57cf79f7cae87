"""Every error: its code, its exit status, and whether another attempt or another key may help."""

import pickle
import re

import pytest

from keyvouch import errors
from keyvouch.errors import KeyvouchError, StoreUnavailable

YES, NO = True, False
# The table of exit codes in the documentation: status, transient, next key.
TABLE = {
    "ConfigurationError": (2, NO, NO),
    "PluginMissing": (2, NO, NO),
    "PluginBroken": (2, NO, NO),
    "PluginConflict": (2, NO, NO),
    "NotSupported": (2, NO, NO),
    "KeyNotFound": (3, NO, YES),
    "AmbiguousKey": (3, NO, NO),
    "KeyExists": (3, NO, NO),
    "SecretRequired": (4, NO, YES),
    "SecretIncorrect": (4, NO, YES),
    "StoreLocked": (4, NO, YES),
    "AccessDenied": (4, NO, YES),
    "StoreUnavailable": (5, YES, YES),
    "Throttled": (5, YES, YES),
    "SessionLost": (5, YES, YES),
    "AuthorityUnavailable": (5, YES, NO),
    "AlgorithmUnsupported": (6, NO, YES),
    "KeyUnusable": (6, NO, YES),
    "KeyChanged": (6, NO, YES),
    "CertificateMissing": (6, NO, YES),
    "CertificateMismatch": (6, NO, YES),
    "CertificateExpired": (6, NO, YES),
    "CertificateNotYetValid": (6, NO, YES),
    "SignatureMismatch": (6, NO, YES),
    "AuthorityRefused": (7, NO, NO),
    "SignatureInvalid": (1, NO, YES),
    "InternalError": (1, NO, YES),
}


def all_errors(base: type[KeyvouchError] = KeyvouchError) -> list[type[KeyvouchError]]:
    """The classes of the module derived from this one, without a test's own."""
    found = [kind for kind in base.__subclasses__() if kind.__module__ == errors.__name__]
    return [each for kind in found for each in (kind, *all_errors(kind))]


def test_table_names_every_error() -> None:
    """Every error has an exit status that was chosen deliberately."""
    assert {kind.__name__ for kind in all_errors()} == set(TABLE)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_error_attributes_match_the_table(kind: type[KeyvouchError]) -> None:
    """The command's status, and whether a client waits or uses the next key, depend only on the class."""
    error = kind("what")
    assert (error.exit_status, error.transient, error.try_next_key) == TABLE[kind.__name__]


def test_tree_shows_every_error() -> None:
    """The tree at the top of the module is the tree of the classes, in depth and name."""
    drawn = re.findall(r"^    ([│ ]*)[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE)
    expected = {kind.__name__: len(kind.__mro__) - len(KeyvouchError.__mro__) for kind in all_errors()}
    assert {name: len(indent) // 4 + 1 for indent, name in drawn} == expected


def test_codes_are_unique() -> None:
    """A code identifies one error, and is what programs compare."""
    codes = [kind.code for kind in all_errors()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_error_can_be_pickled(kind: type[KeyvouchError]) -> None:
    """A worker process passes its errors to its parent with hint and URI."""
    error = pickle.loads(pickle.dumps(kind("what", hint="Do this.", uri="pfx:/a")))  # noqa: S301
    assert type(error) is kind
    assert (error.message, error.hint, error.uri) == ("what", "Do this.", "pfx:/a")


def test_hint_follows_the_message() -> None:
    """A printed error says what happened, then what to do."""
    assert str(KeyvouchError("It broke.", hint="Mend it.")) == "It broke.\nMend it."
    assert str(KeyvouchError("It broke.")) == "It broke."


def test_authority_refusal_sets_try_next_key() -> None:
    """Whether another key may help after a refusal depends on its code, so the code that raises it decides."""
    assert errors.AuthorityRefused("no", try_next_key=True).try_next_key
    assert not errors.AuthorityRefused("no").try_next_key


def test_control_characters_are_replaced() -> None:
    """A server's text in an error cannot move the cursor, reverse text or ring the bell; letters and lines are kept."""
    error = StoreUnavailable("It says: \x1b[31mr\u00e9d\x07\u202e\u2066\x9b\rok\nnext", hint="\x1b]0;title\x07")
    assert error.message == "It says: ?[31mr\u00e9d?????ok?next"
    assert error.hint == "?]0;title?"
    assert str(error) == f"{error.message}\n{error.hint}"
    assert error.args == (error.message,)
