"""Fixtures shared by the tests that run inside Windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import keyvouch


@pytest.fixture
def cleaned_up() -> Iterator[None]:
    """Delete the keys that the test created."""
    with _deleting_new_keys():
        yield


@pytest.fixture(scope="module")
def cleaned_up_module() -> Iterator[None]:
    """Delete the keys that the tests of a module created, after the last test."""
    with _deleting_new_keys():
        yield


@contextmanager
def _deleting_new_keys() -> Iterator[None]:
    before = _uris()
    yield
    for uri in _uris() - before:
        with keyvouch.open_store(uri) as store:
            store.delete()


def _uris() -> set[str]:
    with keyvouch.open_store("windows:") as store:
        listed = store.keys()
    return {str(info.uri) for info in listed}
