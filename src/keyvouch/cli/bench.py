"""`keyvouch bench`"""

from __future__ import annotations

import contextlib
import functools
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keyvouch import config
from keyvouch._core import environment, opening
from keyvouch._system.text import printable
from keyvouch.cli.completion import complete_profiles
from keyvouch.cli.inputs import is_interactive
from keyvouch.cli.options import output_option
from keyvouch.cli.selection import Selection, select
from keyvouch.errors import ConfigurationError, KeyvouchError

if TYPE_CHECKING:
    from keyvouch.bench import Change, Key, Plan, Run, Target
    from keyvouch.bench.harness import Progress

_INSTALL = "In a checkout of keyvouch, run: pip install '.[bench]'"
SLOWER = 8
"""Exit status if `--fail-if-slower` finds something slower."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:  # noqa: ARG001
    """Return the numbers in "1,2,4,8", without duplicates."""
    try:
        return tuple(dict.fromkeys(int(each) for each in value.split(","))) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2,4,8.") from None


def _price(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    """Return the price of a million signatures, from "0.03/10000"."""
    if value is None:
        return None
    price, _, number = value.partition("/")
    try:
        million = float(price) / int(number) * 1_000_000
    except (ValueError, ZeroDivisionError):
        million = -1.0
    if not 0 <= million < float("inf") or price.startswith("-"):
        raise click.BadParameter(f"{value!r} is not a price of a number of signatures, such as 0.03/10000.")
    return million


def _percentage(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    """Return the part of 1, from "10%"."""
    if value is None:
        return None
    try:
        part = float(value.removesuffix("%")) / 100
    except ValueError:
        part = -1.0
    if not 0 < part < float("inf"):
        raise click.BadParameter(f"{value!r} is not a percentage such as 10%.")
    return part


@dataclass(frozen=True)
class _Files:
    """What is read and written besides the standard streams."""

    compare: Path | None
    report: Path | None
    plot: Path | None

    def check(self) -> None:
        """Raise `ConfigurationError` or `UsageError` before anything is measured, if a file could not be written."""
        from keyvouch.bench.output_files import plot_format, require_writable

        if self.report or self.plot:
            try:
                import matplotlib  # noqa: F401, ICN001 - only whether it is installed
            except ModuleNotFoundError:
                raise ConfigurationError("Plots and reports require matplotlib.", hint=_INSTALL) from None
        if self.plot:
            plot_format(self.plot)
        for path in (self.report, self.plot):
            if path:
                require_writable(path)
        used = [each.resolve() for each in (self.compare, self.report, self.plot) if each]
        if len(used) != len(set(used)):
            raise click.UsageError("--compare, --report and --plot need different files.")


@click.command("bench")
@click.argument("keys", metavar="[URI]...", nargs=-1)
@click.option(
    "--profile",
    "profiles",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_profiles,
    help="Measure this profile's keys; can be repeated. Default, without URIs: all profiles.",
)
@click.option("--threads", callback=_numbers, metavar="N,...", help="Threads to measure with, as 1,2,4,8.")
@click.option("--rate", type=float, metavar="R", help="Start R signatures per second, even if others are running.")
@click.option("--seconds", type=float, help="Duration of each measurement. Default: 3, or 10 with --rate.")
@click.option("--count", type=int, help="Number of operations in each measurement, instead of a duration.")
@click.option("--algorithm", "algorithms", metavar="NAME", multiple=True, help="Algorithm to measure; can be repeated.")
@click.option("--token", is_flag=True, help="Request access tokens too.")
@click.option("--peer", is_flag=True, help="Measure the bare library under each store too.")
@click.option("--price", callback=_price, metavar="P/N", help="Price of N signatures, as 0.03/10000.")
@click.option("--compare", type=click.Path(path_type=Path), metavar="FILE", help="Compare with an earlier JSON result.")
@click.option(
    "--fail-if-slower", callback=_percentage, metavar="P%", help="With --compare: exit with 8 if slower by P %."
)
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write an HTML page with plots.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Write the plots as .png or .svg.")
@click.option("--yes", is_flag=True, help="Do not ask before loading a service that bills or limits signatures.")
@output_option
def command(
    keys: tuple[str, ...],
    profiles: tuple[str, ...],
    threads: tuple[int, ...],
    rate: float | None,
    seconds: float | None,
    count: int | None,
    algorithms: tuple[str, ...],
    token: bool,
    peer: bool,
    price: float | None,
    compare: Path | None,
    fail_if_slower: float | None,
    report: Path | None,
    plot: Path | None,
    yes: bool,
    output: str,
) -> None:
    """Measure how fast keys sign, and compare them.

    Measures opening, signatures, client assertions and, on request, access tokens. Several keys take turns, so that
    what disturbs the machine affects all of them. Nothing that is measured is retried: throttling and errors are
    counted.
    """
    gc.enable()  # as in the programs that will use the keys
    try:
        from keyvouch import bench
    except ModuleNotFoundError as error:
        raise ConfigurationError(str(error), hint=_INSTALL) from None

    if fail_if_slower is not None and compare is None:
        raise click.UsageError("--fail-if-slower needs --compare FILE.")
    paths = _Files(compare, report, plot)
    paths.check()
    old = bench.read_run(compare) if compare else None
    if old and fail_if_slower is not None:
        _require_same_processor(old)
    plan = bench.Plan(seconds, count, threads, rate, algorithms, token=token, peer=peer, price=price)
    targets = _targets(keys, profiles)
    _require_clients(targets, plan)
    failures = list[KeyvouchError]()
    confirm = None if yes else functools.partial(_confirm, plan)
    with _progress_bar() as progress:
        run = bench.measure_keys(targets, plan, confirm=confirm, progress=progress, failures=failures)
    changes = bench.compare_runs(run, old) if old else []
    try:
        _write(run, paths, changes)  # first: the terminal may have been closed
    finally:
        _present(run, changes, old, output)
    if run.interrupted:
        raise KeyboardInterrupt
    if old and fail_if_slower is not None:
        _exit_if_slower(run, old, changes, fail_if_slower)
    if failures:
        raise failures[0]


def _require_same_processor(old: Run) -> None:
    """Raise `ConfigurationError` if the earlier run was measured on another type of machine."""
    from keyvouch.bench import machine

    if (processor := machine.this_machine().processor) != old.machine.processor:
        raise ConfigurationError(
            f"Cannot compare two processors: {old.machine.processor} and {processor}.",
            hint="Measure both on the same machine, or leave out --fail-if-slower.",
        )


def _targets(keys: Sequence[str], profiles: Sequence[str]) -> list[Target]:
    """Return the keys to measure: those of the URIs and profiles; without any, those of all profiles."""
    selections = [select(None, key) for key in keys] + [select(name, None) for name in profiles]
    if not selections and environment.in_use():
        selections = [select(None, None)]
    elif not selections:
        selections = [select(name, None) for name in config.load().profiles]
    found = [target for selection in selections for target in _targets_of(selection)]
    if not found:
        raise ConfigurationError(
            "There is no key to measure.", hint="Give the URI of a key, or add a profile with `keyvouch profile add`."
        )
    return found


def _targets_of(selection: Selection) -> Iterator[Target]:
    from keyvouch.bench import Target

    profile = selection.profile if selection.name else None
    uris = opening.parse_keys(selection.profile, selection.name) if selection.name else selection.profile.keys
    for uri in uris:
        yield Target(uri, selection.name, profile, selection.secrets)


def _require_clients(targets: Sequence[Target], plan: Plan) -> None:
    if plan.token and not all(each.profile for each in targets):
        raise click.UsageError("--token needs a profile for each key, since a URI names no client.")


def _confirm(plan: Plan, keys: Sequence[Key]) -> bool:
    """Ask whether to load services that may bill for signatures, or throttle other programs."""
    load = f"{plan.count:,} signatures" if plan.count else f"as many signatures as it can make in {plan.duration:g} s"
    question = f"These services may bill for signatures, or throttle other programs. Each measurement makes {load}."
    for key in keys:
        limit = key.limit and f" (limit: {key.limit.signatures:,} in {key.limit.seconds:g} s, {key.limit.scope})"
        click.echo(f"{key.label}  {printable(key.uri)}{limit or ''}", err=True)
    if not is_interactive():
        raise click.UsageError(f"{question} Use --yes, and --count to make fewer.")
    return click.confirm(f"{question}\nMeasure them?", err=True)


@contextlib.contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Show a bar on a terminal; yields None for a pipe or file."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("Measuring", total=1.0)

    def report(part: float) -> None:
        bar.start()  # only now: nothing is asked any more
        bar.update(task, completed=part)

    try:
        yield report
    finally:
        bar.stop()


def _present(run: Run, changes: Sequence[Change], old: Run | None, output: str) -> None:
    from keyvouch import bench
    from keyvouch.bench.units import encodable

    if output == "json":
        click.echo(bench.as_json(run, changes))
        return
    parts = [bench.as_text(run)] + ([bench.changes_as_text(changes, run, old)] if old else [])
    click.echo(printable(encodable("\n\n".join(parts), sys.stdout.encoding), kept="\n"))


def _write(run: Run, paths: _Files, changes: Sequence[Change]) -> None:
    if paths.report:
        from keyvouch.bench.html_report import write_report

        write_report(run, paths.report, changes)
        click.echo(f"Wrote {paths.report}.", err=True)
    if paths.plot:
        from keyvouch.bench.plots import write_plot

        write_plot(run, paths.plot)
        click.echo(f"Wrote {paths.plot}.", err=True)


def _exit_if_slower(run: Run, old: Run, changes: Sequence[Change], part: float) -> None:
    from keyvouch.bench import text

    if failures := text.failures_as_text(run, old):
        click.echo(printable(failures, kept="\n"), err=True)
        click.get_current_context().exit(SLOWER)
    if not changes:
        raise ConfigurationError(
            "Nothing was measured in both runs.", hint="Measure the same keys, operations and threads as then."
        )
    if all(each.ratio.low is None for each in changes):
        raise ConfigurationError(
            "There were too few rounds to find out whether something became slower.",
            hint="Measure longer in both runs, with --seconds or --count.",
        )
    if slower := text.slower_as_text(changes, part):
        click.echo(slower, err=True)
        click.get_current_context().exit(SLOWER)
