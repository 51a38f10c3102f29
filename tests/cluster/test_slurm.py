"""A real Slurm on this machine: dask-jobqueue survives a cancelled job, an array a preemption."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import numbers, running
from tests.cluster.conftest import BOTH, OPTIONS, STORES
from tests.command import Precap

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration file of a Slurm that runs as long as this module."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    lacking = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if os.geteuid() != 0:
        lacking.append("root")
    if lacking and os.environ.get("CI") != "true":
        pytest.skip(f"no {', '.join(lacking)} here: apt-get install slurm-wlm munge, as root")
    folder = tmp_path_factory.mktemp("slurm")
    script = Path(__file__).with_name("slurm.sh")
    process = subprocess.Popen(
        [script, folder],
        env={**os.environ, "PATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", "Slurm did not start: see its logs above"
        yield folder / "slurm.conf"
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def call(slurm: Path, *words: str | Path, **variables: str) -> str:
    """stdout of one of Slurm's commands."""
    env = running.environment(SLURM_CONF=slurm, **variables)
    return subprocess.run(
        list(map(str, words)), env=env, check=True, capture_output=True, text=True
    ).stdout


def jobs(slurm: Path, *states: str) -> list[str]:
    """Numbers of the jobs in some states."""
    return call(slurm, "squeue", "--noheader", "--format=%A", "--states", ",".join(states)).split()


def test_jobs_of_dask_survive_a_cancelled_one(
    slurm: Path, reference: dict[str, Any], scenes: Path, tmp_path: Path
) -> None:
    store = tmp_path / STORES[0]
    options = tmp_path / "slurm.yaml"
    options.write_text(
        f"jobs: 2\nminimum: 2\nmemory: 1GB\nwalltime: 01:00:00\nlog_directory: {tmp_path}/logs\n"
    )
    words = ("extract", BOTH, "--data", scenes, "--out", tmp_path, *OPTIONS)
    process = running.start(
        *words, "--cluster", "slurm", "--cluster-options", options,
        SLURM_CONF=slurm, NUMBERS_DELAY="1",
    )  # fmt: skip
    running.until(lambda: running.committed(store) >= 1, "a commit")
    call(slurm, "scancel", jobs(slurm, "RUNNING")[0])
    said = running.finish(process)
    assert said.count('"pending": 0') == 2
    for name in STORES:
        assert running.contents(tmp_path / name) == reference[name]
    running.until(lambda: not jobs(slurm, "RUNNING", "PENDING"), "the end of the jobs")


def test_the_printed_script_is_preempted_once_and_completes(
    slurm: Path, reference: dict[str, Any], scenes: Path, tmp_path: Path, precap: Precap
) -> None:
    store, file = tmp_path / STORES[0], tmp_path / "job.sh"
    text = precap(
        "cluster", "script", numbers.NAME, "--parts", "2", "--cpus", "1", "--memory", "100M",
        "--log", tmp_path / "%A_%a.log", "--program", f"{sys.executable} -m precap.cli",
        "--data", scenes, "--out", tmp_path, *OPTIONS,
    )  # fmt: skip
    file.write_text(text)
    job = call(slurm, "sbatch", "--parsable", file, NUMBERS_DELAY="1").strip()
    running.until(lambda: running.committed(store) >= 1, "a commit")
    call(slurm, "sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    running.until(lambda: not jobs(slurm, "RUNNING", "PENDING", "COMPLETING"), "the jobs' end")
    logs = {path.name: path.read_text() for path in tmp_path.glob("*.log")}
    assert set(logs) == {f"{job}_1.log", f"{job}_2.log"}
    assert any("Stopped by SIGTERM" in log for log in logs.values()), logs
    restarts = [
        call(slurm, "scontrol", "show", "job", f"{job}_{task}").partition("Restarts=")[2][0]
        for task in (1, 2)
    ]
    assert "1" in restarts
    assert running.contents(store) == reference[STORES[0]]
