"""Makes the processes of a run known to detectron2, whichever launcher started them."""

import os

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..run.parallel import World


def introduce(world: World) -> None:
    """Create detectron2's process group of this machine, and select this process' GPU.

    detectron2's launcher does so, but it supports neither torchrun nor, in v0.6, CPU-only machines.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
    if world.size == 1:
        return
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for first in range(0, world.size, local_size):  # v0.6; all ranks must create every group
        ranks = range(first, first + local_size)
        group = dist.new_group(list(ranks))
        if world.rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group
