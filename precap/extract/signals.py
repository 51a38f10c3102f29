"""Leave cleanly when a batch system says so: SIGTERM and SIGUSR1 become ``Interrupted``."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from precap.errors import Interrupted

SIGNALS = ("SIGTERM", "SIGUSR1")


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Yield ``check``: it raises Interrupted (exit code 75) once one of ``SIGNALS`` has come.

    The handlers only take a note, so that whatever is being written is finished; outside the main
    thread, where Python allows no handlers, ``check`` never raises.
    """
    came: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number).name)

    def check() -> None:
        if came:
            raise Interrupted(
                f"Stopped by {came[0]}. All committed shards are safe; repeat the command to go on."
            )

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
