"""Launches the processes of a training (`--num-gpus N`, `--num-machines`), as torchrun does.

Imports no torch at module level, so that config errors are reported immediately.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import TypeVar

from ..errors import EXIT_STOPPED, UsageError, UserError
from .stopping import ends_at_ctrl_c

GRACE = 10.0  # seconds for the other processes to exit on their own after one has failed
Result = TypeVar("Result")


def restarted() -> bool:
    """Whether torchrun has restarted this process after a failure, as its elastic mode does."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def reported_once(call: Callable[[], Result]) -> Result:
    """Run `call`; if every rank would fail with the same user error, only rank 0 reports it."""
    try:
        return call()
    except UserError as error:
        if int(os.environ.get("RANK", 0)) > 0:
            # torchrun terminates all ranks once one exits. If this one exited first, rank 0 would
            # be terminated before it prints the error.
            time.sleep(GRACE)
            sys.exit(error.exit_status)
        raise


def launch(processes: int, machines: int = 1, machine: int = 0, url: str = "") -> int | None:
    """Run this command as `processes` processes on each machine and wait for the local ones.

    Args:
        machines: number of machines; the command must be started on each.
        machine: rank of this machine.
        url: "tcp://HOST:PORT" of the first machine, the rendezvous; not needed for one machine.

    Returns:
        the exit status of the first process that failed, or 0; None if this process is itself a
        worker: a single process, or one that this launcher or torchrun has started.

    Raises:
        UsageError: fewer GPUs than processes, an unusable `url`, or torchrun has started another
            number of processes.
    """
    if processes < 1 or not 0 <= machine < machines:
        raise UsageError(
            f"{processes} processes on machine {machine} of {machines}: expected 1 or more, and a"
            " machine from 0 to one less than there are"
        )
    if "RANK" in os.environ:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if processes not in (1, here):
            raise UsageError(f"--num-gpus {processes}: torchrun has started {here} processes here")
        return None
    if processes * machines == 1:
        return None
    import torch

    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if processes > (gpus or max(cores, 2)):
        has = f"{gpus} GPUs" if gpus else f"no GPU, and {cores} cores for the processes to share"
        raise UsageError(f"--num-gpus {processes}: this machine has {has}")
    threads = max(1, cores // processes)
    if machines > 1:
        print(f"machine {machine} of {machines}: waiting for the others at {url}", flush=True)
    store = meeting_point(url if machines > 1 else "", host_it=machine == 0)
    shared = {
        "WORLD_SIZE": processes * machines,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": store.host,
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
    }
    children = {}
    for local_rank in range(processes):
        rank = machine * processes + local_rank
        variables = shared | {"RANK": rank, "LOCAL_RANK": local_rank}
        children[rank] = subprocess.Popen(
            [sys.executable, *sys.argv],
            env=os.environ | {name: str(value) for name, value in variables.items()},
            start_new_session=True,  # Ctrl-C reaches them through this process, once
        )
    return _wait(children)


def meeting_point(url: str, *, host_it: bool):
    """The rendezvous store; without `url` on a free port.

    The launcher hosts it, as torchrun does, so that no worker has to bind a port.
    """
    from torch.distributed import DistNetworkError, TCPStore

    if not url:
        return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = urllib.parse.urlsplit(url)
    try:
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if place.scheme != "tcp" or not host or not port:
        raise UsageError(f"--dist-url {url}: expected tcp://HOST:PORT of the first machine")
    try:
        with ends_at_ctrl_c():
            return TCPStore(host, port, is_master=host_it, wait_for_workers=False)
    except DistNetworkError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--dist-url {url}: cannot be used as the rendezvous: {reason}") from None


def _wait(children: dict[int, subprocess.Popen]) -> int:
    """Wait for all processes; after one fails, the others get GRACE seconds to exit.

    They might wait for the failed one forever: at start-up, or in an NCCL collective.

    Args:
        children: processes by rank.

    Returns:
        the exit status, as of `launch`.
    """

    def send(number, frame=None):
        for child in children.values():
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, send) for number in (signal.SIGINT, signal.SIGTERM)}
    failed_at, ended = None, {}
    try:
        while len(ended) < len(children):
            # Poll every child each time: `any` would stop at the first that is alive.
            codes = {rank: child.poll() for rank, child in children.items()}
            ended = {rank: code for rank, code in codes.items() if code is not None}
            if failed_at is None and any(_failed(code) for code in ended.values()):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() > failed_at + GRACE:
                break
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        send(signal.SIGKILL)
        for child in children.values():
            child.wait()
    _report(ended, cut_short=len(ended) < len(children))
    # A killed process is the cause of the other processes' exit statuses.
    status = min(filter(None, ended.values()), default=0)
    return 128 - status if status < 0 else status


def _failed(code: int) -> bool:
    return code not in (0, EXIT_STOPPED)


def _report(ended: dict[int, int], *, cut_short: bool) -> None:
    """One line for each process that was killed, or that failed while others were terminated."""
    for rank, code in ended.items():
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        elif cut_short and _failed(code):
            how = f"ended with status {code}"
        else:
            continue
        print(f"process {rank} {how}, and so the run ended", file=sys.stderr)
