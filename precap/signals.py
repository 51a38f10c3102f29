"""Leave cleanly when a batch system says so: SIGTERM and SIGUSR1 become ``Interrupted``."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from precap.errors import Interrupted

SIGNALS = ("SIGTERM", "SIGUSR1")


class Asked:
    """Whether this process was asked to stop: ``came`` names the signals so far.

    Calling it raises Interrupted (exit code 75) once one has come. safe: what nothing is lost of,
    for the message.
    """

    def __init__(self, safe: str) -> None:
        self.came: list[str] = []
        self.safe = safe

    def __call__(self) -> None:
        if self.came:
            raise Interrupted(
                f"Stopped by {self.came[0]}. {self.safe} safe; repeat the command to go on."
            )


@contextmanager
def stoppable(safe: str) -> Iterator[Asked]:
    """Inside, ``SIGNALS`` only leave a note in what is yielded, to be called where it is safe.

    So whatever is being written is finished. Outside the main thread, where Python allows no
    handlers, no note is ever taken.
    """
    asked = Asked(safe)

    def note(number: int, frame: FrameType | None) -> None:
        asked.came.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
