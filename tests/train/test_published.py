"""Weights of other systems: read without running their code, mapped strictly, usable at once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from precap import training
from precap.errors import ConfigError, DataError
from precap.train import published, run
from precap.train.heads.m2 import PLUGIN as M2
from tests.golden_rule import load_case
from tests.train import toy


def state() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.ones(2, 3), "b": torch.zeros(2)}


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "model", "module", "full"])
def test_every_usual_wrapping(tmp_path: Path, wrapped: str) -> None:
    inside = state()
    saved: dict[str, Any] = {
        "plain": inside,
        "state_dict": {"state_dict": inside, "epoch": 3},
        "model": {"epoch": 1, "model": inside},
        "module": {"state_dict": {f"module.{k}": v for k, v in inside.items()}},
        "full": {  # what M2 and HIN save: random states and scores are numpy's
            "state_dict": inside,
            "numpy_rng_state": np.random.RandomState(0).get_state(),
            "best_cider": np.float64(1.3),
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        },
    }[wrapped]
    torch.save(saved, tmp_path / "w.pth")
    found = published.read(tmp_path / "w.pth")
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in inside.items()}


def test_safetensors(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    assert published.read(tmp_path / "w.safetensors").keys() == state().keys()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "args": Bomb(tmp_path / "exploded")}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="no plain weights file"):
        published.read(tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


def test_what_is_not_there_or_not_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no weights file"):
        published.read(tmp_path / "absent.pth")
    (tmp_path / "noise.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match=r"noise\.pth is no checkpoint: it begins with b'not a ch"):
        published.read(tmp_path / "noise.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(DataError, match="no named weights"):
        published.read(tmp_path / "empty.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_was_cut_short_is_called_damaged(tmp_path: Path, zipped: bool) -> None:
    torch.save(
        {"a.weight": torch.ones(99, 99)}, tmp_path / "w.pth",
        _use_new_zipfile_serialization=zipped,
    )  # fmt: skip
    whole = (tmp_path / "w.pth").read_bytes()
    for part in (0.02, 0.5, 0.99):
        (tmp_path / "w.pth").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DataError, match="damaged or cut short"):
            published.read(tmp_path / "w.pth")


def test_the_format_chooses_the_head(tmp_path: Path) -> None:
    for name in ("m2", "hin", "grit", "hiercap", "ort", "spatial"):
        assert published.head_of(name, tmp_path) == name
    assert {published.head_of(n, tmp_path) for n in ("clipcap", "tinytiny", "opg")} == {"prefix"}
    for mark, head in (("core.att_lstm.weight_ih", "updown"), ("core.a2c.weight", "att2in")):
        names = ("att_embed.0.weight", "ctx2att.weight", "embed.0.weight", mark)
        save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "w.safetensors")
        assert published.head_of("self-critical", tmp_path / "w.safetensors") == head
    chosen = training._chosen_head({}, {"init": tmp_path / "w", "init_format": "m2"})
    assert chosen == ("m2", "reads m2 weights")
    with pytest.raises(ConfigError, match="Did you mean 'm2'"):
        published.head_of("m22", tmp_path)
    with pytest.raises(ConfigError, match=r"--init-format.*clipcap"):
        published.head_of("", tmp_path)


def test_formats_by_name() -> None:
    assert published.form_of(M2, "") == "m2"
    with pytest.raises(ConfigError, match="Did you mean 'm2'"):
        published.form_of(M2, "m22")


def test_published_weights_make_a_run_that_captions(tmp_path: Path) -> None:
    """The public path: --init FILE and no epochs; strictly, every name accounted for."""
    weights = {k: torch.from_numpy(v) for k, v in load_case("m2").weights.items()}
    torch.save({"state_dict": weights}, tmp_path / "m2.pth")
    width = next(v.shape[1] for k, v in weights.items() if k.endswith("encoder.fc.weight"))
    words = ["<unk>", "<pad>", "<bos>", "<eos>", *(f"w{n}" for n in range(93))]
    (tmp_path / "vocab.json").write_text('{"itos": ["' + '", "'.join(words) + '"]}')
    store, captions = toy.data(4, 2)
    region = store.spec.fields[1]
    spec = type(store.spec)("toy", 1, "none", (type(region)("rows", "region", (None, width)),))
    rng = np.random.default_rng(0)
    rows = {i: {"rows": rng.standard_normal((5, width)).astype(np.float32)} for i in store.rows}
    changes = {
        "head": "m2",
        "head_config": {},
        "init": tmp_path / "m2.pth",
        "text.vocabulary": "hin",
        "text.files": tmp_path / "vocab.json",
        "xe.epochs": 0,
        "scst.epochs": 0,
        "average": 0.0,
    }
    given = {"stores": {"toy": type(store)(spec, rows)}, "captions": captions}
    toy.fit(tmp_path / "run", changes, **given)
    trained = run.load(tmp_path / "run", device="cpu")
    said = trained.generate(given["stores"], list(rows))  # type: ignore[arg-type]
    assert len(said) == 6
    weights.pop(next(iter(weights)))
    torch.save(weights, tmp_path / "m2.pth")
    with pytest.raises((DataError, ConfigError), match="missing"):
        toy.fit(tmp_path / "other", changes, **given)
