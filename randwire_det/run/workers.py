"""The worker processes of a `DataLoader`: why one has left, and how they are stopped."""

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.queues import Queue
from typing import NoReturn

from torch.utils.data import DataLoader

from ..errors import UserError
from .stopping import AskedToStop, stoppable

SHARED_MEMORY = "/dev/shm"


class Workers:
    """`worker_init_fn` of a loader for `batches_of`.

    A worker ignores Ctrl+C, and a SIGTERM unless it comes from the main process: both reach every
    process of the run, but to end in good order is up to the main process, which needs its workers
    for that. It ends them by SIGTERM itself.

    A worker that cannot hand over a batch leaves, and its reason is kept. By itself `Queue` would
    drop the batch and go on, and the main process wait for it without an end.
    """

    def __init__(self):
        self._heard, self._tell = multiprocessing.Pipe(duplex=False)

    def __call__(self, worker_id: int) -> None:
        Queue._on_queue_feeder_error = staticmethod(self._leave)
        # multiprocessing's thread that hands over tensors prints a traceback if the main process
        # leaves in the middle of that. What ends the run is reported there.
        sys.excepthook = lambda *error: None
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):  # macOS has none
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_exit_with, args=[os.getppid()], daemon=True).start()

    def reason(self) -> str | None:
        """Why a worker has left."""
        return self._heard.recv() if self._heard.poll() else None

    def _leave(self, error: Exception, item: object) -> NoReturn:
        self._tell.send(_first_line(error))
        os._exit(1)


def _exit_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def batches_of(loader: DataLoader, advice: str) -> Iterator:
    """The batches of a loader; a worker that has ended is reported when a batch is due.

    And only then: torch's handler of SIGCHLD would raise wherever the main process is at that
    moment, mostly in the model, where the other processes wait for its gradients.

    Args:
        loader: its `worker_init_fn` is a `Workers`.
        advice: which keys to lower where memory is short.

    Raises:
        UserError: a worker was killed, or cannot hand over what it has read.
        AskedToStop: before a batch or while waiting for it.
    """
    try:
        batches = iter(loader)
        if loader.num_workers and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            with stoppable():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch
    except AskedToStop:
        for worker in getattr(batches, "_workers", ()):
            worker.kill()  # torch gives each five seconds to end, and they may hang on a disk
        raise
    except (RuntimeError, OSError, EOFError) as error:
        fault = _fault_of_workers(error, loader)
        if fault is None:
            raise
        _free_quietly(error)
        raise UserError(f"{fault}; {_cure(fault, advice)}") from None


def _fault_of_workers(error: Exception, loader: DataLoader) -> str | None:
    """What has become of a worker; None where the error is none of that kind."""
    if not loader.num_workers:
        return None
    message = _first_line(error)
    if message.startswith("Caught"):  # what a worker itself has met, reading an image
        return None
    reason = loader.worker_init_fn.reason()
    if reason:
        return f"a process that reads images cannot hand them over: {reason}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EAGAIN, errno.ENOMEM):
        return f"the {loader.num_workers} processes that read images cannot be started: {message}"
    if message.startswith("Too many open files") or getattr(error, "errno", 0) == errno.EMFILE:
        return "a process that reads images cannot hand them over: too many open files"
    # Found missing by torch, or in the middle of handing over a batch.
    if not isinstance(error, RuntimeError) or message.startswith("DataLoader worker (pid"):
        return f"a process that reads images was killed ({message})"
    return None


def _cure(fault: str, advice: str) -> str:
    if "too many open files" in fault.lower():
        return f"raise the limit (ulimit -n), or lower {advice}"
    if not any(word in fault for word in ("shared memory", "No space left", "Bus error")):
        if "was killed" in fault:
            return f"where memory is short, fewer {advice} take less"
        return f"lower {advice}; 0 workers read in the training's own process"
    size = shutil.disk_usage(SHARED_MEMORY).total >> 10 if os.path.isdir(SHARED_MEMORY) else 0
    size = f"{size >> 10} MiB" if size >= 1024 else f"{size} KiB"
    return (
        f"{SHARED_MEMORY} holds {size}: give it more (docker run --shm-size=8g), or lower {advice};"
        " 0 workers need none"
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _free_quietly(error: Exception) -> None:
    """Free what the error's frames hold: a loader's half-made iterator complains when it goes."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook
