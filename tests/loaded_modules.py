"""What a command has loaded when it ends: imports are most of the time that a command takes."""

import subprocess
import sys

from scripted_store import without_coverage

_PROGRAM = """
import atexit, gc, sys

@atexit.register
def report():
    if gc.isenabled() or not gc.get_freeze_count():
        print("looks for garbage", file=sys.stderr)
    print(*sys.modules, sep="\\n", file=sys.stderr)

sys.argv[0] = "keyvouch"
from keyvouch.__main__ import main
main()
"""


def loaded_by(*arguments: str, message: str = "") -> set[str]:
    """Run the command with a message as its input; return the names of the modules that it loaded.

    Those that `logging` and `pathlib` load are left out: they are more in some versions of Python.
    """
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    done = subprocess.run(
        command, env=without_coverage(), capture_output=True, text=True, check=True, input=message, timeout=60
    )
    usual = [sys.executable, "-c", "import logging, pathlib, sys; print(*sys.modules, sep='\\n')"]
    unavoidable = subprocess.run(usual, env=without_coverage(), capture_output=True, text=True, check=True)
    return {*done.stderr.splitlines()} - {*unavoidable.stdout.splitlines()}
