"""The command line: parse, call one function, print; a foreseen failure is one message."""

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from precap.commands import caption, cluster, data, demo, evaluate, extract, store, train
from precap.errors import PrecapError

INTERRUPTED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE
#: What typer raises for wrong arguments; it has no public name for it.
UsageError: Any = typer.BadParameter.__base__


class Commands(TyperGroup):
    """The commands; an interruption and a pipe that nobody reads end here, not in typer."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse, which prints where help is asked for."""
        with _leaving():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with _leaving():
            return super().invoke(ctx)


app = typer.Typer(
    name="precap",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Precompute visual features once, then train captioning heads on the cached tensors.",
    epilog="Exit codes: 0 done, 1 unexpected, 2 usage, 3 done but some images have no features, "
    "4 damaged or mismatched data, 5 locked, 6 out of a resource, 75 stopped by a signal with "
    "work left, 130 interrupted.",
)
app.add_typer(data.app, name="data")
app.command("extract", epilog=extract.EXAMPLE)(extract.extract)
app.add_typer(cluster.app, name="cluster")
app.add_typer(store.app, name="store")
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("caption", epilog=caption.EXAMPLE)(caption.caption)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)


def main() -> None:
    """Run the app; turn foreseen failures into one message on stderr and a documented exit code."""
    try:
        code = app(standalone_mode=False)
    except PrecapError as error:
        if os.environ.get("PRECAP_DEBUG"):
            raise
        _say(str(error), error.exit_code)
        raise SystemExit(error.exit_code) from None
    except UsageError as error:
        if _as_json():
            _say(error.format_message(), error.exit_code)
        else:
            error.show()
        raise SystemExit(error.exit_code) from None
    raise SystemExit(code or 0)  # a command that ends by itself gives None


@contextmanager
def _leaving() -> Iterator[None]:
    """Leave when interrupted, and quietly when nobody reads stdout or stderr any more."""
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted; repeat the command to go on where it stopped.", INTERRUPTED)
        _hush()
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError as error:
        if _hush():
            raise SystemExit(UNREAD) from None
        raise RuntimeError("A pipe to another program or process broke.") from error


def _hush() -> bool:
    """Whether nobody reads stdout or stderr any more; what is still buffered then goes nowhere."""
    poll = select.poll()
    for file in (1, 2):
        poll.register(file, 0)
    unread = [file for file, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]
    for file in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file)
        os.close(nowhere)
    return bool(unread)


def _as_json() -> bool:
    return "--json" in sys.argv[1:]


def _say(message: str, code: int) -> None:
    """One message on stderr; one JSON object where the command was asked for JSON."""
    told = json.dumps({"error": message, "exit_code": code}) if _as_json() else f"precap: {message}"
    with suppress(BrokenPipeError):  # the other end of the pipe was interrupted, too
        typer.echo(told, err=True)


if __name__ == "__main__":
    main()
