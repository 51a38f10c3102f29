"""``precap store``: look into feature stores, check and mend them, move data in and out."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from precap.errors import DONE_WITH_LOSSES, ConfigError, StoreError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Feature stores: list, inspect, verify, repair, import, export, merge, remove.",
    epilog="Example: precap store info features/clip",
)


def _store(path: Path) -> Path:
    from precap.store import identity

    return identity.existing(path)


def _stores(paths: list[Path]) -> list[Path]:
    return [_store(path) for path in paths]


Folder = Annotated[Path, typer.Argument(help="a store, e.g. features/clip", callback=_store)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def _print(value: Any, as_json: bool) -> None:
    typer.echo(json.dumps(value.as_json(), indent=2) if as_json else str(value))


@app.command("ls", epilog="Example: precap store ls features")
def ls(
    folder: Annotated[Path, typer.Argument(help="folder of stores")] = Path("features"),
    as_json: AsJson = False,
) -> None:
    """List the stores in FOLDER: extractor, images, size, completeness."""
    from precap.store import manifest

    _print(manifest.ls(folder), as_json)


@app.command("info", epilog="Example: precap store info features/clip --json")
def info(store: Folder, as_json: AsJson = False) -> None:
    """Provenance, sizes, counts per status and reason, box counts, value statistics."""
    from precap.store import manifest

    _print(manifest.info(store), as_json)


@app.command("verify", epilog="Example: precap store verify features/clip --full")
def verify(
    store: Folder,
    full: Annotated[
        bool,
        typer.Option("--full/--quick", help="every byte by digest, or sizes and presence only"),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check a store; exit code 4 when anything is damaged."""
    from precap.store import verify as checks

    report = checks.verify(store, full=full)
    _print(report, as_json)
    if not report.sound:
        raise StoreError(f"{store} is damaged. Run: precap store repair {store}")


@app.command("repair", epilog="Example: precap store repair features/clip")
def repair(store: Folder, as_json: AsJson = False) -> None:
    """Queue exactly the damaged shards again; the next extract or import writes them anew.

    Exit code 4 when something is damaged that only a copy can mend."""
    from precap.store import verify as checks

    done = checks.repair(store)
    _print(done, as_json)
    if done.beyond:
        names = ", ".join(sorted({finding.path for finding in done.beyond}))
        raise StoreError(f"{store} is still damaged ({names}). Restore that from a copy.")


@app.command("import", epilog="Example: precap store import trainval.tsv --out features/butd")
def import_(
    source: Annotated[Path, typer.Argument(help="features in a foreign layout: file or folder")],
    out: Annotated[Path, typer.Option(help="the store to make or to complete")],
    format: Annotated[str, typer.Option(help="layout name; auto looks at the content")] = "auto",
    ids: Annotated[
        Path | None, typer.Option(help="prepared dataset whose ids the images get, e.g. data")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float16; default: as the source")
    ] = None,
    container: Annotated[str, typer.Option(help="files of the store: hdf5 or zarr")] = "hdf5",
    compression: Annotated[str, typer.Option(help="none, zstd or blosc")] = "none",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="open pickles (restricted: arrays and values)")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import features made elsewhere; bad rows are recorded. Repeat it after an interruption.

    Exit code 3 when some images have no features."""
    from precap.store.importers import run

    report = run.import_store(
        source,
        out,
        format=format,
        ids=ids,
        allow_pickle=allow_pickle,
        dtype=dtype,
        container=container,
        compression=compression,
    )
    _print(report, as_json)
    if report.ok < report.images:
        raise typer.Exit(DONE_WITH_LOSSES)


@app.command("export", epilog="Example: precap store export features/vinvl vinvl.hdf5 --format hin")
def export(
    store: Folder,
    out: Annotated[Path, typer.Argument(help="file or folder to write")],
    format: Annotated[str, typer.Option(help="hin, hin_clip, m2, grit, selfcritical, zarr, hdf5")],
    as_json: AsJson = False,
) -> None:
    """Write a store in another system's layout."""
    from precap.store.exporters import run

    _print(run.export(store, out, format=format), as_json)


@app.command("merge", epilog="Example: precap store merge a/clip b/clip --out features/clip")
def merge(
    stores: Annotated[
        list[Path], typer.Argument(help="stores of one fingerprint", callback=_stores)
    ],
    out: Annotated[Path, typer.Option(help="the merged store")],
    join_sources: Annotated[
        bool, typer.Option("--join-sources", help="join imports of different files, too")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Join stores made with one configuration into one.

    Exit code 3 when some images have no features, or are not processed yet."""
    from precap.store import merge as merging

    merged = merging.merge(stores, out, join_sources=join_sources)
    _print(merged, as_json)
    if not merged.complete:
        raise typer.Exit(DONE_WITH_LOSSES)


@app.command("rm", epilog="Example: precap store rm features/old --yes")
def rm(
    store: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="even if it is damaged or holds other files, too")
    ] = False,
) -> None:
    """Remove a store (asks first; refuses a folder that is not a store)."""
    from precap.store import removal

    if not yes and not _agreed(f"Remove {store} and its features?"):
        raise typer.Exit(2)
    removal.remove(store, force=force)
    typer.echo(f"removed {store}")


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise ConfigError("Nobody answered. Say --yes where nobody can be asked.") from None
