"""The command `keyvouch`, and `python -m keyvouch`.

The working directory is removed from `sys.path` before anything else is imported, since its contents are not trusted.
"""

from keyvouch._system import search_path


def main() -> None:
    """Run the command and end the process with its status."""
    search_path.remove_untrusted()

    from keyvouch.cli import main as run

    run()


if __name__ == "__main__":
    main()
