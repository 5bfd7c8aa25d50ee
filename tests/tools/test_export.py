"""tools/export.py: files that compute what the checkpoint does, wherever they run."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REPO, assert_refused, run_python, run_tool
from detection_helpers import RETINANET, save_baseline, tiny_config, tiny_detector
from PIL import Image

from pretrain.export import exportable_classifier
from randwire_det import UserError
from randwire_det.detection.export import exportable_detector
from randwire_det.detection.predict import Predictor
from randwire_det.detection.stored import load_detector
from randwire_det.detection.trainer import build_checkpointer
from randwire_det.export.formats import ENDINGS, METADATA, open_file, write
from randwire_det.export.parity import compare
from randwire_det.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow_suite

SMALL = {"INPUT.MIN_SIZE_TEST": 64, "INPUT.MAX_SIZE_TEST": 96}
MASKS = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
}
HEADS = {
    "faster": {},
    "mask": MASKS,
    "cascade": MASKS
    | {
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    },
    "retinanet": RETINANET | {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0},
}


def store(folder, seed=2, **changes):
    """A tiny detector's checkpoint.

    Its scores and boxes are spread: of equal scores, as of a sigmoid that is saturated, and of
    anchors that overlap by just the threshold, rounding would decide which are kept.
    """
    torch.manual_seed(seed)
    changes = SMALL | changes
    cfg, model = tiny_config(**changes, OUTPUT_DIR=folder), tiny_detector(**changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search("^head.*weight", name):  # RetinaNet's, whose maps vanish
                torch.nn.init.kaiming_normal_(parameter)
            elif re.search("(cls_score|objectness_logits|bbox_pred|anchor_deltas).*weight", name):
                parameter.mul_(30)
    checkpointer = build_checkpointer(cfg, model.eval())
    checkpointer.classes = ["square", "wide", "tall"]
    checkpointer.save("model_final")
    return folder / "model_final.pth"


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return store(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of three shapes, all others than the one that is traced with."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, size in {
        "photo.jpg": (130, 100),
        "tall.png": (64, 150),
        "small.png": (40, 40),
    }.items():
        blocks = rng.integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize(size).save(folder / name)
    return folder


def exported(checkpoint, to, pictures, output, *options):
    done = run_tool(
        "export.py", checkpoint, "--to", to, "--output", output, "--pictures", pictures, *options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(boxes, scores, classes):
    """(n, 6), scaled such that a hundredth counts in each column."""
    return torch.column_stack([boxes, 100 * scores, classes])


@pytest.mark.parametrize("to", ["onnx", "torchscript"])
@pytest.mark.parametrize("head", HEADS)
def test_a_detector_detects_the_same_at_any_size(head, to, pictures, tmp_path):
    checkpoint = store(tmp_path, **HEADS[head])
    network = exportable_detector(load_checkpoint(checkpoint))
    assert len(network.outputs) == (4 if "MODEL.MASK_ON" in HEADS[head] else 3)
    write(network, to, tmp_path / "file")
    run = open_file(to, tmp_path / "file")
    model, cfg, _ = load_detector(checkpoint, "cpu")
    read = Predictor(model, cfg).read
    for path in pictures.iterdir():
        pixels = read(path)[1]
        with torch.no_grad():
            (whole,) = model([{"image": pixels}])
        whole, found = whole["instances"], run(pixels.float())
        assert len(whole) == len(found[0]) > 3
        ours = rows(whole.pred_boxes.tensor, whole.scores, whole.pred_classes)
        distances = torch.cdist(ours, rows(*found[:3]), p=torch.inf)
        assert distances.amin(dim=0).max() < 1e-2 and distances.amin(dim=1).max() < 1e-2
    result = compare(network, run, pictures.iterdir())
    assert result.agrees and "0 of 0" not in result.lines[0]


def test_a_file_of_other_weights_does_not_agree(detector, pictures, unbroken, colours, tmp_path):
    other = exportable_detector(load_checkpoint(store(tmp_path, seed=3)))
    write(other, "torchscript", tmp_path / "file")
    network = exportable_detector(load_checkpoint(detector))
    run = open_file("torchscript", tmp_path / "file")
    assert not compare(network, run, pictures.iterdir()).agrees

    classifier = exportable_classifier(load_checkpoint(unbroken / "model_final.pth"))

    def run_other(image):
        return (classifier.original(image * 0.9),)

    assert not compare(classifier, run_other, pictures.iterdir()).agrees


PARITY = {  # how many of 20 detections are elsewhere, by how many pixels
    "all": (20, 0.05, True),
    "a tie": (1, 4.0, True),
    "too many": (3, 4.0, False),
    "a lost one": (1, 90.0, False),
}


@pytest.mark.parametrize("case", PARITY)
def test_of_detections_a_few_may_come_from_a_neighbouring_proposal(case, detector, pictures):
    changed, pixels, agrees = PARITY[case]
    network = exportable_detector(load_checkpoint(detector))
    corners = 100 * torch.arange(20.0)[:, None].expand(20, 4)
    boxes = corners + torch.tensor([0.0, 0.0, 40.0, 40.0])
    found = boxes, torch.linspace(0.9, 0.5, 20), torch.zeros(20, dtype=torch.int64)
    moved = boxes.clone()
    moved[:changed] += pixels
    network = replace(network, original=lambda image: found)
    result = compare(network, lambda image: (moved, *found[1:]), [pictures / "photo.jpg"])
    assert result.agrees == agrees, result.lines
    assert not [line for line in result.lines if "tell its boxes apart" in line]


def test_a_detector_that_does_not_tell_boxes_apart_is_named(detector, pictures):
    network = exportable_detector(load_checkpoint(detector))
    boxes = 100 * torch.arange(20.0)[:, None].expand(20, 4) + torch.tensor([0.0, 0.0, 40.0, 40.0])
    found = boxes, torch.full((20,), 0.22), torch.zeros(20, dtype=torch.int64)
    network = replace(network, original=lambda image: found)
    result = compare(network, lambda image: found, [pictures / "photo.jpg"])
    assert "19 of 20 detections have the score of another one" in "\n".join(result.lines)


def test_a_name_of_another_kind_of_file_is_refused(detector, tmp_path):
    """As that of another checkpoint."""
    (tmp_path / "other.pth").write_text("of before")
    for name in ("other.pth", "file", ""):
        done = run_tool("export.py", detector, "--to", "onnx", "--output", tmp_path / name)
        assert_refused(done, str(tmp_path / name), "ends in .onnx")
    assert (tmp_path / "other.pth").read_text() == "of before"


def test_what_was_written_before_stays(detector, pictures, tmp_path):
    """The checkpoint is not replaced by its export, nor a file by one that does not agree."""
    before = detector.read_bytes()
    done = run_tool("export.py", detector, "--to", "onnx", "--output", detector)
    assert_refused(done, str(detector), "the file that is read", "another file")
    assert done.returncode == 2 and detector.read_bytes() == before

    (tmp_path / "file").write_text("of before")

    def disagree(temporary):
        assert len(open_file("torchscript", temporary)(torch.zeros(3, 64, 64))) == 3
        raise UserError("another result")

    with pytest.raises(UserError, match="another result"):
        network = exportable_detector(load_checkpoint(detector))
        write(network, "torchscript", tmp_path / "file", disagree)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["of before"]


@pytest.mark.parametrize("to", ["onnx", "torchscript", "torch_export"])
def test_a_classifier_takes_any_batch_and_size(to, unbroken, colours, tmp_path):
    checkpoint, path = unbroken / "model_final.pth", tmp_path / f"file{ENDINGS[to]}"
    printed = exported(checkpoint, to, colours / "val", path)
    count = len(list((colours / "val").glob("*/*")))
    assert f"{count} pictures: the same class for {count}" in printed
    as_trained, of_file = re.findall(r"([\d.]+) %", printed)
    assert as_trained == of_file and f"top-1 on the {count} pictures" in printed

    network, run = exportable_classifier(load_checkpoint(checkpoint)), open_file(to, path)
    if to == "torch_export":  # whose last map of one pixel cannot become one of more
        network = replace(network, example=torch.zeros(2, 3, 64, 64))
        write(network, to, path)
        run = open_file(to, path)
    for shape in ((1, 3, 64, 33), (5, 3, 48, 40)):
        image = torch.rand(shape) * 255
        with torch.no_grad():
            torch.testing.assert_close(run(image)[0], network.original(image), rtol=1e-4, atol=1e-5)


def test_int8_keeps_metadata_and_classes(unbroken, colours, tmp_path):
    import onnx

    checkpoint, path = unbroken / "model_final.pth", tmp_path / "file.onnx"
    printed = exported(checkpoint, "onnx", colours / "val", path, "--int8")
    small = onnx.load(tmp_path / "file.int8.onnx")
    metadata = {each.key: each.value for each in small.metadata_props}
    assert json.loads(metadata[METADATA])["classes"] == ["blue", "green", "red"]
    spec = load_checkpoint(checkpoint).spec
    kinds = [node.op_type for node in small.graph.node]
    assert kinds.count("Conv") > sum(
        len(stage.dag.predecessors) for stage in spec.stages if stage.dag
    )
    weights = {node.input[0] for node in small.graph.node if node.op_type == "DequantizeLinear"}
    in_int8 = {
        each.name for each in small.graph.initializer if each.data_type == onnx.TensorProto.INT8
    }
    assert len(weights & in_int8) == kinds.count("Conv")
    assert printed.count("written:") == 2
    # Three plain colours: what is learned of them survives 8 bits.
    *_, as_trained, of_file = map(float, re.findall(r"([\d.]+) %", printed))
    assert as_trained > 90 and of_file > 90


def test_int8_of_a_detector_takes_pictures_of_any_size(detector, pictures, tmp_path):
    printed = exported(detector, "onnx", pictures, tmp_path / "file.onnx", "--int8")
    assert "file.int8.onnx" in printed and printed.count("detections are the same") == 2
    again, count = re.findall(r"(\d+) of (\d+) detections are found again", printed)[-1]
    assert 0 < int(again) <= int(count)
    image = torch.rand(3, 64, 80) * 255
    assert len(open_file("onnx", tmp_path / "file.int8.onnx")(image)) == 3


PAGE = (REPO / "docs/deployment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ALONE = """
import sys
sys.modules |= dict.fromkeys(["randwire_det", "detectron2", "pretrain"])  # cannot be imported
"""


def run_block(name, folder):
    """What a block of docs/deployment.md prints in a folder, without this package."""
    (block,) = [each for each in BLOCKS if name in each]
    done = run_python("-c", ALONE + block.replace("0.5:", "0.3:"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("to", ["onnx", "torchscript"])
def test_the_examples_find_what_predict_finds(to, detector, pictures, tmp_path):
    """In a picture that was taken sideways."""
    name = {"onnx": "faster_rcnn.onnx", "torchscript": "faster_rcnn.ts"}[to]
    exported(detector, to, pictures, tmp_path / name)
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(pictures / "photo.jpg") as picture:
        # Whose resized sides are rounded: 1 pixel of the result is 4 at the far end.
        picture.resize((301, 199)).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    lines = run_block(name, tmp_path).splitlines()
    done = run_tool(
        "predict.py",
        "--weights",
        detector,
        "--input",
        tmp_path / "photo.jpg",
        "--output",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out/predictions.json").read_text())
    rows = sorted((row for row in rows if row["score"] >= 0.3), key=lambda row: -row["score"])
    assert len(lines) == len(rows) > 3
    for line, row in zip(lines, rows, strict=True):
        name, score, *box = line.split()
        x, y, width, height = row["bbox"]
        corners = [x, y, x + width, y + height]
        assert (name, float(score)) == (row["category"], pytest.approx(row["score"], abs=2e-3))
        assert [float(each) for each in box] == pytest.approx(corners, abs=0.5)


def test_the_classifier_example_runs(unbroken, colours, tmp_path):
    network = exportable_classifier(load_checkpoint(unbroken / "model_final.pth"))
    write(network, "torch_export", tmp_path / "c78.pt2")
    shutil.copy(next((colours / "val/red").iterdir()), tmp_path / "photo.jpg")
    assert run_block("c78.pt2", tmp_path).strip() == "red"
    assert len(BLOCKS) == 3


def test_what_cannot_be_exported_is_refused(detector, pictures, tmp_path):
    def refused(*options, status=1):
        path = tmp_path / f"file{ENDINGS[options[2]]}"
        done = run_tool("export.py", *options, "--output", path)
        assert done.returncode == status and not path.exists()
        return done

    assert_refused(refused(detector, "--to", "torch_export", status=2), "onnx or torchscript")
    save_baseline(tmp_path / "baseline.pth")
    assert_refused(refused(tmp_path / "baseline.pth", "--to", "onnx"), "torchvision's resnet50")
    assert_refused(refused(detector, "--to", "onnx", "--int8", status=2), "--pictures")
    assert_refused(refused(tmp_path / "none.pth", "--to", "onnx"), "none.pth")
    (tmp_path / "file2.onnx").write_bytes(b"exported")
    assert_refused(refused(tmp_path / "file2.onnx", "--to", "onnx"), "the checkpoint it was made")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    options = "--to", "onnx", "--pictures", tmp_path / "broken.jpg"
    assert_refused(refused(detector, *options), "broken.jpg")
    options = "--to", "onnx", "--pictures", tmp_path / "nothing"
    assert_refused(refused(detector, *options), "no such file")
