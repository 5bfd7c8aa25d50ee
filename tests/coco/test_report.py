"""The report of an evaluation: what it counts is right, and its page can be read anywhere."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from coco_helpers import BOX, CAT, DOG, FAR, OFF, make_results, make_truth, random_evaluation, save
from conftest import run_tool
from PIL import Image

from randwire_det.coco.report import write_report
from randwire_det.coco.report.evaluation import evaluate
from randwire_det.coco.report.gallery import choose
from randwire_det.coco.report.matches import match
from randwire_det.coco.report.tide import KINDS, break_down

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
VOID = ("meta", "link", "img", "br", "hr", "input")


def errors_of(truth, results):
    return break_down(match(evaluate(truth, results)))


# A cat at BOX and what was detected: the one error, and the AP50 that correcting it gains.
SINGLE = {
    "classification": ([(1, DOG, BOX, 0.9)], 100),
    "localisation": ([(1, CAT, OFF, 0.9)], 100),
    "both": ([(1, DOG, OFF, 0.9), (1, CAT, BOX, 0.8)], 0),  # an error of a class without objects
    "duplicate": ([(1, CAT, BOX, 0.9), (1, CAT, BOX, 0.8)], 0),  # below the right one
    "background": ([(1, CAT, FAR, 0.9), (1, CAT, BOX, 0.8)], 50),
    "missed": ([], 100),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_is_distinguished_and_costs_what_it_costs(kind):
    detections, gain = SINGLE[kind]
    errors = errors_of(make_truth((1, CAT, BOX)), make_results(*detections))
    assert errors.counts == {name: int(name == kind) for name in KINDS}
    assert errors.gains[kind] == pytest.approx(gain)
    assert sum(errors.gains.values()) == pytest.approx(gain)  # no other kind gains


def test_of_two_detections_of_one_object_only_the_better_is_mended():
    truth = make_truth((1, CAT, BOX), (1, CAT, FAR))
    errors = errors_of(truth, make_results((1, CAT, OFF, 0.9), (1, CAT, [21, 10, 20, 20], 0.8)))
    assert errors.counts["localisation"] == 2
    assert errors.counts["missed"] == 1
    assert errors.gains["localisation"] == pytest.approx(100 * 51 / 101)  # recall 1/2, precision 1


def test_a_detection_meant_for_an_object_found_already_is_mended_by_going():
    detections = make_results((1, CAT, OFF, 0.9), (1, CAT, BOX, 0.8))
    errors = errors_of(make_truth((1, CAT, BOX)), detections)
    assert errors.counts["localisation"] == 1
    assert errors.gains["localisation"] == pytest.approx(50)


def test_what_lies_in_a_crowd_region_is_no_error_and_a_crowd_is_not_missed():
    truth = make_truth((1, CAT, BOX), (1, CAT, [50, 40, 50, 40], True))
    detections = [(1, CAT, BOX, 0.5), (1, CAT, FAR, 0.9), (1, CAT, FAR, 0.8)]
    errors = errors_of(truth, make_results(*detections))
    assert not any(errors.counts.values())
    assert errors.ap50 == pytest.approx(100)


@pytest.mark.parametrize("seed", range(5))
def test_ap50_is_cocoevals_and_no_mending_lowers_it(seed):
    coco_eval = evaluate(*random_evaluation(seed))
    errors = break_down(match(coco_eval))
    assert errors.ap50 / 100 == pytest.approx(coco_eval.stats[1], abs=1e-6)
    assert min(errors.gains.values()) > -1e-9
    assert errors.counts["localisation"] and errors.counts["classification"]


@pytest.mark.parametrize("seed", range(5))
def test_every_wrong_detection_is_of_one_kind(seed):
    matches = match(evaluate(*random_evaluation(seed)))
    errors = break_down(matches)
    wrong = ~matches.correct & ~matches.ignored
    assert ((errors.kind >= 0) == wrong).all()
    assert sum(errors.counts.values()) - errors.counts["missed"] == wrong.sum()


def test_the_gallery_ranks_by_f1_of_the_detections_worth_showing():
    truth = make_truth((1, CAT, BOX), (2, CAT, BOX), (2, CAT, FAR), (3, CAT, BOX), images=4)
    results = make_results(
        (1, CAT, BOX, 0.9), (2, CAT, BOX, 0.9), (3, CAT, BOX, 0.4), (3, DOG, FAR, 0.6)
    )
    worst, best = choose(match(evaluate(truth, results)), 8)
    assert [picture.name for picture in worst] == ["3.png", "2.png"]
    assert [picture.name for picture in best] == ["1.png"]  # 4.png has nothing to be judged by
    assert (worst[0].found, worst[0].wrong, worst[0].missed) == (0, 1, 1)
    assert worst[1].f1 == pytest.approx(2 / 3)
    (only,), (other,) = choose(match(evaluate(truth, results)), 1)
    assert (only.name, other.name) == ("3.png", "1.png")


class Page(HTMLParser):
    """Reads a page and fails on tags that do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("script", "iframe", "link")
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "img":
            assert attrs["alt"]
            self.images.append(attrs["src"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def report_of(folder, truth, results, **options):
    report = write_report(*save(folder, truth, results), folder / "out", **options)
    return Page(report.read_text(encoding="utf-8")), json.loads(
        (folder / "out/report.json").read_text(encoding="utf-8")
    )


def decoded(source):
    head, data = source.split(",")
    assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return image.convert("RGB")


def test_the_page_holds_all_it_shows_and_escapes_what_users_name(tmp_path):
    truth, results = random_evaluation(0)
    truth["categories"][0]["name"] = name = "<b>cat & 'co'\""
    page, numbers = report_of(
        tmp_path, truth, results, title="<i>mine</i>", gallery=2, paper={"AP": 39.9}
    )
    assert page.links == page.images  # nothing else is pointed at
    assert len(page.images) == 2 + 2 * 4
    for source in page.images:
        assert min(decoded(source).size) > 200
    for text in (name, "<i>mine</i>", "paper", "39.9"):
        assert text in page.text
    for chart in ("errors.png", "precision_recall.png"):
        with Image.open(tmp_path / "out" / chart) as image:
            assert min(image.size) > 200
    stats = evaluate(truth, results).stats
    for value, stat in zip(numbers["row"].values(), stats[:6], strict=True):
        assert value == (None if stat == -1 else pytest.approx(100 * stat))
    assert f"{100 * stats[1]:.1f}" in page.text
    aps = [row["AP"] for row in numbers["classes"]]
    assert np.mean(aps) == pytest.approx(numbers["row"]["AP"])
    assert aps == sorted(aps, reverse=True)
    for iou, metric in (("0.5", "AP50"), ("0.75", "AP75")):
        area = 100 * np.mean(numbers["curves"][iou])
        assert area == pytest.approx(numbers["row"][metric])


def test_sixteen_images_of_noise_stay_below_ten_megabytes(tmp_path):
    truth, results = make_truth(*((i, CAT, BOX) for i in range(1, 17)), images=16), []
    for row in truth["images"]:
        row.update(width=640, height=640)
    paths = save(tmp_path, truth, results)
    noise = np.random.default_rng(0).integers(0, 256, (640, 640, 3), dtype=np.uint8)
    for row in truth["images"]:
        Image.fromarray(noise).save(paths[1] / row["file_name"])
    assert write_report(*paths, tmp_path / "out").stat().st_size < 10e6


@pytest.mark.parametrize(
    ("truth", "results", "missed"),
    [
        (make_truth((1, CAT, BOX), (1, CAT, BOX, True)), [], 100),
        (make_truth(), make_results((1, CAT, BOX, 0.9)), None),
        (make_truth((1, CAT, BOX, True)), make_results((1, CAT, BOX, 0.9)), None),
        (make_truth(), [], None),
        (make_truth(images=0), [], None),
        ({"images": [], "categories": [], "annotations": []}, [], None),
    ],
    ids=["no detections", "no objects", "only a crowd", "nothing found", "no images", "no classes"],
)
def test_nothing_found_and_nothing_there_are_reported_too(tmp_path, truth, results, missed):
    page, numbers = report_of(tmp_path, truth, results)
    assert numbers["row"]["AP50"] == (None if missed is None else 0)
    assert numbers["errors"]["missed"]["gain"] == missed
    assert len(page.images) >= 2
    assert "nan" not in page.text.lower()


def test_an_absent_or_broken_image_is_a_grey_box(tmp_path):
    truth = make_truth((1, CAT, BOX), (2, CAT, BOX), (3, CAT, BOX), images=3)
    paths = save(tmp_path, truth, [])
    (paths[1] / "1.png").unlink()
    whole = (paths[1] / "2.png").read_bytes()
    (paths[1] / "2.png").write_bytes(whole[: len(whole) // 2])
    page = Page(write_report(*paths, tmp_path / "out").read_text(encoding="utf-8"))
    pictures = [decoded(source) for source in page.images[2:]]
    greens = [np.ptp(picture.getpixel((470, 370))) > 20 for picture in pictures]
    assert sum(greens) == 2  # the third image is drawn twice
    assert len(greens) == 6


def test_boxes_follow_the_size_that_annotations_refer_to(tmp_path):
    paths = save(tmp_path, make_truth((1, CAT, FAR)), [])
    Image.new("RGB", (50, 40), "white").save(paths[1] / "1.png")  # half the size the JSON states
    page = Page(write_report(*paths, tmp_path / "out").read_text(encoding="utf-8"))
    objects, detections = (np.asarray(decoded(source)).astype(int) for source in page.images[2:])
    rows, columns = np.nonzero(np.abs(objects - detections).sum(2) > 100)
    scale = objects.shape[1] / 100
    assert columns.min() / scale == pytest.approx(60, abs=1)
    assert rows.max() / scale == pytest.approx(80, abs=1)


def test_the_tool_takes_files_or_the_folder_of_a_run(tmp_path):
    truth, results = random_evaluation(0)
    paths = save(tmp_path, truth, results)
    options = zip(("--json", "--images", "--results"), paths, strict=True)
    given = [word for pair in options for word in pair]
    done = run_tool("report.py", *given, "--output", tmp_path / "one", "--gallery", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "one/report.html")

    run = tmp_path / "run"
    (run / "inference").mkdir(parents=True)
    shutil.copy(paths[2], run / "inference/coco_instances_results.json")
    (run / "config.yaml").write_text(
        "DATASETS:\n  TEST: [mine]\n  COCO: [[mine, truth.json, images]]\nVERSION: 2\n"
    )
    done = run_tool("report.py", run, env={"DETECTRON2_DATASETS": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        json.loads((folder / "report.json").read_text())["row"]
        for folder in (run / "report", tmp_path / "one")
    )
    assert ours == theirs


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1200])
def test_a_browser_shows_every_picture_and_nothing_sticks_out(tmp_path, width):
    truth, results = random_evaluation(0)
    truth["categories"][0]["name"] = "a class of a " + "l" * 60 + "ong name"
    report = write_report(*save(tmp_path, truth, results), tmp_path / "out", gallery=2)
    probe = """<script>addEventListener("load", () => { const page = document.documentElement
    document.title = ["probe", page.scrollWidth - page.clientWidth,
      [...document.images].filter(image => image.naturalWidth).length].join(" ") })</script>"""
    report.write_text(report.read_text(encoding="utf-8") + probe, encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-quic --disable-sync"
    quiet = "--disable-background-networking --disable-component-update --dump-dom"
    window = [f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [BROWSER, *options.split(), *quiet.split(), *window, report.as_uri()],
        capture_output=True,
        encoding="utf-8",
    )
    assert "<title>probe 0 10</title>" in done.stdout, done.stderr
