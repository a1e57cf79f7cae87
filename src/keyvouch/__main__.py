"""`python -m keyvouch`. The working directory leaves `sys.path` first: what lies there is not trusted."""

import sys

if not sys.flags.safe_path and sys.path and sys.path[0]:  # what -m put there
    del sys.path[0]

from keyvouch.cli import main

main()
