"""Starts the processes of a training: `--num-gpus N` is torchrun for the plain case, one machine.

Nothing here imports torch before the config has been read: a mistake in it is told at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from .errors import UsageError, UserError

GRACE = 30.0  # seconds for the other processes to leave by themselves once one has failed
Result = TypeVar("Result")


def restarted() -> bool:
    """Whether torchrun has started this process anew after a failure, as its elastic mode does."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def told_once(call: Callable[[], Result]) -> Result:
    """What `call` returns; a mistake that every process of a launch meets is told by the first."""
    try:
        return call()
    except UserError as error:
        if int(os.environ.get("RANK", 0)) > 0:
            sys.exit(error.exit_status)
        raise


def launch(processes: int) -> int | None:
    """Run this very command as `processes` processes, and wait for them.

    Returns:
        the exit status of the first that failed, 0 where none did; None where this process is to do
        the work itself: it is the only one, or one of those started here or by torchrun.

    Raises:
        UsageError: fewer GPUs than processes, or torchrun has decided on another number already.
    """
    if processes < 1:
        raise UsageError(f"--num-gpus {processes}: expected 1 or more")
    if "RANK" in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if processes not in (1, here):
            raise UsageError(f"--num-gpus {processes}: torchrun has started {here} processes here")
        return None
    if processes == 1:
        return None
    import torch
    from torch.distributed import TCPStore

    available = torch.cuda.device_count()
    if 0 < available < processes:
        raise UsageError(f"--num-gpus {processes}: this machine has {available}")
    # The meeting point lives here, on a port that the system has chosen, as it does with torchrun.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(1, (os.cpu_count() or 1) // processes)
    shared = {
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    children = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env=os.environ
            | {k: str(v) for k, v in (shared | {"RANK": r, "LOCAL_RANK": r}).items()},
            start_new_session=True,  # Ctrl-C reaches them through this process, once
        )
        for r in range(processes)
    ]
    return _wait(children)


def _wait(children: list[subprocess.Popen]) -> int:
    def forward(number, frame):
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    failed_at = status = None
    try:
        while any(child.poll() is None for child in children):
            failed = [child.returncode for child in children if child.returncode]
            if failed and failed_at is None:
                failed_at, status = time.monotonic(), failed[0]
            if failed_at is not None and time.monotonic() - failed_at > GRACE:
                forward(signal.SIGKILL, None)  # they wait for one that is gone
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    failed = [child.returncode for child in children if child.returncode]
    status = status or (failed[0] if failed else 0)
    return 128 - status if status < 0 else status
