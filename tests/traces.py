"""What a failure would reveal of a secret: to logs, and to tools that print the variables of its frames."""

from __future__ import annotations

from collections.abc import Iterator


def traces(error: BaseException | None) -> Iterator[str]:
    """Return everything that an error, its causes and their frames would show."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield f"{error!r} {error} {vars(error)}"
        trace = error.__traceback__
        while trace is not None:
            if "/tests/" not in trace.tb_frame.f_code.co_filename:
                yield repr(trace.tb_frame.f_locals)
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
