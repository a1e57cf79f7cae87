"""How a command ends: with the exit status and the text of an error, never with an unexpected traceback.

An error is printed to standard error as `error[CODE]: MESSAGE`, with its hint on the next line; with `--output json` as
JSON. `--debug` adds the traceback.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from typing import NoReturn

import click

from keyvouch._secrets.redaction import require_no_key, without_keys
from keyvouch._system.text import printable
from keyvouch.cli import streams
from keyvouch.errors import ConfigurationError, KeyvouchError

INTERRUPTED = 130
_OPTIONAL_FIELDS = ("error_codes", "thumbprint", "correlation_id", "retry_after", "candidates")


def run(group: click.Group, arguments: list[str] | None) -> NoReturn:
    """Run the group and exit: 0 for success, the error's status, 2 for usage errors, 130 if interrupted."""
    _prepare()
    try:
        for each in arguments or sys.argv[1:]:
            require_no_key(each)  # in an option that is not a URI, the error would show it
        ended = group.main(arguments, prog_name="keyvouch", standalone_mode=False)
        sys.stdout.flush()
        status = ended if isinstance(ended, int) else 0  # a command that called `Context.exit`
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything, and SystemExit(0) is not success
        status = _report(error)
        streams.discard_unwritable()
    sys.exit(status)


def _prepare() -> None:
    """Prepare the standard streams, and arrange for a clean exit on signals."""
    if not sys.warnoptions and not _is_debugging():  # warnings are for developers
        warnings.simplefilter("ignore")
    streams.prepare()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP
            signal.signal(number, _terminate)


class _TerminatedError(KeyboardInterrupt):
    """Raised on a signal, so that partial work is cleaned up, such as a temporary file with a key."""


def _terminate(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - required by the signal module
    raise _TerminatedError(number)


def _report(error: BaseException) -> int:
    """Print the error that ended the command, and return the exit status."""
    match error:
        case KeyvouchError():
            _print_error(error)
            return error.exit_status
        case click.ClickException():
            _print_usage_error(error)
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            return _report_interrupt(error)
        case OSError() if streams.is_unwritable(error):
            return _report_unwritable_output(error)
        case _:
            return 0 if streams.reader_has_ended(error) else _report_defect(error)


def _report_interrupt(error: BaseException) -> int:
    for each in (error, error.__cause__):  # click may have replaced it by its own error
        if isinstance(each, _TerminatedError):
            return 128 + int(each.args[0])
    _print_to_stderr("\nInterrupted.")
    return INTERRUPTED


def _report_unwritable_output(error: OSError) -> int:
    made = ConfigurationError(
        f"Cannot write to standard output: {error.strerror}.", hint="Check the file or device that it is redirected to."
    )
    made.__cause__ = error
    _print_error(made)
    return made.exit_status


def _print_error(error: KeyvouchError) -> None:
    from keyvouch.cli import mistakes

    fields = {
        "code": error.code,
        "message": error.message,
        "hint": mistakes.with_configuration("\n".join(filter(None, (error.hint, mistakes.hint_for_cut_uri(error))))),
        "uri": error.uri,
        "transient": error.transient,
    }
    fields |= {name: getattr(error, name) for name in _OPTIONAL_FIELDS if getattr(error, name, None)}
    _print_fields(fields)
    _print_traceback(error)


def _report_defect(error: BaseException) -> int:
    if isinstance(error, SystemExit) and "_KEYVOUCH_COMPLETE" in os.environ:
        raise error  # this is how click ends a shell completion
    _print_fields(
        {
            "code": "defect",
            "message": f"Unexpected {type(error).__name__}: a defect of keyvouch or of a plugin.",
            "hint": "Run the command again as `keyvouch --debug ...`, and report what it prints.",
        }
    )
    _print_traceback(error)
    return 1


def _print_usage_error(error: click.ClickException) -> None:
    """Print an error in the arguments: always as text, since they may be what says how to print."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _print_to_stderr(error.format_message())  # the help
    elif context is None:
        _print_text("usage", error.format_message(), "")
    else:
        from keyvouch.cli import mistakes

        usage, command = context.get_usage(), context.command_path
        hint = mistakes.hint_for_usage(error) or f"{usage}\nSee `{command} --help`."
        _print_text("usage", error.format_message(), hint)


def _print_fields(fields: Mapping[str, object]) -> None:
    if _wants_json():
        shown = {name: without_keys(value) if isinstance(value, str) else value for name, value in fields.items()}
        _print_to_stderr(json.dumps({"error": shown}))
    else:
        _print_text(str(fields["code"]), str(fields["message"]), str(fields["hint"]))


def _print_text(code: str, message: str, hint: str) -> None:
    shown = printable(without_keys(message), kept="\n")
    _print_to_stderr(click.style(f"error[{code}]: {shown}", fg="red"))
    if hint:
        _print_to_stderr(printable(without_keys(hint), kept="\n"))


def _print_traceback(error: BaseException) -> None:
    if _is_debugging():
        from keyvouch.cli import tracebacks

        _print_to_stderr(without_keys(tracebacks.describe(error)))


def _print_to_stderr(text: str) -> None:
    with contextlib.suppress(OSError):  # it may be closed, or its reader may have ended
        click.echo(text, err=True)


def _is_debugging() -> bool:
    return "--debug" in sys.argv


def _wants_json() -> bool:
    """Check the raw arguments, since an error may occur before they are parsed."""
    arguments = sys.argv
    return "--output=json" in arguments or ("--output", "json") in itertools.pairwise(arguments)
