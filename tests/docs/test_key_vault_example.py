"""`docs/examples/key_vault_simulator.py` runs, and the lines that it prints can be typed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from docs.pages import DOCS


def test_printed_lines_get_a_token(tmp_path: Path) -> None:
    """The profiles, the token and another certificate are made with the lines as they are; Ctrl-C ends the servers."""
    environment = {
        **os.environ,
        "KEYVOUCH_CONFIG": str(tmp_path / "config.toml"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    (tmp_path / "config.toml").touch()
    script = DOCS / "examples" / "key_vault_simulator.py"
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            printed = ""
            while "keyvouch new" not in printed and (line := running.stdout.readline()):
                printed += line
            lines = re.findall("^keyvouch .*", printed, re.MULTILINE)
            typed = "\n".join(lines)
            done = subprocess.run(
                ["bash", "-eu", "-c", typed], env=environment, capture_output=True, text=True, check=False
            )
        finally:
            running.send_signal(signal.SIGINT)
        assert done.returncode == 0, f"{typed}\n{done.stderr}"
        assert len(lines) == 4
        assert "certificate=other;version=" in done.stdout
    assert running.returncode == 0
