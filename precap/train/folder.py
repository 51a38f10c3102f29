"""A run folder: held by one training at a time, begun anew, or gone on with."""

import errno
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precap.errors import ConfigError, LockedError
from precap.store.leases import identity
from precap.train import changes, vocab
from precap.train.distributed import Ranks
from precap.train.prepare import Job
from precap.train.progress import Progress
from precap.train.run import Recipe

LOCK = "lock"


@contextmanager
def held(out: Path, ranks: Ranks) -> Iterator[None]:
    """Make the folder and hold it; LockedError when another process does.

    The system gives the lock back when its process ends, however it ends. A folder in which
    nothing was begun is taken away again.
    """
    if not ranks.first:
        _together(ranks, "")
        yield
        return
    made = [path for path in (out, *out.parents) if not path.exists()]
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a+", encoding="utf-8") as file:
        _together(ranks, "" if _locked(file.fileno()) else _holder(out))
        file.truncate(0)
        file.write(json.dumps(identity()))
        file.flush()
        try:
            yield
        finally:
            if made and not (out / "run.json").exists():
                (out / LOCK).unlink(missing_ok=True)
                _remove(made)


def _together(ranks: Ranks, refused: str) -> None:
    """All ranks learn whether the first one was refused."""
    refused = ranks.share(refused)
    if refused:
        raise LockedError(refused)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
    return True  # a file system without locks cannot tell


def _holder(out: Path) -> str:
    try:
        found = json.loads((out / LOCK).read_text("utf-8"))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found["time"]))
        who = f"host {found['host']}, pid {found['pid']}, since {since}"
    except (OSError, ValueError, KeyError):  # it is about to write it
        who = "it has just begun"
    return (
        f"Another process is training in {out} ({who}). Wait for it, end it, or choose another "
        f"--out."
    )


def _remove(folders: list[Path]) -> None:
    """Folders that hold nothing, innermost first."""
    for path in folders:
        try:
            path.rmdir()
        except OSError:
            return


def source(out: Path, wanted: str, ranks: Ranks) -> Path | None:
    """The checkpoint to go on from; None where a training is to begin."""
    there = [name for name in ("last", "best") if (out / f"{name}.safetensors").exists()]
    there = ranks.share(there)
    if wanted == "none" or (wanted == "last" and not there):
        return None
    if wanted not in there:
        other = f", only {there[0]}: --resume {there[0]} goes on from it" if there else ""
        raise ConfigError(
            f"There is no {wanted} checkpoint in {out}{other}. To begin anew: --resume none."
        )
    return out / f"{wanted}.safetensors"


def begin(out: Path, job: Job) -> None:
    """Take away an earlier training's checkpoints and logs; run.json and vocab.json of this one."""
    for name in ("last", "best"):
        for end in (".safetensors", ".json"):
            (out / f"{name}{end}").unlink(missing_ok=True)
    (out / "log.jsonl").unlink(missing_ok=True)
    for events in out.glob("events.out.tfevents.*"):
        events.unlink()
    job.recipe.write(out / "run.json")
    vocab.write(job.vocabulary, out / "vocab.json")


def go_on(out: Path, job: Job, at: Progress, total: int) -> Recipe:
    """The recipe under which the run goes on; ConfigError where the job is another one."""
    recipe = changes.settle(Recipe.read(out / "run.json"), job.recipe, at, total, out)
    before, now = _digest(vocab.read(out / "vocab.json")), _digest(job.vocabulary)
    if before != now:
        raise ConfigError(
            f"{out} holds a run with another vocabulary ({before}; now {now}): the captions "
            f"differ. Choose another --out, or --resume none to train it anew."
        )
    return recipe


def _digest(vocabulary: vocab.Vocabulary) -> str:
    text = json.dumps(vocabulary.as_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
