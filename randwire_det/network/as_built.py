"""Whether a module is still exactly what this package built, as the fast paths require.

A fast path computes with a module's tensors directly and would ignore any other change: another
configuration, another class, a hook, an overridden `forward`.
"""

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

# The classes and methods that a fast path replaces, as they were when this package was imported.
_FORWARDS = {
    nn.Conv2d: (nn.Conv2d.forward, nn.Conv2d._conv_forward),
    nn.BatchNorm2d: (nn.BatchNorm2d.forward, nn.BatchNorm2d._check_input_dim),
}
_CALLS = (nn.Module.__call__, nn.Module._call_impl)
_METHODS = ("forward", "_conv_forward", "_check_input_dim", "_call_impl")
# Both compute the same from the same four buffers; other classes of that name differ (DETR's has a
# fixed epsilon in its forward).
_FROZEN_NORMS = ("detectron2.layers.batch_norm", "torchvision.ops.misc")


def classes_are_as_imported() -> bool:
    """Whether torch's layers are unpatched and no global module hook is registered."""
    conv, norm = nn.Conv2d, nn.BatchNorm2d
    return (
        _FORWARDS[conv] == (conv.forward, conv._conv_forward)
        and _FORWARDS[norm] == (norm.forward, norm._check_input_dim)
        and not _has_any_global_hook()
        # A tracer replaces them by its own.
        and (is_traced() or (nn.Module.__call__, nn.Module._call_impl) == _CALLS)
    )


def is_untouched(module: nn.Module, methods: tuple[str, ...] = _METHODS) -> bool:
    """Whether the module has no hooks, and none of `methods` is overridden in this instance."""
    hooked = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    own = module.__dict__
    return not hooked and not any(name in own for name in methods)


def conv_configuration(conv: nn.Conv2d) -> tuple:
    """Everything that a convolution's forward depends on, except the values of its weight."""
    return (
        *(conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode),
        conv.bias is None,
        tuple(conv.weight.shape),
    )


def is_plain_conv(conv: nn.Module, configuration: tuple) -> bool:
    """Whether `conv` is exactly Conv2d, not a subclass, with this configuration."""
    plain = type(conv) is nn.Conv2d and is_untouched(conv)
    return plain and conv_configuration(conv) == configuration


def is_plain_norm(norm: nn.Module) -> bool:
    """Whether `norm` is exactly BatchNorm2d, affine and with running statistics, or
    FrozenBatchNorm2d of detectron2 or torchvision. Subclasses do not count."""
    kind = type(norm)
    if kind.__name__ == "FrozenBatchNorm2d" and kind.__module__ in _FROZEN_NORMS:
        # A patched forward is a function from another module.
        forward = (kind.forward.__module__, kind.forward.__qualname__)
        return forward == (kind.__module__, "FrozenBatchNorm2d.forward") and is_untouched(norm)
    if kind is not nn.BatchNorm2d or not is_untouched(norm):
        return False
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    tensors += (norm.num_batches_tracked,)
    return norm.track_running_stats and all(each is not None for each in tensors)


def is_traced() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace records what is computed."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_exported() -> bool:
    """Whether torch.export, and so torch.onnx.export(dynamo=True), records what is computed."""
    # Not in torch 2.6, where torch.export sets is_compiling alone.
    return getattr(torch.compiler, "is_exporting", lambda: False)()


def is_batched(x: torch.Tensor) -> bool:
    """Whether x is a batched tensor of torch.func.vmap or of is_grads_batched=True."""
    functorch = torch._C._functorch
    return functorch.is_batchedtensor(x) or functorch.is_legacy_batchedtensor(x)


def is_transformed() -> bool:
    """Whether a torch.func transform (grad, vmap, jvp, ...) or forward-mode autograd is active."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )
