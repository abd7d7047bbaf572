"""Signals: Ctrl-C, a request to end, and a closed terminal."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from jimgen.output import Output

SIGHUP = getattr(signal, "SIGHUP", None)  # a closed terminal; Windows has no such signal
STOP_SIGNALS = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, SIGHUP)))  # ask a training to save and stop


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """Within the block, Ctrl-C ends the process silently. Does nothing outside the main thread.

    This is the default action of SIGINT, but Python raises a KeyboardInterrupt instead, with a traceback. During an
    import that exception can also be swallowed or crash a library.
    """
    before = None
    with contextlib.suppress(ValueError):  # not in the main thread
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def end_after_cleaning() -> Iterator[None]:
    """Within the block, the first of STOP_SIGNALS raises SystemExit, so that what is unfinished is removed; the second
    ends the process at once. A SIGHUP that is ignored stays ignored. Does nothing outside the main thread."""
    before = {}

    def end(number: int, frame: Any) -> None:
        for name in before:
            signal.signal(name, signal.SIG_DFL)
        raise SystemExit(128 + number)

    with contextlib.suppress(ValueError):  # not in the main thread
        for number in STOP_SIGNALS:
            if number != SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stop_requests(output: Output) -> Iterator[list[int]]:
    """Yields a list to which the first of STOP_SIGNALS is appended. The second signal ends the process.

    A SIGHUP that is ignored, as under nohup, stays ignored. Otherwise it silences the output, as the terminal is gone.
    """
    received: list[int] = []
    before = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if number == SIGHUP:
            output.ends()
        for name in before:
            signal.signal(name, signal.SIG_DFL)

    for number in STOP_SIGNALS:
        if number != SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
