"""A checkpoint and pictures: the detections of an evaluation; what cannot be read is named."""

import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import assert_refused, run_python, run_tool
from detection_helpers import resnet, save_baseline, save_classifier, tiny_config, tiny_detector
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO

from randwire_det import UsageError, UserError
from randwire_det.coco.report.drawing import class_colour
from randwire_det.config.network_keys import spec_from_config
from randwire_det.detection.picture_files import find_pictures, image_ids
from randwire_det.detection.predict import (
    Classes,
    Input,
    Predictor,
    draw,
    predict,
)
from randwire_det.detection.stored import load_detector
from randwire_det.detection.trainer import build_checkpointer
from randwire_det.network.fusing import fuse
from randwire_det.run.average import WeightAverage

DATASET, NAMES, IDS = "pictures_of_test_predict", ["cat", "dog", "cow"], [4, 7, 9]
SMALL = {
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "DATASETS.TRAIN": f"('{DATASET}',)",
    "DATASETS.TEST": f"('{DATASET}',)",
    "DATALOADER.NUM_WORKERS": 0,
}
MASKS = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}
SIZES = {
    "colour.png": (70, 50),
    "grey.png": (50, 70),
    "clear.png": (60, 60),
    "turned.jpg": (40, 90),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of every kind, and a COCO data set of them, registered as DATASET."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def noise(name, mode="RGB"):
        width, height = SIZES[name]
        blocks = rng.integers(0, 256, (height // 10, width // 10, len(mode)), dtype=np.uint8)
        return Image.fromarray(blocks.squeeze()).resize((width, height), Image.NEAREST)

    noise("colour.png").save(folder / "colour.png")
    noise("grey.png", "L").save(folder / "grey.png")
    noise("clear.png", "RGBA").save(folder / "clear.png")
    exif = Image.Exif()
    exif[274] = 6  # a camera held upright
    noise("turned.jpg").transpose(Image.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    images = [
        {"id": position, "file_name": name, "width": SIZES[name][0], "height": SIZES[name][1]}
        for position, name in enumerate(sorted(SIZES), start=1)
    ]
    categories = [{"id": id, "name": name} for id, name in zip(IDS, NAMES, strict=True)]
    content = {"info": {}, "images": images, "categories": categories, "annotations": []}
    truth = folder.parent / f"{folder.name}.json"
    truth.write_text(json.dumps(content))
    register_coco_instances(DATASET, {"thing_classes": NAMES}, str(truth), str(folder))
    DatasetCatalog.get(DATASET)  # on which detectron2 learns the ids
    yield folder
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.pop(DATASET)


def store(folder, average=None, **changes):
    """A tiny detector and its checkpoint, through the project's own writer."""
    cfg = tiny_config(**SMALL | changes, OUTPUT_DIR=folder)
    model = tiny_detector(**SMALL | changes).eval()
    build_checkpointer(cfg, model, average=average).save("model_final")
    return model, cfg, folder / "model_final.pth"


@pytest.fixture(scope="module")
def detector(pictures, tmp_path_factory):
    """Of RandWire, with masks: model, config and checkpoint."""
    return store(tmp_path_factory.mktemp("detector"), **MASKS)


def edited(path, target, **changes):
    """A checkpoint with other content, or with keys of its config (with dots) changed."""
    data = torch.load(path, weights_only=True)
    config = yaml.safe_load(data["config"])
    for key, value in changes.items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        if sections:
            node[name] = value
    data["config"] = yaml.safe_dump(config)
    torch.save(data | {key: value for key, value in changes.items() if "." not in key}, target)
    return target


def predict_with(checkpoint, inputs, output, **options):
    model, cfg, names = load_detector(checkpoint, "cpu")
    counts = predict(
        Predictor(model, cfg), Classes(cfg, names), find_pictures(inputs), output, **options
    )
    return counts, json.loads((output / "predictions.json").read_text())


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
def test_detections_are_those_of_an_evaluation(backbone, detector, pictures, tmp_path):
    """On colour, grey, transparent and turned pictures; masks and all."""
    bgr = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": "[103.53, 116.28, 123.675]"}
    model, cfg, path = detector if backbone == "RandWire" else store(tmp_path, **resnet(**bgr))
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


def test_of_cocos_pictures_pycocotools_takes_the_results(detector, pictures, tmp_path):
    ids = {"turned.jpg": 42, "grey.png": 139}
    (tmp_path / "val").mkdir()
    for name, number in ids.items():
        shutil.copy(pictures / name, tmp_path / "val" / f"{number:012}{Path(name).suffix}")
    _, rows = predict_with(detector[2], [tmp_path / "val"], tmp_path / "out")
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


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["COCO_val2014_000000000042.jpg", "000000000139.jpg"], [42, 139]),
        (["000000000139.jpg", "holiday.jpg"], [1, 2]),  # not all are COCO's
        (["a_000000000139.jpg", "b_000000000139.jpg"], [1, 2]),  # which of them is COCO's?
        (["20240131.jpg", "20240201.jpg"], [1, 2]),  # dates of a camera
    ],
)
def test_ids_are_cocos_numbers_or_positions(names, ids):
    assert image_ids({name: Path(name) for name in names}) == dict(zip(names, ids, strict=True))


def test_copies_are_upright_and_show_what_reaches_the_score(detector, pictures, tmp_path):
    _, rows = predict_with(detector[2], [pictures], tmp_path / "none", score=1)
    _, same = predict_with(detector[2], [pictures], tmp_path / "all", score=0)
    assert rows == same  # the score decides what is drawn alone
    for name, size in SIZES.items():
        none, drawn = Image.open(tmp_path / "none" / name), Image.open(tmp_path / "all" / name)
        assert none.size == drawn.size == size
        if name.endswith(".png"):
            assert none.tobytes() == Image.open(pictures / name).convert("RGB").tobytes()
        assert drawn.tobytes() != none.tobytes()


def test_a_checkpoint_outlives_the_wiring_that_its_seed_would_sample_now(detector, tmp_path):
    model, _, path = detector
    other = edited(path, tmp_path / "other.pth", **{"MODEL.RANDWIRE.SEED": 2})
    sampled = tiny_config(**{"MODEL.RANDWIRE.SEED": 2}).MODEL.RANDWIRE
    loaded, cfg, names = load_detector(other, "cpu")
    assert loaded.backbone.bottom_up.trunk.spec == model.backbone.bottom_up.trunk.spec
    assert spec_from_config(cfg.MODEL.RANDWIRE) != spec_from_config(sampled)
    assert names == NAMES
    assert not loaded.training


def test_averaged_weights_are_used_where_there_are_some(pictures, tmp_path):
    average = WeightAverage(tiny_detector(**SMALL), 0.9)  # random weights of its own
    model, _, path = store(tmp_path, average)
    ours = load_detector(path, "cpu")[0].state_dict()
    name = "roi_heads.box_head.fc1.weight"
    assert not torch.equal(ours[name], model.state_dict()[name])
    assert all(torch.equal(ours[key], value) for key, value in average.model.state_dict().items())


def test_keys_of_another_version_are_left_out_and_named(detector, tmp_path, caplog):
    keys = {"MODEL.RPN.FROM_MAIN": 1, "FLOATS.OF.THE.FUTURE": 0.5}
    model = load_detector(edited(detector[2], tmp_path / "m.pth", **keys), "cpu")[0]
    assert "MODEL.RPN.FROM_MAIN" in caplog.text
    assert "FLOATS" in caplog.text
    assert model.state_dict().keys() == detector[0].state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"config": None}, ["does not hold its config", "--resume"]),
        ({"config": "MODEL: [unclosed"}, ["config cannot be read"]),
        ({"config": "!!python/object/apply:os.getcwd []"}, ["config cannot be read"]),
        ({"config": "just words"}, ["config cannot be read", "KEY: VALUE"]),
        ({"config": "MODEL: &a {MASK_ON: *a}"}, ["config cannot be read", "*a"]),
        ({"MODEL.ROI_BOX_HEAD.FC_DIM": 10**9}, ["cannot be built here", "GB of memory"]),
        ({"MODEL.RPN.NMS_THRESH": "much"}, ["config cannot be read", "NMS_THRESH"]),
        ({"MODEL.ROI_HEADS.NAME": "MyOwnHeads"}, ["cannot be built here", "MyOwnHeads"]),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 5}, ["does not hold the detector", "roi_heads"]),
        ({"MODEL.MASK_ON": False}, ["does not hold the detector", "mask_head"]),
    ],
)
def test_a_file_that_cannot_be_rebuilt_says_why(detector, tmp_path, changes, fragments):
    path = edited(detector[2], tmp_path / "m.pth", **changes)
    with pytest.raises(UserError) as caught:
        load_detector(path, "cpu")
    for fragment in [str(path), *fragments]:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_detect_nothing_and_are_refused(detector, tmp_path):
    weights = torch.load(detector[2], weights_only=True)["model"]
    name = next(name for name in weights if name.endswith("pointwise.weight"))
    weights[name].view(-1)[3] = math.nan
    path = edited(detector[2], tmp_path / "m.pth", model=weights)
    with pytest.raises(UserError, match=f"NaN or infinity in 1 of .* {re.escape(name)}"):
        load_detector(path, "cpu")


def test_lost_statistics_of_a_frozen_bn_are_not_made_up(pictures, tmp_path):
    model, _, path = store(tmp_path, **{"MODEL.RANDWIRE.NORM": "FrozenBN"})
    weights = model.state_dict()
    lost = next(name for name in weights if name.endswith("running_mean"))
    del weights[lost]
    with pytest.raises(UserError, match=lost):
        load_detector(edited(path, tmp_path / "m.pth", model=dict(weights)), "cpu")


def test_a_classifier_is_no_detector(tmp_path):
    for save in (save_classifier, save_baseline):
        save(tmp_path / "c.pth")
        with pytest.raises(UserError, match=r"is a classifier.*tools/train_net\.py"):
            load_detector(tmp_path / "c.pth", "cpu")


def test_pictures_of_folders_and_files_get_names_of_their_own(tmp_path):
    for name in ("a/x.jpg", "a/sub/deep.jpg", "a/notes.txt", "b/x.jpg", "c/x-2.JPG", "c/scan.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "folder.png").mkdir()
    a, b, c = (tmp_path / name for name in "abc")
    found = find_pictures([b, a, a / "x.jpg", c, a / "notes.txt"])
    assert found == {
        "x.jpg": b / "x.jpg",
        "x-2.jpg": a / "x.jpg",
        "scan.tif": c / "scan.tif",
        "x-2.JPG": c / "x-2.JPG",
        "notes.txt": a / "notes.txt",
    }
    twice = [tmp_path / "1" / "scan.tif.png", c]  # whose copy would have that name
    twice[0].parent.mkdir()
    twice[0].touch()
    assert list(find_pictures(twice)) == ["scan.tif.png", "scan-2.tif", "x-2.JPG"]


def test_of_a_folder_all_that_pillow_reads_is_taken_and_the_rest_is_named(tmp_path, caplog):
    taken = ["a.gif", "b.avif", "c.JFIF", "d.heic", "e.jp2", "f.webp", "round.jpg"]
    left_out = ["._a.gif", ".hidden.jpg", "clip.mpg", "doc.pdf", "plan.eps", "Thumbs.db", "README"]
    for name in [*taken[:-1], *left_out]:
        (tmp_path / name).touch()
    (tmp_path / "round.jpg").symlink_to("round.jpg")
    (tmp_path / "again").symlink_to(tmp_path)
    assert list(find_pictures([tmp_path])) == taken
    for name in left_out:
        assert name in caplog.text
    assert list(find_pictures([tmp_path / "README"])) == ["README"]


def test_input_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        find_pictures([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match=r"no pictures in .*\.png"):
        find_pictures([tmp_path])


def test_output_that_cannot_be_is_refused_and_no_picture_replaced(detector, pictures, tmp_path):
    picture = shutil.copy(pictures / "colour.png", tmp_path)
    before = (tmp_path / "colour.png").read_bytes()
    with pytest.raises(UsageError, match=r"is the folder of .*colour\.png"):
        predict_with(detector[2], [picture], tmp_path)
    with pytest.raises(UserError, match=r"colour\.png: .*another folder"):
        predict_with(detector[2], [picture], tmp_path / "colour.png")
    assert (tmp_path / "colour.png").read_bytes() == before


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_that_is_none_is_refused(detector, pictures, tmp_path, score):
    with pytest.raises(UsageError, match="0 to 1"):
        predict_with(detector[2], [pictures], tmp_path / "out", score=score)
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


def test_the_command_skips_what_it_cannot_read_and_names_it(detector, pictures, tmp_path):
    """From another folder, without the data set, where the training never was."""
    shutil.copytree(pictures, tmp_path / "photos")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "photos" / "._colour.png").write_bytes(b"what macOS leaves behind")
    os.mkfifo(tmp_path / "photos" / "pipe.png")
    (tmp_path / "photos" / "round.png").symlink_to("round.png")
    whole = (pictures / "turned.jpg").read_bytes()
    (tmp_path / "photos" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(detector[2], tmp_path / "moved.pth")
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


def test_where_nothing_can_be_read_the_command_fails(detector, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    options = ["--weights", detector[2], "--device", "cpu", "--output", tmp_path / "out"]
    done = run_tool("predict.py", *options, "--input", tmp_path / "broken.jpg")
    assert done.returncode == 1
    assert "none of 1 pictures could be read" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_a_mistake_is_one_line(tmp_path):
    (tmp_path / "m.pth").write_bytes(b"no checkpoint")
    (tmp_path / "a.png").touch()
    done = run_tool("predict.py", "--weights", tmp_path / "m.pth", "--input", tmp_path / "a.png")
    assert_refused(done, "m.pth", "no torch file")


def test_batches_detect_what_single_pictures_do(detector, pictures, tmp_path):
    """Of pictures of two sizes, mixed, some of them unreadable."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        for name in ("colour.png", "turned.jpg"):
            shutil.copy(pictures / name, folder / f"{number}{name}")
    (folder / "1broken.png").write_bytes(b"no picture")
    counts, expected = predict_with(detector[2], [folder], tmp_path / "single")
    assert counts[0] == 6
    for batch in (2, 4):
        output = tmp_path / f"by {batch}"
        counts_of_batch, rows = predict_with(detector[2], [folder], output, batch=batch)
        assert counts_of_batch == counts
        for ours, single in zip(rows, expected, strict=True):
            assert ours["file_name"] == single["file_name"]
            assert ours["bbox"] == pytest.approx(single["bbox"], abs=1e-2)
            assert ours["score"] == pytest.approx(single["score"], abs=1e-4)
        for name in (path.name for path in (tmp_path / "single").iterdir()):
            assert (output / name).exists()


def test_folders_in_a_folder_are_looked_into_if_asked_for(tmp_path, caplog):
    for name in ("a.png", "sub/b.png", "sub/deep/c.jpg", "out/a.png", ".hidden/d.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def found(*inputs, **options):
        paths = find_pictures([tmp_path / each for each in inputs], **options).values()
        return [str(path.relative_to(tmp_path)) for path in paths]

    assert found("") == ["a.png"]
    below = ["a.png", "sub/b.png", "sub/deep/c.jpg"]
    assert found("", recursive=True, leave_out=tmp_path / "out") == below
    assert found("", recursive=True) == ["a.png", "out/a.png", *below[1:]]
    assert found("**/*.jpg") == ["sub/deep/c.jpg"]
    assert found("s*") == ["sub/b.png"]
    assert found("[ab].png", "a.png") == ["a.png"]
    (tmp_path / "[1].png").touch()
    assert found("[1].png") == ["[1].png"]  # a file of that name
    with pytest.raises(UserError, match=r"x\*\.png: no file or folder fits"):
        found("x*.png")


def a_video(path, codec="mp4v", frames=5):
    import cv2

    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 8.0, (96, 64))
    for _ in range(frames):
        blocks = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        writer.write(np.asarray(Image.fromarray(blocks).resize((96, 64), Image.NEAREST)))
    writer.release()


def frames_of(path):
    import cv2

    reader, frames = cv2.VideoCapture(str(path)), []
    while (read := reader.read())[0]:
        frames.append(read[1][:, :, ::-1])
    return frames, reader.get(cv2.CAP_PROP_FPS)


def test_a_video_is_detected_in_frame_by_frame(detector, pictures, tmp_path):
    a_video(tmp_path / "clip.avi", "MJPG")
    a_video(tmp_path / "clip.mp4")
    output = tmp_path / "out"
    options = ["--weights", detector[2], "--device", "cpu", "--score", "0.9", "--batch", "2"]
    inputs = [tmp_path / "clip.*", pictures / "colour.png"]
    done = run_tool("predict.py", *options, "--output", output, "--input", *inputs)
    assert done.returncode == 0, done.stderr
    videos = {"clip.avi.json", "clip.avi.mp4", "clip.mp4", "clip.mp4.json"}
    assert {path.name for path in output.iterdir()} == videos | {"colour.png", "predictions.json"}
    assert len(re.findall(r"[\d.]+ frames/s", done.stdout)) == 2
    assert len(re.findall(r"[\d.]+ pictures/s", done.stdout)) == 1
    predictor = Predictor(*load_detector(detector[2], "cpu")[:2])
    frames, rate = frames_of(tmp_path / "clip.avi")
    rows = json.loads((output / "clip.avi.json").read_text())
    assert rate == 8.0 and len(frames) == 5
    for number, frame in enumerate(frames, start=1):
        (alone,) = predictor.detect([Input(0, frame, predictor.prepare(frame))])
        ours = [row for row in rows if row["image_id"] == number]
        assert [row["score"] for row in ours] == pytest.approx(alone.scores.tolist(), abs=1e-4)
    copies, rate = frames_of(output / "clip.avi.mp4")
    assert rate == 8.0 and len(copies) == 5
    for copy, frame in zip(copies, frames, strict=True):
        assert copy.shape == frame.shape  # nothing reaches the score: only the codec's loss
        assert np.abs(copy.astype(int) - frame).mean() < 12


def test_a_video_that_is_none_is_refused(detector, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    options = ["--weights", detector[2], "--device", "cpu", "--output", tmp_path / "out"]
    done = run_tool("predict.py", *options, "--input", tmp_path / "clip.mp4")
    assert done.returncode == 1
    assert "clip.mp4: no frame can be read" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())


def test_heic_is_read_where_pillow_heif_is(pictures, tmp_path):
    picture = Image.open(pictures / "colour.png")
    exif = Image.Exif()
    exif[274] = 6
    turned, path = picture.transpose(Image.ROTATE_90), tmp_path / "phone.heic"
    turned.save(path, exif=exif.tobytes(), quality=-1)
    model, cfg = tiny_detector(**SMALL).eval(), tiny_config(**SMALL)
    assert list(find_pictures([tmp_path]).values()) == [path]
    read, _ = Predictor(model, cfg).read(path)
    assert read.shape == np.asarray(picture).shape
    assert np.abs(read.astype(int) - np.asarray(picture)).mean() < 3  # of YCbCr


def test_without_pillow_heif_heic_says_what_to_install(tmp_path):
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(90))
    program = """
import sys
sys.modules["pillow_heif"] = None  # cannot be imported
from randwire_det.run.pictures import why_unusable
print(why_unusable("phone.heic"))
"""
    done = run_python("-c", program, cwd=tmp_path)
    assert "pip install pillow-heif" in done.stdout, done.stderr
