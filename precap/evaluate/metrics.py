"""Score captions as COCO's evaluation does: BLEU, METEOR, ROUGE-L, CIDEr-D, SPICE.

Words come from ``precap.text``; BLEU, ROUGE-L and CIDEr-D from pycocoevalcap's scorers; METEOR and
SPICE need Java, and are "unavailable" with a reason where it is missing, dies or hangs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from precap.errors import ConfigError, DataError
from precap.evaluate import java, meteor, spice
from precap.plugins import guess
from precap.text import tokenize

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """One metric over n images: what to add up, and how sums become the corpus value.

    table: (n, k) statistics, a row per image. value: ((..., k) sums, images) -> (...) scores.
    each: (n,) the metric of every image alone.
    """

    table: Table
    value: Callable[[Table, int], Table]
    each: Table

    @property
    def corpus(self) -> float:
        """The metric over all images."""
        return float(self.value(self.table.sum(0), len(self.table)))


@dataclass(frozen=True)
class Scores:
    """What ``score`` found. ``str`` gives a table, ``as_json`` plain values.

    corpus: metric -> value, 0..1 (CIDEr 0..10). per_image: metric -> image id -> value.
    unavailable: metric -> why. notes: what a reader should know. measures: for ``significance``.
    """

    ids: list[str]
    corpus: dict[str, float]
    per_image: dict[str, dict[str, float]]
    unavailable: dict[str, str]
    notes: list[str] = field(default_factory=list)
    measures: dict[str, Measure] = field(default_factory=dict, repr=False, compare=False)

    def as_json(self, per_image: bool = True) -> dict[str, Any]:
        """Plain JSON values; without ``measures``."""
        values: dict[str, Any] = {
            "images": len(self.ids),
            "corpus": self.corpus,
            "unavailable": self.unavailable,
            "notes": self.notes,
        }
        return {**values, "per_image": self.per_image} if per_image else values

    def extended(self, measures: Mapping[str, Measure]) -> "Scores":
        """These scores with more metrics over the same images."""
        still = {name: why for name, why in self.unavailable.items() if name not in measures}
        return _gathered(self.ids, {**self.measures, **measures}, still, list(self.notes))

    def __str__(self) -> str:
        width = max(map(len, [*self.corpus, *self.unavailable, "metric"]))
        lines = [f"{'metric':<{width}}  value", f"{'-' * width}  ------"]
        lines += [f"{name:<{width}}  {value:.4f}" for name, value in self.corpus.items()]
        lines += [f"{name:<{width}}  unavailable: {why}" for name, why in self.unavailable.items()]
        return "\n".join([*lines, f"over {len(self.ids)} images", *self.notes])


def score(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Sequence[str] | None = None,
    *,
    java_seconds: float | None = None,
) -> Scores:
    """Score one caption per image against its references, by image id.

    metrics: any of bleu, meteor, rouge, cider, spice, clipscore; the first four unless said;
    clipscore is left to ``clipscore.add``, which has the features. java_seconds:
    how long METEOR and SPICE may each take (default: 3 minutes and 0.1 s per image).
    Raises DataError for an image without references, ConfigError for an unknown metric.
    """
    chosen = _chosen(metrics)
    ids = list(predictions)
    _check(ids, references)
    hypotheses = [words(predictions[i]) for i in ids]
    answers = [[words(r) for r in references[i]] for i in ids]
    measures: dict[str, Measure] = {}
    unavailable: dict[str, str] = {}
    for name in chosen:
        try:
            measures.update(_SCORERS[name](hypotheses, answers, java_seconds))
        except java.Unavailable as why:
            unavailable[_NEEDY[name]] = str(why)
    notes = _notes(ids, hypotheses, references, "CIDEr" in measures)
    return _gathered(ids, measures, unavailable, notes)


def score_groups(
    scores: Scores,
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    groups: Mapping[str, str],
) -> dict[str, Scores]:
    """Group name -> the scores of its images alone, such as nocaps' in, near and out of domain.

    As on the nocaps server each group is an evaluation of its own: CIDEr counts documents within
    the group. Nothing else is scored again, so no Java runs. Images without a group are left out.
    """
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(scores.ids):
        if image in groups:
            rows.setdefault(groups[image], []).append(row)
    found = {}
    for group, chosen in sorted(rows.items()):
        ids = [scores.ids[row] for row in chosen]
        part = {
            name: Measure(m.table[chosen], m.value, m.each[chosen])
            for name, m in scores.measures.items()
        }
        if "CIDEr" in part:
            inside = {i: predictions[i] for i in ids}, {i: references[i] for i in ids}
            part |= score(*inside, ["cider"]).measures
        found[group] = _gathered(ids, part, scores.unavailable, [])
    return found


def _gathered(
    ids: list[str], measures: dict[str, Measure], unavailable: dict[str, str], notes: list[str]
) -> Scores:
    return Scores(
        ids=ids,
        corpus={name: m.corpus for name, m in measures.items()},
        per_image={n: dict(zip(ids, m.each.tolist(), strict=True)) for n, m in measures.items()},
        unavailable=unavailable,
        notes=notes,
        measures=measures,
    )


def cider(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> float:
    """CIDEr-D alone, without Java: the validation score during training."""
    return score(predictions, references, ["cider"]).corpus["CIDEr"]


@lru_cache(maxsize=1 << 18)  # references come again at each validation and for each run
def words(caption: str) -> str:
    """A caption as the scorers want it: its words with single spaces."""
    return " ".join(tokenize(caption))


def _bleu(
    hypotheses: list[str], references: list[list[str]], _: float | None
) -> dict[str, Measure]:
    scorer = BleuScorer(n=4)
    for hypothesis, refs in zip(hypotheses, references, strict=True):
        scorer += (hypothesis, refs)
    _corpus, each = scorer.compute_score(option="closest")
    table = np.array([_bleu_row(counts) for counts in scorer.ctest], dtype=np.float64)
    return {f"BLEU-{n}": Measure(table, _bleu_value(n), np.array(each[n - 1])) for n in range(1, 5)}


def _bleu_row(counts: Mapping[str, Any]) -> list[float]:
    length = counts["testlen"]
    closest = min((abs(r - length), r) for r in counts["reflen"])[1]
    return [length, closest, *counts["correct"], *counts["guess"]]


def _bleu_value(n: int) -> Callable[[Table, int], Table]:
    """BLEU-n of (..., 10) sums: length, closest length, 4 correct, 4 guessed (Papineni 2002)."""

    def value(sums: Table, images: int) -> Table:
        length, closest = sums[..., 0], sums[..., 1]
        precision = (sums[..., 2 : 2 + n] + 1e-15) / (sums[..., 6 : 6 + n] + 1e-9)
        ratio = (length + 1e-15) / (closest + 1e-9)  # the constants are the reference program's
        with np.errstate(over="ignore"):
            brevity = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
        result: Table = precision.prod(-1) ** (1 / n) * brevity
        return result

    return value


def mean(each: Sequence[float] | Table) -> Measure:
    """A metric whose corpus value is the mean over images."""
    values = np.asarray(each, dtype=np.float64)
    return Measure(values[:, None], lambda sums, images: sums[..., 0] / images, values)


def _rouge(
    hypotheses: list[str], references: list[list[str]], _: float | None
) -> dict[str, Measure]:
    rouge = Rouge()
    pairs = zip(hypotheses, references, strict=True)
    return {"ROUGE-L": mean([rouge.calc_score([h], refs) for h, refs in pairs])}


def _cider(
    hypotheses: list[str], references: list[list[str]], _: float | None
) -> dict[str, Measure]:
    _corpus, each = Cider().compute_score(
        dict(enumerate(references)), {i: [h] for i, h in enumerate(hypotheses)}
    )
    return {"CIDEr": mean(each)}


def _meteor(
    hypotheses: list[str], references: list[list[str]], seconds: float | None
) -> dict[str, Measure]:
    table = meteor.counts(hypotheses, references, seconds)
    return {"METEOR": Measure(table, lambda sums, images: meteor.value(sums), meteor.value(table))}


def _spice(
    hypotheses: list[str], references: list[list[str]], seconds: float | None
) -> dict[str, Measure]:
    return {"SPICE": mean(spice.scores(hypotheses, references, seconds))}


def _clipscore(*_: object) -> dict[str, Measure]:
    raise java.Unavailable("it needs the images' CLIP features (see precap.evaluate.clipscore)")


_SCORERS: dict[str, Callable[[list[str], list[list[str]], float | None], dict[str, Measure]]] = {
    "bleu": _bleu,
    "meteor": _meteor,
    "rouge": _rouge,
    "cider": _cider,
    "spice": _spice,
    "clipscore": _clipscore,
}
_NEEDY = {"meteor": "METEOR", "spice": "SPICE", "clipscore": "CLIPScore"}  # may be unavailable
DEFAULT = ("bleu", "meteor", "rouge", "cider")


def _chosen(metrics: Sequence[str] | None) -> list[str]:
    chosen = [name.strip().lower() for name in (DEFAULT if metrics is None else metrics)]
    for name in chosen:
        if name not in _SCORERS:
            raise ConfigError(f"There is no metric {name!r}.{guess(name, list(_SCORERS))}")
    return [name for name in _SCORERS if name in chosen]


def _check(ids: list[str], references: Mapping[str, Sequence[str]]) -> None:
    if not ids:
        raise DataError("There are no predictions to score. Check the predictions file.")
    missing = [i for i in ids if not references.get(i)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(ids)} predicted images have no reference captions, such as "
            f"{', '.join(missing[:3])}. Check that both files speak of the same images and ids."
        )


def _notes(
    ids: list[str],
    hypotheses: list[str],
    references: Mapping[str, Sequence[str]],
    has_cider: bool,
) -> list[str]:
    notes = []
    if has_cider and len(ids) == 1:
        notes.append(
            "CIDEr weighs words by how many images they tell apart: over one image it is 0."
        )
    if left := len(references) - len(ids):
        notes.append(f"{left} images with references have no prediction and are left out.")
    if empty := sum(not h for h in hypotheses):
        notes.append(f"{empty} predictions hold no word and score 0.")
    return notes
