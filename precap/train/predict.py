"""Captions for images: batches through a head in eval mode, numbers back to text."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from precap.train.batch import floats
from precap.train.contract import Batch
from precap.train.decode import BAD_ENDINGS, Decoded, decode
from precap.train.settings import Decode
from precap.train.vocab import Vocabulary
from precap.types import Prediction


def casting(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bf16 or fp16, or nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)


@contextmanager
def evaluating(head: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the head's mode is put back."""
    training = head.training
    head.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        head.train(training)


def predict(
    head: Any,
    vocabulary: Vocabulary,
    batches: Iterable[Batch],
    config: Decode,
    device: torch.device,
    precision: str = "fp32",
) -> Iterator[list[Prediction]]:
    """The best caption of every image, batch by batch."""
    bad = [n for n in map(vocabulary.number, BAD_ENDINGS) if n is not None]
    for batch in batches:
        with evaluating(head), casting(device, precision):
            moved = floats(batch.to(device))
            memory = head.encode(moved.features, moved.masks)
            found = decode(head, memory, config, vocabulary.words, bad)
        yield written(batch.ids, found, vocabulary)


def written(ids: list[str], found: Decoded, vocabulary: Vocabulary) -> list[Prediction]:
    """The first caption of each image as text."""
    first, scores = found.tokens[:, 0].tolist(), found.scores[:, 0].tolist()
    return [
        Prediction(image, vocabulary.decode(tokens), score)
        for image, tokens, score in zip(ids, first, scores, strict=True)
    ]
