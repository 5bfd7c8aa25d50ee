"""A checkpoint and pictures: the detections of an evaluation; what cannot be read is named."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_refused, run_tool
from detection_helpers import resnet, tiny_config
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image
from predict_helpers import (
    DATASET,
    IDS,
    NAMES,
    SIZES,
    predict_with,
    store,
)
from pycocotools.coco import COCO

from randwire_det import UsageError, UserError
from randwire_det.coco.report.drawing import class_colour
from randwire_det.detection.predict import (
    Classes,
    draw,
)
from randwire_det.network.fusing import fuse


def evaluated(model, cfg):
    """COCO results of detectron2's own loader, by image."""
    results = {}
    for batch in build_detection_test_loader(cfg, DATASET):
        with torch.no_grad():
            (output,) = model(batch)
        image_id = batch[0]["image_id"]
        results[image_id] = instances_to_coco_json(output["instances"].to("cpu"), image_id)
    return results


@pytest.mark.parametrize("backbone", ["RandWire", "ResNet, BGR"])
def test_detections_are_those_of_an_evaluation(backbone, a_detector, pictures, tmp_path):
    """On colour, grey, transparent and turned pictures; masks and all."""
    bgr = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": "[103.53, 116.28, 123.675]"}
    model, cfg, path = a_detector if backbone == "RandWire" else store(tmp_path, **resnet(**bgr))
    (read, found), rows = predict_with(path, [pictures], tmp_path / "out", score=1)
    expected = evaluated(fuse(model), cfg)  # as RandWireTrainer.test does
    assert read == len(SIZES)
    assert found == len(rows) == sum(map(len, expected.values())) > len(SIZES)
    for image_id, name in enumerate(sorted(SIZES), start=1):
        ours = [row for row in rows if row["image_id"] == image_id]
        assert ours == [
            row
            | {
                "category_id": IDS[row["category_id"]],
                "category": NAMES[row["category_id"]],
                "file_name": str(pictures / name),
            }
            for row in expected[image_id]
        ]
    copy, original = (Image.open(f / "colour.png") for f in (tmp_path / "out", pictures))
    assert copy.tobytes() == original.tobytes()  # of its colours, whatever the model takes


def test_of_cocos_pictures_pycocotools_takes_the_results(a_detector, pictures, tmp_path):
    ids = {"turned.jpg": 42, "grey.png": 139}
    (tmp_path / "val").mkdir()
    for name, number in ids.items():
        shutil.copy(pictures / name, tmp_path / "val" / f"{number:012}{Path(name).suffix}")
    _, rows = predict_with(a_detector[2], [tmp_path / "val"], tmp_path / "out")
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [
            {"id": number, "width": SIZES[name][0], "height": SIZES[name][1]}
            for name, number in ids.items()
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(IDS, NAMES, strict=True)
        ],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "out" / "predictions.json"))
    for name, number in ids.items():
        in_picture = loaded.loadAnns(loaded.getAnnIds(imgIds=[number]))
        assert len(in_picture) == sum(row["image_id"] == number for row in rows) > 0
        assert loaded.annToMask(in_picture[0]).shape == SIZES[name][::-1]


def test_copies_are_upright_and_show_what_reaches_the_score(a_detector, pictures, tmp_path):
    _, rows = predict_with(a_detector[2], [pictures], tmp_path / "none", score=1)
    _, same = predict_with(a_detector[2], [pictures], tmp_path / "all", score=0)
    assert rows == same  # the score decides what is drawn alone
    for name, size in SIZES.items():
        none, drawn = Image.open(tmp_path / "none" / name), Image.open(tmp_path / "all" / name)
        assert none.size == drawn.size == size
        if name.endswith(".png"):
            assert none.tobytes() == Image.open(pictures / name).convert("RGB").tobytes()
        assert drawn.tobytes() != none.tobytes()


def test_output_that_cannot_be_is_refused_and_no_picture_replaced(a_detector, pictures, tmp_path):
    picture = shutil.copy(pictures / "colour.png", tmp_path)
    before = (tmp_path / "colour.png").read_bytes()
    with pytest.raises(UsageError, match=r"is the folder of .*colour\.png"):
        predict_with(a_detector[2], [picture], tmp_path)
    with pytest.raises(UserError, match=r"colour\.png: .*another folder"):
        predict_with(a_detector[2], [picture], tmp_path / "colour.png")
    assert (tmp_path / "colour.png").read_bytes() == before


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_that_is_none_is_refused(a_detector, pictures, tmp_path, score):
    with pytest.raises(UsageError, match="0 to 1"):
        predict_with(a_detector[2], [pictures], tmp_path / "out", score=score)
    assert not (tmp_path / "out").exists()


def test_ids_are_the_data_sets_own_where_it_is_known_by_name():
    cfg = tiny_config(**{"DATASETS.TRAIN": "('coco_2017_train',)"})
    names = MetadataCatalog.get("coco_2017_train").thing_classes
    classes = Classes(cfg, names)
    assert (classes.id(79), classes.name(79)) == (90, "toothbrush")  # as COCO's own JSON has it
    assert Classes(cfg, names[::-1]).id(79) == 80
    unnamed = Classes(cfg, None)
    assert (unnamed.id(2), unnamed.name(2)) == (3, "class 3")


def found(size, *detections, masks=None):
    """Instances of (box, score, output)."""
    boxes, scores, outputs = zip(*detections, strict=True)
    instances = Instances(size[::-1])
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.scores, instances.pred_classes = torch.tensor(scores), torch.tensor(outputs)
    if masks is not None:
        instances.pred_masks = masks
    return instances


def test_a_box_a_label_and_a_mask_are_in_the_colour_of_the_class():
    size = 300, 200
    masks = torch.zeros(2, 200, 300, dtype=torch.bool)
    masks[0, 80:120, 60:100] = True
    masks[1, 150:, 200:] = True  # up to the picture's edges
    instances = found(
        size, ([50, 70, 120, 130], 0.9, 0), ([180, 140, 300, 200], 0.8, 2), masks=masks
    )
    classes = Classes(tiny_config(), NAMES)
    pixels = np.asarray(draw(Image.new("RGB", size, "white"), instances, classes))

    def colour(x, y):
        return tuple(pixels[y, x].tolist())

    cat, cow = class_colour(0), class_colour(2)
    assert cat != cow
    assert colour(50, 100) == colour(120, 100) == colour(85, 130) == cat  # the box
    assert colour(60, 100) == colour(99, 100) == colour(80, 119) == cat  # the outline
    assert colour(80, 100) == colour(55, 100) == (255, 255, 255)  # nothing is filled
    assert colour(51, 69) == cat  # the label's corner, on top of the box
    assert colour(200, 180) == colour(250, 150) == cow
    assert colour(250, 180) == (255, 255, 255)


def test_text_grows_with_the_picture_and_stays_inside():
    classes = Classes(tiny_config(), NAMES)

    def label(size):
        """Rows and columns of the label above a box that leaves the picture to the right."""
        box = [size[0] - 5, size[1] // 2, size[0], size[1] // 2 + 5]
        picture = draw(Image.new("RGB", size, "white"), found(size, (box, 0.9, 0)), classes)
        drawn = (np.asarray(picture) != 255).any(2)[: size[1] // 2 - 1]
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        return rows, columns

    small, large = label((400, 300)), label((4000, 3000))
    assert len(large[0]) > 3 * len(small[0]) > 0
    assert len(small[1]) > 30  # all of it, though the box is five pixels wide
    assert len(large[1]) > 5 * len(small[0])


def test_the_command_skips_what_it_cannot_read_and_names_it(a_detector, pictures, tmp_path):
    """From another folder, without the data set, where the training never was."""
    shutil.copytree(pictures, tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "photos" / "._colour.png").write_bytes(b"what macOS leaves behind")
    os.mkfifo(tmp_path / "photos" / "pipe.png")
    (tmp_path / "photos" / "round.png").symlink_to("round.png")
    whole = (pictures / "turned.jpg").read_bytes()
    (tmp_path / "photos" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(a_detector[2], tmp_path / "moved.pth")
    options = ["--weights", "moved.pth", "--device", "cpu", "--score", "0.2", "--output", "out"]
    done = run_tool("predict.py", *options, "--input", "photos", cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    hidden = "passed over in photos, hidden: 1 files: ._colour.png"
    assert sum(hidden in line for line in lines) == 1
    for name in ("broken.jpg", "cut.jpg", "pipe.png", "round.png"):
        assert sum(f"skipped photos/{name}: it cannot be read" in line for line in lines) == 1
        assert name in lines[-1]
    assert "out/predictions.json" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*SIZES, "predictions.json"]
    )
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert all(row["category"] == NAMES[row["category_id"] - 1] for row in rows)
    assert f"detections: {len(rows)}, pictures: {len(SIZES)};" in done.stdout


def test_where_nothing_can_be_read_the_command_fails(a_detector, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    options = ["--weights", a_detector[2], "--device", "cpu", "--output", tmp_path / "out"]
    done = run_tool("predict.py", *options, "--input", tmp_path / "broken.jpg")
    assert done.returncode == 1
    assert "none of 1 pictures could be read" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_a_mistake_is_one_line(tmp_path):
    (tmp_path / "m.pth").write_bytes(b"no checkpoint")
    (tmp_path / "a.png").touch()
    done = run_tool("predict.py", "--weights", tmp_path / "m.pth", "--input", tmp_path / "a.png")
    assert_refused(done, "m.pth", "no torch file")


def test_batches_detect_what_single_pictures_do(a_detector, pictures, tmp_path):
    """Of pictures of two sizes, mixed, some of them unreadable."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        for name in ("colour.png", "turned.jpg"):
            shutil.copy(pictures / name, folder / f"{number}{name}")
    (folder / "1broken.png").write_bytes(b"no picture")
    counts, expected = predict_with(a_detector[2], [folder], tmp_path / "single")
    assert counts[0] == 6
    for batch in (2, 4):
        output = tmp_path / f"by {batch}"
        counts_of_batch, rows = predict_with(a_detector[2], [folder], output, batch=batch)
        assert counts_of_batch == counts
        for ours, single in zip(rows, expected, strict=True):
            assert ours["file_name"] == single["file_name"]
            assert ours["bbox"] == pytest.approx(single["bbox"], abs=1e-2)
            assert ours["score"] == pytest.approx(single["score"], abs=1e-4)
        for name in (path.name for path in (tmp_path / "single").iterdir()):
            assert (output / name).exists()
