"""From run folders to predictions, scores, comparisons and the report: the last arrow."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precap import atomic
from precap.errors import ConfigError, DataError

if TYPE_CHECKING:
    from precap.evaluate.heatmaps import Attention
    from precap.evaluate.metrics import Scores
    from precap.evaluate.significance import Difference, Interval
    from precap.store.datasets.dataset import Dataset
    from precap.store.reader import Store
    from precap.train.run import Run
    from precap.types import FeatureSpec, Prediction

Listener = Callable[[Mapping[str, Any]], None]
#: Images of a report whose attention is drawn, of all that are scored.
LOOKS = 60
_EXAMPLES = 3


@dataclass(frozen=True)
class Evaluation:
    """What was scored, how well, and where it was written.

    missing: ids of the split without features, which are therefore not scored. groups: run ->
    domain -> the scores of its images alone (nocaps: in, near, out).
    """

    scores: Mapping[str, "Scores"]
    intervals: Mapping[str, Mapping[str, "Interval"]] = field(default_factory=dict)
    differences: Mapping[str, Sequence["Difference"]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    files: Sequence[Path] = ()
    groups: Mapping[str, Mapping[str, "Scores"]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, without the per-image ones: those are in the scores file."""
        return {
            "runs": {name: scores.as_json(per_image=False) for name, scores in self.scores.items()},
            "intervals": {
                name: {metric: [i.low, i.high] for metric, i in found.items()}
                for name, found in self.intervals.items()
            },
            "differences": {
                pair: [d.as_json() for d in found] for pair, found in self.differences.items()
            },
            "groups": {
                name: {group: s.as_json(per_image=False) for group, s in found.items()}
                for name, found in self.groups.items()
            },
            "missing": list(self.missing),
            "files": [str(path) for path in self.files],
        }

    def __str__(self) -> str:
        lines = []
        for name, scores in self.scores.items():
            lines += [f"{name}" if len(self.scores) > 1 else "", str(scores), ""]
            lines += [_group(group, s) for group, s in self.groups.get(name, {}).items()]
        for pair, found in self.differences.items():
            lines += [f"{pair} (second minus first, 95 % paired bootstrap)"]
            lines += [f"  {_compared(d)}" for d in found]
        if self.missing:
            shown = ", ".join(self.missing[:_EXAMPLES])
            lines += [f"not scored, no features: {len(self.missing):,} images, such as {shown}"]
        lines += [f"written: {path}" for path in self.files]
        return "\n".join(lines).strip()


@dataclass(frozen=True)
class Choice:
    """What to score and how; see ``precap evaluate --help``.

    decode: changes to the run's way to decode, {"length_penalty": 1.0}. seed: of sampling.
    """

    split: str = "test"
    data: Path | None = None
    stores: Path | None = None
    images: int | None = None
    metrics: Sequence[str] | None = None
    compare: bool = False
    ensemble: bool = False
    beam: int | None = None
    decode: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    which: str = "best"
    report: bool = True
    out: Path | None = None
    coco: Path | None = None
    device: str = "auto"
    clip: Path | None = None


def evaluate(runs: Sequence[Path], choice: Choice, on_event: Listener | None = None) -> Evaluation:
    """Caption and score ``choice.split`` with every run, or with all as one ensemble."""
    from precap.evaluate import predictions as files
    from precap.train import ensemble as joining
    from precap.train import run as training

    loaded = {name: training.load(path, choice.which, choice.device) for name, path in _named(runs)}
    data = _dataset(runs[0], choice)
    sources = {name: open_sources(run, choice.stores) for name, run in loaded.items()}
    ids, missing = _covered(data, choice, sources)
    decoders = {"ensemble": joining.Panel(tuple(loaded.values()))} if choice.ensemble else loaded
    stores = {"ensemble": _joined(sources)} if choice.ensemble else sources
    out = choice.out or Path(runs[0])
    out.mkdir(parents=True, exist_ok=True)
    pages, written = [], []
    references = {image: data.captions()[image] for image in ids}
    for name, decoder in decoders.items():
        made = _generate(decoder, stores[name], ids, choice, on_event)
        folder = out if choice.out or choice.ensemble else Path(dict(_named(runs))[name])
        target = folder / f"predictions-{_tag(name, choice, decoders)}.jsonl"
        files.write(target, made)
        written.append(target)
        pages.append(_page(name, decoder, stores[name], made, references, choice))
    if choice.coco:
        files.write_coco(choice.coco, pages[0].predictions)
        written.append(choice.coco)
    return _finished(pages, references, data, choice, out, missing, written)


def score(
    predictions: Path,
    references: Path,
    metrics: Sequence[str] | None = None,
    clip: Path | None = None,
) -> Evaluation:
    """Score captions from anywhere: [{image_id, caption}] against references by image id.

    clip: a CLIP store of the same images, for the metric "clipscore". Raises DataError for files
    that do not hold captions, or images without references.
    """
    from precap import clipscores
    from precap.evaluate import metrics as measures
    from precap.evaluate import predictions as files
    from precap.evaluate.significance import intervals

    given = files.read(predictions)
    known = files.read_references(references)
    plain, asked = clipscores.without(metrics)
    found = measures.score(given, known, metrics=plain)
    if asked:
        found = clipscores.add(found, given, known, clipscores.find({}, clip))
    unscored = [image for image in known if image not in given]
    return Evaluation({predictions.stem: found}, {predictions.stem: intervals(found)}, {}, unscored)


def remembered(run: Path) -> dict[str, Any]:
    """Where a run's dataset and stores lay when it was trained."""
    from precap.pipeline import SOURCES

    try:
        values: dict[str, Any] = json.loads((run / SOURCES).read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{run} is no run folder (no {SOURCES}). Give the --out of a training."
        ) from error
    return values


def open_sources(run: "Run", folder: Path | None) -> "dict[str, Store]":
    """The stores a run reads: where they lay at training, or the same names in ``folder``."""
    from precap.pipeline import find_store, open_store

    paths: dict[str, str] = remembered(run.path)["stores"]
    if folder is None:
        return {name: open_store(path) for name, path in paths.items()}
    return {name: open_store(find_store(Path(name).name, folder)) for name in paths}


def _named(runs: Sequence[Path]) -> list[tuple[str, Path]]:
    """Runs by folder name; by whole path where two folders share a name."""
    names = [Path(run).resolve().name for run in runs]
    unique = len(set(names)) == len(names)
    return [(n if unique else str(run), Path(run)) for n, run in zip(names, runs, strict=True)]


def _tag(name: str, choice: Choice, decoders: Mapping[str, Any]) -> str:
    several = choice.out and len(decoders) > 1  # predictions of many runs in one folder
    return f"{choice.split}-{name}" if several else _results(choice)


def _results(choice: Choice) -> str:
    """Which results these are, in file names: an ensemble's lie beside those of its first run."""
    return f"{choice.split}-ensemble" if choice.ensemble else choice.split


def _dataset(run: Path, choice: Choice) -> "Dataset":
    from precap.pipeline import dataset

    return dataset(choice.data or remembered(Path(run))["data"])


def _covered(
    data: "Dataset", choice: Choice, sources: "Mapping[str, Mapping[str, Store]]"
) -> tuple[list[str], list[str]]:
    """The split's captioned ids that every store has, and those that some store lacks."""
    captions = data.captions(choice.split)
    wanted = [image for image, texts in captions.items() if texts][: choice.images]
    opened = {id(s): s for named in sources.values() for s in named.values()}
    there = [image for image in wanted if all(image in store for store in opened.values())]
    if not there:
        raise DataError(
            f"None of the {len(wanted):,} captioned images of split {choice.split!r} of "
            f"{data.name!r} has features in every store. Extract them first, or name the stores: "
            f"--stores FOLDER"
        )
    known = set(there)
    return there, [image for image in wanted if image not in known]


def _joined(sources: "Mapping[str, Mapping[str, Store]]") -> "dict[str, Store]":
    return {f"{run}/{name}": s for run, named in sources.items() for name, s in named.items()}


def _generate(
    decoder: Any,
    stores: "Mapping[str, Store]",
    ids: list[str],
    choice: Choice,
    on_event: Listener | None,
) -> "list[Prediction]":
    import torch

    from precap.train.decode import changed

    decode = changed(decoder.recipe.config.decode, choice.decode, choice.beam)
    torch.manual_seed(choice.seed)

    def listen(event: Any) -> None:
        if on_event:
            on_event({"done": event.step, "total": event.total, "unit": "captions"})

    found: list[Prediction] = decoder.generate(stores, ids, decode, listen)
    return found


def _page(
    name: str,
    decoder: Any,
    stores: "Mapping[str, Store]",
    made: "Sequence[Prediction]",
    references: Mapping[str, Sequence[str]],
    choice: Choice,
) -> Any:
    from precap import clipscores
    from precap.evaluate import metrics, report

    captions = {p.image_id: p.caption for p in made}
    log = decoder.path / "log.jsonl"
    plain, asked = clipscores.without(choice.metrics)
    scores = metrics.score(captions, references, metrics=plain)
    if asked:
        scores = clipscores.add(scores, captions, references, clipscores.find(stores, choice.clip))
    return report.RunPage(
        name=name,
        predictions=captions,
        scores=scores,
        curves=report.curves_of(log) if log.is_file() else {},
        attention=looks(decoder, stores, captions) if choice.report else {},
        about={"head": decoder.recipe.config.head, "features": ", ".join(sorted(stores))},
    )


def looks(
    run: "Run", stores: "Mapping[str, Any]", captions: Mapping[str, str], most: int = LOOKS
) -> "dict[str, Attention]":
    """Attention of some captions, spread evenly over the images, for heads that can show it."""
    if not hasattr(run, "attend"):
        return {}
    step = max(1, len(captions) // most)
    chosen = {image: captions[image] for image in list(captions)[::step][:most]}
    attended = run.attend(stores, chosen)
    found = {}
    for image, (words, weights) in attended.items():
        drawn = _drawable(run, stores, image, words, weights)
        if drawn is not None:
            found[image] = drawn
    return found


def _drawable(
    run: "Run", stores: Mapping[str, Any], image: str, words: list[str], weights: Mapping[str, Any]
) -> "Attention | None":
    """The grid's attention where the head has one, else the regions' on their boxes."""
    from precap.evaluate.heatmaps import Attention

    for role in ("grid", "region"):
        if role not in weights:
            continue
        table = weights[role].float().numpy()  # (T, N)
        store = run.store_of(role, stores)
        if role == "grid":
            shape = grid_shape(run.sources[role].spec, table.shape[1])
            return Attention(words, table, grid=shape) if shape else None
        boxes = _fractions(store, image)
        if boxes is not None:
            return Attention(words, table[:, : len(boxes)], boxes=boxes)
    return None


def grid_shape(spec: "FeatureSpec", cells: int) -> tuple[int, int] | None:
    """(rows, columns) of a grid of ``cells``: as the store says, else square, else unknown."""
    said = spec.preprocess.get("grid")
    if isinstance(said, (list, tuple)) and len(said) == 2 and said[0] * said[1] == cells:
        return int(said[0]), int(said[1])
    side = round(cells**0.5)
    return (side, side) if side * side == cells else None


def _fractions(store: Any, image: str) -> Any:
    """(N, 4) boxes as fractions of width and height, or None where the store lacks the numbers."""
    boxes, size = store.spec.field_of("boxes"), store.spec.field_of("size")
    if boxes is None:
        return None
    rows = store.read(image)
    corners = rows[boxes.name].astype("float64")
    if size is not None:
        height, width = rows[size.name][:2]
        return corners / [width, height, width, height]
    return corners if corners.size and corners.max() <= 1.0 else None


def _finished(
    pages: Sequence[Any],
    references: Mapping[str, Sequence[str]],
    data: "Dataset",
    choice: Choice,
    out: Path,
    missing: Sequence[str],
    written: list[Path],
) -> Evaluation:
    from precap.evaluate import metrics, report
    from precap.evaluate.significance import compare, intervals

    scores = {page.name: page.scores for page in pages}
    domains = {image: d for d, ids in data.domains().items() for image in ids}
    groups = {
        p.name: metrics.score_groups(p.scores, p.predictions, references, domains) for p in pages
    }
    ranges = {name: intervals(found) for name, found in scores.items()}
    differences = {}
    if choice.compare:
        if len(pages) < 2:
            raise ConfigError("--compare needs two runs: precap evaluate runs/a runs/b --compare")
        for a, b in combinations(pages, 2):
            differences[f"{a.name} vs {b.name}"] = compare(a.scores, b.scores)
    target = out / f"scores-{_results(choice)}.json"
    values = {name: found.as_json() for name, found in scores.items()}
    atomic.write_text(target, json.dumps(values, indent=1))
    written.append(target)
    if choice.report:
        page = out / f"report-{_results(choice)}.html"
        images = {ref.id: ref.path for ref in data.images(choice.split)}
        training = [text for texts in _training(data).values() for text in texts]
        title = f"{data.name} · {choice.split}"
        report.write(
            page, pages, references, images, title=title, training=training, domains=domains
        )
        written.append(page)
    return Evaluation(scores, ranges, differences, missing, written, groups)


def _training(data: "Dataset") -> Mapping[str, Sequence[str]]:
    return data.captions("train") if "train" in data.splits else {}


def _group(name: str, scores: "Scores") -> str:
    values = "  ".join(f"{metric} {value:.4f}" for metric, value in scores.corpus.items())
    return f"{name} ({len(scores.ids)} images): {values}"


def _compared(d: "Difference") -> str:
    return (
        f"{d.metric}: {d.a:.4f} -> {d.b:.4f} ({d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}], "
        f"p {d.p:.3f}), better on {d.wins_b}, worse on {d.wins_a}, equal on {d.ties}"
    )
