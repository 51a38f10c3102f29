"""One self-contained HTML page about one or several runs: scores, curves, gallery, attention.

The page asks the network for nothing (a strict content security policy forbids it), and works
from a file. Numbers and plots are drawn here; the gallery is drawn by ``report.js`` from a block
of JSON, with ``textContent`` only, so that a caption can never become markup.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from precap import atomic
from precap.evaluate import plots, thumbnails
from precap.evaluate.diversity import diversity
from precap.evaluate.heatmaps import Attention
from precap.evaluate.metrics import Scores, score_groups
from precap.evaluate.significance import Difference, Interval, compare, intervals

#: What a page may hold at most: bytes in all, pictures with attention.
LIMIT = 40_000_000
HEATMAPS = 200
_THUMBNAILS, _LARGE = 0.66, 0.17  # shares of LIMIT; captions and scores need the rest
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class RunPage:
    """One run on the page.

    curves: quantity ("loss", "CIDEr") -> (step, value) points. attention: image id -> where the
    words of this run's caption looked. about: facts to show ("head": "hin", ...).
    """

    name: str
    predictions: Mapping[str, str]
    scores: Scores
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    attention: Mapping[str, Attention] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)


def write(
    path: Path,
    runs: Sequence[RunPage],
    references: Mapping[str, Sequence[str]],
    images: Mapping[str, Path] | None = None,
    *,
    title: str = "Captions",
    training: Iterable[str] | None = None,
    domains: Mapping[str, str] | None = None,
    limit: int = LIMIT,
) -> Path:
    """Write the page about ``runs``, which share their images, and return its path.

    images: where the pictures lie; a missing or unreadable one is shown as an empty frame and
    counted. training: training captions, for novelty. domains: image id -> nocaps domain.
    limit: bytes; thumbnails shrink until the page fits.
    """
    ids = list(dict.fromkeys(i for run in runs for i in run.scores.ids))
    looks = _chosen_looks(runs, ids)
    small, large = _pictures(ids, looks, images or {}, limit)
    data = {
        "runs": [run.name for run in runs],
        "metrics": _metrics(runs),
        "items": [_item(i, runs, references, domains or {}, looks, small, large) for i in ids],
    }
    known = list(training) if training is not None else None
    page = _template().render(
        title=title,
        ids=ids,
        runs=runs,
        domains=_domains(runs, references, domains or {}),
        metrics=_metrics(runs),
        tiles=_tiles(runs),
        curves=_curves(runs),
        comparisons=_comparisons(runs),
        diversity=_diversity([diversity(run.predictions, known) for run in runs]),
        notes=_notes(runs, ids, looks, small, images),
        data=data,
        **_assets(),
    )
    atomic.write_text(path, page)
    return path


def curves_of(log: Path) -> dict[str, list[tuple[float, float]]]:
    """The curves in a run's ``log.jsonl``: numbers under ``values`` (or at the top) by ``step``."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed may be torn
        if not isinstance(row, dict) or not isinstance(row.get("step"), int | float):
            continue
        values = row["values"] if isinstance(row.get("values"), dict) else row
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, []).append((float(row["step"]), float(value)))
    return found


def _chosen_looks(runs: Sequence[RunPage], ids: list[str]) -> list[str]:
    """The images whose attention the page shows: the first ``HEATMAPS`` that have any."""
    return [i for i in ids if any(i in run.attention for run in runs)][:HEATMAPS]


def _pictures(
    ids: list[str], looks: list[str], images: Mapping[str, Path], limit: int
) -> tuple[dict[str, str], dict[str, str]]:
    """Image id -> base64 JPEG: thumbnails of all, larger pictures of those with attention."""
    there = {i: images[i] for i in ids if i in images}
    small = thumbnails.encode_all(there, int(limit * _THUMBNAILS))
    closer = {i: there[i] for i in looks if i in there}
    large = {i: thumbnails.encode(p, 520, 80) for i, p in closer.items()}
    if sum(map(len, large.values())) > limit * _LARGE:
        large = thumbnails.encode_all(closer, int(limit * _LARGE))
    return small, large


def _item(
    image: str,
    runs: Sequence[RunPage],
    references: Mapping[str, Sequence[str]],
    domains: Mapping[str, str],
    looks: Sequence[str],
    small: Mapping[str, str],
    large: Mapping[str, str],
) -> dict[str, Any]:
    """What the gallery needs to know about one image; short keys, since there are thousands."""
    metrics = _metrics(runs)
    item: dict[str, Any] = {
        "id": image,
        "refs": list(references.get(image, ())),
        "c": [run.predictions.get(image) for run in runs],
        "s": [
            [_rounded(run.scores.per_image.get(m, {}).get(image)) for m in metrics] for run in runs
        ],
    }
    if small.get(image):
        item["t"] = small[image]
    if image in domains:
        item["d"] = domains[image]
    if image in looks:
        item["a"] = [_look(run.attention.get(image)) for run in runs]
        if large.get(image):
            item["big"] = large[image]
    return item


def _look(attention: Attention | None) -> dict[str, Any] | None:
    if attention is None:
        return None
    look: dict[str, Any] = {
        "words": list(attention.words),
        "w": base64.b64encode(attention.levels().tobytes()).decode("ascii"),
    }
    if attention.grid is not None:
        look["grid"] = list(attention.grid)
    else:
        look["boxes"] = np.asarray(attention.boxes, dtype=np.float64).round(4).tolist()
    return look


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _metrics(runs: Sequence[RunPage]) -> list[str]:
    return list(dict.fromkeys(m for run in runs for m in run.scores.corpus))


@dataclass(frozen=True)
class _Tile:
    metric: str
    rows: list[tuple[int, str, Interval | None, str]]  # run, name, interval, why unavailable
    plot: Markup


def _tiles(runs: Sequence[RunPage]) -> list[_Tile]:
    found = [intervals(run.scores) for run in runs]
    missing = [m for run in runs for m in run.scores.unavailable]
    tiles = []
    for metric in dict.fromkeys([*_metrics(runs), *missing]):
        rows = [
            (i, run.name, found[i].get(metric), run.scores.unavailable.get(metric, ""))
            for i, run in enumerate(runs)
        ]
        values = [
            run.scores.measures[metric].each if metric in run.scores.measures else np.empty(0)
            for run in runs
        ]
        shown = plots.histogram(values, [row[2] for row in rows])
        tiles.append(_Tile(metric, rows, shown if metric in _metrics(runs) else Markup("")))
    return tiles


def _curves(runs: Sequence[RunPage]) -> dict[str, Markup]:
    names = dict.fromkeys(name for run in runs for name in run.curves)
    drawn = {name: plots.curves(name, [run.curves.get(name, ()) for run in runs]) for name in names}
    return {name: plot for name, plot in drawn.items() if plot}


@dataclass(frozen=True)
class _Comparison:
    first: str
    other: str
    number: int
    rows: list[Difference]
    plots: dict[str, Markup]
    wins: dict[str, Markup]


def _comparisons(runs: Sequence[RunPage]) -> list[_Comparison]:
    """Every other run against the first, where both have the same images."""
    found = []
    for number, other in enumerate(runs[1:], start=1):
        if set(other.scores.ids) == set(runs[0].scores.ids):
            rows = compare(runs[0].scores, other.scores)
            won = {d.metric: plots.wins(d, number) for d in rows}
            drawn = plots.forest(rows, number)
            found.append(_Comparison(runs[0].name, other.name, number, rows, drawn, won))
    return found


def _domains(
    runs: Sequence[RunPage], references: Mapping[str, Sequence[str]], domains: Mapping[str, str]
) -> dict[str, list[tuple[int, Scores]]]:
    """Domain -> (run, its scores there)."""
    found: dict[str, list[tuple[int, Scores]]] = {}
    for number, run in enumerate(runs):
        for name, part in score_groups(run.scores, run.predictions, references, domains).items():
            found.setdefault(name, []).append((number, part))
    return dict(sorted(found.items()))


def _diversity(values: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    names = dict.fromkeys(name for row in values for name in row)
    return {name: [f"{row[name]:,.4g}" if name in row else "" for row in values] for name in names}


def _notes(
    runs: Sequence[RunPage],
    ids: list[str],
    looks: list[str],
    small: Mapping[str, str],
    images: Mapping[str, Path] | None,
) -> list[str]:
    notes = [f"{run.name}: {note}" for run in runs for note in run.scores.notes]
    if images is not None and (blank := sum(not small.get(i) for i in ids)):
        notes.append(f"{blank} of {len(ids)} pictures could not be read and are shown as frames.")
    have = sum(any(i in run.attention for run in runs) for i in ids)
    if have > len(looks):
        notes.append(f"Attention is kept for {len(looks)} of {have} images.")
    return notes


def _assets() -> dict[str, Any]:
    """Style and script with the hashes by which the page's policy admits them, and no others."""
    style = (_HERE / "report.css").read_text("utf-8")
    script = (_HERE / "report.js").read_text("utf-8")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return {"style": Markup(style), "script": Markup(script), "policy": policy}


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(_HERE)
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
