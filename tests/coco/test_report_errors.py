"""What the report refuses: one line that names the file, the value and what was expected."""

import json

import pytest
from coco_helpers import BOX, CAT, make_results, make_truth, save
from conftest import assert_refused, run_tool

from randwire_det.coco.report import write_report
from randwire_det.errors import UsageError, UserError

TRUTH = make_truth((1, CAT, BOX))
ROW = make_results((1, CAT, BOX, 0.9))[0]
ANNOTATION, NAN = TRUTH["annotations"][0], float("nan")

WRONG_RESULTS = [
    ({"a": 1}, "expected a list"),
    ([ROW, {"image_id": 1}], "detections[1] has no 'category_id'"),
    ([ROW, 3], "detections[1]"),
    ([ROW | {"image_id": 99}], "image_id 99"),
    ([ROW | {"image_id": [1]}], "image_id [1]"),
    ([ROW | {"category_id": 0}], "category_id 0"),
    ([ROW, ROW | {"bbox": [1, 2, 3]}], "detections[1]: bbox [1, 2, 3]"),
    ([ROW | {"bbox": "1234"}], "bbox '1234'"),
    ([ROW | {"score": NAN}], "score nan"),
    ([ROW | {"score": None}], "score None"),
]
WRONG_TRUTH = [
    ([], "found []"),
    ({key: TRUTH[key] for key in ("images", "categories")}, '"annotations" is missing'),
    (TRUTH | {"categories": [{"id": CAT}]}, "categories[0] has no 'name'"),
    (TRUTH | {"annotations": [{**ANNOTATION, "bbox": [0, 0, NAN, 1]}]}, "annotations[0]: bbox"),
    (TRUTH | {"annotations": [{**ANNOTATION, "iscrowd": 2}]}, "iscrowd 2, expected 0 or 1"),
]


@pytest.mark.parametrize(("results", "fragment"), WRONG_RESULTS)
def test_results_that_do_not_fit_are_named(tmp_path, results, fragment):
    paths = save(tmp_path, TRUTH, results)
    with pytest.raises(UserError) as error:
        write_report(*paths, tmp_path / "out")
    assert str(paths[2]) in str(error.value)
    assert fragment in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("truth", "fragment"), WRONG_TRUTH)
def test_annotations_that_are_no_ground_truth_are_named(tmp_path, truth, fragment):
    paths = save(tmp_path, TRUTH, [])
    paths[0].write_text(json.dumps(truth))
    with pytest.raises(UserError) as error:
        write_report(*paths, tmp_path / "out")
    assert str(paths[0]) in str(error.value)
    assert fragment in str(error.value)


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("content", [None, b"", b"[[", b"\xff\xfe\x00"])
def test_a_file_that_is_absent_or_no_json_is_named(tmp_path, which, content):
    paths = save(tmp_path, TRUTH, [])
    paths[which].unlink() if content is None else paths[which].write_bytes(content)
    with pytest.raises(UserError, match=paths[which].name):
        write_report(*paths, tmp_path / "out")


def test_an_absent_image_folder_is_named(tmp_path):
    truth, _, results = save(tmp_path, TRUTH, [])
    with pytest.raises(UserError, match="elsewhere"):
        write_report(truth, tmp_path / "elsewhere", results, tmp_path / "out")


@pytest.mark.parametrize(
    "option", [{"gallery": -1}, {"gallery": 1000}, {"paper": {"APx": 1}}, {"paper": {"AP": "1"}}]
)
def test_an_option_out_of_its_range_is_a_usage_error(tmp_path, option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} .*expected"):
        write_report(*save(tmp_path, TRUTH, []), tmp_path / "out", **option)


def test_the_tool_says_in_one_line_what_is_missing(tmp_path):
    done = run_tool("report.py", "--json", tmp_path / "a.json", "--output", tmp_path)
    assert_refused(done, "--images", "--results")
    assert done.returncode == 2
    assert_refused(run_tool("report.py", tmp_path), "config.yaml", str(tmp_path))
