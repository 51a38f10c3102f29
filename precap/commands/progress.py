"""Progress on stderr: a live bar on a terminal, a line every 30 s elsewhere, or JSON events."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

#: A flat mapping; the keys that mean something here: done, total, unit, rate, eta, note.
Event = Mapping[str, Any]
Listener = Callable[[Event], None]

LINE_EVERY = 30.0  # seconds between lines where there is no terminal


@contextmanager
def shown(title: str, *, as_json: bool = False, quiet: bool = False) -> Iterator[Listener]:
    """Yield a listener that shows the events of one long piece of work under ``title``."""
    if quiet:
        yield lambda event: None
    elif as_json:
        yield lambda event: print(json.dumps(dict(event)), file=sys.stderr, flush=True)
    elif sys.stderr.isatty():
        with _bar(title) as listener:
            yield listener
    else:
        yield _lines(title)


def describe(event: Event) -> str:
    """One line: done/total unit, rate, ETA, note."""
    parts = []
    if "done" in event:
        total = f"/{event['total']:,}" if event.get("total") else ""
        parts.append(f"{event['done']:,}{total} {event.get('unit', '')}".strip())
    if event.get("rate"):
        parts.append(f"{event['rate']:.1f}/s")
    if event.get("eta") is not None:
        parts.append(f"ETA {clock(event['eta'])}")
    if event.get("note"):
        parts.append(str(event["note"]))
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _bar(title: str) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None, text="")

        def listen(event: Event) -> None:
            if "done" not in event:
                progress.console.print(describe(event), markup=False, highlight=False)
                return
            known = {key: event[key] for key in ("total",) if event.get(key)}
            progress.update(task, completed=event["done"], text=describe(event), **known)

        yield listen


def _lines(title: str) -> Listener:
    last, told = -LINE_EVERY, False

    def listen(event: Event) -> None:
        nonlocal last, told
        finished = bool(event.get("total")) and event.get("done") == event.get("total")
        if finished and told and not event.get("note"):  # that it is done was said
            return
        told = finished
        if "done" not in event:  # said once, such as an address
            print(f"{title}: {describe(event)}", file=sys.stderr, flush=True)
        elif finished or time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            print(f"{title}: {describe(event)}", file=sys.stderr, flush=True)

    return listen
