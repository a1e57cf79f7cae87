"""Acting as another account of this machine, which need not exist: only root can do that, in a child process."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SERVICE, OTHER = 60123, 60124

only_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can act for another account"
)


def answer_as(account: int, act: Callable[[], str], *, groups: tuple[int, ...] = ()) -> str:
    """Return the text that a function returns in a process of another account, or the text of its exception.

    What the function imports must have been imported: the account may not be able to read Python's own files.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.setgroups(groups)
            os.setresgid(account, account, account)
            os.setresuid(account, account, account)
            try:
                text = act()
            except Exception as error:  # noqa: BLE001 - it is the answer
                text = str(error) or traceback.format_exc()
            os.write(writing, text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(process, 0)
    return text


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder of root that every account can reach: pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
