"""A run folder under repeated commands: changes, locks, signals, refusals, checkpoints."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from precap.errors import ConfigError, DataError, Interrupted, LockedError
from precap.train import (
    cache,
    checkpoint,
    distributed,
    folder,
    losses,
    prepare,
    run,
    settings,
    trainer,
)
from precap.train.distributed import Ranks
from precap.train.result import TrainingError
from tests.train import toy
from tests.train.test_trainer import ROOT, log, same_run

LSTM = {
    "head": "updown",
    "head_config": {"dim": 16, "words": 16, "attention": 8},
    "xe.sampling_start": 0,
    "xe.sampling_every": 1,
    "xe.sampling_step": 0.5,
    "xe.sampling_most": 0.5,
    "xe.epochs": 3,
    "average": 0.0,
}
XE = {"scst.epochs": 0, "validate_epochs": 9}


def test_scheduled_sampling_ends_with_cross_entropy(tmp_path: Path) -> None:
    toy.fit(tmp_path / "whole", LSTM)
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path / "run", LSTM, on_event=toy.Stop(14))
    toy.fit(tmp_path / "run", LSTM)
    same_run(tmp_path / "whole", tmp_path / "run")


def test_a_loss_that_is_no_number_is_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the loss of an update is not waited for."""
    monkeypatch.setattr(trainer.Trainer, "check", lambda self, loss: None)
    slow = {**XE, "log_every": 1000, "save_every": 1}
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path / "run", {**slow, "log_every": 1}, on_event=toy.Stop(2))
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    store, _ = toy.data()
    for features in store.rows.values():
        features["cells"][...] = np.inf
    with pytest.raises(TrainingError, match=r"step 3.*intact"):
        toy.fit(tmp_path / "run", slow, stores={"toy": store})
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    with pytest.raises(TrainingError, match=r"Nothing was saved"):
        toy.fit(tmp_path / "new", slow, stores={"toy": store})


def stopping(name: str, step: int) -> Callable[[Any], None]:
    def listen(event: Any) -> None:
        if event.kind == "step" and event.step == step:
            os.kill(os.getpid(), getattr(signal, name))

    return listen


def test_signals_and_the_clock_save_and_change_nothing(tmp_path: Path) -> None:
    toy.fit(tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    often = {"save_minutes": 1e-9}
    for name, step in (("SIGTERM", 3), ("SIGUSR1", 10)):
        with pytest.raises(Interrupted, match=name) as caught:
            toy.fit(tmp_path / "run", often, on_event=stopping(name, step))
        assert caught.value.exit_code == 75
        facts = json.loads((tmp_path / "run" / "last.json").read_text("utf-8"))
        assert facts["progress"]["step"] == step
    assert signal.getsignal(signal.SIGTERM) is before
    toy.fit(tmp_path / "run", often)
    same_run(tmp_path / "whole", tmp_path / "run")


def test_a_phase_is_known_by_its_name(tmp_path: Path) -> None:
    """Interrupted in the second phase and repeated without the first: the same end."""
    toy.fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path / "run", on_event=toy.Stop(10))
    toy.fit(tmp_path / "run", {"xe.epochs": 0})
    same_run(tmp_path / "whole", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["xe"]["epochs"] == 2


def test_more_epochs_train_on_and_the_next_phase_follows(tmp_path: Path) -> None:
    assert toy.fit(tmp_path, {**XE, "xe.epochs": 1}).steps == 4
    first = load_file(tmp_path / "last.safetensors")
    assert toy.fit(tmp_path, {**XE, "xe.epochs": 2}).steps == 8
    assert [line["step"] for line in log(tmp_path, "xe")] == list(range(1, 9))
    later = load_file(tmp_path / "last.safetensors")
    assert float(later["optim.0.step"]) == 8  # the optimiser went on too
    assert any(not torch.equal(first[n], later[n]) for n in first)
    assert toy.fit(tmp_path, {"validate_epochs": 9, "scst.samples": 2}).steps == 12
    with pytest.raises(ConfigError, match=r"xe\.epochs 2\.0, now 3\.0"):
        toy.fit(tmp_path, {"validate_epochs": 9, "scst.samples": 2, "xe.epochs": 3})


def test_changes_are_refused_by_name_or_taken_over(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path, on_event=toy.Stop(5))
    other = {"batch_size": 8, "seed": 3, "xe.optim.lr": 0.1, "average": 0.5, "text.longest": 9}
    with pytest.raises(ConfigError) as caught:
        toy.fit(tmp_path, other)
    said = str(caught.value)
    for part in ("batch_size 16, now 8", "seed 0, now 3", "xe.optim.lr 0.005, now 0.1", "--out"):
        assert part in said
    toy.fit(tmp_path, {"scst.epochs": 0, "xe.epochs": 2})
    toy.fit(tmp_path, {"scst.epochs": 0, "decode.beam": 4, "decode.longest": 3, "patience": 7})
    config = run.load(tmp_path, device="cpu").recipe.config
    assert (config.decode.beam, config.decode.longest, config.patience) == (4, 3, 7)


def test_resuming_from_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no best checkpoint"):
        toy.fit(tmp_path / "new", {"resume": "best"})
    assert not (tmp_path / "new").exists()
    with pytest.raises(KeyboardInterrupt):
        toy.fit(tmp_path / "run", on_event=toy.Stop(2))
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="--resume last goes on"):
        toy.fit(tmp_path / "run", {"resume": "best"})
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no captioned images"):
        toy.fit(tmp_path / "runs" / "new", {"train_splits": ["nowhere"]})
    assert not (tmp_path / "runs").exists()


HOLDER = """
import sys, time
from pathlib import Path
from precap.train import folder
from precap.train.distributed import Ranks
from precap.train.result import TrainingError
with folder.held(Path(sys.argv[1]), Ranks()):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_training_holds_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=rf"host .*pid {other.pid}, since") as caught:
            toy.fit(tmp_path)
        assert caught.value.exit_code == 5
        other.kill()
    with folder.held(tmp_path, Ranks()):  # a dead process keeps nothing
        pass


def test_a_metric_that_fails_loses_no_epoch(tmp_path: Path) -> None:
    changes = {**XE, "validate_epochs": 1}
    with pytest.raises(ConfigError, match="no validation metric"):
        toy.fit(tmp_path, changes, validate=lambda _: {"METEOR": 0.3})
    assert (tmp_path / "last.safetensors").exists()
    result = toy.fit(tmp_path, {**changes, "select": "METEOR"}, validate=lambda _: {"METEOR": 0.3})
    assert (result.steps, result.best_step) == (8, 4)
    with pytest.raises(ConfigError, match="only CIDEr"):
        toy.fit(tmp_path / "new", {"select": "METEOR"})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"scst.samples": 1}, "scst.samples=1"),
        ({"batch_size": 0}, "batch_size"),
        ({"log_every": 0}, "log_every"),
        ({"accumulate": 0}, "accumulate"),
        ({"xe.epochs": -1}, "epochs"),
        ({"decode.beam": 0}, "beam"),
        ({"decode.temperature": 0}, "temperature"),
        ({"decode.groups": 4}, "does not divide decode.beam=2"),
        ({"decode.shortest": 11}, r"decode.shortest=11 is more than decode.longest=10"),
        ({"decode.top_p": 0}, "top_p"),
        ({"head.decoder_layers": 0}, "decoder_layers: .*greater than 0"),
        ({"head.encoder_layers": -1}, "encoder_layers: .*greater than or equal to 0"),
        ({"features": {"grid": "toy:cells"}}, "Did you mean the field grid=toy#cells"),
        ({"decode.top_p": 1.1}, "top_p"),
        ({"head.dim": 15}, "head.dim=15 cannot be shared"),
        ({"head.dropout": 1.5}, "head.dropout=1.5"),
        ({"device": "gpu"}, "no device"),
        ({"init": "a", "init_run": "b"}, "Leave one of them out"),
    ],
)
def test_values_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        toy.fit(tmp_path / "run", changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="0 CUDA devices"):
        distributed.pick_device("cuda", Ranks())


def test_where_links_are_refused_best_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "last.safetensors").write_bytes(b"weights")
    (tmp_path / "last.json").write_text("{}")
    checkpoint.promote(tmp_path / "last.safetensors", tmp_path / "best.safetensors")
    assert (tmp_path / "best.safetensors").read_bytes() == b"weights"


def test_a_run_without_its_vocabulary_is_damaged(tmp_path: Path) -> None:
    toy.fit(tmp_path, {**XE, "xe.epochs": 0})
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(DataError, match=r"lost its vocab\.json"):
        run.load(tmp_path, device="cpu")


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    store, captions = toy.data()
    config = settings.resolve(toy.SMALL)
    source = prepare.make_recipe(config, {"toy": store}).sources["grid"]
    arguments = (store, source, list(captions["train"]), "auto", torch.device("cpu"))
    monkeypatch.setattr(cache, "free_memory", lambda: 4 * 64 * 4 * 16 * 2)
    assert isinstance(cache.reader(*arguments), cache.Held)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert isinstance(cache.reader(*arguments), cache.Mapped)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks while it traces
def test_a_compiled_head_has_the_same_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(prepare, "compiled", made.append)
    toy.fit(tmp_path, {**XE, "xe.epochs": 0, "compile": True})
    head = made[0].train(False)
    words = run.load(tmp_path, device="cpu").vocabulary.words
    features = {"grid": torch.randn(2, 4, 16), "region": torch.randn(2, 3, 8)}
    masks, tokens = {"region": torch.ones(2, 3, dtype=torch.bool)}, torch.randint(4, 9, (2, 3, 6))

    def loss() -> float:
        memory = head.encode(features, masks)
        return float(losses.cross_entropy(head, memory, tokens, words, 0.0)[0].detach())

    plain = loss()
    monkeypatch.undo()
    prepare.compiled(head, backend="eager")
    assert loss() == pytest.approx(plain, rel=1e-5)


def test_candidates_may_be_drawn_with_dropout(tmp_path: Path) -> None:
    only = {"xe.epochs": 0, "head.dropout": 0.5}
    toy.fit(tmp_path / "off", only)
    toy.fit(tmp_path / "on", {**only, "scst.sample_dropout": True})
    off, on = (log(tmp_path / n, "scst") for n in ("off", "on"))
    assert [x["reward"] for x in off] != [x["reward"] for x in on]
