import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from precap.errors import ConfigError
from precap.train import ciderd
from precap.train.documents import DocumentFrequency

GOLDEN = Path(__file__).parents[1] / "golden" / "ciderd"
DATA: dict[str, Any] = json.loads((GOLDEN / "ciderd_data.json").read_text("utf-8"))
SCORES = np.load(GOLDEN / "ciderd.npz")


def published_frequencies() -> ciderd.Frequencies:
    grams = {tuple(k.split()): n for k, n in DATA["document_frequency"].items()}
    return DocumentFrequency(grams, DATA["ref_len"]).on_numbers()


@pytest.mark.parametrize(
    ("case", "in_hypotheses", "in_references"),
    [
        ("zero_everywhere", True, True),
        ("zero_nowhere", False, False),
        ("zero_refs_only", False, True),
    ],
)
def test_given_frequencies(case: str, in_hypotheses: bool, in_references: bool) -> None:
    references = [[r + [0] * in_references for r in refs] for refs in DATA["references"]]
    hypotheses = [h + [0] * in_hypotheses for hyps in DATA["hypotheses"] for h in hyps]
    scorer = ciderd.CiderD(references, frequencies=published_frequencies())
    made = scorer(np.repeat(np.arange(12), 5), ciderd.as_table(hypotheses))
    golden = SCORES[f"ciderd_{case}_f64"].ravel()
    np.testing.assert_allclose(made, golden, rtol=0, atol=1e-6)


def test_corpus_mode() -> None:
    last = ciderd.as_table(hyps[4] for hyps in DATA["hypotheses"])
    made = ciderd.CiderD(DATA["references"])(np.arange(12), last)
    np.testing.assert_allclose(made, SCORES["ciderd_corpus_mode_f64"], rtol=0, atol=1e-6)


def numbered(captions: list[str], known: dict[str, int]) -> list[list[int]]:
    return [[known.setdefault(w, len(known)) for w in c.split()] for c in captions]


@pytest.mark.parametrize(("count", "case"), [(12, "cider_words"), (4, "cider_words_first4")])
def test_words(count: int, case: str) -> None:
    known: dict[str, int] = {}
    references = [numbered(refs, known) for refs in DATA["word_references"][:count]]
    hypotheses = ciderd.as_table(numbered(DATA["word_hypotheses"][:count], known))
    made = ciderd.CiderD(references)(np.arange(count), hypotheses)
    np.testing.assert_allclose(made, SCORES[f"{case}_per_image_f64"], rtol=0, atol=1e-6)


caption = st.lists(st.integers(0, 5), min_size=1, max_size=9)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.lists(caption, min_size=1, max_size=4), caption), min_size=2, max_size=6)
)
def test_equal_to_the_library_on_anything(images: list[tuple[list[list[int]], list[int]]]) -> None:
    """Repeated words, different numbers of references, n-grams no reference has."""
    references = [refs for refs, _ in images]
    hypotheses = [hyp for _, hyp in images]
    made = ciderd.CiderD(references).rewards(np.arange(len(images)), ciderd.as_table(hypotheses))
    gts = {i: [" ".join(map(str, r)) for r in refs] for i, refs in enumerate(references)}
    res = {i: [" ".join(map(str, h))] for i, h in enumerate(hypotheses)}
    np.testing.assert_allclose(made.cider, Cider().compute_score(gts, res)[1], atol=1e-6)
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[1][3]
    np.testing.assert_allclose(made.bleu, bleu, atol=1e-9)


def test_a_caption_as_document() -> None:
    references = [[[1, 2], [1, 3]], [[1, 4], [5, 6]]]
    per_image = ciderd.CiderD(references, "image").frequencies
    per_caption = ciderd.CiderD(references, "caption").frequencies
    one = np.array([ciderd.key_of([1])], np.uint64)
    assert per_image.idf(one)[0] == pytest.approx(0.0)
    assert per_caption.idf(one)[0] == pytest.approx(np.log(4 / 3))


def test_too_large_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="65534"):
        ciderd.CiderD([[[70000]]])
