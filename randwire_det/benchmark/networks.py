"""The networks to measure, by name, and their forward and training steps."""

import types
from collections.abc import Callable, Sequence

import torch
import torchvision
from torch import Tensor, nn

from ..network import RandWireClassifier
from ..network.stages import RandomStage
from ..spec.generator import generate
from ..spec.order import order_of

RESNET = "ResNet-50"  # beside which all are measured
BASELINES = {RESNET: "resnet50", "ResNeXt-50 32x4d": "resnext50_32x4d"}
RANDWIRE, LEAN, PLAIN = "RandWire", "RandWire, lean memory", "RandWire, node by node"
FUSED, BY_INDEX = "RandWire, fuse()", "RandWire, fuse(), nodes by index"
DETECTORS = {
    "Faster R-CNN, R50-FPN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Faster R-CNN, RandWire": "faster_rcnn_randwire_c109.yaml",
    "Faster R-CNN, RandWire, lean memory": "faster_rcnn_randwire_c109.yaml",
}


def classifier(name: str, seed: int = 1, regime: str = "regular", **keys: int) -> nn.Module:
    """A classifier in channels-last, by its name above; a RandWire is one of WS(k, 0.75).

    Args:
        seed, regime: of a RandWire.
        keys: channels, nodes and k, where they are not 109, 32 and 4.
    """
    if name in BASELINES:
        return torchvision.models.get_model(BASELINES[name]).to(memory_format=torch.channels_last)
    keys = {"channels": 109, "nodes": 32, "k": 4} | keys
    spec = generate("ws", seed=seed, regime=regime, p=0.75, **keys)
    model = RandWireClassifier(spec, memory="lean" if name == LEAN else "standard")
    if name == BY_INDEX:
        run_by_index(model)
    if name in (FUSED, BY_INDEX):
        return model.fuse()
    return node_by_node(model) if name == PLAIN else model


def run_by_index(model: nn.Module) -> None:
    """Make a model run the nodes of its stages by their indices, not in their best order."""
    for stage in model.modules():
        if isinstance(stage, RandomStage):
            stage.order = order_of(stage.dag, tuple(range(stage.dag.num_nodes)), False)


def node_by_node(model: nn.Module) -> nn.Module:
    """Make a model run its stages node by node, by torch's modules."""
    for stage in model.modules():
        if isinstance(stage, RandomStage):
            stage.forward = types.MethodType(_node_by_node, stage)
    return model


def _node_by_node(stage: RandomStage, x: Tensor, keep=None, edge_mask=None) -> Tensor:
    return stage.node_by_node(x, edge_mask)


def images(batch: int, size: int | tuple[int, int], device: str) -> Tensor:
    """Normalised images of noise (B, 3, height, width), channels-last.

    Args:
        size: height and width.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, device=device).contiguous(
        memory_format=torch.channels_last
    )


def calibrate(model: nn.Module, x: Tensor, batches: int = 3) -> None:
    """Set BN's running statistics: without them activations become denormals, which are slow."""
    model.train()
    with torch.no_grad():
        for _ in range(batches):
            model(x)


def forward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """Inference, in eval mode."""
    model.eval()

    def call():
        with torch.no_grad():
            return model(x)

    return call


def compiled_forward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """Inference by torch.compile, with constant weights."""
    return torch._inductor.config.patch(freezing=True)(forward(torch.compile(model), x))


def training_step(
    model: nn.Module, x: Tensor, autocast: torch.dtype | None = None
) -> Callable[[], object]:
    """Forward and backward of a loss in training mode; gradients are reset each time.

    Args:
        autocast: the dtype of the forward's autocast; none by default.
    """
    model.train()
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def call():
        model.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, autocast, enabled=autocast is not None):
            loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()

    return call


def detection_step(name: str, device: str, batch: int = 2, size: int = 512):
    """Forward and backward of a detector with FrozenBN and FREEZE_AT 2, on images of noise.

    Args:
        name: of `DETECTORS`.
    """
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    model, _ = detector(name, device, ["MODEL.BACKBONE.FREEZE_AT", "2"])
    model.train()
    inputs = []
    for _ in range(batch):
        instances = Instances((size, size))
        corners = torch.rand(10, 2) * size / 2
        instances.gt_boxes = Boxes(
            torch.cat([corners, corners + 20 + torch.rand(10, 2) * size / 3], 1)
        )
        instances.gt_classes = torch.arange(10)
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": size, "width": size})

    calibrate_frozen(model, inputs)

    def call():
        model.zero_grad(set_to_none=True)
        with EventStorage():
            sum(model(inputs).values()).backward()

    return call


def detector(name: str, device: str, keys: Sequence[str] = ()):
    """A detector of random weights, by its name in `DETECTORS`, and its config.

    Args:
        keys: more of detectron2's KEY VALUE.
    """
    from detectron2.model_zoo import get_config_file
    from detectron2.modeling import build_model

    from ..config.files import merge_config
    from ..detection.config import get_cfg

    cfg, file = get_cfg(), DETECTORS[name]
    memory = ["MODEL.RANDWIRE.MEMORY", "lean" if "lean" in name else "standard"]
    merge_config(
        cfg,
        get_config_file(file) if "/" in file else file,
        ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device, *memory, *keys],
    )
    return build_model(cfg), cfg


def calibrate_frozen(model: nn.Module, inputs: list[dict]) -> None:
    """As `calibrate`, for a frozen BN: it takes the statistics of its first input."""

    def take(norm, arguments):
        (data,) = arguments
        norm.running_mean.copy_(data.mean((0, 2, 3)))
        norm.running_var.copy_(data.var((0, 2, 3)))

    norms = [each for each in model.modules() if type(each).__name__ == "FrozenBatchNorm2d"]
    handles = [norm.register_forward_pre_hook(take) for norm in norms]
    with torch.no_grad():
        model.backbone(model.preprocess_image(inputs).tensor)
    for handle in handles:
        handle.remove()
