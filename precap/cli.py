"""The command line: parse, call one function, print; a foreseen failure is one message."""

import json
import os
import signal
import sys

import typer

from precap.commands import caption, cluster, data, demo, evaluate, extract, store, train
from precap.errors import PrecapError

app = typer.Typer(
    name="precap",
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
        app()
    except PrecapError as error:
        if os.environ.get("PRECAP_DEBUG"):
            raise
        _say(str(error), error.exit_code)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        _say("interrupted; repeat the command to go on where it stopped.", 130)
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(128 + signal.SIGPIPE) from None


def _say(message: str, code: int) -> None:
    """One message on stderr; one JSON object where the command was asked for JSON."""
    if "--json" in sys.argv[1:]:
        typer.echo(json.dumps({"error": message, "exit_code": code}), err=True)
    else:
        typer.echo(f"precap: {message}", err=True)


if __name__ == "__main__":
    main()
