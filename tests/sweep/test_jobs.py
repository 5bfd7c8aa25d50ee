"""A job that submitit or the cluster stops is put into the queue again, and goes on."""

import sys

import pytest
import submitit

from randwire_det.errors import EXIT_STOPPED
from randwire_det.sweep.jobs import LOG, Task, last_line

# Appends a line to a file, and leaves with 75 at the first start: at once, or when asked to.
COMMAND = f"""
import signal, sys
path, waits = sys.argv[1], sys.argv[2] == "waits"
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit({EXIT_STOPPED}))
with open(path, "a+") as file:
    file.write("started\\n")
    file.seek(0)
    starts = len(file.readlines())
print("start", starts, flush=True)
if starts == 1 and waits:
    signal.pause()
sys.exit({EXIT_STOPPED} if starts == 1 else 0)
"""


@pytest.mark.slow_suite
@pytest.mark.parametrize("waits", [False, True], ids=["status 75", "end of the job's time"])
def test_a_stopped_command_is_requeued(tmp_path, waits):
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    # Two seconds after its start the job is signalled, as Slurm does before a job's time is over.
    executor.update_parameters(timeout_min=1, signal_delay_s=58 if waits else 0)
    starts = tmp_path / "starts.txt"
    command = [sys.executable, "-c", COMMAND, str(starts), "waits" if waits else "-"]
    job = executor.submit(Task([command], tmp_path / "run", requeue=True))
    assert job.result() == 0
    assert len(starts.read_text().splitlines()) == 2
    assert (tmp_path / "run" / LOG).read_text().splitlines() == ["start 1", "start 2"]


def test_the_first_failing_command_is_the_last(tmp_path):
    write = "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[1]))"
    commands = [[sys.executable, "-c", write, str(status)] for status in (0, 3, 0)]
    job = submitit.LocalExecutor(tmp_path / "jobs").submit(Task(commands, tmp_path, requeue=False))
    assert job.result() == 3
    assert (tmp_path / LOG).read_text().splitlines() == ["0", "3"]
    assert last_line(tmp_path / LOG) == "3"
    assert last_line(tmp_path / "none") == "it printed nothing"
