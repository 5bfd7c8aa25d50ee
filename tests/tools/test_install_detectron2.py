"""The pure-Python detectron2 against the sdist it is made of, built, installed and used for real.

pip downloads the sdist once; the rest is offline. Whatever detectron2 this environment has is kept
out of the way: the one under test comes first on PYTHONPATH or lives in a virtual environment.
"""

import base64
import csv
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from conftest import REPO, assert_refused

pytestmark = pytest.mark.slow_suite
TOOL = REPO / "tools" / "install_detectron2.py"
INFO = "detectron2-0.6.dist-info/"

# What of the package cannot be imported: pycocotools takes the place of the first, and the others
# are the export to caffe2, which no torch has any more.
CAFFE2 = {"api", "c10", "shared"}
CAFFE2 |= {f"caffe2_{name}" for name in ("export", "inference", "modeling", "patch")}
NO_IMPORT = {"detectron2.evaluation.fast_eval_api"} | {f"detectron2.export.{x}" for x in CAFFE2}
# As upstream, this project needs panopticapi, which is not on the package index.
PANOPTIC = "detectron2.projects.panoptic_deeplab"


def run(*args, python=sys.executable, path="", **env) -> subprocess.CompletedProcess:
    """A fresh Python process with `path` as its PYTHONPATH."""
    env = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore", **env}
    command = [str(arg) for arg in (python, *args)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=env)


def answer(code: str, path: Path):
    """What `code`, which fills in `answer`, finds with the detectron2 of `path`."""
    done = run("-c", f"import json\nanswer = {{}}\n{code}\nprint(json.dumps(answer))", path=path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def installer():
    spec = importlib.util.spec_from_file_location("install_detectron2", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sdist(installer, tmp_path_factory):
    return installer.download(tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def built(sdist, tmp_path_factory):
    """The command that built the wheel, and the wheel's folder."""
    folder = tmp_path_factory.mktemp("wheels") / "new"
    done = run(TOOL, "--sdist", sdist, "--wheel-dir", folder)
    assert done.returncode == 0, done.stderr
    return done, folder


@pytest.fixture(scope="module")
def wheel(built):
    (file,) = built[1].iterdir()
    return file


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def originals(sdist):
    with tarfile.open(sdist) as archive:
        files = [member for member in archive if member.isfile()]
        return {file.name.split("/", 1)[1]: archive.extractfile(file).read() for file in files}


@pytest.fixture(scope="module")
def target(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    done = run("-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of a new virtual environment, with nothing in it, not even pip."""
    folder = tmp_path_factory.mktemp("bare")
    assert run("-m", "venv", "--without-pip", folder).returncode == 0
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


# --- Building


def test_another_sdist_is_refused(installer, sdist, tmp_path):
    other = tmp_path / "other.tar.gz"
    other.write_bytes(sdist.read_bytes() + b"\0")
    done = run(TOOL, "--sdist", other, "--wheel-dir", tmp_path / "wheels")
    assert_refused(done, hashlib.sha256(other.read_bytes()).hexdigest(), installer.SDIST_SHA256)
    assert done.returncode == 1
    assert not (tmp_path / "wheels").exists()


@pytest.mark.parametrize(
    "file, count, old, found",
    [
        ("detectron2/data/build.py", 1, "np.no_such_alias", 0),
        ("detectron2/data/build.py", 1, "dtype=np.int", 2),
        ("detectron2/no_such_file.py", 1, "np.int", 0),
    ],
)
def test_an_edit_that_does_not_fit_fails_and_leaves_no_wheel(
    installer, sdist, tmp_path, file, count, old, found
):
    edits = (*installer.EDITS[1:], installer.Edit(file, count, old, "new", "a test"))
    with pytest.raises(installer.Failure) as failure:
        installer.build_wheel(sdist, tmp_path, edits)
    assert str(failure.value) == f"edit of {file}: expected {count} x {old!r}, found {found}"
    assert list(tmp_path.iterdir()) == []


def test_every_edit_is_reported(installer, built):
    done, folder = built
    lines = done.stdout.splitlines()
    assert len(lines) == len(installer.EDITS) + 1
    for line, edit in zip(lines, installer.EDITS, strict=False):
        assert line.endswith(f": {edit.file}: {edit.why}")
    assert lines[-1] == f"built {folder / installer.WHEEL}"


def test_a_second_build_has_the_same_bytes(installer, sdist, wheel, tmp_path):
    assert installer.build_wheel(sdist, tmp_path).read_bytes() == wheel.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [installer.WHEEL]


def test_only_the_edited_files_differ_from_the_sdist(installer, contents, originals):
    package = {
        re.sub(r"^projects/[\w-]+/", "detectron2/projects/", name): data
        for name, data in originals.items()
        if name.startswith(("detectron2/", "projects/"))
    }
    edited = {edit.file for edit in installer.EDITS}
    assert edited <= package.keys()
    in_wheel = {name for name in contents if not name.startswith(INFO)}
    assert in_wheel == package.keys() | {installer.STAND_IN}
    assert {name for name in package if contents[name] != package[name]} == edited
    for name in edited:
        compile(contents[name], name, "exec")
        assert contents[name].splitlines()[-1].startswith(b"# Changed from official detectron2")


# --- What is in the wheel


def test_record_lists_every_file_with_its_hash(contents):
    rows = list(csv.reader(contents[INFO + "RECORD"].decode().splitlines()))
    assert sorted(name for name, _, _ in rows) == sorted(contents)
    for name, digest, size in rows:
        if name == INFO + "RECORD":
            assert digest == size == ""
            continue
        sha256 = base64.urlsafe_b64encode(hashlib.sha256(contents[name]).digest())
        assert digest == "sha256=" + sha256.decode().rstrip("=")
        assert int(size) == len(contents[name])


def test_metadata_and_licence(installer, contents, originals, target):
    assert contents[INFO + "LICENSE"] == originals["LICENSE"]
    distribution = PathDistribution(target / INFO)
    assert (distribution.name, distribution.version) == ("detectron2", "0.6")
    assert distribution.metadata["License"] == "Apache-2.0"
    assert distribution.metadata["Requires-Python"] == ">=3.10"
    assert f"{len(installer.EDITS)} edits" in distribution.metadata["Summary"]
    assert {"fvcore>=0.1.5,<0.1.6", "iopath>=0.1.7,<0.1.10"} <= set(distribution.requires)
    assert all(file.locate().is_file() for file in distribution.files)


# --- What it does when installed


def test_an_absent_op_says_so_when_used_and_not_before(target):
    code = """
import torch
from detectron2 import _C
from detectron2.layers import DeformConv, ROIAlignRotated, nms_rotated
from detectron2.layers.deform_conv import deform_conv
from detectron2.structures import RotatedBoxes, pairwise_iou_rotated
from detectron2.utils.collect_env import collect_env_info
from torch._subclasses import FakeTensorMode

def on_cuda():
    with FakeTensorMode():  # shapes and devices without memory, so no GPU is needed
        pixels, offsets, weights = (
            torch.empty(size, device="cuda") for size in ((1, 2, 8, 8), (1, 18, 8, 8), (2, 2, 3, 3))
        )
        deform_conv(pixels, offsets, weights, 1, 1)

boxes = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]])
align = ROIAlignRotated((2, 2), 1.0, 0)
for op, use in {
    "box_iou_rotated": lambda: pairwise_iou_rotated(RotatedBoxes(boxes), RotatedBoxes(boxes)),
    "nms_rotated": lambda: nms_rotated(boxes, torch.ones(1), 0.5),
    "roi_align_rotated_forward": lambda: align(torch.ones(1, 1, 9, 9), torch.ones(1, 6)),
    "deform_conv_forward": on_cuda,
    "no_such_op": lambda: __import__("detectron2._C", fromlist=["no_such_op"]).no_such_op,
}.items():
    try:
        use()
    except ImportError as error:
        answer[op] = str(error)

# On the CPU v0.6 takes torchvision's operation, compiled or not.
pixels, offsets = torch.ones(1, 2, 8, 8), torch.zeros(1, 18, 8, 8)
answer["on the CPU"] = list(DeformConv(2, 3, 3, padding=1)(pixels, offsets).shape)
answer["environment"] = collect_env_info()
answer["dunders"] = [hasattr(_C, name) for name in ("__file__", "__spec__", "__path__", "__all__")]
"""
    found = answer(code, target)
    assert found.pop("on the CPU") == [1, 3, 8, 8]
    assert "this is the pure-Python build" in found.pop("environment")
    assert found.pop("dunders") == [True, True, False, False]
    assert len(found) == 5
    for op, message in found.items():
        assert f"detectron2._C.{op} is a compiled op" in message
        assert "pure-Python build" in message
        assert "git+https://github.com/facebookresearch/detectron2" in message


def test_every_module_imports_but_those_for_compiled_ops_and_caffe2(target):
    code = """
import importlib, pkgutil
import detectron2

answer["path"] = detectron2.__file__
answer["failed"] = {}
walked = pkgutil.walk_packages(detectron2.__path__, "detectron2.", onerror=lambda name: None)
for module in walked:
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        answer["failed"][module.name] = str(error)
"""
    found = answer(code, target)
    assert Path(found["path"]).parents[1] == target
    without = {name for name, why in found["failed"].items() if "'panopticapi'" in why}
    assert all(name.startswith(PANOPTIC) for name in without)
    assert found["failed"].keys() - without == NO_IMPORT


def test_coco_evaluation_falls_back_to_pycocotools(target, tmp_path):
    code = f"""
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.structures import Boxes, Instances
from pycocotools.cocoeval import COCOeval

answer["fallback"] = coco_evaluation.COCOeval_opt is COCOeval
box = dict(id=1, image_id=7, category_id=3, bbox=[10, 20, 30, 40], area=1200, iscrowd=0)
images = [dict(id=7, file_name="7.jpg", width=90, height=80)]
categories = [dict(id=3, name="digit")]
with open({str(tmp_path / "boxes.json")!r}, "w") as file:
    json.dump(dict(images=images, annotations=[box], categories=categories, info={{}}), file)
register_coco_instances("one_box", {{}}, file.name, "")
DatasetCatalog.get("one_box")  # this is what tells the evaluator that class 0 is category 3
found = Instances((80, 90), pred_boxes=Boxes(torch.tensor([[10.0, 20.0, 40.0, 60.0]])))
found.scores, found.pred_classes = torch.ones(1), torch.zeros(1, dtype=torch.int64)
evaluator = COCOEvaluator("one_box", ("bbox",), distributed=False)
evaluator.reset()
evaluator.process([dict(image_id=7)], [dict(instances=found)])
answer["AP"] = evaluator.evaluate()["bbox"]["AP"]
"""
    assert answer(code, target) == {"fallback": True, "AP": pytest.approx(100)}


def test_the_edited_code_and_the_projects_run(target):
    """Of the projects what Mask2Former and MaskFormer import, and a head."""
    code = """
import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.data import DatasetFromList, MapDataset, transforms
from detectron2.data.build import print_instances_class_histogram
from detectron2.engine.hooks import LRScheduler
from detectron2.structures.masks import polygons_to_bitmask

config = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
answer["config"] = config.MODEL.BACKBONE.NAME
print_instances_class_histogram([dict(annotations=[dict(category_id=0)])], ["digit"])
answer["mask"] = str(polygons_to_bitmask([np.array([1, 1, 3, 1, 3, 3])], 5, 5).dtype)
extent = transforms.ExtentTransform((0, 0, 4, 4), (2, 2))
answer["extent"] = extent.apply_image(np.ones((4, 4, 3), np.uint8)).shape
# The mapper refuses 0, so the dataset must draw another one of those it has mapped.
mapped = MapDataset(DatasetFromList([0, 1]), lambda x: x or None)
answer["drawn"] = [mapped[1], mapped[0]]
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
hook = LRScheduler(scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 3))
answer["saved"] = hook.state_dict().get("step_size")

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects import deeplab, point_rend
from detectron2.projects.deeplab import add_deeplab_config, build_lr_scheduler
from detectron2.projects.point_rend import ColorAugSSDTransform, add_pointrend_config
from detectron2.projects.point_rend.point_features import get_uncertain_point_coords_with_randomness

cfg = get_cfg()
add_deeplab_config(cfg)
add_pointrend_config(cfg)
cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
answer["scheduler"] = type(build_lr_scheduler(cfg, optimizer)).__name__
coordinates = get_uncertain_point_coords_with_randomness(
    torch.randn(2, 1, 8, 8), lambda logits: -logits.abs(), 5, 3, 0.75
)
answer["points"] = list(coordinates.shape)
cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res5"]
cfg.MODEL.SEM_SEG_HEAD.PROJECT_FEATURES = ["res2"]
cfg.MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS = [8]
cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
cfg.INPUT.CROP.ENABLED = False
shapes = {"res2": ShapeSpec(channels=8, stride=4), "res5": ShapeSpec(channels=16, stride=16)}
head = SEM_SEG_HEADS_REGISTRY.get("DeepLabV3PlusHead")(cfg, shapes).eval()
features = {"res2": torch.randn(1, 8, 32, 32), "res5": torch.randn(1, 16, 8, 8)}
answer["semantic"] = list(head(features)[0].shape)
"""
    assert answer(code, target) == {
        "config": "build_resnet_fpn_backbone",
        "mask": "bool",
        "extent": [2, 2, 3],
        "drawn": [1, 1],
        "saved": 3,
        "scheduler": "WarmupPolyLR",
        "points": [2, 5, 2],
        "semantic": [1, 5, 128, 128],
    }


# --- Installing


def test_an_installed_detectron2_is_left_alone(target):
    places = (target, Path(sysconfig.get_path("purelib")))
    before = [sorted(os.listdir(place)) for place in places]
    done = run(TOOL, path=target, PIP_NO_INDEX="1")
    assert done.returncode == 0, done.stderr
    said = f"left alone: detectron2 0.6 at {target / 'detectron2'}, without compiled ops\n"
    assert done.stdout == said
    assert [sorted(os.listdir(place)) for place in places] == before


def test_a_broken_detectron2_is_not_replaced(tmp_path):
    package = tmp_path / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_module")
    assert_refused(run(TOOL, path=tmp_path), "no_such_module", "pip uninstall detectron2")


def test_missing_torch_is_named_with_the_command(bare):
    assert_refused(run(TOOL, python=bare), "pip install torch torchvision")


@pytest.mark.parametrize(
    "arguments", [["--sdist", "no_such_file"], ["--constraint", "c", "--wheel-dir", "w"], ["x"]]
)
def test_wrong_usage_exits_with_2(arguments):
    done = run(TOOL, *arguments)
    assert (done.returncode, done.stdout) == (2, "")


def test_it_installs_into_a_new_environment_and_uninstalls_without_a_trace(bare, sdist, tmp_path):
    # This environment's packages, but for its detectron2.
    packages = tmp_path / "packages"
    packages.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if not entry.name.startswith(("detectron2", "__")) and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    # OpenCV does not import through a symbolic link, hence v0.6's own switch to do without it.
    where = {"python": bare, "path": packages, "DETECTRON2_DISABLE_CV2": "1"}
    done = run(TOOL, "--sdist", sdist, **where, PIP_NO_INDEX="1", PIP_NO_DEPS="1")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("installed: detectron2 0.6 at ")
    assert str(bare.parents[1]) in last

    done = run("-m", "pip", "uninstall", "--yes", "detectron2", **where)
    assert done.returncode == 0, done.stderr
    assert not list(bare.parents[1].rglob("*detectron2*"))
