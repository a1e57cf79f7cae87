"""`keyvouch.store.ProcessLocal`: what a store made when it connected, for the process that made it."""

import os

import pytest

from keyvouch.errors import SessionLost
from keyvouch.store import ProcessLocal


def test_value_is_returned_in_its_process() -> None:
    """The process that set a value gets it, and `take` removes it."""
    held = ProcessLocal[str]()
    held.set("connection")
    assert held.get() == "connection"
    assert held.take() == "connection"
    assert held.take() is None


def test_nothing_set_is_session_lost() -> None:
    """Before `connect`, the core learns that it has to connect, and that nothing was carried out."""
    with pytest.raises(SessionLost) as caught:
        ProcessLocal[str]().get()
    assert caught.value.performed is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_forked_child_has_none() -> None:
    """A forked child neither uses nor closes its parent's connection."""
    held = ProcessLocal[str]()
    held.set("connection")
    child = os.fork()
    if child == 0:
        try:
            held.get()
        except SessionLost:
            os._exit(0 if held.take() is None else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held.get() == "connection"
