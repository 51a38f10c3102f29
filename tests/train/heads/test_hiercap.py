"""HierCap: the contract for every fusion, and equality with the published code."""

import pytest
import torch

from precap.errors import ConfigError
from precap.train.contract import Words
from precap.train.heads import hiercap
from tests.contracts import HeadContract
from tests.golden_heads import Published, check_beam, check_teacher_forcing, close, published

ROLES = {"grid": "gri_feat", "region": "reg_feat"}
MASKS = {"grid": "gri_mask"}
FUSIONS = ("parallel", "sequential", "concatenated_parallel", "concatenated_sequential")


class TestParallel(HeadContract):
    head = "hiercap"
    options = {"dim": 32, "heads": 4, "hidden": 64, "cells": 9}
    dims = {"grid": 24, "region": 20}
    rows = {"grid": 9, "region": 7}
    fixed = frozenset({"grid"})


class TestSequential(TestParallel):
    options = {**TestParallel.options, "fusion": "sequential"}


class TestSharedAttention(TestParallel):
    options = {**TestParallel.options, "fusion": "sequential", "shared_attention": True}


class TestConcatenatedParallel(TestParallel):
    options = {**TestParallel.options, "fusion": "concatenated_parallel"}


class TestConcatenatedSequential(TestParallel):
    options = {**TestParallel.options, "fusion": "concatenated_sequential"}


@pytest.fixture(scope="module", params=FUSIONS)
def golden(request: pytest.FixtureRequest) -> Published:
    return published(f"hiercap_{request.param}", "hiercap", ROLES, MASKS)


def test_published_memories(golden: Published) -> None:
    with torch.no_grad():
        sources = golden.head.sources(golden.features, golden.masks)
    tolerance, expected = golden.case.tolerance("memories"), golden.case.expected
    close(sources["grid"][:, ::7, ::16], expected["grid_memory"], tolerance)
    close(sources["global"][:, ::7, ::16], expected["global_memory"], tolerance)


def test_published_teacher_forcing(golden: Published) -> None:
    check_teacher_forcing(golden)


def test_published_beam() -> None:
    check_beam(published("hiercap_parallel", "hiercap", ROLES, MASKS))


def test_padded_cells_reach_the_captions_only_as_published(golden: Published) -> None:
    """Noise in padded cells: an influence through the global encoder, unless it is masked."""
    mask = golden.masks["grid"]
    noise = torch.where(mask[..., None], golden.features["grid"], torch.tensor(2.0))
    tokens = torch.from_numpy(golden.case.inputs["captions"])
    for sees in (True, False):
        head = remade(golden, global_sees_padding=sees)
        before = Published(golden.case, head, golden.features, golden.masks, golden.words)
        changed = {**golden.features, "grid": noise}
        after = Published(golden.case, head, changed, golden.masks, golden.words)
        change = (after.logprobs(tokens) - before.logprobs(tokens))[0, :10].abs().max()
        assert (change > 1e-4) == sees


def remade(golden: Published, **options: bool) -> hiercap.HierCap:
    """The golden head with other options and the same weights."""
    state = {key: torch.from_numpy(value) for key, value in golden.case.weights.items()}
    config = hiercap.HierCapConfig(**{**hiercap.options(state), **options})
    dims = {role: x.shape[-1] for role, x in golden.features.items()}
    head = hiercap.HierCap(config, dims, golden.words).eval()
    head.load_state_dict(golden.head.state_dict())
    return head


def test_another_grid_is_refused_in_words() -> None:
    head = hiercap.HierCap(
        hiercap.HierCapConfig(dim=16, heads=2, hidden=16, cells=12),
        {"grid": 4, "region": 4},
        Words(9, 1, 2, 3, 0),
    )
    features = {"grid": torch.zeros(1, 49, 4), "region": torch.zeros(1, 2, 4)}
    with pytest.raises(ConfigError, match=r"49 cells.*built for 12.*head\.cells=49"):
        head.encode(features, {})


@pytest.mark.parametrize(
    ("fusion", "size"),
    list(zip(FUSIONS, (51_524_905, 46_801_705, 46_795_561, 40_491_817), strict=True)),
)
def test_published_size(fusion: str, size: int) -> None:
    """As published, 28,160 of them the fixed position table."""
    with torch.device("meta"):
        config = hiercap.HierCapConfig(fusion=fusion)  # type: ignore[arg-type]
        head = hiercap.HierCap(config, {"grid": 1024, "region": 512}, Words(10201, 1, 2, 3, 0))
    assert sum(p.numel() for p in head.parameters()) == size - 28_160
