"""The paper's baselines: torchvision's ResNets and ResNeXts at any width, also as detectron2's.

They are initialised as in [11], Goyal et al. 2017, whose recipe section 4 of the paper uses.
MobileNetV2 stands beside them as a network of separable convolutions.
"""

import math

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from randwire_det.config.values import did_you_mean
from randwire_det.errors import UsageError, UserError
from randwire_det.network.counting import count_module
from randwire_det.network.resnet_names import detectron2_names
from randwire_det.spec.complexity import Complexity

STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
# name: depth, groups of the 3x3 convolutions, channels per group in the first stage
BASELINES = {
    "resnet18": (18, 1, 64),
    "resnet34": (34, 1, 64),
    "resnet50": (50, 1, 64),
    "resnet101": (101, 1, 64),
    "resnet152": (152, 1, 64),
    "resnext50_32x4d": (50, 32, 4),
    "resnext101_32x4d": (101, 32, 4),
    "resnet18_cifar": (18, 1, 64),
}
CIFAR = "resnet18_cifar"  # for pictures of 32 x 32: a 3x3 stem of stride 1, and no pooling after it
MOBILENET = "mobilenet_v2"
NAMES = (*BASELINES, MOBILENET)


class ScaledResNet(ResNet):
    """torchvision's ResNet with `stem` channels in the stem instead of 64, and all others scaled.

    Other arguments are torchvision's; fc is initialised as in [11], section 5.1.

    Args:
        small: for small pictures: the stem is a 3x3 convolution of stride 1, without a pooling.
    """

    def __init__(self, *args, stem: int, num_classes: int, small: bool = False, **kwargs):
        self.scale, self.small = (stem, 64), small
        super().__init__(*args, **kwargs, zero_init_residual=True)
        self.fc = nn.Linear(self.inplanes, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def _make_layer(self, block, planes, *args, **kwargs):
        stem, full = self.scale
        if planes == full:  # the first stage: torchvision's constructor made a stem of 64 channels
            self.inplanes = stem
            size, stride = (3, 1) if self.small else (7, 2)
            self.conv1 = nn.Conv2d(3, stem, size, stride, padding=size // 2, bias=False)
            if self.small:
                self.maxpool = nn.Identity()
            self.bn1 = self._norm_layer(stem)
        return super()._make_layer(block, planes * stem // full, *args, **kwargs)


def build_baseline(name: str, num_classes: int, width: float = 1.0) -> nn.Module:
    """Build a classifier, (B, 3, H, W) to (B, num_classes), a ResNet initialised as in [11].

    Every residual block of a ResNet starts as the identity: the scale of its last BN is zero.
    MobileNetV2 is initialised as torchvision's, and has no dropout.

    Args:
        name: one of NAMES.
        width: multiplies all channel counts. Of a ResNet the first stage's are rounded, and later
            stages double them; MobileNetV2 rounds as its paper does, to multiples of 8, and its
            last layer never has fewer than 1280 channels. At 1 the tensors have torchvision's names
            and shapes.

    Raises:
        UsageError: an unknown name, or a width that gives no channels or incomplete groups.
    """
    check_baseline(name, width)
    if name == MOBILENET:
        return MobileNetV2(num_classes, width_mult=width, dropout=0.0)
    stem = stem_channels(name, width)
    depth, groups, width_per_group = BASELINES[name]
    return ScaledResNet(
        _block(depth),
        STAGES[depth],
        stem=stem,
        num_classes=num_classes,
        small=name == CIFAR,
        groups=groups,
        width_per_group=width_per_group,
    )


def baseline_complexity(
    name: str, width: float = 1.0, input_size: int = 224, num_classes: int = 1000
) -> Complexity:
    """Count a baseline on the meta device; see `count_module`.

    Args:
        input_size: height and width of the RGB image, in pixels.

    Raises:
        UsageError: as `build_baseline`.
    """
    with torch.device("meta"):
        return count_module(build_baseline(name, num_classes, width), input_size)


def detectron2_keys(name: str, width: float) -> dict:
    """The MODEL.RESNETS keys with which detectron2 builds the same network.

    Raises:
        UsageError: as `build_baseline`.
        UserError: a ResNet-18 or -34 of a width other than 1, a MobileNet or a ResNet for CIFAR,
            which detectron2 does not support.
    """
    check_baseline(name, width)
    if name in (MOBILENET, CIFAR):
        raise UserError(f"{name}: detectron2 has no such network; expected one of its ResNets")
    stem = stem_channels(name, width)
    depth, groups, width_per_group = BASELINES[name]
    block = _block(depth)
    if block is BasicBlock and stem != 64:
        raise UserError(
            f"{name} of width {width:g}: detectron2 builds ResNet-18 and -34 in width 1 only; the"
            " deeper ones, such as resnet50, take any"
        )
    return {
        "DEPTH": depth,
        "NUM_GROUPS": groups,
        "WIDTH_PER_GROUP": width_per_group * stem // 64,
        "STRIDE_IN_1X1": False,
        "STEM_OUT_CHANNELS": stem,
        "RES2_OUT_CHANNELS": stem * block.expansion,
    }


def to_detectron2(weights: dict[str, Tensor], name: str, width: float) -> dict[str, Tensor]:
    """Convert a state dict of `build_baseline(name, ..., width)` to detectron2's names, without fc.

    Raises:
        UserError: as `detectron2_keys`; a tensor is missing, unexpected or of another shape.
    """
    detectron2_keys(name, width)
    with torch.device("meta"):
        expected = detectron2_names(build_baseline(name, 1, width).state_dict())
    renamed = detectron2_names(weights)
    for key in sorted(expected.keys() | renamed.keys()):
        wanted, given = (
            tuple(each[key].shape) if key in each else "none" for each in (expected, renamed)
        )
        if wanted != given:
            raise UserError(
                f"these weights are not those of {name} in width {width:g}: expected {wanted} as"
                f" the shape of detectron2's {key}, got {given}"
            )
    return renamed


def _block(depth: int) -> type[nn.Module]:
    return Bottleneck if depth >= 50 else BasicBlock


def check_baseline(name: str, width: float) -> None:
    """Refuse an unknown name, and a width that gives no channels or incomplete groups.

    Raises:
        UsageError: names the value and what was expected.
    """
    if name not in NAMES:
        names = ["randwire", *NAMES]  # the values of MODEL.NAME
        hint = did_you_mean(str(name), names)
        raise UsageError(f"MODEL.NAME {name!r}: {hint}expected one of {', '.join(names)}")
    if not 1 / 64 <= width < math.inf:
        raise UsageError(
            f"width {width} of {name}: expected a number of at least 1/64, which is one channel"
        )
    if name != MOBILENET:
        stem_channels(name, width)


def stem_channels(name: str, width: float) -> int:
    """The output channels of a ResNet's first convolution, 64 at width 1.

    Raises:
        UsageError: a width that gives incomplete groups.
    """
    _, groups, width_per_group = BASELINES[name]
    inner = round(groups * width_per_group * width)
    if inner % groups:
        raise UsageError(
            f"MODEL.WIDTH {width} of {name}: {inner} channels do not fill {groups} groups evenly;"
            f" expected a multiple of 1/{width_per_group}"
        )
    return round(64 * width)
