"""What detectron2 wants to know of the processes, whoever started them."""

import os

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..run.parallel import World


def introduce(world: World) -> None:
    """Tell detectron2 which processes are on this machine, and take this one's GPU.

    Its own launcher does so, which knows neither torchrun nor, in v0.6, machines without CUDA.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
    if world.size == 1:
        return
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(here)
        return
    for first in range(0, world.size, here):  # v0.6; every process takes part in every group
        ranks = range(first, first + here)
        group = dist.new_group(list(ranks))
        if world.rank in ranks:
            comm._LOCAL_PROCESS_GROUP = group
