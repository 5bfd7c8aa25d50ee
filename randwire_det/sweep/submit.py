"""A training as one job of submitit: the `--slurm` of both training commands."""

import sys
from pathlib import Path

from ..errors import UsageError
from ..run.folder import refuse_used

HELP = (
    "submit this command as a Slurm job instead: parameters of submitit, such as"
    " timeout_min=600,slurm_partition=gpu; or local, to try that on this machine"
)
LOCAL = "local"


def submit(option: str, output: Path, *, processes: int, resuming: bool) -> int:
    """Submit the command of this process; it goes on by itself when its job is preempted, or at the
    end of its time.

    Args:
        option: of `HELP`.
        output: OUTPUT_DIR, in a file system that all machines share.
        processes: on the machine, a GPU each.
        resuming: whether the command may meet a used OUTPUT_DIR.

    Returns:
        the exit status: 0 for a job in Slurm's queue, that of the command for a local one.

    Raises:
        UsageError: a malformed option, a used OUTPUT_DIR without --resume, no submitit, no Slurm.
    """
    options = {}
    for each in [] if option == LOCAL else option.split(","):
        name, equals, value = each.partition("=")
        if not (name and equals):
            raise UsageError(f"--slurm {option}: expected KEY=VALUE,... or {LOCAL}")
        options[name.strip()] = value.strip()
    refuse_used(output, resume=resuming)
    try:
        import submitit

        from .jobs import LOG, YEARS, Task, python
    except ModuleNotFoundError as error:
        if error.name != "submitit":
            raise
        raise UsageError("--slurm: submitit is not installed: pip install submitit") from None
    task = Task([python(Path(sys.argv[0]).resolve(), *_arguments())], output, requeue=True)
    folder = output / "submitit"
    if option == LOCAL:
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=YEARS)
    else:
        try:
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=10**6)
            executor.update_parameters(gpus_per_node=processes, name=output.name)
            executor.update_parameters(**options)
        except (RuntimeError, NameError, ValueError) as error:  # no sbatch; an unknown parameter
            raise UsageError(f"--slurm {option}: {str(error).splitlines()[0]}") from None
    job = executor.submit(task)
    print(f"submitted job {job.job_id}; what it prints goes to {output / LOG}", flush=True)
    return job.result() if option == LOCAL else 0


def _arguments() -> list[str]:
    """Of this process, without --slurm; of a training with --resume, so that it can go on."""
    trains, words = "--eval-only" not in sys.argv, iter(sys.argv[1:])
    kept = ["--resume"] if trains else []
    for word in words:
        if word == "--slurm":
            next(words, None)
        elif not word.startswith("--slurm=") and not (trains and word == "--resume"):
            kept.append(word)
    return kept
