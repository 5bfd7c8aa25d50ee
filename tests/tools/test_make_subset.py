"""tools/make_subset.py: a few whole images with all of their objects, and every class."""

import json

import pytest
from conftest import assert_refused, run_tool
from pycocotools.coco import COCO

# Objects of each image as (side of a square, iscrowd); images are 100 pixels high.
IMAGES = {
    1: [(50, 0), (20, 0)],
    2: [(50, 0)],  # one object
    3: [(50, 0), (5, 0)],  # a tiny one
    4: [(50, 0), (40, 1)],  # a crowd
    5: [(9, 0), (8, 0), (30, 0)],
    6: [],
}


@pytest.fixture
def annotations(tmp_path):
    objects = [
        {"image_id": image, "category_id": 7, "bbox": [0, 0, side, side], "area": side**2}
        | {"iscrowd": crowd, "id": 10 * image + number}
        for image, rows in IMAGES.items()
        for number, (side, crowd) in enumerate(rows)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 150, "height": 100} for i in IMAGES]
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    path = tmp_path / "all.json"
    path.write_text(
        json.dumps({"images": images, "annotations": objects, "categories": categories})
    )
    return path


def test_suitable_images_come_with_all_their_objects_and_classes(annotations, tmp_path):
    output = tmp_path / "few.json"
    done = run_tool("make_subset.py", "--json", annotations, "--output", output, "--images", 2)
    assert done.returncode == 0, done.stderr
    few = COCO(output)
    assert few.getImgIds() == [1, 5]
    assert {number: len(few.getAnnIds([number])) for number in (1, 5)} == {1: 2, 5: 3}
    assert few.getCatIds() == [7, 9]


def test_too_few_images_are_reported_and_nothing_is_written(annotations, tmp_path):
    output = tmp_path / "few.json"
    done = run_tool("make_subset.py", "--json", annotations, "--output", output, "--images", 3)
    assert_refused(done, str(annotations), "2 images suit, not 3", "--min-size")
    assert not output.exists()


def test_the_set_itself_is_not_replaced(annotations):
    before = annotations.read_bytes()
    done = run_tool("make_subset.py", "--json", annotations, "--output", annotations)
    assert_refused(done, str(annotations), "the file that is read")
    assert done.returncode == 2 and annotations.read_bytes() == before


def test_a_file_that_is_no_coco_set_is_named(tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('{"images": [{"id": 1}], "annotations": []}')
    output = tmp_path / "few.json"
    assert_refused(run_tool("make_subset.py", "--json", path, "--output", output), str(path))
