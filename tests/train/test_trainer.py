import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from precap.errors import ConfigError, DataError, ResourceError
from precap.train import checkpoint, run
from precap.train.cache import Memory
from precap.train.events import Event
from precap.train.result import TrainingError
from tests.train import toy

ROOT = Path(__file__).parents[2]


def log(out: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    timed = ("images_per_second", "wait", "seconds")
    return [
        {k: v for k, v in line.items() if k not in timed} for line in lines if line["kind"] in kinds
    ]


def same_run(a: Path, b: Path) -> None:
    """Bit for bit: every tensor of the last checkpoint, every figure that is not a time."""
    first, second = load_file(a / "last.safetensors"), load_file(b / "last.safetensors")
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    kinds = ("xe", "scst", "validation")
    assert log(a, *kinds) == log(b, *kinds)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run: 8 updates of cross-entropy, 4 self-critical ones."""
    out = tmp_path_factory.mktemp("whole") / "run"
    toy.fit(out)
    return out


def test_it_learns_what_the_features_say(tmp_path: Path) -> None:
    longer = {"xe.epochs": 25, "scst.epochs": 0, "validate_epochs": 25}
    result = toy.fit(tmp_path / "run", longer)
    blind = toy.fit(tmp_path / "blind", {**longer, "shuffle_features": True})
    assert result.best is not None
    assert blind.best is not None
    assert result.best > 2 * blind.best
    assert result.steps == 100
    assert result.parameters > 0
    assert result.peak_memory > 0


def test_a_run_captions_again_as_it_did(whole: Path) -> None:
    store, captions = toy.data()
    trained = run.load(whole, device="cpu")
    again = run.load(whole, device="cpu").generate({"any name": store}, list(captions["val"]))
    made = trained.generate({"toy": store}, list(captions["val"]))
    assert made == again
    assert [p.image_id for p in made] == list(captions["val"])
    one = list(captions["val"])[3]
    assert trained.caption({one: {"toy": store.rows[one]}})[0].caption == made[3].caption
    words, weights = trained.attend({"toy": store}, {one: "a red dog"})[one]
    assert words == ["a", "red", "dog", "<end>"]
    assert weights["grid"].shape == (4, 4)
    both = sum(w.sum(1) for w in weights.values())
    torch.testing.assert_close(both, torch.ones(4))


def test_logs_and_checkpoints(whole: Path) -> None:
    assert [line["step"] for line in log(whole, "xe", "scst")] == list(range(1, 13))
    assert {"step", "kind", "loss", "reward", "lr", "epoch"} == set(log(whole, "scst")[0])
    assert len(log(whole, "validation")) == 3
    facts = json.loads((whole / "best.json").read_text("utf-8"))["progress"]
    best = max(log(whole, "validation"), key=lambda line: line["CIDEr"])
    assert (facts["best_step"], facts["best"]) == (best["step"], best["CIDEr"])
    assert list(whole.glob("events.out.tfevents.*"))
    assert not list(whole.glob(".*partial"))


@pytest.mark.parametrize("step", [1, 3, 4, 7, 8, 9, 11])
def test_an_interrupted_run_goes_on_bit_for_bit(whole: Path, tmp_path: Path, step: int) -> None:
    """Ctrl-C after any step, in both phases, at epoch and phase boundaries."""
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path / "run", on_event=toy.Stop(step))
    toy.fit(tmp_path / "run")
    same_run(whole, tmp_path / "run")


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.train import toy

def listen(event):
    if event.kind == "step" and event.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

toy.fit(Path(sys.argv[1]), {"save_every": 3}, on_event=listen)
"""


@pytest.mark.parametrize("step", [5, 11])
def test_a_killed_run_goes_on_bit_for_bit(whole: Path, tmp_path: Path, step: int) -> None:
    """SIGKILL: the steps since the last checkpoint are done again, the same."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(step)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    with (tmp_path / "run" / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "xe", "st')  # the torn line a crash may leave
    toy.fit(tmp_path / "run", {"save_every": 3})
    same_run(whole, tmp_path / "run")


def test_accumulation_changes_nothing_but_memory(tmp_path: Path) -> None:
    plain = {"xe.optim.name": "sgd", "xe.optim.lr": 0.1, "scst.epochs": 0, "average": 0.0}
    still = {**plain, "head.dropout": 0.0, "head.input_dropout": 0.0}
    toy.fit(tmp_path / "one", still)
    toy.fit(tmp_path / "four", {**still, "accumulate": 4})
    one, four = (load_file(tmp_path / n / "last.safetensors") for n in ("one", "four"))
    for name in one:
        if name.startswith("model."):
            torch.testing.assert_close(one[name], four[name], rtol=1e-4, atol=1e-5)


def test_caches_and_memory_maps_give_the_same_run(whole: Path, tmp_path: Path) -> None:
    toy.fit(tmp_path / "run", {"cache": "mmap"})
    same_run(whole, tmp_path / "run")


def test_the_last_checkpoint_survives_a_loss_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path / "run", on_event=toy.Stop(2))
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    store, _captions = toy.data()
    for features in store.rows.values():
        features["cells"][...] = np.inf
    with pytest.raises(TrainingError, match=r"step 3.*intact"):
        toy.fit(tmp_path / "run", stores={"toy": store})
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_a_full_disk_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path / "run", on_event=toy.Stop(2))
    before = (tmp_path / "run" / "last.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ResourceError, match="disk is full"):
        toy.fit(tmp_path / "run")
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".*partial"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"head.dim": 32}, r"head\.dim 16, now 32"),
        ({"text.threshold": 60}, r"text\.threshold 1, now 60"),
        ({"features": {"grid": "toy#cells"}, "head": "bad"}, "no head 'bad'"),
    ],
)
def test_a_run_does_not_go_on_as_something_else(
    whole: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        toy.fit(whole, changes)


def test_features_that_do_not_cover_the_split(tmp_path: Path) -> None:
    store, _captions = toy.data()
    part = Memory(store.spec, dict(list(store.rows.items())[:10]))
    with pytest.raises(DataError, match=r"lacks 54 of 64 images .*'im10'.*precap extract"):
        toy.fit(tmp_path / "run", stores={"toy": part})


def test_validation_is_the_callers(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    def validate(captions: dict[str, str]) -> dict[str, float]:
        asked.append(captions)
        return {"METEOR": len(asked) * 0.1}

    changes = {"select": "METEOR", "val_images": 5, "validate_steps": 3, "scst.epochs": 0}
    result = toy.fit(tmp_path / "run", changes, validate=validate)
    assert [len(captions) for captions in asked] == [5, 5, 5]  # steps 3, 6 and the last, 8
    assert result.scores == {"METEOR": pytest.approx(0.3)}
    with pytest.raises(ConfigError, match=r"select='CIDEr' is no validation metric.*METEOR"):
        toy.fit(tmp_path / "other", {"val_images": 5}, validate=validate)


def test_patience_ends_a_phase(tmp_path: Path) -> None:
    changes = {"patience": 2, "xe.epochs": 9, "scst.epochs": 0}
    result = toy.fit(tmp_path / "run", changes, validate=lambda _: {"CIDEr": 0.5})
    assert (result.stopped, result.steps, result.best_step) == ("patience", 12, 4)


def test_overfitting_a_few_images_learns_them_by_heart(tmp_path: Path) -> None:
    changes = {
        "overfit": 4,
        "xe.epochs": 150,
        "scst.epochs": 0,
        "head.dropout": 0.0,
        "validate_epochs": 150,
        "average": 0.0,
    }
    result = toy.fit(tmp_path / "run", changes)
    assert result.best is not None
    assert result.best > 4.0  # CIDEr of a caption that equals one of three references


def test_no_training_still_makes_a_run(tmp_path: Path) -> None:
    events: list[Event] = []
    toy.fit(tmp_path / "run", {"xe.epochs": 0, "scst.epochs": 0}, events.append)
    said = "".join(event.message for event in events if event.kind == "note")
    assert "random, untrained" in said
    store, _captions = toy.data()
    found = run.load(tmp_path / "run", device="cpu").generate({"toy": store}, ["im1", "im2"])
    assert [p.image_id for p in found] == ["im1", "im2"]


def test_starting_from_another_run(whole: Path, tmp_path: Path) -> None:
    changes = {"init_run": whole, "xe.epochs": 0, "scst.epochs": 0, "head_config": {}}
    toy.fit(tmp_path / "run", changes)
    store, _ = toy.data()
    a, b = (run.load(p, device="cpu") for p in (whole, tmp_path / "run"))
    ids = list(store.rows)[:8]
    assert a.generate({"toy": store}, ids) == b.generate({"toy": store}, ids)


def notes_of(out: Path, changes: dict[str, Any], **more: Any) -> str:
    """What is said before a training of no steps."""
    events: list[Event] = []
    toy.fit(out, {"xe.epochs": 0, "scst.epochs": 0, **changes}, events.append, **more)
    return " ".join(event.message for event in events if event.kind == "note")


def test_features_of_another_store_than_the_run_to_begin_with(whole: Path, tmp_path: Path) -> None:
    changes = {"init_run": whole, "head_config": {}}
    assert not notes_of(tmp_path / "same", changes)
    store, _ = toy.data()
    spec = dataclasses.replace(store.spec, weights="f" * 64)
    said = notes_of(tmp_path / "run", changes, stores={"new": Memory(spec, store.rows)})
    old, new = store.spec.fingerprint[:12], spec.fingerprint[:12]
    assert f"grid was cells of store toy ({old}), now cells of store new ({new})" in said


def test_a_run_records_the_text_options_of_the_vocabulary_it_took(
    whole: Path, tmp_path: Path
) -> None:
    changes = {"init_run": whole, "head_config": {}, "text.threshold": 3, "text.captions": 2}
    said = notes_of(tmp_path / "run", changes)
    assert f"vocabulary is that of {whole}: text.threshold=1, not 3." in said
    text = run.Recipe.read(tmp_path / "run" / "run.json").config.text
    assert (text.threshold, text.captions) == (1, 2)


def test_features_made_otherwise_are_refused(whole: Path) -> None:
    store, _ = toy.data()
    spec = type(store.spec)(**{**vars(store.spec), "weights": "f" * 64})
    with pytest.raises(ConfigError, match=r"trained on 'grid' features .*same options"):
        run.load(whole, device="cpu").generate({"toy": Memory(spec, store.rows)}, ["im1"])


def test_a_damaged_checkpoint_names_the_way_out(whole: Path, tmp_path: Path) -> None:
    for name in ("run.json", "vocab.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    (tmp_path / "best.safetensors").write_bytes((whole / "best.safetensors").read_bytes()[:500])
    with pytest.raises(DataError, match="damaged"):
        run.load(tmp_path)


def test_the_averaged_weights_are_the_ones_that_caption(whole: Path) -> None:
    tensors = load_file(whole / "best.safetensors")
    head = run.load(whole, device="cpu").head
    name, value = next(iter(head.named_parameters()))
    assert torch.equal(value, tensors[f"ema.{name}"])
    assert not torch.equal(value, tensors[f"model.{name}"])
    assert not math.isnan(float(value.detach().sum()))
