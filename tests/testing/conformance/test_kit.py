"""The kit passes correct stores, and catches each fault with the test that names its rule."""

from __future__ import annotations

from typing import Any

import pytest

from keyvouch.testing import StoreConformance
from keyvouch.testing.conformance import NAMES
from testing.conformance import wrong_connections, wrong_keys, wrong_stores  # noqa: F401 - they register their faults
from testing.conformance.faults import FAULTS
from testing.conformance.kit_for import kit_for
from testing.conformance.memory_store import Bare, MemoryStore

CAPABILITIES = ("list", "generate", "import", "request", "install", "delete", "export", "grant", "peer")


class TestRight(kit_for(MemoryStore)):  # type: ignore[misc]
    """A store that does everything right."""


class TestBare(kit_for(MemoryStore)):  # type: ignore[misc]
    """A store with the bare minimum: what it does not support is declared."""

    store_class = Bare
    rsa_uri = ed25519_uri = family_uri = None
    unsupported = ("rsa", "ed25519", "family", *CAPABILITIES)


@pytest.fixture
def run_kit(pytester: pytest.Pytester) -> Any:
    """Run the kit as pytest does; return the names of the tests that passed and failed."""

    def run(expression: str, *options: str) -> tuple[set[str], set[str]]:
        pytester.makepyfile(
            test_store=f"""
            from testing.conformance.kit_for import kit_for
            from testing.conformance.memory_store import Bare, MemoryStore
            from testing.conformance import wrong_connections, wrong_keys
            from testing.conformance.faults import FAULTS
            from testing.conformance.wrong_stores import NothingToSign, RefusesChildren
            TestStore = {expression}
            """
        )
        result = pytester.inline_run("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", *options)
        passed, _, failed = result.listoutcomes()
        return _names(passed), _names(failed)

    return run


def _names(reports: Any) -> set[str]:
    return {each.nodeid.rpartition("::")[2].partition("[")[0] for each in reports}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught_by_its_rule(run_kit: Any, name: str) -> None:
    """Each wrong store fails the test for its fault; the correct store passes it."""
    rule = FAULTS[name].caught_by
    _, failed = run_kit(
        f"kit_for(FAULTS[{name!r}].store, closing_seconds=0.5, child_seconds=3, patience_seconds=3)", "-k", rule
    )

    assert rule in failed


@pytest.mark.parametrize(
    ("imported", "failed"), [("fcntl", {"test_module_imports_on_every_platform"}), ("tempfile", set())]
)
def test_module_of_one_platform_is_caught(
    run_kit: Any, pytester: pytest.Pytester, imported: str, failed: set[str]
) -> None:
    """A module that Windows lacks must not be imported at the top; a portable one may, whatever it imports itself."""
    pytester.syspathinsert()
    pytester.makepyfile(
        narrow_store=f"""
        import {imported}
        from testing.conformance.memory_store import MemoryStore

        class Narrow(MemoryStore):
            pass
        """
    )

    assert run_kit("kit_for(__import__('narrow_store').Narrow)", "-k", "imports_on_every_platform")[1] == failed


def test_undeclared_and_unprovided_fails(run_kit: Any) -> None:
    """What is neither provided nor declared fails."""
    _, failed = run_kit("kit_for(Bare, rsa_uri=None, missing_uri=None)", "-k", "rsa or missing")

    assert failed == {"test_rsa_signatures_verify", "test_missing_key_is_not_found"}


def test_generated_keys_need_not_be_provided(run_kit: Any) -> None:
    """A store that generates keys need not provide those; only other types are required."""
    expression = "kit_for(MemoryStore, rsa_uri=None, ed25519_uri=None)"

    assert run_kit(expression, "-k", "signatures_verify") == (
        {"test_rsa_signatures_verify", "test_ec_signatures_verify", "test_ed25519_signatures_verify"},
        set(),
    )


def test_declaring_what_is_provided_fails(run_kit: Any) -> None:
    """A false declaration fails, too."""
    _, failed = run_kit("kit_for(MemoryStore, unsupported={'missing'})", "-k", "missing")
    assert failed == {"test_missing_key_is_not_found"}


def test_declaring_a_generated_key_type_fails(run_kit: Any) -> None:
    """Declaring a key type unsupported fails if the store can generate it."""
    expression = "kit_for(MemoryStore, ed25519_uri=None, unsupported={'ed25519'})"

    assert run_kit(expression, "-k", "generated_key or ed25519")[1] == {"test_generated_key_matches_its_spec"}


def test_unknown_name_fails_once(run_kit: Any) -> None:
    """A misspelt declaration is a single failure, not one for each rule."""
    _, failed = run_kit("kit_for(MemoryStore, unsupported={'typo'})", "-k", "missing or declared")

    assert failed == {"test_declared_names_are_known"}


def test_empty_message_may_be_declared(run_kit: Any) -> None:
    """A store that cannot sign the empty message declares it, and is tested for everything else."""
    passed, failed = run_kit("kit_for(NothingToSign, unsupported={'empty'})", "-k", "signatures_verify")
    assert (len(passed), failed) == (3, set())
    _, failed = run_kit("kit_for(NothingToSign)", "-k", "ec_signatures_verify")
    assert failed == {"test_ec_signatures_verify"}


def test_declared_fork_and_import_must_be_refused(run_kit: Any) -> None:
    """A store that works in a child or imports a key, although declared not to, fails."""
    _, failed = run_kit("kit_for(MemoryStore, unsupported={'fork', 'import'})", "-k", "forked_child or import")
    assert failed == {"test_forked_child_reconnects", "test_unsupported_import_is_refused"}


def test_store_that_refuses_children_and_imports(run_kit: Any) -> None:
    """Such a store passes if it declares this, and fails if it does not."""
    rules = ("-k", "forked_child or import")
    assert run_kit("kit_for(RefusesChildren, unsupported={'fork', 'import'})", *rules)[1] == set()
    _, failed = run_kit("kit_for(RefusesChildren)", *rules)
    assert failed == {"test_forked_child_reconnects", "test_imported_key_opens_and_signs"}


def test_unexpected_error_is_reported_with_the_rule(run_kit: Any, pytester: pytest.Pytester) -> None:
    """An error that the rule does not expect is reported with the rule and its origin."""
    run_kit("kit_for(NothingToSign)", "-k", "ec_signatures_verify")
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:cov", "-k", "ec_signatures_verify")

    result.stdout.fnmatch_lines(
        [
            "E*ValueError: nothing to sign",
            "E*got:      ValueError('nothing to sign')",
            "E*expected: An EC key signs with its curve's algorithm*",
        ]
    )


def test_summary_counts_the_rules(run_kit: Any, pytester: pytest.Pytester) -> None:
    """The summary counts the rules that are kept, declared unsupported and broken, and names the latter."""
    run_kit("kit_for(MemoryStore, missing_uri=None, rsa_uri=None, unsupported={'rsa'})", "-k", "rsa or missing")
    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:cov", "-k", "rsa or missing")
    result.stdout.fnmatch_lines(
        ["TestStore: 0 kept, 3 declared unsupported, 1 broken", "*broken: test_missing_key_is_not_found"]
    )


def test_every_rule_is_documented() -> None:
    """Each test's docstring states the rule and its source."""
    tests = [getattr(StoreConformance, name) for name in dir(StoreConformance) if name.startswith("test_")]

    assert len(tests) > 30
    for test in tests:
        assert test.__doc__
        assert "(" in test.__doc__ or "See `" in test.__doc__, test


def test_every_name_is_explained() -> None:
    """Each name that may be declared says what to provide instead."""
    assert all(NAMES.values())


def test_summary_does_not_hide_import_errors(pytester: pytest.Pytester) -> None:
    """An error during collection is reported by pytest, and not hidden by the summary."""
    pytester.makepyfile("import there_is_no_such_module")

    result = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-p", "no:cov")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*No module named 'there_is_no_such_module'*"])
