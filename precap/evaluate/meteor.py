"""METEOR 1.5 (Denkowski & Lavie, WMT 2014): the jar aligns words, the score is computed here.

The jar's ``-stdio`` mode answers each SCORE line with 23 counts; they add up over a corpus, so
that corpus values, per-image values and bootstrap resamples all come from one run of the jar.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precap.evaluate import java

COUNTS = 23
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75  # English, METEOR 1.5 table 2
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
_BARS = re.compile(r"\|{3,}")


def counts(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], seconds: float | None = None
) -> NDArray[np.float64]:
    """(n, 23) match counts of n tokenised captions; ``java.Unavailable`` if they cannot be had."""
    lines = [_line(h, refs) for h, refs in zip(hypotheses, references, strict=True)]
    allowed = 180 + 0.1 * len(lines) if seconds is None else seconds
    arguments = ["-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    output = java.run(arguments, "".join(lines), folder(), allowed)
    answers = output.split("\n")[:-1]
    if len(answers) != len(lines):
        raise java.Unavailable(f"METEOR gave {len(answers)} answers to {len(lines)} captions")
    try:
        table = np.array([answer.split() for answer in answers], dtype=np.float64)
        table = table.reshape(len(lines), COUNTS)
    except ValueError as error:
        raise java.Unavailable("METEOR's answer is not a table of 23 numbers") from error
    if not np.isfinite(table).all():
        raise java.Unavailable("METEOR's answer holds numbers that are not finite")
    return forgive_whole(table)


def forgive_whole(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """A caption matched whole in one chunk is not fragmented: it counts no chunk in any sum."""
    length, ref_length = table[:, 0], table[:, 1]
    chunks, matched, ref_matched = table[:, 20], table[:, 21], table[:, 22]
    whole = (chunks == 1) & (matched == length) & (ref_matched == ref_length)
    table[whole, 20] = 0
    return table


def value(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 23) counts, of one image or summed over images -> (...) METEOR."""
    length, ref_length, function, ref_function = np.moveaxis(table[..., :4], -1, 0)
    matches = table[..., 4:20].reshape(*table.shape[:-1], 4, 4)  # module x content/function
    weights = _WEIGHTS[:, None] * np.array([_DELTA, _DELTA, 1 - _DELTA, 1 - _DELTA])
    weighted = (matches * weights).sum(-2)  # (..., 4): content, its refs, function, its refs
    hit, ref_hit = weighted[..., 0] + weighted[..., 2], weighted[..., 1] + weighted[..., 3]
    size = _DELTA * (length - function) + (1 - _DELTA) * function
    ref_size = _DELTA * (ref_length - ref_function) + (1 - _DELTA) * ref_function
    precision, recall = _ratio(hit, size), _ratio(ref_hit, ref_size)
    mean = _ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    chunks, matched, ref_matched = np.moveaxis(table[..., 20:], -1, 0)
    broken = _ratio(chunks, (matched + ref_matched) / 2)
    score: NDArray[np.float64] = mean * (1 - _GAMMA * broken**_BETA)
    return score


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _line(hypothesis: str, references: Sequence[str]) -> str:
    """One SCORE line; ``|||`` separates its fields, so no caption may hold it, nor a line end."""
    fields = (" ".join(_BARS.sub("", text).splitlines()) for text in (*references, hypothesis))
    return " ||| ".join(("SCORE", *fields)) + "\n"


def folder() -> Path:
    """Where pycocoevalcap keeps the jar and its paraphrase table."""
    spec = find_spec("pycocoevalcap")
    folder = Path(next(iter(spec.submodule_search_locations or []))) / "meteor" if spec else None
    if folder is None or not (folder / "meteor-1.5.jar").is_file():
        raise java.Unavailable("meteor-1.5.jar is missing; reinstall pycocoevalcap")
    return folder
