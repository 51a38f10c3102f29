"""``precap data labels``: the caption files of self-critical.pytorch, M2 and HIN, both ways."""

import json
from pathlib import Path
from typing import Annotated

import typer

from precap.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Label files, vocabularies and document frequencies of other systems.",
    epilog="Example: precap data labels export --data data --out labels",
)

ALLOW = "the file is a pickle; it is read as data, and refused if it wants to run anything"


@app.command("export", epilog="Example: precap data labels export --data data --out labels")
def export(
    data: Annotated[Path, typer.Option(help="a prepared dataset, or a Karpathy JSON")] = Path(
        "data"
    ),
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("labels"),
    threshold: Annotated[int, typer.Option(help="keep words seen more often than this")] = 5,
    longest: Annotated[int, typer.Option(min=1, help="words kept of a caption")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Write cocotalk.json, its label HDF5, n-gram pickles, and frequencies.json."""
    from precap import pipeline

    done = pipeline.export_labels(data, out, threshold=threshold, longest=longest)
    typer.echo(json.dumps(done.as_json(), indent=2) if as_json else str(done))


@app.command(
    "import",
    epilog="Example: precap data labels import cocotalk.json cocotalk_label.h5 --images coco",
)
def import_(
    words: Annotated[Path, typer.Argument(help="prepro_labels' JSON")],
    labels: Annotated[Path, typer.Argument(help="its label HDF5")],
    images: Annotated[Path, typer.Option(help="folder that image paths start from")],
    out: Annotated[Path, typer.Option(help="where the normal form goes")] = Path("data"),
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Make a dataset folder of labels; train on it with text.vocabulary=cocotalk."""
    from precap import pipeline

    report = pipeline.import_labels(words, labels, images, out)
    typer.echo(json.dumps(report.as_json(), indent=2) if as_json else str(report))


@app.command(
    "vocabulary",
    epilog="Example: precap data labels vocabulary vocab.pkl --out vocab.json --allow-pickle",
)
def vocabulary(
    source: Annotated[Path, typer.Argument(help="vocab.pkl of HIN or M2")],
    out: Annotated[Path, typer.Option(help="the JSON to write")] = Path("vocab.json"),
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help=ALLOW)] = False,
) -> None:
    """Convert a pickled vocabulary for text.vocabulary=hin, text.files=vocab.json."""
    _convert("vocabulary", source, out, allow_pickle)


@app.command(
    "ngrams",
    epilog="Example: precap data labels ngrams coco-train-words.p --out f.json --allow-pickle",
)
def ngrams(
    source: Annotated[Path, typer.Argument(help="document frequencies, or M2's cider cache")],
    out: Annotated[Path, typer.Option(help="the JSON to write")] = Path("frequencies.json"),
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help=ALLOW)] = False,
) -> None:
    """Convert pickled document frequencies for scst.frequencies."""
    _convert("ngrams", source, out, allow_pickle)


def _convert(kind: str, source: Path, out: Path, allowed: bool) -> None:
    from precap import pipeline

    if not allowed:
        raise ConfigError(
            f"{source} is read as a pickle. If you trust where it comes from, repeat with "
            f"--allow-pickle: nothing in it is run, only plain values are taken."
        )
    typer.echo(pipeline.convert_pickle(kind, source, out))
