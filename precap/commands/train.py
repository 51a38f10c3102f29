"""``precap train``: a head on cached features, cross-entropy and then self-critical."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

EXAMPLE = (
    "Example: precap train --features vinvl,clip --head hin --data data --out runs/hin   "
    "(published size: --recipe hin; two stores of one role: --features region=vinvl,grid=clip)"
)


def train(
    features: Annotated[
        str,
        typer.Option(
            help="stores by name or path, joined by commas; role=store where two stores offer a "
            "role, role=store#field where two fields of one do"
        ),
    ],
    head: Annotated[
        str | None, typer.Option(help="captioning head; default: one that fits the features")
    ] = None,
    data: Annotated[Path, typer.Option(help="a prepared dataset")] = Path("data"),
    stores: Annotated[Path, typer.Option(help="folder in which the stores are looked up")] = Path(
        "features"
    ),
    out: Annotated[Path | None, typer.Option(help="the run's folder; default: runs/HEAD")] = None,
    recipe: Annotated[str | None, typer.Option(help="a built-in recipe or a YAML file")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="any option, e.g. --set xe.optim.lr=3e-4 --set head.dim=256"),
    ] = None,
    xe_epochs: Annotated[float | None, typer.Option(help="epochs of cross-entropy")] = None,
    scst_epochs: Annotated[
        float | None, typer.Option(help="epochs of self-critical training after it")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="images per step, each with its captions")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16 autocast")] = None,
    cache: Annotated[
        str | None, typer.Option(help="features from: auto, mmap, ram, device")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="seed of everything random")] = None,
    resume: Annotated[str | None, typer.Option(help="none, last or best")] = None,
    init: Annotated[Path | None, typer.Option(help="a published checkpoint to start from")] = None,
    init_format: Annotated[
        str | None, typer.Option(help="whose checkpoint it is: hin, m2, clipcap ...")
    ] = None,
    init_run: Annotated[Path | None, typer.Option(help="another run to start from")] = None,
    overfit: Annotated[
        int | None, typer.Option(help="sanity run: learn so many images by heart")
    ] = None,
    val_images: Annotated[
        int | None, typer.Option(help="validate on so many images; 0 = all")
    ] = None,
    validate_epochs: Annotated[
        float | None, typer.Option(help="epochs between validations")
    ] = None,
    validate_steps: Annotated[
        int | None, typer.Option(help="steps between validations, instead")
    ] = None,
    shuffle_features: Annotated[
        bool, typer.Option(help="control: give every image another image's features")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="events on stderr, result as JSON")
    ] = False,
) -> None:
    """Train on cached features alone. Repeat the command after any interruption: it goes on."""
    from precap import config, pipeline
    from precap.commands import progress

    given: dict[str, Any] = {
        "xe.epochs": xe_epochs,
        "scst.epochs": scst_epochs,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
        "cache": cache,
        "seed": seed,
        "resume": resume,
        "init": init,
        "init_format": init_format,
        "init_run": init_run,
        "overfit": overfit,
        "val_images": val_images,
        "validate_epochs": validate_epochs,
        "validate_steps": validate_steps,
        "shuffle_features": shuffle_features or None,
    }
    options = {key: value for key, value in given.items() if value is not None}
    options |= config.parse_settings(settings or [])
    with progress.shown("train", as_json=as_json) as listen:
        result = pipeline.train_head(
            features,
            head=head,
            data=data,
            stores=stores,
            out=out,
            recipe=recipe,
            options=options,
            on_event=listen,
        )
    if result.rank == 0:
        typer.echo(json.dumps(result.as_json()) if as_json else str(result))
