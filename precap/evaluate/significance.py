"""How sure is a score: bootstrap intervals, paired bootstrap between runs, wins per image.

Images are drawn with replacement (Koehn, EMNLP 2004). Every metric is a function of sums over
images, so a resample is one row of a matrix product, not another scoring run. CIDEr's document
frequencies stay those of the full set of references.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precap.errors import DataError
from precap.evaluate.metrics import Measure, Scores

_CHUNK = 200  # resamples held at once: 200 x 5,000 images x 8 bytes = 8 MB


@dataclass(frozen=True)
class Interval:
    """A metric and the range that ``level`` of the resamples fall into."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def as_json(self) -> dict[str, float]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """One metric of run B minus run A over the same images.

    p: two-sided bootstrap p-value. wins_a, wins_b, ties: images on which one run scores higher.
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    wins_a: int
    wins_b: int
    ties: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def intervals(
    scores: Scores, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Metric -> percentile bootstrap interval."""
    drawn = _resample(list(scores.measures.values()), resamples, seed)
    tail = 100 * (1 - level) / 2
    found = {}
    for name, values in zip(scores.measures, drawn, strict=True):
        low, high = np.percentile(values, [tail, 100 - tail])
        found[name] = Interval(scores.corpus[name], float(low), float(high), level)
    return found


def compare(
    a: Scores, b: Scores, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> list[Difference]:
    """B minus A per metric that both have, drawing the same images for both.

    Raises DataError where the two were not scored on the same images.
    """
    if set(a.ids) != set(b.ids):
        raise DataError(
            f"The two runs are scored on different images ({len(a.ids)} and {len(b.ids)}, "
            f"{len(set(a.ids) & set(b.ids))} in common). Score both on the same split."
        )
    shared = [name for name in a.measures if name in b.measures]
    row_of = {image: row for row, image in enumerate(b.ids)}
    order = [row_of[image] for image in a.ids]
    left = [a.measures[name] for name in shared]
    right = [_reordered(b.measures[name], order) for name in shared]
    drawn = _resample([*left, *right], resamples, seed)
    return [
        _difference(name, left[i], right[i], drawn[len(shared) + i] - drawn[i], level)
        for i, name in enumerate(shared)
    ]


def _reordered(measure: Measure, order: list[int]) -> Measure:
    return Measure(measure.table[order], measure.value, measure.each[order])


def _difference(
    name: str, a: Measure, b: Measure, drawn: NDArray[np.float64], level: float
) -> Difference:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    below = (1 + int((drawn <= 0).sum())) / (1 + len(drawn))  # never exactly 0
    above = (1 + int((drawn >= 0).sum())) / (1 + len(drawn))
    gap = b.each - a.each
    return Difference(
        metric=name,
        a=a.corpus,
        b=b.corpus,
        difference=b.corpus - a.corpus,
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * min(below, above)),
        wins_a=int((gap < 0).sum()),
        wins_b=int((gap > 0).sum()),
        ties=int((gap == 0).sum()),
    )


def _resample(measures: list[Measure], resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """(resamples,) values per measure; every measure sees the same draws."""
    if not measures:
        return []
    images = len(measures[0].table)
    table = np.concatenate([m.table for m in measures], axis=1)  # (images, statistics)
    sums = np.concatenate([counts @ table for counts in _draws(images, resamples, seed)])
    edges = np.cumsum([m.table.shape[1] for m in measures])[:-1]
    parts = np.split(sums, edges, axis=1)
    return [np.asarray(m.value(s, images)) for m, s in zip(measures, parts, strict=True)]


def _draws(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """(<= _CHUNK, images) how often each image is drawn, until there are enough."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        picks = generator.integers(0, images, (rows, images))
        picks += np.arange(rows)[:, None] * images
        counts = np.bincount(picks.ravel(), minlength=rows * images)
        yield counts.reshape(rows, images).astype(np.float64)
