"""CLIPScore and RefCLIPScore (Hessel et al., EMNLP 2021) from cached features, without pixels.

Image embeddings are the ``global`` rows of a CLIP store. Text embeddings come from a callable that
the caller gives (the store's own CLIP model), and are kept on disk per caption.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from precap import atomic
from precap.errors import DataError
from precap.evaluate.metrics import Scores, mean
from precap.text import normalise

Array = NDArray[np.floating]
#: Captions -> (n, D) text embeddings, any scale; the caller adds the prompt its model was told.
Embed = Callable[[Sequence[str]], Array]

_SCALE = 2.5  # w of equation 1
PROMPT = "A photo depicts "  # the prompt of the paper, section 3


class Texts:
    """Text embeddings by caption: asked for once, kept in one file.

    name: whatever tells text models apart (the store's weights); it is part of every key.
    """

    def __init__(self, embed: Embed, name: str, path: Path | None = None) -> None:
        self.embed, self.name, self.path = embed, name, path
        self.known: dict[str, NDArray[np.float32]] = {}
        if path is not None and path.is_file():
            self._load(path)

    def rows(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """(n, D) unit-length embeddings of n captions."""
        keys = [self._key(caption) for caption in captions]
        new = {k: c for k, c in zip(keys, captions, strict=True) if k not in self.known}
        if new:
            made = _unit(np.asarray(self.embed([PROMPT + normalise(c) for c in new.values()])))
            if len(made) != len(new):
                raise DataError(f"The text model gave {len(made)} rows for {len(new)} captions.")
            self.known.update(zip(new, made, strict=True))
            self._save()
        return np.stack([self.known[key] for key in keys])

    def _key(self, caption: str) -> str:
        return hashlib.sha256(f"{self.name}\n{PROMPT}{normalise(caption)}".encode()).hexdigest()

    def _load(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            self.known = dict(zip(file["keys"].tolist(), file["rows"], strict=True))

    def _save(self) -> None:
        if self.path is None:
            return
        with atomic.replacing(self.path) as partial, partial.open("wb") as file:
            np.savez(file, keys=np.array(list(self.known)), rows=np.stack([*self.known.values()]))


def add(
    scores: Scores,
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    images: Mapping[str, Array],
    texts: Texts,
) -> Scores:
    """``scores`` with CLIPScore and RefCLIPScore added, for the same images.

    images: image id -> (D,) CLIP image embedding, any scale. An image without one is an error.
    """
    missing = [i for i in scores.ids if i not in images]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(scores.ids)} images have no CLIP features, such as "
            f"{missing[0]}. Extract them into the CLIP store, or leave clipscore out."
        )
    pictures = _unit(np.stack([np.asarray(images[i]) for i in scores.ids]))
    captions = texts.rows([predictions[i] for i in scores.ids])
    if pictures.shape[1] != captions.shape[1]:
        raise DataError(
            f"The store's rows are {pictures.shape[1]} wide and the text model's "
            f"{captions.shape[1]}: they are of different CLIP models. Use the store's own."
        )
    clip = _SCALE * np.maximum((pictures * captions).sum(1), 0)
    flat = texts.rows([r for i in scores.ids for r in references[i]])
    answers = np.split(flat, np.cumsum([len(references[i]) for i in scores.ids])[:-1])
    nearest = np.array([(r @ c).max() for r, c in zip(answers, captions, strict=True)])
    nearest = np.maximum(nearest, 0)
    total = clip + nearest
    both = np.divide(2 * clip * nearest, total, out=np.zeros_like(total), where=total > 0)
    return scores.extended({"CLIPScore": mean(clip), "RefCLIPScore": mean(both)})


def _unit(rows: Array) -> NDArray[np.float32]:
    wide = rows.astype(np.float32)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return unit
