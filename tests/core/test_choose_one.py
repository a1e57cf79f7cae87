"""Which key a URI selects among those that match it."""

import datetime as dt
import itertools
from typing import Any

import pytest

from keyvouch.certificate import spki_sha256
from keyvouch.errors import AmbiguousKey, CertificateMismatch, KeyChanged, KeyNotFound
from keyvouch.store import KeyInfo, KeyUri, choose_one, is_decided
from keyvouch.uri import Attribute, parse_uri
from stores.key_material import certify, new_key

SETTLE = 900
ATTRIBUTES = (Attribute("id", "which one"), Attribute("label", "of the family"))


def uri(text: str) -> KeyUri:
    return parse_uri(f"pkcs11:{text}", ATTRIBUTES)


NEWEST = uri("label=app?select=newest")


def at(seconds: float) -> dt.datetime:
    """This many seconds ago."""
    return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)


def key(name: str, age: float | None = None, **facts: Any) -> KeyInfo:
    """A key that the store made `age` seconds ago."""
    created = None if age is None else at(age)
    return KeyInfo(uri(f"id={name}"), "P-256", spki_sha256=f"{name}" * 64, created=created, **facts)


def certified(name: str, begin: float, end: float = -(10**6), **facts: Any) -> KeyInfo:
    """A key with a certificate valid from `begin` to `end` seconds ago; the store knows no other age."""
    return key(name, not_before=at(begin), not_after=at(end), has_certificate=True, **facts)


def chosen(infos: list[KeyInfo], which: KeyUri = NEWEST) -> str:
    """The name of the chosen key, whatever the order in which the store lists them."""
    names = {choose_one(which, order)[0].uri.get("id") for order in itertools.permutations(infos)}
    (name,) = names
    return str(name)


def seconds_until(moment: dt.datetime | None) -> float:
    assert moment is not None
    return (moment - dt.datetime.now(dt.UTC)).total_seconds()


# One match


def test_no_match_is_not_found() -> None:
    """If nothing matches, the error names the URI."""
    with pytest.raises(KeyNotFound, match="Key not found: pkcs11:label=app"):
        choose_one(NEWEST, [])


@pytest.mark.parametrize("query", ["", "?select=newest"])
def test_only_match_is_chosen(query: str) -> None:
    """A single match is the key, whatever its age and certificate; no other will be chosen later."""
    for info in (key("a"), key("a", age=1), certified("a", 100, 50), certified("a", -100)):
        assert choose_one(uri(f"label=app{query}"), [info]) == (info, None)


def test_several_matches_are_ambiguous() -> None:
    """One of several is never taken unless asked for; the error lists a URI for each, quoted for a shell."""
    infos = [key("a", age=5000), key("b%3b", age=1)]
    with pytest.raises(AmbiguousKey, match="2 keys match pkcs11:label=app") as caught:
        choose_one(uri("label=app"), infos)
    assert caught.value.candidates == ("pkcs11:id=a", "pkcs11:id=b%3B")
    assert "'pkcs11:id=b%3B'" in caught.value.hint
    assert caught.value.uri == "pkcs11:label=app"


@pytest.mark.parametrize("query", ["", "?select=newest"])
def test_many_matches_are_not_all_listed(query: str) -> None:
    """The error lists ten URIs, however many keys match."""
    infos = [key(f"{number}") for number in range(4000)]
    with pytest.raises(AmbiguousKey, match="More than 10 keys match pkcs11:label=app") as caught:
        choose_one(uri(f"label=app{query}"), infos)
    assert caught.value.candidates == tuple(f"pkcs11:id={number}" for number in range(10))
    assert caught.value.hint.endswith("  pkcs11:id=9\n  ...")
    with pytest.raises(AmbiguousKey, match="10 keys match") as caught:
        choose_one(uri("label=app"), infos[:10])
    assert "More" not in caught.value.message


# The named key


def test_spki_digest_takes_precedence() -> None:
    """`spki-sha256` selects the key, regardless of its certificate, its age and any given certificate."""
    infos = [key("a", age=5000), certified("b", 10, 5), key("c", age=1)]
    for name in "abc":
        named = uri(f"spki-sha256={name * 64};label=app?select=newest") if name in "abc" else NEWEST
        if name == "b":
            assert choose_one(named, infos, certify(new_key())) == (infos[1], None)
        assert choose_one(named, infos)[0].uri.get("id") == name


def test_another_key_instead_of_the_pinned_is_a_change() -> None:
    """If the named key is not among the matches, it was replaced, and the other key is never taken instead."""
    with pytest.raises(KeyChanged, match="was replaced by another"):
        choose_one(uri(f"label=app;spki-sha256={'f' * 64}"), [key("a", age=5000)])


def test_pinned_key_in_an_empty_store() -> None:
    """If nothing is there at all, nothing has changed: the key is not found."""
    with pytest.raises(KeyNotFound):
        choose_one(uri(f"label=app;spki-sha256={'f' * 64}"), [])


@pytest.mark.parametrize("query", ["", "?select=newest"])
def test_certificate_selects_the_key(query: str) -> None:
    """The given certificate's key is taken, however young it is and whether or not the newest was requested."""
    mine = KeyInfo(uri("id=m"), "P-256", spki_sha256=spki_sha256(new_key().public_key()), created=at(1))
    infos = [key("a", age=5000), mine, key("b", age=2000)]
    assert choose_one(uri(f"label=app{query}"), infos, certify(new_key())) == (mine, None)


@pytest.mark.parametrize("count", [1, 3])
def test_certificate_without_a_key_is_a_mismatch(count: int) -> None:
    """A certificate that belongs to none of the matches is refused, even if there is only one match."""
    with pytest.raises(CertificateMismatch, match="CN=app"):
        choose_one(NEWEST, [key(name, age=5000) for name in "abc"[:count]], certify(new_key()))


# The newest


def test_newest_settled_is_chosen() -> None:
    """The newest key older than `settle` is taken, so that a rotated key is registered before it signs."""
    infos = [key("a", age=9000), key("b", age=2000), key("c", age=SETTLE - 10)]
    assert chosen(infos) == "b"


def test_settled_newest_has_no_successor() -> None:
    """Once the newest has settled, no other will be chosen."""
    infos = [key("a", age=9000), key("b", age=SETTLE + 1)]
    assert choose_one(NEWEST, infos) == (infos[1], None)


def test_successor_is_announced() -> None:
    """The choice says when the next younger member, the first of them, will replace it."""
    infos = [key("a", age=9000), key("b", age=800), key("c", age=100)]
    info, settles_at = choose_one(NEWEST, infos)
    assert info.uri.get("id") == "a"
    assert 95 < seconds_until(settles_at) <= 100


def test_oldest_is_chosen_if_none_has_settled() -> None:
    """If all members are young, the oldest is taken, since it was registered first."""
    infos = [key("a", age=300), key("b", age=200), key("c", age=100)]
    info, settles_at = choose_one(NEWEST, infos)
    assert chosen(infos) == "a" == info.uri.get("id")
    assert 695 < seconds_until(settles_at) <= 700


@pytest.mark.parametrize(("settle", "name"), [(0, "c"), (50, "c"), (150, "b"), (10**8, "a"), (10**9 - 1, "a")])
def test_settle_comes_from_the_uri(settle: int, name: str) -> None:
    """The URI says how long a new member is not used."""
    infos = [key("a", age=300), key("b", age=200), key("c", age=100)]
    assert chosen(infos, uri(f"label=app?select=newest&settle={settle}")) == name


def test_creation_time_precedes_certificate_validity() -> None:
    """Age is the store's creation time; a renewed certificate does not make a key younger."""
    old = KeyInfo(uri("id=a"), "P-256", created=at(9000), not_before=at(10), not_after=at(-9000), has_certificate=True)
    assert chosen([old, certified("b", 2000)]) == "b"


def test_age_comes_from_the_certificate() -> None:
    """If the store keeps no creation time, the start of the certificate's validity counts."""
    assert chosen([certified("a", 9000), certified("b", 2000), certified("c", 10)]) == "b"


def test_unknown_age_is_ambiguous() -> None:
    """If a member has no age, the newest cannot be determined: the error lists each."""
    with pytest.raises(AmbiguousKey, match="2 keys match") as caught:
        choose_one(NEWEST, [key("a", age=5000), key("b")])
    assert caught.value.hint.startswith("Their ages are unknown; use one of these URIs:")
    assert caught.value.candidates == ("pkcs11:id=a", "pkcs11:id=b")


# Validity in a family


def test_expired_members_are_skipped() -> None:
    """The newest usable member is taken, not one that has expired."""
    assert chosen([certified("a", 9000), certified("b", 5000, 10)]) == "a"


def test_members_not_yet_valid_are_skipped() -> None:
    """A member that is not yet valid is not taken either, even if the store has had it for long."""
    future = KeyInfo(
        uri("id=b"), "P-256", created=at(5000), not_before=at(-60), not_after=at(-9000), has_certificate=True
    )
    assert chosen([certified("a", 9000), future]) == "a"


def test_members_without_certificate_are_skipped() -> None:
    """If any member has a certificate, one without is unfinished and is not taken."""
    assert chosen([certified("a", 9000), key("b", age=2000), certified("c", 3000)]) == "c"


def test_member_without_certificate_signs_until_another_has_settled() -> None:
    """The first member with a certificate is not used before it has settled, if there is another key to use."""
    infos = [key("a", age=9000), key("b", age=2000), certified("c", 800), key("d", age=10)]
    info, settles_at = choose_one(NEWEST, infos)
    assert chosen(infos) == "b" == info.uri.get("id")
    assert 95 < seconds_until(settles_at) <= 100
    assert chosen([key("a", age=10), certified("c", 5)]) == "c"
    assert chosen([key("a", age=9000), certified("b", 9000, 100), certified("c", 5)]) == "c"


def test_last_valid_member_need_not_settle() -> None:
    """A young member is taken if all others have expired."""
    infos = [certified("a", 9000, 10), certified("b", 20)]
    assert choose_one(NEWEST, infos) == (infos[1], None)


def test_age_of_skipped_members_is_irrelevant() -> None:
    """A member that is left out does not make the choice ambiguous."""
    assert chosen([certified("a", 9000), key("b")]) == "a"


def test_newest_is_chosen_if_all_have_expired() -> None:
    """If none is valid, the newest is taken anyway: the holder must be able to sign its renewal."""
    assert chosen([certified("a", 9000, 100), certified("b", 8000, 10)]) == "b"


def test_expired_members_are_not_successors() -> None:
    """A member that has expired is not announced as a successor."""
    infos = [certified("a", 9000), certified("b", 800, 10)]
    assert choose_one(NEWEST, infos) == (infos[0], None)


# Whether further keys have to be read


def test_ambiguous_is_decided_by_the_eleventh() -> None:
    """If nothing selects one of several, ten are listed, and an eleventh shows that there are more."""
    infos = [key(f"{number}", age=5000) for number in range(11)]
    assert [is_decided(uri("label=app"), infos[:number]) for number in (0, 1, 10, 11)] == [False, False, False, True]


def test_pinned_key_and_certificate_decide() -> None:
    """The key of the digest or the certificate ends the search, and no other does."""
    mine = KeyInfo(uri("id=m"), "P-256", spki_sha256=spki_sha256(new_key().public_key()))
    others = [certified("a", 5000)] * 20
    for which, certificate in (
        (uri(f"spki-sha256={mine.spki_sha256}?select=newest"), None),
        (NEWEST, certify(new_key())),
    ):
        assert not is_decided(which, others, certificate, newest_first=True)
        assert is_decided(which, [*others, mine], certificate)
    assert not is_decided(NEWEST, [key("a")], certify(new_key(which=1)))
    assert not is_decided(NEWEST, [KeyInfo(uri("id=m"), "unknown")], certify(new_key()))


def test_newest_is_decided_by_a_settled_valid_one() -> None:
    """The choice among the keys read until then is the choice among all of them, at the same time."""
    family = [certified("a", 9000), certified("b", 9000, 10), certified("c", -10), certified("d", 500)]
    family += [key("e", age=9000), key("f", age=10), certified("g", 5000), certified("h", SETTLE + 1)]
    for infos in itertools.combinations(family, 3):
        ordered = sorted(infos, key=lambda info: info.age_begins or at(0), reverse=True)
        number = next((n for n in (1, 2) if is_decided(NEWEST, ordered[:n], newest_first=True)), 3)
        assert choose_one(NEWEST, ordered[:number]) == choose_one(NEWEST, ordered)
        assert not is_decided(NEWEST, ordered)


@pytest.mark.parametrize(
    ("begin", "end", "decides"),
    [(SETTLE + 1, -9000, True), (SETTLE - 600, -9000, False), (9000, 10, False), (-60, -9000, False)],
)
def test_what_decides_the_newest(begin: float, end: float, *, decides: bool) -> None:
    """Only a key that has settled, with a certificate that is valid now, leaves no older one a chance."""
    assert is_decided(NEWEST, [certified("a", begin, end)], newest_first=True) is decides
    assert not is_decided(NEWEST, [key("a", age=begin)], newest_first=True)
    assert not is_decided(NEWEST, [key("a")], newest_first=True)
