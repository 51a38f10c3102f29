"""GPT-2 weights under Hugging Face's names: found, fitted, and read only for a fresh beginning."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from precap import hub, plugins
from precap.config import build
from precap.errors import ConfigError, DataError
from precap.train import heads, settings, vocab
from precap.train import run as runs
from precap.train.contract import Words
from precap.train.heads import _pretrained
from tests.train import toy

DIM, LAYERS, WORDS, PLACES = 16, 2, 41, 32


def hugging_face(seed: int = 0, words: int = WORDS) -> dict[str, torch.Tensor]:
    """A tiny GPT-2 as transformers names it, its buffers and tied output included."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    found = {"wte.weight": random(words, DIM), "wpe.weight": random(PLACES, DIM)}
    for i in range(LAYERS):
        at = f"h.{i}"
        for name in ("ln_1", "ln_2"):
            found |= {f"{at}.{name}.weight": random(DIM), f"{at}.{name}.bias": random(DIM)}
        for name, wide, out in (
            ("attn.c_attn", DIM, 3 * DIM), ("attn.c_proj", DIM, DIM),
            ("mlp.c_fc", DIM, 4 * DIM), ("mlp.c_proj", 4 * DIM, DIM),
        ):  # fmt: skip
            found |= {f"{at}.{name}.weight": random(wide, out), f"{at}.{name}.bias": random(out)}
        found[f"{at}.attn.bias"] = torch.ones(1, 1, PLACES, PLACES)
    return found | {"ln_f.weight": random(DIM), "ln_f.bias": random(DIM)}


def head(language_model: Path | str, words: int = WORDS, **changes: Any) -> Any:
    kind = plugins.load(heads, "prefix")
    sizes = {"dim": DIM, "heads": 4, "layers": LAYERS, "positions": PLACES, "prefix": 3}
    config = build(kind.Config, {**sizes, "language_model": str(language_model), **changes})
    return kind(config, {"global": 6}, Words(words, 0, 40, 13))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(hugging_face(), tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_and_a_file_of_either_kind_are_the_same(folder: Path, tmp_path: Path) -> None:
    torch.save(hugging_face(), tmp_path / "pytorch_model.bin")
    found = []
    for where in (folder, folder / "model.safetensors", tmp_path / "pytorch_model.bin"):
        made = head(where)
        made.pretrained()
        found.append(made.gpt.state_dict())
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())
    assert torch.equal(found[0]["word.weight"], hugging_face()["wte.weight"])
    inner = hugging_face()["h.1.attn.c_attn.weight"]  # (in, 3 out) -> q, k, v (out, in)
    assert torch.equal(found[0]["blocks.1.own.v.weight"], inner[:, 2 * DIM :].T)


def test_it_continues_text_as_the_formula_says(folder: Path) -> None:
    made = head(folder)
    made.pretrained()
    made.eval()
    with torch.no_grad():
        memory = made.encode({"global": torch.ones(1, 6)}, {})
        logits = made(memory, torch.tensor([[[40, 5, 7]]]))[0, 0]  # (3, V)
        prefix = made.prefix({"global": torch.ones(1, 6)}, {})[0]
    expected = reference(hugging_face(), prefix.numpy(), [5, 7])
    assert np.abs(logits.numpy() - expected).max() < 2e-3 * np.abs(expected).max()


def reference(w: dict[str, torch.Tensor], prefix: Any, tokens: list[int]) -> Any:
    """GPT-2 written out in float64: logits after the prefix and after each token."""
    p = {k: v.numpy().astype(np.float64) for k, v in w.items()}
    x = np.concatenate([prefix, p["wte.weight"][tokens]]) + p["wpe.weight"][: len(prefix) + 2]

    def norm(x: Any, at: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * p[f"{at}.weight"] + p[f"{at}.bias"]

    def linear(x: Any, at: str) -> Any:
        return x @ p[f"{at}.weight"] + p[f"{at}.bias"]

    for i in range(LAYERS):
        q, k, v = np.split(linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, -1)
        q, k, v = (y.reshape(len(x), 4, -1).transpose(1, 0, 2) for y in (q, k, v))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones(scores.shape[1:])) > 0, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), f"h.{i}.attn.c_proj")
        y = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + linear(y, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f")[len(prefix) - 1 :] @ p["wte.weight"].T


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 8}, "head.dim=16"),
        ({"layers": 3}, "head.layers=2"),
        ({"positions": 64}, "head.positions=32"),
        ({"words": 40}, "text.vocabulary=gpt2"),
    ],
)
def test_another_size_names_the_option_to_set(
    folder: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        head(folder, **changes).pretrained()


def test_a_missing_file_and_a_damaged_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        head(tmp_path).pretrained()
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="damaged"):
        head(tmp_path).pretrained()


def test_a_name_out_of_reach_says_which_file_and_which_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_args, **_options: None)
    with pytest.raises(ConfigError) as caught:
        head("gpt2").pretrained()
    for word in ("model.safetensors", "hf download openai-community/gpt2", "language_model="):
        assert word in str(caught.value)


def test_the_cache_of_the_hub_is_looked_at_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(repo: str, files: object, *, offline: bool) -> Path | None:
        asked.append((repo, offline))
        return folder / "model.safetensors" if repo == "distilgpt2" else None

    monkeypatch.setattr(hub, "fetch", fetch)
    assert _pretrained.find("distilgpt2") == folder / "model.safetensors"
    assert asked == [("distilbert/distilgpt2", True), ("distilgpt2", True)]


def test_the_file_is_read_for_a_fresh_beginning_and_never_again(tmp_path: Path) -> None:
    _, captions = toy.data()
    flat = {split: [c for cs in images.values() for c in cs] for split, images in captions.items()}
    size = vocab.make(settings.resolve(toy.SMALL).text, flat).words.size
    file, out = tmp_path / "model.safetensors", tmp_path / "run"
    save_file(hugging_face(words=size), file)
    options = {"dim": DIM, "heads": 4, "layers": LAYERS, "positions": PLACES, "hidden": 24}
    changes = {
        "head": "prefix", "head_config": {**options, "tune": False, "language_model": str(file)},
        "xe.epochs": 1, "scst.epochs": 0, "average": 0.0,
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        toy.fit(out, changes, on_event=toy.Stop(2))
    file.unlink()
    assert toy.fit(out, changes).steps == 4
    kept = runs.load(out, "best", "cpu").head.gpt.word.weight
    assert torch.equal(kept, hugging_face(words=size)["wte.weight"])
    with pytest.raises(ConfigError, match="language_model"):
        toy.fit(tmp_path / "other", changes)


def test_a_prefix_as_long_as_the_language_model_is_refused() -> None:
    made = head("", positions=3)
    with pytest.raises(ConfigError, match=r"head\.positions"):
        made.encode({"global": torch.ones(1, 6)}, {})
