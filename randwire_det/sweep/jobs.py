"""Runs of a study as jobs of submitit: on this machine, a few at a time, or on Slurm.

A job is the user's own command with --resume, in a process of its own. So a run that was stopped
or killed goes on from its newest checkpoint, whoever starts it again.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import submitit

from ..errors import EXIT_STOPPED
from ..run.files import replace_file
from ..run.folder import is_locked
from ..run.stopping import Stopping

LOG = "sweep.log"  # in a run's folder: what its commands print
POLL = 0.2  # seconds between two looks at the jobs
YEARS = 60 * 24 * 365  # minutes; submitit ends local jobs after a time

logger = logging.getLogger(__name__)


class Task(submitit.helpers.Checkpointable):
    """The commands of a run, one after the other; what submitit calls in a job.

    Args:
        commands: each as for `subprocess`.
        folder: of the run.
        requeue: put the job into the queue again when a command was stopped (status 75).
    """

    def __init__(self, commands: list[list[str]], folder: Path, requeue: bool):
        self.commands, self.folder, self.requeue = commands, folder, requeue
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """The first status that is not 0, else 0."""
        # submitit would only log it, but the command writes a checkpoint and leaves.
        signal.signal(signal.SIGTERM, lambda number, frame: self._stop())
        self.folder.mkdir(parents=True, exist_ok=True)
        for command in self.commands:
            with (self.folder / LOG).open("ab") as log:
                # A session of its own: Ctrl-C reaches it through the sweep alone.
                self._process = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
                status = self._wait()
            if status == EXIT_STOPPED and self.requeue:
                # As submitit does at the end of a job's time: it saves the task and requeues.
                signal.raise_signal(getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}"))
            if status:
                return status
        return 0

    def checkpoint(self, *args, **kwargs) -> submitit.helpers.DelayedSubmission:
        """Called by submitit before it requeues the job: the command writes its checkpoint."""
        self._stop()
        if self._process:
            self._wait()
        again = Task(self.commands, self.folder, self.requeue)
        return submitit.helpers.DelayedSubmission(again)

    def _wait(self) -> int:
        """The status of the command. `Popen.wait` would block in a signal's handler meanwhile."""
        while (status := self._process.poll()) is None:
            time.sleep(POLL)
        return status

    def _stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def __getstate__(self) -> dict:
        return vars(self) | {"_process": None}


@dataclass
class Work:
    """A run to be done.

    Attributes:
        name: for messages.
        folder: its OUTPUT_DIR.
        commands: of `Task`.
        finished: whether its results are complete.
    """

    name: str
    folder: Path
    commands: list[list[str]]
    finished: Callable[[], bool]


@dataclass
class Outcome:
    """Names of the runs that finished, of those that failed with the reason, and the stopped."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)


def run_all(works: list[Work], executor: "Executor", stopping: Stopping, at_once: int) -> Outcome:
    """Run what is not finished, `at_once` at a time; a failed run does not stop the others.

    A run that another process is working on (one that outlived a killed sweep) is waited for. If
    asked to stop, local runs write a checkpoint and leave; on Slurm they stay queued.
    """
    outcome, began = Outcome(), time.monotonic()
    waiting = [work for work in works if not work.finished()]
    total = len(waiting)
    logger.info(f"{len(works) - total} of {len(works)} runs are finished, {total} are left")
    running: dict[str, tuple[Work, submitit.Job | None]] = {}  # None: by another process
    while (waiting and not stopping) or running:
        while waiting and len(running) < at_once and not stopping:
            work = waiting.pop(0)
            job = None if is_locked(work.folder) else executor.submit(work)
            running[work.name] = work, job
            logger.info(f"{'running ' if job else 'awaiting'} {work.folder / LOG}")
        if stopping:
            executor.stop([job for _, job in running.values() if job])
            own = {name: each for name, each in running.items() if each[1]}
            running = {} if executor.leaves_running else own
        for name, (work, job) in list(running.items()):
            if is_locked(work.folder) if job is None else not job.done():
                continue
            del running[name]
            if job is not None and is_locked(work.folder):  # another process was quicker
                running[name] = work, None
            elif job is None and not work.finished():
                waiting.insert(0, work)
            else:
                _record(work, job, outcome, stopping)
                _report(outcome, total, time.monotonic() - began)
        time.sleep(POLL)
    return outcome


def _report(outcome: Outcome, total: int, seconds: float) -> None:
    done = len(outcome.finished) + len(outcome.failed)
    if done:
        left = timedelta(seconds=round(seconds / done * (total - done)))
        eta = f", {left} to go" if done < total else ""
        logger.info(f"{done} of {total} runs done, {len(outcome.failed)} failed{eta}")


def _record(work: Work, job: submitit.Job | None, outcome: Outcome, stopping: Stopping) -> None:
    if work.finished():
        outcome.finished.append(work.name)
        return
    status = _status(job)
    if status == EXIT_STOPPED or (stopping and status != 0):
        outcome.stopped.append(work.name)
        logger.info(f"stopped  {work.folder}: a checkpoint is written, the next sweep goes on")
        return
    reason = last_line(work.folder / LOG)
    outcome.failed[work.name] = f"{work.folder} ended with status {status}: {reason}"
    logger.error(f"failed   {outcome.failed[work.name]}; see {work.folder / LOG}")


def _status(job: submitit.Job | None) -> object:
    """The exit status of a job's command; text if there is none."""
    if job is None:
        return "unknown"
    try:
        return job.result()
    except Exception as error:  # submitit's, for a job that was killed or could not start
        return f"unknown ({type(error).__name__})"


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return "it printed nothing"
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


class Executor:
    """submitit's local executor; jobs start at once, so `run_all` limits their number.

    Args:
        output: of the study.
        gpus: indices of the GPUs that the runs share, each run `processes` of them.
    """

    leaves_running = False  # whether a stop leaves the jobs as they are

    def __init__(self, output: Path, *, gpus: list[int], processes: int):
        self._executor = submitit.LocalExecutor(output / "submitit")
        self._free, self._taken = list(gpus), {}
        self._processes = processes

    def submit(self, work: Work) -> submitit.Job:
        gpus = self._gpus()
        self._executor.update_parameters(
            timeout_min=YEARS, gpus_per_node=len(gpus), visible_gpus=gpus
        )
        with _without_interrupts():
            job = self._executor.submit(Task(work.commands, work.folder, requeue=False))
        self._taken[job.job_id] = job, gpus
        return job

    def _gpus(self) -> list[int]:
        for name, (job, gpus) in list(self._taken.items()):
            if job.done():
                self._free += gpus
                del self._taken[name]
        taken, self._free = self._free[: self._processes], self._free[self._processes :]
        return taken

    def stop(self, jobs: list[submitit.Job]) -> None:
        """Ask the jobs' commands to write a checkpoint and to leave; asked once each."""
        for job in jobs:
            if not job.done() and job.job_id in self._taken:
                os.kill(int(job.job_id), signal.SIGTERM)  # a local job's id is its process
                del self._taken[job.job_id]


class SlurmExecutor:
    """Job arrays on Slurm; preempted and timed-out jobs are requeued.

    Args:
        output: of the study, in a file system that all machines share.
        options: of `submitit.SlurmExecutor.update_parameters`.
        at_once: jobs of the array that run at a time.
    """

    leaves_running = True

    def __init__(self, output: Path, *, options: dict[str, str], at_once: int, processes: int):
        self._executor = submitit.AutoExecutor(
            output / "submitit",
            cluster="slurm",
            slurm_max_num_timeout=10**6,  # a training may take any number of jobs' times
        )
        self._executor.update_parameters(
            gpus_per_node=processes, slurm_array_parallelism=at_once, name=output.name
        )
        self._executor.update_parameters(**options)
        self._jobs = output / "submitit" / "jobs.json"  # {folder: job id}, for the next sweep
        self._submitted: dict[str, submitit.Job] = {}

    def submit_all(self, works: list[Work]) -> None:
        """Submit those that are neither finished nor in the queue, as one array."""
        queued = json.loads(self._jobs.read_text()) if self._jobs.exists() else {}
        left = []
        for work in works:
            key = str(work.folder)
            if key in queued:
                job = submitit.SlurmJob(self._jobs.parent, queued[key])
                if not job.done():
                    self._submitted[key] = job
                    continue
            if not work.finished():
                left.append(work)
        if left:
            with self._executor.batch():
                jobs = [
                    self._executor.submit(Task(work.commands, work.folder, requeue=True))
                    for work in left
                ]
            self._submitted |= {str(work.folder): job for work, job in zip(left, jobs, strict=True)}
        record = {key: job.job_id for key, job in self._submitted.items()}
        replace_file(self._jobs, lambda file: file.write(json.dumps(record).encode()))

    def submit(self, work: Work) -> submitit.Job:
        """The job of a run; one that went wrong outside the queue is submitted once more."""
        job = self._submitted.pop(str(work.folder), None)
        return job or self._executor.submit(Task(work.commands, work.folder, requeue=True))

    def stop(self, jobs: list[submitit.Job]) -> None:
        logger.info("the jobs stay in the queue; scancel ends them, the next sweep watches them")


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are started within ignore Ctrl-C, which the sweep passes on itself."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def python(tool: Path, *arguments: str) -> list[str]:
    """The command that runs a tool of this project."""
    return [sys.executable, str(tool), *arguments]
