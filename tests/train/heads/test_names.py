"""Published names map strictly: nothing is lost without a word, nothing unknown is taken."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from precap import plugins
from precap.config import build
from precap.errors import DataError
from precap.train import heads, published
from precap.train.contract import Words
from tests.golden_rule import HEADS
from tests.golden_rule import weight as rule_weight

#: Case -> format (= head) and the widths of its features.
CASES = {
    "hin": ("hin", {"grid": 1024, "region": 2048}),
    "m2": ("m2", {"region": 2048}),
    "grit_parallel": ("grit", {"grid": 1024, "region": 512}),
    "hiercap_parallel": ("hiercap", {"grid": 1024, "region": 512}),
    "hiercap_sequential": ("hiercap", {"grid": 1024, "region": 512}),
    "hiercap_concatenated_parallel": ("hiercap", {"grid": 1024, "region": 512}),
    "hiercap_concatenated_sequential": ("hiercap", {"grid": 1024, "region": 512}),
}


def original(case: str) -> dict[str, Tensor]:
    """The case's names with tensors of their shapes that hold nothing."""
    rows = json.loads((HEADS / f"{case}.json").read_text("utf-8"))["weights"]
    return {key: torch.empty(shape, device="meta") for key, shape, *_ in rows}


def load(case: str, state: dict[str, Tensor]) -> None:
    form, dims = CASES[case]
    kind = plugins.load(heads, form)
    config = build(kind.Config, published.options(kind, form, state))
    with torch.device("meta"):
        head = kind(config, dims, Words(97, 1, 2, 3, 0))
    published.load(head, form, state, "x.pth")


def without_a_bias(state: dict[str, Tensor]) -> str:
    key = next(k for k in state if k.endswith("pwff.fc2.bias"))
    del state[key]
    return f"{key} (here "


def with_one_more(state: dict[str, Tensor]) -> str:
    state["decoder.adapter.weight"] = torch.empty(2, device="meta")
    return "decoder.adapter.weight is unexpected"


def of_another_vocabulary(state: dict[str, Tensor]) -> str:
    key = next(k for k in state if k.endswith("word_emb.weight"))
    state[key] = torch.empty(98, 512, device="meta")
    return f"{key} (here decoder.embed.word.weight) is [98, 512]"


@pytest.mark.parametrize("case", CASES)
def test_every_name_finds_its_place(case: str) -> None:
    load(case, original(case))


@pytest.mark.parametrize("damage", [without_a_bias, with_one_more, of_another_vocabulary])
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_name_or_shape_is_listed(
    case: str, damage: Callable[[dict[str, Tensor]], str]
) -> None:
    state = original(case)
    what = damage(state)
    with pytest.raises(DataError, match=re.escape(what)):
        load(case, state)


@pytest.mark.parametrize("case", CASES)
def test_weights_of_something_else_say_so(case: str) -> None:
    kind = plugins.load(heads, CASES[case][0])
    with pytest.raises(DataError, match="not of this format"):
        published.options(kind, CASES[case][0], {"layer.weight": torch.empty(2)})


def test_a_checkpoint_with_its_training_state_is_read_without_running_code(tmp_path: Path) -> None:
    """As the originals save it: random states and scores of numpy beside the weights."""
    state = {
        f"module.{k}": torch.from_numpy(rule_weight("s", k, (2, 3))) for k in ("a.weight", "b")
    }
    whole = {
        "state_dict": state,
        "numpy_rng_state": np.random.RandomState(0).get_state(),
        "best_cider": np.float64(1.2),
        "epoch": 7,
    }
    torch.save(whole, tmp_path / "best.pth")
    found = published.read(tmp_path / "best.pth")
    assert sorted(found) == ["a.weight", "b"]
    assert all(torch.equal(found[k], state[f"module.{k}"]) for k in found)
