"""The processes of a run: their ranks, collectives, and how they agree on an error."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UsageError, UserError
from .launch import reported_once, restarted
from .stopping import AskedToStop, ends_at_ctrl_c

REFUSED = "randwire_det/refused"  # key of a launch's store
Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """The processes of a training, as seen from one of them.

    Attributes:
        rank, size: over all machines; rank 0 writes files and logs.
        local_rank: on this machine; also the index of the GPU.
        group: the process group for CPU tensors; None is the default group.
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
        """The lists of all processes, concatenated in order of rank."""
        if self.size == 1:
            return values
        gathered = [None] * self.size
        dist.all_gather_object(gathered, values, group=self.group)
        return [value for part in gathered for value in part]

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Copy the tensors of rank 0 to all ranks, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def together(self, call: Callable[[], Result]) -> Result:
        """Run `call()` in every rank; if it fails in one, all exit, and that rank reports why.

        Calls may be nested: an error that an inner call agreed on passes through the outer one.

        Raises:
            UserError: of `call`, in the lowest rank where it failed.
            SystemExit: in the other ranks, with the same status.
            AskedToStop: in all ranks, if one raised it and none failed.
        """
        if self.size == 1:
            return call()
        result = error = None
        try:
            result = call()
        except (UserError, AskedToStop) as caught:
            if caught.shared:
                raise
            error = caught
        # The maximum wins: an error over a stop, and the lowest rank among errors.
        news = 0
        if isinstance(error, AskedToStop):
            news = 1
        elif error is not None:
            news = (self.size - self.rank) * 256 + error.exit_status
        agreed = torch.tensor(news)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self.group)
        agreed = int(agreed)
        if agreed == 0:
            return result
        if agreed == 1:
            error = error or AskedToStop()
        elif agreed != news:
            sys.exit(agreed % 256)
        error.shared = True
        raise error

    def first_does(self, call: Callable[[], object]) -> None:
        """Run `call()` in rank 0 only; if it fails, all ranks exit as in `together`."""
        self.together(call if self.is_first else lambda: None)

    def parallel(self, model: nn.Module, **options) -> nn.Module:
        """The model in DDP, which averages gradients over all ranks; options are DDP's."""
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        devices = None if device.type == "cpu" else [device]
        return DistributedDataParallel(model, device_ids=devices, **options)


ALONE = World()  # of a process that trains by itself


def current_world() -> World:
    """The world of torch.distributed, or a single process if it is not initialized."""
    if not dist.is_initialized():
        return World()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    return World(dist.get_rank(), dist.get_world_size(), local_rank, _cpu_group())


@cache
def _cpu_group() -> dist.ProcessGroup | None:
    """A gloo group: detectron2's launcher initializes NCCL alone, which takes no CPU tensors."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else None


@contextmanager
def joined() -> Iterator[World]:
    """Join the world of torchrun or `launch`; one process if neither has started this one."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    alone = size == 1 and "TORCHELASTIC_RUN_ID" not in os.environ
    if "RANK" not in os.environ or alone:
        yield World()
        return
    world = World(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", 0)))
    # Decisions use CPU tensors, so that they do not synchronize the GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with ends_at_ctrl_c():
        launch_store, _, _ = next(dist.rendezvous("env://"))
        reported_once(lambda: _refuse_again(launch_store))
        if size > 1:
            store = _of_this_start(launch_store, size)
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=size)
    try:
        yield world
    except UsageError as error:
        launch_store.set(REFUSED, str(error))
        raise
    except RuntimeError as error:
        if not lost_another(error):
            raise
        if world.local_rank > 0:  # one a machine says so; the launcher names the one that ended
            sys.exit(1)
        reason = str(error).splitlines()[0].partition("] ")[2].partition(". ")[0]
        raise UserError(
            f"the connection to another process of the run was lost: {reason}"
        ) from None
    finally:
        if size > 1:
            dist.destroy_process_group()


def _refuse_again(store: dist.Store) -> None:
    """Refuse a run that torchrun restarts after a refusal: it would resume in a used OUTPUT_DIR."""
    if restarted() and store.check([REFUSED]):
        raise UsageError(store.get(REFUSED).decode())


def _of_this_start(store: dist.Store, size: int) -> dist.Store:
    """The store with keys of this restart only: on one machine torchrun reuses its store, which
    still holds the addresses of the previous processes."""
    if os.environ.get("LOCAL_WORLD_SIZE") != str(size):
        return store
    return dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def lost_another(error: BaseException | None) -> bool:
    """Whether an error was caused by the end of another process."""
    return isinstance(error, dist.DistNetworkError) or (
        isinstance(error, RuntimeError) and "gloo/transport/" in str(error)
    )
