"""Prefix heads: the contract, and equality with ClipCap, Tini-Tiny and OPG as published."""

from typing import Any

import numpy as np
import pytest
import torch

from precap import plugins
from precap.config import build
from precap.errors import ConfigError
from precap.train import heads, published
from precap.train.contract import Words
from precap.train.losses import advantages, cross_entropy, policy_gradient
from tests import golden_heads
from tests.contracts import HeadContract
from tests.golden_heads import close
from tests.golden_rule import Case, load_case, stream

SMALL = {"dim": 32, "heads": 4, "layers": 2, "positions": 64, "mapper_heads": 4}


class TestPooledMLP(HeadContract):
    head = "prefix"
    options = {**SMALL, "prefix": 4}
    dims = {"global": 12}


class TestPooledTransformer(TestPooledMLP):
    options = {**SMALL, "mapper": "transformer", "prefix": 4, "inner": 3, "mapper_layers": 2}


class TestTokenMLP(HeadContract):
    head = "prefix"
    options = {**SMALL, "hidden": 24}
    dims = {"grid": 12}
    rows = {"grid": 7}


class TestTokenTransformer(TestTokenMLP):
    options = {**SMALL, "mapper": "transformer", "prefix": 5, "mapper_layers": 2}


class TestSparse(TestTokenMLP):
    options = {**SMALL, "hidden": 24, "sparse": "exact", "rows": 7}
    fixed = frozenset({"grid"})
    unpadded = frozenset({"grid"})
    idle = ("mask.query", "keys.weight", "keys.bias", "values.weight", "values.bias",
            "mask.norm.weight", "mask.norm.bias")  # fmt: skip


class TestStraightThrough(TestSparse):
    options = {**TestSparse.options, "sparse": "straight-through"}
    idle = ()


def imported(case: Case, form: str, **changes: Any) -> Any:
    """The case's head, of a run that began with its weights; 4 attention heads, no normalising."""
    role, name = ("grid", "grid") if form == "opg" else ("global", "prefix")
    words = Words(size=97, pad=-1, bos=96, eos=13)  # id 0 is a real word here
    options = {"heads": 4, "normalise": False, **changes}
    dims = {role: case.inputs[name].shape[-1]}
    return golden_heads.imported(case, "prefix", form, dims, words, **options)


def tokens_of(case: Case) -> torch.Tensor:
    """(B, 1, 1 + T): a first slot that stands for the prefix, then the text."""
    text = torch.from_numpy(case.expected["tokens"].astype(np.int64))
    return torch.cat([torch.full_like(text[:, :1], 96), text], 1)[:, None]


def logprobs(head: Any, role: str, features: torch.Tensor, case: Case) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        memory = head.encode({role: features}, {})
        logits = head(memory, tokens_of(case)[..., :-1])
    found: np.ndarray[Any, Any] = logits.log_softmax(-1)[:, 0].numpy()
    return found


def real(case: Case) -> np.ndarray[Any, Any]:
    """Rows whose target is part of the text."""
    mask = case.expected["attention_mask"].astype(bool)
    return mask[:, -case.expected["tokens"].shape[1] :]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("clipcap_mlp", "clipcap"),
        ("clipcap_transformer", "clipcap"),
        ("tinytiny_transformer", "tinytiny"),
    ],
)  # fmt: skip
def test_published_clipcap(name: str, form: str) -> None:
    case = load_case(name)
    head = imported(case, form)
    features = torch.from_numpy(case.inputs["prefix"])
    with torch.no_grad():
        prefix = head.prefix({"global": features}, {}).numpy()
    if name.startswith("tiny"):
        prefix = prefix[:, ::4]
    close(prefix, case.expected["prefix_embeddings"], case.tolerance("prefix_embeddings"))
    found = logprobs(head, "global", features, case)
    rows = real(case)
    close(found[rows], case.expected["text_logprobs"][rows], case.tolerance("text_logprobs"))
    target = case.expected["tokens"]
    counted = target != 0
    loss = -np.take_along_axis(found, target[..., None].astype(int), -1)[..., 0][counted].mean()
    close(loss, case.expected["loss_f64"][0], case.tolerance("loss"))


@pytest.mark.parametrize("name", ["opg_mlp", "opg_transformer"])
def test_published_opg(name: str) -> None:
    case = load_case(name)
    grid = torch.from_numpy(case.inputs["grid"])
    plain = imported(case, "opg", threshold=0.5)
    with torch.no_grad():
        prefix = plain.prefix({"grid": grid}, {})
        hard, soft = plain.mask(prefix, 0.5)
        tenth, _ = plain.mask(prefix, 0.1)
    close(prefix.numpy()[:, ::5, ::8], case.expected["prefix_embeddings"], 1e-4)
    np.testing.assert_array_equal(hard.numpy(), case.expected["prefix_mask"])
    np.testing.assert_array_equal(tenth.numpy(), case.expected["prefix_mask_tau01"])
    close(soft.numpy(), case.expected["mask_probability"], case.tolerance("mask_probability"))
    rows = real(case)
    masked = logprobs(plain, "grid", grid, case)
    close(masked[rows], case.expected["text_logprobs_masked"][rows], 1e-4)
    soft_head = imported(case, "opg", threshold=0.5, sparse="straight-through")
    same = logprobs(soft_head, "grid", grid, case)
    close(same[rows], case.expected["text_logprobs_masked"][rows], 1e-4)
    open_head = imported(case, "opg", threshold=-1.0)
    unmasked = logprobs(open_head, "grid", grid, case)
    close(unmasked[rows], case.expected["text_logprobs_plain"][rows], 1e-4)


@pytest.mark.parametrize("name", ["opg_mlp", "opg_transformer"])
def test_published_opg_losses(name: str) -> None:
    """[XE plain, XE masked, auxiliary, total plain, total masked]; word 0 is not counted."""
    case = load_case(name)
    grid, expected = torch.from_numpy(case.inputs["grid"]), case.expected["losses_f64"]
    head = imported(case, "opg", threshold=0.5, auxiliary=1.0)
    target = case.expected["tokens"].astype(int)

    def xe(found: np.ndarray[Any, Any]) -> float:
        picked = -np.take_along_axis(found, target[..., None], -1)[..., 0]
        return float(picked[target != 0].mean())

    masked = xe(logprobs(head, "grid", grid, case))
    plain = xe(logprobs(imported(case, "opg", threshold=-1.0), "grid", grid, case))
    with torch.no_grad():
        auxiliary = float(head.auxiliary(head.encode({"grid": grid}, {}), tokens_of(case)))
    found = [plain, masked, auxiliary, plain + 0.1 * auxiliary, masked + 0.1 * auxiliary]
    close(found, expected, case.tolerance("losses"))


@pytest.mark.parametrize("name", ["opg_mlp", "opg_transformer"])
def test_published_opg_self_critical_loss(name: str) -> None:
    """Greedy and leave-one-out baselines on given rewards and mean log-probabilities."""
    case = load_case(name)
    seed = case.meta["seed"]

    def drawn(what: str, count: int) -> torch.Tensor:
        made = stream(seed, f"input/{what}").standard_normal((count,), dtype=np.float32)
        return torch.from_numpy(np.abs(made)).double()

    rewards = drawn("scst_sample_rewards", 20).view(4, 5)
    greedy = drawn("scst_greedy_rewards", 4)
    logp = -drawn("scst_logprobs", 20).view(4, 5, 1)
    there = torch.ones_like(logp, dtype=torch.bool)
    losses = []
    for baseline in ("greedy", "others"):
        total, count = policy_gradient(
            logp, there, advantages(rewards, baseline, greedy), "caption", 1
        )
        losses.append(float(total / count))
    close(losses, case.expected["scst_f64"], case.tolerance("scst"))


def test_the_exact_mask_never_learns_and_straight_through_does() -> None:
    words = Words(23, 1, 2, 3, 0)
    tokens = torch.tensor([[[2, 5, 6, 3]], [[2, 7, 8, 3]]])
    for sparse, learns in (("exact", False), ("straight-through", True)):
        torch.manual_seed(0)
        kind = plugins.load(heads, "prefix")
        options = {**SMALL, "hidden": 24, "rows": 6, "sparse": sparse}
        head = kind(build(kind.Config, options), {"grid": 12}, words)
        memory = head.encode({"grid": torch.randn(2, 6, 12)}, {})
        loss, _ = cross_entropy(head, memory, tokens, words)
        loss.backward()
        gradient = head.mask.query.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == learns


def test_a_frozen_language_model_gets_no_gradient_and_no_dropout() -> None:
    words = Words(23, 1, 2, 3, 0)
    kind = plugins.load(heads, "prefix")
    head = kind(build(kind.Config, {**SMALL, "prefix": 3, "tune": False}), {"global": 12}, words)
    head.train()
    assert not head.gpt.training
    memory = head.encode({"global": torch.randn(2, 12)}, {})
    loss, _ = cross_entropy(head, memory, torch.tensor([[[2, 5, 3]], [[2, 6, 3]]]), words)
    loss.backward()
    assert all(p.grad is None for p in head.gpt.parameters())
    assert all(p.grad is not None for p in head.mapper.parameters())


def test_a_mask_for_another_number_of_tokens_says_what_to_set() -> None:
    words = Words(23, 1, 2, 3, 0)
    kind = plugins.load(heads, "prefix")
    options = {**SMALL, "rows": 50, "sparse": "exact"}
    head = kind(build(kind.Config, options), {"grid": 12}, words)
    with pytest.raises(ConfigError, match=r"head\.rows=6"):
        head.encode({"grid": torch.randn(2, 6, 12)}, {})


def test_published_size() -> None:
    """ClipCap's MLP has 31.47 M parameters before GPT-2's 124.44 M."""
    kind = plugins.load(heads, "prefix")
    with torch.device("meta"):
        head = kind(kind.Config(), {"global": 512}, Words(50257, 0, 50256, 13))
    assert round(sum(p.numel() for p in head.gpt.parameters()) / 1e6, 2) == 124.44
    assert round(sum(p.numel() for p in head.mapper.parameters()) / 1e6, 2) == 31.47


@pytest.mark.parametrize(
    ("name", "wanted"), [("clipcap_mlp", False), ("clipcap_transformer", True)]
)
def test_a_released_transformer_mapping_wants_features_of_length_one(
    name: str, wanted: bool
) -> None:
    state = {key: torch.from_numpy(value) for key, value in load_case(name).weights.items()}
    kind = plugins.load(heads, "prefix")
    assert published.options(kind, "clipcap", state).get("normalise", False) is wanted
