"""What remains is exact for any number of workers before and after; options are read strictly."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precap.commands.cluster import array_part
from precap.errors import ConfigError, ResourceError
from precap.extract import paths
from precap.store.plan import extend
from precap.store.writer import Writer, create
from precap.types import ImageRef
from tests.command import Precap
from tests.store import toy


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_n_to_m_workers_do_exactly_what_remains(data: st.DataObject) -> None:
    shards, before, after = (data.draw(st.integers(1, top)) for top in (12, 5, 15))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        create(path, toy.spec())
        extend(path, toy.ids(2 * shards), shard_size=2)
        done: set[int] = set()
        for part in range(1, before + 1):
            with Writer(path, part=(part, before)) as writer:
                mine = writer.remaining()
                for shard in mine[: data.draw(st.integers(0, len(mine)))]:  # then it dies
                    toy.commit(writer, shard)
                    done.add(shard)
        left: list[int] = []
        for part in range(1, after + 1):
            with Writer(path, part=(part, after)) as writer:
                left += writer.remaining()
        assert sorted(left) == sorted(set(range(shards)) - done)
        for part in data.draw(st.permutations(range(1, after + 1))):
            with Writer(path, part=(part, after)) as writer:
                for shard in writer.remaining():
                    toy.commit(writer, shard)
        with Writer(path) as writer:
            assert writer.remaining() == []


def test_images_are_found_by_shard(tmp_path: Path) -> None:
    refs = [
        ImageRef(f"bild-ä{n}", tmp_path / f"{n}.jpg", "00" if n % 2 else None) for n in range(9)
    ]
    file = tmp_path / "images"
    with paths.written(file, [(7, refs[:4]), (2, refs[4:])], 8):
        assert paths.read(file, 7) == tuple(refs[:4])
        assert paths.read(file, 2) == tuple(refs[4:])
    with pytest.raises(ResourceError, match="share"):
        paths.read(file, 7)


@pytest.mark.parametrize(
    ("task", "count", "first", "step", "part"),
    [(1, 16, 1, 1, "1/16"), (16, 16, 1, 1, "16/16"), (0, 4, 0, 1, "1/4"), (6, 4, 0, 2, "4/4")],
)
def test_the_part_of_an_array_task(task: int, count: int, first: int, step: int, part: str) -> None:
    names = {"ID": task, "COUNT": count, "MIN": first, "STEP": step}
    assert array_part({f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in names.items()}) == part


def test_arrays_with_gaps_are_refused_and_no_array_is_no_part() -> None:
    assert array_part({"SLURM_JOB_ID": "3"}) is None
    with pytest.raises(ConfigError, match="gaps"):
        array_part(
            {
                "SLURM_ARRAY_TASK_ID": "7",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_ARRAY_TASK_MIN": "3",
            }
        )


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("04:00:00", 14100), ("1-00:00:00", 86100), ("10:00", 540), ("30", 1620)],
)
def test_workers_leave_before_the_wall_time(walltime: str, seconds: int) -> None:
    from precap.extract.executors import dask

    assert dask.lifetime(walltime)[:2] == ["--lifetime", f"{seconds}s"]
    assert dask.lifetime(None) == []
    with pytest.raises(ConfigError, match="soon"):
        dask.lifetime("soon")


def test_unknown_clusters_and_options_are_refused(
    precap: Precap, scenes: Path, tmp_path: Path
) -> None:
    words = ("extract", "tests.cluster.numbers:Numbers", "--data", scenes, "--out", tmp_path)
    assert "slurm" in precap.refused(*words, "--cluster", "slurmm", code=2)
    bad = ("--cluster", "local:1", "--cluster-set", "n_worker=3")
    assert "n_workers" in precap.refused(*words, *bad, code=2)


def test_the_printed_script(precap: Precap) -> None:
    said = precap(
        "cluster", "script", "clip,grid", "--parts", "7", "--gpus", "2", "--out", "my features",
        "--directive=--partition=gpu", "--lead", "99",
    )  # fmt: skip
    for line in (
        "--array=1-7", "--gpus-per-task=2", "--partition=gpu", "--signal=USR1@99", "--requeue",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in said
    assert "precap extract clip,grid --out 'my features' --part " in said
    assert "leave it out" in precap.refused("cluster", "script", "clip", "--part", "1/2", code=2)
