"""Faults put into a real COCO-format set: each is reported, and fatal is what stops detectron2."""

import itertools
import json
import shlex

import numpy as np
import pytest
from coco_helpers import HEIGHT, WIDTH, Coco, entry, kinds
from conftest import run_tool
from detection_helpers import tiny_config
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools import mask as mask_util

from randwire_det import UsageError, UserError
from randwire_det.coco.datasets import register_coco_datasets
from randwire_det.coco.lint import (
    check_configured_datasets,
    warn_of_shared_images,
)
from randwire_det.detection.trainer import RandWireTrainer

EXIF_ORIENTATION = 274


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path / "set")


def drop(part, key, index=0):
    return lambda coco: coco.content[part][index].pop(key)


def replace(part, value):
    return lambda coco: coco.content.update({part: value})


def again(part, **changes):
    return lambda coco: coco.content[part].append(coco.content[part][0] | changes)


def truncate(coco):
    file = coco.images / "1.jpg"
    file.write_bytes(file.read_bytes()[:-200])


def orient(orientation):
    def break_it(coco):
        file = coco.images / "1.jpg"
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        with Image.open(file) as image:
            image.save(file, exif=exif)

    return break_it


def swap_sides(coco):
    orient(6)(coco)
    coco.content["images"][0].update(width=HEIGHT, height=WIDTH)


def rle(width=WIDTH, height=HEIGHT, **changes):
    """A fault in the run-length encoded mask of an annotation."""
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[3:13, 2:22] = 1
    encoded = mask_util.encode(mask)
    segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode()} | changes
    return entry("annotations", segmentation=segmentation)


# What stops detectron2 when it loads the set or reads an image.
STOPS = {
    "image-absent": lambda coco: (coco.images / "2.jpg").unlink(),
    "image-unreadable": lambda coco: (coco.images / "2.jpg").write_text("no image"),
    "image-unreadable, truncated": truncate,
    "image-unreadable, empty": lambda coco: (coco.images / "2.jpg").write_bytes(b""),
    "image-size": entry("images", width=WIDTH + 1),
    "image-size, turned by EXIF": orient(6),
    "image-without-size": drop("images", "height"),
    "image-malformed": drop("images", "file_name"),
    "image-malformed, no object": lambda coco: coco.content["images"].append("4.jpg"),
    "image-malformed, mixed ids": again("images", id="one"),
    "annotation-id-twice": again("annotations"),
    "annotation-malformed": drop("annotations", "image_id"),
    "annotation-malformed, no category": drop("annotations", "category_id"),
    "category-unknown": entry("annotations", category_id=9),
    "category-id-type": entry("annotations", category_id="1"),
    "category-malformed": drop("categories", "name"),
    "no-categories": replace("categories", []),
    "box-missing": drop("annotations", "bbox"),
    "box-malformed": entry("annotations", bbox=[1, 2, 3]),
    "box-malformed, five": entry("annotations", bbox=[1, 2, 3, 4, 5]),
    "box-malformed, empty": entry("annotations", bbox=[]),
    "box-malformed, text": entry("annotations", bbox=[1, 2, "3", 4]),
    "box-malformed, null": entry("annotations", bbox=[1, 2, None, 4]),
    "ignore-flag": entry("annotations", ignore=1),
    "segmentation-malformed": entry("annotations", segmentation=[2, 3, 22, 3, 22, 13]),
    "segmentation-malformed, RLE": entry("annotations", segmentation={"size": [HEIGHT, WIDTH]}),
    "segmentation-malformed, sizeless": entry("annotations", segmentation={"counts": [1, 2]}),
    "segmentation-malformed, negative": rle(counts=[-1, HEIGHT * WIDTH + 1]),
    "json-broken": lambda coco: coco.json.write_text('{"images": ['),
    "json-byte-order-mark": lambda coco: coco.json.write_bytes(b"\xef\xbb\xbf{}"),
    "json-incomplete, no categories": lambda coco: coco.content.pop("categories"),
    "json-incomplete, a list": lambda coco: coco.json.write_text("[]"),
    "json-missing": lambda coco: coco.json.unlink(),
}
# What detectron2 reads without a word, though no good can come of it.
NONSENSE = {
    "image-id-twice": lambda coco: coco.content["images"].append(
        coco.content["images"][0] | {"file_name": "2.jpg"}
    ),
    "category-id-twice": again("categories", name="another"),
    "box-negative": entry("annotations", bbox=[20, 20, -10, 5]),
    "box-malformed, NaN": entry("annotations", bbox=[1, 2, float("nan"), 4]),
    "box-malformed, infinite": entry("annotations", bbox=[1, 2, float("inf"), 4]),
    "boxes-relative": lambda coco: [
        each.update(bbox=[0.1, 0.1, 0.5, 0.6]) for each in coco.content["annotations"]
    ],
}
# What detectron2 copes with.
COPES = {
    "image-unknown": entry("annotations", image_id=99),
    "image-file-twice": again("images", id=4),
    "image-rotated": swap_sides,
    "image-rotated, sides as before": orient(3),
    "category-name-twice": lambda coco: (
        again("categories", id=4)(coco),
        entry("annotations", category_id=4)(coco),
    ),
    "category-without-objects": again("categories", id=4, name="unseen"),
    "box-empty": entry("annotations", bbox=[1, 2, 0, 4]),
    "box-outside": entry("annotations", bbox=[WIDTH, 2, 3, 4]),
    "box-outside, left": entry("annotations", bbox=[-5, 2, 3, 4]),
    "box-over-edge": entry("annotations", bbox=[1, HEIGHT - 5, 3, 7]),
    "box-over-edge, left": entry("annotations", bbox=[-2, 2, 13, 4]),
    "polygon-dropped": entry("annotations", segmentation=[[1, 2, 9, 2, 9, 9], [1, 2, 9, 2, 9]]),
    "instance-dropped": entry("annotations", segmentation=[[1, 2, 9, 2]]),
}


def broken(coco, name, fault):
    """A written set with a fault in its content or in its files; the kind that it should be."""
    coco.write()
    before = coco.json.read_bytes()
    fault(coco)
    if coco.json.exists() and coco.json.read_bytes() == before:
        coco.write()
    return name.split(",")[0]


def test_a_sound_set_has_no_faults_and_right_counts(coco):
    for training in (True, False):
        report = coco.write().check(training=training, num_classes=3)
        assert (report.fatal, report.warnings) == ([], [])
        report.raise_if_fatal()
    coco.read_by_detectron2()
    coco.content["annotations"] = coco.content["annotations"][:4]
    assert coco.write().check().counts == {
        "images": 3,
        "annotations": 4,
        "categories": 3,
        "crowds": 2,
        "ignored": 0,
        "images_without_annotations": 1,
    }


@pytest.mark.parametrize("name", STOPS)
def test_what_stops_detectron2_is_fatal(coco, name):
    kind = broken(coco, name, STOPS[name])
    with pytest.raises(Exception):  # noqa: B017 - whatever detectron2 raises
        coco.read_by_detectron2()
    assert kind in kinds(coco.check().fatal)


@pytest.mark.parametrize("name", NONSENSE)
def test_what_detectron2_learns_wrongly_without_a_word_is_fatal(coco, name):
    kind = broken(coco, name, NONSENSE[name])
    coco.read_by_detectron2()
    assert set(kinds(coco.check().fatal)) == {kind}


@pytest.mark.parametrize("name", COPES)
def test_what_detectron2_copes_with_is_one_warning(coco, name):
    kind = broken(coco, name, COPES[name])
    coco.read_by_detectron2()
    report = coco.check()
    assert (kinds(report.fatal), kinds(report.warnings)) == ({}, {kind: 1})


def test_a_box_that_touches_the_edge_or_is_rounded_over_it_is_sound(coco):
    entry("annotations", bbox=[0, 0, WIDTH, HEIGHT])(coco)
    entry("annotations", 2, bbox=[-0.5, 0, WIDTH + 1, HEIGHT])(coco)
    assert coco.write().check().warnings == []


@pytest.mark.parametrize(
    "fault",
    [
        rle(counts="0"),
        rle(counts=""),
        rle(counts="~"),
        rle(counts=[5, 5]),
        rle(width=WIDTH + 2),
        rle(size=[HEIGHT, WIDTH + 2]),
        rle(size=None),
        entry("annotations", segmentation=[[1, 2, 9, 2, "9", 9]]),
    ],
)
def test_masks_that_only_a_mask_head_would_read_are_a_warning(coco, fault):
    """pycocotools reads past the end of short ones, which may end the process: no trial here."""
    fault(coco)
    report = coco.write().check()
    assert (kinds(report.fatal), kinds(report.warnings)) == ({}, {"mask-broken": 1})


def test_run_lengths_are_read_as_pycocotools_writes_them(coco):
    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.3, 0.5, 0.99, 1):
        mask = np.asfortranarray(rng.random((HEIGHT, WIDTH)) < density, dtype=np.uint8)
        rle(counts=mask_util.encode(mask)["counts"].decode())(coco)
        assert coco.write().check().warnings == []
    rle(counts=[10, 20, HEIGHT * WIDTH - 30])(coco)
    assert coco.write().check().warnings == []


def test_a_category_that_stands_twice_is_to_be_removed_and_not_renumbered(coco):
    """VIA writes it again for every file."""
    again("categories")(coco)
    report = coco.write().check()
    assert kinds(report.fatal) == {"category-repeated": 1}
    assert "remove" in report.fatal[0].advice
    cfg = tiny_config(**{"DATASETS.COCO": "[['repeated', 'set.json', 'images']]"})
    with pytest.raises(UserError, match=r"id 1: .class 1.; .*remove the later"):
        register_coco_datasets(cfg, str(coco.root))  # before classes and outputs are counted


SPELLINGS = {  # what the JSON says of the file, and what the file is called
    "another case": ("IMG.JPG", "img.jpg"),
    "backslashes": ("sub\\dir\\a.jpg", "sub/dir/a.jpg"),
    "a drive": ("C:\\data\\images\\a.jpg", "a.jpg"),
    "URL escapes": ("a%20b.jpg", "a b.jpg"),
    "URL escapes on disk": ("a b.jpg", "a%20b.jpg"),
    "composed accents": ("caf\u00e9.jpg", "cafe\u0301.jpg"),
    "decomposed accents": ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    "the image folder in the name": ("images/a.jpg", "a.jpg"),
    "a folder of another case": ("Sub/A.jpg", "sub/a.jpg"),
    "an absolute path": ("/data/images/a.jpg", "a.jpg"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_file_of_another_spelling_is_to_be_renamed_and_not_copied(coco, name):
    stated, actual = SPELLINGS[name]
    path = coco.images / actual
    path.parent.mkdir(parents=True, exist_ok=True)
    (coco.images / "1.jpg").rename(path)
    entry("images", file_name=stated)(coco)
    for depth in ("none", "headers"):
        (finding,) = coco.write().check(images=depth).fatal
        assert (finding.kind, finding.count) == ("image-spelled-otherwise", 1)
        assert finding.examples == [f"{stated!r}: the folder has {actual!r}"]
    path.unlink()
    assert kinds(coco.check().fatal) == {"image-absent": 1}


def test_images_that_a_config_resizes_to_nothing_are_named(coco):
    """Pillow stops on a side of 0 pixels, in mid-run."""
    Image.new("RGB", (3000, 1)).save(coco.images / "1.jpg")
    entry("images", width=3000, height=1)(coco)
    for annotation in coco.content["annotations"][:2]:
        annotation |= {"bbox": [2, 0, 900, 1], "area": 900}
    coco.write()
    register_coco_instances("thin", {}, str(coco.json), str(coco.images))
    try:
        names = {"DATASETS.TRAIN": "('thin',)", "DATASETS.TEST": "('thin',)"}
        train, test = check_configured_datasets(tiny_config(**names))
        assert kinds(train.fatal) == kinds(test.fatal) == {"image-too-thin": 1}
        assert train.fatal[0].examples == ["'1.jpg': 3000 x 1"]
        assert coco.check().fatal == train.fatal  # the command for more finds it, too
        smaller = {"INPUT.MAX_SIZE_TRAIN": 20}
        train, _ = check_configured_datasets(tiny_config(**names, **smaller))
        assert train.command.endswith("--max-size 20")
        larger = {"INPUT.MAX_SIZE_TRAIN": 1600, "INPUT.MIN_SIZE_TEST": 0}
        train, test = check_configured_datasets(tiny_config(**names, **larger))
        assert (train.fatal, test.fatal) == ([], [])
        # Where the check was left out, the loader names the image.
        cfg = tiny_config(**names, **{"DATALOADER.NUM_WORKERS": 0, "SEED": 1})
        for loader in (
            RandWireTrainer.build_train_loader(cfg),
            RandWireTrainer.build_test_loader(cfg, "thin"),
        ):
            with pytest.raises(UserError, match=r"1\.jpg: 3000 x 1 pixels, too thin"):
                list(itertools.islice(loader, 3))
    finally:
        DatasetCatalog.remove("thin")
        MetadataCatalog.remove("thin")


def test_what_only_other_programs_would_measure_wrongly_is_a_warning_of_test_sets(coco):
    for number, annotation in enumerate(coco.content["annotations"]):
        annotation["id"] = number
    entry("annotations", 1, area=-205)(coco)
    coco.write()
    assert coco.check().warnings == []
    report = coco.check(training=False)
    assert report.fatal == []
    assert kinds(report.warnings) == {"annotation-id-unsafe": 1, "area-impossible": 1}
    assert "area -205" in report.warnings[1].examples[0]


def test_what_follows_from_another_fault_is_not_reported_too(coco):
    """Its cure would mislead: the classes are there, and so is what there is to learn."""
    for category in coco.content["categories"]:
        category["name"] = category["id"]
    assert kinds(coco.write().check(num_classes=3).fatal) == {"category-malformed": 3}


def test_an_empty_training_set_is_fatal_and_a_test_set_may_lack_annotations(coco):
    coco.content["annotations"] = coco.content["annotations"][1::2]  # the crowds
    assert kinds(coco.write().check().fatal) == {"no-annotations": 1}
    coco.content["annotations"] = []
    assert kinds(coco.write().check().fatal) == {"no-annotations": 1}
    assert kinds(coco.check(training=False).warnings) == {"nothing-to-evaluate": 1}
    del coco.content["annotations"]
    assert kinds(coco.write().check().fatal) == {"json-incomplete": 1}
    report = coco.check(training=False)
    assert (report.fatal, kinds(report.warnings)) == ([], {"nothing-to-evaluate": 1})
    coco.content |= {"images": [], "annotations": []}
    assert "no-images" in kinds(coco.write().check().fatal)


def test_minival_keeps_its_known_double_ids(coco):
    again("annotations")(coco)
    coco.json = coco.root / "minival.json"
    assert coco.write().check().fatal == []
    coco.read_by_detectron2()


def test_ids_of_another_type_leave_nothing_to_learn(coco):
    for annotation in coco.content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    report = coco.write().check()
    assert (kinds(report.fatal), report.warnings) == ({"image-id-type": 6}, [])
    assert "image_id '1', in the image 1" in report.fatal[0].examples[0]


def test_crowds_take_no_box_in_training_but_in_evaluation(coco):
    drop("annotations", "bbox", 1)(coco)
    assert coco.write().check().fatal == []
    coco.read_by_detectron2()
    assert kinds(coco.check(training=False).fatal) == {"box-missing": 1}


def test_classes_against_the_models_outputs(coco):
    coco.write()
    assert kinds(coco.check(num_classes=2).fatal) == {"too-many-classes": 1}
    report = coco.check(num_classes=4)
    assert (report.fatal, kinds(report.warnings)) == ([], {"spare-outputs": 1})
    assert kinds(coco.check(num_classes=4, training=False).fatal) == {"too-many-outputs": 1}


def test_masks_are_missing_where_they_are_learned(coco):
    del coco.content["annotations"][0]["segmentation"]
    coco.content["annotations"][2]["segmentation"] = []
    del coco.content["annotations"][5]["segmentation"]  # of a crowd
    coco.write()
    assert coco.check().fatal == []
    report = coco.check(masks=True)
    assert kinds(report.fatal) == {"mask-missing": 2}
    assert "--masks" in report.command
    assert coco.check(masks=True, training=False).fatal == []


def test_the_image_folder_is_missing(coco):
    coco.write()
    coco.images.rename(coco.root / "elsewhere")
    assert kinds(coco.check().fatal) == {"image-folder-missing": 1}


def test_each_depth_sees_what_it_looks_for(coco):
    truncate(coco)
    coco.content["images"][1]["width"] += 1
    (coco.images / "3.jpg").unlink()
    coco.write()
    found = {depth: set(kinds(coco.check(images=depth).fatal)) for depth in ("none", "headers")}
    assert found == {"none": {"image-absent"}, "headers": {"image-absent", "image-size"}}
    assert set(kinds(coco.check().fatal)) == found["headers"] | {"image-unreadable"}
    with pytest.raises(UsageError, match=r"'pixels'.*headers"):
        coco.check(images="pixels")


def test_a_png_is_turned_by_exif_without_being_decoded(coco):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 8
    Image.new("RGB", (WIDTH, HEIGHT)).save(coco.images / "1.png", exif=exif)
    entry("images", file_name="1.png", width=HEIGHT, height=WIDTH)(coco)
    report = coco.write().check(images="headers")
    assert (report.fatal, kinds(report.warnings)) == ([], {"image-rotated": 1})
    file = coco.images / "1.png"
    file.write_bytes(file.read_bytes()[:-30])
    assert coco.check(images="headers").fatal == []


def test_examples_are_the_first_three_and_text_tells_all(coco):
    for annotation in coco.content["annotations"]:
        annotation["bbox"] = [1, 2, 3]
    report = coco.write().check()
    (finding,) = report.fatal
    assert finding.count == 6 and len(finding.examples) == 3
    assert "annotation 2 of '1.jpg'" in finding.examples[0] and "[1, 2, 3]" in finding.examples[0]
    text = report.to_text()
    for part in ("FATAL box-malformed: 6", *finding.examples, finding.advice, "crowds 3"):
        assert part in text
    restored = json.loads(json.dumps(report.to_dict()))
    assert restored["fatal"][0]["examples"] == finding.examples
    assert restored["counts"] == report.counts


@pytest.mark.slow_suite
def test_the_refusal_is_one_line_with_every_kind_and_the_command_for_more(coco):
    entry("annotations", bbox=["a\nb", 1, 2, 3])(coco)
    (coco.images / "2.jpg").unlink()
    coco.write()
    with pytest.raises(UserError) as refusal:
        coco.check(training=False, num_classes=3).raise_if_fatal()
    message = str(refusal.value)
    assert "\n" not in message
    for part in (str(coco.json), "box-malformed 1", "image-absent 1", "'2.jpg'"):
        assert part in message
    command = shlex.split(message.partition("for more: ")[2])
    done = run_tool(command[1].removeprefix("tools/"), *command[2:])
    assert done.returncode == 1 and "box-malformed: 1" in done.stdout
    assert "test set" in done.stdout


def test_images_that_two_sets_share_by_name_and_content(coco, tmp_path):
    other = Coco(tmp_path / "other")
    Image.new("RGB", (WIDTH, HEIGHT)).save(other.images / "1.jpg")  # a name is no proof
    other.content["images"][2]["file_name"] = "new.jpg"
    (other.images / "3.jpg").rename(other.images / "new.jpg")
    train, test = coco.write().check(), other.write().check(training=False)
    assert test.warnings == []
    warn_of_shared_images(train, test)
    assert kinds(test.warnings) == {"images-shared": 1}
    assert "'2.jpg'" in test.warnings[0].examples[0]
    same = coco.check(training=False)
    warn_of_shared_images(train, same)
    assert kinds(same.warnings) == {"images-shared": 3}


def test_the_sets_of_a_config_are_checked_for_what_they_are_for(coco):
    drop("annotations", "area")(coco)
    coco.write()
    register_coco_instances("to check", {}, str(coco.json), str(coco.images))
    try:
        names = {"DATASETS.TRAIN": "('to check',)", "DATASETS.TEST": "('to check',)"}
        cfg = tiny_config(**names, **{"MODEL.ROI_HEADS.NUM_CLASSES": 2})
        train, test = check_configured_datasets(cfg)
        (only,) = check_configured_datasets(cfg, eval_only=True)
    finally:
        DatasetCatalog.remove("to check")
        MetadataCatalog.remove("to check")
    assert set(kinds(train.fatal)) == {"too-many-classes"}
    assert set(kinds(test.fatal)) == {"too-many-classes"}
    assert kinds(test.warnings) == {"area-impossible": 1, "images-shared": 3}
    assert only.fatal == test.fatal and kinds(only.warnings) == {"area-impossible": 1}


def test_the_tool_on_one_set(coco):
    coco.write()
    sound = run_tool("check_dataset.py", "--json", coco.json, "--images", coco.images)
    assert (sound.returncode, "no faults" in sound.stdout) == (0, True), sound.stderr
    truncate(coco)
    entry("annotations", bbox=[1, 2, 0, 4])(coco)
    coco.write()
    command = ["check_dataset.py", "--json", coco.json, "--images", coco.images]
    warned = run_tool(*command, "--format", "json")
    assert warned.returncode == 0
    (report,) = json.loads(warned.stdout)
    assert [each["kind"] for each in report["warnings"]] == ["box-empty"]
    fatal = run_tool(*command, "--decode")
    assert fatal.returncode == 1 and "FATAL image-unreadable: 1" in fatal.stdout
    (line,) = [line for line in fatal.stderr.splitlines() if line.startswith("error: ")]
    assert "image-unreadable" in line and "Traceback" not in fatal.stderr


def test_the_tool_on_a_config(coco):
    coco.write()
    names = ["DATASETS.COCO", "[['mine', 'set.json', 'images']]", "DATASETS.TRAIN", "('mine',)"]
    names += ["DATASETS.TEST", "('mine',)", "MODEL.ROI_HEADS.NUM_CLASSES", "3"]
    env = {"DETECTRON2_DATASETS": str(coco.root)}
    command = ["check_dataset.py", "--config-file", "base_faster_rcnn_fpn.yaml"]
    done = run_tool(*command, *names, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(coco.json)) >= 2 and "images-shared: 3" in done.stdout


@pytest.mark.parametrize(
    "options",
    [["--json", "a.json"], ["--json", "a", "--images", "b", "--config-file", "c"]],
)
def test_the_tool_takes_a_set_or_a_config(options):
    done = run_tool("check_dataset.py", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "--config-file" in done.stderr
