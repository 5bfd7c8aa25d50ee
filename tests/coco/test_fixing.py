"""check_dataset.py --fix: each fault that has a remedy is gone, sound sets stay as they are."""

import json

import pytest
from coco_helpers import HEIGHT, WIDTH, Coco, entry, kinds
from conftest import assert_refused, run_tool
from test_dataset_report import COPES, NONSENSE, STOPS, again, broken, drop

from randwire_det.coco.fixing import fixed

# A remedy would be a guess: whose the boxes, the annotations or the name are.
GUESSES = {
    *("image-size", "image-size, turned by EXIF", "image-id-twice", "category-id-twice"),
    *("category-malformed", "no-categories", "image-rotated", "image-rotated, sides as before"),
    "category-without-objects",
}
FAULTS = {
    name: fault
    for name, fault in (STOPS | NONSENSE | COPES).items()
    if not name.startswith("json-") and name not in GUESSES
}
MORE = {
    "flag-malformed": entry("annotations", iscrowd="maybe"),
    "flag-by-value": entry("annotations", iscrowd="1"),
    "image-id-type": entry("annotations", image_id="1"),
    "category-malformed, mixed ids": again("categories", id="one", name="fourth"),
    "image-spelled-otherwise": entry("images", file_name="1.JPG"),
    "area-impossible": entry("annotations", area=-1),
    "area-impossible, none": drop("annotations", "area"),
    "annotation-id-unsafe": entry("annotations", id=0),
    "mask-broken": entry("annotations", segmentation=[[1, 2, "9", 2, 9, 9]]),
}


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path / "set")


def fix(coco):
    content, changes = fixed(coco.content, str(coco.images), decode=True)
    coco.content = content
    coco.write()
    return changes.done


@pytest.mark.parametrize("name", FAULTS | MORE)
def test_a_fault_is_found_then_mended_then_gone(coco, name):
    kind = broken(coco, name, (FAULTS | MORE)[name])
    before = [coco.check(training=training) for training in (True, False)]
    assert any(kind in kinds(report.fatal + report.warnings) for report in before)
    assert fix(coco)
    for training in (True, False):
        report = coco.check(training=training)
        left = kinds(report.fatal + report.warnings)
        left.pop("category-without-objects", None)  # whose only object was left out
        assert left == {}
    coco.read_by_detectron2()
    assert fix(coco) == {}


@pytest.mark.parametrize("name", sorted(GUESSES))
def test_what_would_be_a_guess_is_left_as_it_is(coco, name):
    kind = broken(coco, name, (STOPS | NONSENSE | COPES)[name])
    images = len(coco.content["images"])
    fix(coco)
    report = coco.check()
    assert kind in kinds(report.fatal + report.warnings)
    assert len(coco.content["images"]) == images


def test_no_box_is_judged_by_a_size_that_is_in_doubt(coco):
    entry("images", width=3)(coco)
    before = [each for each in coco.content["annotations"] if each["image_id"] == 1]
    done = fix(coco)
    assert [each for each in coco.content["annotations"] if each["image_id"] == 1] == before
    assert list(done) == ["images of another size than in the JSON left as they are, boxes and all"]
    entry("images", width=WIDTH)(coco)  # what the report says
    assert fix(coco) == {}


def test_a_sound_set_stays_as_it_is(coco):
    before = json.dumps(coco.content)
    assert fix(coco) == {}
    assert json.dumps(coco.content) == before


def test_a_box_is_mended_by_hand_made_numbers(coco):
    boxes = {
        (20, 20, -10, 5): [10, 20, 10, 5],
        (-2, 2, 13, 4): [0, 2, 11, 4],
        (1, HEIGHT - 5, 3, 7): [1, HEIGHT - 5, 3, 5],
        (2.5, 3, 4, 5): [2.5, 3, 4, 5],
    }
    for given, expected in boxes.items():
        entry("annotations", bbox=list(given))(coco)
        content, _ = fixed(coco.content, str(coco.images), decode=True)
        assert content["annotations"][0]["bbox"] == expected
    for each in coco.content["annotations"]:
        each["bbox"] = [0.25, 0.5, 0.5, 0.25]
    content, _ = fixed(coco.content, str(coco.images), decode=True)
    expected = [WIDTH / 4, HEIGHT / 2, WIDTH / 2, HEIGHT / 4]
    assert all(each["bbox"] == expected for each in content["annotations"])


def test_entries_of_one_file_keep_the_objects_of_both(coco):
    again("images", id=9)(coco)
    again("annotations", id=99, image_id=9)(coco)
    fix(coco)
    of_first = [each for each in coco.content["annotations"] if each["image_id"] == 1]
    assert len(coco.content["images"]) == 3 and len(of_first) == 3


@pytest.mark.slow_suite
def test_the_tool_writes_a_copy_and_reports_on_it(coco, tmp_path):
    entry("annotations", bbox=[1, 2, 3])(coco)
    (coco.images / "2.jpg").unlink()
    coco.write()
    output = tmp_path / "fixed.json"
    options = ["--json", coco.json, "--images", coco.images, "--fix", output]
    before = coco.json.read_bytes()
    done = run_tool("check_dataset.py", *options)
    assert done.returncode == 0, done.stderr
    assert coco.json.read_bytes() == before
    for part in ("images without a file left out: 1", "box of four numbers left out: 1"):
        assert part in done.stderr
    assert "FATAL" not in done.stdout and str(output) in done.stdout
    assert len(json.loads(output.read_text())["images"]) == 2
    assert_refused(run_tool("check_dataset.py", *options), "--fix", "exists already")
    options[-1] = tmp_path / "no" / "fixed.json"
    assert_refused(run_tool("check_dataset.py", *options), "--fix", "in a folder")
