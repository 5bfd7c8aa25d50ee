"""What an evaluation leaves behind: names as in Table 5, the paper's row, the log and the file."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPO
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

from pretrain.baselines import detectron2_keys
from randwire_det import UsageError
from randwire_det.coco.report.evaluation import METRICS
from randwire_det.config.network_keys import spec_from_config
from randwire_det.detection.checks import builds_randwire
from randwire_det.detection.config import read_config
from randwire_det.detection.results import record_evaluation, report_evaluation, result_dir
from randwire_det.tables import names
from randwire_det.tables.detection import WRITTEN
from randwire_det.tables.paper import BASELINE_NAMES, TABLE5

SPEC = importlib.util.spec_from_file_location("report_tool", REPO / "tools" / "report.py")
report_tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(report_tool)

DATASET = "animals_val"
CLASSES = ["cat", "dog", "a long-haired cow", "unseen"]  # of the last one there is no object
RESNET = {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"}


def config(**changes):
    """The paper's C=109, fine-tuned, with `changes` whose keys have dots."""
    fine_tuned = {"MODEL.WEIGHTS": "pretrained.pth", "OUTPUT_DIR": "run"}
    overrides = [str(item) for pair in (fine_tuned | changes).items() for item in pair]
    return read_config("faster_rcnn_randwire_c109.yaml", overrides)


def network_name(cfg):
    spec = spec_from_config(cfg.MODEL.RANDWIRE) if builds_randwire(cfg) else None
    return names.network_name(cfg, spec)


def paper_row(cfg, dataset):
    return names.paper_row(cfg, network_name(cfg), dataset)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """A registered COCO data set of two images; the folder it lies in."""
    root = tmp_path_factory.mktemp("animals")
    objects = [(1, 1, [10, 10, 40, 40]), (1, 2, [50, 20, 20, 20]), (2, 3, [5, 5, 100, 100])]
    truth = {
        "info": {},
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 128, "height": 128}
            for number in (1, 2)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)],
        "annotations": [
            {
                **{"id": n, "image_id": image, "category_id": category, "bbox": box},
                **{"area": box[2] * box[3], "iscrowd": 0},
            }
            for n, (image, category, box) in enumerate(objects, start=1)
        ],
    }
    (root / "val.json").write_text(json.dumps(truth))
    for row in truth["images"]:
        Image.new("RGB", (128, 128)).save(root / row["file_name"])
    register_coco_instances(DATASET, {}, str(root / "val.json"), str(root))
    DatasetCatalog.get(DATASET)  # which makes the metadata whole
    yield root
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def evaluated(detections, output):
    """What detectron2's evaluator returns; detections are (image, class, [x1, y1, x2, y2])."""
    evaluator = COCOEvaluator(DATASET, distributed=False, output_dir=output, use_fast_impl=False)
    evaluator.reset()
    for image in (1, 2):
        found = [(category, box) for at, category, box in detections if at == image]
        instances = Instances((128, 128))
        instances.pred_boxes = Boxes(torch.tensor([box for _, box in found]).reshape(-1, 4))
        instances.scores = torch.full((len(found),), 0.9)
        instances.pred_classes = torch.tensor([n for n, _ in found], dtype=torch.int64)
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator.evaluate()


@pytest.fixture(scope="module")
def inference(animals):
    """The OUTPUT_DIR of an evaluation, and its results: cat is found, dog missed, cow half."""
    detections = [(1, 0, [10.0, 10.0, 50.0, 50.0]), (2, 2, [5.0, 5.0, 105.0, 75.0])]
    return animals / "run", evaluated(detections, str(animals / "run/inference"))


def recorded(cfg, results, weights="output, iteration 9", iteration=9, **origin):
    record_evaluation(cfg, results, weights=weights, iteration=iteration, **origin)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = Path(cfg.OUTPUT_DIR, WRITTEN).read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


def config_in(folder, *test_sets, **changes):
    return config(OUTPUT_DIR=folder, **{"DATASETS.TEST": repr(test_sets or (DATASET,))} | changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "RandWire-WS, C=109"),
        ({"MODEL.RANDWIRE.SEED": 4, "SEED": 3}, "RandWire-WS, C=109"),
        ({"MODEL.RANDWIRE.CHANNELS": 154}, "RandWire-WS, C=154"),
        ({"MODEL.RANDWIRE.P": 0.5}, "RandWire-WS(4, 0.5), C=109"),
        ({"MODEL.RANDWIRE.K": 6}, "RandWire-WS(6, 0.75), C=109"),
        ({"MODEL.RANDWIRE.NODES": 16}, "RandWire-WS, C=109, N=16"),
        ({"MODEL.RANDWIRE.REGIME": "small"}, "RandWire-WS, C=109, small regime"),
        ({"MODEL.RANDWIRE.SEED_PER_STAGE": True}, "RandWire-WS, C=109, a graph per stage"),
        (
            {
                **{"MODEL.RANDWIRE.GENERATOR": "er", "MODEL.RANDWIRE.P": 0.2},
                **{"MODEL.RANDWIRE.REGIME": "small", "MODEL.RANDWIRE.CHANNELS": 78},
            },
            "RandWire-ER(0.2), C=78",
        ),
        (RESNET | {"MODEL.RESNETS.NUM_GROUPS": 32}, "ResNeXt-50 32x64d"),
        (RESNET | {"MODEL.RESNETS.RES2_OUT_CHANNELS": 64}, "ResNet-50, RES2_OUT_CHANNELS 64"),
        ({"MODEL.BACKBONE.NAME": "build_mine"}, "build_mine"),
    ],
    ids=str,
)
def test_a_network_is_named_as_the_paper_names_it_and_by_what_differs(changes, name):
    assert network_name(config(**changes)) == name


@pytest.mark.parametrize("name", BASELINE_NAMES)
def test_a_resnet_has_the_name_that_its_pretraining_gave_it(name):
    for width, more in ((1.0, ""), (0.25, ", width 0.25")):
        keys = detectron2_keys(name, width).items()
        cfg = config(**RESNET, **{f"MODEL.RESNETS.{key}": value for key, value in keys})
        assert network_name(cfg) == BASELINE_NAMES[name] + more


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", "Faster R-CNN FPN"),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", "Faster R-CNN C4"),
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "RetinaNet"),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "Mask R-CNN FPN"),
        ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", "Keypoint R-CNN FPN"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "Cascade Mask R-CNN FPN"),
    ],
)
def test_a_detector_has_the_fields_name(file, name):
    """detectron2's own configs, whose file names tell what they are."""
    from detectron2 import model_zoo

    cfg = model_zoo.get_config(file)
    assert names.detector_name(cfg) == name
    assert network_name(cfg) == "ResNet-50"


def test_the_papers_row_stands_beside_its_own_detector_on_its_own_data():
    assert paper_row(config(), "coco_2017_val") == TABLE5["RandWire-WS, C=109"]
    assert paper_row(config(**RESNET), "coco_2017_val") == TABLE5["ResNet-50"]
    assert paper_row(config(), "coco_2017_train") is None


@pytest.mark.parametrize("processes", [1, 3, 7, 64])
def test_the_schedule_for_other_numbers_of_processes_is_the_papers_too(processes):
    cfg = config(**{"SOLVER.REFERENCE_WORLD_SIZE": 8})
    scaled = DefaultTrainer.auto_scale_workers(cfg, processes)
    assert scaled.SOLVER.MAX_ITER != 90_000
    assert paper_row(scaled, "coco_2017_val") == TABLE5["RandWire-WS, C=109"]


@pytest.mark.parametrize(
    "change",
    [
        {"SOLVER.MAX_ITER": 180_000},
        {"SOLVER.MAX_ITER": 89_000},
        {"DATASETS.TRAIN": "('coco_2017_train', 'coco_2017_val')"},
        {"MODEL.META_ARCHITECTURE": "RetinaNet"},
        {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
        {"MODEL.MASK_ON": True},
        {"MODEL.RANDWIRE.NODES": 16},
        {"MODEL.WEIGHTS": ""},
        {"INPUT.MIN_SIZE_TEST": 400},
    ],
    ids=str,
)
def test_no_row_of_the_paper_stands_beside_anything_else(change):
    assert paper_row(config(**change), "coco_2017_val") is None


def test_the_file_holds_what_the_evaluator_measured(tmp_path, inference):
    _, results = inference
    bbox = results["bbox"]
    assert math.isnan(bbox["AP-unseen"]) and 0 < bbox["AP-a long-haired cow"] < bbox["AP-cat"]
    record = recorded(config_in(tmp_path), results)
    assert (record["network"], record["detector"]) == ("RandWire-WS, C=109", "Faster R-CNN FPN")
    assert record["schedule"] == {
        **{"iterations": 90_000, "images_per_batch": 16},
        "train": ["coco_2017_train"],
    }
    assert (record["weights"], record["iteration"]) == ("output, iteration 9", 9)
    entry = record["datasets"][DATASET]
    assert entry["paper"] is None
    tasks = entry["tasks"]
    assert tasks["bbox"]["metrics"] == {name: pytest.approx(bbox[name]) for name in METRICS}
    classes = tasks["bbox"]["classes"]
    assert classes == {
        name: None if name == "unseen" else pytest.approx(bbox[f"AP-{name}"]) for name in CLASSES
    }


def test_the_file_holds_the_latest_evaluation(tmp_path, inference):
    cfg = config_in(tmp_path)
    recorded(cfg, inference[1])
    assert recorded(cfg, inference[1], iteration=18)["iteration"] == 18


def test_config_holds_what_tells_rows_apart_and_no_more(tmp_path, inference):
    seeds = {"SEED": 7, "MODEL.RANDWIRE.SEED": 2}
    paths = {"MODEL.WEIGHTS": "elsewhere.pth", "DATASETS.COCO": "[['a', 'b', 'c']]"}
    machine = {"MODEL.DEVICE": "cpu", "DATALOADER.NUM_WORKERS": 1, "TEST.EVAL_PERIOD": 5}
    one = recorded(config_in(tmp_path / "one"), inference[1])
    two = recorded(config_in(tmp_path / "two", **seeds, **paths, **machine), inference[1])
    assert one["config"] == two["config"]
    assert one["seeds"] != two["seeds"]
    for change in (
        {"SOLVER.BASE_LR": 0.01},
        {"MODEL.BACKBONE.FREEZE_AT": 0},
        {"MODEL.RANDWIRE.NORM": "BN"},
        {"MODEL.RANDWIRE.K": 6},
        {"INPUT.MIN_SIZE_TEST": 400},
        {"SOLVER.EMA_DECAY": 0.999},
        {"MODEL.WEIGHTS": ""},
    ):
        other = recorded(config_in(tmp_path / "three", **change), inference[1])
        assert other["config"] != one["config"], change


def test_a_setting_that_json_has_no_number_for_is_written_too(tmp_path, inference):
    cfg = config_in(tmp_path)
    cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = math.inf
    record = recorded(cfg, inference[1])
    assert record["config"]["SOLVER.CLIP_GRADIENTS.NORM_TYPE"] == "inf"


def logged(caplog):
    return [record.getMessage() for record in caplog.records if "results" in record.name]


def test_the_log_has_table_5s_row_with_the_papers_beside_it(tmp_path, inference, caplog):
    bbox = inference[1]["bbox"]
    with caplog.at_level("INFO", "randwire_det"):
        recorded(config_in(tmp_path, "coco_2017_val"), inference[1])
    (message,) = logged(caplog)
    title, header, ours, papers, heading, *classes = message.splitlines()
    assert "coco_2017_val, bbox" in title and "iteration 9 of 90000" in title
    assert header.split() == list(METRICS)
    assert ours.split()[-6:] == [f"{bbox[name]:.1f}" for name in METRICS]
    assert papers.split()[-6:] == [str(value) for value in TABLE5["RandWire-WS, C=109"].values()]
    assert len(header) == len(ours) == len(papers)
    assert "class" in heading
    cow = f"{bbox['AP-a long-haired cow']:.1f}"  # the best first, down the columns
    assert [line.split() for line in classes] == [
        ["cat", "100.0", "dog", "0.0"],
        ["a", "long-haired", "cow", cow, "unseen", "-"],
    ]


def test_eighty_classes_stand_in_columns_from_best_to_worst(tmp_path, caplog):
    aps = {f"AP-class{n}": float(n) for n in range(80)}
    with caplog.at_level("INFO", "randwire_det"):
        recorded(config_in(tmp_path), {"bbox": dict.fromkeys(METRICS, 30.0) | aps})
    lines = logged(caplog)[0].splitlines()[4:]
    assert 10 < len(lines) < 40 and max(map(len, lines)) <= 100
    rows = [line.split() for line in lines]
    down = [
        row[column] for column in range(0, len(rows[0]), 2) for row in rows if column < len(row)
    ]
    assert down == [f"class{n}" for n in reversed(range(80))]
    pairs = [pair for row in rows for pair in zip(row[::2], row[1::2], strict=True)]
    assert all(name == f"class{float(ap):.0f}" for name, ap in pairs)


def test_several_test_sets_and_tasks_each_have_their_numbers(tmp_path, inference, caplog):
    bbox = inference[1]["bbox"]
    segm = dict.fromkeys(METRICS, 10.0)
    results = {"coco_2017_val": {"bbox": bbox, "segm": segm}, DATASET: {"bbox": bbox}}
    cfg = config_in(tmp_path, "coco_2017_val", DATASET)
    with caplog.at_level("INFO", "randwire_det"):
        record = recorded(cfg, results)
    datasets = record["datasets"]
    assert datasets["coco_2017_val"]["paper"] == TABLE5["RandWire-WS, C=109"]
    assert datasets[DATASET]["paper"] is None
    assert datasets["coco_2017_val"]["tasks"]["segm"] == {"metrics": segm, "classes": {}}
    boxes, masks, others = logged(caplog)
    assert "39.9" in boxes and "39.9" not in masks + others
    folders = {result_dir(cfg, "inference", name) for name in cfg.DATASETS.TEST}
    assert len(folders) == 2  # so that one set's detections do not replace the other's


def test_an_evaluation_that_found_nothing_is_reported_and_written(tmp_path, animals, caplog):
    """Without a detection detectron2 gives NaN; without an image, an empty dict."""
    cfg = config_in(tmp_path)
    with caplog.at_level("INFO", "randwire_det"):
        record = recorded(cfg, evaluated([], str(tmp_path / "inference")))
        empty = recorded(cfg, {})
    blank = {"metrics": dict.fromkeys(METRICS), "classes": {}}
    assert record["datasets"][DATASET]["tasks"] == {"bbox": blank}
    assert empty["datasets"][DATASET]["tasks"] == {}
    first, second = logged(caplog)
    assert first.splitlines()[2].split()[-6:] == ["-"] * 6
    assert DATASET in second and "nothing" in second


def test_the_training_that_a_checkpoint_tells_of_counts_and_not_the_config(tmp_path, inference):
    """A 2x training, evaluated with the 1x config, has no place beside the paper's 1x."""
    trained = config(**{"SOLVER.MAX_ITER": 180_000, "SEED": 7, "INPUT.MIN_SIZE_TEST": 400})
    weights = tmp_path / "model_final.pth"
    cfg = config_in(tmp_path, "coco_2017_val", **{"MODEL.WEIGHTS": weights})
    origin = {"weights": str(weights), "iteration": 180_000, "trained_with": trained.dump()}
    record = recorded(cfg, inference[1], **origin)
    assert record["schedule"]["iterations"] == 180_000
    assert record["datasets"]["coco_2017_val"]["paper"] is None
    assert record["seeds"]["SEED"] == 7
    assert record["seeds"]["MODEL.WEIGHTS"] == "pretrained.pth"  # what it was fine-tuned from
    assert record["config"]["INPUT.MIN_SIZE_TEST"] == 800  # how it is tested now


def test_a_report_of_the_evaluation_is_written(tmp_path, inference, caplog):
    folder, results = inference
    cfg = config_in(folder)
    recorded(cfg, results)
    report_evaluation(cfg)
    numbers = json.loads((folder / "report/report.json").read_text(encoding="utf-8"))
    assert (folder / "report/report.html").is_file()
    assert numbers["row"] == {name: pytest.approx(results["bbox"][name]) for name in METRICS}
    assert "RandWire-WS, C=109" in numbers["title"]


def test_the_tool_makes_the_report_of_one_of_several_sets_anew(tmp_path, animals, monkeypatch):
    cfg = config_in(tmp_path, DATASET, "coco_2017_val")
    detections = [(1, 0, [10.0, 10.0, 50.0, 50.0])]
    results = {DATASET: evaluated(detections, str(result_dir(cfg, "inference", DATASET)))}
    record = recorded(cfg, results)
    record["datasets"][DATASET]["paper"] = {"AP": 39.9}
    (tmp_path / WRITTEN).write_text(json.dumps(record))
    report_evaluation(cfg)
    report = tmp_path / "report" / DATASET / "report.json"
    before = json.loads(report.read_text())
    assert DATASET in before["title"] and before["paper"] == {"AP": 39.9}

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), *args])
        report_tool.main()
        return json.loads(report.read_text())

    (tmp_path / "config.yaml").write_text(cfg.dump())
    report.unlink()
    assert run("--dataset", DATASET) == before
    # The same detections, but for all that is known they are of something else.
    found = result_dir(cfg, "inference", DATASET) / "coco_instances_results.json"
    other = run("--dataset", DATASET, "--results", str(found))
    assert (other["row"], other["paper"]) == (before["row"], {})
    assert other["title"] != before["title"]
    with pytest.raises(UsageError, match=f"nowhere: .*{DATASET}, coco_2017_val"):
        run("--dataset", "nowhere")


def test_a_report_that_cannot_be_costs_no_more_than_a_warning(tmp_path, animals, caplog):
    cfg = config_in(tmp_path)
    with caplog.at_level("INFO", "randwire_det"):
        recorded(cfg, evaluated([(1, 0, [0.0, 0.0, 9.0, 9.0])], None))  # no detections on disk
        report_evaluation(cfg)
    assert "coco_instances_results.json" in logged(caplog)[-1]
    assert not (tmp_path / "report").exists()
