"""Scores equal the reference programs', and bad input is said, not swallowed."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from precap.errors import ConfigError, DataError
from precap.evaluate import java, meteor, metrics, predictions
from tests.evaluate.small import corpus
from tests.java_words import need_java

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco"
FAST = ["bleu", "rouge", "cider"]

#: The jar's answers to SCORE lines and to one EVAL of them all.
COUNTS = """\
5 4 2 2 2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 3 3
0 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
5 8 2 4 3 3 2 2 0 0 0 0 0 0 0 0 0 0 0 0 1 5 5
1 1 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
6 6 2 2 2 2 2 2 0 0 0 0 2 2 0 0 0 0 0 0 1 6 6"""
EACH = [0.4294065610185835, 0.0, 0.40763634227719403, 0.0, 0.9142857142857143]
ALL = 0.4310790169896016


def tokenised(
    captions: dict[str, str], references: dict[str, list[str]]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    return (
        {i: [metrics.words(r) for r in refs] for i, refs in references.items()},
        {i: [metrics.words(c)] for i, c in captions.items()},
    )


def test_bleu_rouge_and_cider_equal_the_reference_programs() -> None:
    captions, references = corpus()
    found = metrics.score(captions, references, FAST)
    gts, res = tokenised(captions, references)
    bleu, each_bleu = Bleu(4).compute_score(gts, res, verbose=0)
    rouge, each_rouge = Rouge().compute_score(gts, res)
    cider, each_cider = Cider().compute_score(gts, res)
    expected = {f"BLEU-{n + 1}": (bleu[n], each_bleu[n]) for n in range(4)}
    expected |= {"ROUGE-L": (rouge, each_rouge), "CIDEr": (cider, each_cider)}
    assert list(found.corpus) == list(expected)
    for name, (corpus_value, each) in expected.items():
        assert found.corpus[name] == pytest.approx(corpus_value, abs=1e-12)
        assert list(found.per_image[name].values()) == pytest.approx(list(each), abs=1e-12)


def test_the_validation_score_is_the_same_cider() -> None:
    captions, references = corpus()
    full = metrics.score(captions, references, FAST).corpus["CIDEr"]
    assert metrics.cider(captions, references) == full


def test_meteor_from_recorded_counts_equals_the_jar() -> None:
    table = np.array([line.split() for line in COUNTS.split("\n")], dtype=np.float64)
    table = meteor.forgive_whole(table)
    assert meteor.value(table).tolist() == pytest.approx(EACH, abs=1e-12)
    assert float(meteor.value(table.sum(0))) == pytest.approx(ALL, abs=1e-12)


@pytest.mark.java
@pytest.mark.timeout(900)  # two starts of Java, which are slow on a busy machine
def test_meteor_equals_the_jars_own_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    need_java()
    captions, references = corpus(12)
    captions["img0"] = ""
    captions["img1"] = "no\nline ||| end"
    asked: list[str] = []
    run = java.run

    def listen(arguments: list[str], text: str, folder: Path, seconds: float) -> str:
        asked.append(run(arguments, text, folder, seconds))
        return asked[-1]

    monkeypatch.setattr(java, "run", listen)
    found = metrics.score(captions, references, ["meteor"], java_seconds=400)
    assert found.unavailable == {}
    lines = asked[0].strip().split("\n")
    arguments = ["-jar", "-Xmx2G", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    answer = run(arguments, f"EVAL ||| {' ||| '.join(lines)}\n", meteor.folder(), 400)
    *each, everything = map(float, answer.split())
    assert list(found.per_image["METEOR"].values()) == pytest.approx(each, abs=1e-12)
    assert found.corpus["METEOR"] == pytest.approx(everything, abs=1e-12)


@pytest.mark.parametrize("name", ["show_edit_tell_rl"])
def test_published_captions_give_their_published_scores(name: str) -> None:
    if not COCO.is_dir():
        pytest.skip("the published captions are not here (shared/data/coco beside the project)")
    captions = predictions.read(COCO / "published_outputs" / f"{name}.json")
    references = predictions.read_references(COCO / "captions" / "karpathy_test_refs.json")
    truth = json.loads((COCO / "published_outputs" / "scores.json").read_text("utf-8"))[name]
    for metric, value in metrics.score(captions, references, FAST).corpus.items():
        key = metric.replace("BLEU-", "Bleu_").replace("-", "_")
        assert value == pytest.approx(truth[key], abs=1e-9)


def test_line_ends_in_captions_shift_no_image() -> None:
    """The Java tokeniser gives image 3 its neighbour's caption here."""
    references = {"1": ["a red bus"], "2": ["a cat sits"], "3": ["a dog runs"]}
    captions = {"1": "a red\u2028bus", "2": "a\r\ncat\x0bsits", "3": "a dog runs"}
    rouge = metrics.score(captions, references, ["rouge"]).per_image["ROUGE-L"]
    assert rouge == {"1": 1.0, "2": 1.0, "3": 1.0}


def test_cider_over_one_image_is_zero_and_says_so() -> None:
    found = metrics.score({"1": "a dog"}, {"1": ["a dog"]}, ["cider"])
    assert found.corpus["CIDEr"] == 0
    assert any("over one image it is 0" in note for note in found.notes)


def test_what_is_left_out_or_empty_is_counted() -> None:
    captions, references = corpus(4)
    captions["img2"] = " . "
    del captions["img3"]
    found = metrics.score(captions, references, FAST)
    assert found.per_image["ROUGE-L"]["img2"] == 0
    assert any(note.startswith("1 images with references") for note in found.notes)
    assert any(note.startswith("1 predictions hold no word") for note in found.notes)
    assert "over 3 images" in str(found)


@pytest.mark.parametrize("references", [{}, {"1": []}])
def test_an_image_without_references_is_refused(references: dict[str, list[str]]) -> None:
    with pytest.raises(DataError, match="no reference captions, such as 1"):
        metrics.score({"1": "a dog"}, references)


def test_no_predictions_are_refused() -> None:
    with pytest.raises(DataError, match="no predictions"):
        metrics.score({}, {"1": ["a dog"]})


def test_an_unknown_metric_is_named_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="'sider'.*Did you mean 'cider'"):
        metrics.score({"1": "a"}, {"1": ["a"]}, ["sider"])


def test_json_holds_everything_but_the_statistics() -> None:
    captions, references = corpus(3)
    values = metrics.score(captions, references, FAST).as_json()
    again = json.loads(json.dumps(values))
    assert again["images"] == 3
    assert set(again) == {"images", "corpus", "unavailable", "notes", "per_image"}
    assert set(again["per_image"]["CIDEr"]) == set(captions)


def test_groups_are_evaluations_of_their_own() -> None:
    captions, references = corpus(20)
    groups = {i: "in" if n % 2 else "out" for n, i in enumerate(list(captions)[:18])}
    whole = metrics.score(captions, references, FAST)
    found = metrics.score_groups(whole, captions, references, groups)
    chosen = {i: captions[i] for i, group in groups.items() if group == "in"}
    alone = metrics.score(chosen, {i: references[i] for i in chosen}, FAST)
    assert list(found) == ["in", "out"]
    assert found["in"].corpus == pytest.approx(alone.corpus, abs=1e-12)
    assert found["in"].corpus["CIDEr"] != pytest.approx(
        np.mean([whole.per_image["CIDEr"][i] for i in chosen])
    )
    assert len(found["out"].ids) == 9
