"""What users do to the modules of a trunk, each as a function that does it to one."""

import types

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from randwire_det.network.nodes import Node


class DetrFrozenBatchNorm2d(nn.Module):
    """Of the name of detectron2's, with an epsilon of its own within the forward, as DETR's."""

    def __init__(self, norm):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x):
        scale = (self.weight * (self.running_var + 0.1).rsqrt()).view(1, -1, 1, 1)
        return x * scale + self.bias.view(1, -1, 1, 1) - self.running_mean.view(1, -1, 1, 1) * scale


DetrFrozenBatchNorm2d.__name__ = "FrozenBatchNorm2d"


class LowRank(nn.Module):
    """A convolution and a low-rank update beside it, as LoRA puts in its place."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv
        self.down = nn.Conv2d(conv.in_channels, 1, 1, bias=False).to(conv.weight)
        self.up = nn.Conv2d(1, conv.out_channels, 1, bias=False).to(conv.weight)

    def forward(self, x):
        return self.conv(x) + self.up(self.down(x))


class ScaledNode(Node):
    def forward(self, inputs, edge_mask=None):
        return 2 * super().forward(inputs, edge_mask)


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


class SumOfInputs(nn.Module):
    def forward(self, inputs):
        return torch.tanh(sum(inputs))


def twice(module, method="forward"):
    """Patch one method of one instance, as hooks that offload weights do."""
    before = getattr(module, method)
    setattr(module, method, types.MethodType(lambda _, *args: 2 * before(*args), module))


def atrous(node):
    """DC5: the stride becomes a dilation."""
    node.depthwise.dilation, node.depthwise.padding = (2, 2), (2, 2)


def reflected(node):
    old = node.depthwise
    options = {"stride": old.stride, "padding": 1, "groups": old.groups, "bias": False}
    node.depthwise = nn.Conv2d(
        old.in_channels, old.out_channels, 3, **options, padding_mode="reflect"
    ).to(old.weight)


def biased(node):
    node.pointwise.bias = nn.Parameter(torch.randn(node.pointwise.out_channels).to(node.norm.bias))


def dense(node):
    old = node.depthwise
    node.depthwise = nn.Conv2d(
        old.in_channels, old.out_channels, 3, old.stride, padding=1, bias=False
    ).to(old.weight)


def wide_kernel(node):
    old = node.depthwise
    node.depthwise = nn.Conv2d(
        old.in_channels, old.out_channels, 5, old.stride, padding=2, groups=old.groups, bias=False
    ).to(old.weight)


def with_relu(node):
    node.pointwise = nn.Sequential(node.pointwise, nn.ReLU())


def low_rank(node):
    node.pointwise = LowRank(node.pointwise)


def without_norm(node):
    node.norm = nn.Identity()


def detr_norm(node):
    node.norm = DetrFrozenBatchNorm2d(node.norm)


def norm_subclass(node):
    node.norm.__class__ = ScaledNorm


def node_subclass(node):
    node.__class__ = ScaledNode


def patched_node(node):
    twice(node)


def patched_convolution(node):
    twice(node.depthwise)


def patched_inner_convolution(node):
    twice(node.pointwise, "_conv_forward")


def patched_norm(node):
    twice(node.norm)


def weight_normed(node):
    parametrizations.weight_norm(node.pointwise)
    with torch.no_grad():
        node.pointwise.parametrizations.weight.original0 *= 2


def spectrally_normed(node):
    parametrizations.spectral_norm(node.depthwise)


def pruned(node):
    prune.l1_unstructured(node.pointwise, "weight", amount=0.5)


def hooked(node):
    node.pointwise.register_forward_hook(lambda module, inputs, output: output + 1)


def pre_hooked(node):
    node.depthwise.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))


def own_epsilon(node):
    node.norm.eps = 0.5


CHANGES = {
    change.__name__: change
    for change in (
        *(atrous, reflected, biased, dense, wide_kernel, with_relu, low_rank, without_norm),
        *(detr_norm, norm_subclass, node_subclass, patched_node, patched_convolution),
        *(patched_inner_convolution, patched_norm, weight_normed, spectrally_normed, pruned),
        *(hooked, pre_hooked, own_epsilon),
    )
}


def unstrided(stage):
    """Of the nodes that read the stage's input, all together."""
    for node in stage.dag.input_nodes:
        stage.nodes[node].depthwise.stride = (1, 1)


def other_node(stage):
    stage.nodes[stage.dag.num_nodes - 1] = SumOfInputs()


def patched_weights(stage):
    for node in stage.nodes:
        if hasattr(node, "edge_logits"):
            twice(node, "edge_weights")


def hooked_stage(stage):
    stage.register_forward_hook(lambda module, inputs, output: 2 * output)


def pre_hooked_stage(stage):
    stage.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0], *inputs[1:]))


def patched_stage(stage):
    twice(stage)


def stage_subclass(stage):
    class Scaled(type(stage)):
        def forward(self, *args):
            return 2 * super().forward(*args)

    stage.__class__ = Scaled


# Of a stage of any kind; they act around its nodes.
OUTER_CHANGES = {
    each.__name__: each for each in (hooked_stage, pre_hooked_stage, patched_stage, stage_subclass)
}
STAGE_CHANGES = {each.__name__: each for each in (unstrided, other_node, patched_weights)}


def global_hook():
    """Of every module there is; gives what removes it."""
    add = nn.modules.module.register_module_forward_hook

    def double(module, inputs, output):
        return 2 * output if isinstance(module, nn.Conv2d) else output

    return add(double).remove


def patched_conv2d_class():
    before = nn.Conv2d.forward
    nn.Conv2d.forward = lambda self, x: F.relu(before(self, x))
    return lambda: setattr(nn.Conv2d, "forward", before)


def patched_node_class():
    before = Node.forward
    Node.forward = lambda self, *args: 2 * before(self, *args)
    return lambda: setattr(Node, "forward", before)


def patched_calls():
    before = nn.Module.__call__

    def call(self, *args):
        output = before(self, *args)
        return 2 * output if isinstance(self, nn.Conv2d) else output

    nn.Module.__call__ = call
    return lambda: setattr(nn.Module, "__call__", before)


GLOBAL_CHANGES = {
    each.__name__: each
    for each in (global_hook, patched_conv2d_class, patched_node_class, patched_calls)
}
