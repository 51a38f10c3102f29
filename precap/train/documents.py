"""In how many images each n-gram occurs, for CIDEr: counted, written, and read from others' files.

prepro_ngrams of self-critical.pytorch, and M2 and HIN, keep them in pickles; ours are JSON. Only
``read_pickle`` opens a pickle, with an unpickler that runs nothing; training reads JSON alone.
"""

import io
import json
import pickle
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from precap import atomic
from precap.errors import ConfigError, DataError
from precap.store.importers import pickles
from precap.train import ciderd
from precap.train.vocab import WordVocabulary

#: How prepro_ngrams writes the end of a caption, as a word and as a number.
END, END_NUMBER = "<eos>", "0"
#: What an old torch.save begins with, before its protocol and system values.
_TORCH = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class DocumentFrequency:
    """N-gram (a tuple of words, or of numbers as strings) -> images that have it; ``ref_len``."""

    document_frequency: Mapping[tuple[str, ...], float]
    ref_len: float

    @property
    def numbered(self) -> bool:
        """Whether the n-grams are numbers of a vocabulary, not words."""
        return all(word.isdigit() for gram in self.document_frequency for word in gram)

    def on_numbers(self, number: Callable[[str], int | None] = int) -> ciderd.Frequencies:
        """For the reward. n-grams with a word that ``number`` does not know are left out."""
        found: dict[int, int] = {}
        for gram, count in self.document_frequency.items():
            numbers = [number(word) for word in gram]
            if None not in numbers:
                key = ciderd.key_of([n for n in numbers if n is not None])
                found[key] = found.get(key, 0) + int(count)
        keys, counts = np.array([*found], np.uint64), np.array([*found.values()], np.int64)
        order = np.argsort(keys)
        return ciderd.Frequencies(keys[order], counts[order], round(self.ref_len))


def count(
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
    stoi = {**vocabulary.stoi, END: int(END_NUMBER)}
    numbers = {tuple(str(stoi[w]) for w in gram): n for gram, n in words.items()}
    return DocumentFrequency(dict(words), images), DocumentFrequency(numbers, images)


def _grams(sentences: Sequence[Mapping[str, Any]], known: WordVocabulary) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for sentence in sentences:
        tokens = [w if w in known.stoi else "UNK" for w in sentence["tokens"]] + [END]
        for n in range(1, ciderd.ORDERS + 1):
            found.update(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    return found


def write(found: DocumentFrequency, path: Path) -> None:
    """As JSON, what ``read`` reads."""
    table = {" ".join(gram): int(n) for gram, n in found.document_frequency.items()}
    values = {"ref_len": found.ref_len, "document_frequency": table}
    atomic.write_text(path, json.dumps(values, ensure_ascii=False))


def read(path: Path) -> DocumentFrequency:
    """What ``write`` wrote. A pickle is refused, with the command that converts it."""
    try:
        values = json.loads(path.read_bytes())
        table = {tuple(gram.split(" ")): n for gram, n in values["document_frequency"].items()}
        return DocumentFrequency(table, float(values["ref_len"]))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}. Check scst.frequencies.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no document frequencies as JSON. Make them with precap data labels "
            f"export, or convert others' pickle: precap data labels ngrams {path} --out "
            f"frequencies.json --allow-pickle"
        ) from error


def for_reward(
    path: Path, number: Callable[[str], int | None], end: int | None, shared: bool
) -> ciderd.Frequencies:
    """The frequencies in ``path`` for a reward over the numbers of a run's vocabulary.

    end: the number of the end of a caption, None if it does not count. shared: whether the
    vocabulary numbers words as self-critical.pytorch does, the only one that a file of numbers is
    for. ConfigError when the file does not belong to the run.
    """
    found = read(path)
    if found.numbered and not shared:
        raise ConfigError(
            f"scst.frequencies={path} counts numbers of a cocotalk vocabulary. Train with that one "
            f"(text.vocabulary=cocotalk, text.files=its JSON), or give the file of words."
        )
    if end is not None and not {(END,), (END_NUMBER,)} & set(found.document_frequency):
        raise ConfigError(
            f"scst.frequencies={path} does not count the end of a caption, so the reward must not "
            f"either: set scst.count_eos=false."
        )
    ends = {END_NUMBER: end} if found.numbered else {END: end}
    other: Callable[[str], int | None] = int if found.numbered else number
    return found.on_numbers(lambda word: ends[word] if word in ends else other(word))


def write_pickle(found: DocumentFrequency, path: Path) -> None:
    """As the pickle the published scorer reads: a defaultdict(float) and ``ref_len``."""
    table: defaultdict[tuple[str, ...], float] = defaultdict(float)
    table.update({gram: float(n) for gram, n in found.document_frequency.items()})
    values = {"document_frequency": table, "ref_len": found.ref_len}
    atomic.write_bytes(path, pickle.dumps(values, protocol=2))


def read_pickle(path: Path) -> DocumentFrequency:
    """prepro_ngrams' pickle, or the CIDEr cache of M2 and HIN (torch.save of a scorer).

    M2's holds ln(documents) as ``ref_len``; ours is always the number.
    """
    values = _value(_pickle_stream(path), str(path))
    if isinstance(values, pickles.Attributes):
        values = {"document_frequency": vars(values).get("doc_frequency"), **vars(values)}
        if isinstance(values.get("ref_len"), float):
            values["ref_len"] = float(np.exp(values["ref_len"]))
    table = values.get("document_frequency") if isinstance(values, dict) else None
    if not isinstance(table, dict) or not isinstance(values.get("ref_len"), int | float):
        raise DataError(f"{path} holds no 'document_frequency' and 'ref_len'. Check the file.")
    for gram, n in table.items():
        words = isinstance(gram, tuple) and all(isinstance(word, str) for word in gram)
        if not (words and isinstance(n, int | float)):
            raise DataError(f"{path}: {gram!r} -> {n!r} is no n-gram with a count.")
    return DocumentFrequency(table, float(values["ref_len"]))


def _value(stream: io.BytesIO, where: str) -> Any:
    stands = {"Cider": pickles.Attributes, "CiderScorer": pickles.Attributes}
    value = pickles.load(stream, where, stands)
    if value == _TORCH:  # then protocol and system, then what was saved
        value = [pickles.load(stream, where, stands) for _ in range(3)][-1]
    return value


def _pickle_stream(path: Path) -> io.BytesIO:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}. Check the path.")
    data = path.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
            if name is None:
                raise DataError(f"{path} is an archive without a data.pkl.")
            data = archive.read(name)
    return io.BytesIO(data)


def convert(source: Path, out: Path) -> str:
    """``read_pickle`` of ``source`` as the JSON that ``read`` reads; says what it held."""
    found = read_pickle(source)
    write(found, out)
    return f"{len(found.document_frequency):,} n-grams of {found.ref_len:,.0f} documents: {out}"
