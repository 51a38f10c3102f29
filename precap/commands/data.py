"""``precap data``: captions and pictures in any known layout to the one normal form."""

import json
from pathlib import Path
from typing import Annotated

import typer

from precap.commands import labels

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Prepare a captioned picture set for extraction and training.",
    epilog="Example: precap data prepare dataset_flickr8k.json --images photos --out data",
)

app.add_typer(labels.app, name="labels")

EXAMPLE = "Example: precap data prepare captions.csv --images photos/ --out data"


@app.command("prepare", epilog=EXAMPLE)
def prepare(
    source: Annotated[Path, typer.Argument(help="annotation file, or a folder of pictures")],
    images: Annotated[Path | None, typer.Option(help="folder that image paths start from")] = None,
    out: Annotated[Path, typer.Option(help="where the normal form goes")] = Path("data"),
    format: Annotated[
        str,
        typer.Option(
            help="karpathy, coco, flickr, nocaps, clipcap, opg, image_info, list, table, folder"
        ),
    ] = "auto",
    splits: Annotated[
        Path | None,
        typer.Option(help="split file or folder of split lists, where the format has them"),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="CSV or JSONL with captions for a plain folder of pictures")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="name of the dataset; default: the source's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Read SOURCE, check every image and caption, and write dataset.json and images.jsonl."""
    from precap import pipeline

    report = pipeline.prepare_data(
        source, out, format=format, images=images, splits=splits, captions=captions, name=name
    )
    typer.echo(json.dumps(report.as_json(), indent=2) if as_json else str(report))
