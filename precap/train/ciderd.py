"""CIDEr-D (Vedantam et al., 2015) on token numbers: references prepared once, no strings.

An n-gram is one exact 64-bit key: up to four tokens of 16 bits, each stored as number + 1. Every
image has a small hash table of its references' n-grams in one flat array, so that scoring a batch
is a handful of numpy passes over all its n-grams. Equal to the reference scorers within 1e-6.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from precap.errors import ConfigError

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDERS = 4
_BITS = np.uint64(16)
_MOST = (1 << 16) - 2
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads keys over buckets
_HALF = np.uint64(32)
_NONE = np.uint64(0)


@dataclass(frozen=True)
class Grams:
    """The distinct n-grams of many token sequences, ordered by sequence.

    row: (U,) which sequence. key: (U,). count: (U,) times in that sequence. order: (U,) 0..3.
    length: (n,) number of tokens of each sequence.
    """

    row: Ints
    key: Keys
    count: Ints
    order: Ints
    length: Ints


class Table:
    """Keys in groups -> position: ``find(group, key)``. One bucket per key on average."""

    def __init__(self, group: Ints, key: Keys, groups: int) -> None:
        sizes = np.bincount(group, minlength=groups)
        self.base = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.sizes = sizes.astype(np.uint64)
        bucket = self._bucket(group, key)
        self.order = np.argsort(bucket, kind="stable")
        self.keys = key[self.order]
        self.start = np.searchsorted(bucket[self.order], np.arange(len(key) + 1))

    def _bucket(self, group: Ints | int, key: Keys) -> Ints:
        spread = (key * _MIX) >> _HALF  # 32 bits
        within: Ints = ((spread * self.sizes[group]) >> _HALF).astype(np.int64)
        return within + self.base[group]

    def find(self, group: Ints | int, key: Keys) -> Ints:
        """Position in the order of building, -1 where the group has no such key."""
        found = np.full(len(key), -1, np.int64)
        if not len(self.keys):
            return found
        bucket = self._bucket(group, key)
        at, end = self.start[bucket], self.start[bucket + 1]
        todo = np.flatnonzero(at < end)
        at, end, key = at[todo], end[todo], key[todo]
        while len(todo):
            hit = self.keys[at] == key
            found[todo[hit]] = at[hit]
            at += 1
            on = np.flatnonzero(~hit & (at < end))
            todo, at, end, key = todo[on], at[on], end[on], key[on]
        return found


class Frequencies:
    """In how many documents each n-gram occurs; ``documents`` is their number."""

    def __init__(self, keys: Keys, counts: Ints, documents: int) -> None:
        self.table = Table(np.zeros(len(keys), np.int64), keys, 1)
        self.counts, self.documents = counts[self.table.order], documents

    @staticmethod
    def of(grams: Grams, document: Ints, documents: int) -> "Frequencies":
        """Counted over sequences; ``document``: (n,) the document of each sequence."""
        owner = document[grams.row]
        sort = np.lexsort((owner, grams.key))
        key, owner = grams.key[sort], owner[sort]
        once = np.ones(len(key), bool)  # the first of each (key, document)
        once[1:] = (key[1:] != key[:-1]) | (owner[1:] != owner[:-1])
        keys, counts = np.unique(key[once], return_counts=True)
        return Frequencies(keys, counts, documents)

    def idf(self, keys: Keys) -> Floats:
        """ln(documents / occurrences); an n-gram never seen counts as seen once."""
        at = self.table.find(0, keys)
        seen = np.where(at >= 0, self.counts[at], 1) if len(self.counts) else np.ones(len(keys))
        idf: Floats = np.log(float(self.documents)) - np.log(np.maximum(1.0, seen))
        return idf


@dataclass(frozen=True)
class Rewards:
    """cider: (n,) CIDEr-D, 0 to 10. bleu: (n,) sentence BLEU-4, 0 to 1 (0 if not asked for)."""

    cider: Floats
    bleu: Floats


class CiderD:
    """Scores hypotheses of images against references that were prepared once.

    references: per image a list of token sequences (with the end token in them, if it counts).
    documents: "image" or "caption" is one document of the document frequency; ``frequencies``:
    given ones instead. sigma: width of the length penalty, in bigrams.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[int]]],
        documents: str = "image",
        frequencies: Frequencies | None = None,
        sigma: float = 6.0,
    ) -> None:
        image = np.repeat(np.arange(len(references)), [len(refs) for refs in references])
        grams = ngrams(as_table(ref for refs in references for ref in refs))
        if frequencies is None:
            per = image if documents == "image" else np.arange(len(image))
            total = len(references) if documents == "image" else len(image)
            frequencies = Frequencies.of(grams, per, total)
        self.frequencies, self.sigma = frequencies, sigma
        self.many = np.array([len(refs) for refs in references], np.int64)
        self._prepare(image, grams)

    def _prepare(self, image: Ints, grams: Grams) -> None:
        most = int(self.many.max(initial=1))
        first = np.concatenate([[0], np.cumsum(self.many)[:-1]])
        place = np.arange(len(image)) - first[image]  # which reference of its image
        owner = image[grams.row]
        sort = np.lexsort((grams.key, owner))
        key, owner = grams.key[sort], owner[sort]
        new = np.ones(len(key), bool)
        new[1:] = (key[1:] != key[:-1]) | (owner[1:] != owner[:-1])
        entry = np.cumsum(new) - 1  # position of each (image, n-gram)
        counts = np.zeros((int(new.sum()), most), np.uint8)
        counts[entry, place[grams.row[sort]]] = np.minimum(grams.count[sort], 255)
        self.table = Table(owner[new], key[new], len(self.many))
        self.counts = counts[self.table.order]  # (E, R) times in each reference
        self.idf = self.frequencies.idf(self.table.keys)  # (E,)
        self.inverse = np.zeros((len(self.many), ORDERS, most))  # 1 / norm, 0 where there is none
        norms = _norms(grams, self.frequencies.idf(grams.key), len(image))
        self.inverse[image, :, place] = _inverse(norms).T
        self.lengths = np.zeros((len(self.many), most), np.int64)
        self.lengths[image, place] = grams.length
        self.bigrams = _bigrams(self.lengths)

    def __call__(self, images: Ints, hypotheses: Ints) -> Floats:
        """CIDEr-D, 0 to 10, of (n, T) hypotheses padded with -1, of these images."""
        return self.rewards(images, hypotheses, bleu=False).cider

    def rewards(self, images: Ints, hypotheses: Ints, bleu: bool = True) -> Rewards:
        """CIDEr-D and, if asked for, BLEU-4 of (n, T) hypotheses padded with -1."""
        grams = ngrams(hypotheses)
        at = self.table.find(images[grams.row], grams.key)
        found = at >= 0
        hit, miss = np.flatnonzero(found), np.flatnonzero(~found)
        at = at[hit]
        idf = np.empty(len(found))
        idf[hit] = mine = self.idf[at]
        idf[miss] = self.frequencies.idf(grams.key[miss])
        norms = _norms(grams, idf, len(images))
        # Grams are ordered by sequence and, within it, by order: equal cells stand together.
        cell = grams.row[hit] * ORDERS + grams.order[hit]
        theirs = self.counts[at]  # (h, R)
        clipped = np.minimum(grams.count[hit].astype(np.uint8)[:, None], theirs)
        shared = np.multiply(clipped, theirs, dtype=np.float64) * (mine * mine)[:, None]
        cider = self._cider(images, grams.length, norms, _by_cell(cell, shared, len(images)))
        if not bleu:
            return Rewards(cider, np.zeros(len(images)))
        best = clipped.max(1, initial=0).astype(np.float64)[:, None]
        correct = _by_cell(cell, best, len(images))[..., 0].T  # (4, n)
        return Rewards(cider, self._bleu(images, grams.length, correct))

    def _cider(self, images: Ints, length: Ints, norms: Floats, shared: Floats) -> Floats:
        """From (n, 4, R) inner products of clipped tf-idf vectors."""
        cosine = shared * self.inverse[images] * _inverse(norms).T[..., None]
        # Bigrams, not words, are the length: that is how the published scorer counts.
        gap = _bigrams(length)[:, None] - self.bigrams[images]  # (n, R)
        close = np.exp(gap * gap / (-2.0 * self.sigma**2))
        total = np.einsum("nor,nr->n", cosine, close)
        score: Floats = 10.0 / ORDERS * total / np.maximum(1, self.many[images])
        return score

    def _bleu(self, images: Ints, length: Ints, correct: Floats) -> Floats:
        """BLEU-4 with the reference implementation's constants and its closest reference length."""
        tiny, small = 1e-15, 1e-9
        guess = np.maximum(0, length - np.arange(ORDERS)[:, None])  # (4, n)
        score = np.exp(np.log((correct + tiny) / (guess + small)).mean(0))
        lengths = self.lengths[images]  # (n, R)
        absent = np.arange(lengths.shape[1]) >= self.many[images][:, None]
        gap = np.where(absent, 1 << 40, np.abs(lengths - length[:, None]) * (1 << 20) + lengths)
        closest = np.take_along_axis(lengths, gap.argmin(1)[:, None], 1)[:, 0]
        ratio = (length + tiny) / (closest + small)
        bleu: Floats = np.where(ratio < 1, score * np.exp(1 - 1 / ratio), score)
        return bleu


def as_table(sequences: Iterable[Sequence[int]]) -> Ints:
    """Token sequences as one (n, T) table, padded with -1."""
    rows = [np.asarray(row, np.int64) for row in sequences]
    table = np.full((len(rows), max((len(r) for r in rows), default=0)), -1, np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def ngrams(table: Ints) -> Grams:
    """The n-grams, n = 1 to 4, of the (n, T) sequences, each padded with -1 at its end."""
    if table.size and int(table.max()) > _MOST:
        raise ConfigError(
            f"The reward counts n-grams of token numbers up to {_MOST}, and a caption holds "
            f"{int(table.max())}. Use a vocabulary of at most {_MOST + 1} words or pieces."
        )
    rows, width = table.shape
    token = (table + 1).astype(np.uint64)  # 0 where there is no token
    keys = np.zeros((rows, ORDERS * width), np.uint64)
    keys[:, :width] = gram = token
    for n in range(1, min(ORDERS, width)):
        gram = np.where(token[:, n:] > _NONE, (gram[:, :-1] << _BITS) | token[:, n:], _NONE)
        keys[:, n * width : (n + 1) * width - n] = gram
    keys.sort(axis=1)
    start = np.ones(keys.shape, bool)  # first of each run of equal keys
    np.not_equal(keys[:, 1:], keys[:, :-1], out=start[:, 1:])
    at = np.flatnonzero(start)
    count = np.diff(at, append=keys.size)
    key = keys.ravel()[at]
    real = np.flatnonzero(key)
    at, count, key = at[real], count[real], key[real]
    order = sum((key >= np.uint64(1 << (16 * n))).astype(np.int64) for n in range(1, ORDERS))
    length = (table >= 0).sum(1)
    return Grams(at // max(1, keys.shape[1]), key, count, np.asarray(order), length)


def key_of(gram: Sequence[int]) -> int:
    """The key of one n-gram."""
    key = 0
    for token in gram:
        key = key << 16 | token + 1
    return key


def _norms(grams: Grams, idf: Floats, rows: int) -> Floats:
    """(4, rows) Euclidean norm of each sequence's tf-idf vector, order by order."""
    weight = grams.count * idf
    cell = grams.order * rows + grams.row
    return np.sqrt(np.bincount(cell, weight * weight, ORDERS * rows)).reshape(ORDERS, rows)


def _by_cell(cell: Ints, values: Floats, rows: int) -> Floats:
    """Sums of (h, R) values whose cells are ascending: (rows, 4, R)."""
    sums = np.zeros((rows * ORDERS, values.shape[1]))
    if len(cell):
        first = np.flatnonzero(np.diff(cell, prepend=-1))
        sums[cell[first]] = np.add.reduceat(values, first, axis=0)
    return sums.reshape(rows, ORDERS, -1)


def _inverse(norms: Floats) -> Floats:
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def _bigrams(length: Ints) -> Ints:
    return np.maximum(0, length - 1)
