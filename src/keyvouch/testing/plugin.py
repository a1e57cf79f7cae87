"""The pytest summary of the conformance kit: the number of rules kept, declared unsupported, and broken.

pytest loads this plugin if keyvouch is installed. It does nothing without the kit.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Write a line for each store, and one for each rule that it breaks."""
    stores: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            properties = dict(getattr(report, "user_properties", ()))  # a module that fails to import has none
            if "conformance" not in properties or (outcome == "passed" and report.when != "call"):
                continue
            result = "broken" if outcome != "passed" else "unsupported" if "unsupported" in properties else "kept"
            stores[str(properties["conformance"])][result].append(report.nodeid.rpartition("::")[2])
    if not stores:
        return
    terminalreporter.section("conformance")
    for store, rules in sorted(stores.items()):
        kept, unsupported, broken = (rules[result] for result in ("kept", "unsupported", "broken"))
        terminalreporter.write_line(
            f"{store}: {len(kept)} kept, {len(unsupported)} declared unsupported, {len(broken)} broken"
        )
        for rule in broken:
            terminalreporter.write_line(f"    broken: {rule}", red=True)
