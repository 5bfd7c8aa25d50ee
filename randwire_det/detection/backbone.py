"""RandWire as a detectron2 Backbone, alone or under an FPN."""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from fvcore.nn.weight_init import c2_xavier_fill
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..config.network_keys import spec_from_config
from ..errors import UsageError
from ..network import RandWire
from ..spec.spec import NetworkSpec
from .config import require_randwire_keys
from .preprocessing import warn_of_other_preprocessing

NORMS = ("FrozenBN", "BN", "SyncBN", "GN")


class RandWireBackbone(Backbone):
    """`RandWire` as a detectron2 `Backbone`.

    Args:
        spec: the network; or the plain data of `NetworkSpec.to_dict`, which a LazyConfig can hold.
        out_features: output stages, any of conv1 to conv5, or res2 to res5 for conv2 to conv5; they
            are put out under the given names. Stages after the last are not built.
        norm: FrozenBN, BN, SyncBN or GN.
        relu_outputs: apply a ReLU to every output.
        freeze_at: freeze conv1 to conv<freeze_at> with their normalisation; 0 freezes none.
        memory: "standard" or "lean", as in `RandWire`.
        output_stride: 32, 16 or 8, by dilation, as in `RandWire`.

    Raises:
        UserError: a bad spec, an unknown feature, norm, memory or output stride, one stage by two
            names, or `freeze_at` is out of range.
    """

    def __init__(
        self,
        *,
        spec: NetworkSpec | Mapping,
        out_features: list[str] | tuple[str, ...] = ("conv2", "conv3", "conv4", "conv5"),
        norm: str = "FrozenBN",
        relu_outputs: bool = False,
        freeze_at: int = 0,
        memory: str = "standard",
        output_stride: int = 32,
    ):
        super().__init__()
        if OmegaConf.is_config(spec):
            spec = OmegaConf.to_container(spec)
        if not isinstance(spec, NetworkSpec):
            spec = NetworkSpec.from_dict(spec)
        if norm not in NORMS:
            raise UsageError(f"NORM {norm!r}: expected one of {', '.join(NORMS)}")
        if type(freeze_at) is not int or not 0 <= freeze_at <= len(spec.stages):
            raise UsageError(
                f"FREEZE_AT {freeze_at!r}: expected 0 (freeze nothing) to {len(spec.stages)}"
            )
        self.given_names = {stage_of(name): name for name in out_features}
        if len(self.given_names) < len(set(out_features)):
            raise UsageError(f"features {list(out_features)}: expected one name for each stage")
        self.trunk = RandWire(
            spec,
            out_features=list(self.given_names),
            norm=lambda channels: _make_norm(norm, channels),
            memory=memory,
            output_stride=output_stride,
        )
        self.relu_outputs = relu_outputs
        self._freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images (B, 3, H, W) to {name: (B, channels, ceil(H / stride), ...)}."""
        features = {self.given_names[stage]: each for stage, each in self.trunk(x).items()}
        if self.relu_outputs:
            features = {name: F.relu(feature) for name, feature in features.items()}
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            self.given_names[stage]: ShapeSpec(
                channels=channels, stride=self.trunk.out_strides[stage]
            )
            for stage, channels in self.trunk.out_channels.items()
        }

    def _freeze(self, freeze_at: int) -> None:
        for name in self.trunk.stage_names[:freeze_at]:
            stage = getattr(self.trunk, name)
            for parameter in stage.parameters():
                parameter.requires_grad_(False)
            FrozenBatchNorm2d.convert_frozen_batchnorm(stage)  # in place, unless it is a BN


def stage_of(name: str) -> str:
    """The stage of an output's name: that of a ResNet's stage, res2 to res5, is taken, too."""
    return name.replace("res", "conv") if name in ("res2", "res3", "res4", "res5") else name


def _make_norm(norm: str, channels: int) -> nn.Module:
    if norm == "GN":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    return get_norm(norm, channels)


@BACKBONE_REGISTRY.register()
def build_randwire_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> RandWireBackbone:
    """Build the backbone of `MODEL.RANDWIRE` and `MODEL.BACKBONE.FREEZE_AT`.

    Logs a warning if MODEL.WEIGHTS was trained with another preprocessing.

    Raises:
        UserError: a bad value, or the config lacks `add_randwire_config`'s keys.
    """
    return _build(cfg, input_shape)


def _build(cfg: CfgNode, input_shape: ShapeSpec | None, readers_names=()) -> RandWireBackbone:
    """Puts its features out under the names that their reader has for them, as res2 for conv2."""
    require_randwire_keys(cfg, "MODEL.RANDWIRE.")
    warn_of_other_preprocessing(cfg)
    if input_shape is not None and input_shape.channels != 3:
        raise UsageError(f"RandWire takes images of 3 channels, got {input_shape.channels}")
    renamed = {stage_of(str(name)): str(name) for name in readers_names}
    features = [str(name) for name in cfg.MODEL.RANDWIRE.OUT_FEATURES]
    return RandWireBackbone(
        spec=spec_from_config(cfg.MODEL.RANDWIRE),
        out_features=[renamed.get(stage_of(name), name) for name in features],
        norm=cfg.MODEL.RANDWIRE.NORM,
        relu_outputs=cfg.MODEL.RANDWIRE.RELU_OUTPUTS,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        memory=cfg.MODEL.RANDWIRE.MEMORY,
        output_stride=cfg.MODEL.RANDWIRE.OUTPUT_STRIDE,
    )


@BACKBONE_REGISTRY.register()
def build_randwire_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> FPN:
    """Build an FPN on RandWire with a pooled P6, as in detectron2's Faster R-CNN FPN, or with
    MODEL.RANDWIRE.TOP_BLOCK."""
    return _build_fpn(cfg, _build(cfg, input_shape, cfg.MODEL.FPN.IN_FEATURES), "maxpool")


@BACKBONE_REGISTRY.register()
def build_retinanet_randwire_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec | None = None
) -> FPN:
    """Build an FPN on RandWire with convolutional P6 and P7 from the deepest output stage, as in
    detectron2's RetinaNet, or with MODEL.RANDWIRE.TOP_BLOCK."""
    return _build_fpn(cfg, _build(cfg, input_shape, cfg.MODEL.FPN.IN_FEATURES), "p6p7")


def _build_fpn(cfg: CfgNode, bottom_up: RandWireBackbone, top_block: str) -> FPN:
    outputs = list(bottom_up.output_shape())
    read = [str(name) for name in cfg.MODEL.FPN.IN_FEATURES]
    # A stage deeper than the last one read would get no gradient, which DDP refuses.
    if not read or not set(read) <= set(outputs) or outputs[-1] not in read:
        raise UsageError(
            f"MODEL.FPN.IN_FEATURES {read} and MODEL.RANDWIRE.OUT_FEATURES {outputs}: expected the"
            " same features, or IN_FEATURES without some of the shallow ones"
        )
    strides = [bottom_up.output_shape()[name].stride for name in read]
    if strides != [strides[0] * 2**level for level in range(len(strides))]:
        raise UsageError(
            f"MODEL.FPN.IN_FEATURES {read} have strides {strides}: expected neighbouring stages,"
            " each of twice the stride before it"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=_top_block(cfg, bottom_up, cfg.MODEL.RANDWIRE.TOP_BLOCK or top_block),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _top_block(cfg: CfgNode, bottom_up: RandWireBackbone, name: str) -> nn.Module | None:
    """The module of a value of MODEL.RANDWIRE.TOP_BLOCK."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    deepest, shape = list(bottom_up.output_shape().items())[-1]
    last_level = f"p{int(math.log2(shape.stride))}"
    make = {
        "maxpool": LastLevelMaxPool,
        "p6p7": lambda: LastLevelP6P7(shape.channels, channels, deepest),
        "p6p7_from_fpn": lambda: LastLevelP6P7(channels, channels, last_level),
        "p6_from_fpn": lambda: LastLevelP6(channels, last_level),
        "none": lambda: None,
    }
    if name not in make:
        raise UsageError(f"MODEL.RANDWIRE.TOP_BLOCK {name!r}: expected one of {', '.join(make)}")
    top = make[name]()
    if name == "maxpool":  # else it reads p5, which may not be there
        top.in_feature = last_level
    return top


class LastLevelP6(nn.Module):
    """One level above an FPN, by a convolution of stride 2; the interface is detectron2's."""

    def __init__(self, channels: int, in_feature: str):
        super().__init__()
        self.num_levels, self.in_feature = 1, in_feature
        self.p6 = nn.Conv2d(channels, channels, 3, 2, 1)
        c2_xavier_fill(self.p6)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.p6(x)]
