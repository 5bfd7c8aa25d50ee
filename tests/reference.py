"""The reference evaluator: section 3.2 word for word, one node at a time. Every path must equal it.

It shares nothing with randwire_det but the spec and the names of the tensors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def evaluate(
    spec,
    tensors: dict[str, Tensor],
    image: Tensor,
    training: bool,
    without=None,
    output_stride: int = 32,
) -> dict[str, Tensor]:
    """All stages of a trunk: {"conv1": map, ...}, differentiable in `tensors` and `image`.

    Args:
        tensors: parameters and buffers of the trunk by name. In training, running statistics in it
            are updated in place.
        training: whether BN takes the statistics of the batch.
        without: a node or an edge to leave out, (stage, node) or (stage, source, target).
        output_stride: stages that would shrink the map further dilate their convolutions instead.
    """
    maps, shrunk, apart = {}, 1, 1
    for stage in spec.stages:
        stride, apart_before = stage.stride, apart
        if shrunk * stride > output_stride:
            stride, apart = 1, apart * stride
        shrunk *= stride
        prefix = f"{stage.name}."
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if stage.dag is None:
            image = F.relu(image) if maps else image  # conv1 alone is Conv-BN
            image = F.conv2d(image, own["conv.weight"], None, stride, apart_before, apart_before)
            image = batch_norm(image, own, "norm", training)
        else:
            gone = without[1:] if without is not None and without[0] == stage.name else None
            steps = stride, apart_before, apart
            image = random_wiring(stage, own, image, training, gone, steps)
        maps[stage.name] = image
    return maps


def random_wiring(
    stage, own: dict[str, Tensor], unique_input: Tensor, training: bool, gone, steps
) -> Tensor:
    stride, apart_before, apart = steps
    edges, sent = sorted(stage.dag.edges), {}
    size = [-(-side // stride) for side in unique_input.shape[2:]]
    nothing = unique_input.new_zeros(len(unique_input), stage.channels, *size)
    for node in range(stage.dag.num_nodes):
        if gone == (node,):
            continue
        senders = [a for a, b in edges if b == node]
        weights = [1] * len(senders)
        if len(senders) > 1:
            weights = own[f"nodes.{node}.edge_logits"].sigmoid()
        received = [
            weight * sent[sender]
            for weight, sender in zip(weights, senders, strict=True)
            if gone not in ((sender,), (sender, node))
        ]
        if not senders:
            received = [unique_input]
        elif not received:  # all that it read is gone
            received = [nothing]
        x = F.relu(sum(received))
        step = (1, apart) if senders else (stride, apart_before)
        x = transform(stage.op, own, f"nodes.{node}", x, *step)
        sent[node] = batch_norm(x, own, f"nodes.{node}.norm", training)
    original_outputs = [sent[node] for node in sent if all(a != node for a, _ in edges)]
    return sum(original_outputs) / len(original_outputs) if original_outputs else nothing


def transform(
    op: str, own: dict[str, Tensor], node: str, x: Tensor, stride: int, apart: int
) -> Tensor:
    """The node operations of Figure 6; `apart` is how far the nine pixels are from each other."""
    if op == "conv3x3":
        return F.conv2d(x, own[f"{node}.conv.weight"], None, stride, apart, apart)
    if op == "sep_conv3x3":
        depthwise = own[f"{node}.depthwise.weight"]
        x = F.conv2d(x, depthwise, None, stride, apart, apart, groups=x.shape[1])
    elif op == "max_pool3x3":
        x = F.pad(x, (1, 1, 1, 1), value=float("-inf")).unfold(2, 3, stride).unfold(3, 3, stride)
        x = x.amax((-2, -1))
    else:
        inside = F.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1)).unfold(2, 3, stride)
        x = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, stride).unfold(3, 3, stride)
        inside = inside.unfold(3, 3, stride)
        x = x.sum((-2, -1)) / inside.sum((-2, -1))
    return F.conv2d(x, own[f"{node}.pointwise.weight"])


def batch_norm(x: Tensor, own: dict[str, Tensor], name: str, training: bool) -> Tensor:
    statistics = own[f"{name}.running_mean"], own[f"{name}.running_var"]
    return F.batch_norm(x, *statistics, own[f"{name}.weight"], own[f"{name}.bias"], training)


def by_modules(trunk, image: Tensor) -> dict[str, Tensor]:
    """As `evaluate`, of a trunk whose modules were changed: each is called, one node at a time."""
    maps = {}
    for stage in trunk.spec.stages:
        module = getattr(trunk, stage.name)
        if stage.dag is None:
            image = module(image)
        else:
            sent = {}
            for node in range(stage.dag.num_nodes):
                received = [sent[a] for a, b in sorted(stage.dag.edges) if b == node] or [image]
                sent[node] = module.nodes[node](received)
            outputs = [sent[node] for node in sent if all(a != node for a, _ in stage.dag.edges)]
            image = sum(outputs) / len(outputs)
        maps[stage.name] = image
    return {name: each for name, each in maps.items() if name in trunk.out_channels}
