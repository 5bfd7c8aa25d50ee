"""Data sets of other formats as COCO annotations, by the tool's own command."""

import json
import re
import shlex

import pytest
from conftest import assert_refused, run_tool
from PIL import Image

TOOL = "import_dataset.py"
SIZES = {"one": (60, 40), "two": (50, 70), "three": (64, 64)}
# Of the pictures: class and box (left, top, right, bottom), the same in all formats.
OBJECTS = {
    "one": [("cat", (4, 6, 20, 30)), ("dog", (10, 10, 60, 40))],
    "two": [("dog", (0, 0, 50, 35))],
    "three": [],
}


def pictures(folder, names=SIZES):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", SIZES[name]).save(folder / f"{name}.png")


def voc_xml(objects):
    """Pixels count from 1, and the last one belongs to the box."""
    boxes = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in objects
    )
    return f"<annotation>{boxes}</annotation>"


def voc(root):
    pictures(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, objects in OBJECTS.items():
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(objects))
    (root / "ImageSets" / "Main" / "train.txt").write_text("one\nthree\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("two\n")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("one\ntwo\nthree\n")


def roboflow_voc(root):
    for split, names in (("train", ("one", "three")), ("valid", ("two",))):
        pictures(root / split, names)
        for name in names:
            (root / split / f"{name}.xml").write_text(voc_xml(OBJECTS[name]))


def yolo_lines(name):
    width, height = SIZES[name]
    return "".join(
        f"{('cat', 'dog').index(label)} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height}"
        f" {(x1 - x0) / width} {(y1 - y0) / height}\n"
        for label, (x0, y0, x1, y1) in OBJECTS[name]
    )


def yolo(root, train="images/train", val="images/val", written="{}"):
    for at, names in ((train, ("one", "three")), (val, ("two",))):
        pictures(root / at, names)
        labels = root / at.replace("images", "labels")
        labels.mkdir(parents=True)
        for name in names:
            if OBJECTS[name]:
                (labels / f"{name}.txt").write_text(yolo_lines(name))
    (root / "data.yaml").write_text(
        f"train: {written.format(train)}\nval: {written.format(val)}\ntest: ../test/images\n"
        "names: [cat, dog]\n"
    )


def roboflow_yolo(root):
    yolo(root, "train/images", "valid/images", "../{}")


def labelme(root):
    for split, names in (("train", ("one", "three")), ("val", ("two",))):
        pictures(root / split, names)
        for name in names:
            shapes = [
                {"label": label, "shape_type": "rectangle", "points": [[x0, y0], [x1, y1]]}
                for label, (x0, y0, x1, y1) in OBJECTS[name]
            ]
            width, height = SIZES[name]
            content = {"imagePath": f"{name}.png", "shapes": shapes}
            content |= {"imageWidth": width, "imageHeight": height}
            (root / split / f"{name}.json").write_text(json.dumps(content))


def roboflow_coco(root):
    """With the class 0 that Roboflow adds as the parent of the others."""
    labels = ("animals", "cat", "dog")
    for split, names in (("train", ("one", "three")), ("valid", ("two",))):
        pictures(root / split, names)
        images = [
            {"id": n, "file_name": f"{name}.png", "width": SIZES[name][0], "height": SIZES[name][1]}
            for n, name in enumerate(names)
        ]
        found = [
            (n, labels.index(label), [x0, y0, x1 - x0, y1 - y0])
            for n, name in enumerate(names)
            for label, (x0, y0, x1, y1) in OBJECTS[name]
        ]
        annotations = [
            {"id": n, "image_id": image, "category_id": c, "bbox": b, "area": b[2] * b[3]}
            for n, (image, c, b) in enumerate(found)
        ]
        categories = [
            {"id": n, "name": name, "supercategory": "none" if n == 0 else labels[0]}
            for n, name in enumerate(labels)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def coco(root):
    """COCO's own layout; "cat" has the name of its supercategory, as COCO's person."""
    roboflow_coco(root)
    (root / "annotations").mkdir()
    (root / "annotations" / "captions_train2017.json").write_text("{}")
    for split, name in (("train", "train2017"), ("valid", "val2017")):
        (root / split).rename(root / name)
        path = root / name / "_annotations.coco.json"
        content = json.loads(path.read_text())
        path.unlink()
        del content["categories"][0]
        content["categories"][0]["supercategory"] = "cat"
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def convert(root, *options):
    done = run_tool(TOOL, "--source", root, "--output", root.parent / "out", *options)
    assert done.returncode == 0, done.stderr
    return done


def read(folder, split):
    """{picture's file name: its objects as (class, box)}."""
    content = json.loads((folder / f"{split}.json").read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    found = {image["file_name"]: [] for image in content["images"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for each in content["annotations"]:
        x, y, width, height = each["bbox"]
        box = tuple(round(value, 3) for value in (x, y, x + width, y + height))
        found[files[each["image_id"]]].append((names[each["category_id"]], box))
    return found


@pytest.mark.parametrize(
    "write",
    [voc, roboflow_voc, yolo, roboflow_yolo, labelme, roboflow_coco, coco],
    ids=lambda w: w.__name__,
)
def test_every_format_gives_the_same_objects(tmp_path, write):
    write(tmp_path / "set")
    convert(tmp_path / "set")
    for split, names in (("train", {"one", "three"}), ("val", {"two"})):
        found = read(tmp_path / "out", split)
        assert {path.rpartition("/")[2]: each for path, each in found.items()} == {
            f"{name}.png": OBJECTS[name] for name in names
        }
    classes = json.loads((tmp_path / "out" / "val.json").read_text())["categories"]
    assert [each["name"] for each in classes] == ["cat", "dog"]  # though val has no cat


def test_what_it_prints_is_what_the_check_takes(tmp_path):
    """The keys, as a shell would read them, name files that check_dataset finds no fault with."""
    voc(tmp_path / "set")
    done = convert(tmp_path / "set")
    keys, after = done.stdout.split("to train on it: ")[1].split("\n", 1)
    command = re.search("python tools/(check_dataset.py .*) and these keys", after)[1]
    checked = run_tool(*shlex.split(command), *shlex.split(keys))
    assert checked.returncode == 0, checked.stderr
    assert "images 2, annotations 2, categories 2" in checked.stdout


def test_single_files_of_coco_are_merged_as_well(tmp_path):
    coco(tmp_path / "set")
    for name in ("train2017", "val2017"):
        path = tmp_path / "set" / "annotations" / f"instances_{name}.json"
        path.rename(tmp_path / "set" / f"{name}.json")
    files = [tmp_path / "set" / f"{name}.json" for name in ("train2017", "val2017")]
    convert(files[0], "--source", files[1], "--output", tmp_path / "out")
    pictures_found = read(tmp_path / "out", "train")
    assert pictures_found.keys() == {"train2017/one.png", "train2017/three.png"}
    (tmp_path / "set/train2017/one.png").unlink()
    done = run_tool(TOOL, "--source", files[0], "--output", tmp_path / "again")
    assert_refused(done, "its first picture, 'one.png', is in none of")


def test_classes_of_several_sources_are_merged_by_name(tmp_path):
    voc(tmp_path / "first")
    pictures(tmp_path / "second" / "train", ["one"])
    (tmp_path / "second" / "train" / "one.xml").write_text(
        voc_xml([("bird", (1, 2, 30, 40)), ("dog", (3, 3, 9, 9))])
    )
    convert(tmp_path / "first", "--source", tmp_path / "second")
    found = read(tmp_path / "out", "train")
    assert found["second/train/one.png"] == [("bird", (1, 2, 30, 40)), ("dog", (3, 3, 9, 9))]
    assert found["first/JPEGImages/one.png"] == OBJECTS["one"]
    content = json.loads((tmp_path / "out" / "val.json").read_text())
    assert [each["name"] for each in content["categories"]] == ["cat", "dog", "bird"]


def test_classes_that_differ_by_a_space_are_reported(tmp_path):
    for name, written in (("first", "cat"), ("second", "Cat ")):
        voc(tmp_path / name)
        for file in (tmp_path / name).rglob("*.xml"):
            file.write_text(file.read_text().replace(">cat<", f">{written}<"))
    done = convert(
        tmp_path / "first", "--source", tmp_path / "second", "--output", tmp_path / "out"
    )
    assert "classes 'cat', 'Cat ' differ by spaces and capitals alone" in done.stderr
    done = convert(tmp_path / "first", "--output", tmp_path / "other")
    assert "differ" not in done.stderr


def test_a_share_of_the_pictures_is_drawn_for_validation(tmp_path):
    pictures(tmp_path / "set")
    for name, objects in OBJECTS.items():
        (tmp_path / "set" / f"{name}.xml").write_text(voc_xml(objects))
    convert(tmp_path / "set", "--val-share", 0.34)
    train, val = read(tmp_path / "out", "train"), read(tmp_path / "out", "val")
    assert (len(train), len(val)) == (2, 1)
    assert train | val == {f"{name}.png": each for name, each in OBJECTS.items()}


def test_a_mask_in_two_pieces_is_no_crowd(tmp_path):
    """A detector would not learn from it."""
    pictures(tmp_path / "set", ["one"])
    triangles = ([[2, 2], [12, 2], [2, 12]], [[30, 20], [40, 20], [40, 30]])
    shapes = [
        {"label": "cat", "shape_type": "polygon", "points": points, "group_id": 1}
        for points in triangles
    ]
    content = {"imagePath": "one.png", "shapes": shapes, "imageWidth": 60, "imageHeight": 40}
    (tmp_path / "set" / "one.json").write_text(json.dumps(content))
    convert(tmp_path / "set")
    (found,) = json.loads((tmp_path / "out" / "all.json").read_text())["annotations"]
    assert (found["iscrowd"], len(found["segmentation"])) == (0, 2)
    assert found["bbox"] == [2, 2, 38, 28]


def test_what_does_not_fit_is_reported(tmp_path):
    voc(tmp_path / "set")
    boxes = [("cat", (-5, 4, 20, 30)), ("dog", (70, 7, 80, 20))]
    (tmp_path / "set" / "Annotations" / "one.xml").write_text(voc_xml(boxes))
    (tmp_path / "set" / "Annotations" / "three.xml").unlink()
    (tmp_path / "set" / "JPEGImages" / "two.png").unlink()
    done = convert(tmp_path / "set")
    assert "1 boxes outside the picture are left out" in done.stderr
    assert "1 pictures without .xml count as empty, such as three" in done.stderr
    assert "1 .xml without a picture are left out, such as two" in done.stderr
    found = read(tmp_path / "out", "train")
    assert found == {"one.png": [("cat", (0, 4, 20, 30))], "three.png": []}


def test_of_files_side_by_side_it_is_reported_as_well(tmp_path):
    """A picture that is missing, in a data set without a list of its pictures."""
    pictures(tmp_path / "set", ["one"])
    (tmp_path / "set" / "one.xml").write_text(voc_xml(OBJECTS["one"]))
    (tmp_path / "set" / "two.xml").write_text(voc_xml(OBJECTS["two"]))
    done = convert(tmp_path / "set")
    assert "1 .xml without a picture are left out, such as two" in done.stderr
    assert read(tmp_path / "out", "all") == {"one.png": OBJECTS["one"]}
    assert "--val-share" in done.stdout


def test_nothing_is_trained_on_what_has_no_object(tmp_path):
    voc(tmp_path / "set")
    (tmp_path / "set" / "Annotations" / "two.xml").write_text(voc_xml([]))
    done = convert(tmp_path / "set")
    assert "without an object, so of no use for a training: val" in done.stdout
    assert "set_val" not in done.stdout and "('out_train',)" in done.stdout


@pytest.mark.parametrize(
    ("write", "file", "text"),
    [
        (voc, "Annotations/two.xml", "<annotation><object><name>dog</name></object></annotation>"),
        (voc, "Annotations/two.xml", "<annotation><obj"),
        (yolo, "labels/val/two.txt", "0 0.5 0.5 x 0.5\n"),
        (
            labelme,
            "val/two.json",
            '{"shapes": [{"shape_type": "polygon"}], "imagePath": "two.png"}',
        ),
        (roboflow_coco, "valid/_annotations.coco.json", '{"images": []}'),
    ],
)
def test_a_broken_file_is_named(tmp_path, write, file, text):
    write(tmp_path / "set")
    (tmp_path / "set" / file).write_text(text)
    done = run_tool(TOOL, "--source", tmp_path / "set", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert file.rpartition("/")[2] in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_refused(tmp_path):
    voc(tmp_path / "set")
    output = tmp_path / "out"
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo/data.yaml").write_text("names: [cat]\n")
    for status, options, words in (
        (1, ["--source", tmp_path / "absent"], "no such folder"),
        (
            1,
            ["--source", tmp_path / "set/Annotations/one.xml"],
            "one.xml: a file; expected the folder",
        ),
        (1, ["--source", tmp_path / "yolo"], "data.yaml: names no pictures; expected train:"),
        (1, ["--source", tmp_path / "set", "--format", "yolo"], "data.yaml"),
        (1, ["--source", tmp_path / "set", "--val-share", 0.2], "train, val"),
        (2, ["--source", tmp_path / "set", "--val-share", 1.2], "between 0 and 1"),
        (2, ["--source", tmp_path / "set", "--source", tmp_path / "set"], "given twice"),
    ):
        done = run_tool(TOOL, *options, "--output", output)
        assert done.returncode == status
        assert words in done.stderr.splitlines()[-1]
        assert not output.exists()
    convert(tmp_path / "set")
    again = run_tool(TOOL, "--source", tmp_path / "set", "--output", output)
    assert_refused(again, "train.json exists")
