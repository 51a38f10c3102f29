"""The label files of self-critical.pytorch and its relatives: made, written and read.

Same arrays as its prepro_labels: ``cocotalk.json`` (words, images) and a label HDF5. The document
frequencies that go with them are in ``documents.py``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from precap import atomic, text
from precap.errors import ConfigError, DataError
from precap.store.datasets.contract import Entry
from precap.store.datasets.dataset import Dataset
from precap.store.datasets.prepare import keep
from precap.store.datasets.problems import Report
from precap.train import documents
from precap.train.vocab import WordVocabulary, build_words, read_foreign

Uints = NDArray[np.uint32]


@dataclass(frozen=True)
class Labels:
    """Captions as the published loaders read them.

    labels: (M, longest) uint32, 0 where a caption has ended; a full row has no 0. start, end: (N,)
    uint32, 1-based and inclusive rows of each image. length: (M,) uint32, words kept.
    images: one {"split", "file_path", "id"} per image, in the order of start and end.
    """

    vocabulary: WordVocabulary
    images: list[dict[str, Any]]
    labels: Uints
    start: Uints
    end: Uints
    length: Uints

    def captions(self, image: int) -> list[list[int]]:
        """The numbers of one image's captions, by its place in ``images``."""
        rows = self.labels[int(self.start[image]) - 1 : int(self.end[image])]
        return [[int(n) for n in row if n] for row in rows]

    def texts(self, image: int) -> list[str]:
        """The same as text; a rare word is UNK, and everything after ``longest`` words is gone."""
        return [self.vocabulary.decode(numbers) for numbers in self.captions(image)]


@dataclass(frozen=True)
class Export:
    """What was written. ``left_out``: images without a word of caption."""

    files: list[Path]
    images: int
    captions: int
    words: int
    left_out: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "files": [str(path) for path in self.files]}

    def __str__(self) -> str:
        lines = [f"{self.images:,} images, {self.captions:,} captions, {self.words:,} words"]
        if self.left_out:
            lines.append(f"left out, no captions: {self.left_out:,} images")
        return "\n".join([*lines, *(f"written: {path}" for path in self.files)])


def export(dataset: Mapping[str, Any], out: Path, threshold: int = 5, longest: int = 16) -> Export:
    """Labels and document frequencies of a Karpathy-style value, in the folder ``out``.

    cocotalk.json, cocotalk_label.h5 and cocotalk-train-{words,idxs}.p for the published code;
    frequencies.json for ``scst.frequencies``.
    """
    everything = dataset["images"]
    kept = [image for image in everything if any(s["tokens"] for s in image["sentences"])]
    if not kept:
        raise DataError("No image has a caption: there is nothing to make labels from.")
    whole = {"images": [{**i, "sentences": _told(i["sentences"])} for i in kept]}
    made = prepare(whole, threshold, longest)
    words, numbers = documents.count(whole, made.vocabulary)
    out.mkdir(parents=True, exist_ok=True)
    names = ("cocotalk.json", "cocotalk_label.h5", "cocotalk-train-words.p",
             "cocotalk-train-idxs.p", "frequencies.json")  # fmt: skip
    files = [out / name for name in names]
    write(made, files[0], files[1])
    documents.write_pickle(words, files[2])
    documents.write_pickle(numbers, files[3])
    documents.write(words, files[4])
    many = len(made.vocabulary.itos) - 1
    return Export(files, len(kept), len(made.labels), many, len(everything) - len(kept))


def karpathy(dataset: Dataset) -> dict[str, Any]:
    """A prepared dataset as a Karpathy-style value for ``export``."""
    return {
        "images": [
            {
                "cocoid": int(item.id) if item.id.isascii() and item.id.isdigit() else item.id,
                "filename": item.file,
                "split": item.split,
                "sentences": [{"tokens": text.tokenize(caption)} for caption in item.captions],
            }
            for item in dataset.items
        ]
    }


def read_karpathy(path: Path) -> dict[str, Any]:
    """A Karpathy JSON, whose own tokens then make exactly the published labels."""
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        for image in values["images"]:
            if not image["split"] or not all(s["tokens"] is not None for s in image["sentences"]):
                raise KeyError("tokens")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no Karpathy JSON (images with sentences, tokens, split): {error!r}. "
            f"Prepare other layouts first: precap data prepare {path} --out data"
        ) from error
    return values


def _told(sentences: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [sentence for sentence in sentences if sentence["tokens"]]


def prepare(dataset: Mapping[str, Any], threshold: int = 5, longest: int = 16) -> Labels:
    """From a Karpathy-style JSON: words seen more than ``threshold`` times over all splits."""
    images = dataset["images"]
    captions = [[s["tokens"] for s in image["sentences"]] for image in images]
    vocabulary = build_words(
        (c for many in captions for c in many), threshold + 1, layout="self-critical"
    )
    for image, many in zip(images, captions, strict=True):
        if not many or not all(many):
            raise DataError(f"Image {image['filename']!r} has no caption, or an empty one.")
    flat = [vocabulary.numbers(c)[:longest] for many in captions for c in many]
    labels = np.zeros((len(flat), longest), np.uint32)
    for row, numbers in zip(labels, flat, strict=True):
        row[: len(numbers)] = numbers
    counts = np.array([len(many) for many in captions])
    end = np.cumsum(counts).astype(np.uint32)
    return Labels(
        vocabulary,
        [_image(image) for image in images],
        labels,
        (end - counts + 1).astype(np.uint32),
        end,
        np.array([len(numbers) for numbers in flat], np.uint32),
    )


def _image(image: Mapping[str, Any]) -> dict[str, Any]:
    found = {"split": image["split"]}
    if "filename" in image:
        found["file_path"] = str(Path(image.get("filepath", "")) / image["filename"])
    found["id"] = image["cocoid"] if "cocoid" in image else image["imgid"]
    return found


def write(labels: Labels, json_path: Path, h5_path: Path) -> None:
    """``cocotalk.json`` and the label HDF5."""
    words = {str(i): word for i, word in enumerate(labels.vocabulary.itos) if i}
    atomic.write_text(json_path, json.dumps({"ix_to_word": words, "images": labels.images}))
    with atomic.replacing(h5_path) as partial, h5py.File(partial, "w") as file:
        file["labels"] = labels.labels
        file["label_start_ix"] = labels.start
        file["label_end_ix"] = labels.end
        file["label_length"] = labels.length


def read(json_path: Path, h5_path: Path) -> Labels:
    """What ``write`` or prepro_labels wrote."""
    vocabulary = read_foreign(json_path)
    images = json.loads(json_path.read_text("utf-8")).get("images")
    if not isinstance(images, list) or not all("id" in i and "split" in i for i in images):
        raise DataError(f"{json_path} lists no images with id and split: not of prepro_labels.")
    try:
        with h5py.File(h5_path, "r") as file:
            arrays = [
                np.asarray(file[name][()], np.uint32)
                for name in ("labels", "label_start_ix", "label_end_ix", "label_length")
            ]
    except (OSError, KeyError) as error:
        raise DataError(f"{h5_path} is no label file of prepro_labels: {error}.") from error
    if len(arrays[1]) != len(images) or int(arrays[0].max(initial=0)) >= vocabulary.words.size:
        raise DataError(f"{h5_path} does not belong to {json_path}: sizes or numbers differ.")
    return Labels(vocabulary, images, *arrays)


def to_dataset(json_path: Path, h5_path: Path, images: Path, out: Path) -> Report:
    """A dataset folder of what ``read`` reads; ``images``: the folder its file paths start from."""
    for path in (json_path, h5_path):
        if not path.is_file():
            raise ConfigError(f"There is no file {path}. Check the path.")
    found = read(json_path, h5_path)
    entries = [
        Entry(
            image.get("file_path") or str(image["id"]), image["id"], image["split"], found.texts(i)
        )
        for i, image in enumerate(found.images)
    ]
    return keep(entries, out, images, name=json_path.stem, format="cocotalk")
