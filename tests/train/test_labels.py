import json
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from precap.errors import DataError
from precap.train import labels

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
    both = labels.frequencies(DATA["dataset"], vocabulary, split)
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
    frequencies = labels.frequencies(DATA["dataset"], made.vocabulary)[1]
    labels.write_frequencies(frequencies, tmp_path / "idxs.p")
    assert labels.read_frequencies(tmp_path / "idxs.p") == frequencies


def test_the_published_scorer_can_read_our_pickle(tmp_path: Path) -> None:
    made = labels.prepare(DATA["dataset"], 2)
    labels.write_frequencies(
        labels.frequencies(DATA["dataset"], made.vocabulary)[0], tmp_path / "p"
    )
    values = pickle.loads((tmp_path / "p").read_bytes())  # our own file
    assert isinstance(values["document_frequency"], defaultdict)
    assert values["document_frequency"]["never", "seen"] == 0.0


def test_a_pickle_bomb_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    (tmp_path / "bomb.p").write_bytes(pickle.dumps({"document_frequency": Bomb(), "ref_len": 1}))
    with pytest.raises(DataError, match="not plain data"):
        labels.read_frequencies(tmp_path / "bomb.p")
    assert not (tmp_path / "exploded").exists()


def test_labels_of_another_json_are_refused(tmp_path: Path) -> None:
    made = labels.prepare(DATA["dataset"], 2)
    labels.write(made, tmp_path / "talk.json", tmp_path / "label.h5")
    with h5py.File(tmp_path / "label.h5", "r+") as file:
        file["labels"][0, 0] = 4000
    with pytest.raises(DataError, match="does not belong"):
        labels.read(tmp_path / "talk.json", tmp_path / "label.h5")
