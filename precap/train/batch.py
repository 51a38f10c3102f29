"""From captions and rows of features to the tensors of a Batch."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from precap.train.contract import Batch, Words


def token_row(ids: Sequence[int], words: Words, longest: int) -> list[int]:
    """``bos w .. w eos``, at most ``longest`` words."""
    return [words.bos, *ids[:longest], words.eos]


def token_table(rows: Iterable[Sequence[int]], pad: int) -> Tensor:
    """Rows of different lengths as one (n, T) int64 table, padded."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad)


def lengths(tokens: Tensor, words: Words) -> Tensor:
    """How many predictions each row of (..., T) tokens asks for: its words and one eos.

    A row of pads only asks for none. Works whether pad, bos and eos are one number or three.
    """
    at = torch.arange(tokens.shape[-1], device=tokens.device)
    last = torch.where(tokens != words.pad, at, -1).amax(-1)  # (...), -1: a missing caption
    if words.eos == words.pad:
        last = torch.where(last >= (words.bos == words.pad), last + 1, -1)
    return last.clamp_min(0)


def shifted(tokens: Tensor, words: Words) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher forcing of (B, C, T) tokens: inputs, targets and real, each (B, C, T-1).

    Inputs are pads from the position on at which nothing is left to predict.
    """
    ahead = torch.arange(tokens.shape[-1] - 1, device=tokens.device)
    real = ahead < lengths(tokens, words)[..., None]
    inputs = torch.where(real, tokens[..., :-1], words.pad)
    return inputs, tokens[..., 1:], real


def floats(batch: Batch, dtype: torch.dtype = torch.float32) -> Batch:
    """The same batch with stored float16 features cast, on the device where they already are."""
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.features.items()}
    return replace(batch, features=cast)


def parts(batch: Batch, count: int) -> list[Batch]:
    """``batch`` cut along its images into at most ``count`` nearly equal parts."""
    if count <= 1:
        return [batch]
    cuts = [c for c in torch.arange(len(batch.ids)).tensor_split(count) if len(c)]
    return [_slice(batch, int(c[0]), int(c[-1]) + 1) for c in cuts]


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    return Batch(
        batch.ids[start:stop],
        {k: v[start:stop] for k, v in batch.features.items()},
        {k: v[start:stop] for k, v in batch.masks.items()},
        batch.tokens[start:stop],
    )


def pinned(batch: Batch) -> Batch:
    """The same batch in page-locked memory, from which copies to a GPU overlap with compute."""
    return Batch(
        batch.ids,
        {k: v if v.is_cuda else v.pin_memory() for k, v in batch.features.items()},
        {k: v if v.is_cuda else v.pin_memory() for k, v in batch.masks.items()},
        batch.tokens.pin_memory(),
    )
