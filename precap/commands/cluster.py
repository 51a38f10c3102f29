"""``precap cluster``: extraction as jobs of a batch system, without any scheduler of our own."""

import shlex
from collections.abc import Mapping
from typing import Annotated

import typer

from precap.errors import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Extraction on many machines: print a Slurm job array. See docs/cluster.md.",
    epilog="Example: precap cluster script clip --data data --out features --parts 16 > job.sh",
)

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{parts}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={memory}
#SBATCH --time={time}
#SBATCH --signal=USR1@{lead}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}{directives}
#
# {lead} s before the wall time precap gets SIGUSR1, finishes the batch it is in, and leaves with
# exit code 75: work is left, run me again. A preempted or failed task is requeued by Slurm itself.
# Whatever happens, committed shards stay: submit this script again, with any --array, to go on.
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{threads}}}
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

srun --kill-on-bad-exit=1 {command} --part "{part}"
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # the requeue ends this script
fi
exit "$code"
"""

PART = "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))/$SLURM_ARRAY_TASK_COUNT"


@app.command(
    "script",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: precap cluster script vinvl --data data --out features --parts 16 --gpus 1 "
    "> job.sh && sbatch job.sh",
)
def script(
    context: typer.Context,
    names: Annotated[str, typer.Argument(help="extractors, as for precap extract")],
    parts: Annotated[int, typer.Option(min=1, help="tasks of the array")] = 16,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs per task")] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="cores per task")] = 4,
    memory: Annotated[str, typer.Option(help="memory per task")] = "16G",
    time: Annotated[str, typer.Option(help="wall time, [D-]HH:MM:SS")] = "04:00:00",
    lead: Annotated[int, typer.Option(min=1, help="seconds between signal and wall time")] = 180,
    job_name: Annotated[str, typer.Option(help="name in the queue")] = "precap",
    log: Annotated[str, typer.Option(help="log file; %A_%a: job and task")] = "precap-%A_%a.log",
    directive: Annotated[
        list[str] | None,
        typer.Option(help="one more #SBATCH line, e.g. --directive=--partition=gpu"),
    ] = None,
    program: Annotated[str, typer.Option(help="how to call precap there")] = "precap",
) -> None:
    """Print an sbatch job array that extracts NAMES; all other options go to precap extract."""
    more = [*([f"--gpus-per-task={gpus}"] if gpus else []), *(directive or [])]
    words = [*shlex.split(program), "extract", names, *context.args]
    if {"--part", "--cluster"} & {word.partition("=")[0] for word in context.args}:
        raise ConfigError("A job array has its own --part, and needs no --cluster: leave it out.")
    typer.echo(
        SCRIPT.format(
            name=job_name,
            parts=parts,
            cpus=cpus,
            memory=memory,
            time=time,
            lead=lead,
            log=log,
            directives="".join(f"\n#SBATCH {line}" for line in more),
            threads=cpus,
            command=shlex.join(words),
            part=PART,
        ),
        nl=False,
    )


def array_part(environment: Mapping[str, str]) -> str | None:
    """--part of the Slurm array task that this is, "3/16"; None outside a job array.

    The array may begin at any number and have any step; the parts count from 1.
    """
    names = ("ID", "COUNT", "MIN", "STEP")
    found = [environment.get(f"SLURM_ARRAY_TASK_{name}") for name in names]
    if found[0] is None or found[1] is None:
        return None
    try:
        task, count, first, step = (int(text or 1) for text in found)
    except ValueError as error:
        raise ConfigError(f"SLURM_ARRAY_TASK_*: {found} are not numbers. Give --part.") from error
    part = (task - first) // max(1, step) + 1
    if not 1 <= part <= count or (task - first) % max(1, step):
        raise ConfigError(
            f"Task {task} of an array of {count} from {first} has no place among 1 to {count}: the "
            f"array has gaps. Use --array=1-{count}, or give --part."
        )
    return f"{part}/{count}"
