"""Graph damage of a detector: each removal's AP is that of a model with a damaged trunk."""

import json
from pathlib import Path

import pytest
import torch
from detection_helpers import CLASSES, TINY, tiny_config, tiny_detector
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_on_dataset
from reference import evaluate
from torch import nn

from randwire_det.coco.evaluator import CocoEvaluator
from randwire_det.detection.damage import detector_subject
from randwire_det.detection.trainer import build_checkpointer
from randwire_det.errors import UserError
from randwire_det.network.damage import removals
from randwire_det.run.checkpoint import KINDS, load_checkpoint
from randwire_det.tables.damage import choose

CHANGES = TINY | {
    "MODEL.RANDWIRE.NODES": 4,
    "MODEL.RANDWIRE.K": 2,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "INPUT.MIN_SIZE_TEST": 96,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.COCO": "[['found', 'found.json', 'images']]",
    "DATASETS.TRAIN": "('found',)",
    "DATASETS.TEST": "('found',)",
}


@pytest.fixture(scope="module")
def found(shapes, tmp_path_factory):
    """A detector of random weights, on a data set of its own best detections."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "images").symlink_to(shapes / "images")
    torch.manual_seed(3)
    model = tiny_detector(**CHANGES).eval()
    content = json.loads((shapes / "shapes.json").read_text())
    content["annotations"] = []
    for image in content["images"]:
        pixels = read_image(str(folder / "images" / image["file_name"]), "BGR")
        with torch.no_grad():
            (output,) = model([{"image": torch.from_numpy(pixels.copy()).permute(2, 0, 1)}])
        best = output["instances"][:6]
        for box, label in zip(best.pred_boxes.tensor.tolist(), best.pred_classes, strict=True):
            left, top, right, bottom = box
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": int(label) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                }
            )
    (folder / "found.json").write_text(json.dumps(content))
    cfg = tiny_config(**CHANGES, OUTPUT_DIR=folder)
    MetadataCatalog.get("found").thing_classes = CLASSES
    build_checkpointer(cfg, model).save("model_final")
    MetadataCatalog.pop("found")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        yield model, cfg, load_checkpoint(folder / "model_final.pth", kinds=KINDS)


@pytest.fixture
def unregistered():
    yield
    if "found" in DatasetCatalog:
        DatasetCatalog.remove("found")
        MetadataCatalog.pop("found")


class ByReference(nn.Module):
    """A trunk without one part, by the reference evaluator."""

    def __init__(self, trunk, removal):
        super().__init__()
        self.trunk, self.removal = trunk, removal

    def forward(self, x):
        part = self.removal.part
        part = (part,) if self.removal.kind == "node" else part
        without = (self.removal.stage, *part)
        maps = evaluate(self.trunk.spec, self.trunk.state_dict(), x, False, without=without)
        return {name: maps[name] for name in self.trunk.out_channels}


def test_ap_after_each_removal(found, unregistered):
    model, cfg, checkpoint = found
    subject = detector_subject(checkpoint, [], "cpu")
    assert (subject.metric, subject.images) == ("AP", 4)
    removed = choose(subject.spec, sample=4, seed=1)
    intact, *values = subject.evaluate(removed)
    assert intact > 50
    backbone = model.backbone.bottom_up
    trunk, losses = backbone.trunk, []
    for removal, value in zip(removed, values, strict=True):
        backbone.trunk = ByReference(trunk, removal)
        loader = build_detection_test_loader(cfg, "found")
        evaluator = CocoEvaluator("found", distributed=False, tasks=("bbox",))
        expected = inference_on_dataset(model, loader, evaluator)["bbox"]["AP"]
        backbone.trunk = trunk
        assert value == pytest.approx(expected, abs=0.01)
        losses.append(intact - value)
    assert max(losses) > 1
    # The same subject again, in another order.
    assert subject.evaluate(removed[::-1]) == [intact, *values[::-1]]


def test_some_of_the_images(found, unregistered):
    _, _, checkpoint = found
    subject = detector_subject(checkpoint, [], "cpu", images=2)
    assert subject.images == 2
    assert len(subject.evaluate(removals(subject.spec)[:1])) == 2


@pytest.mark.parametrize(
    ("overrides", "images", "message"),
    [
        (["DATASETS.TEST", "()"], None, "DATASETS.TEST"),
        (["DATASETS.TEST", "('no_such',)"], None, "no_such"),
        ([], 5, "--images 5: expected 1 to 4"),
    ],
)
def test_bad_input_is_named(found, unregistered, overrides, images, message):
    with pytest.raises(UserError) as error:
        detector_subject(found[2], overrides, "cpu", images)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_data_set_without_boxes(found, unregistered, monkeypatch, tmp_path):
    folder = Path(found[1].OUTPUT_DIR)
    content = json.loads((folder / "found.json").read_text())
    (tmp_path / "found.json").write_text(json.dumps(content | {"annotations": []}))
    (tmp_path / "images").symlink_to(folder / "images")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match="no boxes"):
        detector_subject(found[2], [], "cpu")
