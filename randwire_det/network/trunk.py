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
from .stages import ConvStage, RandomStage
from .wiring import Keep

MEMORY = ("standard", "lean")


class RandWire(nn.Module):
    """The trunk: an image to the maps of the stages asked for.

    Args:
        spec: the network.
        out_features: names of the stages to put out, default conv2 and all after it. Stages past
            the last of them are not built.
        norm: makes a normalisation layer for a channel count.
        memory: "standard", or "lean": a training step keeps less than half as much for its
            backward, and computes the rest again there.

    Attributes:
        out_channels, out_strides: by name, for the features put out, in order of depth.
        dropped_edge: as given to `drop_edge`, None at first.

    Raises:
        UserError: a feature that the spec does not have, or none; an unknown memory; and on loading
            a state dict, one that belongs to another spec. Almost every tensor keeps its name and
            shape under any wiring, so every state dict holds the spec's digest as `spec_digest`:
            (32,), a byte each, in float32, so that an average of state dicts still has it.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        out_features: tuple[str, ...] | list[str] | None = None,
        norm: Norm = nn.BatchNorm2d,
        memory: str = "standard",
    ):
        super().__init__()
        if memory not in MEMORY:
            raise UsageError(f"memory {memory!r}: expected one of {', '.join(MEMORY)}")
        names = spec.stage_names
        wanted = names[1:] if out_features is None else tuple(out_features)
        if not wanted or not set(wanted) <= set(names):
            raise UserError(f"features {list(wanted)}: expected some of {', '.join(names)}")
        self.spec, self.memory = spec, memory
        self.out_channels: dict[str, int] = {}
        self.out_strides: dict[str, int] = {}
        self.stage_names = names[: max(map(names.index, wanted)) + 1]
        channels, stride = 3, 1
        for stage in spec.stages[: len(self.stage_names)]:
            build = ConvStage if stage.dag is None else RandomStage
            self.add_module(stage.name, build(stage, channels, norm))
            channels, stride = stage.channels, stride * stage.stride
            if stage.name in wanted:
                self.out_channels[stage.name], self.out_strides[stage.name] = channels, stride
        # Of all `droppable_edges`, 0 for the one left out. Not a buffer: a buffer holds only
        # what a state dict brings back.
        self._edge_mask: Tensor | None = None
        self.dropped_edge: tuple[str, int, int] | None = None
        self.apply(initialise)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), normalised, to {name: (B, channels, ceil(H / stride), ...)}.

        The maps are what the stage's unique output node puts out, before any ReLU.
        """
        # Depthwise convolutions are several times faster in channels-last, which vmap has not.
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
        """For every random stage, its arguments after its input."""
        keep = self._what_to_keep()
        if self._edge_mask is None:
            return {name: (each,) for name, each in keep.items()}
        counts = Counter(name for name, _, _ in self.droppable_edges())
        masks = self._edge_mask.to(device).split(list(counts.values()))
        masks = dict(zip(counts, masks, strict=True))
        return {name: (each, masks.get(name)) for name, each in keep.items()}

    def _what_to_keep(self) -> dict[str, Keep]:
        """For every random stage, what a training step keeps for its backward."""
        stages = {name: getattr(self, name) for name in self.stage_names}
        stages = {name: each for name, each in stages.items() if isinstance(each, RandomStage)}
        if self.memory == "standard":
            # The late stages' maps are small: one more of each node costs little memory.
            late = {name: Keep.CONVOLUTIONS for name in stages if name in ("conv4", "conv5")}
            return dict.fromkeys(stages, Keep.SUMS_AND_MAPS) | late
        keep = dict.fromkeys(stages, Keep.MAPS)
        # The backward comes to the first one when it has let go of the others.
        trained = (name for name, stage in stages.items() if _is_trained(stage))
        first = next(trained, None)
        return keep if first is None else keep | {first: Keep.NOTHING}

    def fuse(self, dtype: torch.dtype | None = None) -> "RandWire":
        """A frozen copy for inference with BN folded into the convolutions; see `fusing.fuse`."""
        return fuse(self, dtype)

    def droppable_edges(self) -> list[tuple[str, int, int]]:
        """The edges whose target has other inputs, too: (source, target) nodes of a stage.

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
        """Leave one edge out of the forwards in training mode, until the next call (section 4.2).

        The other edges keep their weights. In eval mode nothing is left out.

        Args:
            edge: one of `droppable_edges()`; None leaves none out.

        Raises:
            UserError: no such edge, or the only one into its target.
        """
        edges = self.droppable_edges()
        if edge is not None and edge not in edges:
            raise UserError(f"edge {edge}: expected one of droppable_edges()")
        self.dropped_edge, self._edge_mask = edge, None
        if edge is not None:
            # A new tensor each time, as another edge may be left out before a backward. Each step
            # has one, whichever the edge, so that a compiled step is not compiled again.
            self._edge_mask = torch.ones(len(edges), device="cpu")
            self._edge_mask[edges.index(edge)] = 0

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "spec_digest"] = self.spec_digest

    @property
    def spec_digest(self) -> Tensor:
        """The spec's digest as it stands in a state dict: (32,), a byte each, float32.

        Made for every state dict, and no buffer: averaging or casting a model in place, or giving
        it memory that was never filled, leaves it alone.
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
        if key in unexpected:  # for torch, only parameters and buffers are expected
            unexpected.remove(key)

    def _check_digest(self, theirs: Tensor) -> None:
        name = "unreadable"
        if theirs.shape == (32,) and not theirs.is_meta:
            # Rounded: an average of equal state dicts, or one cast to half, is off by a little.
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
