"""From images to a complete store: plan, compute what the ledger lacks, commit, count."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from precap.errors import ConfigError
from precap.extract import devices, paths
from precap.extract.catalogue import field_bytes
from precap.extract.contract import Extractor, Setting
from precap.extract.estimate import Estimate, arrangement, estimate, todo
from precap.extract.executors import local
from precap.extract.executors.local import Pace
from precap.extract.flow import Shard
from precap.extract.jobs import Job, Order, forwards, leave, run_shard, work
from precap.extract.progress import Listener, Progress
from precap.extract.provenance import provenance
from precap.extract.reading import once_more, reader
from precap.extract.recipe import Recipe, build, shared, store_name
from precap.extract.report import Report, report
from precap.signals import stoppable
from precap.store import identity, plan, writer
from precap.store.identity import Identity
from precap.types import ImageRef

__all__ = [
    "Estimate",
    "Job",
    "Pace",
    "Recipe",
    "Report",
    "build",
    "dry_run",
    "extract",
    "make_recipe",
    "report",
    "run_shard",
    "shared",
    "store_name",
]

#: Bytes of features that a shard of the default size holds, about.
SHARD_BYTES = 16 * 2**20


def extract(  # noqa: PLR0913 - the command line's options, by name
    dataset_images: Sequence[ImageRef],
    out: Path,
    extractor: str,
    *,
    weights: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 2,
    shard_size: int | None = None,
    format: str = "hdf5",
    compression: str = "none",
    dtype: str = "float16",
    compute: str = "fp32",
    views: int = 1,
    parent: Path | None = None,
    part: tuple[int, int] | None = None,
    retry_failed: bool = False,
    settings: Mapping[str, Any] | None = None,
    cluster: str | None = None,
    cluster_options: Mapping[str, Any] | None = None,
    on_event: Listener | None = None,
) -> Report:
    """Make the features of ``dataset_images`` with ``extractor`` in the store at ``out``.

    Repeat the call after any interruption: only shards that are not committed are computed, and
    images whose row in ``parent`` was missing, and is there now.
    shard_size: images per shard; None = about 16 MiB of features. part: (i, n) computes every n-th
    shard. cluster: where else to compute ("local:4", "tcp://host:8786", "slurm"), with options; see
    executors.dask. Raises ConfigError, StoreError (``out`` was made by another configuration),
    Interrupted, ResourceError.
    """
    from precap.allocator import retain

    retain()
    devices.check(device)
    recipe = make_recipe(
        extractor,
        settings,
        weights=weights,
        device="cpu" if cluster else device,  # here only the spec is needed
        compute=compute,
        storage=dtype,
        views=views,
        parent=parent,
    )
    made = recipe.build(strict=True)
    writer.create(
        out,
        made.spec,
        provenance=provenance(recipe),
        format=format,
        compression=compression,
    )
    size = shard_size or default_shard_size(made, batch_size)
    refs = {ref.id: ref for ref in dataset_images}
    if len(refs) != len(dataset_images):
        raise ConfigError(f"{len(dataset_images) - len(refs)} image ids appear more than once.")
    for ids, whole in arrangement(out, made, refs, size):
        plan.extend(out, ids, shard_size=whole)
    again = once_more(made, recipe.setting, refs, retry_failed=retry_failed)
    plan.extend(out, [], shard_size=size, again=again)
    pace = Pace(batch_size, workers, forwards(recipe.setting.device))
    if cluster:
        there = _elsewhere(recipe, device)
        run = partial(_on_cluster, there, pace, cluster, cluster_options or {})
    else:
        run = partial(_here, made, recipe, pace)
    return _counted(out, part, refs, on_event or (lambda event: None), run)


def dry_run(  # noqa: PLR0913 - as extract
    dataset_images: Sequence[ImageRef],
    out: Path,
    recipe: Recipe,
    *,
    batch_size: int = 32,
    workers: int = 2,
    shard_size: int | None = None,
    format: str = "hdf5",
    compression: str = "none",
    part: tuple[int, int] | None = None,
    retry_failed: bool = False,
) -> Estimate:
    """What ``extract`` would do for the store at ``out``, measured on a few images.

    Raises StoreError when ``out`` was made by another configuration, as ``extract`` does.
    """
    made = recipe.build(strict=True)
    if (out / "store.json").exists():
        identity.check_same(out, identity.load(out), Identity(made.spec, format, compression))
    size = shard_size or default_shard_size(made, batch_size)
    refs = {ref.id: ref for ref in dataset_images}
    again = once_more(made, recipe.setting, refs, retry_failed=retry_failed)
    shards = todo(out, made, refs, size, part, again)
    return estimate(refs, out, made, recipe.setting, shards, Pace(batch_size, workers))


def make_recipe(
    extractor: str, settings: Mapping[str, Any] | None = None, **setting: Any
) -> Recipe:
    """A recipe with the device chosen and files named by their whole paths."""
    from precap.extract import weights

    chosen = Setting(**setting)
    weights.check(chosen.weights)
    whole = replace(chosen, weights=_whole(chosen.weights), device=devices.here(chosen.device))
    return Recipe(extractor, settings or {}, whole)


def default_shard_size(extractor: Extractor, batch_size: int) -> int:
    """Images per shard of about SHARD_BYTES, at least two batches, at most 4096."""
    spec = extractor.spec
    size = sum(field_bytes(field) for field in spec.fields) * spec.views
    return max(2 * batch_size, min(4096, SHARD_BYTES // max(1, size)))


#: Computes what a store lacks, reporting to the progress; the callable raises to stop it.
Run = Callable[[writer.Writer, Mapping[str, ImageRef], Progress, Callable[[], None]], None]


def _counted(
    out: Path,
    part: tuple[int, int] | None,
    refs: Mapping[str, ImageRef],
    on_event: Listener,
    run: Run,
) -> Report:
    begun = time.monotonic()
    with stoppable("All committed shards are") as check, writer.Writer(out, part=part) as store:
        progress = Progress(sum(len(store.ids(shard)) for shard in store.remaining()), on_event)
        run(store, refs, progress, check)
    return report(out, computed=progress.committed, seconds=time.monotonic() - begun)


def _here(
    extractor: Extractor,
    recipe: Recipe,
    pace: Pace,
    store: writer.Writer,
    refs: Mapping[str, ImageRef],
    progress: Progress,
    check: Callable[[], None],
) -> None:
    def on_batch(shard: Shard) -> None:
        check()
        progress.show(shard)

    read = reader(extractor, recipe.setting)
    records = local.run(store, extractor, read, refs, pace, check=check, on_batch=on_batch)
    for record in records:
        progress.commit(record)


def _on_cluster(
    recipe: Recipe,
    pace: Pace,
    where: str,
    options: Mapping[str, Any],
    store: writer.Writer,
    refs: Mapping[str, ImageRef],
    progress: Progress,
    check: Callable[[], None],
) -> None:
    from precap.extract.executors import dask

    shards = [n for n in store.remaining() if all(image in refs for image in store.ids(n))]
    if not shards:
        return
    path, run = store.path.resolve(), os.urandom(4).hex()
    images = path / f".images-{run}.partial"
    order = Order(run, path, images, recipe, pace)
    task = dask.Work(run, partial(work, order), partial(leave, run))
    listed = ((shard, [refs[image] for image in store.ids(shard)]) for shard in shards)
    with (
        paths.written(images, listed, max(shards) + 1),
        dask.connected(where, options, task) as client,
    ):
        progress.note(f"dashboard {client.dashboard_link}")
        for shard, record in dask.run(client, task, shards, check):
            if record is None:
                progress.forget(len(store.ids(shard)))
            else:
                progress.commit(record)


def _elsewhere(recipe: Recipe, device: str) -> Recipe:
    """The recipe for processes of other machines and folders, which choose their own device."""
    parent = recipe.setting.parent
    setting = replace(recipe.setting, device=device, parent=parent and parent.resolve())
    return replace(recipe, setting=setting)


def _whole(weights: str) -> str:
    """A weights file by its whole path: the recipe is read again in other folders."""
    named = weights == "auto" or weights.startswith("random:")
    return weights if named else str(Path(weights).expanduser().resolve())
