"""The worker processes of a `DataLoader`: why one has exited, and how they are stopped."""

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

    A worker ignores Ctrl+C, and SIGTERM unless the main process sends it: both signals reach every
    process of the run, but the main process still needs its workers to shut down in order.

    A worker that cannot hand over a batch exits and its reason is kept. `Queue` alone would drop
    the batch, and the main process would wait for it forever.
    """

    def __init__(self):
        self._heard, self._tell = multiprocessing.Pipe(duplex=False)

    def __call__(self, worker_id: int) -> None:
        Queue._on_queue_feeder_error = staticmethod(self._leave)
        # multiprocessing's thread prints a traceback if the main process exits while it hands over
        # tensors. The main process reports what ended the run.
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
    """The batches of a loader; a killed worker raises at the next batch, never asynchronously.

    torch's own SIGCHLD handler would raise wherever the main process is at that moment, usually in
    the model, where other ranks wait for its gradients.

    Args:
        loader: its `worker_init_fn` must be a `Workers`.
        advice: the keys to lower if memory is short.

    Raises:
        UserError: a worker was killed, or cannot hand over a batch.
        AskedToStop: the run was asked to stop before a batch or while waiting for it.
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
            worker.kill()  # torch would wait five seconds for each, and they may hang on a disk
        raise
    except (RuntimeError, OSError, EOFError) as error:
        fault = _fault_of_workers(error, loader)
        if fault is None:
            raise
        _free_quietly(error)
        raise UserError(f"{fault}; {_cure(fault, advice)}") from None


def _fault_of_workers(error: Exception, loader: DataLoader) -> str | None:
    """What happened to a worker; None if the error has another cause."""
    if not loader.num_workers:
        return None
    message = _first_line(error)
    if message.startswith("Caught"):  # an exception inside the worker, reading an image
        return None
    reason = loader.worker_init_fn.reason()
    if reason:
        return f"a process that reads images cannot hand them over: {reason}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EAGAIN, errno.ENOMEM):
        return f"the {loader.num_workers} processes that read images cannot be started: {message}"
    if message.startswith("Too many open files") or getattr(error, "errno", 0) == errno.EMFILE:
        return "a process that reads images cannot hand them over: too many open files"
    # torch found it missing, or it died while handing over a batch.
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
    """Free what the error's frames hold, without the warning of a loader's half-made iterator."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook
