"""Heads of the self-critical.pytorch family: the contract, and equality with the published code."""

from typing import Any

import numpy as np
import pytest
import torch

from precap.errors import ConfigError
from precap.train.contract import Words
from precap.train.decode import decode
from precap.train.heads import _boxes, ort, spatial
from precap.train.settings import Decode
from tests.contracts import HeadContract
from tests.golden_heads import Published, close, published

#: How the originals number 97 words: 0 begins, ends and pads; the last is UNK.
SHARED = Words(size=97, pad=0, bos=0, eos=0, unk=96)
SMALL = {"dim": 32, "heads": 4, "hidden": 64, "layers": 2}


class TestUpdown(HeadContract):
    head = "updown"
    options = {"dim": 24, "words": 16, "attention": 12}
    dims = {"region": 20, "global": 10}
    rows = {"region": 7}


class TestUpdownWithoutGlobal(TestUpdown):
    dims = {"grid": 20}
    rows = {"grid": 7}


class TestAtt2in(HeadContract):
    head = "att2in"
    options = {"dim": 24, "words": 16, "attention": 12}
    dims = {"grid": 20}
    rows = {"grid": 7}


class TestOrt(HeadContract):
    head = "ort"
    options = SMALL
    dims = {"region": 20, "boxes": 4, "size": 2}
    rows = {"region": 7, "boxes": 7}


class TestSpatial(HeadContract):
    head = "spatial"
    options = {**SMALL, "squeezed": 16, "cells": 3}
    dims = {"region": 20, "weights": 9}
    rows = {"region": 7, "weights": 7}


class TestSpatialFromBoxes(HeadContract):
    head = "spatial"
    options = {**SMALL, "look": "dot"}
    dims = {"region": 20, "boxes": 4, "size": 2}
    rows = {"region": 7, "boxes": 7}


class TestSpatialFlat(TestSpatialFromBoxes):
    options = {**SMALL, "squeezed": 16, "encoding": "g2", "cells": 4}


class TestSpatialBox(TestSpatialFromBoxes):
    options = {**SMALL, "squeezed": 16, "encoding": "box"}


@pytest.fixture(scope="module")
def cases() -> dict[str, Published]:
    region = {"region": "att_feats"}
    mask = {"region": "att_feats_mask"}
    found = {
        "topdown": published(
            "topdown", "self-critical", region | {"global": "fc_feats"}, mask, SHARED, "updown"
        ),
        "ort": published("ort", "ort", region | {"boxes": "boxes"}, mask, SHARED),
        "spatial_pe": published("spatial_pe", "spatial", region | {"boxes": "boxes"}, mask, SHARED),
    }
    for name in ("ort", "spatial_pe"):
        boxes = torch.from_numpy(found[name].case.expected["rel_boxes"])
        found[name].features["boxes"] = boxes
    return found


NAMES = ("topdown", "ort", "spatial_pe")


@pytest.mark.parametrize("name", NAMES)
def test_published_teacher_forcing(name: str, cases: dict[str, Published]) -> None:
    p = cases[name]
    labels = torch.from_numpy(p.case.expected["labels"].astype(np.int64))
    found = p.logprobs(labels[:, :-1]).numpy()
    real = labels[:, :-1].numpy() != 0
    real[:, 0] = True
    expected = p.case.expected["teacher_logprobs"]
    close(found[real], expected[real], p.case.tolerance("teacher_logprobs"))


def ended(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Everything up to and with the first 0."""
    return np.cumsum(tokens == 0, -1) - (tokens == 0) == 0


@pytest.mark.parametrize("name", NAMES)
def test_published_greedy(name: str, cases: dict[str, Published]) -> None:
    p = cases[name]
    longest = p.case.expected["greedy_tokens"].shape[1]
    config = Decode(beam=1, longest=longest, suppress_unk=False)
    with torch.no_grad():
        found = decode(p.head, p.encode(), config, SHARED)
    tokens = torch.nn.functional.pad(found.tokens[:, 0], (0, longest - found.tokens.shape[2]))
    expected = p.case.expected["greedy_tokens"]
    keep = ended(expected)
    np.testing.assert_array_equal(tokens.numpy()[keep], expected[keep])
    missing = longest - found.logprobs.shape[2]
    logprobs = torch.nn.functional.pad(found.logprobs[:, 0], (0, missing)).numpy()
    close(
        logprobs[keep],
        p.case.expected["greedy_logprobs"][keep],
        p.case.tolerance("teacher_logprobs"),
    )


@pytest.mark.parametrize("name", NAMES)
def test_published_beam(name: str, cases: dict[str, Published]) -> None:
    """Finished hypotheses are put aside, and the last word is suppressed."""
    p = cases[name]
    expected = p.case.expected["beam_tokens"]
    rule = p.case.meta["inputs"]["decode"]
    config = Decode(
        beam=rule["beam_size"], longest=rule["max_len"], finished="released", all_beams=True
    )
    with torch.no_grad():
        found = decode(p.head, p.encode(), config, SHARED)
    missing = expected.shape[2] - found.tokens.shape[2]
    tokens = torch.nn.functional.pad(found.tokens, (0, missing)).numpy()
    np.testing.assert_array_equal(tokens, expected)
    close(found.scores.numpy(), p.case.expected["beam_scores"], p.case.tolerance("beam_scores"))
    logprobs = torch.nn.functional.pad(found.logprobs, (0, missing)).numpy()
    expected = p.case.expected["beam_token_logprobs"]
    close(logprobs, expected, p.case.tolerance("beam_scores"))


def test_published_geometry(cases: dict[str, Published]) -> None:
    case = cases["ort"].case
    boxes = torch.from_numpy(case.expected["box5"])[None]
    raw = _boxes.pairs(boxes)
    close(raw[0].numpy(), case.expected["box5_raw"], case.tolerance("box5_raw"))
    close(
        _boxes.waves(_boxes.pairs(boxes.double()))[0].numpy(),
        case.expected["box5_embedding"],
        case.tolerance("box5_embedding"),
    )


def test_row_and_column_sums_from_boxes_equal_those_of_the_grid(
    cases: dict[str, Published],
) -> None:
    """24 numbers made on the fly instead of 144 stored ones."""
    expected = cases["spatial_pe"].case.expected
    boxes = torch.from_numpy(expected["rel_boxes"])
    rows, columns = _boxes.sums(*_boxes.coverage(boxes, 12))
    close(rows.numpy(), expected["grid_row_sums"], 1e-5)
    close(columns.numpy(), expected["grid_col_sums"], 1e-5)


def test_stored_grid_weights_give_the_same_answer(cases: dict[str, Published]) -> None:
    p = cases["spatial_pe"]
    boxes = p.features["boxes"]
    rows, columns = _boxes.coverage(boxes, 12)
    grid = (rows[..., :, None] * columns[..., None, :]).flatten(-2)  # (B, N, 144)
    features = {"region": p.features["region"], "weights": grid}
    labels = torch.from_numpy(p.case.expected["labels"].astype(np.int64))[:, :-1]
    other = Published(p.case, p.head, features, p.masks, p.words)
    real = labels != 0
    close(other.logprobs(labels)[real].numpy(), p.logprobs(labels)[real].numpy(), 1e-5)


def test_grid_weights_of_another_size_say_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"head\.cells=24"):
        spatial.Spatial(spatial.SpatialConfig(), {"region": 8, "weights": 576}, SHARED)


def test_regions_without_boxes_say_what_to_add() -> None:
    with pytest.raises(ConfigError, match="geometry --parent"):
        spatial.Spatial(spatial.SpatialConfig(), {"region": 8}, SHARED)


def test_published_sizes() -> None:
    """spatial_pe: 56,794,390 parameters at V + 1 = 9488, README sizes."""
    with torch.device("meta"):
        head = spatial.Spatial(
            spatial.SpatialConfig(), {"region": 2048, "boxes": 4}, Words(9488, 0, 0, 0, 9487)
        )
        relation = ort.Ort(ort.OrtConfig(), {"region": 2048, "boxes": 4}, SHARED)
    assert sum(p.numel() for p in head.parameters()) == 56_794_390
    assert len([k for k in relation.state_dict() if "geometry" in k]) == 12


def test_updown_published_size() -> None:
    """52,125,025 parameters for V + 1 = 9488 with fc and att of 2048."""
    from precap.train.heads import updown

    with torch.device("meta"):
        head = updown.Updown(
            updown.UpdownConfig(), {"region": 2048, "global": 2048}, Words(9488, 0, 0, 0, 9487)
        )
    assert sum(p.numel() for p in head.parameters()) == 52_125_025


def test_scheduled_sampling_feeds_back_own_words_in_training_only() -> None:
    from precap.train.heads import updown

    torch.manual_seed(0)
    words = Words(23, 1, 2, 3, 0)
    head = updown.Updown(updown.UpdownConfig(24, 16, 12, 0.0), {"grid": 8}, words)
    tokens = torch.randint(4, 23, (2, 3, 9))
    memory = head.encode({"grid": torch.randn(2, 5, 8)}, {})
    plain = head(memory, tokens)
    head.sampling = 1.0
    assert not torch.allclose(plain, head(memory, tokens))
    head.eval()
    assert torch.equal(plain, head(memory, tokens))
