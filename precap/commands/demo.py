"""``precap demo``: the whole pipeline on pictures it draws itself."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: precap demo --out demo"


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything the demo makes")] = Path("demo"),
    only_data: Annotated[
        bool, typer.Option(help="only draw the pictures and write their captions")
    ] = False,
    seed: Annotated[int, typer.Option(help="seed of the scenes")] = 0,
) -> None:
    """Draw captioned scenes, extract two kinds of features, train, score, and write a report."""
    from precap.commands import progress
    from precap.demo import run

    if only_data:
        run.scenes(out, seed=seed)
        return
    with progress.shown("demo") as listen:
        outcome = run.demo(out, seed=seed, on_event=listen)
    typer.echo(outcome)
