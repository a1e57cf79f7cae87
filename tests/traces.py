"""What a failure would show of a secret: to who logs it, and to tools that print the variables of its frames."""

from __future__ import annotations

from collections.abc import Iterator


def traces(error: BaseException | None) -> Iterator[str]:
    """Give all that an error, its causes and the frames that it went through would show."""
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
