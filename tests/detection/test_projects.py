"""docs/projects.md: each recipe builds, trains a step and detects in a project's own config."""

import re
import shlex

import pytest
import torch
from conftest import REPO, run_python
from detection_helpers import one_input, parameters_without_gradient
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import BitMasks, Keypoints, PolygonMasks

from randwire_det.detection import add_randwire_config

pytestmark = pytest.mark.slow_suite

PAGE = (REPO / "docs/projects.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
RECIPES = dict(re.findall(r"### ([^\n]+)\n\n((?:    MODEL[^\n]+\n|        [^\n]+\n)+)", PAGE))
# As projects/PointRend and projects/DeepLab of detectron2, whose YAMLs are not installed with it.
POINT_REND = {
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",
    "MODEL.ROI_MASK_HEAD.NAME": "PointRendMaskHead",
    "MODEL.ROI_MASK_HEAD.FC_DIM": 1024,
    "MODEL.ROI_MASK_HEAD.NUM_FC": 2,
    "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.IN_FEATURES": ["p2"],
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON": True,
    "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
}
DEEPLAB = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.SEM_SEG_HEAD.NAME": "DeepLabV3PlusHead",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res5"],
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": ["res2"],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 256,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 19,
    "MODEL.SEM_SEG_HEAD.NORM": "BN",
}
FPN = "Mask R-CNN, PointRend, Panoptic FPN, keypoints"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
DC5 = "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml"
PROJECTS = {  # name -> recipe, config of the model zoo, the project's keys
    "Mask R-CNN": (FPN, MASK, {}),
    "PointRend": (FPN, MASK, POINT_REND),
    "Panoptic FPN": (FPN, "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", {}),
    "keypoints": (FPN, "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", {}),
    "RetinaNet": ("RetinaNet", "COCO-Detection/retinanet_R_50_FPN_1x.yaml", {}),
    "DC5": ("Faster R-CNN on a dilated conv5 (DC5)", DC5, {}),
    "DeepLabV3+": ("DeepLabV3+", DC5, DEEPLAB),
}


def test_every_recipe_is_run():
    assert RECIPES.keys() == {recipe for recipe, *_ in PROJECTS.values()}


def an_input(masks: type, classes: int) -> dict:
    found = one_input(num_classes=classes)
    instances = found["instances"]
    height, width = instances.image_size
    boxes = instances.gt_boxes.tensor
    if masks is BitMasks:
        instances.gt_masks = BitMasks(torch.ones(2, height, width, dtype=torch.bool))
    else:
        polygons = [[x0, y0, x1, y0, x1, y1] for x0, y0, x1, y1 in boxes.tolist()]
        instances.gt_masks = PolygonMasks([[torch.tensor(each).numpy()] for each in polygons])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    visible = torch.full((2, 17, 1), 2.0)
    instances.gt_keypoints = Keypoints(
        torch.cat([centres[:, None].expand(2, 17, 2), visible], dim=2)
    )
    found["sem_seg"] = torch.zeros(height, width, dtype=torch.long)
    return found


@pytest.mark.parametrize("name", PROJECTS)
def test_it_trains_and_detects(name):
    recipe, zoo, keys = PROJECTS[name]
    cfg = get_cfg()
    add_deeplab_config(cfg)
    add_pointrend_config(cfg)
    given = shlex.split(RECIPES[recipe].replace("\\\n", "").replace("c109", "c78"))
    if any(key.startswith("MODEL.RANDWIRE") for key in given):
        add_randwire_config(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(zoo))
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
    cfg.merge_from_list(["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", *given])
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.freeze()
    model = build_model(cfg)
    masks = BitMasks if name == "PointRend" else PolygonMasks
    inputs = [an_input(masks, 1 if name == "keypoints" else 3) for _ in range(2)]
    assert parameters_without_gradient(model, inputs) == []
    with torch.no_grad():
        (found,) = model.eval()([inputs[0]])
    assert found.keys() & {"instances", "sem_seg"}


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(block, tmp_path):
    done = run_python("-c", block, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "p6" in done.stdout
