"""How a command ends: with a two-sentence error and its exit status, never with a traceback."""

from __future__ import annotations

import codecs
import contextlib
import errno
import gc
import io
import itertools
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import click

from keyvouch.errors import ConfigurationError, KeyvouchError

INTERRUPTED = 130


def run(group: click.Group, arguments: list[str] | None) -> NoReturn:
    """Run the group and exit: 0 for success, the error's status, 2 for usage errors, 130 if interrupted."""
    _prepare()
    try:
        group.main(arguments, prog_name="keyvouch", standalone_mode=False)
        sys.stdout.flush()
        status = 0
    except KeyvouchError as error:
        show(error)
        status = error.exit_status
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        status = error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        status = _status_of(error)
    except BrokenPipeError:
        _drop_output()  # the reader has gone
        status = 1
    except OSError as error:
        if _is_broken_pipe(error):
            _drop_output()
            status = 1
        elif error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT):
            _show_defect(error)
            status = 1
        else:
            show(ConfigurationError(f"The output cannot be written: {error.strerror}.", hint="See where it goes to."))
            _drop_output()
            status = 2
    except BaseException as error:  # noqa: BLE001 - a defect, ours or a plugin's: not even SystemExit means success
        _show_defect(error)
        status = 1
    sys.exit(status)


def _prepare() -> None:
    """Prepare the standard streams, and arrange for a clean exit on signals."""
    gc.disable()  # garbage collection takes 5 % of the time of a command that runs for less than a second
    if not sys.warnoptions and not _debugging():  # warnings are for developers
        warnings.simplefilter("ignore")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open until exit
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal cannot encode is not a defect
            stream.reconfigure(encoding=_encoding(stream), errors="backslashreplace")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP
            signal.signal(number, _end)


def _encoding(stream: io.TextIOWrapper) -> str | None:
    """Return the encoding in which PowerShell and cmd read a program's output; None to keep Python's default.

    They use the console's code page, if there is a console, whereas Python uses the system's code page.
    """
    if sys.platform == "win32" and not (stream.isatty() or sys.flags.utf8_mode or os.environ.get("PYTHONIOENCODING")):
        import ctypes

        page = ctypes.WinDLL("kernel32").GetConsoleOutputCP()
        with contextlib.suppress(LookupError):
            return codecs.lookup(f"cp{page}").name
    return None


class _Ended(KeyboardInterrupt):
    """Raised on a signal, so that partial work is cleaned up, such as a temporary file with a key."""


def _end(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - required by the signal module
    raise _Ended(number)


def _status_of(error: BaseException) -> int:
    """Return the exit status for an interruption; click may have replaced it by its own error."""
    for each in (error, error.__cause__):
        if isinstance(each, _Ended):
            return 128 + int(each.args[0])
    with contextlib.suppress(OSError):
        click.echo("\nInterrupted.", err=True)
    return INTERRUPTED


def _is_broken_pipe(error: OSError) -> bool:
    """Return True for what Windows raises instead of BrokenPipeError: EINVAL without a file name."""
    return sys.platform == "win32" and error.errno == errno.EINVAL and error.filename is None


def _drop_output() -> None:
    """Discard all further standard output, including what the interpreter flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def show(error: KeyvouchError) -> None:
    """Print an error to standard error: as JSON if the command's output is JSON, else with its hint."""
    with contextlib.suppress(OSError):
        _show(error)


def _show(error: KeyvouchError) -> None:
    if _wants_json():
        members = {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "uri": error.uri,
            "transient": error.transient,
        }
        for name in ("error_codes", "thumbprint", "correlation_id", "retry_after", "candidates"):
            if getattr(error, name, None):
                members[name] = getattr(error, name)
        click.echo(json.dumps({"error": members}), err=True)
        return
    message = printable(error.message, kept="\n")
    click.secho(f"Error: {message}", fg="red", err=True)
    if error.hint:
        click.echo(printable(error.hint, kept="\n"), err=True)
    if _debugging():
        _traceback()


def printable(text: object, *, kept: str = "") -> str:
    """Replace unprintable characters, which may control a terminal, with `?`, except those in `kept`."""
    return "".join(each if each.isprintable() or each in kept else "?" for each in str(text))


def _show_defect(error: BaseException) -> None:
    if isinstance(error, SystemExit) and "_KEYVOUCH_COMPLETE" in os.environ:
        raise error  # this is how click ends a shell completion
    message = f"{type(error).__name__}: a defect of keyvouch or of a plugin."
    hint = "Run it again with `keyvouch --debug ...`, and report what that shows."
    with contextlib.suppress(OSError):
        if _wants_json():
            click.echo(json.dumps({"error": {"code": "defect", "message": message, "hint": hint}}), err=True)
        else:
            click.secho(f"Error: {message}", fg="red", err=True)
            click.echo(hint, err=True)
        if _debugging():
            _traceback()


def _traceback() -> None:
    import traceback

    with contextlib.suppress(BrokenPipeError):
        traceback.print_exc()


def _debugging() -> bool:
    return "--debug" in sys.argv


def _wants_json() -> bool:
    """Check the raw arguments, since an error may occur before they are parsed."""
    arguments = sys.argv
    return "--output=json" in arguments or ("--output", "json") in itertools.pairwise(arguments)
