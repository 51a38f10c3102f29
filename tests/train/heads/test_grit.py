"""GRIT: the contract, and equality with the published code from the published names."""

import pytest
import torch

from precap.train.contract import Words
from precap.train.heads import grit
from tests.contracts import HeadContract
from tests.golden_heads import Published, check_beam, check_teacher_forcing, close, published

ROLES = {"grid": "gri_feat", "region": "reg_feat"}
MASKS = {"grid": "gri_mask"}


class TestParallel(HeadContract):
    head = "grit"
    options = {"dim": 32, "heads": 4, "hidden": 64}
    dims = {"grid": 24, "region": 20}
    rows = {"grid": 9, "region": 7}


class TestSequential(TestParallel):
    options = {**TestParallel.options, "fusion": "sequential"}


class TestConcatenated(TestParallel):
    options = {**TestParallel.options, "fusion": "concatenated"}


class TestRegionsOfModelWidth(TestParallel):
    dims = {"grid": 24, "region": 32}


@pytest.fixture(scope="module")
def golden() -> Published:
    return published("grit_parallel", "grit", ROLES, MASKS)


def test_published_memory(golden: Published) -> None:
    with torch.no_grad():
        rows = golden.head.grid(golden.features["grid"], golden.masks["grid"][:, None, None])
    tolerance = golden.case.tolerance("memories")
    close(rows[:, ::7, ::16], golden.case.expected["grid_memory"], tolerance)


def test_published_teacher_forcing(golden: Published) -> None:
    check_teacher_forcing(golden)


def test_published_beam(golden: Published) -> None:
    check_beam(golden)


def test_each_view_has_its_own_gate_unless_told_otherwise(golden: Published) -> None:
    head = grit.GRIT(grit.GRITConfig(), {"grid": 8, "region": 8}, golden.words)
    assert len(head.decoder.layers[0].gates) == 2
    assert len(golden.head.decoder.layers[0].gates) == 1


def test_published_size() -> None:
    """29,389,824 in the caption generator as published, 28,160 of them the position table."""
    with torch.device("meta"):
        dims = {"grid": 1024, "region": 512}
        head = grit.GRIT(grit.GRITConfig(), dims, Words(10201, 1, 2, 3, 0))
    assert sum(p.numel() for p in head.decoder.parameters()) == 29_389_824 - 28_160
