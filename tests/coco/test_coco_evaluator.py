"""AP is that of the objects, however their ids, flags and areas are written."""

import json
import math
from pathlib import Path

import pytest
import torch
from coco_helpers import random_evaluation
from detection_helpers import tiny_config
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from randwire_det import UsageError, UserError
from randwire_det.coco.report.evaluation import evaluate, table_row
from randwire_det.coco.report.inputs import read_results, read_truth
from randwire_det.detection.checks import check_run
from randwire_det.detection.trainer import RandWireTrainer


@pytest.fixture
def measured(tmp_path):
    """What an evaluation of `truth` and `detections` returns, by the trainer's own evaluator."""
    names = []

    def measure(truth, detections, **metadata):
        name = f"measured {len(names)} in {tmp_path}"
        names.append(name)
        path = tmp_path / f"{len(names)}.json"
        path.write_text(json.dumps(truth))
        register_coco_instances(name, metadata, str(path), str(tmp_path))
        DatasetCatalog.get(name)  # as the test loader does
        cfg = tiny_config(**{"DATASETS.TEST": f"('{name}',)", "OUTPUT_DIR": tmp_path / name})
        evaluator = RandWireTrainer.build_evaluator(cfg, name)
        evaluator.reset()
        label = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
        for image in truth["images"]:
            found = [each for each in detections if each["image_id"] == image["id"]]
            instances = Instances((image["height"], image["width"]))
            boxes = torch.tensor([each["bbox"] for each in found]).reshape(-1, 4)
            instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
            instances.scores = torch.tensor([each["score"] for each in found])
            classes = [label[each["category_id"]] for each in found]
            instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
            evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
        results = evaluator.evaluate()
        folder = tmp_path / name / "inference/coco_instances_results.json"
        if "bbox" in results:  # the report measures the same
            given = read_truth(path)
            row = table_row(evaluate(given, read_results(folder, given, path)))
            assert row == pytest.approx({key: results["bbox"][key] for key in row}, nan_ok=True)
        return results

    yield measure
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def changed(truth, change):
    """The set with `change(number, annotation)` merged into each annotation."""
    rows = [each | change(n, each) for n, each in enumerate(truth["annotations"])]
    return truth | {"annotations": rows}


WRITTEN_OTHERWISE = {
    "ids from 0": lambda n, each: {"id": n},
    "ids as text": lambda n, each: {"id": f"c33c3539-{n}"},
    "negative ids": lambda n, each: {"id": n - 20},
    "iscrowd as text": lambda n, each: {"iscrowd": str(each["iscrowd"])},
    "iscrowd as a boolean": lambda n, each: {"iscrowd": bool(each["iscrowd"])},
    "iscrowd null": lambda n, each: {"iscrowd": each["iscrowd"] or None},
    "area 0": lambda n, each: {"area": 0},
    "area negative": lambda n, each: {"area": -each["area"]},
    "area NaN": lambda n, each: {"area": math.nan},
    "area of the image": lambda n, each: {"area": 128 * 128},
    "area as text": lambda n, each: {"area": "large"},
    "area null": lambda n, each: {"area": None},
}


@pytest.mark.parametrize("name", WRITTEN_OTHERWISE)
def test_ap_is_the_same_however_an_annotation_is_written(measured, name):
    """pycocotools alone: no match for id 0, no AP by size without areas, a crash on text."""
    truth, detections = random_evaluation(3)
    expected = measured(truth, detections)["bbox"]
    assert expected["APs"] > 0 and expected["APm"] > 0  # both sizes are there
    found = measured(changed(truth, WRITTEN_OTHERWISE[name]), detections)["bbox"]
    assert found == pytest.approx(expected, nan_ok=True)


def test_missing_flags_and_areas_are_those_of_boxes_without_crowds(measured):
    truth, detections = random_evaluation(3)
    truth = changed(truth, lambda n, each: {"iscrowd": 0})
    expected = measured(truth, detections)
    for each in truth["annotations"]:
        del each["iscrowd"], each["area"]
    assert measured(truth, detections)["bbox"] == pytest.approx(expected["bbox"], nan_ok=True)


def test_a_smaller_area_than_the_boxs_is_a_masks_and_counts(measured):
    truth, detections = random_evaluation(3)
    whole = measured(truth, detections)["bbox"]
    thin = changed(truth, lambda n, each: {"area": 20.0})  # all are small then
    results = measured(thin, detections)["bbox"]
    assert math.isnan(results["APm"]) and not math.isnan(whole["APm"])


def test_text_ids_of_images(measured):
    truth, detections = random_evaluation(3)
    expected = measured(truth, detections)["bbox"]
    renamed = truth | {"images": [each | {"id": f"uuid {each['id']}"} for each in truth["images"]]}
    renamed = changed(renamed, lambda n, each: {"image_id": f"uuid {each['image_id']}"})
    found = [each | {"image_id": f"uuid {each['image_id']}"} for each in detections]
    assert measured(renamed, found)["bbox"] == pytest.approx(expected, nan_ok=True)


def test_a_flag_that_is_neither_is_named(measured):
    truth, detections = random_evaluation(3)
    with pytest.raises(UserError, match=r"annotation 1: iscrowd 2, expected 0 or 1"):
        measured(changed(truth, lambda n, each: {"iscrowd": 2}), detections)


def test_a_set_without_annotations_says_where_its_detections_are(measured, caplog):
    truth, detections = random_evaluation(3)
    bare = truth | {"annotations": []}
    assert math.isnan(measured(bare, detections)["bbox"]["AP"])
    assert "no annotations" not in caplog.text
    del truth["annotations"]
    assert measured(truth, detections) == {}
    (line,) = [each.getMessage() for each in caplog.records if "no annotations" in each.message]
    written = line.partition("the detections are in ")[2]
    assert len(json.loads(Path(written).read_text())) == len(detections)
    assert "nothing was detected" not in caplog.text


def test_lvis_is_refused_before_the_run_and_by_the_evaluator(tmp_path):
    """COCO's AP of it is a number, and not LVIS's."""
    name = "of LVIS"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(evaluator_type="lvis", thing_classes=["a", "b", "c"])
    names = {"DATASETS.TRAIN": f"('{name}',)", "DATASETS.TEST": f"('{name}',)"}
    cfg = tiny_config(**names, OUTPUT_DIR=tmp_path)
    try:
        with pytest.raises(UsageError, match="'of LVIS': an LVIS data set"):
            check_run(cfg, resume=False, eval_only=False)
        with pytest.raises(UsageError, match="'of LVIS': an LVIS data set"):
            RandWireTrainer.build_evaluator(cfg, name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
