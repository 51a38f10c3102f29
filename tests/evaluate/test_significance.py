"""Bootstrap: the resampled value of a metric is what scoring the resampled images gives."""

import numpy as np
import pytest

from precap.errors import DataError
from precap.evaluate import metrics, significance
from tests.evaluate.small import corpus

FAST = ["bleu", "rouge", "cider"]


def scores(seed: int = 0, images: int = 40) -> metrics.Scores:
    return metrics.score(*corpus(images, seed), FAST)


def test_sums_over_drawn_images_are_scores_of_the_drawn_images() -> None:
    """BLEU of a resample, scored again from its captions, equals BLEU from the sums."""
    captions, references = corpus(20)
    found = metrics.score(captions, references, ["bleu"])
    drawn = np.random.default_rng(3).integers(0, 20, 20)
    ids = list(captions)
    again = metrics.score(
        {f"{k}": captions[ids[i]] for k, i in enumerate(drawn)},
        {f"{k}": references[ids[i]] for k, i in enumerate(drawn)},
        ["bleu"],
    )
    for name, measure in found.measures.items():
        sums = measure.table[drawn].sum(0)
        assert float(measure.value(sums, 20)) == pytest.approx(again.corpus[name], abs=1e-12)


def test_intervals_hold_the_value_and_repeat_with_the_seed() -> None:
    found = scores()
    first = significance.intervals(found, resamples=300, seed=7)
    assert first == significance.intervals(found, resamples=300, seed=7)
    for name, interval in first.items():
        assert interval.value == found.corpus[name]
        assert interval.low < interval.value < interval.high


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(5, 2, 2000)
    ids = [str(i) for i in range(2000)]
    found = metrics.Scores(ids, {}, {}, {}).extended({"x": metrics.mean(values)})
    interval = significance.intervals(found, resamples=2000)["x"]
    error = 1.96 * values.std() / np.sqrt(2000)
    assert interval.low == pytest.approx(values.mean() - error, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.02)


def test_a_run_does_not_differ_from_itself() -> None:
    found = scores()
    for row in significance.compare(found, found, resamples=100):
        assert (row.difference, row.low, row.high) == pytest.approx((0, 0, 0), abs=1e-12)
        assert row.p == 1
        assert (row.wins_a, row.wins_b, row.ties) == (0, 0, 40)


def test_a_run_that_copies_references_wins_surely_whatever_the_order_of_images() -> None:
    captions, references = corpus(40)
    better = {i: references[i][1] for i in reversed(captions)}
    a = metrics.score(captions, references, FAST)
    b = metrics.score(better, references, FAST)
    for row in significance.compare(a, b, resamples=500):
        gap = [b.per_image[row.metric][i] - a.per_image[row.metric][i] for i in captions]
        assert row.wins_b == sum(g > 0 for g in gap)
        assert row.wins_a == sum(g < 0 for g in gap)
        assert row.wins_a + row.wins_b + row.ties == 40
        assert row.difference == pytest.approx(b.corpus[row.metric] - a.corpus[row.metric])
        assert row.low > 0
        assert row.p == pytest.approx(2 / 501)


def test_runs_over_different_images_are_not_compared() -> None:
    with pytest.raises(DataError, match=r"different images \(40 and 39, 39 in common\)"):
        significance.compare(scores(), scores(images=39))
