"""``precap caption``: say what is in pictures, with a run's own extractors."""

import json
from pathlib import Path
from typing import Annotated

import typer

from precap.commands import decoding
from precap.errors import DONE_WITH_LOSSES

EXAMPLE = "Example: precap caption runs/hin photo.jpg holiday/ --heatmap heatmaps"


def caption(
    run: Annotated[
        Path, typer.Argument(help="a run folder; several joined by commas are an ensemble")
    ],
    images: Annotated[list[Path], typer.Argument(help="pictures, or folders of pictures")],
    beam: Annotated[
        int | None, typer.Option(min=1, help="beam width; default: the run's recipe")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=decoding.HELP)] = None,
    seed: Annotated[int, typer.Option(help="seed of sampling (decode.sample=true)")] = 0,
    which: Annotated[str, typer.Option(help="best or last checkpoint")] = "best",
    heatmap: Annotated[
        Path | None, typer.Option(help="folder for PNGs of where each word looked")
    ] = None,
    jsonl: Annotated[bool, typer.Option(help="one JSON object per picture on stdout")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
) -> None:
    """Print a caption per picture, extracting on the fly what the run was trained on."""
    from precap import pipeline

    runs = [Path(part) for part in str(run).split(",")]
    answers = pipeline.caption_images(
        runs if len(runs) > 1 else run,
        images,
        beam=beam,
        decode=decoding.chosen(settings or []),
        seed=seed,
        which=which,
        heatmap=heatmap,
        device=device,
    )
    failed = 0
    for answer in answers:
        failed += answer.error is not None
        if jsonl:
            typer.echo(json.dumps(answer.as_json(), ensure_ascii=False))
        elif answer.error is not None:
            typer.echo(f"{answer.path}: no caption, {answer.error}", err=True)
        else:
            typer.echo(f"{answer.path}: {answer.caption}")
    if failed:
        raise typer.Exit(DONE_WITH_LOSSES)
