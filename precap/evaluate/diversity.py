"""How varied captions are: distinct n-grams, vocabulary, novelty against training, lengths."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np

from precap.evaluate.metrics import words


def diversity(
    predictions: Mapping[str, str], training: Iterable[str] | None = None
) -> dict[str, float]:
    """Plain numbers about one caption per image.

    distinct-n: different n-grams per n-gram (Li et al., NAACL 2016); unique: share of captions no
    other image got; novel: share that no training caption equals, word for word (only where
    ``training`` is given); words: mean length; shortest, longest; vocabulary: different words.
    """
    captions = [words(caption).split() for caption in predictions.values()]
    if not captions:
        return {}
    texts = [" ".join(caption) for caption in captions]
    counts = Counter(texts)
    lengths = np.array([len(caption) for caption in captions])
    found: dict[str, float] = {
        "vocabulary": len(set(chain.from_iterable(captions))),
        "distinct-1": _distinct(captions, 1),
        "distinct-2": _distinct(captions, 2),
        "unique": sum(counts[text] == 1 for text in texts) / len(texts),
        "words": float(lengths.mean()),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
    }
    if training is not None:
        known = {words(caption) for caption in training}
        found["novel"] = sum(text not in known for text in texts) / len(texts)
    return found


def _distinct(captions: list[list[str]], n: int) -> float:
    grams = [tuple(caption[i : i + n]) for caption in captions for i in range(len(caption) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
