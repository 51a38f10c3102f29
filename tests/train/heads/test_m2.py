"""M2: the contract, and equality with the published code from the published names."""

import pytest
import torch

from precap.train.contract import Words
from precap.train.heads import m2
from tests.contracts import HeadContract
from tests.golden_heads import Published, check_beam, check_teacher_forcing, close, published


class TestM2(HeadContract):
    head = "m2"
    options = {"dim": 32, "heads": 4, "hidden": 64, "slots": 5}
    dims = {"region": 20}
    rows = {"region": 7}


class TestAllRowsVisible(TestM2):
    """As the original: nothing is masked, whatever the masks say."""

    options = {**TestM2.options, "visible_rows": 7}
    fixed = frozenset({"region"})
    unpadded = frozenset({"region"})


@pytest.fixture(scope="module")
def golden() -> Published:
    return published("m2", "m2", {"region": "regions"}, {"region": "regions_mask"})


def test_published_encoder(golden: Published) -> None:
    with torch.no_grad():
        levels = golden.head.levels(golden.features["region"], None)
    found = torch.stack(levels, 1)[:, :, ::10, ::16]
    close(found, golden.case.expected["encoder_levels"], golden.case.tolerance("encoder_levels"))


def test_published_teacher_forcing(golden: Published) -> None:
    check_teacher_forcing(golden)


def test_published_beam(golden: Published) -> None:
    check_beam(golden)


def test_published_answers_do_not_depend_on_how_the_batch_was_padded(golden: Published) -> None:
    """The original pads to 50 rows and sees them all; a batch cut to 36 rows must give the same."""
    tokens = torch.from_numpy(golden.case.inputs["captions"])[1:]
    short = {"region": golden.features["region"][1:, :36]}
    mask = {"region": golden.masks["region"][1:, :36]}
    cut = Published(golden.case, golden.head, short, mask, golden.words)
    close(cut.logprobs(tokens), golden.logprobs(tokens.expand(2, -1))[1:], 1e-5)


def test_masking_padding_is_the_default_and_changes_the_answers(golden: Published) -> None:
    tokens = torch.from_numpy(golden.case.inputs["captions"])
    config = m2.M2Config(positions="xavier", visible_rows=0)
    head = m2.M2(config, {"region": 2048}, golden.words).eval()
    head.load_state_dict(golden.head.state_dict())
    masked = Published(golden.case, head, golden.features, golden.masks, golden.words)
    change = (masked.logprobs(tokens) - golden.logprobs(tokens)).abs()[:, :8].amax((1, 2))
    assert change[0] < 1e-5  # the first image has no padding
    assert change[1] > 0.1


def test_published_size() -> None:
    """38,439,424 as published, 28,160 of them the fixed position table."""
    with torch.device("meta"):
        head = m2.M2(m2.M2Config(), {"region": 2048}, Words(10201, 1, 2, 3, 0))
    assert sum(p.numel() for p in head.parameters()) == 38_439_424 - 28_160
