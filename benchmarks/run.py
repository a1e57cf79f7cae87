"""Run all benchmarks, and write the results next to this file: RESULTS.md, results.json, and plots in `plots`.

    python benchmarks/run.py [--quick] [SUBJECT ...]

Each subject is measured in a process of its own, one after the other. Subjects are the names of the modules.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec

import goals
from goals import Part
from keyvouch.bench.machine import this_machine, versions

FOLDER = Path(__file__).parent
PROGRAMS = ("cc", "dbus-daemon", "pkcs11-tool", "softhsm2-util", "swtpm", "tpm2-abrmd", "tpm2_dictionarylockout")
LIBRARIES = ("hvac", "joserfc", "jwt", "pkcs11", "azure.keyvault.keys", "azure.identity")

Measure = Callable[[float], Part]


def subjects() -> dict[str, Measure]:
    """Return the subjects in the order of the report."""
    # Imported here, so that the process of one subject does not import the others.
    import accuracy
    import assertion
    import azure_key_vault
    import commands
    import growth
    import growth_of_stores
    import many_processes
    import overview
    import softhsm
    import vault

    stores = (softhsm, vault, azure_key_vault, growth_of_stores)
    return {
        each.__name__: each.measure_subject
        for each in (overview, accuracy, assertion, *stores, commands, many_processes, growth)
    }


def missing() -> list[str]:
    """Return the programs and libraries that are not installed."""
    programs = [each for each in PROGRAMS if not shutil.which(each)]
    if not Path(sys.executable).with_name("bao").exists():
        programs.append("bao")
    if not (FOLDER.parent / ".venv-runtime" / "bin" / "keyvouch").exists():
        programs.append("the environment of `make runtime`")
    return programs + [each for each in LIBRARIES if not _is_importable(each)]


def measure_all(chosen: Mapping[str, Measure], seconds: float) -> list[Part]:
    """Measure each subject in a new process."""
    parts = list[Part]()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as processes:
        for name, measure in chosen.items():
            print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
            began = time.monotonic()
            parts.append(processes.submit(measure, seconds).result())
            print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return parts


def report(parts: list[Part], seconds: float) -> str:
    """Return the results as Markdown."""
    machine, all_goals = this_machine(), [goal for part in parts for goal in part.goals]
    reached = sum(each.reached for each in all_goals)
    where = f"{machine.processor}, {machine.cores} cores, {machine.system}, {machine.python}"
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    text = [
        "# Results of the benchmarks",
        f"Written by `make bench` on {dt.datetime.now(dt.UTC):%Y-%m-%d}; [README.md](README.md) says how to read it.",
        f"{where}; {seconds:g} s for each measurement; load average {machine.load} at the end.",
        f"Versions: {used}.",
        f"## Goals: {reached} of {len(all_goals)} reached",
    ]
    for part in parts:
        if part.goals:
            text += [f"### {part.title}", goals.goal_table(part.goals)]
    for part in parts:
        text += [f"## {part.title}", part.text]
    return "\n\n".join(text) + "\n"


def document(parts: list[Part], seconds: float) -> bytes:
    """Return all measurements and goals as JSON."""
    return msgspec.json.encode(
        {
            "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "machine": this_machine(),
            "versions": versions(),
            "seconds": seconds,
            "subjects": [
                {"title": part.title, "goals": [each.document() for each in part.goals], "measurements": part.documents}
                for part in parts
            ],
        }
    )


def write(parts: list[Part], seconds: float) -> None:
    """Write the report, the document and the plots."""
    from keyvouch.bench.plots import write_plot

    plots = FOLDER / "plots"
    plots.mkdir(exist_ok=True)
    for part in parts:
        for name, run in part.plots.items():
            write_plot(run, plots / name)
    (FOLDER / "results.json").write_bytes(document(parts, seconds) + b"\n")
    (FOLDER / "RESULTS.md").write_text(report(parts, seconds), encoding="utf-8")


def main() -> None:
    """Measure, and write the results."""
    chosen = subjects()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="measure so shortly that the figures mean little")
    parser.add_argument("subject", nargs="*", choices=[*chosen, []], metavar="SUBJECT", help=", ".join(chosen))
    options = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"Not installed: {', '.join(lacking)}. `make bench` installs all but cc, as root on Debian.")
    seconds = goals.QUICK_SECONDS if options.quick else goals.SECONDS
    parts = measure_all({name: chosen[name] for name in options.subject or chosen}, seconds)
    write(parts, seconds)


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    main()
