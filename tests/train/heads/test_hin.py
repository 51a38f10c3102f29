"""HIN: the contract, and equality with the published code from the published names."""

import pytest
import torch

from precap.train.contract import Words
from precap.train.heads import hin
from tests.contracts import HeadContract
from tests.golden_heads import Published, check_beam, check_teacher_forcing, close, published


class TestHin(HeadContract):
    head = "hin"
    options = {"dim": 32, "heads": 4, "hidden": 64}
    dims = {"grid": 24, "region": 20}
    rows = {"grid": 9, "region": 7}


class TestFiveLevels(TestHin):
    """The interaction goes on zig-zag through any number of levels."""

    options = {**TestHin.options, "layers": 5}


@pytest.fixture(scope="module")
def golden() -> Published:
    return published("hin", "hin", {"grid": "grid", "region": "regions"}, {})


def test_published_encoder(golden: Published) -> None:
    masks = golden.head._masks(golden.features, golden.masks)
    with torch.no_grad():
        levels = golden.head.levels(golden.features, masks)
    tolerance = golden.case.tolerance("encoder")
    grid = torch.cat([g for g, _ in levels], 1)[:, ::48, ::16]
    region = torch.cat([r for _, r in levels], 1)[:, ::10, ::16]
    close(grid, golden.case.expected["encoder_grid"], tolerance)
    close(region, golden.case.expected["encoder_region"], tolerance)


def test_published_teacher_forcing(golden: Published) -> None:
    check_teacher_forcing(golden)


def test_published_beam(golden: Published) -> None:
    check_beam(golden)


def test_a_mask_gives_what_zero_rows_give(golden: Published) -> None:
    """With real masks the quirk is not needed, and padding need not be zero."""
    mask = torch.from_numpy(golden.case.inputs["regions_mask"])
    noisy = torch.where(mask[..., None], golden.features["region"], torch.tensor(3.0))
    tokens = torch.from_numpy(golden.case.inputs["captions"])
    expected = golden.logprobs(tokens)
    other = Published(
        golden.case,
        golden.head,
        {**golden.features, "region": noisy},
        {"region": mask},
        golden.words,
    )
    close(other.logprobs(tokens)[0], expected[0], 1e-5)
    close(other.logprobs(tokens)[1, :8], expected[1, :8], 1e-5)


def test_published_size() -> None:
    """79,344,646 as published: 3,151,872 of them never matter and 28,160 are the fixed table."""
    with torch.device("meta"):
        head = hin.HIN(hin.HINConfig(), {"grid": 1024, "region": 2048}, Words(10201, 1, 2, 3, 0))
    assert sum(p.numel() for p in head.parameters()) == 79_344_646 - 3_151_872 - 28_160
