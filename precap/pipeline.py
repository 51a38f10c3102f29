"""The public functions, one per arrow: the only place where the four stages meet."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precap import config
from precap.errors import ConfigError
from precap.plugins import guess

if TYPE_CHECKING:
    from precap.captioning import Answer
    from precap.extract.catalogue import Entry
    from precap.extract.runner import Estimate
    from precap.extract.runner import Report as ExtractReport
    from precap.scoring import Evaluation
    from precap.store.datasets.dataset import Dataset
    from precap.store.datasets.problems import Report as PrepareReport
    from precap.store.reader import Store
    from precap.train.labels import Export as LabelExport
    from precap.train.result import RunResult

#: Progress of long work: a flat mapping with done, total, unit, rate, eta, note.
Listener = Callable[[Mapping[str, Any]], None]
#: What a run remembers of where its inputs lay; the features' identity is in run.json.
SOURCES = "sources.json"


def prepare_data(
    source: Path | str,
    out: Path | str = "data",
    *,
    format: str = "auto",
    images: Path | str | None = None,
    splits: Path | str | None = None,
    captions: Path | str | None = None,
    name: str | None = None,
) -> "PrepareReport":
    """Read captions in any known layout and write the normal form to the folder ``out``.

    source: an annotation file, or a folder of pictures. images: the folder that paths start from.
    Returns counts and every problem found, with examples. Raises DataError for a file that cannot
    be used, ConfigError for an unknown format.
    """
    from precap.store.datasets import prepare as preparing

    return preparing.prepare(
        Path(source),
        Path(out),
        format=format,
        images=_path(images),
        splits=_path(splits),
        captions=_path(captions),
        name=name,
    )


def export_labels(
    data: Path | str = "data",
    out: Path | str = "labels",
    *,
    threshold: int = 5,
    longest: int = 16,
) -> "LabelExport":
    """Write the label files of self-critical.pytorch for a dataset folder or a Karpathy JSON.

    threshold: words seen more often than this are kept. longest: words kept of a caption.
    """
    from precap.train import labels

    is_file = Path(data).is_file()
    found = labels.read_karpathy(Path(data)) if is_file else labels.karpathy(dataset(data))
    return labels.export(found, Path(out), threshold, longest)


def import_labels(
    json_path: Path | str, h5_path: Path | str, images: Path | str, out: Path | str = "data"
) -> "PrepareReport":
    """A dataset folder from ``cocotalk.json`` and its label HDF5; ``images``: the image root.

    Captions are what the labels hold: lower case, cut, rare words UNK.
    """
    from precap.train import labels

    return labels.to_dataset(Path(json_path), Path(h5_path), Path(images), Path(out))


def convert_pickle(kind: str, source: Path | str, out: Path | str) -> str:
    """Others' pickle as JSON, read without running it; says what it held.

    kind: "vocabulary" (``vocab.pkl`` of HIN and M2, for text.vocabulary=hin) or "ngrams" (document
    frequencies of prepro_ngrams, M2 or HIN, for scst.frequencies).
    """
    from precap.train import documents, vocab

    convert = {"ngrams": documents.convert, "vocabulary": vocab.convert}[kind]
    return convert(Path(source), Path(out))


def extract_features(
    names: str | Sequence[str],
    *,
    data: Path | str = "data",
    out: Path | str = "features",
    split: str | None = None,
    images: int | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    part: str | tuple[int, int] | None = None,
    on_event: Listener | None = None,
    **options: Any,
) -> "list[ExtractReport]":
    """Compute what the stores ``out``/NAME lack for the images of the dataset ``data``.

    names: extractors such as "clip:ViT-L-14", "grid:resnet50", "mylab.edges:Edges". options: as
    ``precap.extract.runner.extract`` takes them (weights, device, batch_size, compute, dtype ...).
    Repeat after any interruption. Returns one report per extractor; raises ConfigError, StoreError.
    """
    from precap.extract import runner

    chosen = _settings_of(names, settings)
    shared = runner.shared(chosen, options)
    refs = dataset(data).images(split)[:images]
    share = _part(part) if isinstance(part, str) else part
    return [
        runner.extract(
            refs,
            Path(out) / runner.store_name(name),
            name,
            settings=values,
            part=share,
            on_event=_named(name, on_event),
            **shared[name],
        )
        for name, values in chosen.items()
    ]


def estimate_features(
    names: str | Sequence[str],
    *,
    data: Path | str = "data",
    out: Path | str = "features",
    split: str | None = None,
    images: int | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    part: str | tuple[int, int] | None = None,
    run: Mapping[str, Any] | None = None,
    **setting: Any,
) -> "list[Estimate]":
    """What ``extract_features`` would do: images, bytes, shards, time. Writes nothing.

    run: batch_size, workers, shard_size, format, compression, retry_failed. setting: weights,
    device, compute, storage, views, parent. Raises what ``extract_features`` raises at once.
    """
    from precap.extract import runner

    chosen = _settings_of(names, settings)
    shared = runner.shared(chosen, setting)
    refs = dataset(data).images(split)[:images]
    share = _part(part) if isinstance(part, str) else part
    return [
        runner.dry_run(
            refs,
            Path(out) / runner.store_name(name),
            runner.make_recipe(name, values, **shared[name]),
            part=share,
            **(run or {}),
        )
        for name, values in chosen.items()
    ]


def extractors() -> "list[Entry]":
    """Every built-in extractor: fields, bytes per image, paper, weights, who reads it."""
    from precap.extract import catalogue

    return catalogue.entries()


def status(store: Path | str) -> "ExtractReport":
    """How far an extraction is, read from the ledger alone: safe while others write."""
    from precap.extract import runner

    return runner.report(Path(store))


def open_store(path: Path | str) -> "Store":
    """Open a feature store: ``.ids``, ``.read(id)``, ``.read_many(ids)``, ``.spec``."""
    from precap.store import reader

    return reader.open_store(Path(path))


def dataset(path: Path | str = "data") -> "Dataset":
    """Open a prepared dataset folder."""
    from precap.store.datasets import dataset as datasets

    return datasets.load(path)


def train_head(
    features: str,
    *,
    head: str | None = None,
    data: Path | str = "data",
    stores: Path | str = "features",
    out: Path | str | None = None,
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
    on_event: Listener | None = None,
) -> "RunResult":
    """Train a head on cached features; repeat the call after any interruption.

    features: "vinvl,clip", or "region=vinvl,grid=clip" where two stores offer one role, and
    "grid=clip#tokens" where two fields of a store do. head: a built-in name or module:Class;
    None picks one that fits. out: the run's folder, default
    runs/HEAD. recipe: a built-in recipe or YAML file; options: flat changes to it, such as
    {"xe.epochs": 20, "head.dim": 256}. Raises ConfigError, StoreError, ResourceError.
    """
    from precap import training

    return training.train(
        features, head, Path(data), Path(stores), out, recipe, options or {}, on_event
    )


def evaluate_runs(
    runs: Path | str | Sequence[Path | str], *, on_event: Listener | None = None, **choice: Any
) -> "Evaluation":
    """Caption a split with one or several runs, score, and write predictions, scores and a report.

    choice: the fields of ``precap.scoring.Choice`` (split, data, stores, images, metrics, compare,
    ensemble, beam, decode, seed, which, report, out, coco, device); decode: {"length_penalty": 1},
    the fields of settings.Decode. Returns scores with bootstrap intervals.
    """
    from precap import scoring

    several = [runs] if isinstance(runs, str | Path) else runs
    return scoring.evaluate(
        [Path(run) for run in several], config.build(scoring.Choice, choice), on_event
    )


def score_captions(
    predictions: Path | str,
    references: Path | str,
    *,
    metrics: Sequence[str] | None = None,
    clip: Path | str | None = None,
) -> "Evaluation":
    """Score captions from anywhere, [{image_id, caption}], against a file of references.

    clip: a CLIP store of the same images, for the metric "clipscore".
    """
    from precap import scoring

    return scoring.score(Path(predictions), Path(references), metrics, _path(clip))


def caption_images(
    run: Path | str | Sequence[Path | str], images: Path | str | Sequence[Path | str], **choice: Any
) -> "list[Answer]":
    """Caption picture files, or folders of them, with a run (or an ensemble of runs).

    choice: beam, decode ({"length_penalty": 1}), seed, which, heatmap (a folder for PNGs), device.
    One Answer per picture, in order; an unreadable picture gives an Answer whose ``error`` says
    why.
    """
    from precap import captioning

    runs = [run] if isinstance(run, str | Path) else run
    given = [images] if isinstance(images, str | Path) else images
    return captioning.caption([Path(r) for r in runs], [Path(i) for i in given], **choice)


def parse_features(features: str, folder: Path) -> "tuple[dict[str, Store], dict[str, str]]":
    """Open the stores that "vinvl,clip" or "region=vinvl,grid=clip#tokens" names.

    Returns the stores by the name the user typed, and role -> store or store#field where a role
    was given.
    """
    opened: dict[str, Store] = {}
    roles: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in features.split(","))):
        role, equals, rest = part.rpartition("=")
        name = rest.partition("#")[0]
        if equals:
            roles[role] = rest
        if name not in opened:
            opened[name] = open_store(find_store(name, folder))
    if not opened:
        raise ConfigError("Name at least one store: --features clip")
    return opened, roles


def find_store(name: str, folder: Path) -> Path:
    """The one store called ``name`` in ``folder``, or starting with ``name-``; or a path to one."""
    from precap.extract.runner import store_name

    for path in (Path(name), folder / name, folder / store_name(name)):
        if (path / "store.json").is_file():
            return path
    known = sorted(p.parent.name for p in folder.glob("*/store.json"))
    found = [other for other in known if other.startswith(f"{name}-")]
    if len(found) == 1:
        return folder / found[0]
    if found:
        raise ConfigError(f"{name!r} could be {', '.join(found)} in {folder}: say which.")
    if not known:
        raise ConfigError(
            f"There is no feature store in {folder}. Make one: precap extract {name} --out {folder}"
        )
    store, _, field = name.rpartition(":")
    meant = f" A field of a store is written role={store}#{field}." if store in known else ""
    raise ConfigError(f"There is no store {name!r} in {folder}.{guess(name, known)}{meant}")


def _settings_of(
    names: str | Sequence[str], settings: Sequence[str] | Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Extractor -> its options, all of them checked.

    "size" is for each; "clip.size" for clip if it is named, else for each of its variants;
    "clip:ViT-L-14.size" for that one. What is said of fewer wins.
    """
    from precap.extract import recipe

    chosen = names.split(",") if isinstance(names, str) else list(names)
    values = settings if isinstance(settings, Mapping) else config.parse_settings(settings)
    kinds = {name: name.partition(":")[0] for name in chosen}
    said: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        whose, _, option = key.rpartition(".")
        named = whose in {*kinds, *kinds.values()}
        said.setdefault(whose if named else "", {})[option if named else key] = value
    found = {}
    for name, kind in kinds.items():
        wide = {} if kind in kinds else said.get(kind, {})
        found[name] = {**said.get("", {}), **wide, **said.get(name, {})}
        recipe.configured(recipe.find(name)[0], name, found[name])
    return found


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    try:
        part = int(index), int(count)
    except ValueError as error:
        raise ConfigError(f"--part {text!r} is not of the form i/n, e.g. 3/16.") from error
    if not 1 <= part[0] <= part[1]:
        raise ConfigError(f"--part {text}: the first number runs from 1 to the second.")
    return part


def _named(name: str, listen: Listener | None) -> Listener | None:
    return listen and (lambda event: listen({**event, "what": name}))


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
