"""Ctrl-C and SIGTERM ask a run to stop where it can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

# SIGTERM is what torchrun, Slurm and `kill` send.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@final
class TrainingInterrupted(KeyboardInterrupt):
    """Stopped by Ctrl-C or SIGTERM, and saved; the message says how to continue."""


@contextmanager
def interrupt_flag() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the flag, a second one acts as it did before."""
    flag = threading.Event()
    # Python lets only the main thread handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_interrupt(*_: object) -> None:
        flag.set()
        restore()

    for number in _SIGNALS:
        signal.signal(number, on_interrupt)
    try:
        yield flag
    finally:
        restore()
