"""configs/lazy: shipped YAMLs as detectron2's LazyConfig, built and trained by its own parts."""

import pytest
import torch
from detection_helpers import save_classifier
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from randwire_det import UserError
from randwire_det.config import config_path
from randwire_det.detection import RandWireBackbone
from randwire_det.detection.config import read_config
from randwire_det.detection.optimizer import build_optimizer

NAMES = ("faster_rcnn_randwire_c109", "mask_rcnn_randwire_c109")


def lazy(name, *overrides):
    return LazyConfig.apply_overrides(LazyConfig.load(config_path(f"lazy/{name}.py")), overrides)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_yaml(name):
    config, cfg = lazy(name), read_config(f"{name}.yaml", [])
    with torch.device("meta"):
        model = instantiate(config.model)
        expected = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    assert _shapes(model) == _shapes(expected)
    ours, theirs = model.backbone.bottom_up, expected.backbone.bottom_up
    assert ours.trunk.spec == theirs.trunk.spec and ours.relu_outputs == theirs.relu_outputs
    assert ours.trunk.memory == theirs.trunk.memory
    trained = {key for key, value in model.named_parameters() if value.requires_grad}
    assert trained == {key for key, value in expected.named_parameters() if value.requires_grad}
    assert list(config.model.pixel_mean) == list(cfg.MODEL.PIXEL_MEAN)
    assert list(config.model.pixel_std) == list(cfg.MODEL.PIXEL_STD)
    assert config.dataloader.train.mapper.image_format == cfg.INPUT.FORMAT
    assert config.dataloader.test.mapper.image_format == cfg.INPUT.FORMAT
    assert config.dataloader.train.mapper.use_instance_mask == cfg.MODEL.MASK_ON
    config.optimizer.params.model = model
    assert _decay(instantiate(config.optimizer), model) == _decay(
        build_optimizer(cfg, expected), expected
    )


def _shapes(model: nn.Module) -> dict:
    return {key: value.shape for key, value in model.named_parameters()} | {
        key: value.shape for key, value in model.named_buffers()
    }


def _decay(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple]:
    of_parameter = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: of_parameter.get(parameter) for name, parameter in model.named_parameters()}


@pytest.fixture
def registered(shapes):
    register_coco_instances("lazy_shapes", {}, str(shapes / "shapes.json"), str(shapes / "images"))
    yield "lazy_shapes"
    DatasetCatalog.remove("lazy_shapes")
    MetadataCatalog.remove("lazy_shapes")


def test_it_trains_from_a_classifier_by_detectron2s_own_parts(registered, tmp_path):
    """As tools/lazyconfig_train_net.py of detectron2 does."""
    bottom_up = "model.backbone.bottom_up"
    config = lazy(
        "faster_rcnn_randwire_c109",
        *(f"{bottom_up}.spec.{key}" for key in ("regime=small", "channels=6", "nodes=6")),
        f"{bottom_up}.out_features=[res2,res3,res4,res5]",
        "model.roi_heads.num_classes=3",
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        f"dataloader.train.dataset.names={registered}",
        "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    )
    model = instantiate(config.model)
    classifier = save_classifier(tmp_path / "c.pth", spec=model.backbone.bottom_up.trunk.spec)
    DetectionCheckpointer(model).load(str(tmp_path / "c.pth"))
    trunk = classifier.trunk.state_dict()
    loaded = model.backbone.bottom_up.trunk.state_dict()
    assert all(torch.equal(trunk[key], loaded[key]) for key in loaded if "weight" in key)

    config.optimizer.params.model = model
    before = {key: value.clone() for key, value in model.named_parameters()}
    trainer = SimpleTrainer(
        model, instantiate(config.dataloader.train), instantiate(config.optimizer)
    )
    trainer.train(0, 2)
    for key, value in model.named_parameters():
        assert torch.equal(value, before[key]) != value.requires_grad, key

    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    again = instantiate(config.model).eval()
    DetectionCheckpointer(again).load(str(tmp_path / "model_final.pth"))
    image = torch.rand(1, 3, 64, 96)
    found = again.backbone(image)
    for level, feature in model.eval().backbone(image).items():
        assert torch.equal(feature, found[level])


def test_a_spec_as_plain_data_is_the_spec():
    spec = LazyConfig.load(config_path(f"lazy/{NAMES[0]}.py")).model.backbone.bottom_up.spec
    spec.update(regime="small", channels=6, nodes=6)
    expected = instantiate(spec)
    config = LazyCall(RandWireBackbone)(spec=expected.to_dict(), out_features=["conv3"])
    assert (
        instantiate(config).trunk.spec
        == RandWireBackbone(spec=expected, out_features=["conv3"]).trunk.spec
    )
    config.spec.stages[0].channels = -1
    with pytest.raises(UserError, match=r"conv1.*-1"):
        instantiate(config)
