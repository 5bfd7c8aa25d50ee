"""One reader of annotation files, whose refusal is the same line whoever asks."""

import importlib.util
import json
import sys

import pytest
from coco_helpers import Coco, entry, kinds
from conftest import REPO
from detection_helpers import tiny_config
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from randwire_det import UserError
from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.coco.lint import check_dataset
from randwire_det.coco.report import write_report
from randwire_det.detection.trainer import RandWireTrainer

SPEC = importlib.util.spec_from_file_location("make_subset", REPO / "tools" / "make_subset.py")
make_subset = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_subset)
VIA = {"1.jpg16000": {"filename": "1.jpg", "size": 16000, "regions": [], "file_attributes": {}}}
LABELME = {"version": "5.0", "shapes": [], "imagePath": "1.jpg", "imageData": None}
PADDING = b" " * 100_000  # a message must not hold the file


def as_bytes(content) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def text_of(coco) -> str:
    return json.dumps(coco.content, ensure_ascii=False)


# What stands in the file, and what the line about it says.
UNREADABLE = {
    "GBK": (lambda coco: '{"name": "螺母"}'.encode("gbk") + PADDING, "no UTF-8 at byte 10"),
    "Latin-1": (lambda coco: '{"name": "Müller"}'.encode("latin-1"), "no UTF-8 at byte 11"),
    "UTF-16": (lambda coco: text_of(coco).encode("utf-16"), "no UTF-8 at byte 0"),
    "BOM": (lambda coco: b"\xef\xbb\xbf" + text_of(coco).encode(), "byte order mark"),
    "truncated": (lambda coco: b'{"images": [' + PADDING, "no JSON: Expecting"),
    "long number": (lambda coco: b'{"images": ' + b"9" * 5000 + b"}", "no JSON: Exceeds the limit"),
    "deep": (lambda coco: b"[" * 100_000, "no JSON: maximum recursion"),
    "key twice": (
        lambda coco: text_of(coco).replace('"id"', '"id": 7, "id"', 1).encode(),
        "duplicate key 'id'",
    ),
    "VIA": (lambda coco: as_bytes(VIA), "VIA's format"),
    "VIA's project": (lambda coco: as_bytes({"_via_img_metadata": VIA}), "VIA's format"),
    "labelme": (lambda coco: as_bytes(LABELME), "labelme's format"),
    "list": (lambda coco: b"[1, 2]", "found [1, 2]"),
    "empty": (lambda coco: b"{}", "the object is empty"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_every_command_says_the_same_of_a_file_that_it_cannot_read(tmp_path, monkeypatch, name):
    content, reason = UNREADABLE[name]
    coco = Coco(tmp_path / "set")
    coco.json.write_bytes(content(coco))
    (tmp_path / "results.json").write_text("[]")
    output = str(tmp_path / "few.json")
    monkeypatch.setattr(sys, "argv", ["", "--json", str(coco.json), "--output", output])
    cfg = tiny_config(**{"DATASETS.COCO": "[['unreadable', 'set.json', 'images']]"})
    report = (coco.json, coco.images, tmp_path / "results.json", tmp_path / "report")
    for command in (
        lambda: register_coco_datasets(cfg, str(coco.root)),  # of train_net, check_dataset, report
        make_subset.main,
        lambda: write_report(*report),
        lambda: check_dataset(str(coco.json), str(coco.images), training=True).raise_if_fatal(),
    ):
        with pytest.raises(UserError) as caught:
            command()
        line = str(caught.value)
        assert reason in line and str(coco.json) in line
        assert len(line) < 1000 and "\n" not in line


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": 0}, "category 1: its name 0 is no text"),
        ({"name": "\x1b[2Jnut"}, r"control characters in its name '\x1b[2Jnut'"),
        ({"name": "nut\r"}, r"control characters in its name 'nut\r'"),
        ({"id": None}, "'id': None"),
        ({"id": "one"}, "some category ids are text"),
    ],
)
def test_a_category_that_no_detector_can_name_is_refused_alike(tmp_path, change, reason):
    coco = Coco(tmp_path / "set")
    entry("categories", **change)(coco)
    coco.write()
    cfg = tiny_config(**{"DATASETS.COCO": "[['nameless', 'set.json', 'images']]"})
    with pytest.raises(UserError) as caught:
        register_coco_datasets(cfg, str(coco.root))
    assert reason in str(caught.value) and "\x1b" not in str(caught.value)
    report = coco.check()
    # The annotations of a category that is there are not called unknown, too.
    assert set(kinds(report.fatal)) <= {"category-malformed", "category-unknown"}
    assert ("category-unknown" in kinds(report.fatal)) == ("id" in change)


CROWD_FLAGS = {
    "null": (None, 0),
    "text 0": ("0", 0),
    "empty": ("", 0),
    "false": (False, 0),
    "text 1": ("1", 1),
    "true": (True, 1),
    "1.0": (1.0, 1),
}


@pytest.mark.parametrize("name", CROWD_FLAGS)
@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_crowd_flags_are_read_by_value_in_training(tmp_path, name, sampler):
    """detectron2 leaves out a box whose flag is null or "0", without a word."""
    flag, crowd = CROWD_FLAGS[name]
    coco = Coco(tmp_path / "set")
    for annotation in coco.content["annotations"][::2]:
        annotation["iscrowd"] = flag
    coco.content["annotations"][2]["iscrowd"] = 0  # so that one image has something to learn
    coco.write()
    register_coco_instances("flags", {}, str(coco.json), str(coco.images))
    changes = {"DATASETS.TRAIN": "('flags',)", "SOLVER.IMS_PER_BATCH": 1, "SEED": 1}
    changes |= {"DATALOADER.NUM_WORKERS": 0, "DATALOADER.SAMPLER_TRAIN": sampler}
    try:
        batches = iter(RandWireTrainer.build_train_loader(tiny_config(**changes)))
        images = [next(batches)[0] for _ in range(9)]
    finally:
        DatasetCatalog.remove("flags")
        MetadataCatalog.remove("flags")
    assert {len(each["instances"]) for each in images} == {1}
    assert len({each["image_id"] for each in images}) == (1 if crowd else 3)
    findings = coco.check()
    assert findings.fatal == []
    by_value = 2 if flag not in (0, 1) else 0
    assert kinds(findings.warnings) == ({"flag-by-value": by_value} if by_value else {})
    assert findings.counts["crowds"] == 3 + 2 * crowd


@pytest.mark.parametrize("flag", [2, -1, "yes", [], float("nan")])
def test_a_flag_that_is_neither_stops_before_it_is_learned(tmp_path, flag):
    coco = Coco(tmp_path / "set")
    entry("annotations", iscrowd=flag)(coco)
    coco.write()
    for training in (True, False):
        assert kinds(coco.check(training=training).fatal) == {"flag-malformed": 1}
    register_coco_instances("flags", {}, str(coco.json), str(coco.images))
    try:  # with DATASETS.CHECK off, or in a project of one's own
        with pytest.raises(UserError, match=r"1\.jpg: .*iscrowd .*, expected 0 or 1"):
            RandWireTrainer.build_train_loader(tiny_config(**{"DATASETS.TRAIN": "('flags',)"}))
    finally:
        DatasetCatalog.remove("flags")
        MetadataCatalog.remove("flags")
