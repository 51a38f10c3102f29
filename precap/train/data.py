"""Batches of images, features and captions: order by seed and epoch, grouped, prefetched."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from precap.train.batch import token_row, token_table
from precap.train.cache import Reader
from precap.train.contract import Batch, Words

T = TypeVar("T")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The images of one split with their numbered captions.

    table: (M + 1, T) int64, all captions ``bos .. eos pad``; the last row is a missing caption.
    first: (n + 1,) the captions of image i are rows first[i] to first[i + 1].
    sizes: (n,) tokens of each image's captions, what a batch is sorted by.
    """

    ids: list[str]
    table: Tensor
    first: Ints
    sizes: Ints

    @staticmethod
    def of(
        ids: Sequence[str],
        numbered: Mapping[str, Sequence[Sequence[int]]],
        words: Words,
        longest: int,
    ) -> "Split":
        """From word numbers, image id -> captions; an image may have none."""
        rows = [[token_row(c, words, longest) for c in numbered.get(i, ())] for i in ids]
        flat = [row for captions in rows for row in captions]
        first = np.cumsum([0, *(len(captions) for captions in rows)])
        sizes = np.array([sum(map(len, captions)) for captions in rows], np.int64)
        return Split(list(ids), token_table([*flat, [words.pad]], words.pad), first, sizes)


def derangement(n: int, seed: int) -> Ints:
    """A fixed permutation that moves every image's features to another image (n > 1)."""
    order = np.random.default_rng([seed, 77]).permutation(n)
    moved = np.empty(n, np.int64)
    moved[order] = np.roll(order, 1)
    return moved


class Loader:
    """The batches of a split; which ones, in which order, follows from (seed, epoch) alone.

    batch_size counts the images of all ranks together; a rank takes every world-th of a batch.
    captions: how many captions of an image a batch holds; an image with more gives a window of
    them, with a random start. shuffle_features: the honest control (see ``derangement``).
    """

    def __init__(  # noqa: PLR0913
        self,
        split: Split,
        readers: Mapping[str, Reader],
        words: Words,
        batch_size: int,
        captions: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle_features: bool = False,
        views: int = 1,
    ) -> None:
        self.split, self.readers, self.words = split, readers, words
        self.batch_size, self.captions, self.seed = batch_size, captions, seed
        self.rank, self.world, self.views = rank, world, views
        count = len(split.ids)
        self.source = derangement(count, seed) if shuffle_features else np.arange(count)

    def __len__(self) -> int:
        """Batches of an epoch. A last one too small to give every rank an image is left out."""
        full, rest = divmod(len(self.split.ids), self.batch_size)
        return full + (rest >= self.world)

    def order(self, epoch: int) -> list[Ints]:
        """The positions of each batch of an epoch.

        Images are shuffled, then sorted by length inside windows of 32 batches, so that a batch
        pads little; the batches are shuffled again.
        """
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.split.ids))
        window = 32 * self.batch_size
        for start in range(0, len(shuffled), window):
            part = shuffled[start : start + window]
            shuffled[start : start + window] = part[
                np.argsort(self.split.sizes[part], kind="stable")
            ]
        starts = np.arange(len(self)) * self.batch_size
        rng.shuffle(starts)
        return [shuffled[start : start + self.batch_size] for start in starts]

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``skip`` on."""
        for number, positions in enumerate(self.order(epoch)):
            if number >= skip:
                rng = np.random.default_rng([self.seed, epoch, number, 1])
                yield self.batch(positions, rng)

    def inorder(self) -> Iterator[Batch]:
        """All images once, in the split's order, first view: for validation and prediction."""
        for start in range(0, len(self.split.ids), self.batch_size):
            yield self.batch(np.arange(start, min(start + self.batch_size, len(self.split.ids))))

    def batch(self, positions: Ints, rng: np.random.Generator | None = None) -> Batch:
        """The Batch of this rank's share of ``positions``."""
        starts = self._windows(positions, rng)[self.rank :: self.world]
        view = None
        if rng is not None and self.views > 1:
            view = rng.integers(self.views, size=len(positions))[self.rank :: self.world]
        positions = positions[self.rank :: self.world]
        features, masks = {}, {}
        for role, reader in self.readers.items():
            features[role], mask = reader.gather(self.source[positions], view)
            if mask is not None:
                masks[role] = mask
        ids = [self.split.ids[i] for i in positions]
        return Batch(ids, features, masks, self._tokens(positions, starts))

    def _windows(self, positions: Ints, rng: np.random.Generator | None) -> Ints:
        """First caption of each image's window."""
        first, spare = self.split.first[positions], np.diff(self.split.first)[positions]
        spare = np.maximum(0, spare - self.captions)
        return first if rng is None else first + rng.integers(spare + 1)

    def _tokens(self, positions: Ints, starts: Ints) -> Tensor:
        rows = starts[:, None] + np.arange(self.captions)  # (B, C)
        rows = np.where(
            rows < self.split.first[positions + 1][:, None], rows, len(self.split.table) - 1
        )
        tokens = self.split.table[torch.from_numpy(rows)]  # (B, C, T)
        used = (tokens != self.words.pad).any(0).any(0)
        longest = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
        if self.words.eos == self.words.pad:
            longest += 1  # room for the end token, which looks like padding
        return tokens[:, :, : min(longest, tokens.shape[2])]


class Prefetched(Generic[T]):
    """An iterator that works ahead in a thread. ``waited``: seconds its reader stood still."""

    def __init__(self, source: Iterator[T], depth: int = 3, finish: Callable[[T], T] | None = None):
        self.waited = 0.0
        self._ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
        self._closed = threading.Event()
        self._source, self._finish = source, finish
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for item in self._source:
                if not self._put(self._finish(item) if self._finish else item):
                    return
            self._put(None)
        except BaseException as error:  # handed to the reader, which raises it
            self._put(error)

    def _put(self, item: "T | BaseException | None") -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        try:
            while True:
                start = time.perf_counter()
                item = self._ready.get()
                self.waited += time.perf_counter() - start
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.close()

    def close(self) -> None:
        """Stop working ahead."""
        self._closed.set()
        self._thread.join(timeout=5)
