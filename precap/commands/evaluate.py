"""``precap evaluate``: captions for a split, scores with intervals, and a report to look at."""

import json
from pathlib import Path
from typing import Annotated

import typer

from precap.commands import decoding

EXAMPLE = (
    "Example: precap evaluate runs/hin --split test   (two runs: precap evaluate runs/a runs/b "
    "--compare; captions from elsewhere: precap evaluate --predictions p.json --references r.json)"
)


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="run folders")] = None,
    split: Annotated[str, typer.Option(help="split to caption and score")] = "test",
    data: Annotated[
        Path | None, typer.Option(help="another dataset; default: the run's own")
    ] = None,
    stores: Annotated[Path | None, typer.Option(help="folder of that dataset's stores")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="only the first so many images")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="bleu,meteor,rouge,cider,spice,clipscore; default: what is there"),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="score these captions; no run needed")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="reference captions for --predictions")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="paired bootstrap between runs, wins per image")
    ] = False,
    ensemble: Annotated[bool, typer.Option(help="decode all runs together as one model")] = False,
    beam: Annotated[
        int | None, typer.Option(min=1, help="beam width; default: the run's recipe")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=decoding.HELP)] = None,
    seed: Annotated[int, typer.Option(help="seed of sampling (decode.sample=true)")] = 0,
    which: Annotated[str, typer.Option(help="best or last checkpoint")] = "best",
    report: Annotated[bool, typer.Option(help="write the HTML report")] = True,
    out: Annotated[
        Path | None, typer.Option(help="folder for the results; default: the run's")
    ] = None,
    coco: Annotated[
        Path | None, typer.Option(help="also write COCO server JSON to this file")
    ] = None,
    clip: Annotated[Path | None, typer.Option(help="CLIP store that clipscore reads")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
) -> None:
    """Decode, score, compare, and write predictions, scores and an HTML report."""
    from precap import pipeline
    from precap.commands import progress
    from precap.errors import ConfigError

    chosen = metrics.split(",") if metrics else None
    if (predictions is None) != (references is None):
        raise ConfigError("Give both --predictions FILE and --references FILE.")
    with progress.shown("evaluate", as_json=as_json) as listen:
        if predictions is not None and references is not None:
            result = pipeline.score_captions(predictions, references, metrics=chosen, clip=clip)
        elif not runs:
            raise ConfigError("Name a run folder: precap evaluate runs/x --split test")
        else:
            result = pipeline.evaluate_runs(
                runs,
                split=split,
                data=data,
                stores=stores,
                images=images,
                metrics=chosen,
                compare=compare,
                ensemble=ensemble,
                beam=beam,
                decode=decoding.chosen(settings or []),
                seed=seed,
                which=which,
                report=report,
                out=out,
                coco=coco,
                device=device,
                clip=clip,
                on_event=listen,
            )
    typer.echo(json.dumps(result.as_json(), indent=2) if as_json else str(result))
