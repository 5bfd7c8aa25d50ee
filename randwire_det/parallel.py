"""One process or many: who this process is, and how all of them come to one decision."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from .errors import UserError

EXIT_STOPPED = 75  # "temporary failure": a checkpoint was written, --resume goes on
Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """The processes of a training, and which of them this is.

    Attributes:
        rank, size: of all processes; rank 0 writes the files and speaks.
        local_rank: among the processes of this machine; the GPU it takes.
        group: in which tensors on the CPU go round; None is the default group.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each, on the CPU."""
        values = values.cpu()
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return bool(flag) if self.size == 1 else bool(self.sum(torch.tensor(int(bool(flag)))))

    def gather(self, values: list) -> list:
        """The lists of all processes, one after the other."""
        if self.size == 1:
            return values
        gathered = [None] * self.size
        dist.all_gather_object(gathered, values, group=self.group)
        return [value for part in gathered for value in part]

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Give all processes the values of the first, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def together(self, call: Callable[[], Result]) -> Result:
        """`call()` in every process; where one cannot do it, all leave, and that one says why.

        Calls may stand within each other: what was agreed on inside passes through outside.

        Raises:
            UserError: of `call`, in the first process that met one.
            SystemExit: in the others, with the same status.
        """
        if self.size == 1:
            return call()
        result = error = None
        try:
            result = call()
        except UserError as caught:
            if caught.told:
                raise
            error = caught
        # The first to fail has the largest number; two processes may fail for reasons of their own.
        news = torch.tensor([self.size - self.rank, error.exit_status] if error else [0, 0])
        dist.all_reduce(news, dist.ReduceOp.MAX, group=self.group)
        number, status = news.tolist()
        if number == 0:
            return result
        if error is not None and number == self.size - self.rank:
            error.told = True
            raise error
        sys.exit(status)

    def first_does(self, call: Callable[[], object]) -> None:
        """`call()` in the first process alone; where it fails, all leave as in `together`."""
        self.together(call if self.is_first else lambda: None)

    def parallel(self, model: nn.Module, **options) -> nn.Module:
        """The model with gradients averaged over all processes; options are those of DDP."""
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        devices = None if device.type == "cpu" else [device]
        return DistributedDataParallel(model, device_ids=devices, **options)


def current_world() -> World:
    """The world that this process has joined, whoever started it; of one process where none."""
    if not dist.is_initialized():
        return World()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return World(dist.get_rank(), dist.get_world_size(), local_rank, _cpu_group())


@cache
def _cpu_group() -> dist.ProcessGroup | None:
    """detectron2's own launcher starts NCCL alone, which knows no tensors on the CPU."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else None


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun or `launch` has started this process in, or that of one process."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if "RANK" not in os.environ or size == 1:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", 0)))
    store, _, _ = next(dist.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        # torchrun on one machine keeps its store over a restart, and with it the addresses of the
        # processes before; on several, every restart meets in a new store.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    # Decisions are taken on the CPU, so that no GPU has to be waited for.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=size)
    try:
        yield world
    finally:
        dist.destroy_process_group()


class Stopping:
    """Whether this process was asked to stop: by SIGTERM, by SIGINT, or because its launcher died.

    The step at hand is finished then; a second SIGINT interrupts at once.
    """

    def __init__(self):
        self.reason = ""
        self._parent = os.getppid()

    def __bool__(self) -> bool:
        # A launcher killed by force cannot tell its processes.
        if not self.reason and "LOCAL_RANK" in os.environ and os.getppid() != self._parent:
            self.reason = "the end of its launcher"
        return bool(self.reason)

    def __enter__(self) -> "Stopping":
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed_reason(self, world: World) -> str:
        """Why the run ends, the same in all processes: not every one was asked, or not yet."""
        return next(filter(None, world.gather([self.reason])))

    def _ask(self, number, frame):
        self.reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)


def keep_working(worker_id: int) -> None:
    """Let a worker ignore Ctrl+C, and a SIGTERM unless it comes from the main process.

    Ctrl+C and a scheduler's SIGTERM reach every process of the run, but to end in good order is up
    to the main process, which needs its workers for that. It ends them by SIGTERM itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with, args=[os.getppid()], daemon=True).start()


def _exit_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def batches_of(loader: DataLoader, advice: str) -> Iterator:
    """The batches of a loader; a worker that was killed is told when a batch is due, and only then.

    torch's handler of SIGCHLD would raise wherever the main process is at that moment: mostly in
    the model, where the other processes wait for its gradients.

    Args:
        advice: which keys to lower where memory is short.

    Raises:
        UserError: a worker was killed.
    """
    batches = iter(loader)
    if loader.num_workers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield from batches
    except (RuntimeError, OSError, EOFError) as error:
        # Found missing by torch, or in the middle of handing over a batch; what a worker itself
        # has met begins with "Caught".
        handing_over = not isinstance(error, RuntimeError) and not str(error).startswith("Caught")
        missing = str(error).startswith("DataLoader worker (pid")
        if not loader.num_workers or not (handing_over or missing):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"a process that reads images was killed ({reason}): where memory is short, fewer"
            f" {advice} take less"
        ) from None
