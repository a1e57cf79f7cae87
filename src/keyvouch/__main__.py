"""The command `keyvouch`, and `python -m keyvouch`.

The working directory is removed from `sys.path` before anything else is imported, since its contents are not trusted.
"""

import gc

from keyvouch._system import search_path
from keyvouch._system.forks import process


def main() -> None:
    """Run the command and end the process with its status."""
    gc.disable()  # looking for garbage would take a tenth of the time of a command, here and when the interpreter ends
    search_path.remove_untrusted()
    process.never_forks = True

    from keyvouch.cli import main as run

    try:
        run()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
