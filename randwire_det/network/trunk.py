"""From a spec to torch: the trunk, conv1 to conv5.

There is one trunk. The classifier and the detectron2 backbone are thin wrappers around it that both
call it `trunk`, so that the weights of one are the weights of the other by name.
"""

from collections import Counter

import torch
from torch import Tensor, nn

from ..errors import UsageError, UserError
from ..spec.spec import NetworkSpec
from .as_built import is_traced, is_transformed
from .fusing import fuse
from .nodes import Norm
from .stages import ConvStage, RandomStage, samplings
from .wiring import Keep

MEMORY = ("standard", "lean")
OUTPUT_STRIDES = (32, 16, 8)


class RandWire(nn.Module):
    """The trunk: maps images to the outputs of the requested stages.

    Args:
        spec: the network.
        out_features: names of the stages to return, by default conv2 and all later ones. Stages
            after the last of them are not built.
        norm: maps a channel count to a normalisation layer.
        memory: "standard", or "lean": a training step saves less than half as many activations
            and recomputes the rest in the backward.
        output_stride: 32, 16 or 8, the furthest that maps shrink. Below the strides of the spec,
            late stages keep the resolution and are dilated instead, as for segmentation; weights
            stay the same. See `stages.samplings`.

    Attributes:
        out_channels, out_strides: by name, for the returned features, in order of depth.
        dropped_edge: the argument of the last `drop_edge`, initially None.

    Raises:
        UserError: no feature, one that the spec does not have, an unknown memory or output stride,
            or one that the nodes' operation does not support; when a state dict is loaded, one of
            another spec. Almost all tensors have the same names and shapes
            under any wiring, so every state dict holds the spec's digest as `spec_digest`: (32,),
            one byte each, in float32, so that it survives averaging state dicts.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        out_features: tuple[str, ...] | list[str] | None = None,
        norm: Norm = nn.BatchNorm2d,
        memory: str = "standard",
        output_stride: int = OUTPUT_STRIDES[0],
    ):
        super().__init__()
        if memory not in MEMORY:
            raise UsageError(f"memory {memory!r}: expected one of {', '.join(MEMORY)}")
        if type(output_stride) is not int or output_stride not in OUTPUT_STRIDES:
            expected = ", ".join(map(str, OUTPUT_STRIDES))
            raise UsageError(f"output stride {output_stride!r}: expected one of {expected}")
        names = spec.stage_names
        wanted = names[1:] if out_features is None else tuple(out_features)
        if not wanted or not set(wanted) <= set(names):
            raise UserError(f"features {list(wanted)}: expected some of {', '.join(names)}")
        self.spec, self.memory, self.output_stride = spec, memory, output_stride
        self.out_channels: dict[str, int] = {}
        self.out_strides: dict[str, int] = {}
        self.stage_names = names[: max(map(names.index, wanted)) + 1]
        channels, stride = 3, 1
        for stage, sampling in zip(spec.stages, samplings(spec, output_stride), strict=True):
            if stage.name not in self.stage_names:
                break
            build = ConvStage if stage.dag is None else RandomStage
            self.add_module(stage.name, build(stage, channels, norm, sampling))
            channels, stride = stage.channels, stride * sampling.stride
            if stage.name in wanted:
                self.out_channels[stage.name], self.out_strides[stage.name] = channels, stride
        # One entry per `droppable_edges()`, 0 for the dropped one. Not a buffer: buffers hold only
        # what a state dict restores.
        self._edge_mask: Tensor | None = None
        self.dropped_edge: tuple[str, int, int] | None = None
        self.apply(initialise)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), normalised, to {name: (B, channels, ceil(H / stride), ...)}.

        The maps are those of the stages' unique output nodes, before any ReLU.
        """
        # Depthwise convolutions are much faster in channels-last, which vmap does not support.
        if is_traced() or not is_transformed():
            x = x.contiguous(memory_format=torch.channels_last)
        features = {}
        extra = self._arguments(x.device)
        for name in self.stage_names:
            x = getattr(self, name)(x, *extra.get(name, ()))
            if name in self.out_channels:
                features[name] = x
        return features

    def _arguments(self, device: torch.device) -> dict[str, tuple]:
        """For every random stage, its arguments after the input."""
        keep = self._what_to_keep()
        if self._edge_mask is None:
            return {name: (each,) for name, each in keep.items()}
        counts = Counter(name for name, _, _ in self.droppable_edges())
        masks = self._edge_mask.to(device).split(list(counts.values()))
        masks = dict(zip(counts, masks, strict=True))
        return {name: (each, masks.get(name)) for name, each in keep.items()}

    def _what_to_keep(self) -> dict[str, Keep]:
        """For every random stage, the maps that a training step saves for the backward."""
        stages = {name: getattr(self, name) for name in self.stage_names}
        stages = {name: each for name, each in stages.items() if isinstance(each, RandomStage)}
        if self.memory == "standard":
            # The maps of late stages are small: saving one more per node costs little memory.
            late = {name: Keep.CONVOLUTIONS for name in stages if name in ("conv4", "conv5")}
            return dict.fromkeys(stages, Keep.SUMS_AND_MAPS) | late
        keep = dict.fromkeys(stages, Keep.MAPS)
        # The backward reaches the first stage after it has freed the maps of the others.
        trained = (name for name, stage in stages.items() if _is_trained(stage))
        first = next(trained, None)
        return keep if first is None else keep | {first: Keep.NOTHING}

    def fuse(self, dtype: torch.dtype | None = None) -> "RandWire":
        """A frozen copy for inference with BN folded into the convolutions; see `fusing.fuse`."""
        return fuse(self, dtype)

    def droppable_edges(self) -> list[tuple[str, int, int]]:
        """The edges whose target has other inputs as well.

        Returns:
            (stage, source, target) of each, in the order of the spec.
        """
        return [
            (stage.name, source, target)
            for stage in self.spec.stages[: len(self.stage_names)]
            if stage.dag is not None
            for target, sources in enumerate(stage.dag.predecessors)
            if len(sources) > 1
            for source in sources
        ]

    def drop_edge(self, edge: tuple[str, int, int] | None) -> None:
        """Drop one edge in training mode, until the next call (section 4.2).

        The other edges keep their weights. In eval mode no edge is dropped.

        Args:
            edge: one of `droppable_edges()`; None drops none.

        Raises:
            UserError: the edge does not exist, or is the only one into its target.
        """
        edges = self.droppable_edges()
        if edge is not None and edge not in edges:
            raise UserError(f"edge {edge}: expected one of droppable_edges()")
        self.dropped_edge, self._edge_mask = edge, None
        if edge is not None:
            # A new tensor each time, as the next edge may be dropped before this step's backward.
            # Every step has one, so that a compiled step is not recompiled.
            self._edge_mask = torch.ones(len(edges), device="cpu")
            self._edge_mask[edges.index(edge)] = 0

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "spec_digest"] = self.spec_digest

    @property
    def spec_digest(self) -> Tensor:
        """The spec's digest for a state dict: (32,), one byte each, float32.

        Computed for every state dict and not a buffer, so that averaging or casting a model in
        place, or materializing it from the meta device, does not change it.
        """
        digest = list(bytes.fromhex(self.spec.digest))
        return torch.tensor(digest, dtype=torch.float32, device="cpu")

    def _load_from_state_dict(
        self, state_dict, prefix, metadata, strict, missing, unexpected, errors
    ):
        key = prefix + "spec_digest"
        if key in state_dict:
            self._check_digest(state_dict[key])
        elif strict:
            missing.append(key)
        super()._load_from_state_dict(
            state_dict, prefix, metadata, strict, missing, unexpected, errors
        )
        if key in unexpected:  # torch expects parameters and buffers only
            unexpected.remove(key)

    def _check_digest(self, theirs: Tensor) -> None:
        name = "unreadable"
        if theirs.shape == (32,) and not theirs.is_meta:
            # Rounded: averaging equal state dicts, or casting to half, changes the values slightly.
            theirs = theirs.detach().to("cpu", torch.float64).round()
            if torch.equal(theirs, self.spec_digest.double()):
                return
            if bool(((theirs >= 0) & (theirs <= 255)).all()):
                name = bytes(map(int, theirs.tolist())).hex()[:12]
        raise UserError(
            f"these weights belong to another network (spec digest {name}); this one is"
            f" {self.spec.describe()}. Build the network from the spec of the weights."
        )

    def __prepare_scriptable__(self):
        raise UserError(
            "torch.jit.script cannot compile a RandWire; expected torch.jit.trace(model.eval(), x)"
            " or torch.export.export(model.eval(), (x,))"
        )


def _is_trained(module: nn.Module) -> bool:
    return any(each.requires_grad for each in module.parameters())


def initialise(module: nn.Module):
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)
