"""Two real processes over gloo on this machine: the same training as one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from precap.errors import ResourceError
from tests.train import toy

ROOT = Path(__file__).parents[2]
#: No dropout: the ranks' random numbers differ from one process's.
#: SGD: Adam turns the rounding noise of a gradient that is zero into a whole step.
STILL = {
    "head.dropout": 0.0,
    "head.input_dropout": 0.0,
    "average": 0.0,
    "scst.epochs": 0,
    "xe.optim.name": "sgd",
    "xe.optim.lr": 0.1,
}
WORKER = """
import os, sys, json
from pathlib import Path
from tests.train import toy

changes = json.loads(sys.argv[2])
if os.environ["RANK"] == sys.argv[3]:
    from precap.train import trainer
    update = trainer.Trainer.update
    def dying(self, phase, batch, total):
        if self.at.step == 5:
            os._exit(9)
        update(self, phase, batch, total)
    trainer.Trainer.update = dying
try:
    toy.fit(Path(sys.argv[1]), changes)
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(getattr(error, "exit_code", 99))
"""


def two(
    out: Path, changes: str, dies: str = "none", script: str = WORKER
) -> list[subprocess.CompletedProcess[str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in ("0", "1"):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", script, str(out), changes, dies]
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        )
    texts = [process.communicate(timeout=280)[0] for process in processes]
    return [
        subprocess.CompletedProcess(p.args, p.returncode, text)
        for p, text in zip(processes, texts, strict=True)
    ]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    toy.fit(tmp_path / "one", STILL)
    changes = json.dumps(STILL)
    assert [p.returncode for p in two(tmp_path / "two", changes)] == [0, 0]
    one, both = (load_file(tmp_path / n / "last.safetensors") for n in ("one", "two"))
    for name in one:
        if name.startswith("model."):
            torch.testing.assert_close(one[name], both[name], rtol=1e-4, atol=1e-5)


def test_two_processes_equal_one_self_critically(tmp_path: Path) -> None:
    """Candidates of a beam search: samples of two processes are others than those of one."""
    critical = {
        **STILL,
        "xe.epochs": 0,
        "scst.epochs": 1,
        "scst.candidates": "beam",
        "scst.optim.name": "sgd",
        "scst.optim.lr": 0.1,
    }
    toy.fit(tmp_path / "one", critical)
    done = two(tmp_path / "two", json.dumps(critical))
    assert [p.returncode for p in done] == [0, 0], done
    one, both = (load_file(tmp_path / n / "last.safetensors") for n in ("one", "two"))
    for name in one:
        if name.startswith("model."):
            torch.testing.assert_close(one[name], both[name], rtol=1e-4, atol=1e-5)


OVERFLOWING = """
import os, sys
from pathlib import Path
import torch
from tests.train import toy
from precap.train import trainer

torch.set_num_threads(1)
update, finish = trainer.Trainer.update, trainer.Trainer.finish
def overflowing(self, phase, batch, total):
    weight = next(p for p in self.head.parameters() if p.requires_grad)
    broken = os.environ["RANK"] == "1" and self.at.step == 2
    hook = weight.register_hook(lambda g: g * float("inf")) if broken else None
    update(self, phase, batch, total)
    if hook:
        hook.remove()
def finishing(self):
    print(self.scaler.get_scale(), sum(float(p.double().sum()) for p in self.head.parameters()))
    finish(self)
trainer.Trainer.update, trainer.Trainer.finish = overflowing, finishing
toy.fit(Path(sys.argv[1]), {"scst.epochs": 0, "precision": "fp16", "validate_epochs": 9})
"""


def test_what_overflows_on_one_rank_is_skipped_on_all(tmp_path: Path) -> None:
    done = two(tmp_path / "run", "", script=OVERFLOWING)
    assert [p.returncode for p in done] == [0, 0], done
    assert done[0].stdout == done[1].stdout
    assert float(done[0].stdout.split()[0]) == 2**15  # halved once


def test_a_signal_to_one_rank_stops_both_at_the_same_update(tmp_path: Path) -> None:
    script = WORKER.replace("os._exit(9)", "os.kill(os.getpid(), 15)")
    done = two(tmp_path / "run", json.dumps({**STILL, "log_every": 2}), dies="1", script=script)
    assert [p.returncode for p in done] == [75, 75], done
    facts = json.loads((tmp_path / "run" / "last.json").read_text("utf-8"))
    assert facts["progress"]["step"] == 6


def test_a_rank_that_dies_leaves_the_last_checkpoint_intact(tmp_path: Path) -> None:
    changes = json.dumps({**STILL, "save_every": 2})
    first, second = two(tmp_path / "run", changes, dies="1")
    assert second.returncode == 9
    assert first.returncode == ResourceError.exit_code, first.stdout
    assert "Another process of this run is gone" in first.stdout
    saved = load_file(tmp_path / "run" / "last.safetensors")
    assert all(bool(torch.isfinite(v).all()) for k, v in saved.items() if k.startswith("model."))
    toy.fit(tmp_path / "run", {**STILL, "save_every": 2})  # and goes on, here as one process
