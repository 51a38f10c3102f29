"""``precap extract``: pictures to feature stores; also its status, read from the ledger alone."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from precap import config
from precap.commands.cluster import array_part
from precap.errors import DONE_WITH_LOSSES, ConfigError

EXAMPLE = (
    "Example: precap extract clip:ViT-L-14,grid:resnet50 --data data --out features   "
    "(a second example: precap extract status features/clip-ViT-L-14)"
)


def extract(
    names: Annotated[
        str,
        typer.Argument(help="extractors, e.g. clip,grid:resnet50 or mylab.edges:Edges; or: status"),
    ] = "",
    store: Annotated[
        Path | None, typer.Argument(help="with status: the store to look at", show_default=False)
    ] = None,
    data: Annotated[Path, typer.Option(help="a prepared dataset")] = Path("data"),
    out: Annotated[Path, typer.Option(help="folder of stores; one store per extractor")] = Path(
        "features"
    ),
    weights: Annotated[
        str,
        typer.Option(help="auto (cache, then hub), a file, or random:SEED for untrained weights"),
    ] = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="extractor option, e.g. --set size=288; for one of several: clip.size=288, "
            "clip:RN50.size=288",
        ),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="region's: torchvision, detectron2 or grid; as --set backend")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="a file of boxes to describe; as --set boxes")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="images per forward")] = 32,
    workers: Annotated[int, typer.Option(min=1, help="decoding threads")] = 2,
    compute: Annotated[str, typer.Option(help="fp32, bf16 or fp16 arithmetic")] = "fp32",
    dtype: Annotated[str, typer.Option(help="float32, float16 or int8 on disk")] = "float16",
    format: Annotated[str, typer.Option(help="hdf5 or zarr shards")] = "hdf5",
    compression: Annotated[str, typer.Option(help="none (fastest to read), zstd, blosc")] = "none",
    shard_size: Annotated[
        int | None,
        typer.Option(min=1, help="images per shard, the unit of a resume; default: about 16 MiB"),
    ] = None,
    views: Annotated[int, typer.Option(min=1, help="augmented versions kept per image")] = 1,
    split: Annotated[str | None, typer.Option(help="only this split")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="only the first so many images")] = None,
    parent: Annotated[
        Path | None, typer.Option(help="the store that a derived extractor (geometry) reads")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="i/n: this job's share of the shards, e.g. 3/16; in a Slurm job array its own"
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="local[:N], tcp://host:8786 (a Dask scheduler), slurm, pbs, lsf or sge"),
    ] = None,
    cluster_file: Annotated[
        Path | None, typer.Option("--cluster-options", help="YAML: queue, walltime, memory, jobs")
    ] = None,
    cluster_settings: Annotated[
        list[str] | None,
        typer.Option("--cluster-set", help="one such option, e.g. --cluster-set jobs=16"),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="show every extractor: fields, size, paper, weights")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="images, bytes, shards, expected time; write nothing")
    ] = False,
    retry_failed: Annotated[bool, typer.Option(help="try images that failed before again")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="events on stderr, result as JSON")
    ] = False,
) -> None:
    """Compute what the stores lack. Repeat the command after any interruption: it goes on."""
    from precap import pipeline
    from precap.commands import progress

    if listing:
        _show(pipeline.extractors(), as_json)
        return
    if not names:
        raise ConfigError("Name an extractor: precap extract clip. All of them: extract --list")
    if names == "status":
        if store is None:
            raise ConfigError("Name the store: precap extract status features/clip")
        _show([pipeline.status(store)], as_json)
        return
    if store is not None:
        raise ConfigError(
            f"Unexpected argument {store}. Extractors are joined by commas: clip,grid"
        )
    named = {"backend": backend, "boxes": boxes and str(boxes)}
    chosen = {
        **config.parse_settings(settings or []),
        **{key: value for key, value in named.items() if value is not None},
    }
    from_array = array_part(os.environ) if part is None and cluster is None else None
    part = part or from_array
    if dry_run:
        estimates = pipeline.estimate_features(
            names,
            data=data,
            out=out,
            split=split,
            images=images,
            settings=chosen,
            part=part,
            run={
                "batch_size": batch_size,
                "workers": workers,
                "shard_size": shard_size,
                "format": format,
                "compression": compression,
                "retry_failed": retry_failed,
            },
            weights=weights,
            device=device,
            compute=compute,
            storage=dtype,
            views=views,
            parent=parent,
        )
        _show(estimates, as_json)
        return
    with progress.shown("extract", as_json=as_json) as listen:
        if from_array:
            listen({"note": f"part {part} of the job array"})
        reports = pipeline.extract_features(
            names.split(","),
            data=data,
            out=out,
            weights=weights,
            settings=chosen,
            device=device,
            batch_size=batch_size,
            workers=workers,
            compute=compute,
            dtype=dtype,
            format=format,
            compression=compression,
            shard_size=shard_size,
            views=views,
            split=split,
            images=images,
            parent=parent,
            part=part,
            retry_failed=retry_failed,
            cluster=cluster,
            cluster_options=_cluster_options(cluster_file, cluster_settings or []),
            on_event=listen,
        )
    _show(reports, as_json)
    if any(report.lost for report in reports):
        raise typer.Exit(DONE_WITH_LOSSES)


def _cluster_options(file: Path | None, pairs: Sequence[str]) -> dict[str, Any]:
    return {**(config.read_yaml(file) if file else {}), **config.parse_settings(pairs)}


def _show(results: Sequence[Any], as_json: bool) -> None:
    for result in results:
        typer.echo(json.dumps(result.as_json()) if as_json else str(result))
