"""The label files of self-critical.pytorch and its relatives: made, written and read.

Same arrays as its prepro_labels and prepro_ngrams: ``cocotalk.json`` (words, images), a label HDF5
and two pickles of document frequencies. Pickles are read by an unpickler that knows nothing but
dictionaries, tuples, strings and numbers.
"""

import io
import json
import pickle
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from precap import atomic
from precap.errors import DataError
from precap.train import ciderd
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
    images = json.loads(json_path.read_text("utf-8"))["images"]
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


@dataclass(frozen=True)
class DocumentFrequency:
    """N-gram (a tuple of words, or of numbers as strings) -> images that have it; ``ref_len``."""

    document_frequency: Mapping[tuple[str, ...], float]
    ref_len: float

    def on_numbers(self, words_to_numbers: Mapping[str, int] | None = None) -> ciderd.Frequencies:
        """For the reward: tuples of numbers (or of words, with their numbers) as keys."""
        table = words_to_numbers
        grams, counts = [], []
        for gram, count in self.document_frequency.items():
            if table is None or all(w in table for w in gram):
                grams.append([int(w) if table is None else table[w] for w in gram])
                counts.append(int(count))
        keys = np.array([ciderd.key_of(g) for g in grams], np.uint64)
        order = np.argsort(keys)
        return ciderd.Frequencies(keys[order], np.array(counts)[order], round(self.ref_len))


def frequencies(
    dataset: Mapping[str, Any], vocabulary: WordVocabulary, split: str = "train"
) -> tuple[DocumentFrequency, DocumentFrequency]:
    """Document frequencies over words and over numbers, as prepro_ngrams counts them.

    "train" includes restval, "all" everything. Captions are not cut; unknown words are UNK;
    "<eos>", number 0, ends each.
    """
    wanted = {"train": ("train", "restval")}.get(split, (split,))
    words: Counter[tuple[str, ...]] = Counter()
    images = 0
    for image in dataset["images"]:
        if split == "all" or image["split"] in wanted:
            words.update(_grams(image["sentences"], vocabulary))
            images += 1
    stoi = {**vocabulary.stoi, "<eos>": 0}
    numbers = {tuple(str(stoi[w]) for w in gram): n for gram, n in words.items()}
    return DocumentFrequency(dict(words), images), DocumentFrequency(numbers, images)


def _grams(sentences: Sequence[Mapping[str, Any]], known: WordVocabulary) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for sentence in sentences:
        tokens = [w if w in known.stoi else "UNK" for w in sentence["tokens"]] + ["<eos>"]
        for n in range(1, ciderd.ORDERS + 1):
            found.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return found


def write_frequencies(found: DocumentFrequency, path: Path) -> None:
    """As the pickle the published scorer reads: a defaultdict(float) and ``ref_len``."""
    table: defaultdict[tuple[str, ...], float] = defaultdict(float)
    table.update({gram: float(n) for gram, n in found.document_frequency.items()})
    values = {"document_frequency": table, "ref_len": found.ref_len}
    atomic.write_bytes(path, pickle.dumps(values, protocol=2))


def read_frequencies(path: Path) -> DocumentFrequency:
    """prepro_ngrams' pickle, or the CIDEr cache of M2 and HIN (torch.save of a scorer).

    M2's holds ln(documents) as ``ref_len``; ours is always the number.
    """
    try:
        values = _Plain(_pickle_stream(path)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, OSError) as error:
        raise DataError(f"{path} is no document-frequency file: {error}.") from error
    if isinstance(values, _Scorer):
        values = vars(values)
        values["ref_len"] = float(np.exp(values.get("ref_len", 0.0)))
    if not isinstance(values, dict) or "document_frequency" not in values:
        raise DataError(f"{path} holds no 'document_frequency'.")
    return DocumentFrequency(dict(values["document_frequency"]), float(values["ref_len"]))


def _pickle_stream(path: Path) -> io.BytesIO:
    data = path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
            if name is None:
                raise DataError(f"{path} is an archive without a data.pkl.")
            data = archive.read(name)
    return io.BytesIO(data)


class _Scorer:
    """Stands in for a pickled scorer object: its attributes, none of its code."""


class _Plain(pickle.Unpickler):
    """Refuses every class but these."""

    ALLOWED: Mapping[tuple[str, str], Any] = {
        ("collections", "defaultdict"): defaultdict,
        ("collections", "OrderedDict"): dict,
        ("builtins", "float"): float,
        ("__builtin__", "float"): float,
        ("builtins", "int"): int,
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in ("Cider", "CiderScorer"):
            return _Scorer
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not plain data")
        return self.ALLOWED[module, name]
