"""A stage's nodes run in the order that needs least memory, and compute the same in any order."""

import pytest
import torch
from network_helpers import NETWORKS, assert_close, build, gradients, random_image
from specs import tiny_spec
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from randwire_det.network.stages import RandomStage
from randwire_det.spec.order import live_maps, order_of

INPUT_MAPS = 2  # conv5 halves the size and doubles the channels


class Memory(TorchDispatchMode):
    """The most bytes at once of the large tensors that operations return, but for one given."""

    def __init__(self, large: int, given: torch.Tensor):
        super().__init__()
        self.large, self.given = large, given.untyped_storage()._cdata
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, torch.Tensor) and each.untyped_storage().nbytes() >= self.large:
                storage = each.untyped_storage()
                if storage._cdata == self.given:
                    continue
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: each for key, each in self.alive.items() if not each[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return found


def by_index(dag):
    """An order that is that of the indices, as of a graph too large to search."""
    return order_of(dag, tuple(range(dag.num_nodes)), False)


@pytest.mark.parametrize("way", ["eval", "folded"])
@pytest.mark.parametrize("seed", [1, 3, 5])
def test_memory_is_what_the_order_promises(way, seed):
    trunk = build(tiny_spec("ws", nodes=32, channels=16, seed=seed), torch.float32, False)
    trunk = trunk.fuse() if way == "folded" else trunk.requires_grad_(False)
    stage, dag = trunk.conv5, trunk.spec.stages[-1].dag
    plan = stage.plan if way == "folded" else stage.plan()
    size = plan.channels * 16 * 16 * 4
    x = torch.randn(1, plan.in_channels, 32, 32).contiguous(memory_format=torch.channels_last)

    def most():
        with torch.no_grad(), Memory(size // 2, x) as memory:
            stage(x)
        return memory.most / size

    best = most()
    assert best == live_maps(dag, plan.order.nodes, INPUT_MAPS)
    if way == "folded":
        stage.plan = plan._replace(order=by_index(dag))
    else:
        stage.order = by_index(dag)
    assert best < most() == live_maps(dag, range(32), INPUT_MAPS)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["training", "eval", "folded"])
def test_the_order_changes_no_bit_of_the_output(name, way):
    batch, spec = NETWORKS[name]
    trunk, x = build(spec, training=way == "training"), random_image(batch)
    if way == "folded":
        trunk, x = trunk.fuse(), x.detach()
    found = trunk(x)
    found_gradients = gradients(found, dict(trunk.named_parameters())) if way != "folded" else {}
    for stage in trunk.children():
        if isinstance(stage, RandomStage):
            stage.order = by_index(stage.dag)
        elif hasattr(stage, "plan"):
            stage.plan = stage.plan._replace(order=by_index(stage.plan.dag))
    expected = trunk(x)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    if way != "folded":
        assert_close(found_gradients, gradients(expected, dict(trunk.named_parameters())))
