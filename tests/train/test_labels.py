import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from precap.errors import ConfigError, DataError
from precap.store.datasets import dataset as datasets
from precap.train import documents, labels, vocab
from precap.train.settings import Text
from tests.command import Precap

GOLDEN = Path(__file__).parents[1] / "golden" / "labels"
DATA: dict[str, Any] = json.loads((GOLDEN / "labels_data.json").read_text("utf-8"))


@pytest.mark.parametrize("threshold", [0, 2])
def test_labels_equal_the_published_preparation(threshold: int) -> None:
    expected, arrays = DATA["results"][f"threshold_{threshold}"], np.load(GOLDEN / "labels.npz")
    made = labels.prepare(DATA["dataset"], threshold)
    words = {str(i): w for i, w in enumerate(made.vocabulary.itos) if i}
    assert words == expected["ix_to_word"]
    assert made.images == expected["images"]
    for name, array in [
        ("labels", made.labels),
        ("label_start_ix", made.start),
        ("label_end_ix", made.end),
        ("label_length", made.length),
    ]:
        golden = arrays[f"t{threshold}_{name}"]
        assert array.dtype == golden.dtype
        np.testing.assert_array_equal(array, golden)


@pytest.mark.parametrize("threshold", [0, 2])
@pytest.mark.parametrize("split", ["train", "all"])
def test_document_frequencies_equal_the_published_ones(threshold: int, split: str) -> None:
    expected = DATA["results"][f"threshold_{threshold}"]["ngrams"][split]
    vocabulary = labels.prepare(DATA["dataset"], threshold).vocabulary
    both = documents.count(DATA["dataset"], vocabulary, split)
    for made, golden in zip(both, (expected["words"], expected["idxs"]), strict=True):
        assert made.ref_len == golden["ref_len"]
        joined = {" ".join(gram): n for gram, n in made.document_frequency.items()}
        assert joined == golden["document_frequency"]


def test_files_go_round(tmp_path: Path) -> None:
    made = labels.prepare(DATA["dataset"], 2)
    labels.write(made, tmp_path / "talk.json", tmp_path / "label.h5")
    again = labels.read(tmp_path / "talk.json", tmp_path / "label.h5")
    assert again.vocabulary.itos[1:] == made.vocabulary.itos[1:]
    assert again.vocabulary.words == made.vocabulary.words
    assert again.images == made.images
    np.testing.assert_array_equal(again.labels, made.labels)
    assert again.captions(3) == made.captions(3)
    frequencies = documents.count(DATA["dataset"], made.vocabulary)[1]
    documents.write_pickle(frequencies, tmp_path / "idxs.p")
    assert documents.read_pickle(tmp_path / "idxs.p") == frequencies


def test_the_published_scorer_can_read_our_pickle(tmp_path: Path) -> None:
    made = labels.prepare(DATA["dataset"], 2)
    documents.write_pickle(documents.count(DATA["dataset"], made.vocabulary)[0], tmp_path / "p")
    values = pickle.loads((tmp_path / "p").read_bytes())  # our own file
    assert isinstance(values["document_frequency"], defaultdict)
    assert values["document_frequency"]["never", "seen"] == 0.0


def test_a_pickle_bomb_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    (tmp_path / "bomb.p").write_bytes(pickle.dumps({"document_frequency": Bomb(), "ref_len": 1}))
    with pytest.raises(DataError, match="refused"):
        documents.read_pickle(tmp_path / "bomb.p")
    assert not (tmp_path / "exploded").exists()


def test_labels_of_another_json_are_refused(tmp_path: Path) -> None:
    made = labels.prepare(DATA["dataset"], 2)
    labels.write(made, tmp_path / "talk.json", tmp_path / "label.h5")
    with h5py.File(tmp_path / "label.h5", "r+") as file:
        file["labels"][0, 0] = 4000
    with pytest.raises(DataError, match="does not belong"):
        labels.read(tmp_path / "talk.json", tmp_path / "label.h5")


def test_frequencies_as_json_go_round(tmp_path: Path) -> None:
    words, numbers = documents.count(DATA["dataset"], labels.prepare(DATA["dataset"], 2).vocabulary)
    for found in (words, numbers):
        documents.write(found, tmp_path / "f.json")
        assert documents.read(tmp_path / "f.json") == found
    assert numbers.numbered
    assert not words.numbered


class Cider:
    """As M2 and HIN cache their scorer: attributes of an object, ln(images) as its length."""

    def __init__(self, name: str, grams: dict[tuple[str, ...], float]) -> None:
        table = defaultdict(float, grams)
        self.__dict__.update({"_n": 4, "_sigma": 6.0, name: table, "ref_len": np.log(float(7))})
        self.ref_len = float(self.ref_len)


@pytest.mark.parametrize("name", ["doc_frequency", "document_frequency"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_cached_scorer_is_read_without_its_class(name: str, zipped: bool, tmp_path: Path) -> None:
    grams = {("a",): 7.0, ("a", "dog"): 2.0}
    path = tmp_path / "cider_cache.pkl"
    torch.save(Cider(name, grams), path, _use_new_zipfile_serialization=zipped)
    found = documents.read_pickle(path)
    assert found.document_frequency == grams
    assert found.ref_len == pytest.approx(7)


@pytest.mark.parametrize(
    "value", [3, {"ref_len": 3}, {"document_frequency": {"a": 1.0}, "ref_len": 3}]
)
def test_a_pickle_of_something_else_says_so(value: Any, tmp_path: Path) -> None:
    (tmp_path / "f.p").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=r"f\.p"):
        documents.read_pickle(tmp_path / "f.p")


def test_training_opens_no_pickle_and_says_how_to_convert_one(tmp_path: Path) -> None:
    (tmp_path / "f.p").write_bytes(pickle.dumps({"document_frequency": {}, "ref_len": 1}))
    with pytest.raises(DataError, match="data labels ngrams"):
        documents.read(tmp_path / "f.p")
    with pytest.raises(ConfigError, match="no file"):
        documents.read(tmp_path / "absent.json")


def test_frequencies_must_belong_to_the_run(tmp_path: Path) -> None:
    words, numbers = documents.count(DATA["dataset"], labels.prepare(DATA["dataset"], 2).vocabulary)
    path = tmp_path / "f.json"
    documents.write(numbers, path)
    with pytest.raises(ConfigError, match="text.vocabulary=cocotalk"):
        documents.for_reward(path, lambda word: 5, 2, shared=False)
    silent = {gram: n for gram, n in words.document_frequency.items() if "<eos>" not in gram}
    documents.write(documents.DocumentFrequency(silent, words.ref_len), path)
    with pytest.raises(ConfigError, match="count_eos=false"):
        documents.for_reward(path, lambda word: 5, 2, shared=False)


def test_the_command_writes_what_the_published_preparation_writes(
    precap: Precap, tmp_path: Path
) -> None:
    """A Karpathy JSON keeps its own tokens: exactly the published arrays."""
    (tmp_path / "dataset.json").write_text(json.dumps(DATA["dataset"]))
    out = tmp_path / "labels"
    precap(
        "data", "labels", "export", "--data", tmp_path / "dataset.json", "--out", out,
        "--threshold", "2",
    )  # fmt: skip
    found = labels.read(out / "cocotalk.json", out / "cocotalk_label.h5")
    golden = np.load(GOLDEN / "labels.npz")
    np.testing.assert_array_equal(found.labels, golden["t2_labels"])
    expected = DATA["results"]["threshold_2"]["ngrams"]["train"]["words"]
    read = documents.read_pickle(out / "cocotalk-train-words.p")
    assert {" ".join(g): n for g, n in read.document_frequency.items()} == (
        expected["document_frequency"]
    )
    told = precap.refused("data", "labels", "ngrams", out / "cocotalk-train-words.p", code=2)
    assert "--allow-pickle" in told
    precap(
        "data", "labels", "ngrams", out / "cocotalk-train-words.p", "--out", tmp_path / "f.json",
        "--allow-pickle",
    )  # fmt: skip
    assert documents.read(tmp_path / "f.json") == documents.read(out / "frequencies.json")


def test_labels_become_a_dataset_whose_numbers_are_the_labels(
    precap: Precap, scenes: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "labels", tmp_path / "again"
    precap("data", "labels", "export", "--data", scenes, "--out", out, "--threshold", "90")
    files = (out / "cocotalk.json", out / "cocotalk_label.h5")
    precap("data", "labels", "import", *files, "--images", scenes / "images", "--out", again)
    made, found = datasets.load(again), labels.read(*files)
    assert made.splits == datasets.load(scenes).splits
    assert all(ref.path.is_file() for ref in made.images())
    words = vocab.make(Text(vocabulary="cocotalk", files=files[0]), {})
    for i, item in enumerate(made.items):
        assert [words.encode(caption) for caption in item.captions] == found.captions(i)
    assert "UNK" in found.vocabulary.itos
